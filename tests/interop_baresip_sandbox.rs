//! baresip, a telephone that others wrote, as phones of sandbox numbers: they register with their passwords, call
//! each other, and reach voicemail.
#![cfg(feature = "sandbox")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc;

use aftertone::media::audio::{Tone, read_wav, write_wav};
use aftertone::mobile_core::pb::wgtwo::sipbreakout::v1::RouteType;
use aftertone::sip::Transport;
use support::core::{ANNA, BJARNE, Core, PASSWORD};
use support::peers::{self, Running};
use support::{GREETING_HZ, GREETING_MS, SOON, Service, VOICE_HZ, tone_ms};

/// How long a phone says its tone.
const VOICE_MS: usize = 2000;
/// The greeting, the beep, and a breath.
const UNTIL_THE_VOICE_MS: usize = GREETING_MS + 500;

/// A telephone that is registered.
struct Baresip {
    process: Running,
    keys: ChildStdin,
    /// What it prints.
    lines: mpsc::Receiver<String>,
    dir: tempfile::TempDir,
}

impl Baresip {
    /// Starts a phone of `number` that says a tone of `hz` after `pause_ms`, and waits until it is registered.
    /// `None` where baresip is not installed.
    fn register(
        core: &Core,
        number: &str,
        transport: Transport,
        hz: f64,
        pause_ms: usize,
    ) -> Option<Self> {
        let program = peers::find("baresip")?;
        let dir = tempfile::tempdir_in(core.dir.path()).unwrap();
        let voice = [
            vec![0; 8 * pause_ms],
            Tone::new(hz, 0.3).take_ms(VOICE_MS),
            vec![0; 8 * 500],
        ];
        std::fs::write(dir.path().join("voice.wav"), write_wav(&voice.concat())).unwrap();
        let config = include_str!("baresip/config")
            .replace("sip_cafile", "# sip_cafile")
            .replace("{dir}", dir.path().to_str().unwrap())
            .replace("{modules}", modules_of(&program).to_str().unwrap());
        std::fs::write(dir.path().join("config"), config).unwrap();
        std::fs::write(dir.path().join("contacts"), "").unwrap();
        let address = core.sip(transport);
        let account = format!(
            "<sip:{number}@{address};transport={}>;auth_user={number};auth_pass={PASSWORD};regint=600;\
             answermode=auto;audio_codecs=pcma/8000/1\n",
            transport.uri_name()
        );
        std::fs::write(dir.path().join("accounts"), account).unwrap();
        let mut command = Command::new(program);
        command.arg("-f").arg(dir.path());
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
        let phone = Self {
            process: Running(Some(child)),
            keys,
            lines,
            dir,
        };
        phone.until("[1 binding]");
        Some(phone)
    }

    /// Waits until it prints this.
    fn until(&self, wanted: &str) {
        let mut all = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(SOON) {
            if line.contains(wanted) {
                return;
            }
            all.push(line);
        }
        panic!("it never said \"{wanted}\": {all:#?}");
    }

    fn tell(&mut self, command: &str) {
        self.keys.write_all(command.as_bytes()).unwrap();
    }

    /// What it heard in its call, which is over. Its files are complete when it has ended.
    fn heard(mut self) -> Vec<i16> {
        self.tell("/quit\n");
        let gone = |error| error == mpsc::RecvTimeoutError::Disconnected;
        let ended = loop {
            match self.lines.recv_timeout(SOON) {
                Ok(_) => {}
                Err(error) => break gone(error),
            }
        };
        assert!(ended, "it did not end");
        drop(self.process);
        let files = std::fs::read_dir(self.dir.path()).unwrap();
        let files = files.map(|entry| entry.unwrap().path());
        let mut heard = files.filter(|path| path.to_str().unwrap().ends_with("-dec.wav"));
        let file = heard.next().expect("what was heard is recorded");
        read_wav(&std::fs::read(file).unwrap()).unwrap()
    }
}

/// The modules are where the library of the same prefix is.
fn modules_of(program: &Path) -> PathBuf {
    let prefix = program.ancestors().nth(2).unwrap();
    prefix.join("lib/baresip/modules")
}

/// Anna's phone calls Bjarne's, over these transports, and both hear each other.
async fn talk(from: Transport, to: Transport) {
    let core = Core::start().await;
    let call = move || {
        let mut anna = Baresip::register(&core, ANNA, from, VOICE_HZ, 500)?;
        let bjarne = Baresip::register(&core, BJARNE, to, GREETING_HZ, 500)?;
        anna.tell(&format!("/dial {}\n", core.uri(BJARNE, from)));
        // Whoever has said all hangs up.
        anna.until("terminated (duration");
        bjarne.until("terminated (duration");
        Some((anna.heard(), bjarne.heard()))
    };
    let Some((anna, bjarne)) = tokio::task::spawn_blocking(call).await.unwrap() else {
        return;
    };
    for (who, heard, hz) in [("Anna", anna, GREETING_HZ), ("Bjarne", bjarne, VOICE_HZ)] {
        let said = tone_ms(&heard, hz);
        assert!(
            said.abs_diff(VOICE_MS) <= 200,
            "{who} heard {said} ms of {VOICE_MS}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn phones_talk_over_udp() {
    talk(Transport::Udp, Transport::Udp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_on_tcp_talks_to_one_on_udp() {
    talk(Transport::Tcp, Transport::Udp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_reaches_the_voicemail_of_one_that_is_off() {
    let service = Service::with(|config| {
        config.sip.listen = vec!["tls://127.0.0.1:0".parse().unwrap()];
    })
    .await;
    let inbox = service.subscriber(BJARNE).await;
    let authority = service.dir.path().join("cert.pem");
    let core = Core::with(|config, _| config.tls_ca = Some(authority)).await;
    let port = service.sip(Transport::Tls).port();
    core.add(
        BJARNE,
        &format!("sips:localhost:{port}"),
        RouteType::Fallback,
    )
    .await;
    let call = move || {
        let mut anna =
            Baresip::register(&core, ANNA, Transport::Udp, VOICE_HZ, UNTIL_THE_VOICE_MS)?;
        anna.tell(&format!("/dial {}\n", core.uri(BJARNE, Transport::Udp)));
        anna.until("end of file)");
        anna.tell("/hangup\n");
        anna.until("terminated (duration");
        Some(anna.heard())
    };
    let Some(heard) = tokio::task::spawn_blocking(call).await.unwrap() else {
        return;
    };
    let greeting = tone_ms(&heard, GREETING_HZ);
    assert!(
        greeting.abs_diff(GREETING_MS) <= 60,
        "heard {greeting} ms of the greeting"
    );
    let message = inbox.wait_for_messages(1).await.remove(0);
    assert_eq!(message["from"], ANNA);
    assert_eq!(message["to"], BJARNE);
    assert_eq!(message["reason"], "unreachable");
    inbox.assert_voice(&message, VOICE_MS, 60).await;
    service.stop().await;
}
