//! Work that may wait for the disk, away from an executor's threads.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs something on another thread, and waits for what it returns.
pub async fn off_thread<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let (tx, rx) = tokio::sync::oneshot::channel();
    let run = move || drop(tx.send(catch_unwind(AssertUnwindSafe(f))));
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(run)),
        // Another executor, or none: a thread for this once.
        Err(_) => drop(std::thread::spawn(run)),
    }
    match rx.await {
        Ok(Ok(out)) => out,
        Ok(Err(panic)) => resume_unwind(panic),
        // Only a runtime that is being shut down drops the work; it polls this no more.
        Err(_) => std::future::pending().await,
    }
}
