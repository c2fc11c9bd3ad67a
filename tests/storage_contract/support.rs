//! The people and messages of the stories.

use std::collections::BTreeSet;
use std::sync::Arc;

use aftertone::domain::{
    AudioFormat, Caller, DivertReason, Gap, Losses, MediaStage, MessageId, MissedCall, Msisdn,
    NewMessage, Private, RecordingEnd, SetupTimes, StoredAudio, SubscriberId, Timestamp, TokenId,
};
use aftertone::storage::blob::Blobs;
use aftertone::storage::{MessageFilter, NewSubscriber, NewToken, Storage};

pub(crate) const ALICE: &str = "+4711111111";
pub(crate) const BOB: &str = "+4722222222";
/// When the stories begin.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_795_403_093_120);
pub(crate) const HOUR_MS: i64 = 3_600_000;

pub(crate) type Store = Arc<dyn Storage>;

pub(crate) fn number(text: &str) -> Msisdn {
    text.parse().unwrap()
}

pub(crate) fn later(ms: i64) -> Timestamp {
    START.plus_millis(ms)
}

/// The id of the `n`th message, a second after the one before.
pub(crate) fn nth(n: u16) -> MessageId {
    let [high, low] = n.to_be_bytes();
    MessageId::new(
        later(i64::from(n) * 1000),
        [high, low, 0, 0, 0, 0, 0, 0, 0, 1],
    )
}

pub(crate) fn message(subscriber: SubscriberId, n: u16) -> NewMessage {
    NewMessage {
        id: nth(n),
        subscriber,
        to: number(ALICE),
        caller: Caller {
            number: Some(number("+4798765432")),
            name: Some(Private("Åse \"O'Hara\"; DROP TABLE messages".into())),
        },
        reason: DivertReason::NoAnswer,
        received_at: later(i64::from(n) * 1000),
        audio: StoredAudio {
            format: AudioFormat::OggOpus,
            codec: Some("PCMU,opus".into()),
            sample_rate: 48_000,
            samples: 4 * 48_000,
            stored_bytes: 64_044,
            sha256: [n as u8; 32],
            losses: Losses::new([Gap {
                at_ms: 500,
                duration_ms: 60,
            }]),
        },
        ended_by: RecordingEnd::HangUp,
        setup: SetupTimes {
            answered_ms: Some(3),
            ice_ms: Some(40),
            first_rtp_in_ms: Some(55),
            ..SetupTimes::default()
        },
    }
}

/// Where the recording of such a message lies.
pub(crate) fn key_of(id: MessageId) -> String {
    Blobs::recording_key(id, AudioFormat::OggOpus)
}

pub(crate) fn missed_call(subscriber: SubscriberId, n: u16) -> MissedCall {
    MissedCall {
        id: nth(n),
        subscriber,
        caller: Caller::default(),
        reason: DivertReason::Busy,
        received_at: later(i64::from(n) * 1000),
        cause: "no-media".into(),
        failed_stage: Some(MediaStage::Dtls),
    }
}

pub(crate) fn token(subscriber: SubscriberId, n: u8, expires_at: Option<Timestamp>) -> NewToken {
    NewToken {
        id: TokenId::new(later(i64::from(n)), [n; 10]),
        subscriber,
        name: format!("token {n}"),
        hash: [n; 32],
        created_at: START,
        expires_at,
    }
}

pub(crate) fn new_subscriber(text: &str) -> NewSubscriber {
    NewSubscriber {
        number: number(text),
        name: Some(Private("Somebody".into())),
        time_zone: "Europe/Oslo".into(),
        language: "nb".into(),
    }
}

pub(crate) fn page(limit: u32) -> MessageFilter {
    MessageFilter {
        limit,
        ..MessageFilter::default()
    }
}

pub(crate) async fn add(storage: &Store, text: &str) -> SubscriberId {
    storage
        .add_subscribers(&[new_subscriber(text)], START)
        .await
        .unwrap();
    storage
        .subscriber_by_number(&number(text))
        .await
        .unwrap()
        .unwrap()
        .id
}

/// A box with `count` messages.
pub(crate) async fn filled_box(storage: &Store, count: u16) -> SubscriberId {
    let alice = add(storage, ALICE).await;
    for n in 0..count {
        storage.deposit(&message(alice, n)).await.unwrap();
    }
    alice
}

pub(crate) async fn ids(
    storage: &Store,
    of: SubscriberId,
    filter: MessageFilter,
) -> Vec<MessageId> {
    let messages = storage.messages(of, filter).await.unwrap();
    messages.iter().map(|message| message.facts.id).collect()
}

pub(crate) async fn queued_blobs(storage: &Store) -> BTreeSet<String> {
    storage
        .blobs_to_delete(Timestamp::MAX, 1000)
        .await
        .unwrap()
        .into_iter()
        .collect()
}

pub(crate) fn recordings(of: impl IntoIterator<Item = u16>) -> BTreeSet<String> {
    of.into_iter().map(|n| key_of(nth(n))).collect()
}
