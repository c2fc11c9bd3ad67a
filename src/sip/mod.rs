//! SIP (RFC 3261) for one user agent: pure protocol files, and a thin driver over UDP, TCP and TLS.
//!
//! [`Sip::start`] binds the sockets and starts the driver. Calls come out of it as [`IncomingCall`]s, become
//! [`Dialog`]s when they are answered, and are placed with [`Sip::call`]. SIP never looks into session
//! descriptions: they are bytes.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::sip::message::{Host, Limits, Uri};
use crate::sip::transport::calls::Calls;
use crate::sip::transport::resolve::Resolver;
use crate::sip::transport::stream::{ARRIVALS, Census, Patience, Streams};
use crate::sip::transport::tls::{ClientTls, ServerCertificate};
use crate::sip::transport::udp::UdpSockets;
use crate::sip::transport::{COMMANDS, Command, Driver};

mod call;
mod config;
pub mod dialog;
pub mod endpoint;
pub mod flow;
pub mod header;
pub mod message;
pub mod transaction;
mod transport;

pub use crate::sip::call::{AnswerError, CallError, OfferError};
pub use crate::sip::call::{Dialog, DialogEvent, OfferReply};
pub use crate::sip::call::{IncomingCall, OutgoingCall, OutgoingEvent};
pub use crate::sip::config::{Config, ListenAddr, ListenAddrError};
pub use crate::sip::endpoint::{DialogEnd, OutgoingRequest, Transport};
pub use crate::sip::header::Reason;
pub use crate::sip::transport::tls::TlsError;

/// Incoming calls that the application has not taken yet; above it 503.
const INCOMING: usize = 256;

/// Connections that the system completes before we accept them.
const BACKLOG: i32 = 1024;

/// What the messages of a peer may measure.
const HEADERS: usize = 256;
const LINE_BYTES: usize = 8192;

/// How long a call may stay undecided, ours or the peer's, before it is given up: as long as proxies let a call ring
/// (timer C of RFC 3261 section 16.6).
const DECISION_LIMIT: Duration = Duration::from_secs(180);

/// Transactions for each call at most: INVITE, BYE, and what comes between.
const TRANSACTIONS_PER_CALL: usize = 4;

/// A handle to the running driver.
#[derive(Debug, Clone)]
pub struct Sip {
    commands: mpsc::Sender<Command>,
    draining: Arc<watch::Sender<Option<u32>>>,
    local_addrs: Arc<[(Transport, SocketAddr)]>,
}

