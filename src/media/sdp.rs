//! Session descriptions (RFC 8866) and their offer and answer (RFC 3264).
//!
//! What real devices send is read as far as it has a meaning; what we write is strict. A call has
//! one audio stream over plain RTP; every other stream is refused in its place.

mod description;

use std::fmt::Write;
use std::net::IpAddr;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::media::audio::Codec;
use crate::media::sdp::description::Connection;
use crate::media::sdp::description::Description;
use crate::media::sdp::description::Media;

pub use description::SdpError;

/// The payload type of telephone-event in our own offers; what nearly everybody uses.
const TELEPHONE_EVENT: u8 = 101;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaParams {
    /// Where to send audio. `None` while the peer has not told, or has put us on hold the old way
    /// (connection address 0.0.0.0).
    pub remote: Option<SocketAddr>,
    /// Where to send RTCP; the same as `remote` with `rtcp_mux`.
    pub remote_rtcp: Option<SocketAddr>,
    /// Whether RTP and RTCP share a port (RFC 5761).
    pub rtcp_mux: bool,
    /// The voice codec, the same in both directions.
    pub codec: Codec,
    /// The payload type that carries `codec`, in both directions.
    pub payload_type: u8,
    /// The payload type of telephone-event digits (RFC 4733), if agreed on.
    pub telephone_event: Option<u8>,
    /// The payload type of comfort noise (RFC 3389), if agreed on.
    pub comfort_noise: Option<u8>,
    /// Which way media flows, seen from us.
    pub direction: Direction,
    /// Milliseconds of audio the peer would like in a packet: a multiple of 10 from 10 to 60, and
    /// 20 unless it told otherwise.
    pub ptime_ms: u8,
}

impl MediaParams {
    /// What an offer of ours comes to before its answer: nothing is known of the peer.
    pub fn of_offer(preferences: &Preferences) -> Self {
        let codec = preferences.codecs.first().copied().unwrap_or(Codec::Pcma);
        Self {
            remote: None,
            remote_rtcp: None,
            rtcp_mux: false,
            codec,
            payload_type: codec.static_payload_type(),
            telephone_event: Some(TELEPHONE_EVENT),
            comfort_noise: None,
            direction: Direction::SendRecv,
            ptime_ms: 20,
        }
    }
}

/// What we are willing to agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preferences {
    /// The codecs we take. Their order is that of our offers; in an answer the offer's order rules.
    pub codecs: Vec<Codec>,
    /// The codec already in use, which a re-offer does not change if it still lists it.
    pub keep: Option<Codec>,
}

