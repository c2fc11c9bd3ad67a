//! How the two sides find each other.

use super::*;

const CREDENTIALS: &str = "a=ice-ufrag:Xk2b\r\na=ice-pwd:0rX2m6p1nZs6J5Qy8uT4vC7d\r\n";

fn with_ice(session_lines: &str, stream: &str) -> Negotiated {
    let body = format!("v=0\r\nc=IN IP4 192.0.2.1\r\n{session_lines}{stream}");
    let negotiated = read(&Offer::parse(body.as_bytes()).unwrap(), &everything()).unwrap();
    let answer = negotiated.answer(local(), session());
    check_answer(body.as_bytes(), &answer, &negotiated.media);
    negotiated
}

fn ice_of(negotiated: &Negotiated) -> &IceParams {
    negotiated.media.ice.as_ref().unwrap()
}

fn candidate(rest: &str) -> String {
    format!("a=candidate:{rest}\r\n")
}

#[test]
fn ice_is_done_where_the_peer_does_it_and_whatever_carries_the_keys() {
    let stream = "m=audio 4000 RTP/AVP 0\r\na=rtcp-mux\r\n";
    assert_eq!(with_ice("", stream).media.ice, None);
    let of_stream = with_ice("", &format!("{stream}{CREDENTIALS}"));
    let of_session = with_ice(CREDENTIALS, stream);
    assert_eq!(of_stream.media, of_session.media);
    let ice = ice_of(&of_stream);
    assert_eq!(ice.remote.as_ref().unwrap().ufrag, "Xk2b");
    assert_eq!(ice.local, identity().ice());
    assert!(ice.we_are_lite && !ice.remote_is_lite && !ice.controlling);
    let answer = text(&of_stream.answer(local(), session()));
    assert!(
        answer.contains("\r\na=ice-lite\r\na=ice-options:ice2\r\nm=audio"),
        "{answer}"
    );
    assert!(answer.ends_with("a=candidate:1 1 UDP 2130706431 203.0.113.5 40000 typ host\r\n"));
}

#[test]
fn somebody_has_to_check() {
    let stream = format!("m=audio 4000 RTP/AVP 0\r\n{CREDENTIALS}");
    let lite_peer = with_ice("a=ice-lite\r\n", &stream);
    let ice = ice_of(&lite_peer);
    assert!(!ice.we_are_lite && ice.remote_is_lite && ice.controlling);
    assert!(!text(&lite_peer.answer(local(), session())).contains("ice-lite"));

    let full = Preferences {
        ice: IceMode::Full,
        ..everything()
    };
    let body = format!("v=0\r\nc=IN IP4 192.0.2.1\r\n{stream}");
    let both_full = read(&Offer::parse(body.as_bytes()).unwrap(), &full).unwrap();
    let ice = ice_of(&both_full);
    // RFC 8445 section 6.1.1: it has offered.
    assert!(!ice.we_are_lite && !ice.remote_is_lite && !ice.controlling);
}

#[test]
fn an_address_that_is_not_known_yet_is_no_hold() {
    for address in ["0.0.0.0", "::", "192.0.2.1"] {
        let family = if address == "::" { "IP6" } else { "IP4" };
        let negotiated = with_ice(
            "",
            &format!(
                "m=audio 9 RTP/AVP 0\r\nc=IN {family} {address}\r\na=rtcp:9 IN IP4 0.0.0.0\r\n{CREDENTIALS}"
            ),
        );
        assert_eq!(negotiated.media.remote, None);
        assert_eq!(negotiated.media.direction, Direction::SendRecv);
    }
    let named = format!("m=audio 4000 RTP/AVP 0\r\nc=IN IP4 0f3a.local\r\n{CREDENTIALS}");
    assert_eq!(with_ice("", &named).media.direction, Direction::SendRecv);
    let held = with_ice(
        "",
        &format!("m=audio 9 RTP/AVP 0\r\nc=IN IP4 0.0.0.0\r\na=inactive\r\n{CREDENTIALS}"),
    );
    assert_eq!(held.media.direction, Direction::Inactive);
    // Without ICE it is the old way to hold.
    let held = offer_of("m=audio 9 RTP/AVP 0\r\nc=IN IP4 0.0.0.0\r\n").unwrap();
    assert_eq!(held.media.direction, Direction::RecvOnly);
}

