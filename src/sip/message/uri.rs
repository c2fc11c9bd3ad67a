//! URIs: sip and sips (RFC 3261 19.1), tel (RFC 3966), and any other scheme unread.

use std::borrow::Cow;
use std::fmt::Display;
use std::fmt::Formatter;

use crate::sip::message::Host;
use crate::sip::message::Params;
use crate::sip::message::host::RawHost;
use crate::sip::message::lex;

/// Scheme of a URI.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `sip:`
    Sip,
    /// `sips:`
    Sips,
    /// `tel:`
    Tel,
    /// Any other, as written.
    Other(Box<str>),
}

impl Scheme {
    /// The scheme without its colon.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Sip => "sip",
            Self::Sips => "sips",
            Self::Tel => "tel",
            Self::Other(name) => name,
        }
    }
}

/// A URI (RFC 3261 19.1, RFC 3966). `user` is kept as written, escapes and user parameters included.
/// For `tel:` the number is in `user` and its parameters in `params`, and `host` is an empty name. For
/// an unknown scheme everything after the colon is in `host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// What kind of URI it is.
    pub scheme: Scheme,
    /// The part before `@`, without password.
    pub user: Option<Box<str>>,
    /// What follows the user's colon.
    pub password: Option<Box<str>>,
    /// The host.
    pub host: Host,
    /// The port, when one is written.
    pub port: Option<u16>,
    /// The URI parameters, escapes kept.
    pub params: Params,
    /// What stands after `?`, unparsed.
    pub headers: Option<Box<str>>,
}

/// A URI that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid URI")]
pub struct InvalidUri;

impl Uri {
    /// `sip:host`.
    pub fn sip(user: Option<&str>, host: Host, port: Option<u16>) -> Self {
        Self {
            scheme: Scheme::Sip,
            user: user.map(Box::from),
            password: None,
            host,
            port,
            params: Params::default(),
            headers: None,
        }
    }

    /// Reads a URI without surrounding white space or brackets.
    pub fn parse(text: &str) -> Result<Self, InvalidUri> {
        RawUri::parse(text.as_bytes())
            .map(Self::from)
            .ok_or(InvalidUri)
    }

    /// Stands for a Request-URI that could not be read, so that the request can be refused.
    pub(super) fn unreadable(text: &[u8]) -> Self {
        let host = Host::Name(String::from_utf8_lossy(text).into());
        Self {
            scheme: Scheme::Other("".into()),
            user: None,
            password: None,
            host,
            port: None,
            params: Params::default(),
            headers: None,
        }
    }

