mod rsa;

use super::*;

use std::collections::BTreeMap;

use rand::Rng as _;
use rand::RngExt as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::media::srtp;

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// What happens to datagrams on their way.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    loss: f64,
    duplication: f64,
    reordering: f64,
}

/// `SIM_SEED` replays one; `SIM_ROUNDS` tries more than usual.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_ROUNDS").unwrap_or(usual),
    }
}

/// Two associations and what is on its way between them, in virtual time.
struct World {
    now: Instant,
    ends: [Dtls; 2],
    /// By time of arrival and number.
    flying: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    sent: u64,
    random: StdRng,
    weather: Weather,
    done: [Option<Box<Srtp>>; 2],
    failed: [Option<DtlsError>; 2],
    closed: [bool; 2],
}

impl World {
    fn new(seed: u64, weather: Weather) -> Self {
        Self::with(seed, weather, &CHECKED, [None, None])
    }

    /// `wrong` are fingerprints told instead of the right ones.
    fn with(
        seed: u64,
        weather: Weather,
        config: &Arc<Config>,
        wrong: [Option<Vec<Fingerprint>>; 2],
    ) -> Self {
        let now = Instant::now();
        let certificates = [0, 1].map(|_| Certificate::generate().unwrap());
        let right = |of: usize| vec![certificates[of].fingerprint().clone()];
        let [of_server, of_client] = wrong;
        let of_server = of_server.unwrap_or_else(|| right(SERVER));
        let of_client = of_client.unwrap_or_else(|| right(CLIENT));
        let end = |role, of: usize, told: &[Fingerprint]| {
            Dtls::with_config(now, role, Arc::clone(config), &certificates[of], told)
        };
        let client = end(DtlsRole::Active, CLIENT, &of_server);
        let server = end(DtlsRole::Passive, SERVER, &of_client);
        Self::between(seed, weather, now, [client, server])
    }

    fn between(seed: u64, weather: Weather, now: Instant, ends: [Dtls; 2]) -> Self {
        Self {
            now,
            ends,
            flying: BTreeMap::new(),
            sent: 0,
            random: StdRng::seed_from_u64(seed),
            weather,
            done: [None, None],
            failed: [None, None],
            closed: [false, false],
        }
    }

    /// Sends what there is to send, and takes events.
    fn drain(&mut self) {
        for end in [CLIENT, SERVER] {
            let mut buffer = [0; MAX_DATAGRAM];
            while let Some(len) = self.ends[end].poll_transmit(&mut buffer) {
                assert!(len <= MAX_DATAGRAM);
                self.send(1 - end, &buffer[..len]);
            }
            while let Some(event) = self.ends[end].poll_event() {
                match event {
                    DtlsEvent::Done(keys) => {
                        assert!(self.done[end].replace(keys).is_none(), "done twice");
                    }
                    DtlsEvent::Failed(error) => self.failed[end] = Some(error),
                    DtlsEvent::Closed => self.closed[end] = true,
                }
            }
        }
    }

    fn send(&mut self, to: usize, datagram: &[u8]) {
        let copies = 1 + usize::from(self.random.random_bool(self.weather.duplication));
        for _ in 0..copies {
            self.sent += 1;
            if self.random.random_bool(self.weather.loss) {
                continue;
            }
            let late = self.random.random_bool(self.weather.reordering);
            let ms = self
                .random
                .random_range(if late { 100..900 } else { 10..40 });
            let at = self.now + Duration::from_millis(ms);
            self.flying.insert((at, self.sent), (to, datagram.to_vec()));
        }
    }

