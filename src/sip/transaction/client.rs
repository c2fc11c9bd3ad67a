//! The client transaction of all requests but INVITE and ACK (RFC 3261 section 17.1.2).

use std::time::Instant;

use bytes::Bytes;

use crate::sip::message::StatusCode;
use crate::sip::transaction::Backoff;
use crate::sip::transaction::Effect;
use crate::sip::transaction::Timing;

/// State of one request that was sent.
#[derive(Debug)]
pub struct Client {
    timing: Timing,
    reliable: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No final response yet: timers E and F.
    Trying {
        request: Bytes,
        again: Option<Backoff>,
        end: Instant,
        proceeding: bool,
    },
    /// The final response came; more of them are absorbed until timer K.
    Completed {
        end: Instant,
    },
    Terminated,
}

impl Client {
    /// For a request that was just sent, over a transport that is `reliable` or not.
    pub fn new(now: Instant, timing: Timing, reliable: bool, request: Bytes) -> Self {
        let again = (!reliable).then(|| Backoff::new(now, timing.t1, timing.t2));
        Self {
            timing,
            reliable,
            state: State::Trying {
                request,
                again,
                end: now + timing.timeout(),
                proceeding: false,
            },
        }
    }

    /// A response came that matches.
    pub fn on_response(&mut self, now: Instant, status: StatusCode) -> Effect {
        let State::Trying {
            again, proceeding, ..
        } = &mut self.state
        else {
            return Effect::NONE;
        };
        if status.is_final() {
            self.state = if self.reliable {
                State::Terminated
            } else {
                State::Completed {
                    end: now + self.timing.t4,
                }
            };
            return Effect::DELIVER;
        }
        if !*proceeding {
            *proceeding = true;
            if let Some(again) = again {
                // In Proceeding, timer E runs at T2 from its next firing on.
                again.slow_down();
            }
        }
        Effect::NONE
    }

    /// Whether no response at all has come.
    pub const fn is_calling(&self) -> bool {
        matches!(
            self.state,
            State::Trying {
                proceeding: false,
                ..
            }
        )
    }

    /// Whether nothing more can happen.
    pub const fn is_terminated(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    /// When [`Self::on_timeout`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Trying {
                again: Some(again),
                end,
                ..
            } => Some(again.due().min(*end)),
            State::Trying { end, .. } | State::Completed { end } => Some(*end),
            State::Terminated => None,
        }
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Instant) -> Effect {
        match &mut self.state {
            State::Trying { end, .. } if now >= *end => {
                self.state = State::Terminated;
                Effect::TIMED_OUT
            }
            State::Completed { end } if now >= *end => {
                self.state = State::Terminated;
                Effect::NONE
            }
            State::Trying {
                request,
                again: Some(again),
                ..
            } if now >= again.due() => {
                again.step(now);
                Effect::send(request.clone())
            }
            _ => Effect::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BYTES: Bytes = Bytes::from_static(b"x");

    fn trying(reliable: bool) -> (Instant, Client) {
        let now = tokio::time::Instant::now().into_std();
        (now, Client::new(now, Timing::default(), reliable, BYTES))
    }

    /// When it is sent again, in milliseconds, until timer F.
    fn retransmissions(now: Instant, mut client: Client) -> Vec<u128> {
        let mut sent = Vec::new();
        while let Some(due) = client.deadline() {
            match client.on_timeout(due) {
                Effect { send: Some(_), .. } => sent.push((due - now).as_millis()),
                effect => assert_eq!(
                    (effect, due - now),
                    (Effect::TIMED_OUT, Duration::from_secs(32))
                ),
            }
        }
        sent
    }

    #[test]
    fn timer_e_doubles_up_to_t2_and_timer_f_ends() {
        let (now, client) = trying(false);
        let times = [
            500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500,
        ];
        assert_eq!(retransmissions(now, client), times);
        let (now, client) = trying(true);
        assert!(retransmissions(now, client).is_empty());
    }

    #[test]
    fn a_provisional_response_slows_timer_e_to_t2() {
        let (now, mut client) = trying(false);
        assert!(client.is_calling());
        assert_eq!(client.on_response(now, StatusCode::TRYING), Effect::NONE);
        assert!(!client.is_calling());
        assert_eq!(retransmissions(now, client)[..3], [500, 4500, 8500]);
    }

    #[test]
    fn a_final_response_is_told_once_and_absorbed_until_timer_k() {
        let (now, mut client) = trying(false);
        assert_eq!(
            client.on_response(now, StatusCode::NOT_FOUND),
            Effect::DELIVER
        );
        assert_eq!(client.on_response(now, StatusCode::NOT_FOUND), Effect::NONE);
        let end = now + Duration::from_secs(5);
        assert_eq!(client.deadline(), Some(end));
        client.on_timeout(end);
        assert!(client.is_terminated());
        let (now, mut client) = trying(true);
        client.on_response(now, StatusCode::OK);
        assert!(client.is_terminated());
    }
}
