use super::*;

use std::fs;
use std::path::Path;

mod exchange;
mod ice;
mod keys;
mod strict;

use crate::media::sdp::tests::strict::check_answer;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/sdp");

fn local() -> SocketAddr {
    "203.0.113.5:40000".parse().unwrap()
}

fn session() -> SessionVersion {
    SessionVersion::first(1_234_567)
}

fn sample(name: &str) -> Offer {
    Offer::parse(&fs::read(format!("{CORPUS}/{name}.sdp")).unwrap()).unwrap()
}

fn identity() -> LocalIdentity {
    LocalIdentity::new([7; 32], Fingerprint::sha256([0xAB; 32]))
}

/// Everything we can do.
fn everything() -> Preferences {
    Preferences {
        sdes: true,
        opportunistic_srtp: true,
        ..Preferences::default()
    }
}

fn read(offer: &Offer, preferences: &Preferences) -> Result<Negotiated, NegotiationError> {
    offer.negotiate(preferences, &mut identity(), None)
}

fn negotiate(name: &str) -> Negotiated {
    read(&sample(name), &Preferences::default()).unwrap()
}

/// An offer with these lines for its only stream.
fn offer_of(stream: &str) -> Result<Negotiated, NegotiationError> {
    let body = format!(
        "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n{stream}"
    );
    read(
        &Offer::parse(body.as_bytes()).unwrap(),
        &Preferences::default(),
    )
}

fn text(description: &Bytes) -> String {
    String::from_utf8(description.to_vec()).unwrap()
}

/// What we make of an offer, as a text to compare.
fn outcome(body: &[u8]) -> String {
    let offer = match Offer::parse(body) {
        Ok(offer) => offer,
        Err(error) => return format!("unreadable: {error}\n"),
    };
    match read(&offer, &everything()) {
        Ok(negotiated) => {
            let answer = negotiated.answer(local(), session());
            check_answer(body, &answer, &negotiated.media);
            let answer = text(&answer).replace("\r\n", "\n");
            format!("{:#?}\n\n{answer}", negotiated.media)
        }
        Err(error) => format!("refused: {error}\n"),
    }
}

#[test]
fn offers_of_real_devices_are_answered_as_before() {
    let mut seen = 0;
    for entry in fs::read_dir(CORPUS).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "sdp") {
            continue;
        }
        let outcome = outcome(&fs::read(&path).unwrap());
        let expected = path.with_extension("answer");
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            fs::write(&expected, &outcome).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(outcome, expected, "{}", path.display());
        seen += 1;
    }
    assert!(
        seen >= 20,
        "{seen} samples in {}",
        Path::new(CORPUS).display()
    );
}

#[test]
fn an_answer_keeps_the_streams_in_their_places() {
    let answer = text(&negotiate("many-streams").answer(local(), session()));
    let streams: Vec<_> = answer
        .lines()
        .filter(|line| line.starts_with("m="))
        .collect();
    assert_eq!(
        streams,
        [
            "m=application 0 UDP/BFCP *",
            "m=video 0 RTP/AVP 31",
            "m=audio 40000 RTP/AVP 0 97",
            "m=audio 0 RTP/AVP 8",
            "m=text 0 RTP/AVP 98",
            "m=whatever 0 SOME/THING x-y z",
        ]
    );
    assert!(answer.contains("\r\nt=3724394400 3724398000\r\n"));
    assert!(answer.contains("\r\na=mid:1\r\n"));
}

#[test]
fn an_answer_is_a_description_with_every_line_ended_as_the_standard_says() {
    let narrow = Preferences {
        codecs: vec![Codec::Pcma, Codec::Pcmu],
        ..Preferences::default()
    };
    let negotiated = read(&sample("freeswitch"), &narrow).unwrap();
    let answer = text(&negotiated.answer(local(), session()));
    assert_eq!(
        answer,
        "v=0\r\n\
         o=- 1234567 1 IN IP4 203.0.113.5\r\n\
         s=-\r\n\
         c=IN IP4 203.0.113.5\r\n\
         t=0 0\r\n\
         m=audio 40000 RTP/AVP 0 13 101\r\n\
         a=rtpmap:0 PCMU/8000\r\n\
         a=rtpmap:13 CN/8000\r\n\
         a=rtpmap:101 telephone-event/8000\r\n\
         a=fmtp:101 0-15\r\n\
         a=ptime:20\r\n\
         a=sendrecv\r\n\
         a=rtcp:40000\r\n"
    );
}

