//! Where a scan goes on: the bytes a caller keeps between two pages.
//!
//! ```text
//! 0     1         2       4     8        16      24
//! +-----+---------+-------+-----+--------+-------+-----------+
//! | ver | reverse | crc16 | 0   | shard  | rev   | last key  |
//! +-----+---------+-------+-----+--------+-------+-----------+
//! ```
//!
//! Little-endian. `crc16` is the low half of the crc32 of all other bytes: a slip of the caller's
//! is found, an attack is not, and need not be: a token can say nothing that a range cannot.

use bytes::{BufMut, Bytes, BytesMut};

use crate::BadCommand;
use crate::error::KEY_BYTES_MAX;

const VERSION: u8 = 1;
const HEAD_LEN: usize = 24;

/// A place in a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) reverse: bool,
    pub(crate) shard: u64,
    /// Index of the state that the page was read from.
    pub(crate) rev: u64,
    /// The last key that was looked at.
    pub(crate) last: &'a [u8],
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..2]);
    hasher.update(&bytes[4..]);
    let [low, high, ..] = hasher.finalize().to_le_bytes();
    [low, high]
}

impl<'a> Token<'a> {
    pub(crate) fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD_LEN + self.last.len());
        out.put_slice(&[VERSION, u8::from(self.reverse), 0, 0, 0, 0, 0, 0]);
        out.put_u64_le(self.shard);
        out.put_u64_le(self.rev);
        out.put_slice(self.last);
        let crc = checksum(&out);
        out[2..4].copy_from_slice(&crc);
        out.freeze()
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, BadCommand> {
        let (head, last) = bytes.split_first_chunk::<HEAD_LEN>().ok_or(BadCommand::Token)?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&head[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let sound = head[0] == VERSION
            && head[1] <= 1
            && head[2..4] == checksum(bytes)
            && head[4..8] == [0; 4]
            && last.len() <= KEY_BYTES_MAX;
        if !sound {
            return Err(BadCommand::Token);
        }
        Ok(Self { reverse: head[1] == 1, shard: word(8), rev: word(16), last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Token<'_> = Token { reverse: true, shard: 77, rev: 1 << 40, last: b"user:17" };

    #[test]
    fn a_token_comes_back() {
        let bytes = TOKEN.encode();
        assert_eq!(Token::decode(&bytes), Ok(TOKEN));
        assert_eq!(bytes[..2], [1, 1]);
        let bare = Token { last: b"", ..TOKEN };
        assert_eq!(Token::decode(&bare.encode()), Ok(bare));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_found() {
        let bytes = TOKEN.encode();
        for len in 0..bytes.len() {
            assert_eq!(Token::decode(&bytes[..len]), Err(BadCommand::Token), "cut at {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Token::decode(&bad), Err(BadCommand::Token), "bit {bit}");
        }
    }
}
