//! Sign-ins under way: what was asked for, in which browser, and how far the person got.

use std::sync::{Mutex, MutexGuard};

use subtle::ConstantTimeEq;

use crate::domain::{Msisdn, Timestamp};
use crate::sandbox::identity::browsers::{Browser, SignedIn};
use crate::sandbox::identity::request::AuthRequest;
use crate::sandbox::world::lock;
use crate::sandbox::world::{Chance, Expiring};

/// A sign-in has to be finished within this.
const LIFE_MS: i64 = 10 * 60_000;
/// A PIN is good for so long.
const PIN_LIFE_MS: i64 = 5 * 60_000;
/// A PIN is void after so many wrong ones.
const TRIES: u8 = 3;
/// Text messages that one sign-in may cause.
const MOST_TEXTS: u8 = 5;
/// Sign-ins under way at once; the oldest makes room.
const MOST: usize = 1_000;

/// A sign-in under way.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) request: AuthRequest,
    /// The only browser in which it can go on.
    browser: Browser,
    pin: Option<Pin>,
    texts: u8,
    /// Who it is, once that is proven.
    pub(crate) signed_in: Option<SignedIn>,
}

#[derive(Debug, Clone)]
struct Pin {
    number: Msisdn,
    digits: String,
    until: Timestamp,
    tries_left: u8,
}

/// What became of a PIN that somebody typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PinCheck {
    /// It is the one that was sent to this number.
    Right(Msisdn),
    /// It is not; so many tries are left.
    Wrong(u8),
    /// There is none to compare with: too late, or too many wrong ones.
    Void,
}

impl Flow {
    /// A PIN for this number, to be sent there; `None` when too many were sent.
    pub(crate) fn new_pin(
        &mut self,
        number: &Msisdn,
        chance: &Chance,
        now: Timestamp,
    ) -> Option<String> {
        if self.texts >= MOST_TEXTS {
            return None;
        }
        self.texts += 1;
        let digits = chance.pin();
        self.pin = Some(Pin {
            number: number.clone(),
            digits: digits.clone(),
            until: now.plus_millis(PIN_LIFE_MS),
            tries_left: TRIES,
        });
        Some(digits)
    }

    /// The number that a PIN was sent to.
    pub(crate) fn asked(&self) -> Option<&Msisdn> {
        self.pin.as_ref().map(|pin| &pin.number)
    }

    /// Compares what somebody typed.
    pub(crate) fn check_pin(&mut self, typed: &str, now: Timestamp) -> PinCheck {
        let Some(pin) = self.pin.as_mut() else {
            return PinCheck::Void;
        };
        if pin.until <= now || pin.tries_left == 0 {
            return PinCheck::Void;
        }
        let typed = typed.trim();
        let is_right: bool = typed.as_bytes().ct_eq(pin.digits.as_bytes()).into();
        if is_right {
            let number = pin.number.clone();
            self.pin = None;
            return PinCheck::Right(number);
        }
        pin.tries_left -= 1;
        match pin.tries_left {
            0 => PinCheck::Void,
            left => PinCheck::Wrong(left),
        }
    }

    /// The person is known now, and his browser has a new cookie.
    pub(crate) fn signed_in(&mut self, browser: Browser, who: SignedIn) {
        self.browser = browser;
        self.signed_in = Some(who);
    }
}

/// All sign-ins under way.
pub(crate) struct Flows(Mutex<Expiring<String, Flow>>);

impl Flows {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Expiring::new(MOST)))
    }

    /// Begins a sign-in; its id.
    pub(crate) fn begin(
        &self,
        request: AuthRequest,
        browser: Browser,
        signed_in: Option<SignedIn>,
        chance: &Chance,
        now: Timestamp,
    ) -> String {
        let id = chance.secret("");
        let flow = Flow {
            request,
            browser,
            pin: None,
            texts: 0,
            signed_in,
        };
        let until = now.plus_millis(LIFE_MS);
        self.lock().insert(id.clone(), flow, until, now);
        id
    }

    /// A sign-in of this browser, as it stands.
    pub(crate) fn of(&self, id: &str, browser: &Browser, now: Timestamp) -> Option<Flow> {
        let flows = self.lock();
        let flow = flows.get(id, now)?;
        (flow.browser == *browser).then(|| flow.clone())
    }

    /// Changes a sign-in of this browser.
    pub(crate) fn change<R>(
        &self,
        id: &str,
        browser: &Browser,
        now: Timestamp,
        change: impl FnOnce(&mut Flow) -> R,
    ) -> Option<R> {
        let mut flows = self.lock();
        let flow = flows.get_mut(id, now)?;
        (flow.browser == *browser).then(|| change(flow))
    }

    /// Ends a sign-in of this browser, once.
    pub(crate) fn end(&self, id: &str, browser: &Browser, now: Timestamp) -> Option<Flow> {
        let mut flows = self.lock();
        let is_his = flows.get(id, now)?.browser == *browser;
        is_his.then(|| flows.remove(id, now)).flatten()
    }

    fn lock(&self) -> MutexGuard<'_, Expiring<String, Flow>> {
        lock(&self.0)
    }
}
