//! Leaving the service, and the way back from taking consent back at the operator.

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use url::Url;

use crate::domain::Secret;
use crate::http::Shared;
use crate::http::me;
use crate::http::pages;
use crate::http::pages::PageError;
use crate::http::pages::assets;
use crate::http::pages::notice::Notice;
use crate::http::pages::texts;
use crate::http::pages::texts::Texts;
use crate::http::session::{OwnForm, SignedIn};
use crate::http::site::Cookie;

#[derive(Template)]
#[template(path = "leave.html")]
struct Leave {
    csrf: Secret,
    erased: String,
    has_consent: bool,
}

/// Forms of ours lead to our own pages only, which browsers also hold a redirect to: this page goes on.
#[derive(Template)]
#[template(path = "going_on.html")]
struct GoingOn {
    link: Url,
}

/// Asks before leaving.
pub(crate) async fn ask(
    State(state): State<Shared>,
    SignedIn(session): SignedIn,
) -> Result<Response, PageError> {
    let Some(session) = session else {
        return Ok(pages::see_other("/"));
    };
    let grant = state.storage.grant(session.subscriber.id).await?;
    let page = Leave {
        csrf: session.form_token(),
        erased: texts::erased_after(state.enrolment_config.erase_after_hours),
        has_consent: state.is_open() && grant.is_some(),
    };
    Ok(pages::page(StatusCode::OK, &page))
}

/// Leaves, and goes on to the operator, where consent is taken back.
pub(crate) async fn leave(
    State(state): State<Shared>,
    form: OwnForm,
) -> Result<Response, PageError> {
    let left = me::depart(&state, form.session.subscriber.id).await?;
    let response = match left.revoke_consent_at.filter(is_web) {
        Some(link) => pages::page(StatusCode::OK, &GoingOn { link }),
        None => Notice::Left.into_response(),
    };
    Ok(pages::with_cookie(
        response,
        Cookie::Session.clear(&state.site),
    ))
}

fn is_web(link: &Url) -> bool {
    matches!(link.scheme(), "https" | "http")
}

/// How the operator sends a subscriber back.
#[derive(Deserialize)]
pub(crate) struct Return {
    state: Option<String>,
    error: Option<String>,
}

/// Where the operator sends one who has left.
pub(crate) async fn left(
    State(state): State<Shared>,
    query: Result<Query<Return>, QueryRejection>,
) -> Result<Notice, PageError> {
    let (Ok(Query(back)), Some(enrolment)) = (query, &state.enrolment) else {
        return Ok(Notice::UnknownLeaving);
    };
    let given = back.state.unwrap_or_default();
    let is_known = enrolment.complete_leaving(&given).await?;
    Ok(match (is_known, back.error) {
        (false, _) => Notice::UnknownLeaving,
        (true, None) => Notice::LeftAndRevoked,
        (true, Some(_)) => Notice::LeftNotRevoked,
    })
}