#[test]
fn an_answer_on_ipv6_says_so() {
    let local = "[2001:db8::5]:40000".parse().unwrap();
    let negotiated = negotiate("ims-volte-transcoded");
    let answer = text(&negotiated.answer(local, session()));
    assert!(answer.contains("c=IN IP6 2001:db8::5\r\n"));
    assert_eq!(
        negotiated.media.remote,
        Some("[2001:db8:41::12]:49120".parse().unwrap())
    );
}

#[test]
fn the_codec_in_use_is_kept_when_a_new_offer_still_lists_it() {
    let again = |name, codec| {
        let in_use = MediaParams {
            codec,
            ..MediaParams::of_offer(&Preferences::default(), &identity())
        };
        let negotiated =
            sample(name).negotiate(&Preferences::default(), &mut identity(), Some(&in_use));
        negotiated.unwrap().media.codec
    };
    assert_eq!(again("asterisk-trunk", Codec::Pcmu), Codec::Pcmu);
    assert_eq!(again("asterisk-trunk", Codec::Pcma), Codec::Pcma);
    assert_eq!(again("sipp-uac", Codec::Pcmu), Codec::Pcma);
}

#[test]
fn a_codec_that_is_not_preferred_is_not_taken() {
    let preferences = Preferences {
        codecs: vec![Codec::Pcmu],
        ..Preferences::default()
    };
    let taken = read(&sample("asterisk-trunk"), &preferences).unwrap();
    assert_eq!(taken.media.codec, Codec::Pcmu);
    assert_eq!(
        read(&sample("sipp-uac"), &preferences).unwrap_err(),
        NegotiationError::NoCommonCodec
    );
}

#[test]
fn digits_come_with_the_clock_of_the_codec_where_they_can() {
    let agreed = |formats: &str, maps: &str| {
        let maps: String = maps
            .lines()
            .map(|map| format!("a=rtpmap:{map}\r\n"))
            .collect();
        let media = offer_of(&format!("m=audio 4000 RTP/AVP {formats}\r\n{maps}"))
            .unwrap()
            .media;
        (media.telephone_event, media.telephone_event_clock)
    };
    let both = "111 opus/48000/2\n110 telephone-event/48000\n126 telephone-event/8000";
    assert_eq!(agreed("111 0 126 110", both), (Some(110), 48_000));
    assert_eq!(agreed("0 111 110 126", both), (Some(126), 8_000));
    assert_eq!(agreed("111 126", both), (Some(126), 8_000));
    assert_eq!(agreed("0 110", both), (Some(110), 48_000));
    assert_eq!(agreed("0", both), (None, 8_000));
    assert_eq!(agreed("0 126", "126 telephone-event/44100"), (None, 8_000));
}

#[test]
fn every_codec_is_known_by_its_names() {
    let codec = |formats: &str, map: &str| {
        let stream = format!("m=audio 4000 RTP/AVP {formats}\r\na=rtpmap:{map}\r\n");
        offer_of(&stream).map(|it| it.media.codec).ok()
    };
    assert_eq!(codec("9", "97 x/1"), Some(Codec::G722));
    assert_eq!(codec("9", "9 G722/8000"), Some(Codec::G722));
    assert_eq!(codec("99", "99 g722/16000/1"), Some(Codec::G722));
    assert_eq!(codec("99", "99 opus/48000/2"), Some(Codec::Opus));
    assert_eq!(codec("99", "99 OPUS/48000"), Some(Codec::Opus));
    assert_eq!(codec("99", "99 opus/8000/2"), None);
    assert_eq!(codec("99", "99 PCMU/16000"), None);
    assert_eq!(codec("99", "99 PCMA/8000/2"), None);
    assert_eq!(codec("111", "111 red/48000/2"), None);
}

#[test]
fn opus_comes_without_the_noise_of_other_codecs() {
    let negotiated = offer_of(
        "m=audio 4000 RTP/AVP 96 13 0\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 stereo=1;usedtx=1\r\n",
    )
    .unwrap();
    assert_eq!(negotiated.media.comfort_noise, None);
    let answer = text(&negotiated.answer(local(), session()));
    assert!(
        answer.contains("\r\nm=audio 40000 RTP/AVP 96\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 minptime=10;useinbandfec=1\r\n")
    );
}

