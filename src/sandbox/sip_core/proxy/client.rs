//! The client side: the requests that we send, and their way to the next hop (RFC 3261 sections 16.6, 17.1 and 18.1).

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use rand::RngExt;

use crate::sandbox::sip_core::proxy::EndpointLeg;
use crate::sandbox::sip_core::proxy::Output;
use crate::sandbox::sip_core::proxy::Proxy;
use crate::sandbox::sip_core::proxy::TimerKey;
use crate::sandbox::sip_core::proxy::server::ServerId;
use crate::sip::flow::Flow;
use crate::sip::flow::Hop;
use crate::sip::flow::ResolveId;
use crate::sip::flow::Transport;
use crate::sip::header::MAGIC_COOKIE;
use crate::sip::header::Via;
use crate::sip::message::HeaderName;
use crate::sip::message::Method;
use crate::sip::message::Request;
use crate::sip::message::Response;
use crate::sip::message::StatusCode;
use crate::sip::message::Uri;
use crate::sip::transaction::client::Client;
use crate::sip::transaction::client_invite::ClientInvite;
use crate::sip::transaction::hop_by_hop;
use crate::sip::transaction::machine::ClientMachine;
use crate::sip::transaction::next_hop::Way;

/// Names a request that we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClientId(pub(super) u64);

/// One request that we send: a branch of a context, an ACK, or a CANCEL.
#[derive(Debug)]
pub(super) struct Branch {
    /// Without our Via.
    pub(super) request: Request,
    /// Who hears of its responses; nobody for ACK and CANCEL.
    pub(super) context: Option<ServerId>,
    pub(super) leg: Option<EndpointLeg>,
    /// The loop hash of the request as it came.
    loop_hash: String,
    /// Addresses not tried yet.
    hops: VecDeque<Hop>,
    server_name: Option<String>,
    /// The flow that leads to the peer, if it still does.
    hint: Option<Flow>,
    stage: Stage,
    /// When timer C fires.
    timer_c: Option<Instant>,
    /// It is to be cancelled as soon as it may be.
    cancelled: bool,
}

/// How far a request has come.
#[derive(Debug)]
enum Stage {
    /// Waits for an address or a connection.
    Waiting {
        end: Instant,
    },
    Sent(Box<Sent>),
    /// Failed before it was sent; told at the next timeout.
    Failed,
}

#[derive(Debug)]
struct Sent {
    flow: Flow,
    via: Via,
    /// As it went out, our Record-Routes included.
    request: Request,
    machine: ClientMachine,
}

/// How a branch came out.
#[derive(Debug)]
pub(super) enum Outcome {
    Response(Box<Response>),
    /// No final response in time.
    Timeout,
    /// No address, no connection.
    Unreachable,
}

/// All requests that we send.
#[derive(Debug, Default)]
pub(super) struct Clients {
    entries: BTreeMap<ClientId, Branch>,
    by_branch: HashMap<(Box<str>, Method), ClientId>,
}

impl Clients {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, id: ClientId) -> Option<&Branch> {
        self.entries.get(&id)
    }

    fn unanswered_on(&self, flow: Flow) -> Vec<ClientId> {
        let unanswered = |branch: &Branch| matches!(&branch.stage, Stage::Sent(sent) if sent.flow == flow && sent.machine.is_calling());
        let entries = self.entries.iter().filter(|(_, branch)| unanswered(branch));
        entries.map(|(id, _)| *id).collect()
    }

    fn remove(&mut self, id: ClientId) -> Option<Branch> {
        let branch = self.entries.remove(&id)?;
        if let Stage::Sent(sent) = &branch.stage {
            self.by_branch
                .remove(&branch_key(&sent.via, &branch.request.method));
        }
        Some(branch)
    }
}

fn branch_key(via: &Via, method: &Method) -> (Box<str>, Method) {
    (via.branch().unwrap_or_default().into(), method.clone())
}

/// A connection to be opened: to whom, and for TLS the name that its certificate must bear.
type Peer = (Transport, SocketAddr, Option<String>);

/// The open questions to the driver.
#[derive(Debug, Default)]
pub(super) struct Questions {
    lookups: BTreeMap<ResolveId, ClientId>,
    connects: BTreeMap<ResolveId, (Peer, Vec<ClientId>)>,
    by_peer: BTreeMap<Peer, ResolveId>,
}

impl Questions {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lookups.len() + self.connects.len()
    }
}

/// A request to be sent, and where to.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Max-Forwards counted down, no Via of ours yet.
    pub(super) request: Request,
    /// The URI that the way is found by.
    pub(super) next_hop: Uri,
    /// A flow that leads there.
    pub(super) flow: Option<Flow>,
    /// Whether the flow is used whatever the URI says: a phone behind NAT is reached in no other way.
    pub(super) pinned: bool,
    pub(super) leg: Option<EndpointLeg>,
}

