//! The keys under which tokens are sealed: configured, or made once and kept beside the database.

use std::fs;
use std::io;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::TryRng;
use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng};

use crate::domain::Secret;
use crate::enrolment::Enrolment;
use crate::enrolment::config::{InvalidKey, read_keys};
use crate::enrolment::grants;
use crate::storage::{Storage, StorageError};
use crate::vault::Vault;

/// The file in the data directory where no key is configured.
const FILE: &str = "token.key";
/// Grants sealed anew in one transaction.
const PORTION: u32 = 500;

/// Why there is no vault.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The configured keys are none.
    #[error("enrolment.token_key: {0}")]
    Setting(#[source] InvalidKey),
    /// The file holds no key.
    #[error(
        "{}: {source}; restore the file from a backup, or remove it to begin with a new key: then every subscriber must sign in again",
        path.display()
    )]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidKey,
    },
    /// The file cannot be read.
    #[error("could not read the key that seals tokens, {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file cannot be made.
    #[error(
        "could not make the key that seals tokens, {}: check that the folder may be written, or set enrolment.token_key",
        path.display()
    )]
    Make {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Opens the vault of the configured keys, or else of the file `token.key` in the data directory. It is
/// made where it is not there, for this user only, and never written again.
pub fn open_vault(token_key: Option<&Secret>, data_dir: &Path) -> Result<Vault, KeyError> {
    if let Some(configured) = token_key {
        return vault_of(configured.expose()).map_err(KeyError::Setting);
    }
    let path = file(data_dir);
    let failed = |source| KeyError::Read {
        path: path.clone(),
        source,
    };
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(data_dir, &path).map_err(|source| KeyError::Make {
                path: path.clone(),
                source,
            })?;
            // Another process may have made it first: what lies there now counts.
            fs::read_to_string(&path).map_err(failed)?
        }
        text => text.map_err(failed)?,
    };
    let mode = fs::metadata(&path).map_err(failed)?.mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            file = %path.display(),
            "Others may read the key that seals tokens; take that right away with chmod 600"
        );
    }
    vault_of(&text).map_err(|source| KeyError::File { path, source })
}

/// The file of the key where none is configured.
pub fn file(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

fn vault_of(text: &str) -> Result<Vault, InvalidKey> {
    Vault::from_keys(&read_keys(text)?).ok_or(InvalidKey::None)
}

/// Gives a new key its name once it is durable; where the name is taken, that one stays.
fn make(folder: &Path, path: &Path) -> io::Result<()> {
    let (mut key, mut chance) = ([0; 32], [0; 8]);
    for bytes in [key.as_mut_slice(), &mut chance] {
        SysRng.try_fill_bytes(bytes).map_err(io::Error::other)?;
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let staged = folder.join(format!("{FILE}.{:016x}", u64::from_be_bytes(chance)));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&staged)
        .and_then(|mut file| {
            writeln!(file, "{}", STANDARD.encode(key))?;
            file.sync_all()
        })
        .and_then(|()| fs::hard_link(&staged, path));
    fs::remove_file(&staged)?;
    match written {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Err(_) => {}
        Ok(()) => tracing::info!(file = %path.display(), "Made the key that seals tokens"),
    }
    fs::File::open(folder)?.sync_all()
}

impl Enrolment {
    /// Seals anew what was sealed with a key that only opens now.
    pub(super) async fn seal_anew(self) {
        let parts = &self.0.parts;
        // An error here will show wherever else the database is read.
        let key_ids = parts.storage.keys_of_grants().await.unwrap_or_default();
        if !key_ids.into_iter().all(|id| parts.vault.has_key(id)) {
            tracing::error!(
                "Tokens of subscribers are sealed with a key that is not here, and their registrations will \
                 end; `aftertone check` says what to do"
            );
        }
        if parts.vault.other_key_ids().next().is_none() {
            return;
        }
        match seal_anew(&*parts.storage, &parts.vault, self.random()).await {
            Ok(grants) => tracing::info!(
                grants,
                "Everything is sealed with the first key of enrolment.token_key; a day from now the others may go"
            ),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "Not everything could be sealed with the first key; the next start goes on"
            ),
        }
    }
}

/// Seals with the first key what another one of the ring has sealed, so that the others can be taken out
/// of the configuration. Safe to repeat, and beside a running service. How many grants it were.
pub async fn seal_anew(
    storage: &dyn Storage,
    vault: &Vault,
    seed: [u8; 32],
) -> Result<u64, StorageError> {
    let mut chance = StdRng::from_seed(seed);
    let mut sealed_anew = 0;
    for key_id in vault.other_key_ids() {
        let mut after = None;
        loop {
            let mut page = storage.grants_sealed_by(key_id, after, PORTION).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            page.retain_mut(|(subscriber, grant)| {
                let bound_to = grants::bound_to(*subscriber);
                let mut nonce = [0; 24];
                chance.fill_bytes(&mut nonce);
                // One that does not open is of no use to anybody; who has the grant signs in again.
                let opened = vault.open(&grant.sealed, &bound_to).ok();
                if let Some(plain) = &opened {
                    grant.sealed = vault.seal(nonce, plain, &bound_to);
                }
                opened.is_some()
            });
            sealed_anew += storage.store_sealed_anew(&page).await?;
        }
    }
    Ok(sealed_anew)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn is_same(one: &Vault, other: &Vault) -> bool {
        let sealed = one.seal([1; 24], b"token", b"alice");
        other.open(&sealed, b"alice").is_ok()
    }

    #[test]
    fn a_key_is_made_once_for_this_user_only() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let first = open_vault(None, &data).unwrap();
        let file = data.join("token.key");
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert!(is_same(&first, &open_vault(None, &data).unwrap()));
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        assert_eq!(
            fs::read_dir(&data).unwrap().count(),
            1,
            "nothing staged is left"
        );
        assert!(is_same(
            &first,
            &open_vault(Some(&Secret::new(text)), &data).unwrap()
        ));

        let other = tempfile::tempdir().unwrap();
        assert!(!is_same(&first, &open_vault(None, other.path()).unwrap()));
    }

    #[test]
    fn many_who_make_the_key_at_once_get_the_same_one() {
        let dir = tempfile::tempdir().unwrap();
        let vaults: Vec<Vault> = std::thread::scope(|scope| {
            let opening: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| open_vault(None, dir.path()).unwrap()))
                .collect();
            opening
                .into_iter()
                .map(|vault| vault.join().unwrap())
                .collect()
        });
        assert!(vaults.iter().all(|vault| is_same(&vaults[0], vault)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_is_none_is_told_with_the_way_out_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token.key");
        for text in ["", "short", "AAAA"] {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            let error = open_vault(None, dir.path()).unwrap_err().to_string();
            assert!(
                error.contains("token.key") && error.contains("backup"),
                "{error}"
            );
            assert!(text.is_empty() || !error.contains(text), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        let setting = Secret::new("short");
        let error = open_vault(Some(&setting), dir.path()).unwrap_err();
        assert_eq!(error.to_string().find("enrolment.token_key: "), Some(0));
        let nowhere = file.join("below");
        let error = open_vault(None, &nowhere).unwrap_err();
        assert!(error.to_string().contains("below/token.key"), "{error}");
    }
}
