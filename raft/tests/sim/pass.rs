//! A pass of a core's loop, in the one order there is, and what becomes of what it put out.

use std::rc::Rc;

use bowline_raft::{
    Admin, Batch, BootTime, Damage, LaneEvent, LaneWhat, LogIndex, Message, Origin, Proposal,
    Received, ReplicaId, ShardId, SnapshotEvent, Step, StreamNo, Verdict, What, batch::entry_len,
};

use super::{
    disk::shard_place,
    image::Manifest,
    node::{Input, LaneInput, Parcel, SimCore, Verb},
    plan::{Class, MICRO, MILLI},
    rng::place,
    world::{Event, Fate, World},
};

/// A core's loop turns at least so often.
const TICK: u64 = 20 * MILLI;

impl World {
    /// One turn of a core's loop.
    pub fn turn(&mut self, node: usize, core: usize) {
        let paused = self.nodes[node].cores[core].paused_until;
        self.nodes[node].cores[core].pass_at = u64::MAX;
        if paused > self.now {
            self.wake_at(node, core, paused);
            return;
        }
        self.cover.passes += 1;
        let local = self.nodes[node].clock.read(self.now);
        let mut inputs = std::mem::take(&mut self.nodes[node].cores[core].inputs);
        let turn = &mut self.nodes[node].cores[core];
        turn.passes += 1;
        turn.raft.begin_pass(BootTime(local), &mut turn.out);
        inputs.sort_by_key(rank);
        self.cover.steps += 2 + inputs.len() as u64;
        for input in inputs {
            self.input(node, core, input);
        }
        self.hand_messages(node, core);
        let turn = &mut self.nodes[node].cores[core];
        turn.raft.handle_timer(1_024, &mut turn.log, &mut turn.out);
        let stalls = !self.healing && self.plan.classes.has(Class::Pause);
        if stalls && self.rng.fault.one_in(100) {
            self.stall(node, core);
        } else {
            self.end_turn(node, core);
        }
    }

    /// The loop stands still between what it takes in and what it lets out.
    fn stall(&mut self, node: usize, core: usize) {
        let until = self.now + self.rng.fault.log_uniform(MILLI, 1_200 * MILLI);
        let boot = self.nodes[node].boot;
        self.note("stall", node as u64, core as u64, until);
        let turn = &mut self.nodes[node].cores[core];
        turn.paused_until = until + 1;
        turn.stalled = true;
        self.at(until, Event::EndTurn { node, core, boot });
    }

    /// The last part of a turn: the clock is read again.
    pub fn end_turn(&mut self, node: usize, core: usize) {
        let local = self.nodes[node].clock.read(self.now);
        let turn = &mut self.nodes[node].cores[core];
        turn.stalled = false;
        turn.raft.flush_pass(BootTime(local), &mut turn.log, &mut turn.out);
        self.finish(node, core);
        self.submit(node, core);
        self.schedule(node, core);
    }

    /// When the loop turns next.
    fn schedule(&mut self, node: usize, core: usize) {
        let turn = &self.nodes[node].cores[core];
        if turn.raft.has_work() {
            let delay = 20 * MICRO + self.rng.tie.below(20 * MICRO);
            self.wake_at(node, core, self.now + delay);
        }
        let deadline = self.nodes[node].cores[core].raft.next_deadline();
        if let Some(deadline) = deadline {
            let at = self.nodes[node].clock.when(deadline.0);
            let at = at.max(self.now + 10 * MICRO).min(self.now + TICK);
            self.wake_at(node, core, at);
        }
        self.wake_at(node, core, self.now + TICK);
    }

