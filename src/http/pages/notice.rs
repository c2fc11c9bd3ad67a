//! A page that says what happened and what to do.

use askama::Template;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::http::pages;
use crate::http::pages::assets;
use crate::http::pages::texts;
use crate::http::pages::texts::Texts;

/// What there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The subscriber did not consent at his operator.
    Denied,
    /// The operator has not verified the number.
    NotVerified,
    /// The operator tells no number.
    NoNumber,
    /// A callback that belongs to no sign-in of this browser.
    Forged,
    /// A sign-in that took too long, or a code used twice.
    Expired,
    /// The identity server is out of reach.
    IssuerDown,
    /// The identity server refused for a reason of its own.
    IssuerRefused,
    /// The identity server's answer failed a check.
    NotTrusted,
    /// No identity server is configured.
    NotOpen,
    /// A form without a session.
    SignedOut,
    /// A form that is not one of ours.
    ForeignForm,
    /// A form that cannot be read.
    BadForm,
    /// No such message.
    Gone,
    /// No such page.
    NotHere,
    /// A fault of ours.
    Fault,
    /// The database is busy.
    Busy,
    /// The subscriber has left.
    Left,
    /// And his consent is taken back.
    LeftAndRevoked,
    /// And his consent is not.
    LeftNotRevoked,
    /// A return from taking consent back that belongs to nobody who left.
    UnknownLeaving,
}

impl Notice {
    /// What to say to a browser whose sign-in ended with the error of this name. It has an address of
    /// its own, `/enrol/<name>`, so that the callback's, with its code, stays in no history.
    pub(crate) fn of_sign_in(error: &str) -> Option<Self> {
        Some(match error {
            "not-open" => Self::NotOpen,
            "consent-denied" => Self::Denied,
            "number-not-verified" => Self::NotVerified,
            "no-number" => Self::NoNumber,
            "forged" => Self::Forged,
            "expired" => Self::Expired,
            "issuer-unavailable" => Self::IssuerDown,
            "issuer-refused" => Self::IssuerRefused,
            "invalid-id-token" => Self::NotTrusted,
            "storage" => Self::Fault,
            _ => return None,
        })
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::Denied
            | Self::NotVerified
            | Self::NoNumber
            | Self::SignedOut
            | Self::ForeignForm => StatusCode::FORBIDDEN,
            Self::Forged | Self::Expired | Self::BadForm | Self::UnknownLeaving => {
                StatusCode::BAD_REQUEST
            }
            Self::NotOpen | Self::Gone | Self::NotHere => StatusCode::NOT_FOUND,
            Self::IssuerRefused | Self::NotTrusted => StatusCode::BAD_GATEWAY,
            Self::IssuerDown | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Fault => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Left | Self::LeftAndRevoked | Self::LeftNotRevoked => StatusCode::OK,
        }
    }

    /// Where its button leads, and what stands on it.
    const fn way_on(self) -> (&'static str, &'static str) {
        match self {
            Self::Denied
            | Self::NotVerified
            | Self::NoNumber
            | Self::Forged
            | Self::Expired
            | Self::IssuerDown
            | Self::IssuerRefused
            | Self::NotTrusted
            | Self::SignedOut => ("/enrol", Texts::SIGN_IN_AGAIN),
            Self::ForeignForm | Self::BadForm | Self::Gone => ("/", Texts::BACK),
            Self::NotOpen
            | Self::NotHere
            | Self::Fault
            | Self::Busy
            | Self::Left
            | Self::LeftAndRevoked
            | Self::LeftNotRevoked
            | Self::UnknownLeaving => ("/", Texts::TO_START),
        }
    }
}

#[derive(Template)]
#[template(path = "notice.html")]
struct Page {
    headline: &'static str,
    paragraphs: &'static [&'static str],
    href: &'static str,
    label: &'static str,
}

impl IntoResponse for Notice {
    fn into_response(self) -> Response {
        let (headline, paragraphs) = texts::notice(self);
        let (href, label) = self.way_on();
        let page = Page {
            headline,
            paragraphs,
            href,
            label,
        };
        pages::page(self.status(), &page)
    }
}

#[cfg(test)]
mod tests {
    use crate::enrolment::SignInError;

    use super::*;

    #[test]
    fn every_end_of_a_sign_in_has_a_notice() {
        for error in [
            SignInError::NotOpen,
            SignInError::ConsentDenied,
            SignInError::NumberNotVerified,
            SignInError::NoNumber,
            SignInError::Forged,
            SignInError::Expired,
            SignInError::IssuerRefused("access_denied".into()),
            SignInError::InvalidIdToken("alg"),
        ] {
            let notice = Notice::of_sign_in(error.as_str());
            let status = notice.map(Notice::status);
            assert!(status.is_some_and(|status| !status.is_success()), "{error}");
        }
        for name in ["", "left", "../x"] {
            assert_eq!(Notice::of_sign_in(name), None, "{name}");
        }
    }
}
