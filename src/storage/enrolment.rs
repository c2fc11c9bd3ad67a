//! What enrolment gives to the storage and gets from it.

use crate::domain::{
    Account, Registration, RegistrationState, Subscriber, SubscriberId, Timestamp,
};
use crate::storage::NewSubscriber;

/// Who has proved at the identity server who he is, and which number is his.
#[derive(Debug, Clone)]
pub struct NewEnrolment {
    /// The account he signed in with.
    pub account: Account,
    /// The verified number; the rest is for one who is new.
    pub subscriber: NewSubscriber,
    /// To where the core is to send his calls; `None` where no core is configured.
    pub sip_uri: Option<String>,
    /// When the data are erased of one who loses his number by this.
    pub erase_displaced_at: Timestamp,
}

/// Seals somebody's tokens for the subscriber who he turns out to be. It is called once.
pub type SealGrant<'a> = &'a (dyn Fn(SubscriberId) -> Vec<u8> + Send + Sync);

/// How an enrolment went.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// The subscriber as he is now.
    pub subscriber: Subscriber,
    /// Whether he was not here before.
    pub is_new: bool,
    /// The registration that is wanted now.
    pub registration: Option<Registration>,
}

/// How the registration of one row stands after an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationChange {
    /// The row.
    pub seq: i64,
    /// The URI with which it is registered now, where it is another than before.
    pub sip_uri: Option<String>,
    /// How it stands.
    pub state: RegistrationState,
    /// When what the core last took ends.
    pub expires_at: Option<Timestamp>,
    /// When to ask the core next.
    pub next_attempt_at: Timestamp,
    /// How often in a row it failed.
    pub failures: u32,
    /// Why it failed last, for people.
    pub reason: Option<String>,
}

/// A session of a browser about to be stored.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// SHA-256 of its secret.
    pub hash: [u8; 32],
    /// Whose.
    pub subscriber: SubscriberId,
    /// When it began.
    pub created_at: Timestamp,
    /// When it ends.
    pub ends_at: Timestamp,
}

/// What has been done for a departure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DepartureProgress {
    /// The registration is deleted at the core, or nothing more can be done about it.
    pub withdrawn: bool,
    /// The grant is revoked, or nothing more can be done about it.
    pub revoked: bool,
    /// When to try what is left.
    pub next_attempt_at: Timestamp,
    /// How often in a row it failed.
    pub failures: u32,
}
