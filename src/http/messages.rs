//! Messages: listing, reading, marking and deleting them, and their audio.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::{Message, MessageId, Msisdn, Subscriber};
use crate::http;
use crate::http::audio::{Audio, Source};
use crate::http::auth::Owner;
use crate::http::conditional;
use crate::http::openapi;
use crate::http::page::{Page, given};
use crate::http::problem::Problem;
use crate::http::{ApiError, Shared};
use crate::secret;
use crate::storage::blob::Blobs;
use crate::storage::{Changed, MessageFilter};

/// A message in the box.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Message)]
pub(crate) struct MessageBody {
    /// Never changes.
    #[schema(example = "019aaf3e5c8070008a1b2c3d4e5f6071")]
    id: String,
    /// The caller's number in E.164; null where it is withheld or not known.
    #[schema(required, example = "+4721000000")]
    from: Option<String>,
    /// The caller's name, where one was sent.
    #[schema(required)]
    from_name: Option<String>,
    /// The number that was called.
    #[schema(example = "+4790000001")]
    to: String,
    /// Why the call came to the mailbox.
    #[schema(schema_with = openapi::divert_reason)]
    reason: &'static str,
    /// When the recording began.
    #[schema(format = DateTime, example = "2026-11-23T03:04:53.120Z")]
    received_at: String,
    /// Length of the recording.
    #[schema(example = 7420)]
    duration_ms: u32,
    /// Size of the recording.
    #[schema(example = 118764)]
    size_bytes: u64,
    /// Whether it was listened to.
    read: bool,
    /// What ended the recording.
    #[schema(schema_with = openapi::recording_end)]
    ended_by: &'static str,
    /// Where the recording is.
    #[schema(
        example = "https://voicemail.example.com/api/v1/messages/019aaf3e5c8070008a1b2c3d4e5f6071/audio"
    )]
    audio_url: String,
}

impl MessageBody {
    fn new(state: &http::State, message: &Message) -> Self {
        let facts = &message.facts;
        Self {
            id: facts.id.to_string(),
            from: facts.caller.number.as_ref().map(|n| n.e164().to_owned()),
            from_name: facts.caller.name.as_ref().map(|name| name.0.clone()),
            to: facts.to.e164().to_owned(),
            reason: facts.reason.as_str(),
            received_at: facts.received_at.to_string(),
            duration_ms: facts.duration_ms,
            size_bytes: facts.size_bytes,
            read: message.read,
            ended_by: facts.ended_by.as_str(),
            audio_url: state.link(&format!("/messages/{}/audio", facts.id)),
        }
    }
}

/// A page of messages.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageList {
    /// Newest first.
    messages: Vec<MessageBody>,
    /// The `cursor` of the next page; null on the last.
    #[schema(required)]
    next: Option<String>,
}

/// What of a message to change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessageChange {
    /// Whether it was listened to.
    read: bool,
}

/// Which messages to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MessageQuery {
    /// At most so many, 1 to 200; 50 unless told.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: Option<String>,
    /// The `next` of the page before.
    cursor: Option<String>,
    /// Only unread (true) or only read (false) messages.
    #[param(value_type = Option<bool>)]
    unread: Option<String>,
}

/// Lists the messages, newest first.
#[utoipa::path(get, path = "/messages", tag = "messages", operation_id = "list_messages",
    params(MessageQuery), responses(
    (status = 200, body = MessageList, headers(("Link" = String, description = "The next page, as rel=\"next\""))),
    (status = 400, response = Problem),
))]
pub(crate) async fn list(
    State(state): State<Shared>,
    Owner(owner): Owner,
    query: Result<Query<MessageQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let page = Page::read(query.limit.as_deref(), query.cursor.as_deref())?;
    let unread = unread_filter(query.unread.as_deref())?;
    let filter = MessageFilter {
        unread,
        after: page.after,
        limit: page.rows(),
    };
    let mut messages = state.storage.messages(owner.id, filter).await?;
    let next = page.cut(&mut messages, |message| message.facts.id);
    let messages = messages
        .iter()
        .map(|m| MessageBody::new(&state, m))
        .collect();
    let body = MessageList {
        messages,
        next: next.clone(),
    };
    let unread = unread.map(|u| format!("&unread={u}")).unwrap_or_default();
    Ok(page.respond(body, next.as_deref(), &state.link("/messages"), &unread))
}

fn unread_filter(parameter: Option<&str>) -> Result<Option<bool>, ApiError> {
    match given(parameter) {
        None => Ok(None),
        Some("true" | "1") => Ok(Some(true)),
        Some("false" | "0") => Ok(Some(false)),
        Some(_) => Err(ApiError::BadRequest(
            "`unread` must be true or false.".into(),
        )),
    }
}

/// Shows one message.
#[utoipa::path(get, path = "/messages/{id}", tag = "messages", operation_id = "show_message",
    params(("id" = String, Path)), responses(
    (status = 200, body = MessageBody, headers(("ETag" = String, description = "For If-Match and If-None-Match"))),
    (status = 304, description = "Not changed since the entity tag in If-None-Match"),
    (status = 404, response = Problem),
))]
pub(crate) async fn show(
    State(state): State<Shared>,
    Owner(owner): Owner,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let message = find(&state, &owner, &id).await?;
    let etag = version_tag(message.version);
    if conditional::if_none_match_hits(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    Ok(shown(&state, &message))
}

/// Marks a message as read or unread.
#[utoipa::path(patch, path = "/messages/{id}", tag = "messages", operation_id = "change_message",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "Only if the message still has this entity tag")),
    request_body(content = MessageChange, example = json!({"read": true})),
    responses(
        (status = 200, body = MessageBody, headers(("ETag" = String))),
        (status = 400, response = Problem), (status = 404, response = Problem),
        (status = 412, response = Problem), (status = 415, response = Problem),
    ))]
