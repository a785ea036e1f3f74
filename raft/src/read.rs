//! Linearizable reads. A read gets the commit index of the pass it came in; a quorum confirms
//! after that that this replica still leads; then it waits until that index is applied. Before an
//! entry of the leader's own term is committed, it waits.
//!
//! One counter per shard: each pass with new reads stamps them all, and a confirmation of a stamp
//! confirms those before it.

use crate::{
    BootTime, Budget, Damage, LogIndex, Message, Origin, Outbox, ProposeError, RaftCore, ReadError,
    ReadReady, ReadRejected, ReplicaId, Role, Send, Slot, Verdict, What, Why,
    chain::Chain,
    replica::{INSTALLING, NO_LEASE, NO_QUORUM, READS, WaitingRead},
    step::NUMBER_MAX,
};

/// How a read is made sure to see every write that was answered before it came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// A quorum confirms that this replica still leads.
    #[default]
    ReadIndex,
    /// By the leader's lease; without one, as `ReadIndex`. A sole voter needs neither.
    Lease,
    /// As `ReadIndex`, and a replica that does not lead asks the leader for the index.
    Follower,
}

impl RaftCore {
    /// Queues a read for the next [`RaftCore::flush_pass`]. O(1).
    ///
    /// # Errors
    ///
    /// [`ReadError`]: nothing changed.
    pub fn read(&mut self, slot: Slot, mode: ReadMode, token: u64) -> Result<(), ReadError> {
        let asks = mode == ReadMode::Follower && self.may_ask(slot);
        if !self.serves(slot) && !asks {
            self.touch_leaderless(slot);
            return Err(read_error(self.why_not(slot)));
        }
        if self.reads_full() {
            return Err(ReadError::Busy(Budget::Reads));
        }
        let (index, peer) = (LogIndex(0), ReplicaId(0));
        let lease = mode == ReadMode::Lease;
        let read = WaitingRead { token, index, stamp: 0, peer, lease };
        self.waiting_reads.push(&mut self.replicas[slot].reads, read);
        self.touch(slot);
        Ok(())
    }

    fn reads_full(&self) -> bool {
        let used = u32::try_from(self.waiting_reads.used()).unwrap_or(u32::MAX);
        used >= self.config.reads_max
    }

    /// Whether a follower may ask its leader.
    fn may_ask(&self, slot: Slot) -> bool {
        self.is_open(slot)
            && self.replicas[slot].role == Role::Follower
            && self.replicas[slot].damage == Damage::Normal
            && self.stream_is_good(slot)
            && self.replicas[slot].leader.0 != 0
    }

    /// The index of a read that may be served right now; none: queue it with [`RaftCore::read`].
    ///
    /// It is there when this replica is the sole voter, or `mode` allows a lease and it has one,
    /// leads with a committed entry of its own term, and everything committed is applied.
    ///
    /// `now` is asked for a lease only: read the clock there, for between the begin of a pass and a
    /// read this process may have stood still.
    pub fn read_now(
        &self,
        slot: Slot,
        mode: ReadMode,
        now: impl FnOnce() -> BootTime,
    ) -> Option<LogIndex> {
        let it = self.replicas.get(slot)?;
        let commit = it.commit;
        let ready = self.serves(slot) && commit >= it.term_start && it.applied >= commit;
        let alone = ready && self.is_sole(slot);
        let leased = || ready && mode == ReadMode::Lease && self.has_lease(slot, now());
        (alone || leased()).then_some(commit)
    }

    /// Whether a leader may answer a read by itself at `now`. A pause voids leases from when it is
    /// seen on; the next pass is what notes it.
    fn has_lease(&self, slot: Slot, now: BootTime) -> bool {
        let now = now.max(self.now);
        self.config.lease_reads
            && self.replicas[slot].flags & NO_LEASE == 0
            && now <= self.passed_at.after(self.config.times.pause)
            && self.quorum(slot, |place| self.lease_supports(slot, place, now))
    }

    /// The state machine has applied everything handed out up to `index`.
    #[inline]
    pub fn handle_applied(&mut self, slot: Slot, index: LogIndex) {
        if !self.is_open(slot) {
            return;
        }
        let it = &mut self.replicas[slot];
        let installs = it.flags & INSTALLING != 0 && index >= it.floor;
        if index > it.handed || (index < it.applied && !installs) {
            self.broken(slot, crate::Rule::Applied);
            return;
        }
        if installs {
            it.flags &= !INSTALLING;
        }
        it.applied = index;
        if !self.replicas[slot].stamped.is_empty() {
            self.touch(slot);
        }
    }

