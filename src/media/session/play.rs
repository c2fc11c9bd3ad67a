//! What we send: prompts, digits, and signs of life in between.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::media::audio::Prompt;
use crate::media::audio::SAMPLE_RATE;
use crate::media::rtp::Header;
use crate::media::rtp::telephone_event::DigitSender;
use crate::media::rtp::telephone_event::event_of;
use crate::media::sdp::MediaParams;
use crate::media::session::outbox::Outbox;

/// Without anything to play, a packet goes out so often, in milliseconds: often enough for every
/// middlebox to keep the call's path open.
const SIGN_OF_LIFE_MS: u32 = 1_000;
/// The time of a slot, in milliseconds.
const SLOT_MS: u32 = 20;

/// Our comfort noise: -70 dBov, a quiet line (RFC 3389 section 3.1).
const NOISE_LEVEL: [u8; 1] = [70];

/// Digits waiting to be sent.
const MAX_DIGITS: usize = 64;

/// What one slot came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Played {
    /// Nothing has ended.
    Nothing,
    /// The last frame of the last prompt has gone.
    LastFrame,
}

/// The sending half of a call: one packet at most in each slot of 20 ms.
#[derive(Debug)]
pub(super) struct Player {
    stream: Stream,
    /// What is played, from this frame on. It stands here and not in the queue: each slot asks, and
    /// would have to fetch the queue's memory.
    prompt: Option<Arc<Prompt>>,
    frame: usize,
    /// What is played after it.
    queue: VecDeque<Arc<Prompt>>,
    digits: VecDeque<u8>,
    /// The digit being sent, and the moment it began.
    digit: Option<(DigitSender, u32)>,
    /// Time until the next sign of life, in milliseconds: it begins when there is nothing to play.
    quiet_ms: u32,
}

/// Our packets, numbered and timed.
#[derive(Debug)]
struct Stream {
    ssrc: u32,
    sequence: u16,
    /// Of this slot.
    timestamp: u32,
    /// Hertz of the timestamp.
    clock_rate: u32,
    /// Whether the slot before had audio: if not, the next audio is marked.
    flowing: bool,
    packets: u32,
    octets: u32,
}

impl Player {
    pub(super) fn new(ssrc: u32, sequence: u16, timestamp: u32) -> Self {
        Self {
            stream: Stream {
                ssrc,
                sequence,
                timestamp,
                clock_rate: SAMPLE_RATE,
                flowing: false,
                packets: 0,
                octets: 0,
            },
            prompt: None,
            frame: 0,
            queue: VecDeque::new(),
            digits: VecDeque::new(),
            digit: None,
            quiet_ms: 0,
        }
    }

    pub(super) fn ssrc(&self) -> u32 {
        self.stream.ssrc
    }

    pub(super) fn timestamp(&self) -> u32 {
        self.stream.timestamp
    }

    /// Packets and bytes of payload sent so far; they wrap around as RTCP wants it.
    pub(super) fn sent(&self) -> (u32, u32) {
        (self.stream.packets, self.stream.octets)
    }

    pub(super) fn is_playing(&self) -> bool {
        self.prompt.is_some()
    }

    /// Queues a prompt. One without a single frame is left out.
    pub(super) fn play(&mut self, prompt: Arc<Prompt>) {
        if prompt.frame_count() == 0 {
            return;
        }
        if self.prompt.is_none() {
            self.prompt = Some(prompt);
        } else {
            self.queue.push_back(prompt);
        }
    }

    pub(super) fn stop(&mut self) {
        self.prompt = None;
        self.queue.clear();
        self.frame = 0;
    }

    pub(super) fn send_digits(&mut self, digits: &str) {
        let room = MAX_DIGITS - self.digits.len();
        self.digits
            .extend(digits.chars().filter_map(event_of).take(room));
    }

    /// Whether there is nothing to send but signs of life.
    pub(super) fn is_idle(&self) -> bool {
        self.prompt.is_none() && self.digits.is_empty() && self.digit.is_none()
    }

    /// Lets time pass, in milliseconds, in which nothing was to be sent.
    pub(super) fn rest(&mut self, ms: u32) {
        self.quiet_ms = self.quiet_ms.saturating_sub(ms);
        self.stream.pass(ms);
    }

    /// Lets a slot pass in which nothing may be sent, by hold or for want of an address: time goes
    /// on and the prompt waits.
    pub(super) fn pause(&mut self) {
        self.stream.flowing = false;
        self.stream.pass(SLOT_MS);
    }

    /// Lets a slot pass that came too late: its frame is left out, so that the rest is on time.
    pub(super) fn skip(&mut self) -> Played {
        let played = if self.digit.is_some() || self.digits.front().is_some() {
            Played::Nothing
        } else {
            self.advance()
        };
        self.pause();
        played
    }

