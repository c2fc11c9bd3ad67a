//! Connections over pipes in memory, with time that stands still until everybody waits.

use tokio::io::DuplexStream;
use tokio_util::task::AbortOnDropHandle;

use crate::sip::message::Message;

use super::*;

const PATIENCE: Patience = Patience {
    idle: Duration::from_secs(600),
    message: Duration::from_secs(10),
    handshake: Duration::from_secs(10),
    connect: Duration::from_secs(5),
};

const REQUEST: &str = "OPTIONS sip:a@127.0.0.1 SIP/2.0\r\n\
    Via: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bK-1\r\n\
    From: <sip:b@127.0.0.1>;tag=1\r\n\
    To: <sip:a@127.0.0.1>\r\n\
    Call-ID: 1\r\n\
    CSeq: 1 OPTIONS\r\n\
    Max-Forwards: 70\r\n\
    Content-Length: 0\r\n\r\n";

/// A connection whose other end the test holds.
struct Connection {
    peer: DuplexStream,
    arrivals: mpsc::Receiver<Arrival>,
    outbox: mpsc::Sender<Bytes>,
    _task: AbortOnDropHandle<()>,
}

/// Serves an accepted connection through a pipe of so many bytes, with room for so many arrivals.
async fn serve(pipe: usize, room: usize) -> Connection {
    let (peer, ours) = tokio::io::duplex(pipe);
    let (arrivals, mut taken) = mpsc::channel(room);
    let streams = Streams {
        arrivals,
        limits: Limits::default(),
        patience: PATIENCE,
        census: Census::new(Vec::new(), 1, 1),
        origins: Vec::new(),
        client_tls: ClientTls::new(None, false).unwrap(),
        next_connection: AtomicU64::new(1),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    };
    let addr = SocketAddr::from(([127, 0, 0, 1], 5060));
    let task = async move {
        let flow = streams.flow(Transport::Tcp, addr, addr);
        streams.serve(ours, flow, None).await;
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "the handle ends the task with its test"
    )]
    let task = AbortOnDropHandle::new(tokio::spawn(task));
    let Some(Arrival::Opened {
        outbox,
        asked_by: None,
        ..
    }) = taken.recv().await
    else {
        panic!("a connection must begin by being opened");
    };
    Connection {
        peer,
        arrivals: taken,
        outbox,
        _task: task,
    }
}

async fn next_is_a_request(connection: &mut Connection) -> bool {
    let arrival = connection.arrivals.recv().await;
    matches!(
        arrival,
        Some(Arrival::Message {
            message: Parsed::Message(Message::Request(_)),
            ..
        })
    )
}

