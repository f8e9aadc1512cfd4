//! Receiving.
#![forbid(unsafe_code)]

use crate::cells::Kind;
use crate::claim::{Claim, Hand, Nothing, Want};
use crate::extend::Extended;
use crate::file::uptime;
use crate::group::Group;
use crate::message::Loan;
#[cfg(feature = "serde")]
use crate::message::bytes_of;
use crate::shared::Root;
use crate::sleeper::Sleeper;
use crate::sync::receiver_number;
use crate::{GroupName, Lease, Message, Offset, OwnedMessage, RecvError, RecvTimeoutError, TryRecvError};
use crossbeam_utils::Backoff;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::task::coop::consume_budget;

/// Looks that a blocking receive makes, with pauses that double, before it sleeps.
pub(crate) const SPINS: u32 = 7;

/// Receives the messages of a group, in competition with the other receivers of that group.
///
/// A clone is another receiver of the same group.
///
/// # Cancel safety
///
/// Nothing is claimed that is not there: every receive future can be dropped at any time, and no
/// message is lost.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
/// let mut rx = channel.blocking_subscribe("billing")?;
/// let tx = channel.sender();
/// tx.blocking_send_many(&["a", "b", "c"])?;
/// drop((tx, channel));
/// let all: Vec<_> = rx.iter().map(|m| m.into_vec()).collect();
/// assert_eq!(all, [b"a", b"b", b"c"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Receiver {
    pub(crate) root: Arc<Root>,
    pub(crate) at: Position,
}

/// What a receiver knows, apart from the channel.
pub(crate) struct Position {
    name: GroupName,
    /// What the group was before it was first moved.
    origin: u64,
    pub(crate) group: usize,
    state: u64,
    pub(crate) hand: Hand,
    /// Messages handed out by reference; one that is still held at the next receive was forgotten.
    /// A single one is the claim in the hand. Its copy is also what others are made of.
    loan: Loan,
    lent: Vec<Claim>,
    /// Of those, where hand-outs are copies.
    loans: Vec<Loan>,
    /// Whether it goes on by itself where the group is moved to.
    pub(crate) follows: bool,
    /// An error that was found behind messages which were handed out first.
    owed: Option<RecvError>,
}

impl Position {
    /// Of a group: its number, which of the groups of that number it is, and its origin.
    fn new(root: &Root, name: GroupName, (group, state, origin): (usize, u64, u64)) -> Self {
        let mem = root.memory();
        let page = match root.is_inherited() {
            true => 0,
            false => Group::of(mem, group, state).page_hint().max(root.ring().tail().page),
        };
        // Receivers begin at different cells, so as not to share a line, and before the rows.
        let cell = receiver_number() % mem.layout.geometry.max_held.min(mem.layout.rows());
        let hand = Hand::new(root.file.id.index, page, cell);
        let (loan, lent, loans) = (Loan::default(), Vec::new(), Vec::new());
        Self { name, origin, group, state, hand, loan, lent, loans, follows: true, owed: None }
    }

