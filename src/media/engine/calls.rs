//! The calls of one worker: which packet and which command goes to which call. No sockets here.

mod inbound;
mod inbox;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::media::audio::Prompt;
use crate::media::demux::Demux;
use crate::media::demux::LegId;
use crate::media::demux::NoPort;
use crate::media::dtls::Certificate;
use crate::media::engine::calls::inbox::Inbox;
use crate::media::engine::pace::Pace;
use crate::media::engine::pace::SLOTS;
use crate::media::engine::pace::STEP;
use crate::media::engine::pace::Wheel;
use crate::media::engine::pace::last_before;
use crate::media::engine::stats::WorkerStats;
use crate::media::link::Control;
use crate::media::link::Link;
use crate::media::link::LinkEvent;
use crate::media::link::Turn;
use crate::media::sdp::MediaParams;
use crate::media::session::ChunkSink;
use crate::media::session::Identity;
use crate::media::session::Leg;
use crate::media::session::Lost;
use crate::media::session::MediaEvent;
use crate::media::session::Outbox;
use crate::media::session::RecordLimits;
use crate::media::session::RecordingSummary;
use crate::media::session::Settings;

/// So many alarms a call are kept before those that count no more are thrown out.
const MAX_ALARMS: usize = 8;

/// Slots between two looks for a call's handle.
const LOOK_FOR_HANDLE: u64 = 25 * SLOTS as u64;

/// A call that is played to looks at the audio that waits for it in every fifth of its slots.
const LISTENS_EVERY: u64 = 5;

/// So long a worker that cannot keep up looks for the last packets of a recording among all that
/// wait.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// What the control plane asks of a worker.
#[derive(Debug)]
pub(super) enum Command {
    Open(Box<Open>),
    Leg(LegId, LegCommand),
    Stop,
}

/// A call to take in.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) params: MediaParams,
    /// The one that our description tells the fingerprint of.
    pub(super) certificate: Option<Arc<Certificate>>,
    pub(super) needs_own_port: bool,
    pub(super) identity: Identity,
    pub(super) events: mpsc::Sender<Box<MediaEvent>>,
    /// Which call it is, and the address of its socket.
    pub(super) reply: oneshot::Sender<Result<(LegId, SocketAddr), NoPort>>,
}

/// What a call asks of its media.
#[derive(Debug)]
pub(super) enum LegCommand {
    Update(Box<MediaParams>, Option<Arc<Certificate>>),
    Play(Arc<Prompt>),
    StopPlaying,
    SendDigits(String),
    /// A digit that came with the signalling.
    Signalled(char),
    Record(RecordLimits, ChunkSink),
    Flush(oneshot::Sender<RecordingSummary>),
    /// The handle is gone.
    Close,
    #[cfg(test)]
    Panic,
    #[cfg(test)]
    Sync(oneshot::Sender<()>),
}

/// A recording that is to end with the last packet that came.
struct Flush {
    id: LegId,
    reply: oneshot::Sender<RecordingSummary>,
    asked: Instant,
}

/// A call and what belongs to it.
struct Call {
    leg: Leg,
    link: Link,
    id: LegId,
    socket: u16,
    pace: Pace,
    /// The slot that it was served in last.
    served: u64,
    events: mpsc::Sender<Box<MediaEvent>>,
    flush: Option<oneshot::Sender<RecordingSummary>>,
    abandoned: bool,
    /// In this slot the handle is looked for.
    patience: u64,
    /// When the link is woken next.
    alarm: Option<Instant>,
    /// Whether the link finds its way or its keys just now.
    connecting: bool,
}

impl Call {
    /// Whether nobody holds the call any more. A handle says so when it goes; one that could not,
    /// because the queue was full, is found out later: its memory is another thread's, and looking
    /// there for each frame of each call costs more than sending it.
    fn is_abandoned(&mut self, slot: u64) -> bool {
        if slot >= self.patience {
            self.patience = slot + LOOK_FOR_HANDLE;
            self.abandoned |= self.events.is_closed();
        }
        self.abandoned
    }

