//! The spool: the local file into which a recording is taken.
//!
//! A spool file begins with one block that holds the call's facts as JSON, padded with spaces; the
//! log of what is received follows ([`media::recording`](crate::media::recording)). The facts are there
//! before the first packet, so a file found after a crash is a message; how the recording ended is
//! written over the same block.

mod original;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{
    Caller, DivertReason, MediaStage, MessageId, Msisdn, Private, RecordingEnd, SetupTimes,
    SubscriberId, Timestamp,
};
use crate::media::audio::{SAMPLE_RATE, TICK_RATE};

pub(crate) use crate::voicemail::spool::original::Original;

/// Room for the facts at the head of a spool file.
const HEAD_BYTES: usize = 4096;
const EXTENSION: &str = "spool";
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

    /// Appends whole records of the log. After an error the file holds what it held before, and
    /// perhaps more.
    pub(crate) fn append(&mut self, records: &[u8]) -> Result<(), SpoolError> {
        self.file
            .write_all(records)
            .map_err(|source| self.failed("written", source))
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
        written.map_err(|source| self.failed("finished", source))?;
        let facts = self.head.facts();
        Ok(FinishedSpool {
            facts: facts.expect("what was written as a head is one"),
            path: self.path,
            end,
            was_finished: true,
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
    pub(crate) path: PathBuf,
    pub(crate) facts: SpoolFacts,
    pub(crate) end: SpoolEnd,
    /// Whether the end was written by the call itself.
    pub(crate) was_finished: bool,
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
        let mut file = File::open(path).map_err(fail)?;
        let mut block = vec![0; HEAD_BYTES];
        match file.read_exact(&mut block) {
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
                ticks: body.ticks(file).map_err(fail)?,
                missed: None,
                failed_stage: None,
                setup: SetupTimes::default(),
            },
        };
        Ok(Self {
            path: path.to_owned(),
            facts,
            end,
            was_finished,
            body,
        })
    }

    /// Length of the message.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_micros(self.end.ticks * 1_000 / u64::from(TICK_RATE / 1_000))
    }

    /// Removes the spool file and the file that was made of it, also by the former version.
    pub(crate) fn remove(&self) -> Result<(), SpoolError> {
        let made =
            ["wav", Original::EXTENSION].map(|extension| self.path.with_extension(extension));
        for path in made.into_iter().chain([self.path.clone()]) {
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
    /// In ticks; in the former version, in samples.
    #[serde(alias = "samples")]
    ticks: u64,
    missed: Option<MissedCause>,
    #[serde(default)]
    failed_stage: Option<MediaStage>,
    #[serde(default)]
    setup: SetupTimes,
}

impl From<SpoolEnd> for End {
    fn from(end: SpoolEnd) -> Self {
        let SpoolEnd {
            ended_by,
            ticks,
            missed,
            failed_stage,
            setup,
        } = end;
        Self {
            ended_by,
            ticks,
            missed,
            failed_stage,
            setup,
        }
    }
}

impl End {
    fn into_spool_end(self, body: Body) -> SpoolEnd {
        SpoolEnd {
            ended_by: self.ended_by,
            ticks: self.ticks.saturating_mul(body.unit()),
            missed: self.missed,
            failed_stage: self.failed_stage,
            setup: self.setup,
        }
    }
}

impl Head {
    /// What follows the head is a log since version 2.
    const VERSION: u8 = 2;
    /// A display name longer than this is cut, so that the head always fits its block.
    const NAME_CHARS_MAX: usize = 200;

    fn new(facts: &SpoolFacts) -> Self {
        let name = facts.caller.name.as_ref();
        Self {
            aftertone_spool: Self::VERSION,
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
