//! The connections that are open.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::sip::flow::Flow;
use crate::sip::flow::Transport;

/// The open connections, to reuse them (RFC 5923).
#[derive(Debug, Default)]
pub(crate) struct OpenFlows {
    by_connection: BTreeMap<u64, (Flow, Option<String>)>,
    by_peer: BTreeMap<(Transport, SocketAddr), Vec<Flow>>,
}

impl OpenFlows {
    /// A connection was opened, or something came on it. `name` is the one that its certificate bears,
    /// where we opened it.
    pub(crate) fn open(&mut self, flow: Flow, name: Option<String>) {
        if flow.transport.is_reliable() && !self.by_connection.contains_key(&flow.connection) {
            self.by_connection.insert(flow.connection, (flow, name));
            self.by_peer
                .entry((flow.transport, flow.remote))
                .or_default()
                .push(flow);
        }
    }

    /// A connection was closed.
    pub(crate) fn close(&mut self, flow: Flow) {
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
    pub(crate) fn is_open(&self, flow: Flow) -> bool {
        !flow.transport.is_reliable() || self.by_connection.contains_key(&flow.connection)
    }

    /// An open connection to this address; for TLS and WebSocket one that was opened by this name.
    pub(crate) fn find(
        &self,
        transport: Transport,
        remote: SocketAddr,
        name: Option<&str>,
    ) -> Option<Flow> {
        let flows = self.by_peer.get(&(transport, remote))?;
        let named = |flow: &&Flow| self.is_open(**flow) && self.name(**flow) == name;
        flows.iter().find(named).copied()
    }

    /// The name that the certificate of this connection bears, where we opened it and have checked that.
    pub(crate) fn name(&self, flow: Flow) -> Option<&str> {
        let (_, name) = self.by_connection.get(&flow.connection)?;
        name.as_deref()
    }

    /// The open connection of this number.
    #[cfg(feature = "sandbox")]
    pub(crate) fn by_connection(&self, connection: u64) -> Option<Flow> {
        self.by_connection.get(&connection).map(|(flow, _)| *flow)
    }
}
