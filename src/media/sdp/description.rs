//! Reads session descriptions (RFC 8866) line by line, and keeps what matters to a call.

use std::net::IpAddr;

use crate::media::sdp::Candidate;
use crate::media::sdp::Direction;
use crate::media::sdp::Fingerprint;
use crate::media::sdp::IceCredentials;
use crate::media::sdp::crypto::Crypto;
use crate::media::sdp::formats::Formats;

/// A description as long as this is an attack.
const LONGEST: usize = 64 * 1024;
/// Streams of one description; a call of a browser or a conference has a handful.
const MOST_STREAMS: usize = 64;
/// Formats of one stream.
const MOST_FORMATS: usize = 128;
/// Of a stream; a machine with many addresses has a dozen.
const MOST_CANDIDATES: usize = 16;
/// Of a stream; rtpengine has a dozen.
const MOST_CRYPTOS: usize = 16;
/// Of a stream: one with each hash function.
const MOST_FINGERPRINTS: usize = 8;
/// Streams of a bundle.
const MOST_BUNDLED: usize = MOST_STREAMS;
/// The longest user fragment and password of ICE (RFC 8839 section 5.4).
const LONGEST_ICE: usize = 256;

/// Why a text is no session description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// Longer than any honest description.
    #[error("the session description is {0} bytes long, more than {LONGEST}")]
    TooLong(usize),
    /// There is no `m=` line.
    #[error("the session description describes no stream")]
    NoStream,
    /// An `m=` line that cannot be answered in its place.
    #[error("stream {0} of the session description cannot be read")]
    Stream(usize),
    /// More `m=` lines than any honest description has.
    #[error("the session description has more than {MOST_STREAMS} streams")]
    TooManyStreams,
}

/// What a description says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Description {
    /// The value of the `t=` line, which an answer repeats.
    pub(super) timing: String,
    pub(super) media: Vec<Media>,
    /// The names of the streams that shall share one transport (RFC 9143): the first such group.
    pub(super) bundle: Vec<String>,
    /// Whether the peer only answers ICE checks.
    pub(super) ice_lite: bool,
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Media {
    /// `audio`, `video`, `image`, …
    pub(super) kind: String,
    pub(super) port: u16,
    /// `RTP/AVP`, …
    pub(super) transport: String,
    pub(super) format_list: Vec<String>,
    pub(super) connection: Option<Connection>,
    /// As the peer sees it.
    pub(super) direction: Direction,
    pub(super) ptime_ms: Option<u32>,
    pub(super) maxptime_ms: Option<u32>,
    pub(super) rtcp: Option<(u16, Option<IpAddr>)>,
    pub(super) rtcp_mux: bool,
    pub(super) mid: Option<String>,
    bundle_only: bool,
    pub(super) formats: Formats,
    pub(super) fingerprints: Vec<Fingerprint>,
    pub(super) setup: Option<Setup>,
    pub(super) cryptos: Vec<Crypto>,
    ufrag: Option<String>,
    password: Option<String>,
    pub(super) candidates: Vec<Candidate>,
    /// There are candidates that we have no use for: of TCP, of names, or too many.
    pub(super) has_other_candidates: bool,
}

/// Who begins the DTLS handshake, seen from the peer (RFC 4145 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setup {
    Active,
    Passive,
    ActPass,
    HoldConn,
}

impl Setup {
    fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "active" => Some(Self::Active),
            "passive" => Some(Self::Passive),
            "actpass" => Some(Self::ActPass),
            "holdconn" => Some(Self::HoldConn),
            _ => None,
        }
    }
}

/// Where a stream is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Connection {
    Address(IpAddr),
    /// 0.0.0.0 or its IPv6 counterpart.
    Hold,
    /// A host name, a group, or no address at all.
    Unusable(String),
}

