//! A recording: from where to where it goes, and its way out in chunks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::media::audio::FRAME_TICKS;
use crate::media::audio::TICK_RATE;
use crate::media::jitter::Counts;
use crate::media::recording::Chunk;
use crate::media::recording::Record;
use crate::media::session::hear::Hearing;
use crate::media::session::hear::LEAD;
use crate::media::timeline::Packet;
use crate::media::timeline::ticks_in;

/// What is kept after the last word when silence ends the recording.
const TAIL: u64 = 300 * TICK_RATE as u64 / 1_000;

/// By how much the clock must be ahead of the audio before a pause without packets counts as
/// silence: more than packets are ever late.
const CLOCK_LAG: u64 = TICK_RATE as u64 / 2;

/// How far the writer may fall behind by more than the chunks that are on their way to it, in ticks
/// and in bytes.
const SLACK: u64 = 2 * TICK_RATE as u64;
const SLACK_BYTES: usize = 128 * 1_024;

/// A chunk grows by so many bytes: a third of half a second of G.711.
const STEP_BYTES: usize = 1_536;

/// The longest recording: what a [`Record`] can tell, less a margin.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// How long the writer may take for the rest when the recording is over.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// When a recording ends, and where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordLimits {
    /// The longest recording, of a day at most.
    pub max: Duration,
    /// End after so long without speech; `None` is never.
    pub silence: Option<Duration>,
    /// A digit that ends the recording and is not otherwise reported.
    pub end_digit: Option<char>,
    /// How much of what is being said when recording begins is kept. Zero begins just then, even
    /// while something is played; otherwise a caller who says nothing yet is recorded from the
    /// moment on when all has been played.
    pub preroll: Duration,
    /// Length of a [`Chunk`]: how much is lost in a crash, and how soon it can be heard.
    pub chunk: Duration,
}

impl Default for RecordLimits {
    fn default() -> Self {
        Self {
            max: Duration::from_secs(180),
            silence: None,
            end_digit: None,
            preroll: Duration::from_secs(2),
            chunk: Duration::from_millis(500),
        }
    }
}

/// Why a recording ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordingEnd {
    /// Nobody spoke for as long as [`RecordLimits::silence`] says.
    Silence,
    /// It reached [`RecordLimits::max`].
    Limit,
    /// The caller pressed [`RecordLimits::end_digit`].
    Digit,
    /// Packets stopped coming.
    MediaTimeout,
    /// Chunks were not taken in time, or their receiver is gone. What was taken is good.
    DiskTooSlow,
}

/// What a recording came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordingSummary {
    /// Why it ended; `None` if it was ended from outside, as by a hang-up.
    pub end: Option<RecordingEnd>,
    /// Length of all chunks together, in ticks.
    pub ticks: u64,
    /// How many of them to keep. Less than `ticks` after [`RecordingEnd::Silence`], which is
    /// noticed only when the silence has been recorded, and where a packet lies across the end.
    pub keep_ticks: u64,
    /// How much of it was speech. When in doubt, it was.
    pub speech_ms: u64,
    /// Packets that never came; the recording knows where.
    pub lost_packets: u64,
    /// Packets that came in another order and were put right.
    pub reordered_packets: u64,
    /// Packets that came more than once.
    pub duplicate_packets: u64,
}

impl RecordingSummary {
    /// Of a recording whose call failed: nothing is known of it but how much was delivered. It is
    /// all to be kept, and held to be speech.
    pub fn of_failed(ticks: u64) -> Self {
        Self {
            ticks,
            keep_ticks: ticks,
            speech_ms: in_ms(ticks),
            ..Self::default()
        }
    }
}

fn in_ms(ticks: u64) -> u64 {
    ticks * 1_000 / u64::from(TICK_RATE)
}

/// Where the chunks of a recording go.
#[derive(Debug, Clone)]
pub struct ChunkSink {
    /// To who writes them.
    pub chunks: mpsc::Sender<Box<Chunk>>,
    /// Ticks that were delivered, for the case that nothing else is known in the end.
    pub delivered: Arc<AtomicU64>,
}

