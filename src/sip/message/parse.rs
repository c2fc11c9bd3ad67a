//! Bytes to messages.

use bytes::Bytes;

use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Headers;
use crate::sip::message::Limits;
use crate::sip::message::Message;
use crate::sip::message::Method;
use crate::sip::message::ParseError;
use crate::sip::message::Parsed;
use crate::sip::message::Request;
use crate::sip::message::Response;
use crate::sip::message::StatusCode;
use crate::sip::message::Uri;
use crate::sip::message::check;
use crate::sip::message::lex;

/// Reads the message in one datagram. A body longer than Content-Length is cut, a shorter one is refused
/// with 400; without Content-Length the body runs to the end (RFC 3261 18.3).
pub fn parse_datagram(bytes: &Bytes, limits: &Limits) -> Parsed {
    let line_ends = bytes
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    if line_ends == bytes.len() {
        return Parsed::KeepAlive {
            ping: bytes.as_ref() == b"\r\n\r\n",
        };
    }
    parse_message(&bytes.slice(line_ends..), limits, None)
}

/// Reads a message that begins at the first byte. A fault that is known before is the one to refuse it with.
pub(super) fn parse_message(bytes: &Bytes, limits: &Limits, fault: Option<ParseError>) -> Parsed {
    let mut reader = Reader {
        bytes,
        at: 0,
        limits,
        fault,
    };
    if bytes.len() > limits.message_bytes {
        reader.fault(ParseError::TooLarge);
    }
    let (start, _) = reader.line().unwrap_or_default();
    if start
        .get(..4)
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"SIP/"))
    {
        read_response(reader, start)
    } else {
        read_request(reader, start)
    }
}

fn read_request(mut reader: Reader<'_>, line: &[u8]) -> Parsed {
    let Some((method, uri)) = reader.request_line(line) else {
        return Parsed::Dropped(ParseError::StartLine);
    };
    let (headers, body) = reader.headers_and_body();
    let sound = reader
        .fault
        .map_or_else(|| check::check(&headers, Some(&method)), Err);
    let request = Request {
        method,
        uri,
        headers,
        body,
    };
    match sound {
        Ok(()) => Parsed::Message(Message::Request(request)),
        Err(fault) if request.method != Method::Ack && check::can_be_mirrored(&request.headers) => {
            Parsed::Refused {
                request: Box::new(request),
                status: fault.status(),
                why: fault.why(),
            }
        }
        Err(fault) => Parsed::Dropped(fault),
    }
}

fn read_response(mut reader: Reader<'_>, line: &[u8]) -> Parsed {
    let (status, reason) = match status_line(line) {
        Ok(status) => status,
        Err(fault) => return Parsed::Dropped(fault),
    };
    let (headers, body) = reader.headers_and_body();
    match reader
        .fault
        .map_or_else(|| check::check(&headers, None), Err)
    {
        Ok(()) => Parsed::Message(Message::Response(Response {
            status,
            reason,
            headers,
            body,
        })),
        Err(fault) => Parsed::Dropped(fault),
    }
}

/// `SIP/2.0 200 OK`; the reason phrase may be missing (RFC 4475 3.1.1.13) and may be any text.
fn status_line(line: &[u8]) -> Result<(StatusCode, Box<str>), ParseError> {
    let (version, rest) = lex::split_once(line, b' ').ok_or(ParseError::StartLine)?;
    if line.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return Err(ParseError::StartLine);
    }
    if !version.eq_ignore_ascii_case(b"SIP/2.0") {
        return Err(ParseError::Version);
    }
    let rest = lex::trim(rest);
    let (code, reason) = lex::split_once(rest, b' ').unwrap_or((rest, b""));
    let code = if code.len() == 3 {
        lex::number(code)
    } else {
        None
    };
    let status = code
        .and_then(|code| StatusCode::new(u16::try_from(code).ok()?))
        .ok_or(ParseError::StatusCode)?;
    Ok((status, String::from_utf8_lossy(lex::trim(reason)).into()))
}

/// Goes over the lines of a head and keeps the first fault that it meets.
struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
    limits: &'a Limits,
    fault: Option<ParseError>,
}

impl<'a> Reader<'a> {
    fn fault(&mut self, fault: ParseError) {
        self.fault.get_or_insert(fault);
    }

    /// `INVITE sip:… SIP/2.0`, with more white space than it should have (RFC 4475 3.1.2.9, 10).
    /// `None` when it cannot be of a SIP request.
    fn request_line(&mut self, line: &[u8]) -> Option<(Method, Uri)> {
        let line = lex::trim(line);
        let (method, rest) =
            line.split_at_checked(line.iter().position(|&byte| lex::is_space(byte))?)?;
        if !lex::is_token(method) {
            self.fault(ParseError::StartLine);
        }
        let method = Method::from(&*String::from_utf8_lossy(method));
        let version_at = rest.iter().rposition(|&byte| lex::is_space(byte))? + 1;
        let (uri, version) = rest.split_at_checked(version_at)?;
        let uri = lex::trim(uri);
        if !version
            .get(..4)
            .is_some_and(|name| name.eq_ignore_ascii_case(b"SIP/"))
        {
            self.fault(ParseError::StartLine);
        } else if version.get(4..) != Some(b"2.0") {
            self.fault(ParseError::Version);
        }
        let text = std::str::from_utf8(uri)
            .ok()
            .and_then(|text| Uri::parse(text).ok());
        if text.as_ref().is_none_or(|uri| uri.headers.is_some()) {
            self.fault(ParseError::RequestUri);
        }
        Some((method, text.unwrap_or_else(|| Uri::unreadable(uri))))
    }

