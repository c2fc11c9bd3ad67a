//! Outgoing calls: the INVITE, its responses, ACK and CANCEL.

use std::time::Instant;

use bytes::Bytes;

use crate::sip::dialog;
use crate::sip::dialog::Dialog;
use crate::sip::dialog::SessionId;
use crate::sip::dialog::session_timer::SessionTimer;
use crate::sip::endpoint::Endpoint;
use crate::sip::endpoint::api::CallHandle;
use crate::sip::endpoint::api::CommandError;
use crate::sip::endpoint::api::DialogEnd;
use crate::sip::endpoint::api::Event;
use crate::sip::endpoint::api::OutgoingRequest;
use crate::sip::endpoint::call::Call;
use crate::sip::endpoint::call::Calling;
use crate::sip::endpoint::call::Cancel;
use crate::sip::endpoint::call::Early;
use crate::sip::endpoint::call::Phase;
use crate::sip::endpoint::check;
use crate::sip::endpoint::client::Answer;
use crate::sip::endpoint::client::ClientId;
use crate::sip::endpoint::client::ClientRequest;
use crate::sip::endpoint::client::Outcome;
use crate::sip::endpoint::client::Purpose;
use crate::sip::endpoint::lone;
use crate::sip::header::NameAddr;
use crate::sip::message::HeaderName;
use crate::sip::message::Method;
use crate::sip::message::Request;
use crate::sip::message::Response;
use crate::sip::message::StatusCode;

/// Dialogs that one INVITE may make at forking proxies.
const MAX_FORKS: usize = 8;
/// How often a demand for a longer session interval or for credentials is followed.
const MAX_RETRIES: u8 = 5;

impl Endpoint {
    /// Sends the INVITE of a new call.
    pub(super) fn place_call(
        &mut self,
        now: Instant,
        mut outgoing: OutgoingRequest,
    ) -> Result<CallHandle, CommandError> {
        if self.calls.len() >= self.config.max_calls
            || self.clients.len() >= self.config.max_transactions
        {
            return Err(CommandError::Full);
        }
        let handle = CallHandle(self.next_id());
        let local_tag = self.random_tag();
        let next_hop = outgoing
            .route
            .clone()
            .unwrap_or_else(|| outgoing.target.clone());
        let description = outgoing.offer.clone();
        let credentials = outgoing.credentials.take();
        let invite = self.build_invite(outgoing, &local_tag);
        let invite = self.request(now, Some(handle), Purpose::Invite, invite, &next_hop, None);
        let calling = Calling {
            invite,
            offered: description.is_some(),
            cancel: Cancel::No,
            limit: now + self.config.decision_limit,
            early: Vec::new(),
            retries: 0,
            credentials,
        };
        self.by_tag.insert(local_tag.clone(), handle);
        let mut call = Call::new(None, local_tag, Phase::Calling(calling));
        call.description = description;
        self.calls.insert(handle, Box::new(call));
        self.settle_call(handle);
        Ok(handle)
    }

    fn build_invite(&mut self, outgoing: OutgoingRequest, local_tag: &str) -> Request {
        let from = outgoing.from.unwrap_or_else(|| self.config.uri.clone());
        let to = outgoing.to.unwrap_or_else(|| outgoing.target.clone());
        let call_id = outgoing.call_id.unwrap_or_else(|| self.random_id());
        let session_id = SessionId::new(self.random_id());
        let mut request = Request::new(Method::Invite, outgoing.target);
        let headers = &mut request.headers;
        if let Some(route) = outgoing.route {
            headers.push(HeaderName::Route, format!("<{route}>"));
        }
        headers.push(HeaderName::MaxForwards, "70");
        headers.push(
            HeaderName::From,
            NameAddr::new(from).with_tag(local_tag).to_string(),
        );
        headers.push(HeaderName::To, NameAddr::new(to).to_string());
        headers.push(HeaderName::CallId, call_id);
        headers.push(HeaderName::CSeq, "1 INVITE");
        headers.push(HeaderName::Allow, check::ALLOW);
        let reliable = outgoing.offer.is_some()
            && (outgoing.reliable_provisional || outgoing.require_reliable);
        headers.push(
            HeaderName::Supported,
            if reliable { "100rel, timer" } else { "timer" },
        );
        if reliable && outgoing.require_reliable {
            headers.push(HeaderName::Require, "100rel");
        }
        headers.push(
            HeaderName::SessionExpires,
            self.session_limits().preferred.to_string(),
        );
        headers.push(HeaderName::SessionId, session_id.value());
        headers.push(HeaderName::UserAgent, &*self.config.product);
        for (name, value) in outgoing.headers {
            headers.push(name, value);
        }
        if let Some(offer) = outgoing.offer {
            request
                .headers
                .push(HeaderName::ContentType, "application/sdp");
            request.body = offer;
        }
        request
    }

