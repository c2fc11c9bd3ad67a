//! SIP over real sockets: calls between two servers, and peers that keep to no rule.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sip_peer;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use aftertone::sip::message::{StatusCode, Uri};
use aftertone::sip::{AnswerError, Config, Dialog, DialogEnd, DialogEvent};
use aftertone::sip::{IncomingCall, OutgoingCall, OutgoingEvent, OutgoingRequest};
use aftertone::sip::{Reason, Sip, StartError, Transport};
use bytes::Bytes;
use sip_peer::{Peer, connect_tls, in_dialog, invite, options, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const OFFER: &[u8] = b"v=0 the offer";
const ANSWER: &[u8] = b"v=0 the answer";

/// A running SIP, which is stopped and waited for by `stop`.
struct Node {
    sip: Sip,
    incoming: mpsc::Receiver<IncomingCall>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Node {
    async fn start(config: Config) -> Self {
        Self::try_start(config).await.unwrap()
    }

    async fn try_start(config: Config) -> Result<Self, StartError> {
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let (sip, incoming) = Sip::start(&config, &tasks, stop.clone(), [7; 32]).await?;
        Ok(Self {
            sip,
            incoming,
            tasks,
            stop,
        })
    }

    fn addr(&self, transport: Transport) -> SocketAddr {
        let of_transport = self
            .sip
            .local_addrs()
            .iter()
            .find(|(of, _)| *of == transport);
        of_transport.unwrap().1
    }

    async fn call(&self, to: &Self, transport: Transport) -> OutgoingCall {
        let addr = to.addr(transport);
        let name = transport.uri_name();
        let scheme = if transport == Transport::Wss {
            "sips"
        } else {
            "sip"
        };
        let uri = format!("{scheme}:+4790012345@{addr};transport={name}");
        let request = OutgoingRequest::new(uri.parse().unwrap(), Some(Bytes::from_static(OFFER)));
        self.sip.call(request).await.unwrap()
    }

    async fn next_call(&mut self) -> IncomingCall {
        within(self.incoming.recv()).await.unwrap()
    }

    /// Every task must end.
    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        within(self.tasks.wait()).await;
    }
}

fn listening(transport: &str) -> Config {
    Config {
        listen: vec![format!("{transport}://127.0.0.1:0").parse().unwrap()],
        ..Config::default()
    }
}

/// A certificate for `localhost` and 127.0.0.1 in `folder`, and the settings that use and trust it.
fn listening_tls(folder: &Path) -> Config {
    write_certificate(folder);
    Config {
        tls_certificate: Some(folder.join("certificate.pem")),
        tls_private_key: Some(folder.join("key.pem")),
        tls_ca: Some(folder.join("certificate.pem")),
        ..listening("tls")
    }
}

fn listening_wss(folder: &Path) -> Config {
    Config {
        listen: listening("wss").listen,
        ..listening_tls(folder)
    }
}

fn write_certificate(folder: &Path) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("certificate.pem"), made.cert.pem()).unwrap();
}

async fn answered(call: &mut OutgoingCall) -> (Dialog, Option<Bytes>) {
    loop {
        match within(call.next_event()).await {
            OutgoingEvent::Answered {
                dialog,
                description,
                ..
            } => return (dialog, description),
            OutgoingEvent::Trying | OutgoingEvent::Ringing { .. } => {}
            other => panic!("not answered but {other:?}"),
        }
    }
}

async fn refused(call: &mut OutgoingCall) -> u16 {
    loop {
        match within(call.next_event()).await {
            OutgoingEvent::Rejected(response) => return response.status.code(),
            OutgoingEvent::Trying | OutgoingEvent::Ringing { .. } => {}
            other => panic!("not refused but {other:?}"),
        }
    }
}

async fn ended(dialog: &mut Dialog) -> DialogEnd {
    loop {
        if let DialogEvent::Ended(end) = within(dialog.next_event()).await {
            return end;
        }
    }
}

