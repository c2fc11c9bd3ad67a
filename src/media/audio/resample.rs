//! Brings audio from one sample rate to another.

use std::f64::consts::PI;

use crate::media::audio::TICK_RATE;

/// The middle of the slope between what is kept and what would fold back, as a share of the lower
/// rate: from 3.4 kHz, the telephone's band, to 4 kHz at 8 kHz.
const CUTOFF: f64 = 3_700.0 / 8_000.0;
/// Half the length of the filter, in samples of the lower rate. With Blackman's window the slope is
/// 600 Hz wide at 8 kHz.
const HALF_WIDTH: f64 = 36.8;
/// Points of the tabulated filter for each sample of the input: errors stay below -90 dB.
const RESOLUTION: f64 = 256.0;

/// Resamples mono audio through a windowed sinc that keeps what is above the lower rate's band from
/// folding back into it.
pub(super) fn resample(input: &[f32], from: u32, to: u32) -> Vec<f32> {
    if from == to {
        return input.to_vec();
    }
    let kernel = Kernel::new(from, to);
    let step = f64::from(from) / f64::from(to);
    let count = (input.len() as u64 * u64::from(to)).div_ceil(u64::from(from));
    (0..count)
        .map(|index| kernel.apply(input, index as f64 * step))
        .collect()
}

/// The same of whole numbers.
pub(super) fn convert(input: &[i16], from: u32, to: u32) -> Vec<i16> {
    let input: Vec<_> = input.iter().map(|sample| f32::from(*sample)).collect();
    let output = resample(&input, from, to);
    output.into_iter().map(|s| s.round() as i16).collect()
}

/// Multiplies the sample rate of a stream by a whole number. It lags by half its filter's length,
/// less than 5 ms.
pub(super) struct Upsampler {
    /// For each of the samples made of one: the weights of the last ones that came, oldest first.
    phases: Vec<Vec<f32>>,
    /// The last samples that came.
    recent: Vec<f32>,
}

impl Upsampler {
    pub(super) fn new(factor: usize) -> Self {
        let kernel = Kernel::new(1, factor as u32);
        let side = kernel.half_width.ceil() as usize;
        let phases = (0..factor).map(|phase| {
            let center = side as f64 + phase as f64 / factor as f64;
            (0..2 * side + 1)
                .map(|at| kernel.at((at as f64 - center).abs()))
                .collect()
        });
        Self {
            phases: phases.collect(),
            recent: vec![0.0; 2 * side],
        }
    }

    /// Ticks of a sample that comes, if those that go are `rate` a second.
    pub(super) fn ticks(&self, rate: u32) -> u32 {
        TICK_RATE / rate * self.phases.len() as u32
    }

    /// Appends what becomes of `samples`.
    pub(super) fn push(&mut self, samples: &[i16], out: &mut Vec<i16>) {
        let kept = self.recent.len();
        self.recent.extend(samples.iter().map(|s| f32::from(*s)));
        for window in self.recent.windows(kept + 1) {
            for weights in &self.phases {
                let sum: f32 = window.iter().zip(weights).map(|(s, w)| s * w).sum();
                out.push(sum.round() as i16);
            }
        }
        self.recent.drain(..samples.len());
    }
}

/// One side of the symmetric filter.
struct Kernel {
    points: Vec<f32>,
    /// In samples of the input.
    half_width: f64,
}

impl Kernel {
    fn new(from: u32, to: u32) -> Self {
        let lower = f64::from(from.min(to)) / f64::from(from);
        let half_width = HALF_WIDTH / lower;
        let cutoff = 2.0 * CUTOFF * lower;
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
        let output = resample(&input, rate, 8_000);
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
            assert!(resample(&[], rate, 8_000).is_empty());
            assert_eq!(resample(&[1.0], rate, 8_000).len(), 1);
        }
    }
}
