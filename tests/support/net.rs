//! A network in virtual time, between SIP endpoints: datagrams that are lost, doubled and late, and
//! connections that break. One seed, one history.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use aftertone::sip::flow::Flow;
use aftertone::sip::flow::Transport;
use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Share of datagrams lost, in percent.
    pub(crate) loss: u32,
    /// Share of datagrams doubled, in percent.
    pub(crate) duplicates: u32,
    /// The longest delay of a datagram; each has its own, so that they overtake each other.
    pub(crate) jitter_ms: u64,
}

/// What arrives at a node.
#[derive(Debug)]
pub(crate) enum Arrival {
    Bytes(Bytes),
    Closed,
}

/// Bytes and signals under way.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) weather: Weather,
    rng: StdRng,
    queue: BTreeMap<(Instant, u64), (Flow, Arrival)>,
    sequence: u64,
    connections: u64,
    /// The other end of each open connection, and when its last bytes arrive.
    peers: BTreeMap<u64, (Flow, Instant)>,
}

impl Net {
    pub(crate) fn new(weather: Weather, rng: StdRng) -> Self {
        Self {
            weather,
            rng,
            queue: BTreeMap::new(),
            sequence: 0,
            connections: 0,
            peers: BTreeMap::new(),
        }
    }

    /// Sends bytes into a flow, as its sender sees it.
    pub(crate) fn send(&mut self, now: Instant, flow: Flow, bytes: &Bytes) {
        if flow.transport != Transport::Udp {
            let Some((peer, last)) = self.peers.get_mut(&flow.connection) else {
                return;
            };
            *last = (*last).max(now) + Duration::from_millis(1);
            let (peer, at) = (*peer, *last);
            return self.push(at, peer, Arrival::Bytes(bytes.clone()));
        }
        let mut copies = u32::from(self.rng.random_range(0..100) >= self.weather.loss);
        copies += u32::from(copies == 1 && self.rng.random_range(0..100) < self.weather.duplicates);
        for _ in 0..copies {
            let delay = 1 + self.rng.random_range(0..=self.weather.jitter_ms);
            let arriving = Flow {
                local: flow.remote,
                remote: flow.local,
                ..flow
            };
            self.push(
                now + Duration::from_millis(delay),
                arriving,
                Arrival::Bytes(bytes.clone()),
            );
        }
    }

    fn push(&mut self, at: Instant, flow: Flow, arrival: Arrival) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), (flow, arrival));
    }

    /// Opens a connection: the end of who opened it.
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        transport: Transport,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Flow {
        self.connections += 2;
        let ephemeral = 20_000 + u16::try_from(self.connections % 40_000).unwrap();
        let near = Flow {
            transport,
            local: SocketAddr::new(from.ip(), ephemeral),
            remote: to,
            connection: self.connections,
        };
        let far = Flow {
            transport,
            local: to,
            remote: near.local,
            connection: self.connections + 1,
        };
        self.peers.insert(near.connection, (far, now));
        self.peers.insert(far.connection, (near, now));
        near
    }

    /// Breaks some connection: what is under way on it is lost, and both ends hear of it.
    pub(crate) fn break_connection(&mut self, now: Instant) {
        let count = self.peers.len();
        if count == 0 {
            return;
        }
        let at = self.rng.random_range(0..count);
        let connection = *self.peers.keys().nth(at).unwrap();
        let (far, _) = self.peers.remove(&connection).unwrap();
        let (near, _) = self.peers.remove(&far.connection).unwrap();
        self.queue.retain(|_, (flow, _)| {
            flow.connection != near.connection && flow.connection != far.connection
        });
        for end in [near, far] {
            self.push(now, end, Arrival::Closed);
        }
    }

    /// When the next thing arrives.
    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        self.queue.keys().next().map(|(at, _)| *at)
    }

    /// What has arrived by now: the flow as the receiver sees it.
    pub(crate) fn arrived(&mut self, now: Instant) -> Option<(Flow, Arrival)> {
        let first = self.queue.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
