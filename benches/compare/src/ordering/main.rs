//! Bowline's raft core beside raft-rs: what does it cost to order entries over three replicas?
//!
//! The work is that of the bench `raft_step`: one thread has three replicas of each of S shards. A
//! pass proposes B entries of 16 bytes to every shard, carries all messages over by hand, and the
//! entries of the pass before commit and are handed out on all three replicas. No disk, no network,
//! no encoding. Figures are entries per second of CPU time, so that a busy machine tells less in
//! them; rounds take turns, the table shows medians.

#[path = "../machine.rs"]
#[allow(dead_code, reason = "nothing is written here")]
mod machine;
mod raft_rs;
#[path = "../../../../raft/tests/kit/trio.rs"]
#[allow(dead_code, reason = "tests of the crate use the rest of it")]
mod trio;

use clap::Parser;

use crate::{
    machine::Used,
    raft_rs::{Threes, Tuning},
    trio::Trio,
};

/// The same ordering work on bowline's core and on raft-rs.
#[derive(Parser, Debug)]
struct Options {
    /// Rounds of every case; the median is shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// CPU seconds of each round.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Shards, each with three replicas.
    #[arg(long, value_delimiter = ',', default_value = "1,16,1000")]
    shards: Vec<u64>,
    /// Entries proposed to each shard in a pass.
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    batch: Vec<u32>,
}

/// Something that orders entries.
struct Contender {
    name: &'static str,
    /// One pass with so many entries a shard: the entries handed out on the leaders.
    pass: Box<dyn FnMut(u32) -> u64>,
    rates: Vec<f64>,
}

impl Contender {
    fn new(name: &'static str, pass: impl FnMut(u32) -> u64 + 'static) -> Self {
        Self { name, pass: Box::new(pass), rates: Vec::new() }
    }

    fn median(&self) -> f64 {
        self.rates[self.rates.len() / 2]
    }
}

fn main() {
    let options = Options::parse();
    println!("entries per second of CPU time, medians of {} rounds", options.rounds);
    println!(
        "{:>6} {:>6}  {:<14} {:>12} {:>26} {:>14}",
        "shards", "batch", "core", "entries/s", "low..high", "bowline's is x"
    );
    for &shards in &options.shards {
        for &batch in &options.batch {
            show(shards, batch, &measured(&options, shards, batch));
        }
    }
}

/// Rounds of all contenders in turn, rates ascending.
fn measured(options: &Options, shards: u64, batch: u32) -> Vec<Contender> {
    let mut all = contenders(shards);
    for contender in &mut all {
        let seen: u64 = (0..50).map(|_| (contender.pass)(batch)).sum();
        let wanted = 45 * shards * u64::from(batch);
        assert!(seen >= wanted, "{} hands out what was proposed", contender.name);
    }
    for _ in 0..options.rounds {
        for contender in &mut all {
            let rate = round(contender, batch, options.seconds);
            contender.rates.push(rate);
        }
    }
    all.iter_mut().for_each(|contender| contender.rates.sort_by(f64::total_cmp));
    all
}

fn contenders(shards: u64) -> Vec<Contender> {
    let mut trio = Trio::new(shards);
    trio.elect();
    let mut plain = Threes::new(shards, Tuning::AsItComes);
    let mut tuned = Threes::new(shards, Tuning::FewMessages);
    vec![
        Contender::new("bowline", move |batch| trio.pass(batch)),
        Contender::new("raft-rs", move |batch| plain.pass(batch)),
        Contender::new("raft-rs-tuned", move |batch| tuned.pass(batch)),
    ]
}

/// Entries per second of CPU time over at least `seconds` of it.
fn round(contender: &mut Contender, batch: u32, seconds: f64) -> f64 {
    let begin = Used::now();
    let mut entries = 0;
    loop {
        // The clock is looked at every so often: reading it takes some microseconds.
        let until = entries + 20_000;
        while entries < until {
            entries += (contender.pass)(batch);
        }
        let spent = Used::now().since(begin).cpu.as_secs_f64();
        if spent >= seconds {
            return entries as f64 / spent;
        }
    }
}

fn show(shards: u64, batch: u32, all: &[Contender]) {
    let own = all[0].median();
    for contender in all {
        let (low, high) = (contender.rates[0], contender.rates[contender.rates.len() - 1]);
        println!(
            "{shards:>6} {batch:>6}  {:<14} {:>12.0} {:>26} {:>14.1}",
            contender.name,
            contender.median(),
            format!("{low:.0}..{high:.0}"),
            own / contender.median(),
        );
    }
}
