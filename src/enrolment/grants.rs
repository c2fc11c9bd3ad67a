//! Access tokens, for whoever asks the core or the identity server on behalf of a subscriber.
//!
//! A refresh token that is used up is worth nothing, and losing its successor loses the subscriber.
//! So one refresh is in flight for each subscriber, it runs to its end whoever waits for it or does
//! not any more, and its result is durable before anybody gets to use it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::clock::Clock;
use crate::domain::{Grant, Secret, SubscriberId, Timestamp};
use crate::enrolment::keeper::schedule::breaker::Breaker;
use crate::mobile_core::TokenKind;
use crate::oauth::{Client, Error, Tokens};
use crate::storage::{Storage, StorageError};
use crate::vault::{Vault, VaultError};

/// A token is not used for the last minute of its life, or the last fifth where that is less.
const MARGIN_MS: i64 = 60_000;

/// Why there is no access token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrantError {
    /// The subscriber has none: he left, or never signed in.
    #[error("there is no grant of this subscriber")]
    None,
    /// The identity server does not know it any more. This is decisive.
    #[error("the identity server does not know the consent any more")]
    Lost,
    /// It was replaced while it was used: he signed in again.
    #[error("the grant was replaced meanwhile")]
    Replaced,
    /// The access token has ended and there is none to refresh it with.
    #[error(
        "the identity server gave no refresh token (is \"offline_access\" among oauth.scopes?); sign in again"
    )]
    NoRefreshToken,
    /// It cannot be opened.
    #[error("the stored tokens cannot be opened; is the key missing from enrolment.token_key?")]
    Sealed(#[source] VaultError),
    /// The identity server is out of reach; it is left alone for some seconds.
    #[error("the identity server is out of reach")]
    IssuerDown,
    /// The identity server did not give what was asked for.
    #[error(transparent)]
    Issuer(Error),
    /// The refresh ended in a defect, which is logged.
    #[error("the refresh was interrupted")]
    Interrupted,
    /// No identity server is configured.
    #[error("no identity server is configured under [oauth]")]
    NoIssuer,
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A grant, open.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    /// For requests on behalf of the subscriber.
    pub(crate) access: Secret,
    /// When `access` ends.
    pub(crate) expires_at: Timestamp,
    /// When it is time for a new one.
    pub(crate) renew_at: Timestamp,
    /// For new ones.
    pub(crate) refresh: Option<Secret>,
}

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Plain {
    access: Box<str>,
    expires_at: i64,
    renew_at: i64,
    refresh: Option<Box<str>>,
}

/// Everybody's access tokens. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Grants(Arc<Inner>);

struct Inner {
    storage: Arc<dyn Storage>,
    vault: Arc<Vault>,
    oauth: Option<Client>,
    kind: TokenKind,
    clock: Arc<dyn Clock>,
    tasks: TaskTracker,
    /// Whose grant is being looked at. An entry goes with the last who holds or awaits it.
    turns: Mutex<HashMap<SubscriberId, Turn>>,
    /// Refreshed grants that could not be stored yet, with the version they replace. While there is
    /// one, nothing is refreshed.
    unsaved: Mutex<HashMap<SubscriberId, (Vec<u8>, i64)>>,
    /// Of the identity server.
    breaker: Mutex<Breaker>,
    chance: Mutex<StdRng>,
}

type Turn = Arc<tokio::sync::Mutex<()>>;

