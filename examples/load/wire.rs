//! One UDP socket that speaks for thousands of callers: every address of 127.0.0.0/8 is this machine's, so each
//! call has an address of its own and all of them share a port, a socket and a system call.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;

use libc::{cmsghdr, in_pktinfo, iovec, mmsghdr, sockaddr_in, timespec};
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::Nanos;

/// Datagrams of one system call.
const BATCH: usize = 256;
/// Room for one datagram: a SIP message or an RTP packet.
const DATAGRAM: usize = 4096;
/// Room for what the system tells beside a datagram: its own address and a time stamp.
const CONTROL: usize = 96;
/// Asked of the system, each way.
const BUFFER: usize = 32 << 20;

/// Datagrams to be sent, one after the other.
#[derive(Default)]
pub struct Packets {
    bytes: Vec<u8>,
    list: Vec<Outgoing>,
}

/// A datagram among others.
struct Outgoing {
    from: Ipv4Addr,
    to: SocketAddrV4,
    begin: usize,
    len: usize,
}

impl Packets {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
    }

    /// Adds one of the parts, from an address of ours.
    pub fn push(&mut self, from: Ipv4Addr, to: SocketAddrV4, parts: [&[u8]; 2]) {
        let begin = self.bytes.len();
        parts
            .iter()
            .for_each(|part| self.bytes.extend_from_slice(part));
        let len = self.bytes.len() - begin;
        self.list.push(Outgoing {
            from,
            to,
            begin,
            len,
        });
    }

    /// Has the last one protected: `protect` gets it with `room` bytes behind it, and its length, and tells the new
    /// length.
    pub fn protect_last(
        &mut self,
        room: usize,
        protect: impl FnOnce(&mut [u8], usize) -> Option<usize>,
    ) {
        let Some(last) = self.list.last_mut() else {
            return;
        };
        self.bytes.resize(last.begin + last.len + room, 0);
        match protect(&mut self.bytes[last.begin..], last.len) {
            Some(len) => last.len = len,
            None => {
                self.list.pop();
            }
        }
    }
}

/// A datagram that came.
pub struct Incoming<'a> {
    /// The address of ours that it was sent to.
    pub to: Ipv4Addr,
    /// When the kernel had it.
    pub at: Nanos,
    pub bytes: &'a [u8],
}

/// A socket on every address of the loopback, with its buffers.
pub struct Wire {
    socket: UdpSocket,
    buffers: Box<[[u8; DATAGRAM]]>,
    controls: Box<[Control]>,
    addresses: Box<[sockaddr_in]>,
    vectors: Box<[iovec]>,
    messages: Box<[mmsghdr]>,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

impl Wire {
    /// Binds a free port. No packet from another machine is taken.
    pub fn bind() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind_device(Some(b"lo"))?;
        // What the system refuses by force it is asked for politely.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)
            .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&socket, BUFFER))?;
        socket.set_send_buffer_size(BUFFER)?;
        socket.set_nonblocking(true)?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO)?;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)?;
        let any: SocketAddr = (Ipv4Addr::UNSPECIFIED, 0).into();
        socket.bind(&any.into())?;
        Ok(Self {
            socket: socket.into(),
            buffers: vec![[0; DATAGRAM]; BATCH].into(),
            controls: vec![Control([0; CONTROL]); BATCH].into(),
            addresses: zeroed(BATCH),
            vectors: zeroed(BATCH),
            messages: zeroed(BATCH),
        })
    }

    pub fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends all of them; how many the system refused.
    pub fn send(&mut self, packets: &Packets) -> usize {
        let mut refused = 0;
        for batch in packets.list.chunks(BATCH) {
            self.fill(batch, &packets.bytes);
            let mut next = 0;
            while next < batch.len() {
                match self.send_batch(next, batch.len()) {
                    Ok(sent) => next += sent.max(1),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => {
                        refused += 1;
                        next += 1;
                    }
                }
            }
        }
        refused
    }

    fn fill(&mut self, batch: &[Outgoing], bytes: &[u8]) {
        for (index, packet) in batch.iter().enumerate() {
            let bytes = &bytes[packet.begin..packet.begin + packet.len];
            self.addresses[index] = internet_address(packet.to);
            self.vectors[index] = iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            };
            let control = &mut self.controls[index];
            let message = &mut self.messages[index].msg_hdr;
            message.msg_name = ptr::from_mut(&mut self.addresses[index]).cast();
            message.msg_namelen = mem::size_of::<sockaddr_in>() as u32;
            message.msg_iov = &raw mut self.vectors[index];
            message.msg_iovlen = 1;
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = write_source(packet.from, control);
            message.msg_flags = 0;
        }
    }

    #[expect(
        unsafe_code,
        reason = "sendmmsg with a source address has no safe wrapper"
    )]
    fn send_batch(&mut self, from: usize, to: usize) -> io::Result<usize> {
        let messages = &mut self.messages[from..to];
        // SAFETY: `fill` has pointed these headers to boxed slices of this structure and to packets that the
        // caller of `send` borrows until it returns; the system only reads them.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Takes everything that waits in the socket.
    pub fn receive(&mut self, mut take: impl FnMut(Incoming<'_>)) {
        loop {
            let received = self.receive_batch().unwrap_or(0);
            for index in 0..received {
                let header = &self.messages[index].msg_hdr;
                let length = self.messages[index].msg_len as usize;
                let (to, at) = read_control(&self.controls[index], header.msg_controllen);
                let bytes = &self.buffers[index][..length.min(DATAGRAM)];
                take(Incoming { to, at, bytes });
            }
            if received < BATCH {
                return;
            }
        }
    }

    #[expect(unsafe_code, reason = "recvmmsg has no safe wrapper")]
    fn receive_batch(&mut self) -> io::Result<usize> {
        for index in 0..BATCH {
            self.vectors[index] = iovec {
                iov_base: self.buffers[index].as_mut_ptr().cast(),
                iov_len: DATAGRAM,
            };
            let message = &mut self.messages[index].msg_hdr;
            message.msg_name = ptr::null_mut();
            message.msg_namelen = 0;
            message.msg_iov = &raw mut self.vectors[index];
            message.msg_iovlen = 1;
            message.msg_control = self.controls[index].0.as_mut_ptr().cast();
            message.msg_controllen = CONTROL;
            message.msg_flags = 0;
        }
        // SAFETY: every header points to a buffer and a control area of this structure, which is borrowed until
        // the call returns, and the count is the length of all of them.
        let received = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }
}

/// An address as the system wants it.
pub fn internet_address(to: SocketAddrV4) -> sockaddr_in {
    sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*to.ip()).to_be(),
        },
        sin_zero: [0; 8],
    }
}

