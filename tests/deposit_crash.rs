//! The service is killed, and nothing that was accepted is lost or there twice.

mod support;

use std::time::Duration;

use aftertone::sip::Transport;
use support::process::Place;
use support::{Call, VOICE_HZ, recordings_in, tone_ms, voice};
use tokio::time::Instant;

/// A recording reaches the disk every half second, a fifth of a second late, and later where the machine is busy.
const LOST_IN_A_CRASH_MS: u64 = 1_300;

#[tokio::test(flavor = "multi_thread")]
async fn a_message_survives_the_kill_of_the_service_in_mid_recording() {
    let place = Place::new("");
    let token = place.subscriber();
    let service = place.start().await;
    let mut call = Call::start(service.uri(), Transport::Udp, |plan| {
        plan.say = Some(voice(20_000));
        plan.longest = Duration::from_secs(8);
    });
    call.until_speaking().await;
    let speaking_since = Instant::now();
    tokio::time::sleep(Duration::from_millis(3_400)).await;
    let said = speaking_since.elapsed().as_millis() as u64;
    service.kill();

    let service = place.start().await;
    let inbox = service.inbox(&token);
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["ended_by"], "interrupted");
    assert_eq!(message["from"], "+4787654321");
    assert_eq!(message["reason"], "busy");
    let audio = inbox.audio(&message).await;
    assert_eq!(
        audio.len() as u64 / 8,
        message["duration_ms"].as_u64().unwrap()
    );
    let kept = tone_ms(&audio, VOICE_HZ) as u64;
    assert!(kept <= said + 100, "{kept} ms kept of {said} ms");
    assert!(
        kept + LOST_IN_A_CRASH_MS >= said,
        "{kept} ms kept of {said} ms"
    );
    service.wait_until_ready(true).await;
    assert_eq!(recordings_in(&place.path("data/spool")), 0);
    call.report().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_every_phase_are_there_once_after_the_kill() {
    let place = Place::new("");
    let token = place.subscriber();
    let service = place.start().await;
    // The ages of the calls at the kill: in the greeting, the beep, the recording, around the
    // deposit, and after it.
    let ages_ms = [
        4_500, 3_900, 3_820, 3_780, 3_740, 3_700, 3_660, 3_620, 3_300, 1_300, 300,
    ];
    let oldest = ages_ms[0];
    let began = Instant::now();
    let mut calls = Vec::new();
    for age in ages_ms {
        tokio::time::sleep_until(began + Duration::from_millis(oldest - age)).await;
        calls.push(Call::start(service.uri(), Transport::Udp, |plan| {
            plan.say = Some(voice(2_000));
            plan.longest = Duration::from_secs(6);
        }));
    }
    tokio::time::sleep_until(began + Duration::from_millis(oldest)).await;
    service.kill();

    let service = place.start().await;
    service.wait_until_ready(true).await;
    let inbox = service.inbox(&token);
    let (messages, missed) = (inbox.messages().await, inbox.missed_calls().await);
    let counted = messages.len() + missed.len();
    assert_eq!(counted, calls.len(), "{messages:#?}\n{missed:#?}");
    let of_those_who_spoke = ages_ms.iter().filter(|age| **age >= 3_300).count();
    assert!(
        messages.len() >= of_those_who_spoke,
        "{messages:#?}\n{missed:#?}"
    );
    for message in &messages {
        let audio = inbox.audio(message).await;
        assert_eq!(
            audio.len() as u64 / 8,
            message["duration_ms"].as_u64().unwrap()
        );
    }
}
