//! Calls of baresip, a telephone that others wrote: what it hears, and what it leaves.

mod support;

use aftertone::media::audio::Tone;
use aftertone::sip::Transport;
use support::softphone::Softphone;
use support::{GREETING_MS, NUMBER, Service, VOICE_HZ, tone_ms, wait_for};

/// The greeting, the beep, and a breath.
const UNTIL_THE_VOICE_MS: usize = GREETING_MS + 500;

/// In a telephone's account.
const IN_A_LAW: &str = "audio_codecs=pcma/8000/1";

/// A telephone that calls the subscriber. It says two seconds of a tone after the beep and then
/// nothing for `pause_ms`; then it hangs up. `account` is what its account has to say.
fn dial(
    service: &Service,
    transport: Transport,
    account: &str,
    pause_ms: usize,
) -> Option<Softphone> {
    let voice = [
        vec![0; 8 * UNTIL_THE_VOICE_MS],
        Tone::new(VOICE_HZ, 0.3).take_ms(2000),
        vec![0; 8 * pause_ms],
    ];
    let account = format!("<sip:+4787654321@127.0.0.1>;regint=0;{account}");
    let target = format!("/dial {}", service.uri(NUMBER, transport));
    let ca = service.dir.path().join("cert.pem");
    Softphone::start(&account, &voice.concat(), &ca, Some(&target))
}

async fn leaves_a_message(transport: Transport, account: &str) {
    let service = Service::start().await;
    let inbox = service.subscriber(NUMBER).await;
    let Some(phone) = dial(&service, transport, account, 200) else {
        return;
    };
    service.has_played(&phone.heard().await);
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["from"], "+4787654321");
    assert_eq!(message["to"], NUMBER);
    assert_eq!(message["reason"], "unknown");
    assert_eq!(message["ended_by"], "hang-up");
    let said = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    assert!(
        said.abs_diff(2000) <= 40,
        "{said} ms of 2000 are in the message"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_udp_from_a_phone_that_prefers_other_codecs() {
    leaves_a_message(Transport::Udp, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_tcp_in_a_law() {
    leaves_a_message(Transport::Tcp, IN_A_LAW).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_tls_in_mu_law() {
    leaves_a_message(Transport::Tls, "audio_codecs=pcmu/8000/1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_pressed_ends_the_message_and_the_thanks_are_heard() {
    let service = Service::start().await;
    let inbox = service.subscriber(NUMBER).await;
    let phone = dial(&service, Transport::Udp, IN_A_LAW, 20_000);
    let Some(mut phone) = phone else { return };
    wait_for(async || (service.recorded_ms() >= 3000).then_some(())).await;
    phone.press("#");
    let heard = phone.heard().await;
    service.has_played(&heard);
    // Silence sends next to nothing, so the rest are the thanks.
    let thanks = heard.len() / 8 - GREETING_MS;
    assert!(thanks > 1000, "{thanks} ms were heard beyond the greeting");
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["ended_by"], "digit");
    let said = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    assert!(
        said.abs_diff(2000) <= 40,
        "{said} ms of 2000 are in the message"
    );
    service.stop().await;
}
