//! The way between a socket and a call's media: whose addresses to believe, and what protects the
//! packets. Pure: datagrams and the time go in; media, answers, events and the next deadline come
//! out.
//!
//! Addresses are those of the session description (`route`), or those that ICE has checked.
//! Packets are plain, or protected by keys of the description (SDES) or of a handshake (DTLS-SRTP).
//! Before there is a way and a key, nothing is sent and nothing taken.

mod control;
mod finder;
mod route;
mod secured;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;

use crate::media::dtls::Certificate;
use crate::media::dtls::DtlsError;
use crate::media::dtls::Path;
use crate::media::ice::Handled;
use crate::media::ice::stun::Message;
use crate::media::link::finder::Finder;
use crate::media::link::finder::Found;
use crate::media::link::route::Addresses;
use crate::media::link::secured::Outcome;
use crate::media::link::secured::Secured;
use crate::media::sdp::Keying;
use crate::media::sdp::MediaParams;
use crate::media::sdp::SrtpKey;
use crate::media::srtp::Srtp;
use crate::media::srtp::SrtpError;

pub use crate::media::link::control::Control;
pub use crate::media::link::control::ControlPacket;
pub use crate::media::link::control::MAX_CONTROL;
pub use crate::media::link::route::Route;

/// A stage on the way to a call that is heard on both sides, in the order in which they are usually
/// reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// ICE has found a pair of addresses (RFC 8445).
    IceConnected,
    /// The DTLS handshake is done and the peer's fingerprint is right (RFC 5763).
    DtlsDone,
    /// The peer's first packet of media came.
    FirstPacket,
    /// Our first packet of media has gone.
    FirstSent,
}

/// What happens to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEvent {
    /// A stage was reached.
    Reached(Stage),
    /// It was not and will not be, and why.
    Failed(Stage, &'static str),
    /// The peer does not agree any more to receive our packets (RFC 7675).
    ConsentLost,
}

/// The moment, chance, and the way out: what each step of a link needs.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The moment.
    pub now: Instant,
    /// For transactions and tie-breakers.
    pub random: &'a mut StdRng,
    /// Begins the numbers of our transactions, so that answers are known to be this call's.
    pub mark: u32,
    /// What is to be sent beside media.
    pub out: &'a mut Control,
}

/// What a datagram is, by its first byte (RFC 7983).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Checks of ICE, and their answers.
    Stun,
    /// A handshake.
    Dtls,
    /// Media or reports, protected or not.
    Rtp,
}

impl Protocol {
    /// Tells what a datagram is.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        match datagram.first()? {
            0..=3 => Some(Self::Stun),
            20..=63 => Some(Self::Dtls),
            128..=191 => Some(Self::Rtp),
            _ => None,
        }
    }
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is media or a report, in the clear in its first so many bytes.
    Media(usize),
    /// It was for the link itself.
    Control,
    /// It cannot be taken.
    Refused(Refused),
}

/// Why a link does not take a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No valid datagram of its kind.
    Malformed,
    /// From an address that the peer has not proven to be its own.
    Unproven,
    /// A check or answer with a wrong signature.
    Unsigned,
    /// Protected media before there are keys, or a handshake where none was agreed on.
    NoKeys,
    /// Not protected with the keys agreed on.
    Forged,
    /// It had been there before.
    Replayed,
}

#[derive(Debug)]
enum Security {
    Plain,
    /// Nothing is taken before the answer to our offer.
    Awaited,
    Sdes {
        srtp: Box<Srtp>,
        keys: Box<(SrtpKey, SrtpKey)>,
    },
    Dtls(Box<Secured>),
}

/// One call's link.
#[derive(Debug)]
pub struct Link {
    addresses: Addresses,
    ice: Option<Box<Finder>>,
    security: Security,
    v4_only: bool,
    events: VecDeque<LinkEvent>,
    /// Where ICE has packets go, and whether there are the keys for it, as of the last step. Each
    /// packet asks; to look deeper would have it fetch memory of another place.
    way: Option<SocketAddr>,
    is_keyed: bool,
    /// When media came last, unless ICE has been told.
    heard: Option<Instant>,
}

