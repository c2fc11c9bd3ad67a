//! The way of our own requests to their next hop: RFC 3263 as far as it goes without a lookup, the
//! questions to the driver for the rest, and the next address when one fails.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use crate::sip::endpoint::Endpoint;
use crate::sip::endpoint::api::CallHandle;
use crate::sip::endpoint::api::Output;
use crate::sip::endpoint::client::ClientId;
use crate::sip::endpoint::client::ClientRequest;
use crate::sip::endpoint::client::Purpose;
use crate::sip::endpoint::client::Stage;
use crate::sip::endpoint::server::ServerId;
use crate::sip::flow::Flow;
use crate::sip::flow::Hop;
use crate::sip::flow::ResolveId;
use crate::sip::flow::Transport;
use crate::sip::message::Request;
use crate::sip::message::Uri;
use crate::sip::transaction::next_hop::Way;

/// Who waits for a driver's answer.
#[derive(Debug)]
pub(super) enum Asker {
    Request(ClientId),
    Reply { server: ServerId, bytes: Bytes },
}

/// A connection to be opened: to whom, and the name that for TLS its certificate must bear.
type Peer = (Transport, SocketAddr, Option<String>);

/// The open questions to the driver.
#[derive(Debug, Default)]
pub(super) struct Questions {
    lookups: BTreeMap<ResolveId, ClientId>,
    connects: BTreeMap<ResolveId, (Peer, Vec<Asker>)>,
    by_peer: BTreeMap<Peer, ResolveId>,
}

impl Questions {
    pub(super) fn len(&self) -> usize {
        self.lookups.len() + self.connects.len()
    }
}

impl Endpoint {
    /// Sends a request to `next_hop`, on the flow of `hint` where that leads there.
    pub(super) fn request(
        &mut self,
        now: Instant,
        call: Option<CallHandle>,
        purpose: Purpose,
        request: Request,
        next_hop: &Uri,
        hint: Option<Flow>,
    ) -> ClientId {
        let id = ClientId(self.next_id());
        let way = Way::to(next_hop, hint, &self.flows);
        let end = now + self.timing().timeout();
        let mut entry = ClientRequest::new(request, call, purpose, hint, Stage::Waiting { end });
        match way {
            Way::Flow(flow) => {
                self.clients.insert(id, entry);
                self.transmit(now, id, flow);
            }
            Way::Hop(hop) => {
                entry.hops.push_back(hop);
                self.clients.insert(id, entry);
                self.try_next(now, id);
            }
            Way::Lookup(target) => {
                entry.server_name = Some(target.host.clone());
                self.clients.insert(id, entry);
                let question = ResolveId(self.next_id());
                self.questions.lookups.insert(question, id);
                self.outputs.push_back(Output::Resolve {
                    id: question,
                    target,
                });
            }
            Way::None => {
                entry.stage = Stage::Failed;
                self.clients.insert(id, entry);
            }
        }
        self.settle_client(now, id);
        id
    }

    /// Goes on with the next address.
    pub(super) fn try_next(&mut self, now: Instant, id: ClientId) {
        let end = now + self.timing().timeout();
        while let Some(entry) = self.clients.get_mut(id) {
            let Some(hop) = entry.hops.pop_front() else {
                entry.stage = Stage::Failed;
                return;
            };
            let hint = entry.hint;
            if hop.transport.is_reliable() {
                let name = entry
                    .server_name
                    .clone()
                    .filter(|_| hop.transport.is_secure() || hop.transport.is_websocket());
                if let Some(flow) = self.flows.find(hop.transport, hop.remote, name.as_deref()) {
                    return self.transmit(now, id, flow);
                }
                entry.stage = Stage::Waiting { end };
                self.connect((hop.transport, hop.remote, name), Asker::Request(id));
                return;
            }
            if let Some(flow) = self.config.datagram_flow(hop.remote, hint) {
                return self.transmit(now, id, flow);
            }
        }
    }

    /// Asks the driver for a connection; who asks for the same one waits for it too.
    pub(super) fn connect(&mut self, peer: Peer, asker: Asker) -> ResolveId {
        if let Some(id) = self.questions.by_peer.get(&peer) {
            let question = self.questions.connects.get_mut(id);
            question
                .expect("each peer's question is open")
                .1
                .push(asker);
            return *id;
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
        id
    }

    /// A newer response takes the place of the one that waits for a connection.
    pub(super) fn replace_reply(&mut self, question: ResolveId, id: ServerId, new: &Bytes) {
        let askers = self
            .questions
            .connects
            .get_mut(&question)
            .map(|(_, askers)| askers);
        for asker in askers.into_iter().flatten() {
            if let Asker::Reply { server, bytes } = asker
                && *server == id
            {
                *bytes = new.clone();
            }
        }
    }

    /// The driver's answer to a lookup.
    pub(super) fn on_resolved(&mut self, now: Instant, id: ResolveId, hops: VecDeque<Hop>) {
        let Some(client) = self.questions.lookups.remove(&id) else {
            return;
        };
        if let Some(entry) = self
            .clients
            .get_mut(client)
            .filter(|entry| entry.is_waiting())
        {
            entry.hops = hops;
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
        for asker in askers {
            match asker {
                Asker::Reply { server, bytes } => self.reply_connected(server, bytes, flow),
                Asker::Request(client) => {
                    if self
                        .clients
                        .get(client)
                        .is_some_and(ClientRequest::is_waiting)
                    {
                        match flow {
                            Some(flow) => self.transmit(now, client, flow),
                            None => self.try_next(now, client),
                        }
                        self.settle_client(now, client);
                    }
                }
            }
        }
    }

    /// Requests that were sent on a connection which broke before any response go to the next address.
    pub(super) fn on_flow_lost(&mut self, now: Instant, lost: Flow) {
        for id in self.clients.unanswered_on(lost) {
            self.give_up_attempt(id);
            self.try_next(now, id);
            self.settle_client(now, id);
        }
    }
}
