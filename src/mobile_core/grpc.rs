//! The core over gRPC.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Response, Status};

use crate::domain::Secret;
use crate::mobile_core::config::{Api, Config, TokenKind};
use crate::mobile_core::pb::wgtwo::common::v1::E164;
use crate::mobile_core::pb::wgtwo::sipbreakout::v0::registration_request::RouteType as RouteTypeV0;
use crate::mobile_core::pb::wgtwo::sipbreakout::v0::sip_breakout_service_client::SipBreakoutServiceClient as ClientV0;
use crate::mobile_core::pb::wgtwo::sipbreakout::v1::sip_breakout_service_client::SipBreakoutServiceClient as ClientV1;
use crate::mobile_core::pb::wgtwo::sipbreakout::{v0, v1};
use crate::mobile_core::{CoreError, MobileCore, Wish, answer};
use crate::telemetry;

/// A dead connection is found by the kernel in a minute and a half. HTTP/2 pings would be sooner,
/// but servers take them amiss.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// No answer of this API is longer.
pub(super) const LONGEST_ANSWER: usize = 64 * 1024;

/// Registers numbers with a core over gRPC. One connection, opened when it is first needed and
/// again when it is lost, serves all requests. Clones share it.
#[derive(Debug, Clone)]
pub struct GrpcCore {
    pub(super) line: Arc<Line>,
    api: Api,
    token: TokenKind,
    originating_prefix: String,
    terminating_prefix: String,
}

/// Why there can be no core.
#[derive(Debug, thiserror::Error)]
pub enum CoreConfigError {
    /// No endpoint is configured.
    #[error("core.endpoint is not set; write the address of the core's API")]
    NoEndpoint,
    /// The file of the certificate authority cannot be read.
    #[error("core.ca_file \"{}\" cannot be read; name a file of certificates in PEM", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The address or the certificates are of no use.
    #[error("core.endpoint or core.ca_file cannot be used")]
    Transport(#[from] tonic::transport::Error),
}

impl GrpcCore {
    /// A client of the configured core. Reads `ca_file`, opens no connection. Needs to be called
    /// within a tokio runtime.
    pub fn new(config: &Config) -> Result<Self, CoreConfigError> {
        Ok(Self {
            line: Arc::new(Line::new(config)?),
            api: config.api,
            token: config.token,
            originating_prefix: config.mobile_originating_prefix.clone(),
            terminating_prefix: config.mobile_terminating_prefix.clone(),
        })
    }

    fn registration_v1(&self, wish: &Wish) -> v1::Registration {
        let phone_number = match self.token {
            TokenKind::User => None,
            TokenKind::Client => Some(E164 {
                e164: wish.number.e164().to_owned(),
            }),
        };
        v1::Registration {
            mobile_originating_prefix: self.originating_prefix.clone(),
            mobile_terminating_prefix: self.terminating_prefix.clone(),
            sip_uri: wish.sip_uri.clone(),
            route_type: v1::RouteType::Fallback.into(),
            phone_number,
        }
    }

    fn registration_v0(&self, wish: &Wish) -> v0::RegistrationRequest {
        v0::RegistrationRequest {
            mo_prefix: self.originating_prefix.clone(),
            mt_prefix: self.terminating_prefix.clone(),
            suri: wish.sip_uri.clone(),
            route_type: RouteTypeV0::Fallback.into(),
        }
    }

    async fn upsert_v1(&self, wish: &Wish, token: &Secret) -> Result<Duration, CoreError> {
        let message = v1::UpsertRegistrationRequest {
            registration: Some(self.registration_v1(wish)),
        };
        let request = self.line.request(message, token)?;
        let answer = self
            .line
            .ask(async |channel| service_v1(channel).upsert_registration(request).await);
        answer::of_upsert_v1(&answer.await?)
    }

    async fn delete_v1(&self, wish: &Wish, token: &Secret) -> Result<(), CoreError> {
        let message = v1::DeleteRegistrationRequest {
            registration: Some(self.registration_v1(wish)),
        };
        let request = self.line.request(message, token)?;
        let answer = self
            .line
            .ask(async |channel| service_v1(channel).delete_registration(request).await);
        answer::of_delete_v1(&answer.await?)
    }

    async fn upsert_v0(&self, wish: &Wish, token: &Secret) -> Result<Duration, CoreError> {
        let request = self.line.request(self.registration_v0(wish), token)?;
        let answer = self
            .line
            .ask(async |channel| service_v0(channel).upsert_registration(request).await);
        answer::of_v0(&answer.await?)
    }

