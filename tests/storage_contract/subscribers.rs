//! Stories of subscribers, their settings, greetings and tokens.

use aftertone::domain::{ApiToken, Private, SubscriberId, Timestamp};
use aftertone::storage::{Added, Counts, NewToken, SettingsChange};

use crate::support::{
    ALICE, BOB, HOUR_MS, START, Store, add, filled_box, ids, later, message, missed_call,
    new_subscriber, nth, number, page, queued_blobs, recordings, token,
};

pub(crate) async fn the_first_number_with_a_mailbox_wins(storage: Store) {
    let alice = filled_box(&storage, 2).await;
    let bob = add(&storage, BOB).await;
    let found = async |numbers: &[&str]| {
        let numbers: Vec<_> = numbers.iter().map(|text| number(text)).collect();
        storage.mailbox_of_first(&numbers).await.unwrap()
    };
    let unknown = "+4799999999";
    assert_eq!(found(&[unknown, BOB, ALICE]).await.unwrap().subscriber, bob);
    assert_eq!(found(&[unknown]).await, None);
    assert_eq!(found(&[]).await, None);

    let change = SettingsChange {
        max_message_secs: Some(Some(60)),
        ..Default::default()
    };
    storage.change_settings(alice, &change).await.unwrap();
    storage
        .set_greeting(alice, Some("greetings/a.wav"), START)
        .await
        .unwrap();
    let mailbox = found(&[ALICE, BOB]).await.unwrap();
    assert_eq!((mailbox.subscriber, mailbox.number), (alice, number(ALICE)));
    assert_eq!((mailbox.messages, mailbox.bytes), (2, 2 * 64_044));
    assert_eq!(mailbox.greeting.as_deref(), Some("greetings/a.wav"));
    assert_eq!(
        (mailbox.max_message_secs, mailbox.language.as_str()),
        (Some(60), "nb")
    );
}

pub(crate) async fn adding_tells_new_numbers_from_known_ones(storage: Store) {
    let alice = add(&storage, ALICE).await;
    let many: Vec<_> = (0..1_234)
        .map(|n| new_subscriber(&format!("+46700{n:06}")))
        .collect();
    let both = [
        many.as_slice(),
        &[new_subscriber(ALICE), new_subscriber("+46700000007")],
    ]
    .concat();
    let added = storage.add_subscribers(&both, later(5)).await.unwrap();
    assert_eq!(
        added,
        Added {
            added: 1_234,
            already_there: 2
        }
    );
    let added = storage.add_subscribers(&both, later(5)).await.unwrap();
    assert_eq!(
        added,
        Added {
            added: 0,
            already_there: 1_236
        }
    );
    assert_eq!(
        storage.add_subscribers(&[], START).await.unwrap(),
        Added::default()
    );

    let known = storage.subscriber(alice).await.unwrap().unwrap();
    assert_eq!((known.created_at, known.number), (START, number(ALICE)));
    assert_eq!(
        (known.name, known.notify),
        (Some(Private("Somebody".into())), true)
    );
    assert_eq!(
        (known.time_zone.as_str(), known.greeting),
        ("Europe/Oslo", None)
    );
}

pub(crate) async fn subscribers_are_listed_by_number(storage: Store) {
    for text in ["+4733333333", ALICE, BOB] {
        add(&storage, text).await;
    }
    let first = storage.subscribers(None, 2).await.unwrap();
    assert_eq!(
        first.iter().map(|s| s.number.e164()).collect::<Vec<_>>(),
        [ALICE, BOB]
    );
    let rest = storage.subscribers(Some(&number(BOB)), 2).await.unwrap();
    assert_eq!(
        rest.iter().map(|s| s.number.e164()).collect::<Vec<_>>(),
        ["+4733333333"]
    );
}

