//! One endpoint on a bench: message bytes in, message bytes out, in virtual time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use aftertone::sip::endpoint::CallHandle;
use aftertone::sip::endpoint::Config;
use aftertone::sip::endpoint::Endpoint;
use aftertone::sip::endpoint::Event;
use aftertone::sip::endpoint::Output;
use aftertone::sip::flow::Flow;
use aftertone::sip::flow::Transport;
use aftertone::sip::message::HeaderName;
use aftertone::sip::message::Limits;
use aftertone::sip::message::Message;
use aftertone::sip::message::Parsed;
use aftertone::sip::message::Request;
use aftertone::sip::message::Response;
use aftertone::sip::message::Uri;
use aftertone::sip::message::parse_datagram;
use bytes::Bytes;

pub(crate) const OFFER: &str = "v=0 offer";
pub(crate) const ANSWER: &str = "v=0 answer";

/// The endpoint, and what came out of it.
pub(crate) struct Bench {
    pub(crate) endpoint: Endpoint,
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    pub(crate) flow: Flow,
    sent: VecDeque<(Duration, Flow, Message)>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) counted: Vec<&'static str>,
    /// Resolve, Connect and Close.
    pub(crate) asked: VecDeque<Output>,
}

pub(crate) fn udp(remote: &str) -> Flow {
    let local = "10.0.0.1:5060".parse().unwrap();
    Flow {
        transport: Transport::Udp,
        local,
        remote: remote.parse().unwrap(),
        connection: 0,
    }
}

pub(crate) fn tcp(remote: &str, connection: u64) -> Flow {
    Flow {
        transport: Transport::Tcp,
        connection,
        ..udp(remote)
    }
}

pub(crate) fn config() -> Config {
    let address: SocketAddr = "10.0.0.1:5060".parse().unwrap();
    Config {
        uri: Uri::parse("sip:voicemail@vm.example").unwrap(),
        listen: vec![(Transport::Udp, address), (Transport::Tcp, address)],
        trusted: vec!["10.0.0.0/8".parse().unwrap()],
        ..Config::default()
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: Config) -> Self {
        let start = tokio::time::Instant::now().into_std();
        Self {
            endpoint: Endpoint::new(config, [7; 32]),
            now: start,
            start,
            flow: udp("10.0.0.9:5060"),
            sent: VecDeque::new(),
            events: VecDeque::new(),
            counted: Vec::new(),
            asked: VecDeque::new(),
        }
    }

    /// A message comes in on the bench's flow.
    pub(crate) fn receive(&mut self, text: impl AsRef<str>) {
        self.receive_on(self.flow, text);
    }

    pub(crate) fn receive_on(&mut self, flow: Flow, text: impl AsRef<str>) {
        let bytes = Bytes::copy_from_slice(text.as_ref().as_bytes());
        self.endpoint.handle_datagram(self.now, flow, &bytes);
        self.collect();
    }

    /// Takes out what the endpoint has to say.
    pub(crate) fn collect(&mut self) {
        while let Some(output) = self.endpoint.poll_output() {
            match output {
                Output::Send { flow, bytes } => {
                    let Parsed::Message(message) = parse_datagram(&bytes, &Limits::default())
                    else {
                        panic!("{bytes:?}")
                    };
                    self.sent.push_back((self.now - self.start, flow, message));
                }
                Output::Event(Event::Counted(what)) => self.counted.push(what),
                Output::Event(event) => self.events.push_back(event),
                other => self.asked.push_back(other),
            }
        }
    }

    /// Lets time pass.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.collect();
        let until = self.now + time;
        while let Some(next) = self.endpoint.next_timeout().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.endpoint.handle_timeout(self.now);
            self.collect();
        }
        self.now = until;
    }

    pub(crate) fn wait_secs(&mut self, secs: u64) {
        self.wait(Duration::from_secs(secs));
    }

    /// The next message that was sent, with its time in milliseconds and its flow.
    pub(crate) fn take(&mut self) -> Option<(u128, Flow, Message)> {
        self.collect();
        self.sent
            .pop_front()
            .map(|(at, flow, message)| (at.as_millis(), flow, message))
    }

    /// The next message sent is a response with this status.
    #[track_caller]
    pub(crate) fn response(&mut self, status: u16) -> Response {
        match self.take() {
            Some((_, _, Message::Response(response))) if response.status.code() == status => {
                response
            }
            other => panic!("expected {status}, got {other:?}"),
        }
    }

    /// The next message sent is a request with this method.
    #[track_caller]
    pub(crate) fn request(&mut self, method: &str) -> Request {
        match self.take() {
            Some((_, _, Message::Request(request))) if request.method.as_str() == method => request,
            other => panic!("expected {method}, got {other:?}"),
        }
    }

    /// The times in milliseconds since `since` at which messages were sent that begin so; takes all messages out.
    pub(crate) fn times(&mut self, since: Instant, start: &str) -> Vec<u128> {
        let mut times = Vec::new();
        let offset = (since - self.start).as_millis();
        while let Some((at, _, message)) = self.take() {
            if message.to_bytes().starts_with(start.as_bytes()) {
                times.push(at - offset);
            }
        }
        times
    }

    /// Nothing more was sent.
    #[track_caller]
    pub(crate) fn silence(&mut self) {
        let next = self.take();
        assert!(next.is_none(), "unexpected {next:?}");
    }

    #[track_caller]
    pub(crate) fn event(&mut self) -> Event {
        self.collect();
        self.events.pop_front().expect("an event")
    }

    /// The next event is the end of a call: how it reads.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> String {
        match self.event() {
            Event::Ended { end, .. } => format!("{end:?}"),
            other => panic!("expected the end, got {other:?}"),
        }
    }

    /// An INVITE comes in, gets 100, and becomes a call.
    #[track_caller]
    pub(crate) fn incoming(&mut self, invite: &Msg) -> CallHandle {
        self.receive(invite.text());
        self.response(100);
        match self.event() {
            Event::Incoming { call, .. } => call,
            other => panic!("expected a call, got {other:?}"),
        }
    }

    /// A call that was answered and acknowledged. Gives our tag too.
    #[track_caller]
    pub(crate) fn established(&mut self, invite: &Msg) -> (CallHandle, String) {
        let call = self.incoming(invite);
        self.endpoint.answer(self.now, call, ANSWER.into()).unwrap();
        let tag = to_tag(&self.response(200));
        self.receive(invite.in_dialog("ACK", invite.cseq, &tag).text());
        assert!(matches!(self.event(), Event::Accepted { .. }));
        assert!(matches!(
            self.event(),
            Event::Confirmed { answer: None, .. }
        ));
        (call, tag)
    }
}

