//! ICE (RFC 8445): finds the addresses over which a call's packets flow, and keeps the peer's
//! consent to receive them (RFC 7675). Pure: messages and the time go in, answers and checks come
//! out in the caller's buffer.
//!
//! All calls of a worker share a socket, so there is one local candidate, and a pair is known by the
//! peer's address. There is one component (RFC 5761 is required with ICE). What an authenticated
//! peer can make us keep is bounded; a stranger leaves nothing. `docs/decisions/0010-own-ice.md`
//! tells why this is not a crate.

mod pair;
pub mod stun;

use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use rand::Rng;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::media::ice::pair::Pair;
use crate::media::ice::pair::State;
use crate::media::ice::stun::Class;
use crate::media::ice::stun::Message;
use crate::media::ice::stun::Role;
use crate::media::ice::stun::TransactionId;
use crate::media::ice::stun::Writer;
use crate::media::sdp::IceCredentials;
use crate::media::sdp::IceParams;

/// So many addresses of a peer are known at once; those it tells, and those its checks come from.
pub const MAX_PAIRS: usize = 16;

/// Checks are not sent more often than this (RFC 8445 section 14.2).
const PACE: Duration = Duration::from_millis(50);
/// A controlling agent waits so long for a better pair than the first that works.
const BETTER_PAIR: Duration = Duration::from_millis(200);
/// Mean interval of checks that keep consent (RFC 7675 section 5.1).
const CONSENT_INTERVAL: Duration = Duration::from_secs(5);
/// Without a sign for so long there is no consent any more.
const CONSENT: Duration = Duration::from_secs(30);
/// Peers that nominate aggressively (RFC 5245) nominate all their pairs within this time, and mean
/// the one of the highest priority. After it, the last nomination counts: the peer has moved.
const AGGRESSIVE: Duration = Duration::from_secs(2);
/// Of addresses not yet known, so many checks a second with a wrong signature are looked at.
const MAX_FAILURES: u32 = 64;
/// What our checks say their source would have as a peer-reflexive candidate (RFC 8445 section
/// 5.1.2): type preference 110, the highest local preference, component 1.
const PRIORITY: u32 = (110 << 24) | (0xFFFF << 8) | 255;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// An answer of so many bytes stands in the buffer, for where the message came from.
    Answer(usize),
    /// It was taken; there is nothing to answer.
    Taken,
    /// It is not signed as it should be, or answers nothing that we asked.
    Unauthentic,
    /// It lacks what a check must have, or says something impossible.
    Unusable,
}

/// One side of ICE with one pair of credentials. A restart is a new agent. It lives as long as its
/// call, and signs something every few seconds: keys are made of the passwords each time, for they
/// are fifty times as large.
#[derive(Debug)]
pub struct Agent {
    local: IceCredentials,
    /// The peer's, once it has told them.
    remote: Option<IceCredentials>,
    /// Whether we only answer checks.
    lite: bool,
    controlling: bool,
    tie_breaker: u64,
    pairs: Vec<Pair>,
    selected: Option<SocketAddr>,
    /// When the first pair was selected.
    connected: Option<Instant>,
    /// When the first check succeeded, as long as none is nominated.
    first_success: Option<Instant>,
    /// The last sign of consent.
    consent: Instant,
    /// Before this no check is sent.
    paced: Instant,
    /// Wrong signatures since.
    failures: (u32, Instant),
    v4_only: bool,
    mark: u32,
}

impl Agent {
    /// Begins with what the descriptions tell. `v4_only`: our socket does not reach IPv6. The
    /// numbers of our transactions begin with `mark`.
    pub fn new(
        now: Instant,
        params: &IceParams,
        v4_only: bool,
        mark: u32,
        random: &mut StdRng,
    ) -> Self {
        let mut agent = Self {
            local: params.local.clone(),
            remote: None,
            lite: params.we_are_lite,
            controlling: params.controlling,
            tie_breaker: random.next_u64(),
            pairs: Vec::new(),
            selected: None,
            connected: None,
            first_success: None,
            consent: now,
            paced: now,
            failures: (0, now),
            v4_only,
            mark,
        };
        agent.update(now, params);
        agent
    }

