use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::domain::{Caller, DivertReason};
use crate::storage::Storage;
use crate::storage::sqlite::SqliteStorage;
use crate::storage::sqlite::tests::add_alice;

use super::*;

const START: Timestamp = Timestamp::from_millis(1_795_403_093_120);

#[tokio::test]
async fn what_the_version_before_wrote_is_a_wav_of_linear_samples_at_8_khz() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.db");
    let url = format!("sqlite://{}", path.display());
    let storage = SqliteStorage::open(&url).await.unwrap();
    let alice = add_alice(&storage).await;
    let id = MessageId::new(START, [1; 10]);

    let mut version_before = SqliteConnectOptions::new()
        .filename(&path)
        .connect()
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO messages
            (id, subscriber_id, to_number, caller_number, caller_name, reason, received_at,
             duration_ms, size_bytes, sha256, ended_by)
         VALUES (?1, ?2, '+4711111111', NULL, NULL, 'busy', ?3, 2000, 32044, zeroblob(32), 'limit')",
    )
    .bind(id.as_bytes().as_slice())
    .bind(alice.as_bytes().as_slice())
    .bind(START.as_millis())
    .execute(&mut version_before)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO missed_calls (id, subscriber_id, reason, received_at, cause)
         VALUES (?1, ?2, 'busy', 1, 'no-media')",
    )
    .bind(id.as_bytes().as_slice())
    .bind(alice.as_bytes().as_slice())
    .execute(&mut version_before)
    .await
    .unwrap();

    let message = storage.message(alice, id).await.unwrap().unwrap();
    let expected = NewMessage {
        id,
        subscriber: alice,
        to: "+4711111111".parse().unwrap(),
        caller: Caller::default(),
        reason: DivertReason::Busy,
        received_at: START,
        audio: StoredAudio {
            format: AudioFormat::WavPcm,
            codec: None,
            sample_rate: 8000,
            samples: 16_000,
            stored_bytes: 32_044,
            sha256: [0; 32],
            losses: Losses::default(),
        },
        ended_by: RecordingEnd::Limit,
        setup: SetupTimes::default(),
    };
    assert_eq!(message.facts, expected);
    assert_eq!(message.facts.audio.duration_ms(), 2000);
    assert_eq!(message.facts.audio.wav_bytes(), 32_044);
    let missed = storage.missed_calls(alice, None, 1).await.unwrap();
    assert_eq!(missed[0].failed_stage, None);
}
