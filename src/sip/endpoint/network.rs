//! What the endpoint knows of its own addresses.

use std::net::IpAddr;
use std::net::SocketAddr;

use crate::sip::endpoint::Config;
use crate::sip::flow::Flow;
use crate::sip::flow::Transport;
use crate::sip::flow::listener;
use crate::sip::message::HeaderValue;
use crate::sip::message::Host;
use crate::sip::message::Scheme;
use crate::sip::message::Uri;

impl Config {
    /// Whether requests of this peer are served.
    pub(super) fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted.iter().any(|net| net.contains(&peer))
    }

    /// Our address for a flow as peers are to see it, in Via and Contact.
    pub(super) fn sent_by(&self, flow: Flow) -> (Host, u16) {
        let listener = listener(&self.listen, flow.transport, flow.local);
        let port = match flow.transport {
            Transport::Udp => flow.local.port(),
            Transport::Tcp | Transport::Tls | Transport::Ws | Transport::Wss => {
                listener.unwrap_or(flow.local).port()
            }
        };
        let addresses = [Some(flow.local), listener];
        let specified = addresses
            .into_iter()
            .flatten()
            .map(|address| address.ip())
            .find(|ip| !ip.is_unspecified());
        let host = self.advertised.clone().or(specified.map(Host::Ip));
        (host.unwrap_or_else(|| self.uri.host.clone()), port)
    }

    /// The value of our Contact for a dialog that goes over `flow`: `sips` where the peer used it and we take
    /// TLS.
    pub(super) fn contact(&self, flow: Flow, secure: bool) -> HeaderValue {
        let (host, port) = self.sent_by(flow);
        let mut uri = Uri::sip(self.uri.user.as_deref(), host, Some(port));
        // Where a proxy ended the TLS, the flow is none, and its port takes none.
        let tls_port = match flow.transport {
            Transport::Tls | Transport::Wss => Some(port),
            Transport::Udp | Transport::Tcp | Transport::Ws => {
                listener(&self.listen, Transport::Tls, flow.local).map(|address| address.port())
            }
        };
        if let Some(tls_port) = tls_port.filter(|_| secure) {
            uri.scheme = Scheme::Sips;
            uri.port = Some(tls_port);
            if flow.transport == Transport::Wss {
                uri.params.set("transport", Some(flow.transport.uri_name()));
            }
        } else if flow.transport != Transport::Udp {
            uri.params.set("transport", Some(flow.transport.uri_name()));
        }
        format!("<{uri}>").into()
    }

    /// The flow for a datagram to `remote`, by the socket of `hint` where that is possible.
    pub(super) fn datagram_flow(&self, remote: SocketAddr, hint: Option<Flow>) -> Option<Flow> {
        Flow::of_datagram(&self.listen, remote, hint)
    }
}
