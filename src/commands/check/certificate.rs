//! Whether the TLS certificate can be used: key, names, dates.

use std::path::Path;

use aftertone::clock::{Clock, SystemClock};
use aftertone::domain::Timestamp;
use aftertone::sip::Config;
use aftertone::sip::message::{Host, Scheme, Uri};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, RootCertStore};

use crate::commands::check::{Finding, chain};

const SETTING: &str = "sip.tls_certificate";
const DAY_SECS: u64 = 24 * 60 * 60;
/// So long before its end a certificate should have been renewed.
const RENEWAL_DAYS: u64 = 14;

pub(super) fn check(sip: &Config) -> Vec<Finding> {
    let (Some(certificate), Some(key)) = (&sip.tls_certificate, &sip.tls_private_key) else {
        return vec![Finding::ok(SETTING, "is not set, there is no TLS")];
    };
    let chain = match read_chain(certificate) {
        Ok(chain) => chain,
        Err(finding) => return vec![finding],
    };
    let mut findings = vec![matches_key(certificate, chain.clone(), key)];
    let Some(leaf) = chain.first() else {
        return findings;
    };
    match ParsedCertificate::try_from(leaf) {
        Ok(parsed) => {
            findings.push(dates(&parsed, SystemClock.now()));
            findings.extend(names(&parsed, &sip.uri));
        }
        Err(error) => findings.push(unusable(certificate, &error)),
    }
    findings
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> Finding {
    Finding::fail(
        SETTING,
        format!("\"{}\" cannot be used: {}", path.display(), chain(error)),
    )
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Finding> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match chain {
        Ok(chain) if chain.is_empty() => Err(Finding::fail(
            SETTING,
            format!("\"{}\" holds no certificate in PEM form", path.display()),
        )),
        Ok(chain) => Ok(chain),
        Err(error) => Err(unusable(path, &error)),
    }
}

fn matches_key(path: &Path, chain: Vec<CertificateDer<'static>>, key_path: &Path) -> Finding {
    const KEY: &str = "sip.tls_private_key";
    let key = match PrivateKeyDer::from_pem_file(key_path) {
        Ok(key) => key,
        Err(error) => {
            let shown = key_path.display();
            return Finding::fail(
                KEY,
                format!("\"{shown}\" holds no key that can be read: {error}"),
            );
        }
    };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Finding::ok(KEY, format!("belongs to \"{}\"", path.display())),
        Err(Error::InconsistentKeys(_)) => Finding::fail(
            KEY,
            format!(
                "\"{}\" is the key of another certificate",
                key_path.display()
            ),
        ),
        Err(error) => Finding::fail(
            KEY,
            format!("\"{}\" cannot be used: {error}", key_path.display()),
        ),
    }
}

/// The verifier is asked about the end of time and the beginning, and names the dates when it
/// refuses. Nobody need have signed the certificate for that.
fn dates(certificate: &ParsedCertificate<'_>, now: Timestamp) -> Finding {
    let refusal_at = |secs| {
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(secs));
        let schemes =
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let roots = RootCertStore::empty();
        verify_server_cert_signed_by_trust_anchor(certificate, &roots, &[], at, schemes.all).err()
    };
    let now_secs = u64::try_from(now.as_millis() / 1000).unwrap_or(0);
    if let Some(Error::InvalidCertificate(CertificateError::NotValidYetContext {
        not_before,
        ..
    })) = refusal_at(now_secs)
    {
        let day = day_of(not_before.as_secs());
        return Finding::fail(
            SETTING,
            format!("is valid from {day} on; is the clock of this machine right?"),
        );
    }
    let Some(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) =
        refusal_at(u64::from(u32::MAX) * 100)
    else {
        return Finding::warn(SETTING, "does not tell when it ends");
    };
    let end = not_after.as_secs();
    let day = day_of(end);
    if end <= now_secs {
        return Finding::fail(SETTING, format!("ended on {day}; renew it"));
    }
    let days = (end - now_secs) / DAY_SECS;
    if days < RENEWAL_DAYS {
        return Finding::warn(
            SETTING,
            format!("ends on {day}, in {days} days; renew it, it is read again without a restart"),
        );
    }
    Finding::ok(
        SETTING,
        format!("is valid until {day}, {days} days from now"),
    )
}

fn day_of(unix_secs: u64) -> String {
    let millis = i64::try_from(unix_secs)
        .unwrap_or(i64::MAX)
        .saturating_mul(1000);
    Timestamp::from_millis(millis)
        .to_string()
        .chars()
        .take(10)
        .collect()
}

