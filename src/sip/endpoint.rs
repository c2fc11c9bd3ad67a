//! The sans-IO core of a SIP user agent: bytes and `now` go in; bytes, events and the next deadline come out.
//!
//! A driver feeds what its sockets read into [`Endpoint::handle_datagram`] or [`Endpoint::handle_message`],
//! commands of the application into the methods of that name, and calls [`Endpoint::handle_timeout`] when
//! [`Endpoint::next_timeout`] has come. After each of these it empties [`Endpoint::poll_output`].
//! Nothing here waits, reads a clock or draws chance from the system: the same seed and the same inputs
//! give the same outputs.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use ipnet::IpNet;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::sip::dialog::session_timer;
use crate::sip::endpoint::call::Call;
use crate::sip::endpoint::call::Cancel;
use crate::sip::endpoint::call::Phase;
use crate::sip::endpoint::client::ClientId;
use crate::sip::endpoint::client::Clients;
use crate::sip::endpoint::client::Outcome;
use crate::sip::endpoint::client::Purpose;
use crate::sip::endpoint::lone::Lone;
use crate::sip::endpoint::route::Questions;
use crate::sip::endpoint::server::Reply;
use crate::sip::endpoint::server::ServerId;
use crate::sip::endpoint::server::Servers;
use crate::sip::endpoint::strangers::Strangers;
use crate::sip::flow::OpenFlows;
use crate::sip::header::MAGIC_COOKIE;
use crate::sip::header::Reason;
use crate::sip::message;
use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Host;
use crate::sip::message::Limits;
use crate::sip::message::Parsed;
use crate::sip::message::StatusCode;
use crate::sip::message::Uri;
use crate::sip::transaction::Timing;
use crate::sip::transaction::timers::Timers;

mod api;
mod call;
mod check;
mod client;
mod in_dialog;
mod lone;
mod network;
mod receive;
mod route;
mod server;
mod session;
mod strangers;
mod uac;
mod uas;

pub use crate::sip::endpoint::api::CallHandle;
pub use crate::sip::endpoint::api::CommandError;
pub use crate::sip::endpoint::api::Counts;
pub use crate::sip::endpoint::api::DialogEnd;
pub use crate::sip::endpoint::api::Event;
pub use crate::sip::endpoint::api::LoneReply;
pub use crate::sip::endpoint::api::LoneRequest;
pub use crate::sip::endpoint::api::OfferId;
pub use crate::sip::endpoint::api::OutgoingRequest;
pub use crate::sip::endpoint::api::Output;
pub use crate::sip::endpoint::api::RequestHandle;
pub use crate::sip::flow::Flow;
pub use crate::sip::flow::Hop;
pub use crate::sip::flow::ResolveId;
pub use crate::sip::flow::Target;
pub use crate::sip::flow::Transport;

/// Settings of an endpoint. The driver builds it after its sockets are bound.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who we are: the user part of our Contact, and From of outgoing calls without one.
    pub uri: Uri,
    /// The addresses bound, for Via and Contact: the port of the first entry of a transport (and address
    /// family) is what peers are told. An unspecified address (`0.0.0.0`) is replaced by `advertised`,
    /// by the flow's local address, or by the host of `uri`, whichever is there first.
    pub listen: Vec<(Transport, SocketAddr)>,
    /// The host told to peers instead of the local address, when behind NAT.
    pub advertised: Option<Host>,
    /// Who may send requests outside a dialog. Others get 403, at most `untrusted_per_second` of them.
    pub trusted: Vec<IpNet>,
    /// 403 responses per second to one stranger; what is above is dropped.
    pub untrusted_per_second: u32,
    /// Server header of responses and User-Agent of requests.
    pub product: String,
    /// Limits on messages.
    pub limits: Limits,
    /// Calls at the same time; above it 503 with Retry-After.
    pub max_calls: usize,
    /// Server and client transactions at the same time; above it 503, unsent or dropped.
    pub max_transactions: usize,
    /// Session-Expires asked for and granted at most (RFC 4028).
    pub session_expires: Duration,
    /// The smallest Session-Expires accepted, at least 90 s.
    pub min_session_expires: Duration,
    /// How long the application may take to decide on an INVITE or an offer.
    pub decision_limit: Duration,
    /// Retry-After of a 503 when full, in seconds.
    pub retry_after_secs: u32,
    /// T1 of RFC 3261 section 17.1.1.1: the round trip time assumed.
    pub t1: Duration,
    /// T2: the longest interval between retransmissions.
    pub t2: Duration,
    /// T4: how long a message stays in the network.
    pub t4: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let timing = Timing::default();
        Self {
            uri: Uri::sip(None, Host::Name("localhost".into()), None),
            listen: Vec::new(),
            advertised: None,
            trusted: Vec::new(),
            untrusted_per_second: 5,
            product: concat!("aftertone/", env!("CARGO_PKG_VERSION")).to_owned(),
            limits: Limits::default(),
            max_calls: 5_000,
            max_transactions: 50_000,
            session_expires: Duration::from_secs(1_800),
            min_session_expires: Duration::from_secs(90),
            decision_limit: Duration::from_secs(180),
            retry_after_secs: 10,
            t1: timing.t1,
            t2: timing.t2,
            t4: timing.t4,
        }
    }
}

