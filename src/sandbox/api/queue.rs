//! A queue of consent events: what is delivered next, to whom, and what has to be delivered again.
//! It holds no events, only places in the log that [`Consents`](crate::sandbox::world::Consents)
//! keeps.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One event in the hands of a connection.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    connection: u64,
    deadline: Instant,
    /// How often it was delivered.
    times: u32,
}

/// How a connection wants its events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// `None`: delivery counts as acknowledgement.
    pub(super) ack_timeout: Option<Duration>,
    /// Events in the connection's hands at once.
    pub(super) max_in_flight: usize,
}

/// What to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    /// The event's place in the log.
    pub(super) id: u64,
    /// How often it is delivered with this.
    pub(super) times: u32,
}

/// The place of a client in the log.
#[derive(Debug)]
pub(super) struct Queue {
    /// Everything up to here was delivered at least once.
    position: u64,
    /// Delivered and not acknowledged, some of it too long ago.
    in_flight: BTreeMap<u64, InFlight>,
}

impl Queue {
    /// A queue that begins after the event `position`.
    pub(super) fn after(position: u64) -> Self {
        Self {
            position,
            in_flight: BTreeMap::new(),
        }
    }

    /// Where new events are looked for.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// What `connection` gets now, if anything: first what nobody acknowledged in time, then `new`,
    /// which is the first event of the log after [`Queue::position`].
    pub(super) fn take(
        &mut self,
        connection: u64,
        terms: Terms,
        new: Option<u64>,
        now: Instant,
    ) -> Option<Due> {
        let in_hand = self.in_flight.values();
        let in_hand = in_hand.filter(|one| one.connection == connection && one.deadline > now);
        if in_hand.count() >= terms.max_in_flight {
            return None;
        }
        let mut late = self.in_flight.iter().filter(|(_, one)| one.deadline <= now);
        let due = match late.next() {
            Some((id, one)) => Due {
                id: *id,
                times: one.times.saturating_add(1),
            },
            None => Due { id: new?, times: 1 },
        };
        self.position = self.position.max(due.id);
        match terms.ack_timeout {
            Some(timeout) => {
                let one = InFlight {
                    connection,
                    deadline: now + timeout,
                    times: due.times,
                };
                self.in_flight.insert(due.id, one);
            }
            None => {
                self.in_flight.remove(&due.id);
            }
        }
        Some(due)
    }

    /// Acknowledges the delivery `times` of the event; whether that was in time.
    pub(super) fn ack(&mut self, id: u64, times: u32, now: Instant) -> bool {
        let in_time = self
            .in_flight
            .get(&id)
            .is_some_and(|one| one.times == times && one.deadline > now);
        if in_time {
            self.in_flight.remove(&id);
        }
        in_time
    }

    /// Forgets an event that the log has not any more.
    pub(super) fn forget(&mut self, id: u64) {
        self.in_flight.remove(&id);
    }

    /// What a closed connection had in its hands is due at once.
    pub(super) fn closed(&mut self, connection: u64, now: Instant) {
        let all = self.in_flight.values_mut();
        for one in all.filter(|one| one.connection == connection) {
            one.deadline = one.deadline.min(now);
        }
    }

    /// When something is due again.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.in_flight.values().map(|one| one.deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        ack_timeout: Some(Duration::from_secs(30)),
        max_in_flight: 2,
    };

    #[expect(clippy::disallowed_methods, reason = "the origin of virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    fn due(id: u64, times: u32) -> Option<Due> {
        Some(Due { id, times })
    }

    #[test]
    fn what_is_not_acknowledged_in_time_comes_again_before_anything_new() {
        let now = start();
        let mut queue = Queue::after(0);
        assert_eq!(queue.take(1, TERMS, Some(5), now), due(5, 1));
        assert_eq!(queue.position(), 5);
        assert_eq!(queue.take(1, TERMS, Some(6), now), due(6, 1));
        assert!(queue.ack(6, 1, now));
        let later = now + Duration::from_secs(30);
        assert_eq!(queue.next_deadline(), Some(later));
        assert!(!queue.ack(5, 1, later), "too late");
        assert_eq!(queue.take(1, TERMS, Some(7), later), due(5, 2));
        assert!(!queue.ack(5, 1, later), "of the delivery before");
        assert!(queue.ack(5, 2, later));
        assert!(!queue.ack(5, 2, later), "twice");
        assert_eq!(queue.take(1, TERMS, None, later), None);
    }

    #[test]
    fn a_connection_has_no_more_in_its_hands_than_it_asked_for() {
        let now = start();
        let mut queue = Queue::after(0);
        assert_eq!(queue.take(1, TERMS, Some(1), now), due(1, 1));
        assert_eq!(queue.take(1, TERMS, Some(2), now), due(2, 1));
        assert_eq!(queue.take(1, TERMS, Some(3), now), None);
        assert_eq!(
            queue.take(2, TERMS, Some(3), now),
            due(3, 1),
            "another one has none"
        );
        assert!(queue.ack(1, 1, now));
        assert_eq!(queue.take(1, TERMS, Some(4), now), due(4, 1));
    }

    #[test]
    fn what_a_closed_connection_had_goes_to_another_at_once() {
        let now = start();
        let mut queue = Queue::after(0);
        queue.take(1, TERMS, Some(1), now);
        queue.closed(1, now);
        assert_eq!(queue.take(2, TERMS, None, now), due(1, 2));
    }

    #[test]
    fn without_acknowledgement_delivery_is_the_end_of_it() {
        let now = start();
        let mut queue = Queue::after(0);
        let terms = Terms {
            ack_timeout: None,
            ..TERMS
        };
        for id in 1..=5 {
            assert_eq!(queue.take(1, terms, Some(id), now), due(id, 1));
        }
        assert_eq!(queue.next_deadline(), None);
    }
}
