//! Requests that begin something: who sends them, whom they call, and the plan that follows from it.

use std::time::Instant;

use crate::domain::Msisdn;
use crate::sandbox::sip_core::proxy::EndpointLeg;
use crate::sandbox::sip_core::proxy::Event;
use crate::sandbox::sip_core::proxy::Output;
use crate::sandbox::sip_core::proxy::Proxy;
use crate::sandbox::sip_core::proxy::authority::Asking;
use crate::sandbox::sip_core::proxy::client::Outgoing;
use crate::sandbox::sip_core::proxy::context::Call;
use crate::sandbox::sip_core::proxy::context::Context;
use crate::sandbox::sip_core::proxy::context::Looping;
use crate::sandbox::sip_core::proxy::context::State;
use crate::sandbox::sip_core::proxy::context::Step;
use crate::sandbox::sip_core::proxy::identity::Candidate;
use crate::sandbox::sip_core::proxy::identity::Likeness;
use crate::sandbox::sip_core::proxy::receive::ALLOW;
use crate::sandbox::sip_core::proxy::receive::Received;
use crate::sandbox::sip_core::proxy::receive::count_down;
use crate::sandbox::sip_core::proxy::registrar::Binding;
use crate::sandbox::sip_core::proxy::retarget::DivertReason;
use crate::sandbox::sip_core::proxy::routing;
use crate::sandbox::sip_core::proxy::routing::Leg;
use crate::sandbox::sip_core::proxy::routing::Route;
use crate::sandbox::sip_core::proxy::routing::Side;
use crate::sandbox::sip_core::proxy::server::Reply;
use crate::sandbox::sip_core::proxy::server::ServerId;
use crate::sip::flow::Hop;
use crate::sip::flow::ResolveId;
use crate::sip::header::NameAddr;
use crate::sip::message::HeaderName;
use crate::sip::message::Host;
use crate::sip::message::Method;
use crate::sip::message::Request;
use crate::sip::message::StatusCode;
use crate::sip::message::Uri;

/// A request whose sender may be an endpoint: its host is being looked up.
#[derive(Debug)]
pub(super) struct Parked {
    id: ServerId,
    received: Received,
    asking: Asked,
    /// The candidate that is looked up.
    looked_up: Candidate,
    /// Those to be judged after it.
    rest: Vec<Candidate>,
}

/// Whom a request calls, and who it says calls him.
#[derive(Debug, Clone)]
struct Asked {
    called: Msisdn,
    named: Option<Msisdn>,
}

/// Who calls.
#[derive(Debug)]
enum Caller {
    /// A phone that proved its number.
    Phone(Msisdn),
    /// A registered endpoint.
    Endpoint(Candidate),
}

impl Proxy {
    pub(super) fn on_initial(&mut self, now: Instant, received: Received) {
        let request = &received.request;
        let is_ours = request.uri.user.is_none() && self.addresses.is_ours(&request.uri);
        if request.method == Method::Options && (self.is_for_us(request) || is_ours) {
            let id = self.accept(&received);
            return self.reply(now, id, &capabilities());
        }
        if matches!(&request.method, Method::Other(name) if matches!(&**name, "SUBSCRIBE" | "PUBLISH"))
            || matches!(
                request.method,
                Method::Bye | Method::Prack | Method::Update | Method::Info
            )
        {
            let reply = Reply::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
            return self.refuse(&received, &reply.with(HeaderName::Allow, ALLOW));
        }
        let Some(called) = self.called(request) else {
            // A stranger does not learn which numbers exist.
            let reply = match self.authenticated(now, Asking::Proxy, request) {
                Ok(_) => Reply::new(StatusCode::NOT_FOUND, "unknown_number"),
                Err(challenge) => challenge,
            };
            return self.refuse(&received, &reply);
        };
        let named = self.named_caller(request);
        let asked = Asked { called, named };
        if request.headers.has(&HeaderName::ProxyAuthorization) {
            return self.phone_calls(now, received, asked);
        }
        let candidates = self.candidates(asked.named.as_ref(), &asked.called);
        self.judge_candidates(now, None, received, asked, candidates);
    }

