//! Spreads what comes again over time.

use std::ops::RangeInclusive;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::domain::Timestamp;

const SLOT_MS: i64 = 10_000;
/// Almost three hours; what is later counts for a slot it is not in, which does no harm.
const SLOTS: usize = 1024;

/// How many are due in each stretch of ten seconds. A moment drawn from a range is the emptier of
/// two ("the power of two choices"), so that a wave, as an outage leaves behind, evens out within
/// a few rounds.
#[derive(Debug)]
pub(super) struct Spread {
    due: Box<[u32]>,
}

impl Default for Spread {
    fn default() -> Self {
        Self {
            due: vec![0; SLOTS].into(),
        }
    }
}

impl Spread {
    /// A moment `range` milliseconds after `from`.
    pub(super) fn draw(
        &self,
        from: Timestamp,
        range: RangeInclusive<i64>,
        chance: &mut StdRng,
    ) -> Timestamp {
        let mut draw = || from.plus_millis(chance.random_range(range.clone()));
        let (one, other) = (draw(), draw());
        if self.due_about(other) < self.due_about(one) {
            other
        } else {
            one
        }
    }

    pub(super) fn add(&mut self, at: Timestamp) {
        if let Some(count) = self.due.get_mut(slot(at)) {
            *count += 1;
        }
    }

    pub(super) fn remove(&mut self, at: Timestamp) {
        if let Some(count) = self.due.get_mut(slot(at)) {
            *count = count.saturating_sub(1);
        }
    }

    fn due_about(&self, at: Timestamp) -> u32 {
        self.due.get(slot(at)).copied().unwrap_or(0)
    }
}

fn slot(at: Timestamp) -> usize {
    usize::try_from(at.as_millis().div_euclid(SLOT_MS).rem_euclid(SLOTS as i64)).unwrap_or(0)
}
