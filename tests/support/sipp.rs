//! SIPp as the caller: scenarios of `tests/sipp`, and what they leave behind.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aftertone::media::audio::{Law, Tone};
use aftertone::sip::Transport;

use super::{GREETING_MS, NUMBER, Service, VOICE_HZ, peers};

/// The beep after the greeting, and a breath.
const BEEP_AND_BREATH_MS: usize = 400;
/// After the last word the caller waits so long before he hangs up.
const PAUSE_MS: usize = 250;
/// A run of SIPp is over by then, or never.
const LONGEST: Duration = Duration::from_secs(120);

/// Calls to place: a file of `tests/sipp`, and what is put in it.
#[derive(Clone)]
pub struct Scenario {
    name: &'static str,
    values: BTreeMap<String, String>,
    transport: Transport,
    number: &'static str,
    proxy: Option<SocketAddr>,
    calls: usize,
    per_second: usize,
}

impl Scenario {
    /// One call over UDP to [`NUMBER`]: two seconds of [`VOICE_HZ`] after the beep.
    pub fn named(name: &'static str) -> Self {
        let scenario = Self {
            name,
            values: BTreeMap::new(),
            transport: Transport::Udp,
            number: NUMBER,
            proxy: None,
            calls: 1,
            per_second: 10,
        };
        let lines = "a=rtpmap:8 PCMA/8000\na=rtpmap:101 telephone-event/8000\na=fmtp:101 0-15";
        let usual = [
            ("caller", "+4787654321"),
            ("contact", "[local_ip]:[local_port]"),
            ("via_params", ""),
            ("to_params", ""),
            ("peer_tag", "[peer_tag_param]"),
            ("uri", "sip:[service]@[remote_ip]:[remote_port]"),
            ("headers", ""),
            ("header", ""),
            ("content_type", "application/sdp"),
            ("media_ip", "[media_ip]"),
            ("media_port", "[rtpstream_audio_port]"),
            ("profile", "RTP/AVP"),
            ("formats", "8 101"),
            ("formats_lines", lines),
            ("payload_type", "8"),
            ("direction", "sendrecv"),
            ("expect", "SIP/2.0"),
        ];
        let scenario = usual.into_iter().fold(scenario, |scenario, (name, value)| {
            scenario.with(name, value)
        });
        scenario
            .speaking_after(GREETING_MS + BEEP_AND_BREATH_MS)
            .saying(VOICE_HZ, 2000)
    }

    /// Puts `value` where the scenario has `{name}`.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.values.insert(name.into(), value.into());
        self
    }

    /// The caller speaks so long after his ACK.
    pub fn speaking_after(self, ms: usize) -> Self {
        self.with("greeting_ms", ms.to_string())
    }

    /// The caller says a tone of `hz` for `ms`.
    pub fn saying(self, hz: f64, ms: usize) -> Self {
        self.with("voice_hz", hz.to_string())
            .with("voice_ms", ms.to_string())
            .with("say_ms", (ms + PAUSE_MS).to_string())
    }

    /// Over another transport than UDP.
    pub fn over(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// To another number.
    pub fn to(mut self, number: &'static str) -> Self {
        self.number = number;
        self
    }

    /// By way of somebody in front of the service.
    pub fn through(mut self, proxy: SocketAddr) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// So many calls, so many of them begun in a second.
    pub fn times(mut self, calls: usize, per_second: usize) -> Self {
        (self.calls, self.per_second) = (calls, per_second);
        self
    }

    /// Places the calls; panics with SIPp's own words when one did not go as written. Gives the
    /// messages sent and received, or nothing where SIPp is not installed.
    pub async fn run(&self, service: &Service) -> Option<String> {
        let sipp = peers::find("sipp")?;
        let dir = tempfile::tempdir_in(service.dir.path()).unwrap();
        let command = self.command(&sipp, dir.path(), service);
        let output = peers::run(command, LONGEST).await;
        let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap_or_default();
        let (messages, errors) = (read("messages.log"), read("errors.log"));
        assert!(
            output.status.success(),
            "SIPp's {} failed ({}): {errors}\n{messages}\n{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Some(messages)
    }

    fn command(&self, sipp: &Path, dir: &Path, service: &Service) -> Command {
        let audio = dir.join("voice.alaw");
        let number = |name: &str| self.values[name].parse::<f64>().unwrap();
        let voice = Tone::new(number("voice_hz"), 0.3).take_ms(number("voice_ms") as usize);
        let mut encoded = vec![0; voice.len()];
        Law::A.encode(&voice, &mut encoded);
        std::fs::write(&audio, encoded).unwrap();
        let mut values = self.values.clone();
        values.insert("audio".into(), audio.display().to_string());
        let file = dir.join(format!("{}.xml", self.name));
        std::fs::write(&file, expand(&source(self.name), &values)).unwrap();

        let target = self.proxy.unwrap_or_else(|| service.sip(self.transport));
        let own = target.ip().to_string();
        let mut command = Command::new(sipp);
        command
            .current_dir(dir)
            .arg(target.to_string())
            .arg("-sf")
            .arg(file);
        command.args(["-s", self.number, "-i", &own, "-mi", &own, "-nostdin"]);
        command.args([
            "-t",
            if self.transport == Transport::Udp {
                "u1"
            } else {
                "t1"
            },
        ]);
        command.args([
            "-m",
            &self.calls.to_string(),
            "-r",
            &self.per_second.to_string(),
        ]);
        command.args(["-trace_msg", "-message_file", "messages.log"]);
        command.args(["-trace_err", "-error_file", "errors.log"]);
        command.args(["-recv_timeout", "50s", "-timeout", "100s", "-timeout_error"]);
        command
    }
}

/// How often `line` stands in `messages`, in those received.
pub fn received(messages: &str, line: &str) -> usize {
    let all = messages.split("-----------------------------------------------");
    all.filter(|message| message.contains("message received") && message.contains(line))
        .count()
}

fn source(name: &str) -> String {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/sipp"].iter().collect();
    std::fs::read_to_string(folder.join(format!("{name}.xml"))).unwrap()
}

/// Replaces `<use part="…" name="value"/>` by that file of `parts`, and `{name}` by its value; a line
/// that has nothing but a name without a value goes.
fn expand(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    for line in text.lines() {
        if let Some(attributes) = line.trim().strip_prefix("<use ") {
            let mut inner = values.clone();
            let attributes = attributes.strip_suffix("/>").unwrap().split("\" ");
            for (name, value) in attributes.map(|attribute| attribute.split_once("=\"").unwrap()) {
                inner.insert(name.into(), value.trim_end_matches('"').into());
            }
            expanded += &expand(&source(&format!("parts/{}", inner["part"])), &inner);
            continue;
        }
        let mut filled = line.to_owned();
        for (name, value) in values {
            filled = filled.replace(&format!("{{{name}}}"), value);
        }
        assert!(!filled.contains('{'), "a placeholder has no value: {line}");
        if line.trim().is_empty() || !filled.trim().is_empty() {
            expanded += &filled;
            expanded.push('\n');
        }
    }
    expanded
}
