//! Calls of baresip with its modules for keys and for ICE: SDES, where it must and where it may, ICE in the clear and
//! with either kind of keys, and DTLS-SRTP, in which it has an RSA certificate. The service takes nothing less than
//! what a test is about.

mod support;

use aftertone::config::Config;
use aftertone::media::audio::Tone;
use aftertone::media::sdp::{IceMode, OfferKeying};
use aftertone::sip::Transport;
use serde_json::Value;
use support::softphone::Softphone;
use support::{GREETING_MS, NUMBER, Service, VOICE_HZ, tone_ms, wait_for};

const VOICE_MS: usize = 2000;
/// The greeting, the beep, and a breath.
const UNTIL_THE_VOICE_MS: usize = GREETING_MS + 500;
/// Until keys are agreed on, which it does not wait for with its voice.
const UNTIL_THE_KEYS_MS: usize = 300;

/// How long a call takes at most from its answer to ICE and to DTLS.
const LONGEST_SETUP_MS: u64 = 5000;

/// A telephone: what its configuration and its account have to say besides the usual.
#[derive(Clone, Copy)]
struct Phone {
    lines: &'static str,
    account: &'static str,
}

/// What a call has to have gone through, as the message tells it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Through {
    Nothing,
    Ice,
    Dtls,
    IceAndDtls,
}

/// Calls the subscriber and says this after the beep.
fn dial(service: &Service, phone: Phone, says: &[i16]) -> Option<Softphone> {
    let until_the_voice = vec![0; 8 * (UNTIL_THE_KEYS_MS + UNTIL_THE_VOICE_MS)];
    let says = [until_the_voice, says.to_vec()].concat();
    let account = format!("<sip:+4787654321@127.0.0.1>;regint=0;{}", phone.account);
    let target = format!("/dial {}", service.uri(NUMBER, Transport::Tcp));
    let ca = service.dir.path().join("cert.pem");
    Softphone::with(phone.lines, &account, &says, &ca, Some(&target))
}

fn went_through(message: &Value, through: Through) {
    assert_eq!(message["from"], "+4787654321");
    assert_eq!(message["ended_by"], "hang-up");
    let setup = &message["setup"];
    let ice = matches!(through, Through::Ice | Through::IceAndDtls);
    let dtls = matches!(through, Through::Dtls | Through::IceAndDtls);
    for (stage, is_due) in [("ice_ms", ice), ("dtls_ms", dtls)] {
        let took = setup[stage].as_u64();
        assert_eq!(took.is_some(), is_due, "{stage} in {setup}");
        assert!(took.unwrap_or_default() < LONGEST_SETUP_MS, "{setup}");
    }
}

/// Leaves a message and listens to what comes back.
async fn leaves_a_message(phone: Phone, through: Through, change: impl FnOnce(&mut Config)) {
    let service = Service::with(change).await;
    let inbox = service.subscriber(NUMBER).await;
    let voice = Tone::new(VOICE_HZ, 0.3).take_ms(VOICE_MS);
    let says = [voice, vec![0; 8 * 200]].concat();
    let Some(phone) = dial(&service, phone, &says) else {
        return;
    };

    let heard = phone.heard().await;
    service.has_played(&heard);
    let message = inbox.wait_for_messages(1).await.remove(0);
    went_through(&message, through);
    inbox.assert_voice(&message, VOICE_MS, 60).await;
    service.stop().await;
}

/// Holds the call while speaking, comes back and is heard again. In a law, so that the recording can be seen to grow.
async fn holds_and_comes_back(phone: Phone, through: Through, change: impl FnOnce(&mut Config)) {
    let service = Service::with(change).await;
    let inbox = service.subscriber(NUMBER).await;
    let says = Tone::new(VOICE_HZ, 0.3).take_ms(60_000);
    let Some(mut phone) = dial(&service, phone, &says) else {
        return;
    };
    let grows_to = async |ms| wait_for(async || (service.recorded_ms() >= ms).then_some(())).await;
    grows_to(2500).await;
    phone.press("x");
    let held = stands_still(&service).await;
    phone.press("X");
    grows_to(held + 3500).await;
    phone.press("/hangup\n");
    let message = inbox.wait_for_messages(1).await.remove(0);
    went_through(&message, through);
    let said = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    // The breath before it and the hold are in what was grown to.
    assert!(said >= 3500, "{said} ms are in the message");
    service.stop().await;
}

