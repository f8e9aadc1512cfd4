//! What a receiver hands out: a message where it lies, a copy of one, a lease.
#![forbid(unsafe_code)]

use crate::claim::Claim;
use crate::group::Group;
use crate::headers::HeadersRef;
use crate::shared::Root;
use crate::{AckError, Offset, RejectError};
use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::panicking;
use std::time::{Duration, SystemTime};

/// What dropping a hand-out means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dropped {
    Done,
    GiveBack,
    #[cfg(feature = "serde")]
    Reject,
}

/// A claim that is finished or given back exactly once.
struct Hold<R: Deref<Target = Root>, C: Borrow<Claim>> {
    root: R,
    claim: C,
    dropped: Dropped,
    open: bool,
    /// Made while a panic unwound: then its drop is no sign of another one.
    panicking: bool,
}

impl<R: Deref<Target = Root>, C: Borrow<Claim>> Hold<R, C> {
    #[inline]
    fn new(root: R, claim: C, dropped: Dropped) -> Self {
        Self { root, claim, dropped, open: true, panicking: panicking() }
    }

    #[inline]
    fn claim(&self) -> &Claim {
        self.claim.borrow()
    }

    #[inline]
    fn group(&self) -> Group<'_> {
        Group::of(self.root.memory(), self.claim().group as usize, self.claim().state)
    }

    #[inline]
    fn ack(&mut self) -> Result<(), AckError> {
        self.open = false;
        self.root.usable()?;
        let group = self.group();
        if self.claim().goes_on {
            group.say_done(self.claim());
            if !self.root.is_waited_for(group) {
                return Ok(());
            }
        }
        if self.claim().together != 0 {
            if let Some(last) = group.finish_one(self.claim()) {
                self.root.after_ack(group, self.claim().offset, last);
            } else if self.root.is_waited_for(group) {
                group.settle();
                self.root.after_ack(group, self.claim().offset, true);
            }
            return Ok(());
        }
        let (acked, last) = group.ack(self.claim());
        self.root.after_ack(group, self.claim().offset, last);
        acked
    }

    fn give_back(&mut self) -> Result<(), AckError> {
        self.open = false;
        self.root.usable()?;
        if self.claim().together != 0 {
            return Ok(()); // by its receiver, when none of them is out any more
        }
        let group = self.group();
        let given = group.give_back(self.claim());
        self.root.after_give_back(group);
        given
    }

    /// Of a message that did not go out with others: as a dead letter it could not leave their claim alone.
    fn reject(&mut self) -> Result<(), RejectError> {
        debug_assert_eq!(self.claim().together, 0);
        if self.root.file.map.layout().geometry.max_attempts == 0 {
            self.give_back()?;
            return Err(RejectError::NoDeadLetters);
        }
        self.open = false;
        self.root.usable().map_err(AckError::from)?;
        let group = self.group();
        let rejected = group.reject(self.claim());
        self.root.after_give_back(group);
        Ok(rejected?)
    }

    /// The bytes of the header block.
    #[inline]
    fn block(&self) -> usize {
        self.claim().record.block()
    }

    fn sent_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.claim().record.sent_at())
    }
}

impl<R: Deref<Target = Root>, C: Borrow<Claim>> Drop for Hold<R, C> {
    #[inline]
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        // An error means that somebody else finished it, or that it was given back: nothing is left to do.
        let _ = match self.dropped {
            Dropped::Done if !panicking() || self.panicking => self.ack().is_ok(),
            Dropped::Done | Dropped::GiveBack => self.give_back().is_ok(),
            #[cfg(feature = "serde")]
            Dropped::Reject => self.reject().is_ok(),
        };
    }
}

/// A message, where it lies in the file; under `Overflow::DropOldest`, or with a `max_age`, a verified copy.
///
/// Dropping it is being done with it, as with an in-memory channel: who must not lose it when a task
/// is cancelled takes a [`Lease`]. Dropped by a panic that began after it was received, it is given
/// back. Forgotten, it is given back at the receiver's next receive or when that is dropped.
pub struct Message<'a> {
    bytes: &'a [u8],
    hold: Hold<&'a Root, &'a Claim>,
    /// After the claim is over.
    lent: Lent<'a>,
}

/// What a receiver keeps of a message that is out.
#[derive(Default)]
pub(crate) struct Loan {
    /// Of a single message whether it is out.
    pub is_out: AtomicBool,
    /// Its region, where hand-outs are copies.
    pub copy: Vec<u8>,
}

/// Tells the receiver that a message was not forgotten.
struct Lent<'a>(Option<&'a Loan>);

impl Drop for Lent<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(loan) = self.0 {
            loan.is_out.store(false, Relaxed); // the receiver is borrowed until then
        }
    }
}

/// A message as a copy of its own. Dropping it is being done with it; dropped by a panic that began
/// after it was received, it is given back.
pub struct OwnedMessage {
    region: Vec<u8>,
    hold: Hold<Arc<Root>, Claim>,
}

/// A message that is not done until [`ack`](Self::ack): a copy that can move to another task.
///
/// Dropped without, it is given back, and handed out again before any new message.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
/// # let tx = channel.sender();
/// let mut rx = channel.blocking_subscribe("billing")?;
/// tx.blocking_send(b"order 1")?;
/// drop(rx.blocking_lease()?);
/// let again = rx.blocking_lease()?;
/// assert_eq!(again.attempts(), 2);
/// again.ack()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a lease that is dropped is given back"]
pub struct Lease {
    region: Vec<u8>,
    hold: Hold<Arc<Root>, Claim>,
}

