//! How an answer shows messages and configurations.

use bowline_raft::{
    Ballot, BatchHeader, Configuration, Member, Message, Mismatch, Part, Phase, VoteReason, What,
    batch::{FLAG_CONF, FLAG_NOOP},
};

/// A message in one line: what it says, its term, then what it promises or asks.
pub fn message(message: &Message, batches: &[BatchHeader]) -> String {
    let (name, details) = (name(&message.what), details(&message.what, batches));
    let numbers = [("support", message.support), ("seq", u32::from(message.seq))];
    let numbers = numbers.into_iter().filter(|(_, value)| *value != 0);
    let numbers: Vec<_> = numbers.map(|(key, value)| format!(" {key} {value}")).collect();
    format!("{name} term {}{details}{}", message.term, numbers.concat())
}

pub fn name(what: &What) -> &'static str {
    match what {
        What::Append { .. } => "Append",
        What::AppendResp { .. } => "AppendResp",
        What::PreVote { .. } => "PreVote",
        What::PreVoteResp(_) => "PreVoteResp",
        What::Vote { .. } => "Vote",
        What::VoteResp(_) => "VoteResp",
        What::CommitHint { .. } => "CommitHint",
        What::ReadProbe { .. } => "ReadProbe",
        What::ReadProbeResp { .. } => "ReadProbeResp",
        What::ReadIndex { .. } => "ReadIndex",
        What::ReadIndexResp { .. } => "ReadIndexResp",
        What::TimeoutNow => "TimeoutNow",
        What::SnapshotNeeded { .. } => "SnapshotNeeded",
        What::Gone { .. } => "Gone",
        What::FetchEntries { .. } => "FetchEntries",
        What::Release => "Release",
    }
}

fn details(what: &What, batches: &[BatchHeader]) -> String {
    match what {
        What::Append { prev, prev_term, commit, read_seq, .. } => {
            let entries = all_or_ends(batches);
            format!(" prev {prev}@{prev_term}{entries} commit {commit}{}", read(*read_seq))
        },
        What::AppendResp { matched, reject, no_quorum } => {
            format!(" {}{}", matched_or(matched.0, *reject), quorum(*no_quorum))
        },
        What::PreVote { last, last_term } => format!(" last {last}@{last_term}"),
        What::Vote { last, last_term, reason } => {
            let reason = match reason {
                VoteReason::NoLeader => String::new(),
                VoteReason::Transfer { promised } => format!(" transfer of term {promised}"),
            };
            format!(" last {last}@{last_term}{reason}")
        },
        What::PreVoteResp(ballot) | What::VoteResp(ballot) => given(ballot),
        What::CommitHint { commit } => format!(" commit {commit}"),
        What::ReadProbe { commit, read_seq } => format!(" commit {commit}{}", read(*read_seq)),
        What::ReadProbeResp { read_seq, no_quorum } => {
            format!("{}{}", read(*read_seq), quorum(*no_quorum))
        },
        What::ReadIndex { request, count } => format!(" request {request} count {count}"),
        What::ReadIndexResp { request, index } => match index {
            Ok(index) => format!(" request {request} index {index}"),
            Err(leader) => format!(" request {request} refused, leader {leader}"),
        },
        What::SnapshotNeeded { floor } => format!(" floor {floor}"),
        What::Gone { generation } => format!(" generation {generation}"),
        What::FetchEntries { from, to } => format!(" {from}..{to}"),
        What::TimeoutNow | What::Release => String::new(),
    }
}

fn matched_or(matched: u64, reject: Option<Mismatch>) -> String {
    reject.map_or_else(
        || format!("matched {matched}"),
        |hint| format!("rejected, hint {}@{}", hint.index, hint.term),
    )
}

fn given(ballot: &Ballot) -> String {
    let granted = if ballot.granted { "granted" } else { "refused" };
    let leader =
        if ballot.leader.0 == 0 { String::new() } else { format!(", leader {}", ballot.leader) };
    format!(" asked {} {granted}{leader}", ballot.asked)
}

fn read(seq: u64) -> String {
    if seq == 0 { String::new() } else { format!(" read {seq}") }
}

fn quorum(no_quorum: bool) -> &'static str {
    if no_quorum { " no quorum" } else { "" }
}

/// Every batch of an Append; of many, the first and the last.
fn all_or_ends(batches: &[BatchHeader]) -> String {
    match batches {
        [first, .., last] if batches.len() > 6 => {
            format!("{} ..{} ({} batches)", batch(first), batch(last), batches.len())
        },
        few => few.iter().map(batch).collect::<Vec<_>>().concat(),
    }
}

fn batch(head: &BatchHeader) -> String {
    let kind = match head.flags {
        FLAG_NOOP => " noop",
        FLAG_CONF => " conf",
        _ => "",
    };
    let range = if head.count == 1 {
        head.first.to_string()
    } else {
        format!("{}..{}", head.first, head.last())
    };
    format!(" [{range}@{}{kind}]", head.term)
}

/// `1 2 3` and learners in brackets; both halves of a joint one: `1 2 3 -> 1 2 4 (5)`.
pub fn conf(conf: &Configuration) -> String {
    match conf.phase {
        Phase::Stable => half(conf, |member| member.after),
        Phase::Joint => {
            format!("{} -> {}", half(conf, |m| m.before), half(conf, |m| m.after))
        },
    }
}

fn half(conf: &Configuration, part: impl Fn(&Member) -> Part) -> String {
    let words = conf.members.iter().filter_map(|member| match part(member) {
        Part::Absent => None,
        Part::Voter => Some(member.replica.to_string()),
        Part::Learner => Some(format!("({})", member.replica)),
    });
    words.collect::<Vec<_>>().join(" ")
}
