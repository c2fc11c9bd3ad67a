//! DTLS-SRTP: the handshake that gives a call its keys (RFC 5763, RFC 5764), over DTLS 1.3
//! (RFC 9147) or 1.2 (RFC 6347).
//!
//! Pure, apart from the random numbers of its keys: datagrams and `now` go in; datagrams, one
//! event and the next deadline come out. After the handshake it answers what of it is repeated
//! late, and hears the peer close; media does not pass through it.
//!
//! `docs/decisions/0009-dtls.md` tells which peers it understands and which not.

mod certificate;

use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;
use std::time::Instant;

use dimpl::Config;
use dimpl::KeyingMaterial;
use dimpl::Output;
use dimpl::SrtpProfile;

use crate::media::sdp::DtlsRole;
use crate::media::sdp::Fingerprint;
use crate::media::sdp::SrtpKey;
use crate::media::sdp::SrtpSuite;
use crate::media::srtp::Srtp;

pub use crate::media::dtls::certificate::Certificate;
pub use crate::media::dtls::certificate::CertificateError;
pub use crate::media::dtls::certificate::Certificates;

/// No datagram of ours is longer, in bytes: it passes wherever IPv6 does.
pub const MAX_DATAGRAM: usize = 1200;
/// So long after [`Dtls::new`] a handshake may take.
pub const DEADLINE: Duration = Duration::from_secs(12);

/// The first wait before a flight is repeated; it doubles. RTCWEB peers begin as early.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The library is not woken more often without a datagram: in DTLS 1.3 it would acknowledge what it
/// has of a flight with a gap again and again, without a pause.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
/// What is repeated for the peer's repetitions counts too, so this is no bound of time.
const REPETITIONS: usize = 24;
/// A certificate of the peer is no longer, in bytes.
const MAX_CERTIFICATE: usize = 16 * 1024;
/// Deadlines further away than this stand for none.
const FAR: Duration = Duration::from_secs(3600);

/// Whether the peer's address is known to be its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// ICE has checked it.
    Checked,
    /// Nothing has: a client has to return a cookie before it is believed.
    Unchecked,
}

/// What became of a handshake.
#[derive(Debug)]
pub enum DtlsEvent {
    /// The peer is who it should be; these are the keys.
    Done(Box<Srtp>),
    /// There are no keys and there will be none.
    Failed(DtlsError),
    /// The peer has closed the association: it has hung up.
    Closed,
}

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DtlsError {
    /// Nothing came before the deadline.
    #[error("the peer has not begun the DTLS handshake")]
    Silent,
    /// It began, and was not complete at the deadline.
    #[error("the DTLS handshake was not complete in time")]
    Stalled,
    /// The certificate is not the one that signalling told.
    #[error("the peer's certificate does not have the fingerprint of its session description")]
    FingerprintMismatch,
    /// Signalling told no fingerprint that can be checked.
    #[error("the peer's session description has no fingerprint of a known hash function")]
    NoFingerprint,
    /// It has none, or one with a key of another kind.
    #[error("the peer has no certificate with a key on P-256 or P-384, or with an RSA key")]
    NoCertificate,
    /// No version, cipher suite or group in common.
    #[error("the peer has no version, cipher suite or group of DTLS in common with us")]
    NoSuite,
    /// It does not want keys for SRTP.
    #[error("the peer has no SRTP profile in common with us")]
    NoSrtpProfile,
    /// The peer broke the handshake off, with this alert (RFC 8446 section 6).
    #[error("the peer broke the DTLS handshake off with alert {0}")]
    Refused(u8),
    /// It does not keep to the protocol.
    #[error("the peer's DTLS handshake is faulty")]
    Faulty,
}

/// One association.
pub struct Dtls {
    role: DtlsRole,
    expected: Vec<Fingerprint>,
    state: State,
    /// Gone once there is nothing more to say.
    inner: Option<Box<dimpl::Dtls>>,
    now: Instant,
    next: Option<Instant>,
    event: Option<DtlsEvent>,
    /// Whether the peer's closing is still to be told.
    tell_closed: bool,
}

