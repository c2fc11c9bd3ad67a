//! Typed headers. Each reads from a header value and, where the service writes it, writes itself.
//!
//! The getters on [`Headers`] give `None` (or leave values out of a list) where a header is missing or
//! cannot be read. Who must tell the two apart reads the value with the type's `parse`.

use std::fmt::Display;
use std::fmt::Formatter;

use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Headers;
use crate::sip::message::Method;
use crate::sip::message::Params;
use crate::sip::message::Uri;
use crate::sip::message::lex;
use crate::sip::message::raw;

mod retarget;
mod via;

pub use retarget::Diversion;
pub use retarget::HistoryEntry;
pub use via::MAGIC_COOKIE;
pub use via::Via;

/// A header value that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0} header")]
pub struct InvalidHeader(pub &'static str);

/// An address with its display name and header parameters (RFC 3261 20.10): From, To, Contact, Route…
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameAddr {
    /// The display name without quotes; what is not UTF-8 is replaced.
    pub display: Option<Box<str>>,
    /// The address.
    pub uri: Uri,
    /// Parameters of the header, not of the URI.
    pub params: Params,
}

impl NameAddr {
    /// An address without display name and parameters.
    pub fn new(uri: Uri) -> Self {
        Self {
            display: None,
            uri,
            params: Params::default(),
        }
    }

    /// Reads one address, in `<>` or bare. The parameters after a bare one belong to the header.
    ///
    /// # Errors
    /// When there is no valid URI, or a quote or bracket is not closed.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, InvalidHeader> {
        let raw = raw::RawAddress::parse(value.as_ref()).ok_or(InvalidHeader("address"))?;
        let display = match raw.display {
            raw::Display::None => None,
            raw::Display::Quoted(text) => Some(lex::unescaped(text)),
            raw::Display::Plain(text) => Some(String::from_utf8_lossy(text).into()),
        };
        Ok(Self {
            display,
            uri: raw.uri.into(),
            params: Params::from_header(raw.params),
        })
    }

    /// The `tag` parameter of From and To.
    pub fn tag(&self) -> Option<&str> {
        self.params.value("tag")
    }

    /// With this tag.
    #[must_use]
    pub fn with_tag(mut self, tag: &str) -> Self {
        self.params.set("tag", Some(tag));
        self
    }
}

impl Display for NameAddr {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        if let Some(display) = &self.display {
            write!(
                f,
                "\"{}\" ",
                display.replace('\\', "\\\\").replace('"', "\\\"")
            )?;
        }
        write!(f, "<{}>{}", self.uri, self.params)
    }
}

/// CSeq (RFC 3261 20.16).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CSeq {
    /// Below 2^31.
    pub number: u32,
    /// The method of the request.
    pub method: Method,
}

impl CSeq {
    /// Reads `314159 INVITE`.
    ///
    /// # Errors
    /// When it is not a number below 2^31 and a method.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, InvalidHeader> {
        let (number, method) = raw::cseq(value.as_ref()).ok_or(InvalidHeader("CSeq"))?;
        Ok(Self {
            number,
            method: method.into(),
        })
    }
}

impl Display for CSeq {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.number, self.method)
    }
}

/// Which side refreshes the session (RFC 4028 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresher {
    /// The client of the request.
    Uac,
    /// Its server.
    Uas,
}

/// Session-Expires (RFC 4028 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionExpires {
    /// The session interval in seconds.
    pub seconds: u32,
    /// Who is to refresh, when that is said.
    pub refresher: Option<Refresher>,
}

impl SessionExpires {
    /// Reads `1800;refresher=uas`.
    ///
    /// # Errors
    /// When it does not begin with a number. A refresher of another name is none.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, InvalidHeader> {
        let (seconds, params) =
            seconds_and_params(value.as_ref()).ok_or(InvalidHeader("Session-Expires"))?;
        let refresher = match params.value("refresher") {
            Some(name) if name.eq_ignore_ascii_case("uac") => Some(Refresher::Uac),
            Some(name) if name.eq_ignore_ascii_case("uas") => Some(Refresher::Uas),
            _ => None,
        };
        Ok(Self { seconds, refresher })
    }
}

impl Display for SessionExpires {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self.refresher {
            Some(Refresher::Uac) => write!(f, "{};refresher=uac", self.seconds),
            Some(Refresher::Uas) => write!(f, "{};refresher=uas", self.seconds),
            None => write!(f, "{}", self.seconds),
        }
    }
}

/// RAck (RFC 3262 7.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RAck {
    /// The RSeq of the provisional response.
    pub rseq: u32,
    /// Its CSeq.
    pub cseq: CSeq,
}

