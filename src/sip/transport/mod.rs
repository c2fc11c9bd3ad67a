//! The driver: one task that owns the endpoint and the UDP sockets, and meets connections, lookups and the owners
//! of calls through bounded channels.
//!
//! A turn waits for one input, takes the time once, hands the input to the endpoint, and does what the endpoint
//! wants done. It never waits for anything else.

use std::collections::HashMap;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::sip::call::{CallError, LastWord, OfferError, OutgoingCall, Verdict};
use crate::sip::endpoint::{CallHandle, Endpoint, Flow, Hop, OfferId, OutgoingRequest, Output};
use crate::sip::endpoint::{LoneReply, LoneRequest};
use crate::sip::endpoint::{ResolveId, Target, Transport};
use crate::sip::header::Reason;
use crate::sip::message::StatusCode;
use crate::sip::transport::calls::{Calls, LastWordOf};
use crate::sip::transport::resolve::Resolver;
use crate::sip::transport::stream::{Arrival, Streams};
use crate::sip::transport::udp::UdpSockets;
use crate::telemetry;

pub(crate) mod calls;
pub(crate) mod network;
pub(crate) mod resolve;
pub(crate) mod stream;
pub(crate) mod tls;
pub(crate) mod udp;
pub(crate) mod websocket;

/// How many connections are open.
pub(crate) fn open_connections(transport: Transport) -> metrics::Gauge {
    metrics::gauge!(telemetry::SIP_CONNECTIONS, "transport" => transport.name())
}

/// Commands of call owners that wait for the driver; their senders wait when it is full.
pub(crate) const COMMANDS: usize = 256;

/// Messages of connections taken in one turn.
const ARRIVALS_PER_TURN: usize = 64;

/// How long the driver goes on after the stop, for its BYEs to be answered.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the owners of calls ask of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// Place a call.
    Call {
        request: Box<OutgoingRequest>,
        placed: oneshot::Sender<Result<OutgoingCall, CallError>>,
    },
    /// Send a request outside of any call; dropped where there are too many.
    Ask {
        request: Box<LoneRequest>,
        replied: oneshot::Sender<LoneReply>,
    },
    /// Say that an incoming call rings.
    Ring { call: CallHandle },
    /// Answer an incoming call; `done` is told when the 200 is out, and dropped when it never will be.
    Answer {
        call: CallHandle,
        description: Bytes,
        done: oneshot::Sender<()>,
    },
    /// Make an offer within a call.
    Offer {
        call: CallHandle,
        description: Bytes,
        done: oneshot::Sender<Result<Option<Bytes>, OfferError>>,
    },
    /// Answer the offer that came with the 200.
    Acknowledge { call: CallHandle, answer: Bytes },
}

/// What ended the wait of a turn.
enum Wake {
    Stop,
    FarewellOver,
    Timeout,
    Datagrams { socket: usize },
    Arrivals,
    Command(Command),
    LastWord(LastWordOf),
    Verdict(CallHandle, OfferId, Verdict),
    Lookup(ResolveId, Vec<Hop>),
    Draining { retry_after_secs: u32 },
}

/// The task that moves everything between the sockets, the endpoint and the owners of calls.
pub(crate) struct Driver {
    pub(crate) endpoint: Endpoint,
    pub(crate) udp: UdpSockets,
    pub(crate) streams: Arc<Streams>,
    pub(crate) arrivals: mpsc::Receiver<Arrival>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) draining: watch::Receiver<Option<u32>>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) calls: Calls,
    pub(crate) stop: CancellationToken,
    pub(crate) arrived: Vec<Arrival>,
    pub(crate) connections: HashMap<u64, mpsc::Sender<Bytes>>,
    pub(crate) lookups: FuturesUnordered<BoxFuture<'static, (ResolveId, Vec<Hop>)>>,
    /// Set by the stop: when the driver ends at the latest.
    pub(crate) farewell: Option<tokio::time::Instant>,
}

