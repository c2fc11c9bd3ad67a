//! Packets of a call that have come and are not yet looked at.
//!
//! A call's memory is long out of the caches when its next packet comes. A packet that only has to be
//! kept costs a few lines of them here; the call itself is visited once for all that has come since.

use std::net::SocketAddr;
use std::time::Instant;

/// Room for what comes in 100 ms of G.711, and a little more.
const ROOM: usize = 1_152;
/// So many packets wait at most.
const MOST: usize = 12;

/// What waits for one call, all of it from one address.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    from: Option<SocketAddr>,
    /// When each packet came, and where it ends among the bytes.
    arrivals: Vec<(Instant, u16)>,
    bytes: Vec<u8>,
}

impl Inbox {
    /// Keeps a packet; false if it finds no room, or others of another address before it. Memory is
    /// taken for the first one, and kept.
    pub(super) fn put(&mut self, now: Instant, from: SocketAddr, packet: &[u8]) -> bool {
        let end = self.bytes.len() + packet.len();
        let is_alien = self.from.is_some_and(|other| other != from);
        if end > ROOM || self.arrivals.len() == MOST || is_alien {
            return false;
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(ROOM);
            self.arrivals.reserve_exact(MOST);
        }
        self.from = Some(from);
        self.bytes.extend_from_slice(packet);
        self.arrivals.push((now, end as u16));
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.from.is_none()
    }

    /// Hands out what waits, in the order in which it came. Each packet may be changed in its place.
    pub(super) fn empty(&mut self, mut take: impl FnMut(Instant, SocketAddr, &mut [u8])) {
        let Some(from) = self.from.take() else {
            return;
        };
        let mut begin = 0;
        for (at, end) in self.arrivals.drain(..) {
            let end = usize::from(end);
            take(at, from, &mut self.bytes[begin..end]);
            begin = end;
        }
        self.bytes.clear();
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "virtual time begins at some moment"
)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    fn emptied(inbox: &mut Inbox) -> Vec<(Instant, SocketAddr, Vec<u8>)> {
        let mut taken = Vec::new();
        inbox.empty(|at, from, packet| taken.push((at, from, packet.to_vec())));
        taken
    }

    #[test]
    fn what_is_put_in_comes_out_in_order_with_its_time() {
        let begin = Instant::now();
        let mut inbox = Inbox::default();
        let packets: Vec<_> = (0..5_u8)
            .map(|n| {
                let at = begin + Duration::from_millis(20 * u64::from(n));
                (at, address(4_000), vec![n; 172])
            })
            .collect();
        for (at, from, packet) in &packets {
            assert!(inbox.put(*at, *from, packet));
        }
        assert!(!inbox.is_empty());
        assert_eq!(emptied(&mut inbox), packets);
        assert!(inbox.is_empty());
        assert_eq!(emptied(&mut inbox), []);
    }

    #[test]
    fn what_finds_no_room_or_comes_from_elsewhere_has_to_wait_until_it_is_emptied() {
        let now = Instant::now();
        let mut inbox = Inbox::default();
        assert!(!inbox.put(now, address(1), &[0; ROOM + 1]));
        assert!(inbox.put(now, address(1), &[1; ROOM - 10]));
        assert!(!inbox.put(now, address(1), &[1; 11]));
        assert!(!inbox.put(now, address(2), &[1; 1]));
        emptied(&mut inbox);
        for _ in 0..MOST {
            assert!(inbox.put(now, address(2), &[]));
        }
        assert!(!inbox.put(now, address(2), &[]));
    }
}
