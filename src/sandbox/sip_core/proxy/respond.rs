//! Responses of branches, and what follows from them: the next step, or the response that goes back (RFC 3261
//! section 16.7).

use std::time::Instant;

use bytes::Bytes;

use crate::sandbox::sip_core::proxy::Event;
use crate::sandbox::sip_core::proxy::Proxy;
use crate::sandbox::sip_core::proxy::TimerKey;
use crate::sandbox::sip_core::proxy::client::ClientId;
use crate::sandbox::sip_core::proxy::client::Outcome;
use crate::sandbox::sip_core::proxy::client::Outgoing;
use crate::sandbox::sip_core::proxy::context::Context;
use crate::sandbox::sip_core::proxy::context::Final;
use crate::sandbox::sip_core::proxy::context::State;
use crate::sandbox::sip_core::proxy::context::Step;
use crate::sandbox::sip_core::proxy::server::Reply;
use crate::sandbox::sip_core::proxy::server::ServerId;
use crate::sandbox::sip_core::relay::Description;
use crate::sip::flow::Flow;
use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Headers;
use crate::sip::message::Method;
use crate::sip::message::Response;
use crate::sip::message::StatusCode;

impl Proxy {
    /// Takes a context up and begins with its first step.
    pub(super) fn open_context(&mut self, now: Instant, id: ServerId, context: Context) {
        self.contexts.insert(id, context);
        self.advance(now, id);
    }

    /// Goes on with what is to be tried next, as soon as no branch is open; at the end answers with the best response.
    fn advance(&mut self, now: Instant, id: ServerId) {
        while let Some(context) = self.contexts.get_mut(&id) {
            if context.state == State::Over || !context.live.is_empty() {
                return;
            }
            match context.plan.pop_front() {
                Some(_) if context.state == State::Cancelled => {}
                Some(Step::Together(branches)) => {
                    let rings = context.call.is_some() && !context.plan.is_empty();
                    if rings && !branches.is_empty() {
                        let end = now + self.config.ring_timeout;
                        self.timers.set(TimerKey::Ring(id), Some(end));
                    }
                    self.fork(now, id, branches);
                }
                Some(Step::Fallback(leg)) => {
                    let Some(reason) = context.reason_to_divert() else {
                        continue;
                    };
                    context.diverted = Some(reason);
                    self.timers.set(TimerKey::Ring(id), None);
                    if let Some(outgoing) = self.diverted_to(id, &leg, reason) {
                        self.step(id, format!("{}: to {}", reason.words(), leg.sip_uri));
                        self.fork(now, id, vec![outgoing]);
                    }
                }
                None => return self.conclude(now, id),
            }
        }
    }

    fn fork(&mut self, now: Instant, id: ServerId, branches: Vec<Outgoing>) {
        for outgoing in branches {
            let Some(context) = self.contexts.get_mut(&id) else {
                return;
            };
            let loop_hash = context.loop_hash.clone();
            context.clients += 1;
            let client = self.forward(now, Some(id), outgoing, loop_hash);
            // A branch that fails at once is told at the next timeout, not here; an ACK is forgotten when it is sent.
            if self.clients.get(client).is_some()
                && let Some(context) = self.contexts.get_mut(&id)
            {
                context.live.push(client);
            }
        }
    }

    /// A response came that the context of its branch must hear. Our Via is off it.
    pub(super) fn on_branch_response(
        &mut self,
        now: Instant,
        id: ServerId,
        client: ClientId,
        response: Response,
    ) {
        let Some(context) = self.contexts.get(&id) else {
            return;
        };
        let status = response.status;
        if status.is_success() {
            return self.on_success(now, id, client, response);
        }
        if status.is_final() {
            return self.on_branch_over(now, id, client, Outcome::Response(Box::new(response)));
        }
        let waits = context.state == State::Open && context.live.contains(&client);
        if status == StatusCode::TRYING || !waits || context.rang_too_long {
            return;
        }
        self.pass_back(now, id, client, response);
    }

    /// A 2xx goes back at once, each and every one; what else rings is cancelled (section 16.7 steps 5 and 10).
    fn on_success(&mut self, now: Instant, id: ServerId, client: ClientId, response: Response) {
        let Some(context) = self.contexts.get_mut(&id) else {
            return;
        };
        let was_open = context.state == State::Open;
        context.plan.clear();
        context.live.retain(|live| *live != client);
        context.state = State::Over;
        let others = std::mem::take(&mut context.live);
        let is_call = context.call.is_some();
        self.timers.set(TimerKey::Ring(id), None);
        if is_call && was_open {
            self.step(id, format!("answered with {}", response.status));
        }
        self.pass_back(now, id, client, response);
        for other in others {
            self.cancel(now, other);
        }
    }

