//! The caller's voice on one line of time: a ring of the last seconds, written where each packet's
//! timestamp says, whatever the order of arrival, and read when it has settled.
//!
//! The RTP timestamp is the timeline. A gap in it is silence of just that length. Only where
//! timestamps say nothing, because the sender began anew or jumped, the time of arrival decides.

use std::time::Duration;
use std::time::Instant;

use crate::media::audio::Codec;
use crate::media::audio::ComfortNoise;
use crate::media::audio::SAMPLE_RATE;
use crate::media::jitter::Order;

/// Samples that the ring holds: what may be kept of the time before a recording, the reorder
/// window, and room to wait for a slow disk.
pub const CAPACITY: usize = 18_432;

/// How far a timestamp may run ahead of the packets that were sent and of the clock, in samples.
/// Further is a jump and no pause.
const MAX_LEAD: u64 = SAMPLE_RATE as u64;
/// A new timeline that begins so soon after the old one follows it without a gap.
const SNAP: u64 = 60 * SAMPLE_RATE as u64 / 1_000;

/// The number of samples in a stretch of time.
pub fn samples_in(time: Duration) -> u64 {
    let part = u64::from(time.subsec_micros()) * u64::from(SAMPLE_RATE) / 1_000_000;
    time.as_secs()
        .saturating_mul(u64::from(SAMPLE_RATE))
        .saturating_add(part)
}

/// The ring. Positions count samples from the first one heard and never go back.
#[derive(Debug)]
pub struct Timeline {
    samples: Box<[i16]>,
    /// Position after the newest sample.
    end: u64,
    /// What lies before was a pause too long to be written out.
    floor: u64,
    /// The noise of that pause.
    pause: Option<ComfortNoise>,
    /// What lies before will not change any more.
    settled: u64,
    window: u64,
    /// Position of the oldest sample of all, once there is one.
    first: Option<u64>,
    newest: Option<Newest>,
    /// Whether the timestamps to come have nothing to do with those before.
    interrupted: bool,
    noise: Option<ComfortNoise>,
}

/// The packet with the highest number so far.
#[derive(Debug, Clone, Copy)]
struct Newest {
    timestamp: u32,
    position: u64,
    len: u64,
    arrival: Instant,
}

impl Timeline {
    /// An empty line of time. Packets may come late by `window` samples.
    pub fn new(window: u64) -> Self {
        Self {
            samples: vec![0; CAPACITY].into(),
            end: 0,
            floor: 0,
            pause: None,
            settled: 0,
            window: window.min(CAPACITY as u64 / 4),
            first: None,
            newest: None,
            interrupted: false,
            noise: None,
        }
    }

    /// Position after the newest sample.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Position up to which nothing changes any more.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Position of the oldest sample of all. It is final when it has settled: packets that were
    /// sent before the one that came first are put before it.
    pub fn first(&self) -> Option<u64> {
        self.first
    }

    /// The oldest position that can be read as it was.
    pub fn oldest(&self) -> u64 {
        self.floor.max(self.end.saturating_sub(CAPACITY as u64))
    }

    /// Whether writing up to `end` would overwrite what lies at `position` or after it.
    pub fn would_overwrite(&self, position: u64, end: u64) -> bool {
        let position = position.max(self.floor);
        position < self.end && end.saturating_sub(CAPACITY as u64) > position
    }

    /// The sender began anew: its next packet is placed by the clock.
    pub fn interrupt(&mut self) {
        self.interrupted = true;
    }

    /// Where `len` samples of a packet belong, or `None` if that has settled already.
    pub fn place(&mut self, now: Instant, order: Order, timestamp: u32, len: usize) -> Option<u64> {
        let len = len as u64;
        let position = match (self.newest, order) {
            (_, Order::Duplicate | Order::Old) => return None,
            // There is room for packets that were overtaken by this one.
            (None, _) => self.window,
            (Some(newest), Order::Restart) => self.follow_clock(now, &newest),
            (Some(newest), _) if self.interrupted => self.follow_clock(now, &newest),
            (Some(newest), Order::Reordered) => {
                let behind = newest.timestamp.wrapping_sub(timestamp) as i32;
                let position = newest.position.checked_sub(u64::try_from(behind).ok()?)?;
                return self.unless_settled(position);
            }
            (Some(newest), Order::Ahead(packets)) => {
                let ahead = timestamp.wrapping_sub(newest.timestamp) as i32;
                let sent = u64::from(packets) * newest.len.max(len);
                let elapsed = samples_in(now.saturating_duration_since(newest.arrival));
                match u64::try_from(ahead) {
                    Ok(ahead @ 1..) if ahead <= sent.max(elapsed) + MAX_LEAD => {
                        newest.position + ahead
                    }
                    _ => self.follow_clock(now, &newest),
                }
            }
        };
        self.interrupted = false;
        self.newest = Some(Newest {
            timestamp,
            position,
            len,
            arrival: now,
        });
        self.unless_settled(position)
    }

