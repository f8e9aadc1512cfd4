//! Ctrl-C and SIGTERM: noted, and looked for between messages.
//!
//! **Invariants.** The first signal only sets a flag, and whoever waits looks at it at every tick. The second one ends
//! the process at once; what it held is then given back by whoever has the channel open next.

use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::face::Interrupted;

/// How often whoever waits looks at the flag.
pub const TICK: Duration = Duration::from_millis(100);

/// Whether the process was told to stop: the signal, or 0.
#[derive(Clone)]
pub struct Stop(Arc<AtomicUsize>);

/// From now on these signals are noted: the last one, or 0.
pub fn note(signals: &[i32]) -> io::Result<Arc<AtomicUsize>> {
    let (signal, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    for &number in signals {
        // In this order: the first signal finds the flag unset.
        flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&told))?;
        flag::register(number, Arc::clone(&told))?;
        flag::register_usize(number, Arc::clone(&signal), number as usize)?;
    }
    Ok(signal)
}

impl Stop {
    /// From now on signals are noted.
    pub fn on_signals() -> io::Result<Self> {
        Ok(Self(note(&[SIGINT, SIGTERM])?))
    }

    /// Whether it was told to stop.
    pub fn is_told(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// An error if it was told to stop.
    pub fn check(&self) -> Result<(), Interrupted> {
        match self.0.load(Relaxed) {
            0 => Ok(()),
            signal => Err(Interrupted(signal as i32)),
        }
    }

    /// Waits for a future; nothing if it was told to stop, which drops the future.
    pub fn wait<F: Future>(&self, future: F) -> Result<F::Output, Interrupted> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let (mut future, mut cx) = (pin!(future), Context::from_waker(&waker));
        loop {
            self.check()?;
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return Ok(output);
            }
            thread::park_timeout(TICK);
        }
    }

    /// Sleeps for so long, or until it is told to stop.
    pub fn sleep(&self, time: Duration) {
        let start = Instant::now();
        while let Some(rest) = time.checked_sub(start.elapsed()).filter(|rest| !rest.is_zero() && !self.is_told()) {
            thread::sleep(rest.min(TICK));
        }
    }
}

/// Whether something is ready within a time. A signal makes it return early.
pub fn is_ready(fd: impl AsFd, what: PollFlags, within: Duration) -> io::Result<bool> {
    let within = Timespec { tv_sec: 0, tv_nsec: within.subsec_nanos().into() };
    match poll(&mut [PollFd::new(&fd, what)], Some(&within)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