    /// Gives the reads waiting their stamp and index; true: it is a new stamp to confirm. At a
    /// follower, asks the leader for the index.
    #[inline]
    pub(crate) fn stamp_reads(&mut self, slot: Slot, out: &mut Outbox) -> bool {
        if self.replicas[slot].reads.is_empty() {
            return false;
        }
        self.stamp_waiting(slot, out)
    }

    fn stamp_waiting(&mut self, slot: Slot, out: &mut Outbox) -> bool {
        if self.replicas[slot].role != Role::Leader {
            self.ask_leader(slot, out);
            return false;
        }
        let it = &self.replicas[slot];
        let (commit, stamp) = (it.commit, it.read_seq + 1);
        if commit < it.term_start {
            return false;
        }
        let leased = self.has_lease(slot, self.now);
        let mut probes = false;
        let mut reads = core::mem::take(&mut self.replicas[slot].reads);
        while let Some(read) = self.waiting_reads.pop(&mut reads) {
            let stamped = WaitingRead { index: commit, stamp, ..read };
            let it = &mut self.replicas[slot];
            if read.lease && leased && read.peer.0 == 0 {
                self.counters.lease_reads += 1;
                self.waiting_reads.push(&mut it.stamped, stamped);
            } else {
                probes = true;
                self.waiting_reads.push(&mut it.probing, stamped);
            }
        }
        if probes {
            let it = &mut self.replicas[slot];
            it.read_seq = stamp;
            it.flags |= READS;
            self.counters.read_rounds += 1;
        }
        probes
    }

    fn ask_leader(&mut self, slot: Slot, out: &mut Outbox) {
        let leader = self.replicas[slot].leader;
        let Some(place) = self.conf(slot).place(leader) else { return };
        let it = &mut self.replicas[slot];
        it.read_seq += 1;
        let request = it.read_seq;
        let mut count = 0;
        while let Some(read) = self.waiting_reads.pop(&mut it.reads) {
            count += 1;
            self.waiting_reads.push(&mut it.probing, WaitingRead { stamp: request, ..read });
        }
        self.tell(slot, place, What::ReadIndex { request, count }, out);
    }

    /// Reads under way to a leader wait for the next one, or are asked for again.
    pub(crate) fn requeue_reads(&mut self, slot: Slot) {
        let it = &mut self.replicas[slot];
        if it.probing.is_empty() && it.reads.is_empty() {
            return;
        }
        let mut probing = core::mem::take(&mut it.probing);
        while let Some(read) = self.waiting_reads.pop(&mut probing) {
            self.waiting_reads.push(&mut self.replicas[slot].reads, read);
        }
        self.touch(slot);
    }

    /// A follower whose question to the leader has no answer yet repeats it, under its number: an
    /// answer on its way still counts.
    pub(crate) fn repeat_question(&self, slot: Slot, out: &mut Outbox) {
        let it = &self.replicas[slot];
        if it.probing.is_empty() {
            return;
        }
        if let Some(place) = self.conf(slot).place(it.leader) {
            let what = What::ReadIndex { request: it.read_seq, count: 1 };
            self.tell(slot, place, what, out);
        }
    }

    /// What a follower says to a leader that asks whether it still leads: at once, since it
    /// promises nothing about the disk.
    pub(crate) fn read_answer(&self, slot: Slot, from: Origin, m: &Message, read_seq: u64) -> Send {
        let no_quorum = self.is_retired(slot);
        self.answer(slot, from, m, What::ReadProbeResp { read_seq, no_quorum })
    }

    pub(crate) fn on_read_probe_resp(
        &mut self,
        (slot, from): (Slot, Origin),
        m: &Message,
        read_seq: u64,
        no_quorum: bool,
    ) -> Verdict {
        let it = &self.replicas[slot];
        if it.role != Role::Leader || read_seq > it.read_seq {
            return Verdict::False(Why::Unasked);
        }
        let Some(place) = self.conf(slot).place(m.from) else {
            return Verdict::False(Why::Sender);
        };
        let progress = self.peer_at(slot, place).expect("the sender is another member");
        self.on_answer((slot, place, progress), from, m);
        let peer = self.peer_mut(slot, place).expect("the sender is another member");
        peer.flags = if no_quorum { peer.flags | NO_QUORUM } else { peer.flags & !NO_QUORUM };
        peer.acked_read = peer.acked_read.max(read_seq);
        self.touch(slot);
        Verdict::Taken
    }