/// What has a deadline. At the same instant, transactions come before calls, older ones before newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum TimerKey {
    Server(ServerId),
    Client(ClientId),
    Call(CallHandle),
}

/// The state of one user agent: its transactions, dialogs and calls.
pub struct Endpoint {
    config: Config,
    rng: StdRng,
    /// Makes stateless To tags that nobody can guess.
    secret: [u8; 16],
    /// The last number given to a call, a transaction, an offer or a question.
    last_id: u64,
    draining: Option<u32>,
    outputs: VecDeque<Output>,
    timers: Timers<TimerKey>,
    flows: OpenFlows,
    strangers: Strangers,
    servers: Servers,
    clients: Clients,
    questions: Questions,
    /// Requests outside of calls.
    lone: BTreeMap<ClientId, Lone>,
    /// Boxed: where numbers only grow, a tree's nodes stay half empty.
    calls: BTreeMap<CallHandle, Box<Call>>,
    /// Calls by our tag.
    by_tag: HashMap<Box<str>, CallHandle>,
}

impl Endpoint {
    /// An endpoint that has seen nothing yet. Tags, branches and Call-IDs are drawn from `seed`.
    pub fn new(config: Config, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        Self {
            secret: rng.random(),
            strangers: Strangers::new(config.untrusted_per_second),
            config,
            rng,
            last_id: 0,
            draining: None,
            outputs: VecDeque::new(),
            timers: Timers::default(),
            flows: OpenFlows::default(),
            servers: Servers::default(),
            clients: Clients::default(),
            questions: Questions::default(),
            lone: BTreeMap::new(),
            calls: BTreeMap::new(),
            by_tag: HashMap::new(),
        }
    }

    /// Takes one UDP datagram.
    pub fn handle_datagram(&mut self, now: Instant, flow: Flow, bytes: &Bytes) {
        let parsed = message::parse_datagram(bytes, &self.config.limits);
        self.receive(now, flow, parsed);
    }

    /// Takes one message that a [`message::Framer`] cut out of a stream.
    pub fn handle_message(&mut self, now: Instant, flow: Flow, parsed: Parsed) {
        self.receive(now, flow, parsed);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(key) = self.timers.pop_due(now) {
            match key {
                TimerKey::Server(id) => self.server_timeout(now, id),
                TimerKey::Client(id) => self.client_timeout(now, id),
                TimerKey::Call(call) => self.call_timeout(now, call),
            }
        }
    }

    /// When [`Self::handle_timeout`] must be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next thing the driver must do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Answers [`Output::Resolve`]: the addresses in order of preference; none means that the lookup failed.
    pub fn resolved(&mut self, now: Instant, id: ResolveId, hops: Vec<Hop>) {
        self.on_resolved(now, id, hops.into());
    }

    /// Answers [`Output::Connect`]: the connection stands.
    pub fn connected(&mut self, now: Instant, id: ResolveId, flow: Flow) {
        self.on_connected(now, id, Some(flow));
    }

