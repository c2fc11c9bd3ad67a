//! API token secrets: pure, so that the command line makes them the same way.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// What every secret begins with, so that secret scanners and people recognise one.
const PREFIX: &str = "at_";

/// The secret of a new token from 32 random bytes of a cryptographic generator: `at_` and 64
/// hexadecimal digits. It is shown once; only [`hash_secret`] of it is kept.
pub fn new_secret(random: [u8; 32]) -> String {
    let mut secret = String::with_capacity(PREFIX.len() + 64);
    secret.push_str(PREFIX);
    secret.push_str(&hex(&random));
    secret
}

/// What the database knows of a secret: its SHA-256. A secret has 256 bits of chance, so a plain
/// hash cannot be searched, and looking it up tells nothing by the time it takes.
pub fn hash_secret(secret: &str) -> [u8; 32] {
    sha256(secret.as_bytes())
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_carries_all_its_random_bytes() {
        let secret = new_secret([0xab; 32]);
        assert_eq!(secret, format!("at_{}", "ab".repeat(32)));
        assert_ne!(hash_secret(&secret), hash_secret(&new_secret([0xac; 32])));
    }

    #[test]
    fn the_hash_is_sha_256_of_the_whole_secret() {
        // FIPS 180-4, example "abc".
        assert_eq!(
            hex(&hash_secret("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
