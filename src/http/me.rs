//! The subscriber as himself.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::auth::Owner;
use crate::http::{ApiError, Shared};

/// Who the token's holder is, and what lies in the box.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Me {
    /// The number, in E.164.
    #[schema(example = "+4790000001")]
    number: String,
    /// The name, where one is known.
    #[schema(required)]
    name: Option<String>,
    /// IANA time zone.
    #[schema(example = "Europe/Oslo")]
    time_zone: String,
    /// IETF language tag of prompts and pages.
    #[schema(example = "nb")]
    language: String,
    /// Messages in the box.
    messages: MessageCounts,
    /// How calls to the number come to the mailbox.
    registration: Registration,
}

/// Messages in the box.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageCounts {
    /// All of them.
    #[schema(example = 12)]
    total: u32,
    /// Those not yet listened to.
    #[schema(example = 3)]
    unread: u32,
    /// The size of their recordings.
    #[schema(example = 1425168)]
    size_bytes: u64,
}

/// How calls to the number come to the mailbox.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Registration {
    /// `provisioned`: the operator added the number and routes its diverted calls here.
    #[schema(example = "provisioned")]
    state: &'static str,
}

/// Shows the subscriber.
#[utoipa::path(get, path = "/me", tag = "account", operation_id = "show_me",
    responses((status = 200, body = Me)))]
pub(crate) async fn show(
    State(state): State<Shared>,
    Owner(owner): Owner,
) -> Result<Json<Me>, ApiError> {
    let counts = state.storage.counts(owner.id).await?;
    Ok(Json(Me {
        number: owner.number.e164().to_owned(),
        name: owner.name.map(|name| name.0),
        time_zone: owner.time_zone,
        language: owner.language,
        messages: MessageCounts {
            total: counts.messages,
            unread: counts.unread,
            size_bytes: counts.bytes,
        },
        registration: Registration {
            state: "provisioned",
        },
    }))
}

/// Leaves: erases messages, recordings, greeting, tokens and the subscriber. It cannot be undone.
#[utoipa::path(delete, path = "/me", tag = "account", operation_id = "leave",
    responses((status = 204, description = "Everything is gone")))]
pub(crate) async fn leave(
    State(state): State<Shared>,
    Owner(owner): Owner,
) -> Result<StatusCode, ApiError> {
    let removed = state.storage.remove_subscriber(owner.id, state.clock.now());
    if removed.await? {
        tracing::info!(subscriber = %owner.id, "A subscriber left and was erased");
    }
    Ok(StatusCode::NO_CONTENT)
}
