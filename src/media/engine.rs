//! The shell around the calls' media: worker threads, their sockets, and the way to them.

mod batch;
mod calls;
mod config;
mod handle;
mod pace;
mod ports;
mod prepare;
mod stats;
mod worker;

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use rand::Rng;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::media::demux::NoPort;
use crate::media::dtls::Certificate;
use crate::media::dtls::CertificateError;
use crate::media::dtls::Certificates;
use crate::media::engine::calls::Calls;
use crate::media::engine::calls::Command;
use crate::media::engine::calls::Open;
use crate::media::engine::handle::EVENTS_IN_FLIGHT;
use crate::media::engine::handle::WorkerHandle;
use crate::media::engine::ports::Ports;
use crate::media::engine::stats::WorkerStats;
use crate::media::engine::worker::Waker;
use crate::media::engine::worker::Worker;
use crate::media::sdp::Keying;
use crate::media::sdp::LocalIdentity;
use crate::media::sdp::MediaParams;
use crate::media::session::Identity;

pub use crate::media::engine::config::Config;
pub use crate::media::engine::config::ConfigError;
pub use crate::media::engine::handle::DigitsError;
pub use crate::media::engine::handle::Session;
pub use crate::media::engine::prepare::prepare;
pub use crate::media::engine::stats::Dropped;
pub use crate::media::engine::stats::Lateness;
pub use crate::media::engine::stats::Stats;

/// Commands that wait for a worker. More than this has never been said; what finds no room
/// waits with its call.
const COMMANDS_IN_FLIGHT: usize = 16_384;

/// With so many commands waiting, new calls are refused, so that those which are there are served.
const COMMANDS_BEFORE_REFUSAL: usize = 256;

/// The priority asked for media threads, from 19 (last) to -20 (first).
const NICENESS: i32 = -11;

