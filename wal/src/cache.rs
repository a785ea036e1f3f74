//! The frames that were written lately, found by number: what followers near the head are sent.

use std::collections::VecDeque;

use bowline_env::SharedBuf;

#[derive(Debug)]
struct Held {
    /// None: nothing in it is worth keeping.
    buf: Option<SharedBuf>,
    capacity: usize,
}

/// Frames by number, bounded by the capacity of their buffers.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    front: u64,
    frames: VecDeque<Held>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize, front: u64) -> Self {
        Self { front, bytes_max, ..Self::default() }
    }

    /// Keeps frame `lsn`, the one after the last.
    pub(crate) fn push(&mut self, lsn: u64, buf: Option<SharedBuf>, capacity: usize) {
        if self.frames.is_empty() {
            self.front = lsn;
        }
        let expected = self.front + crate::field::len_u64(self.frames.len());
        assert!(lsn == expected, "frames are kept in order");
        let capacity = if buf.is_some() { capacity } else { 0 };
        self.bytes += capacity;
        self.frames.push_back(Held { buf, capacity });
    }

    /// Gives up the oldest frames while there are too many bytes; never one beyond `durable`,
    /// which the disk cannot give back yet.
    pub(crate) fn trim(&mut self, durable: u64) {
        while self.bytes > self.bytes_max && self.front <= durable {
            let Some(held) = self.frames.pop_front() else { break };
            self.bytes -= held.capacity;
            self.front += 1;
        }
    }

    pub(crate) fn frame(&self, lsn: u64) -> Option<&SharedBuf> {
        let nth = usize::try_from(lsn.checked_sub(self.front)?).ok()?;
        self.frames.get(nth)?.buf.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use bowline_env::Buf;

    use super::*;

    #[test]
    fn the_oldest_durable_frames_go_first_and_undurable_ones_stay() {
        let mut cache = Cache::new(8192, 7);
        for lsn in 7..11 {
            cache.push(lsn, Some(Buf::heap(4096).freeze(4096)), 4096);
        }
        cache.trim(7);
        assert!(cache.frame(7).is_none());
        assert!(cache.frame(8).is_some());
        cache.trim(10);
        assert!(cache.frame(8).is_none());
        assert!(cache.frame(9).is_some());
        assert!(cache.frame(11).is_none());
    }
}
