//! What changes in the mailboxes, told to who watches them in this process.
//!
//! The storage tells after the commit, so that nobody hears of what did not happen. A change that
//! another process made (the command line) is not told here.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::domain::{MessageId, SubscriberId};

/// Changes that wait for one watcher; who is slower is told that it has missed some.
const BACKLOG: usize = 64;
/// Watchers of one mailbox: the pages and programs that a person has open.
const WATCHERS_EACH: usize = 8;

/// A change of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which message.
    pub message: MessageId,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What happened to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Stored,
    /// Its read mark changed; it is of this version now.
    Updated(i64),
    /// It is gone.
    Deleted,
}

/// Why a mailbox cannot be watched now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooManyWatchers {
    /// This mailbox is watched by as many as may.
    #[error("the mailbox is watched by {WATCHERS_EACH} others already")]
    OfMailbox,
    /// The process serves as many watchers as it may.
    #[error("too many mailboxes are being watched")]
    InAll,
}

/// Where changes are told. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Changes(Arc<Mutex<Watched>>);

#[derive(Debug, Default)]
struct Watched {
    mailboxes: HashMap<SubscriberId, broadcast::Sender<Change>>,
    watchers: usize,
}

impl Changes {
    /// Tells who watches the mailbox of `subscriber`. Never waits.
    pub fn tell(&self, subscriber: SubscriberId, message: MessageId, kind: ChangeKind) {
        if let Some(watchers) = self.lock().mailboxes.get(&subscriber) {
            // An error says that the last watcher is just leaving.
            drop(watchers.send(Change { message, kind }));
        }
    }

    /// Watches the mailbox of `subscriber` from now on, where there are fewer than `limit` watchers
    /// in all.
    pub fn watch(
        &self,
        subscriber: SubscriberId,
        limit: usize,
    ) -> Result<Watcher, TooManyWatchers> {
        let mut watched = self.lock();
        if watched.watchers >= limit {
            return Err(TooManyWatchers::InAll);
        }
        let changes = match watched.mailboxes.entry(subscriber) {
            Entry::Vacant(free) => {
                let (told, changes) = broadcast::channel(BACKLOG);
                free.insert(told);
                changes
            }
            Entry::Occupied(told) if told.get().receiver_count() >= WATCHERS_EACH => {
                return Err(TooManyWatchers::OfMailbox);
            }
            Entry::Occupied(told) => told.get().subscribe(),
        };
        watched.watchers += 1;
        Ok(Watcher {
            subscriber,
            changes: Some(changes),
            all: self.clone(),
        })
    }

    /// Ends every watcher of a mailbox that is no more.
    pub fn close(&self, subscriber: SubscriberId) {
        self.lock().mailboxes.remove(&subscriber);
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        self.lock().watchers
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears the changes of one mailbox as long as it lives.
#[derive(Debug)]
pub struct Watcher {
    subscriber: SubscriberId,
    /// There until the drop.
    changes: Option<broadcast::Receiver<Change>>,
    all: Changes,
}

impl Watcher {
    /// The next change. `None`: the mailbox is no more, or changes were missed; whoever wants to go on
    /// looks at the mailbox and watches anew.
    pub async fn next(&mut self) -> Option<Change> {
        let heard = self.changes.as_mut()?.recv().await;
        heard
            .inspect_err(|error| {
                if let RecvError::Lagged(missed) = error {
                    tracing::debug!(missed, "A watcher of a mailbox was too slow");
                }
            })
            .ok()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut watched = self.all.lock();
        self.changes = None;
        watched.watchers -= 1;
        if let Entry::Occupied(told) = watched.mailboxes.entry(self.subscriber)
            && told.get().receiver_count() == 0
        {
            told.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::Timestamp;

    use super::*;

    const KARI: SubscriberId = SubscriberId::from_bytes([1; 16]);
    const OLA: SubscriberId = SubscriberId::from_bytes([2; 16]);

    fn message(n: u8) -> MessageId {
        MessageId::new(Timestamp::from_millis(n.into()), [n; 10])
    }

    #[tokio::test]
    async fn a_change_is_heard_by_all_who_watch_that_mailbox_and_by_nobody_else() {
        let changes = Changes::default();
        changes.tell(KARI, message(1), ChangeKind::Stored);
        let mut here = changes.watch(KARI, 9).unwrap();
        let mut there = changes.watch(KARI, 9).unwrap();
        let mut stranger = changes.watch(OLA, 9).unwrap();
        changes.tell(KARI, message(2), ChangeKind::Updated(3));
        changes.tell(OLA, message(4), ChangeKind::Deleted);
        let heard = Change {
            message: message(2),
            kind: ChangeKind::Updated(3),
        };
        assert_eq!(here.next().await, Some(heard));
        assert_eq!(there.next().await, Some(heard));
        assert_eq!(
            stranger.next().await.map(|change| change.message),
            Some(message(4))
        );
    }

    #[tokio::test]
    async fn watchers_are_bounded_and_one_who_leaves_makes_room() {
        let changes = Changes::default();
        let watching: Vec<_> = (0..WATCHERS_EACH)
            .map(|_| changes.watch(KARI, WATCHERS_EACH + 1).unwrap())
            .collect();
        let refused = |subscriber| changes.watch(subscriber, WATCHERS_EACH + 1).err();
        assert_eq!(refused(KARI), Some(TooManyWatchers::OfMailbox));
        let other = changes.watch(OLA, WATCHERS_EACH + 1).unwrap();
        assert_eq!(refused(OLA), Some(TooManyWatchers::InAll));
        drop((watching, other));
        assert_eq!(changes.watchers(), 0);
        assert!(changes.lock().mailboxes.is_empty());
        assert_eq!(refused(KARI), None);
    }

    #[tokio::test]
    async fn who_is_too_slow_or_watches_a_closed_mailbox_hears_an_end() {
        let changes = Changes::default();
        let mut slow = changes.watch(KARI, 9).unwrap();
        for _ in 0..=BACKLOG {
            changes.tell(KARI, message(1), ChangeKind::Stored);
        }
        assert_eq!(slow.next().await, None);
        let mut closed = changes.watch(OLA, 9).unwrap();
        changes.close(OLA);
        let anew = changes.watch(OLA, 9).unwrap();
        assert_eq!(closed.next().await, None);
        drop(closed);
        assert_eq!(changes.watchers(), 2);
        drop((slow, anew));
        assert!(changes.lock().mailboxes.is_empty());
    }
}
