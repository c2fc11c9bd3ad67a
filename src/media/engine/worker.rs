//! A worker: one thread, one loop, its sockets and its calls.

use std::io;
use std::mem::MaybeUninit;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use rustix::event::EventfdFlags;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::epoll;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::media::demux::LegId;
use crate::media::demux::SHARED;
use crate::media::engine::batch::Outgoing;
use crate::media::engine::batch::RECEIVE_BATCH;
use crate::media::engine::batch::Receiver;
use crate::media::engine::batch::SEND_BATCH;
use crate::media::engine::batch::Sender;
use crate::media::engine::calls::Calls;
use crate::media::engine::calls::Command;
use crate::media::engine::calls::Open;
use crate::media::engine::pace::SLOTS;
use crate::media::engine::pace::STEP;
use crate::media::engine::ports::Ports;
use crate::media::engine::stats::WorkerStats;
use crate::media::session::Outbox;
use crate::media::session::PACKETS_PER_SLOT;
use crate::media::session::SLOT;

/// Commands taken in one turn.
const COMMANDS_PER_TURN: usize = 64;
/// Batches read from one socket in one turn, so that neither the other sockets nor the slots wait.
const BATCHES_PER_TURN: usize = 8;
/// Spare sockets looked at in one turn.
const READY_PER_TURN: usize = 64;
/// A frame that is later than this is left out.
const TOO_LATE: Duration = Duration::from_millis(60);
/// After a longer standstill, as of a suspended machine, the missed slots are not made up for.
const STANDSTILL: Duration = Duration::from_secs(2);
/// How long calls may take to end when the engine stops.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// While a call finds its way or its keys, packets are read so often at least.
const CONNECTING: Duration = Duration::from_millis(1);

/// Wakes a worker that waits.
#[derive(Debug)]
pub(super) struct Waker(OwnedFd);

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(rustix::event::eventfd(0, flags)?))
    }

    pub(super) fn wake(&self) {
        // It fails only when the counter is full, and then the worker is awake anyway.
        rustix::io::write(&self.0, &1_u64.to_ne_bytes()).ok();
    }

    fn reset(&self) {
        rustix::io::read(&self.0, &mut [0; 8]).ok();
    }
}

/// One worker, to be run by a thread of its own.
pub(super) struct Worker {
    ports: Ports,
    v6: bool,
    /// Watches the spare sockets. The shared one is read in every turn: a socket that is watched costs
    /// the system time for each packet that is sent by it, too.
    spares: OwnedFd,
    /// Sockets to be read.
    ready: Vec<u64>,
    waker: Arc<Waker>,
    commands: mpsc::Receiver<Command>,
    calls: Calls,
    receiver: Receiver,
    sender: Sender,
    outbox: Outbox,
    stats: Arc<WorkerStats>,
    /// Whether a socket had more to read than one turn takes.
    behind: bool,
    /// When the slot that is next is due.
    due: Instant,
    /// Its number; every call has had a slot before its first.
    slot: u64,
    /// The calls of a slot that is being served.
    turn: Vec<LegId>,
    /// When the engine was told to stop.
    stopping: Option<Instant>,
}

impl Worker {
    pub(super) fn new(
        ports: Ports,
        commands: mpsc::Receiver<Command>,
        waker: Arc<Waker>,
        calls: Calls,
        stats: Arc<WorkerStats>,
    ) -> io::Result<Self> {
        let v6 = ports.address(0).is_ipv6();
        Ok(Self {
            ports,
            v6,
            spares: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            ready: Vec::with_capacity(1 + READY_PER_TURN),
            waker,
            commands,
            calls,
            receiver: Receiver::new(),
            sender: Sender::new(),
            outbox: Outbox::with_capacity(SEND_BATCH),
            stats,
            behind: false,
            due: now(),
            slot: SLOTS as u64,
            turn: Vec::new(),
            stopping: None,
        })
    }

    /// Runs until the engine is stopped or gone, and its calls have ended.
    pub(super) fn run(mut self) {
        while self.turn() {}
    }

    fn turn(&mut self) -> bool {
        self.wait();
        // In this order, so that what was asked for before a packet came is done before it.
        self.take_commands();
        if self.stopping.is_some_and(|since| self.has_stopped(since)) {
            return false;
        }
        self.read_sockets();
        self.calls.wake_links(now());
        self.send_control();
        self.calls.flush(now(), !self.behind);
        self.pass_unused_slots();
        if !self.calls.is_empty() && now() >= self.due {
            self.serve_slot();
        }
        true
    }

