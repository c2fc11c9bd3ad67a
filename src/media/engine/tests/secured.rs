//! Engine against engine over real sockets, with everything that protects a call.

use std::net::UdpSocket;

use super::*;
use crate::media::sdp::Exchange;
use crate::media::sdp::IceMode;
use crate::media::sdp::OfferKeying;
use crate::media::sdp::Opening;
use crate::media::sdp::Preferences;

fn prefer(offer: OfferKeying, ice: IceMode) -> Preferences {
    Preferences {
        codecs: vec![Codec::Pcma],
        ice,
        sdes: true,
        offer,
        ..Preferences::default()
    }
}

fn one_engine() -> Engine {
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        workers: 1,
        ..Config::default()
    };
    Engine::start(&config, [7; 32]).unwrap()
}

/// Two sessions that have agreed on each other: the caller's, the callee's.
struct Pair {
    caller: Session,
    callee: Session,
    exchanges: (Exchange, Exchange),
}

async fn agree(engines: [&Engine; 2], offer: OfferKeying, ice: [IceMode; 2]) -> Pair {
    let opening = Opening::offering(prefer(offer, ice[0]), engines[0].identity());
    let mut caller = engines[0].open(opening.media()).await.unwrap();
    let (mut ours, offered) = opening.at(caller.local_addr(), 1);
    let opening =
        Opening::answering(&offered, prefer(offer, ice[1]), engines[1].identity()).unwrap();
    let callee = engines[1].open(opening.media()).await.unwrap();
    let (theirs, answer) = opening.at(callee.local_addr(), 2);
    caller.update(&ours.on_answer(&answer).unwrap().unwrap());
    Pair {
        caller,
        callee,
        exchanges: (ours, theirs),
    }
}

/// The caller says a second of a tone and the callee records it: its samples, and the stages that
/// the callee went through.
async fn say(pair: &mut Pair) -> (Vec<i16>, Vec<Stage>) {
    let chunks = record(&mut pair.callee).await;
    let words = Tone::new(700.0, 0.25).take_ms(1_000);
    pair.caller.play(Arc::new(Prompt::from_samples(words)));
    let mut stages = Vec::new();
    loop {
        tokio::select! {
            event = timeout(DEADLINE, pair.caller.next_event()) => match event.expect("an event") {
                MediaEvent::Played => break,
                MediaEvent::Stage { .. } => {}
                event => panic!("{event:?} at the caller's"),
            },
            event = pair.callee.next_event() => match event {
                MediaEvent::Stage { stage, .. } => stages.push(stage),
                event => panic!("{event:?} at the callee's"),
            },
        }
    }
    (finish(&mut pair.callee, chunks).await.1, stages)
}

