//! The server side: transactions of the requests that came, and responses (RFC 3261 sections 16.7 and 17.2).

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::sandbox::sip_core::proxy::EndpointLeg;
use crate::sandbox::sip_core::proxy::Proxy;
use crate::sandbox::sip_core::proxy::TimerKey;
use crate::sip::dialog;
use crate::sip::flow::Flow;
use crate::sip::header::Via;
use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Method;
use crate::sip::message::Request;
use crate::sip::message::Response;
use crate::sip::message::StatusCode;
use crate::sip::transaction::key::ServerKey;
use crate::sip::transaction::machine::ServerMachine;
use crate::sip::transaction::server::Server;
use crate::sip::transaction::server_invite::ServerInvite;
use crate::sip::transaction::way_back::way_back;

/// Names a request that came, and its context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ServerId(pub(super) u64);

/// One request that came.
#[derive(Debug)]
pub(super) struct ServerTransaction {
    key: ServerKey,
    pub(super) machine: ServerMachine,
    pub(super) flow: Flow,
    /// As it came, for responses of our own.
    request: Arc<Request>,
    /// The tag in the To of responses of our own.
    tag: Box<str>,
}

/// All server transactions.
#[derive(Debug, Default)]
pub(super) struct Servers {
    entries: BTreeMap<ServerId, ServerTransaction>,
    by_key: HashMap<ServerKey, ServerId>,
}

impl Servers {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn find(&self, key: &ServerKey) -> Option<ServerId> {
        self.by_key.get(key).copied()
    }

    pub(super) fn get(&self, id: ServerId) -> Option<&ServerTransaction> {
        self.entries.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ServerId) -> Option<&mut ServerTransaction> {
        self.entries.get_mut(&id)
    }

    pub(super) fn has(&self, id: ServerId) -> bool {
        self.entries.contains_key(&id)
    }

    fn remove(&mut self, id: ServerId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.by_key.remove(&entry.key);
        }
    }
}

/// A response of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// For the counter, and as a reason phrase nowhere.
    pub(super) why: &'static str,
}

impl Reply {
    pub(super) const fn new(status: StatusCode, why: &'static str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            why,
        }
    }

    pub(super) fn with(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn to_response(&self, request: &Request, tag: &str, product: &str) -> Response {
        let mut response = request.response(self.status);
        if self.status != StatusCode::TRYING
            && let Some(to) = request.headers.get(&HeaderName::To)
        {
            response
                .headers
                .set(HeaderName::To, dialog::with_tag(to, tag));
        }
        for (name, value) in &self.headers {
            response.headers.push(name.clone(), value.clone());
        }
        response.headers.push(HeaderName::Server, product);
        response
    }
}

impl Proxy {
    /// Opens a transaction for a request that was stamped.
    pub(super) fn open_server(
        &mut self,
        key: ServerKey,
        request: Arc<Request>,
        via: &Via,
        flow: Flow,
    ) -> ServerId {
        let id = ServerId(self.next_id());
        let timing = self.config.timing;
        let reliable = flow.transport.is_reliable();
        let machine = match request.method {
            Method::Invite => ServerMachine::Invite(ServerInvite::new(timing, reliable)),
            _ => ServerMachine::Other(Server::new(timing, reliable)),
        };
        let (flow, _) = way_back(via, flow);
        let tag = self.random_tag();
        self.servers.by_key.insert(key.clone(), id);
        let entry = ServerTransaction {
            key,
            machine,
            flow,
            request,
            tag,
        };
        self.servers.entries.insert(id, entry);
        id
    }

    /// The same request came again.
    pub(super) fn on_retransmission(&mut self, id: ServerId, via: &Via, flow: Flow) {
        let Some(entry) = self.servers.get_mut(id) else {
            return;
        };
        (entry.flow, _) = way_back(via, flow);
        let (flow, effect) = (entry.flow, entry.machine.on_retransmission());
        if let Some(bytes) = effect.send {
            self.send(flow, bytes);
        }
    }

    /// Answers a request ourselves.
    pub(super) fn reply(&mut self, now: Instant, id: ServerId, reply: &Reply) {
        let Some(entry) = self.servers.get(id) else {
            return;
        };
        let response = reply.to_response(&entry.request, &entry.tag, &self.config.product);
        if reply.status != StatusCode::TRYING {
            self.count(reply.why);
        }
        self.respond(now, id, reply.status, response.to_bytes(), None);
    }

    /// Brings a response back. Whether it was sent: a transaction sends one final response.
    pub(super) fn respond(
        &mut self,
        now: Instant,
        id: ServerId,
        status: StatusCode,
        bytes: Bytes,
        leg: Option<EndpointLeg>,
    ) -> bool {
        let Some(entry) = self.servers.get_mut(id) else {
            return false;
        };
        let (flow, effect) = (entry.flow, entry.machine.respond(now, status, bytes));
        let sent = effect.send.is_some();
        if let Some(bytes) = effect.send {
            self.send_of(flow, bytes, leg);
        }
        self.settle_server(id);
        sent
    }

    /// Answers a request of which nothing shall be remembered.
    pub(super) fn reply_stateless(
        &mut self,
        request: &Request,
        via: &Via,
        flow: Flow,
        reply: &Reply,
    ) {
        self.count(reply.why);
        let tag = self.stateless_tag(request, via);
        let response = reply.to_response(request, &tag, &self.config.product);
        let (flow, _) = way_back(via, flow);
        self.send(flow, response.to_bytes());
    }

    /// A timer of a server transaction.
    pub(super) fn server_timeout(&mut self, now: Instant, id: ServerId) {
        let Some(entry) = self.servers.get_mut(id) else {
            return;
        };
        let (flow, effect) = (entry.flow, entry.machine.on_timeout(now));
        if effect.timed_out {
            self.count("ack_to_failure_missing");
        }
        if let Some(bytes) = effect.send {
            self.send(flow, bytes);
        }
        self.settle_server(id);
    }

    /// Sets the timer of a transaction, or forgets it when it is over.
    pub(super) fn settle_server(&mut self, id: ServerId) {
        let Some(entry) = self.servers.get(id) else {
            return;
        };
        if entry.machine.is_terminated() {
            self.forget_server(id);
        } else {
            let deadline = entry.machine.deadline();
            self.timers.set(TimerKey::Server(id), deadline);
        }
    }

    /// Forgets a transaction, also one that never had a response.
    pub(super) fn forget_server(&mut self, id: ServerId) {
        self.servers.remove(id);
        self.timers.set(TimerKey::Server(id), None);
        self.settle_context(id);
    }
}