    /// The next thing that happens, if any does before `until`.
    fn step(&mut self, until: Instant) -> bool {
        self.drain();
        let now = self.now;
        let waits = |end: &Dtls| end.next_timeout().is_none_or(|at| at > now);
        assert!(
            self.ends.iter().all(waits),
            "woken without end: {:?}",
            self.ends
        );
        let arrival = self.flying.keys().next().map(|(at, _)| *at);
        let timeouts = self.ends.iter().filter_map(Dtls::next_timeout);
        let Some(next) = timeouts.chain(arrival).min().filter(|at| *at <= until) else {
            return false;
        };
        self.now = self.now.max(next);
        // Who is to be woken comes first: a datagram may come at the very moment of a deadline.
        let mut is_woken = false;
        for end in &mut self.ends {
            if end.next_timeout().is_some_and(|at| at <= self.now) {
                end.handle_timeout(self.now);
                is_woken = true;
            }
        }
        if !is_woken && let Some((_, (to, datagram))) = self.flying.pop_first() {
            self.ends[to].handle(self.now, &datagram);
        }
        true
    }

    /// Until both know how it ended, or `DEADLINE` and a second are over.
    fn run(&mut self) {
        let until = self.now + DEADLINE + Duration::from_secs(1);
        let is_over =
            |world: &Self, end: usize| world.done[end].is_some() || world.failed[end].is_some();
        while self.step(until) {
            assert!(self.sent < 1_000, "they talk without end");
            if is_over(self, CLIENT) && is_over(self, SERVER) {
                return;
            }
        }
        assert!(
            is_over(self, CLIENT) && is_over(self, SERVER),
            "an end neither completes nor fails: {:?}",
            self.ends
        );
    }

    /// Only so many datagrams arrive.
    fn run_with_loss_from(&mut self, lost_from: usize) {
        let until = self.now + DEADLINE + Duration::from_secs(1);
        let mut arrived = 0;
        loop {
            self.drain();
            if arrived >= lost_from {
                self.flying.clear();
            }
            let flying = self.flying.len();
            if !self.step(until) {
                break;
            }
            arrived += usize::from(self.flying.len() < flying);
        }
    }

    fn run_with_damage(&mut self) {
        let until = self.now + DEADLINE + Duration::from_secs(1);
        let mut steps = 0;
        while steps < 60 && self.step(until) {
            steps += 1;
            let random = &mut self.random;
            if let Some(mut entry) = self.flying.first_entry()
                && random.random_ratio(1, 4)
            {
                let (_, datagram) = entry.get_mut();
                damage(random, datagram);
            }
        }
        if let [Some(_), Some(_)] = self.done {
            self.assert_same_keys();
        }
    }

    fn assert_done_without_waiting(&mut self) {
        let begin = self.now;
        self.run();
        self.assert_same_keys();
        assert!(
            self.now - begin < Duration::from_millis(300),
            "without waiting"
        );
    }

    /// Whether both ends have the same keys. Otherwise each has failed by an expected error, or not at
    /// all.
    fn is_complete(&mut self, seed: u64, expected: &[DtlsError]) -> bool {
        let failed = self.failed;
        if failed == [None, None] {
            self.assert_same_keys();
            return true;
        }
        assert!(
            failed
                .iter()
                .flatten()
                .all(|error| expected.contains(error)),
            "seed {seed}: {failed:?}"
        );
        false
    }

    fn assert_same_keys(&mut self) {
        let [Some(client), Some(server)] = &mut self.done else {
            panic!("both should be done: {:?}", self.failed);
        };
        for (from, to, ssrc) in [(0, 1, 7), (1, 0, 8)] {
            let ends = [&mut *client, &mut *server];
            let mut packet = [0; 172 + srtp::MAX_OVERHEAD];
            packet[0] = 0x80;
            packet[3] = 1;
            packet[11] = ssrc;
            let len = ends[from].protect_rtp(&mut packet, 172).unwrap();
            assert_eq!(ends[to].unprotect_rtp(&mut packet[..len]), Ok(172));
        }
    }
}

/// Weather of every kind, by its number.
fn weather(seed: u64) -> Weather {
    Weather {
        loss: 0.05 * (seed % 7) as f64,
        duplication: 0.1 * (seed % 3) as f64,
        reordering: 0.1 * (seed % 4) as f64,
    }
}

