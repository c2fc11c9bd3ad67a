//! A subscriber signs in: a browser goes to the identity server and comes back.
//!
//! What belongs to a sign-in on its way (state, nonce, PKCE verifier) is carried by the browser
//! itself, sealed, in a cookie: the service keeps nothing of those who never come back, and every
//! process with the same key can finish what another began. The code works once, at the issuer.

use std::sync::PoisonError;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::json;

use crate::domain::choice::DEFAULT_TIME_ZONE;
use crate::domain::{DepartureCause, Msisdn, Registration, Secret, Timestamp};
use crate::enrolment::{Callback, Enrolment, SignIn, SignInError, SignedIn};
use crate::oauth;
use crate::oauth::{Authorization, Identity, Tokens};
use crate::secret::hash_secret;
use crate::storage::{NewEnrolment, NewSubscriber, StorageError};
use crate::telemetry;

/// A sign-in must come back within this: long enough to wait for an SMS and to read what is asked.
pub(crate) const PENDING_SECS: u32 = 600;
const PENDING_MS: i64 = PENDING_SECS as i64 * 1000;
/// What pending sign-ins are sealed for, so that nothing else that is sealed passes for one.
const BOUND_TO: &[u8] = b"pending sign-in";
/// Longer than what we make, and than any code.
const MAX_INPUT: usize = 4096;

/// A sign-in on its way, as it stands in the cookie.
#[derive(Deserialize)]
struct Pending {
    state: Secret,
    nonce: Secret,
    verifier: Secret,
    made_at: i64,
}

impl Enrolment {
    /// Begins a sign-in: where to send the browser, and what it has to bring back.
    pub async fn begin(&self) -> Result<SignIn, SignInError> {
        let authorization = self.identity_server()?.authorize().await?;
        Ok(SignIn {
            pending: self.seal(&authorization),
            url: authorization.url,
        })
    }

    /// Ends a sign-in: `pending` is what [`Enrolment::begin`] gave the browser. The subscriber is
    /// enrolled; his first registration is waited for, up to four seconds.
    pub async fn complete(
        &self,
        pending: &str,
        callback: Callback,
    ) -> Result<SignedIn, SignInError> {
        let outcome = self.sign_in(pending, &callback).await;
        let result = outcome.as_ref().map_or_else(SignInError::as_str, |_| "ok");
        metrics::counter!(telemetry::SIGN_INS, "result" => result).increment(1);
        outcome
    }

    async fn sign_in(&self, pending: &str, callback: &Callback) -> Result<SignedIn, SignInError> {
        let server = self.identity_server()?;
        let pending = self.open(pending)?;
        // Before anything else of the callback is looked at: whoever did not begin here may not
        // even make us show an error of his choice (RFC 6749 section 10.12).
        if callback.state.as_deref().map(Secret::new).as_ref() != Some(&pending.state) {
            return Err(SignInError::Forged);
        }
        let age_ms = self.now().as_millis().saturating_sub(pending.made_at);
        if !(0..PENDING_MS).contains(&age_ms) {
            return Err(SignInError::Expired);
        }
        server.check_issuer(callback.iss.as_deref()).await?;
        if let Some(code) = &callback.error {
            return Err(oauth::Error::of_callback(code).into());
        }
        let code = callback.code.as_deref();
        let code = code.filter(|code| (1..=MAX_INPUT).contains(&code.len()));
        let code = code.ok_or(SignInError::Forged)?;
        self.claim(&pending.state)?;
        let (tokens, identity) = server
            .exchange(code, &pending.verifier, &pending.nonce)
            .await?;
        self.enrol(&tokens, identity).await
    }

    /// Lets a sign-in redeem its code, once. A code that comes again, by a reload while the first
    /// request still waits for the core, would end at the identity server the grant that the first
    /// one got (RFC 6749 section 4.1.2), and with it the enrolment.
    fn claim(&self, state: &Secret) -> Result<(), SignInError> {
        let now = self.now();
        let claimed = self.0.claimed.lock();
        let mut claimed = claimed.unwrap_or_else(PoisonError::into_inner);
        claimed.retain(|_, until| *until > now);
        match claimed.insert(hash_secret(state.expose()), now.plus_millis(PENDING_MS)) {
            None => Ok(()),
            Some(_) => Err(SignInError::Expired),
        }
    }