impl Link {
    /// The link of a call that begins. `certificate` is the one whose fingerprint our description
    /// tells; `v4_only` says that our socket does not reach IPv6.
    pub fn new(
        params: &MediaParams,
        certificate: Option<Arc<Certificate>>,
        v4_only: bool,
        turn: &mut Turn<'_>,
    ) -> Self {
        let mut link = Self {
            addresses: Addresses::new(params),
            ice: None,
            security: Security::Plain,
            v4_only,
            events: VecDeque::new(),
            way: None,
            is_keyed: false,
            heard: None,
        };
        link.agree(params, certificate, turn);
        link
    }

    /// A new offer was answered, or the late answer has come. What has not changed goes on: keys,
    /// association and checked addresses (RFC 8842 section 5.5, RFC 8839 section 4.4).
    pub fn update(
        &mut self,
        params: &MediaParams,
        certificate: Option<Arc<Certificate>>,
        turn: &mut Turn<'_>,
    ) {
        self.addresses.update(params);
        self.agree(params, certificate, turn);
    }

    fn agree(
        &mut self,
        params: &MediaParams,
        certificate: Option<Arc<Certificate>>,
        turn: &mut Turn<'_>,
    ) {
        match (&mut self.ice, &params.ice) {
            (Some(finder), Some(ice)) => finder.update(ice, self.v4_only, turn),
            (None, Some(ice)) => {
                self.ice = Some(Box::new(Finder::new(ice, self.v4_only, turn)));
            }
            (_, None) => self.ice = None,
        }
        let path = match self.ice {
            Some(_) => Path::Checked,
            None => Path::Unchecked,
        };
        let security = std::mem::replace(&mut self.security, Security::Awaited);
        self.security = security.agree(&params.keying, certificate, path);
        self.advance(turn);
    }

    /// Whether packets go as they are.
    pub fn is_plain(&self) -> bool {
        matches!(self.security, Security::Plain)
    }

    /// Whether something is under way that answers should be quick for.
    pub fn is_connecting(&self) -> bool {
        let finds = |finder: &Finder| finder.selected().is_none();
        self.ice.as_deref().is_some_and(finds)
            || matches!(&self.security, Security::Dtls(dtls) if !dtls.is_done())
    }

    /// Whether the peer has proven to be at this address, by ICE.
    pub fn knows(&self, address: SocketAddr) -> bool {
        self.ice
            .as_ref()
            .is_some_and(|finder| finder.knows(address))
    }

    /// The address that ICE has chosen, or chooses for now, whether or not there are keys yet.
    pub fn way(&self) -> Option<SocketAddr> {
        self.way
    }

    /// Media come from another address than the session description tells.
    pub fn latch(&mut self, from: SocketAddr) {
        self.addresses.latch(from);
    }

    /// Reports come from there.
    pub fn latch_rtcp(&mut self, from: SocketAddr) {
        self.addresses.latch_rtcp(from);
    }

    /// Where media go now; nowhere before there is a way and a key.
    pub fn route(&self) -> Route {
        match (self.is_keyed, &self.ice) {
            (false, _) => Route::default(),
            (true, Some(_)) => self.way.map(Route::to).unwrap_or_default(),
            (true, None) => self.addresses.route(),
        }
    }

    /// Takes a STUN message that names us, or answers one of ours.
    pub fn handle_stun(
        &mut self,
        turn: &mut Turn<'_>,
        from: SocketAddr,
        message: &Message<'_>,
    ) -> Taken {
        let Some(finder) = &mut self.ice else {
            return Taken::Refused(Refused::Unsigned);
        };
        let handled = finder.handle(turn, from, message);
        self.advance(turn);
        match handled {
            Handled::Answer(_) | Handled::Taken => Taken::Control,
            Handled::Unauthentic => Taken::Refused(Refused::Unsigned),
            Handled::Unusable => Taken::Refused(Refused::Malformed),
        }
    }