#[derive(Debug)]
enum State {
    Handshaking {
        deadline: Instant,
        /// Whether anything came.
        has_begun: bool,
        /// Whether the peer's certificate is the right one.
        is_verified: bool,
        /// Whether the handshake is complete; its keys follow at once, if there are any.
        is_complete: bool,
    },
    Done,
    Over,
}

impl std::fmt::Debug for Dtls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dtls")
            .field("role", &self.role)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Dtls {
    /// Begins a handshake with a peer whose certificate has one of the fingerprints `expected`. It
    /// has until [`DEADLINE`] from `now`.
    pub fn new(
        now: Instant,
        role: DtlsRole,
        path: Path,
        certificate: &Certificate,
        expected: &[Fingerprint],
    ) -> Self {
        let config = match path {
            Path::Checked => LazyLock::force(&CHECKED),
            Path::Unchecked => LazyLock::force(&UNCHECKED),
        };
        Self::with_config(now, role, Arc::clone(config), certificate, expected)
    }

    fn with_config(
        now: Instant,
        role: DtlsRole,
        config: Arc<Config>,
        certificate: &Certificate,
        expected: &[Fingerprint],
    ) -> Self {
        let inner = dimpl::Dtls::new_auto(config, certificate.pair(), now);
        Self::around(now, role, inner, expected)
    }

    fn around(
        now: Instant,
        role: DtlsRole,
        mut inner: dimpl::Dtls,
        expected: &[Fingerprint],
    ) -> Self {
        inner.set_active(role == DtlsRole::Active);
        let mut dtls = Self {
            role,
            expected: expected.to_vec(),
            state: State::Handshaking {
                deadline: now + DEADLINE,
                has_begun: false,
                is_verified: false,
                is_complete: false,
            },
            inner: Some(Box::new(inner)),
            now,
            next: None,
            event: None,
            tell_closed: false,
        };
        if expected.is_empty() {
            dtls.fail(DtlsError::NoFingerprint);
        }
        dtls.handle_timeout(now);
        dtls
    }

    /// Takes a datagram of the peer. Call [`Self::poll_transmit`] afterwards.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) {
        if let State::Handshaking { has_begun, .. } = &mut self.state {
            *has_begun = true;
        }
        self.now = now;
        self.drive(|inner| {
            inner.handle_timeout(now)?;
            inner.handle_packet(datagram)
        });
    }

    /// Time has passed. Call [`Self::poll_transmit`] afterwards.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let State::Handshaking {
            deadline,
            has_begun,
            ..
        } = self.state
            && deadline <= now
        {
            self.fail(if has_begun {
                DtlsError::Stalled
            } else {
                DtlsError::Silent
            });
        }
        if self.next.is_none_or(|at| at <= now) {
            self.now = now;
            self.drive(|inner| inner.handle_timeout(now));
        }
    }

    /// When [`Self::handle_timeout`] is to be called next. It counts after
    /// [`Self::poll_transmit`] has told that there is nothing more to send.
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Handshaking { deadline, .. } => {
                Some(self.next.map_or(deadline, |next| next.min(deadline)))
            }
            State::Done => self.next,
            State::Over => None,
        }
    }

    /// Writes the next datagram to send into `buffer`, of [`MAX_DATAGRAM`] bytes, and tells its
    /// length. Call it until there is none.
    pub fn poll_transmit(&mut self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            let inner = self.inner.as_mut()?;
            match inner.poll_output(buffer) {
                Output::Packet(packet) => return Some(packet.len()),
                Output::Timeout(at) => {
                    let at = at.max(self.now + SHORTEST_WAIT);
                    self.next = (at < self.now + FAR).then_some(at);
                    if matches!(
                        self.state,
                        State::Handshaking {
                            is_complete: true,
                            ..
                        }
                    ) {
                        self.fail(DtlsError::NoSrtpProfile);
                    }
                    return None;
                }
                Output::BufferTooSmall { needed } if needed <= MAX_CERTIFICATE => {
                    let mut larger = vec![0; needed];
                    match inner.poll_output(&mut larger) {
                        Output::PeerCert(certificate) => self.verify(certificate),
                        Output::ApplicationData(_) => {}
                        _ => self.give_up(DtlsError::Faulty),
                    }
                }
                Output::BufferTooSmall { .. } => self.give_up(DtlsError::Faulty),
                Output::PeerCert(certificate) => self.verify(certificate),
                Output::KeyingMaterial(material, profile) => self.keys(&material, profile),
                Output::Connected => self.completed(),
                Output::CloseNotify => self.closed(),
                // Nothing but the handshake has a meaning here.
                _ => {}
            }
        }
    }

    /// What has happened, after [`Self::poll_transmit`] has told that there is nothing more to
    /// send. Call it until there is nothing more.
    pub fn poll_event(&mut self) -> Option<DtlsEvent> {
        let closed = || std::mem::take(&mut self.tell_closed).then_some(DtlsEvent::Closed);
        self.event.take().or_else(closed)
    }

    /// Tells the peer that the association ends; [`Self::poll_transmit`] has the words.
    pub fn close(&mut self) {
        self.drive(dimpl::Dtls::close);
    }
}

