//! The callers: one loop that places calls, speaks, listens and hangs up, for all of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddrV4;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::{MILLI, Nanos, SECOND, now};
use crate::message::{self, Dialog, Message, Ports};
use crate::voice::{FRAME, QUIET, Voice};
use crate::wire::{Incoming, Outgoing, Wire};

/// Between two packets of a call.
const PACING: Nanos = 20 * MILLI;
/// Calls are shared out among so many moments within that.
const SLOTS: usize = 20;
/// RFC 3261: the first retransmission, and when to give up.
const T1: Nanos = 500 * MILLI;
const GIVE_UP: Nanos = 32 * SECOND;

/// What each caller does once he is answered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Script {
    /// Frames of silence, while the greeting is played.
    pub quiet: usize,
    /// Frames of voice after that. The caller hangs up with the last one.
    pub talk: usize,
}

/// When calls are placed.
#[derive(Debug, Clone, Copy)]
pub enum Start {
    /// So many a second.
    Rate(f64),
    /// A new one for each that has ended, so that there are always so many.
    Always(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Inviting,
    Up,
    Leaving,
    Over,
}

struct Call {
    state: State,
    invited: Nanos,
    answered: Nanos,
    left: Nanos,
    resends: u32,
    dialog: Dialog,
    to: Option<SocketAddrV4>,
    frame: usize,
    heard: Heard,
}

/// What a caller hears.
#[derive(Default)]
struct Heard {
    first: Option<(u32, Nanos)>,
    next_sequence: Option<u16>,
    /// In microseconds, against the first packet.
    arrivals: Vec<i32>,
}

/// What came of all calls.
#[derive(Debug, Default)]
pub struct Tally {
    pub placed: usize,
    pub answered: usize,
    pub ended: usize,
    /// Why calls failed, and how many.
    pub failed: BTreeMap<String, usize>,
    /// INVITE and BYE that were sent again.
    pub resent: usize,
    /// 200s that came again.
    pub answers_again: usize,
    pub packets_sent: u64,
    pub packets_heard: u64,
    pub packets_lost: i64,
    pub packets_refused: usize,
    /// INVITE to 200.
    pub setup: Vec<Nanos>,
    /// 200 to the first packet heard.
    pub first_media: Vec<Nanos>,
    /// By how much our own packets were late.
    pub own_lateness: Vec<Nanos>,
}

impl Tally {
    pub fn failed(&self) -> usize {
        self.failed.values().sum()
    }
}

/// The callers and their sockets.
pub struct Fleet<'a> {
    sip: Wire,
    rtp: Wire,
    rtcp: Wire,
    server: SocketAddrV4,
    pub crew: Crew<'a>,
    packets: Vec<Outgoing<'a>>,
}

/// The callers.
pub struct Crew<'a> {
    voice: &'a Voice,
    script: Script,
    target: String,
    ports: Ports,
    /// The number of the first call. A server must not see a number twice: it would know it.
    first: u32,
    calls: Vec<Call>,
    start: Start,
    to_start: usize,
    next_start: Nanos,
    slots: [Vec<u32>; SLOTS],
    next_slot: Nanos,
    timers: BinaryHeap<Reverse<(Nanos, u32)>>,
    /// Messages to be sent.
    outbox: Vec<String>,
    /// Whether the times of what is heard are noted.
    pub listening: bool,
    pub tally: Tally,
}

impl<'a> Fleet<'a> {
    pub fn new(
        server: SocketAddrV4,
        voice: &'a Voice,
        script: Script,
        first: u32,
    ) -> anyhow::Result<Self> {
        let (sip, rtp, rtcp) = (Wire::bind()?, Wire::bind()?, Wire::bind()?);
        let ports = Ports {
            sip: sip.port()?,
            rtp: rtp.port()?,
            rtcp: rtcp.port()?,
        };
        let crew = Crew {
            voice,
            script,
            target: server.to_string(),
            ports,
            first,
            calls: Vec::new(),
            start: Start::Always(0),
            to_start: 0,
            next_start: 0,
            slots: Default::default(),
            next_slot: now(),
            timers: BinaryHeap::new(),
            outbox: Vec::new(),
            listening: false,
            tally: Tally::default(),
        };
        Ok(Self {
            sip,
            rtp,
            rtcp,
            server,
            crew,
            packets: Vec::new(),
        })
    }

