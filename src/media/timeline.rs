//! What the caller sends on one line of time: packets put where their timestamps say, whatever the
//! order of arrival, and heard in order when they have settled.
//!
//! The RTP timestamp is the timeline. A gap in it is a gap of just that length. Only where timestamps
//! say nothing, because the sender began anew, jumped, or went over to another clock, the time of
//! arrival decides.

mod held;

use std::time::Duration;
use std::time::Instant;

use crate::media::audio::TICK_RATE;
use crate::media::jitter::Order;
use crate::media::recording::What;
use crate::media::timeline::held::Held;

pub use crate::media::timeline::held::Packet;

/// Bytes that packets may take before the oldest go: two seconds of G.711 and more.
const MOST_BYTES: usize = 32 * 1_024;
/// How far a timestamp may run ahead of the packets that were sent and of the clock, in ticks.
/// Further is a jump and no pause.
const MAX_LEAD: u64 = TICK_RATE as u64;
/// A new timeline that begins so soon after the old one follows it without a gap.
const SNAP: u64 = 60 * TICK_RATE as u64 / 1_000;
/// How far from the newest packet a timestamp is believed.
const NEAR: u64 = 5 * TICK_RATE as u64;

/// The number of ticks in a stretch of time.
pub fn ticks_in(time: Duration) -> u64 {
    let part = u64::from(time.subsec_nanos()) * u64::from(TICK_RATE) / 1_000_000_000;
    time.as_secs()
        .saturating_mul(u64::from(TICK_RATE))
        .saturating_add(part)
}

/// A packet of audio or noise as it arrived.
#[derive(Debug, Clone, Copy)]
pub struct Arrived<'a> {
    /// Its number.
    pub sequence: u16,
    /// Its moment, by the sender's clock.
    pub timestamp: u32,
    /// Ticks in a step of that clock.
    pub clock_ticks: u32,
    /// What it holds.
    pub what: What<'a>,
}

/// The line. Positions count ticks from before the first packet and never go back.
///
/// A packet waits for those that are missing before it, and for them no longer than the reorder
/// window; then it can be heard, and no packet takes a place before it any more.
#[derive(Debug)]
pub struct Timeline {
    window: u64,
    held: Held,
    /// Position after the newest packet.
    end: u64,
    newest: Option<Newest>,
    /// Whether the timestamps to come have nothing to do with those before.
    interrupted: bool,
    /// Counts the sender's beginnings.
    run: u8,
    /// Run and number of the packet that is to be heard next, where that is known.
    next: Option<(u8, u16)>,
    heard: Option<Heard>,
    /// Whether what waits is to wait no longer.
    flushing: bool,
    /// Position after the last packet that is not there any more.
    forgotten: u64,
}

/// The packet with the highest number so far.
#[derive(Debug, Clone, Copy)]
struct Newest {
    timestamp: u32,
    clock_ticks: u32,
    position: u64,
    ticks: u64,
    /// Where its audio ends; noise gives way to audio at any time.
    audio_end: u64,
    arrival: Instant,
}

impl Newest {
    /// How far ahead `timestamp` is, by the same clock, in ticks.
    fn ticks_ahead(&self, timestamp: u32) -> i64 {
        let steps = timestamp.wrapping_sub(self.timestamp) as i32;
        i64::from(steps) * i64::from(self.clock_ticks)
    }

    /// How far ahead `packet` is in ticks; `None` if it goes by another clock.
    fn ticks_to(&self, packet: &Arrived<'_>) -> Option<i64> {
        (packet.clock_ticks == self.clock_ticks).then(|| self.ticks_ahead(packet.timestamp))
    }
}

/// What has been heard.
#[derive(Debug, Clone, Copy)]
struct Heard {
    /// Where the first packet begins.
    first: u64,
    /// Where the last one begins: nothing is put before it.
    last: u64,
}

impl Timeline {
    /// An empty line. A packet may come late by `window` ticks.
    pub fn new(window: u64) -> Self {
        Self {
            window,
            held: Held::default(),
            end: 0,
            newest: None,
            interrupted: false,
            run: 0,
            next: None,
            heard: None,
            flushing: false,
            forgotten: 0,
        }
    }

