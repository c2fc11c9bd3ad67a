//! The spool: the local file into which a recording is taken.
//!
//! A spool file begins with one block that holds the call's facts as JSON, padded with spaces; the
//! samples follow, 16 bit little-endian at 8 kHz. The facts are there before the first sample, so a
//! file found after a crash is a message; how the recording ended is written over the same block.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::{
    Caller, DivertReason, MessageId, Msisdn, Private, RecordingEnd, SubscriberId, Timestamp,
};
use crate::media::audio::SAMPLE_RATE;

/// Room for the facts at the head of a spool file.
const HEAD_BYTES: usize = 4096;
const EXTENSION: &str = "spool";
/// Held by the one service that uses the directory.
const LOCK: &str = "lock";
/// No recording is begun with less free room: what there is belongs to those under way, and to the
/// database.
const LEAST_FREE_BYTES: u64 = 50_000_000;

/// What is known of a message before its first sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpoolFacts {
    pub(crate) id: MessageId,
    pub(crate) subscriber: SubscriberId,
    pub(crate) to: Msisdn,
    pub(crate) caller: Caller,
    pub(crate) reason: DivertReason,
    pub(crate) received_at: Timestamp,
}

/// How a finished recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpoolEnd {
    pub(crate) ended_by: RecordingEnd,
    /// Samples that belong to the message; the file may hold more.
    pub(crate) samples: u64,
    /// Where no message was left: why, as [`MissedCall::cause`](crate::domain::MissedCall).
    pub(crate) missed: Option<MissedCause>,
}

/// Why a call that we took left no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MissedCause {
    /// The caller hung up before the beep.
    Abandoned,
    /// The call broke off before the beep.
    Interrupted,
    /// The mailbox takes no more.
    MailboxFull,
    /// No media ever came from the caller.
    NoMedia,
    /// Too little was said.
    TooShort,
}

impl MissedCause {
    /// The name used in the database, the API and metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Interrupted => "interrupted",
            Self::MailboxFull => "mailbox-full",
            Self::NoMedia => "no-media",
            Self::TooShort => "too-short",
        }
    }
}

/// Why the spool cannot be used, or a file of it.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another service takes its recordings there.
    #[error(
        "data_dir: another aftertone is running on {dir}; stop it, or give this one a data_dir of its own"
    )]
    InUse {
        /// The spool directory.
        dir: PathBuf,
    },
    /// The disk is as good as full.
    #[error("data_dir: only {} MB are free in {dir}; make room", free / 1_000_000)]
    NoRoom {
        /// The spool directory.
        dir: PathBuf,
        /// Bytes that are free.
        free: u64,
    },
    /// A file, or the directory, cannot be used.
    #[error("data_dir: {path} cannot be {attempted}; make room there, or mend its permissions")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was to be done with it.
        attempted: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The head is not ours.
    #[error("{path} is no recording of this service; move it out of the spool")]
    NotASpoolFile {
        /// The file.
        path: PathBuf,
    },
}

/// A recording being taken.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    path: PathBuf,
    head: Head,
}

/// The spool directory, held for this process until it is dropped.
#[derive(Debug)]
pub struct SpoolDir {
    path: PathBuf,
    _lock: File,
}

impl SpoolDir {
    /// Makes the directory where it is missing, and takes it for this process alone: another one
    /// would take the recordings of running calls for left behind.
    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        let failed = |attempted| {
            let path = path.to_owned();
            move |source| SpoolError::Io {
                path,
                attempted,
                source,
            }
        };
        let mut folder = fs::DirBuilder::new();
        folder
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed("created"))?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(path.join(LOCK)).map_err(failed("written"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(SpoolError::InUse {
                dir: path.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(failed("locked")(source)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The spool files there are, oldest first.
    pub(crate) fn list(&self) -> Result<Vec<PathBuf>, SpoolError> {
        let listed = fs::read_dir(&self.path).and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<Vec<_>>>()
        });
        let mut paths = listed.map_err(|source| SpoolError::Io {
            path: self.path.clone(),
            attempted: "read",
            source,
        })?;
        paths.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == EXTENSION)
        });
        paths.sort();
        Ok(paths)
    }
}

