//! What the workers count. Each worker writes its own numbers, anyone may read them.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::media::link::Refused;
use crate::media::session::Received;

/// Why a packet was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Dropped {
    /// No valid RTP of version 2, nor RTCP.
    Malformed,
    /// From nobody we are in a call with.
    Stranger,
    /// From a call that has ended.
    Closed,
    /// Of a payload type that was never agreed on.
    PayloadType,
    /// It had been there before.
    Duplicate,
    /// Its time had passed.
    Late,
    /// A check of ICE for nobody here, or with a wrong signature.
    StunUnsigned,
    /// Media before there were keys.
    NoKeys,
    /// Not protected with the keys agreed on.
    Forged,
}

impl Dropped {
    /// All reasons with their names, for metrics.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Malformed, "malformed"),
        (Self::Stranger, "stranger"),
        (Self::Closed, "closed_call"),
        (Self::PayloadType, "payload_type"),
        (Self::Duplicate, "duplicate"),
        (Self::Late, "late"),
        (Self::StunUnsigned, "stun_unsigned"),
        (Self::NoKeys, "no_keys"),
        (Self::Forged, "forged"),
    ];

    /// Why a link did not take a packet.
    pub(super) fn by_link(why: Refused) -> Self {
        match why {
            Refused::Malformed => Self::Malformed,
            Refused::Unproven => Self::Stranger,
            Refused::Unsigned => Self::StunUnsigned,
            Refused::NoKeys => Self::NoKeys,
            Refused::Forged => Self::Forged,
            Refused::Replayed => Self::Duplicate,
        }
    }

    /// Why a call did not take a packet.
    pub(super) fn of(received: Received) -> Option<Self> {
        match received {
            Received::Taken => None,
            Received::Duplicate => Some(Self::Duplicate),
            Received::Late => Some(Self::Late),
            Received::UnknownPayloadType => Some(Self::PayloadType),
            Received::Malformed => Some(Self::Malformed),
        }
    }
}

/// A number that one thread writes.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Only the worker's own thread adds, so that nothing is lost between reading and writing.
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.read() + n, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Steps of 100 µs up to 10 ms, of 1 ms up to 60 ms, and beyond.
const FINE_STEPS: usize = 100;
const BUCKETS: usize = FINE_STEPS + 50 + 1;

/// How late frames were.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: [Counter; BUCKETS],
    max_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Counter::default()),
            max_us: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    pub(super) fn add(&self, late: Duration, frames: u64) {
        let us = late.as_micros() as u64;
        let bucket = match us as usize {
            fine @ 0..10_000 => fine / 100,
            coarse => (FINE_STEPS + (coarse - 10_000) / 1_000).min(BUCKETS - 1),
        };
        self.buckets[bucket].add(frames);
        if us > self.max_us.load(Ordering::Relaxed) {
            self.max_us.store(us, Ordering::Relaxed);
        }
    }
}

/// One worker's numbers.
#[derive(Debug, Default)]
pub(super) struct WorkerStats {
    /// Calls that the worker has or is about to get; the engine adds, the worker takes away.
    pub(super) load: AtomicUsize,
    pub(super) opened: Counter,
    pub(super) closed: Counter,
    pub(super) received: Counter,
    pub(super) dropped: [Counter; Dropped::ALL.len()],
    pub(super) sent: Counter,
    pub(super) send_errors: Counter,
    pub(super) receive_errors: Counter,
    pub(super) skipped_frames: Counter,
    pub(super) panics: Counter,
    pub(super) late: Histogram,
}

impl WorkerStats {
    pub(super) fn drop_packet(&self, why: Dropped) {
        self.dropped[why as usize].add(1);
    }
}

