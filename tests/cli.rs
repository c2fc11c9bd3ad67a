//! The real binary, as an operator uses it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use aftertone::domain::{Account, Timestamp};
use aftertone::storage::sqlite::SqliteStorage;
use aftertone::storage::{NewEnrolment, NewSubscriber, Storage};

const NUMBER: &str = "+4799990001";
/// A start or a stop takes no longer than this on a slow machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// A folder with a database of its own, in which commands run.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aftertone"));
        command.args(arguments).current_dir(self.path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AFTERTONE_") {
                command.env_remove(name);
            }
        }
        command.env_remove("RUST_LOG");
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().unwrap())
    }
}

/// How a command ended.
struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// Standard output of a command that did what it was asked.
    #[track_caller]
    fn done(self) -> String {
        assert_eq!(self.status, 0, "{}", self.stderr);
        self.stdout
    }

    /// Standard error of a command that failed.
    #[track_caller]
    fn failed(self) -> String {
        assert_eq!(self.status, 1, "{}{}", self.stdout, self.stderr);
        assert!(!self.stderr.is_empty() || !self.stdout.is_empty());
        self.stderr
    }
}

#[test]
fn help_lists_every_command_and_each_has_examples() {
    let place = Place::new();
    let help = place.run(&["--help"]).done();
    for command in ["serve", "call", "subscribers", "tokens", "check"] {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command} is missing in\n{help}"
        );
    }
    for command in [
        &["serve"][..],
        &["call"],
        &["check"],
        &["subscribers", "add"],
        &["subscribers", "list"],
        &["subscribers", "remove"],
        &["tokens", "create"],
        &["tokens", "list"],
        &["tokens", "revoke"],
    ] {
        let help = place.run(&[command, &["--help"]].concat()).done();
        let example = format!("aftertone {}", command.join(" "));
        assert!(
            help.contains("Examples:") && help.contains(&example),
            "{command:?}\n{help}"
        );
    }
}

#[test]
fn wrong_usage_has_status_two() {
    let place = Place::new();
    for arguments in [
        &[][..],
        &["dance"],
        &["subscribers", "add"],
        &["subscribers", "add", "99990001"],
        &["subscribers", "add", NUMBER, "--tz", "Moon/Base"],
        &["subscribers", "add", NUMBER, "--language", "x y"],
        &["subscribers", "add", NUMBER, "--name", "two\nlines"],
        &["tokens", "create", NUMBER, "--name", "two\nlines"],
        &["tokens", "revoke", "not-an-id"],
        &["tokens", "create", NUMBER, "--days", "0"],
        &["call", "http://127.0.0.1"],
    ] {
        assert_eq!(place.run(arguments).status, 2, "{arguments:?}");
    }
}

#[test]
fn subscribers_are_added_listed_and_removed() {
    let place = Place::new();
    let added = place.run(&[
        "subscribers",
        "add",
        NUMBER,
        "--name",
        "Kari",
        "--tz",
        "Europe/Oslo",
    ]);
    assert_eq!(added.done(), "Added 1 subscriber\n");
    let again = place.run(&["subscribers", "add", NUMBER]).done();
    assert_eq!(again, "Added 0 subscribers; 1 there already\n");

    let list = place.run(&["subscribers", "list", "--json"]).done();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["number"], NUMBER);
    assert_eq!(list[0]["name"], "Kari");
    assert_eq!(list[0]["time_zone"], "Europe/Oslo");

    place.run(&["subscribers", "remove", NUMBER]).done();
    assert_eq!(place.run(&["subscribers", "list"]).done(), "");
    let gone = place.run(&["subscribers", "remove", NUMBER]).failed();
    assert!(
        gone.contains(NUMBER) && gone.contains("is no subscriber"),
        "{gone}"
    );
}

#[test]
fn who_is_removed_with_a_time_of_grace_is_erased_after_it_or_on_demand() {
    let place = Place::new();
    place.write("aftertone.toml", "[enrolment]\nerase_after_hours = 24\n");
    place.run(&["subscribers", "add", NUMBER]).done();
    let removed = place.run(&["subscribers", "remove", NUMBER]).done();
    let (_, erased_at) = removed.split_once("; the data are erased at ").unwrap();
    assert_eq!(place.run(&["subscribers", "list"]).done(), "");
    let again = place.run(&["subscribers", "remove", NUMBER]).failed();
    assert!(
        again.contains("has left already") && again.contains(erased_at.trim()),
        "{again}"
    );

    // The number is free for another, whom the erasure does not touch.
    place.run(&["subscribers", "add", NUMBER]).done();
    place
        .run(&["subscribers", "remove", NUMBER, "--now"])
        .done();
    let erased = place
        .run(&["subscribers", "remove", NUMBER, "--now"])
        .done();
    assert_eq!(erased, format!("Erased what was left of {NUMBER}\n"));
    let gone = place
        .run(&["subscribers", "remove", NUMBER, "--now"])
        .failed();
    assert!(gone.contains("is no subscriber"), "{gone}");
}

