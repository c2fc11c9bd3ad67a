//! The checks of RFC 3261 section 8.2 that need nothing but the request.

use bytes::Bytes;

use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Headers;
use crate::sip::message::Method;
use crate::sip::message::Params;
use crate::sip::message::Request;
use crate::sip::message::Scheme;
use crate::sip::message::StatusCode;

/// Methods served, for Allow.
pub(super) const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, PRACK, UPDATE";
/// Extensions supported, for Supported.
pub(super) const SUPPORTED: &str = "100rel, timer";
/// Bodies understood, for Accept.
pub(super) const ACCEPT: &str = "application/sdp, multipart/mixed";

/// Bodies of INFO understood by who owns the call: keys of phones that do not send them with the media.
pub(super) const ACCEPT_INFO: &str = "application/dtmf-relay, application/dtmf";

/// A refusal: status and headers that say why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// For the counter.
    pub(super) why: &'static str,
}

impl Refusal {
    pub(super) const fn new(status: StatusCode, why: &'static str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            why,
        }
    }

    pub(super) fn with(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Method, Request-URI scheme and Require, in this order (8.2.1, 8.2.2.1, 8.2.2.3).
pub(super) fn request(request: &Request) -> Result<(), Refusal> {
    use Method::{Ack, Bye, Cancel, Info, Invite, Options, Prack, Update};
    if !matches!(
        request.method,
        Invite | Ack | Bye | Cancel | Options | Info | Prack | Update
    ) {
        return Err(
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
                .with(HeaderName::Allow, ALLOW),
        );
    }
    if !matches!(request.uri.scheme, Scheme::Sip | Scheme::Sips | Scheme::Tel) {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_URI_SCHEME,
            "unsupported_uri_scheme",
        ));
    }
    if matches!(request.method, Ack | Cancel) {
        return Ok(());
    }
    let unknown: Vec<_> = request
        .headers
        .tokens(&HeaderName::Require)
        .filter(|tag| !is_supported(tag))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::BAD_EXTENSION, "bad_extension")
        .with(HeaderName::Unsupported, unknown.join(", ")))
}

fn is_supported(extension: &str) -> bool {
    SUPPORTED
        .split(", ")
        .any(|has| has.eq_ignore_ascii_case(extension))
}

/// The session description in a body, if there is one (8.2.3). A multipart body may hold it as a part.
/// What is not understood is refused with 415, unless its Content-Disposition says `handling=optional`.
pub(super) fn description(headers: &Headers, body: &Bytes) -> Result<Option<Bytes>, Refusal> {
    if body.is_empty() {
        return Ok(None);
    }
    let part = Part::of_message(headers, body);
    if part.encoded {
        if part.optional {
            return Ok(None);
        }
        let refusal = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding");
        return Err(refusal.with(HeaderName::AcceptEncoding, "identity"));
    }
    if part.is_description() {
        return Ok(Some(part.body));
    }
    let found = match part.boundary() {
        Some(boundary) => description_in_parts(&part, &boundary),
        None => Err(()),
    };
    match found {
        Ok(description) => Ok(description),
        Err(()) if part.optional => Ok(None),
        Err(()) => {
            let refusal =
                Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
            Err(refusal.with(HeaderName::Accept, ACCEPT))
        }
    }
}

/// Whether the body of an INFO is one that the owner of a call can read. Without a body it is fine.
pub(super) fn info(headers: &Headers, body: &Bytes) -> Result<(), Refusal> {
    let part = Part::of_message(headers, body);
    let known = ACCEPT_INFO
        .split(", ")
        .any(|known| part.media_type().eq_ignore_ascii_case(known));
    if body.is_empty() || part.optional || (known && !part.encoded) {
        return Ok(());
    }
    let refusal = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
    Err(refusal.with(HeaderName::Accept, ACCEPT_INFO))
}

/// A message body, or a part of one.
struct Part {
    content_type: String,
    encoded: bool,
    session: bool,
    optional: bool,
    body: Bytes,
}

impl Part {
    fn of_message(headers: &Headers, body: &Bytes) -> Self {
        let text = |name| {
            headers
                .get(&name)
                .map(|value| value.to_str_lossy().into_owned())
                .unwrap_or_default()
        };
        Self::new(
            text(HeaderName::ContentType),
            &text(HeaderName::ContentEncoding),
            &text(HeaderName::ContentDisposition),
            body.clone(),
        )
    }

    fn new(content_type: String, encoding: &str, disposition: &str, body: Bytes) -> Self {
        let (kind, params) = disposition.split_once(';').unwrap_or((disposition, ""));
        let params = Params::from_header(params.as_bytes());
        Self {
            content_type,
            encoded: !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity"),
            session: kind.trim().is_empty() || kind.trim().eq_ignore_ascii_case("session"),
            optional: params
                .value("handling")
                .is_some_and(|value| value.eq_ignore_ascii_case("optional")),
            body,
        }
    }

    fn media_type(&self) -> &str {
        self.content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
    }

    fn is_description(&self) -> bool {
        self.session && !self.encoded && self.media_type().eq_ignore_ascii_case("application/sdp")
    }

    /// The boundary, when this is a multipart body.
    fn boundary(&self) -> Option<String> {
        let (_, params) = self.content_type.split_once(';')?;
        let multipart = self
            .media_type()
            .get(..10)
            .is_some_and(|start| start.eq_ignore_ascii_case("multipart/"));
        let boundary = multipart
            .then(|| Params::from_header(params.as_bytes()))?
            .value("boundary")?
            .to_owned();
        (!boundary.is_empty()).then_some(boundary)
    }
}

