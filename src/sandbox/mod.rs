//! A mobile core on a laptop: an identity server, the registration API, a SIP core with simulated
//! phones, and pages that show all of it. Nobody's network places a call to try a voicemail service
//! with; this one does.
//!
//! It meets the service over sockets and public protocols only: nothing of the service is imported
//! here, and nothing in the service behaves differently because of it. What the vendor's core does
//! and where the sandbox differs: `docs/sandbox.md`.

mod api;
pub mod config;
mod html;
mod identity;
mod pages;
mod phones;
mod relay;
mod sip_core;
mod web;
pub(crate) mod world;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::connections;
use crate::connections::BindError;
use crate::sandbox::relay::MediaRelay;
use crate::sandbox::sip_core::SipCore;
use crate::sandbox::world::{World, kept};
use crate::sip::Transport;

pub use crate::sandbox::config::{Behaviour, ClientConfig, Config, NumberConfig, Retargeting};
pub use crate::sandbox::world::tokens::{ACCESS_TOKEN, REFRESH_TOKEN};

/// The running sandbox. It ends with the token that it was started with.
pub struct Sandbox {
    http: SocketAddr,
    grpc: SocketAddr,
    issuer: String,
    sip: SipCore,
}

/// Why the sandbox does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be set up.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A setting makes no sense.
    #[error("{0}")]
    Setting(String),
    /// A part of it could not be made.
    #[error("the sandbox cannot start: {what}")]
    Part {
        /// What could not be done.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StartError {
    /// `what` could not be done, because of `source`.
    pub(crate) fn part(
        what: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let source = source.into();
        Self::Part { what, source }
    }
}

impl Sandbox {
    /// Starts every part of it. All of it runs in `tasks` until `stop`. `seed` is of the system's
    /// random generator, because tokens and keys come from it.
    pub async fn start(
        config: &Config,
        clock: Arc<dyn Clock>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
        seed: [u8; 32],
    ) -> Result<Self, StartError> {
        if let Some(problem) = config.problem() {
            return Err(StartError::Setting(problem));
        }
        let world = World::new(config, clock, seed);
        if let Some(file) = &config.state_file {
            world.read_from(file)?;
        }
        let (listener, http) = connections::bind("sandbox.http", config.http).await?;
        let issuer = config
            .issuer
            .clone()
            .unwrap_or_else(|| format!("http://{http}"));
        let grpc = api::start(config, &world, tasks, stop).await?;
        let relay = Box::new(MediaRelay::new(&world, tasks, stop));
        let sip = sip_core::start(config, &world, Some(relay), tasks, stop).await?;
        let phones = phones::start(config, &world, &sip, tasks, stop).await?;
        let identity = identity::Identity::new(config, &issuer, &world).await?;
        let routes = pages::routes(&identity, phones, &sip, stop);
        web::serve(listener, routes, tasks, stop);
        if let Some(file) = config.state_file.clone() {
            tasks.spawn(kept::keep(world, file, stop.clone()));
        }
        Ok(Self {
            http,
            grpc,
            issuer,
            sip,
        })
    }

    /// Where its pages and the identity server are.
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Where the registration API is.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc
    }

    /// Where the SIP core listens with this transport, if it does.
    pub fn sip_addr(&self, transport: Transport) -> Option<SocketAddr> {
        self.sip.addr(transport)
    }

    /// The issuer of its ID tokens, and the address of its pages.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
}
