//! Requests of the peer inside a call, and the application's word on its offers.

use std::time::Instant;

use bytes::Bytes;

use crate::sip::dialog;
use crate::sip::dialog::Sequence;
use crate::sip::dialog::session_timer::SessionTimer;
use crate::sip::endpoint::Endpoint;
use crate::sip::endpoint::api::CallHandle;
use crate::sip::endpoint::api::CommandError;
use crate::sip::endpoint::api::DialogEnd;
use crate::sip::endpoint::api::Event;
use crate::sip::endpoint::api::OfferId;
use crate::sip::endpoint::call::Call;
use crate::sip::endpoint::call::Pending;
use crate::sip::endpoint::call::Phase;
use crate::sip::endpoint::call::SessionGrant;
use crate::sip::endpoint::check;
use crate::sip::endpoint::check::Refusal;
use crate::sip::endpoint::receive;
use crate::sip::endpoint::server::Reply;
use crate::sip::endpoint::server::ServerId;
use crate::sip::endpoint::uas;
use crate::sip::flow::Flow;
use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Method;
use crate::sip::message::Request;
use crate::sip::message::StatusCode;

impl Endpoint {
    /// A request inside a dialog of ours that passed the first checks.
    pub(super) fn on_dialog_request(
        &mut self,
        now: Instant,
        handle: CallHandle,
        server: ServerId,
        flow: Flow,
        request: &Request,
    ) {
        match self.enter_dialog(handle, server, flow, request) {
            Ok(()) => self.serve_in_dialog(now, handle, server, request),
            Err(refusal) => self.refuse(now, server, refusal),
        }
        self.settle_call(handle);
    }

    /// Judges the order of the request (RFC 3261 section 12.2.2) and takes over what it tells of the peer.
    fn enter_dialog(
        &mut self,
        handle: CallHandle,
        server: ServerId,
        flow: Flow,
        request: &Request,
    ) -> Result<(), Refusal> {
        let unknown = || Refusal::new(StatusCode::CALL_DOES_NOT_EXIST, "unknown_dialog");
        let call = self.calls.get_mut(&handle).ok_or_else(unknown)?;
        let call_id = request
            .headers
            .get(&HeaderName::CallId)
            .ok_or_else(unknown)?;
        let from = request.headers.from();
        let remote_tag = from
            .as_ref()
            .and_then(|from| from.tag())
            .unwrap_or_default();
        let dialog = call.dialog_of(call_id, remote_tag).ok_or_else(unknown)?;
        let cseq = request.headers.cseq().map_or(0, |cseq| cseq.number);
        if dialog.sequence(cseq) == Sequence::Stale {
            return Err(Refusal::new(
                StatusCode::SERVER_INTERNAL_ERROR,
                "stale_cseq",
            ));
        }
        dialog.hear(&request.headers);
        call.flow = Some(flow);
        call.learn_peer(&request.headers);
        if call.is_closing() && request.method != Method::Bye {
            return Err(unknown());
        }
        if let Some(entry) = self.servers.get_mut(server) {
            entry.call = Some(handle);
        }
        Ok(())
    }

    fn serve_in_dialog(
        &mut self,
        now: Instant,
        handle: CallHandle,
        server: ServerId,
        request: &Request,
    ) {
        match request.method {
            Method::Bye => self.on_bye(now, handle, server),
            Method::Prack => self.on_prack(now, handle, server, request),
            Method::Update => self.on_update(now, handle, server, request),
            Method::Invite => self.on_reinvite(now, handle, server, request),
            Method::Info => {
                if let Err(refusal) = check::info(&request.headers, &request.body) {
                    return self.refuse(now, server, refusal);
                }
                let identity = self.identity(handle);
                self.respond(now, server, Reply::new(StatusCode::OK).with_all(identity));
                let content_type = request
                    .headers
                    .get(&HeaderName::ContentType)
                    .map(|value| value.to_str_lossy().into_owned());
                self.event(Event::Info {
                    call: handle,
                    content_type: content_type.unwrap_or_default(),
                    body: request.body.clone(),
                });
            }
            _ => drop(self.respond(now, server, receive::capabilities())),
        }
    }

