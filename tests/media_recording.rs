//! What a call receives is kept as it was received, whatever the codecs.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test: its virtual time begins at some moment"
)]

use std::io::Cursor;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use aftertone::media::Chunk;
use aftertone::media::MediaEvent;
use aftertone::media::MediaParams;
use aftertone::media::RecordLimits;
use aftertone::media::RecordingEnd;
use aftertone::media::RecordingSummary;
use aftertone::media::audio::Codec;
use aftertone::media::audio::Encoder;
use aftertone::media::audio::Law;
use aftertone::media::audio::Tone;
use aftertone::media::recording;
use aftertone::media::recording::Format;
use aftertone::media::recording::Stored;
use aftertone::media::recording::What;
use aftertone::media::rtp;
use aftertone::media::rtp::Datagram;
use aftertone::media::rtp::Header;
use aftertone::media::sdp::Direction;
use aftertone::media::sdp::Keying;
use aftertone::media::session::ChunkSink;
use aftertone::media::session::Identity;
use aftertone::media::session::Leg;
use aftertone::media::session::Outbox;
use aftertone::media::session::Received;
use aftertone::media::session::Settings;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;

/// Ticks of a frame of 20 ms.
const FRAME: u64 = 960;

fn params(codec: Codec, payload_type: u8) -> MediaParams {
    let remote: SocketAddr = "192.0.2.7:4000".parse().unwrap();
    MediaParams {
        remote: Some(remote),
        remote_rtcp: Some(remote),
        rtcp_mux: true,
        codec,
        payload_type,
        telephone_event: None,
        telephone_event_clock: 8_000,
        comfort_noise: None,
        direction: Direction::SendRecv,
        ptime_ms: 20,
        keying: Keying::Plain,
        ice: None,
    }
}

/// A call that is recorded, and its caller.
struct Call {
    leg: Leg,
    begun: Instant,
    ms: u64,
    header: Header,
    chunks: mpsc::Receiver<Box<Chunk>>,
    log: Vec<u8>,
}

impl Call {
    fn new(params: MediaParams, end_digit: Option<char>) -> Self {
        let limits = RecordLimits {
            preroll: Duration::ZERO,
            end_digit,
            ..RecordLimits::default()
        };
        Self::with(params, limits)
    }

