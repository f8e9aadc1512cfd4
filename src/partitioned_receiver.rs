//! Receiving from all partitions of a directory.
//!
//! **Invariants.**
//! - With its order kept, a receiver claims only from partitions that it holds (holder.rs); which those are is
//!   decided by `balance.rs`, whenever it looks at the holders: at least every [`LOOK_MS`] while it receives,
//!   and before it sleeps.
//! - It lets a partition go between two receives, when nothing of it is out. What it goes on with is ended before.
//! - Asleep it stands in the list of its group in every partition that it receives from, and no other, so no wake
//!   is lost on one who may not claim; and in the list of those who wait for a change of holders, in partition 0.
//!   It is put there before it looks at the holders. Who changes one for somebody else wakes that list, and the
//!   watcher does at every tick: then what happened in partitions where this receiver has nobody who watches,
//!   deaths above all, is looked for here.
#![forbid(unsafe_code)]

use crate::claim::Want;
use crate::file::uptime;
use crate::holdings::Holdings;
use crate::park;
use crate::receiver::SPINS;
use crate::sleeper::Sleeper;
use crate::{GroupName, Lease, Message, Receiver, RecvError, RecvTimeoutError, TryRecvError};
use crossbeam_utils::Backoff;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::task::coop::consume_budget;

/// How often one who finds messages looks at the holders, in milliseconds, and for what only a patient look finds.
const LOOK_MS: u32 = 10;

/// Whether messages of one key are received in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A partition is with one receiver at a time.
    Kept,
    /// All compete.
    Lost,
}

/// Receives the messages of a group from all partitions of a directory, together with the other receivers of that
/// group. A clone is another receiver of the same group.
///
/// Made by [`Partitioned::subscribe`](crate::Partitioned::subscribe), each partition is with one receiver at a
/// time, in whichever process. They come to have the same number, or one more: a partition moves when a receiver
/// comes, goes, or its process dies, and nothing is lost by that. What the one before had out when it died is
/// handed out first. So the messages of one key are received in order, except that one may come again, and with it
/// those behind it that were out, too. A lease keeps its partition with its receiver until it is finished, also
/// if that is dropped.
///
/// A receiver that is alive and does not receive keeps its partitions, and nobody gets their messages: drop it.
/// Receivers above the number of partitions wait for one.
///
/// # Cancel safety
///
/// As [`Receiver`]: every receive future can be dropped at any time, and no message is lost.
///
/// ```
/// # let tmp = tempfile::tempdir()?;
/// # let dir = tmp.path().join("orders");
/// use disk_chan::{Options, Partitioned};
///
/// let orders = Partitioned::blocking_new(&dir, 4, Options::new().page_size(1 << 20).max_pages(4))?;
/// let mut rx = orders.blocking_subscribe("billing")?;
/// let tx = orders.sender();
/// for n in 0..3u8 {
///     tx.blocking_send("customer 7", [n])?;
/// }
/// for n in 0..3u8 {
///     let (partition, message) = rx.blocking_recv()?;
///     assert_eq!((partition, message[0]), (orders.partition_of("customer 7"), n));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PartitionedReceiver {
    /// One for each partition.
    receivers: Box<[Receiver]>,
    /// Those that it receives from.
    mine: Vec<usize>,
    /// Which of these is next.
    next: usize,
    /// The partition that it received from last.
    last: usize,
    /// When each was last tried with patience.
    tried_at: Box<[u32]>,
    /// With the order kept.
    holdings: Option<Holdings>,
}

/// Where it sleeps.
struct Sleepers {
    moves: Sleeper,
    partitions: Vec<Option<Sleeper>>,
}

