//! TCP, TLS and WebSocket connections: one task each, which cuts the stream into messages and writes what the driver sends.
//!
//! A connection ends when its peer closes it, when it is idle for too long, when a message takes too long to become
//! complete or to be written, when the stream cannot be cut into messages, or when the driver lets go of it.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use socket2::TcpKeepalive;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio::time::timeout;
use tokio::time::timeout_at;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::sip::endpoint::{Flow, ResolveId, Transport};
use crate::sip::message::{Framer, Limits, Parsed};
use crate::sip::transport::tls::ClientTls;
use crate::sip::transport::websocket;
use crate::telemetry;

/// Messages of all connections that wait for the driver. When it is full, sockets are not read: TCP pushes back.
pub(crate) const ARRIVALS: usize = 256;

/// Messages that wait to be written to one connection. When it is full, the driver closes the connection.
pub(super) const OUTBOX: usize = 64;

/// How long one message may take to be written, and what was queued when a connection ends.
pub(super) const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// How long an accepted connection may say nothing before its first message.
pub(super) const FIRST_MESSAGE: Duration = Duration::from_secs(60);

/// Pause after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Of all connections one in so many may be a stranger's, who is not in the trusted peers.
const STRANGERS_SHARE: usize = 10;

/// Connections of one stranger.
const PER_STRANGER: usize = 4;

/// Room for what one read may bring. Each connection holds it, also when idle.
const READ_BYTES: usize = 4 * 1024;

/// What connection tasks tell the driver.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A connection is ready; `asked_by` when it was the driver that wanted it.
    Opened {
        flow: Flow,
        outbox: mpsc::Sender<Bytes>,
        asked_by: Option<ResolveId>,
    },
    /// A connection that the driver wanted could not be made.
    ConnectFailed { id: ResolveId },
    /// A message came.
    Message { flow: Flow, message: Parsed },
    /// A connection is over. What is in its outbox is still written.
    Closed { flow: Flow },
}

/// What bounds a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) idle: Duration,
    pub(crate) message: Duration,
    pub(crate) handshake: Duration,
    pub(crate) connect: Duration,
}

/// Makes and serves connections.
pub(crate) struct Streams {
    pub(crate) arrivals: mpsc::Sender<Arrival>,
    pub(crate) limits: Limits,
    pub(crate) patience: Patience,
    pub(crate) census: Arc<Census>,
    /// The pages that may connect by WebSocket.
    pub(crate) origins: Vec<String>,
    pub(crate) client_tls: ClientTls,
    pub(crate) next_connection: AtomicU64,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Streams {
    /// Accepts connections until the stop. With `tls` they begin with its handshake.
    pub(crate) async fn listen(
        self: Arc<Self>,
        listener: TcpListener,
        transport: Transport,
        tls: Option<TlsAcceptor>,
    ) {
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            let (stream, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_the_peer(&error) => continue,
                Err(error) => {
                    warn!(%error, "A connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = self.census.admit(remote.ip()) else {
                metrics::counter!(telemetry::SIP_CONNECTIONS_REFUSED).increment(1);
                continue;
            };
            let Ok(local) = prepare(&stream) else {
                continue;
            };
            let flow = self.flow(transport, local, remote);
            let serve = self.clone().accepted(stream, flow, tls.clone(), place);
            self.tasks.spawn(serve);
        }
    }

    async fn accepted(
        self: Arc<Self>,
        stream: TcpStream,
        flow: Flow,
        tls: Option<TlsAcceptor>,
        _place: Place,
    ) {
        let Some(acceptor) = tls else {
            return self.serve_accepted(stream, flow).await;
        };
        let handshake = timeout(self.patience.handshake, acceptor.accept(stream));
        match self.stop.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => self.serve_accepted(stream, flow).await,
            Some(Ok(Err(error))) => {
                metrics::counter!(telemetry::SIP_TLS_FAILED).increment(1);
                debug!(remote = %flow.remote, %error, "A TLS handshake failed");
            }
            Some(Err(_)) => metrics::counter!(telemetry::SIP_TLS_FAILED).increment(1),
            None => {}
        }
    }

    async fn serve_accepted<S>(&self, stream: S, flow: Flow)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        if !flow.transport.is_websocket() {
            return self.serve(stream, flow, None).await;
        }
        let handshake = websocket::accept(stream, &self.limits, &self.origins);
        let handshake = timeout(self.patience.handshake, handshake);
        match self.stop.run_until_cancelled(handshake).await {
            Some(Ok(Ok(socket))) => self.serve_frames(socket, flow, None).await,
            Some(Ok(Err(error))) => {
                metrics::counter!(telemetry::SIP_WEBSOCKETS_FAILED).increment(1);
                debug!(remote = %flow.remote, %error, "A WebSocket handshake failed");
            }
            Some(Err(_)) => metrics::counter!(telemetry::SIP_WEBSOCKETS_FAILED).increment(1),
            None => {}
        }
    }

