//! Packets on their way out, in buffers that are there already.

use std::net::Ipv4Addr;
use std::net::SocketAddr;

use crate::media::link::Route;
use crate::media::rtp::HEADER_LEN;

/// The longest payload that is sent: 20 ms of any codec.
pub const MAX_PAYLOAD: usize = 256;

/// What protection adds at most: the tag, and with SRTCP the index (RFC 7714 sections 8 and 9).
const PROTECTION: usize = 24;

/// The longest packet that is sent; any report is shorter.
pub const MAX_PACKET: usize = HEADER_LEN + MAX_PAYLOAD + PROTECTION;

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
    /// All there is room for; what is left in one is written over.
    packets: Box<[OutPacket]>,
    len: usize,
    socket: u16,
    route: Route,
}

impl Outbox {
    /// An empty outbox. More than `capacity` packets are not taken.
    pub fn with_capacity(capacity: usize) -> Self {
        let packet = OutPacket {
            to: (Ipv4Addr::UNSPECIFIED, 0).into(),
            socket: 0,
            len: 0,
            bytes: [0; MAX_PACKET],
        };
        Self {
            packets: vec![packet; capacity].into(),
            len: 0,
            socket: 0,
            route: Route::default(),
        }
    }

    /// Socket and addresses of the packets that follow.
    pub fn aim(&mut self, socket: u16, route: Route) {
        self.socket = socket;
        self.route = route;
    }

    /// Whether media have a way to go. If not, they had better wait.
    pub fn can_send(&self) -> bool {
        self.route.rtp.is_some()
    }

    /// Adds a packet of media made of two parts. It is left out if it has no way to go, is too long,
    /// or there is no room.
    pub fn rtp(&mut self, header: &[u8], payload: &[u8]) {
        if let Some(to) = self.route.rtp {
            self.push(to, header, payload);
        }
    }

    /// Adds a report, on the same conditions.
    pub fn rtcp(&mut self, compound: &[u8]) {
        if let Some(to) = self.route.rtcp {
            self.push(to, compound, &[]);
        }
    }

    fn push(&mut self, to: SocketAddr, head: &[u8], body: &[u8]) {
        let len = head.len() + body.len();
        let Some(packet) = self.packets.get_mut(self.len) else {
            return;
        };
        if len > MAX_PACKET - PROTECTION {
            return;
        }
        packet.to = to;
        packet.socket = self.socket;
        packet.len = len as u16;
        packet.bytes[..head.len()].copy_from_slice(head);
        packet.bytes[head.len()..len].copy_from_slice(body);
        self.len += 1;
    }

    /// How many packets it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many packets it still takes.
    pub fn room(&self) -> usize {
        self.packets.len() - self.len
    }

    /// Has the packets from number `first` on protected in place. `protect` gets a packet's whole
    /// room and its length, and tells the new length; without one the packet is left out.
    pub fn protect(
        &mut self,
        first: usize,
        mut protect: impl FnMut(&mut [u8], usize) -> Option<usize>,
    ) {
        let mut kept = first;
        for nth in first..self.len {
            let packet = &mut self.packets[nth];
            if let Some(len) = protect(&mut packet.bytes, usize::from(packet.len)) {
                packet.len = len.min(MAX_PACKET) as u16;
                self.packets.swap(kept, nth);
                kept += 1;
            }
        }
        self.len = kept;
    }

    /// The packets, in order.
    pub fn packets(&self) -> &[OutPacket] {
        &self.packets[..self.len]
    }

    /// Forgets the packets.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_that_cannot_be_protected_is_left_out_and_the_others_keep_their_order() {
        let to = "192.0.2.1:4000".parse().unwrap();
        let mut out = Outbox::with_capacity(8);
        out.aim(0, Route::to(to));
        for n in 0..5 {
            out.rtp(&[n; 12], &[n; 20]);
        }
        out.protect(1, |room, len| {
            assert!(room.len() >= len + 24);
            (room[0] != 2).then_some(len + 10)
        });
        let seen: Vec<_> = out
            .packets()
            .iter()
            .map(|p| (p.bytes()[0], p.bytes().len()))
            .collect();
        assert_eq!(seen, [(0, 32), (1, 42), (3, 42), (4, 42)]);
    }

    #[test]
    fn without_a_way_to_go_nothing_is_taken() {
        let mut out = Outbox::with_capacity(8);
        out.rtp(&[0; 12], &[0; 160]);
        out.rtcp(&[0; 12]);
        assert!(out.is_empty() && !out.can_send());
    }
}
