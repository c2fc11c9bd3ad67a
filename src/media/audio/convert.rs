//! Recordings in another format than the one they are kept in: made on demand, as a stream, the
//! same bytes each time.

use std::io;
use std::io::BufReader;
use std::io::BufWriter;
use std::io::Cursor;
use std::io::Read;
use std::io::Seek;
use std::io::Write;

use crate::media::audio::FRAME_TICKS;
use crate::media::audio::TICK_RATE;
use crate::media::audio::encoder::Encoder;
use crate::media::audio::ogg;
use crate::media::audio::ogg::OggError;
use crate::media::audio::wav;
use crate::media::audio::wav::WavError;

/// Writes an Ogg Opus file as a WAV of 48,000 samples a second, 16 bits.
///
/// The size is known before: [`wav::PCM_HEAD_BYTES`] and twice [`ogg::length`]. A file that breaks
/// off is filled up with silence.
pub fn ogg_to_wav(source: impl Read + Seek, out: impl Write) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    let mut reader = ogg::Reader::open(BufReader::new(source)).map_err(io::Error::other)?;
    let head = wav::pcm_head(TICK_RATE, reader.left()).ok_or_else(too_long)?;
    out.write_all(&head)?;
    let mut samples = Vec::new();
    while reader.read(&mut samples).unwrap_or(false) {
        for sample in samples.drain(..) {
            out.write_all(&sample.to_le_bytes())?;
        }
    }
    io::copy(&mut io::repeat(0).take(2 * reader.left()), &mut out)?;
    out.flush()
}

/// Writes a WAV of ours, PCM or G.711 of 8, 16 or 48 kHz, as Ogg Opus that plays exactly as long.
pub fn wav_to_ogg(source: impl Read, out: impl Write) -> io::Result<()> {
    let mut source = wav::Stream::open(BufReader::new(source))?;
    let mut encoder = Encoder::opus_at_rate(source.rate());
    let delay = encoder.delay_ticks();
    let mut writer = ogg::Writer::with_head(BufWriter::new(out), delay, source.rate())?;
    let (mut frame, mut packet) = (vec![0; encoder.frame_samples()], Vec::new());
    let (mut read, mut written) = (0, 0);
    loop {
        let count = source.read(&mut frame)?;
        read += count as u64 * u64::from(TICK_RATE / source.rate());
        // Silence behind the end brings out what the encoder still holds back.
        if count == 0 && written >= read + u64::from(delay) {
            break;
        }
        packet.clear();
        encoder.encode(&frame[..count], &mut packet);
        writer.packet(&packet)?;
        written += u64::from(FRAME_TICKS);
    }
    writer.finish(read)?;
    Ok(())
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "longer than a WAV file can be")
}

/// Why an upload cannot be used; the text is for the person who gave it.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// A WAV file, or nothing that is known.
    #[error(transparent)]
    Wav(#[from] WavError),
    /// An Ogg file.
    #[error(transparent)]
    Ogg(#[from] OggError),
}

/// Reads a WAV or an Ogg Opus file into mono samples and their rate, 48,000 at most.
pub fn read_audio(file: &[u8]) -> Result<(Vec<i16>, u32), AudioError> {
    if !file.starts_with(b"OggS") {
        return Ok(wav::read_wav_at_rate(file)?);
    }
    let mut reader = ogg::Reader::open(Cursor::new(file))?;
    let mut samples = Vec::new();
    while reader.read(&mut samples)? {
        if samples.len() as u64 > wav::LONGEST_SECONDS * u64::from(TICK_RATE) {
            return Err(OggError::TooLong(wav::LONGEST_SECONDS).into());
        }
    }
    if samples.is_empty() {
        return Err(OggError::NoAudio.into());
    }
    Ok((samples, TICK_RATE))
}

#[cfg(test)]
mod tests;
