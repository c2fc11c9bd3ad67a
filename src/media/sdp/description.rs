//! Reads session descriptions (RFC 8866) line by line, and keeps what matters to a call.

use std::net::IpAddr;

use crate::media::audio::Codec;
use crate::media::sdp::COMFORT_NOISE;
use crate::media::sdp::Direction;

/// A description as long as this is an attack.
const LONGEST: usize = 64 * 1024;
/// Streams of one description; a call of a browser or a conference has a handful.
const MOST_STREAMS: usize = 64;
/// Formats of one stream, and mappings of formats.
const MOST_FORMATS: usize = 128;

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
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Media {
    /// `audio`, `video`, `image`, …
    pub(super) kind: String,
    pub(super) port: u16,
    /// `RTP/AVP`, …
    pub(super) transport: String,
    pub(super) formats: Vec<String>,
    pub(super) connection: Option<Connection>,
    /// As the peer sees it.
    pub(super) direction: Direction,
    pub(super) ptime_ms: Option<u32>,
    pub(super) maxptime_ms: Option<u32>,
    pub(super) rtcp: Option<(u16, Option<IpAddr>)>,
    pub(super) rtcp_mux: bool,
    pub(super) mid: Option<String>,
    mappings: Vec<Mapping>,
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

/// An `a=rtpmap` line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    payload_type: u8,
    encoding: String,
    clock_rate: u32,
    mono: bool,
}

impl Description {
    pub(super) fn parse(body: &[u8]) -> Result<Self, SdpError> {
        if body.len() > LONGEST {
            return Err(SdpError::TooLong(body.len()));
        }
        let mut description = Self {
            timing: "0 0".to_owned(),
            media: Vec::new(),
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
            if media.connection.is_none() {
                media.connection.clone_from(&session.connection);
            }
        }
        Ok(description)
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
        let formats: Vec<_> = words.take(MOST_FORMATS).map(str::to_owned).collect();
        if formats.is_empty() {
            return None;
        }
        Some(Self {
            kind: kind.to_owned(),
            port: port.parse().ok()?,
            transport: transport.to_owned(),
            formats,
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
            "rtpmap" if self.mappings.len() < MOST_FORMATS => {
                self.mappings.extend(Mapping::parse(value));
            }
            "ptime" => self.ptime_ms = leading_number(value),
            "maxptime" => self.maxptime_ms = leading_number(value).filter(|ms| *ms > 0),
            "rtcp" => self.rtcp = read_rtcp(value),
            "rtcp-mux" | "rtcp-mux-only" => self.rtcp_mux = true,
            "mid" if is_token(value) => self.mid = Some(value.to_owned()),
            _ => {
                if let Some(direction) = Direction::from_attribute(name) {
                    self.direction = direction;
                }
            }
        }
    }

    pub(super) fn is_audio(&self) -> bool {
        self.kind.eq_ignore_ascii_case("audio")
    }

    pub(super) fn is_plain_rtp(&self) -> bool {
        ["RTP/AVP", "RTP/AVPF"]
            .iter()
            .any(|plain| plain.eq_ignore_ascii_case(&self.transport))
    }

    /// The codecs among the formats that we have, with their payload types, in order.
    pub(super) fn codecs(&self) -> impl Iterator<Item = (Codec, u8)> {
        self.payload_types().filter_map(|payload_type| {
            let codec = [Codec::Pcma, Codec::Pcmu].into_iter().find(|codec| {
                let name = codec.encoding_name();
                self.carries(payload_type, name, Some(codec.static_payload_type()))
            });
            codec.map(|codec| (codec, payload_type))
        })
    }

    /// The payload type of digits, of those with our clock (RFC 4733 section 2.1).
    pub(super) fn telephone_event(&self) -> Option<u8> {
        self.payload_types()
            .find(|payload_type| self.carries(*payload_type, "telephone-event", None))
    }

    /// The payload type of comfort noise.
    pub(super) fn comfort_noise(&self) -> Option<u8> {
        self.payload_types()
            .find(|payload_type| self.carries(*payload_type, "CN", Some(COMFORT_NOISE)))
    }

    fn payload_types(&self) -> impl Iterator<Item = u8> {
        let numbers = self.formats.iter().filter_map(|format| format.parse().ok());
        numbers.filter(|payload_type| *payload_type < 128)
    }

    /// Whether `payload_type` is `encoding`: by its mapping, or by its fixed number without one.
    fn carries(&self, payload_type: u8, encoding: &str, fixed: Option<u8>) -> bool {
        let mapping = self
            .mappings
            .iter()
            .find(|mapping| mapping.payload_type == payload_type);
        match mapping {
            Some(mapping) => {
                mapping.encoding.eq_ignore_ascii_case(encoding)
                    && mapping.clock_rate == 8_000
                    && mapping.mono
            }
            None => fixed == Some(payload_type),
        }
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

impl Mapping {
    /// Reads `0 PCMU/8000/1`; without a clock rate the usual one is meant.
    fn parse(value: &str) -> Option<Self> {
        let (payload_type, encoding) = value.split_once(|c: char| c.is_ascii_whitespace())?;
        let mut parts = encoding.trim().split('/').map(str::trim);
        Some(Self {
            payload_type: payload_type.parse().ok()?,
            encoding: parts.next()?.to_owned(),
            clock_rate: parts.next().map_or(Some(8_000), leading_number)?,
            mono: parts.next().is_none_or(|channels| channels == "1"),
        })
    }
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
fn leading_number(value: &str) -> Option<u32> {
    let end = value.find(|c: char| !c.is_ascii_digit());
    value.get(..end.unwrap_or(value.len()))?.parse().ok()
}
