//! Who a phone is: digest authentication (RFC 3261 section 22, RFC 8760) with nonces that we need not remember.
//!
//! A nonce bears its time, sealed. What is remembered is how often each was used, so that no answer is taken twice.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use crate::domain::Secret;
use crate::sandbox::sip_core::proxy::server::Reply;
use crate::sandbox::sip_core::proxy::token;
use crate::sip::digest::Algorithm;
use crate::sip::digest::Answer;
use crate::sip::digest::Challenge;
use crate::sip::message::HeaderName;
use crate::sip::message::Method;
use crate::sip::message::Request;
use crate::sip::message::StatusCode;

/// Nonces whose use is remembered; the oldest make room, and count as stale from then on.
const REMEMBERED: usize = 10_000;

/// Asks for passwords, and checks the answers.
#[derive(Debug)]
pub(super) struct Authority {
    realm: String,
    algorithms: Vec<Algorithm>,
    secret: [u8; 32],
    /// What nonces tell their time from.
    epoch: Instant,
    life: Duration,
    /// The serial number of the next nonce.
    serial: u64,
    /// The highest nonce count seen, by serial number.
    used: BTreeMap<u64, u32>,
    /// Nonces with a lower serial number are stale.
    forgotten_below: u64,
}

/// What an answer to a challenge is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    Genuine,
    /// The password was right, the nonce is no longer to be used.
    Stale,
    Wrong,
}

/// Whether the realm is asked as a server (401) or as a proxy (407).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    Server,
    Proxy,
}

impl Asking {
    const fn names(self) -> (StatusCode, HeaderName, HeaderName) {
        match self {
            Self::Server => (
                StatusCode::UNAUTHORIZED,
                HeaderName::WwwAuthenticate,
                HeaderName::Authorization,
            ),
            Self::Proxy => (
                StatusCode::PROXY_AUTHENTICATION_REQUIRED,
                HeaderName::ProxyAuthenticate,
                HeaderName::ProxyAuthorization,
            ),
        }
    }
}

impl Authority {
    pub(super) const fn new(
        now: Instant,
        realm: String,
        algorithms: Vec<Algorithm>,
        life: Duration,
        secret: [u8; 32],
    ) -> Self {
        Self {
            realm,
            algorithms,
            secret,
            epoch: now,
            life,
            serial: 0,
            used: BTreeMap::new(),
            forgotten_below: 0,
        }
    }

    /// The user who sent a request and knows his password, or the challenge to be sent. `password` gives that of a
    /// user who exists.
    pub(super) fn user(
        &mut self,
        now: Instant,
        asking: Asking,
        request: &Request,
        password: impl Fn(&str) -> Option<Secret>,
    ) -> Result<String, Reply> {
        let (_, _, name) = asking.names();
        let answers = request.headers.all(&name);
        let answers = answers.filter_map(|value| Answer::parse(value.as_bytes()).ok());
        let mut ours = answers.filter(|answer| answer.realm == self.realm);
        let Some(answer) = ours.next() else {
            return Err(self.challenge(now, asking, false));
        };
        let worth = match password(&answer.username) {
            Some(password) => self.judge(now, &answer, &password, &request.method),
            None => Worth::Wrong,
        };
        match worth {
            Worth::Genuine => Ok(answer.username),
            Worth::Stale => Err(self.challenge(now, asking, true)),
            Worth::Wrong => Err(self.challenge(now, asking, false)),
        }
    }

    fn judge(
        &mut self,
        now: Instant,
        answer: &Answer,
        password: &Secret,
        method: &Method,
    ) -> Worth {
        // Without qop an answer could be sent again by whoever saw it.
        let Some(qop) = &answer.qop else {
            return Worth::Wrong;
        };
        if !answer.proves(password.expose(), method) {
            return Worth::Wrong;
        }
        let Some((serial, age)) = self.read(now, &answer.nonce) else {
            return Worth::Stale;
        };
        if age > self.life || serial < self.forgotten_below {
            return Worth::Stale;
        }
        let last = self.used.entry(serial).or_default();
        if qop.nc <= *last {
            return Worth::Stale;
        }
        *last = qop.nc;
        while self.used.len() > REMEMBERED {
            if let Some((oldest, _)) = self.used.pop_first() {
                self.forgotten_below = oldest + 1;
            }
        }
        Worth::Genuine
    }

    /// One challenge for each algorithm, the preferred one first (RFC 8760 section 2.4).
    fn challenge(&mut self, now: Instant, asking: Asking, stale: bool) -> Reply {
        let (status, name, _) = asking.names();
        let why = if stale {
            "challenge_stale"
        } else {
            "challenge"
        };
        let mut reply = Reply::new(status, why);
        let nonce = self.nonce(now);
        for algorithm in self.algorithms.clone() {
            let challenge = Challenge {
                realm: self.realm.clone(),
                nonce: nonce.clone(),
                algorithm,
                has_qop: true,
                opaque: None,
                stale,
            };
            reply = reply.with(name.clone(), challenge.to_string());
        }
        reply
    }

    fn nonce(&mut self, now: Instant) -> String {
        self.serial += 1;
        let second = now.duration_since(self.epoch).as_secs();
        let text = format!("{:x}.{second:x}", self.serial);
        let seal = token::seal(&self.secret, &[b"nonce", text.as_bytes()]);
        format!("{text}.{seal}")
    }

