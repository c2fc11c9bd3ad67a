//! Lists by the page: how many, from where, and the link to the next page (RFC 8288).

use std::fmt::Write;

use axum::Json;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::domain::MessageId;
use crate::http::ApiError;

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 200;

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    limit: u32,
    /// The last row of the page before.
    pub(crate) after: Option<MessageId>,
}

impl Page {
    /// Reads the query parameters; an empty one counts as missing.
    pub(crate) fn read(limit: Option<&str>, cursor: Option<&str>) -> Result<Self, ApiError> {
        let limit = match given(limit) {
            None => DEFAULT_LIMIT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| bad(format!("`limit` must be a number from 1 to {MAX_LIMIT}.")))?,
        };
        let after = match given(cursor) {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                bad("`cursor` must be the `next` of an earlier answer, unchanged.".into())
            })?),
        };
        Ok(Self { limit, after })
    }

    /// How many rows to read: one more than the page, to know whether there is a next one.
    pub(crate) fn rows(self) -> u32 {
        self.limit + 1
    }

    /// Cuts `rows` to the page; the cursor of the next page, if there is one.
    pub(crate) fn cut<T>(self, rows: &mut Vec<T>, id: impl Fn(&T) -> MessageId) -> Option<String> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        if rows.len() <= limit {
            return None;
        }
        rows.truncate(limit);
        rows.last().map(|row| id(row).to_string())
    }

    /// The page as JSON, with a `Link` to the next one. `list` is the link of the list itself,
    /// `filter` its other query parameters (`&unread=true`).
    pub(crate) fn respond(
        self,
        body: impl Serialize,
        next: Option<&str>,
        list: &str,
        filter: &str,
    ) -> Response {
        let mut response = Json(body).into_response();
        if let Some(next) = next {
            let mut link = format!("<{list}?limit={}&cursor={next}", self.limit);
            write!(link, "{filter}>; rel=\"next\"").expect("writing to a String cannot fail");
            if let Ok(link) = HeaderValue::from_str(&link) {
                response.headers_mut().insert(header::LINK, link);
            }
        }
        response
    }
}

/// A query parameter that is there and not empty.
pub(crate) fn given(parameter: Option<&str>) -> Option<&str> {
    parameter.filter(|text| !text.is_empty())
}

fn bad(text: String) -> ApiError {
    ApiError::BadRequest(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_cursors_that_make_no_sense_are_refused() {
        for (limit, cursor) in [
            (Some("0"), None),
            (Some("201"), None),
            (Some("-1"), None),
            (Some("ten"), None),
            (None, Some("x")),
            (None, Some("0191d0c5b2c27f3e8a7b6c5d4e3f2a1b0")),
        ] {
            assert!(Page::read(limit, cursor).is_err(), "{limit:?} {cursor:?}");
        }
        let page = Page::read(Some(""), Some("")).unwrap();
        assert_eq!((page.limit, page.after), (DEFAULT_LIMIT, None));
    }

    #[test]
    fn a_page_that_is_just_full_is_the_last() {
        let page = Page::read(Some("2"), None).unwrap();
        let id = |n: &u8| MessageId::new(crate::domain::Timestamp::from_millis(1), [*n; 10]);
        let mut rows = vec![3, 2];
        assert_eq!(page.cut(&mut rows, id), None);
        let mut rows = vec![3, 2, 1];
        assert_eq!(page.cut(&mut rows, id), Some(id(&2).to_string()));
        assert_eq!(rows, [3, 2]);
    }
}
