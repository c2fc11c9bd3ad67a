//! How packets come to be protected.

use super::*;

const KEY: &str = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";
const PRINT: &str = "sha-256 7B:8B:F0:65:5F:78:E2:51:3B:AC:6F:F3:3F:46:1B:35:DC:B8:5F:64:1A:24:C2:43:F0:A1:58:D0:A1:2C:19:08";

fn with(
    preferences: &Preferences,
    transport: &str,
    lines: &[String],
) -> Result<Negotiated, NegotiationError> {
    let lines: String = lines.iter().map(|line| format!("a={line}\r\n")).collect();
    let body = format!("v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 {transport} 0\r\n{lines}");
    let negotiated = read(&Offer::parse(body.as_bytes()).unwrap(), preferences)?;
    let answer = negotiated.answer(local(), session());
    check_answer(body.as_bytes(), &answer, &negotiated.media);
    Ok(negotiated)
}

fn crypto(tag: u32) -> String {
    format!("crypto:{tag} AES_CM_128_HMAC_SHA1_80 inline:{KEY}")
}

fn fingerprint() -> String {
    format!("fingerprint:{PRINT}")
}

fn setup(role: &str) -> String {
    format!("setup:{role}")
}

fn role_of(negotiated: &Negotiated) -> DtlsRole {
    match &negotiated.media.keying {
        Keying::Dtls { role, .. } => *role,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_transport_with_what_it_needs_is_taken() {
    for transport in ["RTP/AVP", "RTP/AVPF", "rtp/avp"] {
        let plain = with(&Preferences::default(), transport, &[]).unwrap();
        assert_eq!(plain.media.keying, Keying::Plain);
        // What is offered without being asked for is not used unless configured.
        let offered = with(
            &Preferences::default(),
            transport,
            &[crypto(1), fingerprint()],
        );
        assert_eq!(offered.unwrap().media.keying, Keying::Plain);
    }
    for transport in ["RTP/SAVP", "RTP/SAVPF"] {
        let secured = with(&everything(), transport, &[crypto(3)]).unwrap();
        assert!(matches!(secured.media.keying, Keying::Sdes { .. }));
        let not_allowed = with(&Preferences::default(), transport, &[crypto(1)]);
        assert!(matches!(not_allowed, Err(NegotiationError::Keys(_))));
    }
    for transport in [
        "UDP/TLS/RTP/SAVP",
        "UDP/TLS/RTP/SAVPF",
        "RTP/SAVP",
        "RTP/SAVPF",
    ] {
        // DTLS is better than keys that everybody on the way has read.
        let lines = [crypto(1), fingerprint(), setup("actpass")];
        let secured = with(&everything(), transport, &lines).unwrap();
        assert_eq!(role_of(&secured), DtlsRole::Active);
        let bare = with(&Preferences::default(), transport, &[]);
        assert!(
            matches!(bare, Err(NegotiationError::Keys(_))),
            "{transport}"
        );
    }
    for transport in [
        "TCP/RTP/AVP",
        "TCP/TLS/RTP/SAVPF",
        "TCP/DTLS/RTP/SAVPF",
        "udptl",
    ] {
        let refused = with(&everything(), transport, &[fingerprint(), crypto(1)]);
        assert_eq!(
            refused,
            Err(NegotiationError::Transport(transport.to_owned()))
        );
    }
}

#[test]
fn protection_that_is_offered_on_the_side_is_taken_where_configured() {
    let sdes = with(&everything(), "RTP/AVP", &[crypto(1)]).unwrap();
    assert!(matches!(sdes.media.keying, Keying::Sdes { .. }));
    let dtls = with(
        &everything(),
        "RTP/AVPF",
        &[crypto(1), fingerprint(), setup("actpass")],
    );
    assert_eq!(role_of(&dtls.unwrap()), DtlsRole::Active);
    let plain = with(&everything(), "RTP/AVP", &[]).unwrap();
    assert_eq!(plain.media.keying, Keying::Plain);
}

#[test]
fn audio_in_the_clear_can_be_refused() {
    let secured_only = Preferences {
        plain_rtp: false,
        ..everything()
    };
    let refused = with(&secured_only, "RTP/AVP", &[]);
    assert!(matches!(refused, Err(NegotiationError::Keys(_))));
    assert!(with(&secured_only, "RTP/AVP", &[crypto(1)]).is_ok());
}

#[test]
fn of_several_keys_the_first_that_we_can_use_is_answered_under_its_number() {
    let lines = [
        format!("crypto:1 AES_192_CM_HMAC_SHA1_80 inline:{KEY}"),
        format!("crypto:2 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^20|1:4"),
        format!("crypto:7 AES_CM_128_HMAC_SHA1_32 inline:{KEY}|2^31"),
        crypto(8),
    ];
    let negotiated = with(&everything(), "RTP/SAVP", &lines).unwrap();
    let Keying::Sdes { send, receive } = &negotiated.media.keying else {
        panic!("{:?}", negotiated.media.keying);
    };
    assert_eq!(receive.bytes(), b"YS___semctl () {\t220;}\n}\nunles");
    assert_eq!(*send, identity().srtp_key(SrtpSuite::AesCm128HmacSha1_32));
    let answer = text(&negotiated.answer(local(), session()));
    assert!(
        answer.contains("\r\na=crypto:7 AES_CM_128_HMAC_SHA1_32 inline:"),
        "{answer}"
    );
    assert_eq!(answer.matches("a=crypto").count(), 1);
}

#[test]
fn the_role_follows_the_peers() {
    for (offered, ours, said) in [
        (Some("actpass"), DtlsRole::Active, "active"),
        (Some("active"), DtlsRole::Passive, "passive"),
        (Some("passive"), DtlsRole::Active, "active"),
        (None, DtlsRole::Passive, "passive"),
    ] {
        let mut lines = vec![fingerprint()];
        lines.extend(offered.map(setup));
        let negotiated = with(&Preferences::default(), "UDP/TLS/RTP/SAVP", &lines).unwrap();
        assert_eq!(role_of(&negotiated), ours, "{offered:?}");
        let answer = text(&negotiated.answer(local(), session()));
        assert!(answer.contains(&format!("\r\na=setup:{said}\r\n")));
    }
    let held = with(
        &everything(),
        "UDP/TLS/RTP/SAVP",
        &[fingerprint(), setup("holdconn")],
    );
    assert!(matches!(held, Err(NegotiationError::Keys(_))));
}

#[test]
fn whoever_cannot_be_reached_has_to_begin() {
    for (address, ours) in [
        ("IP4 192.0.2.1", DtlsRole::Active),
        ("IP4 0.0.0.0", DtlsRole::Passive),
        ("IP4 192.168.1.7", DtlsRole::Passive),
        ("IP6 fd00::7", DtlsRole::Passive),
    ] {
        let print = fingerprint();
        let stream = "m=audio 4000 UDP/TLS/RTP/SAVP 0\r\na=setup:actpass\r\n";
        let body = format!("v=0\r\nc=IN {address}\r\n{stream}a={print}\r\n");
        let offer = Offer::parse(body.as_bytes()).unwrap();
        assert_eq!(
            role_of(&read(&offer, &everything()).unwrap()),
            ours,
            "{address}"
        );
        // ICE finds a way to whomever.
        let ice = "a=ice-ufrag:Xk2b\r\na=ice-pwd:0rX2m6p1nZs6J5Qy8uT4vC7d\r\n";
        let offer = Offer::parse(format!("{body}{ice}").as_bytes()).unwrap();
        assert_eq!(
            role_of(&read(&offer, &everything()).unwrap()),
            DtlsRole::Active
        );
    }
}

#[test]
fn every_hash_is_read_and_those_of_the_stream_win() {
    let hex = |length: usize| vec!["0a"; length].join(":");
    let prints = [
        ("sha-1", 20),
        ("SHA-224", 28),
        ("sha-256", 32),
        ("sha-384", 48),
        ("sha-512", 64),
    ];
    let lines: String = prints
        .map(|(name, length)| format!("a=fingerprint:{name} {}\r\n", hex(length)))
        .concat();
    let wrong = format!(
        "a=fingerprint:md5 {}\r\na=fingerprint:sha-256 {}\r\n",
        hex(16),
        hex(31)
    );
    let stream = "m=audio 4000 UDP/TLS/RTP/SAVP 0\r\na=setup:active\r\n";
    let prints_of = |body: String| {
        let offer =
            Offer::parse(format!("v=0\r\nc=IN IP4 192.0.2.1\r\n{body}").as_bytes()).unwrap();
        match read(&offer, &everything()).unwrap().media.keying {
            Keying::Dtls { fingerprints, .. } => fingerprints,
            other => panic!("{other:?}"),
        }
    };
    let all = prints_of(format!("{wrong}{lines}{stream}"));
    let lengths: Vec<_> = all.iter().map(|print| print.digest.len()).collect();
    assert_eq!(lengths, [20, 28, 32, 48, 64]);
    assert!(
        all.iter()
            .all(|print| print.digest.iter().all(|byte| *byte == 0x0A))
    );
    assert_eq!(prints_of(format!("{stream}{lines}")), all);
    let own = prints_of(format!("{lines}{stream}a={}\r\n", fingerprint()));
    assert_eq!(
        own.iter().map(Fingerprint::to_string).collect::<Vec<_>>(),
        [PRINT]
    );
}

#[test]
fn our_offers_and_their_answers_come_to_the_same_keys() {
    let caller = "192.0.2.1:5004".parse().unwrap();
    let theirs = LocalIdentity::new([9; 32], Fingerprint::sha256([0xCD; 32]));
    for kind in [OfferKeying::Plain, OfferKeying::Sdes, OfferKeying::Dtls] {
        for ice in [IceMode::Lite, IceMode::Full] {
            let preferences = Preferences {
                offer: kind,
                ice,
                ..everything()
            };
            let made = offer(caller, session(), &preferences, &theirs);
            let callee = read(&Offer::parse(&made).unwrap(), &everything()).unwrap();
            let answer = callee.answer(local(), session());
            check_answer(&made, &answer, &callee.media);
            let agreed = read_answer(&made, &answer).unwrap();
            let is_dtls = matches!(agreed.keying, Keying::Dtls { .. });
            assert_eq!(is_dtls, kind == OfferKeying::Dtls);
            assert_eq!(agreed.ice.is_some(), is_dtls);
            assert_eq!(
                matches!(agreed.keying, Keying::Sdes { .. }),
                kind == OfferKeying::Sdes
            );
            if let (Some(caller), Some(callee)) = (&agreed.ice, &callee.media.ice) {
                // One of them at least has to check, and one only nominates.
                assert!(!(caller.we_are_lite && callee.we_are_lite));
                assert_ne!(caller.controlling, callee.controlling);
            }
        }
    }
}

#[test]
fn an_answer_that_takes_back_protection_is_wrong() {
    let preferences = Preferences {
        offer: OfferKeying::Sdes,
        ..everything()
    };
    let made = offer(local(), session(), &preferences, &identity());
    let answer = |lines: &str| {
        let body = format!("v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/SAVP 0\r\n{lines}");
        read_answer(&made, body.as_bytes())
    };
    for wrong in [
        String::new(),
        format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}\r\n"),
        format!("a=crypto:9 AES_CM_128_HMAC_SHA1_80 inline:{KEY}\r\n"),
    ] {
        let error = answer(&wrong).unwrap_err();
        assert!(matches!(error, NegotiationError::WrongAnswer(_)), "{wrong}");
    }
    let right = answer(&format!(
        "a=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:{KEY}\r\n"
    ))
    .unwrap();
    assert!(matches!(right.keying, Keying::Sdes { .. }));
}

#[test]
fn secrets_do_not_print() {
    let identity = identity();
    let (ice, key) = (identity.ice(), identity.srtp_key(SrtpSuite::AeadAes256Gcm));
    let printed = format!("{identity:?} {ice:?} {key:?}");
    assert!(!printed.contains(&ice.password), "{printed}");
    assert!(!printed.contains("7, 7"), "{printed}");
    assert!(printed.contains(&ice.ufrag));
    assert_eq!((ice.ufrag.len(), ice.password.len()), (8, 24));
}

#[test]
fn every_secret_is_another() {
    let mut one = identity();
    let first = one.ice();
    one.restart_ice();
    let keys = SrtpSuite::ALL.map(|suite| one.srtp_key(suite).bytes().to_vec());
    assert_ne!(one.ice(), first);
    assert_ne!(
        LocalIdentity::new([8; 32], Fingerprint::sha256([0; 32])).ice(),
        first
    );
    for (at, key) in keys.iter().enumerate() {
        assert!(
            keys.iter()
                .skip(at + 1)
                .all(|other| other.get(..16) != key.get(..16))
        );
    }
}