    /// Goes on for so long.
    pub fn run_for(&mut self, time: Nanos) {
        let until = now() + time;
        self.run_until(time, |_| now() >= until);
    }

    /// Goes on until `done`, for `longest` at most; whether it was done.
    pub fn run_until(&mut self, longest: Nanos, mut done: impl FnMut(&Crew<'_>) -> bool) -> bool {
        let until = now() + longest;
        // What has passed meanwhile is not made up for.
        self.crew.next_slot = self.crew.next_slot.max(now() - PACING);
        while now() < until {
            if done(&self.crew) {
                return true;
            }
            self.turn();
        }
        done(&self.crew)
    }

    fn turn(&mut self) {
        let Self {
            sip,
            rtp,
            rtcp,
            server,
            crew,
            packets,
        } = self;
        while crew.next_slot <= now() {
            packets.clear();
            crew.speak(packets);
            crew.tally.packets_refused += rtp.send(packets);
        }
        crew.place_calls();
        sip.receive(|datagram| {
            if let Some(message) = Message::read(datagram.bytes) {
                crew.hear_message(&message, datagram.at);
            }
        });
        rtp.receive(|datagram| crew.hear_voice(&datagram));
        rtcp.receive(|_| ());
        crew.serve_timers();
        for message in crew.outbox.drain(..) {
            // What the system refuses is sent again, as if the network had lost it.
            sip.socket().send_to(message.as_bytes(), *server).ok();
        }
        let mut ready = [PollFd::new(sip.socket(), PollFlags::IN)];
        let wait = (crew.next_deadline() - now()).clamp(0, MILLI);
        if let Ok(wait) = Timespec::try_from(Duration::from_nanos(wait as u64)) {
            // An interrupted wait is a short one.
            poll(&mut ready, Some(&wait)).ok();
        }
    }
}

impl<'a> Crew<'a> {
    /// From now on `calls` more calls are placed.
    pub fn place(&mut self, calls: usize, start: Start) {
        self.start = start;
        self.to_start = calls;
        self.next_start = now();
    }

    /// A number that no call has had yet.
    pub fn next_number(&self) -> u32 {
        self.first + self.calls.len() as u32
    }

    fn call(&mut self, number: u32) -> Option<&mut Call> {
        self.calls.get_mut(number.checked_sub(self.first)? as usize)
    }

    /// Calls that are not over.
    pub fn live(&self) -> usize {
        self.tally.placed - self.tally.ended - self.tally.failed()
    }

    /// Calls that are to be placed.
    pub fn to_come(&self) -> usize {
        self.to_start
    }

    /// Calls that are answered and not over.
    pub fn up(&self) -> usize {
        self.slots.iter().map(Vec::len).sum()
    }

    /// What each call has said, in frames.
    pub fn said(&self) -> Vec<(u32, usize)> {
        let quiet = self.script.quiet;
        let spoke = self
            .calls
            .iter()
            .zip(self.first..)
            .filter(|(call, _)| call.frame > quiet);
        spoke
            .map(|(call, number)| (number, call.frame - quiet))
            .collect()
    }

    /// How late what was heard came, against the earliest of the same call.
    pub fn lateness(&self) -> Vec<Nanos> {
        let mut all = Vec::new();
        for call in &self.calls {
            let arrivals = &call.heard.arrivals;
            let earliest = arrivals.iter().min().copied().unwrap_or(0);
            all.extend(arrivals.iter().map(|at| Nanos::from(at - earliest) * 1000));
        }
        all
    }