/// The core connects to the host of our URI, and refuses a certificate that does not name it.
fn names(certificate: &ParsedCertificate<'_>, uri: &str) -> Option<Finding> {
    let uri = Uri::parse(uri).ok()?;
    let host = match &uri.host {
        Host::Name(name) => name.to_string(),
        Host::Ip(ip) => ip.to_string(),
    };
    let name = ServerName::try_from(host.clone()).ok()?;
    let sentence = match verify_server_name(certificate, &name) {
        Ok(()) => {
            return Some(Finding::ok(
                SETTING,
                format!("names {host}, the host of sip.uri"),
            ));
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) if !presented.is_empty() => {
            format!(
                "does not name {host}, the host of sip.uri, but {}",
                presented
                    .iter()
                    .map(|name| bare(name))
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        }
        Err(_) => format!("does not name {host}, the host of sip.uri"),
    };
    // Without sips nobody asks for the name; a PBX may be content.
    Some(if uri.scheme == Scheme::Sips {
        Finding::fail(SETTING, format!("{sentence}; the core will refuse it"))
    } else {
        Finding::warn(SETTING, sentence)
    })
}

/// `DnsName("localhost")`, as the library writes a name, without what stands around it.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;
    use crate::commands::check::Level;

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        /// A certificate for `voicemail.example.com` that is valid through the years given.
        fn with_years(from: i32, to: i32) -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(["voicemail.example.com".to_owned()]).unwrap();
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
            let certificate = params.self_signed(&key).unwrap();
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("certificate.pem"), certificate.pem()).unwrap();
            std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
            Self { dir }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn check(&self, uri: &str) -> Vec<Finding> {
            check(&Config {
                uri: uri.into(),
                tls_certificate: Some(self.path("certificate.pem")),
                tls_private_key: Some(self.path("key.pem")),
                ..Config::default()
            })
        }
    }

    const URI: &str = "sips:voicemail.example.com";

    #[test]
    fn a_good_certificate_passes_with_key_dates_and_name() {
        let findings = Files::with_years(2020, 2090).check(URI);
        assert!(
            findings.iter().all(|finding| finding.level == Level::Ok),
            "{findings:?}"
        );
        assert_eq!(findings.len(), 3);
        assert!(findings[1].sentence.contains("2090-01-01"), "{findings:?}");
    }

    #[test]
    fn a_certificate_past_its_time_or_before_it_fails_with_the_date() {
        let finding = &Files::with_years(2000, 2001).check(URI)[1];
        assert_eq!(finding.level, Level::Fail);
        assert!(
            finding.sentence.contains("ended on 2001-01-01"),
            "{finding}"
        );
        let finding = &Files::with_years(2080, 2090).check(URI)[1];
        assert_eq!(finding.level, Level::Fail);
        assert!(
            finding.sentence.contains("valid from 2080-01-01"),
            "{finding}"
        );
    }

    #[test]
    fn a_certificate_that_ends_soon_warns() {
        let files = Files::with_years(2020, 2030);
        let chain = read_chain(&files.path("certificate.pem")).unwrap();
        let parsed = ParsedCertificate::try_from(&chain[0]).unwrap();
        let end_ms: i64 = 1_893_456_000_000;
        let finding = dates(
            &parsed,
            Timestamp::from_millis(end_ms).plus_millis(-86_400_000 * 3),
        );
        assert_eq!(finding.level, Level::Warn);
        assert!(finding.sentence.contains("in 3 days"), "{finding}");
    }

    #[test]
    fn a_certificate_for_another_host_fails_for_sips_and_says_what_it_names() {
        let files = Files::with_years(2020, 2090);
        let finding = &files.check("sips:other.example.com")[2];
        assert_eq!(finding.level, Level::Fail);
        assert!(
            finding.sentence.contains("but voicemail.example.com;"),
            "{finding}"
        );
        assert_eq!(files.check("sip:other.example.com")[2].level, Level::Warn);
    }

    #[test]
    fn the_key_of_another_certificate_fails() {
        let files = Files::with_years(2020, 2090);
        let other = KeyPair::generate().unwrap();
        std::fs::write(files.path("key.pem"), other.serialize_pem()).unwrap();
        let finding = &files.check(URI)[0];
        assert_eq!(finding.level, Level::Fail);
        assert!(
            finding.sentence.contains("another certificate"),
            "{finding}"
        );
    }

    #[test]
    fn files_that_are_missing_or_empty_fail() {
        let files = Files::with_years(2020, 2090);
        std::fs::write(files.path("certificate.pem"), "").unwrap();
        assert!(
            files.check(URI)[0]
                .sentence
                .contains("holds no certificate")
        );
        std::fs::remove_file(files.path("certificate.pem")).unwrap();
        assert_eq!(files.check(URI)[0].level, Level::Fail);
    }
}
