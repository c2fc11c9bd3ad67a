//! Recordings and greetings as files, whole and durable or not there at all.
//!
//! The files lie under one folder. A file is written under another name (`staged`), synced, and given
//! its own; then that name is made durable, with those of all folders up to the root (`folders`). What
//! is there is read by the `object_store` crate.
//!
//! A key is the path of a file below the folder. Keys are made only here, and a recording's follows from
//! its message's id and format alone: changing how would lose the recordings that are there.

mod folders;
mod staged;

use std::error::Error;
use std::io;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use object_store::local::LocalFileSystem;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};

use crate::domain::{AudioFormat, MessageId, SubscriberId, Timestamp};
use crate::storage::blob::folders::Folders;
use crate::storage::conversions::Conversions;

pub use crate::storage::blob::staged::Staged;
pub use crate::storage::conversions::{Made, Make};

/// The folder of all recordings.
const RECORDINGS: &str = "recordings";
/// How the folder of a day is called.
const DAY: &str = "%Y-%m-%d";

/// Why a blob could not be stored, read or deleted.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is none of this key.
    #[error("there is no file {key} among the recordings")]
    NotFound {
        /// The key.
        key: String,
    },
    /// The store refused or failed.
    #[error("could not {attempted} {key} among the recordings")]
    Store {
        /// What was attempted, as a verb: `write`.
        attempted: &'static str,
        /// The key.
        key: String,
        /// The cause.
        #[source]
        source: object_store::Error,
    },
    /// The file system refused or failed.
    #[error("could not {attempted} {}", path.display())]
    File {
        /// What was attempted, as a verb: `write`.
        attempted: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl BlobError {
    /// Whether there was no room: the disk is full, or this user's share of it.
    pub fn is_disk_full(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = self.source();
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
                return full.contains(&error.kind());
            }
            cause = error.source();
        }
        false
    }
}

/// The folder of recordings and greetings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs {
    store: LocalFileSystem,
    folders: Arc<Folders>,
    conversions: Conversions,
}

impl Blobs {
    /// Opens the folder; creates it, for this user only, where it is not there. What is made of
    /// recordings lies in a folder of its own, `conversions`, which is emptied: at most
    /// `max_converted_bytes` of it.
    pub fn open(
        dir: &Path,
        conversions: &Path,
        max_converted_bytes: u64,
    ) -> Result<Self, BlobError> {
        let failed = |attempted, source| BlobError::File {
            attempted,
            path: dir.into(),
            source,
        };
        folders::create(dir).map_err(|source| failed("create the folder", source))?;
        let root = dir
            .canonicalize()
            .map_err(|source| failed("open the folder", source))?;
        let store = LocalFileSystem::new_with_prefix(&root).map_err(|source| BlobError::Store {
            attempted: "open",
            key: dir.display().to_string(),
            source,
        })?;
        let conversions =
            Conversions::open(conversions, max_converted_bytes).map_err(|source| {
                BlobError::File {
                    attempted: "empty the folder",
                    path: conversions.into(),
                    source,
                }
            })?;
        Ok(Self {
            store,
            folders: Arc::new(Folders::new(root)),
            conversions,
        })
    }

    /// The key of a message's recording. The folders are named by the hour at which it began, in
    /// UTC, which keeps them small and lets an operator find a day.
    pub fn recording_key(id: MessageId, format: AudioFormat) -> String {
        let [a, b, c, d, e, f, ..] = *id.as_bytes();
        let ms = i64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        let hour = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
        let (day, hour) = (hour.strftime(DAY), hour.strftime("%H"));
        format!("{RECORDINGS}/{day}/{hour}/{id}.{}", format.extension())
    }

    /// A new key for a greeting of a subscriber. `chance` tells two uploads at one moment apart, so
    /// that no upload ever touches the file of another.
    pub fn greeting_key(subscriber: SubscriberId, at: Timestamp, chance: u64) -> String {
        let [.., shard] = *subscriber.as_bytes();
        let ms = at.as_millis();
        format!("greetings/{shard:02x}/{subscriber}-{ms:x}-{chance:016x}.wav")
    }

