//! A caller made by hand, for what no honest phone would send.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aftertone::media::audio::{BEEP_HZ, FRAME_SAMPLES, Law, Tone, tone_level};
use aftertone::media::rtp::{self, Datagram, Header};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::{NUMBER, SOON};

/// Numbers dialogs and transactions.
static NUMBERS: AtomicU32 = AtomicU32::new(1);

fn number() -> u32 {
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// A request written by hand. `from` is the socket that answers come to.
pub struct Request {
    pub method: &'static str,
    pub uri: String,
    pub from: SocketAddr,
    pub to_tag: Option<String>,
    pub call: u32,
    pub cseq: u32,
    pub branch: u32,
    pub headers: String,
    pub body: String,
}

impl Request {
    /// Outside of a dialog.
    pub fn new(method: &'static str, service: SocketAddr, from: SocketAddr) -> Self {
        let uri = format!("sip:{NUMBER}@{service}");
        let (call, branch) = (number(), number());
        let (headers, body) = (String::new(), String::new());
        Self {
            method,
            uri,
            from,
            to_tag: None,
            call,
            cseq: 1,
            branch,
            headers,
            body,
        }
    }

    /// An INVITE that offers µ-law and telephone-events at `media`.
    pub fn invite(service: SocketAddr, from: SocketAddr, media: SocketAddr) -> Self {
        let mut request = Self::new("INVITE", service, from);
        request.headers = "Content-Type: application/sdp\r\n".into();
        request.body = offer(media);
        request
    }

    /// The message, for a transport: `UDP`.
    pub fn over(&self, transport: &str) -> String {
        let Self {
            method,
            uri,
            from,
            call,
            cseq,
            branch,
            headers,
            body,
            ..
        } = self;
        let to_tag = self
            .to_tag
            .as_ref()
            .map(|tag| format!(";tag={tag}"))
            .unwrap_or_default();
        let ip = from.ip();
        format!(
            "{method} {uri} SIP/2.0\r\n\
             Via: SIP/2.0/{transport} {from};branch=z9hG4bK-raw-{ip}-{branch};rport\r\n\
             From: <sip:+4787654321@{from}>;tag=raw{call}\r\n\
             To: <sip:{NUMBER}@localhost>{to_tag}\r\n\
             Call-ID: raw-{call}@{from}\r\n\
             CSeq: {cseq} {method}\r\n\
             Contact: <sip:raw@{from}>\r\n\
             Max-Forwards: 70\r\n\
             {headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

pub fn offer(media: SocketAddr) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n",
        ip = media.ip(),
        port = media.port()
    )
}

/// Receives a message, within [`SOON`].
pub async fn receive(socket: &UdpSocket) -> String {
    let mut message = vec![0; 65_536];
    let received = tokio::time::timeout(SOON, socket.recv(&mut message)).await;
    message.truncate(received.expect("an answer").unwrap());
    String::from_utf8(message).unwrap()
}

/// The status of a response.
pub fn status(response: &str) -> u16 {
    let line = response
        .strip_prefix("SIP/2.0 ")
        .unwrap_or_else(|| panic!("{response}"));
    line[..3].parse().unwrap()
}

/// The value of a header as our side writes it.
pub fn header<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = message.split("\r\n").take_while(|line| !line.is_empty());
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// A call from two sockets.
pub struct RawCall {
    pub sip: UdpSocket,
    pub rtp: UdpSocket,
    /// Where the service takes our media.
    pub media: SocketAddr,
    /// The 200 to our INVITE.
    pub answer: String,
    request: Request,
}

impl RawCall {
    /// Calls, and acknowledges the answer. `change` has the last word on the INVITE.
    pub async fn start(service: SocketAddr, change: impl FnOnce(&mut Request)) -> Self {
        let sip = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let rtp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        Self::start_from(service, sip, rtp, change).await
    }

    pub async fn start_from(
        service: SocketAddr,
        sip: UdpSocket,
        rtp: UdpSocket,
        change: impl FnOnce(&mut Request),
    ) -> Self {
        sip.connect(service).await.unwrap();
        let (from, media) = (sip.local_addr().unwrap(), rtp.local_addr().unwrap());
        let mut request = Request::invite(service, from, media);
        change(&mut request);
        sip.send(request.over("UDP").as_bytes()).await.unwrap();
        let answer = loop {
            let response = receive(&sip).await;
            match status(&response) {
                100..=199 => {}
                200 => break response,
                _ => panic!("{response}"),
            }
        };
        let to = header(&answer, "To").unwrap();
        request.to_tag = Some(to.rsplit_once(";tag=").unwrap().1.to_owned());
        let contact = header(&answer, "Contact").unwrap();
        request.uri = contact.split(['<', '>']).nth(1).unwrap().to_owned();
        request.headers = String::new();
        request.body = String::new();
        let line = |name: &str| {
            answer
                .split("\r\n")
                .find_map(|line| line.strip_prefix(name))
        };
        let ip = line("c=IN IP4 ").unwrap().parse().unwrap();
        let port = line("m=audio ")
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let call = Self {
            sip,
            rtp,
            media: SocketAddr::new(ip, port),
            answer,
            request,
        };
        call.acknowledge().await;
        call
    }

    /// A request within the dialog, with the number that is next.
    fn next_request(&self, method: &'static str) -> Request {
        let Request {
            uri,
            from,
            to_tag,
            call,
            cseq,
            ..
        } = &self.request;
        Request {
            method,
            uri: uri.clone(),
            to_tag: to_tag.clone(),
            call: *call,
            cseq: cseq + 1,
            ..Request::new(method, self.media, *from)
        }
    }

    /// Sends a request within the dialog, and returns its final response.
    pub async fn request(
        &mut self,
        method: &'static str,
        change: impl FnOnce(&mut Request),
    ) -> String {
        let mut request = self.next_request(method);
        self.request.cseq = request.cseq;
        change(&mut request);
        self.sip.send(request.over("UDP").as_bytes()).await.unwrap();
        let cseq = format!("{} {method}", request.cseq);
        loop {
            let message = receive(&self.sip).await;
            let ours = message.starts_with("SIP/2.0 ") && header(&message, "CSeq") == Some(&cseq);
            if ours && status(&message) >= 200 {
                return message;
            }
        }
    }

    /// Acknowledges the answer to the last INVITE within the dialog.
    pub async fn acknowledge(&self) {
        let mut ack = self.next_request("ACK");
        ack.cseq = self.request.cseq;
        self.sip.send(ack.over("UDP").as_bytes()).await.unwrap();
    }

    /// Hangs up.
    pub async fn bye(mut self) {
        let response = self.request("BYE", |_| {}).await;
        assert_eq!(status(&response), 200, "{response}");
    }

    /// Waits for the service's BYE and answers it; the BYE.
    pub async fn until_bye(&self) -> String {
        loop {
            let message = receive(&self.sip).await;
            if message.starts_with("BYE ") {
                let lines = message.split("\r\n").filter(|line| {
                    ["Via: ", "From: ", "To: ", "Call-ID: ", "CSeq: "]
                        .iter()
                        .any(|name| line.starts_with(name))
                });
                let copied: Vec<_> = lines.collect();
                let response = copied.join("\r\n");
                let response = format!("SIP/2.0 200 OK\r\n{response}\r\nContent-Length: 0\r\n\r\n");
                self.sip.send(response.as_bytes()).await.unwrap();
                return message;
            }
        }
    }

    /// Listens until the beep is over.
    pub async fn until_beep_is_over(&self) {
        self.until_tone_is_over(BEEP_HZ).await;
    }

    /// Listens until the first packet of a tone.
    pub async fn until_tone(&self, hz: f64) {
        let mut datagram = [0; 2048];
        let heard = async {
            loop {
                let len = self.rtp.recv(&mut datagram).await.unwrap();
                if is_tone(&datagram[..len], hz) {
                    return;
                }
            }
        };
        tokio::time::timeout(SOON, heard)
            .await
            .expect("the tone comes");
    }

    /// Listens until a tone has been there and is over.
    pub async fn until_tone_is_over(&self, hz: f64) {
        let mut beeped = false;
        let deadline = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < deadline, "the beep never comes");
            let mut datagram = [0; 2048];
            let received = self.rtp.recv(&mut datagram);
            match tokio::time::timeout(Duration::from_millis(60), received).await {
                Ok(len) => {
                    let beeps = is_tone(&datagram[..len.unwrap()], hz);
                    if beeped && !beeps {
                        return;
                    }
                    beeped |= beeps;
                }
                Err(_) if beeped => return,
                Err(_) => {}
            }
        }
    }

    /// Sends packets, each at its time after the first.
    pub async fn send(&self, schedule: Schedule) {
        send_from(&self.rtp, self.media, schedule).await;
    }
}

