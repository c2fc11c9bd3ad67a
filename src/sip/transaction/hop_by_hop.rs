//! Requests that go no further than the next hop: CANCEL, and the ACK to a failure.

use bytes::Bytes;

use crate::sip::header::Via;
use crate::sip::message::HeaderName;
use crate::sip::message::Method;
use crate::sip::message::Request;
use crate::sip::message::Response;

/// The bytes of a request with this Via on top.
pub(crate) fn on_the_wire(request: &Request, via: &Via) -> Bytes {
    let mut request = request.clone();
    request.headers.push_front(HeaderName::Via, via.to_string());
    request.to_bytes()
}

/// The ACK to a failure (RFC 3261 section 17.1.1.3).
pub(crate) fn ack_to_failure(invite: &Request, via: &Via, response: &Response) -> Bytes {
    let mut ack = request(invite, Method::Ack);
    if let Some(to) = response.headers.get(&HeaderName::To) {
        ack.headers.set(HeaderName::To, to.clone());
    }
    on_the_wire(&ack, via)
}

/// ACK or CANCEL for the next hop alone: Request-URI, Route, From, To, Call-ID and CSeq number of the INVITE.
pub(crate) fn request(invite: &Request, method: Method) -> Request {
    let mut request = Request::new(method, invite.uri.clone());
    for name in [
        HeaderName::Route,
        HeaderName::MaxForwards,
        HeaderName::From,
        HeaderName::To,
        HeaderName::CallId,
        HeaderName::SessionId,
    ] {
        for value in invite.headers.all(&name) {
            request.headers.push(name.clone(), value.clone());
        }
    }
    let number = invite.headers.cseq().map_or(0, |cseq| cseq.number);
    let cseq = format!("{number} {}", request.method);
    request.headers.push(HeaderName::CSeq, cseq);
    request
}
