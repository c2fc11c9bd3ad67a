//! WAV files: read of any usual kind, written as the telephone's kind.
//!
//! The reader is our own. It takes what `hound` does not: G.711, headers that were never
//! completed because the writer was a pipe, and any bytes at all without a panic.

use std::io::Cursor;

use crate::media::audio::SAMPLE_RATE;
use crate::media::audio::codec::Codec;
use crate::media::audio::resample;

/// The longest file that is read. It bounds the memory that an upload can take.
const LONGEST_SECONDS: u64 = 300;

const RATES: std::ops::RangeInclusive<u32> = SAMPLE_RATE..=96_000;

/// Why a WAV file cannot be used; the text is for the person who gave it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WavError {
    /// It does not begin as a WAV file does.
    #[error("this is not a WAV file; export the recording as WAV (PCM, 16 bit, mono)")]
    NotWav,
    /// The `fmt ` chunk is missing or too short.
    #[error("this WAV file does not say how its audio is stored; export it again")]
    NoFormat,
    /// The `data` chunk is missing or empty.
    #[error("this WAV file holds no audio")]
    NoAudio,
    /// The `data` chunk is longer than the file.
    #[error(
        "this WAV file is cut short: {present} of {promised} bytes of audio are there; send it again"
    )]
    Truncated {
        /// Bytes of audio in the file.
        present: usize,
        /// Bytes of audio the header tells of.
        promised: usize,
    },
    /// The encoding is none of ours.
    #[error(
        "audio stored as format {tag} with {bits} bits cannot be read; \
         export it as PCM with 8, 16, 24 or 32 bits, as float, or as G.711"
    )]
    Encoding {
        /// The WAVE format tag.
        tag: u16,
        /// Bits a sample.
        bits: u16,
    },
    /// Neither mono nor stereo.
    #[error("audio with {0} channels cannot be read; export it as mono or stereo")]
    Channels(u16),
    /// A sample rate out of bounds.
    #[error("a sample rate of {0} Hz cannot be read; export it with 8000 to 96000 Hz")]
    Rate(u32),
    /// Longer than anything we play.
    #[error("the recording is {seconds} seconds long; at most {limit} are possible")]
    TooLong {
        /// Length of the recording, rounded up.
        seconds: u64,
        /// The limit.
        limit: u64,
    },
}

/// Reads a WAV file into 8 kHz mono: PCM of 8, 16, 24 or 32 bits, float of 32 or 64 bits, or
/// G.711; mono or stereo (mixed down); 8 to 96 kHz (resampled); up to five minutes.
pub fn read_wav(file: &[u8]) -> Result<Vec<i16>, WavError> {
    let (format, audio) = find_chunks(file)?;
    let frame_bytes = format.encoding.bytes() * usize::from(format.channels);
    let frames = audio.chunks_exact(frame_bytes);
    if frames.len() == 0 {
        return Err(WavError::NoAudio);
    }
    let seconds = (frames.len() as u64).div_ceil(u64::from(format.rate));
    if seconds > LONGEST_SECONDS {
        return Err(WavError::TooLong {
            seconds,
            limit: LONGEST_SECONDS,
        });
    }
    let mono: Vec<f32> = frames
        .map(|frame| {
            let channels = frame.chunks_exact(format.encoding.bytes());
            let sum: f32 = channels.map(|sample| format.encoding.decode(sample)).sum();
            sum / f32::from(format.channels)
        })
        .collect();
    let narrow = resample::to_8_khz(&mono, format.rate);
    Ok(narrow.into_iter().map(to_i16).collect())
}

/// Writes 8 kHz mono samples as a WAV file of 16 bits.
///
/// # Panics
/// If there are more samples than a WAV file can hold, which is more than three days.
pub fn write_wav(samples: &[i16]) -> Vec<u8> {
    const FITS: &str = "a WAV file in memory takes what the telephone can record";
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut file = Cursor::new(Vec::with_capacity(44 + 2 * samples.len()));
    let mut writer = hound::WavWriter::new(&mut file, spec).expect(FITS);
    for sample in samples {
        writer.write_sample(*sample).expect(FITS);
    }
    writer.finalize().expect(FITS);
    file.into_inner()
}

/// Float samples of whole numbers come back as they were; others are rounded and held in range.
fn to_i16(sample: f32) -> i16 {
    (sample * 32_768.0).round() as i16
}

struct Format {
    encoding: Encoding,
    channels: u16,
    rate: u32,
}

#[derive(Clone, Copy)]
enum Encoding {
    Unsigned8,
    Signed16,
    Signed24,
    Signed32,
    Float32,
    Float64,
    G711(Codec),
}

