//! One small error type per operation, in std's words and shapes.
#![forbid(unsafe_code)]

use crate::{GroupName, Offset};
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a handle can do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    Forked,
    ReadOnly,
    Poisoned,
}

macro_rules! unusable {
    ($($error:ident)*) => {$(
        impl From<Unusable> for $error {
            fn from(why: Unusable) -> Self {
                match why {
                    Unusable::Forked => Self::Forked,
                    Unusable::ReadOnly => Self::ReadOnly,
                    Unusable::Poisoned => Self::Poisoned,
                }
            }
        }
    )*};
}
unusable!(SendError SubscribeError RemoveGroupError MoveGroupError SyncError);

impl From<Unusable> for TryRecvError {
    fn from(why: Unusable) -> Self {
        match why {
            Unusable::Forked => Self::Forked,
            Unusable::Poisoned => Self::Poisoned,
            // No receiver is made of such an open.
            Unusable::ReadOnly => Self::Disconnected,
        }
    }
}

macro_rules! unreadable {
    ($($error:ident)*) => {$(
        impl From<Unusable> for $error {
            fn from(why: Unusable) -> Self {
                match why {
                    Unusable::Forked => Self::Forked,
                    // A read-only open can be read.
                    Unusable::Poisoned | Unusable::ReadOnly => Self::Poisoned,
                }
            }
        }
    )*};
}
unreadable!(ReadError TryReadError PageBytesError);

impl From<Unusable> for AckError {
    fn from(why: Unusable) -> Self {
        match why {
            Unusable::Forked => Self::Forked,
            Unusable::Poisoned => Self::Poisoned,
            // Nothing is held of such an open.
            Unusable::ReadOnly => Self::Taken,
        }
    }
}

/// Why a channel could not be created or opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The operating system refused.
    #[error("{path}: cannot {doing}", path = path.display())]
    Io {
        /// The file of the channel.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// An option is out of range, whatever the file says.
    #[error("option {option} = {value}: {reason}")]
    InvalidOption {
        /// The name of the option.
        option: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        reason: String,
    },
    /// The file exists and is something else.
    #[error("{path} is not a channel: it does not begin with this format's mark", path = path.display())]
    NotAChannel {
        /// The file.
        path: PathBuf,
    },
    /// The file is a channel of another format version.
    #[error("{path} has format version {found}; this library reads version {supported}", path = path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version this library knows.
        supported: u64,
    },
    /// The file uses features that this library does not know.
    #[error("{path} uses features {found:#x} that this library does not know", path = path.display())]
    UnsupportedFeatures {
        /// The file.
        path: PathBuf,
        /// The feature bits that are not known.
        found: u64,
    },
    /// An option was given that differs from what the file was created with.
    #[error("{path} was created with {option} = {found}, not {expected}: leave the option out, or use another file", path = path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The name of the option.
        option: &'static str,
        /// What the file has.
        found: u64,
        /// What was asked for.
        expected: u64,
    },
    /// The file is shorter than its header says.
    #[error("{path} is cut short: {found} bytes of {expected}", path = path.display())]
    CutShort {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// The size in bytes it was created with.
        expected: u64,
    },
    /// What the file says contradicts itself.
    #[error("{path} is damaged: {what}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// Every entry for an open is in use.
    #[error("{path} is open {max} times already, as often as max_opens allows", path = path.display())]
    TooManyOpens {
        /// The file.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
    /// Somebody else held the open lock all the time; try again.
    #[error("{path} is being opened, closed or changed by somebody else; gave up waiting", path = path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// It needs recovery, as the machine went down while it was in use, or its file was copied then; but
    /// another process has it open.
    #[error("{path} needs recovery, and is open elsewhere: close it everywhere, then open it", path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A sync failed, and another process still has it open.
    #[error("{path}: a sync failed, and it is open elsewhere still: close it everywhere, then open it, which recovers it", path = path.display())]
    Poisoned {
        /// The file.
        path: PathBuf,
    },
    /// The file system keeps none of the promises that a channel needs, as far as is known.
    #[error("{path} lies on a file system of type {kind:#x}; only ext4, xfs and tmpfs are trusted: see Options::trust_file_system", path = path.display())]
    FileSystem {
        /// The file.
        path: PathBuf,
        /// The type number that the kernel gives.
        kind: u64,
    },
    /// The size is over the limit of the process.
    #[error("{path} would have {size} bytes; the process may write files of {limit} bytes (RLIMIT_FSIZE)", path = path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The size in bytes the channel needs.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The file may be read and not written.
    #[error("{path} cannot be written, and a channel is used by writing: open it with Options::read_only to look at it", path = path.display())]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no file, and only opening was asked for.
    #[error("{path} does not exist", path = path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// There is a file, and only creating was asked for.
    #[error("{path} exists already", path = path.display())]
    AlreadyExists {
        /// The file.
        path: PathBuf,
    },
}

