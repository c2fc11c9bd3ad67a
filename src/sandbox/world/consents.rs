//! Who lets which client do what, and the log of its changes that the event stream replays.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use crate::domain::{Msisdn, Timestamp};
use crate::sandbox::world::kept::KeptConsent;
use crate::sandbox::world::{Changes, Scopes, lock};

/// Changes kept for replay: about an hour of them in a busy sandbox.
const KEPT: usize = 10_000;

/// What became of a consent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConsentKind {
    /// The subscriber allows these for the first time.
    Added(Scopes),
    /// He allows others than before.
    Updated(Scopes),
    /// He allows nothing any more.
    Revoked,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConsentChange {
    /// Counts up from 1.
    pub(crate) id: u64,
    pub(crate) at: Timestamp,
    pub(crate) client: String,
    pub(crate) number: Msisdn,
    pub(crate) kind: ConsentKind,
}

/// The consents of all subscribers.
pub(crate) struct Consents {
    inner: Mutex<Inner>,
    changes: Changes,
}

#[derive(Default)]
struct Inner {
    /// By number and client.
    given: HashMap<(Msisdn, String), Scopes>,
    latest: u64,
    log: VecDeque<ConsentChange>,
}

impl Consents {
    pub(crate) fn new(changes: Changes) -> Self {
        Self {
            inner: Mutex::default(),
            changes,
        }
    }

    /// The subscriber allows `client` these scopes, besides what he allowed before.
    pub(crate) fn give(&self, client: &str, number: &Msisdn, scopes: &Scopes, now: Timestamp) {
        {
            let mut inner = lock(&self.inner);
            let key = (number.clone(), client.to_owned());
            let before = inner.given.get(&key).cloned();
            let all = before.clone().unwrap_or_default().with(scopes);
            let kind = match before {
                None => ConsentKind::Added(all.clone()),
                Some(before) if before != all => ConsentKind::Updated(all.clone()),
                Some(_) => return,
            };
            inner.given.insert(key, all);
            inner.tell(client, number, kind, now);
        }
        self.changes.note();
    }

    /// The subscriber allows `client` (`None`: anybody) nothing any more; whether he did before.
    pub(crate) fn revoke(&self, client: Option<&str>, number: &Msisdn, now: Timestamp) -> bool {
        let ended = {
            let mut inner = lock(&self.inner);
            let is_meant = |(whose, of): &(Msisdn, String)| {
                whose == number && client.is_none_or(|client| client == of)
            };
            let given = inner.given.extract_if(|key, _| is_meant(key));
            let ended: Vec<_> = given.map(|((_, client), _)| client).collect();
            for client in &ended {
                inner.tell(client, number, ConsentKind::Revoked, now);
            }
            ended
        };
        self.changes.note();
        !ended.is_empty()
    }

    /// What the subscriber allows `client`, if anything.
    pub(crate) fn given(&self, client: &str, number: &Msisdn) -> Option<Scopes> {
        let key = (number.clone(), client.to_owned());
        lock(&self.inner).given.get(&key).cloned()
    }

    /// All that are given, in the order of their numbers and clients.
    pub(crate) fn kept(&self) -> Vec<KeptConsent> {
        let inner = lock(&self.inner);
        let all = inner
            .given
            .iter()
            .map(|((number, client), scopes)| KeptConsent {
                client: client.clone(),
                number: number.clone(),
                scopes: scopes.clone(),
            });
        let mut all: Vec<_> = all.collect();
        all.sort_by(|a, b| (&a.number, &a.client).cmp(&(&b.number, &b.client)));
        all
    }

    /// Takes in what was kept. It is no change to tell.
    pub(crate) fn restore(&self, kept: Vec<KeptConsent>) {
        let given = kept.into_iter();
        let given = given.map(|one| ((one.number, one.client), one.scopes));
        lock(&self.inner).given.extend(given);
    }

    /// The clients to which the subscriber allows something.
    pub(crate) fn clients_of(&self, number: &Msisdn) -> Vec<String> {
        let inner = lock(&self.inner);
        let keys = inner.given.keys().filter(|(whose, _)| whose == number);
        let mut clients: Vec<_> = keys.map(|(_, client)| client.clone()).collect();
        clients.sort();
        clients
    }

    /// The changes for `client` after the one with this id (0: all that are kept), oldest first.
    /// [`Changes::subscribe`] tells when to look again.
    pub(crate) fn changes_after(&self, id: u64, client: &str, limit: usize) -> Vec<ConsentChange> {
        let inner = lock(&self.inner);
        let later = inner.log.iter().filter(|change| change.id > id);
        let meant = later.filter(|change| change.client == client);
        meant.take(limit).cloned().collect()
    }

    /// The id of the latest change; 0 before the first.
    pub(crate) fn latest_change(&self) -> u64 {
        lock(&self.inner).latest
    }
}

impl Inner {
    fn tell(&mut self, client: &str, number: &Msisdn, kind: ConsentKind, now: Timestamp) {
        self.latest += 1;
        self.log.push_back(ConsentChange {
            id: self.latest,
            at: now,
            client: client.to_owned(),
            number: number.clone(),
            kind,
        });
        if self.log.len() > KEPT {
            self.log.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_a_consent_is_told_once_and_to_its_client() {
        let consents = Consents::new(Changes::default());
        let number = Msisdn::parse("+4799990001").unwrap();
        let now = Timestamp::from_millis(1);
        let few = Scopes::parse("openid phone");
        let more = Scopes::parse("openid phone offline_access");
        consents.give("a", &number, &few, now);
        consents.give("a", &number, &few, now);
        consents.give("b", &number, &few, now);
        consents.give("a", &number, &more, now);
        assert!(consents.revoke(Some("a"), &number, now));
        assert!(!consents.revoke(Some("a"), &number, now));
        let told = |client| -> Vec<_> {
            let changes = consents.changes_after(0, client, 100).into_iter();
            changes.map(|change| change.kind).collect()
        };
        assert_eq!(
            told("a"),
            [
                ConsentKind::Added(few.clone()),
                ConsentKind::Updated(more),
                ConsentKind::Revoked
            ]
        );
        assert_eq!(told("b"), [ConsentKind::Added(few)]);
        assert_eq!(consents.clients_of(&number), ["b"]);
        assert_eq!(consents.latest_change(), 4);
        assert_eq!(consents.changes_after(3, "a", 100).len(), 1);
    }
}
