//! SIPp, which others wrote, as phones and endpoint at the sandbox's SIP core: it judges the registrar, the proxy,
//! CANCEL and the way to a fallback endpoint.
#![cfg(feature = "sandbox")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use aftertone::mobile_core::pb::wgtwo::sipbreakout::v1::RouteType;
use aftertone::sip::Transport;
use support::core::{ANNA, BJARNE, Core, PASSWORD};
use support::peers;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// A run of SIPp is over by then, or never.
const LONGEST: Duration = Duration::from_secs(60);

/// A scenario of `tests/sipp/core`, and where SIPp listens with it.
struct Sipp {
    program: PathBuf,
    scenario: &'static str,
    values: Vec<(&'static str, String)>,
    number: &'static str,
    port: u16,
}

impl Sipp {
    /// `None` where SIPp is not installed.
    fn new(scenario: &'static str, number: &'static str) -> Option<Self> {
        Some(Self {
            program: peers::find("sipp")?,
            scenario,
            values: vec![("caller", ANNA.to_owned()), ("number", number.to_owned())],
            number,
            port: free_port(),
        })
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.values.push((name, value.into()));
        self
    }

    /// Runs it once in a folder of its own; gives all messages that it sent and received, by way of its trace.
    fn start(&self, core: &Core) -> JoinHandle<String> {
        let dir = tempfile::tempdir_in(core.dir.path()).unwrap();
        let command = self.command(dir.path(), core.sip(Transport::Udp));
        let scenario = self.scenario;
        TaskTracker::new().spawn(async move {
            let output = peers::run(command, LONGEST).await;
            told(scenario, dir.path(), &output)
        })
    }

    async fn run(&self, core: &Core) -> String {
        self.start(core).await.unwrap()
    }

    fn command(&self, dir: &Path, target: SocketAddr) -> Command {
        let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/sipp/core"]
            .iter()
            .collect();
        let source = folder.join(format!("{}.xml", self.scenario));
        let mut text = std::fs::read_to_string(source).unwrap();
        for (name, value) in &self.values {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        let file = dir.join("scenario.xml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(&self.program);
        command
            .current_dir(dir)
            .arg(target.to_string())
            .arg("-sf")
            .arg(file);
        command.args(["-s", self.number, "-i", "127.0.0.1", "-nostdin", "-m", "1"]);
        command.args(["-p", &self.port.to_string(), "-t", "u1"]);
        command.args(["-trace_msg", "-message_file", "messages.log"]);
        command.args(["-trace_err", "-error_file", "errors.log"]);
        command.args(["-recv_timeout", "20s", "-timeout", "40s", "-timeout_error"]);
        command
    }
}

fn told(scenario: &str, dir: &Path, output: &Output) -> String {
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    let (messages, errors) = (read("messages.log"), read("errors.log"));
    assert!(
        output.status.success(),
        "SIPp's {scenario} failed ({}): {errors}\n{messages}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    messages
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// Registers a phone of `number` at `port`; whether SIPp is installed.
async fn register(core: &Core, number: &'static str, port: u16) -> bool {
    let Some(sipp) = Sipp::new("register", number) else {
        return false;
    };
    let sipp = sipp
        .with("contact", format!("127.0.0.1:{port}"))
        .with("expires", "600")
        .with("password", PASSWORD)
        .with("status", "200");
    let messages = sipp.run(core).await;
    assert!(
        messages.contains(&format!("sip:phone@127.0.0.1:{port}>;expires=")),
        "{messages}"
    );
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_registers_with_its_password_and_with_no_other() {
    let core = Core::start().await;
    if !register(&core, BJARNE, free_port()).await {
        return;
    }
    let wrong = Sipp::new("register", BJARNE).unwrap();
    let wrong = wrong.with("contact", "127.0.0.1:9").with("expires", "600");
    wrong
        .with("password", "guess")
        .with("status", "401")
        .run(&core)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_through_the_core_and_back() {
    let core = Core::start().await;
    let Some(phone) = Sipp::new("answers", BJARNE) else {
        return;
    };
    register(&core, BJARNE, phone.port).await;
    let answering = phone.start(&core);
    Sipp::new("call", BJARNE).unwrap().run(&core).await;
    let messages = answering.await.unwrap();
    assert!(
        messages.contains(&format!("P-Asserted-Identity: <sip:{ANNA}@")),
        "{messages}"
    );
    assert!(!messages.contains("Proxy-Authorization"), "{messages}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_ends_on_both_sides() {
    let core = Core::start().await;
    let Some(phone) = Sipp::new("rings", BJARNE) else {
        return;
    };
    register(&core, BJARNE, phone.port).await;
    let ringing = phone.start(&core);
    Sipp::new("cancel", BJARNE).unwrap().run(&core).await;
    ringing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_phones_call_goes_to_the_endpoint_which_is_told_why() {
    let core = Core::with(|config, _| config.plain_sip = true).await;
    let (Some(phone), Some(endpoint)) = (Sipp::new("busy", BJARNE), Sipp::new("answers", BJARNE))
    else {
        return;
    };
    register(&core, BJARNE, phone.port).await;
    let sip_uri = format!("sip:127.0.0.1:{}", endpoint.port);
    core.add(BJARNE, &sip_uri, RouteType::Fallback).await;
    let (busy, answering) = (phone.start(&core), endpoint.start(&core));
    Sipp::new("call", BJARNE).unwrap().run(&core).await;
    busy.await.unwrap();
    let messages = answering.await.unwrap();
    assert!(
        messages.contains("INVITE sip:+224799990011@127.0.0.1"),
        "{messages}"
    );
    assert!(messages.contains("cause=486>;index=1.1"), "{messages}");
}
