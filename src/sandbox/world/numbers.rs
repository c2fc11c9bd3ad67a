//! The numbers of the sandbox.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::domain::Msisdn;
use crate::sandbox::config::Behaviour;
use crate::sandbox::world::{Changes, lock};

/// A number that exists.
pub(crate) use crate::sandbox::config::NumberConfig as Number;

/// Who exists, and how his phone behaves.
pub(crate) struct Numbers {
    all: Mutex<BTreeMap<Msisdn, Number>>,
    changes: Changes,
}

impl Numbers {
    pub(crate) fn new(configured: &[Number], changes: Changes) -> Self {
        let all = configured.iter();
        let all = all.map(|number| (number.number.clone(), number.clone()));
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

    /// Changes what its phone does from the next call on, where the number exists.
    pub(crate) fn set_behaviour(&self, number: &Msisdn, behaviour: Behaviour) {
        if let Some(number) = lock(&self.all).get_mut(number) {
            number.behaviour = behaviour;
        }
        self.changes.note();
    }
}
