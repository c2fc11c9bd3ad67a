#![expect(
    clippy::disallowed_methods,
    reason = "virtual time begins at some moment"
)]

use super::*;

use crate::media::audio::Codec;

const FRAME: Duration = Duration::from_millis(20);
/// Ticks of a frame, and of a millisecond.
const TICKS: u64 = 960;
const MS: u64 = 48;
const WINDOW: u64 = 200 * MS;

/// A line, and the numbers of the packets that are put on it.
struct Line {
    line: Timeline,
    sequence: u16,
    begun: Instant,
}

impl Line {
    fn new() -> Self {
        Self {
            line: Timeline::new(WINDOW),
            sequence: 100,
            begun: Instant::now(),
        }
    }

    /// Puts a frame of G.711; its codes are `name`.
    fn put(&mut self, ms: u64, order: Order, timestamp: u32, name: u8) -> bool {
        self.sequence = match order {
            Order::Ahead(packets) => self.sequence.wrapping_add(packets),
            Order::Restart => self.sequence.wrapping_add(30_000),
            _ => self.sequence,
        };
        self.put_as(ms, order, self.sequence, timestamp, name)
    }

    fn put_as(&mut self, ms: u64, order: Order, sequence: u16, timestamp: u32, name: u8) -> bool {
        let now = self.begun + Duration::from_millis(ms);
        let arrived = Arrived {
            sequence,
            timestamp,
            clock_ticks: 6,
            what: What::Audio(Codec::Pcmu, &[name; 160]),
        };
        self.line.put(now, order, &arrived)
    }

    /// Everything that can be heard now: where it lies after the first, what was lost before it, and
    /// its name.
    fn heard(&mut self) -> Vec<(u64, u8, u8)> {
        let mut heard = Vec::new();
        while let Some(packet) = self.line.hear() {
            let What::Audio(_, payload) = packet.what else {
                panic!("it is audio")
            };
            heard.push((packet.position - WINDOW, packet.lost, payload[0]));
        }
        heard
    }

    /// The same, when nothing more comes.
    fn all_heard(&mut self) -> Vec<(u64, u8, u8)> {
        self.line.settle();
        self.heard()
    }
}

#[test]
fn a_gap_in_the_timestamps_is_a_gap_of_its_length() {
    let mut line = Line::new();
    line.put(0, Order::Restart, 5_000, 1);
    line.put(500, Order::Ahead(1), 9_000, 2);
    assert_eq!(line.line.end(), WINDOW + 4_160 * 6);
    assert_eq!(line.all_heard(), [(0, 0, 1), (4_000 * 6, 0, 2)]);
}

/// As of a sender of wideband that counts by another clock than it told.
#[test]
fn a_clock_that_is_too_slow_puts_no_packet_upon_another() {
    let mut line = Line::new();
    line.put(0, Order::Restart, 0, 1);
    for n in 1..10_u8 {
        line.put(20 * u64::from(n), Order::Ahead(1), 80 * u32::from(n), n + 1);
    }
    let expected: Vec<_> = (0..10).map(|n| (u64::from(n) * TICKS, 0, n + 1)).collect();
    assert_eq!(line.all_heard(), expected);
}

#[test]
fn what_is_lost_is_told_with_the_packet_after_it() {
    let mut line = Line::new();
    line.put(0, Order::Restart, 0, 1);
    line.put(60, Order::Ahead(3), 480, 4);
    line.put(80, Order::Ahead(1), 640, 5);
    let heard = [(0, 0, 1), (3 * TICKS, 2, 4), (4 * TICKS, 0, 5)];
    assert_eq!(line.all_heard(), heard);
}

#[test]
fn the_first_packet_waits_for_those_it_may_have_overtaken() {
    let mut line = Line::new();
    line.put(0, Order::Restart, 480, 4);
    assert!(line.put_as(5, Order::Reordered, line.sequence - 2, 160, 2));
    assert_eq!(line.heard(), []);
    for n in 1..=11 {
        line.put(20 * u64::from(n), Order::Ahead(1), 480 + 160 * n, 4);
    }
    let heard = line.line.hear().map(|packet| packet.position);
    assert_eq!(heard, Some(WINDOW - 2 * TICKS));
    assert_eq!(line.line.first(), heard);
}

#[test]
fn a_packet_waits_only_for_those_that_are_missing_before_it() {
    let mut line = Line::new();
    line.put(0, Order::Restart, 0, 1);
    assert_eq!(line.all_heard().len(), 1);
    line.put(20, Order::Ahead(1), 160, 2);
    assert_eq!(line.heard(), [(TICKS, 0, 2)]);
    line.put(60, Order::Ahead(2), 480, 4);
    assert_eq!(line.heard(), []);
    let late = line.sequence - 1;
    assert!(line.put_as(70, Order::Reordered, late, 320, 3));
    assert_eq!(line.heard(), [(2 * TICKS, 0, 3), (3 * TICKS, 0, 4)]);
    assert!(!line.put_as(70, Order::Reordered, late, 320, 3));
}

