//! TLS for SIP (RFC 3261 section 26, RFC 5922, RFC 9325): the server's certificate, which is read again when its
//! files change, and the verification of the servers that we connect to.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::time::Duration;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::telemetry;

mod expiry;

/// How often the certificate's files are looked at. A stat of two files costs microseconds.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(2);

/// Where systems keep the certificates of the public authorities, the first that exists is taken.
const SYSTEM_CA_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the configuration cannot be read.
    #[error("\"{}\" cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file holds no usable PEM section of the kind it should.
    #[error("\"{}\" holds no {what} in PEM form", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The key cannot be used, does not belong to the certificate, or a root is unusable.
    #[error("\"{}\" cannot be used", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the TLS library said.
        #[source]
        source: rustls::Error,
    },
    /// The certificate is for other names.
    #[error("the certificate in \"{}\" is not valid for \"{host}\"", path.display())]
    WrongName {
        /// The file.
        path: PathBuf,
        /// The name that peers will look for.
        host: String,
    },
    /// The certificate's time is over.
    #[error("the certificate in \"{}\" has expired", path.display())]
    Expired {
        /// The file.
        path: PathBuf,
    },
    /// No file of certificate authorities was given and the system has none in a usual place.
    #[error("the system has no file of certificate authorities; name one as tls_ca")]
    NoAuthorities,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server's certificate chain and key, kept up to date with its two files.
pub(crate) struct ServerCertificate {
    certificate: PathBuf,
    private_key: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServerCertificate {
    /// Reads both files.
    pub(crate) fn read(certificate: &Path, private_key: &Path) -> Result<Arc<Self>, TlsError> {
        let current = RwLock::new(Arc::new(read_certified_key(certificate, private_key)?));
        Ok(Arc::new(Self {
            certificate: certificate.to_owned(),
            private_key: private_key.to_owned(),
            current,
        }))
    }

    /// A certificate that stands in no file, and stays as it is.
    #[cfg(feature = "sandbox")]
    pub(crate) fn made(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<Self>, rustls::Error> {
        let key = CertifiedKey::from_der(chain, key, &provider())?;
        Ok(Arc::new(Self {
            certificate: PathBuf::new(),
            private_key: PathBuf::new(),
            current: RwLock::new(Arc::new(key)),
        }))
    }

    /// Settings for accepting connections with this certificate: TLS 1.2 and 1.3 (RFC 9325).
    pub(crate) fn server_config(self: &Arc<Self>) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        Arc::new(config)
    }

    /// Reads the files again whenever they change, until `stop`. What cannot be used is logged once, and the
    /// certificate that works stays.
    pub(crate) async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(CERTIFICATE_CHECK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut watch = FileWatch::new(self.stamp());
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.tell_expiry();
            let seen = self.stamp();
            let Some(attempt) = watch.look(seen) else {
                continue;
            };
            match read_certified_key(&self.certificate, &self.private_key) {
                Ok(fresh) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
                    watch.loaded();
                    info!(certificate = %self.certificate.display(), "The TLS certificate was renewed");
                }
                // The first attempt may have met the two files half replaced: the second one speaks.
                Err(_) if attempt == Attempt::First => {}
                Err(error) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "The changed TLS certificate cannot be used, the old one stays"
                    );
                }
            }
        }
    }

    fn tell_expiry(&self) {
        if let Some(seconds) = seconds_left(&self.current()) {
            metrics::gauge!(telemetry::CERTIFICATE_EXPIRY).set(seconds);
        }
    }

    fn current(&self) -> Arc<CertifiedKey> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn stamp(&self) -> [Option<Stamp>; 2] {
        [Stamp::of(&self.certificate), Stamp::of(&self.private_key)]
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// What tells one state of a file from another, also when it was replaced by a rename or a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// Which time a state of the files is read. There is no third one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Second,
}

/// Decides when files that may change in several steps are to be read.
#[derive(Debug)]
struct FileWatch<S> {
    loaded: S,
    tried: Option<(S, Attempt)>,
}

impl<S: PartialEq + Copy> FileWatch<S> {
    fn new(loaded: S) -> Self {
        Self {
            loaded,
            tried: None,
        }
    }

    /// Says whether files that look like `seen` should be read now: twice for each state that is not the loaded one.
    fn look(&mut self, seen: S) -> Option<Attempt> {
        let attempt = match self.tried {
            None if seen == self.loaded => return None,
            Some((tried, Attempt::Second)) if tried == seen => return None,
            Some((tried, Attempt::First)) if tried == seen => Attempt::Second,
            _ => Attempt::First,
        };
        self.tried = Some((seen, attempt));
        Some(attempt)
    }

    /// The state last looked at was read with success.
    fn loaded(&mut self) {
        if let Some((seen, _)) = self.tried.take() {
            self.loaded = seen;
        }
    }
}

