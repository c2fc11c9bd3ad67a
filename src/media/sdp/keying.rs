//! How the packets of a call are protected, as descriptions tell it: SDES (RFC 4568), and the
//! fingerprints and roles of DTLS-SRTP (RFC 5763, RFC 8122, RFC 8842).

use std::fmt;

/// Where the keys of a call's packets come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keying {
    /// Nowhere: the packets are in the clear.
    Plain,
    /// Not known before our offer is answered; until then nothing is sent, and nothing taken.
    Awaited,
    /// Out of the descriptions themselves (RFC 4568). Both keys are of the same suite.
    Sdes {
        /// What we protect with.
        send: SrtpKey,
        /// What the peer protects with.
        receive: SrtpKey,
    },
    /// Out of a DTLS handshake (RFC 5764).
    Dtls {
        /// Ours.
        role: DtlsRole,
        /// The fingerprint of ours that was told: it names the certificate to be shown.
        local: Fingerprint,
        /// The peer's: its certificate has to fit one of them.
        fingerprints: Vec<Fingerprint>,
    },
}

impl Keying {
    /// The key that we protect with now, if it is one of `suite` out of the descriptions.
    pub(super) fn key_in_use(&self, suite: SrtpSuite) -> Option<SrtpKey> {
        match self {
            Self::Sdes { send, .. } if send.suite() == suite => Some(send.clone()),
            _ => None,
        }
    }
}

/// A protection of SRTP (RFC 3711, RFC 7714).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SrtpSuite {
    /// AES in counter mode with tags of 80 bits; what everybody has.
    AesCm128HmacSha1_80,
    /// The same with tags of 32 bits (of 80 for RTCP).
    AesCm128HmacSha1_32,
    /// AES-GCM.
    AeadAes128Gcm,
    /// AES-GCM with long keys.
    AeadAes256Gcm,
}

impl SrtpSuite {
    /// All there are, the best first.
    pub const ALL: [Self; 4] = [
        Self::AeadAes256Gcm,
        Self::AeadAes128Gcm,
        Self::AesCm128HmacSha1_80,
        Self::AesCm128HmacSha1_32,
    ];

    /// Its name in `a=crypto` (RFC 4568 section 6.2, RFC 7714 section 14.2).
    pub const fn name(self) -> &'static str {
        match self {
            Self::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
            Self::AesCm128HmacSha1_32 => "AES_CM_128_HMAC_SHA1_32",
            Self::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Self::AeadAes256Gcm => "AEAD_AES_256_GCM",
        }
    }

    /// Bytes of master key and master salt together.
    pub const fn key_and_salt_len(self) -> usize {
        match self {
            Self::AesCm128HmacSha1_80 | Self::AesCm128HmacSha1_32 => 16 + 14,
            Self::AeadAes128Gcm => 16 + 12,
            Self::AeadAes256Gcm => 32 + 12,
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|suite| suite.name().eq_ignore_ascii_case(name))
    }
}

/// The longest key and salt of any suite.
const LONGEST_KEY: usize = 44;

/// A master key with its salt, for one direction. It prints without either.
#[derive(Clone, PartialEq, Eq)]
pub struct SrtpKey {
    suite: SrtpSuite,
    key_and_salt: [u8; LONGEST_KEY],
}

impl SrtpKey {
    /// A key of `suite`; `None` if there are not exactly as many bytes as it takes.
    pub fn new(suite: SrtpSuite, key_and_salt: &[u8]) -> Option<Self> {
        if key_and_salt.len() != suite.key_and_salt_len() {
            return None;
        }
        let mut held = [0; LONGEST_KEY];
        held.get_mut(..key_and_salt.len())?
            .copy_from_slice(key_and_salt);
        Some(Self {
            suite,
            key_and_salt: held,
        })
    }

    /// What it is for.
    pub const fn suite(&self) -> SrtpSuite {
        self.suite
    }

    /// The key, and the salt behind it.
    pub fn bytes(&self) -> &[u8] {
        let (used, _) = self.key_and_salt.split_at(self.suite.key_and_salt_len());
        used
    }
}

impl fmt::Debug for SrtpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SrtpKey({}, redacted)", self.suite.name())
    }
}

/// Who begins the DTLS handshake (RFC 4145, RFC 8842).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DtlsRole {
    /// The client: sends the first message.
    Active,
    /// The server: waits for it.
    Passive,
}

impl DtlsRole {
    /// Its name in `a=setup`.
    pub(super) const fn setup(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }
}

/// What a certificate is known by (RFC 8122 section 5).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// How it was made.
    pub hash: HashFunction,
    /// What it came to; as long as the hash function makes it.
    pub digest: Vec<u8>,
}

/// The hash functions of fingerprints that we know. SHA-1 is among them because old devices
/// have nothing else; where there is a better one beside it, that one has to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HashFunction {
    /// Of 160 bits; broken for collisions.
    Sha1,
    /// Of 224 bits.
    Sha224,
    /// Of 256 bits; what everybody has.
    Sha256,
    /// Of 384 bits.
    Sha384,
    /// Of 512 bits.
    Sha512,
}

impl HashFunction {
    const ALL: [Self; 5] = [
        Self::Sha1,
        Self::Sha224,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
    ];

    /// Its name in `a=fingerprint`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha-1",
            Self::Sha224 => "sha-224",
            Self::Sha256 => "sha-256",
            Self::Sha384 => "sha-384",
            Self::Sha512 => "sha-512",
        }
    }

    /// Bytes of its digest.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

impl Fingerprint {
    /// A fingerprint of the usual kind.
    pub fn sha256(digest: [u8; 32]) -> Self {
        Self {
            hash: HashFunction::Sha256,
            digest: digest.to_vec(),
        }
    }

    /// Reads `sha-256 4A:AD:…`.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let (hash, digest) = value.split_once(|c: char| c.is_ascii_whitespace())?;
        let hash = HashFunction::ALL
            .into_iter()
            .find(|known| known.name().eq_ignore_ascii_case(hash))?;
        let bytes = digest.trim().split(':');
        let byte = |text: &str| match text.len() {
            2 => u8::from_str_radix(text, 16).ok(),
            _ => None,
        };
        let digest: Vec<u8> = bytes.map(byte).take(65).collect::<Option<_>>()?;
        (digest.len() == hash.digest_len()).then_some(Self { hash, digest })
    }
}

/// As `a=fingerprint` has it.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.hash.name())?;
        for (place, byte) in self.digest.iter().enumerate() {
            let mark = if place == 0 { ' ' } else { ':' };
            write!(f, "{mark}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}
