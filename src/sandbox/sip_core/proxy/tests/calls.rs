//! A call through the proxy, as RFC 3261 section 16 wants it.

use std::time::Duration;

use crate::sandbox::sip_core::proxy::tests::bench;
use crate::sandbox::sip_core::proxy::tests::bench::{
    ANNA, ANNAS, BJARNE, BJARNES, Bench, Invite, answered, in_dialog, last_response, request, to,
};
use crate::sip::message::HeaderName;
use crate::sip::message::Request;
use crate::sip::message::Response;

/// Bjarne is registered and called; gives the INVITE that his phone gets.
fn ringing(bench: &mut Bench, invite: &Invite) -> Request {
    bench.register(BJARNE, BJARNES);
    let sent = bench.call(invite);
    assert_eq!(to(&sent, ANNAS), ["100"]);
    request(&sent, BJARNES, "INVITE")
}

/// The call is answered; gives the 200 as the caller gets it.
fn established(bench: &mut Bench) -> Response {
    let invite = ringing(bench, &Invite::new("call"));
    bench.send(BJARNES, answered(&invite, "180 Ringing", "b"));
    let sent = bench.send(BJARNES, answered(&invite, "200 OK", "b"));
    last_response(&sent, ANNAS)
}

#[test]
fn an_invite_goes_on_with_our_via_our_route_one_hop_less_and_a_true_caller() {
    let mut bench = Bench::new();
    let mut call = Invite::new("call");
    call.more = "P-Asserted-Identity: <sip:+4799990099@evil>\r\nRoute: <sip:127.0.0.1:5060;lr>\r\n";
    let invite = ringing(&mut bench, &call);
    assert_eq!(invite.uri.to_string(), "sip:+4799990002@127.0.0.1:7002");
    assert_eq!(invite.headers.max_forwards(), Some(69));
    assert_eq!(invite.headers.via_count(), 2);
    assert_eq!(invite.headers.top_via().unwrap().port, Some(5060));
    let mut identities = invite.headers.addresses(&HeaderName::PAssertedIdentity);
    assert_eq!(identities.next().unwrap().uri.dialled().unwrap(), ANNA);
    assert!(identities.next().is_none());
    assert!(!invite.headers.has(&HeaderName::ProxyAuthorization));
    assert!(!invite.headers.has(&HeaderName::Route));
    let routes: Vec<_> = invite.headers.addresses(&HeaderName::RecordRoute).collect();
    assert_eq!(routes.len(), 1, "both sides are datagrams of one socket");
    assert!(routes[0].uri.params.has("lr"));
}

#[test]
fn responses_come_back_without_our_via_and_every_2xx_does() {
    let mut bench = Bench::new();
    let invite = ringing(&mut bench, &Invite::new("call"));
    let trying = bench.send(BJARNES, answered(&invite, "100 Trying", ""));
    assert_eq!(to(&trying, ANNAS).len(), 0);
    let ringing = bench.send(BJARNES, answered(&invite, "180 Ringing", "b"));
    let response = last_response(&ringing, ANNAS);
    assert_eq!(
        (response.status.code(), response.headers.via_count()),
        (180, 1)
    );
    for _ in 0..3 {
        let sent = bench.send(BJARNES, answered(&invite, "200 OK", "b"));
        assert_eq!(to(&sent, ANNAS), ["200"]);
        assert_eq!(
            to(&sent, BJARNES).len(),
            0,
            "the ACK to a 2xx is the caller's"
        );
    }
}

