//! Digits as tones (ITU-T Q.23), for callers whose network sends no telephone-events.

use std::f32::consts::TAU;

use crate::media::audio::SAMPLE_RATE;

const ROWS: [f32; 4] = [697.0, 770.0, 852.0, 941.0];
const COLUMNS: [f32; 4] = [1_209.0, 1_336.0, 1_477.0, 1_633.0];
const KEYS: [[char; 4]; 4] = [
    ['1', '2', '3', 'A'],
    ['4', '5', '6', 'B'],
    ['7', '8', '9', 'C'],
    ['*', '0', '#', 'D'],
];

/// Samples that are judged at a time: 12.75 ms, in which neighbouring frequencies are a bin apart.
const BLOCK: u16 = 102;
/// Blocks in a row that make a digit, or its end. A tone or a pause of 40 ms, the shortest that must
/// be taken (Q.24), holds as many whatever the blocks' phase.
const BLOCKS: u8 = 2;
/// The weakest tone: about -42 dB below full scale.
const WEAKEST: f32 = 260.0;
/// How much stronger the column may be than the row, as powers: 8 dB (Q.24).
const TWIST: f32 = 6.31;
/// How much stronger the row may be than the column: 4 dB.
const REVERSE_TWIST: f32 = 2.51;
/// How much stronger a tone must be than the others of its group: 8 dB.
const SELECTIVITY: f32 = 6.31;
/// The two tones' share of all that is heard: what tells them from speech and music.
const SHARE: f32 = 0.75;

/// Hears digits in 8 kHz audio, each once, when it begins.
#[derive(Debug, Clone)]
pub struct DtmfDetector {
    rows: [Goertzel; 4],
    columns: [Goertzel; 4],
    energy: f32,
    samples: u16,
    /// What the last blocks held, and how many of them in a row.
    recent: (Option<char>, u8),
    /// The digit that sounds.
    digit: Option<char>,
    /// A digit that was heard beside another one in one call.
    waiting: Option<char>,
}

impl Default for DtmfDetector {
    fn default() -> Self {
        Self {
            rows: ROWS.map(Goertzel::new),
            columns: COLUMNS.map(Goertzel::new),
            energy: 0.0,
            samples: 0,
            recent: (None, 0),
            digit: None,
            waiting: None,
        }
    }
}

impl DtmfDetector {
    /// Listens on; the digit that begins in `samples`.
    pub fn feed(&mut self, samples: &[i16]) -> Option<char> {
        let mut heard = self.waiting.take();
        for sample in samples {
            let sample = f32::from(*sample);
            self.energy += sample * sample;
            for filter in self.rows.iter_mut().chain(&mut self.columns) {
                filter.feed(sample);
            }
            self.samples += 1;
            if self.samples == BLOCK {
                let key = self.judge();
                match (self.follow(key), heard) {
                    (digit @ Some(_), None) => heard = digit,
                    (digit @ Some(_), Some(_)) => self.waiting = digit,
                    (None, _) => {}
                }
            }
        }
        heard
    }

    /// The key whose tones the block is made of.
    fn judge(&mut self) -> Option<char> {
        self.samples = 0;
        let energy = std::mem::take(&mut self.energy);
        let rows = self.rows.each_mut().map(Goertzel::take);
        let columns = self.columns.each_mut().map(Goertzel::take);
        let (row, row_power) = strongest(&rows)?;
        let (column, column_power) = strongest(&columns)?;
        let loud = row_power.min(column_power) >= WEAKEST * WEAKEST;
        let balanced =
            column_power <= row_power * TWIST && row_power <= column_power * REVERSE_TWIST;
        // A sine of amplitude 1 has an energy of a half for each sample.
        let tones = (row_power + column_power) * f32::from(BLOCK) / 2.0;
        let pure = tones >= energy * SHARE;
        (loud && balanced && pure).then_some(KEYS[row][column])
    }

    /// A digit begins with the second block of it, and ends with the second block without.
    fn follow(&mut self, key: Option<char>) -> Option<char> {
        let (last, count) = self.recent;
        let count = if key == last {
            count.saturating_add(1)
        } else {
            1
        };
        self.recent = (key, count);
        if count < BLOCKS || key == self.digit {
            return None;
        }
        self.digit = key;
        key
    }
}

/// The strongest tone of a group, if it stands out.
fn strongest(powers: &[f32; 4]) -> Option<(usize, f32)> {
    let by_power = |a: &(usize, f32), b: &(usize, f32)| a.1.total_cmp(&b.1);
    let (at, power) = powers.iter().copied().enumerate().max_by(by_power)?;
    let others = powers.iter().enumerate().filter(|(other, _)| *other != at);
    let alone = others
        .into_iter()
        .all(|(_, other)| other * SELECTIVITY <= power);
    alone.then_some((at, power))
}

/// Measures one frequency.
#[derive(Debug, Clone, Copy)]
struct Goertzel {
    turn: f32,
    last: f32,
    before: f32,
}

impl Goertzel {
    fn new(hertz: f32) -> Self {
        Self {
            turn: 2.0 * (TAU * hertz / SAMPLE_RATE as f32).cos(),
            last: 0.0,
            before: 0.0,
        }
    }

    fn feed(&mut self, sample: f32) {
        let next = sample + self.turn * self.last - self.before;
        self.before = self.last;
        self.last = next;
    }