    /// Something came of the INVITE of an outgoing call.
    pub(super) fn on_invite_outcome(&mut self, now: Instant, id: ClientId, outcome: Outcome) {
        let handle = self.clients.get(id).and_then(|entry| entry.call);
        match outcome {
            Outcome::Response(response) if response.status.is_success() => {
                self.on_success(now, id, *response);
            }
            Outcome::Response(response) => {
                let Some(handle) = handle.filter(|handle| self.calling(*handle, id).is_some())
                else {
                    return;
                };
                if response.status.is_provisional() {
                    self.on_provisional(now, handle, id, &response);
                } else {
                    self.on_failure(now, handle, id, response);
                }
            }
            Outcome::Timeout => self.end_calling(now, handle, id, DialogEnd::Timeout),
            Outcome::Unreachable => self.end_calling(now, handle, id, DialogEnd::TransportFailed),
        }
        if let Some(handle) = handle {
            self.settle_call(handle);
        }
    }

    /// The state of a call whose INVITE this is.
    fn calling(&mut self, handle: CallHandle, id: ClientId) -> Option<&mut Calling> {
        match &mut self.calls.get_mut(&handle)?.phase {
            Phase::Calling(calling) if calling.invite == id => Some(calling),
            _ => None,
        }
    }

    fn end_calling(
        &mut self,
        now: Instant,
        handle: Option<CallHandle>,
        id: ClientId,
        end: DialogEnd,
    ) {
        let Some(handle) = handle else { return };
        let Some(calling) = self.calling(handle, id) else {
            return;
        };
        let end = if calling.cancel == Cancel::No {
            end
        } else {
            DialogEnd::Cancelled
        };
        self.end_call(now, handle, end);
    }

    fn on_provisional(
        &mut self,
        now: Instant,
        handle: CallHandle,
        id: ClientId,
        response: &Response,
    ) {
        let wanted = self
            .calling(handle, id)
            .is_some_and(|calling| calling.cancel == Cancel::Wanted);
        if wanted
            && self.cancel_invite(now, id)
            && let Some(calling) = self.calling(handle, id)
        {
            calling.cancel = Cancel::Sent;
        }
        if response.status != StatusCode::TRYING
            && !self.acknowledge_provisional(now, handle, id, response)
        {
            return;
        }
        let description = check::description(&response.headers, &response.body)
            .ok()
            .flatten();
        self.event(Event::Progress {
            call: handle,
            status: response.status,
            description,
        });
    }

    /// Keeps the early dialog and sends PRACK for a reliable response (RFC 3262 section 4). Whether the
    /// response is news.
    fn acknowledge_provisional(
        &mut self,
        now: Instant,
        handle: CallHandle,
        id: ClientId,
        response: &Response,
    ) -> bool {
        let Some(entry) = self.clients.get(id) else {
            return false;
        };
        let (invite, flow) = (entry.request.clone(), entry.flow());
        let Some(tag) = response.headers.get(&HeaderName::To).and_then(dialog::tag) else {
            return true;
        };
        let Some(calling) = self.calling(handle, id) else {
            return false;
        };
        let known = calling
            .early
            .iter()
            .position(|early| early.dialog.remote_tag() == &*tag);
        let at = known.unwrap_or(calling.early.len());
        if known.is_none() {
            let Ok(dialog) = Dialog::from_response(&invite, response) else {
                return true;
            };
            if calling.early.len() >= MAX_FORKS {
                self.count("too_many_forks");
                return false;
            }
            calling.early.push(Early { dialog, rseq: None });
        }
        let Some(early) = calling.early.get_mut(at) else {
            return false;
        };
        let rseq = response
            .headers
            .rseq()
            .filter(|_| response.headers.has_token(&HeaderName::Require, "100rel"));
        let Some(rseq) = rseq else { return true };
        if early
            .rseq
            .is_some_and(|last| Some(rseq) != last.checked_add(1))
        {
            return false;
        }
        early.rseq = Some(rseq);
        let mut prack = early.dialog.request(Method::Prack);
        let cseq = response.headers.cseq().map_or(0, |cseq| cseq.number);
        prack
            .headers
            .push(HeaderName::RAck, format!("{rseq} {cseq} INVITE"));
        let next_hop = early.dialog.next_hop().clone();
        self.request(now, Some(handle), Purpose::Alone, prack, &next_hop, flow);
        true
    }

