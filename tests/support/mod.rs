//! The whole service in the test's own process, on ports of its own, and a subscriber's view of it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod browser;
pub mod core;
pub mod peers;
pub mod phone;
pub mod process;
pub mod python;
pub mod raw;
pub mod recording;
pub mod rtpengine;
pub mod sipp;
pub mod softphone;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use aftertone::caller::{CallPlan, Happened, Report};
use aftertone::config::Config;
use aftertone::domain::{Msisdn, Timestamp, TokenId};
use aftertone::http::secret;
use aftertone::media::audio::{BEEP_HZ, Prompt, Tone, read_wav, tone_level, write_wav};
use aftertone::server::Server;
use aftertone::sip::Transport;
use aftertone::sip::message::Uri;
use aftertone::storage::{NewSubscriber, NewToken};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub use phone::Call;

/// Long enough for a busy machine; never waited for when all is well.
pub const SOON: Duration = Duration::from_secs(30);
/// What callers hear in tests: this tone, so that a test knows the greeting when it hears it.
pub const GREETING_HZ: f64 = 440.0;
/// How long they hear it.
pub const GREETING_MS: usize = 1000;
/// How long the beep is that follows.
pub const BEEP_MS: usize = 300;
/// What callers say in tests.
pub const VOICE_HZ: f64 = 1000.0;
/// The subscriber of most tests.
pub const NUMBER: &str = "+4799990001";

/// A running service with a folder of its own.
pub struct Service {
    pub server: Server,
    pub dir: tempfile::TempDir,
    chance: AtomicU8,
}

impl Service {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With other settings than the usual ones of a test.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        // RUST_LOG shows what the service does in a test.
        drop(aftertone::telemetry::init_log(
            &aftertone::telemetry::Config {
                filter: "off".into(),
                ..Default::default()
            },
        ));
        let dir = tempfile::tempdir().unwrap();
        let config = config_in(dir.path(), change);
        Self {
            server: Server::start(&config).await.unwrap(),
            dir,
            chance: AtomicU8::new(1),
        }
    }

    /// `sip:<user>@<address of the listener>`, with the transport named.
    pub fn uri(&self, user: &str, transport: Transport) -> Uri {
        let address = self.server.sip_addr(transport).unwrap();
        let name = transport.uri_name();
        format!("sip:{user}@{address};transport={name}")
            .parse()
            .unwrap()
    }

    pub fn sip(&self, transport: Transport) -> SocketAddr {
        self.server.sip_addr(transport).unwrap()
    }

    /// A new subscriber with a token for the API.
    pub async fn subscriber(&self, number: &str) -> Inbox {
        let storage = self.server.storage();
        let number = Msisdn::parse(number).unwrap();
        let new = NewSubscriber {
            number: number.clone(),
            name: None,
            time_zone: "Etc/UTC".into(),
            language: "en".into(),
        };
        let now = Timestamp::from_millis(1_795_403_093_120);
        storage.add_subscribers(&[new], now).await.unwrap();
        let subscriber = storage
            .subscriber_by_number(&number)
            .await
            .unwrap()
            .unwrap();
        let chance = self.chance.fetch_add(1, Ordering::SeqCst);
        let token = secret::new_secret([chance; 32]);
        let new = NewToken {
            id: TokenId::new(now, [chance; 10]),
            subscriber: subscriber.id,
            name: "test".into(),
            hash: secret::hash_secret(&token),
            created_at: now,
            expires_at: None,
        };
        storage.add_token(&new).await.unwrap();
        Inbox {
            api: self.server.http_addr(),
            token,
        }
    }

    /// Places a call from a phone of its own and follows it to its end.
    pub async fn call(&self, transport: Transport, change: impl FnOnce(&mut CallPlan)) -> Report {
        self.start_call(transport, change).report().await
    }

    /// Places a call from a phone of its own.
    pub fn start_call(&self, transport: Transport, change: impl FnOnce(&mut CallPlan)) -> Call {
        Call::start(self.uri(NUMBER, transport), transport, change)
    }

    /// The greeting and the beep were heard.
    #[track_caller]
    pub fn has_played(&self, heard: &[i16]) {
        self.has_played_but_for(100, heard);
    }

    /// The same, but for so much of each at most. What the service left out is not missed: it does so where the
    /// machine is too busy for it to be in time.
    #[track_caller]
    pub fn has_played_but_for(&self, missing_ms: usize, heard: &[i16]) {
        let left_out_ms = 20 * self.server.media_stats().skipped_frames as usize;
        for (prompt, hz, ms) in [
            ("greeting", GREETING_HZ, GREETING_MS),
            ("beep", BEEP_HZ, BEEP_MS),
        ] {
            let heard_ms = tone_ms(heard, hz);
            assert!(
                heard_ms <= ms + 100 && heard_ms + missing_ms + left_out_ms >= ms,
                "heard {heard_ms} ms of {ms} of the {prompt}; {left_out_ms} ms were left out"
            );
        }
    }

    /// Stops it in order.
    pub async fn stop(self) {
        self.server.drain(std::future::ready(())).await;
    }

    /// The folder of recordings under way.
    pub fn spool_dir(&self) -> PathBuf {
        self.dir.path().join("data/spool")
    }

    /// How much of the one recording under way is on the disk, if it is in a law: eight bytes a millisecond.
    pub fn recorded_ms(&self) -> u64 {
        let files = std::fs::read_dir(self.spool_dir());
        let files = files.into_iter().flatten().flatten();
        let sizes = files.filter_map(|entry| Some(entry.metadata().ok()?.len() / 8));
        sizes.max().unwrap_or_default()
    }

    /// Recordings under way.
    pub fn recordings(&self) -> usize {
        recordings_in(&self.spool_dir())
    }
}