    /// Opens a connection and serves it. `server_name` is the host of the URI, which the certificate must name.
    pub(crate) async fn connect(
        self: Arc<Self>,
        id: ResolveId,
        transport: Transport,
        remote: SocketAddr,
        server_name: Option<String>,
    ) {
        let opening = timeout(
            self.patience.connect,
            self.open(transport, remote, server_name),
        );
        // Not the stop, but the driver's end: a BYE after the stop may still need a connection.
        let opened = tokio::select! {
            opened = opening => opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            () = self.arrivals.closed() => return,
        };
        match opened {
            Ok((Opened::Bytes(stream), flow)) => self.serve(stream, flow, Some(id)).await,
            Ok((Opened::Frames(socket), flow)) => self.serve_frames(*socket, flow, Some(id)).await,
            Err(error) => {
                metrics::counter!(telemetry::SIP_CONNECTS_FAILED).increment(1);
                warn!(%remote, %transport, %error, "A connection cannot be opened");
                self.tell(Arrival::ConnectFailed { id }).await;
            }
        }
    }

    async fn open(
        &self,
        transport: Transport,
        remote: SocketAddr,
        server_name: Option<String>,
    ) -> io::Result<(Opened, Flow)> {
        let stream = TcpStream::connect(remote).await?;
        let flow = self.flow(transport, prepare(&stream)?, remote);
        let host = server_name.unwrap_or_else(|| remote.ip().to_string());
        let stream: Box<dyn ByteStream> = if transport.is_secure() {
            let connector = self
                .client_tls
                .connector()
                .await
                .map_err(io::Error::other)?;
            let name = ServerName::try_from(host.clone())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            Box::new(connector.connect(name, stream).await?)
        } else {
            Box::new(stream)
        };
        if !transport.is_websocket() {
            return Ok((Opened::Bytes(stream), flow));
        }
        let socket = websocket::connect(stream, &host, remote.port(), &self.limits).await?;
        Ok((Opened::Frames(Box::new(socket)), flow))
    }

    /// Carries messages both ways until either ends.
    async fn serve<S>(&self, stream: S, flow: Flow, asked_by: Option<ResolveId>)
    where
        S: AsyncRead + AsyncWrite + Send,
    {
        let (outbox, queue) = mpsc::channel(OUTBOX);
        let opened = Arrival::Opened {
            flow,
            outbox,
            asked_by,
        };
        if !self.tell(opened).await {
            return;
        }
        let (read, write) = tokio::io::split(stream);
        let silence = match asked_by {
            Some(_) => self.patience.idle,
            None => FIRST_MESSAGE.min(self.patience.idle),
        };
        let reading = async {
            let end = self.read_messages(read, flow, silence).await;
            debug!(remote = %flow.remote, end, "A connection was closed");
            self.tell(Arrival::Closed { flow }).await;
        };
        let writing = write_messages(write, queue);
        tokio::pin!(writing);
        // The driver drops the outbox when it lets go of the connection, after which the writer ends too.
        let told = tokio::select! {
            () = reading => {
                writing.await;
                true
            }
            () = &mut writing => false,
        };
        if !told {
            self.tell(Arrival::Closed { flow }).await;
        }
    }

