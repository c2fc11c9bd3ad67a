//! The keys of the identity server, and the signatures of its ID tokens (RFC 7515, RFC 7517).

use std::collections::HashSet;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation};
use serde::Deserialize;

use crate::domain::Timestamp;
use crate::oauth::error::Error;
use crate::oauth::id_token::Claims;
use crate::oauth::metadata::is_younger;

/// Keys are asked for again after this, so that a withdrawn one ends.
const FRESH_MS: i64 = 3_600_000;
/// An unknown key leads to a request no sooner than this after the last one: forged tokens must not
/// make us hammer the identity server.
const BETWEEN_REFETCHES_MS: i64 = 3000;
/// An issuer has a handful.
const MAX_KEYS: usize = 32;
/// What may sign. `none` and the symmetric ones are not among them: with those, whoever knows the
/// public key could sign.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256];

/// The keys of an identity server, as they were at one moment.
#[derive(Clone)]
pub(crate) struct KeySet {
    known_since: Timestamp,
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// A key set as it comes. A key that is not understood must not hide the others.
#[derive(Deserialize)]
pub(crate) struct Document {
    keys: Vec<serde_json::Value>,
}

/// What a key set says of a token.
pub(crate) enum Verdict {
    /// Signed by the issuer; its claims are still to be checked.
    Signed(Box<Claims>),
    /// The key is not in the set: perhaps in a newer one.
    UnknownKey,
}

impl KeySet {
    pub(crate) fn new(document: Document, now: Timestamp) -> Self {
        let keys = document.keys.into_iter().take(MAX_KEYS);
        Self {
            known_since: now,
            keys: keys.filter_map(read_key).collect(),
        }
    }

    /// Keys that can verify an ID token.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn is_fresh(&self, now: Timestamp) -> bool {
        is_younger(self.known_since, FRESH_MS, now)
    }

    /// Whether it is too young to be asked for again because of an unknown key.
    pub(crate) fn is_just_fetched(&self, now: Timestamp) -> bool {
        is_younger(self.known_since, BETWEEN_REFETCHES_MS, now)
    }

    /// Looks for the key that signed `token`.
    pub(crate) fn verify(&self, token: &str) -> Result<Verdict, Error> {
        // Fails for `none`, which the type of algorithms does not have.
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| Error::InvalidIdToken("its header cannot be read"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(Error::InvalidIdToken("its algorithm is not allowed"));
        }
        // RFC 7515 section 4.1.11: what is critical and not understood invalidates the token.
        if header.crit.is_some() {
            return Err(Error::InvalidIdToken("it needs an extension"));
        }
        let candidates = self.keys.iter().filter(|key| {
            key.key.family() == header.alg.family()
                && key
                    .algorithm
                    .is_none_or(|algorithm| algorithm == header.alg)
                && (header.kid.is_none() || key.id.is_none() || key.id == header.kid)
        });
        let mut validation = Validation::new(header.alg);
        // Claims are checked in `id_token`, by the service's own clock.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims = HashSet::new();
        let mut is_known = false;
        for candidate in candidates {
            is_known |= header.kid.is_some() && candidate.id == header.kid;
            match jsonwebtoken::decode::<Claims>(token, &candidate.key, &validation) {
                Ok(data) => return Ok(Verdict::Signed(Box::new(data.claims))),
                Err(error) if matches!(error.kind(), ErrorKind::Json(_)) => {
                    // Only what is signed is read.
                    return Err(Error::InvalidIdToken("its claims cannot be read"));
                }
                Err(_) => {}
            }
        }
        if is_known {
            return Err(Error::InvalidIdToken("its signature is wrong"));
        }
        Ok(Verdict::UnknownKey)
    }
}

fn read_key(value: serde_json::Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let algorithm = match jwk.common.key_algorithm {
        None => None,
        Some(algorithm) => {
            let algorithm = Algorithm::try_from(algorithm).ok()?;
            ALGORITHMS.contains(&algorithm).then_some(algorithm)?;
            Some(algorithm)
        }
    };
    if !matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    ) {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    matches!(key.family(), AlgorithmFamily::Rsa | AlgorithmFamily::Ec).then_some(Key {
        id: jwk.common.key_id,
        algorithm,
        key,
    })
}
