//! The spool: the local file into which a recording is taken.
//!
//! A spool file begins with one block that holds the call's facts as JSON, padded with spaces; the
//! log of what is received follows ([`media::recording`](crate::media::recording)). The facts are there
//! before the first packet, so a file found after a crash is a message; how the recording ended is
//! written over the same block.
//!
//! What is in the spool outlives the process at any moment. It is synced only where it has to stay:
//! a message that is deposited at once becomes durable there. A file that is no longer needed is
//! emptied, and the next recording is taken into it: emptying costs less than removing and making.

mod head;
mod original;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{
    Caller, DivertReason, MediaStage, MessageId, Msisdn, RecordingEnd, SetupTimes, SubscriberId,
    Timestamp,
};
use crate::media::audio::{SAMPLE_RATE, TICK_RATE};
use crate::storage::remove_if_there;
use crate::voicemail::spool::head::{End, Head};

/// Room for the facts at the head of a spool file.
const HEAD_BYTES: usize = 4096;
const EXTENSION: &str = "spool";
/// What former versions made of a spool file, beside it.
const FORMER_EXTENSIONS: [&str; 2] = ["wav", "original"];
/// Empty files that are kept for recordings to come.
const SPARES: usize = 256;
/// Held by the one service that uses the directory.
const LOCK: &str = "lock";
/// No recording is begun with less free room: what there is belongs to those under way, and to the
/// database.
const LEAST_FREE_BYTES: u64 = 50_000_000;

/// What is known of a message before its first packet.
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
    /// Ticks of [`TICK_RATE`] that belong to the message; the file may hold more.
    pub(crate) ticks: u64,
    /// Where no message was left: why, as [`MissedCall::cause`](crate::domain::MissedCall).
    pub(crate) missed: Option<MissedCause>,
    /// Where the caller's media never came: what did not come about.
    pub(crate) failed_stage: Option<MediaStage>,
    /// How the call came about.
    pub(crate) setup: SetupTimes,
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
    /// The thread that writes recordings cannot be had.
    #[error("no thread can be had that writes recordings")]
    Thread(#[source] io::Error),
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
    /// Where the next piece belongs.
    end: u64,
}

/// The spool directory, held for this process until it is dropped.
#[derive(Debug)]
pub struct SpoolDir {
    path: PathBuf,
    files: Mutex<Files>,
    _lock: File,
}

#[derive(Debug)]
struct Files {
    /// Files are numbered. No number is given twice while the directory is held.
    next: u64,
    /// The empty ones.
    spare: Vec<PathBuf>,
}

