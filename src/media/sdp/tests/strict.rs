//! Whatever comes, what we answer is strict.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Checks that `answer` is strict, that it fits `offer`, and that its reader comes to the same
/// agreement as we did.
pub(super) fn check_answer(offer: &[u8], answer: &[u8], media: &MediaParams) {
    let offer_text = String::from_utf8_lossy(offer);
    let answer_text = text(&Bytes::copy_from_slice(answer));
    check_lines(&answer_text);
    check_places(offer, answer);
    check_attributes(&offer_text, &answer_text);

    let agreed = read_answer(offer, answer).expect("our answer fits the offer");
    check_agreement(&agreed, media);
    let at = agreed.remote.expect("the answer tells an address");
    if let Some(ice) = &agreed.ice {
        let addresses: Vec<_> = ice.remote_candidates.iter().map(|it| it.address).collect();
        assert_eq!(addresses, [at]);
    }
}

/// What the offerer reads is what the answerer means.
fn check_agreement(agreed: &MediaParams, media: &MediaParams) {
    assert_eq!(agreed.codec, media.codec);
    assert_eq!(agreed.payload_type, media.payload_type);
    assert_eq!(agreed.telephone_event, media.telephone_event);
    assert_eq!(agreed.telephone_event_clock, media.telephone_event_clock);
    assert_eq!(agreed.comfort_noise, media.comfort_noise);
    assert_eq!(agreed.direction, media.direction.reversed());
    assert_eq!(agreed.rtcp_mux, media.rtcp_mux);
    match (&agreed.keying, &media.keying) {
        (Keying::Plain, Keying::Plain) => {}
        (
            Keying::Sdes { send, receive },
            Keying::Sdes {
                send: ours,
                receive: theirs,
            },
        ) => assert_eq!((send, receive), (theirs, ours)),
        (
            Keying::Dtls {
                role, fingerprints, ..
            },
            Keying::Dtls {
                role: ours, local, ..
            },
        ) => {
            assert_ne!(role, ours);
            assert_eq!(fingerprints, std::slice::from_ref(local));
        }
        (theirs, ours) => panic!("{theirs:?} {ours:?}"),
    }
    match (&agreed.ice, &media.ice) {
        (None, None) => {}
        (Some(theirs), Some(ours)) => {
            assert_eq!(theirs.remote.as_ref(), Some(&ours.local));
            assert_eq!(Some(&theirs.local), ours.remote.as_ref());
            assert_eq!(theirs.remote_is_lite, ours.we_are_lite);
        }
        (theirs, ours) => panic!("{theirs:?} {ours:?}"),
    }
}

/// RFC 8866 section 9: the lines in their order, each with its end.
fn check_lines(answer: &str) {
    assert!(answer.ends_with("\r\n"));
    let lines: Vec<_> = answer.split("\r\n").collect();
    let (last, lines) = lines.split_last().unwrap();
    assert_eq!(*last, "");
    let kinds: String = lines
        .iter()
        .filter_map(|line| line.chars().next())
        .collect();
    assert!(kinds.starts_with("vosct"), "{kinds}");
    let rest = kinds.trim_start_matches("vosct");
    assert!(
        rest.chars().all(|kind| matches!(kind, 'a' | 'm')),
        "{kinds}"
    );
    for line in lines {
        assert_eq!(line.as_bytes().get(1), Some(&b'='), "{line:?}");
        assert!(
            line.bytes()
                .all(|byte| byte == b' ' || byte.is_ascii_graphic()),
            "{line:?}"
        );
        assert_eq!(line.trim_end(), *line);
    }
}

/// RFC 3264 section 6: the streams in their places, one of them taken.
fn check_places(offer: &[u8], answer: &[u8]) {
    let offer = Description::parse(offer).unwrap();
    let answer = Description::parse(answer).unwrap();
    assert_eq!(offer.media.len(), answer.media.len());
    assert_eq!(offer.timing, answer.timing);
    for (offered, answered) in offer.media.iter().zip(&answer.media) {
        assert_eq!(offered.kind, answered.kind);
        assert_eq!(offered.transport, answered.transport);
        assert!(
            answered
                .format_list
                .iter()
                .all(|it| offered.format_list.contains(it))
        );
        assert!(!answered.rtcp_mux || offered.rtcp_mux);
        assert_eq!(answered.mid, offered.mid);
        assert!(answered.port == 0 || offered.port != 0);
        let tags: Vec<_> = offered
            .cryptos
            .iter()
            .map(|it| (it.tag, it.key.suite()))
            .collect();
        assert!(answered.cryptos.len() <= 1);
        assert!(
            answered
                .cryptos
                .iter()
                .all(|it| tags.contains(&(it.tag, it.key.suite())))
        );
    }
    let taken: Vec<_> = answer.media.iter().filter(|it| it.port != 0).collect();
    assert_eq!(taken.len(), 1);
    // RFC 9143 section 7.3: only what is accepted, and only what was offered.
    assert!(answer.bundle.iter().all(|mid| offer.bundle.contains(mid)));
    assert!(
        answer
            .bundle
            .iter()
            .all(|mid| taken[0].mid.as_ref() == Some(mid))
    );
}

