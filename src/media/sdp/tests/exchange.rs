//! What goes on over the offers of one call.

use super::*;

const PRINT: [&str; 2] = ["AB", "CD"];

/// An offer as a browser has it.
#[derive(Clone, Copy)]
struct Browser {
    ufrag: &'static str,
    print: &'static str,
    setup: &'static str,
    direction: &'static str,
    formats: &'static str,
}

impl Browser {
    const fn new() -> Self {
        Self {
            ufrag: "first",
            print: PRINT[0],
            setup: "actpass",
            direction: "sendrecv",
            formats: "111 8 0 110 126",
        }
    }

    fn offer(self) -> String {
        let print = [self.print; 32].join(":");
        let Self {
            ufrag,
            setup,
            direction,
            formats,
            ..
        } = self;
        format!(
            "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
             m=audio 9 UDP/TLS/RTP/SAVPF {formats}\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n\
             a=ice-ufrag:{ufrag}\r\na=ice-pwd:0rX2m6p1nZs6J5Qy8uT4{ufrag}\r\na=ice-options:trickle\r\n\
             a=fingerprint:sha-256 {print}\r\na=setup:{setup}\r\na=mid:0\r\na={direction}\r\na=rtcp-mux\r\n\
             a=rtpmap:111 opus/48000/2\r\na=rtpmap:110 telephone-event/48000\r\n\
             a=rtpmap:126 telephone-event/8000\r\n\
             m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=rtpmap:96 VP8/90000\r\n"
        )
    }
}

fn answering(offer: &str) -> (Exchange, MediaParams, Bytes) {
    let opening = Opening::answering(offer.as_bytes(), everything(), identity()).unwrap();
    let media = opening.media().clone();
    let (exchange, answer) = opening.at(local(), 77);
    check_answer(offer.as_bytes(), &answer, &media);
    (exchange, media, answer)
}

fn again(exchange: &mut Exchange, offer: &str) -> (MediaParams, Bytes) {
    let (media, answer) = exchange.on_offer(offer.as_bytes()).unwrap();
    check_answer(offer.as_bytes(), &answer, &media);
    assert_eq!(exchange.agreed(), Some(&media));
    (media, answer)
}

fn version(description: &Bytes) -> String {
    let text = text(description);
    let origin = text.lines().find(|line| line.starts_with("o=")).unwrap();
    origin.split(' ').nth(2).unwrap().to_owned()
}

#[test]
fn the_same_offer_again_changes_nothing_not_even_the_version() {
    let (mut exchange, first, answer) = answering(&Browser::new().offer());
    let (media, same) = again(&mut exchange, &Browser::new().offer());
    assert_eq!(media, first);
    assert_eq!(answer, same);
}

#[test]
fn hold_and_resume_keep_keys_and_ice() {
    let (mut exchange, first, answer) = answering(&Browser::new().offer());
    let hold = Browser {
        direction: "sendonly",
        ..Browser::new()
    };
    let (held, told) = again(&mut exchange, &hold.offer());
    assert_eq!(held.direction, Direction::RecvOnly);
    assert_eq!((&held.keying, &held.ice), (&first.keying, &first.ice));
    assert_eq!(
        (version(&answer), version(&told)),
        ("1".to_owned(), "2".to_owned())
    );
    let (resumed, told) = again(&mut exchange, &Browser::new().offer());
    assert_eq!(resumed, first);
    assert_eq!(version(&told), "3");
}

#[test]
fn a_role_in_use_stays_and_another_is_followed() {
    let passive = Browser {
        setup: "active",
        ..Browser::new()
    };
    let (mut exchange, first, _) = answering(&passive.offer());
    let role = |media: &MediaParams| match &media.keying {
        Keying::Dtls { role, .. } => *role,
        other => panic!("{other:?}"),
    };
    assert_eq!(role(&first), DtlsRole::Passive);
    // RFC 8842 section 5.2: later offers let the choice, and it is not to be made anew.
    let (media, answer) = again(&mut exchange, &Browser::new().offer());
    assert_eq!(media.keying, first.keying);
    assert!(text(&answer).contains("a=setup:passive"));
    let other = Browser {
        setup: "passive",
        ..Browser::new()
    };
    assert_eq!(
        role(&again(&mut exchange, &other.offer()).0),
        DtlsRole::Active
    );
    let moved = Browser {
        print: PRINT[1],
        ..Browser::new()
    };
    let (media, _) = again(&mut exchange, &moved.offer());
    assert_ne!(media.keying, first.keying);
    assert_eq!(role(&media), DtlsRole::Active);
}

