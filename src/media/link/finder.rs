//! ICE as a link has it: one agent, and during a restart the one before.

use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use crate::media::ice::Agent;
use crate::media::ice::Handled;
use crate::media::ice::stun::MAX_LEN;
use crate::media::ice::stun::Message;
use crate::media::link::Turn;
use crate::media::sdp::IceParams;

/// With credentials on both sides, a pair is found within so long or not at all.
const PATIENCE: Duration = Duration::from_secs(15);

/// For so long after a restart packets of before it may still be under way.
const UNDER_WAY: Duration = Duration::from_secs(2);

/// What ICE has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Connected,
    Nothing,
    ConsentLost,
}

#[derive(Debug)]
pub(super) struct Finder {
    agent: Agent,
    /// What packets flow by until the restart has come to something (RFC 8445 section 9).
    former: Option<Box<Agent>>,
    /// When the former is forgotten, once it has.
    farewell: Option<Instant>,
    connected: bool,
    /// When to give up.
    give_up: Option<Instant>,
}

impl Finder {
    pub(super) fn new(params: &IceParams, v4_only: bool, turn: &mut Turn<'_>) -> Self {
        Self {
            agent: Agent::new(turn.now, params, v4_only, turn.mark, turn.random),
            former: None,
            farewell: None,
            connected: false,
            give_up: params.remote.as_ref().map(|_| turn.now + PATIENCE),
        }
    }

    pub(super) fn update(&mut self, params: &IceParams, v4_only: bool, turn: &mut Turn<'_>) {
        if params.local == *self.agent.local() {
            self.agent.update(turn.now, params);
            if params.remote.is_some() && !self.connected && self.give_up.is_none() {
                self.give_up = Some(turn.now + PATIENCE);
            }
        } else {
            let agent = Agent::new(turn.now, params, v4_only, turn.mark, turn.random);
            let former = std::mem::replace(&mut self.agent, agent);
            if former.selected().is_some() {
                self.former = Some(Box::new(former));
                self.farewell = None;
            }
        }
    }

    pub(super) fn selected(&self) -> Option<SocketAddr> {
        let former = || self.former.as_deref().and_then(Agent::selected);
        self.agent.selected().or_else(former)
    }

    /// Where packets go.
    pub(super) fn way(&self) -> Option<SocketAddr> {
        self.selected().or_else(|| self.agent.early())
    }

    pub(super) fn knows(&self, address: SocketAddr) -> bool {
        self.selected() == Some(address)
            || self.agent.knows(address)
            || self
                .former
                .as_ref()
                .is_some_and(|agent| agent.knows(address))
    }

    pub(super) fn handle(
        &mut self,
        turn: &mut Turn<'_>,
        from: SocketAddr,
        message: &Message<'_>,
    ) -> Handled {
        let mut buffer = [0; MAX_LEN];
        let mut handled = self
            .agent
            .handle(turn.now, from, message, turn.random, &mut buffer);
        if handled == Handled::Unauthentic
            && let Some(former) = &mut self.former
        {
            handled = former.handle(turn.now, from, message, turn.random, &mut buffer);
        }
        if let Handled::Answer(len) = handled {
            turn.out.push(from, buffer.get(..len).unwrap_or_default());
        }
        handled
    }

    /// Sends what is due, and tells what has changed.
    pub(super) fn advance(&mut self, turn: &mut Turn<'_>) -> Option<Found> {
        let is_found = self.agent.selected().is_some();
        let former = self.former.as_deref_mut().filter(|_| !is_found);
        for agent in [Some(&mut self.agent), former].into_iter().flatten() {
            let mut buffer = [0; MAX_LEN];
            while let Some((to, len)) = agent.poll_check(turn.now, turn.random, &mut buffer) {
                turn.out.push(to, buffer.get(..len).unwrap_or_default());
            }
        }
        if self.former.is_some() && self.agent.selected().is_some() {
            self.farewell.get_or_insert(turn.now + UNDER_WAY);
        }
        let lost = self.agent.has_lost_consent(turn.now);
        let former = self.former.as_mut().filter(|_| self.farewell.is_none());
        let former_lost = former.is_some_and(|it| it.has_lost_consent(turn.now));
        if lost || former_lost || self.farewell.is_some_and(|at| at <= turn.now) {
            self.former = None;
            self.farewell = None;
        }
        if lost || former_lost {
            return Some(Found::ConsentLost);
        }
        if self.agent.selected().is_some() {
            self.give_up = None;
        }
        if !self.connected && self.way().is_some() {
            self.connected = true;
            return Some(Found::Connected);
        }
        self.give_up.filter(|at| *at <= turn.now)?;
        self.give_up = None;
        Some(Found::Nothing)
    }

    pub(super) fn heard_media(&mut self, now: Instant) {
        self.agent.heard_media(now);
        if let Some(former) = &mut self.former {
            former.heard_media(now);
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let former = match self.farewell {
            Some(at) => Some(at),
            None => self.former.as_deref().and_then(Agent::next_timeout),
        };
        [self.agent.next_timeout(), former, self.give_up]
            .into_iter()
            .flatten()
            .min()
    }
}
