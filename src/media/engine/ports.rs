//! The UDP ports of a worker: the one that its calls share, and spare ones for calls that their
//! address cannot tell apart. A spare port is bound when the first call needs it, and then kept.

use std::io;
use std::net::SocketAddr;
use std::net::UdpSocket;

use rustix::net::sockopt;
use rustix::net::sockopt::Ipv4PathMtuDiscovery;
use rustix::net::sockopt::Ipv6PathMtuDiscovery;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;

use crate::media::engine::config::Config;

/// What is asked of the system for a shared port, each way: a fifth of a second of 5,000 calls.
const SHARED_BUFFER: usize = 32 << 20;
/// So many spare ports are tried for one call, where other programs have some of them.
const TRIES: u16 = 32;

/// The ports of one worker, by number: the shared one is 0.
#[derive(Debug)]
pub(super) struct Ports {
    sockets: Vec<UdpSocket>,
    addresses: Vec<SocketAddr>,
    /// The spare port to try next, or 0 for any.
    next: u16,
    /// So many may still be tried.
    left: u16,
}

impl Ports {
    /// Binds the shared port of worker `index`; gives its address with the error where it cannot.
    pub(super) fn bind(config: &Config, index: usize) -> Result<Self, (SocketAddr, io::Error)> {
        let mut address = config.listen;
        if address.port() != 0 {
            address.set_port(address.port().saturating_add(index as u16));
        }
        let bound = bind(address, Some(SHARED_BUFFER));
        let bound = bound.and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (address, socket) = bound.map_err(|error| (address, error))?;
        let (next, left) = config.spare_ports_of(index);
        Ok(Self {
            sockets: vec![socket],
            addresses: vec![address],
            next,
            left,
        })
    }

    /// The socket that calls share.
    pub(super) fn shared(&self) -> &UdpSocket {
        &self.sockets[0]
    }

    /// All sockets bound so far, by their numbers.
    pub(super) fn sockets(&self) -> &[UdpSocket] {
        &self.sockets
    }

    /// Where a socket is bound; a number that there is not stands for the shared one.
    pub(super) fn address(&self, number: u16) -> SocketAddr {
        let address = self
            .addresses
            .get(usize::from(number))
            .or(self.addresses.first());
        *address.expect("the shared port is there from the beginning")
    }

    /// Binds one more spare port, which gets the next number. `None` when there is none left, or the
    /// system has no room for it now.
    pub(super) fn bind_spare(&mut self) -> Option<&UdpSocket> {
        for _ in 0..TRIES.min(self.left) {
            let address = SocketAddr::new(self.address(0).ip(), self.next);
            match bind(address, None).and_then(|socket| Ok((socket.local_addr()?, socket))) {
                Ok((address, socket)) => {
                    self.skip();
                    self.addresses.push(address);
                    self.sockets.push(socket);
                    return self.sockets.last();
                }
                // Another program has it.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => self.skip(),
                Err(_) => return None,
            }
        }
        None
    }

    fn skip(&mut self) {
        self.left -= 1;
        if self.next != 0 {
            self.next = self.next.saturating_add(1);
        }
    }
}

fn bind(address: SocketAddr, buffer: Option<usize>) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if let Some(size) = buffer {
        // The system gives what it is allowed to give, which may be less; more only to the privileged.
        sockopt::set_socket_recv_buffer_size_force(&socket, size)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, size))
            .ok();
        socket.set_send_buffer_size(size).ok();
    }
    mark_as_voice(&socket, address);
    send_whole(&socket, address);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Asks routers to prefer these packets: DSCP EF (RFC 3246). Where that may not be, they are sent
/// all the same.
fn mark_as_voice(socket: &Socket, address: SocketAddr) {
    const EXPEDITED_FORWARDING: u32 = 46 << 2;
    if address.is_ipv6() {
        socket.set_tclass_v6(EXPEDITED_FORWARDING).ok();
    }
    socket.set_tos_v4(EXPEDITED_FORWARDING).ok();
}

/// Packets are smaller than what every path carries, so none is ever to be sent in fragments. A system
/// that knows this need not number them for the sake of fragments, which costs as much as finding
/// their route. Where it cannot be told, they are sent all the same.
fn send_whole(socket: &Socket, address: SocketAddr) {
    if address.is_ipv6() {
        sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE).ok();
    }
    sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port_of(socket: Option<&UdpSocket>) -> Option<u16> {
        Some(socket?.local_addr().unwrap().port())
    }

    #[test]
    fn spare_ports_follow_the_workers_and_one_in_use_is_left_out() {
        // Some port with three free ones above it, and the second of these in use.
        let (mut ports, config, _taken) = (1..100)
            .find_map(|_| {
                let any = UdpSocket::bind("127.0.0.1:0")
                    .unwrap()
                    .local_addr()
                    .unwrap();
                let config = Config {
                    listen: any,
                    workers: 1,
                    spare_ports: 3,
                    ..Config::default()
                };
                let after = |n: u16| SocketAddr::new(any.ip(), any.port().saturating_add(n));
                let free = |n| UdpSocket::bind(after(n)).is_ok();
                let taken = (free(1) && free(3)).then(|| UdpSocket::bind(after(2)).ok())??;
                Some((Ports::bind(&config, 0).ok()?, config, taken))
            })
            .expect("four free ports in a row");
        let first = config.listen.port();
        assert_eq!(ports.address(0), config.listen);
        assert_eq!(port_of(ports.bind_spare()), Some(first + 1));
        assert_eq!(port_of(ports.bind_spare()), Some(first + 3));
        assert_eq!(port_of(ports.bind_spare()), None);
        assert_eq!(ports.address(2).port(), first + 3);
        assert_eq!(ports.sockets().len(), 3);
    }

    #[test]
    fn any_port_will_do_where_the_shared_one_may_be_any() {
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = Config {
            listen,
            workers: 1,
            spare_ports: 2,
            ..Config::default()
        };
        let mut ports = Ports::bind(&config, 0).unwrap();
        let spare = [ports.bind_spare().is_some(), ports.bind_spare().is_some()];
        assert_eq!(spare, [true, true]);
        assert!(ports.bind_spare().is_none());
    }
}
