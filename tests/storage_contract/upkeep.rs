//! Stories of what goes on behind: notifications, expiry, many at once, closing.

use std::sync::Arc;

use aftertone::storage::{DepositError, Deposited};
use futures_util::future::join_all;

use crate::support::{
    ALICE, HOUR_MS, Store, add, filled_box, ids, later, message, missed_call, nth, page,
    queued_blobs, recordings, token,
};

pub(crate) async fn notifications_come_oldest_first_until_they_are_done(storage: Store) {
    filled_box(&storage, 3).await;
    let due = storage.notifications_due(2).await.unwrap();
    assert_eq!(
        due.iter().map(|due| due.message).collect::<Vec<_>>(),
        [nth(0), nth(1)]
    );
    for notification in &due {
        storage.notification_done(notification.id).await.unwrap();
        storage.notification_done(notification.id).await.unwrap();
    }
    let rest = storage.notifications_due(10).await.unwrap();
    assert_eq!(
        rest.iter().map(|due| due.message).collect::<Vec<_>>(),
        [nth(2)]
    );
    assert!(due.iter().all(|done| done.id < rest[0].id));
}

pub(crate) async fn what_is_too_old_expires_in_portions(storage: Store) {
    let alice = filled_box(&storage, 5).await;
    for n in [0, 4] {
        storage
            .deposit_missed_call(&missed_call(alice, 50 + n))
            .await
            .unwrap();
    }
    let now = later(HOUR_MS);
    for (n, end) in [(1, now), (2, now.plus_millis(1))] {
        let token = token(alice, n, Some(end));
        storage.add_token(&token).await.unwrap();
    }
    // Three messages are too old, and one token has ended.
    let before = later(3000);
    assert_eq!(storage.expire(before, now, 2).await.unwrap(), 2);
    assert_eq!(
        ids(&storage, alice, page(10)).await,
        [nth(4), nth(3), nth(2)]
    );
    assert_eq!(storage.expire(before, now, 2).await.unwrap(), 2);
    assert_eq!(storage.expire(before, now, 2).await.unwrap(), 0);
    assert_eq!(
        ids(&storage, alice, page(10)).await,
        [nth(4), nth(3)],
        "the one at the limit stays"
    );
    assert_eq!(queued_blobs(&storage).await, recordings(0..3));
    assert_eq!(storage.notifications_due(10).await.unwrap().len(), 2);
    assert_eq!(storage.tokens(alice).await.unwrap().len(), 1);

    // Now the rest, but for the last call.
    let before = later(54_000);
    assert_eq!(storage.expire(before, now, 100).await.unwrap(), 3);
    assert!(ids(&storage, alice, page(10)).await.is_empty());
    assert_eq!(queued_blobs(&storage).await, recordings(0..5));
    assert!(storage.notifications_due(10).await.unwrap().is_empty());
    assert_eq!(
        storage.missed_calls(alice, None, 10).await.unwrap(),
        [missed_call(alice, 54)]
    );
}

pub(crate) async fn a_hundred_deposits_at_once_are_all_kept(storage: Store) {
    let alice = add(&storage, ALICE).await;
    let deposits = (0..100).map(|n| {
        let storage = Arc::clone(&storage);
        // Every other one is a repeat of the one before.
        async move { storage.deposit(&message(alice, n / 2)).await.unwrap() }
    });
    let outcomes = join_all(deposits).await;
    let stored = outcomes
        .iter()
        .filter(|&&outcome| outcome == Deposited::Stored);
    assert_eq!(stored.count(), 50);
    assert_eq!(
        ids(&storage, alice, page(1000)).await,
        (0..50).rev().map(nth).collect::<Vec<_>>()
    );
    assert_eq!(storage.notifications_due(1000).await.unwrap().len(), 50);
}

pub(crate) async fn reading_goes_on_while_writing(storage: Store) {
    let alice = add(&storage, ALICE).await;
    let writing = async {
        for n in 0..50 {
            storage.deposit(&message(alice, n)).await.unwrap();
        }
    };
    let reading = async {
        let mut last = 0;
        while last < 50 {
            let counts = storage.counts(alice).await.unwrap();
            let listed = ids(&storage, alice, page(1000)).await.len();
            assert!(counts.messages >= last && listed >= counts.messages as usize);
            assert_eq!(counts.bytes, u64::from(counts.messages) * 64_044);
            last = counts.messages;
        }
    };
    tokio::join!(writing, reading, storage.ping(), storage.ping())
        .2
        .unwrap();
}

pub(crate) async fn after_closing_nothing_is_done(storage: Store) {
    let alice = filled_box(&storage, 1).await;
    storage.close().await;
    storage.close().await;
    let refused = storage.deposit(&message(alice, 1)).await.unwrap_err();
    assert!(matches!(refused, DepositError::Storage(error) if error.is_transient()));
    assert!(storage.counts(alice).await.unwrap_err().is_transient());
    assert!(storage.ping().await.is_err());
}