    /// Answers [`Output::Connect`]: it could not be opened.
    pub fn connect_failed(&mut self, now: Instant, id: ResolveId) {
        self.on_connected(now, id, None);
    }

    /// A peer opened a connection. Not needed where its first message follows; harmless twice.
    pub fn flow_opened(&mut self, flow: Flow) {
        self.flows.open(flow, None);
    }

    /// A connection closed, from either side.
    pub fn flow_closed(&mut self, now: Instant, flow: Flow) {
        self.flows.close(flow);
        self.on_flow_lost(now, flow);
    }

    /// From now on new INVITEs and OPTIONS get 503 with this Retry-After.
    pub fn set_draining(&mut self, retry_after_secs: u32) {
        self.draining = Some(retry_after_secs);
    }

    /// Accepts an incoming call with our answer (or our offer, when the INVITE had none): 200, or a reliable
    /// 183 first where the caller requires it. [`Event::Accepted`] tells that the 200 is out.
    pub fn answer(
        &mut self,
        now: Instant,
        call: CallHandle,
        description: Bytes,
    ) -> Result<(), CommandError> {
        self.command(call, |endpoint| {
            endpoint.answer_invite(now, call, description)
        })
    }

    /// Sends an unreliable provisional response (180, 183) to an INVITE that waits for its decision, unless
    /// its caller wants only reliable ones.
    pub fn progress(
        &mut self,
        now: Instant,
        call: CallHandle,
        status: StatusCode,
    ) -> Result<(), CommandError> {
        let state = self.live_call(call)?;
        let Phase::Deciding { invite, setup, .. } = &state.phase else {
            return Err(CommandError::WrongState);
        };
        if !status.is_provisional() {
            return Err(CommandError::WrongState);
        }
        let (invite, reliable) = (*invite, setup.reliable);
        let reply = Reply::new(status).with_all(uas::call_headers(state));
        if !reliable {
            self.respond(now, invite, reply);
        }
        Ok(())
    }

