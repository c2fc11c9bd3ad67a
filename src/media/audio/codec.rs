//! G.711 in its two laws, and comfort noise (RFC 3389).

use audio_codec_algorithms::{decode_alaw, decode_ulaw, encode_alaw, encode_ulaw};

/// A voice codec. Both take one byte a sample, 8,000 samples a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// G.711 µ-law, of North America and Japan.
    Pcmu,
    /// G.711 A-law, of the rest of the world.
    Pcma,
}

impl Codec {
    /// The encoding name of `a=rtpmap` (RFC 3551 section 6).
    pub const fn encoding_name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
        }
    }

    /// The payload type that needs no `a=rtpmap` (RFC 3551 section 6).
    pub const fn static_payload_type(self) -> u8 {
        match self {
            Self::Pcmu => 0,
            Self::Pcma => 8,
        }
    }

    /// The code of silence, to fill a frame with.
    pub const fn silence(self) -> u8 {
        match self {
            Self::Pcmu => 0xFF,
            Self::Pcma => 0xD5,
        }
    }

    /// Encodes as many samples as both slices hold, and tells how many that were.
    pub fn encode(self, samples: &[i16], payload: &mut [u8]) -> usize {
        match self {
            Self::Pcmu => convert(samples, payload, encode_ulaw),
            Self::Pcma => convert(samples, payload, encode_alaw),
        }
    }

    /// Decodes as many samples as both slices hold, and tells how many that were.
    pub fn decode(self, payload: &[u8], samples: &mut [i16]) -> usize {
        match self {
            Self::Pcmu => convert(payload, samples, decode_ulaw),
            Self::Pcma => convert(payload, samples, decode_alaw),
        }
    }
}

fn convert<A: Copy, B>(from: &[A], to: &mut [B], one: impl Fn(A) -> B) -> usize {
    for (from, to) in from.iter().zip(to.iter_mut()) {
        *to = one(*from);
    }
    from.len().min(to.len())
}

/// White noise at the level a comfort noise packet tells (RFC 3389). Its spectral shape is left
/// aside: at such levels nobody hears it.
#[derive(Debug, Clone)]
pub struct ComfortNoise {
    state: u32,
    peak: i32,
}

impl ComfortNoise {
    /// Noise at `level` dB below overload (RFC 3389 section 3.1: 0 to 127).
    pub fn at_level(level: u8) -> Self {
        // The root mean square of noise that is spread evenly up to a peak is peak / √3.
        let rms = 32_768.0 * 10_f32.powf(-f32::from(level.min(127)) / 20.0);
        let peak = (rms * 3_f32.sqrt()).min(32_767.0);
        Self {
            state: 0x9E37_79B9,
            peak: peak.round() as i32,
        }
    }

    /// Reads a comfort noise payload. An empty one, which some devices send, is silence.
    pub fn from_payload(payload: &[u8]) -> Self {
        Self::at_level(payload.first().map_or(127, |level| level & 0x7F))
    }

    /// Fills `samples` with the next stretch of noise.
    pub fn fill(&mut self, samples: &mut [i16]) {
        for sample in samples {
            // xorshift32: never zero when begun with a number that is not.
            self.state ^= self.state << 13;
            self.state ^= self.state >> 17;
            self.state ^= self.state << 5;
            let unit = i64::from(self.state as i32);
            *sample = ((unit * i64::from(self.peak)) >> 31) as i16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rms(samples: &[i16]) -> f64 {
        let sum: f64 = samples.iter().map(|s| f64::from(*s).powi(2)).sum();
        (sum / samples.len() as f64).sqrt()
    }

    #[test]
    fn every_code_survives_decoding_and_encoding() {
        for codec in [Codec::Pcmu, Codec::Pcma] {
            for code in 0..=u8::MAX {
                let (mut sample, mut back) = ([0], [0]);
                codec.decode(&[code], &mut sample);
                codec.encode(&sample, &mut back);
                // µ-law has two codes for zero.
                let same = back[0] == code || (codec == Codec::Pcmu && code == 0x7F);
                assert!(
                    same,
                    "{codec:?} {code:#04x} -> {} -> {:#04x}",
                    sample[0], back[0]
                );
            }
        }
    }

    #[test]
    fn codes_are_those_of_the_standard() {
        let samples = [0, i16::MAX, i16::MIN];
        let mut payload = [0; 3];
        Codec::Pcmu.encode(&samples, &mut payload);
        assert_eq!(payload, [0xFF, 0x80, 0x00]);
        Codec::Pcma.encode(&samples, &mut payload);
        assert_eq!(payload, [0xD5, 0xAA, 0x2A]);
    }

    #[test]
    fn silence_decodes_to_next_to_nothing() {
        for codec in [Codec::Pcmu, Codec::Pcma] {
            let mut samples = [999; 4];
            assert_eq!(codec.decode(&[codec.silence(); 4], &mut samples), 4);
            assert!(samples.iter().all(|s| s.abs() <= 8), "{samples:?}");
        }
    }

    #[test]
    fn the_shorter_slice_decides() {
        assert_eq!(Codec::Pcma.encode(&[0; 200], &mut [0; 160]), 160);
        assert_eq!(Codec::Pcmu.decode(&[0; 80], &mut [0; 160]), 80);
        assert_eq!(Codec::Pcmu.decode(&[], &mut [0; 160]), 0);
    }

    #[test]
    fn comfort_noise_has_the_level_it_was_told() {
        let mut samples = vec![0; 16_000];
        for level in [0, 30, 45, 60, 70] {
            ComfortNoise::from_payload(&[level, 200, 3]).fill(&mut samples);
            let dbov = 20.0 * (rms(&samples) / 32_768.0).log10();
            // Full scale cannot be reached by noise: its peaks would not fit.
            let expected = -f64::from(level).max(4.77);
            assert!((dbov - expected).abs() < 1.0, "{level}: {dbov}");
        }
    }

    #[test]
    fn comfort_noise_without_level_is_silence() {
        let mut samples = [1; 160];
        ComfortNoise::from_payload(&[]).fill(&mut samples);
        assert!(samples.iter().all(|s| s.abs() <= 1));
    }
}