    /// Stores `bytes` under `key`, durably; replaces what is there.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), BlobError> {
        let (_, path) = self.locate(key)?;
        self.blocking("write", path, move |folders, path| {
            let mut staged = Staged::create(path)?;
            staged.write_all(&bytes)?;
            staged.keep(path, folders)
        })
        .await
    }

    /// Begins the file of a message's recording, to be written and then [kept](Self::keep). It may
    /// wait for the disk.
    pub fn stage(&self, id: MessageId) -> Result<Staged, BlobError> {
        // The format decides no more than the ending.
        let (_, path) = self.locate(&Self::recording_key(id, AudioFormat::WavPcm))?;
        Staged::create(&path).map_err(|source| BlobError::File {
            attempted: "create",
            path: path.with_extension("new"),
            source,
        })
    }

    /// Keeps what has been staged as the recording of a message, durably; replaces what is there. It
    /// waits for the disk, together with others.
    pub fn keep(
        &self,
        staged: Staged,
        id: MessageId,
        format: AudioFormat,
    ) -> Result<(), BlobError> {
        let (_, path) = self.locate(&Self::recording_key(id, format))?;
        let kept = staged.keep(&path, &self.folders);
        kept.map_err(|source| BlobError::File {
            attempted: "write",
            path,
            source,
        })
    }

    /// The whole of a small blob.
    pub async fn get(&self, key: &str) -> Result<Bytes, BlobError> {
        let (location, _) = self.locate(key)?;
        let get = async { self.store.get(&location).await?.bytes().await };
        get.await.map_err(|source| failed("read", key, source))
    }

    /// The bytes of `range`, piece by piece. The range must not begin at or after the end.
    pub async fn stream(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, BlobError>>, BlobError> {
        let (location, _) = self.locate(key)?;
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(range)));
        let found = self.store.get_opts(&location, options).await;
        let found = found.map_err(|source| failed("read", key, source))?;
        let key = key.to_owned();
        Ok(found
            .into_stream()
            .map_err(move |source| failed("read", &key, source))
            .boxed())
    }

    /// The size in bytes.
    pub async fn size(&self, key: &str) -> Result<u64, BlobError> {
        let (location, _) = self.locate(key)?;
        let head = self.store.head(&location).await;
        Ok(head.map_err(|source| failed("read", key, source))?.size)
    }

    /// What `make` makes of a blob, as the file that is called `kind`: made once, and kept while there
    /// is room. What is made must follow from the blob and `kind` alone.
    pub async fn converted(&self, key: &str, kind: &str, make: Make) -> Result<Made, BlobError> {
        let (_, source) = self.locate(key)?;
        let name = format!("{}.{kind}", stem(key));
        let made = self.conversions.get(&name, source.clone(), make).await;
        made.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => BlobError::NotFound { key: key.into() },
            _ => BlobError::File {
                attempted: "convert",
                path: source,
                source: error,
            },
        })
    }

    /// Deletes a blob, durably, and what was made of it. One that is not there is as good as deleted.
    pub async fn delete(&self, key: &str) -> Result<(), BlobError> {
        let (location, path) = self.locate(key)?;
        match self.store.delete(&location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => return Err(failed("delete", key, source)),
        }
        let conversions = self.conversions.clone();
        let stem = stem(key).to_owned();
        self.blocking("delete", path, move |folders, path| {
            conversions.forget(&stem)?;
            folders.sync_removal(path)
        })
        .await
    }

    /// Keys of what lies in the folders of days before that of `moment`, as many as `limit`. What has
    /// another name than a day was put there by somebody else.
    pub async fn of_days_before(
        &self,
        moment: Timestamp,
        limit: usize,
    ) -> Result<Vec<String>, BlobError> {
        let moment = jiff::Timestamp::from_millisecond(moment.as_millis());
        let moment = moment.unwrap_or(jiff::Timestamp::MIN);
        let day = TimeZone::UTC.to_datetime(moment).date();
        let is_before = move |name: &String| {
            let parsed = Date::strptime(DAY, name);
            parsed.is_ok_and(|other| other < day && other.strftime(DAY).to_string() == *name)
        };
        let (_, path) = self.locate(RECORDINGS)?;
        self.blocking("list", path, move |_, path| {
            let mut keys = Vec::new();
            for day in names_in(path)?.into_iter().filter(is_before) {
                for hour in names_in(&path.join(&day))? {
                    let folder = path.join(&day).join(&hour);
                    let files = names_in(&folder)?.into_iter();
                    let files = files.filter(|name| folder.join(name).is_file());
                    let room = limit - keys.len();
                    let found = files.map(|name| format!("{RECORDINGS}/{day}/{hour}/{name}"));
                    keys.extend(found.take(room));
                }
            }
            Ok(keys)
        })
        .await
    }

    /// Proves that files can be written, by writing one and deleting it.
    pub async fn ping(&self) -> Result<(), BlobError> {
        static PINGS: AtomicU64 = AtomicU64::new(0);
        let ping = PINGS.fetch_add(1, Ordering::Relaxed);
        let key = format!("probe-{}-{ping}", std::process::id());
        self.put(&key, Bytes::from_static(b"probe")).await?;
        self.delete(&key).await
    }

    fn locate(&self, key: &str) -> Result<(object_store::path::Path, PathBuf), BlobError> {
        let locate = || {
            let location = object_store::path::Path::parse(key)?;
            let path = self.store.path_to_filesystem(&location)?;
            Ok((location, path))
        };
        locate().map_err(|source| failed("locate", key, source))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        attempted: &'static str,
        path: PathBuf,
        work: impl FnOnce(&Folders, &Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BlobError> {
        let (folders, target) = (Arc::clone(&self.folders), path.clone());
        let done = tokio::task::spawn_blocking(move || work(&folders, &target)).await;
        let result = done.unwrap_or_else(|error| Err(error.into()));
        result.map_err(|source| BlobError::File {
            attempted,
            path,
            source,
        })
    }
}

fn failed(attempted: &'static str, key: &str, source: object_store::Error) -> BlobError {
    let key = key.to_owned();
    match source {
        object_store::Error::NotFound { .. } => BlobError::NotFound { key },
        source => BlobError::Store {
            attempted,
            key,
            source,
        },
    }
}

/// What tells a blob from all others: the name of its file without the ending.
fn stem(key: &str) -> &str {
    let name = key.rsplit('/').next().unwrap_or(key);
    name.split('.').next().unwrap_or(name)
}

/// The names in a folder; none where it is no folder.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
    names.filter_map(io::Result::transpose).collect()
}

#[cfg(test)]
mod tests;
