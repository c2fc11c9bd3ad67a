//! Where the tokens of a subscriber lie, and where not.

use std::io::Write;
use std::sync::{Arc, Mutex};

use aftertone::domain::DepartureCause;
use aftertone::vault::Vault;
use tracing_subscriber::filter::LevelFilter;

use crate::core::Trouble;
use crate::world::{World, eventually};

/// A log, kept.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    let mut parts = bytes.windows(text.len());
    parts.any(|part| part == text.as_bytes())
}

fn assert_no_token_in_files(world: &World) {
    let files = world.files();
    assert!(files.len() >= 2, "the database and its log: {files:?}");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        for token in ["refresh-", "access-"] {
            assert!(!holds(&bytes, token), "{token} in {}", file.display());
        }
    }
}

#[tokio::test]
async fn no_token_stands_in_the_database_or_in_the_log() {
    let kept = Kept::default();
    let writer = kept.clone();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let world = World::start().await;
    let anna = world.subscriber().await.id;
    assert_no_token_in_files(&world);

    // Refreshed, moved into a departure, and gone.
    world.core.is_in(Trouble::Refuses(world.core.last_token()));
    world
        .issuer
        .trouble("/revoke", crate::issuer::Trouble::Status(503));
    world
        .enrolment()
        .leave(anna, DepartureCause::Subscriber)
        .await
        .unwrap();
    eventually("revoking has failed", async || {
        world.issuer.asked("/revoke") > 0
    })
    .await;
    assert_no_token_in_files(&world);
    world.issuer.lie(|issuer| issuer.trouble.clear());
    world.issuer.clock.advance_ms(60_000);
    world.assert_gone(anna).await;
    assert_no_token_in_files(&world);

    let (form, _) = world.issuer.world.lock().unwrap().link.clone().unwrap();
    let log = kept.0.lock().unwrap().clone();
    assert!(holds(&log, "A subscriber leaves"), "the story is told");
    for secret in [
        "refresh-",
        "access-",
        form["state"].as_str(),
        crate::issuer::NUMBER,
    ] {
        assert!(!holds(&log, secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn a_new_key_takes_over_and_the_old_one_may_go() {
    let mut world = World::start().await;
    let anna = world.subscriber().await.id;
    let (old, new) = (world.keys[0], [9; 32]);
    let old_id = Vault::from_keys(&[old]).unwrap().key_id();
    world.keys = vec![new, old];
    world.restart_service().await;
    eventually("everything is sealed anew", async || {
        let left = world.storage().grants_sealed_by(old_id, None, 1).await;
        left.unwrap().is_empty()
    })
    .await;
    world.keys = vec![new];
    world.restart_service().await;
    world
        .enrolment()
        .leave(anna, DepartureCause::Operator)
        .await
        .unwrap();
    world.assert_gone(anna).await;
}