/// Why a channel could not be written into a new file. There is no file of the new name then.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// One of the files could not be opened or made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A message of the old file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Somebody has the old file open.
    #[error("{path} is in use: close it everywhere first", path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The messages need more pages than the new file would have.
    #[error(
        "the messages need {needed} pages of this size, and there would be {pages}: use more pages, or larger ones"
    )]
    DoesNotFit {
        /// Pages that they need.
        needed: u64,
        /// Pages that there would be.
        pages: u64,
    },
    /// A message is longer than the longest that fits in the new file.
    #[error("the message at {offset} has {len} bytes with its headers; the new file takes {max}: use larger pages")]
    MessageTooLong {
        /// The message.
        offset: Offset,
        /// Its length in bytes.
        len: usize,
        /// Bytes of the longest that fits.
        max: usize,
    },
    /// Offsets do not rise.
    #[error("{offset} does not come behind {before}")]
    NotInOrder {
        /// The offset that does not.
        offset: Offset,
        /// The one before it.
        before: Offset,
    },
    /// The name of a group is empty or too long.
    #[error("a group name of {len} bytes: it must have 1 to {max}")]
    InvalidName {
        /// Bytes of the name.
        len: usize,
        /// Most bytes of a name.
        max: usize,
    },
    /// Two groups have one name.
    #[error("there are two groups of the name {name}")]
    GroupTwice {
        /// The name.
        name: GroupName,
    },
    /// There are more groups than the new file takes.
    #[error("there are {groups} groups, and the new file takes {max}: use a larger max_groups")]
    TooManyGroups {
        /// Groups.
        groups: usize,
        /// Groups that the new file takes.
        max: usize,
    },
}

/// Why a group could not be joined or created.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The name is empty or too long.
    #[error("a group name of {len} bytes: it must have 1 to {max}")]
    InvalidName {
        /// Bytes of the name.
        len: usize,
        /// Most bytes of a name.
        max: usize,
    },
    /// Every entry for a group is in use: by a group, or by a removed one of which messages are held.
    #[error(
        "the channel has {max} groups already, as many as max_groups allows; removed ones count while messages of them are held"
    )]
    TooManyGroups {
        /// The limit.
        max: usize,
    },
    /// The place to start at was never reached.
    #[error("cannot start at {start}: the channel ends at {end}")]
    StartBeyondEnd {
        /// What was asked for.
        start: Offset,
        /// Where the channel ends.
        end: Offset,
    },
    /// Somebody else held the open lock all the time; try again.
    #[error("the channel is being opened, closed or changed by somebody else; gave up waiting")]
    Busy,
    /// The operating system refused to write the new group down.
    #[error("the new group could not be written down")]
    Io(#[from] io::Error),
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
    /// The channel was opened with [`Options::read_only`](crate::Options::read_only).
    #[error("the channel was opened read-only")]
    ReadOnly,
    /// The channel was made without [`Options::max_attempts`](crate::Options::max_attempts).
    #[error("the channel has no dead letters: it was created without max_attempts")]
    NoDeadLetters,
}

