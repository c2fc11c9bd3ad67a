//! The control API: the sandbox as JSON, for scripts. What it offers stands in `docs/sandbox.md`.
//!
//! A POST must be `application/json`, which a page of another site cannot send without asking.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, extract};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::domain::{Msisdn, Timestamp};
use crate::media::sdp::OfferKeying;
use crate::sandbox::config::Behaviour;
use crate::sandbox::pages::{Pages, Shared, number_in, view};
use crate::sandbox::phones::{PlaceError, Say, Wanted};
use crate::sandbox::world::{Call, Mode, Number, World};

/// Its routes.
pub(crate) fn routes() -> Router<Arc<Pages>> {
    Router::new()
        .route("/sandbox/numbers", get(numbers))
        .route("/sandbox/numbers/{number}", get(number).post(set_number))
        .route("/sandbox/sms/{number}", get(sms))
        .route("/sandbox/registrations", get(registrations))
        .route("/sandbox/consents", get(consents))
        .route("/sandbox/calls", get(calls).post(place_call))
        .route("/sandbox/calls/{id}", get(call))
        .route("/sandbox/calls/{id}/heard.wav", get(heard))
        .route("/sandbox/modes", get(modes).post(set_mode))
        .route("/sandbox/rotate-keys", post(rotate_keys))
        .route("/sandbox/revoke-consent", post(revoke_consent))
}

/// Why a request is refused.
pub(crate) enum ControlError {
    NoSuchNumber,
    NoSuchCall,
    NothingHeard,
    TooManyCalls(PlaceError),
    Malformed(String),
    Failed(&'static str),
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Self::NoSuchNumber => (StatusCode::NOT_FOUND, "there is no such number".to_owned()),
            Self::NoSuchCall => (StatusCode::NOT_FOUND, "no such call is remembered".into()),
            Self::NothingHeard => {
                let why = "nothing was heard in this call, or it is not over, or long ago";
                (StatusCode::NOT_FOUND, why.into())
            }
            Self::TooManyCalls(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            Self::Malformed(why) => (StatusCode::BAD_REQUEST, why),
            Self::Failed(what) => (StatusCode::INTERNAL_SERVER_ERROR, what.into()),
        };
        (status, Json(json!({ "error": error }))).into_response()
    }
}

impl From<JsonRejection> for ControlError {
    fn from(rejection: JsonRejection) -> Self {
        Self::Malformed(rejection.body_text())
    }
}

/// What a handler answers.
pub(crate) type Answer = Result<Json<Value>, ControlError>;

/// A body that is JSON.
pub(crate) type Body<T> = Result<extract::Json<T>, JsonRejection>;

async fn numbers(State(pages): Shared) -> Json<Value> {
    let world = pages.world();
    let now = world.now();
    let all = world.numbers.all();
    let all: Vec<_> = all.iter().map(|one| number_json(world, one, now)).collect();
    Json(json!({ "numbers": all }))
}

