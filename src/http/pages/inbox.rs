//! The start page: what the service is, or how calls come and what callers left.

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Zoned;
use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::domain::choice::DEFAULT_TIME_ZONE;
use crate::domain::{
    AudioFormat, Caller, Message, MessageId, MissedCall, Secret, Subscriber, Timestamp, choice,
};
use crate::http::Shared;
use crate::http::formats::Format;
use crate::http::page;
use crate::http::pages;
use crate::http::pages::PageError;
use crate::http::pages::assets;
use crate::http::pages::notice::Notice;
use crate::http::pages::texts;
use crate::http::pages::texts::Texts;
use crate::http::registration::Routing;
use crate::http::session::{OwnForm, Session, SignedIn};
use crate::storage::{Changed, MessageFilter, SettingsChange};

/// The zone of a subscriber who has not been asked.
const NO_ZONE: &str = DEFAULT_TIME_ZONE;

/// So many calls without a message are shown, the newest.
const MISSED_CALLS: u32 = 10;

#[derive(Template)]
#[template(path = "welcome.html")]
struct Welcome {
    is_open: bool,
}

#[derive(Template)]
#[template(path = "inbox.html")]
struct Inbox {
    csrf: Secret,
    number: String,
    /// `good`, `wait` or `bad`.
    mood: &'static str,
    headline: &'static str,
    explanation: String,
    offers_sign_in: bool,
    unread: u32,
    unread_words: String,
    rows: Vec<Row>,
    missed: Vec<MissedRow>,
    is_later_page: bool,
    next: Option<String>,
    zone_note: String,
    offers_zone: bool,
}

/// A message of the list.
struct Row {
    id: MessageId,
    is_new: bool,
    name: Option<String>,
    number: Option<String>,
    /// For machines.
    datetime: String,
    moment: String,
    length: String,
    reason: Option<&'static str>,
    lost: Option<String>,
    /// The recording in the formats that a player may choose of, the best first.
    sources: &'static [Format],
}

/// A call that left no message.
struct MissedRow {
    name: Option<String>,
    number: Option<String>,
    /// For machines.
    datetime: String,
    moment: String,
    why: &'static str,
}

impl Row {
    /// The caller in words.
    fn caller(&self) -> &str {
        let known = self.name.as_deref().or(self.number.as_deref());
        known.unwrap_or(Texts::UNKNOWN_CALLER)
    }
}

/// Which part of the list to show.
#[derive(Deserialize)]
pub(crate) struct Part {
    cursor: Option<String>,
}

/// Shows the messages, or to a stranger what this is.
pub(crate) async fn show(
    State(state): State<Shared>,
    SignedIn(session): SignedIn,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Response, PageError> {
    let Some(session) = session else {
        let is_open = state.is_open();
        return Ok(pages::page(StatusCode::OK, &Welcome { is_open }));
    };
    let Query(part) = part.map_err(|_| Notice::NotHere)?;
    let inbox = inbox(&state, &session, part.cursor.as_deref()).await?;
    Ok(pages::page(StatusCode::OK, &inbox))
}

async fn inbox(
    state: &Shared,
    session: &Session,
    cursor: Option<&str>,
) -> Result<Inbox, PageError> {
    let owner = &session.subscriber;
    let page = page::Page::read(None, cursor).map_err(|_| Notice::NotHere)?;
    let filter = MessageFilter {
        unread: None,
        after: page.after,
        limit: page.rows(),
    };
    let mut messages = state.storage.messages(owner.id, filter).await?;
    let next = page.cut(&mut messages, |message| message.facts.id);
    let missed = if page.after.is_none() {
        let newest = state.storage.missed_calls(owner.id, None, MISSED_CALLS);
        newest.await?
    } else {
        Vec::new()
    };
    let counts = state.storage.counts(owner.id).await?;
    let registration = state.storage.registration(owner.id).await?;
    let now = state.clock.now();
    let zone = Zone::of(owner, now);
    let routing = Routing::at(now, registration.as_ref());
    let (headline, explanation) = texts::routing(&routing, |at| zone.moment(at));
    Ok(Inbox {
        csrf: session.form_token(),
        number: owner.number.e164().to_owned(),
        mood: mood(&routing),
        headline,
        explanation,
        offers_sign_in: state.is_open()
            && matches!(routing, Routing::Refused { .. } | Routing::ConsentLost),
        unread: counts.unread,
        unread_words: texts::unread(counts.unread),
        rows: messages.iter().map(|message| zone.row(message)).collect(),
        missed: missed.iter().map(|call| zone.missed_row(call)).collect(),
        is_later_page: page.after.is_some(),
        next,
        zone_note: texts::zone_note(&owner.time_zone),
        offers_zone: owner.time_zone == NO_ZONE,
    })
}

fn mood(routing: &Routing) -> &'static str {
    match routing {
        Routing::Provisioned | Routing::Active(_) | Routing::Refreshing(_) => "good",
        Routing::BeingSetUp | Routing::Unreachable { .. } => "wait",
        Routing::Refused { .. } | Routing::ConsentLost => "bad",
    }
}

