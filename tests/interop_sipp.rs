//! Calls of SIPp, a caller that others wrote, from its INVITE to the message in the inbox.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use aftertone::media::audio::{Tone, tone_level, write_wav};
use aftertone::sip::Transport;
use serde_json::Value;
use support::sipp::{Scenario, received};
use support::{Inbox, NUMBER, Service, VOICE_HZ, tone_ms, wait_for};

/// How much longer or shorter than the voice a message may be.
const TOLERANCE_MS: usize = 20;

/// The message holds `ms` of the tone, whole from its first to its last sample, and nothing else.
async fn holds_just(inbox: &Inbox, message: &Value, hz: f64, ms: usize) {
    let audio = inbox.audio(message).await;
    let duration = message["duration_ms"].as_u64().unwrap() as usize;
    assert_eq!(duration, audio.len() / 8);
    assert!(
        duration.abs_diff(ms) <= TOLERANCE_MS,
        "{duration} ms instead of {ms}"
    );
    let heard = tone_ms(&audio, hz);
    assert!(
        heard.abs_diff(ms) <= TOLERANCE_MS,
        "{heard} ms of {ms} are in the message"
    );
    for (end, frame) in [
        ("first", &audio[..160]),
        ("last", &audio[audio.len() - 160..]),
    ] {
        let level = tone_level(frame, hz);
        assert!(level > 0.2, "the {end} frame has the voice at {level}");
    }
}

