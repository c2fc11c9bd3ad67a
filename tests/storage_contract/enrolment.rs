//! Stories of who signs in: accounts, numbers, grants and sessions.

use aftertone::domain::{Account, DepartureCause, SubscriberId, Timestamp};
use aftertone::storage::{Enrolled, MessageFilter, NewEnrolment, NewSession};

use crate::support::{
    ALICE, BOB, HOUR_MS, START, Store, add, filled_box, ids, later, message, missed_call,
    new_subscriber, nth, number, page, token,
};

pub(crate) const SIP_URI: &str = "sips:voicemail.example.com";
const ISSUER: &str = "https://id.example.com";

/// The account of a person at the one issuer, with the number he proves now.
pub(crate) fn enrolment(subject: &str, proved: &str) -> NewEnrolment {
    NewEnrolment {
        account: Account {
            issuer: ISSUER.into(),
            subject: subject.into(),
        },
        subscriber: new_subscriber(proved),
        sip_uri: Some(SIP_URI.into()),
        erase_displaced_at: later(HOUR_MS),
    }
}

/// Signs in, with a grant that tells whose it is and when it was given.
pub(crate) async fn sign_in_at(
    storage: &Store,
    subject: &str,
    proved: &str,
    now: Timestamp,
) -> Enrolled {
    let seal = |id: SubscriberId| format!("KEY1{subject} {id} {now}").into_bytes();
    let enrolled = storage.enrol(&enrolment(subject, proved), &seal, now).await;
    enrolled.unwrap()
}

pub(crate) async fn sign_in(storage: &Store, subject: &str, proved: &str) -> Enrolled {
    sign_in_at(storage, subject, proved, START).await
}

async fn grant_text(storage: &Store, of: SubscriberId) -> Option<String> {
    let grant = storage.grant(of).await.unwrap()?;
    Some(String::from_utf8(grant.sealed).unwrap())
}

fn session(subscriber: SubscriberId, n: u8, ends_at: Timestamp) -> NewSession {
    NewSession {
        hash: [n; 32],
        subscriber,
        created_at: START,
        ends_at,
    }
}

pub(crate) async fn who_signs_in_first_is_added_with_his_grant_and_a_wish(storage: Store) {
    let enrolled = sign_in(&storage, "anna", ALICE).await;
    let anna = enrolled.subscriber;
    assert!(enrolled.is_new);
    assert_eq!((&anna.number, anna.created_at), (&number(ALICE), START));
    assert_eq!(anna.language, "nb");
    assert_eq!(
        storage.subscriber(anna.id).await.unwrap(),
        Some(anna.clone())
    );
    assert_eq!(
        grant_text(&storage, anna.id).await.unwrap(),
        format!("KEY1anna {} {START}", anna.id)
    );
    let wish = enrolled.registration.unwrap();
    assert_eq!((wish.subscriber, wish.number.e164()), (anna.id, ALICE));
    assert_eq!((wish.state.as_str(), wish.expires_at), ("wanted", None));
    assert_eq!((wish.next_attempt_at, wish.failures), (START, 0));
    assert_eq!(wish.sip_uri, SIP_URI);
    assert_eq!(storage.registration(anna.id).await.unwrap(), Some(wish));
}

pub(crate) async fn without_a_core_nothing_is_registered(storage: Store) {
    let new = NewEnrolment {
        sip_uri: None,
        ..enrolment("anna", ALICE)
    };
    let enrolled = storage.enrol(&new, &|_| vec![1], START).await.unwrap();
    assert_eq!(enrolled.registration, None);
    assert_eq!(storage.registrations_after(0, 10).await.unwrap(), []);
}

pub(crate) async fn who_signs_in_again_keeps_all_and_gets_a_new_grant_and_wish(storage: Store) {
    let first = sign_in(&storage, "anna", ALICE).await;
    let anna = first.subscriber.id;
    storage.deposit(&message(anna, 1)).await.unwrap();
    let before = storage.grant(anna).await.unwrap().unwrap();

    let again = sign_in_at(&storage, "anna", ALICE, later(5)).await;
    assert!(!again.is_new);
    assert_eq!(again.subscriber, first.subscriber);
    assert_eq!(ids(&storage, anna, page(10)).await, [nth(1)]);
    let now = storage.grant(anna).await.unwrap().unwrap();
    assert!(now.version > before.version && now.sealed != before.sealed);
    assert!(again.registration.unwrap().seq > first.registration.unwrap().seq);
    assert_eq!(storage.registrations_after(0, 10).await.unwrap().len(), 1);
}

