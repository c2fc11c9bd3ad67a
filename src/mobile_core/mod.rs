//! The operator's mobile core, with which numbers are registered (gRPC).
//!
//! A *virtual registration* ties a number to our SIP URI, so that the core sends calls there which
//! the subscriber does not take. It lives for an hour; the registration keeper renews it. The
//! services are described in `proto/`.

mod answer;
mod config;
mod consents;
mod fake;
mod grpc;
pub mod pb;

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::{Msisdn, Secret};

pub use crate::mobile_core::config::{Api, Config, TokenKind};
pub use crate::mobile_core::consents::{
    ClientTokens, ConsentChange, ConsentEvent, ConsentFeed, ConsentTarget, Delivery,
};
pub use crate::mobile_core::fake::{Asked, FakeMobileCore, Method};
pub use crate::mobile_core::grpc::{CoreConfigError, GrpcCore};

/// What is registered: calls to `number` that the subscriber does not take come to `sip_uri`. The
/// prefixes come from the configuration; the route type is always FALLBACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The subscriber's number.
    pub number: Msisdn,
    /// Where the core sends the calls: `sips:host` or `sips:host:port`.
    pub sip_uri: String,
}

/// Registers numbers with the core.
#[async_trait]
pub trait MobileCore: Send + Sync + 'static {
    /// Adds the registration or begins its life anew, and tells how long it lives from now on.
    /// `token` is the subscriber's or the client's, as `core.token` says.
    async fn upsert(&self, wish: &Wish, token: &Secret) -> Result<Duration, CoreError>;

    /// Ends the registration. The SIP URI must be the one that was registered. Of a registration that
    /// is not there (any more) the core says [`CoreError::NotAcceptable`].
    async fn delete(&self, wish: &Wish, token: &Secret) -> Result<(), CoreError>;
}

/// Why the core did not do what was asked. Texts of the core are shortened, and numbers in them
/// redacted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// The number or the SIP URI is of no use to the core.
    #[error("the core does not accept the number or the SIP URI{}", said(.0))]
    NotAcceptable(String),
    /// The token is unknown or has ended: a fresh one may do.
    #[error("the core does not accept the access token")]
    Unauthenticated,
    /// The token is good for other things only: consent, scope or product is missing.
    #[error("the core does not allow it{}", said(.0))]
    Forbidden(String),
    /// The core cannot be reached, or cannot serve now.
    #[error("the core is unavailable{}", said(.0))]
    Unavailable(String),
    /// The core did not answer in time.
    #[error("the core did not answer in time")]
    Deadline,
    /// The core's answer makes no sense.
    #[error("the core's answer makes no sense{}", said(.0))]
    Nonsense(String),
}

fn said(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

impl CoreError {
    /// Whether the same request may succeed later without anybody doing something about it.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Deadline | Self::Nonsense(_) => true,
            Self::NotAcceptable(_) | Self::Unauthenticated | Self::Forbidden(_) => false,
        }
    }

    /// The name used in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NotAcceptable(_) => "not-acceptable",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden(_) => "forbidden",
            Self::Unavailable(_) => "unavailable",
            Self::Deadline => "deadline",
            Self::Nonsense(_) => "nonsense",
        }
    }
}
