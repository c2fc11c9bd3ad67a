//! The registration of a phone with its registrar (RFC 3261 section 10.2): when to send which REGISTER. Pure.

use std::time::Duration;
use std::time::Instant;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::sip::digest::Credentials;
use crate::sip::endpoint::LoneReply;
use crate::sip::endpoint::LoneRequest;
use crate::sip::header::NameAddr;
use crate::sip::message::HeaderName;
use crate::sip::message::Method;
use crate::sip::message::Request;
use crate::sip::message::Response;
use crate::sip::message::StatusCode;
use crate::sip::message::Uri;

/// The pause after the first failure; doubled by each that follows, up to the longest (RFC 5626 section 4.5).
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// A registration is refreshed so long before its end, or after half of its life where that is shorter.
const MARGIN: Duration = Duration::from_secs(60);

/// With whom to register, as whom.
#[derive(Debug, Clone)]
pub struct Account {
    /// The registrar: `sip:127.0.0.1:5070;transport=tcp`.
    pub registrar: Uri,
    /// The address of record: who is called by it.
    pub address: Uri,
    /// With which it is proved.
    pub credentials: Option<Credentials>,
    /// The life that is asked for, in seconds.
    pub expires_secs: u32,
}

/// How a registration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrationState {
    /// Not tried yet.
    Trying,
    /// Calls come until then.
    Active {
        /// When it ends, unless it is refreshed.
        until: Instant,
    },
    /// The registrar refuses; it is asked again later.
    Refused {
        /// With which it said so.
        status: StatusCode,
    },
    /// The registrar does not answer; it is asked again.
    Silent,
}

/// One registration. Its owner sends [`Registration::request`] when [`Registration::due`] has come, and tells what
/// came of it.
#[derive(Debug)]
pub struct Registration {
    account: Account,
    call_id: String,
    cseq: u32,
    expires_secs: u32,
    due: Instant,
    failures: u32,
    state: RegistrationState,
    rng: StdRng,
}

impl Registration {
    /// One that is due at once.
    pub fn new(account: Account, now: Instant, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        Self {
            expires_secs: account.expires_secs,
            account,
            call_id: format!("{:032x}", rng.random::<u128>()),
            cseq: 1,
            due: now,
            failures: 0,
            state: RegistrationState::Trying,
            rng,
        }
    }

    /// How it stands.
    pub fn state(&self) -> &RegistrationState {
        &self.state
    }

    /// When the next request is to be sent.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// The next request: registers or refreshes.
    pub fn request(&self) -> LoneRequest {
        self.with_expires(self.expires_secs)
    }

    /// The last request: ends the registration. It comes after any that may still be under way.
    pub fn farewell(&mut self) -> LoneRequest {
        self.cseq += 2;
        self.with_expires(0)
    }

    fn with_expires(&self, seconds: u32) -> LoneRequest {
        LoneRequest {
            method: Method::Register,
            target: self.account.registrar.clone(),
            route: None,
            from: self.account.address.clone(),
            to: self.account.address.clone(),
            call_id: self.call_id.clone(),
            cseq: self.cseq,
            headers: vec![(HeaderName::Expires, seconds.to_string().into())],
            credentials: self.account.credentials.clone(),
        }
    }

    /// What came of the request.
    pub fn on_reply(&mut self, now: Instant, reply: &LoneReply) {
        self.cseq += 1;
        let LoneReply::Response { response, request } = reply else {
            return self.failed(now, RegistrationState::Silent, None);
        };
        if let Some(cseq) = request.headers.cseq() {
            self.cseq = cseq.number.saturating_add(1);
        }
        let min_expires = response.headers.number(&HeaderName::MinExpires);
        match response.status {
            status if status.is_success() => self.granted(now, request, response),
            StatusCode::INTERVAL_TOO_BRIEF if min_expires > Some(self.expires_secs) => {
                self.expires_secs = min_expires.unwrap_or(self.expires_secs);
                self.due = now;
            }
            status => {
                let retry_after = response.headers.number(&HeaderName::RetryAfter);
                self.failed(now, RegistrationState::Refused { status }, retry_after);
            }
        }
    }

    fn granted(&mut self, now: Instant, request: &Request, response: &Response) {
        let seconds = granted_secs(request, response).unwrap_or(self.expires_secs);
        let life = Duration::from_secs(seconds.into());
        let refresh_after = (life / 2).max(life.saturating_sub(MARGIN));
        // Phones that were switched on together part.
        let part = refresh_after.mul_f64(self.rng.random_range(0.0..0.1));
        self.due = now + refresh_after.saturating_sub(part).max(FIRST_PAUSE);
        self.failures = 0;
        self.state = RegistrationState::Active { until: now + life };
    }

    fn failed(&mut self, now: Instant, state: RegistrationState, retry_after: Option<u32>) {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        let part = self.rng.random_range(0.5..1.0);
        let pause = doubled.min(LONGEST_PAUSE).mul_f64(part);
        let asked = Duration::from_secs(retry_after.unwrap_or(0).into());
        self.due = now + pause.max(asked.min(LONGEST_PAUSE));
        self.failures += 1;
        // A refresh that failed leaves the registration alive until its end.
        if !matches!(&self.state, RegistrationState::Active { until } if *until > self.due) {
            self.state = state;
        }
    }
}

