//! How calls to a subscriber's number come to the mailbox, as it is told to people and programs.

use crate::domain::{Registration, RegistrationState, Timestamp};

/// How calls come to the mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Routing {
    /// The operator added the number and routes its diverted calls here by himself.
    Provisioned,
    /// The core is asked for the first time.
    BeingSetUp,
    /// The core sends calls, and does so until then if nothing more happens.
    Active(Timestamp),
    /// The core sends calls until then, and does not answer when asked to go on.
    Refreshing(Timestamp),
    /// The core cannot be reached, and sends no calls: not yet, or not any more.
    Unreachable {
        /// When it stopped; `None`: it never began.
        since: Option<Timestamp>,
    },
    /// The core does not want to.
    Refused {
        /// Why, in its own words.
        reason: Option<String>,
    },
    /// The subscriber's consent is gone.
    ConsentLost,
}

impl Routing {
    /// How calls come at `now`, by the registration of the subscriber.
    pub(crate) fn at(now: Timestamp, registration: Option<&Registration>) -> Self {
        let Some(registration) = registration else {
            return Self::Provisioned;
        };
        let lives_until = registration.expires_at.filter(|until| *until > now);
        match (registration.state, lives_until) {
            (RegistrationState::Refused, _) => Self::Refused {
                reason: registration.reason.clone(),
            },
            (RegistrationState::ConsentLost, _) => Self::ConsentLost,
            (RegistrationState::Active, Some(until)) if registration.failures == 0 => {
                Self::Active(until)
            }
            (_, Some(until)) => Self::Refreshing(until),
            (_, None) if registration.expires_at.is_none() && registration.failures == 0 => {
                Self::BeingSetUp
            }
            (_, None) => Self::Unreachable {
                since: registration.expires_at,
            },
        }
    }

    /// The name of the state in the API.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Provisioned => "provisioned",
            Self::Active(_) => "active",
            Self::BeingSetUp | Self::Refreshing(_) | Self::Unreachable { .. } => "refreshing",
            Self::Refused { .. } => "refused",
            Self::ConsentLost => "consent-lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::{Msisdn, SubscriberId};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn registration(
        state: RegistrationState,
        ends_in_ms: Option<i64>,
        failures: u32,
    ) -> Registration {
        Registration {
            seq: 1,
            subscriber: SubscriberId::from_bytes([1; 16]),
            number: Msisdn::parse("+4799990001").unwrap(),
            sip_uri: "sips:voicemail.example.com".into(),
            state,
            expires_at: ends_in_ms.map(|ms| NOW.plus_millis(ms)),
            next_attempt_at: NOW,
            failures,
            reason: Some("because".into()),
        }
    }

    #[test]
    fn what_is_told_is_what_callers_meet() {
        use RegistrationState::{Active, ConsentLost, Refused, Wanted};
        let later = NOW.plus_millis(60);
        let earlier = NOW.plus_millis(-60);
        let reason = Some("because".to_owned());
        for (state, ends_in_ms, failures, routing, name) in [
            (Wanted, None, 0, Routing::BeingSetUp, "refreshing"),
            (
                Wanted,
                None,
                1,
                Routing::Unreachable { since: None },
                "refreshing",
            ),
            (Active, Some(60), 0, Routing::Active(later), "active"),
            (
                Active,
                Some(60),
                2,
                Routing::Refreshing(later),
                "refreshing",
            ),
            (
                Wanted,
                Some(60),
                0,
                Routing::Refreshing(later),
                "refreshing",
            ),
            (
                Active,
                Some(-60),
                3,
                Routing::Unreachable {
                    since: Some(earlier),
                },
                "refreshing",
            ),
            (
                Active,
                Some(0),
                0,
                Routing::Unreachable { since: Some(NOW) },
                "refreshing",
            ),
            (Refused, Some(60), 1, Routing::Refused { reason }, "refused"),
            (
                ConsentLost,
                Some(60),
                1,
                Routing::ConsentLost,
                "consent-lost",
            ),
        ] {
            let registration = registration(state, ends_in_ms, failures);
            let told = Routing::at(NOW, Some(&registration));
            assert_eq!(told, routing);
            assert_eq!(told.as_str(), name);
        }
        assert_eq!(Routing::at(NOW, None).as_str(), "provisioned");
    }
}
