//! Offers inside a call: re-INVITE (RFC 3261 section 14) and UPDATE (RFC 3311).

use aftertone::sip::endpoint::CommandError;
use aftertone::sip::endpoint::Event;
use aftertone::sip::endpoint::OfferId;
use aftertone::sip::message::StatusCode;

use crate::bench::Bench;
use crate::bench::Msg;
use crate::bench::header;
use crate::bench::reply;

fn offered(bench: &mut Bench) -> (OfferId, Option<Vec<u8>>) {
    match bench.event() {
        Event::Offer { id, offer, .. } => (id, offer.map(|offer| offer.to_vec())),
        other => panic!("expected an offer, got {other:?}"),
    }
}

#[test]
fn a_reinvite_is_answered_and_moves_the_target() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let (call, tag) = bench.established(&invite);
    let mut again = invite.in_dialog("INVITE", 2, &tag).body("v=0 hold");
    again.contact = Some("<sip:alice@10.0.0.9:5099>".into());
    bench.receive(again.text());
    bench.response(100);
    let (id, offer) = offered(&mut bench);
    assert_eq!(offer.unwrap(), b"v=0 hold");
    bench
        .endpoint
        .accept_offer(bench.now, call, id, "v=0 held".into())
        .unwrap();
    assert_eq!(bench.response(200).body, "v=0 held");
    assert_eq!(
        bench
            .endpoint
            .accept_offer(bench.now, call, id, "again".into()),
        Err(CommandError::WrongState)
    );
    bench.receive(invite.in_dialog("ACK", 2, &tag).text());
    assert!(bench.events.is_empty());
    bench.endpoint.bye(bench.now, call, None).unwrap();
    assert_eq!(
        bench.request("BYE").uri.to_string(),
        "sip:alice@10.0.0.9:5099"
    );
}

#[test]
fn a_reinvite_without_ack_ends_the_call() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let (call, tag) = bench.established(&invite);
    bench.receive(invite.in_dialog("INVITE", 2, &tag).body("v=0 hold").text());
    let (id, _) = offered(&mut bench);
    bench
        .endpoint
        .accept_offer(bench.now, call, id, "v=0 held".into())
        .unwrap();
    bench.wait_secs(32);
    assert_eq!(bench.ended(), "AckTimeout");
}

#[test]
fn a_reinvite_without_offer_gets_ours() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let (call, tag) = bench.established(&invite);
    bench.receive(invite.in_dialog("INVITE", 2, &tag).text());
    let (id, offer) = offered(&mut bench);
    assert!(offer.is_none());
    bench
        .endpoint
        .accept_offer(bench.now, call, id, "v=0 ours".into())
        .unwrap();
    bench.response(100);
    bench.response(200);
    bench.receive(invite.in_dialog("ACK", 2, &tag).body("v=0 theirs").text());
    assert!(
        matches!(bench.event(), Event::Confirmed { answer: Some(answer), .. } if answer == "v=0 theirs")
    );
}

#[test]
fn a_refused_offer_leaves_the_call() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let (call, tag) = bench.established(&invite);
    bench.receive(invite.in_dialog("UPDATE", 2, &tag).body("v=0 odd").text());
    let (id, _) = offered(&mut bench);
    bench
        .endpoint
        .reject_offer(bench.now, call, id, StatusCode::NOT_ACCEPTABLE_HERE)
        .unwrap();
    bench.response(488);
    bench.receive(invite.in_dialog("UPDATE", 3, &tag).body("v=0 even").text());
    let (id, _) = offered(&mut bench);
    bench
        .endpoint
        .accept_offer(bench.now, call, id, "v=0 fine".into())
        .unwrap();
    let ok = bench.response(200);
    assert_eq!(ok.body, "v=0 fine");
    assert!(!header(&ok.headers, "Contact").is_empty());
}

#[test]
fn an_update_without_offer_is_answered_at_once() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let (_, tag) = bench.established(&invite);
    bench.receive(invite.in_dialog("UPDATE", 2, &tag).text());
    assert!(bench.response(200).body.is_empty());
    assert!(bench.events.is_empty());
}

#[test]
fn a_second_offer_before_the_first_is_decided_gets_500_with_retry_after() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let (_, tag) = bench.established(&invite);
    bench.receive(invite.in_dialog("UPDATE", 2, &tag).body("v=0 one").text());
    for (method, cseq) in [("UPDATE", 3), ("INVITE", 4)] {
        bench.receive(invite.in_dialog(method, cseq, &tag).body("v=0 two").text());
        let seconds: u32 = header(&bench.response(500).headers, "Retry-After")
            .parse()
            .unwrap();
        assert!(seconds <= 10);
    }
    // Undecided for 32 s: refused, and the way is free.
    bench.wait_secs(32);
    let refused = std::iter::from_fn(|| bench.take()).any(|(_, _, message)| {
        message.to_bytes().starts_with(b"SIP/2.0 500")
            && message.headers().cseq().unwrap().number == 2
    });
    assert!(refused);
}

