//! Registrations are kept: a real database, a real client of an identity server on loopback, and a
//! core that does as it is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../oauth/issuer.rs"]
#[allow(dead_code, reason = "it can tell more lies than are needed here")]
mod issuer;
mod world;

use std::time::Duration;

use aftertone::domain::{Msisdn, RegistrationState};
use aftertone::mobile_core::{CoreError, Method};
use aftertone::storage::NewSubscriber;
use issuer::{NUMBER, Trouble};
use sqlx::{Connection, SqliteConnection};
use tokio::time::Instant;
use world::{MINUTE_MS, Mood, World, eventually};

const ACTIVE: Option<RegistrationState> = Some(RegistrationState::Active);
const TOKENS: &str = "/token";

#[tokio::test]
async fn who_signs_in_is_registered_with_his_token_and_renewed_at_half_its_life() {
    let world = World::start().await;
    let signed_in = world.sign_in().await;
    let registration = signed_in.registration.unwrap();
    assert_eq!(registration.state, RegistrationState::Active);
    assert_eq!(registration.reason, None);
    let [asked] = &world.core.upserts()[..] else {
        panic!("{:?}", world.core.script.asked());
    };
    assert_eq!(asked.wish.number.e164(), NUMBER);
    assert_eq!(asked.wish.sip_uri, "sips:voicemail.example.com");
    assert!(asked.token.expose().starts_with("access-"));

    world.minutes_pass(37);
    eventually("it is renewed", async || world.core.upserts().len() == 2).await;
    assert_eq!(
        world.core.upserts()[1].token,
        asked.token,
        "it is good for an hour"
    );
    let expires_at = registration.expires_at.unwrap();
    eventually("the renewal is noted", async || {
        let now = world.registration(signed_in.subscriber.id).await.unwrap();
        now.expires_at.unwrap() >= expires_at.plus_millis(36 * MINUTE_MS)
    })
    .await;
    assert_eq!(world.issuer.asked(TOKENS), 1);
}

#[tokio::test]
async fn a_rotated_refresh_token_outlives_the_process_that_got_it() {
    let mut world = World::start().await;
    let anna = world.sign_in().await.subscriber.id;
    for round in 2..5 {
        world.minutes_pass(61);
        eventually("it is renewed", async || {
            world.core.upserts().len() == round
        })
        .await;
        assert_eq!(world.issuer.asked(TOKENS), round);
        // The issuer takes each refresh token once only.
        world.restart_service().await;
    }
    eventually("it is noted", async || world.state(anna).await == ACTIVE).await;
    let mut tokens: Vec<_> = world
        .core
        .upserts()
        .into_iter()
        .map(|it| it.token)
        .collect();
    tokens.dedup();
    assert_eq!(tokens.len(), 4);
}

