use super::CSeq;
use super::Diversion;
use super::HistoryEntry;
use super::MediaType;
use super::NameAddr;
use super::RAck;
use super::Reason;
use super::Refresher;
use super::SessionExpires;
use super::Via;
use crate::sip::message::HeaderName;
use crate::sip::message::Headers;
use crate::sip::message::Host;
use crate::sip::message::Method;

fn headers(lines: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in lines {
        headers.push(HeaderName::from(*name), *value);
    }
    headers
}

#[test]
fn addresses_are_read_with_every_kind_of_display_name() {
    for (text, display, uri, tag) in [
        (
            r#""J \\\"R" <sip:j@e>  ;  tag = 98 "#,
            Some(r#"J \"R"#),
            "sip:j@e",
            Some("98"),
        ),
        (
            "caller<sip:c@e>;tag=3",
            Some("caller"),
            "sip:c@e",
            Some("3"),
        ),
        (
            "Bell, Alexander <sip:a@e>",
            Some("Bell, Alexander"),
            "sip:a@e",
            None,
        ),
        (r#""Watson" < sip:t@e >"#, Some("Watson"), "sip:t@e", None),
        (
            "<sip:a@e;tag=no>;tag=yes",
            None,
            "sip:a@e;tag=no",
            Some("yes"),
        ),
        ("sip:a@e ;tag=header;x", None, "sip:a@e", Some("header")),
        (
            r#""<sip:fake@x>" <sip:real@e>"#,
            Some("<sip:fake@x>"),
            "sip:real@e",
            None,
        ),
        (
            r#""" <tel:+47-1;phone-context=x>"#,
            Some(""),
            "tel:+47-1;phone-context=x",
            None,
        ),
    ] {
        let address = NameAddr::parse(text).expect(text);
        assert_eq!(address.display.as_deref(), display, "{text}");
        assert_eq!(address.uri.to_string(), uri, "{text}");
        assert_eq!(address.tag(), tag, "{text}");
        assert_eq!(NameAddr::parse(address.to_string()), Ok(address), "{text}");
    }
}

#[test]
fn what_is_no_address_is_refused() {
    for text in [
        "",
        "<",
        "<sip:a@b",
        r#""open <sip:a@b>"#,
        "sip:a@b?Route=x",
        "<sip:a@b> x",
        r#""name" sip:a@b"#,
        "sip:a@b, sip:c@d",
        "a b c",
        "*",
    ] {
        assert!(NameAddr::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_display_name_need_not_be_utf_8() {
    let address = NameAddr::parse(&b"\"J\xfcrgen\" <sip:a@b>"[..]).unwrap();
    assert_eq!(address.display.as_deref(), Some("J\u{fffd}rgen"));
}

#[test]
fn via_is_read_with_white_space_everywhere() {
    let via = Via::parse(
        "SIP  / 2.0  / TCP     spindle.example.com : 5070  ;  branch  =   z9hG4bK9ikj8;rport",
    )
    .unwrap();
    assert_eq!(&*via.transport, "TCP");
    assert_eq!(via.host, Host::Name("spindle.example.com".into()));
    assert_eq!(
        (via.port, via.branch(), via.rport()),
        (Some(5070), Some("z9hG4bK9ikj8"), Some(None))
    );
    assert_eq!(
        via.to_string(),
        "SIP/2.0/TCP spindle.example.com:5070;branch=z9hG4bK9ikj8;rport"
    );
}

#[test]
fn via_takes_received_with_and_without_brackets() {
    for received in ["[2001:db8::9:255]", "2001:db8::9:255"] {
        let via = Via::parse(format!(
            "SIP/2.0/UDP [2001:db8::9:1]:5060;received={received};branch=z9hG4bKas3"
        ));
        assert_eq!(
            via.unwrap().received(),
            Some("2001:db8::9:255".parse().unwrap())
        );
    }
}

#[test]
fn only_the_top_via_is_replaced() {
    let mut headers = headers(&[
        ("v", "SIP/2.0/UDP a;branch=1 , SIP/2.0/UDP b;branch=2"),
        ("Via", "SIP/2.0/TCP c;branch=3"),
    ]);
    let mut via = headers.top_via().unwrap();
    via.params.set("received", Some("192.0.2.1"));
    headers.set_top_via(&via);
    let vias: Vec<_> = headers.tokens(&HeaderName::Via).collect();
    assert_eq!(
        vias,
        [
            "SIP/2.0/UDP a;branch=1;received=192.0.2.1",
            "SIP/2.0/UDP b;branch=2",
            "SIP/2.0/TCP c;branch=3"
        ]
    );
    assert_eq!(headers.via_count(), 3);
}

#[test]
fn numbers_with_methods_are_read() {
    assert_eq!(
        CSeq::parse("0009  INVITE"),
        Ok(CSeq {
            number: 9,
            method: Method::Invite
        })
    );
    let rack = RAck::parse("776656 1 INVITE").unwrap();
    assert_eq!(
        (rack.rseq, rack.cseq.number, rack.to_string().as_str()),
        (776_656, 1, "776656 1 INVITE")
    );
    for wrong in [
        "",
        "1",
        "INVITE",
        "2147483648 INVITE",
        "-1 INVITE",
        "1 IN VITE",
    ] {
        assert!(CSeq::parse(wrong).is_err(), "{wrong}");
        assert!(RAck::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn session_timer_headers_are_read() {
    let headers = headers(&[
        ("x", "3600 ; Refresher = UAC"),
        ("Min-SE", "600;x"),
        ("k", "100rel, Timer"),
        ("Max-Forwards", "070"),
    ]);
    assert_eq!(
        headers.session_expires(),
        Some(SessionExpires {
            seconds: 3600,
            refresher: Some(Refresher::Uac)
        })
    );
    assert_eq!(
        headers.session_expires().unwrap().to_string(),
        "3600;refresher=uac"
    );
    assert_eq!(headers.min_se(), Some(600));
    assert_eq!(headers.max_forwards(), Some(70));
    assert!(headers.has_token(&HeaderName::Supported, "timer"));
    assert!(!headers.has_token(&HeaderName::Require, "timer"));
    assert!(SessionExpires::parse("soon").is_err());
}

#[test]
fn reasons_are_read_and_written() {
    let headers = headers(&[(
        "Reason",
        r#"Q.850 ;cause=16;text="Normal; \"ok\", bye", SIP;cause=480"#,
    )]);
    let reasons: Vec<_> = headers.reasons().collect();
    assert_eq!(reasons[0].text.as_deref(), Some(r#"Normal; "ok", bye"#));
    assert_eq!(
        (&*reasons[1].protocol, reasons[1].cause),
        ("SIP", Some(480))
    );
    assert_eq!(
        Reason::parse(reasons[0].to_string()).as_ref(),
        Ok(&reasons[0])
    );
}

#[test]
fn diversions_come_latest_first_over_all_lines() {
    let headers = headers(&[
        (
            "Diversion",
            r#""Doe, John" <sip:+331@h;user=phone>;reason=USER-BUSY;counter=2;privacy=full , <tel:+47-2>;reason="no-answer""#,
        ),
        ("diversion", "<sip:0203@h>;reason=unconditional"),
    ]);
    let diversions: Vec<Diversion> = headers.diversions().collect();
    let hops: Vec<_> = diversions
        .iter()
        .map(|hop| (hop.uri().dialled().unwrap(), hop.reason().unwrap()))
        .collect();
    let expected = [
        ("+331", "user-busy"),
        ("+472", "no-answer"),
        ("0203", "unconditional"),
    ];
    assert!(
        hops.iter()
            .map(|(by, reason)| (by.as_str(), reason.as_str()))
            .eq(expected)
    );
    assert_eq!(
        (
            diversions[0].counter(),
            diversions[0].is_private(),
            diversions[1].counter()
        ),
        (2, true, 1)
    );
}

#[test]
fn history_is_read_with_what_is_inside_its_uris() {
    let headers = headers(&[
        (
            "History-Info",
            "<sip:+393@h;user=phone;cause=408?Reason=SIP%3Bcause%3D486%3Btext%3D%22Busy%2C%20here%22>;index=1.10;mp=1",
        ),
        (
            "History-Info",
            "<sip:+391@h;user=phone?Privacy=none>;index=1,<sip:+392@h?privacy=history&Reason=Q.850%3bcause%3d17>;index=1.2",
        ),
    ]);
    let history: Vec<HistoryEntry> = headers.history();
    let indexes: Vec<_> = history.iter().map(HistoryEntry::index).collect();
    assert_eq!(indexes, [vec![1], vec![1, 2], vec![1, 10]]);
    assert_eq!(history[0].uri().dialled().as_deref(), Some("+391"));
    assert_eq!(
        history
            .iter()
            .map(HistoryEntry::is_private)
            .collect::<Vec<_>>(),
        [false, true, false]
    );
    assert_eq!(
        history.iter().map(HistoryEntry::cause).collect::<Vec<_>>(),
        [None, None, Some(408)]
    );
    assert_eq!(
        (
            &*history[1].reasons()[0].protocol,
            history[1].reasons()[0].cause
        ),
        ("Q.850", Some(17))
    );
    assert_eq!(history[2].reasons()[0].text.as_deref(), Some("Busy, here"));
}

#[test]
fn media_types_and_privacy_are_read() {
    let headers = headers(&[
        ("c", "Application/SDP ; charset=\"utf-8\""),
        ("Accept", "text/*, application/sdp;q=0.5"),
        ("Privacy", "critical; ID"),
    ]);
    let content = headers.content_type().unwrap();
    assert!(content.is("application", "sdp"));
    assert_eq!(content.params.value("charset"), Some("utf-8"));
    assert!(headers.accept().any(|media| media.accepts("text", "plain")));
    assert!(!headers.accept().any(|media| media.accepts("audio", "wav")));
    assert!(headers.hides_caller());
    assert!(MediaType::parse("sdp").is_err());
}
