//! The first 16 bytes of every entry's payload, and the arithmetic of log time.
//!
//! ```text
//! 0               8      9      10     12             16
//! +---------------+------+------+------+--------------+--------------------------+------+
//! | stamp_ms u64  | kind | flags| ver  | body_len u32 | SESSION: 32 B, if bit 0  | body |
//! +---------------+------+------+------+--------------+--------------------------+------+
//! session: session u128 | seq u64 | ack_below u64
//! ```
//!
//! Little-endian. A payload starts 16-aligned and both heads are multiples of 16, so the body is
//! 16-aligned too. `stamp_ms` is written by the leader's core, never by a client. Bytes after the
//! body are padding of the log and mean nothing.

use core::fmt;

/// Bytes before the session, or before the body if there is none.
pub const ENVELOPE_LEN: usize = 16;
/// Bytes of the session part.
pub const SESSION_LEN: usize = 32;
/// Alignment of a payload and of a body.
pub const BODY_ALIGN: usize = 16;

/// Flag: the session part follows.
pub const FLAG_SESSION: u8 = 1;

/// Moves the clock; nothing else.
pub const KIND_TICK: u8 = 1;
/// Opens a session (reserved).
pub const KIND_SESSION_OPEN: u8 = 2;
/// Closes a session (reserved).
pub const KIND_SESSION_CLOSE: u8 = 3;
/// A command of a user's machine.
pub const KIND_USER: u8 = 16;

const _: () = assert!(ENVELOPE_LEN.is_multiple_of(BODY_ALIGN), "the body stays aligned");
const _: () = assert!(SESSION_LEN.is_multiple_of(BODY_ALIGN), "the body stays aligned");

/// Which call of which session an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCall {
    /// The session, drawn by the client.
    pub session: u128,
    /// The call's number in it.
    pub seq: u64,
    /// Replies below this number were received.
    pub ack_below: u64,
}

/// A parsed head and the body after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Log time when the leader took the proposal.
    pub stamp_ms: u64,
    /// Which structure the body is.
    pub kind: u8,
    /// Version of that structure.
    pub ver: u16,
    /// The session's call, if the entry is one.
    pub session: Option<SessionCall>,
    /// The body: 16-aligned if the payload is.
    pub body: &'a [u8],
}

/// Why bytes are no payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// `need` bytes are missing.
    Truncated {
        /// Bytes missing.
        need: usize,
    },
    /// A flag is set that this version does not know.
    Flags(u8),
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { need } => write!(f, "the payload ends {need} bytes early"),
            Self::Flags(flags) => write!(f, "unknown envelope flags {flags:#04x}"),
        }
    }
}

impl core::error::Error for EnvelopeError {}

/// What an entry's head says, besides its stamp and the body's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which structure the body is.
    pub kind: u8,
    /// [`FLAG_SESSION`] or 0.
    pub flags: u8,
    /// Version of that structure.
    pub ver: u16,
}

/// Writes the head into the first [`ENVELOPE_LEN`] bytes of `out`.
///
/// # Panics
///
/// If `out` is shorter than the head.
pub fn encode(out: &mut [u8], stamp_ms: u64, head: Head, body_len: u32) {
    assert!(out.len() >= ENVELOPE_LEN, "the head fits");
    out[0..8].copy_from_slice(&stamp_ms.to_le_bytes());
    out[8] = head.kind;
    out[9] = head.flags;
    out[10..12].copy_from_slice(&head.ver.to_le_bytes());
    out[12..16].copy_from_slice(&body_len.to_le_bytes());
}

/// Writes the session part into the first [`SESSION_LEN`] bytes of `out`.
///
/// # Panics
///
/// If `out` is shorter than that.
pub fn encode_session(out: &mut [u8], call: SessionCall) {
    assert!(out.len() >= SESSION_LEN, "the session part fits");
    out[0..16].copy_from_slice(&call.session.to_le_bytes());
    out[16..24].copy_from_slice(&call.seq.to_le_bytes());
    out[24..32].copy_from_slice(&call.ack_below.to_le_bytes());
}

