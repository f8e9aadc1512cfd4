//! Messages in a stream of bytes.
//!
//! **Invariants.**
//! - A message that is there whole is handed out before more is read: nothing waits for a buffer to fill.
//! - No more is kept than what was read at once, or one message of the longest that fits.
//! - Reading waits in ticks, so that a signal is noticed, also where nothing comes.

use std::io::{self, BufRead};
use std::os::fd::AsFd;
use std::time::Duration;

use clap::ValueEnum;
use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::Outcome;
use crate::stop::{Stop, TICK, is_ready};

/// Bytes read at once.
const BUFFER: usize = 256 << 10;
/// Bytes of a length before a message.
const PREFIX: usize = 4;

/// Where a message begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Framing {
    /// Each line is a message, without its newline
    Lines,
    /// Before each message its length: 4 bytes, little-endian
    Length,
    /// Behind each message a zero byte
    Nul,
    /// All there is, is one message
    File,
}

/// What is read, cut into messages.
pub struct Input<'a, F> {
    from: F,
    framing: Framing,
    /// Bytes of the longest message.
    max: usize,
    stop: &'a Stop,
    buffer: Vec<u8>,
    /// What of the buffer was read and is not handed out.
    start: usize,
    end: usize,
    ended: bool,
}

impl<'a, F: AsFd> Input<'a, F> {
    /// Reads from a file, and refuses messages that are longer than `max` bytes.
    pub fn new(from: F, framing: Framing, max: usize, stop: &'a Stop) -> Self {
        Self { from, framing, max, stop, buffer: vec![0; BUFFER], start: 0, end: 0, ended: false }
    }

    /// The next message that is there whole.
    pub fn next(&mut self) -> Outcome<Option<&[u8]>> {
        let there = &self.buffer[self.start..self.end];
        // Bytes before the message, of it, and behind it.
        let cut = match self.framing {
            Framing::Lines | Framing::Nul => {
                let mark = if self.framing == Framing::Lines { b'\n' } else { 0 };
                let mut rest = there;
                let read = rest.skip_until(mark)?;
                match there[..read].last() {
                    Some(last) if *last == mark => Some((0, read - 1, 1)),
                    Some(_) if self.ended => Some((0, read, 0)),
                    _ => None,
                }
            }
            Framing::Length => match there.first_chunk::<PREFIX>() {
                Some(len) => {
                    let len = u32::from_le_bytes(*len) as usize;
                    if len > self.max {
                        return Err(self.too_long(&format!("has {len} bytes")));
                    }
                    (there.len() - PREFIX >= len).then_some((PREFIX, len, 0))
                }
                None => None,
            },
            Framing::File => self.ended.then_some((0, there.len(), 0)),
        };
        let Some((before, len, behind)) = cut else {
            return match there.len() {
                len if len > PREFIX + self.max => Err(self.too_long("is longer")),
                1.. if self.ended => {
                    Err(format!("the input ends in the middle of it, after {} bytes", there.len()).into())
                }
                _ => Ok(None),
            };
        };
        if self.framing == Framing::File {
            self.framing = Framing::Lines; // there is no second one
        }
        let at = self.start + before;
        self.start = at + len + behind;
        Ok(Some(&self.buffer[at..at + len]))
    }

    fn too_long(&self, how_long: &str) -> Box<dyn std::error::Error + Send + Sync> {
        format!("it {how_long}, and the longest that fits in a page of this channel has {} bytes", self.max).into()
    }

    /// Whether there is something to read now.
    pub fn is_waiting(&self) -> io::Result<bool> {
        Ok(!self.ended && is_ready(&self.from, PollFlags::IN, Duration::ZERO)?)
    }

    /// Reads what is there; waits until there is something. False at the end.
    pub fn read(&mut self) -> Outcome<bool> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            let longest = self.max.saturating_add(PREFIX + 1);
            self.buffer.resize((2 * self.end).min(longest.max(self.end + 1)), 0);
        }
        loop {
            self.stop.check()?;
            if !is_ready(&self.from, PollFlags::IN, TICK)? {
                continue;
            }
            match rustix::io::read(&self.from, &mut self.buffer[self.end..]) {
                Ok(read) => {
                    self.end += read;
                    self.ended = read == 0;
                    return Ok(!self.ended);
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
