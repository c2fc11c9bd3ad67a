//! Our own addresses, as peers see them in Via and Record-Route.

use std::net::SocketAddr;

use crate::sip::flow::Flow;
use crate::sip::flow::Transport;
use crate::sip::flow::listener;
use crate::sip::header::Via;
use crate::sip::message::Host;
use crate::sip::message::Params;
use crate::sip::message::Uri;

/// The addresses that we listen on.
#[derive(Debug)]
pub(super) struct Addresses(Vec<(Transport, SocketAddr)>);

impl Addresses {
    pub(super) const fn new(listen: Vec<(Transport, SocketAddr)>) -> Self {
        Self(listen)
    }

    /// Where the peer of a flow reaches us: a connection that we opened ends at a port that takes none.
    fn sent_by(&self, flow: Flow) -> SocketAddr {
        match flow.transport {
            Transport::Udp => flow.local,
            _ => {
                let listener = listener(&self.0, flow.transport, flow.local);
                let port = listener.unwrap_or(flow.local).port();
                SocketAddr::new(flow.local.ip(), port)
            }
        }
    }

    /// The Via of a request that leaves on a flow.
    pub(super) fn via(&self, flow: Flow, branch: &str) -> Via {
        let address = self.sent_by(flow);
        let mut params = Params::default();
        params.set("branch", Some(branch));
        params.set("rport", None);
        Via {
            transport: flow.transport.via_name().into(),
            host: Host::Ip(address.ip()),
            port: Some(address.port()),
            params,
        }
    }

    /// Our URI for the side of a call that a flow leads to (RFC 3261 section 16.6 step 4).
    pub(super) fn record_route(&self, flow: Flow, user: &str) -> Uri {
        let address = self.sent_by(flow);
        let mut uri = Uri::sip(Some(user), Host::Ip(address.ip()), Some(address.port()));
        if flow.transport != Transport::Udp {
            uri.params.set("transport", Some(flow.transport.uri_name()));
        }
        uri.params.set("lr", None);
        uri
    }

    /// Whether a URI names an address of ours.
    pub(super) fn is_ours(&self, uri: &Uri) -> bool {
        self.has(&uri.host, uri.port)
    }

    /// Whether a Via is ours.
    pub(super) fn is_our_via(&self, via: &Via) -> bool {
        self.has(&via.host, via.port)
    }

    fn has(&self, host: &Host, port: Option<u16>) -> bool {
        self.0.iter().any(|(transport, address)| {
            let is_host = match host {
                Host::Ip(ip) => *ip == address.ip(),
                Host::Name(name) => {
                    address.ip().is_loopback() && name.eq_ignore_ascii_case("localhost")
                }
            };
            is_host && port.unwrap_or_else(|| transport.default_port()) == address.port()
        })
    }

    /// The flow for a datagram to `remote`, by the socket of `hint` where that is possible.
    pub(super) fn datagram_flow(&self, remote: SocketAddr, hint: Option<Flow>) -> Option<Flow> {
        Flow::of_datagram(&self.0, remote, hint)
    }
}
