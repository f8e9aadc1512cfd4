//! A command for each message of a group.
//!
//! **Invariants.** Each worker holds one message, as a lease, while its command runs. It is done when the command
//! ended with status 0, and given back otherwise. Given back only after a pause, so that a message that fails at once
//! does not keep a processor busy.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use disk_chan::{AckError, Lease, Receiver, RecvTimeoutError};

use crate::Outcome;
use crate::face::{self, context};
use crate::recv::warn_lagged;
use crate::stop::{Stop, TICK};

/// The pause after the first attempt; it doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What the workers share.
struct Work<'a> {
    command: &'a str,
    stop: &'a Stop,
    /// Messages that may still be taken.
    left: AtomicU64,
    /// Whether a worker has failed.
    failed: AtomicBool,
}

/// Runs the command for up to `count` messages, for so many at the same time.
pub fn run(command: &str, receiver: Receiver, parallel: u16, count: u64, stop: &Stop) -> Outcome<()> {
    let work = &Work { command, stop, left: AtomicU64::new(count), failed: AtomicBool::new(false) };
    thread::scope(|scope| {
        let receivers = (1..parallel).map(|_| receiver.clone()).collect::<Vec<_>>();
        let workers = receivers.into_iter().chain([receiver]).map(|receiver| scope.spawn(move || work.run(receiver)));
        let workers: Vec<_> = workers.collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).fold(Ok(()), Result::and)
    })
}

impl Work<'_> {
    fn run(&self, mut receiver: Receiver) -> Outcome<()> {
        let worked = self.work(&mut receiver);
        if worked.is_err() {
            self.failed.store(true, Relaxed);
        }
        worked
    }

    fn work(&self, receiver: &mut Receiver) -> Outcome<()> {
        // What is taken and fails is counted as not taken, by the worker that goes on with it.
        while self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            let Some(lease) = self.take(receiver)? else { return Ok(()) };
            if !self.work_on(lease, receiver.group().as_str())? {
                self.left.fetch_add(1, Relaxed);
            }
        }
        Ok(())
    }

    /// The next message, once it is there; nothing at the end.
    fn take(&self, receiver: &mut Receiver) -> Outcome<Option<Lease>> {
        loop {
            self.stop.check()?;
            if self.failed.load(Relaxed) {
                return Ok(None);
            }
            match receiver.lease_for(TICK) {
                Ok(lease) => return Ok(Some(lease)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Lagged(count)) => warn_lagged(count),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Runs the command for a message. Whether it is done.
    fn work_on(&self, lease: Lease, group: &str) -> Outcome<bool> {
        let (offset, attempts) = (lease.offset(), lease.attempts());
        let status = self.execute(&lease, group).map_err(context(format!("{offset}: cannot run the command")))?;
        let (finished, done) = if status.success() {
            (lease.ack(), true)
        } else {
            face::say(format_args!("{offset}: the command ended with {status}; attempt {attempts}"));
            let pause = PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(16));
            self.stop.sleep(pause.min(LONGEST_PAUSE));
            (lease.give_back(), false)
        };
        match finished {
            Ok(()) => {}
            // The message went to make room, or to another receiver: the command had it all the same.
            Err(error @ (AckError::Gone | AckError::Taken)) => face::say(format_args!("{offset}: {error}")),
            Err(error) => return Err(error.into()),
        }
        Ok(done)
    }

    fn execute(&self, lease: &Lease, group: &str) -> io::Result<ExitStatus> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(self.command).stdin(Stdio::piped());
        command.env("DISK_CHAN_GROUP", group);
        command.env("DISK_CHAN_OFFSET", lease.offset().to_string());
        command.env("DISK_CHAN_ATTEMPTS", lease.attempts().to_string());
        match lease.key() {
            Some(key) if !key.contains(&0) => command.env("DISK_CHAN_KEY", OsStr::from_bytes(key)),
            _ => command.env_remove("DISK_CHAN_KEY"),
        };
        let mut child = command.spawn()?;
        let fed = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(lease));
        let status = child.wait()?;
        match fed {
            // It need not read it.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(status),
        }
    }
}
