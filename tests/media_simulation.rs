//! One call's media against a caller on a bad network: virtual time, chance from a seed.
//!
//! `SIM_SEED=7 cargo test --test media_simulation` replays one seed.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test: its virtual time begins at some moment"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use aftertone::media::Chunk;
use aftertone::media::MediaEvent;
use aftertone::media::MediaParams;
use aftertone::media::RecordLimits;
use aftertone::media::RecordingEnd;
use aftertone::media::RecordingSummary;
use aftertone::media::audio::Codec;
use aftertone::media::audio::Law;
use aftertone::media::audio::Prompt;
use aftertone::media::link::Route;
use aftertone::media::recording::Samples;
use aftertone::media::rtp;
use aftertone::media::rtp::Datagram;
use aftertone::media::rtp::Header;
use aftertone::media::rtp::telephone_event::DigitSender;
use aftertone::media::rtp::telephone_event::event_of;
use aftertone::media::sdp::Direction;
use aftertone::media::sdp::Keying;
use aftertone::media::session::ChunkSink;
use aftertone::media::session::Identity;
use aftertone::media::session::Leg;
use aftertone::media::session::Outbox;
use aftertone::media::session::Settings;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;

const FRAME: usize = 160;
const FRAME_MS: u64 = 20;
/// Ticks in a sample of 8 kHz, and in a millisecond.
const SAMPLE: u64 = 6;
const MS: u64 = 48;
/// A length is right when it is so near, in ticks.
const TOLERANCE: u64 = FRAME_MS * MS;