    /// The registration of a number, which another will take the place of.
    async fn registration_of(&self, number: &Msisdn) -> Result<Option<Registration>, StorageError> {
        let storage = &self.0.parts.storage;
        match storage.subscriber_by_number(number).await? {
            Some(holder) => storage.registration(holder.id).await,
            None => Ok(None),
        }
    }

    /// Stores who came, and registers him at the core.
    async fn enrol(&self, tokens: &Tokens, identity: Identity) -> Result<SignedIn, SignInError> {
        let (parts, now) = (&self.0.parts, self.now());
        if tokens.refresh.is_none() {
            tracing::warn!(
                "The identity server gave no refresh token, so that a registration lasts no longer \
                 than the access token: is offline_access among oauth.scopes, and allowed there?"
            );
        }
        let enrolment = NewEnrolment {
            account: identity.account,
            subscriber: NewSubscriber {
                number: identity.number,
                name: None,
                time_zone: DEFAULT_TIME_ZONE.to_owned(),
                language: parts.language.clone(),
            },
            sip_uri: parts.sip_uri.clone(),
            erase_displaced_at: parts.config.erase_at(DepartureCause::NumberReassigned, now),
        };
        let seal = |of| self.0.grants.seal(of, tokens);
        let former = self.registration_of(&enrolment.subscriber.number).await?;
        let enrolled = parts.storage.enrol(&enrolment, &seal, now).await?;
        if let Some(former) = former {
            self.0.keeper.forget(former.seq).await;
        }
        let registration = match enrolled.registration {
            Some(wanted) => self.0.keeper.register_now(wanted).await?,
            None => None,
        };
        tracing::info!(
            subscriber = %enrolled.subscriber.id,
            is_new = enrolled.is_new,
            "Signed {} in",
            enrolled.subscriber.number
        );
        Ok(SignedIn {
            subscriber: enrolled.subscriber,
            is_new: enrolled.is_new,
            registration,
        })
    }

    fn seal(&self, authorization: &Authorization) -> String {
        let plain = json!({
            "state": authorization.state.expose(),
            "nonce": authorization.nonce.expose(),
            "verifier": authorization.verifier.expose(),
            "made_at": self.now().as_millis(),
        });
        let vault = &self.0.parts.vault;
        let sealed = vault.seal(self.random(), plain.to_string().as_bytes(), BOUND_TO);
        URL_SAFE_NO_PAD.encode(sealed)
    }

    fn open(&self, pending: &str) -> Result<Pending, SignInError> {
        let opened = (pending.len() <= MAX_INPUT)
            .then(|| URL_SAFE_NO_PAD.decode(pending).ok())
            .flatten()
            .and_then(|sealed| self.0.parts.vault.open(&sealed, BOUND_TO).ok())
            .and_then(|plain| serde_json::from_slice(&plain).ok());
        opened.ok_or(SignInError::Forged)
    }

    fn identity_server(&self) -> Result<&oauth::Client, SignInError> {
        self.0.parts.oauth.as_ref().ok_or(SignInError::NotOpen)
    }

    fn now(&self) -> Timestamp {
        self.0.parts.clock.now()
    }
}

impl SignInError {
    /// The name used in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotOpen => "not-open",
            Self::ConsentDenied => "consent-denied",
            Self::NumberNotVerified => "number-not-verified",
            Self::NoNumber => "no-number",
            Self::Forged => "forged",
            Self::Expired => "expired",
            Self::IssuerUnavailable(_) => "issuer-unavailable",
            Self::IssuerRefused(_) => "issuer-refused",
            Self::InvalidIdToken(_) => "invalid-id-token",
            Self::Storage(_) => "storage",
        }
    }
}

impl From<oauth::Error> for SignInError {
    fn from(error: oauth::Error) -> Self {
        match error {
            oauth::Error::ConsentDenied => Self::ConsentDenied,
            oauth::Error::NumberNotVerified => Self::NumberNotVerified,
            oauth::Error::NoNumber => Self::NoNumber,
            // The code was used, or waited for too long.
            oauth::Error::InvalidGrant => Self::Expired,
            oauth::Error::OtherIssuer => Self::Forged,
            oauth::Error::InvalidIdToken(fault) => Self::InvalidIdToken(fault),
            oauth::Error::Refused { code, .. } => Self::IssuerRefused(code.to_string()),
            oauth::Error::Unavailable { .. }
            | oauth::Error::Nonsense { .. }
            | oauth::Error::NoEndpoint(_) => Self::IssuerUnavailable(error),
        }
    }
}
