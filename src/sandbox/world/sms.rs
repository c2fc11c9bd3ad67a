//! The text messages that the simulated network delivered.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use crate::domain::{Msisdn, Timestamp};
use crate::sandbox::world::{Changes, lock};

/// Messages kept for one number; the oldest makes room.
const KEPT: usize = 20;

/// A text message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sms {
    pub(crate) at: Timestamp,
    pub(crate) from: String,
    pub(crate) text: String,
}

/// The inboxes of all numbers. They are asked for numbers that exist only, which bounds them.
pub(crate) struct SmsInbox {
    by_number: Mutex<HashMap<Msisdn, VecDeque<Sms>>>,
    changes: Changes,
}

impl SmsInbox {
    pub(crate) fn new(changes: Changes) -> Self {
        Self {
            by_number: Mutex::default(),
            changes,
        }
    }

    /// Delivers a message to a number that exists.
    pub(crate) fn deliver(&self, to: &Msisdn, sms: Sms) {
        {
            let mut inboxes = lock(&self.by_number);
            let inbox = inboxes.entry(to.clone()).or_default();
            inbox.push_front(sms);
            inbox.truncate(KEPT);
        }
        self.changes.note();
    }

    /// The messages of a number, newest first.
    pub(crate) fn of(&self, number: &Msisdn) -> Vec<Sms> {
        let inboxes = lock(&self.by_number);
        let inbox = inboxes.get(number).into_iter().flatten();
        inbox.cloned().collect()
    }
}
