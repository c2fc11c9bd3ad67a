//! The subscriber as himself.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain;
use crate::domain::{DepartureCause, SubscriberId, Timestamp};
use crate::enrolment::Left;
use crate::http;
use crate::http::auth::Owner;
use crate::http::openapi;
use crate::http::registration::Routing;
use crate::http::{ApiError, Shared};
use crate::storage::StorageError;

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
    /// `provisioned`: the operator routes diverted calls here by himself. `active`: his network does,
    /// until `until`, and is asked to go on before. `refreshing`: it is being asked, and does not
    /// answer yet. `refused`: it does not want to. `consent-lost`: the subscriber has to sign in again.
    #[schema(schema_with = openapi::registration_state)]
    state: &'static str,
    /// When what the network last confirmed ends, or ended; null where it never did.
    #[schema(required, format = DateTime, example = "2026-11-23T04:04:53.120Z")]
    until: Option<String>,
    /// Why the network did not confirm it the last time.
    #[schema(required)]
    reason: Option<String>,
}

impl Registration {
    fn at(now: Timestamp, registration: Option<domain::Registration>) -> Self {
        let state = Routing::at(now, registration.as_ref()).as_str();
        let is_well = state == "active";
        Self {
            state,
            until: registration
                .as_ref()
                .and_then(|registration| registration.expires_at)
                .map(|until| until.to_string()),
            reason: registration
                .and_then(|registration| registration.reason)
                .filter(|_| !is_well),
        }
    }
}

/// Shows the subscriber.
#[utoipa::path(get, path = "/me", tag = "account", operation_id = "show_me",
    responses((status = 200, body = Me)))]
pub(crate) async fn show(
    State(state): State<Shared>,
    Owner(owner): Owner,
) -> Result<Json<Me>, ApiError> {
    let now = state.clock.now();
    let counts = state.storage.counts(owner.id).await?;
    let registration = state.storage.registration(owner.id).await?;
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
        registration: Registration::at(now, registration),
    }))
}

/// Leaves: calls come here no more, sessions and tokens end, and messages, recordings, greeting and the
/// subscriber are erased, at once or after the service's time of grace. It cannot be undone.
#[utoipa::path(delete, path = "/me", tag = "account", operation_id = "leave",
    responses((status = 204, description = "The subscriber has left")))]
pub(crate) async fn leave(
    State(state): State<Shared>,
    Owner(owner): Owner,
) -> Result<StatusCode, ApiError> {
    depart(&state, owner.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets a subscriber go by his own wish.
pub(crate) async fn depart(
    state: &http::State,
    subscriber: SubscriberId,
) -> Result<Left, StorageError> {
    if let Some(enrolment) = &state.enrolment {
        let left = enrolment.leave(subscriber, DepartureCause::Subscriber);
        return left.await;
    }
    let now = state.clock.now();
    if state.storage.remove_subscriber(subscriber, now).await? {
        tracing::info!(%subscriber, "A subscriber left and was erased");
    }
    Ok(Left {
        revoke_consent_at: None,
    })
}
