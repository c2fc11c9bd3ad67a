//! Brings audio of any rate to 8 kHz.

use std::f64::consts::PI;

use crate::media::audio::SAMPLE_RATE;

/// The middle of the slope between what is kept (3.4 kHz, the telephone's band) and what would
/// fold back (4 kHz).
const CUTOFF_HZ: f64 = 3_700.0;
/// Half the length of the filter. With Blackman's window the slope is 600 Hz wide.
const HALF_WIDTH_S: f64 = 0.004_6;
/// Points of the tabulated filter for each sample of the input: errors stay below -90 dB.
const RESOLUTION: f64 = 256.0;

/// Resamples mono audio of `rate` to [`SAMPLE_RATE`], through a windowed sinc that keeps what is
/// above the telephone's band from folding back into it. `rate` is [`SAMPLE_RATE`] or more.
pub(super) fn to_8_khz(input: &[f32], rate: u32) -> Vec<f32> {
    if rate == SAMPLE_RATE {
        return input.to_vec();
    }
    let kernel = Kernel::new(f64::from(rate));
    let step = f64::from(rate) / f64::from(SAMPLE_RATE);
    let count = (input.len() as u64 * u64::from(SAMPLE_RATE)).div_ceil(u64::from(rate));
    (0..count)
        .map(|index| kernel.apply(input, index as f64 * step))
        .collect()
}

/// One side of the symmetric filter.
struct Kernel {
    points: Vec<f32>,
    /// In samples of the input.
    half_width: f64,
}

impl Kernel {
    fn new(rate: f64) -> Self {
        let half_width = HALF_WIDTH_S * rate;
        let cutoff = 2.0 * CUTOFF_HZ / rate;
        let count = (half_width * RESOLUTION).ceil() as usize + 2;
        let points = (0..count).map(|point| {
            let at = point as f64 / RESOLUTION;
            let window = (at / half_width).min(1.0) * PI;
            let blackman = 0.42 + 0.5 * window.cos() + 0.08 * (2.0 * window).cos();
            (cutoff * sinc(cutoff * at) * blackman) as f32
        });
        Self {
            points: points.collect(),
            half_width,
        }
    }

    fn apply(&self, input: &[f32], center: f64) -> f32 {
        let first = (center - self.half_width).ceil().max(0.0) as usize;
        let end = (center + self.half_width).floor() as usize + 1;
        let end = end.min(input.len());
        let samples = input.get(first..end).unwrap_or(&[]);
        let weighted = samples.iter().enumerate().map(|(offset, sample)| {
            let distance = ((first + offset) as f64 - center).abs();
            sample * self.at(distance)
        });
        weighted.sum()
    }

    fn at(&self, distance: f64) -> f32 {
        let point = distance * RESOLUTION;
        let left = point as usize;
        match self.points.get(left..left + 2) {
            Some(&[a, b]) => a + (b - a) * (point - left as f64) as f32,
            _ => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        1.0
    } else {
        (PI * x).sin() / (PI * x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::f64::consts::TAU;

    use crate::media::audio::tone::tone_level;

    const RATES: [u32; 10] = [
        11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000,
    ];

    fn resampled_tone(hertz: f64, rate: u32) -> Vec<i16> {
        let input: Vec<f32> = (0..rate / 2)
            .map(|i| (0.5 * (TAU * hertz * f64::from(i) / f64::from(rate)).sin()) as f32)
            .collect();
        let output = to_8_khz(&input, rate);
        output.iter().map(|s| (s * 32_767.0) as i16).collect()
    }

    #[test]
    fn the_telephone_band_passes_unchanged() {
        for rate in RATES {
            for hertz in [300.0, 1_000.0, 3_000.0, 3_400.0] {
                let output = resampled_tone(hertz, rate);
                assert_eq!(output.len(), 4_000, "{rate}");
                let level = tone_level(&output[400..3_600], hertz);
                assert!((level - 0.5).abs() < 0.01, "{rate} {hertz}: {level}");
            }
        }
    }

    #[test]
    fn what_is_above_the_band_does_not_fold_back() {
        for rate in RATES {
            for hertz in [4_100.0, 4_600.0, 5_000.0] {
                let output = resampled_tone(hertz, rate);
                let level = tone_level(&output[400..3_600], 8_000.0 - hertz);
                assert!(level < 0.5e-3, "{rate} {hertz}: {level}");
            }
        }
    }

    #[test]
    fn odd_rates_and_short_inputs_do_no_harm() {
        for rate in [8_000, 8_001, 9_999, 95_999] {
            assert!(to_8_khz(&[], rate).is_empty());
            assert_eq!(to_8_khz(&[1.0], rate).len(), 1);
        }
    }
}
