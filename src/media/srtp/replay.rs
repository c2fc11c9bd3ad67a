//! What was received from one source: rollover of sequence numbers, and replays (RFC 3711
//! sections 3.3.1 and 3.3.2).

/// So many packets before the latest are told apart; older ones count as replayed.
const WINDOW: u64 = 128;

/// The index, sequence number and rollovers in one, that is closest to the last one. `None` before
/// the first rollover.
pub(super) fn closest(last: u64, sequence: u16) -> Option<u64> {
    let ahead = sequence.wrapping_sub(last as u16) as i16;
    last.checked_add_signed(i64::from(ahead))
}

/// Which packets have come.
#[derive(Debug)]
pub(super) struct Received {
    highest: u64,
    /// Bit n: the n-th before the highest has come.
    window: u128,
}

impl Received {
    pub(super) fn beginning_with(index: u64) -> Self {
        Self {
            highest: index,
            window: 1,
        }
    }

    /// The index of the packet of this sequence number, unless it has come before.
    pub(super) fn index(&self, sequence: u16) -> Option<u64> {
        closest(self.highest, sequence).filter(|index| self.is_new(*index))
    }

    /// Whether this packet has not come before.
    pub(super) fn is_new(&self, index: u64) -> bool {
        match self.highest.checked_sub(index) {
            None => true,
            Some(age) => age < WINDOW && self.window >> age & 1 == 0,
        }
    }

    /// An authentic packet has come.
    pub(super) fn note(&mut self, index: u64) {
        match self.highest.checked_sub(index) {
            Some(age) if age < WINDOW => self.window |= 1 << age,
            Some(_) => {}
            None => {
                let ahead = index - self.highest;
                self.window = if ahead < WINDOW {
                    self.window << ahead | 1
                } else {
                    1
                };
                self.highest = index;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_follows_the_sequence_number_around_both_ways() {
        assert_eq!(closest(65_535, 0), Some(65_536));
        assert_eq!(closest(65_536, 65_535), Some(65_535));
        assert_eq!(closest(3 << 16 | 10, 65_530), Some(2 << 16 | 65_530));
        assert_eq!(
            closest(10, 65_530),
            None,
            "before the first packet there is nothing"
        );
        assert_eq!(closest(0, 32_767), Some(32_767));
    }

    #[test]
    fn each_packet_is_taken_once_in_any_order_within_the_window() {
        let mut received = Received::beginning_with(65_500);
        for index in [65_536, 65_501, 65_535, 65_409, 65_600, 65_599] {
            assert!(received.is_new(index), "{index}");
            received.note(index);
            assert!(!received.is_new(index), "{index}");
        }
        assert!(!received.is_new(65_500) && !received.is_new(65_472));
        assert!(received.is_new(65_473), "the oldest of the window");
        received.note(100_000);
        assert!(received.is_new(99_999) && !received.is_new(65_600));
    }
}
