//! What we hear: packets put on the line of time, digits, and who speaks when.

use std::time::Duration;
use std::time::Instant;

use crate::media::audio::ComfortNoise;
use crate::media::audio::FRAME_SAMPLES;
use crate::media::audio::SAMPLE_RATE;
use crate::media::audio::SpeechDetector;
use crate::media::jitter::Counts;
use crate::media::jitter::Order;
use crate::media::jitter::Source;
use crate::media::rtp::RtpPacket;
use crate::media::rtp::telephone_event::DigitReceiver;
use crate::media::timeline::Timeline;
use crate::media::timeline::samples_in;

/// A pause between two words that does not end what is being said.
const PAUSE: u64 = 600 * SAMPLE_RATE as u64 / 1_000;

/// After a change of sender, packets of the one before are late for so long.
const CHANGE: Duration = Duration::from_secs(1);

/// The order of received packets over all senders of the call.
#[derive(Debug)]
pub(super) struct Reception {
    started: Instant,
    source: Option<Source>,
    before: Option<(u32, Instant)>,
    /// Of the senders before this one.
    past: Counts,
}

impl Reception {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            source: None,
            before: None,
            past: Counts::default(),
        }
    }

    /// The sender of now.
    pub(super) fn source(&mut self) -> Option<&mut Source> {
        self.source.as_mut()
    }

    /// Counts over all senders.
    pub(super) fn counts(&self) -> Counts {
        let current = self.source.as_ref().map(Source::counts);
        self.past.plus(current.unwrap_or_default())
    }

    /// Places a packet by its number. A new sender is told as [`Order::Restart`].
    pub(super) fn order(&mut self, now: Instant, packet: &RtpPacket<'_>) -> Order {
        let Some(source) = &mut self.source else {
            self.source = Some(Source::new(packet.ssrc, packet.sequence));
            return Order::Restart;
        };
        if source.ssrc() == packet.ssrc {
            let order = source.order(packet.sequence);
            if order == Order::Restart {
                self.change(packet);
            }
            return order;
        }
        // One who has just been replaced does not take over again with a packet that was late.
        let late = |(ssrc, until): (u32, Instant)| ssrc == packet.ssrc && now < until;
        if self.before.is_some_and(late) {
            return Order::Old;
        }
        self.before = Some((source.ssrc(), now + CHANGE));
        self.change(packet);
        Order::Restart
    }

    fn change(&mut self, packet: &RtpPacket<'_>) {
        self.past = self.counts();
        self.source = Some(Source::new(packet.ssrc, packet.sequence));
    }

    /// Takes the arrival of a packet of audio into the jitter.
    pub(super) fn measure(&mut self, now: Instant, timestamp: u32) {
        if let Some(source) = &mut self.source {
            source.measure(now.saturating_duration_since(self.started), timestamp);
        }
    }
}

/// Follows who speaks when, on settled samples.
#[derive(Debug)]
pub(super) struct Listener {
    detector: SpeechDetector,
    /// Position up to which was listened.
    position: u64,
    /// The detector's own measure of the end of speech, to see it change.
    detector_end: Option<u64>,
    speech_end: Option<u64>,
    /// Where what is being said began, and how many samples of speech were heard before.
    speaking: Option<(u64, u64)>,
}

impl Listener {
    pub(super) fn new() -> Self {
        Self {
            detector: SpeechDetector::new(),
            position: 0,
            detector_end: None,
            speech_end: None,
            speaking: None,
        }
    }

    /// Position up to which was listened.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Position after the last speech.
    pub(super) fn speech_end(&self) -> Option<u64> {
        self.speech_end
    }

    /// Where what is being said at [`Listener::position`] began.
    pub(super) fn speaking_since(&self) -> Option<u64> {
        self.speaking.map(|(since, _)| since)
    }

    /// Samples of speech heard in all.
    pub(super) fn speech_samples(&self) -> u64 {
        self.detector.speech_samples()
    }

    /// Samples of speech heard before what is being said now.
    pub(super) fn speech_samples_before(&self) -> u64 {
        self.speaking
            .map_or(self.speech_samples(), |(_, before)| before)
    }

    /// Listens to what has settled: whole frames, and at the end the rest too.
    pub(super) fn listen(&mut self, line: &Timeline, rest: bool) {
        if self.position < line.oldest() {
            self.position = line.oldest().min(line.settled());
            self.judge(self.position);
        }
        let mut frame = [0; FRAME_SAMPLES];
        while self.position < line.settled() {
            let there = (line.settled() - self.position).min(FRAME_SAMPLES as u64) as usize;
            if there < FRAME_SAMPLES && !rest {
                return;
            }
            let frame = &mut frame[..there];
            line.read(self.position, frame);
            self.hear(frame);
        }
    }

    fn hear(&mut self, frame: &[i16]) {
        let start = self.position;
        let before = self.detector.speech_samples();
        self.position += frame.len() as u64;
        // A gap is no background to compare voices with, so the detector does not hear it.
        if frame.iter().any(|sample| *sample != 0) {
            self.detector.feed(frame);
            let end = self.detector.speech_end();
            if end != self.detector_end {
                self.detector_end = end;
                self.speech_end =
                    end.map(|_| self.position.saturating_sub(self.detector.silent_for()));
            }
        }
        self.judge(start);
        if let Some((since, samples)) = &mut self.speaking
            && *since == start
        {
            *samples = before;
        }
    }

    /// Whether somebody speaks, and since `start` if that is new.
    fn judge(&mut self, start: u64) {
        let recent = |end: u64| self.position.saturating_sub(end) < PAUSE;
        if !self.speech_end.is_some_and(recent) {
            self.speaking = None;
        } else if self.speaking.is_none() {
            self.speaking = Some((start, self.detector.speech_samples()));
        }
    }
}

/// The receiving half of a call.
#[derive(Debug)]
pub(super) struct Hearing {
    pub(super) reception: Reception,
    pub(super) line: Timeline,
    pub(super) listener: Listener,
    digits: DigitReceiver,
}

impl Hearing {
    pub(super) fn new(now: Instant, window: Duration) -> Self {
        Self {
            reception: Reception::new(now),
            line: Timeline::new(samples_in(window)),
            listener: Listener::new(),
            digits: DigitReceiver::default(),
        }
    }

    /// Places a packet by its number, whatever it carries.
    pub(super) fn order(&mut self, now: Instant, packet: &RtpPacket<'_>) -> Order {
        let order = self.reception.order(now, packet);
        if order == Order::Restart {
            self.line.interrupt();
            self.digits = DigitReceiver::default();
        }
        order
    }

    /// A packet of events; the digit if it is a new one.
    pub(super) fn digit(&mut self, packet: &RtpPacket<'_>, order: Order) -> Option<char> {
        if order == Order::Old {
            return None;
        }
        self.digits.handle(packet.timestamp, packet.payload)
    }

    /// A packet of comfort noise.
    pub(super) fn noise(&mut self, now: Instant, packet: &RtpPacket<'_>, order: Order) {
        if let Some(at) = self.line.place(now, order, packet.timestamp, FRAME_SAMPLES) {
            let noise = ComfortNoise::from_payload(packet.payload);
            self.line.write_noise(at, noise, FRAME_SAMPLES);
        }
    }
}
