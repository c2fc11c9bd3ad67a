//! What the log tells of sign-ins, at its most talkative.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing_subscriber::filter::LevelFilter;

use crate::issuer::{NUMBER, SECRET};
use crate::sign_in::World;

/// The log of the process, kept.
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

/// It also hears the other stories of this binary, which must keep silent about the same things.
#[tokio::test]
async fn no_line_of_any_level_shows_a_token_a_code_or_a_number() {
    let kept = Kept::default();
    let writer = kept.clone();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let world = World::start().await;
    let (pending, callback) = world.begin().await;
    let (code, state) = (
        callback.code.clone().unwrap(),
        callback.state.clone().unwrap(),
    );
    world
        .enrolment
        .complete(&pending, callback.clone())
        .await
        .unwrap();
    world
        .enrolment
        .complete(&pending, callback)
        .await
        .unwrap_err();

    let log = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("Signed …01 in"), "the story is told: {log}");
    assert!(log.contains("TRACE"), "it is told at length");
    let said = [
        code.as_str(),
        &state,
        &pending,
        "access-",
        "refresh-",
        SECRET,
        NUMBER,
        &NUMBER[1..],
    ];
    for secret in said {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}