impl Proxy {
    /// Sends a request on its way.
    pub(super) fn forward(
        &mut self,
        now: Instant,
        context: Option<ServerId>,
        outgoing: Outgoing,
        loop_hash: String,
    ) -> ClientId {
        let id = ClientId(self.next_id());
        let end = now + self.config.timing.timeout();
        let pinned = outgoing
            .flow
            .filter(|flow| outgoing.pinned && self.flows.is_open(*flow));
        let way = match pinned {
            Some(flow) => Way::Flow(flow),
            None => Way::to(&outgoing.next_hop, outgoing.flow, &self.flows),
        };
        let mut branch = Branch {
            request: outgoing.request,
            context,
            leg: outgoing.leg,
            loop_hash,
            hops: VecDeque::new(),
            server_name: None,
            hint: outgoing.flow,
            stage: Stage::Waiting { end },
            timer_c: None,
            cancelled: false,
        };
        match way {
            Way::Flow(flow) => {
                self.clients.entries.insert(id, branch);
                self.transmit(now, id, flow);
            }
            Way::Hop(hop) => {
                branch.hops.push_back(hop);
                self.clients.entries.insert(id, branch);
                self.try_next(now, id);
            }
            Way::Lookup(target) => {
                branch.server_name = Some(target.host.clone());
                self.clients.entries.insert(id, branch);
                let question = ResolveId(self.next_id());
                self.questions.lookups.insert(question, id);
                self.outputs.push_back(Output::Resolve {
                    id: question,
                    target,
                });
            }
            Way::None => {
                branch.stage = Stage::Failed;
                self.clients.entries.insert(id, branch);
            }
        }
        self.settle_client(now, id);
        id
    }

    /// Goes on with the next address.
    fn try_next(&mut self, now: Instant, id: ClientId) {
        let end = now + self.config.timing.timeout();
        while let Some(branch) = self.clients.entries.get_mut(&id) {
            let Some(hop) = branch.hops.pop_front() else {
                branch.stage = Stage::Failed;
                return;
            };
            let hint = branch.hint;
            if hop.transport.is_reliable() {
                let secure = hop.transport.is_secure();
                let name = branch.server_name.clone().filter(|_| secure);
                if let Some(flow) = self.flows.find(hop.transport, hop.remote, name.as_deref()) {
                    return self.transmit(now, id, flow);
                }
                branch.stage = Stage::Waiting { end };
                return self.connect((hop.transport, hop.remote, name), id);
            }
            if let Some(flow) = self.addresses.datagram_flow(hop.remote, hint) {
                return self.transmit(now, id, flow);
            }
        }
    }

    /// Asks the driver for a connection; who asks for the same one waits for it too.
    fn connect(&mut self, peer: Peer, asker: ClientId) {
        if let Some(id) = self.questions.by_peer.get(&peer) {
            if let Some((_, askers)) = self.questions.connects.get_mut(id) {
                askers.push(asker);
            }
            return;
        }
        let id = ResolveId(self.next_id());
        let (transport, remote, server_name) = peer.clone();
        self.questions.by_peer.insert(peer.clone(), id);
        self.questions.connects.insert(id, (peer, vec![asker]));
        self.outputs.push_back(Output::Connect {
            id,
            transport,
            remote,
            server_name,
        });
    }

    /// The driver's answer to a lookup.
    pub(super) fn on_resolved(&mut self, now: Instant, id: ResolveId, hops: VecDeque<Hop>) {
        let Some(client) = self.questions.lookups.remove(&id) else {
            return;
        };
        if let Some(branch) = self.clients.entries.get_mut(&client)
            && matches!(branch.stage, Stage::Waiting { .. })
        {
            branch.hops = hops;
            self.try_next(now, client);
            self.settle_client(now, client);
        }
    }

    /// The driver's answer to a connection: it stands, or not.
    pub(super) fn on_connected(&mut self, now: Instant, id: ResolveId, flow: Option<Flow>) {
        let Some((peer, askers)) = self.questions.connects.remove(&id) else {
            return;
        };
        self.questions.by_peer.remove(&peer);
        if let Some(flow) = flow {
            self.flows.open(flow, peer.2);
        }
        for client in askers {
            let branch = self.clients.entries.get(&client);
            if branch.is_some_and(|branch| matches!(branch.stage, Stage::Waiting { .. })) {
                match flow {
                    Some(flow) => self.transmit(now, client, flow),
                    None => self.try_next(now, client),
                }
                self.settle_client(now, client);
            }
        }
    }

    /// What was sent on a connection that broke before any response goes to the next address.
    pub(super) fn on_flow_lost(&mut self, now: Instant, lost: Flow) {
        for id in self.clients.unanswered_on(lost) {
            self.give_up_attempt(id);
            self.try_next(now, id);
            self.settle_client(now, id);
        }
    }

