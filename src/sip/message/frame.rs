//! The framing of streams (RFC 3261 18.3).

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;

use crate::sip::message::HeaderName;
use crate::sip::message::Limits;
use crate::sip::message::ParseError;
use crate::sip::message::Parsed;
use crate::sip::message::lex;
use crate::sip::message::parse;

/// Why a stream cannot be read on. The connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The head is longer than a message may be.
    #[error("the head of a message is too long")]
    HeadTooLong,
    /// The body is longer than a message may be.
    #[error("a message is too long")]
    MessageTooLong,
    /// Where the message ends cannot be known: Content-Length is missing or malformed.
    #[error("a message has no usable Content-Length")]
    NoLength,
}

/// Cuts a byte stream into messages: several in a segment, one over many, keep-alives between them.
/// What comes out does not depend on how the stream was cut into segments.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    buffer: BytesMut,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Between messages; whether one CRLF of a double one has been read.
    Idle { crlf: bool },
    /// In a head: its bytes up to `line` are whole lines, and there is no line end in `line..scanned`.
    Head { line: usize, scanned: usize },
    /// The head is complete; the whole message has so many bytes.
    Body { whole: usize },
    /// The stream cannot be read on.
    Broken(FrameError),
}

impl Framer {
    /// A framer at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            buffer: BytesMut::new(),
            state: State::Idle { crlf: false },
        }
    }

    /// The buffer to read into: append only, then call [`Framer::next_message`] until it has nothing more.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Appends bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a message has begun and is not complete: its rest is to come within a deadline.
    pub fn is_mid_message(&self) -> bool {
        !self.buffer.is_empty() || matches!(self.state, State::Head { .. } | State::Body { .. })
    }

    /// The next message, keep-alive ping or refusal; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the stream cannot be read on. A request that shows this is first given out as refused.
    pub fn next_message(&mut self) -> Result<Option<Parsed>, FrameError> {
        loop {
            match self.state {
                State::Idle { crlf } => match self.skip_line_ends(crlf) {
                    Some(Skipped::Ping) => return Ok(Some(Parsed::KeepAlive { ping: true })),
                    Some(Skipped::All) => {
                        self.state = State::Head {
                            line: 0,
                            scanned: 0,
                        }
                    }
                    None => return Ok(None),
                },
                State::Head { line, scanned } => match self.scan_head(line, scanned) {
                    Some(head) => {
                        if let Some(refused) = self.end_of_head(head) {
                            return Ok(Some(refused));
                        }
                    }
                    None if matches!(self.state, State::Broken(_)) => {}
                    None => return Ok(None),
                },
                State::Body { whole } if self.buffer.len() < whole => {
                    self.buffer.reserve(whole - self.buffer.len());
                    return Ok(None);
                }
                State::Body { whole } => {
                    let message = self.buffer.split_to(whole).freeze();
                    self.state = State::Idle { crlf: false };
                    return Ok(Some(parse::parse_message(&message, &self.limits, None)));
                }
                State::Broken(error) => return Err(error),
            }
        }
    }

    /// Skips line ends before a message. Every second CRLF in a row is a ping (RFC 5626 3.5.1).
    fn skip_line_ends(&mut self, mut crlf: bool) -> Option<Skipped> {
        loop {
            match self.buffer.as_ref() {
                [b'\r', b'\n', ..] => {
                    self.buffer.advance(2);
                    crlf = !crlf;
                    self.state = State::Idle { crlf };
                    if !crlf {
                        return Some(Skipped::Ping);
                    }
                }
                [] | [b'\r'] => return None,
                [b'\r' | b'\n', ..] => self.buffer.advance(1),
                _ => return Some(Skipped::All),
            }
        }
    }

    /// Looks for the empty line, on from where the last look ended. Gives the length of the head with it.
    fn scan_head(&mut self, mut line: usize, mut scanned: usize) -> Option<usize> {
        while let Some(end) = self
            .buffer
            .get(scanned..)
            .and_then(|rest| lex::find(rest, b'\n'))
        {
            let end = scanned + end;
            if end >= self.limits.message_bytes || end - line > self.limits.line_bytes {
                self.state = State::Broken(FrameError::HeadTooLong);
                return None;
            }
            if matches!(self.buffer.get(line..end), Some(b"" | b"\r")) {
                return Some(end + 1);
            }
            (line, scanned) = (end + 1, end + 1);
        }
        let too_long = self.buffer.len() > self.limits.message_bytes
            || self.buffer.len() - line > self.limits.line_bytes;
        self.state = if too_long {
            State::Broken(FrameError::HeadTooLong)
        } else {
            State::Head {
                line,
                scanned: self.buffer.len(),
            }
        };
        None
    }

    /// Learns from a complete head how long the message is. Where it cannot, the request is refused and
    /// nothing more can be read.
    fn end_of_head(&mut self, head: usize) -> Option<Parsed> {
        let length = content_length(self.buffer.get(..head).unwrap_or_default());
        let error = match length {
            Ok(Some(length)) if head.saturating_add(length) <= self.limits.message_bytes => {
                self.state = State::Body {
                    whole: head + length,
                };
                return None;
            }
            Ok(Some(_)) => FrameError::MessageTooLong,
            Ok(None) | Err(_) => FrameError::NoLength,
        };
        self.state = State::Broken(error);
        let head = self.buffer.split_to(head).freeze();
        Some(refuse(&head, error, &self.limits))
    }
}

