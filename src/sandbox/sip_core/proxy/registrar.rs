//! Where phones are: REGISTER (RFC 3261 section 10.3), with Path (RFC 3327) and the connections that phones opened.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use crate::domain::Msisdn;
use crate::sandbox::sip_core::proxy::Event;
use crate::sandbox::sip_core::proxy::Proxy;
use crate::sandbox::sip_core::proxy::TimerKey;
use crate::sandbox::sip_core::proxy::authority::Asking;
use crate::sandbox::sip_core::proxy::receive::Received;
use crate::sandbox::sip_core::proxy::routing;
use crate::sandbox::sip_core::proxy::server::Reply;
use crate::sip::flow::Flow;
use crate::sip::header::NameAddr;
use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Host;
use crate::sip::message::Request;
use crate::sip::message::StatusCode;
use crate::sip::message::Uri;

/// Contacts of one number at the same time.
const CONTACTS: usize = 8;

/// The life of a contact: the shortest granted, the longest, and that of one that does not say.
const MIN_EXPIRES: u32 = 10;
const MAX_EXPIRES: u32 = 3600;
const DEFAULT_EXPIRES: u32 = 3600;

/// A phone that can be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) contact: NameAddr,
    /// Proxies between the phone and us, the nearest to us first.
    pub(super) path: Vec<HeaderValue>,
    /// What the REGISTER came on.
    pub(super) flow: Flow,
    /// The phone is behind NAT: datagrams for it go to where its own came from.
    pub(super) translated: bool,
    expires_at: Instant,
    call_id: HeaderValue,
    cseq: u32,
}

impl Binding {
    /// Whether the phone is reached by its flow, whatever its Contact says.
    pub(super) fn is_pinned(&self) -> bool {
        self.path.is_empty() && (self.flow.transport.is_reliable() || self.translated)
    }
}

/// All phones that can be called.
#[derive(Debug, Default)]
pub(super) struct Bindings(BTreeMap<Msisdn, Vec<Binding>>);

impl Bindings {
    /// The phones of a number.
    pub(super) fn of(&self, number: &Msisdn, now: Instant) -> Vec<Binding> {
        let all = self.0.get(number).into_iter().flatten();
        all.filter(|one| one.expires_at > now).cloned().collect()
    }

    /// A phone that could be reached by this connection alone is gone with it.
    pub(super) fn flow_closed(&mut self, flow: Flow) {
        for bindings in self.0.values_mut() {
            bindings.retain(|one| one.flow != flow || can_be_connected_to(&one.contact.uri));
        }
    }

    fn next_end(&self) -> Option<Instant> {
        let all = self.0.values().flatten();
        all.map(|one| one.expires_at).min()
    }
}

/// Browsers have no address of their own (RFC 7118 section 5.2).
fn can_be_connected_to(contact: &Uri) -> bool {
    match &contact.host {
        Host::Ip(_) => true,
        Host::Name(name) => !name.to_ascii_lowercase().ends_with(".invalid"),
    }
}

/// Whether a phone's datagrams come from elsewhere than its Via says.
fn is_translated(received: &Received) -> bool {
    let remote = received.flow.remote;
    let port = received
        .via
        .port
        .unwrap_or_else(|| received.flow.transport.default_port());
    received.via.host != Host::Ip(remote.ip()) || port != remote.port()
}

/// What a REGISTER wants.
enum Wish {
    /// Only to know.
    Fetch,
    RemoveAll,
    /// Each contact with its life in seconds; 0 removes it.
    Change(Vec<(NameAddr, u32)>),
}

impl Wish {
    fn of(request: &Request) -> Result<Self, Reply> {
        let invalid = |why| Reply::new(StatusCode::BAD_REQUEST, why);
        let expires = request.headers.number(&HeaderName::Expires);
        let lines: Vec<_> = request.headers.list(&HeaderName::Contact).collect();
        if lines.is_empty() {
            return Ok(Self::Fetch);
        }
        if lines.contains(&&b"*"[..]) {
            let alone = lines.len() == 1 && expires == Some(0);
            return if alone {
                Ok(Self::RemoveAll)
            } else {
                Err(invalid("register_star"))
            };
        }
        let mut changes = Vec::new();
        for line in lines {
            let contact = NameAddr::parse(line).map_err(|_| invalid("register_contact"))?;
            let own = contact
                .params
                .value("expires")
                .and_then(|text| text.parse().ok());
            let wanted: u32 = own.or(expires).unwrap_or(DEFAULT_EXPIRES);
            if wanted != 0 && wanted < MIN_EXPIRES {
                let brief = Reply::new(StatusCode::INTERVAL_TOO_BRIEF, "register_too_brief");
                return Err(brief.with(HeaderName::MinExpires, MIN_EXPIRES.to_string()));
            }
            changes.push((contact, wanted.min(MAX_EXPIRES)));
        }
        Ok(Self::Change(changes))
    }
}

