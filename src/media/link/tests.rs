mod handshakes;

use std::time::Duration;

use rand::RngExt;
use rand::SeedableRng;

use super::*;
use crate::media::dtls::Certificates;
use crate::media::rtp::Header;
use crate::media::sdp::DtlsRole;
use crate::media::sdp::Exchange;
use crate::media::sdp::IceMode;
use crate::media::sdp::LocalIdentity;
use crate::media::sdp::OfferKeying;
use crate::media::sdp::Opening;
use crate::media::sdp::Preferences;
use crate::media::sdp::SrtpSuite;

const MS: Duration = Duration::from_millis(1);

/// A link, what agrees for it, and its place in the network.
struct Side {
    link: Option<Link>,
    exchange: Option<Exchange>,
    certificates: Certificates,
    at: SocketAddr,
    out: Control,
    events: Vec<LinkEvent>,
    sequence: u16,
    heard: Vec<Vec<u8>>,
    refused: Vec<Refused>,
}

impl Side {
    fn new(now: Instant, at: &str) -> Self {
        Self {
            link: None,
            exchange: None,
            certificates: Certificates::new(now, Duration::from_secs(86_400)).unwrap(),
            at: at.parse().unwrap(),
            out: Control::default(),
            events: Vec::new(),
            sequence: 100,
            heard: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn identity(&self, now: Instant, seed: u8) -> LocalIdentity {
        let fingerprint = self.certificates.current(now).fingerprint().clone();
        LocalIdentity::new([seed; 32], fingerprint)
    }

    fn agree(&mut self, now: Instant, random: &mut StdRng, params: &MediaParams) {
        let certificate = match &params.keying {
            Keying::Dtls { local, .. } => self.certificates.by_fingerprint(local),
            _ => None,
        };
        let mut turn = Turn {
            now,
            random,
            mark: 5,
            out: &mut self.out,
        };
        match &mut self.link {
            Some(link) => link.update(params, certificate, &mut turn),
            None => self.link = Some(Link::new(params, certificate, true, &mut turn)),
        }
    }

    fn link(&mut self) -> &mut Link {
        self.link.as_mut().unwrap()
    }

    fn take(&mut self, now: Instant, random: &mut StdRng, from: SocketAddr, bytes: &mut [u8]) {
        let Some(link) = &mut self.link else {
            return;
        };
        let mut turn = Turn {
            now,
            random,
            mark: 5,
            out: &mut self.out,
        };
        let taken = match Protocol::of(bytes) {
            Some(Protocol::Stun) => {
                link.handle_stun(&mut turn, from, &Message::read(bytes).unwrap())
            }
            _ => link.handle(&mut turn, from, bytes),
        };
        match taken {
            Taken::Media(len) => self.heard.push(bytes[..len].to_vec()),
            Taken::Control => {}
            Taken::Refused(why) => self.refused.push(why),
        }
    }

    /// A protected packet, and where it goes.
    fn say(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let header = Header {
            payload_type: 8,
            marker: false,
            sequence: self.sequence,
            timestamp: 160 * u32::from(self.sequence),
            ssrc: 77,
        };
        let to = self.link().route().rtp?;
        self.sequence += 1;
        let mut room = [0xD5; 12 + 160 + 24];
        room[..12].copy_from_slice(&header.to_bytes());
        let len = self.link().protect(&mut room, 172)?;
        Some((to, room[..len].to_vec()))
    }
}

/// Two links in virtual time.
struct Net {
    now: Instant,
    random: StdRng,
    sides: [Side; 2],
    /// Arrival, at which side, from where, what.
    under_way: Vec<(Instant, usize, SocketAddr, Vec<u8>)>,
    /// One of so many is lost, and as many are doubled; 0: none.
    trouble: u32,
}

fn prefer(offer: OfferKeying, ice: IceMode) -> Preferences {
    Preferences {
        ice,
        sdes: true,
        offer,
        ..Preferences::default()
    }
}

impl Net {
    fn new(seed: u64, offer: OfferKeying, ice: [IceMode; 2]) -> Self {
        let now = Instant::now();
        let sides = [
            Side::new(now, "192.0.2.1:4000"),
            Side::new(now, "198.51.100.7:5000"),
        ];
        let mut net = Self {
            now,
            random: StdRng::seed_from_u64(seed),
            sides,
            under_way: Vec::new(),
            trouble: 0,
        };
        let identity = net.sides[0].identity(now, 1);
        let opening = Opening::offering(prefer(offer, ice[0]), identity);
        let media = opening.media().clone();
        net.sides[0].agree(now, &mut net.random, &media);
        let (ours, offer_made) = opening.at(net.sides[0].at, 1);
        let identity = net.sides[1].identity(now, 2);
        let opening = Opening::answering(&offer_made, prefer(offer, ice[1]), identity).unwrap();
        let media = opening.media().clone();
        net.sides[1].agree(now, &mut net.random, &media);
        let (theirs, answer) = opening.at(net.sides[1].at, 2);
        net.sides[0].exchange = Some(ours);
        net.sides[1].exchange = Some(theirs);
        // Checks of the answerer may come before its answer.
        net.run(30);
        net.answered(&answer);
        net
    }

    /// DTLS without ICE. The first side is passive: its offer names an address behind a NAT.
    fn without_ice(seed: u64) -> Self {
        let mut net = Self::new(seed, OfferKeying::Plain, [IceMode::Lite; 2]);
        let print = |side: &Side| side.certificates.current(net.now).fingerprint().clone();
        let prints = net.sides.each_ref().map(print);
        for (side, role) in [(0, DtlsRole::Passive), (1, DtlsRole::Active)] {
            let keying = Keying::Dtls {
                role,
                local: prints[side].clone(),
                fingerprints: vec![prints[1 - side].clone()],
            };
            let agreed = net.sides[side].exchange.as_ref().unwrap().agreed().unwrap();
            let media = MediaParams {
                keying,
                remote: Some(net.sides[1 - side].at),
                ..agreed.clone()
            };
            net.sides[side].link = None;
            net.sides[side].agree(net.now, &mut net.random, &media);
        }
        net
    }

    fn answered(&mut self, answer: &[u8]) {
        let exchange = self.sides[0].exchange.as_mut().unwrap();
        let media = exchange.on_answer(answer).unwrap().unwrap();
        self.sides[0].agree(self.now, &mut self.random, &media);
    }

    /// The first side offers anew, with other ICE credentials.
    fn restart(&mut self) {
        let [first, second] = &mut self.sides;
        let offer = first.exchange.as_mut().unwrap().offer();
        let offer = String::from_utf8(offer.to_vec()).unwrap();
        let other = offer
            .lines()
            .map(|line| match line.split_once(':') {
                Some(("a=ice-ufrag", _)) => "a=ice-ufrag:another".to_owned(),
                Some(("a=ice-pwd", _)) => "a=ice-pwd:0123456789012345678901".to_owned(),
                _ => line.to_owned(),
            })
            .collect::<Vec<_>>()
            .join("\r\n");
        let theirs = second.exchange.as_mut().unwrap();
        let (media, answer) = theirs.on_offer(other.as_bytes()).unwrap();
        second.agree(self.now, &mut self.random, &media);
        let mut media = first
            .exchange
            .as_mut()
            .unwrap()
            .on_answer(&answer)
            .unwrap()
            .unwrap();
        if let Some(ice) = &mut media.ice {
            ice.local.ufrag = "another".to_owned();
            ice.local.password = "0123456789012345678901".to_owned();
        }
        first.agree(self.now, &mut self.random, &media);
    }

    fn reoffer(&mut self) {
        let offer = self.sides[0].exchange.as_mut().unwrap().offer();
        let (media, answer) = self.sides[1]
            .exchange
            .as_mut()
            .unwrap()
            .on_offer(&offer)
            .unwrap();
        self.sides[1].agree(self.now, &mut self.random, &media);
        self.answered(&answer);
    }

    fn send(&mut self, side: usize, to: SocketAddr, bytes: &[u8]) {
        let from = self.sides[side].at;
        if self.sides[1 - side].at != to {
            return;
        }
        let trouble = self.trouble;
        let mut happens = || trouble > 0 && self.random.random_ratio(1, trouble);
        let copies = usize::from(!happens()) + usize::from(happens());
        for _ in 0..copies {
            let at = self.now + MS * self.random.random_range(1..30);
            self.under_way.push((at, 1 - side, from, bytes.to_vec()));
        }
    }

    fn run(&mut self, ms: u32) {
        for _ in 0..ms {
            self.now += MS;
            let now = self.now;
            let arrived: Vec<_> = self.under_way.extract_if(.., |it| it.0 <= now).collect();
            for (_, side, from, mut bytes) in arrived {
                self.sides[side].take(now, &mut self.random, from, &mut bytes);
            }
            for side in 0..2 {
                self.turn(side);
            }
        }
    }

    fn turn(&mut self, side: usize) {
        let Side {
            link, out, events, ..
        } = &mut self.sides[side];
        let Some(link) = link else {
            return;
        };
        if link.next_timeout().is_some_and(|at| at <= self.now) {
            let mut turn = Turn {
                now: self.now,
                random: &mut self.random,
                mark: 5,
                out,
            };
            link.handle_timeout(&mut turn);
            assert!(
                link.next_timeout().is_none_or(|at| at > self.now),
                "it would spin"
            );
        }
        events.extend(std::iter::from_fn(|| link.poll_event()));
        let packets: Vec<_> = out
            .packets()
            .iter()
            .map(|p| (p.to, p.bytes().to_vec()))
            .collect();
        out.clear();
        for (to, bytes) in packets {
            self.send(side, to, &bytes);
        }
    }

    /// Both say a packet, and tell whether both were heard.
    fn is_heard(&mut self) -> [bool; 2] {
        let before = [0, 1].map(|side| self.sides[side].heard.len());
        for side in 0..2 {
            if let Some((to, bytes)) = self.sides[side].say() {
                self.send(side, to, &bytes);
            }
        }
        self.run(40);
        [0, 1].map(|side| {
            let heard = self.sides[side].heard.get(before[side]);
            heard.is_some_and(|packet| packet[12..] == [0xD5; 160])
        })
    }
}

const KINDS: [(OfferKeying, [IceMode; 2]); 6] = [
    (OfferKeying::Plain, [IceMode::Lite, IceMode::Lite]),
    (OfferKeying::Sdes, [IceMode::Lite, IceMode::Lite]),
    (OfferKeying::Dtls, [IceMode::Lite, IceMode::Lite]),
    (OfferKeying::Dtls, [IceMode::Full, IceMode::Lite]),
    (OfferKeying::Dtls, [IceMode::Lite, IceMode::Full]),
    (OfferKeying::Dtls, [IceMode::Full, IceMode::Full]),
];

#[test]
fn every_kind_of_link_comes_up_over_a_bad_network() {
    for (seed, (offer, ice)) in (0..5).flat_map(|seed| KINDS.map(|kind| (seed, kind))) {
        let mut net = Net::new(seed, offer, ice);
        net.trouble = 8;
        net.run(10_000);
        net.trouble = 0;
        net.run(100);
        assert_eq!(net.is_heard(), [true, true], "{seed} {offer:?} {ice:?}");
        let stages = [Stage::IceConnected, Stage::DtlsDone].map(LinkEvent::Reached);
        for side in &mut net.sides {
            // With losses keys may be there before the nomination's answer.
            side.events.sort_by_key(|event| *event != stages[0]);
            let secured = offer == OfferKeying::Dtls;
            let expected = if secured { &stages[..] } else { &[] };
            assert_eq!(side.events, expected, "{seed} {offer:?} {ice:?}");
        }
    }
}

#[test]
fn nothing_is_sent_or_taken_before_there_are_keys() {
    let mut net = Net::new(1, OfferKeying::Dtls, [IceMode::Full, IceMode::Lite]);
    assert!(net.sides.iter_mut().all(|side| side.say().is_none()));
    let mut stranger = [0x80; 172];
    let random = &mut StdRng::seed_from_u64(1);
    net.sides[1].take(
        net.now,
        random,
        "203.0.113.1:9".parse().unwrap(),
        &mut stranger,
    );
    assert_eq!(net.sides[1].refused, [Refused::Unproven]);
}

#[test]
fn the_same_offer_again_keeps_keys_and_addresses() {
    for (offer, ice) in KINDS {
        let mut net = Net::new(2, offer, ice);
        net.run(5_000);
        let before = net.sides[0].events.clone();
        net.reoffer();
        assert_eq!(net.is_heard(), [true, true], "{offer:?} {ice:?}");
        net.run(3_000);
        assert_eq!(net.is_heard(), [true, true], "{offer:?} {ice:?}");
        assert_eq!(net.sides[0].events, before);
    }
}

/// Has the network lose all nominations for so long.
fn without_nomination(net: &mut Net, ms: u32) {
    let nominates = |bytes: &[u8]| Message::read(bytes).is_ok_and(|it| it.use_candidate);
    for _ in 0..ms {
        net.run(1);
        net.under_way.retain(|(.., bytes)| !nominates(bytes));
    }
}

#[test]
fn a_full_agent_does_not_wait_for_the_nomination() {
    for (ice, heard) in [(IceMode::Full, [true, false]), (IceMode::Lite, [false; 2])] {
        let mut net = Net::new(13, OfferKeying::Dtls, [IceMode::Full, ice]);
        without_nomination(&mut net, 400);
        let done = LinkEvent::Reached(Stage::DtlsDone);
        let (ours, theirs) = (&net.sides[1].events, &net.sides[0].events);
        assert_eq!([theirs, ours].map(|it| it.contains(&done)), [heard[0]; 2]);
        let connected = LinkEvent::Reached(Stage::IceConnected);
        assert_eq!(ours.first() == Some(&connected), heard[0]);
        if let Some((to, bytes)) = net.sides[1].say() {
            net.send(1, to, &bytes);
        }
        without_nomination(&mut net, 40);
        assert_eq!([0, 1].map(|side| !net.sides[side].heard.is_empty()), heard);
        net.run(3_000);
        assert_eq!(net.is_heard(), [true, true], "{ice:?}");
    }
}

#[test]
fn without_consent_nothing_is_sent_to_a_pair_that_worked_once() {
    let mut net = Net::new(14, OfferKeying::Dtls, [IceMode::Full; 2]);
    net.run(5_000);
    net.sides[0].link = None;
    net.under_way.clear();
    net.run(40_000);
    assert_eq!(net.sides[1].link().way(), None);
}

#[test]
fn forged_and_repeated_packets_are_told_apart_and_left_out() {
    for (offer, ice) in KINDS.into_iter().skip(1) {
        let mut net = Net::new(3, offer, ice);
        net.run(5_000);
        let (_, packet) = net.sides[0].say().unwrap();
        let (now, from) = (net.now, net.sides[0].at);
        let side = &mut net.sides[1];
        side.refused.clear();
        let mut forged = packet.clone();
        forged[20] ^= 1;
        for mut bytes in [forged, packet.clone(), packet] {
            side.take(now, &mut net.random, from, &mut bytes);
        }
        assert_eq!(
            side.refused,
            [Refused::Forged, Refused::Replayed],
            "{offer:?} {ice:?}"
        );
        assert_eq!(side.heard.len(), 1);
    }
}

#[test]
fn a_peer_that_moves_is_followed_at_once() {
    let mut net = Net::new(4, OfferKeying::Dtls, [IceMode::Full, IceMode::Lite]);
    net.run(8_000);
    assert_eq!(net.is_heard(), [true, true]);
    let moved = "203.0.113.50:6000".parse().unwrap();
    net.sides[0].at = moved;
    net.run(7_000);
    assert_eq!(net.sides[1].link().route(), Route::to(moved));
    assert_eq!(net.is_heard(), [true, true]);
}

#[test]
fn a_peer_without_a_sign_of_life_has_no_consent_any_more() {
    for ice in [
        [IceMode::Full, IceMode::Lite],
        [IceMode::Full, IceMode::Full],
    ] {
        let mut net = Net::new(5, OfferKeying::Dtls, ice);
        net.run(5_000);
        assert_eq!(net.is_heard(), [true, true]);
        net.trouble = 1;
        net.sides[0].at = "203.0.113.99:1".parse().unwrap();
        net.sides[1].at = "203.0.113.98:1".parse().unwrap();
        net.run(40_000);
        for side in &mut net.sides {
            assert_eq!(side.events.last(), Some(&LinkEvent::ConsentLost));
            assert_eq!(side.link().route(), Route::default());
        }
    }
}

#[test]
fn a_peer_that_never_comes_is_told_once() {
    for ice in [IceMode::Lite, IceMode::Full] {
        let mut net = Net::new(6, OfferKeying::Dtls, [IceMode::Full, ice]);
        net.sides[0].link = None;
        net.sides[1].events.clear();
        net.under_way.clear();
        net.run(40_000);
        let failed =
            |event: &&LinkEvent| matches!(event, LinkEvent::Failed(Stage::IceConnected, _));
        assert_eq!(net.sides[1].events.iter().filter(failed).count(), 1);
    }
}

#[test]
fn without_ice_packets_go_where_they_come_from_until_a_new_offer() {
    let mut net = Net::new(7, OfferKeying::Plain, [IceMode::Lite, IceMode::Lite]);
    let real: SocketAddr = "198.51.100.3:31000".parse().unwrap();
    net.sides[1].link().latch(real);
    assert_eq!(net.sides[1].link().route().rtp, Some(real));
    net.sides[0].at = "192.0.2.99:8000".parse().unwrap();
    net.reoffer();
    assert_eq!(
        net.sides[1].link().route().rtp,
        Some(real),
        "the same address as before"
    );
}

#[test]
fn a_new_key_of_the_peers_lets_our_direction_go_on() {
    let mut net = Net::new(8, OfferKeying::Sdes, [IceMode::Lite; 2]);
    assert_eq!(net.is_heard(), [true, true]);
    let (_, old) = net.sides[1].say().unwrap();
    let new = SrtpKey::new(SrtpSuite::AeadAes256Gcm, &[9; 44]).unwrap();
    for side in 0..2 {
        let agreed = net.sides[side].exchange.as_ref().unwrap().agreed().unwrap();
        let mut media = agreed.clone();
        let Keying::Sdes { send, receive } = &mut media.keying else {
            panic!("{media:?}");
        };
        *(if side == 0 { send } else { receive }) = new.clone();
        let now = net.now;
        net.sides[side].agree(now, &mut net.random, &media);
    }
    let (now, from) = (net.now, net.sides[1].at);
    let side = &mut net.sides[0];
    for _ in 0..2 {
        side.take(now, &mut net.random, from, &mut old.clone());
    }
    assert_eq!(side.refused, [Refused::Replayed], "what came before counts");
    assert_eq!(net.is_heard(), [true, true]);
}

#[test]
fn what_was_under_way_when_a_restart_came_to_something_is_still_heard() {
    let mut net = Net::new(9, OfferKeying::Dtls, [IceMode::Full, IceMode::Lite]);
    net.run(5_000);
    assert_eq!(net.is_heard(), [true, true]);
    let before = net.sides[0].at;
    let (_, mut late) = net.sides[0].say().unwrap();
    net.sides[0].at = "203.0.113.50:6000".parse().unwrap();
    net.restart();
    net.run(1_000);
    assert_eq!(net.sides[1].link().way(), Some(net.sides[0].at));
    let heard = net.sides[1].heard.len();
    let now = net.now;
    net.sides[1].take(now, &mut net.random, before, &mut late.clone());
    assert_eq!(net.sides[1].heard.len(), heard + 1);
    assert_eq!(net.is_heard(), [true, true]);
    net.run(3_000);
    net.sides[1].refused.clear();
    let now = net.now;
    net.sides[1].take(now, &mut net.random, before, &mut late);
    assert_eq!(net.sides[1].refused, [Refused::Unproven]);
}

#[test]
fn a_lite_link_on_hold_lives_by_whatever_keeps_the_path_open() {
    let mut net = Net::new(10, OfferKeying::Dtls, [IceMode::Full, IceMode::Lite]);
    net.run(5_000);
    let (peer, stranger) = (net.sides[0].at, "203.0.113.1:1".parse().unwrap());
    net.sides[0].link = None;
    net.under_way.clear();
    for _ in 0..10 {
        net.run(15_000);
        let now = net.now;
        net.sides[1].link().keep_alive(now, peer);
        assert_eq!(net.sides[1].link().way(), Some(peer));
    }
    for _ in 0..3 {
        net.run(15_000);
        let now = net.now;
        net.sides[1].link().keep_alive(now, stranger);
    }
    assert_eq!(net.sides[1].link().way(), None);
}

#[test]
fn media_alone_keep_a_lite_link_alive() {
    let mut net = Net::new(15, OfferKeying::Dtls, [IceMode::Full, IceMode::Lite]);
    net.run(5_000);
    let peer = net.sides[0].at;
    let said: Vec<_> = (0..5).filter_map(|_| net.sides[0].say()).collect();
    net.sides[0].link = None;
    net.under_way.clear();
    for (_, mut packet) in said {
        net.run(20_000);
        let now = net.now;
        net.sides[1].take(now, &mut net.random, peer, &mut packet);
    }
    net.run(29_000);
    assert_eq!(net.sides[1].link().way(), Some(peer));
    net.run(2_000);
    assert_eq!(net.sides[1].link().way(), None);
}
