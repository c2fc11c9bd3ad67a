//! The words of the service, free of any protocol, database or clock.

pub mod choice;
mod message;
mod registration;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use uuid::Uuid;

pub use crate::domain::message::{
    AudioFormat, Gap, Losses, MediaStage, Message, MissedCall, NewMessage, SetupTimes, StoredAudio,
};
pub use crate::domain::registration::{
    Account, Departure, DepartureCause, Grant, Registration, RegistrationState, Withdrawal,
};

/// A telephone number in E.164: a plus and up to fifteen digits. It prints redacted, so that no
/// log shows whom somebody called; [`Msisdn::e164`] gives the number in clear.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Msisdn(Box<str>);

/// Why a text is no [`Msisdn`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a telephone number in international form: write it as +<country code><number>, 3 to 15 digits"
)]
pub struct InvalidMsisdn;

impl Msisdn {
    /// Reads `+4712345678`. Visual separators (space, `-`, `.`, parentheses) are skipped. The plus
    /// is required: a national number says nothing without its country.
    pub fn parse(text: &str) -> Result<Self, InvalidMsisdn> {
        let rest = text.trim().strip_prefix('+').ok_or(InvalidMsisdn)?;
        let mut number = String::with_capacity(16);
        number.push('+');
        for c in rest.chars() {
            match c {
                '0'..='9' => number.push(c),
                ' ' | '-' | '.' | '(' | ')' => {}
                _ => return Err(InvalidMsisdn),
            }
        }
        let digits = number.len() - 1;
        if (3..=15).contains(&digits) {
            Ok(Self(number.into()))
        } else {
            Err(InvalidMsisdn)
        }
    }

    /// The number in clear, with its plus. Never log it.
    pub fn e164(&self) -> &str {
        &self.0
    }
}

impl FromStr for Msisdn {
    type Err = InvalidMsisdn;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Msisdn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = self.0.len().saturating_sub(2).max(1);
        write!(f, "…{}", &self.0[tail..])
    }
}

impl fmt::Debug for Msisdn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Msisdn({self})")
    }
}

/// Text about a person (a name, an address) that prints redacted; the field is public on purpose,
/// so that showing it in clear is visible in the code.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Private(pub String);

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Private(…)")
    }
}

/// A token, key or password. It prints redacted and is compared in constant time;
/// [`Secret::expose`] shows it.
#[derive(Clone)]
pub struct Secret(Box<str>);

impl Secret {
    /// A secret of this text.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text in clear. Never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// A moment in UTC, in milliseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The end of time.
    pub const MAX: Self = Self(i64::MAX);

    /// From milliseconds since 1970-01-01T00:00:00Z.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This moment moved by `ms`.
    #[must_use]
    pub const fn plus_millis(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds: `2026-11-23T03:04:53.120Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// An id made of `at` and chance (UUID version 7): ids sort by the time they were made.
            pub fn new(at: Timestamp, random: [u8; 10]) -> Self {
                let ms = u64::try_from(at.as_millis()).unwrap_or(0);
                Self(uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid())
            }

            /// An id from its sixteen bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The sixteen bytes.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.simple(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = UnknownId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if text.len() != 32 { return Err(UnknownId); }
                Uuid::try_parse(text).map(Self).map_err(|_| UnknownId)
            }
        }
    };
}

/// A text that is no id of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id")]
pub struct UnknownId;

uuid_id!(
    /// A message, chosen when its recording begins and never changed.
    MessageId
);
uuid_id!(
    /// A subscriber.
    SubscriberId
);
uuid_id!(
    /// An API token; not its secret.
    TokenId
);

/// Why the call was diverted to us, as far as the signalling tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DivertReason {
    /// The subscriber was in another call or declined.
    Busy,
    /// The phone rang and nobody answered.
    NoAnswer,
    /// The phone was off or out of coverage.
    Unreachable,
    /// Every call is diverted.
    Unconditional,
    /// The signalling does not say.
    Unknown,
}

impl DivertReason {
    /// The name used in the database, the API and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::NoAnswer => "no-answer",
            Self::Unreachable => "unreachable",
            Self::Unconditional => "unconditional",
            Self::Unknown => "unknown",
        }
    }

    /// The reverse of [`DivertReason::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Busy,
            Self::NoAnswer,
            Self::Unreachable,
            Self::Unconditional,
            Self::Unknown,
        ]
        .into_iter()
        .find(|reason| reason.as_str() == name)
    }
}