#[track_caller]
fn assert_words(samples: &[i16]) {
    let spoken = samples
        .chunks_exact(160)
        .filter(|frame| tone_level(frame, 700.0) > 0.1);
    let spoken = spoken.count();
    assert!(spoken >= 48, "{spoken} frames of 50");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_protection_and_kind_of_ice_carries_the_voice_both_sides_agreed_on() {
    let engines = [one_engine(), one_engine()];
    let engines = [&engines[0], &engines[1]];
    for (offer, ice) in [
        (OfferKeying::Plain, [IceMode::Lite, IceMode::Lite]),
        (OfferKeying::Sdes, [IceMode::Lite, IceMode::Lite]),
        (OfferKeying::Dtls, [IceMode::Full, IceMode::Lite]),
        (OfferKeying::Dtls, [IceMode::Lite, IceMode::Full]),
        (OfferKeying::Dtls, [IceMode::Full, IceMode::Full]),
        (OfferKeying::Dtls, [IceMode::Lite, IceMode::Lite]),
    ] {
        let mut pair = agree(engines, offer, ice).await;
        let (samples, stages) = say(&mut pair).await;
        assert_words(&samples);
        let secured = [Stage::IceConnected, Stage::DtlsDone];
        let expected = if offer == OfferKeying::Dtls {
            &secured[..]
        } else {
            &[]
        };
        assert!(
            stages.starts_with(expected),
            "{offer:?} {ice:?}: {stages:?}"
        );
    }
}

/// Neither could tell the other's packets from those to itself if they came from one port.
#[tokio::test(flavor = "multi_thread")]
async fn two_calls_of_one_engine_that_talk_with_each_other_get_two_ports() {
    let engine = one_engine();
    for callee in [IceMode::Full, IceMode::Lite] {
        let ice = [IceMode::Full, callee];
        let mut pair = agree([&engine, &engine], OfferKeying::Dtls, ice).await;
        assert_ne!(pair.caller.local_addr(), pair.callee.local_addr());
        assert_words(&say(&mut pair).await.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_offer_and_a_restart_of_ice_do_not_interrupt_the_voice() {
    let engines = [one_engine(), one_engine()];
    let ice = [IceMode::Full, IceMode::Lite];
    let mut pair = agree([&engines[0], &engines[1]], OfferKeying::Dtls, ice).await;
    assert_words(&say(&mut pair).await.0);
    let (ours, theirs) = &mut pair.exchanges;
    // The same again keeps everything.
    let (media, answer) = theirs.on_offer(&ours.offer()).unwrap();
    pair.callee.update(&media);
    pair.caller
        .update(&ours.on_answer(&answer).unwrap().unwrap());
    let (samples, stages) = say(&mut pair).await;
    assert_words(&samples);
    assert!(!stages.contains(&Stage::DtlsDone), "{stages:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_answers_is_told_with_the_stage_that_is_missing() {
    let (engine, other) = (one_engine(), one_engine());
    let opening = Opening::offering(prefer(OfferKeying::Dtls, IceMode::Full), other.identity());
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (_, offer) = opening.at(silent.local_addr().unwrap(), 1);
    let opening = Opening::answering(
        &offer,
        prefer(OfferKeying::Dtls, IceMode::Lite),
        engine.identity(),
    );
    let mut session = engine.open(opening.unwrap().media()).await.unwrap();
    let event = timeout(2 * DEADLINE, session.next_event())
        .await
        .expect("an event");
    assert!(
        matches!(
            event,
            MediaEvent::LinkFailed {
                stage: Stage::IceConnected,
                ..
            }
        ),
        "{event:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_at_secured_calls_harm_nobody_and_leave_nothing() {
    let engines = [one_engine(), one_engine()];
    let mut pair = agree(
        [&engines[0], &engines[1]],
        OfferKeying::Dtls,
        [IceMode::Full, IceMode::Lite],
    )
    .await;
    assert_words(&say(&mut pair).await.0);
    let before = engines[1].stats();
    let flood = std::thread::spawn({
        let to = pair.callee.local_addr();
        let ufrag = pair
            .callee
            .params()
            .ice
            .as_ref()
            .unwrap()
            .local
            .ufrag
            .clone();
        let engine = engines[1].clone();
        move || flood(&engine, to, &ufrag)
    });
    assert_words(&say(&mut pair).await.0);
    flood.join().unwrap();
    let stats = engines[1].stats();
    assert!(stats.dropped(Dropped::StunUnsigned) > 100, "{stats:?}");
    assert!(stats.dropped(Dropped::Stranger) > 100);
    assert!(stats.dropped(Dropped::Malformed) > 10);
    assert_eq!((stats.sessions, stats.panics), (1, 0));
    // As punctual as before, on whatever machine with whatever else to do.
    let calm = before.lateness.quantile(0.99);
    let flooded = stats.lateness.since(&before.lateness).quantile(0.99);
    let bound = Duration::from_millis(20).max(4 * calm);
    assert!(flooded <= bound, "{flooded:?} after {calm:?}");
}

/// Checks for unknown and known fragments without the password, handshakes, forged media, and
/// anything at all; from many addresses, as fast as they are read.
fn flood(engine: &Engine, to: SocketAddr, ufrag: &str) {
    use crate::media::ice::stun;
    let sockets: Vec<_> = (0..8)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let mut random = StdRng::from_seed([3; 32]);
    let begun = engine.stats().packets_received;
    let mut sent = 0;
    for round in 0..600_usize {
        let mut buffer = [0; 1_500];
        for fragment in [ufrag, "unknownf"] {
            let transaction = random.random();
            let mut writer = stun::Writer::new(&mut buffer, stun::Class::Request, &transaction);
            writer.username(fragment, "peer");
            writer.priority(random.next_u32());
            writer.use_candidate();
            let len = writer
                .finish(&stun::key("not the password at all"))
                .unwrap();
            sent += u64::from(sockets[round % 8].send_to(&buffer[..len], to).is_ok());
        }
        let hello = [
            22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        sent += u64::from(sockets[round % 8].send_to(&hello, to).is_ok());
        let header = Header {
            payload_type: 8,
            marker: false,
            sequence: round as u16,
            timestamp: 0,
            ssrc: 1,
        };
        buffer[..12].copy_from_slice(&header.to_bytes());
        sent += u64::from(sockets[round % 8].send_to(&buffer[..172], to).is_ok());
        let len = random.random_range(1..1_500);
        random.fill_bytes(&mut buffer[..len]);
        sent += u64::from(sockets[round % 8].send_to(&buffer[..len], to).is_ok());
        while engine.stats().packets_received < begun + sent {
            std::thread::yield_now();
        }
    }
}
