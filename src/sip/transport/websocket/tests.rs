//! Connections over pipes in memory, with time that stands still until everybody waits.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

use tokio::io::DuplexStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::sip::endpoint::Transport;
use crate::sip::message::Parsed;
use crate::sip::transport::stream::{Census, Patience};
use crate::sip::transport::tls::ClientTls;

use super::*;

const PATIENCE: Patience = Patience {
    idle: Duration::from_secs(600),
    message: Duration::from_secs(10),
    handshake: Duration::from_secs(10),
    connect: Duration::from_secs(5),
};

/// RFC 7118 section 5.1: there need be no Content-Length.
const REQUEST: &str = "OPTIONS sip:a@127.0.0.1 SIP/2.0\r\n\
    Via: SIP/2.0/WS df7jal23ls0d.invalid;branch=z9hG4bK-1\r\n\
    From: <sip:b@127.0.0.1>;tag=1\r\n\
    To: <sip:a@127.0.0.1>\r\n\
    Call-ID: 1\r\n\
    CSeq: 1 OPTIONS\r\n\
    Max-Forwards: 70\r\n\r\n";

type Peer = WebSocketStream<DuplexStream>;

/// A connection whose other end the test holds.
struct Connection {
    arrivals: mpsc::Receiver<Arrival>,
    outbox: mpsc::Sender<Bytes>,
    _task: AbortOnDropHandle<()>,
}

/// Serves an accepted connection.
async fn serve() -> (Peer, Connection) {
    let (peer, ours) = tokio::io::duplex(256 * 1024);
    let (arrivals, mut taken) = mpsc::channel(8);
    let limits = Limits::default();
    let streams = Streams {
        arrivals,
        limits,
        patience: PATIENCE,
        census: Census::new(Vec::new(), 1, 1),
        origins: Vec::new(),
        client_tls: ClientTls::new(None, false).unwrap(),
        next_connection: AtomicU64::new(1),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    };
    let addr = SocketAddr::from(([127, 0, 0, 1], 80));
    let flow = Flow {
        transport: Transport::Ws,
        local: addr,
        remote: addr,
        connection: 1,
    };
    let task = async move {
        let socket = accept(ours, &limits, &[]).await.unwrap();
        streams.serve_frames(socket, flow, None).await;
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "the handle ends the task with its test"
    )]
    let task = AbortOnDropHandle::new(tokio::spawn(task));
    let peer = connect(peer, "127.0.0.1", 80, &limits).await.unwrap();
    let Some(Arrival::Opened {
        outbox,
        asked_by: None,
        ..
    }) = taken.recv().await
    else {
        panic!("a connection must begin by being opened");
    };
    let connection = Connection {
        arrivals: taken,
        outbox,
        _task: task,
    };
    (peer, connection)
}

async fn next_request(connection: &mut Connection) -> String {
    match connection.arrivals.recv().await {
        Some(Arrival::Message {
            message: Parsed::Message(message::Message::Request(request)),
            ..
        }) => request.method.as_str().to_owned(),
        other => panic!("no request but {other:?}"),
    }
}

/// How long it takes until the driver hears that the connection is closed.
async fn seconds_until_closed(connection: &mut Connection) -> u64 {
    let begin = Instant::now();
    let arrival = connection.arrivals.recv().await;
    assert!(
        matches!(arrival, Some(Arrival::Closed { .. })),
        "{arrival:?}"
    );
    begin.elapsed().as_secs()
}

