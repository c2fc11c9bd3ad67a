//! Outgoing calls (RFC 3261 sections 9.1, 13.2 and 17.1.1).

use aftertone::sip::endpoint::CallHandle;
use aftertone::sip::endpoint::CommandError;
use aftertone::sip::endpoint::Config;
use aftertone::sip::endpoint::DialogEnd;
use aftertone::sip::endpoint::Event;
use aftertone::sip::endpoint::OutgoingRequest;
use aftertone::sip::message::Request;
use aftertone::sip::message::Uri;

use crate::bench::ANSWER;
use crate::bench::Bench;
use crate::bench::OFFER;
use crate::bench::config;
use crate::bench::header;
use crate::bench::reply;

const CONTACT: &str = "Contact: <sip:bob@10.0.0.9:5070>";

fn to_bob(offer: Option<&'static str>) -> OutgoingRequest {
    OutgoingRequest::new(
        Uri::parse("sip:bob@10.0.0.9").unwrap(),
        offer.map(Into::into),
    )
}

fn calling(bench: &mut Bench, request: OutgoingRequest) -> (CallHandle, Request) {
    let call = bench.endpoint.call(bench.now, request).unwrap();
    (call, bench.request("INVITE"))
}

#[test]
fn an_invite_has_what_it_needs_and_is_repeated_until_timer_b() {
    let mut bench = Bench::new();
    let since = bench.now;
    let (_, invite) = calling(&mut bench, to_bob(Some(OFFER)));
    assert_eq!(
        header(&invite.headers, "Contact"),
        "<sip:voicemail@10.0.0.1:5060>"
    );
    assert_eq!(header(&invite.headers, "Max-Forwards"), "70");
    assert_eq!(header(&invite.headers, "To"), "<sip:bob@10.0.0.9>");
    assert!(header(&invite.headers, "Via").starts_with("SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK"));
    bench.wait_secs(31);
    assert_eq!(bench.times(since, "INVITE"), [500, 1500, 3500, 7500, 15500]);
    bench.wait_secs(1);
    assert_eq!(bench.ended(), "Timeout");
    assert!(bench.endpoint.is_idle());
}

#[test]
fn ringing_answer_ack_and_hang_up() {
    let mut bench = Bench::new();
    let (call, invite) = calling(&mut bench, to_bob(Some(OFFER)));
    bench.receive(reply(&invite, 100, "", &[], ""));
    bench.receive(reply(&invite, 180, "b", &[CONTACT], ""));
    for expected in [100, 180] {
        let Event::Progress { status, .. } = bench.event() else {
            panic!("no progress")
        };
        assert_eq!(status.code(), expected);
    }
    bench.receive(reply(&invite, 200, "b", &[CONTACT], ANSWER));
    let ack = bench.request("ACK");
    assert_eq!(
        (ack.uri.to_string(), header(&ack.headers, "CSeq")),
        ("sip:bob@10.0.0.9:5070".into(), "1 ACK".into())
    );
    assert_ne!(
        header(&ack.headers, "Via"),
        header(&invite.headers, "Via"),
        "a branch of its own"
    );
    let Event::Answered {
        description,
        offer_made: true,
        ..
    } = bench.event()
    else {
        panic!("not answered")
    };
    assert_eq!(description.unwrap(), ANSWER);
    bench.receive(reply(&invite, 200, "b", &[CONTACT], ANSWER));
    assert_eq!(bench.request("ACK"), ack, "the same again");
    bench.endpoint.bye(bench.now, call, None).unwrap();
    let bye = bench.request("BYE");
    assert_eq!(header(&bye.headers, "CSeq"), "2 BYE");
    bench.receive(reply(&bye, 200, "", &[], ""));
    assert_eq!(bench.ended(), "ByeSent");
    bench.wait_secs(40);
    assert!(bench.endpoint.is_idle());
}

