//! Why a connection between two nodes is refused.

use core::fmt;

/// Why one side refuses the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The two belong to different clusters.
    WrongCluster,
    /// Another node answers here than the one that was meant.
    WrongNode,
    /// The node was known with another storage.
    StoreReplaced,
    /// A node reached itself.
    SelfConnection,
    /// No version of the wire that both speak.
    VersionMismatch,
    /// One side cannot do without a feature that the other lacks.
    FeatureMissing,
    /// Another connection between the two serves already.
    Duplicate,
    /// A limit was reached, or the window is shorter than two frames.
    Limit,
    /// The node is no member.
    NotMember,
    /// The node stops.
    Draining,
    /// The hello does not repeat the class and core that the connection was opened for.
    WrongLane,
    /// The certificate of the connection is not that of the node which the hello names.
    WrongIdentity,
    /// The node that says so runs on an old copy of its storage.
    OldCopy,
    /// The node was met in a life that its hello does not claim: `known` of the answer.
    Recall,
    /// The logs of the two were founded with different bounds of an entry.
    FrameCap,
}

impl Refusal {
    const ALL: [Self; 15] = [
        Self::WrongCluster,
        Self::WrongNode,
        Self::StoreReplaced,
        Self::SelfConnection,
        Self::VersionMismatch,
        Self::FeatureMissing,
        Self::Duplicate,
        Self::Limit,
        Self::NotMember,
        Self::Draining,
        Self::WrongLane,
        Self::WrongIdentity,
        Self::OldCopy,
        Self::Recall,
        Self::FrameCap,
    ];

    /// Its number on the wire.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::WrongCluster => 1,
            Self::WrongNode => 2,
            Self::StoreReplaced => 3,
            Self::SelfConnection => 4,
            Self::VersionMismatch => 5,
            Self::FeatureMissing => 6,
            Self::Duplicate => 7,
            Self::Limit => 8,
            Self::NotMember => 9,
            Self::Draining => 10,
            Self::WrongLane => 11,
            Self::WrongIdentity => 12,
            Self::OldCopy => 13,
            Self::Recall => 14,
            Self::FrameCap => 15,
        }
    }

    /// The refusal of a number; none: a later build's.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.code() == code)
    }

    /// Whether it stays until an operator changes something: dial again every 30 s only.
    #[must_use]
    pub fn is_lasting(self) -> bool {
        match self {
            Self::WrongCluster
            | Self::WrongNode
            | Self::StoreReplaced
            | Self::SelfConnection
            | Self::VersionMismatch
            | Self::FeatureMissing
            | Self::WrongIdentity
            | Self::OldCopy
            | Self::FrameCap => true,
            Self::Duplicate
            | Self::Limit
            | Self::NotMember
            | Self::Draining
            | Self::WrongLane
            | Self::Recall => false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongCluster => {
                "the peer belongs to another cluster; correct its address in cluster.peers"
            },
            Self::WrongNode => {
                "another node answers at this address; correct ids and addresses in cluster.peers"
            },
            Self::StoreReplaced => {
                "the storage of the node was replaced; remove the node and add it under a new id"
            },
            Self::SelfConnection => {
                "the address of the peer leads to this node itself; correct it in cluster.peers"
            },
            Self::VersionMismatch => {
                "the two builds have no common version of the wire; upgrade the older one"
            },
            Self::FeatureMissing => {
                "one build needs a feature that the other lacks; upgrade the older one"
            },
            Self::Duplicate => "the two are connected already; nothing is to be done",
            Self::Limit => {
                "a limit on connections, memory or window was reached; it is tried again"
            },
            Self::NotMember => "the node is no member of the cluster yet; add it, or wait",
            Self::Draining => "the peer stops; it is tried again once it is back",
            Self::WrongLane => {
                "the hello is for another class or core than its connection; upgrade the older \
                 build if it stays"
            },
            Self::WrongIdentity => {
                "the certificate is of another node; it has to name node-<id>.<cluster name>"
            },
            Self::OldCopy => {
                "the directory of the node that answers is an old copy; remove that node and add \
                 it under a new id with an empty directory"
            },
            Self::Recall => {
                "the node was met in a life that it does not name; it dials again if it remembers \
                 that life, and runs on an old copy of its directory if not"
            },
            Self::FrameCap => {
                "the two nodes were founded with different values of wal.frame_cap; give the one \
                 that differs from the other members their value and an empty directory, under a \
                 new id if it was a member"
            },
        })
    }
}

impl core::error::Error for Refusal {}
