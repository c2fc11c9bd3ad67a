//! Tells speech from silence, erring on the side of speech.
//!
//! Voices rise and fall, noise stays: a stretch of 20 ms is speech when it is louder than the
//! quietest moment shortly before it and than the quietest moment shortly after it. What is loud
//! is speech without further question, so a steady tone is; what is next to inaudible never is.

use std::collections::VecDeque;

use multiversion::multiversion;

use crate::media::audio::FRAME_SAMPLES;
use crate::media::audio::SAMPLE_RATE;

const BLOCKS_PER_SECOND: usize = SAMPLE_RATE as usize / FRAME_SAMPLES;
/// Mean square of -40 dBov, two thirds of the way from silence to a normal voice.
const SURELY_SPEECH: f32 = 107_374.0;
/// Mean square of -66 dBov. A G.711 line at rest stays below it.
const INAUDIBLE: f32 = 270.0;
/// The amplitude of that: what is louder belongs to a word, as far as the block is speech.
const AUDIBLE: u16 = 16;
/// How much more power than the background makes a voice: 7 dB.
const CONTRAST: f32 = 5.0;
/// How far back the background is looked for.
const PAST: usize = 3 * BLOCKS_PER_SECOND / 2;
/// With less of a past than this, the background is not known yet.
const PAST_AT_LEAST: usize = 3 * BLOCKS_PER_SECOND / 10;
/// How far ahead the background is looked for. A syllable ends sooner.
const FUTURE: usize = 6 * BLOCKS_PER_SECOND / 10;
/// What is lower than a voice is measured over so many samples (4 ms), and taken away.
const HUM: usize = 32;
/// What is measured at once.
const LANES: usize = 8;
/// The pause between two words that still counts as speaking.
const HANGOVER: u64 = 400 * SAMPLE_RATE as u64 / 1_000;

/// Finds speech in 8 kHz audio that is fed to it piece by piece.
///
/// All positions count samples from the first one fed. What was heard in the last 600 ms is held
/// to be speech until it proves to be noise, so the answers may step back by so much.
#[derive(Debug, Clone)]
pub struct SpeechDetector {
    /// The last samples of the block before.
    before: [i16; HUM],
    /// The open block, where what is fed does not come in whole ones.
    open: Vec<i16>,
    position: u64,
    past: Past,
    /// Blocks that wait for their future.
    doubtful: VecDeque<Block>,
    /// Without the doubtful blocks, and with them.
    settled: Speech,
    speech: Speech,
}

/// Power of the last blocks.
#[derive(Debug, Clone)]
struct Past {
    powers: [f32; PAST],
    /// Blocks that there have been.
    count: usize,
    last: f32,
}

/// What is known of the speech so far.
#[derive(Debug, Clone, Copy, Default)]
struct Speech {
    first: Option<u64>,
    /// The beginning of the last stretch without a longer pause than [`HANGOVER`].
    since: u64,
    end: Option<u64>,
    samples: u64,
}

/// A stretch of [`FRAME_SAMPLES`] samples that may be speech.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// Position of the first sample that can be heard, and of the one after the last.
    start: u64,
    end: u64,
    /// The mean of the squares, without what is too low for a voice.
    power: f32,
}

impl Default for SpeechDetector {
    fn default() -> Self {
        Self::new()
    }
}

impl SpeechDetector {
    /// A detector that has heard nothing.
    pub fn new() -> Self {
        Self {
            before: [0; HUM],
            open: Vec::new(),
            position: 0,
            past: Past::default(),
            doubtful: VecDeque::new(),
            settled: Speech::default(),
            speech: Speech::default(),
        }
    }

    /// Hears the next samples: a frame, or any other number.
    pub fn feed(&mut self, samples: &[i16]) {
        let mut rest = samples;
        while !rest.is_empty() {
            let room = FRAME_SAMPLES - self.open.len();
            let (now, later) = rest.split_at(rest.len().min(room));
            rest = later;
            self.position += now.len() as u64;
            if let Ok(block) = now.try_into() {
                self.close_block(block);
                continue;
            }
            self.open.extend_from_slice(now);
            let open = std::mem::take(&mut self.open);
            match open.as_slice().try_into() {
                Ok(block) => self.close_block(block),
                Err(_) => self.open = open,
            }
        }
    }

    /// Number of samples heard.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Where the first speech begins.
    pub fn first_speech(&self) -> Option<u64> {
        self.speech.first
    }

    /// The position after the last sample of speech.
    pub fn speech_end(&self) -> Option<u64> {
        self.speech.end
    }

    /// Where what is being said now begins, if somebody is speaking.
    pub fn speaking_since(&self) -> Option<u64> {
        self.is_speaking().then_some(self.speech.since)
    }

    /// How many samples were speech; pauses between words are not.
    pub fn speech_samples(&self) -> u64 {
        self.speech.samples
    }

    /// For how many samples nobody has spoken: since the last speech, or since the beginning.
    pub fn silent_for(&self) -> u64 {
        self.position.saturating_sub(self.speech_end().unwrap_or(0))
    }

    /// Whether somebody is speaking, short pauses included.
    pub fn is_speaking(&self) -> bool {
        self.speech_end().is_some() && self.silent_for() < HANGOVER
    }

