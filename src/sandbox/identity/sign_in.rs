//! `/oauth2/auth` and the pages behind it: which number, the PIN of a text message, what is
//! allowed; then back to the client with a code, or with the reason why there is none.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use url::form_urlencoded;

use crate::domain::{Msisdn, Timestamp};
use crate::sandbox::html;
use crate::sandbox::identity::Identity;
use crate::sandbox::identity::browsers::{Browser, SignedIn};
use crate::sandbox::identity::flows::{Flow, PinCheck};
use crate::sandbox::identity::notice;
use crate::sandbox::identity::params::Params;
use crate::sandbox::identity::request::{AuthRequest, Back, Refused, SCOPES, with_query};
use crate::sandbox::world::{Authorization, Sms};

const TOO_OLD: &str = "This sign-in is over, or it began in another browser. Go back to the application and start again.";

#[derive(Template)]
#[template(path = "sandbox/number.html")]
struct NumberPage<'a> {
    operator: &'a str,
    client: &'a str,
    flow: &'a str,
    csrf: &'a str,
    typed: &'a str,
    error: Option<&'a str>,
    /// Number and name of those that exist here.
    known: Vec<(String, String)>,
}

#[derive(Template)]
#[template(path = "sandbox/pin.html")]
struct PinPage<'a> {
    operator: &'a str,
    flow: &'a str,
    csrf: &'a str,
    number: &'a str,
    error: Option<String>,
    is_void: bool,
}

#[derive(Template)]
#[template(path = "sandbox/consent.html")]
struct ConsentPage<'a> {
    operator: &'a str,
    client: &'a str,
    flow: &'a str,
    csrf: &'a str,
    number: &'a str,
    scopes: Vec<(&'a str, &'a str)>,
}

/// `GET /oauth2/auth`
pub(crate) async fn authorize(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let request = match AuthRequest::read(&query, &identity.clients) {
        Ok(request) => request,
        Err(Refused::Here(why)) => {
            let status = StatusCode::BAD_REQUEST;
            return notice::page(&identity, status, "This sign-in cannot begin", why);
        }
        Err(Refused::Back(back)) => return identity.send_back(&back),
    };
    let now = identity.world.now();
    let browser = identity.browsers.known_or_new(&headers);
    let signed_in = identity.recent_sign_in(&browser, &request, now);
    if request.prompt.none {
        return identity.answer_silently(&request, signed_in.as_ref(), now);
    }
    let has_consent = signed_in
        .as_ref()
        .is_some_and(|who| identity.has_consent(&request, &who.number));
    if let Some(who) = signed_in.as_ref().filter(|_| has_consent) {
        return identity.send_code(&request, who, now);
    }
    let next = match signed_in {
        Some(_) => "consent",
        None => "number",
    };
    let chance = &identity.world.chance;
    let cookie = identity.browsers.cookie(&browser);
    let flows = &identity.flows;
    let flow = flows.begin(request, browser, signed_in, chance, now);
    html::with_cookie(to_step(next, &flow), cookie)
}

/// `POST /oauth2/auth` is the same (OpenID Connect Core, 3.1.2.1). It goes on as a GET, because a
/// browser sends no cookie of ours with a form of another site.
pub(crate) async fn authorize_posted(body: String) -> Response {
    let params = form_urlencoded::parse(body.as_bytes());
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(params)
        .finish();
    html::redirect(&format!("/oauth2/auth?{query}"))
}

/// `GET /oauth2/number`: which number?
pub(crate) async fn number(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    match identity.step(&headers, query) {
        Some((id, browser, flow)) => {
            let typed = flow.request.login_hint.as_deref().unwrap_or_default();
            identity.number_page(&id, &browser, &flow, typed, None)
        }
        None => too_old(&identity),
    }
}

/// `POST /oauth2/number`: sends a PIN there.
pub(crate) async fn take_number(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let Some((id, browser, flow, params)) = identity.posted_step(&headers, &body) else {
        return too_old(&identity);
    };
    let typed = params.get("number").unwrap_or_default();
    let again = |error| identity.number_page(&id, &browser, &flow, typed, Some(error));
    let Ok(number) = Msisdn::parse(typed) else {
        return again("Write the number with its country, such as +47 999 90 001.");
    };
    if !identity.world.numbers.has(&number) {
        return again("That number is not one of this network. Choose one of the list.");
    }
    let now = identity.world.now();
    let chance = &identity.world.chance;
    let change = |flow: &mut Flow| flow.new_pin(&number, chance, now);
    let pin = identity.flows.change(&id, &browser, now, change);
    let Some(pin) = pin.flatten() else {
        return again("Too many PINs were sent for this sign-in. Start again in the application.");
    };
    identity.send_pin(&number, &pin, now);
    to_step("pin", &id)
}