    fn give_up_attempt(&mut self, id: ClientId) {
        if let Some(branch) = self.clients.entries.get_mut(&id)
            && let Stage::Sent(sent) = std::mem::replace(&mut branch.stage, Stage::Failed)
        {
            let key = branch_key(&sent.via, &branch.request.method);
            self.clients.by_branch.remove(&key);
        }
    }

    /// Puts Record-Route and Via on, and sends. An ACK has no transaction and is forgotten then.
    fn transmit(&mut self, now: Instant, id: ClientId, flow: Flow) {
        let Some(branch) = self.clients.entries.get(&id) else {
            return;
        };
        let (context, mut request) = (branch.context, branch.request.clone());
        let branch_id = format!(
            "{MAGIC_COOKIE}{:016x}.{}",
            self.rng.random::<u64>(),
            branch.loop_hash
        );
        if let Some(upstream) = context.and_then(|context| self.recorded_upstream(context)) {
            self.record_route(&mut request, upstream, flow);
        }
        let via = self.addresses.via(flow, &branch_id);
        if request.method == Method::Ack {
            self.send(flow, hop_by_hop::on_the_wire(&request, &via));
            self.remove_client(id);
            return;
        }
        self.transmit_as(now, id, flow, via, request);
    }

    fn transmit_as(&mut self, now: Instant, id: ClientId, flow: Flow, via: Via, request: Request) {
        let (timing, timer_c) = (self.config.timing, self.config.timer_c);
        let bytes = hop_by_hop::on_the_wire(&request, &via);
        let Some(branch) = self.clients.entries.get_mut(&id) else {
            return;
        };
        let reliable = flow.transport.is_reliable();
        let machine = if request.method == Method::Invite {
            branch.timer_c = Some(now + timer_c);
            ClientMachine::Invite(ClientInvite::new(now, timing, reliable, bytes.clone()))
        } else {
            ClientMachine::Other(Client::new(now, timing, reliable, bytes.clone()))
        };
        let key = branch_key(&via, &request.method);
        let leg = branch.leg.clone();
        branch.stage = Stage::Sent(Box::new(Sent {
            flow,
            via,
            request,
            machine,
        }));
        self.clients.by_branch.insert(key, id);
        self.send_of(flow, bytes, leg);
    }

    /// Our Record-Route for both sides of a dialog: one where both are datagrams of the same socket, else one for
    /// each, so that either side can reach us (RFC 5658) and we its connection.
    fn record_route(&self, request: &mut Request, upstream: Flow, downstream: Flow) {
        let sides = [upstream, downstream].map(|flow| {
            let user = self.route_user(request, flow);
            format!("<{}>", self.addresses.record_route(flow, &user))
        });
        let [upstream, downstream] = sides;
        if upstream != downstream {
            request
                .headers
                .push_front(HeaderName::RecordRoute, upstream);
        }
        request
            .headers
            .push_front(HeaderName::RecordRoute, downstream);
    }

    /// A response came.
    pub(super) fn on_response(&mut self, now: Instant, mut response: Response) {
        let headers = &response.headers;
        let (Some(via), Some(cseq)) = (headers.top_via(), headers.cseq()) else {
            return self.count("response_malformed");
        };
        let key = branch_key(&via, &cseq.method);
        let Some(id) = self.clients.by_branch.get(&key).copied() else {
            return self.count("response_unmatched");
        };
        let Some(branch) = self.clients.entries.get_mut(&id) else {
            return;
        };
        let Stage::Sent(sent) = &mut branch.stage else {
            return;
        };
        let (flow, status) = (sent.flow, response.status);
        let effect = match &mut sent.machine {
            ClientMachine::Invite(invite) => invite.on_response(now, status, || {
                hop_by_hop::ack_to_failure(&sent.request, &sent.via, &response)
            }),
            ClientMachine::Other(other) => other.on_response(now, status),
        };
        if status.is_final() {
            branch.timer_c = None;
        } else if status != StatusCode::TRYING && branch.timer_c.is_some() {
            // RFC 3261 section 16.7 step 2.
            branch.timer_c = Some(now + self.config.timer_c);
        }
        let (cancelled, context) = (branch.cancelled, branch.context);
        let more = !branch.hops.is_empty() && !cancelled;
        if let Some(bytes) = effect.send {
            self.send(flow, bytes);
        }
        if cancelled && status.is_provisional() {
            self.send_cancel(now, id);
        }
        if let Some(context) = context.filter(|_| effect.deliver) {
            if status == StatusCode::SERVICE_UNAVAILABLE && more {
                self.give_up_attempt(id);
                self.try_next(now, id);
            } else {
                response.headers.remove_top_via();
                self.on_branch_response(now, context, id, response);
            }
        }
        self.settle_client(now, id);
    }

