//! Requests within dialogs: they find their way by the Record-Routes that we put into the INVITE (RFC 3261 sections
//! 16.4, 16.5 and 16.12).

use std::time::Instant;

use crate::sandbox::sip_core::proxy::Proxy;
use crate::sandbox::sip_core::proxy::client::Outgoing;
use crate::sandbox::sip_core::proxy::context::Context;
use crate::sandbox::sip_core::proxy::context::Step;
use crate::sandbox::sip_core::proxy::receive::Received;
use crate::sandbox::sip_core::proxy::receive::count_down;
use crate::sandbox::sip_core::proxy::server::Reply;
use crate::sip::flow::Flow;
use crate::sip::header::NameAddr;
use crate::sip::message::HeaderName;
use crate::sip::message::Method;
use crate::sip::message::Request;
use crate::sip::message::StatusCode;
use crate::sip::message::Uri;

/// Where a request of a dialog goes next.
struct Next {
    hop: Uri,
    flow: Option<Flow>,
}

impl Proxy {
    pub(super) fn on_dialog_request(&mut self, now: Instant, received: &Received) {
        let mut request = received.request.clone();
        let Some(next) = self.follow_routes(&mut request) else {
            let reply = Reply::new(StatusCode::CALL_DOES_NOT_EXIST, "unknown_dialog");
            return self.refuse(received, &reply);
        };
        let id = self.accept(received);
        if request.method == Method::Invite {
            self.reply(now, id, &Reply::new(StatusCode::TRYING, "trying"));
        }
        if request.method == Method::Bye {
            let call_id = request
                .headers
                .call_id()
                .map(|id| id.to_str_lossy().into_owned());
            self.hang_up(call_id.unwrap_or_default(), "hung up".to_owned());
        }
        let loop_hash = self.loop_hash(&received.request);
        let upstream = self
            .servers
            .get(id)
            .map_or(received.flow, |entry| entry.flow);
        let outgoing = self.along(request, next);
        let mut context = Context::new(outgoing.request.clone(), loop_hash, upstream);
        context.plan.push_back(Step::Together(vec![outgoing]));
        self.open_context(now, id, context);
    }

    /// The ACK to a 2xx has no transaction: it is sent on, once for each time that it comes.
    pub(super) fn on_dialog_ack(&mut self, now: Instant, received: Received) {
        let loop_hash = self.loop_hash(&received.request);
        let mut request = received.request;
        let Some(next) = self.follow_routes(&mut request) else {
            return self.count("ack_unmatched");
        };
        let hops = request.headers.max_forwards();
        if hops == Some(0) {
            return self.count("ack_too_many_hops");
        }
        let outgoing = self.along(request, next);
        self.forward(now, None, outgoing, loop_hash);
    }

    fn along(&mut self, mut request: Request, next: Next) -> Outgoing {
        count_down(&mut request);
        // Who sends it has not proved who he is (RFC 3325 section 5); what the caller was let assert stands in the
        // INVITE that began the call.
        request.headers.remove(&HeaderName::PAssertedIdentity);
        request.headers.remove(&HeaderName::PPreferredIdentity);
        if let Some(body) = self.rewritten(&request.headers, &request.body, false) {
            request.body = body;
        }
        Outgoing {
            request,
            next_hop: next.hop,
            flow: next.flow,
            pinned: next.flow.is_some_and(|flow| flow.transport.is_reliable()),
            leg: None,
        }
    }

    /// Takes our Routes off and says where the request goes; `None` where it bears none that we gave out for this
    /// call: we are nobody's open relay.
    fn follow_routes(&self, request: &mut Request) -> Option<Next> {
        let mut routes: Vec<NameAddr> = request.headers.addresses(&HeaderName::Route).collect();
        let mut connection = None;
        if let Some(ours) = self.routed_connection(request, &request.uri) {
            // A strict router before us has put our Route into the Request-URI, and the target at the end (16.4).
            connection = Some(ours);
            request.uri = routes.pop()?.uri;
        }
        while let Some(first) = routes.first() {
            match self.routed_connection(request, &first.uri) {
                Some(ours) => connection = Some(ours),
                // A Route that leads to us without being of this call: an outbound proxy of the phone's settings.
                None if self.addresses.is_ours(&first.uri) => {}
                None => break,
            }
            routes.remove(0);
        }
        let flow = self.flows.by_connection(connection?);
        let hop = match routes.first() {
            None => request.uri.clone(),
            Some(first) if first.uri.params.has("lr") => first.uri.clone(),
            Some(_) => {
                // A strict router comes next (16.6 step 6).
                let first = routes.remove(0).uri;
                let target = std::mem::replace(&mut request.uri, first.clone());
                routes.push(NameAddr::new(target));
                first
            }
        };
        request.headers.remove(&HeaderName::Route);
        for route in &routes {
            request.headers.push(HeaderName::Route, route.to_string());
        }
        // The connection leads to who is next only while no other proxy stands between.
        let flow = flow.filter(|_| routes.is_empty());
        Some(Next { hop, flow })
    }
}