    fn input(&mut self, node: usize, core: usize, input: Input) {
        let turn = &mut self.nodes[node].cores[core];
        let SimCore { raft, log, out, .. } = turn;
        match input {
            Input::Durable { stream, lsn } => {
                raft.handle_durable(stream, bowline_raft::Lsn(lsn), out);
            },
            Input::Failed { stream } => raft.handle_stream_failed(stream, out),
            Input::Lane { lane, what } => hand_lane(turn, lane, what),
            Input::Fetched { shard, replica, got } => {
                let machine = &turn.machines[shard_place(shard)];
                if let Some(slot) = machine.slot.filter(|_| machine.replica == replica) {
                    raft.handle_fetched(slot, got, log, out);
                }
            },
            Input::Snapshot { shard, to, from, manifest } => {
                self.hand_snapshot(node, (shard, to), from, manifest);
            },
            Input::SnapshotFailed { shard, replica, peer } => {
                let machine = &turn.machines[shard_place(shard)];
                if let Some(slot) = machine.slot.filter(|_| machine.replica == replica) {
                    raft.handle_snapshot(slot, SnapshotEvent::Failed { peer }, log, out);
                }
            },
            Input::Repair { shard, to, from, batches } => {
                self.repair(node, (shard, to), from, &batches);
            },
            Input::Propose { shard, token, count } => self.propose(node, shard, token, count),
            // Nobody waits any longer for what was asked before the replica was closed.
            Input::Read { token, .. } if !self.reads.contains_key(&token) => {},
            Input::Read { shard, mode, token } => {
                let slot = turn.machines[shard_place(shard)].slot;
                let at_once = slot.filter(|_| token % 2 == 0);
                if let Some(index) =
                    at_once.and_then(|slot| raft.read_now(slot, mode, || BootTime(0)))
                {
                    self.read_at_once(node, shard, token, index.0);
                    return;
                }
                let taken = slot.map(|slot| raft.read(slot, mode, token).is_ok());
                let pass = turn.passes;
                if taken == Some(true) {
                    self.reads.entry(token).and_modify(|read| read.pass = pass);
                } else {
                    self.reads.remove(&token);
                }
            },
            Input::Verb { shard, verb } => self.verb(node, shard, verb),
            Input::Applied { shard, replica, index } => {
                let machine = &turn.machines[shard_place(shard)];
                if let Some(slot) = machine.slot.filter(|_| machine.replica == replica) {
                    raft.handle_applied(slot, LogIndex(index));
                }
            },
        }
    }

    fn propose(&mut self, node: usize, shard: ShardId, token: u64, count: u32) {
        let turn = self.nodes[node].core_of_mut(shard);
        let slot = turn.machines[shard_place(shard)].slot;
        let bytes = u32::try_from(entry_len(8)).expect("small") * count;
        let proposal = Proposal { count, bytes, token };
        if slot.is_some_and(|slot| turn.raft.propose(slot, proposal).is_ok()) {
            turn.log.queued[shard_place(shard)].push_back((token, count));
        } else {
            self.fate(token, count, Fate::Rejected);
        }
    }

    /// Notes what became of tokens; what was rejected is never committed, and what was committed
    /// is so once.
    pub fn fate(&mut self, token: u64, count: u32, fate: Fate) {
        for token in token..token + u64::from(count) {
            let at = &mut self.fates[place(token)];
            let once = *at == Fate::Unknown;
            *at = fate;
            if !once {
                self.judge(Err(format!("a proposal has one fate: token {token} is {fate:?} too")));
            }
        }
    }

    fn verb(&mut self, node: usize, shard: ShardId, verb: Verb) {
        let turn = self.nodes[node].core_of_mut(shard);
        let Some(slot) = turn.machines[shard_place(shard)].slot else { return };
        let shrinks = matches!(verb, Verb::Remove(_) | Verb::Swap { .. });
        if shrinks && self.is_damaged(shard) {
            // Fewer voters tolerate less than what was done to these.
            return;
        }
        let turn = self.nodes[node].core_of_mut(shard);
        if matches!(verb, Verb::Healthy) && turn.machines[shard_place(shard)].state_lost {
            return;
        }
        let raft = &mut turn.raft;
        let change = |steps: &[Step], raft: &mut bowline_raft::RaftCore| {
            raft.admin(slot, Admin::Change(steps)).is_ok()
        };
        let taken = match verb {
            Verb::Compact(upto) => {
                raft.admin(slot, Admin::Compact { upto: LogIndex(upto) }).is_ok()
            },
            Verb::Transfer(to) => raft.admin(slot, Admin::Transfer { to }).is_ok(),
            Verb::Healthy => raft.admin(slot, Admin::Damaged(Damage::Normal)).is_ok(),
            Verb::StateRot => raft.admin(slot, Admin::Damaged(Damage::State)).is_ok(),
            Verb::Repair(from, to) => {
                raft.admin(slot, Admin::Repair { from: LogIndex(from), to: LogIndex(to) }).is_ok()
            },
            Verb::Add { node, auto } => {
                let node = bowline_raft::NodeId(node);
                change(&[Step::Add { node, priority: 0, auto_promote: auto }], raft)
            },
            Verb::Promote(replica) => change(&[Step::Promote { replica }], raft),
            Verb::Remove(replica) => change(&[Step::Remove { replica }], raft),
            Verb::Swap { out, promote } => {
                change(&[Step::Promote { replica: promote }, Step::Remove { replica: out }], raft)
            },
        };
        self.tell(|| format!("{verb:?} at node {} shard {shard}: taken {taken}", node + 1));
        match verb {
            Verb::Transfer(_) => self.cover.transfers_asked += u64::from(taken),
            Verb::Compact(_) => self.cover.compactions += u64::from(taken),
            Verb::Add { .. } | Verb::Promote(_) | Verb::Remove(_) | Verb::Swap { .. } => {
                self.cover.conf_changes += u64::from(taken);
            },
            Verb::Healthy | Verb::StateRot | Verb::Repair(..) => {},
        }
    }

