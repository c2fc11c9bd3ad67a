//! The UDP sockets of the driver.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::task::Poll;

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tracing::debug;

use crate::sip::endpoint::{Flow, Transport};
use crate::telemetry;

/// Socket buffers asked for: some 3,000 messages each. The system grants what its limits permit.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Datagrams read from one socket in one turn, after which the other inputs have theirs.
const DATAGRAMS_PER_TURN: usize = 64;

/// The largest UDP payload.
const DATAGRAM_BYTES: usize = 65_535;

/// Peers whose local address is remembered; a socket bound to all addresses must ask the system for each.
const ROUTES_KEPT: usize = 1024;

/// All UDP sockets, with what reading them takes.
pub(crate) struct UdpSockets {
    sockets: Vec<Bound>,
    /// Which socket is looked at first, so that none starves another.
    first: usize,
    buffer: Box<[u8]>,
    routes: HashMap<IpAddr, IpAddr>,
}

struct Bound {
    socket: UdpSocket,
    addr: SocketAddr,
}

impl UdpSockets {
    /// None bound yet.
    pub(crate) fn new() -> Self {
        Self {
            sockets: Vec::new(),
            first: 0,
            buffer: vec![0; DATAGRAM_BYTES].into_boxed_slice(),
            routes: HashMap::new(),
        }
    }

    /// Binds one more socket and returns its address.
    pub(crate) fn bind(&mut self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            // An IPv4 peer must not appear as a mapped address, which no list of peers would match.
            socket.set_only_v6(true)?;
        }
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        let addr = socket.local_addr()?;
        self.sockets.push(Bound { socket, addr });
        Ok(addr)
    }

    /// Whether datagrams can be sent to `remote`.
    pub(crate) fn reaches(&self, remote: SocketAddr) -> bool {
        self.sockets
            .iter()
            .any(|bound| bound.addr.is_ipv4() == remote.is_ipv4())
    }

    /// Waits until a socket has something to read and names it. Cancel-safe.
    pub(crate) async fn readable(&mut self) -> usize {
        poll_fn(|context| {
            let count = self.sockets.len();
            for offset in 0..count {
                let index = (self.first + offset) % count;
                let Some(bound) = self.sockets.get(index) else {
                    continue;
                };
                // An error is met again, and dealt with, by reading.
                if bound.socket.poll_recv_ready(context).is_ready() {
                    self.first = index + 1;
                    return Poll::Ready(index);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Reads what a socket has, up to a bound, and hands each datagram to `take`.
    pub(crate) fn read(&mut self, index: usize, mut take: impl FnMut(Flow, Bytes)) {
        for _ in 0..DATAGRAMS_PER_TURN {
            let Some(bound) = self.sockets.get(index) else {
                return;
            };
            let (length, remote) = match bound.socket.try_recv_from(&mut self.buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What an ICMP message reports of an earlier datagram; timers deal with its loss.
                Err(error) => {
                    debug!(%error, "A UDP socket reported an error");
                    continue;
                }
            };
            let local = SocketAddr::new(self.local_ip(index, remote), self.port(index));
            let datagram = self.buffer.get(..length).unwrap_or_default();
            let flow = Flow {
                transport: Transport::Udp,
                local,
                remote,
                connection: 0,
            };
            take(flow, Bytes::copy_from_slice(datagram));
        }
    }

    /// Sends a datagram from the socket that the flow names. What cannot be sent is lost, as on the way.
    pub(crate) fn send(&self, flow: &Flow, datagram: &[u8]) {
        let Some(bound) = self.socket_of(flow) else {
            metrics::counter!(telemetry::SIP_UNSENT).increment(1);
            debug!(remote = %flow.remote, "No UDP socket reaches this peer");
            return;
        };
        if let Err(error) = bound.socket.try_send_to(datagram, flow.remote) {
            metrics::counter!(telemetry::SIP_UNSENT).increment(1);
            debug!(%error, remote = %flow.remote, "A datagram could not be sent");
        }
    }

    /// The socket bound to the flow's own address; else the one on its port, bound to all addresses.
    fn socket_of(&self, flow: &Flow) -> Option<&Bound> {
        let same_family = |bound: &&Bound| bound.addr.is_ipv4() == flow.remote.is_ipv4();
        let family = || self.sockets.iter().filter(same_family);
        family()
            .find(|bound| bound.addr == flow.local)
            .or_else(|| family().find(|bound| bound.addr.port() == flow.local.port()))
            .or_else(|| family().next())
    }

    fn port(&self, index: usize) -> u16 {
        self.sockets.get(index).map_or(0, |bound| bound.addr.port())
    }

    /// The address that `remote` knows us by: the bound one, or the one that the system routes by.
    fn local_ip(&mut self, index: usize, remote: SocketAddr) -> IpAddr {
        let bound = self
            .sockets
            .get(index)
            .map_or(remote.ip(), |bound| bound.addr.ip());
        if !bound.is_unspecified() {
            return bound;
        }
        if let Some(known) = self.routes.get(&remote.ip()) {
            return *known;
        }
        let local = route_to(remote).unwrap_or(bound);
        if self.routes.len() >= ROUTES_KEPT {
            self.routes.clear();
        }
        self.routes.insert(remote.ip(), local);
        local
    }
}

/// The local address that the system would send from to reach `remote`. Sends nothing.
pub(crate) fn route_to(remote: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect(remote)?;
    Ok(socket.local_addr()?.ip())
}

/// What to tell peers instead of an address that means "all": the one that the default route begins at.
pub(crate) fn concrete(addr: SocketAddr) -> SocketAddr {
    if !addr.ip().is_unspecified() {
        return addr;
    }
    // Addresses for documentation (RFC 5737, RFC 3849): routed like any other, and nothing is sent there.
    let far: SocketAddr = match addr {
        SocketAddr::V4(_) => (Ipv4Addr::new(192, 0, 2, 1), 9).into(),
        SocketAddr::V6(_) => (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
    };
    SocketAddr::new(route_to(far).unwrap_or(addr.ip()), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_bound_to_all_addresses_tells_the_one_it_was_reached_by() {
        let mut sockets = UdpSockets::new();
        let bound = sockets.bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        peer.send_to(b"ping", ("127.0.0.1", bound.port()))
            .await
            .unwrap();

        let index = sockets.readable().await;
        let mut received = Vec::new();
        sockets.read(index, |flow, bytes| received.push((flow, bytes)));
        let (flow, bytes) = received.pop().unwrap();
        assert_eq!(flow.local, SocketAddr::from(([127, 0, 0, 1], bound.port())));
        assert_eq!(flow.remote, peer.local_addr().unwrap());
        assert_eq!(&bytes[..], b"ping");

        sockets.send(&flow, b"pong");
        let mut buffer = [0; 16];
        let (length, from) = peer.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..length], from), (&b"pong"[..], flow.local));
    }

    #[tokio::test]
    async fn one_turn_reads_no_more_than_its_share_and_the_next_socket_has_its_turn() {
        let mut sockets = UdpSockets::new();
        let first = sockets.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let second = sockets.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for _ in 0..DATAGRAMS_PER_TURN + 10 {
            peer.send_to(b"x", first).await.unwrap();
        }
        peer.send_to(b"y", second).await.unwrap();

        let mut turns = Vec::new();
        for _ in 0..3 {
            let index = sockets.readable().await;
            let mut count = 0;
            sockets.read(index, |_, _| count += 1);
            turns.push((index, count));
        }
        assert_eq!(turns, [(0, DATAGRAMS_PER_TURN), (1, 1), (0, 10)]);
    }
}