    #[inline]
    pub(crate) fn group<'r>(&self, root: &'r Root) -> Group<'r> {
        Group::of(root.memory(), self.group, self.state)
    }

    /// Gives back what was handed out by reference and forgotten. No borrow of it can be alive.
    #[inline]
    pub(crate) fn take_loans_back(&mut self, root: &Root) {
        if std::mem::take(self.loan.is_out.get_mut()) {
            self.take_back(root, std::slice::from_ref(&self.hand.claim));
        }
        if !self.lent.is_empty() {
            self.take_back(root, &self.lent);
            self.lent.clear();
            self.loans.clear();
        }
    }

    #[cold]
    fn take_back(&self, root: &Root, claims: &[Claim]) {
        if root.is_inherited() {
            return;
        }
        let group = self.group(root);
        for claim in claims {
            let is_out = group.cell(claim.cell as usize).load() == claim.word;
            // Those that went out together are given back together.
            if is_out && if claim.together == 0 { group.give_back(claim).is_ok() } else { group.leave(claim) } {
                root.after_give_back(group);
            }
        }
    }

    #[inline]
    fn receive(&mut self, root: &Root, want: Want, patient: bool) -> Result<(), Nothing> {
        let group = self.group(root);
        if self.hand.claim.goes_on {
            if want == Want::Message && self.hand.seen_returns == Some(group.returns().load(SeqCst)) {
                match group.extend(&mut self.hand) {
                    Extended::Claimed => return Ok(()),
                    Extended::NotYet if !patient => return Err(Nothing::Empty),
                    Extended::NotYet | Extended::Over => {}
                }
            }
            self.end_claim(root);
        }
        if want == Want::Lease {
            self.hand.now = uptime();
        }
        root.expire();
        group.receive(&root.ring(), &mut self.hand, want, &mut self.loan.copy, patient)
    }

    /// Ends the claim that was kept to be extended. Its message is not out.
    fn end_claim(&mut self, root: &Root) {
        self.hand.claim.goes_on = false;
        let (group, claim) = (self.group(root), &self.hand.claim);
        if let Some(last) = group.end(claim) {
            root.after_ack(group, claim.offset, last);
        }
    }

    /// Goes on where the group was moved to. False if it was not, but removed.
    #[cold]
    pub(crate) fn follow(&mut self, root: &Root) -> bool {
        debug_assert!(self.lent.is_empty());
        let found = Group::find_with_origin(root.memory(), &self.name);
        let is_another = |group: &Group<'_>| (group.number(), group.state()) != (self.group, self.state);
        let moved = found.filter(|(group, origin)| *origin == self.origin && is_another(group));
        if let Some((group, origin)) = moved {
            let follows = self.follows;
            *self = Self { follows, ..Self::new(root, self.name.clone(), (group.number(), group.state(), origin)) };
        }
        moved.is_some()
    }

    /// Ends what is left of its last receive: leases alone may be out then.
    pub(crate) fn rest(&mut self, root: &Root) {
        self.take_loans_back(root);
        if self.hand.claim.goes_on && root.usable().is_ok() {
            self.end_claim(root);
        }
    }

    /// Whether nobody is left to send, and nothing is there for anybody of the group.
    pub(crate) fn has_ended(&self, root: &Root) -> bool {
        // ORDER[disconnect]
        let is_left = || !root.closed() && root.has_handles();
        if is_left() {
            return false;
        }
        root.tend();
        !self.group(root).has_more(&root.ring()) && !is_left()
    }

    /// One look, also where the group was moved to.
    #[inline]
    pub(crate) fn attempt(&mut self, root: &Root, want: Want, patient: bool) -> Result<(), TryRecvError> {
        loop {
            match self.look(root, want, patient) {
                Err(TryRecvError::GroupRemoved) if self.follows && self.follow(root) => {}
                looked => return looked,
            }
        }
    }

    /// One look; the claim is in the hand. A patient one also settles abandoned slots, and whether anybody is left to send.
    #[inline]
    pub(crate) fn look(&mut self, root: &Root, want: Want, patient: bool) -> Result<(), TryRecvError> {
        root.usable()?;
        if let Some(owed) = self.owed.take() {
            return Err(owed.into());
        }
        let mut nothing = match self.receive(root, want, patient) {
            Ok(()) => return Ok(()),
            Err(nothing) => nothing,
        };
        // ORDER[disconnect] First that nobody is left, then once more that nothing is there: who
        // sent and went in between has left the message.
        let mut ended = false;
        if patient && matches!(nothing, Nothing::Empty | Nothing::End) {
            let closed = root.closed();
            let alone = !root.has_handles();
            if closed || alone {
                // What the dead held is handed out first.
                root.tend();
                match self.receive(root, want, true) {
                    Ok(()) => return Ok(()),
                    Err(again) => nothing = again,
                }
                // Closed, the page that senders wrote is sealed: an add that still comes counts no
                // more. Alone before and after, as handles may come while others go.
                ended = closed && nothing == Nothing::End
                    || alone && matches!(nothing, Nothing::Empty | Nothing::End) && !root.has_handles();
            }
        }
        if patient && !ended {
            root.tend_now_and_then();
        }
        Err(match nothing {
            _ if ended => TryRecvError::Disconnected,
            Nothing::Empty | Nothing::End | Nothing::Unfinished => TryRecvError::Empty,
            Nothing::Lagged(n) => TryRecvError::Lagged(n),
            Nothing::Removed => TryRecvError::GroupRemoved,
            Nothing::NoCell => {
                let [held, _, undeliverable] = self.group(root).held_and_returned();
                let max = root.file.map.layout().geometry.max_held;
                TryRecvError::TooManyHeld { held, undeliverable, max }
            }
        })
    }

    #[inline]
    pub(crate) fn poll(
        &mut self,
        root: &Arc<Root>,
        want: Want,
        sleeper: &mut Sleeper,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), RecvError>> {
        for again in [false, true] {
            let error = match self.attempt(root, want, true) {
                Ok(()) => {
                    if sleeper.done() {
                        root.pass_on(self.group(root));
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::TooManyHeld { .. }) => {
                    // SeqCst: said before the second look, as ORDER[sleep].
                    self.group(root).starved().fetch_or(1, SeqCst);
                    None
                }
                Err(TryRecvError::Disconnected) => Some(RecvError::Disconnected),
                Err(TryRecvError::Lagged(n)) => Some(RecvError::Lagged(n)),
                Err(TryRecvError::GroupRemoved) => Some(RecvError::GroupRemoved),
                Err(TryRecvError::Poisoned) => Some(RecvError::Poisoned),
                Err(TryRecvError::Forked) => Some(RecvError::Forked),
            };
            if let Some(error) = error {
                sleeper.done();
                return Poll::Ready(Err(error));
            }
            if !again {
                sleeper.wait_for_group(self.group); // it may have been moved
                sleeper.register(root, cx.waker());
            }
        }
        Poll::Pending
    }

    /// One more claim without waiting; an error that must not be lost is kept for the next receive.
    fn more(&mut self, root: &Root, want: Want) -> bool {
        // Where the group was moved, the next receive goes on there: these are of the one before.
        let more = self.look(root, want, true);
        if let Err(TryRecvError::Lagged(n)) = more {
            self.owed = Some(RecvError::Lagged(n));
        }
        more.is_ok()
    }

    /// Puts the claim in the hand among those lent, and what it can be extended over.
    fn lend(&mut self, root: &Root, limit: usize) {
        let mut claim = self.hand.claim;
        let goes_on = std::mem::take(&mut self.hand.claim.goes_on);
        claim.goes_on = false;
        if root.hands_out_copies() {
            self.loans.push(std::mem::take(&mut self.loan));
        }
        let (group, before) = (self.group(root), self.lent.len());
        let several = goes_on && claim.word.keeps_row();
        let extent = if several { group.extend_over(&claim, limit - before - 1) } else { None };
        self.lent.push(claim);
        let Some(extent) = extent else { return };
        let (page, first) = (claim.offset.page(), claim.offset.index() as usize);
        let (more, mut together) = (extent.more(), 1 << (first % 32));
        for index in first + 1..=first + more {
            claim.offset = Offset::new(page, index);
            if group.look_at(&mut claim) {
                together |= 1 << (index % 32);
                self.lent.push(claim);
            }
        }
        for claim in &mut self.lent[before..] {
            (claim.extent, claim.together) = (extent, together);
        }
    }

    /// The region of a claim, as a copy.
    fn copy(&mut self, root: &Root) -> Vec<u8> {
        let claim = &self.hand.claim;
        if root.hands_out_copies() || claim.word.kind() == Kind::Lease {
            return std::mem::take(&mut self.loan.copy);
        }
        claim.record.region(root.memory()).to_vec()
    }
}

