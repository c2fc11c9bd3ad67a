//! What the service keeps: subscribers, messages, tokens and the outbox behind [`Storage`], and the
//! recordings themselves behind [`Blobs`](blob::Blobs).
//!
//! The methods are named by what the service does, so that no transaction leaves the implementation.

pub mod blob;
pub mod changes;
mod conversions;
mod enrolment;
pub mod sqlite;

use async_trait::async_trait;

use crate::domain::{
    ApiToken, Departure, DepartureCause, Grant, Mailbox, Message, MessageId, MissedCall, Msisdn,
    NewMessage, Private, Registration, Subscriber, SubscriberId, Timestamp, TokenId,
};
use crate::storage::changes::Changes;

pub(crate) use crate::storage::conversions::remove_if_there;
pub use crate::storage::enrolment::{
    DepartureProgress, Enrolled, NewEnrolment, NewSession, RegistrationChange, SealGrant,
};

/// Why the storage could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The database refused or failed.
    #[error("could not {attempted} in the database")]
    Database {
        /// What was attempted, as a verb phrase: `store message 018f…`.
        attempted: String,
        /// Whether it may succeed later.
        transient: bool,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// A row holds what the program never writes.
    #[error("the database holds an unreadable {what}: restore it from a backup or remove the row")]
    Corrupt {
        /// What was read.
        what: String,
    },
}

impl StorageError {
    /// Whether the same call may succeed later: locked, full, or out of reach.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Database {
                transient: true,
                ..
            }
        )
    }
}

/// Why a message, or the fact of a missed call, was not deposited.
#[derive(Debug, thiserror::Error)]
pub enum DepositError {
    /// The subscriber left while the message was being taken.
    #[error("message {0} is for a subscriber who is gone")]
    NoSubscriber(MessageId),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// How a deposit went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deposited {
    /// The message is new.
    Stored,
    /// A message of that id was there already, or has been there and was deleted since; no message
    /// was changed.
    AlreadyStored,
}

/// Who is to be added.
#[derive(Debug, Clone)]
pub struct NewSubscriber {
    /// The number.
    pub number: Msisdn,
    /// A name to show.
    pub name: Option<Private>,
    /// IANA time zone.
    pub time_zone: String,
    /// IETF language tag.
    pub language: String,
}

/// How an addition went: numbers that were there already are left as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Added {
    /// How many are new.
    pub added: u64,
    /// How many were there already.
    pub already_there: u64,
}

/// What of a subscriber's settings to change; `None` leaves a setting as it is.
#[derive(Debug, Clone, Default)]
pub struct SettingsChange {
    /// IANA time zone.
    pub time_zone: Option<String>,
    /// IETF language tag.
    pub language: Option<String>,
    /// Limit of a message's length in seconds; `Some(None)` goes back to the service's.
    pub max_message_secs: Option<Option<u32>>,
    /// Whether to notify.
    pub notify: Option<bool>,
}

/// Which messages to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageFilter {
    /// `Some(true)`: only unread ones; `Some(false)`: only read ones.
    pub unread: Option<bool>,
    /// Only messages that sort after this one (that are older).
    pub after: Option<MessageId>,
    /// At most so many.
    pub limit: u32,
}

/// Messages in and size of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// All messages.
    pub messages: u32,
    /// Unread ones.
    pub unread: u32,
    /// Bytes of all recordings.
    pub bytes: u64,
}

/// How a conditional change went.
#[derive(Debug, Clone)]
pub enum Changed {
    /// The message as it is now.
    Done(Box<Message>),
    /// No such message in this box.
    NotFound,
    /// The message is of another version than the one named.
    Conflict,
}

/// A token about to be stored; the secret is stored as its hash only.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// The id.
    pub id: TokenId,
    /// Whose.
    pub subscriber: SubscriberId,
    /// Its name.
    pub name: String,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// A row of the outbox: something to tell about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Row number; also the id by which a receiver drops a repeat.
    pub id: i64,
    /// About which message.
    pub message: MessageId,
    /// Whose.
    pub subscriber: SubscriberId,
    /// `message.stored`.
    pub kind: String,
    /// When the message was complete.
    pub created_at: Timestamp,
}