/// The description among the parts (RFC 5621). In multipart/mixed every other part must be optional; in
/// the other kinds the parts stand for one another.
fn description_in_parts(whole: &Part, boundary: &str) -> Result<Option<Bytes>, ()> {
    let mixed = whole.media_type().eq_ignore_ascii_case("multipart/mixed");
    let mut found = None;
    let parts = parts(&whole.body, boundary);
    let mut strange = parts.is_empty();
    for part in parts {
        if part.is_description() {
            found.get_or_insert(part.body);
        } else {
            strange |= !part.optional;
        }
    }
    if strange && (mixed || found.is_none()) {
        Err(())
    } else {
        Ok(found)
    }
}

fn parts(body: &Bytes, boundary: &str) -> Vec<Part> {
    let delimiter = format!("--{boundary}");
    let starts = find_all(body, delimiter.as_bytes());
    let ends = starts.iter().skip(1);
    let ranges = starts.iter().zip(ends);
    ranges
        .filter_map(|(start, end)| read_part(body, start + delimiter.len(), *end))
        .collect()
}

/// Where the delimiter begins a line.
fn find_all(body: &[u8], delimiter: &[u8]) -> Vec<usize> {
    let at_line_start = |at: &usize| *at == 0 || body.get(at - 1) == Some(&b'\n');
    body.windows(delimiter.len())
        .enumerate()
        .filter(|(_, window)| *window == delimiter)
        .map(|(at, _)| at)
        .filter(at_line_start)
        .collect()
}

/// Reads one part between two delimiters: the rest of the delimiter's line, headers, an empty line, the body.
fn read_part(body: &Bytes, start: usize, end: usize) -> Option<Part> {
    let mut at = start + line_length(body.get(start..end)?)?;
    let mut fields = [String::new(), String::new(), String::new()];
    loop {
        let length = line_length(body.get(at..end)?)?;
        let line = String::from_utf8_lossy(body.get(at..at + length)?).into_owned();
        at += length;
        if line.trim().is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let field = match HeaderName::from(name.trim()) {
            HeaderName::ContentType => 0,
            HeaderName::ContentEncoding => 1,
            HeaderName::ContentDisposition => 2,
            _ => continue,
        };
        if let Some(slot) = fields.get_mut(field) {
            *slot = value.trim().to_owned();
        }
    }
    let content = body.get(at..end)?;
    let content = content
        .strip_suffix(b"\r\n")
        .or_else(|| content.strip_suffix(b"\n"))
        .unwrap_or(content);
    let [content_type, encoding, disposition] = fields;
    Some(Part::new(
        content_type,
        &encoding,
        &disposition,
        body.slice_ref(content),
    ))
}

/// The length of the first line with its end.
fn line_length(bytes: &[u8]) -> Option<usize> {
    bytes
        .iter()
        .position(|&byte| byte == b'\n')
        .map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(HeaderName, &str)]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in lines {
            headers.push(name.clone(), *value);
        }
        headers
    }

    fn describe(lines: &[(HeaderName, &str)], body: &str) -> Result<Option<String>, u16> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let text = |body: Bytes| String::from_utf8(body.to_vec()).unwrap();
        description(&headers(lines), &body)
            .map(|found| found.map(text))
            .map_err(|refusal| refusal.status.code())
    }

    #[test]
    fn a_description_is_found_alone_or_in_parts() {
        let kind = HeaderName::ContentType;
        assert_eq!(describe(&[], ""), Ok(None));
        assert_eq!(
            describe(&[(kind.clone(), "Application/SDP; charset=utf-8")], "v=0"),
            Ok(Some("v=0".into()))
        );
        let mixed = [(kind, "multipart/mixed; boundary=\"a b\"")];
        let isup = "Content-Type: application/isup\r\nContent-Disposition: signal; handling=optional\r\n\r\n\x01\r\n";
        let sdp = "content-type: application/sdp\r\n\r\nv=0\r\n\r\n";
        let both = format!("preamble\r\n--a b\r\n{isup}--a b\r\n{sdp}--a b--\r\n");
        assert_eq!(describe(&mixed, &both), Ok(Some("v=0\r\n".into())));
        let required = both.replace("optional", "required");
        assert_eq!(describe(&mixed, &required), Err(415));
        assert_eq!(describe(&mixed, "--a b\r\nno end"), Err(415));
    }

    #[test]
    fn a_body_not_understood_is_refused_unless_optional() {
        let html = [(HeaderName::ContentType, "text/html")];
        assert_eq!(describe(&html, "<p>"), Err(415));
        assert_eq!(describe(&[], "v=0"), Err(415));
        let optional = [
            html[0].clone(),
            (HeaderName::ContentDisposition, "render; handling=optional"),
        ];
        assert_eq!(describe(&optional, "<p>"), Ok(None));
        let gzip = [
            (HeaderName::ContentType, "application/sdp"),
            (HeaderName::ContentEncoding, "gzip"),
        ];
        assert_eq!(describe(&gzip, "v=0"), Err(415));
        let body = Bytes::from_static(b"v=0");
        let refusal = description(&headers(&gzip), &body).unwrap_err();
        assert_eq!(
            refusal.headers,
            [(HeaderName::AcceptEncoding, "identity".into())]
        );
    }
}
