//! SIP messages as RFC 3261 section 7 has them: reading, writing, limits, and the framing of streams.
//!
//! Reading is tolerant where a message has one meaning (RFC 4475), and refuses where it has none or
//! two. What cannot be used is either [`Parsed::Refused`], to be answered, or [`Parsed::Dropped`].

use bytes::Bytes;

mod check;
mod frame;
mod headers;
mod host;
pub(in crate::sip) mod lex;
mod params;
mod parse;
pub(in crate::sip) mod raw;
mod status;
mod uri;
mod write;

pub use frame::FrameError;
pub use frame::Framer;
pub use headers::HeaderName;
pub use headers::HeaderValue;
pub use headers::Headers;
pub use host::Host;
pub use params::Params;
pub use parse::parse_datagram;
pub use status::StatusCode;
pub use uri::InvalidUri;
pub use uri::Scheme;
pub use uri::Uri;

/// A request method. Methods compare case-sensitively (RFC 3261 7.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Method {
    /// RFC 3261.
    Invite,
    /// RFC 3261.
    Ack,
    /// RFC 3261.
    Bye,
    /// RFC 3261.
    Cancel,
    /// RFC 3261.
    Options,
    /// RFC 6086.
    Info,
    /// RFC 3262.
    Prack,
    /// RFC 3311.
    Update,
    /// RFC 3261.
    Register,
    /// Any other token.
    Other(Box<str>),
}

impl Method {
    /// The method as it is written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Invite => "INVITE",
            Self::Ack => "ACK",
            Self::Bye => "BYE",
            Self::Cancel => "CANCEL",
            Self::Options => "OPTIONS",
            Self::Info => "INFO",
            Self::Prack => "PRACK",
            Self::Update => "UPDATE",
            Self::Register => "REGISTER",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for Method {
    fn from(name: &str) -> Self {
        match name {
            "INVITE" => Self::Invite,
            "ACK" => Self::Ack,
            "BYE" => Self::Bye,
            "CANCEL" => Self::Cancel,
            "OPTIONS" => Self::Options,
            "INFO" => Self::Info,
            "PRACK" => Self::Prack,
            "UPDATE" => Self::Update,
            "REGISTER" => Self::Register,
            other => Self::Other(other.into()),
        }
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request (RFC 3261 7.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub method: Method,
    /// The Request-URI.
    pub uri: Uri,
    /// Header lines in order; Content-Length is made right when writing.
    pub headers: Headers,
    /// The body, exactly Content-Length bytes.
    pub body: Bytes,
}

impl Request {
    /// A request without headers and body.
    pub fn new(method: Method, uri: Uri) -> Self {
        Self {
            method,
            uri,
            headers: Headers::default(),
            body: Bytes::new(),
        }
    }

    /// A response to this request with what every response mirrors (RFC 3261 8.2.6.2): all Via lines,
    /// From, To, Call-ID and CSeq, and Timestamp in a 100. The To tag is left to the caller.
    pub fn response(&self, status: StatusCode) -> Response {
        let mut headers = Headers::default();
        for (name, value) in self.headers.iter() {
            let mirrored = match name {
                HeaderName::Via => true,
                HeaderName::From | HeaderName::To | HeaderName::CallId | HeaderName::CSeq => {
                    headers.get(name).is_none()
                }
                HeaderName::Timestamp => status == StatusCode::TRYING,
                _ => false,
            };
            if mirrored {
                headers.push(name.clone(), value.clone());
            }
        }
        Response {
            status,
            reason: status.reason().into(),
            headers,
            body: Bytes::new(),
        }
    }
}

/// A response (RFC 3261 7.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: StatusCode,
    /// The reason phrase, for people only.
    pub reason: Box<str>,
    /// Header lines in order; Content-Length is made right when writing.
    pub headers: Headers,
    /// The body, exactly Content-Length bytes.
    pub body: Bytes,
}

impl Response {
    /// A response with the usual reason phrase, without headers and body.
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            reason: status.reason().into(),
            headers: Headers::default(),
            body: Bytes::new(),
        }
    }
}

/// A request or a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A request.
    Request(Request),
    /// A response.
    Response(Response),
}

impl Message {
    /// The headers of either.
    pub fn headers(&self) -> &Headers {
        match self {
            Self::Request(request) => &request.headers,
            Self::Response(response) => &response.headers,
        }
    }

    /// The body of either.
    pub fn body(&self) -> &Bytes {
        match self {
            Self::Request(request) => &request.body,
            Self::Response(response) => &response.body,
        }
    }
}

