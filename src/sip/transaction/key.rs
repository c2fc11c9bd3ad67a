//! Which transaction a message belongs to (RFC 3261 sections 17.1.3, 17.2.3 and 8.2.2.2).

use crate::sip::header::MAGIC_COOKIE;
use crate::sip::header::Via;
use crate::sip::message::HeaderName;
use crate::sip::message::Method;
use crate::sip::message::Request;

/// Names a server transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerKey(Box<str>);

/// Names a request regardless of the way it came, to find merged ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MergeKey(Box<str>);

impl ServerKey {
    /// The transaction that `request` belongs to; for ACK and CANCEL that of the INVITE meant.
    ///
    /// With a branch of RFC 3261: branch, sent-by, method, and the call as well (Call-ID, CSeq number),
    /// since there are clients that use one branch for all their requests. Without (RFC 2543, or the
    /// bare cookie): Request-URI, From tag, Call-ID, CSeq number, top Via and method; the To tag is
    /// left out, since the ACK has one that the INVITE had not.
    pub fn new(request: &Request, via: &Via) -> Self {
        let method = match request.method {
            Method::Ack | Method::Cancel => &Method::Invite,
            ref method => method,
        };
        Self::with_method(request, via, method)
    }

    /// The transaction of a CANCEL itself.
    pub fn of_cancel(request: &Request, via: &Via) -> Self {
        Self::with_method(request, via, &Method::Cancel)
    }

    fn with_method(request: &Request, via: &Via, method: &Method) -> Self {
        let host = via.host.to_string().to_ascii_lowercase();
        let port = via.port.unwrap_or_default();
        let branch = via.branch().unwrap_or_default();
        if via.has_magic_cookie() && branch.len() > MAGIC_COOKIE.len() {
            let call = call(request);
            return Self(format!("{branch} {host}:{port} {call} {method}").into());
        }
        // received and rport are our own additions, or differ between a request and its ACK.
        Self(
            format!(
                "{} {branch} {host}:{port} {} {method}",
                identity(request),
                request.uri
            )
            .into(),
        )
    }
}

impl MergeKey {
    /// From tag, Call-ID, CSeq number and method.
    pub fn new(request: &Request) -> Self {
        Self(format!("{} {}", identity(request), request.method).into())
    }
}

/// Call-ID, CSeq number and From tag. None of them holds a space, so no two requests share a text by chance.
fn identity(request: &Request) -> String {
    let from = request.headers.from();
    let tag = from
        .as_ref()
        .and_then(|from| from.tag())
        .unwrap_or_default();
    format!("{} {tag}", call(request))
}

/// Call-ID and CSeq number, which a request shares with its retransmissions, its ACK and its CANCEL.
fn call(request: &Request) -> String {
    let headers = &request.headers;
    let call_id = headers
        .get(&HeaderName::CallId)
        .map(|id| id.to_str_lossy())
        .unwrap_or_default();
    let cseq = headers.cseq().map_or(0, |cseq| cseq.number);
    format!("{call_id} {cseq}")
}