    fn unless_settled(&mut self, position: u64) -> Option<u64> {
        if position < self.settled {
            return None;
        }
        self.first = Some(self.first.map_or(position, |first| first.min(position)));
        Some(position)
    }

    /// Where a packet belongs whose timestamp says nothing.
    fn follow_clock(&self, now: Instant, newest: &Newest) -> u64 {
        let elapsed = samples_in(now.saturating_duration_since(newest.arrival));
        let position = newest.position + elapsed;
        if position < self.end + SNAP {
            self.end
        } else {
            position
        }
    }

    /// The position of what is spoken now, judged by the clock.
    pub fn position_at(&self, now: Instant) -> u64 {
        self.newest.map_or(self.end, |newest| {
            newest.position + newest.len + samples_in(now.saturating_duration_since(newest.arrival))
        })
    }

    /// The position of a timestamp near the newest packet's.
    pub fn position_of(&self, timestamp: u32) -> Option<u64> {
        let newest = self.newest?;
        let ahead = timestamp.wrapping_sub(newest.timestamp) as i32;
        let near = ahead.unsigned_abs() < 5 * SAMPLE_RATE;
        near.then(|| newest.position.checked_add_signed(i64::from(ahead)))?
    }

    /// Writes a packet of audio where [`Timeline::place`] told.
    pub fn write(&mut self, position: u64, codec: Codec, payload: &[u8]) {
        self.fill_up_to(position, payload.len());
        if position >= self.end {
            self.noise = None;
        }
        let at = (position % CAPACITY as u64) as usize;
        let (wrapped, straight) = self.samples.split_at_mut(at);
        let done = codec.decode(payload, straight);
        if let Some(rest) = payload.get(done..) {
            codec.decode(rest, wrapped);
        }
        self.reach(position + payload.len() as u64);
    }

    /// From `position` on there is noise until audio comes again (RFC 3389).
    pub fn write_noise(&mut self, position: u64, noise: ComfortNoise, len: usize) {
        self.fill_up_to(position, len);
        if position + len as u64 > self.end {
            self.noise = Some(noise);
            self.fill_up_to(position + len as u64, 0);
            self.reach(position + len as u64);
        }
    }

    fn reach(&mut self, end: u64) {
        self.end = self.end.max(end);
        self.settled = self.settled.max(self.end.saturating_sub(self.window));
    }

    /// Fills the gap before `position`, or forgets it if it is longer than the ring.
    fn fill_up_to(&mut self, position: u64, len: usize) {
        if position <= self.end {
            return;
        }
        if position + len as u64 - self.end > CAPACITY as u64 {
            self.floor = position;
            self.pause = self.noise.clone();
            self.end = position;
            return;
        }
        let mut gap = (position - self.end) as usize;
        let mut at = (self.end % CAPACITY as u64) as usize;
        while gap > 0 {
            let run = gap.min(CAPACITY - at);
            let samples = &mut self.samples[at..at + run];
            match &mut self.noise {
                Some(noise) => noise.fill(samples),
                None => samples.fill(0),
            }
            gap -= run;
            at = 0;
        }
        self.end = position;
    }

    /// Nothing more comes: all there is has settled.
    pub fn settle(&mut self) {
        self.settled = self.end;
    }

