//! Blocking a thread on something that is polled.
#![forbid(unsafe_code)]

use rustix::thread::futex;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

/// One thread's word to sleep on: 1 once it was woken.
#[derive(Default)]
struct Parker(AtomicU32);

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // ORDER[park] Release: what the waker changed comes before the poll that follows.
        if self.0.swap(1, Release) == 0 {
            atomic_wait::wake_one(&self.0);
        }
    }
}

impl Parker {
    /// Sleeps until woken; false if the deadline passed first.
    fn park(&self, deadline: Option<Instant>) -> bool {
        while self.0.swap(0, Acquire) == 0 {
            let Some(deadline) = deadline else {
                atomic_wait::wait(&self.0, 0);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let left = futex::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            // An error is a reason to look again, and the loop does.
            let _ = futex::wait(&self.0, futex::Flags::PRIVATE, 0, Some(&left));
        }
        true
    }
}

/// Polls until ready, asleep in between. With a deadline goes what is returned if it passes first.
pub fn block_on<T>(deadline: Option<(Instant, T)>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    thread_local!(static PARKER: Arc<Parker> = Arc::default());
    // In a thread that is ending there is none, and one more is made.
    let parker = PARKER.try_with(Arc::clone).unwrap_or_default();
    let waker = Waker::from(Arc::clone(&parker));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(out) = poll(&mut cx) {
            return out;
        }
        let in_time = parker.park(deadline.as_ref().map(|(at, _)| *at));
        if !in_time && let Some((_, late)) = deadline {
            return late;
        }
    }
}
