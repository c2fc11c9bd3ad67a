//! A dialog (RFC 3261 section 12): what both sides agreed on, and the requests we send inside it.

use crate::sip::header::NameAddr;
use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Headers;
use crate::sip::message::Method;
use crate::sip::message::Request;
use crate::sip::message::Response;
use crate::sip::message::Scheme;
use crate::sip::message::Uri;

pub mod session_timer;

/// One end's view of a dialog.
#[derive(Debug, Clone)]
pub struct Dialog {
    call_id: HeaderValue,
    local: HeaderValue,
    remote: HeaderValue,
    remote_tag: Box<str>,
    contact: HeaderValue,
    session_id: Option<SessionId>,
    routes: Vec<Route>,
    remote_target: Uri,
    local_cseq: u32,
    remote_cseq: Option<u32>,
}

#[derive(Debug, Clone)]
struct Route {
    header: HeaderValue,
    uri: Uri,
}

/// The two halves of a Session-ID (RFC 7989).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionId {
    local: Box<str>,
    remote: Box<str>,
}

impl SessionId {
    const NIL: &'static str = "00000000000000000000000000000000";

    /// Ours, the peer's not known yet. `local` is 32 lower-case hex digits.
    pub fn new(local: String) -> Self {
        Self {
            local: local.into(),
            remote: Self::NIL.into(),
        }
    }

    /// The caller's, from his INVITE and a response to it.
    fn of_invite(invite: &Headers, response: &Headers) -> Option<Self> {
        let value = invite.get(&HeaderName::SessionId)?.as_str()?;
        let mut id = Self::new(value.split(';').next()?.to_owned());
        id.learn(response);
        Some(id)
    }

    /// Takes over the peer's half from a message of his. One that is not 32 hex digits is left alone.
    pub fn learn(&mut self, headers: &Headers) {
        let Some(value) = headers
            .get(&HeaderName::SessionId)
            .and_then(HeaderValue::as_str)
        else {
            return;
        };
        let id = value.split(';').next().unwrap_or_default().trim();
        if id.len() == Self::NIL.len() && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            self.remote = id.to_ascii_lowercase().into();
        }
    }

    /// The header's value.
    pub fn value(&self) -> HeaderValue {
        format!("{};remote={}", self.local, self.remote).into()
    }
}

/// What comes of the CSeq of a request inside a dialog (RFC 3261 section 12.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequence {
    /// Newer than all before.
    Fresh,
    /// Out of order, to be refused with 500.
    Stale,
}

/// Why no dialog can be made of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoDialog {
    /// There is no usable Contact.
    #[error("no usable Contact")]
    Contact,
    /// A Record-Route, From, To or Call-ID could not be read.
    #[error("a header that makes the dialog is malformed")]
    Malformed,
}

impl Dialog {
    /// The callee's dialog, from the INVITE (section 12.1.1). `contact` is the value of our Contact.
    pub fn from_invite(
        invite: &Request,
        local_tag: &str,
        contact: HeaderValue,
        session_id: Option<SessionId>,
    ) -> Result<Self, NoDialog> {
        let headers = &invite.headers;
        let from = headers.get(&HeaderName::From).ok_or(NoDialog::Malformed)?;
        let to = headers.get(&HeaderName::To).ok_or(NoDialog::Malformed)?;
        Ok(Self {
            // A dialog lasts longer than the INVITE is of use.
            call_id: headers
                .get(&HeaderName::CallId)
                .ok_or(NoDialog::Malformed)?
                .detached(),
            local: with_tag(to, local_tag).detached(),
            remote: from.detached(),
            remote_tag: tag(from).unwrap_or_default(),
            contact,
            session_id,
            routes: record_routes(headers)?,
            remote_target: callers_target(headers)?,
            local_cseq: 0,
            remote_cseq: headers.cseq().map(|cseq| cseq.number),
        })
    }

    /// The caller's dialog, from his INVITE and a response with a To tag (section 12.1.2). A provisional
    /// response without Contact leaves the Request-URI as target.
    pub fn from_response(invite: &Request, response: &Response) -> Result<Self, NoDialog> {
        let local = invite
            .headers
            .get(&HeaderName::From)
            .ok_or(NoDialog::Malformed)?;
        let remote = response
            .headers
            .get(&HeaderName::To)
            .ok_or(NoDialog::Malformed)?;
        let mut routes = record_routes(&response.headers)?;
        routes.reverse();
        let target = contact_uri(&response.headers);
        Ok(Self {
            call_id: invite
                .headers
                .get(&HeaderName::CallId)
                .ok_or(NoDialog::Malformed)?
                .clone(),
            local: local.clone(),
            remote: remote.clone(),
            remote_tag: tag(remote).unwrap_or_default(),
            contact: invite
                .headers
                .get(&HeaderName::Contact)
                .cloned()
                .unwrap_or_default(),
            session_id: SessionId::of_invite(&invite.headers, &response.headers),
            routes,
            remote_target: target.unwrap_or_else(|| invite.uri.clone()),
            local_cseq: invite.headers.cseq().map_or(0, |cseq| cseq.number),
            remote_cseq: None,
        })
    }

