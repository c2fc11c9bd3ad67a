//! Tones: made for the beep and for tests, and measured.

use std::f64::consts::TAU;

use crate::media::audio::SAMPLE_RATE;
use crate::media::audio::prompt::Prompt;

/// Frequency of the beep that invites to speak.
pub const BEEP_HZ: f64 = 660.0;

const BEEP_MS: usize = 300;
const BEEP_AMPLITUDE: f64 = 0.25;
const SAMPLES_PER_MS: usize = SAMPLE_RATE as usize / 1_000;
/// Fading in and out over this time keeps a tone from clicking.
const FADE: usize = 8 * SAMPLES_PER_MS;

/// An endless sine wave.
#[derive(Debug, Clone)]
pub struct Tone {
    step: f64,
    phase: f64,
    peak: f64,
}

impl Tone {
    /// A tone of `frequency_hz` whose peaks reach `amplitude`, of 1.0 at most.
    pub fn new(frequency_hz: f64, amplitude: f64) -> Self {
        Self::at_rate(frequency_hz, amplitude, SAMPLE_RATE)
    }

    /// The same at `rate` samples a second.
    pub fn at_rate(frequency_hz: f64, amplitude: f64, rate: u32) -> Self {
        Self {
            step: TAU * frequency_hz / f64::from(rate),
            phase: 0.0,
            peak: amplitude.clamp(0.0, 1.0) * f64::from(i16::MAX),
        }
    }

    /// Fills `samples` with the next stretch of the wave.
    pub fn fill(&mut self, samples: &mut [i16]) {
        for sample in samples {
            *sample = (self.peak * self.phase.sin()).round() as i16;
            self.phase = (self.phase + self.step) % TAU;
        }
    }

    /// The next `ms` milliseconds of the wave.
    pub fn take_ms(&mut self, ms: usize) -> Vec<i16> {
        let mut samples = vec![0; ms * SAMPLES_PER_MS];
        self.fill(&mut samples);
        samples
    }
}

/// The beep that invites to speak: 300 ms of [`BEEP_HZ`], faded in and out.
pub fn beep() -> Prompt {
    let mut samples = Tone::new(BEEP_HZ, BEEP_AMPLITUDE).take_ms(BEEP_MS);
    let count = samples.len();
    for (index, sample) in samples.iter_mut().enumerate() {
        let edge = index.min(count - 1 - index).min(FADE);
        *sample = (f64::from(*sample) * edge as f64 / FADE as f64) as i16;
    }
    Prompt::from_samples(samples)
}

/// The amplitude with which `frequency_hz` is in `samples` (Goertzel's algorithm): 1.0 for a full
/// scale sine of just that frequency, near 0.0 for anything else.
///
/// It tells frequencies apart that differ by more than `SAMPLE_RATE / samples.len()` hertz.
pub fn tone_level(samples: &[i16], frequency_hz: f64) -> f64 {
    if samples.is_empty() {
        return 0.0;
    }
    let step = TAU * frequency_hz / f64::from(SAMPLE_RATE);
    let turn = 2.0 * step.cos();
    let (mut last, mut before) = (0.0, 0.0);
    for sample in samples {
        let next = f64::from(*sample) / f64::from(i16::MAX) + turn * last - before;
        before = last;
        last = next;
    }
    let power = last * last + before * before - turn * last * before;
    2.0 * power.max(0.0).sqrt() / samples.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_found_at_its_frequency_and_nowhere_else() {
        let samples = Tone::new(1_000.0, 0.5).take_ms(200);
        assert!((tone_level(&samples, 1_000.0) - 0.5).abs() < 0.01);
        for other in [440.0, 660.0, 900.0, 1_100.0, 2_000.0] {
            assert!(tone_level(&samples, other) < 0.02, "{other}");
        }
    }

    #[test]
    fn two_tones_are_both_found() {
        let low = Tone::new(440.0, 0.3).take_ms(500);
        let high = Tone::new(1_000.0, 0.1).take_ms(500);
        let both: Vec<i16> = low.iter().zip(&high).map(|(a, b)| a + b).collect();
        assert!((tone_level(&both, 440.0) - 0.3).abs() < 0.01);
        assert!((tone_level(&both, 1_000.0) - 0.1).abs() < 0.01);
    }

    #[test]
    fn a_tone_goes_on_where_it_stopped() {
        let whole = Tone::new(333.0, 0.9).take_ms(40);
        let mut tone = Tone::new(333.0, 0.9);
        let parts = [tone.take_ms(13), tone.take_ms(27)].concat();
        assert_eq!(whole, parts);
    }

    #[test]
    fn the_beep_is_its_tone_and_does_not_click() {
        let beep = beep();
        assert_eq!(beep.duration().as_millis(), BEEP_MS as u128);
        assert!(tone_level(beep.samples(), BEEP_HZ) > 0.2);
        assert!(tone_level(beep.samples(), 1_000.0) < 0.01);
        let first_ms = &beep.samples()[..SAMPLES_PER_MS];
        assert!(first_ms.iter().all(|s| s.abs() < 1_200), "{first_ms:?}");
    }

    #[test]
    fn silence_and_nothing_hold_no_tone() {
        assert_eq!(tone_level(&[], 440.0), 0.0);
        assert_eq!(tone_level(&[0; 160], 440.0), 0.0);
    }
}
