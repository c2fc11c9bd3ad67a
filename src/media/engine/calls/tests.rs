//! The calls of a worker without sockets, in virtual time.

use rand::SeedableRng;

use super::*;
use crate::media::audio::Codec;
use crate::media::engine::Config;
use crate::media::engine::batch::Receiver;
use crate::media::engine::batch::SEND_BATCH;
use crate::media::engine::stats::Dropped;
use crate::media::engine::stats::Stats;
use crate::media::engine::tests::params;
use crate::media::link::Stage;
use crate::media::rtp::Header;
use crate::media::sdp::Keying;
use crate::media::sdp::SrtpKey;
use crate::media::sdp::SrtpSuite;
use crate::media::session::SLOT;
use crate::media::srtp::Srtp;

const AUDIO: u8 = 8;
const EVENTS: u8 = 101;
/// The sockets that a worker has here: one that all share, and one of a call's own.
const SHARED: u16 = 0;
const OWN: u16 = 1;

/// A worker's calls, and what it would keep beside them.
struct Worker {
    calls: Calls,
    stats: Arc<WorkerStats>,
    now: Instant,
    slot: u64,
    out: Outbox,
    sequence: u16,
}

/// A call, and what it tells.
struct Opened {
    id: LegId,
    told: mpsc::Receiver<Box<MediaEvent>>,
}

fn peer(port: u16) -> SocketAddr {
    ([192, 0, 2, 1], port).into()
}

impl Worker {
    fn new() -> Self {
        let stats = Arc::new(WorkerStats::default());
        let settings = Config::default().settings();
        let random = StdRng::from_seed([1; 32]);
        let mut calls = Calls::new(settings, 1, stats.clone(), true, random);
        calls.add_socket();
        Self {
            calls,
            stats,
            now: Instant::now(),
            slot: SLOTS as u64,
            out: Outbox::with_capacity(SEND_BATCH),
            sequence: 0,
        }
    }

    /// A call in the clear, on the socket that all share.
    fn open(&mut self, remote: SocketAddr) -> Opened {
        self.open_with(params(Some(remote)), false)
    }

    fn open_with(&mut self, params: MediaParams, needs_own_port: bool) -> Opened {
        let (events, told) = mpsc::channel(16);
        let (reply, mut opened) = oneshot::channel();
        let identity = Identity {
            ssrc: 1,
            sequence: 1,
            timestamp: 1,
            cname: "us".to_owned(),
            seed: 1,
            epoch: self.now,
        };
        let open = Open {
            params,
            certificate: None,
            needs_own_port,
            identity,
            events,
            reply,
        };
        let ours = ([192, 0, 2, 9], 5_000).into();
        self.calls.open(self.now, self.slot, open, |_| ours);
        let (id, _) = opened.try_recv().unwrap().unwrap();
        Opened { id, told }
    }

    /// The next packet of the only stream there is.
    fn packet(&mut self, payload_type: u8, payload: &[u8]) -> Vec<u8> {
        self.sequence += 1;
        let header = Header {
            payload_type,
            marker: false,
            sequence: self.sequence,
            timestamp: 160 * u32::from(self.sequence),
            ssrc: 9,
        };
        [&header.to_bytes(), payload].concat()
    }

    fn speech(&mut self) -> Vec<u8> {
        self.packet(AUDIO, &[0xD5; 160])
    }

    /// All of it comes at once.
    fn receive(&mut self, datagrams: &[(SocketAddr, &[u8])]) {
        let mut batch = Receiver::holding(datagrams);
        self.calls
            .datagrams(self.now, SHARED, &mut batch, datagrams.len());
    }

    /// The next packet of speech comes from there.
    fn speak(&mut self, from: SocketAddr) {
        let speech = self.speech();
        self.receive(&[(from, &speech)]);
    }

    fn stats(&self) -> Stats {
        Stats::sum(&std::iter::once(self.stats.as_ref()))
    }

    fn command(&mut self, call: &Opened, command: LegCommand) {
        self.calls.command(self.now, self.slot, call.id, command);
    }

    /// Serves 20 ms of slots.
    fn serve(&mut self) {
        for _ in 0..SLOTS {
            let mut turn = Vec::new();
            self.calls.of_slot(self.slot, &mut turn);
            for id in turn {
                self.calls
                    .serve(self.now, self.slot, id, true, &mut self.out);
            }
            self.slot += 1;
            self.now += STEP;
        }
        self.out.clear();
    }

    fn waits(&self, call: &Opened) -> bool {
        !self.calls.inboxes[call.id.index as usize].is_empty()
    }
}

impl Opened {
    fn told(&mut self) -> Option<MediaEvent> {
        self.told.try_recv().ok().map(|event| *event)
    }
}

