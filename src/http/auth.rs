//! Who asks: the subscriber whose API token the request bears (RFC 6750).

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use crate::domain::Subscriber;
use crate::http::{ApiError, Shared};

pub use crate::http::secret::hash_secret;
pub use crate::http::secret::new_secret;

/// The subscriber who asks. A handler that takes one runs for holders of a valid token only, and
/// every storage call it makes is bound to this subscriber.
pub(crate) struct Owner(pub(crate) Subscriber);

impl FromRequestParts<Shared> for Owner {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        let secret = bearer(&parts.headers).ok_or(ApiError::Unauthorized { presented: false })?;
        // Malformed, unknown, revoked and expired tokens take the same way to the same answer.
        let hash = hash_secret(secret);
        let found = state.storage.subscriber_by_token(&hash, state.clock.now());
        let subscriber = found.await?;
        subscriber
            .map(Self)
            .ok_or(ApiError::Unauthorized { presented: true })
    }
}

/// The token of `Authorization: Bearer …`; the scheme's case does not matter (RFC 9110 section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_token_counts() {
        for (value, token) in [
            ("Bearer at_1", Some("at_1")),
            ("bearer  at_1 ", Some("at_1")),
            ("Basic at_1", None),
            ("Bearer", None),
            ("Bearer ", None),
            ("at_1", None),
        ] {
            let headers = [(header::AUTHORIZATION, value.parse().unwrap())]
                .into_iter()
                .collect();
            assert_eq!(bearer(&headers), token, "{value}");
        }
    }
}