/// The caller has checked the length.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl<'a> Envelope<'a> {
    /// Reads the head of `payload` and finds the body.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError`]: the payload is shorter than it says, or has unknown flags.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, EnvelopeError> {
        let missing = |need: usize| EnvelopeError::Truncated { need: need - payload.len() };
        if payload.len() < ENVELOPE_LEN {
            return Err(missing(ENVELOPE_LEN));
        }
        let flags = payload[9];
        if flags & !FLAG_SESSION != 0 {
            return Err(EnvelopeError::Flags(flags));
        }
        let has_session = flags & FLAG_SESSION != 0;
        let start = ENVELOPE_LEN + if has_session { SESSION_LEN } else { 0 };
        let body_len = u32::from_le_bytes(field(payload, 12));
        let end = start.saturating_add(usize::try_from(body_len).unwrap_or(usize::MAX));
        if payload.len() < end {
            return Err(missing(end));
        }
        let session = has_session.then(|| SessionCall {
            session: u128::from_le_bytes(field(payload, 16)),
            seq: u64::from_le_bytes(field(payload, 32)),
            ack_below: u64::from_le_bytes(field(payload, 40)),
        });
        Ok(Self {
            stamp_ms: u64::from_le_bytes(field(payload, 0)),
            kind: payload[8],
            ver: u16::from_le_bytes(field(payload, 10)),
            session,
            body: &payload[start..end],
        })
    }
}

const NANOS_A_US: u64 = 1_000;
const MICROS_A_MS: u64 = 1_000;

/// The leader's log time: stamps that never fall and run at 0.9 to 1.1 of real time, whatever the
/// wall clock does. Pure arithmetic; the caller passes both clocks.
///
/// Kept in microseconds: called once a millisecond, a tenth of whole milliseconds would be lost
/// each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogClock {
    stamp_us: u64,
    /// Boot clock at `stamp_us`, in nanoseconds.
    at_ns: u64,
}

impl LogClock {
    /// Begins a leadership at boot time `boot_ns`: log time goes on from the state's clock
    /// `sm_clock_ms`, or from the lower median of `walls_ms` (this node's wall clock and those of
    /// the voters that lanes reach) if that is later. `walls_ms` is sorted by this call.
    #[must_use]
    pub fn lead(sm_clock_ms: u64, walls_ms: &mut [u64], boot_ns: u64) -> Self {
        walls_ms.sort_unstable();
        let middle = walls_ms.len().saturating_sub(1) / 2;
        let wall_ms = walls_ms.get(middle).copied().unwrap_or(0);
        let stamp_us = sm_clock_ms.max(wall_ms).saturating_mul(MICROS_A_MS);
        Self { stamp_us, at_ns: boot_ns }
    }

    /// The stamp of an entry taken now, in milliseconds.
    pub fn stamp(&mut self, wall_ms: u64, boot_ns: u64) -> u64 {
        let elapsed_us = boot_ns.saturating_sub(self.at_ns) / NANOS_A_US;
        if elapsed_us >= MICROS_A_MS {
            let tenth = elapsed_us / 10;
            let low = self.stamp_us.saturating_add(elapsed_us - tenth);
            let high = self.stamp_us.saturating_add(elapsed_us.saturating_add(tenth));
            self.stamp_us = wall_ms.saturating_mul(MICROS_A_MS).clamp(low, high);
            self.at_ns += elapsed_us * NANOS_A_US;
        }
        self.stamp_ms()
    }

