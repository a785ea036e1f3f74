//! What a machine can check of how the project is written: sizes, headers, who may import whom.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]

use std::fs;
use std::path::Path;

const LINES_MAX: usize = 500;
const COLUMNS_MAX: usize = 100;

/// Which of our crates each crate may import. A new edge needs a line in `ARCHITECTURE.md` too.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("env", &[]),
    ("raft", &[]),
    ("wal", &["bowline-env", "bowline-raft"]),
    ("statemachine", &["bowline-env"]),
    ("net", &["bowline-env", "bowline-raft"]),
    (".", &["bowline-env", "bowline-net", "bowline-raft", "bowline-statemachine", "bowline-wal"]),
    ("server", &["bowline"]),
];

/// The only directories whose files may contain unsafe code.
const MAY_BE_UNSAFE: &[&str] = &["env/src/"];

/// Tests and benches whose counting allocator needs unsafe code.
const COUNTS_ALLOCATIONS: &[&str] = &["tests/", "benches/", "raft/tests/", "server/src/bench/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<(String, String)> {
    let mut pending = vec![root().to_path_buf()];
    let mut found = Vec::new();
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                pending.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push((shown(&path), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(found.len() > 10, "the source tree was found");
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

#[track_caller]
fn none(faults: &[String], rule: &str) {
    assert!(faults.is_empty(), "{rule}:\n  {}", faults.join("\n  "));
}

#[test]
fn every_file_says_what_it_is_for() {
    let faults: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| !text.lines().any(|line| line.starts_with("//!")))
        .map(|(path, _)| path)
        .collect();
    none(&faults, "files without a `//!` header");
}

#[test]
fn a_file_holds_one_idea() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let count = text.lines().take_while(|line| !line.contains("#[cfg(test)]")).count();
        if count > LINES_MAX {
            faults.push(format!("{path}: {count} lines before its tests"));
        }
    }
    none(&faults, "files over 500 lines before their tests");
}

#[test]
fn lines_are_short_and_ascii() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        for (nth, line) in text.lines().enumerate() {
            if line.chars().count() > COLUMNS_MAX {
                faults.push(format!("{path}:{}: over {COLUMNS_MAX} columns", nth + 1));
            }
            if !line.is_ascii() {
                faults.push(format!("{path}:{}: not ASCII", nth + 1));
            }
        }
    }
    none(&faults, "lines");
}

#[test]
fn the_runtime_is_named_in_one_place() {
    let faults: Vec<_> = sources()
        .into_iter()
        .filter(|(path, text)| {
            !path.starts_with("env/")
                && text.lines().any(|line| {
                    let line = line.trim_start();
                    line.starts_with("use glommio") || line.contains(" glommio::")
                })
        })
        .map(|(path, _)| path)
        .filter(|path| path != "tests/tidy.rs" && !path.starts_with("benches/"))
        .collect();
    none(&faults, "files outside env that name the runtime");
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    let faults: Vec<_> = sources()
        .into_iter()
        .filter(|(path, text)| {
            let allowed = MAY_BE_UNSAFE.iter().chain(COUNTS_ALLOCATIONS);
            path != "tests/tidy.rs"
                && !path.starts_with("env/tests/")
                && !allowed.into_iter().any(|room| path.starts_with(room))
                && text.lines().any(|line| {
                    let code = line.trim_start();
                    !code.starts_with("//")
                        && (code.contains("unsafe {") || code.contains("unsafe impl"))
                })
        })
        .map(|(path, _)| path)
        .collect();
    none(&faults, "files with unsafe code");
}

/// Names of our crates in the `[dependencies]` of a manifest; `[dev-dependencies]` are free.
fn imports(manifest: &str) -> Vec<String> {
    let mut section = String::new();
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            line.clone_into(&mut section);
        }
        if section == "[dependencies]" && line.starts_with("bowline") {
            let name: String =
                line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            names.push(name);
        }
    }
    names
}

#[test]
fn crates_import_only_what_the_map_allows() {
    let mut faults = Vec::new();
    for (dir, allowed) in MAY_IMPORT {
        let manifest = fs::read_to_string(root().join(dir).join("Cargo.toml")).unwrap();
        for name in imports(&manifest) {
            if !allowed.contains(&name.as_str()) {
                faults.push(format!("{dir} imports {name}"));
            }
        }
    }
    none(&faults, "edges between crates that no line allows");
}

