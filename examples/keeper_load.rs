//! Keeps a million registrations alive for hours of virtual time, with an outage of the core and a
//! restart, and prints what it took.
//!
//! ```text
//! cargo run --release --example keeper_load -- [COUNT] [UPSERTS_PER_MINUTE] [SEED]
//! ```

#![expect(clippy::unwrap_used, reason = "a tool may stop")]

#[expect(dead_code, reason = "shared with the simulation")]
#[path = "../tests/keeper_simulation/world.rs"]
mod world;

use std::time::Duration;

use aftertone::enrolment::keeper::schedule::Limits;
use rustix::time::{ClockId, clock_gettime};
use world::{Mood, Temper, World};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const OUTAGE_MIN: i64 = 40;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| {
        let argument = arguments.next();
        argument.map_or(default, |text| text.parse().expect("a number"))
    };
    let (count, budget, seed) = (number(1_000_000), number(60_000), number(1));
    println!(
        "{count} registrations that live for an hour, {budget} upserts a minute, seed {seed}\n"
    );

    let limits = Limits::per_minute(budget.try_into().unwrap());
    let mut world = World::new(seed, limits, HOUR_MS);
    world.rows.reserve_exact(count.try_into().unwrap());
    for _ in 0..count {
        world.wish(Temper::Fine);
    }
    let before = resident_bytes();
    let begun = cpu_time();
    world.restart(0);
    let loading = cpu_time() - begun;
    println!(
        "taken over from the database in {} ms of CPU",
        loading.as_millis()
    );
    println!("memory: {:.0} bytes each\n", per_one(before, count));
    println!(
        "| phase | virtual time | upserts a second, mean / busiest minute | lapsed in it | live at its end | CPU |"
    );
    println!("|---|---|---|---|---|---|");

    first_registrations(&mut world, count);
    phase(&mut world, "settling", 4 * HOUR_MS);
    phase(&mut world, "steady", 2 * HOUR_MS);
    outage(&mut world);
    phase(&mut world, "after it, evening out", 4 * HOUR_MS);
    phase(&mut world, "steady again", 2 * HOUR_MS);
    world.restart(10 * MINUTE_MS);
    phase(&mut world, "after a restart that took 10 min", 2 * HOUR_MS);
    println!(
        "\nmemory at the end: {:.0} bytes each",
        per_one(before, count)
    );
    let census = cpu_time();
    let now = aftertone::domain::Timestamp::from_millis(world.now);
    println!(
        "{:?} in {:?}",
        world.schedule.census(now),
        cpu_time() - census
    );
}

fn first_registrations(world: &mut World, count: u64) {
    let started = world.now;
    let mut phase = Phase::begin(world, "the first time");
    while world.missing() > 0 {
        world.run_for(MINUTE_MS);
        let minutes = (world.now - started) / MINUTE_MS;
        assert!(minutes < 600, "{} of {count} missing", world.missing());
    }
    phase.name = "the first time, all at once".into();
    phase.end(world);
}

fn outage(world: &mut World) {
    world.mood.is_down = true;
    phase(world, "the core is down", OUTAGE_MIN * MINUTE_MS);
    world.mood = Mood::calm();
    let (back, lost) = (world.now, world.missing());
    let mut phase = Phase::begin(world, "");
    let mut noticed = None;
    while world.missing() > 0 {
        world.run_for(1000);
        if noticed.is_none() && !world.schedule.is_core_down() {
            noticed = Some(world.now - back);
        }
        let step = if world.missing() > 5000 { 9000 } else { 0 };
        world.run_for(step);
    }
    phase.name = format!(
        "back (noticed within {} s, {lost} to bring back)",
        noticed.unwrap_or(0) / 1000
    );
    phase.end(world);
}

fn phase(world: &mut World, name: &str, ms: i64) {
    let phase = Phase::begin(world, name);
    world.run_for(ms);
    phase.end(world);
}

struct Phase {
    name: String,
    from: i64,
    asked: u64,
    lapses: u64,
    cpu: Duration,
}

impl Phase {
    fn begin(world: &World, name: &str) -> Self {
        Self {
            name: name.into(),
            from: world.now,
            asked: world.tally.asked,
            lapses: world.tally.lapses,
            cpu: cpu_time(),
        }
    }

    fn end(self, world: &World) {
        let cpu = cpu_time() - self.cpu;
        let ms = world.now - self.from;
        let asked = world.tally.asked - self.asked;
        // Whole minutes only.
        let minutes = self.from / MINUTE_MS + 1..world.now / MINUTE_MS;
        let counts = minutes.filter_map(|minute| world.tally.by_minute.get(&minute));
        let busiest = f64::from(counts.max().copied().unwrap_or(0)) / 60.0;
        let mean = asked as f64 / (ms as f64 / 1000.0);
        println!(
            "| {} | {:.0} min | {mean:.0} / {busiest:.0} | {} | {} | {:.1} s |",
            self.name,
            ms as f64 / MINUTE_MS as f64,
            world.tally.lapses - self.lapses,
            world.live(),
            cpu.as_secs_f64(),
        );
    }
}

fn per_one(before: u64, count: u64) -> f64 {
    (resident_bytes().saturating_sub(before)) as f64 / count as f64
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB").parse::<u64>();
    kilobytes.unwrap() * 1024
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap(),
        time.tv_nsec.try_into().unwrap(),
    )
}
