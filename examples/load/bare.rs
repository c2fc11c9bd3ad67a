//! The bare loop: a process that makes the same receives, sends and file appends as a media worker under the same
//! load, keeps a file and a row of each call that is over, and does nothing else. No server on this kernel can cost
//! less, and what ours costs more is its own.

use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context;
use libc::{iovec, mmsghdr, sockaddr_in};
use rustix::event::{PollFd, Timespec, poll};
use rustix::fs::Advice;
use rustix::net::sockopt::Ipv4PathMtuDiscovery;

use crate::clock::{MILLI, Nanos, now};
use crate::message::{address, call_at};
use crate::voice::FRAME;
use crate::wire::{internet_address, zeroed};

/// As in the server: datagrams of one receive and of one send, pacing slots of 2 ms, and what is written at once.
const RECEIVE_BATCH: usize = 64;
const SEND_BATCH: usize = 256;
const SLOTS: usize = 10;
const CHUNK: usize = 25 * FRAME;
const BUFFER: usize = 32 << 20;
const HEADER: usize = 12;
/// What a database writes at least for a row: a page.
const ROW: usize = 4096;

/// What is asked of the loop.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    /// Calls at the same time
    #[arg(long)]
    pub calls: u32,
    /// The port at which all callers listen
    #[arg(long)]
    pub callers_port: u16,
    /// Frames that a call is played before it is recorded
    #[arg(long)]
    pub greeting: u32,
    /// Frames of a call, after which the next begins in its place
    #[arg(long)]
    pub whole: u32,
    /// Where recordings go
    #[arg(long)]
    pub dir: PathBuf,
}

/// A call is a number, and this.
struct Call {
    to: sockaddr_in,
    /// Frames since its beginning; calls begin at different moments.
    frame: u32,
    sequence: u16,
    header: [u8; HEADER],
    file: Option<File>,
    chunk: Vec<u8>,
}

/// Runs until the other end of standard input is gone.
pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)
        .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&socket, BUFFER))?;
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, BUFFER)?;
    rustix::net::sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
    println!("media udp://{}", socket.local_addr()?);
    io::stdout().flush()?;
    let mut the_loop = Loop::new(plan, socket)?;
    std::thread::spawn(|| {
        // Nothing comes: this ends when the parent does.
        io::copy(&mut io::stdin(), &mut io::sink()).ok();
        std::process::exit(0);
    });
    loop {
        the_loop.slot()?;
    }
}

struct Loop<'a> {
    plan: &'a Plan,
    socket: UdpSocket,
    calls: Vec<Call>,
    due: Nanos,
    nth: usize,
    received: Batch,
    sending: Batch,
    buffers: Box<[[u8; 2048]]>,
    greeting: [u8; FRAME],
    /// To who keeps the files of calls that are over.
    ended: mpsc::Sender<Ended>,
}

/// A call that is over, and its file.
type Ended = (usize, File);

/// The arguments of one system call.
struct Batch {
    addresses: Box<[sockaddr_in]>,
    vectors: Box<[[iovec; 2]]>,
    messages: Box<[mmsghdr]>,
}

impl Batch {
    fn new(size: usize) -> Self {
        Self {
            addresses: zeroed(size),
            vectors: zeroed(size),
            messages: zeroed(size),
        }
    }
}

impl<'a> Loop<'a> {
    fn new(plan: &'a Plan, socket: UdpSocket) -> anyhow::Result<Self> {
        let mut calls = Vec::new();
        let (ended, to_keep) = mpsc::channel();
        let mut keeper = Keeper::new(&plan.dir)?;
        std::thread::spawn(move || keeper.run(&to_keep));
        for number in 0..plan.calls {
            let mut header = [0; HEADER];
            header[0] = 0x80;
            header[8..].copy_from_slice(&number.to_be_bytes());
            let mut call = Call {
                to: internet_address(SocketAddrV4::new(address(number), plan.callers_port)),
                frame: (u64::from(number) * u64::from(plan.whole) / u64::from(plan.calls)) as u32,
                sequence: 0,
                header,
                file: None,
                chunk: Vec::with_capacity(CHUNK),
            };
            if plan.greeting == 0 {
                call.frame = 0;
            }
            if call.frame >= plan.greeting {
                call.file = Some(create(&plan.dir, number)?);
            }
            calls.push(call);
        }
        Ok(Self {
            plan,
            socket,
            calls,
            due: now(),
            nth: 0,
            received: Batch::new(RECEIVE_BATCH),
            sending: Batch::new(SEND_BATCH),
            buffers: vec![[0; 2048]; RECEIVE_BATCH].into(),
            greeting: [0xD5; FRAME],
            ended,
        })
    }

