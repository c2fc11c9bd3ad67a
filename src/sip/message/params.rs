//! Parameters of URIs and header values.

use std::fmt::Display;
use std::fmt::Formatter;

use crate::sip::message::lex;

/// Parameters `;name=value` in order; names compare without case. Values keep their quotes off.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Params(Vec<(Box<str>, Option<Box<str>>)>);

impl Params {
    /// Reads the parameters of a URI: no white space, no quotes, escapes kept.
    pub(super) fn from_uri(text: &str) -> Self {
        let parts = text.split(';').filter(|part| !part.is_empty());
        Self(
            parts
                .map(|part| {
                    lex::cut(part, b'=').map_or((part.into(), None), |(name, value)| {
                        (name.into(), Some(value.into()))
                    })
                })
                .collect(),
        )
    }

    /// Reads the parameters of a header value, with white space around `;` and `=`, and quoted values.
    /// What is not UTF-8 is replaced; empty parameters are left out.
    pub fn from_header(bytes: &[u8]) -> Self {
        let parts = lex::split(bytes, b';').filter(|part| !part.is_empty());
        Self(parts.map(header_param).collect())
    }

    /// Reads the comma-separated parameters of a challenge or credentials (`auth-param`, RFC 3261 25.1), otherwise
    /// like [`Params::from_header`].
    pub fn from_list(bytes: &[u8]) -> Self {
        let parts = lex::split(bytes, b',').filter(|part| !part.is_empty());
        Self(parts.map(header_param).collect())
    }

    /// The parameter: `None` when it is not there, `Some(None)` when it has no value.
    pub fn get(&self, name: &str) -> Option<Option<&str>> {
        let found = self
            .0
            .iter()
            .find(|(has, _)| has.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_deref())
    }

    /// The value of a parameter that has one.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.get(name).flatten()
    }

    /// Whether the parameter is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets a parameter where it stands, else at the end.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        let value = value.map(Box::from);
        match self
            .0
            .iter_mut()
            .find(|(has, _)| has.eq_ignore_ascii_case(name))
        {
            Some(param) => param.1 = value,
            None => self.0.push((name.into(), value)),
        }
    }

    /// Removes a parameter.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(has, _)| !has.eq_ignore_ascii_case(name));
    }

    /// All parameters in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0
            .iter()
            .map(|(name, value)| (&**name, value.as_deref()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn header_param(part: &[u8]) -> (Box<str>, Option<Box<str>>) {
    let text = |bytes: &[u8]| Box::from(String::from_utf8_lossy(bytes));
    let Some((name, value)) = lex::split_once(part, b'=') else {
        return (text(part), None);
    };
    let value = lex::trim(value);
    let value = lex::quoted(value).map_or_else(|| text(value), |(inner, _)| lex::unescaped(inner));
    (text(lex::trim_end(name)), Some(value))
}

/// Writes them as parameters of a header: a value that is neither token nor host is quoted.
impl Display for Params {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let plain = |byte: u8| lex::is_token_byte(byte) || matches!(byte, b':' | b'[' | b']');
        for (name, value) in self.iter() {
            write!(f, ";{name}")?;
            match value {
                None => {}
                Some(value) if !value.is_empty() && value.bytes().all(plain) => {
                    write!(f, "={value}")?;
                }
                Some(value) => write!(
                    f,
                    "=\"{}\"",
                    value.replace('\\', "\\\\").replace('"', "\\\"")
                )?,
            }
        }
        Ok(())
    }
}
