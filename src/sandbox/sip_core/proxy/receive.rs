//! Requests as they come in: checked (RFC 3261 section 16.3), matched to a transaction, or routed.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::sandbox::sip_core::proxy::Proxy;
use crate::sandbox::sip_core::proxy::server::Reply;
use crate::sandbox::sip_core::proxy::server::ServerId;
use crate::sip::flow::Flow;
use crate::sip::header::Via;
use crate::sip::message::HeaderName;
use crate::sip::message::Message;
use crate::sip::message::Method;
use crate::sip::message::Parsed;
use crate::sip::message::Request;
use crate::sip::message::Scheme;
use crate::sip::message::StatusCode;
use crate::sip::transaction::key::ServerKey;
use crate::sip::transaction::machine::ServerMachine;
use crate::sip::transaction::way_back;

/// What we serve ourselves, and pass on outside of dialogs.
pub(super) const ALLOW: &str =
    "INVITE, ACK, BYE, CANCEL, OPTIONS, REGISTER, INFO, PRACK, UPDATE, MESSAGE, REFER, NOTIFY";

/// Max-Forwards of a request that came without one (RFC 3261 section 16.6 step 3).
const MAX_FORWARDS: u8 = 70;

/// Retry-After of a 503 when full, in seconds.
const RETRY_AFTER: &str = "5";

/// A request that passed the checks, and where it came from.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) request: Request,
    pub(super) key: ServerKey,
    pub(super) via: Via,
    pub(super) flow: Flow,
}

impl Proxy {
    /// One message, one refused request, one keep-alive, or rubbish.
    pub(super) fn receive(&mut self, now: Instant, flow: Flow, parsed: Parsed) {
        self.flows.open(flow, None);
        match parsed {
            Parsed::Message(Message::Request(request)) => self.on_request(now, flow, request),
            Parsed::Message(Message::Response(response)) => self.on_response(now, response),
            Parsed::Refused {
                mut request,
                status,
                ..
            } => {
                let Some(via) = request.headers.top_via() else {
                    return self.count("request_without_via");
                };
                let via = way_back::stamp(&mut request.headers, via, flow);
                let reply = Reply::new(status, "request_malformed");
                self.reply_stateless(&request, &via, flow, &reply);
            }
            // RFC 5626 section 3.5.1.
            Parsed::KeepAlive { ping: true } if flow.transport.is_reliable() => {
                self.send(flow, Bytes::from_static(b"\r\n"));
            }
            Parsed::KeepAlive { .. } => {}
            Parsed::Dropped(error) => self.count(error.label()),
        }
    }

    fn on_request(&mut self, now: Instant, flow: Flow, mut request: Request) {
        let Some(via) = request.headers.top_via() else {
            return self.count("request_without_via");
        };
        let via = way_back::stamp(&mut request.headers, via, flow);
        let key = ServerKey::new(&request, &via);
        let received = Received {
            request,
            key,
            via,
            flow,
        };
        match received.request.method {
            Method::Ack => return self.on_ack(now, received),
            Method::Cancel => return self.on_cancel(now, received),
            _ => {}
        }
        if let Some(id) = self.servers.find(&received.key) {
            return self.on_retransmission(id, &received.via, flow);
        }
        if self.servers.len().max(self.clients.len()) >= self.config.max_transactions {
            let reply = Reply::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_transactions")
                .with(HeaderName::RetryAfter, RETRY_AFTER);
            return self.refuse(&received, &reply);
        }
        if let Err(reply) = self.check(&received.request) {
            return self.refuse(&received, &reply);
        }
        let has_tag = received
            .request
            .headers
            .to()
            .is_some_and(|to| to.tag().is_some());
        match received.request.method {
            Method::Register => self.on_register(now, &received),
            _ if has_tag => self.on_dialog_request(now, &received),
            _ => self.on_initial(now, received),
        }
    }

