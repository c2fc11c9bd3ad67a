//! What we show and keep secret in one call.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::Digest;
use sha2::Sha256;

use crate::media::sdp::Fingerprint;
use crate::media::sdp::IceCredentials;
use crate::media::sdp::SrtpKey;
use crate::media::sdp::SrtpSuite;

/// Our secrets for one call, all drawn from one seed, and the certificate that we show in it.
/// The seed does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct LocalIdentity {
    seed: [u8; 32],
    fingerprint: Fingerprint,
    /// Of the ICE credentials; each restart has its own.
    generation: u32,
    /// Of the keys for SRTP; see [`LocalIdentity::note_use`].
    keys: u32,
}

impl LocalIdentity {
    /// The secrets that follow from `seed`, which is random and used for this call only, and the
    /// fingerprint of our certificate.
    pub const fn new(seed: [u8; 32], fingerprint: Fingerprint) -> Self {
        Self {
            seed,
            fingerprint,
            generation: 0,
            keys: 0,
        }
    }

    /// Our certificate's.
    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// What we sign ICE checks with, until the next restart.
    pub fn ice(&self) -> IceCredentials {
        let [ufrag, password] = [b'u', b'p'].map(|label| self.derive(label, self.generation));
        // RFC 8839 section 5.4: ice-char is the alphabet of Base64.
        let text = |bytes: &[u8]| STANDARD_NO_PAD.encode(bytes);
        IceCredentials {
            ufrag: text(ufrag.get(..6).unwrap_or_default()),
            password: text(password.get(..18).unwrap_or_default()),
        }
    }

    /// Other ICE credentials from now on (RFC 8445 section 9).
    pub const fn restart_ice(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// What we protect packets with where the descriptions carry the keys and none is in use.
    pub fn srtp_key(&self, suite: SrtpSuite) -> SrtpKey {
        let place = self.keys.wrapping_mul(16) + suite as u32 * 2;
        let mut bytes = [0; 64];
        let (low, high) = bytes.split_at_mut(32);
        low.copy_from_slice(&self.derive(b'k', place));
        high.copy_from_slice(&self.derive(b'k', place + 1));
        let (used, _) = bytes.split_at(suite.key_and_salt_len());
        SrtpKey::new(suite, used).expect("it is as long as the suite asks")
    }

    /// What is in use now is drawn no more: whoever comes back to a suite, or to protection at all,
    /// would else use its key streams twice.
    pub(super) fn note_use(&mut self, key: &SrtpKey) {
        if self.srtp_key(key.suite()) == *key {
            self.keys = self.keys.wrapping_add(1);
        }
    }

    /// Nobody who sees one of these can tell the seed, or another.
    fn derive(&self, label: u8, number: u32) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.seed);
        hash.update([label]);
        hash.update(number.to_be_bytes());
        hash.finalize().into()
    }
}

impl fmt::Debug for LocalIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalIdentity")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}
