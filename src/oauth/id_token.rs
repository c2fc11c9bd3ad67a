//! The claims of an ID token, and whether they are to be believed (OpenID Connect Core section
//! 3.1.3.7). What is checked here is signed by the issuer already; see `keys`.

use serde::Deserialize;
use serde_json::Value;

use crate::domain::{Account, Msisdn, Secret, Timestamp};
use crate::oauth::error::Error;

/// How far the issuer's clock may be from ours.
const LEEWAY_MS: i64 = 60_000;
/// An ID token was made for the code that has just been exchanged; an older one is a replay.
const MAX_AGE_MS: i64 = 600_000;
/// OpenID Connect Core section 2: 255 ASCII characters at most.
const MAX_SUBJECT: usize = 255;

/// The claims that are used. It has no `Debug`: they are about a person.
#[derive(Deserialize)]
pub(crate) struct Claims {
    iss: String,
    pub(crate) sub: String,
    aud: Audience,
    azp: Option<String>,
    exp: f64,
    iat: f64,
    nonce: Option<Secret>,
    #[serde(flatten)]
    pub(crate) number: NumberClaims,
}

/// The claims of the scope `phone` (OpenID Connect Core section 5.4).
#[derive(Deserialize)]
pub(crate) struct NumberClaims {
    phone_number: Option<Value>,
    phone_number_verified: Option<Value>,
}

/// What `/userinfo` tells (OpenID Connect Core section 5.3.2).
#[derive(Deserialize)]
pub(crate) struct UserInfo {
    pub(crate) sub: String,
    #[serde(flatten)]
    pub(crate) number: NumberClaims,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Claims {
    /// Checks everything but the number, and tells whose account it is.
    pub(crate) fn account(
        &self,
        issuer: &str,
        client_id: &str,
        nonce: &Secret,
        now: Timestamp,
    ) -> Result<Account, Error> {
        let is_for_us = match &self.aud {
            Audience::One(one) => one == client_id,
            // Rule 4 of the section: with several it must say whom it is for.
            Audience::Many(many) => {
                many.iter().any(|one| one == client_id) && (many.len() == 1 || self.azp.is_some())
            }
        };
        let age_ms = now
            .as_millis()
            .saturating_sub(from_seconds(self.iat).as_millis());
        let is_ascii_graphic = self.sub.bytes().all(|byte| byte.is_ascii_graphic());
        let checks = [
            (self.iss == issuer, "it has another issuer"),
            (is_for_us, "it is for another client"),
            (
                self.azp.as_deref().is_none_or(|azp| azp == client_id),
                "it was issued to another client",
            ),
            (
                now < from_seconds(self.exp).plus_millis(LEEWAY_MS),
                "it has expired",
            ),
            (
                (-LEEWAY_MS..MAX_AGE_MS).contains(&age_ms),
                "it was not issued just now",
            ),
            (self.nonce.as_ref() == Some(nonce), "it has another nonce"),
            (
                (1..=MAX_SUBJECT).contains(&self.sub.len()) && is_ascii_graphic,
                "its subject is unusable",
            ),
        ];
        match checks.iter().find(|(holds, _)| !holds) {
            Some((_, fault)) => Err(Error::InvalidIdToken(fault)),
            None => Ok(Account {
                issuer: issuer.to_owned(),
                subject: self.sub.clone(),
            }),
        }
    }
}

impl NumberClaims {
    /// Whether the number, and whether it is verified, are told here.
    pub(crate) fn are_told(&self) -> bool {
        self.phone_number.is_some() && self.phone_number_verified.is_some()
    }

