//! Audio as an answer: chosen format, validators, ranges (RFC 9110), streamed from its store.

use std::ops::Range;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::TryStreamExt;

use crate::http::ApiError;
use crate::http::conditional;
use crate::http::conditional::{Answer, Validators};
use crate::http::problem;
use crate::storage::blob::Blobs;

/// A WAV file to be served.
pub(crate) struct Audio {
    pub(crate) source: Source,
    pub(crate) validators: Validators,
    /// Of plain letters, digits, dots and dashes.
    pub(crate) file_name: String,
}

/// Where the bytes are.
pub(crate) enum Source {
    /// In the store, under this key.
    Blob(String),
    /// Here.
    Memory(Bytes),
}

impl Audio {
    /// Answers a GET or HEAD. `format` is what the query asks for; else `Accept` tells.
    pub(crate) async fn respond(
        self,
        blobs: &Blobs,
        format: Option<&str>,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Response, ApiError> {
        if !wants_wav(format, headers) {
            return Err(ApiError::NotAcceptable);
        }
        let size = self.source.size(blobs).await?;
        let range = match conditional::answer(method, headers, &self.validators, size) {
            Answer::PreconditionFailed => return Err(ApiError::PreconditionFailed),
            Answer::Unsatisfiable => return Ok(unsatisfiable(size)),
            Answer::NotModified => {
                return Ok(self.described(StatusCode::NOT_MODIFIED, Body::empty()));
            }
            Answer::Whole => None,
            Answer::Part(range) => Some(range),
        };
        let status = match range {
            None => StatusCode::OK,
            Some(_) => StatusCode::PARTIAL_CONTENT,
        };
        let content_range = range
            .as_ref()
            .map(|part| format!("bytes {}-{}/{size}", part.start, part.end - 1));
        let part = range.unwrap_or(0..size);
        let length = part.end - part.start;
        let body = if method == Method::HEAD || length == 0 {
            Body::empty()
        } else {
            self.source.read(blobs, part).await?
        };
        let mut response = self.described(status, body);
        let fields = [
            (header::CONTENT_TYPE, Some("audio/wav".to_owned())),
            (header::CONTENT_LENGTH, Some(length.to_string())),
            (header::CONTENT_RANGE, content_range),
            (
                header::CONTENT_DISPOSITION,
                Some(format!("inline; filename=\"{}\"", self.file_name)),
            ),
        ];
        insert(response.headers_mut(), fields);
        Ok(response)
    }

    /// With what a 304 bears as well as a 200 (RFC 9110 section 15.4.5).
    fn described(&self, status: StatusCode, body: Body) -> Response {
        let mut response = (status, body).into_response();
        let modified = self.validators.modified.and_then(conditional::http_date);
        let fields = [
            (header::ACCEPT_RANGES, Some("bytes".to_owned())),
            (header::CACHE_CONTROL, Some("private, no-cache".to_owned())),
            (header::ETAG, Some(self.validators.etag.clone())),
            (header::LAST_MODIFIED, modified),
            (header::VARY, Some("Accept".to_owned())),
        ];
        insert(response.headers_mut(), fields);
        response
    }
}

impl Source {
    async fn size(&self, blobs: &Blobs) -> Result<u64, ApiError> {
        match self {
            Self::Memory(bytes) => Ok(bytes.len() as u64),
            Self::Blob(key) => Ok(blobs.size(key).await?),
        }
    }

    /// The bytes of `part`, which lies within the size; a blob is never wholly in memory.
    async fn read(&self, blobs: &Blobs, part: Range<u64>) -> Result<Body, ApiError> {
        match self {
            Self::Memory(bytes) => {
                let within = usize::try_from(part.start)
                    .ok()
                    .zip(usize::try_from(part.end).ok());
                let (start, end) = within.expect("a part lies within bytes that are in memory");
                Ok(Body::from(bytes.slice(start..end)))
            }
            Self::Blob(key) => {
                let stream = blobs.stream(key, part).await?;
                // The answer has begun: all that is left is to break it off and say so in the log.
                Ok(Body::from_stream(stream.inspect_err(|error| {
                    tracing::error!(
                        error = problem::chain(error),
                        "Broke off an answer in the middle"
                    );
                })))
            }
        }
    }
}

fn unsatisfiable(size: u64) -> Response {
    let detail = format!("The range lies beyond the {size} bytes there are.");
    let mut response = problem::problem(StatusCode::RANGE_NOT_SATISFIABLE, Some(detail));
    let fields = [
        (header::ACCEPT_RANGES, Some("bytes".to_owned())),
        (header::CONTENT_RANGE, Some(format!("bytes */{size}"))),
    ];
    insert(response.headers_mut(), fields);
    response
}

fn insert(headers: &mut HeaderMap, fields: impl IntoIterator<Item = (HeaderName, Option<String>)>) {
    for (name, value) in fields {
        if let Some(value) = value.and_then(|value| value.parse().ok()) {
            headers.insert(name, value);
        }
    }
}

/// Whether WAV will do, by the query's `format` or else by `Accept` (RFC 9110 section 12.5.1).
fn wants_wav(format: Option<&str>, headers: &HeaderMap) -> bool {
    if let Some(format) = format {
        return format.eq_ignore_ascii_case("wav");
    }
    if !headers.contains_key(header::ACCEPT) {
        return true;
    }
    let fields = headers.get_all(header::ACCEPT).iter();
    let ranges = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','));
    // The most exact of the ranges that match decides: `audio/wav;q=0, */*` refuses WAV.
    let best = ranges
        .filter_map(weighed)
        .max_by_key(|(exactness, _)| *exactness);
    best.is_some_and(|(_, is_wanted)| is_wanted)
}

/// How exactly a media range names WAV, and whether its weight is above zero.
fn weighed(range: &str) -> Option<(u8, bool)> {
    let mut parts = range
        .split(';')
        .map(|part| part.trim().to_ascii_lowercase());
    let exactness = match parts.next()?.as_str() {
        "audio/wav" | "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => 2,
        "audio/*" => 1,
        "*/*" => 0,
        _ => return None,
    };
    let weight = parts.find_map(|part| part.strip_prefix("q=").map(str::to_owned));
    let is_wanted = weight.is_none_or(|weight| weight.parse().is_ok_and(|w: f32| w > 0.0));
    Some((exactness, is_wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wav_is_given_to_those_who_take_it() {
        for (format, accept, will_do) in [
            (None, None, true),
            (None, Some("*/*"), true),
            (None, Some("audio/*;q=0.5"), true),
            (None, Some("audio/ogg, audio/x-wav; q=0.1"), true),
            (None, Some("audio/mpeg"), false),
            (None, Some("audio/wav;q=0, */*"), false),
            (None, Some("text/html, */*;q=0.8"), true),
            (None, Some(""), false),
            (Some("wav"), Some("audio/mpeg"), true),
            (Some("WAV"), None, true),
            (Some("mp3"), Some("*/*"), false),
        ] {
            let headers = accept.map(|accept| (header::ACCEPT, accept.parse().unwrap()));
            let headers = headers.into_iter().collect();
            assert_eq!(
                wants_wav(format, &headers),
                will_do,
                "{format:?} {accept:?}"
            );
        }
    }
}
