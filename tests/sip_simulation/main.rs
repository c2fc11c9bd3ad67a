//! Endpoint against endpoint over a bad network in virtual time. Each seed is another history; after
//! each step a shadow of every call is checked. `SIM_SEED=n` replays one seed (with `SIM_TRACE=1` every
//! message and event is printed), `SIM_SEEDS=n` runs so many.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/net.rs"]
mod net;
mod world;

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use world::World;

const DEFAULT_SEEDS: u64 = 2_000;
const STEPS: usize = 60;

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    for step in 0..STEPS {
        guard(seed, step, &mut world, World::act);
    }
    guard(seed, STEPS, &mut world, World::wind_up);
    world
}

/// Names the seed and the step when a check fails.
fn guard(seed: u64, step: usize, world: &mut World, what: impl FnOnce(&mut World)) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| what(world)));
    if let Err(cause) = outcome {
        eprintln!("SIM_SEED={seed} fails at step {step}, {:?}", world.scene);
        std::panic::resume_unwind(cause);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn calls_keep_their_promises_whatever_the_network_does() {
    if let Some(seed) = number("SIM_SEED") {
        let world = run(seed);
        eprintln!("{:?}\n{:?}", world.scene, world.counted);
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(DEFAULT_SEEDS);
    let next = AtomicU64::new(0);
    let work = || {
        let mut counted = BTreeMap::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return counted;
            }
            for (what, count) in run(seed).counted {
                *counted.entry(what).or_insert(0) += count;
            }
        }
    };
    let mut counted = BTreeMap::new();
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            counted.extend(worker.join().expect("a seed failed; it is named above"));
        }
    });
    // The histories must reach the corners, or they prove nothing.
    for corner in [
        "response_retransmitted",
        "request_retransmitted",
        "ack_to_success_missing",
        "cancel_too_late",
        "offer_glare",
        "answer_repeated",
    ] {
        assert!(
            counted.contains_key(corner),
            "no history reached {corner}: {counted:?}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..20 {
        assert_eq!(
            run(seed).history.finish(),
            run(seed).history.finish(),
            "seed {seed}"
        );
    }
}
