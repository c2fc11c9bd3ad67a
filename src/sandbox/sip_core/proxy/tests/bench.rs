//! A proxy without a network: what stands on both sides of it says what the test wants it to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;

use crate::domain::Msisdn;
use crate::domain::Secret;
use crate::domain::Timestamp;
use crate::sandbox::sip_core::directory::Directory;
use crate::sandbox::sip_core::proxy::Config;
use crate::sandbox::sip_core::proxy::Event;
use crate::sandbox::sip_core::proxy::Output;
use crate::sandbox::sip_core::proxy::Proxy;
use crate::sandbox::sip_core::proxy::mischief::Mischief;
use crate::sandbox::world::Registration;
use crate::sandbox::world::RouteType;
use crate::sip::digest::Challenge;
use crate::sip::digest::Credentials;
use crate::sip::flow::Flow;
use crate::sip::flow::Transport;
use crate::sip::message;
use crate::sip::message::HeaderName;
use crate::sip::message::Limits;
use crate::sip::message::Message;
use crate::sip::message::Parsed;
use crate::sip::message::Request;
use crate::sip::message::Response;

pub(super) const ANNA: &str = "+4799990001";
pub(super) const BJARNE: &str = "+4799990002";
/// Where the proxy is, and the phones of both.
pub(super) const CORE: u16 = 5060;
pub(super) const ANNAS: u16 = 7001;
pub(super) const BJARNES: u16 = 7002;
/// Where the endpoint is.
pub(super) const ENDPOINT: u16 = 7100;

/// Who has which number, in tests.
#[derive(Default)]
pub(super) struct Table {
    registrations: Mutex<BTreeMap<Msisdn, Vec<Registration>>>,
    pub(super) mischief: Mutex<Mischief>,
}

impl Directory for Table {
    fn password(&self, number: &Msisdn) -> Option<Secret> {
        number
            .e164()
            .starts_with("+479999")
            .then(|| Secret::new("sandbox"))
    }

    fn registrations(&self, number: &Msisdn) -> Vec<Registration> {
        let all = self.registrations.lock().unwrap();
        all.get(number).cloned().unwrap_or_default()
    }

    fn mischief(&self, _number: &Msisdn) -> Mischief {
        *self.mischief.lock().unwrap()
    }
}

impl Table {
    /// The endpoint at `port` stands beside a number.
    pub(super) fn add(&self, number: &str, route_type: RouteType, port: u16) {
        let registration = Registration {
            client: "test".into(),
            sip_uri: format!("sip:127.0.0.1:{port}"),
            route_type,
            mobile_originating_prefix: "11".into(),
            mobile_terminating_prefix: "22".into(),
            expires_at: Timestamp::MAX,
        };
        let mut all = self.registrations.lock().unwrap();
        all.entry(self::number(number))
            .or_default()
            .push(registration);
    }
}

pub(super) fn number(text: &str) -> Msisdn {
    Msisdn::parse(text).unwrap()
}

/// One message that the proxy sent, and to whom.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) to: u16,
    pub(super) message: Message,
}

/// A proxy, and the time.
pub(super) struct Bench {
    pub(super) proxy: Proxy,
    pub(super) table: Arc<Table>,
    pub(super) now: Instant,
    pub(super) events: Vec<Event>,
    sequence: u32,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(super) fn with(config: Config) -> Self {
        let now = tokio::time::Instant::now().into_std();
        let table = Arc::new(Table::default());
        let config = Config {
            listen: vec![(Transport::Udp, address(CORE))],
            ..config
        };
        Self {
            proxy: Proxy::new(now, config, table.clone(), None, [5; 32]),
            table,
            now,
            events: Vec::new(),
            sequence: 0,
        }
    }

    /// A phone, or whoever is at `port`, sends this; gives what the proxy sends then.
    pub(super) fn send(&mut self, port: u16, text: impl Into<String>) -> Vec<Sent> {
        let bytes = Bytes::from(text.into());
        self.proxy.handle_datagram(self.now, flow(port), &bytes);
        self.sent()
    }

