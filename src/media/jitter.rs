//! The order of received packets (RFC 3550 appendix A): what is missing, late or there twice,
//! and the jitter that reports tell.

use std::time::Duration;

/// How far back packets are told from duplicates, in packets; longer than any reorder window.
const SEEN_WINDOW: u64 = 128;
/// A larger step forward is a new beginning (RFC 3550 appendix A.1).
const MAX_DROPOUT: u16 = 3_000;
/// A larger step back is a new beginning.
const MAX_MISORDER: u16 = 1_000;
/// So many packets in a row that are all too old or were there before are a new beginning too.
const MAX_STRAYS: u8 = 8;

/// What a packet is, judged by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Newer than all before; so many packets after the newest, so 1 is the very next.
    Ahead(u16),
    /// It comes after newer ones, for the first time.
    Reordered,
    /// It was there before.
    Duplicate,
    /// Too old to tell.
    Old,
    /// Far from everything before: the sender began anew.
    Restart,
}

/// Follows the packets of one synchronisation source.
#[derive(Debug, Clone)]
pub struct Source {
    ssrc: u32,
    /// Sequence numbers, extended by their wrap-arounds; they begin one round up, so that what
    /// comes before the first packet has a number too.
    first: u64,
    highest: u64,
    /// Bit n tells whether `highest - n` was seen.
    seen: u128,
    received: u64,
    reordered: u64,
    duplicates: u64,
    /// Sixteen times the jitter, in steps of the sender's clock.
    jitter: u32,
    transit: Option<u32>,
    reported: (u64, u64),
    /// Old packets and duplicates in a row: the number of the last, and how many.
    strays: (u16, u8),
}

/// Numbers of packets, for one source or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Packets received, each once.
    pub received: u64,
    /// Packets that never came, so far.
    pub lost: u64,
    /// Packets that came after newer ones.
    pub reordered: u64,
    /// Packets that came again.
    pub duplicates: u64,
}

impl Counts {
    /// What was added since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            received: self.received.saturating_sub(earlier.received),
            lost: self.lost.saturating_sub(earlier.lost),
            reordered: self.reordered.saturating_sub(earlier.reordered),
            duplicates: self.duplicates.saturating_sub(earlier.duplicates),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            lost: self.lost + other.lost,
            reordered: self.reordered + other.reordered,
            duplicates: self.duplicates + other.duplicates,
        }
    }
}

impl Source {
    /// Follows a source from its first packet on.
    pub fn new(ssrc: u32, sequence: u16) -> Self {
        let first = (1 << 16) + u64::from(sequence);
        Self {
            ssrc,
            first,
            highest: first,
            seen: 1,
            received: 1,
            reordered: 0,
            duplicates: 0,
            jitter: 0,
            transit: None,
            reported: (0, 0),
            strays: (0, 0),
        }
    }

    /// Who sends.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Places the next packet. After [`Order::Restart`] the source is to be made anew.
    pub fn order(&mut self, sequence: u16) -> Order {
        let ahead = sequence.wrapping_sub(self.highest as u16);
        if ahead == 0 {
            return self.stray(sequence, Order::Duplicate);
        }
        if ahead < MAX_DROPOUT {
            self.strays = (sequence, 0);
            self.highest += u64::from(ahead);
            self.seen = self.seen.checked_shl(u32::from(ahead)).unwrap_or(0) | 1;
            self.received += 1;
            return Order::Ahead(ahead);
        }
        let behind = ahead.wrapping_neg();
        if behind > MAX_MISORDER {
            return Order::Restart;
        }
        let behind = u64::from(behind);
        if behind >= SEEN_WINDOW {
            return self.stray(sequence, Order::Old);
        }
        let bit = 1_u128 << behind;
        if self.seen & bit != 0 {
            return self.stray(sequence, Order::Duplicate);
        }
        self.seen |= bit;
        self.first = self.first.min(self.highest - behind);
        self.received += 1;
        self.reordered += 1;
        Order::Reordered
    }

    /// A sender that set its numbers back a little looks like one old packet after another.
    fn stray(&mut self, sequence: u16, order: Order) -> Order {
        let (last, run) = self.strays;
        let follows = sequence == last.wrapping_add(1);
        self.strays = (sequence, if follows { run + 1 } else { 1 });
        if self.strays.1 == MAX_STRAYS {
            return Order::Restart;
        }
        self.duplicates += u64::from(order == Order::Duplicate);
        order
    }

    /// Takes the arrival time of a packet of audio into the jitter (RFC 3550 appendix A.8); its
    /// timestamp is of a clock of `clock_rate` hertz.
    pub fn measure(&mut self, arrival: Duration, timestamp: u32, clock_rate: u32) {
        let rate = u64::from(clock_rate);
        let part = u64::from(arrival.subsec_nanos()) * rate / 1_000_000_000;
        let arrival = arrival.as_secs().wrapping_mul(rate).wrapping_add(part) as u32;
        let transit = arrival.wrapping_sub(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let difference = (transit.wrapping_sub(before) as i32).unsigned_abs();
            // A new timeline is no jitter.
            if difference < clock_rate {
                self.jitter += difference;
                self.jitter -= (self.jitter - difference + 8) >> 4;
            }
        }
    }

