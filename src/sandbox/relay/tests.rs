use crate::clock::SystemClock;
use crate::sandbox::config::Config;

use super::*;

const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
    m=audio PORT RTP/AVP 8\r\na=rtcp:9 IN IP4 127.0.0.1\r\na=rtpmap:8 PCMA/8000\r\n";

fn description(port: u16) -> Bytes {
    OFFER.replace("PORT", &port.to_string()).into()
}

#[test]
fn the_address_of_the_audio_is_replaced_and_nothing_else() {
    let text = OFFER.replace("PORT", "4000");
    assert_eq!(
        audio_address(&text),
        Some("127.0.0.1:4000".parse().unwrap())
    );
    let rewritten = with_address(&text, "192.0.2.1:5000".parse().unwrap());
    let expected = text
        .replace("c=IN IP4 127.0.0.1", "c=IN IP4 192.0.2.1")
        .replace("4000", "5000")
        .replace("a=rtcp:9 IN IP4 127.0.0.1\r\n", "");
    assert_eq!(rewritten, expected);

    // The section's own connection counts, and a stream that is refused does not.
    let own = "v=0\r\nc=IN IP4 192.0.2.9\r\nm=audio 0 RTP/AVP 0\r\nm=audio 6000 RTP/AVP 8\r\nc=IN IP6 ::1\r\n\
        m=video 7000 RTP/AVP 9\r\nc=IN IP4 192.0.2.7\r\n";
    assert_eq!(audio_address(own), Some("[::1]:6000".parse().unwrap()));
    for nowhere in [
        "",
        "m=audio 4000 RTP/AVP 8",
        "c=IN IP4 x\r\nm=audio 4 RTP/AVP 8",
    ] {
        assert_eq!(audio_address(nowhere), None, "{nowhere}");
    }
}

#[test]
fn where_there_is_ice_the_relay_is_the_only_candidate() {
    let ice = "v=0\r\nc=IN IP4 192.0.2.9\r\nm=audio 4000 UDP/TLS/RTP/SAVPF 111\r\na=ice-ufrag:u\r\na=ice-pwd:p\r\n\
        a=candidate:1 1 udp 1 192.0.2.9 4000 typ host\r\na=candidate:2 1 tcp 1 192.0.2.9 9 typ host\r\n\
        m=video 4000 UDP/TLS/RTP/SAVPF 96\r\na=candidate:1 1 udp 1 192.0.2.9 4000 typ host\r\n";
    let rewritten = with_address(ice, "127.0.0.1:5000".parse().unwrap());
    let expected = "v=0\r\nc=IN IP4 127.0.0.1\r\nm=audio 5000 UDP/TLS/RTP/SAVPF 111\r\na=ice-ufrag:u\r\na=ice-pwd:p\r\n\
        a=candidate:1 1 UDP 2130706431 127.0.0.1 5000 typ host\r\nm=video 4000 UDP/TLS/RTP/SAVPF 96\r\n";
    assert_eq!(rewritten, expected);

    // What the checks will show, and a call that is on hold.
    let unknown = Some("0.0.0.0:9".parse().unwrap());
    for nowhere in ["0.0.0.0", "5f6a.local"] {
        let hidden = ice.replace("192.0.2.9", nowhere);
        assert_eq!(audio_address(&hidden), unknown, "{nowhere}");
        let held = hidden.replace("a=ice-ufrag:u\r\n", "");
        assert_eq!(audio_address(&held), None, "{nowhere}");
    }
}