/// Why bytes are no acceptable message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The first line is that of no SIP message.
    #[error("Malformed Start Line")]
    StartLine,
    /// A version other than SIP/2.0.
    #[error("SIP Version Not Supported")]
    Version,
    /// The Request-URI is malformed, holds white space or headers, or stands in `<>`.
    #[error("Malformed Request-URI")]
    RequestUri,
    /// A status code that is not three digits between 100 and 699.
    #[error("Malformed Status Code")]
    StatusCode,
    /// A header line without a colon, or whose name is no token.
    #[error("Malformed Header Line")]
    HeaderLine,
    /// A mandatory header is not there.
    #[error("Missing {0} Header")]
    Missing(&'static str),
    /// A header that must be understood is malformed or out of range.
    #[error("Malformed {0} Header")]
    Header(&'static str),
    /// A header that may stand once stands there with different values.
    #[error("Conflicting {0} Headers")]
    Conflicting(&'static str),
    /// The method in CSeq is not the request's.
    #[error("CSeq Method Mismatch")]
    CSeqMethod,
    /// The body is shorter than Content-Length says.
    #[error("Body Shorter Than Content-Length")]
    Truncated,
    /// More header lines than [`Limits::headers`].
    #[error("Too Many Headers")]
    TooManyHeaders,
    /// A line longer than [`Limits::line_bytes`].
    #[error("Line Too Long")]
    LineTooLong,
    /// A message longer than [`Limits::message_bytes`].
    #[error("Message Too Large")]
    TooLarge,
}

impl ParseError {
    /// The status that a request with this fault is refused with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Version => StatusCode::VERSION_NOT_SUPPORTED,
            Self::TooManyHeaders | Self::LineTooLong | Self::TooLarge => {
                StatusCode::MESSAGE_TOO_LARGE
            }
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// A reason phrase that says what is wrong.
    pub fn why(self) -> &'static str {
        match self {
            Self::StartLine => "Malformed Start Line",
            Self::Version => "Version Not Supported",
            Self::RequestUri => "Malformed Request-URI",
            Self::StatusCode => "Malformed Status Code",
            Self::HeaderLine => "Malformed Header Line",
            Self::Missing("CSeq") => "Missing CSeq Header",
            Self::Missing(_) => "Missing Mandatory Header",
            Self::Header("Via") => "Malformed Via Header",
            Self::Header("From") => "Malformed From Header",
            Self::Header("To") => "Malformed To Header",
            Self::Header("Contact") => "Malformed Contact Header",
            Self::Header("CSeq") => "Malformed CSeq Header",
            Self::Header("Max-Forwards") => "Malformed Max-Forwards Header",
            Self::Header("Content-Length") => "Malformed Content-Length Header",
            Self::Header(_) => "Malformed Header",
            Self::Conflicting(_) => "Conflicting Headers",
            Self::CSeqMethod => "CSeq Method Mismatch",
            Self::Truncated => "Body Shorter Than Content-Length",
            Self::TooManyHeaders => "Too Many Headers",
            Self::LineTooLong => "Line Too Long",
            Self::TooLarge => "Message Too Large",
        }
    }

    /// A short name for counters: one of a small, fixed set.
    pub fn label(self) -> &'static str {
        match self {
            Self::StartLine => "start_line",
            Self::Version => "version",
            Self::RequestUri => "request_uri",
            Self::StatusCode => "status_code",
            Self::HeaderLine => "header_line",
            Self::Missing(_) => "missing_header",
            Self::Header(_) => "malformed_header",
            Self::Conflicting(_) => "conflicting_headers",
            Self::CSeqMethod => "cseq_method",
            Self::Truncated => "truncated",
            Self::TooManyHeaders => "too_many_headers",
            Self::LineTooLong => "line_too_long",
            Self::TooLarge => "too_large",
        }
    }
}

/// Outcome of reading one datagram or one framed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// A message that may be processed.
    Message(Message),
    /// A request that must be refused. It is never an ACK, and has Via, From, To and Call-ID to mirror;
    /// anything else of it may be missing or malformed.
    Refused {
        /// What could be read of it.
        request: Box<Request>,
        /// 400, 505 or 513.
        status: StatusCode,
        /// A reason phrase to say why.
        why: &'static str,
    },
    /// Keep-alive: nothing but line ends (RFC 5626 4.4.1).
    KeepAlive {
        /// It was the double CRLF that wants a single one back.
        ping: bool,
    },
    /// To be dropped and counted under this reason.
    Dropped(ParseError),
}

/// Limits on what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A whole message, in bytes.
    pub message_bytes: usize,
    /// Header lines in a message.
    pub headers: usize,
    /// The start line, or a header line with its continuations, in bytes.
    pub line_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 65_535,
            headers: 256,
            line_bytes: 8_192,
        }
    }
}

#[cfg(test)]
mod tests;
