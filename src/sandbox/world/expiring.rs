//! A bounded map whose entries end by themselves: tokens, codes, sessions, half-done sign-ins.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::domain::Timestamp;

/// Entries by key, each with its end. When it is full, the oldest entry makes room.
pub(crate) struct Expiring<K, V> {
    entries: HashMap<K, (Timestamp, V)>,
    /// Keys in the order they came; a key that was removed may still stand here.
    order: VecDeque<K>,
    most: usize,
}

impl<K: Eq + Hash + Clone, V> Expiring<K, V> {
    /// A map of at most `most` entries.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            most,
        }
    }

    /// Adds an entry under a key that was not used before.
    pub(crate) fn insert(&mut self, key: K, value: V, until: Timestamp, now: Timestamp) {
        while let Some(oldest) = self.order.front() {
            let is_over = self.entries.get(oldest).is_none_or(|entry| entry.0 <= now);
            if !is_over && self.order.len() < self.most {
                break;
            }
            self.entries.remove(oldest);
            self.order.pop_front();
        }
        self.order.push_back(key.clone());
        self.entries.insert(key, (until, value));
    }

    /// The entry, where it has not ended.
    pub(crate) fn get<Q>(&self, key: &Q, now: Timestamp) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (until, value) = self.entries.get(key)?;
        (*until > now).then_some(value)
    }

    /// The entry to change, where it has not ended.
    pub(crate) fn get_mut<Q>(&mut self, key: &Q, now: Timestamp) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (until, value) = self.entries.get_mut(key)?;
        (*until > now).then_some(value)
    }

    /// Takes the entry out, where it has not ended.
    pub(crate) fn remove<Q>(&mut self, key: &Q, now: Timestamp) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (until, value) = self.entries.remove(key)?;
        (until > now).then_some(value)
    }

    /// The entries that have not ended, the oldest first, each with its end.
    pub(crate) fn iter(&self, now: Timestamp) -> impl Iterator<Item = (&K, Timestamp, &V)> {
        let entries = self.order.iter().filter_map(|key| {
            let (until, value) = self.entries.get(key)?;
            Some((key, *until, value))
        });
        entries.filter(move |(_, until, _)| *until > now)
    }

    /// Keeps the entries that `keep` says yes to.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.entries.retain(|key, (_, value)| keep(key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn an_entry_is_there_until_its_end_and_not_at_it() {
        let mut map = Expiring::new(10);
        map.insert("a", 1, at(100), at(0));
        assert_eq!(map.get("a", at(99)), Some(&1));
        assert_eq!(map.get("a", at(100)), None);
        assert_eq!(map.remove("a", at(100)), None);
    }

    #[test]
    fn a_full_map_forgets_what_ended_and_then_the_oldest() {
        let mut map = Expiring::new(2);
        map.insert("over", 1, at(10), at(0));
        map.insert("old", 2, at(100), at(0));
        map.insert("new", 3, at(100), at(10));
        assert_eq!(map.entries.len(), 2);
        map.insert("newer", 4, at(100), at(10));
        assert_eq!(map.get("old", at(10)), None);
        assert_eq!(map.get("new", at(10)), Some(&3));
        assert_eq!(map.get("newer", at(10)), Some(&4));
        for n in 0..1000 {
            map.insert("same", n, at(100), at(10));
            map.remove("same", at(10));
        }
        assert!(map.order.len() <= 2, "{}", map.order.len());
    }
}
