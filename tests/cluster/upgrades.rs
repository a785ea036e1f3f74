//! Nodes that come back with other versions of an application's state machine, under load.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bowline::rkyv::{Archive, Archived, Deserialize, Serialize};
use bowline::{
    Apply, Code, Consistency, EmbeddedEngine, Error, Op, ReadCtx, RequestError, SmError,
    StateMachine, Unready,
};
use bowline_env::sim::{SimTask, World};

use crate::kit::{Cluster, LIMIT, ms};

/// Version 1 adds up numbers. Version 2 also counts, and takes away.
#[derive(Default)]
struct Tally<const VERSION: u16> {
    sum: u64,
    taken: u64,
}

const ADD: u8 = 1;
/// From version 2 on.
const TAKE: u8 = 2;

#[derive(Archive, Serialize, Deserialize, Clone, Copy)]
#[rkyv(crate = bowline::rkyv)]
struct Order {
    verb: u8,
    number: u64,
}

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = bowline::rkyv)]
struct Sum;

impl<const VERSION: u16> StateMachine for Tally<VERSION> {
    const NAME: &'static str = "tally";
    const VERSION: u16 = VERSION;
    type Command = Order;
    type Output = u64;
    type Query = Sum;
    type Answer = u64;
    /// Sum, what was taken, and the version that is to read it.
    type Frozen = (u64, u64, u16);

    fn create(_shard: u64) -> Self {
        Self::default()
    }

    fn needs(order: &Archived<Order>) -> u16 {
        if order.verb == ADD { 1 } else { 2 }
    }

    fn apply(&mut self, ctx: &Apply, order: &Archived<Order>) -> u64 {
        assert_eq!(ctx.version, Self::needs(order), "the version comes along");
        let number = order.number.to_native();
        match order.verb {
            ADD => self.sum += number,
            TAKE if VERSION > 1 => {
                self.sum -= number;
                self.taken += number;
            },
            other => panic!("verb {other} came to version {VERSION}"),
        }
        self.sum
    }

    fn query(&self, _ctx: &ReadCtx, _sum: &Archived<Sum>) -> u64 {
        self.sum
    }

    fn freeze(&mut self, version: u16) -> (u64, u64, u16) {
        (self.sum, self.taken, version)
    }

    fn write((sum, taken, version): Self::Frozen, out: &mut dyn io::Write) -> Result<(), SmError> {
        out.write_all(&sum.to_le_bytes())?;
        if version > 1 {
            out.write_all(&taken.to_le_bytes())?;
        }
        Ok(())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), SmError> {
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).ok();
        let (sum, taken) = snapshot.split_at_checked(8).ok_or(SmError::Invalid)?;
        if VERSION == 1 && !taken.is_empty() {
            return Err(SmError::Invalid);
        }
        self.sum = number(sum).ok_or(SmError::Invalid)?;
        self.taken = if taken.is_empty() { 0 } else { number(taken).ok_or(SmError::Invalid)? };
        Ok(())
    }
}

/// Asks something of a key's shard.
type Ask<T> = Rc<dyn Fn(&str, T) -> Op<u64>>;

/// Speaks to a node of either version.
#[derive(Clone)]
struct Teller {
    order: Ask<Order>,
    sum: Ask<Consistency>,
}

impl Teller {
    fn of<const VERSION: u16>(engine: &EmbeddedEngine) -> Self {
        let typed = || engine.client().typed::<Tally<VERSION>>().unwrap();
        let (orders, sums) = (typed(), typed());
        Self {
            order: Rc::new(move |key, order| orders.propose(key, &order)),
            sum: Rc::new(move |key, how| sums.query(key, &Sum, how)),
        }
    }
}

/// Keys that lie in several shards.
const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[derive(Default)]
struct Books {
    tellers: RefCell<BTreeMap<u64, Teller>>,
    /// By key: what its shard holds at least.
    sums: RefCell<BTreeMap<&'static str, u64>>,
    acked: Cell<u64>,
    over: Cell<bool>,
}

/// A cluster of tallies under load: one is added to each key in turn, all the time.
struct Bank {
    cluster: Cluster,
    books: Rc<Books>,
    load: SimTask<()>,
}

impl Bank {
    fn open(seed: u64) -> Self {
        let mut cluster = Cluster::new(seed, 3, 4);
        for node in [1, 2, 3] {
            cluster.try_start_with::<Tally<1>>(node).unwrap();
        }
        for node in [1, 2, 3] {
            cluster.ready(node);
        }
        let books = Rc::<Books>::default();
        let load = cluster.world.spawn_client(Rc::clone(&books).add(cluster.world.clone()));
        let bank = Self { cluster, books, load };
        for node in [1, 2, 3] {
            bank.knows::<1>(node);
        }
        bank.goes_on();
        bank
    }

