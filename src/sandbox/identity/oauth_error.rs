//! Errors of the endpoints that clients call (RFC 6749, 5.2; RFC 6750, 3).

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::sandbox::world::Refusal;

/// An error that a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OauthError {
    /// The request makes no sense.
    InvalidRequest(&'static str),
    /// The client is not who it says.
    InvalidClient,
    /// The code or refresh token is not good.
    InvalidGrant(&'static str),
    /// More is asked for than may be.
    InvalidScope(&'static str),
    /// There is no such grant type.
    UnsupportedGrantType,
    /// The client may not do this.
    UnauthorizedClient(&'static str),
    /// The bearer token is missing, unknown or over.
    InvalidToken,
    /// The bearer token is good, but not for this.
    InsufficientScope,
    /// The server was told to be out of order.
    Unavailable,
}

impl OauthError {
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        let bad = StatusCode::BAD_REQUEST;
        match self {
            Self::InvalidRequest(why) => (bad, "invalid_request", why),
            Self::InvalidClient => (
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                "client authentication by HTTP Basic failed",
            ),
            Self::InvalidGrant(why) => (bad, "invalid_grant", why),
            Self::InvalidScope(why) => (bad, "invalid_scope", why),
            Self::UnsupportedGrantType => (
                bad,
                "unsupported_grant_type",
                "grant_type must be authorization_code, refresh_token or client_credentials",
            ),
            Self::UnauthorizedClient(why) => (bad, "unauthorized_client", why),
            Self::InvalidToken => (
                StatusCode::UNAUTHORIZED,
                "invalid_token",
                "the access token is missing, unknown or over",
            ),
            Self::InsufficientScope => (
                StatusCode::FORBIDDEN,
                "insufficient_scope",
                "the access token is not good for this",
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                "out of order, as it was asked to be",
            ),
        }
    }
}

impl From<Refusal> for OauthError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::InvalidGrant(why) => Self::InvalidGrant(why),
            Refusal::InvalidScope => Self::InvalidScope("more was asked for than was granted"),
        }
    }
}

impl IntoResponse for OauthError {
    fn into_response(self) -> Response {
        let (status, error, description) = self.parts();
        let body = json!({ "error": error, "error_description": description });
        let mut response = (status, uncached(Json(body))).into_response();
        let challenge = match self {
            Self::InvalidClient => Some("Basic realm=\"sandbox\", charset=\"UTF-8\"".to_owned()),
            Self::InvalidToken | Self::InsufficientScope => {
                Some(format!("Bearer realm=\"sandbox\", error=\"{error}\""))
            }
            _ => None,
        };
        if let Some(challenge) = challenge.and_then(|text| HeaderValue::try_from(text).ok()) {
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// What holds tokens is kept by nobody on the way (RFC 6749, 5.1).
pub(crate) fn uncached(body: impl IntoResponse) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 2] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::PRAGMA, "no-cache"),
    ];
    (headers, body)
}
