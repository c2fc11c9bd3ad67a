//! The configurations of the demo's two halves, which meet at these addresses and nowhere else.

use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aftertone::config::Config;
use aftertone::domain::Secret;
use aftertone::http;
use aftertone::http::admin;
use aftertone::http::secret::hex;
use aftertone::media;
use aftertone::mobile_core;
use aftertone::oauth;
use aftertone::sandbox;
use aftertone::sip::{self, ListenAddr, Transport};
use anyhow::{Context, bail};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::commands::random;

/// Who signs in: a number whose phone is busy.
pub(super) const SUBSCRIBER: &str = "+4799990002";
/// Who calls.
pub(super) const CALLER: &str = "+4799990001";

/// Where a demo listens unless told otherwise.
const BASE: u16 = 8080;
/// How many ports it takes from there on.
const PORTS: u16 = 10;
/// How often free ports are looked for.
const TRIES: usize = 50;

/// The ports of one demo: ten in a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    base: u16,
}

impl Ports {
    /// Those from `base` on, or the usual ones, or any ten that are free now.
    pub(super) fn choose(base: Option<u16>, any: bool) -> anyhow::Result<Self> {
        match base {
            Some(base) => Ok(Self { base }),
            None if any => Self::free(),
            None => Ok(Self { base: BASE }),
        }
    }

    fn free() -> anyhow::Result<Self> {
        for _ in 0..TRIES {
            // Below the ports that systems give to outgoing connections.
            let base = 10_000 + u16::from_ne_bytes(random()?) % 20_000;
            let ports = Self { base };
            if (0..PORTS).all(|n| is_free(ports.at(n))) {
                return Ok(ports);
            }
        }
        bail!("no ten free ports in a row were found; name the first with --port-base")
    }

    fn at(self, n: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base + n).into()
    }
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

/// What the two halves are told.
pub(super) struct Settings {
    pub(super) service: Config,
    pub(super) sandbox: sandbox::Config,
}

impl Settings {
    /// Settings for a demo on these ports that keeps everything in `data`.
    pub(super) fn new(data: &Path, ports: Ports) -> anyhow::Result<Self> {
        let files = Certificates::make(data)?;
        let client_secret = hex(&random::<16>()?);
        Ok(Self {
            sandbox: sandbox_config(data, ports, &files, &client_secret),
            service: service_config(data, ports, files, &client_secret),
        })
    }

    /// Where the subscriber's pages are.
    pub(super) fn web(&self) -> String {
        self.service.public_url()
    }

    /// Where the sandbox's pages are.
    pub(super) fn sandbox_pages(&self) -> String {
        format!("http://{}", self.sandbox.http)
    }
}

const CLIENT_ID: &str = "aftertone-demo";
/// Where the core makes links to the page on which a consent ends.
const REVOKE_CONSENT: &str = "ext-api/v0/auth/create-revoke-consent-magic-link";

fn sandbox_config(
    data: &Path,
    ports: Ports,
    files: &Certificates,
    client_secret: &str,
) -> sandbox::Config {
    let listen = |transport, n| ListenAddr {
        transport,
        addr: ports.at(n),
    };
    sandbox::Config {
        http: ports.at(1),
        grpc: ports.at(2),
        sip: vec![
            listen(Transport::Udp, 3),
            listen(Transport::Tcp, 3),
            listen(Transport::Ws, 4),
        ],
        clients: vec![sandbox::ClientConfig {
            id: CLIENT_ID.into(),
            secret: Secret::new(client_secret),
            redirect_uris: vec![format!("http://{}/auth/callback", ports.at(0))],
            ..sandbox::ClientConfig::default()
        }],
        tls_ca: Some(files.authority.clone()),
        // Else whoever enrolled in a demo before would be unknown to the core in the next one.
        state_file: Some(data.join("sandbox.json")),
        ..sandbox::Config::default()
    }
}

fn service_config(data: &Path, ports: Ports, files: Certificates, client_secret: &str) -> Config {
    let tls = ports.at(5);
    let issuer = format!("http://{}", ports.at(1));
    Config {
        data_dir: data.to_path_buf(),
        public_url: Some(format!("http://{}", ports.at(0))),
        sip: sip::Config {
            listen: vec![ListenAddr {
                transport: Transport::Tls,
                addr: tls,
            }],
            uri: format!("sips:{tls}"),
            tls_certificate: Some(files.certificate),
            tls_private_key: Some(files.private_key),
            ..sip::Config::default()
        },
        media: media::Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ..media::Config::default()
        },
        http: http::Config {
            listen: ports.at(0),
            ..http::Config::default()
        },
        admin: admin::Config {
            listen: ports.at(6),
        },
        oauth: Some(oauth::Config {
            revoke_consent_endpoint: Some(format!("{issuer}/{REVOKE_CONSENT}")),
            issuer,
            client_id: CLIENT_ID.into(),
            client_secret: Some(Secret::new(client_secret)),
            ..oauth::Config::default()
        }),
        core: mobile_core::Config {
            endpoint: Some(format!("http://{}", ports.at(2))),
            ..mobile_core::Config::default()
        },
        ..Config::default()
    }
}

/// A certificate for the service, and the authority that signed it, whose key is forgotten at once.
struct Certificates {
    authority: PathBuf,
    certificate: PathBuf,
    private_key: PathBuf,
}

impl Certificates {
    fn make(folder: &Path) -> anyhow::Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let names = vec!["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
        let write = |name: &str, pem: &str| {
            let file = folder.join(name);
            write_own(&file, pem)
                .with_context(|| format!("{} cannot be written", file.display()))
                .map(|()| file)
        };
        Ok(Self {
            authority: write("demo-authority.pem", &authority.pem())?,
            certificate: write("demo-certificate.pem", &certificate.pem())?,
            private_key: write("demo-key.pem", &key.serialize_pem())?,
        })
    }
}

/// Writes a file that nobody else may read.
fn write_own(file: &Path, content: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    options.open(file)?.write_all(content.as_bytes())
}