impl Driver {
    /// Runs until the stop. The calls that there still are then are hung up, and their BYEs given a little time.
    pub(crate) async fn run(mut self) {
        loop {
            let wake = self.wait().await;
            // Paused and advanced clocks of tests reach the endpoint this way too.
            let now = tokio::time::Instant::now().into_std();
            if matches!(wake, Wake::FarewellOver) {
                return;
            }
            self.take(now, wake);
            self.act(now);
            if self.farewell.is_some() && self.endpoint.counts().calls == 0 {
                return;
            }
        }
    }

    async fn wait(&mut self) -> Wake {
        let timeout = self
            .endpoint
            .next_timeout()
            .map(tokio::time::Instant::from_std);
        tokio::select! {
            () = self.stop.cancelled(), if self.farewell.is_none() => Wake::Stop,
            () = sleep_until(self.farewell) => Wake::FarewellOver,
            () = sleep_until(timeout) => Wake::Timeout,
            socket = self.udp.readable() => Wake::Datagrams { socket },
            _ = self.arrivals.recv_many(&mut self.arrived, ARRIVALS_PER_TURN) => Wake::Arrivals,
            Some(command) = self.commands.recv() => Wake::Command(command),
            Some(word) = self.calls.last_words.next() => Wake::LastWord(word),
            Some(((call, offer), verdict)) = self.calls.verdicts.next() => {
                let undecided = Verdict::Reject(StatusCode::SERVER_INTERNAL_ERROR);
                Wake::Verdict(call, offer, verdict.unwrap_or(undecided))
            }
            Some((id, hops)) = self.lookups.next() => Wake::Lookup(id, hops),
            Ok(()) = self.draining.changed() => {
                let retry_after_secs = self.draining.borrow_and_update().unwrap_or_default();
                Wake::Draining { retry_after_secs }
            }
        }
    }

    /// Hands one input to the endpoint.
    fn take(&mut self, now: Instant, wake: Wake) {
        match wake {
            Wake::Stop => self.say_farewell(now),
            Wake::FarewellOver => {}
            Wake::Timeout => self.endpoint.handle_timeout(now),
            Wake::Datagrams { socket } => {
                let endpoint = &mut self.endpoint;
                self.udp.read(socket, |flow, bytes| {
                    endpoint.handle_datagram(now, flow, &bytes);
                });
            }
            Wake::Arrivals => {
                let mut arrived = std::mem::take(&mut self.arrived);
                for arrival in arrived.drain(..) {
                    self.arrive(now, arrival);
                    // What is said to a message must be in the outbox before its connection is let go of.
                    self.act(now);
                }
                self.arrived = arrived;
            }
            Wake::Command(command) => self.obey(now, command),
            Wake::LastWord((call, word)) => {
                self.calls.last_word(&mut self.endpoint, now, call, word);
            }
            Wake::Verdict(call, offer, verdict) => {
                // An error says that the call, or the offer, is over: there is nothing left to decide.
                let decided = match verdict {
                    Verdict::Accept(sdp) => self.endpoint.accept_offer(now, call, offer, sdp),
                    Verdict::Reject(status) => self.endpoint.reject_offer(now, call, offer, status),
                };
                decided.ok();
            }
            Wake::Lookup(id, mut hops) => {
                hops.retain(|hop| hop.transport != Transport::Udp || self.udp.reaches(hop.remote));
                self.endpoint.resolved(now, id, hops);
            }
            Wake::Draining { retry_after_secs } => self.endpoint.set_draining(retry_after_secs),
        }
    }

    fn arrive(&mut self, now: Instant, arrival: Arrival) {
        match arrival {
            Arrival::Opened {
                flow,
                outbox,
                asked_by,
            } => {
                self.connections.insert(flow.connection, outbox);
                open_connections(flow.transport).increment(1);
                match asked_by {
                    Some(id) => self.endpoint.connected(now, id, flow),
                    None => self.endpoint.flow_opened(flow),
                }
            }
            Arrival::ConnectFailed { id } => self.endpoint.connect_failed(now, id),
            // What a connection that was let go of still brings is not wanted.
            Arrival::Message { flow, message }
                if self.connections.contains_key(&flow.connection) =>
            {
                self.endpoint.handle_message(now, flow, message);
            }
            Arrival::Message { .. } => {}
            Arrival::Closed { flow } => self.let_go(now, flow),
        }
    }