    /// Looks for the sender among the endpoints; one that is none of them must be a phone. `id` is the transaction of
    /// a request that has waited for an answer about one of them.
    fn judge_candidates(
        &mut self,
        now: Instant,
        id: Option<ServerId>,
        received: Received,
        asked: Asked,
        mut candidates: Vec<Candidate>,
    ) {
        while !candidates.is_empty() {
            let candidate = candidates.remove(0);
            match self.likeness(&received, &candidate.sip_uri, None) {
                Likeness::Other => {}
                Likeness::Same => {
                    let id = id.unwrap_or_else(|| self.accept(&received));
                    return self.route(now, id, received, asked, &Caller::Endpoint(candidate));
                }
                Likeness::Unknown(target) => {
                    let id = id.unwrap_or_else(|| self.accept(&received));
                    if received.request.method == Method::Invite {
                        self.reply(now, id, &Reply::new(StatusCode::TRYING, "trying"));
                    }
                    let question = ResolveId(self.next_id());
                    let parked = Parked {
                        id,
                        received,
                        asking: asked,
                        looked_up: candidate,
                        rest: candidates,
                    };
                    self.parked.insert(question, parked);
                    self.outputs.push_back(Output::Resolve {
                        id: question,
                        target,
                    });
                    return;
                }
            }
        }
        match id {
            None => self.phone_calls(now, received, asked),
            Some(id) => {
                let asks = self.authenticated(now, Asking::Proxy, &received.request);
                let refused = || Reply::new(StatusCode::FORBIDDEN, "unknown_endpoint");
                let reply = asks.err().unwrap_or_else(refused);
                self.reply(now, id, &reply);
            }
        }
    }

    /// The host of a candidate was looked up.
    pub(super) fn unpark(&mut self, now: Instant, parked: Parked, hops: &[Hop]) {
        let Parked {
            id,
            received,
            asking,
            looked_up,
            rest,
        } = parked;
        if self
            .servers
            .get(id)
            .is_none_or(|entry| !entry.machine.is_proceeding())
        {
            return;
        }
        match self.likeness(&received, &looked_up.sip_uri, Some(hops)) {
            Likeness::Same => self.route(now, id, received, asking, &Caller::Endpoint(looked_up)),
            Likeness::Other | Likeness::Unknown(_) => {
                self.judge_candidates(now, Some(id), received, asking, rest);
            }
        }
    }

    /// The caller gave up while his request waited.
    pub(super) fn cancel_parked(&mut self, now: Instant, id: ServerId) {
        if self.parked.values().any(|parked| parked.id == id) {
            let reply = Reply::new(StatusCode::REQUEST_TERMINATED, "cancelled");
            self.reply(now, id, &reply);
        }
    }

    /// A phone calls: it must prove its number, and call by that or hide it.
    fn phone_calls(&mut self, now: Instant, received: Received, asked: Asked) {
        let caller = match self.authenticated(now, Asking::Proxy, &received.request) {
            Ok(caller) => caller,
            Err(reply) => return self.refuse(&received, &reply),
        };
        let from = received.request.headers.from();
        let named = from.and_then(|from| self.existing(&from.uri.dialled()?));
        if named.is_some_and(|named| named != caller) {
            let reply = Reply::new(StatusCode::FORBIDDEN, "calls_by_other_number");
            return self.refuse(&received, &reply);
        }
        let id = self.accept(&received);
        self.route(now, id, received, asked, &Caller::Phone(caller));
    }

