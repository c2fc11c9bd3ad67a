//! Callers who hang up, press keys or fall silent at any point of a call, and what becomes of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use aftertone::media::audio::{BEEP_HZ, Tone, write_wav};
use aftertone::media::ice::stun;
use support::process::{Place, Program};
use support::raw::{RawCall, Request, Stream, header, offer, receive, send_from, status};
use support::{GREETING_HZ, Inbox, VOICE_HZ, tone_ms, wait_for};
use tokio::net::UdpSocket;
use tokio::time::Instant;

const KEY_1: u8 = 1;
const KEY_5: u8 = 5;
const KEY_HASH: u8 = 11;
/// What a caller says, in packets of 20 ms.
const SENTENCE: u32 = 75;
const SENTENCE_MS: usize = 1_500;

struct Scene {
    _place: Place,
    service: Program,
    inbox: Inbox,
}

impl Scene {
    /// With a greeting of this length, and these lines in `[media]`.
    async fn new(greeting_ms: usize, media: &str) -> Self {
        let place = Place::new("");
        let tone = Tone::new(GREETING_HZ, 0.3).take_ms(greeting_ms);
        std::fs::write(place.path("greeting.wav"), write_wav(&tone)).unwrap();
        place.write_settings(|settings| {
            settings.replace("[media]\n", &format!("[media]\n{media}\n"))
        });
        let token = place.subscriber();
        let service = place.start().await;
        let inbox = service.inbox(&token);
        Self {
            _place: place,
            service,
            inbox,
        }
    }

    async fn call(&self) -> RawCall {
        RawCall::start(self.service.sip(), |_| {}).await
    }

    /// How the only call ended, as the one line of the log says it: outcome and reason.
    async fn outcome(&self) -> String {
        let line = self.service.wait_for_log("The call ended").await;
        assert_eq!(
            self.service.logged("The call ended"),
            1,
            "{}",
            self.service.log()
        );
        let of = |name: &str| {
            let rest = line
                .split_once(&format!(" {name}=\""))
                .unwrap_or_else(|| panic!("{line}"))
                .1;
            rest.split('"').next().unwrap().to_owned()
        };
        format!("{} {}", of("outcome"), of("reason"))
    }