impl Dtls {
    fn drive(&mut self, act: impl FnOnce(&mut dimpl::Dtls) -> Result<(), dimpl::Error>) {
        let Some(inner) = &mut self.inner else {
            return;
        };
        match act(inner) {
            // The error is no server's answer, but a stray datagram: nothing has changed.
            Ok(())
            | Err(dimpl::Error::UnexpectedMessage(
                dimpl::UnexpectedMessageError::UnrecognizedAutoServerResponse,
            )) => {}
            Err(error) => self.broken(&error),
        }
    }

    /// The association must not be touched again after an error.
    fn broken(&mut self, error: &dimpl::Error) {
        self.inner = None;
        match (&self.state, reason(error)) {
            (
                State::Handshaking {
                    has_begun: false, ..
                },
                DtlsError::Stalled,
            ) => {
                self.fail(DtlsError::Silent);
            }
            (State::Handshaking { .. }, reason) => self.fail(reason),
            (State::Done, DtlsError::Refused(_)) => self.closed(),
            // What the keys protect goes on.
            (State::Done | State::Over, _) => self.next = None,
        }
    }

    /// What goes wrong after the handshake does not undo it.
    fn give_up(&mut self, error: DtlsError) {
        self.inner = None;
        self.next = None;
        if matches!(self.state, State::Handshaking { .. }) {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: DtlsError) {
        self.inner = None;
        self.state = State::Over;
        self.event = Some(DtlsEvent::Failed(error));
    }

    fn closed(&mut self) {
        match self.state {
            State::Handshaking { .. } => self.fail(DtlsError::Refused(CLOSE_NOTIFY)),
            State::Done => {
                self.inner = None;
                self.state = State::Over;
                self.tell_closed = true;
            }
            State::Over => {}
        }
    }

    fn verify(&mut self, certificate: &[u8]) {
        let State::Handshaking { is_verified, .. } = &mut self.state else {
            return;
        };
        *is_verified = certificate::has_fingerprint(certificate, &self.expected);
        if !*is_verified {
            self.fail(DtlsError::FingerprintMismatch);
        }
    }

    fn completed(&mut self) {
        if let State::Handshaking { is_complete, .. } = &mut self.state {
            *is_complete = true;
        }
    }

    fn keys(&mut self, material: &KeyingMaterial, profile: SrtpProfile) {
        match (&self.state, exported(material, profile, self.role)) {
            (
                State::Handshaking {
                    is_verified: false, ..
                },
                _,
            ) => {
                self.fail(DtlsError::NoCertificate);
            }
            (State::Handshaking { .. }, Some(keys)) => {
                self.state = State::Done;
                self.event = Some(DtlsEvent::Done(Box::new(keys)));
            }
            (State::Handshaking { .. }, None) => self.fail(DtlsError::NoSrtpProfile),
            (State::Done | State::Over, _) => {}
        }
    }
}

/// The alert of an orderly end.
const CLOSE_NOTIFY: u8 = 0;

static CHECKED: LazyLock<Arc<Config>> = LazyLock::new(|| configured(Path::Checked, MAX_DATAGRAM));
static UNCHECKED: LazyLock<Arc<Config>> =
    LazyLock::new(|| configured(Path::Unchecked, MAX_DATAGRAM));

fn configured(path: Path, mtu: usize) -> Arc<Config> {
    let config = Config::builder()
        .mtu(mtu)
        .flight_start_rto(FIRST_WAIT)
        .flight_retries(REPETITIONS)
        .handshake_timeout(DEADLINE)
        .use_server_cookie(path == Path::Unchecked)
        .build();
    Arc::new(config.expect("the settings are constants"))
}

/// RFC 5764 section 4.2: the keys of client and server, then their salts.
fn exported(material: &[u8], profile: SrtpProfile, role: DtlsRole) -> Option<Srtp> {
    let (suite, key_len) = match profile {
        SrtpProfile::AES128_CM_SHA1_80 => (SrtpSuite::AesCm128HmacSha1_80, 16),
        SrtpProfile::AEAD_AES_128_GCM => (SrtpSuite::AeadAes128Gcm, 16),
        SrtpProfile::AEAD_AES_256_GCM => (SrtpSuite::AeadAes256Gcm, 32),
        _ => return None,
    };
    let salt_len = suite.key_and_salt_len() - key_len;
    let (client_key, rest) = material.split_at_checked(key_len)?;
    let (server_key, rest) = rest.split_at_checked(key_len)?;
    let (client_salt, server_salt) = rest.split_at_checked(salt_len)?;
    let client = SrtpKey::new(suite, &[client_key, client_salt].concat())?;
    let server = SrtpKey::new(suite, &[server_key, server_salt].concat())?;
    Some(match role {
        DtlsRole::Active => Srtp::new(&client, &server),
        DtlsRole::Passive => Srtp::new(&server, &client),
    })
}

/// What an error of the library means to an operator.
fn reason(error: &dimpl::Error) -> DtlsError {
    use dimpl::CertificateError;
    use dimpl::CryptoError;
    use dimpl::Error;
    use dimpl::SecurityError;
    match error {
        Error::Timeout(_) => DtlsError::Stalled,
        Error::SecurityError(SecurityError::FatalAlert { description }) => {
            DtlsError::Refused(*description)
        }
        Error::SecurityError(
            SecurityError::NoMutuallyAcceptableCipherSuite
            | SecurityError::NoCommonCipherSuite
            | SecurityError::NoCommonKeyExchangeGroup
            | SecurityError::UnsupportedClientVersion(_)
            | SecurityError::UnsupportedServerVersion(_)
            | SecurityError::ExtendedMasterSecretNotNegotiated,
        ) => DtlsError::NoSuite,
        Error::CertificateError(
            CertificateError::NoServerCertificateReceived
            | CertificateError::NoClientCertificateReceived
            | CertificateError::UnsupportedEcCurve,
        )
        | Error::CryptoError(
            CryptoError::UnsupportedPublicKeyAlgorithm
            | CryptoError::UnsupportedEcCurve
            | CryptoError::UnsupportedSignatureAlgorithm(_),
        ) => DtlsError::NoCertificate,
        _ => DtlsError::Faulty,
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "virtual time begins at some moment"
)]
mod tests;
