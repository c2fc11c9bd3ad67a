//! Asking the core once, for one registration.

use std::sync::Arc;
use std::time::Duration;

use tokio::time;
use tracing::debug;

use crate::domain::{Registration, Secret};
use crate::enrolment::grants::{GrantError, Grants};
use crate::enrolment::keeper::schedule::{Job, Outcome};
use crate::mobile_core::{CoreError, MobileCore, Wish};
use crate::storage::Storage;

/// What is left over from each part's own deadline (database, identity server, core twice) ends here.
pub(super) const LONGEST: Duration = Duration::from_secs(60);
/// The core's client has a deadline of its own; this is for one that does not keep it.
const GRACE: Duration = Duration::from_secs(1);

/// What attempts need.
pub(crate) struct Attempts {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) core: Arc<dyn MobileCore>,
    /// How long the core may take to answer.
    pub(crate) core_timeout: Duration,
    pub(crate) grants: Grants,
    /// What is registered.
    pub(crate) sip_uri: String,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    /// For the metric.
    pub(super) result: &'static str,
    /// The core has another SIP URI now than it had before.
    pub(super) has_moved: bool,
}

impl Ended {
    pub(super) fn with(outcome: Outcome, result: &'static str) -> Self {
        Self {
            outcome,
            result,
            has_moved: false,
        }
    }
}

impl Attempts {
    /// One attempt, which ends in bounded time.
    pub(super) async fn run(&self, job: Job) -> Ended {
        time::timeout(LONGEST, self.attempt(job))
            .await
            .unwrap_or_else(|_| {
                let reason = "the attempt took too long".to_owned();
                Ended::with(Outcome::Postponed(reason), "stuck")
            })
    }

    async fn attempt(&self, job: Job) -> Ended {
        let registration = match self.storage.registration(job.subscriber).await {
            Ok(Some(registration)) if registration.seq == job.seq => registration,
            // He left, or signed in again and has a newer one.
            Ok(_) => return Ended::with(Outcome::Gone, "gone"),
            Err(error) => {
                return Ended::with(Outcome::Postponed(error.to_string()), "storage");
            }
        };
        let token = match self.grants.access(job.subscriber, None).await {
            Ok(token) => token,
            Err(error) => return without_token(&error),
        };
        match self.upsert(&registration, &token).await {
            // The token may have ended early: revoked, or by another clock.
            Err(CoreError::Unauthenticated) => {
                match self.grants.access(job.subscriber, Some(&token)).await {
                    Ok(token) => {
                        let answer = self.upsert(&registration, &token).await;
                        self.ended(&registration, &token, answer).await
                    }
                    Err(error) => without_token(&error),
                }
            }
            answer => self.ended(&registration, &token, answer).await,
        }
    }

    async fn upsert(
        &self,
        registration: &Registration,
        token: &Secret,
    ) -> Result<Duration, CoreError> {
        let wish = Wish {
            number: registration.number.clone(),
            sip_uri: self.sip_uri.clone(),
        };
        let answer = self.core.upsert(&wish, token);
        time::timeout(self.core_timeout + GRACE, answer)
            .await
            .unwrap_or(Err(CoreError::Deadline))
    }

    async fn ended(
        &self,
        registration: &Registration,
        token: &Secret,
        answer: Result<Duration, CoreError>,
    ) -> Ended {
        let life = match answer {
            Ok(life) => life,
            Err(error) => return failed(&error),
        };
        let has_moved = registration.sip_uri != self.sip_uri;
        if has_moved && registration.expires_at.is_some() {
            self.delete_former(registration, token).await;
        }
        Ended {
            has_moved,
            ..Ended::with(Outcome::Registered { life }, "registered")
        }
    }

    /// `sip.uri` has changed. The new one is registered before the old one is deleted, so that no
    /// call is lost. Where that fails, the old one ends by itself.
    async fn delete_former(&self, registration: &Registration, token: &Secret) {
        let former = Wish {
            number: registration.number.clone(),
            sip_uri: registration.sip_uri.clone(),
        };
        let answer = self.core.delete(&former, token);
        let answer = time::timeout(self.core_timeout + GRACE, answer).await;
        if !matches!(answer, Ok(Ok(()))) {
            let subscriber = registration.subscriber;
            debug!(
                subscriber.id = %subscriber,
                "The registration with the former SIP URI was not deleted and ends by itself"
            );
        }
    }
}

fn failed(error: &CoreError) -> Ended {
    let reason = error.to_string();
    let outcome = match error {
        CoreError::NotAcceptable(_) | CoreError::Forbidden(_) => Outcome::Refused(reason),
        // A fresh token was refused too: that is the core's fault, or soon mended.
        CoreError::Unauthenticated
        | CoreError::Unavailable(_)
        | CoreError::Deadline
        | CoreError::Nonsense(_) => Outcome::CoreFailed(reason),
    };
    Ended::with(outcome, error.as_str())
}

fn without_token(error: &GrantError) -> Ended {
    let reason = error.to_string();
    match error {
        GrantError::Lost => Ended::with(Outcome::ConsentLost(reason), "consent-lost"),
        // He has to sign in, and is told so; it is tried again in case he does elsewhere.
        GrantError::None | GrantError::NoRefreshToken => {
            Ended::with(Outcome::Refused(reason), "no-grant")
        }
        GrantError::Storage(_) => Ended::with(Outcome::Postponed(reason), "storage"),
        GrantError::Replaced
        | GrantError::Interrupted
        | GrantError::Sealed(_)
        | GrantError::IssuerDown
        | GrantError::Issuer(_)
        | GrantError::NoIssuer => Ended::with(Outcome::Postponed(reason), "no-token"),
    }
}
