//! Comfort noise (RFC 3389).

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
