//! The admin socket of this milestone: a door for tests and for trying things out, on loopback and
//! only where `server.admin` says so. It asks nobody who they are, and will give way to an
//! authenticated one.
//!
//! One request a line, one answer a line, in order. Words are parted by one space; a key has none.
//!
//! ```text
//! put KEY VALUE               ok                       the value is the rest of the line
//! get KEY [lin | lease | ev]  value VALUE | none       bytes that are no plain ASCII are escaped
//! leader                      leader NODE term TERM led SHARDS of SHARDS | leader none
//! status                      status node NODE leads SHARDS of SHARDS stopping BOOL
//! members                     members NODE ..
//! add-learner NODE ADDRESS    changed SHARDS
//! promote NODE                changed SHARDS
//! remove NODE                 changed SHARDS
//! transfer NODE               changed SHARDS
//! anything that fails         error CODE (unapplied | maybe-applied) (ADDRESS | -) TEXT
//! ```
//!
//! ADDRESS is where the leader's application answers, else its peer address. A connection that
//! says anything else is closed at once, so that a web page cannot speak through a browser.

use core::net::SocketAddr;
use std::io;
use std::sync::Arc;

use bowline::{ChangeReport, Code, Consistency, EmbeddedEngine, Error, Finding, NodeId};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest line, in bytes, its end included.
const LINE_MAX: u64 = 1 << 20;
/// Connections at once; more wait in the kernel.
const CONNECTIONS_MAX: usize = 1_024;

/// The socket, bound.
#[derive(Debug)]
pub(crate) struct Door {
    listener: TcpListener,
    at: SocketAddr,
}

impl Door {
    /// Binds it; callers wait until it [runs](Self::run).
    ///
    /// # Errors
    ///
    /// BOW-0701 or BOW-0702.
    pub(crate) async fn open(at: SocketAddr) -> Result<Self, Error> {
        let bound = TcpListener::bind(at).await;
        let named = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (at, listener) = named.map_err(|error| {
            let taken = error.kind() == io::ErrorKind::AddrInUse;
            let code = if taken { Code::ADDRESS_IN_USE } else { Code::CANNOT_BIND };
            let what = format!("cannot listen at server.admin = {at}: {error}");
            Error::Net(Arc::new(Finding::error(code, what)))
        })?;
        Ok(Self { listener, at })
    }

    /// Where it is.
    pub(crate) const fn at(&self) -> SocketAddr {
        self.at
    }

    /// Answers for `engine` until dropped.
    pub(crate) async fn run(self, engine: EmbeddedEngine) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let engine = engine.clone();
                    drop(tokio::spawn(serve_one(stream, engine, place)));
                },
                Err(error) => {
                    tracing::warn!(%error, "an admin connection was not accepted");
                    tokio::time::sleep(core::time::Duration::from_millis(100)).await;
                },
            }
        }
    }
}

/// Answers one connection, which holds its place as long.
async fn serve_one(stream: TcpStream, engine: EmbeddedEngine, place: OwnedSemaphorePermit) {
    if let Err(error) = converse(stream, &engine).await {
        tracing::debug!(%error, "an admin connection broke");
    }
    drop(place);
}

async fn converse(mut stream: TcpStream, engine: &EmbeddedEngine) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let _: usize = (&mut lines).take(LINE_MAX).read_until(b'\n', &mut line).await?;
        // The end of the connection, or of patience.
        let Some(whole) = line.strip_suffix(b"\n") else { return Ok(()) };
        let Some(ask) = Ask::parse(whole) else { return Ok(()) };
        let mut answer = match ask.answer(engine).await {
            Ok(answer) => answer,
            Err(error) => failure(&error),
        };
        answer.push('\n');
        write.write_all(answer.as_bytes()).await?;
    }
}