/// Why a group could not be moved, or copied.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MoveGroupError {
    /// There is no group of that name.
    #[error("there is no such group")]
    NotFound,
    /// There is a group of that name.
    #[error("there is a group of that name")]
    AlreadyExists,
    /// The name is empty or too long.
    #[error("a group name of {len} bytes: it must have 1 to {max}")]
    InvalidName {
        /// Bytes of the name.
        len: usize,
        /// Most bytes of a name.
        max: usize,
    },
    /// Somebody holds messages of the group.
    #[error("{held} messages of the group are handed out; finish them or force the move")]
    InUse {
        /// How many.
        held: usize,
    },
    /// Every entry for a group is in use, and it needs another one.
    #[error(
        "the channel has {max} groups already, as many as max_groups allows, and a group that is moved needs room for one more"
    )]
    TooManyGroups {
        /// The limit.
        max: usize,
    },
    /// The place was never reached.
    #[error("cannot start at {start}: the channel ends at {end}")]
    StartBeyondEnd {
        /// What was asked for.
        start: Offset,
        /// Where the channel ends.
        end: Offset,
    },
    /// Somebody else held the open lock all the time; try again.
    #[error("the channel is being opened, closed or changed by somebody else; gave up waiting")]
    Busy,
    /// The operating system refused to write it down.
    #[error("the group could not be written down")]
    Io(#[from] io::Error),
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
    /// The channel was opened with [`Options::read_only`](crate::Options::read_only).
    #[error("the channel was opened read-only")]
    ReadOnly,
}

/// Why groups could not be put where a text says that they stood.
#[cfg(feature = "json")]
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportGroupsError {
    /// The text is something else.
    #[error("these are no positions of groups: {what}")]
    Invalid {
        /// What is wrong.
        what: String,
    },
    /// They were exported from another channel, whose offsets mean nothing here.
    #[error("positions of groups of channel {found}; this is channel {expected}")]
    OtherChannel {
        /// The channel that the text names.
        found: String,
        /// This channel.
        expected: String,
    },
    /// This group could not be moved.
    #[error("group {name} could not be moved")]
    Group {
        /// The group.
        name: GroupName,
        /// Why.
        source: MoveGroupError,
    },
}

/// Why a group could not be removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RemoveGroupError {
    /// There is no group of that name.
    #[error("there is no such group")]
    NotFound,
    /// Somebody holds messages of the group.
    #[error("{held} messages of the group are handed out; finish them or force the removal")]
    InUse {
        /// How many.
        held: usize,
    },
    /// Somebody else held the open lock all the time; try again.
    #[error("the channel is being opened, closed or changed by somebody else; gave up waiting")]
    Busy,
    /// The operating system refused to write it down.
    #[error("the removal could not be written down")]
    Io(#[from] io::Error),
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
    /// The channel was opened with [`Options::read_only`](crate::Options::read_only).
    #[error("the channel was opened read-only")]
    ReadOnly,
}

/// Why there is no room for a message at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Full {
    /// This group, the slowest, has not finished the oldest page.
    #[error("group {name} is {behind} messages behind")]
    Group {
        /// The group.
        name: GroupName,
        /// Places between its first unfinished message and the end; messages, and places skipped.
        behind: u64,
    },
    /// No group reads the channel, and without one nothing is given up.
    #[error("no group reads the channel")]
    NoGroup,
    /// A send in the oldest page has begun and not ended, or a process was stopped while it
    /// turned a page.
    #[error("a send that began in the oldest page has not ended")]
    UnfinishedSend,
    /// A message of a removed group is still held, and its bytes lie in the oldest page.
    #[error("a message of a removed group is held in the oldest page")]
    HeldMessage,
    /// As many sends run at this moment as `max_op_cells` allows.
    #[error("as many sends are running as max_op_cells allows")]
    TooManySending,
    /// The page numbers that are safe to use are used up until the next limit is on disk.
    #[error("the next page numbers are not on disk yet")]
    PageLimit,
}

