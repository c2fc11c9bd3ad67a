//! The torture messages of RFC 4475 and RFC 5118, read by the parser alone.

mod corpus;

use aftertone::sip::message::Framer;
use aftertone::sip::message::HeaderName;
use aftertone::sip::message::Limits;
use aftertone::sip::message::Message;
use aftertone::sip::message::Parsed;
use aftertone::sip::message::Request;
use aftertone::sip::message::Response;
use aftertone::sip::message::parse_datagram;
use bytes::Bytes;
use corpus::Case;

/// What the parser may say to a message: it refuses with 400 and 505 itself, and leaves every other
/// decision to the endpoint.
fn is_expected(case: &Case, parsed: &Parsed) -> bool {
    match parsed {
        Parsed::Message(Message::Request(_)) => case
            .expect
            .iter()
            .any(|expect| !matches!(expect.as_str(), "400" | "505" | "drop")),
        Parsed::Message(Message::Response(_)) | Parsed::Dropped(_) => case.allows("drop"),
        Parsed::Refused { status, .. } => case.allows(&status.code().to_string()),
        Parsed::KeepAlive { .. } => false,
    }
}

fn check(folder: &str, at_least: usize) {
    let cases = corpus::load(folder);
    assert!(cases.len() >= at_least, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let parsed = parse_datagram(&Bytes::from(case.bytes.clone()), &Limits::default());
        if !is_expected(case, &parsed) {
            wrong.push(format!(
                "{}: wanted {:?}, got {parsed:?}",
                case.name, case.expect
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn messages_of_rfc_4475_are_accepted_refused_or_dropped_as_the_table_says() {
    check("rfc4475", 34);
}

#[test]
fn their_kin_are_accepted_refused_or_dropped_as_the_table_says() {
    check("rfc4475_more", 55);
}

#[test]
fn what_is_accepted_reads_the_same_after_writing() {
    for case in ["rfc4475", "rfc4475_more"]
        .into_iter()
        .flat_map(corpus::load)
    {
        let read = |bytes: &Bytes| match parse_datagram(bytes, &Limits::default()) {
            Parsed::Message(message) => Some(message),
            _ => None,
        };
        let Some(mut message) = read(&Bytes::from(case.bytes)) else {
            continue;
        };
        let mut again = read(&message.to_bytes()).expect(&case.name);
        for message in [&mut message, &mut again] {
            let (Message::Request(Request { headers, .. })
            | Message::Response(Response { headers, .. })) = message;
            headers.remove(&HeaderName::ContentLength);
        }
        assert_eq!(message, again, "{}", case.name);
    }
}

#[test]
fn a_stream_gives_what_a_datagram_gives_and_goes_on() {
    let next = "OPTIONS sip:next@example.com SIP/2.0\r\nContent-Length: 0\r\n\r\n";
    for case in ["rfc4475", "rfc4475_more"]
        .into_iter()
        .flat_map(corpus::load)
    {
        let bytes = Bytes::from(case.bytes);
        let parsed = parse_datagram(&bytes, &Limits::default());
        let Parsed::Message(message) = &parsed else {
            continue;
        };
        let complete = bytes.windows(4).any(|four| four == b"\r\n\r\n");
        if !complete || !message.headers().has(&HeaderName::ContentLength) {
            continue;
        }
        let mut framer = Framer::new(Limits::default());
        framer.push(&bytes);
        framer.push(next.as_bytes());
        let mut framed = framer.next_message();
        if framed == Ok(Some(Parsed::KeepAlive { ping: true })) {
            framed = framer.next_message();
        }
        assert_eq!(framed, Ok(Some(parsed)), "{}", case.name);
        assert!(
            matches!(framer.next_message(), Ok(Some(_))),
            "{}",
            case.name
        );
    }
}
