//! Who begins a call: a phone, which proves its number; or a registered endpoint, which is known by its address.

use std::net::IpAddr;

use crate::domain::Msisdn;
use crate::sandbox::sip_core::proxy::Proxy;
use crate::sandbox::sip_core::proxy::receive::Received;
use crate::sandbox::sip_core::proxy::routing;
use crate::sandbox::world::Registration;
use crate::sandbox::world::RouteType;
use crate::sip::flow::Hop;
use crate::sip::flow::Target;
use crate::sip::header::NameAddr;
use crate::sip::message::HeaderName;
use crate::sip::message::Host;
use crate::sip::message::Request;
use crate::sip::message::Scheme;
use crate::sip::message::Uri;
use crate::sip::transaction::next_hop::Way;

/// A registration of one of the two numbers of a call, as a way in for its endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) sip_uri: String,
    /// The endpoint may call the number whenever it wants.
    pub(super) may_call: bool,
}

/// What the sender of a request is to a candidate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    Same,
    Other,
    /// To be known when this is looked up.
    Unknown(Target),
}

impl Proxy {
    /// The number that a Request-URI calls. A call that an endpoint sends back may still bear a prefix of ours.
    pub(super) fn called(&self, request: &Request) -> Option<Msisdn> {
        let dialled = request.uri.dialled()?;
        if let Some(number) = self.existing(&dialled) {
            return Some(number);
        }
        let callers = self.named_caller(request);
        let callers = callers.map(|caller| self.directory.registrations(&caller));
        let callers = callers.unwrap_or_default();
        let mut without = routing::without_prefixes(&dialled);
        without.find_map(|(prefix, number)| {
            self.directory.password(&number)?;
            let calleds = self.directory.registrations(&number);
            let puts = |one: &Registration| {
                [
                    &one.mobile_originating_prefix,
                    &one.mobile_terminating_prefix,
                ]
                .contains(&&prefix)
            };
            callers.iter().chain(&calleds).any(puts).then_some(number)
        })
    }

    /// Who a request says that he is, where that is a number here. Nothing is proved by it.
    pub(super) fn named_caller(&self, request: &Request) -> Option<Msisdn> {
        let asserted: Option<NameAddr> = request
            .headers
            .addresses(&HeaderName::PAssertedIdentity)
            .next();
        let named = asserted.or_else(|| request.headers.from())?;
        self.existing(&named.uri.dialled()?)
    }

    /// The registrations by which the sender may be an endpoint.
    pub(super) fn candidates(&self, caller: Option<&Msisdn>, called: &Msisdn) -> Vec<Candidate> {
        let candidate = |one: Registration, is_called: bool| Candidate {
            may_call: is_called && one.route_type == RouteType::Ingress,
            sip_uri: one.sip_uri,
        };
        let callers = caller.map(|caller| self.directory.registrations(caller));
        let callers = callers.into_iter().flatten();
        let calleds = self.directory.registrations(called);
        let calleds = calleds.into_iter().map(|one| candidate(one, true));
        calleds
            .chain(callers.map(|one| candidate(one, false)))
            .collect()
    }

    /// Whether the sender of a request is the endpoint of a registration: it uses the connection whose certificate we
    /// have checked, or it comes from the host of the URI and says in its Contact that it takes requests there.
    pub(super) fn likeness(
        &self,
        received: &Received,
        sip_uri: &str,
        found: Option<&[Hop]>,
    ) -> Likeness {
        let Ok(uri) = sip_uri.parse::<Uri>() else {
            return Likeness::Other;
        };
        if let Host::Name(name) = &uri.host
            && self.flows.name(received.flow) == Some(name)
        {
            return Likeness::Same;
        }
        let Some(contact) = received.request.headers.contact() else {
            return Likeness::Other;
        };
        let hops = match (Way::to(&uri, None, &self.flows), found) {
            (_, Some(found)) => found.to_vec(),
            (Way::Hop(hop), None) => vec![hop],
            (Way::Lookup(target), None) => return Likeness::Unknown(target),
            (Way::Flow(_) | Way::None, None) => return Likeness::Other,
        };
        let sender = received.flow.remote.ip();
        let is_there = |hop: &Hop| {
            hop.remote.ip() == sender
                && names(&contact.uri, &uri, hop.remote.ip(), hop.remote.port())
        };
        if hops.iter().any(is_there) {
            Likeness::Same
        } else {
            Likeness::Other
        }
    }
}

/// Whether a Contact leads to this address, or to the host of the registered URI.
fn names(contact: &Uri, registered: &Uri, ip: IpAddr, port: u16) -> bool {
    let is_tls = contact.scheme == Scheme::Sips || contact.params.value("transport") == Some("tls");
    let default = if is_tls { 5061 } else { 5060 };
    let same_host = contact.host == Host::Ip(ip) || contact.host.is_equivalent(&registered.host);
    same_host && contact.port.unwrap_or(default) == port
}
