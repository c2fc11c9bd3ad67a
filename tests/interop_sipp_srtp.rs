//! Calls of SIPp with keys in the description (RFC 4568).
//!
//! SIPp 3.6 has no SRTP of its own, but puts into a description whatever a
//! scenario says, and plays captures as they are: libsrtp protects the voice beforehand with the key that SIPp then
//! offers. What it cannot do is to read what the service sends; `interop_libsrtp` and `interop_baresip_secure` hear that.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aftertone::media::audio::{Law, Tone};
use aftertone::media::sdp::OfferKeying;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use support::sipp::Scenario;
use support::{Inbox, NUMBER, Service, VOICE_HZ, peers};

const VOICE_MS: usize = 2000;

/// A service that takes nothing in the clear, and its subscriber's view of it.
async fn secured_service() -> (Service, Inbox) {
    let service = Service::with(|config| {
        config.media.sdes = true;
        config.media.plain_rtp = false;
        config.media.offer = OfferKeying::Sdes;
    })
    .await;
    let inbox = service.subscriber(NUMBER).await;
    (service, inbox)
}

/// A voice that was protected with this key. `None` where it cannot be made, or not be played: SIPp plays captures
/// through raw sockets, which only root may open.
async fn captured(dir: &Path, suite: &str, key: &str) -> Option<PathBuf> {
    peers::find("sipp")?;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: this is not root");
        return None;
    }
    let python = peers::find_python(&["pylibsrtp"])?;
    let voice = Tone::new(VOICE_HZ, 0.3).take_ms(VOICE_MS);
    let mut encoded = vec![0; voice.len()];
    Law::A.encode(&voice, &mut encoded);
    let audio = dir.join("captured.alaw");
    std::fs::write(&audio, encoded).unwrap();
    let capture = dir.join("captured.pcap");
    let plan = json!({ "audio": audio, "suite": suite, "key": key, "capture": capture });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/webrtc/capture.py");
    let mut command = Command::new(python);
    command.arg("-B").arg(script).arg(plan.to_string());
    let made = peers::run(command, Duration::from_secs(30)).await;
    let complaint = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "no capture: {complaint}");
    Some(capture)
}

/// A call that offers this key for this suite, and plays a capture.
fn call(profile: &str, suite: &str, key: &str, capture: &Path) -> Scenario {
    let lines = format!(
        "a=rtpmap:8 PCMA/8000\na=crypto:1 F8_128_HMAC_SHA1_80 inline:{key}\na=crypto:2 {suite} inline:{key}"
    );
    let expect = format!("m=audio [0-9]+ {profile} 8.*a=crypto:2 {suite} inline:");
    Scenario::named("protected")
        .with("profile", profile)
        .with("media_port", "[media_port]")
        .with("formats", "8")
        .with("formats_lines", lines)
        .with("expect", expect)
        .with("capture", capture.to_str().unwrap())
}

fn key(length: u8, seed: u8) -> String {
    let bytes: Vec<u8> = (0..length)
        .map(|byte| byte.wrapping_mul(7) ^ seed)
        .collect();
    BASE64_STANDARD.encode(bytes)
}

async fn leaves_a_message(profile: &str, suite: &str, key_length: u8) {
    let (service, inbox) = secured_service().await;
    let key = key(key_length, 0x5A);
    let Some(capture) = captured(service.dir.path(), suite, &key).await else {
        return;
    };
    let call = call(profile, suite, &key, &capture);
    call.run(&service).await;
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["from"], "+4787654321");
    assert_eq!(message["reason"], "busy");
    assert_eq!(message["ended_by"], "hang-up");
    inbox.assert_voice(&message, VOICE_MS, 40).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_a_long_tag() {
    leaves_a_message("RTP/SAVP", "AES_CM_128_HMAC_SHA1_80", 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_a_short_tag() {
    leaves_a_message("RTP/SAVPF", "AES_CM_128_HMAC_SHA1_32", 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_gcm() {
    leaves_a_message("RTP/SAVP", "AEAD_AES_128_GCM", 28).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voice_under_another_key_than_was_offered_is_not_taken() {
    let suite = "AES_CM_128_HMAC_SHA1_80";
    let (service, inbox) = secured_service().await;
    let capture = captured(service.dir.path(), suite, &key(30, 0x5A)).await;
    let Some(capture) = capture else { return };
    let call = call("RTP/SAVP", suite, &key(30, 0xA5), &capture);
    call.run(&service).await;
    assert_eq!(inbox.wait_for_missed_calls(1).await.len(), 1);
    assert!(inbox.messages().await.is_empty());
    service.stop().await;
}