    /// Decides the way of a request by the registrations of both numbers.
    fn route(&mut self, now: Instant, id: ServerId, received: Received, asked: Asked, by: &Caller) {
        let called = asked.called;
        let caller = match by {
            Caller::Phone(number) => Some(number.clone()),
            Caller::Endpoint(_) => asked.named,
        };
        let loop_hash = self.loop_hash(&received.request);
        let mut request = received.request;
        let is_call = request.method == Method::Invite;
        let passed = match by {
            Caller::Phone(_) => None,
            Caller::Endpoint(endpoint) => {
                match self.sent_back(&endpoint.sip_uri, caller.as_ref(), &called) {
                    Some(side) => Some(side),
                    None if endpoint.may_call => Some(Side::Originating),
                    None => {
                        let reply = Reply::new(StatusCode::FORBIDDEN, "endpoint_may_not_call");
                        return self.reply(now, id, &reply);
                    }
                }
            }
        };
        if is_call {
            self.reply(now, id, &Reply::new(StatusCode::TRYING, "trying"));
        }
        let domain = request.headers.from().map_or_else(
            || Host::Name("sandbox.invalid".into()),
            |from| from.uri.host,
        );
        prepare(&mut request, by, &domain);
        if is_call {
            self.begin_call(&request, caller.as_ref(), &called);
        }
        if let Some(body) = self.rewritten(&request.headers, &request.body, false) {
            request.body = body;
        }
        let callers = caller
            .as_ref()
            .map(|caller| self.directory.registrations(caller));
        let calleds = self.directory.registrations(&called);
        let route = if is_call {
            routing::route(passed, callers.as_deref().unwrap_or_default(), &calleds)
        } else {
            Route::Phone {
                together: Vec::new(),
                afterwards: Vec::new(),
            }
        };
        let upstream = self
            .servers
            .get(id)
            .map_or(received.flow, |entry| entry.flow);
        let mut context = Context::new(request, loop_hash, upstream);
        context.call = is_call.then(|| Call {
            call_id: call_id(&context.request),
            caller,
            called: called.clone(),
            looping: None,
        });
        self.plan(now, &mut context, route, &called);
        self.open_context(now, id, context);
    }

    /// Turns a route into what is to be tried.
    fn plan(&mut self, now: Instant, context: &mut Context, route: Route, called: &Msisdn) {
        match route {
            Route::Loop { leg, side } => {
                let sip_uri = leg.sip_uri.clone();
                if let Some(call) = &mut context.call {
                    call.looping = Some(Looping { side, sip_uri });
                }
                let branch = self.endpoint_leg(&context.request, called, &leg, None);
                context
                    .plan
                    .push_back(Step::Together(branch.into_iter().collect()));
            }
            Route::Phone {
                together,
                afterwards,
            } => {
                let phones = self.bindings.of(called, now);
                context.had_phone = !phones.is_empty();
                let request = &context.request;
                let mut branches: Vec<_> = phones
                    .into_iter()
                    .map(|phone| phone_leg(request, phone))
                    .collect();
                for leg in &together {
                    branches.extend(self.endpoint_leg(request, called, leg, None));
                }
                context.plan.push_back(Step::Together(branches));
                let afterwards = afterwards.into_iter().map(Step::Fallback);
                context.plan.extend(afterwards);
            }
        }
    }

    /// Whether a call for this number is with this endpoint now, which may send it back; and which side's it is. The
    /// latest of the same caller counts, since the originating side comes first; then the latest of anybody, since an
    /// endpoint may hide who calls.
    fn sent_back(&self, sip_uri: &str, caller: Option<&Msisdn>, called: &Msisdn) -> Option<Side> {
        let calls = || {
            let open = self.contexts.values().rev();
            let open = open.filter(|context| context.state == State::Open);
            open.filter_map(|context| {
                let call = context.call.as_ref()?;
                let looping = call.looping.as_ref()?;
                let fits = call.called == *called && looping.sip_uri == sip_uri;
                fits.then_some((call.caller.as_ref(), looping.side))
            })
        };
        let of_same = calls().find(|(by, _)| *by == caller);
        of_same.or_else(|| calls().next()).map(|(_, side)| side)
    }

    fn begin_call(&mut self, request: &Request, caller: Option<&Msisdn>, called: &Msisdn) {
        let call_id = call_id(request);
        if let Some(relay) = &mut self.relay {
            relay.begins(&call_id, caller, called);
        }
        self.event(Event::Began {
            call_id,
            from: caller.cloned(),
            to: called.clone(),
        });
    }

