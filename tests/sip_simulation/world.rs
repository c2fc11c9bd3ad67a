//! Two endpoints, the network between them, and a shadow of every call.

use std::collections::BTreeMap;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;
use std::time::Instant;

use crate::net::Arrival;
use crate::net::Net;
use crate::net::Weather;
use aftertone::sip::endpoint::CallHandle;
use aftertone::sip::endpoint::Config;
use aftertone::sip::endpoint::DialogEnd;
use aftertone::sip::endpoint::Endpoint;
use aftertone::sip::endpoint::Event;
use aftertone::sip::endpoint::Hop;
use aftertone::sip::endpoint::OfferId;
use aftertone::sip::endpoint::OutgoingRequest;
use aftertone::sip::endpoint::Output;
use aftertone::sip::flow::Transport;
use aftertone::sip::message::Limits;
use aftertone::sip::message::Message;
use aftertone::sip::message::Method;
use aftertone::sip::message::Parsed;
use aftertone::sip::message::StatusCode;
use aftertone::sip::message::Uri;
use aftertone::sip::message::parse_datagram;
use bytes::Bytes;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// What a seed decides on at its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene {
    weather: Weather,
    transport: Transport,
    /// Connections break now and then.
    breaks: bool,
    /// The callee is called by name; the first address found leads nowhere.
    names: bool,
    session_secs: u64,
}

impl Scene {
    fn draw(rng: &mut StdRng) -> Self {
        let harsh = rng.random_bool(0.4);
        let weather = Weather {
            loss: rng.random_range(0..=if harsh { 40 } else { 5 }),
            duplicates: rng.random_range(0..=30),
            jitter_ms: rng.random_range(0..=if harsh { 1_500 } else { 200 }),
        };
        let transport = if rng.random_bool(0.7) {
            Transport::Udp
        } else {
            Transport::Tcp
        };
        let breaks = transport == Transport::Tcp && rng.random_bool(0.5);
        let session_secs = if rng.random_bool(0.5) { 90 } else { 1_800 };
        Self {
            weather,
            transport,
            breaks,
            names: rng.random_bool(0.2),
            session_secs,
        }
    }

    /// Whether every message gets through by retransmission, so that nobody may time out.
    fn is_mild(&self) -> bool {
        self.weather.loss <= 5 && self.weather.jitter_ms <= 200 && !self.breaks
    }
}

/// What the application of one node believes of a call.
#[derive(Debug, Default)]
struct Shadow {
    incoming: bool,
    offered: bool,
    answered: bool,
    confirmed: bool,
    hung_up: bool,
    ended: bool,
    to_decide: bool,
    to_acknowledge: Option<Bytes>,
    offers: Vec<(OfferId, Option<Bytes>)>,
    /// The offer in the INVITE.
    first_offer: Option<Bytes>,
    /// Our offer whose answer is awaited.
    asked: Option<Bytes>,
}

impl Shadow {
    /// The ACK or PRACK to our answer or offer came.
    fn confirm(&mut self, answer: Option<&Bytes>) {
        let asked = self.asked.take();
        assert_eq!(
            answer,
            asked.as_ref().map(answer_to).as_ref(),
            "an answer comes if and only if we offered"
        );
        self.confirmed = true;
    }

    /// Our INVITE was answered.
    fn answer(&mut self, description: Option<Bytes>) {
        assert!(!self.incoming && !self.answered, "answered twice");
        self.answered = true;
        self.confirmed = true;
        if self.offered {
            self.check_answer(description.as_ref());
            self.asked = None;
        } else {
            self.to_acknowledge = Some(description.expect("a late offer"));
        }
    }

    /// A description in a response, if there is one, answers what we offered.
    fn check_answer(&self, description: Option<&Bytes>) {
        if let (Some(description), Some(asked)) = (description, &self.asked) {
            assert_eq!(*description, answer_to(asked));
        }
    }
}

struct Node {
    endpoint: Endpoint,
    address: SocketAddr,
    calls: BTreeMap<CallHandle, Shadow>,
}

