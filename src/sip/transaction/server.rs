//! The server transaction of all requests but INVITE and ACK (RFC 3261 section 17.2.2).

use std::time::Instant;

use bytes::Bytes;

use crate::sip::message::StatusCode;
use crate::sip::transaction::Effect;
use crate::sip::transaction::Timing;

/// State of one request that was received.
#[derive(Debug)]
pub struct Server {
    timing: Timing,
    reliable: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No response yet.
    Trying,
    /// The final response, repeated for each request that comes again, until timer J.
    Completed {
        response: Bytes,
        end: Instant,
    },
    Terminated,
}

impl Server {
    /// For a request that came over a transport that is `reliable` or not.
    pub const fn new(timing: Timing, reliable: bool) -> Self {
        Self {
            timing,
            reliable,
            state: State::Trying,
        }
    }

    /// The same request came again.
    pub fn on_retransmission(&self) -> Effect {
        match &self.state {
            State::Completed { response, .. } => Effect::send(response.clone()),
            State::Trying | State::Terminated => Effect::NONE,
        }
    }

    /// The user responds, finally. A second response is not sent.
    pub fn respond(&mut self, now: Instant, status: StatusCode, response: Bytes) -> Effect {
        debug_assert!(
            status.is_final(),
            "no provisional responses to requests other than INVITE are sent here"
        );
        if !matches!(self.state, State::Trying) {
            return Effect::NONE;
        }
        self.state = if self.reliable {
            State::Terminated
        } else {
            State::Completed {
                response: response.clone(),
                end: now + self.timing.timeout(),
            }
        };
        Effect::send(response)
    }

    /// Whether a response may still be given.
    pub const fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Trying)
    }

    /// Whether nothing more can happen.
    pub const fn is_terminated(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    /// When [`Self::on_timeout`] is due.
    pub const fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Completed { end, .. } => Some(*end),
            State::Trying | State::Terminated => None,
        }
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Instant) -> Effect {
        if self.deadline().is_some_and(|end| now >= end) {
            self.state = State::Terminated;
        }
        Effect::NONE
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BYTES: Bytes = Bytes::from_static(b"x");

    #[test]
    fn the_response_is_repeated_until_timer_j() {
        let now = tokio::time::Instant::now().into_std();
        let mut server = Server::new(Timing::default(), false);
        assert_eq!(
            (server.on_retransmission(), server.deadline()),
            (Effect::NONE, None)
        );
        assert_eq!(
            server.respond(now, StatusCode::OK, BYTES),
            Effect::send(BYTES)
        );
        assert_eq!(server.on_retransmission(), Effect::send(BYTES));
        assert_eq!(
            server.respond(now, StatusCode::NOT_FOUND, BYTES),
            Effect::NONE
        );
        let end = now + Duration::from_secs(32);
        assert_eq!(server.deadline(), Some(end));
        server.on_timeout(end - Duration::from_millis(1));
        assert!(!server.is_terminated());
        server.on_timeout(end);
        assert!(server.is_terminated());
    }

    #[test]
    fn a_reliable_transport_needs_no_timer_j() {
        let now = tokio::time::Instant::now().into_std();
        let mut server = Server::new(Timing::default(), true);
        server.respond(now, StatusCode::OK, BYTES);
        assert!(server.is_terminated());
    }
}