    /// The last stamp given, in milliseconds.
    pub fn stamp_ms(self) -> u64 {
        self.stamp_us / MICROS_A_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: SessionCall = SessionCall { session: 7 << 100, seq: 9, ack_below: 8 };

    fn payload(session: Option<SessionCall>, body: &[u8]) -> Vec<u8> {
        let flags = if session.is_some() { FLAG_SESSION } else { 0 };
        let mut out = vec![0; ENVELOPE_LEN];
        let body_len = u32::try_from(body.len()).unwrap();
        encode(&mut out, 0x0102_0304_0506, Head { kind: 32, flags, ver: 0x0201 }, body_len);
        if let Some(call) = session {
            let mut part = [0; SESSION_LEN];
            encode_session(&mut part, call);
            out.extend_from_slice(&part);
        }
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn a_payload_comes_back_with_and_without_a_session() {
        for session in [None, Some(CALL)] {
            let bytes = payload(session, b"body");
            let want = Envelope {
                stamp_ms: 0x0102_0304_0506,
                kind: 32,
                ver: 0x0201,
                session,
                body: b"body",
            };
            assert_eq!(Envelope::parse(&bytes), Ok(want));
        }
    }

    #[test]
    fn the_bytes_of_a_head_are_frozen() {
        let want = [6, 5, 4, 3, 2, 1, 0, 0, 32, 0, 1, 2, 4, 0, 0, 0, b'b', b'o', b'd', b'y'];
        assert_eq!(payload(None, b"body"), want);
    }

    #[test]
    fn padding_after_the_body_means_nothing() {
        let mut bytes = payload(Some(CALL), b"body");
        bytes.extend_from_slice(&[9; 13]);
        assert_eq!(Envelope::parse(&bytes).unwrap().body, b"body");
    }

    #[test]
    fn a_payload_cut_anywhere_says_how_much_is_missing() {
        for session in [None, Some(CALL)] {
            let bytes = payload(session, b"body");
            for len in 0..bytes.len() {
                let want = if len < ENVELOPE_LEN { ENVELOPE_LEN } else { bytes.len() };
                let need = want - len;
                assert_eq!(
                    Envelope::parse(&bytes[..len]),
                    Err(EnvelopeError::Truncated { need }),
                    "cut at {len}"
                );
            }
        }
    }

    #[test]
    fn a_flipped_bit_never_reads_past_the_payload() {
        let bytes = payload(Some(CALL), b"body");
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(head) = Envelope::parse(&bad) {
                assert!(head.body.len() <= bytes.len() - ENVELOPE_LEN);
            }
        }
        let mut huge = bytes;
        huge[12..16].fill(0xff);
        assert!(matches!(Envelope::parse(&huge), Err(EnvelopeError::Truncated { .. })));
    }

    #[test]
    fn unknown_flags_are_told_from_a_torn_payload() {
        let mut bytes = payload(None, b"body");
        bytes[9] = 0x82;
        assert_eq!(Envelope::parse(&bytes), Err(EnvelopeError::Flags(0x82)));
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn log_time_follows_a_good_clock() {
        let mut clock = LogClock::lead(0, &mut [5_000], 0);
        for ms in 0..1_000 {
            assert_eq!(clock.stamp(5_000 + ms, ms * MS), 5_000 + ms);
        }
    }

    #[test]
    fn wall_step_expires_nothing() {
        for step in [-3_600_000_i64, 3_600_000] {
            let mut clock = LogClock::lead(0, &mut [10_000_000], 0);
            let stepped = 10_000_000_u64.checked_add_signed(step).unwrap();
            let (mut last, mut boot_ms) = (10_000_000, 0);
            for _ in 0..10_000 {
                boot_ms += 1;
                let stamp = clock.stamp(stepped + boot_ms, boot_ms * MS);
                assert!(stamp >= last, "log time never falls");
                last = stamp;
            }
            let ran = last - 10_000_000;
            assert!((9_000..=11_000).contains(&ran), "10 s of real time are {ran} ms");
            let want = if step < 0 { 9_000 } else { 11_000 };
            assert!(ran.abs_diff(want) <= 1, "the bound is kept at any rate of calls: {ran}");
        }
    }

    #[test]
    fn one_wrong_clock_outvoted() {
        for wrong in [0, u64::MAX] {
            let clock = LogClock::lead(0, &mut [wrong, 7_000, 7_010], 0);
            assert!((7_000..=7_010).contains(&clock.stamp_ms()));
        }
        let even = LogClock::lead(0, &mut [7_000, u64::MAX], 0);
        assert_eq!(even.stamp_ms(), 7_000, "the lower median");
    }

    #[test]
    fn a_new_leader_goes_on_from_the_clock_of_the_state() {
        let mut clock = LogClock::lead(9_000, &mut [7_000], 50 * MS);
        assert_eq!(clock.stamp_ms(), 9_000);
        assert_eq!(clock.stamp(7_000, 60 * MS), 9_009, "it slows down until the wall catches up");
        assert_eq!(clock.stamp(7_000, 40 * MS), 9_009, "a boot clock that falls moves nothing");
    }
}
