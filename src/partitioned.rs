//! Several channels in one directory, among which messages are spread by a key.
//!
//! **Invariants.**
//! - The directory has a manifest, which says how many there are (manifest.rs), and a channel for each: `0.chan`,
//!   `1.chan` and so on. The channels are made after it, by whoever opens them first.
//! - The partition of a key is XXH3-64 (seed 0) of its bytes, times the number of partitions, divided by 2^64.
#![forbid(unsafe_code)]

use crate::manifest::{self, MAX_PARTITIONS};
use crate::options::Options;
use crate::partitioned_receiver::Order;
use crate::{
    Channel, GroupName, Offset, OpenError, PartitionedReceiver, SendError, SendTimeoutError, Sender, SubscribeError,
    TrySendError, off_thread,
};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// Several channels in one directory, over which messages are spread by a key: those of one key are in one of
/// them, and so in order, while different receivers work on the others.
///
/// A clone is another handle of the same opens. As a [`Channel`], it keeps receivers waiting.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let tmp = tempfile::tempdir()?;
/// # let dir = tmp.path().join("orders");
/// use disk_chan::{Options, Partitioned};
///
/// let orders = Partitioned::new(&dir, 4, Options::new().page_size(1 << 20).max_pages(4)).await?;
/// let tx = orders.sender();
/// let first = tx.send("customer 7", "two coffees").await?;
/// let second = tx.send("customer 7", "one tea").await?;
/// assert_eq!(first.partition, second.partition);
/// assert!(first.offset < second.offset);
///
/// let mut rx = orders.subscribe("billing").await?; // its clones share the partitions with it
/// let (partition, order) = rx.recv().await?;
/// assert_eq!((partition, &*order), (orders.partition_of("customer 7"), &b"two coffees"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Partitioned {
    partitions: Arc<[Channel]>,
}

/// Where a message was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PartitionOffset {
    /// The partition.
    pub partition: usize,
    /// Its place in the channel of that partition: offsets of different partitions have no order.
    pub offset: Offset,
}

fn partition_of(key: &[u8], partitions: usize) -> usize {
    ((u128::from(xxh3_64(key)) * partitions as u128) >> 64) as usize
}

impl Partitioned {
    /// Opens or creates a directory of so many partitions, 1 to 1024, off the executor's threads. Each is a channel
    /// of its own, made and opened with these options; each wants its own room on the disk.
    ///
    /// # Errors
    ///
    /// [`OpenError::Mismatch`] of the option `partitions` if the directory has another number of them; for what its
    /// manifest can be else, and for each channel, see [`OpenError`]. With [`Create::OpenExisting`](crate::Create::OpenExisting) the directory
    /// and all of its channels have to exist; with [`Create::CreateNew`](crate::Create::CreateNew) none of it may.
    ///
    /// # Cancel safety
    ///
    /// Dropped, any part of it may or may not have been created, and is used when it is opened again.
    pub async fn new(dir: impl AsRef<Path>, partitions: usize, options: Options) -> Result<Self, OpenError> {
        let dir = dir.as_ref().to_owned();
        off_thread::off_thread(move || Self::blocking_new(dir, partitions, options)).await
    }

    /// As [`new`](Self::new); blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn blocking_new(dir: impl AsRef<Path>, partitions: usize, options: Options) -> Result<Self, OpenError> {
        let dir = dir.as_ref();
        if !(1..=MAX_PARTITIONS).contains(&partitions) {
            let reason = format!("must be between 1 and {MAX_PARTITIONS}");
            return Err(OpenError::InvalidOption { option: "partitions", value: partitions as u64, reason });
        }
        let (manifest, found) = manifest::find_or_make(dir, partitions, &options)?;
        if found != partitions {
            let (found, expected) = (found as u64, partitions as u64);
            return Err(OpenError::Mismatch { path: manifest, option: "partitions", found, expected });
        }
        let open = |partition| options.clone().blocking_open(dir.join(format!("{partition}.chan")));
        Ok(Self { partitions: (0..partitions).map(open).collect::<Result<_, _>>()? })
    }

    /// How many there are.
    pub fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// The channel of a partition: its statistics, dead letters, syncs; and a way to receive from it alone.
    ///
    /// A [`Receiver`](crate::Receiver) made of it competes with those who receive from all partitions, if it is of
    /// the same group: their order is lost then.
    ///
    /// # Panics
    ///
    /// If there is no such partition.
    pub fn partition(&self, partition: usize) -> &Channel {
        &self.partitions[partition]
    }

    /// The partition of a key: always the same for the same number of partitions.
    pub fn partition_of(&self, key: impl AsRef<[u8]>) -> usize {
        partition_of(key.as_ref(), self.partitions.len())
    }

    /// A new sender. It also opens partitions for sending again that were closed.
    pub fn sender(&self) -> PartitionedSender {
        PartitionedSender { senders: self.partitions.iter().map(Channel::sender).collect() }
    }

    /// A receiver of a group, which is created in every partition where it is new, from its oldest message on.
    ///
    /// The receivers of the group share the partitions: each is with one of them at a time, so messages of one key
    /// are received one after the other, in order. See [`PartitionedReceiver`].
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, the group may or may not have been created, in any of the partitions; nothing else remains.
    ///
    /// # Durability
    ///
    /// A new group is on stable storage when the call that created it returns.
    pub async fn subscribe(&self, group: impl Into<GroupName>) -> Result<PartitionedReceiver, SubscribeError> {
        self.clone().join_off_thread(group.into(), Order::Kept).await
    }

    /// As [`subscribe`](Self::subscribe), and may block the thread.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn blocking_subscribe(&self, group: impl Into<GroupName>) -> Result<PartitionedReceiver, SubscribeError> {
        self.join(&group.into(), Order::Kept)
    }

    /// A receiver that competes with the others of its group for the messages of all partitions: as many as like
    /// work on one partition, and messages of one key can be out at once. Those of a group should all be of this
    /// kind, or none.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    ///
    /// # Cancel safety
    ///
    /// As [`subscribe`](Self::subscribe).
    pub async fn subscribe_unordered(
        &self,
        group: impl Into<GroupName>,
    ) -> Result<PartitionedReceiver, SubscribeError> {
        self.clone().join_off_thread(group.into(), Order::Lost).await
    }

    /// As [`subscribe_unordered`](Self::subscribe_unordered), and may block the thread.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn blocking_subscribe_unordered(
        &self,
        group: impl Into<GroupName>,
    ) -> Result<PartitionedReceiver, SubscribeError> {
        self.join(&group.into(), Order::Lost)
    }

    async fn join_off_thread(self, group: GroupName, order: Order) -> Result<PartitionedReceiver, SubscribeError> {
        off_thread::off_thread(move || self.join(&group, order)).await
    }

    fn join(&self, group: &GroupName, order: Order) -> Result<PartitionedReceiver, SubscribeError> {
        let receivers = self.partitions.iter().map(|channel| channel.blocking_subscribe(group));
        Ok(PartitionedReceiver::new(receivers.collect::<Result<_, _>>()?, order))
    }
}

