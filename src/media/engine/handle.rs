//! What a call holds of its media.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use crate::media::audio::Prompt;
use crate::media::demux::LegId;
use crate::media::dtls::Certificates;
use crate::media::engine::calls::Command;
use crate::media::engine::calls::LegCommand;
use crate::media::engine::canonical_params;
use crate::media::engine::certificate_of;
use crate::media::engine::worker::Waker;
use crate::media::recording::Chunk;
use crate::media::rtp::telephone_event::event_of;
use crate::media::sdp::MediaParams;
use crate::media::session::ChunkSink;
use crate::media::session::MediaEvent;
use crate::media::session::RecordLimits;
use crate::media::session::RecordingSummary;

/// With chunks of half a second this holds back at most eight seconds of a slow disk. When it is
/// full, and what the call itself keeps, some two seconds, is full too, the recording ends.
///
/// A channel takes memory for dozens of entries with its first; so they are pointers, here and for events.
pub(super) const CHUNKS_IN_FLIGHT: usize = 16;

/// Events that wait for a call to take them. What finds no room waits with the worker.
pub(super) const EVENTS_IN_FLIGHT: usize = 16;

/// The way to a worker.
#[derive(Debug, Clone)]
pub(super) struct WorkerHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) waker: Arc<Waker>,
}

impl WorkerHandle {
    /// Commands that wait.
    pub(super) fn waiting(&self) -> usize {
        self.commands.max_capacity() - self.commands.capacity()
    }

    /// Passes on a command, or gives it back if the queue is full. A worker that is gone takes
    /// everything: nobody is left to obey.
    pub(super) fn try_send(&self, command: Command) -> Result<(), Command> {
        match self.commands.try_send(command) {
            Ok(()) => {
                self.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(command)) => Err(command),
            Err(TrySendError::Closed(_)) => Ok(()),
        }
    }
}

/// The digits cannot be sent: the peer has not agreed on telephone-events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigitsError {
    /// No payload type for them.
    #[error("the peer takes no telephone-event digits")]
    NotAgreed,
    /// Not `0` to `9`, `*`, `#`, `A` to `D`.
    #[error("{0:?} is no key of a telephone")]
    NoDigit(char),
}

/// One call's media. Dropping it ends them: the peer gets a goodbye within 20 ms.
///
/// All methods but [`Session::next_event`] and [`Session::flush`] return at once; what they ask
/// for is done in order. Should the worker's queue ever be full, it waits here until one of those
/// two is awaited.
#[derive(Debug)]
pub struct Session {
    worker: WorkerHandle,
    id: LegId,
    local: SocketAddr,
    params: MediaParams,
    certificates: Arc<Certificates>,
    events: mpsc::Receiver<Box<MediaEvent>>,
    pending: VecDeque<LegCommand>,
    /// Samples of the recording that were delivered.
    delivered: Arc<AtomicU64>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // Where the queue is full, the worker finds out by itself.
        self.worker
            .try_send(Command::Leg(self.id, LegCommand::Close))
            .ok();
    }
}

impl Session {
    pub(super) fn new(
        worker: WorkerHandle,
        id: LegId,
        local: SocketAddr,
        params: MediaParams,
        certificates: Arc<Certificates>,
        events: mpsc::Receiver<Box<MediaEvent>>,
    ) -> Self {
        Self {
            worker,
            id,
            local,
            params,
            certificates,
            events,
            pending: VecDeque::new(),
            delivered: Arc::default(),
        }
    }

    /// Where the peer is to send: what our session description names.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What was agreed on last.
    pub fn params(&self) -> &MediaParams {
        &self.params
    }

    /// A new offer was answered, or the answer to our own has come.
    pub fn update(&mut self, params: &MediaParams) {
        self.params = canonical_params(params);
        let certificate = certificate_of(&self.certificates, &self.params);
        self.command(LegCommand::Update(
            Box::new(self.params.clone()),
            certificate,
        ));
    }

