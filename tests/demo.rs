//! What a newcomer runs first: the whole system on one machine, in the real program.
#![cfg(feature = "sandbox")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use aftertone::sandbox::{ACCESS_TOKEN, REFRESH_TOKEN};
use rustix::process::{Pid, Signal, kill_process};

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aftertone"));
    command.arg("demo").args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("AFTERTONE_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The story is told to its end; `data` keeps what it left behind.
fn told(data: &Path) -> Output {
    let data = data.to_str().unwrap();
    let log = "trace,hyper=debug,h2=debug,sqlx=debug";
    let mut command = demo(&["--self-test", "--data", data, "--log", log]);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

#[test]
fn a_subscriber_signs_in_is_called_hears_his_message_and_leaves() {
    let data = tempfile::tempdir().unwrap();
    let output = told(data.path());
    let steps = text(&output.stdout);
    assert_eq!(steps.lines().count(), 7, "{steps}");
    assert!(
        steps.lines().all(|line| line.starts_with("ok    ")),
        "{steps}"
    );
    assert_tells_no_secret("the log", &output.stderr);
    let is_of_database = |name: &str| name.starts_with("aftertone.db");
    let files = std::fs::read_dir(data.path()).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let files: Vec<String> = files.filter(|name| is_of_database(name)).collect();
    assert!(files.iter().any(|name| name == "aftertone.db"), "{files:?}");
    for file in files {
        let content = std::fs::read(data.path().join(&file)).unwrap();
        assert_tells_no_secret(&file, &content);
    }
}

fn assert_tells_no_secret(place: &str, content: &[u8]) {
    let content = text(content);
    for secret in [ACCESS_TOKEN, REFRESH_TOKEN] {
        assert!(!content.contains(secret), "{place} holds {secret}…");
    }
}

/// The demo in its process, which is killed when the test forgets it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn three_lines_say_what_to_try_and_nothing_is_left_behind() {
    let home = tempfile::tempdir().unwrap();
    let base = free_ports().to_string();
    let mut command = demo(&["--port-base", &base]);
    command.env("TMPDIR", home.path());
    let started = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut running = Running(started);
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let said: Vec<_> = lines.by_ref().take(3).map(Result::unwrap).collect();
    assert!(
        said[0].contains(&format!("http://127.0.0.1:{base}/")),
        "{said:?}"
    );
    assert!(std::fs::read_dir(home.path()).unwrap().count() > 0);

    let process = Pid::from_child(&running.0);
    kill_process(process, Signal::TERM).unwrap();
    assert!(running.0.wait().unwrap().success());
    assert_eq!(lines.count(), 0, "three lines are enough");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_port_that_is_taken_is_explained() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut base = taken.local_addr().unwrap().port();
    // The SIP core's, not the first one.
    base -= 3;
    let mut said = String::new();
    let mut command = demo(&["--port-base", &base.to_string()]);
    let started = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut running = Running(started);
    let mut stderr = running.0.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(1));
    assert!(said.contains("--port-base"), "{said}");
}

/// The first of ten ports in a row that nobody uses.
fn free_ports() -> u16 {
    let is_free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let start = 30_000 + u16::try_from(std::process::id() % 2_000).unwrap();
    let mut bases = (start..start + 500).step_by(10);
    let found = bases.find(|base| (*base..base + 10).all(is_free));
    found.expect("ten ports in a row are free")
}
