//! The rules for a call, as a function of values: the mailbox and the divert reason go in, what to
//! do comes out.

use std::time::Duration;

use serde::Deserialize;

use crate::domain::{DivertReason, Mailbox};

/// The `[recording]` section: what the service takes and how long it keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordingConfig {
    /// Longest message, in seconds.
    pub max_seconds: u32,
    /// Less speech than this, in seconds, is kept as a missed call and not as a message.
    pub min_seconds: u32,
    /// Seconds without speech that end a recording; 0 is never.
    pub silence_seconds: u32,
    /// Days that a message is kept; 0 is for ever.
    pub keep_days: u32,
    /// Messages that a mailbox holds.
    pub max_messages: u32,
    /// Bytes of recordings that a mailbox holds.
    pub max_bytes: u64,
}

impl Default for RecordingConfig {
    fn default() -> Self {
        Self {
            max_seconds: 180,
            min_seconds: 1,
            silence_seconds: 8,
            keep_days: 30,
            max_messages: 200,
            max_bytes: 200_000_000,
        }
    }
}

/// What to do with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Refuse it before it is answered.
    Refuse(Refusal),
    /// Answer and greet, then take a message.
    TakeMessage {
        /// What the caller hears.
        greeting: Greeting,
        /// The bounds of the recording.
        limits: Limits,
    },
    /// Answer, say that the mailbox is full, and end the call; the subscriber gets a missed call.
    TellFull,
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// None of the numbers that were called has a mailbox.
    NoMailbox,
}

/// What the caller hears first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// The subscriber's own recording, by its storage key.
    Own(String),
    /// The service's greeting in the subscriber's language. `Unknown` claims nothing about why
    /// nobody answers.
    Standard(DivertReason),
}

/// The bounds of one recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest recording.
    pub longest: Duration,
    /// Time without speech that ends it, if any does.
    pub silence: Option<Duration>,
    /// Less speech than this makes no message.
    pub least_speech: Duration,
}

impl Limits {
    /// Whether a recording with so much speech is a message.
    pub fn is_message(&self, speech: Duration) -> bool {
        !speech.is_zero() && speech >= self.least_speech
    }
}

/// Decides what to do with a call for `mailbox` that was diverted for `reason`.
pub fn plan(mailbox: Option<&Mailbox>, reason: DivertReason, config: &RecordingConfig) -> Plan {
    match mailbox {
        None => Plan::Refuse(Refusal::NoMailbox),
        Some(mailbox) if is_full(mailbox, config) => Plan::TellFull,
        Some(mailbox) => Plan::TakeMessage {
            greeting: match &mailbox.greeting {
                Some(key) => Greeting::Own(key.clone()),
                None => Greeting::Standard(reason),
            },
            limits: limits(mailbox, config),
        },
    }
}

fn is_full(mailbox: &Mailbox, config: &RecordingConfig) -> bool {
    mailbox.messages >= config.max_messages || mailbox.bytes >= config.max_bytes
}

