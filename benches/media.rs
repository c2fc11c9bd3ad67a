//! What a packet costs, and what 2,000 calls cost in 20 ms.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![expect(
    clippy::disallowed_methods,
    reason = "virtual time begins at some moment"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use aftertone::media::Direction;
use aftertone::media::MediaParams;
use aftertone::media::RecordLimits;
use aftertone::media::audio::Codec;
use aftertone::media::audio::Law;
use aftertone::media::audio::Prompt;
use aftertone::media::audio::Tone;
use aftertone::media::demux::Demux;
use aftertone::media::demux::Kind;
use aftertone::media::demux::LegId;
use aftertone::media::demux::SHARED;
use aftertone::media::link::Route;
use aftertone::media::rtp;
use aftertone::media::rtp::Datagram;
use aftertone::media::rtp::Header;
use aftertone::media::sdp::Keying;
use aftertone::media::session::ChunkSink;
use aftertone::media::session::Identity;
use aftertone::media::session::Leg;
use aftertone::media::session::Outbox;
use aftertone::media::session::Settings;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use tokio::sync::mpsc;

const FRAME: Duration = Duration::from_millis(20);
const CALLS: u32 = 2_000;

fn params(n: u32) -> MediaParams {
    let remote = Some((std::net::Ipv4Addr::from(0x0A00_0000 + n), 4_000).into());
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

fn leg(now: Instant, n: u32) -> Leg {
    let settings = Settings {
        first_packet_timeout: Duration::from_secs(20),
        running_timeout: Duration::from_secs(20),
        continuous_silence: false,
        jitter_window: Duration::from_millis(200),
        in_band_digits: false,
    };
    let identity = Identity {
        ssrc: n,
        sequence: 0,
        timestamp: 0,
        cname: "bench".into(),
        seed: n,
        epoch: now,
    };
    Leg::new(now, settings, params(n), identity)
}

fn packet(frame: u32, voice: &[u8]) -> Vec<u8> {
    let header = Header {
        payload_type: 8,
        marker: false,
        sequence: frame as u16,
        timestamp: frame.wrapping_mul(160),
        ssrc: 9,
    };
    [&header.to_bytes()[..], voice].concat()
}

fn voice() -> [u8; 160] {
    let mut payload = [0; 160];
    Law::A.encode(&Tone::new(300.0, 0.2).take_ms(20), &mut payload);
    payload
}

/// A leg that records, and where its chunks go: they are thrown away.
struct Recording {
    leg: Leg,
    chunks: mpsc::Receiver<Box<aftertone::media::Chunk>>,
    now: Instant,
    frame: u32,
}

impl Recording {
    fn new(now: Instant, n: u32) -> Self {
        let mut leg = leg(now, n);
        let (sender, chunks) = mpsc::channel(8);
        let limits = RecordLimits {
            max: Duration::from_secs(1 << 30),
            preroll: Duration::ZERO,
            ..RecordLimits::default()
        };
        leg.record(now, limits, ChunkSink::new(sender));
        Self {
            leg,
            chunks,
            now,
            frame: 0,
        }
    }

    /// The next 20 ms: a packet in, a slot served.
    fn turn(&mut self, voice: &[u8], out: &mut Outbox) {
        let bytes = packet(self.frame, voice);
        if let Ok(Datagram::Rtp(packet)) = rtp::read(&bytes) {
            black_box(self.leg.handle_rtp(self.now, &packet));
        }
        self.leg.slot(self.now, out);
        out.clear();
        self.frame = self.frame.wrapping_add(1);
        self.now += FRAME;
        while self.leg.poll_event().is_some() {}
        while self.chunks.try_recv().is_ok() {}
    }
}

fn packets(c: &mut Criterion) {
    let bytes = packet(7, &voice());
    c.bench_function("rtp/read", |b| b.iter(|| rtp::read(black_box(&bytes))));

    let now = Instant::now();
    let mut demux = Demux::new(16);
    for n in 0..CALLS {
        let id = LegId {
            index: n,
            generation: n,
        };
        demux
            .open(now, id, &params(n), false)
            .expect("all addresses differ");
    }
    let addresses: Vec<_> = (0..CALLS).filter_map(|n| params(n).remote).collect();
    let mut next = 0;
    c.bench_function("demux/one of 2,000 calls", |b| {
        b.iter(|| {
            next = (next + 1) % addresses.len();
            demux.verdict(SHARED, addresses[next], Kind::Rtp(8))
        });
    });
}

fn sessions(c: &mut Criterion) {
    let now = Instant::now();
    let mut out = Outbox::with_capacity(8);
    out.aim(0, Route::to(([192, 0, 2, 1], 4_000).into()));
    let voice = voice();

    let mut one = Recording::new(now, 1);
    c.bench_function("session/turn while recording", |b| {
        b.iter(|| one.turn(&voice, &mut out));
    });

    let mut playing = leg(now, 2);
    let prompt = Arc::new(Prompt::from_samples(vec![1_000; 8_000 * 60]));
    let mut at = now;
    c.bench_function("session/turn while playing", |b| {
        b.iter(|| {
            if playing.poll_event().is_some() || at == now {
                playing.play(prompt.clone());
            }
            at += FRAME;
            playing.slot(at, &mut out);
            out.clear();
        });
    });
}

fn workers(c: &mut Criterion) {
    let now = Instant::now();
    let mut out = Outbox::with_capacity(8);
    out.aim(0, Route::to(([192, 0, 2, 1], 4_000).into()));
    let voice = voice();
    let mut calls: Vec<_> = (0..CALLS).map(|n| Recording::new(now, n)).collect();
    let mut group = c.benchmark_group("worker");
    group.throughput(Throughput::Elements(CALLS.into()));
    group.bench_function("20 ms of 2,000 recordings, without system calls", |b| {
        b.iter(|| {
            for call in &mut calls {
                call.turn(&voice, &mut out);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, packets, sessions, workers);
criterion_main!(benches);