#[test]
fn of_the_candidates_those_are_kept_that_can_be_sent_to() {
    let lines: String = [
        "1 1 UDP 2130706431 192.0.2.1 4000 typ host generation 0 network-cost 50",
        "abcdefghijklmnopqrstuvwxyz012345 1 udp 100 2001:db8::1 4000 typ srflx raddr :: rport 9",
        "2 1 udp 99 ::ffff:198.51.100.7 4002 typ RELAY raddr 0.0.0.0 rport 0",
        "2 2 udp 99 192.0.2.1 4001 typ host",
        "3 1 tcp 98 192.0.2.1 9 typ host tcptype active",
        "4 1 udp 97 0f3ad6a2-8b5a-4b0c.local 4000 typ host",
        "5 1 udp 96 0.0.0.0 4000 typ host",
        "6 1 udp 95 224.0.0.1 4000 typ host",
        "7 1 udp 94 192.0.2.1 0 typ host",
        "8 1 udp x 192.0.2.1 4000 typ host",
        "9 1 udp 93 192.0.2.1 4000 typ other",
        "10 1 udp 92",
    ]
    .map(candidate)
    .concat();
    let negotiated = with_ice(
        "",
        &format!("m=audio 4000 RTP/AVP 0\r\n{CREDENTIALS}{lines}"),
    );
    let kept: Vec<_> = ice_of(&negotiated)
        .remote_candidates
        .iter()
        .map(|it| (it.address.to_string(), it.priority, it.kind))
        .collect();
    assert_eq!(
        kept,
        [
            (
                "192.0.2.1:4000".to_owned(),
                2_130_706_431,
                CandidateKind::Host
            ),
            (
                "[2001:db8::1]:4000".to_owned(),
                100,
                CandidateKind::ServerReflexive
            ),
            ("198.51.100.7:4002".to_owned(), 99, CandidateKind::Relayed),
        ]
    );

    let many: String = (1..200)
        .map(|port| candidate(&format!("1 1 udp 1 192.0.2.1 {port} typ host")))
        .collect();
    let negotiated = with_ice("", &format!("m=audio 1 RTP/AVP 0\r\n{CREDENTIALS}{many}"));
    assert_eq!(ice_of(&negotiated).remote_candidates.len(), 16);
}

#[test]
fn an_address_that_somebody_on_the_way_has_put_in_ends_ice() {
    let own = candidate("1 1 udp 1 10.0.0.7 4000 typ host");
    let both = format!("{own}{}", candidate("1 2 udp 1 10.0.0.7 4001 typ host"));
    let stream = |lines: &str| format!("m=audio 4000 RTP/AVP 0\r\n{CREDENTIALS}{lines}");
    let changed = with_ice("", &stream(&both));
    assert_eq!(changed.media.ice, None);
    assert_eq!(
        changed.media.remote,
        Some("192.0.2.1:4000".parse().unwrap())
    );
    assert!(text(&changed.answer(local(), session())).contains("\r\na=ice-mismatch\r\n"));

    // Where not all are known to us, it may be one of the others.
    let named = format!("{own}{}", candidate("1 1 udp 1 x.local 4000 typ host"));
    assert!(with_ice("", &stream(&named)).media.ice.is_some());
    let fits = format!("{own}{}", candidate("1 1 udp 1 192.0.2.1 4000 typ srflx"));
    assert!(with_ice("", &stream(&fits)).media.ice.is_some());
    // A browser cannot do without.
    let print = ["AB"; 32].join(":");
    let browser = format!(
        "m=audio 4000 UDP/TLS/RTP/SAVPF 0\r\na=fingerprint:sha-256 {print}\r\n{CREDENTIALS}{own}"
    );
    assert!(with_ice("", &browser).media.ice.is_some());
}