    /// The user part with its escapes decoded, user parameters included.
    pub fn user_decoded(&self) -> Option<Cow<'_, str>> {
        self.user.as_deref().map(percent_decoded)
    }

    /// The user part as written, without its parameters (`+33…;verstat=…` gives `+33…`).
    pub fn user_without_params(&self) -> Option<&str> {
        let user = self.user.as_deref()?;
        Some(lex::cut(user, b';').map_or(user, |(name, _)| name))
    }

    /// The parameters that stand inside the user part.
    pub fn user_params(&self) -> Params {
        let params = self
            .user
            .as_deref()
            .and_then(|user| lex::cut(user, b';'))
            .map(|(_, params)| params);
        Params::from_uri(params.unwrap_or_default())
    }

    /// Who is called: the user part without parameters, decoded; from a telephone number (all digits and
    /// separators, perhaps after a plus) also the visual separators are taken (RFC 3966 5.1.1).
    /// `None` also for the empty user part that some gateways write for hidden callers.
    pub fn dialled(&self) -> Option<String> {
        let user = percent_decoded(self.user_without_params().filter(|user| !user.is_empty())?);
        let separator = |c: char| matches!(c, '-' | '.' | '(' | ')' | ' ');
        let digits = user.strip_prefix('+').unwrap_or(&user);
        let number = digits.chars().all(|c| c.is_ascii_digit() || separator(c))
            && digits.contains(|c: char| c.is_ascii_digit());
        Some(if number {
            user.chars().filter(|c| !separator(*c)).collect()
        } else {
            user.into_owned()
        })
    }

    /// RFC 4458: who was called before the call came to voicemail, as a URI of its own or bare text.
    pub fn target_param(&self) -> Option<Cow<'_, str>> {
        self.params.value("target").map(percent_decoded)
    }

    /// RFC 4458: why the call was sent on, as a status code.
    pub fn cause_param(&self) -> Option<u16> {
        let cause = percent_decoded(self.params.value("cause")?);
        lex::number(cause.as_bytes()).and_then(|cause| u16::try_from(cause).ok())
    }

    /// The headers after `?`, names and values decoded.
    pub fn header_pairs(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        let pairs = self
            .headers
            .as_deref()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        pairs.map(|pair| {
            let (name, value) = lex::cut(pair, b'=').unwrap_or((pair, ""));
            (percent_decoded(name), percent_decoded(value))
        })
    }

    /// Whether both mean the same (RFC 3261 19.1.4).
    pub fn is_equivalent(&self, other: &Self) -> bool {
        let same_text = |one: &Option<Box<str>>, two: &Option<Box<str>>| {
            one.as_deref().map(normalized) == two.as_deref().map(normalized)
        };
        let scheme = match (&self.scheme, &other.scheme) {
            (Scheme::Other(one), Scheme::Other(two)) => one.eq_ignore_ascii_case(two),
            (one, two) => one == two,
        };
        let host = match self.scheme {
            Scheme::Other(_) => self.host == other.host,
            _ => self.host.is_equivalent(&other.host),
        };
        let user = if self.scheme == Scheme::Tel {
            self.dialled() == other.dialled()
        } else {
            same_text(&self.user, &other.user)
        };
        scheme
            && host
            && user
            && self.port == other.port
            && same_text(&self.password, &other.password)
            && params_match(&self.params, &other.params)
            && params_match(&other.params, &self.params)
            && sorted_headers(self) == sorted_headers(other)
    }
}

/// Whether every parameter of `one` that matters is in `two` alike.
fn params_match(one: &Params, two: &Params) -> bool {
    one.iter().all(|(name, value)| {
        let name = percent_decoded(name);
        match two
            .iter()
            .find(|(has, _)| percent_decoded(has).eq_ignore_ascii_case(&name))
        {
            Some((_, other)) => {
                let folded =
                    |value: Option<&str>| value.map(|value| normalized(value).to_ascii_lowercase());
                folded(value) == folded(other)
            }
            None => ![
                "user",
                "ttl",
                "method",
                "maddr",
                "transport",
                "phone-context",
                "isub",
                "ext",
            ]
            .iter()
            .any(|must| name.eq_ignore_ascii_case(must)),
        }
    })
}

fn sorted_headers(uri: &Uri) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = uri
        .header_pairs()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.into_owned()))
        .collect();
    pairs.sort();
    pairs
}

impl std::str::FromStr for Uri {
    type Err = InvalidUri;

    fn from_str(text: &str) -> Result<Self, InvalidUri> {
        Self::parse(text)
    }
}

impl Display for Uri {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.scheme.as_str())?;
        if let Some(user) = &self.user {
            f.write_str(user)?;
            if let Some(password) = &self.password {
                write!(f, ":{password}")?;
            }
            if self.scheme != Scheme::Tel {
                f.write_str("@")?;
            }
        }
        self.host.fmt(f)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        for (name, value) in self.params.iter() {
            match value {
                Some(value) => write!(f, ";{name}={value}")?,
                None => write!(f, ";{name}")?,
            }
        }
        match &self.headers {
            Some(headers) => write!(f, "?{headers}"),
            None => Ok(()),
        }
    }
}

/// A URI that still lies in the message.
#[derive(Debug, Clone, Copy)]
pub(in crate::sip) struct RawUri<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    password: Option<&'a str>,
    host: RawHost<'a>,
    port: Option<u16>,
    params: &'a str,
    /// What stands after `?`.
    pub(in crate::sip) headers: Option<&'a str>,
}

