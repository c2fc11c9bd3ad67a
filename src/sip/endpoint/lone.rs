//! Our own requests outside of calls: REGISTER and the like; and the answers to 401 and 407.

use std::sync::Arc;
use std::time::Instant;

use crate::sip::digest::Challenge;
use crate::sip::digest::Credentials;
use crate::sip::endpoint::Endpoint;
use crate::sip::endpoint::api::CommandError;
use crate::sip::endpoint::api::Event;
use crate::sip::endpoint::api::LoneReply;
use crate::sip::endpoint::api::LoneRequest;
use crate::sip::endpoint::api::RequestHandle;
use crate::sip::endpoint::client::ClientId;
use crate::sip::endpoint::client::ClientRequest;
use crate::sip::endpoint::client::Outcome;
use crate::sip::endpoint::client::Purpose;
use crate::sip::header::NameAddr;
use crate::sip::message::HeaderName;
use crate::sip::message::Request;
use crate::sip::message::Response;
use crate::sip::message::Uri;

/// How often a challenge is answered: by a proxy and by the server, and once more each where a nonce was too old.
const MAX_ANSWERS: u8 = 4;

/// A request outside of calls that waits for its final response.
#[derive(Debug)]
pub(super) struct Lone {
    handle: RequestHandle,
    credentials: Option<Credentials>,
    answers: u8,
}

impl Endpoint {
    /// Sends a request of its own.
    pub(super) fn place_request(
        &mut self,
        now: Instant,
        lone: LoneRequest,
    ) -> Result<RequestHandle, CommandError> {
        if self.clients.len() >= self.config.max_transactions {
            return Err(CommandError::Full);
        }
        let handle = RequestHandle(self.next_id());
        let mut request = Request::new(lone.method, lone.target);
        let headers = &mut request.headers;
        if let Some(route) = lone.route {
            headers.push(HeaderName::Route, format!("<{route}>"));
        }
        let from = NameAddr::new(lone.from).with_tag(&self.random_tag());
        headers.push(HeaderName::MaxForwards, "70");
        headers.push(HeaderName::From, from.to_string());
        headers.push(HeaderName::To, NameAddr::new(lone.to).to_string());
        headers.push(HeaderName::CallId, lone.call_id);
        let cseq = format!("{} {}", lone.cseq, request.method);
        headers.push(HeaderName::CSeq, cseq);
        headers.push(HeaderName::UserAgent, &*self.config.product);
        for (name, value) in lone.headers {
            headers.push(name, value);
        }
        let next_hop = next_hop(&request);
        let id = self.request(now, None, Purpose::Lone, request, &next_hop, None);
        let lone = Lone {
            handle,
            credentials: lone.credentials,
            answers: 0,
        };
        self.lone.insert(id, lone);
        Ok(handle)
    }

    /// Something came of a request outside of calls.
    pub(super) fn on_lone_outcome(&mut self, now: Instant, id: ClientId, outcome: Outcome) {
        if matches!(&outcome, Outcome::Response(response) if response.status.is_provisional()) {
            return;
        }
        let Some(mut lone) = self.lone.remove(&id) else {
            return;
        };
        let Some(request) = self.clients.get(id).map(|entry| entry.request.clone()) else {
            return;
        };
        if let Outcome::Response(response) = &outcome
            && lone.answers < MAX_ANSWERS
            && let Some(again) = self.authorized(&request, response, lone.credentials.as_ref())
        {
            lone.answers += 1;
            let flow = self.clients.get(id).and_then(ClientRequest::flow);
            let next_hop = next_hop(&again);
            let id = self.request(now, None, Purpose::Lone, again, &next_hop, flow);
            self.lone.insert(id, lone);
            return;
        }
        let reply = match outcome {
            Outcome::Response(response) => LoneReply::Response { response, request },
            Outcome::Timeout => LoneReply::Timeout,
            Outcome::Unreachable => LoneReply::Unreachable,
        };
        let request = lone.handle;
        self.event(Event::Replied { request, reply });
    }

    /// The same request with an answer to the challenge of a 401 or 407; `None` where there is nothing to answer, or
    /// an answer was given already and not for a stale nonce: the password is wrong.
    pub(super) fn authorized(
        &mut self,
        request: &Arc<Request>,
        response: &Response,
        credentials: Option<&Credentials>,
    ) -> Option<Request> {
        let credentials = credentials?;
        let (challenge, name) = Challenge::best_of(response.status, &response.headers)?;
        if request.headers.has(&name) && !challenge.stale {
            return None;
        }
        let cnonce = self.random_id();
        let uri = request.uri.to_string();
        let answer = credentials.answer(&challenge, &request.method, &uri, &cnonce, 1);
        let mut again = Request::clone(request);
        again.headers.set(name, answer.to_string());
        let number = again.headers.cseq()?.number.saturating_add(1);
        let cseq = format!("{number} {}", again.method);
        again.headers.set(HeaderName::CSeq, cseq);
        Some(again)
    }
}

/// The first Route, else the Request-URI.
pub(super) fn next_hop(request: &Request) -> Uri {
    let route = request.headers.addresses(&HeaderName::Route).next();
    route.map_or_else(|| request.uri.clone(), |route| route.uri)
}
