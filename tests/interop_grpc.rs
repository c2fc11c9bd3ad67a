//! The core's API against grpcio, which others wrote: our client against a server of it that
//! misbehaves, and a client of it, generated from `proto/`, against the sandbox.
#![cfg(feature = "sandbox")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/peers.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]
mod peers;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aftertone::clock::SystemClock;
use aftertone::domain::{Msisdn, Secret, Timestamp};
use aftertone::mobile_core::{
    Api, ClientTokens, Config, ConsentChange, ConsentTarget, CoreError, GrpcCore, MobileCore,
    TokenKind, Wish,
};
use aftertone::sandbox;
use aftertone::sandbox::Sandbox;
use async_trait::async_trait;
use peers::{Lines, Running};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SOON: Duration = Duration::from_secs(30);
/// How long our client waits in these tests.
const PATIENCE: Duration = Duration::from_millis(1000);
const MODULES: &[&str] = &[
    "grpc_tools.protoc",
    "grpc_health.v1",
    "grpc_reflection.v1alpha",
];

/// Generates the Python code of `proto/` into a folder of its own.
fn generate(python: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut command = Command::new(python);
    command.args(["-m", "grpc_tools.protoc", "-I"]).arg(&root);
    for out in ["--python_out", "--grpc_python_out"] {
        command.arg(format!("{out}={}", dir.path().display()));
    }
    let protos = [
        "common/v1/types.proto",
        "events/v1/events.proto",
        "consents/v1/consents.proto",
        "sipbreakout/v0/sipbreakout.proto",
        "sipbreakout/v1/sipbreakout.proto",
    ];
    command.args(protos.map(|proto| root.join("wgtwo").join(proto)));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    dir
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peers/grpc")
        .join(name)
}

/// A core made of grpcio.
struct PythonCore {
    _process: Running,
    lines: Lines,
    port: u16,
    _stubs: tempfile::TempDir,
}

impl PythonCore {
    fn start(tls: &[&Path]) -> Option<Self> {
        let python = peers::find_python(MODULES)?;
        let stubs = generate(&python);
        let mut command = Command::new(python);
        command.arg(script("server.py")).arg(stubs.path()).args(tls);
        command.env("GRPC_VERBOSITY", "NONE");
        let (process, lines) = Lines::of(command);
        let mut core = Self {
            _process: process,
            lines,
            port: 0,
            _stubs: stubs,
        };
        core.port = u16::try_from(core.told()["port"].as_u64().unwrap()).unwrap();
        Some(core)
    }

    /// The next thing it tells.
    fn told(&self) -> Value {
        serde_json::from_str(&self.lines.next(SOON)).unwrap()
    }
}

fn config(endpoint: String) -> Config {
    Config {
        endpoint: Some(endpoint),
        mobile_originating_prefix: "00".into(),
        mobile_terminating_prefix: "99".into(),
        timeout_ms: u64::try_from(PATIENCE.as_millis()).unwrap(),
        ..Config::default()
    }
}

fn wish(behaviour: &str) -> Wish {
    Wish {
        number: Msisdn::parse("+4799990001").unwrap(),
        sip_uri: format!("sips:{behaviour}.example.com"),
    }
}

fn token() -> Secret {
    Secret::new("the-token")
}

#[tokio::test]
async fn a_request_has_every_field_where_another_implementation_looks_for_it() {
    let Some(peer) = PythonCore::start(&[]) else {
        return;
    };
    let base = config(format!("http://127.0.0.1:{}", peer.port));
    let user = GrpcCore::new(&base).unwrap();
    assert_eq!(
        user.upsert(&wish("hour"), &token()).await,
        Ok(Duration::from_secs(3600))
    );
    let expected = |method: &str, number: &str| {
        json!({
            "method": method,
            "prefixes": ["00", "99"],
            "uri": "sips:hour.example.com",
            "route": "ROUTE_TYPE_FALLBACK",
            "number": number,
            "token": "Bearer the-token",
        })
    };
    assert_eq!(peer.told(), expected("UpsertRegistration", ""));
    let client = GrpcCore::new(&Config {
        token: TokenKind::Client,
        ..base.clone()
    })
    .unwrap();
    client.delete(&wish("hour"), &token()).await.unwrap();
    assert_eq!(peer.told(), expected("DeleteRegistration", "+4799990001"));

    let v0 = GrpcCore::new(&Config {
        api: Api::V0,
        ..base
    })
    .unwrap();
    assert_eq!(
        v0.upsert(&wish("hour"), &token()).await,
        Ok(Duration::from_secs(3600))
    );
    let told = peer.told();
    assert_eq!(told["prefixes"], json!(["00", "99"]));
    assert_eq!(told["uri"], "sips:hour.example.com");
    assert_eq!(told["route"], "FALLBACK");
    assert_eq!(told["token"], "Bearer the-token");
    v0.delete(&wish("hour"), &token()).await.unwrap();
    let refused = v0.delete(&wish("status-2"), &token()).await;
    assert_eq!(refused, Err(CoreError::NotAcceptable("said".into())));
    let unknown = v0.upsert(&wish("status-8"), &token()).await;
    assert_eq!(unknown.unwrap_err().as_str(), "nonsense");
}

