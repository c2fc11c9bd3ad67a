//! Session descriptions (RFC 8866) and their offer and answer (RFC 3264).
//!
//! What real devices send is read as far as it has a meaning; what we write is strict. A call has
//! one audio stream, in the clear or protected, with ICE or without; every other stream is refused
//! in its place. [`Exchange`] is one side of a call's offers and answers.

mod agree;
mod crypto;
mod description;
mod exchange;
mod formats;
mod ice;
mod identity;
mod keying;
mod layout;
mod offer;

use std::net::SocketAddr;

use bytes::Bytes;

use crate::media::audio::Codec;
use crate::media::sdp::agree::Answerer;
use crate::media::sdp::agree::agree_on_answer;
use crate::media::sdp::crypto::Crypto;
use crate::media::sdp::description::Description;
use crate::media::sdp::description::Media;
use crate::media::sdp::layout::Ice;
use crate::media::sdp::layout::Layout;
use crate::media::sdp::layout::Rtcp;
use crate::media::sdp::layout::Stream;

pub use description::SdpError;
pub use exchange::Exchange;
pub use exchange::Opening;
pub use ice::Candidate;
pub use ice::CandidateKind;
pub use ice::IceCredentials;
pub use ice::IceMode;
pub use ice::IceParams;
pub use identity::LocalIdentity;
pub use keying::DtlsRole;
pub use keying::Fingerprint;
pub use keying::HashFunction;
pub use keying::Keying;
pub use keying::SrtpKey;
pub use keying::SrtpSuite;
pub use offer::offer;

/// The static payload type of comfort noise (RFC 3389 section 4).
const COMFORT_NOISE: u8 = 13;
const USUAL_PTIME_MS: u8 = 20;

/// Which way media flows, seen from us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Direction {
    /// Both ways.
    #[default]
    SendRecv,
    /// We send, the peer does not.
    SendOnly,
    /// The peer sends, we do not.
    RecvOnly,
    /// Nobody sends.
    Inactive,
}

impl Direction {
    /// Whether we send.
    pub const fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    /// Whether we receive.
    pub const fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }

    /// The same flow seen from the other side.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::SendOnly => Self::RecvOnly,
            Self::RecvOnly => Self::SendOnly,
            Self::SendRecv | Self::Inactive => self,
        }
    }

    const fn without_sending(self) -> Self {
        match self {
            Self::SendRecv | Self::RecvOnly => Self::RecvOnly,
            Self::SendOnly | Self::Inactive => Self::Inactive,
        }
    }

    /// The name of the attribute (RFC 8866 section 6.7).
    const fn attribute(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    fn from_attribute(name: &str) -> Option<Self> {
        [
            Self::SendRecv,
            Self::SendOnly,
            Self::RecvOnly,
            Self::Inactive,
        ]
        .into_iter()
        .find(|direction| direction.attribute().eq_ignore_ascii_case(name))
    }
}

/// What both sides agreed on for the audio stream of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaParams {
    /// Where to send audio. `None` while the peer has not told, or has put us on hold the old way
    /// (connection address 0.0.0.0). With ICE it is only where the peer would be without.
    pub remote: Option<SocketAddr>,
    /// Where to send RTCP; the same as `remote` with `rtcp_mux`. `None` with ICE or DTLS without
    /// `rtcp_mux`: they would take a second port.
    pub remote_rtcp: Option<SocketAddr>,
    /// Whether RTP and RTCP share a port (RFC 5761).
    pub rtcp_mux: bool,
    /// The voice codec, the same in both directions.
    pub codec: Codec,
    /// The payload type that carries `codec`, in both directions.
    pub payload_type: u8,
    /// The payload type of telephone-event digits (RFC 4733), if agreed on.
    pub telephone_event: Option<u8>,
    /// The clock of the digits' durations: 8000, or 48000 as it goes with Opus.
    pub telephone_event_clock: u32,
    /// The payload type of comfort noise (RFC 3389), if agreed on.
    pub comfort_noise: Option<u8>,
    /// Which way media flows, seen from us.
    pub direction: Direction,
    /// Milliseconds of audio the peer would like in a packet: a multiple of 10 from 10 to 60, and
    /// 20 unless it told otherwise.
    pub ptime_ms: u8,
    /// How the packets are protected.
    pub keying: Keying,
    /// How the two sides find each other, where both do ICE.
    pub ice: Option<IceParams>,
}