/// Recordings that are in a spool folder: a file that is empty is none.
pub fn recordings_in(spool: &Path) -> usize {
    let files = std::fs::read_dir(spool).into_iter().flatten().flatten();
    files
        .filter(|file| file.path().extension().is_some_and(|it| it == "spool"))
        .filter(|file| file.metadata().is_ok_and(|it| it.len() > 0))
        .count()
}

/// A configuration on loopback with any ports, a certificate of its own, and the tests' greeting.
pub fn config_in(dir: &Path, change: impl FnOnce(&mut Config)) -> Config {
    let greeting = dir.join("greeting.wav");
    let tone = Tone::new(GREETING_HZ, 0.3).take_ms(GREETING_MS);
    std::fs::write(&greeting, write_wav(&tone)).unwrap();
    let certified =
        rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    std::fs::write(dir.join("cert.pem"), certified.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config {
        data_dir: dir.join("data"),
        ..Config::default()
    };
    config.sip.listen = ["udp", "tcp", "tls", "ws"]
        .map(|transport| format!("{transport}://127.0.0.1:0").parse().unwrap())
        .to_vec();
    config.sip.tls_certificate = Some(dir.join("cert.pem"));
    config.sip.tls_private_key = Some(dir.join("key.pem"));
    config.media.listen = any_port;
    config.media.workers = 1;
    config.http.listen = any_port;
    config.admin.listen = any_port;
    config.greeting.file = Some(greeting);
    change(&mut config);
    config
}

/// So much of the voice of tests.
pub fn voice(ms: usize) -> std::sync::Arc<Prompt> {
    std::sync::Arc::new(Prompt::from_samples(Tone::new(VOICE_HZ, 0.4).take_ms(ms)))
}

/// How many milliseconds of `samples` hold the tone, in frames of 20 ms.
pub fn tone_ms(samples: &[i16], hz: f64) -> usize {
    20 * samples
        .chunks_exact(160)
        .filter(|frame| tone_level(frame, hz) > 0.1)
        .count()
}

/// Whether a step of this kind is in the report.
pub fn happened(report: &Report, kind: impl Fn(&Happened) -> bool) -> bool {
    report.when(kind).is_some()
}

/// A subscriber's messages, as his own program sees them.
pub struct Inbox {
    pub api: SocketAddr,
    pub token: String,
}

impl Inbox {
    /// GET below `/api/v1`: status and body.
    pub async fn get(&self, path: &str) -> (u16, Vec<u8>) {
        get(
            self.api,
            &format!("/api/v1{path}"),
            &format!("Authorization: Bearer {}\r\n", self.token),
        )
        .await
    }

    pub async fn messages(&self) -> Vec<Value> {
        let (status, body) = self.get("/messages").await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let page: Value = serde_json::from_slice(&body).unwrap();
        page["messages"].as_array().unwrap().clone()
    }

    pub async fn missed_calls(&self) -> Vec<Value> {
        let (status, body) = self.get("/missed-calls").await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let page: Value = serde_json::from_slice(&body).unwrap();
        page["missed_calls"].as_array().unwrap().clone()
    }

    /// The messages, once there are `count` of them.
    pub async fn wait_for_messages(&self, count: usize) -> Vec<Value> {
        wait_for(async || Some(self.messages().await).filter(|found| found.len() >= count)).await
    }

    /// The missed calls, once there are `count` of them.
    pub async fn wait_for_missed_calls(&self, count: usize) -> Vec<Value> {
        wait_for(async || Some(self.missed_calls().await).filter(|found| found.len() >= count))
            .await
    }

    /// The recording of a message.
    pub async fn audio(&self, message: &Value) -> Vec<i16> {
        let id = message["id"].as_str().unwrap();
        let (status, body) = self.get(&format!("/messages/{id}/audio")).await;
        assert_eq!(status, 200);
        read_wav(&body).unwrap()
    }

    /// So many milliseconds of the caller's voice must be in a message, give or take `within`.
    pub async fn assert_voice(&self, message: &Value, ms: usize, within: usize) {
        let said = tone_ms(&self.audio(message).await, VOICE_HZ);
        assert!(
            said.abs_diff(ms) <= within,
            "{said} ms of {ms} are in the message"
        );
    }
}

/// Asks again and again until there is an answer, within [`SOON`].
pub async fn wait_for<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let mut again = tokio::time::interval(Duration::from_millis(20));
    let answer = async {
        loop {
            again.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    tokio::time::timeout(SOON, answer)
        .await
        .expect("what the test waits for never came")
}

/// A plain GET: status and body.
pub async fn get(address: SocketAddr, path: &str, headers: &str) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("a header section");
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_off(end + 4);
    let body = if head.contains("transfer-encoding: chunked") {
        dechunk(&body)
    } else {
        body
    };
    (status, body)
}

/// The value of a metric in what `/metrics` says, labels and all; 0 where it is not there.
pub fn metric_in(page: &[u8], name: &str) -> f64 {
    let page = String::from_utf8_lossy(page);
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

fn dechunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = std::str::from_utf8(&rest[..line]).unwrap();
        let size = usize::from_str_radix(size.split(';').next().unwrap(), 16).unwrap();
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size..];
        rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
        if size == 0 {
            break;
        }
    }
    body
}
