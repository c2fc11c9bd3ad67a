//! What comes from the wire: whose it is, and what becomes of it.

use std::net::SocketAddr;
use std::time::Instant;

use crate::media::demux::Kind;
use crate::media::demux::LegId;
use crate::media::demux::Verdict;
use crate::media::engine::batch::RECEIVE_BATCH;
use crate::media::engine::batch::Receiver;
use crate::media::engine::calls::Call;
use crate::media::engine::calls::Calls;
use crate::media::engine::stats::Dropped;
use crate::media::ice::stun::Class;
use crate::media::ice::stun::Message;
use crate::media::ice::stun::TransactionId;
use crate::media::link::Protocol;
use crate::media::link::Taken;
use crate::media::link::Turn;
use crate::media::link::is_rtcp;
use crate::media::rtp;
use crate::media::rtp::Datagram;

/// What became of a packet of media.
pub(super) struct Media {
    /// Whether it is the peer's, as far as that can be told.
    is_believed: bool,
    pub(super) received: Result<(), Dropped>,
}

impl Call {
    /// Takes a packet of media or a report, protected or not.
    pub(super) fn take_media(
        &mut self,
        turn: &mut Turn<'_>,
        from: SocketAddr,
        bytes: &mut [u8],
    ) -> Media {
        let refused = |why| Media {
            is_believed: false,
            received: Err(why),
        };
        let len = match self.link.handle(turn, from, bytes) {
            Taken::Media(len) => len,
            Taken::Control => {
                return Media {
                    is_believed: false,
                    received: Ok(()),
                };
            }
            Taken::Refused(why) => return refused(Dropped::by_link(why)),
        };
        let Ok(datagram) = rtp::read(bytes.get(..len).unwrap_or_default()) else {
            return refused(Dropped::Malformed);
        };
        let received = match datagram {
            Datagram::Rtp(packet) => self.leg.handle_rtp(turn.now, &packet),
            Datagram::Rtcp(compound) => {
                self.link.latch_rtcp(from);
                self.leg.handle_rtcp(turn.now, compound)
            }
        };
        Media {
            is_believed: true,
            received: Dropped::of(received).map_or(Ok(()), Err),
        }
    }
}

impl Calls {
    /// Gives a batch of datagrams to the calls that they belong to. Audio on which nothing but its
    /// call can depend waits in the call's inbox until the call listens; everything else is taken at
    /// once, after what waits.
    ///
    /// What tells a packet's call has long left the caches when the packet comes, so it is looked up
    /// for all of them first: the waits for memory overlap.
    pub(in crate::media::engine) fn datagrams(
        &mut self,
        now: Instant,
        socket: u16,
        batch: &mut Receiver,
        count: usize,
    ) {
        let mut senders = [None; RECEIVE_BATCH];
        for (nth, sender) in senders.iter_mut().enumerate().take(count) {
            let datagram = batch.datagram(nth);
            *sender = datagram.filter(|(_, bytes)| is_rtp(bytes)).map(|it| it.0);
        }
        let mut homes = [None; RECEIVE_BATCH];
        for (sender, home) in senders.iter().zip(&mut homes) {
            *home = sender.and_then(|from| self.demux.settled(socket, from));
        }
        for home in homes.iter().flatten() {
            self.inboxes[home.index as usize].fetch();
        }
        let mut holds = true;
        for (nth, (sender, home)) in senders.iter().zip(homes).enumerate().take(count) {
            let home = if holds {
                home
            } else {
                sender.and_then(|from| self.demux.settled(socket, from))
            };
            if let (Some(from), Some(home)) = (sender, home)
                && self.inboxes[home.index as usize].put(now, from, batch.bytes(nth))
            {
                continue;
            }
            // What becomes of this one may change where others belong.
            holds = false;
            match batch.datagram(nth) {
                Some((from, bytes)) => self.datagram(now, socket, from, bytes),
                None => self.stats.drop_packet(Dropped::Malformed),
            }
        }
    }

    /// Gives a datagram to the call that it belongs to, which takes it at once.
    pub(in crate::media::engine) fn datagram(
        &mut self,
        now: Instant,
        socket: u16,
        from: SocketAddr,
        bytes: &mut [u8],
    ) {
        let dropped = match Protocol::of(bytes) {
            Some(Protocol::Rtp) => self.media(now, socket, from, bytes),
            Some(Protocol::Stun) => self.check(now, socket, from, bytes),
            Some(Protocol::Dtls) => self.handshake(now, socket, from, bytes),
            None => Err(Dropped::Malformed),
        };
        if let Err(why) = dropped {
            self.stats.drop_packet(why);
        }
    }