    /// A timer of a request.
    pub(super) fn client_timeout(&mut self, now: Instant, id: ClientId) {
        let Some(branch) = self.clients.entries.get_mut(&id) else {
            return;
        };
        match &mut branch.stage {
            Stage::Failed => return self.finish_client(now, id, Outcome::Unreachable),
            Stage::Waiting { end } if now >= *end => {
                return self.finish_client(now, id, Outcome::Unreachable);
            }
            Stage::Waiting { .. } => {}
            Stage::Sent(sent) => {
                let (flow, calling) = (sent.flow, sent.machine.is_calling());
                let effect = sent.machine.on_timeout(now);
                let more = calling && !branch.hops.is_empty() && !branch.cancelled;
                let rings_too_long = branch.timer_c.is_some_and(|end| now >= end);
                if let Some(bytes) = effect.send {
                    self.send(flow, bytes);
                }
                if effect.timed_out && more {
                    self.give_up_attempt(id);
                    self.try_next(now, id);
                } else if effect.timed_out {
                    return self.finish_client(now, id, Outcome::Timeout);
                } else if rings_too_long {
                    self.cancel(now, id);
                }
            }
        }
        self.settle_client(now, id);
    }

    /// Wants a branch to end. One that was not sent yet ends at once; one that nothing came to yet is cancelled when
    /// something comes (RFC 3261 section 9.1).
    pub(super) fn cancel(&mut self, now: Instant, id: ClientId) {
        let Some(branch) = self.clients.entries.get_mut(&id) else {
            return;
        };
        branch.timer_c = None;
        if std::mem::replace(&mut branch.cancelled, true) {
            return;
        }
        match &branch.stage {
            Stage::Sent(_) => self.send_cancel(now, id),
            Stage::Waiting { .. } | Stage::Failed => branch.stage = Stage::Failed,
        }
        self.settle_client(now, id);
    }

    /// Whether nothing at all has come to a branch.
    pub(super) fn is_unheard(&self, id: ClientId) -> bool {
        let branch = self.clients.get(id);
        branch.is_some_and(|branch| match &branch.stage {
            Stage::Sent(sent) => sent.machine.is_calling(),
            Stage::Waiting { .. } | Stage::Failed => true,
        })
    }

    /// Sends the CANCEL of an INVITE, if the time for it has come: on the same flow with the same branch.
    fn send_cancel(&mut self, now: Instant, id: ClientId) {
        let limit = now + self.config.timing.timeout();
        let Some(branch) = self.clients.entries.get_mut(&id) else {
            return;
        };
        let Stage::Sent(sent) = &mut branch.stage else {
            return;
        };
        let ClientMachine::Invite(invite) = &mut sent.machine else {
            return;
        };
        let key = branch_key(&sent.via, &Method::Cancel);
        if !invite.is_proceeding() || self.clients.by_branch.contains_key(&key) {
            return;
        }
        invite.give_up_at(limit);
        let (flow, via) = (sent.flow, sent.via.clone());
        let request = hop_by_hop::request(&sent.request, Method::Cancel);
        let cancel = ClientId(self.next_id());
        let entry = Branch {
            request: request.clone(),
            context: None,
            leg: None,
            loop_hash: String::new(),
            hops: VecDeque::new(),
            server_name: None,
            hint: None,
            stage: Stage::Failed,
            timer_c: None,
            cancelled: false,
        };
        self.clients.entries.insert(cancel, entry);
        self.transmit_as(now, cancel, flow, via, request);
        self.settle_client(now, cancel);
    }

    /// Tells the outcome and forgets the request.
    fn finish_client(&mut self, now: Instant, id: ClientId, outcome: Outcome) {
        let branch = self.clients.get(id);
        if let Some(context) = branch.and_then(|branch| branch.context) {
            self.on_branch_over(now, context, id, outcome);
        }
        self.remove_client(id);
    }

    fn remove_client(&mut self, id: ClientId) {
        let removed = self.clients.remove(id);
        self.timers.set(TimerKey::Client(id), None);
        if let Some(context) = removed.and_then(|branch| branch.context) {
            self.branch_forgotten(context);
        }
    }

    /// Sets the timer of a request, or forgets it when it is over.
    fn settle_client(&mut self, now: Instant, id: ClientId) {
        let Some(branch) = self.clients.get(id) else {
            return;
        };
        let deadline = match &branch.stage {
            Stage::Failed => Some(now),
            Stage::Waiting { end } => Some(*end),
            Stage::Sent(sent) if sent.machine.is_terminated() => return self.remove_client(id),
            Stage::Sent(sent) => [sent.machine.deadline(), branch.timer_c]
                .into_iter()
                .flatten()
                .min(),
        };
        self.timers.set(TimerKey::Client(id), deadline);
    }
}