    fn next_deadline(&self) -> Nanos {
        match self.start {
            Start::Rate(_) if self.to_start > 0 => self.next_slot.min(self.next_start),
            _ => self.next_slot,
        }
    }

    fn place_calls(&mut self) {
        while self.to_start > 0 {
            match self.start {
                Start::Rate(_) if now() < self.next_start => return,
                Start::Rate(rate) => self.next_start += (SECOND as f64 / rate) as Nanos,
                Start::Always(calls) if self.live() >= calls => return,
                Start::Always(_) => {}
            }
            self.to_start -= 1;
            self.invite();
        }
    }

    fn invite(&mut self) {
        let number = self.next_number();
        let at = now();
        self.calls.push(Call {
            state: State::Inviting,
            invited: at,
            answered: 0,
            left: 0,
            resends: 0,
            dialog: Dialog::default(),
            to: None,
            frame: 0,
            heard: Heard::default(),
        });
        self.tally.placed += 1;
        self.outbox
            .push(message::invite(number, self.ports, &self.target));
        self.timers.push(Reverse((at + T1, number)));
    }

    fn serve_timers(&mut self) {
        while let Some(&Reverse((at, number))) = self.timers.peek()
            && at <= now()
        {
            self.timers.pop();
            self.send_again(number);
        }
    }

    fn send_again(&mut self, number: u32) {
        let Some(call) = self.calls.get_mut((number - self.first) as usize) else {
            return;
        };
        let (since, message) = match call.state {
            State::Inviting => (
                call.invited,
                message::invite(number, self.ports, &self.target),
            ),
            State::Leaving => (
                call.left,
                message::in_dialog("BYE", 2, number, self.ports, &call.dialog),
            ),
            State::Up | State::Over => return,
        };
        // The timer of an INVITE that was answered meanwhile, and whose call is being left already.
        if now() < since + T1 {
            return;
        }
        if now() - since > GIVE_UP {
            let why = format!("no response while {:?}", call.state);
            return self.fail(number, why);
        }
        call.resends += 1;
        self.tally.resent += 1;
        self.timers
            .push(Reverse((now() + (T1 << call.resends.min(3)), number)));
        self.outbox.push(message);
    }

    fn fail(&mut self, number: u32, why: String) {
        let call = &mut self.calls[(number - self.first) as usize];
        if call.state != State::Over {
            call.state = State::Over;
            *self.tally.failed.entry(why).or_default() += 1;
        }
    }

    fn hear_message(&mut self, message: &Message<'_>, at: Nanos) {
        let number = message.call;
        if self.call(number).is_none() {
            return;
        }
        match (message.status(), message.method()) {
            (None, method) => {
                self.outbox.push(message::ok(message));
                if method == "BYE" {
                    self.fail(number, "hung up by the server".into());
                }
            }
            (Some(100..200), _) => {}
            (Some(200..300), "INVITE") => self.answered(message, at),
            (Some(status), "INVITE") => {
                self.outbox.push(message::ack_refusal(
                    number,
                    self.ports,
                    &self.target,
                    message.to(),
                ));
                self.fail(number, format!("refused with {status}"));
            }
            (Some(_), "BYE") => {
                let call = &mut self.calls[(number - self.first) as usize];
                if call.state == State::Leaving {
                    call.state = State::Over;
                    self.tally.ended += 1;
                }
            }
            _ => {}
        }
    }

    fn answered(&mut self, message: &Message<'_>, at: Nanos) {
        let number = message.call;
        let (Some(dialog), Some(port)) = (message.dialog(), message.media_port()) else {
            return self.fail(number, "an answer that cannot be read".into());
        };
        let call = &mut self.calls[(number - self.first) as usize];
        self.outbox
            .push(message::in_dialog("ACK", 1, number, self.ports, &dialog));
        if call.state != State::Inviting {
            self.tally.answers_again += 1;
            return;
        }
        call.state = State::Up;
        call.answered = at;
        call.dialog = dialog;
        call.to = Some(SocketAddrV4::new([127, 0, 0, 1].into(), port));
        self.tally.answered += 1;
        self.tally.setup.push(at - call.invited);
        if self.script.quiet + self.script.talk == 0 {
            self.leave(number);
        } else {
            self.slots[number as usize % SLOTS].push(number);
        }
    }

