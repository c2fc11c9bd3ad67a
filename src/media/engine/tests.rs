//! The engine with real sockets, on loopback. Phones send whole sentences at once: timestamps,
//! not the clock, say how long they are.

mod secured;

use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::*;
use crate::media::audio::Codec;
use crate::media::audio::Law;
use crate::media::audio::Prompt;
use crate::media::audio::Tone;
use crate::media::audio::tone_level;
use crate::media::link::Stage;
use crate::media::recording::Chunk;
use crate::media::recording::Samples;
use crate::media::rtp;
use crate::media::rtp::Datagram;
use crate::media::rtp::Header;
use crate::media::sdp::Direction;
use crate::media::sdp::Keying;
use crate::media::session::Lost;
use crate::media::session::MediaEvent;
use crate::media::session::RecordLimits;
use crate::media::session::RecordingEnd;
use crate::media::session::RecordingSummary;

const DEADLINE: Duration = Duration::from_secs(20);

fn engine(config: &Config) -> Engine {
    Engine::start(config, [7; 32]).unwrap()
}

fn any_port() -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        workers: 1,
        ..Config::default()
    }
}

/// A plain call in A-law with digits of type 101.
pub(super) fn params(remote: Option<SocketAddr>) -> MediaParams {
    MediaParams {
        remote,
        remote_rtcp: remote,
        rtcp_mux: true,
        codec: Codec::Pcma,
        payload_type: 8,
        telephone_event: Some(101),
        telephone_event_clock: 8_000,
        comfort_noise: None,
        direction: Direction::SendRecv,
        ptime_ms: 20,
        keying: Keying::Plain,
        ice: None,
    }
}

/// Ticks of a frame.
const FRAME: u64 = 960;

/// From now on, whatever is played.
fn at_once() -> RecordLimits {
    RecordLimits {
        preroll: Duration::ZERO,
        ..RecordLimits::default()
    }
}

/// A recording that has begun for sure.
async fn record(session: &mut Session) -> mpsc::Receiver<Box<Chunk>> {
    let chunks = session.record(at_once());
    session.sync().await;
    chunks
}

/// The next event that is no stage.
async fn event(session: &mut Session) -> MediaEvent {
    loop {
        match timeout(DEADLINE, session.next_event())
            .await
            .expect("an event")
        {
            MediaEvent::Stage { .. } => {}
            event => return event,
        }
    }
}

/// Waits until the peer is heard.
async fn is_heard(session: &mut Session) {
    loop {
        match timeout(DEADLINE, session.next_event())
            .await
            .expect("an event")
        {
            MediaEvent::Stage {
                stage: Stage::FirstPacket,
                ..
            } => return,
            MediaEvent::Stage { .. } => {}
            event => panic!("{event:?} before the first packet"),
        }
    }
}

async fn finish(
    session: &mut Session,
    mut chunks: mpsc::Receiver<Box<Chunk>>,
) -> (RecordingSummary, Vec<i16>) {
    let (mut decoder, mut samples) = (Samples::new(8_000), Vec::new());
    let take = async {
        while let Some(chunk) = chunks.recv().await {
            decoder.feed(&chunk.bytes, &mut samples);
        }
    };
    let (summary, ()) = timeout(DEADLINE, async { tokio::join!(session.flush(), take) })
        .await
        .expect("a summary");
    (summary, samples)
}

/// A telephone with a socket of its own.
struct Phone {
    socket: UdpSocket,
    to: SocketAddr,
    header: Header,
    tone: Tone,
}

