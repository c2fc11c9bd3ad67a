//! Session keys of a master key (RFC 3711 section 4.3, RFC 7714 section 11, RFC 6188).

use aws_lc_rs::cipher::AES_128;
use aws_lc_rs::cipher::AES_256;
use aws_lc_rs::cipher::EncryptingKey;
use aws_lc_rs::cipher::EncryptionContext;
use aws_lc_rs::cipher::UnboundCipherKey;
use aws_lc_rs::iv::FixedLength;

use crate::media::sdp::SrtpKey;
use crate::media::sdp::SrtpSuite;

/// What session keys are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Rtp,
    Rtcp,
}

impl Use {
    /// Labels of encryption key, authentication key and salt.
    const fn labels(self) -> [u8; 3] {
        match self {
            Self::Rtp => [0, 1, 2],
            Self::Rtcp => [3, 4, 5],
        }
    }
}

/// The session keys of one use, in buffers that hold the longest.
pub(super) struct SessionKeys {
    pub(super) encryption: [u8; 32],
    pub(super) authentication: [u8; 20],
    pub(super) salt: [u8; 14],
}

impl SessionKeys {
    /// There is no key derivation rate.
    pub(super) fn of(key: &SrtpKey, usage: Use) -> Self {
        let len = match key.suite() {
            SrtpSuite::AeadAes256Gcm => 32,
            _ => 16,
        };
        let (key, salt) = key.bytes().split_at(len);
        Self::derive(key, salt, usage)
    }

    /// `key` has 16 or 32 bytes, `salt` at most 14.
    fn derive(key: &[u8], salt: &[u8], usage: Use) -> Self {
        let prf = counter_mode(key);
        let mut keys = Self {
            encryption: [0; 32],
            authentication: [0; 20],
            salt: [0; 14],
        };
        let [encryption, authentication, salting] = usage.labels();
        generate(&prf, salt, encryption, &mut keys.encryption);
        generate(&prf, salt, authentication, &mut keys.authentication);
        generate(&prf, salt, salting, &mut keys.salt);
        keys
    }
}

/// AES in counter mode under a key of 16 or 32 bytes.
pub(super) fn counter_mode(key: &[u8]) -> EncryptingKey {
    let algorithm = if key.len() == 32 { &AES_256 } else { &AES_128 };
    let key = UnboundCipherKey::new(algorithm, key).expect("a key has 16 or 32 bytes");
    EncryptingKey::ctr(key).expect("AES has a counter mode")
}

/// Encrypts or decrypts in place, beginning with the counter block `iv`.
pub(super) fn apply(key: &EncryptingKey, iv: [u8; 16], in_out: &mut [u8]) {
    let context = EncryptionContext::Iv128(FixedLength::from(iv));
    key.less_safe_encrypt(in_out, context)
        .expect("counter mode takes any length");
}

fn generate(prf: &EncryptingKey, salt: &[u8], label: u8, out: &mut [u8]) {
    let mut iv = [0; 16];
    for (to, from) in iv.iter_mut().zip(salt) {
        *to = *from;
    }
    iv[7] ^= label;
    out.fill(0);
    apply(prf, iv, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3711 appendix B.3.
    #[test]
    fn session_keys_are_those_of_the_standard() {
        let key = hex("E1F97A0D3E018BE0D64FA32C06DE4139");
        let salt = hex("0EC675AD498AFEEBB6960B3AABE6");
        let keys = SessionKeys::derive(&key, &salt, Use::Rtp);
        assert_eq!(
            keys.encryption[..16],
            hex("C61E7A93744F39EE10734AFE3FF7A087")
        );
        assert_eq!(keys.salt[..], hex("30CBBC08863D8C85D49DB34A9AE1"));
        assert_eq!(
            keys.authentication[..],
            hex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4")
        );
    }

    /// RFC 3711 appendix B.2.
    #[test]
    fn the_key_stream_is_that_of_the_standard() {
        let key = counter_mode(&hex("2B7E151628AED2A6ABF7158809CF4F3C"));
        let iv = hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD0000");
        let mut stream = vec![0; 0xff02 * 16];
        apply(&key, iv.try_into().unwrap(), &mut stream);
        assert_eq!(stream[..16], hex("E03EAD0935C95E80E166B16DD92B4EB4"));
        assert_eq!(stream[16..32], hex("D23513162B02D0F72A43A2FE4A5F97AB"));
        assert_eq!(stream[32..48], hex("41E95B3BB0A2E8DD477901E4FCA894C0"));
        assert_eq!(
            stream[0xfeff * 16..][..16],
            hex("EC8CDF7398607CB0F2D21675EA9EA1E4")
        );
        assert_eq!(
            stream[0xff00 * 16..][..16],
            hex("362B7C3C6773516318A077D7FC5073AE")
        );
        assert_eq!(
            stream[0xff01 * 16..][..16],
            hex("6A2CC3787889374FBEB4C81B17BA6C44")
        );
    }

    /// RFC 6188 section 7.4.
    #[test]
    fn session_keys_of_256_bits_are_those_of_the_standard() {
        let key = hex("F0F04914B513F2763A1B1FA130F10E2998F6F6E43E4309D1E622A0E332B9F1B6");
        let salt = hex("3B04803DE51EE7C96423AB5B78D2");
        let keys = SessionKeys::derive(&key, &salt, Use::Rtp);
        let expected = hex("5BA1064E30EC51613CAD926C5A28EF731EC7FB397F70A960653CAF06554CD8C4");
        assert_eq!(keys.encryption[..], expected);
        assert_eq!(keys.salt[..], hex("FA31791685CA444A9E07C6C64E93"));
        assert_eq!(
            keys.authentication[..],
            hex("FD9C32D39ED5FBB5A9DC96B30818454D1313DC05")
        );
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digits).collect()
    }
}