impl Grants {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        vault: Arc<Vault>,
        oauth: Option<Client>,
        kind: TokenKind,
        clock: Arc<dyn Clock>,
        tasks: TaskTracker,
        seed: [u8; 32],
    ) -> Self {
        Self(Arc::new(Inner {
            storage,
            vault,
            oauth,
            kind,
            clock,
            tasks,
            turns: Mutex::default(),
            unsaved: Mutex::default(),
            breaker: Mutex::default(),
            chance: Mutex::new(StdRng::from_seed(seed)),
        }))
    }

    /// Seals tokens for a subscriber, as the storage keeps them.
    pub(crate) fn seal(&self, of: SubscriberId, tokens: &Tokens) -> Vec<u8> {
        self.0.seal(of, tokens)
    }

    /// Opens a grant of this subscriber.
    pub(crate) fn open(&self, of: SubscriberId, grant: &Grant) -> Result<Opened, GrantError> {
        self.0.open(of, grant)
    }

    /// A token to ask the core with: the subscriber's, or our own where `core.token` says so.
    /// `rejected` is one that a server did not accept though it has not ended.
    pub(crate) async fn access(
        &self,
        of: SubscriberId,
        rejected: Option<&Secret>,
    ) -> Result<Secret, GrantError> {
        match self.0.kind {
            TokenKind::Client => self.0.client_token(rejected).await,
            TokenKind::User => self.of_subscriber(of, None, rejected).await,
        }
    }

    /// The same by a grant that has moved into a departure.
    pub(crate) async fn access_by(
        &self,
        of: SubscriberId,
        grant: &Grant,
        rejected: Option<&Secret>,
    ) -> Result<Secret, GrantError> {
        match self.0.kind {
            TokenKind::Client => self.0.client_token(rejected).await,
            TokenKind::User => self.of_subscriber(of, Some(grant.clone()), rejected).await,
        }
    }

    /// The subscriber's own token by a grant that has moved into a departure, whosoever's token the
    /// core is asked with.
    pub(crate) async fn of_person_by(
        &self,
        of: SubscriberId,
        grant: &Grant,
        rejected: Option<&Secret>,
    ) -> Result<Secret, GrantError> {
        self.of_subscriber(of, Some(grant.clone()), rejected).await
    }

    /// Whether the identity server still knows the subscriber's grant: asks it for a new token. A
    /// grant without a refresh token cannot be asked for, and does not count.
    pub(crate) async fn still_holds(&self, of: SubscriberId) -> Result<bool, GrantError> {
        let renewed = match self.of_subscriber(of, None, None).await {
            Ok(access) => self.of_subscriber(of, None, Some(&access)).await,
            failed => failed,
        };
        match renewed {
            // Replaced: by a sign-in that is newer still.
            Ok(_) | Err(GrantError::Replaced) => Ok(true),
            Err(GrantError::None | GrantError::Lost | GrantError::NoRefreshToken) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn of_subscriber(
        &self,
        of: SubscriberId,
        departed: Option<Grant>,
        rejected: Option<&Secret>,
    ) -> Result<Secret, GrantError> {
        let inner = &self.0;
        let turn = inner.turn(of).await;
        inner.store_unsaved().await?;
        let is_departed = departed.is_some();
        let grant = match departed {
            Some(grant) => grant,
            None => inner.storage.grant(of).await?.ok_or(GrantError::None)?,
        };
        let opened = inner.open(of, &grant)?;
        let now = inner.clock.now();
        let is_good = opened.expires_at > now && rejected != Some(&opened.access);
        if is_good && (opened.renew_at > now || opened.refresh.is_none()) {
            return Ok(opened.access);
        }
        let refresh = opened.refresh.ok_or(GrantError::NoRefreshToken)?;
        let task = inner.clone().refresh(of, grant, refresh, is_departed, turn);
        // Whoever stops waiting does not stop it: the old refresh token may be used up already.
        let outcome = inner.tasks.spawn(task).await;
        outcome.unwrap_or(Err(GrantError::Interrupted))
    }
}

impl Inner {
    async fn refresh(
        self: Arc<Self>,
        of: SubscriberId,
        grant: Grant,
        refresh: Secret,
        is_departed: bool,
        _turn: TurnGuard,
    ) -> Result<Secret, GrantError> {
        let oauth = self.oauth.as_ref().ok_or(GrantError::NoIssuer)?;
        let asking = self.ask_issuer()?;
        let answer = oauth.refresh(&refresh).await;
        asking.ended(answer.as_ref().err());
        match answer {
            Ok(tokens) => {
                let sealed = self.seal(of, &tokens);
                self.store(of, sealed, grant.version).await?;
                Ok(tokens.access)
            }
            Err(Error::InvalidGrant) if is_departed => Err(GrantError::Lost),
            Err(Error::InvalidGrant) => match self.storage.grant(of).await? {
                Some(newer) if newer.version != grant.version => Err(GrantError::Replaced),
                Some(_) => Err(GrantError::Lost),
                None => Err(GrantError::None),
            },
            Err(error) => Err(GrantError::Issuer(error)),
        }
    }

    /// Our own token.
    async fn client_token(&self, rejected: Option<&Secret>) -> Result<Secret, GrantError> {
        let oauth = self.oauth.as_ref().ok_or(GrantError::NoIssuer)?;
        let asking = self.ask_issuer()?;
        if let Some(rejected) = rejected {
            oauth.reject_client_token(rejected).await;
        }
        let answer = oauth.client_token().await;
        asking.ended(answer.as_ref().err());
        answer.map_err(GrantError::Issuer)
    }

    /// Makes a refreshed grant durable. A full disk must not cost the subscriber: what cannot be
    /// stored is kept until it can.
    async fn store(
        &self,
        of: SubscriberId,
        sealed: Vec<u8>,
        version: i64,
    ) -> Result<(), StorageError> {
        match self.storage.replace_grant(of, &sealed, version).await {
            // Where it is gone or newer, this one is of no use to anybody.
            Ok(_) => Ok(()),
            Err(cause) => {
                error!(
                    subscriber.id = %of,
                    error = &cause as &dyn std::error::Error,
                    "A refreshed token could not be stored and is kept in memory; do not stop the \
                     service before the database can be written, or this subscriber must sign in again"
                );
                locked(&self.unsaved).insert(of, (sealed, version));
                Err(cause)
            }
        }
    }

    async fn store_unsaved(&self) -> Result<(), StorageError> {
        loop {
            let first = locked(&self.unsaved)
                .iter()
                .next()
                .map(|(of, (sealed, version))| (*of, sealed.clone(), *version));
            let Some((of, sealed, version)) = first else {
                return Ok(());
            };
            self.storage.replace_grant(of, &sealed, version).await?;
            locked(&self.unsaved).remove(&of);
        }
    }

    fn seal(&self, of: SubscriberId, tokens: &Tokens) -> Vec<u8> {
        let life_ms = tokens.expires_at.as_millis() - self.clock.now().as_millis();
        let margin_ms = (life_ms / 5).clamp(0, MARGIN_MS);
        let plain = Plain {
            access: tokens.access.expose().into(),
            expires_at: tokens.expires_at.as_millis(),
            renew_at: tokens.expires_at.as_millis() - margin_ms,
            refresh: tokens.refresh.as_ref().map(|token| token.expose().into()),
        };
        let plain = serde_json::to_vec(&plain).expect("texts and numbers can be written as JSON");
        let nonce = locked(&self.chance).random();
        self.vault.seal(nonce, &plain, &bound_to(of))
    }

    fn open(&self, of: SubscriberId, grant: &Grant) -> Result<Opened, GrantError> {
        let plain = self.vault.open(&grant.sealed, &bound_to(of));
        let plain = plain.map_err(GrantError::Sealed)?;
        let plain: Plain =
            serde_json::from_slice(&plain).map_err(|_| GrantError::Sealed(VaultError::Broken))?;
        Ok(Opened {
            access: Secret::new(plain.access),
            expires_at: Timestamp::from_millis(plain.expires_at),
            renew_at: Timestamp::from_millis(plain.renew_at),
            refresh: plain.refresh.map(Secret::new),
        })
    }

    /// Unless the identity server is down and somebody else finds out whether it is back.
    fn ask_issuer(&self) -> Result<Asking<'_>, GrantError> {
        let mut breaker = self.breaker();
        if !breaker.permits(self.clock.now()) {
            return Err(GrantError::IssuerDown);
        }
        breaker.asked();
        Ok(Asking {
            inner: self,
            has_ended: false,
        })
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        locked(&self.breaker)
    }

    /// Waits until nobody else looks at the grant of this subscriber.
    async fn turn(self: &Arc<Self>, of: SubscriberId) -> TurnGuard {
        let turn = locked(&self.turns).entry(of).or_default().clone();
        TurnGuard {
            held: Some(turn.lock_owned().await),
            of,
            inner: self.clone(),
        }
    }
}

