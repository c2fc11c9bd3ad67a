//! Hosts of URIs and Vias.

use std::fmt::Display;
use std::fmt::Formatter;
use std::net::IpAddr;
use std::net::Ipv6Addr;

use crate::sip::message::lex;

/// Host of a URI or Via: a name, IPv4 or IPv6 (in brackets when written).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name, as written.
    Name(Box<str>),
    /// An address.
    Ip(IpAddr),
}

impl Host {
    /// Reads a host without port.
    pub fn parse(text: &str) -> Option<Self> {
        RawHost::parse(text).map(Self::from)
    }

    /// Whether it is the same host: names compare without case.
    pub fn is_equivalent(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(one), Self::Name(two)) => one.eq_ignore_ascii_case(two),
            _ => self == other,
        }
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip)
    }
}

impl Display for Host {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// A host that still lies in the message.
#[derive(Debug, Clone, Copy)]
pub(in crate::sip) enum RawHost<'a> {
    Name(&'a str),
    Ip(IpAddr),
}

impl<'a> RawHost<'a> {
    pub(in crate::sip) fn parse(text: &'a str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[') {
            return ipv6(inner.strip_suffix(']')?).map(|ip| Self::Ip(ip.into()));
        }
        let bytes = text.as_bytes();
        if bytes.last()?.is_ascii_digit()
            && let Ok(ip) = text.parse()
        {
            return Some(Self::Ip(IpAddr::V4(ip)));
        }
        let in_name =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        bytes.iter().all(in_name).then_some(Self::Name(text))
    }

    /// Reads `host` and `host:port`, with white space around the colon.
    pub(in crate::sip) fn parse_with_port(text: &'a str) -> Option<(Self, Option<u16>)> {
        let after_host = text.find(']').map_or(0, |bracket| bracket + 1);
        let Some(colon) = text.get(after_host..)?.find(':').map(|at| at + after_host) else {
            return Some((Self::parse(text)?, None));
        };
        let port = lex::number(lex::trim(text.as_bytes().get(colon + 1..)?))?;
        Some((
            Self::parse(text.get(..colon)?.trim_end())?,
            Some(u16::try_from(port).ok()?),
        ))
    }
}

impl From<RawHost<'_>> for Host {
    fn from(raw: RawHost<'_>) -> Self {
        match raw {
            RawHost::Name(name) => Self::Name(name.into()),
            RawHost::Ip(ip) => Self::Ip(ip),
        }
    }
}

/// Reads an IPv6 address; also with the third colon before an embedded IPv4 address that the grammar
/// of RFC 3261 wrongly asks for (RFC 5118 4.10).
fn ipv6(text: &str) -> Option<Ipv6Addr> {
    text.parse()
        .ok()
        .or_else(|| text.replacen(":::", "::", 1).parse().ok())
}
