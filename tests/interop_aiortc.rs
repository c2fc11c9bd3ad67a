//! Calls of aiortc, WebRTC in Python with OpenSSL and libsrtp: both parts in DTLS, every codec, a late offer.

mod support;

use std::net::{Ipv6Addr, SocketAddr};

use aftertone::config::Config;
use aftertone::media::sdp::{IceMode, OfferKeying};
use aftertone::sip::Transport;
use serde_json::{Value, json};
use support::python::{self, Heard, VOICE_MS};
use support::recording::decoded_opus;
use support::{NUMBER, Service, VOICE_HZ, tone_ms};

/// Leaves a message; gives it and what was heard.
async fn leaves_a_message(
    change: impl FnOnce(&mut Config),
    transport: Transport,
    plan: Value,
    codec: &str,
) -> Option<Heard> {
    let service = Service::with(change).await;
    let inbox = service.subscriber(NUMBER).await;
    let heard = python::call("call.py", &service, transport, plan).await?;
    service.has_played(&heard.samples);
    assert_eq!(heard.told("state"), "connected");
    assert_eq!(*heard.told("lost"), json!([0]));

    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["from"], "+4787654321");
    assert_eq!(message["ended_by"], "hang-up");
    assert_eq!(message["codec"], codec);
    is_whole(tone_ms(&inbox.audio(&message).await, VOICE_HZ));
    if codec == "opus" {
        let decoded = decoded_opus(&inbox.original(&message).await);
        decoded.inspect(|samples| is_whole(tone_ms(samples, VOICE_HZ)));
    }
    service.stop().await;
    Some(heard)
}

fn is_whole(said_ms: usize) {
    assert!(
        said_ms.abs_diff(VOICE_MS) <= 60,
        "{said_ms} ms of {VOICE_MS} are in the message"
    );
}

fn plan(codec: &str, setup: &str) -> Value {
    json!({ "codec": codec, "setup": setup, "late": false })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_opus_from_a_client_of_dtls() {
    let plan = plan("opus", "active");
    let heard = leaves_a_message(|_| {}, Transport::Udp, plan, "opus").await;
    let Some(heard) = heard else { return };
    assert_eq!(heard.told("role"), "client");
    assert!(
        heard.answer().contains("a=setup:passive"),
        "{}",
        heard.answer()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_a_law_from_a_server_of_dtls() {
    let plan = plan("pcma", "passive");
    let heard = leaves_a_message(|_| {}, Transport::Tcp, plan, "PCMA").await;
    let Some(heard) = heard else { return };
    assert_eq!(heard.told("role"), "server");
    assert!(
        heard.answer().contains("a=setup:active"),
        "{}",
        heard.answer()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_g722_with_checks_from_both_sides() {
    let full = |config: &mut Config| config.media.ice = IceMode::Full;
    let plan = plan("g722", "actpass");
    leaves_a_message(full, Transport::Udp, plan, "G722").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_mu_law_over_ipv6() {
    let any_port = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let ipv6 = |config: &mut Config| config.media.listen = any_port;
    let mut plan = plan("pcmu", "actpass");
    plan["address"] = any_port.ip().to_string().into();
    let heard = leaves_a_message(ipv6, Transport::Udp, plan, "PCMU").await;
    let Some(heard) = heard else { return };
    let answer = heard.answer();
    assert!(answer.contains("c=IN IP6 ::1"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_from_a_caller_who_leaves_the_offer_to_us() {
    let webrtc = |config: &mut Config| config.media.offer = OfferKeying::Dtls;
    let plan = json!({ "codec": null, "late": true });
    leaves_a_message(webrtc, Transport::Tcp, plan, "opus").await;
}
