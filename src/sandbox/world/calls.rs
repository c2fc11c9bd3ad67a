//! What happened in the latest calls, for the page and for tests.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::domain::{Msisdn, Timestamp};
use crate::sandbox::world::{Changes, lock};

/// Calls kept; the oldest makes room.
const KEPT: usize = 100;
/// Steps kept of one call; what comes after is not written down.
const STEPS: usize = 60;

/// A call through the SIP core.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Counts up.
    pub(crate) id: u64,
    pub(crate) began_at: Timestamp,
    /// Who called, where it is a number.
    pub(crate) from: Option<Msisdn>,
    /// Who was called, where it is a number.
    pub(crate) to: Option<Msisdn>,
    /// What happened, in words for people, in order.
    pub(crate) steps: Vec<(Timestamp, String)>,
    pub(crate) ended_at: Option<Timestamp>,
    /// By which the SIP core knows it.
    call_id: String,
    /// A simulated caller placed it, and tells when it is over for him.
    is_placed: bool,
}

/// The latest calls.
pub(crate) struct CallLog {
    inner: Mutex<Inner>,
    changes: Changes,
}

#[derive(Default)]
struct Inner {
    latest: u64,
    calls: VecDeque<Call>,
}

impl CallLog {
    pub(crate) fn new(changes: Changes) -> Self {
        Self {
            inner: Mutex::default(),
            changes,
        }
    }

    /// A call begins at the SIP core; its id, which is that of the simulated caller who placed it.
    pub(crate) fn begin(
        &self,
        call_id: &str,
        from: Option<Msisdn>,
        to: Option<Msisdn>,
        now: Timestamp,
    ) -> u64 {
        let placed = {
            let inner = lock(&self.inner);
            let mut running = inner.calls.iter().filter(|call| call.ended_at.is_none());
            running
                .find(|call| call.call_id == call_id)
                .map(|call| call.id)
        };
        placed.unwrap_or_else(|| self.add(call_id, from, to, now, false))
    }

    /// A simulated caller places a call; its id.
    pub(crate) fn place(&self, call_id: &str, from: &Msisdn, to: &Msisdn, now: Timestamp) -> u64 {
        self.add(call_id, Some(from.clone()), Some(to.clone()), now, true)
    }

    fn add(
        &self,
        call_id: &str,
        from: Option<Msisdn>,
        to: Option<Msisdn>,
        now: Timestamp,
        is_placed: bool,
    ) -> u64 {
        let id = {
            let mut inner = lock(&self.inner);
            inner.latest += 1;
            let id = inner.latest;
            inner.calls.push_back(Call {
                id,
                began_at: now,
                from,
                to,
                steps: Vec::new(),
                ended_at: None,
                call_id: call_id.to_owned(),
                is_placed,
            });
            if inner.calls.len() > KEPT {
                inner.calls.pop_front();
            }
            id
        };
        self.changes.note();
        id
    }

    /// Something happened in a call; without effect where it is forgotten.
    pub(crate) fn note(&self, call: u64, now: Timestamp, what: impl Into<String>) {
        self.change(call, |call| {
            if call.steps.len() < STEPS {
                call.steps.push((now, what.into()));
            }
        });
    }

    /// A call is over for the SIP core.
    pub(crate) fn end(&self, call: u64, now: Timestamp, how: impl Into<String>) {
        self.change(call, |call| {
            call.steps.push((now, how.into()));
            if !call.is_placed {
                call.ended_at = Some(now);
            }
        });
    }

    /// A call is over for the simulated caller who placed it.
    pub(crate) fn finish(&self, call: u64, now: Timestamp) {
        self.change(call, |call| call.ended_at = Some(now));
    }

    /// The latest calls, newest first.
    pub(crate) fn recent(&self, limit: usize) -> Vec<Call> {
        let inner = lock(&self.inner);
        inner.calls.iter().rev().take(limit).cloned().collect()
    }

    /// One call, where it is remembered.
    pub(crate) fn call(&self, id: u64) -> Option<Call> {
        let inner = lock(&self.inner);
        inner.calls.iter().find(|call| call.id == id).cloned()
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Call)) {
        {
            let mut inner = lock(&self.inner);
            let call = inner.calls.iter_mut().rev().find(|call| call.id == id);
            call.map(change);
        }
        self.changes.note();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_calls_are_remembered_with_so_many_steps_and_how_they_ended() {
        let log = CallLog::new(Changes::default());
        let at = Timestamp::from_millis;
        let first = log.begin("first", None, None, at(0));
        for n in 0..STEPS + 10 {
            log.note(first, at(1), format!("step {n}"));
        }
        log.end(first, at(2), "hung up");
        let call = log.call(first).unwrap();
        assert_eq!(call.steps.len(), STEPS + 1);
        assert_eq!(call.steps.last(), Some(&(at(2), "hung up".to_owned())));
        assert_eq!(call.ended_at, Some(at(2)));
        for n in 0..KEPT {
            log.begin(&format!("{n}"), None, None, at(3));
        }
        assert!(log.call(first).is_none());
        log.note(first, at(4), "nobody reads this");
        let ids: Vec<_> = log.recent(2).iter().map(|call| call.id).collect();
        assert_eq!(ids, [101, 100]);
    }
}
