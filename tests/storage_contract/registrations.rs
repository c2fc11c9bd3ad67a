//! Stories of what is registered at the core, and of who leaves it.

use std::collections::HashSet;

use aftertone::domain::{DepartureCause, Registration, RegistrationState, SubscriberId, Timestamp};
use aftertone::storage::{DepartureProgress, RegistrationChange};

use crate::enrolment::{SIP_URI, sign_in, sign_in_at};
use crate::support::{
    ALICE, BOB, HOUR_MS, START, Store, add, filled_box, ids, key_of, later, message,
    new_subscriber, nth, number, page, queued_blobs, recordings, token,
};

const OF_HIS_OWN: DepartureCause = DepartureCause::Subscriber;

fn change(seq: i64) -> RegistrationChange {
    RegistrationChange {
        seq,
        sip_uri: None,
        state: RegistrationState::Active,
        expires_at: Some(later(HOUR_MS)),
        next_attempt_at: later(HOUR_MS / 2),
        failures: 0,
        reason: None,
    }
}

fn done() -> DepartureProgress {
    DepartureProgress {
        withdrawn: true,
        revoked: true,
        next_attempt_at: START,
        failures: 0,
    }
}

async fn all(storage: &Store) -> Vec<Registration> {
    storage.registrations_after(0, 1_000).await.unwrap()
}

async fn left(storage: &Store) -> usize {
    storage.departures_of(&number(ALICE)).await.unwrap().len()
}

pub(crate) async fn changes_are_noted_together_and_those_of_gone_rows_skipped(storage: Store) {
    sign_in(&storage, "anna", ALICE).await;
    sign_in(&storage, "ben", BOB).await;
    let [anna, ben] = all(&storage).await.try_into().unwrap();
    let refused = RegistrationChange {
        sip_uri: Some("sips:other.example.com".into()),
        state: RegistrationState::Refused,
        expires_at: None,
        failures: 3,
        reason: Some("the number is not yours".into()),
        ..change(ben.seq)
    };
    let changes = [change(anna.seq), change(4_711), refused];
    storage.note_registrations(&changes).await.unwrap();
    let [anna, ben] = all(&storage).await.try_into().unwrap();
    assert_eq!(anna.state, RegistrationState::Active);
    assert_eq!(anna.expires_at, Some(later(HOUR_MS)));
    assert_eq!(anna.next_attempt_at, later(HOUR_MS / 2));
    assert_eq!((anna.reason, anna.sip_uri.as_str()), (None, SIP_URI));
    assert_eq!((ben.state, ben.failures), (RegistrationState::Refused, 3));
    assert_eq!(ben.reason.as_deref(), Some("the number is not yours"));
    assert_eq!(ben.sip_uri, "sips:other.example.com");
    storage.note_registrations(&[]).await.unwrap();
}

pub(crate) async fn a_wish_made_anew_is_a_new_row_that_knows_what_still_lives(storage: Store) {
    let first = sign_in(&storage, "anna", ALICE).await.registration.unwrap();
    storage
        .note_registrations(&[change(first.seq)])
        .await
        .unwrap();
    let again = sign_in_at(&storage, "anna", ALICE, later(9))
        .await
        .registration
        .unwrap();
    assert!(again.seq > first.seq);
    assert_eq!(
        (again.state, again.next_attempt_at),
        (RegistrationState::Wanted, later(9))
    );
    assert_eq!(again.expires_at, Some(later(HOUR_MS)));
    assert_eq!(
        storage.registrations_after(first.seq, 10).await.unwrap(),
        std::slice::from_ref(&again)
    );
    // An attempt that was under way for the former row changes nothing.
    storage
        .note_registrations(&[change(first.seq)])
        .await
        .unwrap();
    assert_eq!(all(&storage).await, [again]);
}

pub(crate) async fn everyone_is_registered_once_in_portions(storage: Store) {
    let many: Vec<_> = (0..250)
        .map(|n| new_subscriber(&format!("+46700{n:06}")))
        .collect();
    storage.add_subscribers(&many, START).await.unwrap();
    sign_in(&storage, "anna", ALICE).await;
    let gone = add(&storage, BOB).await;
    storage
        .depart(gone, OF_HIS_OWN, Timestamp::MAX, START)
        .await
        .unwrap();

    let mut portions = Vec::new();
    loop {
        let portion = storage
            .register_everyone(SIP_URI, later(5), 100)
            .await
            .unwrap();
        if portion == 0 {
            break;
        }
        portions.push(portion);
    }
    assert_eq!(portions, [100, 100, 50]);
    let wishes = all(&storage).await;
    assert_eq!(wishes.len(), 251);
    let whose: HashSet<SubscriberId> = wishes.iter().map(|wish| wish.subscriber).collect();
    assert_eq!(whose.len(), 251);
    assert!(!whose.contains(&gone));
    assert!(
        wishes
            .iter()
            .all(|wish| wish.state == RegistrationState::Wanted)
    );

    // Should it still be to be deleted what is wanted now, it is not any more.
    let carl = sign_in(&storage, "carl", ALICE).await.subscriber.id;
    storage
        .depart(carl, OF_HIS_OWN, START, START)
        .await
        .unwrap();
    add(&storage, ALICE).await;
    assert_eq!(
        storage
            .register_everyone(SIP_URI, later(5), 100)
            .await
            .unwrap(),
        1
    );
    let left = storage.departures_due(later(5), 10).await.unwrap();
    assert!(left.iter().any(|departure| departure.subscriber == carl));
    assert!(left.iter().all(|departure| departure.withdrawal.is_none()));

    // One who comes later is seen by who looks for later rows.
    let last = all(&storage).await.last().unwrap().seq;
    let carl = add(&storage, "+4733333333").await;
    assert_eq!(
        storage
            .register_everyone(SIP_URI, later(6), 100)
            .await
            .unwrap(),
        1
    );
    let new = storage.registrations_after(last, 10).await.unwrap();
    assert_eq!((new.len(), new[0].subscriber), (1, carl));
}

