//! Calls to several phones at once.

use std::time::Duration;

use crate::sandbox::sip_core::proxy::tests::bench::{
    ANNAS, BJARNE, BJARNES, Bench, Invite, answered, last_response, request, to,
};
use crate::sip::message::HeaderName;
use crate::sip::message::Request;

/// The other phone of Bjarne.
const SECOND: u16 = 7003;

/// Both phones of Bjarne ring; gives the INVITE of each.
fn both_ring(bench: &mut Bench) -> (Request, Request) {
    bench.register(BJARNE, BJARNES);
    bench.register(BJARNE, SECOND);
    let sent = bench.call(&Invite::new("fork"));
    let invites = [BJARNES, SECOND].map(|port| request(&sent, port, "INVITE"));
    let [first, second] = invites;
    assert_ne!(first.headers.top_via(), second.headers.top_via());
    for (port, invite, tag) in [(BJARNES, &first, "one"), (SECOND, &second, "two")] {
        let sent = bench.send(port, answered(invite, "180 Ringing", tag));
        assert_eq!(to(&sent, ANNAS), ["180"]);
    }
    (first, second)
}

#[test]
fn the_first_answer_wins_and_the_other_phone_stops_ringing() {
    let mut bench = Bench::new();
    let (first, second) = both_ring(&mut bench);
    let sent = bench.send(BJARNES, answered(&first, "200 OK", "one"));
    assert_eq!(to(&sent, ANNAS), ["200"]);
    let cancel = request(&sent, SECOND, "CANCEL");
    bench.send(SECOND, answered(&cancel, "200 OK", "two"));
    let sent = bench.send(SECOND, answered(&second, "487 Request Terminated", "two"));
    assert_eq!(to(&sent, SECOND), ["ACK"]);
    assert_eq!(to(&sent, ANNAS).len(), 0);
}

#[test]
fn both_answers_go_back_when_they_cross() {
    let mut bench = Bench::new();
    let (first, second) = both_ring(&mut bench);
    bench.send(BJARNES, answered(&first, "200 OK", "one"));
    let sent = bench.send(SECOND, answered(&second, "200 OK", "two"));
    let response = last_response(&sent, ANNAS);
    assert_eq!(response.headers.to().unwrap().tag(), Some("two"));
}

#[test]
fn the_best_failure_goes_back_when_all_have_failed() {
    let mut bench = Bench::new();
    let (first, second) = both_ring(&mut bench);
    let sent = bench.send(BJARNES, answered(&first, "503 Service Unavailable", "one"));
    assert_eq!(
        (to(&sent, ANNAS).len(), to(&sent, BJARNES)),
        (0, vec!["ACK".to_owned()])
    );
    let sent = bench.send(SECOND, answered(&second, "486 Busy Here", "two"));
    assert_eq!(to(&sent, ANNAS), ["486"]);
    let sent = bench.send(SECOND, answered(&second, "486 Busy Here", "two"));
    assert_eq!(
        to(&sent, SECOND),
        ["ACK"],
        "a failure that comes again is acknowledged again"
    );
}

#[test]
fn a_global_failure_ends_all_branches_and_is_the_answer() {
    let mut bench = Bench::new();
    let (first, second) = both_ring(&mut bench);
    let sent = bench.send(BJARNES, answered(&first, "603 Decline", "one"));
    assert_eq!(to(&sent, ANNAS).len(), 0);
    assert_eq!(to(&sent, SECOND), ["CANCEL"]);
    let sent = bench.send(SECOND, answered(&second, "487 Request Terminated", "two"));
    assert_eq!(to(&sent, ANNAS), ["603"]);
}

#[test]
fn an_answer_that_comes_after_a_global_failure_is_an_answer() {
    let mut bench = Bench::new();
    let (first, second) = both_ring(&mut bench);
    bench.send(BJARNES, answered(&first, "603 Decline", "one"));
    let sent = bench.send(SECOND, answered(&second, "200 OK", "two"));
    assert_eq!(to(&sent, ANNAS), ["200"]);
    bench.pass(Duration::from_secs(130));
    assert_eq!(bench.proxy.counts().contexts, 0);
}

#[test]
fn all_challenges_stand_in_the_one_answer() {
    let mut bench = Bench::new();
    let (first, second) = both_ring(&mut bench);
    for (port, invite, realm) in [(BJARNES, &first, "one"), (SECOND, &second, "two")] {
        let challenge =
            format!("WWW-Authenticate: Digest realm=\"{realm}\", nonce=\"n\"\r\nContact:");
        let text = answered(invite, "401 Unauthorized", realm).replacen("Contact:", &challenge, 1);
        bench.now += Duration::from_millis(1);
        let sent = bench.send(port, text);
        if port == SECOND {
            let response = last_response(&sent, ANNAS);
            assert_eq!(
                response.headers.all(&HeaderName::WwwAuthenticate).count(),
                2
            );
        }
    }
}

#[test]
fn phones_that_are_not_there_end_the_call_after_their_time() {
    let mut bench = Bench::new();
    bench.register(BJARNE, BJARNES);
    bench.call(&Invite::new("dead"));
    let sent = bench.pass(Duration::from_secs(31));
    assert_eq!(to(&sent, BJARNES).len(), 5, "timer A");
    assert_eq!(to(&sent, ANNAS).len(), 0);
    let sent = bench.pass(Duration::from_secs(2));
    assert_eq!(to(&sent, ANNAS)[0], "408");
    bench.pass(Duration::from_secs(64));
    assert_eq!(bench.proxy.counts().contexts, 0);
}
