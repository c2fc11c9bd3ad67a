//! Which messages belong together (RFC 3261 sections 17.1.3 and 17.2.3), and what comes of repetitions.

use aftertone::sip::endpoint::Event;
use aftertone::sip::endpoint::Output;
use aftertone::sip::message::StatusCode;

use crate::bench::ANSWER;
use crate::bench::Bench;
use crate::bench::Msg;
use crate::bench::header;
use crate::bench::to_tag;

#[test]
fn a_repeated_invite_gets_the_last_response_again() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let call = bench.incoming(&invite);
    bench.receive(invite.text());
    bench.response(100);
    bench
        .endpoint
        .progress(bench.now, call, StatusCode::RINGING)
        .unwrap();
    bench.response(180);
    bench.receive(invite.text());
    bench.response(180);
    bench
        .endpoint
        .answer(bench.now, call, ANSWER.into())
        .unwrap();
    bench.response(200);
    bench.receive(invite.text());
    bench.silence();
    assert!(matches!(bench.event(), Event::Accepted { .. }));
    assert!(bench.events.is_empty(), "one call");
}

#[test]
fn a_repeated_request_gets_the_same_response_for_32_seconds() {
    let mut bench = Bench::new();
    let options = Msg::new("OPTIONS");
    bench.receive(options.text());
    let first = bench.response(200);
    bench.wait_secs(31);
    bench.receive(options.text());
    assert_eq!(bench.response(200), first);
    bench.wait_secs(1);
    assert!(bench.endpoint.is_idle());
}

#[test]
fn a_failure_is_repeated_until_its_ack_or_timer_h() {
    let mut bench = Bench::new();
    let call = bench.incoming(&Msg::invite());
    let since = bench.now;
    bench
        .endpoint
        .reject(bench.now, call, StatusCode::BUSY_HERE, Vec::new())
        .unwrap();
    bench.wait_secs(60);
    let times = bench.times(since, "SIP/2.0 486");
    assert_eq!(
        times,
        [
            0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500
        ]
    );
    assert!(bench.counted.contains(&"ack_to_failure_missing"));
    assert!(bench.endpoint.is_idle());
}

#[test]
fn the_sent_by_tells_transactions_apart() {
    let mut bench = Bench::new();
    bench.receive(
        Msg::new("OPTIONS")
            .via("SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bKsame")
            .text(),
    );
    bench.receive(
        Msg::new("OPTIONS")
            .via("SIP/2.0/UDP 10.0.0.8:5060;branch=z9hG4bKsame")
            .call_id("other")
            .text(),
    );
    bench.receive(
        Msg::new("OPTIONS")
            .via("SIP/2.0/UDP 10.0.0.9:5061;branch=z9hG4bKsame")
            .call_id("third")
            .text(),
    );
    assert_eq!(bench.endpoint.counts().server_transactions, 3);
}

#[test]
fn callers_of_rfc_2543_are_matched_without_a_branch() {
    for branch in ["", ";branch=1", ";branch=z9hG4bK"] {
        let mut bench = Bench::new();
        let invite = Msg::invite().via(&format!("SIP/2.0/UDP 10.0.0.9:5060{branch}"));
        let call = bench.incoming(&invite);
        bench.receive(invite.text());
        bench.response(100);
        bench
            .endpoint
            .reject(bench.now, call, StatusCode::NOT_FOUND, Vec::new())
            .unwrap();
        let tag = to_tag(&bench.response(404));
        bench.receive(invite.hop("ACK", Some(&tag)).text());
        bench.wait_secs(5);
        bench.silence();
        assert!(bench.endpoint.is_idle(), "{branch}");
        // Another CSeq is another transaction.
        bench.receive(invite.clone().cseq(2).text());
        bench.response(100);
        bench.receive(invite.clone().cseq(2).hop("CANCEL", None).text());
        bench.response(200);
        bench.response(487);
    }
}

#[test]
fn a_caller_of_rfc_2543_acknowledges_the_200_with_the_same_via() {
    let mut bench = Bench::new();
    let invite = Msg::invite().via("SIP/2.0/UDP 10.0.0.9:5060");
    let call = bench.incoming(&invite);
    bench
        .endpoint
        .answer(bench.now, call, ANSWER.into())
        .unwrap();
    let tag = to_tag(&bench.response(200));
    bench.receive(invite.hop("ACK", Some(&tag)).text());
    assert!(matches!(bench.event(), Event::Accepted { .. }));
    assert!(matches!(bench.event(), Event::Confirmed { .. }));
}

#[test]
fn a_caller_of_rfc_2543_may_do_without_contact_and_is_found_by_his_from() {
    let mut bench = Bench::new();
    let mut invite = Msg::invite().via("SIP/2.0/UDP 10.0.0.9");
    invite.contact = None;
    let (call, _) = bench.established(&invite);
    bench.endpoint.bye(bench.now, call, None).unwrap();
    bench.collect();
    let Some(Output::Resolve { target, .. }) = bench.asked.pop_front() else {
        panic!("the BYE must go somewhere")
    };
    assert_eq!(target.host, "a.example");
}

#[test]
fn responses_that_belong_to_nothing_are_dropped() {
    let mut bench = Bench::new();
    let stray = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKstray\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
    bench.receive(stray);
    bench.silence();
    assert_eq!(bench.counted, ["response_unmatched"]);
}

#[test]
fn a_dialog_is_known_by_both_tags_and_the_call_id() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let (_, tag) = bench.established(&invite);
    bench.receive(invite.in_dialog("INFO", 2, &tag).call_id("other").text());
    bench.response(481);
    let other_tag = invite
        .in_dialog("INFO", 3, &tag)
        .text()
        .replace("tag=alice", "tag=mallory");
    bench.receive(other_tag);
    bench.response(481);
    bench.receive(invite.in_dialog("INFO", 4, &tag).text());
    assert!(header(&bench.response(200).headers, "CSeq").contains("4 INFO"));
}
