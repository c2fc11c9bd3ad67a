//! Whole calls, from a phone's INVITE to the message in the subscriber's inbox.

mod support;

use std::time::Duration;

use aftertone::caller::Happened;
use aftertone::sip::Transport;
use support::raw::{RawCall, Request, Stream, header, receive, status};
use support::{GREETING_HZ, GREETING_MS, Service, VOICE_HZ, happened, tone_ms, voice};

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_hears_the_greeting_leaves_a_message_and_the_subscriber_hears_it() {
    let service = Service::start().await;
    let inbox = service.subscriber(support::NUMBER).await;
    for (calls, transport) in [
        Transport::Udp,
        Transport::Tcp,
        Transport::Tls,
        Transport::Ws,
    ]
    .into_iter()
    .enumerate()
    {
        let report = service.call(transport, |_| {}).await;
        assert!(report.is_completed(), "{transport:?}: {:?}", report.steps);
        assert!(
            happened(&report, |step| *step == Happened::Cue),
            "{:?}",
            report.steps
        );
        let greeting = tone_ms(&report.heard, GREETING_HZ);
        assert!(
            greeting.abs_diff(GREETING_MS) <= 60,
            "heard {greeting} ms of the greeting"
        );

        let message = inbox.wait_for_messages(calls + 1).await.remove(0);
        assert_eq!(message["from"], "+4787654321");
        assert_eq!(message["to"], support::NUMBER);
        assert_eq!(message["reason"], "busy");
        assert_eq!(message["ended_by"], "hang-up");
        assert_eq!(message["read"], false);
        let audio = inbox.audio(&message).await;
        let heard = tone_ms(&audio, VOICE_HZ);
        assert!(
            heard.abs_diff(3000) <= 20,
            "{heard} ms of 3000 are in the message"
        );
        let duration = message["duration_ms"].as_u64().unwrap();
        assert_eq!(duration, audio.len() as u64 / 8);
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_without_a_mailbox_is_not_found() {
    let service = Service::start().await;
    let report = service
        .call(Transport::Udp, |plan| plan.longest = Duration::from_secs(5))
        .await;
    let refused = |step: &Happened| matches!(step, Happened::Refused { status: 404, .. });
    assert!(happened(&report, refused), "{:?}", report.steps);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_presses_hash_ends_his_message_and_is_thanked() {
    let service = Service::start().await;
    let inbox = service.subscriber(support::NUMBER).await;
    let report = service
        .call(Transport::Udp, |plan| {
            plan.say = Some(voice(2000));
            plan.digits = "#".into();
        })
        .await;
    assert!(
        happened(&report, |step| *step == Happened::PeerHungUp),
        "{:?}",
        report.steps
    );
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["ended_by"], "digit");
    let heard = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    assert!(
        heard.abs_diff(2000) <= 20,
        "{heard} ms of 2000 are in the message"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_sends_its_keys_by_info_skips_the_greeting_and_ends_its_message() {
    let service = Service::start().await;
    let inbox = service.subscriber(support::NUMBER).await;
    let mut call = RawCall::start(service.sip(Transport::Udp), |invite| {
        let events = " 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15";
        invite.body = invite.body.replace(events, "");
    })
    .await;
    assert!(!call.answer.contains("telephone-event"), "{}", call.answer);
    let press_hash = |info: &mut Request| {
        info.headers = "Content-Type: application/dtmf-relay\r\n".into();
        info.body = "Signal=#\r\nDuration=160\r\n".into();
    };
    call.until_tone(GREETING_HZ).await;
    let response = call.request("INFO", press_hash).await;
    assert_eq!(status(&response), 200, "{response}");
    call.until_beep_is_over().await;
    call.send(Stream::new(VOICE_HZ).packets(100)).await;
    call.request("INFO", press_hash).await;
    call.until_bye().await;
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["ended_by"], "digit");
    let heard = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    assert!(
        heard.abs_diff(2000) <= 40,
        "{heard} ms of 2000 are in the message"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_cannot_be_taken_gets_488_with_a_warning() {
    let service = Service::start().await;
    service.subscriber(support::NUMBER).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(service.sip(Transport::Udp)).await.unwrap();
    let from = socket.local_addr().unwrap();
    let cases = [
        ("RTP/AVP 0 101", "RTP/AVP 18", 305),
        ("RTP/AVP", "RTP/SAVP", 302),
        ("m=audio", "m=video", 304),
    ];
    for (usual, odd, warning) in cases {
        let mut invite = Request::invite(service.sip(Transport::Udp), from, from);
        invite.body = invite.body.replace(usual, odd);
        socket.send(invite.over("UDP").as_bytes()).await.unwrap();
        let response = loop {
            let response = receive(&socket).await;
            let is_news = header(&response, "CSeq") == Some("1 INVITE")
                && header(&response, "Call-ID") == Some(&format!("raw-{}@{from}", invite.call));
            if is_news && status(&response) >= 200 {
                break response;
            }
        };
        assert_eq!(status(&response), 488, "{response}");
        let told = header(&response, "Warning").unwrap();
        assert!(told.starts_with(&format!("{warning} ")), "{told}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_message_and_is_not_kept() {
    let service = Service::with(|config| config.recording.silence_seconds = 2).await;
    let inbox = service.subscriber(support::NUMBER).await;
    let report = service
        .call(Transport::Udp, |plan| {
            // A digit that means nothing here: the phone stays on the line.
            plan.digits = "5".into();
        })
        .await;
    assert!(
        happened(&report, |step| *step == Happened::PeerHungUp),
        "{:?}",
        report.steps
    );
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["ended_by"], "silence");
    let audio = inbox.audio(&message).await;
    let voice_ends = audio
        .chunks_exact(160)
        .rposition(|frame| tone_ms(frame, VOICE_HZ) > 0)
        .unwrap()
        * 20;
    let after = audio.len() / 8 - voice_ends;
    assert!(
        after <= 700,
        "{after} ms of silence are kept after the last word"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_reaches_the_limit_is_kept_and_the_caller_is_thanked() {
    let service = Service::with(|config| config.recording.max_seconds = 4).await;
    let inbox = service.subscriber(support::NUMBER).await;
    let report = service
        .call(Transport::Udp, |plan| plan.say = Some(voice(20_000)))
        .await;
    assert!(
        happened(&report, |step| *step == Happened::PeerHungUp),
        "{:?}",
        report.steps
    );
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["ended_by"], "limit");
    assert_eq!(message["duration_ms"], 4000);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_says_nothing_leaves_a_missed_call() {
    let service = Service::with(|config| config.recording.silence_seconds = 2).await;
    let inbox = service.subscriber(support::NUMBER).await;
    service.call(Transport::Udp, |plan| plan.say = None).await;
    let missed = inbox.wait_for_missed_calls(1).await.remove(0);
    assert_eq!(missed["cause"], "too-short");
    assert_eq!(missed["from"], "+4787654321");
    assert!(inbox.messages().await.is_empty());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_mailbox_says_so_and_takes_nothing() {
    let service = Service::with(|config| config.recording.max_messages = 1).await;
    let inbox = service.subscriber(support::NUMBER).await;
    service.call(Transport::Udp, |_| {}).await;
    inbox.wait_for_messages(1).await;
    let report = service.call(Transport::Udp, |_| {}).await;
    assert!(
        happened(&report, |step| *step == Happened::PeerHungUp),
        "{:?}",
        report.steps
    );
    let missed = inbox.wait_for_missed_calls(1).await.remove(0);
    assert_eq!(missed["cause"], "mailbox-full");
    assert_eq!(inbox.messages().await.len(), 1);
    service.stop().await;
}
