//! Incoming calls (RFC 3261 sections 9, 13 and 15).

use std::time::Duration;

use aftertone::sip::endpoint::Event;
use aftertone::sip::header::Reason;
use aftertone::sip::message::StatusCode;
use bytes::Bytes;

use crate::bench::ANSWER;
use crate::bench::Bench;
use crate::bench::Msg;
use crate::bench::OFFER;
use crate::bench::header;
use crate::bench::tcp;
use crate::bench::to_tag;

#[test]
fn a_call_is_answered_and_hung_up_by_the_caller() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let call = bench.incoming(&invite);
    bench
        .endpoint
        .answer(bench.now, call, ANSWER.into())
        .unwrap();
    let ok = bench.response(200);
    assert_eq!(ok.body, ANSWER);
    assert_eq!(
        header(&ok.headers, "Contact"),
        "<sip:voicemail@10.0.0.1:5060>"
    );
    assert_eq!(header(&ok.headers, "Content-Type"), "application/sdp");
    let tag = to_tag(&ok);
    bench.receive(invite.in_dialog("ACK", 1, &tag).text());
    assert!(matches!(bench.event(), Event::Accepted { .. }));
    assert!(matches!(
        bench.event(),
        Event::Confirmed { answer: None, .. }
    ));
    bench.receive(invite.in_dialog("BYE", 2, &tag).text());
    bench.response(200);
    assert_eq!(bench.ended(), "ByeReceived");
    bench.wait_secs(40);
    bench.silence();
    assert!(bench.endpoint.is_idle());
}

#[test]
fn a_call_that_is_up_keeps_nothing_of_the_datagram_that_it_came_in() {
    let mut bench = Bench::new();
    let invite = Msg::invite().line("Record-Route: <sip:10.0.0.9;lr>");
    let datagram = Bytes::from(invite.text());
    bench
        .endpoint
        .handle_datagram(bench.now, bench.flow, &datagram);
    bench.response(100);
    let Event::Incoming { call, .. } = bench.event() else {
        panic!("expected a call")
    };
    assert!(!datagram.is_unique(), "the 200 mirrors it");
    bench
        .endpoint
        .answer(bench.now, call, ANSWER.into())
        .unwrap();
    let tag = to_tag(&bench.response(200));
    assert!(datagram.is_unique());
    bench.receive(invite.in_dialog("BYE", 2, &tag).text());
    bench.response(200);
}

#[test]
fn the_200_is_repeated_until_the_ack_also_over_tcp() {
    for flow in [Bench::new().flow, tcp("10.0.0.9:40000", 1)] {
        let mut bench = Bench::new();
        bench.flow = flow;
        let call = bench.incoming(&Msg::invite());
        let since = bench.now;
        bench
            .endpoint
            .answer(bench.now, call, ANSWER.into())
            .unwrap();
        bench.wait_secs(31);
        let times = bench.times(since, "SIP/2.0 200");
        assert_eq!(
            times,
            [0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500]
        );
        bench.wait_secs(1);
        bench.collect();
        assert!(matches!(bench.event(), Event::Accepted { .. }));
        assert_eq!(bench.ended(), "AckTimeout");
        let bye = loop {
            let (_, _, message) = bench.take().expect("a BYE");
            if let aftertone::sip::message::Message::Request(request) = message {
                break request;
            }
        };
        assert_eq!(bye.method.as_str(), "BYE");
    }
}

#[test]
fn a_cancel_gets_200_and_the_invite_487() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    bench.incoming(&invite);
    bench.receive(invite.hop("CANCEL", None).text());
    let cancelled = bench.response(200);
    assert!(header(&cancelled.headers, "CSeq").contains("CANCEL"));
    let terminated = bench.response(487);
    assert_eq!(to_tag(&cancelled), to_tag(&terminated));
    assert_eq!(bench.ended(), "Cancelled");
    bench.receive(invite.hop("CANCEL", None).text());
    bench.response(200);
    bench.receive(invite.hop("ACK", Some(&to_tag(&terminated))).text());
    bench.wait_secs(40);
    bench.silence();
    assert!(bench.endpoint.is_idle());
}

