//! Many datagrams in one system call: recvmmsg and sendmmsg. The only unsafe code of media.

use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::SocketAddrV4;
use std::net::SocketAddrV6;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::ptr;

use libc::c_int;
use libc::iovec;
use libc::mmsghdr;
use libc::sockaddr_in;
use libc::sockaddr_in6;
use libc::sockaddr_storage;
use libc::socklen_t;

use crate::media::link::ControlPacket;
use crate::media::session::OutPacket;

/// Datagrams received by one call.
pub(super) const RECEIVE_BATCH: usize = 64;
/// Datagrams sent by one call.
pub(super) const SEND_BATCH: usize = 256;
/// Room for one datagram; an Ethernet frame is shorter, and longer ones are no voice.
const DATAGRAM: usize = 1_536;

/// What can be sent.
pub(super) trait Outgoing {
    /// Where to.
    fn to(&self) -> SocketAddr;
    /// By which of the worker's sockets.
    fn socket(&self) -> u16;
    fn bytes(&self) -> &[u8];
}

impl Outgoing for OutPacket {
    fn to(&self) -> SocketAddr {
        self.to
    }

    fn socket(&self) -> u16 {
        self.socket
    }

    fn bytes(&self) -> &[u8] {
        self.bytes()
    }
}

impl Outgoing for ControlPacket {
    fn to(&self) -> SocketAddr {
        self.to
    }

    fn socket(&self) -> u16 {
        self.socket
    }

    fn bytes(&self) -> &[u8] {
        self.bytes()
    }
}

/// Buffers for received datagrams.
pub(super) struct Receiver {
    buffers: Box<[[u8; DATAGRAM]]>,
    addresses: Box<[sockaddr_storage]>,
    vectors: Box<[iovec]>,
    headers: Box<[mmsghdr]>,
}

/// Buffers for what a batch of datagrams needs to be sent.
pub(super) struct Sender {
    addresses: Box<[sockaddr_storage]>,
    vectors: Box<[iovec]>,
    headers: Box<[mmsghdr]>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sent {
    /// Datagrams that the system took.
    pub(super) sent: usize,
    /// Datagrams that it refused.
    pub(super) failed: usize,
}

const NO_VECTOR: iovec = iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            buffers: vec![[0; DATAGRAM]; RECEIVE_BATCH].into(),
            addresses: zeroed_slice(RECEIVE_BATCH),
            vectors: vec![NO_VECTOR; RECEIVE_BATCH].into(),
            headers: zeroed_slice(RECEIVE_BATCH),
        }
    }

    /// Receives what waits in the socket, up to a batch, without waiting. Tells how many came.
    #[expect(unsafe_code, reason = "recvmmsg has no safe wrapper")]
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let slots = self.buffers.iter_mut().zip(self.addresses.iter_mut());
        let parts = self.vectors.iter_mut().zip(self.headers.iter_mut());
        for ((buffer, address), (vector, header)) in slots.zip(parts) {
            vector.iov_base = buffer.as_mut_ptr().cast();
            vector.iov_len = DATAGRAM;
            header.msg_len = 0;
            header.msg_hdr.msg_name = ptr::from_mut(address).cast();
            header.msg_hdr.msg_namelen = size_of::<sockaddr_storage>() as socklen_t;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_flags = 0;
        }
        // SAFETY: every header points to one vector and one address of these boxed slices, and
        // every vector to a whole buffer; all of them live, exclusively borrowed, until the call
        // returns, and the count is the length of all slices.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                RECEIVE_BATCH as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// As if these had been received, for tests.
    #[cfg(test)]
    pub(super) fn holding(datagrams: &[(SocketAddr, &[u8])]) -> Self {
        let mut receiver = Self::new();
        for (index, (from, bytes)) in datagrams.iter().enumerate() {
            write_address(*from, false, &mut receiver.addresses[index]);
            receiver.buffers[index][..bytes.len()].copy_from_slice(bytes);
            receiver.headers[index].msg_len = bytes.len() as u32;
        }
        receiver
    }

    /// Datagram `index` of the last batch, and where it came from. `None` if it was longer than
    /// the buffer or its address is of no kind known here.
    pub(super) fn datagram(&mut self, index: usize) -> Option<(SocketAddr, &mut [u8])> {
        let header = self.headers.get(index)?;
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let buffer = self.buffers.get_mut(index)?;
        let bytes = buffer.get_mut(..header.msg_len as usize)?;
        Some((read_address(self.addresses.get(index)?)?, bytes))
    }

    /// What datagram `index` holds, as far as there was room for it.
    pub(super) fn bytes(&self, index: usize) -> &[u8] {
        let bytes = self.buffers.get(index).zip(self.headers.get(index));
        let bytes = bytes.and_then(|(buffer, header)| buffer.get(..header.msg_len as usize));
        bytes.unwrap_or_default()
    }
}