/// `GET /oauth2/pin`: which PIN?
pub(crate) async fn pin(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    match identity.step(&headers, query) {
        Some((id, browser, flow)) if flow.asked().is_some() => {
            identity.pin_page(&id, &browser, &flow, None, false)
        }
        _ => too_old(&identity),
    }
}

/// `POST /oauth2/pin`: proves the number.
pub(crate) async fn take_pin(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let Some((id, browser, flow, params)) = identity.posted_step(&headers, &body) else {
        return too_old(&identity);
    };
    let typed = params.get("pin").unwrap_or_default();
    let now = identity.world.now();
    let check = |flow: &mut Flow| flow.check_pin(typed, now);
    let number = match identity.flows.change(&id, &browser, now, check) {
        Some(PinCheck::Right(number)) => number,
        Some(PinCheck::Wrong(left)) => {
            let tries = if left == 1 { "try" } else { "tries" };
            let error = format!("That is not the PIN that was sent. {left} {tries} left.");
            return identity.pin_page(&id, &browser, &flow, Some(error), false);
        }
        Some(PinCheck::Void) if flow.asked().is_some() => {
            let error = "This PIN is not good any more. Have a new one sent.".to_owned();
            return identity.pin_page(&id, &browser, &flow, Some(error), true);
        }
        Some(PinCheck::Void) | None => return too_old(&identity),
    };
    let who = SignedIn {
        number: number.clone(),
        at: now,
    };
    let renewed = identity.browsers.sign_in(&browser, number, now);
    let cookie = identity.browsers.cookie(&renewed);
    let request = &flow.request;
    let response = if identity.has_consent(request, &who.number) {
        identity.flows.end(&id, &browser, now);
        identity.send_code(request, &who, now)
    } else {
        let change = |flow: &mut Flow| flow.signed_in(renewed, who);
        identity.flows.change(&id, &browser, now, change);
        to_step("consent", &id)
    };
    html::with_cookie(response, cookie)
}

/// `GET /oauth2/consent`: what may the client do?
pub(crate) async fn consent(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let Some((id, browser, flow)) = identity.step(&headers, query) else {
        return too_old(&identity);
    };
    let Some(who) = &flow.signed_in else {
        return to_step("number", &id);
    };
    let asked = |(scope, _): &&(&str, &str)| flow.request.scopes.contains(scope);
    let page = ConsentPage {
        operator: &identity.operator,
        client: &flow.request.client_name,
        flow: &id,
        csrf: &browser.csrf,
        number: who.number.e164(),
        scopes: SCOPES.iter().filter(asked).copied().collect(),
    };
    html::page(StatusCode::OK, &page, Some(&flow.request.redirect_uri))
}

/// `POST /oauth2/consent`: allow or deny.
pub(crate) async fn take_consent(
    State(identity): State<Arc<Identity>>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let Some((id, browser, flow, params)) = identity.posted_step(&headers, &body) else {
        return too_old(&identity);
    };
    let Some(who) = &flow.signed_in else {
        return to_step("number", &id);
    };
    let now = identity.world.now();
    let decision = params.get("decision");
    if !matches!(decision, Some("allow" | "deny")) {
        return to_step("consent", &id);
    }
    if identity.flows.end(&id, &browser, now).is_none() {
        return too_old(&identity);
    }
    let request = &flow.request;
    if decision == Some("deny") {
        return identity.send_back(&request.refuse(
            "access_denied",
            "the subscriber did not allow what was asked for",
        ));
    }
    let consents = &identity.world.consents;
    consents.give(&request.client, &who.number, &request.scopes, now);
    identity.send_code(request, who, now)
}

impl Identity {
    /// Who is signed in, where that is good enough for this request.
    fn recent_sign_in(
        &self,
        browser: &Browser,
        request: &AuthRequest,
        now: Timestamp,
    ) -> Option<SignedIn> {
        let who = self.browsers.signed_in(browser, now)?;
        let age_ms = now.as_millis() - who.at.as_millis();
        let is_recent = request.max_age.is_none_or(|secs| age_ms <= secs * 1000);
        (is_recent && !request.prompt.login).then_some(who)
    }

    fn has_consent(&self, request: &AuthRequest, number: &Msisdn) -> bool {
        let given = self.world.consents.given(&request.client, number);
        let covers = given.is_some_and(|given| request.scopes.is_within(&given));
        covers && !request.prompt.consent
    }