    /// A follower asks for the index that its reads have to see.
    pub(crate) fn on_read_index(
        &mut self,
        (slot, from): (Slot, Origin),
        m: &Message,
        request: u64,
        out: &mut Outbox,
    ) -> Verdict {
        let known = self.conf(slot).place(m.from).is_some();
        if !self.serves(slot) || !known || self.reads_full() {
            let it = &self.replicas[slot];
            let leader = if it.leader == it.replica { ReplicaId(0) } else { it.leader };
            let what = What::ReadIndexResp { request, index: Err(leader) };
            out.send.push(self.answer(slot, from, m, what));
            return Verdict::Taken;
        }
        let (token, index) = (request, LogIndex(0));
        let read = WaitingRead { token, index, stamp: 0, peer: m.from, lease: false };
        self.waiting_reads.push(&mut self.replicas[slot].reads, read);
        self.touch(slot);
        Verdict::Taken
    }

    pub(crate) fn on_read_index_resp(
        &mut self,
        slot: Slot,
        m: &Message,
        (request, index): (u64, Result<LogIndex, ReplicaId>),
        out: &mut Outbox,
    ) -> Verdict {
        let it = &self.replicas[slot];
        let asked = it.role == Role::Follower && it.leader == m.from;
        if !asked || request > it.read_seq {
            return Verdict::False(Why::Unasked);
        }
        let why = read_error(self.why_not(slot));
        let it = &mut self.replicas[slot];
        while let Some(read) = self.waiting_reads.front(it.probing) {
            if read.stamp > request {
                break;
            }
            self.waiting_reads.pop(&mut it.probing);
            match index {
                Ok(index) => {
                    let stamped = WaitingRead { index, ..read };
                    self.waiting_reads.push(&mut it.stamped, stamped);
                },
                Err(_) => out.reads_rejected.push(ReadRejected { slot, token: read.token, why }),
            }
        }
        self.touch(slot);
        Verdict::Taken
    }

    /// Hands out the reads that are confirmed and whose index is applied.
    #[inline]
    pub(crate) fn flush_reads(&mut self, slot: Slot, out: &mut Outbox) {
        if self.replicas[slot].flags & READS != 0 {
            self.confirm_reads(slot, out);
        }
        let it = &mut self.replicas[slot];
        if it.flags & INSTALLING != 0 {
            return;
        }
        while let Some(read) = self.waiting_reads.front(it.stamped) {
            if read.index > it.applied {
                break;
            }
            self.waiting_reads.pop(&mut it.stamped);
            self.counters.reads += 1;
            out.reads.push(ReadReady { slot, token: read.token, index: read.index });
        }
    }

    /// Ends the wait of reads whose stamp a quorum of each half has confirmed.
    fn confirm_reads(&mut self, slot: Slot, out: &mut Outbox) {
        let own = NUMBER_MAX;
        let confirmed = self.quorum_value(slot, own, |peer| peer.acked_read);
        loop {
            let it = &mut self.replicas[slot];
            let Some(read) = self.waiting_reads.front(it.probing) else { break };
            if read.stamp > confirmed {
                return;
            }
            self.waiting_reads.pop(&mut it.probing);
            if read.peer.0 == 0 {
                self.waiting_reads.push(&mut it.stamped, read);
            } else if let Some(place) = self.conf(slot).place(read.peer) {
                let index = Ok(read.index);
                let what = What::ReadIndexResp { request: read.token, index };
                self.tell(slot, place, what, out);
            }
        }
        self.replicas[slot].flags &= !READS;
    }

    /// Turns every waiting read away.
    pub(crate) fn reject_reads(&mut self, slot: Slot, out: &mut Outbox) {
        let why = read_error(self.why_not(slot));
        let it = &mut self.replicas[slot];
        it.flags &= !READS;
        let chains: [Chain; 3] = [
            core::mem::take(&mut it.stamped),
            core::mem::take(&mut it.probing),
            core::mem::take(&mut it.reads),
        ];
        for mut chain in chains {
            while let Some(read) = self.waiting_reads.pop(&mut chain) {
                if read.peer.0 == 0 {
                    out.reads_rejected.push(ReadRejected { slot, token: read.token, why });
                } else if let Some(place) = self.conf(slot).place(read.peer) {
                    let index = Err(ReplicaId(0));
                    let what = What::ReadIndexResp { request: read.token, index };
                    self.tell(slot, place, what, out);
                }
            }
        }
    }
}

pub(crate) fn read_error(why: ProposeError) -> ReadError {
    match why {
        ProposeError::NotLeader { leader } => ReadError::NotLeader { leader },
        ProposeError::Busy(budget) => ReadError::Busy(budget),
        ProposeError::Damaged => ReadError::Damaged,
        ProposeError::StreamFailed => ReadError::StreamFailed,
        ProposeError::Closed => ReadError::Closed,
        ProposeError::NoLeader | ProposeError::TooLarge => ReadError::NoLeader,
    }
}
