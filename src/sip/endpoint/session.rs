//! Our own requests inside a call: new offers, session refreshes (RFC 4028), and the BYE.

use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;

use crate::sip::dialog;
use crate::sip::dialog::session_timer::SessionTimer;
use crate::sip::endpoint::Endpoint;
use crate::sip::endpoint::api::CallHandle;
use crate::sip::endpoint::api::CommandError;
use crate::sip::endpoint::api::DialogEnd;
use crate::sip::endpoint::api::Event;
use crate::sip::endpoint::call::Own;
use crate::sip::endpoint::call::Phase;
use crate::sip::endpoint::check;
use crate::sip::endpoint::client::ClientId;
use crate::sip::endpoint::client::Outcome;
use crate::sip::endpoint::client::Purpose;
use crate::sip::endpoint::server::Reply;
use crate::sip::header::Reason;
use crate::sip::header::Refresher;
use crate::sip::header::SessionExpires;
use crate::sip::message::HeaderName;
use crate::sip::message::Headers;
use crate::sip::message::Method;
use crate::sip::message::Response;
use crate::sip::message::StatusCode;

impl Endpoint {
    /// The application makes a new offer.
    pub(super) fn offer_again(
        &mut self,
        now: Instant,
        handle: CallHandle,
        description: Bytes,
    ) -> Result<(), CommandError> {
        let call = self.live_call(handle)?;
        if !matches!(call.phase, Phase::Established) {
            return Err(CommandError::WrongState);
        }
        if call.own.is_some() || call.pending.is_some() || call.unacked.is_some() {
            return Err(CommandError::OfferPending);
        }
        self.send_own(now, handle, Method::Invite, Some(description));
        Ok(())
    }

    /// Refreshes the session: by UPDATE without body where the peer takes it, else by a re-INVITE with the
    /// description it knows already.
    fn refresh(&mut self, now: Instant, handle: CallHandle) {
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        let Some(session) = &mut call.session else {
            return;
        };
        if call.own.is_some() || call.pending.is_some() || call.unacked.is_some() {
            session.retry_at(now + Duration::from_secs(1));
            return;
        }
        session.refresh_sent();
        let method = if call.peer_updates {
            Method::Update
        } else {
            Method::Invite
        };
        self.send_own(now, handle, method, None);
    }

    fn send_own(&mut self, now: Instant, handle: CallHandle, method: Method, offer: Option<Bytes>) {
        let preferred = self.session_limits().preferred;
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        let Some(dialog) = &mut call.dialog else {
            return;
        };
        let mut request = dialog.request(method.clone());
        let headers = &mut request.headers;
        headers.push(HeaderName::Allow, check::ALLOW);
        headers.push(HeaderName::Supported, check::SUPPORTED);
        headers.push(HeaderName::UserAgent, &*self.config.product);
        let (seconds, ours) = call.session.map_or((preferred, None), |session| {
            (session.secs(), Some(session.is_ours()))
        });
        let refresher = ours.map(|ours| if ours { Refresher::Uac } else { Refresher::Uas });
        headers.push(
            HeaderName::SessionExpires,
            SessionExpires { seconds, refresher }.to_string(),
        );
        if let Some(min_se) = call.min_se {
            headers.push(HeaderName::MinSe, min_se.to_string());
        }
        let body = offer
            .clone()
            .or_else(|| call.description.clone())
            .filter(|_| method == Method::Invite);
        if let Some(body) = body {
            request
                .headers
                .push(HeaderName::ContentType, "application/sdp");
            request.body = body;
        }
        let cseq = dialog.local_cseq();
        let (next_hop, flow) = (dialog.next_hop().clone(), call.flow);
        let client = self.request(now, Some(handle), Purpose::Own, request, &next_hop, flow);
        if let Some(call) = self.calls.get_mut(&handle) {
            call.own = Some(Box::new(Own {
                client,
                method,
                cseq,
                offer,
            }));
        }
    }