#[test]
fn ack_and_requests_of_the_dialog_find_their_way_in_both_directions() {
    let mut bench = Bench::new();
    let success = established(&mut bench);
    let sent = bench.send(ANNAS, in_dialog("ACK", 1, &success, ANNAS, true));
    let ack = request(&sent, BJARNES, "ACK");
    assert_eq!(ack.uri.to_string(), "sip:there@127.0.0.1:7002");
    assert!(!ack.headers.has(&HeaderName::Route));
    for (cseq, method) in [(2, "INFO"), (3, "UPDATE"), (4, "PRACK"), (5, "MESSAGE")] {
        let sent = bench.send(ANNAS, in_dialog(method, cseq, &success, ANNAS, true));
        let there = request(&sent, BJARNES, method);
        let sent = bench.send(BJARNES, answered(&there, "200 OK", "b"));
        assert_eq!(to(&sent, ANNAS), ["200"], "{method}");
    }
    let sent = bench.send(BJARNES, in_dialog("BYE", 1, &success, BJARNES, false));
    let bye = request(&sent, ANNAS, "BYE");
    let sent = bench.send(ANNAS, answered(&bye, "200 OK", "f"));
    assert_eq!(to(&sent, BJARNES), ["200"]);
}

#[test]
fn a_strict_router_on_either_side_is_understood() {
    let mut bench = Bench::new();
    let success = established(&mut bench);
    let bye = in_dialog("BYE", 2, &success, ANNAS, true);
    // It has put our Route into the Request-URI, and the target behind the Routes (section 16.4).
    let route = success
        .headers
        .addresses(&HeaderName::RecordRoute)
        .next()
        .unwrap();
    let strict = bye
        .replacen("sip:there@127.0.0.1:7002", &route.uri.to_string(), 1)
        .replacen(
            &format!("Route: {route}"),
            "Route: <sip:there@127.0.0.1:7002>",
            1,
        );
    let there = request(&bench.send(ANNAS, strict), BJARNES, "BYE");
    assert_eq!(there.uri.to_string(), "sip:there@127.0.0.1:7002");
    // One that comes next has its URI in the Request-URI (section 16.6 step 6).
    let next = in_dialog("BYE", 3, &success, ANNAS, true).replacen(
        "From:",
        "Route: <sip:127.0.0.1:7300>\r\nFrom:",
        1,
    );
    let there = request(&bench.send(ANNAS, next), 7300, "BYE");
    assert_eq!(there.uri.to_string(), "sip:127.0.0.1:7300");
    let last = there.headers.addresses(&HeaderName::Route).last().unwrap();
    assert_eq!(last.uri.to_string(), "sip:there@127.0.0.1:7002");
}

#[test]
fn we_are_nobodys_open_relay() {
    let mut bench = Bench::new();
    let success = established(&mut bench);
    let foreign =
        in_dialog("BYE", 2, &success, ANNAS, true).replace("Call-ID: call", "Call-ID: other");
    let sent = bench.send(ANNAS, foreign);
    assert_eq!(last_response(&sent, ANNAS).status.code(), 481);
    assert_eq!(to(&sent, BJARNES).len(), 0);
}

#[test]
fn a_call_is_cancelled_and_everyone_hears_how_it_ended() {
    let mut bench = Bench::new();
    let call = Invite::new("call");
    let invite = ringing(&mut bench, &call);
    bench.send(BJARNES, answered(&invite, "180 Ringing", "b"));
    let sent = bench.send(ANNAS, call.cancel());
    assert_eq!(to(&sent, ANNAS), ["200"]);
    let cancel = request(&sent, BJARNES, "CANCEL");
    assert_eq!(cancel.headers.top_via(), invite.headers.top_via());
    bench.send(BJARNES, answered(&cancel, "200 OK", "b"));
    let sent = bench.send(BJARNES, answered(&invite, "487 Request Terminated", "b"));
    assert_eq!(to(&sent, BJARNES), ["ACK"]);
    assert_eq!(to(&sent, ANNAS), ["487"]);
    bench.send(ANNAS, call.ack());
    bench.pass(Duration::from_secs(64));
    assert_eq!(bench.proxy.counts().contexts, 0);
}

#[test]
fn a_cancel_waits_until_something_was_heard() {
    let mut bench = Bench::new();
    let call = Invite::new("call");
    let invite = ringing(&mut bench, &call);
    let sent = bench.send(ANNAS, call.cancel());
    assert_eq!(to(&sent, BJARNES).len(), 0);
    assert_eq!(to(&sent, ANNAS), ["200", "487"]);
    let sent = bench.send(BJARNES, answered(&invite, "180 Ringing", "b"));
    assert_eq!(to(&sent, BJARNES), ["CANCEL"]);
    assert_eq!(to(&sent, ANNAS).len(), 0);
}