#[test]
fn an_offer_that_crosses_ours_gets_491() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let (call, tag) = bench.established(&invite);
    bench
        .endpoint
        .offer(bench.now, call, "v=0 ours".into())
        .unwrap();
    let ours = bench.request("INVITE");
    assert_eq!(
        bench.endpoint.offer(bench.now, call, "v=0 more".into()),
        Err(CommandError::OfferPending)
    );
    bench.receive(
        invite
            .in_dialog("INVITE", 2, &tag)
            .body("v=0 theirs")
            .text(),
    );
    bench.response(491);
    bench.receive(
        invite
            .in_dialog("UPDATE", 3, &tag)
            .body("v=0 theirs")
            .text(),
    );
    bench.response(491);
    bench.receive(reply(
        &ours,
        200,
        "",
        &["Contact: <sip:alice@10.0.0.9:5070>"],
        "v=0 answer",
    ));
    let ack = bench.request("ACK");
    assert_eq!(
        ack.headers.cseq().unwrap().number,
        ours.headers.cseq().unwrap().number
    );
    assert!(
        matches!(bench.event(), Event::OfferAnswered { answer: Ok(Some(answer)), .. } if answer == "v=0 answer")
    );
    // The 200 comes again: so does the ACK.
    bench.receive(reply(
        &ours,
        200,
        "",
        &["Contact: <sip:alice@10.0.0.9:5070>"],
        "v=0 answer",
    ));
    assert_eq!(bench.request("ACK"), ack);
    bench.silence();
}

#[test]
fn a_refusal_of_our_offer_is_told_and_one_with_481_ends_the_call() {
    let mut bench = Bench::new();
    let (call, _) = bench.established(&Msg::invite());
    bench
        .endpoint
        .offer(bench.now, call, "v=0 ours".into())
        .unwrap();
    let ours = bench.request("INVITE");
    bench.receive(reply(&ours, 488, "", &[], ""));
    bench.request("ACK");
    assert!(matches!(
        bench.event(),
        Event::OfferAnswered {
            answer: Err(StatusCode::NOT_ACCEPTABLE_HERE),
            ..
        }
    ));
    bench
        .endpoint
        .offer(bench.now, call, "v=0 again".into())
        .unwrap();
    let ours = bench.request("INVITE");
    bench.receive(reply(&ours, 481, "", &[], ""));
    assert!(matches!(
        bench.event(),
        Event::OfferAnswered {
            answer: Err(StatusCode::CALL_DOES_NOT_EXIST),
            ..
        }
    ));
    assert_eq!(bench.ended(), "PeerGone");
    bench.request("ACK");
    bench.request("BYE");
}

#[test]
fn a_cancelled_reinvite_leaves_the_call() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let (call, tag) = bench.established(&invite);
    let again = invite.in_dialog("INVITE", 2, &tag).body("v=0 hold");
    bench.receive(again.text());
    let (id, _) = offered(&mut bench);
    bench.receive(again.hop("CANCEL", Some(&tag)).text());
    bench.response(100);
    bench.response(200);
    bench.response(487);
    assert_eq!(
        bench
            .endpoint
            .accept_offer(bench.now, call, id, "late".into()),
        Err(CommandError::WrongState)
    );
    assert!(bench.events.is_empty());
}

#[test]
fn a_bye_refuses_the_offer_that_waits() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let (_, tag) = bench.established(&invite);
    bench.receive(invite.in_dialog("INVITE", 2, &tag).body("v=0 hold").text());
    bench.response(100);
    offered(&mut bench);
    bench.receive(invite.in_dialog("BYE", 3, &tag).text());
    bench.response(200);
    assert!(header(&bench.response(487).headers, "CSeq").contains("2 INVITE"));
    assert_eq!(bench.ended(), "ByeReceived");
}

#[test]
fn a_reinvite_shows_that_the_200_arrived() {
    let mut bench = Bench::new();
    let invite = Msg::invite();
    let call = bench.incoming(&invite);
    bench
        .endpoint
        .answer(bench.now, call, "v=0 answer".into())
        .unwrap();
    let tag = crate::bench::to_tag(&bench.response(200));
    bench.receive(invite.in_dialog("INVITE", 2, &tag).body("v=0 hold").text());
    bench.response(100);
    assert!(matches!(bench.event(), Event::Accepted { .. }));
    assert!(matches!(bench.event(), Event::Confirmed { .. }));
    offered(&mut bench);
    bench.wait_secs(10);
    bench.silence();
}

#[test]
fn a_reinvite_that_gets_no_final_response_is_given_up() {
    // After the end of the call nobody waits for it …
    let mut bench = Bench::new();
    let (call, _) = bench.established(&Msg::invite());
    bench.wait_secs(32);
    bench
        .endpoint
        .offer(bench.now, call, "v=0 ours".into())
        .unwrap();
    let ours = bench.request("INVITE");
    bench.receive(reply(&ours, 100, "", &[], ""));
    bench.endpoint.bye(bench.now, call, None).unwrap();
    let bye = bench.request("BYE");
    bench.receive(reply(&bye, 200, "", &[], ""));
    bench.wait_secs(33);
    assert!(bench.endpoint.is_idle());
    // … and while the call stands, not for ever.
    let mut bench = Bench::new();
    let (call, _) = bench.established(&Msg::invite());
    bench
        .endpoint
        .offer(bench.now, call, "v=0 ours".into())
        .unwrap();
    let ours = bench.request("INVITE");
    bench.receive(reply(&ours, 100, "", &[], ""));
    bench.wait_secs(180);
    assert!(matches!(
        bench.event(),
        Event::OfferAnswered { answer: Err(_), .. }
    ));
    assert_eq!(bench.ended(), "PeerGone");
}
