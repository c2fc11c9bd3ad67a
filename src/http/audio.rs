//! Audio as an answer: validators, ranges (RFC 9110), streamed from its store. What can be known by
//! arithmetic is not decoded for.

use std::error::Error;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;

use crate::http::ApiError;
use crate::http::conditional;
use crate::http::conditional::{Share, Unwanted, Validators};
use crate::http::expansion::Expansion;
use crate::http::formats::Format;
use crate::http::problem;
use crate::storage::blob::{Blobs, Made};

/// A file to be served.
pub(crate) struct Audio {
    pub(crate) source: Source,
    pub(crate) format: Format,
    pub(crate) validators: Validators,
    /// Of plain letters, digits, dots and dashes, without its ending.
    pub(crate) file_name: String,
}

/// Where the bytes are.
pub(crate) enum Source {
    /// In the store, under this key.
    Blob(String),
    /// In the store, as G.711.
    Expanded(Expansion),
    /// Made of what is in the store.
    Converted(Conversion),
    /// Here.
    Memory(Bytes),
}

/// A file that is made of one in the store when it is asked for.
pub(crate) struct Conversion {
    /// The key of what it is made of.
    pub(crate) key: String,
    /// Tells it from what else is made of that.
    pub(crate) kind: &'static str,
    pub(crate) make: fn(&Path, &mut File) -> io::Result<()>,
    /// Its size, where that is known before it is made.
    pub(crate) size: Option<u64>,
}

impl Audio {
    /// Answers a GET or HEAD.
    pub(crate) async fn respond(
        self,
        blobs: &Blobs,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Response, ApiError> {
        match conditional::unwanted(headers, &self.validators) {
            Some(Unwanted::PreconditionFailed) => return Err(ApiError::PreconditionFailed),
            Some(Unwanted::NotModified) => {
                return Ok(self.described(StatusCode::NOT_MODIFIED, Body::empty()));
            }
            None => {}
        }
        let size = self.source.size(blobs).await?;
        let (status, part) = match conditional::share(method, headers, &self.validators, size) {
            Share::Unsatisfiable => return Ok(unsatisfiable(size)),
            Share::Whole => (StatusCode::OK, 0..size),
            Share::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        };
        let content_range = (status == StatusCode::PARTIAL_CONTENT)
            .then(|| format!("bytes {}-{}/{size}", part.start, part.end - 1));
        let length = part.end - part.start;
        let body = if method == Method::HEAD || length == 0 {
            Body::empty()
        } else {
            self.source.read(blobs, part).await?
        };
        let mut response = self.described(status, body);
        let file_name = format!("{}.{}", self.file_name, self.format.extension());
        let fields = [
            (header::CONTENT_TYPE, Some(self.format.media_type().into())),
            (header::CONTENT_LENGTH, Some(length.to_string())),
            (header::CONTENT_RANGE, content_range),
            (
                header::CONTENT_DISPOSITION,
                Some(format!("inline; filename=\"{file_name}\"")),
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
            Self::Expanded(expansion) => Ok(expansion.size()),
            Self::Converted(conversion) => match conversion.size {
                Some(size) => Ok(size),
                None => Ok(conversion.made(blobs).await?.size()),
            },
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
            Self::Blob(key) => Ok(body(blobs.stream(key, part).await?)),
            Self::Expanded(expansion) => Ok(body(expansion.stream(blobs, part).await?)),
            Self::Converted(conversion) => Ok(body(conversion.made(blobs).await?.stream(part))),
        }
    }
}

impl Conversion {
    async fn made(&self, blobs: &Blobs) -> Result<Made, ApiError> {
        let make = Box::new(self.make);
        let made = blobs.converted(&self.key, self.kind, make).await?;
        match self.size {
            Some(size) if size != made.size() => Err(ApiError::Internal(format!(
                "what was made of {} has {} bytes instead of {size}",
                self.key,
                made.size()
            ))),
            _ => Ok(made),
        }
    }
}

/// Once the answer has begun, all that is left is to break it off and say so in the log.
fn body<E>(stream: BoxStream<'static, Result<Bytes, E>>) -> Body
where
    E: Error + Send + Sync + 'static,
{
    Body::from_stream(stream.inspect_err(|error| {
        tracing::error!(
            error = problem::chain(error),
            "Broke off an answer in the middle"
        );
    }))
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
