//! The keeper's schedule against a core with moods, in virtual time. Each seed is another history.
//! `SIM_SEED=n` replays one seed and tells what happened, `SIM_SEEDS=n` runs so many.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use aftertone::enrolment::keeper::schedule::Limits;
use rand::RngExt;
use world::{Mood, Temper, World};

const DEFAULT_SEEDS: u64 = 100;
const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;

/// A few hundred registrations, whose budget is twice to six times what they need.
fn a_world(seed: u64) -> World {
    let mut world = World::new(seed, Limits::per_minute(1), HOUR_MS);
    let count: u32 = world.chance().random_range(1..400);
    let budget = count.div_ceil(30) * world.chance().random_range(2..6) + 5;
    let life_ms = [HOUR_MS, HOUR_MS, 10 * MINUTE_MS][world.chance().random_range(0..3)];
    let budget = budget * u32::try_from(HOUR_MS / life_ms).unwrap();
    world = World::new(seed, Limits::per_minute(budget), life_ms);
    for _ in 0..count {
        let temper = match world.chance().random_range(0..40) {
            0 => Temper::Refused,
            1 => Temper::Silent,
            2 => Temper::WithoutConsent,
            _ => Temper::Fine,
        };
        let is_waited_for = world.chance().random_bool(0.2);
        world.enrol(temper, is_waited_for);
    }
    world
}

/// One thing happens, and then some time passes.
fn act(world: &mut World) {
    match world.chance().random_range(0..10) {
        0 => world.mood.loss = world.chance().random_range(0.0..0.5),
        1 => world.mood.nonsense = world.chance().random_range(0.0..0.5),
        2 => world.mood.latency_ms = 5..=world.chance().random_range(50..6000),
        3 => {
            world.mood.is_down = true;
            world.mood.refuses_connections = world.chance().random_bool(0.5);
        }
        4 => world.mood.twice = 0.5,
        5 => {
            let later_ms = world.chance().random_range(0..20 * MINUTE_MS);
            world.restart(later_ms);
        }
        6 => {
            let rows = world.rows.len();
            let seq = world.chance().random_range(1..=rows);
            world.leave(i64::try_from(seq).unwrap());
        }
        7 => world.enrol(Temper::Fine, true),
        _ => world.mood = Mood::calm(),
    }
    let ms = world.chance().random_range(0..20 * MINUTE_MS);
    world.run_for(ms);
}

/// Whatever has been: when the core is well again, everyone is registered within the longest
/// backoff and what the budget needs, and stays so.
fn wind_up(world: &mut World) {
    world.mood = Mood::calm();
    world.run_for(15 * MINUTE_MS);
    assert_eq!(world.missing(), 0, "of {}", world.rows.len());
    let lapses = world.tally.lapses;
    world.run_for(3 * HOUR_MS);
    assert_eq!(world.tally.lapses, lapses, "while the core was well");
    assert_eq!(world.missing(), 0);
}

fn run(seed: u64) -> World {
    let mut world = a_world(seed);
    for step in 0..30 {
        guard(seed, step, &mut world, act);
    }
    guard(seed, 30, &mut world, wind_up);
    world
}