    /// A branch came out with a failure, or without any response.
    pub(super) fn on_branch_over(
        &mut self,
        now: Instant,
        id: ServerId,
        client: ClientId,
        outcome: Outcome,
    ) {
        let Some(context) = self.contexts.get_mut(&id) else {
            return;
        };
        let Some(at) = context.live.iter().position(|live| *live == client) else {
            return;
        };
        context.live.remove(at);
        let new = match outcome {
            Outcome::Response(response) => Final::Of(response),
            Outcome::Timeout => Final::Own(StatusCode::REQUEST_TIMEOUT),
            // RFC 3261 section 16.9.
            Outcome::Unreachable => Final::Own(StatusCode::SERVICE_UNAVAILABLE),
        };
        let ends_all = new.status().code() >= 600;
        let words = format!("a leg ended with {}", new.status());
        context.collect(new);
        let others = if ends_all {
            context.live.clone()
        } else {
            Vec::new()
        };
        if context.call.is_some() {
            self.step(id, words);
        }
        for other in others {
            self.cancel_and_let_go(now, id, other);
        }
        self.advance(now, id);
    }

    /// Cancels a branch. One that nothing was heard of is not waited for; should it answer yet, its 2xx goes back.
    pub(super) fn cancel_and_let_go(&mut self, now: Instant, id: ServerId, client: ClientId) {
        let unheard = self.is_unheard(client);
        self.cancel(now, client);
        if unheard && let Some(context) = self.contexts.get_mut(&id) {
            context.live.retain(|live| *live != client);
        }
    }

    /// The phone has rung long enough: its leg is cancelled, and the call goes on when that has ended.
    pub(super) fn rung_long_enough(&mut self, now: Instant, id: ServerId) {
        let Some(context) = self.contexts.get_mut(&id) else {
            return;
        };
        if context.state != State::Open {
            return;
        }
        context.rang_too_long = true;
        for client in context.live.clone() {
            self.cancel_and_let_go(now, id, client);
        }
        self.advance(now, id);
    }

    /// The caller gave up: every branch is cancelled, and nothing more is tried.
    pub(super) fn cancel_context(&mut self, now: Instant, id: ServerId) {
        let Some(context) = self.contexts.get_mut(&id) else {
            return;
        };
        if context.state != State::Open {
            return;
        }
        context.state = State::Cancelled;
        self.timers.set(TimerKey::Ring(id), None);
        let live = self.contexts.get(&id).map(|context| context.live.clone());
        for client in live.into_iter().flatten() {
            self.cancel_and_let_go(now, id, client);
        }
        self.advance(now, id);
    }

    /// All branches have ended without a 2xx: the best response goes back.
    fn conclude(&mut self, now: Instant, id: ServerId) {
        let Some(context) = self.contexts.get_mut(&id) else {
            return;
        };
        let cancelled = context.state == State::Cancelled;
        context.state = State::Over;
        let is_invite = context.request.method == Method::Invite;
        let best = context.best.take();
        let status = best.as_ref().map(Final::status);
        let (rang_too_long, is_call) = (context.rang_too_long, context.call.is_some());
        let challenges = std::mem::take(&mut context.challenges);
        self.timers.set(TimerKey::Ring(id), None);
        let ended_by_us = matches!(status.map(StatusCode::code), None | Some(408 | 487));
        let own = if cancelled {
            Some(StatusCode::REQUEST_TERMINATED)
        } else if rang_too_long && ended_by_us {
            Some(StatusCode::TEMPORARILY_UNAVAILABLE)
        } else {
            match best {
                // No phone at all.
                None => Some(StatusCode::TEMPORARILY_UNAVAILABLE),
                // Said of a server, it would keep the caller from trying us again (section 16.7 step 6).
                Some(best) if best.status() == StatusCode::SERVICE_UNAVAILABLE => {
                    Some(StatusCode::SERVER_INTERNAL_ERROR)
                }
                Some(Final::Own(status)) => Some(status),
                Some(Final::Of(mut response)) => {
                    merge_challenges(&mut response.headers, challenges);
                    self.pass_back_whole(now, id, &response);
                    None
                }
            }
        };
        match own {
            // RFC 4320: the client of such a request has given up by itself already.
            Some(StatusCode::REQUEST_TIMEOUT) if !is_invite => self.forget_server(id),
            Some(status) => self.reply(now, id, &Reply::new(status, "concluded")),
            None => {}
        }
        if is_call {
            let how = own.or(status).unwrap_or(StatusCode::SERVER_INTERNAL_ERROR);
            self.call_ended(id, format!("ended with {how}"));
        }
        self.settle_context(id);
    }