impl PartitionedReceiver {
    pub(crate) fn new(mut receivers: Box<[Receiver]>, order: Order) -> Self {
        let (mine, holdings) = match order {
            Order::Kept => {
                // First it has to have the hold there.
                receivers.iter_mut().for_each(|receiver| receiver.at.follows = false);
                (Vec::new(), Some(Holdings::new(uptime())))
            }
            Order::Lost => ((0..receivers.len()).collect(), None),
        };
        let tried_at = receivers.iter().map(|_| uptime()).collect();
        Self { receivers, mine, next: 0, last: 0, tried_at, holdings }
    }

    fn sleepers(&self) -> Sleepers {
        Sleepers { moves: Sleeper::of_moves(), partitions: self.receivers.iter().map(|_| None).collect() }
    }

    /// Gives back what was handed out by reference and forgotten.
    fn take_loan_back(&mut self) {
        let Receiver { root, at } = &mut self.receivers[self.last];
        at.take_loans_back(root);
    }

    /// Looks at the holders, and does what comes of that.
    fn look(&mut self, now: u32) -> Result<(), TryRecvError> {
        if let Some(holdings) = &mut self.holdings {
            holdings.look(&mut self.receivers, now)?;
            self.mine.clear();
            self.mine.extend(holdings.receives_from());
        }
        Ok(())
    }

    /// The next partition that it tries after so many others.
    fn after(&self, tried: usize) -> usize {
        self.mine[(self.next + tried) % self.mine.len()]
    }

    /// Something came of trying the partition after so many others.
    fn got(&mut self, tried: usize, partition: usize) {
        (self.next, self.last) = ((self.next + tried + 1) % self.mine.len(), partition);
    }

    fn check_hold(&self, partition: usize) {
        let may_claim = |holdings: &Holdings| holdings.may_claim(&self.receivers[partition], partition);
        debug_assert!(self.holdings.as_ref().is_none_or(may_claim), "partition {partition} is not this receiver's");
    }

