//! DTLS-SRTP as a link has it: an association, and the keys that it gave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::media::dtls::Certificate;
use crate::media::dtls::Dtls;
use crate::media::dtls::DtlsError;
use crate::media::dtls::DtlsEvent;
use crate::media::dtls::Path;
use crate::media::link::Turn;
use crate::media::sdp::DtlsRole;
use crate::media::sdp::Fingerprint;
use crate::media::srtp::Srtp;

/// A finished association answers repetitions for so long at most; then its memory is given back:
/// it is ten times what stays of a call's keys.
const LINGER: Duration = Duration::from_secs(10);
/// That of a client is given back when so long nothing has come, and nothing of its own waits to be
/// acknowledged: the last word of the handshake is the server's (RFC 6347 section 4.2.4, RFC 9147
/// section 5.8.1).
const SETTLED: Duration = Duration::from_secs(2);
/// So long after there was a way to go, a client has begun its handshake.
const PATIENCE: Duration = Duration::from_secs(15);

/// Whoever was first at a port that ICE does not guard has so long for his handshake before another
/// may try.
const TURN: Duration = Duration::from_secs(1);
/// After so long a client whose handshake a stranger has spoilt begins anew.
const PAUSE: Duration = Duration::from_millis(100);

/// What a handshake has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Failed(DtlsError),
}

#[derive(Debug)]
pub(super) struct Secured {
    pub(super) role: DtlsRole,
    pub(super) fingerprints: Vec<Fingerprint>,
    certificate: Arc<Certificate>,
    path: Path,
    association: Option<Box<Dtls>>,
    /// Of this association; of the one before until this one has any.
    pub(super) srtp: Option<Srtp>,
    /// The way to the peer, as ICE or the descriptions have it.
    way: Option<SocketAddr>,
    /// With whom the handshake goes on, and since when.
    partner: Option<(SocketAddr, Instant)>,
    /// Until then a handshake that strangers may have spoilt begins anew.
    until: Option<Instant>,
    /// What went wrong first.
    spoilt: Option<DtlsError>,
    /// When there were keys.
    done: Option<Instant>,
    failed: bool,
    /// When to give up waiting for the peer to begin, or the association is forgotten.
    alarm: Option<Instant>,
}

