//! Messages to standard output.
//!
//! **Invariants.** Where the output is no file, no more is written at once than a pipe takes that has room for
//! anything: so a write does not block, and a signal is noticed though nobody reads. Then who reads has a second.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::Instant;

use clap::ValueEnum;
use disk_chan::{HeadersRef, Offset};
use rustix::event::PollFlags;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::time::{Duration, SystemTime};

use crate::message_json::message_json;
use crate::messages;
use crate::stop::{Stop, TICK, is_ready};

/// Bytes kept before they are written.
const BUFFER: usize = 64 << 10;
/// A pipe that has room for anything has room for this (PIPE_BUF).
const PIPE: usize = 4096;
/// How long it waits for who reads once it was told to stop.
const GRACE: Duration = Duration::from_secs(1);

/// What is written around a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Framing {
    /// A newline behind it
    Lines,
    /// Its length before it: 4 bytes, little-endian
    Length,
    /// A zero byte behind it
    Nul,
}

/// What there is to say of a message.
pub struct Item<'a> {
    pub offset: Offset,
    pub sent_at: SystemTime,
    pub attempts: Option<u32>,
    pub headers: HeadersRef<'a>,
    pub message: &'a [u8],
}

/// Standard output. What it was given is written when it is flushed.
pub struct Output {
    stop: Stop,
    /// JSON if none.
    framing: Option<Framing>,
    is_file: bool,
    is_terminal: bool,
    buffer: Vec<u8>,
}

impl Output {
    pub fn new(stop: &Stop, framing: Option<Framing>) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(io::stdout())?.st_mode);
        let (is_file, is_terminal) = (kind.is_file(), io::stdout().is_terminal());
        Ok(Self { stop: stop.clone(), framing, is_file, is_terminal, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Writes a message, in the end.
    pub fn put(&mut self, item: &Item<'_>) -> io::Result<()> {
        let message = item.message;
        match self.framing {
            Some(_) if self.is_terminal => {
                messages::shown(&mut self.buffer, message)?;
                self.buffer.push(b'\n');
            }
            Some(Framing::Length) => {
                // No message is as long as a page can be.
                self.buffer.extend((message.len() as u32).to_le_bytes());
                self.buffer.extend(message);
            }
            Some(framing) => {
                self.buffer.extend(message);
                self.buffer.push(if framing == Framing::Nul { 0 } else { b'\n' });
            }
            None => {
                let mut json = message_json(item.offset, item.sent_at, item.headers.key(), item.headers, message);
                if let Some(attempts) = item.attempts {
                    json.insert("attempts".into(), attempts.into());
                }
                let line = serde_json::Value::from(json).to_string();
                self.buffer.extend(messages::json_shown(line, self.is_terminal).into_bytes());
                self.buffer.push(b'\n');
            }
        }
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Writes what it was given.
    pub fn flush(&mut self) -> io::Result<()> {
        let (out, mut rest, mut told) = (io::stdout(), &self.buffer[..], None);
        while !rest.is_empty() {
            let most = if self.is_file { rest.len() } else { PIPE };
            if !self.is_file && !is_ready(out.as_fd(), PollFlags::OUT, TICK)? {
                if self.stop.is_told() && told.get_or_insert_with(Instant::now).elapsed() > GRACE {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "told to stop, and nobody reads it"));
                }
                continue;
            }
            match rustix::io::write(out.as_fd(), &rest[..rest.len().min(most)]) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.buffer.clear();
        Ok(())
    }
}
