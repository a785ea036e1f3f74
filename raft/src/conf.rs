//! Who takes part in a shard: its configuration and the bytes of it.
//!
//! ```text
//!  0 fmt u8 = 1   1 phase u8 (0 stable, 1 joint)   2 members u16   4 flags u32 (1 auto_leave)
//!  8 conf_epoch u64 (+1 each entry)   16 next_replica u64   24 generation u64
//! 32 member x 24:  0 node u64   8 replica u64   16 before u8, 17 after u8
//!                  (0 absent, 1 voter, 2 learner, 3 witness: refused)
//!                  18 priority u8   19 flags u8 (1 auto_promote)   20 zero u32
//!    fmt 2: note_len u32 (1 to 1,024) | note, after the members
//! ```
//!
//! Integers are little-endian. Members ascend by replica id, so equal configurations have equal
//! bytes. In a stable configuration `before` = `after`. At most 15 members and, in each half, 1 to
//! 7 voters. The note is the engine's: it goes along and means nothing here.

use alloc::{vec, vec::Vec};
use core::fmt;

use crate::{NodeId, ReplicaId};

/// Members at most.
pub const MEMBERS_MAX: usize = 15;
/// Voters of a half at most.
pub const VOTERS_MAX: usize = 7;
const HEAD_LEN: usize = 32;
const MEMBER_LEN: usize = 24;
const FORMAT: u8 = 1;
/// The format of a configuration with a note.
const FORMAT_NOTE: u8 = 2;
const NOTE_HEAD_LEN: usize = 4;
/// Bytes of a note at most.
pub const NOTE_LEN_MAX: usize = 1_024;
const AUTO_LEAVE: u32 = 1;
const AUTO_PROMOTE: u8 = 1;

/// What a member does in one half of a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// It does not belong to this half.
    #[default]
    Absent = 0,
    /// It votes and its copy counts.
    Voter = 1,
    /// It only gets the entries.
    Learner = 2,
}

impl Part {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Absent),
            1 => Some(Self::Voter),
            2 => Some(Self::Learner),
            _ => None,
        }
    }
}

/// Whether a configuration has one half or two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// One set of voters decides.
    #[default]
    Stable = 0,
    /// The voters before and the voters after must both agree.
    Joint = 1,
}

/// One copy of the shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Where it lives.
    pub node: NodeId,
    /// Its id, never reused within the shard.
    pub replica: ReplicaId,
    /// Its part before the change.
    pub before: Part,
    /// Its part after the change.
    pub after: Part,
    /// Preference for leadership; lower is preferred. Delays, never forbids.
    pub priority: u8,
    /// A learner that becomes a voter once it has caught up.
    pub auto_promote: bool,
}

/// Why bytes are not a [`Configuration`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfError {
    /// The length is not that of the announced members.
    Length,
    /// A format, phase, flag or part that this build does not know.
    Unknown,
    /// No member, or more than [`MEMBERS_MAX`].
    Members,
    /// A half has no voter, or more than [`VOTERS_MAX`].
    Voters,
    /// A node or replica id is 0, twice there, out of order or not below `next_replica`.
    Ids,
    /// The parts of a member do not fit the phase.
    Parts,
    /// Its number is not one above that of the configuration before.
    Epoch,
    /// The note is over [`NOTE_LEN_MAX`], or empty where one is announced.
    Note,
}

impl fmt::Display for ConfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "the length does not fit the members",
            Self::Unknown => "an unknown format, phase, flag or part",
            Self::Members => "no member or too many",
            Self::Voters => "no voter or too many",
            Self::Ids => "an id is zero, repeated or out of order",
            Self::Parts => "a member's part does not fit the phase",
            Self::Epoch => "it does not follow the one before",
            Self::Note => "a note that is too long or missing",
        })
    }
}

impl core::error::Error for ConfError {}

