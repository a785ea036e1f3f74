//! What becomes of what a turn put out: frames, messages, fetches, snapshots, entries to apply.

use bowline_raft::{Apply, Fetched, LaneWhat, LogIndex, Outbox};

use super::{
    disk::shard_place,
    judge::slot_of,
    net::{Bulk, BulkWhat, Frame, peer_of},
    node::{Input, Parcel},
    plan::{Class, MICRO, MILLI},
    rng::place,
    world::{Event, World},
};

impl World {
    /// Takes everything out of the outbox and does what it says.
    pub fn drain(&mut self, node: usize, core: usize) {
        let mut out = std::mem::take(&mut self.nodes[node].cores[core].out);
        let mut frames: Vec<(usize, Frame)> = Vec::new();
        for send in out.lane.drain(..) {
            let links = self.links_between(node, peer_of(send.lane));
            let Some(&link) = links.iter().find(|link| self.links[**link].core == core) else {
                continue;
            };
            if send.what == LaneWhat::Reset {
                self.reset(link);
            } else {
                frame_for(&mut frames, link).lanes.push(send.what);
            }
        }
        for send in out.send.drain(..) {
            self.send(node, core, &send, &mut frames);
        }
        for (link, frame) in frames {
            let end = self.links[link].end_of(node);
            if self.links[link].up && self.links[link].told[end] {
                self.transmit(link, node, frame);
            }
        }
        for apply in out.apply.drain(..) {
            self.queue_apply(node, core, apply);
        }
        self.drain_answers(node, core, &mut out);
        self.drain_wants(node, core, &mut out);
        out.clear();
        self.nodes[node].cores[core].out = out;
        self.apply_all(node, core);
    }

    fn send(
        &mut self,
        node: usize,
        core: usize,
        send: &bowline_raft::Send,
        frames: &mut Vec<(usize, Frame)>,
    ) {
        let peer = place(send.node.0 - 1);
        self.check_held(node, send);
        let turn = &mut self.nodes[node].cores[core];
        let message = send.message;
        let mut batches = Vec::new();
        let mut bulk = false;
        if let Some(entries) = send.entries {
            bulk = entries.bulk;
            let kept = turn.fetched.remove(&(message.shard, message.to)).filter(|_| bulk);
            let image = turn.log.disk.memory_of(message.shard);
            let found = kept.or_else(|| image.batches(entries.from.0, entries.to.0));
            let Some(found) = found else {
                self.judge(Err(format!("an Append names entries nobody has: {send:?}")));
                return;
            };
            batches = found;
        }
        let damaged = !self.healing
            && !batches.is_empty()
            && self.plan.classes.has(Class::BadBytes)
            && self.rng.net.one_in(60);
        let parcel = Parcel { message, batches, damaged };
        if peer >= self.nodes.len() || peer == node {
            self.judge(Err(format!("a message to nobody: {send:?}")));
            return;
        }
        if self.plan.classes.has(Class::Strange) && self.rng.net.one_in(20) {
            self.remember(peer, &parcel);
        }
        if bulk {
            self.bulk(node, peer, BulkWhat::Message(parcel));
            return;
        }
        let links = self.links_between(node, peer);
        let own = links.iter().copied().find(|link| self.links[*link].core == core);
        let any = links.iter().copied().find(|link| self.links[*link].up);
        let road = if send.lane.is_some() { own } else { own.or(any) };
        if let Some(link) = road {
            frame_for(frames, link).parcels.push(parcel);
        }
    }

    fn drain_wants(&mut self, node: usize, core: usize, out: &mut Outbox) {
        for fetch in out.fetch.drain(..) {
            self.cover.fetches += 1;
            let shard = self.nodes[node].cores[core].raft.view(fetch.slot).shard;
            let image = self.nodes[node].cores[core].log.disk.memory_of(shard);
            let replica = self.nodes[node].cores[core].machines[shard_place(shard)].replica;
            let span = image.span(fetch.from.0, fetch.bytes_max);
            let span = span.filter(|_| !image.is_lost(fetch.from.0));
            if fetch.repair {
                let Some((last, _)) = span else { continue };
                let Some(batches) = image.batches(fetch.from.0, last) else { continue };
                let what = Input::Repair { shard, to: fetch.peer, from: fetch.from.0, batches };
                self.bulk(node, place(fetch.node.0 - 1), BulkWhat::Input(shard, what));
                continue;
            }
            let read = span.and_then(|span| Some((span, image.batches(fetch.from.0, span.0)?)));
            let peer = fetch.peer;
            let got = match read {
                Some(((last, bytes), batches)) => {
                    let turn = &mut self.nodes[node].cores[core];
                    turn.fetched.insert((shard, peer), batches);
                    Fetched::Entries { peer, from: fetch.from, to: LogIndex(last), bytes }
                },
                None => Fetched::Failed { peer },
            };
            let input = Input::Fetched { shard, replica, got };
            let boots = (self.nodes[node].boot, self.nodes[node].boot);
            let what = BulkWhat::Input(shard, input);
            let bulk = Bulk { from: node, to: node, boots, what };
            let delay = self.rng.disk.log_uniform(50 * MICRO, 10 * MILLI);
            self.at(self.now + delay, Event::Bulk(Box::new(bulk)));
        }
        for want in out.snapshot.drain(..) {
            self.offer_snapshot(node, core, want);
        }
    }

    fn queue_apply(&mut self, node: usize, core: usize, apply: Apply) {
        let turn = &mut self.nodes[node].cores[core];
        let Some(slot) = slot_of(apply) else { return };
        let shard = turn.raft.view(slot).shard;
        turn.machines[shard_place(shard)].waiting.push_back(apply);
        turn.to_apply.push(shard);
    }
}

fn frame_for(frames: &mut Vec<(usize, Frame)>, link: usize) -> &mut Frame {
    let nth = frames.iter().position(|(at, _)| *at == link).unwrap_or_else(|| {
        frames.push((link, Frame { lanes: Vec::new(), parcels: Vec::new() }));
        frames.len() - 1
    });
    &mut frames[nth].1
}
