//! Packets on their way out, in buffers that are there already.

use std::net::SocketAddr;

/// The longest packet that is sent: a header and 20 ms of G.711, and any report is shorter.
pub const MAX_PACKET: usize = 176;

/// One packet to send.
#[derive(Debug, Clone, Copy)]
pub struct OutPacket {
    /// Where to.
    pub to: SocketAddr,
    /// Which of the worker's sockets it leaves by.
    pub socket: u16,
    len: u16,
    bytes: [u8; MAX_PACKET],
}

impl OutPacket {
    /// The packet.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The packets of one pacing slot, sent together.
#[derive(Debug)]
pub struct Outbox {
    packets: Vec<OutPacket>,
    capacity: usize,
    socket: u16,
}

impl Outbox {
    /// An empty outbox. More than `capacity` packets are not taken.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            packets: Vec::with_capacity(capacity),
            capacity,
            socket: 0,
        }
    }

    /// The socket for the packets that follow.
    pub fn select_socket(&mut self, socket: u16) {
        self.socket = socket;
    }

    /// Adds a packet made of two parts. It is left out if it is too long or there is no room.
    pub fn push(&mut self, to: SocketAddr, head: &[u8], body: &[u8]) {
        let len = head.len() + body.len();
        if len > MAX_PACKET || self.packets.len() == self.capacity {
            return;
        }
        let mut packet = OutPacket {
            to,
            socket: self.socket,
            len: len as u16,
            bytes: [0; MAX_PACKET],
        };
        packet.bytes[..head.len()].copy_from_slice(head);
        packet.bytes[head.len()..len].copy_from_slice(body);
        self.packets.push(packet);
    }

    /// How many packets it still takes.
    pub fn room(&self) -> usize {
        self.capacity - self.packets.len()
    }

    /// The packets, in order.
    pub fn packets(&self) -> &[OutPacket] {
        &self.packets
    }

    /// Forgets the packets.
    pub fn clear(&mut self) {
        self.packets.clear();
    }
}