/// What we are willing to agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preferences {
    /// The codecs we take. Their order is that of our offers; in an answer the offer's order rules.
    pub codecs: Vec<Codec>,
    /// How we take part in ICE, where the peer does.
    pub ice: IceMode,
    /// Whether keys are taken out of descriptions (RFC 4568), which everybody on the path of the
    /// signalling can read.
    pub sdes: bool,
    /// Whether packets are protected where the peer offers that without asking for it (RFC 8643).
    pub opportunistic_srtp: bool,
    /// Whether packets in the clear are taken.
    pub plain_rtp: bool,
    /// What our own offers are like.
    pub offer: OfferKeying,
}

impl Default for Preferences {
    fn default() -> Self {
        Self {
            codecs: vec![Codec::Opus, Codec::G722, Codec::Pcma, Codec::Pcmu],
            ice: IceMode::Lite,
            sdes: false,
            opportunistic_srtp: false,
            plain_rtp: true,
            offer: OfferKeying::Plain,
        }
    }
}

/// What our own offers are like.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Deserialize, serde::Serialize,
)]
pub enum OfferKeying {
    /// RTP/AVP, in the clear: what every telephone takes.
    #[default]
    #[serde(rename = "rtp")]
    Plain,
    /// RTP/SAVP with the keys in the description (RFC 4568).
    #[serde(rename = "sdes")]
    Sdes,
    /// UDP/TLS/RTP/SAVPF with ICE and BUNDLE, as browsers have it.
    #[serde(rename = "webrtc")]
    Dtls,
}

impl OfferKeying {
    /// All of them, for forms.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Sdes, Self::Dtls];

    /// Its name in settings, options and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "rtp",
            Self::Sdes => "sdes",
            Self::Dtls => "webrtc",
        }
    }
}

/// The identity of the descriptions we send in one dialog (the `o=` line, RFC 8866 section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionVersion {
    id: u64,
    version: u64,
}

impl SessionVersion {
    /// The first version of session `id`, which is a random number.
    pub const fn first(id: u64) -> Self {
        // Some devices hold it in a signed number of 32 bits.
        Self {
            id: id & 0x7FFF_FFFF,
            version: 1,
        }
    }

    /// Steps on; to be done before each description that differs from the last one sent
    /// (RFC 3264 section 8).
    pub const fn increment(&mut self) {
        self.version = self.version.saturating_add(1);
    }
}