#[test]
fn no_packet_waits_longer_than_the_window() {
    let mut line = Line::new();
    line.put(0, Order::Restart, 0, 1);
    line.all_heard();
    line.put(40, Order::Ahead(2), 320, 3);
    let missing = line.sequence - 1;
    for n in 3..=12 {
        line.put(20 * u64::from(n), Order::Ahead(1), 160 * n, 4);
        assert_eq!(line.line.oldest().map(|packet| packet.lost), Some(0));
        let heard = line.heard();
        assert_eq!(heard.is_empty(), n < 12, "{n}: {heard:?}");
    }
    assert!(!line.put_as(241, Order::Reordered, missing, 160, 2));
}

#[test]
fn a_packet_that_is_no_audio_is_not_missing() {
    let mut line = Line::new();
    line.put(0, Order::Restart, 0, 1);
    line.all_heard();
    line.sequence += 1;
    line.line.pass(Order::Ahead(1), line.sequence);
    line.put(40, Order::Ahead(1), 320, 3);
    assert_eq!(line.heard(), [(2 * TICKS, 0, 3)]);
}

#[test]
fn a_jump_of_the_timestamp_is_no_pause() {
    for jump in [500_000_u32, 80_000_u32.wrapping_neg(), 0x8000_0000] {
        let mut line = Line::new();
        line.put(0, Order::Restart, 100, 1);
        line.put(20, Order::Ahead(1), jump.wrapping_add(260), 2);
        line.put(40, Order::Ahead(1), jump.wrapping_add(420), 3);
        let heard = [(0, 0, 1), (TICKS, 0, 2), (2 * TICKS, 0, 3)];
        assert_eq!(line.all_heard(), heard, "jump of {jump}");
    }
}

#[test]
fn a_new_sender_is_placed_by_the_clock_and_waits_for_nothing_of_the_old_one() {
    let mut line = Line::new();
    line.put(0, Order::Restart, 100, 1);
    line.put(40, Order::Ahead(2), 420, 3);
    line.line.interrupt();
    line.put(60, Order::Restart, 77, 4);
    assert_eq!(line.heard(), [(0, 0, 1), (2 * TICKS, 1, 3)]);
    line.line.interrupt();
    line.put(1_060, Order::Restart, 77_000, 5);
    assert_eq!(
        line.all_heard(),
        [(3 * TICKS, 0, 4), (3 * TICKS + 1_000 * MS, 0, 5)]
    );
}

#[test]
fn another_clock_goes_on_where_the_one_before_was() {
    let mut line = Line::new();
    line.put(0, Order::Restart, 100, 1);
    // 20 ms of Opus: a configuration byte, and a frame.
    let opus = Arrived {
        sequence: line.sequence + 1,
        timestamp: 0x4000_0000,
        clock_ticks: 1,
        what: What::Audio(Codec::Opus, &[0x78, 1, 2]),
    };
    assert!(line.line.put(line.begun + FRAME, Order::Ahead(1), &opus));
    line.sequence += 1;
    line.put(40, Order::Ahead(1), 7_000_000, 3);
    assert_eq!(line.line.end(), WINDOW + 3 * TICKS);
    line.line.settle();
    let positions: Vec<_> = std::iter::from_fn(|| line.line.hear().map(|p| p.position)).collect();
    assert_eq!(positions, [WINDOW, WINDOW + TICKS, WINDOW + 2 * TICKS]);
}

#[test]
fn packets_that_were_held_up_keep_their_timestamps() {
    let mut line = Line::new();
    line.put(0, Order::Restart, 0, 1);
    for n in 1..150 {
        line.put(3_000, Order::Ahead(1), n * 160, 2);
    }
    let heard = line.all_heard();
    assert_eq!(heard.last(), Some(&(149 * TICKS, 0, 2)));
}

#[test]
fn timestamps_and_numbers_wrap_around_unnoticed() {
    let mut line = Line::new();
    line.sequence = u16::MAX - 30_000;
    line.put(0, Order::Restart, u32::MAX - 99, 1);
    line.put(20, Order::Ahead(1), 60, 2);
    assert_eq!(line.all_heard(), [(0, 0, 1), (TICKS, 0, 2)]);
}

#[test]
fn memory_is_taken_as_it_is_needed_and_bounded() {
    let mut line = Line::new();
    assert_eq!(line.line.memory(), 0);
    line.put(0, Order::Restart, 0, 1);
    for n in 1..2_000_u32 {
        line.put(20 * u64::from(n), Order::Ahead(1), n * 160, 2);
        line.heard();
        while n < 1_000
            && line
                .line
                .oldest()
                .is_some_and(|p| p.end() < line.line.end())
        {
            line.line.forget_oldest();
        }
        let bound = if n < 1_000 { 2_600 } else { 48 * 1_024 };
        assert!(line.line.memory() <= bound, "{n}: {}", line.line.memory());
    }
    assert!(line.line.forgotten() > 1_000 * TICKS);
}

