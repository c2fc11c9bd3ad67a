//! Incoming calls: from the INVITE to the ACK.

use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;

use crate::sip::dialog::Dialog;
use crate::sip::dialog::SessionId;
use crate::sip::dialog::session_timer;
use crate::sip::dialog::session_timer::Grant;
use crate::sip::dialog::session_timer::SessionTimer;
use crate::sip::endpoint::Endpoint;
use crate::sip::endpoint::api::CallHandle;
use crate::sip::endpoint::api::CommandError;
use crate::sip::endpoint::api::DialogEnd;
use crate::sip::endpoint::api::Event;
use crate::sip::endpoint::call::Call;
use crate::sip::endpoint::call::Phase;
use crate::sip::endpoint::call::SessionGrant;
use crate::sip::endpoint::call::Setup;
use crate::sip::endpoint::call::Unacked;
use crate::sip::endpoint::check;
use crate::sip::endpoint::check::Refusal;
use crate::sip::endpoint::server::Reply;
use crate::sip::endpoint::server::ServerId;
use crate::sip::flow::Flow;
use crate::sip::header::NameAddr;
use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Headers;
use crate::sip::message::Method;
use crate::sip::message::Request;
use crate::sip::message::Scheme;
use crate::sip::message::StatusCode;
use crate::sip::transaction::Backoff;

impl Endpoint {
    /// A new INVITE of a trusted peer.
    pub(super) fn on_invite(
        &mut self,
        now: Instant,
        server: ServerId,
        flow: Flow,
        local_tag: Box<str>,
        request: Request,
    ) {
        let (call, offer) = match self.admit_call(now, server, flow, local_tag, &request) {
            Ok(admitted) => admitted,
            Err(refusal) => return self.refuse(now, server, refusal),
        };
        let handle = CallHandle(self.next_id());
        self.by_tag.insert(call.local_tag.clone(), handle);
        self.calls.insert(handle, Box::new(call));
        if let Some(entry) = self.servers.get_mut(server) {
            entry.call = Some(handle);
        }
        self.respond(now, server, Reply::new(StatusCode::TRYING));
        self.event(Event::Incoming {
            call: handle,
            request: Box::new(request),
            flow,
            offer,
        });
        self.settle_call(handle);
    }

