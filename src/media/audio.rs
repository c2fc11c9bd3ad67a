//! Audio: mono, signed 16 bit. Codecs, comfort noise, tones, prompts, WAV files and the question
//! whether somebody speaks.

#[cfg(feature = "amr")]
pub mod amr;
mod codec;
pub mod convert;
mod decoder;
mod dtmf;
mod encoder;
mod g711;
mod noise;
pub mod ogg;
pub mod opus;
mod prompt;
mod resample;
mod speech;
mod tone;
pub mod wav;

pub use codec::{Codec, FRAME_TICKS, TICK_RATE};
pub use convert::{AudioError, read_audio};
pub use decoder::Decoder;
pub use dtmf::DtmfDetector;
pub use encoder::Encoder;
pub use g711::Law;
pub use noise::ComfortNoise;
pub use prompt::Prompt;
pub use speech::SpeechDetector;
pub use tone::{BEEP_HZ, Tone, beep, tone_level};
pub use wav::{WavError, read_wav, read_wav_at_rate, write_wav, write_wav_at};

/// Samples per second of the telephone's narrow band.
pub const SAMPLE_RATE: u32 = 8_000;

/// Samples in a frame of 20 ms at [`SAMPLE_RATE`], which is also the number of bytes it takes in
/// G.711.
pub const FRAME_SAMPLES: usize = 160;
