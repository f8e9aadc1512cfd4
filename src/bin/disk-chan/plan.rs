//! What a bench run sends, and the check that exactly this arrived.
//!
//! Every payload follows from the seed and the message's id (sender and number), so a receiver that knows the id
//! knows every byte. Payloads of 8 bytes and more start with the id; each receiver compares all of their bytes and
//! marks the id in a bitmap of its own. Shorter ones are counted per content, as a sum of hashes. Put together after
//! the run, this shows every lost, doubled, altered or reordered message, and costs a few nanoseconds a message.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use hdrhistogram::Histogram;

const ID_LEN: usize = 8;
const SENDER_SHIFT: u32 = 48;
const NUMBER_MASK: u64 = (1 << SENDER_SHIFT) - 1;
/// Every so many messages one is timed.
const SAMPLE: u64 = 64;
/// An hour in nanoseconds: a latency above it is recorded as this.
const LONGEST: u64 = 3_600_000_000_000;
/// Odd, so that the words of one payload all differ.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Payload lengths in bytes, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub least: usize,
    pub most: usize,
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (least, most) = if let Some((least, most)) = text.split_once("..=") {
            (crate::bytes(least)?, crate::bytes(most)?)
        } else if let Some((least, end)) = text.split_once("..") {
            let end = crate::bytes(end)?;
            (crate::bytes(least)?, end.checked_sub(1).ok_or("is empty")?)
        } else {
            let size = crate::bytes(text)?;
            (size, size)
        };
        match least <= most && most < u32::MAX as usize {
            true => Ok(Sizes { least, most }),
            false => Err("is empty or too large".to_string()),
        }
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.least == self.most {
            true => write!(f, "{} bytes", self.least),
            false => write!(f, "{} to {} bytes at random", self.least, self.most),
        }
    }
}

/// The messages of a run, and when the sampled ones were sent.
pub struct Plan {
    pub count: u64,
    pub senders: u64,
    pub sizes: Sizes,
    pub seed: u64,
    pub start: Instant,
    /// Nanoseconds since `start`, one word per `SAMPLE` messages. Relaxed: a receiver looks only at the word of a
    /// message that it has received.
    sent_at: Vec<AtomicU64>,
}