#[test]
fn a_flood_of_packets_that_are_no_audio_takes_no_memory_without_end() {
    let mut line = Line::new();
    line.put(0, Order::Restart, 0, 1);
    for n in 1..100_000_u32 {
        line.line.pass(Order::Ahead(1), n as u16);
        assert!(line.line.memory() <= 64 * 1_024, "{n}");
    }
}

/// Everything that can be heard, and nothing of it is kept.
fn drain(line: &mut Timeline, out: &mut Vec<(u64, u8, usize)>) {
    while let Some(packet) = line.hear() {
        let What::Audio(_, payload) = packet.what else {
            panic!("only audio was put in");
        };
        out.push((packet.position, packet.lost, payload.len()));
        line.forget_oldest();
    }
}

proptest::proptest! {
    #[test]
    fn no_sequence_of_packets_breaks_the_line(
        packets in proptest::collection::vec(
            (0..7_u8, proptest::num::u32::ANY, 0..1_500_usize, 0..90_000_u64), 0..60,
        )
    ) {
        let mut line = Timeline::new(WINDOW);
        let mut now = Instant::now();
        let (mut last, mut end) = (0, 0);
        for (kind, number, len, elapsed_ms) in packets {
            now += Duration::from_millis(elapsed_ms);
            let order = match kind {
                0..=2 => Order::Ahead((number % 2_999) as u16 + 1),
                3 | 4 => Order::Reordered,
                5 => Order::Restart,
                _ => Order::Old,
            };
            let payload = vec![0xFC; len];
            let codec = [Codec::Pcma, Codec::G722, Codec::Opus][len % 3];
            let what = What::Audio(codec, &payload);
            let sequence = (number >> 8) as u16;
            if number % 5 == 0 {
                line.pass(order, sequence);
            }
            let clock_ticks = codec.clock_ticks();
            line.put(now, order, &Arrived { sequence, timestamp: number, clock_ticks, what });
            proptest::prop_assert!(line.end() >= end);
            end = line.end();
            while let Some(packet) = line.hear() {
                proptest::prop_assert!(packet.position >= last);
                last = packet.position;
            }
            if number % 3 == 0 {
                line.forget_oldest();
            }
        }
    }

    #[test]
    fn what_passes_through_is_heard_where_it_would_be_if_it_were_kept(
        packets in proptest::collection::vec((0..100_u8, 0..40_u8, 1..400_usize), 0..200)
    ) {
        let (mut keeping, mut passing) = (Timeline::new(WINDOW), Timeline::new(WINDOW));
        let (mut kept, mut passed) = (Vec::new(), Vec::new());
        let (mut now, mut sequence, mut timestamp) = (Instant::now(), 65_500_u16, 5_u32);
        let mut ways = [0, 0];
        for (kind, jitter, len) in packets {
            now += Duration::from_millis(jitter.into());
            let (order, step) = match kind {
                0..=93 => (Order::Ahead(1), 1),
                94 => (Order::Ahead(3), 3),
                95 => (Order::Ahead(30), 30),
                96 | 97 => (Order::Reordered, 0),
                98 => (Order::Restart, 777),
                _ => (Order::Duplicate, 0),
            };
            sequence = sequence.wrapping_add(step);
            timestamp = timestamp.wrapping_add(160 * u32::from(step));
            let back = if order == Order::Reordered { 1 } else { 0 };
            let payload = vec![0xD5; len];
            let arrived = Arrived {
                sequence: sequence.wrapping_sub(back),
                timestamp: timestamp.wrapping_sub(160 * u32::from(back)),
                clock_ticks: Codec::Pcma.clock_ticks(),
                what: What::Audio(Codec::Pcma, &payload),
            };
            let is_put = keeping.put(now, order, &arrived);
            drain(&mut keeping, &mut kept);
            let is_taken = if passing.is_next(&arrived) {
                ways[0] += 1;
                let packet = passing.pass_through(now, order, &arrived);
                passed.extend(packet.map(|packet| (packet.position, packet.lost, len)));
                packet.is_some()
            } else {
                ways[1] += 1;
                passing.put(now, order, &arrived)
            };
            drain(&mut passing, &mut passed);
            proptest::prop_assert_eq!(is_put, is_taken);
            proptest::prop_assert_eq!(&kept, &passed);
            proptest::prop_assert_eq!(
                (keeping.end(), keeping.forgotten(), keeping.first()),
                (passing.end(), passing.forgotten(), passing.first())
            );
        }
        if ways[0] + ways[1] > 150 {
            proptest::prop_assert!(ways[0] > 0 && ways[1] > 0, "{:?}", ways);
        }
    }
}
