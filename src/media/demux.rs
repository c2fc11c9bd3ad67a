//! Which call a packet belongs to, when all calls of a worker share one port.
//!
//! A call is known by the address its session description tells, or by where its first valid
//! packet came from; with ICE by our user fragment, and then by the addresses from which signed
//! checks have come. Where an address cannot tell two calls apart, a call gets a port of its own.
//! Whoever is unknown is told apart from callers without keeping anything about him.

mod hash;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use crate::media::demux::hash::AddressMap;
use crate::media::demux::hash::Map;
use crate::media::sdp::Keying;
use crate::media::sdp::MediaParams;

/// The socket that calls share; the others belong to one call each.
pub const SHARED: u16 = 0;

/// For so long an address is remembered after its call, so that packets which come late, or from
/// a peer that has not heard the goodbye yet, do not enter another call.
const QUARANTINE: Duration = Duration::from_secs(5);
/// So many addresses a call may have proven at once.
const MAX_PROVEN: usize = 16;
/// So many closed addresses are remembered.
const MAX_QUARANTINED: usize = 16_384;
/// Packets of the address before, two seconds of them, for which a call that moved waits for its new one.
const PATIENCE: u8 = 100;

/// A call, as its worker numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegId {
    /// Its place, used again after its end.
    pub index: u32,
    /// Tells it from others at the same place.
    pub generation: u32,
}

/// Whose packet it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A call's, from where it was expected.
    Known(LegId),
    /// A call's first packet, from an address that its session description did not tell.
    Latched(LegId),
    /// Perhaps the first of a call whose packets are signed: if it is, [`Demux::latch`] wants to
    /// know.
    Guest(LegId),
    /// A closed call's.
    Closed,
    /// Nobody's.
    Stranger,
}

/// What of a packet helps to tell its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// RTP of this payload type.
    Rtp(u8),
    /// RTCP.
    Rtcp,
    /// A handshake for keys.
    Dtls,
}

/// No port can tell this call from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no free port tells this call from the others; raise media.spare_ports")]
pub struct NoPort;

/// The calls of one worker and their addresses.
#[derive(Debug)]
pub struct Demux {
    /// So many sockets there may be beside the shared one.
    limit: u16,
    /// Of each of them: whose it is.
    owners: Vec<Option<LegId>>,
    /// Free sockets and until when each had better rest, the one longest unused first.
    free: VecDeque<(Option<Instant>, u16)>,
    calls: Map<LegId, Call>,
    /// Addresses of the shared socket's calls.
    addresses: AddressMap<Address>,
    /// Calls of the shared socket that wait for their first packet.
    waiting: Map<IpAddr, Vec<LegId>>,
    /// Our user fragments in ICE, of all sockets.
    fragments: Map<Box<[u8]>, LegId>,
    closed: Map<(u16, SocketAddr), Instant>,
    closed_in_order: VecDeque<(Instant, u16, SocketAddr)>,
}

/// Whose an address is.
#[derive(Debug, Clone, Copy)]
struct Address {
    id: LegId,
    /// Whether a packet from there latches the call. Otherwise there is nothing to learn from it,
    /// and the call is not looked up.
    latches: bool,
}

#[derive(Debug)]
struct Call {
    socket: u16,
    /// What the session description told: media, and RTCP if apart.
    told: [Option<SocketAddr>; 2],
    /// Where the first packet came from.
    latched: Option<SocketAddr>,
    /// The address before the last offer: packets from there are still welcome until the first
    /// from the new one.
    before: Option<SocketAddr>,
    /// So many packets from there do not latch a call that has moved, and whose new address is still
    /// to be learnt.
    patience: u8,
    payload_types: [Option<u8>; 3],
    /// Whether packets can be told from forgeries.
    is_signed: bool,
    /// With ICE: our fragment, and the one before the last restart; addresses count only once they
    /// are proven.
    fragments: Option<[Option<Box<[u8]>>; 2]>,
    proven: Vec<SocketAddr>,
}

impl Call {
    fn new(socket: u16, params: &MediaParams) -> Self {
        Self {
            socket,
            told: told(params),
            latched: None,
            before: None,
            patience: 0,
            payload_types: payload_types(params),
            is_signed: params.keying != Keying::Plain,
            fragments: fragment(params).map(|ours| [Some(ours), None]),
            proven: Vec::new(),
        }
    }