/// Names the seed and the step when a check fails.
fn guard(seed: u64, step: usize, world: &mut World, what: impl FnOnce(&mut World)) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| what(world)));
    if let Err(cause) = outcome {
        eprintln!(
            "SIM_SEED={seed} fails at step {step}, {:?}\n{:?}",
            world.mood, world.tally.outcomes
        );
        std::panic::resume_unwind(cause);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn registrations_are_kept_whatever_the_core_does() {
    if let Some(seed) = number("SIM_SEED") {
        let world = run(seed);
        eprintln!("{:?}", world.tally);
        return;
    }
    let mut corners = std::collections::BTreeSet::new();
    for seed in 0..number("SIM_SEEDS").unwrap_or(DEFAULT_SEEDS) {
        corners.extend(run(seed).tally.outcomes.into_keys());
    }
    // The histories must reach the corners, or they prove nothing.
    for corner in [
        "registered",
        "refused",
        "nonsense",
        "unavailable",
        "deadline",
        "consent-lost",
        "gone",
    ] {
        assert!(corners.contains(corner), "no history reached {corner}");
    }
}

/// So many registrations that live for an hour, with a budget of `factor` times what they need.
fn fleet(count: u32, factor: f64, seed: u64) -> World {
    let need = f64::from(count) / 30.0;
    let limits = Limits::per_minute((need * factor) as u32);
    let mut world = World::new(seed, limits, HOUR_MS);
    for _ in 0..count {
        world.enrol(Temper::Fine, false);
    }
    world
}

/// The most asked in any minute since `from`, by the mean of all.
fn unevenness(world: &World, from_ms: i64) -> f64 {
    let minutes = from_ms / MINUTE_MS + 1..world.now / MINUTE_MS;
    let asked: Vec<f64> = minutes
        .map(|minute| world.tally.by_minute.get(&minute).copied().unwrap_or(0))
        .map(f64::from)
        .collect();
    let mean = asked.iter().sum::<f64>() / asked.len() as f64;
    asked.into_iter().fold(0.0, f64::max) / mean
}

#[test]
fn a_bulk_of_new_ones_takes_what_the_budget_allows_and_evens_out() {
    let mut world = fleet(20_000, 2.0, 1);
    world.run_for(16 * MINUTE_MS);
    assert_eq!(world.missing(), 0, "20,000 at 1,333 a minute");
    world.run_for(4 * HOUR_MS);
    let settled = world.now;
    world.run_for(2 * HOUR_MS);
    assert_eq!(world.tally.lapses, 0);
    let unevenness = unevenness(&world, settled);
    assert!(unevenness < 1.25, "{unevenness}");
}

#[test]
fn after_a_restart_nobody_lapses_and_nothing_comes_in_a_herd() {
    let mut world = fleet(20_000, 2.0, 2);
    world.run_for(4 * HOUR_MS);
    let restarted = world.now;
    world.restart(8 * MINUTE_MS);
    world.run_for(2 * HOUR_MS);
    assert_eq!(world.tally.lapses, 0);
    let unevenness = unevenness(&world, restarted + 8 * MINUTE_MS);
    assert!(unevenness < 1.5, "{unevenness}");
}

#[test]
fn an_outage_costs_no_more_than_it_must_and_its_end_is_noticed_soon() {
    let mut world = fleet(20_000, 2.0, 3);
    world.run_for(4 * HOUR_MS);
    world.mood.is_down = true;
    let asked = world.tally.asked;
    world.run_for(40 * MINUTE_MS);
    let probes = world.tally.asked - asked;
    assert!((200..800).contains(&probes), "{probes} in 40 minutes");
    let lapsed = world.missing();
    // When it begins, they have from 24 minutes to an hour left.
    assert!((2000..12_000).contains(&lapsed), "{lapsed}");

    world.mood = Mood::calm();
    world.run_for(40_000);
    assert!(world.missing() < lapsed, "the end was not noticed");
    // 1,333 a minute, of which 667 renew what would lapse next: so many were renewed in each minute
    // before it.
    let minutes = i64::try_from(lapsed / 650).unwrap() + 1;
    world.run_for(minutes * MINUTE_MS);
    assert_eq!(world.missing(), 0, "after {minutes} minutes");
    let lapses = world.tally.lapses;
    world.run_for(3 * HOUR_MS);
    assert_eq!(world.tally.lapses, lapses);
}

#[test]
fn a_budget_that_does_not_suffice_is_shared_so_that_nobody_waits_for_ever() {
    // Renewed at its very end, each needs one a life: three quarters of that are allowed.
    let mut world = fleet(2000, 0.375, 4);
    world.run_for(12 * HOUR_MS);
    let live = world.live();
    assert!(live > 1300, "{live} of 2,000 live");
    assert!(
        world.tally.longest_lapse_ms < 2 * HOUR_MS,
        "{} minutes",
        world.tally.longest_lapse_ms / MINUTE_MS
    );
}

#[test]
fn a_person_who_waits_is_served_before_a_bulk() {
    let mut world = fleet(20_000, 2.0, 5);
    world.run_for(MINUTE_MS);
    world.enrol(Temper::Fine, true);
    world.run_for(1000);
    assert!(world.rows.last().unwrap().lives_until > world.now);
    assert!(world.missing() > 10_000);
}

#[test]
fn a_core_that_loses_half_of_everything_still_keeps_everyone() {
    let mut world = fleet(5000, 4.0, 6);
    world.run_for(2 * HOUR_MS);
    world.mood.loss = 0.3;
    world.run_for(4 * HOUR_MS);
    assert_eq!(world.tally.lapses, 0);
    assert_eq!(world.missing(), 0);
    assert!(world.in_flight() < 100);
}
