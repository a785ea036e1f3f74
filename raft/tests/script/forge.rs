//! Messages that no replica sent.
//!
//! ```text
//! forge 1->2 Append term=1 prev=0@0 entries=1@1,2..3@1 conf=4@1:1,2->1,3 commit=0 read=1 seq=3
//! forge 2->1 AppendResp term=1 matched=3 | reject=2@1
//! forge 3->1 PreVote term=1 last=3@1         forge 3->1 Vote term=2 last=3@1 transfer=1
//! forge 3->1 VoteResp term=1 asked=1 granted forge 2->1 ReadIndexResp term=1 request=1 index=3
//! ```
//!
//! Any number may be `max` or `max-3`. Every message may have `from`, `to`, `shard`,
//! `support` and `seq`.

use std::collections::BTreeMap;

use bowline_raft::{
    Ballot, BatchHeader, BatchRange, Configuration, Hint, LogIndex, Message, Mismatch, Part, Phase,
    ReplicaId, ShardId, Term, VoteReason, What,
    batch::{FLAG_CONF, FLAG_NOOP},
};

use super::{
    disk::{Entry, SHARD, encode},
    node::Packet,
    words::{self, Words},
    world::World,
};

/// `key=value` words; a word without a value has an empty one.
struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl Fields<'_> {
    fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    fn number(&self, key: &str) -> Result<u64, String> {
        self.0.get(key).map_or(Ok(0), |word| words::large(word))
    }

    /// `index@term`
    fn entry(&self, key: &str) -> Result<(LogIndex, Term), String> {
        let (index, term) = self.0.get(key).map_or(Ok((0, 0)), |word| words::pair(word, "@"))?;
        Ok((LogIndex(index), Term(term)))
    }
}

/// Reads a message and hands it over.
pub fn forge(world: &mut World, mut words: Words<'_>) -> Result<(), String> {
    let (from, to) = words.link()?;
    let kind = words.word("kind")?;
    let fields: BTreeMap<_, _> =
        words.rest().map(|word| word.split_once('=').unwrap_or((word, ""))).collect();
    let fields = Fields(fields);
    let batches = batches(world, to, &fields)?;
    let receiver = if fields.has("to") { fields.number("to")? } else { to };
    let message = Message {
        shard: if fields.has("shard") { ShardId(fields.number("shard")?) } else { SHARD },
        to: ReplicaId(receiver),
        from: ReplicaId(if fields.has("from") { fields.number("from")? } else { from }),
        term: Term(fields.number("term")?),
        hint: Hint::default(),
        support: u32::try_from(fields.number("support")?).map_err(|_large| "support is a u32")?,
        seq: u16::try_from(fields.number("seq")?).map_err(|_large| "seq is a u16")?,
        what: named(world, what(kind, &fields)?),
    };
    world.forge(from, to, message, Packet { message, batches, life: 0 });
    Ok(())
}

/// A question or its answer with the number that the core drew.
fn named(world: &World, mut what: What) -> What {
    if let What::ReadIndex { request, .. } | What::ReadIndexResp { request, .. } = &mut what {
        let nth = usize::try_from(*request).ok().and_then(|place| place.checked_sub(1));
        let drawn = nth.and_then(|nth| world.requests.get(nth));
        *request = drawn.copied().unwrap_or(*request);
    }
    what
}