fn is_tone(datagram: &[u8], hz: f64) -> bool {
    let Ok(Datagram::Rtp(packet)) = rtp::read(datagram) else {
        return false;
    };
    let mut samples = [0; FRAME_SAMPLES];
    let decoded = Law::Mu.decode(packet.payload, &mut samples);
    tone_level(&samples[..decoded], hz) > 0.05
}

/// Packets, and when each is sent.
pub type Schedule = Vec<(Duration, Vec<u8>)>;

pub async fn send_from(socket: &UdpSocket, to: SocketAddr, mut schedule: Schedule) {
    schedule.sort_by_key(|(at, _)| *at);
    let began = Instant::now();
    for (at, packet) in schedule {
        tokio::time::sleep_until(began + at).await;
        // A port that is closed already tells so; the test looks at what came of it.
        drop(socket.send_to(&packet, to).await);
    }
}

/// A stream of RTP packets of 20 ms, as a phone sends them.
pub struct Stream {
    pub header: Header,
    tone: Tone,
}

impl Stream {
    /// Of a tone, in µ-law.
    pub fn new(hz: f64) -> Self {
        let seed = number();
        let header = Header {
            payload_type: 0,
            marker: false,
            sequence: seed.wrapping_mul(7919) as u16,
            timestamp: seed.wrapping_mul(104_729),
            ssrc: seed.wrapping_mul(2_654_435_761),
        };
        Self {
            header,
            tone: Tone::new(hz, 0.4),
        }
    }

