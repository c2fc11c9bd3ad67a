//! The message layer against arbitrary input, and against an implementation that is not ours.

use aftertone::sip::header::CSeq;
use aftertone::sip::header::NameAddr;
use aftertone::sip::header::Via;
use aftertone::sip::message::FrameError;
use aftertone::sip::message::Framer;
use aftertone::sip::message::HeaderName;
use aftertone::sip::message::Limits;
use aftertone::sip::message::Message;
use aftertone::sip::message::Method;
use aftertone::sip::message::Parsed;
use aftertone::sip::message::Request;
use aftertone::sip::message::Uri;
use aftertone::sip::message::parse_datagram;
use bytes::Bytes;
use proptest::prelude::*;
use rsip::headers::ToTypedHeader;
use rsip::headers::UntypedHeader;
use rsip::prelude::HeadersExt;

mod corpus;

fn parse(bytes: &[u8]) -> Parsed {
    parse_datagram(&Bytes::copy_from_slice(bytes), &Limits::default())
}

/// Reads everything that a message offers; nothing of it may panic.
fn touch(message: &Message) {
    let headers = message.headers();
    let values = [
        HeaderName::Contact,
        HeaderName::Route,
        HeaderName::PAssertedIdentity,
    ];
    let addresses = values.iter().flat_map(|name| headers.addresses(name));
    let history = headers.history().into_iter().map(|entry| {
        let _unused = (
            entry.index(),
            entry.cause(),
            entry.reasons(),
            entry.is_private(),
        );
        entry.target
    });
    let diversions = headers.diversions().map(|diversion| diversion.by);
    for address in headers
        .from()
        .into_iter()
        .chain(headers.to())
        .chain(addresses)
        .chain(history)
        .chain(diversions)
    {
        assert!(address.uri.is_equivalent(&address.uri), "{address}");
        let _unused = (
            address.uri.dialled(),
            address.uri.user_decoded(),
            address.uri.target_param(),
        );
        assert_eq!(
            NameAddr::parse(address.to_string()).map(|again| again.uri),
            Ok(address.uri)
        );
    }
    let _unused = (
        headers.top_via(),
        headers.cseq(),
        headers.session_expires(),
        headers.min_se(),
        headers.rack(),
    );
    let _unused = (
        headers.content_type(),
        headers.accept().count(),
        headers.reasons().count(),
        headers.hides_caller(),
    );
}

/// What a message reads as, when it is written and read again.
fn again(message: &Message) -> Parsed {
    parse_datagram(
        &message.to_bytes(),
        &Limits {
            message_bytes: usize::MAX,
            line_bytes: usize::MAX,
            headers: 1000,
        },
    )
}

fn without_length(mut message: Message) -> Message {
    match &mut message {
        Message::Request(request) => request.headers.remove(&HeaderName::ContentLength),
        Message::Response(response) => response.headers.remove(&HeaderName::ContentLength),
    }
    message
}

fn check_any(bytes: &[u8]) {
    let message = match parse(bytes) {
        Parsed::Message(message) => {
            let Parsed::Message(again) = again(&message) else {
                panic!("{message:?} is not read again")
            };
            assert_eq!(without_length(again), without_length(message.clone()));
            message
        }
        Parsed::Refused { request, .. } => Message::Request(*request),
        Parsed::KeepAlive { .. } | Parsed::Dropped(_) => return,
    };
    touch(&message);
}

