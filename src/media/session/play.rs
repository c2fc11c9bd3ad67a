//! What we send: prompts, digits, and signs of life in between.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::media::audio::FRAME_SAMPLES;
use crate::media::audio::Prompt;
use crate::media::rtp::Header;
use crate::media::rtp::telephone_event::DigitSender;
use crate::media::rtp::telephone_event::event_of;
use crate::media::sdp::MediaParams;
use crate::media::session::outbox::Outbox;

/// Without anything to play, a packet goes out once in so many slots of 20 ms: often enough for
/// every middlebox to keep the call's path open.
const SIGN_OF_LIFE_SLOTS: u32 = 50;

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
    queue: VecDeque<Arc<Prompt>>,
    frame: usize,
    digits: VecDeque<u8>,
    /// The digit being sent, and the moment it began.
    digit: Option<(DigitSender, u32)>,
    /// Slots without anything to play.
    idle_slots: u32,
}

/// Our packets, numbered and timed.
#[derive(Debug)]
struct Stream {
    ssrc: u32,
    sequence: u16,
    /// Of this slot.
    timestamp: u32,
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
                flowing: false,
                packets: 0,
                octets: 0,
            },
            queue: VecDeque::new(),
            frame: 0,
            digits: VecDeque::new(),
            digit: None,
            idle_slots: 0,
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
        !self.queue.is_empty()
    }

    /// Queues a prompt. One without a single frame is left out.
    pub(super) fn play(&mut self, prompt: Arc<Prompt>) {
        if prompt.frame_count() > 0 {
            self.queue.push_back(prompt);
        }
    }

    pub(super) fn stop(&mut self) {
        self.queue.clear();
        self.frame = 0;
    }

    pub(super) fn send_digits(&mut self, digits: &str) {
        let room = MAX_DIGITS - self.digits.len();
        self.digits
            .extend(digits.chars().filter_map(event_of).take(room));
    }

    /// Lets a slot pass in which nothing may be sent, by hold or for want of an address: time goes
    /// on and the prompt waits.
    pub(super) fn pause(&mut self) {
        self.stream.flowing = false;
        self.stream.next_slot();
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
        to: SocketAddr,
        continuous: bool,
        out: &mut Outbox,
    ) -> Played {
        let played = if self.sends_digit(params) {
            self.digit_slot(params, to, out);
            Played::Nothing
        } else if let Some(prompt) = self.queue.front() {
            self.idle_slots = 0;
            if let Some(payload) = prompt.frame(params.codec, self.frame) {
                self.stream.audio(params.payload_type, to, payload, out);
            }
            self.advance()
        } else {
            self.idle_slot(params, to, continuous, out);
            Played::Nothing
        };
        self.stream.next_slot();
        played
    }

    fn advance(&mut self) -> Played {
        let Some(prompt) = self.queue.front() else {
            return Played::Nothing;
        };
        self.frame += 1;
        if self.frame < prompt.frame_count() {
            return Played::Nothing;
        }
        self.frame = 0;
        self.queue.pop_front();
        if self.queue.is_empty() {
            Played::LastFrame
        } else {
            Played::Nothing
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
            self.digit = next.map(|event| (DigitSender::new(event), self.stream.timestamp));
        }
        self.digit.is_some()
    }

    fn digit_slot(&mut self, params: &MediaParams, to: SocketAddr, out: &mut Outbox) {
        let (Some(payload_type), Some((sender, timestamp))) =
            (params.telephone_event, self.digit.as_mut())
        else {
            return;
        };
        self.stream.flowing = false;
        if let Some(packet) = sender.next_slot() {
            let payload = packet.event.to_bytes();
            self.stream
                .send(payload_type, packet.first, *timestamp, to, &payload, out);
        }
    }

    fn idle_slot(
        &mut self,
        params: &MediaParams,
        to: SocketAddr,
        continuous: bool,
        out: &mut Outbox,
    ) {
        let due = self.idle_slots.is_multiple_of(SIGN_OF_LIFE_SLOTS);
        self.idle_slots = self.idle_slots.wrapping_add(1);
        let silence = [params.codec.silence(); FRAME_SAMPLES];
        match params.comfort_noise {
            Some(payload_type) if due && !continuous => {
                // RFC 3389 section 4: what is marked is the audio after the noise.
                self.stream.flowing = false;
                let timestamp = self.stream.timestamp;
                self.stream
                    .send(payload_type, false, timestamp, to, &NOISE_LEVEL, out);
            }
            None if due => self.stream.audio(params.payload_type, to, &silence, out),
            _ if continuous => self.stream.audio(params.payload_type, to, &silence, out),
            _ => self.stream.flowing = false,
        }
    }
}

impl Stream {
    fn next_slot(&mut self) {
        self.timestamp = self.timestamp.wrapping_add(FRAME_SAMPLES as u32);
    }

    /// Sends the audio of this slot.
    fn audio(&mut self, payload_type: u8, to: SocketAddr, payload: &[u8], out: &mut Outbox) {
        let marker = !std::mem::replace(&mut self.flowing, true);
        self.send(payload_type, marker, self.timestamp, to, payload, out);
    }

    fn send(
        &mut self,
        payload_type: u8,
        marker: bool,
        timestamp: u32,
        to: SocketAddr,
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
        out.push(to, &header.to_bytes(), payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(payload.len() as u32);
    }
}
