//! A part of a batch as a batch of its own: rare, so it is made anew.

use bowline_env::{Buf, SharedBuf};
use bowline_raft::batch::{Body, BodyWriter, body_len};
use bowline_raft::{BatchHeader, LogIndex};

/// The entries from `from` to `to` of a batch whose body matches its checksum; none: the body is no
/// body, or has none of them.
pub(crate) fn cut(
    head: &BatchHeader,
    body: &[u8],
    from: LogIndex,
    to: LogIndex,
) -> Option<(BatchHeader, SharedBuf)> {
    let parsed = Body::parse(head, body).ok()?;
    let (first, last) = (head.first.max(from), head.last().min(to));
    let skip = usize::try_from(first.0 - head.first.0).ok()?;
    let count = usize::try_from((last.0 + 1).checked_sub(first.0)?).ok().filter(|it| *it > 0)?;
    let nths = skip..skip + count;
    let len = body_len(nths.clone().map(|nth| parsed.payload(nth).len()));
    let mut made = Buf::heap(len);
    let out = &mut made.rest_mut()[..len];
    let mut writer = BodyWriter::new(out, count);
    for nth in nths {
        let payload = parsed.payload(nth);
        writer.entry(payload.len(), |entry| entry.copy_from_slice(payload));
    }
    writer.finish();
    let count = u32::try_from(count).ok()?;
    let len = u32::try_from(len).ok()?;
    let mut head = BatchHeader { first, count, len, ..*head };
    head.crc = head.checksum(out);
    let len = usize::try_from(len).ok()?;
    made.fill(len);
    Some((head, made.share(0..len)))
}

#[cfg(test)]
mod tests {
    use bowline_raft::{ShardId, Term};

    use super::*;

    const PAYLOADS: [&[u8]; 4] = [b"one", b"", b"three is a longer one", b"4"];

    fn whole() -> (BatchHeader, Vec<u8>) {
        let len = body_len(PAYLOADS.iter().map(|payload| payload.len()));
        let mut body = vec![0; len];
        let mut writer = BodyWriter::new(&mut body, PAYLOADS.len());
        for payload in PAYLOADS {
            writer.entry(payload.len(), |out| out.copy_from_slice(payload));
        }
        writer.finish();
        let mut head = BatchHeader {
            shard: ShardId(3),
            first: LogIndex(10),
            term: Term(2),
            count: 4,
            len: u32::try_from(len).unwrap(),
            fmt: 0,
            flags: 0,
            crc: 0,
        };
        head.crc = head.checksum(&body);
        (head, body)
    }

    #[test]
    fn every_part_holds_its_entries_and_its_own_checksum() {
        let (head, body) = whole();
        for from in 9..=13_u64 {
            for to in from.max(10)..=14 {
                let (part, bytes) = cut(&head, &body, LogIndex(from), LogIndex(to)).unwrap();
                assert!(part.matches(&bytes), "{from} to {to}");
                let (first, last) = (from.max(10), to.min(13));
                assert_eq!((part.first, part.last()), (LogIndex(first), LogIndex(last)));
                let parsed = Body::parse(&part, &bytes).unwrap();
                for index in first..=last {
                    let nth = usize::try_from(index - first).unwrap();
                    let of = usize::try_from(index - 10).unwrap();
                    assert_eq!(parsed.payload(nth), PAYLOADS[of]);
                }
            }
        }
    }

    #[test]
    fn nothing_is_cut_from_outside() {
        let (head, body) = whole();
        assert!(cut(&head, &body, LogIndex(14), LogIndex(20)).is_none());
        assert!(cut(&head, &body, LogIndex(1), LogIndex(9)).is_none());
    }
}
