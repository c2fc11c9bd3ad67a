//! What surrounds every request: its id, span and metrics, admission and deadline, and the last
//! look at the response.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Router, middleware};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;

use crate::http::pages::notice::Notice;
use crate::http::problem::{ApiError, problem};
use crate::random::Random;
use crate::secret;
use crate::telemetry;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What the service takes on at once, and for how long.
#[derive(Clone)]
pub(crate) struct Admission {
    permits: Arc<Semaphore>,
    deadline: Duration,
}

impl Admission {
    /// At most `requests` under way, each answered within `deadline`.
    pub(crate) fn new(requests: usize, deadline: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(requests.min(Semaphore::MAX_PERMITS)));
        Self { permits, deadline }
    }
}

/// Puts everything around `routes` that a request on the public listener passes.
pub(crate) fn surround(routes: Router, admission: Admission, random: Arc<Random>) -> Router {
    // Each layer goes around those before it.
    routes
        .layer(middleware::from_fn_with_state(admission, admit))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::map_response(finish))
        .layer(middleware::from_fn_with_state(random, observe))
}

/// Gives the request an id (a proxy's own where it is sane), a span and its metrics.
async fn observe(State(random): State<Arc<Random>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id(&request).unwrap_or_else(|| secret::hex(&random.bytes::<8>()));
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route
        .as_ref()
        .map_or("unknown", MatchedPath::as_str)
        .to_owned();
    let span = tracing::info_span!("http", request.id = %id, method = %request.method(), route);
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let took = began.elapsed();
    span.in_scope(|| tracing::debug!(status = status.as_u16(), ?took, "Answered a request"));
    metrics::counter!(telemetry::HTTP_REQUESTS, "route" => route.clone(), "status" => status.as_u16().to_string())
        .increment(1);
    metrics::histogram!(telemetry::HTTP_TIME, "route" => route).record(took);
    response
}

fn request_id(request: &Request) -> Option<String> {
    let id = request.headers().get(&REQUEST_ID)?.to_str().ok()?;
    let sane = (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    sane.then(|| id.to_owned())
}

/// Sheds what is above the limit at once, and gives up what takes too long.
async fn admit(State(admission): State<Admission>, request: Request, next: Next) -> Response {
    let Ok(_permit) = admission.permits.try_acquire() else {
        return ApiError::Overloaded.into_response();
    };
    tokio::time::timeout(admission.deadline, next.run(request))
        .await
        .unwrap_or_else(|_| ApiError::Deadline.into_response())
}

/// Makes a problem of an error that some layer answered in its own words (405 of the router, say; a
/// page speaks for itself),
/// and adds the headers that every response bears.
pub(crate) async fn finish(response: Response) -> Response {
    let mut response = as_problem(response);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // A recording is nothing that a page of another origin can embed by the cookie of a session.
        (RESOURCE_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // A page has a policy of its own.
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        let usual = HeaderValue::from_static(value);
        headers.entry(name).or_insert(usual);
    }
    response
}

fn as_problem(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let is_ours = |value: &HeaderValue| {
        let value = value.as_bytes();
        value.ends_with(b"json") || value.starts_with(b"text/html")
    };
    if !is_error || content_type.is_some_and(is_ours) {
        return response;
    }
    let mut made = problem(status, None);
    for name in [header::ALLOW, header::CONTENT_RANGE] {
        if let Some(value) = response.headers().get(&name) {
            made.headers_mut().insert(name, value.clone());
        }
    }
    made
}

/// Answers for a handler that panicked; what it said goes to the log alone.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the layer calls it like this"
)]
fn panicked(payload: Box<dyn Any + Send>) -> Response {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    ApiError::Internal(format!(
        "a handler panicked: {}",
        text.unwrap_or("no message")
    ))
    .into_response()
}

/// The answer to a path that leads nowhere: a page to a browser, else a problem.
pub(crate) async fn no_route(request: Request) -> Response {
    let accept = request.headers().get(header::ACCEPT);
    let wants_page = accept
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    if wants_page && !request.uri().path().starts_with("/api/") {
        return Notice::NotHere.into_response();
    }
    problem(
        StatusCode::NOT_FOUND,
        Some("There is nothing at this address. /api/openapi.json lists what there is.".into()),
    )
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::body::to_bytes;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    async fn ask(routes: Router, deadline_ms: u64, id: &str) -> (Response, String) {
        let admission = Admission::new(1, Duration::from_millis(deadline_ms));
        let random = Arc::new(Random::from_seed([7; 32]));
        let request = Request::get("/x")
            .header("x-request-id", id)
            .body(Body::empty())
            .unwrap();
        let app = surround(routes, admission, random);
        let response = app.oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 10_000).await.unwrap();
        (
            Response::from_parts(parts, Body::empty()),
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }

    #[tokio::test]
    async fn a_panic_becomes_a_problem_that_tells_nothing_of_it() {
        async fn handler() {
            panic!("the secret is at_123");
        }
        let (response, body) = ask(Router::new().route("/x", get(handler)), 1000, "a").await;
        assert_eq!(response.status(), 500);
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "application/problem+json"
        );
        assert_eq!(
            response.headers()[header::X_CONTENT_TYPE_OPTIONS],
            "nosniff"
        );
        assert!(!body.contains("secret"), "{body}");
    }

    #[tokio::test]
    async fn a_handler_that_never_ends_is_given_up() {
        let routes = Router::new().route("/x", get(std::future::pending::<()>));
        let (response, body) = ask(routes, 50, "a").await;
        assert_eq!(response.status(), 504);
        assert!(body.contains("could not answer in time"), "{body}");
    }

    #[tokio::test]
    async fn a_sane_request_id_is_kept_and_another_replaced() {
        let routes = || Router::new().route("/x", get(async || "hello"));
        let (kept, body) = ask(routes(), 1000, "proxy-1.2_3").await;
        assert_eq!(body, "hello");
        assert_eq!(kept.headers()[REQUEST_ID], "proxy-1.2_3");
        let (replaced, _) = ask(routes(), 1000, "a b\"c").await;
        assert_eq!(replaced.headers()[REQUEST_ID].len(), 16);
    }
}
