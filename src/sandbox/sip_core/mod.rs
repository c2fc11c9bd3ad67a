//! The SIP core: a registrar for phones, and a proxy that routes calls by the virtual registrations.
//!
//! [`proxy`] is pure and holds all of it; [`driver`] moves its messages, as `sip::transport` does for the user agent,
//! over the same sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::sandbox::StartError;
use crate::sandbox::config::Config;
use crate::sandbox::sip_core::driver::Driver;
use crate::sandbox::sip_core::proxy::Proxy;
use crate::sandbox::sip_core::relay::Relay;
use crate::sandbox::world::World;
use crate::sip;
use crate::sip::Transport;
use crate::sip::transport::network::{self, Network};
use crate::sip::transport::resolve::Resolver;
use crate::sip::transport::tls::ServerCertificate;
use crate::sip::transport::udp;

mod directory;
mod driver;
pub(crate) mod proxy;
pub(crate) mod relay;

/// Connections of one address: on a laptop all phones have the same.
const CONNECTIONS_PER_PEER: usize = 2000;

/// The running core.
pub(crate) struct SipCore {
    addresses: Vec<(Transport, SocketAddr)>,
}

impl SipCore {
    /// Where it listens with this transport, if it does.
    pub(crate) fn addr(&self, transport: Transport) -> Option<SocketAddr> {
        let listen = self.addresses.iter().find(|(of, _)| *of == transport);
        listen.map(|(_, addr)| *addr)
    }
}

/// Serves SIP until `stop`. `relay` rewrites the session descriptions that pass.
pub(crate) async fn start(
    config: &Config,
    world: &Arc<World>,
    relay: Option<Box<dyn Relay>>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<SipCore, StartError> {
    let settings = sip_config(config);
    let certificate = certificate(config, &settings)?;
    let network = Network::open(&settings, certificate, tasks, stop)
        .map_err(|error| StartError::part("sandbox.sip cannot be served", error))?;
    let resolver = match config.resolver {
        Some(server) => Resolver::asking(&[server], world.chance.bytes()),
        None => Resolver::new(world.chance.bytes()),
    };
    let listen = network.addrs.iter();
    let listen = listen.map(|(transport, addr)| (*transport, udp::concrete(*addr)));
    let core = proxy::Config {
        listen: listen.collect(),
        limits: network::limits(&settings),
        ring_timeout: Duration::from_millis(config.ring_timeout_ms),
        retargeting: config.retargeting,
        digest: config.digest.clone(),
        ..proxy::Config::default()
    };
    let now = tokio::time::Instant::now().into_std();
    let proxy = Proxy::new(now, core, world.clone(), relay, world.chance.bytes());
    let addresses = network.addrs.clone();
    tasks.spawn(Driver::new(proxy, network, resolver, world.clone(), stop.clone()).run());
    Ok(SipCore { addresses })
}

/// The settings of the sockets. Nobody is a stranger: phones prove who they are.
fn sip_config(config: &Config) -> sip::Config {
    let everybody = ["0.0.0.0/0", "::/0"].map(|net| {
        let net: IpNet = net.parse().expect("a network written here is well-formed");
        net
    });
    sip::Config {
        listen: config.sip.clone(),
        trusted_peers: everybody.into(),
        websocket_origins: config.websocket_origins.clone(),
        tls_certificate: config.tls_certificate.clone(),
        tls_private_key: config.tls_private_key.clone(),
        tls_ca: config.tls_ca.clone(),
        max_connections_per_peer: CONNECTIONS_PER_PEER,
        ..sip::Config::default()
    }
}

/// The configured certificate; without one, a new one for this machine that nobody has signed.
fn certificate(
    config: &Config,
    settings: &sip::Config,
) -> Result<Option<Arc<ServerCertificate>>, StartError> {
    if config.tls_certificate.is_some() || config.tls_private_key.is_some() {
        let read = network::server_certificate(settings);
        return read.map_err(|error| StartError::part("sandbox.tls_certificate", error));
    }
    let failed = |error: rcgen::Error| StartError::part("no certificate can be made", error);
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).map_err(failed)?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let certificate =
        ServerCertificate::made(vec![made.cert.der().clone()], PrivateKeyDer::from(key))
            .map_err(|error| StartError::part("no certificate can be made", error))?;
    Ok(Some(certificate))
}