    /// The jitter, in steps of the sender's clock.
    pub fn jitter(&self) -> u32 {
        self.jitter >> 4
    }

    /// The highest number seen, with its wrap-arounds.
    pub fn highest_sequence(&self) -> u32 {
        (self.highest - (1 << 16)) as u32
    }

    /// What was counted since the source began.
    pub fn counts(&self) -> Counts {
        Counts {
            received: self.received,
            lost: self.expected().saturating_sub(self.received),
            reordered: self.reordered,
            duplicates: self.duplicates,
        }
    }

    /// The share of packets lost since this was asked before, in 1/256 (RFC 3550 appendix A.3).
    pub fn fraction_lost(&mut self) -> u8 {
        let (expected, received) = (self.expected(), self.received);
        let before = std::mem::replace(&mut self.reported, (expected, received));
        let expected = expected.saturating_sub(before.0);
        let lost = expected.saturating_sub(received.saturating_sub(before.1));
        (lost * 256).checked_div(expected).unwrap_or(0).min(255) as u8
    }

    fn expected(&self) -> u64 {
        self.highest - self.first + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_is_told_by_its_number() {
        let mut source = Source::new(1, 100);
        assert_eq!(source.order(101), Order::Ahead(1));
        assert_eq!(source.order(104), Order::Ahead(3));
        assert_eq!(source.order(102), Order::Reordered);
        assert_eq!(source.order(102), Order::Duplicate);
        assert_eq!(source.order(104), Order::Duplicate);
        let counts = source.counts();
        assert_eq!((counts.received, counts.lost), (4, 1));
        assert_eq!((counts.reordered, counts.duplicates), (1, 2));
    }

    #[test]
    fn numbers_wrap_around_without_loss() {
        let mut source = Source::new(1, u16::MAX - 1);
        assert_eq!(source.order(u16::MAX), Order::Ahead(1));
        assert_eq!(source.order(1), Order::Ahead(2));
        assert_eq!(source.order(0), Order::Reordered);
        assert_eq!(source.counts().lost, 0);
        assert_eq!(source.highest_sequence(), (1 << 16) + 1);
    }

    #[test]
    fn a_packet_from_before_the_first_is_counted() {
        let mut source = Source::new(1, 0);
        assert_eq!(source.order(u16::MAX), Order::Reordered);
        let counts = source.counts();
        assert_eq!((counts.received, counts.lost), (2, 0));
    }

    #[test]
    fn far_away_is_a_new_beginning() {
        assert_eq!(Source::new(1, 100).order(5_000), Order::Restart);
        assert_eq!(Source::new(1, 5_000).order(100), Order::Restart);
        assert_eq!(Source::new(1, 5_000).order(4_800), Order::Old);
    }

    #[test]
    fn numbers_set_back_a_little_are_a_new_beginning_too() {
        let mut source = Source::new(1, 1_000);
        let orders: Vec<_> = (700..708).map(|sequence| source.order(sequence)).collect();
        assert_eq!(orders[..7], [Order::Old; 7]);
        assert_eq!(orders[7], Order::Restart);
        // Packets that come twice, each after itself, are nothing of the kind.
        let mut source = Source::new(1, 0);
        for sequence in 1..50 {
            assert_eq!(source.order(sequence), Order::Ahead(1));
            assert_eq!(source.order(sequence), Order::Duplicate);
        }
    }

    #[test]
    fn a_dropout_longer_than_the_window_forgets_what_was_seen() {
        let mut source = Source::new(1, 0);
        assert_eq!(source.order(200), Order::Ahead(200));
        assert_eq!(source.order(100), Order::Reordered);
        assert_eq!(source.counts().lost, 198);
    }

    #[test]
    fn the_share_of_loss_is_of_the_time_since_the_last_report() {
        let mut source = Source::new(1, 0);
        for sequence in (2..=8).step_by(2) {
            source.order(sequence);
        }
        assert_eq!(source.fraction_lost(), (4 * 256 / 9) as u8);
        for sequence in 9..20 {
            source.order(sequence);
        }
        assert_eq!(source.fraction_lost(), 0);
        assert_eq!(source.fraction_lost(), 0);
    }

    #[test]
    fn even_arrival_has_no_jitter_and_uneven_has() {
        let mut even = Source::new(1, 0);
        let mut uneven = Source::new(1, 0);
        for n in 0..200_u32 {
            let due = Duration::from_millis(20 * u64::from(n));
            even.measure(due, n * 160, 8_000);
            uneven.measure(
                due + Duration::from_millis(u64::from(n % 2) * 10),
                n * 160,
                8_000,
            );
        }
        assert_eq!(even.jitter(), 0);
        assert!((70..=80).contains(&uneven.jitter()), "{}", uneven.jitter());
    }
}
