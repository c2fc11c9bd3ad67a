//! Any bytes as an offer: no panic, and what is answered reads as an answer to it. The same again
//! as an offer in mid-call, and as an answer to our own offers.
#![no_main]

use aftertone::media::sdp::Exchange;
use aftertone::media::sdp::Fingerprint;
use aftertone::media::sdp::LocalIdentity;
use aftertone::media::sdp::OfferKeying;
use aftertone::media::sdp::Opening;
use aftertone::media::sdp::Preferences;
use aftertone::media::sdp::read_answer;
use libfuzzer_sys::fuzz_target;

fn preferences(offer: OfferKeying) -> Preferences {
    Preferences {
        sdes: true,
        opportunistic_srtp: true,
        offer,
        ..Preferences::default()
    }
}

fn identity() -> LocalIdentity {
    LocalIdentity::new([7; 32], Fingerprint::sha256([7; 32]))
}

fuzz_target!(|body: &[u8]| {
    // A zero byte parts the first offer from the next.
    let mut offers = body.split(|byte| *byte == 0);
    let first = offers.next().unwrap_or_default();
    let local = ([192, 0, 2, 1], 40_000).into();
    for kind in [OfferKeying::Plain, OfferKeying::Sdes, OfferKeying::Dtls] {
        let (mut ours, _) = Opening::offering(preferences(kind), identity()).at(local, 1);
        ours.on_answer(first).ok();
    }
    let opening = Opening::answering(first, preferences(OfferKeying::Plain), identity());
    let Ok(opening) = opening else {
        return;
    };
    let media = opening.media().clone();
    let (mut exchange, answer): (Exchange, _) = opening.at(local, 1);
    let agreed = read_answer(first, &answer).expect("our answer fits the offer");
    assert_eq!(agreed.codec, media.codec);
    assert_eq!(agreed.direction, media.direction.reversed());
    assert_eq!(agreed.ice.is_some(), media.ice.is_some());
    for offer in offers.take(4) {
        if let Ok((media, answer)) = exchange.on_offer(offer) {
            let agreed = read_answer(offer, &answer).expect("our answer fits the offer");
            assert_eq!(agreed.codec, media.codec);
        }
        let ours = exchange.offer();
        assert_eq!(exchange.offer(), ours, "the same offer has the same version");
    }
});
