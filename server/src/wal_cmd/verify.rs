//! `bowline wal verify`: what is bad in a log, with the evidence.
//!
//! Exit status: 0 clean, 1 a torn tail (never acknowledged, or being written), 2 damage. A log
//! whose superblocks cannot be read is damage too.

use std::process::ExitCode;

use bowline::offline::{DamageState, Finding, Verdict, Verified};
use serde_json::{Value, json};

use super::streams;
use crate::cli::WalAsk;
use crate::out;

/// Prints what is bad, stream after stream, and the worst of it as the exit status.
pub(crate) fn run(ask: &WalAsk) -> anyhow::Result<ExitCode> {
    let opened = match streams(&ask.dir) {
        Ok(opened) => opened,
        Err(error) => {
            out::complain(&error);
            return Ok(status(Verified::Damage));
        },
    };
    let mut worst = Verified::Clean;
    for stream in opened {
        let (verified, findings) = match stream.reader.verify() {
            Ok(result) => result,
            Err(error) => {
                out::complain(&anyhow::Error::new(error).context(stream.name));
                worst = Verified::Damage;
                continue;
            },
        };
        worst = worst.max(verified);
        if ask.json {
            let findings: Vec<_> = findings.iter().map(finding_json).collect();
            let verdict = word(verified);
            out::line(json!({"stream": stream.name, "result": verdict, "findings": findings}))?;
        } else {
            for finding in &findings {
                out::line(format_args!("{}: {}", stream.name, finding_line(finding)))?;
            }
            out::line(format_args!("{}: {}", stream.name, word(verified)))?;
        }
    }
    Ok(status(worst))
}

fn status(verified: Verified) -> ExitCode {
    ExitCode::from(match verified {
        Verified::Clean => 0,
        Verified::TornTail => 1,
        Verified::Damage => 2,
    })
}

const fn word(verified: Verified) -> &'static str {
    match verified {
        Verified::Clean => "clean",
        Verified::TornTail => "torn tail",
        Verified::Damage => "damage",
    }
}

const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Torn => "torn: it was never acknowledged",
        Verdict::Corrupt => "corrupt: it had been durable",
        _ => "unknown",
    }
}

const fn state(damage: DamageState) -> &'static str {
    match damage {
        DamageState::Normal => "normal",
        DamageState::Repairing => "entries are lost, its vote and tail are known",
        DamageState::Retired => "its vote or tail may be lost: it never votes again",
    }
}

fn finding_line(finding: &Finding) -> String {
    match finding {
        Finding::Frame(bad) => {
            let proof = &bad.evidence;
            let mut seen = Vec::new();
            for (what, lsn) in [
                ("a later frame says synced", proof.synced),
                ("a later life says cut at", proof.cut),
                ("a later frame of the same life is", proof.later),
                ("it was closed cleanly at", proof.clean),
            ] {
                if lsn > 0 {
                    seen.push(format!("{what} {lsn}"));
                }
            }
            let seen = if seen.is_empty() { "nothing follows".to_owned() } else { seen.join(", ") };
            format!(
                "{:03}.slot+{}: frame {} is {}; {seen}",
                bad.slot,
                bad.offset,
                bad.lsn,
                verdict(bad.verdict),
            )
        },
        Finding::Body(record) => format!(
            "frame {}: {} of shard {} at index {} ({} entries) is corrupt: its checksum differs",
            record.lsn.0, record.kind, record.shard.0, record.index.0, record.count,
        ),
        Finding::Lost { from, to } => {
            format!("frames {} to {} are lost and nothing is known of them", from.0, to.0)
        },
        Finding::Slot { slot } => format!("{slot:03}.slot cannot be read"),
        Finding::Shard { shard, damage, holes } => {
            let holes: Vec<_> =
                holes.iter().map(|(from, to)| format!("{} to {}", from.0, to.0)).collect();
            let lost = if holes.is_empty() { "unknown".to_owned() } else { holes.join(", ") };
            format!("shard {}: {}; lost indexes: {lost}", shard.0, state(*damage))
        },
        _ => format!("{finding:?}"),
    }
}

fn finding_json(finding: &Finding) -> Value {
    match finding {
        Finding::Frame(bad) => json!({
            "what": "frame",
            "slot": bad.slot,
            "offset": bad.offset,
            "lsn": bad.lsn,
            "verdict": if bad.verdict == Verdict::Torn { "torn" } else { "corrupt" },
            "evidence": {
                "synced": bad.evidence.synced,
                "cut": bad.evidence.cut,
                "later": bad.evidence.later,
                "clean": bad.evidence.clean,
            },
        }),
        Finding::Body(record) => json!({
            "what": "body",
            "lsn": record.lsn.0,
            "kind": record.kind,
            "shard": record.shard.0,
            "index": record.index.0,
            "count": record.count,
        }),
        Finding::Lost { from, to } => json!({"what": "lost", "from": from.0, "to": to.0}),
        Finding::Slot { slot } => json!({"what": "slot", "slot": slot}),
        Finding::Shard { shard, damage, holes } => json!({
            "what": "shard",
            "shard": shard.0,
            "state": format!("{damage:?}").to_lowercase(),
            "holes": holes.iter().map(|(from, to)| [from.0, to.0]).collect::<Vec<_>>(),
        }),
        _ => json!({"what": "unknown", "text": format!("{finding:?}")}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline::offline::{BadFrame, Evidence};

    #[test]
    fn a_bad_frame_names_file_offset_verdict_and_evidence() {
        let evidence = Evidence { synced: 813, later: 815, ..Evidence::default() };
        let bad =
            BadFrame { slot: 7, offset: 8_192, lsn: 812, verdict: Verdict::Corrupt, evidence };
        assert_eq!(
            finding_line(&Finding::Frame(bad)),
            "007.slot+8192: frame 812 is corrupt: it had been durable; a later frame says synced \
             813, a later frame of the same life is 815",
        );
        let value = finding_json(&Finding::Frame(bad));
        assert_eq!(value["evidence"]["synced"], 813);
        assert_eq!(value["verdict"], "corrupt");
    }

    #[test]
    fn the_worst_of_all_streams_is_the_status() {
        assert!(Verified::Clean < Verified::TornTail && Verified::TornTail < Verified::Damage);
    }
}