#[test]
fn every_way_to_hold_is_answered_by_its_counterpart() {
    for (offered, ours) in [
        ("sendrecv", Direction::SendRecv),
        ("sendonly", Direction::RecvOnly),
        ("recvonly", Direction::SendOnly),
        ("inactive", Direction::Inactive),
    ] {
        let stream = format!("m=audio 4000 RTP/AVP 0\r\na={offered}\r\n");
        let negotiated = offer_of(&stream).unwrap();
        assert_eq!(negotiated.media.direction, ours);
        let answer = text(&negotiated.answer(local(), session()));
        assert!(answer.contains(&format!("\r\na={}\r\n", ours.attribute())));

        // The old way on top of it: nothing may be sent to nowhere.
        let held = offer_of(&format!("{stream}c=IN IP4 0.0.0.0\r\n"))
            .unwrap()
            .media;
        assert_eq!(held.remote, None);
        assert_eq!(held.remote_rtcp, None);
        assert!(!held.direction.sends());
        assert_eq!(held.direction.receives(), ours.receives());
    }
}

#[test]
fn the_direction_of_a_stream_wins_over_that_of_the_session() {
    let body = "v=0\nc=IN IP4 192.0.2.1\na=inactive\nm=audio 4000 RTP/AVP 0\na=sendrecv\n";
    let offer = Offer::parse(body.as_bytes()).unwrap();
    let negotiated = read(&offer, &Preferences::default()).unwrap();
    assert_eq!(negotiated.media.direction, Direction::SendRecv);
}

#[test]
fn rtcp_goes_where_the_offer_says() {
    let to = |lines: &str| {
        let media = offer_of(&format!("m=audio 4000 RTP/AVP 0\r\n{lines}"))
            .unwrap()
            .media;
        media.remote_rtcp.unwrap().to_string()
    };
    assert_eq!(to(""), "192.0.2.1:4001");
    assert_eq!(to("a=rtcp:5000\r\n"), "192.0.2.1:5000");
    assert_eq!(to("a=rtcp:5000 IN IP4 192.0.2.2\r\n"), "192.0.2.2:5000");
    assert_eq!(to("a=rtcp:5000\r\na=rtcp-mux\r\n"), "192.0.2.1:4000");
    let last = offer_of("m=audio 65535 RTP/AVP 0\r\n").unwrap();
    assert_eq!(last.media.remote_rtcp, None);
}

#[test]
fn a_packet_time_out_of_the_usual_is_not_followed() {
    for (lines, expected) in [
        ("", 20),
        ("a=ptime:10\r\n", 10),
        ("a=ptime:30\r\n", 30),
        ("a=ptime:60\r\n", 60),
        ("a=ptime:0\r\n", 20),
        ("a=ptime:25\r\n", 20),
        ("a=ptime:200\r\n", 20),
        ("a=ptime:4000000000\r\n", 20),
        ("a=ptime:99999999999\r\n", 20),
        ("a=maxptime:10\r\n", 10),
        ("a=maxptime:150\r\n", 20),
        ("a=ptime:60\r\na=maxptime:45\r\n", 40),
        ("a=maxptime:5\r\n", 10),
    ] {
        let stream = format!("m=audio 4000 RTP/AVP 0\r\n{lines}");
        assert_eq!(
            offer_of(&stream).unwrap().media.ptime_ms,
            expected,
            "{lines}"
        );
    }
}

#[test]
fn a_refusal_tells_what_came_closest() {
    let refused = |stream: &str| offer_of(stream).unwrap_err();
    let secured = "m=audio 4000 RTP/SAVP 0\r\n";
    let unknown_transport = "m=audio 4000 TCP/TLS/RTP/SAVPF 0\r\n";
    let unknown_codec = "m=audio 4000 RTP/AVP 18\r\n";
    let named = "m=audio 4000 RTP/AVP 0\r\nc=IN IP4 phone.example.com\r\n";
    assert_eq!(
        refused("m=video 4000 RTP/AVP 31\r\n"),
        NegotiationError::NoAudio
    );
    assert_eq!(
        refused("m=audio 0 RTP/AVP 0\r\n"),
        NegotiationError::NoAudio
    );
    assert_eq!(
        refused(unknown_transport),
        NegotiationError::Transport("TCP/TLS/RTP/SAVPF".into())
    );
    assert!(matches!(refused(secured), NegotiationError::Keys(_)));
    assert_eq!(
        refused(named),
        NegotiationError::NoAddress("phone.example.com".into())
    );
    assert_eq!(refused(unknown_codec), NegotiationError::NoCommonCodec);
    let all = format!("{unknown_transport}{secured}{unknown_codec}{named}");
    assert_eq!(refused(&all), NegotiationError::NoCommonCodec);
}