    fn leave(&mut self, number: u32) {
        let call = &mut self.calls[(number - self.first) as usize];
        call.state = State::Leaving;
        call.left = now();
        call.resends = 0;
        self.outbox.push(message::in_dialog(
            "BYE",
            2,
            number,
            self.ports,
            &call.dialog,
        ));
        self.timers.push(Reverse((call.left + T1, number)));
    }

    /// The next packet of each call whose turn it is.
    fn speak(&mut self, packets: &mut Vec<Outgoing<'a>>) {
        let late = now() - self.next_slot;
        let slot = (self.next_slot / (PACING / SLOTS as Nanos)) as usize % SLOTS;
        self.next_slot += PACING / SLOTS as Nanos;
        let mut speakers = std::mem::take(&mut self.slots[slot]);
        speakers.retain(|&number| {
            if self.calls[(number - self.first) as usize].state != State::Up {
                return false;
            }
            packets.extend(self.packet(number));
            let over = self.calls[(number - self.first) as usize].frame
                == self.script.quiet + self.script.talk;
            if over {
                self.leave(number);
            }
            !over
        });
        if self.listening && !packets.is_empty() {
            self.tally.own_lateness.push(late);
        }
        self.tally.packets_sent += packets.len() as u64;
        self.slots[slot] = speakers;
    }

    fn packet(&mut self, number: u32) -> Option<Outgoing<'a>> {
        let call = &mut self.calls[(number - self.first) as usize];
        let payload: &[u8] = match call.frame.checked_sub(self.script.quiet) {
            None => &QUIET,
            Some(nth) => self.voice.frame(number, nth),
        };
        let mut header = [0; 12];
        header[0] = 0x80;
        header[1] = if call.frame == 0 { 0x80 } else { 0 };
        header[2..4].copy_from_slice(&(call.frame as u16).to_be_bytes());
        header[4..8].copy_from_slice(&((call.frame * FRAME) as u32).to_be_bytes());
        header[8..].copy_from_slice(&(number + 1).to_be_bytes());
        call.frame += 1;
        Some(Outgoing {
            from: message::address(number),
            to: call.to?,
            header,
            payload,
        })
    }

    fn hear_voice(&mut self, datagram: &Incoming<'_>) {
        let Some(call) = message::call_at(datagram.to)
            .and_then(|number| self.calls.get_mut(number.checked_sub(self.first)? as usize))
        else {
            return;
        };
        let Some(&[_, _, s0, s1, t0, t1, t2, t3, ..]) =
            datagram.bytes.first_chunk::<12>().map(|head| &head[..])
        else {
            return;
        };
        let (sequence, timestamp) = (
            u16::from_be_bytes([s0, s1]),
            u32::from_be_bytes([t0, t1, t2, t3]),
        );
        self.tally.packets_heard += 1;
        let (first_timestamp, first_at) = *call.heard.first.get_or_insert_with(|| {
            self.tally.first_media.push(datagram.at - call.answered);
            (timestamp, datagram.at)
        });
        let expected = call.heard.next_sequence.unwrap_or(sequence);
        self.tally.packets_lost += i64::from(sequence.wrapping_sub(expected).cast_signed());
        call.heard.next_sequence = Some(sequence.wrapping_add(1));
        if self.listening {
            let played = Nanos::from(timestamp.wrapping_sub(first_timestamp)) * SECOND / 8000;
            call.heard
                .arrivals
                .push(((datagram.at - first_at - played) / 1000) as i32);
        }
    }
}
