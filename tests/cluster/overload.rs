//! More than a cluster can do: what it takes it does, and the rest is refused at once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bowline::Error;
use bowline_env::Nanos;
use bowline_env::sim::SimTask;

use crate::kit::{Cluster, LIMIT, ms};

/// What became of the calls of some writers.
#[derive(Default)]
struct Tally {
    done: Cell<u64>,
    busy: Cell<u64>,
    /// The longest time that a refusal took.
    refused_after: Cell<Nanos>,
    /// How long each call that was done took.
    took: RefCell<Vec<Nanos>>,
}

impl Tally {
    fn p99(&self) -> Nanos {
        let mut took = self.took.borrow().clone();
        took.sort();
        took[took.len() * 99 / 100]
    }
}

/// Writers through `node`, each with a key of `keys` of its own, which write without a pause until
/// `until` and wait `rest` after each call.
fn writers(
    cluster: &Cluster,
    node: u64,
    keys: &[String],
    (value, rest): (usize, Nanos),
    until: Nanos,
) -> (Rc<Tally>, Vec<SimTask<()>>) {
    let tally = Rc::new(Tally::default());
    let write = |key: &String| {
        let (client, world) = (cluster.engine(node).client(), cluster.world.clone());
        let (tally, key, value) = (Rc::clone(&tally), key.clone(), vec![b'x'; value]);
        cluster.world.spawn_client(async move {
            while world.now() < until {
                let begin = world.now();
                let answer = client.put(key.clone(), value.clone()).await;
                let took = world.now().since(begin);
                match answer {
                    Ok(()) => {
                        tally.done.set(tally.done.get() + 1);
                        tally.took.borrow_mut().push(took);
                        world.sleep(rest).await;
                    },
                    Err(Error::Busy { .. }) => {
                        tally.busy.set(tally.busy.get() + 1);
                        tally.refused_after.set(tally.refused_after.get().max(took));
                        world.sleep(ms(20)).await;
                    },
                    Err(error) => panic!("{error}"),
                }
            }
        })
    };
    let tasks = keys.iter().map(write).collect();
    (tally, tasks)
}

fn keys(count: u64) -> Vec<String> {
    (0..count).map(|nth| format!("key-{nth}")).collect()
}

#[test]
fn ov_01_ten_times_what_fits_is_refused_at_once_and_the_rest_goes_on() {
    // Writes of 4 KiB, of which 64 may be under way.
    let run = |load: u64| {
        let mut cluster = Cluster::new(61, 3, 4);
        cluster.set("limits.core_budget", "\"256KiB\"");
        for setup in &mut cluster.setups {
            (setup.slot_bytes, setup.log_bytes, setup.delta_bytes) = (1 << 20, 64 << 20, 64 << 20);
        }
        cluster.start_all();
        let leader = cluster.leader();
        let begin = cluster.world.now();
        let (tally, tasks) =
            writers(&cluster, leader, &keys(load), (4_000, Nanos(0)), begin.after(ms(400)));
        cluster.world.run_until(|| tasks.iter().all(SimTask::is_done), LIMIT).unwrap();
        (cluster.leader() == leader).then_some(tally).expect("leaders stay")
    };
    let (fits, over) = (run(60), run(600));
    assert_eq!(fits.busy.get(), 0, "they fit");
    let (capacity, goodput) = (fits.done.get(), over.done.get());
    assert!(goodput * 10 >= capacity * 8, "{goodput} of {capacity}");
    assert!(over.busy.get() > 540 * 10, "{} were refused", over.busy.get());
    assert!(over.refused_after.get() < ms(2), "{:?}", over.refused_after.get());
    // What is under way is bounded, hence how long it takes.
    assert!(over.p99() < Nanos(2 * fits.p99().0), "{:?} {:?}", over.p99(), fits.p99());
}

#[test]
fn ov_02_one_shard_with_all_the_load_leaves_the_others_theirs() {
    let run = |load: u64| {
        let cluster = Cluster::up(62, 3, 8);
        let leader = cluster.leader();
        let engine = cluster.engine(leader);
        let hot = engine.shard_of(b"{hot}");
        let light: Vec<_> =
            keys(40).into_iter().filter(|key| engine.shard_of(key.as_bytes()) != hot).collect();
        let heavy: Vec<_> = (0..load).map(|nth| format!("{{hot}}-{nth}")).collect();
        let until = cluster.world.now().after(ms(1_500));
        let (_, loading) = writers(&cluster, leader, &heavy, (1_000, Nanos(0)), until);
        let (tally, asking) = writers(&cluster, leader, &light, (100, ms(30)), until);
        // It is flushed and changes its leader meanwhile, and so do the others.
        cluster.world.run_for(ms(500));
        cluster.flush(leader);
        let done = || loading.iter().chain(&asking).all(SimTask::is_done);
        cluster.world.run_until(done, LIMIT).unwrap();
        assert!(tally.done.get() > 500, "{}", tally.done.get());
        tally.p99()
    };
    let (alone, beside) = (run(0), run(100));
    assert!(beside.0 < 2 * alone.0, "{beside:?} beside the load, {alone:?} without");
}

/// Bug: redpanda #1503: one write larger than its budget closed a partition.
#[test]
fn ov_04_what_is_larger_than_an_empty_budget_is_admitted_alone() {
    let mut cluster = Cluster::new(63, 3, 1);
    cluster.set("limits.core_budget", "\"64KiB\"");
    cluster.set("limits.parked", "\"0B\"");
    cluster.start_all();
    let leader = cluster.leader();
    let largest = "x".repeat(8_000);
    let tasks: Vec<_> =
        (0..30).map(|nth| cluster.begin_put(leader, &format!("key-{nth}"), &largest)).collect();
    cluster.world.run_until(|| tasks.iter().all(SimTask::is_done), LIMIT).unwrap();
    let answers: Vec<_> = tasks.into_iter().map(|task| task.take().unwrap()).collect();
    let done = answers.iter().filter(|answer| answer.is_ok()).count();
    let busy = answers.iter().filter(|it| matches!(it, Err(Error::Busy { .. }))).count();
    assert!(0 < done && 0 < busy && done + busy == 30, "{done} done, {busy} refused");
    // A cluster without a leader: one call larger than the budget of what waits for one.
    for node in cluster.others(leader) {
        cluster.crash(node, bowline_env::sim::Crash::Kill);
    }
    cluster.world.run_for(ms(2_000));
    let both = ["one", "other"].map(|key| cluster.begin_put(leader, key, &largest));
    cluster.world.run_for(ms(10));
    let (refused, waits): (Vec<_>, Vec<_>) = both.into_iter().partition(SimTask::is_done);
    assert!(matches!(&refused[..], [one] if matches!(one.take(), Some(Err(Error::Busy { .. })))));
    for node in cluster.others(leader) {
        cluster.start(node);
    }
    cluster.world.run_until(|| waits.iter().all(SimTask::is_done), LIMIT).unwrap();
}