impl Phone {
    async fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        Self {
            to: socket.local_addr().unwrap(),
            header: Header {
                payload_type: 8,
                marker: false,
                sequence: port,
                timestamp: u32::from(port) * 7_919,
                ssrc: u32::from(port),
            },
            socket,
            tone: Tone::new(1_000.0, 0.25),
        }
    }

    fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn params(&self) -> MediaParams {
        params(Some(self.addr()))
    }

    async fn call(&mut self, engine: &Engine) -> Session {
        let session = engine.open(&self.params()).await.unwrap();
        self.to = session.local_addr();
        session
    }

    async fn send(&mut self, payload: &[u8]) {
        let mut packet = self.header.to_bytes().to_vec();
        packet.extend(payload);
        self.socket.send_to(&packet, self.to).await.unwrap();
        self.header.sequence = self.header.sequence.wrapping_add(1);
    }

    async fn speak(&mut self, frames: usize) {
        for _ in 0..frames {
            let mut samples = [0; 160];
            self.tone.fill(&mut samples);
            let mut payload = [0; 160];
            Law::A.encode(&samples, &mut payload);
            self.send(&payload).await;
            self.header.timestamp = self.header.timestamp.wrapping_add(160);
        }
    }

    /// The next datagram.
    async fn receive(&self) -> (SocketAddr, Vec<u8>) {
        let mut buffer = [0; 2_000];
        let (len, from) = timeout(DEADLINE, self.socket.recv_from(&mut buffer))
            .await
            .expect("a packet")
            .unwrap();
        (from, buffer[..len].to_vec())
    }

    /// Hears audio until a goodbye, or until so many frames have come.
    async fn hear(&self, frames: usize) -> Vec<i16> {
        let mut samples = Vec::new();
        while samples.len() < frames * 160 {
            let (_, bytes) = self.receive().await;
            if let Datagram::Rtp(packet) = rtp::read(&bytes).unwrap() {
                let mut frame = [0; 160];
                assert_eq!(Law::A.decode(packet.payload, &mut frame), 160);
                samples.extend(frame);
            }
        }
        samples
    }
}

/// Waits until so many packets have come.
async fn arrived(engine: &Engine, packets: u64) {
    until(engine, |stats| stats.packets_received >= packets).await;
}

