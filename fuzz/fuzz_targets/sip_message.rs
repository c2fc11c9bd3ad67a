//! Any datagram is read without panic, and what is accepted reads the same after writing.
#![no_main]

use aftertone::sip::message::HeaderName;
use aftertone::sip::message::Limits;
use aftertone::sip::message::Message;
use aftertone::sip::message::Parsed;
use aftertone::sip::message::parse_datagram;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const UNLIMITED: Limits = Limits { message_bytes: usize::MAX, headers: usize::MAX, line_bytes: usize::MAX };

fn without_length(mut message: Message) -> Message {
    match &mut message {
        Message::Request(request) => request.headers.remove(&HeaderName::ContentLength),
        Message::Response(response) => response.headers.remove(&HeaderName::ContentLength),
    }
    message
}

fuzz_target!(|data: &[u8]| {
    let message = match parse_datagram(&Bytes::copy_from_slice(data), &Limits::default()) {
        Parsed::Message(message) => message,
        Parsed::Refused { request, status, .. } => {
            request.response(status).to_bytes();
            Message::Request(*request)
        }
        Parsed::KeepAlive { .. } | Parsed::Dropped(_) => return,
    };
    let headers = message.headers();
    std::hint::black_box((headers.top_via(), headers.from(), headers.to(), headers.cseq(), headers.session_expires()));
    std::hint::black_box((headers.contact(), headers.history(), headers.diversions().count(), headers.reasons().count()));
    match parse_datagram(&message.to_bytes(), &UNLIMITED) {
        Parsed::Message(again) => assert_eq!(without_length(again), without_length(message)),
        Parsed::Refused { .. } | Parsed::Dropped(_) => {
            assert!(!matches!(parse_datagram(&Bytes::copy_from_slice(data), &UNLIMITED), Parsed::Message(_)));
        }
        Parsed::KeepAlive { .. } => panic!("a message was written as a keep-alive"),
    }
});
