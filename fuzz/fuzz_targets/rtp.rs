//! Any datagrams, one after the other, to a call that plays, records and takes digits, with each codec:
//! no panic, the recording is as long as its summary says, and it becomes a file.
#![no_main]

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use aftertone::media::Direction;
use aftertone::media::MediaParams;
use aftertone::media::RecordLimits;
use aftertone::media::audio::Codec;
use aftertone::media::audio::Prompt;
use aftertone::media::link::Route;
use aftertone::media::recording;
use aftertone::media::rtp;
use aftertone::media::rtp::Datagram;
use aftertone::media::sdp::Keying;
use aftertone::media::session::ChunkSink;
use aftertone::media::session::Identity;
use aftertone::media::session::Leg;
use aftertone::media::session::Outbox;
use aftertone::media::session::Settings;
use libfuzzer_sys::fuzz_target;
use tokio::sync::mpsc;

const CODECS: [(Codec, u8); 4] = [(Codec::Pcmu, 0), (Codec::Pcma, 8), (Codec::G722, 9), (Codec::Opus, 111)];

fn params(kind: u8) -> MediaParams {
    let remote = Some(([192, 0, 2, 1], 4_000).into());
    let (codec, payload_type) = CODECS[usize::from(kind) % CODECS.len()];
    MediaParams {
        remote,
        remote_rtcp: remote,
        rtcp_mux: false,
        codec,
        payload_type,
        telephone_event: (kind & 4 == 0).then_some(101),
        telephone_event_clock: 8_000,
        comfort_noise: Some(13),
        direction: Direction::SendRecv,
        ptime_ms: 20,
        keying: Keying::Plain,
        ice: None,
    }
}

fn leg(now: Instant, params: MediaParams) -> Leg {
    let settings = Settings {
        first_packet_timeout: Duration::from_secs(5),
        running_timeout: Duration::from_secs(5),
        continuous_silence: false,
        jitter_window: Duration::from_millis(200),
        in_band_digits: true,
    };
    let identity = Identity { ssrc: 1, sequence: 2, timestamp: 3, cname: "fuzz".into(), seed: 4, epoch: now };
    Leg::new(now, settings, params, identity)
}

// The codecs before and after a new offer, which comes where the wait is 255. Each datagram has a head
// of two bytes: the milliseconds until it comes, and its length.
fuzz_target!(|data: &[u8]| {
    let [before, after, data @ ..] = data else {
        return;
    };
    let mut now = Instant::now();
    let mut leg = leg(now, params(*before));
    let mut out = Outbox::with_capacity(8);
    out.aim(0, Route::to(([192, 0, 2, 1], 4_000).into()));
    let (sender, mut chunks) = mpsc::channel(8);
    leg.play(Arc::new(Prompt::from_samples(vec![500; 1_600])));
    let limits = RecordLimits { silence: Some(Duration::from_secs(3)), end_digit: Some('#'), ..RecordLimits::default() };
    leg.record(now, limits, ChunkSink::new(sender));
    let mut log = Vec::new();
    let mut rest = data;
    while let [wait, len, tail @ ..] = rest {
        now += Duration::from_millis(u64::from(*wait));
        if *wait == 255 {
            leg.update(now, params(*after));
        }
        let (datagram, after) = tail.split_at(tail.len().min(usize::from(*len)));
        match rtp::read(datagram) {
            Ok(Datagram::Rtp(packet)) => drop(leg.handle_rtp(now, &packet)),
            Ok(Datagram::Rtcp(compound)) => {
                leg.handle_rtcp(now, compound);
            }
            Err(_) => {}
        }
        leg.slot(now, &mut out);
        out.clear();
        while leg.poll_event().is_some() {}
        while let Ok(chunk) = chunks.try_recv() {
            log.extend(chunk.bytes);
        }
        rest = after;
    }
    leg.stop_recording(now);
    for _ in 0..64 {
        while let Ok(chunk) = chunks.try_recv() {
            log.extend(chunk.bytes);
        }
        leg.slot(now, &mut out);
        out.clear();
    }
    let summary = leg.summary().expect("all chunks were taken");
    let ticks = recording::ticks(&log[..]).expect("memory can be read");
    assert_eq!(summary.ticks, ticks);
    assert!(summary.keep_ticks <= ticks && summary.speech_ms <= ticks / 48);
    let keep = summary.keep_ticks.min(480_000);
    let stored = recording::store(Cursor::new(&log), keep, std::io::sink()).expect("it becomes a file");
    assert!(stored.ticks <= keep);
});
