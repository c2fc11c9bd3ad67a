//! Taking a consent back: the link that a client makes for its subscriber, and the page behind it.

use std::sync::{Arc, Mutex};

use askama::Template;
use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::domain::{Msisdn, Timestamp};
use crate::sandbox::html;
use crate::sandbox::identity::Identity;
use crate::sandbox::identity::notice;
use crate::sandbox::identity::oauth_error::{OauthError, uncached};
use crate::sandbox::identity::params::Params;
use crate::sandbox::identity::request::with_query;
use crate::sandbox::identity::token::{form, is_at_home};
use crate::sandbox::world::Expiring;
use crate::sandbox::world::lock;

/// A link is good for so long, once.
const LINK_LIFE_MS: i64 = 15 * 60_000;
const MOST_LINKS: usize = 1_000;
/// The longest `state` that is carried.
const MAX_STATE: usize = 2048;

/// The links that were made and not used.
pub(crate) struct Links(Mutex<Expiring<String, Link>>);

/// What a link does.
#[derive(Debug, Clone)]
struct Link {
    client: String,
    client_name: String,
    number: Msisdn,
    back: String,
    state: Option<String>,
}

impl Links {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Expiring::new(MOST_LINKS)))
    }

    fn add(&self, secret: String, link: Link, now: Timestamp) {
        let mut links = lock(&self.0);
        links.insert(secret, link, now.plus_millis(LINK_LIFE_MS), now);
    }

    fn of(&self, secret: &str, now: Timestamp) -> Option<Link> {
        let links = lock(&self.0);
        links.get(secret, now).cloned()
    }

    fn take(&self, secret: &str, now: Timestamp) -> Option<Link> {
        let mut links = lock(&self.0);
        links.remove(secret, now)
    }
}

#[derive(Template)]
#[template(path = "sandbox/revoke.html")]
struct RevokePage<'a> {
    operator: &'a str,
    client: &'a str,
    number: &'a str,
    link: &'a str,
    csrf: &'a str,
}

/// `POST /ext-api/v0/auth/create-revoke-consent-magic-link`: the form has `token` (of the
/// subscriber), `redirectTo` and `state`; the bearer token is the client's own.
pub(crate) async fn create_link(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    body: String,
) -> Result<Response, OauthError> {
    let facts = identity.bearer(&headers)?;
    if facts.number.is_some() {
        return Err(OauthError::InsufficientScope);
    }
    let params = form(&headers, &body)?;
    let needed = |name, why| params.get(name).ok_or(OauthError::InvalidRequest(why));
    let token = needed("token", "token is missing")?;
    let back = needed("redirectTo", "redirectTo is missing")?;
    let state = params.get("state");
    if state.is_some_and(|state| state.len() > MAX_STATE) {
        return Err(OauthError::InvalidRequest("state is too long"));
    }
    let now = identity.world.now();
    let whose = identity.world.tokens.subject_of(token, now);
    let number = match whose {
        Some((client, number)) if client == facts.client => number,
        _ => {
            return Err(OauthError::InvalidRequest(
                "token is not one of this client",
            ));
        }
    };
    let client = identity.client(&facts.client);
    let client = client.filter(|client| is_at_home(client, back));
    let client = client.ok_or(OauthError::InvalidRequest(
        "redirectTo is at no host that the client registered",
    ))?;
    let secret = identity.world.chance.secret("");
    let to = format!("{}/revoke-consent?link={secret}", identity.issuer);
    let link = Link {
        client: client.id.clone(),
        client_name: client.name.clone(),
        number,
        back: back.to_owned(),
        state: state.map(str::to_owned),
    };
    identity.links.add(secret, link, now);
    Ok(uncached(Json(json!({ "redirectTo": to }))).into_response())
}

/// `GET /revoke-consent`
pub(crate) async fn page(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let params = Params::parse(&query.unwrap_or_default()).unwrap_or_default();
    let secret = params.get("link").unwrap_or_default();
    let Some(link) = identity.links.of(secret, identity.world.now()) else {
        return used_up(&identity);
    };
    let browser = identity.browsers.known_or_new(&headers);
    let page = RevokePage {
        operator: &identity.operator,
        client: &link.client_name,
        number: link.number.e164(),
        link: secret,
        csrf: &browser.csrf,
    };
    let response = html::page(StatusCode::OK, &page, Some(&link.back));
    html::with_cookie(response, identity.browsers.cookie(&browser))
}

/// `POST /revoke-consent`: takes the consent back, or does not; then back to the client.
pub(crate) async fn decide(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let params = Params::parse(&body).unwrap_or_default();
    if identity
        .browsers
        .posting(&headers, params.get("csrf"))
        .is_none()
    {
        return used_up(&identity);
    }
    let is_meant = params.get("decision") == Some("revoke");
    let secret = params.get("link").unwrap_or_default();
    let Some(link) = identity.links.take(secret, identity.world.now()) else {
        return used_up(&identity);
    };
    let mut answer = Vec::new();
    if is_meant {
        identity
            .world
            .revoke_consent(Some(&link.client), &link.number);
    } else {
        answer.push(("error", "access_denied"));
    }
    answer.extend(link.state.as_deref().map(|state| ("state", state)));
    html::redirect(&with_query(&link.back, &answer))
}

fn used_up(identity: &Identity) -> Response {
    let text = "It was used, it is older than fifteen minutes, or the page was opened in another browser. Ask the application for a new one.";
    let status = StatusCode::GONE;
    notice::page(identity, status, "This link is not good any more", text)
}