/// The bytes of a message that was claimed, as [`Message::new`].
#[inline]
pub(crate) fn bytes_of<'a>(root: &'a Root, claim: &'a Claim, loan: Option<&'a Loan>) -> &'a [u8] {
    match loan {
        Some(loan) if root.hands_out_copies() => &loan.copy[claim.record.block()..],
        _ => claim.record.payload(root.memory()),
    }
}

impl<'a> Message<'a> {
    /// A message that was claimed. A single one has a loan, and so has every one where hand-outs are copies.
    #[inline]
    pub(crate) fn new(root: &'a Root, claim: &'a Claim, loan: Option<&'a Loan>) -> Self {
        let bytes = bytes_of(root, claim, loan);
        Self { bytes, hold: Hold::new(root, claim, Dropped::Done), lent: Lent(loan) }
    }

    fn region(&self) -> &[u8] {
        match self.lent.0 {
            Some(loan) if self.hold.root.hands_out_copies() => &loan.copy,
            _ => self.hold.claim.record.region(self.hold.root.memory()),
        }
    }
}

impl OwnedMessage {
    pub(crate) fn new(root: Arc<Root>, claim: Claim, region: Vec<u8>) -> Self {
        Self { region, hold: Hold::new(root, claim, Dropped::Done) }
    }

    /// The bytes, without the headers; the message is done.
    pub fn into_vec(mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.region);
        bytes.drain(..self.hold.block());
        bytes
    }

    /// Makes it a dead letter, as [`Lease::reject`].
    ///
    /// # Errors
    ///
    /// As [`Lease::reject`].
    pub fn reject(mut self) -> Result<(), RejectError> {
        self.hold.reject()
    }

    fn region(&self) -> &[u8] {
        &self.region
    }
}

impl Lease {
    fn region(&self) -> &[u8] {
        &self.region
    }

    pub(crate) fn new(root: Arc<Root>, claim: Claim, region: Vec<u8>) -> Self {
        Self { region, hold: Hold::new(root, claim, Dropped::GiveBack) }
    }

    /// Whether dropping it rejects it.
    #[cfg(feature = "serde")]
    pub(crate) fn reject_if_dropped(&mut self, is: bool) {
        self.hold.dropped = if is { Dropped::Reject } else { Dropped::GiveBack };
    }

    /// Being done with it: its group never gets it again.
    ///
    /// # Errors
    ///
    /// [`AckError`] if it was somebody else's by then; nothing was changed.
    pub fn ack(mut self) -> Result<(), AckError> {
        self.hold.ack()
    }

    /// Hands it out again, at once.
    ///
    /// # Errors
    ///
    /// [`AckError`] if it cannot be, or was somebody else's by then.
    pub fn give_back(mut self) -> Result<(), AckError> {
        self.hold.give_back()
    }

    /// Makes it a [dead letter](crate::DeadLetter) now, however often it was handed out: for a message that nobody
    /// can use. Its group never gets it again.
    ///
    /// If there is no room among the dead letters it waits for some, and is handed out to nobody meanwhile
    /// ([`GroupStats::undeliverable`](crate::GroupStats::undeliverable)). A message received
    /// [by reference](crate::Message) cannot be rejected, as several of them can be one claim.
    ///
    /// # Errors
    ///
    /// [`RejectError::NoDeadLetters`] if the channel was made without
    /// [`Options::max_attempts`](crate::Options::max_attempts): then it was given back. `Taken` if it was somebody
    /// else's by then, and nothing was changed.
    ///
    /// # Durability
    ///
    /// The letter is on stable storage before the message is done, so this may block the thread for a sync. If the
    /// process dies in it the message becomes one letter, or is handed out again. After a power loss it may come again
    /// though its letter is there.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("orders.chan");
    /// use disk_chan::{DeadLetter, Options};
    /// let channel = Options::new().page_size(1 << 20).max_pages(4).max_attempts(5).blocking_open(&path)?;
    /// let mut rx = channel.blocking_subscribe("billing")?;
    /// channel.sender().blocking_send(b"garbage")?;
    /// rx.blocking_lease()?.reject()?;
    ///
    /// let mut dead = channel.blocking_dead_letters()?;
    /// let message = dead.try_recv()?;
    /// assert_eq!(DeadLetter::parse(&message).expect("a letter").message(), b"garbage");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reject(mut self) -> Result<(), RejectError> {
        self.hold.reject()
    }
}

impl Deref for Message<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl Deref for OwnedMessage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.region[self.hold.block()..]
    }
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.region[self.hold.block()..]
    }
}

macro_rules! hand_out {
    ($name:ident, $type:ty) => {
        impl $type {
            /// Its place in the channel.
            pub fn offset(&self) -> Offset {
                self.hold.claim().offset
            }

            /// How often the group was given it, this time included.
            pub fn attempts(&self) -> u32 {
                self.hold.claim().word.attempts() + 1
            }

            /// When it was sent, by a clock that ticks every few milliseconds.
            pub fn sent_at(&self) -> SystemTime {
                self.hold.sent_at()
            }

            /// Its headers; a message that was sent without any has none.
            pub fn headers(&self) -> HeadersRef<'_> {
                HeadersRef::new(self.region(), self.hold.block())
            }

            /// The key in its headers, if there is one.
            pub fn key(&self) -> Option<&[u8]> {
                self.headers().key()
            }
        }

        impl AsRef<[u8]> for $type {
            fn as_ref(&self) -> &[u8] {
                self
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("offset", &self.offset())
                    .field("len", &self.len())
                    .finish_non_exhaustive()
            }
        }
    };
}
hand_out!(Message, Message<'_>);
hand_out!(OwnedMessage, OwnedMessage);
hand_out!(Lease, Lease);