#[test]
fn both_ends_of_a_handshake_have_the_same_keys() {
    for config in [&*CHECKED, &*UNCHECKED] {
        let mut world = World::with(1, Weather::default(), config, [None, None]);
        world.assert_done_without_waiting();
    }
}

#[test]
fn loss_duplicates_and_disorder_end_in_keys_or_in_a_named_error() {
    let seeds = seeds(60);
    let mut complete = 0;
    for seed in seeds.clone() {
        // Every other handshake consists of many datagrams.
        let mtu = if seed % 2 == 0 { MAX_DATAGRAM } else { 400 };
        let config = configured(Path::Checked, mtu);
        let mut world = World::with(seed, weather(seed), &config, [None, None]);
        world.run();
        complete += usize::from(world.is_complete(seed, &[DtlsError::Stalled]));
    }
    let all = seeds.count();
    assert!(
        complete * 20 >= all * 19,
        "only {complete} of {all} handshakes complete"
    );
}

/// Whichever datagram is the last that arrives, whoever waits for the next one says so in time.
#[test]
fn a_handshake_that_stops_anywhere_fails_before_its_deadline() {
    for lost_from in 0..12 {
        let mut world = World::new(2, Weather::default());
        let begin = world.now;
        world.run_with_loss_from(lost_from);
        for end in [CLIENT, SERVER] {
            let silent = lost_from == 0 || (lost_from == 1 && end == CLIENT);
            match world.failed[end] {
                None => assert!(world.done[end].is_some(), "after {lost_from}"),
                Some(DtlsError::Silent) => assert!(silent, "after {lost_from}"),
                Some(error) => assert_eq!(error, DtlsError::Stalled, "after {lost_from}"),
            }
        }
        let ended = |end: usize| world.failed[end].is_some();
        assert!(ended(CLIENT) || ended(SERVER) || lost_from >= 3);
        assert!(world.now <= begin + DEADLINE + Duration::from_secs(1));
    }
}

#[test]
fn a_certificate_of_another_fingerprint_gives_no_keys() {
    let other = || Some(vec![Fingerprint::sha256([9; 32])]);
    for wrong in [[other(), None], [None, other()]] {
        let deceived = usize::from(wrong[0].is_none());
        let mut world = World::with(3, Weather::default(), &CHECKED, wrong);
        world.run();
        assert_eq!(world.failed[deceived], Some(DtlsError::FingerprintMismatch));
        assert!(world.done[deceived].is_none());
    }
}

#[test]
fn without_a_known_fingerprint_nothing_is_said() {
    let certificate = Certificate::generate().unwrap();
    let now = Instant::now();
    let mut dtls = Dtls::new(now, DtlsRole::Active, Path::Checked, &certificate, &[]);
    assert_eq!(dtls.poll_transmit(&mut [0; MAX_DATAGRAM]), None);
    let event = dtls.poll_event();
    assert!(matches!(
        event,
        Some(DtlsEvent::Failed(DtlsError::NoFingerprint))
    ));
    assert_eq!(dtls.next_timeout(), None);
}

#[test]
fn the_end_of_one_side_is_told_to_the_other() {
    for closing in [CLIENT, SERVER] {
        let mut world = World::new(4, Weather::default());
        world.run();
        let soon = world.now + Duration::from_secs(5);
        while world.step(soon) {}
        world.ends[closing].close();
        while world.step(soon) {}
        assert!(world.closed[1 - closing], "{closing} closes");
        assert!(!world.closed[closing]);
        assert_eq!(world.ends[1 - closing].next_timeout(), None);
    }
}

#[test]
fn keys_are_told_even_if_the_peer_closes_in_the_same_moment() {
    let mut world = World::new(7, Weather::default());
    let soon = world.now + Duration::from_secs(1);
    while world.done[CLIENT].is_none() {
        assert!(world.step(soon));
    }
    world.ends[CLIENT].close();
    world.drain();
    // The server takes both datagrams before it is asked.
    for (_, (to, datagram)) in std::mem::take(&mut world.flying) {
        world.ends[to].handle(world.now, &datagram);
    }
    world.drain();
    assert!(world.done[SERVER].is_some() && world.closed[SERVER]);
}

