//! File to memory: the mapping that an open works on, and the heap twin that models use.

use crate::layout::Layout;
use crate::memory::Memory;
use crate::sync::{AtomicU32, AtomicU64};

/// The mapping of a whole file, seen as the words of its layout.
#[cfg(not(disk_chan_loom))]
#[derive(Debug)]
pub struct Map {
    map: memmap2::MmapRaw,
    layout: Layout,
    uuid: [u64; 2],
}

#[cfg(not(disk_chan_loom))]
impl Map {
    /// Maps `file`, which has all the bytes that `layout` wants. A child of this process will not
    /// have the mapping.
    pub fn new(file: &std::fs::File, layout: Layout, uuid: [u64; 2]) -> std::io::Result<Self> {
        let len = layout.file_bytes() as usize;
        let map = memmap2::MmapOptions::new().len(len).map_raw(file)?;
        map.advise(memmap2::Advice::DontFork)?;
        Ok(Self { map, layout, uuid })
    }

    /// Where things lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    fn words(&self, from: usize, count: usize) -> &[AtomicU64] {
        assert!(from.is_multiple_of(8) && from + count * 8 <= self.map.len());
        // SAFETY: inside the mapping, as just asserted.
        let at = unsafe { self.map.as_mut_ptr().add(from) };
        // SAFETY: `at` is aligned, as a mapping begins at a page and `from` is a multiple of 8, and
        // has `count` words that live as long as `self`. These bytes are accessed only as atomic
        // words of this width, or read through `Page::payload` under its conditions; other
        // processes keep the same rule.
        unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), count) }
    }

    fn halves(&self, from: usize, count: usize) -> &[AtomicU32] {
        assert!(from.is_multiple_of(4) && from + count * 4 <= self.map.len());
        // SAFETY: inside the mapping, as just asserted.
        let at = unsafe { self.map.as_mut_ptr().add(from) };
        // SAFETY: as in `words`; these bytes are accessed only as 32-bit atomics.
        unsafe { std::slice::from_raw_parts(at.cast::<AtomicU32>(), count) }
    }

    /// The words.
    #[inline]
    pub fn memory(&self) -> Memory<'_> {
        let l = &self.layout;
        let wake = l.control_words * 8;
        let pages = wake + l.wake_halves() * 4;
        Memory {
            layout: l,
            control: self.words(0, l.control_words),
            wake: self.halves(wake, l.wake_halves()),
            pages: self.words(pages, l.page_words * l.geometry.max_pages),
            uuid: self.uuid,
        }
    }

    /// Writes a range of bytes to stable storage.
    pub fn sync(&self, range: std::ops::Range<usize>) -> std::io::Result<()> {
        self.map.flush_range(range.start, range.len())
    }
}

/// The same words on the heap.
#[cfg(any(disk_chan_loom, test))]
#[derive(Debug)]
pub struct Heap {
    layout: Layout,
    control: Vec<AtomicU64>,
    wake: Vec<AtomicU32>,
    pages: Vec<AtomicU64>,
}

#[cfg(any(disk_chan_loom, test))]
impl Heap {
    /// A new channel whose first page is `first_page`.
    pub fn new(layout: Layout, first_page: u64) -> Self {
        let words = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        let heap = Self {
            control: words(layout.control_words),
            wake: (0..layout.wake_halves()).map(|_| AtomicU32::new(0)).collect(),
            pages: words(layout.page_words * layout.geometry.max_pages),
            layout,
        };
        heap.memory().format(first_page);
        heap
    }

    /// The words.
    pub fn memory(&self) -> Memory<'_> {
        Memory {
            layout: &self.layout,
            control: &self.control,
            wake: &self.wake,
            pages: &self.pages,
            uuid: [1, 2],
        }
    }
}
