//! What the endpoint knows of its own addresses, and of the connections that are open.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::SocketAddr;

use crate::sip::endpoint::Config;
use crate::sip::flow::Flow;
use crate::sip::flow::Transport;
use crate::sip::message::HeaderValue;
use crate::sip::message::Host;
use crate::sip::message::Scheme;
use crate::sip::message::Uri;

/// The open connections, to reuse them (RFC 5923).
#[derive(Debug, Default)]
pub(super) struct OpenFlows {
    by_connection: BTreeMap<u64, Option<String>>,
    by_peer: BTreeMap<(Transport, SocketAddr), Vec<Flow>>,
}

impl OpenFlows {
    /// A connection was opened, or something came on it. `name` is the one that its certificate bears,
    /// where we opened it.
    pub(super) fn open(&mut self, flow: Flow, name: Option<String>) {
        if flow.transport.is_reliable() && !self.by_connection.contains_key(&flow.connection) {
            self.by_connection.insert(flow.connection, name);
            self.by_peer
                .entry((flow.transport, flow.remote))
                .or_default()
                .push(flow);
        }
    }

    /// A connection was closed.
    pub(super) fn close(&mut self, flow: Flow) {
        self.by_connection.remove(&flow.connection);
        let peer = (flow.transport, flow.remote);
        if let Some(flows) = self.by_peer.get_mut(&peer) {
            flows.retain(|open| open.connection != flow.connection);
            if flows.is_empty() {
                self.by_peer.remove(&peer);
            }
        }
    }

    /// Whether a message can be sent on this flow. On UDP always.
    pub(super) fn is_open(&self, flow: Flow) -> bool {
        !flow.transport.is_reliable() || self.by_connection.contains_key(&flow.connection)
    }

    /// An open connection to this address; for TLS one whose certificate bears this name.
    pub(super) fn find(
        &self,
        transport: Transport,
        remote: SocketAddr,
        name: Option<&str>,
    ) -> Option<Flow> {
        let flows = self.by_peer.get(&(transport, remote))?;
        let named = |flow: &&Flow| {
            self.by_connection
                .get(&flow.connection)
                .is_some_and(|has| has.as_deref() == name)
        };
        flows.iter().find(named).copied()
    }
}

impl Config {
    /// Whether requests of this peer are served.
    pub(super) fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted.iter().any(|net| net.contains(&peer))
    }

    /// Our address for a flow as peers are to see it, in Via and Contact.
    pub(super) fn sent_by(&self, flow: Flow) -> (Host, u16) {
        let listener = self.listener(flow.transport, flow.local);
        let port = match flow.transport {
            Transport::Udp => flow.local.port(),
            Transport::Tcp | Transport::Tls => listener.unwrap_or(flow.local).port(),
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
            Transport::Tls => Some(port),
            Transport::Udp | Transport::Tcp => self
                .listener(Transport::Tls, flow.local)
                .map(|address| address.port()),
        };
        if let Some(tls_port) = tls_port.filter(|_| secure) {
            uri.scheme = Scheme::Sips;
            uri.port = Some(tls_port);
        } else if flow.transport != Transport::Udp {
            uri.params.set("transport", Some(flow.transport.uri_name()));
        }
        format!("<{uri}>").into()
    }

    /// The flow for a datagram to `remote`, by the socket of `hint` where that is possible.
    pub(super) fn datagram_flow(&self, remote: SocketAddr, hint: Option<Flow>) -> Option<Flow> {
        let hinted = hint
            .filter(|flow| flow.transport == Transport::Udp)
            .map(|flow| flow.local);
        let fits = |local: &SocketAddr| local.is_ipv4() == remote.is_ipv4();
        let local = hinted
            .filter(fits)
            .or_else(|| self.listener(Transport::Udp, remote))?;
        Some(Flow {
            transport: Transport::Udp,
            local,
            remote,
            connection: 0,
        })
    }

    /// The first listening address of a transport in the address family of `like`.
    fn listener(&self, transport: Transport, like: SocketAddr) -> Option<SocketAddr> {
        let fits = |(of, address): &&(Transport, SocketAddr)| {
            *of == transport && address.is_ipv4() == like.is_ipv4()
        };
        self.listen.iter().find(fits).map(|(_, address)| *address)
    }
}
