//! What the targets share: messages that can be told from any other bytes, changes to a file's words, and
//! an allocator with a limit.

pub mod face;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::LazyLock;

/// What messages are made of: no two places are alike for long.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut seed = 1u64;
    let next = |_| {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (seed >> 56) as u8
    };
    (0..1 << 16).map(next).collect()
});

fn pattern(number: u64) -> &'static [u8] {
    &PATTERN[(number % 1000) as usize..]
}

/// A message that carries its number and can be checked; at least 8 bytes.
pub fn body(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    bytes.extend(number.to_le_bytes());
    bytes.extend(&pattern(number)[..len - 8]);
    bytes
}

/// Whether a message is one that [`body`] made.
pub fn is_body(message: &[u8]) -> bool {
    let Some((number, rest)) = message.split_first_chunk() else { return false };
    let number = u64::from_le_bytes(*number);
    number < 1 << 20 && pattern(number).starts_with(rest)
}

/// What is left of an input.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn byte(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }

    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// Zeros where there are no more.
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let n = N.min(self.0.len());
        bytes[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        bytes
    }

    /// A word for the place where `old` is now; `other` is what stands anywhere else. Most real words
    /// are small numbers beside each other, so most changes are small.
    pub fn change(&mut self, old: u64, other: impl Fn(usize) -> u64) -> u64 {
        match self.byte() % 12 {
            0 => self.word(),
            1 => old ^ self.word(),
            2 => old ^ 1 << (self.byte() % 64),
            3 => old.wrapping_add(1 << (self.byte() % 64)),
            4 => old.wrapping_sub(1 << (self.byte() % 64)),
            5 => old.wrapping_add(u64::from(self.byte())),
            6 => old & !0xffff | u64::from(self.byte()),
            7 => other(self.word() as u16 as usize),
            8 => old & u64::MAX << 32 | other(self.word() as u16 as usize) & u64::from(u32::MAX),
            9 => old & u64::from(u32::MAX) | other(self.word() as u16 as usize) & u64::MAX << 32,
            10 => u64::MAX << (self.byte() % 64),
            _ => u64::MAX >> (self.byte() % 64),
        }
    }

    /// Where to change something: mostly at one of `likely`, which are not many.
    pub fn place(&mut self, likely: &[u32], len: usize) -> usize {
        match self.byte() {
            n @ 0..128 => likely[(usize::from(n) << 8 | usize::from(self.byte())) % likely.len()] as usize,
            n => (usize::from(n) << 16 | self.word16()) % len,
        }
    }

    fn word16(&mut self) -> usize {
        u16::from_le_bytes(self.bytes()).into()
    }
}

/// Counts what one thread has allocated, and panics where one allocation is too large to be right.
pub struct Limited;

thread_local!(static LIMIT: Cell<usize> = const { Cell::new(usize::MAX) });

/// No allocation of this thread may be larger while `f` runs.
pub fn with_limit<T>(bytes: usize, f: impl FnOnce() -> T) -> T {
    LIMIT.set(bytes);
    let out = f();
    LIMIT.set(usize::MAX);
    out
}

// SAFETY: the system's allocator, asked for what this one was asked for.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if LIMIT.try_with(|limit| layout.size() > limit.get()).unwrap_or(false) && !std::thread::panicking() {
            panic!("an allocation of {} bytes", layout.size());
        }
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(at, layout) }
    }
}