/// The numbers of all workers together, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Calls with media now.
    pub sessions: u64,
    /// Calls that have been opened.
    pub opened: u64,
    /// Datagrams received, whatever became of them.
    pub packets_received: u64,
    /// Datagrams that were not taken, by reason; see [`Dropped`].
    pub packets_dropped: [(&'static str, u64); Dropped::ALL.len()],
    /// Datagrams sent.
    pub packets_sent: u64,
    /// Datagrams that the system refused to send.
    pub send_errors: u64,
    /// Failed receive calls.
    pub receive_errors: u64,
    /// Frames left out because they were too late to be of use.
    pub skipped_frames: u64,
    /// Calls ended by a defect of ours.
    pub panics: u64,
    /// How late frames went out.
    pub lateness: Lateness,
}

impl Stats {
    pub(super) fn sum<'a>(workers: &(impl Iterator<Item = &'a WorkerStats> + Clone)) -> Self {
        let total = |of: fn(&WorkerStats) -> &Counter| workers.clone().map(|w| of(w).read()).sum();
        let mut lateness = Lateness::default();
        for worker in workers.clone() {
            lateness.add(&worker.late);
        }
        Self {
            sessions: workers
                .clone()
                .map(|w| w.opened.read().saturating_sub(w.closed.read()))
                .sum(),
            opened: total(|w| &w.opened),
            packets_received: total(|w| &w.received),
            packets_dropped: Dropped::ALL.map(|(why, name)| {
                let dropped = workers.clone().map(|w| w.dropped[why as usize].read());
                (name, dropped.sum())
            }),
            packets_sent: total(|w| &w.sent),
            send_errors: total(|w| &w.send_errors),
            receive_errors: total(|w| &w.receive_errors),
            skipped_frames: total(|w| &w.skipped_frames),
            panics: total(|w| &w.panics),
            lateness,
        }
    }

    /// Datagrams not taken for this reason.
    pub fn dropped(&self, why: Dropped) -> u64 {
        self.packets_dropped[why as usize].1
    }
}

/// How late frames went out, measured when the system had taken them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lateness {
    buckets: [u64; BUCKETS],
    /// The latest of all.
    pub max: Duration,
}

impl Default for Lateness {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            max: Duration::ZERO,
        }
    }
}

impl Lateness {
    fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.read();
        }
        let max = histogram.max_us.load(Ordering::Relaxed);
        self.max = self.max.max(Duration::from_micros(max));
    }

    /// Number of frames.
    pub fn frames(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The time within which this share of the frames went out (0.99 for the 99th percentile),
    /// rounded up to the histogram's step.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.frames() as f64 * share).ceil() as u64;
        let mut frames = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            frames += bucket;
            if frames >= wanted.max(1) {
                return upper_bound(index).min(self.max);
            }
        }
        Duration::ZERO
    }

    /// The frames since an earlier look, for a measurement; the maximum stays that of all time.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = self.clone();
        for (bucket, before) in difference.buckets.iter_mut().zip(&earlier.buckets) {
            *bucket = bucket.saturating_sub(*before);
        }
        difference
    }

    /// Upper bounds and numbers of frames, not cumulated, for metrics.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.buckets
            .iter()
            .enumerate()
            .map(|(index, frames)| (upper_bound(index), *frames))
    }
}

fn upper_bound(bucket: usize) -> Duration {
    match bucket {
        fine @ 0..FINE_STEPS => Duration::from_micros(100 * (fine as u64 + 1)),
        coarse if coarse < BUCKETS - 1 => {
            Duration::from_millis(10 + (coarse - FINE_STEPS) as u64 + 1)
        }
        _ => Duration::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_come_from_the_histogram() {
        let worker = WorkerStats::default();
        worker.late.add(Duration::from_micros(50), 98);
        worker.late.add(Duration::from_micros(4_250), 1);
        worker.late.add(Duration::from_millis(500), 1);
        let stats = Stats::sum(&[&worker].into_iter());
        assert_eq!(stats.lateness.frames(), 100);
        assert_eq!(stats.lateness.quantile(0.5), Duration::from_micros(100));
        assert_eq!(stats.lateness.quantile(0.99), Duration::from_micros(4_300));
        assert_eq!(stats.lateness.quantile(1.0), Duration::from_millis(500));
        assert_eq!(stats.lateness.max, Duration::from_millis(500));
    }

    #[test]
    fn nothing_measured_is_never_late() {
        assert_eq!(Lateness::default().quantile(0.99), Duration::ZERO);
    }

    #[test]
    fn numbers_of_all_workers_are_added() {
        let workers = [WorkerStats::default(), WorkerStats::default()];
        for worker in &workers {
            worker.opened.add(3);
            worker.closed.add(1);
            worker.drop_packet(Dropped::Late);
        }
        let stats = Stats::sum(&workers.iter());
        assert_eq!((stats.sessions, stats.opened), (4, 6));
        assert_eq!(stats.dropped(Dropped::Late), 2);
        assert_eq!(stats.dropped(Dropped::Stranger), 0);
    }

    #[test]
    fn reasons_stand_at_their_own_place() {
        for (index, (why, _)) in Dropped::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, index);
        }
    }
}