    /// Whether the call looks at the audio that waits for it in a slot of its own. Nobody is expected
    /// to speak into a greeting. But a recording that begins while the beep is played goes by what has
    /// been heard up to now, and nobody is gone who has just been heard.
    fn listens_in(&self, slot: u64, now: Instant) -> bool {
        let round = slot / SLOTS as u64 + u64::from(self.id.index);
        matches!(self.pace, Pace::Resting(_))
            || round.is_multiple_of(LISTENS_EVERY)
            || self.leg.records()
            || self.leg.is_overdue(now)
    }

    /// Protects the packets from number `first` on.
    fn protect(&mut self, first: usize, out: &mut Outbox) {
        if !self.link.is_plain() {
            out.protect(first, |room, len| self.link.protect(room, len));
        }
    }

    /// Passes on what has happened to the link.
    fn hear_link(&mut self, now: Instant) {
        while let Some(event) = self.link.poll_event() {
            match event {
                LinkEvent::Reached(stage) => {
                    self.leg.tell(MediaEvent::Stage { stage, at: now });
                }
                LinkEvent::Failed(stage, reason) => {
                    self.leg.tell(MediaEvent::LinkFailed { stage, reason });
                }
                LinkEvent::ConsentLost => self.leg.lose(now, Lost::Consent),
            }
        }
    }

    /// Passes on what the leg has to tell. What finds no room stays with the leg.
    fn tell(&mut self) {
        while self.leg.has_events()
            && let Ok(permit) = self.events.try_reserve()
            && let Some(event) = self.leg.poll_event()
        {
            permit.send(Box::new(event));
        }
        if self.flush.is_some()
            && let Some(summary) = self.leg.summary()
            && let Some(reply) = self.flush.take()
        {
            // Nobody may be waiting any more.
            reply.send(summary).ok();
        }
    }
}

/// The calls of one worker.
pub(super) struct Calls {
    settings: Settings,
    calls: Vec<Option<Box<Call>>>,
    /// What has come for the call at the same place, and is not yet looked at.
    inboxes: Vec<Inbox>,
    free: Vec<u32>,
    generation: u32,
    wheel: Wheel,
    demux: Demux,
    stats: Arc<WorkerStats>,
    random: StdRng,
    /// Hides in the numbers of our checks which call they are of.
    mask: u32,
    control: Control,
    /// When links are to be woken, earliest first; an entry counts if its call still says so.
    alarms: BinaryHeap<Reverse<(Instant, LegId)>>,
    /// Links that find their way or their keys just now.
    connecting: usize,
    v4_only: bool,
    /// Recordings to end when the sockets have been read to their end.
    flushes: Vec<Flush>,
}