/// Why a message was not sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// It does not fit in a page, however empty.
    #[error("a message of {len} bytes; the longest is {max}")]
    MessageTooLarge {
        /// Bytes of the message.
        len: usize,
        /// Most bytes of a message.
        max: usize,
    },
    /// The channel was closed.
    #[error("the channel is closed")]
    Closed,
    /// It was sent, and then the sync failed that was to bring it to stable storage.
    #[error("the message was sent at {offset}, and then a sync of the channel failed")]
    NotDurable {
        /// The offset of the message.
        offset: Offset,
    },
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
    /// The channel was opened with [`Options::read_only`](crate::Options::read_only).
    #[error("the channel was opened read-only")]
    ReadOnly,
}

/// Why a message was not sent at once.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TrySendError {
    /// There is no room.
    #[error("the channel is full: {0}")]
    Full(Full),
    /// It does not fit in a page, however empty.
    #[error("a message of {len} bytes; the longest is {max}")]
    MessageTooLarge {
        /// Bytes of the message.
        len: usize,
        /// Most bytes of a message.
        max: usize,
    },
    /// The channel was closed.
    #[error("the channel is closed")]
    Closed,
    /// It was sent, and then the sync failed that was to bring it to stable storage.
    #[error("the message was sent at {offset}, and then a sync of the channel failed")]
    NotDurable {
        /// The offset of the message.
        offset: Offset,
    },
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
    /// The channel was opened with [`Options::read_only`](crate::Options::read_only).
    #[error("the channel was opened read-only")]
    ReadOnly,
}

impl TrySendError {
    /// Whether it may work later.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }

    /// Whether the channel was closed.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

impl From<SendError> for TrySendError {
    fn from(e: SendError) -> Self {
        match e {
            SendError::MessageTooLarge { len, max } => Self::MessageTooLarge { len, max },
            SendError::Closed => Self::Closed,
            SendError::NotDurable { offset } => Self::NotDurable { offset },
            SendError::Poisoned => Self::Poisoned,
            SendError::Forked => Self::Forked,
            SendError::ReadOnly => Self::ReadOnly,
        }
    }
}

/// Why a message was not sent in time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendTimeoutError {
    /// There was no room in all that time, at the end for this reason.
    #[error("timed out: the channel is full: {0}")]
    Timeout(Full),
    /// It does not fit in a page, however empty.
    #[error("a message of {len} bytes; the longest is {max}")]
    MessageTooLarge {
        /// Bytes of the message.
        len: usize,
        /// Most bytes of a message.
        max: usize,
    },
    /// The channel was closed.
    #[error("the channel is closed")]
    Closed,
    /// It was sent, and then the sync failed that was to bring it to stable storage.
    #[error("the message was sent at {offset}, and then a sync of the channel failed")]
    NotDurable {
        /// The offset of the message.
        offset: Offset,
    },
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
    /// The channel was opened with [`Options::read_only`](crate::Options::read_only).
    #[error("the channel was opened read-only")]
    ReadOnly,
}

impl SendTimeoutError {
    /// Whether it was for want of time.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout(_))
    }
}

impl From<SendError> for SendTimeoutError {
    fn from(e: SendError) -> Self {
        match e {
            SendError::MessageTooLarge { len, max } => Self::MessageTooLarge { len, max },
            SendError::Closed => Self::Closed,
            SendError::NotDurable { offset } => Self::NotDurable { offset },
            SendError::Poisoned => Self::Poisoned,
            SendError::Forked => Self::Forked,
            SendError::ReadOnly => Self::ReadOnly,
        }
    }
}

