use std::collections::HashMap;

use super::*;
use crate::media::sdp::Fingerprint;
use crate::media::sdp::LocalIdentity;
use crate::media::sdp::OfferKeying;
use crate::media::sdp::Preferences;

const AUDIO: Kind = Kind::Rtp(8);

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn id(index: u32) -> LegId {
    LegId {
        index,
        generation: 1,
    }
}

fn identity() -> LocalIdentity {
    LocalIdentity::new([7; 32], Fingerprint::sha256([7; 32]))
}

fn params(remote: Option<&str>) -> MediaParams {
    MediaParams {
        remote: remote.map(addr),
        remote_rtcp: remote.map(addr),
        rtcp_mux: true,
        payload_type: 8,
        telephone_event: Some(101),
        comfort_noise: None,
        ..MediaParams::of_offer(&Preferences::default(), &identity())
    }
}

/// A demultiplexer with all its sockets, and the moment it was made.
fn demux(spare: u16) -> (Demux, Instant) {
    let mut demux = Demux::new(spare);
    (0..spare).for_each(|_| demux.add_socket());
    (demux, Instant::now())
}

#[test]
fn calls_are_told_apart_by_the_address_they_tell() {
    let (mut demux, now) = demux(0);
    for n in 0..100 {
        let remote = format!("192.0.2.{n}:4000");
        assert_eq!(
            demux.open(now, id(n), &params(Some(&remote)), false),
            Ok(SHARED)
        );
    }
    for n in 0..100 {
        let from = addr(&format!("192.0.2.{n}:4000"));
        assert_eq!(demux.verdict(SHARED, from, AUDIO), Verdict::Latched(id(n)));
        assert_eq!(demux.verdict(SHARED, from, AUDIO), Verdict::Known(id(n)));
    }
    assert_eq!(
        demux.verdict(SHARED, addr("192.0.2.200:4000"), AUDIO),
        Verdict::Stranger
    );
}

#[test]
fn another_port_of_the_same_host_is_the_only_call_that_waits_there() {
    let (mut demux, now) = demux(0);
    demux
        .open(now, id(1), &params(Some("192.0.2.1:4000")), false)
        .unwrap();
    let real = addr("192.0.2.1:61000");
    assert_eq!(demux.verdict(SHARED, real, Kind::Rtcp), Verdict::Stranger);
    assert_eq!(
        demux.verdict(SHARED, real, Kind::Rtp(96)),
        Verdict::Stranger
    );
    assert_eq!(demux.verdict(SHARED, real, AUDIO), Verdict::Latched(id(1)));
    assert_eq!(
        demux.verdict(SHARED, real, Kind::Rtcp),
        Verdict::Known(id(1))
    );
    // Nobody else gets in afterwards.
    assert_eq!(
        demux.verdict(SHARED, addr("192.0.2.1:61001"), AUDIO),
        Verdict::Stranger
    );
}

#[test]
fn of_two_calls_that_wait_for_the_same_host_none_is_guessed() {
    let (mut demux, now) = demux(0);
    demux
        .open(now, id(1), &params(Some("192.0.2.1:4000")), false)
        .unwrap();
    demux
        .open(now, id(2), &params(Some("192.0.2.1:4002")), false)
        .unwrap();
    let unknown = addr("192.0.2.1:61000");
    assert_eq!(demux.verdict(SHARED, unknown, AUDIO), Verdict::Stranger);
    assert_eq!(
        demux.verdict(SHARED, addr("192.0.2.1:4002"), AUDIO),
        Verdict::Latched(id(2))
    );
    // Now only one is left.
    assert_eq!(
        demux.verdict(SHARED, unknown, AUDIO),
        Verdict::Latched(id(1))
    );
}

#[test]
fn the_told_address_beats_one_that_was_learnt() {
    let (mut demux, now) = demux(0);
    demux
        .open(now, id(1), &params(Some("192.0.2.1:4000")), false)
        .unwrap();
    let (guest, told) = (addr("192.0.2.1:61000"), addr("192.0.2.1:4000"));
    assert_eq!(demux.verdict(SHARED, guest, AUDIO), Verdict::Latched(id(1)));
    assert_eq!(demux.verdict(SHARED, told, AUDIO), Verdict::Latched(id(1)));
    assert_eq!(demux.verdict(SHARED, guest, AUDIO), Verdict::Stranger);
}

