//! What the identity server has issued: codes, access tokens and refresh tokens, and the grants
//! that tie them together, so that they can end together.

mod scopes;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::{Msisdn, Timestamp};
use crate::sandbox::config::Config;
use crate::sandbox::world::kept::{self, Kept, KeptGrant, KeptRefresh};
use crate::sandbox::world::{Chance, Changes, Expiring, lock};

pub(crate) use scopes::Scopes;

/// How every access token begins, so that one is recognised where it does not belong.
pub const ACCESS_TOKEN: &str = "sandbox_at_";
/// How every refresh token begins.
pub const REFRESH_TOKEN: &str = "sandbox_rt_";
/// A code must be redeemed within this (RFC 6749, 4.1.2: ten minutes at most).
const CODE_LIFE_MS: i64 = 60_000;
/// So long a code is remembered, to notice when it is used again.
const CODE_MEMORY_MS: i64 = 600_000;
/// What is kept at most of each kind; the oldest makes room.
const MOST_CODES: usize = 1_000;
const MOST_GRANTS: usize = 10_000;
const MOST_TOKENS: usize = 50_000;

/// What a subscriber allowed a client, when he was last asked to prove who he is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Authorization {
    pub(crate) client: String,
    #[serde(with = "kept::number")]
    pub(crate) number: Msisdn,
    pub(crate) scopes: Scopes,
    pub(crate) redirect_uri: String,
    /// Goes back in the ID token.
    pub(crate) nonce: Option<String>,
    /// The S256 challenge of PKCE (RFC 7636), where one was sent.
    pub(crate) challenge: Option<String>,
    /// When he proved who he is.
    #[serde(with = "kept::time")]
    pub(crate) authenticated_at: Timestamp,
}

/// What a valid access token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenFacts {
    /// The OAuth client that holds it.
    pub(crate) client: String,
    /// The subscriber; `None` in a client's own token.
    pub(crate) number: Option<Msisdn>,
    pub(crate) scopes: Scopes,
}

/// What the token endpoint hands out.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) access: String,
    pub(crate) lives: Duration,
    pub(crate) refresh: Option<String>,
    pub(crate) scopes: Scopes,
    /// What it rests on, for the ID token; `None` for a client's own token.
    pub(crate) authorization: Option<Authorization>,
}

/// Why nothing was issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// RFC 6749, 5.2: `invalid_grant`.
    #[error("{0}")]
    InvalidGrant(&'static str),
    /// RFC 6749, 5.2: `invalid_scope`.
    #[error("more was asked for than was granted")]
    InvalidScope,
}

/// Everything issued.
pub(crate) struct Tokens {
    inner: Mutex<Inner>,
    chance: Arc<Chance>,
    changes: Changes,
    access_life: Duration,
    refresh_life: Duration,
}

struct Inner {
    latest_grant: u64,
    grants: Expiring<u64, Authorization>,
    codes: Expiring<String, Code>,
    access: Expiring<String, Access>,
    refresh: Expiring<String, Refresh>,
}

struct Code {
    authorization: Authorization,
    until: Timestamp,
    /// What came of it.
    redeemed: Option<u64>,
}

struct Access {
    facts: TokenFacts,
    /// The token holds as long as its grant; a client's own token has none.
    grant: Option<u64>,
}

/// A refresh token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refresh {
    grant: u64,
    client: String,
    is_used: bool,
}

impl Tokens {
    pub(crate) fn new(config: &Config, chance: Arc<Chance>, changes: Changes) -> Self {
        Self {
            inner: Mutex::new(Inner {
                latest_grant: 0,
                grants: Expiring::new(MOST_GRANTS),
                codes: Expiring::new(MOST_CODES),
                access: Expiring::new(MOST_TOKENS),
                refresh: Expiring::new(MOST_TOKENS),
            }),
            chance,
            changes,
            access_life: Duration::from_secs(config.access_token_secs),
            refresh_life: Duration::from_secs(config.refresh_token_secs),
        }
    }

    /// What a bearer token stands for, where it holds.
    pub(crate) fn check(&self, token: &str, now: Timestamp) -> Option<TokenFacts> {
        let inner = lock(&self.inner);
        let access = inner.access.get(token, now)?;
        if let Some(grant) = access.grant {
            inner.grants.get(&grant, now)?;
        }
        Some(access.facts.clone())
    }