impl Plan {
    pub fn new(count: u64, senders: u16, sizes: Sizes, seed: u64) -> Self {
        Plan {
            count,
            senders: senders.into(),
            sizes,
            seed,
            start: Instant::now(),
            sent_at: (0..count.div_ceil(SAMPLE)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// How many messages this sender sends.
    fn share(&self, sender: u64) -> u64 {
        self.count / self.senders + u64::from(sender < self.count % self.senders)
    }

    /// How many messages the senders before this one send.
    fn before(&self, sender: u64) -> u64 {
        self.count / self.senders * sender + sender.min(self.count % self.senders)
    }

    fn key(&self, id: u64) -> u64 {
        mix(self.seed ^ id.wrapping_mul(STEP))
    }

    fn size(&self, key: u64) -> usize {
        let span = (self.sizes.most - self.sizes.least) as u64 + 1;
        self.sizes.least + (((key >> 32) * span) >> 32) as usize
    }

    fn nanos(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

/// The finalizer of splitmix64: a bijection whose output bits all depend on all input bits.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn fill(payload: &mut [u8], id: u64, key: u64) {
    let Some((head, body)) = payload.split_at_mut_checked(ID_LEN) else {
        payload.copy_from_slice(&key.to_le_bytes()[..payload.len()]);
        return;
    };
    head.copy_from_slice(&id.to_le_bytes());
    let mut word = key;
    let mut words = body.chunks_exact_mut(8);
    for place in words.by_ref() {
        place.copy_from_slice(&word.to_le_bytes());
        word = word.wrapping_add(STEP);
    }
    for (place, byte) in words.into_remainder().iter_mut().zip(word.to_le_bytes()) {
        *place = byte;
    }
}

/// Whether `body` (what follows the id) is what `fill` wrote.
fn body_is(body: &[u8], key: u64) -> bool {
    let mut word = key;
    let mut differences = 0;
    let words = body.chunks_exact(8);
    let rest = words.remainder();
    for place in words {
        differences |= le_word(place) ^ word;
        word = word.wrapping_add(STEP);
    }
    for (place, byte) in rest.iter().zip(word.to_le_bytes()) {
        differences |= u64::from(place ^ byte);
    }
    differences == 0
}

/// Up to 8 little-endian bytes as a number.
fn le_word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// How many messages, and for those too short for an id a hash of which contents came how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub messages: u64,
    pub bytes: u64,
    with_id: u64,
    contents: u64,
}

impl Tally {
    fn add(&mut self, payload: &[u8]) {
        self.messages += 1;
        self.bytes += payload.len() as u64;
        if payload.len() >= ID_LEN {
            self.with_id += 1;
        } else {
            let content = le_word(payload) | (payload.len() as u64 + 1) << 56;
            self.contents = self.contents.wrapping_add(mix(content));
        }
    }

    pub fn merge(&mut self, other: Tally) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.with_id += other.with_id;
        self.contents = self.contents.wrapping_add(other.contents);
    }
}

/// Makes the messages of one sender, one after the other.
pub struct Maker {
    plan: Arc<Plan>,
    sender: u64,
    next: u64,
    payload: Vec<u8>,
    pub tally: Tally,
}

impl Maker {
    pub fn new(plan: Arc<Plan>, sender: u64) -> Self {
        Maker { sender, next: 0, payload: vec![0; plan.sizes.most], tally: Tally::default(), plan }
    }

    /// The next message, or `None` when this sender has sent its share.
    pub fn next(&mut self) -> Option<&[u8]> {
        let number = self.next;
        if number == self.plan.share(self.sender) {
            return None;
        }
        self.next += 1;
        let id = self.sender << SENDER_SHIFT | number;
        let key = self.plan.key(id);
        let payload = &mut self.payload[..self.plan.size(key)];
        fill(payload, id, key);
        self.tally.add(payload);
        let place = self.plan.before(self.sender) + number;
        if place.is_multiple_of(SAMPLE) {
            self.plan.sent_at[(place / SAMPLE) as usize].store(self.plan.nanos(), Ordering::Relaxed);
        }
        Some(payload)
    }
}

/// A count that one thread writes and the progress bar reads.
pub type Progress = Arc<CachePadded<AtomicU64>>;

/// What one receiver saw.
pub struct Check {
    plan: Arc<Plan>,
    progress: Progress,
    seen: Vec<u64>,
    next: Vec<u64>,
    pub tally: Tally,
    pub lagged: u64,
    pub latency: Histogram<u64>,
    pub end: Duration,
    faults: Faults,
}

#[derive(Default)]
struct Faults {
    count: u64,
    first: Option<String>,
}

impl Faults {
    #[cold]
    fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        self.first.get_or_insert_with(what);
    }
}

impl Check {
    pub fn new(plan: Arc<Plan>, progress: Progress) -> Self {
        Check {
            progress,
            seen: vec![0; plan.count.div_ceil(64) as usize],
            next: vec![0; plan.senders as usize],
            tally: Tally::default(),
            lagged: 0,
            latency: Histogram::new_with_max(LONGEST, 3).expect("a range and digits that are allowed"),
            end: Duration::ZERO,
            faults: Faults::default(),
            plan,
        }
    }

    pub fn take(&mut self, payload: &[u8]) {
        self.tally.add(payload);
        // Relaxed: only the progress bar reads it.
        self.progress.store(self.tally.messages, Ordering::Relaxed);
        let Some((head, body)) = payload.split_at_checked(ID_LEN) else {
            return;
        };
        let id = le_word(head);
        let (sender, number) = (id >> SENDER_SHIFT, id & NUMBER_MASK);
        let key = self.plan.key(id);
        let known = sender < self.plan.senders && number < self.plan.share(sender);
        if !known || payload.len() != self.plan.size(key) || !body_is(body, key) {
            let len = payload.len();
            self.faults.add(|| format!("a message of {len} bytes was altered (id {id:#x})"));
            return;
        }
        let next = &mut self.next[sender as usize];
        if number < *next {
            self.faults.add(|| format!("message {number} of sender {sender} came late or twice"));
        }
        *next = number + 1;

        let place = self.plan.before(sender) + number;
        let bit = 1 << (place % 64);
        if self.seen[(place / 64) as usize] & bit != 0 {
            self.faults.add(|| format!("message {number} of sender {sender} came twice"));
        }
        self.seen[(place / 64) as usize] |= bit;
        if place.is_multiple_of(SAMPLE) {
            let sent = self.plan.sent_at[(place / SAMPLE) as usize].load(Ordering::Relaxed);
            self.latency.saturating_record(self.plan.nanos().saturating_sub(sent));
        }
    }

    pub fn finish(mut self) -> Self {
        self.end = self.plan.start.elapsed();
        self
    }

