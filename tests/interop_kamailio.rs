//! Kamailio, a SIP server that others wrote, as the core: it sends us the calls that baresip, a
//! telephone that others wrote, does not take.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aftertone::media::audio::Tone;
use aftertone::sip::Transport;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use support::softphone::Softphone;
use support::{GREETING_MS, NUMBER, Service, VOICE_HZ, peers, tone_ms};

const CALLER: &str = "+4787654321";

/// A core that runs until it is forgotten.
struct Kamailio {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Kamailio {
    /// `options` choose how it tells why a call is diverted. `None`: it is not installed.
    fn start(service: &Service, options: &[&str]) -> Option<Self> {
        let program = find()?;
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago; nobody else here takes ports by number.
        let address = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let config = include_str!("peers/kamailio/kamailio.cfg")
            .replace("{port}", &address.port().to_string())
            .replace("{voicemail}", &service.sip(Transport::Udp).to_string())
            .replace("{modules}", modules().to_str().unwrap());
        let file = dir.path().join("kamailio.cfg");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(program);
        command
            .arg("-DD")
            .arg("-E")
            .arg("-f")
            .arg(&file)
            .args(options);
        command.arg("-w").arg(dir.path()).arg("-Y").arg(dir.path());
        // It makes processes of its own; they end with the group.
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Some(Self {
            child: command.spawn().unwrap(),
            address,
            _dir: dir,
        })
    }

    /// A telephone of this number, registered.
    fn phone(&self, service: &Service, number: &str, says: &[i16]) -> Option<Softphone> {
        let account = format!("<sip:{number}@{};transport=udp>;regint=60", self.address);
        let ca = service.dir.path().join("cert.pem");
        let phone = Softphone::start(&account, says, &ca, None)?;
        phone.wait_for("200 OK");
        Some(phone)
    }
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        kill_process(group, Signal::TERM).ok();
        let mut looks = 0;
        while looks < 500 && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
            looks += 1;
        }
        kill_process_group(group, Signal::KILL).ok();
        drop(self.child.wait());
    }
}

/// Debian has it where only root looks.
fn find() -> Option<PathBuf> {
    let of_debian = Path::new("/usr/sbin/kamailio");
    if of_debian.is_file() {
        return Some(of_debian.into());
    }
    peers::find("kamailio")
}

fn modules() -> PathBuf {
    let dirs = std::fs::read_dir("/usr/lib").unwrap();
    let mut dirs = dirs.map(|dir| dir.unwrap().path().join("kamailio/modules"));
    let multiarch = dirs.find(|dir| dir.is_dir());
    multiarch.unwrap_or_else(|| "/usr/lib64/kamailio/modules".into())
}

/// Three calls, each not taken in another way; each leaves a message that says so.
async fn leaves_messages(options: &[&str]) {
    let service = Service::start().await;
    let inbox = service.subscriber(NUMBER).await;
    let Some(core) = Kamailio::start(&service, options) else {
        return;
    };
    let voice = [
        vec![0; 8 * (GREETING_MS + 500)],
        Tone::new(VOICE_HZ, 0.3).take_ms(2000),
        vec![0; 8 * 200],
    ];
    let Some(mut caller) = core.phone(&service, CALLER, &voice.concat()) else {
        return;
    };
    let mut count = 0;
    let mut leaves = async |caller: &mut Softphone, reason: &str| {
        caller.wait_for("end of file)");
        caller.press("/hangup\n");
        count += 1;
        let message = inbox.wait_for_messages(count).await.remove(0);
        assert_eq!(message["reason"], reason, "{message}");
        assert_eq!(message["from"], CALLER, "{message}");
        assert_eq!(message["to"], NUMBER, "{message}");
        let said = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
        assert!(
            said.abs_diff(2000) <= 40,
            "{said} ms of 2000 are in the message"
        );
        caller.wait_for("terminated (duration");
    };
    let dial = format!("/dial sip:{NUMBER}@{}\n", core.address);

    caller.press(&dial);
    leaves(&mut caller, "unreachable").await;

    let mut called = core.phone(&service, NUMBER, &[0; 160]).unwrap();
    caller.press(&dial);
    called.wait_for("Incoming call from");
    called.press("/hangup\n");
    leaves(&mut caller, "busy").await;

    caller.press(&dial);
    called.wait_for("Incoming call from");
    leaves(&mut caller, "no-answer").await;
    drop(core);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_not_taken_leave_messages_told_by_diversion() {
    leaves_messages(&["-A", "DIVERSION"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_not_taken_leave_messages_told_by_history_info() {
    leaves_messages(&[]).await;
}
