//! Media as nobody should send them: the message is as whole as can be, nobody else is in it, and
//! the service goes on.

mod support;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use support::process::{Place, Program};
use support::raw::{RawCall, Schedule, Stream, send_from};
use support::{Inbox, VOICE_HZ, wait_for};
use tokio::net::UdpSocket;

/// What strangers say.
const INTRUDER_HZ: f64 = 2_300.0;
/// What the caller says, in packets of 20 ms.
const PACKETS: u32 = 100;
const SAID_MS: usize = 2_000;

struct Scene {
    _place: Place,
    service: Program,
    inbox: Inbox,
}

impl Scene {
    async fn new() -> Self {
        let place = Place::new("");
        let token = place.subscriber();
        let service = place.start().await;
        let inbox = service.inbox(&token);
        Self {
            _place: place,
            service,
            inbox,
        }
    }

    /// A caller who has heard the beep.
    async fn caller(&self) -> RawCall {
        let call = RawCall::start(self.service.sip(), |_| {}).await;
        call.until_beep_is_over().await;
        call
    }

    /// Says what is in the schedule and hangs up: how long the message is from the first sample of
    /// voice to the last, in milliseconds, and the message's samples.
    async fn message_of(&self, call: RawCall, schedule: Schedule) -> (usize, Vec<i16>) {
        call.send(schedule).await;
        call.bye().await;
        let message = self.inbox.wait_for_messages(1).await.remove(0);
        let audio = self.inbox.audio(&message).await;
        assert!(!has_intruder(&audio), "somebody else is in the message");
        (span_ms(&audio), audio)
    }

    /// Nothing is left of the calls, and nothing broke.
    async fn assert_clean(&self) {
        wait_for(async || {
            let sessions = self.service.metric("aftertone_media_sessions").await;
            let calls = self.service.metric("aftertone_calls").await;
            (sessions + calls == 0.0).then_some(())
        })
        .await;
        let log = self.service.log();
        assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
        assert_eq!(self.service.logged("The call ended"), 1, "{log}");
    }

    /// Packets that reached the service, whatever became of them.
    async fn packets_read(&self) -> f64 {
        let mut read = 0.0;
        for outcome in ["taken", "stranger", "closed_call", "duplicate", "late"] {
            let name = format!("aftertone_media_packets_total{{outcome=\"{outcome}\"}}");
            read += self.service.metric(&name).await;
        }
        read
    }

    async fn dropped(&self, outcome: &str) -> f64 {
        let name = format!("aftertone_media_packets_total{{outcome=\"{outcome}\"}}");
        wait_for(async || Some(self.service.metric(&name).await).filter(|count| *count > 0.0)).await
    }
}

/// From the first sample of voice to the last.
fn span_ms(audio: &[i16]) -> usize {
    let loud = |sample: &i16| sample.unsigned_abs() > 1_000;
    let first = audio.iter().position(loud).expect("a voice");
    let last = audio.iter().rposition(loud).expect("a voice");
    (last - first) / 8
}

fn has_intruder(audio: &[i16]) -> bool {
    let mut frames = audio.chunks_exact(160);
    frames.any(|frame| aftertone::media::audio::tone_level(frame, INTRUDER_HZ) > 0.05)
}

fn voice_ms(audio: &[i16]) -> usize {
    support::tone_ms(audio, VOICE_HZ)
}

#[track_caller]
fn assert_near(ms: usize, expected: usize) {
    assert!(ms.abs_diff(expected) <= 20, "{ms} ms instead of {expected}");
}

