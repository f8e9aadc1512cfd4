//! What is sent, and what its receivers check.

use super::cell::Cell;

/// Ends a receiver, so that a channel can go on to the next run.
pub const END: [u8; 1] = [0];
/// A message begins with its number.
const NUMBER: usize = 8;

/// The messages of one sender: its number is above all that others send.
pub struct Messages {
    bytes: Vec<u8>,
    number: u64,
    left: u64,
}

impl Messages {
    pub fn new(cell: &Cell, sender: u64, messages: u64) -> Self {
        let bytes = vec![sender as u8 + 1; cell.size];
        Messages { bytes, number: sender << 40, left: cell.share(sender, messages) }
    }

    pub fn next(&mut self) -> Option<&[u8]> {
        self.left = self.left.checked_sub(1)?;
        self.bytes[..NUMBER].copy_from_slice(&self.number.to_le_bytes());
        self.number += 1;
        Some(&self.bytes)
    }

    /// Buffers for a batch.
    pub fn buffers(&self, len: usize) -> Vec<Vec<u8>> {
        vec![self.bytes.clone(); len]
    }

    /// The next ones, in buffers made by this; none at the end.
    pub fn next_batch<'a>(&mut self, buffers: &'a mut [Vec<u8>]) -> &'a [Vec<u8>] {
        let some = self.left.min(buffers.len() as u64);
        for buffer in &mut buffers[..some as usize] {
            buffer[..NUMBER].copy_from_slice(&self.number.to_le_bytes());
            self.number += 1;
        }
        self.left -= some;
        &buffers[..some as usize]
    }
}

/// The receiver's work: it looks at every byte.
fn sum(message: &[u8]) -> u64 {
    let (words, rest) = message.as_chunks::<8>();
    let sum = words.iter().fold(0, |sum: u64, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

/// What a receiver saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    messages: u64,
    sum: u64,
    /// Whether the end was among them.
    pub ended: bool,
}

impl Tally {
    #[inline]
    pub fn look(&mut self, message: &[u8]) {
        if message.len() == END.len() {
            self.ended = true;
            return;
        }
        self.messages += 1;
        self.sum = self.sum.wrapping_add(sum(message));
    }
}

/// Panics unless the receivers of all groups together saw every message once a group.
pub fn check(cell: &Cell, messages: u64, tallies: impl IntoIterator<Item = Tally>) {
    let mut seen = Tally::default();
    for tally in tallies {
        seen.messages += tally.messages;
        seen.sum = seen.sum.wrapping_add(tally.sum);
    }
    let mut sent = Tally::default();
    for sender in 0..cell.senders {
        let share = cell.share(sender, messages);
        let mut first = Messages::new(cell, sender, messages);
        let alike = first.next().map_or(0, sum) as u128 * share as u128;
        let numbers = share as u128 * share.saturating_sub(1) as u128 / 2;
        sent.messages += cell.groups * share;
        sent.sum = sent.sum.wrapping_add(((alike + numbers) * cell.groups as u128) as u64);
    }
    assert_eq!(seen, sent, "messages were lost, doubled or altered");
}
