//! Fork: a child has neither the mapping nor the descriptor of its parent's opens.
//!
//! The lock byte that says that an open is alive belongs to the file description, which a descriptor
//! in a child would keep alive after its parent's death.
//!
//! **Invariants.**
//! - The descriptor of an open is in the registry as long as it is open. Whoever opens or closes one
//!   does it inside the gate, and a fork waits until nobody is inside. So the child knows them all.
//! - The child closes them before anything else runs in it, and counts the fork. What was made before
//!   that count is *inherited*: it is never used again, nor dropped, as its descriptor number and its
//!   addresses may be something else's by now. (The mapping is not inherited at all: see `map.rs`.)
//! - What runs in the child is loads, stores and `close`, as the other threads' locks may be held.
#![forbid(unsafe_code)]

use crate::sys;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicI32, AtomicU64};

/// Forks that lie between the first process and this one.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// How many forks there have been: what is made now carries this.
#[inline]
pub fn count() -> u64 {
    FORKS.load(Relaxed) // only ever changed in a child, before anything else runs there
}

/// The gate: `{forks that wait or run 32, threads inside 32}`.
static GATE: AtomicU64 = AtomicU64::new(0);
const FORK: u64 = 1 << 32;
const INSIDE: u64 = FORK - 1;

/// Somebody inside the gate.
#[derive(Debug)]
struct Inside;

impl Inside {
    fn enter() -> Self {
        loop {
            let seen = GATE.load(Relaxed);
            let free = seen < FORK;
            // Acquire: what the child's handler left, in a process that was forked.
            if free && GATE.compare_exchange(seen, seen + 1, Acquire, Relaxed).is_ok() {
                return Self;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        GATE.fetch_sub(1, Release); // the registry, before a fork goes on
    }
}

extern "C" fn before_fork() {
    GATE.fetch_add(FORK, AcqRel);
    while GATE.load(Acquire) & INSIDE != 0 {
        std::thread::yield_now();
    }
}

extern "C" fn after_fork_in_parent() {
    GATE.fetch_sub(FORK, AcqRel);
}

extern "C" fn after_fork_in_child() {
    let mut node = REGISTRY.get();
    while let Some(entry) = node {
        let fd = entry.fd.swap(NONE, AcqRel);
        if fd != NONE {
            sys::close(fd);
        }
        node = entry.next.get();
    }
    FORKS.fetch_add(1, AcqRel);
    GATE.store(0, Release); // this thread is the only one
}

/// The registry: a list that only grows. An entry without a descriptor is used again.
static REGISTRY: OnceLock<Box<Entry>> = OnceLock::new();
const NONE: RawFd = -1;

#[derive(Debug)]
struct Entry {
    fd: AtomicI32,
    next: OnceLock<Box<Entry>>,
}

fn register(fd: RawFd) -> &'static Entry {
    let mut node = &REGISTRY;
    loop {
        // In a fork's child this list is whole: it was changed inside the gate alone.
        let entry = node.get_or_init(|| Box::new(Entry { fd: AtomicI32::new(NONE), next: OnceLock::new() }));
        if entry.fd.compare_exchange(NONE, fd, AcqRel, Relaxed).is_ok() {
            return entry;
        }
        node = &entry.next;
    }
}

/// A file that a forked child does not have.
#[derive(Debug)]
pub struct Unshared {
    entry: &'static Entry,
    file: File,
    /// Left after the file was closed.
    inside: Option<Inside>,
}

impl Unshared {
    /// What `open` opens.
    pub fn open(open: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Self> {
        static HANDLERS: OnceLock<Result<(), i32>> = OnceLock::new();
        let handlers = HANDLERS.get_or_init(|| {
            let set = sys::at_fork(before_fork, after_fork_in_parent, after_fork_in_child);
            set.map_err(|error| error.raw_os_error().unwrap_or(libc::ENOMEM))
        });
        handlers.map_err(io::Error::from_raw_os_error)?;
        let _inside = Inside::enter();
        let file = File::from(open()?);
        Ok(Self { entry: register(file.as_raw_fd()), file, inside: None })
    }
}

impl Deref for Unshared {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        self.inside = Some(Inside::enter());
        self.entry.fd.store(NONE, Release);
    }
}
