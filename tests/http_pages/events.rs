//! Server-sent events of a mailbox.

use std::time::Duration;

use aftertone::http;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::{Api, Holder, Response, SOON};
use crate::browser::Browser;

/// An open stream of events.
struct Events {
    stream: TcpStream,
    head: String,
    read: String,
}

impl Events {
    /// Opens it and waits until the service watches.
    async fn open(api: &Api, credential: &str) -> Self {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        let request = format!(
            "GET /api/v1/events HTTP/1.1\r\nHost: test\r\nLast-Event-ID: 4711\r\n{credential}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut events = Self {
            stream,
            head: String::new(),
            read: String::new(),
        };
        events.head = events.until("\r\n\r\n").await;
        events.until(": watching").await;
        events
    }

    async fn of(api: &Api, holder: &Holder<'_>) -> Self {
        Self::open(api, &format!("Authorization: Bearer {}", holder.token)).await
    }

    /// Everything up to `text`, which is then read.
    async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.read.find(text) {
                let rest = self.read.split_off(at + text.len());
                return std::mem::replace(&mut self.read, rest);
            }
            assert!(self.more().await, "the stream ended: {}", self.read);
        }
    }

    /// False at the end.
    async fn more(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let read = tokio::time::timeout(SOON, self.stream.read(&mut bytes)).await;
        let length = read.expect("something in time").unwrap_or(0);
        self.read += std::str::from_utf8(&bytes[..length]).unwrap();
        length > 0
    }

    /// The next event: its name, and the id in its data.
    async fn next(&mut self) -> (String, String) {
        self.until("event: ").await;
        let event = self.until("\n\n").await;
        let name = event.lines().next().unwrap().to_owned();
        let data = event.lines().find_map(|line| line.strip_prefix("data: "));
        let data: Value = serde_json::from_str(data.unwrap()).unwrap();
        assert!(event.contains("\nid: "), "{event}");
        (name, data["id"].as_str().unwrap().to_owned())
    }

    /// Reads to the last chunk (RFC 9112 section 7.1).
    async fn ends(mut self) {
        self.until("\r\n0\r\n\r\n").await;
    }
}

#[tokio::test]
async fn a_message_is_told_to_its_subscriber_as_it_comes_changes_and_goes() {
    let api = Api::start().await;
    let kari = api.subscriber("+4799990001").await;
    let ola = api.subscriber("+4799990002").await;
    let mut browser = Browser::signed_in(&api, &kari.subscriber, "5ec2e7").await;
    let mut by_token = Events::of(&api, &kari).await;
    let cookie = format!("Cookie: {}=5ec2e7", crate::browser::SESSION);
    let mut by_cookie = Events::open(&api, &cookie).await;
    assert!(by_token.head.contains("content-type: text/event-stream"));
    assert!(by_token.head.contains("x-accel-buffering: no"));

    ola.receives(b"for Ola").await;
    let id = kari.receives(b"recording").await.to_string();
    let path = format!("/api/v1/messages/{id}");
    let change = kari.request("PATCH", &path).json(r#"{"read":true}"#);
    change.send().await.ok(200);
    // The same again is no change.
    let change = kari.request("PATCH", &path).json(r#"{"read":true}"#);
    change.send().await.ok(200);
    let page = browser.get("/").await;
    browser
        .press(&page, &format!("/messages/{id}/delete"))
        .await;
    for events in [&mut by_token, &mut by_cookie] {
        for name in ["message.stored", "message.updated", "message.deleted"] {
            assert_eq!(events.next().await, (name.to_owned(), id.clone()));
        }
    }
}

#[tokio::test]
async fn streams_need_a_credential_and_are_bounded_each_and_in_all() {
    let config = http::Config {
        max_event_streams: 9,
        ..Default::default()
    };
    let api = Api::with(config).await;
    let kari = api.subscriber("+4799990001").await;
    let ola = api.subscriber("+4799990002").await;
    let mut stranger = Browser::new(&api);
    stranger.get("/api/v1/events").await.is_problem(401);
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(Events::of(&api, &kari).await);
    }
    kari.get("/api/v1/events").await.is_problem(429);
    open.push(Events::of(&api, &ola).await);
    ola.get("/api/v1/events").await.is_problem(503);

    // Who leaves makes room, as soon as something is to be told.
    drop(open.pop());
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        let request = format!(
            "GET /api/v1/events HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {}\r\n\r\n",
            ola.token
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = vec![0; 1024];
        let length = stream.read(&mut head).await.unwrap();
        if Response::parse(&head[..length]).status == 200 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "no room was made");
        ola.receives(b"something to tell").await;
    }
}

#[tokio::test]
async fn a_stream_outlives_the_deadline_of_requests_and_ends_with_its_subscriber() {
    let config = http::Config {
        request_timeout_ms: 50,
        ..Default::default()
    };
    let api = Api::with(config).await;
    let kari = api.subscriber("+4799990001").await;
    let mut events = Events::of(&api, &kari).await;
    // Longer than a request may take.
    let too_long = tokio::time::timeout(Duration::from_millis(150), events.next()).await;
    assert!(too_long.is_err(), "nothing has happened");
    kari.receives(b"recording").await;
    assert_eq!(events.next().await.0, "message.stored");

    let gone = kari.request("DELETE", "/api/v1/me").send().await;
    assert_eq!(gone.status, 204);
    events.ends().await;
}

#[tokio::test]
async fn the_drain_ends_every_stream_at_once() {
    let api = Api::start().await;
    let kari = api.subscriber("+4799990001").await;
    let events = Events::of(&api, &kari).await;
    let began = tokio::time::Instant::now();
    api.stop.cancel();
    api.tasks.close();
    events.ends().await;
    tokio::time::timeout(SOON, api.tasks.wait()).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "the drain waited for a stream"
    );
}