    /// Copies what lies from `position` on. What is not there any more is a pause.
    pub fn read(&self, position: u64, out: &mut [i16]) {
        let missing = self.oldest().saturating_sub(position);
        let missing = usize::try_from(missing)
            .unwrap_or(usize::MAX)
            .min(out.len());
        let (pause, out) = out.split_at_mut(missing);
        match &self.pause {
            Some(noise) if position < self.floor => noise.clone().fill(pause),
            _ => pause.fill(0),
        }
        let from = position + missing as u64;
        let there = self.end.saturating_sub(from).min(out.len() as u64) as usize;
        let (out, silence) = out.split_at_mut(there);
        silence.fill(0);
        let at = (from % CAPACITY as u64) as usize;
        let straight = there.min(CAPACITY - at);
        let (first, second) = out.split_at_mut(straight);
        first.copy_from_slice(&self.samples[at..at + straight]);
        second.copy_from_slice(&self.samples[..there - straight]);
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::disallowed_methods,
        reason = "virtual time begins at some moment"
    )]

    use super::*;

    const FRAME: Duration = Duration::from_millis(20);
    const WINDOW: u64 = 1_600;

    /// A frame whose samples are all `value`, encoded. µ-law keeps these values.
    fn frame(value: i16) -> [u8; 160] {
        let mut payload = [0; 160];
        Codec::Pcmu.encode(&[value; 160], &mut payload);
        payload
    }

    /// What µ-law makes of a value.
    fn heard(value: i16) -> i16 {
        let mut samples = [0; 1];
        Codec::Pcmu.decode(&frame(value)[..1], &mut samples);
        samples[0]
    }

    fn put(
        line: &mut Timeline,
        now: Instant,
        order: Order,
        timestamp: u32,
        value: i16,
    ) -> Option<u64> {
        let position = line.place(now, order, timestamp, 160)?;
        line.write(position, Codec::Pcmu, &frame(value));
        position.checked_sub(WINDOW)
    }

    /// The sample so far after the beginning of the first packet.
    fn at(line: &Timeline, position: u64) -> i16 {
        let mut sample = [0];
        line.read(WINDOW + position, &mut sample);
        sample[0]
    }

    #[test]
    fn a_gap_in_the_timestamps_is_silence_of_its_length() {
        let (mut line, t0) = (Timeline::new(WINDOW), Instant::now());
        put(&mut line, t0, Order::Ahead(1), 5_000, 1_000);
        let later = t0 + Duration::from_millis(500);
        assert_eq!(
            put(&mut line, later, Order::Ahead(1), 9_000, 2_000),
            Some(4_000)
        );
        assert_eq!(line.end(), WINDOW + 4_160);
        assert_eq!(
            [at(&line, 159), at(&line, 160), at(&line, 3_999)],
            [heard(1_000), 0, 0]
        );
        assert_eq!(at(&line, 4_000), heard(2_000));
    }

    #[test]
    fn a_late_packet_takes_its_place_until_that_has_settled() {
        let (mut line, t0) = (Timeline::new(WINDOW), Instant::now());
        put(&mut line, t0, Order::Ahead(1), 0, 1_000);
        put(&mut line, t0 + FRAME, Order::Ahead(2), 320, 3_000);
        assert_eq!(at(&line, 160), 0);
        assert_eq!(
            put(&mut line, t0 + FRAME, Order::Reordered, 160, 2_000),
            Some(160)
        );
        assert_eq!(at(&line, 160), heard(2_000));
        put(&mut line, t0 + FRAME, Order::Ahead(15), 16 * 160, 4_000);
        assert_eq!(line.settled(), 17 * 160);
        assert_eq!(
            put(&mut line, t0 + FRAME, Order::Reordered, 480, 2_000),
            None
        );
    }

    #[test]
    fn packets_that_the_first_one_overtook_are_put_before_it() {
        let (mut line, t0) = (Timeline::new(WINDOW), Instant::now());
        put(&mut line, t0, Order::Ahead(1), 480, 1_000);
        let before = line.place(t0, Order::Reordered, 160, 160).unwrap();
        line.write(before, Codec::Pcmu, &frame(2_000));
        assert_eq!(line.first(), Some(WINDOW - 320));
        let mut sample = [0];
        line.read(before, &mut sample);
        assert_eq!(sample, [heard(2_000)]);
    }

    #[test]
    fn a_jump_of_the_timestamp_is_no_pause() {
        for jump in [500_000_u32, 80_000_u32.wrapping_neg(), 0x8000_0000] {
            let (mut line, t0) = (Timeline::new(WINDOW), Instant::now());
            put(&mut line, t0, Order::Ahead(1), 100, 1_000);
            let position = put(
                &mut line,
                t0 + FRAME,
                Order::Ahead(1),
                jump.wrapping_add(260),
                2_000,
            );
            assert_eq!(position, Some(160), "jump of {jump}");
            let position = put(
                &mut line,
                t0 + 2 * FRAME,
                Order::Ahead(1),
                jump.wrapping_add(420),
                2_000,
            );
            assert_eq!(position, Some(320));
        }
    }

    #[test]
    fn a_new_sender_is_placed_by_the_clock() {
        let (mut line, t0) = (Timeline::new(WINDOW), Instant::now());
        put(&mut line, t0, Order::Ahead(1), 100, 1_000);
        assert_eq!(
            put(&mut line, t0 + FRAME, Order::Restart, 77, 2_000),
            Some(160)
        );
        let later = t0 + FRAME + Duration::from_secs(1);
        assert_eq!(
            put(&mut line, later, Order::Restart, 77_000, 2_000),
            Some(8_160)
        );
    }

    #[test]
    fn packets_that_were_held_up_keep_their_timestamps() {
        let (mut line, t0) = (Timeline::new(WINDOW), Instant::now());
        put(&mut line, t0, Order::Ahead(1), 0, 1_000);
        let stalled = t0 + Duration::from_secs(3);
        for n in 1..150 {
            assert_eq!(
                put(&mut line, stalled, Order::Ahead(1), n * 160, 1_000),
                Some(u64::from(n) * 160)
            );
        }
    }

    #[test]
    fn the_timestamp_wraps_around_unnoticed() {
        let (mut line, t0) = (Timeline::new(WINDOW), Instant::now());
        put(&mut line, t0, Order::Ahead(1), u32::MAX - 99, 1_000);
        assert_eq!(
            put(&mut line, t0 + FRAME, Order::Ahead(1), 60, 1_000),
            Some(160)
        );
    }

    #[test]
    fn a_pause_longer_than_the_ring_reads_as_silence() {
        let (mut line, t0) = (Timeline::new(WINDOW), Instant::now());
        put(&mut line, t0, Order::Ahead(1), 0, 1_000);
        let later = t0 + Duration::from_secs(60);
        assert_eq!(
            put(&mut line, later, Order::Ahead(1), 480_000, 2_000),
            Some(480_000)
        );
        assert_eq!(
            [at(&line, 0), at(&line, 479_999), at(&line, 480_000)],
            [0, 0, heard(2_000)]
        );
        assert_eq!(line.oldest(), WINDOW + 480_000);
    }

    #[test]
    fn noise_goes_on_until_audio_comes() {
        let (mut line, t0) = (Timeline::new(WINDOW), Instant::now());
        put(&mut line, t0, Order::Ahead(1), 0, 1_000);
        let position = line.place(t0 + FRAME, Order::Ahead(1), 160, 160).unwrap();
        line.write_noise(position, ComfortNoise::at_level(40), 160);
        put(&mut line, t0 + 50 * FRAME, Order::Ahead(1), 8_000, 1_000);
        put(&mut line, t0 + 60 * FRAME, Order::Ahead(1), 9_600, 1_000);
        let mut noise = [0; 7_840];
        line.read(WINDOW + 160, &mut noise);
        assert!(noise.iter().filter(|s| **s != 0).count() > 7_000);
        assert_eq!(at(&line, 8_500), 0);
    }

    proptest::proptest! {
        #[test]
        fn no_sequence_of_packets_breaks_the_line(
            packets in proptest::collection::vec(
                (0..6_u8, proptest::num::u32::ANY, 0..1_500_usize, 0..90_000_u64), 0..60,
            )
        ) {
            let mut line = Timeline::new(WINDOW);
            let mut now = Instant::now();
            for (kind, number, len, elapsed_ms) in packets {
                now += Duration::from_millis(elapsed_ms);
                let order = match kind {
                    0..=2 => Order::Ahead((number % 2_999) as u16 + 1),
                    3 => Order::Reordered,
                    4 => Order::Restart,
                    _ => Order::Old,
                };
                let end = line.end();
                if let Some(position) = line.place(now, order, number, len) {
                    line.write(position, Codec::Pcma, &vec![0; len]);
                }
                proptest::prop_assert!(line.end() >= end && line.settled() <= line.end());
                let mut out = [0; 320];
                line.read(line.settled(), &mut out);
                line.read(number.into(), &mut out);
            }
        }
    }
}
