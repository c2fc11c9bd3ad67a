//! So many a minute, and never more.

use crate::domain::Timestamp;

const MINUTE_US: i64 = 60_000_000;

/// Lets so many through in any 60 seconds, evenly but for a burst of a quarter of a second's worth:
/// the generic cell rate algorithm, in which one moment says it all.
#[derive(Debug)]
pub(super) struct Budget {
    /// Microseconds from one to the next.
    interval: i64,
    /// How far a burst may run ahead of its intervals, in microseconds.
    tolerance: i64,
    /// When the next one would come if all came evenly, in microseconds since 1970.
    even: i64,
}

impl Budget {
    pub(super) fn per_minute(count: u32) -> Self {
        let count = i64::from(count.max(1));
        let extra = count / 240;
        // The burst may lie in any minute: what it adds there, the interval leaves out. Rounding up
        // is on the side of less.
        let evenly = count - extra;
        let interval = (MINUTE_US + evenly - 1) / evenly;
        Self {
            interval,
            tolerance: extra * interval,
            even: i64::MIN,
        }
    }

    /// Lets one through, if it is time.
    pub(super) fn take(&mut self, now: Timestamp) -> bool {
        let now = now.as_millis().saturating_mul(1000);
        // It is never further ahead than a burst, unless the clock was set back.
        self.even = self.even.min(now + self.tolerance + self.interval);
        if now < self.even.saturating_sub(self.tolerance) {
            return false;
        }
        self.even = self.even.max(now) + self.interval;
        true
    }

    /// When the next one may go.
    pub(super) fn next_at(&self) -> Timestamp {
        let at = self.even.saturating_sub(self.tolerance);
        Timestamp::from_millis(at.saturating_add(999).div_euclid(1000))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// How many went in `seconds`, asked each millisecond; no minute may hold more than `count`.
    fn taken(count: u32, seconds: i64) -> usize {
        let mut budget = Budget::per_minute(count);
        let mut minute = VecDeque::new();
        let mut total = 0;
        for now in 0..seconds * 1000 {
            while minute.front().is_some_and(|at| at + 60_000 <= now) {
                minute.pop_front();
            }
            while budget.take(Timestamp::from_millis(now)) {
                minute.push_back(now);
                total += 1;
                assert!(minute.len() <= count as usize, "{count} a minute, at {now}");
            }
        }
        total
    }

    #[test]
    fn no_minute_holds_more_than_the_budget_and_little_of_it_is_left_unused() {
        for count in [1, 7, 239, 240, 6000, 60_000] {
            let total = taken(count, 180);
            let ideal = 3 * count as usize;
            assert!(
                total <= ideal + count as usize / 200 + 1,
                "{count}: {total}"
            );
            assert!(total * 100 >= ideal * 98, "{count}: {total}");
        }
    }

    #[test]
    fn it_tells_when_the_next_may_go_and_survives_a_clock_that_is_set_back() {
        let mut budget = Budget::per_minute(60);
        assert!(budget.take(Timestamp::from_millis(5_000_000)));
        let next = budget.next_at();
        assert_eq!(next, Timestamp::from_millis(5_001_000));
        assert!(!budget.take(next.plus_millis(-1)));
        assert!(budget.take(next));
        let hour_ago = next.plus_millis(-3_600_000);
        assert!(!budget.take(hour_ago));
        assert!(budget.take(hour_ago.plus_millis(1000)));
    }
}