/// Everything the service asks of its database.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// The first of `numbers` that has a mailbox, with the box. The order of `numbers` decides.
    async fn mailbox_of_first(&self, numbers: &[Msisdn]) -> Result<Option<Mailbox>, StorageError>;
    /// Inserts the message and its outbox row in one transaction. Safe to repeat: also a message
    /// deleted meanwhile does not come back. Its recording must be durable; it is queued for deletion
    /// where it is not wanted any more (the message was deleted, or the subscriber is gone).
    async fn deposit(&self, message: &NewMessage) -> Result<Deposited, DepositError>;
    /// Keeps the fact of a call that left no message. Safe to repeat.
    async fn deposit_missed_call(&self, call: &MissedCall) -> Result<(), DepositError>;

    /// Adds subscribers in one transaction.
    async fn add_subscribers(
        &self,
        subscribers: &[NewSubscriber],
        now: Timestamp,
    ) -> Result<Added, StorageError>;
    /// The subscriber of a number.
    async fn subscriber_by_number(
        &self,
        number: &Msisdn,
    ) -> Result<Option<Subscriber>, StorageError>;
    /// A subscriber.
    async fn subscriber(&self, id: SubscriberId) -> Result<Option<Subscriber>, StorageError>;
    /// Subscribers in the order of their numbers, from after `after`.
    async fn subscribers(
        &self,
        after: Option<&Msisdn>,
        limit: u32,
    ) -> Result<Vec<Subscriber>, StorageError>;
    /// Removes a subscriber with all rows, and queues the recordings and greeting for deletion.
    /// False where there was none.
    async fn remove_subscriber(
        &self,
        id: SubscriberId,
        now: Timestamp,
    ) -> Result<bool, StorageError>;
    /// Changes settings; the subscriber as he is now, or `None` where there is none.
    async fn change_settings(
        &self,
        id: SubscriberId,
        change: &SettingsChange,
    ) -> Result<Option<Subscriber>, StorageError>;
    /// Sets or clears the own greeting's blob key; the old blob is queued for deletion, and the new
    /// one no longer. Where the subscriber is gone, the new one is.
    async fn set_greeting(
        &self,
        id: SubscriberId,
        key: Option<&str>,
        now: Timestamp,
    ) -> Result<(), StorageError>;

    /// Messages, newest first: in the order of their ids, which is that of their beginning. A page
    /// after a message goes on at the same place also when that message has been deleted.
    async fn messages(
        &self,
        subscriber: SubscriberId,
        filter: MessageFilter,
    ) -> Result<Vec<Message>, StorageError>;
    /// One message of this box.
    async fn message(
        &self,
        subscriber: SubscriberId,
        id: MessageId,
    ) -> Result<Option<Message>, StorageError>;
    /// Sets the read mark, where the message is still of `if_version` (when given). The version grows
    /// when the mark changes.
    async fn mark_read(
        &self,
        subscriber: SubscriberId,
        id: MessageId,
        read: bool,
        if_version: Option<i64>,
    ) -> Result<Changed, StorageError>;
    /// Deletes a message and queues its recording for deletion. False where there was none.
    async fn delete_message(
        &self,
        subscriber: SubscriberId,
        id: MessageId,
        now: Timestamp,
    ) -> Result<bool, StorageError>;
    /// Where every message that is stored, marked or deleted through this storage is told.
    fn changes(&self) -> &Changes;
    /// Counts of a box.
    async fn counts(&self, subscriber: SubscriberId) -> Result<Counts, StorageError>;
    /// Calls that left no message, newest first.
    async fn missed_calls(
        &self,
        subscriber: SubscriberId,
        after: Option<MessageId>,
        limit: u32,
    ) -> Result<Vec<MissedCall>, StorageError>;

    /// Stores a token; fails, not transiently, where there is no such subscriber.
    async fn add_token(&self, token: &NewToken) -> Result<(), StorageError>;
    /// Tokens of a subscriber, oldest first; expired ones too, until they are swept.
    async fn tokens(&self, subscriber: SubscriberId) -> Result<Vec<ApiToken>, StorageError>;
    /// Ends a token. With `of` only where it is that subscriber's. False where there was none.
    async fn revoke_token(
        &self,
        id: TokenId,
        of: Option<SubscriberId>,
    ) -> Result<bool, StorageError>;
    /// The subscriber who holds the token of this hash, if it has not ended. Notes the use, once an
    /// hour; that it could not be noted is no error.
    async fn subscriber_by_token(
        &self,
        hash: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<Subscriber>, StorageError>;

    /// Keeps, in one transaction, who has proved to be whom: finds or adds the subscriber of the verified
    /// number, binds the account to him, stores the grant, sealed for him, in the place of the one before, and
    /// wants a registration now, as a new row.
    ///
    /// * The same account with another number: he is renumbered and keeps his messages; the old number's
    ///   registration and grant are left to a departure. What lay in a box of the new number that was no
    ///   account's is his as well.
    /// * The same number with another account of that issuer: the former subscriber departs, and his
    ///   messages are never seen by the new one.
    /// * A number that is no account's (the operator added it), or of another issuer's only, is bound.
    /// * One who has left and is not erased yet comes back.
    async fn enrol(
        &self,
        enrolment: &NewEnrolment,
        seal: SealGrant<'_>,
        now: Timestamp,
    ) -> Result<Enrolled, StorageError>;
    /// The grant of a subscriber who has one and has not left.
    async fn grant(&self, of: SubscriberId) -> Result<Option<Grant>, StorageError>;
    /// Replaces the grant that has version `if_version`, also when it has moved into a departure meanwhile.
    /// It is durable when this returns. False where there is no such grant any more: somebody replaced it.
    async fn replace_grant(
        &self,
        of: SubscriberId,
        sealed: &[u8],
        if_version: i64,
    ) -> Result<bool, StorageError>;
    /// The keys that sealed the grants of subscribers: what these begin with.
    async fn keys_of_grants(&self) -> Result<Vec<[u8; 4]>, StorageError>;
    /// Grants of subscribers that begin with `key_id` (the key that sealed them), in the order of the
    /// subscribers' ids, from after `after`.
    async fn grants_sealed_by(
        &self,
        key_id: [u8; 4],
        after: Option<SubscriberId>,
        limit: u32,
    ) -> Result<Vec<(SubscriberId, Grant)>, StorageError>;
    /// Stores grants that were sealed anew and are the same otherwise, in one transaction; one that has been
    /// replaced meanwhile is left. The version stays, so that a refresh under way is not lost. How many
    /// were stored.
    async fn store_sealed_anew(
        &self,
        grants: &[(SubscriberId, Grant)],
    ) -> Result<u64, StorageError>;

    /// The registration of a subscriber.
    async fn registration(&self, of: SubscriberId) -> Result<Option<Registration>, StorageError>;
    /// When the registration of a subscriber was wanted last: he signed in, or was added.
    async fn wanted_since(&self, of: SubscriberId) -> Result<Option<Timestamp>, StorageError>;
    /// Registrations after `seq`, in the order of their rows.
    async fn registrations_after(
        &self,
        seq: i64,
        limit: u32,
    ) -> Result<Vec<Registration>, StorageError>;
    /// Notes how registrations stand, in one transaction. One whose row is gone is skipped.
    async fn note_registrations(&self, changes: &[RegistrationChange]) -> Result<(), StorageError>;
    /// Wants a registration for subscribers who have none, at most `limit`; how many they were.
    async fn register_everyone(
        &self,
        sip_uri: &str,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, StorageError>;

    /// Keeps a session of a browser; its secret only as its hash.
    async fn add_session(&self, session: &NewSession) -> Result<(), StorageError>;
    /// The subscriber whose session has this hash, if it has not ended.
    async fn subscriber_by_session(
        &self,
        hash: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<Subscriber>, StorageError>;
    /// Ends a session, if it is there.
    async fn end_session(&self, hash: &[u8; 32]) -> Result<(), StorageError>;
    /// Ends all sessions of a subscriber.
    async fn end_sessions(&self, of: SubscriberId) -> Result<(), StorageError>;

    /// Lets a subscriber go, in one transaction: his sessions and API tokens end, his registration and
    /// grant move into the departure, his mailbox takes no calls, he is not listed, and his number is
    /// free. With `erase_at` not after `now` he is erased as well. One who is leaving already is erased at
    /// the earlier of both times. `None` where there is nobody. The departure as it is now; it may have
    /// nothing left to do, and is not kept then.
    async fn depart(
        &self,
        of: SubscriberId,
        cause: DepartureCause,
        erase_at: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Departure>, StorageError>;
    /// Departures from `number` that are not done, oldest first.
    async fn departures_of(&self, number: &Msisdn) -> Result<Vec<Departure>, StorageError>;
    /// Departures with something to be done by now at the core or the identity server, first due first.
    async fn departures_due(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Departure>, StorageError>;
    /// Notes what has been done for a departure; it goes when nothing is left. Should the number have been
    /// wanted again while its registration was being deleted, it is wanted once more.
    async fn note_departure(
        &self,
        departure: &Departure,
        progress: &DepartureProgress,
        now: Timestamp,
    ) -> Result<(), StorageError>;
    /// Erases subscribers who have left and whose time has come, at most `limit`; how many they were.
    async fn erase_departed(&self, now: Timestamp, limit: u32) -> Result<u64, StorageError>;
    /// Keeps, until `ends_at`, the hash of a secret that may come back once: with a browser that was sent
    /// elsewhere.
    async fn add_return(&self, hash: &[u8; 32], ends_at: Timestamp) -> Result<(), StorageError>;
    /// Takes such a hash. False where there is none, or it has ended.
    async fn take_return(&self, hash: &[u8; 32], now: Timestamp) -> Result<bool, StorageError>;

    /// The oldest notifications of the outbox.
    async fn notifications_due(&self, limit: u32) -> Result<Vec<Notification>, StorageError>;
    /// Takes a notification off the outbox.
    async fn notification_done(&self, id: i64) -> Result<(), StorageError>;
    /// Deletes messages and missed calls received before `before`, at most `limit`, and tokens, sessions and
    /// outbox rows that ended with them; recordings are queued for deletion. How many rows went:
    /// `limit` means that there may be more. When there
    /// are no more, nothing that was deleted is left in the database's files, where nobody is reading.
    async fn expire(
        &self,
        before: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, StorageError>;
    /// Queues a blob that is about to be stored for deletion at `due_at`, so that it does not stay
    /// for ever should no row come to name it until then.
    async fn announce_blob(&self, key: &str, due_at: Timestamp) -> Result<(), StorageError>;
    /// Blob keys whose deletion is due, oldest first.
    async fn blobs_to_delete(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<String>, StorageError>;
    /// Takes a deleted blob off that queue.
    async fn blob_deleted(&self, key: &str) -> Result<(), StorageError>;
    /// Proves that the database can be read and written.
    async fn ping(&self) -> Result<(), StorageError>;
    /// Closes the database after what is under way.
    async fn close(&self);
}
