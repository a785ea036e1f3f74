//! The bytes of `NODE`: whose data a directory holds.
//!
//! ```text
//! 0          8      10     12     16               32      40             56
//! +----------+------+------+------+----------------+-------+--------------+
//! | BOWLNODE | fmt  | 0    | crc  | cluster id 16  | node  | store id 16  |
//! +----------+------+------+------+----------------+-------+--------------+
//! 56       60        62      64         72         80          82    84      88        152    160
//! +--------+---------+-------+----------+----------+-----------+-----+-------+---------+------+
//! | shards | streams | joined| support  | founded  | machine   | 0   | peers | machine | 0    |
//! |        |         |       | ms       | ms       | version   | copy| count | name 64 |count |
//! +--------+---------+-------+----------+----------+-----------+-----+-------+---------+------+
//! 156: 0 u32
//! 160: peers, 32 bytes each: node u64, store id 16, its last life that was met u64 (0: none)
//! then the own lives, as counted at 152, newest last, u64 each
//! joined u16: 1 if the node was added to its cluster; until then its cluster id is 0
//! copy u16: 1 once a peer told of a life that is not among the own lives
//! ```
//!
//! Format 1 has zero for copy and at 152, and peers of 24 bytes, without their lives. It is read.
//!
//! Integers are little-endian. `crc` is crc32 of everything but itself. The first 16 bytes mean the
//! same in every format, so that a later one is told from a damaged one.

use core::fmt;

use bowline_env::Name;
use bowline_raft::NodeId;

use crate::config::{ByteCount, Config, FRAME_CAP_MIN, SHARDS_MAX};
use crate::{Code, Finding, Origin};

const MAGIC: &[u8; 8] = b"BOWLNODE";
/// The format that this build writes, and the latest that it reads.
const FORMAT: u16 = 2;
const HEADER_LEN: usize = 160;
const NAME_LEN_MAX: usize = 64;
const PEER_LEN: usize = 32;
const PEER_LEN_V1: usize = 24;
const LIFE_LEN: usize = 8;
/// Peers that are remembered.
pub(crate) const PEERS_MAX: usize = 1_024;
/// Own lives that are remembered.
pub(crate) const LIVES_MAX: usize = 1_024;
const CRC_AT: usize = 12;

/// The file's name.
pub(crate) fn node_name() -> Name {
    Name::of("NODE")
}

/// The cluster id of a node that waits to be added to one.
pub(crate) const NO_CLUSTER: u128 = 0;

/// Longest file.
pub(crate) const NODE_LEN_MAX: usize = HEADER_LEN + PEERS_MAX * PEER_LEN + LIVES_MAX * LIFE_LEN;

/// A peer as this node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    /// The peer.
    pub(crate) node: NodeId,
    /// Its store, as first seen.
    pub(crate) store: u128,
    /// Its last life that was met; 0: none.
    pub(crate) life: u64,
}

/// Whose data a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeFile {
    /// The cluster.
    pub(crate) cluster: u128,
    /// It was added to its cluster, or waits to be.
    pub(crate) joined: bool,
    /// The node.
    pub(crate) node: NodeId,
    /// This directory: chance, made when it was founded.
    pub(crate) store: u128,
    /// Shards; fixed.
    pub(crate) shards: u32,
    /// Streams; fixed.
    pub(crate) streams: u16,
    /// Name of the state machine.
    pub(crate) machine: String,
    /// The highest version of it that members of a shard agreed on: an older one opens this no
    /// more.
    pub(crate) machine_version: u16,
    /// The largest `raft.support` ever used, in milliseconds.
    pub(crate) support_ms: u64,
    /// When it was founded, by the wall clock; for people.
    pub(crate) founded_ms: u64,
    /// A peer met a life of this node that this directory does not know of.
    pub(crate) old_copy: bool,
    /// Peers, ascending by node.
    pub(crate) peers: Vec<Met>,
    /// The newest lives of this node, ascending.
    pub(crate) lives: Vec<u64>,
}

/// Why bytes are no [`NodeFile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum NodeFileError {
    /// They do not begin as one.
    Foreign,
    /// Checksum or length do not fit.
    Damaged,
    /// A format that this build does not know.
    Newer(u16),
    /// The checksum fits and a value does not: written by a defect.
    Value,
}

