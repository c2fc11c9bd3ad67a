//! Locating SIP servers (RFC 3263): NAPTR, SRV and address records.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolverConfig;
#[cfg(any(test, feature = "sandbox"))]
use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::proto::rr::rdata::{NAPTR, SRV};
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::Mutex;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::sip::endpoint::{Hop, Target, Transport};

/// How long the records of one target may take to be found, all steps together.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(8);

/// Hops handed on. A request lives for 32 s, so that more could not be tried anyway.
const HOPS: usize = 16;

/// Looks targets up. The system's settings are read at the first lookup, so that a machine without them can start.
pub(crate) struct Resolver {
    dns: OnceCell<TokioResolver>,
    rng: Mutex<StdRng>,
}

impl Resolver {
    /// Takes chance, for weighted choices, from `seed`.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self {
            dns: OnceCell::new(),
            rng: Mutex::new(StdRng::from_seed(seed)),
        }
    }

    /// Asks these name servers over UDP, and no others.
    #[cfg(any(test, feature = "sandbox"))]
    pub(crate) fn asking(name_servers: &[SocketAddr], seed: [u8; 32]) -> Self {
        let name_servers = name_servers.iter().map(|addr| {
            let mut connection = ConnectionConfig::udp();
            connection.port = addr.port();
            NameServerConfig::new(addr.ip(), true, vec![connection])
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), name_servers.collect());
        let provider = TokioRuntimeProvider::default();
        let built = TokioResolver::builder_with_config(config, provider).build();
        Self {
            dns: OnceCell::new_with(built.ok()),
            ..Self::new(seed)
        }
    }

    /// The hops of a target, best first; none where it cannot be found in time.
    pub(crate) async fn resolve(&self, target: &Target) -> Vec<Hop> {
        if let Some(ip) = ip_literal(&target.host) {
            let transport = target.transport.unwrap_or(default_transport(target.secure));
            let port = target.port.unwrap_or(transport.default_port());
            return vec![Hop {
                transport,
                remote: SocketAddr::new(ip, port),
            }];
        }
        match timeout(LOOKUP_DEADLINE, self.look_up(target)).await {
            Ok(mut hops) => {
                hops.truncate(HOPS);
                if hops.is_empty() {
                    warn!(host = target.host, "A SIP server has no address");
                }
                hops
            }
            Err(_) => {
                warn!(
                    host = target.host,
                    "A SIP server's address was not found in time"
                );
                Vec::new()
            }
        }
    }

    /// RFC 3263 sections 4.1 and 4.2.
    async fn look_up(&self, target: &Target) -> Vec<Hop> {
        if let Some(port) = target.port {
            let transport = target.transport.unwrap_or(default_transport(target.secure));
            return self.addresses(&target.host, transport, port).await;
        }
        for (transport, name) in self.services(target).await {
            let hops = self.service(&name, transport).await;
            if !hops.is_empty() {
                return hops;
            }
        }
        let transport = target.transport.unwrap_or(default_transport(target.secure));
        self.addresses(&target.host, transport, transport.default_port())
            .await
    }

    /// The names to ask for SRV records, best first: by NAPTR, else by the transports that we have.
    async fn services(&self, target: &Target) -> Vec<(Transport, String)> {
        if let Some(transport) = target.transport {
            let name = service_name(transport, target);
            return name.map(|name| (transport, name)).into_iter().collect();
        }
        let naptr = self.records(&target.host, RecordType::NAPTR, |data| match data {
            RData::NAPTR(naptr) => Some(naptr.clone()),
            _ => None,
        });
        let by_naptr = services_of(naptr.await, target.secure);
        if !by_naptr.is_empty() {
            return by_naptr;
        }
        let transports: &[Transport] = if target.secure {
            &[Transport::Tls]
        } else {
            &[Transport::Udp, Transport::Tcp]
        };
        transports
            .iter()
            .filter_map(|transport| Some((*transport, service_name(*transport, target)?)))
            .collect()
    }

    async fn service(&self, name: &str, transport: Transport) -> Vec<Hop> {
        let records = self.records(name, RecordType::SRV, |data| match data {
            RData::SRV(srv) => Some(srv.clone()),
            _ => None,
        });
        let records = records.await;
        let ordered = in_order_of_choice(records, &mut *self.rng.lock().await);
        let mut hops = Vec::new();
        for srv in ordered {
            // RFC 2782: the root as target says that there is decidedly no such service.
            if srv.target.is_root() || hops.len() >= HOPS {
                continue;
            }
            hops.extend(
                self.addresses(&srv.target.to_ascii(), transport, srv.port)
                    .await,
            );
        }
        hops
    }

    async fn addresses(&self, host: &str, transport: Transport, port: u16) -> Vec<Hop> {
        let lookup = match self.dns().await {
            Ok(dns) => dns.lookup_ip(host).await,
            Err(error) => Err(error),
        };
        let addresses: Vec<IpAddr> = match lookup {
            Ok(found) => found.iter().collect(),
            Err(error) => {
                debug!(host, %error, "A name has no address");
                Vec::new()
            }
        };
        addresses
            .into_iter()
            .map(|ip| Hop {
                transport,
                remote: SocketAddr::new(ip, port),
            })
            .collect()
    }

    /// The records of a name; none also where the lookup fails, since the next step may still succeed.
    async fn records<T>(
        &self,
        name: &str,
        record_type: RecordType,
        pick: impl Fn(&RData) -> Option<T>,
    ) -> Vec<T> {
        let Ok(dns) = self.dns().await else {
            return Vec::new();
        };
        // A name of the DNS is whole: the search list of the system is for names of hosts.
        let whole = format!("{}.", name.trim_end_matches('.'));
        match dns.lookup(whole, record_type).await {
            Ok(found) => found
                .answers()
                .iter()
                .filter_map(|record| pick(&record.data))
                .collect(),
            Err(error) => {
                debug!(name, %record_type, %error, "A name has no such record");
                Vec::new()
            }
        }
    }

    async fn dns(&self) -> Result<&TokioResolver, NetError> {
        self.dns.get_or_try_init(async || system_resolver()).await
    }
}

