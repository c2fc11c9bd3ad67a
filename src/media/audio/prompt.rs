//! Recordings that are played to callers.

use std::time::Duration;

use crate::media::audio::FRAME_SAMPLES;
use crate::media::audio::SAMPLE_RATE;
use crate::media::audio::codec::Codec;
use crate::media::audio::wav::WavError;
use crate::media::audio::wav::read_wav;

/// A recording to play, with the frames of both codecs made once: share it by `Arc`, and playing
/// costs no more than copying bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    samples: Box<[i16]>,
    pcmu: Box<[u8]>,
    pcma: Box<[u8]>,
}

impl Prompt {
    /// Prepares 8 kHz mono samples. The last frame is filled up with silence.
    pub fn from_samples(samples: impl Into<Box<[i16]>>) -> Self {
        let samples = samples.into();
        Self {
            pcmu: encode(Codec::Pcmu, &samples),
            pcma: encode(Codec::Pcma, &samples),
            samples,
        }
    }

    /// Prepares a WAV file of any usual kind; see [`read_wav`].
    pub fn from_wav(file: &[u8]) -> Result<Self, WavError> {
        read_wav(file).map(Self::from_samples)
    }

    /// The audio: 8 kHz, mono.
    pub fn samples(&self) -> &[i16] {
        &self.samples
    }

    /// How long it plays, without the silence of the last frame.
    pub fn duration(&self) -> Duration {
        let samples = self.samples.len() as u64;
        Duration::from_micros(samples * 1_000_000 / u64::from(SAMPLE_RATE))
    }

    /// Number of 20 ms frames.
    pub fn frame_count(&self) -> usize {
        self.pcmu.len() / FRAME_SAMPLES
    }

    /// The payload of frame `index`: [`FRAME_SAMPLES`] bytes, or `None` after the end.
    pub fn frame(&self, codec: Codec, index: usize) -> Option<&[u8]> {
        let start = index.checked_mul(FRAME_SAMPLES)?;
        let end = start.checked_add(FRAME_SAMPLES)?;
        self.encoded(codec).get(start..end)
    }

    /// All payloads, in order.
    pub fn frames(&self, codec: Codec) -> impl ExactSizeIterator<Item = &[u8]> {
        self.encoded(codec).chunks_exact(FRAME_SAMPLES)
    }

    fn encoded(&self, codec: Codec) -> &[u8] {
        match codec {
            Codec::Pcmu => &self.pcmu,
            Codec::Pcma => &self.pcma,
        }
    }
}