    fn with(params: MediaParams, limits: RecordLimits) -> Self {
        let begun = Instant::now();
        let settings = Settings {
            first_packet_timeout: Duration::from_secs(100),
            running_timeout: Duration::from_secs(100),
            continuous_silence: false,
            jitter_window: Duration::from_millis(200),
            in_band_digits: true,
        };
        let identity = Identity {
            ssrc: 1,
            sequence: 2,
            timestamp: 3,
            cname: "sim".into(),
            seed: 4,
            epoch: begun,
        };
        let header = Header {
            payload_type: params.payload_type,
            marker: false,
            sequence: 65_500,
            timestamp: 4_294_900_000,
            ssrc: 9,
        };
        let (sender, chunks) = mpsc::channel(64);
        let mut leg = Leg::new(begun, settings, params, identity);
        leg.record(begun, limits, ChunkSink::new(sender));
        Self {
            leg,
            begun,
            ms: 0,
            header,
            chunks,
            log: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        self.begun + Duration::from_millis(self.ms)
    }

    /// 20 ms pass, in which the caller sends this, by a clock of so many steps in 20 ms; or not.
    fn hear(&mut self, payload: Option<&[u8]>, steps: u32) -> Option<Received> {
        self.ms += 20;
        let bytes = [&self.header.to_bytes()[..], payload.unwrap_or_default()].concat();
        self.header.timestamp = self.header.timestamp.wrapping_add(steps);
        let mut out = Outbox::with_capacity(4);
        self.leg.slot(self.now(), &mut out);
        payload?;
        self.header.sequence = self.header.sequence.wrapping_add(1);
        let Ok(Datagram::Rtp(packet)) = rtp::read(&bytes) else {
            panic!("it is RTP")
        };
        Some(self.leg.handle_rtp(self.now(), &packet))
    }

    /// Takes the chunks that are there.
    fn write(&mut self) {
        while let Ok(chunk) = self.chunks.try_recv() {
            assert!(recording::records(&chunk.bytes).all(|it| it.end() <= chunk.ticks));
            self.log.extend(chunk.bytes);
        }
    }

    fn hang_up(&mut self) -> (RecordingSummary, Stored) {
        self.leg.stop_recording(self.now());
        self.write();
        let ticks = self.leg.summary().unwrap().ticks;
        assert_eq!(recording::ticks(&self.log[..]).unwrap(), ticks);
        let summary = self.leg.summary().unwrap();
        let log = Cursor::new(&self.log);
        let stored = recording::store(log, summary.keep_ticks, std::io::sink()).unwrap();
        (summary, stored)
    }

    fn events(&mut self) -> Vec<MediaEvent> {
        std::iter::from_fn(|| self.leg.poll_event())
            .filter(|event| !matches!(event, MediaEvent::Stage { .. }))
            .collect()
    }
}

/// A voice of sorts, in frames of 20 ms.
fn frames(codec: Codec, count: usize) -> Vec<Vec<u8>> {
    let rate = codec.sample_rate();
    let (mut tone, mut encoder) = (Tone::at_rate(440.0, 0.25, rate), Encoder::new(codec));
    let frame = || {
        let (mut samples, mut payload) = (vec![0; rate as usize / 50], Vec::new());
        tone.fill(&mut samples);
        encoder.encode(&samples, &mut payload);
        payload
    };
    std::iter::repeat_with(frame).take(count).collect()
}

#[test]
fn opus_is_recorded_packet_by_packet_with_its_pauses_and_its_losses() {
    let mut call = Call::new(params(Codec::Opus, 111), None);
    let packets = frames(Codec::Opus, 150);
    for (nth, packet) in packets.iter().enumerate() {
        match nth {
            // The sender is silent (DTX), and numbers go on.
            40..60 => assert_eq!(call.hear(None, 960), None),
            // Two packets are lost.
            100 | 101 => {
                call.header.sequence = call.header.sequence.wrapping_add(1);
                call.hear(None, 960);
            }
            _ => assert_eq!(call.hear(Some(packet), 960), Some(Received::Taken)),
        }
    }
    let (summary, stored) = call.hang_up();
    assert_eq!((summary.ticks, summary.lost_packets), (150 * FRAME, 2));
    assert!(summary.speech_ms > 2_000, "{summary:?}");
    assert_eq!(
        (stored.format, stored.ticks),
        (Format::OggOpus, 150 * FRAME)
    );
    let gap = recording::Gap {
        at: 100 * FRAME,
        ticks: 2 * FRAME,
    };
    assert_eq!(stored.losses.gaps(), [gap]);
    let kept = recording::records(&call.log).map(|record| match record.what {
        What::Audio(Codec::Opus, payload) => (record.at / FRAME, payload.to_vec()),
        other => panic!("{other:?}"),
    });
    for (frame, payload) in kept {
        assert_eq!(payload, packets[frame as usize]);
    }
}

#[test]
fn a_codec_that_changes_in_mid_call_leaves_no_seam() {
    let mut call = Call::new(params(Codec::Opus, 111), None);
    for packet in frames(Codec::Opus, 50) {
        call.hear(Some(&packet), 960);
    }
    call.leg.update(call.now(), params(Codec::Pcma, 8));
    // What was on its way is still understood.
    let late = frames(Codec::Opus, 1).remove(0);
    assert_eq!(call.hear(Some(&late), 960), Some(Received::Taken));
    call.header.payload_type = 8;
    for packet in frames(Codec::Pcma, 49) {
        assert_eq!(call.hear(Some(&packet), 160), Some(Received::Taken));
    }
    call.leg.update(call.now(), params(Codec::Opus, 111));
    call.header.payload_type = 111;
    for packet in frames(Codec::Opus, 50) {
        call.hear(Some(&packet), 960);
    }
    let (summary, stored) = call.hang_up();
    assert_eq!((summary.ticks, summary.lost_packets), (150 * FRAME, 0));
    assert_eq!(stored.codecs, [Codec::Opus, Codec::Pcma]);
    assert_eq!(
        (stored.format, stored.sample_rate),
        (Format::WavPcm, 48_000)
    );
    assert!(stored.losses.gaps().is_empty());
    let at: Vec<_> = recording::records(&call.log)
        .map(|record| record.at / FRAME)
        .collect();
    assert_eq!(at, (0..150).collect::<Vec<_>>());
}

#[test]
fn garbage_is_no_audio_and_what_it_took_is_told_as_a_pause() {
    let mut call = Call::new(params(Codec::Opus, 111), None);
    for packet in frames(Codec::Opus, 20) {
        call.hear(Some(&packet), 960);
        assert_eq!(call.hear(Some(&[0xFB]), 960), Some(Received::Malformed));
    }
    let (summary, stored) = call.hang_up();
    assert_eq!(summary.ticks, 39 * FRAME);
    assert!(stored.losses.gaps().is_empty());
}

#[test]
fn a_digit_in_the_audio_is_heard_once_and_cuts_where_it_began() {
    let mut call = Call::new(params(Codec::Pcma, 8), Some('#'));
    let (mut low, mut high) = (Tone::new(941.0, 0.2), Tone::new(1_477.0, 0.2));
    let mut five = (Tone::new(770.0, 0.2), Tone::new(1_336.0, 0.2));
    for nth in 0..200 {
        let mut samples = match nth {
            50..55 => sum(five.0.take_ms(20), five.1.take_ms(20)),
            150..155 => sum(low.take_ms(20), high.take_ms(20)),
            _ => vec![0; 160],
        };
        samples[0] |= 1;
        let mut payload = [0; 160];
        Law::A.encode(&samples, &mut payload);
        call.hear(Some(&payload), 160);
    }
    let (summary, _) = call.hang_up();
    assert_eq!(
        call.events(),
        [
            MediaEvent::Digit('5'),
            MediaEvent::RecordingEnded(RecordingEnd::Digit)
        ]
    );
    let cut = summary.keep_ticks.abs_diff(150 * FRAME);
    assert!(cut <= 2 * FRAME, "cut {cut} ticks away");
}

fn sum(a: Vec<i16>, b: Vec<i16>) -> Vec<i16> {
    a.into_iter().zip(b).map(|(a, b)| a + b).collect()
}

/// What a sender does in an hour: packets with the moment of their arrival, in that order, and of
/// each by its name when it was said.
struct Hour {
    packets: Vec<(u64, Vec<u8>)>,
    said: Vec<u64>,
}

impl Hour {
    const MS: u64 = 3_600_000;

