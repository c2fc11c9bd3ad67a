//! The numbers of the sandbox.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::domain::{Msisdn, Secret};
use crate::sandbox::config::{Behaviour, NumberConfig};
use crate::sandbox::world::{Changes, lock};

/// A number that exists.
#[derive(Debug, Clone)]
pub(crate) struct Number {
    pub(crate) number: Msisdn,
    /// What to call it on the page.
    pub(crate) name: String,
    /// With which a phone registers as this number.
    pub(crate) password: Secret,
    /// What its phone does when it is called.
    pub(crate) behaviour: Behaviour,
}

/// Who exists, and how his phone behaves.
pub(crate) struct Numbers {
    all: Mutex<BTreeMap<Msisdn, Number>>,
    changes: Changes,
}

impl Numbers {
    pub(crate) fn new(configured: &[NumberConfig], changes: Changes) -> Self {
        let all = configured.iter().map(|number| {
            let number = Number {
                number: number.number.clone(),
                name: number.name.clone(),
                password: number.password.clone(),
                behaviour: number.behaviour,
            };
            (number.number.clone(), number)
        });
        Self {
            all: Mutex::new(all.collect()),
            changes,
        }
    }

    /// Every number, in order.
    pub(crate) fn all(&self) -> Vec<Number> {
        lock(&self.all).values().cloned().collect()
    }

    /// The number, where it exists.
    pub(crate) fn of(&self, number: &Msisdn) -> Option<Number> {
        lock(&self.all).get(number).cloned()
    }

    /// Whether the number exists.
    pub(crate) fn has(&self, number: &Msisdn) -> bool {
        lock(&self.all).contains_key(number)
    }

    /// Changes what its phone does from the next call on; whether the number exists.
    pub(crate) fn set_behaviour(&self, number: &Msisdn, behaviour: Behaviour) -> bool {
        let exists = match lock(&self.all).get_mut(number) {
            Some(number) => {
                number.behaviour = behaviour;
                true
            }
            None => false,
        };
        self.changes.note();
        exists
    }
}
