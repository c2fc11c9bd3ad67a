//! Any datagrams to a link that awaits a handshake, and to a plain one: no panic, nothing of the
//! first is taken for media, and no timer spins.
#![no_main]

use std::time::Duration;
use std::time::Instant;

use aftertone::media::dtls::Certificates;
use aftertone::media::ice::stun::Message;
use aftertone::media::link::{Control, Link, Protocol, Taken, Turn};
use aftertone::media::sdp::{Keying, LocalIdentity, OfferKeying, Opening, Preferences};
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;

// Each datagram has a head of two bytes: the tens of milliseconds until it comes, and its length.
fuzz_target!(|data: &[u8]| {
    let begin = Instant::now();
    let mut now = begin;
    let mut random = StdRng::seed_from_u64(1);
    let certificates = Certificates::new(now, Duration::from_secs(3_600)).expect("a certificate");
    let identity = |seed| LocalIdentity::new([seed; 32], certificates.current(begin).fingerprint().clone());
    for offer in [OfferKeying::Plain, OfferKeying::Dtls] {
        let preferences = Preferences { offer, ..Preferences::default() };
        let opening = Opening::offering(preferences.clone(), identity(1));
        let from = ([192, 0, 2, 1], 4_000).into();
        let (_, body) = opening.at(from, 1);
        let Ok(opening) = Opening::answering(&body, preferences, identity(2)) else {
            continue;
        };
        let certificate = match &opening.media().keying {
            Keying::Dtls { local, .. } => certificates.by_fingerprint(local),
            _ => None,
        };
        let mut out = Control::default();
        let mut turn = Turn { now, random: &mut random, mark: 1, out: &mut out };
        let mut link = Link::new(opening.media(), certificate, true, &mut turn);
        let mut rest = data;
        while let [wait, len, tail @ ..] = rest {
            now += Duration::from_millis(10 * u64::from(*wait));
            let (datagram, after) = tail.split_at(tail.len().min(usize::from(*len)));
            let mut datagram = datagram.to_vec();
            let mut turn = Turn { now, random: &mut random, mark: 1, out: &mut out };
            if let Ok(message) = Message::read(&datagram) {
                link.handle_stun(&mut turn, from, &message);
            }
            let taken = match Protocol::of(&datagram) {
                Some(Protocol::Stun) | None => Taken::Control,
                Some(_) => link.handle(&mut turn, from, &mut datagram),
            };
            assert!(offer == OfferKeying::Plain || !matches!(taken, Taken::Media(_)));
            link.handle_timeout(&mut turn);
            assert!(link.next_timeout().is_none_or(|at| at > now));
            while link.poll_event().is_some() {}
            out.clear();
            rest = after;
        }
    }
});
