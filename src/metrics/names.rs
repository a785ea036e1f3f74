//! The counters as samples with Prometheus names: data, for whoever serves them.

use core::fmt;

use super::{CoreMetrics, Latency, Metrics, PeerFault, ShardMetrics};
use crate::Budget;

/// What kind of number a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// A histogram: `value` is its sum in seconds.
    Histogram,
}

/// One number under its name.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sample {
    /// Its name, with `bowline_` and unit.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Labels by name.
    pub labels: Vec<(&'static str, String)>,
    /// The number.
    pub value: f64,
    /// The distribution, of a histogram.
    pub latency: Option<Latency>,
}

impl Metrics {
    /// Every number of this copy, equal names side by side.
    pub fn samples(&self) -> Vec<Sample> {
        let mut samples = vec![Sample {
            name: "bowline_up",
            help: "1 while the node runs",
            kind: Kind::Gauge,
            labels: Vec::new(),
            value: 1.0,
            latency: None,
        }];
        for row in NUMBERS {
            samples.extend(self.cores.iter().map(|core| row.sample(core)));
        }
        for (place, what) in Budget::ALL.into_iter().enumerate() {
            samples.extend(self.cores.iter().map(|core| Sample {
                name: "bowline_busy_total",
                help: "requests refused because a budget was spent",
                kind: Kind::Counter,
                labels: vec![label(core), ("what", what.name().into())],
                value: float(core.busy[place]),
                latency: None,
            }));
        }
        for fault in PeerFault::ALL {
            samples.extend(self.cores.iter().map(|core| Sample {
                name: "bowline_peers_refused_total",
                help: "connections to or from peers that came to nothing",
                kind: Kind::Counter,
                labels: vec![label(core), ("reason", fault.name().into())],
                value: float(core.peers_refused[fault.place()]),
                latency: None,
            }));
        }
        for row in LATENCIES {
            samples.extend(self.cores.iter().map(|core| row.sample(core)));
        }
        self.shard_samples(&mut samples);
        samples
    }

    fn shard_samples(&self, samples: &mut Vec<Sample>) {
        let role: fn(&ShardMetrics) -> u64 = |shard| shard.leads.into();
        let term: fn(&ShardMetrics) -> u64 = |shard| shard.term.0;
        for (name, help, read) in [
            ("bowline_shard_role", "1 if this node leads the shard", role),
            ("bowline_shard_term", "term of the known leader; 0: none", term),
        ] {
            samples.extend(self.shards.iter().map(|shard| Sample {
                name,
                help,
                kind: Kind::Gauge,
                labels: vec![("shard", shard.shard.to_string())],
                value: float(read(shard)),
                latency: None,
            }));
        }
    }
}

struct Number {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    label: Option<(&'static str, &'static str)>,
    read: fn(&CoreMetrics) -> f64,
}

impl Number {
    fn sample(&self, core: &CoreMetrics) -> Sample {
        let mut labels = vec![label(core)];
        labels.extend(self.label.map(|(name, value)| (name, value.to_owned())));
        let (name, help, kind) = (self.name, self.help, self.kind);
        Sample { name, help, kind, labels, value: (self.read)(core), latency: None }
    }
}

macro_rules! number {
    ($kind:ident $name:literal, $help:literal, $read:expr) => {
        number!($kind $name, $help, None, $read)
    };
    ($kind:ident $name:literal, $help:literal, $label:expr, $read:expr) => {
        Number {
            name: concat!("bowline_", $name),
            help: $help,
            kind: Kind::$kind,
            label: $label,
            read: $read,
        }
    };
}

