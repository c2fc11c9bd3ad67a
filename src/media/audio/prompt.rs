//! Recordings that are played to callers.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use crate::media::audio::SAMPLE_RATE;
use crate::media::audio::codec::Codec;
use crate::media::audio::encoder::Encoder;
use crate::media::audio::resample;
use crate::media::audio::wav;
use crate::media::audio::wav::WavError;

/// A recording to play. Share it by `Arc`: its frames are made once per codec, and playing costs
/// no more than copying bytes.
///
/// Encoding takes milliseconds, with Opus a hundredth of the recording's length: call
/// [`Prompt::prepare`] where that disturbs nobody, before a media worker asks for the first frame.
#[derive(Clone)]
pub struct Prompt {
    samples: Box<[i16]>,
    rate: u32,
    encoded: [OnceLock<Frames>; Codec::COUNT],
}

impl Prompt {
    /// A recording of mono samples at [`SAMPLE_RATE`]. The last frame is filled up with silence.
    pub fn from_samples(samples: impl Into<Box<[i16]>>) -> Self {
        Self::at_rate(samples, SAMPLE_RATE)
    }

    /// A recording of mono samples at `rate` per second, 8,000 to 48,000.
    pub fn at_rate(samples: impl Into<Box<[i16]>>, rate: u32) -> Self {
        Self {
            samples: samples.into(),
            rate,
            encoded: Default::default(),
        }
    }

    /// A WAV file of any usual kind, at its own rate; see [`wav::read_wav_at_rate`].
    pub fn from_wav(file: &[u8]) -> Result<Self, WavError> {
        let (samples, rate) = wav::read_wav_at_rate(file)?;
        Ok(Self::at_rate(samples, rate))
    }

    /// The audio as it is kept: mono, at [`Prompt::rate`].
    pub fn samples(&self) -> &[i16] {
        &self.samples
    }

    /// Samples per second of [`Prompt::samples`].
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// How long it plays, without the silence of the last frame.
    pub fn duration(&self) -> Duration {
        let samples = self.samples.len() as u64;
        Duration::from_micros(samples * 1_000_000 / u64::from(self.rate))
    }

    /// Number of 20 ms frames, the same for every codec.
    pub fn frame_count(&self) -> usize {
        (50 * self.samples.len()).div_ceil(self.rate as usize)
    }

    /// Encodes for `codec`, unless that was done before.
    pub fn prepare(&self, codec: Codec) {
        self.encoded(codec);
    }

    /// Whether [`Prompt::prepare`] has nothing left to do.
    pub fn is_prepared(&self, codec: Codec) -> bool {
        self.encoded[codec.index()].get().is_some()
    }

    /// The payload of frame `index`, or `None` after the end. Without [`Prompt::prepare`] the
    /// first call of a codec encodes the whole recording.
    pub fn frame(&self, codec: Codec, index: usize) -> Option<&[u8]> {
        self.encoded(codec).get(index)
    }

    /// All payloads, in order.
    pub fn frames(&self, codec: Codec) -> impl Iterator<Item = &[u8]> {
        let frames = self.encoded(codec);
        (0..self.frame_count()).map_while(|index| frames.get(index))
    }

    fn encoded(&self, codec: Codec) -> &Frames {
        self.encoded[codec.index()].get_or_init(|| Frames::encode(codec, &self.samples, self.rate))
    }
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prompt")
            .field("duration", &self.duration())
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

/// Payloads one after the other.
#[derive(Clone)]
struct Frames {
    bytes: Box<[u8]>,
    /// Where each payload ends.
    ends: Box<[u32]>,
}

impl Frames {
    fn encode(codec: Codec, samples: &[i16], rate: u32) -> Self {
        let mut encoder = Encoder::for_rate(codec, rate);
        let resampled;
        let samples = if rate == encoder.rate() {
            samples
        } else {
            resampled = resample::convert(samples, rate, encoder.rate());
            &resampled
        };
        let mut bytes = Vec::new();
        let ends = samples.chunks(encoder.frame_samples()).map(|frame| {
            encoder.encode(frame, &mut bytes);
            u32::try_from(bytes.len()).expect("minutes of audio take megabytes")
        });
        let ends = ends.collect();
        Self {
            bytes: bytes.into(),
            ends,
        }
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.bytes.get(start as usize..end as usize)
    }
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
                let silence = codec.silence()[0];
                assert!(frame[..spoken].iter().all(|code| *code != silence));
                assert!(frame[spoken..].iter().all(|code| *code == silence));
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