    /// A response of a branch goes back, its description rewritten.
    fn pass_back(&mut self, now: Instant, id: ServerId, client: ClientId, mut response: Response) {
        if let Some(body) = self.rewritten(&response.headers, &response.body, true) {
            response.body = body;
        }
        let leg = self
            .clients
            .get(client)
            .and_then(|branch| branch.leg.clone());
        let leg = leg.filter(|_| response.status.is_success());
        let (status, bytes) = (response.status, response.to_bytes());
        if !self.respond(now, id, status, bytes.clone(), leg.clone()) && status.is_success() {
            // The transaction has had a final response, or is over: a 2xx is passed on all the same.
            if let Some(upstream) = self.contexts.get(&id).map(|context| context.upstream) {
                self.send_of(upstream, bytes, leg);
            }
        }
    }

    fn pass_back_whole(&mut self, now: Instant, id: ServerId, response: &Response) {
        self.respond(now, id, response.status, response.to_bytes(), None);
    }

    /// What the media relay makes of a description. In a response the sender is To.
    pub(super) fn rewritten(
        &mut self,
        headers: &Headers,
        body: &Bytes,
        is_response: bool,
    ) -> Option<Bytes> {
        let relay = self.relay.as_mut()?;
        let is_sdp = headers
            .content_type()
            .is_some_and(|it| it.is("application", "sdp"));
        if body.is_empty() || !is_sdp {
            return None;
        }
        let (from, to) = (headers.from()?, headers.to()?);
        let sender = if is_response { to } else { from };
        let call_id = headers.call_id()?.to_str_lossy();
        relay.rewrite(&Description {
            call_id: &call_id,
            sender_tag: sender.tag().unwrap_or_default(),
            body,
        })
    }

    /// A branch takes no more responses.
    pub(super) fn branch_forgotten(&mut self, id: ServerId) {
        if let Some(context) = self.contexts.get_mut(&id) {
            context.clients = context.clients.saturating_sub(1);
        }
        self.settle_context(id);
    }

    /// Forgets a context that nothing can come to any more.
    pub(super) fn settle_context(&mut self, id: ServerId) {
        let is_over = |context: &Context| context.clients == 0 && context.live.is_empty();
        if !self.servers.has(id) && self.contexts.get(&id).is_some_and(is_over) {
            self.contexts.remove(&id);
            self.timers.set(TimerKey::Ring(id), None);
        }
    }

    /// Where the caller is, when this request begins a dialog that we want to stay in.
    pub(super) fn recorded_upstream(&self, id: ServerId) -> Option<Flow> {
        let context = self.contexts.get(&id)?;
        let begins = context.request.method == Method::Invite
            && context.request.headers.to()?.tag().is_none();
        begins.then_some(context.upstream)
    }

    /// Notes something in the call's log.
    pub(super) fn step(&mut self, id: ServerId, what: String) {
        if let Some(call) = self
            .contexts
            .get(&id)
            .and_then(|context| context.call.as_ref())
        {
            let call_id = call.call_id.clone();
            self.event(Event::Step { call_id, what });
        }
    }

    /// The call is over, unless an endpoint that has sent it back still has it under the same Call-ID.
    fn call_ended(&mut self, id: ServerId, how: String) {
        let call_of = |context: &Context| Some(context.call.as_ref()?.call_id.clone());
        let Some(call_id) = self.contexts.get(&id).and_then(call_of) else {
            return;
        };
        let is_same = |context: &Context| {
            let call = context.call.as_ref();
            context.state == State::Open && call.is_some_and(|call| call.call_id == call_id)
        };
        if self.contexts.values().any(is_same) {
            return self.event(Event::Step { call_id, what: how });
        }
        self.hang_up(call_id, how);
    }

    /// Tells the log and the media relay that a call is over.
    pub(super) fn hang_up(&mut self, call_id: String, how: String) {
        if let Some(relay) = &mut self.relay {
            relay.ends(&call_id);
        }
        self.event(Event::Ended { call_id, how });
    }
}

/// What all branches ask the caller for stands in the one response (section 16.7 step 7).
fn merge_challenges(headers: &mut Headers, challenges: Vec<(HeaderName, HeaderValue)>) {
    if headers.has(&HeaderName::WwwAuthenticate) || headers.has(&HeaderName::ProxyAuthenticate) {
        headers.remove(&HeaderName::WwwAuthenticate);
        headers.remove(&HeaderName::ProxyAuthenticate);
        for (name, value) in challenges {
            headers.push(name, value);
        }
    }
}
