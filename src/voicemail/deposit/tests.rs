use std::io::Write;

use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use super::*;
use crate::domain::{
    AudioFormat, Caller, DivertReason, MessageId, Msisdn, Private, RecordingEnd, SetupTimes,
    SubscriberId, Timestamp,
};
use crate::media::audio::{Codec, Law};
use crate::media::recording::{Record, What};
use crate::storage::sqlite::SqliteStorage;
use crate::storage::{MessageFilter, NewSubscriber};

const BEGAN: Timestamp = Timestamp::from_millis(1_795_403_093_120);
/// In ticks.
const SECOND: u64 = 48_000;

/// What a caller said for so many ticks, as it is recorded.
fn said(ticks: u64) -> Chunk {
    let mut bytes = Vec::new();
    for at in (0..ticks).step_by(960) {
        let what = What::Audio(Codec::Pcma, &[7; 160]);
        Record { at, lost: 0, what }.write(&mut bytes);
    }
    Chunk { bytes, ticks }
}

/// The parts that outlive a crash: the disk and the database.
struct Machine {
    dir: TempDir,
    storage: Arc<SqliteStorage>,
    blobs: Arc<Blobs>,
    subscriber: SubscriberId,
}

impl Machine {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        let storage = Arc::new(SqliteStorage::open(&url).await.unwrap());
        let blobs = Arc::new(
            Blobs::open(
                &dir.path().join("recordings"),
                &dir.path().join("conversions"),
                0,
            )
            .unwrap(),
        );
        let number = Msisdn::parse("+4799990001").unwrap();
        let new = NewSubscriber {
            number: number.clone(),
            name: None,
            time_zone: "Etc/UTC".into(),
            language: "en".into(),
        };
        storage.add_subscribers(&[new], BEGAN).await.unwrap();
        let subscriber = storage
            .subscriber_by_number(&number)
            .await
            .unwrap()
            .unwrap()
            .id;
        Self {
            dir,
            storage,
            blobs,
            subscriber,
        }
    }

    fn spool_dir(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    /// The service starts. It ends, in whatever way, when what is returned is dropped.
    fn start(&self) -> Arc<Deposits> {
        let storage = Arc::clone(&self.storage) as Arc<dyn Storage>;
        let least = Duration::from_secs(1);
        let dir = SpoolDir::open(&self.spool_dir()).unwrap();
        let deposits = Deposits::open(dir, least, storage, Arc::clone(&self.blobs)).unwrap();
        let mut deposits = Arc::into_inner(deposits).unwrap();
        deposits.retry_after = Duration::from_millis(20);
        Arc::new(deposits)
    }

    fn facts(&self, chance: u8) -> SpoolFacts {
        SpoolFacts {
            id: MessageId::new(BEGAN, [chance; 10]),
            subscriber: self.subscriber,
            to: Msisdn::parse("+4799990001").unwrap(),
            caller: Caller {
                number: Some(Msisdn::parse("+4787654321").unwrap()),
                name: Some(Private("Kari".into())),
            },
            reason: DivertReason::Busy,
            received_at: BEGAN,
        }
    }

    /// A recording of two seconds, finished in the spool.
    fn finished(&self, deposits: &Deposits, chance: u8) -> FinishedSpool {
        let mut spool = deposits.dir.create(&self.facts(chance)).unwrap();
        spool.append(&said(2 * SECOND).bytes).unwrap();
        spool.finish(hung_up(2 * SECOND)).unwrap()
    }

    async fn messages(&self) -> Vec<NewMessage> {
        let filter = MessageFilter {
            limit: 100,
            ..MessageFilter::default()
        };
        let found = self
            .storage
            .messages(self.subscriber, filter)
            .await
            .unwrap();
        found.into_iter().map(|message| message.facts).collect()
    }

    async fn missed_calls(&self) -> Vec<MissedCall> {
        self.storage
            .missed_calls(self.subscriber, None, 100)
            .await
            .unwrap()
    }

    /// Does something to the database behind the service's back.
    async fn sabotage(&self, sql: &'static str) {
        let options = sqlx::sqlite::SqliteConnectOptions::new();
        let options = options.filename(self.dir.path().join("test.db"));
        let mut connection = options.connect().await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Exactly one message, whole, and nothing left in the spool.
    async fn assert_one_whole_message(&self, deposits: &Deposits) {
        let [message] = &self.messages().await[..] else {
            panic!("one message")
        };
        assert_eq!(message.audio.duration_ms(), 2000);
        let wav = self
            .blobs
            .get(&Blobs::recording_key(message.id, message.audio.format))
            .await
            .unwrap();
        assert_eq!(wav.len() as u64, message.audio.stored_bytes);
        assert_eq!(
            crate::media::audio::read_wav(&wav).unwrap(),
            [Law::A.sample(7); 2 * 8_000]
        );
        assert_eq!(self.storage.notifications_due(10).await.unwrap().len(), 1);
        assert_eq!(deposits.waiting(), 0);
        self.assert_empty_spool();
    }

    fn assert_empty_spool(&self) {
        for entry in std::fs::read_dir(self.spool_dir()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().len(), 0, "{entry:?}");
        }
    }
}

