//! The ways in which the sandbox misbehaves on purpose.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::domain::{Msisdn, Timestamp};
use crate::sandbox::world::{Changes, lock};

/// A way to misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// The ACK to a 200 comes seconds late.
    LateAck,
    /// The first ACKs to a 200 never come.
    LostAck,
    /// Every INVITE to an endpoint is sent twice.
    DuplicateInvite,
    /// A call is cancelled in the moment it is answered.
    CancelCrossing,
    /// A call is offered anew in its middle.
    Reinvite,
    /// Tokens of the number count as expired.
    ExpiredToken,
    /// Registrations are answered NOT_ACCEPTABLE.
    RegistrationRefused,
    /// The registration API answers UNAVAILABLE.
    CoreUnavailable,
    /// The registration API answers seconds late.
    CoreSlow,
    /// A part of the audio packets is lost.
    MediaLoss,
    /// Audio packets come late and out of order.
    MediaJitter,
    /// The token endpoint answers 503.
    IdentityUnavailable,
}

impl Mode {
    /// All of them.
    pub(crate) const ALL: [Self; 12] = [
        Self::LateAck,
        Self::LostAck,
        Self::DuplicateInvite,
        Self::CancelCrossing,
        Self::Reinvite,
        Self::ExpiredToken,
        Self::RegistrationRefused,
        Self::CoreUnavailable,
        Self::CoreSlow,
        Self::MediaLoss,
        Self::MediaJitter,
        Self::IdentityUnavailable,
    ];

    /// Its name in forms and in the control API.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::LateAck => "late-ack",
            Self::LostAck => "lost-ack",
            Self::DuplicateInvite => "duplicate-invite",
            Self::CancelCrossing => "cancel-crossing",
            Self::Reinvite => "reinvite",
            Self::ExpiredToken => "expired-token",
            Self::RegistrationRefused => "registration-refused",
            Self::CoreUnavailable => "core-unavailable",
            Self::CoreSlow => "core-slow",
            Self::MediaLoss => "media-loss",
            Self::MediaJitter => "media-jitter",
            Self::IdentityUnavailable => "identity-unavailable",
        }
    }

    /// What it does, for the page.
    pub(crate) const fn explained(self) -> &'static str {
        match self {
            Self::LateAck => "the ACK to an answer comes seconds late",
            Self::LostAck => "the first ACKs to an answer are lost",
            Self::DuplicateInvite => "every INVITE to voicemail is sent twice",
            Self::CancelCrossing => "the call is cancelled in the moment it is answered",
            Self::Reinvite => "the call is offered anew in its middle",
            Self::ExpiredToken => "tokens count as expired",
            Self::RegistrationRefused => "registrations are not acceptable",
            Self::CoreUnavailable => "the registration API is unavailable",
            Self::CoreSlow => "the registration API answers seconds late",
            Self::MediaLoss => "some audio packets are lost",
            Self::MediaJitter => "audio packets come late and out of order",
            Self::IdentityUnavailable => "the token endpoint answers 503",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, UnknownMode> {
        let mut all = Self::ALL.into_iter();
        all.find(|mode| mode.as_str() == name).ok_or(UnknownMode)
    }
}

/// A name that is no mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no such mode")]
pub(crate) struct UnknownMode;

/// For whom which mode is on, and until when.
pub(crate) struct Modes {
    /// `None` is everybody.
    on: Mutex<HashMap<Option<Msisdn>, BTreeMap<Mode, Timestamp>>>,
    changes: Changes,
}

impl Modes {
    pub(crate) fn new(changes: Changes) -> Self {
        Self {
            on: Mutex::default(),
            changes,
        }
    }

    /// Turns a mode on until a moment ([`Timestamp::MAX`]: until it is turned off), for a number
    /// that exists or for everybody.
    pub(crate) fn set(&self, number: Option<&Msisdn>, mode: Mode, until: Timestamp) {
        lock(&self.on)
            .entry(number.cloned())
            .or_default()
            .insert(mode, until);
        self.changes.note();
    }

    /// Turns a mode off.
    pub(crate) fn clear(&self, number: Option<&Msisdn>, mode: Mode) {
        if let Some(modes) = lock(&self.on).get_mut(&number.cloned()) {
            modes.remove(&mode);
        }
        self.changes.note();
    }

    /// Whether a mode is on, for this number or for everybody.
    pub(crate) fn is_on(&self, mode: Mode, number: Option<&Msisdn>, now: Timestamp) -> bool {
        let on = lock(&self.on);
        let is_on = |whose: Option<Msisdn>| {
            let until = on.get(&whose).and_then(|modes| modes.get(&mode));
            until.is_some_and(|until| *until > now)
        };
        is_on(None) || number.is_some_and(|number| is_on(Some(number.clone())))
    }

    /// The modes that are on for this number alone (`None`: for everybody).
    pub(crate) fn of(&self, number: Option<&Msisdn>, now: Timestamp) -> Vec<Mode> {
        let on = lock(&self.on);
        let modes = on.get(&number.cloned()).into_iter().flatten();
        let alive = modes.filter(|(_, until)| **until > now);
        alive.map(|(mode, _)| *mode).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_holds_for_its_number_or_for_all_and_until_its_end() {
        let modes = Modes::new(Changes::default());
        let [one, other] = ["+4799990001", "+4799990002"].map(|n| Msisdn::parse(n).unwrap());
        let at = Timestamp::from_millis;
        modes.set(Some(&one), Mode::LostAck, at(100));
        assert!(modes.is_on(Mode::LostAck, Some(&one), at(99)));
        assert!(!modes.is_on(Mode::LostAck, Some(&one), at(100)));
        assert!(!modes.is_on(Mode::LostAck, Some(&other), at(99)));
        assert!(!modes.is_on(Mode::LateAck, Some(&one), at(99)));
        modes.set(None, Mode::CoreSlow, Timestamp::MAX);
        assert!(modes.is_on(Mode::CoreSlow, Some(&other), at(1)));
        assert!(modes.is_on(Mode::CoreSlow, None, at(1)));
        modes.clear(None, Mode::CoreSlow);
        assert!(!modes.is_on(Mode::CoreSlow, Some(&other), at(1)));
    }

    #[test]
    fn every_mode_is_found_by_its_name() {
        for mode in Mode::ALL {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
        assert_eq!("late".parse::<Mode>(), Err(UnknownMode));
    }
}
