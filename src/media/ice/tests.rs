use std::collections::VecDeque;

use is::Candidate as Told;
use is::IceAgent;
use is::IceAgentEvent;
use is::IceCreds;
use is::Protocol;
use is::stun::StunMessage;
use is::stun::StunPacket;
use rand::SeedableRng;

use super::*;
use crate::media::ice::stun::MAX_LEN;
use crate::media::sdp::Candidate;
use crate::media::sdp::CandidateKind;
use crate::media::sdp::IceCredentials;

const MS: Duration = Duration::from_millis(1);

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ours() -> SocketAddr {
    addr("192.0.2.1:4000")
}

fn theirs() -> SocketAddr {
    addr("198.51.100.7:5000")
}

fn credentials(name: &str) -> IceCredentials {
    IceCredentials {
        ufrag: format!("{name}frag"),
        password: format!("{name}-password-of-22-and-more"),
    }
}

fn candidate(address: SocketAddr) -> Candidate {
    Candidate {
        priority: 2_130_706_431,
        address,
        kind: CandidateKind::Host,
    }
}

fn params() -> IceParams {
    IceParams {
        local: credentials("ours"),
        remote: Some(credentials("theirs")),
        we_are_lite: true,
        remote_is_lite: false,
        controlling: false,
        remote_candidates: vec![candidate(theirs())],
    }
}

/// The other side of a conversation: ours again, or the agent of others.
#[expect(clippy::large_enum_variant, reason = "there are two of them")]
enum Peer {
    Ours(Agent),
    Foreign(IceAgent, Option<SocketAddr>),
}

impl Peer {
    fn foreign(
        lite: bool,
        controlling: bool,
        names: [&str; 2],
        at: SocketAddr,
        to: &[SocketAddr],
    ) -> Self {
        let creds = |name| {
            let IceCredentials { ufrag, password } = credentials(name);
            IceCreds {
                ufrag,
                pass: password,
            }
        };
        let mut agent = IceAgent::new(creds(names[0]));
        agent.set_ice_lite(lite);
        agent.set_controlling(controlling);
        agent.set_remote_credentials(creds(names[1]));
        agent.add_local_candidate(Told::host(at, "udp").unwrap());
        for to in to {
            agent.add_remote_candidate(Told::host(*to, "udp").unwrap());
        }
        Self::Foreign(agent, None)
    }

    fn handle(
        &mut self,
        now: Instant,
        at: SocketAddr,
        from: SocketAddr,
        datagram: &[u8],
        random: &mut StdRng,
    ) -> Option<Vec<u8>> {
        match self {
            Self::Ours(agent) => {
                let mut buffer = [0; MAX_LEN];
                let message = Message::read(datagram).ok()?;
                match agent.handle(now, from, &message, random, &mut buffer) {
                    Handled::Answer(len) => Some(buffer[..len].to_vec()),
                    _ => None,
                }
            }
            Self::Foreign(agent, _) => {
                let packet = StunPacket {
                    proto: Protocol::Udp,
                    source: from,
                    destination: at,
                    message: StunMessage::parse(datagram).unwrap(),
                };
                agent.handle_packet(now, packet);
                None
            }
        }
    }

