//! What a stream is cut into does not depend on its segments. The first byte is the size of them.
#![no_main]

use aftertone::sip::message::FrameError;
use aftertone::sip::message::Framer;
use aftertone::sip::message::Limits;
use aftertone::sip::message::Parsed;
use libfuzzer_sys::fuzz_target;

fn framed(stream: &[u8], size: usize) -> (Vec<Parsed>, Option<FrameError>) {
    let mut framer = Framer::new(Limits::default());
    let mut messages = Vec::new();
    for segment in stream.chunks(size) {
        framer.push(segment);
        loop {
            match framer.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, stream)) = data.split_first() else { return };
    assert_eq!(framed(stream, usize::from(size).max(1)), framed(stream, stream.len().max(1)));
});
