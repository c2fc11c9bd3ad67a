//! The pages of subscribers. They work without script, and every change is a form.
//!
//! What a page may load is told by its Content-Security-Policy: our own style sheet, script, icon and
//! recordings, and nothing else. Whatever a caller or an identity server sent is escaped by the
//! templates.

pub(crate) mod assets;
mod inbox;
mod leaving;
pub(crate) mod notice;
mod sign_in;
mod texts;

use askama::Template;
use axum::Router;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::http::Shared;
use crate::http::pages::notice::Notice;
use crate::http::problem::chain;
use crate::storage::StorageError;

/// Where the identity server sends browsers back to.
pub const CALLBACK: &str = "/auth/callback";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// Every page and what it loads.
pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/", get(inbox::show))
        .route("/messages/{id}/read", post(inbox::mark_read))
        .route("/messages/{id}/unread", post(inbox::mark_unread))
        .route("/messages/{id}/delete", post(inbox::delete))
        .route("/time-zone", post(inbox::set_time_zone))
        .route("/enrol", get(sign_in::begin))
        .route("/enrol/{end}", get(sign_in::refused))
        .route(CALLBACK, get(sign_in::complete))
        .route(
            "/auth/logout",
            get(sign_in::ask_to_sign_out).post(sign_in::sign_out),
        )
        .route("/leave", get(leaving::ask).post(leaving::leave))
        .route("/left", get(leaving::left))
        .route("/assets/{name}", get(assets::show))
}

/// Why there is no page.
pub(crate) enum PageError {
    /// There is one that says why.
    Notice(Notice),
    /// The database failed.
    Storage(StorageError),
}

impl From<Notice> for PageError {
    fn from(notice: Notice) -> Self {
        Self::Notice(notice)
    }
}

impl From<StorageError> for PageError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        match self {
            Self::Notice(notice) => notice.into_response(),
            Self::Storage(error) => {
                tracing::error!(error = chain(&error), "A page could not be shown");
                let busy = error.is_transient();
                if busy { Notice::Busy } else { Notice::Fault }.into_response()
            }
        }
    }
}

/// A page with the headers of every page; it is never stored (the outermost layer says so).
fn page(status: StatusCode, template: &impl Template) -> Response {
    let html = match template.render() {
        Ok(html) => html,
        Err(error) => {
            tracing::error!(error = chain(&error), "A page could not be written");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let mut response = (status, html).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (OPENER_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
    }
    response
}

/// Sends the browser on, with GET: to a page of ours, or to the identity server.
fn see_other(path: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    if let Ok(path) = HeaderValue::from_str(path) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    response
}

/// Adds a `Set-Cookie`.
fn with_cookie(mut response: Response, cookie: HeaderValue) -> Response {
    response.headers_mut().append(header::SET_COOKIE, cookie);
    response
}