/// The members of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// One half or two.
    pub phase: Phase,
    /// The leader ends a joint configuration by itself.
    pub auto_leave: bool,
    /// +1 with each configuration of the shard.
    pub epoch: u64,
    /// The id that the next new replica gets.
    pub next_replica: ReplicaId,
    /// Number of the placement it follows; 0 without one.
    pub generation: u64,
    /// The members, ascending by replica id.
    pub members: Vec<Member>,
    /// What the engine has to say of the members, at most [`NOTE_LEN_MAX`] bytes.
    pub note: Vec<u8>,
}

impl Configuration {
    /// The founding configuration of a shard with one copy.
    #[must_use]
    pub fn sole_voter(node: NodeId, replica: ReplicaId) -> Self {
        let member = Member {
            node,
            replica,
            before: Part::Voter,
            after: Part::Voter,
            priority: 0,
            auto_promote: false,
        };
        Self {
            phase: Phase::Stable,
            auto_leave: false,
            epoch: 1,
            next_replica: ReplicaId(replica.0.saturating_add(1)),
            generation: 0,
            members: vec![member],
            note: Vec::new(),
        }
    }

    /// Reads and checks a configuration.
    ///
    /// # Errors
    ///
    /// [`ConfError`]: the bytes are no configuration that this build can follow.
    pub fn decode(bytes: &[u8]) -> Result<Self, ConfError> {
        let (head, rest) = bytes.split_at_checked(HEAD_LEN).ok_or(ConfError::Length)?;
        if head[0] != FORMAT && head[0] != FORMAT_NOTE {
            return Err(ConfError::Unknown);
        }
        let phase = match head[1] {
            0 => Phase::Stable,
            1 => Phase::Joint,
            _ => return Err(ConfError::Unknown),
        };
        let count = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if count == 0 || count > MEMBERS_MAX {
            return Err(ConfError::Members);
        }
        let cut = rest.split_at_checked(count * MEMBER_LEN).ok_or(ConfError::Length)?;
        let (rest, note) = (cut.0, note(head[0] == FORMAT_NOTE, cut.1)?);
        let flags = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if flags & !AUTO_LEAVE != 0 {
            return Err(ConfError::Unknown);
        }
        let members: Result<Vec<_>, _> = rest.chunks_exact(MEMBER_LEN).map(member).collect();
        let conf = Self {
            phase,
            auto_leave: flags & AUTO_LEAVE != 0,
            epoch: word(head, 8),
            next_replica: ReplicaId(word(head, 16)),
            generation: word(head, 24),
            members: members?,
            note: note.to_vec(),
        };
        conf.validate()?;
        Ok(conf)
    }

    /// The bytes of a valid configuration.
    ///
    /// # Errors
    ///
    /// [`ConfError`]: it is not valid; [`Configuration::decode`] would refuse the bytes.
    pub fn encode(&self) -> Result<Vec<u8>, ConfError> {
        self.validate()?;
        let count = u16::try_from(self.members.len()).map_err(|_too_many| ConfError::Members)?;
        let mut out = Vec::with_capacity(HEAD_LEN + self.members.len() * MEMBER_LEN);
        out.push(if self.note.is_empty() { FORMAT } else { FORMAT_NOTE });
        out.push(match self.phase {
            Phase::Stable => 0,
            Phase::Joint => 1,
        });
        out.extend_from_slice(&count.to_le_bytes());
        let flags = if self.auto_leave { AUTO_LEAVE } else { 0 };
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.next_replica.0.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        for member in &self.members {
            out.extend_from_slice(&member.node.0.to_le_bytes());
            out.extend_from_slice(&member.replica.0.to_le_bytes());
            out.push(byte_of(member.before));
            out.push(byte_of(member.after));
            out.push(member.priority);
            out.push(u8::from(member.auto_promote));
            out.extend_from_slice(&[0; 4]);
        }
        if !self.note.is_empty() {
            let len = u32::try_from(self.note.len()).map_err(|_too_long| ConfError::Note)?;
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(&self.note);
        }
        Ok(out)
    }