    /// The serial number and the age of a nonce of ours.
    fn read(&self, now: Instant, nonce: &str) -> Option<(u64, Duration)> {
        let (text, seal) = nonce.rsplit_once('.')?;
        let expected = token::seal(&self.secret, &[b"nonce", text.as_bytes()]);
        if !bool::from(subtle::ConstantTimeEq::ct_eq(
            expected.as_bytes(),
            seal.as_bytes(),
        )) {
            return None;
        }
        let (serial, second) = text.split_once('.')?;
        let serial = u64::from_str_radix(serial, 16).ok()?;
        let made = Duration::from_secs(u64::from_str_radix(second, 16).ok()?);
        Some((serial, now.duration_since(self.epoch).checked_sub(made)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::digest::Credentials;

    fn start() -> (Instant, Authority) {
        let now = tokio::time::Instant::now().into_std();
        let life = Duration::from_secs(300);
        let algorithms = vec![Algorithm::Sha256, Algorithm::Md5];
        let authority = Authority::new(now, "sandbox".into(), algorithms, life, [7; 32]);
        (now, authority)
    }

    fn password(user: &str) -> Option<Secret> {
        (user == "anna").then(|| Secret::new("secret"))
    }

    fn request(answer: Option<&Answer>) -> Request {
        let mut request = Request::new(Method::Register, "sip:sandbox".parse().unwrap());
        if let Some(answer) = answer {
            request
                .headers
                .push(HeaderName::Authorization, answer.to_string());
        }
        request
    }

    fn asked(
        authority: &mut Authority,
        now: Instant,
        answer: Option<&Answer>,
    ) -> Result<String, Reply> {
        authority.user(now, Asking::Server, &request(answer), password)
    }

    fn challenges(reply: &Reply) -> Vec<Challenge> {
        let values = reply.headers.iter();
        values
            .map(|(_, value)| Challenge::parse(value).unwrap())
            .collect()
    }

    fn answer(challenge: &Challenge, user: &str, secret: &str, nc: u32) -> Answer {
        let credentials = Credentials {
            username: user.into(),
            password: secret.into(),
        };
        credentials.answer(challenge, &Method::Register, "sip:sandbox", "c", nc)
    }

    #[test]
    fn either_algorithm_proves_a_user_and_the_better_one_is_asked_for_first() {
        let (now, mut authority) = start();
        let asked_for = challenges(&asked(&mut authority, now, None).unwrap_err());
        assert_eq!(asked_for[0].algorithm, Algorithm::Sha256);
        for (nc, challenge) in asked_for.iter().enumerate() {
            let answer = answer(challenge, "anna", "secret", 1 + nc as u32);
            let user = asked(&mut authority, now, Some(&answer));
            assert_eq!(user, Ok("anna".to_owned()));
        }
    }

    #[test]
    fn who_does_not_know_the_password_or_does_not_exist_is_asked_again() {
        let (now, mut authority) = start();
        let challenge = &challenges(&asked(&mut authority, now, None).unwrap_err())[0];
        for (user, secret) in [("anna", "guess"), ("eve", "secret")] {
            let answer = answer(challenge, user, secret, 1);
            let again = asked(&mut authority, now, Some(&answer)).unwrap_err();
            assert_eq!(again.status, StatusCode::UNAUTHORIZED);
            assert!(!challenges(&again)[0].stale);
        }
        let mut without_qop = challenge.clone();
        without_qop.has_qop = false;
        let answer = answer(&without_qop, "anna", "secret", 1);
        assert!(asked(&mut authority, now, Some(&answer)).is_err());
    }

    #[test]
    fn an_answer_is_taken_once_and_a_nonce_ends() {
        let (now, mut authority) = start();
        let challenge = &challenges(&asked(&mut authority, now, None).unwrap_err())[0];
        let mut is_stale = |now, nc| {
            let answer = answer(challenge, "anna", "secret", nc);
            match asked(&mut authority, now, Some(&answer)) {
                Ok(_) => false,
                Err(reply) => challenges(&reply)[0].stale,
            }
        };
        assert!(!is_stale(now, 1));
        assert!(is_stale(now, 1));
        assert!(!is_stale(now, 5));
        assert!(is_stale(now, 4));
        assert!(!is_stale(now + Duration::from_secs(300), 6));
        assert!(is_stale(now + Duration::from_secs(301), 7));
    }

    #[test]
    fn a_nonce_of_somebody_else_is_stale() {
        let (now, mut authority) = start();
        let mut challenge = challenges(&asked(&mut authority, now, None).unwrap_err()).remove(0);
        challenge.nonce.insert(0, '1');
        let answer = answer(&challenge, "anna", "secret", 1);
        let again = asked(&mut authority, now, Some(&answer)).unwrap_err();
        assert!(challenges(&again)[0].stale);
    }

    #[test]
    fn what_is_remembered_of_nonces_is_bounded() {
        let (now, mut authority) = start();
        let first = challenges(&asked(&mut authority, now, None).unwrap_err()).remove(0);
        let used = answer(&first, "anna", "secret", 1);
        assert!(asked(&mut authority, now, Some(&used)).is_ok());
        for _ in 0..REMEMBERED {
            let next = challenges(&asked(&mut authority, now, None).unwrap_err()).remove(0);
            let used = answer(&next, "anna", "secret", 1);
            assert!(asked(&mut authority, now, Some(&used)).is_ok());
        }
        assert_eq!(authority.used.len(), REMEMBERED);
        let again = answer(&first, "anna", "secret", 1);
        assert!(asked(&mut authority, now, Some(&again)).is_err());
    }
}
