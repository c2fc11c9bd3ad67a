//! SIP (RFC 3261) for one user agent: pure protocol files, and a thin driver over UDP, TCP, TLS and
//! WebSocket.
//!
//! [`Sip::start`] binds the sockets and starts the driver. Calls come out of it as [`IncomingCall`]s, become
//! [`Dialog`]s when they are answered, and are placed with [`Sip::call`]. SIP never looks into session
//! descriptions: they are bytes.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::sip::message::{Host, Uri};
use crate::sip::registration::{Account, Registration, RegistrationState};
use crate::sip::transport::calls::Calls;
use crate::sip::transport::network;
use crate::sip::transport::network::Network;
use crate::sip::transport::resolve::Resolver;
use crate::sip::transport::tls::ClientTls;
use crate::sip::transport::{COMMANDS, Command, Driver};

mod call;
mod config;
pub mod dialog;
pub mod digest;
pub mod endpoint;
pub mod flow;
pub mod header;
pub mod message;
pub mod registration;
pub mod transaction;
pub(crate) mod transport;

pub use crate::sip::call::{AnswerError, CallError, OfferError};
pub use crate::sip::call::{Dialog, DialogEvent, OfferReply};
pub use crate::sip::call::{IncomingCall, OutgoingCall, OutgoingEvent};
pub use crate::sip::config::{Config, ListenAddr, ListenAddrError};
pub use crate::sip::endpoint::{DialogEnd, OutgoingRequest, Transport};
pub use crate::sip::endpoint::{LoneReply, LoneRequest};
pub use crate::sip::header::Reason;
pub use crate::sip::transport::tls::TlsError;

/// Incoming calls that the application has not taken yet; above it 503.
const INCOMING: usize = 256;

/// How long a call may stay undecided, ours or the peer's, before it is given up: as long as proxies let a call ring
/// (timer C of RFC 3261 section 16.6).
const DECISION_LIMIT: Duration = Duration::from_secs(180);

/// How long the end of a registration may take.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(1);

/// Transactions for each call at most: INVITE, BYE, and what comes between.
const TRANSACTIONS_PER_CALL: usize = 4;

/// A handle to the running driver.
#[derive(Debug, Clone)]
pub struct Sip {
    commands: mpsc::Sender<Command>,
    draining: Arc<watch::Sender<Option<u32>>>,
    local_addrs: Arc<[(Transport, SocketAddr)]>,
}

