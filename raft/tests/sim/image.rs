//! What a log says of one shard: hard state, bounds, batches, manifest. One image is the log's
//! memory, another what the disk holds; both take the same operations in the same order.

use std::{collections::VecDeque, rc::Rc};

use bowline_raft::{
    BatchHeader, HardState, LogIndex, ShardId, Term,
    batch::{Body, BodyWriter, FLAG_CONF, FLAG_NOOP, body_len},
};

use super::rng::{mix, place};

/// Consecutive entries of one term, with their bytes.
#[derive(Debug)]
pub struct SimBatch {
    pub head: BatchHeader,
    pub body: Vec<u8>,
}

/// What an entry holds, as one number: 0 for a no-op.
pub type Payload = u64;

impl SimBatch {
    /// Encodes entries whose payloads are these.
    pub fn encode(mut head: BatchHeader, payloads: &[&[u8]]) -> Self {
        let mut body = vec![0; body_len(payloads.iter().map(|payload| payload.len()))];
        let mut writer = BodyWriter::new(&mut body, payloads.len());
        for payload in payloads {
            writer.entry(payload.len(), |out| out.copy_from_slice(payload));
        }
        writer.finish();
        head.count = u32::try_from(payloads.len()).expect("small batches");
        head.len = u32::try_from(body.len()).expect("small batches");
        head.crc = head.checksum(&body);
        Self { head, body }
    }

    pub fn bytes_of(&self, index: u64) -> &[u8] {
        let body = Body::parse(&self.head, &self.body).expect("batches in a log are whole");
        body.payload(place(index - self.head.first.0))
    }

    /// The payload at `index`, as one number.
    pub fn payload(&self, index: u64) -> Payload {
        if self.head.flags & FLAG_NOOP != 0 {
            return 0;
        }
        let nth = place(index - self.head.first.0);
        let entry = u32::from_le_bytes(cut(&self.body, nth * 8));
        let len = u32::from_le_bytes(cut(&self.body, nth * 8 + 4));
        let (from, len) = (place(u64::from(entry)), place(u64::from(len)));
        if self.head.flags & FLAG_CONF == 0 {
            return u64::from_le_bytes(cut(&self.body, from));
        }
        fingerprint(&self.body[from..from + len])
    }
}

fn cut<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("as many bytes were cut")
}

/// The number that stands for the bytes of a configuration.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0x51_7c_c1_b7, |hash, byte| mix(hash ^ u64::from(*byte)));
    hash | 1 << 63
}

/// The entries of a batch up to `to`; an overwrite may have cut its end.
#[derive(Clone, Debug)]
pub struct Piece {
    pub batch: Rc<SimBatch>,
    pub to: u64,
}

impl Piece {
    pub fn first(&self) -> u64 {
        self.batch.head.first.0
    }
}

/// What the state machine wrote down, or a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    pub index: u64,
    pub term: Term,
    pub conf: Vec<u8>,
    pub value: Payload,
}

/// One write into a shard's log.
#[derive(Clone, Debug)]
pub enum Op {
    /// Entries; what the log had from the first one on is replaced.
    Batch(Rc<SimBatch>),
    Hard(HardState),
    /// Entries from here on are gone.
    Truncate(u64),
    Compact {
        first: u64,
        prev_term: Term,
    },
    /// The snapshot is the state now; `keep`: entries after it stay.
    Install {
        manifest: Rc<Manifest>,
        keep: bool,
        hard: HardState,
    },
    Manifest(Rc<Manifest>),
}

/// A shard's log as of some moment.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub hard: HardState,
    /// First index - 1, and its term.
    pub floor: u64,
    pub floor_term: Term,
    pub pieces: VecDeque<Piece>,
    pub manifest: Rc<Manifest>,
    /// Entries whose bytes rotted; index and term of them are known.
    pub lost: Option<(u64, u64)>,
    /// Whether anything was ever written.
    pub used: bool,
}

impl Image {
    pub fn last(&self) -> u64 {
        self.pieces.back().map_or(self.floor, |piece| piece.to)
    }

    pub fn last_term(&self) -> Term {
        self.pieces.back().map_or(self.floor_term, |piece| piece.batch.head.term)
    }

    /// The piece that holds `index`, by its place.
    pub fn find(&self, index: u64) -> Option<usize> {
        if index <= self.floor || index > self.last() {
            return None;
        }
        Some(self.pieces.partition_point(|piece| piece.to < index))
    }

    pub fn term_at(&self, index: u64) -> Option<Term> {
        if index == self.floor {
            return Some(self.floor_term);
        }
        self.find(index).map(|nth| self.pieces[nth].batch.head.term)
    }

    /// Term and payload of an entry.
    pub fn entry(&self, index: u64) -> Option<(Term, Payload)> {
        let piece = &self.pieces[self.find(index)?];
        Some((piece.batch.head.term, piece.batch.payload(index)))
    }

    fn cut(&mut self, from: u64) {
        while self.pieces.back().is_some_and(|piece| piece.first() >= from) {
            self.pieces.pop_back();
        }
        if let Some(piece) = self.pieces.back_mut() {
            piece.to = piece.to.min(from - 1);
        }
        self.lost = self.lost.map(|(a, b)| (a, b.min(from - 1))).filter(|(a, b)| a <= b);
    }