#[test]
fn an_address_in_use_gets_a_port_of_its_own() {
    let (mut demux, now) = demux(1);
    let same = params(Some("192.0.2.1:4000"));
    assert_eq!(demux.open(now, id(1), &same, false), Ok(SHARED));
    assert_eq!(demux.open(now, id(2), &same, false), Ok(1));
    assert_eq!(demux.open(now, id(3), &same, false), Err(NoPort));
    let from = addr("192.0.2.1:4000");
    assert_eq!(demux.verdict(SHARED, from, AUDIO), Verdict::Latched(id(1)));
    assert_eq!(demux.verdict(1, from, AUDIO), Verdict::Latched(id(2)));
    assert_eq!(demux.verdict(2, from, AUDIO), Verdict::Stranger);
    assert_eq!(demux.len(), 2);
}

#[test]
fn sockets_are_added_when_they_are_needed_and_used_again_when_they_have_rested() {
    let (mut demux, now) = (Demux::new(2), Instant::now());
    let same = params(Some("192.0.2.1:4000"));
    assert!(!demux.lacks_socket(now, &same, false));
    assert!(demux.lacks_socket(now, &same, true));
    assert_eq!(demux.open(now, id(1), &same, false), Ok(SHARED));
    assert!(demux.lacks_socket(now, &same, false));
    demux.add_socket();
    assert!(!demux.lacks_socket(now, &same, false));
    assert_eq!(demux.open(now, id(2), &same, false), Ok(1));
    demux.close(now, id(2));
    // Late packets of the call that was there just now go nowhere.
    assert!(demux.lacks_socket(now, &same, false));
    assert!(!demux.lacks_socket(now + QUARANTINE, &same, false));
    demux.add_socket();
    assert_eq!(demux.open(now, id(3), &same, false), Ok(2));
    // Two are all there may be.
    assert!(!demux.lacks_socket(now, &same, false));
    assert_eq!(demux.open(now, id(4), &same, false), Ok(1));
}

#[test]
fn a_closed_address_is_remembered_for_a_while() {
    let (mut demux, now) = demux(1);
    let same = params(Some("192.0.2.1:4000"));
    let from = addr("192.0.2.1:4000");
    demux.open(now, id(1), &same, false).unwrap();
    demux.close(now, id(1));
    assert_eq!(demux.verdict(SHARED, from, AUDIO), Verdict::Closed);
    assert_eq!(demux.open(now, id(2), &same, false), Ok(1));
    demux.close(now, id(2));
    let later = now + QUARANTINE;
    assert_eq!(demux.open(later, id(3), &same, false), Ok(SHARED));
    assert_eq!(demux.verdict(SHARED, from, AUDIO), Verdict::Latched(id(3)));
    demux.close(later, id(3));
    assert!(demux.is_empty());
    assert!(demux.quarantined() <= 1);
}

#[test]
fn memory_of_closed_calls_is_bounded() {
    let (mut demux, now) = demux(0);
    for n in 0..40_000_u32 {
        let remote = format!("10.{}.{}.{}:4000", n >> 16, (n >> 8) & 255, n & 255);
        demux
            .open(now, id(n), &params(Some(&remote)), false)
            .unwrap();
        demux.close(now, id(n));
    }
    assert_eq!(demux.quarantined(), MAX_QUARANTINED);
    demux.release(now + QUARANTINE);
    assert_eq!((demux.quarantined(), demux.closed.len()), (0, 0));
    assert!(demux.addresses.is_empty() && demux.waiting.is_empty());
}

#[test]
fn behind_a_nat_the_first_voice_on_the_own_port_is_the_caller() {
    let (mut demux, now) = demux(2);
    let private = params(Some("192.168.1.7:4000"));
    assert_eq!(demux.open(now, id(1), &private, true), Ok(1));
    let real = addr("198.51.100.7:31000");
    assert_eq!(demux.verdict(1, real, Kind::Rtp(96)), Verdict::Stranger);
    assert_eq!(demux.verdict(1, real, AUDIO), Verdict::Latched(id(1)));
    assert_eq!(
        demux.verdict(1, addr("198.51.100.8:31000"), AUDIO),
        Verdict::Stranger
    );
    assert_eq!(
        demux.verdict(1, addr("198.51.100.7:31001"), Kind::Rtcp),
        Verdict::Known(id(1))
    );
}

#[test]
fn late_packets_on_an_own_port_do_not_enter_its_next_call() {
    let (mut demux, now) = demux(1);
    let first = addr("198.51.100.7:31000");
    demux.open(now, id(1), &params(None), false).unwrap();
    assert_eq!(demux.verdict(1, first, AUDIO), Verdict::Latched(id(1)));
    demux.close(now, id(1));
    assert_eq!(demux.open(now, id(2), &params(None), false), Ok(1));
    assert_eq!(demux.verdict(1, first, AUDIO), Verdict::Closed);
    assert_eq!(
        demux.verdict(1, addr("198.51.100.9:5000"), AUDIO),
        Verdict::Latched(id(2))
    );
}