    fn hand_snapshot(
        &mut self,
        node: usize,
        to: (ShardId, ReplicaId),
        from: (usize, ReplicaId),
        manifest: Rc<Manifest>,
    ) {
        let (shard, replica) = to;
        let turn = self.nodes[node].core_of_mut(shard);
        let nth = shard_place(shard);
        let machine = &turn.machines[nth];
        let Some(slot) = machine.slot.filter(|_| machine.replica == replica) else { return };
        turn.log.incoming[nth] = Some(Rc::clone(&manifest));
        let ready = SnapshotEvent::Ready {
            index: LogIndex(manifest.index),
            term: manifest.term,
            conf: &manifest.conf,
            from: (from.1, bowline_raft::NodeId(from.0 as u64 + 1)),
        };
        let verdict = turn.raft.handle_snapshot(slot, ready, &mut turn.log, &mut turn.out);
        if verdict == Verdict::NoRoom {
            self.cover.no_room_verdicts += 1;
            let again = Input::Snapshot { shard, to: replica, from, manifest };
            turn.inputs.push(again);
        }
    }

    fn hand_messages(&mut self, node: usize, core: usize) {
        let turn = &mut self.nodes[node].cores[core];
        let mut waiting = std::mem::take(&mut turn.kept);
        let fresh = std::mem::take(&mut turn.messages);
        let (votes, others): (Vec<_>, Vec<_>) = fresh.into_iter().partition(|(_, parcel)| {
            matches!(
                parcel.message.what,
                What::Vote { .. } | What::VoteResp(_) | What::PreVote { .. } | What::PreVoteResp(_)
            )
        });
        for (from, parcel) in votes {
            self.hand(node, core, from, parcel);
        }
        waiting.extend(others);
        for (from, parcel) in waiting {
            let behind = matches!(parcel.message.what, What::Append { .. })
                && self.nodes[node].cores[core]
                    .kept
                    .iter()
                    .any(|(_, kept)| kept.message.shard == parcel.message.shard);
            if behind {
                self.keep_append(node, core, from, parcel);
            } else {
                self.hand(node, core, from, parcel);
            }
        }
    }

    fn hand(&mut self, node: usize, core: usize, from: Origin, parcel: Parcel) {
        self.cover.steps += 1;
        self.cover.messages += 1;
        let rotten: Option<Vec<u8>> = parcel.damaged.then(|| {
            let mut body = parcel.batches[0].body.clone();
            let last = body.len() - 1;
            body[last / 2] ^= 0x10;
            body
        });
        let batches: Vec<Batch<'_>> = parcel
            .batches
            .iter()
            .enumerate()
            .map(|(nth, batch)| {
                let body = rotten.as_deref().filter(|_| nth == 0).unwrap_or(&batch.body);
                Batch { head: batch.head, body }
            })
            .collect();
        let received = Received { message: &parcel.message, batches: &batches };
        let turn = &mut self.nodes[node].cores[core];
        let verdict = turn.raft.handle_message(from, received, &mut turn.log, &mut turn.out);
        if self.trace {
            let m = &parcel.message;
            println!(
                "{:>14} node {} <- {} shard {} term {} {:?}: {verdict:?}",
                self.now / 1_000,
                node + 1,
                from.node,
                m.shard,
                m.term,
                m.what
            );
        }
        match verdict {
            Verdict::NoRoom => {
                self.cover.no_room_verdicts += 1;
                self.keep_append(node, core, from, parcel);
            },
            Verdict::False(_) => self.cover.false_messages += 1,
            Verdict::Taken | Verdict::UnknownShard => {},
        }
    }