#[test]
fn a_late_2xx_after_a_cancel_is_passed_on() {
    let mut bench = Bench::new();
    let call = Invite::new("call");
    let invite = ringing(&mut bench, &call);
    bench.send(ANNAS, call.cancel());
    bench.send(ANNAS, call.ack());
    let sent = bench.send(BJARNES, answered(&invite, "200 OK", "b"));
    assert_eq!(to(&sent, ANNAS), ["200"]);
    bench.pass(Duration::from_secs(10));
    let sent = bench.send(BJARNES, answered(&invite, "200 OK", "b"));
    assert_eq!(to(&sent, ANNAS), ["200"]);
}

#[test]
fn a_cancel_without_its_invite_gets_481() {
    let mut bench = Bench::new();
    let sent = bench.send(ANNAS, Invite::new("nothing").cancel());
    assert_eq!(to(&sent, ANNAS), ["481"]);
}

#[test]
fn an_invite_that_comes_again_gets_the_last_word_again() {
    let mut bench = Bench::new();
    bench.register(BJARNE, BJARNES);
    let call = Invite::new("call");
    let challenged = last_response(&bench.send(ANNAS, call.text("")), ANNAS);
    let answer = bench::answer(&challenged, ANNA, "INVITE", "sip:+4799990002@127.0.0.1");
    let text = call.text(&answer);
    let sent = bench.send(ANNAS, text.clone());
    let invite = request(&sent, BJARNES, "INVITE");
    assert_eq!(to(&bench.send(ANNAS, text.clone()), ANNAS), ["100"]);
    bench.send(BJARNES, answered(&invite, "180 Ringing", "b"));
    let again = bench.send(ANNAS, text);
    assert_eq!(to(&again, ANNAS), ["180"]);
    assert_eq!(to(&again, BJARNES).len(), 0);
}

#[test]
fn what_must_not_be_forwarded_is_refused() {
    for (replaced, by, status) in [
        ("Max-Forwards: 70", "Max-Forwards: 0", 483),
        (
            "Max-Forwards: 70",
            "Max-Forwards: 70\r\nProxy-Require: magic",
            420,
        ),
        (
            "sip:+4799990002@127.0.0.1 SIP",
            "mailto:b@example.com SIP",
            416,
        ),
        ("INVITE", "SUBSCRIBE", 405),
        (
            "Call-ID: call\r\n",
            "Call-ID: call\r\nContent-Length: x\r\n",
            400,
        ),
    ] {
        let mut bench = Bench::new();
        bench.register(BJARNE, BJARNES);
        let sent = bench.send(ANNAS, Invite::new("call").text("").replace(replaced, by));
        let refused = last_response(&sent, ANNAS);
        assert_eq!(refused.status.code(), status, "{by}");
        assert_eq!(refused.headers.has(&HeaderName::Unsupported), status == 420);
        assert_eq!(bench.proxy.counts().contexts, 0);
    }
}

#[test]
fn a_request_that_comes_back_as_it_left_has_looped_and_one_that_changed_has_not() {
    let mut bench = Bench::new();
    // Bjarne's phone is one that sends everything back to us.
    let invite = ringing(&mut bench, &Invite::new("call"));
    let back = |uri: &str| {
        let mut text = format!(
            "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:7002;branch=z9hG4bKback{}\r\n",
            uri.len()
        );
        for (name, value) in invite.headers.iter() {
            text.push_str(&format!("{name}: {}\r\n", value.to_str_lossy()));
        }
        text + "\r\nv=0\r\n"
    };
    let sent = bench.send(BJARNES, back("sip:+4799990002@127.0.0.1"));
    assert_eq!(to(&sent, BJARNES), ["482"]);
    let sent = bench.send(BJARNES, back("sip:+4799990001@127.0.0.1"));
    assert_eq!(to(&sent, BJARNES), ["407"], "a spiral is no loop");
}

