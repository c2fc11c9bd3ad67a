//! Browsers: each is known by a random cookie. Who is signed in stands behind it; the token that
//! every form carries against cross-site posts is made of it.

use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::{Msisdn, Timestamp};
use crate::sandbox::world::lock;
use crate::sandbox::world::{Chance, Expiring};

/// Cookies know no ports: the name must not meet the service's on the same host.
const COOKIE: &str = "sandbox_browser";
/// A sign-in is remembered so long.
const SESSION_SECS: i64 = 12 * 3600;
const MOST_SESSIONS: usize = 1_000;

/// One browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Browser {
    id: String,
    /// The hidden field of its forms.
    pub(crate) csrf: String,
}

/// Who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignedIn {
    pub(crate) number: Msisdn,
    /// When he proved it.
    pub(crate) at: Timestamp,
}

/// All browsers; only those in which somebody is signed in take memory.
pub(crate) struct Browsers {
    chance: Arc<Chance>,
    key: [u8; 32],
    is_https: bool,
    sessions: Mutex<Expiring<String, SignedIn>>,
}

impl Browsers {
    pub(crate) fn new(chance: Arc<Chance>, is_https: bool) -> Self {
        Self {
            key: chance.bytes(),
            chance,
            is_https,
            sessions: Mutex::new(Expiring::new(MOST_SESSIONS)),
        }
    }

    /// The browser that sends these headers, where it has a cookie of ours.
    pub(crate) fn known(&self, headers: &HeaderMap) -> Option<Browser> {
        let cookies = headers.get_all(header::COOKIE).into_iter();
        let id = cookies
            .filter_map(|value| value.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find_map(|(name, value)| (name == COOKIE).then_some(value))?;
        (id.len() == 43).then(|| self.browser(id.to_owned()))
    }

    /// The browser that sends these headers, which is new where it has no cookie of ours.
    pub(crate) fn known_or_new(&self, headers: &HeaderMap) -> Browser {
        let known = self.known(headers);
        known.unwrap_or_else(|| self.browser(self.chance.secret("")))
    }

    /// The browser that sends these headers and, in a form of ours, its own token.
    pub(crate) fn posting(&self, headers: &HeaderMap, csrf: Option<&str>) -> Option<Browser> {
        let browser = self.known(headers)?;
        let is_right: bool = browser.csrf.as_bytes().ct_eq(csrf?.as_bytes()).into();
        is_right.then_some(browser)
    }

    /// Who is signed in there.
    pub(crate) fn signed_in(&self, browser: &Browser, now: Timestamp) -> Option<SignedIn> {
        lock(&self.sessions).get(&browser.id, now).cloned()
    }

    /// Signs `number` in. The browser gets a new cookie, so that nobody can have given it one that
    /// he knows.
    pub(crate) fn sign_in(&self, browser: &Browser, number: Msisdn, now: Timestamp) -> Browser {
        self.sign_out(browser, now);
        let new = self.browser(self.chance.secret(""));
        let until = now.plus_millis(SESSION_SECS * 1000);
        let session = SignedIn { number, at: now };
        lock(&self.sessions).insert(new.id.clone(), session, until, now);
        new
    }

    /// Signs out whoever is signed in there.
    pub(crate) fn sign_out(&self, browser: &Browser, now: Timestamp) {
        lock(&self.sessions).remove(&browser.id, now);
    }

    /// `Set-Cookie` for this browser.
    pub(crate) fn cookie(&self, browser: &Browser) -> HeaderValue {
        let secure = if self.is_https { "; Secure" } else { "" };
        let id = &browser.id;
        let cookie = format!(
            "{COOKIE}={id}; Path=/; Max-Age={SESSION_SECS}; HttpOnly; SameSite=Lax{secure}"
        );
        HeaderValue::try_from(cookie).expect("an id that came in a header fits into one")
    }

    fn browser(&self, id: String) -> Browser {
        let mut hash = Sha256::new();
        hash.update(self.key);
        hash.update(&id);
        let csrf = URL_SAFE_NO_PAD.encode(hash.finalize());
        Browser { id, csrf }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        let mut headers = HeaderMap::new();
        let line = format!("other=1; {pair}");
        headers.insert(header::COOKIE, line.parse().unwrap());
        headers
    }

    fn browsers() -> Browsers {
        Browsers::new(Arc::new(Chance::from_seed([1; 32])), false)
    }

    #[test]
    fn a_browser_is_known_again_and_its_forms_are_its_own() {
        let browsers = browsers();
        let new = browsers.known_or_new(&HeaderMap::new());
        let sent = headers(&browsers.cookie(&new));
        assert_eq!(browsers.known_or_new(&sent), new);
        assert_eq!(browsers.posting(&sent, Some(&new.csrf)), Some(new.clone()));
        let other = browsers.known_or_new(&HeaderMap::new());
        assert_ne!(other, new);
        assert_eq!(browsers.posting(&sent, Some(&other.csrf)), None);
        assert_eq!(browsers.posting(&sent, None), None);
        assert_eq!(browsers.posting(&HeaderMap::new(), Some(&new.csrf)), None);
    }

    #[test]
    fn signing_in_changes_the_cookie_and_signing_out_ends_it() {
        let browsers = browsers();
        let now = Timestamp::from_millis(1);
        let number = Msisdn::parse("+4799990001").unwrap();
        let before = browsers.known_or_new(&HeaderMap::new());
        let after = browsers.sign_in(&before, number, now);
        assert_ne!(before.id, after.id);
        assert_eq!(browsers.signed_in(&before, now), None);
        assert!(browsers.signed_in(&after, now).is_some());
        browsers.sign_out(&after, now);
        assert_eq!(browsers.signed_in(&after, now), None);
    }
}