    fn expects(&self, kind: Kind) -> bool {
        match kind {
            Kind::Rtp(payload_type) => self.payload_types.contains(&Some(payload_type)),
            Kind::Rtcp => false,
            Kind::Dtls => self.is_signed,
        }
    }

    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let [media, rtcp] = self.told;
        let believed = [media, rtcp, self.latched, self.before]
            .into_iter()
            .flatten();
        let has_ice = self.fragments.is_some();
        believed
            .filter(move |_| !has_ice)
            .chain(self.proven.iter().copied())
    }
}

impl Demux {
    /// For one shared socket, and up to `limit` others that come when they are needed.
    pub fn new(limit: u16) -> Self {
        Self {
            limit,
            owners: Vec::new(),
            free: VecDeque::new(),
            calls: Map::default(),
            addresses: AddressMap::default(),
            waiting: Map::default(),
            fragments: Map::default(),
            closed: Map::default(),
            closed_in_order: VecDeque::new(),
        }
    }

    /// Calls known now.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there are no calls.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Closed addresses that are remembered now.
    pub fn quarantined(&self) -> usize {
        self.closed_in_order.len()
    }

    /// Whether this call should have a socket of its own, and one more is to be added for it.
    pub fn lacks_socket(
        &mut self,
        now: Instant,
        params: &MediaParams,
        needs_own_port: bool,
    ) -> bool {
        self.release(now);
        let wanted = needs_own_port || is_nameless(params) || self.is_any_taken(params);
        let has_rested =
            |(until, _): &(Option<Instant>, u16)| until.is_none_or(|until| until <= now);
        wanted
            && self.owners.len() < usize::from(self.limit)
            && !self.free.front().is_some_and(has_rested)
    }

    /// Adds a socket that can belong to one call. Its number is one more than that of the last.
    pub fn add_socket(&mut self) {
        let unused = self.free.partition_point(|(until, _)| until.is_none());
        self.owners.push(None);
        self.free.insert(unused, (None, self.owners.len() as u16));
    }

    /// Takes in a call and chooses its socket. `needs_own_port` says that on the shared one its
    /// packets could not be told from those of others.
    pub fn open(
        &mut self,
        now: Instant,
        id: LegId,
        params: &MediaParams,
        needs_own_port: bool,
    ) -> Result<u16, NoPort> {
        self.release(now);
        let taken = self.is_any_taken(params);
        let mut free = || self.free.pop_front().map(|(_, socket)| socket);
        let socket = if taken {
            free().ok_or(NoPort)?
        } else if needs_own_port || is_nameless(params) {
            // The shared port may still do: late answers often name an address of their own.
            free().unwrap_or(SHARED)
        } else {
            SHARED
        };
        let call = Call::new(socket, params);
        if let Some(owner) = self.owner_mut(socket) {
            *owner = Some(id);
        }
        self.register(id, &call);
        self.calls.insert(id, call);
        Ok(socket)
    }

    /// Whether another call, live or just closed, uses an address of this one on the shared socket.
    fn is_any_taken(&self, params: &MediaParams) -> bool {
        let is_taken = |address: &SocketAddr| {
            self.addresses.get(address).is_some() || self.closed.contains_key(&(SHARED, *address))
        };
        let candidates = params.ice.iter().flat_map(|ice| &ice.remote_candidates);
        let mut candidates = candidates.map(|candidate| &candidate.address);
        told(params).iter().flatten().any(is_taken) || candidates.any(is_taken)
    }

    fn owner_mut(&mut self, socket: u16) -> Option<&mut Option<LegId>> {
        self.owners.get_mut(usize::from(socket).checked_sub(1)?)
    }

    fn register(&mut self, id: LegId, call: &Call) {
        for fragment in call.fragments.iter().flatten().flatten() {
            self.fragments.insert(fragment.clone(), id);
        }
        if call.socket != SHARED {
            return;
        }
        for address in call.addresses() {
            let latches = call.told[0] == Some(address) && call.latched != Some(address);
            let entry = Address { id, latches };
            if self.addresses.get(&address).is_none() {
                self.addresses.insert(address, entry);
            }
        }
        if let (Some(media), None, None) = (call.told[0], call.latched, &call.fragments) {
            self.waiting.entry(media.ip()).or_default().push(id);
        }
    }

    fn unregister(&mut self, id: LegId, call: &Call) {
        for fragment in call.fragments.iter().flatten().flatten() {
            self.fragments.remove(fragment);
        }
        if call.socket != SHARED {
            return;
        }
        for address in call.addresses() {
            if self.addresses.get(&address).is_some_and(|it| it.id == id) {
                self.addresses.remove(&address);
            }
        }
        self.stop_waiting(id, call.told[0]);
    }

