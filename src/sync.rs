//! The only door to atomics, fences and locks: the standard library's, or loom's under
//! `cfg(disk_chan_loom)`, so that the model checker runs the functions that ship.
#![forbid(unsafe_code)]

#[cfg(not(disk_chan_loom))]
pub use std::sync::{
    Mutex,
    atomic::{AtomicU32, AtomicUsize, Ordering, fence},
};

#[cfg(not(any(test, disk_chan_loom)))]
pub use std::sync::atomic::AtomicU64;

/// In unit tests, words whose changes a simulated disk is told of.
#[cfg(all(test, not(disk_chan_loom)))]
pub use crate::power_loss::hook::AtomicU64;

#[cfg(disk_chan_loom)]
pub use loom::sync::{
    Mutex,
    atomic::{AtomicU32, AtomicUsize, Ordering, fence},
};

/// Loom's, with a read-modify-write of another word before each load. Loom remembers only the last
/// access to a word: a load and then a swap by one thread hide the load that another thread made
/// before, and the other order is never tried. With it, loads have an order that is permuted.
#[cfg(disk_chan_loom)]
#[derive(Debug)]
pub struct AtomicU64 {
    word: loom::sync::atomic::AtomicU64,
    order: loom::sync::atomic::AtomicU64,
}

#[cfg(disk_chan_loom)]
#[allow(missing_docs)]
impl AtomicU64 {
    pub fn new(value: u64) -> Self {
        Self { word: loom::sync::atomic::AtomicU64::new(value), order: loom::sync::atomic::AtomicU64::new(0) }
    }

    pub fn load(&self, order: Ordering) -> u64 {
        self.order.swap(0, Ordering::Relaxed); // orders nothing
        self.word.load(order)
    }
}

#[cfg(disk_chan_loom)]
impl std::ops::Deref for AtomicU64 {
    type Target = loom::sync::atomic::AtomicU64;

    fn deref(&self) -> &Self::Target {
        &self.word
    }
}

/// A full fence where the instruction before it in this thread was a `SeqCst` read-modify-write.
///
/// On x86-64 that instruction is already a full barrier, for every access before and after it, and
/// only the compiler is left to be held back. Elsewhere, and in loom, it is the real fence.
#[inline]
pub fn full_fence_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(disk_chan_loom)))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(any(not(target_arch = "x86_64"), disk_chan_loom))]
    fence(Ordering::SeqCst);
}

/// One step of waiting for another thread that is a few instructions away from finished.
#[inline]
pub fn pause() {
    #[cfg(not(disk_chan_loom))]
    std::hint::spin_loop();
    #[cfg(disk_chan_loom)]
    loom::thread::yield_now();
}

/// How often a bounded wait looks before it gives up and lets the caller sleep or retry.
pub const PATIENCE: usize = if cfg!(disk_chan_loom) { 2 } else { 200 };

/// A small number of the calling thread, by which threads spread over cells.
#[cfg(not(any(test, disk_chan_loom)))]
pub fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    // Relaxed: a counter that orders nothing. In a thread that is ending, any number will do.
    NUMBER.try_with(|n| *n).unwrap_or(0)
}

/// In a model every thread begins its search at the same cell, so that they meet; in a unit test so that
/// it can be repeated.
#[cfg(any(test, disk_chan_loom))]
pub fn thread_number() -> usize {
    0
}

/// A small number of a new receiver, by which receivers spread over cells.
#[cfg(not(any(test, disk_chan_loom)))]
pub fn receiver_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed) // as in `thread_number`
}

#[cfg(all(test, not(disk_chan_loom)))]
pub use crate::power_loss::hook::receiver_number;