    fn headers_and_body(&mut self) -> (Headers, Bytes) {
        let headers = self.headers();
        let rest = self.bytes.slice(self.at.min(self.bytes.len())..);
        let length = match content_length(headers.all(&HeaderName::ContentLength)) {
            Ok(length) => length.unwrap_or(rest.len()),
            Err(fault) => {
                self.fault(fault);
                0
            }
        };
        if length > rest.len() {
            self.fault(ParseError::Truncated);
        }
        (headers, rest.slice(..length.min(rest.len())))
    }

    /// The header lines up to the empty line or the end. What is malformed is left out.
    fn headers(&mut self) -> Headers {
        let mut headers = Headers::with_capacity(24);
        while let Some((line, folded)) = self.line() {
            if line.is_empty() {
                break;
            }
            if headers.len() == self.limits.headers {
                self.fault(ParseError::TooManyHeaders);
                break;
            }
            match header(line) {
                Some((name, value)) => {
                    let folded = folded || value.contains(&b'\r');
                    let value = if folded {
                        Bytes::from(unfolded(value))
                    } else {
                        self.bytes.slice_ref(value)
                    };
                    headers.push(name, HeaderValue::from_line(value));
                }
                None => self.fault(ParseError::HeaderLine),
            }
        }
        headers
    }

    /// The next line with its continuations and without its line end, and whether it has any.
    fn line(&mut self) -> Option<(&'a [u8], bool)> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let line = logical_line(rest);
        self.at += line.whole;
        if line.whole > self.limits.line_bytes {
            self.fault(ParseError::LineTooLong);
        }
        Some((rest.get(..line.text)?, line.folded))
    }
}

/// One line with its continuations at the start of some bytes.
pub(super) struct Line {
    /// Length without the line end.
    pub(super) text: usize,
    /// Length with it.
    pub(super) whole: usize,
    /// Whether there is a line end inside.
    pub(super) folded: bool,
}

/// Measures the line at the start of `bytes`. It ends at an LF, usually after a CR, where the next line
/// does not begin with white space; or at the end of the bytes. An empty line is never continued.
pub(super) fn logical_line(bytes: &[u8]) -> Line {
    let mut at = 0;
    let mut folded = false;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(end) = lex::find(rest, b'\n') else {
            return Line {
                text: bytes.len(),
                whole: bytes.len(),
                folded,
            };
        };
        let whole = at + end + 1;
        let text = at
            + rest
                .get(..end)
                .map_or(0, |line| line.strip_suffix(b"\r").unwrap_or(line).len());
        if text > 0 && bytes.get(whole).is_some_and(|&next| lex::is_space(next)) {
            folded = true;
            at = whole;
            continue;
        }
        return Line {
            text,
            whole,
            folded,
        };
    }
}

/// Cuts a logical line into its name and its value, both trimmed. `None` when the name is no token.
pub(super) fn header(line: &[u8]) -> Option<(HeaderName, &[u8])> {
    let (name, value) = lex::split_once(line, b':')?;
    let name = lex::token(lex::trim_end(name))?;
    Some((HeaderName::from(name), trim_folds(value)))
}

fn trim_folds(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| lex::is_space(*byte) || matches!(byte, b'\r' | b'\n');
    let start = value
        .iter()
        .position(|byte| !blank(byte))
        .unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(|byte| !blank(byte))
        .map_or(start, |last| last + 1);
    value.get(start..end).unwrap_or_default()
}

/// Each line end with the white space around it becomes one space (RFC 3261 7.3.1), and so does a
/// carriage return that ends no line.
fn unfolded(value: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(value.len());
    for part in value
        .split(|byte| matches!(byte, b'\r' | b'\n'))
        .map(lex::trim)
        .filter(|part| !part.is_empty())
    {
        if !line.is_empty() {
            line.push(b' ');
        }
        line.extend_from_slice(part);
    }
    line
}

/// What the Content-Length lines say together; `None` when there are none.
pub(super) fn content_length<T: AsRef<[u8]>>(
    values: impl Iterator<Item = T>,
) -> Result<Option<usize>, ParseError> {
    let mut length = None;
    for value in values {
        let number = lex::number(value.as_ref()).and_then(|number| usize::try_from(number).ok());
        let number = number.ok_or(ParseError::Header("Content-Length"))?;
        if length
            .replace(number)
            .is_some_and(|before| before != number)
        {
            return Err(ParseError::Conflicting("Content-Length"));
        }
    }
    Ok(length)
}