    fn identity(&self, handle: CallHandle) -> Vec<(HeaderName, HeaderValue)> {
        self.calls
            .get(&handle)
            .map(|call| call.identity())
            .unwrap_or_default()
    }

    /// BYE (RFC 3261 section 15.1.2). An INVITE not answered yet gets 487.
    fn on_bye(&mut self, now: Instant, handle: CallHandle, server: ServerId) {
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        if matches!(call.phase, Phase::Calling(_)) {
            // Only the caller may end an early dialog by BYE.
            return self.refuse(
                now,
                server,
                Refusal::new(StatusCode::CALL_DOES_NOT_EXIST, "bye_in_early_dialog"),
            );
        }
        let identity = call.identity();
        call.unacked = None;
        call.farewell = None;
        let (end, invite) = match &call.phase {
            Phase::Deciding { invite, .. }
            | Phase::Reliable { invite, .. }
            | Phase::Pracked { invite, .. } => (DialogEnd::Cancelled, Some(*invite)),
            _ => (DialogEnd::ByeReceived, None),
        };
        self.respond(now, server, Reply::new(StatusCode::OK).with_all(identity));
        if let Some(invite) = invite {
            self.respond(now, invite, Reply::new(StatusCode::REQUEST_TERMINATED));
        }
        self.end_call(now, handle, end);
    }

    /// UPDATE (RFC 3311 section 5.2).
    fn on_update(&mut self, now: Instant, handle: CallHandle, server: ServerId, request: &Request) {
        let checked = check::description(&request.headers, &request.body)
            .and_then(|offer| Ok((offer, self.grant(&request.headers)?)));
        let (offer, session) = match checked {
            Ok(checked) => checked,
            Err(refusal) => return self.refuse(now, server, refusal),
        };
        let retry_after = self.random_secs(10);
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        if offer.is_some() {
            if let Some(refusal) = glare(call, retry_after) {
                return self.refuse(now, server, refusal);
            }
            return self.ask_application(now, handle, server, request, offer, session);
        }
        refresh_target(call, request);
        let established = matches!(call.phase, Phase::Established);
        let session = session.filter(|_| established);
        if let Some(grant) = session {
            call.session = Some(SessionTimer::agreed(now, grant.header, false));
        }
        let reply = Reply::new(StatusCode::OK)
            .with_all(uas::call_headers(call))
            .with_all(uas::session_headers(session));
        self.respond(now, server, reply);
    }

    /// A re-INVITE (RFC 3261 section 14.2).
    fn on_reinvite(
        &mut self,
        now: Instant,
        handle: CallHandle,
        server: ServerId,
        request: &Request,
    ) {
        let checked = check::description(&request.headers, &request.body)
            .and_then(|offer| Ok((offer, self.grant(&request.headers)?)));
        let (offer, session) = match checked {
            Ok(checked) => checked,
            Err(refusal) => return self.refuse(now, server, refusal),
        };
        let retry_after = self.random_secs(10);
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        if let Some(refusal) = glare(call, retry_after) {
            return self.refuse(now, server, refusal);
        }
        // The peer has our last 2xx, or it would not begin anew: its ACK was lost (RFC 5407 section 3.1.4).
        if let Some(unacked) = call.unacked.take() {
            self.count("ack_implied");
            self.after_ack(now, handle, &unacked, None);
        }
        self.respond(now, server, Reply::new(StatusCode::TRYING));
        self.ask_application(now, handle, server, request, offer, session);
    }

