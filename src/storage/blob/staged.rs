//! A file that is being written where it will lie, under a name that counts for nothing yet.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::Advice;

use crate::storage::blob::folders::{self, Folders};
use crate::storage::conversions::remove_if_there;

/// How often a folder that has been made may be empty, and so tidied away, before it is used.
const TIDYING_RACES: u32 = 10;

/// A file on its way into the store. Where it is not kept it is gone.
#[derive(Debug)]
pub struct Staged {
    file: fs::File,
    path: PathBuf,
    is_kept: bool,
}

impl Staged {
    /// Begins a file that is to lie beside `target`, whatever its ending will be.
    pub(super) fn create(target: &Path) -> io::Result<Self> {
        let path = target.with_extension("new");
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut tries = 0;
        let file = loop {
            match options.open(&path) {
                Err(error) if tries == TIDYING_RACES => return Err(error),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    folders::create_for(&path)?;
                }
                // An earlier attempt left it. Another name of it may count: it is not written to.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    remove_if_there(&path)?;
                }
                opened => break opened?,
            }
            tries += 1;
        };
        Ok(Self {
            file,
            path,
            is_kept: false,
        })
    }

    /// Waits until it is on the disk, whole and as `target`; what had that name is replaced.
    pub(super) fn keep(mut self, target: &Path, folders: &Folders) -> io::Result<()> {
        self.file.sync_all()?;
        self.leave_the_cache();
        fs::rename(&self.path, target)?;
        self.is_kept = true;
        folders.sync_name(target)
    }

    /// What has been written will rarely be read, and not soon: its memory is for the next one, and
    /// the database stays where it is. Where the system cannot do so nothing is lost.
    fn leave_the_cache(&self) {
        rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed).ok();
    }
}

impl Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_kept {
            // A piece of it would only take room from others; the next attempt begins anew.
            drop(remove_if_there(&self.path));
        }
    }
}
