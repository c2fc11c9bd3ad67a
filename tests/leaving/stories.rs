//! How people leave.

use aftertone::clock::Clock;
use aftertone::domain::{DepartureCause, RegistrationState};
use aftertone::storage::NewSession;

use crate::core::Trouble;
use crate::issuer::{self, NUMBER, START};
use crate::world::{HOUR_MS, World, eventually};

const OF_HIS_OWN: DepartureCause = DepartureCause::Subscriber;

#[tokio::test]
async fn who_leaves_is_gone_here_at_the_core_and_at_the_identity_server() {
    let world = World::start().await;
    let anna = world.subscriber().await.id;
    let session = NewSession {
        hash: [1; 32],
        subscriber: anna,
        created_at: START,
        ends_at: START.plus_millis(HOUR_MS),
    };
    world.storage().add_session(&session).await.unwrap();

    let left = world.enrolment().leave(anna, OF_HIS_OWN).await.unwrap();
    assert!(!world.core.is_registered(NUMBER), "while the consent holds");
    let signed_in = world.storage().subscriber_by_session(&[1; 32], START).await;
    assert_eq!(signed_in.unwrap(), None);
    world.assert_gone(anna).await;

    // He goes on to the operator, to take his consent back, and comes from there once.
    let link = left.revoke_consent_at.unwrap();
    assert!(link.as_str().contains("/revoke-consent?ticket=1"), "{link}");
    let (form, _) = world.issuer.world.lock().unwrap().link.clone().unwrap();
    assert!(form["token"].starts_with("access-"));
    assert_eq!(form["redirectTo"], "https://voicemail.example.com/left");
    let complete = async |state: &str| world.enrolment().complete_leaving(state).await.unwrap();
    assert!(!complete("forged").await);
    assert!(complete(&form["state"]).await);
    assert!(!complete(&form["state"]).await);

    // Again is no error, and nothing more happens.
    let again = world.enrolment().leave(anna, OF_HIS_OWN).await.unwrap();
    assert_eq!(again.revoke_consent_at, None);
    assert_eq!(world.core.deletes(), 1);
}

#[tokio::test]
async fn a_state_comes_back_within_an_hour_or_not_at_all() {
    let world = World::start().await;
    let anna = world.subscriber().await.id;
    world.enrolment().leave(anna, OF_HIS_OWN).await.unwrap();
    let (form, _) = world.issuer.world.lock().unwrap().link.clone().unwrap();
    world.issuer.clock.advance_ms(HOUR_MS);
    let complete = world.enrolment().complete_leaving(&form["state"]).await;
    assert!(!complete.unwrap());
}

#[tokio::test]
async fn an_identity_server_without_an_answer_keeps_nobody_here() {
    let world = World::start().await;
    let anna = world.subscriber().await.id;
    world.issuer.trouble("/link", issuer::Trouble::Silent);
    let left = world.enrolment().leave(anna, OF_HIS_OWN).await.unwrap();
    assert_eq!(left.revoke_consent_at, None);
    world.assert_gone(anna).await;
}

#[tokio::test]
async fn a_departure_of_another_process_is_worked_off_at_the_next_start() {
    let mut world = World::start().await;
    let anna = world.subscriber().await.id;
    world.stop_service().await;
    world.core.is_in(Trouble::Unavailable);
    world.start_service().await;
    // As the command line does, beside the service.
    let cause = DepartureCause::Operator;
    world
        .storage()
        .depart(anna, cause, START, START)
        .await
        .unwrap();
    world.core.is_in(Trouble::None);
    world.restart_service().await;
    world.assert_gone(anna).await;
}

#[tokio::test]
async fn a_departure_of_another_process_is_found_by_the_running_service() {
    let world = World::start().await;
    let anna = world.subscriber().await.id;
    let cause = DepartureCause::Operator;
    world
        .storage()
        .depart(anna, cause, START, START)
        .await
        .unwrap();
    world.assert_gone(anna).await;
}

#[tokio::test]
async fn a_service_that_is_stopped_while_the_core_deletes_goes_on_later() {
    let mut world = World::start().await;
    let anna = world.subscriber().await.id;
    world.core.is_in(Trouble::SilentAfterDoing);
    world
        .enrolment()
        .leave(anna, DepartureCause::Operator)
        .await
        .unwrap();
    eventually("the core is asked", async || world.core.deletes() == 1).await;
    world.stop_service().await;
    world.core.is_in(Trouble::None);
    world.start_service().await;
    world.assert_gone(anna).await;
    assert_eq!(world.core.deletes(), 2);
}