    /// Checks every rule of the format.
    ///
    /// # Errors
    ///
    /// [`ConfError`]: the first rule that is broken.
    pub fn validate(&self) -> Result<(), ConfError> {
        if self.members.is_empty() || self.members.len() > MEMBERS_MAX {
            return Err(ConfError::Members);
        }
        let stable = self.phase == Phase::Stable;
        if stable && self.auto_leave {
            return Err(ConfError::Parts);
        }
        if self.note.len() > NOTE_LEN_MAX {
            return Err(ConfError::Note);
        }
        let mut previous = ReplicaId(0);
        for (nth, member) in self.members.iter().enumerate() {
            let known = member.replica > previous && member.replica < self.next_replica;
            let twice = self.members[..nth].iter().any(|other| other.node == member.node);
            if !known || twice || member.node == NodeId(0) {
                return Err(ConfError::Ids);
            }
            previous = member.replica;
            let nowhere = member.before == Part::Absent && member.after == Part::Absent;
            let moves = stable && member.before != member.after;
            let promotes = member.auto_promote && member.after != Part::Learner;
            if nowhere || moves || promotes {
                return Err(ConfError::Parts);
            }
        }
        let before = self.members.iter().filter(|member| member.before == Part::Voter).count();
        let after = self.members.iter().filter(|member| member.after == Part::Voter).count();
        if before == 0 || after == 0 || before > VOTERS_MAX || after > VOTERS_MAX {
            return Err(ConfError::Voters);
        }
        Ok(())
    }

    /// The member with this id.
    pub fn member(&self, replica: ReplicaId) -> Option<&Member> {
        self.members.iter().find(|member| member.replica == replica)
    }

    /// Whether `replica` is a voter in either half.
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.member(replica)
            .is_some_and(|member| member.before == Part::Voter || member.after == Part::Voter)
    }
}

/// What stands after the members: a note if the format says so, else nothing.
fn note(is_noted: bool, bytes: &[u8]) -> Result<&[u8], ConfError> {
    if !is_noted {
        return if bytes.is_empty() { Ok(bytes) } else { Err(ConfError::Length) };
    }
    let (len, note) = bytes.split_at_checked(NOTE_HEAD_LEN).ok_or(ConfError::Length)?;
    let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]);
    if usize::try_from(len) != Ok(note.len()) {
        Err(ConfError::Length)
    } else if note.is_empty() {
        Err(ConfError::Note)
    } else {
        Ok(note)
    }
}

fn member(bytes: &[u8]) -> Result<Member, ConfError> {
    let (Some(before), Some(after)) = (Part::from_byte(bytes[16]), Part::from_byte(bytes[17]))
    else {
        return Err(ConfError::Unknown);
    };
    if bytes[19] & !AUTO_PROMOTE != 0 || bytes[20..] != [0; 4] {
        return Err(ConfError::Unknown);
    }
    Ok(Member {
        node: NodeId(word(bytes, 0)),
        replica: ReplicaId(word(bytes, 8)),
        before,
        after,
        priority: bytes[18],
        auto_promote: bytes[19] & AUTO_PROMOTE != 0,
    })
}

