//! The driver: one task that owns the proxy and the UDP sockets, and meets connections and lookups through bounded
//! channels. A turn waits for one input, takes the time once, hands the input to the proxy, and does what it wants
//! done.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::domain::Msisdn;
use crate::sandbox::sip_core::proxy::mischief::Filter;
use crate::sandbox::sip_core::proxy::{Event, Output, Proxy};
use crate::sandbox::world::World;
use crate::sip::Transport;
use crate::sip::flow::{Flow, Hop, ResolveId};
use crate::sip::transport::network::Network;
use crate::sip::transport::resolve::Resolver;
use crate::sip::transport::stream::Arrival;
use crate::sip::transport::{open_connections, sleep_until};
use crate::telemetry;

/// Messages of connections taken in one turn.
const ARRIVALS_PER_TURN: usize = 64;

/// Calls whose log is still written to; above it those that the log has forgotten are let go of.
const CALLS_LOGGED: usize = 1000;

/// What ended the wait of a turn.
enum Wake {
    Stop,
    Timeout,
    Datagrams { socket: usize },
    Arrivals,
    Lookup(ResolveId, Vec<Hop>),
}

/// The task that moves everything between the sockets and the proxy.
pub(crate) struct Driver {
    proxy: Proxy,
    filter: Filter,
    network: Network,
    resolver: Arc<Resolver>,
    world: Arc<World>,
    stop: CancellationToken,
    arrived: Vec<Arrival>,
    connections: HashMap<u64, mpsc::Sender<Bytes>>,
    lookups: FuturesUnordered<BoxFuture<'static, (ResolveId, Vec<Hop>)>>,
    /// The ids in the call log, by Call-ID.
    logged: HashMap<String, u64>,
}

impl Driver {
    /// Drives `proxy` over `network`, and tells `world` of its calls.
    pub(crate) fn new(
        proxy: Proxy,
        network: Network,
        resolver: Resolver,
        world: Arc<World>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            proxy,
            filter: Filter::new(world.clone()),
            network,
            resolver: Arc::new(resolver),
            world,
            stop,
            arrived: Vec::new(),
            connections: HashMap::new(),
            lookups: FuturesUnordered::new(),
            logged: HashMap::new(),
        }
    }

    /// Runs until the stop.
    pub(crate) async fn run(mut self) {
        loop {
            let wake = self.wait().await;
            let now = tokio::time::Instant::now().into_std();
            if matches!(wake, Wake::Stop) {
                return;
            }
            self.take(now, wake);
            self.act(now);
        }
    }

    async fn wait(&mut self) -> Wake {
        let timeouts = [self.proxy.next_timeout(), self.filter.next_timeout()];
        let timeout = timeouts.into_iter().flatten().min();
        tokio::select! {
            () = self.stop.cancelled() => Wake::Stop,
            () = sleep_until(timeout.map(tokio::time::Instant::from_std)) => Wake::Timeout,
            socket = self.network.udp.readable() => Wake::Datagrams { socket },
            _ = self.network.arrivals.recv_many(&mut self.arrived, ARRIVALS_PER_TURN) => Wake::Arrivals,
            Some((id, hops)) = self.lookups.next() => Wake::Lookup(id, hops),
        }
    }

    /// Hands one input to the proxy.
    fn take(&mut self, now: Instant, wake: Wake) {
        match wake {
            Wake::Stop => {}
            Wake::Timeout => {
                self.proxy.handle_timeout(now);
                while let Some((flow, bytes)) = self.filter.due(now) {
                    self.send(now, flow, bytes);
                }
            }
            Wake::Datagrams { socket } => {
                let proxy = &mut self.proxy;
                self.network.udp.read(socket, |flow, bytes| {
                    proxy.handle_datagram(now, flow, &bytes);
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
            Wake::Lookup(id, mut hops) => {
                let udp = &self.network.udp;
                hops.retain(|hop| hop.transport != Transport::Udp || udp.reaches(hop.remote));
                self.proxy.resolved(now, id, hops);
            }
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
                    Some(id) => self.proxy.connected(now, id, flow),
                    None => self.proxy.flow_opened(flow),
                }
            }
            Arrival::ConnectFailed { id } => self.proxy.connect_failed(now, id),
            Arrival::Message { flow, message }
                if self.connections.contains_key(&flow.connection) =>
            {
                self.proxy.handle_message(now, flow, message);
            }
            Arrival::Message { .. } => {}
            Arrival::Closed { flow } => self.let_go(now, flow),
        }
    }

    /// Does what the proxy wants done, or what misbehaviour makes of it.
    fn act(&mut self, now: Instant) {
        while let Some(output) = self.proxy.poll_output() {
            for output in self.filter.apply(now, output) {
                self.perform(now, output);
            }
        }
    }

    fn perform(&mut self, now: Instant, output: Output) {
        match output {
            Output::Send { flow, bytes, .. } => self.send(now, flow, bytes),
            Output::Resolve { id, target } => {
                let resolver = self.resolver.clone();
                let lookup = async move { (id, resolver.resolve(&target).await) };
                self.lookups.push(Box::pin(lookup));
            }
            Output::Connect {
                id,
                transport,
                remote,
                server_name,
            } => {
                let streams = self.network.streams.clone();
                let connect = streams.connect(id, transport, remote, server_name);
                self.network.streams.tasks.spawn(connect);
            }
            Output::Event(event) => self.tell(event),
        }
    }

    fn send(&mut self, now: Instant, flow: Flow, bytes: Bytes) {
        if flow.transport == Transport::Udp {
            return self.network.udp.send(&flow, &bytes);
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
            self.proxy.flow_closed(now, flow);
        }
    }

    fn tell(&mut self, event: Event) {
        let now = self.world.now();
        match event {
            Event::Began { call_id, from, to } => self.began(call_id, from, to),
            Event::Step { call_id, what } => {
                if let Some(id) = self.logged.get(&call_id) {
                    self.world.calls.note(*id, now, what);
                }
            }
            Event::Ended { call_id, how } => {
                if let Some(id) = self.logged.remove(&call_id) {
                    self.world.calls.end(id, now, how);
                }
            }
            Event::Reachable {
                number,
                contacts: 0,
            } => info!(%number, "A phone is no longer registered"),
            Event::Reachable { number, .. } => info!(%number, "A phone has registered"),
            Event::Counted(what) => {
                debug!(what, "The SIP core counts");
                metrics::counter!(telemetry::SIP_EVENTS, "event" => what).increment(1);
            }
        }
    }

    fn began(&mut self, call_id: String, from: Option<Msisdn>, to: Msisdn) {
        let calls = &self.world.calls;
        if self.logged.len() >= CALLS_LOGGED {
            // Calls whose phones vanish never end; the log itself has forgotten most of them.
            self.logged.retain(|_, id| calls.call(*id).is_some());
        }
        let id = calls.begin(&call_id, from, Some(to), self.world.now());
        self.logged.insert(call_id, id);
    }
}