impl NodeFile {
    /// The bytes.
    ///
    /// # Panics
    ///
    /// If the name or the peers are over their limits: they are checked where they enter.
    pub(crate) fn encode(&self) -> Vec<u8> {
        assert!(self.is_sound(), "only what is read back is written");
        let name = self.machine.as_bytes();
        let mut bytes = vec![0; HEADER_LEN];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, MAGIC);
        put(8, &FORMAT.to_le_bytes());
        put(16, &self.cluster.to_le_bytes());
        put(32, &self.node.0.to_le_bytes());
        put(40, &self.store.to_le_bytes());
        put(56, &self.shards.to_le_bytes());
        put(60, &self.streams.to_le_bytes());
        put(62, &u16::from(self.joined).to_le_bytes());
        put(64, &self.support_ms.to_le_bytes());
        put(72, &self.founded_ms.to_le_bytes());
        put(80, &self.machine_version.to_le_bytes());
        put(82, &u16::from(self.old_copy).to_le_bytes());
        let count = u32::try_from(self.peers.len()).expect("peers are few");
        put(84, &count.to_le_bytes());
        put(88, name);
        let count = u32::try_from(self.lives.len()).expect("lives are few");
        put(152, &count.to_le_bytes());
        for peer in &self.peers {
            bytes.extend_from_slice(&peer.node.0.to_le_bytes());
            bytes.extend_from_slice(&peer.store.to_le_bytes());
            bytes.extend_from_slice(&peer.life.to_le_bytes());
        }
        bytes.extend(self.lives.iter().flat_map(|life| life.to_le_bytes()));
        let crc = checksum(&bytes).to_le_bytes();
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
        assert_eq!(Self::decode(&bytes).as_ref(), Ok(self), "what is written reads back");
        bytes
    }

    /// Reads the bytes.
    ///
    /// # Errors
    ///
    /// [`NodeFileError`]: they are no file of ours, or not as it was written.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, NodeFileError> {
        if bytes.len() < 16 || &bytes[..8] != MAGIC {
            // A cut or flipped head cannot be told from a foreign file.
            return Err(NodeFileError::Foreign);
        }
        let crc = u32::from_le_bytes(array(bytes, CRC_AT));
        if crc != checksum(bytes) {
            return Err(NodeFileError::Damaged);
        }
        let format = u16::from_le_bytes(array(bytes, 8));
        if format > FORMAT {
            return Err(NodeFileError::Newer(format));
        }
        if bytes.len() < HEADER_LEN || bytes.len() > NODE_LEN_MAX {
            return Err(NodeFileError::Damaged);
        }
        Self::read(bytes).filter(Self::is_sound).ok_or(NodeFileError::Value)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let first = bytes[8..10] == 1_u16.to_le_bytes();
        let peer_len = if first { PEER_LEN_V1 } else { PEER_LEN };
        let count = |at| usize::try_from(u32::from_le_bytes(array(bytes, at))).ok();
        let (peers_len, lives_len) =
            (count(84)?.checked_mul(peer_len)?, count(152)?.checked_mul(LIFE_LEN)?);
        let rest = &bytes[HEADER_LEN..];
        if Some(rest.len()) != peers_len.checked_add(lives_len) {
            return None;
        }
        let (peers, lives) = rest.split_at(peers_len);
        let peer = |bytes: &[u8]| Met {
            node: NodeId(u64::from_le_bytes(array(bytes, 0))),
            store: u128::from_le_bytes(array(bytes, 8)),
            life: if first { 0 } else { u64::from_le_bytes(array(bytes, 24)) },
        };
        let name = &bytes[88..88 + NAME_LEN_MAX];
        let name_len = name.iter().position(|byte| *byte == 0).unwrap_or(NAME_LEN_MAX);
        let machine = core::str::from_utf8(&name[..name_len]).ok()?;
        let unused = [&bytes[10..12], &bytes[156..160], &name[name_len..]].into_iter().flatten();
        let known = first || bytes[8..10] == FORMAT.to_le_bytes();
        let old_copy = flag(bytes, 82)?;
        let later = first && (old_copy || lives_len != 0);
        if !known || later || unused.copied().any(|byte| byte != 0) {
            return None;
        }
        Some(Self {
            joined: flag(bytes, 62)?,
            cluster: u128::from_le_bytes(array(bytes, 16)),
            node: NodeId(u64::from_le_bytes(array(bytes, 32))),
            store: u128::from_le_bytes(array(bytes, 40)),
            shards: u32::from_le_bytes(array(bytes, 56)),
            streams: u16::from_le_bytes(array(bytes, 60)),
            machine: machine.to_owned(),
            machine_version: u16::from_le_bytes(array(bytes, 80)),
            support_ms: u64::from_le_bytes(array(bytes, 64)),
            founded_ms: u64::from_le_bytes(array(bytes, 72)),
            old_copy,
            peers: peers.chunks_exact(peer_len).map(peer).collect(),
            lives: lives
                .chunks_exact(LIFE_LEN)
                .map(|life| u64::from_le_bytes(array(life, 0)))
                .collect(),
        })
    }

    /// What its logs and runs are bound to. A node that waits to be added knows no cluster when it
    /// makes them.
    pub(crate) const fn bound_to(&self) -> u128 {
        if self.joined { self.store } else { self.cluster }
    }

    /// Begins a life: its number is higher than `boot`, the starts that the streams count, tells,
    /// and than that of any life before, in the upper half; the lower half is `chance`, so that two
    /// copies of a directory never have one life.
    pub(crate) fn begin_life(&mut self, boot: u64, chance: u32) -> u64 {
        let before = self.lives.last().map_or(0, |life| life >> 32);
        // A start a second reaches the end after a century.
        let count = boot.max(before + 1).min(u64::from(u32::MAX));
        let life = count << 32 | u64::from(chance);
        self.lives.push(life);
        let over = self.lives.len().saturating_sub(LIVES_MAX);
        drop(self.lives.drain(..over));
        life
    }

    /// Whether this directory lived the life `life`; 0 is none. Of one before the oldest that is
    /// remembered nothing can be said, and it is believed.
    pub(crate) fn remembers(&self, life: u64) -> bool {
        let forgotten = self.lives.len() == LIVES_MAX && self.lives.first() > Some(&life);
        life == 0 || forgotten || self.lives.binary_search(&life).is_ok()
    }

    /// What is known of a peer.
    pub(crate) fn met(&self, node: NodeId) -> Option<&Met> {
        let at = self.peers.binary_search_by_key(&node, |peer| peer.node).ok()?;
        self.peers.get(at)
    }

    fn is_sound(&self) -> bool {
        let name = self.machine.as_bytes();
        self.node.0 != 0
            && (1..=SHARDS_MAX).contains(&self.shards)
            && self.streams != 0
            && (1..=NAME_LEN_MAX).contains(&name.len())
            && !name.contains(&0)
            && self.peers.len() <= PEERS_MAX
            && self.peers.is_sorted_by(|a, b| a.node < b.node)
            && self.lives.len() <= LIVES_MAX
            && self.lives.is_sorted_by(|a, b| a < b)
    }

    /// Checks that the directory is the one that is meant. What the configuration leaves at its
    /// default is taken from the directory.
    ///
    /// # Errors
    ///
    /// A [`Finding`]: 0203 or 0207.
    pub(crate) fn check(&self, machine: (&str, u16), config: &Config) -> Result<(), Box<Finding>> {
        let found = (&*self.machine, self.machine_version);
        if found.0 != machine.0 || found.1 > machine.1 {
            let what = format!(
                "written for state machine \"{}\" v{}, opened with \"{}\" v{}",
                found.0, found.1, machine.0, machine.1
            );
            return Err(Box::new(Finding::error(Code::WRONG_MACHINE, what)));
        }
        let streams = u32::from(self.streams);
        let rows = [
            ("node.id", self.node.0, config.node.id, "node id"),
            ("cluster.shards", self.shards.into(), config.cluster.shards.into(), "shards"),
            ("wal.streams", streams.into(), config.wal.streams.or(streams).into(), "streams"),
        ];
        for (path, founded, configured, noun) in rows {
            check_founded(config, (path, noun), &founded, &configured)?;
        }
        Ok(())
    }
}