    /// The leg of a call that goes on to a fallback endpoint.
    pub(super) fn diverted_to(
        &mut self,
        id: ServerId,
        leg: &Leg,
        reason: DivertReason,
    ) -> Option<Outgoing> {
        let context = self.contexts.get(&id)?;
        let called = context.call.as_ref()?.called.clone();
        let request = context.request.clone();
        self.endpoint_leg(&request, &called, leg, Some(reason))
    }

    /// The INVITE to an endpoint: the same once more, to the called number at the endpoint's host. The way is found
    /// by the URI that was registered.
    fn endpoint_leg(
        &mut self,
        request: &Request,
        called: &Msisdn,
        leg: &Leg,
        reason: Option<DivertReason>,
    ) -> Option<Outgoing> {
        let next_hop: Uri = leg.sip_uri.parse().ok()?;
        let mut request = request.clone();
        let domain = request.uri.host.clone();
        let number = routing::prefixed(called, &leg.prefix);
        request.uri = Uri::sip(Some(&number), next_hop.host.clone(), next_hop.port);
        request.uri.params.set("user", Some("phone"));
        if let Some(reason) = reason {
            self.config
                .retargeting
                .tell(&mut request, called, &domain, reason);
        }
        let id = self.next_id();
        Some(Outgoing {
            request,
            next_hop,
            flow: None,
            pinned: false,
            leg: Some(EndpointLeg {
                id,
                called: called.clone(),
            }),
        })
    }
}

/// The INVITE to a phone.
fn phone_leg(request: &Request, phone: Binding) -> Outgoing {
    let mut request = request.clone();
    let pinned = phone.is_pinned();
    let contact = phone.contact.uri;
    request.uri = contact.clone();
    for hop in &phone.path {
        request.headers.push(HeaderName::Route, hop.clone());
    }
    // RFC 3325 section 7: a phone learns who calls only where the caller lets it.
    if request.headers.hides_caller() {
        request.headers.remove(&HeaderName::PAssertedIdentity);
    }
    let path = request.headers.addresses(&HeaderName::Route).next();
    Outgoing {
        next_hop: path.map_or(contact, |path| path.uri),
        request,
        flow: Some(phone.flow),
        pinned,
        leg: None,
    }
}

/// Makes of a request what goes on: no Route that we did not ask for, no password, and an identity of the caller
/// that is true (RFC 3325 section 5).
fn prepare(request: &mut Request, by: &Caller, domain: &Host) {
    count_down(request);
    request.headers.remove(&HeaderName::Route);
    request.headers.remove(&HeaderName::ProxyAuthorization);
    if let Caller::Phone(number) = by {
        request.headers.remove(&HeaderName::PAssertedIdentity);
        request.headers.remove(&HeaderName::PPreferredIdentity);
        // The same in the notation of before, and what only the core may say of a call's way.
        request.headers.remove(&HeaderName::from("Remote-Party-ID"));
        request.headers.remove(&HeaderName::PCalledPartyId);
        request.headers.remove(&HeaderName::HistoryInfo);
        request.headers.remove(&HeaderName::Diversion);
        let uri = Uri::sip(Some(number.e164()), domain.clone(), None);
        let identity = NameAddr::new(uri).to_string();
        request
            .headers
            .push(HeaderName::PAssertedIdentity, identity);
    }
}

fn call_id(request: &Request) -> String {
    let call_id = request.headers.call_id();
    call_id
        .map(|id| id.to_str_lossy().into_owned())
        .unwrap_or_default()
}

/// The 200 to OPTIONS (RFC 3261 section 11.2).
fn capabilities() -> Reply {
    Reply::new(StatusCode::OK, "options")
        .with(HeaderName::Allow, ALLOW)
        .with(HeaderName::Accept, "application/sdp")
        .with(HeaderName::Supported, "path")
}