pub(crate) fn to_tag(response: &Response) -> String {
    response.headers.to().unwrap().tag().unwrap().to_owned()
}

/// The text of a header, over all its lines.
pub(crate) fn header(headers: &aftertone::sip::message::Headers, name: &str) -> String {
    let lines: Vec<_> = headers
        .all(&HeaderName::from(name))
        .map(|value| value.to_str_lossy().into_owned())
        .collect();
    lines.join(", ")
}

/// A request in the making.
#[derive(Debug, Clone)]
pub(crate) struct Msg {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) via: String,
    pub(crate) to_tag: Option<String>,
    pub(crate) cseq: u32,
    pub(crate) call_id: String,
    pub(crate) contact: Option<String>,
    pub(crate) lines: Vec<String>,
    pub(crate) body: String,
}

impl Msg {
    pub(crate) fn new(method: &str) -> Self {
        Self {
            method: method.into(),
            uri: "sip:+4712345678@vm.example".into(),
            via: format!("SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bK-{method}-1"),
            to_tag: None,
            cseq: 1,
            call_id: "call-1".into(),
            contact: Some("<sip:alice@10.0.0.9:5070>".into()),
            lines: Vec::new(),
            body: String::new(),
        }
    }

    pub(crate) fn invite() -> Self {
        Self::new("INVITE").body(OFFER)
    }

    pub(crate) fn via(mut self, via: &str) -> Self {
        self.via = via.into();
        self
    }

    pub(crate) fn line(mut self, line: &str) -> Self {
        self.lines.push(line.into());
        self
    }

    pub(crate) fn cseq(mut self, cseq: u32) -> Self {
        self.cseq = cseq;
        self
    }

    pub(crate) fn call_id(mut self, call_id: &str) -> Self {
        self.call_id = call_id.into();
        self
    }

    pub(crate) fn uri(mut self, uri: &str) -> Self {
        self.uri = uri.into();
        self
    }

    /// With a session description.
    pub(crate) fn body(mut self, body: &str) -> Self {
        self.lines.push("Content-Type: application/sdp".into());
        self.body = body.into();
        self
    }

    /// Another request of the same caller in the dialog that this one made.
    pub(crate) fn in_dialog(&self, method: &str, cseq: u32, to_tag: &str) -> Self {
        let via = format!("SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bK-{method}-{cseq}");
        Self {
            method: method.into(),
            to_tag: Some(to_tag.into()),
            cseq,
            lines: Vec::new(),
            body: String::new(),
            ..self.clone()
        }
        .via(&via)
    }

    /// The same request with another method and the same branch: CANCEL, or the ACK to a failure.
    pub(crate) fn hop(&self, method: &str, to_tag: Option<&str>) -> Self {
        Self {
            method: method.into(),
            to_tag: to_tag.map(String::from),
            lines: Vec::new(),
            body: String::new(),
            ..self.clone()
        }
    }

    pub(crate) fn text(&self) -> String {
        let to_tag = self
            .to_tag
            .as_ref()
            .map(|tag| format!(";tag={tag}"))
            .unwrap_or_default();
        let mut text = format!(
            "{} {} SIP/2.0\r\nVia: {}\r\nMax-Forwards: 70\r\n",
            self.method, self.uri, self.via
        );
        text += &format!(
            "From: <sip:alice@a.example>;tag=alice\r\nTo: <sip:bob@b.example>{to_tag}\r\n"
        );
        text += &format!(
            "Call-ID: {}\r\nCSeq: {} {}\r\n",
            self.call_id, self.cseq, self.method
        );
        if let Some(contact) = &self.contact {
            text += &format!("Contact: {contact}\r\n");
        }
        for line in &self.lines {
            text += &format!("{line}\r\n");
        }
        text + &format!("Content-Length: {}\r\n\r\n{}", self.body.len(), self.body)
    }
}

/// A response to a request of the endpoint.
pub(crate) fn reply(
    request: &Request,
    status: u16,
    tag: &str,
    lines: &[&str],
    body: &str,
) -> String {
    let mut text = format!("SIP/2.0 {status} Some Reason\r\n");
    for name in ["Via", "From", "Call-ID", "CSeq"] {
        text += &format!("{name}: {}\r\n", header(&request.headers, name));
    }
    let to = request.headers.to().unwrap();
    let to = if to.tag().is_none() && !tag.is_empty() {
        to.with_tag(tag)
    } else {
        to
    };
    text += &format!("To: {to}\r\n");
    for line in lines {
        text += &format!("{line}\r\n");
    }
    if !body.is_empty() {
        text += "Content-Type: application/sdp\r\n";
    }
    text + &format!("Content-Length: {}\r\n\r\n{body}", body.len())
}
