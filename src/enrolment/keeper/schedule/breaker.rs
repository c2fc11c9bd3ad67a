//! Leaves a server alone that is down, and notices soon when it is back.

use rand::RngExt;
use rand::rngs::StdRng;

use crate::domain::Timestamp;

/// So many failures in a row …
const RUN: u32 = 5;
/// … and no success for so long: a server that loses half of what it is asked is not down.
const SILENCE_MS: i64 = 3000;
const FIRST_PROBE_MS: i64 = 1000;
/// The longest that a recovery goes unnoticed, but for the time of one request.
const LAST_PROBE_MS: i64 = 10_000;

/// Whether a server is worth asking. While it is not, one request at a time is let through, one
/// second later at first and never more than ten.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Failures since the last success.
    run: u32,
    failing_since: Option<Timestamp>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    probe_at: Timestamp,
    interval_ms: i64,
    is_probing: bool,
}

impl Breaker {
    /// Whether a request may be made now.
    pub fn permits(&self, now: Timestamp) -> bool {
        self.open
            .as_ref()
            .is_none_or(|open| !open.is_probing && now >= open.probe_at)
    }

    /// Whether the server is thought to be down.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// When the next request may be made; `None` where nothing holds it back, or a probe is under
    /// way, whose end will tell.
    pub fn probe_at(&self) -> Option<Timestamp> {
        let open = self.open.as_ref()?;
        (!open.is_probing).then_some(open.probe_at)
    }

    /// A request is made. Its end must be told, as a success, a failure or as neither.
    pub fn asked(&mut self) {
        if let Some(open) = &mut self.open {
            open.is_probing = true;
        }
    }

    /// A request succeeded. True where the server was thought to be down until now.
    pub fn succeeded(&mut self) -> bool {
        let was_open = self.open.is_some();
        *self = Self::default();
        was_open
    }

    /// A request failed by the server's fault. True where the server is thought to be down from now.
    pub fn failed(&mut self, now: Timestamp, chance: &mut StdRng) -> bool {
        self.run = self.run.saturating_add(1);
        let since = *self.failing_since.get_or_insert(now);
        if let Some(open) = &mut self.open {
            // What was asked before it went down ends late, and says nothing new.
            if open.is_probing {
                open.interval_ms = (open.interval_ms * 2).min(LAST_PROBE_MS);
                open.probe_at = now.plus_millis(jittered(open.interval_ms, chance));
                open.is_probing = false;
            }
            return false;
        }
        let is_down = self.run >= RUN && now.as_millis() - since.as_millis() >= SILENCE_MS;
        if is_down {
            self.open = Some(Open {
                probe_at: now.plus_millis(jittered(FIRST_PROBE_MS, chance)),
                interval_ms: FIRST_PROBE_MS,
                is_probing: false,
            });
        }
        is_down
    }

    /// A request ended without telling anything of the server.
    pub fn told_nothing(&mut self) {
        if let Some(open) = &mut self.open {
            open.is_probing = false;
        }
    }
}

/// From half of `ms` to all of it.
fn jittered(ms: i64, chance: &mut StdRng) -> i64 {
    chance.random_range(ms / 2..=ms)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn down_since(now: i64, chance: &mut StdRng) -> Breaker {
        let mut breaker = Breaker::default();
        for ms in [0, 10, 20, 30] {
            assert!(!breaker.failed(at(now - SILENCE_MS + ms), chance));
        }
        assert!(breaker.failed(at(now), chance));
        breaker
    }

    #[test]
    fn it_opens_after_a_run_of_failures_without_any_success_for_a_while() {
        let chance = &mut StdRng::seed_from_u64(1);
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            assert!(!breaker.failed(at(1000), chance), "all at one moment");
        }
        breaker.succeeded();
        for ms in [2000, 4000, 6000] {
            assert!(!breaker.failed(at(ms), chance), "few in a long time");
        }
        assert!(breaker.permits(at(6000)));
        assert!(!down_since(9000, chance).permits(at(9000)));
    }

    #[test]
    fn while_it_is_open_one_probe_goes_at_a_time_and_at_least_every_ten_seconds() {
        let chance = &mut StdRng::seed_from_u64(2);
        let mut breaker = down_since(0, chance);
        let mut now = 0;
        for _ in 0..20 {
            let probe = breaker.probe_at().unwrap().as_millis();
            assert!(
                (500..=LAST_PROBE_MS).contains(&(probe - now)),
                "{now} {probe}"
            );
            assert!(!breaker.permits(at(probe - 1)));
            assert!(breaker.permits(at(probe)));
            breaker.asked();
            assert!(!breaker.permits(at(probe + 60_000)), "one at a time");
            now = probe + 5000;
            assert!(!breaker.failed(at(now), chance));
        }
        assert!(breaker.permits(at(now + LAST_PROBE_MS)));
        breaker.asked();
        assert!(breaker.succeeded());
        assert!(breaker.permits(at(now)));
    }

    #[test]
    fn a_probe_that_tells_nothing_lets_the_next_one_go() {
        let chance = &mut StdRng::seed_from_u64(3);
        let mut breaker = down_since(0, chance);
        let probe = breaker.probe_at().unwrap();
        breaker.asked();
        breaker.told_nothing();
        assert!(breaker.permits(probe));
        assert!(breaker.is_open());
    }
}
