//! One call's media, without sockets, threads or clock: packets, commands and the time go in;
//! packets, events and chunks of a recording come out.

mod hear;
mod outbox;
mod play;
mod record;
mod report;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::media::audio::Prompt;
use crate::media::jitter::Order;
use crate::media::rtp::RtpPacket;
use crate::media::sdp::Direction;
use crate::media::sdp::MediaParams;
use crate::media::session::hear::Hearing;
use crate::media::session::play::Played;
use crate::media::session::play::Player;
use crate::media::session::record::Recording;
use crate::media::session::report::Reporter;

pub use crate::media::session::outbox::MAX_PACKET;
pub use crate::media::session::outbox::OutPacket;
pub use crate::media::session::outbox::Outbox;
pub use crate::media::session::record::Chunk;
pub use crate::media::session::record::ChunkSink;
pub use crate::media::session::record::RecordLimits;
pub use crate::media::session::record::RecordingEnd;
pub use crate::media::session::record::RecordingSummary;

/// The time of one frame: [`Leg::slot`] is to be called so often.
pub const SLOT: Duration = Duration::from_millis(20);

/// Packets that one call of [`Leg::slot`] or [`Leg::close`] puts out at most.
pub const PACKETS_PER_SLOT: usize = 2;

/// Events that wait to be taken. Digits beyond are dropped; everything else is rarer than that.
const MAX_EVENTS: usize = 32;

/// What happens to a call's media.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaEvent {
    /// The last queued prompt has been played.
    Played,
    /// The peer's first packet came.
    FirstPacket,
    /// The caller pressed a key: `0` to `9`, `*`, `#`, `A` to `D`.
    Digit(char),
    /// The recording ended by itself.
    RecordingEnded(RecordingEnd),
    /// Packets stopped coming while nothing was recorded, or never came (`first`).
    MediaTimeout {
        /// Whether there has never been a packet.
        first: bool,
    },
    /// The media ended by a defect of ours, or the engine has stopped. What was recorded up to
    /// now is good.
    Failed,
}

/// What became of a received packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// It was taken.
    Taken,
    /// It had been there before.
    Duplicate,
    /// It came when its time had passed.
    Late,
    /// Its payload type was never agreed on.
    UnknownPayloadType,
    /// It was cut short.
    Malformed,
}

/// How calls are treated, the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long to wait for the first packet.
    pub first_packet_timeout: Duration,
    /// How long to wait for the next packet, RTP or RTCP.
    pub running_timeout: Duration,
    /// Whether silence is sent as frames all the time.
    pub continuous_silence: bool,
    /// How late a packet may be and still be put in its place.
    pub jitter_window: Duration,
}

/// What makes our stream ours; by chance, so that nobody guesses it (RFC 3550 section 5.1).
#[derive(Debug, Clone)]
pub struct Identity {
    /// Our synchronisation source.
    pub ssrc: u32,
    /// Our first sequence number.
    pub sequence: u16,
    /// Our first timestamp.
    pub timestamp: u32,
    /// Our name in reports.
    pub cname: String,
    /// For the moments of reports.
    pub seed: u32,
    /// Some moment before the call that reports count time from.
    pub epoch: Instant,
}

/// One side of a call, seen from us: the media of one dialog.
#[derive(Debug)]
pub struct Leg {
    settings: Settings,
    params: MediaParams,
    /// Where packets really come from, when that was learnt.
    latched: Option<SocketAddr>,
    latched_rtcp: Option<SocketAddr>,
    player: Player,
    hearing: Hearing,
    recording: Option<Recording>,
    reporter: Reporter,
    events: VecDeque<MediaEvent>,
    /// Whether there is anything to say or to hear yet: before, we keep silent.
    active: bool,
    heard_first: bool,
    /// When a timeout began to run, or the last sign of life was seen.
    waiting_since: Instant,
    timed_out: bool,
}

impl Leg {
    /// The media of a call that begins now.
    pub fn new(now: Instant, settings: Settings, params: MediaParams, identity: Identity) -> Self {
        let Identity {
            ssrc,
            sequence,
            timestamp,
            cname,
            seed,
            epoch,
        } = identity;
        Self {
            settings,
            params,
            latched: None,
            latched_rtcp: None,
            player: Player::new(ssrc, sequence, timestamp),
            hearing: Hearing::new(now, settings.jitter_window),
            recording: None,
            reporter: Reporter::new(now, epoch, cname, seed),
            events: VecDeque::with_capacity(4),
            active: false,
            heard_first: false,
            waiting_since: now,
            timed_out: false,
        }
    }

