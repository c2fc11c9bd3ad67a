//! A page that says one thing.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use crate::sandbox::html;
use crate::sandbox::identity::Identity;

#[derive(Template)]
#[template(path = "sandbox/notice.html")]
struct Notice<'a> {
    operator: &'a str,
    title: &'a str,
    text: &'a str,
}

/// A page with `title` that says `text`.
pub(crate) fn page(identity: &Identity, status: StatusCode, title: &str, text: &str) -> Response {
    let notice = Notice {
        operator: &identity.operator,
        title,
        text,
    };
    html::page(status, &notice, None)
}