pub(crate) async fn a_number_that_the_operator_added_is_bound(storage: Store) {
    let alice = filled_box(&storage, 2).await;
    storage.add_token(&token(alice, 1, None)).await.unwrap();
    let enrolled = sign_in(&storage, "anna", ALICE).await;
    assert_eq!((enrolled.subscriber.id, enrolled.is_new), (alice, false));
    assert_eq!(ids(&storage, alice, page(10)).await, [nth(1), nth(0)]);
    assert_eq!(storage.tokens(alice).await.unwrap().len(), 1);
    // It is bound: to another account it is another's.
    let other = sign_in(&storage, "ben", ALICE).await;
    assert_ne!(other.subscriber.id, alice);
}

pub(crate) async fn a_number_of_another_issuers_account_is_bound_to_both(storage: Store) {
    let alice = sign_in(&storage, "anna", ALICE).await.subscriber.id;
    let mut moved = enrolment("anna-elsewhere", ALICE);
    moved.account.issuer = "https://new-id.example.com".into();
    let enrolled = storage.enrol(&moved, &|_| vec![1], later(1)).await.unwrap();
    assert_eq!((enrolled.subscriber.id, enrolled.is_new), (alice, false));
    let back = sign_in_at(&storage, "anna", ALICE, later(2)).await;
    assert_eq!(back.subscriber.id, alice);
}

pub(crate) async fn a_recycled_number_shows_nothing_of_who_had_it(storage: Store) {
    let anna = sign_in(&storage, "anna", ALICE).await.subscriber.id;
    storage.deposit(&message(anna, 1)).await.unwrap();
    storage
        .deposit_missed_call(&missed_call(anna, 2))
        .await
        .unwrap();
    storage.add_token(&token(anna, 1, None)).await.unwrap();
    storage
        .add_session(&session(anna, 1, Timestamp::MAX))
        .await
        .unwrap();

    let enrolled = sign_in_at(&storage, "ben", ALICE, later(5)).await;
    let ben = enrolled.subscriber.id;
    assert!(enrolled.is_new && ben != anna);
    let everything = MessageFilter {
        limit: 100,
        ..MessageFilter::default()
    };
    assert!(ids(&storage, ben, everything).await.is_empty());
    assert_eq!(storage.message(ben, nth(1)).await.unwrap(), None);
    assert_eq!(storage.missed_calls(ben, None, 10).await.unwrap(), []);
    let mailbox = storage
        .mailbox_of_first(&[number(ALICE)])
        .await
        .unwrap()
        .unwrap();
    assert_eq!((mailbox.subscriber, mailbox.messages), (ben, 0));

    // What anna held opens nothing, and what is left to do for her does not touch ben's registration.
    assert_eq!(
        storage.subscriber_by_token(&[1; 32], START).await.unwrap(),
        None
    );
    assert_eq!(
        storage
            .subscriber_by_session(&[1; 32], START)
            .await
            .unwrap(),
        None
    );
    assert_eq!(storage.subscriber(anna).await.unwrap(), None);
    let left = storage.departures_of(&number(ALICE)).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(
        (left[0].subscriber, left[0].cause),
        (anna, DepartureCause::NumberReassigned)
    );
    assert_eq!(
        (left[0].withdrawal.clone(), left[0].erase_at),
        (None, Some(later(HOUR_MS)))
    );
    assert!(left[0].grant.is_some());
    let wishes = storage.registrations_after(0, 10).await.unwrap();
    assert_eq!(wishes, [enrolled.registration.unwrap()]);

    // Nor does it when she is erased.
    storage.deposit(&message(ben, 3)).await.unwrap();
    assert_eq!(storage.erase_departed(later(HOUR_MS), 10).await.unwrap(), 1);
    assert_eq!(ids(&storage, ben, page(10)).await, [nth(3)]);
}

