//! `bowline wal stat`: a log in numbers.

use std::fmt::Write as _;
use std::process::ExitCode;

use bowline::offline::{SlotView, Stat};
use serde_json::{Value, json};

use super::{Stream, streams};
use crate::cli::WalAsk;
use crate::out;

/// Prints slots by use, live bytes, and the shards that hold most of them.
pub(crate) fn run(ask: &WalAsk) -> anyhow::Result<ExitCode> {
    for stream in streams(&ask.dir)? {
        let stat = stream.reader.stat()?;
        if ask.json {
            out::line(as_json(&stream, &stat))?;
        } else {
            out::line(as_text(&stream, &stat))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn used(stat: &Stat) -> impl Iterator<Item = &SlotView> {
    stat.slots.iter().filter(|slot| slot.frames.is_some())
}

fn as_text(stream: &Stream, stat: &Stat) -> String {
    let (id, geometry, report) = (stat.id, stat.geometry, &stat.report);
    let live: u64 = stat.slots.iter().map(|slot| slot.bytes).sum();
    let mut text = format!(
        "{}: stream {} of {}, node {}, cluster {:032x}, boot {}\n\
         sizes    {} B blocks, {} KiB frames, {} MiB slots, {} MiB in all\n\
         read     {} frames, {} records, {} MiB; {}\n\
         slots    {} of {} in use; {} KiB live; {} shards",
        stream.name,
        id.stream,
        id.streams,
        id.node,
        id.cluster,
        stat.boot,
        geometry.block,
        geometry.frame_cap >> 10,
        geometry.slot_bytes >> 20,
        geometry.log_bytes >> 20,
        report.frames,
        report.records,
        report.bytes >> 20,
        ending(stat),
        used(stat).count(),
        stat.slots.len(),
        live >> 10,
        stat.shards,
    );
    for slot in used(stat) {
        let (first, last) = slot.frames.expect("it is in use");
        write!(
            text,
            "\n  {:03}.slot  frames {} to {}, {} batches and {} manifests live, {} KiB",
            slot.slot,
            first.0,
            last.0,
            slot.batches,
            slot.manifests,
            slot.bytes >> 10,
        )
        .expect("a string takes all");
    }
    for (shard, bytes) in &stat.heaviest {
        write!(text, "\n  shard {:<6} {} KiB live", shard.0, bytes >> 10)
            .expect("a string takes all");
    }
    text
}

const fn ending(stat: &Stat) -> &'static str {
    match (stat.report.corrupt_frames, stat.report.torn, stat.report.clean) {
        (0, false, true) => "closed cleanly",
        (0, false, false) => "not closed: running, or killed",
        (0, true, _) => "a torn tail",
        _ => "damaged: see wal verify",
    }
}

fn as_json(stream: &Stream, stat: &Stat) -> Value {
    let slots: Vec<_> = stat
        .slots
        .iter()
        .map(|slot| {
            json!({
                "slot": slot.slot,
                "epoch": slot.epoch,
                "first_lsn": slot.frames.map(|(first, _)| first.0),
                "last_lsn": slot.frames.map(|(_, last)| last.0),
                "batches": slot.batches,
                "manifests": slot.manifests,
                "live_bytes": slot.bytes,
            })
        })
        .collect();
    let heaviest: Vec<_> = stat
        .heaviest
        .iter()
        .map(|(shard, bytes)| json!({"shard": shard.0, "live_bytes": bytes}))
        .collect();
    json!({
        "stream": stream.name,
        "number": stat.id.stream,
        "streams": stat.id.streams,
        "node": stat.id.node,
        "cluster": format!("{:032x}", stat.id.cluster),
        "boot": stat.boot,
        "block": stat.geometry.block,
        "frame_cap": stat.geometry.frame_cap,
        "slot_bytes": stat.geometry.slot_bytes,
        "log_bytes": stat.geometry.log_bytes,
        "frames": stat.report.frames,
        "records": stat.report.records,
        "bytes_read": stat.report.bytes,
        "torn": stat.report.torn,
        "corrupt_frames": stat.report.corrupt_frames,
        "clean": stat.report.clean,
        "shards": stat.shards,
        "slots": slots,
        "heaviest": heaviest,
    })
}