#[test]
fn a_late_answer_tells_the_address_and_all_else_is_a_stranger() {
    let (mut demux, now) = demux(0);
    // No port is left: the shared one has to do.
    assert_eq!(demux.open(now, id(1), &params(None), false), Ok(SHARED));
    let from = addr("192.0.2.1:4000");
    assert_eq!(demux.verdict(SHARED, from, AUDIO), Verdict::Stranger);
    demux.update(id(1), &params(Some("192.0.2.1:4000")));
    assert_eq!(demux.verdict(SHARED, from, AUDIO), Verdict::Latched(id(1)));
}

#[test]
fn after_a_new_offer_the_old_address_is_heard_until_the_new_one_is() {
    for spare in [0, 1] {
        let (mut demux, now) = demux(spare);
        let (old, new) = (addr("192.0.2.1:4000"), addr("192.0.2.9:6000"));
        let own_port = spare == 1;
        let socket = demux
            .open(now, id(1), &params(Some("192.0.2.1:4000")), own_port)
            .unwrap();
        assert_eq!(socket, spare);
        demux.verdict(socket, old, AUDIO);
        demux.update(id(1), &params(Some("192.0.2.9:6000")));
        assert!(!matches!(
            demux.verdict(socket, old, AUDIO),
            Verdict::Stranger | Verdict::Closed
        ));
        assert_eq!(demux.verdict(socket, new, AUDIO), Verdict::Latched(id(1)));
        assert_eq!(demux.verdict(socket, new, AUDIO), Verdict::Known(id(1)));
        assert_eq!(demux.verdict(socket, old, AUDIO), Verdict::Stranger);
    }
}

/// Behind NAT the told address is never seen, and the leg that is left sends a little longer.
#[test]
fn a_call_that_moves_behind_nat_waits_for_its_new_address_but_not_for_ever() {
    let (old, new) = (addr("203.0.113.1:4000"), addr("203.0.113.9:6000"));
    let patience = usize::from(PATIENCE);
    let latched = Verdict::Latched(id(1));
    for (late, latches, then) in [(3, 0, latched), (patience + 1, 1, Verdict::Stranger)] {
        let (mut demux, now) = demux(1);
        let socket = demux
            .open(now, id(1), &params(Some("10.0.0.1:4000")), true)
            .unwrap();
        assert_eq!(demux.verdict(socket, old, AUDIO), latched);
        demux.update(id(1), &params(Some("10.0.0.9:6000")));
        let verdicts = (0..late).map(|_| demux.verdict(socket, old, AUDIO));
        assert_eq!(verdicts.filter(|v| *v == latched).count(), latches);
        assert_eq!(demux.verdict(socket, new, AUDIO), then);
    }
}

#[test]
fn a_latched_call_is_not_moved_by_a_new_offer_that_changes_nothing() {
    let (mut demux, now) = demux(0);
    demux
        .open(now, id(1), &params(Some("192.0.2.1:4000")), false)
        .unwrap();
    let real = addr("192.0.2.1:61000");
    demux.verdict(SHARED, real, AUDIO);
    demux.update(id(1), &params(Some("192.0.2.1:4000")));
    assert_eq!(demux.verdict(SHARED, real, AUDIO), Verdict::Known(id(1)));
}

