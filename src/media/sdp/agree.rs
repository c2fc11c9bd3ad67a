//! What two descriptions of a stream come to.

use std::net::IpAddr;
use std::net::SocketAddr;

use crate::media::audio::Codec;
use crate::media::sdp::DtlsRole;
use crate::media::sdp::IceCredentials;
use crate::media::sdp::IceMode;
use crate::media::sdp::IceParams;
use crate::media::sdp::Keying;
use crate::media::sdp::LocalIdentity;
use crate::media::sdp::MediaParams;
use crate::media::sdp::NegotiationError;
use crate::media::sdp::Preferences;
use crate::media::sdp::USUAL_PTIME_MS;
use crate::media::sdp::crypto::Crypto;
use crate::media::sdp::description::Connection;
use crate::media::sdp::description::Media;
use crate::media::sdp::description::Setup;

/// The port that stands where none is known yet (RFC 8840 section 4.1).
const DISCARD: u16 = 9;

/// How the transport of an `m=` line wants its packets protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// RTP/AVP and RTP/AVPF.
    Clear,
    /// RTP/SAVP and RTP/SAVPF: by keys from wherever.
    Secure,
    /// UDP/TLS/RTP/SAVP and UDP/TLS/RTP/SAVPF (RFC 5764 section 8).
    Dtls,
}

impl Profile {
    pub(super) fn of(transport: &str) -> Option<Self> {
        match transport.to_ascii_uppercase().as_str() {
            "RTP/AVP" | "RTP/AVPF" => Some(Self::Clear),
            "RTP/SAVP" | "RTP/SAVPF" => Some(Self::Secure),
            "UDP/TLS/RTP/SAVP" | "UDP/TLS/RTP/SAVPF" => Some(Self::Dtls),
            _ => None,
        }
    }
}

/// An agreement on a stream that the peer offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreement {
    pub(super) media: MediaParams,
    /// Which of the offered keys is taken.
    pub(super) crypto_tag: u32,
    pub(super) mode_set: Option<String>,
    /// ICE is left, and the peer is to know.
    pub(super) ice_mismatch: bool,
}

/// One side of a negotiation: what we are, and what was agreed on before.
#[derive(Debug)]
pub(super) struct Answerer<'a> {
    pub(super) preferences: &'a Preferences,
    pub(super) identity: &'a mut LocalIdentity,
    pub(super) agreed: Option<&'a MediaParams>,
    pub(super) peer_is_lite: bool,
}