#[test]
fn a_file_of_numbers_is_added_as_a_whole_or_not_at_all() {
    let place = Place::new();
    let many: String = (0..12_000).map(|n| format!("+4790{n:06}\n")).collect();
    place.write("good.txt", &many);
    place.write("bad.txt", &format!("{many}not a number\n"));

    let bad = place
        .run(&["subscribers", "add", "--from-file", "bad.txt"])
        .failed();
    assert!(
        bad.contains("bad.txt line 12001") && bad.contains("Nobody was added"),
        "{bad}"
    );
    assert_eq!(place.run(&["subscribers", "list"]).done(), "");

    let good = place
        .run(&["subscribers", "add", "--from-file", "good.txt"])
        .done();
    assert_eq!(good, "Added 12000 subscribers\n");
    assert_eq!(
        place.run(&["subscribers", "list"]).done().lines().count(),
        12_000
    );

    place.write("mixed.txt", "x\n+4790000000\n+4791000000 # new\n");
    let mixed = place
        .run(&[
            "subscribers",
            "add",
            "--from-file",
            "mixed.txt",
            "--skip-bad",
        ])
        .done();
    assert_eq!(mixed, "Added 1 subscriber; 1 there already\n");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let place = Place::new();
    let many: String = (0..5_000).map(|n| format!("+4790{n:06}\n")).collect();
    place.write("many.txt", &many);
    place
        .run(&["subscribers", "add", "--from-file", "many.txt"])
        .done();

    let mut list = place.command(&["subscribers", "list"]);
    let mut list = list
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::with_capacity(64, list.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert!(first.starts_with("+4790000000"), "{first}");
    let ran = Ran::from(list.wait_with_output().unwrap());
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
}

#[test]
fn a_token_is_printed_alone_once_and_can_be_revoked() {
    let place = Place::new();
    let nobody = place.run(&["tokens", "create", NUMBER]).failed();
    assert!(nobody.contains("aftertone subscribers add"), "{nobody}");
    place.run(&["subscribers", "add", NUMBER]).done();

    let token = place
        .run(&[
            "tokens", "create", NUMBER, "--name", "backup", "--days", "9",
        ])
        .done();
    let secret = token.strip_suffix('\n').unwrap();
    assert!(
        secret.len() > 40 && !secret.contains(char::is_whitespace),
        "{token}"
    );

    let list = place.run(&["tokens", "list", NUMBER, "--json"]).done();
    assert!(!list.contains(secret), "a list never shows the secret");
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list[0]["name"], "backup");
    let id = list[0]["id"].as_str().unwrap();
    place.run(&["tokens", "revoke", id]).done();
    assert_eq!(place.run(&["tokens", "list", NUMBER]).done(), "");
    assert!(place.run(&["tokens", "revoke", id]).failed().contains(id));
}

#[test]
fn a_call_that_fails_says_why_on_standard_error() {
    let place = Place::new();
    // A port that was free a moment ago: nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("sip:+4799990001@{}", nobody.local_addr().unwrap());
    drop(nobody);
    let failed = place.run(&["call", &target, "--transport", "tcp"]).failed();
    assert!(failed.contains("was not completed"), "{failed}");
    assert!(failed.contains("cannot be reached"), "{failed}");
}

#[test]
fn a_setting_that_does_not_exist_is_named_with_file_line_and_what_was_meant() {
    let place = Place::new();
    place.write("aftertone.toml", "[sip]\nmax_cals = 3\n");
    for command in [&["serve"][..], &["check"], &["subscribers", "list"]] {
        assert_eq!(
            place.run(command).failed(),
            "aftertone: sip.max_cals (aftertone.toml line 2): there is no such setting; did you mean max_calls?\n"
        );
    }
    let other = place.run(&["check", "--config", "other.toml"]).failed();
    assert!(other.contains("\"other.toml\" cannot be read"), "{other}");
}

#[test]
fn check_notices_that_the_key_of_the_tokens_is_lost() {
    let place = Place::new();
    let oauth = "[oauth]\nissuer = \"http://127.0.0.1:1\"\nclient_id = \"us\"\n";
    place.write("aftertone.toml", oauth);
    let check = || place.run(&["check"]).stdout;
    assert!(check().contains("token.key will be made at the first start"));

    let signs_in = NewEnrolment {
        account: Account {
            issuer: "http://127.0.0.1:1".into(),
            subject: "kari".into(),
        },
        subscriber: NewSubscriber {
            number: NUMBER.parse().unwrap(),
            name: None,
            time_zone: "Etc/UTC".into(),
            language: "en".into(),
        },
        sip_uri: None,
        erase_displaced_at: Timestamp::MAX,
    };
    let enrol = async {
        let url = format!(
            "sqlite://{}",
            place.path().join("data/aftertone.db").display()
        );
        let storage = SqliteStorage::open(&url).await.unwrap();
        let seal = |_| b"KEY1 sealed".to_vec();
        let now = Timestamp::from_millis(0);
        storage.enrol(&signs_in, &seal, now).await.unwrap();
        storage.close().await;
    };
    tokio::runtime::Runtime::new().unwrap().block_on(enrol);
    let said = check();
    assert!(
        said.contains("sealed with a key that is not here"),
        "{said}"
    );
    assert!(
        !place.path().join("data/token.key").exists(),
        "a check makes nothing"
    );
}