    /// `prompt=none`: a code at once, or what would have to be asked.
    fn answer_silently(
        &self,
        request: &AuthRequest,
        signed_in: Option<&SignedIn>,
        now: Timestamp,
    ) -> Response {
        match signed_in {
            None => self.send_back(&request.refuse("login_required", "nobody is signed in")),
            Some(who) if !self.has_consent(request, &who.number) => self.send_back(
                &request.refuse("consent_required", "the subscriber has not allowed this"),
            ),
            Some(who) => self.send_code(request, who, now),
        }
    }

    /// Back to the client with a code (RFC 6749, 4.1.2) and our name (RFC 9207).
    fn send_code(&self, request: &AuthRequest, who: &SignedIn, now: Timestamp) -> Response {
        let authorization = Authorization {
            client: request.client.clone(),
            number: who.number.clone(),
            scopes: request.scopes.clone(),
            redirect_uri: request.redirect_uri.clone(),
            nonce: request.nonce.clone(),
            challenge: request.challenge.clone(),
            authenticated_at: who.at,
        };
        let code = self.world.tokens.authorize(authorization, now);
        let mut answer = vec![("code", code.as_str()), ("iss", self.issuer.as_str())];
        answer.extend(request.state.as_deref().map(|state| ("state", state)));
        html::redirect(&with_query(&request.redirect_uri, &answer))
    }

    /// Back to the client with an error (RFC 6749, 4.1.2.1).
    fn send_back(&self, back: &Back) -> Response {
        let mut answer = vec![
            ("error", back.error),
            ("error_description", back.description),
            ("iss", self.issuer.as_str()),
        ];
        answer.extend(back.state.as_deref().map(|state| ("state", state)));
        html::redirect(&with_query(&back.redirect_uri, &answer))
    }

    fn send_pin(&self, number: &Msisdn, pin: &str, now: Timestamp) {
        let text = format!("{pin} is your PIN for signing in. It is good for five minutes.");
        // There is no telephone to read it on: whoever tries the sandbox finds it here.
        tracing::info!("SMS to {number}: {text}");
        let from = self.operator.clone();
        let sms = Sms {
            at: now,
            from,
            text,
        };
        self.world.sms.deliver(number, sms);
    }

    /// The sign-in that a page belongs to.
    fn step(&self, headers: &HeaderMap, query: Option<String>) -> Option<(String, Browser, Flow)> {
        let params = Params::parse(&query.unwrap_or_default()).ok()?;
        let id = params.get("flow")?;
        let browser = self.browsers.known(headers)?;
        let flow = self.flows.of(id, &browser, self.world.now())?;
        Some((id.to_owned(), browser, flow))
    }

    /// The sign-in that a form of ours belongs to.
    fn posted_step(
        &self,
        headers: &HeaderMap,
        body: &str,
    ) -> Option<(String, Browser, Flow, Params)> {
        let params = Params::parse(body).ok()?;
        let browser = self.browsers.posting(headers, params.get("csrf"))?;
        let id = params.get("flow")?.to_owned();
        let flow = self.flows.of(&id, &browser, self.world.now())?;
        Some((id, browser, flow, params))
    }

    fn number_page(
        &self,
        id: &str,
        browser: &Browser,
        flow: &Flow,
        typed: &str,
        error: Option<&str>,
    ) -> Response {
        let known = self.world.numbers.all().into_iter();
        let page = NumberPage {
            operator: &self.operator,
            client: &flow.request.client_name,
            flow: id,
            csrf: &browser.csrf,
            typed,
            error,
            known: known
                .map(|one| (one.number.e164().to_owned(), one.name))
                .collect(),
        };
        let status = status_of(error.is_some());
        html::page(status, &page, Some(&flow.request.redirect_uri))
    }

    fn pin_page(
        &self,
        id: &str,
        browser: &Browser,
        flow: &Flow,
        error: Option<String>,
        is_void: bool,
    ) -> Response {
        let status = status_of(error.is_some());
        let page = PinPage {
            operator: &self.operator,
            flow: id,
            csrf: &browser.csrf,
            number: flow.asked().map(Msisdn::e164).unwrap_or_default(),
            error,
            is_void,
        };
        html::page(status, &page, Some(&flow.request.redirect_uri))
    }
}

fn status_of(is_wrong: bool) -> StatusCode {
    match is_wrong {
        true => StatusCode::UNPROCESSABLE_ENTITY,
        false => StatusCode::OK,
    }
}

fn to_step(step: &str, flow: &str) -> Response {
    html::redirect(&format!("/oauth2/{step}?flow={flow}"))
}

fn too_old(identity: &Identity) -> Response {
    let status = StatusCode::BAD_REQUEST;
    notice::page(identity, status, "This sign-in is over", TOO_OLD)
}
