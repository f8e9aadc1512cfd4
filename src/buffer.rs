//! Where messages are made before they are sent: a buffer that each thread uses again and again.
//!
//! **Invariants.**
//! - A buffer is its owner's alone: it is taken out of its thread. Who makes a message while another is being made in
//!   the same thread finds none there, and allocates.
//! - A thread keeps one, of at most [`KEPT`] bytes; it is kept by the thread that drops it.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// Most bytes of a buffer that is kept.
const KEPT: usize = 64 << 10;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer. Dropped, its thread keeps it.
#[derive(Debug)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// An empty one.
    #[inline]
    pub fn new() -> Self {
        // A thread that ends has none any more.
        let mut bytes = SPARE.try_with(Cell::take).unwrap_or_default();
        bytes.clear();
        Self(bytes)
    }

    /// One of `len` bytes that are 0.
    pub fn zeroed(len: usize) -> Self {
        if len > KEPT {
            return Self(vec![0; len]); // the system has zeros for large ones
        }
        let mut buffer = Self::new();
        buffer.resize(len, 0);
        buffer
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        if self.0.capacity() <= KEPT {
            let _ = SPARE.try_with(|spare| {
                let other = spare.take();
                let is_larger = other.capacity() > self.0.capacity();
                spare.set(if is_larger { other } else { std::mem::take(&mut self.0) });
            });
        }
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    #[inline]
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spare() -> usize {
        let spare = SPARE.take();
        let capacity = spare.capacity();
        SPARE.set(spare);
        capacity
    }

    #[test]
    fn it_is_used_again_and_clean() {
        let mut first = Buffer::new();
        first.extend([7; 1000]);
        let at = first.as_ptr();
        drop(first);
        let again = Buffer::zeroed(500);
        assert_eq!((again.as_ptr(), &again[..]), (at, &[0; 500][..]));
        drop(again);
        assert!(Buffer::new().is_empty());
    }

    #[test]
    fn two_at_a_time_are_two_and_the_larger_is_kept() {
        let (mut one, mut other) = (Buffer::new(), Buffer::new());
        one.extend([1; 100]);
        other.extend([2; 5000]);
        assert_ne!(one.as_ptr(), other.as_ptr());
        drop(other);
        drop(one);
        assert!(spare() >= 5000);
    }

    #[test]
    fn a_large_one_is_not_kept() {
        drop(Buffer::zeroed(KEPT + 1));
        let mut grown = Buffer::new();
        grown.resize(KEPT + 1, 1);
        drop(grown);
        assert!(spare() <= KEPT);
    }

    #[test]
    fn the_thread_that_drops_it_keeps_it() {
        let mut buffer = Buffer::new();
        buffer.resize(300, 1);
        assert_eq!(spare(), 0);
        assert!(std::thread::spawn(move || (drop(buffer), spare()).1).join().unwrap() >= 300);
        assert_eq!(spare(), 0);
    }
}