impl<'a> RawUri<'a> {
    pub(in crate::sip) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let forbidden = |byte: &u8| *byte <= b' ' || matches!(byte, b'<' | b'>' | b'"' | 0x7f);
        if bytes.iter().any(forbidden) {
            return None;
        }
        let (scheme, rest) = lex::cut(std::str::from_utf8(bytes).ok()?, b':')?;
        if scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips") {
            return Self::parse_sip(scheme, rest);
        }
        let in_scheme =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        if rest.is_empty()
            || !scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            || !scheme.bytes().all(in_scheme)
        {
            return None;
        }
        let blank = Self {
            scheme,
            user: None,
            password: None,
            host: RawHost::Name(""),
            port: None,
            params: "",
            headers: None,
        };
        if !scheme.eq_ignore_ascii_case("tel") {
            return Some(Self {
                host: RawHost::Name(rest),
                ..blank
            });
        }
        let (number, params) = lex::cut(rest, b';').unwrap_or((rest, ""));
        let in_number = |byte: u8| {
            byte.is_ascii_alphanumeric()
                || matches!(byte, b'+' | b'-' | b'.' | b'(' | b')' | b'*' | b'#' | b'%')
        };
        (!number.is_empty() && number.bytes().all(in_number)).then_some(Self {
            user: Some(number),
            params,
            ..blank
        })
    }

    fn parse_sip(scheme: &'a str, rest: &'a str) -> Option<Self> {
        let (userinfo, rest) =
            lex::cut(rest, b'@').map_or((None, rest), |(userinfo, rest)| (Some(userinfo), rest));
        let (user, password) = match userinfo.map(|userinfo| (userinfo, lex::cut(userinfo, b':'))) {
            Some((_, Some((user, password)))) => (Some(user), Some(password)),
            Some((user, None)) => (Some(user), None),
            None => (None, None),
        };
        let (rest, headers) =
            lex::cut(rest, b'?').map_or((rest, None), |(rest, headers)| (rest, Some(headers)));
        let (hostport, params) = lex::cut(rest, b';').unwrap_or((rest, ""));
        let (host, port) = RawHost::parse_with_port(hostport)?;
        Some(Self {
            scheme,
            user,
            password,
            host,
            port,
            params,
            headers,
        })
    }
}

impl From<RawUri<'_>> for Uri {
    fn from(raw: RawUri<'_>) -> Self {
        let scheme = match raw.scheme {
            name if name.eq_ignore_ascii_case("sip") => Scheme::Sip,
            name if name.eq_ignore_ascii_case("sips") => Scheme::Sips,
            name if name.eq_ignore_ascii_case("tel") => Scheme::Tel,
            name => Scheme::Other(name.into()),
        };
        Self {
            scheme,
            user: raw.user.map(Box::from),
            password: raw.password.map(Box::from),
            host: raw.host.into(),
            port: raw.port,
            params: Params::from_uri(raw.params),
            headers: raw.headers.map(Box::from),
        }
    }
}

/// Decodes `%41`; an escape that is none stays. What is then not UTF-8 is replaced.
pub(in crate::sip) fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = escape(rest).unwrap_or((*first, after));
        decoded.push(byte);
        rest = after;
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

/// Reads one `%41` at the start.
fn escape(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, after @ ..] = bytes else {
        return None;
    };
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    Some((digit(*high)? << 4 | digit(*low)?, after))
}