/// Why media cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A port that cannot be had.
    #[error(
        "media.listen: cannot use UDP {address}; is another program there, or the address not this machine's?"
    )]
    Bind {
        /// The address in question.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No certificate for DTLS.
    #[error("cannot make a certificate for secured media")]
    Certificate(#[from] CertificateError),
    /// No thread, or nothing to wake it by.
    #[error("cannot start media worker {worker}")]
    Worker {
        /// Its number.
        worker: usize,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Why a call gets no media.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The workers have more to do than they can.
    #[error("the media workers are overloaded")]
    Overloaded,
    /// The engine has stopped.
    #[error("media have stopped")]
    Stopped,
    /// All ports that could tell this call from the others are taken.
    #[error(transparent)]
    NoPort(#[from] NoPort),
    /// An IPv6 address cannot be reached from an IPv4 port.
    #[error("{0} cannot be reached from the address family of media.listen")]
    Unreachable(SocketAddr),
}

impl OpenError {
    /// Whether it may be otherwise soon.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Overloaded | Self::NoPort(_))
    }
}

/// The media of all calls. Clones are handles to the same engine; it stops with the last.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    workers: Vec<WorkerInfo>,
    public_address: Option<IpAddr>,
    epoch: Instant,
    random: Mutex<StdRng>,
    certificates: Arc<Certificates>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct WorkerInfo {
    handle: WorkerHandle,
    stats: Arc<WorkerStats>,
    /// The address that its calls share.
    shared: SocketAddr,
}

impl Engine {
    /// Binds the ports and starts the workers. `seed` makes what is to be unpredictable: streams'
    /// numbers and names.
    pub fn start(config: &Config, seed: [u8; 32]) -> Result<Self, StartError> {
        config.check()?;
        let lifetime = Duration::from_secs(u64::from(config.certificate_days) * 86_400);
        let certificates = Certificates::new(now(), lifetime)?;
        let mut random = StdRng::from_seed(seed);
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        let bind = |index| {
            Ports::bind(config, index)
                .map_err(|(address, source)| StartError::Bind { address, source })
        };
        let ports = (0..config.worker_count())
            .map(bind)
            .collect::<Result<Vec<_>, _>>()?;
        for (index, ports) in ports.into_iter().enumerate() {
            let failed = |source| StartError::Worker {
                worker: index,
                source,
            };
            let (info, thread) =
                start_worker(config, index, ports, random.random()).map_err(failed)?;
            workers.push(info);
            threads.push(thread);
        }
        Ok(Self(Arc::new(Shared {
            workers,
            public_address: config.public_address,
            epoch: now(),
            random: Mutex::new(random),
            certificates: Arc::new(certificates),
            threads: Mutex::new(threads),
        })))
    }

    /// The shared port of each worker.
    pub fn local_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.workers.iter().map(|worker| worker.shared)
    }

    /// Opens the media of a call.
    pub async fn open(&self, params: &MediaParams) -> Result<Session, OpenError> {
        self.open_from(params, None).await
    }

    /// Opens the media of a call whose signalling comes from `peer`. A private address in the
    /// session description of a public peer is behind a NAT, and its packets will come from
    /// elsewhere.
    pub async fn open_from(
        &self,
        params: &MediaParams,
        peer: Option<IpAddr>,
    ) -> Result<Session, OpenError> {
        let params = canonical_params(params);
        let mut error = OpenError::Overloaded;
        for worker in self.by_load() {
            match self.open_on(worker, params.clone(), peer).await {
                Ok(session) => return Ok(session),
                Err(refused @ OpenError::Unreachable(_)) => return Err(refused),
                Err(refused) => error = refused,
            }
        }
        Err(error)
    }

    /// The workers, the one with the fewest calls first.
    fn by_load(&self) -> Vec<&WorkerInfo> {
        let mut workers: Vec<_> = self.0.workers.iter().collect();
        workers.sort_by_cached_key(|worker| worker.stats.load.load(Ordering::Relaxed));
        workers
    }

    async fn open_on(
        &self,
        worker: &WorkerInfo,
        params: MediaParams,
        peer: Option<IpAddr>,
    ) -> Result<Session, OpenError> {
        if worker.handle.waiting() >= COMMANDS_BEFORE_REFUSAL {
            return Err(OpenError::Overloaded);
        }
        let shared = worker.shared;
        let is_unreachable = |remote: &SocketAddr| remote.is_ipv6() && shared.is_ipv4();
        if let Some(remote) = params.remote.filter(is_unreachable)
            && params.ice.is_none()
        {
            return Err(OpenError::Unreachable(remote));
        }
        let needs_own_port = self.needs_own_port(shared, &params, peer);
        let (events, incoming) = mpsc::channel(EVENTS_IN_FLIGHT);
        let (reply, opened) = oneshot::channel();
        let open = Open {
            certificate: certificate_of(&self.0.certificates, &params),
            params: params.clone(),
            needs_own_port,
            identity: self.stream_identity(),
            events,
            reply,
        };
        worker.stats.load.fetch_add(1, Ordering::Relaxed);
        if worker
            .handle
            .try_send(Command::Open(Box::new(open)))
            .is_err()
        {
            worker.stats.load.fetch_sub(1, Ordering::Relaxed);
            return Err(OpenError::Overloaded);
        }
        let (id, address) = opened.await.map_err(|_| OpenError::Stopped)??;
        let local = SocketAddr::new(
            self.named_address(address.ip(), &params, peer),
            address.port(),
        );
        Ok(Session::new(
            worker.handle.clone(),
            id,
            local,
            params,
            self.0.certificates.clone(),
            incoming,
        ))
    }

    /// Whether packets of this call could not be told from those of others on the shared port: they
    /// will come from elsewhere than it tells, or from that very port, since the peer is a call of
    /// this engine too.
    fn needs_own_port(
        &self,
        shared: SocketAddr,
        params: &MediaParams,
        peer: Option<IpAddr>,
    ) -> bool {
        let named = self.named_address(shared.ip(), params, peer);
        let is_ours = |address: SocketAddr| address == SocketAddr::new(named, shared.port());
        if let Some(ice) = &params.ice {
            let mut candidates = ice.remote_candidates.iter();
            return candidates.any(|candidate| is_ours(candidate.address));
        }
        let outside = peer.unwrap_or(self.0.public_address.unwrap_or(shared.ip()));
        params
            .remote
            .is_some_and(|remote| is_ours(remote) || is_behind_nat(remote.ip(), outside))
    }

    /// New secrets for a call.
    pub fn identity(&self) -> LocalIdentity {
        let mut random = self.0.random.lock().unwrap_or_else(PoisonError::into_inner);
        let certificate = self.0.certificates.current(now());
        LocalIdentity::new(random.random(), certificate.fingerprint().clone())
    }

    fn stream_identity(&self) -> Identity {
        let mut random = self.0.random.lock().unwrap_or_else(PoisonError::into_inner);
        Identity {
            ssrc: random.next_u32(),
            // RFC 3711 section 3.3.1: in the lower half, so that the first rollover is seen.
            sequence: random.random::<u16>() >> 1,
            timestamp: random.next_u32(),
            // RFC 7022 section 4.2: 96 bits of chance, new for each call.
            cname: format!("{:016x}{:08x}", random.next_u64(), random.next_u32()),
            seed: random.next_u32(),
            epoch: self.0.epoch,
        }
    }

    /// The address that a session description names.
    fn named_address(&self, bound: IpAddr, params: &MediaParams, peer: Option<IpAddr>) -> IpAddr {
        if let Some(public) = self.0.public_address {
            return public;
        }
        if !bound.is_unspecified() {
            return bound;
        }
        let towards = params.remote.map(|remote| remote.ip()).or(peer);
        let loopback = match bound {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        address_towards(towards.unwrap_or(ANYWHERE)).unwrap_or(loopback)
    }

    /// What the workers have counted.
    pub fn stats(&self) -> Stats {
        Stats::sum(&self.0.workers.iter().map(|worker| worker.stats.as_ref()))
    }

    /// Stops the workers. Calls whose handle is still held are ended after two seconds.
    pub async fn shutdown(self) {
        for worker in &self.0.workers {
            if worker.handle.commands.send(Command::Stop).await.is_ok() {
                worker.handle.waker.wake();
            }
        }
        let threads = {
            let mut threads = self
                .0
                .threads
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *threads)
        };
        let joined = tokio::task::spawn_blocking(move || {
            // A worker that panicked has been told of by the panic hook.
            threads.into_iter().for_each(|thread| drop(thread.join()));
        });
        joined.await.ok();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for worker in &self.workers {
            // Its queue is closed with this; the worker has to notice.
            worker.handle.waker.wake();
        }
    }
}

fn start_worker(
    config: &Config,
    index: usize,
    ports: Ports,
    seed: [u8; 32],
) -> io::Result<(WorkerInfo, JoinHandle<()>)> {
    let shared = ports.address(0);
    let stats = Arc::new(WorkerStats::default());
    let waker = Arc::new(Waker::new()?);
    let (commands, incoming) = mpsc::channel(COMMANDS_IN_FLIGHT);
    let calls = Calls::new(
        config.settings(),
        config.spare_ports_of(index).1,
        stats.clone(),
        shared.is_ipv4(),
        StdRng::from_seed(seed),
    );
    let worker = Worker::new(ports, incoming, waker.clone(), calls, stats.clone())?;
    let thread = std::thread::Builder::new()
        .name(format!("media-{index}"))
        .spawn(move || {
            // Voices before everything else, where the system allows it.
            rustix::process::setpriority_process(None, NICENESS).ok();
            worker.run();
        })?;
    let handle = WorkerHandle { commands, waker };
    Ok((
        WorkerInfo {
            handle,
            stats,
            shared,
        },
        thread,
    ))
}

/// The certificate that our description tells the fingerprint of. It is there as long as anybody
/// may know it.
fn certificate_of(certificates: &Certificates, params: &MediaParams) -> Option<Arc<Certificate>> {
    match &params.keying {
        Keying::Dtls { local, .. } => certificates.by_fingerprint(local),
        Keying::Plain | Keying::Awaited | Keying::Sdes { .. } => None,
    }
}

/// An address of the documentation, which stands for the rest of the world (RFC 5737).
const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Which of this machine's addresses packets to `peer` bear. Nothing is sent for this.
fn address_towards(peer: IpAddr) -> Option<IpAddr> {
    let any = match peer {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((peer, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether packets from `told` will bear another address: a private one, seen from outside, or from
/// this machine itself.
fn is_behind_nat(told: IpAddr, outside: IpAddr) -> bool {
    let is_elsewhere = !is_private(outside) || outside.is_loopback() != told.is_loopback();
    is_private(told) && is_elsewhere
}

/// Addresses that mean something else, or nothing, elsewhere (RFC 1918, 6598, 3927, 4193).
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xC0 == 64;
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || shared
        }
        IpAddr::V6(ip) => {
            ip.is_unique_local()
                || ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_unspecified()
        }
    }
}

/// Addresses as the sockets give them: IPv4 as such, even on a socket for both families.
fn canonical_params(params: &MediaParams) -> MediaParams {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    MediaParams {
        remote: params.remote.map(canonical),
        remote_rtcp: params.remote_rtcp.map(canonical),
        ..params.clone()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the engine is the shell that gives time to its calls"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
