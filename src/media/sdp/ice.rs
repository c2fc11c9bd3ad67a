//! What descriptions tell of ICE (RFC 8839).

use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;

/// How we take part in ICE (RFC 8445 section 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IceMode {
    /// We answer checks and begin none, which is enough for whoever has a public address. Where
    /// the peer does no more than that either, we check as in `Full`.
    #[default]
    Lite,
    /// We check from our side too.
    Full,
}

/// What one side of a call signs its checks with. The password prints redacted.
#[derive(Clone, PartialEq, Eq)]
pub struct IceCredentials {
    /// The user fragment: 4 to 256 characters.
    pub ufrag: String,
    /// The password: 22 to 256 characters.
    pub password: String,
}

impl fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IceCredentials({}, redacted)", self.ufrag)
    }
}

/// What both sides agreed on for ICE. There is one component: RTP, and RTCP on the same port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IceParams {
    /// Ours. Other ones than before mean a restart (RFC 8445 section 9).
    pub local: IceCredentials,
    /// The peer's; `None` while our offer waits for its answer.
    pub remote: Option<IceCredentials>,
    /// Whether we only answer checks.
    pub we_are_lite: bool,
    /// Whether the peer only answers checks.
    pub remote_is_lite: bool,
    /// Whether it is for us to nominate, to begin with: ICE itself settles conflicts of roles.
    pub controlling: bool,
    /// Where the peer may be reached, in the order told. More may show in its checks.
    pub remote_candidates: Vec<Candidate>,
}

/// An address at which a peer may be reached with RTP over UDP.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The higher, the sooner to be tried.
    pub priority: u32,
    /// The address.
    pub address: SocketAddr,
    /// Where the peer has it from.
    pub kind: CandidateKind,
}

/// Where a candidate comes from (RFC 8445 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CandidateKind {
    /// An address of the peer itself.
    Host,
    /// How a STUN server sees it.
    ServerReflexive,
    /// How its peer sees it.
    PeerReflexive,
    /// A TURN server's.
    Relayed,
}

impl CandidateKind {
    fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "host" => Some(Self::Host),
            "srflx" => Some(Self::ServerReflexive),
            "prflx" => Some(Self::PeerReflexive),
            "relay" => Some(Self::Relayed),
            _ => None,
        }
    }
}

impl Candidate {
    /// Reads `1 1 UDP 2130706431 203.0.113.141 8998 typ host`, behind which more may stand. Those
    /// of other components and transports, and those with names for addresses, are `None`.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let mut words = value.split_ascii_whitespace();
        words.next()?;
        let component: u16 = words.next()?.parse().ok()?;
        let transport = words.next()?;
        let priority = words.next()?.parse().ok()?;
        let address: IpAddr = words.next()?.parse().ok()?;
        let port: u16 = words.next()?.parse().ok()?;
        let typ = words.next()?;
        let kind = CandidateKind::from_name(words.next()?)?;
        let address = address.to_canonical();
        let is_usable = component == 1
            && transport.eq_ignore_ascii_case("udp")
            && typ.eq_ignore_ascii_case("typ")
            && port != 0
            && !address.is_unspecified()
            && !address.is_multicast()
            && address != IpAddr::V4(Ipv4Addr::BROADCAST);
        is_usable.then(|| Self {
            priority,
            address: SocketAddr::new(address, port),
            kind,
        })
    }
}
