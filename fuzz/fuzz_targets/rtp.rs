//! Any datagrams, one after the other, to a call that plays, records and takes digits: no panic,
//! and the recording is as long as its summary says.
#![no_main]

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use aftertone::media::Direction;
use aftertone::media::MediaParams;
use aftertone::media::RecordLimits;
use aftertone::media::audio::Codec;
use aftertone::media::audio::Prompt;
use aftertone::media::rtp;
use aftertone::media::rtp::Datagram;
use aftertone::media::session::ChunkSink;
use aftertone::media::session::Identity;
use aftertone::media::session::Leg;
use aftertone::media::session::Outbox;
use aftertone::media::session::Settings;
use libfuzzer_sys::fuzz_target;
use tokio::sync::mpsc;

fn leg(now: Instant) -> Leg {
    let remote = Some(([192, 0, 2, 1], 4_000).into());
    let params = MediaParams {
        remote,
        remote_rtcp: remote,
        rtcp_mux: false,
        codec: Codec::Pcmu,
        payload_type: 0,
        telephone_event: Some(101),
        comfort_noise: Some(13),
        direction: Direction::SendRecv,
        ptime_ms: 20,
    };
    let settings = Settings {
        first_packet_timeout: Duration::from_secs(5),
        running_timeout: Duration::from_secs(5),
        continuous_silence: false,
        jitter_window: Duration::from_millis(200),
    };
    let identity = Identity { ssrc: 1, sequence: 2, timestamp: 3, cname: "fuzz".into(), seed: 4, epoch: now };
    Leg::new(now, settings, params, identity)
}

// Each datagram has a head of two bytes: the milliseconds until it comes, and its length.
fuzz_target!(|data: &[u8]| {
    let mut now = Instant::now();
    let mut leg = leg(now);
    let mut out = Outbox::with_capacity(8);
    let (sender, mut chunks) = mpsc::channel(8);
    leg.play(Arc::new(Prompt::from_samples(vec![500; 1_600])));
    let limits = RecordLimits { silence: Some(Duration::from_secs(3)), end_digit: Some('#'), ..RecordLimits::default() };
    leg.record(now, limits, ChunkSink::new(sender));
    let mut recorded = 0;
    let mut rest = data;
    while let [wait, len, tail @ ..] = rest {
        now += Duration::from_millis(u64::from(*wait));
        let (datagram, after) = tail.split_at(tail.len().min(usize::from(*len)));
        match rtp::read(datagram) {
            Ok(Datagram::Rtp(packet)) => drop(leg.handle_rtp(now, &packet)),
            Ok(Datagram::Rtcp(compound)) => {
                leg.handle_rtcp(now, ([192, 0, 2, 1], 4_001).into(), compound);
            }
            Err(_) => {}
        }
        leg.slot(now, &mut out);
        out.clear();
        while leg.poll_event().is_some() {}
        while let Ok(chunk) = chunks.try_recv() {
            recorded += chunk.samples.len() as u64;
        }
        rest = after;
    }
    leg.stop_recording(now);
    for _ in 0..64 {
        while let Ok(chunk) = chunks.try_recv() {
            recorded += chunk.samples.len() as u64;
        }
        leg.slot(now, &mut out);
        out.clear();
    }
    let summary = leg.summary().expect("all chunks were taken");
    assert_eq!(summary.samples, recorded);
    assert!(summary.keep_samples <= summary.samples && summary.speech_ms <= summary.samples / 8);
});