    /// Sends the packet of this slot.
    pub(super) fn slot(
        &mut self,
        params: &MediaParams,
        continuous: bool,
        out: &mut Outbox,
    ) -> Played {
        self.stream.set_clock(params.codec.clock_rate());
        let played = if self.sends_digit(params) {
            self.digit_slot(params, out);
            Played::Nothing
        } else if let Some(prompt) = &self.prompt {
            self.quiet_ms = 0;
            if let Some(payload) = prompt.frame(params.codec, self.frame) {
                self.stream.audio(params.payload_type, payload, out);
            }
            self.advance()
        } else {
            self.idle_slot(params, continuous, out);
            Played::Nothing
        };
        self.stream.pass(SLOT_MS);
        played
    }

    fn advance(&mut self) -> Played {
        let Some(prompt) = &self.prompt else {
            return Played::Nothing;
        };
        self.frame += 1;
        if self.frame < prompt.frame_count() {
            return Played::Nothing;
        }
        self.frame = 0;
        self.prompt = self.queue.pop_front();
        match self.prompt {
            Some(_) => Played::Nothing,
            None => Played::LastFrame,
        }
    }

    fn sends_digit(&mut self, params: &MediaParams) -> bool {
        if params.telephone_event.is_none() {
            self.digits.clear();
            self.digit = None;
        }
        if self
            .digit
            .as_ref()
            .is_some_and(|(sender, _)| sender.is_done())
        {
            self.digit = None;
        }
        if self.digit.is_none() {
            let next = self.digits.pop_front();
            let clock_rate = params.telephone_event_clock;
            self.digit = next.map(|event| {
                let sender = DigitSender::new(event, clock_rate);
                (sender, self.stream.timestamp)
            });
        }
        self.digit.is_some()
    }

    fn digit_slot(&mut self, params: &MediaParams, out: &mut Outbox) {
        let (Some(payload_type), Some((sender, timestamp))) =
            (params.telephone_event, self.digit.as_mut())
        else {
            return;
        };
        self.stream.flowing = false;
        if let Some(packet) = sender.next_slot() {
            let payload = packet.event.to_bytes();
            self.stream
                .send(payload_type, packet.first, *timestamp, &payload, out);
        }
    }

    fn idle_slot(&mut self, params: &MediaParams, continuous: bool, out: &mut Outbox) {
        let due = self.quiet_ms == 0;
        if due {
            self.quiet_ms = SIGN_OF_LIFE_MS;
        }
        self.quiet_ms = self.quiet_ms.saturating_sub(SLOT_MS);
        let silence = params.codec.silence();
        let noise = params
            .comfort_noise
            .filter(|_| params.codec.takes_comfort_noise());
        match noise {
            Some(payload_type) if due && !continuous => {
                // RFC 3389 section 4: what is marked is the audio after the noise.
                self.stream.flowing = false;
                let timestamp = self.stream.timestamp;
                self.stream
                    .send(payload_type, false, timestamp, &NOISE_LEVEL, out);
            }
            None if due => self.stream.audio(params.payload_type, silence, out),
            _ if continuous => self.stream.audio(params.payload_type, silence, out),
            _ => self.stream.flowing = false,
        }
    }
}

impl Stream {
    /// Goes on with the clock of another codec: as another stream, since a receiver takes all
    /// timestamps of one SSRC for those of one clock (RFC 7160 section 4.1).
    fn set_clock(&mut self, clock_rate: u32) {
        if self.clock_rate == clock_rate {
            return;
        }
        self.clock_rate = clock_rate;
        if self.packets > 0 {
            // A bijection: as hard to guess as the number before it.
            self.ssrc = self.ssrc.wrapping_mul(0x9E37_79B1) ^ 0x85EB_CA6B;
            self.packets = 0;
            self.octets = 0;
            self.flowing = false;
        }
    }

    /// Time goes on by so many milliseconds, of which every clock has whole steps.
    fn pass(&mut self, ms: u32) {
        let steps = (self.clock_rate / 1_000).wrapping_mul(ms);
        self.timestamp = self.timestamp.wrapping_add(steps);
    }

    /// Sends the audio of this slot.
    fn audio(&mut self, payload_type: u8, payload: &[u8], out: &mut Outbox) {
        let marker = !std::mem::replace(&mut self.flowing, true);
        self.send(payload_type, marker, self.timestamp, payload, out);
    }

    fn send(
        &mut self,
        payload_type: u8,
        marker: bool,
        timestamp: u32,
        payload: &[u8],
        out: &mut Outbox,
    ) {
        let header = Header {
            payload_type,
            marker,
            sequence: self.sequence,
            timestamp,
            ssrc: self.ssrc,
        };
        out.rtp(&header.to_bytes(), payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(payload.len() as u32);
    }
}
