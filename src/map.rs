//! File to memory: the mapping that an open works on, and the heap twin that models and fuzz targets use.

use crate::layout::Layout;
use crate::memory::{Memory, Parts};
use crate::sync::{AtomicU32, AtomicU64};
#[cfg(not(disk_chan_loom))]
use std::sync::Arc;

/// What may be done to a mapping.
#[cfg(not(disk_chan_loom))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Stores reach the file.
    ReadWrite,
    /// A store ends the process.
    ReadOnly,
    /// Stores stay in this process. Where there was none, what others store may be seen or not.
    Private,
    /// A copy in memory of a file that may be shorter: zeros are where it has nothing.
    Copy,
}

/// The mapping of a whole file, seen as the words of its layout.
#[cfg(not(disk_chan_loom))]
#[derive(Debug)]
pub struct Map {
    /// Ends before the mapping.
    #[cfg(test)]
    _simulated: crate::power_loss::hook::Mapping,
    /// Not really for ever: as long as `map` and `layout` live. Only lent, for the life of a borrow.
    parts: Parts<'static>,
    map: memmap2::MmapRaw,
    access: Access,
    _layout: Arc<Layout>,
}

#[cfg(not(disk_chan_loom))]
impl Map {
    /// Maps `file`, which has all the bytes that `layout` wants, unless it is copied. A child of this process
    /// will not have the mapping.
    pub fn new(file: &std::fs::File, layout: Layout, uuid: [u64; 2], access: Access) -> std::io::Result<Self> {
        let mut options = memmap2::MmapOptions::new();
        options.len(layout.file_bytes() as usize);
        let map = match access {
            Access::ReadWrite => options.map_raw(file)?,
            Access::ReadOnly => options.map_raw_read_only(file)?,
            // SAFETY: the bytes are used as `words` says; that the file may change under them is so
            // for every mapping here.
            Access::Private => unsafe { options.map_copy(file)? }.into(),
            Access::Copy => copied(options.map_anon()?, file)?.into(),
        };
        map.advise(memmap2::Advice::DontFork)?;
        let layout = Arc::new(layout);
        let wake = layout.control_words * 8;
        let pages = wake + layout.wake_halves() * 4;
        let parts = Parts {
            control: words(&map, 0, layout.control_words),
            wake: halves(&map, wake, layout.wake_halves()),
            pages: words(&map, pages, layout.page_words * layout.geometry.max_pages),
            // SAFETY: the layout is kept alive beside this reference, and never changed.
            layout: unsafe { &*Arc::as_ptr(&layout) },
            uuid,
        };
        #[cfg(test)]
        let _simulated = crate::power_loss::hook::Mapping::new(file, map.as_ptr(), map.len(), access)?;
        Ok(Self {
            #[cfg(test)]
            _simulated,
            parts,
            map,
            access,
            _layout: layout,
        })
    }

    /// Where things lie.
    #[inline]
    pub fn layout(&self) -> &Layout {
        self.parts.layout
    }

    /// The channel's own number.
    pub fn uuid(&self) -> [u64; 2] {
        self.parts.uuid
    }

    /// The words.
    #[inline]
    pub fn memory(&self) -> Memory<'_> {
        Memory::new(&self.parts)
    }

    /// Unmaps a range of bytes: who uses it has the kernel map it again. It is only a hint.
    pub fn let_go(&self, range: std::ops::Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.map.len());
        if self.access == Access::ReadWrite {
            // SAFETY: inside the mapping, as just asserted, but for what is rounded to whole blocks of it. The
            // memory of a shared mapping is the file's, so nothing is lost, and an access at the same time
            // finds the same bytes.
            let _ = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
    }

    /// Writes a range of bytes to stable storage.
    pub fn sync(&self, range: std::ops::Range<usize>) -> std::io::Result<()> {
        self.map.flush_range(range.start, range.len())
    }
}

/// Fills it with what the file has.
#[cfg(not(disk_chan_loom))]
fn copied(mut map: memmap2::MmapMut, file: &std::fs::File) -> std::io::Result<memmap2::MmapMut> {
    use std::os::unix::fs::FileExt;
    let mut at = 0;
    while at < map.len() {
        let end = map.len().min(at + (1 << 20));
        match file.read_at(&mut map[at..end], at as u64) {
            Ok(0) => break,
            Ok(n) => at += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(map)
}

/// The caller lends them no longer than `map` lives.
#[cfg(not(disk_chan_loom))]
fn words(map: &memmap2::MmapRaw, from: usize, count: usize) -> &'static [AtomicU64] {
    assert!(from.is_multiple_of(8) && from + count * 8 <= map.len());
    // SAFETY: inside the mapping, as just asserted.
    let at = unsafe { map.as_mut_ptr().add(from) };
    // SAFETY: `at` is aligned, as a mapping begins at a page and `from` is a multiple of 8, and has
    // `count` words that live as long as the mapping. These bytes are accessed only as atomic words
    // of this width, or read through `Place::payload` under its conditions; other processes keep the
    // same rule. In a read-only mapping they are only loaded, each in one access of its width.
    unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), count) }
}

/// As [`words`].
#[cfg(not(disk_chan_loom))]
fn halves(map: &memmap2::MmapRaw, from: usize, count: usize) -> &'static [AtomicU32] {
    assert!(from.is_multiple_of(4) && from + count * 4 <= map.len());
    // SAFETY: inside the mapping, as just asserted.
    let at = unsafe { map.as_mut_ptr().add(from) };
    // SAFETY: as in `words`; these bytes are accessed only as 32-bit atomics.
    unsafe { std::slice::from_raw_parts(at.cast::<AtomicU32>(), count) }
}

/// The same words on the heap.
#[cfg(any(disk_chan_loom, fuzzing))]
#[derive(Debug)]
pub struct Heap {
    /// As in `Map`: as long as what they refer to, which follows.
    parts: Parts<'static>,
    _owned: (Box<Layout>, Vec<AtomicU64>, Vec<AtomicU32>, Vec<AtomicU64>),
}

#[cfg(any(disk_chan_loom, fuzzing))]
impl Heap {
    /// A new channel whose first page is `first_page`.
    pub fn new(layout: Layout, first_page: u64) -> Self {
        let words = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        let halves = (0..layout.wake_halves()).map(|_| AtomicU32::new(0)).collect();
        let (control, pages) = (layout.control_words, layout.page_words * layout.geometry.max_pages);
        let owned: (Box<Layout>, Vec<AtomicU64>, Vec<AtomicU32>, Vec<AtomicU64>) =
            (Box::new(layout), words(control), halves, words(pages));
        // SAFETY: the boxes and vectors are kept beside these references, and never changed; moving
        // them does not move what they own.
        let parts = unsafe {
            Parts {
                layout: &*std::ptr::from_ref(&*owned.0),
                control: &*std::ptr::from_ref(owned.1.as_slice()),
                wake: &*std::ptr::from_ref(owned.2.as_slice()),
                pages: &*std::ptr::from_ref(owned.3.as_slice()),
                uuid: [1, 2],
            }
        };
        let heap = Self { parts, _owned: owned };
        heap.memory().format(first_page);
        heap
    }

    /// The words.
    pub fn memory(&self) -> Memory<'_> {
        Memory::new(&self.parts)
    }
}