/// The one message of a call of two seconds.
async fn leaves_a_message(scenario: Scenario) {
    let service = Service::start().await;
    let inbox = service.subscriber(NUMBER).await;
    if scenario.run(&service).await.is_none() {
        return;
    }
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["from"], "+4787654321");
    assert_eq!(message["from_name"], "SIPp, caller");
    assert_eq!(message["to"], NUMBER);
    assert_eq!(message["reason"], "busy");
    assert_eq!(message["ended_by"], "hang-up");
    holds_just(&inbox, &message, VOICE_HZ, 2000).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_udp() {
    leaves_a_message(Scenario::named("message")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_tcp() {
    leaves_a_message(Scenario::named("message").over(Transport::Tcp)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_tcp_with_reliable_provisional_responses() {
    let require = "Require: 100rel\nSupported: 100rel, timer";
    leaves_a_message(
        Scenario::named("reliable")
            .with("headers", require)
            .over(Transport::Tcp),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_requires_100rel_gets_a_reliable_183_and_leaves_a_message() {
    let require = "Require: 100rel\nSupported: 100rel, timer";
    leaves_a_message(Scenario::named("reliable").with("headers", require)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_comes_late_is_made_by_us() {
    leaves_a_message(Scenario::named("late_offer")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_larger_than_a_packet_is_taken() {
    let long = format!("X-Trace: {}", "0123456789abcdef".repeat(300));
    leaves_a_message(Scenario::named("message").with("headers", long)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_that_came_two_ways_is_answered_once() {
    leaves_a_message(Scenario::named("merged")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn info_options_and_a_refresh_in_a_call_are_answered() {
    let timer = "Supported: timer\nSession-Expires: 600;refresher=uac\nMin-SE: 90";
    leaves_a_message(Scenario::named("info").with("headers", timer)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn media_is_taken_from_where_it_comes_when_the_description_names_a_private_address() {
    let behind_nat = Scenario::named("message")
        .with("media_ip", "10.11.12.13")
        .with("contact", "10.11.12.13:5060")
        .with("via_params", ";rport");
    leaves_a_message(behind_nat).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_ipv6() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        return eprintln!("skipped: this machine has no IPv6");
    }
    let service = Service::with(|config| {
        config.sip.listen = vec!["udp://[::1]:0".parse().unwrap()];
        config.media.listen = "[::1]:0".parse().unwrap();
    })
    .await;
    let inbox = service.subscriber(NUMBER).await;
    if Scenario::named("message").run(&service).await.is_some() {
        let message = inbox.wait_for_messages(1).await.remove(0);
        holds_just(&inbox, &message, VOICE_HZ, 2000).await;
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ack_makes_the_answer_come_again() {
    let service = Service::start().await;
    let inbox = service.subscriber(NUMBER).await;
    let late = Scenario::named("lost_ack").run(&service).await;
    let Some(messages) = late else { return };
    let answers = received(&messages, "CSeq: 1 INVITE") - received(&messages, "SIP/2.0 100");
    assert!(answers >= 2, "the answer came {answers} times in 1.3 s");
    let message = inbox.wait_for_messages(1).await.remove(0);
    holds_just(&inbox, &message, VOICE_HZ, 2000).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_ack_the_answer_comes_for_32_s_and_then_a_bye() {
    let service = Service::start().await;
    let inbox = service.subscriber(NUMBER).await;
    let began = tokio::time::Instant::now();
    let silent = Scenario::named("no_ack").run(&service).await;
    let Some(messages) = silent else { return };
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(31),
        "the BYE came after {took:?}"
    );
    let answers = received(&messages, "SIP/2.0 200 OK");
    assert!(
        (10..=11).contains(&answers),
        "the answer came {answers} times"
    );
    assert!(inbox.messages().await.is_empty());
    assert_eq!(inbox.wait_for_missed_calls(1).await.len(), 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_cancels_leaves_a_missed_call_and_no_message() {
    let service = Service::start().await;
    let inbox = service.subscriber(NUMBER).await;
    let require = "Require: 100rel\nSupported: 100rel";
    let cancelled = Scenario::named("cancel")
        .with("headers", require)
        .run(&service)
        .await;
    if cancelled.is_none() {
        return;
    }
    let missed = inbox.wait_for_missed_calls(1).await.remove(0);
    assert_eq!(missed["cause"], "abandoned");
    assert!(inbox.messages().await.is_empty());
    service.stop().await;
}

/// A caller who holds: both parts of what he said are kept.
async fn holds_and_comes_back(name: &'static str, method: &str) {
    let service = Service::start().await;
    let inbox = service.subscriber(NUMBER).await;
    if Scenario::named(name)
        .with("method", method)
        .run(&service)
        .await
        .is_none()
    {
        return;
    }
    let message = inbox.wait_for_messages(1).await.remove(0);
    let heard = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    assert!(
        heard.abs_diff(4000) <= 2 * TOLERANCE_MS,
        "{heard} ms of 4000 are in the message"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_holds_by_reinvite_and_comes_back_is_heard_before_and_after() {
    holds_and_comes_back("reinvite", "INVITE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_holds_by_update_and_comes_back_is_heard_before_and_after() {
    holds_and_comes_back("update", "UPDATE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_before_and_across_the_beep_is_heard_from_the_first_word() {
    let service = Service::start().await;
    let inbox = service.subscriber(NUMBER).await;
    // The greeting takes a second: the voice begins a second before the beep and goes on after it.
    let eager = Scenario::named("message")
        .speaking_after(0)
        .saying(VOICE_HZ, 3000);
    if eager.run(&service).await.is_none() {
        return;
    }
    let message = inbox.wait_for_messages(1).await.remove(0);
    holds_just(&inbox, &message, VOICE_HZ, 3000).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_all_through_a_long_greeting_is_heard_from_before_the_beep() {
    let service = Service::with(|config| {
        let greeting = config.greeting.file.clone().unwrap();
        std::fs::write(greeting, write_wav(&Tone::new(440.0, 0.3).take_ms(3500))).unwrap();
    })
    .await;
    let inbox = service.subscriber(NUMBER).await;
    let eager = Scenario::named("message")
        .speaking_after(0)
        .saying(VOICE_HZ, 5000);
    if eager.run(&service).await.is_none() {
        return;
    }
    let message = inbox.wait_for_messages(1).await.remove(0);
    let heard = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    assert!(
        (2500..=4000).contains(&heard),
        "{heard} ms: a second before the beep and all after it"
    );
    service.stop().await;
}

/// What INVITEs are refused with, and what the refusal says.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_cannot_be_taken_are_refused_with_the_reason() {
    let service = Service::start().await;
    let inbox = service.subscriber(NUMBER).await;
    let refused = |status: u16, expect: &str| {
        Scenario::named("refused")
            .with("status", status.to_string())
            .with("expect", expect)
    };
    let short_timer = "Supported: timer\nSession-Expires: 30";
    let foreign = "a=rtpmap:18 G729/8000";
    let cases = [
        refused(404, "To: .*tag=").to("+4799990404"),
        refused(422, "Min-SE: 90").with("headers", short_timer),
        refused(420, "Unsupported: telepathy").with("headers", "Require: telepathy"),
        refused(415, "Accept: application/sdp").with("content_type", "text/plain"),
        refused(488, "To: .*tag=")
            .with("formats", "18")
            .with("formats_lines", foreign),
        refused(416, "To: .*tag=").with("uri", "http://example.com/"),
    ];
    for case in cases {
        for transport in [Transport::Udp, Transport::Tcp] {
            if case.clone().over(transport).run(&service).await.is_none() {
                return;
            }
        }
    }
    assert!(inbox.messages().await.is_empty());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_outside_of_calls_are_answered_as_the_rules_say() {
    let service = Service::start().await;
    let asked = |method: &str, status: u16, expect: &str| {
        Scenario::named("asked")
            .with("method", method)
            .with("status", status.to_string())
            .with("expect", expect)
    };
    let allow = "Allow: .*INVITE.*PRACK.*UPDATE";
    let cases = [
        asked("OPTIONS", 200, allow),
        asked("OPTIONS", 200, "Accept: application/sdp"),
        asked("REGISTER", 405, allow),
        asked("SUBSCRIBE", 405, allow),
        asked("MESSAGE", 405, allow),
        asked("BYE", 481, "SIP/2.0").with("to_params", ";tag=nobody"),
        asked("INFO", 481, "SIP/2.0").with("to_params", ";tag=nobody"),
        asked("UPDATE", 481, "SIP/2.0").with("to_params", ";tag=nobody"),
        asked("CANCEL", 481, "SIP/2.0"),
    ];
    for case in cases {
        for transport in [Transport::Udp, Transport::Tcp] {
            if case.clone().over(transport).run(&service).await.is_none() {
                return;
            }
        }
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_and_believed_nothing() {
    let service = Service::with(|config| {
        config.sip.trusted_peers = vec!["192.0.2.0/24".parse().unwrap()];
    })
    .await;
    service.subscriber(NUMBER).await;
    let stranger = Scenario::named("refused").with("status", "403");
    drop(stranger.run(&service).await);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_too_many_is_told_when_to_come_back() {
    let service = Service::with(|config| config.sip.max_calls = 1).await;
    let inbox = service.subscriber(NUMBER).await;
    let first = Scenario::named("message");
    let second = Scenario::named("refused")
        .with("status", "503")
        .with("expect", "Retry-After: [0-9]+");
    let second = async {
        wait_for(async || (service.recordings() > 0).then_some(())).await;
        second.run(&service).await
    };
    if support::peers::find("sipp").is_none() {
        return;
    }
    tokio::join!(first.run(&service), second);
    let message = inbox.wait_for_messages(1).await.remove(0);
    holds_just(&inbox, &message, VOICE_HZ, 2000).await;
    // There is room again.
    first.run(&service).await;
    inbox.wait_for_messages(2).await;
    service.stop().await;
}

/// Five groups of callers, each with a voice of its own, all at once.
async fn many_callers(change: impl Fn(Scenario) -> Scenario) {
    const GROUPS: [(&str, f64); 5] = [
        ("+4787650001", 500.0),
        ("+4787650002", 800.0),
        ("+4787650003", 1100.0),
        ("+4787650004", 1700.0),
        ("+4787650005", 2300.0),
    ];
    const EACH: usize = 10;
    if support::peers::find("sipp").is_none() {
        return;
    }
    let service = Service::start().await;
    let inbox = service.subscriber(NUMBER).await;
    let groups = GROUPS.map(|(caller, hz)| {
        change(
            Scenario::named("message")
                .with("caller", caller)
                .saying(hz, 2000)
                .times(EACH, 5),
        )
    });
    let [a, b, c, d, e] = groups.each_ref().map(|group| group.run(&service));
    tokio::join!(a, b, c, d, e);
    let messages = inbox.wait_for_messages(GROUPS.len() * EACH).await;
    for (caller, hz) in GROUPS {
        let of_group: Vec<_> = messages
            .iter()
            .filter(|message| message["from"] == caller)
            .collect();
        assert_eq!(of_group.len(), EACH, "messages from {caller}");
        for message in of_group {
            holds_just(&inbox, message, hz, 2000).await;
        }
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_callers_at_once_are_each_heard_and_none_in_the_message_of_another() {
    many_callers(|group| group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_all_name_the_same_address_are_told_apart() {
    many_callers(|group| group.with("media_port", "6000")).await;
}

/// SIPp plays what was captured elsewhere through raw sockets, which only root may open.
fn may_play_captures() -> Option<PathBuf> {
    let sipp = support::peers::find("sipp")?;
    let captures = sipp.ancestors().nth(2)?.join("share/sip-tester");
    let may = rustix::process::geteuid().is_root() && captures.join("g711a.pcap").is_file();
    if !may {
        eprintln!("skipped: SIPp's captures are not there, or this is not root");
    }
    may.then_some(captures)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_a_stream_of_its_own_ends_the_message_after_the_last_word() {
    let Some(captures) = may_play_captures() else {
        return;
    };
    let service = Service::start().await;
    let inbox = service.subscriber(NUMBER).await;
    let callers = Scenario::named("captured")
        .with("captures", captures.to_str().unwrap())
        .with("media_port", "[media_port]")
        .times(10, 10);
    callers.run(&service).await;
    for message in inbox.wait_for_messages(10).await {
        assert_eq!(message["ended_by"], "digit");
        // 7,080 ms of voice, and about 150 more until the key.
        let duration = message["duration_ms"].as_u64().unwrap();
        assert!((7060..=7500).contains(&duration), "{duration} ms");
    }
    service.stop().await;
}

/// An offer of keys: a suite that nobody has, and two that we know.
fn keyed(scenario: &'static str, profile: &str) -> Scenario {
    let key = "inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";
    let lines = format!(
        "a=rtpmap:8 PCMA/8000\na=crypto:1 F8_128_HMAC_SHA1_80 {key}\n\
         a=crypto:2 AES_CM_128_HMAC_SHA1_32 {key}|2^20|1:4\na=crypto:3 AES_CM_128_HMAC_SHA1_80 {key}|2^20"
    );
    let scenario = Scenario::named(scenario).with("profile", profile);
    scenario.with("formats", "8").with("formats_lines", lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_the_description_are_taken_where_that_is_configured() {
    let service = Service::with(|config| config.media.sdes = true).await;
    let inbox = service.subscriber(NUMBER).await;
    // The one with an MKI, which we cannot have, is passed over.
    for profile in ["RTP/SAVP", "RTP/SAVPF"] {
        let expect =
            format!("m=audio [0-9]+ {profile} 8.*a=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:");
        let call = keyed("keyed", profile)
            .with("expect", expect)
            .over(Transport::Tcp);
        let Some(messages) = call.run(&service).await else {
            return;
        };
        assert_eq!(messages.matches("a=crypto:3").count(), 2, "{messages}");
    }
    assert_eq!(inbox.wait_for_missed_calls(2).await.len(), 2);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_the_description_are_refused_where_nobody_asked_for_them() {
    let service = Service::start().await;
    service.subscriber(NUMBER).await;
    let call = keyed("refused", "RTP/SAVP")
        .with("status", "488")
        .with("expect", "Warning: 3");
    drop(call.run(&service).await);
    service.stop().await;
}
