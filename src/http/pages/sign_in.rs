//! Signing in at the operator's identity server, and signing out.

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use crate::domain::Secret;
use crate::enrolment::{Callback, PENDING_SECS, SignInError};
use crate::http::Shared;
use crate::http::pages;
use crate::http::pages::PageError;
use crate::http::pages::assets;
use crate::http::pages::notice::Notice;
use crate::http::pages::texts::Texts;
use crate::http::problem::chain;
use crate::http::session::{OwnForm, Session, SignedIn};
use crate::http::site::Cookie;

#[derive(Template)]
#[template(path = "sign_out.html")]
struct SignOut {
    csrf: Secret,
}

/// Sends the browser to the identity server.
pub(crate) async fn begin(State(state): State<Shared>) -> Response {
    let Some(enrolment) = &state.enrolment else {
        return refuse(&state, &SignInError::NotOpen);
    };
    match enrolment.begin().await {
        Ok(sign_in) => {
            let cookie = Cookie::SignIn.set(&sign_in.pending, PENDING_SECS.into(), &state.site);
            let cookie = cookie.expect("what is sealed is written in base64");
            pages::with_cookie(pages::see_other(sign_in.url.as_str()), cookie)
        }
        Err(error) => refuse(&state, &error),
    }
}

/// What the identity server sent the browser back with.
#[derive(Deserialize)]
pub(crate) struct Answer {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
    iss: Option<String>,
}

impl From<Answer> for Callback {
    fn from(answer: Answer) -> Self {
        Self {
            code: answer.code,
            state: answer.state,
            error: answer.error,
            iss: answer.iss,
        }
    }
}

/// Ends a sign-in. Whatever the outcome, the browser goes on to an address that tells nothing.
pub(crate) async fn complete(
    State(state): State<Shared>,
    headers: HeaderMap,
    answer: Result<Query<Answer>, QueryRejection>,
) -> Result<Response, PageError> {
    let Some(enrolment) = &state.enrolment else {
        return Ok(refuse(&state, &SignInError::NotOpen));
    };
    let pending = Cookie::SignIn.read(&headers, &state.site);
    if pending.is_none() && Session::of(&headers, &state).await?.is_some() {
        // Who comes back a second time, by a reload, is where he wanted to be.
        return Ok(pages::see_other("/"));
    }
    let callback = match answer {
        Ok(Query(answer)) => answer.into(),
        Err(_) => Callback::default(),
    };
    let pending = pending.unwrap_or_default();
    match enrolment.complete(&pending, callback).await {
        Ok(signed_in) => {
            let session = Session::begin(&state, signed_in.subscriber.id, &headers).await?;
            let response = pages::with_cookie(pages::see_other("/"), session);
            Ok(pages::with_cookie(
                response,
                Cookie::SignIn.clear(&state.site),
            ))
        }
        Err(error) => Ok(refuse(&state, &error)),
    }
}

/// Tells why nobody signed in.
fn refuse(state: &Shared, error: &SignInError) -> Response {
    match error {
        SignInError::Storage(_) => {
            tracing::error!(error = chain(error), "A sign-in could not be kept");
        }
        SignInError::IssuerUnavailable(_)
        | SignInError::IssuerRefused(_)
        | SignInError::InvalidIdToken(_) => {
            tracing::warn!(
                error = chain(error),
                "A sign-in failed at the identity server"
            );
        }
        _ => tracing::debug!(error = chain(error), "A sign-in was not completed"),
    }
    let response = pages::see_other(&format!("/enrol/{}", error.as_str()));
    pages::with_cookie(response, Cookie::SignIn.clear(&state.site))
}

/// The page at which a failed sign-in ends.
pub(crate) async fn refused(Path(end): Path<String>) -> Notice {
    Notice::of_sign_in(&end).unwrap_or(Notice::NotHere)
}

/// Asks before signing out.
pub(crate) async fn ask_to_sign_out(SignedIn(session): SignedIn) -> Response {
    match session {
        Some(session) => {
            let csrf = session.form_token();
            pages::page(StatusCode::OK, &SignOut { csrf })
        }
        None => pages::see_other("/"),
    }
}

/// Signs out.
pub(crate) async fn sign_out(
    State(state): State<Shared>,
    form: OwnForm,
) -> Result<Response, PageError> {
    form.session.end(&state).await?;
    let response = pages::see_other("/");
    Ok(pages::with_cookie(
        response,
        Cookie::Session.clear(&state.site),
    ))
}
