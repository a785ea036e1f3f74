//! What is committed, and handing it out.

use crate::{Apply, Damage, LogIndex, Outbox, RaftCore, Role, Slot, replica::BROKEN};

impl RaftCore {
    /// The highest index that a quorum of each half of the active configuration has durably (I6).
    #[inline]
    fn quorum_match(&self, slot: Slot) -> LogIndex {
        let own = self.replicas[slot].durable.0;
        LogIndex(self.quorum_value(slot, own, |peer| peer.matched.0))
    }

    /// Moves a leader's commit index: only to an entry of its own term (I6).
    #[inline]
    pub(crate) fn commit(&mut self, slot: Slot) {
        if self.replicas[slot].role != Role::Leader {
            return;
        }
        let matched = self.quorum_match(slot);
        let it = &mut self.replicas[slot];
        if matched >= it.term_start && matched > it.commit {
            assert!(matched <= it.last, "only what is in the log is durable (I1)");
            it.commit = matched;
            self.counters.commits += 1;
            self.discharge(slot, matched);
            self.prune_confs(slot);
        }
    }

    /// Takes what is committed off the budget of a shard.
    #[inline]
    fn discharge(&mut self, slot: Slot, commit: LogIndex) {
        let it = &mut self.replicas[slot];
        while let Some((last, bytes)) = self.charges.front(it.charges) {
            if last > commit {
                break;
            }
            self.charges.pop(&mut it.charges);
            it.uncommitted = it.uncommitted.saturating_sub(bytes);
        }
    }

    /// Hands out what is committed, each index once (I13).
    #[inline]
    pub(crate) fn hand_out(&mut self, slot: Slot, out: &mut Outbox) {
        let it = &mut self.replicas[slot];
        let whole = matches!(it.damage, Damage::Normal | Damage::Retired);
        if whole && it.flags & BROKEN == 0 && it.commit > it.handed {
            let (from, to) = (it.handed.next(), it.commit);
            out.apply.push(Apply::Range { slot, from, to });
            it.handed = to;
        }
    }
}
