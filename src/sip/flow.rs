//! The way messages travel: one transport between one local and one remote address.

use std::fmt;
use std::net::SocketAddr;

/// A transport of RFC 3261 section 18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Datagrams: may be lost, doubled and reordered.
    Udp,
    /// A byte stream.
    Tcp,
    /// A byte stream inside TLS.
    Tls,
}

impl Transport {
    /// Whether the transport delivers by itself, so that transactions need not repeat (RFC 3261 section 17).
    pub const fn is_reliable(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// Whether the transport is encrypted, as `sips:` demands of every hop.
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Tls)
    }

    /// The port used when none is named (RFC 3261 section 19.1.2).
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 5060,
            Self::Tls => 5061,
        }
    }

    /// The name in a Via header: `UDP`, `TCP`, `TLS`.
    pub const fn via_name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }

    /// The value of a `transport` URI parameter. TLS is `tls` here, for URIs of scheme `sip`
    /// (deprecated by RFC 5630, and what peers understand).
    pub const fn uri_name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// Reads a Via transport or a `transport` parameter, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Udp, Self::Tcp, Self::Tls]
            .into_iter()
            .find(|transport| name.eq_ignore_ascii_case(transport.via_name()))
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.uri_name())
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