impl Sender {
    pub(super) fn new() -> Self {
        Self {
            addresses: zeroed_slice(SEND_BATCH),
            vectors: vec![NO_VECTOR; SEND_BATCH].into(),
            headers: zeroed_slice(SEND_BATCH),
        }
    }

    /// Sends packets by one socket. A packet that the system refuses is left out.
    pub(super) fn send<P: Outgoing>(
        &mut self,
        socket: &UdpSocket,
        v6: bool,
        packets: &[P],
    ) -> Sent {
        let mut total = Sent::default();
        for batch in packets.chunks(SEND_BATCH) {
            self.fill(v6, batch);
            let mut next = 0;
            while next < batch.len() {
                match self.send_from(socket, next, batch.len()) {
                    Ok(sent) => {
                        total.sent += sent;
                        next += sent.max(1);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        total.failed += batch.len() - next;
                        next = batch.len();
                    }
                    Err(_) => {
                        total.failed += 1;
                        next += 1;
                    }
                }
            }
        }
        total
    }

    fn fill<P: Outgoing>(&mut self, v6: bool, packets: &[P]) {
        let slots = self.addresses.iter_mut().zip(self.vectors.iter_mut());
        for ((packet, header), (address, vector)) in
            packets.iter().zip(self.headers.iter_mut()).zip(slots)
        {
            let bytes = packet.bytes();
            vector.iov_base = bytes.as_ptr().cast_mut().cast();
            vector.iov_len = bytes.len();
            header.msg_hdr.msg_namelen = write_address(packet.to(), v6, address);
            header.msg_hdr.msg_name = ptr::from_mut(address).cast();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
    }

    #[expect(
        unsafe_code,
        reason = "sendmmsg on preallocated headers has no safe wrapper"
    )]
    fn send_from(&mut self, socket: &UdpSocket, from: usize, to: usize) -> io::Result<usize> {
        let headers = &mut self.headers[from..to];
        // SAFETY: `fill` has pointed these headers to vectors and addresses of the boxed slices,
        // and the vectors to packets that `send` borrows until this returns. The system only
        // reads the packets.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as u32,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Plain C structures, all zero.
#[expect(unsafe_code, reason = "the structures of libc have no constructor")]
fn zeroed_slice<T: Zeroable>(len: usize) -> Box<[T]> {
    (0..len)
        // SAFETY: `Zeroable` says that all zero is a valid value.
        .map(|_| unsafe { MaybeUninit::<T>::zeroed().assume_init() })
        .collect()
}

/// C structures of integers and pointers, for which all zero is a value.
trait Zeroable {}
impl Zeroable for sockaddr_storage {}
impl Zeroable for mmsghdr {}

#[expect(unsafe_code, reason = "a socket address is read by its family")]
fn read_address(storage: &sockaddr_storage) -> Option<SocketAddr> {
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which structure it is, and the storage is large enough and
            // aligned for all of them.
            let address = unsafe { &*ptr::from_ref(storage).cast::<sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { &*ptr::from_ref(storage).cast::<sockaddr_in6>() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            let port = u16::from_be(address.sin6_port);
            Some(match ip.to_ipv4_mapped() {
                Some(ip) => SocketAddrV4::new(ip, port).into(),
                None => SocketAddrV6::new(ip, port, 0, address.sin6_scope_id).into(),
            })
        }
        _ => None,
    }
}

/// Writes an address as a socket of the family wants it, and tells its length.
#[expect(unsafe_code, reason = "a socket address is written by its family")]
fn write_address(address: SocketAddr, v6: bool, storage: &mut sockaddr_storage) -> socklen_t {
    match address {
        SocketAddr::V4(address) if !v6 => {
            // SAFETY: the storage is large enough and aligned for all families.
            let out = unsafe { &mut *ptr::from_mut(storage).cast::<sockaddr_in>() };
            out.sin_family = libc::AF_INET as libc::sa_family_t;
            out.sin_port = address.port().to_be();
            out.sin_addr.s_addr = u32::from(*address.ip()).to_be();
            size_of::<sockaddr_in>() as socklen_t
        }
        _ => {
            let (ip, scope) = match address {
                SocketAddr::V4(address) => (address.ip().to_ipv6_mapped(), 0),
                SocketAddr::V6(address) => (*address.ip(), address.scope_id()),
            };
            // SAFETY: as above.
            let out = unsafe { &mut *ptr::from_mut(storage).cast::<sockaddr_in6>() };
            out.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            out.sin6_port = address.port().to_be();
            out.sin6_flowinfo = 0;
            out.sin6_addr.s6_addr = ip.octets();
            out.sin6_scope_id = scope;
            size_of::<sockaddr_in6>() as socklen_t
        }
    }
}

// SAFETY: the pointers within are written anew before each use, and point into the same structure
// or to what the caller borrows.
#[expect(unsafe_code, reason = "raw pointers are not Send by themselves")]
unsafe impl Send for Receiver {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "raw pointers are not Send by themselves")]
unsafe impl Send for Sender {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::media::link::Route;
    use crate::media::session::Outbox;

