//! What both sides hold against the other's hello. Pure: what they agree on, or why they do not.

use bowline_raft::NodeId;

use super::{Hello, HelloKind, Refusal};
use crate::HEADER_LEN;

/// What two sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Version of the wire.
    pub version: u16,
    /// Features that both have.
    pub features: u64,
    /// Bytes of the largest frame, either way.
    pub frame_max: u32,
    /// Bytes that may be sent before the other side releases any.
    pub window: u32,
}

/// Holds the other side's hello against the own one. Both sides ask it, with what each knows: the
/// dialer's `own` is the hello that it sent; the acceptor's is the welcome that it would send, to
/// the node and core that called, from the core that was wanted. `known_store` is the storage that
/// the other node was first seen with. O(1).
///
/// # Errors
///
/// [`Refusal`]: the first reason found, the most fundamental first. A refusal that the other side
/// sent is given back.
pub fn judge(own: &Hello, theirs: &Hello, known_store: Option<u128>) -> Result<Agreed, Refusal> {
    if let HelloKind::Refuse(refusal) = theirs.kind {
        return Err(refusal);
    }
    check_identity(own, theirs, known_store)?;
    let version = own.versions.common(theirs.versions).ok_or(Refusal::VersionMismatch)?;
    if own.required & !theirs.features != 0 || theirs.required & !own.features != 0 {
        return Err(Refusal::FeatureMissing);
    }
    check_lane(own, theirs)?;
    Ok(Agreed {
        version,
        features: own.features & theirs.features,
        frame_max: own.frame_max,
        window: theirs.window,
    })
}

/// Who they are.
fn check_identity(own: &Hello, theirs: &Hello, known_store: Option<u128>) -> Result<(), Refusal> {
    if theirs.cluster != own.cluster {
        return Err(Refusal::WrongCluster);
    }
    if theirs.nonce == own.nonce || theirs.store == own.store {
        return Err(Refusal::SelfConnection);
    }
    if theirs.from == own.from {
        // Our own id with a storage that is not ours.
        return Err(Refusal::StoreReplaced);
    }
    let named = theirs.from != NodeId(0) && theirs.record.node == theirs.from;
    if theirs.to != own.from || theirs.from != own.to || !named {
        return Err(Refusal::WrongNode);
    }
    if known_store.is_some_and(|known| known != theirs.store) {
        return Err(Refusal::StoreReplaced);
    }
    Ok(())
}

/// What the connection is for, and whether frames fit through it: an entry that one side's log
/// takes and the other's does not would be sent for ever.
fn check_lane(own: &Hello, theirs: &Hello) -> Result<(), Refusal> {
    let ours = theirs.want_core.checked_rem(own.cores) == Some(own.from_core);
    let its = own.want_core.checked_rem(theirs.cores) == Some(theirs.from_core);
    if theirs.class != own.class || !ours || !its {
        return Err(Refusal::WrongLane);
    }
    let least = u64::from(theirs.frame_max) * 2;
    if crate::frame::index(theirs.frame_max) < HEADER_LEN || u64::from(theirs.window) < least {
        return Err(Refusal::Limit);
    }
    if theirs.frame_max != own.frame_max {
        return Err(Refusal::FrameCap);
    }
    Ok(())
}
