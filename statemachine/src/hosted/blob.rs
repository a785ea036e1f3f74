//! An application's snapshot: written into chunks of memory and read back, off the core.

use std::io;

use bowline_env::Env;
use bytes::{Bytes, BytesMut};

use super::caught;
use crate::machine::StateMachine;
use crate::store::BlobSource;
use crate::{OpenFailure, SmError};

const CHUNK: usize = 1 << 20;

/// Collects what is written in chunks, so that nothing is copied when it grows.
#[derive(Default)]
struct Chunks {
    full: Vec<Bytes>,
    open: BytesMut,
}

impl Chunks {
    fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.full.push(self.open.freeze());
        }
        self.full
    }
}

impl io::Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.open.capacity() == 0 {
            self.open.reserve(CHUNK);
        }
        let len = bytes.len().min(self.open.capacity() - self.open.len());
        self.open.extend_from_slice(&bytes[..len]);
        if self.open.len() == self.open.capacity() {
            self.full.push(core::mem::take(&mut self.open).freeze());
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The snapshot of `frozen`, made when it is polled.
pub(super) fn source<E: Env, M: StateMachine>(env: &E, frozen: M::Frozen) -> BlobSource {
    let written = env.offload(move || {
        caught(|| {
            let mut out = Chunks::default();
            M::write(frozen, &mut out).map(|()| out.finish())
        })
    });
    Box::pin(async move {
        match written.await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(SmError::Panicked),
            Err(_) => Err(SmError::Write),
        }
    })
}

/// A fresh instance that has read the snapshot `body`.
pub(super) async fn restore<E: Env, M: StateMachine>(
    env: &E,
    shard: u64,
    body: Bytes,
) -> Result<M, OpenFailure> {
    let restored = env.offload(move || {
        caught(|| {
            let mut state = M::create(shard);
            state.restore(&body).map(|()| state)
        })
    });
    match restored.await {
        Ok(Ok(Ok(state))) => Ok(state),
        Ok(Ok(Err(why))) => Err(OpenFailure::Restore(why)),
        Ok(Err(text)) => Err(OpenFailure::Panicked(text)),
        Err(error) => Err(OpenFailure::Env(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_written_comes_out_in_order_whatever_its_pieces() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        for piece in [1_000, CHUNK - 1, CHUNK, CHUNK + 1, 2_999_999] {
            let mut out = Chunks::default();
            bytes.chunks(piece).for_each(|piece| out.write_all(piece).unwrap());
            let chunks = out.finish();
            assert!(chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK));
            assert_eq!(chunks.concat(), bytes);
        }
        assert_eq!(Chunks::default().finish(), Vec::<Bytes>::new());
    }
}
