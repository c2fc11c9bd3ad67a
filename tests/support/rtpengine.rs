//! rtpengine, which others wrote, as the media side of an SBC: plain RTP on the caller's side, keys on ours. Its SIP
//! side is a few lines here that put rtpengine's descriptions into what passes, and the SBC's address into contacts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::SOON;
use super::peers::{self, Running};

/// Attempts to find free ports: rtpengine takes no port 0.
const ATTEMPTS: usize = 20;

/// What the SBC asks of rtpengine for the side towards the service.
#[derive(Clone, Copy)]
pub struct Secured {
    /// `UDP/TLS/RTP/SAVPF`, `RTP/SAVP`…
    pub transport: &'static str,
    /// More of rtpengine's own words: `ICE`, `DTLS`…
    pub options: &'static [(&'static str, &'static str)],
    pub flags: &'static [&'static str],
    /// The part in DTLS that it offers to take: `active`, `passive`, or `actpass`, which is its own choice.
    pub setup: &'static str,
}

/// An SBC between a caller with plain RTP and the service.
pub struct Sbc {
    /// Where callers send their requests.
    pub address: SocketAddr,
    _rtpengine: Running,
    /// Tells other tests, in this process and in others, that the range of ports is taken: rtpengine itself shares
    /// its ports with whoever shares them too.
    _claim: std::net::UdpSocket,
    _relay: AbortOnDropHandle<()>,
}

impl Sbc {
    /// Starts it in front of `service`; `None` where rtpengine is not installed.
    pub async fn start(service: SocketAddr, secured: Secured) -> Option<Self> {
        let (rtpengine, control, claim) = start().await?;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let relay = Relay {
            socket,
            address,
            service,
            caller: None,
            control,
            secured,
            passed: BTreeMap::new(),
            is_late: false,
        };
        Some(Self {
            address,
            _rtpengine: rtpengine,
            _claim: claim,
            _relay: AbortOnDropHandle::new(TaskTracker::new().spawn(relay.run())),
        })
    }
}

/// rtpengine on a port that was free a moment ago, once it answers.
async fn start() -> Option<(Running, Control, std::net::UdpSocket)> {
    let program = peers::find("rtpengine")?;
    for _ in 0..ATTEMPTS {
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let listen = free.local_addr().unwrap();
        drop(free);
        // A range for itself, below those that the system gives away.
        let first = 10_000 + (listen.port() % 200) * 100;
        let Ok(claim) = std::net::UdpSocket::bind(("127.0.0.1", first + 99)) else {
            continue;
        };
        let mut command = Command::new(&program);
        command
            .args(["--foreground", "--log-stderr", "--log-level=5"])
            .args([
                "--config-file=none",
                "--table=-1",
                "--interface=127.0.0.1",
                "--num-threads=1",
                "--media-num-threads=1",
                "--delete-delay=0",
            ])
            .arg(format!("--listen-ng={listen}"))
            .arg(format!("--port-min={first}"))
            .arg(format!("--port-max={}", first + 98))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let mut process = Running(Some(command.spawn().unwrap()));
        let control = Control::to(listen).await;
        let mut again = tokio::time::interval(Duration::from_millis(50));
        let answers = async {
            loop {
                again.tick().await;
                if control.ping().await {
                    return true;
                }
                if process.0.as_mut().unwrap().try_wait().unwrap().is_some() {
                    return false;
                }
            }
        };
        if timeout(SOON, answers).await == Ok(true) {
            return Some((process, control, claim));
        }
    }
    panic!("rtpengine does not start");
}

/// Its control protocol: a cookie, which no two requests share, and a bencoded dictionary in each datagram.
struct Control {
    socket: UdpSocket,
    cookies: AtomicU32,
}

impl Control {
    async fn to(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        let cookies = AtomicU32::new(1);
        Self { socket, cookies }
    }

    /// The answer to a dictionary without its cookie, or nothing while nobody listens.
    async fn ask(&self, request: &str) -> Option<String> {
        let cookie = self.cookies.fetch_add(1, Ordering::Relaxed);
        let request = format!("{cookie} {request}");
        self.socket.send(request.as_bytes()).await.ok()?;
        let mut buffer = vec![0; 65_536];
        let answer = async {
            loop {
                let length = self.socket.recv(&mut buffer).await.ok()?;
                let answer = String::from_utf8_lossy(&buffer[..length]);
                if let Some(answer) = answer.strip_prefix(&format!("{cookie} ")) {
                    return Some(answer.to_owned());
                }
            }
        };
        timeout(Duration::from_secs(2), answer).await.ok()?
    }

    async fn ping(&self) -> bool {
        self.ask("d7:command4:pinge").await.is_some()
    }

