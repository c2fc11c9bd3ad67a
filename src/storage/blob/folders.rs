//! Makes the names of files durable, and removes folders that are empty.
//!
//! A name is durable when its folder has been synced after it was given, and when the same holds for
//! the name of that folder, and so on up to the root. Who gives names at the same time in one folder
//! shares its syncs; and the folders above are synced once, since a folder that holds a file stays.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Folders that are remembered. To forget one costs no more than some syncs.
const REMEMBERED: usize = 1_000;

/// The folders below a root.
#[derive(Debug)]
pub(super) struct Folders {
    pub(super) root: PathBuf,
    known: Mutex<HashMap<PathBuf, Arc<Folder>>>,
    #[cfg(test)]
    syncs: Mutex<Vec<PathBuf>>,
}

/// A folder in which names are made durable.
#[derive(Debug, Default)]
struct Folder {
    /// Names that have been given, by those who want them durable.
    given: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// As many of the names given are durable in the folder.
    synced: u64,
    /// As many may not be, because a sync failed. Trying again proves nothing: the system tells of a
    /// failure once.
    failed: u64,
    /// Whether the folder's own name is durable, and those of all above it.
    is_linked: bool,
}

impl Folders {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            known: Mutex::default(),
            #[cfg(test)]
            syncs: Mutex::default(),
        }
    }

    /// Waits until the name `path`, which has just been given, is durable.
    pub(super) fn sync_name(&self, path: &Path) -> io::Result<()> {
        let folder_path = folder_of(path);
        let folder = self.folder(folder_path);
        let mine = folder.given.fetch_add(1, Ordering::SeqCst) + 1;
        let mut state = lock(&folder.state);
        if state.failed >= mine {
            return Err(io::Error::other("the folder could not be synced"));
        }
        if state.synced >= mine {
            return Ok(());
        }
        let given = folder.given.load(Ordering::SeqCst);
        let levels = if state.is_linked { 1 } else { usize::MAX };
        let up = folder_path.ancestors().take(levels);
        let mut up = up.take_while(|folder| folder.starts_with(&self.root));
        let synced = up.try_for_each(|folder| self.sync(folder));
        match synced {
            Ok(()) => (state.synced, state.is_linked) = (given, true),
            Err(_) => state.failed = given,
        }
        synced
    }

    /// Makes the removal of `path` durable, and removes its folders as far as they are empty now.
    pub(super) fn sync_removal(&self, path: &Path) -> io::Result<()> {
        let within = |folder: &&Path| folder.starts_with(&self.root) && *folder != self.root;
        let mut folders = path.ancestors().skip(1).take_while(within);
        let left = folders.find(|folder| self.remove(folder).is_err());
        match self.sync(left.unwrap_or(&self.root)) {
            // Another deletion emptied it after us, and syncs the one above.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced,
        }
    }

    /// Removes a folder if it is empty. Nobody finds it durable meanwhile, and it is not afterwards:
    /// one that is made in its place is another.
    fn remove(&self, path: &Path) -> io::Result<()> {
        let folder = self.folder(path);
        let mut state = lock(&folder.state);
        fs::remove_dir(path)?;
        state.is_linked = false;
        Ok(())
    }

    fn sync(&self, folder: &Path) -> io::Result<()> {
        #[cfg(test)]
        lock(&self.syncs).push(folder.to_owned());
        fs::File::open(folder)?.sync_all()
    }

    fn folder(&self, path: &Path) -> Arc<Folder> {
        let mut known = lock(&self.known);
        if let Some(folder) = known.get(path) {
            return Arc::clone(folder);
        }
        if known.len() >= REMEMBERED {
            // Those in use stay: there is one of each at a time.
            known.retain(|_, folder| Arc::strong_count(folder) > 1);
        }
        let folder = Arc::<Folder>::default();
        known.insert(path.to_owned(), Arc::clone(&folder));
        folder
    }
}