    /// Queues a prompt. [`MediaEvent::Played`] comes when the queue is empty again. While the call
    /// is on hold, or the peer's address is not known, the prompt waits.
    pub fn play(&mut self, prompt: Arc<Prompt>) {
        self.command(LegCommand::Play(prompt));
    }

    /// Forgets what is queued, within 20 ms and without [`MediaEvent::Played`].
    pub fn stop_playing(&mut self) {
        self.command(LegCommand::StopPlaying);
    }

    /// Sends digits (RFC 4733), one every 220 ms, before anything else that is to be played.
    pub fn send_digits(&mut self, digits: &str) -> Result<(), DigitsError> {
        if self.params.telephone_event.is_none() {
            return Err(DigitsError::NotAgreed);
        }
        if let Some(unknown) = digits.chars().find(|digit| event_of(*digit).is_none()) {
            return Err(DigitsError::NoDigit(unknown));
        }
        self.command(LegCommand::SendDigits(digits.to_owned()));
        Ok(())
    }

    /// A digit came with the signalling (SIP INFO). It is told as those in the media are, and once
    /// where it comes in both ways.
    pub fn signalled_digit(&mut self, digit: char) {
        self.command(LegCommand::Signalled(digit));
    }

    /// Begins a recording; see [`RecordLimits::preroll`] for where it begins. The chunks end with
    /// `None` when the recording has ended and all were delivered. They are to be taken while it
    /// goes on. A recording that is still going on ends without a summary.
    pub fn record(&mut self, limits: RecordLimits) -> mpsc::Receiver<Box<Chunk>> {
        let (sender, chunks) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let sink = ChunkSink::new(sender);
        self.delivered = sink.delivered.clone();
        self.command(LegCommand::Record(limits, sink));
        chunks
    }

    /// Waits for the next event. Nothing is lost if it is not awaited to the end. After
    /// [`MediaEvent::Failed`] it returns that again.
    pub async fn next_event(&mut self) -> MediaEvent {
        self.send_pending().await;
        let event = self.events.recv().await;
        event.map_or(MediaEvent::Failed, |event| *event)
    }

    /// Ends the recording with the last packet received, if it has not ended before, waits until
    /// all chunks have been taken (for five seconds at most), and sums up. The chunks must be
    /// taken at the same time, or have room. Nothing is lost if it is not awaited to the end; it
    /// may be asked again.
    pub async fn flush(&mut self) -> RecordingSummary {
        self.send_pending().await;
        let (reply, summary) = oneshot::channel();
        let flush = Command::Leg(self.id, LegCommand::Flush(reply));
        if self.worker.commands.send(flush).await.is_ok() {
            self.worker.waker.wake();
        }
        let failed = |_| RecordingSummary::of_failed(self.delivered.load(Ordering::Relaxed));
        summary.await.unwrap_or_else(failed)
    }

    fn command(&mut self, command: LegCommand) {
        while let Some(first) = self.pending.pop_front() {
            if let Some(first) = self.try_send(first) {
                self.pending.push_front(first);
                return self.pending.push_back(command);
            }
        }
        // Nothing is kept where nothing waits.
        let refused = self.try_send(command);
        self.pending.extend(refused);
    }

    /// Gives the command back if the worker's queue is full.
    fn try_send(&self, command: LegCommand) -> Option<LegCommand> {
        match self.worker.try_send(Command::Leg(self.id, command)) {
            Err(Command::Leg(_, command)) => Some(command),
            _ => None,
        }
    }

    async fn send_pending(&mut self) {
        while !self.pending.is_empty() {
            let Ok(permit) = self.worker.commands.reserve().await else {
                return self.pending.clear();
            };
            if let Some(command) = self.pending.pop_front() {
                permit.send(Command::Leg(self.id, command));
                self.worker.waker.wake();
            }
        }
    }

    /// Waits until the worker has done what was asked of it.
    #[cfg(test)]
    pub(super) async fn sync(&mut self) {
        let (reply, done) = oneshot::channel();
        self.command(LegCommand::Sync(reply));
        done.await.expect("the worker runs");
    }

    #[cfg(test)]
    pub(super) fn panic(&mut self) {
        self.command(LegCommand::Panic);
    }
}