const NUMBERS: &[Number] = &[
    number!(Counter "core_busy_seconds_total", "time inside passes", |c| seconds(c.pass_nanos)),
    number!(Counter "core_passes_total", "turns of the loop", |c| float(c.passes)),
    number!(Counter "core_full_passes_total", "passes that left work for the next",
        |c| float(c.full_passes)),
    number!(Counter "core_requests_total", "requests taken from rings", |c| float(c.requests)),
    number!(Counter "core_parks_total", "times the core went to sleep", |c| float(c.parks)),
    number!(Counter "core_stalls_total", "passes over 10 ms", |c| float(c.stalls)),
    number!(Gauge "core_stall_seconds", "the longest of them", |c| seconds(c.stall_nanos_max)),
    number!(Gauge "parked_requests", "requests that wait for a leader", |c| float(c.parked)),
    number!(Counter "proposals_total", "writes by result", Some(("result", "applied")),
        |c| float(c.proposals_applied)),
    number!(Counter "proposals_total", "writes by result", Some(("result", "failed")),
        |c| float(c.proposals_failed)),
    number!(Counter "reads_total", "reads answered", |c| float(c.reads)),
    number!(Counter "wal_bytes_total", "bytes given to the log", |c| float(c.wal_bytes)),
    number!(Counter "wal_frames_total", "frames given to the log", |c| float(c.wal_frames)),
    number!(Counter "wal_entries_total", "entries given to the log", |c| float(c.wal_entries)),
    number!(Gauge "wal_used_ratio", "part of the log's space in use",
        |c| ratio(c.wal_used, c.wal_limit)),
    number!(Counter "applied_total", "entries applied", |c| float(c.applied)),
    number!(Gauge "state_delta_bytes", "state in memory only", |c| float(c.delta_bytes)),
    number!(Counter "state_flushes_total", "flushes finished", |c| float(c.flushes)),
    number!(Counter "state_jobs_failed_total", "flushes and merges that failed",
        |c| float(c.jobs_failed)),
    number!(Counter "leader_changes_total", "leaderships won or lost",
        |c| float(c.leader_changes)),
    number!(Gauge "shards_without_leader", "shards whose leader is not known",
        |c| float(c.leaderless)),
    number!(Gauge "shards_failed", "shards closed by a failure", |c| float(c.shards_failed)),
    number!(Counter "lanes_up_total", "connections to peers that came up",
        |c| float(c.lanes_up)),
    number!(Counter "lanes_down_total", "connections to peers that ended",
        |c| float(c.lanes_down)),
    number!(Counter "state_installs_total", "states received from peers",
        |c| float(c.installs)),
    number!(Counter "state_received_bytes_total", "bytes received of peers' states",
        |c| float(c.state_bytes)),
    number!(Counter "messages_sent_total", "messages given to lanes",
        |c| float(c.messages_sent)),
    number!(Counter "messages_dropped_total", "messages without a lane, room or entries",
        |c| float(c.messages_dropped)),
    number!(Counter "messages_refused_total", "messages of peers that raft did not take",
        |c| float(c.messages_refused)),
];

struct Timing {
    name: &'static str,
    help: &'static str,
    read: fn(&CoreMetrics) -> &Latency,
}

impl Timing {
    fn sample(&self, core: &CoreMetrics) -> Sample {
        let latency = (self.read)(core);
        Sample {
            name: self.name,
            help: self.help,
            kind: Kind::Histogram,
            labels: vec![label(core)],
            value: seconds(latency.sum_nanos()),
            latency: Some(latency.clone()),
        }
    }
}

const LATENCIES: &[Timing] = &[
    Timing {
        name: "bowline_proposal_duration_seconds",
        help: "a write, from arrival to answer",
        read: |core| &core.proposal,
    },
    Timing {
        name: "bowline_read_duration_seconds",
        help: "a read, from arrival to answer",
        read: |core| &core.read,
    },
    Timing {
        name: "bowline_wal_write_duration_seconds",
        help: "a log write, from submission to durable",
        read: |core| &core.wal_write,
    },
    Timing {
        name: "bowline_apply_duration_seconds",
        help: "applying what is ready in a pass",
        read: |core| &core.apply,
    },
    Timing {
        name: "bowline_state_flush_seconds",
        help: "a flush, from freeze to durable manifest",
        read: |core| &core.flush,
    },
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

fn label(core: &CoreMetrics) -> (&'static str, String) {
    ("core", core.core.to_string())
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus numbers are floats")]
const fn float(number: u64) -> f64 {
    number as f64
}

const fn seconds(nanos: u64) -> f64 {
    float(nanos) / 1e9
}

const fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { float(part) / float(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::CoreCounters;
    use bowline_raft::{NodeId, ShardId, Term};

    #[test]
    fn names_are_prometheus_names_and_stand_side_by_side() {
        let counters = CoreCounters::default();
        let metrics = Metrics {
            node: NodeId(1),
            cores: vec![counters.copy(0), counters.copy(1)],
            shards: vec![ShardMetrics::new(ShardId(3), true, Term(2))],
        };
        let samples = metrics.samples();
        let mut seen: Vec<&str> = Vec::new();
        for sample in &samples {
            let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            assert!(sample.name.bytes().all(|byte| good(byte) || byte == b'_'));
            assert!(sample.name.starts_with("bowline_"));
            assert_eq!(sample.name.ends_with("_total"), sample.kind == Kind::Counter);
            if seen.last() != Some(&sample.name) {
                assert!(!seen.contains(&sample.name), "{} in two places", sample.name);
                seen.push(sample.name);
            }
        }
        let role = samples.iter().find(|sample| sample.name == "bowline_shard_role");
        let role = role.expect("per-shard numbers are there");
        assert_eq!(role.labels, [("shard", "3".to_owned())]);
    }
}