/// How long the recording is when it has not grown for half a second.
async fn stands_still(service: &Service) -> u64 {
    let (mut last, mut looks) = (0, 0);
    wait_for(async || {
        let now = service.recorded_ms();
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
        (looks >= 25).then_some(now)
    })
    .await
}

fn only_sdes(config: &mut Config) {
    config.media.sdes = true;
    config.media.plain_rtp = false;
    config.media.offer = OfferKeying::Sdes;
}

fn only_dtls(config: &mut Config) {
    config.media.plain_rtp = false;
    config.media.offer = OfferKeying::Dtls;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_opus_with_keys_in_the_description() {
    let phone = Phone {
        lines: "module srtp.so",
        account: "mediaenc=srtp-mand;audio_codecs=opus/48000/2",
    };
    leaves_a_message(phone, Through::Nothing, only_sdes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_g722_with_keys_and_feedback() {
    let phone = Phone {
        lines: "module srtp.so",
        account: "mediaenc=srtp-mandf;audio_codecs=g722/16000/1",
    };
    leaves_a_message(phone, Through::Nothing, only_sdes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_keys_that_it_would_do_without() {
    let phone = Phone {
        lines: "module srtp.so",
        account: "mediaenc=srtp;audio_codecs=pcma/8000/1",
    };
    leaves_a_message(phone, Through::Nothing, |config| {
        config.media.sdes = true;
        config.media.opportunistic_srtp = true;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_through_ice_in_the_clear() {
    let phone = Phone {
        lines: "module ice.so\nrtcp_mux yes",
        account: "medianat=ice;audio_codecs=opus/48000/2",
    };
    leaves_a_message(phone, Through::Ice, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_through_ice_when_we_check_too() {
    let phone = Phone {
        lines: "module ice.so\nrtcp_mux yes",
        account: "medianat=ice;audio_codecs=g722/16000/1",
    };
    leaves_a_message(phone, Through::Ice, |config| {
        config.media.ice = IceMode::Full;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_through_ice_with_keys_in_the_description() {
    let phone = Phone {
        lines: "module srtp.so\nmodule ice.so\nrtcp_mux yes",
        account: "mediaenc=srtp-mand;medianat=ice;audio_codecs=pcma/8000/1",
    };
    leaves_a_message(phone, Through::Ice, only_sdes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_through_dtls() {
    let phone = Phone {
        lines: "module dtls_srtp.so\nrtcp_mux yes",
        account: "mediaenc=dtls_srtp;audio_codecs=pcmu/8000/1",
    };
    leaves_a_message(phone, Through::Dtls, only_dtls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_through_dtls_and_ice() {
    let phone = Phone {
        lines: "module dtls_srtp.so\nmodule ice.so\nrtcp_mux yes",
        account: "mediaenc=dtls_srtp;medianat=ice;audio_codecs=opus/48000/2",
    };
    leaves_a_message(phone, Through::IceAndDtls, only_dtls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_is_heard_again_with_keys_in_the_description() {
    let phone = Phone {
        lines: "module srtp.so",
        account: "mediaenc=srtp-mand;audio_codecs=pcma/8000/1",
    };
    holds_and_comes_back(phone, Through::Nothing, only_sdes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_is_heard_again_through_dtls() {
    let phone = Phone {
        lines: "module dtls_srtp.so\nrtcp_mux yes",
        account: "mediaenc=dtls_srtp;audio_codecs=pcmu/8000/1",
    };
    holds_and_comes_back(phone, Through::Dtls, only_dtls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_is_heard_again_through_dtls_and_ice() {
    let phone = Phone {
        lines: "module dtls_srtp.so\nmodule ice.so\nrtcp_mux yes",
        account: "mediaenc=dtls_srtp;medianat=ice;audio_codecs=pcma/8000/1",
    };
    holds_and_comes_back(phone, Through::IceAndDtls, only_dtls).await;
}