pub(crate) async fn who_has_a_new_number_keeps_his_messages(storage: Store) {
    let anna = sign_in(&storage, "anna", ALICE).await.subscriber.id;
    storage.deposit(&message(anna, 1)).await.unwrap();
    storage
        .add_session(&session(anna, 1, Timestamp::MAX))
        .await
        .unwrap();
    let old_grant = storage.grant(anna).await.unwrap();

    let enrolled = sign_in_at(&storage, "anna", BOB, later(5)).await;
    assert_eq!((enrolled.subscriber.id, enrolled.is_new), (anna, false));
    assert_eq!(enrolled.subscriber.number, number(BOB));
    assert_eq!(enrolled.registration.unwrap().number, number(BOB));
    assert_eq!(ids(&storage, anna, page(10)).await, [nth(1)]);
    assert_eq!(
        storage.subscriber_by_number(&number(ALICE)).await.unwrap(),
        None
    );
    let signed_in = storage
        .subscriber_by_session(&[1; 32], START)
        .await
        .unwrap();
    assert_eq!(signed_in.unwrap().id, anna);

    // Only what was of the old number ends.
    let left = storage.departures_of(&number(ALICE)).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(
        (left[0].cause, left[0].erase_at),
        (DepartureCause::Renumbered, None)
    );
    assert_eq!(left[0].withdrawal.as_ref().unwrap().sip_uri, SIP_URI);
    assert_eq!(left[0].grant, old_grant);
    assert_eq!(storage.erase_departed(Timestamp::MAX, 10).await.unwrap(), 0);
}

pub(crate) async fn a_new_number_is_taken_from_whose_account_had_it(storage: Store) {
    let anna = sign_in(&storage, "anna", ALICE).await.subscriber.id;
    let ben = sign_in(&storage, "ben", BOB).await.subscriber.id;
    storage.deposit(&message(ben, 1)).await.unwrap();

    let enrolled = sign_in_at(&storage, "anna", BOB, later(5)).await;
    assert_eq!(enrolled.subscriber.id, anna);
    assert!(ids(&storage, anna, page(10)).await.is_empty());
    assert_eq!(storage.subscriber(ben).await.unwrap(), None);

    // They have changed numbers: nobody has lost anything once the other has signed in too.
    let back = sign_in_at(&storage, "ben", ALICE, later(9)).await;
    assert_eq!((back.subscriber.id, back.is_new), (ben, false));
    assert_eq!(back.subscriber.number, number(ALICE));
    assert_eq!(ids(&storage, ben, page(10)).await, [nth(1)]);
    assert_eq!(storage.erase_departed(Timestamp::MAX, 10).await.unwrap(), 0);
    let wanted = storage.registrations_after(0, 10).await.unwrap();
    let numbers: Vec<_> = wanted.iter().map(|wish| wish.number.e164()).collect();
    assert_eq!(numbers, [BOB, ALICE]);
    // Each number is registered for the other now, so no registration is to be deleted.
    for departure in storage.departures_due(Timestamp::MAX, 10).await.unwrap() {
        assert_eq!(departure.withdrawal, None, "{departure:?}");
    }
}

pub(crate) async fn what_lay_in_a_new_numbers_unclaimed_box_is_kept(storage: Store) {
    let unclaimed = add(&storage, BOB).await;
    storage.deposit(&message(unclaimed, 2)).await.unwrap();
    storage
        .deposit_missed_call(&missed_call(unclaimed, 3))
        .await
        .unwrap();
    let anna = sign_in(&storage, "anna", ALICE).await.subscriber.id;
    storage.deposit(&message(anna, 1)).await.unwrap();

    sign_in_at(&storage, "anna", BOB, later(5)).await;
    assert_eq!(ids(&storage, anna, page(10)).await, [nth(2), nth(1)]);
    assert_eq!(storage.counts(anna).await.unwrap().messages, 2);
    assert_eq!(storage.missed_calls(anna, None, 10).await.unwrap().len(), 1);
    assert_eq!(storage.subscriber(unclaimed).await.unwrap(), None);
}

pub(crate) async fn a_grant_is_replaced_by_who_read_the_last_one(storage: Store) {
    let anna = sign_in(&storage, "anna", ALICE).await.subscriber.id;
    let first = storage.grant(anna).await.unwrap().unwrap();
    assert!(
        storage
            .replace_grant(anna, b"KEY1second", first.version)
            .await
            .unwrap()
    );
    assert!(
        !storage
            .replace_grant(anna, b"KEY1late", first.version)
            .await
            .unwrap()
    );
    let second = storage.grant(anna).await.unwrap().unwrap();
    assert_eq!(second.sealed, b"KEY1second");
    assert_ne!(second.version, first.version);

    // He leaves while a refresh is under way: its tokens are kept, to revoke them.
    storage
        .depart(anna, DepartureCause::Subscriber, START, START)
        .await
        .unwrap();
    assert!(
        storage
            .replace_grant(anna, b"KEY1third", second.version)
            .await
            .unwrap()
    );
    assert!(
        !storage
            .replace_grant(anna, b"KEY1late", second.version)
            .await
            .unwrap()
    );
    let due = storage.departures_due(START, 10).await.unwrap();
    assert_eq!(due[0].grant.as_ref().unwrap().sealed, b"KEY1third");
    assert_eq!(storage.grant(anna).await.unwrap(), None);
    let nobody = SubscriberId::from_bytes([7; 16]);
    assert!(!storage.replace_grant(nobody, b"KEY1", 1).await.unwrap());
}