    fn close_block(&mut self, block: &[i16; FRAME_SAMPLES]) {
        let mut samples = [0; HUM + FRAME_SAMPLES];
        let (before, now) = samples.split_at_mut(HUM);
        before.copy_from_slice(&self.before);
        now.copy_from_slice(block);
        self.before.copy_from_slice(&block[FRAME_SAMPLES - HUM..]);
        // The filter looks as far ahead as back, so a block lies a little behind what was heard.
        let start = self
            .position
            .saturating_sub((FRAME_SAMPLES + HUM / 2) as u64);
        let power = power_of_voice(&samples);
        let doubts = !self.doubtful.is_empty();
        if doubts {
            self.settle_doubts(start, power);
        }
        if power > INAUDIBLE {
            let block = Block::of(&samples[HUM / 2..], start, power);
            if power >= SURELY_SPEECH {
                self.settle_all_up_to(&block);
            } else if self.past.lets_stand_out(power) {
                self.doubtful.push_back(block);
            }
        }
        self.past.push(power);
        if doubts || power > INAUDIBLE {
            // With the benefit of the doubt.
            self.speech = self.settled;
            let speech = &mut self.speech;
            self.doubtful.iter().for_each(|block| speech.add(block));
        }
    }

    /// A block of `power` at `now` is the future of the doubtful blocks: it confirms those that are
    /// louder, and those that waited in vain are noise.
    fn settle_doubts(&mut self, now: u64, power: f32) {
        let settled = &mut self.settled;
        let horizon = now.saturating_sub((FUTURE * FRAME_SAMPLES) as u64);
        self.doubtful.retain(|block| {
            if block.power > CONTRAST * power {
                settled.add(block);
                return false;
            }
            block.start >= horizon
        });
    }

    /// A loud block is speech, and so is what led up to it.
    fn settle_all_up_to(&mut self, block: &Block) {
        for doubtful in self.doubtful.drain(..) {
            self.settled.add(&doubtful);
        }
        self.settled.add(block);
    }
}

impl Speech {
    fn add(&mut self, block: &Block) {
        let (start, end) = (block.start, block.end);
        if self.end.is_none_or(|last| start > last + HANGOVER) {
            self.since = start;
        }
        self.since = self.since.min(start);
        self.first = Some(self.first.map_or(start, |first| first.min(start)));
        self.end = Some(self.end.map_or(end, |last| last.max(end)));
        self.samples += FRAME_SAMPLES as u64;
    }
}

impl Block {
    /// The block that begins at `start` with the first of `samples`.
    fn of(samples: &[i16], start: u64, power: f32) -> Self {
        let samples = samples.get(..FRAME_SAMPLES).unwrap_or(samples);
        let is_audible = |sample: &i16| sample.unsigned_abs() > AUDIBLE;
        let first = samples.iter().position(is_audible).unwrap_or(0);
        let end = samples.iter().rposition(is_audible);
        Self {
            start: start + first as u64,
            end: start + end.map_or(samples.len(), |last| last + 1) as u64,
            power,
        }
    }
}

impl Default for Past {
    fn default() -> Self {
        Self {
            powers: [f32::INFINITY; PAST],
            count: 0,
            last: 0.0,
        }
    }
}

impl Past {
    fn push(&mut self, power: f32) {
        self.powers[self.count % PAST] = power;
        self.count += 1;
        self.last = power;
    }

    /// Whether `power` may be a voice's, as far as the past tells.
    fn lets_stand_out(&self, power: f32) -> bool {
        // What follows loud speech may be its end.
        self.last >= SURELY_SPEECH || self.count < PAST_AT_LEAST || power > CONTRAST * self.least()
    }

    fn least(&self) -> f32 {
        let (fours, rest) = self.powers.as_chunks::<4>();
        let mut lanes = [f32::INFINITY; 4];
        for four in fours {
            for (lane, power) in lanes.iter_mut().zip(four) {
                *lane = if power < lane { *power } else { *lane };
            }
        }
        lanes
            .iter()
            .chain(rest)
            .copied()
            .fold(f32::INFINITY, f32::min)
    }
}

/// The mean of the squares of a block of samples less the mean around each: voices stay, hum and
/// offset do not. As a filter it passes half the amplitude at 150 Hz, and a sixteenth at 50 Hz.
///
/// This is done for each packet of each call, so no sum depends on the one before it, and nothing is
/// checked that cannot happen: as many samples are measured at a time as the processor can.
#[multiversion(targets("x86_64+avx2"))]
fn power_of_voice(samples: &[i16; HUM + FRAME_SAMPLES]) -> f32 {
    let centres = samples[HUM / 2..].as_chunks::<LANES>().0.iter();
    let sums = sums_of_hum(samples);
    let mut squares = [0.0; LANES];
    for (centres, sums) in centres.zip(sums[..FRAME_SAMPLES].as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            let centre = i32::from(centres[lane]).wrapping_mul(HUM as i32);
            let voice = centre.wrapping_sub(sums[lane]) as f32;
            squares[lane] += voice * voice;
        }
    }
    squares.iter().sum::<f32>() / (FRAME_SAMPLES * HUM * HUM) as f32
}

/// From each sample on, the sum of [`HUM`] of them; the last ones are of fewer.
#[inline]
fn sums_of_hum(samples: &[i16; HUM + FRAME_SAMPLES]) -> [i32; HUM + FRAME_SAMPLES] {
    let mut sums = [0; HUM + FRAME_SAMPLES];
    for (sum, sample) in sums.iter_mut().zip(samples) {
        *sum = i32::from(*sample);
    }
    double::<1>(&mut sums);
    double::<2>(&mut sums);
    double::<4>(&mut sums);
    double::<8>(&mut sums);
    double::<{ HUM / 2 }>(&mut sums);
    sums
}

/// Of sums of `LEN` samples each makes sums of twice as many.
#[inline]
fn double<const LEN: usize>(sums: &mut [i32; HUM + FRAME_SAMPLES]) {
    for first in 0..HUM + FRAME_SAMPLES - LEN {
        sums[first] = sums[first].wrapping_add(sums[first + LEN]);
    }
}

#[cfg(test)]
mod tests;