/// The subscriber's time.
struct Zone {
    zone: TimeZone,
    now: Zoned,
}

impl Zone {
    fn of(owner: &Subscriber, now: Timestamp) -> Self {
        let zone = TimeZone::get(&owner.time_zone).unwrap_or(TimeZone::UTC);
        let now = in_zone(now, zone.clone());
        Self { zone, now }
    }

    fn moment(&self, at: Timestamp) -> String {
        texts::moment(&in_zone(at, self.zone.clone()), self.now.date())
    }

    fn row(&self, message: &Message) -> Row {
        let facts = &message.facts;
        let (name, number) = who(&facts.caller);
        Row {
            id: facts.id,
            is_new: !message.read,
            name,
            number,
            datetime: facts.received_at.to_string(),
            moment: self.moment(facts.received_at),
            length: texts::duration(facts.audio.duration_ms()),
            reason: texts::reason(facts.reason),
            lost: texts::lost(facts.audio.losses.lost_ms),
            sources: sources(facts.audio.format),
        }
    }

    fn missed_row(&self, call: &MissedCall) -> MissedRow {
        let (name, number) = who(&call.caller);
        MissedRow {
            name,
            number,
            datetime: call.received_at.to_string(),
            moment: self.moment(call.received_at),
            why: texts::missed(&call.cause, call.failed_stage),
        }
    }
}

/// Name and number, as far as they are known.
fn who(caller: &Caller) -> (Option<String>, Option<String>) {
    let number = caller.number.as_ref().map(|n| n.e164().to_owned());
    let name = caller.name.as_ref().map(|name| name.0.trim());
    let name = name.filter(|name| !name.is_empty()).map(str::to_owned);
    (name, number)
}

/// Every browser plays WAV. Opus in Ogg is a tenth of the size, and better where nothing has to be made
/// for it; browsers that do not play it (Safari before 18.4) go on to the next.
const fn sources(stored: AudioFormat) -> &'static [Format] {
    match stored {
        AudioFormat::OggOpus => &[Format::Ogg, Format::Wav],
        AudioFormat::WavPcm | AudioFormat::WavPcmu | AudioFormat::WavPcma => &[Format::Wav],
    }
}

fn in_zone(at: Timestamp, zone: TimeZone) -> Zoned {
    jiff::Timestamp::from_millisecond(at.as_millis())
        .unwrap_or_default()
        .to_zoned(zone)
}

/// Marks a message as heard.
pub(crate) async fn mark_read(
    State(state): State<Shared>,
    Path(id): Path<String>,
    form: OwnForm,
) -> Result<Response, PageError> {
    mark(&state, &form.session, &id, true).await
}

/// Marks a message as new again.
pub(crate) async fn mark_unread(
    State(state): State<Shared>,
    Path(id): Path<String>,
    form: OwnForm,
) -> Result<Response, PageError> {
    mark(&state, &form.session, &id, false).await
}

async fn mark(
    state: &Shared,
    session: &Session,
    id: &str,
    read: bool,
) -> Result<Response, PageError> {
    let id: MessageId = id.parse().map_err(|_| Notice::Gone)?;
    let owner = session.subscriber.id;
    match state.storage.mark_read(owner, id, read, None).await? {
        Changed::Done(_) => Ok(pages::see_other(&format!("/#m-{id}"))),
        Changed::NotFound | Changed::Conflict => Err(Notice::Gone.into()),
    }
}

/// Deletes a message.
pub(crate) async fn delete(
    State(state): State<Shared>,
    Path(id): Path<String>,
    form: OwnForm,
) -> Result<Response, PageError> {
    let id = id.parse().map_err(|_| Notice::Gone)?;
    let owner = form.session.subscriber.id;
    let now = state.clock.now();
    if state.storage.delete_message(owner, id, now).await? {
        Ok(pages::see_other("/"))
    } else {
        Err(Notice::Gone.into())
    }
}

/// Sets the time zone in which times are shown.
pub(crate) async fn set_time_zone(
    State(state): State<Shared>,
    form: OwnForm,
) -> Result<Response, PageError> {
    let zone = form.fields.time_zone.as_deref().unwrap_or_default();
    let change = SettingsChange {
        time_zone: Some(choice::time_zone(zone).map_err(|_| Notice::BadForm)?),
        ..SettingsChange::default()
    };
    let owner = form.session.subscriber.id;
    state.storage.change_settings(owner, &change).await?;
    Ok(pages::see_other("/"))
}