impl Secured {
    pub(super) fn new(
        role: DtlsRole,
        fingerprints: &[Fingerprint],
        certificate: Arc<Certificate>,
        path: Path,
        srtp: Option<Srtp>,
    ) -> Self {
        Self {
            role,
            fingerprints: fingerprints.to_vec(),
            certificate,
            path,
            association: None,
            srtp,
            way: None,
            partner: None,
            until: None,
            spoilt: None,
            done: None,
            failed: false,
            alarm: None,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.is_some()
    }

    /// There is a way to the peer: who is active begins, who is not waits for it.
    pub(super) fn reach(&mut self, turn: &mut Turn<'_>, way: SocketAddr) {
        self.way = Some(way);
        if self.association.is_some() || self.is_done() || self.failed || self.alarm.is_some() {
            return;
        }
        if self.role == DtlsRole::Active {
            self.begin(turn.now);
            self.send(turn);
        } else {
            self.alarm = Some(turn.now + PATIENCE);
        }
    }

    fn begin(&mut self, now: Instant) {
        let Self {
            role,
            path,
            certificate,
            fingerprints,
            ..
        } = self;
        let association = Dtls::new(now, *role, *path, certificate, fingerprints);
        self.association = Some(Box::new(association));
        self.alarm = None;
        self.until.get_or_insert(now + PATIENCE);
    }

    /// Whether a datagram from there may belong to the handshake. Without ICE nothing proves that,
    /// and who is passive may have to wait for packets from behind a NAT: then whoever is first has
    /// his turn, but not for ever, and whom the description names comes before him.
    fn admits(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> bool {
        if self.path == Path::Checked {
            return true;
        }
        if self.role == DtlsRole::Active {
            return self.way.is_some_and(|way| way.ip() == from.ip());
        }
        let Some((partner, since)) = self.partner else {
            return is_client_hello(datagram);
        };
        if partner == from {
            return true;
        }
        let is_over = now.saturating_duration_since(since) >= TURN;
        let comes_first = is_over || self.way == Some(from);
        let begins = comes_first && is_client_hello(datagram);
        let takes_over = begins && !self.is_done() && self.may_retry(now);
        if takes_over {
            self.association = None;
            self.partner = None;
        }
        takes_over
    }

    fn may_retry(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Takes a datagram of the handshake.
    pub(super) fn handle(&mut self, turn: &mut Turn<'_>, from: SocketAddr, datagram: &[u8]) {
        if !self.admits(turn.now, from, datagram) {
            return;
        }
        if self.association.is_none() && !self.is_done() && !self.failed {
            self.begin(turn.now);
        }
        let Some(association) = &mut self.association else {
            return;
        };
        self.partner = match self.partner {
            Some((partner, since)) if partner == from => Some((partner, since)),
            _ => Some((from, turn.now)),
        };
        association.handle(turn.now, datagram);
        self.send(turn);
        self.linger(turn.now);
    }

    /// Notes when a finished association has nothing more to say.
    fn linger(&mut self, now: Instant) {
        if let Some(done) = self.done {
            let settled = match self.role {
                DtlsRole::Active => now + SETTLED,
                DtlsRole::Passive => done + LINGER,
            };
            self.alarm = Some(settled.min(done + LINGER));
        }
    }

    pub(super) fn handle_timeout(&mut self, turn: &mut Turn<'_>) {
        if self.alarm.is_some_and(|at| at <= turn.now) {
            self.alarm = None;
            if let Some(done) = self.done {
                let waits = |association: &Dtls| association.next_timeout().is_some();
                if turn.now < done + LINGER && self.association.as_deref().is_some_and(waits) {
                    self.linger(turn.now);
                } else {
                    self.association = None;
                }
            } else {
                self.begin(turn.now);
                self.send(turn);
            }
        }
        let due = self.association.as_deref().and_then(Dtls::next_timeout);
        if due.is_some_and(|due| due <= turn.now)
            && let Some(association) = &mut self.association
        {
            association.handle_timeout(turn.now);
            self.send(turn);
        }
    }

    fn send(&mut self, turn: &mut Turn<'_>) {
        let partner = self.partner.map(|(partner, _)| partner);
        let to = match self.path {
            Path::Checked => self.way.or(partner),
            Path::Unchecked => partner.or(self.way),
        };
        let (Some(association), Some(to)) = (&mut self.association, to) else {
            return;
        };
        let mut is_more = true;
        while is_more {
            turn.out.push_with(to, |buffer| {
                let len = association.poll_transmit(buffer);
                is_more = len.is_some();
                len
            });
        }
    }

    pub(super) fn poll(&mut self, now: Instant) -> Option<Outcome> {
        match self.association.as_mut()?.poll_event()? {
            DtlsEvent::Done(keys) => {
                match &mut self.srtp {
                    Some(srtp) => srtp.change_keys(*keys),
                    None => self.srtp = Some(*keys),
                }
                self.done = Some(now);
                self.linger(now);
                Some(Outcome::Done)
            }
            DtlsEvent::Failed(error) => {
                self.association = None;
                let first = *self.spoilt.get_or_insert(error);
                if self.was_perhaps_a_stranger() && self.may_retry(now) {
                    self.partner = None;
                    self.alarm = match self.role {
                        DtlsRole::Active => Some(now + PAUSE),
                        DtlsRole::Passive => self.until,
                    };
                    return None;
                }
                self.failed = true;
                Some(Outcome::Failed(first))
            }
            // The end of a call is told by its signalling.
            DtlsEvent::Closed => None,
        }
    }

    /// Whether the handshake went with somebody of whom nobody has told.
    fn was_perhaps_a_stranger(&self) -> bool {
        let is_told = |(partner, _)| self.way == Some(partner);
        self.path == Path::Unchecked && self.partner.is_some_and(|partner| !is_told(partner))
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let association = self.association.as_deref().and_then(Dtls::next_timeout);
        [association, self.alarm].into_iter().flatten().min()
    }
}

/// Whether a datagram begins a handshake: its first record is the first message of a client (RFC
/// 9147 sections 4 and 5.2).
fn is_client_hello(datagram: &[u8]) -> bool {
    const HANDSHAKE: u8 = 22;
    const RECORD_HEAD: usize = 13;
    const CLIENT_HELLO: u8 = 1;
    datagram.first() == Some(&HANDSHAKE) && datagram.get(RECORD_HEAD) == Some(&CLIENT_HELLO)
}