/// Checks that the logs of a directory, made with `founded`, are those that are meant: a log takes
/// no entry that is larger. A default gives way.
///
/// # Errors
///
/// A [`Finding`]: 0207.
pub(crate) fn check_frame_cap(founded: ByteCount, config: &Config) -> Result<(), Box<Finding>> {
    if founded < FRAME_CAP_MIN {
        let what = format!("founded with frame cap {founded}, less than {FRAME_CAP_MIN}");
        return Err(Box::new(Finding::error(Code::FOUNDED_OTHERWISE, what)));
    }
    let quoted = |bytes: ByteCount| format!("{:?}", bytes.to_string());
    let (founded, configured) = (quoted(founded), quoted(config.wal.frame_cap));
    check_founded(config, ("wal.frame_cap", "frame cap"), &founded, &configured)
}

/// Refuses a setting that is given and is not what the directory was founded with.
fn check_founded<T: PartialEq + fmt::Display>(
    config: &Config,
    (path, noun): (&'static str, &str),
    founded: &T,
    configured: &T,
) -> Result<(), Box<Finding>> {
    if config.origin(path) == Origin::Default || founded == configured {
        return Ok(());
    }
    let what = format!("founded with {noun} {founded}, configured {configured}");
    let fix = format!("set {path} = {founded}, or use another node.data_dir");
    let finding = Finding::error(Code::FOUNDED_OTHERWISE, what).fix(fix);
    Err(Box::new(finding.fact(path, config.origin(path))))
}

impl NodeFileError {
    /// What to tell.
    pub(crate) fn finding(self) -> Finding {
        match self {
            Self::Foreign => {
                Finding::error(Code::NODE_DAMAGED, "the NODE file does not begin as one of ours")
            },
            Self::Damaged => Finding::error(Code::NODE_DAMAGED, "the NODE file is damaged"),
            Self::Newer(format) => {
                let what = format!("format {format} is newer than this build ({FORMAT})");
                Finding::error(Code::FORMAT_NEW, what)
            },
            Self::Value => {
                Finding::error(Code::NODE_DAMAGED, "the NODE file holds a value that it cannot")
            },
        }
    }
}

impl fmt::Display for NodeFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.finding().what)
    }
}