impl Default for Preferences {
    fn default() -> Self {
        Self {
            codecs: vec![Codec::Pcma, Codec::Pcmu],
            keep: None,
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

/// Why no audio stream could be agreed on. In SIP all of these are 488 Not Acceptable Here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// The answer cannot be read at all.
    #[error("the answer is no session description")]
    Unreadable(#[source] SdpError),
    /// There is no audio stream, or only a disabled one.
    #[error("there is no audio stream")]
    NoAudio,
    /// Audio is only offered over secured or unknown transports.
    #[error("audio is only offered over {0}, not over RTP/AVP")]
    NotRtpAvp(String),
    /// Audio would have to be sent to a name, a group or nowhere.
    #[error("the audio stream has no usable connection address ({0})")]
    NoAddress(String),
    /// Neither PCMA nor PCMU is offered.
    #[error("there is no common codec; PCMA or PCMU is needed")]
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
    pub fn negotiate(&self, preferences: &Preferences) -> Result<Negotiated, NegotiationError> {
        let mut refusal = NegotiationError::NoAudio;
        for (stream, media) in self.0.media.iter().enumerate() {
            match agree(media, preferences) {
                Ok(media) => {
                    return Ok(Negotiated {
                        media,
                        offer: self.0.clone(),
                        stream,
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
        NegotiationError::NoCommonCodec => 3,
        NegotiationError::NoAddress(_) => 2,
        NegotiationError::NotRtpAvp(_) => 1,
        _ => 0,
    }
}

/// An offer for which an agreement was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The agreement.
    pub media: MediaParams,
    offer: Description,
    /// Which of the offered streams is taken.
    stream: usize,
}

impl Negotiated {
    /// The answer that says so: the streams of the offer in their order, one taken at `local`, the
    /// others refused with port 0 (RFC 3264 section 6).
    pub fn answer(&self, local: SocketAddr, session: SessionVersion) -> Bytes {
        let mut out = header(local.ip(), session, &self.offer.timing);
        for (stream, offered) in self.offer.media.iter().enumerate() {
            if stream == self.stream {
                let codecs = [(self.media.codec, self.media.payload_type)];
                let stream = Stream {
                    port: local.port(),
                    transport: &offered.transport,
                    codecs: &codecs,
                    telephone_event: self.media.telephone_event,
                    comfort_noise: self.media.comfort_noise,
                    rtcp_mux: self.media.rtcp_mux,
                    direction: self.media.direction,
                    ptime_ms: self.media.ptime_ms.min(USUAL_PTIME_MS),
                    mid: offered.mid.as_deref(),
                };
                stream.write(&mut out);
            } else {
                let (kind, transport) = (&offered.kind, &offered.transport);
                let formats = offered.formats.join(" ");
                line(&mut out, format_args!("m={kind} 0 {transport} {formats}"));
            }
        }
        Bytes::from(out)
    }
}

/// An offer of ours: audio at `local`, both ways, with the codecs of `preferences`, digits as
/// telephone-event, and RTCP on the same port.
pub fn offer(local: SocketAddr, session: SessionVersion, preferences: &Preferences) -> Bytes {
    let codecs: Vec<_> = preferences
        .codecs
        .iter()
        .map(|codec| (*codec, codec.static_payload_type()))
        .collect();
    let mut out = header(local.ip(), session, "0 0");
    let stream = Stream {
        port: local.port(),
        transport: "RTP/AVP",
        codecs: &codecs,
        telephone_event: Some(TELEPHONE_EVENT),
        comfort_noise: None,
        rtcp_mux: true,
        direction: Direction::SendRecv,
        ptime_ms: USUAL_PTIME_MS,
        mid: None,
    };
    stream.write(&mut out);
    Bytes::from(out)
}

/// Reads the answer to an offer of ours, and checks that it fits.
pub fn read_answer(offer_made: &[u8], answer: &[u8]) -> Result<MediaParams, NegotiationError> {
    let made = Description::parse(offer_made).map_err(NegotiationError::Unreadable)?;
    let answer = Description::parse(answer).map_err(NegotiationError::Unreadable)?;
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
    let (made, answered) = pairs().find(taken).ok_or(NegotiationError::NoAudio)?;
    if !answered.transport.eq_ignore_ascii_case(&made.transport) {
        return Err(NegotiationError::WrongAnswer("it changes the transport"));
    }
    let preferences = Preferences {
        codecs: made.codecs().map(|(codec, _)| codec).collect(),
        keep: None,
    };
    let mut media = agree(answered, &preferences)?;
    // RFC 5761 section 5.1.1: an answer may only agree to what was offered.
    if media.rtcp_mux && !made.rtcp_mux {
        return Err(NegotiationError::WrongAnswer("it multiplexes RTCP unasked"));
    }
    if made.telephone_event().is_none() {
        media.telephone_event = None;
    }
    if made.comfort_noise().is_none() {
        media.comfort_noise = None;
    }
    Ok(media)
}

/// What we agree on when `media` is the peer's description of its side.
fn agree(media: &Media, preferences: &Preferences) -> Result<MediaParams, NegotiationError> {
    if !media.is_audio() || media.port == 0 {
        return Err(NegotiationError::NoAudio);
    }
    if !media.is_plain_rtp() {
        return Err(NegotiationError::NotRtpAvp(media.transport.clone()));
    }
    let address = match &media.connection {
        Some(Connection::Address(address)) => Some(*address),
        // RFC 3264 section 8.4: hold, as it was said before RFC 2543 was replaced.
        Some(Connection::Hold) => None,
        Some(Connection::Unusable(text)) => return Err(NegotiationError::NoAddress(text.clone())),
        None => return Err(NegotiationError::NoAddress("none is given".to_owned())),
    };
    let (codec, payload_type) =
        choose_codec(media, preferences).ok_or(NegotiationError::NoCommonCodec)?;
    let remote = address.map(|address| SocketAddr::new(address, media.port));
    let direction = media.direction.reversed();
    Ok(MediaParams {
        remote,
        remote_rtcp: if media.rtcp_mux {
            remote
        } else {
            address.and_then(|address| rtcp_address(media, address))
        },
        rtcp_mux: media.rtcp_mux,
        codec,
        payload_type,
        telephone_event: media.telephone_event(),
        comfort_noise: media.comfort_noise(),
        direction: if remote.is_some() {
            direction
        } else {
            direction.without_sending()
        },
        ptime_ms: packet_time(media),
    })
}

fn choose_codec(media: &Media, preferences: &Preferences) -> Option<(Codec, u8)> {
    let taken = || {
        let offered = media.codecs();
        offered.filter(|(codec, _)| preferences.codecs.contains(codec))
    };
    taken()
        .find(|(codec, _)| preferences.keep == Some(*codec))
        .or_else(|| taken().next())
}

/// Where RTCP goes without multiplexing: as `a=rtcp` says (RFC 3605), else one port above RTP.
fn rtcp_address(media: &Media, rtp: IpAddr) -> Option<SocketAddr> {
    match media.rtcp {
        Some((port, address)) => Some(SocketAddr::new(address.unwrap_or(rtp), port)),
        None => Some(SocketAddr::new(rtp, media.port.checked_add(1)?)),
    }
}

fn packet_time(media: &Media) -> u8 {
    let usable = |ms: u32| {
        u8::try_from(ms)
            .ok()
            .filter(|ms| *ms % 10 == 0 && (10..=60).contains(ms))
    };
    let wanted = media.ptime_ms.and_then(usable).unwrap_or(USUAL_PTIME_MS);
    match media.maxptime_ms {
        Some(most) if most < u32::from(wanted) => usable(most / 10 * 10).unwrap_or(10),
        _ => wanted,
    }
}

/// An audio stream as we describe it.
struct Stream<'a> {
    port: u16,
    transport: &'a str,
    codecs: &'a [(Codec, u8)],
    telephone_event: Option<u8>,
    comfort_noise: Option<u8>,
    rtcp_mux: bool,
    direction: Direction,
    ptime_ms: u8,
    mid: Option<&'a str>,
}

impl Stream<'_> {
    fn write(&self, out: &mut String) {
        let codecs = self.codecs.iter().map(|(_, payload_type)| *payload_type);
        let others = [self.comfort_noise, self.telephone_event];
        let mut formats = String::new();
        for payload_type in codecs.chain(others.into_iter().flatten()) {
            append(&mut formats, format_args!(" {payload_type}"));
        }
        let (port, transport) = (self.port, self.transport);
        line(out, format_args!("m=audio {port} {transport}{formats}"));
        for (codec, payload_type) in self.codecs {
            let name = codec.encoding_name();
            line(out, format_args!("a=rtpmap:{payload_type} {name}/8000"));
        }
        if let Some(payload_type) = self.comfort_noise {
            line(out, format_args!("a=rtpmap:{payload_type} CN/8000"));
        }
        if let Some(payload_type) = self.telephone_event {
            line(
                out,
                format_args!("a=rtpmap:{payload_type} telephone-event/8000"),
            );
            line(out, format_args!("a=fmtp:{payload_type} 0-15"));
        }
        line(out, format_args!("a=ptime:{}", self.ptime_ms));
        line(out, format_args!("a={}", self.direction.attribute()));
        if self.rtcp_mux {
            line(out, format_args!("a=rtcp-mux"));
        } else {
            // RFC 3605: we have one port for both, whether the peer knows of RFC 5761 or not. The
            // port above belongs to other calls.
            line(out, format_args!("a=rtcp:{port}"));
        }
        if let Some(mid) = self.mid {
            line(out, format_args!("a=mid:{mid}"));
        }
    }
}

fn header(address: IpAddr, session: SessionVersion, timing: &str) -> String {
    let mut out = String::with_capacity(400);
    let family = if address.is_ipv4() { "IP4" } else { "IP6" };
    let SessionVersion { id, version } = session;
    line(&mut out, format_args!("v=0"));
    line(
        &mut out,
        format_args!("o=- {id} {version} IN {family} {address}"),
    );
    line(&mut out, format_args!("s=-"));
    line(&mut out, format_args!("c=IN {family} {address}"));
    line(&mut out, format_args!("t={timing}"));
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    append(out, text);
    out.push_str("\r\n");
}

fn append(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes any text");
}

#[cfg(test)]
mod tests;
