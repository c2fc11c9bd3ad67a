//! Who asks: the subscriber whose API token (RFC 6750) or web session the request bears.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use crate::domain::Subscriber;
use crate::http::session::Session;
use crate::http::{ApiError, Shared};
use crate::storage::StorageError;

pub use crate::secret::hash_secret;
pub use crate::secret::new_secret;

/// The subscriber who asks. A handler that takes one runs for holders of a valid token or session
/// only, and every storage call it makes is bound to this subscriber.
pub(crate) struct Owner(pub(crate) Subscriber);

/// The subscriber who asks, with what proves it.
pub(crate) struct Holder {
    /// Who asks.
    pub(crate) subscriber: Subscriber,
    /// What proves it.
    pub(crate) credential: Credential,
}

/// What proves who asks, as the database knows it.
#[derive(Clone, Copy)]
pub(crate) enum Credential {
    /// The hash of an API token.
    Token([u8; 32]),
    /// The hash of a session's secret.
    Session([u8; 32]),
}

impl Credential {
    /// Whose it is now.
    pub(crate) async fn subscriber(
        self,
        state: &Shared,
    ) -> Result<Option<Subscriber>, StorageError> {
        let now = state.clock.now();
        match self {
            Self::Token(hash) => state.storage.subscriber_by_token(&hash, now).await,
            Self::Session(hash) => state.storage.subscriber_by_session(&hash, now).await,
        }
    }
}

impl FromRequestParts<Shared> for Owner {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        let holder = Holder::from_request_parts(parts, state).await?;
        Ok(Self(holder.subscriber))
    }
}

impl FromRequestParts<Shared> for Holder {
    type Rejection = ApiError;

    /// A token counts before the cookie that a browser may add.
    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        if parts.headers.contains_key(header::AUTHORIZATION) {
            return by_token(&parts.headers, state).await;
        }
        let session = Session::of(&parts.headers, state).await?;
        let session = session.ok_or(ApiError::Unauthorized { presented: false })?;
        if !parts.method.is_safe() && !session.vouches_for(&parts.headers, state) {
            return Err(ApiError::Foreign);
        }
        Ok(Self {
            credential: Credential::Session(session.hash()),
            subscriber: session.subscriber,
        })
    }
}

async fn by_token(headers: &HeaderMap, state: &Shared) -> Result<Holder, ApiError> {
    let secret = bearer(headers).ok_or(ApiError::Unauthorized { presented: false })?;
    // Malformed, unknown, revoked and expired tokens take the same way to the same answer.
    let credential = Credential::Token(hash_secret(secret));
    let subscriber = credential.subscriber(state).await?;
    let subscriber = subscriber.ok_or(ApiError::Unauthorized { presented: true })?;
    Ok(Holder {
        subscriber,
        credential,
    })
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
