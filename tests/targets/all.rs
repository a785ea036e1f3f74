//! Every decoder of bytes from outside as a plain function of those bytes: `tests/targets.rs` runs
//! it over stored inputs, `tests/fuzz` under a fuzzer.
//!
//! A target panics when the decoder does, when it needs more memory than the input's length allows,
//! and when what was decoded does not come back from its own encoding. Checksums find accidents,
//! so each target also tries its input with the checksums that a liar would give it.

mod config;
mod net;
mod raft;
mod run;
mod state;
mod wal;

/// A decoder.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Its name, and that of its directory below `tests/corpus`.
    pub(crate) name: &'static str,
    /// Decodes; whether anything was believed.
    decode: fn(&[u8]) -> bool,
    /// Bytes of memory it may have at once: so many, and so many for each byte of its input.
    memory: (u64, u64),
    /// How often a plain test mutates at random.
    pub(crate) rounds: u32,
}

impl Target {
    /// Decodes within the bound on memory; whether anything was believed.
    pub(crate) fn run(&self, bytes: &[u8]) -> bool {
        let mut believed = false;
        let counted = allocation_counter::measure(|| believed = (self.decode)(bytes));
        let (fixed, each) = self.memory;
        let bound = fixed + each * u64::try_from(bytes.len()).expect("inputs are small");
        assert!(counted.bytes_max <= bound, "{} bytes at once, {bound} allowed", counted.bytes_max);
        believed
    }
}

/// Every target.
pub(crate) const ALL: &[Target] = &[
    Target { name: "opening", decode: net::opening, memory: (8 << 10, 16), rounds: 4_000 },
    Target { name: "frames", decode: net::frames, memory: (2 << 20, 64), rounds: 1_000 },
    Target { name: "manifest", decode: state::manifest, memory: (32 << 10, 16), rounds: 4_000 },
    Target { name: "commands", decode: state::commands, memory: (4 << 20, 64), rounds: 300 },
    Target { name: "token", decode: state::token, memory: (4 << 20, 64), rounds: 300 },
    Target { name: "membership", decode: raft::membership, memory: (4 << 10, 8), rounds: 4_000 },
    Target { name: "batch", decode: raft::batch, memory: (4 << 10, 8), rounds: 4_000 },
    Target { name: "stream", decode: wal::stream, memory: (16 << 20, 64), rounds: 100 },
    Target { name: "boot", decode: wal::boot, memory: (64 << 20, 64), rounds: 50 },
    Target { name: "run", decode: run::run, memory: (64 << 20, 64), rounds: 70 },
    Target { name: "transfer", decode: run::transfer, memory: (64 << 20, 64), rounds: 100 },
    Target { name: "config", decode: config::config, memory: (1 << 20, 1 << 10), rounds: 200 },
];

/// The checksum of some parts, one after the other.
fn checksum(parts: &[&[u8]]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for part in parts {
        crc.update(part);
    }
    crc.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes are four bytes"))
}

/// A number of a format as a length.
fn len_at(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u32_at(bytes, at)).expect("usize holds a u32")
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// A length as the number of a format.
fn put_len(bytes: &mut [u8], at: usize, len: usize) {
    put_u32(bytes, at, u32::try_from(len).expect("inputs are small"));
}
