//! The loop that accepts HTTP/1.1 connections: bounded in number, in the time a peer may take for
//! its headers, and in the time a peer may leave our bytes untaken; drained when told to stop.
//!
//! HTTP/2 and TLS end at the proxy in front of the service.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// A peer whose headers (or whose next request) take longer is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// A peer that takes none of our bytes for so long is cut off.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// After this the connections that are left when the service stops are cut.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two tries to accept while the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a listener could not be set up.
#[derive(Debug, thiserror::Error)]
#[error(
    "{setting}: cannot listen on {address}; choose an address of this machine on which no other program listens"
)]
pub struct BindError {
    /// The setting that names the address.
    pub setting: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// How a listener treats its peers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) header_timeout: Duration,
    pub(crate) stall_timeout: Duration,
    pub(crate) drain_timeout: Duration,
}

impl Limits {
    /// The usual times, and at most `connections` at once.
    pub(crate) fn new(connections: usize) -> Self {
        Self {
            connections: connections.clamp(1, Semaphore::MAX_PERMITS),
            header_timeout: HEADER_TIMEOUT,
            stall_timeout: STALL_TIMEOUT,
            drain_timeout: DRAIN_TIMEOUT,
        }
    }
}

/// Listens on `address`, which the setting `setting` names. Returns the address with its port.
pub(crate) async fn bind(
    setting: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), BindError> {
    let bind = async {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    bind.await.map_err(|source| BindError {
        setting,
        address,
        source,
    })
}

/// Serves `app` on `listener` until `stop`; the loop and the connections are tasks of `tasks`.
pub(crate) fn serve(
    listener: TcpListener,
    app: Router,
    limits: Limits,
    tasks: &TaskTracker,
    stop: CancellationToken,
) {
    let connection_tasks = tasks.clone();
    tasks.spawn(async move {
        let accepting = accept_all(&listener, app, limits, &connection_tasks, &stop);
        stop.run_until_cancelled(accepting).await;
    });
}

async fn accept_all(
    listener: &TcpListener,
    app: Router,
    limits: Limits,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    loop {
        // With every slot taken, newcomers wait in the kernel's queue.
        let slot = Arc::clone(&slots).acquire_owned().await;
        let slot = slot.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let (app, stop) = (app.clone(), stop.clone());
                tasks.spawn(async move {
                    connection(stream, app, limits, stop).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "Could not accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end. What ends it early is the peer's affair: no error to log.
async fn connection(stream: TcpStream, app: Router, limits: Limits, stop: CancellationToken) {
    if let Err(error) = prepare(&stream, limits) {
        tracing::debug!(%error, "Could not set up an HTTP connection");
    }
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        app.clone().oneshot(request.map(Body::new))
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    tokio::select! {
        ended = serving.as_mut() => return note(ended),
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    match tokio::time::timeout(limits.drain_timeout, serving).await {
        Ok(ended) => note(ended),
        Err(_) => tracing::debug!("Cut an HTTP connection that did not end in time"),
    }
}

fn note(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "An HTTP connection broke");
    }
}

fn prepare(stream: &TcpStream, limits: Limits) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // The kernel also counts a peer that keeps its window shut as one that takes nothing.
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(limits.stall_timeout))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Long enough for a busy machine, and never waited for when all is well.
    const SOON: Duration = Duration::from_secs(10);

    struct Server {
        address: SocketAddr,
        tasks: TaskTracker,
        stop: CancellationToken,
    }

    async fn start(limits: Limits, app: Router) -> Server {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (listener, address) = bind("test", any).await.unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        serve(listener, app, limits, &tasks, stop.clone());
        Server {
            address,
            tasks,
            stop,
        }
    }

    fn limits() -> Limits {
        Limits {
            connections: 1,
            header_timeout: Duration::from_millis(100),
            stall_timeout: Duration::from_millis(300),
            drain_timeout: SOON,
        }
    }

    fn hello() -> Router {
        Router::new().route("/", get(async || "hello"))
    }

    async fn read_all(mut stream: TcpStream) -> String {
        let mut text = Vec::new();
        let read = tokio::time::timeout(SOON, stream.read_to_end(&mut text)).await;
        // A reset is an end as well.
        drop(read.expect("the server ends the connection"));
        String::from_utf8_lossy(&text).into_owned()
    }

    #[tokio::test]
    async fn a_peer_that_dribbles_its_headers_is_cut_and_its_place_given_on() {
        let server = start(limits(), hello()).await;
        let mut slow = TcpStream::connect(server.address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-")
            .await
            .unwrap();
        let silent = TcpStream::connect(server.address).await.unwrap();
        let mut next = TcpStream::connect(server.address).await.unwrap();
        next.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        assert!(!read_all(slow).await.contains("200 OK"));
        assert_eq!(read_all(silent).await, "");
        assert!(read_all(next).await.ends_with("hello"));
    }

    #[tokio::test]
    async fn stopping_ends_idle_connections_and_lets_a_request_finish() {
        let (began, mut has_begun) = tokio::sync::mpsc::channel(1);
        let go_on = CancellationToken::new();
        let finish = go_on.clone();
        let handler = get(async move || {
            began.send(()).await.unwrap();
            finish.cancelled().await;
            "done"
        });
        let limits = Limits {
            connections: 2,
            header_timeout: SOON,
            ..limits()
        };
        let server = start(limits, Router::new().route("/", handler)).await;
        let idle = TcpStream::connect(server.address).await.unwrap();
        let mut busy = TcpStream::connect(server.address).await.unwrap();
        busy.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        has_begun.recv().await.unwrap();

        server.stop.cancel();
        server.tasks.close();
        assert_eq!(read_all(idle).await, "");
        go_on.cancel();
        assert!(read_all(busy).await.ends_with("done"));
        tokio::time::timeout(SOON, server.tasks.wait())
            .await
            .unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_peer_that_takes_nothing_loses_its_place() {
        let endless = get(async || {
            let pieces = std::iter::repeat_with(|| Ok::<_, io::Error>(vec![0; 64 * 1024]));
            Body::from_stream(futures_util::stream::iter(pieces))
        });
        let app = hello().route("/endless", endless);
        let server = start(
            Limits {
                header_timeout: SOON,
                ..limits()
            },
            app,
        )
        .await;
        let mut stuck = TcpStream::connect(server.address).await.unwrap();
        stuck
            .write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut next = TcpStream::connect(server.address).await.unwrap();
        next.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        assert!(read_all(next).await.ends_with("hello"));
        drop(stuck);
    }
}
