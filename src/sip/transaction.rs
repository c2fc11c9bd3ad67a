//! The four transaction machines of RFC 3261 section 17, with the Accepted states of RFC 6026.
//!
//! A machine holds the state of one transaction and the bytes it may have to repeat. It knows no flow, no
//! header and no table: the endpoint matches messages to machines, sends what an [`Effect`] bears, and
//! calls `on_timeout` when `deadline` has come.

use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;

pub mod client;
pub mod client_invite;
pub(crate) mod hop_by_hop;
pub mod key;
pub(crate) mod machine;
pub(crate) mod next_hop;
pub mod server;
pub mod server_invite;
pub(crate) mod timers;
pub(crate) mod way_back;

/// The timer values of RFC 3261 section 17.1.1.1, from which all timers A to M follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// T1: the round trip time assumed.
    pub t1: Duration,
    /// T2: the longest interval between retransmissions, except those of an INVITE.
    pub t2: Duration,
    /// T4: how long a message stays in the network.
    pub t4: Duration,
}

impl Timing {
    /// 64*T1: how long is waited for the other side (timers B, F, H, J, L, M), 32 s by default.
    pub const fn timeout(&self) -> Duration {
        self.t1.saturating_mul(64)
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
        }
    }
}

/// What comes of a message or a timer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effect {
    /// To be sent on the transaction's flow.
    pub send: Option<Bytes>,
    /// The message is news to the transaction's user.
    pub deliver: bool,
    /// The other side did not answer in time: the user must be told.
    pub timed_out: bool,
}

impl Effect {
    const NONE: Self = Self {
        send: None,
        deliver: false,
        timed_out: false,
    };
    const DELIVER: Self = Self {
        send: None,
        deliver: true,
        timed_out: false,
    };
    const TIMED_OUT: Self = Self {
        send: None,
        deliver: false,
        timed_out: true,
    };

    const fn send(bytes: Bytes) -> Self {
        Self {
            send: Some(bytes),
            deliver: false,
            timed_out: false,
        }
    }
}

/// A retransmission timer that doubles its interval: timers A, E and G, and those of dialogs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    interval: Duration,
    cap: Duration,
    next: Instant,
}

impl Backoff {
    /// First due `first` from now, then at doubled intervals up to `cap`.
    pub fn new(now: Instant, first: Duration, cap: Duration) -> Self {
        Self {
            interval: first,
            cap,
            next: now + first,
        }
    }

    /// When to send again.
    pub const fn due(&self) -> Instant {
        self.next
    }

    /// Sets the next time, after a retransmission. A driver that was late does not catch up with a burst.
    pub fn step(&mut self, now: Instant) {
        self.interval = self.interval.saturating_mul(2).min(self.cap);
        self.next = (self.next + self.interval).max(now);
    }

    /// From the next retransmission on, the interval is the cap.
    const fn slow_down(&mut self) {
        self.interval = self.cap;
    }
}
