//! What only SQLite can get wrong: files, locks, steps of the schema, plans, and rows gone bad. What
//! every storage must do is told in `tests/storage_contract.rs`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Row};

use super::open::MIGRATIONS;
use super::*;
use crate::domain::{
    AudioFormat, Caller, DivertReason, Losses, Private, RecordingEnd, SetupTimes, StoredAudio,
};

const START: Timestamp = Timestamp::from_millis(1_795_403_093_120);
const SHORT: Duration = Duration::from_millis(200);

fn url_of(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

async fn opened() -> (tempfile::TempDir, PathBuf, SqliteStorage) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data/aftertone.db");
    let storage = SqliteStorage::open_waiting(&url_of(&path), SHORT)
        .await
        .unwrap();
    (dir, path, storage)
}

/// A connection such as another process has.
async fn stranger(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(SHORT)
        .connect()
        .await
        .unwrap()
}

async fn run(connection: &mut SqliteConnection, sql: &'static str) {
    sqlx::query(sql).execute(connection).await.unwrap();
}

pub(in crate::storage::sqlite) async fn add_alice(storage: &SqliteStorage) -> SubscriberId {
    let number: Msisdn = "+4711111111".parse().unwrap();
    let alice = NewSubscriber {
        number: number.clone(),
        name: None,
        time_zone: "Etc/UTC".into(),
        language: "en".into(),
    };
    storage.add_subscribers(&[alice], START).await.unwrap();
    storage
        .subscriber_by_number(&number)
        .await
        .unwrap()
        .unwrap()
        .id
}

fn message(subscriber: SubscriberId, n: u8) -> NewMessage {
    NewMessage {
        id: MessageId::new(START, [n; 10]),
        subscriber,
        to: "+4711111111".parse().unwrap(),
        caller: Caller::default(),
        reason: DivertReason::Busy,
        received_at: START,
        audio: StoredAudio {
            format: AudioFormat::WavPcm,
            codec: None,
            sample_rate: 8000,
            samples: 8000,
            stored_bytes: 16_044,
            sha256: [0; 32],
            losses: Losses::default(),
        },
        ended_by: RecordingEnd::Limit,
        setup: SetupTimes::default(),
    }
}

async fn count_of(storage: &SqliteStorage, subscriber: SubscriberId) -> u32 {
    storage.counts(subscriber).await.unwrap().messages
}

/// Whether any of the database's files holds `text`.
fn is_in_files(path: &Path, text: &str) -> bool {
    let folder = std::fs::read_dir(path.parent().unwrap()).unwrap();
    folder
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .any(|bytes| {
            bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        })
}

#[tokio::test]
async fn after_a_sweep_nothing_is_left_in_the_files_of_who_has_left() {
    let (_dir, path, storage) = opened().await;
    let alice = add_alice(&storage).await;
    storage.deposit(&message(alice, 1)).await.unwrap();
    let sweep = async || storage.expire(START, START, 10).await.unwrap();
    sweep().await;
    assert!(is_in_files(&path, "+4711111111"));

    storage.remove_subscriber(alice, START).await.unwrap();
    // Somebody who reads is not waited for, and does not make the sweep fail.
    let mut reader = stranger(&path).await;
    run(&mut reader, "BEGIN").await;
    run(&mut reader, "SELECT * FROM subscribers").await;
    sweep().await;
    run(&mut reader, "COMMIT").await;
    sweep().await;
    assert!(!is_in_files(&path, "+4711111111"));
    add_alice(&storage).await;
}

#[tokio::test]
async fn the_files_are_for_this_user_only() {
    let (_dir, path, storage) = opened().await;
    storage.ping().await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&path.with_extension("db-wal")), 0o600);
}