impl Proxy {
    pub(super) fn on_register(&mut self, now: Instant, received: &Received) {
        let number = match self.registering(now, received) {
            Ok(number) => number,
            Err(reply) => return self.refuse(received, &reply),
        };
        let id = self.accept(received);
        let reply = match self.register(now, &number, received) {
            Ok(()) => self.registered(now, &number, &received.request),
            Err(reply) => reply,
        };
        self.reply(now, id, &reply);
        self.timers
            .set(TimerKey::Bindings, self.bindings.next_end());
    }

    /// Whose phone registers: the number in To, which must be that of the password.
    fn registering(&mut self, now: Instant, received: &Received) -> Result<Msisdn, Reply> {
        let user = self.authenticated(now, Asking::Server, &received.request)?;
        let to = received.request.headers.to();
        let named = to.and_then(|to| self.existing(&to.uri.dialled()?));
        if named.as_ref() == Some(&user) {
            return Ok(user);
        }
        Err(Reply::new(StatusCode::FORBIDDEN, "register_other_number"))
    }

    /// The number of whoever sent a request, proved by its password.
    pub(super) fn authenticated(
        &mut self,
        now: Instant,
        asking: Asking,
        request: &Request,
    ) -> Result<Msisdn, Reply> {
        let directory = self.directory.clone();
        let found = |user: &str| {
            let mut numbers = routing::numbers_of(user);
            numbers.find_map(|number| Some((directory.password(&number)?, number)))
        };
        let user = self
            .authority
            .user(now, asking, request, |user| Some(found(user)?.0))?;
        let number = found(&user).map(|(_, number)| number);
        number.ok_or_else(|| Reply::new(StatusCode::FORBIDDEN, "number_gone"))
    }

    /// The number that a dialled text means, where it exists.
    pub(super) fn existing(&self, dialled: &str) -> Option<Msisdn> {
        let mut numbers = routing::numbers_of(dialled);
        numbers.find(|number| self.directory.password(number).is_some())
    }

    /// Does what a REGISTER wants: all of it or nothing.
    fn register(
        &mut self,
        now: Instant,
        number: &Msisdn,
        received: &Received,
    ) -> Result<(), Reply> {
        let request = &received.request;
        let wish = Wish::of(request)?;
        let call_id = request.headers.call_id().cloned().unwrap_or_default();
        let cseq = request.headers.cseq().map_or(0, |cseq| cseq.number);
        let mut bindings = self.bindings.of(number, now);
        // RFC 3261 section 10.3 step 7: an older REGISTER that comes late changes nothing.
        let overtaken = |one: &Binding| one.call_id == call_id && one.cseq >= cseq;
        let too_late = || Reply::new(StatusCode::SERVER_INTERNAL_ERROR, "register_out_of_order");
        let had = bindings.len();
        match wish {
            Wish::Fetch => return Ok(()),
            Wish::RemoveAll if bindings.iter().any(overtaken) => return Err(too_late()),
            Wish::RemoveAll => bindings.clear(),
            Wish::Change(changes) => {
                for (contact, seconds) in changes {
                    let same = |one: &Binding| one.contact.uri.is_equivalent(&contact.uri);
                    if bindings.iter().any(|one| same(one) && overtaken(one)) {
                        return Err(too_late());
                    }
                    bindings.retain(|one| !same(one));
                    if seconds > 0 {
                        bindings.push(Binding {
                            contact,
                            path: request
                                .headers
                                .list_values(&HeaderName::from("Path"))
                                .collect(),
                            flow: received.flow,
                            translated: is_translated(received),
                            expires_at: now + Duration::from_secs(seconds.into()),
                            call_id: call_id.clone(),
                            cseq,
                        });
                    }
                }
            }
        }
        if bindings.len() > CONTACTS {
            return Err(Reply::new(StatusCode::FORBIDDEN, "register_too_many"));
        }
        let contacts = bindings.len();
        self.bindings.0.insert(number.clone(), bindings);
        if (contacts == 0) != (had == 0) {
            let number = number.clone();
            self.event(Event::Reachable { number, contacts });
        }
        Ok(())
    }

    /// The 200: every contact with the rest of its life, and the path back.
    fn registered(&self, now: Instant, number: &Msisdn, request: &Request) -> Reply {
        let mut reply = Reply::new(StatusCode::OK, "registered");
        for binding in self.bindings.of(number, now) {
            let left = (binding.expires_at - now).as_secs().max(1).to_string();
            let mut contact = binding.contact;
            contact.params.set("expires", Some(&left));
            reply = reply.with(HeaderName::Contact, contact.to_string());
        }
        let path = HeaderName::from("Path");
        for value in request.headers.all(&path) {
            reply = reply.with(path.clone(), value.clone());
        }
        reply
    }

    /// Contacts that were not refreshed are gone.
    pub(super) fn drop_ended_bindings(&mut self, now: Instant) {
        let mut gone = Vec::new();
        self.bindings.0.retain(|number, bindings| {
            bindings.retain(|one| one.expires_at > now);
            if bindings.is_empty() {
                gone.push(number.clone());
            }
            !bindings.is_empty()
        });
        for number in gone {
            let contacts = 0;
            self.event(Event::Reachable { number, contacts });
        }
        self.timers
            .set(TimerKey::Bindings, self.bindings.next_end());
    }
}
