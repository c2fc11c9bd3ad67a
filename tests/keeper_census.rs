//! What the metrics tell of registrations, in a process of its own: they are of the process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "oauth/issuer.rs"]
#[allow(dead_code, reason = "it can tell more lies than are needed here")]
mod issuer;
#[path = "keeper/world.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod world;

use aftertone::domain::DepartureCause;
use aftertone::telemetry;
use world::{World, eventually};

#[tokio::test]
async fn who_signs_in_again_is_counted_once_and_who_has_left_not_at_all() {
    let metrics = telemetry::prometheus();
    let is_told = async |line: &str| metrics.render().lines().any(|told| told == line);
    let world = World::start().await;
    for _ in 0..5 {
        world.sign_in().await;
    }
    let subscriber = world.sign_in().await.subscriber.id;
    eventually("one registration lives", async || {
        is_told("aftertone_registrations{state=\"live\"} 1").await
    })
    .await;

    let enrolment = world.enrolment();
    enrolment
        .leave(subscriber, DepartureCause::Subscriber)
        .await
        .unwrap();
    eventually("none lives", async || {
        is_told("aftertone_registrations{state=\"live\"} 0").await
    })
    .await;
    assert!(is_told("aftertone_registrations{state=\"missing\"} 0").await);
}