    /// The INVITE was refused. 422 is followed (RFC 4028 section 7.3), 401 and 407 are answered.
    fn on_failure(
        &mut self,
        now: Instant,
        handle: CallHandle,
        id: ClientId,
        response: Box<Response>,
    ) {
        let Some(calling) = self.calling(handle, id) else {
            return;
        };
        if calling.cancel == Cancel::No && calling.retries < MAX_RETRIES {
            let credentials = calling.credentials.clone();
            let invite = self.clients.get(id).map(|entry| entry.request.clone());
            let again = invite.and_then(|invite| match response.headers.min_se() {
                Some(min_se) if response.status == StatusCode::SESSION_INTERVAL_TOO_SMALL => {
                    Some(with_longer_session(&invite, min_se))
                }
                _ => self.authorized(&invite, &response, credentials.as_ref()),
            });
            if let Some(again) = again {
                return self.invite_again(now, handle, id, again);
            }
        }
        self.end_calling(now, Some(handle), id, DialogEnd::Refused(response));
    }

    fn invite_again(&mut self, now: Instant, handle: CallHandle, id: ClientId, invite: Request) {
        let flow = self.clients.get(id).and_then(ClientRequest::flow);
        let next_hop = lone::next_hop(&invite);
        let again = self.request(now, Some(handle), Purpose::Invite, invite, &next_hop, flow);
        if let Some(calling) = self.calling(handle, id) {
            calling.invite = again;
            calling.retries += 1;
            calling.early.clear();
        }
    }

    /// A 2xx to the INVITE of an outgoing call: the first, the same again, or that of another fork.
    fn on_success(&mut self, now: Instant, id: ClientId, response: Response) {
        let Some(tag) = self.new_answer(id, &response) else {
            return;
        };
        let Some(entry) = self.clients.get(id) else {
            return;
        };
        let (invite, flow, handle) = (entry.request.clone(), entry.flow(), entry.call);
        let cseq = invite.headers.cseq().map_or(0, |cseq| cseq.number);
        let Ok(mut dialog) = Dialog::from_response(&invite, &response) else {
            self.count("answer_malformed");
            return self.end_calling(now, handle, id, DialogEnd::TransportFailed);
        };
        let Some(handle) = handle.filter(|handle| self.calling(*handle, id).is_some()) else {
            return self.decline_fork(now, id, &mut dialog, cseq, tag);
        };
        let Some(call) = self.calls.get_mut(&handle) else {
            return;
        };
        let Phase::Calling(calling) = std::mem::replace(&mut call.phase, Phase::Established) else {
            return;
        };
        if let Some(early) = calling
            .early
            .iter()
            .find(|early| early.dialog.remote_tag() == &*tag)
        {
            dialog.continue_from(&early.dialog);
        }
        call.flow = flow;
        call.dialog = Some(dialog);
        call.learn_peer(&response.headers);
        call.session = response
            .headers
            .session_expires()
            .map(|header| SessionTimer::agreed(now, header, true));
        if !calling.offered && calling.cancel == Cancel::No {
            call.phase = Phase::Answered {
                invite: id,
                cseq,
                tag,
                limit: now + self.config.t1.saturating_mul(64),
            };
        } else {
            call.confirmed = true;
            self.acknowledge_answer(now, handle, id, cseq, tag, None);
        }
        if calling.cancel != Cancel::No {
            return self.hang_up(now, handle, DialogEnd::Cancelled, None);
        }
        let description = check::description(&response.headers, &response.body)
            .ok()
            .flatten();
        self.event(Event::Answered {
            call: handle,
            description,
            offer_made: calling.offered,
            response: Box::new(response),
        });
    }

