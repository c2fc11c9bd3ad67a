//! What one INVITE costs: reading, writing, reading its typed headers, and answering it.
#![expect(
    clippy::disallowed_methods,
    reason = "virtual time begins at some moment"
)]

use aftertone::sip::endpoint::{Config, Endpoint, Event, Flow, Output, Transport};
use aftertone::sip::message::Limits;
use aftertone::sip::message::Message;
use aftertone::sip::message::Parsed;
use aftertone::sip::message::parse_datagram;
use bytes::Bytes;
use criterion::{BatchSize, Criterion};
use std::hint::black_box;
use std::time::{Duration, Instant};

const HEAD: &str = "INVITE sip:+4711223344@voicemail.example.com:5060;user=phone SIP/2.0\r\n\
    Via: SIP/2.0/UDP 198.51.100.7:5060;branch=z9hG4bK776asdhds8a7s;rport\r\n\
    Via: SIP/2.0/TCP 198.51.100.9:5060;branch=z9hG4bKnashds8;received=203.0.113.4\r\n\
    Max-Forwards: 66\r\n\
    Record-Route: <sip:198.51.100.7;lr>\r\n\
    To: <sip:+4711223344@example.com;user=phone>\r\n\
    From: \"Alice Example\" <sip:+4799887766@example.com;user=phone>;tag=1928301774\r\n\
    Call-ID: a84b4c76e66710@pc33.example.com\r\n\
    CSeq: 314159 INVITE\r\n\
    Contact: <sip:+4799887766@198.51.100.7:5060;transport=udp>\r\n\
    Allow: INVITE, ACK, BYE, CANCEL, OPTIONS, PRACK, UPDATE, INFO\r\n\
    Supported: 100rel, timer\r\n\
    Session-Expires: 1800;refresher=uac\r\n\
    Min-SE: 90\r\n\
    P-Asserted-Identity: <sip:+4799887766@example.com>\r\n\
    Diversion: <sip:+4711223344@example.com>;reason=no-answer;counter=1\r\n\
    History-Info: <sip:+4711223344@example.com?Privacy=none>;index=1,<sip:+4711223344@voicemail.example.com;cause=408>;index=1.1\r\n\
    User-Agent: SBC/9.1\r\n\
    Content-Type: application/sdp\r\n";
const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
    m=audio 49170 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n\
    a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=sendrecv\r\n";

fn read(bytes: &Bytes) -> Message {
    match parse_datagram(bytes, &Limits::default()) {
        Parsed::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

fn typed_headers(message: &Message) {
    let headers = message.headers();
    black_box((
        headers.top_via(),
        headers.from(),
        headers.to(),
        headers.cseq(),
        headers.contact(),
    ));
    black_box((
        headers.session_expires(),
        headers.diversions().count(),
        headers.history(),
    ));
}

fn invite(criterion: &mut Criterion) {
    let bytes = Bytes::from(format!("{HEAD}Content-Length: {}\r\n\r\n{SDP}", SDP.len()));
    let message = read(&bytes);
    let mut group = criterion.benchmark_group("invite");
    group.throughput(criterion::Throughput::Bytes(bytes.len() as u64));
    group.bench_function("parse", |bencher| bencher.iter(|| read(black_box(&bytes))));
    group.bench_function("write", |bencher| {
        bencher.iter(|| black_box(&message).to_bytes());
    });
    group.bench_function("parse and typed headers", |bencher| {
        bencher.iter(|| typed_headers(&read(black_box(&bytes))));
    });
    group.finish();
}

/// The INVITE of call `number`, which no endpoint has seen.
fn invite_of(number: u64) -> Bytes {
    let head = HEAD
        .replace("776asdhds8a7s", &format!("{number}i"))
        .replace("1928301774", &format!("{number}f"))
        .replace("a84b4c76e66710", &number.to_string());
    format!("{head}Content-Length: {}\r\n\r\n{SDP}", SDP.len()).into()
}

/// A request of the caller within the call that `response` has answered.
fn in_dialog(method: &str, number: u64, response: &Bytes) -> Bytes {
    let text = std::str::from_utf8(response).unwrap_or_default();
    let to = text.split("\r\n").find(|line| line.starts_with("To:"));
    let to = to.unwrap_or_default();
    format!(
        "{method} sip:voicemail@192.0.2.1 SIP/2.0\r\n\
         Via: SIP/2.0/UDP 198.51.100.7:5060;branch=z9hG4bK{number}{method};rport\r\n\
         Max-Forwards: 66\r\n{to}\r\n\
         From: \"Alice Example\" <sip:+4799887766@example.com;user=phone>;tag={number}f\r\n\
         Call-ID: {number}@pc33.example.com\r\n\
         CSeq: {} {method}\r\nContent-Length: 0\r\n\r\n",
        314_159 + u32::from(method == "BYE")
    )
    .into()
}

fn endpoint() -> Endpoint {
    let config = Config {
        trusted: vec!["198.51.100.0/24".parse().expect("a network")],
        ..Config::default()
    };
    Endpoint::new(config, [7; 32])
}

fn flow() -> Flow {
    Flow {
        transport: Transport::Udp,
        local: ([192, 0, 2, 1], 5060).into(),
        remote: ([198, 51, 100, 7], 5060).into(),
        connection: 0,
    }
}

/// INVITE in; 100 and 200 out. The last message sent is returned.
fn answer(endpoint: &mut Endpoint, now: Instant, invite: &Bytes) -> Bytes {
    endpoint.handle_datagram(now, flow(), invite);
    let mut sent = Bytes::new();
    while let Some(output) = endpoint.poll_output() {
        match output {
            Output::Event(Event::Incoming { call, .. }) => {
                let answer = Bytes::from_static(SDP.as_bytes());
                endpoint
                    .answer(now, call, answer)
                    .expect("a new call can be answered");
            }
            Output::Send { bytes, .. } => sent = bytes,
            _ => {}
        }
    }
    assert!(sent.starts_with(b"SIP/2.0 200"), "{sent:?}");
    sent
}

fn take(endpoint: &mut Endpoint, now: Instant, request: &Bytes) {
    endpoint.handle_datagram(now, flow(), request);
    while let Some(output) = endpoint.poll_output() {
        black_box(output);
    }
}

fn turn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("endpoint");
    let (bytes, start) = (invite_of(1), Instant::now());
    group.bench_function("INVITE in, 100 and 200 out", |bencher| {
        let first = |mut endpoint: Endpoint| {
            answer(&mut endpoint, start, &bytes);
            endpoint
        };
        bencher.iter_batched(endpoint, first, BatchSize::SmallInput);
    });
    // Five hundred calls a second, so that there are as many transactions and timers as there would be.
    let (mut endpoint, mut now, mut number) = (endpoint(), start, 0);
    group.bench_function("INVITE, 200, ACK, BYE, 200", |bencher| {
        bencher.iter(|| {
            number += 1;
            now += Duration::from_millis(2);
            endpoint.handle_timeout(now);
            let ok = answer(&mut endpoint, now, &invite_of(number));
            take(&mut endpoint, now, &in_dialog("ACK", number, &ok));
            take(&mut endpoint, now, &in_dialog("BYE", number, &ok));
            assert!(endpoint.counts().calls < 10, "calls do not end");
        });
    });
    group.finish();
}

criterion::criterion_group!(benches, invite, turn);
criterion::criterion_main!(benches);
