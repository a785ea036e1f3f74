//! Room for pages and values while a section streams out in one pass.
//!
//! One extent for pages and one for values are open at a time; their place in the section is fixed
//! when they are opened, 4 KiB doubling to 64 KiB. They leave in the order of their places. An
//! extent that holds up more than [`PENDING_MAX`] bytes is closed where it stands.

use std::collections::VecDeque;

use super::format::{CHUNK, PAGE, round_up, u64_of, usize_of};

/// Bytes that wait at most behind an open extent.
const PENDING_MAX: usize = 256 << 10;
/// Largest extent that several values share.
const EXTENT_MAX: usize = 64 << 10;
/// From this length on a value has an extent of its own: less is lost behind the last one.
const OWN_EXTENT: usize = 16 << 10;
/// Values start at multiples of it.
const VALUE_ALIGN: usize = 16;

/// What an extent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Pages,
    Values,
}

#[derive(Debug)]
struct Extent {
    lane: Lane,
    off: u64,
    cap: usize,
    bytes: Vec<u8>,
    open: bool,
}

/// Checksums of everything that leaves, one per MiB.
#[derive(Debug, Default)]
struct Chunks {
    crc: crc32fast::Hasher,
    filled: usize,
    done: Vec<u32>,
}

impl Chunks {
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(CHUNK - self.filled));
            self.crc.update(now);
            self.filled += now.len();
            bytes = rest;
            if self.filled == CHUNK {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        if self.filled > 0 {
            self.done.push(core::mem::take(&mut self.crc).finalize());
            self.filled = 0;
        }
    }
}

/// The extents of a section that is being written.
#[derive(Debug)]
pub(crate) struct Extents {
    queue: VecDeque<Extent>,
    next_off: u64,
    caps: [usize; 2],
    chunks: Chunks,
    out: Vec<u8>,
}