pub(crate) async fn who_leaves_is_gone_at_once_and_erased_in_time(storage: Store) {
    let alice = filled_box(&storage, 2).await;
    let wish = sign_in(&storage, "anna", ALICE).await.registration.unwrap();
    storage
        .note_registrations(&[change(wish.seq)])
        .await
        .unwrap();
    storage.add_token(&token(alice, 1, None)).await.unwrap();
    let grant = storage.grant(alice).await.unwrap();

    let departure = storage
        .depart(alice, OF_HIS_OWN, later(HOUR_MS), later(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (departure.subscriber, departure.number.e164()),
        (alice, ALICE)
    );
    assert_eq!((departure.cause, departure.left_at), (OF_HIS_OWN, later(1)));
    let withdrawal = departure.withdrawal.clone().unwrap();
    assert_eq!(withdrawal.sip_uri, SIP_URI);
    assert_eq!(withdrawal.expires_at, Some(later(HOUR_MS)));
    assert_eq!(departure.grant, grant);
    assert_eq!(
        storage.departures_due(later(1), 10).await.unwrap(),
        std::slice::from_ref(&departure)
    );
    assert_eq!(storage.departures_due(START, 10).await.unwrap(), []);

    assert_eq!(
        storage.mailbox_of_first(&[number(ALICE)]).await.unwrap(),
        None
    );
    assert_eq!(
        storage.subscriber_by_number(&number(ALICE)).await.unwrap(),
        None
    );
    assert_eq!(storage.subscriber(alice).await.unwrap(), None);
    assert_eq!(storage.subscribers(None, 10).await.unwrap(), []);
    assert_eq!(
        storage
            .change_settings(alice, &Default::default())
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        storage.subscriber_by_token(&[1; 32], START).await.unwrap(),
        None
    );
    assert_eq!(all(&storage).await, []);
    assert!(queued_blobs(&storage).await.is_empty());

    assert_eq!(
        storage
            .erase_departed(later(HOUR_MS - 1), 10)
            .await
            .unwrap(),
        0
    );
    assert_eq!(storage.erase_departed(later(HOUR_MS), 10).await.unwrap(), 1);
    assert_eq!(storage.erase_departed(later(HOUR_MS), 10).await.unwrap(), 0);
    assert_eq!(queued_blobs(&storage).await, recordings([0, 1]));
    // The core and the identity server are still to be told.
    assert_eq!(left(&storage).await, 1);
    storage
        .note_departure(&departure, &done(), later(HOUR_MS))
        .await
        .unwrap();
    assert_eq!(left(&storage).await, 0);
}

pub(crate) async fn leaving_again_only_brings_the_erasure_forward(storage: Store) {
    let alice = filled_box(&storage, 1).await;
    sign_in(&storage, "anna", ALICE).await;
    let first = storage
        .depart(alice, OF_HIS_OWN, later(HOUR_MS), START)
        .await
        .unwrap()
        .unwrap();
    let later_one = storage
        .depart(
            alice,
            DepartureCause::Operator,
            later(2 * HOUR_MS),
            later(5),
        )
        .await;
    assert_eq!(later_one.unwrap(), Some(first.clone()));
    let sooner = storage
        .depart(alice, DepartureCause::Operator, later(9), later(5))
        .await;
    assert_eq!(sooner.unwrap().unwrap().erase_at, Some(later(9)));
    let at_once = storage
        .depart(alice, DepartureCause::Operator, later(7), later(7))
        .await;
    let at_once = at_once.unwrap().unwrap();
    assert_eq!((at_once.id, at_once.erase_at), (first.id, None));
    assert_eq!(queued_blobs(&storage).await, recordings([0]));
    // Nobody is there any more.
    let nobody = storage
        .depart(alice, OF_HIS_OWN, START, START)
        .await
        .unwrap();
    assert_eq!((nobody, left(&storage).await), (None, 1));
}

pub(crate) async fn who_has_nothing_at_the_core_leaves_without_a_trace(storage: Store) {
    let alice = filled_box(&storage, 1).await;
    storage
        .set_greeting(alice, Some("greetings/a.wav"), START)
        .await
        .unwrap();
    let departure = storage
        .depart(alice, DepartureCause::Operator, START, START)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((departure.withdrawal, departure.grant), (None, None));
    assert_eq!(left(&storage).await, 0);
    let files = queued_blobs(&storage).await;
    assert_eq!(files.len(), 2);
    assert!(files.contains(&key_of(nth(0))));
    assert_eq!(storage.message(alice, nth(0)).await.unwrap(), None);
    storage
        .add_subscribers(&[new_subscriber(ALICE)], START)
        .await
        .unwrap();
}

pub(crate) async fn what_is_left_to_do_is_tried_until_it_is_done(storage: Store) {
    let alice = sign_in(&storage, "anna", ALICE).await.subscriber.id;
    let departure = storage
        .depart(alice, OF_HIS_OWN, START, START)
        .await
        .unwrap()
        .unwrap();
    let failed = DepartureProgress {
        withdrawn: false,
        revoked: true,
        next_attempt_at: later(500),
        failures: 1,
    };
    storage
        .note_departure(&departure, &failed, later(1))
        .await
        .unwrap();
    assert_eq!(storage.departures_due(later(499), 10).await.unwrap(), []);
    let [again] = storage
        .departures_due(later(500), 10)
        .await
        .unwrap()
        .try_into()
        .unwrap();
    assert_eq!((&again.grant, again.failures), (&None, 1));
    assert_eq!(again.withdrawal, departure.withdrawal);
    for _ in 0..2 {
        storage
            .note_departure(&again, &done(), later(501))
            .await
            .unwrap();
        assert_eq!(left(&storage).await, 0);
    }
}

pub(crate) async fn who_comes_back_in_time_has_lost_nothing(storage: Store) {
    let alice = filled_box(&storage, 2).await;
    sign_in(&storage, "anna", ALICE).await;
    storage
        .depart(alice, OF_HIS_OWN, later(HOUR_MS), START)
        .await
        .unwrap();
    // Another took the number over meanwhile; his box is not hers.
    let ben = sign_in_at(&storage, "ben", ALICE, later(1))
        .await
        .subscriber
        .id;
    storage.deposit(&message(ben, 7)).await.unwrap();
    // A request that was under way when she left.
    storage.add_token(&token(alice, 1, None)).await.unwrap();

    let back = sign_in_at(&storage, "anna", BOB, later(2)).await;
    assert_eq!((back.subscriber.id, back.is_new), (alice, false));
    assert_eq!(ids(&storage, alice, page(10)).await, [nth(1), nth(0)]);
    assert_eq!(storage.erase_departed(Timestamp::MAX, 10).await.unwrap(), 0);
    assert_eq!(storage.tokens(alice).await.unwrap(), []);
    let mailbox = storage
        .mailbox_of_first(&[number(BOB)])
        .await
        .unwrap()
        .unwrap();
    assert_eq!((mailbox.subscriber, mailbox.messages), (alice, 2));
    assert_eq!(
        storage
            .mailbox_of_first(&[number(ALICE)])
            .await
            .unwrap()
            .unwrap()
            .subscriber,
        ben
    );
}

pub(crate) async fn who_comes_too_late_begins_anew(storage: Store) {
    let alice = filled_box(&storage, 1).await;
    sign_in(&storage, "anna", ALICE).await;
    storage
        .depart(alice, OF_HIS_OWN, later(5), START)
        .await
        .unwrap();
    storage.erase_departed(later(5), 10).await.unwrap();
    let back = sign_in_at(&storage, "anna", ALICE, later(6)).await;
    assert!(back.is_new && back.subscriber.id != alice);
    assert!(ids(&storage, back.subscriber.id, page(10)).await.is_empty());
}

pub(crate) async fn a_deletion_does_not_hit_a_registration_that_is_wanted_again(storage: Store) {
    let alice = sign_in(&storage, "anna", ALICE).await.subscriber.id;
    let under_way = storage
        .depart(alice, OF_HIS_OWN, START, START)
        .await
        .unwrap()
        .unwrap();
    let back = sign_in_at(&storage, "anna", ALICE, later(1))
        .await
        .registration
        .unwrap();
    // What was still to be done is to revoke the former grant, and no more.
    let [pending] = storage
        .departures_due(later(1), 10)
        .await
        .unwrap()
        .try_into()
        .unwrap();
    assert_eq!(pending.withdrawal, None);
    assert!(pending.grant.is_some());

    // The core deleted it all the same, maybe after it was upserted: it is wanted once more.
    storage
        .note_registrations(&[change(back.seq)])
        .await
        .unwrap();
    storage
        .note_departure(&under_way, &done(), later(2))
        .await
        .unwrap();
    let [wish] = all(&storage).await.try_into().unwrap();
    assert!(wish.seq > back.seq);
    assert_eq!(
        (wish.state, wish.next_attempt_at),
        (RegistrationState::Wanted, later(2))
    );
    assert_eq!(left(&storage).await, 0);
}
