//! Packets of a call that have come and are not yet looked at.
//!
//! A call's memory is long out of the caches when its next packet comes. A packet that only has to be
//! kept costs a few lines of them here; the call itself is visited once for all that has come since.
//! Only audio can wait like this: what else comes, as digits, is looked at as it comes.

use std::hint;
use std::mem;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

/// Room for what comes in 100 ms of G.711, and a little more.
const ROOM: usize = 1_152;
/// So many packets wait at most.
const MOST: usize = 12;

/// What waits for one call, all of it from one address. Its memory is taken in one piece when the call
/// begins, and kept until it ends; without a call there is none, and nothing can wait.
#[derive(Debug, Default)]
pub(super) struct Inbox(Option<Box<Waiting>>);

/// Laid out by the lines of the caches: what is looked at for each packet lies in the first.
#[derive(Debug)]
#[repr(C, align(64))]
struct Waiting {
    from: SocketAddr,
    /// When the first packet came.
    since: Instant,
    count: u16,
    /// Where the last packet ends among the bytes.
    end: u16,
    /// The payload type of what may wait.
    audio: u8,
    /// Of each packet: how many nanoseconds later it came, and where it ends.
    after: [u32; MOST],
    ends: [u16; MOST],
    bytes: [u8; ROOM],
}

impl Inbox {
    /// For a call whose audio has this payload type.
    pub(super) fn of(audio: u8, now: Instant) -> Self {
        Self(Some(Box::new(Waiting {
            from: (Ipv4Addr::UNSPECIFIED, 0).into(),
            since: now,
            count: 0,
            end: 0,
            audio,
            after: [0; MOST],
            ends: [0; MOST],
            bytes: [0; ROOM],
        })))
    }

    /// From now on audio has this payload type.
    pub(super) fn update(&mut self, audio: u8) {
        if let Some(waiting) = &mut self.0 {
            waiting.audio = audio;
        }
    }

    /// Keeps a packet of RTP; false if it is no audio, if it finds no room, or others of another
    /// address before it.
    pub(super) fn put(&mut self, now: Instant, from: &SocketAddr, packet: &[u8]) -> bool {
        let waiting = self.0.as_deref_mut();
        waiting.is_some_and(|waiting| waiting.put(now, from, packet))
    }

    /// Has the caches fetch what [`put`](Self::put) looks at, and does not wait for it.
    pub(super) fn fetch(&self) {
        hint::black_box(self.is_empty());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|waiting| waiting.count == 0)
    }

    /// Hands out what waits, in the order in which it came. Each packet may be changed in its place.
    pub(super) fn empty(&mut self, mut take: impl FnMut(Instant, SocketAddr, &mut [u8])) {
        let Some(waiting) = &mut self.0 else {
            return;
        };
        let count = mem::take(&mut waiting.count);
        waiting.end = 0;
        let mut begin = 0;
        for (after, end) in waiting.after.iter().zip(&waiting.ends).take(count.into()) {
            let end = usize::from(*end);
            let at = waiting.since + Duration::from_nanos((*after).into());
            take(at, waiting.from, &mut waiting.bytes[begin..end]);
            begin = end;
        }
    }
}

impl Waiting {
    fn put(&mut self, now: Instant, from: &SocketAddr, packet: &[u8]) -> bool {
        let is_audio = packet.get(1).is_some_and(|it| it & 0x7F == self.audio);
        let (nth, begin) = (usize::from(self.count), usize::from(self.end));
        let end = begin + packet.len();
        if !is_audio || nth == MOST || end > ROOM {
            return false;
        }
        if nth == 0 {
            (self.from, self.since) = (*from, now);
        } else if self.from != *from {
            return false;
        }
        let after = now.saturating_duration_since(self.since).as_nanos();
        self.after[nth] = u32::try_from(after).unwrap_or(u32::MAX);
        self.bytes[begin..end].copy_from_slice(packet);
        self.ends[nth] = end as u16;
        self.end = end as u16;
        self.count += 1;
        true
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "virtual time begins at some moment"
)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    fn emptied(inbox: &mut Inbox) -> Vec<(Instant, SocketAddr, Vec<u8>)> {
        let mut taken = Vec::new();
        inbox.empty(|at, from, packet| taken.push((at, from, packet.to_vec())));
        taken
    }

    /// A packet of audio of so many bytes.
    fn audio(byte: u8, len: usize) -> Vec<u8> {
        let mut packet = vec![byte; len];
        packet[1] = 8 | byte & 0x80;
        packet
    }

    #[test]
    fn what_is_put_in_comes_out_in_order_with_its_time() {
        let begin = Instant::now();
        let mut inbox = Inbox::of(8, begin);
        let packets: Vec<_> = (0..5_u8)
            .map(|n| {
                let at = begin + Duration::from_millis(20 * u64::from(n));
                (at, address(4_000), audio(n, 172))
            })
            .collect();
        for (at, from, packet) in &packets {
            assert!(inbox.put(*at, from, packet));
        }
        assert!(!inbox.is_empty());
        assert_eq!(emptied(&mut inbox), packets);
        assert!(inbox.is_empty());
        assert_eq!(emptied(&mut inbox), []);
    }

    #[test]
    fn what_finds_no_room_or_comes_from_elsewhere_has_to_wait_until_it_is_emptied() {
        let now = Instant::now();
        let mut inbox = Inbox::of(8, now);
        assert!(!inbox.put(now, &address(1), &audio(0, ROOM + 1)));
        assert!(inbox.put(now, &address(1), &audio(1, ROOM - 10)));
        assert!(!inbox.put(now, &address(1), &audio(1, 11)));
        assert!(!inbox.put(now, &address(2), &audio(1, 2)));
        emptied(&mut inbox);
        for _ in 0..MOST {
            assert!(inbox.put(now, &address(2), &audio(1, 2)));
        }
        assert!(!inbox.put(now, &address(2), &audio(1, 2)));
    }

    #[test]
    fn only_audio_waits() {
        let now = Instant::now();
        let mut nobodys = Inbox::default();
        assert!(!nobodys.put(now, &address(1), &audio(1, 172)));
        assert!(!nobodys.put(now, &address(1), &[]));
        let mut inbox = Inbox::of(8, now);
        let digit = [0x80, 101, 0, 1];
        let marked = audio(0x80, 172);
        assert!(inbox.put(now, &address(1), &marked));
        assert!(!inbox.put(now, &address(1), &digit));
        inbox.update(101);
        assert!(inbox.put(now, &address(1), &digit));
        assert!(!inbox.put(now, &address(1), &marked));
    }
}