/// Why SIP could not start. Each says which setting is to be changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket could not be bound.
    #[error(
        "sip.listen: cannot listen on {addr}; choose an address of this machine on which no other program listens"
    )]
    Bind {
        /// The address.
        addr: ListenAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is nothing to listen on.
    #[error("sip.listen names no address")]
    NoListener,
    /// Our own URI cannot be read.
    #[error("sip.uri: \"{0}\" is no SIP URI")]
    Uri(String),
    /// The advertised address cannot be read.
    #[error("sip.advertised_address: \"{0}\" is neither a host name nor an IP address")]
    AdvertisedAddress(String),
    /// TLS is to be listened on, without a certificate.
    #[error("sip.listen names {0}, which needs sip.tls_certificate and sip.tls_private_key")]
    NoCertificate(ListenAddr),
    /// TLS could not be set up.
    #[error("sip.tls_certificate, sip.tls_private_key or sip.tls_ca cannot be used")]
    Tls(#[from] TlsError),
}

impl Sip {
    /// Binds the sockets and starts the driver. Its tasks are tracked by `tasks` and end after `stop`; the calls that
    /// there are then are hung up. Tags, branches and the like are drawn from `rng_seed`.
    pub async fn start(
        config: &Config,
        tasks: &TaskTracker,
        stop: CancellationToken,
        rng_seed: [u8; 32],
    ) -> Result<(Self, mpsc::Receiver<IncomingCall>), StartError> {
        let mut sockets = Sockets::bind(config)?;
        let certificate = sockets.certificate.take();
        let mut chance = StdRng::from_seed(rng_seed);
        let endpoint = endpoint::Endpoint::new(endpoint_config(config, &sockets)?, chance.random());

        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        let streams = Arc::new(Streams {
            arrivals,
            limits: limits(config),
            patience: patience(config),
            census: Census::new(
                config.trusted_peers.clone(),
                config.max_connections,
                config.max_connections_per_peer,
            ),
            client_tls: ClientTls::new(config.tls_ca.as_deref(), config.tls_insecure)?,
            next_connection: AtomicU64::new(1),
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        let acceptor = certificate
            .as_ref()
            .map(|it| TlsAcceptor::from(it.server_config()));
        for (transport, listener) in sockets.listeners {
            let tls = acceptor.clone().filter(|_| transport == Transport::Tls);
            tasks.spawn(streams.clone().listen(listener, tls));
        }
        if let Some(certificate) = certificate {
            tasks.spawn(certificate.keep_fresh(stop.clone()));
        }

        let (commands, obeyed) = mpsc::channel(COMMANDS);
        let (draining, drain) = watch::channel(None);
        let (incoming, calls) = mpsc::channel(INCOMING);
        let driver = Driver {
            endpoint,
            udp: sockets.udp,
            streams,
            arrivals: arrived,
            commands: obeyed,
            draining: drain,
            resolver: Arc::new(Resolver::new(chance.random())),
            calls: Calls::new(
                config.max_calls,
                config.retry_after_secs,
                incoming,
                commands.clone(),
            ),
            stop,
            arrived: Vec::new(),
            connections: HashMap::new(),
            lookups: FuturesUnordered::new(),
            farewell: None,
        };
        tasks.spawn(driver.run());
        let local_addrs = sockets.addrs.into();
        Ok((
            Self {
                commands,
                draining: Arc::new(draining),
                local_addrs,
            },
            calls,
        ))
    }

    /// The addresses bound, in the order of the configuration, with their real ports.
    pub fn local_addrs(&self) -> &[(Transport, SocketAddr)] {
        &self.local_addrs
    }

    /// From now on new calls and OPTIONS get 503 with this Retry-After. Calls that there are go on.
    pub fn set_draining(&self, retry_after_secs: u32) {
        self.draining.send_replace(Some(retry_after_secs));
    }

    /// Completes when the driver has ended: after the stop, or because of a defect. Cancel-safe.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    /// Places a call.
    pub async fn call(&self, request: OutgoingRequest) -> Result<OutgoingCall, CallError> {
        let (placed, call) = oneshot::channel();
        let command = Command::Call {
            request: Box::new(request),
            placed,
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| CallError::Stopped)?;
        call.await.map_err(|_| CallError::Stopped)?
    }
}

/// The sockets of a configuration, bound.
struct Sockets {
    udp: UdpSockets,
    listeners: Vec<(Transport, TcpListener)>,
    addrs: Vec<(Transport, SocketAddr)>,
    certificate: Option<Arc<ServerCertificate>>,
}

impl Sockets {
    fn bind(config: &Config) -> Result<Self, StartError> {
        if config.listen.is_empty() {
            return Err(StartError::NoListener);
        }
        let mut sockets = Self {
            udp: UdpSockets::new(),
            listeners: Vec::new(),
            addrs: Vec::new(),
            certificate: server_certificate(config)?,
        };
        for listen in &config.listen {
            let bound = sockets.bind_one(listen.transport, listen.addr);
            let addr = bound.map_err(|source| StartError::Bind {
                addr: *listen,
                source,
            })?;
            sockets.addrs.push((listen.transport, addr));
        }
        Ok(sockets)
    }

    fn bind_one(&mut self, transport: Transport, addr: SocketAddr) -> io::Result<SocketAddr> {
        if transport == Transport::Udp {
            return self.udp.bind(addr);
        }
        let listener = bind_tcp(addr)?;
        let addr = listener.local_addr()?;
        self.listeners.push((transport, listener));
        Ok(addr)
    }
}

fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old connections to be forgotten.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn server_certificate(config: &Config) -> Result<Option<Arc<ServerCertificate>>, StartError> {
    let Some(tls) = config
        .listen
        .iter()
        .find(|listen| listen.transport == Transport::Tls)
    else {
        return Ok(None);
    };
    match (&config.tls_certificate, &config.tls_private_key) {
        (Some(certificate), Some(key)) => Ok(Some(ServerCertificate::read(certificate, key)?)),
        _ => Err(StartError::NoCertificate(*tls)),
    }
}

/// Says what is wrong with the settings of TLS: files, key, and the name in the certificate, which must be the host of
/// `sip.uri` (RFC 5922). Opens no socket.
pub fn check_tls(config: &Config) -> Result<(), StartError> {
    ClientTls::new(config.tls_ca.as_deref(), config.tls_insecure)?;
    let uri: Uri = config
        .uri
        .parse()
        .map_err(|_| StartError::Uri(config.uri.clone()))?;
    if let (Some(certificate), Some(key)) = (&config.tls_certificate, &config.tls_private_key) {
        transport::tls::check_certificate(certificate, key, &uri.host.to_string())?;
    }
    server_certificate(config)?;
    Ok(())
}

fn endpoint_config(config: &Config, sockets: &Sockets) -> Result<endpoint::Config, StartError> {
    let uri: Uri = config
        .uri
        .parse()
        .map_err(|_| StartError::Uri(config.uri.clone()))?;
    let advertised = config.advertised_address.as_deref().map(|host| {
        Host::parse(host).ok_or_else(|| StartError::AdvertisedAddress(host.to_owned()))
    });
    let told =
        |(transport, addr): &(Transport, SocketAddr)| (*transport, transport::udp::concrete(*addr));
    Ok(endpoint::Config {
        uri,
        listen: sockets.addrs.iter().map(told).collect(),
        advertised: advertised.transpose()?,
        trusted: config.trusted_peers.clone(),
        untrusted_per_second: config.untrusted_responses_per_second,
        product: concat!("aftertone/", env!("CARGO_PKG_VERSION")).to_owned(),
        limits: limits(config),
        max_calls: config.max_calls,
        max_transactions: config
            .max_calls
            .saturating_mul(TRANSACTIONS_PER_CALL)
            .max(1000),
        session_expires: Duration::from_secs(config.session_expires_secs.into()),
        min_session_expires: Duration::from_secs(config.min_se_secs.into()),
        decision_limit: DECISION_LIMIT,
        retry_after_secs: config.retry_after_secs,
        t1: Duration::from_millis(500),
        t2: Duration::from_secs(4),
        t4: Duration::from_secs(5),
    })
}

fn limits(config: &Config) -> Limits {
    Limits {
        message_bytes: config.max_message_bytes,
        headers: HEADERS,
        line_bytes: LINE_BYTES,
    }
}

fn patience(config: &Config) -> Patience {
    Patience {
        idle: Duration::from_secs(config.stream_idle_secs),
        message: Duration::from_secs(config.message_deadline_secs),
        handshake: Duration::from_secs(config.tls_handshake_secs),
        connect: Duration::from_secs(config.connect_timeout_secs),
    }
}
