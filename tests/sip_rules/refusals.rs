//! What is refused, and how (RFC 3261 section 8.2).

use std::time::Duration;

use aftertone::sip::endpoint::Config;
use aftertone::sip::endpoint::Event;
use aftertone::sip::endpoint::Output;

use crate::bench::Bench;
use crate::bench::Msg;
use crate::bench::config;
use crate::bench::header;
use crate::bench::tcp;
use crate::bench::udp;

#[test]
fn a_method_not_served_gets_405_with_allow() {
    for method in [
        "REGISTER",
        "MESSAGE",
        "SUBSCRIBE",
        "NOTIFY",
        "REFER",
        "PUBLISH",
        "FOO",
    ] {
        let mut bench = Bench::new();
        bench.receive(Msg::new(method).text());
        let response = bench.response(405);
        assert_eq!(
            header(&response.headers, "Allow"),
            "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, PRACK, UPDATE"
        );
        assert!(bench.events.is_empty());
    }
}

#[test]
fn the_checks_come_in_the_order_of_section_8_2() {
    let mut bench = Bench::new();
    let odd = Msg::invite()
        .uri("nobody:knows")
        .line("Require: novelty, 100rel, other");
    bench.receive(
        odd.clone()
            .via("SIP/2.0/UDP 10.0.0.9;branch=z9hG4bK1")
            .text(),
    );
    bench.response(416);
    bench.receive(
        odd.uri("sip:a@b.example")
            .cseq(2)
            .via("SIP/2.0/UDP 10.0.0.9;branch=z9hG4bK2")
            .text(),
    );
    assert_eq!(
        header(&bench.response(420).headers, "Unsupported"),
        "novelty, other"
    );
}

#[test]
fn a_body_that_is_not_understood_gets_415_with_accept() {
    let mut bench = Bench::new();
    let mut invite = Msg::new("INVITE").line("Content-Type: text/html");
    invite.body = "<p>".into();
    bench.receive(invite.text());
    assert_eq!(
        header(&bench.response(415).headers, "Accept"),
        "application/sdp, multipart/mixed"
    );
    let mut optional = invite
        .cseq(2)
        .call_id("call-2")
        .line("Content-Disposition: render;handling=optional");
    optional.via = "SIP/2.0/UDP 10.0.0.9;branch=z9hG4bKopt".into();
    bench.receive(optional.text());
    bench.response(100);
    assert!(matches!(bench.event(), Event::Incoming { offer: None, .. }));
    let mut gzip = Msg::invite()
        .call_id("call-3")
        .line("Content-Encoding: gzip");
    gzip.via = "SIP/2.0/UDP 10.0.0.9;branch=z9hG4bKgzip".into();
    bench.receive(gzip.text());
    assert_eq!(
        header(&bench.response(415).headers, "Accept-Encoding"),
        "identity"
    );
}

#[test]
fn an_invite_whose_contact_nobody_can_be_reached_at_gets_400() {
    let mut bench = Bench::new();
    let mut invite = Msg::invite();
    invite.contact = Some("<tel:+4787654321>".into());
    bench.receive(invite.text());
    bench.response(400);
}

#[test]
fn the_same_request_by_another_way_gets_482() {
    let mut bench = Bench::new();
    bench.incoming(&Msg::invite());
    bench.receive(
        Msg::invite()
            .via("SIP/2.0/UDP 10.0.0.8:5060;branch=z9hG4bK-fork")
            .text(),
    );
    bench.response(482);
    // Another CSeq is another request.
    bench.receive(
        Msg::invite()
            .cseq(2)
            .via("SIP/2.0/UDP 10.0.0.8:5060;branch=z9hG4bK-new")
            .text(),
    );
    bench.response(100);
}

#[test]
fn a_request_of_a_dialog_that_is_not_there_gets_481() {
    let mut bench = Bench::new();
    for method in ["BYE", "INFO", "PRACK", "UPDATE", "INVITE", "OPTIONS"] {
        bench.receive(Msg::invite().in_dialog(method, 2, "unknown").text());
        bench.response(481);
    }
    bench.receive(Msg::new("BYE").cseq(9).text());
    bench.response(481);
    bench.receive(Msg::new("CANCEL").cseq(9).text());
    bench.response(481);
    bench.receive(Msg::new("ACK").cseq(9).text());
    bench.silence();
}

