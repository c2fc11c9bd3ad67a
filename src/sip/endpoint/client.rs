//! Our own requests and their transactions (RFC 3261 sections 17.1 and 18.1).

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::sip::endpoint::Endpoint;
use crate::sip::endpoint::TimerKey;
use crate::sip::endpoint::api::CallHandle;
use crate::sip::flow::Flow;
use crate::sip::flow::Hop;
use crate::sip::header::Via;
use crate::sip::message::HeaderName;
use crate::sip::message::Method;
use crate::sip::message::Params;
use crate::sip::message::Request;
use crate::sip::message::Response;
use crate::sip::message::Scheme;
use crate::sip::message::StatusCode;
use crate::sip::transaction::client::Client;
use crate::sip::transaction::client_invite::ClientInvite;
use crate::sip::transaction::hop_by_hop;
use crate::sip::transaction::machine::ClientMachine;

/// Names a request of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClientId(pub(super) u64);

/// What a request of ours is for: who hears of its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The INVITE of an outgoing call.
    Invite,
    /// A re-INVITE or UPDATE.
    Own,
    /// A BYE that the call waits for.
    Bye,
    /// The ACK to a 2xx; it has no transaction. It is kept with the INVITE, to be repeated.
    Ack { invite: ClientId, tag: Box<str> },
    /// A request outside of calls.
    Lone,
    /// PRACK, CANCEL, the BYE to a fork: nobody waits.
    Alone,
}

/// How a request of ours came out.
#[derive(Debug)]
pub(super) enum Outcome {
    Response(Box<Response>),
    /// No response in time.
    Timeout,
    /// No address, no connection.
    Unreachable,
}

/// A 2xx that came to an INVITE: its To tag, and the ACK once it was sent.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) tag: Box<str>,
    pub(super) ack: Option<(Flow, Bytes)>,
}

/// One request of ours.
#[derive(Debug)]
pub(super) struct ClientRequest {
    pub(super) request: Arc<Request>,
    pub(super) call: Option<CallHandle>,
    pub(super) purpose: Purpose,
    /// Addresses not tried yet.
    pub(super) hops: VecDeque<Hop>,
    /// The name they were found under.
    pub(super) server_name: Option<String>,
    /// The flow that leads to the peer, if it still does.
    pub(super) hint: Option<Flow>,
    pub(super) stage: Stage,
    pub(super) answers: Vec<Answer>,
}

/// How far a request of ours has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// Waits for an address or a connection.
    Waiting {
        end: Instant,
    },
    Sent(Box<Sent>),
    /// Failed before it was sent; told at the next timeout.
    Failed,
}

/// One attempt at one address.
#[derive(Debug)]
pub(super) struct Sent {
    flow: Flow,
    via: Via,
    machine: ClientMachine,
}

/// All requests of ours.
#[derive(Debug, Default)]
pub(super) struct Clients {
    entries: BTreeMap<ClientId, ClientRequest>,
    by_branch: HashMap<(Box<str>, Method), ClientId>,
}

impl Clients {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, id: ClientId) -> Option<&ClientRequest> {
        self.entries.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ClientId) -> Option<&mut ClientRequest> {
        self.entries.get_mut(&id)
    }

    pub(super) fn insert(&mut self, id: ClientId, entry: ClientRequest) {
        self.entries.insert(id, entry);
    }

    /// The requests without any response that were sent on this flow.
    pub(super) fn unanswered_on(&self, flow: Flow) -> Vec<ClientId> {
        let unanswered = |entry: &ClientRequest| matches!(&entry.stage, Stage::Sent(sent) if sent.flow == flow && sent.machine.is_calling());
        self.entries
            .iter()
            .filter(|(_, entry)| unanswered(entry))
            .map(|(id, _)| *id)
            .collect()
    }

    fn remove(&mut self, id: ClientId) {
        if let Some(ClientRequest {
            request,
            stage: Stage::Sent(sent),
            ..
        }) = self.entries.remove(&id)
        {
            self.by_branch
                .remove(&branch_key(&sent.via, &request.method));
        }
    }
}

fn branch_key(via: &Via, method: &Method) -> (Box<str>, Method) {
    (via.branch().unwrap_or_default().into(), method.clone())
}

impl Endpoint {
    /// Forgets the transaction of an attempt that failed; the next one has a branch of its own.
    pub(super) fn give_up_attempt(&mut self, id: ClientId) {
        let Some(entry) = self.clients.entries.get_mut(&id) else {
            return;
        };
        if let Stage::Sent(sent) = std::mem::replace(&mut entry.stage, Stage::Failed) {
            let key = branch_key(&sent.via, &entry.request.method);
            self.clients.by_branch.remove(&key);
        }
    }