/// Brings a call up between two nodes.
async fn established(caller: &Node, callee: &mut Node, transport: Transport) -> (Dialog, Dialog) {
    let mut outgoing = caller.call(callee, transport).await;
    let incoming = callee.next_call().await;
    let answering = incoming.answer(Bytes::from_static(ANSWER));
    let (mine, theirs) = tokio::join!(answered(&mut outgoing), answering);
    let mut theirs = theirs.unwrap();
    let event = within(theirs.next_event()).await;
    assert!(
        matches!(event, DialogEvent::Confirmed { answer: None }),
        "{event:?}"
    );
    (mine.0, theirs)
}

async fn a_whole_call(caller: Node, mut callee: Node, transport: Transport) {
    let mut outgoing = caller.call(&callee, transport).await;
    let incoming = callee.next_call().await;
    assert_eq!(incoming.transport(), transport);
    assert_eq!(incoming.offer().unwrap(), OFFER);
    assert_eq!(incoming.request().uri.user.as_deref(), Some("+4790012345"));
    let answering = incoming.answer(Bytes::from_static(ANSWER));
    let ((mut mine, description), theirs) = tokio::join!(answered(&mut outgoing), answering);
    assert_eq!(description.unwrap(), ANSWER);
    let mut theirs = theirs.unwrap();
    let event = within(theirs.next_event()).await;
    assert!(
        matches!(event, DialogEvent::Confirmed { answer: None }),
        "{event:?}"
    );

    // The caller offers anew, the callee takes it.
    let offering = mine.offer(Bytes::from_static(b"hold"));
    let taking = async {
        match within(theirs.next_event()).await {
            DialogEvent::Offer { offer, reply } => {
                assert_eq!(offer.unwrap(), &b"hold"[..]);
                reply.accept(Bytes::from_static(b"held"));
            }
            other => panic!("no offer but {other:?}"),
        }
    };
    let (answer, ()) = tokio::join!(within(offering), taking);
    assert_eq!(answer.unwrap().unwrap(), &b"held"[..]);

    mine.send_bye(Some(Reason::sip(200, "done")));
    assert_eq!(ended(&mut mine).await, DialogEnd::ByeSent);
    assert_eq!(ended(&mut theirs).await, DialogEnd::ByeReceived);
    // What has ended stays ended.
    assert_eq!(ended(&mut theirs).await, DialogEnd::ByeReceived);
    caller.stop().await;
    callee.stop().await;
}

#[tokio::test]
async fn a_call_over_udp_is_answered_re_offered_and_hung_up() {
    let caller = Node::start(listening("udp")).await;
    let callee = Node::start(listening("udp")).await;
    a_whole_call(caller, callee, Transport::Udp).await;
}

#[tokio::test]
async fn a_call_over_tcp_is_answered_re_offered_and_hung_up() {
    let caller = Node::start(listening("tcp")).await;
    let callee = Node::start(listening("tcp")).await;
    a_whole_call(caller, callee, Transport::Tcp).await;
}

#[tokio::test]
async fn a_call_over_tls_is_answered_re_offered_and_hung_up() {
    let folder = tempfile::tempdir().unwrap();
    let caller = Node::start(listening_tls(folder.path())).await;
    let callee = Node::start(listening_tls(folder.path())).await;
    // The second start has replaced the certificate, which the caller's authorities must follow.
    caller.stop().await;
    let config = Config {
        tls_ca: Some(folder.path().join("certificate.pem")),
        ..listening("tcp")
    };
    let caller = Node::start(config).await;
    a_whole_call(caller, callee, Transport::Tls).await;
}

#[tokio::test]
async fn a_call_over_websocket_is_answered_re_offered_and_hung_up() {
    let caller = Node::start(listening("tcp")).await;
    let callee = Node::start(listening("ws")).await;
    a_whole_call(caller, callee, Transport::Ws).await;
}

#[tokio::test]
async fn a_call_over_secure_websocket_is_answered_re_offered_and_hung_up() {
    let folder = tempfile::tempdir().unwrap();
    let callee = Node::start(listening_wss(folder.path())).await;
    let config = Config {
        tls_ca: Some(folder.path().join("certificate.pem")),
        ..listening("tcp")
    };
    let caller = Node::start(config).await;
    a_whole_call(caller, callee, Transport::Wss).await;
}

