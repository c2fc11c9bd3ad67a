//! The sans-IO core of the SIP core: a registrar, and a stateful proxy (RFC 3261 section 16) that routes calls by the
//! virtual registrations.
//!
//! It is driven as [`crate::sip::endpoint::Endpoint`] is: messages, answers to its questions and the time go in;
//! messages, questions, events and the next deadline come out. Each request that it forwards has a context, which
//! holds the branches it was forked to and chooses the response that goes back.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::domain::Msisdn;
use crate::sandbox::config::Retargeting;
use crate::sandbox::sip_core::directory::Directory;
use crate::sandbox::sip_core::proxy::addresses::Addresses;
use crate::sandbox::sip_core::proxy::authority::Authority;
use crate::sandbox::sip_core::proxy::client::ClientId;
use crate::sandbox::sip_core::proxy::client::Clients;
use crate::sandbox::sip_core::proxy::client::Questions;
use crate::sandbox::sip_core::proxy::context::Context;
use crate::sandbox::sip_core::proxy::initial::Parked;
use crate::sandbox::sip_core::proxy::registrar::Bindings;
use crate::sandbox::sip_core::proxy::server::ServerId;
use crate::sandbox::sip_core::proxy::server::Servers;
use crate::sandbox::sip_core::relay::Relay;
use crate::sip::digest::Algorithm;
use crate::sip::flow::Flow;
use crate::sip::flow::Hop;
use crate::sip::flow::OpenFlows;
use crate::sip::flow::ResolveId;
use crate::sip::flow::Target;
use crate::sip::flow::Transport;
use crate::sip::message;
use crate::sip::message::Limits;
use crate::sip::message::Parsed;
use crate::sip::transaction::Timing;
use crate::sip::transaction::timers::Timers;

mod addresses;
mod authority;
mod client;
mod context;
mod identity;
mod in_dialog;
mod initial;
pub(crate) mod mischief;
mod receive;
mod registrar;
mod respond;
mod retarget;
mod routing;
mod server;
#[cfg(test)]
mod tests;
mod token;

/// Settings of the core.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The addresses bound, with their real ports; none of them unspecified.
    pub(crate) listen: Vec<(Transport, SocketAddr)>,
    /// The realm of challenges.
    pub(crate) realm: String,
    /// The hash functions that phones are asked for, the preferred one first.
    pub(crate) digest: Vec<Algorithm>,
    /// Server header of responses.
    pub(crate) product: String,
    /// Limits on messages.
    pub(crate) limits: Limits,
    /// T1, T2 and T4.
    pub(crate) timing: Timing,
    /// How long a phone may ring before its call counts as not answered.
    pub(crate) ring_timeout: Duration,
    /// How long a branch may stay without any new response (RFC 3261 timer C).
    pub(crate) timer_c: Duration,
    /// How an endpoint is told why a call comes to it.
    pub(crate) retargeting: Retargeting,
    /// Server and client transactions at the same time; above it 503.
    pub(crate) max_transactions: usize,
    /// How long a nonce can be used.
    pub(crate) nonce_life: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            realm: "sandbox".to_owned(),
            digest: vec![Algorithm::Sha256, Algorithm::Md5],
            product: concat!("aftertone-sandbox/", env!("CARGO_PKG_VERSION")).to_owned(),
            limits: Limits::default(),
            timing: Timing::default(),
            ring_timeout: Duration::from_secs(30),
            timer_c: Duration::from_secs(181),
            retargeting: Retargeting::default(),
            max_transactions: 20_000,
            nonce_life: Duration::from_secs(300),
        }
    }
}

/// What the driver must do, in the order given.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send one message on a flow. If the connection has closed meanwhile, drop it.
    Send {
        flow: Flow,
        bytes: Bytes,
        /// It is an INVITE to an endpoint, or the endpoint's answer on its way back.
        leg: Option<EndpointLeg>,
    },
    /// Find the addresses of a target and answer with [`Proxy::resolved`].
    Resolve { id: ResolveId, target: Target },
    /// Open a connection and answer with [`Proxy::connected`] or [`Proxy::connect_failed`].
    Connect {
        id: ResolveId,
        transport: Transport,
        remote: SocketAddr,
        /// The name a certificate must bear, where the target was a name.
        server_name: Option<String>,
    },
    /// Something for the call log, the log or the metrics.
    Event(Event),
}

/// A call's leg to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointLeg {
    /// Tells legs apart.
    pub(crate) id: u64,
    /// Who was called.
    pub(crate) called: Msisdn,
}

/// News from the core. Calls are named by their Call-ID.
#[derive(Debug)]
pub(crate) enum Event {
    /// A call begins.
    Began {
        call_id: String,
        from: Option<Msisdn>,
        to: Msisdn,
    },
    /// Something happened in a call, in words for people.
    Step { call_id: String, what: String },
    /// A call is over, and how.
    Ended { call_id: String, how: String },
    /// A phone has registered, or its last contact has gone.
    Reachable { number: Msisdn, contacts: usize },
    /// Something to count.
    Counted(&'static str),
}

/// What has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum TimerKey {
    Server(ServerId),
    Client(ClientId),
    /// The phone has rung long enough.
    Ring(ServerId),
    /// Contacts end.
    Bindings,
}