impl Receiver {
    /// Of a group: its number, which of the groups of that number it is, and its origin.
    pub(crate) fn new(root: Arc<Root>, name: GroupName, group: (usize, u64, u64)) -> Self {
        let at = Position::new(&root, name, group);
        Self { root, at }
    }

    pub(crate) async fn claim(&mut self, want: Want) -> Result<(), RecvError> {
        let Self { root, at } = self;
        at.take_loans_back(root);
        consume_budget().await;
        // Without a sleeper first, as most often there is one.
        match at.attempt(root, want, false) {
            Ok(()) => return Ok(()),
            Err(TryRecvError::Lagged(n)) => return Err(RecvError::Lagged(n)),
            Err(_) => {}
        }
        let mut sleeper = Sleeper::receiver(at.group);
        poll_fn(|cx| at.poll(root, want, &mut sleeper, cx)).await
    }

    /// With a deadline goes the error if it passes.
    #[inline]
    pub(crate) fn blocking_claim<E: From<RecvError>>(
        &mut self,
        want: Want,
        deadline: Option<(Instant, E)>,
    ) -> Result<(), E> {
        let Self { root, at } = self;
        at.take_loans_back(root);
        let backoff = Backoff::new();
        for _ in 0..SPINS {
            match at.attempt(root, want, false) {
                Ok(()) => return Ok(()),
                Err(TryRecvError::Empty) => backoff.spin(),
                Err(TryRecvError::Lagged(n)) => return Err(RecvError::Lagged(n).into()),
                Err(_) => break,
            }
        }
        let sleeper = Sleeper::receiver(at.group);
        let deadline = deadline.map(|(at, late)| (at, Err(late)));
        sleeper.block_on(root, deadline, |sleeper, cx| at.poll(root, want, sleeper, cx).map_err(E::from))
    }