#[tokio::test]
async fn a_tls_server_with_an_unknown_certificate_is_not_called_unless_insecure() {
    let folder = tempfile::tempdir().unwrap();
    let mut callee = Node::start(listening_tls(folder.path())).await;
    let other = tempfile::tempdir().unwrap();
    write_certificate(other.path());
    let ca = Some(other.path().join("certificate.pem"));

    let careful = Node::start(Config {
        tls_ca: ca,
        ..listening("tcp")
    })
    .await;
    let mut call = careful.call(&callee, Transport::Tls).await;
    let event = within(call.next_event()).await;
    assert!(
        matches!(event, OutgoingEvent::Ended(DialogEnd::TransportFailed)),
        "{event:?}"
    );
    careful.stop().await;

    let careless = Node::start(Config {
        tls_insecure: true,
        ..listening("tcp")
    })
    .await;
    let (mine, mut theirs) = established(&careless, &mut callee, Transport::Tls).await;
    drop(mine);
    assert_eq!(ended(&mut theirs).await, DialogEnd::ByeReceived);
    careless.stop().await;
    callee.stop().await;
}

#[tokio::test]
async fn a_dropped_dialog_says_bye_and_a_dropped_call_is_refused_with_480() {
    let caller = Node::start(listening("udp")).await;
    let mut callee = Node::start(listening("udp")).await;
    let (mut mine, theirs) = established(&caller, &mut callee, Transport::Udp).await;
    drop(theirs);
    assert_eq!(ended(&mut mine).await, DialogEnd::ByeReceived);

    let mut outgoing = caller.call(&callee, Transport::Udp).await;
    drop(callee.next_call().await);
    assert_eq!(refused(&mut outgoing).await, 480);

    let mut outgoing = caller.call(&callee, Transport::Udp).await;
    callee
        .next_call()
        .await
        .reject(StatusCode::NOT_FOUND, Vec::new());
    assert_eq!(refused(&mut outgoing).await, 404);
    caller.stop().await;
    callee.stop().await;
}

#[tokio::test]
async fn a_call_that_was_cancelled_can_no_longer_be_answered() {
    let caller = Node::start(listening("udp")).await;
    let mut callee = Node::start(listening("udp")).await;
    let mut outgoing = caller.call(&callee, Transport::Udp).await;
    let mut incoming = callee.next_call().await;
    let event = within(outgoing.next_event()).await;
    assert!(matches!(event, OutgoingEvent::Trying), "{event:?}");
    outgoing.cancel();
    within(incoming.cancelled()).await;
    let error = incoming
        .answer(Bytes::from_static(ANSWER))
        .await
        .unwrap_err();
    assert_eq!(error, AnswerError::Cancelled);
    let event = within(outgoing.next_event()).await;
    assert!(
        matches!(event, OutgoingEvent::Ended(DialogEnd::Cancelled)),
        "{event:?}"
    );
    caller.stop().await;
    callee.stop().await;
}

#[tokio::test]
async fn a_stop_hangs_up_the_calls_that_there_are() {
    let caller = Node::start(listening("tcp")).await;
    let mut callee = Node::start(listening("tcp")).await;
    let (mut mine, mut theirs) = established(&caller, &mut callee, Transport::Tcp).await;
    callee.stop().await;
    assert_eq!(ended(&mut theirs).await, DialogEnd::ByeSent);
    assert_eq!(ended(&mut mine).await, DialogEnd::ByeReceived);
    caller.stop().await;
}