#[test]
fn a_cancel_that_crosses_the_200_changes_nothing() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let call = bench.incoming(&invite);
    bench
        .endpoint
        .answer(bench.now, call, ANSWER.into())
        .unwrap();
    let tag = to_tag(&bench.response(200));
    bench.receive(invite.hop("CANCEL", None).text());
    bench.response(200);
    bench.receive(invite.in_dialog("ACK", 1, &tag).text());
    assert!(matches!(bench.event(), Event::Accepted { .. }));
    assert!(matches!(bench.event(), Event::Confirmed { .. }));
    assert!(bench.events.is_empty());
}

#[test]
fn a_bye_before_the_answer_ends_the_invite_with_487() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let call = bench.incoming(&invite);
    bench
        .endpoint
        .progress(bench.now, call, StatusCode::RINGING)
        .unwrap();
    let tag = to_tag(&bench.response(180));
    bench.receive(invite.in_dialog("BYE", 2, &tag).text());
    bench.response(200);
    assert!(header(&bench.response(487).headers, "CSeq").contains("INVITE"));
    assert_eq!(bench.ended(), "Cancelled");
}

#[test]
fn our_bye_waits_for_the_ack_and_bears_the_reason() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let call = bench.incoming(&invite);
    bench
        .endpoint
        .answer(bench.now, call, ANSWER.into())
        .unwrap();
    let tag = to_tag(&bench.response(200));
    bench
        .endpoint
        .bye(bench.now, call, Some(Reason::sip(200, "Message recorded")))
        .unwrap();
    bench.silence();
    assert!(matches!(bench.event(), Event::Accepted { .. }));
    assert_eq!(bench.ended(), "ByeSent");
    assert!(bench.endpoint.bye(bench.now, call, None).is_err());
    bench.receive(invite.in_dialog("ACK", 1, &tag).text());
    let bye = bench.request("BYE");
    assert_eq!(
        header(&bye.headers, "Reason"),
        "SIP;cause=200;text=\"Message recorded\""
    );
    assert_eq!(bye.headers.from().unwrap().tag(), Some(&*tag));
    assert_eq!(bye.headers.to().unwrap().tag(), Some("alice"));
    assert_eq!(bye.uri.to_string(), "sip:alice@10.0.0.9:5070");
    bench.receive(crate::bench::reply(&bye, 200, "", &[], ""));
    bench.wait_secs(40);
    assert!(bench.events.is_empty());
    assert!(bench.endpoint.is_idle());
}

#[test]
fn a_bye_that_crosses_ours_is_answered_200() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let (call, tag) = bench.established(&invite);
    bench.endpoint.bye(bench.now, call, None).unwrap();
    bench.request("BYE");
    bench.receive(invite.in_dialog("BYE", 2, &tag).text());
    bench.response(200);
    assert_eq!(bench.ended(), "ByeSent");
    assert!(bench.events.is_empty());
}

#[test]
fn a_late_offer_is_answered_in_the_ack() {
    let mut bench = Bench::new();
    let invite = Msg::new("INVITE");
    let call = bench.incoming(&invite);
    bench
        .endpoint
        .answer(bench.now, call, OFFER.into())
        .unwrap();
    let tag = to_tag(&bench.response(200));
    bench.receive(invite.in_dialog("ACK", 1, &tag).body(ANSWER).text());
    assert!(matches!(bench.event(), Event::Accepted { .. }));
    assert!(
        matches!(bench.event(), Event::Confirmed { answer: Some(answer), .. } if answer == ANSWER)
    );
}

