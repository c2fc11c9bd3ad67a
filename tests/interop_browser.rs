//! Calls from pages in Chromium and Firefox: SIP by JsSIP and SIP.js over WebSocket, media by the browser's own WebRTC.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use aftertone::config::Config;
use aftertone::media::sdp::{IceMode, OfferKeying};
use aftertone::sip::Transport;
use serde_json::Value;
use support::browser::{Heard, Library, MICROPHONE_MS, ORIGIN, Plan};
use support::recording::decoded_opus;
use support::{Inbox, NUMBER, Service, VOICE_HZ, tone_ms};

/// A service that pages may call.
async fn service(change: impl FnOnce(&mut Config)) -> Service {
    Service::with(|config| {
        config.sip.listen.push("wss://127.0.0.1:0".parse().unwrap());
        config.sip.websocket_origins = vec![ORIGIN.into()];
        change(config);
    })
    .await
}

/// A busy browser hears the first packets of a call, and begins to play them, only so late.
const LATE_EAR_MS: usize = 400;

/// The connection was made with keys of DTLS 1.3 and has lost nothing.
fn is_secured(stats: &Value) {
    assert_eq!(stats["dtlsState"], "connected", "{stats}");
    assert_eq!(stats["iceState"], "connected", "{stats}");
    assert_eq!(stats["tlsVersion"], "FEFC", "{stats}");
    assert!(stats["srtpCipher"].is_string(), "{stats}");
    assert_eq!(stats["lost"], 0, "{stats}");
}

fn is_whole(said_ms: usize, expected_ms: usize) {
    assert!(
        said_ms.abs_diff(expected_ms) <= 60,
        "{said_ms} ms of {expected_ms} are in the message"
    );
}

/// The only message, where all is there that was said, as kept and as WAV.
async fn has_message(inbox: &Inbox, said_ms: usize, ended_by: &str) {
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["from"], "+4787654321");
    assert_eq!(message["to"], NUMBER);
    assert_eq!(message["reason"], "busy");
    assert_eq!(message["ended_by"], ended_by);
    assert_eq!(message["codec"], "opus");
    is_whole(tone_ms(&inbox.audio(&message).await, VOICE_HZ), said_ms);
    let Some(decoded) = decoded_opus(&inbox.original(&message).await) else {
        return;
    };
    is_whole(tone_ms(&decoded, VOICE_HZ), said_ms);
}

async fn a_message(
    library: Library,
    transport: Transport,
    change: impl FnOnce(&mut Config),
    plan: impl FnOnce(Plan) -> Plan,
) -> Option<Heard> {
    let service = service(change).await;
    let inbox = service.subscriber(NUMBER).await;
    let story = ["hear the beep", "speak", "hang up", "hear the end"];
    let plan = plan(Plan::new(library, transport, &story));
    let heard = plan.call(&service).await?;
    service.has_played_but_for(LATE_EAR_MS, &heard.samples);
    is_secured(heard.after("speak"));
    assert_eq!(heard.ended_by.as_deref(), Some("local"));
    has_message(&inbox, MICROPHONE_MS, "hang-up").await;
    service.stop().await;
    Some(heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn jssip_leaves_a_message_in_opus() {
    let heard = a_message(Library::JsSip, Transport::Ws, |_| {}, |plan| plan).await;
    let Some(heard) = heard else { return };
    assert!(heard.theirs.contains("a=ice-lite"), "{}", heard.theirs);
}

#[tokio::test(flavor = "multi_thread")]
async fn sipjs_leaves_a_message_over_tls_with_checks_from_both_sides() {
    let full = |config: &mut Config| config.media.ice = IceMode::Full;
    let heard = a_message(Library::SipJs, Transport::Wss, full, |plan| plan).await;
    let Some(heard) = heard else { return };
    assert!(!heard.theirs.contains("a=ice-lite"), "{}", heard.theirs);
}

#[tokio::test(flavor = "multi_thread")]
async fn sipjs_leaves_a_message_after_an_offer_of_ours() {
    let webrtc = |config: &mut Config| config.media.offer = OfferKeying::Dtls;
    let late = Plan::leaving_the_offer;
    let heard = a_message(Library::SipJs, Transport::Ws, webrtc, late).await;
    let Some(heard) = heard else { return };
    let theirs = &heard.theirs;
    assert!(theirs.contains("a=setup:actpass"), "{theirs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_tells_no_addresses_is_found_by_its_checks() {
    let hidden = Plan::hiding_addresses;
    let heard = a_message(Library::JsSip, Transport::Ws, |_| {}, hidden).await;
    let Some(heard) = heard else { return };
    let told = heard.own.lines().filter(|l| l.starts_with("a=candidate:"));
    let told: Vec<_> = told.collect();
    assert!(!told.is_empty(), "{}", heard.own);
    assert!(told.iter().all(|l| l.contains(".local ")), "{told:?}");
}

/// The caller is put on hold by himself, comes back, moves to new candidates, and is recorded all the while.
async fn goes_on_after_hold_and_restart(library: Library, plan: impl FnOnce(Plan) -> Plan) {
    let service = service(|_| {}).await;
    let inbox = service.subscriber(NUMBER).await;
    let story = [
        "hear the beep",
        "speak",
        "hold",
        "resume",
        "restart ICE",
        "speak",
        "press #",
        "hear the end",
    ];
    let plan = plan(Plan::new(library, Transport::Ws, &story));
    let Some(heard) = plan.call(&service).await else {
        return;
    };
    service.has_played_but_for(LATE_EAR_MS, &heard.samples);
    is_secured(heard.after("press #"));
    assert_eq!(heard.ended_by.as_deref(), Some("remote"));
    has_message(&inbox, 2 * MICROPHONE_MS, "digit").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jssip_holds_restarts_ice_and_ends_with_a_key() {
    goes_on_after_hold_and_restart(Library::JsSip, |plan| plan).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sipjs_holds_restarts_ice_and_ends_with_a_key() {
    goes_on_after_hold_and_restart(Library::SipJs, |plan| plan).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_offers_g722_only_is_recorded_in_it() {
    let service = service(|_| {}).await;
    let inbox = service.subscriber(NUMBER).await;
    let story = ["hear the beep", "speak", "press #", "hear the end"];
    let plan = Plan::new(Library::JsSip, Transport::Ws, &story).offering("G722");
    let Some(heard) = plan.call(&service).await else {
        return;
    };
    service.has_played_but_for(LATE_EAR_MS, &heard.samples);
    assert_eq!(heard.after("speak")["codec"], "audio/G722");
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["ended_by"], "digit");
    is_whole(
        tone_ms(&inbox.audio(&message).await, VOICE_HZ),
        MICROPHONE_MS,
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_closed_without_a_word_leaves_what_it_said() {
    let service = service(|config| config.media.running_timeout_ms = 3000).await;
    let inbox = service.subscriber(NUMBER).await;
    let plan = Plan::new(Library::SipJs, Transport::Ws, &["hear the beep", "speak"]);
    let Some(heard) = plan.call(&service).await else {
        return;
    };
    is_secured(heard.after("speak"));
    assert_eq!(heard.ended_by, None);
    has_message(&inbox, MICROPHONE_MS, "media-timeout").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firefox_leaves_a_message_in_opus() {
    a_message(Library::JsSip, Transport::Ws, |_| {}, Plan::in_firefox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firefox_holds_restarts_ice_and_ends_with_a_key() {
    goes_on_after_hold_and_restart(Library::SipJs, Plan::in_firefox).await;
}