#[test]
fn a_text_that_describes_no_stream_is_no_offer() {
    for body in [
        "",
        "hello",
        "v=0\r\n",
        "m=\r\n",
        "m=audio\r\n",
        "m=audio x RTP/AVP 0\r\n",
        "m=audio 70000 RTP/AVP 0\r\n",
        "m=audio 4000 RTP/AVP\r\n",
        "m=audio 4000 RTP/AVP 0\x07\r\n",
    ] {
        assert!(Offer::parse(body.as_bytes()).is_err(), "{body:?}");
    }
    let long = "a=x\r\n".repeat(20_000);
    assert_eq!(
        Offer::parse(long.as_bytes()),
        Err(SdpError::TooLong(long.len()))
    );
    let many = "m=audio 4000 RTP/AVP 0\r\n".repeat(65);
    assert_eq!(Offer::parse(many.as_bytes()), Err(SdpError::TooManyStreams));
}

#[test]
fn our_offer_and_its_answer_come_to_the_same_agreement() {
    let caller = "192.0.2.1:5004".parse().unwrap();
    let preferences = Preferences::default();
    let made = offer(caller, session(), &preferences, &identity());
    let callee = read(&Offer::parse(&made).unwrap(), &preferences).unwrap();
    let answer = callee.answer(local(), session());
    let agreed = read_answer(&made, &answer).unwrap();

    assert_eq!(callee.media.remote, Some(caller));
    assert_eq!(agreed.remote, Some(local()));
    assert_eq!(agreed.remote_rtcp, Some(local()));
    assert_eq!((agreed.codec, agreed.payload_type), (Codec::Opus, 111));
    assert_eq!(agreed.telephone_event, Some(110));
    let turned = MediaParams {
        remote: Some(caller),
        remote_rtcp: Some(caller),
        ..agreed
    };
    assert_eq!(callee.media, turned);
}

#[test]
fn answers_that_do_not_fit_are_errors() {
    let made = offer(local(), session(), &Preferences::default(), &identity());
    let answer = |stream: &str| {
        let body = format!("v=0\r\nc=IN IP4 192.0.2.1\r\n{stream}");
        read_answer(&made, body.as_bytes())
    };
    let media = answer("m=audio 4000 RTP/AVP 0\r\na=sendonly\r\n").unwrap();
    assert_eq!(
        (media.codec, media.direction),
        (Codec::Pcmu, Direction::RecvOnly)
    );
    assert_eq!(media.telephone_event, None);
    assert!(!media.rtcp_mux);

    let wrong = [
        "m=audio 4000 RTP/AVP 0\r\nm=video 0 RTP/AVP 31\r\n",
        "m=video 4000 RTP/AVP 31\r\n",
        "m=audio 4000 RTP/AVPF 0\r\n",
    ];
    for stream in wrong {
        let error = answer(stream).unwrap_err();
        assert!(
            matches!(error, NegotiationError::WrongAnswer(_)),
            "{stream}: {error}"
        );
    }
    assert_eq!(
        answer("m=audio 0 RTP/AVP 0\r\n"),
        Err(NegotiationError::NoAudio)
    );
    assert_eq!(
        answer("m=audio 4000 RTP/AVP 18\r\n"),
        Err(NegotiationError::NoCommonCodec)
    );
    assert!(matches!(
        answer(""),
        Err(NegotiationError::Unreadable(SdpError::NoStream))
    ));
}

#[test]
fn an_answer_cannot_add_what_was_not_offered() {
    let pcmu_only = "v=0\nc=IN IP4 192.0.2.1\nm=audio 4000 RTP/AVP 0\n";
    let answer = |lines: &str| {
        let body = format!("v=0\nc=IN IP4 192.0.2.2\nm=audio 5000 RTP/AVP {lines}\n");
        read_answer(pcmu_only.as_bytes(), body.as_bytes())
    };
    assert_eq!(answer("8"), Err(NegotiationError::NoCommonCodec));
    assert!(matches!(
        answer("0\na=rtcp-mux"),
        Err(NegotiationError::WrongAnswer(_))
    ));
    let media = answer("8 0 13 101\na=rtpmap:101 telephone-event/8000").unwrap();
    assert_eq!(media.codec, Codec::Pcmu);
    assert_eq!((media.comfort_noise, media.telephone_event), (None, None));
}

#[test]
fn each_description_of_a_session_has_its_version() {
    let mut session = SessionVersion::first(u64::MAX);
    let first = text(&offer(
        local(),
        session,
        &Preferences::default(),
        &identity(),
    ));
    session.increment();
    let second = text(&offer(
        local(),
        session,
        &Preferences::default(),
        &identity(),
    ));
    assert!(first.contains("o=- 2147483647 1 IN IP4"));
    assert!(second.contains("o=- 2147483647 2 IN IP4"));
}
