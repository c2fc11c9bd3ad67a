//! What we hear: packets in their order, on the line of time, and digits.

use std::time::Duration;
use std::time::Instant;

use crate::media::audio::DtmfDetector;
use crate::media::audio::TICK_RATE;
use crate::media::jitter::Counts;
use crate::media::jitter::Order;
use crate::media::jitter::Source;
use crate::media::rtp::RtpPacket;
use crate::media::rtp::telephone_event::DigitReceiver;
use crate::media::session::ear::Ear;
use crate::media::timeline::Packet;
use crate::media::timeline::Timeline;
use crate::media::timeline::ticks_in;

/// What is kept before the first word: consonants are quieter than the vowel that is noticed.
pub(super) const LEAD: u64 = 100 * TICK_RATE as u64 / 1_000;

/// How much of what is being said is kept for a recording that may begin.
const PREROLL: u64 = 2 * TICK_RATE as u64;

/// How long a digit sounds before it is heard.
const UNNOTICED: u64 = 20 * TICK_RATE as u64 / 1_000;

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

    /// Takes the arrival of a packet of audio into the jitter, by a clock of so many hertz.
    pub(super) fn measure(&mut self, now: Instant, timestamp: u32, clock_rate: u32) {
        if let Some(source) = &mut self.source {
            let arrival = now.saturating_duration_since(self.started);
            source.measure(arrival, timestamp, clock_rate);
        }
    }
}

/// The receiving half of a call.
#[derive(Debug)]
pub(super) struct Hearing {
    pub(super) reception: Reception,
    pub(super) line: Timeline,
    pub(super) ear: Ear,
    digits: DigitReceiver,
    /// Hears digits in the audio, where that is wanted.
    tones: Option<Box<DtmfDetector>>,
}

impl Hearing {
    pub(super) fn new(now: Instant, window: Duration, in_band_digits: bool) -> Self {
        Self {
            reception: Reception::new(now),
            line: Timeline::new(ticks_in(window)),
            ear: Ear::new(),
            digits: DigitReceiver::default(),
            tones: in_band_digits.then(Box::default),
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
        self.line.pass(order, packet.sequence);
        if order == Order::Old {
            return None;
        }
        self.digits.handle(packet.timestamp, packet.payload)
    }

    /// Listens to what has settled. `by_ear`: whether digits are to be heard in the audio; one that
    /// is, is told with the position where it began.
    pub(super) fn listen(&mut self, by_ear: bool) -> Option<(char, u64)> {
        let tones = &mut self.tones.as_deref_mut().filter(|_| by_ear);
        let mut heard = None;
        while let Some(packet) = self.line.hear() {
            let digit = hear(&mut self.ear, tones, &packet);
            heard = heard.or(digit);
        }
        heard
    }

    /// Listens to a packet that has passed through the line.
    pub(super) fn listen_to(&mut self, packet: &Packet<'_>, by_ear: bool) -> Option<(char, u64)> {
        let tones = &mut self.tones.as_deref_mut().filter(|_| by_ear);
        hear(&mut self.ear, tones, packet)
    }

    /// Forgets what nobody will want any more: while nobody speaks all but the last moments, else
    /// what was said too long ago.
    pub(super) fn forget(&mut self) {
        let now = self.ear.position();
        let since = self.ear.speaking_since().unwrap_or(now);
        let wanted = since.saturating_sub(LEAD).max(now.saturating_sub(PREROLL));
        while self
            .line
            .oldest()
            .is_some_and(|packet| packet.end() <= wanted)
        {
            self.line.forget_oldest();
        }
    }
}

/// Hears who speaks in a packet, and a digit if `tones` are listened for.
fn hear(
    ear: &mut Ear,
    tones: &mut Option<&mut DtmfDetector>,
    packet: &Packet<'_>,
) -> Option<(char, u64)> {
    let mut heard = None;
    ear.listen(packet, |position, samples| {
        let digit = tones.as_deref_mut().and_then(|tones| tones.feed(samples));
        let began = position.saturating_sub(UNNOTICED);
        heard = heard.or(digit.map(|digit| (digit, began)));
    });
    heard
}