enum Skipped {
    Ping,
    All,
}

/// What the head says about the length of its body.
fn content_length(head: &[u8]) -> Result<Option<usize>, ParseError> {
    let mut rest = head;
    let lines = std::iter::from_fn(|| {
        let line = parse::logical_line(rest);
        let text = rest.get(..line.text).filter(|text| !text.is_empty())?;
        rest = rest.get(line.whole..).unwrap_or_default();
        Some(text)
    });
    let headers = lines.skip(1).filter_map(parse::header);
    parse::content_length(
        headers
            .filter(|(name, _)| *name == HeaderName::ContentLength)
            .map(|(_, value)| value),
    )
}

/// Refuses a message whose end is not known by its head alone.
fn refuse(head: &Bytes, error: FrameError, limits: &Limits) -> Parsed {
    let fault = match error {
        FrameError::NoLength => ParseError::Header("Content-Length"),
        FrameError::HeadTooLong | FrameError::MessageTooLong => ParseError::TooLarge,
    };
    parse::parse_message(head, limits, Some(fault))
}

#[cfg(test)]
mod tests {
    use super::FrameError;
    use super::Framer;
    use crate::sip::message::Limits;
    use crate::sip::message::Message;
    use crate::sip::message::Parsed;
    use crate::sip::message::StatusCode;

    const HEAD: &str = "Via: SIP/2.0/TCP h;branch=z9hG4bKa\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n\
        Call-ID: x\r\nCSeq: 1 OPTIONS\r\n";

