//! Tells speech from silence, erring on the side of speech.
//!
//! Voices rise and fall, noise stays: a stretch of 20 ms is speech when it is louder than the
//! quietest moment shortly before it and than the quietest moment shortly after it. What is loud
//! is speech without further question, so a steady tone is; what is next to inaudible never is.

use std::collections::VecDeque;

use crate::media::audio::FRAME_SAMPLES;
use crate::media::audio::SAMPLE_RATE;

const BLOCKS_PER_SECOND: usize = SAMPLE_RATE as usize / FRAME_SAMPLES;
/// Mean square of -40 dBov, two thirds of the way from silence to a normal voice.
const SURELY_SPEECH: f32 = 107_374.0;
/// Mean square of -66 dBov. A G.711 line at rest stays below it.
const INAUDIBLE: f32 = 270.0;
/// How much more power than the background makes a voice: 7 dB.
const CONTRAST: f32 = 5.0;
/// How far back the background is looked for.
const PAST: usize = 3 * BLOCKS_PER_SECOND / 2;
/// With less of a past than this, the background is not known yet.
const PAST_AT_LEAST: usize = 3 * BLOCKS_PER_SECOND / 10;
/// How far ahead the background is looked for. A syllable ends sooner.
const FUTURE: usize = 6 * BLOCKS_PER_SECOND / 10;
/// The pause between two words that still counts as speaking.
const HANGOVER: u64 = 400 * SAMPLE_RATE as u64 / 1_000;

