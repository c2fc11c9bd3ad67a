//! Calls with keys in the description (RFC 4568), protected by libsrtp: every suite that we take.

mod support;

use aftertone::config::Config;
use aftertone::sip::Transport;
use serde_json::json;
use support::python::{self, VOICE_MS};
use support::{NUMBER, Service};

async fn leaves_a_message(
    change: impl FnOnce(&mut Config),
    transport: Transport,
    profile: &str,
    suite: &str,
) {
    let service = Service::with(|config| {
        config.media.sdes = true;
        change(config);
    })
    .await;
    let inbox = service.subscriber(NUMBER).await;
    let plan = json!({ "suite": suite, "profile": profile });
    let Some(heard) = python::call("sdes.py", &service, transport, plan).await else {
        return;
    };
    service.has_played(&heard.samples);
    assert_eq!(*heard.told("refused"), 0);
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["ended_by"], "hang-up");
    inbox.assert_voice(&message, VOICE_MS, 40).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_a_long_tag() {
    leaves_a_message(
        |_| {},
        Transport::Tcp,
        "RTP/SAVP",
        "AES_CM_128_HMAC_SHA1_80",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_a_short_tag() {
    leaves_a_message(
        |_| {},
        Transport::Tcp,
        "RTP/SAVPF",
        "AES_CM_128_HMAC_SHA1_32",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_gcm() {
    leaves_a_message(|_| {}, Transport::Udp, "RTP/SAVP", "AEAD_AES_128_GCM").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_gcm_of_256_bits() {
    leaves_a_message(|_| {}, Transport::Udp, "RTP/SAVP", "AEAD_AES_256_GCM").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_keys_although_the_offer_would_do_without() {
    let opportunistic = |config: &mut Config| config.media.opportunistic_srtp = true;
    leaves_a_message(
        opportunistic,
        Transport::Udp,
        "RTP/AVP",
        "AES_CM_128_HMAC_SHA1_80",
    )
    .await;
}