fn seeds() -> impl Iterator<Item = u64> {
    let one = std::env::var("SIM_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let all = one.map_or(0..150, |seed: u64| seed..seed + 1);
    all.inspect(|seed| println!("SIM_SEED={seed}"))
}

fn remote() -> SocketAddr {
    "192.0.2.7:4000".parse().unwrap()
}

fn params() -> MediaParams {
    MediaParams {
        remote: Some(remote()),
        remote_rtcp: Some(remote()),
        rtcp_mux: true,
        codec: Codec::Pcmu,
        payload_type: 0,
        telephone_event: Some(101),
        telephone_event_clock: 8_000,
        comfort_noise: Some(13),
        direction: Direction::SendRecv,
        ptime_ms: 20,
        keying: Keying::Plain,
        ice: None,
    }
}

/// A leg, the time, and what came out.
struct Sim {
    begun: Instant,
    now_ms: u64,
    leg: Leg,
    out: Outbox,
    /// Packets on their way: when they arrive, in order.
    network: Vec<(u64, Vec<u8>)>,
    chunks: Option<mpsc::Receiver<Box<Chunk>>>,
    samples: Samples,
    recorded: Vec<i16>,
    events: Vec<(u64, MediaEvent)>,
}

impl Sim {
    fn new() -> Self {
        let begun = Instant::now();
        let settings = Settings {
            first_packet_timeout: Duration::from_secs(20),
            running_timeout: Duration::from_secs(20),
            continuous_silence: false,
            jitter_window: Duration::from_millis(200),
            in_band_digits: false,
        };
        let identity = Identity {
            ssrc: 1,
            sequence: 2,
            timestamp: 3,
            cname: "sim".into(),
            seed: 4,
            epoch: begun,
        };
        Self {
            begun,
            now_ms: 0,
            leg: Leg::new(begun, settings, params(), identity),
            out: Outbox::with_capacity(8),
            network: Vec::new(),
            chunks: None,
            samples: Samples::new(8_000),
            recorded: Vec::new(),
            events: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        self.begun + Duration::from_millis(self.now_ms)
    }

    fn arrive(&mut self, at_ms: u64, packet: Vec<u8>) {
        let place = self.network.partition_point(|(ms, _)| *ms <= at_ms);
        self.network.insert(place, (at_ms, packet));
    }

    fn record(&mut self, limits: RecordLimits) {
        let (sender, chunks) = mpsc::channel(8);
        self.chunks = Some(chunks);
        self.leg.record(self.now(), limits, ChunkSink::new(sender));
    }

    fn play_ms(&mut self, ms: usize) {
        self.leg
            .play(Arc::new(Prompt::from_samples(vec![1_000; ms * 8])));
    }

    fn run_until(&mut self, ms: u64) {
        while self.now_ms < ms {
            self.now_ms += 1;
            while self
                .network
                .first()
                .is_some_and(|(at, _)| *at <= self.now_ms)
            {
                let (_, packet) = self.network.remove(0);
                self.receive(&packet);
            }
            if self.now_ms.is_multiple_of(FRAME_MS) {
                self.out.aim(0, Route::to(remote()));
                self.leg.slot(self.now(), &mut self.out);
                self.out.clear();
            }
            self.collect();
        }
    }

    fn receive(&mut self, packet: &[u8]) {
        match rtp::read(packet) {
            Ok(Datagram::Rtp(packet)) => {
                self.leg.handle_rtp(self.now(), &packet);
            }
            Ok(Datagram::Rtcp(compound)) => {
                self.leg.handle_rtcp(self.now(), compound);
            }
            Err(_) => {}
        }
    }

    fn collect(&mut self) {
        while let Some(event) = self.leg.poll_event() {
            if !matches!(event, MediaEvent::Stage { .. }) {
                self.events.push((self.now_ms, event));
            }
        }
        if let Some(chunks) = &mut self.chunks {
            while let Ok(chunk) = chunks.try_recv() {
                self.samples.feed(&chunk.bytes, &mut self.recorded);
                assert_eq!(chunk.ticks, self.recorded.len() as u64 * SAMPLE);
            }
        }
    }

    /// Everything that is on its way arrives, then the caller hangs up.
    fn hang_up(&mut self) -> RecordingSummary {
        if let Some((last, _)) = self.network.last() {
            self.run_until(*last);
        }
        self.leg.stop_recording(self.now());
        self.collect();
        let until = self.now_ms + 1_000;
        while self.leg.summary().is_none() && self.now_ms < until {
            self.run_until(self.now_ms + 1);
        }
        let summary = self.leg.summary().expect("all chunks were taken");
        assert_eq!(
            summary.ticks,
            self.recorded.len() as u64 * SAMPLE,
            "the summary tells the length"
        );
        assert!(summary.keep_ticks <= summary.ticks);
        summary
    }

    fn ended(&self) -> Option<(u64, RecordingEnd)> {
        self.events.iter().find_map(|(ms, event)| match event {
            MediaEvent::RecordingEnded(end) => Some((*ms, *end)),
            _ => None,
        })
    }
}

/// A caller: what it says is a function of time, so that each recorded sample can be judged.
struct Caller {
    header: Header,
}

impl Caller {
    fn new(rng: &mut StdRng) -> Self {
        Self {
            header: Header {
                payload_type: 0,
                marker: true,
                sequence: rng.random(),
                timestamp: rng.random(),
                ssrc: rng.random(),
            },
        }
    }

    /// The packet of the next 20 ms.
    fn packet(&mut self, payload: &[u8]) -> Vec<u8> {
        let packet = [&self.header.to_bytes()[..], payload].concat();
        self.header.sequence = self.header.sequence.wrapping_add(1);
        self.header.timestamp = self.header.timestamp.wrapping_add(FRAME as u32);
        packet
    }

    /// Says frame number `frame` of the story.
    fn speak(&mut self, frame: u64) -> Vec<u8> {
        self.packet(&voice(frame))
    }

    /// The hiss of a quiet room.
    fn breathe(&mut self, frame: u64) -> Vec<u8> {
        self.packet(&hiss(frame))
    }
}

fn encode(samples: impl Iterator<Item = i16>) -> Vec<u8> {
    let samples: Vec<i16> = samples.collect();
    let mut payload = vec![0; samples.len()];
    Law::Mu.encode(&samples, &mut payload);
    payload
}

fn voice(frame: u64) -> Vec<u8> {
    encode((0..FRAME as u64).map(|n| {
        let t = (frame * FRAME as u64 + n) as f64 / 8_000.0;
        ((t * 440.0 * std::f64::consts::TAU).sin() * (6_000.0 + 2_000.0 * (t * 3.0).sin())) as i16
    }))
}

fn hiss(frame: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(frame);
    encode((0..FRAME).map(|_| rng.random_range(-24..=24)))
}

fn decode(payload: &[u8]) -> Vec<i16> {
    let mut samples = vec![0; payload.len()];
    Law::Mu.decode(payload, &mut samples);
    samples
}

/// From the first packet on, whatever is played.
fn at_once() -> RecordLimits {
    RecordLimits {
        preroll: Duration::ZERO,
        ..RecordLimits::default()
    }
}

fn near(ticks: u64, expected: u64) -> bool {
    ticks.abs_diff(expected) <= TOLERANCE
}

#[test]
fn without_loss_every_sample_is_kept() {
    let mut sim = Sim::new();
    let mut caller = Caller::new(&mut StdRng::seed_from_u64(1));
    sim.record(at_once());
    for frame in 0..777 {
        sim.arrive(frame * FRAME_MS, caller.speak(frame));
    }
    let summary = sim.hang_up();
    let spoken: Vec<i16> = (0..777).flat_map(|frame| decode(&voice(frame))).collect();
    assert!(
        sim.recorded == spoken,
        "the recording is what was said, sample by sample"
    );
    assert_eq!(
        summary.lost_packets + summary.reordered_packets + summary.duplicate_packets,
        0
    );
    assert!(summary.speech_ms >= 777 * 20 - 40, "{summary:?}");
}

/// Loss of a fifth, duplicates, packets late by up to 200 ms; across the wrap-around of sequence
/// numbers and timestamps, sometimes.
#[test]
fn on_a_bad_network_what_arrives_is_in_its_place() {
    for seed in seeds() {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut sim = Sim::new();
        let mut caller = Caller::new(&mut rng);
        if seed % 3 == 0 {
            caller.header.sequence = u16::MAX - rng.random_range(0..100);
            caller.header.timestamp = u32::MAX - rng.random_range(0..16_000);
        }
        sim.record(at_once());
        let frames = rng.random_range(50..400_u64);
        let mut arrived = Vec::new();
        let mut copies = 0;
        for frame in 0..frames {
            let packet = caller.speak(frame);
            if rng.random_bool(0.2) {
                continue;
            }
            arrived.push(frame);
            sim.arrive(frame * FRAME_MS + rng.random_range(0..190), packet.clone());
            if rng.random_bool(0.1) {
                copies += 1;
                sim.arrive(frame * FRAME_MS + rng.random_range(0..190), packet);
            }
        }
        let summary = sim.hang_up();
        let (first, last) = (arrived[0], arrived[arrived.len() - 1]);
        let mut expected = vec![0; (last + 1 - first) as usize * FRAME];
        for frame in &arrived {
            let at = (frame - first) as usize * FRAME;
            expected[at..at + FRAME].copy_from_slice(&decode(&voice(*frame)));
        }
        assert_eq!(summary.ticks, expected.len() as u64 * SAMPLE, "seed {seed}");
        assert!(
            sim.recorded == expected,
            "seed {seed}: a packet is not in its place"
        );
        assert_eq!(
            summary.lost_packets,
            last + 1 - first - arrived.len() as u64,
            "seed {seed}"
        );
        assert_eq!(summary.duplicate_packets, copies, "seed {seed}");
    }
}

/// A sender that begins anew, with another SSRC or without, or whose timestamps jump.
#[test]
fn a_sender_that_begins_anew_costs_no_time() {
    for seed in seeds() {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut sim = Sim::new();
        let mut caller = Caller::new(&mut rng);
        sim.record(at_once());
        let frames = rng.random_range(200..500_u64);
        let jumps: Vec<u64> = (0..3).map(|_| rng.random_range(20..frames - 20)).collect();
        for frame in 0..frames {
            if jumps.contains(&frame) {
                match rng.random_range(0..4) {
                    0 => caller.header = Caller::new(&mut rng).header,
                    1 => caller.header.sequence = rng.random(),
                    2 => caller.header.timestamp = rng.random(),
                    _ => caller.header.ssrc = rng.random(),
                }
            }
            sim.arrive(
                frame * FRAME_MS + rng.random_range(0..8),
                caller.speak(frame),
            );
        }
        let summary = sim.hang_up();
        assert!(
            near(summary.ticks, frames * FRAME_MS * MS),
            "seed {seed}: {summary:?} of {frames}"
        );
    }
}

#[test]
fn a_pause_without_packets_keeps_its_length() {
    for (pause_frames, noise) in [(150, false), (150, true), (3_000, false), (3_000, true)] {
        let mut sim = Sim::new();
        let mut caller = Caller::new(&mut StdRng::seed_from_u64(2));
        sim.record(at_once());
        for frame in 0..100 {
            sim.arrive(frame * FRAME_MS, caller.speak(frame));
        }
        if noise {
            caller.header.payload_type = 13;
            let packet = caller.packet(&[60]);
            sim.arrive(100 * FRAME_MS, packet);
            caller.header.payload_type = 0;
        }
        let skipped = if noise {
            pause_frames - 1
        } else {
            pause_frames
        };
        caller.header.timestamp = caller.header.timestamp.wrapping_add(skipped * FRAME as u32);
        let end = 100 + u64::from(pause_frames);
        // A peer that is alive though silent tells so by RTCP.
        for second in 0..end / 50 {
            sim.arrive(second * 1_000 + 7, vec![0x80, 201, 0, 1, 0, 0, 0, 9]);
        }
        for frame in end..end + 100 {
            sim.arrive(frame * FRAME_MS, caller.speak(frame));
        }
        let summary = sim.hang_up();
        assert_eq!(summary.end, None);
        assert_eq!(summary.ticks, (end + 100) * FRAME_MS * MS);
        let pause = &sim.recorded[101 * FRAME..110 * FRAME];
        assert_eq!(pause.iter().any(|sample| *sample != 0), noise);
        let after = &sim.recorded[end as usize * FRAME..][..FRAME];
        assert_eq!(after, decode(&voice(end)));
        assert_eq!(summary.lost_packets, 0);
    }
}

#[test]
fn packets_without_any_sense_leave_the_call_as_it_is() {
    for seed in seeds() {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut sim = Sim::new();
        let mut caller = Caller::new(&mut rng);
        sim.record(at_once());
        let frames = 200;
        for frame in 0..frames {
            let packet = caller.speak(frame);
            let mut rubbish = match rng.random_range(0..5) {
                0 => (0..rng.random_range(0..200))
                    .map(|_| rng.random())
                    .collect(),
                1 => packet[..rng.random_range(0..packet.len())].to_vec(),
                _ => packet.clone(),
            };
            match rng.random_range(0..3) {
                0 => rubbish.iter_mut().take(1).for_each(|first| *first ^= 0xC0), // version 1
                1 if rubbish.len() > 1 => rubbish[1] = 96,                        // unknown type
                _ => rubbish
                    .iter_mut()
                    .skip(1)
                    .take(1)
                    .for_each(|second| *second = 200), // RTCP
            }
            sim.arrive(frame * FRAME_MS, rubbish);
            sim.arrive(frame * FRAME_MS, packet);
        }
        let summary = sim.hang_up();
        assert_eq!(summary.ticks, frames * FRAME_MS * MS, "seed {seed}");
    }
}

#[test]
fn packets_of_any_number_and_time_break_nothing() {
    for seed in seeds() {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut sim = Sim::new();
        let mut caller = Caller::new(&mut rng);
        sim.play_ms(300);
        sim.record(RecordLimits {
            silence: Some(Duration::from_secs(60)),
            ..RecordLimits::default()
        });
        for frame in 0..400 {
            if rng.random_bool(0.3) {
                caller.header.sequence = rng.random();
            }
            if rng.random_bool(0.3) {
                caller.header.timestamp = rng.random();
            }
            if rng.random_bool(0.1) {
                caller.header.ssrc = rng.random_range(0..4);
            }
            caller.header.payload_type = [0, 0, 0, 13, 101][rng.random_range(0..5)];
            let payload: Vec<u8> = (0..rng.random_range(0..400))
                .map(|_| rng.random())
                .collect();
            sim.arrive(frame * rng.random_range(0..40), caller.packet(&payload));
        }
        let summary = sim.hang_up();
        assert!(
            summary.ticks <= (180_000 + 200) * MS,
            "seed {seed}: {summary:?}"
        );
    }
}

// ---- Where a message begins and ends. The greeting is over at 3 s, the beep lasts 400 ms. ----

const BEEP_FROM: u64 = 3_000;
const BEEP_TO: u64 = 3_400;

/// Calls, is greeted, speaks in the given stretches (in ms) and hisses otherwise, until `end`.
fn story(limits: RecordLimits, spoken: &[(u64, u64)], end: u64) -> (Sim, RecordingSummary) {
    let mut sim = Sim::new();
    let mut caller = Caller::new(&mut StdRng::seed_from_u64(3));
    for frame in 0..end / FRAME_MS {
        let ms = frame * FRAME_MS;
        let packet = if spoken.iter().any(|(from, to)| (*from..*to).contains(&ms)) {
            caller.speak(frame)
        } else {
            caller.breathe(frame)
        };
        // A packet is sent when its 20 ms have been said.
        sim.arrive(ms + FRAME_MS, packet);
    }
    sim.play_ms(BEEP_FROM as usize);
    sim.run_until(BEEP_FROM);
    // Which of the two is asked for first does not matter.
    if end.is_multiple_of(400) {
        sim.play_ms((BEEP_TO - BEEP_FROM) as usize);
        sim.record(limits);
    } else {
        sim.record(limits);
        sim.play_ms((BEEP_TO - BEEP_FROM) as usize);
    }
    let summary = sim.hang_up();
    (sim, summary)
}

/// Where in the recording the frame of the caller's story is that was said at `ms`.
fn find(sim: &Sim, ms: u64) -> Option<u64> {
    let said = decode(&voice(ms / FRAME_MS));
    let at = sim
        .recorded
        .windows(FRAME)
        .position(|window| window == said)?;
    Some(at as u64 / 8)
}

#[test]
fn a_caller_who_waits_for_the_beep_gets_a_message_that_begins_at_its_end() {
    let (sim, summary) = story(RecordLimits::default(), &[(4_000, 7_000)], 8_000);
    assert!(near(summary.ticks, (8_000 - BEEP_TO) * MS), "{summary:?}");
    let at = find(&sim, 4_000).expect("the first word is there");
    assert!(at.abs_diff(4_000 - BEEP_TO) <= 20, "first word at {at} ms");
    assert!(summary.speech_ms.abs_diff(3_000) <= 40, "{summary:?}");
}

#[test]
fn what_is_said_before_and_across_the_beep_is_kept() {
    let (sim, summary) = story(RecordLimits::default(), &[(1_800, 6_000)], 6_200);
    let at = find(&sim, 1_800).expect("the first word is there");
    assert!(
        at <= 140,
        "the message begins {at} ms before the first word"
    );
    assert_eq!(
        find(&sim, 5_980),
        Some(at + 5_980 - 1_800),
        "and nothing is missing"
    );
    assert!(
        near(summary.ticks, (6_200 - 1_800 + at) * MS),
        "{summary:?}"
    );
}

#[test]
fn who_speaks_into_the_beep_is_kept_from_the_first_word_on() {
    let (sim, _) = story(RecordLimits::default(), &[(3_200, 6_000)], 6_000);
    let at = find(&sim, 3_200).expect("the first word is there");
    assert!(
        at <= 140,
        "the message begins {at} ms before the first word"
    );
}

#[test]
fn no_more_than_the_preroll_is_kept_of_a_caller_who_talks_all_the_time() {
    let limits = RecordLimits {
        preroll: Duration::from_secs(1),
        ..RecordLimits::default()
    };
    let (_, summary) = story(limits, &[(0, 6_000)], 6_000);
    assert!(
        near(summary.ticks, (6_000 - BEEP_FROM + 1_000) * MS),
        "{summary:?}"
    );
}

#[test]
fn what_was_said_and_over_before_the_beep_is_no_part_of_the_message() {
    let (sim, summary) = story(
        RecordLimits::default(),
        &[(500, 1_500), (4_000, 5_000)],
        5_500,
    );
    assert_eq!(find(&sim, 1_000), None);
    assert!(near(summary.ticks, (5_500 - BEEP_TO) * MS), "{summary:?}");
    assert!(summary.speech_ms.abs_diff(1_000) <= 40, "{summary:?}");
}

#[test]
fn a_caller_who_hangs_up_in_the_beep_leaves_nothing() {
    let (_, summary) = story(RecordLimits::default(), &[], 3_200);
    assert_eq!((summary.ticks, summary.speech_ms), (0, 0));
}

#[test]
fn a_word_at_the_moment_of_the_hang_up_is_kept() {
    let (sim, _) = story(RecordLimits::default(), &[(5_900, 6_000)], 6_000);
    assert!(find(&sim, 5_980).is_some());
}

#[test]
fn silence_ends_the_message_shortly_after_the_last_word() {
    let limits = RecordLimits {
        silence: Some(Duration::from_secs(3)),
        ..RecordLimits::default()
    };
    let (sim, summary) = story(limits, &[(4_000, 6_000)], 12_000);
    let (ms, end) = sim.ended().expect("it ends by itself");
    assert_eq!(end, RecordingEnd::Silence);
    assert!((9_000..9_400).contains(&ms), "ended at {ms} ms");
    assert_eq!(summary.end, Some(RecordingEnd::Silence));
    assert!(
        near(summary.keep_ticks, (6_000 - BEEP_TO + 300) * MS),
        "{summary:?}"
    );
}

#[test]
fn a_pause_for_thought_does_not_end_the_message() {
    let limits = RecordLimits {
        silence: Some(Duration::from_secs(3)),
        ..RecordLimits::default()
    };
    let (sim, summary) = story(limits, &[(4_000, 6_000), (8_800, 10_000)], 11_000);
    assert_eq!((sim.ended(), summary.end), (None, None));
    assert!(near(summary.ticks, (11_000 - BEEP_TO) * MS), "{summary:?}");
}

#[test]
fn who_never_speaks_is_not_listened_to_for_long() {
    let limits = RecordLimits {
        silence: Some(Duration::from_secs(3)),
        ..RecordLimits::default()
    };
    let (sim, summary) = story(limits, &[], 12_000);
    let (ms, end) = sim.ended().expect("it ends by itself");
    assert_eq!(end, RecordingEnd::Silence);
    assert!(
        (BEEP_TO + 3_000..BEEP_TO + 3_400).contains(&ms),
        "ended at {ms} ms"
    );
    assert_eq!(summary.speech_ms, 0);
    assert!(summary.keep_ticks <= 300 * MS);
}

#[test]
fn a_peer_that_suppresses_silence_is_heard_out_and_no_longer() {
    let limits = RecordLimits {
        silence: Some(Duration::from_secs(3)),
        ..RecordLimits::default()
    };
    let mut sim = Sim::new();
    let mut caller = Caller::new(&mut StdRng::seed_from_u64(4));
    for frame in 0..100 {
        sim.arrive(frame * FRAME_MS, caller.speak(frame));
    }
    sim.record(limits);
    sim.run_until(6_500);
    let (ms, end) = sim.ended().expect("it ends though no packet comes");
    assert_eq!(end, RecordingEnd::Silence);
    assert!((5_000..6_000).contains(&ms), "ended at {ms} ms");
    assert_eq!(sim.hang_up().keep_ticks, 100 * FRAME_MS * MS);
}

#[test]
fn the_longest_message_is_as_long_as_the_limit_says() {
    let limits = RecordLimits {
        max: Duration::from_millis(2_345),
        ..RecordLimits::default()
    };
    let (sim, summary) = story(limits, &[(3_400, 9_000)], 9_000);
    assert_eq!(sim.ended().map(|(_, end)| end), Some(RecordingEnd::Limit));
    assert_eq!(
        (summary.keep_ticks, near(summary.ticks, 2_345 * MS)),
        (2_345 * MS, true)
    );
}

#[test]
fn the_end_digit_cuts_where_it_was_pressed_and_other_digits_do_not() {
    let mut sim = Sim::new();
    let mut caller = Caller::new(&mut StdRng::seed_from_u64(5));
    sim.record(RecordLimits {
        end_digit: Some('#'),
        ..at_once()
    });
    for frame in 0..400 {
        let digit = match frame {
            100..108 => Some('5'),
            300..308 => Some('#'),
            _ => None,
        };
        let packet = match digit {
            None => caller.speak(frame),
            Some(digit) => {
                let nth = frame % 100;
                let mut sender = DigitSender::new(event_of(digit).unwrap(), 8_000);
                let event = (0..=nth).filter_map(|_| sender.next_slot()).last().unwrap();
                let header = caller.header;
                caller.header.payload_type = 101;
                caller.header.timestamp = header.timestamp.wrapping_sub(nth as u32 * FRAME as u32);
                let packet = caller.packet(&event.event.to_bytes());
                caller.header.payload_type = 0;
                caller.header.timestamp = header.timestamp.wrapping_add(FRAME as u32);
                packet
            }
        };
        sim.arrive(frame * FRAME_MS, packet);
    }
    let summary = sim.hang_up();
    assert_eq!(summary.end, Some(RecordingEnd::Digit));
    assert_eq!(summary.keep_ticks, 300 * FRAME_MS * MS);
    let digits: Vec<_> = sim.events.iter().map(|(_, event)| *event).collect();
    assert_eq!(
        digits,
        [
            MediaEvent::Digit('5'),
            MediaEvent::RecordingEnded(RecordingEnd::Digit),
        ]
    );
}

#[test]
fn a_dead_line_ends_the_message_and_keeps_it() {
    let mut sim = Sim::new();
    let mut caller = Caller::new(&mut StdRng::seed_from_u64(6));
    sim.record(at_once());
    for frame in 0..100 {
        sim.arrive(frame * FRAME_MS, caller.speak(frame));
    }
    sim.run_until(25_000);
    let (ms, end) = sim.ended().expect("it ends by itself");
    assert_eq!(end, RecordingEnd::MediaTimeout);
    assert!((21_900..22_200).contains(&ms), "ended at {ms} ms");
    assert_eq!(sim.hang_up().ticks, 100 * FRAME_MS * MS);
}
