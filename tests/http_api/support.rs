//! A whole API on a real socket, over a real database, and a client small enough to be trusted.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use aftertone::clock::{Clock, ManualClock};
use aftertone::domain::{
    AudioFormat, Caller, DivertReason, Losses, MediaStage, MessageId, MissedCall, Msisdn,
    NewMessage, Private, RecordingEnd, SetupTimes, StoredAudio, Subscriber, Timestamp, TokenId,
};
use aftertone::http;
use aftertone::http::{Readiness, admin, secret};
use aftertone::media::audio::write_wav;
use aftertone::storage::blob::Blobs;
use aftertone::storage::sqlite::SqliteStorage;
use aftertone::storage::{NewSubscriber, NewToken, Storage};
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Long enough for a busy machine; never waited for when all is well.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Mon, 23 Nov 2026 03:04:53.120 UTC.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_795_403_093_120);

/// Where the outside reaches the service.
pub(crate) const PUBLIC_URL: &str = "https://voicemail.example.com/";

pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) storage: Arc<SqliteStorage>,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) clock: ManualClock,
    pub(crate) readiness: Readiness,
    pub(crate) default_greeting: Bytes,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    chance: AtomicU8,
    dir: tempfile::TempDir,
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::with(http::Config::default()).await
    }

    pub(crate) async fn with(config: http::Config) -> Self {
        let clock = ManualClock::starting_at(NOW);
        Self::at(PUBLIC_URL, config, clock, |state, _, _| state).await
    }

    /// One that is reached at `public_url`; `complete` may add to what its handlers work with.
    pub(crate) async fn at(
        public_url: &str,
        config: http::Config,
        clock: ManualClock,
        complete: impl FnOnce(http::State, &Arc<SqliteStorage>, &TaskTracker) -> http::State,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        let storage = Arc::new(SqliteStorage::open(&url).await.unwrap());
        let blobs = Arc::new(
            Blobs::open(
                &dir.path().join("blobs"),
                &dir.path().join("conversions"),
                config.max_converted_bytes,
            )
            .unwrap(),
        );
        let default_greeting = Bytes::from(write_wav(&[7; 4000]));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let state = http::State::new(
            storage.clone(),
            blobs.clone(),
            Arc::new(clock.clone()),
            default_greeting.clone(),
            public_url,
            [42; 32],
        );
        let state = complete(state, &storage, &tasks);
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = http::Config {
            listen: any_port,
            ..config
        };
        let address = http::serve(&config, state, &tasks, stop.clone())
            .await
            .unwrap();
        let readiness = Readiness::of_storage(storage.clone(), blobs.clone());
        let metrics = aftertone::telemetry::prometheus();
        let config = admin::Config { listen: any_port };
        let admin = admin::serve(&config, metrics, readiness.clone(), &tasks, stop.clone());
        Self {
            address,
            admin: admin.await.unwrap(),
            storage,
            blobs,
            clock,
            readiness,
            default_greeting,
            tasks,
            stop,
            chance: AtomicU8::new(0xa1),
            dir,
        }
    }

    fn chance(&self) -> [u8; 10] {
        [self.chance.fetch_add(1, Ordering::SeqCst); 10]
    }

    /// A new subscriber with a token.
    pub(crate) async fn subscriber(&self, number: &str) -> Holder<'_> {
        let number = Msisdn::parse(number).unwrap();
        let new = NewSubscriber {
            number: number.clone(),
            name: Some(Private("Kari Nordmann".into())),
            time_zone: "Europe/Oslo".into(),
            language: "nb".into(),
        };
        self.storage
            .add_subscribers(&[new], self.clock.now())
            .await
            .unwrap();
        let subscriber = self
            .storage
            .subscriber_by_number(&number)
            .await
            .unwrap()
            .unwrap();
        let token = secret::new_secret([self.chance()[0]; 32]);
        let new = NewToken {
            id: TokenId::new(self.clock.now(), self.chance()),
            subscriber: subscriber.id,
            name: "test".into(),
            hash: secret::hash_secret(&token),
            created_at: self.clock.now(),
            expires_at: None,
        };
        self.storage.add_token(&new).await.unwrap();
        Holder {
            api: self,
            subscriber,
            token,
        }
    }
}

/// A subscriber and his token.
pub(crate) struct Holder<'a> {
    api: &'a Api,
    pub(crate) subscriber: Subscriber,
    pub(crate) token: String,
}

impl Api {
    /// Where it keeps what is made of recordings.
    pub(crate) fn conversions(&self) -> std::path::PathBuf {
        self.dir.path().join("conversions")
    }
}