#[test]
fn a_restart_of_ice_is_answered_by_ours_and_starts_nothing_else() {
    let (mut exchange, first, _) = answering(&Browser::new().offer());
    let restart = Browser {
        ufrag: "second",
        ..Browser::new()
    };
    let (media, answer) = again(&mut exchange, &restart.offer());
    let (before, after) = (first.ice.unwrap(), media.ice.clone().unwrap());
    assert_ne!(before.local, after.local);
    assert_eq!(after.remote.unwrap().ufrag, "second");
    assert_eq!(media.keying, first.keying);
    assert!(text(&answer).contains(&format!("a=ice-ufrag:{}\r\n", after.local.ufrag)));
    // Once only.
    let (same, _) = again(&mut exchange, &restart.offer());
    assert_eq!(same.ice, media.ice);
}

#[test]
fn an_offer_that_is_refused_changes_nothing() {
    let (mut exchange, first, _) = answering(&Browser::new().offer());
    let unusable = Browser {
        ufrag: "third",
        formats: "18",
        ..Browser::new()
    };
    assert_eq!(
        exchange.on_offer(unusable.offer().as_bytes()),
        Err(NegotiationError::NoCommonCodec)
    );
    assert!(matches!(
        exchange.on_offer(b"x"),
        Err(NegotiationError::Unreadable(_))
    ));
    assert_eq!(exchange.agreed(), Some(&first));
    assert_eq!(again(&mut exchange, &Browser::new().offer()).0, first);
}

#[test]
fn a_new_offer_may_change_the_codec() {
    let (mut exchange, first, _) = answering(&Browser::new().offer());
    assert_eq!(
        (first.codec, first.telephone_event),
        (Codec::Opus, Some(110))
    );
    let narrow = Browser {
        formats: "8 126",
        ..Browser::new()
    };
    let (media, _) = again(&mut exchange, &narrow.offer());
    assert_eq!(
        (media.codec, media.telephone_event),
        (Codec::Pcma, Some(126))
    );
    // And then stays with it.
    let reordered = Browser {
        formats: "111 8 0 126",
        ..Browser::new()
    };
    assert_eq!(
        again(&mut exchange, &reordered.offer()).0.codec,
        Codec::Pcma
    );
}

#[test]
fn what_we_offer_later_is_what_is_there() {
    let (mut exchange, first, _) = answering(&Browser::new().offer());
    let made = exchange.offer();
    let made_text = text(&made);
    assert!(
        made_text.contains("\r\na=group:BUNDLE 0\r\n"),
        "{made_text}"
    );
    assert!(
        made_text.contains("\r\nm=audio 40000 UDP/TLS/RTP/SAVPF 111 9 8 0 110 101\r\n"),
        "{made_text}"
    );
    assert!(made_text.contains("\r\nm=video 0 UDP/TLS/RTP/SAVPF 96\r\n"));
    assert!(made_text.contains("a=setup:actpass") && made_text.contains("a=mid:0"));
    let ice = first.ice.clone().unwrap();
    assert!(made_text.contains(&format!("a=ice-ufrag:{}\r\n", ice.local.ufrag)));

    // The peer repeats its side: its description is an answer if it chooses its role.
    let answer = Browser {
        setup: "passive",
        ..Browser::new()
    }
    .offer();
    let answer = answer.replace("m=video 9", "m=video 0");
    let media = exchange.on_answer(answer.as_bytes()).unwrap().unwrap();
    assert_eq!((&media.keying, &media.ice), (&first.keying, &first.ice));
    assert_eq!(media.codec, Codec::Opus);
    assert_eq!(exchange.on_answer(answer.as_bytes()), Ok(None));
}

#[test]
fn plain_calls_offer_plain_again_whatever_is_configured_for_new_ones() {
    let preferences = Preferences {
        offer: OfferKeying::Dtls,
        ..everything()
    };
    let offer = "v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 8\r\n";
    let opening = Opening::answering(offer.as_bytes(), preferences, identity()).unwrap();
    let (mut exchange, _) = opening.at(local(), 1);
    let made = text(&exchange.offer());
    assert!(
        made.contains("m=audio 40000 RTP/AVP 8 111 9 0 101 110\r\n"),
        "{made}"
    );
    assert!(!made.contains("ice") && !made.contains("fingerprint"));
}

