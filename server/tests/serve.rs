//! Nodes as an operator runs them: `serve` and `dev`, and how they end.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]
#![expect(clippy::disallowed_methods, reason = "processes and sockets are what is tested")]

#[path = "kit/call.rs"]
mod call;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use call::{bowline, complains, ends_with, on_disk, text};

const PATIENCE: Duration = Duration::from_mins(1);

/// A node alone, with a small log; its admin address.
fn configured(dir: &Path) -> (PathBuf, SocketAddr) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = free.local_addr().unwrap();
    let data = dir.join("data");
    let file = dir.join("bowline.toml");
    let lines = [
        "[node]".to_owned(),
        format!("data_dir = \"{}\"", data.display()),
        "[cluster]\nshards = 2\n[cores]\ncount = 1".to_owned(),
        "[wal]\nslot_bytes = \"1MiB\"\nframe_cap = \"64KiB\"\nlog_bytes = \"16MiB\"".to_owned(),
        format!("[server]\nadmin = \"{admin}\"\n"),
    ];
    std::fs::write(&file, lines.join("\n")).unwrap();
    (file, admin)
}

fn serve(file: &Path, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_bowline"))
        .args(["serve", "--config", text(file)])
        .args(more)
        .env_remove("BOWLINE_CONFIG")
        .env_remove("CONFIG_PATH")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Asks until there is an answer that will do.
#[track_caller]
fn ask(at: SocketAddr, line: &str, will_do: impl Fn(&str) -> bool) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = asked(at, line).unwrap_or_else(|error| error.to_string());
        if will_do(&answer) {
            return answer;
        }
        assert!(Instant::now() < until, "{line}: {answer}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn asked(at: SocketAddr, line: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[track_caller]
fn ended(mut child: Child) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < until, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_node_serves_until_it_is_told_to_end_and_has_everything_again() {
    let dir = on_disk();
    let (file, admin) = configured(dir.path());
    let value = "value of two words \\xff";
    for (round, end) in ["-TERM", "-INT", "stdin"].iter().enumerate() {
        let mut node = serve(&file, &["--until-stdin-ends"]);
        let led = "leader 1 term ";
        ask(admin, "leader", |answer| answer.starts_with(led) && answer.ends_with("led 2 of 2"));
        let before = if round == 0 { "none" } else { value };
        assert_eq!(asked(admin, "get key").unwrap(), before);
        if round == 0 {
            let mut stream = TcpStream::connect(admin).unwrap();
            stream.write_all(b"put key of two words \xff\n").unwrap();
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).unwrap();
            assert_eq!(answer, "ok\n");
        }
        assert_eq!(asked(admin, "get key ev").unwrap(), value);
        assert_eq!(asked(admin, "members").unwrap(), "members 1");
        assert_eq!(asked(admin, "status").unwrap(), "status node 1 leads 2 of 2 stopping false");
        assert_eq!(asked(admin, "GET / HTTP/1.1").unwrap(), "", "the connection is closed");
        match *end {
            "stdin" => drop(node.stdin.take()),
            name => signal(&node, name),
        }
        assert_eq!(ended(node).code(), Some(0), "{end}");
    }
    let data = dir.path().join("data");
    assert_eq!(ends_with(&bowline(&["wal", "verify", text(&data)]), 0), "stream-00: clean\n");
}

#[test]
fn a_second_order_ends_a_node_at_once() {
    let dir = on_disk();
    let (file, admin) = configured(dir.path());
    let node = serve(&file, &[]);
    ask(admin, "leader", |answer| answer.ends_with("led 2 of 2"));
    signal(&node, "-TERM");
    // It may be gone already: then there was nothing to hurry.
    let again = Command::new("kill").arg(node.id().to_string()).output().unwrap();
    let status = ended(node);
    assert_eq!(status.code(), Some(0), "{again:?}");
}

#[test]
fn what_keeps_a_node_from_serving_is_said_with_cause_and_fix() {
    let dir = on_disk();
    let (file, admin) = configured(dir.path());
    let good = std::fs::read_to_string(&file).unwrap();
    let taken = TcpListener::bind(admin).unwrap();
    let public = good.replace(&admin.to_string(), "0.0.0.0:7600");
    for (content, code, what) in [
        (good.replace("shards", "shard"), "BOW-0302", "has no key shard"),
        (good.replace("admin =", "admn ="), "BOW-0302", "[server] has no key admn"),
        (public, "BOW-0703", "0.0.0.0:7600 is open to others"),
        (good.clone(), "BOW-0701", "cannot listen at server.admin"),
    ] {
        std::fs::write(&file, content).unwrap();
        let complaint = complains(&bowline(&["serve", "-c", text(&file)]), 1);
        for part in [code, what, "\n  cause: ", "\n  fix:   "] {
            assert!(complaint.contains(part), "{part}: {complaint}");
        }
    }
    drop(taken);
}

#[test]
fn dev_runs_three_nodes_and_ends_all_of_them() {
    let dir = on_disk();
    let mut dev = Command::new(env!("CARGO_BIN_EXE_bowline"))
        .args(["dev", "--nodes", "3", "--shards", "4", "--dir", text(dir.path())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(dev.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("node "));
    let address = |line: String| line.split_whitespace().nth(2).unwrap().parse().unwrap();
    let admins: Vec<SocketAddr> = lines.by_ref().take(3).map(address).collect();
    for admin in &admins {
        ask(*admin, "leader", |answer| answer.ends_with("of 4"));
    }
    let done = admins.iter().filter(|at| asked(**at, "put key value").unwrap() == "ok");
    assert_eq!(done.count(), 1, "one node leads the key");
    for admin in &admins {
        assert_eq!(asked(*admin, "get key").unwrap(), "value value");
    }
    signal(&dev, "-INT");
    let rest: Vec<_> = lines.collect();
    assert_eq!(rest.last().map(String::as_str), Some("stopping"), "{rest:?}");
    assert_eq!(ended(dev).code(), Some(0));
    for (admin, node) in admins.iter().zip(1..) {
        assert!(TcpStream::connect(admin).is_err(), "its process is gone");
        let data = dir.path().join(format!("node-{node}"));
        ends_with(&bowline(&["wal", "verify", text(&data)]), 0);
    }
}