    fn socket(address: &str) -> UdpSocket {
        let socket = UdpSocket::bind(address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket
    }

    fn outbox_to(socket: &UdpSocket) -> Outbox {
        let mut outbox = Outbox::with_capacity(SEND_BATCH);
        outbox.aim(0, Route::to(socket.local_addr().unwrap()));
        outbox
    }

    /// Waits for the first datagram, then takes the batch.
    fn receive(receiver: &mut Receiver, socket: &UdpSocket) -> usize {
        socket.peek_from(&mut [0]).unwrap();
        receiver.receive(socket).unwrap()
    }

    #[test]
    fn a_batch_arrives_with_its_addresses() {
        let (here, there) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        let mut outbox = outbox_to(&there);
        for n in 0..40 {
            outbox.rtp(&[n; 12], &[n; 100]);
        }
        let sent = Sender::new().send(&here, false, outbox.packets());
        assert_eq!(
            sent,
            Sent {
                sent: 40,
                failed: 0
            }
        );
        let mut receiver = Receiver::new();
        let mut seen = 0;
        while seen < 40 {
            for index in 0..receive(&mut receiver, &there) {
                let (from, bytes) = receiver.datagram(index).unwrap();
                assert_eq!(from, here.local_addr().unwrap());
                assert_eq!(bytes, [seen; 112]);
                seen += 1;
            }
        }
        assert_eq!(
            receiver.receive(&there).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn a_socket_for_both_families_reaches_both() {
        let Ok(here) = UdpSocket::bind("[::]:0") else {
            return; // a machine without IPv6 has nothing to test here
        };
        let there = socket("127.0.0.1:0");
        let mut outbox = outbox_to(&there);
        outbox.rtp(b"hello", b"");
        assert_eq!(Sender::new().send(&here, true, outbox.packets()).sent, 1);
        let mut receiver = Receiver::new();
        assert_eq!(receive(&mut receiver, &there), 1);
        let (from, bytes) = receiver.datagram(0).unwrap();
        assert_eq!(bytes, b"hello");
        there.send_to(b"back", from).unwrap();
        here.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(receive(&mut receiver, &here), 1);
        assert_eq!(
            receiver.datagram(0).unwrap(),
            (there.local_addr().unwrap(), &mut b"back".to_owned()[..])
        );
    }

    #[test]
    fn a_packet_that_cannot_be_sent_does_not_hold_up_the_others() {
        let (here, there) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        let mut outbox = outbox_to(&there);
        outbox.rtp(b"one", b"");
        outbox.aim(0, Route::to("255.255.255.255:9".parse().unwrap()));
        outbox.rtp(b"no", b"");
        outbox.aim(0, Route::to(there.local_addr().unwrap()));
        outbox.rtp(b"two", b"");
        let sent = Sender::new().send(&here, false, outbox.packets());
        assert_eq!(sent, Sent { sent: 2, failed: 1 });
    }

    #[test]
    fn a_datagram_longer_than_any_voice_is_left_out() {
        let (here, there) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        here.send_to(&[0; 4_000], there.local_addr().unwrap())
            .unwrap();
        let mut receiver = Receiver::new();
        assert_eq!(receive(&mut receiver, &there), 1);
        assert!(receiver.datagram(0).is_none());
        assert!(receiver.datagram(RECEIVE_BATCH).is_none());
    }
}
