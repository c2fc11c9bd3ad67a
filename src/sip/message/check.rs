//! What a message must have right before anybody looks at it (RFC 3261 8.1.1).

use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Headers;
use crate::sip::message::Method;
use crate::sip::message::ParseError;
use crate::sip::message::lex;
use crate::sip::message::raw;
use crate::sip::message::raw::RawAddress;
use crate::sip::message::raw::RawVia;

/// Checks the headers of a request with this method, or of a response.
pub(super) fn check(headers: &Headers, method: Option<&Method>) -> Result<(), ParseError> {
    let mut via = None;
    let (mut from, mut to, mut call_id, mut cseq) = (None, None, None, None);
    let (mut max_forwards, mut content_type) = (None, None);
    for (name, value) in headers.iter() {
        match name {
            HeaderName::Via => {
                check_vias(value, via.is_none())?;
                via = Some(value);
            }
            HeaderName::From => {
                once(&mut from, value, "From")?;
                check_address(value.as_bytes(), "From")?;
            }
            HeaderName::To => {
                once(&mut to, value, "To")?;
                check_address(value.as_bytes(), "To")?;
            }
            HeaderName::CallId => {
                once(&mut call_id, value, "Call-ID")?;
                require(!value.as_bytes().is_empty(), "Call-ID")?;
            }
            HeaderName::CSeq => {
                once(&mut cseq, value, "CSeq")?;
                check_cseq(value, method)?;
            }
            HeaderName::MaxForwards => {
                once(&mut max_forwards, value, "Max-Forwards")?;
                require(
                    lex::number(value.as_bytes()).is_some_and(|hops| hops <= 255),
                    "Max-Forwards",
                )?;
            }
            HeaderName::ContentType => once(&mut content_type, value, "Content-Type")?,
            HeaderName::Contact if value.as_bytes() == b"*" => {}
            HeaderName::Contact => check_addresses(value, "Contact")?,
            HeaderName::RecordRoute => check_addresses(value, "Record-Route")?,
            _ => {}
        }
    }
    let mandatory = [
        (via, "Via"),
        (from, "From"),
        (to, "To"),
        (call_id, "Call-ID"),
        (cseq, "CSeq"),
    ];
    match mandatory.iter().find(|(value, _)| value.is_none()) {
        Some((_, name)) => Err(ParseError::Missing(name)),
        None => Ok(()),
    }
}

/// Whether a refusal can be addressed and understood: Via, From, To and Call-ID are there.
pub(super) fn can_be_mirrored(headers: &Headers) -> bool {
    [
        HeaderName::Via,
        HeaderName::From,
        HeaderName::To,
        HeaderName::CallId,
    ]
    .iter()
    .all(|name| headers.has(name))
}

fn require(sound: bool, name: &'static str) -> Result<(), ParseError> {
    if sound {
        Ok(())
    } else {
        Err(ParseError::Header(name))
    }
}

/// A header that may stand there once. The same line twice is let pass, two different ones are not
/// (RFC 4475 3.3.9).
fn once<'a>(
    seen: &mut Option<&'a HeaderValue>,
    value: &'a HeaderValue,
    name: &'static str,
) -> Result<(), ParseError> {
    match seen.replace(value) {
        Some(before) if before != value => Err(ParseError::Conflicting(name)),
        _ => Ok(()),
    }
}

/// The top Via must be sound, since responses depend on it; those below are only echoed.
fn check_vias(line: &HeaderValue, top: bool) -> Result<(), ParseError> {
    let mut check = top;
    let sound = lex::split(line.as_bytes(), b',').all(|via| {
        let sound =
            !via.is_empty() && (!check || RawVia::parse(via).is_some_and(|via| via.is_sound()));
        check = false;
        sound
    });
    require(sound, "Via")
}

fn check_address(value: &[u8], name: &'static str) -> Result<(), ParseError> {
    require(
        RawAddress::parse(value).is_some_and(|address| address.has_sound_params()),
        name,
    )
}

fn check_addresses(line: &HeaderValue, name: &'static str) -> Result<(), ParseError> {
    lex::split(line.as_bytes(), b',').try_for_each(|value| check_address(value, name))
}

fn check_cseq(value: &HeaderValue, method: Option<&Method>) -> Result<(), ParseError> {
    let (_, in_cseq) = raw::cseq(value.as_bytes()).ok_or(ParseError::Header("CSeq"))?;
    match method {
        Some(method) if method.as_str() != in_cseq => Err(ParseError::CSeqMethod),
        _ => Ok(()),
    }
}
