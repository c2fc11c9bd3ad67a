//! Who a subscriber is to the operator, what is registered for him at the mobile core, and what is
//! still to be done after he has left.

use std::fmt;

use crate::domain::{Msisdn, SubscriberId, Timestamp};

/// An account of an identity server. Its subject is pairwise: another client of the same server knows
/// the same person by another (OpenID Connect Core 8).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Account {
    /// The issuer's URL.
    pub issuer: String,
    /// Who it is to that issuer: the claim `sub`.
    pub subject: String,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// A subscriber's tokens, sealed, as the database holds them.
#[derive(Clone, PartialEq, Eq)]
pub struct Grant {
    /// Sealed for the subscriber; who has the key can open it.
    pub sealed: Vec<u8>,
    /// Grows with every replacement, so that one who refreshed an older one notices.
    pub version: i64,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What has become of the wish to be registered at the mobile core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RegistrationState {
    /// Not there yet, or lapsed: it is tried until it is.
    Wanted,
    /// The core has taken it; it lives until `expires_at`.
    Active,
    /// The core does not take it.
    Refused,
    /// The subscriber's consent, or his grant, is gone.
    ConsentLost,
}

impl RegistrationState {
    /// The name used in the database and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wanted => "wanted",
            Self::Active => "active",
            Self::Refused => "refused",
            Self::ConsentLost => "consent-lost",
        }
    }

    /// The reverse of [`RegistrationState::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Wanted, Self::Active, Self::Refused, Self::ConsentLost]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// A number that is to be registered at the mobile core, and how that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Row number. A wish made anew (the subscriber signed in again) is a new row with a higher one;
    /// none is used twice.
    pub seq: i64,
    /// Whose.
    pub subscriber: SubscriberId,
    /// What is registered.
    pub number: Msisdn,
    /// To where the core sends its calls.
    pub sip_uri: String,
    /// How it stands.
    pub state: RegistrationState,
    /// When what the core last took ends.
    pub expires_at: Option<Timestamp>,
    /// When to ask the core next.
    pub next_attempt_at: Timestamp,
    /// How often in a row it failed.
    pub failures: u32,
    /// Why it failed last, for people.
    pub reason: Option<String>,
}

/// Why something ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DepartureCause {
    /// The subscriber wants to go.
    Subscriber,
    /// The operator removes him.
    Operator,
    /// He took his consent back at the operator.
    ConsentRevoked,
    /// The identity server does not know his grant any more.
    InvalidGrant,
    /// Somebody else has proved that the number is his.
    NumberReassigned,
    /// The subscriber has another number now. Only the old number's registration and grant end; he
    /// stays.
    Renumbered,
}

impl DepartureCause {
    /// The name used in the database, the log and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Subscriber => "subscriber",
            Self::Operator => "operator",
            Self::ConsentRevoked => "consent-revoked",
            Self::InvalidGrant => "invalid-grant",
            Self::NumberReassigned => "number-reassigned",
            Self::Renumbered => "renumbered",
        }
    }

    /// The reverse of [`DepartureCause::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Subscriber,
            Self::Operator,
            Self::ConsentRevoked,
            Self::InvalidGrant,
            Self::NumberReassigned,
            Self::Renumbered,
        ]
        .into_iter()
        .find(|cause| cause.as_str() == name)
    }
}

/// What is still to be done for a subscriber, or a number, that is gone. When nothing is, it is gone
/// too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// Row number.
    pub id: i64,
    /// Who left; his row may be erased already.
    pub subscriber: SubscriberId,
    /// The number he had.
    pub number: Msisdn,
    /// Why.
    pub cause: DepartureCause,
    /// When.
    pub left_at: Timestamp,
    /// When his data are erased; `None` when they are, or are to stay.
    pub erase_at: Option<Timestamp>,
    /// What is to be deleted at the core, until it would have lapsed.
    pub withdrawal: Option<Withdrawal>,
    /// What is to be revoked at the identity server; also what the core is asked with.
    pub grant: Option<Grant>,
    /// When to try next; `None` when there is nothing to be done but erase.
    pub next_attempt_at: Option<Timestamp>,
    /// How often in a row it failed.
    pub failures: u32,
}

/// A registration that is to be deleted at the core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    /// What was registered: the core wants to hear it again.
    pub sip_uri: String,
    /// When what the core last took ends by itself, as far as is known.
    pub expires_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_states_and_causes_lead_back_to_them() {
        for name in ["wanted", "active", "refused", "consent-lost"] {
            assert_eq!(RegistrationState::from_name(name).unwrap().as_str(), name);
        }
        for name in [
            "subscriber",
            "operator",
            "consent-revoked",
            "invalid-grant",
            "number-reassigned",
            "renumbered",
        ] {
            assert_eq!(DepartureCause::from_name(name).unwrap().as_str(), name);
        }
        assert_eq!(RegistrationState::from_name("Active"), None);
        assert_eq!(DepartureCause::from_name(""), None);
    }

    #[test]
    fn neither_a_subject_nor_a_grant_is_printed() {
        let account = Account {
            issuer: "https://id.example.com".into(),
            subject: "f81d4fae".into(),
        };
        let grant = Grant {
            sealed: b"sealed".to_vec(),
            version: 3,
        };
        let printed = format!("{account:?} {grant:?}");
        assert!(printed.contains("id.example.com"), "{printed}");
        assert!(
            !printed.contains("f81d4fae") && !printed.contains("115"),
            "{printed}"
        );
    }
}