/// Decodes escapes except of reserved characters, whose escape has another meaning than they have.
fn normalized(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, plain @ ..] = rest {
        rest = match escape(rest) {
            Some((byte, after)) if b";/?:@&=+$,%".contains(&byte) => {
                bytes.extend_from_slice(format!("%{byte:02X}").as_bytes());
                after
            }
            Some((byte, after)) => {
                bytes.push(byte);
                after
            }
            None => {
                bytes.push(*first);
                plain
            }
        };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::Scheme;
    use super::Uri;
    use crate::sip::message::Host;

    fn uri(text: &str) -> Uri {
        Uri::parse(text).expect(text)
    }

    #[test]
    fn every_part_is_read_and_written_back() {
        let text =
            "sips:+33%20;verstat=No:p%40ss@[2001:db8::1]:5061;user=phone;lr?Subject=a%20b&x=y";
        let uri = uri(text);
        assert_eq!(uri.scheme, Scheme::Sips);
        assert_eq!(uri.user.as_deref(), Some("+33%20;verstat=No"));
        assert_eq!(uri.password.as_deref(), Some("p%40ss"));
        assert_eq!(uri.host, Host::Ip("2001:db8::1".parse().unwrap()));
        assert_eq!(uri.port, Some(5061));
        assert_eq!(uri.params.value("USER"), Some("phone"));
        assert_eq!(uri.params.get("lr"), Some(None));
        assert_eq!(uri.headers.as_deref(), Some("Subject=a%20b&x=y"));
        assert_eq!(uri.to_string(), text);
    }

    #[test]
    fn what_is_no_uri_is_refused() {
        for text in [
            "",
            "sip:",
            "user@host",
            "sip:@",
            "sip:a b@host",
            "sip:host:",
            "sip:host:65536",
            "sip:2001:db8::10",
            "sip:[2001:db8::10",
            "sip:[1::2]x",
            "<sip:a@b>",
            "sip:a@b>",
            "1a:b",
            "sip:a@h\u{e9}",
            "sip:a@b@c",
            "tel:",
            "tel:a b",
            "mailto:",
            "sip:a@b\r\n",
        ] {
            assert!(Uri::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_dialled_user_is_without_parameters_escapes_and_separators() {
        let dialled = |text| uri(text).dialled();
        assert_eq!(
            dialled("sip:+33123;verstat=TN-Validation-Passed@host").as_deref(),
            Some("+33123")
        );
        assert_eq!(
            dialled("tel:+1-(201)-555.0123;phone-context=x").as_deref(),
            Some("+12015550123")
        );
        assert_eq!(dialled("sip:%2B47%31@host").as_deref(), Some("+471"));
        assert_eq!(
            dialled("sip:anne-marie.k@host").as_deref(),
            Some("anne-marie.k")
        );
        assert_eq!(dialled("sip:host"), None);
        assert_eq!(dialled("sip:@host"), None);
    }

    #[test]
    fn voicemail_parameters_of_rfc_4458_are_decoded() {
        let uri = uri("sip:vm@host;target=sip:+15551002%40example.com;user=phone;cause=486");
        assert_eq!(
            uri.target_param().as_deref(),
            Some("sip:+15551002@example.com")
        );
        assert_eq!(uri.cause_param(), Some(486));
    }

    #[test]
    fn other_schemes_are_kept_unread() {
        let uri = uri("soap.beep://192.0.2.103:3002");
        assert_eq!(uri.scheme, Scheme::Other("soap.beep".into()));
        assert_eq!(uri.to_string(), "soap.beep://192.0.2.103:3002");
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(
            uri("sip:%Z%45%4@h").user_decoded().as_deref(),
            Some("%ZE%4")
        );
    }

    /// The examples of RFC 3261 19.1.4.
    #[test]
    fn equivalence_is_that_of_the_standard() {
        let same =
            |one, two| uri(one).is_equivalent(&uri(two)) && uri(two).is_equivalent(&uri(one));
        for (one, two) in [
            (
                "sip:%61lice@atlanta.com;transport=TCP",
                "sip:alice@AtLanTa.CoM;Transport=tcp",
            ),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            (
                "sip:carol@chicago.com;security=on",
                "sip:carol@chicago.com;newparam=5",
            ),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            (
                "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
                "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            ),
            ("tel:+1-201-555-0123", "tel:+12015550123"),
            ("sip:[2001:db8:0::1]", "sip:[2001:db8::1]"),
        ] {
            assert!(same(one, two), "{one} {two}");
        }
        for (one, two) in [
            (
                "SIP:ALICE@AtLanTa.CoM;Transport=udp",
                "sip:alice@AtLanTa.CoM;Transport=UDP",
            ),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            (
                "sip:bob@biloxi.com",
                "sip:bob@biloxi.com:6000;transport=tcp",
            ),
            (
                "sip:carol@chicago.com",
                "sip:carol@chicago.com?Subject=next%20meeting",
            ),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            (
                "sip:carol@chicago.com;security=on",
                "sip:carol@chicago.com;security=off",
            ),
            ("sip:a%3Bb@host", "sip:a;b@host"),
            ("sip:bob@biloxi.com", "sips:bob@biloxi.com"),
        ] {
            assert!(!same(one, two), "{one} {two}");
        }
    }
}
