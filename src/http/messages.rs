//! Messages: listing, reading, marking and deleting them.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::{Gap, Message, MessageId, SetupTimes, Subscriber};
use crate::http;
use crate::http::auth::Owner;
use crate::http::conditional;
use crate::http::formats::Format;
use crate::http::openapi;
use crate::http::page::{Page, given};
use crate::http::problem::Problem;
use crate::http::recording;
use crate::http::{ApiError, Shared};
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
    /// Size of the recording as WAV, which is what a client gets that asks for no format.
    #[schema(example = 118764)]
    size_bytes: u64,
    /// What the caller's phone sent: `opus`, `G722`, `PCMA` or `PCMU`; several with commas; null where
    /// that was not noted.
    #[schema(required, example = "opus")]
    codec: Option<String>,
    /// Media types in which the recording can be had; the first as it lies in the store.
    #[schema(example = json!(["audio/ogg; codecs=opus", "audio/wav"]))]
    formats: [&'static str; 2],
    /// How much of what the caller said never arrived.
    #[schema(example = 60)]
    lost_ms: u32,
    /// Where that is; at most 200 places, the first.
    gaps: Vec<GapBody>,
    /// How the call came about.
    setup: SetupBody,
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

/// A piece of a recording that never arrived.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Gap)]
pub(crate) struct GapBody {
    /// Where it begins, from the beginning of the recording.
    #[schema(example = 2340)]
    at_ms: u32,
    /// How long it is.
    #[schema(example = 60)]
    duration_ms: u32,
}

impl From<Gap> for GapBody {
    fn from(Gap { at_ms, duration_ms }: Gap) -> Self {
        Self { at_ms, duration_ms }
    }
}

/// When the stages of a call were reached, in milliseconds from its INVITE; null: not reached, not part
/// of this call, or not noted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Setup)]
pub(crate) struct SetupBody {
    /// The call was answered.
    #[schema(required, example = 4)]
    answered_ms: Option<u32>,
    /// ICE found a way to the caller.
    #[schema(required, example = 31)]
    ice_ms: Option<u32>,
    /// The keys of the media were agreed on (DTLS).
    #[schema(required, example = 58)]
    dtls_ms: Option<u32>,
    /// The caller's first media packet arrived.
    #[schema(required, example = 71)]
    first_rtp_in_ms: Option<u32>,
    /// Our first media packet was sent.
    #[schema(required, example = 60)]
    first_rtp_out_ms: Option<u32>,
}

impl From<SetupTimes> for SetupBody {
    fn from(times: SetupTimes) -> Self {
        let SetupTimes {
            answered_ms,
            ice_ms,
            dtls_ms,
            first_rtp_in_ms,
            first_rtp_out_ms,
        } = times;
        Self {
            answered_ms,
            ice_ms,
            dtls_ms,
            first_rtp_in_ms,
            first_rtp_out_ms,
        }
    }
}

impl MessageBody {
    fn new(state: &http::State, message: &Message) -> Self {
        let facts = &message.facts;
        let audio = &facts.audio;
        let gaps = audio.losses.gaps.iter().copied();
        Self {
            id: facts.id.to_string(),
            from: facts.caller.number.as_ref().map(|n| n.e164().to_owned()),
            from_name: facts.caller.name.as_ref().map(|name| name.0.clone()),
            to: facts.to.e164().to_owned(),
            reason: facts.reason.as_str(),
            received_at: facts.received_at.to_string(),
            duration_ms: audio.duration_ms(),
            size_bytes: audio.wav_bytes(),
            codec: audio.codec.clone(),
            formats: recording::formats(audio.format).map(Format::media_type),
            lost_ms: audio.losses.lost_ms,
            gaps: gaps.map(GapBody::from).collect(),
            setup: facts.setup.into(),
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

/// One answer for what never was, what is gone, and what is somebody else's.
const GONE: ApiError = ApiError::NotFound("message in this mailbox");

fn message_id(text: &str) -> Result<MessageId, ApiError> {
    text.parse().map_err(|_| GONE)
}

/// The message of that id in the box of `owner`.
pub(crate) async fn find(
    state: &http::State,
    owner: &Subscriber,
    id: &str,
) -> Result<Message, ApiError> {
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
