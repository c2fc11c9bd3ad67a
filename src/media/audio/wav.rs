//! WAV files: read of any usual kind, written as PCM of 16 bits or as G.711.
//!
//! Both halves are our own. They take what `hound` does not: G.711, headers that were never
//! completed because the writer was a pipe, any bytes at all without a panic, and heads whose
//! length is known before the first sample is.

use std::io;
use std::io::Read;

use crate::media::audio::SAMPLE_RATE;
use crate::media::audio::g711::Law;
use crate::media::audio::resample;

/// The longest file that is read. It bounds the memory that an upload can take.
pub(super) const LONGEST_SECONDS: u64 = 300;

/// The highest rate that is kept: no codec of ours carries more.
const HIGHEST_RATE: u32 = 48_000;

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

/// Reads a WAV file into 8 kHz mono; see [`read_wav_at_rate`].
pub fn read_wav(file: &[u8]) -> Result<Vec<i16>, WavError> {
    let (mono, rate) = read_mono(file)?;
    Ok(to_rate(&mono, rate, SAMPLE_RATE))
}

/// Reads a WAV file into mono samples and their rate: PCM of 8, 16, 24 or 32 bits, float of 32 or
/// 64 bits, or G.711; mono or stereo (mixed down); 8 to 96 kHz (48 kHz is kept of more); up to
/// five minutes.
pub fn read_wav_at_rate(file: &[u8]) -> Result<(Vec<i16>, u32), WavError> {
    let (mono, rate) = read_mono(file)?;
    let kept = rate.min(HIGHEST_RATE);
    Ok((to_rate(&mono, rate, kept), kept))
}

/// Reads one of our own WAV files bit by bit: of [`pcm_head`] or [`g711_head`].
pub struct Stream<R> {
    source: R,
    encoding: Encoding,
    rate: u32,
    /// Samples to come.
    left: u64,
}

impl<R: Read> Stream<R> {
    /// Reads the head.
    pub fn open(mut source: R) -> io::Result<Self> {
        let mut head = Vec::new();
        source
            .by_ref()
            .take(PCM_HEAD_BYTES as u64)
            .read_to_end(&mut head)?;
        if head.get(16) != Some(&16) {
            let rest = (G711_HEAD_BYTES - PCM_HEAD_BYTES) as u64;
            source.by_ref().take(rest).read_to_end(&mut head)?;
        }
        let invalid = |reason| io::Error::new(io::ErrorKind::InvalidData, reason);
        let format = head.get(20..).ok_or(WavError::NotWav).and_then(read_format);
        let format = format.map_err(|error| invalid(error.to_string()))?;
        let bytes = head
            .last_chunk()
            .map_or(0, |size| u32::from_le_bytes(*size));
        if format.channels != 1 || !matches!(format.rate, 8_000 | 16_000 | 48_000) {
            return Err(invalid("not a WAV file of this service".into()));
        }
        Ok(Self {
            source,
            encoding: format.encoding,
            rate: format.rate,
            left: u64::from(bytes) / format.frame_bytes() as u64,
        })
    }

    /// Samples per second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Fills `samples` with the next ones, and tells how many there were: fewer than asked for at
    /// the end.
    pub fn read(&mut self, samples: &mut [i16]) -> io::Result<usize> {
        let wanted = self.left.min(samples.len() as u64) as usize;
        for sample in &mut samples[..wanted] {
            let mut bytes = [0; 8];
            let bytes = &mut bytes[..self.encoding.bytes()];
            self.source.read_exact(bytes)?;
            *sample = to_i16(self.encoding.decode(bytes));
        }
        self.left -= wanted as u64;
        Ok(wanted)
    }
}

fn to_rate(mono: &[f32], from: u32, to: u32) -> Vec<i16> {
    let samples = resample::resample(mono, from, to);
    samples.into_iter().map(to_i16).collect()
}

fn read_mono(file: &[u8]) -> Result<(Vec<f32>, u32), WavError> {
    let (format, audio) = find_chunks(file)?;
    let frames = audio.chunks_exact(format.frame_bytes());
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
    let mono = frames.map(|frame| format.mix(frame)).collect();
    Ok((mono, format.rate))
}