#[tokio::test]
async fn calls_above_the_limit_get_503_with_retry_after_until_one_has_ended() {
    let caller = Node::start(listening("udp")).await;
    let config = Config {
        max_calls: 1,
        retry_after_secs: 17,
        ..listening("udp")
    };
    let mut callee = Node::start(config).await;
    let (mine, mut theirs) = established(&caller, &mut callee, Transport::Udp).await;

    let mut second = caller.call(&callee, Transport::Udp).await;
    loop {
        match within(second.next_event()).await {
            OutgoingEvent::Rejected(response) => {
                assert_eq!(response.status.code(), 503);
                let headers = response.headers;
                let retry_after = headers
                    .iter()
                    .find(|(name, _)| name.as_str() == "Retry-After");
                assert_eq!(retry_after.unwrap().1.as_bytes(), b"17");
                break;
            }
            OutgoingEvent::Trying | OutgoingEvent::Ringing { .. } => {}
            other => panic!("not refused but {other:?}"),
        }
    }
    drop(mine);
    assert_eq!(ended(&mut theirs).await, DialogEnd::ByeReceived);

    // As long as the owner of the first call works for it, its place is taken.
    let mut third = caller.call(&callee, Transport::Udp).await;
    assert_eq!(refused(&mut third).await, 503);
    drop(theirs);
    let (mine, theirs) = established(&caller, &mut callee, Transport::Udp).await;
    drop((mine, theirs));
    caller.stop().await;
    callee.stop().await;
}

#[tokio::test]
async fn a_flood_of_calls_is_refused_to_the_last_one_and_the_server_goes_on() {
    const CALLS: u32 = 300;
    let mut node = Node::start(Config {
        max_calls: 1,
        ..listening("udp")
    })
    .await;
    let mut peer = Peer::udp(node.addr(Transport::Udp)).await;
    let first = within(peer.ask_provisional(&sip_peer::invite_of("UDP", 0))).await;
    assert!(first.starts_with("SIP/2.0 100"), "{first}");
    let taken = node.next_call().await;
    for call in 1..=CALLS {
        let response = within(peer.ask(&sip_peer::invite_of("UDP", call))).await;
        assert!(response.starts_with("SIP/2.0 503"), "{response}");
        assert!(response.contains("Retry-After: "), "{response}");
        peer.send(&sip_peer::ack_of(&response, "UDP", call)).await;
    }
    assert!(node.incoming.try_recv().is_err());
    taken.reject(StatusCode::NOT_FOUND, Vec::new());
    node.stop().await;
}

#[tokio::test]
async fn two_hundred_calls_at_once_all_come_up_and_all_end() {
    let caller = Node::start(listening("udp")).await;
    let mut callee = Node::start(listening("udp")).await;
    let mut outgoing = Vec::new();
    for _ in 0..200 {
        outgoing.push(caller.call(&callee, Transport::Udp).await);
    }
    let mut theirs = Vec::new();
    for _ in 0..200 {
        let call = callee.next_call().await;
        theirs.push(
            within(call.answer(Bytes::from_static(ANSWER)))
                .await
                .unwrap(),
        );
    }
    for call in &mut outgoing {
        let (mut dialog, _) = answered(call).await;
        dialog.send_bye(None);
        assert_eq!(ended(&mut dialog).await, DialogEnd::ByeSent);
    }
    for dialog in &mut theirs {
        assert_eq!(ended(dialog).await, DialogEnd::ByeReceived);
    }
    caller.stop().await;
    callee.stop().await;
}

