//! From samples to payloads.

use std::fmt;

use ezk_g722::libg722;
use opus_rs::Application;
use opus_rs::OpusEncoder;

#[cfg(feature = "amr")]
use crate::media::audio::amr;
use crate::media::audio::codec::Codec;
use crate::media::audio::g711::Law;
use crate::media::audio::opus;

/// The largest payload that is made; [`MAX_PACKET`] counts on it.
///
/// [`MAX_PACKET`]: crate::media::session::MAX_PACKET
const MAX_PAYLOAD: usize = 256;

/// Bits per second of Opus, on average: transparent for speech.
const OPUS_BITRATE: i32 = 32_000;

/// How hard Opus tries, of 10. Greetings are encoded once, and nothing waits for them.
const OPUS_COMPLEXITY: i32 = 9;

/// What Opus' encoder looks ahead, in ticks: 2.5 ms of overlap and 4 ms to choose its mode in.
const OPUS_DELAY_TICKS: u16 = 312;

/// Encodes mono samples, 20 ms at a time.
pub struct Encoder {
    codec: Codec,
    rate: u32,
    state: State,
}

enum State {
    G711(Law),
    G722(Box<libg722::encoder::Encoder>),
    Opus(Box<OpusEncoder>),
    #[cfg(feature = "amr")]
    Amr(Box<amr::Encoder>),
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("codec", &self.codec)
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder of samples at [`Codec::sample_rate`].
    pub fn new(codec: Codec) -> Self {
        let state = match codec {
            Codec::Pcmu => State::G711(Law::Mu),
            Codec::Pcma => State::G711(Law::A),
            Codec::G722 => State::G722(Box::new(libg722::encoder::Encoder::new(
                libg722::Bitrate::Mode1_64000,
                false,
                false,
            ))),
            Codec::Opus => return Self::opus_at_rate(codec.sample_rate()),
            #[cfg(feature = "amr")]
            Codec::Amr(packing) => {
                State::Amr(Box::new(amr::Encoder::new(amr::Band::Narrow, packing)))
            }
            #[cfg(feature = "amr")]
            Codec::AmrWb(packing) => {
                State::Amr(Box::new(amr::Encoder::new(amr::Band::Wide, packing)))
            }
        };
        Self {
            codec,
            rate: codec.sample_rate(),
            state,
        }
    }

    /// An Opus encoder of speech at one of Opus' own rates, 8,000 to 48,000; of any other it takes
    /// 48,000. What has no upper band spends no bits on it.
    pub fn opus_at_rate(rate: u32) -> Self {
        let rate = if matches!(rate, 8_000 | 12_000 | 16_000 | 24_000) {
            rate
        } else {
            48_000
        };
        let mut encoder =
            OpusEncoder::new(rate as i32, 1, Application::Voip).expect("the rate is one of Opus'");
        encoder.bitrate_bps = OPUS_BITRATE;
        encoder.complexity = OPUS_COMPLEXITY;
        Self {
            codec: Codec::Opus,
            rate,
            state: State::Opus(Box::new(encoder)),
        }
    }

    /// The encoder that fits samples at `rate` best.
    pub(super) fn for_rate(codec: Codec, rate: u32) -> Self {
        match codec {
            Codec::Opus => Self::opus_at_rate(rate),
            _ => Self::new(codec),
        }
    }

    /// Samples per second that it takes.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Samples of 20 ms: what [`Encoder::encode`] takes.
    pub fn frame_samples(&self) -> usize {
        self.rate as usize / 50
    }

    /// By how much what is decoded lags behind.
    pub fn delay_ticks(&self) -> u16 {
        match self.state {
            State::Opus(_) => OPUS_DELAY_TICKS,
            _ => 0,
        }
    }