#[expect(unsafe_code, reason = "an option that socket2 does not know")]
fn set_option(socket: &Socket, level: i32, option: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an integer, which lives until the call returns.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&on).cast(),
            mem::size_of_val(&on) as u32,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Writes "send from this address", and tells its length.
#[expect(unsafe_code, reason = "control messages are laid out by hand")]
fn write_source(from: Ipv4Addr, control: &mut Control) -> usize {
    let info = in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr {
            s_addr: u32::from(from).to_be(),
        },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let length = mem::size_of::<in_pktinfo>() as u32;
    // SAFETY: the area is aligned for a header, and larger than a header and this structure.
    unsafe {
        let header = control.0.as_mut_ptr().cast::<cmsghdr>();
        (*header).cmsg_level = libc::IPPROTO_IP;
        (*header).cmsg_type = libc::IP_PKTINFO;
        (*header).cmsg_len = libc::CMSG_LEN(length) as usize;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast(), info);
        libc::CMSG_SPACE(length) as usize
    }
}

/// The address that a datagram was sent to, and when the kernel had it.
#[expect(unsafe_code, reason = "control messages are laid out by hand")]
fn read_control(control: &Control, length: usize) -> (Ipv4Addr, Nanos) {
    let (mut to, mut at) = (Ipv4Addr::UNSPECIFIED, 0);
    let mut message: libc::msghdr = zeroed(1)[0];
    message.msg_control = control.0.as_ptr().cast_mut().cast();
    message.msg_controllen = length.min(CONTROL);
    // SAFETY: the header describes an area that the system has filled, and the macros of libc stay within it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: in_pktinfo = ptr::read_unaligned(data.cast());
                    to = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let stamp: timespec = ptr::read_unaligned(data.cast());
                    at = stamp.tv_sec * 1_000_000_000 + stamp.tv_nsec;
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    (to, at)
}

/// Lets this thread, and what it starts from now on, run on one core only.
#[expect(unsafe_code, reason = "sched_setaffinity has no safe wrapper here")]
pub fn run_on(core: usize) -> io::Result<()> {
    // SAFETY: a set of processors is plain bits; the call reads it.
    let set = unsafe {
        let mut cores: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(core % libc::CPU_SETSIZE as usize, &mut cores);
        libc::sched_setaffinity(0, mem::size_of_val(&cores), &raw const cores)
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// C structures of integers and pointers, for which all zero is a value.
pub trait Plain {}
impl Plain for sockaddr_in {}
impl Plain for iovec {}
impl Plain for [iovec; 2] {}
impl Plain for mmsghdr {}
impl Plain for libc::msghdr {}

#[expect(unsafe_code, reason = "the structures of libc have no constructor")]
pub fn zeroed<T: Plain>(count: usize) -> Box<[T]> {
    (0..count)
        // SAFETY: `Plain` says that all zero is a valid value.
        .map(|_| unsafe { MaybeUninit::<T>::zeroed().assume_init() })
        .collect()
}
