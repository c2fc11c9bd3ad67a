//! What goes into the schedule and comes out of it.

use std::time::Duration;

use crate::domain::{RegistrationState, SubscriberId, Timestamp};

/// How much may be asked of the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Jobs in any 60 seconds.
    pub upserts_per_minute: u32,
    /// Jobs under way.
    pub in_flight: u32,
}

impl Limits {
    /// So many a minute, and as many in flight as come in two seconds of that.
    pub fn per_minute(upserts: u32) -> Self {
        Self {
            upserts_per_minute: upserts,
            in_flight: (upserts / 30).clamp(16, 1024),
        }
    }
}

/// Something to ask the core now. Its end must be told with `Schedule::finished`, whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// Which job.
    pub id: u64,
    /// Which registration.
    pub seq: i64,
    /// Whose.
    pub subscriber: SubscriberId,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The core has it, for so long from now.
    Registered {
        /// How long it lives.
        life: Duration,
    },
    /// The core failed: no answer, a late one, or one that makes no sense.
    CoreFailed(String),
    /// The core was not asked: there was no token, or no database.
    Postponed(String),
    /// The core does not want this registration.
    Refused(String),
    /// The subscriber's consent is gone.
    ConsentLost(String),
    /// Nobody wants the registration any more.
    Gone,
}

/// How a registration stands after a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which registration.
    pub seq: i64,
    /// How it stands.
    pub state: RegistrationState,
    /// When what the core last took ends.
    pub expires_at: Option<Timestamp>,
    /// When the core is asked next.
    pub next_attempt_at: Timestamp,
    /// How often in a row it failed.
    pub failures: u32,
    /// Why it failed last.
    pub reason: Option<String>,
}

/// How all registrations stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// The core has them, as far as we know.
    pub live: usize,
    /// They are to be there and are not: new, or lapsed.
    pub missing: usize,
    /// The core does not want them.
    pub refused: usize,
    /// How long the one lives that ends first, in milliseconds.
    pub smallest_life_ms: Option<i64>,
}