impl ChunkSink {
    /// Sends to `chunks`.
    pub fn new(chunks: mpsc::Sender<Box<Chunk>>) -> Self {
        Self {
            chunks,
            delivered: Arc::default(),
        }
    }
}

/// A recording under way, or over and not yet delivered.
#[derive(Debug)]
pub(super) struct Recording {
    limits: Limits,
    /// `None` when all has been delivered.
    sink: Option<ChunkSink>,
    requested: u64,
    /// Where everything that was played is over.
    played: Option<u64>,
    start: Option<u64>,
    /// The chunk in work, and how long the recording is with it.
    chunk: Vec<u8>,
    ticks: u64,
    /// How long it is with what was delivered.
    delivered: u64,
    speech_before: u64,
    counts_before: Counts,
    stop: Option<Stop>,
}

/// [`RecordLimits`] in ticks.
#[derive(Debug, Clone, Copy)]
struct Limits {
    max: u64,
    silence: Option<u64>,
    end_digit: Option<char>,
    preroll: u64,
    chunk: u64,
}

/// The end of a recording.
#[derive(Debug, Clone, Copy)]
struct Stop {
    end: Option<RecordingEnd>,
    /// Position from which on nothing is recorded.
    at: u64,
    /// Position where the message ends.
    keep: u64,
    give_up: Instant,
    speech: u64,
    counts: Counts,
}

impl Recording {
    pub(super) fn new(
        now: Instant,
        limits: RecordLimits,
        sink: ChunkSink,
        hearing: &Hearing,
        playing: bool,
    ) -> Self {
        let requested = hearing.line.position_at(now);
        let limits = Limits {
            max: ticks_in(limits.max.min(LONGEST)),
            silence: limits.silence.map(ticks_in),
            end_digit: limits.end_digit,
            preroll: ticks_in(limits.preroll),
            chunk: ticks_in(limits.chunk).max(FRAME_TICKS.into()),
        };
        let waits = playing && limits.preroll > 0;
        Self {
            limits,
            sink: Some(sink),
            requested,
            played: (!waits).then_some(requested),
            start: None,
            chunk: Vec::new(),
            ticks: 0,
            delivered: 0,
            speech_before: hearing.ear.speech_ticks(),
            counts_before: hearing.reception.counts(),
            stop: None,
        }
    }

    /// Something is to be played. If that is asked for together with the recording, it does not
    /// matter which comes first.
    pub(super) fn playing(&mut self) {
        if self.start.is_none() && self.limits.preroll > 0 {
            self.played = None;
        }
    }

    /// Everything has been played, with the frame that goes out now.
    pub(super) fn played(&mut self, now: Instant, hearing: &Hearing) {
        let over = hearing.line.position_at(now) + u64::from(FRAME_TICKS);
        self.played.get_or_insert(over);
    }