    /// An Append waits for the log; what it says of the commit does not.
    fn keep_append(&mut self, node: usize, core: usize, from: Origin, parcel: Parcel) {
        let turn = &mut self.nodes[node].cores[core];
        let shard = parcel.message.shard;
        let kept = turn.kept.iter().map(|(_, kept)| &kept.message).chain([&parcel.message]);
        let told = kept.filter(|message| message.shard == shard).filter_map(commit_of).max();
        turn.raft.handle_kept(from, &parcel.message, told.unwrap_or_default());
        turn.kept.push_back((from, parcel));
    }

    /// Closes the open frames and starts their writes.
    fn submit(&mut self, node: usize, core: usize) {
        for stream in 0..self.plan.streams {
            let turn = &mut self.nodes[node].cores[core];
            let Some(lsn) = turn.log.disk.seal(stream) else { continue };
            let usual = self.plan.write;
            let slow = !self.healing && self.plan.classes.has(Class::SlowDisk);
            let own = usual / 2 + self.rng.disk.below(usual);
            let late = slow && self.rng.disk.one_in(12);
            let more = if late { self.rng.disk.log_uniform(MILLI, 900 * MILLI) } else { 0 };
            let boot = self.nodes[node].boot;
            let event = Event::Written { node, boot, core, stream, lsn };
            self.at(self.now + own + more, event);
        }
    }

    pub fn handle_written(&mut self, node: usize, core: usize, stream: usize, lsn: u64) {
        let boot = self.nodes[node].boot;
        let turn = &mut self.nodes[node].cores[core];
        if turn.log.disk.streams[stream].stuck {
            let event = Event::Written { node, boot, core, stream, lsn };
            self.at(self.now + 30 * MILLI, event);
            return;
        }
        if let Some(lsn) = turn.log.disk.complete(stream, lsn) {
            let stream = StreamNo(turn.log.first_stream + u16::try_from(stream).expect("few"));
            turn.inputs.push(Input::Durable { stream, lsn });
            self.wake(node, core);
        }
    }

    /// Judges what a turn did, then lets it out.
    pub fn finish(&mut self, node: usize, core: usize) {
        let out = std::mem::take(&mut self.nodes[node].cores[core].out);
        self.judge_roles(node, core, &out);
        self.look(node, core, &out);
        self.nodes[node].cores[core].out = out;
        self.drain(node, core);
    }
}

/// The order of a pass.
fn rank(input: &Input) -> u8 {
    match input {
        Input::Durable { .. } => 0,
        Input::Failed { .. } => 1,
        Input::Lane { .. } => 2,
        Input::Fetched { .. }
        | Input::Snapshot { .. }
        | Input::SnapshotFailed { .. }
        | Input::Repair { .. } => 3,
        Input::Applied { .. } => 4,
        Input::Propose { .. } | Input::Read { .. } | Input::Verb { .. } => 5,
    }
}

fn hand_lane(turn: &mut SimCore, lane: bowline_raft::LaneNo, what: LaneInput) {
    let SimCore { raft, log, out, .. } = turn;
    match what {
        LaneInput::Up { node, core, boot, life } => {
            let node = bowline_raft::NodeId(node);
            raft.handle_lane(lane, LaneEvent::Up { node, core, boot, life }, log, out);
            turn.lives.insert(lane, life);
        },
        LaneInput::Down => {
            raft.handle_lane(lane, LaneEvent::Down, log, out);
            turn.lives.remove(&lane);
        },
        LaneInput::Room(bytes) => raft.handle_lane(lane, LaneEvent::Room(bytes), log, out),
        LaneInput::Says(life, what) => {
            if turn.lives.get(&lane) != Some(&life) {
                return;
            }
            let event = match &what {
                LaneWhat::Liveness(beat) => LaneEvent::Liveness(*beat),
                LaneWhat::LivenessReply(beat) => LaneEvent::LivenessReply(*beat),
                LaneWhat::Digest(digest) => LaneEvent::Digest(*digest),
                LaneWhat::ShardsWanted => LaneEvent::ShardsWanted,
                LaneWhat::Rows { rows, last } => LaneEvent::Rows { rows, last: *last },
                _ => return,
            };
            raft.handle_lane(lane, event, log, out);
        },
    }
}

/// The commit index that an Append names.
fn commit_of(message: &Message) -> Option<LogIndex> {
    match message.what {
        What::Append { commit, .. } => Some(commit),
        _ => None,
    }
}
