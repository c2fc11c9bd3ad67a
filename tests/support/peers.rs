//! Programs that others wrote, as judges. Where one is not installed the test says so and passes,
//! except where `REQUIRE_PEERS=1` makes them mandatory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The path of `program`, or `None` after having said that the test is skipped.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file());
    found.or_else(|| missing(program))
}

/// The file of a peer that is no program, or `None` after having said that the test is skipped.
pub fn find_file(file: &Path) -> Option<PathBuf> {
    if file.is_file() {
        return Some(file.to_owned());
    }
    missing(&file.display().to_string())
}

fn missing(peer: &str) -> Option<PathBuf> {
    let required = std::env::var_os("REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(
        !required,
        "{peer} is not installed, and REQUIRE_PEERS=1 makes it mandatory"
    );
    eprintln!("skipped: {peer} is not installed");
    None
}

/// Runs a program to its end, off the test's async threads; kills it after `longest`.
pub async fn run(mut command: Command, longest: Duration) -> Output {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = Running(Some(
        command.spawn().expect("a program that is installed starts"),
    ));
    let pid = child.0.as_ref().unwrap().id();
    let ended = tokio::task::spawn_blocking(move || child.output());
    match tokio::time::timeout(longest, ended).await {
        Ok(output) => output.unwrap(),
        Err(_) => {
            // The blocking thread then sees it end.
            drop(Command::new("kill").arg("-9").arg(pid.to_string()).status());
            panic!("{command:?} did not end within {longest:?}");
        }
    }
}

/// A program that is killed when the test forgets it.
pub struct Running(pub Option<Child>);

impl Running {
    fn output(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A Python that has these modules, or `None` after having said that the test is skipped. It is the
/// one that `PEERS_PYTHON` names, such as that of a virtual environment, else `python3`.
pub fn find_python(modules: &[&str]) -> Option<PathBuf> {
    let python = match std::env::var_os("PEERS_PYTHON") {
        Some(path) => PathBuf::from(path),
        None => find("python3")?,
    };
    let imports = format!("import {}", modules.join(", "));
    let tried = Command::new(&python).arg("-c").arg(imports).output();
    if tried.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    let required = std::env::var_os("REQUIRE_PEERS").is_some_and(|value| value == "1");
    let missing = format!("{} lacks one of {modules:?}", python.display());
    assert!(
        !required,
        "{missing}, and REQUIRE_PEERS=1 makes it mandatory"
    );
    eprintln!("skipped: {missing}");
    None
}

/// What a running program prints, line by line.
pub struct Lines(std::sync::mpsc::Receiver<String>);

impl Lines {
    /// Starts the program; it is killed when the first of the two is forgotten.
    pub fn of(mut command: Command) -> (Running, Self) {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a program that is installed starts");
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let lines = std::io::BufRead::lines(output).map_while(Result::ok);
            lines.map(|line| sender.send(line)).all(|sent| sent.is_ok())
        });
        (Running(Some(child)), Self(lines))
    }

    /// The next line; blocks for `longest` at most.
    pub fn next(&self, longest: Duration) -> String {
        self.0
            .recv_timeout(longest)
            .expect("the program says something in time")
    }
}

/// Samples of 16 bits, as peers write them where only text can be: little-endian in Base64.
pub fn samples(text: &str) -> Vec<i16> {
    let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, text).unwrap();
    let pairs = bytes.chunks_exact(2);
    pairs
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .collect()
}