fn framed(stream: &[u8], sizes: impl Iterator<Item = usize>) -> Vec<Result<Parsed, FrameError>> {
    let mut framer = Framer::new(Limits::default());
    let mut outcomes = Vec::new();
    let mut rest = stream;
    for size in sizes {
        let (segment, after) = rest.split_at(size.clamp(1, rest.len().max(1)).min(rest.len()));
        framer.push(segment);
        rest = after;
        while let Some(outcome) = framer.next_message().transpose() {
            let ended = outcome.is_err();
            outcomes.push(outcome);
            if ended {
                return outcomes;
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    outcomes
}

fn samples() -> Vec<Vec<u8>> {
    ["rfc4475", "rfc4475_more"]
        .into_iter()
        .flat_map(corpus::load)
        .map(|case| case.bytes)
        .collect()
}

/// One of the torture messages with some bytes replaced, removed or repeated.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        any::<u8>(),
        proptest::sample::select(b" \t\r\n:;,<>\"\\@%=?[]/0".to_vec())
    ];
    let edits = proptest::collection::vec((any::<proptest::sample::Index>(), 0..4u8, byte), 0..12);
    (proptest::sample::select(samples()), edits).prop_map(|(mut bytes, edits)| {
        for (place, kind, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = place.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        check_any(&bytes);
    }

    #[test]
    fn mutated_messages_are_read_without_panic_and_read_the_same_after_writing(bytes in mutated()) {
        check_any(&bytes);
    }

    #[test]
    fn framing_does_not_depend_on_segments(
        messages in proptest::collection::vec(mutated(), 1..4),
        sizes in proptest::collection::vec(1..300usize, 1..20),
    ) {
        let stream = messages.concat();
        let whole = framed(&stream, std::iter::repeat(stream.len()));
        prop_assert_eq!(&framed(&stream, std::iter::repeat(1)), &whole);
        prop_assert_eq!(&framed(&stream, sizes.into_iter().cycle()), &whole);
    }

    #[test]
    fn values_of_text_survive_writing_and_reading(display in any::<String>(), text in any::<String>()) {
        let mut address = NameAddr::new(Uri::parse("sip:a@b").unwrap());
        address.display = Some(display.replace(['\r', '\n'], "").into());
        address.params.set("text", Some(text.replace(['\r', '\n'], "").as_str()));
        prop_assert_eq!(NameAddr::parse(address.to_string()), Ok(address));
    }

    #[test]
    fn requests_that_rsip_builds_are_read_alike(
        user in "[a-z0-9+._-]{1,12}", host in "[a-z]{1,8}\\.[a-z]{2,3}", port in 1..=u16::MAX, tag in "[a-z0-9]{1,10}",
        branch in "[A-Za-z0-9]{1,20}", number in 0..1u32 << 31, body in "[ -~\r\n]{0,200}",
    ) {
        let uri: rsip::Uri = format!("sip:{user}@{host}:{port};user=phone").as_str().try_into().unwrap();
        let length = u32::try_from(body.len()).unwrap();
        let built = rsip::Request {
            method: rsip::Method::Invite,
            uri,
            version: rsip::Version::V2,
            headers: vec![
                rsip::headers::Via::new(format!("SIP/2.0/TCP {host}:{port};branch=z9hG4bK{branch}")).into(),
                rsip::headers::From::new(format!("\"{user}\" <sip:{user}@{host}>;tag={tag}")).into(),
                rsip::headers::To::new(format!("<sip:{user}@{host}>")).into(),
                rsip::headers::CallId::new(format!("{branch}@{host}")).into(),
                rsip::headers::CSeq::new(format!("{number} INVITE")).into(),
                rsip::headers::ContentLength::from(length).into(),
            ].into(),
            body: body.clone().into_bytes(),
        };
        let bytes: Vec<u8> = rsip::SipMessage::Request(built).into();
        let Parsed::Message(Message::Request(read)) = parse(&bytes) else { panic!("{:?}", parse(&bytes)) };
        prop_assert_eq!(&read.method, &Method::Invite);
        prop_assert_eq!(read.uri.user.as_deref(), Some(user.as_str()));
        prop_assert_eq!(read.uri.port, Some(port));
        prop_assert_eq!(read.uri.params.value("user"), Some("phone"));
        let via = read.headers.top_via().unwrap();
        prop_assert_eq!((via.host.to_string(), via.port, &*via.transport), (host, Some(port), "TCP"));
        prop_assert_eq!(via.branch().unwrap(), format!("z9hG4bK{branch}"));
        let from = read.headers.from().unwrap();
        prop_assert_eq!((from.tag(), from.display.as_deref()), (Some(tag.as_str()), Some(user.as_str())));
        prop_assert_eq!(read.headers.cseq(), Some(CSeq { number, method: Method::Invite }));
        prop_assert_eq!(read.body, body);
    }

    #[test]
    fn requests_that_we_write_are_read_alike_by_rsip(
        user in "[a-z0-9+._-]{1,12}", host in "[a-z]{1,8}\\.[a-z]{2,3}", tag in "[a-z0-9]{1,10}",
        branch in "[A-Za-z0-9]{1,20}", number in 0..1u32 << 31, body in "[ -~]{0,200}",
    ) {
        let uri = Uri::parse(&format!("sip:{user}@{host};transport=tcp")).unwrap();
        let mut request = Request::new(Method::Bye, uri.clone());
        let via = Via::parse(format!("SIP/2.0/UDP {host}:5060;branch=z9hG4bK{branch};rport")).unwrap();
        request.headers.push(HeaderName::Via, via.to_string());
        request.headers.push(HeaderName::From, NameAddr::new(uri.clone()).with_tag(&tag).to_string());
        request.headers.push(HeaderName::To, NameAddr::new(uri).to_string());
        request.headers.push(HeaderName::CallId, branch.as_str());
        request.headers.push(HeaderName::CSeq, CSeq { number, method: Method::Bye }.to_string());
        request.body = body.clone().into();
        let rsip::SipMessage::Request(read) = rsip::SipMessage::try_from(request.to_bytes().as_ref()).unwrap() else {
            panic!("a request became a response");
        };
        prop_assert_eq!(read.method, rsip::Method::Bye);
        prop_assert_eq!(read.uri.to_string(), format!("sip:{user}@{host};transport=TCP"));
        let (via, from) = (read.via_header().unwrap().typed().unwrap(), read.from_header().unwrap().typed().unwrap());
        prop_assert_eq!(via.branch().unwrap().value(), format!("z9hG4bK{branch}"));
        prop_assert_eq!(from.tag().unwrap().value(), tag);
        prop_assert_eq!(read.cseq_header().unwrap().typed().unwrap().seq, number);
        prop_assert_eq!(read.body, body.into_bytes());
    }
}
