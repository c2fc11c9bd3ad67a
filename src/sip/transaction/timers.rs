//! The deadlines of everything that a core holds, each in one place, cheap to move.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Instant;

/// One deadline per key. At the same instant, keys come in their own order.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    by_key: BTreeMap<K, Instant>,
    by_time: BTreeSet<(Instant, K)>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self {
            by_key: BTreeMap::new(),
            by_time: BTreeSet::new(),
        }
    }
}

impl<K: Copy + Ord> Timers<K> {
    /// Sets, moves or (with none) removes the deadline of `key`.
    pub(crate) fn set(&mut self, key: K, deadline: Option<Instant>) {
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
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out one key whose deadline has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<K> {
        let (at, key) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        self.by_key.remove(&key);
        Some(key)
    }

    /// How many deadlines are set.
    pub(crate) fn len(&self) -> usize {
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
        let keys = [1, 2, 3];
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