    /// Puts the Via on and sends.
    pub(super) fn transmit(&mut self, now: Instant, id: ClientId, flow: Flow) {
        let branch = self.random_branch();
        let via = self.via(flow, &branch);
        self.transmit_with(now, id, flow, via);
    }

    fn transmit_with(&mut self, now: Instant, id: ClientId, flow: Flow, via: Via) {
        let timing = self.timing();
        let Some(entry) = self.clients.entries.get_mut(&id) else {
            return;
        };
        if entry.purpose == Purpose::Invite || entry.request.method == Method::Register {
            // Only now it is known over which transport the peer hears of us.
            let contact = self
                .config
                .contact(flow, entry.request.uri.scheme == Scheme::Sips);
            Arc::make_mut(&mut entry.request)
                .headers
                .set(HeaderName::Contact, contact);
        }
        let bytes = hop_by_hop::on_the_wire(&entry.request, &via);
        let reliable = flow.transport.is_reliable();
        let machine = match entry.request.method {
            Method::Invite => {
                ClientMachine::Invite(ClientInvite::new(now, timing, reliable, bytes.clone()))
            }
            _ => ClientMachine::Other(Client::new(now, timing, reliable, bytes.clone())),
        };
        let method = entry.request.method.clone();
        if let Purpose::Ack { invite, tag } = entry.purpose.clone() {
            self.clients.remove(id);
            self.timers.set(TimerKey::Client(id), None);
            let answers = self
                .clients
                .entries
                .get_mut(&invite)
                .map(|entry| &mut entry.answers);
            if let Some(answer) = answers
                .into_iter()
                .flatten()
                .find(|answer| answer.tag == tag)
            {
                answer.ack = Some((flow, bytes.clone()));
            }
        } else {
            self.clients.by_branch.insert(branch_key(&via, &method), id);
            entry.stage = Stage::Sent(Box::new(Sent { flow, via, machine }));
        }
        self.send(flow, bytes);
    }

    fn via(&self, flow: Flow, branch: &str) -> Via {
        let (host, port) = self.config.sent_by(flow);
        let mut params = Params::default();
        params.set("branch", Some(branch));
        params.set("rport", None);
        Via {
            transport: flow.transport.via_name().into(),
            host,
            port: Some(port),
            params,
        }
    }

    /// A response came.
    pub(super) fn on_response(&mut self, now: Instant, response: Response) {
        let headers = &response.headers;
        let (Some(via), Some(cseq)) = (headers.top_via(), headers.cseq()) else {
            return self.count("response_malformed");
        };
        if headers.via_count() != 1 {
            return self.count("response_not_ours");
        }
        let Some(id) = self
            .clients
            .by_branch
            .get(&branch_key(&via, &cseq.method))
            .copied()
        else {
            return self.count("response_unmatched");
        };
        let Some(entry) = self.clients.entries.get_mut(&id) else {
            return;
        };
        let Stage::Sent(sent) = &mut entry.stage else {
            return;
        };
        let (flow, status) = (sent.flow, response.status);
        let effect = match &mut sent.machine {
            ClientMachine::Invite(invite) => invite.on_response(now, status, || {
                hop_by_hop::ack_to_failure(&entry.request, &sent.via, &response)
            }),
            ClientMachine::Other(other) => other.on_response(now, status),
        };
        if let Some(bytes) = effect.send {
            self.send(flow, bytes);
        }
        if effect.deliver {
            self.on_news(now, id, response);
        }
        self.settle_client(now, id);
    }

    /// A response that the transaction's user must hear; unless 503 and there is another address to try.
    fn on_news(&mut self, now: Instant, id: ClientId, response: Response) {
        let more = self
            .clients
            .get(id)
            .is_some_and(|entry| !entry.hops.is_empty());
        if response.status == StatusCode::SERVICE_UNAVAILABLE && more {
            self.give_up_attempt(id);
            return self.try_next(now, id);
        }
        self.on_outcome(now, id, Outcome::Response(Box::new(response)));
    }

