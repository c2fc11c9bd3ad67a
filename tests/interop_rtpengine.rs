//! rtpengine between a telephone with plain RTP and the service, as the SBC of a real network.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use aftertone::config::Config;
use aftertone::media::sdp::{IceMode, OfferKeying};
use aftertone::sip::Transport;
use serde_json::Value;
use support::rtpengine::{Sbc, Secured};
use support::sipp::Scenario;
use support::{Call, GREETING_MS, Inbox, NUMBER, Service, VOICE_HZ, tone_ms};

/// As browsers have it, but for bundles.
const WEBRTC: Secured = Secured {
    transport: "UDP/TLS/RTP/SAVPF",
    options: &[("ICE", "force")],
    flags: &["SDES-off"],
    setup: "actpass",
};
const DTLS_WITHOUT_ICE: Secured = Secured {
    transport: "UDP/TLS/RTP/SAVP",
    options: &[("ICE", "remove")],
    ..WEBRTC
};
const SDES: Secured = Secured {
    transport: "RTP/SAVP",
    options: &[("ICE", "remove"), ("DTLS", "off")],
    flags: &[],
    ..WEBRTC
};

/// A service that takes nothing in the clear.
async fn secured_service(change: impl FnOnce(&mut Config)) -> Service {
    Service::with(|config| {
        config.media.sdes = true;
        config.media.plain_rtp = false;
        config.media.offer = OfferKeying::Dtls;
        change(config);
    })
    .await
}

/// The message holds so much of the voice, and went through what the SBC asked for.
async fn is_whole(inbox: &Inbox, message: &Value, secured: Secured, ms: usize) {
    assert_eq!(message["from"], "+4787654321");
    assert_eq!(message["reason"], "busy");
    let setup = &message["setup"];
    let ice = secured.options.contains(&("ICE", "force"));
    let dtls = secured.transport.contains("TLS");
    for (stage, is_due) in [("ice_ms", ice), ("dtls_ms", dtls)] {
        assert_eq!(setup[stage].is_number(), is_due, "{stage} in {setup}");
    }
    let said = tone_ms(&inbox.audio(message).await, VOICE_HZ);
    assert!(
        said.abs_diff(ms) <= 60,
        "{said} ms of {ms} are in the message"
    );
}

/// A caller of ours hears what he has to, and says three seconds.
async fn leaves_a_message(secured: Secured, change: impl FnOnce(&mut Config)) {
    let service = secured_service(change).await;
    let inbox = service.subscriber(NUMBER).await;
    let sbc = Sbc::start(service.sip(Transport::Udp), secured).await;
    let Some(sbc) = sbc else { return };
    let target = format!("sip:{NUMBER}@{};transport=udp", sbc.address);
    let call = Call::start(target.parse().unwrap(), Transport::Udp, |_| {});
    let report = call.report().await;
    service.has_played(&report.heard);
    let message = inbox.wait_for_messages(1).await.remove(0);
    is_whole(&inbox, &message, secured, 3000).await;
    service.stop().await;
}

/// SIPp says `ms` in all in a scenario of its own.
async fn is_heard(secured: Secured, scenario: Scenario, ms: usize, change: fn(&mut Config)) {
    let service = secured_service(change).await;
    let inbox = service.subscriber(NUMBER).await;
    let sbc = Sbc::start(service.sip(Transport::Udp), secured).await;
    let Some(sbc) = sbc else { return };
    // Keys are agreed on while the greeting begins; responses come back the same way (RFC 3581).
    let scenario = scenario.through(sbc.address).with("via_params", ";rport");
    let scenario = scenario.speaking_after(GREETING_MS + 1000);
    if scenario.run(&service).await.is_none() {
        return;
    }
    let message = inbox.wait_for_messages(1).await.remove(0);
    is_whole(&inbox, &message, secured, ms).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_through_dtls_and_ice() {
    leaves_a_message(WEBRTC, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_through_dtls_and_ice_when_we_check_too() {
    leaves_a_message(WEBRTC, |config| config.media.ice = IceMode::Full).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_through_dtls_and_ice_to_one_that_only_answers_checks() {
    let lite = Secured {
        options: &[("ICE", "force"), ("ICE-lite", "forward")],
        ..WEBRTC
    };
    leaves_a_message(lite, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_through_dtls_without_ice() {
    leaves_a_message(DTLS_WITHOUT_ICE, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_through_dtls_without_ice_from_its_client() {
    let client = Secured {
        setup: "active",
        ..DTLS_WITHOUT_ICE
    };
    leaves_a_message(client, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_through_dtls_and_ice_from_its_client() {
    let client = Secured {
        setup: "active",
        ..WEBRTC
    };
    leaves_a_message(client, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_keys_in_the_description() {
    leaves_a_message(SDES, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_keys_in_the_description_and_ice() {
    let ice = Secured {
        options: &[("ICE", "force"), ("DTLS", "off")],
        ..SDES
    };
    leaves_a_message(ice, |_| {}).await;
}

/// Before and after a hold by re-INVITE.
fn holding() -> Scenario {
    Scenario::named("reinvite").with("method", "INVITE")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_by_reinvite_is_heard_before_and_after_through_dtls_and_ice() {
    is_heard(WEBRTC, holding(), 4000, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_by_reinvite_is_heard_before_and_after_with_keys_in_the_description() {
    is_heard(SDES, holding(), 4000, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_comes_late_is_taken_by_a_client_of_dtls() {
    is_heard(WEBRTC, Scenario::named("late_offer"), 2000, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_comes_late_is_taken_by_a_server_of_dtls() {
    let server = Secured {
        options: &[("ICE", "force"), ("DTLS", "passive")],
        ..WEBRTC
    };
    is_heard(server, Scenario::named("late_offer"), 2000, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_comes_late_is_taken_with_keys_in_the_description() {
    is_heard(SDES, Scenario::named("late_offer"), 2000, |config| {
        config.media.offer = OfferKeying::Sdes;
    })
    .await;
}
