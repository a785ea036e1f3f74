//! The binary as an operator calls it: exit status, and what it prints.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]

#[path = "kit/call.rs"]
mod call;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bowline::{EmbeddedEngine, ErrorTable};
use serde_json::Value;

use call::{bowline, complains, ends_with, on_disk, text};

#[test]
fn every_code_is_explained_with_cause_and_fix() {
    let all = ends_with(&bowline(&["explain"]), 0);
    for row in ErrorTable::rows() {
        let code = row.code.to_string();
        let said = ends_with(&bowline(&["explain", &code]), 0);
        assert!(said.starts_with(&format!("{code}: ")), "{said}");
        assert!(said.contains("\n  cause: ") && said.contains("\n  fix:   "), "{said}");
        assert!(all.contains(&said), "{code} is in the whole list");
    }
}

#[test]
fn an_unknown_code_is_a_wrong_call() {
    let complaint = complains(&bowline(&["explain", "BOW-9999"]), 2);
    assert!(complaint.contains("no error code BOW-9999"), "{complaint}");
}

#[test]
fn five_faults_of_a_configuration_have_codes_and_carets() {
    let dir = on_disk();
    let file = dir.path().join("bowline.toml");
    for (content, code, place) in [
        ("[node\nid = 1\n", "BOW-0301", "bowline.toml:1"),
        ("[node]\nidd = 1\n", "BOW-0302", "bowline.toml:2"),
        ("[wal]\nslot_bytes = \"7 parsecs\"\n", "BOW-0303", "bowline.toml:2"),
        ("[raft]\nheartbeat = \"10s\"\n", "BOW-0304", "raft.heartbeat"),
    ] {
        std::fs::write(&file, content).unwrap();
        let complaint = complains(&bowline(&["config", "check", "-c", text(&file)]), 1);
        assert!(complaint.contains(code), "{complaint}");
        assert!(complaint.contains(place), "{complaint}");
        assert!(complaint.contains("fix:"), "{complaint}");
        if code != "BOW-0304" {
            assert!(complaint.contains('^'), "{complaint}");
        }
    }
    let output = Command::new(env!("CARGO_BIN_EXE_bowline"))
        .args(["config", "check"])
        .env("BOWLINE_NODE__IDD", "1")
        .output()
        .unwrap();
    let complaint = complains(&output, 1);
    assert!(complaint.contains("BOW-0305"), "{complaint}");
    assert!(complaint.contains("BOWLINE_NODE__IDD"), "{complaint}");
}

#[test]
fn a_printed_configuration_reads_back_and_says_where_its_values_are_from() {
    let dir = on_disk();
    let (file, again) = (dir.path().join("a.toml"), dir.path().join("b.toml"));
    std::fs::write(&file, "[cluster]\nshards = 7\n").unwrap();
    let printed = ends_with(&bowline(&["config", "print", "-c", text(&file)]), 0);
    assert!(printed.contains("shards = 7\n"), "{printed}");
    std::fs::write(&again, &printed).unwrap();
    ends_with(&bowline(&["config", "check", "-c", text(&again)]), 0);
    assert_eq!(ends_with(&bowline(&["config", "print", "-c", text(&again)]), 0), printed);
    let args = ["config", "print", "--origin", "-c", text(&file)];
    let origins = ends_with(&bowline(&args), 0);
    let line = origins.lines().find(|line| line.starts_with("cluster.shards")).unwrap();
    assert!(line.ends_with("a.toml:2"), "{line}");
}

