//! The sockets of a configuration: bound, and their connections served. What drives a core begins with it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::sip::StartError;
use crate::sip::config::Config;
use crate::sip::flow::Transport;
use crate::sip::message::Limits;
use crate::sip::transport::stream::{ARRIVALS, Arrival, Census, Patience, Streams};
use crate::sip::transport::tls::{ClientTls, ServerCertificate};
use crate::sip::transport::udp::UdpSockets;

/// Connections that the system completes before we accept them.
const BACKLOG: i32 = 1024;

/// What the messages of a peer may measure.
const HEADERS: usize = 256;
const LINE_BYTES: usize = 8192;

/// The sockets that a driver reads, writes and connects by.
pub(crate) struct Network {
    pub(crate) udp: UdpSockets,
    pub(crate) streams: Arc<Streams>,
    /// What the connections bring.
    pub(crate) arrivals: mpsc::Receiver<Arrival>,
    /// The addresses bound, in the order of the configuration, with their real ports.
    pub(crate) addrs: Vec<(Transport, SocketAddr)>,
}

impl Network {
    /// Binds all sockets and starts to accept connections, those of TLS with `certificate`.
    pub(crate) fn open(
        config: &Config,
        certificate: Option<Arc<ServerCertificate>>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, StartError> {
        let sockets = Sockets::bind(config, certificate)?;
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
            origins: config.websocket_origins.clone(),
            client_tls: ClientTls::new(config.tls_ca.as_deref(), config.tls_insecure)?,
            next_connection: AtomicU64::new(1),
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        let acceptor = sockets
            .certificate
            .as_ref()
            .map(|it| TlsAcceptor::from(it.server_config()));
        for (transport, listener) in sockets.listeners {
            let tls = acceptor.clone().filter(|_| transport.is_secure());
            tasks.spawn(streams.clone().listen(listener, transport, tls));
        }
        if let Some(certificate) = sockets.certificate {
            tasks.spawn(certificate.keep_fresh(stop.clone()));
        }
        Ok(Self {
            udp: sockets.udp,
            streams,
            arrivals: arrived,
            addrs: sockets.addrs,
        })
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
    fn bind(
        config: &Config,
        certificate: Option<Arc<ServerCertificate>>,
    ) -> Result<Self, StartError> {
        if config.listen.is_empty() {
            return Err(StartError::NoListener);
        }
        let mut sockets = Self {
            udp: UdpSockets::new(),
            listeners: Vec::new(),
            addrs: Vec::new(),
            certificate,
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

/// The certificate for the TLS listeners, where there are any.
pub(crate) fn server_certificate(
    config: &Config,
) -> Result<Option<Arc<ServerCertificate>>, StartError> {
    let Some(tls) = config
        .listen
        .iter()
        .find(|listen| listen.transport.is_secure())
    else {
        return Ok(None);
    };
    match (&config.tls_certificate, &config.tls_private_key) {
        (Some(certificate), Some(key)) => Ok(Some(ServerCertificate::read(certificate, key)?)),
        _ => Err(StartError::NoCertificate(*tls)),
    }
}

/// What the messages of a peer may measure.
pub(crate) fn limits(config: &Config) -> Limits {
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