#[tokio::test]
async fn a_draining_server_refuses_new_calls_and_keeps_the_old_ones() {
    let caller = Node::start(listening("udp")).await;
    let mut callee = Node::start(listening("udp")).await;
    let (mut mine, mut theirs) = established(&caller, &mut callee, Transport::Udp).await;
    callee.sip.set_draining(30);
    // The order of two channels is not known: the drain is seen once OPTIONS says so.
    let mut peer = Peer::udp(callee.addr(Transport::Udp)).await;
    let mut branch = 0;
    while !within(peer.ask(&options("UDP", branch)))
        .await
        .starts_with("SIP/2.0 503")
    {
        branch += 1;
    }
    let mut second = caller.call(&callee, Transport::Udp).await;
    assert_eq!(refused(&mut second).await, 503);
    mine.send_bye(None);
    assert_eq!(ended(&mut theirs).await, DialogEnd::ByeReceived);
    caller.stop().await;
    callee.stop().await;
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_gets_403() {
    let config = Config {
        trusted_peers: vec!["192.0.2.0/24".parse().unwrap()],
        ..listening("udp")
    };
    let mut node = Node::start(config).await;
    let mut peer = Peer::udp(node.addr(Transport::Udp)).await;
    let response = within(peer.ask(&invite("UDP", 1))).await;
    assert!(response.starts_with("SIP/2.0 403"), "{response}");
    assert!(node.incoming.try_recv().is_err());
    node.stop().await;
}

#[tokio::test]
async fn an_owner_that_takes_no_events_loses_its_call() {
    let mut node = Node::start(listening("tcp")).await;
    let mut peer = Peer::tcp(node.addr(Transport::Tcp)).await;
    let (dialog, to) = peer.set_up_call(&mut node.incoming).await;
    for cseq in 2..30 {
        peer.send(&sip_peer::info(&to, cseq)).await;
    }
    loop {
        let message = within(peer.next_message()).await;
        if message.starts_with("BYE ") {
            assert!(message.contains("Reason: SIP;cause=500"), "{message}");
            break;
        }
    }
    drop(dialog);
    node.stop().await;
}

#[tokio::test]
async fn an_info_request_reaches_the_owner_with_its_body() {
    let mut node = Node::start(listening("tcp")).await;
    let mut peer = Peer::tcp(node.addr(Transport::Tcp)).await;
    let (mut dialog, to) = peer.set_up_call(&mut node.incoming).await;
    let response = within(peer.ask(&sip_peer::info(&to, 2))).await;
    assert!(response.starts_with("SIP/2.0 200"), "{response}");
    loop {
        match within(dialog.next_event()).await {
            DialogEvent::Confirmed { .. } => {}
            DialogEvent::Info { content_type, body } => {
                assert_eq!(content_type, "application/dtmf-relay");
                assert_eq!(body, &b"Signal=1"[..]);
                break;
            }
            other => panic!("no INFO but {other:?}"),
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn an_offer_in_the_prack_is_decided_by_the_owner_who_still_waits_for_the_200() {
    let mut node = Node::start(listening("tcp")).await;
    let mut peer = Peer::tcp(node.addr(Transport::Tcp)).await;
    let invite = invite("TCP", 1).replace("Max-Forwards", "Require: 100rel\r\nMax-Forwards");
    peer.send(&invite).await;
    let calling = async {
        let progress = loop {
            let response = peer.next_message().await;
            if response.starts_with("SIP/2.0 183") {
                break response;
            }
        };
        let line = |name: &str| {
            let mut lines = progress.lines();
            lines.find_map(|line| line.strip_prefix(name)).unwrap()
        };
        let prack = in_dialog("PRACK", &format!("To:{}", line("To:")), 2, "v=0 again");
        let rack = format!("RAck:{} 1 INVITE\r\nMax-Forwards", line("RSeq:"));
        let prack = prack.replace("Max-Forwards", &rack);
        peer.ask(&prack.replace("application/dtmf-relay", "application/sdp"))
            .await
    };
    let answering = async {
        let call = node.incoming.recv().await.unwrap();
        let mut dialog = call.answer(Bytes::from_static(ANSWER)).await.unwrap();
        match dialog.next_event().await {
            DialogEvent::Offer { offer, reply } => {
                assert_eq!(offer.unwrap(), &b"v=0 again"[..]);
                reply.accept(Bytes::from_static(b"v=0 so be it"));
            }
            other => panic!("no offer but {other:?}"),
        }
        dialog
    };
    let (response, dialog) = within(async { tokio::join!(calling, answering) }).await;
    assert!(response.starts_with("SIP/2.0 200"), "{response}");
    assert!(response.contains("CSeq: 2 PRACK"), "{response}");
    assert!(response.ends_with("v=0 so be it"), "{response}");
    let accepted = within(peer.next_message()).await;
    assert!(accepted.contains("CSeq: 1 INVITE"), "{accepted}");
    drop(dialog);
    node.stop().await;
}

#[tokio::test]
async fn many_messages_in_one_segment_are_all_answered() {
    let node = Node::start(listening("tcp")).await;
    let mut peer = Peer::tcp(node.addr(Transport::Tcp)).await;
    let many: String = (0..50).map(|branch| options("TCP", branch)).collect();
    peer.send(&many).await;
    for branch in 0..50 {
        let response = within(peer.next_message()).await;
        assert!(response.starts_with("SIP/2.0 200"), "{response}");
        assert!(
            response.contains(&format!("branch=z9hG4bK-{branch}-")),
            "{response}"
        );
    }
    node.stop().await;
}

#[tokio::test]
async fn a_message_that_comes_one_byte_at_a_time_is_answered() {
    let node = Node::start(listening("tcp")).await;
    let mut peer = Peer::tcp(node.addr(Transport::Tcp)).await;
    for byte in options("TCP", 1).bytes() {
        peer.send(std::str::from_utf8(&[byte]).unwrap()).await;
    }
    let response = within(peer.next_message()).await;
    assert!(response.starts_with("SIP/2.0 200"), "{response}");
    node.stop().await;
}

#[tokio::test]
async fn a_keep_alive_is_answered_with_a_single_line_end() {
    let node = Node::start(listening("tcp")).await;
    let mut stream = TcpStream::connect(node.addr(Transport::Tcp)).await.unwrap();
    stream.write_all(b"\r\n\r\n").await.unwrap();
    let mut pong = [0; 2];
    within(stream.read_exact(&mut pong)).await.unwrap();
    assert_eq!(&pong, b"\r\n");
    node.stop().await;
}

#[tokio::test]
async fn a_request_larger_than_the_limit_ends_its_connection_only() {
    let node = Node::start(listening("tcp")).await;
    let mut peer = Peer::tcp(node.addr(Transport::Tcp)).await;
    let large = options("TCP", 1).replace("Content-Length: 0", "Content-Length: 10000000");
    let response = within(peer.ask(&large)).await;
    assert!(response.starts_with("SIP/2.0 513"), "{response}");
    within(peer.closed()).await;
    let mut peer = Peer::tcp(node.addr(Transport::Tcp)).await;
    let response = within(peer.ask(&options("TCP", 2))).await;
    assert!(response.starts_with("SIP/2.0 200"), "{response}");
    node.stop().await;
}

#[tokio::test]
async fn a_message_whose_end_cannot_be_known_gets_400_and_ends_its_connection() {
    let node = Node::start(listening("tcp")).await;
    for length in ["", "Content-Length: -1\r\n", "Content-Length: five\r\n"] {
        let mut peer = Peer::tcp(node.addr(Transport::Tcp)).await;
        let request = options("TCP", 1).replace("Content-Length: 0\r\n", length);
        let response = within(peer.ask(&request)).await;
        assert!(response.starts_with("SIP/2.0 400"), "{response}");
        within(peer.closed()).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn a_message_that_takes_too_long_ends_its_connection() {
    let node = Node::start(Config {
        message_deadline_secs: 1,
        ..listening("tcp")
    })
    .await;
    let mut peer = Peer::tcp(node.addr(Transport::Tcp)).await;
    let response = within(peer.ask(&options("TCP", 1))).await;
    assert!(response.starts_with("SIP/2.0 200"), "{response}");
    peer.send("OPTIONS sip:loris@127.0.0.1 SIP/2.0\r\nX: ")
        .await;
    // Dripping on does not help.
    let mut drops = tokio::time::interval(Duration::from_millis(50));
    let dripping = async {
        while peer.try_send("x").await.is_ok() {
            drops.tick().await;
        }
    };
    within(dripping).await;
    node.stop().await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_more_is_closed() {
    let node = Node::start(Config {
        stream_idle_secs: 1,
        ..listening("tcp")
    })
    .await;
    let mut peer = Peer::tcp(node.addr(Transport::Tcp)).await;
    within(peer.ask(&options("TCP", 1))).await;
    within(peer.closed()).await;
    node.stop().await;
}

#[tokio::test]
async fn a_tls_handshake_that_stays_half_open_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        tls_handshake_secs: 1,
        ..listening_tls(folder.path())
    };
    let node = Node::start(config).await;
    let mut peer = Peer::tcp(node.addr(Transport::Tls)).await;
    within(peer.closed()).await;
    node.stop().await;
}

#[tokio::test]
async fn a_peer_may_have_so_many_connections_and_no_more() {
    let config = Config {
        max_connections_per_peer: 2,
        ..listening("tcp")
    };
    let node = Node::start(config).await;
    let addr = node.addr(Transport::Tcp);
    let mut first = Peer::tcp(addr).await;
    within(first.ask(&options("TCP", 1))).await;
    let mut second = Peer::tcp(addr).await;
    within(second.ask(&options("TCP", 2))).await;
    let mut third = Peer::tcp(addr).await;
    within(third.closed()).await;
    // The place of a connection that has ended is free again.
    drop(first);
    let fourth = async {
        loop {
            let mut peer = Peer::tcp(addr).await;
            if peer.try_ask(&options("TCP", 4)).await.is_some() {
                return;
            }
        }
    };
    within(fourth).await;
    node.stop().await;
}

#[tokio::test]
async fn a_certificate_replaced_on_disk_is_used_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(listening_tls(folder.path())).await;
    let addr = node.addr(Transport::Tls);
    let first = connect_tls(addr).await;

    std::fs::write(folder.path().join("certificate.pem"), "broken").unwrap();
    write_certificate(folder.path());
    let mut attempts = tokio::time::interval(Duration::from_millis(100));
    let replaced = async {
        loop {
            attempts.tick().await;
            let shown = connect_tls(addr).await;
            if shown != first {
                return shown;
            }
        }
    };
    let second = within(replaced).await;
    assert_ne!(first, second);
    node.stop().await;
}

#[tokio::test]
async fn rubbish_from_everywhere_leaves_the_server_answering() {
    let config = Config {
        listen: vec![
            "udp://127.0.0.1:0".parse().unwrap(),
            "tcp://127.0.0.1:0".parse().unwrap(),
        ],
        ..Config::default()
    };
    let node = Node::start(config).await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for size in [0, 1, 2, 3, 100, 1500, 9000, 65_507] {
        for byte in [0u8, b'\r', b'\n', b'A', 0xff] {
            udp.send_to(&vec![byte; size], node.addr(Transport::Udp))
                .await
                .unwrap();
        }
    }
    let mut stream = TcpStream::connect(node.addr(Transport::Tcp)).await.unwrap();
    // The server may close before all of it is written.
    stream.write_all(&[0xff; 200_000]).await.ok();
    let mut peer = Peer::udp(node.addr(Transport::Udp)).await;
    let response = within(peer.ask(&options("UDP", 1))).await;
    assert!(response.starts_with("SIP/2.0 200"), "{response}");
    node.stop().await;
}

#[tokio::test]
async fn a_name_that_cannot_be_found_ends_the_call() {
    let caller = Node::start(listening("udp")).await;
    let target: Uri = "sip:nobody@host.invalid".parse().unwrap();
    let mut call = caller
        .sip
        .call(OutgoingRequest::new(target, None))
        .await
        .unwrap();
    let event = within(call.next_event()).await;
    assert!(
        matches!(event, OutgoingEvent::Ended(DialogEnd::TransportFailed)),
        "{event:?}"
    );
    caller.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_the_settings_is_said_at_the_start() {
    let start = async |config: Config| Node::try_start(config).await.err().unwrap().to_string();
    assert!(start(listening("tls")).await.contains("tls_certificate"));
    assert!(
        start(Config {
            listen: Vec::new(),
            ..Config::default()
        })
        .await
        .contains("sip.listen")
    );
    let uri = Config {
        uri: "nonsense".into(),
        ..listening("udp")
    };
    assert!(start(uri).await.contains("sip.uri"));

    let node = Node::start(listening("udp")).await;
    let addr = node.addr(Transport::Udp);
    let taken = Config {
        listen: vec![format!("udp://{addr}").parse().unwrap()],
        ..Config::default()
    };
    assert!(start(taken).await.contains(&addr.to_string()));
    node.stop().await;
}
