//! The HTTP listener of the sandbox, for its pages and the identity server.

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connections;
use crate::connections::Limits;

/// Connections open at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// A request, body included, must be answered (or begin to be) within this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// After this the connections that are left when the sandbox stops are cut.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves `app` on `listener` until `stop`.
pub(crate) fn serve(
    listener: TcpListener,
    app: Router,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let limits = Limits {
        drain_timeout: DRAIN_TIMEOUT,
        ..Limits::new(CONNECTIONS)
    };
    let app = app.layer(middleware::from_fn(in_time));
    connections::serve(listener, app, limits, tasks, stop.clone());
}

async fn in_time(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    answer.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
}
