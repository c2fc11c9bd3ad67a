//! The sandbox's simulated phones: what each behaviour sounds like to a caller, and what hostile modes do to a message
//! that is left with the whole service. Everything is asked for and seen over HTTP, as a person or a script would.
#![cfg(feature = "sandbox")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use aftertone::media::audio::read_wav;
use aftertone::mobile_core::pb::wgtwo::sipbreakout::v1::RouteType;
use aftertone::sip::Transport;
use serde_json::{Value, json};
use support::core::{Core, ORIGINATING, TERMINATING};
use support::{GREETING_HZ, GREETING_MS, Inbox, Service, VOICE_HZ, tone_ms, wait_for};

/// The phones of the sandbox's own list.
const ANSWERS: &str = "+4799990001";
const BUSY: &str = "+4799990002";
const DOES_NOT_ANSWER: &str = "+4799990003";
const OFF: &str = "+4799990004";
const ANSWERS_LATE: &str = "+4799990005";
const HANGS_UP: &str = "+4799990006";
const DECLINES: &str = "+4799990007";

/// How long phones ring here.
const RING_TIMEOUT_MS: u64 = 2_500;
/// The tone that callers say.
const SAID_MS: usize = 3_000;

/// A script at the control API.
struct Stand {
    core: Core,
    http: reqwest::Client,
}

impl Stand {
    async fn start(tls_ca: Option<std::path::PathBuf>) -> Self {
        let core = Core::with(|config, _| {
            config.numbers = aftertone::sandbox::Config::default().numbers;
            config.ring_timeout_ms = RING_TIMEOUT_MS;
            config.tls_ca = tls_ca;
        });
        Self {
            core: core.await,
            http: reqwest::Client::new(),
        }
    }

