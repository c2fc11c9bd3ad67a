//! The database, the disk or the configuration fails: nothing that was accepted is lost, and what
//! is wrong is said in plain words.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use aftertone::caller::Happened;
use aftertone::sip::Transport;
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use support::process::{PROGRAM, Place, Program};
use support::{Call, VOICE_HZ, happened, tone_ms, voice};

/// Another program that holds the database's write lock.
async fn lock_database(place: &Place) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(place.path("data/aftertone.db"));
    let mut connection = options.connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

/// What a check of `/readyz` says is wrong.
fn complaint(report: &Value, check: &str) -> String {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|found| found["name"] == check).unwrap();
    found["error"].as_str().unwrap_or_default().to_owned()
}

fn answered(step: &Happened) -> bool {
    matches!(step, Happened::Answered { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_for_a_locked_database_and_come_by_themselves() {
    let place = Place::new("");
    let token = place.subscriber();
    let service = place.start().await;
    let inbox = service.inbox(&token);
    assert!(inbox.messages().await.is_empty());
    let mut call = Call::start(service.uri(), Transport::Udp, |_| {});
    call.until_speaking().await;
    let lock = lock_database(&place).await;
    // Mailboxes can still be looked up: who calls now is served.
    let late = Call::start(service.uri(), Transport::Udp, |plan| {
        plan.say = Some(voice(1_500));
    });
    for report in [call.report().await, late.report().await] {
        assert!(happened(&report, answered), "{:?}", report.steps);
        assert!(
            happened(&report, |step| *step == Happened::HungUp),
            "{:?}",
            report.steps
        );
    }
    // The other one may have waited for this one's turn, and tells that.
    let log = service.wait_for_log("database is locked").await;
    assert!(
        log.contains("ERROR") && log.contains("until the cause is gone"),
        "{log}"
    );
    let report = service.wait_until_ready(false).await;
    assert!(complaint(&report, "spool").contains("wait"), "{report}");
    assert!(!complaint(&report, "database").is_empty(), "{report}");
    service.wait_for_log("outcome=\"spooled\"").await;
    assert!(inbox.messages().await.is_empty());

    lock.close().await.unwrap();
    let messages = inbox.wait_for_messages(2).await;
    let lengths = [messages[0].clone(), messages[1].clone()];
    for (message, said) in lengths.iter().zip([1_500, 3_000]) {
        assert_eq!(message["ended_by"], "hang-up");
        let heard = tone_ms(&inbox.audio(message).await, VOICE_HZ);
        assert!(
            heard.abs_diff(said) <= 20,
            "{heard} ms of {said} are in the message"
        );
    }
    service.wait_until_ready(true).await;
    assert_eq!(inbox.messages().await.len(), 2);
    assert!(
        service.logged("until the cause is gone") <= 2,
        "{}",
        service.log()
    );
    assert_eq!(service.logged("The call ended"), 2, "{}", service.log());
}

/// From now on no file of the program takes another byte, or all do again.
fn set_disk_full(service: &Program, full: bool) {
    let limits = Rlimit {
        current: full.then_some(0),
        maximum: None,
    };
    prlimit(Some(service.pid()), Resource::Fsize, limits).unwrap();
}

/// The service, where a write that finds no room is an error and not the end of the process.
async fn start_with_limited_disk(place: &Place) -> Program {
    let mut command = place.command("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" serve", PROGRAM]);
    Program::start(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_calls_and_keeps_what_was_said() {
    let place = Place::new("");
    let token = place.subscriber();
    let service = start_with_limited_disk(&place).await;
    let inbox = service.inbox(&token);
    let mut call = Call::start(service.uri(), Transport::Udp, |plan| {
        plan.say = Some(voice(25_000));
    });
    call.until_speaking().await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    set_disk_full(&service, true);
    let report = call.report().await;
    assert!(
        happened(&report, |step| *step == Happened::PeerHungUp),
        "{:?}",
        report.steps
    );
    let log = service.wait_for_log("until the cause is gone").await;
    assert!(log.contains("data_dir: "), "{log}");

    let refused = Call::start(service.uri(), Transport::Udp, |_| {})
        .report()
        .await;
    let unavailable = |step: &Happened| matches!(step, Happened::Refused { status: 503, .. });
    assert!(happened(&refused, unavailable), "{:?}", refused.steps);
    assert!(!happened(&refused, answered), "{:?}", refused.steps);
    let report = service.wait_until_ready(false).await;
    assert!(
        complaint(&report, "spool").contains("1 recording waits"),
        "{report}"
    );
    assert!(
        complaint(&report, "recordings").contains("write"),
        "{report}"
    );

    set_disk_full(&service, false);
    let message = inbox.wait_for_messages(1).await.remove(0);
    let heard = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    assert!(
        (1_200..=4_000).contains(&heard),
        "{heard} ms are in the message"
    );
    service.wait_until_ready(true).await;
    assert_eq!(
        service.logged("until the cause is gone"),
        1,
        "{}",
        service.log()
    );
    let report = Call::start(service.uri(), Transport::Udp, |_| {})
        .report()
        .await;
    assert!(happened(&report, answered), "{:?}", report.steps);
    inbox.wait_for_messages(2).await;
}

/// What `serve` says when it cannot start: one line.
fn refuses_to_start(place: &Place) -> String {
    let (done, stdout, stderr) = place.run(&["serve"]);
    assert!(!done && stdout.is_empty(), "it starts:\n{stdout}{stderr}");
    let lines: Vec<_> = stderr
        .lines()
        .filter(|line| line.starts_with("aftertone: "))
        .collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    lines[0].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_on_the_same_data_is_refused_and_leaves_running_calls_alone() {
    let place = Place::new("");
    let token = place.subscriber();
    let service = place.start().await;
    let mut call = Call::start(service.uri(), Transport::Udp, |plan| {
        plan.say = Some(voice(5_000));
    });
    call.until_speaking().await;
    let said = refuses_to_start(&place);
    assert!(
        said.contains("data_dir") && said.contains("another aftertone"),
        "{said}"
    );
    call.report().await;
    let inbox = service.inbox(&token);
    let message = inbox.wait_for_messages(1).await.remove(0);
    let heard = tone_ms(&inbox.audio(&message).await, VOICE_HZ);
    assert!(
        heard.abs_diff(5_000) <= 20,
        "{heard} ms of 5000 are in the message"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named_with_its_setting() {
    let place = Place::new("");
    let service = place.start().await;
    for (setting, from, to) in [
        (
            "sip.listen",
            "udp://127.0.0.1:0".to_owned(),
            format!("udp://{}", service.sip()),
        ),
        (
            "http.listen",
            "[http]\nlisten = \"127.0.0.1:0\"".to_owned(),
            { format!("[http]\nlisten = \"{}\"", service.inbox("").api) },
        ),
    ] {
        let other = Place::new("");
        other.write_settings(|settings| {
            assert!(settings.contains(&from), "{settings}");
            settings.replace(&from, &to)
        });
        let said = refuses_to_start(&other);
        assert!(
            said.contains(setting) && said.contains("no other program"),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_dir_that_cannot_be_is_named() {
    let place = Place::new("");
    place.write("file", "not a folder");
    place.write_settings(|settings| format!("data_dir = \"file/data\"\n{settings}"));
    let said = refuses_to_start(&place);
    assert!(
        said.contains("file/data") && said.contains("Not a directory"),
        "{said}"
    );

    // The database lies elsewhere, and is not what cannot be written.
    place.write_settings(|settings| {
        format!("data_dir = \"file/data\"\ndatabase_url = \"sqlite://good.db\"\n{settings}")
    });
    let said = refuses_to_start(&place);
    assert!(said.contains("file/data"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_named_and_left_as_it_is() {
    let place = Place::new("");
    std::fs::create_dir(place.path("data")).unwrap();
    place.write("data/aftertone.db", &"This is no database. ".repeat(1000));
    let before = std::fs::read(place.path("data/aftertone.db")).unwrap();
    let said = refuses_to_start(&place);
    assert!(
        said.contains("data/aftertone.db") && said.contains("not a database"),
        "{said}"
    );
    assert_eq!(
        std::fs::read(place.path("data/aftertone.db")).unwrap(),
        before
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_cannot_be_used_is_named() {
    let place = Place::new("");
    let tls = "listen = [\"tls://127.0.0.1:0\"]\n\
               tls_certificate = \"cert.pem\"\ntls_private_key = \"key.pem\"";
    place.write_settings(|settings| settings.replace("listen = [\"udp://127.0.0.1:0\"]", tls));
    let said = refuses_to_start(&place);
    assert!(
        said.contains("tls_certificate") && said.contains("cert.pem"),
        "{said}"
    );
    place.write(
        "cert.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    place.write("key.pem", "no key");
    let said = refuses_to_start(&place);
    assert!(
        said.contains("cert.pem") || said.contains("key.pem"),
        "{said}"
    );
    // A key that belongs to another certificate.
    let names = || vec!["localhost".to_owned()];
    let certified = rcgen::generate_simple_self_signed(names()).unwrap();
    let other = rcgen::generate_simple_self_signed(names()).unwrap();
    place.write("cert.pem", &certified.cert.pem());
    place.write("key.pem", &other.signing_key.serialize_pem());
    let said = refuses_to_start(&place);
    assert!(
        said.contains("key.pem") || said.contains("tls_private_key"),
        "{said}"
    );
}