    fn obey(&mut self, now: Instant, command: Command) {
        match command {
            Command::Call { request, placed } => {
                let call = self.calls.place(&mut self.endpoint, now, *request);
                // A caller that has gone drops the call, which ends it.
                placed.send(call).ok();
            }
            Command::Ask { request, replied } => {
                self.calls.ask(&mut self.endpoint, now, *request, replied);
            }
            Command::Ring { call } => {
                // An error says that the caller has given up, or that the call was decided on.
                let rings = self.endpoint.progress(now, call, StatusCode::RINGING);
                rings.ok();
            }
            Command::Answer {
                call,
                description,
                done,
            } => {
                if self.endpoint.answer(now, call, description).is_ok() {
                    self.calls.will_be_accepted(call, done);
                }
            }
            Command::Offer {
                call,
                description,
                done,
            } => match self.endpoint.offer(now, call, description) {
                Ok(()) => self.calls.will_be_answered(call, done),
                Err(error) => {
                    done.send(Err(error.into())).ok();
                }
            },
            Command::Acknowledge { call, answer } => {
                if let Err(error) = self.endpoint.acknowledge(now, call, answer) {
                    warn!(%error, "An answer came at a time when none was due");
                }
            }
        }
    }

    /// Does what the endpoint wants done, and what follows from that.
    fn act(&mut self, now: Instant) {
        while let Some(output) = self.endpoint.poll_output() {
            match output {
                Output::Send { flow, bytes } => self.send(now, flow, bytes),
                Output::Resolve { id, target } => self.look_up(id, target),
                Output::Connect {
                    id,
                    transport,
                    remote,
                    server_name,
                } => {
                    let streams = self.streams.clone();
                    let connect = streams.connect(id, transport, remote, server_name);
                    self.streams.tasks.spawn(connect);
                }
                Output::Close { flow } => self.let_go(now, flow),
                Output::Event(event) => self.calls.tell(&mut self.endpoint, now, event),
            }
        }
    }

    fn send(&mut self, now: Instant, flow: Flow, bytes: Bytes) {
        if flow.transport == Transport::Udp {
            return self.udp.send(&flow, &bytes);
        }
        let outbox = self.connections.get(&flow.connection);
        if outbox.is_none_or(|outbox| outbox.try_send(bytes).is_err()) {
            // The peer does not read what we write, or the connection has closed.
            metrics::counter!(telemetry::SIP_UNSENT).increment(1);
            self.let_go(now, flow);
        }
    }

    /// Forgets a connection, whose task writes what it still has and ends.
    fn let_go(&mut self, now: Instant, flow: Flow) {
        if self.connections.remove(&flow.connection).is_some() {
            open_connections(flow.transport).decrement(1);
            self.endpoint.flow_closed(now, flow);
        }
    }

    fn look_up(&mut self, id: ResolveId, target: Target) {
        let resolver = self.resolver.clone();
        let lookup = async move { (id, resolver.resolve(&target).await) };
        self.lookups.push(Box::pin(lookup));
    }

    fn say_farewell(&mut self, now: Instant) {
        let calls = self.calls.handles();
        if !calls.is_empty() {
            info!("SIP stops and hangs up {} calls", calls.len());
        }
        let reason = Reason::sip(StatusCode::SERVICE_UNAVAILABLE.code(), "server stops");
        for call in calls {
            let word = LastWord::Bye(Some(reason.clone()));
            self.calls
                .last_word(&mut self.endpoint, now, call, Some(word));
        }
        self.endpoint.set_draining(0);
        self.farewell = Some(tokio::time::Instant::now() + FAREWELL);
    }
}

/// Waits until a deadline; for ever without one.
pub(crate) async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}

/// A oneshot that knows whom it is about. Its sender being dropped is an answer too: `None`.
pub(crate) struct Awaited<K, T> {
    pub(crate) key: K,
    pub(crate) receiver: oneshot::Receiver<T>,
}

impl<K: Copy + Unpin, T> Future for Awaited<K, T> {
    type Output = (K, Option<T>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let key = self.key;
        Pin::new(&mut self.receiver)
            .poll(context)
            .map(|word| (key, word.ok()))
    }
}
