//! The listener of operators and their tools: `/metrics`, `/healthz`, `/readyz`. It knows no
//! accounts: keep it on loopback or a private network.

use std::net::{Ipv4Addr, SocketAddr};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connections;
use crate::http::layers;
use crate::http::problem::problem;
use crate::http::{BindError, Readiness};

/// Scrapers and probes are few.
const CONNECTIONS: usize = 64;

/// The `[admin]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)),
        }
    }
}

/// Serves the admin listener until `stop`, in `tasks`. Returns the address it listens on. Stop it
/// after everything else, so that a drain can be watched.
pub async fn serve(
    config: &Config,
    metrics: PrometheusHandle,
    readiness: Readiness,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> Result<SocketAddr, BindError> {
    let (listener, address) = connections::bind("admin.listen", config.listen).await?;
    let app = Router::new()
        .route("/metrics", get(show_metrics).with_state(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready).with_state(readiness))
        .fallback(nothing_here)
        .layer(middleware::map_response(layers::finish));
    let limits = connections::Limits::new(CONNECTIONS);
    connections::serve(listener, app, limits, tasks, stop);
    Ok(address)
}

/// In the text format of Prometheus.
async fn show_metrics(State(metrics): State<PrometheusHandle>) -> Response {
    let text_format = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, text_format)], metrics.render()).into_response()
}

/// 200 where all is well, else 503; the body says what was checked and what is wrong.
async fn ready(State(readiness): State<Readiness>) -> Response {
    let report = readiness.ask().await;
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(report)).into_response()
}

async fn nothing_here() -> Response {
    let detail = "There are /metrics, /healthz and /readyz here.";
    problem(StatusCode::NOT_FOUND, Some(detail.into()))
}
