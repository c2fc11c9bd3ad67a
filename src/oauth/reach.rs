//! Whether the identity server can be used as configured, for `aftertone check`.

use oauth2::http::StatusCode;

use crate::oauth::client::{Client, get};
use crate::oauth::error::{Error, Step};
use crate::oauth::http::{Fault, refused};

/// One thing that was tried.
#[derive(Debug)]
pub struct Reached {
    /// The setting that names it.
    pub setting: &'static str,
    /// What was found there, as a sentence, or what is wrong.
    pub found: Result<String, Error>,
}

impl Client {
    /// Tries the endpoints, the keys and, where it is asked for, a token of our own.
    pub async fn reach(&self, with_client_token: bool) -> Vec<Reached> {
        let metadata = self.metadata().await;
        let is_known = metadata.is_ok();
        let mut reached = vec![Reached {
            setting: "oauth.issuer",
            found: metadata.map(|known| {
                let host = known.authorization.host_str().unwrap_or_default();
                format!("{} is known, subscribers sign in at {host}", self.issuer())
            }),
        }];
        // What is wrong with the endpoints was said.
        if !is_known {
            return reached;
        }
        let keys = self.keys(|_| true).await;
        reached.push(Reached {
            setting: "oauth.jwks_uri",
            found: keys.and_then(|keys| match keys.len() {
                0 => Err(Error::InvalidIdToken(
                    "the issuer has no RS256, PS256 or ES256 key, so that no sign-in can be verified",
                )),
                1 => Ok("1 key for ID tokens".to_owned()),
                count => Ok(format!("{count} keys for ID tokens")),
            }),
        });
        reached.push(Reached {
            setting: "oauth.client_id",
            found: self.is_let_in().await.map(|()| {
                let redirect_uri = self.redirect_uri();
                format!("{redirect_uri} must be registered there as the redirect URI")
            }),
        });
        if with_client_token {
            let token = self.client_token().await;
            reached.push(Reached {
                setting: "oauth.client_secret",
                found: token.map(|_| "the identity server gives this service a token".to_owned()),
            });
        }
        reached
    }

    /// Begins a sign-in as a browser would. An identity server that does not know the client or its
    /// redirect URI may send nobody back with that (RFC 6749 section 3.1.2.4): most answer 400. What
    /// redirects, to a login or an error of its own, cannot be told apart.
    async fn is_let_in(&self) -> Result<(), Error> {
        let authorization = self.authorize().await?;
        let request = get(Step::Authorization, authorization.url.as_str(), None)?;
        match self
            .http()
            .send(request)
            .await
            .map(|answer| answer.status())
        {
            Ok(
                status @ (StatusCode::BAD_REQUEST
                | StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN),
            ) => Err(refused(Step::Authorization, status)),
            Err(fault @ Fault::Unavailable(_)) => Err(fault.at(Step::Authorization)),
            _ => Ok(()),
        }
    }
}