    /// Puts a request of the peer before the application.
    pub(super) fn ask_application(
        &mut self,
        now: Instant,
        handle: CallHandle,
        server: ServerId,
        request: &Request,
        offer: Option<Bytes>,
        session: Option<SessionGrant>,
    ) {
        let id = OfferId(self.next_id());
        let limit = now + self.config.decision_limit.min(self.timing().timeout());
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        call.pending = Some(Box::new(Pending {
            id,
            server,
            method: request.method.clone(),
            cseq: request.headers.cseq().map_or(0, |cseq| cseq.number),
            offered: offer.is_some(),
            session,
            target: dialog::contact_uri(&request.headers),
            limit,
        }));
        self.event(Event::Offer {
            call: handle,
            id,
            offer,
        });
    }

    /// The application accepts an offer of the peer.
    pub(super) fn accept_pending(
        &mut self,
        now: Instant,
        handle: CallHandle,
        id: OfferId,
        description: Bytes,
    ) -> Result<(), CommandError> {
        let call = self.live_call(handle)?;
        let pending = call
            .pending
            .take_if(|pending| pending.id == id)
            .ok_or(CommandError::WrongState)?;
        call.description = Some(description.clone());
        if let (Some(dialog), Some(target)) = (&mut call.dialog, pending.target) {
            dialog.set_target(target);
        }
        if let Some(grant) = pending.session {
            call.session = Some(SessionTimer::agreed(now, grant.header, false));
        }
        let reply = Reply::new(StatusCode::OK)
            .with_all(uas::call_headers(call))
            .with_all(uas::session_headers(pending.session))
            .with_description(Some(description));
        if pending.method == Method::Invite {
            self.respond_until_ack(
                now,
                handle,
                pending.server,
                pending.cseq,
                reply,
                !pending.offered,
            );
        } else {
            self.respond(now, pending.server, reply);
            self.after_prack(now, handle);
        }
        Ok(())
    }

    /// The application refuses an offer of the peer, or did not decide in time.
    pub(super) fn reject_pending(
        &mut self,
        now: Instant,
        handle: CallHandle,
        id: OfferId,
        status: StatusCode,
    ) -> Result<(), CommandError> {
        let call = self.live_call(handle)?;
        let pending = call
            .pending
            .take_if(|pending| pending.id == id)
            .ok_or(CommandError::WrongState)?;
        let identity = call.identity();
        self.respond(now, pending.server, Reply::new(status).with_all(identity));
        self.after_prack(now, handle);
        Ok(())
    }

    /// Accepts the INVITE if only the offer in a PRACK was in the way.
    fn after_prack(&mut self, now: Instant, handle: CallHandle) {
        let Some(call) = self.calls.get(&handle) else {
            return;
        };
        if let Phase::Pracked { invite, setup } = &call.phase {
            let (invite, setup) = (*invite, setup.clone());
            self.accept_invite(now, handle, invite, &setup, None);
        }
    }
}

/// Offers that cross each other (RFC 3261 section 14.2, RFC 3311 section 5.2): 500 while one of the peer
/// is undecided, 491 while one of ours is.
fn glare(call: &Call, retry_after: u32) -> Option<Refusal> {
    let undecided = call.pending.is_some()
        || matches!(
            call.phase,
            Phase::Deciding { .. } | Phase::Reliable { .. } | Phase::Pracked { .. }
        );
    if undecided {
        let refusal = Refusal::new(StatusCode::SERVER_INTERNAL_ERROR, "offer_before_answer");
        return Some(refusal.with(HeaderName::RetryAfter, retry_after.to_string()));
    }
    let ours = call.own.is_some()
        || call
            .unacked
            .as_ref()
            .is_some_and(|unacked| unacked.wants_answer)
        || matches!(call.phase, Phase::Calling(_) | Phase::Answered { .. });
    ours.then(|| Refusal::new(StatusCode::REQUEST_PENDING, "offer_glare"))
}

fn refresh_target(call: &mut Call, request: &Request) {
    if let (Some(dialog), Some(target)) = (&mut call.dialog, dialog::contact_uri(&request.headers))
    {
        dialog.set_target(target);
    }
}