    fn stop_waiting(&mut self, id: LegId, told: Option<SocketAddr>) {
        let Some(ip) = told.map(|media| media.ip()) else {
            return;
        };
        if let Some(waiting) = self.waiting.get_mut(&ip) {
            waiting.retain(|other| *other != id);
            if waiting.is_empty() {
                self.waiting.remove(&ip);
            }
        }
    }

    /// The session description of a call has changed: it may latch anew.
    pub fn update(&mut self, id: LegId, params: &MediaParams) {
        let Some(mut call) = self.calls.remove(&id) else {
            return;
        };
        self.unregister(id, &call);
        let told = told(params);
        if told[0] != call.told[0] {
            call.before = call.latched.take().or(call.told[0]);
            call.patience = PATIENCE;
        } else if call.socket != SHARED {
            call.before = call.latched.take();
            call.patience = 0;
        }
        call.told = told;
        call.payload_types = payload_types(params);
        call.is_signed = params.keying != Keying::Plain;
        call.fragments = match (call.fragments.take(), fragment(params)) {
            (Some([ours, _]), Some(new)) if ours.as_ref() != Some(&new) => Some([Some(new), ours]),
            (Some(same), Some(_)) => Some(same),
            (None, Some(new)) => Some([Some(new), None]),
            (_, None) => None,
        };
        if call.fragments.is_none() {
            call.proven.clear();
        }
        self.register(id, &call);
        self.calls.insert(id, call);
    }

    /// Forgets a call, but not at once where its packets came from.
    pub fn close(&mut self, now: Instant, id: LegId) {
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        self.unregister(id, &call);
        if let Some(owner) = self.owner_mut(call.socket) {
            *owner = None;
            self.free.push_back((Some(now + QUARANTINE), call.socket));
        }
        for address in call.addresses() {
            let until = now + QUARANTINE;
            if self.closed_in_order.len() < MAX_QUARANTINED
                && self.closed.insert((call.socket, address), until).is_none()
            {
                self.closed_in_order
                    .push_back((until, call.socket, address));
            }
        }
        self.release(now);
    }

    /// Whose user fragment in ICE this is.
    pub fn by_fragment(&self, fragment: &[u8]) -> Option<LegId> {
        self.fragments.get(fragment).copied()
    }

    /// The call at a place.
    pub fn socket_of(&self, id: LegId) -> Option<u16> {
        self.calls.get(&id).map(|call| call.socket)
    }

    /// Whether a call may have packets from this address: no other has it, or had it just now.
    pub fn is_free_for(&self, id: LegId, socket: u16, from: SocketAddr) -> bool {
        let is_others = |address: &Address| address.id != id;
        let is_taken = socket == SHARED && self.addresses.get(&from).is_some_and(is_others);
        !is_taken && !self.closed.contains_key(&(socket, from))
    }