    /// Lets time pass, timer by timer; gives what the proxy sends meanwhile.
    pub(super) fn pass(&mut self, time: Duration) -> Vec<Sent> {
        let end = self.now + time;
        let mut sent = Vec::new();
        while let Some(next) = self.proxy.next_timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.proxy.handle_timeout(self.now);
            sent.extend(self.sent());
        }
        self.now = end;
        sent
    }

    /// What the proxy has to send now.
    fn sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        while let Some(output) = self.proxy.poll_output() {
            match output {
                Output::Send { flow, bytes, .. } => sent.push(Sent {
                    to: flow.remote.port(),
                    message: parse(&bytes),
                }),
                Output::Event(event) => self.events.push(event),
                other => panic!("no connection and no lookup is needed here: {other:?}"),
            }
        }
        sent
    }

    /// A phone registers, with its password.
    pub(super) fn register(&mut self, number: &str, port: u16) {
        let response = self.try_register(
            number,
            port,
            &format!("<sip:{number}@127.0.0.1:{port}>"),
            "",
        );
        assert_eq!(response.status.code(), 200);
    }

    /// A phone registers `contact`, with its password and more header lines; gives the answer.
    pub(super) fn try_register(
        &mut self,
        number: &str,
        port: u16,
        contact: &str,
        more: &str,
    ) -> Response {
        self.sequence += 1;
        let cseq = self.sequence;
        let contact = match contact {
            "" => String::new(),
            contact => format!("Contact: {contact}\r\n"),
        };
        let register = |authorization: &str| {
            format!(
                "REGISTER sip:127.0.0.1 SIP/2.0\r\n\
                 Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bKr{cseq}{}\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:{number}@127.0.0.1>;tag=r\r\nTo: <sip:{number}@127.0.0.1>\r\n\
                 Call-ID: register-{port}\r\nCSeq: {cseq} REGISTER\r\n{contact}{more}{authorization}\
                 Content-Length: 0\r\n\r\n",
                authorization.len(),
            )
        };
        let challenged = response(self.send(port, register("")).remove(0));
        assert_eq!(challenged.status.code(), 401);
        let authorization = answer(&challenged, number, "REGISTER", "sip:127.0.0.1");
        response(self.send(port, register(&authorization)).remove(0))
    }

    /// Anna's phone calls a number by its password; gives what the proxy sends.
    pub(super) fn call(&mut self, invite: &Invite) -> Vec<Sent> {
        let challenged = self.send(invite.port, invite.text(""));
        let challenged = response(challenged.into_iter().next().unwrap());
        assert_eq!(challenged.status.code(), 407);
        let uri = format!("sip:{}@127.0.0.1", invite.to);
        let answer = answer(&challenged, invite.from, "INVITE", &uri);
        self.send(invite.port, invite.text(&answer))
    }
}

/// An INVITE of a phone.
#[derive(Debug, Clone)]
pub(super) struct Invite {
    pub(super) from: &'static str,
    pub(super) to: String,
    pub(super) port: u16,
    pub(super) id: &'static str,
    /// More header lines.
    pub(super) more: &'static str,
}

impl Invite {
    /// Anna calls Bjarne.
    pub(super) fn new(id: &'static str) -> Self {
        Self {
            from: ANNA,
            to: BJARNE.to_owned(),
            port: ANNAS,
            id,
            more: "",
        }
    }

    pub(super) fn text(&self, authorization: &str) -> String {
        let branch = if authorization.is_empty() { "0" } else { "1" };
        self.request("INVITE", branch, authorization)
    }

    /// The CANCEL of the INVITE that was sent with a password.
    pub(super) fn cancel(&self) -> String {
        self.request("CANCEL", "1", "")
    }

    /// The ACK to a failure of that INVITE.
    pub(super) fn ack(&self) -> String {
        self.request("ACK", "1", "")
    }

    fn request(&self, method: &str, branch: &str, more: &str) -> String {
        let Self {
            from, to, port, id, ..
        } = self;
        format!(
            "{method} sip:{to}@127.0.0.1 SIP/2.0\r\n\
             Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK{id}{branch}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:{from}@127.0.0.1>;tag=f\r\nTo: <sip:{to}@127.0.0.1>\r\n\
             Call-ID: {id}\r\nCSeq: {branch} {method}\r\nContact: <sip:{from}@127.0.0.1:{port}>\r\n{}{more}\
             Content-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n",
            self.more,
        )
    }
}