    fn knows<const VERSION: u16>(&self, node: u64) {
        let teller = Teller::of::<VERSION>(self.cluster.engine(node));
        self.books.tellers.borrow_mut().insert(node, teller);
    }

    /// Brings a node to another version.
    #[track_caller]
    fn roll<const VERSION: u16>(&mut self, node: u64) {
        self.books.tellers.borrow_mut().remove(&node);
        self.cluster.stop(node);
        self.comes::<VERSION>(node);
    }

    #[track_caller]
    fn comes<const VERSION: u16>(&mut self, node: u64) {
        self.cluster.try_start_with::<Tally<VERSION>>(node).unwrap();
        self.cluster.ready(node);
        self.knows::<VERSION>(node);
        self.goes_on();
    }

    /// More writes are acknowledged.
    #[track_caller]
    fn goes_on(&self) {
        let before = self.books.acked.get();
        let went_on = || self.books.acked.get() > before + 50;
        self.cluster.world.run_until(went_on, LIMIT).unwrap();
    }

    /// Takes nothing away of a key, as version 2 can, through whoever leads it.
    #[track_caller]
    fn take(&self, key: &'static str) -> Result<u64, Error> {
        let tellers = self.books.tellers.borrow().clone();
        let world = self.cluster.world.clone();
        self.cluster.run(async move {
            for teller in tellers.values().cycle() {
                let told = (teller.order)(key, Order { verb: TAKE, number: 0 }).await;
                if !matches!(told, Err(Error::NotLeader { .. } | Error::NoLeader { .. })) {
                    return told;
                }
                world.sleep(ms(10)).await;
            }
            panic!("no node is known")
        })
    }

    /// No node takes what version 2 alone can do, and says why.
    #[track_caller]
    fn takes_nothing(&self) {
        for key in KEYS {
            let error = self.take(key).unwrap_err();
            let Error::Request(why) = &error else { panic!("{error}") };
            assert_eq!(*why, RequestError::Version { needs: 2, agreed: 1 }, "{key}");
            assert_eq!(why.code(), Code::VERSION_NOT_AGREED);
        }
    }

    /// Every node holds what was acknowledged, and the same.
    #[track_caller]
    fn close(self) {
        self.books.over.set(true);
        self.cluster.world.run_until(|| self.load.is_done(), LIMIT).unwrap();
        for key in KEYS {
            let least = self.books.sums.borrow()[key];
            let tellers = self.books.tellers.borrow().clone();
            for (node, teller) in tellers {
                let sum = self.cluster.run((teller.sum)(key, Consistency::Linearizable)).unwrap();
                // Keys of one shard are one sum.
                assert!(sum >= least, "node {node}, key {key}: {sum} of {least}");
                let first = (self.books.tellers.borrow()[&1].sum)(key, Consistency::Linearizable);
                assert_eq!(sum, self.cluster.run(first).unwrap(), "nodes 1 and {node}, key {key}");
            }
        }
    }
}

impl Books {
    async fn add(self: Rc<Self>, world: World) {
        let mut to = 1;
        for key in KEYS.iter().copied().cycle() {
            if self.over.get() {
                return;
            }
            loop {
                let teller = self.tellers.borrow().get(&to).cloned();
                let told = match teller {
                    Some(teller) => Some((teller.order)(key, Order { verb: ADD, number: 1 }).await),
                    None => None,
                };
                match told {
                    Some(Ok(_)) => {
                        *self.sums.borrow_mut().entry(key).or_default() += 1;
                        self.acked.set(self.acked.get() + 1);
                        break;
                    },
                    Some(Err(Error::Timeout { .. })) => break,
                    Some(Err(Error::Request(why))) => panic!("an addition is refused: {why}"),
                    Some(Err(_)) | None => to = to % 4 + 1,
                }
                world.sleep(ms(1)).await;
            }
        }
    }
}

#[test]
fn up_02_a_version_is_used_once_every_member_runs_it() {
    for seed in 700..706 {
        let mut bank = Bank::open(seed);
        // Two of three: version 2 is known and nothing of it is written.
        bank.roll::<2>(1);
        bank.roll::<2>(2);
        bank.takes_nothing();
        // Back again, with all that was written meanwhile.
        bank.cluster.flush(1);
        bank.cluster.flush(2);
        bank.roll::<1>(1);
        bank.roll::<1>(2);
        bank.takes_nothing();
        // All of them: from now on, and for good.
        for node in [3, 1, 2] {
            bank.roll::<2>(node);
        }
        bank.cluster.world.run_for(ms(1_000));
        for key in KEYS {
            bank.take(key).unwrap();
        }
        bank.goes_on();
        bank.books.tellers.borrow_mut().remove(&3);
        bank.cluster.stop(3);
        let error = bank.cluster.try_start_with::<Tally<1>>(3).unwrap_err();
        assert!(
            matches!(&error, Error::DataDir(why) if why.code == Code::WRONG_MACHINE),
            "{error}"
        );
        bank.comes::<2>(3);
        bank.close();
    }
}