fn byte_of(part: Part) -> u8 {
    match part {
        Part::Absent => 0,
        Part::Voter => 1,
        Part::Learner => 2,
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint() -> Configuration {
        let member = |id: u64, before, after| Member {
            node: NodeId(id * 10),
            replica: ReplicaId(id),
            before,
            after,
            priority: 3,
            auto_promote: after == Part::Learner,
        };
        Configuration {
            phase: Phase::Joint,
            auto_leave: true,
            epoch: 9,
            next_replica: ReplicaId(8),
            generation: 4,
            members: vec![
                member(1, Part::Voter, Part::Voter),
                member(2, Part::Voter, Part::Absent),
                member(5, Part::Absent, Part::Voter),
                member(7, Part::Absent, Part::Learner),
            ],
            note: Vec::new(),
        }
    }

    #[test]
    fn a_configuration_reads_back_as_it_was_written() {
        for conf in [joint(), Configuration::sole_voter(NodeId(1), ReplicaId(1))] {
            let bytes = conf.encode().unwrap();
            assert_eq!(bytes.len(), HEAD_LEN + conf.members.len() * MEMBER_LEN);
            assert_eq!(Configuration::decode(&bytes), Ok(conf));
        }
    }

    #[test]
    fn every_cut_and_every_longer_one_is_refused() {
        let mut bytes = joint().encode().unwrap();
        for cut in 0..bytes.len() {
            assert!(Configuration::decode(&bytes[..cut]).is_err(), "{cut} bytes");
        }
        bytes.push(0);
        assert_eq!(Configuration::decode(&bytes), Err(ConfError::Length));
    }

    #[test]
    fn a_flipped_bit_is_refused_or_gives_another_valid_configuration() {
        let bytes = joint().encode().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(conf) = Configuration::decode(&bad) {
                assert_ne!(conf, joint());
                assert_eq!(conf.encode().as_deref(), Ok(&bad[..]), "bit {bit}: one encoding each");
            }
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Configuration), want: ConfError) {
        let mut conf = joint();
        change(&mut conf);
        assert_eq!(conf.validate(), Err(want));
        assert_eq!(conf.encode(), Err(want));
    }

    #[test]
    fn each_rule_of_the_format_is_checked() {
        check(|c| c.members.clear(), ConfError::Members);
        check(|c| c.phase = Phase::Stable, ConfError::Parts);
        check(|c| c.next_replica = ReplicaId(7), ConfError::Ids);
        check(|c| c.members.swap(0, 1), ConfError::Ids);
        check(|c| c.members[1].node = NodeId(10), ConfError::Ids);
        check(|c| c.members[1].node = NodeId(0), ConfError::Ids);
        check(|c| c.members[0].replica = ReplicaId(0), ConfError::Ids);
        check(|c| c.members[3].after = Part::Absent, ConfError::Parts);
        check(|c| c.members[0].auto_promote = true, ConfError::Parts);
        check(|c| c.members.retain(|m| m.after != Part::Voter), ConfError::Voters);
    }

    #[test]
    fn a_note_goes_along_and_is_bounded() {
        let mut conf = joint();
        conf.note = b"node 10 is at ten".to_vec();
        let bytes = conf.encode().unwrap();
        assert_eq!(bytes[0], FORMAT_NOTE);
        assert_eq!(Configuration::decode(&bytes), Ok(conf.clone()));
        for len in 0..bytes.len() {
            assert!(Configuration::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        let mut empty = joint().encode().unwrap();
        empty[0] = FORMAT_NOTE;
        assert_eq!(Configuration::decode(&empty), Err(ConfError::Length));
        empty.extend_from_slice(&[0; NOTE_HEAD_LEN]);
        assert_eq!(Configuration::decode(&empty), Err(ConfError::Note));
        conf.note = vec![0; NOTE_LEN_MAX + 1];
        assert_eq!(conf.encode(), Err(ConfError::Note));
    }

    #[test]
    fn a_witness_and_an_eighth_voter_are_refused() {
        let mut bytes = joint().encode().unwrap();
        bytes[HEAD_LEN + 16] = 3;
        assert_eq!(Configuration::decode(&bytes), Err(ConfError::Unknown));
        let mut conf = Configuration::sole_voter(NodeId(1), ReplicaId(1));
        for id in 2..=8 {
            conf.members.push(Member {
                node: NodeId(id),
                replica: ReplicaId(id),
                ..conf.members[0]
            });
        }
        conf.next_replica = ReplicaId(9);
        assert_eq!(conf.validate(), Err(ConfError::Voters));
        conf.members.pop();
        assert_eq!(conf.validate(), Ok(()));
    }
}
