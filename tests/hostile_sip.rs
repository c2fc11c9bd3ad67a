//! SIP as nobody should send it, against the whole service: others are served all the same.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use aftertone::caller::Happened;
use aftertone::sip::Transport;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::process::{Place, Program};
use support::raw::{RawCall, Request, header, receive, status};
use support::{Call, VOICE_HZ, happened, recordings_in, tone_ms, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;

const UDP: &str = "listen = [\"udp://127.0.0.1:0\"]";

/// With these lines in `[sip]`, in place of the listeners.
fn place_with(sip: &str) -> Place {
    let place = Place::new("");
    place.write_settings(|settings| settings.replace(UDP, sip));
    place
}

/// One whole call: heard, said, kept.
async fn assert_serves(service: &Program, token: &str, messages: usize) {
    let report = Call::start(service.uri(), Transport::Udp, |_| {})
        .report()
        .await;
    assert!(
        happened(&report, |step| *step == Happened::HungUp),
        "{:?}",
        report.steps
    );
    let inbox = service.inbox(token);
    let message = inbox.wait_for_messages(messages).await.remove(0);
    let heard = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    assert!(
        heard.abs_diff(3_000) <= 20,
        "{heard} ms of 3000 are in the message"
    );
    assert!(!service.log().contains("panicked"), "{}", service.log());
}

async fn socket_at(address: &str, service: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).await.unwrap();
    socket.connect(service).await.unwrap();
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_a_stranger_is_counted_answered_a_little_and_logged_once() {
    let place = place_with(&format!("{UDP}\ntrusted_peers = [\"127.0.0.1/32\"]"));
    let token = place.subscriber();
    let service = place.start().await;
    let stranger = socket_at("127.0.0.2:0", service.sip()).await;
    let from = stranger.local_addr().unwrap();
    let flood = async {
        for n in 0..5_000 {
            let mut invite = Request::invite(service.sip(), from, from);
            invite
                .headers
                .push_str("P-Asserted-Identity: <sip:+4799990001@localhost>\r\n");
            stranger.send(invite.over("UDP").as_bytes()).await.unwrap();
            if n % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    tokio::join!(flood, assert_serves(&service, &token, 1));
    let mut answers = 0;
    let mut answer = [0; 2048];
    while let Ok(len) = stranger.try_recv(&mut answer) {
        let answer = String::from_utf8_lossy(&answer[..len]).into_owned();
        assert_eq!(status(&answer), 403, "{answer}");
        answers += 1;
    }
    assert!(
        (1..=100).contains(&answers),
        "{answers} answers for 5000 requests"
    );
    let mut counted = 0.0;
    for event in ["untrusted_peer", "untrusted_peer_dropped"] {
        let name = format!("aftertone_sip_events_total{{event=\"{event}\"}}");
        counted += service.metric(&name).await;
    }
    assert!(counted >= 4_000.0, "{counted} of 5000 are counted");
    assert_eq!(service.logged("127.0.0.2"), 1, "{}", service.log());
    assert_eq!(service.logged("The call ended"), 1, "{}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn above_max_calls_every_call_gets_503_with_retry_after() {
    const CALLS: usize = 4;
    const FLOOD: usize = 500;
    let place = place_with(&format!("{UDP}\nmax_calls = {CALLS}"));
    let token = place.subscriber();
    let service = place.start().await;
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let mut call = Call::start(service.uri(), Transport::Udp, |_| {});
        call.until(|step| matches!(step, Happened::Answered { .. }))
            .await;
        calls.push(call);
    }
    let caller = socket_at("127.0.0.1:0", service.sip()).await;
    let from = caller.local_addr().unwrap();
    let mut latencies = Vec::new();
    for _ in 0..FLOOD {
        let mut invite = Request::invite(service.sip(), from, from);
        let sent = Instant::now();
        caller.send(invite.over("UDP").as_bytes()).await.unwrap();
        let refused = loop {
            let response = receive(&caller).await;
            let ours = header(&response, "Call-ID")
                .unwrap()
                .starts_with(&format!("raw-{}@", invite.call));
            if ours && status(&response) >= 200 {
                break response;
            }
        };
        latencies.push(sent.elapsed());
        assert_eq!(status(&refused), 503, "{refused}");
        assert!(header(&refused, "Retry-After").is_some(), "{refused}");
        invite.method = "ACK";
        invite.to_tag = header(&refused, "To")
            .unwrap()
            .split_once(";tag=")
            .map(|to| to.1.to_owned());
        (invite.headers, invite.body) = (String::new(), String::new());
        caller.send(invite.over("UDP").as_bytes()).await.unwrap();
    }
    latencies.sort();
    let p99 = latencies[FLOOD * 99 / 100];
    println!(
        "503 above max_calls: median {:?}, p99 {p99:?}",
        latencies[FLOOD / 2]
    );
    assert!(p99 < Duration::from_secs(1), "{p99:?}");
    for call in calls {
        let report = call.report().await;
        assert!(
            happened(&report, |step| *step == Happened::HungUp),
            "{:?}",
            report.steps
        );
    }
    service.inbox(&token).wait_for_messages(CALLS).await;
    // Now there is room again.
    assert_serves(&service, &token, CALLS + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_silent_connections_are_closed_and_keep_nobody_else() {
    let listen = "listen = [\"udp://127.0.0.1:0\", \"tcp://127.0.0.1:0\", \"tls://127.0.0.1:0\"]\n\
                  tls_certificate = \"cert.pem\"\ntls_private_key = \"key.pem\"\n\
                  message_deadline_secs = 2\ntls_handshake_secs = 2";
    let place = place_with(listen);
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    place.write("cert.pem", &certified.cert.pem());
    place.write("key.pem", &certified.signing_key.serialize_pem());
    let token = place.subscriber();
    let service = place.start().await;
    let (tcp, tls) = (service.sip_over("tcp"), service.sip_over("tls"));
    let mut connections = tokio::task::JoinSet::new();
    for n in 0..100 {
        // A byte now and then, of a message that never ends.
        connections.spawn(async move {
            let mut stream = TcpStream::connect(tcp).await.unwrap();
            let request = Request::new("OPTIONS", tcp, stream.local_addr().unwrap()).over("TCP");
            for byte in request.bytes() {
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            until_closed(stream).await;
        });
        // A handshake that stops at some byte.
        connections.spawn(async move {
            let mut stream = TcpStream::connect(tls).await.unwrap();
            let hello = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
            stream.write_all(&hello[..n % hello.len()]).await.unwrap();
            until_closed(stream).await;
        });
    }
    assert_serves(&service, &token, 1).await;
    let all = tokio::time::timeout(support::SOON, connections.join_all()).await;
    assert!(all.is_ok(), "some connections are never closed");
    assert!(service.metric("aftertone_sip_slow_messages_total").await >= 100.0);
    assert!(
        service
            .metric("aftertone_sip_tls_handshakes_failed_total")
            .await
            >= 100.0
    );
}

async fn until_closed(mut stream: TcpStream) {
    let mut rest = [0; 1024];
    while let Ok(1..) = stream.read(&mut rest).await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn monstrous_messages_are_refused_or_dropped() {
    let place = place_with("listen = [\"udp://127.0.0.1:0\", \"tcp://127.0.0.1:0\"]");
    let token = place.subscriber();
    let service = place.start().await;
    let caller = socket_at("127.0.0.1:0", service.sip()).await;
    let from = caller.local_addr().unwrap();
    for (_, monster) in monsters("UDP", service.sip(), from) {
        if monster.len() < 65_000 {
            caller.send(monster.as_bytes()).await.unwrap();
        }
    }
    for (name, monster) in monsters("TCP", service.sip(), from) {
        let mut stream = TcpStream::connect(service.sip_over("tcp")).await.unwrap();
        // The service may close before it has read all of it.
        drop(stream.write_all(monster.as_bytes()).await);
        let mut answer = [0; 16];
        let read = tokio::time::timeout(support::SOON, stream.read(&mut answer)).await;
        let len = read
            .unwrap_or_else(|_| panic!("{name} is left without an answer"))
            .unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..len]);
        let refused = answer.starts_with("SIP/2.0 4") || answer.starts_with("SIP/2.0 5");
        assert!(
            len == 0 || refused || answer.starts_with("SIP/2.0 100"),
            "{name}: {answer}"
        );
    }
    assert_serves(&service, &token, 1).await;
    wait_for(async || (service.metric("aftertone_calls").await == 0.0).then_some(())).await;
}

/// Requests that are well-formed in their first line and monstrous after it.
fn monsters(transport: &str, service: SocketAddr, from: SocketAddr) -> Vec<(&'static str, String)> {
    let invite = |headers: String, body: String| {
        let mut invite = Request::invite(service, from, from);
        invite.headers.push_str(&headers);
        if !body.is_empty() {
            invite.body = body;
        }
        invite.over(transport)
    };
    let plain = |headers: String| invite(headers, String::new());
    let sdp = |lines: String| invite(String::new(), support::raw::offer(from) + &lines);
    vec![
        ("ten thousand headers", plain("A: b\r\n".repeat(10_000))),
        (
            "one long header",
            plain(format!("Subject: {}\r\n", "x".repeat(60_000))),
        ),
        (
            "many Via",
            plain(format!("Via: SIP/2.0/{transport} {from};branch=z9hG4bKx\r\n").repeat(200)),
        ),
        (
            "many Diversion",
            plain("Diversion: <sip:1@x>;reason=user-busy\r\n".repeat(200)),
        ),
        (
            "a folded header",
            plain(format!("Subject: a{}\r\n", "\r\n b".repeat(5_000))),
        ),
        (
            "a deep URI",
            plain(format!(
                "History-Info: <sip:{}@x>;index=1\r\n",
                "?".repeat(4_000)
            )),
        ),
        (
            "quotes that never end",
            plain(format!(
                "P-Asserted-Identity: \"{}\r\n",
                "\\\"".repeat(3_000)
            )),
        ),
        (
            "a thousand streams",
            sdp("m=audio 9 RTP/AVP 0\r\n".repeat(1_000)),
        ),
        ("ten thousand attributes", sdp("a=x\r\n".repeat(10_000))),
        ("a body beyond the limit", sdp("a=x\r\n".repeat(50_000))),
        (
            "a body that is none",
            invite(String::new(), "\u{1}".repeat(10_000)),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_on_every_port_keeps_nobody_from_being_served() {
    let place = place_with("listen = [\"udp://127.0.0.1:0\", \"tcp://127.0.0.1:0\"]");
    let token = place.subscriber();
    let service = place.start().await;
    let caller = socket_at("127.0.0.1:0", service.sip()).await;
    let from = caller.local_addr().unwrap();
    let mut chance = StdRng::seed_from_u64(4);
    let rubbish = async {
        for _ in 0..2_000 {
            // Half of it noise, half of it a request with some bytes replaced.
            let mut bytes = Request::invite(service.sip(), from, from)
                .over("UDP")
                .into_bytes();
            if chance.random() {
                bytes.truncate(chance.random_range(0..bytes.len()));
                bytes.fill_with(|| chance.random());
            } else {
                for _ in 0..chance.random_range(1..20) {
                    let at = chance.random_range(0..bytes.len());
                    bytes[at] = chance.random();
                }
            }
            caller.send(&bytes).await.unwrap();
            if chance.random_ratio(1, 20) {
                let mut stream = TcpStream::connect(service.sip_over("tcp")).await.unwrap();
                drop(stream.write_all(&bytes).await);
            }
        }
    };
    tokio::join!(rubbish, assert_serves(&service, &token, 1));
    let call = RawCall::start(service.sip(), |_| {}).await;
    call.bye().await;
}

/// Files and sockets that the program has open.
fn open_files(service: &Program) -> usize {
    let folder = format!("/proc/{}/fd", service.pid().as_raw_nonzero());
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_short_calls_leave_nothing_open() {
    let place = place_with(UDP);
    let token = place.subscriber();
    let service = place.start().await;
    let inbox = service.inbox(&token);
    // The first calls open what stays open: connections of the database, threads of the pool.
    let mut open_before = 0;
    let mut made = 0;
    for rounds in [2, 10] {
        open_before = open_files(&service);
        for _ in 0..rounds {
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..20 {
                let service = service.sip();
                calls.spawn(async move { RawCall::start(service, |_| {}).await.bye().await });
            }
            calls.join_all().await;
            made += 20;
        }
        wait_for(async || (service.logged("The call ended") == made).then_some(())).await;
    }
    let open = open_files(&service);
    assert!(
        open <= open_before + 10,
        "{open} files are open, {open_before} were before 200 calls"
    );
    wait_for(async || (service.metric("aftertone_media_sessions").await == 0.0).then_some(()))
        .await;
    assert_eq!(service.metric("aftertone_calls").await, 0.0);
    assert_eq!(recordings_in(&place.path("data/spool")), 0);
    let (_, missed) = inbox.get("/missed-calls?limit=100").await;
    let missed: serde_json::Value = serde_json::from_slice(&missed).unwrap();
    assert_eq!(missed["missed_calls"].as_array().unwrap().len(), 100);
}