/// Finds speech in 8 kHz audio that is fed to it piece by piece.
///
/// All positions count samples from the first one fed. What was heard in the last 600 ms is held
/// to be speech until it proves to be noise, so the answers may step back by so much.
#[derive(Debug, Clone)]
pub struct SpeechDetector {
    filter: HighPass,
    open: Block,
    position: u64,
    /// Power of the blocks before the open one, the newest last.
    past: VecDeque<f32>,
    /// Blocks that wait for their future.
    doubtful: VecDeque<Block>,
    settled: Speech,
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

/// A stretch of [`FRAME_SAMPLES`] samples.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    start: u64,
    len: usize,
    /// Sum of squares while it is open, then their mean.
    power: f32,
    /// Offset of the first sample that can be heard, and of the one after the last.
    audible: Option<(usize, usize)>,
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
            filter: HighPass::default(),
            open: Block::default(),
            position: 0,
            past: VecDeque::with_capacity(PAST + 1),
            doubtful: VecDeque::new(),
            settled: Speech::default(),
        }
    }

    /// Hears the next samples: a frame, or any other number.
    pub fn feed(&mut self, samples: &[i16]) {
        let mut rest = samples;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(FRAME_SAMPLES - self.open.len));
            let mut voice = [0.0; FRAME_SAMPLES];
            let voice = &mut voice[..now.len()];
            self.filter.pass(now, voice);
            self.open.add(voice);
            self.position += now.len() as u64;
            if self.open.len == FRAME_SAMPLES {
                self.close_block();
            }
            rest = later;
        }
    }

    /// Number of samples heard.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Where the first speech begins.
    pub fn first_speech(&self) -> Option<u64> {
        self.speech().first
    }

    /// The position after the last sample of speech.
    pub fn speech_end(&self) -> Option<u64> {
        self.speech().end
    }

    /// Where what is being said now begins, if somebody is speaking.
    pub fn speaking_since(&self) -> Option<u64> {
        self.is_speaking().then(|| self.speech().since)
    }

    /// How many samples were speech; pauses between words are not.
    pub fn speech_samples(&self) -> u64 {
        self.speech().samples
    }

    /// For how many samples nobody has spoken: since the last speech, or since the beginning.
    pub fn silent_for(&self) -> u64 {
        self.position.saturating_sub(self.speech_end().unwrap_or(0))
    }

    /// Whether somebody is speaking, short pauses included.
    pub fn is_speaking(&self) -> bool {
        self.speech_end().is_some() && self.silent_for() < HANGOVER
    }

    /// The speech so far, with the benefit of the doubt.
    fn speech(&self) -> Speech {
        let mut speech = self.settled;
        self.doubtful.iter().for_each(|block| speech.add(block));
        speech
    }

    fn close_block(&mut self) {
        let block = self.open.close();
        self.open = Block {
            start: self.position,
            ..Block::default()
        };

        self.settle_doubts(&block);
        if block.power >= SURELY_SPEECH {
            self.settle_all_up_to(&block);
        } else if block.power > INAUDIBLE && self.stands_out(block.power) {
            self.doubtful.push_back(block);
        }
        self.past.push_back(block.power);
        if self.past.len() > PAST {
            self.past.pop_front();
        }
    }

    /// Whether `power` may be a voice's, as far as the past tells.
    fn stands_out(&self, power: f32) -> bool {
        // What follows loud speech may be its end.
        let fades = self.past.back().is_some_and(|last| *last >= SURELY_SPEECH);
        let quietest = self.past.iter().copied().fold(f32::INFINITY, f32::min);
        fades || self.past.len() < PAST_AT_LEAST || power > CONTRAST * quietest
    }

    /// `now` is the future of the doubtful blocks: it confirms those that are louder, and those
    /// that waited in vain are noise.
    fn settle_doubts(&mut self, now: &Block) {
        let settled = &mut self.settled;
        let horizon = now.start.saturating_sub((FUTURE * FRAME_SAMPLES) as u64);
        self.doubtful.retain(|block| {
            if block.power > CONTRAST * now.power {
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
        let (start, end) = (block.speech_start(), block.speech_end());
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
    /// Adds samples, of which it leaves the power.
    fn add(&mut self, samples: &mut [f32]) {
        samples.iter_mut().for_each(|sample| *sample *= *sample);
        self.power += sum(samples);
        let is_audible = |power: &f32| *power > INAUDIBLE;
        if let Some(first) = samples.iter().position(is_audible) {
            let last = samples.iter().rposition(is_audible).unwrap_or(first);
            let first = self.audible.map_or(self.len + first, |(first, _)| first);
            self.audible = Some((first, self.len + last + 1));
        }
        self.len += samples.len();
    }

    fn close(mut self) -> Self {
        self.power /= self.len.max(1) as f32;
        self
    }

    fn speech_start(&self) -> u64 {
        self.start + self.audible.map_or(0, |(first, _)| first) as u64
    }

    fn speech_end(&self) -> u64 {
        self.start + self.audible.map_or(self.len, |(_, end)| end) as u64
    }
}

/// A Butterworth filter of second order at 200 Hz: voices pass, hum and offset do not.
#[derive(Debug, Clone, Copy, Default)]
struct HighPass {
    input: [f32; 2],
    output: [f32; 2],
}

impl HighPass {
    const GAIN: f32 = 0.894_858_6;
    const FEEDBACK: [f32; 2] = [-1.778_631_8, 0.800_802_65];

    fn pass(&mut self, samples: &[i16], voice: &mut [f32]) {
        for (voice, sample) in voice.iter_mut().zip(samples) {
            let sample = f32::from(*sample);
            let input = Self::GAIN * (sample - 2.0 * self.input[0] + self.input[1]);
            // In this order only one product waits for the sample before.
            let output =
                input - Self::FEEDBACK[1] * self.output[1] - Self::FEEDBACK[0] * self.output[0];
            self.input = [sample, self.input[0]];
            self.output = [output, self.output[0]];
            *voice = output;
        }
    }
}

/// The sum, in eight lanes that do not wait for each other.
fn sum(numbers: &[f32]) -> f32 {
    let (eights, rest) = numbers.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for eight in eights {
        for (lane, number) in lanes.iter_mut().zip(eight) {
            *lane += number;
        }
    }
    lanes.iter().chain(rest).sum()
}

#[cfg(test)]
mod tests;