    /// The peer's answer, or more of its candidates.
    pub fn update(&mut self, now: Instant, params: &IceParams) {
        self.lite = params.we_are_lite;
        if let Some(remote) = &params.remote
            && self
                .remote
                .as_ref()
                .is_none_or(|known| known.ufrag != remote.ufrag)
        {
            self.remote = Some(remote.clone());
            // Who only answers does not nominate; before its answer that is not known.
            self.controlling |= params.remote_is_lite;
        }
        let told = params.remote_candidates.len();
        self.pairs
            .reserve_exact(told.min(MAX_PAIRS.saturating_sub(self.pairs.len())));
        for candidate in &params.remote_candidates {
            let address = candidate.address;
            let is_reachable = address.is_ipv4() || !self.v4_only;
            if is_reachable && self.pairs.len() < MAX_PAIRS && self.find(address).is_none() {
                self.pairs.push(Pair::new(address, candidate.priority, now));
            }
        }
        self.pairs
            .sort_by_key(|pair| std::cmp::Reverse(pair.priority));
    }

    /// What checks for us name, and are signed with.
    pub fn local(&self) -> &IceCredentials {
        &self.local
    }

    /// What was nominated last.
    pub fn selected(&self) -> Option<SocketAddr> {
        self.selected
    }

    /// Where packets may go before anything is nominated: the best pair that works both ways (RFC
    /// 8445 section 12.1). Peers nominate 50 to 400 ms after their first check; whoever has sent
    /// one has our answer, and takes what follows. Who only answers has to wait.
    pub fn early(&self) -> Option<SocketAddr> {
        let may_send = !self.lite && !self.controlling && self.connected.is_none();
        let works = |pair: &&Pair| pair.state == State::Succeeded && pair.heard.is_some();
        let pairs = self.pairs.iter().filter(|_| may_send).filter(works);
        pairs
            .max_by_key(|pair| pair.priority)
            .map(|pair| pair.remote)
    }

    /// Whether an authenticated check has come from there, or was answered there.
    pub fn knows(&self, address: SocketAddr) -> bool {
        self.pairs
            .iter()
            .any(|pair| pair.remote == address && pair.is_proven())
    }

    fn find(&mut self, address: SocketAddr) -> Option<&mut Pair> {
        self.pairs.iter_mut().find(|pair| pair.remote == address)
    }

