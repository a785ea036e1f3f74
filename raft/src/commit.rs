//! What is committed, and handing it out.

use crate::{Apply, Damage, LogIndex, Outbox, RaftCore, Role, Slot, core::at, replica::BROKEN};

impl RaftCore {
    /// The highest index that a quorum of each half of the active configuration has durably (I6).
    #[inline]
    fn quorum_match(&self, slot: Slot) -> LogIndex {
        let own = self.hot[at(slot)].durable.0;
        LogIndex(self.quorum_value(slot, own, |peer| peer.matched.0))
    }

    /// Moves a leader's commit index: only to an entry of its own term (I6).
    #[inline]
    pub(crate) fn commit(&mut self, slot: Slot) {
        if self.hot[at(slot)].role != Role::Leader {
            return;
        }
        let matched = self.quorum_match(slot);
        let own_term = matched >= self.warm[at(slot)].term_start;
        let hot = &mut self.hot[at(slot)];
        if own_term && matched > hot.commit {
            assert!(matched <= hot.last, "only what is in the log is durable (I1)");
            hot.commit = matched;
            self.counters.commits += 1;
            self.discharge(slot, matched);
            self.prune_confs(slot);
        }
    }

    /// Takes what is committed off the budget of a shard.
    #[inline]
    fn discharge(&mut self, slot: Slot, commit: LogIndex) {
        let charges = &mut self.cold[at(slot)].charges;
        while let Some((last, bytes)) = self.charges.front(*charges) {
            if last > commit {
                break;
            }
            self.charges.pop(charges);
            let warm = &mut self.warm[at(slot)];
            warm.uncommitted = warm.uncommitted.saturating_sub(bytes);
        }
    }

    /// Hands out what is committed, each index once (I13).
    #[inline]
    pub(crate) fn hand_out(&mut self, slot: Slot, out: &mut Outbox) {
        let (hot, warm) = (&self.hot[at(slot)], &mut self.warm[at(slot)]);
        let whole = matches!(hot.damage, Damage::Normal | Damage::Retired);
        if whole && hot.flags & BROKEN == 0 && hot.commit > warm.handed {
            let (from, to) = (warm.handed.next(), hot.commit);
            out.apply.push(Apply::Range { slot, from, to });
            warm.handed = to;
        }
    }
}
