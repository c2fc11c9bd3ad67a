//! The HTTP listener of the sandbox: HTTP/1.1, bounded in connections and in the time a peer may
//! take for its headers.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections open at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// A peer whose headers (or whose next request) take longer is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// A request, body included, must be answered (or begin to be) within this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// A peer that takes none of our bytes for so long is cut off.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// After this the connections that are left when the sandbox stops are cut.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two tries to accept while the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `app` on `listener` until `stop`.
pub(crate) fn serve(
    listener: TcpListener,
    app: Router,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let (of_connections, stop) = (tasks.clone(), stop.clone());
    tasks.spawn(async move {
        let accepting = accept_all(&listener, app, &of_connections, &stop);
        stop.run_until_cancelled(accepting).await;
    });
}

async fn accept_all(
    listener: &TcpListener,
    app: Router,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await;
        let slot = slot.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let (app, stop) = (app.clone(), stop.clone());
                tasks.spawn(async move {
                    connection(stream, app, &stop).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "The sandbox could not accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end. What ends it early is the peer's affair: no error to log.
async fn connection(stream: TcpStream, app: Router, stop: &CancellationToken) {
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%error, "Could not set up an HTTP connection of the sandbox");
    }
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let answer = app.clone().oneshot(request.map(Body::new));
        async {
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, answer).await;
            let late = |_| Ok(StatusCode::REQUEST_TIMEOUT.into_response());
            answer.unwrap_or_else(late) as Result<_, Infallible>
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    tokio::select! {
        ended = serving.as_mut() => return drop(ended),
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    drop(tokio::time::timeout(DRAIN_TIMEOUT, serving).await);
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(STALL_TIMEOUT))?;
    Ok(())
}
