use bytes::Bytes;

use super::HeaderName;
use super::Limits;
use super::Message;
use super::Method;
use super::ParseError;
use super::Parsed;
use super::Request;
use super::Response;
use super::StatusCode;
use super::Uri;
use super::parse_datagram;

const REQUEST: &str = "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKa\r\nFrom: <sip:a@b>;tag=1\r\n\
    To: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n";
const RESPONSE: &str = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKa\r\nFrom: <sip:a@b>;tag=1\r\n\
    To: <sip:c@d>;tag=2\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n";

fn parse(text: impl AsRef<[u8]>) -> Parsed {
    parse_datagram(&Bytes::copy_from_slice(text.as_ref()), &Limits::default())
}

fn request(text: impl AsRef<[u8]>) -> Request {
    match parse(text) {
        Parsed::Message(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn refusal(text: impl AsRef<[u8]>) -> (u16, &'static str) {
    match parse(text) {
        Parsed::Refused { status, why, .. } => (status.code(), why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_body_ends_where_content_length_says_or_the_datagram_ends() {
    assert_eq!(request(format!("{REQUEST}l: 2\r\n\r\nbody")).body, "bo");
    assert_eq!(request(format!("{REQUEST}\r\nbody")).body, "body");
    assert_eq!(
        request(format!("{REQUEST}l: 4\r\nContent-Length: 04\r\n\r\nbody")).body,
        "body"
    );
    assert_eq!(
        refusal(format!("{REQUEST}l: 5\r\n\r\nbody")),
        (400, ParseError::Truncated.why())
    );
}

#[test]
fn values_are_slices_of_the_datagram() {
    let datagram = Bytes::from(format!("{REQUEST}X: \t some value \t\r\n\r\nbody"));
    let Parsed::Message(message) = parse_datagram(&datagram, &Limits::default()) else {
        panic!()
    };
    let inside = |part: &[u8]| datagram.as_ptr_range().contains(&part.as_ptr());
    let value = message.headers().get(&HeaderName::from("x")).unwrap();
    assert_eq!(value.as_bytes(), b"some value");
    assert!(inside(value.as_bytes()) && inside(message.body()));
}

#[test]
fn folds_and_stray_carriage_returns_become_one_space() {
    let request = request(format!(
        "{REQUEST}X: a \r\n\t b\r\n \r\n  c\rd\r\nY:\r\n\r\n"
    ));
    assert_eq!(
        request.headers.get(&"X".into()).unwrap().as_str(),
        Some("a b c d")
    );
    assert_eq!(request.headers.get(&"Y".into()).unwrap().as_str(), Some(""));
}

#[test]
fn bare_line_feeds_end_lines_too() {
    assert_eq!(
        request(format!("{REQUEST}l: 4\r\n\r\nbody").replace("\r\n", "\n")).body,
        "body"
    );
}

#[test]
fn keep_alives_are_told_apart() {
    assert_eq!(parse("\r\n\r\n"), Parsed::KeepAlive { ping: true });
    assert_eq!(parse("\r\n"), Parsed::KeepAlive { ping: false });
    assert_eq!(parse(""), Parsed::KeepAlive { ping: false });
}

#[test]
fn the_first_fault_decides_the_refusal() {
    let seven = REQUEST.replace("SIP/2.0\r", "SIP/7.0\r");
    assert_eq!(
        refusal(format!("{seven}Max-Forwards: -1\r\n\r\n")),
        (505, ParseError::Version.why())
    );
    assert_eq!(
        refusal(format!("{REQUEST}Max-Forwards: 256\r\n\r\n")).0,
        400
    );
    assert_eq!(
        refusal(REQUEST.replace("sip:a@b SIP", "sip:a@b; lr SIP")),
        (400, ParseError::RequestUri.why())
    );
    assert_eq!(
        refusal(REQUEST.replace("OPTIONS sip", "OPT[ sip")).1,
        ParseError::StartLine.why()
    );
    assert_eq!(
        refusal(REQUEST.replace(" SIP/2.0\r", "\r")).1,
        ParseError::StartLine.why()
    );
    assert_eq!(
        refusal(REQUEST.replace("1 OPTIONS", "1 INFO")),
        (400, ParseError::CSeqMethod.why())
    );
}

#[test]
fn a_refused_request_can_be_answered() {
    let Parsed::Refused {
        request, status, ..
    } = parse(REQUEST.replace("sip:a@b SIP", "sip:a b SIP"))
    else {
        panic!()
    };
    let response = request.response(status).to_bytes();
    assert_eq!(
        response,
        "SIP/2.0 400 Bad Request\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKa\r\nFrom: <sip:a@b>;tag=1\r\n\
         To: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    );
}

#[test]
fn what_cannot_be_answered_is_dropped() {
    let dropped = |text: &str| matches!(parse(text), Parsed::Dropped(_));
    for name in ["Via", "From", "To", "Call-ID"] {
        assert!(
            dropped(&REQUEST.replace(&format!("{name}:"), "X:")),
            "{name}"
        );
    }
    assert!(dropped(&REQUEST.replace("OPTIONS sip", "ACK sip")));
    assert!(dropped("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert!(dropped("\0\u{1}\0\u{8}"));
}

#[test]
fn limits_are_kept() {
    let with = |limits: &Limits, text: String| match parse_datagram(&Bytes::from(text), limits) {
        Parsed::Refused { status, why, .. } => (status.code(), why),
        other => panic!("{other:?}"),
    };
    let limits = Limits {
        message_bytes: 1_000,
        headers: 6,
        line_bytes: 100,
    };
    let long = format!("{REQUEST}X: {}\r\n\r\n", "x".repeat(100));
    assert_eq!(with(&limits, long), (513, ParseError::LineTooLong.why()));
    assert_eq!(
        with(&limits, format!("{REQUEST}A: 1\r\nB: 2\r\n\r\n")),
        (513, ParseError::TooManyHeaders.why())
    );
    assert_eq!(
        with(&limits, format!("{REQUEST}\r\n{}", "x".repeat(1_000))),
        (513, ParseError::TooLarge.why())
    );
}

#[test]
fn responses_are_read_with_any_reason_or_dropped() {
    let response = |text: &str| match parse(text) {
        Parsed::Message(Message::Response(response)) => {
            Ok((response.status.code(), response.reason.into_string()))
        }
        Parsed::Dropped(error) => Err(error),
        other => panic!("{other:?}"),
    };
    let line = |line: &str| response(&RESPONSE.replace("SIP/2.0 200 OK", line));
    assert_eq!(line("SIP/2.0 200 OK"), Ok((200, "OK".to_owned())));
    assert_eq!(line("SIP/2.0 100 "), Ok((100, String::new())));
    assert_eq!(line("SIP/2.0 100"), Ok((100, String::new())));
    assert_eq!(
        line("sip/2.0 699 = 2**3 \u{448}"),
        Ok((699, "= 2**3 \u{448}".to_owned()))
    );
    for wrong in [
        "SIP/2.0 99 x",
        "SIP/2.0 700 x",
        "SIP/2.0 4294967301 x",
        "SIP/2.0 0200 x",
        "SIP/2.0 2x0 x",
    ] {
        assert_eq!(line(wrong), Err(ParseError::StatusCode), "{wrong}");
    }
    assert_eq!(line("SIP/3.0 200 OK"), Err(ParseError::Version));
    assert_eq!(
        line("SIP/2.0 200 OK\r\n folded"),
        Err(ParseError::StartLine)
    );
    assert_eq!(
        response(&RESPONSE.replace("1 OPT", "4294967296 OPT")),
        Err(ParseError::Header("CSeq"))
    );
}

#[test]
fn nothing_that_is_written_can_start_a_line() {
    let mut request = Request::new(Method::from("X\r\nA: 1"), Uri::parse("sip:a@b").unwrap());
    request.uri.user = Some("a\r\nB: 2".into());
    request
        .headers
        .push(HeaderName::Other("C\r\nD".into()), "v\r\nE: 3");
    let mut response = Response::new(StatusCode::OK);
    response.reason = "no\r\nF: 4".into();
    let lines = |bytes: Bytes| bytes.split(|&byte| byte == b'\n').count();
    assert_eq!(lines(request.to_bytes()), 5);
    assert_eq!(lines(response.to_bytes()), 4);
}

#[test]
fn content_length_is_always_written_right() {
    let mut request = request(format!("{REQUEST}l: 0\r\nSubject: z\r\nl: 0\r\n\r\n"));
    request.body = "four".into();
    let text = String::from_utf8(request.to_bytes().to_vec()).unwrap();
    assert!(
        text.ends_with("Content-Length: 4\r\nSubject: z\r\n\r\nfour"),
        "{text}"
    );
}

#[test]
fn every_code_has_a_reason() {
    assert_eq!(StatusCode::new(486).unwrap().reason(), "Busy Here");
    assert!((100..=699).all(|code| !StatusCode::new(code).unwrap().reason().is_empty()));
    assert_eq!((StatusCode::new(99), StatusCode::new(700)), (None, None));
}