impl Description {
    pub(super) fn parse(body: &[u8]) -> Result<Self, SdpError> {
        if body.len() > LONGEST {
            return Err(SdpError::TooLong(body.len()));
        }
        let mut description = Self {
            timing: "0 0".to_owned(),
            ..Self::default()
        };
        // What stands before the first stream holds for all of them.
        let mut session = Media::default();
        for line in body.split(|byte| matches!(byte, b'\r' | b'\n')) {
            let line = String::from_utf8_lossy(line);
            match line.trim().split_once('=') {
                Some(("m", value)) => {
                    if description.media.len() == MOST_STREAMS {
                        return Err(SdpError::TooManyStreams);
                    }
                    let media = Media::parse(value.trim(), &session);
                    let number = description.media.len() + 1;
                    description
                        .media
                        .push(media.ok_or(SdpError::Stream(number))?);
                }
                Some(("t", value)) if is_timing(value.trim()) => {
                    value.trim().clone_into(&mut description.timing);
                }
                Some((name, value)) => {
                    // Some lines of the whole description stand with its first stream.
                    description.read_session_line(name, value.trim());
                    let media = description.media.last_mut().unwrap_or(&mut session);
                    media.read_line(name, value.trim());
                }
                None => {}
            }
        }
        if description.media.is_empty() {
            return Err(SdpError::NoStream);
        }
        for media in &mut description.media {
            media.inherit(&session);
        }
        description.resolve_bundle();
        Ok(description)
    }

    fn read_session_line(&mut self, name: &str, value: &str) {
        let (attribute, value) = value.split_once(':').unwrap_or((value, ""));
        match attribute.trim() {
            _ if name != "a" => {}
            "ice-lite" => self.ice_lite = true,
            "group" if self.bundle.is_empty() => {
                let mut words = value.split_ascii_whitespace();
                if words.next() == Some("BUNDLE") {
                    self.bundle = words.take(MOST_BUNDLED).map(str::to_owned).collect();
                }
            }
            _ => {}
        }
    }

    /// Streams that are only to be had within the bundle have port 0, and the transport of the
    /// bundle's first (RFC 9143 section 6).
    fn resolve_bundle(&mut self) {
        let tag = self.bundle.first();
        let is_first = |media: &&Media| media.mid.is_some() && media.mid.as_ref() == tag;
        let Some(first) = self.media.iter().find(is_first).cloned() else {
            return;
        };
        for media in &mut self.media {
            let mid = media.mid.as_ref();
            if media.bundle_only
                && media.port == 0
                && mid.is_some_and(|mid| self.bundle.contains(mid))
            {
                media.port = first.port;
                media.connection.clone_from(&first.connection);
                media.rtcp_mux |= first.rtcp_mux;
                media.inherit_transport(&first);
            }
        }
    }
}