    async fn delete_v0(&self, wish: &Wish, token: &Secret) -> Result<(), CoreError> {
        let request = self.line.request(self.registration_v0(wish), token)?;
        let answer = self
            .line
            .ask(async |channel| service_v0(channel).delete_registration(request).await);
        answer::of_v0(&answer.await?).map(drop)
    }
}

fn service_v1(channel: Channel) -> ClientV1<Channel> {
    ClientV1::new(channel).max_decoding_message_size(LONGEST_ANSWER)
}

fn service_v0(channel: Channel) -> ClientV0<Channel> {
    ClientV0::new(channel).max_decoding_message_size(LONGEST_ANSWER)
}

#[async_trait]
impl MobileCore for GrpcCore {
    async fn upsert(&self, wish: &Wish, token: &Secret) -> Result<Duration, CoreError> {
        let started = Instant::now();
        let result = match self.api {
            Api::V1 => self.upsert_v1(wish, token).await,
            Api::V0 => self.upsert_v0(wish, token).await,
        };
        count("upsert", started, result.as_ref().err());
        result
    }

    async fn delete(&self, wish: &Wish, token: &Secret) -> Result<(), CoreError> {
        let started = Instant::now();
        let result = match self.api {
            Api::V1 => self.delete_v1(wish, token).await,
            Api::V0 => self.delete_v0(wish, token).await,
        };
        count("delete", started, result.as_ref().err());
        result
    }
}

pub(super) fn count(method: &'static str, started: Instant, error: Option<&CoreError>) {
    let result = error.map_or("ok", CoreError::as_str);
    metrics::counter!(telemetry::CORE_REQUESTS, "method" => method, "result" => result)
        .increment(1);
    metrics::histogram!(telemetry::CORE_TIME, "method" => method).record(started.elapsed());
}

/// The connection to the core.
#[derive(Debug)]
pub(super) struct Line {
    endpoint: Endpoint,
    timeout: Duration,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    channel: Channel,
    /// Counts the connections, so that of many requests that meet a dead one only one replaces it.
    number: u64,
}

impl Line {
    fn new(config: &Config) -> Result<Self, CoreConfigError> {
        let address = config.endpoint.clone().ok_or(CoreConfigError::NoEndpoint)?;
        let is_tls = address.starts_with("https:");
        let mut endpoint = Endpoint::from_shared(address)?
            .user_agent(concat!("aftertone/", env!("CARGO_PKG_VERSION")))?
            .connect_timeout(config.timeout())
            .tcp_keepalive(Some(KEEP_ALIVE))
            .tcp_keepalive_interval(Some(KEEP_ALIVE))
            .tcp_keepalive_retries(Some(2));
        if is_tls {
            endpoint = endpoint.tls_config(tls(config)?)?;
        }
        let channel = endpoint.connect_lazy();
        Ok(Self {
            endpoint,
            timeout: config.timeout(),
            current: Mutex::new(Current { channel, number: 0 }),
        })
    }

    /// A request that carries `token`.
    pub(super) fn request<T>(&self, message: T, token: &Secret) -> Result<Request<T>, CoreError> {
        let bearer = format!("Bearer {}", token.expose());
        // What cannot stand in a header is no token.
        let mut bearer =
            MetadataValue::<Ascii>::try_from(bearer).map_err(|_| CoreError::Unauthenticated)?;
        bearer.set_sensitive(true);
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", bearer);
        Ok(request)
    }

    /// Asks, and waits no longer than configured. Who does not answer loses the connection: it may
    /// be dead without anybody having said so.
    pub(super) async fn ask<T>(
        &self,
        ask: impl AsyncFnOnce(Channel) -> Result<Response<T>, Status>,
    ) -> Result<T, CoreError> {
        let (channel, number) = self.channel();
        let answer = timeout(self.timeout, ask(channel)).await;
        let result = match answer {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => Err(answer::of_status(&status)),
            Err(_) => Err(CoreError::Deadline),
        };
        if matches!(result, Err(CoreError::Deadline)) {
            self.replace(number);
        }
        result
    }

    pub(super) fn channel(&self) -> (Channel, u64) {
        let current = self.current.lock().expect("no one panics with it");
        (current.channel.clone(), current.number)
    }

    pub(super) fn replace(&self, number: u64) {
        let mut current = self.current.lock().expect("no one panics with it");
        if current.number == number {
            current.channel = self.endpoint.connect_lazy();
            current.number += 1;
        }
    }
}

fn tls(config: &Config) -> Result<ClientTlsConfig, CoreConfigError> {
    let tls = ClientTlsConfig::new().timeout(config.timeout());
    let Some(path) = &config.ca_file else {
        return Ok(tls.with_native_roots());
    };
    let pem = std::fs::read(path).map_err(|source| CoreConfigError::CaFile {
        path: path.clone(),
        source,
    })?;
    Ok(tls.ca_certificate(Certificate::from_pem(pem)))
}