#[test]
fn packets_are_lost_delayed_and_doubled_as_often_as_they_should() {
    const PACKETS: usize = 10_000;
    let fates = |loss, jitter| {
        let mut chance = StdRng::from_seed([3; 32]);
        let suffers = Suffering { loss, jitter };
        let all: Vec<_> = (0..PACKETS).map(|_| suffers.delays(&mut chance)).collect();
        let lost = all.iter().filter(|one| one.is_empty()).count();
        let doubled = all.iter().filter(|one| one.len() == 2).count();
        let latest = all.iter().flatten().max().copied().unwrap();
        (lost, doubled, latest)
    };
    let (lost, doubled, latest) = fates(true, false);
    assert!((900..1100).contains(&lost), "{lost}");
    assert_eq!((doubled, latest), (0, Duration::ZERO));
    let (lost, doubled, latest) = fates(false, true);
    assert_eq!(lost, 0);
    assert!((250..420).contains(&doubled), "{doubled}");
    assert_eq!(latest, Duration::from_millis(LATEST_MS));
}

#[tokio::test]
async fn the_media_of_a_call_that_suffers_goes_through_the_relay_and_back() {
    let config = Config::default();
    let world = World::new(&config, Arc::new(SystemClock), [5; 32]);
    let (anna, bjarne) = ("+4799990001", "+4799990002");
    let [anna, bjarne] = [anna, bjarne].map(|number| Msisdn::parse(number).unwrap());
    let stop = CancellationToken::new();
    let mut relay = MediaRelay::new(&world, &TaskTracker::new(), &stop);
    let bind = async || UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (caller, called) = (bind().await, bind().await);
    let address = |socket: &UdpSocket| socket.local_addr().unwrap();
    let body = description(address(&caller).port());
    let offer = Description {
        call_id: "call",
        sender_tag: "a",
        body: &body,
    };
    // A call that does not suffer is left alone.
    relay.begins("call", Some(&anna), &bjarne);
    assert_eq!(relay.rewrite(&offer), None);

    let for_ever = crate::domain::Timestamp::MAX;
    world.modes.set(Some(&bjarne), Mode::MediaLoss, for_ever);
    relay.begins("call", Some(&anna), &bjarne);
    let stand_in = |body: Option<Bytes>| {
        let body = body.expect("a description that was rewritten");
        audio_address(std::str::from_utf8(&body).unwrap()).unwrap()
    };
    let of_caller = stand_in(relay.rewrite(&offer));
    assert_eq!(stand_in(relay.rewrite(&offer)), of_caller);
    let answer = description(address(&called).port());
    let of_called = stand_in(relay.rewrite(&Description {
        sender_tag: "b",
        body: &answer,
        ..offer
    }));

    // What the caller sends to the stand-in of the called comes from his own stand-in.
    let mut buffer = [0; 64];
    for (sender, to, receiver, seems_from) in [
        (&caller, of_called, &called, of_caller),
        (&called, of_caller, &caller, of_called),
    ] {
        let sending = async {
            for _ in 0..50 {
                sender.send_to(b"packet", to).await.unwrap();
            }
        };
        let (_, received) = tokio::join!(sending, receiver.recv_from(&mut buffer));
        let (length, from) = received.unwrap();
        assert_eq!((&buffer[..length], from), (&b"packet"[..], seems_from));
    }

    // A check from elsewhere: ICE has found another way to the caller, which stays over a repeated offer.
    let (elsewhere, mut check) = (bind().await, [0; 20]);
    check[1] = 1;
    for (sender, to, packet, receiver) in [
        (&elsewhere, of_called, &check[..], &called),
        (&called, of_caller, b"packet", &elsewhere),
    ] {
        assert_eq!(stand_in(relay.rewrite(&offer)), of_caller);
        let sending = async {
            for _ in 0..50 {
                sender.send_to(packet, to).await.unwrap();
            }
        };
        let (_, received) = tokio::join!(sending, arrival(receiver, packet));
        let seems_from = if to == of_called {
            of_caller
        } else {
            of_called
        };
        assert_eq!(received, seems_from);
    }
    relay.ends("call");
    assert_eq!(relay.rewrite(&offer), None);
}

/// Waits for this packet; tells where it seems to come from.
async fn arrival(socket: &UdpSocket, wanted: &[u8]) -> SocketAddr {
    let mut buffer = [0; 64];
    let waiting = async {
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            if &buffer[..length] == wanted {
                return from;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .expect("the packet comes")
}