    /// The square of the amplitude over a block, and a new beginning.
    fn take(&mut self) -> f32 {
        let (last, before) = (self.last, self.before);
        (self.last, self.before) = (0.0, 0.0);
        let power = last * last + before * before - self.turn * last * before;
        power * (2.0 / f32::from(BLOCK)).powi(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::path::Path;

    use crate::media::audio::Law;
    use crate::media::audio::Tone;
    use crate::media::audio::read_wav;

    /// Frequencies off by a factor and amplitudes of the two tones.
    fn tones(key: char, off: f64, row: f64, column: f64, ms: usize) -> Vec<i16> {
        let place = |at: usize| KEYS[at].iter().position(|k| *k == key).map(|c| (at, c));
        let (r, c) = (0..4).find_map(place).unwrap();
        let low = Tone::new(f64::from(ROWS[r]) * off, row).take_ms(ms);
        let high = Tone::new(f64::from(COLUMNS[c]) * off, column).take_ms(ms);
        low.iter().zip(&high).map(|(a, b)| a + b).collect()
    }

    fn key(key: char, ms: usize) -> Vec<i16> {
        tones(key, 1.0, 0.2, 0.2, ms)
    }

    fn heard(line: &[i16], chunk: usize) -> String {
        let mut detector = DtmfDetector::default();
        line.chunks(chunk)
            .filter_map(|c| detector.feed(c))
            .collect()
    }

    fn silence(ms: usize) -> Vec<i16> {
        vec![0; 8 * ms]
    }

    const ALL: &str = "123A456B789C*0#D";

    #[test]
    fn every_key_is_heard_once_however_the_samples_come() {
        for chunk in [1, 80, 160, 333, 960] {
            let line = ALL.chars().flat_map(|k| [key(k, 60), silence(60)]);
            let line: Vec<i16> = line.flatten().collect();
            assert_eq!(heard(&line, chunk), ALL, "{chunk}");
        }
    }

    #[test]
    fn the_shortest_tones_and_pauses_of_the_standard_are_enough() {
        for shift in 0..102 {
            let line = [
                vec![0; shift],
                key('5', 40),
                silence(40),
                key('5', 40),
                silence(40),
            ];
            assert_eq!(heard(&line.concat(), 160), "55", "{shift}");
        }
    }

    #[test]
    fn a_long_tone_is_one_digit_even_with_a_click_in_it() {
        let mut line = key('7', 3_000);
        line[12_000..12_040].fill(0);
        assert_eq!(heard(&line, 160), "7");
    }

    #[test]
    fn too_short_a_tone_is_none() {
        for shift in 0..102 {
            let line = [vec![0; shift], key('5', 12), silence(40)].concat();
            assert_eq!(heard(&line, 160), "", "{shift}");
        }
    }

    #[test]
    fn levels_twist_and_tolerance_are_those_of_the_standard() {
        for (off, row, column, taken) in [
            (1.0, 0.45, 0.45, true),
            (1.0, 0.01, 0.01, true),
            (1.0, 0.003, 0.003, false),
            (1.015, 0.2, 0.2, true),
            (0.985, 0.2, 0.2, true),
            (1.05, 0.2, 0.2, false),
            (0.95, 0.2, 0.2, false),
            // 6 and 12 dB of twist; 3 and 8 dB the other way round.
            (1.0, 0.1, 0.2, true),
            (1.0, 0.1, 0.4, false),
            (1.0, 0.2, 0.142, true),
            (1.0, 0.4, 0.16, false),
            (1.0, 0.3, 0.0, false),
            (1.0, 0.0, 0.3, false),
        ] {
            for k in ALL.chars() {
                let line = [tones(k, off, row, column, 80), silence(60)].concat();
                let expected = if taken { k.to_string() } else { String::new() };
                assert_eq!(heard(&line, 160), expected, "{k} {off} {row} {column}");
            }
        }
    }

    #[test]
    fn noise_below_the_tones_hides_none_and_noise_alone_is_none() {
        let mut random = 7_u32;
        let mut noise = |peak: f64| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f64::from(random as i32) / 2_147_483_648.0 * peak) as i16
        };
        // 15 dB below the tones, through G.711.
        let line = ALL.chars().flat_map(|k| [key(k, 70), silence(70)]);
        let line: Vec<i16> = line.flatten().map(|s| s + noise(2_000.0)).collect();
        let (mut codes, mut line) = (vec![0; line.len()], line);
        Law::Mu.encode(&line, &mut codes);
        Law::Mu.decode(&codes, &mut line);
        assert_eq!(heard(&line, 160), ALL);
        let line: Vec<i16> = (0..8_000 * 60).map(|_| noise(20_000.0)).collect();
        assert_eq!(heard(&line, 160), "");
    }

    #[test]
    fn no_prompt_of_ours_holds_a_digit() {
        let prompts = Path::new(env!("CARGO_MANIFEST_DIR")).join("prompts");
        let mut seconds = 0;
        for language in ["en", "nb", "sv", "de"] {
            for file in fs::read_dir(prompts.join(language)).unwrap() {
                let path = file.unwrap().path();
                let samples = read_wav(&fs::read(&path).unwrap()).unwrap();
                seconds += samples.len() / 8_000;
                // Slower and faster too: more voices.
                for step in [80, 90, 100, 110, 125] {
                    let at = |n: usize| samples.get(n * step / 100).copied();
                    let line: Vec<i16> = (0..).map_while(at).collect();
                    assert_eq!(heard(&line, 160), "", "{} {step}", path.display());
                }
            }
        }
        assert!(seconds > 60);
    }
}