#[test]
fn credentials_that_cannot_be_are_none() {
    for lines in [
        "a=ice-ufrag:Xk2b\r\n".to_owned(),
        "a=ice-pwd:0rX2m6p1nZs6J5Qy8uT4vC7d\r\n".to_owned(),
        "a=ice-ufrag:\r\na=ice-pwd:0rX2m6p1nZs6J5Qy8uT4vC7d\r\n".to_owned(),
        "a=ice-ufrag:a b\r\na=ice-pwd:0rX2m6p1nZs6J5Qy8uT4vC7d\r\n".to_owned(),
        format!("a=ice-ufrag:{}\r\na=ice-pwd:x\r\n", "u".repeat(257)),
    ] {
        let negotiated = with_ice("", &format!("m=audio 4000 RTP/AVP 0\r\n{lines}"));
        assert_eq!(negotiated.media.ice, None, "{lines}");
    }
    let longest = format!(
        "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\n",
        "u".repeat(256),
        "p".repeat(256)
    );
    assert!(
        with_ice("", &format!("m=audio 4000 RTP/AVP 0\r\n{longest}"))
            .media
            .ice
            .is_some()
    );
}

#[test]
fn rtcp_with_a_port_of_its_own_has_no_place_beside_ice() {
    let negotiated = with_ice(
        "",
        &format!("m=audio 4000 RTP/AVP 0\r\na=rtcp:4001\r\n{CREDENTIALS}"),
    );
    assert_eq!(negotiated.media.remote_rtcp, None);
    assert!(!text(&negotiated.answer(local(), session())).contains("a=rtcp"));
}

#[test]
fn a_bundle_is_answered_with_what_is_taken_of_it() {
    let print = ["AB"; 32].join(":");
    let transport =
        format!("a=fingerprint:sha-256 {print}\r\na=setup:actpass\r\na=rtcp-mux\r\n{CREDENTIALS}");
    let body = format!(
        "v=0\r\na=group:LS a v\r\na=group:BUNDLE v a d\r\n\
         m=video 4000 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 192.0.2.1\r\na=mid:v\r\n{transport}\
         m=audio 0 UDP/TLS/RTP/SAVPF 0\r\na=bundle-only\r\na=mid:a\r\n\
         m=application 0 UDP/DTLS/SCTP webrtc-datachannel\r\na=bundle-only\r\na=mid:d\r\n"
    );
    let offer = Offer::parse(body.as_bytes()).unwrap();
    let negotiated = read(&offer, &everything()).unwrap();
    assert_eq!(
        negotiated.media.remote,
        Some("192.0.2.1:4000".parse().unwrap())
    );
    assert!(negotiated.media.rtcp_mux && negotiated.media.ice.is_some());
    assert!(matches!(negotiated.media.keying, Keying::Dtls { .. }));
    let answer = text(&negotiated.answer(local(), session()));
    assert!(answer.contains("\r\na=group:BUNDLE a\r\n"), "{answer}");
    assert!(answer.contains("m=video 0 ") && answer.contains("m=audio 40000 "));
    // RFC 5888 section 6: where there is a group, every stream has its name.
    assert!(answer.contains("\r\nm=application 0 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:d\r\n"));
    assert!(answer.contains("\r\nm=video 0 UDP/TLS/RTP/SAVPF 96\r\na=mid:v\r\n"));
    assert_eq!(answer.matches("a=mid").count(), 3);
    assert!(answer.contains("\r\na=ice-options:ice2\r\n"), "{answer}");

    // Port 0 without that is a stream that is off.
    let off = body.replace("a=bundle-only\r\na=mid:a", "a=mid:a");
    assert_eq!(
        read(&Offer::parse(off.as_bytes()).unwrap(), &everything()).unwrap_err(),
        NegotiationError::NoAudio
    );
}