    /// Goes on with the CSeq numbers of the early dialog that this one was (section 13.2.2.4: everything
    /// else is taken anew from the 2xx).
    pub fn continue_from(&mut self, early: &Self) {
        self.local_cseq = early.local_cseq;
        self.remote_cseq = early.remote_cseq;
    }

    /// Takes over the peer's half of the Session-ID.
    pub fn hear(&mut self, headers: &Headers) {
        if let Some(id) = &mut self.session_id {
            id.learn(headers);
        }
    }

    /// The Session-ID that messages of this dialog bear.
    pub const fn session_id(&self) -> Option<&SessionId> {
        self.session_id.as_ref()
    }

    /// The peer's tag; empty for a peer of RFC 2543.
    pub fn remote_tag(&self) -> &str {
        &self.remote_tag
    }

    /// Our Contact.
    pub const fn contact(&self) -> &HeaderValue {
        &self.contact
    }

    /// The CSeq number of our last request.
    pub const fn local_cseq(&self) -> u32 {
        self.local_cseq
    }

    /// Whether a message bears the Call-ID and the tag of the peer.
    pub fn matches(&self, call_id: &HeaderValue, remote_tag: &str) -> bool {
        self.call_id == *call_id && *self.remote_tag == *remote_tag
    }

    /// Judges the CSeq of a request and remembers it.
    pub fn sequence(&mut self, cseq: u32) -> Sequence {
        if self.remote_cseq.is_some_and(|last| cseq <= last) {
            return Sequence::Stale;
        }
        self.remote_cseq = Some(cseq);
        Sequence::Fresh
    }

    /// A target refresh: the Contact of a re-INVITE, an UPDATE, or a 2xx to one (section 12.2).
    pub fn set_target(&mut self, contact: Uri) {
        self.remote_target = contact;
    }

    /// A new request with the next CSeq, without Via.
    pub fn request(&mut self, method: Method) -> Request {
        self.local_cseq += 1;
        self.build(method, self.local_cseq)
    }

    /// The ACK to a 2xx of the INVITE with this CSeq, without Via.
    pub fn ack(&self, invite_cseq: u32) -> Request {
        self.build(Method::Ack, invite_cseq)
    }

    /// Where requests go: the first route, else the remote target.
    pub fn next_hop(&self) -> &Uri {
        self.routes
            .first()
            .map_or(&self.remote_target, |route| &route.uri)
    }

    /// Section 12.2.1.1, with the detour of a strict router (a first route without `lr`).
    fn build(&self, method: Method, cseq: u32) -> Request {
        let targets_contact = matches!(method, Method::Invite | Method::Update | Method::Other(_));
        let cseq = format!("{cseq} {method}");
        let strict = self
            .routes
            .first()
            .filter(|route| !route.uri.params.has("lr"));
        let mut request = Request::new(
            method,
            strict
                .map_or(&self.remote_target, |route| &route.uri)
                .clone(),
        );
        let headers = &mut request.headers;
        for route in self.routes.iter().skip(usize::from(strict.is_some())) {
            headers.push(HeaderName::Route, route.header.clone());
        }
        if strict.is_some() {
            headers.push(HeaderName::Route, format!("<{}>", self.remote_target));
        }
        headers.push(HeaderName::MaxForwards, "70");
        headers.push(HeaderName::From, self.local.clone());
        headers.push(HeaderName::To, self.remote.clone());
        headers.push(HeaderName::CallId, self.call_id.clone());
        headers.push(HeaderName::CSeq, cseq);
        if targets_contact {
            headers.push(HeaderName::Contact, self.contact.clone());
        }
        if let Some(id) = &self.session_id {
            headers.push(HeaderName::SessionId, id.value());
        }
        request
    }
}

/// The tag of a From or To value.
pub fn tag(value: &HeaderValue) -> Option<Box<str>> {
    NameAddr::parse(value).ok()?.tag().map(Box::from)
}

/// A To value with our tag added. A tag that is there already stays.
pub fn with_tag(value: &HeaderValue, local_tag: &str) -> HeaderValue {
    match NameAddr::parse(value) {
        Ok(address) if address.tag().is_none() => address.with_tag(local_tag).to_string().into(),
        _ => value.clone(),
    }
}

/// The URI of the first Contact, if it is one that requests can be sent to.
pub fn contact_uri(headers: &Headers) -> Option<Uri> {
    let contact = headers.contact()?;
    matches!(contact.uri.scheme, Scheme::Sip | Scheme::Sips).then_some(contact.uri)
}

/// Where requests to a caller go: to his Contact. A caller of RFC 2543 may do without one, and is found by
/// his From.
fn callers_target(headers: &Headers) -> Result<Uri, NoDialog> {
    let is_modern = headers.top_via().is_some_and(|via| via.has_magic_cookie());
    if is_modern || headers.has(&HeaderName::Contact) {
        return contact_uri(headers).ok_or(NoDialog::Contact);
    }
    headers
        .from()
        .map(|from| from.uri)
        .filter(|uri| matches!(uri.scheme, Scheme::Sip | Scheme::Sips))
        .ok_or(NoDialog::Contact)
}

