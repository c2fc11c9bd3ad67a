//! From a spool file to the file that is kept: what was received, as it was received.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::domain::{AudioFormat, Gap, Losses, StoredAudio};
use crate::media::audio::{Law, SAMPLE_RATE, TICK_RATE, wav};
use crate::media::recording::{self, Format, LossMap, Stored};
use crate::voicemail::spool::{Body, FinishedSpool, HEAD_BYTES, SpoolError, remove_if_there};

/// What is written at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// A message as it will be kept, beside its spool file. It is not durable yet.
#[derive(Debug)]
pub(crate) struct Original {
    pub(crate) path: PathBuf,
    pub(crate) audio: StoredAudio,
}

impl Original {
    pub(super) const EXTENSION: &str = "original";
}

impl Body {
    /// How much the rest of `file` holds, in ticks.
    pub(super) fn ticks(self, mut file: File) -> io::Result<u64> {
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
    /// Writes the message as it is to be kept beside the spool file, by as much as there is of it.
    pub(crate) fn write_original(&self) -> Result<Original, SpoolError> {
        let path = self.path.with_extension(Original::EXTENSION);
        match self.write_to(&path) {
            Ok(audio) => Ok(Original { path, audio }),
            Err(source) => {
                // A piece of it would only take room from others; the next try begins anew.
                drop(remove_if_there(&path));
                Err(SpoolError::Io {
                    path,
                    attempted: "written",
                    source,
                })
            }
        }
    }

    fn write_to(&self, path: &Path) -> io::Result<StoredAudio> {
        let mut input = File::open(&self.path)?;
        input.seek(SeekFrom::Start(HEAD_BYTES as u64))?;
        // An earlier try may have linked its file into the store: that one is never written again.
        remove_if_there(path)?;
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, Hashing::new(file));
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
fn store_samples(mut input: File, keep: u64, out: &mut impl Write) -> io::Result<Stored> {
    let begin = input.stream_position()?;
    let there = Body::Samples.ticks(input.try_clone()?)?;
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

/// Writes to a file, and knows what it has written.
#[derive(Debug)]
struct Hashing {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Hashing {
    fn new(file: File) -> Self {
        Self {
            file,
            hash: Sha256::new(),
            bytes: 0,
        }
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
