//! Opens: who has the file open, who died, and which op cells each of them uses.
//!
//! **Invariants.**
//! - An entry `{incarnation 32, phase 32}` is LIVE from before the first use of the mapping to the
//!   end of the cleanup. It is made and reused under the open lock, by whoever holds its lock byte.
//! - The lock byte belongs to the file description that the mapping was made through. So a free
//!   byte of a LIVE entry proves that no mapping is left: the open is dead, and what it left may be
//!   cleaned, by anybody and by several at once.
//! - A block of op cells names the open that uses it. Only threads of that open take its cells.
#![forbid(unsafe_code)]

use crate::cells::{OpCell, block_owner};
use crate::layout::{Memory, OP_BLOCK};
use crate::sync::{AtomicU64, AtomicUsize, Ordering, thread_number};
use Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

const STATE: usize = 0;
const HANDLES: usize = 1;
const SLEEPERS: usize = 2;

const LIVE: u64 = 1;

/// One open of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenId {
    /// Its entry.
    pub index: usize,
    /// Which of the opens that used this entry.
    pub incarnation: u32,
}

impl OpenId {
    fn word(self) -> u64 {
        u64::from(self.incarnation) << 32 | LIVE
    }

    /// The open that uses an entry.
    pub fn at(mem: Memory<'_>, index: usize) -> Option<Self> {
        let word = mem.open(index)[STATE].load(SeqCst); // ORDER[open entry]
        (word & LIVE != 0).then_some(Self { index, incarnation: (word >> 32) as u32 })
    }

    /// All opens.
    pub fn all(mem: Memory<'_>) -> impl Iterator<Item = Self> + '_ {
        let used = mem.opens_used().load(Acquire) as usize;
        (0..used.min(mem.layout.geometry.max_opens)).filter_map(move |i| Self::at(mem, i))
    }

    /// Takes the entry `index`, which is free; the caller holds the open lock and its lock byte.
    pub fn attach(mem: Memory<'_>, index: usize) -> Self {
        let line = mem.open(index);
        let incarnation = (line[STATE].load(Acquire) >> 32) as u32;
        let id = Self { index, incarnation: incarnation.wrapping_add(1) };
        for word in [HANDLES, SLEEPERS, SLEEPERS + 1] {
            line[word].store(0, Release);
        }
        mem.opens_used().fetch_max(index as u64 + 1, SeqCst);
        line[STATE].store(id.word(), SeqCst); // ORDER[open entry]
        id
    }

    /// Gives the entry and its op cells back, for an open that ends or that is dead.
    pub fn detach(self, mem: Memory<'_>) {
        for block in 0..mem.layout.geometry.max_op_cells / OP_BLOCK {
            let owner = mem.op_block(block);
            if owner.load(Acquire) == block_owner(self.index, self.incarnation) {
                for cell in block * OP_BLOCK..(block + 1) * OP_BLOCK {
                    OpCell::clear(mem, cell);
                }
                let _ = owner.compare_exchange(block_owner(self.index, self.incarnation), 0, AcqRel, Relaxed);
            }
        }
        let free = self.word() & !LIVE;
        let _ = mem.open(self.index)[STATE].compare_exchange(self.word(), free, SeqCst, Relaxed);
    }

    /// How many handles that keep receivers waiting it has: senders and channels.
    pub fn handles(self, mem: Memory<'_>) -> &AtomicU64 {
        &mem.open(self.index)[HANDLES]
    }

    /// How many receivers, and how many senders, sleep in it.
    pub fn sleepers(self, mem: Memory<'_>) -> [&AtomicU64; 2] {
        let line = mem.open(self.index);
        [&line[SLEEPERS], &line[SLEEPERS + 1]]
    }
}

/// The op cells that this open has, for its threads to share.
#[derive(Debug)]
pub struct OpPool {
    blocks: Box<[AtomicUsize]>,
    len: AtomicUsize,
}

impl OpPool {
    /// No cells yet, and room for `max_op_cells`.
    pub fn new(max_op_cells: usize) -> Self {
        let blocks = (0..max_op_cells / OP_BLOCK).map(|_| AtomicUsize::new(0)).collect();
        Self { blocks, len: AtomicUsize::new(0) }
    }

    /// A cell that `try_take` takes: one of this open, or of a block that nobody had. Each thread
    /// begins its search elsewhere.
    #[inline]
    pub fn take<'a>(
        &self,
        mem: Memory<'a>,
        me: OpenId,
        try_take: impl Fn(usize) -> Option<OpCell<'a>>,
    ) -> Option<OpCell<'a>> {
        let thread = thread_number();
        loop {
            let cells = self.len.load(Acquire).min(self.blocks.len()) * OP_BLOCK;
            for i in 0..cells {
                let nth = (thread + i) % cells;
                // ORDER[pool] Acquire; 0 while another thread is writing it down.
                let Some(block) = self.blocks[nth / OP_BLOCK].load(Acquire).checked_sub(1) else { continue };
                if let Some(cell) = try_take(block * OP_BLOCK + nth % OP_BLOCK) {
                    return Some(cell);
                }
            }
            if !self.grow(mem, me) {
                // Also those of a block that another thread has taken and not written down yet.
                let owner = block_owner(me.index, me.incarnation);
                let ours = (0..self.blocks.len()).filter(|&b| mem.op_block(b).load(Acquire) == owner);
                return ours.flat_map(|b| b * OP_BLOCK..(b + 1) * OP_BLOCK).find_map(try_take);
            }
        }
    }

    fn grow(&self, mem: Memory<'_>, me: OpenId) -> bool {
        let owner = block_owner(me.index, me.incarnation);
        let block = (0..self.blocks.len())
            .find(|&b| mem.op_block(b).compare_exchange(0, owner, AcqRel, Relaxed).is_ok());
        let Some(block) = block else { return false };
        let nth = self.len.fetch_add(1, AcqRel);
        self.blocks[nth].store(block + 1, Release); // ORDER[pool]
        true
    }
}