    /// Waits for the next slot, takes what has come, and sends to the calls whose turn it is.
    fn slot(&mut self) -> anyhow::Result<()> {
        let wait = Duration::from_nanos((self.due - now()).max(0) as u64);
        let wait = Timespec::try_from(wait)?;
        poll(&mut [] as &mut [PollFd<'_>; 0], Some(&wait)).ok();
        self.due += 2 * MILLI;
        while self.receive()? == RECEIVE_BATCH {}
        let turn = self.nth % SLOTS;
        self.nth += 1;
        let mut queued = 0;
        for number in (turn..self.calls.len()).step_by(SLOTS) {
            if self.next_frame(number)? {
                self.queue(queued, number);
                queued += 1;
            }
            if queued == SEND_BATCH {
                self.send(queued);
                queued = 0;
            }
        }
        self.send(queued);
        Ok(())
    }

    /// Counts a frame of the call: whether the greeting has one for it.
    fn next_frame(&mut self, number: usize) -> anyhow::Result<bool> {
        let call = &mut self.calls[number];
        call.frame += 1;
        if call.frame == self.plan.greeting {
            call.file = Some(create(&self.plan.dir, number as u32)?);
        }
        if call.frame == self.plan.whole {
            call.frame = 0;
            if let Some(mut file) = call.file.take() {
                file.write_all(&call.chunk)?;
                self.ended.send((number, file)).ok();
            }
            call.chunk.clear();
        }
        Ok(call.frame < self.plan.greeting)
    }

    fn queue(&mut self, at: usize, number: usize) {
        let call = &mut self.calls[number];
        call.sequence = call.sequence.wrapping_add(1);
        call.header[2..4].copy_from_slice(&call.sequence.to_be_bytes());
        let timestamp = u32::from(call.sequence) * FRAME as u32;
        call.header[4..8].copy_from_slice(&timestamp.to_be_bytes());
        self.sending.vectors[at] = [
            vector(call.header.as_mut_ptr(), HEADER),
            vector(self.greeting.as_mut_ptr(), FRAME),
        ];
        let message = &mut self.sending.messages[at].msg_hdr;
        message.msg_name = ptr::from_mut(&mut call.to).cast();
        message.msg_namelen = size_of::<sockaddr_in>() as u32;
        message.msg_iov = self.sending.vectors[at].as_mut_ptr();
        message.msg_iovlen = 2;
    }

    #[expect(unsafe_code, reason = "sendmmsg has no safe wrapper")]
    fn send(&mut self, count: usize) {
        let messages = &mut self.sending.messages[..count];
        // SAFETY: `queue` has pointed these headers to the calls, which do not move, and to slices of this structure.
        // What the system refuses is lost, as on the way.
        unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                count as u32,
                libc::MSG_DONTWAIT,
            );
        }
    }

    /// Takes one batch; how many there were.
    fn receive(&mut self) -> anyhow::Result<usize> {
        let count = self.receive_batch();
        for index in 0..count {
            let length = self.received.messages[index].msg_len as usize;
            let from = Ipv4Addr::from(u32::from_be(self.received.addresses[index].sin_addr.s_addr));
            let call = call_at(from).and_then(|number| self.calls.get_mut(number as usize));
            let (Some(call), Some(payload)) = (call, self.buffers[index].get(HEADER..length))
            else {
                continue;
            };
            let Some(file) = &mut call.file else { continue };
            call.chunk.extend_from_slice(payload);
            if call.chunk.len() >= CHUNK {
                file.write_all(&call.chunk)?;
                call.chunk.clear();
            }
        }
        Ok(count)
    }

    #[expect(unsafe_code, reason = "recvmmsg has no safe wrapper")]
    fn receive_batch(&mut self) -> usize {
        for index in 0..RECEIVE_BATCH {
            self.received.vectors[index][0] = vector(self.buffers[index].as_mut_ptr(), 2048);
            let message = &mut self.received.messages[index].msg_hdr;
            message.msg_name = ptr::from_mut(&mut self.received.addresses[index]).cast();
            message.msg_namelen = size_of::<sockaddr_in>() as u32;
            message.msg_iov = self.received.vectors[index].as_mut_ptr();
            message.msg_iovlen = 1;
        }
        // SAFETY: every header points to an address and a buffer of this structure, which is borrowed until the call
        // returns, and the count is the length of all of them.
        let received = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                self.received.messages.as_mut_ptr(),
                RECEIVE_BATCH as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        usize::try_from(received).unwrap_or(0)
    }
}

/// Makes the files of calls that are over durable, and then a row for each: those of calls that end meanwhile together.
struct Keeper {
    dir: PathBuf,
    folder: File,
    rows: File,
    kept: usize,
}

impl Keeper {
    fn new(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            folder: File::open(dir)?,
            rows: File::create(dir.join("rows"))?,
            kept: 0,
        })
    }

    fn run(&mut self, ended: &mpsc::Receiver<Ended>) {
        while let Ok(first) = ended.recv() {
            if let Err(error) = self.keep(std::iter::once(first).chain(ended.try_iter())) {
                eprintln!("files cannot be kept: {error}");
                std::process::exit(1);
            }
        }
    }

    fn keep(&mut self, ended: impl Iterator<Item = Ended>) -> io::Result<()> {
        let before = self.kept;
        for (number, file) in ended {
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
            let name = self.dir.join(format!("kept-{}", self.kept));
            std::fs::rename(self.dir.join(number.to_string()), name)?;
            self.kept += 1;
        }
        self.folder.sync_all()?;
        self.rows.write_all(&vec![0; (self.kept - before) * ROW])?;
        self.rows.sync_data()
    }
}

fn vector(base: *mut u8, len: usize) -> iovec {
    iovec {
        iov_base: base.cast(),
        iov_len: len,
    }
}

fn create(dir: &Path, number: u32) -> anyhow::Result<File> {
    let path = dir.join(number.to_string());
    File::create(&path).with_context(|| format!("{} cannot be created", path.display()))
}