/// The last flight of one side is lost: the other repeats its own until it is answered.
#[test]
fn repetitions_are_answered_after_the_handshake_is_complete() {
    let mut repeated = 0;
    for seed in 0..40 {
        let mut world = World::new(
            seed,
            Weather {
                loss: 0.4,
                ..Weather::default()
            },
        );
        let until = world.now + DEADLINE + Duration::from_secs(1);
        while world.done.iter().flatten().count() < 1 && world.step(until) {}
        let Some(first) = world.done.iter().position(Option::is_some) else {
            continue;
        };
        if world.done[1 - first].is_none() && world.failed[1 - first].is_none() {
            world.flying.clear();
            world.weather.loss = 0.0;
            world.run();
            repeated += usize::from(world.done[1 - first].is_some());
        }
    }
    assert!(repeated > 5, "only {repeated}");
}

#[test]
fn after_the_handshake_nothing_wakes_a_quiet_association() {
    let mut world = World::new(5, Weather::default());
    world.run();
    let later = world.now + Duration::from_secs(60);
    while world.step(later) {}
    assert_eq!(world.ends.each_ref().map(Dtls::next_timeout), [None, None]);
}

#[test]
fn a_stray_datagram_does_not_end_a_handshake() {
    for end in [CLIENT, SERVER] {
        let mut world = World::new(6, Weather::default());
        let stray: [&[u8]; 4] = [
            &[],
            &[22],
            &[0x80; 172],
            &[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 4, 1, 2, 3, 4],
        ];
        for datagram in stray {
            world.ends[end].handle(world.now, datagram);
            world.drain();
        }
        world.run();
        world.assert_same_keys();
    }
}

/// What stands behind the ServerHello in its datagram never arrives whole: the client sees a
/// flight with a gap at its beginning, for as long as it waits.
#[test]
fn a_gap_in_a_flight_is_told_now_and_then_but_not_without_end() {
    let mut world = World::new(8, Weather::default());
    let until = world.now + DEADLINE + Duration::from_secs(1);
    loop {
        world.drain();
        for (to, datagram) in world.flying.values_mut() {
            let [0x16, _, _, _, _, _, _, _, _, _, _, high, low, ..] = datagram[..] else {
                continue;
            };
            let next_record = 13 + usize::from(u16::from_be_bytes([high, low]));
            if *to == CLIENT && datagram.len() > next_record + 20 {
                datagram[next_record + 8..][..8].fill(0);
            }
        }
        if !world.step(until) {
            break;
        }
    }
    assert_eq!(world.failed[CLIENT], Some(DtlsError::Stalled));
    assert!(world.sent < 400, "{} datagrams", world.sent);
}

/// Damage to any datagram, at any stage: no panic, and keys only if both have the same.
#[test]
fn damaged_datagrams_never_panic() {
    for seed in seeds(300) {
        World::new(seed, Weather::default()).run_with_damage();
    }
}

fn damage(random: &mut StdRng, datagram: &mut Vec<u8>) {
    match random.random_range(0..6) {
        0 => datagram.truncate(random.random_range(0..=datagram.len())),
        1 => datagram.extend_from_within(..),
        2 => {
            datagram.resize(random.random_range(1..=1500), 0);
            random.fill_bytes(datagram);
        }
        _ => {
            for _ in 0..random.random_range(1..8) {
                if let Some(last) = datagram.len().checked_sub(1) {
                    // Lengths and types stand in front.
                    let end = if random.random_bool(0.7) {
                        last.min(60)
                    } else {
                        last
                    };
                    datagram[random.random_range(0..=end)] = random.random();
                }
            }
        }
    }
}