#[test]
fn options_tell_what_is_served_and_when_not() {
    let mut bench = Bench::new();
    bench.receive(Msg::new("OPTIONS").text());
    let response = bench.response(200);
    assert_eq!(header(&response.headers, "Supported"), "100rel, timer");
    assert!(header(&response.headers, "Accept").contains("application/sdp"));
    assert!(header(&response.headers, "Allow").contains("UPDATE"));
    bench.endpoint.set_draining(17);
    for method in ["OPTIONS", "INVITE"] {
        let draining = Msg::new(method)
            .call_id("later")
            .via(&format!("SIP/2.0/UDP 10.0.0.9;branch=z9hG4bK{method}2"));
        bench.receive(draining.text());
        assert_eq!(header(&bench.response(503).headers, "Retry-After"), "17");
    }
}

#[test]
fn above_the_bound_calls_get_503_with_retry_after() {
    let mut bench = Bench::with(Config {
        max_calls: 1,
        retry_after_secs: 5,
        ..config()
    });
    bench.incoming(&Msg::invite());
    let second = Msg::invite()
        .call_id("call-2")
        .via("SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bKsecond");
    bench.receive(second.text());
    assert_eq!(header(&bench.response(503).headers, "Retry-After"), "5");
    assert!(bench.counted.contains(&"too_many_calls"));
}

#[test]
fn above_the_bound_of_transactions_nothing_is_remembered() {
    let mut bench = Bench::with(Config {
        max_transactions: 2,
        ..config()
    });
    for n in 0..10 {
        bench.receive(
            Msg::new("OPTIONS")
                .cseq(n)
                .via(&format!("SIP/2.0/UDP 10.0.0.9;branch=z9hG4bK{n}"))
                .text(),
        );
    }
    assert_eq!(bench.endpoint.counts().server_transactions, 2);
    let statuses: Vec<_> = std::iter::from_fn(|| bench.take())
        .map(|(_, _, message)| message.to_bytes()[8..11].to_vec())
        .collect();
    assert_eq!(
        statuses.iter().filter(|status| *status == b"503").count(),
        8
    );
}

#[test]
fn strangers_get_a_few_403_and_then_nothing() {
    let mut bench = Bench::with(Config {
        untrusted_per_second: 2,
        ..config()
    });
    bench.flow = udp("192.0.2.1:5060");
    for n in 0..5 {
        bench.receive(
            Msg::invite()
                .cseq(n)
                .via(&format!("SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{n}"))
                .text(),
        );
    }
    bench.receive("INVITE broken SIP/2.0\r\n\r\n");
    bench.response(403);
    bench.response(403);
    bench.silence();
    assert!(matches!(bench.event(), Event::Untrusted { refused: 1, .. }));
    assert!(bench.events.is_empty(), "reported once a minute");
    assert!(bench.endpoint.is_idle(), "nothing is remembered of them");
    bench.wait(Duration::from_secs(60));
    bench.receive(Msg::invite().cseq(9).text());
    bench.response(403);
    assert!(matches!(bench.event(), Event::Untrusted { refused: 5, .. }));
}

#[test]
fn a_connection_on_which_a_stranger_sends_too_much_is_closed() {
    let mut bench = Bench::with(Config {
        untrusted_per_second: 1,
        ..config()
    });
    bench.flow = tcp("192.0.2.1:40000", 1);
    bench.receive(Msg::invite().text());
    bench.response(403);
    assert!(bench.asked.is_empty());
    bench.receive(Msg::invite().cseq(2).text());
    bench.silence();
    assert!(matches!(bench.asked.pop_front(), Some(Output::Close { flow }) if flow == bench.flow));
}

#[test]
fn a_malformed_request_is_answered_without_memory() {
    let mut bench = Bench::new();
    let broken = Msg::invite()
        .text()
        .replace("CSeq: 1 INVITE", "CSeq: 1 BYE");
    bench.receive(&broken);
    let first = bench.response(400);
    bench.receive(&broken);
    assert_eq!(
        bench.response(400).headers.to(),
        first.headers.to(),
        "the To tag is the same each time"
    );
    assert!(bench.endpoint.is_idle());
    bench.receive("\u{1}\u{2}rubbish");
    bench.silence();
    assert!(!bench.counted.is_empty());
}