    async fn message_ms(&self) -> usize {
        let message = self.inbox.wait_for_messages(1).await.remove(0);
        tone_ms(&self.inbox.audio(&message).await, VOICE_HZ)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_in_the_greeting_leaves_a_missed_call() {
    let scene = Scene::new(3_000, "").await;
    let call = scene.call().await;
    call.until_tone(GREETING_HZ).await;
    call.bye().await;
    assert_eq!(scene.outcome().await, "missed abandoned");
    assert_eq!(
        scene.inbox.wait_for_missed_calls(1).await[0]["cause"],
        "abandoned"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_in_the_beep_leaves_a_missed_call() {
    let scene = Scene::new(200, "").await;
    let call = scene.call().await;
    call.until_tone(BEEP_HZ).await;
    call.bye().await;
    assert_eq!(scene.outcome().await, "missed too-short");
    assert_eq!(
        scene.inbox.wait_for_missed_calls(1).await[0]["cause"],
        "too-short"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_in_mid_sentence_leaves_what_he_said() {
    let scene = Scene::new(200, "").await;
    let call = scene.call().await;
    call.until_beep_is_over().await;
    call.send(Stream::new(VOICE_HZ).packets(SENTENCE)).await;
    call.bye().await;
    assert_eq!(scene.outcome().await, "deposited hang-up");
    assert!(scene.message_ms().await.abs_diff(SENTENCE_MS) <= 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_in_the_goodbye_leaves_what_he_said_before_it() {
    let scene = Scene::new(200, "").await;
    let call = scene.call().await;
    call.until_beep_is_over().await;
    let mut voice = Stream::new(VOICE_HZ);
    call.send(voice.packets(SENTENCE)).await;
    call.send(voice.key(KEY_HASH)).await;
    // The message is there before the goodbye is over.
    let heard = scene.message_ms().await;
    assert!(heard.abs_diff(SENTENCE_MS) <= 20, "{heard} ms");
    call.bye().await;
    assert_eq!(scene.outcome().await, "deposited digit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_offer_in_the_goodbye_is_answered_and_the_goodbye_goes_on() {
    let scene = Scene::new(200, "").await;
    let mut call = scene.call().await;
    call.until_beep_is_over().await;
    let mut voice = Stream::new(VOICE_HZ);
    call.send(voice.packets(SENTENCE)).await;
    call.send(voice.key(KEY_HASH)).await;
    scene.inbox.wait_for_messages(1).await;
    let media = call.rtp.local_addr().unwrap();
    let answer = call
        .request("INVITE", |invite| {
            invite.headers = "Content-Type: application/sdp\r\n".into();
            invite.body = offer(media).replace("o=- 1 1", "o=- 1 2");
        })
        .await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(
        answer.contains("\r\nm=audio ") && answer.contains("a=sendrecv"),
        "{answer}"
    );
    call.acknowledge().await;
    let bye = call.until_bye().await;
    let reason = header(&bye, "Reason").unwrap();
    assert!(
        reason.starts_with("Q.850;cause=16") && reason.contains("digit"),
        "{reason}"
    );
    assert_eq!(scene.outcome().await, "deposited digit");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_skip_the_greeting_and_do_not_end_the_message_after_it() {
    for key in [KEY_HASH, KEY_1] {
        let scene = Scene::new(20_000, "").await;
        let call = scene.call().await;
        call.until_tone(GREETING_HZ).await;
        let mut voice = Stream::new(VOICE_HZ);
        let pressed = Instant::now();
        tokio::join!(call.send(voice.key(key)), call.until_beep_is_over());
        assert!(
            pressed.elapsed() < Duration::from_secs(10),
            "{:?}",
            pressed.elapsed()
        );
        call.send(voice.packets(SENTENCE)).await;
        call.bye().await;
        assert_eq!(scene.outcome().await, "deposited hang-up");
        assert!(scene.message_ms().await.abs_diff(SENTENCE_MS) <= 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_keys_mean_nothing() {
    let scene = Scene::new(1_500, "").await;
    let call = scene.call().await;
    call.until_tone(GREETING_HZ).await;
    let began = Instant::now();
    let mut voice = Stream::new(VOICE_HZ);
    tokio::join!(call.send(voice.key(KEY_5)), call.until_beep_is_over());
    assert!(
        began.elapsed() >= Duration::from_millis(1_400),
        "{:?}",
        began.elapsed()
    );
    call.send(voice.packets(SENTENCE)).await;
    call.send(voice.key(KEY_1)).await;
    call.send(voice.packets(SENTENCE)).await;
    call.bye().await;
    assert_eq!(scene.outcome().await, "deposited hang-up");
    assert!(scene.message_ms().await.abs_diff(2 * SENTENCE_MS) <= 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_media_stop_is_hung_up_on_and_his_message_kept() {
    let scene = Scene::new(200, "running_timeout_ms = 1000").await;
    let call = scene.call().await;
    call.until_beep_is_over().await;
    call.send(Stream::new(VOICE_HZ).packets(SENTENCE)).await;
    let bye = call.until_bye().await;
    assert!(
        header(&bye, "Reason").unwrap().contains("media-timeout"),
        "{bye}"
    );
    assert_eq!(scene.outcome().await, "deposited media-timeout");
    assert!(scene.message_ms().await.abs_diff(SENTENCE_MS) <= 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_media_is_hung_up_on() {
    let scene = Scene::new(20_000, "first_packet_timeout_ms = 1000").await;
    let call = scene.call().await;
    let bye = call.until_bye().await;
    assert!(
        header(&bye, "Reason").unwrap().contains("no-media"),
        "{bye}"
    );
    assert_eq!(scene.outcome().await, "missed no-media");
    let missed = scene.inbox.wait_for_missed_calls(1).await.remove(0);
    assert_eq!(missed["cause"], "no-media");
    assert_eq!(missed["failed_stage"], "rtp");
    let line = scene.service.wait_for_log("The call ended").await;
    assert!(line.contains("failed_stage=\"rtp\""), "{line}");
    assert!(line.contains("first_rtp_out_ms="), "{line}");
}

/// A caller as a browser is one, who gets no further than to where `how_far` takes the call.
async fn browser_that_gives_up(how_far: impl AsyncFnOnce(&RawCall)) -> (String, String) {
    let scene = Scene::new(20_000, "first_packet_timeout_ms = 1500").await;
    let sip = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let rtp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let print = ["AB"; 32].join(":");
    let call = RawCall::start_from(scene.service.sip(), sip, rtp, |request| {
        request.body = request.body.replace("RTP/AVP", "UDP/TLS/RTP/SAVPF");
        request.body += &format!(
            "a=rtcp-mux\r\na=ice-ufrag:peer\r\na=ice-pwd:{PASSWORD}\r\n\
             a=fingerprint:sha-256 {print}\r\na=setup:actpass\r\n"
        );
    })
    .await;
    how_far(&call).await;
    let bye = call.until_bye().await;
    assert!(
        header(&bye, "Reason").unwrap().contains("no-media"),
        "{bye}"
    );
    let missed = scene.inbox.wait_for_missed_calls(1).await.remove(0);
    let text = |name: &str| missed[name].as_str().unwrap().to_owned();
    (text("cause"), text("failed_stage"))
}

const PASSWORD: &str = "a-password-of-22-letters";

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_call_tells_which_stage_its_media_did_not_reach() {
    let (cause, stage) = browser_that_gives_up(async |_| {}).await;
    assert_eq!((cause.as_str(), stage.as_str()), ("no-media", "ice"));

    let nominates = async |call: &RawCall| {
        let told = |name: &str| {
            let line = call.answer.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().to_owned()
        };
        let mut check = [0; stun::MAX_LEN];
        let mut writer = stun::Writer::new(&mut check, stun::Class::Request, &[7; 12]);
        writer.username(&told("a=ice-ufrag:"), "peer");
        writer.priority(1);
        writer.use_candidate();
        writer.role(stun::Role::Controlling(1));
        let len = writer.finish(&stun::key(&told("a=ice-pwd:"))).unwrap();
        call.rtp.send_to(&check[..len], call.media).await.unwrap();
        let mut datagram = [0; 1_500];
        // The check is answered, and the handshake begun.
        for first in [1, 22] {
            let (len, _) = call.rtp.recv_from(&mut datagram).await.unwrap();
            assert_eq!(datagram[..len][0], first);
        }
    };
    let (cause, stage) = browser_that_gives_up(nominates).await;
    assert_eq!((cause.as_str(), stage.as_str()), ("no-media", "dtls"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_tells_how_its_call_came_about() {
    let scene = Scene::new(200, "").await;
    let call = scene.call().await;
    call.until_beep_is_over().await;
    call.send(Stream::new(VOICE_HZ).packets(SENTENCE)).await;
    call.bye().await;
    let message = scene.inbox.wait_for_messages(1).await.remove(0);
    let setup = &message["setup"];
    let at = |stage: &str| setup[stage].as_u64().unwrap_or_else(|| panic!("{setup}"));
    assert!(at("answered_ms") <= at("first_rtp_out_ms"), "{setup}");
    assert!(at("first_rtp_out_ms") < at("first_rtp_in_ms"), "{setup}");
    assert!(
        setup["ice_ms"].is_null() && setup["dtls_ms"].is_null(),
        "{setup}"
    );
    let line = scene.service.wait_for_log("The call ended").await;
    for stage in ["answered_ms", "first_rtp_out_ms", "first_rtp_in_ms"] {
        assert!(line.contains(&format!(" {stage}={}", at(stage))), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn session_timers_are_agreed_on() {
    let scene = Scene::new(200, "").await;
    let call = RawCall::start(scene.service.sip(), |invite| {
        invite
            .headers
            .push_str("Supported: timer\r\nSession-Expires: 120;refresher=uac\r\n");
    })
    .await;
    assert_eq!(
        header(&call.answer, "Session-Expires"),
        Some("120;refresher=uac")
    );
    assert!(
        header(&call.answer, "Require").unwrap().contains("timer"),
        "{}",
        call.answer
    );
    call.bye().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greeting_begins_as_soon_as_the_call_is_answered() {
    let scene = Scene::new(1_000, "").await;
    let mut waits = Vec::new();
    for _ in 0..10 {
        let call = scene.call().await;
        let answered = Instant::now();
        call.until_tone(GREETING_HZ).await;
        waits.push(answered.elapsed());
        call.bye().await;
    }
    waits.sort();
    println!(
        "from the answer to the greeting: median {:?}, longest {:?}",
        waits[5], waits[9]
    );
    assert!(waits[5] < Duration::from_millis(500), "{waits:?}");
    wait_for(async || (scene.service.logged("missed") == 10).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_before_the_answer_leaves_a_missed_call() {
    let scene = Scene::new(200, "").await;
    let service = scene.service.sip();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(service).await.unwrap();
    let from = socket.local_addr().unwrap();
    let mut request = Request::invite(service, from, from);
    request.headers.push_str("Require: 100rel\r\n");
    socket.send(request.over("UDP").as_bytes()).await.unwrap();
    // Our PRACK is waited for before the answer. It never comes.
    while status(&receive(&socket).await) != 183 {}
    request.method = "CANCEL";
    (request.headers, request.body) = (String::new(), String::new());
    socket.send(request.over("UDP").as_bytes()).await.unwrap();
    let refused = loop {
        let response = receive(&socket).await;
        if status(&response) >= 300 {
            break response;
        }
    };
    assert_eq!(status(&refused), 487, "{refused}");
    request.method = "ACK";
    socket.send(request.over("UDP").as_bytes()).await.unwrap();
    assert_eq!(scene.outcome().await, "cancelled by-caller");
    assert_eq!(
        scene.inbox.wait_for_missed_calls(1).await[0]["cause"],
        "abandoned"
    );
}

/// A new offer within the call, which must be taken.
async fn offer_again(call: &mut RawCall, description: String) {
    let answer = call
        .request("INVITE", |invite| {
            invite.headers = "Content-Type: application/sdp\r\n".into();
            invite.body = description;
        })
        .await;
    assert_eq!(status(&answer), 200, "{answer}");
    call.acknowledge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_moves_in_mid_sentence_is_heard_from_his_new_place() {
    let scene = Scene::new(200, "").await;
    let mut call = scene.call().await;
    call.until_beep_is_over().await;
    let mut voice = Stream::new(VOICE_HZ);
    call.send(voice.packets(SENTENCE)).await;
    let new_place = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let description = offer(new_place.local_addr().unwrap()).replace("o=- 1 1", "o=- 1 2");
    offer_again(&mut call, description).await;
    send_from(&new_place, call.media, voice.packets(SENTENCE)).await;
    call.bye().await;
    let heard = scene.message_ms().await;
    assert!(heard.abs_diff(2 * SENTENCE_MS) <= 20, "{heard} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_on_hold_is_not_hung_up_on_and_goes_on_where_he_was() {
    let scene = Scene::new(200, "running_timeout_ms = 1000").await;
    let mut call = scene.call().await;
    call.until_beep_is_over().await;
    let mut voice = Stream::new(VOICE_HZ);
    call.send(voice.packets(SENTENCE)).await;
    let media = call.rtp.local_addr().unwrap();
    let held = offer(media).replace("o=- 1 1", "o=- 1 2") + "a=inactive\r\n";
    offer_again(&mut call, held).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    offer_again(&mut call, offer(media).replace("o=- 1 1", "o=- 1 3")).await;
    voice.header.timestamp = voice.header.timestamp.wrapping_add(2_500 * 8);
    call.send(voice.packets(SENTENCE)).await;
    call.bye().await;
    assert_eq!(scene.outcome().await, "deposited hang-up");
    let heard = scene.message_ms().await;
    assert!(heard.abs_diff(2 * SENTENCE_MS) <= 20, "{heard} ms");
}
