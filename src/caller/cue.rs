//! Hears when it is one's turn to speak: after a beep, or when the other side has fallen silent.

use crate::media::audio::{BEEP_HZ, FRAME_SAMPLES, tone_level};

/// What beeps sound like, in hertz: ours, and those of other voicemail systems.
const BEEPS_HZ: [f64; 8] = [BEEP_HZ, 400.0, 425.0, 440.0, 800.0, 1000.0, 1200.0, 1400.0];
/// So many frames of one tone are a beep (120 ms); speech never holds a pure tone that long.
const BEEP_FRAMES: u32 = 6;
/// So many silent frames after a greeting invite to speak (2 s), where no beep comes.
const SILENT_FRAMES: u32 = 100;
/// Below this amplitude (of 1.0) a frame is silent.
const SILENT_BELOW: f64 = 0.005;
/// The share of a frame's amplitude that a pure tone has.
const PURE: f64 = 0.9;

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cue {
    /// Now speak.
    Speak,
}

/// Listens frame by frame.
#[derive(Debug, Default)]
pub(super) struct CueListener {
    rest: Vec<i16>,
    tone_frames: u32,
    silent_frames: u32,
    heard_anything: bool,
}

impl CueListener {
    /// Takes what was heard next. A cue comes once the beep is over.
    pub(super) fn hear(&mut self, samples: &[i16]) -> Option<Cue> {
        self.rest.extend_from_slice(samples);
        let whole = self.rest.len() - self.rest.len() % FRAME_SAMPLES;
        let frames: Vec<i16> = self.rest.drain(..whole).collect();
        let mut cue = None;
        for frame in frames.chunks_exact(FRAME_SAMPLES) {
            cue = self.hear_frame(frame).or(cue);
        }
        cue
    }

    /// Whether the last that was heard is a beep, which is over if nothing follows.
    pub(super) fn is_in_beep(&self) -> bool {
        self.tone_frames >= BEEP_FRAMES
    }

    fn hear_frame(&mut self, frame: &[i16]) -> Option<Cue> {
        let power = frame
            .iter()
            .map(|&s| (f64::from(s) / f64::from(i16::MAX)).powi(2))
            .sum::<f64>();
        // A sine has an amplitude of the square root of two times its mean square.
        let amplitude = (2.0 * power / frame.len() as f64).sqrt();
        if amplitude < SILENT_BELOW {
            self.silent_frames += 1;
        } else {
            self.silent_frames = 0;
            self.heard_anything = true;
        }
        let strongest = BEEPS_HZ
            .iter()
            .map(|&hz| tone_level(frame, hz))
            .fold(0.0, f64::max);
        let is_tone = amplitude >= SILENT_BELOW && strongest >= PURE * amplitude;
        let beep_over = !is_tone && self.is_in_beep();
        self.tone_frames = if is_tone { self.tone_frames + 1 } else { 0 };
        let silence = self.heard_anything && self.silent_frames == SILENT_FRAMES;
        (beep_over || silence).then_some(Cue::Speak)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::audio::{Prompt, Tone, beep};

    fn cue_at_ms(samples: &[i16]) -> Option<usize> {
        let mut listener = CueListener::default();
        let mut frames = samples.chunks(FRAME_SAMPLES).enumerate();
        frames.find_map(|(i, frame)| listener.hear(frame).map(|_| i * 20))
    }

    #[test]
    fn the_end_of_the_beep_is_the_cue_and_the_greeting_before_it_is_none() {
        let greeting = Prompt::from_wav(include_bytes!("../../prompts/en/greeting.wav")).unwrap();
        let mut call = greeting.samples().to_vec();
        let beep_at = call.len() / 8;
        call.extend_from_slice(beep().samples());
        call.extend_from_slice(&[0; 1600]);
        let cue = cue_at_ms(&call).expect("a cue");
        assert!(
            (beep_at + 280..beep_at + 360).contains(&cue),
            "{cue} for a beep at {beep_at}"
        );
    }

    #[test]
    fn a_beep_is_known_before_it_is_over_and_a_greeting_is_none() {
        let mut listener = CueListener::default();
        let greeting = Prompt::from_wav(include_bytes!("../../prompts/en/greeting.wav")).unwrap();
        listener.hear(greeting.samples());
        assert!(!listener.is_in_beep());
        assert_eq!(listener.hear(beep().samples()), None);
        assert!(listener.is_in_beep());
        listener.hear(&[0; 1600]);
        assert!(!listener.is_in_beep());
    }

    #[test]
    fn a_long_silence_after_a_greeting_is_a_cue_too() {
        let mut call = Tone::new(300.0, 0.2).take_ms(500);
        call.extend_from_slice(&[0; 8 * 2500]);
        assert_eq!(cue_at_ms(&call), Some(2480));
    }

    #[test]
    fn silence_alone_is_no_cue() {
        assert_eq!(cue_at_ms(&[0; 80_000]), None);
    }
}