/// The service's limits; a subscriber may ask for shorter messages, never for longer ones.
fn limits(mailbox: &Mailbox, config: &RecordingConfig) -> Limits {
    let own = mailbox.max_message_secs.unwrap_or(config.max_seconds);
    let longest = own.clamp(1, config.max_seconds.max(1));
    Limits {
        longest: Duration::from_secs(longest.into()),
        silence: (config.silence_seconds > 0)
            .then(|| Duration::from_secs(config.silence_seconds.into())),
        least_speech: Duration::from_secs(config.min_seconds.min(longest).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Msisdn, SubscriberId, Timestamp};

    fn mailbox() -> Mailbox {
        Mailbox {
            subscriber: SubscriberId::new(Timestamp::from_millis(0), [1; 10]),
            number: Msisdn::parse("+4799990001").unwrap(),
            language: "en".into(),
            greeting: None,
            messages: 0,
            bytes: 0,
            max_message_secs: None,
        }
    }

    fn limits_of(mailbox: &Mailbox, config: &RecordingConfig) -> Limits {
        match plan(Some(mailbox), DivertReason::Busy, config) {
            Plan::TakeMessage { limits, .. } => limits,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_number_without_a_mailbox_is_refused() {
        assert_eq!(
            plan(None, DivertReason::Busy, &RecordingConfig::default()),
            Plan::Refuse(Refusal::NoMailbox)
        );
    }

    #[test]
    fn the_standard_greeting_follows_the_reason() {
        for reason in [
            DivertReason::Busy,
            DivertReason::NoAnswer,
            DivertReason::Unreachable,
            DivertReason::Unconditional,
            DivertReason::Unknown,
        ] {
            let plan = plan(Some(&mailbox()), reason, &RecordingConfig::default());
            let Plan::TakeMessage { greeting, .. } = plan else {
                panic!("{plan:?}")
            };
            assert_eq!(greeting, Greeting::Standard(reason));
        }
    }

    #[test]
    fn the_subscribers_own_greeting_comes_before_the_standard_one() {
        let mut mailbox = mailbox();
        mailbox.greeting = Some("greetings/1.wav".into());
        let plan = plan(
            Some(&mailbox),
            DivertReason::Busy,
            &RecordingConfig::default(),
        );
        let Plan::TakeMessage { greeting, .. } = plan else {
            panic!("{plan:?}")
        };
        assert_eq!(greeting, Greeting::Own("greetings/1.wav".into()));
    }

    #[test]
    fn a_box_that_reached_either_quota_is_full_and_one_below_is_not() {
        let config = RecordingConfig {
            max_messages: 3,
            max_bytes: 1000,
            ..RecordingConfig::default()
        };
        let full = |messages, bytes| {
            let mailbox = Mailbox {
                messages,
                bytes,
                ..mailbox()
            };
            plan(Some(&mailbox), DivertReason::Unknown, &config) == Plan::TellFull
        };
        assert!(!full(2, 999));
        assert!(full(3, 0));
        assert!(full(4, 0));
        assert!(full(0, 1000));
    }

    #[test]
    fn a_subscriber_may_shorten_messages_but_not_lengthen_them() {
        let config = RecordingConfig::default();
        let longest = |own| {
            let mailbox = Mailbox {
                max_message_secs: own,
                ..mailbox()
            };
            limits_of(&mailbox, &config).longest.as_secs()
        };
        assert_eq!(longest(None), 180);
        assert_eq!(longest(Some(30)), 30);
        assert_eq!(longest(Some(600)), 180);
        assert_eq!(longest(Some(0)), 1);
    }

    #[test]
    fn silence_of_zero_seconds_never_ends_a_recording() {
        let mut config = RecordingConfig::default();
        assert_eq!(
            limits_of(&mailbox(), &config).silence,
            Some(Duration::from_secs(8))
        );
        config.silence_seconds = 0;
        assert_eq!(limits_of(&mailbox(), &config).silence, None);
    }

    #[test]
    fn a_recording_needs_the_least_speech_and_some_at_all() {
        let mut config = RecordingConfig::default();
        let limits = limits_of(&mailbox(), &config);
        assert!(!limits.is_message(Duration::from_millis(999)));
        assert!(limits.is_message(Duration::from_millis(1000)));
        config.min_seconds = 0;
        let limits = limits_of(&mailbox(), &config);
        assert!(!limits.is_message(Duration::ZERO));
        assert!(limits.is_message(Duration::from_millis(20)));
    }

    #[test]
    fn a_least_speech_above_the_longest_message_still_lets_a_full_one_through() {
        let config = RecordingConfig {
            min_seconds: 10,
            ..RecordingConfig::default()
        };
        let mailbox = Mailbox {
            max_message_secs: Some(5),
            ..mailbox()
        };
        let limits = limits_of(&mailbox, &config);
        assert!(limits.is_message(limits.longest));
    }
}