/// The identity server is being asked. Where that is given up half-way, it told nothing.
struct Asking<'a> {
    inner: &'a Inner,
    has_ended: bool,
}

impl Asking<'_> {
    fn ended(mut self, error: Option<&Error>) {
        self.has_ended = true;
        let inner = self.inner;
        if error.is_some_and(Error::is_transient) {
            let chance = &mut locked(&inner.chance);
            inner.breaker().failed(inner.clock.now(), chance);
        } else {
            inner.breaker().succeeded();
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.inner.breaker().told_nothing();
        }
    }
}

/// A subscriber's grant is looked at until this is dropped.
struct TurnGuard {
    held: Option<OwnedMutexGuard<()>>,
    of: SubscriberId,
    inner: Arc<Inner>,
}

impl Drop for TurnGuard {
    fn drop(&mut self) {
        self.held = None;
        let mut turns = locked(&self.inner.turns);
        // One clone is in the map; others are with those who wait.
        if turns
            .get(&self.of)
            .is_some_and(|turn| Arc::strong_count(turn) == 1)
        {
            turns.remove(&self.of);
        }
    }
}

/// What a sealed grant is bound to: whose it is.
pub(super) fn bound_to(of: SubscriberId) -> Vec<u8> {
    [b"grant of ".as_slice(), of.as_bytes()].concat()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
