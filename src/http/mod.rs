//! The HTTP API of subscribers (`/api/v1`, described by `/api/openapi.json`), their pages, and, on a
//! listener of its own, what operators and their tools ask ([`admin`]).
//!
//! A request passes, from the outside in: its id, span and metrics; security headers; the net under
//! panics; admission (503 above the limit) and deadline; then a handler, which learns from
//! its token or its session whose mailbox it works on. Every error of the API is an [`ApiError`];
//! pages have pages of their own for what goes wrong.

pub mod admin;
mod audio;
pub mod auth;
mod body;
mod calls;
pub mod conditional;
mod events;
mod expansion;
mod formats;
mod greetings;
mod layers;
mod me;
mod messages;
mod openapi;
mod page;
mod pages;
mod problem;
pub mod readiness;
mod recording;
mod registration;
mod session;
mod settings;
mod site;
mod tokens;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::connections;
use crate::enrolment;
use crate::enrolment::Enrolment;
use crate::random::Random;
use crate::storage::Storage;
use crate::storage::blob::Blobs;

use body::Json;

pub use crate::connections::BindError;
pub use crate::http::pages::CALLBACK;
pub use crate::secret;
pub use problem::ApiError;
pub use readiness::Readiness;

/// The longest body of any request but a greeting.
const BODY_LIMIT_BYTES: usize = 64 * 1024;

/// Greetings uploaded at once: each is in memory, as sent and as samples. More get 503.
const UPLOADS_AT_ONCE: usize = 4;

/// The `[http]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the API listens. It speaks HTTP/1.1 without TLS: put a proxy before it.
    pub listen: SocketAddr,
    /// Connections open at once; more wait.
    pub max_connections: usize,
    /// Requests under way at once; more get 503.
    pub max_requests: usize,
    /// Event streams open at once, in all; more get 503.
    pub max_event_streams: usize,
    /// The longest a client may take to send the body of a request.
    pub body_timeout_ms: u64,
    /// The longest a request may take until its answer begins, its body included.
    pub request_timeout_ms: u64,
    /// What is made of recordings on demand, and kept: at most so many bytes of it. What was not asked
    /// for the longest goes first.
    pub max_converted_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            max_connections: 1024,
            max_requests: 256,
            max_event_streams: 512,
            body_timeout_ms: 20_000,
            request_timeout_ms: 30_000,
            max_converted_bytes: 500_000_000,
        }
    }
}

/// What the handlers work with.
pub struct State {
    storage: Arc<dyn Storage>,
    blobs: Arc<Blobs>,
    clock: Arc<dyn Clock>,
    default_greeting: greetings::Default,
    public_url: String,
    site: site::Site,
    enrolment: Option<Enrolment>,
    enrolment_config: enrolment::Config,
    random: Arc<Random>,
    uploads: Arc<Semaphore>,
    body_timeout: Duration,
    max_event_streams: usize,
    stop: CancellationToken,
}

type Shared = Arc<State>;

impl State {
    /// `default_greeting` is the WAV file that callers hear where a subscriber has no greeting of
    /// his own; `public_url` begins every link (empty: links are relative to the host); `seed` is
    /// of the system's random generator, because token secrets come from it.
    pub fn new(
        storage: Arc<dyn Storage>,
        blobs: Arc<Blobs>,
        clock: Arc<dyn Clock>,
        default_greeting: Bytes,
        public_url: &str,
        seed: [u8; 32],
    ) -> Self {
        let config = Config::default();
        Self {
            storage,
            blobs,
            clock,
            default_greeting: greetings::Default::new(default_greeting),
            public_url: public_url.trim_end_matches('/').to_owned(),
            site: site::Site::new(public_url),
            enrolment: None,
            enrolment_config: enrolment::Config::default(),
            random: Arc::new(Random::from_seed(seed)),
            uploads: Arc::new(Semaphore::new(UPLOADS_AT_ONCE)),
            body_timeout: Duration::from_millis(config.body_timeout_ms),
            max_event_streams: config.max_event_streams,
            stop: CancellationToken::new(),
        }
    }

    /// With subscribers who come and leave by themselves.
    #[must_use]
    pub fn with_enrolment(mut self, enrolment: Enrolment, config: &enrolment::Config) -> Self {
        self.enrolment = Some(enrolment);
        self.enrolment_config = config.clone();
        self
    }

    /// Whether subscribers can sign in.
    fn is_open(&self) -> bool {
        self.enrolment.as_ref().is_some_and(Enrolment::is_open)
    }

    /// The link to `path` as the outside sees it.
    fn link(&self, path: &str) -> String {
        format!("{}/api/v1{path}", self.public_url)
    }
}

/// Serves the API until `stop`; then connections have ten seconds to end what they are at. All of
/// it runs in `tasks`. Returns the address it listens on.
pub async fn serve(
    config: &Config,
    state: State,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> Result<SocketAddr, BindError> {
    let (listener, address) = connections::bind("http.listen", config.listen).await?;
    let limits = connections::Limits::new(config.max_connections);
    let app = router(config, state, stop.clone());
    connections::serve(listener, app, limits, tasks, stop);
    Ok(address)
}

/// The routes with all that surrounds them. Streams of events end at `stop`.
pub fn router(config: &Config, mut state: State, stop: CancellationToken) -> Router {
    state.body_timeout = Duration::from_millis(config.body_timeout_ms);
    state.max_event_streams = config.max_event_streams;
    state.stop = stop;
    let state = Arc::new(state);
    let timeout = Duration::from_millis(config.request_timeout_ms);
    let admission = layers::Admission::new(config.max_requests, timeout);
    let random = Arc::clone(&state.random);
    let routes = openapi::routes()
        .merge(pages::routes())
        .fallback(layers::no_route)
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .with_state(state);
    layers::surround(routes, admission, random)
}
