//! The real program in a process of its own, which can be stopped and killed.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};

use aftertone::media::audio::{Tone, write_wav};
use aftertone::sip::message::Uri;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{GREETING_HZ, GREETING_MS, Inbox, NUMBER, SOON, get, wait_for};

/// A folder with a configuration, in which the program runs, once or again.
pub struct Place {
    dir: tempfile::TempDir,
    settings: String,
}

impl Place {
    /// On loopback with any ports, UDP only, and the tests' greeting. `recording` is put into that
    /// section.
    pub fn new(recording: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tone = Tone::new(GREETING_HZ, 0.3).take_ms(GREETING_MS);
        std::fs::write(dir.path().join("greeting.wav"), write_wav(&tone)).unwrap();
        let settings = format!(
            "[sip]\nlisten = [\"udp://127.0.0.1:0\"]\n\
             [media]\nlisten = \"127.0.0.1:0\"\nworkers = 1\n\
             [http]\nlisten = \"127.0.0.1:0\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n\
             [greeting]\nfile = \"greeting.wav\"\n\
             [recording]\n{recording}\n"
        );
        let place = Self { dir, settings };
        place.write("aftertone.toml", &place.settings);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// The usual configuration, with other words in it.
    pub fn write_settings(&self, change: impl FnOnce(&str) -> String) {
        self.write("aftertone.toml", &change(&self.settings));
    }

    /// A command in this folder, which nothing of the tests' environment reaches.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AFTERTONE_") {
                command.env_remove(name);
            }
        }
        command.env_remove("RUST_LOG");
        command
    }

    /// Runs the program to its end: whether it did what it was asked, and what it said.
    pub fn run(&self, arguments: &[&str]) -> (bool, String, String) {
        let output = self.command(PROGRAM).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.success(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    /// The subscriber of the tests, with a token for the API.
    pub fn subscriber(&self) -> String {
        let added = self.run(&["subscribers", "add", NUMBER]);
        assert!(added.0, "{}", added.2);
        let (_, token, _) = self.run(&["tokens", "create", NUMBER]);
        token.trim().to_owned()
    }

    pub async fn start(&self) -> Program {
        let mut command = self.command(PROGRAM);
        command.arg("serve");
        Program::start(command).await
    }
}

/// Where the program lies.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_aftertone");

/// The service in its process, which is killed when the test forgets it.
pub struct Program {
    child: Child,
    sip: Vec<(String, SocketAddr)>,
    http: SocketAddr,
    admin: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Program {
    /// Starts it and waits until it says where it listens.
    pub async fn start(mut command: Command) -> Self {
        let piped = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, kept) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || keep_log(stderr, &kept));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = stdout.lines().map_while(Result::ok);
            // Nobody listens any more once the service runs.
            lines.try_for_each(|line| sender.send(line)).ok()
        });
        let mut program = Self {
            child,
            sip: Vec::new(),
            http: UNKNOWN,
            admin: UNKNOWN,
            log,
        };
        while program.admin == UNKNOWN {
            let Ok(line) = said.recv_timeout(SOON) else {
                panic!("it does not start:\n{}", program.log())
            };
            let (name, url) = line.split_once(' ').unwrap();
            let address = url.trim().split('/').nth(2).unwrap().parse().unwrap();
            match name {
                "sip" => {
                    let transport = url.trim().split(':').next().unwrap();
                    program.sip.push((transport.to_owned(), address));
                }
                "http" => program.http = address,
                "admin" => program.admin = address,
                other => panic!("{other}"),
            }
        }
        program
    }

    /// Where it listens for SIP over UDP.
    pub fn sip(&self) -> SocketAddr {
        self.sip_over("udp")
    }

    /// Where it listens for SIP over a transport.
    pub fn sip_over(&self, transport: &str) -> SocketAddr {
        self.sip
            .iter()
            .find(|(name, _)| name == transport)
            .unwrap()
            .1
    }

    pub fn uri(&self) -> Uri {
        format!("sip:{NUMBER}@{};transport=udp", self.sip())
            .parse()
            .unwrap()
    }

    pub fn inbox(&self, token: &str) -> Inbox {
        Inbox {
            api: self.http,
            token: token.to_owned(),
        }
    }

    /// `/readyz`: whether it is ready, and each check.
    pub async fn readiness(&self) -> (bool, Value) {
        let (status, body) = get(self.admin, "/readyz", "").await;
        (status == 200, serde_json::from_slice(&body).unwrap())
    }

    /// Waits until it is ready, or until it is not; what it says of itself then.
    pub async fn wait_until_ready(&self, wanted: bool) -> Value {
        wait_for(async || {
            let (ready, report) = self.readiness().await;
            (ready == wanted).then_some(report)
        })
        .await
    }

    /// The value of a metric, labels and all as `/metrics` writes it; 0 where it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, body) = get(self.admin, "/metrics", "").await;
        super::metric_in(&body, name)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Kills it as the kernel does, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        wait_for(async || self.child.try_wait().unwrap()).await
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a line of the log that holds `words`.
    pub async fn wait_for_log(&self, words: &str) -> String {
        wait_for(async || {
            let log = self.log();
            log.lines()
                .find(|line| line.contains(words))
                .map(str::to_owned)
        })
        .await
    }

    /// How many lines of the log hold `words`.
    pub fn logged(&self, words: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(words))
            .count()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const UNKNOWN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

fn keep_log(stderr: impl Read, kept: &Mutex<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let mut log = kept.lock().unwrap();
        log.push_str(&line);
        log.push('\n');
    }
}
