//! Phones register.

use std::time::Duration;

use crate::sandbox::sip_core::proxy::Event;
use crate::sandbox::sip_core::proxy::tests::bench;
use crate::sandbox::sip_core::proxy::tests::bench::{
    ANNA, ANNAS, BJARNE, BJARNES, Bench, Invite, last_response, to,
};
use crate::sip::message::HeaderName;
use crate::sip::message::Response;

fn contacts(response: &Response) -> Vec<String> {
    let all = response.headers.addresses(&HeaderName::Contact);
    all.map(|contact| {
        let expires = contact.params.value("expires").unwrap().to_owned();
        format!("{} {expires}", contact.uri)
    })
    .collect()
}

#[test]
fn a_phone_is_asked_for_its_password_and_then_registered_until_it_leaves() {
    let mut bench = Bench::new();
    let contact = "<sip:b@127.0.0.1:7002>;expires=100";
    let response = bench.try_register(BJARNE, BJARNES, contact, "");
    assert_eq!(contacts(&response), ["sip:b@127.0.0.1:7002 100"]);
    bench.pass(Duration::from_secs(40));
    let fetched = bench.try_register(BJARNE, BJARNES, "", "");
    assert_eq!(contacts(&fetched), ["sip:b@127.0.0.1:7002 60"]);
    let gone = bench.try_register(BJARNE, BJARNES, "*", "Expires: 0\r\n");
    assert_eq!((gone.status.code(), contacts(&gone).len()), (200, 0));
    let told: Vec<_> = bench
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Reachable { contacts, .. } => Some(*contacts),
            _ => None,
        })
        .collect();
    assert_eq!(told, [1, 0]);
}

#[test]
fn a_contact_that_is_not_refreshed_ends() {
    let mut bench = Bench::new();
    bench.try_register(BJARNE, BJARNES, "<sip:b@127.0.0.1:7002>;expires=60", "");
    bench.pass(Duration::from_secs(61));
    let sent = bench.call(&Invite::new("late"));
    assert_eq!(last_response(&sent, ANNAS).status.code(), 480);
    assert_eq!(to(&sent, BJARNES).len(), 0);
    let is_gone = |event: &Event| matches!(event, Event::Reachable { contacts: 0, .. });
    assert!(bench.events.iter().any(is_gone));
}

#[test]
fn several_phones_of_a_number_each_have_their_place_up_to_a_bound() {
    let mut bench = Bench::new();
    for port in 0..8 {
        let contact = format!("<sip:b@127.0.0.1:{}>", 8000 + port);
        let response = bench.try_register(BJARNE, 8000 + port, &contact, "");
        assert_eq!(contacts(&response).len(), usize::from(port) + 1);
    }
    let response = bench.try_register(BJARNE, 8100, "<sip:b@127.0.0.1:8100>", "");
    assert_eq!(response.status.code(), 403);
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let mut bench = Bench::new();
    bench.register(BJARNE, BJARNES);
    for (contact, more, status) in [
        ("*", "", 400),
        ("*", "Expires: 60\r\n", 400),
        ("<sip:b@127.0.0.1>;expires=3", "", 423),
    ] {
        let response = bench.try_register(BJARNE, BJARNES, contact, more);
        assert_eq!(response.status.code(), status, "{contact}");
        assert_eq!(
            response.headers.number(&HeaderName::MinExpires).is_some(),
            status == 423
        );
    }
    assert_eq!(
        contacts(&bench.try_register(BJARNE, BJARNES, "", "")).len(),
        1
    );
}

#[test]
fn a_path_is_kept_and_told_back() {
    let mut bench = Bench::new();
    let path = "Path: <sip:127.0.0.1:7200;lr>\r\nSupported: path\r\n";
    let response = bench.try_register(BJARNE, BJARNES, "<sip:b@192.0.2.9>", path);
    assert!(response.headers.has(&HeaderName::from("Path")));
    let sent = bench.call(&Invite::new("path"));
    let invite = bench::request(&sent, 7200, "INVITE");
    assert_eq!(invite.uri.to_string(), "sip:b@192.0.2.9");
    assert_eq!(invite.headers.list(&HeaderName::Route).count(), 1);
}

#[test]
fn nobody_registers_another_number() {
    let mut bench = Bench::new();
    let register = format!(
        "REGISTER sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{ANNAS};branch=z9hG4bKx\r\n\
         From: <sip:{ANNA}@a>;tag=r\r\nTo: <sip:{BJARNE}@a>\r\nCall-ID: x\r\nCSeq: 1 REGISTER\r\n\
         Contact: <sip:a@127.0.0.1>\r\nContent-Length: 0\r\n\r\n"
    );
    let challenged = last_response(&bench.send(ANNAS, register.clone()), ANNAS);
    assert_eq!(challenged.status.code(), 401);
    let answer = bench::answer(&challenged, ANNA, "REGISTER", "sip:127.0.0.1");
    let again = register
        .replace("z9hG4bKx", "z9hG4bKy")
        .replace("Contact:", &format!("{answer}Contact:"));
    assert_eq!(
        last_response(&bench.send(ANNAS, again), ANNAS)
            .status
            .code(),
        403
    );
}