    /// One look at each partition; the claim is in the hand of the one that is returned.
    fn attempt(&mut self, want: Want, patient: bool) -> Result<usize, TryRecvError> {
        let now = uptime();
        let due = |at: u32| now.wrapping_sub(at) >= LOOK_MS;
        if self.holdings.as_ref().is_some_and(|holdings| patient || self.mine.is_empty() || due(holdings.looked_at())) {
            self.look(now)?;
        }
        let (mut ended, mut nothing) = (0, TryRecvError::Empty);
        for tried in 0..self.mine.len() {
            let partition = self.after(tried);
            let patient = patient || due(self.tried_at[partition]);
            if patient {
                self.tried_at[partition] = now;
            }
            self.check_hold(partition);
            let Receiver { root, at } = &mut self.receivers[partition];
            match at.attempt(root, want, patient) {
                Ok(()) => {
                    self.got(tried, partition);
                    return Ok(partition);
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => ended += 1,
                Err(error @ TryRecvError::TooManyHeld { .. }) => nothing = error,
                // Unless it was moved: then it is there again, and perhaps somebody else's.
                Err(TryRecvError::GroupRemoved) if self.holdings.is_some() => {
                    self.look(now)?;
                    return Err(TryRecvError::Empty);
                }
                Err(error) => {
                    self.got(tried, partition);
                    return Err(error);
                }
            }
        }
        Err(if patient && self.has_ended(ended) { TryRecvError::Disconnected } else { nothing })
    }

    /// Whether nothing will come any more, `ended` of its own having said so.
    fn has_ended(&self, ended: usize) -> bool {
        let mut others = self.receivers.iter().enumerate().filter(|(partition, _)| !self.mine.contains(partition));
        ended == self.mine.len() && others.all(|(_, Receiver { root, at })| at.has_ended(root))
    }

    fn poll(&mut self, want: Want, sleepers: &mut Sleepers, cx: &mut Context<'_>) -> Poll<Result<usize, RecvError>> {
        if self.holdings.is_some() {
            let first = &self.receivers[0].root;
            // In the child of a fork there is nothing to stand in.
            if first.usable().is_ok() {
                // Before the look.
                sleepers.moves.register(first, cx.waker());
            }
            match self.look(uptime()) {
                Err(TryRecvError::GroupRemoved) => return Poll::Ready(Err(RecvError::GroupRemoved)),
                Err(TryRecvError::Poisoned) => return Poll::Ready(Err(RecvError::Poisoned)),
                Err(TryRecvError::Forked) => return Poll::Ready(Err(RecvError::Forked)),
                Ok(()) | Err(_) => {}
            }
            for (partition, sleeper) in sleepers.partitions.iter_mut().enumerate() {
                *sleeper = sleeper.take().filter(|_| self.mine.contains(&partition));
            }
        }
        let mut ended = 0;
        for tried in 0..self.mine.len() {
            let partition = self.after(tried);
            self.check_hold(partition);
            let Receiver { root, at } = &mut self.receivers[partition];
            let sleeper = sleepers.partitions[partition].get_or_insert_with(|| Sleeper::receiver(at.group));
            match at.poll(root, want, sleeper, cx) {
                Poll::Pending => {}
                Poll::Ready(Err(RecvError::Disconnected)) => {
                    // Somebody may open this one again while others are open still.
                    sleeper.register(root, cx.waker());
                    ended += 1;
                }
                Poll::Ready(Err(RecvError::GroupRemoved)) if self.holdings.is_some() => {
                    // Unless it was moved: then it is there again, and perhaps somebody else's.
                    cx.waker().wake_by_ref();
                }
                Poll::Ready(other) => {
                    self.got(tried, partition);
                    return Poll::Ready(other.map(|()| partition));
                }
            }
        }
        if self.has_ended(ended) { Poll::Ready(Err(RecvError::Disconnected)) } else { Poll::Pending }
    }

    async fn claim(&mut self, want: Want) -> Result<usize, RecvError> {
        self.take_loan_back();
        consume_budget().await;
        match self.attempt(want, false) {
            Ok(partition) => return Ok(partition),
            Err(TryRecvError::Lagged(n)) => return Err(RecvError::Lagged(n)),
            Err(_) => {}
        }
        let mut sleepers = self.sleepers();
        poll_fn(|cx| self.poll(want, &mut sleepers, cx)).await
    }

    /// With a deadline goes the error if it passes.
    fn blocking_claim<E: From<RecvError>>(&mut self, want: Want, deadline: Option<(Instant, E)>) -> Result<usize, E> {
        self.take_loan_back();
        let backoff = Backoff::new();
        for _ in 0..SPINS {
            match self.attempt(want, false) {
                Ok(partition) => return Ok(partition),
                Err(TryRecvError::Empty) => backoff.spin(),
                Err(TryRecvError::Lagged(n)) => return Err(RecvError::Lagged(n).into()),
                Err(_) => break,
            }
        }
        let mut sleepers = self.sleepers();
        let deadline = deadline.map(|(at, late)| (at, Err(late)));
        park::block_on(deadline, |cx| self.poll(want, &mut sleepers, cx).map_err(E::from))
    }

    fn claim_until(&mut self, want: Want, timeout: Duration) -> Result<usize, RecvTimeoutError> {
        let deadline = Instant::now().checked_add(timeout);
        self.blocking_claim(want, deadline.map(|at| (at, RecvTimeoutError::Timeout)))
    }

    fn try_claim(&mut self, want: Want) -> Result<usize, TryRecvError> {
        self.take_loan_back();
        self.attempt(want, true)
    }

    fn message(&mut self, partition: usize) -> (usize, Message<'_>) {
        (partition, self.receivers[partition].message())
    }

    fn lease_in_hand(&mut self, partition: usize) -> (usize, Lease) {
        (partition, self.receivers[partition].lease_in_hand())
    }

    /// Receives a message, and the partition that it is from; waits until there is one. The partitions take turns.
    ///
    /// # Errors
    ///
    /// See [`RecvError`]: [`Lagged`](RecvError::Lagged) and [`GroupRemoved`](RecvError::GroupRemoved) of any
    /// partition, [`Disconnected`](RecvError::Disconnected) of all.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it has taken nothing. Once ready, dropping the message is being done with it.
    pub async fn recv(&mut self) -> Result<(usize, Message<'_>), RecvError> {
        let partition = self.claim(Want::Message).await?;
        Ok(self.message(partition))
    }

    /// As [`recv`](Self::recv); blocks the thread until there is a message.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn blocking_recv(&mut self) -> Result<(usize, Message<'_>), RecvError> {
        let partition = self.blocking_claim::<RecvError>(Want::Message, None)?;
        Ok(self.message(partition))
    }