impl fmt::Debug for Partitioned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partitioned").field("partitions", &self.partitions).finish()
    }
}

/// Sends messages to the partitions of their keys. All methods take `&self`; a clone costs nothing that can run out.
///
/// The key only chooses the partition, and is not sent: who wants to know it puts it into the message. Messages of
/// one key that one sender sent are received in that order.
#[derive(Clone)]
pub struct PartitionedSender {
    senders: Arc<[Sender]>,
}

impl PartitionedSender {
    fn of(&self, key: &[u8]) -> (usize, &Sender) {
        let partition = partition_of(key, self.senders.len());
        (partition, &self.senders[partition])
    }

    /// Sends a message; waits while the partition of its key is full.
    ///
    /// # Errors
    ///
    /// As [`Sender::send`].
    ///
    /// # Cancel safety
    ///
    /// As [`Sender::send`].
    pub async fn send(&self, key: impl AsRef<[u8]>, message: impl AsRef<[u8]>) -> Result<PartitionOffset, SendError> {
        let (partition, sender) = self.of(key.as_ref());
        Ok(PartitionOffset { partition, offset: sender.send(message).await? })
    }

    /// Sends a message; blocks the thread while the partition of its key is full.
    ///
    /// # Errors
    ///
    /// As [`Sender::send`].
    pub fn blocking_send(
        &self,
        key: impl AsRef<[u8]>,
        message: impl AsRef<[u8]>,
    ) -> Result<PartitionOffset, SendError> {
        let (partition, sender) = self.of(key.as_ref());
        Ok(PartitionOffset { partition, offset: sender.blocking_send(message)? })
    }

    /// Sends a message, and returns when it is on stable storage.
    ///
    /// # Errors
    ///
    /// As [`Sender::send_durable`].
    ///
    /// # Cancel safety
    ///
    /// As [`Sender::send_durable`].
    pub async fn send_durable(
        &self,
        key: impl AsRef<[u8]>,
        message: impl AsRef<[u8]>,
    ) -> Result<PartitionOffset, SendError> {
        let (partition, sender) = self.of(key.as_ref());
        Ok(PartitionOffset { partition, offset: sender.send_durable(message).await? })
    }

    /// As [`send_durable`](Self::send_durable); blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`Sender::send_durable`].
    pub fn blocking_send_durable(
        &self,
        key: impl AsRef<[u8]>,
        message: impl AsRef<[u8]>,
    ) -> Result<PartitionOffset, SendError> {
        let (partition, sender) = self.of(key.as_ref());
        Ok(PartitionOffset { partition, offset: sender.blocking_send_durable(message)? })
    }

    /// Sends a message if the partition of its key has room.
    ///
    /// # Errors
    ///
    /// As [`Sender::try_send`].
    pub fn try_send(&self, key: impl AsRef<[u8]>, message: impl AsRef<[u8]>) -> Result<PartitionOffset, TrySendError> {
        let (partition, sender) = self.of(key.as_ref());
        Ok(PartitionOffset { partition, offset: sender.try_send(message)? })
    }

    /// Sends a message; blocks the thread while the partition of its key is full, but not longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Sender::send_timeout`].
    pub fn send_timeout(
        &self,
        key: impl AsRef<[u8]>,
        message: impl AsRef<[u8]>,
        timeout: Duration,
    ) -> Result<PartitionOffset, SendTimeoutError> {
        let (partition, sender) = self.of(key.as_ref());
        Ok(PartitionOffset { partition, offset: sender.send_timeout(message, timeout)? })
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> usize {
        self.senders.len()
    }

    /// The partition of a key.
    pub fn partition_of(&self, key: impl AsRef<[u8]>) -> usize {
        partition_of(key.as_ref(), self.senders.len())
    }

    /// The sender of a partition.
    ///
    /// # Panics
    ///
    /// If there is no such partition.
    pub fn partition(&self, partition: usize) -> &Sender {
        &self.senders[partition]
    }
}

impl fmt::Debug for PartitionedSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionedSender").field("partitions", &self.senders.len()).finish_non_exhaustive()
    }
}