    /// What an INVITE must have right before the application sees it; gives the call and the offer.
    fn admit_call(
        &mut self,
        now: Instant,
        server: ServerId,
        flow: Flow,
        local_tag: Box<str>,
        request: &Request,
    ) -> Result<(Call, Option<Bytes>), Refusal> {
        let busy = |why, secs: u32| {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why)
                .with(HeaderName::RetryAfter, secs.to_string())
        };
        if let Some(secs) = self.draining {
            return Err(busy("draining", secs));
        }
        if self.calls.len() >= self.config.max_calls {
            return Err(busy("too_many_calls", self.config.retry_after_secs));
        }
        let offer = check::description(&request.headers, &request.body)?;
        let session = self.grant(&request.headers)?;
        let session_id = request.headers.has(&HeaderName::SessionId).then(|| {
            let mut id = SessionId::new(self.random_id());
            id.learn(&request.headers);
            id
        });
        let contact = self.config.contact(flow, is_secure(request));
        let dialog = Dialog::from_invite(request, &local_tag, contact, session_id)
            .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "invite_without_contact"))?;
        let expires = request
            .headers
            .number(&HeaderName::Expires)
            .map(|secs| Duration::from_secs(secs.into()));
        let within = expires.filter(|expires| *expires < self.config.decision_limit);
        let setup = Setup {
            offered: offer.is_some(),
            cseq: request.headers.cseq().map_or(0, |cseq| cseq.number),
            reliable: request.headers.has_token(&HeaderName::Require, "100rel"),
            session,
            expires: within.is_some(),
        };
        let limit = now + within.unwrap_or(self.config.decision_limit);
        let mut call = Call::new(
            Some(flow),
            local_tag,
            Phase::Deciding {
                invite: server,
                setup,
                limit,
            },
        );
        call.learn_peer(&request.headers);
        call.dialog = Some(dialog);
        Ok((call, offer))
    }

    /// The session timer for a request (RFC 4028 section 9).
    pub(super) fn grant(&self, request: &Headers) -> Result<Option<SessionGrant>, Refusal> {
        let limits = self.session_limits();
        match session_timer::grant(
            request,
            request.has_token(&HeaderName::Supported, "timer"),
            limits,
        ) {
            Grant::None => Ok(None),
            Grant::Timer { header, require } => Ok(Some(SessionGrant { header, require })),
            Grant::TooSmall => {
                let refusal = Refusal::new(
                    StatusCode::SESSION_INTERVAL_TOO_SMALL,
                    "session_interval_too_small",
                );
                Err(refusal.with(HeaderName::MinSe, limits.min.to_string()))
            }
        }
    }

    /// The application accepts the INVITE.
    pub(super) fn answer_invite(
        &mut self,
        now: Instant,
        handle: CallHandle,
        description: Bytes,
    ) -> Result<(), CommandError> {
        let rseq = self.random_rseq();
        let (t1, timeout) = (self.config.t1, self.timing().timeout());
        let call = self.live_call(handle)?;
        let Phase::Deciding { invite, setup, .. } = &call.phase else {
            return Err(CommandError::WrongState);
        };
        let (invite, setup) = (*invite, setup.clone());
        call.description = Some(description.clone());
        if !setup.reliable {
            self.accept_invite(now, handle, invite, &setup, Some(description));
            return Ok(());
        }
        let reply = Reply::new(StatusCode::SESSION_PROGRESS)
            .with(HeaderName::Require, "100rel")
            .with(HeaderName::RSeq, rseq.to_string())
            .with_all(call_headers(call))
            .with_description(Some(description));
        let response = self.respond(now, invite, reply).unwrap_or_default();
        if let Some(call) = self.calls.get_mut(&handle) {
            let again = Backoff::new(now, t1, timeout);
            call.phase = Phase::Reliable {
                invite,
                setup,
                rseq,
                response,
                again,
                end: now + timeout,
            };
        }
        Ok(())
    }

    /// Sends the 200 to the INVITE. Without `description` the offer and answer were exchanged before.
    pub(super) fn accept_invite(
        &mut self,
        now: Instant,
        handle: CallHandle,
        invite: ServerId,
        setup: &Setup,
        description: Option<Bytes>,
    ) {
        let wants_answer = description.is_some() && !setup.offered;
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        call.phase = Phase::Established;
        let reply = Reply::new(StatusCode::OK)
            .with_all(call_headers(call))
            .with_all(session_headers(setup.session))
            .with_description(description);
        call.session = setup
            .session
            .map(|grant| SessionTimer::agreed(now, grant.header, false));
        self.respond_until_ack(now, handle, invite, setup.cseq, reply, wants_answer);
        self.event(Event::Accepted { call: handle });
    }

    /// Sends a 2xx to an INVITE, and again until its ACK comes (RFC 3261 section 13.3.1.4).
    pub(super) fn respond_until_ack(
        &mut self,
        now: Instant,
        handle: CallHandle,
        invite: ServerId,
        cseq: u32,
        reply: Reply,
        wants_answer: bool,
    ) {
        let timing = self.timing();
        let Some(response) = self.respond(now, invite, reply) else {
            return;
        };
        if let Some(call) = self.calls.get_mut(&handle) {
            let again = Backoff::new(now, timing.t1, timing.t2);
            call.unacked = Some(Box::new(Unacked {
                invite,
                cseq,
                response,
                again,
                end: now + timing.timeout(),
                wants_answer,
            }));
        }
    }

    /// The application refuses the INVITE.
    pub(super) fn reject_invite(
        &mut self,
        now: Instant,
        handle: CallHandle,
        reply: Reply,
        end: DialogEnd,
    ) -> Result<(), CommandError> {
        let call = self.live_call(handle)?;
        let invite = match &call.phase {
            Phase::Deciding { invite, .. }
            | Phase::Reliable { invite, .. }
            | Phase::Pracked { invite, .. } => *invite,
            _ => return Err(CommandError::WrongState),
        };
        let reply = reply.with_all(call.identity());
        self.respond(now, invite, reply);
        self.end_call(now, handle, end);
        Ok(())
    }

    /// An INVITE was cancelled, and answered with 487: the first one of a call, or a re-INVITE.
    pub(super) fn on_cancelled(&mut self, now: Instant, handle: CallHandle, invite: ServerId) {
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        if call
            .pending
            .as_ref()
            .is_some_and(|pending| pending.server == invite)
        {
            call.pending = None;
        } else {
            self.end_call(now, handle, DialogEnd::Cancelled);
        }
        self.settle_call(handle);
    }

    /// PRACK (RFC 3262 section 3).
    pub(super) fn on_prack(
        &mut self,
        now: Instant,
        handle: CallHandle,
        server: ServerId,
        request: &Request,
    ) {
        let rack = request.headers.rack();
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        let matching = match &call.phase {
            Phase::Reliable {
                invite,
                setup,
                rseq,
                ..
            } => rack
                .filter(|rack| {
                    rack.rseq == *rseq
                        && rack.cseq.number == setup.cseq
                        && rack.cseq.method == Method::Invite
                })
                .map(|_| (*invite, setup.clone())),
            _ => None,
        };
        let Some((invite, setup)) = matching else {
            return self.refuse(
                now,
                server,
                Refusal::new(StatusCode::CALL_DOES_NOT_EXIST, "prack_unmatched"),
            );
        };
        let description = match check::description(&request.headers, &request.body) {
            Ok(description) => description,
            Err(refusal) => return self.refuse(now, server, refusal),
        };
        let identity = call.identity();
        if setup.offered && description.is_some() {
            // A second offer: the application decides on it before the INVITE is accepted.
            call.phase = Phase::Pracked { invite, setup };
            return self.ask_application(now, handle, server, request, description, None);
        }
        self.respond(now, server, Reply::new(StatusCode::OK).with_all(identity));
        if !setup.offered && description.is_none() {
            let reply = Reply::new(StatusCode::BAD_REQUEST);
            self.reject_invite(now, handle, reply, DialogEnd::NoAnswer)
                .expect("the call waits for its PRACK");
            return;
        }
        self.confirm(handle, description);
        self.accept_invite(now, handle, invite, &setup, None);
    }

    /// The ACK to a 2xx of ours.
    pub(super) fn on_ack_to_success(
        &mut self,
        now: Instant,
        handle: CallHandle,
        request: &Request,
    ) {
        let cseq = request.headers.cseq().map(|cseq| cseq.number);
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        let Some(unacked) = call.unacked.take_if(|unacked| Some(unacked.cseq) == cseq) else {
            return self.count("ack_repeated");
        };
        self.after_ack(
            now,
            handle,
            &unacked,
            check::description(&request.headers, &request.body)
                .ok()
                .flatten(),
        );
        self.settle_call(handle);
    }

    /// The peer has our 2xx: says the BYE that waited for it, or tells the application.
    pub(super) fn after_ack(
        &mut self,
        now: Instant,
        handle: CallHandle,
        unacked: &Unacked,
        answer: Option<Bytes>,
    ) {
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        if let Some(reason) = call.farewell.take() {
            return self.send_bye(now, handle, reason);
        }
        if call.is_closing() {
            return;
        }
        if unacked.wants_answer && answer.is_none() {
            return self.hang_up(now, handle, DialogEnd::NoAnswer, None);
        }
        if unacked.wants_answer || !call.confirmed {
            self.confirm(handle, answer.filter(|_| unacked.wants_answer));
        }
    }

    /// Tells the application that offer and answer are complete.
    fn confirm(&mut self, handle: CallHandle, answer: Option<Bytes>) {
        if let Some(call) = self.calls.get_mut(&handle) {
            call.confirmed = true;
            self.event(Event::Confirmed {
                call: handle,
                answer,
            });
        }
    }
}