/// The status that a handshake with these headers is answered with.
async fn handshake(headers: &[(&'static str, &'static str)], origins: &[&str]) -> u16 {
    let (peer, ours) = tokio::io::duplex(65_536);
    let origins: Vec<String> = origins.iter().map(|it| (*it).to_owned()).collect();
    let mut request = "ws://127.0.0.1/".into_client_request().unwrap();
    for (name, value) in headers {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(*name, value);
    }
    let limits = Limits::default();
    let (_, client) = tokio::join!(accept(ours, &limits, &origins), client_async(request, peer));
    match client {
        Ok((_, response)) => {
            assert_eq!(response.headers()[PROTOCOL_HEADER], SIP);
            response.status().as_u16()
        }
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_client_that_does_not_name_the_sub_protocol_is_refused() {
    assert_eq!(handshake(&[], &[]).await, 400);
    assert_eq!(handshake(&[(PROTOCOL_HEADER, "mqtt")], &[]).await, 400);
    assert_eq!(handshake(&[(PROTOCOL_HEADER, "mqtt, sip")], &[]).await, 101);
}

#[tokio::test]
async fn a_browser_may_connect_only_from_a_page_that_is_named() {
    let page = [
        (PROTOCOL_HEADER, SIP),
        ("Origin", "https://Phone.example.com"),
    ];
    assert_eq!(handshake(&page, &[]).await, 403);
    assert_eq!(handshake(&page, &["https://other.example.com"]).await, 403);
    assert_eq!(handshake(&page, &["https://phone.example.com"]).await, 101);
    assert_eq!(handshake(&page, &["*"]).await, 101);
}

#[tokio::test(start_paused = true)]
async fn each_frame_is_a_message_be_it_text_or_binary() {
    let (mut peer, mut connection) = serve().await;
    peer.send(Message::text(REQUEST)).await.unwrap();
    assert_eq!(next_request(&mut connection).await, "OPTIONS");
    let info = REQUEST.replace("OPTIONS", "INFO");
    peer.send(Message::binary(info)).await.unwrap();
    assert_eq!(next_request(&mut connection).await, "INFO");

    for (bytes, is_text) in [(&b"SIP/2.0 \xe2\x82\xac"[..], true), (b"\xff\xfe", false)] {
        let outbox = &connection.outbox;
        outbox.send(Bytes::from_static(bytes)).await.unwrap();
        let frame = peer.next().await.unwrap().unwrap();
        assert_eq!(frame.is_text(), is_text);
        assert_eq!(frame.into_data(), bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_beyond_the_limit_ends_the_connection() {
    let (mut peer, mut connection) = serve().await;
    let long = "x".repeat(Limits::default().message_bytes + 1);
    // The other side may close before all is written.
    peer.send(Message::text(long)).await.ok();
    assert_eq!(seconds_until_closed(&mut connection).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_any_message_is_closed_soon_however_it_pongs() {
    let (mut peer, mut connection) = serve().await;
    let answering_pings = async { while let Some(Ok(_)) = peer.next().await {} };
    let (seconds, ()) = tokio::join!(seconds_until_closed(&mut connection), answering_pings);
    assert_eq!(seconds, FIRST_MESSAGE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_connection_is_kept_as_long_as_pings_are_answered() {
    let (mut peer, mut connection) = serve().await;
    peer.send(Message::text(REQUEST)).await.unwrap();
    next_request(&mut connection).await;
    for _ in 0..100 {
        let begin = Instant::now();
        let frame = peer.next().await.unwrap().unwrap();
        assert!(frame.is_ping());
        assert_eq!(begin.elapsed(), PING_EVERY);
        // The answer goes out with the next read or flush.
        peer.flush().await.unwrap();
    }
    // From here on the peer does not even read.
    let seconds = (PING_EVERY + PATIENCE.message).as_secs();
    assert_eq!(seconds_until_closed(&mut connection).await, seconds);
}

#[tokio::test(start_paused = true)]
async fn what_was_queued_is_written_before_the_close() {
    let (mut peer, connection) = serve().await;
    let queue = connection.outbox;
    queue.send(Bytes::from_static(b"first")).await.unwrap();
    queue.send(Bytes::from_static(b"second")).await.unwrap();
    drop(queue);
    let mut frames = Vec::new();
    while let Some(Ok(frame)) = peer.next().await {
        frames.push(frame);
    }
    assert_eq!(frames.len(), 3);
    assert_eq!(frames[0], Message::text("first"));
    assert_eq!(frames[1], Message::text("second"));
    assert!(frames[2].is_close());
}
