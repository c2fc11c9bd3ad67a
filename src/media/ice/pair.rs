//! One address of the peer, and the checks that go there.

use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use rand::Rng;
use rand::rngs::StdRng;

use crate::media::ice::stun::TransactionId;

/// The first wait for an answer, doubled each time (RFC 8445 section 14.3) up to [`MAX_WAIT`].
const WAIT: Duration = Duration::from_millis(500);
const MAX_WAIT: Duration = Duration::from_millis(1_600);
/// A check is sent so many times (RFC 8489 section 6.2.1).
const MAX_SENT: u8 = 7;

/// How far the checks of a pair have come. Without several streams there is nothing frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    InProgress,
    Succeeded,
    Failed,
}

impl State {
    /// Whether it may still succeed.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Waiting | Self::InProgress)
    }
}

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) remote: SocketAddr,
    /// The peer's candidate's. Ours is the same in all pairs, so this alone orders them.
    pub(super) priority: u32,
    pub(super) state: State,
    /// The peer has nominated it.
    pub(super) nominated: bool,
    /// We nominate it.
    pub(super) nominating: bool,
    /// Of the check that waits for its answer, or was answered last.
    pub(super) transaction: Option<TransactionId>,
    pub(super) asked_as_controlling: bool,
    /// When the next check goes out.
    pub(super) due: Option<Instant>,
    /// When the peer's last check came.
    pub(super) heard: Option<Instant>,
    /// How often the check was sent.
    sent: u8,
}

impl Pair {
    pub(super) fn new(remote: SocketAddr, priority: u32, now: Instant) -> Self {
        Self {
            remote,
            priority,
            state: State::Waiting,
            nominated: false,
            nominating: false,
            transaction: None,
            asked_as_controlling: false,
            due: Some(now),
            heard: None,
            sent: 0,
        }
    }

    /// Whether the peer was met there.
    pub(super) fn is_proven(&self) -> bool {
        self.heard.is_some() || self.state == State::Succeeded
    }

    /// A new check, at once.
    pub(super) fn restart(&mut self, now: Instant) {
        self.transaction = None;
        self.sent = 0;
        self.due = Some(now);
    }

    /// The peer has checked: so do we (RFC 8445 section 7.3.1.4).
    pub(super) fn trigger(&mut self, now: Instant) {
        match self.state {
            State::Succeeded => {}
            State::InProgress => self.due = Some(now),
            State::Waiting | State::Failed => {
                self.state = State::Waiting;
                self.restart(now);
            }
        }
    }

    /// Counts one more check on its way. Tells whether it is to be sent, or the pair has failed.
    pub(super) fn begin_check(
        &mut self,
        now: Instant,
        is_consent: bool,
        controlling: bool,
        mark: u32,
        random: &mut StdRng,
    ) -> bool {
        if self.sent >= MAX_SENT && !is_consent {
            self.fail();
            return false;
        }
        // RFC 7675 section 5.1: each check for consent is a transaction of its own.
        if is_consent || self.transaction.is_none() {
            let mut transaction = TransactionId::default();
            let (head, tail) = transaction.split_at_mut(size_of::<u32>());
            head.copy_from_slice(&mark.to_be_bytes());
            random.fill_bytes(tail);
            self.transaction = Some(transaction);
            self.asked_as_controlling = controlling;
        }
        if self.state == State::Waiting {
            self.state = State::InProgress;
        }
        let wait = (WAIT * (1 << u32::from(self.sent).min(4))).min(MAX_WAIT);
        self.sent = self.sent.saturating_add(1);
        self.due = Some(now + wait);
        true
    }

    pub(super) fn succeed(&mut self) {
        self.state = State::Succeeded;
        self.sent = 0;
        self.transaction = None;
        self.due = None;
    }

    pub(super) fn fail(&mut self) {
        self.state = State::Failed;
        self.nominating = false;
        self.transaction = None;
        self.due = None;
    }
}
