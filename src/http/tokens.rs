//! API tokens: made, listed and revoked by their holder.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::choice;
use crate::domain::{ApiToken, TokenId};
use crate::http;
use crate::http::auth::Owner;
use crate::http::problem::Problem;
use crate::http::{ApiError, Shared};
use crate::secret;
use crate::storage::NewToken;

/// More would be forgotten, and forgotten tokens are never revoked.
const MAX_TOKENS: usize = 50;

const MAX_DAYS: u32 = 3650;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A token, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Token)]
pub(crate) struct TokenBody {
    /// For revoking it.
    #[schema(example = "019aaf3e5c8070008a1b2c3d4e5f6071")]
    id: String,
    /// What its holder calls it.
    #[schema(example = "CRM import")]
    name: String,
    /// When it was made.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it ends; null: never.
    #[schema(required, format = DateTime)]
    expires_at: Option<String>,
    /// When it was last used, to the hour.
    #[schema(required, format = DateTime)]
    last_used_at: Option<String>,
}

impl From<ApiToken> for TokenBody {
    fn from(token: ApiToken) -> Self {
        Self {
            id: token.id.to_string(),
            name: token.name,
            created_at: token.created_at.to_string(),
            expires_at: token.expires_at.map(|at| at.to_string()),
            last_used_at: token.last_used_at.map(|at| at.to_string()),
        }
    }
}

/// The tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenList {
    /// Oldest first.
    tokens: Vec<TokenBody>,
}

/// A token just made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MadeToken {
    /// The secret, for `Authorization: Bearer …`. It is shown here and never again.
    #[schema(example = "at_5f0c…")]
    token: String,
    #[serde(flatten)]
    about: TokenBody,
}

/// A token to be made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenWish {
    /// What to call it.
    #[serde(default)]
    #[schema(max_length = 100)]
    name: String,
    /// How long it lasts; forever unless told.
    #[schema(minimum = 1, maximum = 3650)]
    expires_in_days: Option<u32>,
}

/// Lists the tokens.
#[utoipa::path(get, path = "/tokens", tag = "tokens", operation_id = "list_tokens",
    responses((status = 200, body = TokenList)))]
pub(crate) async fn list(
    State(state): State<Shared>,
    Owner(owner): Owner,
) -> Result<Json<TokenList>, ApiError> {
    let tokens = state.storage.tokens(owner.id).await?;
    let tokens = tokens.into_iter().map(TokenBody::from).collect();
    Ok(Json(TokenList { tokens }))
}

/// Makes a token. Its secret is in this answer only.
#[utoipa::path(post, path = "/tokens", tag = "tokens", operation_id = "create_token",
    request_body(content = TokenWish, example = json!({"name": "CRM import", "expires_in_days": 365})),
    responses(
        (status = 201, body = MadeToken),
        (status = 400, response = Problem), (status = 409, response = Problem),
        (status = 415, response = Problem), (status = 422, response = Problem),
    ))]
pub(crate) async fn create(
    State(state): State<Shared>,
    Owner(owner): Owner,
    http::Json(wish): http::Json<TokenWish>,
) -> Result<(StatusCode, Json<MadeToken>), ApiError> {
    wish.check()?;
    if state.storage.tokens(owner.id).await?.len() >= MAX_TOKENS {
        return Err(ApiError::Conflict(
            "There are 50 tokens already. Revoke one that is not in use.",
        ));
    }
    let now = state.clock.now();
    let secret = secret::new_secret(state.random.bytes());
    let days = wish.expires_in_days.map(i64::from);
    let token = NewToken {
        id: TokenId::new(now, state.random.bytes()),
        subscriber: owner.id,
        name: wish.name,
        hash: secret::hash_secret(&secret),
        created_at: now,
        expires_at: days.map(|days| now.plus_millis(days * DAY_MS)),
    };
    state.storage.add_token(&token).await?;
    let about = TokenBody::from(ApiToken {
        id: token.id,
        subscriber: token.subscriber,
        name: token.name,
        created_at: token.created_at,
        expires_at: token.expires_at,
        last_used_at: None,
    });
    Ok((
        StatusCode::CREATED,
        Json(MadeToken {
            token: secret,
            about,
        }),
    ))
}

impl TokenWish {
    fn check(&self) -> Result<(), ApiError> {
        choice::name(&self.name)
            .map_err(|error| ApiError::Unprocessable(format!("`name` {error}.")))?;
        if self
            .expires_in_days
            .is_some_and(|days| !(1..=MAX_DAYS).contains(&days))
        {
            return Err(ApiError::Unprocessable(
                "`expires_in_days` must be from 1 to 3650.".into(),
            ));
        }
        Ok(())
    }
}

/// Revokes a token, at once. It may be the one in use.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "tokens", operation_id = "revoke_token",
    params(("id" = String, Path)), responses(
    (status = 204, description = "It counts no more"),
    (status = 404, response = Problem),
))]
pub(crate) async fn revoke(
    State(state): State<Shared>,
    Owner(owner): Owner,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    const GONE: ApiError = ApiError::NotFound("token of yours");
    let id = id.parse().map_err(|_| GONE)?;
    if state.storage.revoke_token(id, Some(owner.id)).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(GONE)
    }
}