/// The Authorization line that answers a challenge.
pub(super) fn answer(challenged: &Response, number: &str, method: &str, uri: &str) -> String {
    let (challenge, name) = Challenge::best_of(challenged.status, &challenged.headers).unwrap();
    let credentials = Credentials {
        username: number.to_owned(),
        password: "sandbox".to_owned(),
    };
    let answer = credentials.answer(&challenge, &method.into(), uri, "cnonce", 1);
    format!("{name}: {answer}\r\n")
}

pub(super) fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub(super) fn flow(port: u16) -> Flow {
    Flow {
        transport: Transport::Udp,
        local: address(CORE),
        remote: address(port),
        connection: 0,
    }
}

pub(super) fn parse(bytes: &Bytes) -> Message {
    match message::parse_datagram(bytes, &Limits::default()) {
        Parsed::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

pub(super) fn response(sent: Sent) -> Response {
    match sent.message {
        Message::Response(response) => response,
        Message::Request(request) => panic!("{request:?}"),
    }
}

/// A response of whoever got this request, as text.
pub(super) fn answered(request: &Request, status: &str, tag: &str) -> String {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for (name, value) in request.headers.iter() {
        let value = value.to_str_lossy();
        match name {
            HeaderName::To if !value.contains("tag=") && !status.starts_with("100") => {
                text.push_str(&format!("To: {value};tag={tag}\r\n"));
            }
            HeaderName::Via
            | HeaderName::From
            | HeaderName::To
            | HeaderName::CallId
            | HeaderName::CSeq
            | HeaderName::RecordRoute => text.push_str(&format!("{name}: {value}\r\n")),
            _ => {}
        }
    }
    text + &format!("Contact: <sip:there@127.0.0.1:{BJARNES}>\r\nContent-Length: 0\r\n\r\n")
}

/// What was sent to `port`, in short: `INVITE`, `180`, …
pub(super) fn to(sent: &[Sent], port: u16) -> Vec<String> {
    let there = sent.iter().filter(|one| one.to == port);
    there.map(|one| short(&one.message)).collect()
}

pub(super) fn short(message: &Message) -> String {
    match message {
        Message::Request(request) => request.method.to_string(),
        Message::Response(response) => response.status.to_string(),
    }
}

/// The last request with this method that was sent to `port`.
pub(super) fn request(sent: &[Sent], port: u16, method: &str) -> Request {
    let found = sent.iter().rev().find_map(|one| match &one.message {
        Message::Request(request) if one.to == port && request.method.as_str() == method => {
            Some(request.clone())
        }
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no {method} was sent to {port}: {sent:#?}"))
}

/// The last response that was sent to `port`.
pub(super) fn last_response(sent: &[Sent], port: u16) -> Response {
    let found = sent.iter().rev().find_map(|one| match &one.message {
        Message::Response(response) if one.to == port => Some(response.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no response was sent to {port}: {sent:#?}"))
}

/// A request of a dialog, from whoever got or gave this 2xx.
pub(super) fn in_dialog(
    method: &str,
    cseq: u32,
    success: &Response,
    from_port: u16,
    as_caller: bool,
) -> String {
    let header = |name| {
        success
            .headers
            .get(name)
            .unwrap()
            .to_str_lossy()
            .into_owned()
    };
    let mut routes: Vec<_> = success
        .headers
        .list(&HeaderName::RecordRoute)
        .map(|route| String::from_utf8(route.to_vec()).unwrap())
        .collect();
    let (mut from, mut to) = (header(&HeaderName::From), header(&HeaderName::To));
    let mut target = success.headers.contact().unwrap().uri.to_string();
    if as_caller {
        routes.reverse();
    } else {
        std::mem::swap(&mut from, &mut to);
        target = format!("sip:{ANNA}@127.0.0.1:{ANNAS}");
    }
    let routes: String = routes
        .iter()
        .map(|route| format!("Route: {route}\r\n"))
        .collect();
    let call_id = header(&HeaderName::CallId);
    format!(
        "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{from_port};branch=z9hG4bKd{method}{cseq}\r\n\
         Max-Forwards: 70\r\n{routes}From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\n\
         CSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n"
    )
}
