//! The torture messages of RFC 4475, RFC 5118 and their kin, sent to the whole service over real
//! sockets, as they are and in other clothes: the answer is what the table says, and the service
//! lives on.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod corpus;
mod support;

use std::net::SocketAddr;

use aftertone::sip::Transport;
use corpus::Case;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rsip::prelude::{HeadersExt, UntypedHeader};
use support::{SOON, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// A socket to the service.
enum Line {
    Udp(UdpSocket),
    Tcp(TcpStream, Vec<u8>),
}

/// What a line gives.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Response { status: u16, call_id: String },
    Closed,
}

impl Line {
    async fn open(service: &Service, transport: Transport) -> Self {
        let target = service.sip(transport);
        if transport == Transport::Tcp {
            let stream = TcpStream::connect(target).await.unwrap();
            return Self::Tcp(stream, Vec::new());
        }
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = UdpSocket::bind(any).await.unwrap();
        socket.connect(target).await.unwrap();
        Self::Udp(socket)
    }

    /// A connection that is closed takes nothing, which shows when it is read from.
    async fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Udp(socket) => drop(socket.send(bytes).await.unwrap()),
            Self::Tcp(stream, _) => drop(stream.write_all(bytes).await),
        }
    }

    async fn hear(&mut self) -> Heard {
        match self {
            Self::Udp(socket) => {
                let mut datagram = vec![0; 65_536];
                let length = socket.recv(&mut datagram).await.unwrap();
                read(&datagram[..length])
            }
            Self::Tcp(stream, heard) => loop {
                // What keeps the connection alive is no answer.
                while heard.starts_with(b"\r\n") {
                    heard.drain(..2);
                }
                let end = heard.windows(4).position(|four| four == b"\r\n\r\n");
                if let Some(end) = end {
                    // Nothing that is answered here has a body.
                    let response: Vec<_> = heard.drain(..end + 4).collect();
                    return read(&response);
                }
                if !matches!(stream.read_buf(heard).await, Ok(1..)) {
                    return Heard::Closed;
                }
            },
        }
    }
}

/// Reads a response with the eyes of another.
fn read(bytes: &[u8]) -> Heard {
    // It takes UTF-8 only, and what was sent in another encoding comes back in it.
    let response = rsip::Response::try_from(String::from_utf8_lossy(bytes).as_ref());
    let response = response.unwrap_or_else(|error| panic!("{error}: {}", bytes.escape_ascii()));
    let call_id = response
        .call_id_header()
        .map(|id| id.value().to_owned())
        .unwrap_or_default();
    Heard::Response {
        status: response.status_code.code(),
        call_id,
    }
}

const PROBE: &str = "is-it-alive";

/// OPTIONS that any server answers 200; each is another request.
fn probe(number: usize, transport: Transport) -> String {
    let via = transport.via_name();
    format!(
        "OPTIONS sip:voicemail@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/{via} 127.0.0.1;rport;branch=z9hG4bKprobe{number}\r\n\
         From: <sip:probe@127.0.0.1>;tag=1\r\nTo: <sip:voicemail@127.0.0.1>\r\nCall-ID: {PROBE}-{number}\r\n\
         CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
}

/// What the service made of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Final(u16),
    /// No answer, and the next message was answered.
    Dropped,
    /// The connection was closed without an answer.
    Closed,
    /// Nothing at all.
    Silence,
}

/// The service under torture.
struct Rack {
    service: Service,
    probes: usize,
}

impl Rack {
    async fn start() -> Self {
        let service = Service::with(|config| config.sip.message_deadline_secs = 1).await;
        service.subscriber(support::NUMBER).await;
        Self { service, probes: 0 }
    }

    /// Sends a message and something that is certainly answered after it.
    async fn try_out(&mut self, transport: Transport, case: &Case) -> Outcome {
        let mut line = Line::open(&self.service, transport).await;
        line.send(&case.bytes).await;
        self.probes += 1;
        // On a stream the first of them may pass for the end of what never ended.
        for _ in 0..2 {
            line.send(probe(self.probes, transport).as_bytes()).await;
        }
        let mut alive = false;
        // Some answers take a look into the database; where none is due none is waited for.
        let outcome = timeout(SOON, async {
            loop {
                match line.hear().await {
                    Heard::Closed => return Outcome::Closed,
                    Heard::Response { call_id, .. } if call_id.starts_with(PROBE) => alive = true,
                    Heard::Response {
                        status: 100..200, ..
                    } => {}
                    Heard::Response { status, .. } => return Outcome::Final(status),
                }
                if alive && case.allows("drop") {
                    return Outcome::Dropped;
                }
            }
        });
        outcome.await.unwrap_or(Outcome::Silence)
    }

