//! The virtual SIP registrations: which endpoint stands beside which number, and until when.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::domain::{Msisdn, Timestamp};
use crate::sandbox::world::kept::{self, KeptRegistration};
use crate::sandbox::world::{Changes, lock};

/// Registrations that one number may have at once.
const MOST_PER_NUMBER: usize = 16;

/// How the core brings the endpoint into a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum RouteType {
    /// Endpoint first, and the phone when the call comes back; for calls to and from the number.
    Loop,
    /// Phone and endpoint at once.
    Fork,
    /// The endpoint when the phone is busy, does not answer, or cannot be reached.
    Fallback,
    /// As `Loop`, for the number's own calls only.
    LoopMo,
    /// As `Loop`, for calls to the number only.
    LoopMt,
    /// The endpoint may call the number.
    Ingress,
}

impl fmt::Display for RouteType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loop => "LOOP",
            Self::Fork => "FORK",
            Self::Fallback => "FALLBACK",
            Self::LoopMo => "LOOP_MO",
            Self::LoopMt => "LOOP_MT",
            Self::Ingress => "INGRESS",
        })
    }
}

/// One registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registration {
    /// The OAuth client that made it.
    pub(crate) client: String,
    /// The endpoint, as it was registered: the key within the number.
    pub(crate) sip_uri: String,
    pub(crate) route_type: RouteType,
    /// Put after the plus of a called number when its *caller* has this registration.
    pub(crate) mobile_originating_prefix: String,
    /// Put after the plus of a called number that has this registration.
    pub(crate) mobile_terminating_prefix: String,
    #[serde(with = "kept::time")]
    pub(crate) expires_at: Timestamp,
}

/// What an upsert did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upserted {
    /// It is new.
    Added,
    /// It was there and lives on.
    Refreshed,
    /// The number has as many as it may have.
    TooMany,
}

/// The registrations of all numbers. Callers check that the number exists, which bounds them.
pub(crate) struct Registrations {
    by_number: Mutex<HashMap<Msisdn, Vec<Registration>>>,
    changes: Changes,
}

impl Registrations {
    pub(crate) fn new(changes: Changes) -> Self {
        Self {
            by_number: Mutex::default(),
            changes,
        }
    }

    /// Adds a registration, or replaces the one with the same `sip_uri`.
    pub(crate) fn upsert(&self, number: &Msisdn, new: Registration, now: Timestamp) -> Upserted {
        let upserted = {
            let mut by_number = lock(&self.by_number);
            let all = by_number.entry(number.clone()).or_default();
            all.retain(|one| one.expires_at > now);
            let same = all.iter_mut().find(|one| one.sip_uri == new.sip_uri);
            if let Some(same) = same {
                *same = new;
                Upserted::Refreshed
            } else if all.len() < MOST_PER_NUMBER {
                all.push(new);
                Upserted::Added
            } else {
                Upserted::TooMany
            }
        };
        self.changes.note();
        upserted
    }

    /// Takes the registration with this `sip_uri` away; whether it was there.
    pub(crate) fn delete(&self, number: &Msisdn, sip_uri: &str, now: Timestamp) -> bool {
        let was_there = {
            let mut by_number = lock(&self.by_number);
            let Some(all) = by_number.get_mut(number) else {
                return false;
            };
            all.retain(|one| one.expires_at > now);
            let before = all.len();
            all.retain(|one| one.sip_uri != sip_uri);
            before != all.len()
        };
        self.changes.note();
        was_there
    }

    /// All that live, in the order of their numbers.
    pub(crate) fn kept(&self, now: Timestamp) -> Vec<KeptRegistration> {
        let by_number = lock(&self.by_number);
        let all = by_number.iter().flat_map(|(number, all)| {
            let alive = all.iter().filter(|one| one.expires_at > now);
            alive.map(|one| KeptRegistration {
                number: number.clone(),
                registration: one.clone(),
            })
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by(|a, b| a.number.cmp(&b.number));
        all
    }

    /// The live registrations of a number, in the order they were made.
    pub(crate) fn of(&self, number: &Msisdn, now: Timestamp) -> Vec<Registration> {
        let by_number = lock(&self.by_number);
        let all = by_number.get(number).into_iter().flatten();
        all.filter(|one| one.expires_at > now).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(sip_uri: &str, until: i64) -> Registration {
        Registration {
            client: "aftertone".into(),
            sip_uri: sip_uri.into(),
            route_type: RouteType::Fallback,
            mobile_originating_prefix: String::new(),
            mobile_terminating_prefix: String::new(),
            expires_at: Timestamp::from_millis(until),
        }
    }

    #[test]
    fn a_registration_lives_until_its_end_unless_it_is_refreshed_or_deleted() {
        let at = Timestamp::from_millis;
        let all = Registrations::new(Changes::default());
        let number = Msisdn::parse("+4799990001").unwrap();
        let upsert = |uri, until, now| all.upsert(&number, registration(uri, until), at(now));
        assert_eq!(upsert("sips:a", 100, 0), Upserted::Added);
        assert_eq!(upsert("sips:a", 150, 50), Upserted::Refreshed);
        assert_eq!(all.of(&number, at(149)).len(), 1);
        assert!(all.of(&number, at(150)).is_empty());
        assert_eq!(upsert("sips:a", 300, 200), Upserted::Added);
        assert!(!all.delete(&number, "sips:b", at(200)));
        assert!(all.delete(&number, "sips:a", at(200)));
        assert!(!all.delete(&number, "sips:a", at(200)));
    }

    #[test]
    fn a_number_has_a_bounded_count_of_registrations() {
        let all = Registrations::new(Changes::default());
        let number = Msisdn::parse("+4799990001").unwrap();
        let now = Timestamp::from_millis(0);
        for n in 0..MOST_PER_NUMBER {
            let new = registration(&format!("sips:{n}"), 100);
            assert_eq!(all.upsert(&number, new, now), Upserted::Added);
        }
        let one_more = registration("sips:more", 100);
        assert_eq!(all.upsert(&number, one_more, now), Upserted::TooMany);
    }
}