    fn take_commands(&mut self) {
        let idle = self.calls.is_empty();
        for _ in 0..COMMANDS_PER_TURN {
            match self.commands.try_recv() {
                Ok(Command::Open(open)) if self.stopping.is_some() => self.calls.refuse(*open),
                Ok(Command::Open(open)) => self.open(*open),
                Ok(Command::Leg(id, command)) => {
                    self.calls.command(now(), self.slot, id, command);
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => {
                    self.stopping.get_or_insert_with(now);
                }
                Err(TryRecvError::Empty) => break,
            }
        }
        if idle {
            self.due = now() + STEP;
        }
    }

    fn open(&mut self, open: Open) {
        let now = now();
        if self.calls.lacks_socket(now, &open) {
            let number = self.ports.sockets().len();
            // Where none is to be had, the call may still do without.
            if let Some(socket) = self.ports.bind_spare()
                && watch(&self.spares, socket, number).is_ok()
            {
                self.calls.add_socket();
            }
        }
        self.calls
            .open(now, self.slot, open, |number| self.ports.address(number));
    }

    fn has_stopped(&mut self, since: Instant) -> bool {
        if now() >= since + STOP_LIMIT {
            while let Some(id) = self.calls.any() {
                self.calls.close(now(), id, &mut self.outbox);
                self.send();
            }
        }
        self.calls.is_empty()
    }

    /// Waits for commands or the next slot that has calls. Packets do not wake a worker that has
    /// calls: they are read by the batch then, and not one by one as they come.
    fn wait(&mut self) {
        let idle = self.calls.is_empty();
        let longest = if self.calls.is_connecting() {
            CONNECTING
        } else {
            SLOT
        };
        let longest = if self.behind { Duration::ZERO } else { longest };
        let timeout =
            (!idle || self.stopping.is_some()).then(|| self.until_next_slot().min(longest));
        // epoll alone counts in milliseconds, which is a whole slot.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let alarms = [
            self.waker.0.as_fd(),
            self.spares.as_fd(),
            self.ports.shared().as_fd(),
        ];
        let mut alarms = alarms.map(|alarm| PollFd::from_borrowed_fd(alarm, PollFlags::IN));
        let alarms = &mut alarms[..if idle { 3 } else { 1 }];
        // An interrupted wait has nothing to tell; the next turn asks again.
        rustix::event::poll(alarms, timeout.as_ref()).ok();
        if alarms[0].revents().contains(PollFlags::IN) {
            self.waker.reset();
        }
        self.find_ready();
    }

    fn find_ready(&mut self) {
        self.ready.clear();
        self.ready.push(SHARED.into());
        if self.ports.sockets().len() == 1 {
            return;
        }
        let mut events = [const { MaybeUninit::uninit() }; READY_PER_TURN];
        if let Ok((events, _)) = epoll::wait(&self.spares, &mut events, Some(&Timespec::default()))
        {
            self.ready
                .extend(events.iter().map(|event| event.data.u64()));
        }
    }

    fn until_next_slot(&self) -> Duration {
        let has_work = |steps: &usize| self.calls.has_work_in(self.slot + *steps as u64);
        let steps = (0..SLOTS).find(has_work).unwrap_or(SLOTS);
        (self.due + STEP * steps as u32).saturating_duration_since(now())
    }

    fn read_sockets(&mut self) {
        self.behind = false;
        for index in 0..self.ready.len() {
            self.read_socket(self.ready[index] as usize);
        }
    }

    fn read_socket(&mut self, index: usize) {
        for _ in 0..BATCHES_PER_TURN {
            let Some(socket) = self.ports.sockets().get(index) else {
                return;
            };
            let received = match self.receiver.receive(socket) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.stats.receive_errors.add(1),
            };
            let now = now();
            self.stats.received.add(received as u64);
            self.calls
                .datagrams(now, index as u16, &mut self.receiver, received);
            self.send_control();
            if received < RECEIVE_BATCH {
                return;
            }
        }
        self.behind = true;
    }

    /// Serves one slot only, so that the sockets are read before the next.
    fn serve_slot(&mut self) {
        let now = now();
        let late = now.saturating_duration_since(self.due);
        if late > STANDSTILL {
            self.due = now;
        }
        let in_time = late <= TOO_LATE;
        let frames = self.calls.playing_in(self.slot) as u64;
        let mut turn = std::mem::take(&mut self.turn);
        self.calls.of_slot(self.slot, &mut turn);
        for id in turn.drain(..) {
            self.calls
                .serve(now, self.slot, id, in_time, &mut self.outbox);
            if self.outbox.room() < 2 * PACKETS_PER_SLOT {
                self.send();
            }
        }
        self.turn = turn;
        self.send();
        if in_time {
            self.note_lateness(frames);
        } else {
            self.stats.skipped_frames.add(frames);
        }
        self.next_slot();
    }

    fn pass_unused_slots(&mut self) {
        for _ in 0..SLOTS {
            if self.calls.has_work_in(self.slot) || now() < self.due {
                return;
            }
            self.next_slot();
        }
    }

    fn next_slot(&mut self) {
        self.slot += 1;
        self.due += STEP;
    }

    fn note_lateness(&self, frames: u64) {
        if frames > 0 {
            let late = now().saturating_duration_since(self.due);
            self.stats.late.add(late, frames);
        }
    }

    fn send(&mut self) {
        send(
            &mut self.sender,
            &self.ports,
            self.v6,
            &self.stats,
            self.outbox.packets(),
        );
        self.outbox.clear();
    }

    /// Sends what the links have to say beside media.
    fn send_control(&mut self) {
        let control = self.calls.control();
        if !control.packets().is_empty() {
            send(
                &mut self.sender,
                &self.ports,
                self.v6,
                &self.stats,
                control.packets(),
            );
            control.clear();
        }
    }
}

fn send<P: Outgoing>(
    sender: &mut Sender,
    ports: &Ports,
    v6: bool,
    stats: &WorkerStats,
    packets: &[P],
) {
    for packets in packets.chunk_by(|a, b| a.socket() == b.socket()) {
        let index = packets
            .first()
            .map_or(0, |packet| usize::from(packet.socket()));
        if let Some(socket) = ports.sockets().get(index) {
            let sent = sender.send(socket, v6, packets);
            stats.sent.add(sent.sent as u64);
            stats.send_errors.add(sent.failed as u64);
        }
    }
}

/// Has `poll` tell of packets at socket `number`.
fn watch(poll: &OwnedFd, socket: &UdpSocket, number: usize) -> io::Result<()> {
    let number = epoll::EventData::new_u64(number as u64);
    Ok(epoll::add(poll, socket, number, epoll::EventFlags::IN)?)
}

/// The worker's clock.
#[expect(
    clippy::disallowed_methods,
    reason = "a worker is the shell that gives time to its calls"
)]
fn now() -> Instant {
    Instant::now()
}