impl SpoolDir {
    /// Makes the directory where it is missing, and takes it for this process alone: another one
    /// would take the recordings of running calls for left behind. Files that hold nothing are
    /// removed.
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
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(SpoolError::InUse {
                    dir: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed("locked")(source)),
        }
        let dir = Self {
            path: path.to_owned(),
            files: Mutex::new(Files {
                next: 1,
                spare: Vec::new(),
            }),
            _lock: lock,
        };
        dir.tidy().map_err(failed("tidied"))?;
        Ok(dir)
    }

    /// Removes what holds no recording, and finds the first number that is free.
    fn tidy(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let is = |extension: &str| path.extension().is_some_and(|found| found == extension);
            let is_empty = || fs::metadata(&path).map(|file| file.len() == 0);
            let is_former = FORMER_EXTENSIONS.into_iter().any(is);
            if is_former || (is(EXTENSION) && is_empty()?) {
                remove_if_there(&path)?;
                continue;
            }
            let number = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            let mut files = self.files();
            files.next = files
                .next
                .max(number.map_or(0, |number| number.saturating_add(1)));
        }
        Ok(())
    }

    /// The recordings there are.
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

    /// Whether there is room for another recording.
    pub(crate) fn check_room(&self) -> Result<(), SpoolError> {
        let disk = rustix::fs::statvfs(&self.path).map_err(|error| SpoolError::Io {
            path: self.path.clone(),
            attempted: "measured",
            source: error.into(),
        })?;
        judge_room(&self.path, disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Takes a file and writes the facts into it, where there is room for what will follow.
    pub(crate) fn create(&self, facts: &SpoolFacts) -> Result<Spool, SpoolError> {
        self.check_room()?;
        let (path, opened) = self.take();
        let head = Head::new(facts);
        let written = opened.and_then(|file| {
            let written = file.write_all_at(&head.to_block(), 0);
            if written.is_err() {
                remove_if_there(&path)?;
            }
            written.map(|()| file)
        });
        match written {
            Ok(file) => Ok(Spool {
                file,
                path,
                head,
                end: HEAD_BYTES as u64,
            }),
            Err(source) => Err(SpoolError::Io {
                path,
                attempted: "created",
                source,
            }),
        }
    }

    /// A file that is empty.
    fn take(&self) -> (PathBuf, io::Result<File>) {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        loop {
            let spare = self.files().spare.pop();
            let Some(path) = spare else { break };
            match options.open(&path) {
                // Somebody has tidied up.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return (path, opened),
            }
        }
        let number = {
            let mut files = self.files();
            files.next += 1;
            files.next - 1
        };
        let path = self.path.join(format!("{number:08}.{EXTENSION}"));
        let opened = options.create_new(true).open(&path);
        (path, opened)
    }

    /// What was recorded is no longer needed: the file is emptied, for another recording.
    pub(crate) fn release(&self, finished: &FinishedSpool) -> Result<(), SpoolError> {
        let path = &finished.path;
        let is_wanted = self.files().spare.len() < SPARES;
        let released = if is_wanted {
            finished.file.set_len(0)
        } else {
            remove_if_there(path)
        };
        released.map_err(|source| SpoolError::Io {
            path: path.clone(),
            attempted: "emptied",
            source,
        })?;
        if is_wanted {
            self.files().spare.push(path.clone());
        }
        Ok(())
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

/// Waits until what is in a spool file, and its name, are on the disk.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_data()?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

impl Spool {
    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends whole records of the log. After an error the file holds what it held before, and
    /// perhaps more.
    pub(crate) fn append(&mut self, records: &[u8]) -> Result<(), SpoolError> {
        self.file
            .write_all_at(records, self.end)
            .map_err(|source| self.failed("written", source))?;
        self.end += records.len() as u64;
        Ok(())
    }

    /// Writes how it ended. Where that fails the file keeps what it had, as after a crash.
    pub(crate) fn finish(mut self, end: SpoolEnd) -> Result<FinishedSpool, SpoolError> {
        self.head.end = Some(End::from(end));
        let written = self.file.write_all_at(&self.head.to_block(), 0);
        written.map_err(|source| self.failed("finished", source))?;
        let facts = self.head.facts();
        Ok(FinishedSpool {
            file: Arc::new(self.file),
            facts: facts.expect("what was written as a head is one"),
            path: self.path,
            end,
            was_finished: true,
            was_found: false,
            body: Body::Log,
        })
    }

    fn failed(&self, attempted: &'static str, source: io::Error) -> SpoolError {
        SpoolError::Io {
            path: self.path.clone(),
            attempted,
            source,
        }
    }
}

/// A recording that is over, or was left behind by a crash.
#[derive(Debug, Clone)]
pub(crate) struct FinishedSpool {
    file: Arc<File>,
    pub(crate) path: PathBuf,
    pub(crate) facts: SpoolFacts,
    pub(crate) end: SpoolEnd,
    /// Whether the end was written by the call itself.
    pub(crate) was_finished: bool,
    /// Whether it was found in the spool. After a loss of power that may be less than there was.
    pub(crate) was_found: bool,
    body: Body,
}

/// What follows the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    /// The log of what was received.
    Log,
    /// Samples of 16 bits, little-endian at 8 kHz, as the former version left them.
    Samples,
}

impl Body {
    const fn of_version(version: u8) -> Option<Self> {
        match version {
            1 => Some(Self::Samples),
            Head::VERSION => Some(Self::Log),
            _ => None,
        }
    }

    /// Ticks in one unit of the length that the head tells.
    const fn unit(self) -> u64 {
        match self {
            Self::Log => 1,
            Self::Samples => (TICK_RATE / SAMPLE_RATE) as u64,
        }
    }
}

impl FinishedSpool {
    /// Reads the head of a spool file. Without an end in it, the call was interrupted and everything
    /// that is whole in the file counts.
    pub(crate) fn open(path: &Path) -> Result<Self, SpoolError> {
        let fail = |source| SpoolError::Io {
            path: path.to_owned(),
            attempted: "read",
            source,
        };
        let not_ours = || SpoolError::NotASpoolFile {
            path: path.to_owned(),
        };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(path).map_err(fail)?;
        let mut block = vec![0; HEAD_BYTES];
        match (&file).read_exact(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(not_ours()),
            read => read.map_err(fail)?,
        }
        let head: Head = serde_json::from_slice(&block).map_err(|_| not_ours())?;
        let body = Body::of_version(head.aftertone_spool).ok_or_else(not_ours)?;
        let facts = head.facts().ok_or_else(not_ours)?;
        let was_finished = head.end.is_some();
        let end = match head.end {
            Some(end) => end.into_spool_end(body),
            None => SpoolEnd {
                ended_by: RecordingEnd::Interrupted,
                ticks: body.ticks(&file).map_err(fail)?,
                missed: None,
                failed_stage: None,
                setup: SetupTimes::default(),
            },
        };
        Ok(Self {
            file: Arc::new(file),
            path: path.to_owned(),
            facts,
            end,
            was_finished,
            was_found: true,
            body,
        })
    }

    /// Length of the message.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_micros(self.end.ticks * 1_000 / u64::from(TICK_RATE / 1_000))
    }
}

#[cfg(test)]
mod tests;