impl Answerer<'_> {
    /// What we agree on when `media` is what the peer offers. `identity` changes only where this
    /// succeeds.
    pub(super) fn agree(&mut self, media: &Media) -> Result<Agreement, NegotiationError> {
        let profile = profile_of(media)?;
        let ice_mismatch = profile != Profile::Dtls && is_mismatch(media);
        let remote_ice = media.ice_credentials().filter(|_| !ice_mismatch);
        let way = Way::to(media, remote_ice.is_some())?;
        let (keying, crypto_tag) = self.agree_on_keys(profile, media, &way)?;
        let (codec, payload_type) = self.choose_codec(media)?;
        let mut params = params_of(media, codec, payload_type, &way, keying);
        if let Some(remote) = remote_ice {
            params.use_ice(self.agree_on_ice(remote, media));
        }
        if let Keying::Sdes { send, .. } = &params.keying {
            self.identity.note_use(send);
        }
        Ok(Agreement {
            media: params,
            crypto_tag,
            mode_set: media.mode_set(codec, payload_type),
            ice_mismatch,
        })
    }

    /// The codec already in use, if it is still there; else the first that we take.
    fn choose_codec(&self, media: &Media) -> Result<(Codec, u8), NegotiationError> {
        let taken = || {
            let offered = media.codecs();
            offered.filter(|(codec, _)| self.preferences.codecs.contains(codec))
        };
        let is_in_use =
            |(codec, _): &(Codec, u8)| self.agreed.is_some_and(|agreed| agreed.codec == *codec);
        taken()
            .find(is_in_use)
            .or_else(|| taken().next())
            .ok_or(NegotiationError::NoCommonCodec)
    }

    fn agree_on_keys(
        &self,
        profile: Profile,
        media: &Media,
        way: &Way,
    ) -> Result<(Keying, u32), NegotiationError> {
        let preferences = self.preferences;
        let dtls = |or: &'static str| match self.agree_on_dtls(media, way) {
            Some(keying) => Ok((keying, 0)),
            None => Err(NegotiationError::Keys(or)),
        };
        match profile {
            Profile::Dtls => dtls("there is no fingerprint for DTLS, or it is on hold"),
            Profile::Secure if !media.fingerprints.is_empty() => dtls("DTLS is on hold"),
            Profile::Secure if preferences.sdes => self.agree_on_sdes(media).ok_or(
                NegotiationError::Keys("there is neither a fingerprint for DTLS nor a usable key"),
            ),
            Profile::Secure => Err(NegotiationError::Keys(
                "there is no fingerprint for DTLS, and keys in descriptions are not taken",
            )),
            Profile::Clear => {
                let opportunistic = || dtls("").ok().or_else(|| self.agree_on_sdes(media));
                match preferences.opportunistic_srtp.then(opportunistic).flatten() {
                    Some(keys) => Ok(keys),
                    None if preferences.plain_rtp => Ok((Keying::Plain, 0)),
                    None => Err(NegotiationError::Keys("audio in the clear is not taken")),
                }
            }
        }
    }

    /// The first key offered that we can use; ours is of the same suite (RFC 4568 section 5.1.2),
    /// and stays as long as that does.
    fn agree_on_sdes(&self, media: &Media) -> Option<(Keying, u32)> {
        let taken = media.cryptos.first()?;
        let suite = taken.key.suite();
        let in_use = self
            .agreed
            .and_then(|agreed| agreed.keying.key_in_use(suite));
        let keying = Keying::Sdes {
            send: in_use.unwrap_or_else(|| self.identity.srtp_key(suite)),
            receive: taken.key.clone(),
        };
        Some((keying, taken.tag))
    }

    fn agree_on_dtls(&self, media: &Media, way: &Way) -> Option<Keying> {
        if media.fingerprints.is_empty() {
            return None;
        }
        let role = match media.setup {
            Some(Setup::ActPass) => self.choose_role(way),
            // RFC 4145 section 4.1: the default of offers.
            Some(Setup::Active) | None => DtlsRole::Passive,
            Some(Setup::Passive) => DtlsRole::Active,
            Some(Setup::HoldConn) => return None,
        };
        Some(Keying::Dtls {
            role,
            local: self.identity.fingerprint().clone(),
            fingerprints: media.fingerprints.clone(),
        })
    }

    /// The role where the choice is ours. A role that is in use stays: another one would begin a
    /// new association (RFC 8842 section 4). To begin with it is the active one, as RFC 5763
    /// section 5 asks for: the handshake begins as soon as there is a way, and nobody's first
    /// message has to be kept. Where ours might not get through, we wait for the peer's.
    fn choose_role(&self, way: &Way) -> DtlsRole {
        match self.agreed.map(|agreed| &agreed.keying) {
            Some(Keying::Dtls { role, .. }) => *role,
            _ if way.is_open() => DtlsRole::Active,
            _ => DtlsRole::Passive,
        }
    }

    /// New credentials of the peer are a restart, which we answer with new ones of ours (RFC 8839
    /// section 4.4.1.1.1).
    fn agree_on_ice(&mut self, remote: IceCredentials, media: &Media) -> IceParams {
        let before = self.agreed.and_then(|agreed| agreed.ice.as_ref());
        let before = before.and_then(|ice| ice.remote.as_ref());
        if before.is_some_and(|before| *before != remote) {
            self.identity.restart_ice();
        }
        let we_are_lite = self.preferences.ice == IceMode::Lite && !self.peer_is_lite;
        IceParams {
            local: self.identity.ice(),
            remote: Some(remote),
            we_are_lite,
            remote_is_lite: self.peer_is_lite,
            // RFC 8445 section 6.1.1: of two full agents the offerer, else the full one.
            controlling: self.peer_is_lite,
            remote_candidates: media.candidates.clone(),
        }
    }
}

/// What we agree on when we offered `made`, and `answered` is what the peer makes of it.
pub(super) fn agree_on_answer(
    made: &Media,
    we_said_lite: bool,
    answered: &Media,
    peer_is_lite: bool,
) -> Result<MediaParams, NegotiationError> {
    let profile = profile_of(answered)?;
    let (codec, payload_type) = answered
        .codecs()
        .find(|(codec, _)| made.codecs().any(|(offered, _)| offered == *codec))
        .ok_or(NegotiationError::NoCommonCodec)?;
    let ice = made.ice_credentials().zip(answered.ice_credentials());
    let way = Way::to(answered, ice.is_some())?;
    let keying = keys_of_answer(profile, made, answered)?;
    // RFC 5761 section 5.1.1: an answer may only agree to what was offered.
    if answered.rtcp_mux && !made.rtcp_mux {
        return Err(NegotiationError::WrongAnswer("it multiplexes RTCP unasked"));
    }
    let mut params = params_of(answered, codec, payload_type, &way, keying);
    if made.telephone_event(codec).is_none() {
        params.telephone_event = None;
    }
    if made.comfort_noise(codec).is_none() {
        params.comfort_noise = None;
    }
    if let Some((local, remote)) = ice {
        params.use_ice(IceParams {
            local,
            remote: Some(remote),
            we_are_lite: we_said_lite && !peer_is_lite,
            remote_is_lite: peer_is_lite,
            controlling: !we_said_lite || peer_is_lite,
            remote_candidates: answered.candidates.clone(),
        });
    }
    Ok(params)
}

