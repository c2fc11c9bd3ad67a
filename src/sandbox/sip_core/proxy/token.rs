//! What we put into messages to find it again: sealed, so that nobody can make one.

use aws_lc_rs::hmac;

use crate::sandbox::sip_core::proxy::Proxy;
use crate::sip::flow::Flow;
use crate::sip::header::Via;
use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Request;
use crate::sip::message::Uri;

/// Sixteen hex digits over `parts`, which nobody can make without `secret`.
pub(super) fn seal(secret: &[u8; 32], parts: &[&[u8]]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut context = hmac::Context::with_key(&key);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let tag = context.sign();
    let bytes = tag.as_ref().iter().take(8);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

impl Proxy {
    /// The user part of our Record-Route on the side that `flow` leads to: the connection, sealed for this call.
    /// Requests of the dialog find their way by it, and nobody else is let through (RFC 5626 section 5.2).
    pub(super) fn route_user(&self, request: &Request, flow: Flow) -> String {
        let connection = format!("{:x}", flow.connection);
        let seal = seal(
            &self.secret,
            &[b"route", call_id(request), connection.as_bytes()],
        );
        format!("{connection}-{seal}")
    }

    /// The connection that a Record-Route of ours names, in a request of the same call. 0 is UDP.
    pub(super) fn routed_connection(&self, request: &Request, uri: &Uri) -> Option<u64> {
        let (connection, given) = uri.user.as_deref()?.split_once('-')?;
        let expected = seal(
            &self.secret,
            &[b"route", call_id(request), connection.as_bytes()],
        );
        let genuine = subtle::ConstantTimeEq::ct_eq(expected.as_bytes(), given.as_bytes());
        bool::from(genuine).then(|| u64::from_str_radix(connection, 16).ok())?
    }

    /// A To tag that is the same for each retransmission of a request, without memory.
    pub(super) fn stateless_tag(&self, request: &Request, via: &Via) -> String {
        let branch = via.branch().unwrap_or_default();
        seal(&self.secret, &[b"tag", branch.as_bytes(), call_id(request)])
    }

    /// What tells a loop from a spiral (RFC 5393 section 4.2): everything that the way of a request depends on.
    pub(super) fn loop_hash(&self, request: &Request) -> String {
        let uri = request.uri.to_string();
        let value = |name| {
            let value = request.headers.get(&name);
            value.map(HeaderValue::as_bytes).unwrap_or_default()
        };
        let mut parts: Vec<&[u8]> = vec![
            b"loop",
            uri.as_bytes(),
            call_id(request),
            value(HeaderName::From),
            value(HeaderName::To),
            value(HeaderName::CSeq),
            value(HeaderName::ProxyRequire),
        ];
        let routes: Vec<_> = request.headers.list(&HeaderName::Route).collect();
        parts.extend(routes);
        seal(&self.secret, &parts)
    }
}

pub(super) fn call_id(request: &Request) -> &[u8] {
    let call_id = request.headers.get(&HeaderName::CallId);
    call_id.map(HeaderValue::as_bytes).unwrap_or_default()
}
