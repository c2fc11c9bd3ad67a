//! The operator's identity server: OAuth 2.0 and OpenID Connect, from the client's side.
//!
//! A subscriber proves his number at the identity server and comes back with a code (RFC 6749
//! section 4.1, with PKCE, RFC 7636); the code is exchanged for tokens, and the ID token tells who he
//! is (OpenID Connect Core section 3.1). Nothing that arrives is believed before it is checked, no
//! answer is read beyond a bound, no redirect is followed, and every request has a deadline.

mod client;
mod config;
mod error;
mod fetched;
mod http;
mod id_token;
mod keys;
mod metadata;
mod reach;
mod token_endpoint;

use std::fmt;

use url::Url;

use crate::domain::{Account, Msisdn, Secret, Timestamp};

pub use crate::oauth::client::Client;
pub use crate::oauth::config::{Config, is_loopback};
pub use crate::oauth::error::{Error, SetupError, Step};
pub use crate::oauth::reach::Reached;

/// What the identity server gave for a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// For requests on behalf of the subscriber.
    pub access: Secret,
    /// When `access` ends.
    pub expires_at: Timestamp,
    /// For the next [`Client::refresh`]. After a refresh it is always there: the one that was
    /// used, where the server did not rotate it (RFC 6749 section 6).
    pub refresh: Option<Secret>,
    /// What `access` may be used for, where the server says it; else it is what was asked for.
    pub scopes: Option<Vec<String>>,
    /// The ID token as it came. After [`Client::exchange`] it has been verified.
    pub id_token: Option<Secret>,
}

/// Who signed in, as the identity server vouches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The issuer, and the subscriber's name there.
    pub account: Account,
    /// The number, which the issuer has verified.
    pub number: Msisdn,
}

/// The beginning of a sign-in: where to send the browser, and what must be bound to it until it
/// comes back.
#[derive(Clone)]
pub struct Authorization {
    /// Where to send the browser.
    pub url: Url,
    /// Comes back in the callback (RFC 6749 section 10.12).
    pub state: Secret,
    /// Comes back in the ID token (OpenID Connect Core section 3.1.2.1).
    pub nonce: Secret,
    /// Proves at the exchange that the code is ours (RFC 7636).
    pub verifier: Secret,
}

impl fmt::Debug for Authorization {
    /// The URL holds the state and the nonce.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").finish_non_exhaustive()
    }
}
