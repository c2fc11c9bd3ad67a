//! What is made of recordings on demand: each file once, kept while there is room, gone with its
//! recording.
//!
//! A conversion takes seconds of a core. It runs on a thread of its own, behind everything else that
//! the machine has to do, and who asks for the same file meanwhile waits for it instead of making it
//! again. What it costs to make is all that these files are worth: nothing here is durable, and a
//! service that starts throws away what an earlier run left.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, try_unfold};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;

use crate::telemetry;

/// Conversions at once; more wait.
const AT_ONCE: usize = 2;
/// How far a conversion stands back behind what has a deadline, such as media (nice(2)).
const NICENESS: i32 = 10;
/// Read at once of a file that is sent.
const PIECE_BYTES: u64 = 64 * 1024;

/// Writes a file made of the one at the path.
pub type Make = Box<dyn FnOnce(&Path, &mut File) -> io::Result<()> + Send>;

/// A file that was made. It can be read as long as this lives, whatever becomes of its name.
#[derive(Debug, Clone)]
pub struct Made {
    file: Arc<File>,
    size: u64,
}

/// The folder of what was made. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Conversions {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    max_bytes: u64,
    places: Arc<Semaphore>,
    files: Mutex<Files>,
    /// Somebody has ended making a file, well or not.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Files {
    held: HashMap<String, Held>,
    bytes: u64,
    /// Counts uses; the file with the smallest is that which was not used for longest.
    uses: u64,
    /// Names of files that somebody is making.
    making: HashSet<String>,
}

#[derive(Debug)]
struct Held {
    bytes: u64,
    used: u64,
}

/// The right, and duty, to make a file.
struct Making {
    shared: Arc<Shared>,
    name: String,
}

enum Turn {
    /// It is there.
    Held,
    /// Nobody is making it.
    Ours(Making),
    /// Somebody else is making it.
    Wait,
}

impl Conversions {
    /// Takes the folder for this process alone, and empties it. At most `max_bytes` are kept.
    pub(super) fn open(dir: &Path, max_bytes: u64) -> io::Result<Self> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        create_folder(dir)?;
        Ok(Self {
            shared: Arc::new(Shared {
                dir: dir.to_owned(),
                max_bytes,
                places: Arc::new(Semaphore::new(AT_ONCE)),
                files: Mutex::default(),
                ended: Notify::new(),
            }),
        })
    }

    /// The file `name`, made by `make` of `source` where it is not there yet. A file whose source is
    /// gone when it is done is not kept.
    pub(super) async fn get(&self, name: &str, source: PathBuf, make: Make) -> io::Result<Made> {
        loop {
            // Listens before it looks, so that no end is missed.
            let ended = self.shared.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            match self.turn(name) {
                Turn::Held => match self.open_held(name).await {
                    // Removed between the look and this.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => self.forget_name(name),
                    opened => return opened,
                },
                Turn::Ours(making) => return making.run(source, make).await,
                Turn::Wait => ended.await,
            }
        }
    }

    /// Removes everything whose name begins with `stem` and a dot.
    pub(super) fn forget(&self, stem: &str) -> io::Result<()> {
        let is_of = |name: &String| name.strip_prefix(stem).is_some_and(|r| r.starts_with('.'));
        let names: Vec<_> = {
            let files = self.shared.lock();
            files
                .held
                .keys()
                .filter(|name| is_of(name))
                .cloned()
                .collect()
        };
        for name in names {
            self.forget_name(&name);
            remove_if_there(&self.shared.dir.join(&name))?;
        }
        Ok(())
    }

    fn turn(&self, name: &str) -> Turn {
        let mut files = self.shared.lock();
        files.uses += 1;
        let now = files.uses;
        if let Some(held) = files.held.get_mut(name) {
            held.used = now;
            Turn::Held
        } else if files.making.insert(name.to_owned()) {
            Turn::Ours(Making {
                shared: Arc::clone(&self.shared),
                name: name.to_owned(),
            })
        } else {
            Turn::Wait
        }
    }

    async fn open_held(&self, name: &str) -> io::Result<Made> {
        let path = self.shared.dir.join(name);
        let opened = tokio::task::spawn_blocking(move || Made::of(File::open(path)?)).await;
        opened.unwrap_or_else(|error| Err(error.into()))
    }

    fn forget_name(&self, name: &str) {
        let mut files = self.shared.lock();
        if let Some(held) = files.held.remove(name) {
            files.bytes -= held.bytes;
        }
    }
}

