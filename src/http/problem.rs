//! Errors as the outside sees them: `application/problem+json` (RFC 9457), one status for each.

use std::error::Error;
use std::fmt::Write;

use axum::Json;
use axum::extract::rejection::{BytesRejection, JsonRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{ToResponse, ToSchema};

use crate::media::audio::AudioError;
use crate::storage::StorageError;
use crate::storage::blob::BlobError;

/// Why a request was not done. Its text is the `detail` that the client reads, except for a fault
/// of ours, whose text and cause go to the log alone.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The same for what never was, what is gone, and what is somebody else's.
    #[error("There is no such {0}.")]
    NotFound(&'static str),
    /// No token, or none that counts.
    #[error(
        "This needs an API token (`Authorization: Bearer at_…`) or a web session, valid and not expired."
    )]
    Unauthorized {
        /// Whether there was one.
        presented: bool,
    },
    /// A change by a browser's session that may come from somebody else's page.
    #[error(
        "A change with the cookie of a web session must come from the service's own pages. Use an API token."
    )]
    Foreign,
    /// The caller has as many of these open as it may.
    #[error("{0}")]
    TooMany(&'static str),
    /// The request is not written as it should be.
    #[error("{0}")]
    BadRequest(String),
    /// The request is well written and asks what cannot be.
    #[error("{0}")]
    Unprocessable(String),
    /// The body is no audio file that we can read.
    #[error("The greeting cannot be used: {0}.")]
    UnreadableAudio(#[from] AudioError),
    /// The body is of another type than the route takes.
    #[error("The body must be {0}.")]
    UnsupportedMediaType(&'static str),
    /// The client wants a format that there is not.
    #[error(
        "Recordings come as audio/wav and as audio/ogg (Opus), the greeting as audio/wav: name one of these in `Accept`, or `wav`, `ogg` or `original` as `format`."
    )]
    NotAcceptable,
    /// The body is longer than the route takes.
    #[error("The body is larger than the {limit_bytes} bytes allowed here.")]
    TooLarge {
        /// What is allowed.
        limit_bytes: usize,
    },
    /// `If-Match` or `If-Unmodified-Since` does not hold.
    #[error("It has changed since you read it. Read it again, then repeat the change.")]
    PreconditionFailed,
    /// The state of the account forbids it.
    #[error("{0}")]
    Conflict(&'static str),
    /// The body came too slowly.
    #[error("The body of the request did not arrive in time.")]
    SlowBody,
    /// More requests are under way than the service takes on.
    #[error("The service is busy. Try again in a moment.")]
    Overloaded,
    /// We took too long.
    #[error("The service could not answer in time. Try again in a moment.")]
    Deadline,
    /// The database failed.
    #[error("the database could not serve a request")]
    Storage(#[from] StorageError),
    /// The store of recordings failed.
    #[error("the store of recordings could not serve a request")]
    Blob(#[from] BlobError),
    /// A fault in the program.
    #[error("{0}")]
    Internal(String),
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::Foreign => StatusCode::FORBIDDEN,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unprocessable(_) | Self::UnreadableAudio(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Self::Storage(error) if error.is_transient() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Blob(error) if error.is_disk_full() => StatusCode::INSUFFICIENT_STORAGE,
            Self::Storage(_) | Self::Blob(_) | Self::Internal(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// For a body that could not be read where `limit_bytes` were allowed.
    pub(crate) fn from_body(rejection: &BytesRejection, limit_bytes: usize) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Self::TooLarge { limit_bytes }
        } else {
            Self::BadRequest("The body of the request could not be read.".into())
        }
    }

    /// A fault that an operator must look into, in contrast to a client's mistake or a crowd.
    fn is_fault(&self) -> bool {
        self.status().is_server_error() && !matches!(self, Self::Overloaded | Self::Deadline)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        if self.is_fault() {
            tracing::error!(error = chain(&self), "A request failed");
        }
        let detail = (!self.is_fault()).then(|| self.to_string());
        let mut response = problem(status, detail);
        let headers = response.headers_mut();
        if let Self::Unauthorized { presented } = self {
            // RFC 6750 section 3.1: no error code where no token was presented.
            let challenge = if presented {
                "Bearer realm=\"aftertone\", error=\"invalid_token\""
            } else {
                "Bearer realm=\"aftertone\""
            };
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(challenge),
            );
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        if status == StatusCode::REQUEST_TIMEOUT {
            // The rest of the body may still be on its way.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::MissingJsonContentType(_) => {
                Self::UnsupportedMediaType("application/json")
            }
            JsonRejection::BytesRejection(rejection) => {
                Self::from_body(&rejection, crate::http::BODY_LIMIT_BYTES)
            }
            // The text says where and why; it comes from the client's own bytes.
            other => Self::BadRequest(format!("{}.", other.body_text())),
        }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::BadRequest(format!("{}.", rejection.body_text()))
    }
}

/// The body of every error (RFC 9457).
#[derive(Debug, Serialize, ToSchema, ToResponse)]
#[response(
    description = "What went wrong (RFC 9457)",
    content_type = "application/problem+json"
)]
pub(crate) struct Problem {
    /// `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The status in words.
    #[schema(example = "Not Found")]
    title: &'static str,
    /// The HTTP status.
    #[schema(example = 404, minimum = 400, maximum = 599)]
    status: u16,
    /// What happened and what to do, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "There is no such message.")]
    detail: Option<String>,
}

/// A problem response of `status`.
pub(crate) fn problem(status: StatusCode, detail: Option<String>) -> Response {
    let body = Problem {
        kind: "about:blank",
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        detail,
    };
    let mut response = (status, Json(body)).into_response();
    let problem_json = HeaderValue::from_static("application/problem+json");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, problem_json);
    response
}

/// An error with its causes, from the outermost: `a: b: c`. A cause that has been told is left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            write!(text, ": {said}").expect("writing to a String cannot fail");
        }
        cause = error.source();
    }
    text
}