#[test]
fn a_refusal_is_acknowledged_and_told() {
    let mut bench = Bench::new();
    let (_, invite) = calling(&mut bench, to_bob(Some(OFFER)));
    bench.receive(reply(&invite, 486, "b", &["Retry-After: 9"], ""));
    let ack = bench.request("ACK");
    assert_eq!(
        header(&ack.headers, "Via"),
        header(&invite.headers, "Via"),
        "hop by hop"
    );
    assert_eq!(ack.headers.to().unwrap().tag(), Some("b"));
    assert_eq!(ack.uri, invite.uri);
    let Event::Ended {
        end: DialogEnd::Refused(response),
        ..
    } = bench.event()
    else {
        panic!("not refused")
    };
    assert_eq!(
        (response.status.code(), response.headers.retry_after()),
        (486, Some(9))
    );
    bench.receive(reply(&invite, 486, "b", &[], ""));
    assert_eq!(bench.request("ACK"), ack);
    assert!(bench.events.is_empty());
}

#[test]
fn a_cancel_waits_for_the_first_provisional_response() {
    let mut bench = Bench::new();
    let (call, invite) = calling(&mut bench, to_bob(Some(OFFER)));
    bench.endpoint.bye(bench.now, call, None).unwrap();
    bench.silence();
    bench.receive(reply(&invite, 100, "", &[], ""));
    let cancel = bench.request("CANCEL");
    bench.event();
    assert_eq!(
        header(&cancel.headers, "Via"),
        header(&invite.headers, "Via")
    );
    assert_eq!(header(&cancel.headers, "CSeq"), "1 CANCEL");
    bench.receive(reply(&cancel, 200, "b", &[], ""));
    bench.receive(reply(&invite, 487, "b", &[], ""));
    bench.request("ACK");
    assert_eq!(bench.ended(), "Cancelled");
}

#[test]
fn an_answer_that_crosses_the_cancel_is_hung_up() {
    let mut bench = Bench::new();
    let (call, invite) = calling(&mut bench, to_bob(Some(OFFER)));
    bench.receive(reply(&invite, 180, "b", &[CONTACT], ""));
    bench.event();
    bench.endpoint.bye(bench.now, call, None).unwrap();
    bench.request("CANCEL");
    bench.receive(reply(&invite, 200, "b", &[CONTACT], ANSWER));
    bench.request("ACK");
    bench.request("BYE");
    assert_eq!(bench.ended(), "Cancelled");
    assert!(bench.events.is_empty());
}

#[test]
fn a_cancelled_invite_without_final_response_is_given_up() {
    let mut bench = Bench::new();
    let (call, invite) = calling(&mut bench, to_bob(Some(OFFER)));
    bench.receive(reply(&invite, 180, "b", &[CONTACT], ""));
    bench.event();
    bench.endpoint.bye(bench.now, call, None).unwrap();
    bench.wait_secs(32);
    assert_eq!(bench.ended(), "Cancelled");
}

#[test]
fn it_does_not_ring_for_ever() {
    let mut bench = Bench::new();
    let (_, invite) = calling(&mut bench, to_bob(Some(OFFER)));
    bench.receive(reply(&invite, 180, "b", &[CONTACT], ""));
    bench.event();
    bench.wait_secs(180);
    bench.request("CANCEL");
}

#[test]
fn a_second_fork_that_answers_is_acknowledged_and_hung_up() {
    let mut bench = Bench::new();
    let (_, invite) = calling(&mut bench, to_bob(Some(OFFER)));
    bench.receive(reply(&invite, 200, "b", &[CONTACT], ANSWER));
    bench.request("ACK");
    bench.event();
    bench.receive(reply(
        &invite,
        200,
        "c",
        &["Contact: <sip:carol@10.0.0.9:5080>"],
        ANSWER,
    ));
    let ack = bench.request("ACK");
    let bye = bench.request("BYE");
    for request in [&ack, &bye] {
        assert_eq!(request.headers.to().unwrap().tag(), Some("c"));
        assert_eq!(request.uri.to_string(), "sip:carol@10.0.0.9:5080");
    }
    assert!(bench.events.is_empty());
}