impl RAck {
    /// Reads `776656 1 INVITE`.
    ///
    /// # Errors
    /// When it is not two numbers and a method.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, InvalidHeader> {
        let parse = |value: &[u8]| {
            let value = lex::trim(value);
            let (rseq, cseq) =
                value.split_at_checked(value.iter().position(|&byte| lex::is_space(byte))?)?;
            Some(Self {
                rseq: lex::number(rseq)?,
                cseq: CSeq::parse(lex::trim(cseq)).ok()?,
            })
        };
        parse(value.as_ref()).ok_or(InvalidHeader("RAck"))
    }
}

impl Display for RAck {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.rseq, self.cseq)
    }
}

/// Reason (RFC 3326): why a request was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// `SIP`, `Q.850` or another.
    pub protocol: Box<str>,
    /// A status code or a Q.850 cause.
    pub cause: Option<u16>,
    /// For people.
    pub text: Option<Box<str>>,
}

impl Reason {
    /// A reason with a SIP status code.
    pub fn sip(cause: u16, text: &str) -> Self {
        Self {
            protocol: "SIP".into(),
            cause: Some(cause),
            text: Some(text.into()),
        }
    }

    /// Reads one value: `Q.850;cause=16;text="Terminated"`.
    ///
    /// # Errors
    /// When it does not begin with a protocol name.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, InvalidHeader> {
        let (protocol, params) = name_and_params(value.as_ref());
        let protocol = lex::token(protocol).ok_or(InvalidHeader("Reason"))?;
        let cause = params
            .value("cause")
            .and_then(|cause| lex::number(cause.as_bytes()));
        let cause = cause.and_then(|cause| u16::try_from(cause).ok());
        Ok(Self {
            protocol: protocol.into(),
            cause,
            text: params.value("text").map(Box::from),
        })
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.protocol)?;
        if let Some(cause) = self.cause {
            write!(f, ";cause={cause}")?;
        }
        match &self.text {
            Some(text) => write!(
                f,
                ";text=\"{}\"",
                text.replace('\\', "\\\\").replace('"', "\\\"")
            ),
            None => Ok(()),
        }
    }
}

/// A media type: Content-Type, or one value of Accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    /// `application` of `application/sdp`, in lower case.
    pub kind: Box<str>,
    /// `sdp` of `application/sdp`, in lower case.
    pub subtype: Box<str>,
    /// `charset`, `boundary`, `q`…
    pub params: Params,
}

impl MediaType {
    /// Reads `application/sdp;charset=utf-8`.
    ///
    /// # Errors
    /// When there are not two tokens around a slash.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, InvalidHeader> {
        let (essence, params) = name_and_params(value.as_ref());
        let part =
            |bytes| lex::token(lex::trim(bytes)).map(|text| Box::from(text.to_ascii_lowercase()));
        let parts = lex::split_once(essence, b'/')
            .and_then(|(kind, subtype)| Some((part(kind)?, part(subtype)?)));
        let (kind, subtype) = parts.ok_or(InvalidHeader("media type"))?;
        Ok(Self {
            kind,
            subtype,
            params,
        })
    }

    /// Whether it is of this kind and subtype, written in lower case.
    pub fn is(&self, kind: &str, subtype: &str) -> bool {
        &*self.kind == kind && &*self.subtype == subtype
    }

    /// Whether this value of Accept lets such a body pass, given in lower case.
    pub fn accepts(&self, kind: &str, subtype: &str) -> bool {
        (&*self.kind == "*" || &*self.kind == kind)
            && (&*self.subtype == "*" || &*self.subtype == subtype)
    }
}

impl Display for MediaType {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}{}", self.kind, self.subtype, self.params)
    }
}

/// What stands before the first `;`, and the parameters after it.
fn name_and_params(value: &[u8]) -> (&[u8], Params) {
    let (name, params) = lex::split_once(value, b';').unwrap_or((value, b""));
    (lex::trim(name), Params::from_header(params))
}

fn seconds_and_params(value: &[u8]) -> Option<(u32, Params)> {
    let (seconds, params) = name_and_params(value);
    Some((lex::number(seconds)?, params))
}

impl Headers {
    /// The top Via.
    pub fn top_via(&self) -> Option<Via> {
        Via::parse(self.list(&HeaderName::Via).next()?).ok()
    }

    /// Replaces the top Via alone, also where others stand in the same line.
    pub fn set_top_via(&mut self, via: &Via) {
        let mut line = via.to_string().into_bytes();
        let below = self
            .get(&HeaderName::Via)
            .into_iter()
            .flat_map(|line| lex::split(line.as_bytes(), b',').skip(1));
        for via in below {
            line.extend_from_slice(b", ");
            line.extend_from_slice(via);
        }
        self.set_first(HeaderName::Via, line);
    }

