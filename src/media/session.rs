//! One call's media, without sockets, threads or clock: packets, commands and the time go in;
//! packets, events and chunks of a recording come out.

mod ear;
mod hear;
mod outbox;
mod play;
mod record;
mod report;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::media::audio::Codec;
use crate::media::audio::Prompt;
use crate::media::audio::TICK_RATE;
use crate::media::jitter::Order;
use crate::media::link::Stage;
use crate::media::recording::What;
use crate::media::rtp::RtpPacket;
use crate::media::sdp::Direction;
use crate::media::sdp::MediaParams;
use crate::media::session::hear::Hearing;
use crate::media::session::play::Played;
use crate::media::session::play::Player;
use crate::media::session::record::Recording;
use crate::media::session::report::Reporter;
use crate::media::timeline::Arrived;

pub use crate::media::session::outbox::MAX_PACKET;
pub use crate::media::session::outbox::MAX_PAYLOAD;
pub use crate::media::session::outbox::OutPacket;
pub use crate::media::session::outbox::Outbox;
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

/// Whoever sends digits in two ways sends each of them in both: one that comes another way within
/// so long is no other press of a key.
const SAME_PRESS: Duration = Duration::from_secs(5);

/// What happens to a call's media.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaEvent {
    /// The last queued prompt has been played.
    Played,
    /// One more stage of the way to a call that is heard on both sides has been reached.
    Stage {
        /// Which.
        stage: Stage,
        /// When.
        at: Instant,
    },
    /// The caller pressed a key: `0` to `9`, `*`, `#`, `A` to `D`.
    Digit(char),
    /// The recording ended by itself.
    RecordingEnded(RecordingEnd),
    /// Packets stopped coming while nothing was recorded, or never came (`first`).
    MediaTimeout {
        /// Whether there has never been a packet.
        first: bool,
        /// What ended.
        of: Lost,
    },
    /// No way for media was found, or it could not be secured. There will be no media.
    LinkFailed {
        /// The stage that was not reached.
        stage: Stage,
        /// What was in the way.
        reason: &'static str,
    },
    /// The media ended by a defect of ours, or the engine has stopped. What was recorded up to
    /// now is good.
    Failed,
}

/// What a live call lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Packets of the peer.
    Packets,
    /// The peer's consent to receive ours (RFC 7675).
    Consent,
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
    /// Whether digits are heard in the audio where no telephone-events were agreed on.
    pub in_band_digits: bool,
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

/// How a digit came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Events,
    Tones,
    Signalling,
}

/// What a payload type stands for.
enum Kind {
    Audio(Codec),
    Events,
    Noise,
}

