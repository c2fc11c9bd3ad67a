//! The rows of the routing table, each as a call.

use std::time::Duration;

use crate::sandbox::config::Retargeting;
use crate::sandbox::sip_core::proxy::Config;
use crate::sandbox::sip_core::proxy::tests::bench::{
    ANNA, ANNAS, BJARNE, BJARNES, Bench, ENDPOINT, Invite, Sent, answered, last_response, request,
    to,
};
use crate::sandbox::world::RouteType;
use crate::sip::message::HeaderName;
use crate::sip::message::Request;

/// Bjarne has a phone, and the endpoint by this route; Anna calls him.
fn called(bench: &mut Bench, route_type: RouteType) -> Vec<Sent> {
    bench.register(BJARNE, BJARNES);
    bench.table.add(BJARNE, route_type, ENDPOINT);
    bench.call(&Invite::new("call"))
}

/// An INVITE of the endpoint, from its own address.
fn from_endpoint(id: &str, to: &str, from: &str) -> String {
    format!(
        "INVITE sip:{to}@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{ENDPOINT};branch=z9hG4bK{id}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:{from}@127.0.0.1>;tag=e\r\nTo: <sip:{to}@127.0.0.1>\r\nCall-ID: {id}\r\n\
         CSeq: 1 INVITE\r\nContact: <sip:vm@127.0.0.1:{ENDPOINT}>\r\n\
         P-Asserted-Identity: <sip:{from}@127.0.0.1>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// What the INVITE to the endpoint says of why it comes, by the cause of its history.
fn cause(invite: &Request) -> Option<u16> {
    let history = invite.headers.history();
    assert_eq!(history[0].uri().dialled().unwrap(), BJARNE);
    history.last().unwrap().cause()
}

#[test]
fn fallback_brings_the_endpoint_in_when_the_phone_is_busy_declined_or_cannot_be_reached() {
    for (status, expected) in [
        ("486 Busy Here", 486),
        ("600 Busy Everywhere", 486),
        ("603 Decline", 486),
        ("480 Temporarily Unavailable", 503),
        ("503 Service Unavailable", 503),
    ] {
        let mut bench = Bench::new();
        let sent = called(&mut bench, RouteType::Fallback);
        assert_eq!(to(&sent, ENDPOINT).len(), 0);
        let invite = request(&sent, BJARNES, "INVITE");
        let sent = bench.send(BJARNES, answered(&invite, status, "b"));
        assert_eq!(to(&sent, BJARNES), ["ACK"], "{status}");
        assert_eq!(to(&sent, ANNAS).len(), 0, "{status}");
        let invite = request(&sent, ENDPOINT, "INVITE");
        assert_eq!(
            invite.uri.to_string(),
            "sip:+224799990002@127.0.0.1:7100;user=phone"
        );
        assert_eq!(cause(&invite), Some(expected), "{status}");
        assert_eq!(&invite.body[..], b"v=0\r\n", "the offer is replicated");
        let sent = bench.send(ENDPOINT, answered(&invite, "200 OK", "vm"));
        assert_eq!(to(&sent, ANNAS), ["200"]);
    }
}

#[test]
fn fallback_leaves_other_refusals_to_the_caller() {
    let mut bench = Bench::new();
    let sent = called(&mut bench, RouteType::Fallback);
    let invite = request(&sent, BJARNES, "INVITE");
    let sent = bench.send(BJARNES, answered(&invite, "488 Not Acceptable Here", "b"));
    assert_eq!(to(&sent, ENDPOINT).len(), 0);
    assert_eq!(to(&sent, ANNAS), ["488"]);
}

#[test]
fn fallback_waits_for_the_end_of_the_phones_leg_when_nobody_answers() {
    let mut bench = Bench::new();
    let sent = called(&mut bench, RouteType::Fallback);
    let invite = request(&sent, BJARNES, "INVITE");
    bench.send(BJARNES, answered(&invite, "180 Ringing", "b"));
    let sent = bench.pass(Duration::from_millis(29_999));
    assert_eq!(to(&sent, BJARNES).len(), 0);
    let sent = bench.pass(Duration::from_millis(1));
    let cancel = request(&sent, BJARNES, "CANCEL");
    assert_eq!(to(&sent, ENDPOINT).len(), 0);
    bench.send(BJARNES, answered(&cancel, "200 OK", "b"));
    let sent = bench.send(BJARNES, answered(&invite, "487 Request Terminated", "b"));
    assert_eq!(to(&sent, BJARNES), ["ACK"]);
    assert_eq!(to(&sent, ANNAS).len(), 0);
    assert_eq!(cause(&request(&sent, ENDPOINT, "INVITE")), Some(408));
}

#[test]
fn a_phone_that_answers_in_the_moment_it_is_cancelled_has_the_call() {
    let mut bench = Bench::new();
    let sent = called(&mut bench, RouteType::Fallback);
    let invite = request(&sent, BJARNES, "INVITE");
    bench.send(BJARNES, answered(&invite, "180 Ringing", "b"));
    bench.pass(Duration::from_secs(30));
    let sent = bench.send(BJARNES, answered(&invite, "200 OK", "b"));
    assert_eq!(to(&sent, ANNAS), ["200"]);
    assert_eq!(to(&sent, ENDPOINT).len(), 0);
}

#[test]
fn a_phone_that_says_nothing_is_not_waited_for_longer_than_it_may_ring() {
    let mut bench = Bench::new();
    called(&mut bench, RouteType::Fallback);
    let sent = bench.pass(Duration::from_secs(30));
    assert_eq!(cause(&request(&sent, ENDPOINT, "INVITE")), Some(408));
}

#[test]
fn fallback_brings_the_endpoint_in_at_once_when_no_phone_is_registered() {
    let mut bench = Bench::new();
    bench.table.add(BJARNE, RouteType::Fallback, ENDPOINT);
    let sent = bench.call(&Invite::new("off"));
    assert_eq!(cause(&request(&sent, ENDPOINT, "INVITE")), Some(404));
}

#[test]
fn the_caller_hears_of_the_phone_when_the_endpoint_fails() {
    for (phone, endpoint, expected) in [
        ("486 Busy Here", "503 Service Unavailable", "486"),
        ("486 Busy Here", "404 Not Found", "486"),
        ("603 Decline", "500 Server Error", "603"),
    ] {
        let mut bench = Bench::new();
        let sent = called(&mut bench, RouteType::Fallback);
        let invite = request(&sent, BJARNES, "INVITE");
        let sent = bench.send(BJARNES, answered(&invite, phone, "b"));
        let invite = request(&sent, ENDPOINT, "INVITE");
        let sent = bench.send(ENDPOINT, answered(&invite, endpoint, "vm"));
        assert_eq!(to(&sent, ANNAS), [expected]);
    }
    // The endpoint says nothing at all, and nobody has answered.
    let mut bench = Bench::new();
    called(&mut bench, RouteType::Fallback);
    let sent = bench.pass(Duration::from_secs(63));
    assert_eq!(to(&sent, ANNAS)[0], "480");
}

#[test]
fn a_caller_who_gives_up_is_not_sent_to_voicemail() {
    let mut bench = Bench::new();
    let sent = called(&mut bench, RouteType::Fallback);
    let invite = request(&sent, BJARNES, "INVITE");
    bench.send(BJARNES, answered(&invite, "180 Ringing", "b"));
    bench.send(ANNAS, Invite::new("call").cancel());
    let sent = bench.send(BJARNES, answered(&invite, "487 Request Terminated", "b"));
    assert_eq!(to(&sent, ENDPOINT).len(), 0);
    assert_eq!(to(&sent, ANNAS), ["487"]);
}

#[test]
fn the_way_the_reason_is_told_can_be_chosen() {
    let mut bench = Bench::with(Config {
        retargeting: Retargeting::Diversion,
        ..Config::default()
    });
    bench.table.add(BJARNE, RouteType::Fallback, ENDPOINT);
    let sent = bench.call(&Invite::new("off"));
    let invite = request(&sent, ENDPOINT, "INVITE");
    let diversion = invite.headers.diversions().next().unwrap();
    assert_eq!(diversion.uri().dialled().unwrap(), BJARNE);
    assert_eq!(diversion.reason().unwrap(), "unavailable");
    assert!(!invite.headers.has(&HeaderName::HistoryInfo));
}

#[test]
fn fork_calls_both_and_the_first_answer_wins() {
    for (winner, loser) in [(BJARNES, ENDPOINT), (ENDPOINT, BJARNES)] {
        let mut bench = Bench::new();
        let sent = called(&mut bench, RouteType::Fork);
        let [won, lost] = [winner, loser].map(|port| request(&sent, port, "INVITE"));
        bench.send(loser, answered(&lost, "180 Ringing", "l"));
        let sent = bench.send(winner, answered(&won, "200 OK", "w"));
        assert_eq!(to(&sent, ANNAS), ["200"]);
        assert_eq!(to(&sent, loser), ["CANCEL"]);
    }
}

#[test]
fn fork_reaches_the_endpoint_when_the_phone_is_busy() {
    let mut bench = Bench::new();
    let sent = called(&mut bench, RouteType::Fork);
    let [phone, endpoint] = [BJARNES, ENDPOINT].map(|port| request(&sent, port, "INVITE"));
    let sent = bench.send(BJARNES, answered(&phone, "486 Busy Here", "b"));
    assert_eq!(to(&sent, ANNAS).len(), 0);
    let sent = bench.send(ENDPOINT, answered(&endpoint, "200 OK", "vm"));
    assert_eq!(to(&sent, ANNAS), ["200"]);
}

#[test]
fn loop_calls_the_phone_only_when_the_endpoint_sends_the_call_back() {
    for route_type in [RouteType::Loop, RouteType::LoopMt] {
        let mut bench = Bench::new();
        let sent = called(&mut bench, route_type);
        assert_eq!(to(&sent, BJARNES).len(), 0);
        let leg_2 = request(&sent, ENDPOINT, "INVITE");
        assert_eq!(leg_2.uri.dialled().unwrap(), "+224799990002");
        assert!(
            !leg_2.headers.has(&HeaderName::HistoryInfo),
            "it was not diverted"
        );
        // Leg 3, with the prefix that we put there.
        let sent = bench.send(ENDPOINT, from_endpoint("leg3", "+224799990002", ANNA));
        let leg_4 = request(&sent, BJARNES, "INVITE");
        assert_eq!(leg_4.uri.to_string(), "sip:+4799990002@127.0.0.1:7002");
        let sent = bench.send(BJARNES, answered(&leg_4, "200 OK", "b"));
        assert_eq!(to(&sent, ENDPOINT), ["200"]);
        let sent = bench.send(ENDPOINT, answered(&leg_2, "200 OK", "vm"));
        assert_eq!(to(&sent, ANNAS), ["200"]);
    }
}

#[test]
fn a_looping_endpoint_may_answer_or_reject_instead() {
    for status in ["200 OK", "403 Forbidden"] {
        let mut bench = Bench::new();
        let sent = called(&mut bench, RouteType::Loop);
        let leg_2 = request(&sent, ENDPOINT, "INVITE");
        let sent = bench.send(ENDPOINT, answered(&leg_2, status, "vm"));
        assert_eq!(to(&sent, ANNAS), [&status[..3]]);
        assert_eq!(to(&sent, BJARNES).len(), 0);
    }
}

#[test]
fn a_call_that_was_never_with_the_endpoint_does_not_come_back_from_it() {
    let mut bench = Bench::new();
    bench.register(BJARNE, BJARNES);
    bench.table.add(BJARNE, RouteType::Loop, ENDPOINT);
    let sent = bench.send(ENDPOINT, from_endpoint("leg3", BJARNE, ANNA));
    assert_eq!(last_response(&sent, ENDPOINT).status.code(), 403);
    assert_eq!(to(&sent, BJARNES).len(), 0);
}

#[test]
fn a_loop_whose_endpoint_cannot_be_reached_fails() {
    let mut bench = Bench::new();
    called(&mut bench, RouteType::Loop);
    let sent = bench.pass(Duration::from_secs(33));
    assert_eq!(to(&sent, ANNAS)[0], "408");
    let mut bench = Bench::new();
    let sent = called(&mut bench, RouteType::Loop);
    let leg_2 = request(&sent, ENDPOINT, "INVITE");
    let sent = bench.send(ENDPOINT, answered(&leg_2, "503 Service Unavailable", "vm"));
    assert_eq!(to(&sent, ANNAS), ["500"]);
}

#[test]
fn the_callers_loop_comes_before_that_of_who_is_called() {
    let (annas_endpoint, bjarnes_endpoint) = (ENDPOINT, 7101);
    for route_type in [RouteType::Loop, RouteType::LoopMo] {
        let mut bench = Bench::new();
        bench.register(BJARNE, BJARNES);
        bench.table.add(ANNA, route_type, annas_endpoint);
        bench.table.add(BJARNE, RouteType::LoopMt, bjarnes_endpoint);
        let sent = bench.call(&Invite::new("both"));
        let originating = request(&sent, annas_endpoint, "INVITE");
        assert_eq!(originating.uri.dialled().unwrap(), "+114799990002");
        assert_eq!(to(&sent, bjarnes_endpoint).len(), 0);
        let sent = bench.send(
            annas_endpoint,
            from_endpoint("leg3a", "+114799990002", ANNA),
        );
        let terminating = request(&sent, bjarnes_endpoint, "INVITE");
        assert_eq!(
            terminating.uri.dialled().unwrap(),
            "+114799990002",
            "the caller has a registration too: the originating prefix is used"
        );
        let back = from_endpoint("leg3b", "+4799990002", ANNA).replace("7100", "7101");
        let sent = bench.send(bjarnes_endpoint, back);
        assert_eq!(to(&sent, BJARNES), ["INVITE"]);
    }
}

#[test]
fn loop_mo_is_for_the_numbers_own_calls_and_loop_mt_for_those_to_it() {
    let mut bench = Bench::new();
    let sent = called(&mut bench, RouteType::LoopMo);
    assert_eq!(
        (to(&sent, BJARNES).len(), to(&sent, ENDPOINT).len()),
        (1, 0)
    );
    let mut bench = Bench::new();
    bench.register(BJARNE, BJARNES);
    bench.table.add(ANNA, RouteType::LoopMt, ENDPOINT);
    let sent = bench.call(&Invite::new("mt"));
    assert_eq!(
        (to(&sent, BJARNES).len(), to(&sent, ENDPOINT).len()),
        (1, 0)
    );
}

#[test]
fn ingress_lets_its_endpoint_call_the_number_and_nobody_else() {
    let mut bench = Bench::new();
    bench.register(BJARNE, BJARNES);
    bench.table.add(BJARNE, RouteType::Ingress, ENDPOINT);
    let sent = bench.send(ENDPOINT, from_endpoint("in", BJARNE, "+15551234"));
    let invite = request(&sent, BJARNES, "INVITE");
    let mut identities = invite.headers.addresses(&HeaderName::PAssertedIdentity);
    assert_eq!(
        identities.next().unwrap().uri.dialled().unwrap(),
        "+15551234"
    );
    let sent = bench.send(BJARNES, answered(&invite, "200 OK", "b"));
    assert_eq!(to(&sent, ENDPOINT), ["200"]);
    // Another host is asked for a password.
    let stranger = from_endpoint("str", BJARNE, "+15551234").replace("7100", "7999");
    let sent = bench.send(7999, stranger);
    assert_eq!(to(&sent, 7999), ["407"]);
    // A phone calls as ever.
    let sent = bench.call(&Invite::new("phone"));
    assert_eq!(
        (to(&sent, BJARNES).len(), to(&sent, ENDPOINT).len()),
        (1, 0)
    );
}