#[tokio::test]
async fn nonsense_late_twice_and_never_are_errors_in_time_and_the_next_request_succeeds() {
    let Some(peer) = PythonCore::start(&[]) else {
        return;
    };
    let core = GrpcCore::new(&config(format!("http://127.0.0.1:{}", peer.port))).unwrap();
    let cases = [
        ("short", Ok(2500)),
        ("endless", Ok(24 * 3600 * 1000)),
        ("mute", Ok(3600 * 1000)),
        ("zero", Err("nonsense")),
        ("negative", Err("nonsense")),
        ("least", Err("nonsense")),
        ("status-0", Err("nonsense")),
        ("status-2", Err("not-acceptable")),
        ("status-77", Err("nonsense")),
        ("nothing", Err("nonsense")),
        // The second message is not read.
        ("twice", Ok(3600 * 1000)),
        ("empty", Err("unavailable")),
        ("garbage", Err("unavailable")),
        ("huge", Err("nonsense")),
        ("late", Err("deadline")),
        ("never", Err("deadline")),
        ("code-3", Err("not-acceptable")),
        ("code-7", Err("forbidden")),
        ("code-8", Err("unavailable")),
        ("code-12", Err("nonsense")),
        ("code-13", Err("unavailable")),
        ("code-14", Err("unavailable")),
        ("code-16", Err("unauthenticated")),
    ];
    for (behaviour, expected) in cases {
        let started = Instant::now();
        let answer = core.upsert(&wish(behaviour), &token()).await;
        let life = answer
            .as_ref()
            .map(|life| u64::try_from(life.as_millis()).unwrap());
        assert_eq!(
            life.map_err(CoreError::as_str),
            expected,
            "{behaviour}: {answer:?}"
        );
        let took = started.elapsed();
        assert!(took < PATIENCE * 3, "{behaviour} took {took:?}");
        if let Err(error) = answer {
            assert!(!error.to_string().contains("99990001"), "{error}");
        }
        let next = core.upsert(&wish("hour"), &token()).await;
        assert_eq!(next, Ok(Duration::from_secs(3600)), "after {behaviour}");
    }
}