/// The life that our own contact was granted (RFC 3261 section 10.2.4): it stands with the contact, or for all.
fn granted_secs(request: &Request, response: &Response) -> Option<u32> {
    let sent = request.headers.get(&HeaderName::Contact)?;
    let ours = NameAddr::parse(sent).ok()?.uri;
    let is_ours = |contact: &NameAddr| {
        let uri = &contact.uri;
        uri.user == ours.user && uri.host == ours.host && uri.port == ours.port
    };
    let mut contacts = response.headers.addresses(&HeaderName::Contact);
    let with_contact = contacts
        .find(is_ours)
        .and_then(|contact| contact.params.value("expires")?.parse().ok());
    with_contact.or_else(|| response.headers.number(&HeaderName::Expires))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::sip::message::Host;

    use super::*;

    const ASKED: u32 = 600;

    fn registration(now: Instant) -> Registration {
        let uri = |text| Uri::parse(text).unwrap();
        let account = Account {
            registrar: uri("sip:127.0.0.1:5070"),
            address: uri("sip:+4799990001@127.0.0.1"),
            credentials: None,
            expires_secs: ASKED,
        };
        Registration::new(account, now, [1; 32])
    }

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    /// A response to a REGISTER that was sent with this number and our contact.
    fn reply(status: StatusCode, cseq: u32, headers: &[(HeaderName, &str)]) -> LoneReply {
        let host = Host::parse("127.0.0.1").unwrap();
        let mut request = Request::new(Method::Register, Uri::sip(None, host, None));
        let cseq = format!("{cseq} REGISTER");
        request.headers.push(HeaderName::CSeq, cseq);
        let contact = "<sip:phone@127.0.0.1:40000>";
        request.headers.push(HeaderName::Contact, contact);
        let mut response = Response::new(status);
        for (name, value) in headers {
            response.headers.push(name.clone(), *value);
        }
        LoneReply::Response {
            response: Box::new(response),
            request: Arc::new(request),
        }
    }

    fn secs(registration: &Registration, since: Instant) -> f64 {
        (registration.due() - since).as_secs_f64()
    }

    #[test]
    fn a_registration_is_refreshed_in_time_and_with_a_higher_number() {
        let now = now();
        let mut one = registration(now);
        assert_eq!(one.due(), now);
        assert_eq!(one.request().cseq, 1);
        // The answer to a challenge had number 2.
        let contacts = "<sip:other@192.0.2.1>;expires=20, <sip:phone@127.0.0.1:40000>;expires=300";
        let granted = reply(StatusCode::OK, 2, &[(HeaderName::Contact, contacts)]);
        one.on_reply(now, &granted);
        let until = now + Duration::from_secs(300);
        assert_eq!(*one.state(), RegistrationState::Active { until });
        let due = secs(&one, now);
        assert!((216.0..=240.0).contains(&due), "{due}");
        let again = one.request();
        assert_eq!(again.cseq, 3);
        assert_eq!(again.call_id, registration(now).request().call_id);
        let farewell = one.farewell();
        assert!(farewell.cseq > again.cseq + 1);
        assert_eq!(farewell.headers, [(HeaderName::Expires, "0".into())]);
    }

    #[test]
    fn a_short_life_is_refreshed_at_its_half() {
        let now = now();
        let mut one = registration(now);
        let granted = reply(StatusCode::OK, 1, &[(HeaderName::Expires, "10")]);
        one.on_reply(now, &granted);
        let due = secs(&one, now);
        assert!((4.5..=5.0).contains(&due), "{due}");
    }

    #[test]
    fn too_brief_an_interval_is_asked_for_longer_at_once() {
        let now = now();
        let mut one = registration(now);
        let brief = reply(
            StatusCode::INTERVAL_TOO_BRIEF,
            1,
            &[(HeaderName::MinExpires, "3600")],
        );
        one.on_reply(now, &brief);
        assert_eq!(one.due(), now);
        assert_eq!(
            one.request().headers,
            [(HeaderName::Expires, "3600".into())]
        );
        // A registrar that is never content is not asked in a loop.
        one.on_reply(now, &brief);
        assert!(one.due() > now);
    }

    #[test]
    fn failures_are_tried_again_ever_more_slowly_and_the_old_life_goes_on() {
        let mut now = now();
        let mut one = registration(now);
        one.on_reply(
            now,
            &reply(StatusCode::OK, 1, &[(HeaderName::Expires, "600")]),
        );
        let until = now + Duration::from_secs(600);
        now = one.due();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            one.on_reply(now, &LoneReply::Timeout);
            pauses.push(secs(&one, now));
            let state = if one.due() < until {
                RegistrationState::Active { until }
            } else {
                RegistrationState::Silent
            };
            assert_eq!(*one.state(), state);
            now = one.due();
        }
        assert_eq!(*one.state(), RegistrationState::Silent);
        assert!((0.5..=1.0).contains(&pauses[0]), "{pauses:?}");
        assert!(pauses[11] <= 120.0 && pauses[11] >= 60.0, "{pauses:?}");

        let refused = reply(
            StatusCode::SERVICE_UNAVAILABLE,
            9,
            &[(HeaderName::RetryAfter, "100")],
        );
        let mut one = registration(now);
        one.on_reply(now, &refused);
        assert_eq!(secs(&one, now), 100.0);
        let status = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(*one.state(), RegistrationState::Refused { status });
    }
}