    pub fn packet(&mut self) -> Vec<u8> {
        let mut samples = [0; FRAME_SAMPLES];
        self.tone.fill(&mut samples);
        let mut packet = self.header.to_bytes().to_vec();
        packet.resize(packet.len() + FRAME_SAMPLES, 0);
        Law::Mu.encode(&samples, &mut packet[rtp::HEADER_LEN..]);
        self.header.sequence = self.header.sequence.wrapping_add(1);
        self.header.timestamp = self.header.timestamp.wrapping_add(FRAME_SAMPLES as u32);
        packet
    }

    /// A key that is pressed for 100 ms (RFC 4733), with its three last packets: `#` is 11.
    pub fn key(&mut self, event: u8) -> Schedule {
        let mut schedule = Schedule::new();
        for n in 1..=7_u16 {
            let ended = n > 4;
            let duration = n.min(5) * FRAME_SAMPLES as u16;
            let mut header = self.header;
            header.payload_type = 101;
            header.marker = n == 1;
            let mut packet = header.to_bytes().to_vec();
            packet.extend([event, if ended { 0x8A } else { 0x0A }]);
            packet.extend(duration.to_be_bytes());
            schedule.push((Duration::from_millis(20) * u32::from(n - 1), packet));
            self.header.sequence = self.header.sequence.wrapping_add(1);
        }
        self.header.timestamp = self.header.timestamp.wrapping_add(7 * FRAME_SAMPLES as u32);
        schedule
    }

    /// So many packets, one every 20 ms.
    pub fn packets(&mut self, count: u32) -> Schedule {
        (0..count)
            .map(|n| (Duration::from_millis(20) * n, self.packet()))
            .collect()
    }
}