fn keys_of_answer(
    profile: Profile,
    made: &Media,
    answered: &Media,
) -> Result<Keying, NegotiationError> {
    if let (Some(ours), false) = (made.fingerprints.first(), answered.fingerprints.is_empty()) {
        let role = match answered.setup {
            Some(Setup::Active) => DtlsRole::Passive,
            // RFC 4145 section 4.1: the default of answers. Some repeat what was offered.
            Some(Setup::Passive | Setup::ActPass) | None => DtlsRole::Active,
            Some(Setup::HoldConn) => {
                return Err(NegotiationError::WrongAnswer("it puts DTLS on hold"));
            }
        };
        return Ok(Keying::Dtls {
            role,
            local: ours.clone(),
            fingerprints: answered.fingerprints.clone(),
        });
    }
    if let Some(theirs) = answered.cryptos.first() {
        let suite = theirs.key.suite();
        let is_meant = |it: &&Crypto| it.tag == theirs.tag && it.key.suite() == suite;
        let ours = made.cryptos.iter().find(is_meant);
        let ours = ours.ok_or(NegotiationError::WrongAnswer("its key fits none offered"))?;
        return Ok(Keying::Sdes {
            send: ours.key.clone(),
            receive: theirs.key.clone(),
        });
    }
    match profile {
        Profile::Clear => Ok(Keying::Plain),
        Profile::Secure | Profile::Dtls => Err(NegotiationError::WrongAnswer("it has no keys")),
    }
}

fn profile_of(media: &Media) -> Result<Profile, NegotiationError> {
    if !media.is_audio() || media.port == 0 {
        return Err(NegotiationError::NoAudio);
    }
    let profile = Profile::of(&media.transport);
    profile.ok_or_else(|| NegotiationError::Transport(media.transport.clone()))
}

/// How a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    /// The address that its description names.
    address: Option<SocketAddr>,
    /// ICE finds another.
    has_ice: bool,
}

impl Way {
    fn to(media: &Media, has_ice: bool) -> Result<Self, NegotiationError> {
        let address = match &media.connection {
            Some(Connection::Address(address)) => Some(*address),
            // RFC 3264 section 8.4: hold, as it was said before RFC 2543 was replaced.
            Some(Connection::Hold) => None,
            // ICE needs none.
            _ if has_ice => None,
            Some(Connection::Unusable(text)) => {
                return Err(NegotiationError::NoAddress(text.clone()));
            }
            None => return Err(NegotiationError::NoAddress("none is given".to_owned())),
        };
        let is_discarded = has_ice && media.port == DISCARD;
        Ok(Self {
            address: address
                .filter(|_| !is_discarded)
                .map(|address| SocketAddr::new(address, media.port)),
            has_ice,
        })
    }

    const fn is_known(&self) -> bool {
        self.has_ice || self.address.is_some()
    }

    /// Whether what we send first arrives: not through a NAT, behind which a private address may
    /// lie.
    fn is_open(&self) -> bool {
        let is_private = |address: SocketAddr| match address.ip() {
            IpAddr::V4(address) => address.is_private(),
            IpAddr::V6(address) => address.is_unique_local(),
        };
        self.has_ice || self.address.is_some_and(|address| !is_private(address))
    }
}

/// Whether the address of a stream is none of its ICE candidates: then somebody on the way, who
/// knows nothing of ICE, has put himself into it (RFC 8839 section 4.2.5).
fn is_mismatch(media: &Media) -> bool {
    let Some(Connection::Address(address)) = media.connection else {
        return false;
    };
    let told = SocketAddr::new(address, media.port);
    media.port != DISCARD
        && !media.has_other_candidates
        && !media.candidates.is_empty()
        && !media
            .candidates
            .iter()
            .any(|candidate| candidate.address == told)
}

/// What the peer's side of a stream comes to, but for ICE.
fn params_of(
    media: &Media,
    codec: Codec,
    payload_type: u8,
    way: &Way,
    keying: Keying,
) -> MediaParams {
    let remote = way.address;
    let direction = media.direction.reversed();
    let telephone_event = media.telephone_event(codec);
    MediaParams {
        remote,
        remote_rtcp: if media.rtcp_mux {
            remote
        } else if matches!(keying, Keying::Dtls { .. }) {
            None
        } else {
            remote.and_then(|remote| rtcp_address(media, remote.ip()))
        },
        rtcp_mux: media.rtcp_mux,
        codec,
        payload_type,
        telephone_event: telephone_event.map(|(payload_type, _)| payload_type),
        telephone_event_clock: telephone_event.map_or(8_000, |(_, clock)| clock),
        comfort_noise: media.comfort_noise(codec),
        direction: if way.is_known() {
            direction
        } else {
            direction.without_sending()
        },
        ptime_ms: packet_time(media),
        keying,
        ice: None,
    }
}

impl MediaParams {
    /// ICE knows one component only.
    fn use_ice(&mut self, ice: IceParams) {
        if !self.rtcp_mux {
            self.remote_rtcp = None;
        }
        self.ice = Some(ice);
    }
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