#[tokio::test]
async fn what_cannot_be_opened_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), vec![b'x'; 5000]).unwrap();
    let refused = async |url: String| SqliteStorage::open(&url).await.unwrap_err();
    for url in [
        "postgres://host/db",
        "sqlite::memory:",
        "sqlite://",
        "sqlite://x?mode=memory",
        "",
    ] {
        let error = refused(url.into()).await;
        assert!(
            matches!(&error, OpenError::NotAFile(said) if said == url),
            "{error}"
        );
    }
    let error = refused(url_of(&dir.path().join("file/below"))).await;
    assert!(
        matches!(&error, OpenError::File { path, .. } if path.ends_with("file")),
        "{error}"
    );
    let error = refused(url_of(dir.path())).await;
    assert!(
        matches!(&error, OpenError::File { path, .. } if path == dir.path()),
        "{error}"
    );
    let error = refused(url_of(&dir.path().join("file"))).await;
    assert!(
        matches!(&error, OpenError::Database { path, .. } if path.ends_with("file")),
        "{error}"
    );
}

#[test]
fn every_file_of_the_schema_is_compiled_in() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".sql"))
        .collect();
    files.sort();
    let steps: Vec<_> = MIGRATIONS
        .iter()
        .map(|(step, name, _)| format!("{step:04}_{name}.sql"))
        .collect();
    assert_eq!(files, steps);
}

