use bytes::Bytes;

use super::*;
use crate::clock::ManualClock;
use crate::domain::{
    AudioFormat, Caller, DivertReason, Losses, MessageId, Msisdn, NewMessage, RecordingEnd,
    SetupTimes, StoredAudio,
};
use crate::storage::sqlite::SqliteStorage;
use crate::storage::{MessageFilter, NewSubscriber};

const BEGAN: Timestamp = Timestamp::from_millis(1_795_403_093_120);

struct Kept {
    dir: tempfile::TempDir,
    storage: Arc<SqliteStorage>,
    blobs: Arc<Blobs>,
    clock: ManualClock,
}

impl Kept {
    /// With a message of each of these ages, in days.
    async fn with_messages(ages: &[i64]) -> Self {
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
        for (chance, age) in ages.iter().enumerate() {
            let received_at = BEGAN.plus_millis(-age * DAY_MS);
            let id = MessageId::new(received_at, [chance as u8; 10]);
            let key = Blobs::recording_key(id, AudioFormat::WavPcm);
            blobs.put(&key, Bytes::from_static(b"RIFF")).await.unwrap();
            let message = NewMessage {
                id,
                subscriber,
                to: number.clone(),
                caller: Caller {
                    number: None,
                    name: None,
                },
                reason: DivertReason::Busy,
                received_at,
                audio: StoredAudio {
                    format: AudioFormat::WavPcm,
                    codec: None,
                    sample_rate: 8000,
                    samples: 8000,
                    stored_bytes: 4,
                    sha256: [0; 32],
                    losses: Losses::default(),
                },
                ended_by: RecordingEnd::HangUp,
                setup: SetupTimes::default(),
            };
            storage.deposit(&message).await.unwrap();
        }
        Self {
            dir,
            storage,
            blobs,
            clock: ManualClock::starting_at(BEGAN),
        }
    }

    fn retention(&self, keep_days: u32) -> Retention {
        let storage = Arc::clone(&self.storage) as Arc<dyn Storage>;
        let clock = Arc::new(self.clock.clone()) as Arc<dyn Clock>;
        Retention::new(storage, Arc::clone(&self.blobs), clock, keep_days)
    }

    async fn messages(&self) -> usize {
        let number = Msisdn::parse("+4799990001").unwrap();
        let subscriber = self
            .storage
            .subscriber_by_number(&number)
            .await
            .unwrap()
            .unwrap()
            .id;
        let filter = MessageFilter {
            limit: 100,
            ..MessageFilter::default()
        };
        self.storage
            .messages(subscriber, filter)
            .await
            .unwrap()
            .len()
    }
}

#[tokio::test]
async fn messages_go_with_their_recordings_when_their_days_are_over_and_not_before() {
    let mailbox = Kept::with_messages(&[0, 29, 31, 40]).await;
    let swept = mailbox.retention(30).sweep().await.unwrap();
    assert_eq!(swept, Swept { rows: 2, blobs: 2 });
    assert_eq!(mailbox.messages().await, 2);
    assert_eq!(
        mailbox.storage.notifications_due(10).await.unwrap().len(),
        2
    );
    assert_eq!(
        mailbox.retention(30).sweep().await.unwrap(),
        Swept::default()
    );
    mailbox.clock.advance_ms(2 * DAY_MS);
    let swept = mailbox.retention(30).sweep().await.unwrap();
    assert_eq!((swept.blobs, mailbox.messages().await), (1, 1));
}

#[tokio::test]
async fn without_a_limit_of_days_nothing_grows_old() {
    let mailbox = Kept::with_messages(&[0, 10_000]).await;
    assert_eq!(
        mailbox.retention(0).sweep().await.unwrap(),
        Swept::default()
    );
    assert_eq!(mailbox.messages().await, 2);
}

#[tokio::test]
async fn a_recording_that_cannot_be_deleted_does_not_keep_the_others() {
    let mailbox = Kept::with_messages(&[50, 40, 31]).await;
    // A folder in its place cannot be deleted as a file.
    let oldest = MessageId::new(BEGAN.plus_millis(-50 * DAY_MS), [0; 10]);
    let path = mailbox
        .dir
        .path()
        .join("recordings")
        .join(Blobs::recording_key(oldest, AudioFormat::WavPcm));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("in the way"), b"").unwrap();

    mailbox.retention(30).sweep().await.unwrap_err();
    assert_eq!(
        mailbox
            .storage
            .blobs_to_delete(Timestamp::MAX, 10)
            .await
            .unwrap()
            .len(),
        1
    );
    std::fs::remove_dir_all(&path).unwrap();
    assert_eq!(mailbox.retention(30).sweep().await.unwrap().blobs, 1);
}

#[tokio::test]
async fn a_recording_without_a_row_goes_when_its_days_are_over_and_not_before() {
    let mailbox = Kept::with_messages(&[0, 29]).await;
    for age in [29, 32] {
        let id = MessageId::new(BEGAN.plus_millis(-age * DAY_MS), [9; 10]);
        let key = Blobs::recording_key(id, AudioFormat::OggOpus);
        mailbox
            .blobs
            .put(&key, Bytes::from_static(b"OggS"))
            .await
            .unwrap();
    }
    let of_somebody_else = "recordings/2001 copies/01/a";
    let put = mailbox.blobs.put(of_somebody_else, Bytes::new());
    put.await.unwrap();
    let swept = mailbox.retention(30).sweep().await.unwrap();
    assert_eq!(swept, Swept { rows: 0, blobs: 1 });
    mailbox.clock.advance_ms(3 * DAY_MS);
    let swept = mailbox.retention(30).sweep().await.unwrap();
    assert_eq!(swept, Swept { rows: 1, blobs: 2 });
    let left = mailbox.retention(0).sweep().await.unwrap();
    assert_eq!((left, mailbox.messages().await), (Swept::default(), 1));
    mailbox.blobs.get(of_somebody_else).await.unwrap();
}