    /// A code for what the subscriber has just allowed.
    pub(crate) fn authorize(&self, authorization: Authorization, now: Timestamp) -> String {
        let code = self.chance.secret("sandbox_ac_");
        let value = Code {
            authorization,
            until: now.plus_millis(CODE_LIFE_MS),
            redeemed: None,
        };
        let memory = now.plus_millis(CODE_MEMORY_MS);
        lock(&self.inner)
            .codes
            .insert(code.clone(), value, memory, now);
        code
    }

    /// Tokens for a code, once. A code that comes again ends what was issued for it (RFC 6749,
    /// 4.1.2).
    pub(crate) fn redeem(
        &self,
        code: &str,
        client: &str,
        redirect_uri: &str,
        verifier: Option<&str>,
        now: Timestamp,
    ) -> Result<Issued, Refusal> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let found = inner.codes.get_mut(code, now);
        // Somebody else's try neither uses nor ends it.
        let found = found.filter(|code| code.authorization.client == client);
        let Some(found) = found else {
            return Err(Refusal::InvalidGrant("there is no such code"));
        };
        if let Some(grant) = found.redeemed {
            inner.grants.remove(&grant, now);
            self.changes.note();
            return Err(Refusal::InvalidGrant("the code was used before"));
        }
        inner.latest_grant += 1;
        let grant = inner.latest_grant;
        found.redeemed = Some(grant);
        let authorization = &found.authorization;
        if found.until <= now {
            return Err(Refusal::InvalidGrant("the code has expired"));
        }
        if authorization.redirect_uri != redirect_uri {
            return Err(Refusal::InvalidGrant(
                "redirect_uri is not the one that the code was sent to",
            ));
        }
        check_verifier(authorization.challenge.as_deref(), verifier)?;
        let authorization = authorization.clone();
        let end = Timestamp::MAX;
        inner.grants.insert(grant, authorization.clone(), end, now);
        let scopes = authorization.scopes.clone();
        Ok(self.issue(inner, grant, authorization, scopes, now))
    }

    /// New tokens for a refresh token, which ends with that. One that comes again ends the whole
    /// grant (RFC 9700, 4.14.2). `scopes` may ask for less than was granted.
    pub(crate) fn refresh(
        &self,
        token: &str,
        client: &str,
        scopes: Option<Scopes>,
        now: Timestamp,
    ) -> Result<Issued, Refusal> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let found = inner.refresh.get_mut(token, now);
        let Some(found) = found.filter(|token| token.client == client) else {
            return Err(Refusal::InvalidGrant("there is no such refresh token"));
        };
        let grant = found.grant;
        if found.is_used {
            inner.grants.remove(&grant, now);
            self.changes.note();
            return Err(Refusal::InvalidGrant("the refresh token was used before"));
        }
        let Some(authorization) = inner.grants.get(&grant, now).cloned() else {
            return Err(Refusal::InvalidGrant("the grant was revoked"));
        };
        let scopes = scopes.unwrap_or_else(|| authorization.scopes.clone());
        if !scopes.is_within(&authorization.scopes) {
            return Err(Refusal::InvalidScope);
        }
        found.is_used = true;
        Ok(self.issue(inner, grant, authorization, scopes, now))
    }

    /// A token of the client itself.
    pub(crate) fn for_client(&self, client: &str, scopes: Scopes, now: Timestamp) -> Issued {
        let facts = TokenFacts {
            client: client.to_owned(),
            number: None,
            scopes: scopes.clone(),
        };
        let access = self.add_access(&mut lock(&self.inner), facts, None, now);
        Issued {
            access,
            lives: self.access_life,
            refresh: None,
            scopes,
            authorization: None,
        }
    }

    /// Ends a token of this client (RFC 7009); with a refresh token all that came of its grant.
    /// `Err` where it is another client's.
    pub(crate) fn revoke(&self, token: &str, client: &str, now: Timestamp) -> Result<(), NotYours> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        if let Some(refresh) = inner.refresh.get(token, now) {
            if refresh.client != client {
                return Err(NotYours);
            }
            inner.grants.remove(&refresh.grant, now);
            self.changes.note();
        } else if let Some(access) = inner.access.get(token, now) {
            if access.facts.client != client {
                return Err(NotYours);
            }
            inner.access.remove(token, now);
        }
        Ok(())
    }

    /// Whose token it is, be it an access or a refresh token that still holds.
    pub(crate) fn subject_of(&self, token: &str, now: Timestamp) -> Option<(String, Msisdn)> {
        let inner = lock(&self.inner);
        let grant = match inner.refresh.get(token, now) {
            Some(refresh) if !refresh.is_used => refresh.grant,
            Some(_) => return None,
            None => inner.access.get(token, now)?.grant?,
        };
        let authorization = inner.grants.get(&grant, now)?;
        Some((authorization.client.clone(), authorization.number.clone()))
    }

    /// Ends whatever `client` (`None`: anybody) holds of this subscriber.
    pub(crate) fn revoke_all_of(&self, client: Option<&str>, number: &Msisdn) {
        let is_other = |authorization: &Authorization| {
            authorization.number != *number
                || client.is_some_and(|client| client != authorization.client)
        };
        let mut inner = lock(&self.inner);
        inner.grants.retain(|_, grant| is_other(grant));
        inner.codes.retain(|_, code| is_other(&code.authorization));
        self.changes.note();
    }

    /// Adds grants and refresh tokens to what is kept; codes and access tokens are not.
    pub(crate) fn keep(&self, kept: &mut Kept, now: Timestamp) {
        let inner = lock(&self.inner);
        let grants = inner.grants.iter(now).map(|(id, _, grant)| KeptGrant {
            id: *id,
            authorization: grant.clone(),
        });
        kept.grants.extend(grants);
        let tokens = inner.refresh.iter(now);
        let tokens = tokens.filter(|(_, _, token)| inner.grants.get(&token.grant, now).is_some());
        let tokens = tokens.map(|(token, until, refresh)| KeptRefresh {
            token: token.clone(),
            until,
            refresh: refresh.clone(),
        });
        kept.refresh_tokens.extend(tokens);
    }

    /// Takes in what was kept, before anything was issued.
    pub(crate) fn restore(&self, grants: Vec<KeptGrant>, tokens: Vec<KeptRefresh>, now: Timestamp) {
        let mut inner = lock(&self.inner);
        for grant in grants {
            inner.latest_grant = inner.latest_grant.max(grant.id);
            let end = Timestamp::MAX;
            inner.grants.insert(grant.id, grant.authorization, end, now);
        }
        for kept in tokens {
            let KeptRefresh {
                token,
                until,
                refresh,
            } = kept;
            inner.refresh.insert(token, refresh, until, now);
        }
    }

    fn issue(
        &self,
        inner: &mut Inner,
        grant: u64,
        authorization: Authorization,
        scopes: Scopes,
        now: Timestamp,
    ) -> Issued {
        let facts = TokenFacts {
            client: authorization.client.clone(),
            number: Some(authorization.number.clone()),
            scopes: scopes.clone(),
        };
        let access = self.add_access(inner, facts, Some(grant), now);
        self.changes.note();
        let may_refresh = authorization.scopes.contains("offline_access");
        let refresh = may_refresh.then(|| {
            let token = self.chance.secret(REFRESH_TOKEN);
            let value = Refresh {
                grant,
                client: authorization.client.clone(),
                is_used: false,
            };
            let until = now.plus_millis(millis(self.refresh_life));
            inner.refresh.insert(token.clone(), value, until, now);
            token
        });
        Issued {
            access,
            lives: self.access_life,
            refresh,
            scopes,
            authorization: Some(authorization),
        }
    }

    fn add_access(
        &self,
        inner: &mut Inner,
        facts: TokenFacts,
        grant: Option<u64>,
        now: Timestamp,
    ) -> String {
        let token = self.chance.secret(ACCESS_TOKEN);
        let until = now.plus_millis(millis(self.access_life));
        let value = Access { facts, grant };
        inner.access.insert(token.clone(), value, until, now);
        token
    }
}

/// A token that another client holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotYours;

/// RFC 7636, 4.6. A verifier for a code that had no challenge is refused too: somebody may have
/// cut the challenge out (RFC 9700, 4.8.2).
fn check_verifier(challenge: Option<&str>, verifier: Option<&str>) -> Result<(), Refusal> {
    match (challenge, verifier) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Refusal::InvalidGrant(
            "there is a code_verifier, but the code was asked for without code_challenge",
        )),
        (Some(_), None) => Err(Refusal::InvalidGrant("code_verifier is missing")),
        (Some(challenge), Some(verifier)) => {
            let hashed = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
            let is_right: bool = hashed.as_bytes().ct_eq(challenge.as_bytes()).into();
            let is_right = is_right && (43..=128).contains(&verifier.len());
            is_right.then_some(()).ok_or(Refusal::InvalidGrant(
                "code_verifier does not belong to code_challenge",
            ))
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