    /// A new offer was answered, or the late answer has come.
    pub fn update(&mut self, now: Instant, params: MediaParams) {
        if params.remote != self.params.remote {
            self.latched = None;
            self.latched_rtcp = None;
        }
        self.params = params;
        self.waiting_since = now;
        self.timed_out = false;
    }

    /// Packets come from another address than the session description tells: answer there.
    pub fn latch(&mut self, from: SocketAddr) {
        self.latched = Some(from);
    }

    /// Queues a prompt. [`MediaEvent::Played`] comes when the queue is empty again.
    pub fn play(&mut self, prompt: Arc<Prompt>) {
        self.active = true;
        self.player.play(prompt);
        if self.player.is_playing()
            && let Some(recording) = &mut self.recording
        {
            recording.playing();
        }
        if !self.player.is_playing() {
            self.event(MediaEvent::Played);
        }
    }

    /// Forgets what is queued, within a frame, and without [`MediaEvent::Played`].
    pub fn stop_playing(&mut self, now: Instant) {
        self.player.stop();
        self.all_played(now);
    }

    /// Sends digits as telephone-events; nothing happens if those were not agreed on.
    pub fn send_digits(&mut self, digits: &str) {
        self.active = true;
        self.player.send_digits(digits);
    }

    /// Begins a recording, in place of the one before.
    pub fn record(&mut self, now: Instant, limits: RecordLimits, sink: ChunkSink) {
        self.active = true;
        let playing = self.player.is_playing();
        self.recording = Some(Recording::new(now, limits, sink, &self.hearing, playing));
    }

    /// Ends the recording with the last packet received.
    pub fn stop_recording(&mut self, now: Instant) {
        if let Some(recording) = &mut self.recording {
            recording.stop_here(now, None, &mut self.hearing);
        }
    }

