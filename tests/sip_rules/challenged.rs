//! Requests of ours that are challenged (RFC 3261 section 22), and those outside of calls.

use aftertone::sip::digest::Answer;
use aftertone::sip::digest::Credentials;
use aftertone::sip::endpoint::Event;
use aftertone::sip::endpoint::LoneReply;
use aftertone::sip::endpoint::LoneRequest;
use aftertone::sip::endpoint::OutgoingRequest;
use aftertone::sip::message::HeaderName;
use aftertone::sip::message::Method;
use aftertone::sip::message::Uri;

use crate::bench::ANSWER;
use crate::bench::Bench;
use crate::bench::OFFER;
use crate::bench::header;
use crate::bench::reply;

const CHALLENGE: &str = "Digest realm=\"pbx\", nonce=\"n1\", algorithm=SHA-256, qop=\"auth\"";
const STALE: &str =
    "Digest realm=\"pbx\", nonce=\"n2\", algorithm=SHA-256, qop=\"auth\", stale=true";

fn bob() -> Option<Credentials> {
    Some(Credentials {
        username: "bob".into(),
        password: "secret".into(),
    })
}

fn register(credentials: Option<Credentials>) -> LoneRequest {
    let uri = |text| Uri::parse(text).unwrap();
    LoneRequest {
        method: Method::Register,
        target: uri("sip:10.0.0.9"),
        route: None,
        from: uri("sip:bob@10.0.0.9"),
        to: uri("sip:bob@10.0.0.9"),
        call_id: "registration-1".into(),
        cseq: 7,
        headers: vec![(HeaderName::Expires, "600".into())],
        credentials,
    }
}

#[track_caller]
fn status_of(bench: &mut Bench) -> u16 {
    match bench.event() {
        Event::Replied {
            reply: LoneReply::Response { response, .. },
            ..
        } => response.status.code(),
        other => panic!("expected a reply, got {other:?}"),
    }
}

#[test]
fn a_challenged_register_is_answered_with_a_higher_number_and_its_outcome_told_once() {
    let mut bench = Bench::new();
    bench.endpoint.ask(bench.now, register(bob())).unwrap();
    let first = bench.request("REGISTER");
    let contact = header(&first.headers, "Contact");
    assert_eq!(contact, "<sip:voicemail@10.0.0.1:5060>");
    assert_eq!(header(&first.headers, "CSeq"), "7 REGISTER");
    assert!(!first.headers.has(&HeaderName::Authorization));
    let challenge = format!("WWW-Authenticate: {CHALLENGE}");
    bench.receive(reply(&first, 401, "t", &[&challenge], ""));

    let second = bench.request("REGISTER");
    assert_eq!(header(&second.headers, "CSeq"), "8 REGISTER");
    assert_eq!(
        header(&second.headers, "Call-ID"),
        header(&first.headers, "Call-ID")
    );
    let answer = Answer::parse(header(&second.headers, "Authorization")).unwrap();
    assert_eq!(answer.uri, "sip:10.0.0.9");
    assert!(answer.proves("secret", &Method::Register));
    bench.receive(reply(&second, 100, "", &[], ""));
    bench.receive(reply(&second, 200, "t", &[], ""));
    assert_eq!(status_of(&mut bench), 200);
    bench.wait_secs(60);
    assert!(bench.events.is_empty());
    assert!(bench.endpoint.is_idle());
}

#[test]
fn a_wrong_password_is_not_tried_again_and_a_stale_nonce_is() {
    let mut bench = Bench::new();
    bench.endpoint.ask(bench.now, register(bob())).unwrap();
    let first = bench.request("REGISTER");
    let challenge = format!("WWW-Authenticate: {CHALLENGE}");
    bench.receive(reply(&first, 401, "t", &[&challenge], ""));
    let second = bench.request("REGISTER");
    let stale = format!("WWW-Authenticate: {STALE}");
    bench.receive(reply(&second, 401, "t", &[&stale], ""));
    let third = bench.request("REGISTER");
    assert!(header(&third.headers, "Authorization").contains("nonce=\"n2\""));
    assert_eq!(third.headers.all(&HeaderName::Authorization).count(), 1);
    bench.receive(reply(&third, 401, "t", &[&challenge], ""));
    assert_eq!(status_of(&mut bench), 401);
    bench.silence();

    // Without credentials there is nothing to answer.
    bench.endpoint.ask(bench.now, register(None)).unwrap();
    let request = bench.request("REGISTER");
    bench.receive(reply(&request, 401, "t", &[&challenge], ""));
    assert_eq!(status_of(&mut bench), 401);
}

#[test]
fn a_registrar_that_does_not_answer_is_told_of_after_32_seconds() {
    let mut bench = Bench::new();
    bench.endpoint.ask(bench.now, register(None)).unwrap();
    bench.wait_secs(31);
    assert!(bench.events.is_empty());
    bench.wait_secs(2);
    let event = bench.event();
    let Event::Replied { reply, .. } = event else {
        panic!("expected a reply, got {event:?}")
    };
    assert!(matches!(reply, LoneReply::Timeout), "{reply:?}");
    assert!(bench.endpoint.is_idle());
}

#[test]
fn a_call_behind_proxy_and_server_is_authorized_at_both() {
    let mut bench = Bench::new();
    let request = OutgoingRequest {
        credentials: bob(),
        ..OutgoingRequest::new(
            Uri::parse("sip:carol@10.0.0.9").unwrap(),
            Some(OFFER.into()),
        )
    };
    bench.endpoint.call(bench.now, request).unwrap();
    let first = bench.request("INVITE");
    let challenge = format!("Proxy-Authenticate: {CHALLENGE}");
    bench.receive(reply(&first, 407, "p", &[&challenge], ""));
    bench.request("ACK");
    let second = bench.request("INVITE");
    let answer = Answer::parse(header(&second.headers, "Proxy-Authorization")).unwrap();
    assert!(answer.proves("secret", &Method::Invite));
    let challenge = format!("WWW-Authenticate: {CHALLENGE}");
    bench.receive(reply(&second, 401, "s", &[&challenge], ""));
    bench.request("ACK");
    let third = bench.request("INVITE");
    assert!(third.headers.has(&HeaderName::ProxyAuthorization));
    assert!(third.headers.has(&HeaderName::Authorization));
    assert_eq!(header(&third.headers, "CSeq"), "3 INVITE");
    let contact = "Contact: <sip:carol@10.0.0.9>";
    bench.receive(reply(&third, 200, "s", &[contact], ANSWER));
    assert_eq!(header(&bench.request("ACK").headers, "CSeq"), "3 ACK");
    let event = bench.event();
    assert!(matches!(event, Event::Answered { .. }), "{event:?}");
}

#[test]
fn a_call_with_a_wrong_password_is_refused() {
    let mut bench = Bench::new();
    let request = OutgoingRequest {
        credentials: bob(),
        ..OutgoingRequest::new(
            Uri::parse("sip:carol@10.0.0.9").unwrap(),
            Some(OFFER.into()),
        )
    };
    bench.endpoint.call(bench.now, request).unwrap();
    let challenge = format!("Proxy-Authenticate: {CHALLENGE}");
    for _ in 0..2 {
        let invite = bench.request("INVITE");
        bench.receive(reply(&invite, 407, "p", &[&challenge], ""));
        bench.request("ACK");
    }
    assert!(bench.ended().starts_with("Refused"));
    bench.silence();
}
