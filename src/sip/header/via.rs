//! Via (RFC 3261 20.42, RFC 3581).

use std::fmt::Display;
use std::fmt::Formatter;
use std::net::IpAddr;

use crate::sip::header::InvalidHeader;
use crate::sip::message::Host;
use crate::sip::message::Params;
use crate::sip::message::raw::RawVia;

/// What every branch of RFC 3261 begins with (8.1.1.7).
pub const MAGIC_COOKIE: &str = "z9hG4bK";

/// One Via.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// `UDP`, `TCP`, `TLS`… as written.
    pub transport: Box<str>,
    /// Host of sent-by.
    pub host: Host,
    /// Port of sent-by.
    pub port: Option<u16>,
    /// `branch`, `received`, `rport`, `maddr`…
    pub params: Params,
}

impl Via {
    /// Reads one Via.
    ///
    /// # Errors
    /// When there is no protocol or no valid sent-by.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, InvalidHeader> {
        let raw = RawVia::parse(value.as_ref()).ok_or(InvalidHeader("Via"))?;
        Ok(Self {
            transport: raw.transport.into(),
            host: raw.host.into(),
            port: raw.port,
            params: Params::from_header(raw.params),
        })
    }

    /// The branch, which names the transaction when it begins with `z9hG4bK` (RFC 3261 8.1.1.7).
    pub fn branch(&self) -> Option<&str> {
        self.params.value("branch")
    }

    /// Whether the sender is of RFC 3261: its branch begins so. One of RFC 2543 need not even have a branch.
    pub fn has_magic_cookie(&self) -> bool {
        self.branch()
            .and_then(|branch| branch.get(..MAGIC_COOKIE.len()))
            .is_some_and(|start| start.eq_ignore_ascii_case(MAGIC_COOKIE))
    }

    /// Where the request really came from; IPv6 with or without brackets (RFC 5118 4.5).
    pub fn received(&self) -> Option<IpAddr> {
        let text = self.params.value("received")?;
        text.strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text)
            .parse()
            .ok()
    }

    /// The `rport` parameter: `Some(None)` asks for it, `Some(Some(_))` gives it.
    pub fn rport(&self) -> Option<Option<u16>> {
        self.params
            .get("rport")
            .map(|port| port.and_then(|port| port.parse().ok()))
    }

    /// Where multicast responses go.
    pub fn maddr(&self) -> Option<Host> {
        self.params.value("maddr").and_then(Host::parse)
    }
}

impl Display for Via {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "SIP/2.0/{} {}", self.transport, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        self.params.fmt(f)
    }
}
