//! Reports, stages, and when a line counts as dead.

use super::*;

#[test]
fn reports_come_every_five_seconds_or_so_and_a_goodbye_at_the_end() {
    let mut call = Call::new(params());
    call.leg.play(prompt(25));
    for _ in 0..3_000 {
        call.hear(8);
        call.slots(1);
    }
    let reports = call.rtcp();
    assert!((9..=15).contains(&reports.len()), "{}", reports.len());
    for pair in reports.windows(2) {
        assert!((2_500..=7_520).contains(&(pair[1].0 - pair[0].0)));
    }
    assert!(matches!(
        reports[0].1[0],
        RtcpPacket::SenderReport { ssrc: 0x1111, .. }
    ));

    let mut out = Outbox::with_capacity(4);
    call.aim(&mut out);
    call.leg.close(call.now(), &mut out);
    call.take(&mut out);
    let last = call.rtcp().pop().unwrap().1;
    assert_eq!(last.last(), Some(&RtcpPacket::Goodbye { ssrc: 0x1111 }));
    // The block is about the peer, who lost nothing.
    let Some(
        RtcpPacket::SenderReport { about_us, .. } | RtcpPacket::ReceiverReport { about_us, .. },
    ) = last.first()
    else {
        panic!("{last:?}");
    };
    let block = about_us.unwrap();
    assert_eq!(
        (
            block.fraction_lost,
            block.cumulative_lost,
            block.highest_sequence
        ),
        (0, 0, 2_999)
    );
}

#[test]
fn who_only_listens_sends_receiver_reports() {
    let mut call = Call::new(MediaParams {
        direction: Direction::RecvOnly,
        ..params()
    });
    call.hear(8);
    call.slots(400);
    let reports = call.rtcp();
    assert!(!reports.is_empty());
    assert!(
        reports
            .iter()
            .all(|(_, r)| matches!(r[0], RtcpPacket::ReceiverReport { .. }))
    );
}

#[test]
fn the_first_packets_each_way_are_stages_with_their_moment() {
    let mut call = Call::new(params());
    call.slots(5);
    call.hear(8);
    call.hear(8);
    call.slots(100);
    assert_eq!(call.events(), []);
    let at = Duration::from_millis;
    let stages = [(Stage::FirstPacket, at(100)), (Stage::FirstSent, at(120))];
    assert_eq!(call.stages, stages);
}

#[test]
fn a_late_offer_waits_for_its_answer() {
    let mut call = Call::new(MediaParams {
        remote: None,
        remote_rtcp: None,
        ..params()
    });
    call.leg.play(prompt(2));
    call.slots(1_000);
    assert!(call.sent.is_empty());
    assert_eq!(call.events(), [], "nor does a timeout run");
    call.leg.update(call.now(), params());
    call.slots(2);
    assert_eq!(call.events(), [MediaEvent::Played]);
}

#[test]
fn a_peer_that_never_sends_is_reported_once() {
    let mut call = Call::new(params());
    call.slots(499);
    assert_eq!(call.events(), []);
    call.slots(1_000);
    assert_eq!(call.events(), [no_packets(true)]);
}

#[test]
fn a_peer_that_only_reports_is_alive() {
    let mut call = Call::new(params());
    for _ in 0..10 {
        call.slots(400);
        let report = [0x80, 201, 0, 1, 0, 0, 0x22, 0x22];
        call.leg.handle_rtcp(call.now(), &report);
    }
    assert_eq!(call.events(), []);
}

#[test]
fn a_peer_that_falls_silent_is_reported_unless_it_sends_reports() {
    let mut call = Call::new(params());
    call.hear(8);
    for _ in 0..10 {
        call.slots(500);
        let report = [0x80, 201, 0, 1, 0, 0, 0x22, 0x22];
        assert_eq!(call.leg.handle_rtcp(call.now(), &report), Received::Taken);
    }
    assert_eq!(call.events(), []);
    call.slots(1_001);
    assert_eq!(call.events(), [no_packets(false)]);
}

#[test]
fn a_listener_who_is_silent_through_a_long_greeting_is_no_dead_line() {
    let mut call = Call::new(params());
    call.hear(8);
    call.leg.play(prompt(3_000));
    call.slots(3_000);
    assert_eq!(call.events(), [MediaEvent::Played]);
}

#[test]
fn malformed_reports_are_told() {
    let mut call = Call::new(params());
    let cut = [0x81, 201, 0, 7, 0, 0, 0x22, 0x22];
    assert_eq!(call.leg.handle_rtcp(call.now(), &cut), Received::Malformed);
}