    /// Something came of a re-INVITE or UPDATE of ours.
    pub(super) fn on_own_outcome(&mut self, now: Instant, id: ClientId, outcome: Outcome) {
        let Some(handle) = self.clients.get(id).and_then(|entry| entry.call) else {
            return;
        };
        match outcome {
            Outcome::Response(response) if response.status.is_provisional() => {
                let limit = now + self.config.decision_limit;
                return self.limit_invite(now, id, limit);
            }
            Outcome::Response(response) if response.status.is_success() => {
                self.on_own_success(now, handle, id, &response);
            }
            Outcome::Response(response) => self.on_own_failure(
                now,
                handle,
                response.status,
                Some(&response),
                DialogEnd::PeerGone,
            ),
            Outcome::Timeout => self.on_own_failure(
                now,
                handle,
                StatusCode::REQUEST_TIMEOUT,
                None,
                DialogEnd::PeerGone,
            ),
            Outcome::Unreachable => self.on_own_failure(
                now,
                handle,
                StatusCode::REQUEST_TIMEOUT,
                None,
                DialogEnd::TransportFailed,
            ),
        }
        self.settle_call(handle);
    }

    fn on_own_success(
        &mut self,
        now: Instant,
        handle: CallHandle,
        id: ClientId,
        response: &Response,
    ) {
        let invite = self
            .clients
            .get(id)
            .is_some_and(|entry| entry.request.method == Method::Invite);
        let tag = match invite {
            true => match self.new_answer(id, response) {
                Some(tag) => Some(tag),
                None => return,
            },
            false => None,
        };
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        let Some(own) = call.own.take_if(|own| own.client == id) else {
            return;
        };
        if let (Some(dialog), Some(target)) =
            (&mut call.dialog, dialog::contact_uri(&response.headers))
        {
            dialog.set_target(target);
        }
        call.session = match (response.headers.session_expires(), call.session) {
            _ if call.is_closing() => None,
            (Some(header), _) => Some(SessionTimer::agreed(now, header, true)),
            (None, session) => {
                session.map(|session| SessionTimer::start(now, session.secs(), session.is_ours()))
            }
        };
        if let Some(offer) = &own.offer {
            call.description = Some(offer.clone());
        }
        let closing = call.is_closing();
        if let Some(tag) = tag {
            self.acknowledge_answer(now, handle, id, own.cseq, tag, None);
        }
        if own.offer.is_some() && !closing {
            let answer = check::description(&response.headers, &response.body)
                .ok()
                .flatten();
            self.event(Event::OfferAnswered {
                call: handle,
                answer: Ok(answer),
            });
        }
    }