    /// A timer of a request of ours.
    pub(super) fn client_timeout(&mut self, now: Instant, id: ClientId) {
        let Some(entry) = self.clients.entries.get_mut(&id) else {
            return;
        };
        match &mut entry.stage {
            Stage::Failed => return self.finish_client(now, id, Outcome::Unreachable),
            Stage::Waiting { end } if now >= *end => {
                return self.finish_client(now, id, Outcome::Unreachable);
            }
            Stage::Waiting { .. } => {}
            Stage::Sent(sent) => {
                let (flow, calling) = (sent.flow, sent.machine.is_calling());
                // A final response that the end of the call made superfluous is nobody's failure.
                let given_up = matches!(sent.machine, ClientMachine::Invite(_)) && !calling;
                let effect = sent.machine.on_timeout(now);
                if let Some(bytes) = effect.send {
                    self.count("request_retransmitted_by_us");
                    self.send(flow, bytes);
                }
                if effect.timed_out {
                    self.count(if given_up {
                        "invite_given_up"
                    } else {
                        "request_timed_out"
                    });
                    let more = self
                        .clients
                        .get(id)
                        .is_some_and(|entry| !entry.hops.is_empty());
                    if !(calling && more) {
                        return self.finish_client(now, id, Outcome::Timeout);
                    }
                    self.give_up_attempt(id);
                    self.try_next(now, id);
                }
            }
        }
        self.settle_client(now, id);
    }

    /// Tells the outcome and forgets the request.
    fn finish_client(&mut self, now: Instant, id: ClientId, outcome: Outcome) {
        self.on_outcome(now, id, outcome);
        self.clients.remove(id);
        self.timers.set(TimerKey::Client(id), None);
    }

    /// Sets the timer of a request, or forgets it when it is over.
    pub(super) fn settle_client(&mut self, now: Instant, id: ClientId) {
        let Some(entry) = self.clients.get(id) else {
            return;
        };
        let deadline = match &entry.stage {
            Stage::Failed => Some(now),
            Stage::Waiting { end } => Some(*end),
            Stage::Sent(sent) if sent.machine.is_terminated() => {
                self.clients.remove(id);
                None
            }
            Stage::Sent(sent) => sent.machine.deadline(),
        };
        self.timers.set(TimerKey::Client(id), deadline);
    }

    /// Sends the CANCEL of an INVITE of ours, if the time for it has come (RFC 3261 section 9.1): on the
    /// same flow with the same branch. Whether it was sent.
    pub(super) fn cancel_invite(&mut self, now: Instant, id: ClientId) -> bool {
        let limit = now + self.timing().timeout();
        let Some(entry) = self.clients.entries.get_mut(&id) else {
            return false;
        };
        let Stage::Sent(sent) = &mut entry.stage else {
            return false;
        };
        let ClientMachine::Invite(invite) = &mut sent.machine else {
            return false;
        };
        if !invite.is_proceeding() {
            return false;
        }
        invite.give_up_at(limit);
        let (flow, via) = (sent.flow, sent.via.clone());
        let request = hop_by_hop::request(&entry.request, Method::Cancel);
        let cancel = ClientId(self.next_id());
        let entry = ClientRequest::new(request, None, Purpose::Alone, None, Stage::Failed);
        self.clients.entries.insert(cancel, entry);
        self.transmit_with(now, cancel, flow, via);
        self.settle_client(now, cancel);
        self.settle_client(now, id);
        true
    }

    /// Limits the wait for the final response to an INVITE of ours.
    pub(super) fn limit_invite(&mut self, now: Instant, id: ClientId, limit: Instant) {
        let entry = self.clients.entries.get_mut(&id);
        if let Some(Stage::Sent(sent)) = entry.map(|entry| &mut entry.stage)
            && let ClientMachine::Invite(invite) = &mut sent.machine
        {
            invite.give_up_at(limit);
            self.settle_client(now, id);
        }
    }

    /// Drops an INVITE that was not sent yet. Whether it was one.
    pub(super) fn withdraw_invite(&mut self, id: ClientId) -> bool {
        let unsent = self
            .clients
            .get(id)
            .is_some_and(|entry| !matches!(entry.stage, Stage::Sent(_)));
        if unsent {
            self.clients.remove(id);
            self.timers.set(TimerKey::Client(id), None);
        }
        unsent
    }
}

impl ClientRequest {
    pub(super) fn new(
        request: Request,
        call: Option<CallHandle>,
        purpose: Purpose,
        hint: Option<Flow>,
        stage: Stage,
    ) -> Self {
        Self {
            request: Arc::new(request),
            call,
            purpose,
            hops: VecDeque::new(),
            server_name: None,
            hint,
            stage,
            answers: Vec::new(),
        }
    }

    /// Where it was sent.
    pub(super) const fn flow(&self) -> Option<Flow> {
        match &self.stage {
            Stage::Sent(sent) => Some(sent.flow),
            _ => None,
        }
    }

    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting { .. })
    }
}