    /// Position after the newest packet.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Where the first packet of all that have been heard begins.
    pub fn first(&self) -> Option<u64> {
        self.heard.map(|heard| heard.first)
    }

    /// Position after the last packet that has been forgotten.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Bytes of memory that packets take.
    pub fn memory(&self) -> usize {
        self.held.capacity()
    }

    /// The sender began anew: its next packet is placed by the clock.
    pub fn interrupt(&mut self) {
        self.interrupted = true;
    }

    /// Whether this packet is the very next and nothing is kept: then it may [`Timeline::pass_through`].
    pub fn is_next(&self, packet: &Arrived<'_>) -> bool {
        let number = (self.run, packet.sequence);
        self.next == Some(number) && !self.interrupted && self.held.is_empty()
    }

    /// Puts a packet that [`Timeline::is_next`] in its place, where it is heard and forgotten at once.
    /// `None` if something has been heard there already.
    pub fn pass_through<'a>(
        &mut self,
        now: Instant,
        order: Order,
        packet: &Arrived<'a>,
    ) -> Option<Packet<'a>> {
        let position = self.find_place(now, order, packet)?;
        self.is_hearing(position, (self.run, packet.sequence));
        let packet = Packet {
            position,
            lost: 0,
            what: packet.what,
        };
        self.forgotten = self.forgotten.max(packet.end());
        Some(packet)
    }

    /// Puts a packet in its place: false if that has been heard already.
    pub fn put(&mut self, now: Instant, order: Order, packet: &Arrived<'_>) -> bool {
        let Some(position) = self.find_place(now, order, packet) else {
            return false;
        };
        let what = Some(packet.what);
        self.held.insert(position, packet.sequence, self.run, what);
        while self.held.size() > MOST_BYTES && self.oldest().is_some() {
            self.forget_oldest();
        }
        true
    }

    /// A packet that is no audio came in between: no audio is missing there. Of more than there is
    /// room for, as nobody sends between two packets of audio, nothing is kept.
    pub fn pass(&mut self, order: Order, sequence: u16) {
        let has_room = self.held.size() <= MOST_BYTES;
        let counts = has_room && matches!(order, Order::Ahead(_) | Order::Reordered);
        if counts && !self.interrupted && !self.is_heard(self.end, sequence) {
            self.held.insert(self.end, sequence, self.run, None);
        }
    }

    /// Where a packet belongs, unless that has been heard already.
    fn find_place(&mut self, now: Instant, order: Order, packet: &Arrived<'_>) -> Option<u64> {
        let position = self.place(now, order, packet)?;
        if self.is_heard(position, packet.sequence) {
            return None;
        }
        self.end = self.end.max(position + packet.what.ticks());
        Some(position)
    }

    fn is_heard(&self, position: u64, sequence: u16) -> bool {
        let earlier =
            |(run, next): (u8, u16)| run == self.run && (sequence.wrapping_sub(next) as i16) < 0;
        self.next.is_some_and(earlier) || self.heard.is_some_and(|heard| position < heard.last)
    }

    fn place(&mut self, now: Instant, order: Order, packet: &Arrived<'_>) -> Option<u64> {
        let ticks = packet.what.ticks();
        let position = match (self.newest, order) {
            (_, Order::Duplicate | Order::Old) => return None,
            // There is room for packets that were overtaken by this one.
            (None, _) => self.window,
            (Some(newest), Order::Restart) => self.begin_anew(now, &newest),
            (Some(newest), _) if self.interrupted => self.begin_anew(now, &newest),
            (Some(newest), Order::Reordered) => {
                let behind = u64::try_from(-newest.ticks_to(packet)?).ok()?;
                return newest.position.checked_sub(behind);
            }
            (Some(newest), Order::Ahead(packets)) => {
                let sent = u64::from(packets) * newest.ticks.max(ticks);
                let elapsed = ticks_in(now.saturating_duration_since(newest.arrival));
                let ahead = newest.ticks_to(packet).map(u64::try_from);
                match ahead {
                    // What was sent one after the other was not said at once, whatever clock the
                    // sender goes by: nothing is heard twice in the same place.
                    Some(Ok(ahead @ 1..)) if ahead <= sent.max(elapsed) + MAX_LEAD => {
                        (newest.position + ahead).max(newest.audio_end)
                    }
                    _ => self.follow_clock(now, &newest),
                }
            }
        };
        self.interrupted = false;
        let audio_end = match packet.what {
            What::Audio(..) => position + ticks,
            What::Noise(_) => position,
        };
        self.newest = Some(Newest {
            timestamp: packet.timestamp,
            clock_ticks: packet.clock_ticks,
            position,
            ticks,
            audio_end,
            arrival: now,
        });
        Some(position)
    }

    /// The sender counts anew: what waits for a packet of before waits in vain.
    fn begin_anew(&mut self, now: Instant, newest: &Newest) -> u64 {
        self.run = self.run.wrapping_add(1);
        self.follow_clock(now, newest)
    }

    /// Where a packet belongs whose timestamp says nothing.
    fn follow_clock(&self, now: Instant, newest: &Newest) -> u64 {
        let elapsed = ticks_in(now.saturating_duration_since(newest.arrival));
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
            let elapsed = ticks_in(now.saturating_duration_since(newest.arrival));
            newest.position + newest.ticks + elapsed
        })
    }

    /// The position of a timestamp near the newest packet's, by the same clock.
    pub fn position_of(&self, timestamp: u32) -> Option<u64> {
        let newest = self.newest?;
        let ahead = newest.ticks_ahead(timestamp);
        let near = ahead.unsigned_abs() < NEAR;
        near.then(|| newest.position.checked_add_signed(ahead))?
    }

    /// What waits can be heard at once: nothing more comes that belongs before it.
    pub fn settle(&mut self) {
        self.flushing = true;
    }

    /// The next packet that can be heard. It is kept until it is forgotten.
    pub fn hear(&mut self) -> Option<Packet<'_>> {
        while let Some(&entry) = self.held.waiting() {
            let number = (entry.run, entry.sequence);
            let ready = self.next == Some(number)
                || entry.position + self.window < self.end
                || entry.run != self.run
                || self.flushing
                || self.held.size() > MOST_BYTES;
            if !ready {
                return None;
            }
            let missing = match self.next {
                Some((run, next)) if run == entry.run => entry.sequence.wrapping_sub(next),
                _ => 0,
            };
            let lost = u8::try_from(missing).unwrap_or(u8::MAX);
            self.next = Some(after(number));
            let late = self.heard.is_some_and(|heard| entry.position < heard.last);
            if late {
                self.held.drop_waiting();
            } else if self.held.hear(lost) {
                self.is_hearing(entry.position, number);
                return self.held.newest_heard();
            }
        }
        self.flushing = false;
        None
    }

    /// What begins here, with this number, is heard now.
    fn is_hearing(&mut self, position: u64, number: (u8, u16)) {
        let first = self.heard.map_or(position, |heard| heard.first);
        self.heard = Some(Heard {
            first,
            last: position,
        });
        self.next = Some(after(number));
    }

    /// The oldest packet that was heard and is still kept.
    pub fn oldest(&self) -> Option<Packet<'_>> {
        self.held.oldest_heard()
    }

    /// Where the packet begins that lies across `position`, of those that were heard and are kept; or
    /// else `position`.
    pub fn begin_of(&self, position: u64) -> u64 {
        let heard = self.held.heard();
        let across = heard.filter(|packet| packet.end() > position);
        across
            .map(|packet| packet.position)
            .next()
            .map_or(position, |begin| begin.min(position))
    }

    /// Forgets the oldest packet that was heard.
    pub fn forget_oldest(&mut self) {
        if let Some(oldest) = self.held.oldest_heard() {
            self.forgotten = self.forgotten.max(oldest.end());
            self.held.forget_oldest_heard();
        }
    }
}

/// The number that follows in the same run.
fn after((run, sequence): (u8, u16)) -> (u8, u16) {
    (run, sequence.wrapping_add(1))
}

#[cfg(test)]
mod tests;