/// A resolver by the system's settings; by its hosts file alone where it has none.
fn system_resolver() -> Result<TokioResolver, NetError> {
    match TokioResolver::builder_tokio() {
        Ok(builder) => builder.build(),
        Err(error) => {
            warn!(%error, "The system names no DNS server, only its hosts file is used");
            let config = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
            let provider = TokioRuntimeProvider::default();
            TokioResolver::builder_with_config(config, provider).build()
        }
    }
}

fn ip_literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

fn default_transport(secure: bool) -> Transport {
    if secure {
        Transport::Tls
    } else {
        Transport::Udp
    }
}

/// The name of the SRV records; WebSocket has none but by NAPTR (RFC 7118 section 5.3).
fn service_name(transport: Transport, target: &Target) -> Option<String> {
    let service = match transport {
        Transport::Udp => "_sip._udp",
        Transport::Tcp => "_sip._tcp",
        Transport::Tls => "_sips._tcp",
        Transport::Ws | Transport::Wss => return None,
    };
    Some(format!("{service}.{}", target.host))
}

/// The services that NAPTR records name and we have, in their order (RFC 3263 section 4.1).
fn services_of(mut records: Vec<NAPTR>, secure: bool) -> Vec<(Transport, String)> {
    records.sort_by_key(|naptr| (naptr.order, naptr.preference));
    let service = |naptr: NAPTR| {
        let transport = match naptr.services.to_ascii_uppercase().as_slice() {
            b"SIPS+D2T" => Transport::Tls,
            b"SIP+D2T" if !secure => Transport::Tcp,
            b"SIP+D2U" if !secure => Transport::Udp,
            _ => return None,
        };
        let points_to_srv = naptr.flags.eq_ignore_ascii_case(b"s");
        points_to_srv.then(|| (transport, naptr.replacement.to_ascii()))
    };
    records.into_iter().filter_map(service).collect()
}

/// Puts SRV records in the order in which they are to be tried (RFC 2782).
fn in_order_of_choice(mut records: Vec<SRV>, rng: &mut StdRng) -> Vec<SRV> {
    // Those without weight come first within their priority, so that the draw can reach them.
    records.sort_by_key(|srv| (srv.priority, srv.weight != 0));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(priority) = records.first().map(|srv| srv.priority) {
        let peers = records.iter().take_while(|srv| srv.priority == priority);
        let total: u32 = peers.map(|srv| u32::from(srv.weight)).sum();
        let drawn = rng.random_range(0..=total);
        let mut sum = 0;
        let reaches = |srv: &SRV| {
            sum += u32::from(srv.weight);
            sum >= drawn
        };
        let chosen = records
            .iter()
            .position(reaches)
            .expect("the draw is within the sum of the weights");
        ordered.push(records.remove(chosen));
    }
    ordered
}

#[cfg(test)]
mod tests;
