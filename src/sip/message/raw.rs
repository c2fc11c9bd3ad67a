//! Header values that still lie in the message: cut into their parts and checked, without allocation.
//! The parser checks with them what every message must have right; typed headers are made of them.

use crate::sip::message::host::RawHost;
use crate::sip::message::lex;
use crate::sip::message::uri::RawUri;

/// `"Name" <uri>;params` or `uri;params` (RFC 3261 20.10).
#[derive(Debug, Clone, Copy)]
pub(in crate::sip) struct RawAddress<'a> {
    pub(in crate::sip) display: Display<'a>,
    pub(in crate::sip) uri: RawUri<'a>,
    /// What follows the address: empty, or begins with `;`.
    pub(in crate::sip) params: &'a [u8],
}

/// A display name as written.
#[derive(Debug, Clone, Copy)]
pub(in crate::sip) enum Display<'a> {
    None,
    /// Without its quotes, escapes kept.
    Quoted(&'a [u8]),
    Plain(&'a [u8]),
}

impl<'a> RawAddress<'a> {
    /// Reads one address. Lenient on unquoted display names and on white space inside `<>` (RFC 4475
    /// 3.1.2.14 and 15); a URI with headers must stand in `<>` (3.1.2.13).
    pub(in crate::sip) fn parse(value: &'a [u8]) -> Option<Self> {
        let value = lex::trim(value);
        let (display, rest) = if value.first() == Some(&b'"') {
            let (name, rest) = lex::quoted(value)?;
            (
                Display::Quoted(name),
                lex::trim_start(rest).strip_prefix(b"<")?,
            )
        } else if let Some((name, rest)) = lex::split_once(value, b'<') {
            let name = lex::trim(name);
            if name.contains(&b'"') {
                return None;
            }
            (
                if name.is_empty() {
                    Display::None
                } else {
                    Display::Plain(name)
                },
                rest,
            )
        } else {
            let (uri, params) =
                value.split_at_checked(lex::find(value, b';').unwrap_or(value.len()))?;
            let uri = RawUri::parse(lex::trim_end(uri)).filter(|uri| uri.headers.is_none())?;
            return Some(Self {
                display: Display::None,
                uri,
                params,
            });
        };
        let (uri, params) = lex::split_once(rest, b'>')?;
        let params = lex::trim(params);
        if !params.is_empty() && params.first() != Some(&b';') {
            return None;
        }
        Some(Self {
            display,
            uri: RawUri::parse(lex::trim(uri))?,
            params,
        })
    }

    /// Whether no parameter is empty (`;;`), and every value is well formed.
    pub(in crate::sip) fn has_sound_params(&self) -> bool {
        sound_params(self.params)
    }
}

/// `SIP/2.0/UDP host:port;params` (RFC 3261 20.42), white space anywhere between.
#[derive(Debug, Clone, Copy)]
pub(in crate::sip) struct RawVia<'a> {
    /// `SIP` and `2.0`, unless the sender is strange.
    pub(in crate::sip) protocol: (&'a [u8], &'a [u8]),
    pub(in crate::sip) transport: &'a str,
    pub(in crate::sip) host: RawHost<'a>,
    pub(in crate::sip) port: Option<u16>,
    /// Empty, or begins with `;`.
    pub(in crate::sip) params: &'a [u8],
}

impl<'a> RawVia<'a> {
    pub(in crate::sip) fn parse(value: &'a [u8]) -> Option<Self> {
        let (before, params) =
            value.split_at_checked(lex::find(value, b';').unwrap_or(value.len()))?;
        let (name, rest) = lex::split_once(before, b'/')?;
        let (version, rest) = lex::split_once(rest, b'/')?;
        let rest = lex::trim(rest);
        let (transport, sent_by) =
            rest.split_at_checked(rest.iter().position(|&byte| lex::is_space(byte))?)?;
        let sent_by = std::str::from_utf8(lex::trim(sent_by)).ok()?;
        let (host, port) = RawHost::parse_with_port(sent_by)?;
        Some(Self {
            protocol: (lex::trim(name), lex::trim(version)),
            transport: lex::token(transport)?,
            host,
            port,
            params,
        })
    }

    /// Whether it is of SIP/2.0 and its parameters are in order.
    pub(in crate::sip) fn is_sound(&self) -> bool {
        self.protocol.0.eq_ignore_ascii_case(b"SIP")
            && self.protocol.1 == b"2.0"
            && sound_params(self.params)
    }
}

/// The number and the method of a CSeq. The number is below 2^31 (RFC 3261 8.1.1.5).
pub(in crate::sip) fn cseq(value: &[u8]) -> Option<(u32, &str)> {
    let space = value.iter().position(|&byte| lex::is_space(byte))?;
    let (number, method) = value.split_at_checked(space)?;
    let number = lex::number(number).filter(|number| *number < 1 << 31)?;
    Some((number, lex::token(lex::trim(method))?))
}

/// Whether text that is empty or begins with `;` holds only parameters with a name, and quotes that close.
fn sound_params(params: &[u8]) -> bool {
    let Some(params) = params.strip_prefix(b";") else {
        return params.is_empty();
    };
    lex::split(params, b';').all(|param| {
        let (name, value) = lex::split_once(param, b'=').unwrap_or((param, b"-"));
        let value = lex::trim(value);
        let sound = match value.first() {
            Some(b'"') => lex::quoted(value).is_some_and(|(_, rest)| rest.is_empty()),
            Some(_) => !value
                .iter()
                .any(|byte| matches!(byte, b'"' | b',' | b'<' | b'>')),
            None => true,
        };
        lex::is_token(lex::trim_end(name)) && sound
    })
}