    /// Appends the payload of the next 20 ms. A shorter frame is filled up with silence, of a
    /// longer one the rest is left out.
    pub fn encode(&mut self, frame: &[i16], out: &mut Vec<u8>) {
        let mut whole = [0; 960];
        let whole = &mut whole[..self.frame_samples()];
        for (to, from) in whole.iter_mut().zip(frame) {
            *to = *from;
        }
        match &mut self.state {
            State::G711(law) => {
                let start = out.len();
                out.resize(start + whole.len(), law.silence());
                law.encode(whole, &mut out[start..]);
            }
            State::G722(encoder) => out.extend(encoder.encode(whole)),
            State::Opus(encoder) => {
                let mut packet = [0; MAX_PAYLOAD];
                match encoder.encode_i16(whole, whole.len(), &mut packet) {
                    Ok(len) => out.extend(packet.iter().take(len)),
                    Err(_) => out.extend(opus::SILENCE),
                }
            }
            #[cfg(feature = "amr")]
            State::Amr(encoder) => encoder.encode(whole, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::media::audio::Decoder;
    use crate::media::audio::Tone;
    use crate::media::audio::tone_level;

    /// A tone of 400 ms at `rate`, encoded frame by frame and decoded at `heard_at`.
    fn through(mut encoder: Encoder, heard_at: u32, hertz: f64) -> Vec<i16> {
        let mut tone = Tone::at_rate(hertz, 0.5, encoder.rate());
        let mut decoder = Decoder::new(encoder.codec, heard_at);
        let (mut frame, mut heard) = (vec![0; encoder.frame_samples()], Vec::new());
        for _ in 0..40 {
            tone.fill(&mut frame);
            let mut payload = Vec::new();
            encoder.encode(&frame, &mut payload);
            assert!((1..=MAX_PAYLOAD).contains(&payload.len()));
            assert_eq!(encoder.codec.duration(&payload), Some(960));
            decoder.decode(&payload, &mut heard);
        }
        assert_eq!(decoder.defects(), 0);
        assert_eq!(heard.len() as u32, heard_at * 4 / 5);
        heard.split_off(heard.len() / 2)
    }

    #[test]
    fn a_tone_comes_out_of_every_codec_at_every_rate_as_loud_as_it_went_in() {
        for codec in [Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::Opus] {
            for rate in [8_000, 16_000, 48_000] {
                let heard = through(Encoder::new(codec), rate, 1_000.0);
                // `tone_level` thinks in 8 kHz.
                let level = tone_level(&heard, 8_000.0 * 1_000.0 / f64::from(rate));
                assert!((level - 0.5).abs() < 0.06, "{codec:?} at {rate}: {level}");
            }
        }
    }

    #[test]
    fn opus_takes_speech_at_its_own_rate() {
        for rate in [8_000, 16_000, 24_000, 48_000] {
            let heard = through(Encoder::opus_at_rate(rate), 8_000, 1_000.0);
            let level = tone_level(&heard, 1_000.0);
            assert!((level - 0.5).abs() < 0.06, "{rate}: {level}");
        }
    }

    #[test]
    fn wideband_is_wide() {
        for codec in [Codec::G722, Codec::Opus] {
            let heard = through(Encoder::new(codec), codec.sample_rate(), 6_000.0);
            let scale = 8_000.0 / f64::from(codec.sample_rate());
            let level = tone_level(&heard, 6_000.0 * scale);
            assert!(level > 0.3, "{codec:?}: {level}");
        }
    }

    #[test]
    fn the_loudest_noise_fits_into_a_packet() {
        let mut encoder = Encoder::new(Codec::Opus);
        let mut random = 1_u32;
        for _ in 0..100 {
            let mut frame = vec![0; encoder.frame_samples()];
            for sample in &mut frame {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *sample = (random >> 16) as i16;
            }
            let mut payload = Vec::new();
            encoder.encode(&frame, &mut payload);
            assert!(payload.len() <= MAX_PAYLOAD);
            assert_eq!(Codec::Opus.duration(&payload), Some(960));
        }
    }

    #[test]
    fn silence_of_every_codec_is_20_ms_of_it() {
        for codec in [Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::Opus] {
            let mut decoder = Decoder::new(codec, codec.sample_rate());
            let mut heard = Vec::new();
            for _ in 0..5 {
                assert_eq!(codec.duration(codec.silence()), Some(960));
                decoder.decode(codec.silence(), &mut heard);
            }
            assert!(heard.iter().all(|s| s.abs() < 60), "{codec:?}");
        }
    }
}