/// One request.
#[derive(Debug, PartialEq, Eq)]
enum Ask<'l> {
    Put { key: &'l [u8], value: &'l [u8] },
    Get { key: &'l [u8], consistency: Consistency },
    Leader,
    Status,
    Members,
    AddLearner { node: NodeId, address: &'l str },
    Promote(NodeId),
    Remove(NodeId),
    Transfer(NodeId),
}

impl<'l> Ask<'l> {
    /// None: it is not one.
    fn parse(line: &'l [u8]) -> Option<Self> {
        let (verb, rest) = split(line);
        match (verb, rest) {
            (b"put", Some(rest)) => {
                let (key, value) = split(rest);
                Some(Self::Put { key, value: value? })
            },
            (b"get", Some(rest)) => {
                let (key, how) = split(rest);
                let consistency = match how {
                    None | Some(b"lin") => Consistency::Linearizable,
                    Some(b"lease") => Consistency::Lease,
                    Some(b"ev") => Consistency::Eventual,
                    Some(_) => return None,
                };
                Some(Self::Get { key, consistency })
            },
            (b"leader", None) => Some(Self::Leader),
            (b"status", None) => Some(Self::Status),
            (b"members", None) => Some(Self::Members),
            (b"add-learner", Some(rest)) => {
                let (node, address) = split(rest);
                let address = core::str::from_utf8(address?).ok()?;
                Some(Self::AddLearner { node: number(node)?, address })
            },
            (b"promote", Some(node)) => number(node).map(Self::Promote),
            (b"remove", Some(node)) => number(node).map(Self::Remove),
            (b"transfer", Some(node)) => number(node).map(Self::Transfer),
            _ => None,
        }
    }

    async fn answer(self, engine: &EmbeddedEngine) -> Result<String, Error> {
        match self {
            Self::Put { key, value } => {
                engine.client().put(key, value).await?;
                Ok("ok".to_owned())
            },
            Self::Get { key, consistency } => {
                let got = engine.client().get_with_consistency(key, consistency).await?;
                let shown = |value: bytes::Bytes| format!("value {}", value.escape_ascii());
                Ok(got.map_or_else(|| "none".to_owned(), shown))
            },
            Self::Leader => Ok(match engine.leader_info() {
                Some(info) => format!(
                    "leader {} term {} led {} of {}",
                    info.leader_id.0, info.term.0, info.led, info.of
                ),
                None => "leader none".to_owned(),
            }),
            Self::Status => {
                let status = engine.status();
                Ok(format!(
                    "status node {} leads {} of {} stopping {}",
                    status.node.0, status.leads, status.shards, status.stopping
                ))
            },
            Self::Members => {
                let members = engine.client().list_members();
                let listed = members.iter().map(|node| format!(" {}", node.0));
                Ok(format!("members{}", listed.collect::<String>()))
            },
            Self::AddLearner { node, address } => {
                changed(engine.admin().add_learner(node, address).await?)
            },
            Self::Promote(node) => changed(engine.admin().promote(node).await?),
            Self::Remove(node) => changed(engine.admin().remove(node).await?),
            Self::Transfer(node) => changed(engine.admin().transfer(node).await?),
        }
    }
}

fn changed(report: ChangeReport) -> Result<String, Error> {
    report.complete().map(|shards| format!("changed {shards}"))
}

fn number(text: &[u8]) -> Option<NodeId> {
    core::str::from_utf8(text).ok()?.parse().ok().map(NodeId)
}

/// The first word, and what follows the space behind it.
fn split(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    match line.iter().position(|byte| *byte == b' ') {
        Some(at) => (&line[..at], Some(&line[at + 1..])),
        None => (line, None),
    }
}

fn failure(error: &Error) -> String {
    let fate = if error.maybe_applied() { "maybe-applied" } else { "unapplied" };
    let leader = if let Error::NotLeader { leader_address: Some(address), .. } = error {
        address
    } else {
        "-"
    };
    format!("error {} {fate} {leader} {error}", error.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_request_or_nothing() {
        let get = |consistency| Some(Ask::Get { key: b"k", consistency });
        for (line, want) in [
            ("put k a b ", Some(Ask::Put { key: b"k", value: b"a b " })),
            ("put k ", Some(Ask::Put { key: b"k", value: b"" })),
            ("get k", get(Consistency::Linearizable)),
            ("get k lin", get(Consistency::Linearizable)),
            ("get k lease", get(Consistency::Lease)),
            ("get k ev", get(Consistency::Eventual)),
            ("leader", Some(Ask::Leader)),
            ("status", Some(Ask::Status)),
            ("members", Some(Ask::Members)),
            ("add-learner 4 a:1", Some(Ask::AddLearner { node: NodeId(4), address: "a:1" })),
            ("add-learner 4", None),
            ("promote 4", Some(Ask::Promote(NodeId(4)))),
            ("promote four", None),
            ("remove 4", Some(Ask::Remove(NodeId(4)))),
            ("transfer 4", Some(Ask::Transfer(NodeId(4)))),
            ("", None),
            ("put k", None),
            ("get", None),
            ("get k soon", None),
            ("leader please", None),
            ("POST / HTTP/1.1\r", None),
        ] {
            assert_eq!(Ask::parse(line.as_bytes()), want, "{line:?}");
        }
    }

    #[test]
    fn a_failure_says_whether_it_may_have_happened_and_where_to_go() {
        let shard = bowline::ShardId(3);
        let at = Some(Arc::from("10.0.0.2:80"));
        let error = Error::NotLeader { shard, leader_address: at, leader: None };
        assert!(failure(&error).starts_with("error BOW-0503 unapplied 10.0.0.2:80 "), "{error}");
        let error = Error::Timeout { shard, maybe_applied: true };
        assert!(failure(&error).starts_with("error BOW-0504 maybe-applied - "), "{error}");
    }
}