/// Who called, as the signalling of a trusted peer tells and the caller's privacy allows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caller {
    /// The number, where it can be known and is not withheld.
    pub number: Option<Msisdn>,
    /// The display name, where one was sent and is not withheld.
    pub name: Option<Private>,
}

/// What ended a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordingEnd {
    /// The caller hung up.
    HangUp,
    /// The caller pressed `#`.
    Digit,
    /// Nobody spoke for the configured time.
    Silence,
    /// The longest allowed message was reached.
    Limit,
    /// No media arrived any more.
    MediaTimeout,
    /// The disk could not take the audio as fast as it came.
    DiskTooSlow,
    /// The service was stopped, or the call broke, in mid-message.
    Interrupted,
}

impl RecordingEnd {
    /// The name used in the database, the API and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HangUp => "hang-up",
            Self::Digit => "digit",
            Self::Silence => "silence",
            Self::Limit => "limit",
            Self::MediaTimeout => "media-timeout",
            Self::DiskTooSlow => "disk-too-slow",
            Self::Interrupted => "interrupted",
        }
    }

    /// The reverse of [`RecordingEnd::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::HangUp,
            Self::Digit,
            Self::Silence,
            Self::Limit,
            Self::MediaTimeout,
            Self::DiskTooSlow,
            Self::Interrupted,
        ]
        .into_iter()
        .find(|end| end.as_str() == name)
    }
}

/// Where a subscriber's messages lie, and the rules for taking one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// Whose it is.
    pub subscriber: SubscriberId,
    /// The subscriber's number.
    pub number: Msisdn,
    /// Language of the prompts: an IETF tag such as `en` or `nb`.
    pub language: String,
    /// Storage key of the subscriber's own greeting, if there is one.
    pub greeting: Option<String>,
    /// Messages in the box now.
    pub messages: u32,
    /// Bytes of recordings in the box now.
    pub bytes: u64,
    /// The subscriber's own limit of a message's length, in seconds, below the service's.
    pub max_message_secs: Option<u32>,
}

/// A customer of the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    /// The id.
    pub id: SubscriberId,
    /// The number.
    pub number: Msisdn,
    /// A name to show.
    pub name: Option<Private>,
    /// IANA time zone name, `Etc/UTC` unless told.
    pub time_zone: String,
    /// IETF language tag of prompts and pages.
    pub language: String,
    /// Own limit of a message's length, in seconds.
    pub max_message_secs: Option<u32>,
    /// Whether the subscriber wants to be notified of new messages.
    pub notify: bool,
    /// Storage key of the own greeting.
    pub greeting: Option<String>,
    /// When the subscriber was added.
    pub created_at: Timestamp,
}