    /// Receives a message if there is one in a partition that is this receiver's, or free.
    ///
    /// # Errors
    ///
    /// See [`TryRecvError`], and [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<(usize, Message<'_>), TryRecvError> {
        let partition = self.try_claim(Want::Message)?;
        Ok(self.message(partition))
    }

    /// As [`recv`](Self::recv); blocks the thread until there is a message, but not longer than `timeout`.
    ///
    /// # Errors
    ///
    /// See [`RecvTimeoutError`], and [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<(usize, Message<'_>), RecvTimeoutError> {
        let partition = self.claim_until(Want::Message, timeout)?;
        Ok(self.message(partition))
    }

    /// Leases a message, and tells the partition that it is from; waits until there is one. With the order kept,
    /// the next message of the partition can be leased before this one is finished, by this receiver alone.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// Dropped at any time, nothing is lost: a lease that was not finished is given back.
    pub async fn lease(&mut self) -> Result<(usize, Lease), RecvError> {
        let partition = self.claim(Want::Lease).await?;
        Ok(self.lease_in_hand(partition))
    }

    /// As [`lease`](Self::lease); blocks the thread until there is a message.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn blocking_lease(&mut self) -> Result<(usize, Lease), RecvError> {
        let partition = self.blocking_claim::<RecvError>(Want::Lease, None)?;
        Ok(self.lease_in_hand(partition))
    }

    /// Leases a message if there is one in a partition that is this receiver's, or free.
    ///
    /// # Errors
    ///
    /// See [`TryRecvError`], and [`recv`](Self::recv).
    pub fn try_lease(&mut self) -> Result<(usize, Lease), TryRecvError> {
        let partition = self.try_claim(Want::Lease)?;
        Ok(self.lease_in_hand(partition))
    }

    /// As [`lease`](Self::lease); blocks the thread until there is a message, but not longer than `timeout`.
    ///
    /// # Errors
    ///
    /// See [`RecvTimeoutError`], and [`recv`](Self::recv).
    pub fn lease_for(&mut self, timeout: Duration) -> Result<(usize, Lease), RecvTimeoutError> {
        let partition = self.claim_until(Want::Lease, timeout)?;
        Ok(self.lease_in_hand(partition))
    }

    /// The name of the group.
    pub fn group(&self) -> &GroupName {
        self.receivers[0].group()
    }

    /// The partitions that it receives from, as of its last receive: those that it holds, or all if the order is
    /// not kept.
    pub fn held_partitions(&self) -> &[usize] {
        &self.mine
    }
}

impl Clone for PartitionedReceiver {
    fn clone(&self) -> Self {
        let order = if self.holdings.is_some() { Order::Kept } else { Order::Lost };
        Self::new(self.receivers.clone(), order)
    }
}

impl Drop for PartitionedReceiver {
    fn drop(&mut self) {
        if let Some(holdings) = &mut self.holdings {
            holdings.leave(&mut self.receivers);
        }
    }
}

impl fmt::Debug for PartitionedReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionedReceiver")
            .field("group", self.group())
            .field("partitions", &self.mine)
            .finish_non_exhaustive()
    }
}
