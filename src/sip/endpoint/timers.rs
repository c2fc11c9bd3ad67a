//! The deadlines of everything the endpoint holds, each in one place, cheap to move.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Instant;

use crate::sip::endpoint::api::CallHandle;
use crate::sip::endpoint::client::ClientId;
use crate::sip::endpoint::server::ServerId;

/// What has a deadline. At the same instant, transactions come before calls, older ones before newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKey {
    Server(ServerId),
    Client(ClientId),
    Call(CallHandle),
}

/// One deadline per key.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_key: BTreeMap<TimerKey, Instant>,
    by_time: BTreeSet<(Instant, TimerKey)>,
}

impl Timers {
    /// Sets, moves or (with none) removes the deadline of `key`.
    pub(super) fn set(&mut self, key: TimerKey, deadline: Option<Instant>) {
        let old = match deadline {
            Some(at) => self.by_key.insert(key, at),
            None => self.by_key.remove(&key),
        };
        if old == deadline {
            return;
        }
        if let Some(old) = old {
            self.by_time.remove(&(old, key));
        }
        if let Some(at) = deadline {
            self.by_time.insert((at, key));
        }
    }

    /// The first deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out one key whose deadline has come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<TimerKey> {
        let (at, key) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        self.by_key.remove(&key);
        Some(key)
    }

    /// How many deadlines are set.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn deadlines_come_in_order_and_can_be_moved_and_removed() {
        let start = tokio::time::Instant::now().into_std();
        let at = |ms| start + Duration::from_millis(ms);
        let keys = [1, 2, 3].map(|n| TimerKey::Call(CallHandle(n)));
        let mut timers = Timers::default();
        timers.set(keys[0], Some(at(30)));
        timers.set(keys[1], Some(at(20)));
        timers.set(keys[2], Some(at(10)));
        timers.set(keys[2], Some(at(40)));
        timers.set(keys[1], None);
        assert_eq!(timers.next(), Some(at(30)));
        assert_eq!(timers.pop_due(at(29)), None);
        assert_eq!(timers.pop_due(at(50)), Some(keys[0]));
        assert_eq!(timers.pop_due(at(50)), Some(keys[2]));
        assert_eq!(timers.pop_due(at(50)), None);
        assert_eq!(timers.len(), 0);
    }
}
