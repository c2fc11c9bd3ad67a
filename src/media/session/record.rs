//! A recording: from where to where it goes, and its way out in chunks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::media::audio::FRAME_SAMPLES;
use crate::media::audio::SAMPLE_RATE;
use crate::media::jitter::Counts;
use crate::media::session::hear::Hearing;
use crate::media::timeline::samples_in;

/// What is kept before the first word: consonants are quieter than the vowel that is noticed.
const LEAD: u64 = 100 * SAMPLE_RATE as u64 / 1_000;

/// What is kept after the last word when silence ends the recording.
const TAIL: u64 = 300 * SAMPLE_RATE as u64 / 1_000;

/// By how much the clock must be ahead of the audio before a pause without packets counts as
/// silence: more than packets are ever late.
const CLOCK_LAG: Duration = Duration::from_millis(500);

/// How long the writer may take for the rest when the recording is over.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// When a recording ends, and where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordLimits {
    /// The longest recording.
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
            chunk: Duration::from_secs(1),
        }
    }
}

/// A piece of a recording: 8 kHz, mono, as long as [`RecordLimits::chunk`] or, at the end, shorter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The samples, following those of the chunk before.
    pub samples: Vec<i16>,
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
    /// Samples in all chunks together.
    pub samples: u64,
    /// How many of them to keep. Less than `samples` after [`RecordingEnd::Silence`], which is
    /// noticed only when the silence has been recorded, and perhaps after a late digit.
    pub keep_samples: u64,
    /// How much of it was speech. When in doubt, it was.
    pub speech_ms: u64,
    /// Packets that never came; silence stands in their place.
    pub lost_packets: u64,
    /// Packets that came in another order and were put right.
    pub reordered_packets: u64,
    /// Packets that came more than once.
    pub duplicate_packets: u64,
}

impl RecordingSummary {
    /// Of a recording whose call failed: nothing is known of it but how much was delivered. It is
    /// all to be kept, and held to be speech.
    pub fn of_failed(samples: u64) -> Self {
        Self {
            samples,
            keep_samples: samples,
            speech_ms: samples * 1_000 / u64::from(SAMPLE_RATE),
            ..Self::default()
        }
    }
}

/// Where the chunks of a recording go.
#[derive(Debug, Clone)]
pub struct ChunkSink {
    /// To who writes them.
    pub chunks: mpsc::Sender<Chunk>,
    /// Samples that were delivered, for the case that nothing else is known in the end.
    pub delivered: Arc<AtomicU64>,
}

impl ChunkSink {
    /// Sends to `chunks`.
    pub fn new(chunks: mpsc::Sender<Chunk>) -> Self {
        Self {
            chunks,
            delivered: Arc::default(),
        }
    }
}

/// A recording under way, or over and not yet delivered.
#[derive(Debug)]
pub(super) struct Recording {
    limits: RecordLimits,
    /// `None` when all has been delivered.
    sink: Option<ChunkSink>,
    requested: u64,
    /// Where everything that was played is over.
    played: Option<u64>,
    start: Option<u64>,
    delivered: u64,
    speech_before: u64,
    counts_before: Counts,
    stop: Option<Stop>,
}

