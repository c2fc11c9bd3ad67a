//! Requests as they come in: matched to a transaction, to a dialog, or judged as strangers'.

use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::time::Instant;

use bytes::Bytes;

use crate::sip::dialog;
use crate::sip::endpoint::Endpoint;
use crate::sip::endpoint::api::CallHandle;
use crate::sip::endpoint::api::Event;
use crate::sip::endpoint::api::Output;
use crate::sip::endpoint::check;
use crate::sip::endpoint::check::Refusal;
use crate::sip::endpoint::server::Reply;
use crate::sip::endpoint::server::ServerId;
use crate::sip::flow::Flow;
use crate::sip::header::Via;
use crate::sip::message::HeaderName;
use crate::sip::message::Message;
use crate::sip::message::Method;
use crate::sip::message::Parsed;
use crate::sip::message::Request;
use crate::sip::message::StatusCode;
use crate::sip::transaction::key::ServerKey;
use crate::sip::transaction::machine::ServerMachine;
use crate::sip::transaction::way_back;

impl Endpoint {
    /// One message, one refused request, one keep-alive, or rubbish.
    pub(super) fn receive(&mut self, now: Instant, flow: Flow, parsed: Parsed) {
        self.flows.open(flow, None);
        match parsed {
            Parsed::Message(Message::Request(request)) => self.on_request(now, flow, request),
            Parsed::Message(Message::Response(response)) => self.on_response(now, response),
            Parsed::Refused {
                request,
                status,
                why,
            } => self.on_refused(now, flow, *request, status, why),
            // RFC 5626 section 3.5.1: only connections are kept alive so.
            Parsed::KeepAlive { ping: true } if flow.transport.is_reliable() => {
                self.send(flow, Bytes::from_static(b"\r\n"));
            }
            Parsed::KeepAlive { .. } => {}
            Parsed::Dropped(error) => self.count(error.label()),
        }
    }

    fn on_request(&mut self, now: Instant, flow: Flow, mut request: Request) {
        let Some(via) = request.headers.top_via() else {
            return self.count("request_without_via");
        };
        let via = way_back::stamp(&mut request.headers, via, flow);
        let key = ServerKey::new(&request, &via);
        match request.method {
            Method::Ack => return self.on_ack(now, &key, &request),
            Method::Cancel => return self.on_cancel(now, flow, &via, &key, &request),
            _ => {}
        }
        if let Some(id) = self.servers.find(&key) {
            return self.on_retransmission(id, &via, flow);
        }
        let to_tag = request.headers.get(&HeaderName::To).and_then(dialog::tag);
        let call = to_tag
            .as_deref()
            .and_then(|tag| self.find_call(&request, tag));
        if call.is_none() && !self.admits(now, flow, &request, &via) {
            return;
        }
        if self.servers.len() >= self.config.max_transactions {
            self.count("too_many_transactions");
            let reply = Reply::new(StatusCode::SERVICE_UNAVAILABLE)
                .with(HeaderName::RetryAfter, self.retry_after());
            return self.respond_stateless(&request, &via, flow, reply, None);
        }
        let merged = to_tag.is_none() && self.servers.is_merged(&request);
        let local_tag = self.random_tag();
        let server = self.open_server(key, &request, &via, flow, &local_tag);
        let checked = check::request(&request);
        if let Err(refusal) = checked {
            return self.refuse(now, server, refusal);
        }
        match (call, to_tag) {
            (Some(call), _) => self.on_dialog_request(now, call, server, flow, &request),
            (None, Some(_)) => self.refuse(
                now,
                server,
                Refusal::new(StatusCode::CALL_DOES_NOT_EXIST, "unknown_dialog"),
            ),
            (None, None) if merged => self.refuse(
                now,
                server,
                Refusal::new(StatusCode::LOOP_DETECTED, "merged_request"),
            ),
            (None, None) => self.on_new_request(now, server, flow, local_tag, request),
        }
    }

