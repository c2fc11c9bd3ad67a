//! baresip, a telephone that others wrote, driven by its command line.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc;

use aftertone::media::audio::{read_wav, write_wav};

use crate::support::SOON;
use crate::support::peers::{self, Running};

/// A telephone that says a file as soon as a call is answered.
pub struct Softphone {
    /// Until this is forgotten.
    _process: Running,
    keys: ChildStdin,
    /// What it prints.
    lines: mpsc::Receiver<String>,
    dir: tempfile::TempDir,
}

impl Softphone {
    /// Starts it with this line in its file of accounts. `says` is its voice, at 8 kHz; `ca` the
    /// certificate that it trusts; `first` its first command. `None`: it is not installed.
    pub fn start(account: &str, says: &[i16], ca: &Path, first: Option<&str>) -> Option<Self> {
        Self::with("", account, says, ca, first)
    }

    /// The same with more lines in its configuration: modules above all.
    pub fn with(
        lines: &str,
        account: &str,
        says: &[i16],
        ca: &Path,
        first: Option<&str>,
    ) -> Option<Self> {
        let program = peers::find("baresip")?;
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        std::fs::write(file("voice.wav"), write_wav(says)).unwrap();
        std::fs::copy(ca, file("ca.pem")).unwrap();
        let config = include_str!("../baresip/config")
            .replace("{lines}", lines)
            .replace("{dir}", dir.path().to_str().unwrap())
            .replace("{modules}", modules_of(&program).to_str().unwrap());
        std::fs::write(file("config"), config).unwrap();
        std::fs::write(file("accounts"), format!("{account}\n")).unwrap();
        std::fs::write(file("contacts"), "").unwrap();

        let mut command = Command::new(program);
        command.arg("-f").arg(dir.path());
        command.args(first.iter().flat_map(|first| ["-e", first]));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let keys = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = output.split(b'\n').map_while(Result::ok);
            lines
                .map(|line| String::from_utf8_lossy(&line).into_owned())
                .try_for_each(|line| sender.send(line))
        });
        Some(Self {
            _process: Running(Some(child)),
            keys,
            lines,
            dir,
        })
    }

    /// Presses keys, or types a command: `"/hangup\n"`.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until it prints a line with this text. Blocks.
    pub fn wait_for(&self, text: &str) {
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| line.contains(text)) {
            match self.lines.recv_timeout(SOON) {
                Ok(line) => said.push(line),
                Err(_) => panic!("it never says {text:?}: {said:#?}"),
            }
        }
    }

    /// Hangs up when it has said all, and ends; gives what was heard in the call.
    pub async fn heard(mut self) -> Vec<i16> {
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            while let Ok(line) = self.lines.recv_timeout(SOON) {
                if line.contains("end of file)") {
                    self.press("/hangup\n");
                } else if line.contains("terminated (duration") {
                    self.press("/quit\n");
                }
                all.push(line);
            }
            // Its files are complete when it has ended.
            let ended = self.lines.try_recv() == Err(mpsc::TryRecvError::Disconnected);
            assert!(ended, "the call did not end: {all:#?}");
            read_wav(&std::fs::read(recording(self.dir.path())).unwrap()).unwrap()
        });
        read.await.unwrap()
    }
}

/// The modules are where the library of the same prefix is.
fn modules_of(program: &Path) -> PathBuf {
    program
        .ancestors()
        .nth(2)
        .unwrap()
        .join("lib/baresip/modules")
}

/// The file with what was heard.
fn recording(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_heard = |path: &PathBuf| path.to_str().unwrap().ends_with("-dec.wav");
    files
        .into_iter()
        .find(is_heard)
        .expect("what was heard is recorded")
}
