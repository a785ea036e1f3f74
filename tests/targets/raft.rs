//! What stands in entries for every shard: memberships and batches.

use bowline_raft::batch::{Body, BodyWriter, HEADER_LEN, body_len};
use bowline_raft::{BatchHeader, Configuration};

/// A membership has one encoding.
pub(crate) fn membership(bytes: &[u8]) -> bool {
    let Ok(conf) = Configuration::decode(bytes) else { return false };
    assert_eq!(conf.encode().as_deref(), Ok(bytes));
    assert!(conf.members.iter().any(|member| conf.is_voter(member.replica)));
    true
}

/// A batch's header and then its body, whose checksum is not asked for: a liar has it right.
pub(crate) fn batch(bytes: &[u8]) -> bool {
    let Some((head, body)) = bytes.split_first_chunk::<HEADER_LEN>() else { return false };
    let head = BatchHeader::from_bytes(head);
    assert_eq!(head.to_bytes(), bytes[..HEADER_LEN]);
    let Ok(read) = Body::parse(&head, body) else { return false };
    let payloads: Vec<&[u8]> = (0..read.len()).map(|nth| read.payload(nth)).collect();
    let mut made = vec![0; body_len(payloads.iter().map(|payload| payload.len()))];
    assert!(made.len() <= body.len(), "an entry is in the body once");
    let mut writer = BodyWriter::new(&mut made, payloads.len());
    for payload in &payloads {
        writer.entry(payload.len(), |out| out.copy_from_slice(payload));
    }
    writer.finish();
    let again = Body::parse(&head, &made).expect("what is written is read");
    assert!((0..again.len()).map(|nth| again.payload(nth)).eq(payloads));
    true
}