pub(crate) async fn change(
    State(state): State<Shared>,
    Owner(owner): Owner,
    Path(id): Path<String>,
    headers: HeaderMap,
    http::Json(change): http::Json<MessageChange>,
) -> Result<Response, ApiError> {
    let id = message_id(&id)?;
    let mut if_version = None;
    if headers.contains_key(header::IF_MATCH) {
        let message = state.storage.message(owner.id, id).await?.ok_or(GONE)?;
        if !conditional::if_match_holds(&headers, &version_tag(message.version)) {
            return Err(ApiError::PreconditionFailed);
        }
        if_version = Some(message.version);
    }
    let marked = state
        .storage
        .mark_read(owner.id, id, change.read, if_version);
    match marked.await? {
        Changed::Done(message) => Ok(shown(&state, &message)),
        Changed::NotFound => Err(GONE),
        Changed::Conflict => Err(ApiError::PreconditionFailed),
    }
}

/// Deletes a message and its recording.
#[utoipa::path(delete, path = "/messages/{id}", tag = "messages", operation_id = "delete_message",
    params(("id" = String, Path)), responses(
    (status = 204, description = "It is gone"),
    (status = 404, response = Problem),
))]
pub(crate) async fn delete(
    State(state): State<Shared>,
    Owner(owner): Owner,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id = message_id(&id)?;
    let deleted = state
        .storage
        .delete_message(owner.id, id, state.clock.now());
    if deleted.await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(GONE)
    }
}

/// Which format of a recording is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AudioQuery {
    /// `wav`; comes before `Accept`.
    #[param(example = "wav")]
    format: Option<String>,
}

/// The recording, whole or in part.
#[utoipa::path(method(get, head), path = "/messages/{id}/audio", tag = "messages", operation_id = "message_audio",
    params(("id" = String, Path), AudioQuery,
        ("Range" = Option<String>, Header, description = "One range of bytes (RFC 9110 section 14); several are answered whole"),
        ("If-Range" = Option<String>, Header), ("If-None-Match" = Option<String>, Header), ("If-Modified-Since" = Option<String>, Header)),
    responses(
        (status = 200, content_type = "audio/wav", body = openapi::Audio, headers(("ETag" = String), ("Last-Modified" = String), ("Accept-Ranges" = String))),
        (status = 206, content_type = "audio/wav", body = openapi::Audio, headers(("Content-Range" = String))),
        (status = 304, description = "The client has it already"),
        (status = 400, response = Problem), (status = 404, response = Problem), (status = 406, response = Problem),
        (status = 412, response = Problem), (status = 416, response = Problem),
    ))]
pub(crate) async fn audio(
    State(state): State<Shared>,
    Owner(owner): Owner,
    Path(id): Path<String>,
    query: Result<Query<AudioQuery>, QueryRejection>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let message = find(&state, &owner, &id).await?;
    let facts = &message.facts;
    let format = given(query.format.as_deref());
    let audio = Audio {
        source: Source::Blob(Blobs::recording_key(facts.id)),
        validators: conditional::Validators {
            etag: format!("\"{}\"", secret::hex(&facts.sha256)),
            modified: Some(facts.received_at.plus_millis(facts.duration_ms.into())),
        },
        file_name: file_name(&owner, &message),
    };
    audio.respond(&state.blobs, format, &method, &headers).await
}

/// One answer for what never was, what is gone, and what is somebody else's.
const GONE: ApiError = ApiError::NotFound("message in this mailbox");

fn message_id(text: &str) -> Result<MessageId, ApiError> {
    text.parse().map_err(|_| GONE)
}

async fn find(state: &http::State, owner: &Subscriber, id: &str) -> Result<Message, ApiError> {
    let found = state.storage.message(owner.id, message_id(id)?);
    found.await?.ok_or(GONE)
}

fn version_tag(version: i64) -> String {
    format!("\"v{version}\"")
}

fn shown(state: &http::State, message: &Message) -> Response {
    let body = Json(MessageBody::new(state, message));
    let mut response = body.into_response();
    if let Ok(etag) = HeaderValue::from_str(&version_tag(message.version)) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

/// `voicemail-2026-11-23-0404-4721000000.wav`, in the subscriber's own time.
fn file_name(owner: &Subscriber, message: &Message) -> String {
    let facts = &message.facts;
    let zone = TimeZone::get(&owner.time_zone).unwrap_or(TimeZone::UTC);
    let at = jiff::Timestamp::from_millisecond(facts.received_at.as_millis()).unwrap_or_default();
    let at = at.to_zoned(zone).strftime("%Y-%m-%d-%H%M");
    let caller = facts.caller.number.as_ref().map_or("unknown", Msisdn::e164);
    format!("voicemail-{at}-{}.wav", caller.trim_start_matches('+'))
}
