//! The way messages travel: one transport between one local and one remote address, and how it is asked for.

use std::fmt;
use std::net::SocketAddr;

mod open;

pub(crate) use open::OpenFlows;

/// A transport of RFC 3261 section 18 or RFC 7118.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Datagrams: may be lost, doubled and reordered.
    Udp,
    /// A byte stream.
    Tcp,
    /// A byte stream inside TLS.
    Tls,
    /// WebSocket: one message in each of its messages.
    Ws,
    /// WebSocket inside TLS.
    Wss,
}

impl Transport {
    /// Each of them.
    pub const ALL: [Self; 5] = [Self::Udp, Self::Tcp, Self::Tls, Self::Ws, Self::Wss];

    /// Whether the transport delivers by itself, so that transactions need not repeat (RFC 3261 section 17).
    pub const fn is_reliable(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// Whether the transport is encrypted, as `sips:` demands of every hop.
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// Whether messages travel in WebSocket frames. Its clients, browsers, cannot be connected to.
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// The port used when none is named (RFC 3261 section 19.1.2, RFC 7118 section 5.2.4).
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 5060,
            Self::Tls => 5061,
            Self::Ws => 80,
            Self::Wss => 443,
        }
    }

    /// The name in a Via header: `UDP`, `TCP`, `TLS`, `WS`, `WSS`.
    pub const fn via_name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        }
    }

    /// The value of a `transport` URI parameter. TLS is `tls` here, for URIs of scheme `sip`
    /// (deprecated by RFC 5630, and what peers understand); `ws` is for both kinds of WebSocket (RFC 7118 section
    /// 5.2.2).
    pub const fn uri_name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws | Self::Wss => "ws",
        }
    }

    /// The name in settings, logs and metrics: `udp`, `tcp`, `tls`, `ws`, `wss`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wss => "wss",
            other => other.uri_name(),
        }
    }

    /// Reads a Via transport or a `transport` parameter, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|transport| name.eq_ignore_ascii_case(transport.via_name()))
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One peer address over one transport (RFC 5626's word).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// How it travels.
    pub transport: Transport,
    /// Our address: of the UDP socket, or our end of the connection.
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
    /// Tells connections apart, over the life of the process; never reused. 0 for UDP.
    pub connection: u64,
}

impl Flow {
    /// The flow for a datagram to `remote` from one of the addresses listened on, by the socket of `hint`
    /// where that is possible.
    pub(crate) fn of_datagram(
        listen: &[(Transport, SocketAddr)],
        remote: SocketAddr,
        hint: Option<Self>,
    ) -> Option<Self> {
        let hinted = hint
            .filter(|flow| flow.transport == Transport::Udp)
            .map(|flow| flow.local);
        let fits = |local: &SocketAddr| local.is_ipv4() == remote.is_ipv4();
        let local = hinted
            .filter(fits)
            .or_else(|| listener(listen, Transport::Udp, remote))?;
        Some(Self {
            transport: Transport::Udp,
            local,
            remote,
            connection: 0,
        })
    }
}

/// The first address listened on with a transport, in the address family of `like`.
pub(crate) fn listener(
    listen: &[(Transport, SocketAddr)],
    transport: Transport,
    like: SocketAddr,
) -> Option<SocketAddr> {
    let fits = |(of, address): &&(Transport, SocketAddr)| {
        *of == transport && address.is_ipv4() == like.is_ipv4()
    };
    listen.iter().find(fits).map(|(_, address)| *address)
}

/// Names a question of a sans-IO core to its driver: a lookup, or a connection to be opened. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResolveId(pub(crate) u64);

/// A host name to be looked up. Addresses written as digits never come here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The name.
    pub host: String,
    /// A port in the URI: skips NAPTR and SRV (RFC 3263 section 4.2).
    pub port: Option<u16>,
    /// A transport named in the URI.
    pub transport: Option<Transport>,
    /// The scheme is `sips`: only TLS will do.
    pub secure: bool,
}

/// One address to try, the answer to a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// How.
    pub transport: Transport,
    /// Where to.
    pub remote: SocketAddr,
}