#[test]
fn an_ack_without_the_answer_ends_the_call() {
    let mut bench = Bench::new();
    let invite = Msg::new("INVITE");
    let call = bench.incoming(&invite);
    bench
        .endpoint
        .answer(bench.now, call, OFFER.into())
        .unwrap();
    let tag = to_tag(&bench.response(200));
    bench.receive(invite.in_dialog("ACK", 1, &tag).text());
    let reason = header(&bench.request("BYE").headers, "Reason");
    assert_eq!(reason, "SIP;cause=488;text=\"no answer to the offer\"");
    assert!(matches!(bench.event(), Event::Accepted { .. }));
    assert_eq!(bench.ended(), "NoAnswer");
}

#[test]
fn a_request_with_an_old_cseq_gets_500() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let (_, tag) = bench.established(&invite);
    bench.receive(invite.in_dialog("INFO", 5, &tag).text());
    bench.response(200);
    bench.receive(invite.in_dialog("INFO", 3, &tag).text());
    bench.response(500);
    bench.receive(invite.in_dialog("BYE", 6, &tag).text());
    bench.response(200);
}

#[test]
fn info_is_answered_and_handed_on() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let (_, tag) = bench.established(&invite);
    let mut info = invite
        .in_dialog("INFO", 2, &tag)
        .line("Content-Type: application/dtmf-relay");
    info.body = "Signal=5".into();
    bench.receive(info.text());
    bench.response(200);
    let Event::Info {
        content_type, body, ..
    } = bench.event()
    else {
        panic!("no INFO")
    };
    assert_eq!(
        (&*content_type, &body[..]),
        ("application/dtmf-relay", &b"Signal=5"[..])
    );
}

#[test]
fn an_info_that_is_not_understood_gets_415_and_leaves_the_call() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let (_, tag) = bench.established(&invite);
    let mut info = invite
        .in_dialog("INFO", 2, &tag)
        .line("Content-Type: application/media_control+xml");
    info.body = "<media_control/>".into();
    bench.receive(info.text());
    let refused = bench.response(415);
    assert_eq!(
        header(&refused.headers, "Accept"),
        "application/dtmf-relay, application/dtmf"
    );
    // Some ask so whether the call is still there.
    bench.receive(invite.in_dialog("INFO", 3, &tag).text());
    bench.response(200);
}

#[test]
fn an_undecided_call_is_refused_in_the_end() {
    let mut bench = Bench::new();
    bench.incoming(&Msg::invite());
    bench.wait_secs(180);
    bench.response(480);
    assert_eq!(bench.ended(), "NotDecided");
    let mut bench = Bench::new();
    bench.incoming(&Msg::invite().line("Expires: 20"));
    bench.wait(Duration::from_millis(19_999));
    bench.silence();
    bench.wait(Duration::from_millis(1));
    bench.response(487);
    assert_eq!(bench.ended(), "Cancelled");
}

#[test]
fn a_session_id_gets_its_other_half() {
    let mut bench = Bench::new();
    let theirs = "ab30317f1a784dc48ff824d0d3715d86";
    let invite = Msg::invite().line(&format!(
        "Session-ID: {theirs};remote=00000000000000000000000000000000"
    ));
    let call = bench.incoming(&invite);
    bench
        .endpoint
        .answer(bench.now, call, ANSWER.into())
        .unwrap();
    let id = header(&bench.response(200).headers, "Session-ID");
    let (ours, remote) = id.split_once(";remote=").unwrap();
    assert_eq!((ours.len(), remote), (32, theirs));
}

#[test]
fn a_rejection_bears_its_headers_and_is_acknowledged() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let call = bench.incoming(&invite);
    let headers = vec![("Retry-After".into(), "30".into())];
    bench
        .endpoint
        .reject(bench.now, call, StatusCode::SERVICE_UNAVAILABLE, headers)
        .unwrap();
    let response = bench.response(503);
    assert_eq!(header(&response.headers, "Retry-After"), "30");
    assert_eq!(bench.ended(), "Rejected");
    bench.wait(Duration::from_millis(500));
    bench.response(503);
    bench.receive(invite.hop("ACK", Some(&to_tag(&response))).text());
    bench.wait_secs(6);
    bench.silence();
    assert!(bench.endpoint.is_idle());
}
