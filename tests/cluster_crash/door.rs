//! A caller at the admin socket of a node.

use core::net::SocketAddr;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::nodes::Place;

/// Longer than any answer of a node that lives takes.
const PATIENCE: Duration = Duration::from_secs(12);
const CONNECT: Duration = Duration::from_millis(500);

/// What a node answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The write is done.
    Done,
    /// What a key holds.
    Value(Option<String>),
    /// It failed, certainly without an effect; the leader may be named.
    Unapplied(Option<SocketAddr>),
    /// It failed, and may have an effect still.
    Unknown,
}

/// One connection.
pub(crate) struct Door {
    reader: BufReader<TcpStream>,
}

impl Door {
    pub(crate) fn open(place: &Place) -> io::Result<Self> {
        place.space.enter();
        let stream = TcpStream::connect_timeout(&place.admin, CONNECT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// One request, one answer.
    pub(crate) fn ask(&mut self, line: &str) -> io::Result<String> {
        self.send(line)?;
        self.receive()
    }

    fn send(&mut self, line: &str) -> io::Result<()> {
        self.reader.get_mut().write_all(format!("{line}\n").as_bytes())
    }

    fn receive(&mut self) -> io::Result<String> {
        let mut answer = String::new();
        self.reader.read_line(&mut answer)?;
        match answer.strip_suffix('\n') {
            Some(whole) => Ok(whole.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) -> io::Result<Answer> {
        self.ask(&format!("put {key} {value}")).map(|answer| read(&answer))
    }

    pub(crate) fn get(&mut self, key: &str, how: &str) -> io::Result<Answer> {
        self.ask(&format!("get {key} {how}")).map(|answer| read(&answer))
    }

    /// Many reads on their way at once, answered in order.
    pub(crate) fn get_all<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k str>,
        how: &str,
    ) -> io::Result<Vec<Answer>> {
        let keys: Vec<_> = keys.collect();
        let mut answers = Vec::with_capacity(keys.len());
        for some in keys.chunks(100) {
            let lines: Vec<_> = some.iter().map(|key| format!("get {key} {how}")).collect();
            self.send(&lines.join("\n"))?;
            for _ in some {
                answers.push(read(&self.receive()?));
            }
        }
        Ok(answers)
    }
}

#[track_caller]
fn read(answer: &str) -> Answer {
    let words: Vec<_> = answer.splitn(5, ' ').collect();
    match words[..] {
        ["ok"] => Answer::Done,
        ["none"] => Answer::Value(None),
        ["value", value] => Answer::Value(Some(value.to_owned())),
        ["error", _, "unapplied", leader, ..] => Answer::Unapplied(leader.parse().ok()),
        ["error", _, "maybe-applied", ..] => Answer::Unknown,
        _ => panic!("a node answers {answer:?}"),
    }
}