/// With ICE the address that is told says nothing: our fragment does, and who was checked.
#[test]
fn with_ice_calls_share_the_port_and_are_known_by_fragment_and_proven_address() {
    let preferences = Preferences {
        offer: OfferKeying::Dtls,
        ..Preferences::default()
    };
    let of = |seed: u8, restarts: u32| {
        let mut identity = LocalIdentity::new([seed; 32], Fingerprint::sha256([7; 32]));
        (0..restarts).for_each(|_| identity.restart_ice());
        let media = MediaParams::of_offer(&preferences, &identity);
        let ufrag = identity.ice().ufrag.into_bytes();
        (media, ufrag)
    };
    let (mut demux, now) = demux(1);
    let ((first, ours), (second, theirs)) = (of(1, 0), of(2, 0));
    assert!(!demux.lacks_socket(now, &first, false));
    assert_eq!(demux.open(now, id(1), &first, false), Ok(SHARED));
    assert_eq!(demux.open(now, id(2), &second, false), Ok(SHARED));
    assert_eq!(demux.by_fragment(&ours), Some(id(1)));
    assert_eq!(demux.by_fragment(&theirs), Some(id(2)));
    assert_eq!(demux.by_fragment(b"unknown"), None);

    let (from, elsewhere) = (addr("192.0.2.1:4000"), addr("192.0.2.1:4001"));
    assert_eq!(demux.verdict(SHARED, from, AUDIO), Verdict::Stranger);
    demux.prove(id(1), from, None);
    assert_eq!(demux.verdict(SHARED, from, AUDIO), Verdict::Known(id(1)));
    assert_eq!(demux.verdict(SHARED, elsewhere, AUDIO), Verdict::Stranger);
    assert!(!demux.is_free_for(id(2), SHARED, from));
    assert!(demux.is_free_for(id(2), SHARED, elsewhere));

    // After a restart both fragments are ours, after the next only the last two.
    let ((again, new), (once_more, newest)) = (of(1, 1), of(1, 2));
    demux.update(id(1), &again);
    for fragment in [&ours, &new] {
        assert_eq!(demux.by_fragment(fragment), Some(id(1)));
    }
    assert_eq!(demux.verdict(SHARED, from, AUDIO), Verdict::Known(id(1)));
    demux.update(id(1), &once_more);
    assert_eq!(demux.by_fragment(&ours), None);
    assert_eq!(demux.by_fragment(&newest), Some(id(1)));

    // One who moves all the time is followed, and keeps the address that is chosen.
    for port in 5_000..5_100 {
        let moved = SocketAddr::new(from.ip(), port);
        demux.prove(id(1), moved, Some(from));
        assert_eq!(demux.verdict(SHARED, moved, AUDIO), Verdict::Known(id(1)));
        assert_eq!(demux.verdict(SHARED, from, AUDIO), Verdict::Known(id(1)));
    }
    assert_eq!(demux.addresses.len(), MAX_PROVEN);
    demux.close(now, id(1));
    assert_eq!(demux.by_fragment(&newest), None);
    assert_eq!(demux.verdict(SHARED, from, AUDIO), Verdict::Closed);
    assert!(!demux.is_free_for(id(2), SHARED, from));
    assert!(demux.addresses.is_empty());
}

#[test]
fn rtcp_on_a_port_of_its_own_belongs_to_its_call() {
    let (mut demux, now) = demux(0);
    let apart = MediaParams {
        remote_rtcp: Some(addr("192.0.2.1:4001")),
        rtcp_mux: false,
        ..params(Some("192.0.2.1:4000"))
    };
    demux.open(now, id(1), &apart, false).unwrap();
    let rtcp = addr("192.0.2.1:4001");
    assert_eq!(
        demux.verdict(SHARED, rtcp, Kind::Rtcp),
        Verdict::Known(id(1))
    );
    demux.close(now, id(1));
    assert_eq!(demux.verdict(SHARED, rtcp, Kind::Rtcp), Verdict::Closed);
}

proptest::proptest! {
    /// Whatever happens, a packet reaches only a call that is open, by the call's own socket.
    #[test]
    fn only_open_calls_get_packets(
        steps in proptest::collection::vec((0..5_u8, 0..12_u32, 0..6_u16, 0..8_u8), 1..200)
    ) {
        let (mut demux, mut now) = demux(3);
        let mut open: HashMap<LegId, u16> = HashMap::new();
        for (action, call, port, host) in steps {
            let remote = format!("192.0.2.{host}:{}", 4_000 + port);
            let call = id(call);
            match action {
                0 if !open.contains_key(&call) => {
                    let told = params((port > 0).then_some(remote.as_str()));
                    if let Ok(socket) = demux.open(now, call, &told, host == 0) {
                        proptest::prop_assert!(socket == SHARED || !open.values().any(|s| *s == socket));
                        open.insert(call, socket);
                    }
                }
                1 => {
                    demux.close(now, call);
                    open.remove(&call);
                }
                2 => demux.update(call, &params(Some(&remote))),
                3 => now += Duration::from_secs(u64::from(host)),
                _ => {
                    let socket = port % 4;
                    let verdict = demux.verdict(socket, addr(&remote), AUDIO);
                    if let Verdict::Known(id) | Verdict::Latched(id) = verdict {
                        proptest::prop_assert_eq!(open.get(&id), Some(&socket));
                    }
                }
            }
        }
        proptest::prop_assert_eq!(demux.len(), open.len());
        for call in open.into_keys() {
            demux.close(now, call);
        }
        proptest::prop_assert!(demux.addresses.is_empty() && demux.waiting.is_empty());
        proptest::prop_assert_eq!(demux.free.len(), 3);
    }
}
