//! The INVITE server transaction (RFC 3261 section 17.2.1, RFC 6026 section 7.1).

use std::time::Instant;

use bytes::Bytes;

use crate::sip::message::StatusCode;
use crate::sip::transaction::Backoff;
use crate::sip::transaction::Effect;
use crate::sip::transaction::Timing;

/// State of one INVITE that was received.
#[derive(Debug)]
pub struct ServerInvite {
    timing: Timing,
    reliable: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No final response yet; the last provisional one.
    Proceeding(Option<Bytes>),
    /// A 2xx was sent: its user repeats it, INVITEs that come again are absorbed until timer L.
    Accepted {
        end: Instant,
    },
    /// Another final response was sent and waits for its ACK: timers G and H.
    Completed {
        response: Bytes,
        again: Option<Backoff>,
        end: Instant,
    },
    /// The ACK came; more of them are absorbed until timer I.
    Confirmed {
        end: Instant,
    },
    Terminated,
}

impl ServerInvite {
    /// For an INVITE that came over a transport that is `reliable` or not.
    pub const fn new(timing: Timing, reliable: bool) -> Self {
        Self {
            timing,
            reliable,
            state: State::Proceeding(None),
        }
    }

    /// The same INVITE came again.
    pub fn on_retransmission(&self) -> Effect {
        match &self.state {
            State::Proceeding(Some(response)) | State::Completed { response, .. } => {
                Effect::send(response.clone())
            }
            _ => Effect::NONE,
        }
    }

    /// The user responds. A response that comes too late is not sent.
    pub fn respond(&mut self, now: Instant, status: StatusCode, response: Bytes) -> Effect {
        match &self.state {
            State::Proceeding(_) if status.is_provisional() => {
                self.state = State::Proceeding(Some(response.clone()));
            }
            State::Proceeding(_) if status.is_success() => {
                self.state = State::Accepted {
                    end: now + self.timing.timeout(),
                }
            }
            State::Proceeding(_) => {
                let again =
                    (!self.reliable).then(|| Backoff::new(now, self.timing.t1, self.timing.t2));
                self.state = State::Completed {
                    response: response.clone(),
                    again,
                    end: now + self.timing.timeout(),
                };
            }
            State::Accepted { .. } if status.is_success() => {}
            _ => return Effect::NONE,
        }
        Effect::send(response)
    }

    /// An ACK came that matches this transaction. It is news only after a 2xx.
    pub fn on_ack(&mut self, now: Instant) -> Effect {
        match self.state {
            State::Completed { .. } => {
                self.state = if self.reliable {
                    State::Terminated
                } else {
                    State::Confirmed {
                        end: now + self.timing.t4,
                    }
                };
                Effect::NONE
            }
            State::Accepted { .. } => Effect::DELIVER,
            _ => Effect::NONE,
        }
    }

    /// Whether a final response may still be given.
    pub const fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Proceeding(_))
    }

    /// Whether nothing more can happen.
    pub const fn is_terminated(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    /// When [`Self::on_timeout`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Proceeding(_) | State::Terminated => None,
            State::Completed {
                again: Some(again),
                end,
                ..
            } => Some(again.due().min(*end)),
            State::Accepted { end } | State::Confirmed { end } | State::Completed { end, .. } => {
                Some(*end)
            }
        }
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Instant) -> Effect {
        match &mut self.state {
            State::Accepted { end } | State::Confirmed { end } if now >= *end => {
                self.state = State::Terminated;
                Effect::NONE
            }
            State::Completed { end, .. } if now >= *end => {
                self.state = State::Terminated;
                Effect::TIMED_OUT
            }
            State::Completed {
                response,
                again: Some(again),
                ..
            } if now >= again.due() => {
                again.step(now);
                Effect::send(response.clone())
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

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn refused(now: Instant, reliable: bool) -> ServerInvite {
        let mut invite = ServerInvite::new(Timing::default(), reliable);
        invite.respond(now, StatusCode::BUSY_HERE, BYTES);
        invite
    }

    #[test]
    fn the_last_provisional_response_is_repeated() {
        let mut invite = ServerInvite::new(Timing::default(), false);
        assert_eq!(invite.on_retransmission(), Effect::NONE);
        let ringing = Bytes::from_static(b"ringing");
        invite.respond(start(), StatusCode::TRYING, BYTES);
        invite.respond(start(), StatusCode::RINGING, ringing.clone());
        assert_eq!(invite.on_retransmission(), Effect::send(ringing));
        assert_eq!(invite.deadline(), None);
    }

    #[test]
    fn timer_g_doubles_up_to_t2_and_timer_h_ends() {
        let now = start();
        let mut invite = refused(now, false);
        let mut sent = Vec::new();
        while let Some(due) = invite.deadline() {
            match invite.on_timeout(due) {
                Effect { send: Some(_), .. } => sent.push((due - now).as_millis()),
                effect => assert_eq!(
                    (effect, due - now),
                    (Effect::TIMED_OUT, Duration::from_secs(32))
                ),
            }
        }
        assert_eq!(sent[..5], [500, 1500, 3500, 7500, 11500]);
        assert!(invite.is_terminated());
    }

    #[test]
    fn a_reliable_transport_needs_no_timer_g_and_no_timer_i() {
        let now = start();
        let mut invite = refused(now, true);
        assert_eq!(invite.deadline(), Some(now + Duration::from_secs(32)));
        assert_eq!(invite.on_ack(now), Effect::NONE);
        assert!(invite.is_terminated());
    }

    #[test]
    fn more_acks_are_absorbed_until_timer_i() {
        let now = start();
        let mut invite = refused(now, false);
        invite.on_ack(now);
        assert_eq!(invite.on_ack(now), Effect::NONE);
        assert_eq!(invite.on_retransmission(), Effect::NONE);
        let end = now + Duration::from_secs(5);
        assert_eq!(invite.deadline(), Some(end));
        invite.on_timeout(end - Duration::from_millis(1));
        assert!(!invite.is_terminated());
        invite.on_timeout(end);
        assert!(invite.is_terminated());
    }

    #[test]
    fn after_a_2xx_only_its_user_repeats_it_until_timer_l() {
        let now = start();
        let mut invite = ServerInvite::new(Timing::default(), true);
        assert_eq!(
            invite.respond(now, StatusCode::OK, BYTES),
            Effect::send(BYTES)
        );
        assert_eq!(invite.on_retransmission(), Effect::NONE);
        assert_eq!(invite.on_ack(now), Effect::DELIVER);
        assert_eq!(
            invite.respond(now, StatusCode::OK, BYTES),
            Effect::send(BYTES)
        );
        assert_eq!(
            invite.respond(now, StatusCode::BUSY_HERE, BYTES),
            Effect::NONE
        );
        let end = now + Duration::from_secs(32);
        assert_eq!(invite.deadline(), Some(end));
        assert_eq!(invite.on_timeout(end), Effect::NONE);
        assert!(invite.is_terminated());
    }
}
