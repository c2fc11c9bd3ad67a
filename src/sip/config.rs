//! The `[sip]` section of the configuration.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use crate::sip::endpoint::Transport;

/// Settings of SIP. Every key has a default, with which a server listens on loopback.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen: `udp://ip:port`, and so for `tcp`, `tls`, `ws` and `wss`. Port 0 is any free one.
    pub listen: Vec<ListenAddr>,
    /// Our own URI, which is also registered with the core.
    pub uri: String,
    /// Host name or address told to peers instead of the local address, when behind NAT.
    pub advertised_address: Option<String>,
    /// Who may send calls, and whose identity headers are believed. An address alone is a network
    /// of one.
    #[serde(deserialize_with = "networks")]
    pub trusted_peers: Vec<IpNet>,
    /// 403 responses per second to one address that is not trusted; what is above is dropped.
    pub untrusted_responses_per_second: u32,
    /// Prefixes that the core puts before called numbers.
    pub strip_prefixes: Vec<String>,
    /// The country of numbers that come without country code: `47`. Without it they are unknown.
    pub default_country_code: Option<String>,
    /// Certificate chain in PEM form, for `tls://` and `wss://`. Read again when it changes.
    pub tls_certificate: Option<PathBuf>,
    /// Private key of the certificate in PEM form. Read again when it changes.
    pub tls_private_key: Option<PathBuf>,
    /// Authorities in PEM form that servers we connect to are verified by; the system's where it is not given.
    pub tls_ca: Option<PathBuf>,
    /// Takes any certificate of servers that we connect to. For trials; no configuration file can set it.
    #[serde(skip)]
    pub tls_insecure: bool,
    /// Whose pages may connect by WebSocket, as in the browser's Origin header: `https://phone.example.com`, or `*`
    /// for all. What is no browser names no origin and may connect anyway.
    pub websocket_origins: Vec<String>,
    /// Calls at the same time; above it 503 with Retry-After.
    pub max_calls: usize,
    /// Retry-After of that 503, in seconds.
    pub retry_after_secs: u32,
    /// Longest session without a refresh, in seconds (RFC 4028 Session-Expires).
    pub session_expires_secs: u32,
    /// Shortest interval of session refreshes that is accepted, in seconds (RFC 4028 Min-SE, at least 90).
    pub min_se_secs: u32,
    /// Connections accepted at the same time, in all.
    pub max_connections: usize,
    /// Connections accepted at the same time from one address.
    pub max_connections_per_peer: usize,
    /// A connection is closed when nothing came for so long, in seconds.
    pub stream_idle_secs: u64,
    /// A message on a connection must be complete so long after its first byte, in seconds.
    pub message_deadline_secs: u64,
    /// A TLS handshake that was begun by a peer must be complete after so long, in seconds.
    pub tls_handshake_secs: u64,
    /// A connection of ours must be open after so long, in seconds.
    pub connect_timeout_secs: u64,
    /// The longest message taken, in bytes.
    pub max_message_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |transport| ListenAddr {
            transport,
            addr: SocketAddr::from(([127, 0, 0, 1], 5060)),
        };
        let network = |text: &str| text.parse().expect("a network written here is well-formed");
        Self {
            listen: vec![loopback(Transport::Udp), loopback(Transport::Tcp)],
            uri: "sip:voicemail@localhost".to_owned(),
            advertised_address: None,
            trusted_peers: vec![network("127.0.0.0/8"), network("::1/128")],
            untrusted_responses_per_second: 5,
            strip_prefixes: Vec::new(),
            default_country_code: None,
            tls_certificate: None,
            tls_private_key: None,
            tls_ca: None,
            tls_insecure: false,
            websocket_origins: Vec::new(),
            max_calls: 5000,
            retry_after_secs: 10,
            session_expires_secs: 1800,
            min_se_secs: 90,
            max_connections: 10_000,
            max_connections_per_peer: 1000,
            stream_idle_secs: 1800,
            message_deadline_secs: 10,
            tls_handshake_secs: 10,
            connect_timeout_secs: 5,
            max_message_bytes: 65_535,
        }
    }
}

/// An address to listen on, written `transport://ip:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListenAddr {
    /// How messages travel.
    pub transport: Transport,
    /// Where; port 0 is any free one.
    pub addr: SocketAddr,
}

/// Why a text is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddrError {
    /// There is no `://`.
    #[error("\"{0}\" is not written as transport://ip:port")]
    Form(String),
    /// A transport that is none.
    #[error("\"{0}\": the transport is none of udp, tcp, tls, ws and wss")]
    Transport(String),
    /// The address is not digits and a port.
    #[error(
        "\"{0}\": after the transport an IP address and a port are expected, as 0.0.0.0:5060 or [::]:5060"
    )]
    Addr(String),
}

impl FromStr for ListenAddr {
    type Err = ListenAddrError;

    fn from_str(text: &str) -> Result<Self, ListenAddrError> {
        let whole = || text.to_owned();
        let (scheme, addr) = text
            .split_once("://")
            .ok_or_else(|| ListenAddrError::Form(whole()))?;
        let transport = match scheme {
            "udp" => Transport::Udp,
            "tcp" => Transport::Tcp,
            "tls" => Transport::Tls,
            "ws" => Transport::Ws,
            "wss" => Transport::Wss,
            _ => return Err(ListenAddrError::Transport(whole())),
        };
        let addr = addr.parse().map_err(|_| ListenAddrError::Addr(whole()))?;
        Ok(Self { transport, addr })
    }
}

/// A network as it is configured.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Network(IpNet);

/// A text is neither a network nor an address.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is no network; write it as 192.0.2.0/24, 2001:db8::/32 or 192.0.2.1")]
struct NetworkError(String);

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        let network = text.parse().or_else(|_| address());
        network.map(Self).map_err(|_| NetworkError(text))
    }
}

fn networks<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<IpNet>, D::Error> {
    let networks = Vec::<Network>::deserialize(list)?;
    Ok(networks
        .into_iter()
        .map(|Network(network)| network)
        .collect())
}

impl TryFrom<String> for ListenAddr {
    type Error = ListenAddrError;

    fn try_from(text: String) -> Result<Self, ListenAddrError> {
        text.parse()
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport, self.addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_it_is_written() {
        for text in [
            "udp://0.0.0.0:5060",
            "tcp://127.0.0.1:0",
            "tls://[::1]:5061",
            "ws://127.0.0.1:5066",
            "wss://0.0.0.0:443",
        ] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        let error = |text: &str| text.parse::<ListenAddr>().unwrap_err();
        assert!(matches!(error("127.0.0.1:5060"), ListenAddrError::Form(_)));
        assert!(matches!(
            error("sctp://127.0.0.1:5060"),
            ListenAddrError::Transport(_)
        ));
        assert!(matches!(
            error("udp://localhost:5060"),
            ListenAddrError::Addr(_)
        ));
    }

    #[test]
    fn an_empty_section_is_complete_and_an_unknown_key_is_refused() {
        let config: Config = toml::from_str("").unwrap();
        assert_eq!(config.max_calls, 5000);
        assert!(toml::from_str::<Config>("max_cals = 1").is_err());
        assert!(toml::from_str::<Config>("tls_insecure = true").is_err());
    }
}