    /// Whether the service answers OPTIONS.
    async fn is_alive(&mut self, transport: Transport) -> bool {
        let mut line = Line::open(&self.service, transport).await;
        self.probes += 1;
        line.send(probe(self.probes, transport).as_bytes()).await;
        let heard = timeout(SOON, line.hear()).await;
        matches!(heard, Ok(Heard::Response { status: 200, .. }))
    }
}

/// Whether the table allows this outcome.
fn is_allowed(case: &Case, outcome: Outcome, transport: Transport) -> bool {
    match outcome {
        Outcome::Final(400) if transport == Transport::Tcp && !is_framed(&case.bytes) => true,
        Outcome::Final(status @ (400 | 505)) => case.allows(&status.to_string()),
        Outcome::Final(status) => case.allows("accept") || case.allows(&status.to_string()),
        Outcome::Dropped => case.allows("drop"),
        // What has no end on a stream is the end of the stream.
        Outcome::Closed => transport == Transport::Tcp && !is_framed(&case.bytes),
        Outcome::Silence => false,
    }
}

/// Whether a stream of just these bytes holds just one message: its length is told, once, and true.
fn is_framed(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&bytes[..end])
        .to_ascii_lowercase()
        .replace("\r\n ", " ");
    let lengths = head.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        matches!(name.trim(), "content-length" | "l").then(|| value.trim().parse::<usize>())
    });
    let lengths: Vec<_> = lengths.collect();
    lengths == [Ok(bytes.len() - end - 4)]
}

fn all_cases() -> Vec<Case> {
    ["rfc4475", "rfc4475_more"]
        .into_iter()
        .flat_map(corpus::load)
        .collect()
}

