//! Requests to the identity server: no redirect is followed, no answer is read beyond a bound, and
//! each has a deadline.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use oauth2::http::StatusCode;
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client};
use serde::de::DeserializeOwned;

use crate::oauth::config::{self, Config};
use crate::oauth::error::{Error, SetupError, Step};

/// Longest answer that is read. Token answers and key sets are a few kilobytes.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// Idle connections that are kept: refreshes come in numbers, one after the other.
const IDLE_CONNECTIONS: usize = 16;
/// Shorter than what servers usually keep, so that a request rarely meets a closing connection.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// Sends requests to the identity server.
pub(crate) struct Http(Client);

/// Why a request got no answer that can be looked at.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the request failed")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
    #[error("{0}")]
    Nonsense(&'static str),
}

/// The identity server is in trouble and says so.
#[derive(Debug, thiserror::Error)]
#[error("it answered with status {0}")]
pub(crate) struct Trouble(pub(crate) StatusCode);

impl Fault {
    pub(crate) fn at(self, step: Step) -> Error {
        match self {
            Self::Unavailable(source) => Error::Unavailable { step, source },
            Self::Nonsense(what) => Error::Nonsense { step, what },
        }
    }
}

impl Http {
    pub(crate) fn new(config: &Config) -> Result<Self, SetupError> {
        let deadline = Duration::from_millis(config.timeout_ms);
        let issuer = config::read_url(&config.issuer)
            .map_err(|fault| SetupError::Setting(format!("issuer: {fault}")))?;
        let mut builder = Client::builder()
            .user_agent(concat!("aftertone/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .timeout(deadline)
            .connect_timeout(deadline)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_TIME)
            .referer(false);
        if let Some(path) = &config.ca_file {
            let pem = std::fs::read(path).map_err(|source| SetupError::CaFile {
                path: path.clone(),
                source,
            })?;
            let authorities = Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if authorities.is_empty() {
                return Err(SetupError::NoAuthority { path: path.clone() });
            }
            builder = builder.tls_certs_only(authorities);
        } else if issuer.scheme() == "http" {
            // On loopback there is no TLS, so that a machine without authorities will do.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|source| SetupError::Tls {
            source: source.into(),
        })?;
        Ok(Self(client))
    }

    /// Sends a request. A server in trouble is a fault; what else it answers is for the caller.
    pub(crate) async fn send(&self, request: HttpRequest) -> Result<HttpResponse, Fault> {
        let unavailable = |error: reqwest::Error| Fault::Unavailable(Arc::new(error));
        let request = request.try_into().map_err(unavailable)?;
        let mut response = self.0.execute(request).await.map_err(unavailable)?;
        let status = response.status();
        if status.is_redirection() {
            return Err(Fault::Nonsense("it redirects, which is not followed"));
        }
        if status.is_server_error()
            || status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT
        {
            return Err(Fault::Unavailable(Arc::new(Trouble(status))));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(Fault::Nonsense("it is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        let mut answer = HttpResponse::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        Ok(answer)
    }

    /// Sends a request whose answer is JSON with status 200.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        step: Step,
        request: HttpRequest,
    ) -> Result<T, Error> {
        let answer = self.send(request).await.map_err(|fault| fault.at(step))?;
        if answer.status() != StatusCode::OK {
            return Err(refused(step, answer.status()));
        }
        serde_json::from_slice(answer.body()).map_err(|_| Error::Nonsense {
            step,
            what: "it is not the JSON that was expected",
        })
    }
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Fault>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

/// A refusal without an error code of the protocol.
pub(crate) fn refused(step: Step, status: StatusCode) -> Error {
    Error::Refused {
        step,
        code: format!("status {}", status.as_u16()).into(),
    }
}
