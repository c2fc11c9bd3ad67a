//! Why the identity server did not give what was asked for. No error holds or prints a token, a
//! code, or what the server wrote in free text.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// What was asked of the identity server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The discovery document.
    Discovery,
    /// The keys that sign ID tokens.
    Keys,
    /// The consent of a subscriber, in his browser.
    Authorization,
    /// Tokens for the code of a callback.
    Exchange,
    /// New tokens for a refresh token.
    Refresh,
    /// Our own token.
    ClientToken,
    /// The claims of a subscriber.
    UserInfo,
    /// The end of a token.
    Revocation,
    /// A link to revoke a consent.
    RevokeConsent,
}

impl Step {
    /// The name used in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Discovery => "discovery",
            Self::Keys => "keys",
            Self::Authorization => "authorization",
            Self::Exchange => "exchange",
            Self::Refresh => "refresh",
            Self::ClientToken => "client-token",
            Self::UserInfo => "userinfo",
            Self::Revocation => "revocation",
            Self::RevokeConsent => "revoke-consent",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discovery => "its discovery document",
            Self::Keys => "its keys",
            Self::Authorization => "the consent of a subscriber",
            Self::Exchange => "tokens for a code",
            Self::Refresh => "new tokens for a refresh token",
            Self::ClientToken => "a token for this service",
            Self::UserInfo => "the claims of a subscriber",
            Self::Revocation => "the end of a token",
            Self::RevokeConsent => "a link to revoke a consent",
        })
    }
}

/// Why the identity server did not give what was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, is too slow, overloaded or broken for now.
    #[error("the identity server did not answer when asked for {step}")]
    Unavailable {
        /// What was asked for.
        step: Step,
        /// The cause.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// It answered something that cannot be used.
    #[error("the identity server gave an unusable answer when asked for {step}: {what}")]
    Nonsense {
        /// What was asked for.
        step: Step,
        /// What is wrong with the answer.
        what: &'static str,
    },
    /// It refuses, by an error code of RFC 6749 section 5.2 other than `invalid_grant`: a matter of
    /// how the client is registered there.
    #[error("the identity server refused {step}: {code}")]
    Refused {
        /// What was asked for.
        step: Step,
        /// Its error code.
        code: Arc<str>,
    },
    /// The subscriber said no.
    #[error("the subscriber did not consent")]
    ConsentDenied,
    /// The code or refresh token is not valid any more: used, expired or revoked.
    #[error("the identity server does not accept the code or refresh token any more")]
    InvalidGrant,
    /// The ID token, or what belongs to it, is not to be believed.
    #[error("the ID token is not valid: {0}")]
    InvalidIdToken(&'static str),
    /// The `iss` parameter of the callback is not the issuer (RFC 9207).
    #[error("the answer comes from another identity server")]
    OtherIssuer,
    /// The identity server tells no number, or one that is not in international form.
    #[error(
        "the identity server tells no usable telephone number; is the scope \"phone\" granted?"
    )]
    NoNumber,
    /// The identity server has not verified the number.
    #[error("the identity server has not verified the telephone number")]
    NumberNotVerified,
    /// An endpoint that is needed is neither configured nor in the discovery document.
    #[error("the identity server has no {0}; set oauth.{0}")]
    NoEndpoint(&'static str),
}

impl Error {
    /// Whether the same request may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Nonsense { .. })
    }

    /// The name used in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Nonsense { .. } => "nonsense",
            Self::Refused { .. } => "refused",
            Self::ConsentDenied => "consent-denied",
            Self::InvalidGrant => "invalid-grant",
            Self::InvalidIdToken(_) => "invalid-id-token",
            Self::OtherIssuer => "other-issuer",
            Self::NoNumber => "no-number",
            Self::NumberNotVerified => "number-not-verified",
            Self::NoEndpoint(_) => "no-endpoint",
        }
    }
}

/// Longest error code that is shown.
const MAX_CODE: usize = 40;

impl Error {
    /// What the `error` of a callback means (RFC 6749 section 4.1.2.1).
    pub fn of_callback(code: &str) -> Self {
        match code {
            "access_denied" | "consent_required" => Self::ConsentDenied,
            code => Self::of_code(Step::Authorization, code),
        }
    }

    /// What an error code of the protocol means that is no more special than this.
    pub(crate) fn of_code(step: Step, code: &str) -> Self {
        if code == "temporarily_unavailable" || code == "server_error" {
            return Self::Unavailable {
                step,
                source: Arc::new(SaysSo),
            };
        }
        // It comes from outside, and is shown and logged.
        let is_plain = code
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        let code = if (1..=MAX_CODE).contains(&code.len()) && is_plain {
            code
        } else {
            "with an unknown error code"
        };
        Self::Refused {
            step,
            code: code.into(),
        }
    }
}

/// The server's own word.
#[derive(Debug, thiserror::Error)]
#[error("it says that it is in trouble")]
struct SaysSo;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A setting makes no sense.
    #[error("oauth.{0}")]
    Setting(String),
    /// The file of authorities cannot be read.
    #[error("oauth.ca_file: \"{}\" cannot be read; name a file of certificates in PEM form", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file of authorities holds none.
    #[error("oauth.ca_file: \"{}\" holds no certificate in PEM form", path.display())]
    NoAuthority {
        /// The file.
        path: PathBuf,
    },
    /// TLS cannot be set up.
    #[error(
        "connections to the identity server cannot be set up; name its authorities as oauth.ca_file"
    )]
    Tls {
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_callback_is_told_by_its_code_alone() {
        let shown = |code: &str| Error::of_callback(code).to_string();
        assert!(shown("access_denied").contains("did not consent"));
        assert!(Error::of_callback("server_error").is_transient());
        assert!(shown("invalid_scope").ends_with("invalid_scope"));
        for bad in ["", "<script>", "a\nb", &"x".repeat(41)] {
            assert!(shown(bad).ends_with("unknown error code"), "{bad}");
        }
    }
}
