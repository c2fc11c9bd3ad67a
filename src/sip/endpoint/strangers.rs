//! What peers that are not trusted may cost: a few refusals a second, one log line a minute, bounded memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

const WINDOW: Duration = Duration::from_secs(1);
const MEMORY: Duration = Duration::from_secs(60);
const MAX_PEERS: usize = 1024;

/// The strangers of the last minute.
#[derive(Debug)]
pub(super) struct Strangers {
    per_second: u32,
    peers: BTreeMap<IpAddr, Peer>,
    purged: Option<Instant>,
}

#[derive(Debug)]
struct Peer {
    window: Instant,
    answered: u32,
    refused: u32,
    reported: Option<Instant>,
}

/// What to do about one request of a stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Answer 403; otherwise drop it.
    pub(super) answer: bool,
    /// Report it: so many were refused since the last report.
    pub(super) report: Option<u32>,
}

impl Strangers {
    /// At most `per_second` refusals per peer and second.
    pub(super) const fn new(per_second: u32) -> Self {
        Self {
            per_second,
            peers: BTreeMap::new(),
            purged: None,
        }
    }

    /// Judges one request of `peer`.
    pub(super) fn judge(&mut self, now: Instant, peer: IpAddr) -> Verdict {
        if !self.peers.contains_key(&peer) && !self.make_room(now) {
            return Verdict {
                answer: false,
                report: None,
            };
        }
        let entry = self.peers.entry(peer).or_insert(Peer {
            window: now,
            answered: 0,
            refused: 0,
            reported: None,
        });
        if now.saturating_duration_since(entry.window) >= WINDOW {
            entry.window = now;
            entry.answered = 0;
        }
        let answer = entry.answered < self.per_second;
        entry.answered += u32::from(answer);
        entry.refused = entry.refused.saturating_add(1);
        let due = entry
            .reported
            .is_none_or(|last| now.saturating_duration_since(last) >= MEMORY);
        let report = due.then(|| {
            entry.reported = Some(now);
            std::mem::take(&mut entry.refused)
        });
        Verdict { answer, report }
    }

    /// Forgets peers that were silent for a minute, at most once a second. Whether there is room now.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.peers.len() < MAX_PEERS {
            return true;
        }
        if self
            .purged
            .is_none_or(|last| now.saturating_duration_since(last) >= WINDOW)
        {
            self.purged = Some(now);
            self.peers
                .retain(|_, peer| now.saturating_duration_since(peer.window) < MEMORY);
        }
        self.peers.len() < MAX_PEERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_refusals_a_second_and_one_report_a_minute() {
        let start = tokio::time::Instant::now().into_std();
        let peer = IpAddr::from([192, 0, 2, 1]);
        let mut strangers = Strangers::new(2);
        assert_eq!(
            strangers.judge(start, peer),
            Verdict {
                answer: true,
                report: Some(1)
            }
        );
        assert_eq!(
            strangers.judge(start, peer),
            Verdict {
                answer: true,
                report: None
            }
        );
        assert_eq!(
            strangers.judge(start, peer),
            Verdict {
                answer: false,
                report: None
            }
        );
        let later = start + Duration::from_secs(1);
        assert_eq!(
            strangers.judge(later, peer),
            Verdict {
                answer: true,
                report: None
            }
        );
        let minute = start + Duration::from_secs(60);
        assert_eq!(
            strangers.judge(minute, peer),
            Verdict {
                answer: true,
                report: Some(4)
            }
        );
    }

    #[test]
    fn the_table_is_bounded_and_forgets() {
        let start = tokio::time::Instant::now().into_std();
        let mut strangers = Strangers::new(2);
        for n in 0..5000_u32 {
            strangers.judge(start, IpAddr::from(n.to_be_bytes()));
        }
        assert_eq!(strangers.peers.len(), MAX_PEERS);
        let newcomer = IpAddr::from([192, 0, 2, 1]);
        assert!(!strangers.judge(start, newcomer).answer);
        assert!(strangers.judge(start + MEMORY, newcomer).answer);
        assert_eq!(strangers.peers.len(), 1);
    }
}
