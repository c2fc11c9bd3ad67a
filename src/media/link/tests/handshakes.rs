//! Handshakes where ICE does not guard the port.

use super::*;

/// A stranger's datagram to the first side, which waits for a handshake.
fn disturbed(net: &mut Net, from: &str, hello: &[u8]) {
    let random = &mut net.random;
    let mut datagram = match random.random_range(0..4) {
        // An alert that ends it all, in the clear.
        0 => vec![21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40],
        1 => vec![22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4],
        2 => (0..random.random_range(1..300))
            .map(|n| 22 ^ n as u8)
            .collect(),
        _ => hello.to_vec(),
    };
    let now = net.now;
    net.sides[0].take(now, random, from.parse().unwrap(), &mut datagram);
}

#[test]
fn strangers_at_a_port_without_ice_do_not_spoil_a_handshake() {
    for seed in 0..40 {
        let mut net = Net::without_ice(seed);
        // Its packets come through a NAT, from elsewhere than its description tells.
        let real = "203.0.113.5:7777".parse().unwrap();
        net.sides[1].at = real;
        let hello = net.sides[1]
            .out
            .packets()
            .first()
            .map(|it| it.bytes().to_vec());
        let hello = hello.expect("the active side begins");
        let strangers = ["203.0.113.66:1", "203.0.113.67:2", "203.0.113.5:9"];
        // Nothing is lost here: who loses four datagrams in a row may lose his turn, too.
        disturbed(&mut net, strangers[seed as usize % 3], &hello);
        for n in 0..8 {
            net.run(150);
            disturbed(&mut net, strangers[n % 3], &hello);
        }
        net.run(20_000);
        net.sides[0].link().latch(real);
        assert_eq!(net.is_heard(), [true, true], "{seed}");
        for side in &net.sides {
            assert_eq!(side.events, [LinkEvent::Reached(Stage::DtlsDone)], "{seed}");
        }
    }
}

#[test]
fn a_handshake_without_ice_that_nobody_begins_is_told_once() {
    let mut net = Net::without_ice(1);
    net.sides[1].link = None;
    net.under_way.clear();
    for _ in 0..200 {
        net.run(500);
        disturbed(&mut net, "203.0.113.66:1", &[22; 40]);
    }
    let told = |event: &&LinkEvent| matches!(event, LinkEvent::Failed(Stage::DtlsDone, _));
    assert_eq!(net.sides[0].events.iter().filter(told).count(), 1);
    assert_eq!(net.sides[0].link().next_timeout(), None);
}

/// Two links without ICE whose handshake is done.
fn handshake_is_done(seed: u64) -> Net {
    let mut net = Net::without_ice(seed);
    while net
        .sides
        .iter()
        .any(|side| side.link.as_ref().unwrap().is_connecting())
    {
        net.run(1);
    }
    net
}

#[test]
fn an_association_is_given_back_when_it_has_nothing_more_to_say() {
    let mut net = handshake_is_done(11);
    net.run(3_000);
    let wakes = |net: &mut Net, side: usize| net.sides[side].link().next_timeout();
    assert_eq!(wakes(&mut net, 1), None, "the server had the last word");
    assert!(wakes(&mut net, 0).is_some(), "it may have to say it again");
    net.run(8_000);
    assert_eq!(wakes(&mut net, 0), None);
    assert_eq!(net.is_heard(), [true, true]);
}

#[test]
fn a_client_whose_last_flight_is_not_acknowledged_repeats_it() {
    let mut net = Net::without_ice(12);
    // What the server says goes astray as soon as it has the keys.
    while net.sides[0].link().is_connecting() {
        net.run(1);
    }
    let there = std::mem::replace(&mut net.sides[0].at, "203.0.113.99:1".parse().unwrap());
    net.under_way.retain(|(_, side, ..)| *side == 0);
    net.sides[0].out.clear();
    net.run(5_000);
    assert!(net.sides[1].link().next_timeout().is_some());
    net.sides[0].at = there;
    net.run(6_000);
    assert_eq!(net.sides[1].link().next_timeout(), None);
    assert_eq!(net.is_heard(), [true, true]);
}
