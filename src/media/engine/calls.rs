//! The calls of one worker: which packet and which command goes to which call. No sockets here.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::media::audio::Prompt;
use crate::media::demux::Demux;
use crate::media::demux::Kind;
use crate::media::demux::LegId;
use crate::media::demux::NoPort;
use crate::media::demux::Verdict;
use crate::media::engine::stats::Dropped;
use crate::media::engine::stats::WorkerStats;
use crate::media::rtp;
use crate::media::rtp::Datagram;
use crate::media::sdp::MediaParams;
use crate::media::session::ChunkSink;
use crate::media::session::Identity;
use crate::media::session::Leg;
use crate::media::session::MediaEvent;
use crate::media::session::Outbox;
use crate::media::session::Received;
use crate::media::session::RecordLimits;
use crate::media::session::RecordingSummary;
use crate::media::session::Settings;

/// Pacing slots of 1 ms; each call has one of them every 20 ms.
pub(super) const SLOTS: usize = 20;
/// Slots that pass until a new call is answered and has something to play.
const ANSWER_SLOTS: usize = 2;

/// Slots between two looks for a call's handle: half a second.
const LOOK_FOR_HANDLE: u32 = 25;

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
    pub(super) needs_own_port: bool,
    pub(super) identity: Identity,
    pub(super) events: mpsc::Sender<MediaEvent>,
    /// Which call it is, and the address of its socket.
    pub(super) reply: oneshot::Sender<Result<(LegId, SocketAddr), NoPort>>,
}

/// What a call asks of its media.
#[derive(Debug)]
pub(super) enum LegCommand {
    Update(MediaParams),
    Play(Arc<Prompt>),
    StopPlaying,
    SendDigits(String),
    Record(RecordLimits, ChunkSink),
    Flush(oneshot::Sender<RecordingSummary>),
    /// The handle is gone.
    Close,
    #[cfg(test)]
    Panic,
    #[cfg(test)]
    Sync(oneshot::Sender<()>),
}

/// A call and what belongs to it.
struct Call {
    leg: Leg,
    id: LegId,
    socket: u16,
    slot: usize,
    events: mpsc::Sender<MediaEvent>,
    flush: Option<oneshot::Sender<RecordingSummary>>,
    abandoned: bool,
    /// Slots until the handle is looked for.
    patience: u32,
}

impl Call {
    /// Whether nobody holds the call any more. A handle says so when it goes; one that could not,
    /// because the queue was full, is found out later: its memory is another thread's, and looking
    /// there for each frame of each call costs more than sending it.
    fn is_abandoned(&mut self) -> bool {
        self.patience -= 1;
        if self.patience == 0 {
            self.patience = LOOK_FOR_HANDLE;
            self.abandoned |= self.events.is_closed();
        }
        self.abandoned
    }

