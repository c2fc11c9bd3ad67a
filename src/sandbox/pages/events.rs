//! `GET /sandbox/events`: says that something has changed, at most a few times a second.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream;
use futures_util::stream::Stream;

use crate::sandbox::pages::Shared;

/// The shortest time between two events.
const PAUSE: Duration = Duration::from_millis(300);
/// A stream ends after this; a browser opens a new one by itself.
const LIFE: Duration = Duration::from_secs(600);

pub(crate) async fn stream(
    State(pages): Shared,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = pages.world().changes.subscribe();
    let end = tokio::time::Instant::now() + LIFE;
    let stop = pages.stop.clone();
    let events = stream::unfold((changes, true), move |(mut changes, is_first)| {
        let stop = stop.clone();
        async move {
            if !is_first {
                tokio::time::sleep(PAUSE).await;
            }
            let changed = tokio::time::timeout_at(end, changes.changed());
            let changed = stop.run_until_cancelled(changed).await;
            match changed {
                Some(Ok(Ok(()))) => Some((Ok(Event::default().data("changed")), (changes, false))),
                _ => None,
            }
        }
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}
