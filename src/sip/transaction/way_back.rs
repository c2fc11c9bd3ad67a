//! The way that responses take (RFC 3261 section 18.2).

use std::net::SocketAddr;

use crate::sip::flow::Flow;
use crate::sip::header::Via;
use crate::sip::message::Headers;
use crate::sip::message::Host;

/// Marks where a request really came from (RFC 3261 section 18.2.1, RFC 3581 section 4).
pub(crate) fn stamp(headers: &mut Headers, mut via: Via, flow: Flow) -> Via {
    let rport = via.params.has("rport");
    if rport {
        via.params
            .set("rport", Some(&flow.remote.port().to_string()));
    }
    if rport || via.host != Host::Ip(flow.remote.ip()) {
        via.params
            .set("received", Some(&flow.remote.ip().to_string()));
    }
    headers.set_top_via(&via);
    via
}

/// Where a response goes (section 18.2.2): the flow, and where to connect when the connection is gone.
/// The host of a `maddr` is not followed: responses go to whom the request came from. And where sent-by
/// is a name, or an address that the request did not come from, so is its port not: somebody between
/// has translated both, or nobody listens there.
pub(crate) fn way_back(via: &Via, flow: Flow) -> (Flow, SocketAddr) {
    let port = via.port.unwrap_or_else(|| flow.transport.default_port());
    let fallback = SocketAddr::new(flow.remote.ip(), port);
    let is_translated = via.host != Host::Ip(flow.remote.ip());
    if flow.transport.is_reliable() || via.params.has("rport") || is_translated {
        return (flow, fallback);
    }
    (
        Flow {
            remote: fallback,
            ..flow
        },
        fallback,
    )
}
