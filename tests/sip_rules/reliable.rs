//! Reliable provisional responses (RFC 3262).

use aftertone::sip::endpoint::Event;

use crate::bench::ANSWER;
use crate::bench::Bench;
use crate::bench::Msg;
use crate::bench::OFFER;
use crate::bench::header;
use crate::bench::to_tag;

/// A call that requires 100rel was answered: the bench, the To tag, the RSeq.
fn reliable(invite: &Msg, description: &str) -> (Bench, String, String) {
    let mut bench = Bench::new();
    let call = bench.incoming(invite);
    bench
        .endpoint
        .answer(bench.now, call, description.to_owned().into())
        .unwrap();
    let progress = bench.response(183);
    assert_eq!(header(&progress.headers, "Require"), "100rel");
    assert_eq!(progress.body, description);
    let rseq = header(&progress.headers, "RSeq");
    (bench, to_tag(&progress), rseq)
}

#[test]
fn the_200_follows_the_prack() {
    let invite = Msg::invite().line("Require: 100rel");
    let (mut bench, tag, rseq) = reliable(&invite, ANSWER);
    bench.receive(
        invite
            .in_dialog("PRACK", 2, &tag)
            .line(&format!("RAck: {rseq} 1 INVITE"))
            .text(),
    );
    assert!(header(&bench.response(200).headers, "CSeq").contains("PRACK"));
    let ok = bench.response(200);
    assert!(header(&ok.headers, "CSeq").contains("INVITE"));
    assert!(ok.body.is_empty(), "the answer was in the 183");
    assert!(matches!(
        bench.event(),
        Event::Confirmed { answer: None, .. }
    ));
    assert!(matches!(bench.event(), Event::Accepted { .. }));
    bench.receive(invite.in_dialog("ACK", 1, &tag).text());
    assert!(bench.events.is_empty(), "confirmed once");
    bench.wait_secs(10);
    bench.silence();
}

#[test]
fn a_late_offer_is_answered_in_the_prack() {
    let invite = Msg::new("INVITE").line("Require: 100rel");
    let (mut bench, tag, rseq) = reliable(&invite, OFFER);
    bench.receive(
        invite
            .in_dialog("PRACK", 2, &tag)
            .line(&format!("RAck: {rseq} 1 INVITE"))
            .body(ANSWER)
            .text(),
    );
    bench.response(200);
    assert!(bench.response(200).body.is_empty());
    assert!(
        matches!(bench.event(), Event::Confirmed { answer: Some(answer), .. } if answer == ANSWER)
    );
}

#[test]
fn a_prack_without_the_answer_fails_the_call() {
    let invite = Msg::new("INVITE").line("Require: 100rel");
    let (mut bench, tag, rseq) = reliable(&invite, OFFER);
    bench.receive(
        invite
            .in_dialog("PRACK", 2, &tag)
            .line(&format!("RAck: {rseq} 1 INVITE"))
            .text(),
    );
    bench.response(200);
    bench.response(400);
    assert_eq!(bench.ended(), "NoAnswer");
}

#[test]
fn a_prack_may_bear_a_new_offer() {
    let invite = Msg::invite().line("Require: 100rel");
    let (mut bench, tag, rseq) = reliable(&invite, ANSWER);
    bench.receive(
        invite
            .in_dialog("PRACK", 2, &tag)
            .line(&format!("RAck: {rseq} 1 INVITE"))
            .body("v=0 second")
            .text(),
    );
    let Event::Offer { call, id, offer } = bench.event() else {
        panic!("no offer")
    };
    assert_eq!(offer.unwrap(), "v=0 second");
    bench.silence();
    bench
        .endpoint
        .accept_offer(bench.now, call, id, "v=0 reply".into())
        .unwrap();
    assert_eq!(bench.response(200).body, "v=0 reply");
    assert!(header(&bench.response(200).headers, "CSeq").contains("INVITE"));
}

#[test]
fn the_183_is_repeated_and_the_call_given_up() {
    let (mut bench, ..) = reliable(&Msg::invite().line("Require: 100rel"), ANSWER);
    let since = bench.now;
    bench.wait_secs(31);
    assert_eq!(
        bench.times(since, "SIP/2.0 183"),
        [500, 1500, 3500, 7500, 15500, 31500]
            .as_slice()
            .split_last()
            .unwrap()
            .1
    );
    bench.wait_secs(1);
    assert_eq!(bench.times(since, "SIP/2.0 504"), [32_000]);
    assert_eq!(bench.ended(), "PrackTimeout");
}

#[test]
fn a_prack_for_something_else_gets_481() {
    let invite = Msg::invite().line("Require: 100rel");
    let (mut bench, tag, rseq) = reliable(&invite, ANSWER);
    let rseq: u32 = rseq.parse().unwrap();
    for (cseq, rack) in [
        (2, format!("{} 1 INVITE", rseq + 1)),
        (3, format!("{rseq} 2 INVITE")),
        (4, "nonsense".into()),
    ] {
        bench.receive(
            invite
                .in_dialog("PRACK", cseq, &tag)
                .line(&format!("RAck: {rack}"))
                .text(),
        );
        bench.response(481);
    }
    bench.receive(
        invite
            .in_dialog("PRACK", 5, &tag)
            .line(&format!("RAck: {rseq} 1 INVITE"))
            .text(),
    );
    bench.response(200);
    bench.response(200);
    bench.receive(
        invite
            .in_dialog("PRACK", 6, &tag)
            .line(&format!("RAck: {rseq} 1 INVITE"))
            .text(),
    );
    bench.response(481);
}

#[test]
fn a_cancel_ends_a_call_that_waits_for_its_prack() {
    let invite = Msg::invite().line("Require: 100rel");
    let (mut bench, ..) = reliable(&invite, ANSWER);
    bench.receive(invite.hop("CANCEL", None).text());
    bench.response(200);
    bench.response(487);
    assert_eq!(bench.ended(), "Cancelled");
    bench.wait_secs(33);
    assert_eq!(bench.endpoint.counts().calls, 0);
}

#[test]
fn support_alone_gets_a_plain_200() {
    let mut bench = Bench::new();
    let call = bench.incoming(&Msg::invite().line("Supported: 100rel"));
    bench
        .endpoint
        .answer(bench.now, call, ANSWER.into())
        .unwrap();
    assert_eq!(bench.response(200).body, ANSWER);
}
