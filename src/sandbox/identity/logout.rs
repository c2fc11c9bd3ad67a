//! `/oauth2/sessions/logout` (OpenID Connect RP-Initiated Logout 1.0).

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use crate::sandbox::html;
use crate::sandbox::identity::Identity;
use crate::sandbox::identity::browsers::Browser;
use crate::sandbox::identity::notice;
use crate::sandbox::identity::params::Params;
use crate::sandbox::identity::request::{MAX_QUERY, with_query};

/// What is read of the ID token that a client sends along.
#[derive(Debug, Clone, Deserialize)]
struct Hint {
    iss: String,
    aud: String,
    sub: String,
}

#[derive(Template)]
#[template(path = "sandbox/logout.html")]
struct LogoutPage<'a> {
    operator: &'a str,
    csrf: &'a str,
    query: &'a str,
}

/// `GET`: ends the session at once where the client shows whose it is; else asks.
pub(crate) async fn page(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let Some(params) = read(&query) else {
        return nonsense(&identity);
    };
    let browser = identity.browsers.known_or_new(&headers);
    let hint = identity.hint(&params);
    let signed_in = identity.browsers.signed_in(&browser, identity.world.now());
    let is_his = match (&signed_in, &hint) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(who), Some(hint)) => hint.sub == identity.subject(&hint.aud, &who.number),
    };
    if is_his {
        return identity.log_out(&browser, &params, hint.as_ref());
    }
    let page = LogoutPage {
        operator: &identity.operator,
        csrf: &browser.csrf,
        query: &query,
    };
    let back = identity.back(&params, hint.as_ref());
    let response = html::page(StatusCode::OK, &page, back);
    html::with_cookie(response, identity.browsers.cookie(&browser))
}

/// `POST`: the person has said yes.
pub(crate) async fn confirm(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let form = Params::parse(&body).unwrap_or_default();
    let browser = identity.browsers.posting(&headers, form.get("csrf"));
    let params = read(form.get("query").unwrap_or_default());
    match (browser, params) {
        (Some(browser), Some(params)) => {
            let hint = identity.hint(&params);
            identity.log_out(&browser, &params, hint.as_ref())
        }
        _ => nonsense(&identity),
    }
}

impl Identity {
    /// Whom a client means, where it shows an ID token of ours.
    fn hint(&self, params: &Params) -> Option<Hint> {
        let hint: Hint = self.keys.read(params.get("id_token_hint")?)?;
        (hint.iss == self.issuer).then_some(hint)
    }

    /// Where the client wants to go afterwards, if it registered that.
    fn back<'a>(&self, params: &'a Params, hint: Option<&Hint>) -> Option<&'a str> {
        let client = hint.map(|hint| hint.aud.as_str());
        let client = self.client(client.or_else(|| params.get("client_id"))?)?;
        let back = params.get("post_logout_redirect_uri")?;
        let mut known = client.post_logout_redirect_uris.iter();
        known.any(|known| known == back).then_some(back)
    }

    /// Ends the session; then to where the client wants, if it registered that.
    fn log_out(&self, browser: &Browser, params: &Params, hint: Option<&Hint>) -> Response {
        self.browsers.sign_out(browser, self.world.now());
        match self.back(params, hint) {
            Some(back) => {
                let state = params.get("state").map(|state| ("state", state));
                let answer: Vec<_> = state.into_iter().collect();
                html::redirect(&with_query(back, &answer))
            }
            None => {
                let text = "You are signed out. You can close this page.";
                notice::page(self, StatusCode::OK, "Signed out", text)
            }
        }
    }
}

fn read(query: &str) -> Option<Params> {
    let is_short = query.len() <= MAX_QUERY;
    Params::parse(query).ok().filter(|_| is_short)
}

fn nonsense(identity: &Identity) -> Response {
    let text = "The request cannot be read. Go back to the application and try again.";
    notice::page(identity, StatusCode::BAD_REQUEST, "Not signed out", text)
}