impl core::error::Error for NodeFileError {}

/// A u16 that is 0 or 1.
fn flag(bytes: &[u8], at: usize) -> Option<bool> {
    match u16::from_le_bytes(array(bytes, at)) {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has the array's length")
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..CRC_AT]);
    crc.update(&bytes[CRC_AT + 4..]);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];

    fn node() -> NodeFile {
        NodeFile {
            cluster: 0x1111_2222_3333_4444_5555_6666_7777_8888,
            node: NodeId(3),
            store: 0xAAAA_BBBB_CCCC_DDDD_EEEE_FFFF_0000_1111,
            shards: 16,
            streams: 4,
            joined: false,
            machine: "kv".into(),
            machine_version: 1,
            support_ms: 600,
            founded_ms: 1_700_000_000_000,
            old_copy: false,
            peers: vec![
                Met { node: NodeId(1), store: 7, life: 9 },
                Met { node: NodeId(2), store: 8, life: 0 },
            ],
            lives: vec![0x1_0000_0005, 0x2_0000_0003],
        }
    }

    /// As format 1 has it: without lives.
    fn node_v1() -> NodeFile {
        let mut node = node();
        node.peers.iter_mut().for_each(|peer| peer.life = 0);
        NodeFile { lives: Vec::new(), ..node }
    }

    /// The files of every format; `format` and `crc` as digits, and what stands behind the name.
    fn golden(format: &str, crc: &str, tail: &[&str]) -> String {
        let name = format!("6b76{}", "00".repeat(62));
        let head = [
            "424f574c4e4f4445",
            format,
            "0000",
            crc,
            "88887777666655554444333322221111",
            "0300000000000000",
            "11110000ffffeeeeddddccccbbbbaaaa",
            "10000000",
            "0400",
            "0000",
            "5802000000000000",
            "0068e5cf8b010000",
            "0100",
            "0000",
            "02000000",
            &name,
        ];
        head.concat() + &tail.concat()
    }

    fn number(byte: u8, len: usize) -> String {
        format!("{byte:02x}{}", "00".repeat(len - 1))
    }

    #[test]
    fn golden_node_v1() {
        let peer = |node, store| number(node, 8) + &number(store, 16);
        let hex = golden("0100", "2041d0fd", &["0000000000000000", &peer(1, 7), &peer(2, 8)]);
        let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
        assert_eq!(NodeFile::decode(&bytes), Ok(node_v1()));
        // What format 1 has no place for is not read from it.
        for (at, byte) in [(82, 1), (152, 1)] {
            let mut bytes = [&bytes[..], &[0; 8][..if at == 152 { 8 } else { 0 }]].concat();
            bytes[at] = byte;
            seal(&mut bytes);
            assert_eq!(NodeFile::decode(&bytes), Err(NodeFileError::Value));
        }
    }

    #[test]
    fn golden_node_v2() {
        let bytes = node().encode();
        let digits = |byte: &u8| [byte >> 4, byte & 15];
        let hex: String =
            bytes.iter().flat_map(digits).map(|digit| HEX[usize::from(digit)]).collect();
        let peer = |node, store, life| number(node, 8) + &number(store, 16) + &number(life, 8);
        let tail = [
            "0200000000000000",
            &peer(1, 7, 9),
            &peer(2, 8, 0),
            "0500000001000000",
            "0300000002000000",
        ];
        assert_eq!(hex, golden("0200", "4c2d4bf7", &tail));
        assert_eq!(NodeFile::decode(&bytes), Ok(node()));
        let old_copy = NodeFile { old_copy: true, ..node() };
        let bytes = old_copy.encode();
        assert_eq!(bytes[82..84], [1, 0]);
        assert_eq!(NodeFile::decode(&bytes), Ok(old_copy));
    }

    #[test]
    fn a_life_is_higher_than_all_before_and_one_of_a_copy_is_another() {
        let mut node = node();
        assert_eq!(node.begin_life(7, 5), 7 << 32 | 5);
        // Streams that count less than NODE lost their latest starts.
        assert_eq!(node.begin_life(2, 4), 8 << 32 | 4);
        let (mut copy, now) = (node.clone(), node.begin_life(9, 1));
        assert_ne!(copy.begin_life(9, 2), now);
        assert!(node.remembers(now) && !copy.remembers(now));
        for life in 0..3 {
            let _: u64 = copy.begin_life(20 + life, 0);
            assert!(!copy.remembers(now), "not after more starts either");
        }
        assert!(copy.remembers(0) && copy.remembers(8 << 32 | 4));
    }

    #[test]
    fn as_many_lives_are_remembered_as_there_is_room_for() {
        let mut node = node();
        assert!(!node.remembers(1));
        for boot in 0..u64::try_from(LIVES_MAX).expect("a small number") {
            let _: u64 = node.begin_life(10 + boot, 0);
        }
        assert_eq!((node.lives.len(), node.lives[0]), (LIVES_MAX, 10 << 32));
        assert!(node.remembers(2 << 32), "it cannot be told any more");
        assert!(node.remembers(10 << 32) && !node.remembers(10 << 32 | 1));
        let bytes = node.encode();
        assert!(bytes.len() <= NODE_LEN_MAX);
    }

    #[test]
    fn no_cut_and_no_flipped_bit_is_read() {
        let bytes = node().encode();
        for len in 0..bytes.len() {
            assert!(NodeFile::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            let error = NodeFile::decode(&rotten).expect_err("one bit is wrong");
            let want = if bit < 64 { NodeFileError::Foreign } else { NodeFileError::Damaged };
            assert_eq!(error, want, "bit {bit}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(NodeFile::decode(&longer), Err(NodeFileError::Damaged));
    }

    fn seal(bytes: &mut [u8]) {
        let crc = checksum(bytes).to_le_bytes();
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
    }

    #[track_caller]
    fn resealed(change: impl FnOnce(&mut Vec<u8>), want: NodeFileError) {
        let mut bytes = node().encode();
        change(&mut bytes);
        seal(&mut bytes);
        assert_eq!(NodeFile::decode(&bytes), Err(want));
    }

    #[test]
    fn a_sound_checksum_over_unsound_values_is_refused() {
        resealed(|bytes| bytes[8] = 3, NodeFileError::Newer(3));
        resealed(|bytes| bytes.truncate(16), NodeFileError::Damaged);
        resealed(|bytes| bytes[8] = 0, NodeFileError::Value);
        resealed(|bytes| bytes[32] = 0, NodeFileError::Value);
        resealed(|bytes| bytes[56] = 0, NodeFileError::Value);
        resealed(|bytes| bytes[59] = 0xFF, NodeFileError::Value);
        resealed(|bytes| bytes[60] = 0, NodeFileError::Value);
        resealed(|bytes| bytes[62] = 2, NodeFileError::Value);
        resealed(|bytes| bytes[82] = 2, NodeFileError::Value);
        resealed(|bytes| bytes[84] = 3, NodeFileError::Value);
        resealed(|bytes| bytes[87] = 0xFF, NodeFileError::Value);
        resealed(|bytes| bytes[88] = 0, NodeFileError::Value);
        resealed(|bytes| bytes[88] = 0xFF, NodeFileError::Value);
        resealed(|bytes| bytes[95] = b'x', NodeFileError::Value);
        resealed(|bytes| bytes[152] = 3, NodeFileError::Value);
        resealed(|bytes| bytes[156] = 1, NodeFileError::Value);
        resealed(|bytes| bytes[160] = 9, NodeFileError::Value);
        resealed(|bytes| bytes[228] = 9, NodeFileError::Value);
    }

    /// Whatever stands there under a good checksum is refused, or is what is written for it.
    #[test]
    fn no_bytes_break_the_decoder_and_what_is_read_has_one_form() {
        let rng = bowline_env::sim::Rng::new(5);
        let mut read = 0;
        for _ in 0..20_000 {
            let mut bytes = node().encode();
            for _ in 0..=rng.below(4) {
                let (at, width) = (rng.index(bytes.len()), 1 << rng.below(4));
                let number = [0, 1, 2, u64::MAX >> 1, u64::MAX, rng.bits()][rng.index(6)];
                let number = number.to_le_bytes();
                bytes.iter_mut().skip(at).zip(&number[..width]).for_each(|(old, new)| *old = *new);
            }
            match rng.below(8) {
                0 => bytes.truncate(16 + rng.index(bytes.len() - 16)),
                1 => bytes.extend_from_slice(&[7; PEER_LEN]),
                _ => {},
            }
            seal(&mut bytes);
            if let Ok(node) = NodeFile::decode(&bytes) {
                // An older format is written anew as the latest.
                assert!(bytes[8] == 1 || node.encode() == bytes);
                read += 1;
            }
        }
        assert!((1_000..19_000).contains(&read), "{read}");
    }

    #[test]
    fn another_machine_or_founding_is_refused_with_its_remedy() {
        let node = node();
        assert_eq!(node.check(("kv", 1), &Config::default()), Ok(()), "defaults give way");
        assert_eq!(node.check(("kv", 2), &Config::default()), Ok(()), "a later version reads it");
        let older = NodeFile { machine_version: 2, ..node.clone() };
        let finding = older.check(("kv", 1), &Config::default()).expect_err("an older version");
        assert_eq!(finding.what, "written for state machine \"kv\" v2, opened with \"kv\" v1");
        let finding = node.check(("bank", 2), &Config::default()).expect_err("another machine");
        assert_eq!(finding.code, Code::WRONG_MACHINE);
        assert_eq!(finding.what, "written for state machine \"kv\" v1, opened with \"bank\" v2");
        for (path, what) in [
            ("cluster.shards", "founded with shards 16, configured 32"),
            ("wal.streams", "founded with streams 4, configured 32"),
            ("node.id", "founded with node id 3, configured 32"),
        ] {
            let mut config = Config::default();
            config.set(path, "32").expect("accepted");
            let finding = node.check(("kv", 1), &config).expect_err("founded otherwise");
            assert_eq!((finding.code, &*finding.what), (Code::FOUNDED_OTHERWISE, what));
        }
        let small = check_frame_cap(ByteCount::kib(8), &Config::default()).expect_err("too small");
        assert_eq!(small.what, "founded with frame cap 8KiB, less than 16KiB");
        let cap = ByteCount::kib(256);
        assert_eq!(check_frame_cap(cap, &Config::default()), Ok(()), "a default gives way");
        let mut config = Config::default();
        config.set("wal.frame_cap", "256KiB").expect("accepted");
        assert_eq!(check_frame_cap(cap, &config), Ok(()));
        config.set("wal.frame_cap", "1MiB").expect("accepted");
        let finding = check_frame_cap(cap, &config).expect_err("founded otherwise");
        let what = "founded with frame cap \"256KiB\", configured \"1MiB\"";
        assert_eq!((finding.code, &*finding.what), (Code::FOUNDED_OTHERWISE, what));
        let newer = NodeFileError::Newer(3).finding();
        assert_eq!(newer.what, "format 3 is newer than this build (2)");
        assert_eq!(newer.code, Code::FORMAT_NEW);
    }
}