    /// Takes a message for us that came from `from`; an answer is written into `buffer`.
    pub fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        message: &Message<'_>,
        random: &mut StdRng,
        buffer: &mut [u8],
    ) -> Handled {
        match message.class {
            Class::Request => self.request(now, from, message, buffer),
            Class::Success | Class::Error => self.response(now, from, message, random),
            Class::Indication => Handled::Taken,
        }
    }

    /// RFC 8445 section 7.3: authenticate, settle the roles, answer, learn, check back, nominate.
    fn request(
        &mut self,
        now: Instant,
        from: SocketAddr,
        message: &Message<'_>,
        buffer: &mut [u8],
    ) -> Handled {
        if message.receiver() != Some(self.local.ufrag.as_bytes()) {
            return Handled::Unauthentic;
        }
        if !self.is_authentic(now, from, message) {
            return Handled::Unauthentic;
        }
        if let Some(unknown) = message.unknown {
            return self.refuse(message, buffer, |writer| {
                writer.error(420, "Unknown Attribute");
                writer.unknown(unknown);
            });
        }
        let Some(priority) = message.priority else {
            return Handled::Unusable;
        };
        if !self.settle_role(message.role) {
            return self.refuse(message, buffer, |writer| writer.error(487, "Role Conflict"));
        }
        if self.find(from).is_none() && !self.learn(now, from, priority) {
            return Handled::Unusable;
        }
        let (lite, controlling) = (self.lite, self.controlling);
        let Some(pair) = self.find(from) else {
            return Handled::Unusable;
        };
        pair.heard = Some(now);
        if !lite {
            pair.trigger(now);
        }
        if message.use_candidate && !controlling {
            pair.nominated = true;
            if lite || pair.state == State::Succeeded {
                self.select(now, from);
            }
        }
        if lite && self.selected.is_some() {
            self.consent = now;
        }
        let mut writer = Writer::new(buffer, Class::Success, &message.transaction);
        writer.mapped(from, &message.transaction);
        writer
            .finish(&stun::key(&self.local.password))
            .map_or(Handled::Unusable, Handled::Answer)
    }

    /// A check costs an HMAC. Whoever only guesses is not listened to all the time.
    fn is_authentic(&mut self, now: Instant, from: SocketAddr, message: &Message<'_>) -> bool {
        let (failures, since) = &mut self.failures;
        if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
            (*failures, *since) = (0, now);
        }
        let is_known = self.pairs.iter().any(|pair| pair.remote == from);
        if *failures >= MAX_FAILURES && !is_known {
            return false;
        }
        let is_signed = message.is_signed_with(&stun::key(&self.local.password));
        *failures += u32::from(!is_signed);
        is_signed
    }

    fn refuse(
        &self,
        message: &Message<'_>,
        buffer: &mut [u8],
        why: impl FnOnce(&mut Writer<'_>),
    ) -> Handled {
        let mut writer = Writer::new(buffer, Class::Error, &message.transaction);
        why(&mut writer);
        writer
            .finish(&stun::key(&self.local.password))
            .map_or(Handled::Unusable, Handled::Answer)
    }

    /// RFC 8445 section 7.3.1.1. Tells whether the check is to be taken; if not, it is the peer who
    /// has to change its role.
    fn settle_role(&mut self, theirs: Option<Role>) -> bool {
        match theirs {
            Some(Role::Controlling(tie_breaker)) if self.controlling => {
                let we_stay = self.tie_breaker >= tie_breaker;
                self.change_role_unless(we_stay);
                !we_stay
            }
            // Section 6.1.1: who only answers is never the one that nominates.
            Some(Role::Controlled(_)) if !self.controlling && self.lite => false,
            Some(Role::Controlled(tie_breaker)) if !self.controlling => {
                let they_stay = self.tie_breaker >= tie_breaker;
                self.change_role_unless(!they_stay);
                they_stay
            }
            _ => true,
        }
    }

    fn change_role_unless(&mut self, we_stay: bool) {
        if we_stay {
            return;
        }
        self.controlling = !self.controlling;
        for pair in &mut self.pairs {
            pair.nominated = false;
            pair.nominating = false;
        }
    }

    /// A peer-reflexive candidate (RFC 8445 section 7.3.1.3). Where there are too many, one that
    /// never worked makes room, or the one that was heard longest ago.
    fn learn(&mut self, now: Instant, from: SocketAddr, priority: u32) -> bool {
        if self.pairs.len() >= MAX_PAIRS {
            let selected = self.selected;
            let replaceable = self.pairs.iter().enumerate();
            let oldest = replaceable
                .filter(|(_, pair)| Some(pair.remote) != selected)
                .min_by_key(|(_, pair)| (pair.state == State::Succeeded, pair.heard));
            let Some((place, _)) = oldest else {
                return false;
            };
            self.pairs.remove(place);
        }
        self.pairs.push(Pair::new(from, priority, now));
        true
    }

    fn response(
        &mut self,
        now: Instant,
        from: SocketAddr,
        message: &Message<'_>,
        random: &mut StdRng,
    ) -> Handled {
        let Some(remote) = &self.remote else {
            return Handled::Unauthentic;
        };
        let asked = |pair: &Pair| pair.transaction == Some(message.transaction);
        let Some(place) = self.pairs.iter().position(asked) else {
            return Handled::Unauthentic;
        };
        if !message.is_signed_with(&stun::key(&remote.password)) {
            return Handled::Unauthentic;
        }
        let controlling = self.controlling;
        let Some(pair) = self.pairs.get_mut(place) else {
            return Handled::Unauthentic;
        };
        // Section 7.2.5.2.1: the answer has to come from where the check went.
        if pair.remote != from {
            pair.fail();
            return Handled::Unusable;
        }
        if message.class == Class::Error {
            if message.error == Some(487) && pair.asked_as_controlling == controlling {
                pair.restart(now);
                // Section 7.2.5.1: another role, and another tie-breaker.
                self.change_role_unless(false);
                self.tie_breaker = random.next_u64();
            }
            return Handled::Taken;
        }
        if message.mapped.is_none() {
            return Handled::Unusable;
        }
        let asked_to_nominate = pair.nominating && controlling;
        pair.succeed();
        self.first_success.get_or_insert(now);
        let is_nominated = pair.nominated;
        if self.selected == Some(from) {
            self.consent = now;
            self.schedule_consent(now, random);
        } else if asked_to_nominate || (is_nominated && !controlling) {
            self.select(now, from);
            self.schedule_consent(now, random);
        }
        Handled::Taken
    }

    /// The pair with this address is nominated and works.
    fn select(&mut self, now: Instant, address: SocketAddr) {
        let priority_of = |address: SocketAddr| {
            let pair = self.pairs.iter().find(|pair| pair.remote == address);
            pair.map_or(0, |pair| pair.priority)
        };
        let is_early = self
            .connected
            .is_some_and(|at| now.saturating_duration_since(at) < AGGRESSIVE);
        if let Some(former) = self.selected
            && is_early
            && priority_of(former) > priority_of(address)
        {
            return;
        }
        self.connected.get_or_insert(now);
        if self.selected != Some(address) {
            self.selected = Some(address);
            self.consent = now;
            // It is consent now that checks keep there.
            let lite = self.lite;
            if let Some(pair) = self.find(address)
                && !lite
            {
                pair.due = Some(now);
            }
        }
    }

    fn schedule_consent(&mut self, now: Instant, random: &mut StdRng) {
        let (lite, selected) = (self.lite, self.selected);
        let spread = random.random_range(80..=120);
        for pair in &mut self.pairs {
            if Some(pair.remote) == selected {
                pair.due = (!lite).then(|| now + CONSENT_INTERVAL * spread / 100);
            }
        }
    }

    /// Packets from where the peer has proven to be are a sign of consent to whoever sends no checks.
    pub fn heard_media(&mut self, now: Instant) {
        if self.lite && self.selected.is_some() {
            // What is told of late takes nothing away from what has been told of since.
            self.consent = self.consent.max(now);
        }
    }

    /// Whether consent has ended. Nothing is selected any more then, until the peer nominates anew.
    pub fn has_lost_consent(&mut self, now: Instant) -> bool {
        let is_over = self.selected.is_some() && now >= self.consent + CONSENT;
        if is_over {
            self.selected = None;
        }
        is_over
    }

    /// Writes the next check that is due into `buffer`: where it goes, and its length. To be asked
    /// until there is none.
    pub fn poll_check(
        &mut self,
        now: Instant,
        random: &mut StdRng,
        buffer: &mut [u8],
    ) -> Option<(SocketAddr, usize)> {
        if self.lite || self.remote.is_none() {
            return None;
        }
        self.nominate(now);
        if now < self.paced {
            return None;
        }
        let selected = self.selected;
        let is_due = |pair: &&mut Pair| pair.due.is_some_and(|due| due <= now);
        loop {
            let pair = self
                .pairs
                .iter_mut()
                .filter(is_due)
                .min_by_key(|pair| pair.due)?;
            let is_consent = Some(pair.remote) == selected;
            if !pair.begin_check(now, is_consent, self.controlling, self.mark, random) {
                continue;
            }
            self.paced = now + PACE;
            let (to, transaction) = (pair.remote, pair.transaction?);
            let nominates = self.controlling && pair.nominating;
            let len = self.write_check(&transaction, nominates, buffer)?;
            return Some((to, len));
        }
    }

    fn write_check(
        &self,
        transaction: &TransactionId,
        nominates: bool,
        buffer: &mut [u8],
    ) -> Option<usize> {
        let remote = self.remote.as_ref()?;
        let mut writer = Writer::new(buffer, Class::Request, transaction);
        writer.username(&remote.ufrag, &self.local.ufrag);
        writer.priority(PRIORITY);
        if nominates {
            writer.use_candidate();
        }
        writer.role(match self.controlling {
            true => Role::Controlling(self.tie_breaker),
            false => Role::Controlled(self.tie_breaker),
        });
        writer.finish(&stun::key(&remote.password))
    }

    /// A controlling agent nominates the best pair that works, when no better one may come.
    fn nominate(&mut self, now: Instant) {
        if !self.controlling
            || self.selected.is_some()
            || self.pairs.iter().any(|pair| pair.nominating)
        {
            return;
        }
        let Some(first) = self.first_success else {
            return;
        };
        let works = |pair: &&mut Pair| pair.state == State::Succeeded;
        let best = self
            .pairs
            .iter()
            .position(|pair| pair.state == State::Succeeded);
        let open = self.pairs.iter().position(|pair| pair.state.is_open());
        if open < best && open.is_some() && now < first + BETTER_PAIR {
            return;
        }
        if let Some(pair) = self.pairs.iter_mut().find(works) {
            pair.nominating = true;
            pair.restart(now);
        }
    }

    /// When something is to be done without a message.
    pub fn next_timeout(&self) -> Option<Instant> {
        let consent = self.selected.map(|_| self.consent + CONSENT);
        if self.lite || self.remote.is_none() {
            return consent;
        }
        let check = self.pairs.iter().filter_map(|pair| pair.due).min();
        let check = check.map(|due| due.max(self.paced));
        let is_undecided = self.controlling
            && self.selected.is_none()
            && !self.pairs.iter().any(|pair| pair.nominating);
        let nomination = self
            .first_success
            .filter(|_| is_undecided && self.pairs.iter().any(|p| p.state == State::Succeeded))
            .map(|first| first + BETTER_PAIR);
        [consent, check, nomination].into_iter().flatten().min()
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "virtual time begins at some moment"
)]
mod tests;