async fn number(State(pages): Shared, Path(number): Path<String>) -> Answer {
    let world = pages.world();
    let number = existing(world, &number)?;
    Ok(Json(number_json(world, &number, world.now())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetNumber {
    behaviour: Behaviour,
}

async fn set_number(
    State(pages): Shared,
    Path(path): Path<String>,
    body: Body<SetNumber>,
) -> Answer {
    let extract::Json(set) = body?;
    let world = pages.world();
    let number = existing(world, &path)?.number;
    world.numbers.set_behaviour(&number, set.behaviour);
    Ok(Json(number_json(
        world,
        &existing(world, &path)?,
        world.now(),
    )))
}

async fn sms(State(pages): Shared, Path(number): Path<String>) -> Answer {
    let world = pages.world();
    let number = existing(world, &number)?.number;
    let messages = world.sms.of(&number).into_iter();
    let messages = messages.map(|sms| {
        json!({
            "at": sms.at.to_string(),
            "from": sms.from,
            "text": sms.text,
        })
    });
    Ok(Json(json!({ "messages": messages.collect::<Vec<_>>() })))
}

async fn registrations(State(pages): Shared) -> Json<Value> {
    let world = pages.world();
    let now = world.now();
    let all = world.numbers.all().into_iter().flat_map(|one| {
        let of_one = world.registrations.of(&one.number, now).into_iter();
        of_one.map(move |registration| {
            json!({
                "number": one.number.e164(),
                "client": registration.client,
                "sip_uri": registration.sip_uri,
                "route_type": registration.route_type.to_string(),
                "mobile_originating_prefix": registration.mobile_originating_prefix,
                "mobile_terminating_prefix": registration.mobile_terminating_prefix,
                "expires_at": registration.expires_at.to_string(),
            })
        })
    });
    Json(json!({ "registrations": all.collect::<Vec<_>>() }))
}

async fn consents(State(pages): Shared) -> Json<Value> {
    let world = pages.world();
    let all = world.numbers.all().into_iter().flat_map(|one| {
        let clients = world.consents.clients_of(&one.number).into_iter();
        clients.map(move |client| {
            let scopes = world.consents.given(&client, &one.number);
            let scopes = scopes.unwrap_or_default().to_string();
            json!({ "number": one.number.e164(), "client": client, "scopes": scopes })
        })
    });
    Json(json!({ "consents": all.collect::<Vec<_>>() }))
}

async fn calls(State(pages): Shared) -> Json<Value> {
    let calls = pages.world().calls.recent(usize::MAX);
    let calls: Vec<_> = calls.iter().map(|call| call_json(&pages, call)).collect();
    Json(json!({ "calls": calls }))
}

async fn call(State(pages): Shared, Path(id): Path<u64>) -> Answer {
    let call = pages.world().calls.call(id);
    let call = call.ok_or(ControlError::NoSuchCall)?;
    Ok(Json(call_json(&pages, &call)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceCall {
    /// Whose phone calls.
    from: String,
    /// Whom, be there such a number or not.
    to: String,
    #[serde(default)]
    say: Say,
    /// What the caller offers.
    media: Option<OfferKeying>,
    /// What is to go wrong in this call: on for the called number while it lasts.
    #[serde(default)]
    modes: Vec<Mode>,
}

async fn place_call(State(pages): Shared, body: Body<PlaceCall>) -> Answer {
    let extract::Json(place) = body?;
    let from = existing(pages.world(), &place.from)?.number;
    let to = number_in(&place.to);
    let to = to.ok_or_else(|| ControlError::Malformed("\"to\" is no number".into()))?;
    let wanted = Wanted {
        from,
        to,
        say: place.say,
        media: place.media,
        modes: place.modes,
    };
    match pages.phones.place_call(&wanted) {
        Ok(id) => call(State(pages), Path(id)).await,
        Err(PlaceError::NoSuchCaller) => Err(ControlError::NoSuchNumber),
        Err(error @ PlaceError::TooMany) => Err(ControlError::TooManyCalls(error)),
    }
}

/// `GET /sandbox/calls/{id}/heard.wav`: what a simulated caller heard.
async fn heard(State(pages): Shared, Path(id): Path<u64>) -> Result<Response, ControlError> {
    let wav = pages.phones.heard(id).ok_or(ControlError::NothingHeard)?;
    Ok(([(header::CONTENT_TYPE, "audio/wav")], wav).into_response())
}

async fn modes(State(pages): Shared) -> Json<Value> {
    let world = pages.world();
    let now = world.now();
    let mut on = Vec::new();
    for mode in world.modes.of(None, now) {
        on.push(json!({ "number": null, "mode": mode }));
    }
    for one in world.numbers.all() {
        for mode in world.modes.of(Some(&one.number), now) {
            on.push(json!({ "number": one.number.e164(), "mode": mode }));
        }
    }
    Json(json!({ "on": on, "known": Mode::ALL }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetMode {
    /// Nobody in particular: everybody.
    number: Option<String>,
    mode: Mode,
    on: bool,
    /// For so long; else until it is turned off.
    seconds: Option<u32>,
}

async fn set_mode(State(pages): Shared, body: Body<SetMode>) -> Answer {
    let extract::Json(set) = body?;
    let world = pages.world();
    let number = set.number.as_deref().map(|number| existing(world, number));
    let number = number.transpose()?.map(|number| number.number);
    if set.on {
        let until = set.seconds.map_or(Timestamp::MAX, |seconds| {
            world.now().plus_millis(i64::from(seconds) * 1000)
        });
        world.modes.set(number.as_ref(), set.mode, until);
    } else {
        world.modes.clear(number.as_ref(), set.mode);
    }
    Ok(modes(State(pages)).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn rotate_keys(State(pages): Shared, body: Body<Nothing>) -> Answer {
    let extract::Json(Nothing {}) = body?;
    let keys = &pages.identity.keys;
    keys.rotate().await.map_err(|error| {
        tracing::error!(%error, "The signing key was not rotated");
        ControlError::Failed("the key was not rotated; the log says why")
    })?;
    Ok(Json(json!({ "kid": keys.current_id() })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeConsent {
    number: String,
}

async fn revoke_consent(State(pages): Shared, body: Body<RevokeConsent>) -> Answer {
    let extract::Json(revoke) = body?;
    let number = existing(pages.world(), &revoke.number)?.number;
    let revoked = pages.world().revoke_consent(None, &number);
    Ok(Json(json!({ "revoked": revoked })))
}

/// The number that a path or a body names.
pub(crate) fn existing(world: &World, text: &str) -> Result<Number, ControlError> {
    let number = number_in(text).and_then(|number| world.numbers.of(&number));
    number.ok_or(ControlError::NoSuchNumber)
}

fn number_json(world: &World, number: &Number, now: Timestamp) -> Value {
    json!({
        "number": number.number.e164(),
        "name": number.name,
        "behaviour": number.behaviour.to_string(),
        "modes": world.modes.of(Some(&number.number), now),
    })
}

fn call_json(pages: &Pages, call: &Call) -> Value {
    let steps = call.steps.iter().map(|(at, what)| {
        let ms = at.as_millis() - call.began_at.as_millis();
        json!({ "ms": ms, "what": what })
    });
    json!({
        "id": call.id,
        "from": call.from.as_ref().map(Msisdn::e164),
        "to": call.to.as_ref().map(Msisdn::e164),
        "began_at": call.began_at.to_string(),
        "ended_at": call.ended_at.map(|at| at.to_string()),
        "steps": steps.collect::<Vec<_>>(),
        "heard": view::heard_path(pages, call.id),
    })
}