    /// The number, if it is verified. No country code begins with 0 (ITU-T E.164 section 6.2.1);
    /// such a number could be mistaken for another with a prefix of the core.
    pub(crate) fn verified(&self) -> Result<Msisdn, Error> {
        let number = self.phone_number.as_ref().and_then(Value::as_str);
        let number = number.and_then(|number| Msisdn::parse(number).ok());
        let number = number.filter(|number| !number.e164().starts_with("+0"));
        let number = number.ok_or(Error::NoNumber)?;
        match self.phone_number_verified {
            Some(Value::Bool(true)) => Ok(number),
            _ => Err(Error::NumberNotVerified),
        }
    }
}

/// A NumericDate (RFC 7519 section 2) may have a fraction. What is out of range is at its end.
fn from_seconds(seconds: f64) -> Timestamp {
    Timestamp::from_millis((seconds * 1000.0) as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://id.example.com";
    const CLIENT: &str = "aftertone";
    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn claims(changes: &Value) -> Claims {
        let mut claims = json!({
            "iss": ISSUER, "sub": "pairwise-7", "aud": [CLIENT], "nonce": "n-0S6",
            "iat": 1_800_000_000, "exp": 1_800_003_600,
            "phone_number": "+4799990001", "phone_number_verified": true,
        });
        for (key, value) in changes.as_object().unwrap() {
            claims[key] = value.clone();
        }
        serde_json::from_value(claims).unwrap()
    }

    fn account(changes: &Value) -> Result<Account, String> {
        claims(changes)
            .account(ISSUER, CLIENT, &Secret::new("n-0S6"), NOW)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_id_token_for_us_names_the_account_and_the_number() {
        let account = account(&json!({})).unwrap();
        assert_eq!(
            (account.issuer.as_str(), account.subject.as_str()),
            (ISSUER, "pairwise-7")
        );
        let number = claims(&json!({})).number.verified().unwrap();
        assert_eq!(number.e164(), "+4799990001");
    }

    #[test]
    fn each_claim_that_is_not_right_is_refused_by_its_own_reason() {
        let long = "s".repeat(256);
        for (changes, reason) in [
            (json!({"iss": "https://id.example.com/"}), "another issuer"),
            (json!({"aud": "somebody-else"}), "for another client"),
            (json!({"aud": []}), "for another client"),
            (
                json!({"aud": [CLIENT, "somebody-else"]}),
                "for another client",
            ),
            (json!({"azp": "somebody-else"}), "issued to another client"),
            (json!({"exp": 1_799_999_940}), "expired"),
            (json!({"exp": -1e300}), "expired"),
            (json!({"iat": 1_800_000_061}), "not issued just now"),
            (json!({"iat": 1_799_999_400}), "not issued just now"),
            (json!({"iat": 1e300}), "not issued just now"),
            (json!({"nonce": "n-0S7"}), "another nonce"),
            (json!({"nonce": null}), "another nonce"),
            (json!({"sub": ""}), "subject"),
            (json!({"sub": "a\nb"}), "subject"),
            (json!({"sub": long}), "subject"),
        ] {
            let error = account(&changes).expect_err("refused");
            assert!(error.contains(reason), "{changes}: {error}");
        }
    }

    #[test]
    fn what_the_standard_leaves_open_is_taken() {
        for changes in [
            json!({"aud": CLIENT}),
            json!({"aud": [CLIENT, "somebody-else"], "azp": CLIENT}),
            json!({"exp": 1_799_999_941}),
            json!({"iat": 1_800_000_059.5}),
            json!({"at_hash": "x", "auth_time": 3, "acr": "sms"}),
        ] {
            assert!(account(&changes).is_ok(), "{changes}");
        }
    }

    #[test]
    fn a_number_counts_only_where_it_is_verified_and_international() {
        for (changes, reason) in [
            (json!({"phone_number_verified": false}), "not verified"),
            (json!({"phone_number_verified": "true"}), "not verified"),
            (json!({"phone_number_verified": null}), "not verified"),
            (json!({"phone_number": null}), "no usable"),
            (json!({"phone_number": "99990001"}), "no usable"),
            (json!({"phone_number": "+004799990001"}), "no usable"),
            (json!({"phone_number": "+47999900010123456"}), "no usable"),
            (json!({"phone_number": "+47 9999 0001;ext=1"}), "no usable"),
            (json!({"phone_number": 4_799_990_001_i64}), "no usable"),
        ] {
            let error = claims(&changes).number.verified().unwrap_err().to_string();
            assert!(error.contains(reason), "{changes}: {error}");
        }
    }

    #[test]
    fn a_missing_claim_is_not_told_and_a_null_neither() {
        assert!(claims(&json!({})).number.are_told());
        assert!(!claims(&json!({"phone_number": null})).number.are_told());
        assert!(
            !claims(&json!({"phone_number_verified": null}))
                .number
                .are_told()
        );
        assert!(
            claims(&json!({"phone_number_verified": false}))
                .number
                .are_told()
        );
    }
}