/// Makes the folder of `path`, for this user only, and those above it, where they are missing.
pub(super) fn create_for(path: &Path) -> io::Result<()> {
    create(folder_of(path))
}

/// Makes a folder, for this user only, and those above it.
pub(super) fn create(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .expect("a key has a folder: it is joined to the root")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn folders() -> (tempfile::TempDir, Folders) {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::new(dir.path().to_owned());
        (dir, folders)
    }

    fn make(path: &Path) {
        create_for(path).unwrap();
        fs::write(path, b"audio").unwrap();
    }

    /// What has been synced since, below the root.
    fn synced(folders: &Folders) -> Vec<String> {
        let synced = std::mem::take(&mut *lock(&folders.syncs));
        let below = |path: &PathBuf| {
            let path = path.strip_prefix(&folders.root).unwrap();
            path.to_str().unwrap().to_owned()
        };
        synced.iter().map(below).collect()
    }

    #[test]
    fn the_folders_above_are_synced_once_and_again_when_a_new_one_takes_the_place_of_another() {
        let (dir, folders) = folders();
        let [one, two] = ["day/hour/1", "day/hour/2"].map(|name| dir.path().join(name));
        make(&one);
        folders.sync_name(&one).unwrap();
        assert_eq!(synced(&folders), ["day/hour", "day", ""]);
        make(&two);
        folders.sync_name(&two).unwrap();
        assert_eq!(synced(&folders), ["day/hour"]);

        fs::remove_file(&one).unwrap();
        folders.sync_removal(&one).unwrap();
        assert_eq!(synced(&folders), ["day/hour"]);
        fs::remove_file(&two).unwrap();
        folders.sync_removal(&two).unwrap();
        assert_eq!(synced(&folders), [""]);
        make(&two);
        folders.sync_name(&two).unwrap();
        assert_eq!(synced(&folders), ["day/hour", "day", ""]);
    }

    #[test]
    fn names_that_come_while_a_sync_is_under_way_share_the_next() {
        let (dir, folders) = folders();
        let paths: Vec<_> = (0..8)
            .map(|n| dir.path().join(format!("hour/{n}")))
            .collect();
        let folder = folders.folder(&dir.path().join("hour"));
        let under_way = lock(&folder.state);
        thread::scope(|scope| {
            for path in &paths {
                make(path);
                scope.spawn(|| folders.sync_name(path).unwrap());
            }
            while folder.given.load(Ordering::SeqCst) < 8 {
                thread::yield_now();
            }
            drop(under_way);
        });
        assert_eq!(synced(&folders), ["hour", ""]);
    }

    #[test]
    fn a_failed_sync_fails_for_all_whose_names_it_was_to_make_durable() {
        let (dir, folders) = folders();
        let path = dir.path().join("hour/1");
        make(&path);
        folders.sync_name(&path).unwrap();
        let folder = folders.folder(&dir.path().join("hour"));
        let under_way = lock(&folder.state);
        thread::scope(|scope| {
            let both = [(), ()].map(|()| scope.spawn(|| folders.sync_name(&path)));
            while folder.given.load(Ordering::SeqCst) < 3 {
                thread::yield_now();
            }
            fs::remove_dir_all(dir.path().join("hour")).unwrap();
            drop(under_way);
            for one in both {
                one.join().unwrap().unwrap_err();
            }
        });
        make(&path);
        folders.sync_name(&path).unwrap();
    }

    #[test]
    fn as_many_folders_are_remembered_and_no_more() {
        let (dir, folders) = folders();
        let in_use = folders.folder(&dir.path().join("in use"));
        for n in 0..2 * REMEMBERED {
            drop(folders.folder(&dir.path().join(n.to_string())));
        }
        assert!(lock(&folders.known).len() <= REMEMBERED);
        let found = folders.folder(&dir.path().join("in use"));
        assert!(Arc::ptr_eq(&in_use, &found));
    }
}
