//! The contract of the seam on the simulated machine, and what only it can show: the lines that
//! begin with a fault.
#![cfg(all(feature = "sim", feature = "contract"))]

use bowline_env::Nanos;
use bowline_env::contract;
use bowline_env::sim::{Fault, Profile, World};

fn keeps_the_contract(seed: u64, profile: Profile) {
    let world = World::new(seed, profile);
    world.tolerate_dropped_writes(true);
    contract::check_all(&world.node(1), |name, cores| {
        let ended = world.run_until(|| !world.alive(1), Nanos(100_000_000_000));
        assert_eq!(ended, Ok(()), "{name}");
        for core in cores {
            assert_eq!(core.join(), Ok(()), "{name}");
        }
    });
}

#[test]
fn a_calm_simulated_machine_keeps_the_contract() {
    for seed in 0..5 {
        keeps_the_contract(seed, Profile::calm());
    }
}

/// What may happen to a machine without breaking the contract: everything but failing operations.
fn patient() -> Profile {
    [
        Fault::WriteError,
        Fault::ReadError,
        Fault::SyncError,
        Fault::NoSpace,
        Fault::ShortWrite,
        Fault::LostWrite,
        Fault::Misdirected,
        Fault::StaleRead,
        Fault::Rot,
        Fault::NoBuffer,
        Fault::NoOffload,
        Fault::NetReset,
        Fault::Stuck,
        Fault::Slow,
    ]
    .into_iter()
    .fold(Profile::swarm(), Profile::without)
}

#[test]
fn a_slow_and_uneven_simulated_machine_keeps_the_contract() {
    for seed in 0..20 {
        keeps_the_contract(seed, patient());
    }
}