    /// Removes the top Via alone: a proxy does so with each response (RFC 3261 16.7 step 3).
    pub fn remove_top_via(&mut self) {
        let line = self.get(&HeaderName::Via).cloned().unwrap_or_default();
        let below: Vec<_> = lex::split(line.as_bytes(), b',').skip(1).collect();
        if below.is_empty() {
            self.remove_first(&HeaderName::Via);
        } else {
            self.set_first(HeaderName::Via, below.join(&b", "[..]));
        }
    }

    /// How many Vias there are: a response with more than one is not for us (RFC 3261 8.1.3.3).
    pub fn via_count(&self) -> usize {
        self.list(&HeaderName::Via).count()
    }

    /// From.
    pub fn from(&self) -> Option<NameAddr> {
        NameAddr::parse(self.get(&HeaderName::From)?).ok()
    }

    /// To.
    pub fn to(&self) -> Option<NameAddr> {
        NameAddr::parse(self.get(&HeaderName::To)?).ok()
    }

    /// Call-ID.
    pub fn call_id(&self) -> Option<&HeaderValue> {
        self.get(&HeaderName::CallId)
    }

    /// CSeq.
    pub fn cseq(&self) -> Option<CSeq> {
        CSeq::parse(self.get(&HeaderName::CSeq)?).ok()
    }

    /// The first Contact that is an address.
    pub fn contact(&self) -> Option<NameAddr> {
        self.addresses(&HeaderName::Contact).next()
    }

    /// The readable addresses in all lines of a header that is a list of them.
    pub fn addresses<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = NameAddr> + 'a {
        self.list(name)
            .filter_map(|value| NameAddr::parse(value).ok())
    }

    /// Max-Forwards.
    pub fn max_forwards(&self) -> Option<u8> {
        self.number(&HeaderName::MaxForwards)
            .and_then(|hops| u8::try_from(hops).ok())
    }

    /// A header that is one decimal number, in front of parameters and comments: Expires, Min-SE, RSeq…
    pub fn number(&self, name: &HeaderName) -> Option<u32> {
        let value = self.get(name)?.as_bytes();
        let digits = value
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        lex::number(value.get(..digits)?)
    }

    /// Session-Expires.
    pub fn session_expires(&self) -> Option<SessionExpires> {
        SessionExpires::parse(self.get(&HeaderName::SessionExpires)?).ok()
    }

    /// Min-SE in seconds.
    pub fn min_se(&self) -> Option<u32> {
        self.number(&HeaderName::MinSe)
    }

    /// RSeq.
    pub fn rseq(&self) -> Option<u32> {
        self.number(&HeaderName::RSeq)
    }

    /// RAck.
    pub fn rack(&self) -> Option<RAck> {
        RAck::parse(self.get(&HeaderName::RAck)?).ok()
    }

    /// Retry-After in seconds.
    pub fn retry_after(&self) -> Option<u32> {
        self.number(&HeaderName::RetryAfter)
    }

    /// The tokens of a list: Require, Supported, Unsupported, Allow… What is not UTF-8 is left out.
    pub fn tokens<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
        self.list(name)
            .filter_map(|tag| std::str::from_utf8(tag).ok())
    }

    /// Whether a list of option tags (Require, Supported) has this one. Tags compare without case.
    pub fn has_token(&self, name: &HeaderName, token: &str) -> bool {
        self.tokens(name).any(|has| has.eq_ignore_ascii_case(token))
    }

    /// All Reason values, over all lines.
    pub fn reasons(&self) -> impl Iterator<Item = Reason> {
        self.list(&HeaderName::Reason)
            .filter_map(|value| Reason::parse(value).ok())
    }

    /// Content-Type.
    pub fn content_type(&self) -> Option<MediaType> {
        MediaType::parse(self.get(&HeaderName::ContentType)?).ok()
    }

    /// The readable values of Accept.
    pub fn accept(&self) -> impl Iterator<Item = MediaType> {
        self.list(&HeaderName::Accept)
            .filter_map(|value| MediaType::parse(value).ok())
    }

    /// Whether Privacy (RFC 3323, 3325) asks to hide who calls: `id`, `user` or `header`.
    pub fn hides_caller(&self) -> bool {
        let values = self
            .all(&HeaderName::Privacy)
            .flat_map(|line| line.as_bytes().split(|byte| matches!(byte, b';' | b',')));
        values.map(lex::trim).any(|value| {
            [&b"id"[..], b"user", b"header"]
                .iter()
                .any(|hide| value.eq_ignore_ascii_case(hide))
        })
    }
}

#[cfg(test)]
mod tests;
