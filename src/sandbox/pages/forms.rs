//! What the buttons of the pages do; each leads back to the overview.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use crate::domain::{Msisdn, Timestamp};
use crate::media::sdp::OfferKeying;
use crate::sandbox::html;
use crate::sandbox::identity::{Params, notice};
use crate::sandbox::pages::{Pages, Shared};
use crate::sandbox::phones::Wanted;
use crate::sandbox::world::Mode;

/// `POST /pages/behaviour`
pub(crate) async fn behaviour(State(pages): Shared, headers: HeaderMap, body: String) -> Response {
    let Some(form) = pages.form(&headers, &body) else {
        return pages.refused();
    };
    let behaviour = form.get("behaviour").and_then(|text| text.parse().ok());
    match (pages.number_in(&form), behaviour) {
        (Some(number), Some(behaviour)) => {
            pages.world().numbers.set_behaviour(&number, behaviour);
            html::redirect("/")
        }
        _ => pages.refused(),
    }
}

/// `POST /pages/calls`: a simulated caller calls.
pub(crate) async fn place_call(State(pages): Shared, headers: HeaderMap, body: String) -> Response {
    let Some(form) = pages.form(&headers, &body) else {
        return pages.refused();
    };
    let number = |field| form.get(field).and_then(|text| Msisdn::parse(text).ok());
    let say = form.get("say").and_then(|text| text.parse().ok());
    let named = |media: &OfferKeying| form.get("media") == Some(media.as_str());
    let media = OfferKeying::ALL.into_iter().find(named);
    let (Some(from), Some(to), Some(say)) = (number("from"), number("to"), say) else {
        let text = "Write both numbers in international form, as +47 999 90 002.";
        let status = StatusCode::BAD_REQUEST;
        return notice::page(&pages.identity, status, "No call was placed", text);
    };
    let wanted = Wanted {
        from,
        to,
        say,
        media,
        modes: Vec::new(),
    };
    match pages.phones.place_call(&wanted) {
        Ok(_) => html::redirect("/#calls"),
        Err(error) => {
            let text = format!("No call was placed: {error}.");
            let status = StatusCode::CONFLICT;
            notice::page(&pages.identity, status, "No call was placed", &text)
        }
    }
}

/// `POST /pages/modes`: the modes that the form names are on, the others off.
pub(crate) async fn modes(State(pages): Shared, headers: HeaderMap, body: String) -> Response {
    let Some(form) = pages.form(&headers, &body) else {
        return pages.refused();
    };
    let number = match form.get("number") {
        None => None,
        Some(_) => match pages.number_in(&form) {
            Some(number) => Some(number),
            None => return pages.refused(),
        },
    };
    let modes = &pages.world().modes;
    for mode in Mode::ALL {
        match form.get(mode.as_str()) {
            Some(_) => modes.set(number.as_ref(), mode, Timestamp::MAX),
            None => modes.clear(number.as_ref(), mode),
        }
    }
    html::redirect("/")
}

/// `POST /pages/rotate-keys`
pub(crate) async fn rotate_keys(
    State(pages): Shared,
    headers: HeaderMap,
    body: String,
) -> Response {
    if pages.form(&headers, &body).is_none() {
        return pages.refused();
    }
    if let Err(error) = pages.identity.keys.rotate().await {
        tracing::error!(%error, "The signing key was not rotated");
    }
    html::redirect("/")
}

/// `POST /pages/revoke-consent`: as if the operator did it for the subscriber.
pub(crate) async fn revoke_consent(
    State(pages): Shared,
    headers: HeaderMap,
    body: String,
) -> Response {
    let form = pages.form(&headers, &body);
    match form.and_then(|form| pages.number_in(&form)) {
        Some(number) => {
            pages.world().revoke_consent(None, &number);
            html::redirect("/")
        }
        None => pages.refused(),
    }
}

impl Pages {
    /// The fields of a form of ours, posted from a page of ours.
    pub(crate) fn form(&self, headers: &HeaderMap, body: &str) -> Option<Params> {
        let form = Params::parse(body).ok()?;
        let browsers = &self.identity.browsers;
        browsers.posting(headers, form.get("csrf"))?;
        Some(form)
    }

    /// The number that a form names, where it exists.
    pub(crate) fn number_in(&self, form: &Params) -> Option<Msisdn> {
        let number = Msisdn::parse(form.get("number")?).ok()?;
        self.world().numbers.has(&number).then_some(number)
    }

    /// A form that is not ours.
    pub(crate) fn refused(&self) -> Response {
        let text = "The form was not one of this page, or the page is from before a restart. Open the overview again.";
        let status = StatusCode::BAD_REQUEST;
        notice::page(&self.identity, status, "Nothing was changed", text)
    }
}