impl Media {
    /// Reads `audio 49170/2 RTP/AVP 0 8 101`.
    fn parse(value: &str, session: &Self) -> Option<Self> {
        // An answer repeats these words.
        if !value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
            return None;
        }
        let mut words = value.split(' ').filter(|word| !word.is_empty());
        let kind = words.next()?;
        let port = words.next()?;
        // Of several ports the first pair is the stream's (RFC 8866 section 5.14).
        let port = port.split_once('/').map_or(port, |(first, _)| first);
        let transport = words.next()?;
        let format_list: Vec<_> = words.take(MOST_FORMATS).map(str::to_owned).collect();
        if format_list.is_empty() {
            return None;
        }
        Some(Self {
            kind: kind.to_owned(),
            port: port.parse().ok()?,
            transport: transport.to_owned(),
            format_list,
            direction: session.direction,
            ptime_ms: session.ptime_ms,
            maxptime_ms: session.maxptime_ms,
            ..Self::default()
        })
    }

    fn read_line(&mut self, name: &str, value: &str) {
        match name {
            // A second address is another layer of a group, which we have no use for.
            "c" if self.connection.is_none() => self.connection = Some(Connection::parse(value)),
            "a" => {
                let (name, value) = value.split_once(':').unwrap_or((value, ""));
                self.read_attribute(&name.trim().to_ascii_lowercase(), value.trim());
            }
            _ => {}
        }
    }

    fn read_attribute(&mut self, name: &str, value: &str) {
        match name {
            "rtpmap" => self.formats.read_rtpmap(value),
            "fmtp" => self.formats.read_fmtp(value),
            "ptime" => self.ptime_ms = leading_number(value),
            "maxptime" => self.maxptime_ms = leading_number(value).filter(|ms| *ms > 0),
            "rtcp" => self.rtcp = read_rtcp(value),
            "rtcp-mux" | "rtcp-mux-only" => self.rtcp_mux = true,
            "mid" if is_token(value) => self.mid = Some(value.to_owned()),
            "bundle-only" => self.bundle_only = true,
            "fingerprint" if self.fingerprints.len() < MOST_FINGERPRINTS => {
                self.fingerprints.extend(Fingerprint::parse(value));
            }
            "setup" => self.setup = Setup::from_name(value).or(self.setup),
            "crypto" if self.cryptos.len() < MOST_CRYPTOS => {
                self.cryptos.extend(Crypto::parse(value));
            }
            "ice-ufrag" => self.ufrag = ice_text(value),
            "ice-pwd" => self.password = ice_text(value),
            "candidate" => self.read_candidate(value),
            _ => {
                if let Some(direction) = Direction::from_attribute(name) {
                    self.direction = direction;
                }
            }
        }
    }

    fn read_candidate(&mut self, value: &str) {
        match Candidate::parse(value) {
            Some(candidate) if self.candidates.len() < MOST_CANDIDATES => {
                self.candidates.push(candidate);
            }
            // The second component is that of RTCP, which has no port of its own here.
            None if value.split_ascii_whitespace().nth(1) == Some("2") => {}
            _ => self.has_other_candidates = true,
        }
    }

    pub(super) fn is_audio(&self) -> bool {
        self.kind.eq_ignore_ascii_case("audio")
    }

    /// What the stream does not say itself, and the whole description does.
    fn inherit(&mut self, session: &Self) {
        if self.connection.is_none() {
            self.connection.clone_from(&session.connection);
        }
        self.inherit_transport(session);
    }

    /// Keys and ICE, which stand with the first stream of a bundle for the others too (RFC 9143
    /// section 7.1.3).
    fn inherit_transport(&mut self, other: &Self) {
        if self.fingerprints.is_empty() {
            self.fingerprints.clone_from(&other.fingerprints);
        }
        self.setup = self.setup.or(other.setup);
        if self.ufrag.is_none() && self.password.is_none() {
            self.ufrag.clone_from(&other.ufrag);
            self.password.clone_from(&other.password);
        }
        if self.candidates.is_empty() {
            self.candidates.clone_from(&other.candidates);
            self.has_other_candidates |= other.has_other_candidates;
        }
    }

    /// What the peer signs its ICE checks with, if it does ICE.
    pub(super) fn ice_credentials(&self) -> Option<IceCredentials> {
        let (ufrag, password) = (self.ufrag.as_ref()?, self.password.as_ref()?);
        Some(IceCredentials {
            ufrag: ufrag.clone(),
            password: password.clone(),
        })
    }
}

impl Connection {
    /// Reads `IN IP4 192.0.2.1`.
    fn parse(value: &str) -> Self {
        let text = value.split_ascii_whitespace().nth(2).unwrap_or("empty");
        // A time to live may stand behind it; that of one receiver has no meaning.
        let address = text.split_once('/').map_or(text, |(address, _)| address);
        let Ok(address) = address.parse().as_ref().map(IpAddr::to_canonical) else {
            return Self::Unusable(text.to_owned());
        };
        let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
        if address.is_unspecified() {
            Self::Hold
        } else if address.is_multicast() || broadcast {
            Self::Unusable(text.to_owned())
        } else {
            Self::Address(address)
        }
    }
}

fn ice_text(value: &str) -> Option<String> {
    (is_token(value) && value.len() <= LONGEST_ICE).then(|| value.to_owned())
}

fn is_token(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic())
}

/// Two numbers, as in `0 0`.
fn is_timing(value: &str) -> bool {
    let mut words = value.split(' ');
    let is_number = |word: Option<&str>| {
        word.is_some_and(|word| {
            (1..=20).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_digit())
        })
    };
    is_number(words.next()) && is_number(words.next()) && words.next().is_none()
}

/// Reads `53020` or `53020 IN IP4 126.16.64.4` (RFC 3605).
fn read_rtcp(value: &str) -> Option<(u16, Option<IpAddr>)> {
    let mut words = value.split_ascii_whitespace();
    let port = words.next()?.parse().ok().filter(|port| *port != 0)?;
    let address = words.nth(2).and_then(|address| address.parse().ok());
    Some((
        port,
        address.filter(|address: &IpAddr| !address.is_unspecified()),
    ))
}

/// The number that `value` begins with: some devices write `20.0`, or something behind it.
pub(super) fn leading_number(value: &str) -> Option<u32> {
    let end = value.find(|c: char| !c.is_ascii_digit());
    value.get(..end.unwrap_or(value.len()))?.parse().ok()
}