    /// The summary of the recording, when it is over and all chunks have been delivered.
    /// A call that recorded nothing has an empty one.
    pub fn summary(&self) -> Option<RecordingSummary> {
        match &self.recording {
            Some(recording) => recording.summary(),
            None => Some(RecordingSummary::default()),
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<MediaEvent> {
        self.events.pop_front()
    }

    /// Whether [`Leg::poll_event`] has something.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The payload types of the session description.
    pub fn params(&self) -> &MediaParams {
        &self.params
    }

    /// The peer's synchronisation source, once known.
    pub fn remote_ssrc(&mut self) -> Option<u32> {
        self.hearing.reception.source().map(|source| source.ssrc())
    }

    /// Takes a packet of media.
    pub fn handle_rtp(&mut self, now: Instant, packet: &RtpPacket<'_>) -> Received {
        let kind = packet.payload_type;
        let is_audio = kind == self.params.payload_type;
        let is_event = Some(kind) == self.params.telephone_event;
        if !is_audio && !is_event && Some(kind) != self.params.comfort_noise {
            return Received::UnknownPayloadType;
        }
        self.sign_of_life(now);
        let order = self.hearing.order(now, packet);
        if is_event {
            if let Some(digit) = self.hearing.digit(packet, order) {
                self.digit(now, digit, packet.timestamp);
            }
            return Received::Taken;
        }
        match order {
            Order::Duplicate => return Received::Duplicate,
            Order::Old => return Received::Late,
            Order::Ahead(_) | Order::Reordered | Order::Restart => {}
        }
        // What is recorded already goes out before anything new is written over it.
        if self
            .recording
            .as_ref()
            .is_some_and(|r| !r.is_running() && r.summary().is_none())
        {
            return Received::Taken;
        }
        if is_audio {
            return self.audio(now, packet, order);
        }
        self.hearing.noise(now, packet, order);
        self.listen(now);
        Received::Taken
    }

    fn audio(&mut self, now: Instant, packet: &RtpPacket<'_>, order: Order) -> Received {
        self.hearing.reception.measure(now, packet.timestamp);
        let len = packet.payload.len();
        let line = &mut self.hearing.line;
        let Some(position) = line.place(now, order, packet.timestamp, len) else {
            return Received::Late;
        };
        let end = position + len as u64;
        if let Some(recording) = &mut self.recording
            && recording.is_running()
            && let Some(end) = recording.make_room(now, end, &mut self.hearing)
        {
            self.event(MediaEvent::RecordingEnded(end));
            return Received::Taken;
        }
        self.hearing
            .line
            .write(position, self.params.codec, packet.payload);
        self.listen(now);
        Received::Taken
    }

    /// Listens to what has settled, and lets the recording follow.
    fn listen(&mut self, now: Instant) {
        self.hearing.listener.listen(&self.hearing.line, false);
        let Some(recording) = &mut self.recording else {
            return;
        };
        if let Some(end) = recording.advance(now, &mut self.hearing) {
            self.event(MediaEvent::RecordingEnded(end));
        }
    }

    fn digit(&mut self, now: Instant, digit: char, timestamp: u32) {
        if let Some(recording) = &mut self.recording
            && recording.is_running()
            && recording.end_digit() == Some(digit)
        {
            recording.stop_by_digit(now, timestamp, &mut self.hearing);
            self.event(MediaEvent::RecordingEnded(RecordingEnd::Digit));
        } else if self.events.len() < MAX_EVENTS {
            self.event(MediaEvent::Digit(digit));
        }
    }

    fn sign_of_life(&mut self, now: Instant) {
        self.active = true;
        self.waiting_since = now;
        self.timed_out = false;
        if !self.heard_first {
            self.heard_first = true;
            self.event(MediaEvent::FirstPacket);
        }
    }

    /// Takes a compound RTCP packet from `from`.
    pub fn handle_rtcp(&mut self, now: Instant, from: SocketAddr, compound: &[u8]) -> Received {
        if !self.reporter.handle(now, compound, self.player.ssrc()) {
            return Received::Malformed;
        }
        if !self.params.rtcp_mux {
            self.latched_rtcp = Some(from);
        }
        // Phones that suppress silence may send nothing else until somebody speaks.
        self.waiting_since = now;
        Received::Taken
    }

    /// One slot of 20 ms: sends the packet that is due, looks at the timeouts.
    pub fn slot(&mut self, now: Instant, out: &mut Outbox) {
        match self.send_to() {
            Some(to) if self.active && self.params.direction.sends() => {
                let continuous = self.settings.continuous_silence;
                if self.player.is_playing() && self.heard_first {
                    // Nobody is expected to speak into a greeting.
                    self.waiting_since = now;
                }
                if self.player.slot(&self.params, to, continuous, out) == Played::LastFrame {
                    self.last_frame(now);
                }
            }
            _ => self.player.pause(),
        }
        if self.active && self.reporter.is_due(now) {
            self.report(now, false, out);
        }
        self.by_the_clock(now);
    }

    /// A slot that came too late to send its frame.
    pub fn skip_slot(&mut self, now: Instant) {
        if self.send_to().is_some() && self.params.direction.sends() {
            if self.player.skip() == Played::LastFrame {
                self.last_frame(now);
            }
        } else {
            self.player.pause();
        }
        self.by_the_clock(now);
    }

    /// Says goodbye (RFC 3550 section 6.6). Nothing may be asked of the leg after this.
    pub fn close(&mut self, now: Instant, out: &mut Outbox) {
        if self.active {
            self.report(now, true, out);
        }
    }

    fn by_the_clock(&mut self, now: Instant) {
        self.check_timeouts(now);
        if let Some(recording) = &mut self.recording
            && let Some(end) = recording.advance(now, &mut self.hearing)
        {
            self.event(MediaEvent::RecordingEnded(end));
        }
    }

    fn check_timeouts(&mut self, now: Instant) {
        let held = self.params.direction != Direction::SendRecv || self.params.remote.is_none();
        if held {
            self.waiting_since = now;
            return;
        }
        let limit = if self.heard_first {
            self.settings.running_timeout
        } else {
            self.settings.first_packet_timeout
        };
        if self.timed_out || now.saturating_duration_since(self.waiting_since) < limit {
            return;
        }
        self.timed_out = true;
        match &mut self.recording {
            Some(recording) if recording.is_running() => {
                let end = RecordingEnd::MediaTimeout;
                recording.stop_here(now, Some(end), &mut self.hearing);
                self.event(MediaEvent::RecordingEnded(end));
            }
            _ => {
                let first = !self.heard_first;
                self.event(MediaEvent::MediaTimeout { first });
            }
        }
    }

    fn last_frame(&mut self, now: Instant) {
        self.event(MediaEvent::Played);
        self.all_played(now);
    }

    fn all_played(&mut self, now: Instant) {
        if let Some(recording) = &mut self.recording {
            recording.played(now, &self.hearing);
        }
    }

    fn send_to(&self) -> Option<SocketAddr> {
        // Without an address in the session description there is hold, whatever was learnt.
        self.params
            .remote
            .map(|remote| self.latched.unwrap_or(remote))
    }

    fn report(&mut self, now: Instant, goodbye: bool, out: &mut Outbox) {
        let to = if self.params.rtcp_mux {
            self.send_to()
        } else {
            self.latched_rtcp.or(self.params.remote_rtcp)
        };
        if let Some(to) = to {
            let reception = &mut self.hearing.reception;
            self.reporter
                .send(now, &self.player, reception, goodbye, to, out);
        }
    }

    fn event(&mut self, event: MediaEvent) {
        self.events.push_back(event);
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "virtual time begins at some moment"
)]
mod tests;