    /// Takes any other datagram. Media are decrypted in place.
    pub fn handle(&mut self, turn: &mut Turn<'_>, from: SocketAddr, datagram: &mut [u8]) -> Taken {
        if self.ice.is_some() && self.way != Some(from) && !self.knows(from) {
            return Taken::Refused(Refused::Unproven);
        }
        let taken = match Protocol::of(datagram) {
            Some(Protocol::Rtp) => self.security.unprotect(datagram),
            Some(Protocol::Dtls) => {
                let Security::Dtls(dtls) = &mut self.security else {
                    return Taken::Refused(Refused::NoKeys);
                };
                dtls.handle(turn, from, datagram);
                self.advance(turn);
                Taken::Control
            }
            Some(Protocol::Stun) | None => Taken::Refused(Refused::Malformed),
        };
        if let Taken::Media(_) = taken {
            self.heard = Some(turn.now);
        }
        taken
    }

    /// An unsigned sign of life from the peer's address.
    pub fn keep_alive(&mut self, now: Instant, from: SocketAddr) {
        if let Some(finder) = self.ice.as_mut().filter(|finder| finder.knows(from)) {
            finder.heard_media(now);
        }
    }

    /// Something is due.
    pub fn handle_timeout(&mut self, turn: &mut Turn<'_>) {
        if let Security::Dtls(dtls) = &mut self.security {
            dtls.handle_timeout(turn);
        }
        self.advance(turn);
    }

    /// Takes the next steps that can be taken, and notes what has happened.
    fn advance(&mut self, turn: &mut Turn<'_>) {
        self.find(turn);
        self.secure(turn);
        self.is_keyed = match &self.security {
            Security::Plain | Security::Sdes { .. } => true,
            Security::Awaited => false,
            Security::Dtls(dtls) => dtls.srtp.is_some(),
        };
    }

    fn find(&mut self, turn: &mut Turn<'_>) {
        let heard = self.heard.take();
        let Some(finder) = &mut self.ice else {
            self.way = None;
            return;
        };
        if let Some(at) = heard {
            finder.heard_media(at);
        }
        if let Some(found) = finder.advance(turn) {
            self.events.push_back(match found {
                Found::Connected => LinkEvent::Reached(Stage::IceConnected),
                Found::Nothing => LinkEvent::Failed(
                    Stage::IceConnected,
                    "no address of the peer answers or sends checks",
                ),
                Found::ConsentLost => LinkEvent::ConsentLost,
            });
        }
        self.way = finder.way();
    }

    fn secure(&mut self, turn: &mut Turn<'_>) {
        let way = match &self.ice {
            Some(_) => self.way,
            None => self.addresses.route().rtp,
        };
        let Security::Dtls(dtls) = &mut self.security else {
            return;
        };
        if let Some(peer) = way {
            dtls.reach(turn, peer);
        }
        while let Some(outcome) = dtls.poll(turn.now) {
            self.events.push_back(match outcome {
                Outcome::Done => LinkEvent::Reached(Stage::DtlsDone),
                Outcome::Failed(error) => LinkEvent::Failed(Stage::DtlsDone, in_words(error)),
            });
        }
    }

    /// When [`Link::handle_timeout`] is to be called, if nothing else happens before.
    pub fn next_timeout(&self) -> Option<Instant> {
        let ice = self.ice.as_ref().and_then(|finder| finder.next_timeout());
        let dtls = match &self.security {
            Security::Dtls(dtls) => dtls.next_timeout(),
            Security::Plain | Security::Awaited | Security::Sdes { .. } => None,
        };
        [ice, dtls].into_iter().flatten().min()
    }

    /// What has happened. To be asked until there is nothing.
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        let event = self.events.pop_front();
        if event.is_none() {
            // Hardly anything will follow, in a call of minutes.
            self.events.shrink_to_fit();
        }
        event
    }

    /// Protects the packet in the first `len` bytes of `room` and tells its new length. `None`: it
    /// must not be sent.
    pub fn protect(&mut self, room: &mut [u8], len: usize) -> Option<usize> {
        let srtp = match &mut self.security {
            Security::Plain => return Some(len),
            Security::Awaited => return None,
            Security::Sdes { srtp, .. } => srtp,
            Security::Dtls(dtls) => dtls.srtp.as_mut()?,
        };
        match is_rtcp(room) {
            true => srtp.protect_rtcp(room, len).ok(),
            false => srtp.protect_rtp(room, len).ok(),
        }
    }
}