    /// Notes a 2xx by its To tag. One that came before has its ACK repeated, and is no news.
    pub(super) fn new_answer(&mut self, id: ClientId, response: &Response) -> Option<Box<str>> {
        let tag = response
            .headers
            .get(&HeaderName::To)
            .and_then(dialog::tag)
            .unwrap_or_default();
        let entry = self.clients.get_mut(id)?;
        if let Some(answer) = entry.answers.iter().find(|answer| answer.tag == tag) {
            let ack = answer.ack.clone();
            self.count("answer_repeated");
            if let Some((flow, bytes)) = ack {
                self.send(flow, bytes);
            }
            return None;
        }
        if entry.answers.len() >= MAX_FORKS {
            self.count("too_many_forks");
            return None;
        }
        entry.answers.push(Answer {
            tag: tag.clone(),
            ack: None,
        });
        Some(tag)
    }

    /// Sends the ACK to a 2xx, with our answer where the offer was the peer's.
    pub(super) fn acknowledge_answer(
        &mut self,
        now: Instant,
        handle: CallHandle,
        invite: ClientId,
        cseq: u32,
        tag: Box<str>,
        answer: Option<Bytes>,
    ) {
        let Some(call) = self.calls.get(&handle) else {
            return;
        };
        let Some(dialog) = &call.dialog else { return };
        let mut ack = dialog.ack(cseq);
        if let Some(answer) = answer {
            ack.headers.push(HeaderName::ContentType, "application/sdp");
            ack.body = answer;
        }
        let (next_hop, flow) = (dialog.next_hop().clone(), call.flow);
        self.request(
            now,
            Some(handle),
            Purpose::Ack { invite, tag },
            ack,
            &next_hop,
            flow,
        );
    }

    /// Another fork answered too, or the call is over: ACK and BYE (RFC 3261 section 13.2.2.4).
    fn decline_fork(
        &mut self,
        now: Instant,
        invite: ClientId,
        dialog: &mut Dialog,
        cseq: u32,
        tag: Box<str>,
    ) {
        self.count("fork_declined");
        let flow = self.clients.get(invite).and_then(ClientRequest::flow);
        let next_hop = dialog.next_hop().clone();
        let ack = dialog.ack(cseq);
        self.request(
            now,
            None,
            Purpose::Ack { invite, tag },
            ack,
            &next_hop,
            flow,
        );
        let bye = dialog.request(Method::Bye);
        self.request(now, None, Purpose::Alone, bye, &next_hop, flow);
    }

    /// The application answers the offer in the 2xx.
    pub(super) fn answer_late_offer(
        &mut self,
        now: Instant,
        handle: CallHandle,
        answer: Option<Bytes>,
    ) -> Result<(), CommandError> {
        let call = self.live_call(handle)?;
        let Phase::Answered {
            invite, cseq, tag, ..
        } = &call.phase
        else {
            return Err(CommandError::WrongState);
        };
        let (invite, cseq, tag) = (*invite, *cseq, tag.clone());
        call.phase = Phase::Established;
        call.confirmed = true;
        call.description = answer.clone();
        self.acknowledge_answer(now, handle, invite, cseq, tag, answer);
        Ok(())
    }

    /// Cancels an outgoing call: at once, or when the first provisional response has come.
    pub(super) fn cancel_call(&mut self, now: Instant, handle: CallHandle, id: ClientId) {
        if self.withdraw_invite(id) {
            return self.end_call(now, handle, DialogEnd::Cancelled);
        }
        let sent = self.cancel_invite(now, id);
        if let Some(calling) = self.calling(handle, id) {
            calling.cancel = if sent { Cancel::Sent } else { Cancel::Wanted };
        }
    }
}

/// The same INVITE, which asks for a session of at least so many seconds.
fn with_longer_session(invite: &Request, min_se: u32) -> Request {
    let mut invite = invite.clone();
    let headers = &mut invite.headers;
    let number = headers
        .cseq()
        .map_or(1, |cseq| cseq.number.saturating_add(1));
    headers.set(HeaderName::CSeq, format!("{number} INVITE"));
    let asked = headers.session_expires().map_or(0, |header| header.seconds);
    let seconds = asked.max(min_se).to_string();
    headers.set(HeaderName::SessionExpires, seconds);
    headers.set(HeaderName::MinSe, min_se.to_string());
    invite
}
