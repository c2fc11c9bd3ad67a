//! Programs that others wrote, as judges. Where one is not installed the test says so and passes,
//! except where `REQUIRE_PEERS=1` makes them mandatory.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The path of `program`, or `None` after having said that the test is skipped.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file());
    if found.is_none() {
        let required = std::env::var_os("REQUIRE_PEERS").is_some_and(|value| value == "1");
        assert!(
            !required,
            "{program} is not installed, and REQUIRE_PEERS=1 makes it mandatory"
        );
        eprintln!("skipped: {program} is not installed");
    }
    found
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