/// Sends all cases and reports every one that went wrong.
async fn check(transport: Transport, cases: Vec<Case>) {
    let mut rack = Rack::start().await;
    let mut wrong = Vec::new();
    for case in &cases {
        let outcome = rack.try_out(transport, case).await;
        if !is_allowed(case, outcome, transport) {
            wrong.push(format!(
                "{}: wanted {:?}, got {outcome:?}",
                case.name, case.expect
            ));
        }
        assert!(
            rack.is_alive(transport).await,
            "{} was the last thing it heard",
            case.name
        );
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    rack.service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_of_the_table_gets_its_answer_over_udp() {
    check(Transport::Udp, all_cases()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_of_the_table_gets_its_answer_over_tcp() {
    check(Transport::Tcp, all_cases()).await;
}

fn header(name: &str, value: &[u8]) -> Vec<u8> {
    [name.as_bytes(), b":", value].concat()
}

/// Rewrites each header of a message from its name and value; `None` where there is no header section.
fn dressed(case: &Case, change: impl Fn(&str, &[u8]) -> Vec<u8>) -> Option<Case> {
    let blank = case
        .bytes
        .chunks(2)
        .take_while(|two| two == b"\r\n")
        .count()
        * 2;
    let end = blank
        + case.bytes[blank..]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")?;
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for line in case.bytes[blank..end].split_inclusive(|byte| *byte == b'\n') {
        let continues = line.starts_with(b" ") || line.starts_with(b"\t");
        match lines.last_mut() {
            Some(last) if continues => last.extend_from_slice(line),
            _ => lines.push(line.to_vec()),
        }
    }
    let mut bytes = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .filter(|_| number > 0);
        let name = colon.and_then(|colon| std::str::from_utf8(&line[..colon]).ok());
        match (name, colon) {
            (Some(name), Some(colon)) => bytes.extend(change(name.trim_end(), &line[colon + 1..])),
            _ => bytes.extend_from_slice(line),
        }
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(&case.bytes[end + 2..]);
    Some(Case {
        name: case.name.clone(),
        expect: case.expect.clone(),
        bytes,
    })
}

const FORMS: [(&str, &str); 11] = [
    ("Via", "v"),
    ("From", "f"),
    ("To", "t"),
    ("Call-ID", "i"),
    ("Contact", "m"),
    ("Content-Length", "l"),
    ("Content-Type", "c"),
    ("Content-Encoding", "e"),
    ("Subject", "s"),
    ("Supported", "k"),
    ("Session-Expires", "x"),
];

fn compact(name: &str) -> String {
    let form = FORMS
        .iter()
        .find(|(long, _)| name.eq_ignore_ascii_case(long));
    form.map_or(name, |(_, short)| short).to_owned()
}

fn long(name: &str) -> String {
    let form = FORMS
        .iter()
        .find(|(_, short)| name.eq_ignore_ascii_case(short));
    form.map_or(name, |(long, _)| long).to_owned()
}

/// Makes the lines of a header from its name and value.
type Rewrite = fn(&str, &[u8]) -> Vec<u8>;

/// What a message means, and so what it gets, does not hang on the clothes it wears.
#[tokio::test(flavor = "multi_thread")]
async fn every_message_of_the_table_gets_its_answer_in_other_clothes_too() {
    let clothes: [Rewrite; 6] = [
        |name, value| header(&name.to_ascii_uppercase(), value),
        |name, value| header(&compact(name).to_ascii_uppercase(), value),
        |name, value| header(&long(name).to_ascii_lowercase(), value),
        |name, value| header(&format!("{name} \t"), value),
        |name, value| header(name, &[b"\r\n\t ", value].concat()),
        |name, value| {
            let strange = b"X-Strange.%*_+`'~: ;;,\"<> \\\r\n on and on\r\n";
            [strange, header(name, value).as_slice()].concat()
        },
    ];
    for change in clothes {
        let cases = all_cases();
        let cases = cases.iter().filter_map(|case| dressed(case, change));
        check(Transport::Udp, cases.collect()).await;
    }
}

/// The messages that are taken, each with something done to it that makes it wrong.
fn spoilt(name: &str, expect: &[&str], change: impl Fn(&str, &[u8]) -> Vec<u8>) -> Vec<Case> {
    let taken = all_cases()
        .into_iter()
        .filter(|case| case.expect == ["accept"]);
    let spoilt = taken.filter_map(|case| {
        let whole = dressed(&case, header)?;
        let name = format!("{} with {name}", case.name);
        let expect = expect.iter().map(|&expect| expect.to_owned()).collect();
        let spoilt = Case {
            name,
            expect,
            ..dressed(&case, &change)?
        };
        (spoilt.bytes != whole.bytes).then_some(spoilt)
    });
    spoilt.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_there_once_is_there_once_or_the_request_is_bad() {
    for required in ["Via", "From", "To", "Call-ID", "CSeq"] {
        let without = spoilt(
            &format!("no {required}"),
            &["400", "drop"],
            |name, value| {
                let keep = !long(name).eq_ignore_ascii_case(required);
                if keep {
                    header(name, value)
                } else {
                    b"X-Was-Here: once".to_vec()
                }
            },
        );
        check(Transport::Udp, without).await;
    }
    for (single, other) in [
        ("From", " <sip:else@example.com>;tag=else"),
        ("To", " <sip:else@example.com>"),
        ("Call-ID", " else"),
        ("CSeq", " 77 INFO"),
        ("Max-Forwards", " 44"),
    ] {
        let twice = spoilt(&format!("two {single}"), &["400"], |name, value| {
            let line = header(name, value);
            let is_it = long(name).eq_ignore_ascii_case(single);
            if is_it {
                [single.as_bytes(), b":", other.as_bytes(), b"\r\n", &line].concat()
            } else {
                line
            }
        });
        check(Transport::Udp, twice).await;
    }
}

/// Flips, cuts, doubles and joins what is in the table.
fn damaged(rng: &mut StdRng, cases: &[Case]) -> Vec<u8> {
    let mut bytes = cases[rng.random_range(0..cases.len())].bytes.clone();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=bytes.len());
        let end = rng.random_range(at..=bytes.len().min(at + 40));
        match rng.random_range(0..5) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.splice(at..at, bytes[at..end].to_vec()).for_each(drop),
            3 => {
                let other = &cases[rng.random_range(0..cases.len())].bytes;
                let from = rng.random_range(0..other.len());
                bytes
                    .splice(
                        at..end,
                        other[from..other.len().min(from + 60)].iter().copied(),
                    )
                    .for_each(drop);
            }
            _ => bytes
                .iter_mut()
                .skip(at)
                .take(3)
                .for_each(|byte| *byte = rng.random()),
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_damaged_messages_harm_nobody() {
    let mut rng = StdRng::seed_from_u64(4475);
    let cases = all_cases();
    let mut rack = Rack::start().await;
    for round in 0..100 {
        let transport = if round % 2 == 0 {
            Transport::Udp
        } else {
            Transport::Tcp
        };
        for _ in 0..20 {
            let mut line = Line::open(&rack.service, transport).await;
            line.send(&damaged(&mut rng, &cases)).await;
        }
        assert!(rack.is_alive(transport).await, "round {round}");
    }
    rack.service.stop().await;
}