pub(crate) async fn settings_change_only_where_told(storage: Store) {
    let alice = add(&storage, ALICE).await;
    let change = SettingsChange {
        language: Some("sv".into()),
        max_message_secs: Some(Some(30)),
        notify: Some(false),
        ..Default::default()
    };
    let changed = storage
        .change_settings(alice, &change)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (changed.language.as_str(), changed.time_zone.as_str()),
        ("sv", "Europe/Oslo")
    );
    assert_eq!(
        (changed.max_message_secs, changed.notify),
        (Some(30), false)
    );

    let same = storage
        .change_settings(alice, &SettingsChange::default())
        .await
        .unwrap();
    assert_eq!(same.as_ref(), Some(&changed));
    assert_eq!(storage.subscriber(alice).await.unwrap(), Some(changed));
    let back = SettingsChange {
        max_message_secs: Some(None),
        ..Default::default()
    };
    let back = storage
        .change_settings(alice, &back)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((back.max_message_secs, back.notify), (None, false));

    let nobody = SubscriberId::from_bytes([1; 16]);
    assert_eq!(
        storage.change_settings(nobody, &change).await.unwrap(),
        None
    );
}

pub(crate) async fn a_greeting_that_is_replaced_is_queued_for_deletion(storage: Store) {
    let alice = add(&storage, ALICE).await;
    for key in [
        Some("greetings/1"),
        Some("greetings/1"),
        Some("greetings/2"),
        None,
        None,
    ] {
        storage.set_greeting(alice, key, START).await.unwrap();
        let subscriber = storage.subscriber(alice).await.unwrap().unwrap();
        assert_eq!(subscriber.greeting.as_deref(), key);
    }
    let queue = storage.blobs_to_delete(Timestamp::MAX, 10).await.unwrap();
    assert_eq!(queue, ["greetings/1", "greetings/2"]);

    storage.remove_subscriber(alice, START).await.unwrap();
    storage
        .set_greeting(alice, Some("greetings/3"), START)
        .await
        .unwrap();
    assert!(queued_blobs(&storage).await.contains("greetings/3"));
}

pub(crate) async fn a_file_that_no_row_comes_to_name_is_deleted_when_it_is_due(storage: Store) {
    let alice = add(&storage, ALICE).await;
    for key in ["greetings/named", "greetings/forgotten"] {
        storage.announce_blob(key, later(HOUR_MS)).await.unwrap();
    }
    storage
        .set_greeting(alice, Some("greetings/named"), START)
        .await
        .unwrap();
    let due = async |now| storage.blobs_to_delete(now, 10).await.unwrap();
    assert!(due(later(HOUR_MS - 1)).await.is_empty());
    assert_eq!(due(later(HOUR_MS)).await, ["greetings/forgotten"]);

    // Whose subscriber has left, it is deleted at once.
    storage
        .announce_blob("greetings/late", later(HOUR_MS))
        .await
        .unwrap();
    storage.remove_subscriber(alice, START).await.unwrap();
    storage
        .set_greeting(alice, Some("greetings/late"), START)
        .await
        .unwrap();
    assert_eq!(due(START).await, ["greetings/late", "greetings/named"]);
}