fn read_certified_key(certificate: &Path, private_key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = read_certificates(certificate)?;
    let pem = read(private_key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::Pem {
        path: private_key.to_owned(),
        what: "private key",
    })?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|source| TlsError::Unusable {
        path: private_key.to_owned(),
        source,
    })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(TlsError::Pem {
            path: path.to_owned(),
            what: "certificate",
        }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Whether a certificate and its key can be used, and the certificate is valid for `host`.
pub(crate) fn check_certificate(
    certificate: &Path,
    private_key: &Path,
    host: &str,
) -> Result<(), TlsError> {
    let key = read_certified_key(certificate, private_key)?;
    let wrong_name = || TlsError::WrongName {
        path: certificate.to_owned(),
        host: host.to_owned(),
    };
    let unusable = |source| TlsError::Unusable {
        path: certificate.to_owned(),
        source,
    };
    let name = ServerName::try_from(host).map_err(|_| wrong_name())?;
    let end_entity = key.end_entity_cert().map_err(unusable)?;
    let end_entity = ParsedCertificate::try_from(end_entity).map_err(unusable)?;
    rustls::client::verify_server_name(&end_entity, &name).map_err(|_| wrong_name())?;
    if seconds_left(&key).is_some_and(|seconds| seconds <= 0.0) {
        return Err(TlsError::Expired {
            path: certificate.to_owned(),
        });
    }
    Ok(())
}

/// How long the first certificate of a chain is still valid; negative when it no longer is.
fn seconds_left(key: &CertifiedKey) -> Option<f64> {
    let end = expiry::not_after(key.end_entity_cert().ok()?)?;
    #[expect(
        clippy::disallowed_methods,
        reason = "a certificate ends by the clock of the machine, which the TLS library reads too"
    )]
    let now = SystemTime::now();
    Some(match end.duration_since(now) {
        Ok(left) => left.as_secs_f64(),
        Err(past) => -past.duration().as_secs_f64(),
    })
}

/// What connections of ours are verified by. The authorities of the system are read when they are first needed, which
/// for most servers is never.
pub(crate) struct ClientTls(OnceCell<TlsConnector>);

impl ClientTls {
    /// Reads the file of authorities, where one is given.
    pub(crate) fn new(authorities: Option<&Path>, insecure: bool) -> Result<Self, TlsError> {
        let connector = if insecure || authorities.is_some() {
            Some(TlsConnector::from(client_config(authorities, insecure)?))
        } else {
            None
        };
        Ok(Self(OnceCell::new_with(connector)))
    }

    /// What to connect with.
    pub(crate) async fn connector(&self) -> Result<&TlsConnector, TlsError> {
        let by_the_system = async || client_config(None, false).map(TlsConnector::from);
        self.0.get_or_try_init(by_the_system).await
    }
}

/// Settings for connecting to servers.
///
/// Their certificate must be valid for the host of the URI (RFC 5922 section 7.1) and signed by an authority of
/// `authorities`, or of the system where that is `None`. With `insecure` any certificate will do.
fn client_config(
    authorities: Option<&Path>,
    insecure: bool,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for TLS 1.2 and 1.3");
    let config = if insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate { algorithms }))
            .with_no_client_auth()
    } else {
        builder
            .with_root_certificates(read_authorities(authorities)?)
            .with_no_client_auth()
    };
    Ok(Arc::new(config))
}

fn read_authorities(path: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let system = || {
        SYSTEM_CA_FILES
            .iter()
            .map(Path::new)
            .find(|path| path.exists())
    };
    let path = path.or_else(system).ok_or(TlsError::NoAuthorities)?;
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(read_certificates(path)?);
    if usable == 0 {
        return Err(TlsError::Pem {
            path: path.to_owned(),
            what: "usable authority certificate",
        });
    }
    Ok(roots)
}

/// Takes any certificate, but still checks that the peer holds its key.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_twice_and_then_left_alone_until_it_changes_again() {
        let mut watch = FileWatch::new(1);
        assert_eq!(watch.look(1), None);
        assert_eq!(watch.look(2), Some(Attempt::First));
        assert_eq!(watch.look(2), Some(Attempt::Second));
        assert_eq!(watch.look(2), None);
        assert_eq!(watch.look(3), Some(Attempt::First));
        watch.loaded();
        assert_eq!(watch.look(3), None);
    }

    #[test]
    fn a_file_put_back_after_a_failed_change_counts_as_changed() {
        let mut watch = FileWatch::new(1);
        assert_eq!(watch.look(2), Some(Attempt::First));
        assert_eq!(watch.look(1), Some(Attempt::First));
        watch.loaded();
        assert_eq!(watch.look(1), None);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let certificate = folder.path().join("certificate.pem");
        let key = folder.path().join("key.pem");
        let ours = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let others = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&certificate, ours.cert.pem()).unwrap();
        fs::write(&key, others.signing_key.serialize_pem()).unwrap();
        let error = ServerCertificate::read(&certificate, &key).unwrap_err();
        assert!(error.to_string().contains("key.pem"), "{error}");

        fs::write(&key, ours.signing_key.serialize_pem()).unwrap();
        assert!(ServerCertificate::read(&certificate, &key).is_ok());
    }

    #[test]
    fn a_certificate_is_checked_for_the_name_that_peers_look_for() {
        let folder = tempfile::tempdir().unwrap();
        let certificate = folder.path().join("certificate.pem");
        let key = folder.path().join("key.pem");
        let made =
            rcgen::generate_simple_self_signed(["voicemail.example.com".to_owned()]).unwrap();
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        assert!(check_certificate(&certificate, &key, "voicemail.example.com").is_ok());
        let error = check_certificate(&certificate, &key, "example.com").unwrap_err();
        assert!(
            matches!(&error, TlsError::WrongName { host, .. } if host == "example.com"),
            "{error}"
        );
    }

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let authorities = folder.path().join("roots.pem");
        assert!(matches!(
            client_config(Some(&authorities), false),
            Err(TlsError::Read { .. })
        ));
        fs::write(&authorities, "no certificate").unwrap();
        let error = client_config(Some(&authorities), false).unwrap_err();
        assert!(error.to_string().contains("roots.pem"), "{error}");
    }
}