async fn until(engine: &Engine, what: impl Fn(&Stats) -> bool) -> Stats {
    let wait = async {
        loop {
            let stats = engine.stats();
            if what(&stats) {
                return stats;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, wait)
        .await
        .expect("the numbers to change")
}

#[tokio::test]
async fn a_caller_hears_the_greeting_and_is_recorded_to_the_sample() {
    let engine = engine(&any_port());
    let mut phone = Phone::new().await;
    let mut session = phone.call(&engine).await;
    let greeting = Tone::new(440.0, 0.25).take_ms(400);
    session.play(Arc::new(Prompt::from_samples(greeting)));
    let heard = phone.hear(20).await;
    assert!(tone_level(&heard[160..], 440.0) > 10.0 * tone_level(&heard[160..], 1_000.0));
    assert_eq!(event(&mut session).await, MediaEvent::Played);

    let chunks = record(&mut session).await;
    phone.speak(123).await;
    is_heard(&mut session).await;
    arrived(&engine, 123).await;
    let (summary, samples) = finish(&mut session, chunks).await;
    assert_eq!(
        (summary.ticks, summary.keep_ticks),
        (123 * FRAME, 123 * FRAME)
    );
    assert_eq!((samples.len(), summary.lost_packets), (123 * 160, 0));
    assert!(tone_level(&samples, 1_000.0) > 10.0 * tone_level(&samples, 440.0));
    assert!(summary.speech_ms > 2_000, "{summary:?}");
}

#[tokio::test]
async fn two_sessions_of_one_engine_talk_with_each_other() {
    let engine = engine(&any_port());
    // The caller does not know where to send before the answer has come.
    let mut caller = engine.open(&params(None)).await.unwrap();
    let mut callee = engine
        .open(&params(Some(caller.local_addr())))
        .await
        .unwrap();
    caller.update(&params(Some(callee.local_addr())));
    let chunks = record(&mut callee).await;
    let words = Tone::new(700.0, 0.25).take_ms(1_000);
    caller.play(Arc::new(Prompt::from_samples(words)));
    caller.send_digits("5#").unwrap();
    is_heard(&mut callee).await;
    assert_eq!(event(&mut callee).await, MediaEvent::Digit('5'));
    assert_eq!(event(&mut callee).await, MediaEvent::Digit('#'));
    while event(&mut caller).await != MediaEvent::Played {}
    let (summary, samples) = finish(&mut callee, chunks).await;
    assert!(summary.ticks >= 48 * FRAME, "{summary:?}");
    assert!(
        tone_level(&samples, 700.0) > 0.2,
        "{}",
        tone_level(&samples, 700.0)
    );
}

#[tokio::test]
async fn many_calls_share_one_port_and_none_hears_another() {
    const CALLS: usize = 40;
    let engine = engine(&any_port());
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let mut phone = Phone::new().await;
        let mut session = phone.call(&engine).await;
        let chunks = record(&mut session).await;
        calls.push((phone, session, chunks));
    }
    let port = calls[0].1.local_addr();
    assert!(
        calls
            .iter()
            .all(|(_, session, _)| session.local_addr() == port)
    );
    for round in 0..CALLS {
        for (nth, (phone, ..)) in calls.iter_mut().enumerate() {
            if round <= nth {
                phone.speak(1).await;
            }
        }
    }
    arrived(&engine, (CALLS * (CALLS + 1) / 2) as u64).await;
    for (nth, (_, mut session, chunks)) in calls.into_iter().enumerate() {
        let (summary, _) = finish(&mut session, chunks).await;
        assert_eq!(summary.ticks, FRAME * (nth as u64 + 1));
    }
}

#[tokio::test]
async fn two_calls_behind_one_address_get_different_ports() {
    let engine = engine(&any_port());
    let mut phone = Phone::new().await;
    let mut first = phone.call(&engine).await;
    let mut second = phone.call(&engine).await;
    assert_ne!(first.local_addr(), second.local_addr());
    let (one, two) = (record(&mut first).await, record(&mut second).await);
    phone.to = first.local_addr();
    phone.speak(10).await;
    phone.to = second.local_addr();
    phone.speak(30).await;
    arrived(&engine, 40).await;
    assert_eq!(finish(&mut first, one).await.0.ticks, 10 * FRAME);
    assert_eq!(finish(&mut second, two).await.0.ticks, 30 * FRAME);
}

#[tokio::test]
async fn when_no_port_is_left_the_call_is_refused() {
    let engine = engine(&Config {
        spare_ports: 1,
        ..any_port()
    });
    let mut phone = Phone::new().await;
    let _first = phone.call(&engine).await;
    let _second = phone.call(&engine).await;
    let refused = engine.open(&phone.params()).await.unwrap_err();
    assert_eq!(refused, OpenError::NoPort(NoPort));
    assert!(refused.is_transient());
}

#[tokio::test]
async fn a_closed_call_says_goodbye_and_its_late_packets_enter_no_other_call() {
    let engine = engine(&any_port());
    let mut phone = Phone::new().await;
    let mut session = phone.call(&engine).await;
    phone.speak(1).await;
    is_heard(&mut session).await;
    let port = session.local_addr();
    drop(session);
    let goodbye = loop {
        let (from, bytes) = phone.receive().await;
        assert_eq!(from, port);
        if let Datagram::Rtcp(compound) = rtp::read(&bytes).unwrap() {
            break compound.to_vec();
        }
    };
    let packets: Vec<_> = rtp::rtcp::read(&goodbye, 0).map(Result::unwrap).collect();
    assert!(matches!(
        packets.last(),
        Some(rtp::rtcp::RtcpPacket::Goodbye { .. })
    ));

    let next = phone.call(&engine).await;
    assert_ne!(next.local_addr(), port);
    phone.to = port;
    phone.speak(3).await;
    let stats = until(&engine, |stats| stats.dropped(Dropped::Closed) == 3).await;
    assert_eq!((stats.sessions, stats.opened), (1, 2));
}

#[tokio::test]
async fn strangers_and_rubbish_are_counted_and_heard_by_nobody() {
    let engine = engine(&any_port());
    let mut phone = Phone::new().await;
    let mut session = phone.call(&engine).await;
    let chunks = record(&mut session).await;
    phone.speak(10).await;
    is_heard(&mut session).await;

    let mut stranger = Phone::new().await;
    stranger.to = session.local_addr();
    stranger.speak(5).await;
    phone.header.payload_type = 96;
    phone.speak(2).await;
    for rubbish in [&[0x40; 172][..], &[0x80, 8, 1], b"", &[0xBF; 20]] {
        phone.socket.send_to(rubbish, phone.to).await.unwrap();
    }
    arrived(&engine, 21).await;
    let (summary, _) = finish(&mut session, chunks).await;
    assert_eq!(summary.ticks, 10 * FRAME);
    let stats = engine.stats();
    assert_eq!(stats.dropped(Dropped::Stranger), 5);
    assert_eq!(stats.dropped(Dropped::PayloadType), 2);
    assert_eq!(stats.dropped(Dropped::Malformed), 4);
    assert_eq!(stats.packets_received, 21);
}

#[tokio::test]
async fn a_phone_that_sends_from_another_port_is_found_and_answered_there() {
    let engine = engine(&any_port());
    let (told, mut real) = (Phone::new().await, Phone::new().await);
    let mut session = engine.open(&told.params()).await.unwrap();
    real.to = session.local_addr();
    real.speak(1).await;
    is_heard(&mut session).await;
    session.play(Arc::new(Prompt::from_samples(vec![500; 1_600])));
    assert_eq!(real.hear(10).await.len(), 1_600);
}

#[tokio::test]
async fn a_panic_ends_its_own_call_and_no_other() {
    let engine = engine(&any_port());
    let (mut phone, mut other) = (Phone::new().await, Phone::new().await);
    let mut broken = phone.call(&engine).await;
    let mut sound = other.call(&engine).await;
    let (mut cut, chunks) = (record(&mut broken).await, record(&mut sound).await);
    phone.speak(45).await;
    arrived(&engine, 45).await;
    broken.panic();
    is_heard(&mut broken).await;
    assert_eq!(event(&mut broken).await, MediaEvent::Failed);
    assert_eq!(event(&mut broken).await, MediaEvent::Failed);
    // What was delivered before is good.
    let delivered = timeout(DEADLINE, cut.recv()).await.unwrap().unwrap();
    assert_eq!(delivered.ticks, 25 * FRAME);
    assert_eq!(timeout(DEADLINE, cut.recv()).await.unwrap(), None);
    let summary = timeout(DEADLINE, broken.flush()).await.unwrap();
    assert_eq!((summary.keep_ticks, summary.speech_ms), (25 * FRAME, 500));

    other.speak(10).await;
    arrived(&engine, 55).await;
    assert_eq!(finish(&mut sound, chunks).await.0.ticks, 10 * FRAME);
    let stats = engine.stats();
    assert_eq!((stats.panics, stats.sessions), (1, 1));
}

#[tokio::test]
async fn silence_is_sent_all_the_time_where_it_is_wanted() {
    let engine = engine(&Config {
        continuous_silence: true,
        ..any_port()
    });
    let mut phone = Phone::new().await;
    let mut session = phone.call(&engine).await;
    let _chunks = session.record(RecordLimits::default());
    let mut last = None;
    for _ in 0..5 {
        let (_, bytes) = phone.receive().await;
        let Datagram::Rtp(packet) = rtp::read(&bytes).unwrap() else {
            continue;
        };
        assert!(packet.payload.iter().all(|code| *code == Law::A.silence()));
        assert_eq!(packet.marker, last.is_none());
        if let Some((sequence, timestamp)) = last.replace((packet.sequence, packet.timestamp)) {
            assert_eq!(packet.sequence, u16::wrapping_add(sequence, 1));
            assert_eq!(packet.timestamp, u32::wrapping_add(timestamp, 160));
        }
    }
}

#[tokio::test]
async fn a_slow_writer_ends_the_recording_and_what_is_there_is_kept() {
    let engine = engine(&any_port());
    let mut phone = Phone::new().await;
    let mut session = phone.call(&engine).await;
    let mut chunks = record(&mut session).await;
    // Eight chunks are on their way, two seconds are with the call; twelve do not fit.
    for _ in 0..12 {
        phone.speak(50).await;
        until(&engine, |stats| stats.packets_received.is_multiple_of(50)).await;
    }
    is_heard(&mut session).await;
    let end = RecordingEnd::DiskTooSlow;
    assert_eq!(event(&mut session).await, MediaEvent::RecordingEnded(end));
    let (mut decoder, mut samples) = (Samples::new(8_000), Vec::new());
    while let Some(chunk) = timeout(DEADLINE, chunks.recv()).await.unwrap() {
        decoder.feed(&chunk.bytes, &mut samples);
        assert_eq!(chunk.ticks, samples.len() as u64 * 6);
    }
    let summary = timeout(DEADLINE, session.flush()).await.unwrap();
    assert_eq!(
        (summary.end, summary.ticks),
        (Some(end), samples.len() as u64 * 6)
    );
    assert!(
        (80_000..=96_000).contains(&samples.len()),
        "{}",
        samples.len()
    );
}

#[tokio::test]
async fn a_call_that_never_sends_is_reported() {
    let engine = engine(&Config {
        first_packet_timeout_ms: 50,
        ..any_port()
    });
    let mut phone = Phone::new().await;
    let mut session = phone.call(&engine).await;
    assert_eq!(
        event(&mut session).await,
        MediaEvent::MediaTimeout {
            first: true,
            of: Lost::Packets
        }
    );
    let chunks = record(&mut session).await;
    assert_eq!(finish(&mut session, chunks).await.0.ticks, 0);
}

#[tokio::test]
async fn shutdown_ends_calls_whose_handle_is_held() {
    let engine = engine(&any_port());
    let mut phone = Phone::new().await;
    let mut session = phone.call(&engine).await;
    let again = engine.clone();
    timeout(DEADLINE, engine.shutdown()).await.unwrap();
    assert_eq!(event(&mut session).await, MediaEvent::Failed);
    assert_eq!(
        again.open(&phone.params()).await.unwrap_err(),
        OpenError::Stopped
    );
}

#[tokio::test]
async fn the_named_address_is_the_public_one_or_one_that_can_be_reached() {
    let public = Config {
        public_address: Some([203, 0, 113, 5].into()),
        ..any_port()
    };
    let engine_behind_nat = engine(&public);
    let phone = Phone::new().await;
    let session = engine_behind_nat.open(&phone.params()).await.unwrap();
    assert_eq!(session.local_addr().ip(), IpAddr::from([203, 0, 113, 5]));

    let everywhere = Config {
        listen: "0.0.0.0:0".parse().unwrap(),
        ..any_port()
    };
    let engine_everywhere = engine(&everywhere);
    let session = engine_everywhere.open(&phone.params()).await.unwrap();
    assert_eq!(session.local_addr().ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));

    let v6 = params(Some("[2001:db8::1]:4000".parse().unwrap()));
    let refused = engine_everywhere.open(&v6).await.unwrap_err();
    assert_eq!(refused, OpenError::Unreachable(v6.remote.unwrap()));
}

#[test]
fn a_private_address_is_behind_a_nat_only_for_those_outside() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert!(is_behind_nat(ip("192.168.1.7"), ip("203.0.113.5")));
    assert!(is_behind_nat(ip("100.64.0.1"), ip("203.0.113.5")));
    assert!(!is_behind_nat(ip("192.168.1.7"), ip("10.0.0.5")));
    assert!(!is_behind_nat(ip("198.51.100.7"), ip("203.0.113.5")));
    assert!(is_behind_nat(ip("192.168.1.7"), ip("127.0.0.1")));
    assert!(!is_behind_nat(ip("127.0.0.1"), ip("127.0.0.1")));
    assert!(is_behind_nat(ip("fd00::1"), ip("2001:db8::1")));
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let error = Engine::start(
        &Config {
            listen,
            ..any_port()
        },
        [0; 32],
    )
    .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("media.listen") && text.contains(&listen.to_string()),
        "{text}"
    );
}