    /// A request that passed the checks and belongs to no dialog.
    fn on_new_request(
        &mut self,
        now: Instant,
        server: ServerId,
        flow: Flow,
        local_tag: Box<str>,
        request: Request,
    ) {
        match request.method {
            Method::Invite => self.on_invite(now, server, flow, local_tag, request),
            Method::Options => match self.draining {
                Some(secs) => {
                    let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "draining");
                    self.refuse(
                        now,
                        server,
                        refusal.with(HeaderName::RetryAfter, secs.to_string()),
                    );
                }
                None => drop(self.respond(now, server, capabilities())),
            },
            _ => self.refuse(
                now,
                server,
                Refusal::new(StatusCode::CALL_DOES_NOT_EXIST, "unknown_dialog"),
            ),
        }
    }

    /// Whether a request outside of our dialogs is served: only from trusted peers. Others get 403 without
    /// any state; when they send too much, nothing, and their connection is closed.
    fn admits(&mut self, now: Instant, flow: Flow, request: &Request, via: &Via) -> bool {
        let peer = flow.remote.ip();
        if self.config.trusts(peer) {
            return true;
        }
        let verdict = self.strangers.judge(now, peer);
        if let Some(refused) = verdict.report {
            self.event(Event::Untrusted { peer, refused });
        }
        if verdict.answer {
            self.count("untrusted_peer");
            self.respond_stateless(request, via, flow, Reply::new(StatusCode::FORBIDDEN), None);
        } else {
            self.count("untrusted_peer_dropped");
            if flow.transport.is_reliable() {
                self.outputs.push_back(Output::Close { flow });
            }
        }
        false
    }

    /// A request that could be read only in part (RFC 3261 section 16.3, RFC 4475).
    fn on_refused(
        &mut self,
        now: Instant,
        flow: Flow,
        mut request: Request,
        status: StatusCode,
        why: &'static str,
    ) {
        let Some(via) = request.headers.top_via() else {
            return self.count("request_without_via");
        };
        let via = way_back::stamp(&mut request.headers, via, flow);
        if self.admits(now, flow, &request, &via) {
            self.count("request_malformed");
            self.respond_stateless(&request, &via, flow, Reply::new(status), Some(why));
        }
    }

    fn on_ack(&mut self, now: Instant, key: &ServerKey, request: &Request) {
        if let Some(id) = self.servers.find(key)
            && let Some(entry) = self.servers.get_mut(id)
            && let ServerMachine::Invite(invite) = &mut entry.machine
        {
            let effect = invite.on_ack(now);
            self.settle_server(id);
            if !effect.deliver {
                return;
            }
        }
        let to_tag = request.headers.get(&HeaderName::To).and_then(dialog::tag);
        match to_tag.and_then(|tag| self.find_call(request, &tag)) {
            Some(call) => self.on_ack_to_success(now, call, request),
            None => self.count("ack_unmatched"),
        }
    }

    /// CANCEL (RFC 3261 section 9.2).
    fn on_cancel(
        &mut self,
        now: Instant,
        flow: Flow,
        via: &Via,
        key: &ServerKey,
        request: &Request,
    ) {
        let own_key = ServerKey::of_cancel(request, via);
        if let Some(id) = self.servers.find(&own_key) {
            return self.on_retransmission(id, via, flow);
        }
        let invite = self.servers.find(key);
        if invite.is_none() && !self.admits(now, flow, request, via) {
            return;
        }
        let entry = invite.and_then(|id| self.servers.get(id));
        let call = entry.and_then(|entry| entry.call);
        let tag = entry.map(|entry| entry.local_tag.clone());
        let pending = entry.is_some_and(|entry| entry.machine.is_proceeding());
        let tag = tag.unwrap_or_else(|| self.random_tag());
        let cancel = self.open_server(own_key, request, via, flow, &tag);
        let Some(invite) = invite else {
            return self.refuse(
                now,
                cancel,
                Refusal::new(StatusCode::CALL_DOES_NOT_EXIST, "cancel_unmatched"),
            );
        };
        self.respond(now, cancel, Reply::new(StatusCode::OK));
        if pending {
            self.respond(now, invite, Reply::new(StatusCode::REQUEST_TERMINATED));
            if let Some(call) = call {
                self.on_cancelled(now, call, invite);
            }
        } else {
            self.count("cancel_too_late");
        }
    }

    /// The call that a request with this To tag belongs to.
    fn find_call(&mut self, request: &Request, to_tag: &str) -> Option<CallHandle> {
        let handle = self.by_tag.get(to_tag).copied()?;
        let call_id = request.headers.get(&HeaderName::CallId)?;
        let from = request.headers.from()?;
        let call = self.calls.get_mut(&handle)?;
        call.dialog_of(call_id, from.tag().unwrap_or_default())
            .map(|_| handle)
    }

    /// Refuses a request and counts why.
    pub(super) fn refuse(&mut self, now: Instant, server: ServerId, refusal: Refusal) {
        self.count(refusal.why);
        self.respond(
            now,
            server,
            Reply::new(refusal.status).with_all(refusal.headers),
        );
    }

    /// A To tag that is the same for each retransmission of a request, without memory, and not to be guessed.
    pub(super) fn stateless_tag(&self, request: &Request, via: &Via) -> String {
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        via.branch().hash(&mut hasher);
        let identity = [HeaderName::From, HeaderName::CallId, HeaderName::CSeq];
        for value in identity.iter().filter_map(|name| request.headers.get(name)) {
            value.hash(&mut hasher);
        }
        format!("{:016x}", hasher.finish())
    }
}

/// The 200 to OPTIONS (RFC 3261 section 11.2).
pub(super) fn capabilities() -> Reply {
    Reply::new(StatusCode::OK)
        .with(HeaderName::Allow, check::ALLOW)
        .with(HeaderName::Accept, check::ACCEPT)
        .with(HeaderName::AcceptEncoding, "identity")
        .with(HeaderName::AcceptLanguage, "en")
        .with(HeaderName::Supported, check::SUPPORTED)
}