    /// Bytes that the chunk in work takes.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.chunk.capacity()
    }

    pub(super) fn end_digit(&self) -> Option<char> {
        self.limits.end_digit
    }

    pub(super) fn is_running(&self) -> bool {
        self.stop.is_none()
    }

    /// Goes on, after a packet or by the clock. Tells if it has ended by this.
    pub(super) fn advance(&mut self, now: Instant, hearing: &mut Hearing) -> Option<RecordingEnd> {
        if self.stop.is_some() {
            self.deliver(now, hearing);
            return None;
        }
        self.find_start(hearing);
        self.take(hearing);
        self.conclude(now, hearing)
    }

    /// Whether all that is heard is recorded just as it comes.
    pub(super) fn takes_all(&self) -> bool {
        self.start.is_some() && self.stop.is_none()
    }

    /// Goes on with a packet that was heard and is kept nowhere else.
    pub(super) fn advance_with(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        hearing: &mut Hearing,
    ) -> Option<RecordingEnd> {
        self.keep(packet);
        self.conclude(now, hearing)
    }

    fn conclude(&mut self, now: Instant, hearing: &mut Hearing) -> Option<RecordingEnd> {
        let end = self.find_end(now, hearing);
        if let Some((end, at, keep)) = end {
            self.stop(now, Some(end), at, keep, hearing);
        }
        let slow = self.deliver(now, hearing);
        end.map(|(end, ..)| end).or(slow)
    }

    fn find_start(&mut self, hearing: &Hearing) {
        if self.start.is_some() {
            return;
        }
        let said = hearing.ear.speaking_since();
        let said = said.filter(|_| self.limits.preroll > 0);
        match (said, self.played) {
            (Some(said), played) if played.is_none_or(|played| said < played) => {
                let bound = self.requested.saturating_sub(self.limits.preroll);
                let start = said.saturating_sub(LEAD).max(bound);
                self.begin(start.max(hearing.line.forgotten()), hearing);
            }
            (_, Some(played)) if hearing.ear.position() >= played => self.begin(played, hearing),
            _ => {}
        }
    }

    fn begin(&mut self, start: u64, hearing: &Hearing) {
        // Before the first packet there was nothing, not even silence; and which packet that is
        // shows only when it has settled.
        let start = match hearing.line.first() {
            Some(first) if first.max(start) <= hearing.ear.position() => first.max(start),
            _ => return,
        };
        self.speech_before = hearing.ear.speech_ticks_before();
        self.start = Some(hearing.line.begin_of(start));
    }

    /// Takes what has been heard into the chunk. Nothing waits in the line while a recording goes on.
    fn take(&mut self, hearing: &mut Hearing) {
        if self.start.is_none() {
            return;
        }
        while let Some(packet) = hearing.line.oldest() {
            self.keep(&packet);
            hearing.line.forget_oldest();
        }
    }

    /// Takes a packet into the chunk, if it belongs to the recording.
    fn keep(&mut self, packet: &Packet<'_>) {
        let Some(start) = self.start else {
            return;
        };
        let until = match self.stop {
            Some(stop) => stop.at,
            None => start.saturating_add(self.limits.max),
        };
        if packet.end() <= start || packet.position >= until {
            return;
        }
        let record = Record {
            at: packet.position.saturating_sub(start),
            // What came before the recording is not missing in it.
            lost: if self.ticks > 0 { packet.lost } else { 0 },
            what: packet.what,
        };
        self.make_room(&record);
        record.write(&mut self.chunk);
        self.ticks = self.ticks.max(record.end());
        self.send_if_full();
    }

    /// A chunk takes memory as it grows: on average it is half full.
    fn make_room(&mut self, record: &Record<'_>) {
        if self.chunk.capacity() - self.chunk.len() < record.bytes() {
            self.chunk.reserve_exact(record.bytes().max(STEP_BYTES));
        }
    }

    fn find_end(&self, now: Instant, hearing: &Hearing) -> Option<(RecordingEnd, u64, u64)> {
        let begin = self.start.or(self.played)?;
        let line = &hearing.line;
        let clock = line.position_at(now).saturating_sub(CLOCK_LAG);
        let heard = hearing.ear.position().max(clock);

        let limit = begin.saturating_add(self.limits.max);
        if heard >= limit {
            let at = limit.min(line.end());
            return Some((RecordingEnd::Limit, at, at));
        }
        let silence = self.limits.silence?;
        let spoken = hearing.ear.speech_end().unwrap_or(0).max(begin);
        let at = line.end();
        let silent = heard >= spoken.saturating_add(silence);
        silent.then_some((RecordingEnd::Silence, at, spoken + TAIL))
    }

    /// The end digit was pressed at this position, as far as that is known.
    pub(super) fn stop_by_digit(&mut self, now: Instant, at: Option<u64>, hearing: &mut Hearing) {
        let end = hearing.line.end();
        let at = at.unwrap_or(end).min(end);
        self.stop(now, Some(RecordingEnd::Digit), at, at, hearing);
        self.deliver(now, hearing);
    }

    /// Ends with the last packet received.
    pub(super) fn stop_here(
        &mut self,
        now: Instant,
        end: Option<RecordingEnd>,
        hearing: &mut Hearing,
    ) {
        if self.stop.is_none() {
            let at = hearing.line.end();
            self.stop(now, end, at, at, hearing);
        }
        self.deliver(now, hearing);
    }

    fn stop(
        &mut self,
        now: Instant,
        end: Option<RecordingEnd>,
        at: u64,
        keep: u64,
        hearing: &mut Hearing,
    ) {
        hearing.line.settle();
        // A digit that is heard only now ends nothing any more.
        hearing.listen(false);
        self.find_start(hearing);
        // Not even begun: there was nothing to record.
        let start = *self
            .start
            .get_or_insert_with(|| self.played.unwrap_or(at).min(at));
        self.stop = Some(Stop {
            end,
            at,
            keep: keep.max(start),
            give_up: now + DRAIN_LIMIT,
            speech: hearing.ear.speech_ticks(),
            counts: hearing.reception.counts(),
        });
        self.take(hearing);
    }

    /// Sends what is due, and at the end the rest. Tells if the recording has ended by this.
    fn deliver(&mut self, now: Instant, hearing: &mut Hearing) -> Option<RecordingEnd> {
        let pending = self.ticks - self.delivered;
        let due = self.stop.is_some() || pending >= self.limits.chunk;
        if !due {
            return None;
        }
        let taken = pending == 0 || self.send();
        // Looked at when something is to be sent, not with every packet: it is another thread's memory.
        let gone = self
            .sink
            .as_ref()
            .is_some_and(|sink| sink.chunks.is_closed());
        let behind = pending > self.limits.chunk + SLACK || self.chunk.len() > SLACK_BYTES;
        match &mut self.stop {
            Some(_) if taken => self.sink = None,
            Some(stop) if gone || now >= stop.give_up => {
                stop.end = Some(RecordingEnd::DiskTooSlow);
                self.give_up();
            }
            None if !taken && (gone || behind) => {
                let end = Some(RecordingEnd::DiskTooSlow);
                let at = hearing.line.end();
                self.stop(now, end, at, at, hearing);
                if gone {
                    self.give_up();
                }
                return end;
            }
            _ => {}
        }
        None
    }

    /// What has not been delivered never will be.
    fn give_up(&mut self) {
        self.chunk = Vec::new();
        self.ticks = self.delivered;
        self.sink = None;
    }

    fn send_if_full(&mut self) {
        if self.ticks - self.delivered >= self.limits.chunk {
            // If it is not taken, it is sent with the next packet, or the slot after this.
            self.send();
        }
    }

    /// Sends the chunk, if it is taken. The audio thread never waits.
    fn send(&mut self) -> bool {
        let Some(sink) = &self.sink else {
            return false;
        };
        // Full or closed: either way it is not taken.
        let Ok(permit) = sink.chunks.try_reserve() else {
            return false;
        };
        permit.send(Box::new(Chunk {
            bytes: std::mem::take(&mut self.chunk),
            ticks: self.ticks,
        }));
        sink.delivered.store(self.ticks, Ordering::Relaxed);
        self.delivered = self.ticks;
        true
    }

    /// The summary, when all has been delivered.
    pub(super) fn summary(&self) -> Option<RecordingSummary> {
        let (Some(stop), Some(start), None) = (self.stop, self.start, &self.sink) else {
            return None;
        };
        let counts = stop.counts.since(self.counts_before);
        let speech = stop.speech.saturating_sub(self.speech_before);
        Some(RecordingSummary {
            end: stop.end,
            ticks: self.ticks,
            keep_ticks: (stop.keep - start).min(self.ticks),
            speech_ms: in_ms(speech.min(self.ticks)),
            lost_packets: counts.lost,
            reordered_packets: counts.reordered,
            duplicate_packets: counts.duplicates,
        })
    }
}
