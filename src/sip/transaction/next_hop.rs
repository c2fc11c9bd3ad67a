//! Where a request goes: RFC 3263 for a URI, as far as it goes without a lookup.

use std::net::SocketAddr;

use crate::sip::flow::Flow;
use crate::sip::flow::Hop;
use crate::sip::flow::OpenFlows;
use crate::sip::flow::Target;
use crate::sip::flow::Transport;
use crate::sip::message::Host;
use crate::sip::message::Scheme;
use crate::sip::message::Uri;

/// How to reach a URI.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// On this connection.
    Flow(Flow),
    /// At this address.
    Hop(Hop),
    /// At an address that must be looked up.
    Lookup(Target),
    /// In no way that we know.
    None,
}

impl Way {
    /// The way to a URI. RFC 5923: the connection of `hint`, while it is open, is used where the URI names its
    /// address, or a name.
    pub(crate) fn to(uri: &Uri, hint: Option<Flow>, flows: &OpenFlows) -> Self {
        let secure = uri.scheme == Scheme::Sips;
        let named = uri.params.value("transport").map(Transport::from_name);
        let transport = match named {
            Some(None) => return Self::None,
            Some(Some(named)) if secure && named.is_websocket() => Some(Transport::Wss),
            _ if secure => Some(Transport::Tls),
            Some(named) => named,
            None => None,
        };
        let host = uri
            .params
            .value("maddr")
            .and_then(Host::parse)
            .unwrap_or_else(|| uri.host.clone());
        // The parameter of a WebSocket does not tell whether it is inside TLS, and a `sips:` URI need not have one.
        let serves = |flow: &Flow, wanted: Transport| {
            flow.transport == wanted
                || flow.transport == Transport::Wss && (wanted == Transport::Ws || named.is_none())
        };
        let usable = |flow: &Flow| {
            flow.transport.is_reliable()
                && flows.is_open(*flow)
                && transport.is_none_or(|wanted| serves(flow, wanted))
                && match &host {
                    // Nothing but its own connection leads to a browser, whatever address it makes up.
                    Host::Ip(_) if transport.is_some_and(Transport::is_websocket) => true,
                    Host::Ip(ip) => *ip == flow.remote.ip(),
                    Host::Name(_) => true,
                }
        };
        if let Some(flow) = hint.filter(usable) {
            return Self::Flow(flow);
        }
        match host {
            Host::Ip(ip) => {
                let transport = transport.unwrap_or(Transport::Udp);
                let port = uri.port.unwrap_or_else(|| transport.default_port());
                Self::Hop(Hop {
                    transport,
                    remote: SocketAddr::new(ip, port),
                })
            }
            Host::Name(name) if is_looked_up(&name) => Self::Lookup(Target {
                host: name.into(),
                port: uri.port,
                transport,
                secure,
            }),
            Host::Name(_) => Self::None,
        }
    }
}

/// Whether a name can be one of the DNS. Browsers call themselves something under `invalid` (RFC 7118 section 5),
/// which never is (RFC 6761 section 6.4).
fn is_looked_up(name: &str) -> bool {
    let last = name.trim_end_matches('.').rsplit('.').next();
    last.is_some_and(|last| !last.is_empty() && !last.eq_ignore_ascii_case("invalid"))
}
