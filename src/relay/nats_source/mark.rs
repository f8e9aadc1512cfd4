//! How far a source has come into a channel, and who fills it.
//!
//! The invariants are those of `nats_source.rs`.

use super::{FillError, SOURCE};
use crate::off_thread::off_thread;
use crate::{Channel, HeadersRef, Start, TryReadError};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// How often who waits for the lock looks.
const LOOK: Duration = Duration::from_millis(100);

/// How far a source has come. While it lives, nobody else fills the channel from it.
#[derive(Debug, Default)]
pub struct Mark {
    /// The source, as the header begins.
    pub prefix: String,
    /// Everything at or below it is in the channel, and synced.
    pub last: u64,
    /// What messages carry: as `last`, but no higher while `above` has more.
    base: u64,
    /// What else is in the channel.
    above: BTreeSet<u64>,
    _hold: Option<File>,
}

impl Mark {
    /// Waits until nobody else fills the channel from this source, and finds out how far it has come.
    pub async fn take(channel: &Channel, prefix: String) -> Result<Self, FillError> {
        let hold = hold(channel, &prefix).await?;
        let (there, of) = (channel.clone(), prefix.clone());
        let (base, above) = off_thread(move || find(&there, &of)).await.map_err(FillError::Read)?;
        // What a filler sent that died before it had synced.
        channel.sync().await.map_err(FillError::Sync)?;
        Ok(Self { prefix, last: base, base, above, _hold: Some(hold) })
    }

    /// Whether this one is in the channel.
    pub fn has(&self, sequence: u64) -> bool {
        sequence <= self.last || self.above.contains(&sequence)
    }

    /// The highest that is known to be in the channel.
    pub fn newest(&self) -> u64 {
        self.above.last().copied().unwrap_or_default().max(self.last)
    }

    /// Everything up to here is in the channel, and synced.
    pub fn settle(&mut self, last: u64) {
        self.last = self.last.max(last);
        if self.newest() == self.last {
            self.above.clear();
            self.base = self.last;
        }
    }

    /// What the header of a message says.
    pub fn value(&self, sequence: u64) -> String {
        format!("{}{sequence}/{}", self.prefix, self.base)
    }
}

/// Locks a file beside the channel, of this source alone.
async fn hold(channel: &Channel, prefix: &str) -> Result<File, FillError> {
    let mut path = OsString::from(channel.path());
    path.push(format!(".fill-{:016x}", xxh3_64(prefix.as_bytes())));
    let error = |source| FillError::Lock { path: path.clone().into(), source };
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(error)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOOK).await,
            Err(TryLockError::Error(source)) => return Err(error(source)),
        }
    }
}

/// The mark that the newest message of the source has, and those of its messages that are above that.
fn find(channel: &Channel, prefix: &str) -> Result<(u64, BTreeSet<u64>), TryReadError> {
    let (mut base, mut above) = (None, BTreeSet::new());
    let mut reader = channel.reader();
    reader.seek(Start::Newest);
    loop {
        match reader.try_read_back() {
            Ok(record) => {
                let Some((sequence, mark)) = parse(record.headers(), prefix) else { continue };
                if sequence <= *base.get_or_insert(mark) {
                    break;
                }
                above.insert(sequence);
            }
            Err(TryReadError::Empty) => break,
            Err(error) => return Err(error),
        }
    }
    Ok((base.unwrap_or_default(), above))
}

/// Which message of the source it is, and the mark when it was sent. Others may send anything.
fn parse(headers: HeadersRef<'_>, prefix: &str) -> Option<(u64, u64)> {
    let (_, value) = headers.iter().filter(|(name, _)| *name == SOURCE).last()?;
    let (sequence, mark) = std::str::from_utf8(value).ok()?.strip_prefix(prefix)?.split_once('/')?;
    Some((sequence.parse().ok()?, mark.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Headers, Options};

    fn channel() -> (tempfile::TempDir, Channel) {
        let dir = tempfile::tempdir().unwrap();
        let channel = Options::new().page_size(64 << 10).max_pages(4).blocking_open(dir.path().join("c")).unwrap();
        (dir, channel)
    }

    /// Sends messages of these sequences with these marks.
    fn send(channel: &Channel, values: &[&str]) {
        for value in values {
            let message = Headers::new().with(SOURCE, "S@1/7/7").with(SOURCE, value).message("").unwrap();
            channel.sender().blocking_send(message).unwrap();
        }
    }

    fn found(channel: &Channel, prefix: &str) -> (u64, Vec<u64>) {
        let (base, above) = find(channel, prefix).unwrap();
        (base, above.into_iter().collect())
    }

    #[test]
    fn the_newest_message_has_the_mark_and_those_above_it_are_known() {
        let (_dir, channel) = channel();
        assert_eq!(found(&channel, "S@1/"), (0, vec![]));
        send(&channel, &["S@1/1/0", "S@1/2/0", "S@1/3/2", "S@1/a/9/9", "S@1/5/2", "S@2/9/9", "T@1/9/9", "S@1/x/1"]);
        channel.sender().blocking_send("without headers").unwrap();
        assert_eq!(found(&channel, "S@1/"), (2, vec![3, 5]));
        assert_eq!(found(&channel, "S@1/a/"), (9, vec![]));
        assert_eq!(found(&channel, "S@3/"), (0, vec![]));
    }

    /// As after a power loss: 5 is not there, 6 and 7 are.
    #[test]
    fn a_hole_in_the_last_batch_is_no_reason_to_send_the_rest_again() {
        let (_dir, channel) = channel();
        send(&channel, &["S@1/4/0", "S@1/6/4", "S@1/7/4"]);
        let (base, above) = find(&channel, "S@1/").unwrap();
        let mut mark = Mark { prefix: "S@1/".into(), last: base, base, above, _hold: None };
        assert_eq!((4..9).map(|n| mark.has(n)).collect::<Vec<_>>(), [true, false, true, true, false]);
        assert_eq!(mark.newest(), 7);
        // The hole is filled, and the next filler knows of all.
        send(&channel, &[&mark.value(5)]);
        mark.settle(5);
        assert_eq!(mark.value(8), "S@1/8/4", "6 and 7 would be forgotten");
        assert_eq!(found(&channel, "S@1/"), (4, vec![5, 6, 7]));
        mark.settle(7);
        assert_eq!(mark.value(8), "S@1/8/7");
    }
}
