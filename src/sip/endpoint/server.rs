//! The server transactions: matching, responses, and the way responses take (RFC 3261 sections 17.2 and 18.2).

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use crate::sip::dialog;
use crate::sip::endpoint::Endpoint;
use crate::sip::endpoint::TimerKey;
use crate::sip::endpoint::api::CallHandle;
use crate::sip::endpoint::route::Asker;
use crate::sip::flow::Flow;
use crate::sip::flow::ResolveId;
use crate::sip::header::Via;
use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Method;
use crate::sip::message::Request;
use crate::sip::message::Response;
use crate::sip::message::StatusCode;
use crate::sip::transaction::key::MergeKey;
use crate::sip::transaction::key::ServerKey;
use crate::sip::transaction::machine::ServerMachine;
use crate::sip::transaction::server::Server;
use crate::sip::transaction::server_invite::ServerInvite;
use crate::sip::transaction::way_back::way_back;

/// Names a server transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ServerId(pub(super) u64);

/// One request that was received, and its responses.
#[derive(Debug)]
pub(super) struct ServerTransaction {
    key: ServerKey,
    merge: Option<MergeKey>,
    pub(super) machine: ServerMachine,
    flow: Flow,
    /// Where to connect when the connection is gone.
    fallback: SocketAddr,
    /// A connection is being opened for the response.
    reopening: Option<ResolveId>,
    /// What responses mirror; none after the final one, since only what was sent is sent again.
    mirror: Option<Box<Mirror>>,
    /// The call that an INVITE belongs to.
    pub(super) call: Option<CallHandle>,
    /// The tag in the To of responses.
    pub(super) local_tag: Box<str>,
}

/// What responses have of their request.
#[derive(Debug)]
struct Mirror {
    /// A response without status, our To tag included.
    response: Response,
    /// For responses that make a dialog.
    record_route: Vec<HeaderValue>,
}

/// All server transactions.
#[derive(Debug, Default)]
pub(super) struct Servers {
    /// Boxed: where numbers only grow, a tree's nodes stay half empty.
    entries: BTreeMap<ServerId, Box<ServerTransaction>>,
    by_key: HashMap<ServerKey, ServerId>,
    by_merge: HashMap<MergeKey, ServerId>,
}

impl Servers {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn find(&self, key: &ServerKey) -> Option<ServerId> {
        self.by_key.get(key).copied()
    }

    pub(super) fn get_mut(&mut self, id: ServerId) -> Option<&mut ServerTransaction> {
        self.entries.get_mut(&id).map(|entry| &mut **entry)
    }

    pub(super) fn get(&self, id: ServerId) -> Option<&ServerTransaction> {
        self.entries.get(&id).map(|entry| &**entry)
    }

    /// Whether the same request came another way before (RFC 3261 section 8.2.2.2).
    pub(super) fn is_merged(&self, request: &Request) -> bool {
        self.by_merge.contains_key(&MergeKey::new(request))
    }

    fn insert(&mut self, id: ServerId, entry: ServerTransaction) {
        self.by_key.insert(entry.key.clone(), id);
        if let Some(merge) = entry.merge.clone() {
            self.by_merge.entry(merge).or_insert(id);
        }
        self.entries.insert(id, Box::new(entry));
    }

    fn remove(&mut self, id: ServerId) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        self.by_key.remove(&entry.key);
        if let Some(merge) = entry
            .merge
            .filter(|merge| self.by_merge.get(merge) == Some(&id))
        {
            self.by_merge.remove(&merge);
        }
    }
}

/// A response to be made.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) description: Option<Bytes>,
}

impl Reply {
    pub(super) const fn new(status: StatusCode) -> Self {
        Self {
            status,
            headers: Vec::new(),
            description: None,
        }
    }

    pub(super) fn with(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn with_all(mut self, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        self.headers.extend(headers);
        self
    }

    pub(super) fn with_description(mut self, description: Option<Bytes>) -> Self {
        self.description = description;
        self
    }
}

impl Endpoint {
    /// Opens a transaction for a request that was stamped. `local_tag` is added to the To of its responses
    /// unless there is one.
    pub(super) fn open_server(
        &mut self,
        key: ServerKey,
        request: &Request,
        via: &Via,
        flow: Flow,
        local_tag: &str,
    ) -> ServerId {
        let id = ServerId(self.next_id());
        let timing = self.timing();
        let reliable = flow.transport.is_reliable();
        let machine = match request.method {
            Method::Invite => ServerMachine::Invite(ServerInvite::new(timing, reliable)),
            _ => ServerMachine::Other(Server::new(timing, reliable)),
        };
        let to_tag = request.headers.get(&HeaderName::To).and_then(dialog::tag);
        let merge =
            (to_tag.is_none() && request.method != Method::Cancel).then(|| MergeKey::new(request));
        let (flow, fallback) = way_back(via, flow);
        let entry = ServerTransaction {
            key,
            merge,
            machine,
            flow,
            fallback,
            reopening: None,
            mirror: Some(Box::new(Mirror {
                response: mirror(request, local_tag),
                record_route: request
                    .headers
                    .all(&HeaderName::RecordRoute)
                    .cloned()
                    .collect(),
            })),
            call: None,
            local_tag: to_tag.unwrap_or_else(|| local_tag.into()),
        };
        self.servers.insert(id, entry);
        id
    }