#[test]
fn a_late_offer_and_its_answer_come_to_an_agreement() {
    for kind in [OfferKeying::Plain, OfferKeying::Sdes, OfferKeying::Dtls] {
        let preferences = Preferences {
            offer: kind,
            ice: IceMode::Full,
            ..everything()
        };
        let opening = Opening::offering(
            preferences,
            LocalIdentity::new([1; 32], Fingerprint::sha256([1; 32])),
        );
        let (mut ours, offer) = opening.at("192.0.2.9:6000".parse().unwrap(), 5);
        assert_eq!(ours.agreed(), None);
        let (mut theirs, theirs_first, answer) = answering(&text(&offer));
        let agreed = ours.on_answer(&answer).unwrap().unwrap();
        assert_eq!(agreed.payload_type, theirs_first.payload_type);

        // Each may offer anew, and everything stays.
        let offer = ours.offer();
        let (media, answer) = again(&mut theirs, &text(&offer));
        assert_eq!(media, theirs_first);
        assert_eq!(ours.on_answer(&answer).unwrap().unwrap(), agreed);
        let offer = theirs.offer();
        let (media, answer) = again(&mut ours, &text(&offer));
        assert_eq!(
            (&media.keying, &media.codec),
            (&agreed.keying, &agreed.codec)
        );
        assert_eq!(
            media.ice.as_ref().map(|it| &it.local),
            agreed.ice.as_ref().map(|it| &it.local)
        );
        assert_eq!(
            theirs.on_answer(&answer).unwrap().unwrap().keying,
            theirs_first.keying
        );
    }
}

/// A key that protected packets before would count them anew, and use its key streams twice.
#[test]
fn a_key_of_ours_that_was_left_never_comes_back() {
    let offer = |transport: &str, cryptos: &[(&str, u8)]| {
        let lines = cryptos.iter().zip(1..).map(|((suite, fill), tag)| {
            let suite = SrtpSuite::from_name(suite).unwrap();
            let key = SrtpKey::new(suite, &vec![*fill; suite.key_and_salt_len()]).unwrap();
            format!("a=crypto:{}\r\n", Crypto { tag, key }.to_line())
        });
        let lines: String = lines.collect();
        format!("v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 {transport} 8\r\n{lines}")
    };
    const CM: &str = "AES_CM_128_HMAC_SHA1_80";
    const GCM: &str = "AEAD_AES_128_GCM";
    let ours = |media: &MediaParams| match &media.keying {
        Keying::Sdes { send, .. } => send.clone(),
        other => panic!("{other:?}"),
    };
    let (mut exchange, first, _) = answering(&offer("RTP/SAVP", &[(CM, 1)]));
    let mut said = |body: String| again(&mut exchange, &body).0;
    let rekeyed = said(offer("RTP/SAVP", &[(CM, 2)]));
    assert_eq!(ours(&rekeyed), ours(&first), "the peer alone has changed");
    assert_eq!(said(offer("RTP/AVP", &[])).keying, Keying::Plain);
    let mut used = vec![ours(&first)];
    for suite in [CM, GCM, CM, GCM] {
        let key = ours(&said(offer("RTP/SAVP", &[(suite, 3)])));
        assert!(!used.contains(&key), "{suite}");
        used.push(key);
    }

    // The same where the offer is ours, and the peer chooses another suite than that in use.
    let made = exchange.offer();
    let in_use = used.last().unwrap();
    assert!(
        text(&made).contains(
            &Crypto {
                tag: 2,
                key: in_use.clone()
            }
            .to_line()
        )
    );
    let answer = offer("RTP/SAVP", &[(CM, 4)]).replace("crypto:1", "crypto:3");
    let key = ours(&exchange.on_answer(answer.as_bytes()).unwrap().unwrap());
    assert!(!used.contains(&key));
    used.push(key);
    let (media, _) = again(&mut exchange, &offer("RTP/SAVP", &[(GCM, 5)]));
    assert!(!used.contains(&ours(&media)));
}

#[test]
fn protection_that_was_agreed_on_the_side_is_not_taken_back_where_it_has_to_be() {
    let crypto = Crypto {
        tag: 1,
        key: SrtpKey::new(SrtpSuite::AeadAes128Gcm, &[3; 28]).unwrap(),
    };
    let clear = "v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 8\r\n";
    let offer = format!("{clear}a=crypto:{}\r\n", crypto.to_line());
    for plain_rtp in [true, false] {
        let preferences = Preferences {
            plain_rtp,
            ..everything()
        };
        let opening = Opening::answering(offer.as_bytes(), preferences, identity()).unwrap();
        assert!(matches!(opening.media().keying, Keying::Sdes { .. }));
        let (mut exchange, _) = opening.at(local(), 1);
        assert!(text(&exchange.offer()).contains("a=crypto:"));
        let answered = exchange.on_answer(clear.as_bytes());
        assert_eq!(answered.is_ok(), plain_rtp, "{answered:?}");
    }
}