impl Extents {
    pub(crate) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            next_off: 0,
            caps: [PAGE; 2],
            chunks: Chunks::default(),
            out: Vec::new(),
        }
    }

    /// Bytes that are ready to leave.
    pub(crate) const fn ready(&self) -> usize {
        self.out.len()
    }

    /// Takes what is ready, in order.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.out)
    }

    /// The place that the next page or value of `len` bytes gets. Opens an extent if need be.
    pub(crate) fn room(&mut self, lane: Lane, len: usize) -> u64 {
        if let Some(extent) = self.open_mut(lane) {
            let start = extent.bytes.len().next_multiple_of(VALUE_ALIGN);
            if start + len <= extent.cap {
                extent.bytes.resize(start, 0);
                return extent.off + u64_of(start);
            }
            extent.open = false;
        }
        let next = &mut self.caps[usize::from(lane == Lane::Values)];
        let cap = if lane == Lane::Values && len >= OWN_EXTENT {
            len.next_multiple_of(PAGE)
        } else {
            let cap = (*next).max(len.next_multiple_of(PAGE)).min(EXTENT_MAX);
            *next = (cap * 2).min(EXTENT_MAX);
            cap
        };
        let off = self.next_off;
        self.next_off += u64_of(cap);
        self.queue.push_back(Extent { lane, off, cap, bytes: Vec::with_capacity(cap), open: true });
        off
    }

    /// Puts bytes where [`Extents::room`] said.
    pub(crate) fn put(&mut self, lane: Lane, bytes: &[u8]) {
        let extent = self.open_mut(lane).expect("room was made");
        extent.bytes.extend_from_slice(bytes);
        assert!(extent.bytes.len() <= extent.cap, "an extent is not overfilled");
        extent.open = extent.bytes.len() < extent.cap;
        self.settle();
    }

    /// Puts bytes behind everything else, padded to whole pages, and returns their place. Extents
    /// are closed.
    pub(crate) fn area(&mut self, bytes: &[u8]) -> u64 {
        assert!(self.queue.is_empty(), "areas follow the extents");
        let off = self.next_off;
        self.emit(bytes, bytes.len().next_multiple_of(PAGE));
        self.next_off += u64_of(bytes.len().next_multiple_of(PAGE));
        off
    }

    /// Part of a body that is one stream; the last part is padded by [`Extents::close`].
    pub(crate) fn body(&mut self, bytes: &[u8]) {
        self.emit(bytes, bytes.len());
        self.next_off += u64_of(bytes.len());
    }

    /// Closes the extents; the last one is cut behind its last page.
    pub(crate) fn close(&mut self) {
        if let Some(last) = self.queue.back_mut() {
            last.cap = last.bytes.len().next_multiple_of(PAGE);
            self.next_off = last.off + u64_of(last.cap);
        }
        for extent in &mut self.queue {
            extent.open = false;
        }
        self.settle();
        let padding = usize_of(round_up(self.next_off) - self.next_off).expect("less than a page");
        self.emit(&[], padding);
        self.next_off = round_up(self.next_off);
    }

    /// Bytes before the next area.
    pub(crate) const fn len(&self) -> u64 {
        self.next_off
    }

    /// Checksums of all that left so far, as they are written.
    pub(crate) fn chunk_crcs(&mut self) -> Vec<u8> {
        self.chunks.close();
        self.chunks.done.iter().flat_map(|crc| crc.to_le_bytes()).collect()
    }

    fn open_mut(&mut self, lane: Lane) -> Option<&mut Extent> {
        self.queue.iter_mut().find(|extent| extent.open && extent.lane == lane)
    }

    fn settle(&mut self) {
        loop {
            let pending: usize = self.queue.iter().map(|extent| extent.cap).sum();
            let Some(front) = self.queue.front_mut() else { return };
            if front.open && pending <= PENDING_MAX {
                return;
            }
            if front.open {
                self.caps[usize::from(front.lane == Lane::Values)] = PAGE;
            }
            let extent = self.queue.pop_front().expect("there is a front");
            self.emit(&extent.bytes, extent.cap);
        }
    }

    fn emit(&mut self, bytes: &[u8], len: usize) {
        let start = self.out.len();
        self.out.extend_from_slice(bytes);
        self.out.resize(start + len, 0);
        self.chunks.feed(&self.out[start..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_of_their_places() {
        let mut extents = Extents::new();
        let mut all = Vec::new();
        let mut placed = Vec::new();
        for n in 0..2_000_usize {
            let (lane, bytes) = if n % 3 == 0 {
                (Lane::Values, vec![n.to_le_bytes()[0]; 1_025 + (n * 37) % 40_000])
            } else {
                (Lane::Pages, vec![n.to_le_bytes()[0]; PAGE])
            };
            let off = extents.room(lane, bytes.len());
            assert!(off.is_multiple_of(16));
            extents.put(lane, &bytes);
            placed.push((usize_of(off).unwrap(), bytes));
            all.extend(extents.take());
            let waiting = placed.iter().map(|(off, bytes)| off + bytes.len()).max().unwrap();
            assert!(waiting - all.len().min(waiting) <= PENDING_MAX + EXTENT_MAX);
        }
        extents.close();
        all.extend(extents.take());
        assert_eq!(u64_of(all.len()), extents.len());
        let used: usize = placed.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(all.len() < used * 5 / 4, "{} bytes for {used}", all.len());
        for (off, bytes) in &placed {
            assert_eq!(&all[*off..off + bytes.len()], &bytes[..]);
        }
        let crcs: Vec<u8> =
            all.chunks(CHUNK).flat_map(|chunk| crc32fast::hash(chunk).to_le_bytes()).collect();
        assert_eq!(extents.chunk_crcs(), crcs);
    }

    #[test]
    fn a_small_section_is_cut_behind_its_last_page() {
        let mut extents = Extents::new();
        for _ in 0..4 {
            extents.room(Lane::Pages, PAGE);
            extents.put(Lane::Pages, &[1; PAGE]);
        }
        extents.close();
        assert_eq!(extents.len(), u64_of(4 * PAGE));
        assert_eq!(extents.take().len(), 4 * PAGE);
    }
}
