//! Audio as the telephone knows it: mono, 8 kHz, signed 16 bit. Codecs, comfort noise, tones,
//! prompts, WAV files and the question whether somebody speaks.

mod codec;
mod prompt;
mod resample;
mod speech;
mod tone;
mod wav;

pub use codec::{Codec, ComfortNoise};
pub use prompt::Prompt;
pub use speech::SpeechDetector;
pub use tone::{BEEP_HZ, Tone, beep, tone_level};
pub use wav::{WavError, read_wav, write_wav};

/// Samples per second of everything in this module.
pub const SAMPLE_RATE: u32 = 8_000;

/// Samples in a frame of 20 ms, which is also the number of bytes it takes in G.711.
pub const FRAME_SAMPLES: usize = 160;
