//! Our certificate and the check of the peer's. Both are self-signed: what counts is the
//! fingerprint that the session description tells.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use dimpl::DtlsCertificate;

use crate::media::sdp::Fingerprint;
use crate::media::sdp::HashFunction;

/// The system gives no random numbers to make a key of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot make a key and a certificate for DTLS")]
pub struct CertificateError;

/// A key on P-256 and a self-signed certificate of it.
pub struct Certificate {
    pair: DtlsCertificate,
    fingerprint: Fingerprint,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({})", self.fingerprint)
    }
}

impl Certificate {
    /// Makes a new one, of random numbers of the system. It takes well under a millisecond.
    pub fn generate() -> Result<Self, CertificateError> {
        let pair =
            dimpl::certificate::generate_self_signed_certificate().map_err(|_| CertificateError)?;
        let fingerprint = fingerprint(HashFunction::Sha256, &pair.certificate);
        Ok(Self { pair, fingerprint })
    }

    /// What session descriptions tell of it: SHA-256 (RFC 8122 section 5).
    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    pub(super) fn pair(&self) -> DtlsCertificate {
        self.pair.clone()
    }
}

/// The certificates of a process: a new one every so often, so that calls far apart cannot be
/// told to be of one origin, and a key that leaks opens little. Running calls keep theirs.
#[derive(Debug)]
pub struct Certificates {
    lifetime: Duration,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    current: Arc<Certificate>,
    since: Instant,
    /// For calls whose session description has told it already.
    former: Option<Arc<Certificate>>,
}

impl Certificates {
    /// The first certificate, and another whenever one is older than `lifetime`.
    pub fn new(now: Instant, lifetime: Duration) -> Result<Self, CertificateError> {
        let held = Held {
            current: Arc::new(Certificate::generate()?),
            since: now,
            former: None,
        };
        Ok(Self {
            lifetime,
            held: Mutex::new(held),
        })
    }

    /// The certificate of new calls.
    pub fn current(&self, now: Instant) -> Arc<Certificate> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(held.since) >= self.lifetime {
            held.since = now;
            // Without a new one the old one still serves.
            if let Ok(new) = Certificate::generate() {
                let old = std::mem::replace(&mut held.current, Arc::new(new));
                held.former = Some(old);
            }
        }
        Arc::clone(&held.current)
    }

    /// The one that a session description of ours has told: the current or the former.
    pub fn by_fingerprint(&self, told: &Fingerprint) -> Option<Arc<Certificate>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut certificates = std::iter::once(&held.current).chain(&held.former);
        certificates
            .find(|certificate| certificate.fingerprint() == told)
            .cloned()
    }
}

/// Whether a certificate is one of those `told`. Only the best hash function among them counts
/// (RFC 8122 section 5), and the comparison takes the same time wherever they differ.
pub(super) fn has_fingerprint(certificate: &[u8], told: &[Fingerprint]) -> bool {
    let Some(best) = told.iter().map(|one| one.hash).max() else {
        return false;
    };
    let actual = fingerprint(best, certificate);
    let mut of_best = told.iter().filter(|one| one.hash == best);
    of_best.any(|one| verify_slices_are_equal(&one.digest, &actual.digest).is_ok())
}

fn fingerprint(hash: HashFunction, certificate: &[u8]) -> Fingerprint {
    let algorithm = match hash {
        HashFunction::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        HashFunction::Sha224 => &digest::SHA224,
        HashFunction::Sha256 => &digest::SHA256,
        HashFunction::Sha384 => &digest::SHA384,
        HashFunction::Sha512 => &digest::SHA512,
    };
    let digest = digest::digest(algorithm, certificate).as_ref().to_vec();
    Fingerprint { hash, digest }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "virtual time begins at some moment"
)]
mod tests {
    use super::*;

    #[test]
    fn the_best_hash_function_that_was_told_has_to_fit() {
        let told = |hash, of: &[u8]| fingerprint(hash, of);
        let (sha1, sha256, sha512) = (
            HashFunction::Sha1,
            HashFunction::Sha256,
            HashFunction::Sha512,
        );
        assert!(has_fingerprint(b"A", &[told(sha256, b"A")]));
        assert!(has_fingerprint(b"A", &[told(sha1, b"A")]));
        assert!(has_fingerprint(
            b"A",
            &[told(sha256, b"B"), told(sha256, b"A"), told(sha1, b"C")]
        ));
        assert!(!has_fingerprint(
            b"A",
            &[told(sha1, b"A"), told(sha256, b"B")]
        ));
        assert!(!has_fingerprint(
            b"A",
            &[told(sha256, b"A"), told(sha512, b"B")]
        ));
        assert!(!has_fingerprint(b"A", &[]));
        let short = Fingerprint {
            hash: sha256,
            digest: vec![],
        };
        assert!(!has_fingerprint(b"A", &[short]));
    }

    #[test]
    fn a_new_certificate_comes_with_time_and_the_former_is_still_known() {
        let day = Duration::from_secs(86_400);
        let begin = Instant::now();
        let certificates = Certificates::new(begin, day).unwrap();
        let first = certificates.current(begin);
        let still = certificates.current(begin + day - Duration::from_secs(1));
        assert_eq!(first.fingerprint(), still.fingerprint());
        let second = certificates.current(begin + day);
        assert_ne!(first.fingerprint(), second.fingerprint());
        let known = |one: &Certificate| certificates.by_fingerprint(one.fingerprint()).is_some();
        assert!(known(&first) && known(&second));
        certificates.current(begin + 2 * day);
        assert!(!known(&first) && known(&second));
        assert!(!known(&Certificate::generate().unwrap()));
    }

    #[test]
    fn a_certificate_prints_without_its_key() {
        let printed = format!("{:?}", Certificate::generate().unwrap());
        assert!(printed.starts_with("Certificate(sha-256 ") && printed.len() == 20 + 95 + 1);
    }
}