    /// A refused offer leaves the session as it was; a refresh is tried again where that may help. An
    /// answer that shows that the peer has lost the call ends it (RFC 3261 section 12.2.1.2).
    fn on_own_failure(
        &mut self,
        now: Instant,
        handle: CallHandle,
        status: StatusCode,
        response: Option<&Response>,
        lost: DialogEnd,
    ) {
        let pause = self.glare_pause(handle);
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        let Some(own) = call.own.take() else { return };
        if call.is_closing() {
            return;
        }
        let gone = matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::CALL_DOES_NOT_EXIST
        );
        if own.offer.is_some() {
            self.event(Event::OfferAnswered {
                call: handle,
                answer: Err(status),
            });
            if gone {
                self.hang_up(now, handle, lost, None);
            }
            return;
        }
        if gone {
            let end = if lost == DialogEnd::TransportFailed {
                lost
            } else {
                DialogEnd::SessionExpired
            };
            return self.hang_up(now, handle, end, None);
        }
        let Some(session) = &mut call.session else {
            return;
        };
        let headers = response.map(|response| &response.headers);
        match status {
            StatusCode::SESSION_INTERVAL_TOO_SMALL => {
                if let Some(min_se) = headers
                    .and_then(Headers::min_se)
                    .filter(|min_se| *min_se > session.secs())
                {
                    call.min_se = Some(min_se);
                    session.lengthen(min_se);
                    self.refresh(now, handle);
                }
            }
            StatusCode::REQUEST_PENDING => session.retry_at(now + pause),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
                if own.method == Method::Update =>
            {
                call.peer_updates = false;
                self.refresh(now, handle);
            }
            _ => {
                if let Some(secs) = headers.and_then(Headers::retry_after) {
                    session.retry_at(now + Duration::from_secs(secs.max(1).into()));
                }
            }
        }
    }

    /// How long to wait after a 491 (RFC 3261 section 14.1): longer for who owns the Call-ID.
    fn glare_pause(&mut self, handle: CallHandle) -> Duration {
        let caller = self.calls.get(&handle).is_some_and(|call| call.placed);
        let tens = if caller {
            210 + self.random_below(190)
        } else {
            self.random_below(200)
        };
        Duration::from_millis(10 * u64::from(tens))
    }

    /// The session timer is due: refresh, or the end.
    pub(super) fn session_timeout(&mut self, now: Instant, handle: CallHandle) {
        let Some(call) = self.calls.get(&handle) else {
            return;
        };
        let Some(session) = call.session.filter(|_| !call.is_closing()) else {
            return;
        };
        if session.is_expired(now) {
            self.hang_up(now, handle, DialogEnd::SessionExpired, None);
        } else if session.is_refresh_due(now) {
            self.refresh(now, handle);
        }
    }

    /// Ends an established call by BYE; while our 2xx waits for its ACK, the BYE waits too (RFC 3261
    /// section 15).
    pub(super) fn hang_up(
        &mut self,
        now: Instant,
        handle: CallHandle,
        end: DialogEnd,
        reason: Option<Reason>,
    ) {
        let reason = reason.or_else(|| reason_of(&end));
        self.end_call(now, handle, end);
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        if call.unacked.is_some() {
            call.farewell = Some(reason);
        } else {
            self.send_bye(now, handle, reason);
        }
    }

    /// Sends the BYE.
    pub(super) fn send_bye(&mut self, now: Instant, handle: CallHandle, reason: Option<Reason>) {
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        let Some(dialog) = &mut call.dialog else {
            return;
        };
        let mut bye = dialog.request(Method::Bye);
        if let Some(reason) = reason {
            bye.headers.push(HeaderName::Reason, reason.to_string());
        }
        bye.headers
            .push(HeaderName::UserAgent, &*self.config.product);
        let (next_hop, flow) = (dialog.next_hop().clone(), call.flow);
        call.bye_sent = true;
        self.request(now, Some(handle), Purpose::Bye, bye, &next_hop, flow);
    }

    /// Tells the application of the end, once, and refuses what still waits for it.
    pub(super) fn end_call(&mut self, now: Instant, handle: CallHandle, end: DialogEnd) {
        let Some(call) = self
            .calls
            .get_mut(&handle)
            .filter(|call| !call.is_closing())
        else {
            return;
        };
        let pending = call.pending.take();
        let own = call.own.as_ref().map(|own| own.client);
        call.session = None;
        if matches!(call.phase, Phase::Answered { .. }) {
            // The 2xx is owed an ACK, even without answer.
            self.answer_late_offer(now, handle, None)
                .expect("the answer is awaited");
        }
        if let Some(call) = self.calls.get_mut(&handle) {
            call.phase = Phase::Closing;
        }
        if let Some(client) = own {
            let limit = now + self.timing().timeout();
            self.limit_invite(now, client, limit);
        }
        if let Some(pending) = pending {
            self.respond(
                now,
                pending.server,
                Reply::new(StatusCode::REQUEST_TERMINATED),
            );
        }
        self.event(Event::Ended { call: handle, end });
    }
}

/// What a BYE of our own accord tells (RFC 3326): as a status, what an INVITE would have got for it.
fn reason_of(end: &DialogEnd) -> Option<Reason> {
    let (status, text) = match end {
        DialogEnd::AckTimeout => (StatusCode::REQUEST_TIMEOUT, "no ACK"),
        DialogEnd::SessionExpired => (StatusCode::REQUEST_TIMEOUT, "session expired"),
        DialogEnd::PeerGone => (StatusCode::CALL_DOES_NOT_EXIST, "call lost"),
        DialogEnd::NoAnswer => (StatusCode::NOT_ACCEPTABLE_HERE, "no answer to the offer"),
        _ => return None,
    };
    Some(Reason::sip(status.code(), text))
}