pub(crate) async fn grants_are_found_by_the_key_that_sealed_them(storage: Store) {
    assert!(storage.keys_of_grants().await.unwrap().is_empty());
    for n in 0..5 {
        sign_in(&storage, &format!("person {n}"), &format!("+470000000{n}")).await;
    }
    let mut seen = Vec::new();
    loop {
        let after = seen.last().copied();
        let mut page = storage.grants_sealed_by(*b"KEY1", after, 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page.iter().map(|(id, _)| *id));
        for (_, grant) in &mut page {
            grant.sealed = b"KEY2anew".to_vec();
        }
        let stored = storage.store_sealed_anew(&page).await.unwrap();
        assert_eq!(stored, page.len() as u64);
    }
    assert_eq!(seen.len(), 5);
    let sealed_by = async |key| storage.grants_sealed_by(key, None, 9).await.unwrap();
    assert!(sealed_by(*b"KEY1").await.is_empty());
    let anew = sealed_by(*b"KEY2").await;
    assert_eq!(anew.len(), 5);

    // A refresh that was under way for the grant as it was is kept; sealing anew what it replaced is not.
    let (id, grant) = anew[0].clone();
    storage
        .replace_grant(anew[1].0, b"KEY0", anew[1].1.version)
        .await
        .unwrap();
    let keys = storage.keys_of_grants().await.unwrap();
    assert_eq!(keys, [*b"KEY0", *b"KEY2"]);
    assert!(
        storage
            .replace_grant(id, b"KEY2fresh", grant.version)
            .await
            .unwrap()
    );
    assert_eq!(storage.store_sealed_anew(&anew[..1]).await.unwrap(), 0);
    assert_eq!(
        storage.grant(id).await.unwrap().unwrap().sealed,
        b"KEY2fresh"
    );
}

pub(crate) async fn a_session_opens_its_box_until_it_ends(storage: Store) {
    let anna = sign_in(&storage, "anna", ALICE).await.subscriber.id;
    let ben = sign_in(&storage, "ben", BOB).await.subscriber.id;
    for (n, of, ends_at) in [
        (1, anna, later(100)),
        (2, anna, later(200)),
        (3, ben, later(200)),
    ] {
        storage.add_session(&session(of, n, ends_at)).await.unwrap();
    }
    let who = async |n: u8, at| {
        let held = storage.subscriber_by_session(&[n; 32], at).await.unwrap();
        held.map(|subscriber| subscriber.id)
    };
    assert_eq!(who(1, later(99)).await, Some(anna));
    assert_eq!(who(1, later(100)).await, None);
    assert_eq!(who(9, START).await, None);

    storage.end_session(&[2; 32]).await.unwrap();
    assert_eq!(who(2, START).await, None);
    assert_eq!(who(1, START).await, Some(anna));
    storage.end_sessions(anna).await.unwrap();
    assert_eq!(who(1, START).await, None);
    assert_eq!(who(3, START).await, Some(ben));
    storage.end_session(&[2; 32]).await.unwrap();

    // What has ended is swept.
    assert_eq!(storage.expire(START, later(200), 10).await.unwrap(), 1);
    assert_eq!(who(3, START).await, None);
    let stranger = session(SubscriberId::from_bytes([7; 16]), 4, later(1));
    let refused = storage.add_session(&stranger).await.unwrap_err();
    assert!(!refused.is_transient());
}

pub(crate) async fn what_went_away_comes_back_once_and_in_time(storage: Store) {
    for n in [1, 2, 3] {
        storage.add_return(&[n; 32], later(100)).await.unwrap();
    }
    assert!(!storage.take_return(&[9; 32], START).await.unwrap());
    assert!(storage.take_return(&[1; 32], later(99)).await.unwrap());
    assert!(!storage.take_return(&[1; 32], START).await.unwrap());
    assert!(!storage.take_return(&[2; 32], later(100)).await.unwrap());
    assert_eq!(storage.expire(START, later(100), 10).await.unwrap(), 1);
    assert!(!storage.take_return(&[3; 32], START).await.unwrap());
}