#[test]
fn doctor_names_what_stands_in_the_way_and_leaves_nothing() {
    let dir = on_disk();
    let data = dir.path().join("data");
    let said = ends_with(&bowline(&["doctor", text(&data)]), 0);
    for part in ["kernel ", "io_uring ready", "does not exist yet", "O_DSYNC", "ready"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    std::fs::write(dir.path().join("other"), "data of somebody").unwrap();
    let said = ends_with(&bowline(&["doctor", "--no-probe", text(dir.path())]), 1);
    assert!(said.contains("error[BOW-0202]"), "{said}");
}

#[test]
fn a_disk_bench_reports_both_ways() {
    let dir = on_disk();
    let args = [
        "bench",
        "disk",
        "--dir",
        text(dir.path()),
        "--writes",
        "50",
        "--pipe",
        "1",
        "--json",
        "-",
    ];
    let said = ends_with(&bowline(&args), 0);
    let line: Value = serde_json::from_str(&said).unwrap();
    for key in ["probe_write_sync_p50_us", "probe_pipe_mib_per_s", "dsync_p50_us"] {
        assert!(line[key].as_f64().unwrap() > 0.0, "{key}: {line}");
    }
}

/// Sizes that a directory is founded with in a moment.
const SMALL: [&str; 6] = [
    "--set",
    "wal.slot_bytes=8MiB",
    "--set",
    "wal.frame_cap=1MiB",
    "--set",
    "wal.log_bytes=128MiB",
];

#[track_caller]
fn bench_kv(nodes: u64, args: &[&str]) -> Value {
    let dir = on_disk();
    let mut all = vec!["bench", "kv", "--dir", text(dir.path()), "--seconds", "1"];
    all.extend(["--warmup", "0.2", "--keys", "1000", "--json", "-"]);
    all.extend(SMALL);
    let count = nodes.to_string();
    all.extend(["--nodes", &count]);
    all.extend(args);
    let said = ends_with(&bowline(&all), 0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    let line: Value = serde_json::from_str(&said).unwrap();
    for key in [
        "clients",
        "shards",
        "cores",
        "value_bytes",
        "seconds",
        "ops_per_s",
        "p50_us",
        "p99_us",
        "p999_us",
        "max_us",
        "cpu_us_per_op",
        "probe_write_sync_p50_us",
        "probe_pipe_mib_per_s",
    ] {
        assert!(line[key].as_f64().unwrap() > 0.0, "{key}: {line}");
    }
    assert_eq!(line["nodes"], nodes);
    assert_eq!(line["errors"], 0, "{line}");
    line
}

#[test]
fn puts_from_a_thread_are_measured_beside_the_disk() {
    let line = bench_kv(1, &["--clients", "8", "--shards", "4"]);
    assert_eq!(line["workload"], "put");
    assert_eq!(line["on_core"], false);
    let least = line["ops"].as_u64().unwrap() * 256;
    assert!(line["bytes_written"].as_u64().unwrap() >= least, "every value reached the disk");
}

#[test]
fn puts_on_three_nodes_reach_every_disk() {
    let line = bench_kv(3, &["--clients", "8", "--shards", "4"]);
    let least = 3 * line["ops"].as_u64().unwrap() * 256;
    assert!(line["bytes_written"].as_u64().unwrap() >= least / 3 * 2, "a majority synced: {line}");
}

#[test]
fn reads_on_a_core_are_measured() {
    let args = ["--workload", "get", "--consistency", "eventual", "--on-core", "--clients", "3"];
    let line = bench_kv(1, &args);
    assert_eq!(line["workload"], "get_eventual");
    assert_eq!(line["on_core"], true);
}

#[test]
fn a_mixture_at_a_rate_is_measured_from_when_it_was_due() {
    let args = ["--reads", "50", "--rate", "500", "--clients", "16", "--shards", "2"];
    let line = bench_kv(1, &args);
    assert_eq!(line["workload"], "mixed_50_linearizable");
    let (made, unsent) = (line["ops"].as_u64().unwrap(), line["unsent"].as_u64().unwrap());
    assert!((499..=501).contains(&(made + unsent)), "{line}");
}

#[test]
fn what_cannot_be_measured_together_is_a_wrong_call() {
    ends_with(&bowline(&["bench", "kv", "--on-core", "--rate", "5"]), 2);
    ends_with(&bowline(&["bench", "kv", "--clients", "0"]), 2);
    ends_with(&bowline(&["bench", "kv", "--reads", "101"]), 2);
}

/// A node with some writes in its log.
fn node(data: &Path) -> EmbeddedEngine {
    let engine = EmbeddedEngine::builder()
        .data_dir(data)
        .shards(4)
        .cores(1)
        .set("wal.slot_bytes", "8MiB")
        .set("wal.frame_cap", "1MiB")
        .set("wal.log_bytes", "128MiB")
        .start()
        .wait()
        .unwrap();
    engine.wait_ready(Duration::from_secs(30)).wait().unwrap();
    for key in 0..50_u32 {
        engine.client().put(key.to_le_bytes(), [7; 300]).wait().unwrap();
    }
    engine
}

fn json_lines(said: &str) -> Vec<Value> {
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_log_is_read_beside_its_node_and_after_it() {
    let dir = on_disk();
    let data = dir.path().join("data");
    let engine = node(&data);
    let output = bowline(&["wal", "verify", text(&data)]);
    let status = output.status.code().unwrap();
    assert!(status <= 1, "a frame may be under way, nothing is damaged: {output:?}");
    engine.client().put("after", "the reader").wait().unwrap();
    engine.stop().wait().unwrap();

    let said = ends_with(&bowline(&["wal", "verify", text(&data)]), 0);
    assert_eq!(said, "stream-00: clean\n");
    let said = ends_with(&bowline(&["wal", "stat", text(&data), "--json"]), 0);
    let stat = &json_lines(&said)[0];
    assert_eq!((&stat["shards"], &stat["clean"]), (&4.into(), &true.into()), "{stat}");
    let said = ends_with(&bowline(&["wal", "stat", text(&data)]), 0);
    assert!(said.contains("closed cleanly"), "{said}");

    let frames = json_lines(&ends_with(&bowline(&["wal", "dump", text(&data), "--json"]), 0));
    let records = |frame: &Value| frame["records"].as_array().unwrap().clone();
    let entries: u64 = frames
        .iter()
        .flat_map(records)
        .filter(|record| record["kind"] == "entries")
        .map(|record| record["count"].as_u64().unwrap())
        .sum();
    assert!(entries >= 51, "51 puts and a no-op of each shard: {entries}");
    let last = frames.last().unwrap()["lsn"].to_string();
    let half = frames[frames.len() / 2]["lsn"].as_u64().unwrap();
    let from = half.to_string();
    let args = ["wal", "dump", text(&data), "--json", "--shard", "2", "--from", &from];
    for frame in json_lines(&ends_with(&bowline(&args), 0)) {
        assert!(frame["lsn"].as_u64().unwrap() >= half, "{frame}");
        assert!(records(&frame).iter().all(|record| record["shard"] == 2), "{frame}");
    }
    let stream = data.join("stream-00");
    let args = ["wal", "dump", text(&stream), "--hex", "--from", &from, "--to", &last];
    let said = ends_with(&bowline(&args), 0);
    assert!(said.contains("07 07 07 07"), "the values are in the bytes: {said}");
    assert!(said.contains("42 57 46 31"), "every frame begins with its magic: {said}");
}

#[test]
fn a_flipped_bit_is_found_and_named() {
    let dir = on_disk();
    let data = dir.path().join("data");
    node(&data).stop().wait().unwrap();
    let frames = json_lines(&ends_with(&bowline(&["wal", "dump", text(&data), "--json"]), 0));
    // The newest frame with entries before the last two: later ones prove that it was durable.
    let of_entries = |frame: &&Value| frame["records"][0]["kind"] == "entries";
    let frame = frames[..frames.len() - 2].iter().rev().find(of_entries).unwrap();
    let (slot, at) = (frame["slot"].as_u64().unwrap(), frame["offset"].as_u64().unwrap());
    let path = data.join("stream-00").join(format!("{slot:03}.slot"));
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    // Bodies lie right behind the header of 128 bytes.
    let mut byte = [0];
    file.read_exact_at(&mut byte, at + 150).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at + 150).unwrap();

    let said = ends_with(&bowline(&["wal", "verify", text(&data)]), 2);
    let (lsn, record) = (&frame["lsn"], &frame["records"][0]);
    let named =
        format!("frame {lsn}: entries of shard {} at index {}", record["shard"], record["index"]);
    assert!(said.contains(&named), "{named}: {said}");
    assert!(said.ends_with("stream-00: damage\n"), "{said}");
    let said = ends_with(&bowline(&["wal", "verify", "--json", text(&data)]), 2);
    assert_eq!(json_lines(&said)[0]["result"], "damage", "{said}");
}

#[test]
fn a_directory_without_a_log_is_damage_to_verify_and_a_failure_to_others() {
    let dir = on_disk();
    let complaint = complains(&bowline(&["wal", "verify", text(dir.path())]), 2);
    assert!(complaint.contains("holds no log"), "{complaint}");
    complains(&bowline(&["wal", "stat", text(dir.path())]), 1);
    complains(&bowline(&["wal", "dump", text(dir.path())]), 1);
}