#[test]
fn reliable_responses_are_acknowledged_in_order_and_once() {
    let mut bench = Bench::new();
    let mut request = to_bob(Some(OFFER));
    request.require_reliable = true;
    let (_, invite) = calling(&mut bench, request);
    assert_eq!(
        (
            header(&invite.headers, "Require"),
            header(&invite.headers, "Supported")
        ),
        ("100rel".into(), "100rel, timer".into())
    );
    let reliable = |rseq: &str| {
        reply(
            &invite,
            183,
            "b",
            &[CONTACT, "Require: 100rel", rseq],
            ANSWER,
        )
    };
    bench.receive(reliable("RSeq: 40"));
    let prack = bench.request("PRACK");
    assert_eq!(header(&prack.headers, "RAck"), "40 1 INVITE");
    assert_eq!(header(&prack.headers, "CSeq"), "2 PRACK");
    assert!(matches!(
        bench.event(),
        Event::Progress {
            description: Some(_),
            ..
        }
    ));
    bench.receive(reliable("RSeq: 40"));
    bench.receive(reliable("RSeq: 42"));
    bench.silence();
    bench.receive(reliable("RSeq: 41"));
    assert_eq!(header(&bench.request("PRACK").headers, "CSeq"), "3 PRACK");
    bench.receive(reply(&invite, 200, "b", &[CONTACT], ""));
    assert_eq!(header(&bench.request("ACK").headers, "CSeq"), "1 ACK");
    bench.event();
    let Event::Answered { call, .. } = bench.event() else {
        panic!("not answered")
    };
    bench.endpoint.bye(bench.now, call, None).unwrap();
    assert_eq!(header(&bench.request("BYE").headers, "CSeq"), "4 BYE");
}

#[test]
fn an_invite_without_offer_is_answered_in_the_ack() {
    let mut bench = Bench::new();
    let (call, invite) = calling(&mut bench, to_bob(None));
    assert!(invite.body.is_empty());
    bench.receive(reply(&invite, 200, "b", &[CONTACT], OFFER));
    bench.silence();
    let Event::Answered {
        description,
        offer_made: false,
        ..
    } = bench.event()
    else {
        panic!("not answered")
    };
    assert_eq!(description.unwrap(), OFFER);
    bench
        .endpoint
        .acknowledge(bench.now, call, ANSWER.into())
        .unwrap();
    assert_eq!(bench.request("ACK").body, ANSWER);
    assert_eq!(
        bench.endpoint.acknowledge(bench.now, call, ANSWER.into()),
        Err(CommandError::WrongState)
    );
}

#[test]
fn an_offer_that_is_never_answered_is_acknowledged_and_hung_up() {
    let mut bench = Bench::new();
    let (_, invite) = calling(&mut bench, to_bob(None));
    bench.receive(reply(&invite, 200, "b", &[CONTACT], OFFER));
    bench.event();
    bench.wait_secs(32);
    bench.request("ACK");
    bench.request("BYE");
    assert_eq!(bench.ended(), "NotDecided");
}

#[test]
fn the_peer_may_hang_up() {
    let mut bench = Bench::new();
    let (_, invite) = calling(&mut bench, to_bob(Some(OFFER)));
    bench.receive(reply(&invite, 200, "b", &[CONTACT], ANSWER));
    bench.request("ACK");
    bench.event();
    let tag = |value: &str| header(&invite.headers, value);
    let bye = format!(
        "BYE sip:voicemail@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.9;branch=z9hG4bKbye\r\nFrom: <sip:bob@10.0.0.9>;tag=b\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n",
        tag("From"),
        tag("Call-ID")
    );
    bench.receive(bye);
    bench.response(200);
    assert_eq!(bench.ended(), "ByeReceived");
}

#[test]
fn calls_are_bounded() {
    let mut bench = Bench::with(Config {
        max_calls: 1,
        ..config()
    });
    calling(&mut bench, to_bob(Some(OFFER)));
    assert_eq!(
        bench.endpoint.call(bench.now, to_bob(None)),
        Err(CommandError::Full)
    );
}
