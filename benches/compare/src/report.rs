//! One JSON line a round, and a table of medians.

use std::fs::File;
use std::io::{self, Write};

use crate::load::Measured;

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    /// `put` or `append`.
    pub(crate) table: &'static str,
    /// Which store, and how it is called.
    pub(crate) store: String,
    /// Closed-loop clients.
    pub(crate) clients: usize,
    /// Shards that share the log.
    pub(crate) shards: u64,
    /// Entries made durable together by one call.
    pub(crate) batch: u64,
    /// Bytes of a value.
    pub(crate) value_bytes: usize,
}

/// All rounds of the table at hand.
pub(crate) struct Report {
    json: Option<Box<dyn Write>>,
    rounds: Vec<(Case, Vec<Measured>)>,
}

impl Report {
    /// With JSON lines to a file, to standard output (`-`), or none.
    pub(crate) fn new(json: Option<&str>) -> Result<Self, String> {
        let json: Option<Box<dyn Write>> = match json {
            None => None,
            Some("-") => Some(Box::new(io::stdout())),
            Some(path) => {
                Some(Box::new(File::create(path).map_err(|error| format!("{path}: {error}"))?))
            },
        };
        Ok(Self { json, rounds: Vec::new() })
    }

    /// Takes one round in.
    pub(crate) fn round(
        &mut self,
        case: &Case,
        round: usize,
        measured: Measured,
    ) -> Result<(), String> {
        if let Some(json) = &mut self.json {
            writeln!(json, "{}", line(case, round, &measured))
                .and_then(|()| json.flush())
                .map_err(|error| error.to_string())?;
        }
        match self.rounds.iter_mut().find(|(known, _)| known == case) {
            Some((_, all)) => all.push(measured),
            None => self.rounds.push((case.clone(), vec![measured])),
        }
        Ok(())
    }

    /// Prints the medians and begins the next table.
    pub(crate) fn table(&mut self) {
        let Some((first, _)) = self.rounds.first() else { return };
        println!(
            "\n{}: {} clients, batch {}, {} B values, synced",
            first.table, first.clients, first.batch, first.value_bytes
        );
        println!(
            "{:<18} {:>6} {:>10} {:>19} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}",
            "store",
            "shards",
            "op/s",
            "low..high",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "cpu us",
            "B/op"
        );
        for (case, mut all) in std::mem::take(&mut self.rounds) {
            all.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
            let (low, high) = (all[0].rate(), all[all.len() - 1].rate());
            let median = &all[all.len() / 2];
            let at = |q: f64| micros(median.latency.value_at_quantile(q));
            println!(
                "{:<18} {:>6} {:>10.0} {:>19} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>8.2} {:>8.0}",
                case.store,
                case.shards,
                median.rate(),
                format!("{low:.0}..{high:.0}"),
                at(0.5),
                at(0.99),
                at(0.999),
                micros(median.latency.max()),
                per_operation(median.used.cpu.as_secs_f64() * 1e6, median),
                per_operation(median.used.written as f64, median),
            );
        }
    }
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

fn per_operation(total: f64, measured: &Measured) -> f64 {
    total / measured.operations.max(1) as f64
}

fn line(case: &Case, round: usize, measured: &Measured) -> String {
    let at = |q: f64| micros(measured.latency.value_at_quantile(q));
    format!(
        concat!(
            "{{\"table\":\"{}\",\"store\":\"{}\",\"clients\":{},\"shards\":{},\"batch\":{},",
            "\"value_bytes\":{},\"round\":{},\"seconds\":{:.3},\"ops_per_s\":{:.1},",
            "\"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1},\"max_us\":{:.1},",
            "\"cpu_us_per_op\":{:.3},\"bytes_written\":{}}}"
        ),
        case.table,
        case.store,
        case.clients,
        case.shards,
        case.batch,
        case.value_bytes,
        round,
        measured.seconds,
        measured.rate(),
        at(0.5),
        at(0.99),
        at(0.999),
        micros(measured.latency.max()),
        per_operation(measured.used.cpu.as_secs_f64() * 1e6, measured),
        measured.used.written,
    )
}
