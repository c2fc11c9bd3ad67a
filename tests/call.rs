//! Whole calls, from a phone's INVITE to the message in the subscriber's inbox.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;
use std::time::Duration;

use aftertone::caller::{Happened, PeerIce, Report, offering};
use aftertone::domain::MediaStage;
use aftertone::media::audio::{Codec, read_wav, read_wav_at_rate};
use aftertone::media::sdp::OfferKeying;
use aftertone::sip::Transport;
use serde_json::Value;
use support::raw::{RawCall, Request, Stream, header, receive, status};
use support::{
    GREETING_HZ, GREETING_MS, Inbox, SOON, Service, VOICE_HZ, happened, peers, tone_ms, voice,
};
use tokio::net::UdpSocket;

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_hears_the_greeting_leaves_a_message_and_the_subscriber_hears_it() {
    let service = Service::start().await;
    let inbox = service.subscriber(support::NUMBER).await;
    for (calls, transport) in [
        Transport::Udp,
        Transport::Tcp,
        Transport::Tls,
        Transport::Ws,
    ]
    .into_iter()
    .enumerate()
    {
        let report = service.call(transport, |_| {}).await;
        assert!(report.is_completed(), "{transport:?}: {:?}", report.steps);
        assert!(
            happened(&report, |step| *step == Happened::Cue),
            "{:?}",
            report.steps
        );
        let greeting = tone_ms(&report.heard, GREETING_HZ);
        assert!(
            greeting.abs_diff(GREETING_MS) <= 60,
            "heard {greeting} ms of the greeting"
        );

        let message = inbox.wait_for_messages(calls + 1).await.remove(0);
        assert_eq!(message["from"], "+4787654321");
        assert_eq!(message["to"], support::NUMBER);
        assert_eq!(message["reason"], "busy");
        assert_eq!(message["ended_by"], "hang-up");
        assert_eq!(message["read"], false);
        let audio = inbox.audio(&message).await;
        let heard = tone_ms(&audio, VOICE_HZ);
        assert!(
            heard.abs_diff(3000) <= 20,
            "{heard} ms of 3000 are in the message"
        );
        let duration = message["duration_ms"].as_u64().unwrap();
        assert_eq!(duration, audio.len() as u64 / 8);
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_without_a_mailbox_is_not_found() {
    let service = Service::start().await;
    let report = service
        .call(Transport::Udp, |plan| plan.longest = Duration::from_secs(5))
        .await;
    let refused = |step: &Happened| matches!(step, Happened::Refused { status: 404, .. });
    assert!(happened(&report, refused), "{:?}", report.steps);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_presses_hash_ends_his_message_and_is_thanked() {
    let service = Service::start().await;
    let inbox = service.subscriber(support::NUMBER).await;
    let report = service
        .call(Transport::Udp, |plan| {
            plan.say = Some(voice(2000));
            plan.digits = "#".into();
        })
        .await;
    assert!(
        happened(&report, |step| *step == Happened::PeerHungUp),
        "{:?}",
        report.steps
    );
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["ended_by"], "digit");
    let heard = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    assert!(
        heard.abs_diff(2000) <= 20,
        "{heard} ms of 2000 are in the message"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_sends_its_keys_by_info_skips_the_greeting_and_ends_its_message() {
    let service = Service::start().await;
    let inbox = service.subscriber(support::NUMBER).await;
    let mut call = RawCall::start(service.sip(Transport::Udp), |invite| {
        let events = " 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15";
        invite.body = invite.body.replace(events, "");
    })
    .await;
    assert!(!call.answer.contains("telephone-event"), "{}", call.answer);
    let press_hash = |info: &mut Request| {
        info.headers = "Content-Type: application/dtmf-relay\r\n".into();
        info.body = "Signal=#\r\nDuration=160\r\n".into();
    };
    call.until_tone(GREETING_HZ).await;
    let response = call.request("INFO", press_hash).await;
    assert_eq!(status(&response), 200, "{response}");
    call.until_beep_is_over().await;
    call.send(Stream::new(VOICE_HZ).packets(100)).await;
    call.request("INFO", press_hash).await;
    call.until_bye().await;
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["ended_by"], "digit");
    let heard = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    assert!(
        heard.abs_diff(2000) <= 40,
        "{heard} ms of 2000 are in the message"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_cannot_be_taken_gets_488_with_a_warning() {
    let service = Service::start().await;
    service.subscriber(support::NUMBER).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(service.sip(Transport::Udp)).await.unwrap();
    let from = socket.local_addr().unwrap();
    let cases = [
        ("RTP/AVP 0 101", "RTP/AVP 18", 305),
        ("RTP/AVP", "RTP/SAVP", 302),
        ("RTP/AVP", "TCP/RTP/AVP", 302),
        ("m=audio", "m=video", 304),
    ];
    for (usual, odd, warning) in cases {
        let mut invite = Request::invite(service.sip(Transport::Udp), from, from);
        invite.body = invite.body.replace(usual, odd);
        socket.send(invite.over("UDP").as_bytes()).await.unwrap();
        let response = loop {
            let response = receive(&socket).await;
            let is_news = header(&response, "CSeq") == Some("1 INVITE")
                && header(&response, "Call-ID") == Some(&format!("raw-{}@{from}", invite.call));
            if is_news && status(&response) >= 200 {
                break response;
            }
        };
        assert_eq!(status(&response), 488, "{response}");
        let told = header(&response, "Warning").unwrap();
        assert!(told.starts_with(&format!("{warning} ")), "{told}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_message_and_is_not_kept() {
    let service = Service::with(|config| config.recording.silence_seconds = 2).await;
    let inbox = service.subscriber(support::NUMBER).await;
    let report = service
        .call(Transport::Udp, |plan| {
            // A digit that means nothing here: the phone stays on the line.
            plan.digits = "5".into();
        })
        .await;
    assert!(
        happened(&report, |step| *step == Happened::PeerHungUp),
        "{:?}",
        report.steps
    );
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["ended_by"], "silence");
    let audio = inbox.audio(&message).await;
    let voice_ends = audio
        .chunks_exact(160)
        .rposition(|frame| tone_ms(frame, VOICE_HZ) > 0)
        .unwrap()
        * 20;
    let after = audio.len() / 8 - voice_ends;
    assert!(
        after <= 700,
        "{after} ms of silence are kept after the last word"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_reaches_the_limit_is_kept_and_the_caller_is_thanked() {
    let service = Service::with(|config| config.recording.max_seconds = 4).await;
    let inbox = service.subscriber(support::NUMBER).await;
    let report = service
        .call(Transport::Udp, |plan| plan.say = Some(voice(20_000)))
        .await;
    assert!(
        happened(&report, |step| *step == Happened::PeerHungUp),
        "{:?}",
        report.steps
    );
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["ended_by"], "limit");
    assert_eq!(message["duration_ms"], 4000);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_says_nothing_leaves_a_missed_call() {
    let service = Service::with(|config| config.recording.silence_seconds = 2).await;
    let inbox = service.subscriber(support::NUMBER).await;
    service.call(Transport::Udp, |plan| plan.say = None).await;
    let missed = inbox.wait_for_missed_calls(1).await.remove(0);
    assert_eq!(missed["cause"], "too-short");
    assert_eq!(missed["from"], "+4787654321");
    assert!(inbox.messages().await.is_empty());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_mailbox_says_so_and_takes_nothing() {
    let service = Service::with(|config| config.recording.max_messages = 1).await;
    let inbox = service.subscriber(support::NUMBER).await;
    service.call(Transport::Udp, |_| {}).await;
    inbox.wait_for_messages(1).await;
    let report = service.call(Transport::Udp, |_| {}).await;
    assert!(
        happened(&report, |step| *step == Happened::PeerHungUp),
        "{:?}",
        report.steps
    );
    let missed = inbox.wait_for_missed_calls(1).await.remove(0);
    assert_eq!(missed["cause"], "mailbox-full");
    assert_eq!(inbox.messages().await.len(), 1);
    service.stop().await;
}

/// Calls with these media from a number of its own; the message is found and heard.
async fn leaves_a_message(
    service: &Service,
    inbox: &Inbox,
    transport: Transport,
    media: OfferKeying,
    codec: Codec,
) -> Report {
    let from = format!("+4787650{}{:03}", media as u8, codec.sample_rate() / 100);
    let report = service.call(transport, |plan| {
        plan.from = Some(format!("sip:{from}@127.0.0.1").parse().expect("a URI"));
        plan.preferences = offering(media);
        plan.preferences.codecs = vec![codec];
    });
    let report = report.await;
    let what = format!("{media:?} with {codec:?}: {:?}", report.steps);
    assert!(report.is_completed(), "{what}");
    let answered = Happened::Answered {
        codec: codec.encoding_name(),
        media,
        ice: (media == OfferKeying::Dtls).then_some(PeerIce::Lite),
    };
    assert!(happened(&report, |step| *step == answered), "{what}");
    let greeting = tone_ms(&report.heard, GREETING_HZ);
    assert!(greeting.abs_diff(GREETING_MS) <= 60, "{greeting}: {what}");
    let (heard, rate) = report.audio();
    assert_eq!(rate, codec.sample_rate(), "{what}");
    let ms = |samples: usize, rate: u32| samples * 1000 / rate as usize;
    assert_eq!(
        ms(heard.len(), rate),
        ms(report.heard.len(), 8_000),
        "{what}"
    );

    inbox.wait_for_messages(1).await;
    let message = support::wait_for(async || {
        let messages = inbox.messages().await;
        messages
            .into_iter()
            .find(|message| message["from"] == *from)
    });
    let message = message.await;
    let said = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    assert!(said.abs_diff(3000) <= 40, "{said} ms of 3000: {what}");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_media_goes_over_every_transport_in_every_codec() {
    let service = Service::with(|config| config.media.sdes = true).await;
    let inbox = service.subscriber(support::NUMBER).await;
    let call =
        |transport, media, codec| leaves_a_message(&service, &inbox, transport, media, codec);
    let (web, _, _, _, _) = tokio::join!(
        call(Transport::Ws, OfferKeying::Dtls, Codec::Opus),
        call(Transport::Tls, OfferKeying::Dtls, Codec::Pcma),
        call(Transport::Tls, OfferKeying::Sdes, Codec::G722),
        call(Transport::Tcp, OfferKeying::Sdes, Codec::Pcmu),
        call(Transport::Udp, OfferKeying::Plain, Codec::Opus),
    );
    let stages = [Happened::Connected, Happened::Secured, Happened::FirstAudio];
    let reached = stages.map(|stage| web.when(|step| *step == stage).expect("every stage"));
    assert!(reached.is_sorted(), "{:?}", web.steps);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_told_that_his_keys_are_not_taken() {
    let service = Service::start().await;
    service.subscriber(support::NUMBER).await;
    let report = service.call(Transport::Tls, |plan| {
        plan.preferences = offering(OfferKeying::Sdes);
    });
    let report = report.await;
    let refused = Happened::Refused {
        status: 488,
        reason: "Not Acceptable Here".into(),
        warning: Some("No keys for this transport protocol".into()),
    };
    assert_eq!(report.failure(), Some(&refused));
    assert!(!report.is_completed());
    service.stop().await;
}

/// Calls somebody who takes the call, and whose media cannot be reached and never come.
async fn call_the_deaf(media: OfferKeying, longest: Duration) -> Report {
    let (other_side, nobody) = (
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
    );
    let address = other_side.local_addr().unwrap();
    let target = format!("sip:{}@{address}", support::NUMBER);
    let call = support::Call::start(target.parse().unwrap(), Transport::Udp, |plan| {
        plan.preferences = offering(media);
        plan.longest = longest;
    });
    let mut buffer = [0; 4096];
    let (length, caller) = other_side.recv_from(&mut buffer).await.unwrap();
    let invite = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let answer = answer_of_the_deaf(&invite, media, nobody.local_addr().unwrap().port());
    other_side.send_to(answer.as_bytes(), caller).await.unwrap();
    call.report().await
}

/// Takes an INVITE and names a port for its media where nobody listens.
fn answer_of_the_deaf(invite: &str, media: OfferKeying, port: u16) -> String {
    let copied = ["Via", "From", "Call-ID", "CSeq"].map(|name| {
        let value = header(invite, name).unwrap();
        format!("{name}: {value}\r\n")
    });
    let to = header(invite, "To").unwrap();
    let session = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n";
    let fingerprint = ["00"; 32].join(":");
    let stream = match media {
        OfferKeying::Dtls => format!(
            "a=ice-lite\r\nm=audio {port} UDP/TLS/RTP/SAVPF 8\r\na=mid:0\r\na=rtcp-mux\r\n\
             a=setup:passive\r\na=fingerprint:sha-256 {fingerprint}\r\na=ice-ufrag:deaf\r\n\
             a=ice-pwd:0123456789012345678901\r\na=candidate:1 1 UDP 1 127.0.0.1 {port} typ host\r\n"
        ),
        _ => format!("m=audio {port} RTP/AVP 8\r\n"),
    };
    format!(
        "SIP/2.0 200 OK\r\n{}To: {to};tag=deaf\r\nContact: <sip:127.0.0.1:{port}>\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{session}{stream}",
        copied.concat(),
        session.len() + stream.len()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_media_never_come_is_not_completed() {
    // The second waits for a packet as long as the service would.
    let (no_way, no_packet) = tokio::join!(
        call_the_deaf(OfferKeying::Dtls, Duration::from_secs(6)),
        call_the_deaf(OfferKeying::Plain, Duration::from_secs(22)),
    );
    for (report, lacks) in [(no_way, MediaStage::Ice), (no_packet, MediaStage::Rtp)] {
        let steps = &report.steps;
        let failed = |step: &Happened| matches!(step, Happened::MediaFailed { stage, .. } if *stage == lacks);
        assert!(report.failure().is_some_and(failed), "{steps:?}");
        assert!(happened(&report, |step| *step == Happened::HungUp));
        assert!(!report.is_completed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_reports_its_media_and_saves_what_it_heard_at_their_rate() {
    let service = Service::start().await;
    let inbox = service.subscriber(support::NUMBER).await;
    let file = |name| service.dir.path().join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_aftertone"));
    command
        .arg("call")
        .arg(service.uri(support::NUMBER, Transport::Ws).to_string());
    command.args(["--media", "webrtc", "--json", "--from", "+4787654321"]);
    command
        .arg("--say")
        .arg(file("greeting.wav"))
        .arg("--hear")
        .arg(file("heard.wav"));
    let output = peers::run(command, SOON).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");

    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["completed"], true);
    assert_eq!(report["codec"], "opus");
    assert_eq!(report["media"], "webrtc");
    assert_eq!(report["heard_rate"], 48_000);
    let steps = report["steps"].as_array().unwrap();
    for wanted in [
        "answered",
        "connected",
        "secured",
        "first-audio",
        "cue",
        "said",
    ] {
        assert!(
            steps.iter().any(|step| step["step"] == wanted),
            "{wanted}: {report:#}"
        );
    }
    let heard = std::fs::read(file("heard.wav")).unwrap();
    assert_eq!(read_wav_at_rate(&heard).unwrap().1, 48_000);
    let greeting = tone_ms(&read_wav(&heard).unwrap(), GREETING_HZ);
    assert!(greeting.abs_diff(GREETING_MS) <= 60, "{greeting}");
    let message = inbox.wait_for_messages(1).await.remove(0);
    let said = tone_ms(&inbox.audio(&message).await, GREETING_HZ);
    assert!(said.abs_diff(GREETING_MS) <= 40, "{said}");
    service.stop().await;
}