pub(crate) async fn removing_a_subscriber_leaves_nothing_and_queues_every_file(storage: Store) {
    let alice = filled_box(&storage, 3).await;
    storage
        .deposit_missed_call(&missed_call(alice, 9))
        .await
        .unwrap();
    storage
        .set_greeting(alice, Some("greetings/a"), START)
        .await
        .unwrap();
    storage.add_token(&token(alice, 1, None)).await.unwrap();
    let bob = add(&storage, BOB).await;
    storage.deposit(&message(bob, 10)).await.unwrap();

    assert!(storage.remove_subscriber(alice, START).await.unwrap());
    assert!(!storage.remove_subscriber(alice, START).await.unwrap());
    let mut expected = recordings(0..3);
    expected.insert("greetings/a".into());
    assert_eq!(queued_blobs(&storage).await, expected);
    assert_eq!(storage.subscriber(alice).await.unwrap(), None);
    assert!(storage.messages(alice, page(10)).await.unwrap().is_empty());
    assert!(
        storage
            .missed_calls(alice, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(storage.tokens(alice).await.unwrap().is_empty());
    assert_eq!(
        storage.subscriber_by_token(&[1; 32], START).await.unwrap(),
        None
    );
    let due = storage.notifications_due(10).await.unwrap();
    assert_eq!(
        due.iter().map(|due| due.subscriber).collect::<Vec<_>>(),
        [bob]
    );
    assert_eq!(ids(&storage, bob, page(10)).await, [nth(10)]);

    // The number may come back, as somebody new with an empty box.
    let again = add(&storage, ALICE).await;
    assert_ne!(again, alice);
    assert_eq!(storage.counts(again).await.unwrap(), Counts::default());
}

pub(crate) async fn a_token_opens_its_box_until_it_ends(storage: Store) {
    let alice = add(&storage, ALICE).await;
    let bob = add(&storage, BOB).await;
    storage.add_token(&token(alice, 1, None)).await.unwrap();
    storage
        .add_token(&token(bob, 2, Some(later(100))))
        .await
        .unwrap();
    let holder = async |hash: u8, now: Timestamp| {
        let found = storage.subscriber_by_token(&[hash; 32], now).await.unwrap();
        found.map(|subscriber| subscriber.id)
    };
    assert_eq!(holder(1, START).await, Some(alice));
    assert_eq!(holder(2, later(99)).await, Some(bob));
    assert_eq!(holder(2, later(100)).await, None);
    assert_eq!(holder(3, START).await, None);

    let ids = |tokens: &[ApiToken]| tokens.iter().map(|t| t.id).collect::<Vec<_>>();
    let first = token(alice, 1, None).id;
    assert_eq!(ids(&storage.tokens(alice).await.unwrap()), [first]);
    assert!(!storage.revoke_token(first, Some(bob)).await.unwrap());
    assert_eq!(holder(1, START).await, Some(alice));
    assert!(storage.revoke_token(first, Some(alice)).await.unwrap());
    assert!(!storage.revoke_token(first, None).await.unwrap());
    assert_eq!(holder(1, START).await, None);
    assert!(
        storage
            .revoke_token(token(bob, 2, None).id, None)
            .await
            .unwrap()
    );
}

pub(crate) async fn the_use_of_a_token_is_noted_to_the_hour(storage: Store) {
    let alice = add(&storage, ALICE).await;
    storage.add_token(&token(alice, 1, None)).await.unwrap();
    let used_at = async |now: Timestamp| {
        storage
            .subscriber_by_token(&[1; 32], now)
            .await
            .unwrap()
            .unwrap();
        storage.tokens(alice).await.unwrap()[0].last_used_at
    };
    assert_eq!(storage.tokens(alice).await.unwrap()[0].last_used_at, None);
    assert_eq!(used_at(later(1)).await, Some(later(1)));
    assert_eq!(used_at(later(HOUR_MS)).await, Some(later(1)));
    assert_eq!(used_at(later(1 + HOUR_MS)).await, Some(later(1 + HOUR_MS)));
}

pub(crate) async fn a_token_needs_a_subscriber_and_a_hash_of_its_own(storage: Store) {
    let nobody = SubscriberId::from_bytes([1; 16]);
    let refused = storage
        .add_token(&token(nobody, 1, None))
        .await
        .unwrap_err();
    assert!(!refused.is_transient(), "{refused:?}");
    let alice = add(&storage, ALICE).await;
    storage.add_token(&token(alice, 1, None)).await.unwrap();
    let same_hash = NewToken {
        hash: [1; 32],
        ..token(alice, 2, None)
    };
    assert!(storage.add_token(&same_hash).await.is_err());
    assert_eq!(storage.tokens(alice).await.unwrap().len(), 1);
}
