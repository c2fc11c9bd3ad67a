//! Wall-clock time, held by what stamps rows and checks expiry. Protocol code takes a monotonic
//! `now` as an argument instead and never looks here.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::domain::Timestamp;

/// Tells the wall-clock time.
pub trait Clock: Send + Sync + 'static {
    /// The current time, in UTC, to the millisecond.
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
    }
}

/// A clock for tests: it stands still until it is moved.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn starting_at(start: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(start.as_millis())))
    }

    /// Moves the clock forward.
    pub fn advance_ms(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told_and_for_all_who_hold_it() {
        let clock = ManualClock::starting_at(Timestamp::from_millis(1000));
        let same: Arc<dyn Clock> = Arc::new(clock.clone());
        assert_eq!(same.now(), Timestamp::from_millis(1000));
        clock.advance_ms(500);
        assert_eq!(same.now(), Timestamp::from_millis(1500));
    }

    #[test]
    fn the_system_clock_tells_a_time_after_this_was_written() {
        assert!(SystemClock.now() > Timestamp::from_millis(1_700_000_000_000));
    }
}
