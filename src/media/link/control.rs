//! Answers and handshakes on their way out: not media, few, and up to a datagram long.

use std::net::SocketAddr;

/// The longest datagram: it passes wherever IPv6 does.
pub const MAX_CONTROL: usize = 1_200;
/// So many wait at most. Whatever finds no room is repeated by its protocol.
const CAPACITY: usize = 64;

/// One datagram to send.
#[derive(Debug, Clone, Copy)]
pub struct ControlPacket {
    /// Where to.
    pub to: SocketAddr,
    /// Which of the worker's sockets it leaves by.
    pub socket: u16,
    len: u16,
    bytes: [u8; MAX_CONTROL],
}

impl ControlPacket {
    /// The datagram.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// What is to be sent beside media.
#[derive(Debug)]
pub struct Control {
    packets: Vec<ControlPacket>,
    socket: u16,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            packets: Vec::with_capacity(CAPACITY),
            socket: 0,
        }
    }
}

impl Control {
    /// The socket for what follows.
    pub fn select_socket(&mut self, socket: u16) {
        self.socket = socket;
    }

    /// Adds the datagram that `write` puts into a buffer of [`MAX_CONTROL`] bytes, if it tells a
    /// length and there is room.
    pub fn push_with(&mut self, to: SocketAddr, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        let mut bytes = [0; MAX_CONTROL];
        if let Some(len) = write(&mut bytes)
            && self.packets.len() < CAPACITY
        {
            let (socket, len) = (self.socket, len.min(MAX_CONTROL) as u16);
            self.packets.push(ControlPacket {
                to,
                socket,
                len,
                bytes,
            });
        }
    }

    /// Adds a datagram that is there already.
    pub fn push(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.push_with(to, |buffer| {
            buffer.get_mut(..datagram.len())?.copy_from_slice(datagram);
            Some(datagram.len())
        });
    }

    /// The datagrams, in order.
    pub fn packets(&self) -> &[ControlPacket] {
        &self.packets
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.packets.clear();
    }
}