impl Encoding {
    fn new(tag: u16, bits: u16) -> Result<Self, WavError> {
        Ok(match (tag, bits) {
            (1, 8) => Self::Unsigned8,
            (1, 16) => Self::Signed16,
            (1, 24) => Self::Signed24,
            (1, 32) => Self::Signed32,
            (3, 32) => Self::Float32,
            (3, 64) => Self::Float64,
            (6, 8) => Self::G711(Codec::Pcma),
            (7, 8) => Self::G711(Codec::Pcmu),
            _ => return Err(WavError::Encoding { tag, bits }),
        })
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Unsigned8 | Self::G711(_) => 1,
            Self::Signed16 => 2,
            Self::Signed24 => 3,
            Self::Signed32 | Self::Float32 => 4,
            Self::Float64 => 8,
        }
    }

    /// A sample between -1 and 1, from [`Encoding::bytes`] bytes.
    fn decode(self, bytes: &[u8]) -> f32 {
        let value = match (self, bytes) {
            (Self::Unsigned8, &[a]) => (f32::from(a) - 128.0) / 128.0,
            (Self::Signed16, &[a, b]) => from_i16(i16::from_le_bytes([a, b])),
            (Self::Signed24, &[a, b, c]) => from_i32(i32::from_le_bytes([0, a, b, c])),
            (Self::Signed32, &[a, b, c, d]) => from_i32(i32::from_le_bytes([a, b, c, d])),
            (Self::Float32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Self::Float64, &[a, b, c, d, e, f, g, h]) => {
                f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32
            }
            (Self::G711(codec), code) => {
                let mut sample = [0];
                codec.decode(code, &mut sample);
                from_i16(sample[0])
            }
            _ => 0.0,
        };
        if value.is_finite() {
            value.clamp(-1.0, 1.0)
        } else {
            0.0
        }
    }
}

fn from_i16(sample: i16) -> f32 {
    f32::from(sample) / 32_768.0
}

fn from_i32(sample: i32) -> f32 {
    sample as f32 / 2_147_483_648.0
}

/// Walks through the chunks up to the audio.
fn find_chunks(file: &[u8]) -> Result<(Format, &[u8]), WavError> {
    let Some((riff, mut rest)) = file.split_at_checked(12) else {
        return Err(WavError::NotWav);
    };
    if !riff.starts_with(b"RIFF") || !riff.ends_with(b"WAVE") {
        return Err(WavError::NotWav);
    }
    let mut format = None;
    while let Some((header, body)) = rest.split_at_checked(8) {
        let [a, b, c, d, size @ ..] = header else {
            break;
        };
        let promised = read_u32(size).unwrap_or(0) as usize;
        let chunk = body.get(..promised);
        match [*a, *b, *c, *d] {
            [b'f', b'm', b't', b' '] => {
                format = Some(read_format(chunk.ok_or(WavError::NoFormat)?)?);
            }
            [b'd', b'a', b't', b'a'] => {
                let audio = match chunk {
                    Some(audio) => audio,
                    None if was_never_known(promised) => body,
                    None => {
                        return Err(WavError::Truncated {
                            present: body.len(),
                            promised,
                        });
                    }
                };
                return Ok((format.ok_or(WavError::NoFormat)?, audio));
            }
            _ => {}
        }
        // Chunks begin at even offsets.
        let next = promised.saturating_add(promised % 2);
        rest = body.get(next..).unwrap_or(&[]);
    }
    Err(match format {
        Some(_) => WavError::NoAudio,
        None => WavError::NoFormat,
    })
}

/// A writer that cannot go back to the header leaves one of the largest lengths there.
const fn was_never_known(length: usize) -> bool {
    length >= 0x7FFF_0000
}

fn read_format(chunk: &[u8]) -> Result<Format, WavError> {
    let u16_at = |at: usize| chunk.get(at..at + 2).and_then(read_u16);
    let field = |at| u16_at(at).ok_or(WavError::NoFormat);
    let (mut tag, channels, bits) = (field(0)?, field(2)?, field(14)?);
    let rate = chunk.get(4..8).and_then(read_u32);
    let rate = rate.ok_or(WavError::NoFormat)?;
    const EXTENSIBLE: u16 = 0xFFFE;
    if tag == EXTENSIBLE {
        tag = field(24)?;
    }
    if !(1..=2).contains(&channels) {
        return Err(WavError::Channels(channels));
    }
    if !RATES.contains(&rate) {
        return Err(WavError::Rate(rate));
    }
    Ok(Format {
        encoding: Encoding::new(tag, bits)?,
        channels,
        rate,
    })
}

fn read_u16(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_le_bytes)
}

fn read_u32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests;