pub(crate) struct World {
    pub(crate) scene: Scene,
    rng: StdRng,
    now: Instant,
    start: Instant,
    net: Net,
    nodes: [Node; 2],
    descriptions: u64,
    /// The final status of each INVITE transaction, by Via and CSeq, as its server sent it.
    finals: BTreeMap<(Vec<u8>, u32), StatusCode>,
    pub(crate) counted: BTreeMap<&'static str, u64>,
    pub(crate) history: DefaultHasher,
}

fn config(scene: &Scene, address: SocketAddr) -> Config {
    Config {
        uri: Uri::parse(&format!("sip:node@{address}")).unwrap(),
        listen: vec![(Transport::Udp, address), (Transport::Tcp, address)],
        trusted: vec!["10.0.0.0/8".parse().unwrap()],
        session_expires: Duration::from_secs(scene.session_secs),
        ..Config::default()
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let scene = Scene::draw(&mut rng);
        let start = tokio::time::Instant::now().into_std();
        let net = Net::new(scene.weather, StdRng::seed_from_u64(rng.random()));
        let nodes = [1, 2].map(|n| {
            let address = SocketAddr::from(([10, 0, 0, n], 5060));
            Node {
                endpoint: Endpoint::new(config(&scene, address), rng.random()),
                address,
                calls: BTreeMap::new(),
            }
        });
        Self {
            scene,
            rng,
            now: start,
            start,
            net,
            nodes,
            descriptions: 0,
            finals: BTreeMap::new(),
            counted: BTreeMap::new(),
            history: DefaultHasher::new(),
        }
    }

    /// A description that was never seen before.
    fn offer(&mut self) -> Bytes {
        self.descriptions += 1;
        format!("offer {}", self.descriptions).into()
    }

    /// Does one random thing.
    pub(crate) fn act(&mut self) {
        let at = self.rng.random_range(0..2);
        match self.rng.random_range(0..100) {
            0..18 => self.place_call(at),
            18..34 => self.decide(at),
            34..44 => self.settle_offers(at),
            44..50 => self.hang_up(at),
            50..57 => self.offer_again(at),
            57..60 if self.scene.breaks => self.net.break_connection(self.now),
            57..88 => self.wait(0..=400),
            88..97 => self.wait(1_000..=6_000),
            _ => self.wait(20_000..=100_000),
        }
        self.flush();
    }

    fn place_call(&mut self, at: usize) {
        let peer = self.nodes[1 - at].address;
        let host = if self.scene.names {
            "callee.example".to_owned()
        } else {
            peer.to_string()
        };
        let target = format!("sip:someone@{host};transport={}", self.scene.transport);
        let offer = self.rng.random_bool(0.75).then(|| self.offer());
        let mut request = OutgoingRequest::new(Uri::parse(&target).unwrap(), offer.clone());
        request.reliable_provisional = self.rng.random_bool(0.5);
        request.require_reliable = self.rng.random_bool(0.3);
        let call = self.nodes[at]
            .endpoint
            .call(self.now, request)
            .expect("there is room");
        let shadow = Shadow {
            offered: offer.is_some(),
            asked: offer,
            ..Shadow::default()
        };
        self.nodes[at].calls.insert(call, shadow);
    }

    /// Some call of the node for which this holds.
    fn pick(&mut self, at: usize, wanted: impl Fn(&Shadow) -> bool) -> Option<CallHandle> {
        let fitting: Vec<_> = self.nodes[at]
            .calls
            .iter()
            .filter(|(_, shadow)| !shadow.ended && wanted(shadow))
            .map(|(call, _)| *call)
            .collect();
        (!fitting.is_empty()).then(|| fitting[self.rng.random_range(0..fitting.len())])
    }

    /// Answers, rejects, or lets ring.
    fn decide(&mut self, at: usize) {
        let Some(call) = self.pick(at, |shadow| shadow.to_decide) else {
            return;
        };
        let now = self.now;
        let choice = self.rng.random_range(0..10);
        let own_offer = self.offer();
        let Node {
            endpoint, calls, ..
        } = &mut self.nodes[at];
        let shadow = calls.get_mut(&call).unwrap();
        match choice {
            0 => endpoint.progress(now, call, StatusCode::RINGING).unwrap(),
            1 => {
                endpoint
                    .reject(now, call, StatusCode::BUSY_HERE, Vec::new())
                    .unwrap();
                shadow.to_decide = false;
            }
            _ => {
                shadow.to_decide = false;
                let description = match &shadow.first_offer {
                    Some(offer) => answer_to(offer),
                    None => {
                        shadow.asked = Some(own_offer.clone());
                        own_offer
                    }
                };
                endpoint.answer(now, call, description).unwrap();
            }
        }
    }

    /// Answers the offer in a 2xx. Whether there was one.
    fn acknowledge(&mut self, at: usize) -> bool {
        let Some(call) = self.pick(at, |shadow| shadow.to_acknowledge.is_some()) else {
            return false;
        };
        let Node {
            endpoint, calls, ..
        } = &mut self.nodes[at];
        let offer = calls.get_mut(&call).unwrap().to_acknowledge.take().unwrap();
        endpoint
            .acknowledge(self.now, call, answer_to(&offer))
            .unwrap();
        true
    }

    /// Decides on an offer of the peer.
    fn settle_offers(&mut self, at: usize) {
        self.acknowledge(at);
        let Some(call) = self.pick(at, |shadow| !shadow.to_decide && !shadow.offers.is_empty())
        else {
            return;
        };
        let accept = self.rng.random_bool(0.8);
        let own_offer = self.offer();
        let Node {
            endpoint, calls, ..
        } = &mut self.nodes[at];
        let shadow = calls.get_mut(&call).unwrap();
        let (id, offer) = shadow.offers.pop().unwrap();
        // A CANCEL may have taken the offer back: then the command is refused, and nothing happens.
        if accept {
            let description = offer.as_ref().map_or(own_offer.clone(), answer_to);
            if endpoint
                .accept_offer(self.now, call, id, description)
                .is_ok()
                && offer.is_none()
            {
                shadow.asked = Some(own_offer);
            }
        } else {
            endpoint
                .reject_offer(self.now, call, id, StatusCode::NOT_ACCEPTABLE_HERE)
                .ok();
        }
    }

    fn hang_up(&mut self, at: usize) {
        let Some(call) = self.pick(at, |shadow| !shadow.hung_up) else {
            return;
        };
        self.bye(at, call);
    }

    fn bye(&mut self, at: usize, call: CallHandle) {
        let node = &mut self.nodes[at];
        node.endpoint.bye(self.now, call, None).unwrap();
        node.calls.get_mut(&call).unwrap().hung_up = true;
    }

    fn offer_again(&mut self, at: usize) {
        let Some(call) = self.pick(at, |shadow| {
            shadow.answered && shadow.confirmed && !shadow.hung_up
        }) else {
            return;
        };
        let offer = self.offer();
        let node = &mut self.nodes[at];
        if node.endpoint.offer(self.now, call, offer.clone()).is_ok() {
            node.calls.get_mut(&call).unwrap().asked = Some(offer);
        }
    }

    fn wait(&mut self, millis: RangeInclusive<u64>) {
        let millis = self.rng.random_range(millis);
        self.pass(self.now + Duration::from_millis(millis));
    }

    /// Lets time pass, with all that happens in it.
    fn pass(&mut self, until: Instant) {
        loop {
            self.flush();
            // An application that lets the peer's offer lie for long makes the peer time out.
            if until > self.now + Duration::from_secs(1)
                && (self.acknowledge(0) || self.acknowledge(1))
            {
                continue;
            }
            let timers = self
                .nodes
                .iter()
                .filter_map(|node| node.endpoint.next_timeout());
            let next = timers.chain(self.net.next_arrival()).min();
            let Some(next) = next.filter(|next| *next <= until) else {
                break;
            };
            self.now = self.now.max(next);
            while let Some((flow, arrival)) = self.net.arrived(self.now) {
                let Some(node) = self
                    .nodes
                    .iter_mut()
                    .find(|node| node.address.ip() == flow.local.ip())
                else {
                    continue;
                };
                match arrival {
                    Arrival::Bytes(bytes) => node.endpoint.handle_datagram(self.now, flow, &bytes),
                    Arrival::Closed => node.endpoint.flow_closed(self.now, flow),
                }
            }
            for node in &mut self.nodes {
                if node
                    .endpoint
                    .next_timeout()
                    .is_some_and(|at| at <= self.now)
                {
                    node.endpoint.handle_timeout(self.now);
                }
                let next = node.endpoint.next_timeout();
                assert!(
                    next.is_none_or(|at| at > self.now),
                    "a timer that was served is due again"
                );
            }
        }
        self.now = until;
    }

    /// Carries out what the endpoints ask for.
    fn flush(&mut self) {
        loop {
            let mut quiet = true;
            for at in 0..2 {
                while let Some(output) = self.nodes[at].endpoint.poll_output() {
                    quiet = false;
                    self.carry_out(at, output);
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn carry_out(&mut self, at: usize, output: Output) {
        match output {
            Output::Send { flow, bytes } => {
                if std::env::var_os("SIM_TRACE").is_some() {
                    eprintln!(
                        "{:?} {at} {flow:?}\n{}",
                        self.now - self.start,
                        String::from_utf8_lossy(&bytes)
                    );
                }
                (self.now - self.start, at, &bytes).hash(&mut self.history);
                self.check_message(&bytes);
                self.net.send(self.now, flow, &bytes);
            }
            Output::Resolve { id, target } => {
                assert_eq!(target.host, "callee.example");
                let hop = |address| Hop {
                    transport: self.scene.transport,
                    remote: address,
                };
                let nowhere = SocketAddr::from(([10, 0, 0, 99], 5060));
                let mut hops = vec![hop(self.nodes[1 - at].address)];
                if self.scene.transport == Transport::Tcp {
                    hops.insert(0, hop(nowhere));
                }
                self.nodes[at].endpoint.resolved(self.now, id, hops);
            }
            Output::Connect {
                id,
                transport,
                remote,
                ..
            } => {
                let exists = self.nodes.iter().any(|node| node.address == remote);
                let flow = exists.then(|| {
                    self.net
                        .connect(self.now, transport, self.nodes[at].address, remote)
                });
                let endpoint = &mut self.nodes[at].endpoint;
                match flow {
                    Some(flow) => endpoint.connected(self.now, id, flow),
                    None => endpoint.connect_failed(self.now, id),
                }
            }
            Output::Close { .. } => {}
            Output::Event(Event::Counted(what)) => {
                assert!(
                    !(what == "request_timed_out" && self.scene.is_mild()),
                    "no response on a network that delivers"
                );
                *self.counted.entry(what).or_default() += 1;
            }
            Output::Event(event) => {
                if std::env::var_os("SIM_TRACE").is_some() {
                    eprintln!("{:?} {at} {event:?}\n", self.now - self.start);
                }
                format!("{event:?}").hash(&mut self.history);
                self.on_event(at, event);
            }
        }
    }

    /// Each INVITE has one final response.
    fn check_message(&mut self, bytes: &Bytes) {
        if !bytes.starts_with(b"SIP/2.0 ") || bytes.starts_with(b"SIP/2.0 1") {
            return;
        }
        let Parsed::Message(message) = parse_datagram(bytes, &Limits::default()) else {
            panic!("sent what cannot be read: {bytes:?}")
        };
        let Message::Response(response) = message else {
            return;
        };
        let cseq = response.headers.cseq().unwrap();
        if cseq.method != Method::Invite {
            return;
        }
        let branch = response
            .headers
            .top_via()
            .unwrap()
            .branch()
            .unwrap()
            .as_bytes()
            .to_vec();
        let before = self.finals.insert((branch, cseq.number), response.status);
        assert!(
            before.is_none_or(|before| before == response.status),
            "two final responses: {before:?} and {}",
            response.status
        );
    }

    fn on_event(&mut self, at: usize, event: Event) {
        let mild = self.scene.is_mild();
        let calls = &mut self.nodes[at].calls;
        match event {
            Event::Incoming { call, offer, .. } => {
                let mut shadow = Shadow {
                    incoming: true,
                    offered: offer.is_some(),
                    to_decide: true,
                    ..Shadow::default()
                };
                shadow.first_offer = offer;
                assert!(
                    calls.insert(call, shadow).is_none(),
                    "a handle was used twice"
                );
            }
            Event::Accepted { call } => {
                let shadow = live(calls, call);
                assert!(shadow.incoming && !shadow.answered, "accepted twice");
                shadow.answered = true;
            }
            Event::Confirmed { call, answer } => {
                live(calls, call).confirm(answer.as_ref());
            }
            Event::Offer { call, id, offer } => {
                let shadow = live(calls, call);
                assert!(shadow.answered, "an offer before the answer");
                shadow.offers = vec![(id, offer)];
            }
            Event::OfferAnswered { call, answer } => {
                let shadow = live(calls, call);
                let asked = shadow.asked.take().expect("an offer was made");
                if let Ok(answer) = answer {
                    assert_eq!(answer, Some(answer_to(&asked)));
                }
            }
            Event::Progress {
                call, description, ..
            } => live(calls, call).check_answer(description.as_ref()),
            Event::Answered {
                call,
                description,
                offer_made,
                ..
            } => {
                let shadow = live(calls, call);
                assert_eq!(offer_made, shadow.offered);
                shadow.answer(description);
            }
            Event::Ended { call, end } => {
                live(calls, call).ended = true;
                let timed_out = matches!(
                    end,
                    DialogEnd::AckTimeout
                        | DialogEnd::PrackTimeout
                        | DialogEnd::Timeout
                        | DialogEnd::TransportFailed
                );
                assert!(!(mild && timed_out), "{end:?} on a network that delivers");
            }
            Event::Info { .. } | Event::Replied { .. } | Event::Untrusted { .. } => {
                panic!("nobody sent that")
            }
            Event::Counted(_) => {}
        }
    }

    /// Ends all calls and waits until nothing is left.
    pub(crate) fn wind_up(&mut self) {
        // The second time for calls that came in after the hanging up, and nobody decided on.
        for _ in 0..2 {
            for at in 0..2 {
                while let Some(call) = self.pick(at, |shadow| !shadow.hung_up) {
                    self.bye(at, call);
                    self.flush();
                }
            }
            self.pass(self.now + Duration::from_secs(400));
        }
        for unreadable in [
            "start_line",
            "header_line",
            "malformed_header",
            "missing_header",
            "request_malformed",
        ] {
            assert!(
                !self.counted.contains_key(unreadable),
                "sent what cannot be read"
            );
        }
        for node in &self.nodes {
            assert!(
                node.endpoint.is_idle(),
                "something is left over: {:?}",
                node.endpoint.counts()
            );
            let open: Vec<_> = node
                .calls
                .iter()
                .filter(|(_, shadow)| !shadow.ended)
                .collect();
            assert!(open.is_empty(), "calls without an end: {open:?}");
        }
    }
}

/// The description that answers an offer.
fn answer_to(offer: &Bytes) -> Bytes {
    let number = std::str::from_utf8(offer)
        .unwrap()
        .strip_prefix("offer ")
        .expect("only offers are answered");
    format!("answer {number}").into()
}

fn live(calls: &mut BTreeMap<CallHandle, Shadow>, call: CallHandle) -> &mut Shadow {
    let shadow = calls.get_mut(&call).expect("the call is known");
    assert!(!shadow.ended, "an event after the end");
    shadow
}
