//! Protocol stories: each file of `testdata` is one, told by the commands of `script/commands.rs`.
//!
//! `UPDATE=1 cargo test -p bowline-raft --test scripts` records the answers anew. Their difference
//! is read like code: an answer is what the rules say, not what the core did.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]

#[path = "script/toolbox.rs"]
mod script;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use script::{blocks, commands, world::World};

/// Section 15 of the design of the core: the scenarios of each row.
const SCENARIOS: [&[&str]; 34] = [
    &["kill_after_vote", "torn_hard_state"],
    &["append_deposes_candidate"],
    &["laggard_under_load"],
    &["append_from_zero", "short_duplicate"],
    &["rewrite_acked_suffix"],
    &["apply_once_per_index"],
    &["aba_persist", "disk_reversed"],
    &["sole_voter_power_cut"],
    &["answers_of_former_life", "late_prevotes"],
    &["figure_eight"],
    &["long_log_low_term"],
    &["bridge_node_five", "no_a_to_c"],
    &["prevote_with_live_lease", "prevote_short_log"],
    &["best_log_lowest_priority"],
    &["restart_with_backoff"],
    &["ten_thousand_elect"],
    &["liveness_under_full_load"],
    &["leader_disk_hangs", "leader_cannot_hear"],
    &["release_lost", "commit_lost"],
    &["idle_then_partition"],
    &["supporter_restart_lease"],
    &["read_ack_replayed", "minority_reads"],
    &["read_at_fresh_leader"],
    &["lease_skewed_clocks", "lease_after_pause"],
    &["transfer_then_read", "transfer_to_laggard"],
    &["change_at_new_leader"],
    &["conf_truncated", "conf_after_crash"],
    &["leader_removes_itself"],
    &["promote_absent"],
    &["vote_forgotten"],
    &["snapshots_cross"],
    &["window_full_then_loss"],
    &["both_logs_full"],
    &["same_seed_same_bytes"],
];

fn home(dir: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)
}

/// Every script by name, in order.
fn scripts() -> Vec<(String, PathBuf)> {
    let files = fs::read_dir(home("testdata")).unwrap().map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|ext| ext == "txt"));
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut scripts: Vec<_> = files.map(|path| (name(&path), path)).collect();
    scripts.sort();
    scripts
}

/// What became of a script.
#[derive(Default)]
struct Played {
    /// The script with the answers of now.
    now: String,
    /// Lines that are wrong in themselves.
    errors: Vec<String>,
    /// Answers that are not the recorded ones.
    differences: Vec<String>,
}

fn play(name: &str, script: &str) -> Played {
    let (blocks, rest) = blocks::parse(script);
    let (mut world, mut played) = (World::default(), Played::default());
    let mut answers = Vec::new();
    for block in &blocks {
        let mut answer = String::new();
        for line in &block.commands {
            let run = catch_unwind(AssertUnwindSafe(|| commands::run(&mut world, line)));
            match run {
                Ok(Ok(told)) if line.starts_with("state") => {
                    // What this answer shows already is not shown again.
                    let new = told.lines().filter(|line| !answer.lines().any(|old| old == *line));
                    let new: Vec<_> = new.map(|line| line.to_owned() + "\n").collect();
                    answer += &new.concat();
                },
                Ok(Ok(told)) => answer += &told,
                Ok(Err(error)) => {
                    played.errors.push(format!("{name}:{}: {line}: {error}", block.line));
                },
                Err(_panic) => {
                    played.errors.push(format!("{name}:{}: {line}: it panicked", block.line));
                    return Played { now: script.to_owned(), ..played };
                },
            }
        }
        if answer != block.answer {
            let (want, got) = (&block.answer, &answer);
            let line = block.line;
            played.differences.push(format!("{name}:{line}:\n-- recorded\n{want}-- now\n{got}"));
        }
        answers.push(answer);
    }
    Played { now: blocks::render(&blocks, &answers, &rest), ..played }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a developer asks for new answers")]
fn every_script_gets_its_recorded_answers() {
    let update = std::env::var("UPDATE").is_ok_and(|value| value == "1");
    let only = std::env::var("SCRIPT").unwrap_or_default();
    let mut faults = Vec::new();
    for (name, path) in scripts().into_iter().filter(|(name, _)| name.contains(&only)) {
        let script = fs::read_to_string(&path).unwrap();
        let played = play(&name, &script);
        faults.extend(played.errors);
        if update {
            fs::write(&path, played.now).unwrap();
        } else {
            faults.extend(played.differences);
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The commands of every script again with the other way to know that a leader lives. What they
/// answer is another story; what must never happen does not happen in it either.
#[test]
fn every_script_keeps_the_invariants_in_the_other_mode() {
    for (name, path) in scripts() {
        let (blocks, _) = blocks::parse(&fs::read_to_string(path).unwrap());
        let mut world = World::default();
        let mut run = 0;
        for line in blocks.iter().flat_map(|block| &block.commands) {
            let line = match line.strip_prefix("nodes ") {
                Some(nodes) if nodes.contains("lanes") => line.replace(" lanes", ""),
                Some(nodes) => format!("nodes {nodes} lanes"),
                None => line.clone(),
            };
            // A message or a deadline of the recorded story may not be there.
            run += usize::from(commands::run(&mut world, &line).is_ok());
        }
        assert!(run > 3, "{name} was played");
    }
}

#[test]
fn every_script_begins_with_the_fact_it_shows() {
    let scripts = scripts();
    assert!(scripts.len() >= 40, "{} scripts", scripts.len());
    for (name, path) in scripts {
        let script = fs::read_to_string(path).unwrap();
        assert!(blocks::fact(&script).is_some(), "{name} begins with a fact");
        assert!(script.lines().all(|line| line.len() <= 200), "{name} can be read");
        let (blocks, _) = blocks::parse(&script);
        assert!(blocks.iter().any(|block| !block.answer.is_empty()), "{name} shows something");
    }
}

/// Text of every test of the core, one file after the other.
fn tests_text(dir: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &tests_text(&path);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            text += &fs::read_to_string(&path).unwrap();
        }
    }
    text
}

#[test]
fn every_known_bug_has_its_scenario() {
    let names: Vec<_> = scripts().into_iter().map(|(name, _)| name).collect();
    let tests = tests_text(&home("tests"));
    let functions: Vec<_> = tests
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("fn ")?.split('(').next())
        .collect();
    let missing: Vec<_> = SCENARIOS
        .concat()
        .into_iter()
        .filter(|scenario| !names.iter().any(|name| name.contains(scenario)))
        .filter(|scenario| !functions.iter().any(|function| function.contains(scenario)))
        .collect();
    assert!(missing.is_empty(), "neither a script nor a directed simulation: {missing:?}");
}
