//! The callers: one loop that places calls, speaks, listens and hangs up, for all of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::{MILLI, Nanos, SECOND, now};
use crate::message::{self, Dialog, Message, Ports};
use crate::secured::{Secured, Security};
use crate::voice::{FRAME, QUIET, Voice};
use crate::wire::{Incoming, Packets, Wire};

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
    secured: Option<Box<Secured>>,
}

/// What a caller hears.
#[derive(Default)]
struct Heard {
    first: Option<(u32, Nanos)>,
    next_sequence: Option<u16>,
    /// In microseconds, against the first packet.
    arrivals: Vec<i32>,
}

impl Call {
    fn new(invited: Nanos) -> Self {
        Self {
            state: State::Inviting,
            invited,
            answered: 0,
            left: 0,
            resends: 0,
            dialog: Dialog::default(),
            to: None,
            frame: 0,
            heard: Heard::default(),
            secured: None,
        }
    }
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
    packets: Packets,
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
    /// ICE and DTLS-SRTP, where that is what callers have.
    security: Option<Security>,
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
        is_secured: bool,
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
            security: is_secured.then(Security::new).transpose()?,
            listening: false,
            tally: Tally::default(),
        };
        Ok(Self {
            sip,
            rtp,
            rtcp,
            server,
            crew,
            packets: Packets::default(),
        })
    }

    /// Where all callers listen for RTP.
    pub fn media_port(&self) -> u16 {
        self.crew.ports.rtp
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
        for _ in 0..SLOTS {
            if crew.next_slot > now() {
                break;
            }
            packets.clear();
            crew.speak(packets);
            crew.tally.packets_refused += rtp.send(packets);
        }
        crew.place_calls();
        // Their time has begun.
        crew.send_messages(sip, *server);
        sip.receive(|datagram| {
            if let Some(message) = Message::read(datagram.bytes) {
                crew.hear_message(&message, datagram.at);
            }
        });
        rtp.receive(|datagram| crew.hear_voice(&datagram));
        rtcp.receive(|_| ());
        crew.serve_timers();
        if let Some(security) = &mut crew.security {
            rtp.send(&security.packets);
            security.packets.clear();
        }
        crew.send_messages(sip, *server);
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

    /// So many more calls are up, without any signalling; their media go to `to`.
    pub fn put_up(&mut self, calls: u32, to: SocketAddrV4) {
        for _ in 0..calls {
            let number = self.next_number();
            let mut call = Call::new(now());
            call.state = State::Up;
            call.to = Some(to);
            self.calls.push(call);
            self.slots[number as usize % SLOTS].push(number);
        }
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

    /// From 200 to keys, of secured calls.
    pub fn keyed(&self) -> Option<&[Nanos]> {
        self.security.as_ref().map(|security| &security.keyed[..])
    }

    fn next_deadline(&self) -> Nanos {
        match self.start {
            Start::Rate(_) if self.to_start > 0 => self.next_slot.min(self.next_start),
            _ => self.next_slot,
        }
    }

    fn send_messages(&mut self, sip: &Wire, server: SocketAddrV4) {
        for message in self.outbox.drain(..) {
            // What the system refuses is sent again, as if the network had lost it.
            sip.socket().send_to(message.as_bytes(), server).ok();
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
        let mut call = Call::new(at);
        if let Some(security) = &mut self.security {
            call.secured = Some(Box::new(security.begin(number, self.ports.rtp)));
        }
        self.calls.push(call);
        self.tally.placed += 1;
        let invite = self.invite_message(number);
        self.outbox.push(invite);
        self.timers.push(Reverse((at + T1, number)));
    }

    fn invite_message(&self, number: u32) -> String {
        let call = &self.calls[(number - self.first) as usize];
        let offer = match &call.secured {
            Some(secured) => String::from_utf8_lossy(&secured.offer).into_owned(),
            None => message::plain_offer(number, self.ports),
        };
        message::invite(number, self.ports, &self.target, &offer)
    }

    fn serve_timers(&mut self) {
        self.wake_links();
        while let Some(&Reverse((at, number))) = self.timers.peek()
            && at <= now()
        {
            self.timers.pop();
            self.send_again(number);
        }
    }

    fn wake_links(&mut self) {
        while let Some(security) = &mut self.security
            && let Some((at, number)) = security.due()
        {
            let call = &mut self.calls[(number - self.first) as usize];
            if let Some(secured) = &mut call.secured {
                security.wake(at, number, secured);
            }
            self.check_link(number);
        }
    }

    /// A call whose media cannot be had has failed.
    fn check_link(&mut self, number: u32) {
        let call = &self.calls[(number - self.first) as usize];
        let failed = call.secured.as_ref().and_then(|secured| secured.failed);
        if let Some(why) = failed
            && call.state == State::Up
        {
            self.fail(number, why.into());
        }
    }

    fn send_again(&mut self, number: u32) {
        let Some(call) = self.calls.get_mut((number - self.first) as usize) else {
            return;
        };
        let (since, message) = match call.state {
            State::Inviting => (call.invited, None),
            State::Leaving => (
                call.left,
                Some(message::in_dialog(
                    "BYE",
                    2,
                    number,
                    self.ports,
                    &call.dialog,
                )),
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
        let message = message.unwrap_or_else(|| self.invite_message(number));
        self.outbox.push(message);
    }

    fn fail(&mut self, number: u32, why: String) {
        let call = &mut self.calls[(number - self.first) as usize];
        if call.state != State::Over {
            call.state = State::Over;
            call.secured = None;
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
                    call.secured = None;
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
        if let Some((_, first)) = call.heard.first {
            self.tally.first_media.push((first - at).max(0));
        }
        if let (Some(security), Some(secured)) = (&mut self.security, &mut call.secured) {
            security.answered(number, secured, message.body().as_bytes(), at);
        }
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
    fn speak(&mut self, packets: &mut Packets) {
        let late = now() - self.next_slot;
        let slot = (self.next_slot / (PACING / SLOTS as Nanos)) as usize % SLOTS;
        self.next_slot += PACING / SLOTS as Nanos;
        let mut speakers = std::mem::take(&mut self.slots[slot]);
        speakers.retain(|&number| {
            if self.calls[(number - self.first) as usize].state != State::Up {
                return false;
            }
            self.say(number, packets);
            let over = self.calls[(number - self.first) as usize].frame
                == self.script.quiet.saturating_add(self.script.talk);
            if over {
                self.leave(number);
            }
            !over
        });
        if self.listening && packets.len() > 0 {
            self.tally.own_lateness.push(late);
        }
        self.tally.packets_sent += packets.len() as u64;
        self.slots[slot] = speakers;
    }

    /// The next packet of a call; none while there is no way to go or no key.
    fn say(&mut self, number: u32, packets: &mut Packets) {
        let call = &mut self.calls[(number - self.first) as usize];
        let nth = call.frame;
        call.frame += 1;
        let to = match &call.secured {
            Some(secured) => secured.to,
            None => call.to,
        };
        let Some(to) = to else { return };
        let payload: &[u8] = match nth.checked_sub(self.script.quiet) {
            None => &QUIET,
            Some(nth) => self.voice.frame(number, nth),
        };
        let mut header = [0; 12];
        header[0] = 0x80;
        header[1] = if nth == 0 { 0x80 } else { 0 };
        header[2..4].copy_from_slice(&(nth as u16).to_be_bytes());
        header[4..8].copy_from_slice(&((nth * FRAME) as u32).to_be_bytes());
        header[8..].copy_from_slice(&(number + 1).to_be_bytes());
        packets.push(message::address(number), to, [&header, payload]);
        if let Some(secured) = &mut call.secured {
            secured.protect(packets);
        }
    }

    /// Whether a datagram is a packet of voice; what else comes to a secured call's port is taken.
    fn is_voice(&mut self, number: u32, datagram: &Incoming<'_>) -> bool {
        let Some(security) = &mut self.security else {
            return true;
        };
        let call = &mut self.calls[(number - self.first) as usize];
        let (Some(secured), Some(from)) = (&mut call.secured, call.to) else {
            return false;
        };
        let mut copy = [0; 2048];
        let Some(copy) = copy.get_mut(..datagram.bytes.len()) else {
            return false;
        };
        copy.copy_from_slice(datagram.bytes);
        let is_voice = security.handle(number, secured, SocketAddr::V4(from), copy);
        self.check_link(number);
        is_voice
    }

    fn hear_voice(&mut self, datagram: &Incoming<'_>) {
        let number = message::call_at(datagram.to);
        let Some(number) = number.filter(|number| self.call(*number).is_some()) else {
            return;
        };
        if !self.is_voice(number, datagram) {
            return;
        }
        let call = &mut self.calls[(number - self.first) as usize];
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
            // Media may overtake the 200, which counts them then.
            if call.state != State::Inviting {
                self.tally.first_media.push(datagram.at - call.answered);
            }
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