#[tokio::test]
async fn a_refreshed_token_that_cannot_be_stored_is_neither_used_nor_lost() {
    let world = World::start().await;
    let anna = world.sign_in().await.subscriber.id;
    let url = format!("sqlite://{}", world.database().display());
    let mut other = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();

    world.minutes_pass(61);
    eventually("it is refreshed", async || world.issuer.asked(TOKENS) == 2).await;
    eventually("the attempt has ended", async || {
        aftertone::telemetry::prometheus()
            .render()
            .contains(r#"aftertone_registration_attempts_total{result="storage"}"#)
    })
    .await;
    assert_eq!(world.core.upserts().len(), 1, "not before it is durable");

    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    eventually("it is renewed", async || world.core.upserts().len() == 2).await;
    assert_eq!(world.issuer.asked(TOKENS), 2, "with what was kept");
    eventually("it is noted", async || {
        let now = world.registration(anna).await.unwrap();
        now.failures == 0 && now.reason.is_none()
    })
    .await;
}

#[tokio::test]
async fn a_token_that_the_core_does_not_accept_is_refreshed_once() {
    let world = World::start().await;
    world
        .core
        .script
        .will_answer(Err(CoreError::Unauthenticated));
    let signed_in = world.sign_in().await;
    assert_eq!(
        signed_in.registration.unwrap().state,
        RegistrationState::Active
    );
    let upserts = world.core.upserts();
    assert_eq!(upserts.len(), 2);
    assert_ne!(upserts[0].token, upserts[1].token);
    assert_eq!(world.issuer.asked(TOKENS), 2);
}

#[tokio::test]
async fn a_core_that_accepts_no_token_at_all_does_not_become_a_storm_at_the_identity_server() {
    let world = World::start().await;
    for _ in 0..4 {
        world
            .core
            .script
            .will_answer(Err(CoreError::Unauthenticated));
    }
    let signed_in = world.sign_in().await;
    let registration = signed_in.registration.unwrap();
    assert_eq!(registration.state, RegistrationState::Wanted);
    assert!(registration.reason.unwrap().contains("access token"));
    let anna = signed_in.subscriber.id;
    eventually("it is registered", async || {
        world.state(anna).await == ACTIVE
    })
    .await;
    assert_eq!(
        world.issuer.asked(TOKENS),
        3,
        "one for each attempt that failed"
    );
}

#[tokio::test]
async fn a_grant_that_is_gone_ends_in_a_departure() {
    let world = World::start().await;
    let anna = world.sign_in().await.subscriber.id;
    world.issuer.forget_grants();
    world.minutes_pass(61);
    eventually("he is let go", async || {
        world.registration(anna).await.is_none()
    })
    .await;
    assert_eq!(world.core.upserts().len(), 1);
    let number = Msisdn::parse(NUMBER).unwrap();
    let found = world.storage().subscriber_by_number(&number).await.unwrap();
    assert_eq!(found, None, "he is not listed");
}

#[tokio::test]
async fn an_identity_server_in_trouble_costs_nobody_anything() {
    let world = World::start().await;
    let anna = world.sign_in().await.subscriber.id;
    world.issuer.trouble(TOKENS, Trouble::Status(503));
    world.minutes_pass(61);
    eventually("it is told why", async || {
        let now = world.registration(anna).await.unwrap();
        now.failures > 0 && now.reason.is_some()
    })
    .await;
    assert_eq!(world.state(anna).await, ACTIVE);
    world.issuer.lie(|issuer| {
        issuer.trouble.remove(TOKENS);
    });
    eventually("it is renewed", async || world.core.upserts().len() == 2).await;
}

#[tokio::test]
async fn what_the_core_refuses_is_told_and_a_new_sign_in_tries_again() {
    let world = World::start().await;
    let refusal = CoreError::NotAcceptable("no such product".into());
    world.core.script.will_answer(Err(refusal));
    let registration = world.sign_in().await.registration.unwrap();
    assert_eq!(registration.state, RegistrationState::Refused);
    assert!(registration.reason.unwrap().contains("no such product"));
    let in_ms = registration.next_attempt_at.as_millis() - issuer::START.as_millis();
    assert!((2 * MINUTE_MS..=10 * MINUTE_MS).contains(&in_ms), "{in_ms}");

    let again = world.sign_in().await.registration.unwrap();
    assert_eq!(again.state, RegistrationState::Active);
}

#[tokio::test]
async fn a_core_that_is_down_keeps_nobody_from_signing_in_and_the_rest_is_done_later() {
    let mut world = World::start().await;
    world.core.is(Mood::Down);
    let signed_in = world.sign_in().await;
    let anna = signed_in.subscriber.id;
    assert_eq!(
        signed_in.registration.unwrap().state,
        RegistrationState::Wanted
    );
    world.restart_service().await;
    world.core.is(Mood::Well);
    eventually("it is registered", async || {
        world.state(anna).await == ACTIVE
    })
    .await;
}

#[tokio::test]
async fn neither_silence_nor_a_defect_holds_anything_up_for_ever() {
    let world = World::start().await;
    for mood in [Mood::Silent, Mood::Panics] {
        world.core.is(mood);
        let begun = Instant::now();
        let signed_in = world.sign_in().await;
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(
            signed_in.registration.unwrap().state,
            RegistrationState::Wanted
        );
    }
    world.core.is(Mood::Well);
    let anna = world.sign_in().await.subscriber.id;
    assert_eq!(world.state(anna).await, ACTIVE);
}

#[tokio::test]
async fn another_sip_uri_is_registered_and_the_former_one_deleted() {
    let mut world = World::start().await;
    let anna = world.sign_in().await.subscriber.id;
    world.stop_service().await;
    world.sip_uri = "sips:other.example.com".into();
    world.start_service().await;
    eventually("the new one is noted", async || {
        world.registration(anna).await.unwrap().sip_uri == "sips:other.example.com"
    })
    .await;
    let asked = world.core.script.asked();
    let asked: Vec<_> = asked
        .iter()
        .map(|it| (it.method, &*it.wish.sip_uri))
        .collect();
    let expected = [
        (Method::Upsert, "sips:voicemail.example.com"),
        (Method::Upsert, "sips:other.example.com"),
        (Method::Delete, "sips:voicemail.example.com"),
    ];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn with_our_own_token_every_subscriber_is_registered_also_one_who_never_signed_in() {
    let mut world = World::stopped().await.with_our_own_token();
    world.core_config.upserts_per_minute = 60_000;
    world.core.is(Mood::Slow);
    world.start_service().await;
    let numbers: Vec<_> = (0..300).map(|n| format!("+47999{n:05}")).collect();
    let subscribers: Vec<_> = numbers
        .iter()
        .map(|number| NewSubscriber {
            number: Msisdn::parse(number).unwrap(),
            name: None,
            time_zone: "Etc/UTC".into(),
            language: "en".into(),
        })
        .collect();
    let added = world.storage().add_subscribers(&subscribers, issuer::START);
    assert_eq!(added.await.unwrap().added, 300);
    // They are looked for at the start, and then every ten seconds.
    world.restart_service().await;
    eventually("all are registered", async || {
        world.core.upserts().len() == 300
    })
    .await;
    let asked = world.core.upserts();
    assert!(asked.iter().all(|it| it.token == asked[0].token));
    let mut told: Vec<_> = asked.iter().map(|it| it.wish.number.e164()).collect();
    told.sort_unstable();
    assert_eq!(told, numbers);
    assert_eq!(world.issuer.asked(TOKENS), 1, "one token for all");
    let most = *world.core.most_at_once.lock().unwrap();
    assert!((2..=1024).contains(&most), "{most}");
}

#[tokio::test]
async fn each_of_several_subscribers_is_asked_for_with_his_own_token() {
    let world = World::start().await;
    for number in ["+4799990001", "+4799990002", "+4799990003"] {
        let registration = world.sign_in_as(number).await.registration.unwrap();
        assert_eq!(registration.state, RegistrationState::Active);
    }
    let mut tokens: Vec<_> = world
        .core
        .upserts()
        .into_iter()
        .map(|it| it.token)
        .collect();
    tokens.dedup();
    assert_eq!(tokens.len(), 3);
}