    fn media(
        &mut self,
        now: Instant,
        socket: u16,
        from: SocketAddr,
        bytes: &mut [u8],
    ) -> Result<(), Dropped> {
        let kind = kind_of(bytes).ok_or(Dropped::Malformed)?;
        let (id, is_guest) = match self.demux.verdict(socket, from, kind) {
            Verdict::Known(id) => (id, false),
            Verdict::Latched(id) | Verdict::Guest(id) => (id, true),
            Verdict::Closed => return Err(Dropped::Closed),
            Verdict::Stranger => return Err(Dropped::Stranger),
        };
        let taken = self.guard(now, id, |call, turn| {
            let taken = call.take_media(turn, from, bytes);
            if is_guest && taken.is_believed {
                call.link.latch(from);
            }
            call.tell();
            taken
        });
        let Some(taken) = taken else {
            return Ok(());
        };
        if is_guest && taken.is_believed {
            self.demux.latch(id, from);
        }
        taken.received
    }

    /// A message of ICE. Whose it is, it tells by a fragment of ours or a transaction of ours; a
    /// stranger's costs a look at a map.
    fn check(
        &mut self,
        now: Instant,
        socket: u16,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), Dropped> {
        let message = Message::read(bytes).map_err(|_| Dropped::Malformed)?;
        let id = match message.class {
            Class::Indication => return self.keep_alive(now, socket, from),
            Class::Request => {
                let fragment = message.receiver().ok_or(Dropped::StunUnsigned)?;
                self.demux.by_fragment(fragment)
            }
            Class::Success | Class::Error => self.by_transaction(message.transaction),
        };
        let id = id
            .filter(|id| self.demux.socket_of(*id) == Some(socket))
            .ok_or(Dropped::StunUnsigned)?;
        if !self.demux.is_free_for(id, socket, from) {
            return Err(Dropped::Stranger);
        }
        let taken = self.guard(now, id, |call, turn| {
            let taken = call.link.handle_stun(turn, from, &message);
            (taken, call.link.knows(from), call.link.way())
        });
        let Some((taken, is_proven, way)) = taken else {
            return Ok(());
        };
        if is_proven {
            self.demux.prove(id, from, way);
        }
        self.settle(now, id);
        match taken {
            Taken::Refused(why) => Err(Dropped::by_link(why)),
            Taken::Media(_) | Taken::Control => Ok(()),
        }
    }

    /// A peer that sends nothing else, as on hold, keeps the path open (RFC 8445 section 11). Such a
    /// message names nobody.
    fn keep_alive(&mut self, now: Instant, socket: u16, from: SocketAddr) -> Result<(), Dropped> {
        let Verdict::Known(id) = self.demux.verdict(socket, from, Kind::Rtcp) else {
            return Err(Dropped::Stranger);
        };
        self.guard(now, id, |call, turn| call.link.keep_alive(turn.now, from));
        Ok(())
    }

    /// The call whose check has this number.
    fn by_transaction(&self, transaction: TransactionId) -> Option<LegId> {
        let (mark, _) = transaction.split_first_chunk::<4>()?;
        let index = u32::from_be_bytes(*mark) ^ self.mask;
        Some(self.calls.get(index as usize)?.as_ref()?.id)
    }

    fn handshake(
        &mut self,
        now: Instant,
        socket: u16,
        from: SocketAddr,
        bytes: &mut [u8],
    ) -> Result<(), Dropped> {
        let id = match self.demux.verdict(socket, from, Kind::Dtls) {
            Verdict::Known(id) | Verdict::Latched(id) | Verdict::Guest(id) => id,
            Verdict::Closed => return Err(Dropped::Closed),
            Verdict::Stranger => return Err(Dropped::Stranger),
        };
        let taken = self.guard(now, id, |call, turn| call.link.handle(turn, from, bytes));
        self.settle(now, id);
        match taken {
            Some(Taken::Refused(why)) => Err(Dropped::by_link(why)),
            _ => Ok(()),
        }
    }
}

/// Whether a datagram is a packet of media, on which nothing but its call can depend.
fn is_rtp(bytes: &[u8]) -> bool {
    Protocol::of(bytes) == Some(Protocol::Rtp) && !is_rtcp(bytes)
}

/// What of a packet of media helps to tell its call. Its padding is not looked at: it may be
/// encrypted.
fn kind_of(bytes: &[u8]) -> Option<Kind> {
    let [first, second, ..] = bytes else {
        return None;
    };
    if is_rtcp(bytes) {
        return Some(Kind::Rtcp);
    }
    let is_padded = first & 0x20 != 0;
    let is_whole = is_padded || rtp::read(bytes).is_ok();
    is_whole.then_some(Kind::Rtp(second & 0x7F))
}