    fn poll(&mut self, now: Instant, random: &mut StdRng) -> Option<(SocketAddr, Vec<u8>)> {
        match self {
            Self::Ours(agent) => {
                agent.has_lost_consent(now);
                let mut buffer = [0; MAX_LEN];
                let (to, len) = agent.poll_check(now, random, &mut buffer)?;
                Some((to, buffer[..len].to_vec()))
            }
            Self::Foreign(agent, selected) => {
                while let Some(event) = agent.poll_event() {
                    if let IceAgentEvent::NominatedSend { destination, .. } = event {
                        *selected = Some(destination);
                    }
                }
                let transmit = agent.poll_transmit()?;
                Some((transmit.destination, transmit.contents.to_vec()))
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        if let Self::Foreign(agent, _) = self {
            agent.handle_timeout(now);
        }
    }

    fn selected(&self) -> Option<SocketAddr> {
        match self {
            Self::Ours(agent) => agent.selected(),
            Self::Foreign(_, selected) => *selected,
        }
    }
}

/// Two agents and the network between them, in virtual time.
struct Net {
    now: Instant,
    begun: Instant,
    random: StdRng,
    here: Peer,
    there: Peer,
    /// Where the peer is; what it sends bears this address.
    there_at: SocketAddr,
    /// Arrival, to us or not, its other end, the message.
    under_way: VecDeque<(Instant, bool, SocketAddr, Vec<u8>)>,
    /// One of so many messages is lost; 0: none.
    loss: u32,
    sent: [usize; 2],
}

impl Net {
    fn new(seed: u64, here: &IceParams, there: impl FnOnce(Instant, &mut StdRng) -> Peer) -> Self {
        let (now, mut random) = (Instant::now(), StdRng::seed_from_u64(seed));
        let here = Peer::Ours(Agent::new(now, here, true, 7, &mut random));
        let there = there(now, &mut random);
        Self {
            now,
            begun: now,
            random,
            here,
            there,
            there_at: theirs(),
            under_way: VecDeque::new(),
            loss: 0,
            sent: [0; 2],
        }
    }

    fn with_foreign(seed: u64, here: &IceParams, lite: bool, controlling: bool) -> Self {
        Self::new(seed, here, |_, _| {
            Peer::foreign(lite, controlling, ["theirs", "ours"], theirs(), &[ours()])
        })
    }

    fn here(&mut self) -> &mut Agent {
        match &mut self.here {
            Peer::Ours(agent) => agent,
            Peer::Foreign(..) => panic!("we are ours"),
        }
    }

    fn send(&mut self, to_us: bool, other: SocketAddr, datagram: Vec<u8>) {
        self.sent[usize::from(to_us)] += 1;
        let is_lost = self.loss > 0 && self.random.random_ratio(1, self.loss);
        let reaches = to_us || other == self.there_at;
        if reaches && !is_lost {
            let delay = MS * self.random.random_range(1..40);
            self.under_way
                .push_back((self.now + delay, to_us, self.there_at, datagram));
        }
    }

    fn run(&mut self, ms: u32) {
        for _ in 0..ms {
            self.now += MS;
            for _ in 0..self.under_way.len() {
                let (at, to_us, there_at, datagram) = self.under_way.pop_front().unwrap();
                if at > self.now {
                    self.under_way.push_back((at, to_us, there_at, datagram));
                    continue;
                }
                let (now, random) = (self.now, &mut self.random);
                let answer = match to_us {
                    true => self.here.handle(now, ours(), there_at, &datagram, random),
                    false => self.there.handle(now, there_at, ours(), &datagram, random),
                };
                if let Some(answer) = answer {
                    self.send(!to_us, there_at, answer);
                }
            }
            self.there.tick(self.now);
            while let Some((to, datagram)) = self.here.poll(self.now, &mut self.random) {
                self.send(false, to, datagram);
            }
            while let Some((to, datagram)) = self.there.poll(self.now, &mut self.random) {
                if to == ours() {
                    self.send(true, to, datagram);
                }
            }
        }
    }

    #[track_caller]
    fn assert_connected(&self) {
        assert_eq!(
            self.here.selected(),
            Some(self.there_at),
            "ours after {:?}",
            self.now - self.begun
        );
        assert_eq!(self.there.selected(), Some(ours()), "theirs");
    }
}

#[test]
fn lite_and_full_agree_whoever_wrote_the_full_one() {
    for seed in 0..20 {
        let mut net = Net::with_foreign(seed, &params(), false, true);
        net.loss = 5;
        net.run(12_000);
        net.assert_connected();
    }
}

#[test]
fn full_and_full_agree_in_both_roles() {
    for (seed, controlling) in (0..20).flat_map(|seed| [(seed, true), (seed, false)]) {
        let here = IceParams {
            we_are_lite: false,
            controlling,
            ..params()
        };
        let mut net = Net::with_foreign(seed, &here, false, !controlling);
        net.loss = 5;
        net.run(12_000);
        net.assert_connected();
    }
}

#[test]
fn a_lite_peer_is_checked_and_nominated() {
    for seed in 0..20 {
        let here = IceParams {
            we_are_lite: false,
            remote_is_lite: true,
            controlling: true,
            ..params()
        };
        let mut net = Net::with_foreign(seed, &here, true, false);
        net.loss = 5;
        net.run(12_000);
        net.assert_connected();
    }
}

#[test]
fn two_of_us_agree() {
    for (seed, controlling) in (0..20).flat_map(|seed| [(seed, true), (seed, false)]) {
        let here = IceParams {
            we_are_lite: false,
            controlling,
            ..params()
        };
        let there = IceParams {
            local: credentials("theirs"),
            remote: Some(credentials("ours")),
            controlling: !controlling,
            remote_candidates: vec![candidate(ours())],
            ..here.clone()
        };
        let mut net = Net::new(seed, &here, |now, random| {
            Peer::Ours(Agent::new(now, &there, true, 8, random))
        });
        net.loss = 4;
        net.run(12_000);
        net.assert_connected();
    }
}

#[test]
fn a_conflict_of_roles_is_settled() {
    for (seed, controlling) in (0..20).flat_map(|seed| [(seed, true), (seed, false)]) {
        let here = IceParams {
            we_are_lite: false,
            controlling,
            ..params()
        };
        let mut net = Net::with_foreign(seed, &here, false, controlling);
        net.run(12_000);
        net.assert_connected();
    }
}

#[test]
fn a_peer_that_hides_its_addresses_is_found_by_its_checks() {
    let here = IceParams {
        remote_candidates: Vec::new(),
        ..params()
    };
    for we_are_lite in [true, false] {
        let mut net = Net::with_foreign(
            1,
            &IceParams {
                we_are_lite,
                ..here.clone()
            },
            false,
            true,
        );
        net.run(3_000);
        net.assert_connected();
    }
}

#[test]
fn checks_are_answered_before_the_answer_to_our_offer() {
    let here = IceParams {
        remote: None,
        remote_candidates: Vec::new(),
        we_are_lite: false,
        ..params()
    };
    let mut net = Net::with_foreign(1, &here, false, true);
    net.run(500);
    assert_eq!(net.here.selected(), None);
    let now = net.now;
    net.here().update(
        now,
        &IceParams {
            we_are_lite: false,
            ..params()
        },
    );
    net.run(3_000);
    net.assert_connected();
}

/// We offered lite, and the answer tells that the peer is that too.
#[test]
fn of_two_who_meant_to_wait_for_checks_we_are_the_one_to_nominate() {
    let here = IceParams {
        remote: None,
        remote_candidates: Vec::new(),
        ..params()
    };
    let mut net = Net::with_foreign(1, &here, true, false);
    let now = net.now;
    let answered = IceParams {
        we_are_lite: false,
        remote_is_lite: true,
        controlling: true,
        ..params()
    };
    net.here().update(now, &answered);
    // Not even its answers tell such a peer's mind about the roles.
    assert!(net.here().controlling);
    net.run(3_000);
    net.assert_connected();
}

/// A check as a peer of ours would send it.
fn check(use_candidate: bool, priority: u32, role: Role, password: &str) -> Vec<u8> {
    let mut buffer = [0; MAX_LEN];
    let mut writer = Writer::new(&mut buffer, Class::Request, &[9; 12]);
    writer.username("oursfrag", "theirsfrag");
    writer.priority(priority);
    if use_candidate {
        writer.use_candidate();
    }
    writer.role(role);
    let len = writer.finish(&stun::key(password)).unwrap();
    buffer[..len].to_vec()
}

fn nomination(priority: u32) -> Vec<u8> {
    check(
        true,
        priority,
        Role::Controlling(1),
        &credentials("ours").password,
    )
}

struct Alone {
    agent: Agent,
    now: Instant,
    random: StdRng,
}

impl Alone {
    fn new(params: &IceParams) -> Self {
        let (now, mut random) = (Instant::now(), StdRng::seed_from_u64(1));
        let agent = Agent::new(now, params, true, 7, &mut random);
        Self { agent, now, random }
    }

    fn take(&mut self, from: &str, datagram: &[u8]) -> (Handled, Option<u16>) {
        let mut buffer = [0; MAX_LEN];
        let message = Message::read(datagram).unwrap();
        let handled = self.agent.handle(
            self.now,
            addr(from),
            &message,
            &mut self.random,
            &mut buffer,
        );
        let error = match handled {
            Handled::Answer(len) => Message::read(&buffer[..len]).unwrap().error,
            _ => None,
        };
        (handled, error)
    }
}

#[test]
fn of_pairs_nominated_at_once_the_best_is_meant_and_later_the_last() {
    let mut alone = Alone::new(&params());
    alone.take("198.51.100.7:5000", &nomination(900));
    alone.take("198.51.100.7:5001", &nomination(100));
    assert_eq!(
        alone.agent.selected(),
        Some(addr("198.51.100.7:5000")),
        "candidate told"
    );
    alone.now += Duration::from_secs(10);
    alone.take("203.0.113.9:7000", &nomination(50));
    assert_eq!(
        alone.agent.selected(),
        Some(addr("203.0.113.9:7000")),
        "it has moved"
    );
}

#[test]
fn a_wrong_signature_leaves_nothing() {
    let mut alone = Alone::new(&params());
    let forged = check(true, 1, Role::Controlling(1), "some other password....");
    for port in 1_000..1_500 {
        let from = format!("203.0.113.9:{port}");
        assert_eq!(alone.take(&from, &forged).0, Handled::Unauthentic);
    }
    assert_eq!((alone.agent.pairs.len(), alone.agent.selected()), (1, None));
    // Of new addresses nobody is listened to for the rest of the second; of known ones he is.
    assert_eq!(
        alone.take("203.0.113.9:9", &nomination(1)).0,
        Handled::Unauthentic
    );
    assert!(matches!(
        alone.take("198.51.100.7:5000", &nomination(1)).0,
        Handled::Answer(_)
    ));
    alone.now += Duration::from_secs(1);
    assert!(matches!(
        alone.take("203.0.113.9:9", &nomination(1)).0,
        Handled::Answer(_)
    ));
}

#[test]
fn an_authenticated_peer_with_many_addresses_is_kept_within_bounds() {
    let mut alone = Alone::new(&params());
    alone.take("198.51.100.7:5000", &nomination(7));
    alone.now += Duration::from_secs(10);
    let plain = check(
        false,
        7,
        Role::Controlling(1),
        &credentials("ours").password,
    );
    for port in 1_000..3_000 {
        alone.take(&format!("203.0.113.9:{port}"), &plain);
    }
    assert_eq!(alone.agent.pairs.len(), MAX_PAIRS);
    assert_eq!(alone.agent.selected(), Some(theirs()));
    assert!(alone.agent.knows(theirs()));
}

#[test]
fn what_must_be_understood_is_refused_and_a_lite_agent_never_nominates() {
    let mut alone = Alone::new(&params());
    let conflict = check(false, 7, Role::Controlled(0), &credentials("ours").password);
    assert_eq!(alone.take("198.51.100.7:5000", &conflict).1, Some(487));
    let mut buffer = [0; MAX_LEN];
    let mut writer = Writer::new(&mut buffer, Class::Request, &[9; 12]);
    writer.username("oursfrag", "theirsfrag");
    writer.priority(1);
    writer.attribute(0x7ABC, &[]);
    let len = writer
        .finish(&stun::key(&credentials("ours").password))
        .unwrap();
    assert_eq!(alone.take("198.51.100.7:5000", &buffer[..len]).1, Some(420));
}

#[test]
fn consent_lasts_as_long_as_the_peer_checks_or_speaks() {
    let mut alone = Alone::new(&params());
    alone.take("198.51.100.7:5000", &nomination(7));
    for _ in 0..10 {
        alone.now += Duration::from_secs(29);
        assert!(!alone.agent.has_lost_consent(alone.now));
        alone.agent.heard_media(alone.now);
    }
    alone.agent.heard_media(alone.now - Duration::from_secs(10));
    assert_eq!(alone.agent.next_timeout(), Some(alone.now + CONSENT));
    alone.now += CONSENT;
    assert!(alone.agent.has_lost_consent(alone.now));
    assert_eq!(alone.agent.selected(), None);
}

#[test]
fn a_full_agent_checks_for_consent_and_notices_when_the_answers_end() {
    let here = IceParams {
        we_are_lite: false,
        controlling: true,
        ..params()
    };
    let mut net = Net::with_foreign(3, &here, false, false);
    net.run(3_000);
    net.assert_connected();
    let before = net.sent[0];
    net.run(60_000);
    net.assert_connected();
    let checks = net.sent[0] - before;
    assert!((20..80).contains(&checks), "{checks} messages in a minute");
    net.loss = 1;
    net.run(29_000 - 6_000);
    assert!(net.here.selected().is_some());
    net.run(8_000);
    assert_eq!(net.here.selected(), None);
}

proptest::proptest! {
    #[test]
    fn fragments_of_any_length_are_written(theirs in "[a-zA-Z0-9+/]{4,256}", ours in "[a-zA-Z0-9+/]{4,256}") {
        let credentials = |ufrag| IceCredentials { ufrag, password: "a-password-of-22-characters".into() };
        let params = IceParams {
            local: credentials(ours),
            remote: Some(credentials(theirs.clone())),
            we_are_lite: false,
            ..params()
        };
        let mut alone = Alone::new(&params);
        let mut buffer = [0; MAX_LEN];
        let (to, len) = alone.agent.poll_check(alone.now, &mut alone.random, &mut buffer).unwrap();
        proptest::prop_assert_eq!(to, self::theirs());
        let message = Message::read(&buffer[..len]).unwrap();
        proptest::prop_assert_eq!(message.receiver(), Some(theirs.as_bytes()));
    }
}

#[test]
fn an_agent_is_as_small_as_what_it_knows() {
    let size = size_of::<Agent>();
    assert!(size <= 512, "{size} bytes in each call");
}
