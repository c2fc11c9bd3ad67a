//! Seals what must not lie readable on disk or with a browser: XChaCha20-Poly1305 under a ring of keys.
//!
//! Sealed text is the four bytes of its key's id, the nonce of twenty-four bytes, and the ciphertext with
//! its tag. What it is bound to (whose it is, what it is for) is authenticated and not part of it: moved
//! to another row, it does not open.

use std::fmt;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use sha2::{Digest, Sha256};

/// Names a key, and nothing more: the first bytes of a digest of it.
pub type KeyId = [u8; 4];

const NONCE_LEN: usize = 24;

/// Why sealed text does not open. Neither tells what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// None of the keys has sealed it.
    #[error("it was sealed with a key that is not configured any more")]
    UnknownKey,
    /// It was changed, cut short, or sealed for something else.
    #[error("it is damaged, or was sealed for something else")]
    Broken,
}

/// A ring of keys: the first one seals, each of them opens. Cheap to share, not to clone.
pub struct Vault {
    keys: Vec<Key>,
}

struct Key {
    id: KeyId,
    cipher: XChaCha20Poly1305,
}

impl Vault {
    /// A vault with these keys, the sealing one first; `None` where there is none.
    pub fn from_keys(keys: &[[u8; 32]]) -> Option<Self> {
        if keys.is_empty() {
            return None;
        }
        let keys = keys.iter().map(|key| Key {
            id: id_of(key),
            cipher: XChaCha20Poly1305::new(key.into()),
        });
        Some(Self {
            keys: keys.collect(),
        })
    }

    /// Seals `plain`, bound to `bound_to`. The nonce is chance: a nonce used twice under one key shows
    /// both texts.
    pub fn seal(&self, nonce: [u8; NONCE_LEN], plain: &[u8], bound_to: &[u8]) -> Vec<u8> {
        let key = self.current();
        let payload = Payload {
            msg: plain,
            aad: bound_to,
        };
        let ciphertext = key
            .cipher
            .encrypt(&nonce.into(), payload)
            .expect("what is sealed is far below the cipher's limit of 256 GB");
        [key.id.as_slice(), &nonce, &ciphertext].concat()
    }

    /// Opens what was sealed, for the same `bound_to`.
    pub fn open(&self, sealed: &[u8], bound_to: &[u8]) -> Result<Vec<u8>, VaultError> {
        let (id, rest) = sealed.split_first_chunk().ok_or(VaultError::Broken)?;
        let (nonce, ciphertext) = rest
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(VaultError::Broken)?;
        let payload = Payload {
            msg: ciphertext,
            aad: bound_to,
        };
        let key = self
            .keys
            .iter()
            .find(|key| key.id == *id)
            .ok_or(VaultError::UnknownKey)?;
        key.cipher
            .decrypt(nonce.into(), payload)
            .map_err(|_| VaultError::Broken)
    }

    /// Whether the key that seals now has sealed it; if not, it is to be sealed anew before its key goes.
    pub fn sealed_by_current(&self, sealed: &[u8]) -> bool {
        sealed.starts_with(&self.key_id())
    }

    /// The id of the key that seals now: what sealed text begins with.
    pub fn key_id(&self) -> KeyId {
        self.current().id
    }

    /// Whether what this key has sealed can be opened.
    pub fn has_key(&self, id: KeyId) -> bool {
        self.keys.iter().any(|key| key.id == id)
    }

    /// The ids of the keys that only open.
    pub fn other_key_ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys.iter().skip(1).map(|key| key.id)
    }

    fn current(&self) -> &Key {
        self.keys.first().expect("a vault has at least one key")
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(…)")
    }
}

fn id_of(key: &[u8; 32]) -> KeyId {
    let digest = Sha256::new()
        .chain_update(b"aftertone vault key id")
        .chain_update(key)
        .finalize();
    *digest
        .first_chunk()
        .expect("a digest of SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: [u8; 32] = [1; 32];
    const NEW: [u8; 32] = [2; 32];

    fn vault(keys: &[[u8; 32]]) -> Vault {
        Vault::from_keys(keys).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_for_what_it_was_bound_to_and_for_nothing_else() {
        let vault = vault(&[OLD]);
        let sealed = vault.seal([7; 24], b"refresh token", b"alice");
        assert_eq!(vault.open(&sealed, b"alice").unwrap(), b"refresh token");
        assert_eq!(vault.open(&sealed, b"bob"), Err(VaultError::Broken));
        assert!(!sealed.windows(7).any(|part| part == b"refresh"));
        assert_ne!(sealed, vault.seal([8; 24], b"refresh token", b"alice"));
        assert_eq!(
            vault.open(&vault.seal([7; 24], b"", b""), b"").unwrap(),
            b""
        );
    }

    #[test]
    fn changed_or_cut_text_does_not_open() {
        let vault = vault(&[OLD]);
        let sealed = vault.seal([7; 24], b"secret", b"");
        for cut in 0..sealed.len() {
            assert!(vault.open(&sealed[..cut], b"").is_err(), "{cut}");
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(vault.open(&changed, b"").is_err(), "{at}");
        }
    }

    #[test]
    fn a_new_key_seals_and_the_old_one_opens_until_it_is_taken_away() {
        let sealed = vault(&[OLD]).seal([7; 24], b"secret", b"");
        let both = vault(&[NEW, OLD]);
        assert_eq!(both.open(&sealed, b"").unwrap(), b"secret");
        assert!(!both.sealed_by_current(&sealed));
        let anew = both.seal([9; 24], b"secret", b"");
        assert!(both.sealed_by_current(&anew) && anew.starts_with(&both.key_id()));
        assert!(both.other_key_ids().all(|id| sealed.starts_with(&id)));
        assert!(both.other_key_ids().all(|id| both.has_key(id)));

        let only_new = vault(&[NEW]);
        assert_eq!(only_new.open(&anew, b"").unwrap(), b"secret");
        assert_eq!(only_new.open(&sealed, b""), Err(VaultError::UnknownKey));
        assert!(both.other_key_ids().all(|id| !only_new.has_key(id)));
        assert!(Vault::from_keys(&[]).is_none());
    }

    /// Draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn the_cipher_is_the_one_of_the_draft() {
        let key: [u8; 32] = std::array::from_fn(|n| 0x80 + n as u8);
        let nonce: [u8; 24] = std::array::from_fn(|n| 0x40 + n as u8);
        let bound_to = [
            0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7,
        ];
        let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let sealed = vault(&[key]).seal(nonce, plain, &bound_to);
        assert_eq!(sealed[4..28], nonce);
        assert_eq!(
            sealed[28..36],
            [0xbd, 0x6d, 0x17, 0x9d, 0x3e, 0x83, 0xd4, 0x3b]
        );
        let tag = [
            0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47, 0xde, 0xaf, 0xd8, 0x78, 0x0a,
            0xcf, 0x49,
        ];
        assert_eq!(sealed[sealed.len() - 16..], tag);
    }
}