#[test]
fn check_says_what_is_wrong_and_how_to_mend_it() {
    let place = Place::new();
    let other_program = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other_program.local_addr().unwrap();
    let rest = Ports::free().settings_without_http();
    place.write(
        "aftertone.toml",
        &format!("{rest}[greeting]\nfile = \"missing.wav\"\n[http]\nlisten = \"{taken}\"\n"),
    );
    let ran = place.run(&["check"]);
    assert_eq!(ran.status, 1, "{}", ran.stdout);
    let fails: Vec<_> = ran
        .stdout
        .lines()
        .filter(|line| line.starts_with("FAIL"))
        .collect();
    assert_eq!(fails.len(), 2, "{}", ran.stdout);
    assert!(
        fails[0].contains("http.listen") && fails[0].contains("another program"),
        "{fails:?}"
    );
    assert!(
        fails[1].contains("greeting.file") && fails[1].contains("missing.wav"),
        "{fails:?}"
    );
    assert!(
        ran.stdout.ends_with("2 things are wrong.\n"),
        "{}",
        ran.stdout
    );
    assert!(
        !place.path().join("data").exists(),
        "a check leaves nothing behind"
    );
}

#[test]
fn an_empty_configuration_serves_and_stops_at_a_signal() {
    let place = Place::new();
    let ports = Ports::free();
    place.write("aftertone.toml", &ports.settings());
    place.run(&["subscribers", "add", NUMBER]).done();
    let checked = place.run(&["check"]);
    assert_eq!(checked.status, 0, "{}", checked.stdout);

    let service = Service::start(&place);
    assert!(get(ports.admin, "/healthz").contains("200"));
    assert!(get(ports.admin, "/metrics").contains("aftertone_build_info"));
    // The commands work beside the running service, which knows the new token at once.
    let checked = place.run(&["check"]);
    assert_eq!(checked.status, 0, "{}", checked.stdout);
    assert!(
        checked.stdout.contains("by the service that runs"),
        "{}",
        checked.stdout
    );
    let token = place.run(&["tokens", "create", NUMBER]).done();
    let me = request(
        ports.http,
        "/api/v1/me",
        &format!("Authorization: Bearer {}", token.trim()),
    );
    assert!(me.contains(NUMBER), "{me}");

    assert_eq!(service.stop(), Some(0));
}

/// Ports that were free a moment ago.
struct Ports {
    sip: u16,
    http: SocketAddr,
    admin: SocketAddr,
}

impl Ports {
    fn free() -> Self {
        let sip = UdpSocket::bind("127.0.0.1:0").unwrap();
        let http = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            sip: sip.local_addr().unwrap().port(),
            http: http.local_addr().unwrap(),
            admin: admin.local_addr().unwrap(),
        }
    }

    fn settings_without_http(&self) -> String {
        format!(
            "[sip]\nlisten = [\"udp://127.0.0.1:{}\"]\n[media]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"{}\"\n",
            self.sip, self.admin
        )
    }

    fn settings(&self) -> String {
        format!(
            "{}[http]\nlisten = \"{}\"\n",
            self.settings_without_http(),
            self.http
        )
    }
}

/// `aftertone serve`, ended with the test.
struct Service {
    child: Child,
    /// Lines of its standard output.
    said: mpsc::Receiver<String>,
}

impl Service {
    /// Starts it and waits until it says that it is ready. Nobody reads its log, which must not
    /// keep it from its work.
    fn start(place: &Place) -> Self {
        let mut command = place.command(&["serve"]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stderr.take());
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let service = Self { child, said };
        // The last of the lines that say where it listens.
        while !service
            .said
            .recv_timeout(DEADLINE)
            .expect("it starts")
            .starts_with("admin")
        {}
        service
    }

    /// Asks it to stop, and waits for its exit status.
    fn stop(mut self) -> Option<i32> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        // Its standard output ends with it.
        loop {
            match self.said.recv_timeout(DEADLINE) {
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return self.child.wait().unwrap().code();
                }
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the service does not stop"),
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn get(addr: SocketAddr, path: &str) -> String {
    request(addr, path, "Accept: */*")
}

fn request(addr: SocketAddr, path: &str, header: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
