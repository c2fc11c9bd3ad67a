//! The codecs of RTP, and what is to be known of each without decoding.

#[cfg(feature = "amr")]
use crate::media::audio::amr;
use crate::media::audio::g711::Law;
use crate::media::audio::opus;

/// Ticks per second. Time on the line is counted in ticks, in which the clocks of all codecs are
/// whole numbers: a codec may change in mid-call without a seam.
pub const TICK_RATE: u32 = 48_000;

/// Ticks of a frame of 20 ms.
pub const FRAME_TICKS: u32 = TICK_RATE / 50;

/// A voice codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// G.711 µ-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
    /// G.722 at 64 kbit/s: wideband, with the clock of a narrowband codec (RFC 3551 section 4.5.2).
    G722,
    /// Opus (RFC 6716, RFC 7587).
    Opus,
    /// AMR (RFC 4867).
    #[cfg(feature = "amr")]
    Amr(amr::Packing),
    /// AMR-WB, also called G.722.2 (RFC 4867).
    #[cfg(feature = "amr")]
    AmrWb(amr::Packing),
}

impl Codec {
    /// The encoding name of `a=rtpmap`.
    pub const fn encoding_name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
            Self::G722 => "G722",
            Self::Opus => "opus",
            #[cfg(feature = "amr")]
            Self::Amr(_) => "AMR",
            #[cfg(feature = "amr")]
            Self::AmrWb(_) => "AMR-WB",
        }
    }

    /// The payload type that needs no `a=rtpmap` (RFC 3551 section 6), if the codec has one.
    pub const fn static_payload_type(self) -> Option<u8> {
        match self {
            Self::Pcmu => Some(0),
            Self::Pcma => Some(8),
            Self::G722 => Some(9),
            Self::Opus => None,
            #[cfg(feature = "amr")]
            Self::Amr(_) | Self::AmrWb(_) => None,
        }
    }

    /// Hertz of the RTP timestamp and of `a=rtpmap`. For G.722 that is half of
    /// [`Codec::sample_rate`], for Opus always 48,000.
    pub const fn clock_rate(self) -> u32 {
        match self {
            Self::Pcmu | Self::Pcma | Self::G722 => 8_000,
            Self::Opus => 48_000,
            #[cfg(feature = "amr")]
            Self::Amr(_) => 8_000,
            #[cfg(feature = "amr")]
            Self::AmrWb(_) => 16_000,
        }
    }

    /// Ticks of one step of the RTP timestamp.
    pub const fn clock_ticks(self) -> u32 {
        TICK_RATE / self.clock_rate()
    }

    /// The third field of `a=rtpmap`, where there has to be one: 2 for Opus, whatever is sent
    /// (RFC 7587 section 7).
    pub const fn channels_in_sdp(self) -> Option<u8> {
        match self {
            Self::Opus => Some(2),
            _ => None,
        }
    }

    /// Samples per second of what it decodes to without loss of band.
    pub const fn sample_rate(self) -> u32 {
        match self {
            Self::Pcmu | Self::Pcma => 8_000,
            Self::G722 => 16_000,
            Self::Opus => 48_000,
            #[cfg(feature = "amr")]
            Self::Amr(_) => 8_000,
            #[cfg(feature = "amr")]
            Self::AmrWb(_) => 16_000,
        }
    }

    /// Whether RFC 3389's comfort noise may stand in for silence: the codec has no such thing of
    /// its own, and its clock is that of the noise.
    pub const fn takes_comfort_noise(self) -> bool {
        matches!(self, Self::Pcmu | Self::Pcma | Self::G722)
    }

    /// How many ticks a payload lasts; `None` if it is no payload of this codec. At most 120 ms for
    /// Opus (RFC 6716 section 3.4) and a few hundred for the others, in the largest datagram.
    pub fn duration(self, payload: &[u8]) -> Option<u32> {
        match self {
            Self::Pcmu | Self::Pcma | Self::G722 => {
                let bytes = u32::try_from(payload.len()).ok()?;
                (1..=MAX_SAMPLE_BYTES)
                    .contains(&bytes)
                    .then_some(bytes * self.clock_ticks())
            }
            Self::Opus => opus::duration(payload),
            #[cfg(feature = "amr")]
            Self::Amr(packing) => amr::duration(amr::Band::Narrow, packing, payload),
            #[cfg(feature = "amr")]
            Self::AmrWb(packing) => amr::duration(amr::Band::Wide, packing, payload),
        }
    }

    /// How many codecs there are, each packing for itself.
    pub(super) const COUNT: usize = if cfg!(feature = "amr") { 8 } else { 4 };

    /// The place of this one among them.
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Pcmu => 0,
            Self::Pcma => 1,
            Self::G722 => 2,
            Self::Opus => 3,
            #[cfg(feature = "amr")]
            Self::Amr(packing) => 4 + packing as usize,
            #[cfg(feature = "amr")]
            Self::AmrWb(packing) => 6 + packing as usize,
        }
    }

    /// The law of G.711, if it is that.
    pub const fn law(self) -> Option<Law> {
        match self {
            Self::Pcmu => Some(Law::Mu),
            Self::Pcma => Some(Law::A),
            _ => None,
        }
    }

    /// A payload of 20 ms of silence.
    pub fn silence(self) -> &'static [u8] {
        match self {
            Self::Pcmu => const { &[Law::Mu.silence(); 160] },
            Self::Pcma => const { &[Law::A.silence(); 160] },
            Self::G722 => &[G722_SILENCE; 160],
            Self::Opus => &opus::SILENCE,
            #[cfg(feature = "amr")]
            Self::Amr(packing) => amr::silence(packing),
            #[cfg(feature = "amr")]
            Self::AmrWb(packing) => amr::silence(packing),
        }
    }
}

/// More than a datagram of 1,500 bytes carries.
const MAX_SAMPLE_BYTES: u32 = 1_600;

/// The smallest step in both bands, which the predictors take for none: any other code, repeated,
/// grows into a tone.
const G722_SILENCE: u8 = 0xFF;
