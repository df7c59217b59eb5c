//! Seeded simulation of the pools: random events, a virtual clock, and the promises of the scheduler checked after
//! each.
//!
//! A failure names its seed and the last events; `SIM_SEED=<seed> cargo test --test sim` replays it alone. Seeds that
//! once found something stand in `seeds.txt` and are replayed first.

mod rng;
mod world;

use world::World;

const SEEDS: u64 = 1_000;
const EVENTS_PER_SEED: usize = 1_000;

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..EVENTS_PER_SEED {
        world.step();
    }
    world.finish();
}

#[test]
fn a_million_random_events_break_no_promise() {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        return run(seed.parse().expect("SIM_SEED is a number"));
    }
    let remembered = include_str!("seeds.txt").lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    for seed in remembered.chain(1..=SEEDS) {
        run(seed);
    }
}
