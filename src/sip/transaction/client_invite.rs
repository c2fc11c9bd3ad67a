//! The INVITE client transaction (RFC 3261 section 17.1.1, RFC 6026 section 7.2).

use std::time::Instant;

use bytes::Bytes;

use crate::sip::message::StatusCode;
use crate::sip::transaction::Backoff;
use crate::sip::transaction::Effect;
use crate::sip::transaction::Timing;

/// State of one INVITE that was sent.
#[derive(Debug)]
pub struct ClientInvite {
    timing: Timing,
    reliable: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing came yet: timers A and B.
    Calling {
        request: Bytes,
        again: Option<Backoff>,
        end: Instant,
    },
    /// A provisional response came. `end` is when the user waits no longer.
    Proceeding {
        end: Option<Instant>,
    },
    /// A 2xx came: more of them, of other forks too, are handed on until timer M.
    Accepted {
        end: Instant,
    },
    /// A failure came: the ACK is repeated each time it comes again, until timer D.
    Completed {
        ack: Bytes,
        end: Instant,
    },
    Terminated,
}

impl ClientInvite {
    /// For an INVITE that was just sent, over a transport that is `reliable` or not.
    pub fn new(now: Instant, timing: Timing, reliable: bool, request: Bytes) -> Self {
        let again = (!reliable).then(|| Backoff::new(now, timing.t1, timing.timeout()));
        Self {
            timing,
            reliable,
            state: State::Calling {
                request,
                again,
                end: now + timing.timeout(),
            },
        }
    }

    /// A response came that matches. `ack` builds the ACK to a failure.
    pub fn on_response(
        &mut self,
        now: Instant,
        status: StatusCode,
        ack: impl FnOnce() -> Bytes,
    ) -> Effect {
        match &self.state {
            State::Calling { .. } | State::Proceeding { .. } if status.is_provisional() => {
                if matches!(self.state, State::Calling { .. }) {
                    self.state = State::Proceeding { end: None };
                }
                Effect::DELIVER
            }
            State::Calling { .. } | State::Proceeding { .. } if status.is_success() => {
                self.state = State::Accepted {
                    end: now + self.timing.timeout(),
                };
                Effect::DELIVER
            }
            State::Calling { .. } | State::Proceeding { .. } => {
                let ack = ack();
                self.state = if self.reliable {
                    State::Terminated
                } else {
                    State::Completed {
                        ack: ack.clone(),
                        end: now + self.timing.timeout(),
                    }
                };
                Effect {
                    send: Some(ack),
                    deliver: true,
                    timed_out: false,
                }
            }
            State::Accepted { .. } if status.is_success() => Effect::DELIVER,
            State::Completed { ack, .. } if status.is_final() && !status.is_success() => {
                Effect::send(ack.clone())
            }
            _ => Effect::NONE,
        }
    }

    /// The user waits for a final response no longer than this: a CANCEL was sent (64*T1, RFC 3261 section
    /// 9.1), or the call has ended. A limit that is sooner stays.
    pub fn give_up_at(&mut self, limit: Instant) {
        if let State::Proceeding { end } = &mut self.state {
            *end = Some(end.map_or(limit, |end| end.min(limit)));
        }
    }

    /// Whether a provisional response came and no final one: the time when a CANCEL may be sent.
    pub const fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Proceeding { .. })
    }

    /// Whether no response at all has come.
    pub const fn is_calling(&self) -> bool {
        matches!(self.state, State::Calling { .. })
    }

    /// Whether nothing more can happen.
    pub const fn is_terminated(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    /// When [`Self::on_timeout`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Calling {
                again: Some(again),
                end,
                ..
            } => Some(again.due().min(*end)),
            State::Calling { end, .. } | State::Accepted { end } | State::Completed { end, .. } => {
                Some(*end)
            }
            State::Proceeding { end } => *end,
            State::Terminated => None,
        }
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Instant) -> Effect {
        match &mut self.state {
            State::Calling { end, .. } | State::Proceeding { end: Some(end) } if now >= *end => {
                self.state = State::Terminated;
                Effect::TIMED_OUT
            }
            State::Accepted { end } | State::Completed { end, .. } if now >= *end => {
                self.state = State::Terminated;
                Effect::NONE
            }
            State::Calling {
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

    fn calling(reliable: bool) -> (Instant, ClientInvite) {
        let now = tokio::time::Instant::now().into_std();
        (
            now,
            ClientInvite::new(now, Timing::default(), reliable, BYTES),
        )
    }

    fn never() -> Bytes {
        unreachable!("no ACK is due")
    }

    #[test]
    fn timer_a_doubles_without_limit_and_timer_b_ends() {
        let (now, mut invite) = calling(false);
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
        assert_eq!(sent, [500, 1500, 3500, 7500, 15500, 31500]);
        let (now, invite) = calling(true);
        assert_eq!(invite.deadline(), Some(now + Duration::from_secs(32)));
    }

    #[test]
    fn a_provisional_response_stops_the_timers() {
        let (now, mut invite) = calling(false);
        assert!(invite.is_calling());
        assert_eq!(
            invite.on_response(now, StatusCode::TRYING, never),
            Effect::DELIVER
        );
        assert!(invite.is_proceeding());
        assert_eq!(invite.deadline(), None);
        invite.give_up_at(now + Duration::from_secs(9));
        invite.give_up_at(now + Duration::from_secs(99));
        assert_eq!(invite.deadline(), Some(now + Duration::from_secs(9)));
        assert_eq!(
            invite.on_timeout(now + Duration::from_secs(9)),
            Effect::TIMED_OUT
        );
    }

    #[test]
    fn a_failure_is_told_once_and_acknowledged_each_time_until_timer_d() {
        let (now, mut invite) = calling(false);
        let ack = Bytes::from_static(b"ack");
        let first = invite.on_response(now, StatusCode::BUSY_HERE, || ack.clone());
        assert_eq!(
            first,
            Effect {
                send: Some(ack.clone()),
                deliver: true,
                timed_out: false
            }
        );
        assert_eq!(
            invite.on_response(now, StatusCode::BUSY_HERE, never),
            Effect::send(ack)
        );
        assert_eq!(invite.on_response(now, StatusCode::OK, never), Effect::NONE);
        let end = now + Duration::from_secs(32);
        assert_eq!(invite.deadline(), Some(end));
        assert_eq!(invite.on_timeout(end), Effect::NONE);
        assert!(invite.is_terminated());
        let (now, mut invite) = calling(true);
        invite.on_response(now, StatusCode::BUSY_HERE, || BYTES);
        assert!(invite.is_terminated());
    }

    #[test]
    fn each_2xx_is_handed_on_until_timer_m() {
        let (now, mut invite) = calling(true);
        assert_eq!(
            invite.on_response(now, StatusCode::OK, never),
            Effect::DELIVER
        );
        assert_eq!(
            invite.on_response(now, StatusCode::OK, never),
            Effect::DELIVER
        );
        assert_eq!(
            invite.on_response(now, StatusCode::BUSY_HERE, never),
            Effect::NONE
        );
        assert_eq!(
            invite.on_response(now, StatusCode::RINGING, never),
            Effect::NONE
        );
        let end = now + Duration::from_secs(32);
        invite.on_timeout(end - Duration::from_millis(1));
        assert!(!invite.is_terminated());
        invite.on_timeout(end);
        assert!(invite.is_terminated());
    }
}