    pub(crate) fn try_claim(&mut self, want: Want) -> Result<(), TryRecvError> {
        self.at.take_loans_back(&self.root);
        self.at.attempt(&self.root, want, true)
    }

    /// The claim in the hand as a message.
    #[inline]
    pub(crate) fn message(&mut self) -> Message<'_> {
        *self.at.loan.is_out.get_mut() = true;
        Message::new(&self.root, &self.at.hand.claim, Some(&self.at.loan))
    }

    /// The bytes of the claim in the hand, which counts as forgotten until it is taken from there.
    #[cfg(feature = "serde")]
    #[inline]
    pub(crate) fn bytes_in_hand(&mut self) -> &[u8] {
        *self.at.loan.is_out.get_mut() = true;
        bytes_of(&self.root, &self.at.hand.claim, Some(&self.at.loan))
    }

    pub(crate) fn lease_in_hand(&mut self) -> Lease {
        let bytes = self.at.copy(&self.root);
        Lease::new(Arc::clone(&self.root), self.at.hand.claim, bytes)
    }

    /// The claim in the hand as a message of its own.
    pub(crate) fn owned(&mut self) -> OwnedMessage {
        *self.at.loan.is_out.get_mut() = false;
        let bytes = self.at.copy(&self.root);
        self.at.hand.claim.goes_on = false;
        OwnedMessage::new(Arc::clone(&self.root), self.at.hand.claim, bytes)
    }

    /// Receives a message; waits until there is one.
    ///
    /// # Errors
    ///
    /// See [`RecvError`]. After `Lagged` the next receive goes on.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it has taken nothing. Once ready, dropping the message is being
    /// done with it.
    pub async fn recv(&mut self) -> Result<Message<'_>, RecvError> {
        self.claim(Want::Message).await?;
        Ok(self.message())
    }

    /// Receives a message; blocks the thread until there is one.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    #[inline]
    pub fn blocking_recv(&mut self) -> Result<Message<'_>, RecvError> {
        self.blocking_claim::<RecvError>(Want::Message, None)?;
        Ok(self.message())
    }

    /// Receives a message if there is one.
    ///
    /// # Errors
    ///
    /// See [`TryRecvError`].
    pub fn try_recv(&mut self) -> Result<Message<'_>, TryRecvError> {
        self.try_claim(Want::Message)?;
        Ok(self.message())
    }

    /// Receives a message; blocks the thread until there is one, but not longer than `timeout`.
    ///
    /// # Errors
    ///
    /// See [`RecvTimeoutError`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Message<'_>, RecvTimeoutError> {
        self.claim_until(Want::Message, Instant::now().checked_add(timeout))?;
        Ok(self.message())
    }

    /// As [`recv_timeout`](Self::recv_timeout), up to a moment.
    ///
    /// # Errors
    ///
    /// See [`RecvTimeoutError`].
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<Message<'_>, RecvTimeoutError> {
        self.claim_until(Want::Message, Some(deadline))?;
        Ok(self.message())
    }

    pub(crate) fn claim_until(&mut self, want: Want, deadline: Option<Instant>) -> Result<(), RecvTimeoutError> {
        self.blocking_claim(want, deadline.map(|at| (at, RecvTimeoutError::Timeout)))
    }

    /// Receives up to `limit` messages; waits until there is one, and takes what else is there. One of them
    /// that is dropped by a panic is given back as one that is forgotten: when this receiver receives again,
    /// or is dropped.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv); an error behind the first message is kept for the next receive.
    ///
    /// # Cancel safety
    ///
    /// As [`recv`](Self::recv).
    pub async fn recv_many(&mut self, limit: usize) -> Result<Vec<Message<'_>>, RecvError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        self.claim(Want::Message).await?;
        Ok(self.many(limit))
    }

    /// As [`recv_many`](Self::recv_many); blocks the thread until there is a message.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn blocking_recv_many(&mut self, limit: usize) -> Result<Vec<Message<'_>>, RecvError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        self.blocking_claim::<RecvError>(Want::Message, None)?;
        Ok(self.many(limit))
    }

    /// The claim in the hand and what else is there, up to `limit`.
    fn many(&mut self, limit: usize) -> Vec<Message<'_>> {
        let Self { root, at } = self;
        let root: &Root = root;
        loop {
            at.lend(root, limit);
            if at.lent.len() == limit || !at.more(root, Want::Several) {
                break;
            }
        }
        let loans = at.loans.iter().map(Some).chain(std::iter::repeat(None));
        at.lent.iter().zip(loans).map(|(claim, loan)| Message::new(root, claim, loan)).collect()
    }

    /// Leases a message; waits until there is one.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// Dropped at any time, nothing is lost: a lease that was not finished is given back.
    pub async fn lease(&mut self) -> Result<Lease, RecvError> {
        self.claim(Want::Lease).await?;
        Ok(self.lease_in_hand())
    }

    /// Leases a message; blocks the thread until there is one.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn blocking_lease(&mut self) -> Result<Lease, RecvError> {
        self.blocking_claim::<RecvError>(Want::Lease, None)?;
        Ok(self.lease_in_hand())
    }

    /// Leases a message if there is one.
    ///
    /// # Errors
    ///
    /// See [`TryRecvError`].
    pub fn try_lease(&mut self) -> Result<Lease, TryRecvError> {
        self.try_claim(Want::Lease)?;
        Ok(self.lease_in_hand())
    }

    /// Leases a message; blocks the thread until there is one, but not longer than `timeout`.
    ///
    /// # Errors
    ///
    /// See [`RecvTimeoutError`].
    pub fn lease_for(&mut self, timeout: Duration) -> Result<Lease, RecvTimeoutError> {
        self.claim_until(Want::Lease, Instant::now().checked_add(timeout))?;
        Ok(self.lease_in_hand())
    }

    /// As [`lease_for`](Self::lease_for), up to a moment.
    ///
    /// # Errors
    ///
    /// See [`RecvTimeoutError`].
    pub fn lease_deadline(&mut self, deadline: Instant) -> Result<Lease, RecvTimeoutError> {
        self.claim_until(Want::Lease, Some(deadline))?;
        Ok(self.lease_in_hand())
    }

    /// Leases up to `limit` messages; waits until there is one, and takes what else is there.
    ///
    /// # Errors
    ///
    /// As [`recv_many`](Self::recv_many).
    ///
    /// # Cancel safety
    ///
    /// As [`lease`](Self::lease).
    pub async fn lease_many(&mut self, limit: usize) -> Result<Vec<Lease>, RecvError> {
        let mut leases = Vec::new();
        if limit > 0 {
            leases.push(self.lease().await?);
        }
        while leases.len() < limit && self.at.more(&self.root, Want::Lease) {
            leases.push(self.lease_in_hand());
        }
        Ok(leases)
    }

    /// The name of the group.
    pub fn group(&self) -> &GroupName {
        &self.at.name
    }
}

impl Clone for Receiver {
    fn clone(&self) -> Self {
        let Position { name, group, state, origin, .. } = &self.at;
        Self::new(Arc::clone(&self.root), name.clone(), (*group, *state, *origin))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.at.rest(&self.root);
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("path", &self.root.file.path)
            .field("group", &self.at.name)
            .finish_non_exhaustive()
    }
}
