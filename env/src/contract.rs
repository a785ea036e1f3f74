//! The contract of the seam as checks that both machines pass.
//!
//! Each check is one line of the contract, on one core of its own. Checks share a directory and
//! use names of their own. What needs a fault (a failing sync, a lost power supply) is checked in
//! the simulator alone.

#![expect(clippy::missing_panics_doc, reason = "a check panics when the contract is broken")]

mod files;
mod names;
mod sockets;
mod tasks;

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use crate::{BLOCK, Buf, CoreNo, CoreOptions, CoreThread, Env, EnvError, EnvFactory, SharedBuf};

/// A check's future.
type Checking = Pin<Box<dyn Future<Output = ()>>>;

/// A line of the contract.
#[derive(Clone, Copy)]
pub struct Check<E> {
    /// The fact.
    pub name: &'static str,
    run: fn(E) -> Checking,
}

impl<E> core::fmt::Debug for Check<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! checks {
    ($($module:ident: $($name:ident)*;)*) => {
        /// Every check.
        #[must_use]
        pub fn checks<E: Env>() -> Vec<Check<E>> {
            vec![$($(Check {
                name: stringify!($name),
                run: |env| Box::pin($module::$name(env)),
            },)*)*]
        }
    };
}

checks! {
    files:
        a_write_is_read_back
        a_synced_write_is_read_back
        many_writes_in_flight_all_complete
        a_scratch_buffer_is_whole_after_a_shorter_write
        an_empty_file_reads_as_nothing
        a_read_is_short_at_the_end_only
        a_read_only_file_is_not_written
        a_dropped_write_poisons
        misaligned_calls_assert
        a_mapping_is_the_file
        a_mapping_outlives_the_name
        a_mapping_past_the_end_is_an_error;
    names:
        opening_nothing_is_not_found
        creating_twice_says_it_exists
        a_filled_file_is_all_zeros
        filling_a_name_that_exists_changes_nothing
        a_small_file_is_replaced_as_a_whole
        a_small_file_has_a_bound
        a_rename_replaces_its_target
        a_removed_name_is_gone
        a_directory_lists_its_files_in_order
        an_open_file_outlives_its_name
        free_space_is_known;
    tasks:
        time_does_not_go_back
        a_sleep_is_never_early
        timers_end_in_their_order
        a_detached_task_runs_to_its_end
        yielding_lets_ready_tasks_run_first
        breathing_sees_completions
        background_work_is_not_starved
        offloaded_work_runs_in_order
        the_offload_queue_is_bounded
        an_offload_runs_though_nobody_waits
        a_rung_bell_ends_the_parking
        a_bell_rung_before_parking_is_heard
        a_buffer_is_zeroed_and_aligned
        chance_differs;
    sockets:
        bytes_arrive_in_order
        gathered_parts_arrive_as_one
        a_host_has_addresses
        a_port_nobody_listens_at_refuses
        an_address_is_taken_once
        half_close_delivers_all
        partial_writes_deliver_all
        unread_input_then_close_is_reset
        a_moved_stream_keeps_its_bytes
        a_stranger_is_not_adopted;
}

/// Runs every check, each on a core of its own of the factory's node; `finish` waits until the
/// core has ended and says how. Then the checks that need two cores.
pub fn check_all<F: EnvFactory>(factory: &F, mut finish: impl FnMut(&str, Vec<CoreThread>)) {
    let claim = factory.claim().expect("the directory is free");
    assert!(factory.claim().is_err(), "a directory is claimed once");
    for check in checks::<F::Env>() {
        let core = factory.spawn_core(options(factory, 0), move |env| (check.run)(env));
        finish(check.name, vec![core.expect("a core starts")]);
    }
    tasks::a_bell_wakes_another_core(factory, &mut finish);
    sockets::a_stream_moves_to_another_core(factory, &mut finish);
    drop(claim);
    drop(factory.claim().expect("a claim that was dropped is free again"));
}

/// Options of core `no`, on a CPU that may be used.
fn options<F: EnvFactory>(factory: &F, no: u16) -> CoreOptions {
    let cpus = factory.facts().cpus;
    let cpu = cpus[usize::from(no) % cpus.len()];
    CoreOptions { core: CoreNo(no), cpu, cores: 2, direct_io: true }
}

/// A whole buffer of `blocks` blocks of `byte`.
fn filled<E: Env>(env: &E, blocks: usize, byte: u8) -> SharedBuf {
    let len = blocks * BLOCK;
    let mut buf: Buf = env.buffer(len).expect("the pool is not at its bound");
    buf.rest_mut()[..len].fill(byte);
    buf.fill(len);
    buf.freeze(len)
}

/// Polls once, with a waker that wakes nobody.
fn poll_once<T: Future>(future: Pin<&mut T>) -> Poll<T::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// An offset.
fn block_at(block: usize) -> u64 {
    u64::try_from(block * BLOCK).expect("an offset fits 64 bits")
}

/// What went wrong, without its system number.
fn kind<T>(result: Result<T, EnvError>) -> Option<crate::Kind> {
    result.err().map(|error| error.kind)
}
