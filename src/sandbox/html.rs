//! HTML answers of the sandbox, and what surrounds them.

use askama::Template;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};

use crate::sandbox::identity::request::origin;

/// The stylesheet of every page.
const STYLE: &str = include_str!("../../templates/sandbox/style.css");
/// What keeps a page up to date without a reload; every page works without it.
const SCRIPT: &str = include_str!("../../templates/sandbox/live.js");

/// A page. Its forms may lead to ourselves and, by way of a redirect, to `leads_to`.
pub(crate) fn page(status: StatusCode, page: &impl Template, leads_to: Option<&str>) -> Response {
    let html = match page.render() {
        Ok(html) => html,
        Err(error) => {
            tracing::error!(%error, "A page of the sandbox could not be written");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let mut response = (status, html).into_response();
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, plain("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, policy(leads_to));
    headers.insert(header::REFERRER_POLICY, plain("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, plain("DENY"));
    headers.insert(header::CACHE_CONTROL, plain("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, plain("nosniff"));
    response
}

/// To another page, with GET.
pub(crate) fn redirect(to: &str) -> Response {
    let mut response = Redirect::to(to).into_response();
    let no_store = HeaderValue::from_static("no-store");
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, no_store);
    let referrer = HeaderValue::from_static("no-referrer");
    headers.insert(header::REFERRER_POLICY, referrer);
    response
}

/// The answer with a cookie.
pub(crate) fn with_cookie(mut response: Response, cookie: HeaderValue) -> Response {
    response.headers_mut().append(header::SET_COOKIE, cookie);
    response
}

/// `GET /style.css`
pub(crate) async fn style() -> Response {
    asset("text/css; charset=utf-8", STYLE)
}

/// `GET /live.js`
pub(crate) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", SCRIPT)
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "max-age=60"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Body::from(text)).into_response()
}

/// A redirect after a form counts as where the form leads, so the policy names it too.
fn policy(leads_to: Option<&str>) -> HeaderValue {
    let leads_to = leads_to.and_then(origin).unwrap_or_default();
    let policy = format!(
        "default-src 'none'; style-src 'self'; img-src 'self' data:; script-src 'self'; \
         connect-src 'self'; media-src 'self'; form-action 'self' {leads_to}; \
         base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("an origin is plain text")
}