/// The Record-Route in order of appearance.
fn record_routes(headers: &Headers) -> Result<Vec<Route>, NoDialog> {
    let routes = headers.list_values(&HeaderName::RecordRoute);
    routes
        .map(|header| {
            let uri = NameAddr::parse(&header)
                .map_err(|_| NoDialog::Malformed)?
                .uri;
            let header = header.detached();
            Ok(Route { header, uri })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite(lines: &[(HeaderName, &str)]) -> Request {
        let mut request = Request::new(Method::Invite, Uri::parse("sip:vm@vm.example").unwrap());
        let usual = [
            (HeaderName::Via, "SIP/2.0/UDP 10.0.0.9;branch=z9hG4bK1"),
            (HeaderName::From, "<sip:a@a.example>;tag=a"),
            (HeaderName::To, "<sip:b@b.example>"),
            (HeaderName::CallId, "x"),
            (HeaderName::CSeq, "7 INVITE"),
            (HeaderName::Contact, "<sip:a@10.0.0.9>"),
        ];
        for (name, value) in usual.iter().chain(lines) {
            request.headers.push(name.clone(), *value);
        }
        request
    }

    fn callee(lines: &[(HeaderName, &str)]) -> Dialog {
        Dialog::from_invite(&invite(lines), "b", "<sip:us@10.0.0.1>".into(), None).unwrap()
    }

    #[test]
    fn requests_swap_the_parties_and_count() {
        let mut dialog = callee(&[]);
        let first = dialog.request(Method::Update);
        let second = dialog.request(Method::Bye);
        assert_eq!(first.headers.from().unwrap().tag(), Some("b"));
        assert_eq!(first.headers.to().unwrap().tag(), Some("a"));
        assert_eq!(
            first.headers.contact().unwrap().uri.to_string(),
            "sip:us@10.0.0.1"
        );
        let numbers = [&first, &second].map(|request| request.headers.cseq().unwrap().number);
        assert_eq!(numbers, [1, 2]);
        assert_eq!(second.uri.to_string(), "sip:a@10.0.0.9");
    }

    #[test]
    fn the_order_of_requests_is_judged() {
        let mut dialog = callee(&[]);
        assert_eq!(dialog.sequence(7), Sequence::Stale, "the INVITE counts");
        assert_eq!(dialog.sequence(9), Sequence::Fresh);
        assert_eq!(dialog.sequence(8), Sequence::Stale);
        assert!(dialog.matches(&"x".into(), "a"));
        assert!(!dialog.matches(&"x".into(), "c") && !dialog.matches(&"y".into(), "a"));
    }

    #[test]
    fn routes_are_kept_in_order_by_the_callee_and_reversed_by_the_caller() {
        let routes = [(
            HeaderName::RecordRoute,
            "<sip:p1.example;lr>, <sip:p2.example;lr>",
        )];
        let dialog = callee(&routes);
        assert_eq!(dialog.next_hop().to_string(), "sip:p1.example;lr");
        let mut response = invite(&routes).response(crate::sip::message::StatusCode::OK);
        response.headers.push(HeaderName::RecordRoute, routes[0].1);
        let dialog = Dialog::from_response(&invite(&[]), &response).unwrap();
        assert_eq!(dialog.next_hop().to_string(), "sip:p2.example;lr");
        assert_eq!(dialog.ack(7).headers.cseq().unwrap().to_string(), "7 ACK");
    }

    #[test]
    fn without_a_usable_contact_there_is_no_dialog() {
        for contact in [None, Some("<tel:+47>"), Some("*")] {
            let mut request = invite(&[]);
            request.headers.remove(&HeaderName::Contact);
            if let Some(contact) = contact {
                request.headers.push(HeaderName::Contact, contact);
            }
            let dialog = Dialog::from_invite(&request, "b", "<sip:us@10.0.0.1>".into(), None);
            assert_eq!(dialog.unwrap_err(), NoDialog::Contact);
        }
    }

    #[test]
    fn a_tag_is_added_once_and_what_else_stands_there_stays() {
        let to = HeaderValue::from("\"B, c\" <sip:b@b.example;x=y>;z");
        let tagged = with_tag(&to, "new");
        assert_eq!(
            tagged.as_str(),
            Some("\"B, c\" <sip:b@b.example;x=y>;z;tag=new")
        );
        assert_eq!(with_tag(&tagged, "other"), tagged);
    }

    #[test]
    fn a_session_id_learns_only_what_is_one() {
        let mut id = SessionId::new("1".repeat(32));
        let mut headers = Headers::default();
        headers.push(HeaderName::SessionId, "rubbish;remote=x");
        id.learn(&headers);
        assert_eq!(
            id.value().as_str().unwrap().split("remote=").nth(1),
            Some(SessionId::NIL)
        );
        headers.set(
            HeaderName::SessionId,
            format!("{};remote={}", "A".repeat(32), SessionId::NIL),
        );
        id.learn(&headers);
        assert_eq!(
            id.value().as_str().unwrap().split("remote=").nth(1),
            Some(&*"a".repeat(32))
        );
    }
}