impl Security {
    /// What follows upon this by a new agreement.
    fn agree(self, keying: &Keying, certificate: Option<Arc<Certificate>>, path: Path) -> Self {
        match (keying, self) {
            (Keying::Plain, _) => Self::Plain,
            (Keying::Awaited, _) => Self::Awaited,
            (Keying::Sdes { send, receive }, Self::Sdes { mut srtp, mut keys }) => {
                if keys.0 != *send || keys.1 != *receive {
                    srtp.change_keys(Srtp::new(send, receive));
                    *keys = (send.clone(), receive.clone());
                }
                Self::Sdes { srtp, keys }
            }
            (Keying::Sdes { send, receive }, _) => Self::Sdes {
                srtp: Box::new(Srtp::new(send, receive)),
                keys: Box::new((send.clone(), receive.clone())),
            },
            (
                Keying::Dtls {
                    role, fingerprints, ..
                },
                Self::Dtls(dtls),
            ) if dtls.role == *role && dtls.fingerprints == *fingerprints => Self::Dtls(dtls),
            (
                Keying::Dtls {
                    role, fingerprints, ..
                },
                before,
            ) => {
                // The former keys serve until there are new ones.
                let srtp = match before {
                    Self::Dtls(dtls) => dtls.srtp,
                    Self::Plain | Self::Awaited | Self::Sdes { .. } => None,
                };
                match certificate {
                    Some(certificate) => {
                        let secured = Secured::new(*role, fingerprints, certificate, path, srtp);
                        Self::Dtls(Box::new(secured))
                    }
                    // Our description told no certificate that we have: nothing can be taken.
                    None => Self::Awaited,
                }
            }
        }
    }

    fn unprotect(&mut self, packet: &mut [u8]) -> Taken {
        let srtp = match self {
            Self::Plain => return Taken::Media(packet.len()),
            Self::Sdes { srtp, .. } => Some(srtp.as_mut()),
            Self::Dtls(dtls) => dtls.srtp.as_mut(),
            Self::Awaited => None,
        };
        let Some(srtp) = srtp else {
            return Taken::Refused(Refused::NoKeys);
        };
        let plain = match is_rtcp(packet) {
            true => srtp.unprotect_rtcp(packet),
            false => srtp.unprotect_rtp(packet),
        };
        match plain {
            Ok(len) => Taken::Media(len),
            Err(SrtpError::Replayed) => Taken::Refused(Refused::Replayed),
            Err(SrtpError::Malformed) => Taken::Refused(Refused::Malformed),
            Err(_) => Taken::Refused(Refused::Forged),
        }
    }
}

/// Whether a packet of media is a report (RFC 5761 section 4).
pub fn is_rtcp(packet: &[u8]) -> bool {
    packet.get(1).is_some_and(|kind| (192..=223).contains(kind))
}

/// Why a handshake failed, for logs.
fn in_words(error: DtlsError) -> &'static str {
    match error {
        DtlsError::Silent => "the peer has not begun the DTLS handshake",
        DtlsError::Stalled => "the DTLS handshake was not complete in time",
        DtlsError::FingerprintMismatch => {
            "the peer's certificate has another fingerprint than told"
        }
        DtlsError::NoFingerprint => "the peer told no fingerprint that can be checked",
        DtlsError::NoCertificate => "the peer has no certificate that can be used",
        DtlsError::NoSuite => "no version, cipher suite or group of DTLS in common",
        DtlsError::NoSrtpProfile => "no SRTP profile in common",
        DtlsError::Refused(_) => "the peer broke the DTLS handshake off",
        DtlsError::Faulty => "the peer's DTLS handshake is faulty",
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "virtual time begins at some moment"
)]
mod tests;