/// What the core holds now.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) servers: usize,
    pub(crate) clients: usize,
    pub(crate) contexts: usize,
    pub(crate) questions: usize,
    pub(crate) timers: usize,
}

/// The state of the core.
pub(crate) struct Proxy {
    config: Config,
    addresses: Addresses,
    directory: Arc<dyn Directory>,
    relay: Option<Box<dyn Relay>>,
    rng: StdRng,
    /// Seals what we give away to get it back: Record-Route users and stateless tags.
    secret: [u8; 32],
    last_id: u64,
    outputs: VecDeque<Output>,
    timers: Timers<TimerKey>,
    flows: OpenFlows,
    servers: Servers,
    clients: Clients,
    questions: Questions,
    parked: BTreeMap<ResolveId, Parked>,
    contexts: BTreeMap<ServerId, Context>,
    authority: Authority,
    bindings: Bindings,
}

impl Proxy {
    /// A core that has seen nothing yet. Tags, branches and nonces are drawn from `seed`.
    pub(crate) fn new(
        now: Instant,
        config: Config,
        directory: Arc<dyn Directory>,
        relay: Option<Box<dyn Relay>>,
        seed: [u8; 32],
    ) -> Self {
        let mut rng = StdRng::from_seed(seed);
        Self {
            addresses: Addresses::new(config.listen.clone()),
            secret: rng.random(),
            authority: Authority::new(
                now,
                config.realm.clone(),
                config.digest.clone(),
                config.nonce_life,
                rng.random(),
            ),
            config,
            directory,
            relay,
            rng,
            last_id: 0,
            outputs: VecDeque::new(),
            timers: Timers::default(),
            flows: OpenFlows::default(),
            servers: Servers::default(),
            clients: Clients::default(),
            questions: Questions::default(),
            parked: BTreeMap::new(),
            contexts: BTreeMap::new(),
            bindings: Bindings::default(),
        }
    }

    /// Takes one UDP datagram.
    pub(crate) fn handle_datagram(&mut self, now: Instant, flow: Flow, bytes: &Bytes) {
        let parsed = message::parse_datagram(bytes, &self.config.limits);
        self.receive(now, flow, parsed);
    }

    /// Takes one message that was cut out of a stream.
    pub(crate) fn handle_message(&mut self, now: Instant, flow: Flow, parsed: Parsed) {
        self.receive(now, flow, parsed);
    }

    /// Does what is due at `now`.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(key) = self.timers.pop_due(now) {
            match key {
                TimerKey::Server(id) => self.server_timeout(now, id),
                TimerKey::Client(id) => self.client_timeout(now, id),
                TimerKey::Ring(id) => self.rung_long_enough(now, id),
                TimerKey::Bindings => self.drop_ended_bindings(now),
            }
        }
    }

    /// When [`Self::handle_timeout`] must be called next.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next thing the driver must do.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Answers [`Output::Resolve`]: the addresses in order of preference; none means that the lookup failed.
    pub(crate) fn resolved(&mut self, now: Instant, id: ResolveId, hops: Vec<Hop>) {
        if let Some(parked) = self.parked.remove(&id) {
            return self.unpark(now, parked, &hops);
        }
        self.on_resolved(now, id, hops.into());
    }

    /// Answers [`Output::Connect`]: the connection stands.
    pub(crate) fn connected(&mut self, now: Instant, id: ResolveId, flow: Flow) {
        self.on_connected(now, id, Some(flow));
    }

    /// Answers [`Output::Connect`]: it could not be opened.
    pub(crate) fn connect_failed(&mut self, now: Instant, id: ResolveId) {
        self.on_connected(now, id, None);
    }

    /// A peer opened a connection.
    pub(crate) fn flow_opened(&mut self, flow: Flow) {
        self.flows.open(flow, None);
    }

    /// A connection closed, from either side.
    pub(crate) fn flow_closed(&mut self, now: Instant, flow: Flow) {
        self.flows.close(flow);
        self.bindings.flow_closed(flow);
        self.on_flow_lost(now, flow);
    }

    /// What is held now, for tests.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            servers: self.servers.len(),
            clients: self.clients.len(),
            contexts: self.contexts.len(),
            questions: self.questions.len() + self.parked.len(),
            timers: self.timers.len(),
        }
    }

    fn send(&mut self, flow: Flow, bytes: Bytes) {
        self.send_of(flow, bytes, None);
    }

    fn send_of(&mut self, flow: Flow, bytes: Bytes, leg: Option<EndpointLeg>) {
        self.outputs.push_back(Output::Send { flow, bytes, leg });
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn count(&mut self, what: &'static str) {
        self.event(Event::Counted(what));
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn random_tag(&mut self) -> Box<str> {
        format!("{:016x}", self.rng.random::<u64>()).into()
    }
}