impl Calls {
    pub(super) fn new(
        settings: Settings,
        spare: u16,
        stats: Arc<WorkerStats>,
        v4_only: bool,
        mut random: StdRng,
    ) -> Self {
        Self {
            mask: random.next_u32(),
            random,
            control: Control::default(),
            alarms: BinaryHeap::new(),
            connecting: 0,
            v4_only,
            settings,
            calls: Vec::new(),
            inboxes: Vec::new(),
            free: Vec::new(),
            generation: 0,
            wheel: Wheel::default(),
            demux: Demux::new(spare),
            stats,
            flushes: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.demux.is_empty()
    }

    /// Takes in no call any more: whoever waits for the reply sees that nobody is left to give it.
    pub(super) fn refuse(&self, open: Open) {
        self.stats.load.fetch_sub(1, Ordering::Relaxed);
        drop(open);
    }

    /// Whether one more socket is to be bound for this call.
    pub(super) fn lacks_socket(&mut self, now: Instant, open: &Open) -> bool {
        self.demux
            .lacks_socket(now, &open.params, open.needs_own_port)
    }

    /// One more socket is there.
    pub(super) fn add_socket(&mut self) {
        self.demux.add_socket();
    }

    /// Takes in a call. `next_slot` is the one to be served next, `address_of` tells where a socket
    /// is bound. If nobody waits for the reply any more, the call is forgotten at its first slot.
    pub(super) fn open(
        &mut self,
        now: Instant,
        next_slot: u64,
        open: Open,
        address_of: impl Fn(u16) -> SocketAddr,
    ) {
        let index = self.free.last().copied().unwrap_or(self.calls.len() as u32);
        self.generation = self.generation.wrapping_add(1);
        let id = LegId {
            index,
            generation: self.generation,
        };
        let socket = match self.demux.open(now, id, &open.params, open.needs_own_port) {
            Ok(socket) => socket,
            Err(no_port) => {
                self.stats.load.fetch_sub(1, Ordering::Relaxed);
                open.reply.send(Err(no_port)).ok();
                return;
            }
        };
        let pace = self.wheel.next_slot(next_slot);
        self.control.select_socket(socket);
        let mut turn = Turn {
            now,
            random: &mut self.random,
            mark: id.index ^ self.mask,
            out: &mut self.control,
        };
        let inbox = Inbox::of(open.params.payload_type, now);
        let link = Link::new(&open.params, open.certificate, self.v4_only, &mut turn);
        let call = Box::new(Call {
            link,
            leg: Leg::new(now, self.settings, open.params, open.identity),
            id,
            socket,
            pace,
            served: last_before(next_slot, pace),
            events: open.events,
            flush: None,
            abandoned: false,
            patience: next_slot + LOOK_FOR_HANDLE,
            alarm: None,
            connecting: false,
        });
        if self.free.pop().is_none() {
            self.calls.push(Some(call));
            self.inboxes.push(inbox);
        } else {
            self.calls[index as usize] = Some(call);
            self.inboxes[index as usize] = inbox;
        }
        self.wheel.join(index, pace);
        self.stats.opened.add(1);
        self.settle(now, id);
        if open.reply.send(Ok((id, address_of(socket)))).is_err()
            && let Some(call) = self.find(id)
        {
            call.abandoned = true;
        }
    }

    /// Moves a call to a slot that is soon: who has just been answered does not wait for a greeting.
    fn hurry(&mut self, id: LegId, next_slot: u64) {
        let pace = self.wheel.next_slot(next_slot);
        if let Some(call) = self.find(id)
            && !call.leg.has_sent()
        {
            // Its time has not begun.
            call.served = last_before(next_slot, pace);
        }
        self.change_pace(id, pace);
    }

    fn change_pace(&mut self, id: LegId, pace: Pace) {
        if let Some(call) = self.find(id) {
            let former = std::mem::replace(&mut call.pace, pace);
            self.wheel.leave(id.index, former);
            self.wheel.join(id.index, pace);
        }
    }

    /// Carries out a call's command; `next_slot` is the one to be served next. A call that is over has none any more.
    pub(super) fn command(&mut self, now: Instant, next_slot: u64, id: LegId, command: LegCommand) {
        let plays = matches!(command, LegCommand::Play(_));
        let hurries = |call: &mut Call| {
            plays && !call.leg.has_sent() || matches!(call.pace, Pace::Resting(_))
        };
        if self.find(id).is_some_and(hurries) {
            self.hurry(id, next_slot);
        }
        if let LegCommand::Flush(reply) = command {
            self.flushes.push(Flush {
                id,
                reply,
                asked: now,
            });
            return;
        }
        let mut updated_audio = None;
        if let LegCommand::Update(params, _) = &command {
            self.demux.update(id, params);
            updated_audio = Some(params.payload_type);
        }
        self.guard(now, id, |call, turn| {
            match command {
                LegCommand::Update(params, certificate) => {
                    call.link.update(&params, certificate, turn);
                    call.leg.update(now, *params);
                }
                LegCommand::Play(prompt) => call.leg.play(prompt),
                LegCommand::StopPlaying => call.leg.stop_playing(now),
                LegCommand::SendDigits(digits) => call.leg.send_digits(&digits),
                LegCommand::Signalled(digit) => call.leg.signalled(now, digit),
                LegCommand::Record(limits, sink) => call.leg.record(now, limits, sink),
                LegCommand::Close => call.abandoned = true,
                LegCommand::Flush(_) => {}
                #[cfg(test)]
                LegCommand::Panic => panic!("asked to"),
                #[cfg(test)]
                LegCommand::Sync(reply) => reply.send(()).expect("somebody waits"),
            }
            call.tell();
        });
        if let Some(audio) = updated_audio
            && self.find(id).is_some()
        {
            self.inboxes[id.index as usize].update(audio);
            self.settle(now, id);
        }
    }

    /// Ends the recordings that were asked to end before the sockets were read, to their end
    /// (`all_read`) or long enough.
    pub(super) fn flush(&mut self, now: Instant, all_read: bool) {
        let is_due = |flush: &mut Flush| all_read || now >= flush.asked + FLUSH_LIMIT;
        if self.flushes.is_empty() {
            return;
        }
        let due: Vec<_> = self.flushes.extract_if(.., is_due).collect();
        for Flush { id, reply, .. } in due {
            self.guard(now, id, |call, _| {
                call.leg.stop_recording(now);
                call.flush = Some(reply);
                call.tell();
            });
        }
    }

    /// Passes on what has happened to a call's link, and notes when it is to be woken.
    fn settle(&mut self, now: Instant, id: LegId) {
        let settled = self.guard(now, id, |call, _| {
            call.hear_link(now);
            call.tell();
            let was_connecting = std::mem::replace(&mut call.connecting, call.link.is_connecting());
            let next = call.link.next_timeout();
            let sooner = next.filter(|next| call.alarm.is_none_or(|alarm| *next < alarm));
            call.alarm = sooner.or(call.alarm);
            (sooner, was_connecting, call.connecting)
        });
        let Some((sooner, was_connecting, connecting)) = settled else {
            return;
        };
        self.connecting -= usize::from(was_connecting);
        self.connecting += usize::from(connecting);
        if let Some(at) = sooner {
            if self.alarms.len() > MAX_ALARMS * (self.calls.len() + 1) {
                let calls = &self.calls;
                let counts = |at: Instant, id: LegId| {
                    let call = calls.get(id.index as usize).and_then(Option::as_deref);
                    call.is_some_and(|call| call.id == id && call.alarm == Some(at))
                };
                self.alarms.retain(|Reverse((at, id))| counts(*at, *id));
            }
            self.alarms.push(Reverse((at, id)));
        }
    }

    /// Wakes the links that wanted to be woken by now.
    pub(super) fn wake_links(&mut self, now: Instant) {
        while let Some(Reverse((at, id))) = self.alarms.peek().copied()
            && at <= now
        {
            self.alarms.pop();
            let is_meant = self.find(id).is_some_and(|call| call.alarm == Some(at));
            if !is_meant {
                continue;
            }
            self.guard(now, id, |call, turn| {
                call.alarm = None;
                call.link.handle_timeout(turn);
            });
            self.settle(now, id);
        }
    }

    /// Whether some link finds its way or its keys just now, for which answers had better be quick.
    pub(super) fn is_connecting(&self) -> bool {
        self.connecting > 0
    }

    /// What the links have to send beside media.
    pub(super) fn control(&mut self) -> &mut Control {
        &mut self.control
    }

    /// How many calls are played to in a slot.
    pub(super) fn playing_in(&self, slot: u64) -> usize {
        self.wheel.playing_in(slot)
    }

    /// Whether there is anything to do in a slot.
    pub(super) fn has_work_in(&self, slot: u64) -> bool {
        self.wheel.of_slot(slot).next().is_some()
    }

    /// The calls to be served in a slot with [`Calls::serve`], in this order.
    pub(super) fn of_slot(&self, slot: u64, out: &mut Vec<LegId>) {
        let calls = self.wheel.of_slot(slot);
        let calls = calls.filter_map(|index| self.calls.get(index as usize)?.as_ref());
        out.clear();
        out.extend(calls.map(|call| call.id));
    }

    /// Serves a call in a slot of its own. One whose handle is gone is closed.
    pub(super) fn serve(
        &mut self,
        now: Instant,
        slot: u64,
        id: LegId,
        in_time: bool,
        out: &mut Outbox,
    ) {
        let call = self.find(id);
        let listens = call.is_some_and(|call| call.listens_in(slot, now));
        let served = self.visit(now, id, listens, |call, _| {
            let elapsed = slot.saturating_sub(call.served);
            // Who has changed his pace just now waits for the end of his slot before.
            let Some(missed) = elapsed.checked_sub(SLOTS as u64) else {
                return (call.abandoned, false);
            };
            out.aim(call.socket, call.link.route());
            let first = out.len();
            call.served = slot;
            if missed > 0 {
                call.leg.rest(STEP * missed as u32);
            }
            let is_playing = matches!(call.pace, Pace::Playing(_));
            if in_time || !is_playing {
                call.leg.slot(now, out);
            } else {
                call.leg.skip_slot(now, out);
            }
            call.protect(first, out);
            call.tell();
            (call.is_abandoned(slot), is_playing && call.leg.is_resting())
        });
        match served {
            Some((true, _)) => self.close(now, id, out),
            Some((false, true)) => self.change_pace(id, self.wheel.rest()),
            _ => {}
        }
    }

    /// Some call, for closing them all.
    pub(super) fn any(&self) -> Option<LegId> {
        self.calls.iter().flatten().next().map(|call| call.id)
    }

    /// Says goodbye to the peer and forgets the call.
    pub(super) fn close(&mut self, now: Instant, id: LegId, out: &mut Outbox) {
        self.guard(now, id, |call, _| {
            out.aim(call.socket, call.link.route());
            let first = out.len();
            call.leg.close(now, out);
            call.protect(first, out);
        });
        self.remove(now, id);
    }

    fn remove(&mut self, now: Instant, id: LegId) {
        if self.find(id).is_none() {
            return;
        }
        let Some(call) = self.calls.get_mut(id.index as usize).and_then(Option::take) else {
            return;
        };
        self.inboxes[id.index as usize] = Inbox::default();
        self.connecting -= usize::from(call.connecting);
        self.wheel.leave(id.index, call.pace);
        self.free.push(id.index);
        self.demux.close(now, id);
        self.stats.closed.add(1);
        self.stats.load.fetch_sub(1, Ordering::Relaxed);
    }

    fn find(&mut self, id: LegId) -> Option<&mut Call> {
        let call = self.calls.get_mut(id.index as usize)?.as_mut()?;
        (call.id == id).then_some(call)
    }

    /// Does something with a call, which has looked at all its packets before. If that panics, only
    /// this call ends.
    fn guard<R>(
        &mut self,
        now: Instant,
        id: LegId,
        action: impl FnOnce(&mut Call, &mut Turn<'_>) -> R,
    ) -> Option<R> {
        self.visit(now, id, true, action)
    }

    /// The same, but the call looks at its packets only if it `listens`.
    fn visit<R>(
        &mut self,
        now: Instant,
        id: LegId,
        listens: bool,
        action: impl FnOnce(&mut Call, &mut Turn<'_>) -> R,
    ) -> Option<R> {
        let call = self.calls.get_mut(id.index as usize)?.as_deref_mut()?;
        if call.id != id {
            return None;
        }
        self.control.select_socket(call.socket);
        let mut turn = Turn {
            now,
            random: &mut self.random,
            mark: id.index ^ self.mask,
            out: &mut self.control,
        };
        let inbox = &mut self.inboxes[id.index as usize];
        let stats = &self.stats;
        let action = || {
            if listens && !inbox.is_empty() {
                inbox.empty(|at, from, bytes| {
                    turn.now = at;
                    if let Err(why) = call.take_media(&mut turn, from, bytes).received {
                        stats.drop_packet(why);
                    }
                });
                turn.now = now;
                call.tell();
            }
            action(call, &mut turn)
        };
        match catch_unwind(AssertUnwindSafe(action)) {
            Ok(result) => Some(result),
            Err(_) => {
                // The panic hook has told where it was.
                tracing::error!("The media of a call ended by a defect; the other calls go on");
                self.stats.panics.add(1);
                self.remove(now, id);
                None
            }
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "virtual time begins at some moment"
)]
mod tests;