fn what(kind: &str, fields: &Fields<'_>) -> Result<What, String> {
    let index = |key: &str| fields.number(key).map(LogIndex);
    let (last, last_term) = fields.entry("last")?;
    let (read_seq, no_quorum) = (fields.number("read")?, fields.has("no-quorum"));
    let ballot = Ballot {
        granted: fields.has("granted"),
        asked: Term(fields.number("asked")?),
        leader: ReplicaId(fields.number("leader")?),
    };
    Ok(match kind {
        "Append" => {
            let (prev, prev_term) = fields.entry("prev")?;
            let batches = BatchRange::default();
            What::Append { prev, prev_term, commit: index("commit")?, read_seq, batches }
        },
        "AppendResp" => {
            let (index_, term) = fields.entry("reject")?;
            let reject = fields.has("reject").then_some(Mismatch { index: index_, term });
            What::AppendResp { matched: index("matched")?, reject, no_quorum }
        },
        "PreVote" => What::PreVote { last, last_term },
        "PreVoteResp" => What::PreVoteResp(ballot),
        "Vote" => {
            let promised = Term(fields.number("transfer")?);
            let transfer = VoteReason::Transfer { promised };
            let reason = if fields.has("transfer") { transfer } else { VoteReason::NoLeader };
            What::Vote { last, last_term, reason }
        },
        "VoteResp" => What::VoteResp(ballot),
        "CommitHint" => What::CommitHint { commit: index("commit")? },
        "ReadProbe" => What::ReadProbe { commit: index("commit")?, read_seq },
        "ReadProbeResp" => What::ReadProbeResp { read_seq, no_quorum },
        "ReadIndex" => {
            What::ReadIndex { request: fields.number("request")?, count: fields.number("count")? }
        },
        "ReadIndexResp" => {
            let refused = fields.has("leader").then_some(ballot.leader);
            let answer =
                refused.map_or_else(|| index("index").map(Ok), |leader| Ok(Err(leader)))?;
            What::ReadIndexResp { request: fields.number("request")?, index: answer }
        },
        "TimeoutNow" => What::TimeoutNow,
        "SnapshotNeeded" => What::SnapshotNeeded { floor: index("floor")? },
        "Gone" => What::Gone { generation: fields.number("generation")? },
        "Release" => What::Release,
        other => return Err(format!("{other} is no message")),
    })
}

type Bodies = Vec<(BatchHeader, Vec<u8>)>;

fn batches(world: &mut World, to: u64, fields: &Fields<'_>) -> Result<Bodies, String> {
    let mut batches = Vec::new();
    for run in fields.0.get("entries").map_or("", |runs| *runs).split(',') {
        if run.is_empty() {
            continue;
        }
        let (first, last, term) = words::run(run)?;
        let noop = if fields.has("noop") { FLAG_NOOP } else { 0 };
        let entry = |index: u64| Entry {
            term,
            flags: noop,
            payload: if noop == 0 { format!("{index}@{term}").into_bytes() } else { Vec::new() },
            begins: index == first,
        };
        let entries: Vec<_> = (first..=last).map(entry).collect();
        batches.push(encode(first, &entries.iter().collect::<Vec<_>>()));
    }
    if fields.has("conf") {
        let node = world.node(to)?;
        let active = node.core.as_ref().and_then(|core| core.view(node.slot).conf.cloned());
        let mut active = active.ok_or("it is not running")?;
        for word in fields.0["conf"].split(';') {
            let (at, members) = word.split_once(':').ok_or_else(|| format!("{word} has no :"))?;
            let (first, term) = words::pair(at, "@")?;
            active = next(&active, members)?;
            let payload = active.encode().map_err(|error| error.to_string())?;
            let entry = Entry { term, flags: FLAG_CONF, payload, begins: true };
            batches.push(encode(first, &[&entry]));
        }
    }
    if fields.has("rotten") {
        for (head, _) in &mut batches {
            head.crc ^= 1;
        }
    }
    Ok(batches)
}

/// The configuration after `active`: `1,2` or `1,2->1,3`, voters each.
fn next(active: &Configuration, members: &str) -> Result<Configuration, String> {
    let (before, after) = members.split_once("->").unwrap_or((members, members));
    let (before, after) = (words::list(before)?, words::list(after)?);
    let mut next = active.clone();
    next.epoch += 1;
    next.phase = if before == after { Phase::Stable } else { Phase::Joint };
    next.auto_leave = before != after;
    let part = |half: &[u64], id| if half.contains(&id) { Part::Voter } else { Part::Absent };
    for member in &mut next.members {
        member.before = part(&before, member.replica.0);
        member.after = part(&after, member.replica.0);
    }
    next.members.retain(|member| member.before != Part::Absent || member.after != Part::Absent);
    Ok(next)
}