    /// Pauses, holds after which numbers, times and source are others, losses, delays and disorder,
    /// and a clock that is wrong by some parts in a million.
    fn new(seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let slow = chance.random_range(999_700..1_000_300_u64);
        let mut header = Header {
            payload_type: 8,
            marker: false,
            sequence: chance.random(),
            timestamp: chance.random(),
            ssrc: 1,
        };
        let (mut at, mut packets, mut said) = (0, Vec::new(), Vec::new());
        while at < Self::MS {
            let pause = match chance.random_range(0..2_000) {
                0 => chance.random_range(1..500),
                1 => chance.random_range(1..3_000),
                _ => 0,
            };
            at += 20 * u64::from(pause);
            header.timestamp = header.timestamp.wrapping_add(160 * pause);
            if pause > 500 {
                header.sequence = chance.random();
                header.timestamp = chance.random();
                header.ssrc += 1;
            }
            let name = said.len() as u32;
            let bytes = [&header.to_bytes()[..], &name.to_be_bytes(), &[0xD5; 156]].concat();
            said.push(at);
            header.sequence = header.sequence.wrapping_add(1);
            header.timestamp = header.timestamp.wrapping_add(160);
            if chance.random_ratio(98, 100) {
                let delay = chance.random_range(0..90);
                packets.push((at * slow / 1_000_000 + delay, bytes));
            }
            at += 20;
        }
        packets.sort_by_key(|(arrival, _)| *arrival);
        Self { packets, said }
    }
}

#[test]
fn whatever_happens_in_an_hour_every_packet_is_kept_in_its_place() {
    for seed in 0..2 {
        let hour = Hour::new(seed);
        let limits = RecordLimits {
            max: Duration::from_secs(7_200),
            preroll: Duration::ZERO,
            ..RecordLimits::default()
        };
        let mut call = Call::with(params(Codec::Pcma, 8), limits);
        let mut out = Outbox::with_capacity(4);
        let mut taken = 0;
        for (arrival, bytes) in &hour.packets {
            while call.ms < *arrival {
                call.ms += 1;
                if call.ms.is_multiple_of(20) {
                    call.leg.slot(call.now(), &mut out);
                    out.clear();
                    call.write();
                }
            }
            let Ok(Datagram::Rtp(packet)) = rtp::read(bytes) else {
                panic!("it is RTP")
            };
            taken += usize::from(call.leg.handle_rtp(call.now(), &packet) == Received::Taken);
        }
        let (summary, _) = call.hang_up();
        assert_eq!(summary.end, None);
        // Of another source's last packets some come when its successor was heard already.
        let late = hour.packets.len() - taken;
        assert!(late <= 200, "{seed}: {late} came too late");
        let kept = recording::records(&call.log).map(|record| match record.what {
            What::Audio(Codec::Pcma, [a, b, c, d, ..]) => {
                (record.at, u32::from_be_bytes([*a, *b, *c, *d]) as usize)
            }
            other => panic!("{other:?}"),
        });
        let kept: Vec<_> = kept.collect();
        assert_eq!(kept.len(), taken, "{seed}");
        for pair in kept.windows(2) {
            let [(at, name), (next_at, next)] = pair else {
                panic!("there are two")
            };
            assert!(next > name, "{seed}: {next} after {name}");
            let said = (hour.said[*next] - hour.said[*name]) * 48;
            let apart = next_at - at;
            assert!(
                apart.abs_diff(said) <= 150 * 48,
                "{seed}: {apart} instead of {said}"
            );
        }
        let (last, _) = kept[kept.len() - 1];
        let said = (hour.said[hour.said.len() - 1] - hour.said[0]) * 48;
        assert!(
            last.abs_diff(said) <= 4_000 * 48,
            "{seed}: {last} instead of {said}"
        );
    }
}