    /// A signed check of the call has come from this address: its packets are welcome. `keep` is
    /// the one that makes room for no other.
    pub fn prove(&mut self, id: LegId, from: SocketAddr, keep: Option<SocketAddr>) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        if call.proven.contains(&from) || call.fragments.is_none() {
            return;
        }
        let shared = call.socket == SHARED;
        if call.proven.len() >= MAX_PROVEN {
            let oldest = call.proven.iter().position(|it| Some(*it) != keep);
            let oldest = oldest.map(|place| call.proven.remove(place));
            if let (Some(oldest), true) = (oldest, shared) {
                self.addresses.remove(&oldest);
            }
        }
        call.proven.push(from);
        if shared {
            let latches = false;
            self.addresses.insert(from, Address { id, latches });
        }
    }

    fn release(&mut self, now: Instant) {
        while let Some((until, socket, address)) = self.closed_in_order.front().copied()
            && until <= now
        {
            self.closed_in_order.pop_front();
            self.closed.remove(&(socket, address));
        }
    }

    /// The call whose packets come from there, where nothing is to be learnt from one more.
    pub fn settled(&self, socket: u16, from: SocketAddr) -> Option<LegId> {
        let address = self.addresses.get(&from).filter(|_| socket == SHARED)?;
        (!address.latches).then_some(address.id)
    }

    /// Tells whose packet it is that came from `from` to `socket`.
    pub fn verdict(&mut self, socket: u16, from: SocketAddr, kind: Kind) -> Verdict {
        if socket != SHARED {
            return self.verdict_of_own_port(socket, from, kind);
        }
        match self.addresses.get(&from) {
            Some(address) if !address.latches => return Verdict::Known(address.id),
            Some(Address { id, .. }) => return self.known(*id, from, kind),
            None => {}
        }
        if self.closed.contains_key(&(SHARED, from)) {
            return Verdict::Closed;
        }
        // Same host, other port: some NATs, and phones that send from elsewhere than they listen.
        let Some(waiting) = self.waiting.get(&from.ip()) else {
            return Verdict::Stranger;
        };
        let calls = &self.calls;
        let expecting = |id: &&LegId| calls.get(id).is_some_and(|call| call.expects(kind));
        let mut candidates = waiting.iter().filter(expecting);
        match (candidates.next().copied(), candidates.next()) {
            (Some(id), None) => self.welcome(id, from),
            _ => Verdict::Stranger,
        }
    }

    fn verdict_of_own_port(&mut self, socket: u16, from: SocketAddr, kind: Kind) -> Verdict {
        let owner = self.owner_mut(socket).copied().flatten();
        let Some((id, call)) = owner.and_then(|id| Some((id, self.calls.get(&id)?))) else {
            return Verdict::Stranger;
        };
        if call.fragments.is_some() {
            let is_proven = call.proven.contains(&from);
            return if is_proven {
                Verdict::Known(id)
            } else {
                Verdict::Stranger
            };
        }
        if call.latched == Some(from) || call.told.contains(&Some(from)) {
            return self.known(id, from, kind);
        }
        if self.closed.contains_key(&(socket, from)) {
            return Verdict::Closed;
        }
        match kind {
            Kind::Rtp(_) if call.before == Some(from) && call.patience > 0 => {
                if let Some(call) = self.calls.get_mut(&id) {
                    call.patience -= 1;
                }
                Verdict::Known(id)
            }
            Kind::Rtp(_) | Kind::Dtls if call.latched.is_none() && call.expects(kind) => {
                self.welcome(id, from)
            }
            Kind::Rtp(_) if call.before == Some(from) => Verdict::Known(id),
            // RTCP comes from the neighbour port of the media, or from nobody we know.
            Kind::Rtcp if call.latched.is_some_and(|media| media.ip() == from.ip()) => {
                Verdict::Known(id)
            }
            _ => Verdict::Stranger,
        }
    }

    /// A packet from an address that belongs to a call. What the session description tells beats
    /// what was learnt: the one came by signalling, the other from whoever sent first.
    fn known(&mut self, id: LegId, from: SocketAddr, kind: Kind) -> Verdict {
        let Some(call) = self.calls.get(&id) else {
            return Verdict::Stranger;
        };
        let told = call.told[0] == Some(from);
        if told && call.latched != Some(from) && call.expects(kind) {
            return self.welcome(id, from);
        }
        Verdict::Known(id)
    }

    /// The first packet from an address: it latches the call, if there is nothing better to go by.
    fn welcome(&mut self, id: LegId, from: SocketAddr) -> Verdict {
        if self.calls.get(&id).is_some_and(|call| call.is_signed) {
            return Verdict::Guest(id);
        }
        self.latch(id, from);
        Verdict::Latched(id)
    }

    /// The call's packets come from there.
    pub fn latch(&mut self, id: LegId, from: SocketAddr) {
        let Some(mut call) = self.calls.remove(&id) else {
            return;
        };
        self.unregister(id, &call);
        call.latched = Some(from);
        call.before = None;
        self.register(id, &call);
        self.calls.insert(id, call);
    }
}

/// Whether a call can be known by nothing that it tells. With ICE it is known by our fragment.
fn is_nameless(params: &MediaParams) -> bool {
    params.ice.is_none() && params.remote.is_none()
}

fn fragment(params: &MediaParams) -> Option<Box<[u8]>> {
    let ice = params.ice.as_ref()?;
    Some(ice.local.ufrag.as_bytes().into())
}

fn told(params: &MediaParams) -> [Option<SocketAddr>; 2] {
    let apart = params
        .remote_rtcp
        .filter(|rtcp| Some(*rtcp) != params.remote);
    [params.remote, apart]
}

fn payload_types(params: &MediaParams) -> [Option<u8>; 3] {
    [
        Some(params.payload_type),
        params.telephone_event,
        params.comfort_noise,
    ]
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "virtual time begins at some moment"
)]
mod tests;