/// Writes mono samples as a WAV file of 16 bits.
///
/// # Panics
/// If there are more samples than a WAV file can hold, which is 2 GiB of them.
pub fn write_wav_at(samples: &[i16], rate: u32) -> Vec<u8> {
    let head = pcm_head(rate, samples.len() as u64);
    let head = head.expect("a WAV file in memory takes what the telephone can record");
    let mut file = Vec::with_capacity(PCM_HEAD_BYTES + 2 * samples.len());
    file.extend(head);
    file.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    file
}

/// Writes mono samples of [`SAMPLE_RATE`]; see [`write_wav_at`].
///
/// # Panics
/// As [`write_wav_at`] does.
pub fn write_wav(samples: &[i16]) -> Vec<u8> {
    write_wav_at(samples, SAMPLE_RATE)
}

/// Where the samples begin in a file of [`pcm_head`].
pub const PCM_HEAD_BYTES: usize = 44;

/// Where the samples begin in a file of [`g711_head`].
pub const G711_HEAD_BYTES: usize = 58;

/// What stands before `samples` mono samples of 16 bits, little endian, at `rate` per second.
/// `None` if there are more than a WAV file can hold.
pub fn pcm_head(rate: u32, samples: u64) -> Option<[u8; PCM_HEAD_BYTES]> {
    let data_bytes = u32::try_from(samples.checked_mul(2)?).ok()?;
    let mut head = Head::default();
    head.put(b"RIFF");
    head.put(&data_bytes.checked_add(36)?.to_le_bytes());
    head.put(b"WAVEfmt ");
    head.put(&16_u32.to_le_bytes());
    head.format(1, rate, 2);
    head.put(b"data");
    head.put(&data_bytes.to_le_bytes());
    head.bytes.first_chunk().copied()
}

/// What stands before `samples` codes of G.711. An odd number of them is to be followed by a byte
/// of padding. `None` if there are more than a WAV file can hold.
pub fn g711_head(law: Law, samples: u64) -> Option<[u8; G711_HEAD_BYTES]> {
    let data_bytes = u32::try_from(samples).ok()?;
    let padded = data_bytes.checked_next_multiple_of(2)?;
    let mut head = Head::default();
    head.put(b"RIFF");
    head.put(&padded.checked_add(50)?.to_le_bytes());
    head.put(b"WAVEfmt ");
    head.put(&18_u32.to_le_bytes());
    head.format(if law == Law::A { 6 } else { 7 }, SAMPLE_RATE, 1);
    head.put(&0_u16.to_le_bytes());
    // Every format but PCM tells the number of samples in a chunk of its own.
    head.put(b"fact");
    head.put(&4_u32.to_le_bytes());
    head.put(&data_bytes.to_le_bytes());
    head.put(b"data");
    head.put(&data_bytes.to_le_bytes());
    Some(head.bytes)
}

/// A head in the making.
struct Head {
    bytes: [u8; G711_HEAD_BYTES],
    len: usize,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            bytes: [0; G711_HEAD_BYTES],
            len: 0,
        }
    }
}

impl Head {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.len..self.len + field.len()].copy_from_slice(field);
        self.len += field.len();
    }

    fn format(&mut self, tag: u16, rate: u32, bytes_per_sample: u16) {
        self.put(&tag.to_le_bytes());
        self.put(&1_u16.to_le_bytes());
        self.put(&rate.to_le_bytes());
        self.put(&(rate * u32::from(bytes_per_sample)).to_le_bytes());
        self.put(&bytes_per_sample.to_le_bytes());
        self.put(&(8 * bytes_per_sample).to_le_bytes());
    }
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

impl Format {
    /// Bytes of one moment of all channels.
    fn frame_bytes(&self) -> usize {
        self.encoding.bytes() * usize::from(self.channels)
    }

    /// One moment, mixed down: a sample between -1 and 1.
    fn mix(&self, frame: &[u8]) -> f32 {
        let channels = frame.chunks_exact(self.encoding.bytes());
        let sum: f32 = channels.map(|sample| self.encoding.decode(sample)).sum();
        sum / f32::from(self.channels)
    }
}

#[derive(Clone, Copy)]
enum Encoding {
    Unsigned8,
    Signed16,
    Signed24,
    Signed32,
    Float32,
    Float64,
    G711(Law),
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
            (6, 8) => Self::G711(Law::A),
            (7, 8) => Self::G711(Law::Mu),
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
            (Self::G711(law), &[code]) => from_i16(law.sample(code)),
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
