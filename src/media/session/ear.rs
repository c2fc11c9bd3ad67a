//! The ear of a call: decodes what has settled, cheaply and to 8 kHz, and hears who speaks when.

use crate::media::audio::Codec;
use crate::media::audio::Decoder;
use crate::media::audio::FRAME_SAMPLES;
use crate::media::audio::SAMPLE_RATE;
use crate::media::audio::SpeechDetector;
use crate::media::audio::TICK_RATE;
use crate::media::recording::What;
use crate::media::timeline::Packet;

/// Ticks of a sample that the ear hears.
const SAMPLE_TICKS: u64 = (TICK_RATE / SAMPLE_RATE) as u64;

/// A pause between two words that does not end what is being said.
const PAUSE: u64 = 600 * TICK_RATE as u64 / 1_000;

/// Follows who speaks when. All positions are those of the timeline, in ticks.
#[derive(Debug)]
pub(super) struct Ear {
    voice: Voice,
    /// For codecs that are more than a table.
    decoder: Option<Box<Decoding>>,
}

#[derive(Debug)]
struct Decoding {
    decoder: Decoder,
    samples: Vec<i16>,
}

/// Who speaks when.
#[derive(Debug)]
struct Voice {
    detector: SpeechDetector,
    /// Position up to which was listened.
    position: u64,
    /// The detector's own measure of the end of speech, to see it change.
    detector_end: Option<u64>,
    speech_end: Option<u64>,
    /// Where what is being said began, and how many samples of speech were heard before.
    speaking: Option<(u64, u64)>,
}

impl Ear {
    pub(super) fn new() -> Self {
        Self {
            voice: Voice {
                detector: SpeechDetector::new(),
                position: 0,
                detector_end: None,
                speech_end: None,
                speaking: None,
            },
            decoder: None,
        }
    }

    /// Position up to which was listened.
    pub(super) fn position(&self) -> u64 {
        self.voice.position
    }

    /// Position after the last speech.
    pub(super) fn speech_end(&self) -> Option<u64> {
        self.voice.speech_end
    }

    /// Where what is being said at [`Ear::position`] began.
    pub(super) fn speaking_since(&self) -> Option<u64> {
        self.voice.speaking.map(|(since, _)| since)
    }

    /// Ticks of speech heard in all.
    pub(super) fn speech_ticks(&self) -> u64 {
        self.voice.detector.speech_samples() * SAMPLE_TICKS
    }

    /// Ticks of speech heard before what is being said now.
    pub(super) fn speech_ticks_before(&self) -> u64 {
        let before = self.voice.speaking.map(|(_, samples)| samples);
        before.map_or(self.speech_ticks(), |samples| samples * SAMPLE_TICKS)
    }

    /// Listens to the next packet. `also` hears the same samples, from a position on. Gaps and comfort
    /// noise are no background to compare voices with, so they are left out.
    pub(super) fn listen(&mut self, packet: &Packet<'_>, mut also: impl FnMut(u64, &[i16])) {
        let (position, end) = (packet.position, packet.end());
        self.voice.pass(position);
        if let What::Audio(codec, payload) = packet.what {
            match codec.law() {
                Some(law) => {
                    let mut samples = [0; FRAME_SAMPLES];
                    for codes in payload.chunks(FRAME_SAMPLES) {
                        let len = law.decode(codes, &mut samples);
                        also(self.voice.position, &samples[..len]);
                        self.voice.hear(&samples[..len]);
                    }
                }
                None => {
                    let decoding = self.decoder.get_or_insert_with(|| Decoding::boxed(codec));
                    decoding.decode(codec, payload);
                    for samples in decoding.samples.chunks(FRAME_SAMPLES) {
                        also(self.voice.position, samples);
                        self.voice.hear(samples);
                    }
                }
            }
        }
        self.voice.pass(end);
    }
}

impl Decoding {
    fn boxed(codec: Codec) -> Box<Self> {
        Box::new(Self {
            decoder: Decoder::new(codec, SAMPLE_RATE),
            samples: Vec::new(),
        })
    }

    fn decode(&mut self, codec: Codec, payload: &[u8]) {
        if self.decoder.codec() != codec {
            self.decoder = Decoder::new(codec, SAMPLE_RATE);
        }
        self.samples.clear();
        self.decoder.decode(payload, &mut self.samples);
    }
}

impl Voice {
    fn hear(&mut self, samples: &[i16]) {
        let start = self.position;
        self.position += samples.len() as u64 * SAMPLE_TICKS;
        let before = self.detector.speech_samples();
        // What a line sends that is not there at all is no background either.
        if samples.iter().fold(0, |bits, sample| bits | sample) != 0 {
            self.detector.feed(samples);
            let end = self.detector.speech_end();
            if end != self.detector_end {
                self.detector_end = end;
                let silent = self.detector.silent_for() * SAMPLE_TICKS;
                self.speech_end = end.map(|_| self.position.saturating_sub(silent));
            }
        }
        self.judge(start, before);
    }

    /// Nothing is to be heard up to `position`.
    fn pass(&mut self, position: u64) {
        if position > self.position {
            self.position = position;
            self.judge(position, self.detector.speech_samples());
        }
    }

    /// Whether somebody speaks, and since `start` if that is new, with `before` samples of speech
    /// before that.
    fn judge(&mut self, start: u64, before: u64) {
        let recent = |end: u64| self.position.saturating_sub(end) < PAUSE;
        if !self.speech_end.is_some_and(recent) {
            self.speaking = None;
        } else if self.speaking.is_none() {
            self.speaking = Some((start, before));
        }
    }
}
