//! Recordings and greetings as files, whole and durable or not there at all.
//!
//! The files lie under one folder, kept by the `object_store` crate. Its folder store, built
//! `with_fsync(true)`, syncs a file before it gets its name and the folder afterwards; what it leaves
//! open is done here: a folder that another task has just made may not be durable yet, so every write
//! syncs all folders up to the root.
//!
//! A key is the path of a file below the folder. Keys are made only here, and a recording's follows from
//! its message's id and format alone: changing how would lose the recordings that are there.

use std::error::Error;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload};

use crate::domain::{AudioFormat, MessageId, SubscriberId, Timestamp};
use crate::storage::conversions::Conversions;

pub use crate::storage::conversions::{Made, Make};

/// How often a folder that has been made may be empty, and so tidied away, before it is used.
const TIDYING_RACES: u32 = 10;

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
    root: Arc<Path>,
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
        create_folder(dir).map_err(|source| failed("create the folder", source))?;
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
            store: store.with_fsync(true),
            root: root.into(),
            conversions,
        })
    }

    /// The key of a message's recording. The folders are named by the hour at which it began, in
    /// UTC, which keeps them small and lets an operator find a day.
    pub fn recording_key(id: MessageId, format: AudioFormat) -> String {
        let [a, b, c, d, e, f, ..] = *id.as_bytes();
        let ms = i64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        let hour = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
        let hour = hour.strftime("%Y-%m-%d/%H");
        format!("recordings/{hour}/{id}.{}", format.extension())
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
        let (location, path) = self.locate(key)?;
        let put = self
            .store
            .put(&location, PutPayload::from_bytes(bytes))
            .await;
        put.map_err(|source| failed("write", key, source))?;
        self.blocking("write", path, |root, path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            sync_folders(root, path)
        })
        .await
    }

    /// Stores the file `from` under `key`, durably; replaces what is there. On the same file system it
    /// gets a second name, so that neither time nor room is spent on a copy, also on a full disk;
    /// else it is copied. `from` stays (to be removed by the caller) and must not be written any more.
    pub async fn put_file(&self, key: &str, from: &Path) -> Result<(), BlobError> {
        let (_, path) = self.locate(key)?;
        let from = from.to_path_buf();
        self.blocking("write", path, move |root, path| {
            give_name(&from, path)?;
            sync_folders(root, path)
        })
        .await
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
        self.blocking("delete", path, move |root, path| {
            conversions.forget(&stem)?;
            sync_removal(root, path)
        })
        .await
    }

    /// Proves that files can be written, by writing one and deleting it.
    pub async fn ping(&self) -> Result<(), BlobError> {
        let key = format!("probe-{}", std::process::id());
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

    async fn blocking(
        &self,
        attempted: &'static str,
        path: PathBuf,
        work: impl FnOnce(&Path, &Path) -> io::Result<()> + Send + 'static,
    ) -> Result<(), BlobError> {
        let (root, target) = (Arc::clone(&self.root), path.clone());
        let done = tokio::task::spawn_blocking(move || work(&root, &target)).await;
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

fn create_folder(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// Whether the file systems, not the moment, are why there is no link.
fn cannot_link(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::CrossesDevices
            | io::ErrorKind::Unsupported
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::TooManyLinks
    )
}

/// Gives the synced file `from` the name `to` as well.
fn give_name(from: &Path, to: &Path) -> io::Result<()> {
    let file = fs::File::open(from)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.sync_all()?;
    let folder = to
        .parent()
        .expect("a key has a folder: it is joined to the root");
    let staged = to.with_extension("new");
    let link = || {
        create_folder(folder)?;
        remove_if_there(&staged)?;
        fs::hard_link(from, &staged)
    };
    let mut linked = link();
    for _ in 0..TIDYING_RACES {
        match &linked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => linked = link(),
            _ => break,
        }
    }
    match linked {
        Err(error) if cannot_link(&error) => copy(file, &staged)?,
        linked => linked?,
    }
    fs::rename(&staged, to)?;
    // Where `to` was this very file already, renaming has done nothing.
    remove_if_there(&staged)
}

fn copy(mut from: fs::File, to: &Path) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    let copied = io::copy(&mut from, &mut file).and_then(|_| file.sync_all());
    if copied.is_err() {
        remove_if_there(to)?;
    }
    copied
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the name of `path` durable, and those of all folders from the root to it.
fn sync_folders(root: &Path, path: &Path) -> io::Result<()> {
    for folder in path
        .ancestors()
        .skip(1)
        .take_while(|folder| folder.starts_with(root))
    {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Makes the removal of `path` durable, and removes its folders as far as they are empty now.
fn sync_removal(root: &Path, path: &Path) -> io::Result<()> {
    let within = |folder: &&Path| folder.starts_with(root) && *folder != root;
    let mut folders = path.ancestors().skip(1).take_while(within);
    let left = folders.find(|folder| fs::remove_dir(folder).is_err());
    match fs::File::open(left.unwrap_or(root)) {
        Ok(folder) => folder.sync_all(),
        // Another deletion emptied it after us, and syncs the one above.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