    /// The sandbox, and a service that takes the calls of a number that is busy or does not answer.
    async fn with_voicemail() -> (Self, Service, Inbox) {
        let service = Service::with(|config| {
            config.sip.strip_prefixes = [ORIGINATING, TERMINATING].map(String::from).to_vec();
        });
        let service = service.await;
        let stand = Self::start(Some(service.dir.path().join("cert.pem"))).await;
        let endpoint = format!("sips:{}", service.sip(Transport::Tls));
        stand.core.add(BUSY, &endpoint, RouteType::Fallback).await;
        let inbox = service.subscriber(BUSY).await;
        (stand, service, inbox)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.core.sandbox.issuer())
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(self.url(path)).send().await.unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.http.post(self.url(path)).json(body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Places a call and follows it to its end.
    async fn call(&self, body: Value) -> Value {
        let (status, call) = self.post("/sandbox/calls", &body).await;
        assert_eq!(status, 200, "{call}");
        let path = format!("/sandbox/calls/{}", call["id"]);
        wait_for(async || {
            let call: Value = self.get(&path).await.json().await.unwrap();
            (!call["ended_at"].is_null()).then_some(call)
        })
        .await
    }

    /// Places a call that says a tone when it may.
    async fn tone(&self, to: &str, modes: &[&str]) -> Value {
        let body = json!({ "from": ANSWERS, "to": to, "say": "tone", "modes": modes });
        self.call(body).await
    }

    /// What the caller heard.
    async fn heard(&self, call: &Value) -> Vec<i16> {
        let path = call["heard"].as_str().expect("something was heard");
        let response = self.get(path).await;
        assert_eq!(response.headers()["content-type"], "audio/wav");
        read_wav(&response.bytes().await.unwrap()).unwrap()
    }

    async fn behaves(&self, number: &str, behaviour: &str) {
        let path = format!("/sandbox/numbers/{number}");
        let (status, _) = self.post(&path, &json!({ "behaviour": behaviour })).await;
        assert_eq!(status, 200);
    }
}

/// When this was noted, in milliseconds of the call.
#[track_caller]
fn at(call: &Value, what: &str) -> u64 {
    find(call, what).unwrap_or_else(|| panic!("no \"{what}\" in {call:#}"))
}

fn find(call: &Value, what: &str) -> Option<u64> {
    let mut steps = call["steps"].as_array().unwrap().iter();
    let step = steps.find(|step| step["what"].as_str().unwrap().contains(what))?;
    step["ms"].as_u64()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_phone_does_what_its_behaviour_says() {
    let stand = Stand::start(None).await;
    // Whoever is called first may still be registering.
    wait_for(async || find(&stand.tone(BUSY, &[]).await, "told: 486")).await;
    stand.behaves(ANSWERS_LATE, "answer-late:1500").await;

    let from_busy = |to: &str| json!({ "from": BUSY, "to": to });
    let (answered, busy, unanswered, off, late, hung_up, declined, nobody) = tokio::join!(
        stand.call(from_busy(ANSWERS)),
        stand.tone(BUSY, &[]),
        stand.tone(DOES_NOT_ANSWER, &[]),
        stand.tone(OFF, &[]),
        stand.tone(ANSWERS_LATE, &[]),
        stand.tone(HANGS_UP, &[]),
        stand.tone(DECLINES, &[]),
        stand.tone("+4799999999", &[]),
    );
    at(&answered, "hears it ring");
    at(&answered, "is through (opus, webrtc, with ICE)");
    at(&answered, "media are secured");
    at(&answered, "has said everything");
    assert!(stand.heard(&answered).await.len() > 8 * 3000);

    at(&busy, "told: 486");
    assert_eq!(busy["heard"], Value::Null);
    let rang = at(&unanswered, "hears it ring");
    let gave_up = at(&unanswered, "gives up: nobody answered in time");
    assert!(gave_up >= rang + RING_TIMEOUT_MS, "{unanswered:#}");
    at(&off, "told: 480");
    assert_eq!(find(&off, "hears it ring"), None);
    let rang = at(&late, "hears it ring");
    assert!(at(&late, "is through") >= rang + 1400, "{late:#}");
    at(&hung_up, "is through");
    at(&hung_up, "The other side hangs up");
    at(&declined, "told: 603");
    at(&nobody, "told: 404");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_takes_whatever_media_it_is_offered() {
    let stand = Stand::start(None).await;
    let offering =
        |media: &str| json!({ "from": BUSY, "to": ANSWERS, "say": "tone", "media": media });
    // It may still be registering.
    let is_through = async || find(&stand.call(offering("rtp")).await, "is through (opus, rtp)");
    wait_for(is_through).await;
    let through_a_relay =
        json!({ "from": BUSY, "to": ANSWERS, "say": "tone", "modes": ["media-jitter"] });
    let (sdes, web, relayed) = tokio::join!(
        stand.call(offering("sdes")),
        stand.call(offering("webrtc")),
        stand.call(through_a_relay),
    );
    at(&sdes, "is through (opus, sdes)");
    assert_eq!(find(&sdes, "ICE"), None);
    for call in [&web, &relayed] {
        at(call, "have found a way");
        at(call, "are secured");
    }
    for call in [&sdes, &web, &relayed] {
        at(call, "has said everything");
        let heard = stand.heard(call).await;
        assert!(heard.iter().any(|sample| sample.unsigned_abs() > 1_000));
    }
    let (status, _) = stand.post("/sandbox/calls", &offering("zrtp")).await;
    assert_eq!(status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_is_switched_on_rings_and_one_that_is_switched_off_does_not() {
    let stand = Stand::start(None).await;
    stand.behaves(OFF, "busy").await;
    wait_for(async || find(&stand.tone(OFF, &[]).await, "told: 486")).await;
    stand.behaves(OFF, "off").await;
    wait_for(async || find(&stand.tone(OFF, &[]).await, "told: 480")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_called_is_refused_with_a_sentence() {
    let stand = Stand::start(None).await;
    for (body, status) in [
        (json!({ "from": "+4712345678", "to": BUSY }), 404),
        (json!({ "from": BUSY, "to": "nobody" }), 400),
        (json!({ "from": BUSY }), 400),
        (json!({ "from": BUSY, "to": OFF, "say": "poem" }), 400),
        (json!({ "from": BUSY, "to": OFF, "modes": ["rain"] }), 400),
    ] {
        let (refused, error) = stand.post("/sandbox/calls", &body).await;
        assert_eq!(refused, status, "{body}: {error}");
        assert!(!error["error"].as_str().unwrap().is_empty());
    }
    let missing = stand.get("/sandbox/calls/77/heard.wav").await;
    assert_eq!(missing.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_a_busy_number_leaves_a_message_and_hostile_signalling_changes_nothing() {
    let (stand, service, inbox) = Stand::with_voicemail().await;
    let modes = [
        vec![],
        vec!["late-ack"],
        vec!["lost-ack"],
        vec!["duplicate-invite"],
        // The CANCEL comes too late: the answer has won.
        vec!["cancel-crossing"],
        vec!["reinvite"],
    ];
    for (messages, modes) in modes.iter().enumerate() {
        let call = stand.tone(BUSY, modes).await;
        at(&call, "has said everything");
        if modes.contains(&"reinvite") {
            at(&call, "offered his media anew, and it was taken");
        }
        let greeting = tone_ms(&stand.heard(&call).await, GREETING_HZ);
        assert!(
            greeting.abs_diff(GREETING_MS) <= 60,
            "{greeting} ms of the greeting with {modes:?}"
        );
        let message = inbox.wait_for_messages(messages + 1).await.remove(0);
        assert_eq!(message["from"], ANSWERS);
        assert_eq!(message["to"], BUSY);
        assert_eq!(message["reason"], "busy");
        let said = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
        assert!(said.abs_diff(SAID_MS) <= 40, "{said} ms with {modes:?}");
    }
    // What was on for a call is over with it.
    let known: Value = stand.get("/sandbox/modes").await.json().await.unwrap();
    assert_eq!(known["on"], json!([]));

    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_keeps_its_length_through_loss_and_jitter() {
    let (stand, service, inbox) = Stand::with_voicemail().await;
    let jitter = stand.tone(BUSY, &["media-jitter"]).await;
    at(&jitter, "has said everything");
    let message = inbox.wait_for_messages(1).await.remove(0);
    let audio = inbox.audio(&message).await;
    let said = tone_ms(&audio, VOICE_HZ);
    assert!(said.abs_diff(SAID_MS) <= 60, "{said} ms with jitter");

    let lossy = stand.tone(BUSY, &["media-loss"]).await;
    at(&lossy, "has said everything");
    let message = inbox.wait_for_messages(2).await.remove(0);
    let audio = inbox.audio(&message).await;
    let frames: Vec<bool> = audio
        .chunks_exact(160)
        .map(|frame| tone_ms(frame, VOICE_HZ) > 0)
        .collect();
    let first = frames.iter().position(|is_tone| *is_tone).unwrap();
    let last = frames.iter().rposition(|is_tone| *is_tone).unwrap();
    let span = 20 * (last + 1 - first);
    assert!(span.abs_diff(SAID_MS) <= 200, "{span} ms from end to end");
    service.stop().await;
}