#[tokio::test]
async fn a_core_that_closes_or_is_not_there_or_never_speaks_is_transient() {
    let closes = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ports = [&closes, &silent, &gone].map(|it| it.local_addr().unwrap().port());
    drop(gone);
    let accept = async {
        loop {
            drop(closes.accept().await);
        }
    };
    let ask = async {
        for port in ports {
            let core = GrpcCore::new(&config(format!("http://127.0.0.1:{port}"))).unwrap();
            for _ in 0..2 {
                let started = Instant::now();
                let error = core.upsert(&wish("hour"), &token()).await.unwrap_err();
                assert!(error.is_transient(), "{error}");
                assert!(started.elapsed() < PATIENCE * 3, "{error}");
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = ask => {}
    }
}

#[tokio::test]
async fn over_tls_only_a_certificate_of_the_host_by_the_authority_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, pem: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let certificate = file("cert.pem", signed.cert.pem());
    let key = file("key.pem", signed.signing_key.serialize_pem());
    let stranger = file("other.pem", other.cert.pem());
    let Some(peer) = PythonCore::start(&[&certificate, &key]) else {
        return;
    };
    let ask = async |host: &str, ca_file: Option<PathBuf>| {
        let core = GrpcCore::new(&Config {
            ca_file,
            ..config(format!("https://{host}:{}", peer.port))
        });
        core.unwrap().upsert(&wish("hour"), &token()).await
    };
    let believed = ask("localhost", Some(certificate.clone())).await;
    assert_eq!(believed, Ok(Duration::from_secs(3600)));
    for (host, ca_file) in [
        ("127.0.0.1", Some(certificate)),
        ("localhost", Some(stranger)),
        ("localhost", None),
    ] {
        let error = ask(host, ca_file).await.unwrap_err();
        assert!(
            matches!(error, CoreError::Unavailable(_)),
            "{host}: {error}"
        );
        assert!(
            error.to_string().to_lowercase().contains("certificate"),
            "{error}"
        );
    }
}

/// Has no token the first time.
#[derive(Default)]
struct Tokens(AtomicU32);

#[async_trait]
impl ClientTokens for Tokens {
    async fn token(&self) -> Result<Secret, CoreError> {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            0 => Err(CoreError::Unavailable("no token yet".into())),
            _ => Ok(token()),
        }
    }

    async fn rejected(&self, _token: &Secret) {
        panic!("the core accepts it");
    }
}

#[tokio::test]
async fn consent_events_come_in_order_over_broken_streams_and_are_acknowledged_when_handled() {
    let Some(peer) = PythonCore::start(&[]) else {
        return;
    };
    let core = GrpcCore::new(&config(format!("http://127.0.0.1:{}", peer.port))).unwrap();
    let mut feed = core.consent_events(Arc::new(Tokens::default()), 1);
    let mut next = async || tokio::time::timeout(SOON, feed.next()).await.unwrap();

    let added = next().await;
    assert_eq!(added.event.change, ConsentChange::Added);
    let number = |text| ConsentTarget::Number(Msisdn::parse(text).unwrap());
    assert_eq!(added.event.target, number("+4799990001"));
    assert_eq!(
        added.event.at,
        Some(Timestamp::from_millis(1_800_000_000_005))
    );
    let tenant = next().await;
    assert_eq!(
        tenant.event.target,
        ConsentTarget::Tenant("operator".into())
    );
    let revoked = next().await;
    assert_eq!(revoked.event.change, ConsentChange::Revoked);
    assert_eq!(revoked.event.target, number("+4799990002"));
    assert!(revoked.event.is_redelivered && !tenant.event.is_redelivered);
    feed.ack(&added).await.unwrap();
    assert_eq!(feed.ack(&tenant).await.unwrap_err().as_str(), "nonsense");
    feed.ack(&revoked).await.unwrap();

    let stream = |stream: u32| {
        json!({
            "stream": stream,
            "in_flight": 1,
            "type": "durable_queue",
            "acknowledged": true,
            "start": "start_at_oldest_possible",
            "token": "Bearer the-token",
        })
    };
    let acked = |value: &str| json!({ "acked": value });
    for expected in [
        stream(1),
        stream(2),
        acked("nonsense"),
        acked("bad-number"),
        stream(3),
        acked("added"),
        acked("tenant"),
        acked("revoked"),
    ] {
        assert_eq!(peer.told(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_generated_from_the_descriptions_finds_the_sandbox_as_described() {
    let Some(python) = peers::find_python(MODULES) else {
        return;
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let config = sandbox::Config {
        http: any,
        grpc: any,
        sip: vec!["udp://127.0.0.1:0".parse().unwrap()],
        registration_secs: 3,
        consent_ack_secs: 1,
        ..sandbox::Config::default()
    };
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let clock = Arc::new(SystemClock);
    let sandbox = Sandbox::start(&config, clock, &tasks, &stop, [7; 32])
        .await
        .unwrap();
    let stubs = generate(&python);
    let mut command = Command::new(python);
    command.arg(script("client.py")).arg(stubs.path());
    command.args([sandbox.grpc_addr().to_string(), sandbox.issuer().to_owned()]);
    let output = peers::run(command, SOON * 2).await;
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    assert_eq!(said.matches(": good").count(), 6, "{said}");
    stop.cancel();
    tasks.close();
    let ended = tokio::time::timeout(SOON, tasks.wait()).await;
    assert!(ended.is_ok(), "the sandbox stops with clients connected");
}