/// What an answer must not say, or must say once for each format.
fn check_attributes(offer: &str, answer: &str) {
    for never in [
        "a=setup:actpass",
        "a=rtcp-mux-only",
        "a=extmap",
        "trickle",
        "a=msid",
        "a=tls-id",
    ] {
        assert!(!answer.contains(never), "{answer}");
    }
    let ice = offer.to_ascii_lowercase().contains("ice-ufrag");
    assert!(ice || !answer.contains("a=ice"), "{answer}");
    let number = |line: &str| line.split([' ', ':']).nth(1).map(str::to_owned);
    let numbers = |name: &str| -> Vec<String> {
        let lines = answer.lines().filter(|line| line.starts_with(name));
        lines.filter_map(number).collect()
    };
    let taken = answer
        .lines()
        .find(|line| line.starts_with("m=audio ") && !line.starts_with("m=audio 0 "));
    let Some(taken) = taken else { return };
    let formats: BTreeSet<_> = taken.split(' ').skip(3).map(str::to_owned).collect();
    let maps = numbers("a=rtpmap:");
    assert_eq!(maps.len(), formats.len(), "{answer}");
    assert_eq!(maps.into_iter().collect::<BTreeSet<_>>(), formats);
    assert!(
        numbers("a=fmtp:")
            .iter()
            .all(|number| formats.contains(number))
    );
}

/// Lines as descriptions have them, good and bad.
fn any_line() -> impl Strategy<Value = String> {
    let print = "7B:8B:F0:65:5F:78:E2:51:3B:AC:6F:F3:3F:46:1B:35:DC:B8:5F:64:1A:24:C2:43:F0:A1:58:D0:A1:2C:19:08";
    prop_oneof![
        3 => "m=(audio|audio|video|image) [0-9]{1,6}(/2)? (RTP/AVPF?|RTP/SAVPF?|UDP/TLS/RTP/SAVPF?|TCP/RTP/AVP|udptl)( (0|8|9|13|101|111|[0-9]{1,3}|t38|\\*)){0,5}",
        2 => "c=IN IP[46] (0.0.0.0|192.0.2.1(/127)?|::|2001:db8::1|224.1.1.1|host.example)?",
        2 => "a=rtpmap:(111|101|9|[0-9]{1,3}) (PCMU|pcma|CN|telephone-event|opus|G722)(/(8000|48000|[0-9]{1,6})(/[0-9])?)?",
        1 => "a=(ptime|maxptime|rtcp|mid|fmtp):[ -~]{0,12}",
        1 => "a=mid:[0-2]",
        1 => "a=(sendrecv|sendonly|recvonly|inactive|rtcp-mux|rtcp-mux-only|bundle-only|ice-lite|end-of-candidates)",
        1 => "a=group:BUNDLE( [0-2]){0,3}",
        1 => "a=setup:(actpass|active|passive|holdconn|x)",
        1 => "a=ice-(ufrag|pwd):[a-zA-Z0-9+/]{1,30}",
        1 => "a=candidate:[0-9a-z]{1,4} [12] (UDP|tcp) [0-9]{1,10} (192.0.2.1|2001:db8::1|x.local) [0-9]{1,5} typ (host|srflx|relay)",
        1 => "a=crypto:[1-3] (AES_CM_128_HMAC_SHA1_80|AES_CM_128_HMAC_SHA1_32|F8_128_HMAC_SHA1_80) inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz(\\|2\\^31)?(\\|1:4)?",
        1 => Just(format!("a=fingerprint:sha-256 {print}")),
        1 => "a=fingerprint:(sha-1|sha-512|md5) [0-9A-F:]{0,60}",
        1 => "[a-z]=[ -~]{0,30}",
        1 => "\\PC{0,20}",
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        outcome(&body);
    }

    #[test]
    fn every_answer_reads_as_an_answer_to_its_offer(
        lines in proptest::collection::vec(any_line(), 0..40),
        break_with in prop_oneof![Just("\r\n"), Just("\n"), Just("\r")],
    ) {
        outcome(lines.join(break_with).as_bytes());
    }

    #[test]
    fn a_description_of_a_browser_may_be_torn_anywhere(
        cuts in proptest::collection::vec((0usize..3_000, any::<u8>()), 0..6),
        end in 0usize..4_000,
    ) {
        let mut body = fs::read(format!("{CORPUS}/chromium-jssip.sdp")).unwrap();
        for (at, byte) in cuts {
            if let Some(place) = body.get_mut(at) {
                *place = byte;
            }
        }
        body.truncate(end);
        outcome(&body);
    }
}
