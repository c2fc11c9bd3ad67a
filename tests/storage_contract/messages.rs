//! Stories of a box: messages deposited, listed, marked and deleted; missed calls.

use aftertone::domain::{Caller, NewMessage};
use aftertone::storage::{Changed, Counts, DepositError, Deposited, MessageFilter};

use crate::support::{
    ALICE, BOB, HOUR_MS, START, Store, add, filled_box, ids, key_of, later, message, missed_call,
    nth, page, queued_blobs, recordings,
};

pub(crate) async fn a_deposited_message_is_there_with_one_notification(storage: Store) {
    let alice = add(&storage, ALICE).await;
    let new = message(alice, 1);
    assert_eq!(storage.deposit(&new).await.unwrap(), Deposited::Stored);

    let stored = storage.message(alice, new.id).await.unwrap().unwrap();
    assert_eq!(stored.facts, new);
    assert!(!stored.read);
    let due = storage.notifications_due(10).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].message, due[0].subscriber), (new.id, alice));
    assert_eq!(due[0].kind, "message.stored");
    assert_eq!(due[0].created_at, new.received_at.plus_millis(4_000));
}

pub(crate) async fn a_caller_may_be_unknown(storage: Store) {
    let alice = add(&storage, ALICE).await;
    let new = NewMessage {
        caller: Caller::default(),
        ..message(alice, 1)
    };
    storage.deposit(&new).await.unwrap();
    assert_eq!(
        storage.message(alice, new.id).await.unwrap().unwrap().facts,
        new
    );
}

pub(crate) async fn a_repeated_deposit_changes_nothing(storage: Store) {
    let alice = filled_box(&storage, 1).await;
    storage.mark_read(alice, nth(0), true, None).await.unwrap();
    let notification = storage.notifications_due(10).await.unwrap()[0].id;
    storage.notification_done(notification).await.unwrap();

    // After a crash the same recording is found on disk and deposited again.
    let again = storage.deposit(&message(alice, 0)).await.unwrap();
    assert_eq!(again, Deposited::AlreadyStored);
    assert!(storage.message(alice, nth(0)).await.unwrap().unwrap().read);
    assert_eq!(storage.counts(alice).await.unwrap().messages, 1);
    assert!(storage.notifications_due(10).await.unwrap().is_empty());
    assert!(queued_blobs(&storage).await.is_empty());
}

pub(crate) async fn a_deleted_message_does_not_come_back(storage: Store) {
    let alice = filled_box(&storage, 1).await;
    assert!(
        storage
            .delete_message(alice, nth(0), later(1))
            .await
            .unwrap()
    );
    storage.blob_deleted(&key_of(nth(0))).await.unwrap();

    // Its recording was still on disk, and recovery has just stored it once more.
    let again = storage.deposit(&message(alice, 0)).await.unwrap();
    assert_eq!(again, Deposited::AlreadyStored);
    assert_eq!(storage.message(alice, nth(0)).await.unwrap(), None);
    assert!(storage.notifications_due(10).await.unwrap().is_empty());
    assert_eq!(queued_blobs(&storage).await, recordings([0]));
}

pub(crate) async fn an_expired_message_does_not_come_back(storage: Store) {
    let alice = filled_box(&storage, 1).await;
    storage.expire(later(1), later(HOUR_MS), 100).await.unwrap();
    let again = storage.deposit(&message(alice, 0)).await.unwrap();
    assert_eq!(again, Deposited::AlreadyStored);
    assert_eq!(storage.message(alice, nth(0)).await.unwrap(), None);
}

pub(crate) async fn nothing_is_deposited_for_a_subscriber_who_is_gone(storage: Store) {
    let alice = add(&storage, ALICE).await;
    assert!(storage.remove_subscriber(alice, START).await.unwrap());

    let refused = storage.deposit(&message(alice, 1)).await.unwrap_err();
    assert!(matches!(refused, DepositError::NoSubscriber(id) if id == nth(1)));
    assert_eq!(queued_blobs(&storage).await, recordings([1]));
    let refused = storage
        .deposit_missed_call(&missed_call(alice, 2))
        .await
        .unwrap_err();
    assert!(matches!(refused, DepositError::NoSubscriber(id) if id == nth(2)));
    assert!(storage.notifications_due(10).await.unwrap().is_empty());
    storage.ping().await.unwrap();
}