impl Holder<'_> {
    pub(crate) fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.api.address, method, path)
            .header("Authorization", &format!("Bearer {}", self.token))
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request("GET", path).send().await
    }

    /// Somebody leaves a message with these bytes as its recording, a second after the one before.
    pub(crate) async fn receives(&self, recording: &[u8]) -> MessageId {
        let caller = Caller {
            number: Some(Msisdn::parse("+4721000000").unwrap()),
            name: Some(Private("Ola \"the\" Caller".into())),
        };
        self.receives_from(caller, recording).await
    }

    /// The same from `caller`.
    pub(crate) async fn receives_from(&self, caller: Caller, recording: &[u8]) -> MessageId {
        let audio = StoredAudio {
            format: AudioFormat::WavPcm,
            codec: None,
            sample_rate: 8000,
            samples: 16_000,
            stored_bytes: recording.len() as u64,
            sha256: Sha256::digest(recording).into(),
            losses: Losses::default(),
        };
        self.receives_audio(caller, audio, recording).await
    }

    /// The same, with what is known of the recording.
    pub(crate) async fn receives_audio(
        &self,
        caller: Caller,
        audio: StoredAudio,
        recording: &[u8],
    ) -> MessageId {
        self.api.clock.advance_ms(1000);
        let id = MessageId::new(self.api.clock.now(), self.api.chance());
        let key = Blobs::recording_key(id, audio.format);
        self.api
            .blobs
            .put(&key, Bytes::copy_from_slice(recording))
            .await
            .unwrap();
        let message = NewMessage {
            id,
            subscriber: self.subscriber.id,
            to: self.subscriber.number.clone(),
            caller,
            reason: DivertReason::NoAnswer,
            received_at: self.api.clock.now(),
            audio,
            ended_by: RecordingEnd::HangUp,
            setup: SetupTimes {
                answered_ms: Some(5),
                first_rtp_in_ms: Some(21),
                ..SetupTimes::default()
            },
        };
        self.api.storage.deposit(&message).await.unwrap();
        id
    }

    pub(crate) async fn misses_a_call(&self) -> MessageId {
        self.api.clock.advance_ms(1000);
        let call = MissedCall {
            id: MessageId::new(self.api.clock.now(), self.api.chance()),
            subscriber: self.subscriber.id,
            caller: Caller::default(),
            reason: DivertReason::Busy,
            received_at: self.api.clock.now(),
            cause: "no-media".into(),
            failed_stage: Some(MediaStage::Ice),
        };
        self.api.storage.deposit_missed_call(&call).await.unwrap();
        call.id
    }
}

#[derive(Clone)]
pub(crate) struct Request {
    to: SocketAddr,
    method: String,
    head: String,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(to: SocketAddr, method: &str, path: &str) -> Self {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        Self {
            to,
            method: method.into(),
            head,
            body: Vec::new(),
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.head += &format!("{name}: {value}\r\n");
        self
    }

    pub(crate) fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Type", content_type)
            .header("Content-Length", &length)
    }

    pub(crate) fn json(self, body: &str) -> Self {
        self.body("application/json", body)
    }

    pub(crate) async fn send(self) -> Response {
        let exchange = async {
            let mut stream = TcpStream::connect(self.to).await.unwrap();
            stream.write_all(self.head.as_bytes()).await.unwrap();
            stream.write_all(b"\r\n").await.unwrap();
            // A server that refuses a body early may close before all of it is sent.
            drop(stream.write_all(&self.body).await);
            let mut answer = Vec::new();
            drop(stream.read_to_end(&mut answer).await);
            answer
        };
        let answer = tokio::time::timeout(SOON, exchange)
            .await
            .expect("an answer in time");
        let response = Response::parse(&answer);
        if self.method != "HEAD" && response.status != 304 {
            let length = response
                .header("content-length")
                .map(|l| l.parse().unwrap());
            assert!(
                length.is_none_or(|l: usize| l == response.body.len()),
                "Content-Length is wrong"
            );
        }
        response
    }
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn parse(answer: &[u8]) -> Self {
        let end = answer
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .expect("a whole head");
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Self {
            status,
            headers,
            body: answer[end + 4..].to_vec(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The body of a response of `status`.
    #[track_caller]
    pub(crate) fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// Asserts that this is a problem of `status` that says what is wrong.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let body = self.json();
        assert_eq!(body["status"], status, "{body}");
        assert!(
            body["title"].is_string() && body["type"].is_string(),
            "{body}"
        );
    }
}

/// Runs curl, as an independent judge of what the server says; its output.
pub(crate) async fn curl(arguments: &[&str], output: &Path) -> Option<Vec<u8>> {
    let command = tokio::task::spawn_blocking({
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let output = output.to_owned();
        move || {
            std::process::Command::new("curl")
                .arg("-sSf")
                .arg("-o")
                .arg(output)
                .args(arguments)
                .status()
        }
    });
    match command.await.unwrap() {
        Ok(status) => {
            assert!(status.success(), "curl failed: {status}");
            Some(std::fs::read(output).unwrap())
        }
        Err(error) => {
            assert!(
                std::env::var_os("REQUIRE_PEERS").is_none_or(|v| v != "1"),
                "curl: {error}"
            );
            eprintln!("skipped: there is no curl");
            None
        }
    }
}