#[test]
fn audio_waits_until_the_call_listens_and_a_digit_is_heard_at_once() {
    let mut worker = Worker::new();
    let mut call = worker.open(peer(4_000));
    let greeting = Prompt::from_samples(vec![1_000; 8_000 * 60]);
    worker.command(&call, LegCommand::Play(Arc::new(greeting)));
    worker.speak(peer(4_000));
    assert!(!worker.waits(&call), "the first packet is heard at once");
    let stage = |event: MediaEvent| match event {
        MediaEvent::Stage { stage, .. } => stage,
        event => panic!("{event:?}"),
    };
    assert_eq!(call.told().map(stage), Some(Stage::FirstPacket));

    let mut listened = 0;
    for _ in 0..20 {
        worker.speak(peer(4_000));
        assert!(worker.waits(&call));
        worker.serve();
        listened += u32::from(!worker.waits(&call));
    }
    assert_eq!(listened, 4);
    assert_eq!(call.told().map(stage), Some(Stage::FirstSent));

    let speech = worker.speech();
    let digit = worker.packet(EVENTS, &[5, 10, 0, 160]);
    worker.receive(&[(peer(4_000), &speech), (peer(4_000), &digit)]);
    assert!(!worker.waits(&call), "what came before is heard before");
    assert_eq!(call.told(), Some(MediaEvent::Digit('5')));
}

/// Whichever of his slots it is in which he listens.
#[test]
fn who_is_heard_just_before_he_would_be_held_for_gone_is_not() {
    for phase in 0..LISTENS_EVERY {
        let mut worker = Worker::new();
        worker.slot += phase * SLOTS as u64;
        let mut call = worker.open(peer(4_000));
        worker.speak(peer(4_000));
        let gone = worker.now + worker.calls.settings.running_timeout;
        // He is played to all the time, digits, and nothing comes.
        while worker.now < gone - SLOT {
            let digit = LegCommand::SendDigits("1".to_owned());
            worker.command(&call, digit);
            worker.serve();
        }
        worker.speak(peer(4_000));
        for _ in 0..LISTENS_EVERY {
            worker.serve();
        }
        while let Some(event) = call.told() {
            assert!(matches!(event, MediaEvent::Stage { .. }), "{event:?}");
        }
    }
}

#[test]
fn after_a_new_offer_audio_of_the_new_kind_waits() {
    let mut worker = Worker::new();
    let call = worker.open(peer(4_000));
    worker.speak(peer(4_000));
    let offered = MediaParams {
        payload_type: 0,
        codec: Codec::Pcmu,
        ..params(Some(peer(4_000)))
    };
    worker.command(&call, LegCommand::Update(Box::new(offered), None));
    worker.speak(peer(4_000));
    assert!(!worker.waits(&call), "the former kind is heard at once");
    let new = worker.packet(0, &[0xFF; 160]);
    worker.receive(&[(peer(4_000), &new)]);
    assert!(worker.waits(&call));
    assert_eq!(worker.stats().dropped(Dropped::PayloadType), 0);
}

/// The call has moved with its last offer. Until the first packet comes from the new address those
/// from the old one are welcome; both come in one batch.
#[test]
fn what_one_packet_changes_counts_for_those_after_it_in_the_batch() {
    let mut worker = Worker::new();
    let call = worker.open(peer(4_000));
    worker.speak(peer(4_000));
    let moved = LegCommand::Update(Box::new(params(Some(peer(6_000)))), None);
    worker.command(&call, moved);
    let [before, new, old] = [worker.speech(), worker.speech(), worker.speech()];
    worker.receive(&[(peer(4_000), &before)]);
    assert!(worker.waits(&call));
    worker.receive(&[(peer(6_000), &new), (peer(4_000), &old)]);
    assert!(!worker.waits(&call));
    assert_eq!(worker.stats().dropped(Dropped::Stranger), 1);
}

/// A peer behind a NAT that has just changed its address once more: for its first packet, wherever
/// it comes from, anybody who has heard one may send one.
#[test]
fn a_packet_that_is_repeated_from_elsewhere_turns_no_call_away_from_its_peer() {
    let key = |of| SrtpKey::new(SrtpSuite::AeadAes128Gcm, &[of; 28]).unwrap();
    let told = |at: &str| MediaParams {
        keying: Keying::Sdes {
            send: key(1),
            receive: key(2),
        },
        ..params(Some(at.parse().unwrap()))
    };
    let mut worker = Worker::new();
    let call = worker.open_with(told("10.0.0.1:4000"), true);
    let mut srtp = Srtp::new(&key(2), &key(1));
    let mut said = |worker: &mut Worker| {
        let mut packet = worker.speech();
        let len = packet.len();
        packet.resize(len + 24, 0);
        let len = srtp.protect_rtp(&mut packet, len).unwrap();
        packet.truncate(len);
        packet
    };
    let take = |worker: &mut Worker, from: SocketAddr, packet: &[u8]| {
        let before = worker.stats().packets_dropped;
        worker
            .calls
            .datagram(worker.now, OWN, from, &mut packet.to_vec());
        before == worker.stats().packets_dropped
    };
    let real = "203.0.113.5:7000".parse().unwrap();
    let other = "198.51.100.66:6666".parse().unwrap();
    let first = said(&mut worker);
    assert!(take(&mut worker, real, &first));
    let moved = LegCommand::Update(Box::new(told("10.0.0.2:4000")), None);
    worker.command(&call, moved);
    assert!(!take(&mut worker, other, &first));
    let second = said(&mut worker);
    assert!(take(&mut worker, real, &second), "the peer is still heard");
    assert!(!take(&mut worker, other, &first));
}
