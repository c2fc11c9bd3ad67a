//! The service is asked to stop while calls go on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use aftertone::caller::Happened;
use aftertone::sip::Transport;
use rustix::process::Signal;
use support::process::Place;
use support::{Call, VOICE_HZ, happened, tone_ms, voice, wait_for};
use tokio::net::UdpSocket;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_under_way_ends_as_it_would_and_new_ones_are_refused() {
    let place = Place::new("");
    let token = place.subscriber();
    let mut service = place.start().await;
    let mut call = Call::start(service.uri(), Transport::Udp, |plan| {
        plan.say = Some(voice(4_000));
    });
    call.until_speaking().await;

    service.signal(Signal::TERM);
    let report = service.wait_until_ready(false).await;
    let drain = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "drain");
    assert!(
        drain.unwrap()["error"]
            .as_str()
            .unwrap()
            .contains("stopping"),
        "{report}"
    );
    let refused = Call::start(service.uri(), Transport::Udp, |_| {})
        .report()
        .await;
    let unavailable = |step: &Happened| matches!(step, Happened::Refused { status: 503, .. });
    assert!(happened(&refused, unavailable), "{:?}", refused.steps);
    let options = ask_options(service.sip()).await;
    assert!(options.starts_with("SIP/2.0 503 "), "{options}");
    assert!(options.contains("\r\nRetry-After: "), "{options}");

    let report = call.report().await;
    assert!(
        happened(&report, |step| *step == Happened::HungUp),
        "{:?}",
        report.steps
    );
    assert!(service.ended().await.success());

    let service = place.start().await;
    let inbox = service.inbox(&token);
    let [message] = &inbox.messages().await[..] else {
        panic!("one message")
    };
    assert_eq!(message["ended_by"], "hang-up");
    let heard = tone_ms(&inbox.audio(message).await, VOICE_HZ);
    assert!(
        heard.abs_diff(4_000) <= 20,
        "{heard} ms of 4000 are in the message"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_calls_and_keeps_what_was_said() {
    let place = Place::new("");
    let token = place.subscriber();
    let mut service = place.start().await;
    let talk = |plan: &mut aftertone::caller::CallPlan| plan.say = Some(voice(25_000));
    let mut talking = Call::start(service.uri(), Transport::Udp, talk);
    talking.until_speaking().await;
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    let mut listening = Call::start(service.uri(), Transport::Udp, |_| {});
    listening.until(|step| *step == Happened::FirstAudio).await;

    service.signal(Signal::INT);
    service.wait_until_ready(false).await;
    service.signal(Signal::INT);
    let asked = Instant::now();
    assert!(service.ended().await.success());
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    for call in [talking, listening] {
        let report = call.report().await;
        let said_bye = happened(&report, |step| *step == Happened::PeerHungUp);
        assert!(said_bye, "{:?}", report.steps);
    }

    let service = place.start().await;
    let inbox = service.inbox(&token);
    let [message] = &inbox.messages().await[..] else {
        panic!("one message")
    };
    assert_eq!(message["ended_by"], "interrupted");
    let heard = tone_ms(&inbox.audio(message).await, VOICE_HZ);
    assert!(
        heard >= 1_500,
        "{heard} ms of what was said are in the message"
    );
    let [missed] = &inbox.missed_calls().await[..] else {
        panic!("one missed call")
    };
    assert_eq!(missed["cause"], "interrupted");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_calls_it_stops_at_once() {
    let place = Place::new("");
    let mut service = place.start().await;
    service.signal(Signal::TERM);
    let asked = Instant::now();
    assert!(service.ended().await.success());
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
    let log = service.log();
    assert!(log.contains("Stopped"), "{log}");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

/// The answer to OPTIONS, once the drain has reached SIP.
async fn ask_options(service: std::net::SocketAddr) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(service).await.unwrap();
    let from = socket.local_addr().unwrap();
    let mut asked = 0;
    wait_for(async || {
        asked += 1;
        let request = format!(
            "OPTIONS sip:{service} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {from};branch=z9hG4bK-drain-{asked}\r\n\
             From: <sip:test@{from}>;tag=t\r\nTo: <sip:{service}>\r\n\
             Call-ID: drain-{asked}@{from}\r\nCSeq: {asked} OPTIONS\r\n\
             Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        socket.send(request.as_bytes()).await.unwrap();
        let mut answer = [0; 2048];
        let len = tokio::time::timeout(support::SOON, socket.recv(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer[..len.unwrap().unwrap()]).into_owned();
        answer.starts_with("SIP/2.0 503").then_some(answer)
    })
    .await
}