/// One side of a call, seen from us: the media of one dialog.
#[derive(Debug)]
pub struct Leg {
    settings: Settings,
    params: MediaParams,
    /// Payload type and codec before the last offer: packets of it may still be on their way.
    former: Option<(u8, Codec)>,
    player: Player,
    hearing: Hearing,
    recording: Option<Recording>,
    reporter: Reporter,
    events: VecDeque<MediaEvent>,
    /// How the last digit came, and when.
    pressed: Option<(Way, Instant)>,
    /// Whether there is anything to say or to hear yet: before, we keep silent.
    active: bool,
    heard_first: bool,
    sent_first: bool,
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
            former: None,
            player: Player::new(ssrc, sequence, timestamp),
            hearing: Hearing::new(now, settings.jitter_window, settings.in_band_digits),
            recording: None,
            reporter: Reporter::new(now, epoch, cname, seed),
            events: VecDeque::with_capacity(4),
            pressed: None,
            active: false,
            heard_first: false,
            sent_first: false,
            waiting_since: now,
            timed_out: false,
        }
    }

    /// A new offer was answered, or the late answer has come.
    pub fn update(&mut self, now: Instant, params: MediaParams) {
        if self.params.payload_type != params.payload_type {
            self.former = Some((self.params.payload_type, self.params.codec));
        }
        self.params = params;
        self.waiting_since = now;
        self.timed_out = false;
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

    /// Passes on what has happened beneath.
    pub fn tell(&mut self, event: MediaEvent) {
        if self.events.len() < MAX_EVENTS {
            self.event(event);
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<MediaEvent> {
        self.events.pop_front()
    }

    /// Whether anything has been sent.
    pub fn has_sent(&self) -> bool {
        self.sent_first
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
        let Some(kind) = self.kind_of(packet.payload_type) else {
            return Received::UnknownPayloadType;
        };
        self.sign_of_life(now);
        let order = self.hearing.order(now, packet);
        let (what, clock_rate) = match kind {
            Kind::Events => {
                if let Some(digit) = self.hearing.digit(packet, order) {
                    let at = self.hearing.line.position_of(packet.timestamp);
                    self.digit(now, digit, Way::Events, at);
                }
                return Received::Taken;
            }
            Kind::Audio(codec) => (What::Audio(codec, packet.payload), codec.clock_rate()),
            // RFC 3389 section 3.1; an empty one, which some devices send, is silence.
            Kind::Noise => {
                let level = packet.payload.first().map_or(127, |level| level & 0x7F);
                (What::Noise(level), 8_000)
            }
        };
        match order {
            Order::Duplicate => return Received::Duplicate,
            Order::Old => return Received::Late,
            Order::Ahead(_) | Order::Reordered | Order::Restart => {}
        }
        if what.ticks() == 0 {
            self.hearing.line.pass(order, packet.sequence);
            return Received::Malformed;
        }
        let timestamp = packet.timestamp;
        self.hearing.reception.measure(now, timestamp, clock_rate);
        let arrived = Arrived {
            sequence: packet.sequence,
            timestamp,
            clock_ticks: TICK_RATE / clock_rate,
            what,
        };
        if self.is_recorded_at_once(&arrived) {
            return self.record_at_once(now, order, &arrived);
        }
        if !self.hearing.line.put(now, order, &arrived) {
            return Received::Late;
        }
        self.listen(now);
        Received::Taken
    }

    /// Whether a packet need not wait for others, and nobody but the recording wants it.
    fn is_recorded_at_once(&self, packet: &Arrived<'_>) -> bool {
        self.recording.as_ref().is_some_and(Recording::takes_all)
            && self.hearing.line.is_next(packet)
    }

    fn record_at_once(&mut self, now: Instant, order: Order, packet: &Arrived<'_>) -> Received {
        let Some(packet) = self.hearing.line.pass_through(now, order, packet) else {
            return Received::Late;
        };
        let digit = self.hearing.listen_to(&packet, self.hears_digits());
        self.follow(|recording, hearing| recording.advance_with(now, &packet, hearing));
        self.heard_digit(now, digit);
        Received::Taken
    }

    /// Where telephone-events were agreed on, the same digit must not count twice.
    fn hears_digits(&self) -> bool {
        self.params.telephone_event.is_none()
    }

    fn heard_digit(&mut self, now: Instant, digit: Option<(char, u64)>) {
        if let Some((digit, at)) = digit {
            self.digit(now, digit, Way::Tones, Some(at));
        }
    }

    fn kind_of(&self, payload_type: u8) -> Option<Kind> {
        let params = &self.params;
        if payload_type == params.payload_type {
            return Some(Kind::Audio(params.codec));
        }
        let given = Some(payload_type);
        if given == params.telephone_event {
            return Some(Kind::Events);
        }
        if given == params.comfort_noise {
            return Some(Kind::Noise);
        }
        let (former, codec) = self.former?;
        (former == payload_type).then_some(Kind::Audio(codec))
    }

    /// Listens to what has settled, and lets the recording follow.
    fn listen(&mut self, now: Instant) {
        let digit = self.hearing.listen(self.hears_digits());
        self.follow(|recording, hearing| recording.advance(now, hearing));
        self.hearing.forget();
        self.heard_digit(now, digit);
    }

    /// Lets the recording go on, and tells if it has ended by this.
    fn follow(&mut self, go_on: impl FnOnce(&mut Recording, &mut Hearing) -> Option<RecordingEnd>) {
        if let Some(recording) = &mut self.recording
            && let Some(end) = go_on(recording, &mut self.hearing)
        {
            self.event(MediaEvent::RecordingEnded(end));
        }
    }

    /// A digit came with the signalling.
    pub fn signalled(&mut self, now: Instant, digit: char) {
        self.digit(now, digit, Way::Signalling, None);
    }

    /// A digit was pressed, at this position as far as that is known.
    fn digit(&mut self, now: Instant, digit: char, way: Way, at: Option<u64>) {
        let is_same_press = |(other, at): (Way, Instant)| {
            other != way && now.saturating_duration_since(at) < SAME_PRESS
        };
        if self.pressed.is_some_and(is_same_press) {
            return;
        }
        self.pressed = Some((way, now));
        if let Some(recording) = &mut self.recording
            && recording.is_running()
            && recording.end_digit() == Some(digit)
        {
            recording.stop_by_digit(now, at, &mut self.hearing);
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
            self.event(MediaEvent::Stage {
                stage: Stage::FirstPacket,
                at: now,
            });
        }
    }

    /// Takes a compound RTCP packet.
    pub fn handle_rtcp(&mut self, now: Instant, compound: &[u8]) -> Received {
        if !self.reporter.handle(now, compound, self.player.ssrc()) {
            return Received::Malformed;
        }
        // Phones that suppress silence may send nothing else until somebody speaks.
        self.waiting_since = now;
        Received::Taken
    }

    /// Whether what comes is recorded, or is about to be.
    pub fn records(&self) -> bool {
        self.recording.is_some()
    }

    /// Whether nothing is to be sent for now but signs of life and reports. Such a leg may be given
    /// its slots less often, with [`Leg::rest`] between.
    pub fn is_resting(&self) -> bool {
        let is_delivered = self.recording.as_ref().is_none_or(Recording::is_running);
        self.sent_first
            && self.player.is_idle()
            && !self.settings.continuous_silence
            && self.events.is_empty()
            && is_delivered
    }

    /// Lets time pass in which there was no slot.
    pub fn rest(&mut self, time: Duration) {
        self.player
            .rest(u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
    }

    /// One slot of 20 ms: sends the packet that is due, looks at the timeouts. While `out` has no
    /// way for it to go, what is to be played waits.
    pub fn slot(&mut self, now: Instant, out: &mut Outbox) {
        if self.active && out.can_send() && self.params.direction.sends() {
            self.send(now, out);
        } else {
            self.player.pause();
        }
        if self.active && self.reporter.is_due(now) {
            self.report(now, false, out);
        }
        self.by_the_clock(now);
    }

    fn send(&mut self, now: Instant, out: &mut Outbox) {
        let continuous = self.settings.continuous_silence;
        if self.player.is_playing() && self.heard_first {
            // Nobody is expected to speak into a greeting.
            self.waiting_since = now;
        }
        let before = out.len();
        if self.player.slot(&self.params, continuous, out) == Played::LastFrame {
            self.last_frame(now);
        }
        if !self.sent_first && out.len() > before {
            self.sent_first = true;
            self.event(MediaEvent::Stage {
                stage: Stage::FirstSent,
                at: now,
            });
        }
    }

    /// A slot that came too late to send its frame.
    pub fn skip_slot(&mut self, now: Instant, out: &Outbox) {
        if out.can_send() && self.params.direction.sends() {
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
        self.follow(|recording, hearing| recording.advance(now, hearing));
    }

    fn check_timeouts(&mut self, now: Instant) {
        let is_silent = self.params.remote.is_none() && self.params.ice.is_none();
        let held = self.params.direction != Direction::SendRecv || is_silent;
        if held {
            self.waiting_since = now;
            return;
        }
        if self.is_overdue(now) {
            self.lose(now, Lost::Packets);
        }
    }

    /// Whether the peer is about to be held for gone: by what has been taken, nothing came for so long.
    pub fn is_overdue(&self, now: Instant) -> bool {
        let limit = if self.heard_first {
            self.settings.running_timeout
        } else {
            self.settings.first_packet_timeout
        };
        !self.timed_out && now.saturating_duration_since(self.waiting_since) >= limit
    }

    /// Media have ended, and nobody has hung up. Told once.
    pub fn lose(&mut self, now: Instant, of: Lost) {
        self.timed_out = true;
        match &mut self.recording {
            Some(recording) if recording.is_running() => {
                let end = RecordingEnd::MediaTimeout;
                recording.stop_here(now, Some(end), &mut self.hearing);
                self.event(MediaEvent::RecordingEnded(end));
            }
            _ => {
                let first = !self.heard_first;
                self.event(MediaEvent::MediaTimeout { first, of });
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

    fn report(&mut self, now: Instant, goodbye: bool, out: &mut Outbox) {
        let reception = &mut self.hearing.reception;
        self.reporter
            .send(now, &self.player, reception, goodbye, out);
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