/// Why SIP could not start. Each says which setting is to be changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket could not be bound.
    #[error(
        "sip.listen: cannot listen on {addr}; choose an address of this machine on which no other program listens"
    )]
    Bind {
        /// The address.
        addr: ListenAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is nothing to listen on.
    #[error("sip.listen names no address")]
    NoListener,
    /// Our own URI cannot be read.
    #[error("sip.uri: \"{0}\" is no SIP URI")]
    Uri(String),
    /// The advertised address cannot be read.
    #[error("sip.advertised_address: \"{0}\" is neither a host name nor an IP address")]
    AdvertisedAddress(String),
    /// TLS is to be listened on, without a certificate.
    #[error("sip.listen names {0}, which needs sip.tls_certificate and sip.tls_private_key")]
    NoCertificate(ListenAddr),
    /// TLS could not be set up.
    #[error("sip.tls_certificate, sip.tls_private_key or sip.tls_ca cannot be used")]
    Tls(#[from] TlsError),
}

impl Sip {
    /// Binds the sockets and starts the driver. Its tasks are tracked by `tasks` and end after `stop`; the calls that
    /// there are then are hung up. Tags, branches and the like are drawn from `rng_seed`.
    pub async fn start(
        config: &Config,
        tasks: &TaskTracker,
        stop: CancellationToken,
        rng_seed: [u8; 32],
    ) -> Result<(Self, mpsc::Receiver<IncomingCall>), StartError> {
        let mut chance = StdRng::from_seed(rng_seed);
        let certificate = network::server_certificate(config)?;
        let network = Network::open(config, certificate, tasks, &stop)?;
        let endpoint =
            endpoint::Endpoint::new(endpoint_config(config, &network.addrs)?, chance.random());

        let (commands, obeyed) = mpsc::channel(COMMANDS);
        let (draining, drain) = watch::channel(None);
        let (incoming, calls) = mpsc::channel(INCOMING);
        let driver = Driver {
            endpoint,
            udp: network.udp,
            streams: network.streams,
            arrivals: network.arrivals,
            commands: obeyed,
            draining: drain,
            resolver: Arc::new(Resolver::new(chance.random())),
            calls: Calls::new(
                config.max_calls,
                config.retry_after_secs,
                incoming,
                commands.clone(),
            ),
            stop,
            arrived: Vec::new(),
            connections: HashMap::new(),
            lookups: FuturesUnordered::new(),
            farewell: None,
        };
        tasks.spawn(driver.run());
        let local_addrs = network.addrs.into();
        Ok((
            Self {
                commands,
                draining: Arc::new(draining),
                local_addrs,
            },
            calls,
        ))
    }

    /// The addresses bound, in the order of the configuration, with their real ports.
    pub fn local_addrs(&self) -> &[(Transport, SocketAddr)] {
        &self.local_addrs
    }

    /// From now on new calls and OPTIONS get 503 with this Retry-After. Calls that there are go on.
    pub fn set_draining(&self, retry_after_secs: u32) {
        self.draining.send_replace(Some(retry_after_secs));
    }

    /// Completes when the driver has ended: after the stop, or because of a defect. Cancel-safe.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    /// Sends a request outside of any call, and waits for what comes of it. [`LoneReply::Unreachable`] also where SIP has
    /// stopped, or has too many requests.
    pub async fn ask(&self, request: LoneRequest) -> LoneReply {
        let (replied, reply) = oneshot::channel();
        let request = Box::new(request);
        if self
            .commands
            .send(Command::Ask { request, replied })
            .await
            .is_err()
        {
            return LoneReply::Unreachable;
        }
        reply.await.unwrap_or(LoneReply::Unreachable)
    }

    /// Keeps `account` registered until `stop`, and ends the registration then. `state` always shows how it stands.
    pub async fn stay_registered(
        &self,
        account: Account,
        state: watch::Sender<RegistrationState>,
        stop: &CancellationToken,
        seed: [u8; 32],
    ) {
        let now = || tokio::time::Instant::now().into_std();
        let mut registration = Registration::new(account, now(), seed);
        let keep = async {
            loop {
                tokio::time::sleep_until(registration.due().into()).await;
                let reply = self.ask(registration.request()).await;
                registration.on_reply(now(), &reply);
                state.send_replace(registration.state().clone());
            }
        };
        stop.run_until_cancelled(keep).await;
        let farewell = self.ask(registration.farewell());
        // A registrar that does not answer forgets us in its own time.
        tokio::time::timeout(FAREWELL_DEADLINE, farewell).await.ok();
    }

    /// Places a call.
    pub async fn call(&self, request: OutgoingRequest) -> Result<OutgoingCall, CallError> {
        let (placed, call) = oneshot::channel();
        let command = Command::Call {
            request: Box::new(request),
            placed,
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| CallError::Stopped)?;
        call.await.map_err(|_| CallError::Stopped)?
    }
}

/// Says what is wrong with the settings of TLS: files, key, and the name in the certificate, which must be the host of
/// `sip.uri` (RFC 5922). Opens no socket.
pub fn check_tls(config: &Config) -> Result<(), StartError> {
    ClientTls::new(config.tls_ca.as_deref(), config.tls_insecure)?;
    let uri: Uri = config
        .uri
        .parse()
        .map_err(|_| StartError::Uri(config.uri.clone()))?;
    if let (Some(certificate), Some(key)) = (&config.tls_certificate, &config.tls_private_key) {
        transport::tls::check_certificate(certificate, key, &uri.host.to_string())?;
    }
    network::server_certificate(config)?;
    Ok(())
}

fn endpoint_config(
    config: &Config,
    addrs: &[(Transport, SocketAddr)],
) -> Result<endpoint::Config, StartError> {
    let uri: Uri = config
        .uri
        .parse()
        .map_err(|_| StartError::Uri(config.uri.clone()))?;
    let advertised = config.advertised_address.as_deref().map(|host| {
        Host::parse(host).ok_or_else(|| StartError::AdvertisedAddress(host.to_owned()))
    });
    let told =
        |(transport, addr): &(Transport, SocketAddr)| (*transport, transport::udp::concrete(*addr));
    Ok(endpoint::Config {
        uri,
        listen: addrs.iter().map(told).collect(),
        advertised: advertised.transpose()?,
        trusted: config.trusted_peers.clone(),
        untrusted_per_second: config.untrusted_responses_per_second,
        product: concat!("aftertone/", env!("CARGO_PKG_VERSION")).to_owned(),
        limits: network::limits(config),
        max_calls: config.max_calls,
        max_transactions: config
            .max_calls
            .saturating_mul(TRANSACTIONS_PER_CALL)
            .max(1000),
        session_expires: Duration::from_secs(config.session_expires_secs.into()),
        min_session_expires: Duration::from_secs(config.min_se_secs.into()),
        decision_limit: DECISION_LIMIT,
        retry_after_secs: config.retry_after_secs,
        t1: Duration::from_millis(500),
        t2: Duration::from_secs(4),
        t4: Duration::from_secs(5),
    })
}
