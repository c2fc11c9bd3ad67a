//! Session timers (RFC 4028).

use std::time::Duration;

use aftertone::sip::endpoint::Event;
use aftertone::sip::endpoint::OutgoingRequest;
use aftertone::sip::message::Uri;

use crate::bench::ANSWER;
use crate::bench::Bench;
use crate::bench::Msg;
use crate::bench::OFFER;
use crate::bench::header;
use crate::bench::reply;

fn answered(invite: &Msg) -> (Bench, aftertone::sip::message::Response) {
    let mut bench = Bench::new();
    let call = bench.incoming(invite);
    bench
        .endpoint
        .answer(bench.now, call, ANSWER.into())
        .unwrap();
    let ok = bench.response(200);
    bench.receive(
        invite
            .in_dialog("ACK", 1, &crate::bench::to_tag(&ok))
            .text(),
    );
    bench.event();
    bench.event();
    (bench, ok)
}

#[test]
fn too_small_an_interval_gets_422_with_min_se() {
    let mut bench = Bench::new();
    bench.receive(
        Msg::invite()
            .line("Supported: timer")
            .line("Session-Expires: 60")
            .text(),
    );
    assert_eq!(header(&bench.response(422).headers, "Min-SE"), "90");
}

#[test]
fn the_200_names_interval_and_refresher() {
    let (_, ok) = answered(
        &Msg::invite()
            .line("Supported: timer")
            .line("Session-Expires: 3600;refresher=uac"),
    );
    assert_eq!(header(&ok.headers, "Session-Expires"), "1800;refresher=uac");
    assert_eq!(header(&ok.headers, "Require"), "timer");
    let (_, ok) = answered(&Msg::invite().line("x: 600"));
    assert_eq!(header(&ok.headers, "Session-Expires"), "600;refresher=uas");
    assert_eq!(header(&ok.headers, "Require"), "");
    let (_, ok) = answered(&Msg::invite());
    assert_eq!(header(&ok.headers, "Session-Expires"), "");
}

#[test]
fn a_session_that_the_caller_does_not_refresh_ends() {
    let invite = Msg::invite()
        .line("Supported: timer")
        .line("Session-Expires: 90;refresher=uac");
    let (mut bench, ok) = answered(&invite);
    bench.wait_secs(50);
    let tag = crate::bench::to_tag(&ok);
    bench.receive(
        invite
            .in_dialog("UPDATE", 2, &tag)
            .line("Supported: timer")
            .line("Session-Expires: 90;refresher=uac")
            .text(),
    );
    let refreshed = bench.response(200);
    assert_eq!(
        header(&refreshed.headers, "Session-Expires"),
        "90;refresher=uac"
    );
    bench.wait(Duration::from_millis(59_999));
    bench.silence();
    bench.wait(Duration::from_millis(1));
    assert_eq!(bench.ended(), "SessionExpired");
    let reason = header(&bench.request("BYE").headers, "Reason");
    assert_eq!(reason, "SIP;cause=408;text=\"session expired\"");
}

#[test]
fn we_refresh_by_update_where_the_caller_takes_it() {
    let invite = Msg::invite()
        .line("Supported: timer")
        .line("Allow: INVITE, ACK, UPDATE")
        .line("Session-Expires: 120;refresher=uas");
    let (mut bench, _) = answered(&invite);
    bench.wait_secs(60);
    let update = bench.request("UPDATE");
    assert!(update.body.is_empty());
    assert_eq!(
        header(&update.headers, "Session-Expires"),
        "120;refresher=uac"
    );
    bench.receive(reply(
        &update,
        200,
        "",
        &["Session-Expires: 120;refresher=uac", "Require: timer"],
        "",
    ));
    bench.wait_secs(60);
    bench.request("UPDATE");
    assert!(bench.events.is_empty());
}

#[test]
fn we_refresh_by_reinvite_where_the_caller_knows_no_update() {
    let invite = Msg::invite()
        .line("Supported: timer")
        .line("Session-Expires: 120;refresher=uas");
    let (mut bench, _) = answered(&invite);
    bench.wait_secs(60);
    let again = bench.request("INVITE");
    assert_eq!(again.body, ANSWER, "the description it knows");
    bench.receive(reply(
        &again,
        200,
        "",
        &[
            "Session-Expires: 120;refresher=uac",
            "Contact: <sip:alice@10.0.0.9>",
        ],
        OFFER,
    ));
    bench.request("ACK");
    bench.wait_secs(59);
    assert!(bench.events.is_empty());
    bench.silence();
}

#[test]
fn a_refused_update_is_followed_by_a_reinvite_and_422_by_a_longer_interval() {
    let invite = Msg::invite()
        .line("Supported: timer")
        .line("Allow: UPDATE")
        .line("Session-Expires: 120;refresher=uas");
    let (mut bench, _) = answered(&invite);
    bench.wait_secs(60);
    let update = bench.request("UPDATE");
    bench.receive(reply(&update, 422, "", &["Min-SE: 600"], ""));
    let longer = bench.request("UPDATE");
    assert_eq!(
        header(&longer.headers, "Session-Expires"),
        "600;refresher=uac"
    );
    assert_eq!(header(&longer.headers, "Min-SE"), "600");
    bench.receive(reply(&longer, 405, "", &[], ""));
    bench.request("INVITE");
}

#[test]
fn a_refresh_that_meets_491_is_tried_again_within_two_seconds() {
    let invite = Msg::invite()
        .line("Supported: timer")
        .line("Allow: UPDATE")
        .line("Session-Expires: 120;refresher=uas");
    let (mut bench, _) = answered(&invite);
    bench.wait_secs(60);
    let update = bench.request("UPDATE");
    bench.receive(reply(&update, 491, "", &[], ""));
    bench.wait_secs(2);
    bench.request("UPDATE");
}

#[test]
fn a_peer_that_lost_the_call_ends_it() {
    for status in [481, 408] {
        let invite = Msg::invite()
            .line("Supported: timer")
            .line("Allow: UPDATE")
            .line("Session-Expires: 120;refresher=uas");
        let (mut bench, _) = answered(&invite);
        bench.wait_secs(60);
        let update = bench.request("UPDATE");
        bench.receive(reply(&update, status, "", &[], ""));
        assert_eq!(bench.ended(), "SessionExpired");
        bench.request("BYE");
    }
}

#[test]
fn our_invite_follows_422() {
    let mut bench = Bench::new();
    let target = Uri::parse("sip:bob@10.0.0.9:5060").unwrap();
    bench
        .endpoint
        .call(bench.now, OutgoingRequest::new(target, Some(OFFER.into())))
        .unwrap();
    let first = bench.request("INVITE");
    assert_eq!(header(&first.headers, "Session-Expires"), "1800");
    bench.receive(reply(&first, 422, "b", &["Min-SE: 3000"], ""));
    bench.request("ACK");
    let second = bench.request("INVITE");
    assert_eq!(header(&second.headers, "Session-Expires"), "3000");
    assert_eq!(header(&second.headers, "Min-SE"), "3000");
    assert_eq!(second.headers.call_id(), first.headers.call_id());
    assert_eq!(
        second.headers.cseq().unwrap().number,
        first.headers.cseq().unwrap().number + 1
    );
    bench.receive(reply(
        &second,
        200,
        "b",
        &[
            "Contact: <sip:bob@10.0.0.9>",
            "Session-Expires: 3000;refresher=uac",
            "Allow: UPDATE",
        ],
        ANSWER,
    ));
    bench.request("ACK");
    assert!(matches!(bench.event(), Event::Answered { .. }));
    bench.wait_secs(1500);
    bench.request("UPDATE");
}