pub(crate) async fn missed_calls_are_kept_once_and_listed_newest_first(storage: Store) {
    let alice = add(&storage, ALICE).await;
    for n in [0, 1, 2, 1] {
        storage
            .deposit_missed_call(&missed_call(alice, n))
            .await
            .unwrap();
    }
    let first = storage.missed_calls(alice, None, 2).await.unwrap();
    assert_eq!(first, [missed_call(alice, 2), missed_call(alice, 1)]);
    let rest = storage.missed_calls(alice, Some(nth(1)), 2).await.unwrap();
    assert_eq!(rest, [missed_call(alice, 0)]);
    let bob = add(&storage, BOB).await;
    assert!(
        storage
            .missed_calls(bob, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(storage.notifications_due(10).await.unwrap().is_empty());
}

pub(crate) async fn nobody_sees_or_changes_what_is_anothers(storage: Store) {
    let alice = filled_box(&storage, 1).await;
    let bob = add(&storage, BOB).await;
    assert_eq!(storage.message(bob, nth(0)).await.unwrap(), None);
    assert!(storage.messages(bob, page(10)).await.unwrap().is_empty());
    let changed = storage.mark_read(bob, nth(0), true, None).await.unwrap();
    assert!(matches!(changed, Changed::NotFound));
    assert!(!storage.delete_message(bob, nth(0), START).await.unwrap());
    assert_eq!(storage.counts(bob).await.unwrap(), Counts::default());

    let untouched = storage.message(alice, nth(0)).await.unwrap().unwrap();
    assert_eq!(
        (untouched.read, untouched.facts),
        (false, message(alice, 0))
    );
    assert!(queued_blobs(&storage).await.is_empty());
}

pub(crate) async fn pages_are_complete_while_messages_come_and_go(storage: Store) {
    let alice = filled_box(&storage, 25).await;
    let mut seen = ids(&storage, alice, page(10)).await;
    let mut next_new = 100;
    while let Some(&after) = seen.last() {
        // A message arrives, and the one that the next page begins after is deleted.
        storage.deposit(&message(alice, next_new)).await.unwrap();
        next_new += 1;
        storage.delete_message(alice, after, START).await.unwrap();
        let following = MessageFilter {
            after: Some(after),
            ..page(10)
        };
        let following = ids(&storage, alice, following).await;
        if following.is_empty() {
            break;
        }
        seen.extend(following);
    }
    let newest_first: Vec<_> = (0..25).rev().map(nth).collect();
    assert_eq!(seen, newest_first);
}

pub(crate) async fn unread_and_read_messages_are_listed_apart(storage: Store) {
    let alice = filled_box(&storage, 4).await;
    for n in [0, 2] {
        storage.mark_read(alice, nth(n), true, None).await.unwrap();
    }
    let only = |unread| MessageFilter {
        unread: Some(unread),
        ..page(10)
    };
    assert_eq!(ids(&storage, alice, only(true)).await, [nth(3), nth(1)]);
    assert_eq!(ids(&storage, alice, only(false)).await, [nth(2), nth(0)]);
    assert!(ids(&storage, alice, page(0)).await.is_empty());
    let counts = storage.counts(alice).await.unwrap();
    assert_eq!(
        counts,
        Counts {
            messages: 4,
            unread: 2,
            bytes: 4 * 64_044
        }
    );
}

pub(crate) async fn a_change_names_the_version_it_is_made_from(storage: Store) {
    let alice = filled_box(&storage, 1).await;
    let mark = async |read, if_version| match storage
        .mark_read(alice, nth(0), read, if_version)
        .await
        .unwrap()
    {
        Changed::Done(message) => Some((message.read, message.version)),
        Changed::Conflict => None,
        Changed::NotFound => panic!("the message is there"),
    };
    let first = storage
        .message(alice, nth(0))
        .await
        .unwrap()
        .unwrap()
        .version;
    let (read, second) = mark(true, Some(first)).await.unwrap();
    assert!(read && second > first);
    assert_eq!(mark(false, Some(first)).await, None);
    assert_eq!(mark(true, Some(first)).await, None);
    // Nothing to change is no change.
    assert_eq!(mark(true, Some(second)).await, Some((true, second)));
    assert_eq!(mark(true, None).await, Some((true, second)));
    let (read, third) = mark(false, None).await.unwrap();
    assert!(!read && third > second);

    storage.delete_message(alice, nth(0), START).await.unwrap();
    let changed = storage
        .mark_read(alice, nth(0), true, Some(third))
        .await
        .unwrap();
    assert!(matches!(changed, Changed::NotFound));
}

pub(crate) async fn deleting_a_message_queues_its_recording_and_drops_its_notification(
    storage: Store,
) {
    let alice = filled_box(&storage, 2).await;
    assert!(storage.delete_message(alice, nth(0), START).await.unwrap());
    assert!(!storage.delete_message(alice, nth(0), START).await.unwrap());
    assert_eq!(ids(&storage, alice, page(10)).await, [nth(1)]);
    assert_eq!(queued_blobs(&storage).await, recordings([0]));
    let due = storage.notifications_due(10).await.unwrap();
    assert_eq!(
        due.iter().map(|due| due.message).collect::<Vec<_>>(),
        [nth(1)]
    );

    storage.blob_deleted(&key_of(nth(0))).await.unwrap();
    storage.blob_deleted(&key_of(nth(0))).await.unwrap();
    assert!(queued_blobs(&storage).await.is_empty());
}