fn hung_up(ticks: u64) -> SpoolEnd {
    SpoolEnd {
        ended_by: RecordingEnd::HangUp,
        ticks,
        missed: None,
        failed_stage: None,
        setup: SetupTimes::default(),
    }
}

/// How far a deposit came before the crash.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Done {
    Finished,
    HalfTheFile,
    WholeFile,
    Blob,
    Row,
    Released,
}

#[tokio::test]
async fn a_crash_after_any_step_neither_loses_nor_doubles_the_message() {
    use Done::{Blob, Finished, HalfTheFile, Released, Row, WholeFile};
    for crash_after in [Finished, HalfTheFile, WholeFile, Blob, Row, Released] {
        let machine = Machine::new().await;
        let before = machine.start();
        let finished = machine.finished(&before, 1);
        let id = finished.facts.id;
        // A crash takes nothing back that was written.
        let mut staged = std::mem::ManuallyDrop::new(machine.blobs.stage(id).unwrap());
        if crash_after == HalfTheFile {
            staged.write_all(b"RIFF....WAVE").unwrap();
        }
        if crash_after >= WholeFile {
            finished.write_original(&mut *staged).unwrap();
        }
        if crash_after >= Blob {
            let staged = std::mem::ManuallyDrop::into_inner(staged);
            machine
                .blobs
                .keep(staged, id, AudioFormat::WavPcma)
                .unwrap();
        }
        if crash_after >= Row {
            assert_eq!(before.keep_message(&finished).await.unwrap(), Kept::Message);
        }
        if crash_after >= Released {
            before.dir.release(&finished).unwrap();
        }
        drop(before);

        let after = machine.start();
        let left = usize::from(crash_after < Released);
        assert_eq!(after.waiting(), left, "{crash_after:?}");
        after.try_all().await;
        machine.assert_one_whole_message(&after).await;
        drop(after);
        let again = machine.start();
        again.try_all().await;
        machine.assert_one_whole_message(&again).await;
    }
}

#[tokio::test]
async fn what_a_loss_of_power_left_in_the_spool_takes_nothing_from_the_message() {
    for left in [SECOND, SECOND / 2, 0] {
        let machine = Machine::new().await;
        let before = machine.start();
        let finished = machine.finished(&before, 1);
        before.keep_message(&finished).await.unwrap();
        // The file was released, but the disk has it as it was while the caller spoke.
        before.dir.release(&finished).unwrap();
        let mut earlier = before.dir.create(&machine.facts(1)).unwrap();
        earlier.append(&said(left).bytes).unwrap();
        drop(earlier);
        drop(before);

        let after = machine.start();
        assert_eq!(after.waiting(), 1);
        after.try_all().await;
        machine.assert_one_whole_message(&after).await;
        assert!(machine.missed_calls().await.is_empty());
    }
}

#[tokio::test]
async fn a_message_that_was_deleted_before_the_crash_does_not_come_back() {
    let machine = Machine::new().await;
    let before = machine.start();
    let finished = machine.finished(&before, 1);
    before.keep_message(&finished).await.unwrap();
    machine
        .storage
        .delete_message(machine.subscriber, finished.facts.id, BEGAN)
        .await
        .unwrap();
    drop(before);

    let after = machine.start();
    after.try_all().await;
    assert!(machine.messages().await.is_empty());
    machine.assert_empty_spool();
}

#[tokio::test]
async fn a_crash_in_mid_recording_leaves_a_message_that_was_interrupted() {
    let machine = Machine::new().await;
    let before = machine.start();
    let mut spool = before.dir.create(&machine.facts(1)).unwrap();
    spool.append(&said(2 * SECOND).bytes).unwrap();
    drop(spool);
    drop(before);

    let after = machine.start();
    after.try_all().await;
    machine.assert_one_whole_message(&after).await;
    let message = machine.messages().await.remove(0);
    assert_eq!(message.ended_by, RecordingEnd::Interrupted);
    assert_eq!(message.caller, machine.facts(1).caller);
}

#[tokio::test]
async fn a_crash_before_anything_was_said_leaves_a_missed_call() {
    let machine = Machine::new().await;
    let before = machine.start();
    drop(before.dir.create(&machine.facts(1)).unwrap());
    let mut short = before.dir.create(&machine.facts(2)).unwrap();
    short.append(&said(SECOND / 2).bytes).unwrap();
    drop(short);
    drop(before);

    let after = machine.start();
    after.try_all().await;
    let mut causes: Vec<_> = machine
        .missed_calls()
        .await
        .into_iter()
        .map(|c| c.cause)
        .collect();
    causes.sort();
    assert_eq!(causes, ["interrupted", "too-short"]);
    assert!(machine.messages().await.is_empty());
    machine.assert_empty_spool();
}

