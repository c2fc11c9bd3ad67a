//! From a spool file to the file that is kept: what was received, as it was received.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use sha2::{Digest, Sha256};

use crate::domain::{AudioFormat, Gap, Losses, StoredAudio};
use crate::media::audio::{Law, SAMPLE_RATE, TICK_RATE, wav};
use crate::media::recording::{self, Format, LossMap, Stored};
use crate::voicemail::spool::{Body, FinishedSpool, HEAD_BYTES, SpoolError};

/// What is written at once.
const BUFFER_BYTES: usize = 64 * 1024;

impl Body {
    /// How much the rest of `file` holds, in ticks.
    pub(super) fn ticks(self, mut file: &File) -> io::Result<u64> {
        match self {
            Self::Log => recording::ticks(file),
            Self::Samples => {
                let bytes = file.metadata()?.len() - file.stream_position()?;
                Ok(bytes / 2 * self.unit())
            }
        }
    }
}

impl FinishedSpool {
    /// Writes the message to `out` as it is to be kept, by as much as there is of it.
    pub(crate) fn write_original(&self, out: impl Write) -> Result<StoredAudio, SpoolError> {
        self.write_to(out).map_err(|source| SpoolError::Io {
            path: self.path.clone(),
            attempted: "stored",
            source,
        })
    }

    fn write_to(&self, out: impl Write) -> io::Result<StoredAudio> {
        let mut input = &*self.file;
        input.seek(SeekFrom::Start(HEAD_BYTES as u64))?;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, Hashing::new(out));
        let stored = match self.body {
            Body::Log => recording::store(input, self.end.ticks, &mut out)?,
            Body::Samples => store_samples(input, self.end.ticks, &mut out)?,
        };
        let out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        let codecs: Vec<_> = stored.codecs.iter().map(|c| c.encoding_name()).collect();
        Ok(StoredAudio {
            format: format_of(stored.format),
            codec: (!codecs.is_empty()).then(|| codecs.join(",")),
            sample_rate: stored.sample_rate,
            samples: stored.ticks / u64::from(TICK_RATE / stored.sample_rate),
            stored_bytes: out.bytes,
            sha256: out.hash.finalize().into(),
            losses: losses_of(&stored.losses),
        })
    }
}

/// The samples of the former version stand in the spool file as they do in a WAV.
fn store_samples(mut input: &File, keep: u64, out: &mut impl Write) -> io::Result<Stored> {
    let begin = input.stream_position()?;
    let there = Body::Samples.ticks(input)?;
    input.seek(SeekFrom::Start(begin))?;
    let samples = keep.min(there) / Body::Samples.unit();
    let head = wav::pcm_head(SAMPLE_RATE, samples).ok_or(io::ErrorKind::FileTooLarge)?;
    out.write_all(&head)?;
    io::copy(&mut input.take(2 * samples), out)?;
    Ok(Stored {
        format: Format::WavPcm,
        codecs: Vec::new(),
        sample_rate: SAMPLE_RATE,
        ticks: samples * Body::Samples.unit(),
        losses: LossMap::default(),
    })
}

const fn format_of(format: Format) -> AudioFormat {
    match format {
        Format::OggOpus => AudioFormat::OggOpus,
        Format::WavG711(Law::Mu) => AudioFormat::WavPcmu,
        Format::WavG711(Law::A) => AudioFormat::WavPcma,
        Format::WavPcm => AudioFormat::WavPcm,
    }
}

fn losses_of(losses: &LossMap) -> Losses {
    let gaps = losses.gaps().iter().map(|gap| Gap {
        at_ms: in_ms(gap.at),
        duration_ms: in_ms(gap.ticks),
    });
    Losses {
        lost_ms: in_ms(losses.ticks()),
        ..Losses::new(gaps)
    }
}

fn in_ms(ticks: u64) -> u32 {
    u32::try_from(ticks / u64::from(TICK_RATE / 1_000)).unwrap_or(u32::MAX)
}

/// Writes on, and knows what it has written.
#[derive(Debug)]
struct Hashing<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Hashing<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            hash: Sha256::new(),
            bytes: 0,
        }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
