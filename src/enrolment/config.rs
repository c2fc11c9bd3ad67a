//! `[enrolment]`: how tokens are sealed, how long sessions live and what has left is kept.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::domain::{DepartureCause, Secret, Timestamp};

const HOUR_MS: i64 = 60 * 60 * 1000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// `[enrolment]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// One or more keys of 32 bytes in base64, separated by white space: the first one seals tokens, each
    /// of them opens. By default the file `token.key` in the data directory, made at the first start.
    pub token_key: Option<Secret>,
    /// How long the data stay of who left by his own wish, or was removed, in hours.
    pub erase_after_hours: u32,
    /// How long the data stay of who was lost without anybody's wish, in hours: the identity server does
    /// not know his grant any more, or his number is somebody else's. He gets them back when he signs in.
    pub erase_lost_after_hours: u32,
    /// How long a browser stays signed in, in days.
    pub session_days: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            token_key: None,
            erase_after_hours: 0,
            erase_lost_after_hours: 72,
            session_days: 30,
        }
    }
}

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// There is none.
    #[error("there is no key; `openssl rand -base64 32` makes one")]
    None,
    /// One is no base64, or not of 32 bytes.
    #[error("key {0} is not 32 bytes in base64; `openssl rand -base64 32` makes one")]
    Unreadable(usize),
}

/// Reads keys in base64, separated by white space.
pub(crate) fn read_keys(text: &str) -> Result<Vec<[u8; 32]>, InvalidKey> {
    let keys = text.split_whitespace().enumerate().map(|(index, key)| {
        let bytes = STANDARD.decode(key).ok();
        let key = bytes.and_then(|bytes| bytes.try_into().ok());
        key.ok_or(InvalidKey::Unreadable(index + 1))
    });
    match keys.collect::<Result<Vec<_>, _>>()? {
        none if none.is_empty() => Err(InvalidKey::None),
        keys => Ok(keys),
    }
}

impl Config {
    /// What is set against sense, each as a sentence that begins with its key.
    pub fn problems(&self) -> Vec<String> {
        let keys = self.token_key.as_ref().map(|text| read_keys(text.expose()));
        let mut problems = Vec::new();
        if let Some(Err(error)) = keys {
            problems.push(format!("enrolment.token_key: {error}"));
        }
        if !(1..=3650).contains(&self.session_days) {
            problems.push("enrolment.session_days: must be from 1 to 3650".into());
        }
        problems
    }

    /// When the data of one are erased who leaves at `now`.
    pub fn erase_at(&self, cause: DepartureCause, now: Timestamp) -> Timestamp {
        let hours = match cause {
            DepartureCause::Subscriber
            | DepartureCause::Operator
            | DepartureCause::ConsentRevoked => self.erase_after_hours,
            DepartureCause::InvalidGrant
            | DepartureCause::NumberReassigned
            | DepartureCause::Renumbered => self.erase_lost_after_hours,
        };
        now.plus_millis(i64::from(hours) * HOUR_MS)
    }

    /// When a session ends that begins at `now`.
    pub fn session_ends_at(&self, now: Timestamp) -> Timestamp {
        now.plus_millis(i64::from(self.session_days) * DAY_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    const TWO: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

    #[test]
    fn keys_stand_in_base64_between_white_space() {
        assert_eq!(read_keys(ONE), Ok(vec![[1; 32]]));
        let both = format!(" {TWO}\r\n\t{ONE}\n");
        assert_eq!(read_keys(&both), Ok(vec![[2; 32], [1; 32]]));
        assert_eq!(read_keys(" \n"), Err(InvalidKey::None));
        assert_eq!(
            read_keys(&format!("{ONE} {}", &TWO[4..])),
            Err(InvalidKey::Unreadable(2))
        );
        assert_eq!(read_keys("nøkkel"), Err(InvalidKey::Unreadable(1)));
    }

    #[test]
    fn what_makes_no_sense_is_named_and_no_key_is_shown() {
        let config = Config {
            token_key: Some(Secret::new("hunter2")),
            session_days: 0,
            ..Config::default()
        };
        let problems = config.problems().join("; ");
        assert!(
            problems.contains("enrolment.token_key: key 1"),
            "{problems}"
        );
        assert!(problems.contains("enrolment.session_days"), "{problems}");
        assert!(!format!("{problems}{config:?}").contains("hunter2"));
        assert!(Config::default().problems().is_empty());
    }

    #[test]
    fn who_was_lost_without_a_wish_is_kept_longer() {
        let now = Timestamp::from_millis(1_795_403_093_120);
        let config = Config::default();
        for cause in [
            DepartureCause::Subscriber,
            DepartureCause::Operator,
            DepartureCause::ConsentRevoked,
        ] {
            assert_eq!(config.erase_at(cause, now), now, "{cause:?}");
        }
        for cause in [
            DepartureCause::InvalidGrant,
            DepartureCause::NumberReassigned,
        ] {
            assert_eq!(
                config.erase_at(cause, now),
                now.plus_millis(72 * HOUR_MS),
                "{cause:?}"
            );
        }
        assert_eq!(config.session_ends_at(now), now.plus_millis(30 * DAY_MS));
    }
}
