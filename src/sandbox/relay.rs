//! The media relay: stands between the media of calls that are to suffer, loses, delays and doubles their packets.
//!
//! The SIP core lets it rewrite the session descriptions of such a call. Each side of it gets a socket in the place
//! of its own address; what comes there goes on to that side, from the socket of the one who sent it, so that both
//! sides see one address of the other. Packets are not read: ICE finds its way through the relay as through any, DTLS
//! and SRTP pass. Other calls' media pass by.

mod address;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::domain::Msisdn;
use crate::media::link::Protocol;
use crate::sandbox::relay::address::{audio_address, with_address};
use crate::sandbox::sip_core::relay::{Description, Relay};
use crate::sandbox::world::lock;
use crate::sandbox::world::{Mode, World};
use crate::sip::transport::udp::route_to;

/// Calls relayed at the same time; the media of others pass by.
const CALLS: usize = 100;
/// Sides of one call: a forked one has more than two.
const SIDES: usize = 8;
/// A call whose end nobody tells is given up after this.
const LONGEST: Duration = Duration::from_secs(3600);
/// Packets of one side that are delayed at the same time; what is above is lost.
const DELAYED: usize = 256;
/// The longest packet that is passed on.
const PACKET_BYTES: usize = 2048;

/// One packet of so many is lost.
const LOST_ONE_IN: u32 = 10;
/// Where there is jitter, a packet is delayed by up to this, which puts packets of 20 ms out of order,
const LATEST_MS: u64 = 80;
/// and one of so many comes twice.
const DOUBLED_ONE_IN: u32 = 30;

/// The relay of a running sandbox.
pub(crate) struct MediaRelay {
    world: Arc<World>,
    calls: BTreeMap<String, Call>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Call {
    suffers: Suffering,
    sides: Sides,
    over: CancellationToken,
    _ends_with_call: DropGuard,
}

/// Shared with the tasks of their sockets, and locked for a few instructions only.
type Sides = Arc<Mutex<Vec<Side>>>;

struct Side {
    tag: String,
    /// Where its user agent wants its media, as its description tells,
    told: SocketAddr,
    /// and as its latest check by ICE shows.
    media: SocketAddr,
    socket: Arc<UdpSocket>,
    /// What its peers are told instead.
    local: SocketAddr,
}

/// What the packets of a call suffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Suffering {
    loss: bool,
    jitter: bool,
}

impl Suffering {
    /// After which delays a packet is sent: none where it is lost, two where it is doubled.
    fn delays(self, chance: &mut StdRng) -> Vec<Duration> {
        if self.loss && chance.random_range(0..LOST_ONE_IN) == 0 {
            return Vec::new();
        }
        if !self.jitter {
            return vec![Duration::ZERO];
        }
        let times = 1 + usize::from(chance.random_range(0..DOUBLED_ONE_IN) == 0);
        let delays = (0..times).map(|_| Duration::from_millis(chance.random_range(0..=LATEST_MS)));
        delays.collect()
    }
}

impl MediaRelay {
    /// One that has nothing to do yet.
    pub(crate) fn new(world: &Arc<World>, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        Self {
            world: world.clone(),
            calls: BTreeMap::new(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        }
    }

    /// The address that peers are told instead of that of the side with this tag.
    fn stand_in(&mut self, call_id: &str, tag: &str, media: SocketAddr) -> Option<SocketAddr> {
        let call = self.calls.get(call_id)?;
        {
            let mut sides = lock(&call.sides);
            if let Some(side) = sides.iter_mut().find(|side| side.tag == tag) {
                if side.told != media {
                    (side.told, side.media) = (media, media);
                }
                return Some(side.local);
            }
            if sides.len() >= SIDES {
                return None;
            }
        }
        let (socket, local) = match socket_towards(media) {
            Ok(bound) => bound,
            Err(error) => {
                warn!(%error, "The media relay has no socket, and a call does not suffer");
                return None;
            }
        };
        let socket = Arc::new(socket);
        lock(&call.sides).push(Side {
            tag: tag.to_owned(),
            told: media,
            media,
            socket: socket.clone(),
            local,
        });
        let pass = pass_on(
            socket,
            tag.to_owned(),
            call.sides.clone(),
            call.suffers,
            StdRng::from_seed(self.world.chance.bytes()),
        );
        let over = call.over.clone();
        self.tasks.spawn(async move {
            let passing = tokio::time::timeout(LONGEST, pass);
            over.run_until_cancelled(passing).await;
        });
        Some(local)
    }
}

impl Relay for MediaRelay {
    fn begins(&mut self, call_id: &str, caller: Option<&Msisdn>, called: &Msisdn) {
        let (modes, now) = (&self.world.modes, self.world.now());
        let is_on = |mode| {
            modes.is_on(mode, Some(called), now)
                || caller.is_some_and(|caller| modes.is_on(mode, Some(caller), now))
        };
        let suffers = Suffering {
            loss: is_on(Mode::MediaLoss),
            jitter: is_on(Mode::MediaJitter),
        };
        if !(suffers.loss || suffers.jitter) || self.calls.len() >= CALLS {
            return;
        }
        let over = self.stop.child_token();
        let call = Call {
            suffers,
            sides: Sides::default(),
            over: over.clone(),
            _ends_with_call: over.drop_guard(),
        };
        self.calls.entry(call_id.to_owned()).or_insert(call);
    }