/// The end of a recording.
#[derive(Debug, Clone, Copy)]
struct Stop {
    end: Option<RecordingEnd>,
    /// Position where the file ends.
    at: u64,
    /// Position where the message ends.
    keep: u64,
    give_up: Instant,
    speech_samples: u64,
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
        let waits = playing && !limits.preroll.is_zero();
        Self {
            limits,
            sink: Some(sink),
            requested,
            played: (!waits).then_some(requested),
            start: None,
            delivered: 0,
            speech_before: hearing.listener.speech_samples(),
            counts_before: hearing.reception.counts(),
            stop: None,
        }
    }

    /// Something is to be played. If that is asked for together with the recording, it does not
    /// matter which comes first.
    pub(super) fn playing(&mut self) {
        if self.start.is_none() && !self.limits.preroll.is_zero() {
            self.played = None;
        }
    }

    /// Everything has been played, with the frame that goes out now.
    pub(super) fn played(&mut self, now: Instant, hearing: &Hearing) {
        let over = hearing.line.position_at(now) + FRAME_SAMPLES as u64;
        self.played.get_or_insert(over);
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
        let listener = &hearing.listener;
        let preroll = samples_in(self.limits.preroll);
        let said = listener.speaking_since().filter(|_| preroll > 0);
        match (said, self.played) {
            (Some(said), played) if played.is_none_or(|played| said < played) => {
                let bound = self.requested.saturating_sub(preroll);
                let start = said.saturating_sub(LEAD).max(bound);
                self.begin(start.max(hearing.line.oldest()), hearing);
            }
            (_, Some(played)) if listener.position() >= played => self.begin(played, hearing),
            _ => {}
        }
    }

    fn begin(&mut self, start: u64, hearing: &Hearing) {
        // Before the first packet there was nothing, not even silence; and which packet that is
        // shows only when it has settled.
        let start = match hearing.line.first() {
            Some(first) if first.max(start) <= hearing.listener.position() => first.max(start),
            _ => return,
        };
        self.speech_before = hearing.listener.speech_samples_before();
        self.start = Some(start);
        self.delivered = start;
    }

    fn find_end(&self, now: Instant, hearing: &Hearing) -> Option<(RecordingEnd, u64, u64)> {
        let begin = self.start.or(self.played)?;
        let line = &hearing.line;
        let clock = line.position_at(now).saturating_sub(samples_in(CLOCK_LAG));
        let heard = hearing.listener.position().max(clock);

        let limit = begin + samples_in(self.limits.max);
        if line.settled() >= limit || clock >= limit {
            let at = limit.min(line.end());
            return Some((RecordingEnd::Limit, at, at));
        }
        let silence = samples_in(self.limits.silence?);
        let spoken = hearing.listener.speech_end().unwrap_or(0).max(begin);
        let at = line.end();
        (heard >= spoken + silence).then_some((RecordingEnd::Silence, at, spoken + TAIL))
    }

    /// The end digit was pressed at this timestamp.
    pub(super) fn stop_by_digit(&mut self, now: Instant, timestamp: u32, hearing: &mut Hearing) {
        let end = hearing.line.end();
        let at = hearing.line.position_of(timestamp).unwrap_or(end).min(end);
        self.stop(now, Some(RecordingEnd::Digit), at, at, hearing);
        self.deliver(now, hearing);
    }

    /// Ends with the last sample received.
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
        hearing.listener.listen(&hearing.line, true);
        self.find_start(hearing);
        // Not even begun: there was nothing to record.
        let start = self
            .start
            .unwrap_or_else(|| self.played.unwrap_or(at).min(at));
        if self.start.is_none() {
            self.start = Some(start);
            self.delivered = start;
        }
        // What has been delivered cannot be taken back.
        let at = at.max(start).max(self.delivered);
        self.stop = Some(Stop {
            end,
            at,
            keep: keep.clamp(start, at),
            give_up: now + DRAIN_LIMIT,
            speech_samples: hearing.listener.speech_samples(),
            counts: hearing.reception.counts(),
        });
    }

    /// Makes sure that audio up to `end` can be written without losing what was not delivered.
    /// Tells if the recording has ended by this.
    pub(super) fn make_room(
        &mut self,
        now: Instant,
        end: u64,
        hearing: &mut Hearing,
    ) -> Option<RecordingEnd> {
        if self.start.is_none() || !hearing.line.would_overwrite(self.delivered, end) {
            return None;
        }
        hearing.line.settle();
        hearing.listener.listen(&hearing.line, true);
        while self.delivered < hearing.line.end() {
            let len = self.chunk().min(hearing.line.end() - self.delivered);
            if !self.send(len, hearing) {
                break;
            }
        }
        if !hearing.line.would_overwrite(self.delivered, end) {
            return None;
        }
        self.stop_here(now, Some(RecordingEnd::DiskTooSlow), hearing);
        Some(RecordingEnd::DiskTooSlow)
    }

    /// Samples in a chunk.
    fn chunk(&self) -> u64 {
        samples_in(self.limits.chunk).max(FRAME_SAMPLES as u64)
    }

    /// Sends what has settled, chunk by chunk, and at the end the rest.
    fn deliver(&mut self, now: Instant, hearing: &mut Hearing) -> Option<RecordingEnd> {
        let start = self.start?;
        let limit = start + samples_in(self.limits.max);
        let until = self
            .stop
            .map_or(hearing.line.settled().min(limit), |stop| stop.at);
        while self.delivered < until {
            let len = self.chunk().min(until - self.delivered);
            if (len < self.chunk() && self.stop.is_none()) || !self.send(len, hearing) {
                break;
            }
        }
        // Looked at when something is to be sent, not with every packet: it is another thread's memory.
        let gone = (self.stop.is_some() || self.delivered + self.chunk() <= until)
            && self
                .sink
                .as_ref()
                .is_some_and(|sink| sink.chunks.is_closed());
        match &mut self.stop {
            Some(stop) if self.delivered >= stop.at => self.sink = None,
            Some(stop) if gone || now >= stop.give_up => {
                stop.end = Some(RecordingEnd::DiskTooSlow);
                stop.at = self.delivered;
                stop.keep = stop.keep.min(stop.at);
                self.sink = None;
            }
            None if gone => {
                self.stop(
                    now,
                    Some(RecordingEnd::DiskTooSlow),
                    self.delivered,
                    self.delivered,
                    hearing,
                );
                self.sink = None;
                return Some(RecordingEnd::DiskTooSlow);
            }
            _ => {}
        }
        None
    }

    /// Sends one chunk, if it is taken. The audio thread never waits.
    fn send(&mut self, len: u64, hearing: &Hearing) -> bool {
        let Some(sink) = &self.sink else {
            return false;
        };
        // Full or closed: either way it is not taken.
        let Ok(permit) = sink.chunks.try_reserve() else {
            return false;
        };
        let mut samples = vec![0; len as usize];
        hearing.line.read(self.delivered, &mut samples);
        permit.send(Chunk { samples });
        sink.delivered.fetch_add(len, Ordering::Relaxed);
        self.delivered += len;
        true
    }

    /// The summary, when all has been delivered.
    pub(super) fn summary(&self) -> Option<RecordingSummary> {
        let (Some(stop), Some(start), None) = (self.stop, self.start, &self.sink) else {
            return None;
        };
        let counts = stop.counts.since(self.counts_before);
        let speech = stop.speech_samples.saturating_sub(self.speech_before);
        let samples = stop.at - start;
        Some(RecordingSummary {
            end: stop.end,
            samples,
            keep_samples: stop.keep.saturating_sub(start),
            speech_ms: speech.min(samples) * 1_000 / u64::from(SAMPLE_RATE),
            lost_packets: counts.lost,
            reordered_packets: counts.reordered,
            duplicate_packets: counts.duplicates,
        })
    }
}