#[tokio::test]
async fn a_recording_waits_while_the_database_fails_and_is_deposited_once_when_it_works() {
    let machine = Machine::new().await;
    let deposits = machine.start();
    machine
        .sabotage("ALTER TABLE messages RENAME TO hidden")
        .await;
    let mut taking = deposits.begin(machine.facts(1)).await.unwrap();
    taking.append(&said(2 * SECOND)).unwrap();
    let failed = taking.deposit(hung_up(2 * SECOND)).await.unwrap_err();
    assert!(matches!(failed, DepositFailed::Storage(_)), "{failed:?}");
    assert_eq!(deposits.waiting(), 1);
    deposits.try_all().await;
    assert_eq!(deposits.waiting(), 1);

    machine
        .sabotage("ALTER TABLE hidden RENAME TO messages")
        .await;
    let stop = CancellationToken::new();
    let trying = tokio_util::task::AbortOnDropHandle::new(
        tokio_util::task::TaskTracker::new().spawn(Arc::clone(&deposits).keep_trying(stop.clone())),
    );
    let deadline = Instant::now() + Duration::from_secs(20);
    while deposits.waiting() > 0 {
        assert!(
            Instant::now() < deadline,
            "the recording is never tried again"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    trying.await.unwrap();
    machine.assert_one_whole_message(&deposits).await;
}

#[tokio::test]
async fn a_recording_that_cannot_be_stored_does_not_hold_up_the_others() {
    let machine = Machine::new().await;
    let deposits = machine.start();
    let (stuck, good) = (
        machine.finished(&deposits, 1),
        machine.finished(&deposits, 2),
    );
    // A folder of that name can be neither replaced nor removed as a file.
    let key = Blobs::recording_key(stuck.facts.id, AudioFormat::WavPcma);
    let blob = machine.dir.path().join("recordings").join(key);
    std::fs::create_dir_all(blob.with_extension("new").join("folder")).unwrap();
    let id = good.facts.id;
    drop((stuck, good, deposits));

    let deposits = machine.start();
    deposits.try_all().await;
    assert_eq!(deposits.waiting(), 1);
    let [message] = &machine.messages().await[..] else {
        panic!("one message")
    };
    assert_eq!(message.id, id);
}

#[tokio::test]
async fn a_recording_of_a_subscriber_who_has_left_goes_with_him() {
    let machine = Machine::new().await;
    let deposits = machine.start();
    let finished = machine.finished(&deposits, 1);
    machine
        .storage
        .remove_subscriber(machine.subscriber, BEGAN)
        .await
        .unwrap();
    assert_eq!(deposits.deposit(finished).await.unwrap(), Kept::Nothing);
    machine.assert_empty_spool();
    let [key] = &machine
        .storage
        .blobs_to_delete(Timestamp::MAX, 10)
        .await
        .unwrap()[..]
    else {
        panic!("its blob is to be deleted")
    };
    assert!(key.starts_with("recordings/"));
}

#[tokio::test]
async fn a_call_that_breaks_off_leaves_its_recording_to_the_next_try() {
    let machine = Machine::new().await;
    let deposits = machine.start();
    let mut taking = deposits.begin(machine.facts(1)).await.unwrap();
    taking.append(&said(2 * SECOND)).unwrap();
    drop(taking);
    assert_eq!(deposits.waiting(), 1);
    deposits.try_all().await;
    machine.assert_one_whole_message(&deposits).await;
}

#[tokio::test]
async fn recordings_that_end_together_are_all_deposited_and_their_files_used_again() {
    let machine = Machine::new().await;
    let deposits = machine.start();
    for round in 0..2 {
        let mut ended = Vec::new();
        for chance in 0..50 {
            let facts = machine.facts(50 * round + chance);
            let mut taking = deposits.begin(facts).await.unwrap();
            taking.append(&said(2 * SECOND)).unwrap();
            ended.push(taking.deposit(hung_up(2 * SECOND)));
        }
        for kept in futures_util::future::join_all(ended).await {
            assert_eq!(kept.unwrap(), Kept::Message);
        }
        machine.assert_empty_spool();
        let files = std::fs::read_dir(machine.spool_dir()).unwrap().count();
        assert_eq!(files, 50 + 1, "and the lock");
    }
    let messages = machine.messages().await;
    assert_eq!(messages.len(), 100);
    for message in messages {
        let key = Blobs::recording_key(message.id, message.audio.format);
        let size = machine.blobs.size(&key).await.unwrap();
        assert_eq!(size, message.audio.stored_bytes);
    }
}

#[tokio::test]
async fn what_is_no_recording_is_left_alone_and_waits_for_nobody() {
    let machine = Machine::new().await;
    drop(machine.start());
    let path = machine.spool_dir().join("stranger.spool");
    std::fs::write(&path, b"hello").unwrap();
    let deposits = machine.start();
    deposits.try_all().await;
    assert_eq!(deposits.waiting(), 0);
    assert!(path.exists());
}