/// Whether there is room for another recording in `dir`.
pub(crate) fn check_room(dir: &Path) -> Result<(), SpoolError> {
    let disk = rustix::fs::statvfs(dir).map_err(|error| SpoolError::Io {
        path: dir.to_owned(),
        attempted: "measured",
        source: error.into(),
    })?;
    judge_room(dir, disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn judge_room(dir: &Path, free: u64) -> Result<(), SpoolError> {
    if free < LEAST_FREE_BYTES {
        return Err(SpoolError::NoRoom {
            dir: dir.to_owned(),
            free,
        });
    }
    Ok(())
}

impl Spool {
    /// Creates the file and writes the facts into it, where there is room for what will follow.
    pub(crate) fn create(dir: &Path, facts: &SpoolFacts) -> Result<Self, SpoolError> {
        check_room(dir)?;
        let path = dir.join(facts.id.to_string()).with_extension(EXTENSION);
        let head = Head::new(facts);
        let create = || {
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            let written = file.write_all(&head.to_block());
            if written.is_err() {
                remove_if_there(&path)?;
            }
            written.map(|()| file)
        };
        match create() {
            Ok(file) => Ok(Self { file, path, head }),
            Err(source) => Err(SpoolError::Io {
                path,
                attempted: "created",
                source,
            }),
        }
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends samples. After an error the file holds what it held before, and perhaps more.
    pub(crate) fn append(&mut self, samples: &[i16]) -> Result<(), SpoolError> {
        // On the stack: a buffer of each call's own would wait a whole second for its next use.
        let mut bytes = [0; 2 * SAMPLE_RATE as usize];
        for second in samples.chunks(SAMPLE_RATE as usize) {
            let bytes = &mut bytes[..2 * second.len()];
            for (bytes, sample) in bytes.chunks_exact_mut(2).zip(second) {
                bytes.copy_from_slice(&sample.to_le_bytes());
            }
            self.file
                .write_all(bytes)
                .map_err(|source| self.failed("written", source))?;
        }
        Ok(())
    }

    /// Writes how it ended, and waits until a message is on the disk. Where that fails the file
    /// keeps what it had, as after a crash.
    pub(crate) fn finish(mut self, end: SpoolEnd) -> Result<FinishedSpool, SpoolError> {
        self.head.end = Some(End::from(end));
        let written = self
            .file
            .write_all_at(&self.head.to_block(), 0)
            .and_then(|()| {
                if end.missed.is_some() {
                    // Nobody spoke: the row that follows at once is durable enough.
                    return Ok(());
                }
                self.file.sync_data()?;
                sync_dir(&self.path)
            });
        match written {
            Ok(()) => FinishedSpool::open(&self.path),
            Err(source) => Err(self.failed("finished", source)),
        }
    }

    fn failed(&self, attempted: &'static str, source: io::Error) -> SpoolError {
        SpoolError::Io {
            path: self.path.clone(),
            attempted,
            source,
        }
    }
}

/// A message as WAV, beside its spool file. It is not durable yet.
#[derive(Debug)]
pub(crate) struct Wav {
    pub(crate) path: PathBuf,
    pub(crate) sha256: [u8; 32],
    pub(crate) size_bytes: u64,
}

/// A recording that is over, or was left behind by a crash.
#[derive(Debug, Clone)]
pub(crate) struct FinishedSpool {
    pub(crate) path: PathBuf,
    pub(crate) facts: SpoolFacts,
    pub(crate) end: SpoolEnd,
    /// Whether the end was written by the call itself.
    pub(crate) was_finished: bool,
}

impl FinishedSpool {
    /// Reads the head of a spool file. Without an end in it, the call was interrupted and all
    /// whole samples in the file count.
    pub(crate) fn open(path: &Path) -> Result<Self, SpoolError> {
        let fail = |source| SpoolError::Io {
            path: path.to_owned(),
            attempted: "read",
            source,
        };
        let not_ours = || SpoolError::NotASpoolFile {
            path: path.to_owned(),
        };
        let mut file = File::open(path).map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        let mut block = vec![0; HEAD_BYTES];
        match file.read_exact(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(not_ours()),
            read => read.map_err(fail)?,
        }
        let head: Head = serde_json::from_slice(&block).map_err(|_| not_ours())?;
        let facts = head.facts().ok_or_else(not_ours)?;
        let in_file = (length - HEAD_BYTES as u64) / 2;
        let end = match &head.end {
            Some(end) => SpoolEnd {
                ended_by: end.ended_by,
                samples: end.samples.min(in_file),
                missed: end.missed,
            },
            None => SpoolEnd {
                ended_by: RecordingEnd::Interrupted,
                samples: in_file,
                missed: None,
            },
        };
        Ok(Self {
            path: path.to_owned(),
            facts,
            end,
            was_finished: head.end.is_some(),
        })
    }

    /// Length of the message in milliseconds.
    pub(crate) fn duration_ms(&self) -> u32 {
        u32::try_from(self.end.samples * 1000 / u64::from(SAMPLE_RATE)).unwrap_or(u32::MAX)
    }

    /// Writes the message as WAV beside the spool file; the path of the WAV.
    pub(crate) fn write_wav(&self) -> Result<Wav, SpoolError> {
        let path = self.path.with_extension("wav");
        match self.encode(&path) {
            Ok((sha256, size_bytes)) => Ok(Wav {
                path,
                sha256,
                size_bytes,
            }),
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

    /// The samples stand in the spool file as they do in a WAV.
    fn encode(&self, path: &Path) -> io::Result<([u8; 32], u64)> {
        let mut input = File::open(&self.path)?;
        input.seek(SeekFrom::Start(HEAD_BYTES as u64))?;
        // An earlier try may have linked its WAV into the store: that file is never written again.
        remove_if_there(path)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let mut hash = Sha256::new();
        let mut write = |bytes: &[u8]| {
            hash.update(bytes);
            file.write_all(bytes)
        };
        let data_bytes = 2 * self.end.samples;
        let head = wav_head(data_bytes).ok_or(io::ErrorKind::FileTooLarge)?;
        write(&head)?;
        let mut buffer = vec![0; 64 * 1024];
        let mut left = data_bytes;
        while left > 0 {
            let part = left.min(buffer.len() as u64) as usize;
            let part = &mut buffer[..part];
            input.read_exact(part)?;
            write(part)?;
            left -= part.len() as u64;
        }
        Ok((hash.finalize().into(), head.len() as u64 + data_bytes))
    }

    /// Removes the spool file and the WAV beside it.
    pub(crate) fn remove(&self) -> Result<(), SpoolError> {
        for path in [self.path.with_extension("wav"), self.path.clone()] {
            remove_if_there(&path).map_err(|source| SpoolError::Io {
                path,
                attempted: "removed",
                source,
            })?;
        }
        Ok(())
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// What stands before the samples in a WAV of [`SAMPLE_RATE`], mono, 16 bit. `None` if there are more
/// samples than a WAV can hold.
fn wav_head(data_bytes: u64) -> Option<[u8; 44]> {
    const BYTES_PER_SAMPLE: u16 = 2;
    let data_bytes = u32::try_from(data_bytes).ok()?;
    let riff_bytes = data_bytes.checked_add(36)?;
    let mut head = [0; 44];
    let fields: [&[u8]; 13] = [
        b"RIFF",
        &riff_bytes.to_le_bytes(),
        b"WAVE",
        b"fmt ",
        &16_u32.to_le_bytes(),
        // PCM, one channel.
        &1_u16.to_le_bytes(),
        &1_u16.to_le_bytes(),
        &SAMPLE_RATE.to_le_bytes(),
        &(SAMPLE_RATE * u32::from(BYTES_PER_SAMPLE)).to_le_bytes(),
        &BYTES_PER_SAMPLE.to_le_bytes(),
        &(8 * BYTES_PER_SAMPLE).to_le_bytes(),
        b"data",
        &data_bytes.to_le_bytes(),
    ];
    let mut rest = &mut head[..];
    for field in fields {
        rest.write_all(field).ok()?;
    }
    Some(head)
}

/// The head as it stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    aftertone_spool: u8,
    id: String,
    subscriber: String,
    to: String,
    from: Option<String>,
    from_name: Option<String>,
    reason: DivertReason,
    received_at_ms: i64,
    end: Option<End>,
}

#[derive(Debug, Serialize, Deserialize)]
struct End {
    ended_by: RecordingEnd,
    samples: u64,
    missed: Option<MissedCause>,
}

impl From<SpoolEnd> for End {
    fn from(end: SpoolEnd) -> Self {
        let SpoolEnd {
            ended_by,
            samples,
            missed,
        } = end;
        Self {
            ended_by,
            samples,
            missed,
        }
    }
}

impl Head {
    /// A display name longer than this is cut, so that the head always fits its block.
    const NAME_CHARS_MAX: usize = 200;

    fn new(facts: &SpoolFacts) -> Self {
        let name = facts.caller.name.as_ref();
        Self {
            aftertone_spool: 1,
            id: facts.id.to_string(),
            subscriber: facts.subscriber.to_string(),
            to: facts.to.e164().to_owned(),
            from: facts
                .caller
                .number
                .as_ref()
                .map(|number| number.e164().to_owned()),
            from_name: name.map(|name| name.0.chars().take(Self::NAME_CHARS_MAX).collect()),
            reason: facts.reason,
            received_at_ms: facts.received_at.as_millis(),
            end: None,
        }
    }

    fn facts(&self) -> Option<SpoolFacts> {
        let number = match &self.from {
            Some(from) => Some(Msisdn::parse(from).ok()?),
            None => None,
        };
        Some(SpoolFacts {
            id: self.id.parse().ok()?,
            subscriber: self.subscriber.parse().ok()?,
            to: Msisdn::parse(&self.to).ok()?,
            caller: Caller {
                number,
                name: self.from_name.clone().map(Private),
            },
            reason: self.reason,
            received_at: Timestamp::from_millis(self.received_at_ms),
        })
    }

    fn to_block(&self) -> Vec<u8> {
        let mut block = serde_json::to_vec(self).expect("a head of texts and numbers is JSON");
        assert!(
            block.len() < HEAD_BYTES,
            "names are cut so that a head fits its block"
        );
        block.resize(HEAD_BYTES - 1, b' ');
        block.push(b'\n');
        block
    }
}

#[cfg(test)]
mod tests;