    /// Reads until the end, which it names.
    async fn read_messages<R>(&self, mut read: R, flow: Flow, mut silence: Duration) -> &'static str
    where
        R: AsyncRead + Unpin,
    {
        let mut framer = Framer::new(self.limits);
        let mut begun: Option<Instant> = None;
        loop {
            let deadline = match begun {
                Some(begun) => begun + self.patience.message,
                None => Instant::now() + silence,
            };
            framer.buffer().reserve(READ_BYTES);
            match timeout_at(deadline, read.read_buf(framer.buffer())).await {
                Ok(Ok(0)) => return "closed by the peer",
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return "broken",
                Err(_) if begun.is_some() => {
                    metrics::counter!(telemetry::SIP_SLOW_MESSAGES).increment(1);
                    return "a message took too long";
                }
                Err(_) => return "idle",
            }
            loop {
                match framer.next_message() {
                    Ok(Some(message)) => {
                        begun = None;
                        silence = self.patience.idle;
                        if !self.tell(Arrival::Message { flow, message }).await {
                            return "stopped";
                        }
                    }
                    Ok(None) => break,
                    Err(_) => {
                        metrics::counter!(telemetry::SIP_UNFRAMEABLE).increment(1);
                        return "not a stream of SIP messages";
                    }
                }
            }
            begun = if framer.is_mid_message() {
                Some(begun.unwrap_or_else(Instant::now))
            } else {
                None
            };
        }
    }

    /// Waits for room in the driver's queue. `false` when the driver has gone.
    pub(super) async fn tell(&self, arrival: Arrival) -> bool {
        self.arrivals.send(arrival).await.is_ok()
    }

    fn flow(&self, transport: Transport, local: SocketAddr, remote: SocketAddr) -> Flow {
        let connection = self.next_connection.fetch_add(1, Ordering::Relaxed);
        Flow {
            transport,
            local,
            remote,
            connection,
        }
    }
}

/// TCP, or TLS on it.
trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

enum Opened {
    Bytes(Box<dyn ByteStream>),
    Frames(Box<WebSocketStream<Box<dyn ByteStream>>>),
}

/// Writes what is queued until the driver lets go, the peer stops reading, or the connection breaks.
async fn write_messages<W: AsyncWrite + Unpin>(mut write: W, mut queue: mpsc::Receiver<Bytes>) {
    while let Some(message) = queue.recv().await {
        let writing = async {
            write.write_all(&message).await?;
            while let Ok(message) = queue.try_recv() {
                write.write_all(&message).await?;
            }
            write.flush().await
        };
        match timeout(WRITE_DEADLINE, writing).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                metrics::counter!(telemetry::SIP_STALLED_WRITES).increment(1);
                return;
            }
        }
    }
    // The peer may be gone already; there is nobody left to tell.
    timeout(WRITE_DEADLINE, write.shutdown()).await.ok();
}

/// Sets the options of a connection and returns its own address.
fn prepare(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.set_nodelay(true)?;
    // A peer that vanished without a word is found within two minutes, and its call with it.
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    stream.local_addr()
}

/// Errors of accept that concern one connection only (accept(2)).
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Counts the accepted connections, in all and of each peer address.
///
/// Strangers, who only ever get refusals, have a small share: they cannot take the places of trusted peers.
#[derive(Debug)]
pub(crate) struct Census {
    trusted: Vec<IpNet>,
    in_all: usize,
    per_peer: usize,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    in_all: usize,
    strangers: usize,
    by_peer: HashMap<IpAddr, usize>,
}

impl Census {
    /// With the most connections there may be in all and of one peer address.
    pub(crate) fn new(trusted: Vec<IpNet>, in_all: usize, per_peer: usize) -> Arc<Self> {
        Arc::new(Self {
            trusted,
            in_all,
            per_peer,
            present: Mutex::default(),
        })
    }

    /// A place for one more connection of `peer`, or `None` where a limit is reached.
    fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let stranger = !self.trusted.iter().any(|net| net.contains(&peer));
        let mut present = self.present();
        let of_peer = present.by_peer.get(&peer).copied().unwrap_or(0);
        if present.in_all >= self.in_all || of_peer >= self.per_peer {
            return None;
        }
        let of_strangers = (self.in_all / STRANGERS_SHARE).max(1);
        if stranger && (present.strangers >= of_strangers || of_peer >= PER_STRANGER) {
            return None;
        }
        present.in_all += 1;
        present.strangers += usize::from(stranger);
        present.by_peer.insert(peer, of_peer + 1);
        Some(Place {
            census: self.clone(),
            peer,
            stranger,
        })
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the census, given back when it is dropped.
struct Place {
    census: Arc<Census>,
    peer: IpAddr,
    stranger: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut present = self.census.present();
        present.in_all -= 1;
        present.strangers -= usize::from(self.stranger);
        let left = present.by_peer.get(&self.peer).map_or(0, |count| count - 1);
        if left == 0 {
            present.by_peer.remove(&self.peer);
        } else {
            present.by_peer.insert(self.peer, left);
        }
    }
}

#[cfg(test)]
mod tests;