    /// The description that rtpengine makes of one.
    async fn describe(&self, command: &str, sdp: &str, with: &[(&str, String)]) -> String {
        let mut request = BTreeMap::from([
            ("call-id", string("1")),
            ("command", string(command)),
            ("sdp", string(sdp)),
            ("replace", list(&["origin", "session-connection"])),
        ]);
        request.extend(with.iter().cloned());
        let entries = request.iter().map(|(name, value)| string(name) + value);
        let request = format!("d{}e", entries.collect::<String>());
        let answer = self.ask(&request).await.expect("rtpengine answers");
        let found = answer
            .split_once("3:sdp")
            .and_then(|(_, rest)| rest.split_once(':'));
        let (length, rest) = found.unwrap_or_else(|| panic!("rtpengine refuses: {answer}"));
        rest[..length.parse().unwrap()].to_owned()
    }
}

fn string(text: &str) -> String {
    format!("{}:{text}", text.len())
}

fn list(texts: &[&str]) -> String {
    let texts = texts.iter().map(|text| string(text));
    format!("l{}e", texts.collect::<String>())
}

/// What passes messages between the caller and the service. Both answer to where a request came from (RFC 3581).
struct Relay {
    socket: UdpSocket,
    address: SocketAddr,
    service: SocketAddr,
    caller: Option<SocketAddr>,
    control: Control,
    secured: Secured,
    /// What was made of each message: retransmissions get the same.
    passed: BTreeMap<String, String>,
    /// The last INVITE came without a description, so that its response makes the offer.
    is_late: bool,
}

impl Relay {
    async fn run(mut self) {
        let mut buffer = vec![0; 65_536];
        loop {
            let (length, from) = self.socket.recv_from(&mut buffer).await.unwrap();
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let is_ours = from == self.service;
            if !is_ours {
                self.caller = Some(from);
            }
            let passed = match self.passed.get(&message) {
                Some(passed) => passed.clone(),
                None => self.rewritten(&message, is_ours).await,
            };
            let to = match is_ours {
                true => self.caller.expect("the caller speaks first"),
                false => self.service,
            };
            self.socket.send_to(passed.as_bytes(), to).await.unwrap();
            self.passed.insert(message, passed);
        }
    }

    async fn rewritten(&mut self, message: &str, is_ours: bool) -> String {
        let (head, body) = message.split_once("\r\n\r\n").unwrap_or((message, ""));
        let is_request = !head.starts_with("SIP/2.0");
        if head.starts_with("INVITE ") {
            self.is_late = body.is_empty();
        }
        let is_offer = match is_request {
            true => !head.starts_with("ACK "),
            false => self.is_late,
        };
        let body = match (body.is_empty(), is_offer) {
            (true, _) => String::new(),
            (false, true) => self.offer(body, is_ours).await,
            (false, false) => self.answer(body, is_ours).await,
        };
        let peer = match is_ours {
            true => Some(self.service),
            false => self.caller,
        };
        let mut lines = Vec::new();
        for line in head.lines() {
            match line.split_once(':').map_or("", |(name, _)| name) {
                "Content-Length" => lines.push(format!("Content-Length: {}", body.len())),
                "Contact" => {
                    let peer = peer.expect("someone sent it").to_string();
                    lines.push(line.replace(&peer, &self.address.to_string()));
                }
                _ => lines.push(line.to_owned()),
            }
        }
        format!("{}\r\n\r\n{body}", lines.join("\r\n"))
    }

    async fn offer(&self, offer: &str, is_ours: bool) -> String {
        let tag = ("from-tag", string(side(is_ours)));
        if is_ours {
            let with = [
                tag,
                ("transport-protocol", string("RTP/AVP")),
                ("ICE", string("remove")),
                ("rtcp-mux", list(&["demux"])),
            ];
            return self.control.describe("offer", offer, &with).await;
        }
        let mut with = self.options();
        with.push(tag);
        with.push(("transport-protocol", string(self.secured.transport)));
        if self.secured.transport.contains("TLS") {
            with.push(("rtcp-mux", list(&["offer", "require"])));
        }
        let offer = self.control.describe("offer", offer, &with).await;
        // rtpengine itself leaves the choice to the other side.
        let setup = format!("a=setup:{}", self.secured.setup);
        offer.replace("a=setup:actpass", &setup)
    }

    async fn answer(&self, answer: &str, is_ours: bool) -> String {
        let mut with = match is_ours {
            true => vec![("ICE", string("remove"))],
            false => self.options(),
        };
        with.push(("from-tag", string(side(!is_ours))));
        with.push(("to-tag", string(side(is_ours))));
        self.control.describe("answer", answer, &with).await
    }

    /// What is asked for in every description towards the service.
    fn options(&self) -> Vec<(&'static str, String)> {
        let options = self.secured.options.iter();
        let mut with: Vec<_> = options
            .map(|(name, value)| (*name, string(value)))
            .collect();
        if !self.secured.flags.is_empty() {
            with.push(("flags", list(self.secured.flags)));
        }
        with
    }
}

/// rtpengine's name for a side of the call.
fn side(is_ours: bool) -> &'static str {
    match is_ours {
        true => "service",
        false => "caller",
    }
}