fn encode(codec: Codec, samples: &[i16]) -> Box<[u8]> {
    let mut payload = vec![codec.silence(); samples.len().next_multiple_of(FRAME_SAMPLES)];
    codec.encode(samples, &mut payload);
    payload.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    use crate::media::audio::tone;

    #[test]
    fn frames_hold_the_samples_and_end_in_silence() {
        let prompt = Prompt::from_samples(vec![8_000; 400]);
        assert_eq!(prompt.frame_count(), 3);
        assert_eq!(prompt.duration(), Duration::from_millis(50));
        for codec in [Codec::Pcmu, Codec::Pcma] {
            let frames: Vec<_> = prompt.frames(codec).collect();
            assert_eq!(frames.len(), 3);
            for (index, frame) in frames.iter().enumerate() {
                assert_eq!(prompt.frame(codec, index), Some(*frame));
                let spoken = if index < 2 { 160 } else { 80 };
                assert!(frame[..spoken].iter().all(|code| *code != codec.silence()));
                assert!(frame[spoken..].iter().all(|code| *code == codec.silence()));
            }
            assert_eq!(prompt.frame(codec, 3), None);
            assert_eq!(prompt.frame(codec, usize::MAX), None);
        }
    }

    #[test]
    fn a_prompt_without_samples_has_no_frames() {
        let prompt = Prompt::from_samples(Vec::new());
        assert_eq!(prompt.frame_count(), 0);
        assert_eq!(prompt.frame(Codec::Pcma, 0), None);
    }

    /// A line of `prompts/manifest.toml`.
    #[derive(serde::Deserialize)]
    struct Entry {
        language: String,
        name: String,
        file: String,
        text: String,
        licence: String,
        duration_ms: u64,
    }

    #[derive(serde::Deserialize)]
    struct Manifest {
        prompt: Vec<Entry>,
    }

    fn shipped(file: &str) -> Vec<u8> {
        let path = format!("{}/prompts/{file}", env!("CARGO_MANIFEST_DIR"));
        fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn manifest() -> Vec<Entry> {
        let text = String::from_utf8(shipped("manifest.toml")).unwrap();
        toml::from_str::<Manifest>(&text).unwrap().prompt
    }

    fn dbov(samples: &[i16]) -> f64 {
        let sum: f64 = samples.iter().map(|s| f64::from(*s).powi(2)).sum();
        10.0 * (sum / samples.len() as f64 / 32_768_f64.powi(2)).log10()
    }

    #[test]
    fn every_language_has_every_prompt() {
        let entries = manifest();
        for language in ["en", "nb", "sv", "de"] {
            for name in [
                "greeting",
                "greeting-busy",
                "greeting-no-answer",
                "greeting-unreachable",
                "thank-you",
                "mailbox-full",
            ] {
                let is_it = |entry: &&Entry| entry.language == language && entry.name == name;
                let entry = entries.iter().find(is_it);
                let entry = entry.unwrap_or_else(|| panic!("{language} has no {name}"));
                assert_eq!(entry.file, format!("{language}/{name}.wav"));
                assert!(!entry.text.is_empty() && !entry.licence.is_empty());
            }
        }
    }

    #[test]
    fn every_prompt_is_as_loud_as_the_others_and_neither_clipped_nor_padded() {
        for entry in manifest() {
            let bytes = shipped(&entry.file);
            let spec = hound::WavReader::new(bytes.as_slice()).unwrap().spec();
            assert_eq!(
                (spec.channels, spec.sample_rate, spec.bits_per_sample),
                (1, 8_000, 16)
            );

            let prompt = Prompt::from_wav(&bytes).unwrap();
            let samples = prompt.samples();
            assert_eq!(prompt.duration().as_millis(), entry.duration_ms.into());
            let peak = samples.iter().map(|s| s.unsigned_abs()).max().unwrap();
            assert!(peak < 29_205, "{}: a peak above -1 dBFS", entry.file);
            // -19 LUFS of a voice is about -19.5 dBov.
            let level = dbov(samples);
            assert!(
                (-20.5..-18.5).contains(&level),
                "{}: {level:.1} dBov",
                entry.file
            );

            let audible = |sample: &i16| sample.unsigned_abs() > 100;
            let lead = samples.iter().position(audible).unwrap() / 8;
            let tail = samples.iter().rev().position(audible).unwrap() / 8;
            assert!(
                (50..70).contains(&lead),
                "{}: begins after {lead} ms",
                entry.file
            );
            assert!(
                (150..175).contains(&tail),
                "{}: ends after {tail} ms",
                entry.file
            );
            assert!(
                prompt.duration() < Duration::from_millis(6_500),
                "{}",
                entry.file
            );
        }
    }

    #[test]
    fn the_default_greeting_is_short() {
        let greeting = Prompt::from_wav(&shipped("en/greeting.wav")).unwrap();
        assert!(greeting.duration() < Duration::from_secs(5));
    }

    #[test]
    fn the_beep_in_the_folder_is_the_one_we_make() {
        let file = Prompt::from_wav(&shipped("beep.wav")).unwrap();
        let made = tone::beep();
        assert_eq!(file.samples().len(), made.samples().len());
        for (a, b) in file.samples().iter().zip(made.samples()) {
            assert!(a.abs_diff(*b) <= 2, "{a} {b}");
        }
    }
}