/// How long it takes until the driver hears that the connection is closed.
async fn seconds_until_closed(connection: &mut Connection) -> u64 {
    let begin = Instant::now();
    let arrival = connection.arrivals.recv().await;
    assert!(
        matches!(arrival, Some(Arrival::Closed { .. })),
        "{arrival:?}"
    );
    begin.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_any_message_is_closed_soon_and_one_with_is_kept_for_long() {
    let mut silent = serve(65_536, 8).await;
    assert_eq!(
        seconds_until_closed(&mut silent).await,
        FIRST_MESSAGE.as_secs()
    );

    let mut used = serve(65_536, 8).await;
    used.peer.write_all(REQUEST.as_bytes()).await.unwrap();
    assert!(next_is_a_request(&mut used).await);
    assert_eq!(
        seconds_until_closed(&mut used).await,
        PATIENCE.idle.as_secs()
    );
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_message_counts_from_its_first_byte_however_it_drips() {
    let mut connection = serve(65_536, 8).await;
    let (head, rest) = REQUEST.split_at(REQUEST.len() - 20);
    connection.peer.write_all(head.as_bytes()).await.unwrap();
    for byte in rest.bytes().take(9) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        connection.peer.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(seconds_until_closed(&mut connection).await, 1);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_begins_anew_with_each_message() {
    let mut connection = serve(65_536, 8).await;
    let (head, rest) = REQUEST.split_at(100);
    let overlapping = format!("{rest}{head}");
    connection.peer.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(9)).await;
        connection
            .peer
            .write_all(overlapping.as_bytes())
            .await
            .unwrap();
        assert!(next_is_a_request(&mut connection).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_driver_stops_the_reading_and_nothing_is_lost() {
    const MESSAGES: usize = 500;
    let mut connection = serve(1024, 2).await;
    let mut peer = connection.peer;
    let writing = async move {
        for _ in 0..MESSAGES {
            peer.write_all(REQUEST.as_bytes()).await.unwrap();
        }
        peer
    };
    tokio::pin!(writing);
    let stalled = timeout(Duration::from_secs(5), &mut writing).await;
    assert!(stalled.is_err(), "the peer must be held back");

    let reading = async {
        for _ in 0..MESSAGES {
            let arrival = connection.arrivals.recv().await;
            assert!(
                matches!(arrival, Some(Arrival::Message { .. })),
                "{arrival:?}"
            );
        }
    };
    tokio::join!(writing, reading);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_let_go_of() {
    let mut connection = serve(64, 8).await;
    connection
        .outbox
        .send(Bytes::from_static(&[0; 1000]))
        .await
        .unwrap();
    assert_eq!(
        seconds_until_closed(&mut connection).await,
        WRITE_DEADLINE.as_secs()
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_queued_is_written_before_the_driver_has_let_go() {
    let mut connection = serve(65_536, 8).await;
    connection
        .outbox
        .send(Bytes::from_static(b"first "))
        .await
        .unwrap();
    connection
        .outbox
        .send(Bytes::from_static(b"second"))
        .await
        .unwrap();
    drop(connection.outbox);
    let mut written = String::new();
    connection.peer.read_to_string(&mut written).await.unwrap();
    assert_eq!(written, "first second");
}

#[tokio::test(start_paused = true)]
async fn a_response_still_reaches_a_peer_that_has_finished_sending() {
    let mut connection = serve(65_536, 8).await;
    connection.peer.write_all(REQUEST.as_bytes()).await.unwrap();
    connection.peer.shutdown().await.unwrap();
    assert!(next_is_a_request(&mut connection).await);
    connection
        .outbox
        .send(Bytes::from_static(b"response"))
        .await
        .unwrap();
    assert_eq!(seconds_until_closed(&mut connection).await, 0);
    drop(connection.outbox);
    let mut written = String::new();
    connection.peer.read_to_string(&mut written).await.unwrap();
    assert_eq!(written, "response");
}

#[test]
fn a_place_in_the_census_is_free_again_when_it_is_given_back() {
    let one = IpAddr::from([192, 0, 2, 1]);
    let two = IpAddr::from([192, 0, 2, 2]);
    let census = Census::new(vec!["192.0.2.0/24".parse().unwrap()], 3, 2);
    let first = census.admit(one).unwrap();
    let _second = census.admit(one).unwrap();
    assert!(census.admit(one).is_none(), "a peer has its own limit");
    let _third = census.admit(two).unwrap();
    assert!(census.admit(two).is_none(), "all peers have a common limit");
    drop(first);
    assert!(census.admit(two).is_some());
    assert_eq!(census.present().by_peer.len(), 2);
}

#[test]
fn strangers_leave_the_places_of_trusted_peers_free() {
    let friend = IpAddr::from([192, 0, 2, 1]);
    let stranger = |host| IpAddr::from([198, 51, 100, host]);
    let census = Census::new(vec!["192.0.2.0/24".parse().unwrap()], 100, 100);
    let one: Vec<_> = (0..20).filter_map(|_| census.admit(stranger(1))).collect();
    assert_eq!(one.len(), PER_STRANGER);
    let many: Vec<_> = (2..200)
        .filter_map(|host| census.admit(stranger(host)))
        .collect();
    assert_eq!(one.len() + many.len(), 100 / STRANGERS_SHARE);
    let friends: Vec<_> = (0..200).filter_map(|_| census.admit(friend)).collect();
    assert_eq!(friends.len(), 100 - 100 / STRANGERS_SHARE);
    drop((one, many, friends));
    let present = census.present();
    assert!(present.by_peer.is_empty());
    assert_eq!((present.in_all, present.strangers), (0, 0));
}
