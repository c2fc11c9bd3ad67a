//! Consents that subscribers withdraw at the operator, not here: the core tells.
//!
//! An event is acknowledged when what it means is in the database; what a crash or a broken database
//! interrupts is told again.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::domain::{DepartureCause, Msisdn, RegistrationState, Secret, SubscriberId, Timestamp};
use crate::enrolment::Enrolment;
use crate::enrolment::grants::GrantError;
use crate::mobile_core::{
    ClientTokens, ConsentChange, ConsentEvent, ConsentFeed, ConsentTarget, CoreError,
};
use crate::oauth;
use crate::storage::StorageError;

/// By how much the core's clock may be behind ours.
const CLOCKS_DIFFER_MS: i64 = 60_000;

/// Tokens of the client itself.
struct OwnTokens(oauth::Client);

#[async_trait]
impl ClientTokens for OwnTokens {
    async fn token(&self) -> Result<Secret, CoreError> {
        self.0.client_token().await.map_err(|error| {
            let why = format!("the identity server gives this service no token: {error}");
            if error.is_transient() {
                CoreError::Unavailable(why)
            } else {
                CoreError::Forbidden(why)
            }
        })
    }

    async fn rejected(&self, token: &Secret) {
        self.0.reject_client_token(token).await;
    }
}

impl Enrolment {
    /// Follows the events of the core, where there are any and somebody gives tokens for them.
    pub(crate) fn follow_consents(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        let parts = &self.0.parts;
        if let (Some(core), Some(oauth)) = (&parts.consents, &parts.oauth) {
            let tokens = Arc::new(OwnTokens(oauth.clone()));
            let feed = core.consent_events(tokens, self.random());
            let follow = self.clone().handle_all(feed);
            tasks.spawn(stop.clone().run_until_cancelled_owned(follow));
        }
    }

    /// Does what changed consents mean, one after the other.
    async fn handle_all(self, mut feed: ConsentFeed) {
        loop {
            let delivery = feed.next().await;
            if let Err(error) = self.consent_changed(&delivery.event).await {
                error!(
                    error = &error as &dyn std::error::Error,
                    "A consent has changed and that could not be noted; the core tells it again"
                );
            } else if let Err(error) = feed.ack(&delivery).await {
                debug!(%error, "A consent event was not acknowledged; the core tells it again");
            }
        }
    }

    /// Does what one changed consent means. Harmless when it is done again.
    async fn consent_changed(&self, event: &ConsentEvent) -> Result<(), GrantError> {
        let number = match &event.target {
            ConsentTarget::Number(number) => number,
            ConsentTarget::Tenant(tenant) => {
                tell_of_tenant(event.change, tenant);
                return Ok(());
            }
        };
        let Some(subscriber) = self.subscriber_of(number).await? else {
            return Ok(());
        };
        match event.change {
            ConsentChange::Revoked => self.consent_revoked(subscriber, event.at).await,
            ConsentChange::Added | ConsentChange::Updated => {
                Ok(self.consent_given(subscriber).await?)
            }
        }
    }

    async fn subscriber_of(&self, number: &Msisdn) -> Result<Option<SubscriberId>, StorageError> {
        let storage = &self.0.parts.storage;
        let subscriber = storage.subscriber_by_number(number).await?;
        Ok(subscriber.map(|subscriber| subscriber.id))
    }

    /// He has to go, unless he has consented anew since: an event may be an hour old. Where the clocks
    /// do not tell which was first, his grant does: it ended with the consent that he withdrew.
    async fn consent_revoked(
        &self,
        subscriber: SubscriberId,
        at: Option<Timestamp>,
    ) -> Result<(), GrantError> {
        let wanted_since = self.0.parts.storage.wanted_since(subscriber).await?;
        if let (Some(at), Some(wanted_since)) = (at, wanted_since)
            && at < wanted_since
            && (at.plus_millis(CLOCKS_DIFFER_MS) < wanted_since
                || self.0.grants.still_holds(subscriber).await?)
        {
            info!(
                subscriber.id = %subscriber,
                "A consent was withdrawn before the subscriber came back; nothing to do"
            );
            return Ok(());
        }
        info!(subscriber.id = %subscriber, "A subscriber has withdrawn his consent");
        self.leave(subscriber, DepartureCause::ConsentRevoked)
            .await?;
        Ok(())
    }

    /// What the core refused it may take now.
    async fn consent_given(&self, subscriber: SubscriberId) -> Result<(), StorageError> {
        let registration = self.0.parts.storage.registration(subscriber).await?;
        if let Some(one) = registration.filter(|one| one.state != RegistrationState::Active) {
            self.0.keeper.try_now(one).await;
        }
        Ok(())
    }
}

/// Who belongs to an operator is not known here. Nobody's messages are deleted for that: whose
/// registration the core refuses from now on is told there, one by one.
fn tell_of_tenant(change: ConsentChange, tenant: &str) {
    match change {
        ConsentChange::Revoked => warn!(
            tenant,
            "An operator has withdrawn its consent for all of its subscribers; registrations of \
             theirs will be refused"
        ),
        ConsentChange::Added | ConsentChange::Updated => {
            info!(
                tenant,
                "An operator has given its consent for all of its subscribers"
            );
        }
    }
}
