//! `bowline wal dump`: frames and their records, in order.

use std::fmt::Write as _;
use std::process::ExitCode;

use bowline::offline::{FrameView, RecordView, ShardId, Source, SourceError};
use serde_json::json;

use super::source::Files;
use super::{Stream, streams};
use crate::cli::WalDump;
use crate::out;

/// Prints them.
pub(crate) fn run(ask: &WalDump) -> anyhow::Result<ExitCode> {
    for stream in streams(&ask.dir)? {
        dump(&stream, ask)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn dump(stream: &Stream, ask: &WalDump) -> anyhow::Result<()> {
    let frames = stream.reader.frames()?;
    let records = stream.reader.records(ask.shard.map(ShardId))?;
    let mut records = records.iter().peekable();
    for frame in &frames {
        let wanted = (ask.from..=ask.to).contains(&frame.lsn.0);
        let mut shown = Vec::new();
        while let Some(record) = records.next_if(|record| record.lsn <= frame.lsn) {
            if wanted && record.lsn == frame.lsn {
                shown.push(record);
            }
        }
        if !wanted || ask.shard.is_some() && shown.is_empty() {
            continue;
        }
        if ask.json {
            out::line(frame_json(stream, frame, &shown))?;
        } else {
            out::line(frame_line(stream, frame))?;
            for record in shown {
                out::line(record_line(record))?;
            }
        }
        if ask.hex {
            out::line(hex(stream, frame))?;
        }
    }
    Ok(())
}

fn frame_line(stream: &Stream, frame: &FrameView) -> String {
    let mark = |set, name: &'static str| if set { name } else { "" };
    format!(
        "{} lsn {} at {:03}.slot+{} {} B, synced {}, boot {}, wall {} ms, {} records{}{}{}",
        stream.name,
        frame.lsn.0,
        frame.slot,
        frame.offset,
        frame.bytes,
        frame.synced.0,
        frame.boot,
        frame.wall_ms,
        frame.records,
        mark(frame.first, ", first of its slot"),
        mark(frame.boots, ", first of its life"),
        mark(frame.cover, ", covers the one before"),
    )
}

fn record_line(record: &RecordView) -> String {
    format!(
        "  {:<14} shard {} index {} term {} count {} {} B{}",
        record.kind,
        record.shard.0,
        record.index.0,
        record.term.0,
        record.count,
        record.len,
        if record.good { "" } else { " BAD" },
    )
}

fn frame_json(stream: &Stream, frame: &FrameView, records: &[&RecordView]) -> serde_json::Value {
    let records: Vec<_> = records
        .iter()
        .map(|record| {
            json!({
                "kind": record.kind,
                "shard": record.shard.0,
                "index": record.index.0,
                "term": record.term.0,
                "count": record.count,
                "bytes": record.len,
                "good": record.good,
            })
        })
        .collect();
    json!({
        "stream": stream.name,
        "lsn": frame.lsn.0,
        "slot": frame.slot,
        "offset": frame.offset,
        "bytes": frame.bytes,
        "synced": frame.synced.0,
        "boot": frame.boot,
        "wall_ms": frame.wall_ms,
        "first_of_slot": frame.first,
        "first_of_life": frame.boots,
        "cover": frame.cover,
        "records": records,
    })
}

/// The bytes of a frame, sixteen a line; lines of zeros are left out.
fn hex(stream: &Stream, frame: &FrameView) -> String {
    let mut bytes = vec![0; usize::try_from(frame.bytes).expect("a frame is below 4 GiB")];
    let file = format!("{:03}.slot", frame.slot);
    let read: Result<usize, SourceError> =
        Files::of(&stream.path).read_at(&file, frame.offset, &mut bytes);
    match read {
        Ok(got) => bytes.truncate(got),
        Err(error) => return format!("    cannot read {file}: {error:?}"),
    }
    let mut text = String::new();
    for (line, part) in (0_u64..).zip(bytes.chunks(16)) {
        if part.iter().all(|byte| *byte == 0) {
            continue;
        }
        write!(text, "    {:08x} ", frame.offset + line * 16).expect("a string takes all");
        for byte in part {
            write!(text, " {byte:02x}").expect("a string takes all");
        }
        text.push('\n');
    }
    text.trim_end().to_owned()
}