    /// The same request came again, perhaps another way.
    pub(super) fn on_retransmission(&mut self, id: ServerId, via: &Via, flow: Flow) {
        self.count("request_retransmitted");
        if let Some(entry) = self.servers.get_mut(id) {
            (entry.flow, entry.fallback) = way_back(via, flow);
        }
        let effect = self
            .servers
            .get(id)
            .map(|entry| entry.machine.on_retransmission());
        if let Some(bytes) = effect.and_then(|effect| effect.send) {
            self.send_reply(id, bytes);
        }
    }

    /// Responds. Gives the bytes, for who has to repeat them himself; nothing when it was too late.
    pub(super) fn respond(&mut self, now: Instant, id: ServerId, reply: Reply) -> Option<Bytes> {
        let entry = self.servers.get_mut(id)?;
        let mirror = entry.mirror.as_ref()?;
        let status = reply.status;
        let mut response = mirror.response.clone();
        response.status = status;
        response.reason = status.reason().into();
        let makes_dialog = matches!(entry.machine, ServerMachine::Invite(_))
            && status.code() > 100
            && status.code() < 300;
        if makes_dialog {
            for route in &mirror.record_route {
                response
                    .headers
                    .push(HeaderName::RecordRoute, route.clone());
            }
        }
        finish(&mut response, reply, &self.config.product);
        let bytes = response.to_bytes();
        let effect = entry.machine.respond(now, status, bytes.clone());
        if status.is_final() {
            entry.mirror = None;
        }
        if let Some(bytes) = effect.send.clone() {
            self.send_reply(id, bytes);
        }
        self.settle_server(id);
        effect.send
    }

    /// Sends a response once more, by its user's own timer.
    pub(super) fn respond_again(
        &mut self,
        now: Instant,
        id: ServerId,
        status: StatusCode,
        bytes: Bytes,
    ) {
        self.count("response_retransmitted");
        let effect = self
            .servers
            .get_mut(id)
            .map(|entry| entry.machine.respond(now, status, bytes));
        if let Some(bytes) = effect.and_then(|effect| effect.send) {
            self.send_reply(id, bytes);
        }
    }

    /// Responds to a request of which nothing shall be remembered. The To tag is the same each time.
    pub(super) fn respond_stateless(
        &mut self,
        request: &Request,
        via: &Via,
        flow: Flow,
        reply: Reply,
        reason: Option<&str>,
    ) {
        let tag = self.stateless_tag(request, via);
        let mut response = mirror(request, &tag);
        response.status = reply.status;
        response.reason = reason.unwrap_or_else(|| reply.status.reason()).into();
        finish(&mut response, reply, &self.config.product);
        let (flow, _) = way_back(via, flow);
        self.send(flow, response.to_bytes());
    }

    /// Sends a response on its flow, or opens a connection for it when that one is gone.
    fn send_reply(&mut self, id: ServerId, bytes: Bytes) {
        let Some(entry) = self.servers.get(id) else {
            return;
        };
        let (flow, fallback) = (entry.flow, entry.fallback);
        if self.flows.is_open(flow) {
            return self.send(flow, bytes);
        }
        if flow.transport.is_websocket() {
            // Browsers cannot be connected to.
            return self.count("response_undeliverable");
        }
        if let Some(question) = entry.reopening {
            return self.replace_reply(question, id, &bytes);
        }
        let question = self.connect(
            (flow.transport, fallback, None),
            Asker::Reply { server: id, bytes },
        );
        if let Some(entry) = self.servers.get_mut(id) {
            entry.reopening = Some(question);
        }
    }

    /// The connection for a response stands, or could not be opened.
    pub(super) fn reply_connected(&mut self, id: ServerId, bytes: Bytes, flow: Option<Flow>) {
        if let Some(entry) = self.servers.get_mut(id) {
            entry.reopening = None;
            entry.flow = flow.unwrap_or(entry.flow);
        }
        match flow {
            Some(flow) => self.send(flow, bytes),
            None => self.count("response_undeliverable"),
        }
    }

    /// A timer of a server transaction.
    pub(super) fn server_timeout(&mut self, now: Instant, id: ServerId) {
        let Some(entry) = self.servers.get_mut(id) else {
            return;
        };
        let effect = entry.machine.on_timeout(now);
        if effect.timed_out {
            self.count("ack_to_failure_missing");
        }
        if let Some(bytes) = effect.send {
            self.count("response_retransmitted");
            self.send_reply(id, bytes);
        }
        self.settle_server(id);
    }

    /// Sets the timer of a transaction, or forgets it when it is over.
    pub(super) fn settle_server(&mut self, id: ServerId) {
        let Some(entry) = self.servers.get(id) else {
            return;
        };
        if entry.machine.is_terminated() {
            self.servers.remove(id);
            self.timers.set(TimerKey::Server(id), None);
        } else {
            let deadline = entry.machine.deadline();
            self.timers.set(TimerKey::Server(id), deadline);
        }
    }
}

fn mirror(request: &Request, local_tag: &str) -> Response {
    let mut response = request.response(StatusCode::TRYING);
    if let Some(to) = request.headers.get(&HeaderName::To) {
        response
            .headers
            .set(HeaderName::To, dialog::with_tag(to, local_tag));
    }
    response
}

/// Adds what a reply brings.
fn finish(response: &mut Response, reply: Reply, product: &str) {
    if response.status != StatusCode::TRYING {
        response.headers.remove(&HeaderName::Timestamp);
    }
    for (name, value) in reply.headers {
        response.headers.push(name, value);
    }
    response.headers.push(HeaderName::Server, product);
    if let Some(description) = reply.description {
        response
            .headers
            .push(HeaderName::ContentType, "application/sdp");
        response.body = description;
    }
}