    /// Passes on what the leg has to tell. What finds no room stays with the leg.
    fn tell(&mut self) {
        while self.leg.has_events()
            && let Ok(permit) = self.events.try_reserve()
            && let Some(event) = self.leg.poll_event()
        {
            permit.send(event);
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
    free: Vec<u32>,
    generation: u32,
    slots: [Vec<u32>; SLOTS],
    demux: Demux,
    stats: Arc<WorkerStats>,
    /// Recordings to end when the sockets have been read once more.
    flushes: Vec<(LegId, oneshot::Sender<RecordingSummary>)>,
}

impl Calls {
    pub(super) fn new(settings: Settings, spare: u16, stats: Arc<WorkerStats>) -> Self {
        Self {
            settings,
            calls: Vec::new(),
            free: Vec::new(),
            generation: 0,
            slots: Default::default(),
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
        next_slot: usize,
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
        let slot = self.choose_slot(next_slot);
        let call = Box::new(Call {
            leg: Leg::new(now, self.settings, open.params, open.identity),
            id,
            socket,
            slot,
            events: open.events,
            flush: None,
            abandoned: false,
            patience: LOOK_FOR_HANDLE,
        });
        if self.free.pop().is_none() {
            self.calls.push(Some(call));
        } else {
            self.calls[index as usize] = Some(call);
        }
        self.slots[slot].push(index);
        self.stats.opened.add(1);
        if open.reply.send(Ok((id, address_of(socket)))).is_err()
            && let Some(call) = self.find(id)
        {
            call.abandoned = true;
        }
    }

    /// A slot with hardly more calls than the others, soon after the call will be answered.
    fn choose_slot(&self, next: usize) -> usize {
        let least = self.slots.iter().map(Vec::len).min().unwrap_or(0);
        let has_room = |slot: &usize| self.slots[*slot].len() <= least + least / 8;
        (0..SLOTS)
            .map(|step| (next + ANSWER_SLOTS + step) % SLOTS)
            .find(has_room)
            .unwrap_or(next)
    }

    /// Carries out a call's command. One that is over has none any more.
    pub(super) fn command(&mut self, now: Instant, id: LegId, command: LegCommand) {
        if let LegCommand::Flush(reply) = command {
            self.flushes.push((id, reply));
            return;
        }
        if let LegCommand::Update(params) = &command {
            self.demux.update(id, params);
        }
        self.guard(now, id, |call| {
            match command {
                LegCommand::Update(params) => call.leg.update(now, params),
                LegCommand::Play(prompt) => call.leg.play(prompt),
                LegCommand::StopPlaying => call.leg.stop_playing(now),
                LegCommand::SendDigits(digits) => call.leg.send_digits(&digits),
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
    }

    /// Ends the recordings that were asked to end before the sockets were read.
    pub(super) fn flush(&mut self, now: Instant) {
        for (id, reply) in std::mem::take(&mut self.flushes) {
            self.guard(now, id, |call| {
                call.leg.stop_recording(now);
                call.flush = Some(reply);
                call.tell();
            });
        }
    }

    /// Gives a datagram to the call that it belongs to.
    pub(super) fn datagram(&mut self, now: Instant, socket: u16, from: SocketAddr, bytes: &[u8]) {
        let Ok(datagram) = rtp::read(bytes) else {
            self.stats.drop_packet(Dropped::Malformed);
            return;
        };
        let kind = match &datagram {
            Datagram::Rtp(packet) => Kind::Rtp(packet.payload_type),
            Datagram::Rtcp(_) => Kind::Rtcp,
        };
        let (id, latched) = match self.demux.verdict(socket, from, kind) {
            Verdict::Known(id) => (id, false),
            Verdict::Latched(id) => (id, true),
            Verdict::Closed => return self.stats.drop_packet(Dropped::Closed),
            Verdict::Stranger => return self.stats.drop_packet(Dropped::Stranger),
        };
        let received = self.guard(now, id, |call| {
            if latched {
                call.leg.latch(from);
            }
            let received = match &datagram {
                Datagram::Rtp(packet) => call.leg.handle_rtp(now, packet),
                Datagram::Rtcp(compound) => call.leg.handle_rtcp(now, from, compound),
            };
            call.tell();
            received
        });
        if let Some(why) = Dropped::of(received.unwrap_or(Received::Taken)) {
            self.stats.drop_packet(why);
        }
    }

    /// How many calls a slot has.
    pub(super) fn in_slot(&self, slot: usize) -> usize {
        self.slots[slot].len()
    }

    /// Serves call number `nth` of a slot: false if there is none. A call whose handle is gone is
    /// closed, and another takes its number.
    pub(super) fn serve(
        &mut self,
        now: Instant,
        slot: usize,
        nth: usize,
        in_time: bool,
        out: &mut Outbox,
    ) -> bool {
        let Some(id) = self.nth_of(slot, nth) else {
            return false;
        };
        let abandoned = self.guard(now, id, |call| {
            out.select_socket(call.socket);
            if in_time {
                call.leg.slot(now, out);
            } else {
                call.leg.skip_slot(now);
            }
            call.tell();
            call.is_abandoned()
        });
        if abandoned == Some(true) {
            self.close(now, id, out);
        }
        true
    }

    fn nth_of(&self, slot: usize, nth: usize) -> Option<LegId> {
        let index = *self.slots[slot].get(nth)?;
        self.calls.get(index as usize)?.as_ref().map(|call| call.id)
    }

    /// Some call, for closing them all.
    pub(super) fn any(&self) -> Option<LegId> {
        self.calls.iter().flatten().next().map(|call| call.id)
    }

    /// Says goodbye to the peer and forgets the call.
    pub(super) fn close(&mut self, now: Instant, id: LegId, out: &mut Outbox) {
        self.guard(now, id, |call| {
            out.select_socket(call.socket);
            call.leg.close(now, out);
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
        self.slots[call.slot].retain(|index| *index != id.index);
        self.free.push(id.index);
        self.demux.close(now, id);
        self.stats.closed.add(1);
        self.stats.load.fetch_sub(1, Ordering::Relaxed);
    }

    fn find(&mut self, id: LegId) -> Option<&mut Call> {
        let call = self.calls.get_mut(id.index as usize)?.as_mut()?;
        (call.id == id).then_some(call)
    }

    /// Does something with a call. If that panics, only this call ends.
    fn guard<R>(
        &mut self,
        now: Instant,
        id: LegId,
        action: impl FnOnce(&mut Call) -> R,
    ) -> Option<R> {
        let call = self.find(id)?;
        match catch_unwind(AssertUnwindSafe(|| action(call))) {
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