/// Why what was done before is not known to be on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SyncError {
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
    /// The channel was opened with [`Options::read_only`](crate::Options::read_only).
    #[error("the channel was opened read-only")]
    ReadOnly,
}

/// Why headers cannot go with a message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// A value has no name.
    #[error("a header without a name: give it one of 1 to 255 bytes")]
    NoName,
    /// A name is too long.
    #[error("the name of a header has {len} bytes; the longest is {max}")]
    NameTooLong {
        /// Bytes of the name.
        len: usize,
        /// Most bytes of a name.
        max: usize,
    },
    /// A value is too long.
    #[error("the header {name:?} has {len} bytes; the longest is {max}: put it in the message")]
    ValueTooLong {
        /// The name of the header.
        name: String,
        /// Bytes of the value.
        len: usize,
        /// Most bytes of a value.
        max: usize,
    },
    /// The key is too long.
    #[error("a key of {len} bytes; the longest is {max}")]
    KeyTooLong {
        /// Bytes of the key.
        len: usize,
        /// Most bytes of a key.
        max: usize,
    },
}

/// Why not all of several messages were sent, or could not be brought to stable storage.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{} of the messages were sent, then: {error}", sent.len())]
pub struct SendManyError {
    /// The offsets of those that were sent: the first ones.
    pub sent: Vec<Offset>,
    /// Why the next was not.
    #[source]
    pub error: SendError,
}

/// Why there is no message, and will be none without a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The group has had every message, and nobody who could send has the channel open.
    #[error("the channel is drained and has no senders")]
    Disconnected,
    /// The oldest pages went before the group had read them (`Overflow::DropOldest`): this many
    /// messages were never handed out to it. The next receive goes on behind them.
    #[error("{0} messages were dropped before this group had them")]
    Lagged(u64),
    /// The group was removed.
    #[error("the group was removed")]
    GroupRemoved,
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
}

/// Why a [`Reader`](crate::Reader) has no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The reader is at the end, and no sender or channel is alive anywhere, or the channel was closed. Not
    /// final: somebody may open it.
    #[error("at the end, and nobody is left who could send")]
    Disconnected,
    /// What lay between the reader's place and this offset was overwritten before it was read; reading goes on
    /// here. (At the end of a page that may have been nothing.)
    #[error("what lay before {0} was overwritten before it was read")]
    Overwritten(Offset),
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
}

/// Why there are no bytes of a page.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PageBytesError {
    /// The page was used again; the ring begins here.
    #[error("what lay before {0} was overwritten")]
    Overwritten(Offset),
    /// The operating system refused to open the file once more.
    #[error("the file could not be opened for reading")]
    Io(#[from] io::Error),
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
}

/// Why a [`Reader`](crate::Reader) has no message now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TryReadError {
    /// There is no further message yet.
    #[error("there is no further message yet")]
    Empty,
    /// The reader is at the end, and no sender or channel is alive anywhere, or the channel was closed. Not
    /// final: somebody may open it.
    #[error("at the end, and nobody is left who could send")]
    Disconnected,
    /// What lay between the reader's place and this offset was overwritten before it was read; reading goes on
    /// here. (At the end of a page that may have been nothing.)
    #[error("what lay before {0} was overwritten before it was read")]
    Overwritten(Offset),
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
}

impl From<ReadError> for TryReadError {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::Disconnected => Self::Disconnected,
            ReadError::Overwritten(oldest) => Self::Overwritten(oldest),
            ReadError::Poisoned => Self::Poisoned,
            ReadError::Forked => Self::Forked,
        }
    }
}

