//! Writes of one replica that are not durable yet: which index each LSN covers.
//!
//! A replica has one item for each LSN it waits for, so their number is bounded by the frames that
//! the log has staged; an idle replica has none.

use crate::{
    LogIndex, Lsn,
    chain::{Chain, Chains},
};

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) lsn: Lsn,
    /// Last index of the replica's log as of this write.
    pub(crate) last: LogIndex,
}

impl Chains<Write> {
    /// Notes a write; false: its LSN was noted before, and covers it as well.
    pub(crate) fn note(&mut self, pending: &mut Chain, write: Write) -> bool {
        if let Some(newest) = self.back_mut(*pending)
            && newest.lsn == write.lsn
        {
            newest.last = write.last;
            return false;
        }
        self.push(pending, write);
        true
    }

    /// The log was cut above `last`: no write covers more any longer.
    pub(crate) fn truncate(&mut self, pending: Chain, last: LogIndex) {
        self.each(pending, |write| write.last = write.last.min(last));
    }

    /// Takes the oldest write if it is durable at `lsn`.
    pub(crate) fn written(&mut self, pending: &mut Chain, lsn: Lsn) -> Option<Write> {
        let oldest = self.front(*pending)?;
        if oldest.lsn > lsn {
            return None;
        }
        self.pop(pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_come_back_in_order_and_only_when_durable() {
        let write = |lsn, last| Write { lsn: Lsn(lsn), last: LogIndex(last) };
        let (mut writes, mut pending) = (Chains::new(), Chain::default());
        assert!(writes.note(&mut pending, write(5, 1)));
        assert!(!writes.note(&mut pending, write(5, 2)), "the same write");
        assert!(writes.note(&mut pending, write(7, 3)));
        assert_eq!(writes.written(&mut pending, Lsn(4)), None);
        assert_eq!(writes.written(&mut pending, Lsn(6)), Some(write(5, 2)));
        assert_eq!(writes.written(&mut pending, Lsn(6)), None);
        assert_eq!(writes.written(&mut pending, Lsn(9)), Some(write(7, 3)));
        assert!(pending.is_empty());
        writes.note(&mut pending, write(9, 4));
        writes.forget(&mut pending);
        assert_eq!(writes.used(), 0);
    }
}
