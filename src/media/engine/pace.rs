//! When calls are served. A call that is played to has one slot in every 20 ms. One that only
//! listens, as most that are recorded, has nothing that cannot wait: it rests, and is looked after
//! ten times a second, together with others.

use std::array;
use std::time::Duration;

use crate::media::session::SLOT;

/// Each call that is played to has one of so many slots every 20 ms. With more of them packets go out
/// in smaller bursts; with fewer a worker wakes less often and finds more to do at a time.
pub(super) const SLOTS: usize = 10;
/// How long a slot is.
pub(super) const STEP: Duration = Duration::from_millis(SLOT.as_millis() as u64 / SLOTS as u64);
/// A slot may have so many calls more than the others, and an eighth, for the sake of who waits for
/// his first packet.
const SLACK: usize = 8;

/// Slots between two looks after a resting call: ten a second. Each of them has a group of its own.
const REST: usize = 5 * SLOTS;

/// How often a call is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// In this slot of every 20.
    Playing(usize),
    /// With this group of resting calls.
    Resting(usize),
}

/// The calls of a worker, by their place, in the order in which they are served. Slots are counted
/// without end.
#[derive(Debug)]
pub(super) struct Wheel {
    playing: [Vec<u32>; SLOTS],
    resting: [Vec<u32>; REST],
}

impl Default for Wheel {
    fn default() -> Self {
        Self {
            playing: array::from_fn(|_| Vec::new()),
            resting: array::from_fn(|_| Vec::new()),
        }
    }
}

impl Wheel {
    /// From `next` on, the next slot that has not many more calls than the others.
    pub(super) fn next_slot(&self, next: u64) -> Pace {
        let least = self.playing.iter().map(Vec::len).min().unwrap_or(0);
        let has_room = |slot: &usize| self.playing[*slot].len() <= least + least / 8 + SLACK;
        let slot = (next..next + SLOTS as u64).map(slot_of).find(has_room);
        Pace::Playing(slot.unwrap_or(slot_of(next)))
    }

    /// The group with the fewest resting calls.
    pub(super) fn rest(&self) -> Pace {
        let least = (0..REST).min_by_key(|group| self.resting[*group].len());
        Pace::Resting(least.unwrap_or(0))
    }

    /// A call takes up a pace.
    pub(super) fn join(&mut self, call: u32, pace: Pace) {
        self.calls_mut(pace).push(call);
    }

    /// A call gives up its pace.
    pub(super) fn leave(&mut self, call: u32, pace: Pace) {
        self.calls_mut(pace).retain(|other| *other != call);
    }

    fn calls_mut(&mut self, pace: Pace) -> &mut Vec<u32> {
        match pace {
            Pace::Playing(slot) => &mut self.playing[slot],
            Pace::Resting(group) => &mut self.resting[group],
        }
    }

    /// How many calls are played to in a slot.
    pub(super) fn playing_in(&self, slot: u64) -> usize {
        self.playing[slot_of(slot)].len()
    }

    /// The calls to be served in a slot.
    pub(super) fn of_slot(&self, slot: u64) -> impl Iterator<Item = u32> {
        let resting = &self.resting[(slot % REST as u64) as usize];
        let playing = &self.playing[slot_of(slot)];
        playing.iter().chain(resting).copied()
    }
}

/// The slot of this pace that came last before slot `next`, or would have.
pub(super) fn last_before(next: u64, pace: Pace) -> u64 {
    let Pace::Playing(slot) = pace else {
        return next;
    };
    let slots = SLOTS as u64;
    let steps = (slot as u64 + slots - next % slots) % slots;
    (next + steps).saturating_sub(slots)
}

/// A slot among those of 20 ms.
fn slot_of(slot: u64) -> usize {
    (slot % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_plays_is_served_every_20_ms_and_who_rests_ten_times_a_second() {
        let mut wheel = Wheel::default();
        let playing = wheel.next_slot(207);
        assert_eq!(playing, Pace::Playing(7));
        wheel.join(1, playing);
        let resting = wheel.rest();
        wheel.join(2, resting);
        let slots_of = |wheel: &Wheel, call| -> Vec<u64> {
            let is_served = |slot: &u64| wheel.of_slot(*slot).any(|other| other == call);
            (0..100).filter(is_served).collect()
        };
        let expected: Vec<u64> = (0..10).map(|n| 7 + 10 * n).collect();
        assert_eq!(slots_of(&wheel, 1), expected);
        assert_eq!(slots_of(&wheel, 2), [0, 50]);
        assert_ne!(wheel.rest(), resting);
        assert_eq!((wheel.playing_in(217), wheel.playing_in(218)), (1, 0));
        wheel.leave(1, playing);
        wheel.leave(2, resting);
        assert!((0..100).all(|slot| wheel.of_slot(slot).next().is_none()));
    }

    #[test]
    fn calls_that_come_together_are_spread_over_the_slots() {
        let mut wheel = Wheel::default();
        for call in 0..1_000 {
            let pace = wheel.next_slot(3);
            wheel.join(call, pace);
        }
        for slot in 0..10 {
            let calls = wheel.playing_in(slot);
            assert!((60..=128).contains(&calls), "slot {slot}: {calls}");
        }
    }

    #[test]
    fn the_slot_before_is_at_most_20_ms_back() {
        assert_eq!(last_before(207, Pace::Playing(7)), 197);
        assert_eq!(last_before(207, Pace::Playing(6)), 206);
        assert_eq!(last_before(207, Pace::Playing(8)), 198);
    }
}