#[tokio::test]
async fn the_steps_of_the_schema_are_recorded_and_applied_once() {
    let (_dir, path, storage) = opened().await;
    let alice = add_alice(&storage).await;
    storage.close().await;
    let storage = SqliteStorage::open(&url_of(&path)).await.unwrap();
    assert!(storage.subscriber(alice).await.unwrap().is_some());

    let mut stranger = stranger(&path).await;
    let steps: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version")
            .fetch_all(&mut stranger)
            .await
            .unwrap();
    assert_eq!(
        steps,
        MIGRATIONS.iter().map(|step| step.0).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let (_dir, path, storage) = opened().await;
    storage.close().await;
    let mut stranger = stranger(&path).await;
    run(
        &mut stranger,
        "INSERT INTO _sqlx_migrations VALUES (9999, 'x', 0, TRUE, x'00', 0)",
    )
    .await;
    let error = SqliteStorage::open(&url_of(&path)).await.unwrap_err();
    assert!(
        matches!(&error, OpenError::Newer { step: 9999, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("aftertone.db"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_may_open_a_new_file_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let url = url_of(&dir.path().join("aftertone.db"));
    let openings = (0..8).map(|_| {
        let url = url.clone();
        tokio::task::spawn_blocking(move || {
            tokio::runtime::Handle::current().block_on(async move {
                let storage = SqliteStorage::open(&url).await.unwrap();
                storage.ping().await.unwrap();
            });
        })
    });
    for opening in futures_util::future::join_all(openings).await {
        opening.unwrap();
    }
}

#[tokio::test]
async fn a_lock_that_another_process_holds_is_waited_for_and_then_reported() {
    let (_dir, path, storage) = opened().await;
    let alice = add_alice(&storage).await;
    let mut stranger = stranger(&path).await;
    run(&mut stranger, "BEGIN IMMEDIATE").await;

    // Several wait; all are told within the deadline, and reading goes on meanwhile.
    let message = message(alice, 1);
    let (first, second, count) = tokio::join!(
        storage.deposit(&message),
        storage.ping(),
        count_of(&storage, alice)
    );
    assert!(matches!(first, Err(DepositError::Storage(error)) if error.is_transient()));
    assert!(second.unwrap_err().is_transient());
    assert_eq!(count, 0);

    run(&mut stranger, "COMMIT").await;
    assert_eq!(storage.deposit(&message).await.unwrap(), Deposited::Stored);
}

#[tokio::test]
async fn a_lock_that_is_let_go_in_time_is_not_noticed() {
    let (_dir, path, storage) = opened().await;
    let mut stranger = stranger(&path).await;
    run(&mut stranger, "BEGIN IMMEDIATE").await;
    let (alice, ()) = tokio::join!(add_alice(&storage), run(&mut stranger, "COMMIT"));
    assert_eq!(count_of(&storage, alice).await, 0);
}

#[tokio::test]
async fn a_full_disk_stores_nothing_by_halves_and_is_got_over() {
    let (_dir, _path, storage) = opened().await;
    let alice = add_alice(&storage).await;
    // The limit holds for this connection: it stands for a disk without room for another page.
    let mut transaction = storage.writer.begin().await.unwrap();
    run(&mut transaction.connection, "PRAGMA max_page_count = 1").await;
    transaction.commit().await.unwrap();

    let long_name = Caller {
        number: None,
        name: Some(Private("x".repeat(20_000))),
    };
    let big = NewMessage {
        caller: long_name,
        ..message(alice, 1)
    };
    let refused = storage.deposit(&big).await.unwrap_err();
    let DepositError::Storage(refused) = refused else {
        panic!("{refused}")
    };
    assert!(refused.is_transient(), "{refused:?}");
    assert_eq!(count_of(&storage, alice).await, 0);
    assert!(storage.notifications_due(10).await.unwrap().is_empty());

    // There is room again: nothing of the failed transaction is in the way.
    assert_eq!(storage.deposit(&big).await.unwrap(), Deposited::Stored);
    assert_eq!(storage.notifications_due(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_nothing_half_written() {
    let (_dir, _path, storage) = opened().await;
    let alice = add_alice(&storage).await;
    {
        let mut transaction = storage.writer.begin().await.unwrap();
        mailbox::deposit(&mut transaction.connection, &message(alice, 1))
            .await
            .unwrap();
    }
    assert_eq!(count_of(&storage, alice).await, 0);
    // At whatever point it is dropped, the next one finds the way free.
    for steps in 1..20 {
        let message = message(alice, 2);
        let mut deposit = Box::pin(storage.deposit(&message));
        for _ in 0..steps {
            if futures_util::poll!(&mut deposit).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    storage.deposit(&message(alice, 3)).await.unwrap();
    storage.deposit(&message(alice, 2)).await.unwrap();
    assert_eq!(count_of(&storage, alice).await, 2);
    assert_eq!(storage.notifications_due(10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn deposits_that_fail_together_are_stored_one_by_one() {
    let (_dir, _path, storage) = opened().await;
    let alice = add_alice(&storage).await;
    let mut transaction = storage.writer.begin().await.unwrap();
    run(&mut transaction.connection, "PRAGMA max_page_count = 1").await;
    let big = NewMessage {
        caller: Caller {
            number: None,
            name: Some(Private("x".repeat(20_000))),
        },
        ..message(alice, 1)
    };
    let small = message(alice, 2);
    // Both wait for the writer, and so go together; the connection that has no room goes with them.
    let (big, small, ()) = tokio::join!(storage.deposit(&big), storage.deposit(&small), async {
        transaction.commit().await.unwrap();
    });
    assert_eq!(big.unwrap(), Deposited::Stored);
    assert_eq!(small.unwrap(), Deposited::Stored);
    assert_eq!(count_of(&storage, alice).await, 2);
    assert_eq!(storage.notifications_due(10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn who_goes_away_in_mid_deposit_takes_nobody_along() {
    let (_dir, _path, storage) = opened().await;
    let alice = add_alice(&storage).await;
    for steps in 1..12 {
        let messages: Vec<_> = (0..4).map(|n| message(alice, 4 * steps + n)).collect();
        let gone = &messages[0];
        let mut deposit = Box::pin(storage.deposit(gone));
        let others = messages[1..].iter().map(|message| storage.deposit(message));
        let mut others = Box::pin(futures_util::future::join_all(others));
        for _ in 0..steps {
            assert!(futures_util::poll!(&mut others).is_pending());
            if futures_util::poll!(&mut deposit).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(deposit);
        for stored in others.await {
            assert_eq!(stored.unwrap(), Deposited::Stored);
        }
    }
    let stored = count_of(&storage, alice).await;
    assert!((33..=44).contains(&stored), "{stored}");
    assert_eq!(
        storage.notifications_due(50).await.unwrap().len() as u32,
        stored
    );
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_kill() {
    let (dir, path, storage) = opened().await;
    let alice = add_alice(&storage).await;
    storage.deposit(&message(alice, 1)).await.unwrap();
    let mut unfinished = storage.writer.begin().await.unwrap();
    mailbox::deposit(&mut unfinished.connection, &message(alice, 2))
        .await
        .unwrap();

    // The files as they lie there now are what a killed process leaves.
    let copy = dir.path().join("copy.db");
    for suffix in ["db", "db-wal"] {
        std::fs::copy(path.with_extension(suffix), copy.with_extension(suffix)).unwrap();
    }
    let reopened = SqliteStorage::open(&url_of(&copy)).await.unwrap();
    assert!(
        reopened
            .message(alice, message(alice, 1).id)
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(count_of(&reopened, alice).await, 1);
    assert_eq!(reopened.notifications_due(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_row_gone_bad_is_named_and_the_others_stay_readable() {
    let (_dir, path, storage) = opened().await;
    let alice = add_alice(&storage).await;
    let (good, bad) = (message(alice, 1), message(alice, 2));
    for message in [&good, &bad] {
        storage.deposit(message).await.unwrap();
    }
    let mut stranger = stranger(&path).await;
    // From what is read last to what is read first.
    for (column, spoil) in [
        (
            "ended_by",
            "UPDATE messages SET ended_by = 'magic' WHERE id = ?1",
        ),
        ("losses", "UPDATE messages SET losses = '{' WHERE id = ?1"),
        ("format", "UPDATE messages SET format = 'mp3' WHERE id = ?1"),
        ("reason", "UPDATE messages SET reason = '' WHERE id = ?1"),
        (
            "to_number",
            "UPDATE messages SET to_number = 'nobody' WHERE id = ?1",
        ),
    ] {
        let id = bad.id.as_bytes().as_slice();
        sqlx::query(spoil)
            .bind(id)
            .execute(&mut stranger)
            .await
            .unwrap();
        let error = storage.message(alice, bad.id).await.unwrap_err();
        let expected = format!("{column} of message {}", bad.id);
        assert!(
            matches!(&error, StorageError::Corrupt { what } if *what == expected),
            "{error}"
        );
        assert!(!error.is_transient());
    }
    assert!(storage.message(alice, good.id).await.unwrap().is_some());
    assert!(storage.delete_message(alice, bad.id, START).await.unwrap());
}

#[tokio::test]
async fn readers_cannot_write() {
    let (_dir, _path, storage) = opened().await;
    let refused = storage
        .read("write", async |db| outbox::probe_write(db).await)
        .await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn no_statement_reads_a_whole_table() {
    let (_dir, path, _storage) = opened().await;
    let mut stranger = stranger(&path).await;
    let statements = [
        subscribers::MAILBOX,
        subscribers::BY_ID,
        subscribers::BY_NUMBER,
        subscribers::LIST,
        subscribers::REMOVE,
        subscribers::CHANGE,
        subscribers::GREETING,
        subscribers::SET_GREETING,
        mailbox::INSERT_MESSAGE,
        mailbox::IS_STORED,
        mailbox::WAS_DELETED,
        mailbox::HAS_SUBSCRIBER,
        mailbox::INSERT_MISSED_CALL,
        mailbox::LIST,
        mailbox::FIND,
        mailbox::RECORDING_IN_BOX,
        mailbox::MARK,
        mailbox::DELETE,
        mailbox::BURY,
        mailbox::RECORDINGS,
        mailbox::COUNTS,
        mailbox::MISSED_CALLS,
        departures::HOLDER,
        departures::INSERT,
        departures::BRING_FORWARD,
        departures::OF_SUBSCRIBER,
        departures::OF_NUMBER,
        departures::DUE,
        departures::TO_ERASE,
        departures::NOTE,
        departures::SUPERSEDE,
        departures::SUPERSEDE_AFTER,
        departures::FORGET_AFTER,
        departures::REPLACE_GRANT,
        departures::KEEP_DATA,
        departures::FORGET_OF_SUBSCRIBER,
        departures::FORGET_OF_NUMBER,
        enrolment::HOLDER_OF_ACCOUNT,
        enrolment::HOLDER_OF_NUMBER,
        enrolment::HAS_ACCOUNT,
        enrolment::BIND,
        enrolment::SET_NUMBER,
        enrolment::GRANT,
        enrolment::STORE_GRANT,
        enrolment::REPLACE_GRANT,
        enrolment::TAKE_GRANT,
        enrolment::SEAL_ANEW,
        enrolment::KEYS,
        enrolment::SEALED_BY,
        mailbox::MOVE_MESSAGES,
        mailbox::MOVE_MISSED_CALLS,
        registrations::OF,
        registrations::OF_NUMBER,
        registrations::AFTER,
        registrations::NOTE,
        registrations::LAST,
        registrations::WANT_UNREGISTERED,
        registrations::MARK_AFTER,
        registrations::INSERT,
        registrations::TAKE,
        registrations::MARK,
        sessions::INSERT,
        sessions::HOLDER,
        sessions::END,
        sessions::END_ALL,
        sessions::AWAIT_RETURN,
        sessions::TAKE_RETURN,
        tokens::INSERT,
        tokens::REVOKE_ALL,
        tokens::OF,
        tokens::REVOKE,
        tokens::HOLDER,
        tokens::NOTE_USE,
        outbox::QUEUE_NOTIFICATION,
        outbox::DONE,
        outbox::QUEUE_BLOB,
        outbox::BLOB_DELETED,
        outbox::OLD_MESSAGES,
        outbox::EXPIRE_MISSED_CALLS,
        outbox::EXPIRE_TOKENS,
        outbox::EXPIRE_SESSIONS,
        outbox::EXPIRE_RETURNS,
        outbox::EXPIRE_DELETED,
        // These read a queue from its head, in the order of the table itself.
        outbox::DUE,
        outbox::BLOBS,
    ];
    for statement in statements {
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        for row in sqlx::query(explain).fetch_all(&mut stranger).await.unwrap() {
            let step: String = row.get("detail");
            let queue = ["SCAN outbox", "SCAN blob_deletions"].contains(&step.as_str());
            let harmless = queue
                || [
                    "SCAN CONSTANT ROW",
                    "SCAN box",
                    "SCAN key",
                    "SCAN change VIRTUAL TABLE INDEX 1:",
                ]
                .contains(&step.as_str());
            let bad = step.starts_with("SCAN") && !harmless || step.contains("TEMP B-TREE");
            assert!(!bad, "{step} in {statement}");
        }
    }
}

#[tokio::test]
async fn the_settings_that_durability_rests_on_hold() {
    let (_dir, path, storage) = opened().await;
    let mut transaction = storage.writer.begin().await.unwrap();
    for (pragma, expected) in [
        ("PRAGMA synchronous", "2"),
        ("PRAGMA foreign_keys", "1"),
        ("PRAGMA journal_mode", "wal"),
    ] {
        let row = sqlx::query(pragma)
            .fetch_one(&mut transaction.connection)
            .await
            .unwrap();
        let value: String = row.try_get_unchecked(0).unwrap();
        assert_eq!(value, expected, "{pragma}");
    }
    drop(transaction);
    let strict: Vec<i64> =
        sqlx::query_scalar("SELECT strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_sqlx%' ESCAPE '\\'")
            .fetch_all(&mut stranger(&path).await)
            .await
            .unwrap();
    assert!(
        strict.len() >= 14 && strict.iter().all(|&strict| strict == 1),
        "{strict:?}"
    );
}

#[tokio::test]
async fn it_serves_as_a_shared_trait_object() {
    let (_dir, _path, storage) = opened().await;
    let storage: Arc<dyn Storage> = Arc::new(storage);
    storage.ping().await.unwrap();
}