#[tokio::test]
async fn a_service_that_is_stopped_while_the_grant_is_revoked_goes_on_later() {
    let mut world = World::start().await;
    let anna = world.subscriber().await.id;
    world.issuer.trouble("/revoke", issuer::Trouble::Silent);
    world
        .enrolment()
        .leave(anna, DepartureCause::Operator)
        .await
        .unwrap();
    eventually("the issuer is asked", async || {
        world.issuer.asked("/revoke") == 1
    })
    .await;
    world.stop_service().await;
    world.issuer.lie(|issuer| issuer.trouble.clear());
    world.start_service().await;
    world.assert_gone(anna).await;
}

#[tokio::test]
async fn a_core_that_is_down_is_asked_until_the_registration_has_lapsed() {
    let world = World::start().await;
    let anna = world.subscriber().await.id;
    world.core.is_in(Trouble::Unavailable);
    world
        .enrolment()
        .leave(anna, DepartureCause::Operator)
        .await
        .unwrap();
    for asked in 1..=3 {
        eventually("the core is asked", async || world.core.deletes() >= asked).await;
        assert!(!world.is_over().await);
        world.issuer.clock.advance_ms(5 * 60_000);
    }
    // The grant is kept to ask the core with, and revoked when that is over.
    assert_eq!(world.issuer.asked("/revoke"), 0);
    world.issuer.clock.advance_ms(HOUR_MS);
    eventually("the departure is over", async || world.is_over().await).await;
    assert_eq!(world.issuer.asked("/revoke"), 1);
}

#[tokio::test]
async fn a_token_that_the_core_refuses_is_refreshed_and_the_last_one_revoked() {
    let world = World::start().await;
    let anna = world.subscriber().await.id;
    let refused = world.core.last_token();
    world.core.is_in(Trouble::Refuses(refused.clone()));
    world
        .enrolment()
        .leave(anna, DepartureCause::Operator)
        .await
        .unwrap();
    world.assert_gone(anna).await;
    assert_ne!(world.core.last_token(), refused);
    let issuer = world.issuer.world.lock().unwrap();
    // The sign-in gave refresh-2, which the refresh used up.
    assert_eq!(issuer.revoked.len(), 1);
    assert_ne!(issuer.revoked[0], "refresh-2");
}

#[tokio::test]
async fn who_comes_back_is_not_taken_off_the_core_again() {
    let mut world = World::start().await;
    world.config.erase_after_hours = 1;
    world.restart_service().await;
    let anna = world.subscriber().await.id;
    world.core.is_in(Trouble::Unavailable);
    world
        .enrolment()
        .leave(anna, DepartureCause::Operator)
        .await
        .unwrap();
    eventually("the core is asked", async || world.core.deletes() == 1).await;

    world.core.is_in(Trouble::None);
    let back = world.sign_in().await;
    assert_eq!(back.subscriber.id, anna);
    assert_eq!(world.messages_of(anna).await, 1);
    let registration = back.registration.unwrap();
    assert_eq!(registration.state, RegistrationState::Active);
    world.issuer.clock.advance_ms(10 * 60_000);
    eventually("the former grant is revoked", async || {
        world.is_over().await
    })
    .await;
    assert!(world.core.is_registered(NUMBER));
    assert_eq!(world.core.deletes(), 1);
}

#[tokio::test]
async fn whose_grant_is_lost_has_three_days_to_sign_in_again() {
    let world = World::start().await;
    let anna = world.subscriber().await.id;
    let cause = DepartureCause::InvalidGrant;
    world.enrolment().leave(anna, cause).await.unwrap();
    let nothing_is_due = async || {
        let now = world.issuer.clock.now();
        let due = world.storage().departures_due(now, 9).await;
        due.unwrap().is_empty()
    };
    eventually("the core is told", nothing_is_due).await;
    assert!(!world.core.is_registered(NUMBER));

    world.issuer.clock.advance_ms(71 * HOUR_MS);
    assert_eq!(world.sign_in().await.subscriber.id, anna);
    assert_eq!(world.messages_of(anna).await, 1);

    world.enrolment().leave(anna, cause).await.unwrap();
    eventually("the core is told", nothing_is_due).await;
    world.issuer.clock.advance_ms(72 * HOUR_MS);
    world.assert_gone(anna).await;
    assert_ne!(world.sign_in().await.subscriber.id, anna);
}
