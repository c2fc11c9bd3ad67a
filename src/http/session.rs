//! The session of a browser: begun by a sign-in, known by a cookie, ended by signing out.
//!
//! The secret is always ours: one that a browser brings and nobody made is never taken up, so that no
//! session can be fixed beforehand. The forms of a page bear a token that is made of the secret.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use crate::domain::{Secret, Subscriber, SubscriberId};
use crate::http::Shared;
use crate::http::pages::PageError;
use crate::http::pages::notice::Notice;
use crate::http::site::{Cookie, Provenance};
use crate::secret;
use crate::secret::hash_secret;
use crate::storage::{NewSession, StorageError};

/// Bears the form token where a script of ours asks the API.
const CSRF_TOKEN: HeaderName = HeaderName::from_static("x-csrf-token");

const DAY_SECS: u64 = 24 * 60 * 60;

/// A browser that is signed in.
pub(crate) struct Session {
    /// Who signed in.
    pub(crate) subscriber: Subscriber,
    secret: Secret,
}

impl Session {
    /// Begins a session of `subscriber`, and ends the one that the browser had. The `Set-Cookie` of
    /// the new one.
    pub(crate) async fn begin(
        state: &Shared,
        subscriber: SubscriberId,
        headers: &HeaderMap,
    ) -> Result<HeaderValue, StorageError> {
        if let Some(old) = Cookie::Session.read(headers, &state.site) {
            state.storage.end_session(&hash_secret(&old)).await?;
        }
        let secret = secret::hex(&state.random.bytes::<32>());
        let seconds = u64::from(state.enrolment_config.session_days) * DAY_SECS;
        let now = state.clock.now();
        let session = NewSession {
            hash: hash_secret(&secret),
            subscriber,
            created_at: now,
            ends_at: state.enrolment_config.session_ends_at(now),
        };
        state.storage.add_session(&session).await?;
        let cookie = Cookie::Session.set(&secret, seconds, &state.site);
        Ok(cookie.expect("hexadecimal digits can stand in a cookie"))
    }

    /// The session whose cookie the request bears, if it has not ended.
    pub(crate) async fn of(
        headers: &HeaderMap,
        state: &Shared,
    ) -> Result<Option<Self>, StorageError> {
        let Some(secret) = Cookie::Session.read(headers, &state.site) else {
            return Ok(None);
        };
        let (hash, now) = (hash_secret(&secret), state.clock.now());
        let subscriber = state.storage.subscriber_by_session(&hash, now).await?;
        Ok(subscriber.map(|subscriber| Self {
            subscriber,
            secret: Secret::new(secret),
        }))
    }

    /// Ends it.
    pub(crate) async fn end(&self, state: &Shared) -> Result<(), StorageError> {
        state.storage.end_session(&self.hash()).await
    }

    /// What the database knows it by.
    pub(crate) fn hash(&self) -> [u8; 32] {
        hash_secret(self.secret.expose())
    }

    /// The token that the forms of this session bear. It tells nothing of the secret.
    pub(crate) fn form_token(&self) -> Secret {
        let input = format!("aftertone form token\0{}", self.secret.expose());
        Secret::new(secret::hex(&secret::sha256(input.as_bytes())))
    }

    /// Whether a request to the API that changes something comes from a page of ours: the browser
    /// says so, or a script bears the token.
    pub(crate) fn vouches_for(&self, headers: &HeaderMap, state: &Shared) -> bool {
        match state.site.provenance(headers) {
            Provenance::Ours => true,
            Provenance::Foreign => false,
            Provenance::Unsaid => headers
                .get(CSRF_TOKEN)
                .and_then(|token| token.to_str().ok())
                .is_some_and(|token| Secret::new(token) == self.form_token()),
        }
    }
}

/// The session of the request, where there is one.
pub(crate) struct SignedIn(pub(crate) Option<Session>);

impl FromRequestParts<Shared> for SignedIn {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, PageError> {
        Ok(Self(Session::of(&parts.headers, state).await?))
    }
}

/// A form that a page of ours sent, by the session for which the page was made.
pub(crate) struct OwnForm {
    /// The session.
    pub(crate) session: Session,
    /// What was filled in.
    pub(crate) fields: Fields,
}

/// What the forms of the pages may hold.
#[derive(Deserialize)]
pub(crate) struct Fields {
    csrf: Secret,
    /// The time zone to show times in.
    pub(crate) time_zone: Option<String>,
}

impl FromRequest<Shared> for OwnForm {
    type Rejection = PageError;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, PageError> {
        let session = Session::of(request.headers(), state).await?;
        let session = session.ok_or(Notice::SignedOut)?;
        if state.site.provenance(request.headers()) == Provenance::Foreign {
            return Err(Notice::ForeignForm.into());
        }
        let reading = axum::Form::<Fields>::from_request(request, state);
        let read = tokio::time::timeout(state.body_timeout, reading).await;
        let axum::Form(fields) = read
            .map_err(|_| Notice::BadForm)?
            .map_err(|_| Notice::BadForm)?;
        if fields.csrf != session.form_token() {
            return Err(Notice::ForeignForm.into());
        }
        Ok(Self { session, fields })
    }
}
