mod liveness;

use tokio::sync::mpsc;

use std::net::SocketAddr;

use super::*;
use crate::media::audio::Codec;
use crate::media::link::Route;
use crate::media::rtp;
use crate::media::rtp::Datagram;
use crate::media::rtp::Header;
use crate::media::rtp::rtcp;
use crate::media::rtp::rtcp::RtcpPacket;
use crate::media::sdp::Keying;

/// A leg, the time, and what it has sent: milliseconds and bytes.
struct Call {
    leg: Leg,
    begun: Instant,
    ms: u64,
    sent: Vec<(u64, SocketAddr, Vec<u8>)>,
    sequence: u16,
    stages: Vec<(Stage, Duration)>,
}

fn remote() -> SocketAddr {
    "192.0.2.7:4000".parse().unwrap()
}

fn params() -> MediaParams {
    MediaParams {
        remote: Some(remote()),
        remote_rtcp: Some(remote()),
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

fn no_packets(first: bool) -> MediaEvent {
    let of = Lost::Packets;
    MediaEvent::MediaTimeout { first, of }
}

fn settings() -> Settings {
    Settings {
        first_packet_timeout: Duration::from_secs(10),
        running_timeout: Duration::from_secs(20),
        continuous_silence: false,
        jitter_window: Duration::from_millis(200),
        in_band_digits: false,
    }
}

impl Call {
    fn new(params: MediaParams) -> Self {
        Self::with(settings(), params)
    }

    fn with(settings: Settings, params: MediaParams) -> Self {
        let begun = Instant::now();
        let identity = Identity {
            ssrc: 0x1111,
            sequence: u16::MAX - 2,
            timestamp: u32::MAX - 300,
            cname: "0123456789abcdef".into(),
            seed: 5,
            epoch: begun,
        };
        Self {
            leg: Leg::new(begun, settings, params, identity),
            begun,
            ms: 0,
            sent: Vec::new(),
            sequence: 0,
            stages: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        self.begun + Duration::from_millis(self.ms)
    }

    /// Lets so many slots pass.
    fn slots(&mut self, slots: u64) {
        let mut out = Outbox::with_capacity(4);
        for _ in 0..slots {
            self.ms += 20;
            self.aim(&mut out);
            self.leg.slot(self.now(), &mut out);
            self.take(&mut out);
        }
    }

    /// As the session description tells, which is what a link does without ICE.
    fn aim(&self, out: &mut Outbox) {
        let params = self.leg.params();
        let (rtp, rtcp) = (params.remote, params.remote_rtcp);
        out.aim(0, Route { rtp, rtcp });
    }

    fn take(&mut self, out: &mut Outbox) {
        let ms = self.ms;
        let packets = out.packets().iter();
        self.sent
            .extend(packets.map(|packet| (ms, packet.to, packet.bytes().to_vec())));
        out.clear();
    }

    /// The peer says one frame.
    fn hear(&mut self, payload_type: u8) -> Received {
        let header = Header {
            payload_type,
            marker: false,
            sequence: self.sequence,
            timestamp: u32::from(self.sequence) * 160,
            ssrc: 0x2222,
        };
        self.sequence += 1;
        let bytes = [&header.to_bytes()[..], &[0xD5; 160]].concat();
        let Ok(Datagram::Rtp(packet)) = rtp::read(&bytes) else {
            panic!("it is RTP");
        };
        self.leg.handle_rtp(self.now(), &packet)
    }

    /// What happened, without the stages, which are noted beside.
    fn events(&mut self) -> Vec<MediaEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.leg.poll_event() {
            match event {
                MediaEvent::Stage { stage, at } => self.stages.push((stage, at - self.begun)),
                event => events.push(event),
            }
        }
        events
    }

    /// Time, payload type, marker, sequence, timestamp and payload of what was sent.
    fn rtp(&self) -> Vec<(u64, u8, bool, u16, u32, Vec<u8>)> {
        let packets = self
            .sent
            .iter()
            .filter_map(|(ms, _, bytes)| match rtp::read(bytes) {
                Ok(Datagram::Rtp(p)) => Some((
                    *ms,
                    p.payload_type,
                    p.marker,
                    p.sequence,
                    p.timestamp,
                    p.payload.to_vec(),
                )),
                _ => None,
            });
        packets.collect()
    }

    fn rtcp(&self) -> Vec<(u64, Vec<RtcpPacket>)> {
        let packets = self
            .sent
            .iter()
            .filter_map(|(ms, _, bytes)| match rtp::read(bytes) {
                Ok(Datagram::Rtcp(bytes)) => {
                    Some((*ms, rtcp::read(bytes, 0x2222).map(Result::unwrap).collect()))
                }
                _ => None,
            });
        packets.collect()
    }
}

fn prompt(frames: usize) -> Arc<Prompt> {
    Arc::new(Prompt::from_samples(vec![1_000; frames * 160]))
}

#[test]
fn prompts_are_played_one_after_the_other_across_all_wrap_arounds() {
    let mut call = Call::new(params());
    call.leg.play(prompt(3));
    call.leg.play(prompt(2));
    call.slots(4);
    assert_eq!(call.events(), []);
    call.slots(1);
    assert_eq!(call.events(), [MediaEvent::Played]);
    let packets = call.rtp();
    assert_eq!(packets.len(), 5);
    for (nth, (ms, payload_type, marker, sequence, timestamp, payload)) in
        packets.iter().enumerate()
    {
        assert_eq!(
            (*ms, *payload_type, payload.len()),
            (20 * (nth as u64 + 1), 8, 160)
        );
        assert_eq!(*marker, nth == 0);
        assert_eq!(*sequence, (u16::MAX - 2).wrapping_add(nth as u16));
        assert_eq!(*timestamp, (u32::MAX - 300).wrapping_add(160 * nth as u32));
    }
}

#[test]
fn an_empty_prompt_is_played_at_once_and_a_stopped_one_is_not_reported() {
    let mut call = Call::new(params());
    call.leg.play(prompt(0));
    assert_eq!(call.events(), [MediaEvent::Played]);
    call.leg.play(prompt(50));
    call.slots(3);
    call.leg.stop_playing(call.now());
    call.slots(10);
    assert_eq!(call.events(), []);
}

#[test]
fn nothing_is_sent_before_there_is_anything_to_say_or_to_hear() {
    let mut call = Call::new(params());
    call.slots(400);
    assert!(call.sent.is_empty());
    call.hear(8);
    call.slots(1);
    assert_eq!(call.rtp().len(), 1);
}

#[test]
fn while_recording_a_silent_frame_goes_out_every_second() {
    let mut call = Call::new(params());
    let (chunks, _receiver) = mpsc::channel(8);
    call.leg
        .record(call.now(), RecordLimits::default(), ChunkSink::new(chunks));
    call.slots(200);
    let packets = call.rtp();
    assert_eq!(
        packets.iter().map(|p| p.0).collect::<Vec<_>>(),
        [20, 1_020, 2_020, 3_020]
    );
    assert!(packets.iter().all(|p| p.2 && p.5 == [0xD5; 160]));
    assert_eq!(packets[1].4.wrapping_sub(packets[0].4), 8_000);
    assert_eq!(packets[1].3, packets[0].3.wrapping_add(1));
}

#[test]
fn where_comfort_noise_was_agreed_it_is_the_sign_of_life() {
    let mut call = Call::new(MediaParams {
        comfort_noise: Some(13),
        ..params()
    });
    call.leg.play(prompt(2));
    call.slots(60);
    call.leg.play(prompt(1));
    call.slots(1);
    let packets = call.rtp();
    let kinds: Vec<_> = packets.iter().map(|p| (p.1, p.2, p.5.len())).collect();
    assert_eq!(
        kinds,
        [
            (8, true, 160),
            (8, false, 160),
            (13, false, 1),
            (13, false, 1),
            (8, true, 160)
        ]
    );
}

#[test]
fn silence_all_the_time_is_marked_once() {
    let settings = Settings {
        continuous_silence: true,
        ..settings()
    };
    let mut call = Call::with(settings, params());
    call.leg.play(prompt(1));
    call.slots(100);
    let packets = call.rtp();
    assert_eq!(packets.len(), 100);
    assert_eq!(packets.iter().filter(|p| p.2).count(), 1);
}

#[test]
fn on_hold_nothing_is_sent_but_reports_and_the_prompt_waits() {
    let mut call = Call::new(params());
    call.hear(8);
    call.leg.play(prompt(10));
    call.slots(4);
    call.events();
    call.leg.update(
        call.now(),
        MediaParams {
            direction: Direction::RecvOnly,
            ..params()
        },
    );
    call.sent.clear();
    call.slots(60 * 50);
    assert!(call.rtp().is_empty());
    assert!(call.rtcp().len() >= 7);
    assert_eq!(call.events(), [], "no timeout on hold");
    call.leg.update(call.now(), params());
    call.sent.clear();
    call.slots(6);
    assert_eq!(call.events(), [MediaEvent::Played]);
    let packets = call.rtp();
    assert_eq!((packets.len(), packets[0].2), (6, true));
}

#[test]
fn a_late_slot_loses_its_frame_and_keeps_the_time() {
    let mut call = Call::new(params());
    call.leg.play(prompt(5));
    call.slots(2);
    call.ms += 20;
    let mut out = Outbox::with_capacity(4);
    call.aim(&mut out);
    call.leg.skip_slot(call.now(), &out);
    call.slots(2);
    assert_eq!(call.events(), [MediaEvent::Played]);
    let packets = call.rtp();
    assert_eq!(packets.len(), 4);
    assert_eq!(packets[2].4.wrapping_sub(packets[1].4), 320);
    assert_eq!(packets[2].3.wrapping_sub(packets[1].3), 1);
}

#[test]
fn digits_are_sent_before_the_prompt_goes_on() {
    let mut call = Call::new(params());
    call.leg.play(prompt(3));
    call.slots(1);
    call.leg.send_digits("1#x");
    call.slots(30);
    let packets = call.rtp();
    let events: Vec<_> = packets.iter().filter(|p| p.1 == 101).collect();
    assert_eq!(events.len(), 16);
    assert!(
        events[..8]
            .iter()
            .all(|p| p.4 == events[0].4 && p.5[0] == 1)
    );
    assert!(
        events[8..]
            .iter()
            .all(|p| p.4 == events[8].4 && p.5[0] == 11)
    );
    assert_eq!(
        events.iter().map(|p| p.2).filter(|marked| *marked).count(),
        2
    );
    assert!(events[0].2 && events[8].2);
    assert_eq!(events[8].4.wrapping_sub(events[0].4), 11 * 160);
    assert_eq!(call.events(), [MediaEvent::Played]);
}

#[test]
fn another_clock_is_another_stream_and_the_prompt_goes_on() {
    let mut call = Call::new(params());
    call.leg.play(prompt(8));
    call.slots(2);
    let (codec, payload_type) = (Codec::Opus, 111);
    let opus = MediaParams {
        codec,
        payload_type,
        telephone_event_clock: 48_000,
        ..params()
    };
    call.leg.update(call.now(), opus);
    call.slots(3);
    call.leg.send_digits("5");
    call.slots(14);
    assert_eq!(call.events(), [MediaEvent::Played]);
    let ssrcs = call
        .sent
        .iter()
        .map(|(_, _, bytes)| match rtp::read(bytes) {
            Ok(Datagram::Rtp(packet)) => packet.ssrc,
            _ => panic!("no report is due yet"),
        });
    let mut ssrcs: Vec<_> = ssrcs.collect();
    ssrcs.dedup();
    assert!(ssrcs.len() == 2 && ssrcs[0] == 0x1111, "{ssrcs:x?}");

    let (before, after) = (call.rtp()[1].clone(), call.rtp()[2].clone());
    assert_eq!((before.1, after.1, after.2), (8, 111, true));
    assert_eq!(after.3, before.3.wrapping_add(1));
    let sent = prompt(8);
    let packets = call.rtp();
    let audio = packets.iter().filter(|packet| packet.1 == 111);
    let frames = audio.clone().map(|packet| packet.5.as_slice());
    assert!(frames.eq(sent.frames(codec).skip(2)));
    let stamps = audio.map(|packet| packet.4).collect::<Vec<_>>();
    assert!(
        stamps[..3]
            .windows(2)
            .all(|w| w[1].wrapping_sub(w[0]) == 960)
    );
    let event = packets.iter().rfind(|packet| packet.1 == 101).unwrap();
    assert_eq!(event.5[2..], 4_800_u16.to_be_bytes());
}

#[test]
fn digits_nobody_agreed_on_are_dropped_both_ways() {
    let mut call = Call::new(MediaParams {
        telephone_event: None,
        ..params()
    });
    call.leg.send_digits("123");
    call.slots(5);
    assert!(call.rtp().iter().all(|p| p.1 == 8));
    assert_eq!(call.hear(101), Received::UnknownPayloadType);
    assert_eq!(call.events(), []);
}

#[test]
fn a_digit_that_comes_in_two_ways_is_one() {
    let mut call = Call::new(params());
    let event = |call: &mut Call, timestamp: u32| {
        let header = Header {
            payload_type: 101,
            marker: true,
            sequence: call.sequence,
            timestamp,
            ssrc: 0x2222,
        };
        call.sequence += 1;
        let bytes = [&header.to_bytes()[..], &[11, 10, 0, 160]].concat();
        let Ok(Datagram::Rtp(packet)) = rtp::read(&bytes) else {
            panic!("it is RTP");
        };
        let now = call.now();
        call.leg.handle_rtp(now, &packet);
    };
    // Pressed twice; the signalling follows the media, and may be slow.
    event(&mut call, 1_000);
    call.slots(5);
    event(&mut call, 3_000);
    let now = call.now();
    call.leg.signalled(now, '#');
    call.slots(100);
    let now = call.now();
    call.leg.signalled(now, '#');
    assert_eq!(call.events(), [MediaEvent::Digit('#'); 2]);
    // The other way round, and later again: a recording that began meanwhile is not ended by it.
    call.slots(250);
    let now = call.now();
    call.leg.signalled(now, '#');
    assert_eq!(call.events(), [MediaEvent::Digit('#')]);
    let (sender, _chunks) = mpsc::channel(8);
    let limits = RecordLimits {
        end_digit: Some('#'),
        ..RecordLimits::default()
    };
    let now = call.now();
    call.leg.record(now, limits, ChunkSink::new(sender));
    event(&mut call, 9_000);
    assert_eq!(call.events(), []);
    call.slots(250);
    event(&mut call, 60_000);
    assert_eq!(
        call.events(),
        [MediaEvent::RecordingEnded(RecordingEnd::Digit)]
    );
}

#[test]
fn a_flood_of_digits_does_not_grow_the_queue() {
    let mut call = Call::new(params());
    for n in 0..500_u32 {
        let header = Header {
            payload_type: 101,
            marker: true,
            sequence: n as u16,
            timestamp: n * 1_000,
            ssrc: 1,
        };
        let bytes = [&header.to_bytes()[..], &[1, 0, 0, 160]].concat();
        if let Ok(Datagram::Rtp(packet)) = rtp::read(&bytes) {
            call.leg.handle_rtp(call.now(), &packet);
        }
    }
    assert!(call.events().len() <= MAX_EVENTS);
}

#[test]
fn a_writer_that_goes_away_ends_the_recording() {
    let mut call = Call::new(params());
    let (chunks, receiver) = mpsc::channel(8);
    call.leg.record(
        call.now(),
        RecordLimits {
            preroll: Duration::ZERO,
            ..RecordLimits::default()
        },
        ChunkSink::new(chunks),
    );
    drop(receiver);
    for _ in 0..60 {
        call.hear(8);
        call.slots(1);
    }
    let end = RecordingEnd::DiskTooSlow;
    assert_eq!(call.events(), [MediaEvent::RecordingEnded(end)]);
    assert_eq!(
        call.leg.summary().map(|s| (s.end, s.ticks)),
        Some((Some(end), 0))
    );
}

#[test]
fn without_a_recording_there_is_an_empty_summary() {
    let mut call = Call::new(params());
    call.leg.stop_recording(call.now());
    assert_eq!(call.leg.summary(), Some(RecordingSummary::default()));
}

/// What a call takes in memory, beside its events and what is played.
fn memory(call: &Call) -> usize {
    let recording = call.leg.recording.as_ref().map_or(0, Recording::memory);
    size_of::<Leg>() + call.leg.hearing.line.memory() + recording
}

#[test]
fn a_silent_listener_takes_less_than_5_kib_and_a_recording_of_g711_13() {
    let mut call = Call::new(params());
    for _ in 0..500 {
        call.hear(8);
        call.slots(1);
        assert!(memory(&call) <= 4_600, "{} bytes", memory(&call));
    }
    let (chunks, mut receiver) = mpsc::channel(8);
    let sink = ChunkSink::new(chunks);
    call.leg.record(call.now(), RecordLimits::default(), sink);
    for _ in 0..500 {
        call.hear(8);
        call.slots(1);
        assert!(memory(&call) <= 13 * 1_024, "{} bytes", memory(&call));
        while receiver.try_recv().is_ok() {}
    }
    println!("{} bytes in all", memory(&call));
}

#[test]
fn a_leg_that_rests_shows_its_signs_of_life_by_the_clock() {
    let mut call = Call::new(params());
    call.hear(8);
    assert!(!call.leg.is_resting(), "nothing was sent yet");
    call.slots(1);
    call.events();
    assert!(call.leg.is_resting());
    for rest in [80, 7, 93].into_iter().cycle().take(90) {
        call.ms += rest;
        call.leg.rest(Duration::from_millis(rest));
        call.slots(1);
    }
    let rtp = call.rtp();
    // Every 20 ms plus what rested: 7,200 ms in all.
    assert!((7..=9).contains(&rtp.len()), "{} packets", rtp.len());
    for pair in rtp.windows(2) {
        let [(before, .., timestamp, _), (after, .., later, _)] = pair else {
            panic!("two packets");
        };
        let elapsed = after - before;
        assert!((1_000..=1_120).contains(&elapsed), "{elapsed} ms");
        assert_eq!(u64::from(later.wrapping_sub(*timestamp)), elapsed * 8);
    }

    call.leg
        .play(Arc::new(Prompt::from_samples(vec![99; 1_600])));
    assert!(!call.leg.is_resting());
}