#[test]
fn up_02_a_member_of_the_version_before_takes_the_state_of_a_later_one() {
    let mut bank = Bank::open(710);
    bank.books.tellers.borrow_mut().remove(&3);
    bank.cluster.stop(3);
    bank.roll::<2>(1);
    bank.roll::<2>(2);
    // What node 3 lacks is in no log any more.
    for _ in 0..8 {
        for _ in 0..20 {
            bank.goes_on();
        }
        bank.cluster.flush(1);
        bank.cluster.flush(2);
    }
    bank.comes::<1>(3);
    let metrics = bank.cluster.engine(3).metrics();
    let received: u64 = metrics.cores.iter().map(|core| core.installs).sum();
    assert!(received > 0, "node 3 got entries only");
    bank.takes_nothing();
    bank.roll::<2>(3);
    bank.cluster.world.run_for(ms(1_000));
    bank.take("a").unwrap();
    bank.close();
}

/// Nothing but the entry is missing: commands wait for it.
#[test]
fn up_02_a_lone_node_takes_later_commands_from_its_start() {
    let mut cluster = Cluster::new(730, 1, 2);
    cluster.try_start_with::<Tally<1>>(1).unwrap();
    cluster.ready(1);
    let teller = Teller::of::<1>(cluster.engine(1));
    assert_eq!(cluster.run((teller.order)("a", Order { verb: ADD, number: 5 })).unwrap(), 5);
    cluster.stop(1);
    cluster.try_start_with::<Tally<2>>(1).unwrap();
    cluster.ready(1);
    let teller = Teller::of::<2>(cluster.engine(1));
    assert_eq!(cluster.run((teller.order)("a", Order { verb: TAKE, number: 2 })).unwrap(), 3);
}

#[test]
fn up_02_a_node_of_the_version_before_does_not_join() {
    let mut bank = Bank::open(720);
    for node in [1, 2, 3] {
        bank.roll::<2>(node);
    }
    bank.cluster.world.run_for(ms(1_000));
    bank.take("a").unwrap();
    let node = bank.cluster.next_node();
    bank.cluster.try_start_with::<Tally<1>>(node).unwrap();
    bank.cluster.add(1, node).unwrap().complete().unwrap();
    bank.cluster.world.run_for(ms(2_000));
    let error = bank.cluster.promote(1, node).unwrap_err();
    assert!(error.to_string().contains("older state machine"), "{error}");
    bank.cluster.stop(node);
    bank.comes::<2>(node);
    bank.cluster.promote(1, node).unwrap().complete().unwrap();
    bank.close();
}

/// Bug: which version a state was of was looked at when all of it had come. It was offered again
/// after a while, and came again, for ever; the node said that it knew no leader.
#[test]
fn up_02_a_node_of_the_version_before_is_sent_no_later_state() {
    let mut bank = Bank::open(740);
    for node in [1, 2, 3] {
        bank.roll::<2>(node);
    }
    bank.cluster.world.run_for(ms(1_000));
    bank.take("a").unwrap();
    bank.goes_on();
    // What a new node lacks is in no log any more.
    for node in [1, 2, 3] {
        bank.cluster.flush(node);
    }
    bank.cluster.world.run_for(ms(1_000));
    bank.books.over.set(true);
    let node = bank.cluster.next_node();
    bank.cluster.try_start_with::<Tally<1>>(node).unwrap();
    bank.cluster.add(1, node).unwrap().complete().unwrap();
    bank.cluster.world.run_for(ms(120_000));
    let metrics = bank.cluster.engine(node).metrics();
    let received: u64 = metrics.cores.iter().map(|core| core.state_bytes).sum();
    assert_eq!(received, 0, "nothing of it could be read");
    let error = bank.cluster.ready_within(node, Duration::from_secs(1)).unwrap_err();
    let Error::NotReady(why) = &error else { panic!("{error}") };
    let closed = Unready::Closed(Code::APPLY_HALTED);
    assert_eq!(why.shards.len(), 4, "{error}");
    assert!(why.shards.iter().all(|(_, why)| *why == closed), "{error}");
    // The program of the members takes it.
    bank.cluster.stop(node);
    bank.cluster.try_start_with::<Tally<2>>(node).unwrap();
    bank.cluster.ready(node);
    let metrics = bank.cluster.engine(node).metrics();
    assert!(metrics.cores.iter().any(|core| core.installs > 0), "node {node} got entries only");
    bank.knows::<2>(node);
    bank.cluster.promote(1, node).unwrap().complete().unwrap();
    bank.close();
}
