//! One change of the members of one shard, as it travels from a caller to the shard's leader.

use std::sync::Arc;

use bowline_raft::{NodeId, ShardId};

use crate::{Error, RequestError};

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// A new member that only gets the entries; it is found there.
    Add(Arc<str>),
    /// A member that has caught up votes from now on.
    Promote,
    /// A member leaves.
    Remove,
    /// A voter leads from now on.
    Lead,
}

/// A change of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) verb: Verb,
    pub(crate) node: NodeId,
}

impl Change {
    /// Its verb and text on the wire.
    pub(crate) fn to_parts(&self) -> (u64, &[u8]) {
        match &self.verb {
            Verb::Add(address) => (1, address.as_bytes()),
            Verb::Promote => (2, &[]),
            Verb::Remove => (3, &[]),
            Verb::Lead => (4, &[]),
        }
    }

    /// The change of a verb and a text; none: they mean nothing.
    pub(crate) fn from_parts(verb: u64, node: NodeId, text: &[u8]) -> Option<Self> {
        let verb = match verb {
            1 if super::note::is_address(text) => {
                Verb::Add(Arc::from(core::str::from_utf8(text).ok()?))
            },
            2 if text.is_empty() => Verb::Promote,
            3 if text.is_empty() => Verb::Remove,
            4 if text.is_empty() => Verb::Lead,
            _ => return None,
        };
        (node.0 != 0).then_some(Self { verb, node })
    }
}

/// What a change came to in one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was done.
    Changed,
    /// It was so before.
    Already,
    /// There was nothing to remove: the node was never a member of the shard.
    Never,
}

/// Why a change was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Another node leads, or none: ask again.
    NotLeader,
    /// It did not end in time; it may yet.
    Late,
    /// Too much is asked at once.
    Busy,
    /// The shard is closed there.
    Closed,
    /// The node lacks so many entries, or cannot be reached.
    Behind(u64),
    /// Too few of the voters that would be left can be reached.
    Quorum,
    /// No voter would be left.
    LastVoter,
    /// The node is no member.
    NoMember,
    /// The node does not vote yet.
    NoVoter,
    /// The node is a member and found elsewhere.
    OtherAddress,
    /// The id was a member's that left.
    WasMember,
    /// There would be too many members or voters.
    TooMany,
    /// The addresses of the members are too long together.
    TooLong,
    /// The node runs an older state machine than the members agreed on.
    OldVersion,
}

const REFUSED: [Refused; 14] = [
    Refused::NotLeader,
    Refused::Late,
    Refused::Busy,
    Refused::Closed,
    Refused::Behind(0),
    Refused::Quorum,
    Refused::LastVoter,
    Refused::NoMember,
    Refused::NoVoter,
    Refused::OtherAddress,
    Refused::WasMember,
    Refused::TooMany,
    Refused::TooLong,
    Refused::OldVersion,
];
/// The number of the first refusal on the wire.
const REFUSED_FIRST: u64 = 16;

impl Refused {
    /// What the caller is told.
    pub(crate) fn error(self, shard: ShardId) -> Error {
        let text = match self {
            Self::NotLeader => return Error::NoLeader { shard },
            Self::Late => return Error::Timeout { shard, maybe_applied: true },
            Self::Behind(entries) => return Error::Request(RequestError::Behind { entries }),
            Self::Busy => "too many changes are under way",
            Self::Closed => "the shard is closed at its leader",
            Self::Quorum => "too few of the voters that would be left can be reached",
            Self::LastVoter => "no voter would be left",
            Self::NoMember => "the node is no member of the shard",
            Self::NoVoter => "the node does not vote in the shard",
            Self::OtherAddress => "the node is a member already, at another address",
            Self::WasMember => "the node was a member and left: add it under a new id",
            Self::TooMany => "there would be too many members",
            Self::TooLong => "the addresses of the members are too long together",
            Self::OldVersion => {
                "the node runs an older state machine than the members agreed on: upgrade it"
            },
        };
        Error::Request(RequestError::Membership(text))
    }
}

/// An answer as it is on the wire.
pub(crate) fn to_wire(result: Result<Outcome, Refused>) -> (u64, u64) {
    match result {
        Ok(Outcome::Changed) => (0, 0),
        Ok(Outcome::Already) => (1, 0),
        Ok(Outcome::Never) => (2, 0),
        Err(why) => {
            let number = if let Refused::Behind(entries) = why { entries } else { 0 };
            let same = |it: &Refused| core::mem::discriminant(it) == core::mem::discriminant(&why);
            let at = REFUSED.iter().position(same).and_then(|at| u64::try_from(at).ok());
            (REFUSED_FIRST + at.expect("every refusal is in the list"), number)
        },
    }
}

/// The answer of the wire; what a later build says is taken for "ask again".
pub(crate) fn from_wire(outcome: u64, number: u64) -> Result<Outcome, Refused> {
    match outcome {
        0 => return Ok(Outcome::Changed),
        1 => return Ok(Outcome::Already),
        2 => return Ok(Outcome::Never),
        _ => {},
    }
    let at = outcome.checked_sub(REFUSED_FIRST).and_then(|at| usize::try_from(at).ok());
    Err(match at.and_then(|at| REFUSED.get(at)) {
        Some(Refused::Behind(_)) => Refused::Behind(number),
        Some(why) => *why,
        None => Refused::NotLeader,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_travels_arrives_as_it_was() {
        for verb in [Verb::Add("a:1".into()), Verb::Promote, Verb::Remove, Verb::Lead] {
            let change = Change { verb, node: NodeId(4) };
            let (verb, text) = change.to_parts();
            assert_eq!(Change::from_parts(verb, NodeId(4), text), Some(change.clone()));
            assert_eq!(Change::from_parts(verb, NodeId(0), text), None);
            assert_eq!(Change::from_parts(verb, NodeId(4), b"not an address"), None);
        }
        assert_eq!(Change::from_parts(5, NodeId(4), &[]), None);
        for why in REFUSED {
            let why = if let Refused::Behind(_) = why { Refused::Behind(7) } else { why };
            let (outcome, number) = to_wire(Err(why));
            assert_eq!(from_wire(outcome, number), Err(why));
        }
        for done in [Outcome::Changed, Outcome::Already, Outcome::Never] {
            let (outcome, number) = to_wire(Ok(done));
            assert_eq!(from_wire(outcome, number), Ok(done));
        }
        assert_eq!(from_wire(99, 0), Err(Refused::NotLeader));
    }
}