    /// Adds what another receiver of the same group saw.
    pub fn merge(&mut self, other: Check) {
        for (mine, theirs) in self.seen.iter_mut().zip(other.seen) {
            if *mine & theirs != 0 {
                self.faults.add(|| "a message came to two receivers of the group".to_string());
            }
            *mine |= theirs;
        }
        self.tally.merge(other.tally);
        self.lagged += other.lagged;
        self.latency += other.latency;
        self.end = self.end.max(other.end);
        self.faults.count += other.faults.count;
        self.faults.first = self.faults.first.take().or(other.faults.first);
    }

    /// Whether the receivers of one group together saw every message once, or had it counted as lagged.
    pub fn verdict(&self, sent: &Tally) -> Result<(), String> {
        if let Some(first) = &self.faults.first {
            return Err(format!("{} faults, first: {first}", self.faults.count));
        }
        let received = self.tally.messages;
        if received + self.lagged != sent.messages {
            let (lagged, sent) = (self.lagged, sent.messages);
            return Err(format!("{received} received + {lagged} lagged is not {sent} sent"));
        }
        // No bit was set twice and each was set for a message that the plan has, so equal numbers are equal sets.
        if self.lagged == 0 && self.tally != *sent {
            return Err(format!("received {:?}, sent {sent:?}", self.tally));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(sizes: &str, spoil: impl FnOnce(&mut Vec<Vec<u8>>)) -> Result<(), String> {
        let plan = Arc::new(Plan::new(1000, 3, sizes.parse().unwrap(), 7));
        let mut sent = Tally::default();
        let mut messages = Vec::new();
        for sender in 0..3 {
            let mut maker = Maker::new(plan.clone(), sender);
            while let Some(message) = maker.next() {
                messages.push(message.to_vec());
            }
            sent.merge(maker.tally);
        }
        assert_eq!(messages.len(), 1000);
        spoil(&mut messages);
        let new = || Check::new(plan.clone(), Progress::default());
        let mut receivers = [new(), new()];
        for (i, message) in messages.iter().enumerate() {
            receivers[i % 2].take(message);
        }
        let [mut one, other] = receivers;
        one.merge(other);
        one.verdict(&sent)
    }

    #[test]
    fn an_honest_run_passes() {
        for sizes in ["0", "1", "7", "8", "9", "100", "0..16", "0..=3000"] {
            run(sizes, |_| ()).unwrap();
        }
    }

    #[test]
    fn a_lost_doubled_or_altered_message_is_found() {
        for sizes in ["1", "7", "8", "9", "100", "1..16", "1..=3000"] {
            for at in [0, 1, 499, 999] {
                run(sizes, |m| drop(m.remove(at))).unwrap_err();
                run(sizes, |m| m.push(m[at].clone())).unwrap_err();
                run(sizes, |m| m.insert(at, m[at].clone())).unwrap_err();
                run(sizes, |m| {
                    m[at].pop();
                })
                .unwrap_err();
                run(sizes, |m| m[at].push(0)).unwrap_err();
                for byte in [0, usize::MAX] {
                    run(sizes, |m| {
                        let last = m[at].len() - 1;
                        m[at][byte.min(last)] ^= 0x10;
                    })
                    .unwrap_err();
                }
            }
        }
        run("0", |m| drop(m.pop())).unwrap_err();
        // One lost and another doubled in its place.
        run("100", |m| m[20] = m[10].clone()).unwrap_err();
    }

    #[test]
    fn latency_is_measured() {
        let plan = Arc::new(Plan::new(129, 1, "100".parse().unwrap(), 7));
        let mut maker = Maker::new(plan.clone(), 0);
        let mut check = Check::new(plan, Progress::default());
        while let Some(message) = maker.next() {
            std::thread::sleep(Duration::from_micros(100));
            check.take(message);
        }
        assert_eq!(check.latency.len(), 3);
        assert!(check.latency.min() >= 99_000, "{} ns", check.latency.min());
    }

    #[test]
    fn sizes_are_read() {
        let sizes = |text: &str| text.parse::<Sizes>();
        assert_eq!(sizes("100").unwrap(), sizes("100..101").unwrap());
        assert_eq!(sizes("0..64K").unwrap(), sizes("0..=65535").unwrap());
        for bad in ["", "x", "5..5", "6..5", "0..0", "9..=8", "1T", "99999999999G"] {
            sizes(bad).unwrap_err();
        }
    }
}