    /// Refuses an incoming call with a final status of 300 or above. `Ended(Rejected)` follows.
    pub fn reject(
        &mut self,
        now: Instant,
        call: CallHandle,
        status: StatusCode,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<(), CommandError> {
        if status.code() < 300 {
            return Err(CommandError::WrongState);
        }
        let reply = Reply::new(status).with_all(headers);
        self.command(call, |endpoint| {
            endpoint.reject_invite(now, call, reply, DialogEnd::Rejected)
        })
    }

    /// Accepts an offer: with our answer, or with our offer where the peer asked for one.
    pub fn accept_offer(
        &mut self,
        now: Instant,
        call: CallHandle,
        offer: OfferId,
        description: Bytes,
    ) -> Result<(), CommandError> {
        self.command(call, |endpoint| {
            endpoint.accept_pending(now, call, offer, description)
        })
    }

    /// Refuses an offer with a final status of 300 or above (488); the session stays as it was.
    pub fn reject_offer(
        &mut self,
        now: Instant,
        call: CallHandle,
        offer: OfferId,
        status: StatusCode,
    ) -> Result<(), CommandError> {
        if status.code() < 300 {
            return Err(CommandError::WrongState);
        }
        self.command(call, |endpoint| {
            endpoint.reject_pending(now, call, offer, status)
        })
    }

    /// Makes a new offer inside an established call, by re-INVITE. [`Event::OfferAnswered`] tells the outcome.
    pub fn offer(
        &mut self,
        now: Instant,
        call: CallHandle,
        description: Bytes,
    ) -> Result<(), CommandError> {
        self.command(call, |endpoint| {
            endpoint.offer_again(now, call, description)
        })
    }

    /// Hangs up, in whatever state the call is: CANCEL, BYE, 480, or a BYE as soon as it is allowed.
    /// `Ended` follows at once, except for an outgoing call that rings: there the peer's last word is awaited.
    /// `reason` goes into the Reason header (RFC 3326).
    pub fn bye(
        &mut self,
        now: Instant,
        call: CallHandle,
        reason: Option<Reason>,
    ) -> Result<(), CommandError> {
        self.command(call, |endpoint| {
            match &endpoint.live_call(call)?.phase {
                Phase::Deciding { .. } | Phase::Reliable { .. } | Phase::Pracked { .. } => {
                    let reply = Reply::new(StatusCode::TEMPORARILY_UNAVAILABLE);
                    endpoint.reject_invite(now, call, reply, DialogEnd::Rejected)?;
                }
                Phase::Calling(calling) => {
                    let invite = calling.invite;
                    endpoint.cancel_call(now, call, invite);
                }
                Phase::Answered { .. } | Phase::Established | Phase::Closing => {
                    endpoint.hang_up(now, call, DialogEnd::ByeSent, reason);
                }
            }
            Ok(())
        })
    }

    /// Places a call. Its end comes as an [`Event::Ended`], also when it fails at once.
    pub fn call(
        &mut self,
        now: Instant,
        request: OutgoingRequest,
    ) -> Result<CallHandle, CommandError> {
        self.place_call(now, request)
    }

    /// Sends a request outside of any call. [`Event::Replied`] tells what came of it.
    pub fn ask(
        &mut self,
        now: Instant,
        request: LoneRequest,
    ) -> Result<RequestHandle, CommandError> {
        self.place_request(now, request)
    }

    /// Answers the offer in the 2xx to an INVITE of ours without offer: sends the ACK.
    pub fn acknowledge(
        &mut self,
        now: Instant,
        call: CallHandle,
        answer: Bytes,
    ) -> Result<(), CommandError> {
        self.command(call, |endpoint| {
            endpoint.answer_late_offer(now, call, Some(answer))
        })
    }

    /// What is held now, for metrics and tests.
    pub fn counts(&self) -> Counts {
        Counts {
            calls: self.calls.len(),
            server_transactions: self.servers.len(),
            client_transactions: self.clients.len() + self.questions.len(),
            timers: self.timers.len(),
        }
    }

    /// Whether nothing is held: no call, no transaction, no timer.
    pub fn is_idle(&self) -> bool {
        self.counts() == Counts::default()
    }

    fn command(
        &mut self,
        call: CallHandle,
        run: impl FnOnce(&mut Self) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let done = run(self);
        self.settle_call(call);
        done
    }

    /// A call whose end was not told yet.
    fn live_call(&mut self, handle: CallHandle) -> Result<&mut Call, CommandError> {
        self.calls
            .get_mut(&handle)
            .map(|call| &mut **call)
            .filter(|call| !call.is_closing())
            .ok_or(CommandError::NoSuchCall)
    }

    /// Tells who waits for it how a request of ours came out.
    fn on_outcome(&mut self, now: Instant, id: ClientId, outcome: Outcome) {
        let Some(entry) = self.clients.get(id) else {
            return;
        };
        match (&entry.purpose, entry.call) {
            (Purpose::Invite, _) => self.on_invite_outcome(now, id, outcome),
            (Purpose::Own, _) => self.on_own_outcome(now, id, outcome),
            (Purpose::Lone, _) => self.on_lone_outcome(now, id, outcome),
            (Purpose::Bye, Some(call)) => {
                if let Some(state) = self.calls.get_mut(&call) {
                    state.bye_sent = false;
                }
                self.settle_call(call);
            }
            (Purpose::Bye | Purpose::Ack { .. } | Purpose::Alone, _) => {
                if matches!(outcome, Outcome::Unreachable) {
                    self.count("request_undeliverable");
                }
            }
        }
    }

    /// Sets the timer of a call, or forgets it when it is over.
    fn settle_call(&mut self, handle: CallHandle) {
        let Some(call) = self.calls.get(&handle) else {
            return;
        };
        if call.is_over() {
            self.by_tag.remove(&call.local_tag);
            self.calls.remove(&handle);
            self.timers.set(TimerKey::Call(handle), None);
        } else {
            let deadline = call.deadline();
            self.timers.set(TimerKey::Call(handle), deadline);
        }
    }

    /// Something of a call is due.
    fn call_timeout(&mut self, now: Instant, handle: CallHandle) {
        self.phase_timeout(now, handle);
        self.unacked_timeout(now, handle);
        let overdue = self
            .calls
            .get(&handle)
            .and_then(|call| call.pending.as_ref())
            .filter(|pending| now >= pending.limit);
        if let Some(id) = overdue.map(|pending| pending.id) {
            self.count("offer_not_decided");
            self.reject_pending(now, handle, id, StatusCode::SERVER_INTERNAL_ERROR)
                .expect("the offer is pending");
        }
        self.session_timeout(now, handle);
        self.settle_call(handle);
    }

    fn phase_timeout(&mut self, now: Instant, handle: CallHandle) {
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        let refused = match &mut call.phase {
            Phase::Deciding { setup, limit, .. } if now >= *limit => {
                if setup.expires {
                    (StatusCode::REQUEST_TERMINATED, DialogEnd::Cancelled)
                } else {
                    (StatusCode::TEMPORARILY_UNAVAILABLE, DialogEnd::NotDecided)
                }
            }
            Phase::Reliable { end, .. } if now >= *end => {
                (StatusCode::SERVER_TIMEOUT, DialogEnd::PrackTimeout)
            }
            Phase::Reliable {
                invite,
                response,
                again,
                ..
            } if now >= again.due() => {
                again.step(now);
                let (invite, response) = (*invite, response.clone());
                return self.respond_again(now, invite, StatusCode::SESSION_PROGRESS, response);
            }
            Phase::Calling(calling) if now >= calling.limit && calling.cancel == Cancel::No => {
                let invite = calling.invite;
                return self.cancel_call(now, handle, invite);
            }
            Phase::Answered { limit, .. } if now >= *limit => {
                return self.hang_up(now, handle, DialogEnd::NotDecided, None);
            }
            _ => return,
        };
        self.reject_invite(now, handle, Reply::new(refused.0), refused.1)
            .expect("the INVITE is undecided");
    }

    fn unacked_timeout(&mut self, now: Instant, handle: CallHandle) {
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        let Some(unacked) = &mut call.unacked else {
            return;
        };
        if now >= unacked.end {
            call.unacked = None;
            self.count("ack_to_success_missing");
            let Some(call) = self.calls.get_mut(&handle) else {
                return;
            };
            match call.farewell.take() {
                Some(reason) => self.send_bye(now, handle, reason),
                None => self.hang_up(now, handle, DialogEnd::AckTimeout, None),
            }
        } else if now >= unacked.again.due() {
            unacked.again.step(now);
            let (invite, response) = (unacked.invite, unacked.response.clone());
            self.respond_again(now, invite, StatusCode::OK, response);
        }
    }

    fn timing(&self) -> Timing {
        Timing {
            t1: self.config.t1,
            t2: self.config.t2,
            t4: self.config.t4,
        }
    }

    fn session_limits(&self) -> session_timer::Limits {
        let secs = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        let min = secs(self.config.min_session_expires).max(session_timer::FLOOR_SECS);
        session_timer::Limits {
            preferred: secs(self.config.session_expires).max(min),
            min,
        }
    }

    fn retry_after(&self) -> String {
        self.draining
            .unwrap_or(self.config.retry_after_secs)
            .to_string()
    }

    fn send(&mut self, flow: Flow, bytes: Bytes) {
        self.outputs.push_back(Output::Send { flow, bytes });
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

    /// 128 random bits in hex: a Call-ID, our half of a Session-ID.
    fn random_id(&mut self) -> String {
        format!("{:032x}", self.rng.random::<u128>())
    }

    fn random_tag(&mut self) -> Box<str> {
        format!("{:016x}", self.rng.random::<u64>()).into()
    }

    fn random_branch(&mut self) -> String {
        format!("{MAGIC_COOKIE}{:024x}", self.rng.random::<u128>() >> 32)
    }

    /// RFC 3262 section 3: the first RSeq of a transaction is random, and leaves room to count.
    fn random_rseq(&mut self) -> u32 {
        1 + self.random_below(1 << 30)
    }

    fn random_below(&mut self, limit: u32) -> u32 {
        self.rng.random_range(0..limit)
    }

    fn random_secs(&mut self, limit: u32) -> u32 {
        self.random_below(limit + 1)
    }
}
