//! Any bytes as an offer: no panic, and what is answered reads as an answer to it.
#![no_main]

use aftertone::media::sdp::Offer;
use aftertone::media::sdp::Preferences;
use aftertone::media::sdp::SessionVersion;
use aftertone::media::sdp::read_answer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let Ok(offer) = Offer::parse(body) else {
        return;
    };
    let Ok(negotiated) = offer.negotiate(&Preferences::default()) else {
        return;
    };
    let local = ([192, 0, 2, 1], 40_000).into();
    let answer = negotiated.answer(local, SessionVersion::first(1));
    let agreed = read_answer(body, &answer).expect("our answer fits the offer");
    assert_eq!(agreed.codec, negotiated.media.codec);
    assert_eq!(agreed.direction, negotiated.media.direction.reversed());
});