fn after(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_not_heard() {
    let scene = Scene::new().await;
    let call = scene.caller().await;
    let media = call.media;
    let mut voice = Stream::new(VOICE_HZ);
    let header = voice.header;
    let schedule = voice.packets(PACKETS);
    // From other hosts all the time; from the caller's own once he has been heard. They know the
    // caller's numbers, too.
    let mut strangers = tokio::task::JoinSet::new();
    for from in ["127.0.0.2:0", "127.0.0.3:0", "127.0.0.1:0", "127.0.0.1:0"] {
        let mut intruder = Stream::new(INTRUDER_HZ);
        intruder.header = header;
        let mut packets = intruder.packets(PACKETS);
        if from.starts_with("127.0.0.1") {
            packets.iter_mut().for_each(|(at, _)| *at += after(100));
        }
        let socket = UdpSocket::bind(from).await.unwrap();
        strangers.spawn(async move { send_from(&socket, media, packets).await });
    }
    let (span, audio) = scene.message_of(call, schedule).await;
    strangers.join_all().await;
    assert_near(span, SAID_MS);
    assert_near(voice_ms(&audio), SAID_MS);
    assert!(scene.dropped("stranger").await >= 300.0);
    scene.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_the_answer_is_in_no_message() {
    let scene = Scene::new().await;
    // A first call tells the port that all calls share.
    let first = RawCall::start(scene.service.sip(), |_| {}).await;
    let media = first.media;
    first.bye().await;
    let sip = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let rtp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut early = Stream::new(INTRUDER_HZ);
    for _ in 0..50 {
        rtp.send_to(&early.packet(), media).await.unwrap();
    }
    // They have been read, by a thread that the call's INVITE would else overtake: by the first call,
    // while it is not quite over, or by nobody.
    wait_for(async || Some(scene.packets_read().await).filter(|read| *read >= 50.0)).await;
    let call = RawCall::start_from(scene.service.sip(), sip, rtp, |_| {}).await;
    call.until_beep_is_over().await;
    let (span, audio) = scene
        .message_of(call, Stream::new(VOICE_HZ).packets(PACKETS))
        .await;
    assert_near(span, SAID_MS);
    assert_near(voice_ms(&audio), SAID_MS);
    let missed = scene.inbox.wait_for_missed_calls(1).await;
    assert_eq!(missed[0]["cause"], "abandoned");
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_between_the_packets_changes_nothing() {
    let scene = Scene::new().await;
    let call = scene.caller().await;
    let mut chance = StdRng::seed_from_u64(1);
    let mut voice = Stream::new(VOICE_HZ);
    let mut never_offered = Stream::new(INTRUDER_HZ);
    never_offered.header.payload_type = 96;
    let mut schedule = Schedule::new();
    for (at, packet) in voice.packets(PACKETS) {
        let mut version_one = packet.clone();
        version_one[0] = 0x40;
        let mut lying_length = packet.clone();
        lying_length[0] = 0x8F; // fifteen contributing sources, which are audio
        lying_length.truncate(40);
        let mut padded = packet.clone();
        padded[0] |= 0x20;
        *padded.last_mut().unwrap() = 255;
        let mut bad_report = vec![0x81, 200, 0xFF, 0xFF];
        bad_report.extend((0..40).map(|_| chance.random::<u8>()));
        let len = chance.random_range(0..1_400);
        let noise: Vec<u8> = (0..len).map(|_| chance.random::<u8>() & 0x7F).collect();
        for rubbish in [
            version_one,
            lying_length,
            padded,
            bad_report,
            noise,
            never_offered.packet(),
        ] {
            schedule.push((at + after(chance.random_range(0..20)), rubbish));
        }
        schedule.push((at, packet));
    }
    let (span, audio) = scene.message_of(call, schedule).await;
    assert_near(span, SAID_MS);
    assert_near(voice_ms(&audio), SAID_MS);
    assert!(scene.dropped("malformed").await >= 300.0);
    assert!(scene.dropped("payload_type").await >= 95.0);
    scene.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_begins_anew_goes_on_where_it_was() {
    let scene = Scene::new().await;
    let call = scene.caller().await;
    let mut voice = Stream::new(VOICE_HZ);
    let mut schedule = voice.packets(PACKETS);
    for (n, (_, packet)) in schedule.iter_mut().enumerate().skip(40) {
        // From the fortieth packet on another source with numbers of its own.
        packet[2..4].copy_from_slice(&(n as u16 + 31_000).to_be_bytes());
        packet[4..8].copy_from_slice(&(n as u32 * 160 + 77).to_be_bytes());
        packet[8..12].copy_from_slice(&[1, 2, 3, 4]);
    }
    let (span, audio) = scene.message_of(call, schedule).await;
    assert_near(span, SAID_MS);
    assert_near(voice_ms(&audio), SAID_MS);
    scene.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jumps_of_the_timestamp_do_not_tear_the_message() {
    let scene = Scene::new().await;
    let call = scene.caller().await;
    let mut voice = Stream::new(VOICE_HZ);
    let mut schedule = Schedule::new();
    for (n, jump) in [0, 0x1000_0000, 0x8000_0000, 80_000_u32.wrapping_neg()]
        .into_iter()
        .enumerate()
    {
        voice.header.timestamp = voice.header.timestamp.wrapping_add(jump);
        for (at, packet) in voice.packets(PACKETS / 4) {
            schedule.push((at + after(500) * n as u32, packet));
        }
    }
    let (span, audio) = scene.message_of(call, schedule).await;
    assert_near(span, SAID_MS);
    assert_near(voice_ms(&audio), SAID_MS);
    scene.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifth_of_the_packets_lost_leaves_the_message_its_length() {
    let scene = Scene::new().await;
    let call = scene.caller().await;
    let mut chance = StdRng::seed_from_u64(2);
    let mut schedule = Stream::new(VOICE_HZ).packets(PACKETS);
    let mut inner: Vec<usize> = (1..schedule.len() - 1).collect();
    inner.shuffle(&mut chance);
    let lost = &inner[..PACKETS as usize / 5];
    let mut n = 0;
    schedule.retain(|_| {
        n += 1;
        !lost.contains(&(n - 1))
    });
    let (span, audio) = scene.message_of(call, schedule).await;
    assert_near(span, SAID_MS);
    // The tone itself is never silent for a whole millisecond.
    let spoken = audio
        .iter()
        .position(|sample| sample.unsigned_abs() > 1_000)
        .unwrap();
    let silent = audio[spoken..]
        .chunks_exact(8)
        .filter(|ms| **ms == [0; 8])
        .count();
    assert!(
        (340..=460).contains(&silent),
        "{silent} ms of silence for 400 ms lost"
    );
    scene.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_out_of_order_and_doubled_are_put_right() {
    let scene = Scene::new().await;
    let call = scene.caller().await;
    let mut chance = StdRng::seed_from_u64(3);
    let mut schedule = Schedule::new();
    for (at, packet) in Stream::new(VOICE_HZ).packets(PACKETS) {
        if chance.random_ratio(1, 3) {
            schedule.push((at + after(chance.random_range(0..300)), packet.clone()));
        }
        schedule.push((at + after(chance.random_range(0..160)), packet));
    }
    let (span, audio) = scene.message_of(call, schedule).await;
    assert_near(span, SAID_MS);
    assert_near(voice_ms(&audio), SAID_MS);
    assert!(scene.dropped("duplicate").await >= 10.0);
    scene.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_falls_silent_in_mid_sentence_keeps_his_pause() {
    let scene = Scene::new().await;
    let call = scene.caller().await;
    // Silence suppression: nothing is sent for a second and a half, and time goes on.
    let mut voice = Stream::new(VOICE_HZ);
    let mut schedule = voice.packets(PACKETS / 2);
    voice.header.timestamp = voice.header.timestamp.wrapping_add(1_500 * 8);
    for (at, packet) in voice.packets(PACKETS / 2) {
        schedule.push((at + after(1_000 + 1_500), packet));
    }
    let (span, audio) = scene.message_of(call, schedule).await;
    assert_near(span, SAID_MS + 1_500);
    assert_near(voice_ms(&audio), SAID_MS);
    scene.assert_clean().await;
}
