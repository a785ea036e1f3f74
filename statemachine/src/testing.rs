//! For the tests of an application: does its machine do the same on every replica?

use core::fmt;

use bytes::Bytes;
use rkyv::api::high;
use rkyv::rancor::Failure;
use rkyv::{Archived, Serialize};

use crate::SmError;
use crate::hosted::archive;
use crate::machine::{Apply, CustomSerializer, StateMachine};

/// What differed between two replicas that were given the same entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// What `apply` answered.
    Output,
    /// What the probe found in the state.
    State,
    /// What the probe found after the state went through a snapshot.
    Restored,
    /// The snapshot could not be written or read.
    Snapshot(SmError),
    /// A command or an output refuses to be archived.
    Archive,
}

/// A machine is not deterministic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Index of the entry at which it showed; the first command is 1.
    pub index: u64,
    /// What differed.
    pub what: Difference,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "two replicas differ at entry {}: {:?}", self.index, self.what)
    }
}

impl core::error::Error for Divergence {}

/// A small generator of chance: the same seed gives the same points.
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Every how many entries a snapshot is taken, on average.
const SNAPSHOT_EVERY: u64 = 8;

struct Replica<M> {
    state: M,
}

impl<M: StateMachine> Replica<M> {
    fn apply(&mut self, ctx: &Apply, command: &[u8]) -> Result<Bytes, Difference> {
        let Ok(command) = high::access::<Archived<M::Command>, Failure>(command) else {
            return Err(Difference::Archive);
        };
        let output = self.state.apply(ctx, command);
        archive(&output).map_err(|_bad| Difference::Archive)
    }

    /// Replaces the state by what its snapshot gives.
    fn restart(&mut self) -> Result<(), Difference> {
        let mut snapshot = Vec::new();
        let frozen = self.state.freeze(M::VERSION);
        M::write(frozen, &mut snapshot).map_err(Difference::Snapshot)?;
        let mut state = M::create(0);
        state.restore(&snapshot).map_err(Difference::Snapshot)?;
        self.state = state;
        Ok(())
    }
}

/// Applies `commands` to two instances, of which one is taken through `freeze`, `write` and
/// `restore` at points that `seed` chooses. Outputs, and what `probe` finds in the state, must be
/// the same after each entry: a clock, chance, or the order of a hash map in `apply` shows here.
///
/// # Errors
///
/// [`Divergence`]: the first entry at which the instances differ.
pub fn check_determinism<M, P>(
    seed: u64,
    commands: &[M::Command],
    probe: impl Fn(&M) -> P,
) -> Result<(), Divergence>
where
    M: StateMachine,
    M::Command: for<'a> Serialize<CustomSerializer<'a>>,
    P: PartialEq,
{
    let mut chance = Chance(seed);
    let mut steady = Replica { state: M::create(0) };
    let mut restarted = Replica { state: M::create(0) };
    let mut now_ms = 1_700_000_000_000;
    for (index, command) in (1..).zip(commands) {
        let fail = |what| Divergence { index, what };
        now_ms += chance.next(50);
        let ctx = Apply { shard: 0, index, term: 1, now_ms, version: M::VERSION, session: None };
        let command = archive(command).map_err(|_bad| fail(Difference::Archive))?;
        let output = steady.apply(&ctx, &command).map_err(fail)?;
        if output != restarted.apply(&ctx, &command).map_err(fail)? {
            return Err(fail(Difference::Output));
        }
        if probe(&steady.state) != probe(&restarted.state) {
            return Err(fail(Difference::State));
        }
        if chance.next(SNAPSHOT_EVERY) == 0 {
            restarted.restart().map_err(fail)?;
            if probe(&steady.state) != probe(&restarted.state) {
                return Err(fail(Difference::Restored));
            }
        }
    }
    Ok(())
}