/// Whether the peer asked for `sips` (RFC 3261 section 12.1.1).
pub(super) fn is_secure(request: &Request) -> bool {
    let first = |name| {
        request
            .headers
            .list(name)
            .next()
            .and_then(|value| NameAddr::parse(value).ok())
    };
    let above = first(&HeaderName::RecordRoute).or_else(|| first(&HeaderName::Contact));
    request.uri.scheme == Scheme::Sips
        || above.is_some_and(|address| address.uri.scheme == Scheme::Sips)
}

/// What 101 to 299 to an INVITE and 2xx to an UPDATE bear: Contact and what we can do.
pub(super) fn call_headers(call: &Call) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = call.identity();
    if let Some(dialog) = &call.dialog {
        headers.push((HeaderName::Contact, dialog.contact().clone()));
    }
    headers.push((HeaderName::Allow, check::ALLOW.into()));
    headers.push((HeaderName::Supported, check::SUPPORTED.into()));
    headers
}

/// The session timer in a 2xx.
pub(super) fn session_headers(session: Option<SessionGrant>) -> Vec<(HeaderName, HeaderValue)> {
    let Some(grant) = session else {
        return Vec::new();
    };
    let mut headers = vec![(HeaderName::SessionExpires, grant.header.to_string().into())];
    if grant.require {
        headers.push((HeaderName::Require, "timer".into()));
    }
    headers
}