/// What is known of an API token; the secret itself is only known to its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// The id.
    pub id: TokenId,
    /// Whose token.
    pub subscriber: SubscriberId,
    /// What its holder calls it.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends, if ever.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the hour.
    pub last_used_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Msisdn {
        Msisdn::parse(text).unwrap()
    }

    #[test]
    fn a_number_is_read_without_its_separators() {
        for text in [
            "+4712345678",
            " +47 123 45 678 ",
            "+47-123.45.678",
            "+(47) 12345678",
        ] {
            assert_eq!(number(text).e164(), "+4712345678", "{text}");
        }
        assert_eq!(number("+112").e164(), "+112");
        assert_eq!(number("+123456789012345").e164(), "+123456789012345");
    }

    #[test]
    fn what_is_no_international_number_is_refused() {
        for text in [
            "",
            "+",
            "+12",
            "12345678",
            "004712345678",
            "++4712345678",
            "+1234567890123456",
            "+47 12345x78",
            "+47/12345678",
            "+٤٧١٢٣٤٥٦٧٨",
            "sip:+4712345678@host",
            "+4712345678;ext=1",
        ] {
            assert_eq!(Msisdn::parse(text), Err(InvalidMsisdn), "{text}");
        }
    }

    #[test]
    fn what_is_about_persons_prints_redacted() {
        let number = number("+4712345678");
        for printed in [format!("{number}"), format!("{number:?}")] {
            assert!(
                printed.contains("78") && !printed.contains("345"),
                "{printed}"
            );
        }
        assert_eq!(self::number("+112").to_string(), "…12");
        let caller = Caller {
            number: Some(number),
            name: Some(Private("Ola Nordmann".into())),
        };
        let printed = format!("{caller:?}");
        assert!(
            !printed.contains("Ola") && !printed.contains("345"),
            "{printed}"
        );
    }

    #[test]
    fn a_timestamp_prints_as_rfc_3339_in_utc() {
        let at = Timestamp::from_millis(1_795_403_093_120);
        assert_eq!(at.to_string(), "2026-11-23T03:04:53.120Z");
        assert_eq!(
            Timestamp::from_millis(-1).to_string(),
            "1969-12-31T23:59:59.999Z"
        );
        assert_eq!(
            Timestamp::from_millis(i64::MAX).to_string(),
            format!("{}ms", i64::MAX)
        );
        assert_eq!(
            Timestamp::from_millis(i64::MAX).plus_millis(1).as_millis(),
            i64::MAX
        );
    }

    #[test]
    fn ids_sort_by_the_time_they_were_made() {
        let at = Timestamp::from_millis(1_795_403_093_120);
        let first = MessageId::new(at, [0xff; 10]);
        let second = MessageId::new(at.plus_millis(1), [0; 10]);
        assert!(first < second);
        assert!(first.to_string() < second.to_string());
        assert!(first.as_bytes() < second.as_bytes());
        assert_ne!(MessageId::new(at, [1; 10]), MessageId::new(at, [2; 10]));
        // A clock before 1970 makes no panic, only an early id.
        assert!(MessageId::new(Timestamp::from_millis(-5), [0; 10]) < first);
    }

    #[test]
    fn an_id_is_read_as_it_is_printed_and_in_no_other_form() {
        let id = MessageId::new(Timestamp::from_millis(1_795_403_093_120), [7; 10]);
        let text = id.to_string();
        assert_eq!(text.len(), 32);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(MessageId::from_bytes(*id.as_bytes()), id);
        let hyphenated = Uuid::from_bytes(*id.as_bytes()).to_string();
        for other in ["", "x", &hyphenated, &text[1..], &format!("{text}0")] {
            assert_eq!(other.parse::<MessageId>(), Err(UnknownId), "{other}");
        }
    }

    #[test]
    fn names_of_reasons_and_ends_lead_back_to_them() {
        for name in [
            "busy",
            "no-answer",
            "unreachable",
            "unconditional",
            "unknown",
        ] {
            let reason = DivertReason::from_name(name).unwrap();
            assert_eq!(reason.as_str(), name);
            assert_eq!(serde_json::to_value(reason).unwrap(), name);
        }
        for name in [
            "hang-up",
            "digit",
            "silence",
            "limit",
            "media-timeout",
            "disk-too-slow",
            "interrupted",
        ] {
            let end = RecordingEnd::from_name(name).unwrap();
            assert_eq!(end.as_str(), name);
            assert_eq!(serde_json::to_value(end).unwrap(), name);
        }
        assert_eq!(DivertReason::from_name("Busy"), None);
        assert_eq!(RecordingEnd::from_name(""), None);
    }
}
