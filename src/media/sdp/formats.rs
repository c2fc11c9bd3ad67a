//! What the payload types of a stream mean: `a=rtpmap` and `a=fmtp`.

use crate::media::audio::Codec;
#[cfg(feature = "amr")]
use crate::media::audio::amr::Packing;
use crate::media::sdp::COMFORT_NOISE;
use crate::media::sdp::description::Media;
use crate::media::sdp::description::leading_number;

/// Mappings of one stream, and parameters.
const MOST: usize = 128;
/// The clocks of telephone-event that go into our ticks without a rest (RFC 4733 section 2.1).
const EVENT_CLOCKS: [u32; 3] = [8_000, 48_000, 16_000];

/// The `a=rtpmap` and `a=fmtp` lines of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Formats {
    mappings: Vec<Mapping>,
    parameters: Vec<(u8, String)>,
}

/// An `a=rtpmap` line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    payload_type: u8,
    encoding: String,
    clock_rate: u32,
    channels: u32,
}

impl Formats {
    pub(super) fn read_rtpmap(&mut self, value: &str) {
        if self.mappings.len() < MOST {
            self.mappings.extend(Mapping::parse(value));
        }
    }

    pub(super) fn read_fmtp(&mut self, value: &str) {
        let Some((payload_type, parameters)) = value.split_once(|c: char| c.is_ascii_whitespace())
        else {
            return;
        };
        if let Ok(payload_type) = payload_type.parse()
            && self.parameters.len() < MOST
        {
            self.parameters
                .push((payload_type, parameters.trim().to_owned()));
        }
    }

    fn mapping(&self, payload_type: u8) -> Option<&Mapping> {
        let mut mappings = self.mappings.iter();
        mappings.find(|mapping| mapping.payload_type == payload_type)
    }

    /// The value of `name` in the `a=fmtp` line of `payload_type`.
    fn parameter(&self, payload_type: u8, name: &str) -> Option<&str> {
        let mut lines = self.parameters.iter();
        let (_, line) = lines.find(|(number, _)| *number == payload_type)?;
        let mut parameters = line.split(';').filter_map(|one| one.split_once('='));
        let (_, value) = parameters.find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
        Some(value.trim())
    }
}

impl Media {
    /// The codecs among the formats that we have, with their payload types, in order.
    pub(super) fn codecs(&self) -> impl Iterator<Item = (Codec, u8)> {
        self.payload_types()
            .filter_map(|payload_type| Some((self.codec(payload_type)?, payload_type)))
    }

    fn codec(&self, payload_type: u8) -> Option<Codec> {
        let Some(mapping) = self.formats.mapping(payload_type) else {
            return [Codec::Pcmu, Codec::Pcma, Codec::G722]
                .into_iter()
                .find(|codec| codec.static_payload_type() == Some(payload_type));
        };
        let name = mapping.encoding.to_ascii_lowercase();
        match (name.as_str(), mapping.clock_rate, mapping.channels) {
            ("pcmu", 8_000, 1) => Some(Codec::Pcmu),
            ("pcma", 8_000, 1) => Some(Codec::Pcma),
            // Some write its true rate, against RFC 3551 section 4.5.2.
            ("g722", 8_000 | 16_000, 1) => Some(Codec::G722),
            ("opus", 48_000, 1 | 2) => Some(Codec::Opus),
            #[cfg(feature = "amr")]
            ("amr", 8_000, 1) => self.amr_packing(payload_type, "7").map(Codec::Amr),
            #[cfg(feature = "amr")]
            ("amr-wb", 16_000, 1) => self.amr_packing(payload_type, "2").map(Codec::AmrWb),
            _ => None,
        }
    }

    /// How AMR frames are packed; `None` in the ways that we do not read (RFC 4867 section 8.1),
    /// and where `mode`, the one of our prompts, must not be sent.
    #[cfg(feature = "amr")]
    fn amr_packing(&self, payload_type: u8, mode: &str) -> Option<Packing> {
        let parameter = |name| self.formats.parameter(payload_type, name);
        let is_on = |name| parameter(name) == Some("1");
        let may_send = parameter("mode-set")
            .is_none_or(|modes| modes.split(',').any(|allowed| allowed.trim() == mode));
        let is_unreadable =
            is_on("crc") || is_on("robust-sorting") || parameter("interleaving").is_some();
        if is_unreadable || !may_send {
            None
        } else if is_on("octet-align") {
            Some(Packing::OctetAligned)
        } else {
            Some(Packing::BandwidthEfficient)
        }
    }

    /// The modes of AMR that may be sent both ways, which an answer repeats (RFC 4867 section
    /// 8.3.1).
    pub(super) fn mode_set(&self, codec: Codec, payload_type: u8) -> Option<String> {
        let modes = self.formats.parameter(payload_type, "mode-set")?;
        let is_list = modes.bytes().all(|b| b == b',' || b.is_ascii_digit());
        let is_amr = codec.encoding_name().starts_with("AMR");
        (is_amr && is_list).then(|| modes.to_owned())
    }

    /// The payload type and the clock of digits (RFC 4733): with the clock of `codec` if there is
    /// one, so that both have the same timestamps; else whichever there is.
    pub(super) fn telephone_event(&self, codec: Codec) -> Option<(u8, u32)> {
        let with_clock = |clock: u32| {
            let carries = |payload_type: &u8| {
                self.formats.mapping(*payload_type).is_some_and(|mapping| {
                    mapping.encoding.eq_ignore_ascii_case("telephone-event")
                        && mapping.clock_rate == clock
                        && mapping.channels == 1
                })
            };
            Some((self.payload_types().find(carries)?, clock))
        };
        with_clock(codec.clock_rate()).or_else(|| EVENT_CLOCKS.into_iter().find_map(with_clock))
    }

    /// The payload type of comfort noise, where `codec` needs it.
    pub(super) fn comfort_noise(&self, codec: Codec) -> Option<u8> {
        let carries = |payload_type: &u8| match self.formats.mapping(*payload_type) {
            Some(mapping) => {
                mapping.encoding.eq_ignore_ascii_case("CN") && mapping.clock_rate == 8_000
            }
            None => *payload_type == COMFORT_NOISE,
        };
        let found = self.payload_types().find(carries);
        found.filter(|_| codec.takes_comfort_noise())
    }

    fn payload_types(&self) -> impl Iterator<Item = u8> {
        let numbers = self
            .format_list
            .iter()
            .filter_map(|format| format.parse().ok());
        numbers.filter(|payload_type| *payload_type < 128)
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
            channels: parts.next().map_or(Some(1), leading_number)?,
        })
    }
}