    fn compact(&mut self, floor: u64, term: Term) {
        while self.pieces.front().is_some_and(|piece| piece.to <= floor) {
            self.pieces.pop_front();
        }
        self.floor = floor;
        self.floor_term = term;
        self.lost = self.lost.map(|(a, b)| (a.max(floor + 1), b)).filter(|(a, b)| a <= b);
    }

    /// Damage: entries above `cut` are gone, and perhaps the vote with them.
    pub fn forget(&mut self, cut: u64, vote: bool) {
        self.cut(cut + 1);
        self.hard.commit = self.hard.commit.min(LogIndex(self.last()));
        if vote {
            self.hard.vote = bowline_raft::ReplicaId(0);
            self.hard.term = self.last_term();
        }
    }

    fn promise(&mut self, hard: HardState) {
        let old = self.hard;
        assert!(hard.term >= old.term, "a term never falls: {old:?} -> {hard:?}");
        let same = hard.term > old.term || old.vote.0 == 0 || hard.vote == old.vote;
        assert!(same, "a vote never changes in its term: {old:?} -> {hard:?}");
        self.hard = hard;
    }

    /// Whether the bytes of an entry rotted on the disk.
    pub fn is_lost(&self, index: u64) -> bool {
        self.lost.is_some_and(|(from, to)| from <= index && index <= to)
    }

    /// Takes one operation, and is as strict as a log may be.
    pub fn replay(&mut self, op: &Op) {
        self.used = true;
        match op {
            Op::Batch(batch) => {
                let (first, last) = (batch.head.first.0, batch.head.last().0);
                assert!(last > self.floor && first <= self.last() + 1, "no hole in a log");
                let first = first.max(self.floor + 1);
                let known = first <= self.hard.commit.0.min(self.last());
                let term = self.term_at(first);
                assert!(!known || term == Some(batch.head.term), "nothing committed is cut");
                assert!(batch.head.term <= self.hard.term, "a term's hard state comes first");
                self.cut(first);
                assert!(batch.head.term >= self.last_term(), "terms do not fall in a log");
                self.pieces.push_back(Piece { batch: Rc::clone(batch), to: last });
            },
            Op::Hard(hard) => self.promise(*hard),
            Op::Truncate(from) => {
                assert!(*from > self.floor, "nothing below the floor is cut");
                assert!(*from > self.hard.commit.0, "nothing committed is cut");
                self.cut(*from);
            },
            Op::Compact { first, prev_term } => {
                assert_eq!(self.term_at(first - 1), Some(*prev_term), "compaction knows the term");
                assert!(*first > self.floor && first - 1 <= self.manifest.index);
                self.compact(first - 1, *prev_term);
            },
            Op::Install { manifest, keep, hard } => {
                self.promise(*hard);
                let known = self.term_at(manifest.index) == Some(manifest.term);
                assert!(!keep || known, "a suffix is kept only behind the same entry");
                if !keep {
                    self.pieces.clear();
                }
                self.compact(manifest.index, manifest.term);
                self.manifest = Rc::clone(manifest);
            },
            Op::Manifest(manifest) => {
                assert!(manifest.index >= self.manifest.index, "manifests move forward");
                self.manifest = Rc::clone(manifest);
            },
        }
    }

    /// Payloads of the CONF entries above the manifest.
    pub fn confs(&self) -> Vec<(LogIndex, Vec<u8>)> {
        let confs = self.pieces.iter().filter(|piece| {
            piece.batch.head.flags & FLAG_CONF != 0 && piece.first() > self.manifest.index
        });
        confs
            .map(|piece| (piece.batch.head.first, piece.batch.bytes_of(piece.first()).to_vec()))
            .collect()
    }

    /// The batches that hold an index of `from..=to`: whole ones as they are, those that lost
    /// their end made anew. None if the log does not have one.
    pub fn batches(&self, from: u64, to: u64) -> Option<Vec<Rc<SimBatch>>> {
        let mut out = Vec::new();
        let mut at = from;
        while at <= to {
            let piece = &self.pieces[self.find(at)?];
            if piece.to == piece.batch.head.last().0 {
                out.push(Rc::clone(&piece.batch));
            } else {
                out.push(Rc::new(part(&piece.batch, piece.first(), piece.to)));
            }
            at = piece.to + 1;
        }
        Some(out)
    }

    /// Whole batches from the one that holds `from` on, up to `bytes_max`: last index and bytes.
    pub fn span(&self, from: u64, bytes_max: u32) -> Option<(u64, u32)> {
        let nth = self.find(from)?;
        let (mut last, mut bytes) = (0, 0_u32);
        for piece in self.pieces.range(nth..) {
            if last > 0 && bytes + piece.batch.head.len > bytes_max {
                break;
            }
            last = piece.to;
            bytes += piece.batch.head.len;
        }
        Some((last, bytes))
    }
}

fn part(batch: &SimBatch, from: u64, to: u64) -> SimBatch {
    let payloads: Vec<_> = (from..=to).map(|index| batch.bytes_of(index)).collect();
    let head = BatchHeader { first: LogIndex(from), ..batch.head };
    SimBatch::encode(head, &payloads)
}

/// A header before its body is known.
pub fn head(shard: ShardId, first: LogIndex, term: Term, flags: u16) -> BatchHeader {
    BatchHeader { shard, first, term, flags, ..BatchHeader::default() }
}