/// Why no audio stream could be agreed on. In SIP what cannot be read is 400 Bad Request, and the
/// others are 488 Not Acceptable Here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// The offer or answer cannot be read at all.
    #[error("it is no session description")]
    Unreadable(#[from] SdpError),
    /// There is no audio stream, or only a disabled one.
    #[error("there is no audio stream")]
    NoAudio,
    /// Audio is only offered over transports that are not taken here.
    #[error("audio is only offered over {0}, which is not taken here")]
    Transport(String),
    /// The transport is right, and nothing to protect the packets with can be agreed on.
    #[error("no keys can be agreed on for the audio: {0}")]
    Keys(&'static str),
    /// Audio would have to be sent to a name, a group or nowhere.
    #[error("the audio stream has no usable connection address ({0})")]
    NoAddress(String),
    /// None of our codecs is there (`media.codecs`).
    #[error("there is no common codec")]
    NoCommonCodec,
    /// The answer does not fit the offer (RFC 3264 section 6).
    #[error("the answer does not fit the offer: {0}")]
    WrongAnswer(&'static str),
}

/// A session description that a peer offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer(Description);

impl Offer {
    /// Reads an offer. Order and presence of lines do not matter as long as streams are described.
    pub fn parse(body: &[u8]) -> Result<Self, SdpError> {
        Description::parse(body).map(Self)
    }

    /// Chooses the first audio stream that we can take, and its codec.
    ///
    /// `agreed` is what was agreed on before, in an offer that comes later in a call: codec, keys
    /// and ICE credentials stay as they are where the offer allows it. Where the peer restarts
    /// ICE, so does `identity`.
    pub fn negotiate(
        &self,
        preferences: &Preferences,
        identity: &mut LocalIdentity,
        agreed: Option<&MediaParams>,
    ) -> Result<Negotiated, NegotiationError> {
        let Self(description) = self;
        let mut answerer = Answerer {
            preferences,
            identity,
            agreed,
            peer_is_lite: description.ice_lite,
        };
        let mut refusal = NegotiationError::NoAudio;
        for (number, media) in description.media.iter().enumerate() {
            match answerer.agree(media) {
                Ok(agreement) => {
                    return Ok(Negotiated {
                        media: agreement.media,
                        layout: Layout::of(description, number),
                        crypto_tag: agreement.crypto_tag,
                        mode_set: agreement.mode_set,
                        ice_mismatch: agreement.ice_mismatch,
                    });
                }
                // Of several refusals the one that came closest to an agreement is told.
                Err(reason) if closeness(&reason) > closeness(&refusal) => refusal = reason,
                Err(_) => {}
            }
        }
        Err(refusal)
    }
}

const fn closeness(refusal: &NegotiationError) -> u8 {
    match refusal {
        NegotiationError::NoCommonCodec => 4,
        NegotiationError::Keys(_) => 3,
        NegotiationError::NoAddress(_) => 2,
        NegotiationError::Transport(_) => 1,
        _ => 0,
    }
}

/// An offer for which an agreement was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The agreement.
    pub media: MediaParams,
    layout: Layout,
    crypto_tag: u32,
    mode_set: Option<String>,
    ice_mismatch: bool,
}

impl Negotiated {
    /// The answer that says so: the streams of the offer in their order, one taken at `local`, the
    /// others refused with port 0 (RFC 3264 section 6).
    pub fn answer(&self, local: SocketAddr, session: SessionVersion) -> Bytes {
        let media = &self.media;
        let cryptos = match &media.keying {
            Keying::Sdes { send, .. } => vec![Crypto {
                tag: self.crypto_tag,
                key: send.clone(),
            }],
            _ => Vec::new(),
        };
        let dtls = match &media.keying {
            Keying::Dtls { role, local, .. } => Some((local, role.setup())),
            _ => None,
        };
        let ice = match &media.ice {
            Some(ice) => Ice::of(ice),
            None if self.ice_mismatch => Ice::Mismatch,
            None => Ice::None,
        };
        let event = media.telephone_event;
        let stream = Stream {
            codecs: vec![(media.codec, media.payload_type)],
            mode_set: self.mode_set.as_deref(),
            telephone_events: event
                .map(|event| (event, media.telephone_event_clock))
                .into_iter()
                .collect(),
            comfort_noise: media.comfort_noise,
            rtcp: match (media.rtcp_mux, &media.ice, &media.keying) {
                (true, ..) => Rtcp::Mux,
                (false, None, Keying::Plain | Keying::Sdes { .. }) => Rtcp::SamePort,
                _ => Rtcp::None,
            },
            direction: media.direction,
            ptime_ms: media.ptime_ms.min(USUAL_PTIME_MS),
            cryptos,
            dtls,
            ice,
        };
        self.layout.describe(local, session, &stream)
    }
}

/// Reads the answer to an offer of ours, and checks that it fits.
pub fn read_answer(offer_made: &[u8], answer: &[u8]) -> Result<MediaParams, NegotiationError> {
    let made = Description::parse(offer_made)?;
    let answer = Description::parse(answer)?;
    if made.media.len() != answer.media.len() {
        return Err(NegotiationError::WrongAnswer(
            "it has not the same number of streams",
        ));
    }
    let pairs = || made.media.iter().zip(&answer.media);
    if pairs().any(|(made, answered)| !made.kind.eq_ignore_ascii_case(&answered.kind)) {
        return Err(NegotiationError::WrongAnswer(
            "its streams are of other kinds",
        ));
    }
    let taken = |(made, answered): &(&Media, &Media)| {
        made.is_audio() && made.port != 0 && answered.port != 0
    };
    let (made_stream, answered) = pairs().find(taken).ok_or(NegotiationError::NoAudio)?;
    if !answered
        .transport
        .eq_ignore_ascii_case(&made_stream.transport)
    {
        return Err(NegotiationError::WrongAnswer("it changes the transport"));
    }
    agree_on_answer(made_stream, made.ice_lite, answered, answer.ice_lite)
}

#[cfg(test)]
mod tests;