impl Making {
    /// Goes on to its end also when nobody waits for it any more: the next one finds it.
    async fn run(self, source: PathBuf, make: Make) -> io::Result<Made> {
        let place = Arc::clone(&self.shared.places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let began = Instant::now();
        let (tell, told) = oneshot::channel();
        thread::Builder::new()
            .name("conversion".into())
            .spawn(move || {
                // Where the system does not let us step back, the conversion is no less right.
                rustix::process::setpriority_process(None, NICENESS).ok();
                let made = self.make(&source, make);
                // The end is told by `drop`, after which the next may find the file.
                drop((self, place));
                // Nobody may be waiting any more.
                drop(tell.send(made));
            })?;
        let made = told.await;
        metrics::histogram!(telemetry::CONVERSION_TIME).record(began.elapsed());
        made.unwrap_or_else(|_| Err(io::Error::other("a conversion broke off by a defect")))
    }

    /// Nobody is told of the file before it is whole.
    fn make(&self, source: &Path, make: Make) -> io::Result<Made> {
        // It may have been cleared away behind our back.
        create_folder(&self.shared.dir)?;
        let path = self.shared.dir.join(&self.name);
        let made = match write_new(&path, |file| make(source, file)) {
            Ok(made) => made,
            Err(error) => {
                remove_if_there(&path)?;
                return Err(error);
            }
        };
        self.shared.hold(&self.name, made.size);
        // Who deletes a recording removes first that, then what was made of it. What is listed only
        // after he looked finds the recording gone.
        if !source.try_exists()? {
            let conversions = Conversions {
                shared: Arc::clone(&self.shared),
            };
            conversions.forget_name(&self.name);
            remove_if_there(&path)?;
        }
        Ok(made)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.shared.lock().making.remove(&self.name);
        self.shared.ended.notify_waiters();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a file, and removes those that were not used for longest where there is too much. The
    /// newest stays in any case: those who waited for it come for it now.
    fn hold(&self, name: &str, bytes: u64) {
        let mut files = self.lock();
        files.uses += 1;
        let used = files.uses;
        files.held.insert(name.to_owned(), Held { bytes, used });
        files.bytes += bytes;
        while files.bytes > self.max_bytes && files.held.len() > 1 {
            let oldest = files.held.iter().min_by_key(|(_, held)| held.used);
            let Some((oldest, bytes)) = oldest.map(|(name, held)| (name.clone(), held.bytes))
            else {
                break;
            };
            files.held.remove(&oldest);
            files.bytes -= bytes;
            // One that cannot be removed now goes when the service starts again.
            drop(fs::remove_file(self.dir.join(oldest)));
        }
    }
}

impl Made {
    fn of(file: File) -> io::Result<Self> {
        Ok(Self {
            size: file.metadata()?.len(),
            file: Arc::new(file),
        })
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes of `range`, piece by piece.
    pub fn stream(&self, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
        let file = Arc::clone(&self.file);
        try_unfold(range, move |range| {
            let file = Arc::clone(&file);
            async move {
                if range.is_empty() {
                    return Ok(None);
                }
                let piece = (range.end - range.start).min(PIECE_BYTES);
                let mut bytes = vec![0; piece as usize];
                let read = tokio::task::spawn_blocking(move || {
                    file.read_exact_at(&mut bytes, range.start).map(|()| bytes)
                });
                let bytes = read.await.unwrap_or_else(|error| Err(error.into()))?;
                Ok(Some((Bytes::from(bytes), range.start + piece..range.end)))
            }
        })
        .boxed()
    }
}

fn create_folder(dir: &Path) -> io::Result<()> {
    let mut folder = fs::DirBuilder::new();
    folder.recursive(true).mode(0o700).create(dir)
}

fn write_new(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<Made> {
    // What is left of an earlier try may still be read by somebody.
    remove_if_there(path)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let mut file = options.open(path)?;
    write(&mut file)?;
    Made::of(file)
}

/// Removes a file; it need not be there.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