#[test]
fn options_to_us_are_answered_by_us() {
    let mut bench = Bench::new();
    let options = "OPTIONS sip:127.0.0.1:5060 SIP/2.0\r\n\
        Via: SIP/2.0/UDP 127.0.0.1:7001;branch=z9hG4bKo\r\nMax-Forwards: 0\r\nFrom: <sip:a@a>;tag=1\r\n\
        To: <sip:127.0.0.1>\r\nCall-ID: o\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";
    let response = last_response(&bench.send(ANNAS, options), ANNAS);
    assert_eq!(response.status.code(), 200);
    assert!(response.headers.has_token(&HeaderName::Allow, "INVITE"));
}

#[test]
fn a_caller_calls_by_his_own_number_or_hides_it() {
    let mut bench = Bench::new();
    bench.register(BJARNE, BJARNES);
    let call = Invite::new("forged");
    let forged = |text: String| text.replace("From: <sip:+4799990001@", "From: <sip:+4799990003@");
    let challenged = last_response(&bench.send(ANNAS, forged(call.text(""))), ANNAS);
    let answer = bench::answer(&challenged, ANNA, "INVITE", "sip:+4799990002@127.0.0.1");
    let sent = bench.send(ANNAS, forged(call.text(&answer)));
    assert_eq!(to(&sent, ANNAS), ["403"]);

    let call = Invite::new("hidden");
    let hidden = |text: String| {
        text.replace(
            "From: <sip:+4799990001@",
            "Privacy: id\r\nFrom: <sip:anonymous@",
        )
    };
    let challenged = last_response(&bench.send(ANNAS, hidden(call.text(""))), ANNAS);
    let answer = bench::answer(&challenged, ANNA, "INVITE", "sip:+4799990002@127.0.0.1");
    let sent = bench.send(ANNAS, hidden(call.text(&answer)));
    let invite = request(&sent, BJARNES, "INVITE");
    assert!(!invite.headers.has(&HeaderName::PAssertedIdentity));
}

#[test]
fn a_number_that_does_not_exist_is_not_found() {
    let mut bench = Bench::new();
    let mut call = Invite::new("call");
    call.to = "+15551234".to_owned();
    assert_eq!(to(&bench.call(&call), ANNAS), ["404"]);
}

#[test]
fn a_request_without_answer_is_forgotten_and_not_answered_with_408() {
    let mut bench = Bench::new();
    let success = established(&mut bench);
    bench.send(ANNAS, in_dialog("ACK", 1, &success, ANNAS, true));
    bench.send(ANNAS, in_dialog("BYE", 2, &success, ANNAS, true));
    let sent = bench.pass(Duration::from_secs(70));
    assert_eq!(to(&sent, ANNAS).len(), 0);
    let counts = bench.proxy.counts();
    assert_eq!((counts.servers, counts.clients, counts.contexts), (0, 0, 0));
}

#[test]
fn timer_c_ends_a_branch_that_rings_for_ever() {
    let mut bench = Bench::new();
    let invite = ringing(&mut bench, &Invite::new("call"));
    bench.send(BJARNES, answered(&invite, "180 Ringing", "b"));
    let sent = bench.pass(Duration::from_secs(180));
    assert_eq!(to(&sent, BJARNES).len(), 0);
    let sent = bench.pass(Duration::from_secs(2));
    assert!(to(&sent, BJARNES).contains(&"CANCEL".to_owned()));
    let sent = bench.pass(Duration::from_secs(40));
    assert_eq!(to(&sent, ANNAS)[0], "408");
}

#[test]
fn a_full_proxy_says_so() {
    let config = crate::sandbox::sip_core::proxy::Config {
        max_transactions: 0,
        ..Default::default()
    };
    let mut bench = Bench::with(config);
    let response = last_response(&bench.send(ANNAS, Invite::new("call").text("")), ANNAS);
    assert_eq!(response.status.code(), 503);
    assert!(response.headers.retry_after().is_some());
}
