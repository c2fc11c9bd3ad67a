//! What changes in the mailbox, as it happens: server-sent events (WHATWG HTML, section 9.2).

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::http::auth::{Credential, Holder};
use crate::http::problem::{Problem, chain};
use crate::http::{ApiError, Shared};
use crate::storage::changes::{Change, ChangeKind, TooManyWatchers, Watcher};
use crate::telemetry;

/// Between two signs of life, at which the credential is looked at again.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A client that lost the stream comes back after this.
const RECONNECT_AFTER: Duration = Duration::from_secs(3);

/// Proxies that buffer answers are told not to buffer this one.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The `data` of an event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageEvent {
    /// Which message.
    #[schema(example = "019aaf3e5c8070008a1b2c3d4e5f6071")]
    id: String,
}

/// Tells what changes in the mailbox, from now on: `message.stored`, `message.updated` (its read mark)
/// and `message.deleted`, whose data is the message's id. Nothing is repeated: after each connection,
/// list the messages. The stream ends with the token or session, when the client is too slow, and when
/// the service stops.
#[utoipa::path(get, path = "/events", tag = "messages", operation_id = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "Taken, and of no effect")),
    responses(
        (status = 200, content_type = "text/event-stream", body = MessageEvent),
        (status = 429, response = Problem),
    ))]
pub(crate) async fn watch(
    State(state): State<Shared>,
    holder: Holder,
) -> Result<Response, ApiError> {
    let watcher = state
        .storage
        .changes()
        .watch(holder.subscriber.id, state.max_event_streams)?;
    let open = Open::new(state, holder.credential, watcher);
    let mut response = Sse::new(open.events()).into_response();
    let headers = response.headers_mut();
    headers.insert(BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

impl From<TooManyWatchers> for ApiError {
    fn from(refused: TooManyWatchers) -> Self {
        match refused {
            TooManyWatchers::InAll => Self::Overloaded,
            TooManyWatchers::OfMailbox => {
                Self::TooMany("Your mailbox is being watched in many places already. Close some.")
            }
        }
    }
}

/// A stream that is open.
struct Open {
    state: Shared,
    credential: Credential,
    watcher: Watcher,
    greeted: bool,
    next_beat: Instant,
}

impl Open {
    fn new(state: Shared, credential: Credential, watcher: Watcher) -> Self {
        metrics::gauge!(telemetry::EVENT_STREAMS).increment(1);
        Self {
            state,
            credential,
            watcher,
            greeted: false,
            next_beat: Instant::now() + HEARTBEAT,
        }
    }

    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut open| async move {
            let event = open.next().await?;
            Some((Ok(event), open))
        })
    }

    /// The next event, or a sign of life; `None` ends the stream.
    async fn next(&mut self) -> Option<Event> {
        if !self.greeted {
            self.greeted = true;
            return Some(Event::default().retry(RECONNECT_AFTER).comment("watching"));
        }
        tokio::select! {
            () = self.state.stop.cancelled() => None,
            change = self.watcher.next() => Some(event_of(change?)),
            () = tokio::time::sleep_until(self.next_beat) => {
                self.next_beat = Instant::now() + HEARTBEAT;
                self.still_counts().await.then(|| Event::default().comment("here"))
            }
        }
    }

    /// Whether the credential has neither ended nor been revoked. A database that does not tell is no
    /// reason to end.
    async fn still_counts(&self) -> bool {
        match self.credential.subscriber(&self.state).await {
            Ok(subscriber) => subscriber.is_some(),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "Could not look at the credential of an event stream"
                );
                true
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!(telemetry::EVENT_STREAMS).decrement(1);
    }
}

fn event_of(change: Change) -> Event {
    let id = change.message.to_string();
    let (name, version) = match change.kind {
        ChangeKind::Stored => ("message.stored", "stored".to_owned()),
        ChangeKind::Updated(version) => ("message.updated", version.to_string()),
        ChangeKind::Deleted => ("message.deleted", "deleted".to_owned()),
    };
    let event = Event::default().event(name).id(format!("{id}-{version}"));
    event
        .json_data(MessageEvent { id })
        .expect("an id is plain JSON")
}