#[test]
fn versions_stand_in_the_workspace_only() {
    let mut faults = Vec::new();
    for (dir, _) in MAY_IMPORT.iter().filter(|(dir, _)| *dir != ".") {
        let manifest = fs::read_to_string(root().join(dir).join("Cargo.toml")).unwrap();
        for (nth, line) in manifest.lines().enumerate() {
            let names_version = line.contains("version = \"") || line.contains("= \"");
            let is_own = line.starts_with("name") || line.starts_with("description");
            let is_path = line.starts_with("path") || line.starts_with("harness");
            if names_version && !is_own && !is_path && !line.starts_with('#') {
                faults.push(format!("{dir}/Cargo.toml:{}: {line}", nth + 1));
            }
        }
    }
    none(&faults, "versions outside [workspace.dependencies]");
}

#[test]
fn the_library_brings_no_runtime_of_tokio() {
    let mut lines = 0;
    for (dir, _) in MAY_IMPORT.iter().filter(|(dir, _)| *dir != "server") {
        let manifest = fs::read_to_string(root().join(dir).join("Cargo.toml")).unwrap();
        let own = manifest.split("[dev-dependencies]").next().unwrap();
        for line in own.lines().filter(|line| line.starts_with("tokio = { workspace")) {
            assert!(line.ends_with("features = [\"sync\"] }"), "{dir}: {line}");
            lines += 1;
        }
    }
    assert!(lines > 0, "the line was found");
}

/// The scenarios of the steps reached: each group of ids with its numbers.
const SCENARIOS: &[(&str, &[u8])] = &[
    ("rs", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]),
    ("mc", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
    ("rd", &[1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ("wa", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
    ("dk", &[1, 2, 3, 5, 6, 7, 8, 9, 11]),
    ("nw", &[1, 2, 3, 4, 5, 6]),
    ("by", &[1, 2, 3, 4]),
    ("ov", &[1, 2, 3, 4]),
    ("em", &[1, 2, 4, 5]),
    ("mt", &[1]),
    ("up", &[1, 2, 3]),
    ("sd", &[1, 2, 3, 5]),
    ("sc", &[1, 2, 3, 4, 6, 8]),
];

/// What stands between backticks, in order.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The names of the tests of a file.
fn tests_of(text: &str) -> Vec<&str> {
    let mut is_test = false;
    let mut names = Vec::new();
    for line in text.lines().map(str::trim_start) {
        is_test |= line == "#[test]";
        if let Some(rest) = line.strip_prefix("fn ") {
            names.extend(rest.split('(').next().filter(|_| is_test));
            is_test = false;
        }
    }
    names
}

/// Whether there is such a test: `path::function`, or the path of a script.
fn is_test(name: &str) -> bool {
    let (path, function) = name.split_once("::").unwrap_or((name, ""));
    let Ok(text) = fs::read_to_string(root().join(path)) else { return false };
    let is_script = function.is_empty() && path.starts_with("raft/testdata/");
    is_script || tests_of(&text).contains(&function)
}

#[test]
fn every_scenario_has_its_row_and_every_row_its_test() {
    let page = fs::read_to_string(root().join("docs/scenarios.md")).unwrap();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let mut faults = Vec::new();
    for row in &rows {
        let tests: Vec<_> = quoted(row[row.len() - 1]).collect();
        assert!(!tests.is_empty(), "a row names its test: {row:?}");
        let there = |name: &&str| *name == "missing" || is_test(name);
        let gone = tests.into_iter().filter(|name| !there(name));
        faults.extend(gone.map(|name| format!("{name}: no such test")));
    }
    let ids: Vec<_> = rows.iter().filter(|row| row.len() == 3).map(|row| row[0]).collect();
    for (group, numbers) in SCENARIOS {
        for id in numbers.iter().map(|number| format!("{group}_{number:02}")) {
            let count = ids.iter().filter(|it| **it == id).count();
            if count != 1 {
                faults.push(format!("{id} has {count} rows"));
            }
        }
    }
    none(&faults, "docs/scenarios.md");
}