    /// The checks of RFC 3261 section 16.3 that need nothing but the request.
    fn check(&self, request: &Request) -> Result<(), Reply> {
        if !matches!(request.uri.scheme, Scheme::Sip | Scheme::Sips | Scheme::Tel) {
            let status = StatusCode::UNSUPPORTED_URI_SCHEME;
            return Err(Reply::new(status, "unsupported_uri_scheme"));
        }
        if request.headers.max_forwards() == Some(0) && !self.is_for_us(request) {
            return Err(Reply::new(StatusCode::TOO_MANY_HOPS, "too_many_hops"));
        }
        if self.has_looped(request) {
            return Err(Reply::new(StatusCode::LOOP_DETECTED, "loop"));
        }
        let required: Vec<_> = request.headers.tokens(&HeaderName::ProxyRequire).collect();
        if !required.is_empty() {
            let unsupported = required.join(", ");
            return Err(Reply::new(StatusCode::BAD_EXTENSION, "proxy_require")
                .with(HeaderName::Unsupported, unsupported));
        }
        Ok(())
    }

    /// Whether a request is meant for us alone.
    pub(super) fn is_for_us(&self, request: &Request) -> bool {
        let is_served = matches!(request.method, Method::Options | Method::Register);
        is_served && request.uri.user.is_none()
    }

    /// Whether the request was here before and comes back as it was (RFC 5393 section 4.2).
    fn has_looped(&self, request: &Request) -> bool {
        let vias = request.headers.list(&HeaderName::Via);
        let ours = vias
            .filter_map(|via| Via::parse(via).ok())
            .filter(|via| self.addresses.is_our_via(via));
        let mut hash = None;
        ours.into_iter().any(|via| {
            let hash = hash.get_or_insert_with(|| self.loop_hash(request));
            let given = via.branch().and_then(|branch| branch.rsplit_once('.'));
            given.is_some_and(|(_, given)| given == hash)
        })
    }

    /// Opens the transaction of a request that will be answered or forwarded.
    pub(super) fn accept(&mut self, received: &Received) -> ServerId {
        let request = Arc::new(received.request.clone());
        self.open_server(received.key.clone(), request, &received.via, received.flow)
    }

    /// Answers a request of which nothing shall be remembered.
    pub(super) fn refuse(&mut self, received: &Received, reply: &Reply) {
        self.reply_stateless(&received.request, &received.via, received.flow, reply);
    }

    /// An ACK to a failure ends here; one to a 2xx goes on to who sent that.
    fn on_ack(&mut self, now: Instant, received: Received) {
        if let Some(id) = self.servers.find(&received.key)
            && let Some(entry) = self.servers.get_mut(id)
            && let ServerMachine::Invite(invite) = &mut entry.machine
        {
            let effect = invite.on_ack(now);
            self.settle_server(id);
            if !effect.deliver {
                return;
            }
        }
        self.on_dialog_ack(now, received);
    }

    /// CANCEL (RFC 3261 section 16.10). One without its INVITE gets 481: no INVITE was forwarded without state.
    fn on_cancel(&mut self, now: Instant, received: Received) {
        let own_key = ServerKey::of_cancel(&received.request, &received.via);
        if let Some(id) = self.servers.find(&own_key) {
            return self.on_retransmission(id, &received.via, received.flow);
        }
        let Some(invite) = self.servers.find(&received.key) else {
            let reply = Reply::new(StatusCode::CALL_DOES_NOT_EXIST, "cancel_unmatched");
            return self.refuse(&received, &reply);
        };
        let request = Arc::new(received.request);
        let cancel = self.open_server(own_key, request, &received.via, received.flow);
        self.reply(now, cancel, &Reply::new(StatusCode::OK, "cancelled"));
        self.cancel_parked(now, invite);
        self.cancel_context(now, invite);
    }
}

/// Counts Max-Forwards down.
pub(super) fn count_down(request: &mut Request) {
    let hops = request
        .headers
        .max_forwards()
        .map_or(MAX_FORWARDS, |hops| hops.saturating_sub(1));
    request
        .headers
        .set(HeaderName::MaxForwards, hops.to_string());
}