    fn rewrite(&mut self, description: &Description<'_>) -> Option<Bytes> {
        if !self.calls.contains_key(description.call_id) {
            return None;
        }
        let text = std::str::from_utf8(description.body).ok()?;
        let media = audio_address(text)?;
        let local = self.stand_in(description.call_id, description.sender_tag, media)?;
        Some(with_address(text, local).into())
    }

    fn ends(&mut self, call_id: &str) {
        self.calls.remove(call_id);
    }
}

/// Passes on what comes to the socket of the side with this tag.
async fn pass_on(
    socket: Arc<UdpSocket>,
    tag: String,
    sides: Sides,
    suffers: Suffering,
    mut chance: StdRng,
) {
    let mut delayed: BTreeMap<(Instant, u64), (SocketAddr, Bytes)> = BTreeMap::new();
    let mut serial = 0;
    let mut buffer = [0; PACKET_BYTES];
    loop {
        let next = delayed.first_key_value().map(|((due, _), _)| *due);
        let due = next.unwrap_or_else(Instant::now);
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, from)) = received else { return };
                let packet = buffer.get(..length).unwrap_or_default();
                for delay in suffers.delays(&mut chance) {
                    if delayed.len() < DELAYED {
                        serial += 1;
                        let packet = Bytes::copy_from_slice(packet);
                        delayed.insert((Instant::now() + delay, serial), (from, packet));
                    }
                }
            }
            () = sleep_until(due), if next.is_some() => {
                if let Some((_, (from, packet))) = delayed.pop_first() {
                    send(&sides, &tag, from, &packet);
                }
            }
        }
    }
}

/// Sends a packet that came `from` somewhere to the side with this tag.
fn send(sides: &Sides, tag: &str, from: SocketAddr, packet: &[u8]) {
    let mut sides = lock(sides);
    let Some(to) = sides.iter().position(|side| side.tag == tag) else {
        return;
    };
    // Both may have one address: that of an engine which serves either. Nobody sends to himself.
    let is_sender = |(n, side): (usize, &Side)| (n != to && side.media == from).then_some(n);
    let known = sides.iter().enumerate().find_map(is_sender);
    let checks = Protocol::of(packet) == Some(Protocol::Stun);
    // Who sends from another address than he wants to receive at is shown by this side's own socket.
    let sender = match (known, sides.len()) {
        (Some(known), _) => known,
        (None, 2) if checks => {
            let other = 1 - to;
            if let Some(side) = sides.get_mut(other) {
                side.media = from;
            }
            other
        }
        (None, _) => to,
    };
    if let (Some(sender), Some(to)) = (sides.get(sender), sides.get(to))
        && !to.media.ip().is_unspecified()
    {
        // One more packet that is lost.
        sender.socket.try_send_to(packet, to.media).ok();
    }
}

/// A socket on the address of ours from which `media` is reached.
fn socket_towards(media: SocketAddr) -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = std::net::UdpSocket::bind((route_to(media)?, 0))?;
    socket.set_nonblocking(true)?;
    let local = socket.local_addr()?;
    Ok((UdpSocket::from_std(socket)?, local))
}

#[cfg(test)]
mod tests;