/// Why there is no message now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TryRecvError {
    /// The group has had every message so far.
    #[error("there is no message")]
    Empty,
    /// As many messages of the group are handed out as `max_held` allows. (One that is receiving several at that
    /// moment has room for 32.)
    #[error("{held} messages are held, and {undeliverable} wait to become dead letters, of {max} that max_held allows")]
    TooManyHeld {
        /// Messages handed out and not done.
        held: usize,
        /// Messages that wait for room among the dead letters.
        undeliverable: usize,
        /// The limit.
        max: usize,
    },
    /// See [`RecvError::Disconnected`].
    #[error("the channel is drained and has no senders")]
    Disconnected,
    /// See [`RecvError::Lagged`].
    #[error("{0} messages were dropped before this group had them")]
    Lagged(u64),
    /// The group was removed.
    #[error("the group was removed")]
    GroupRemoved,
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
}

impl TryRecvError {
    /// Whether there is merely no message yet.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Whether nobody is left to send.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, Self::Disconnected)
    }
}

impl From<RecvError> for TryRecvError {
    fn from(e: RecvError) -> Self {
        match e {
            RecvError::Disconnected => Self::Disconnected,
            RecvError::Lagged(n) => Self::Lagged(n),
            RecvError::GroupRemoved => Self::GroupRemoved,
            RecvError::Poisoned => Self::Poisoned,
            RecvError::Forked => Self::Forked,
        }
    }
}

/// Why there was no message in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecvTimeoutError {
    /// None came.
    #[error("timed out waiting for a message")]
    Timeout,
    /// See [`RecvError::Disconnected`].
    #[error("the channel is drained and has no senders")]
    Disconnected,
    /// See [`RecvError::Lagged`].
    #[error("{0} messages were dropped before this group had them")]
    Lagged(u64),
    /// The group was removed.
    #[error("the group was removed")]
    GroupRemoved,
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
}

impl RecvTimeoutError {
    /// Whether it was for want of time.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout)
    }

    /// Whether nobody is left to send.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, Self::Disconnected)
    }
}

impl From<RecvError> for RecvTimeoutError {
    fn from(e: RecvError) -> Self {
        match e {
            RecvError::Disconnected => Self::Disconnected,
            RecvError::Lagged(n) => Self::Lagged(n),
            RecvError::GroupRemoved => Self::GroupRemoved,
            RecvError::Poisoned => Self::Poisoned,
            RecvError::Forked => Self::Forked,
        }
    }
}

/// Why a lease could not be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AckError {
    /// It was taken away and belongs to somebody else now; nothing was changed.
    #[error("the lease was taken away")]
    Taken,
    /// Its page was dropped, or had expired; it cannot be handed out again.
    #[error("the page of the message is gone")]
    Gone,
    /// Its group was removed.
    #[error("the group was removed")]
    GroupRemoved,
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
}

/// Why a message did not become a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RejectError {
    /// The channel was made without [`Options::max_attempts`](crate::Options::max_attempts). The message was given
    /// back: it is handed out again.
    #[error(
        "the channel was created without max_attempts and has no dead letters: the message was given back; ack what nobody can use"
    )]
    NoDeadLetters,
    /// It was taken away and belongs to somebody else now; nothing was changed.
    #[error("the lease was taken away")]
    Taken,
    /// Its page was dropped, or had expired; it is counted as gone, and is no dead letter.
    #[error("the page of the message is gone")]
    Gone,
    /// Its group was removed, or moved. In a group that was moved it comes again if it lies behind the new place.
    #[error("the group was removed")]
    GroupRemoved,
    /// A sync failed, in whichever process: what memory says may not be what the disk has.
    #[error("a sync of the channel failed: close it everywhere, then open it, which recovers it")]
    Poisoned,
    /// The handle was made before a fork, and this process is the child.
    #[error("this handle was made before a fork and is of no use in the child: open the channel there")]
    Forked,
}

impl From<AckError> for RejectError {
    fn from(e: AckError) -> Self {
        match e {
            AckError::Taken => Self::Taken,
            AckError::Gone => Self::Gone,
            AckError::GroupRemoved => Self::GroupRemoved,
            AckError::Poisoned => Self::Poisoned,
            AckError::Forked => Self::Forked,
        }
    }
}
