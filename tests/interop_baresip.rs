//! Calls of baresip, a telephone that others wrote: what it hears, and what it leaves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc;

use aftertone::media::audio::{BEEP_HZ, Tone, read_wav, write_wav};
use aftertone::sip::Transport;
use support::peers::Running;
use support::{GREETING_HZ, GREETING_MS, NUMBER, SOON, Service, VOICE_HZ, tone_ms, wait_for};

/// The greeting, the beep, and a breath.
const UNTIL_THE_VOICE_MS: usize = GREETING_MS + 500;

/// A telephone in a call.
struct Baresip {
    /// Until this is forgotten.
    _process: Running,
    keys: ChildStdin,
    /// What it prints.
    lines: mpsc::Receiver<String>,
    dir: tempfile::TempDir,
}

impl Baresip {
    /// Calls the subscriber. It says two seconds of a tone after the beep and then nothing for
    /// `pause_ms`; then it hangs up. `account` is what its account has to say.
    fn dial(
        service: &Service,
        transport: Transport,
        account: &str,
        pause_ms: usize,
    ) -> Option<Self> {
        let program = support::peers::find("baresip")?;
        let dir = tempfile::tempdir_in(service.dir.path()).unwrap();
        let voice = [
            vec![0; 8 * UNTIL_THE_VOICE_MS],
            Tone::new(VOICE_HZ, 0.3).take_ms(2000),
            vec![0; 8 * pause_ms],
        ];
        std::fs::write(dir.path().join("voice.wav"), write_wav(&voice.concat())).unwrap();
        std::fs::copy(
            service.dir.path().join("cert.pem"),
            dir.path().join("ca.pem"),
        )
        .unwrap();
        let config = include_str!("baresip/config")
            .replace("{dir}", dir.path().to_str().unwrap())
            .replace("{modules}", modules_of(&program).to_str().unwrap());
        std::fs::write(dir.path().join("config"), config).unwrap();
        let account = format!("<sip:+4787654321@127.0.0.1>;regint=0;{account}\n");
        std::fs::write(dir.path().join("accounts"), account).unwrap();
        std::fs::write(dir.path().join("contacts"), "").unwrap();

        let target = service.uri(NUMBER, transport);
        let mut command = Command::new(program);
        command
            .arg("-f")
            .arg(dir.path())
            .arg("-e")
            .arg(format!("/dial {target}"));
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

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the call is over; gives what was heard in it.
    async fn heard(mut self) -> Vec<i16> {
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

fn is_greeting_and_beep(heard: &[i16]) {
    let greeting = tone_ms(heard, GREETING_HZ);
    assert!(
        greeting.abs_diff(GREETING_MS) <= 60,
        "heard {greeting} ms of the greeting"
    );
    let beep = tone_ms(heard, BEEP_HZ);
    assert!((200..=320).contains(&beep), "heard {beep} ms of the beep");
}

async fn leaves_a_message(transport: Transport, account: &str) {
    let service = Service::start().await;
    let inbox = service.subscriber(NUMBER).await;
    let Some(phone) = Baresip::dial(&service, transport, account, 200) else {
        return;
    };
    is_greeting_and_beep(&phone.heard().await);
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["from"], "+4787654321");
    assert_eq!(message["to"], NUMBER);
    assert_eq!(message["reason"], "unknown");
    assert_eq!(message["ended_by"], "hang-up");
    let said = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    assert!(
        said.abs_diff(2000) <= 40,
        "{said} ms of 2000 are in the message"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_udp_from_a_phone_that_prefers_other_codecs() {
    leaves_a_message(Transport::Udp, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_tcp_in_a_law() {
    leaves_a_message(Transport::Tcp, "audio_codecs=pcma/8000/1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_tls_in_mu_law() {
    leaves_a_message(Transport::Tls, "audio_codecs=pcmu/8000/1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_pressed_ends_the_message_and_the_thanks_are_heard() {
    let service = Service::start().await;
    let inbox = service.subscriber(NUMBER).await;
    let Some(mut phone) = Baresip::dial(&service, Transport::Udp, "", 20_000) else {
        return;
    };
    wait_for(async || (spooled_ms(&service) >= 3000).then_some(())).await;
    phone.press("#");
    let heard = phone.heard().await;
    is_greeting_and_beep(&heard);
    // Silence sends next to nothing, so the rest are the thanks.
    let thanks = heard.len() / 8 - GREETING_MS;
    assert!(thanks > 1000, "{thanks} ms were heard beyond the greeting");
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["ended_by"], "digit");
    let said = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    assert!(
        said.abs_diff(2000) <= 40,
        "{said} ms of 2000 are in the message"
    );
    service.stop().await;
}

/// How much of the message is on the disk.
fn spooled_ms(service: &Service) -> u64 {
    let Ok(files) = std::fs::read_dir(service.spool_dir()) else {
        return 0;
    };
    let sizes = files.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len() / 16));
    sizes.max().unwrap_or_default()
}