    fn options(body: &str) -> String {
        format!(
            "OPTIONS sip:a@b SIP/2.0\r\n{HEAD}l\t:\r\n {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn all(framer: &mut Framer) -> Vec<Result<Parsed, FrameError>> {
        std::iter::from_fn(|| framer.next_message().transpose())
            .take(20)
            .collect()
    }

    fn bodies(outcomes: &[Result<Parsed, FrameError>]) -> Vec<String> {
        let body = |outcome: &Result<Parsed, FrameError>| match outcome {
            Ok(Parsed::Message(Message::Request(request))) => {
                String::from_utf8(request.body.to_vec()).unwrap()
            }
            Ok(Parsed::KeepAlive { ping: true }) => "ping".to_owned(),
            other => format!("{other:?}"),
        };
        outcomes.iter().map(body).collect()
    }

    #[test]
    fn messages_and_pings_come_out_in_order_however_they_are_cut() {
        let stream = format!(
            "\r\n{}\r\n\r\n{}\r\n{}\r\n\r\n\r\n\r\n",
            options("one\r\n\r\n"),
            options(""),
            options("three")
        );
        let expected = ["one\r\n\r\n", "ping", "", "three", "ping", "ping"];
        for size in [1, 2, 3, 7, 64, 150, stream.len()] {
            let mut framer = Framer::new(Limits::default());
            let mut outcomes = Vec::new();
            for segment in stream.as_bytes().chunks(size) {
                framer.push(segment);
                outcomes.extend(all(&mut framer));
            }
            assert_eq!(bodies(&outcomes), expected, "segments of {size}");
            assert!(!framer.is_mid_message());
        }
    }

    #[test]
    fn it_knows_when_it_waits_for_the_rest_of_a_message() {
        let message = options("body");
        let mut framer = Framer::new(Limits::default());
        for byte in message.bytes().take(message.len() - 1) {
            framer.push(&[byte]);
            assert_eq!(framer.next_message(), Ok(None));
            assert!(framer.is_mid_message());
        }
        framer.push(b"y");
        assert_eq!(bodies(&all(&mut framer)), ["body"]);
        assert!(!framer.is_mid_message());
    }

    #[test]
    fn a_request_without_usable_length_is_refused_and_ends_the_stream() {
        for length in [
            "",
            "Content-Length: -1\r\n",
            "Content-Length: 1\r\nl: 2\r\n",
            "l: 99999999999\r\n",
        ] {
            let mut framer = Framer::new(Limits::default());
            framer.push(
                format!(
                    "OPTIONS sip:a@b SIP/2.0\r\n{HEAD}{length}\r\nxx{}",
                    options("")
                )
                .as_bytes(),
            );
            let Ok(Some(Parsed::Refused { status, .. })) = framer.next_message() else {
                panic!("{length}")
            };
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert_eq!(framer.next_message(), Err(FrameError::NoLength));
            assert_eq!(framer.next_message(), Err(FrameError::NoLength));
        }
    }

    #[test]
    fn a_malformed_message_of_known_length_does_not_end_the_stream() {
        let mut framer = Framer::new(Limits::default());
        framer.push(options("").replace("CSeq: 1 O", "CSeq: 1 X").as_bytes());
        framer.push(options("next").as_bytes());
        assert!(matches!(
            framer.next_message(),
            Ok(Some(Parsed::Refused { .. }))
        ));
        assert_eq!(bodies(&all(&mut framer)), ["next"]);
    }

    #[test]
    fn what_is_longer_than_the_limits_ends_the_stream() {
        let limits = Limits {
            message_bytes: 400,
            headers: 10,
            line_bytes: 100,
        };
        let outcome = |stream: &str, size: usize| {
            let mut framer = Framer::new(limits);
            for segment in stream.as_bytes().chunks(size) {
                framer.push(segment);
                match framer.next_message() {
                    Ok(None) => {}
                    Ok(Some(Parsed::Refused { status, .. })) => {
                        assert_eq!(status, StatusCode::MESSAGE_TOO_LARGE);
                    }
                    Ok(Some(other)) => return Ok(other),
                    Err(error) => return Err(error),
                }
            }
            framer
                .next_message()
                .map(|_| panic!("{stream} is let pass"))
        };
        let long_line = format!("OPTIONS sip:{} SIP/2.0\r\n\r\n", "a".repeat(100));
        let long_head = format!("OPTIONS sip:a@b SIP/2.0\r\n{}", "X: y\r\n".repeat(100));
        let long_body = options(&"b".repeat(400));
        for size in [1, 5, 1000] {
            assert_eq!(outcome(&long_line, size), Err(FrameError::HeadTooLong));
            assert_eq!(outcome(&long_head, size), Err(FrameError::HeadTooLong));
            assert_eq!(outcome(&long_body, size), Err(FrameError::MessageTooLong));
        }
    }
}
