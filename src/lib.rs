//! A channel that lives in a file.
//!
//! Many senders, competing receivers in groups, blocking and async, as with an in-memory channel;
//! but what was sent is still there after the process dies, other processes can open the same
//! channel, and a message is not gone until somebody finished with it.
//!
//! ```
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let path = std::env::temp_dir().join(format!("orders-{}.chan", std::process::id()));
//!     let tx = disk_chan::new(&path, 1 << 20, 4).await?; // open or create: 4 pages of 1 MiB
//!     let mut rx = tx.subscribe("billing").await?; // each group gets every message
//!     tx.send("two coffees").await?;
//!     tx.send("one tea").await?;
//!
//!     let order = rx.recv().await?; // borrowed from the file, not copied
//!     assert_eq!(&*order, b"two coffees");
//!     drop(order); // done
//!
//!     let order = rx.lease().await?; // a copy that can go to another task
//!     assert_eq!(&*order, b"one tea");
//!     order.ack()?; // done; dropped without this it is handed out again
//!     Ok(std::fs::remove_file(path)?)
//! }
//! ```
//!
//! ```text
//!              oldest page                   being written
//!  sender ─┐   ┌──────────┬──────────┬──────────┬──────────┬╌╌╌╌╌╌╌╌╌╌┐
//!  sender ─┼─► │██████████│███░██████│██████████│█████     │   free   │   a ring of pages: one file, mapped by
//!  sender ─┘   └──────────┴──────────┴──────────┴──────────┴╌╌╌╌╌╌╌╌╌╌┘   each process that has it open
//!                          ▲  ▲   ▲             ▲
//!                          │  │   │             └ group "audit": has had everything up to here
//!                          │  │   └ group "billing": stands here; its receivers share what comes
//!                          │  └ held by a receiver of "billing": comes again if that one dies
//!                          └ before the slowest group, pages are used again
//! ```
//!
//! Each group gets every message, and each message goes to one receiver of the group. A message is *done* when its
//! [`Message`] is dropped or its [`Lease`] acknowledged, and comes again otherwise. A page is free when every group
//! is done with it. [`guide`] has recipes, how to choose sizes, questions and answers, and the format of the file.
//!
//! # What is promised
//!
//! | after ... | a message whose `send` returned `Ok` | whose [`send_durable`](Sender::send_durable) or [`sync`](Channel::sync) returned `Ok` | handed out, not done | done |
//! |---|---|---|---|---|
//! | a panic; a task cancelled while it holds a [`Lease`] | is there | is there | is handed out again | stays done |
//! | `kill -9` of any process, at any instruction | is there | is there | is handed out again (unless its page was dropped or expired: counted `gone`) | stays done |
//! | power loss or kernel crash | may be missing; never torn, never altered | is there, byte for byte | is handed out again if it is there | stays done if synced since, else may come again |
//!
//! - All messages have one order, that of their [`Offset`]; each sender's messages keep theirs. A
//!   group's first deliveries are in that order; a message given back is handed out before any new.
//! - Each group gets every message at least once, except what [`RecvError::Lagged`], `expired`, `damaged` or
//!   `gone` counted, what became a [`DeadLetter`], or power loss took before it was synced. Exactly once,
//!   when no receiver of the group died, panicked or gave it back, no lease timed out, and there was no
//!   power loss.
//! - An offset identifies and orders; it does not count. None that a send returned is used twice, also not
//!   after a power loss.
//! - The file never exceeds the size it was created with, and every byte is allocated then: a full
//!   disk is an `Err` from open. Promised on ext4, xfs and tmpfs; others are refused unless
//!   [`Options::trust_file_system`] says otherwise.
//! - Every hand-out verifies a checksum. A damaged message costs itself, and is counted.
//! - Sending and receiving wait for no lock that another thread or process can hold, except a few
//!   instructions within this process when somebody sleeps. Opening, and creating, moving and removing a group
//!   take a lock in the file, which death frees, and give up after ten seconds with `Busy`; joining
//!   an existing group takes nothing.
//! - A stopped process (SIGSTOP) delays the messages behind its own half-written one; stopped between
//!   announcing a send and making it, also those behind a dead sender's hole in the same page; and
//!   nothing else until the ring comes round to a page that it still writes, turns or holds. Then
//!   senders see [`Full`] with that reason.
//!
//! # Several processes
//!
//! Any number of processes, and any number of times in one, can have the file open; they compete in
//! groups and wait for each other as threads do.
//!
//! - Whether an open is alive is told by a lock of its file description, which the kernel frees with
//!   it; never by a process id or a clock. A process that was killed and not waited for is dead, one
//!   that was stopped is alive. Whoever waits for the channel, polls it, opens or closes it cleans up
//!   after the dead, without a lock; waiting receivers have what they held within a tick of 50 ms.
//! - After `fork`, the child has neither the file nor its memory: every handle from before is an
//!   error called `Forked`, and dropping it does nothing. The bytes of a [`Message`] are not there:
//!   reading them ends the child. It can open the channel itself.
//! - [`Options::lease_timeout`] and [`Options::max_attempts`] are for consumers that hang, and for
//!   messages that kill them. The time of a lease is that of the monotonic clock: processes in time
//!   namespaces with different offsets should not share a channel with a `lease_timeout`.
//!
//! # Reading without a group
//!
//! [`Channel::reader`] reads what is still in the ring, forward and backward, from any offset or time, and follows the
//! end; [`Channel::read_slice`] some of it; [`Channel::page`] a page, and [`Channel::page_bytes`] its bytes, which
//! [`records`] reads elsewhere. What comes of it are verified copies; it moves no group and holds up nobody.
//! [`Channel::seek_group`] moves a group. [`Headers`] go with a message.
//!
//! # Values, streams, sinks
//!
//! With the feature `serde`, `Sender::typed` and `Receiver::typed` send and receive values instead of bytes, by
//! `Postcard`, `Json` or a `Codec` of one's own; `Message::decode` borrows from the file. A message that does not decode
//! is an error that has it, and [`Lease::reject`] makes a message a dead letter at once.
//!
//! [`Receiver::stream`] and [`Receiver::lease_stream`] are streams, [`Sender::sink`] is a sink, for the combinators of
//! `futures`.
//!
//! # Whole files
//!
//! [`verify()`] looks at everything in a file, also while it is in use, and says what is wrong, where, and what becomes
//! of it. [`Rewrite`] copies a channel that nobody has open into a new file: of another size, or what is whole of a
//! damaged one; each group has left there what it had left. [`ChannelWriter`] writes a new one from anything.
//!
//! # Partitions
//!
//! [`Partitioned`] is a directory of channels, among which a key chooses. The receivers of a group share them, in
//! all processes, and each is with one receiver at a time: so the messages of a key are worked on in order, and
//! those of other keys at the same time.
//!
//! # Relays
//!
//! With the feature `relay`, a relay carries a group's messages into an engine on other machines: NATS JetStream
//! (`relay-nats`), Redis Streams (`relay-redis`), or one that a `Sink` of your own writes to.
//!
//! # Figures
//!
//! [`Channel::stats`] and [`Channel::groups`] are read from the file, and so right in every process and right after
//! reopening; [`Channel::metrics`] gives each figure a name.
//!
//! # Features
//!
//! None is on by default. `serde`: typed channels. `json`: groups' positions as JSON. `metrics`: figures for the crate
//! `metrics`. `tracing`: opening, recovery, cleaning up after the dead and failed syncs as events. `relay`, `relay-nats`,
//! `relay-redis`: relays, on tokio. `cli`: the command `disk-chan`.
//!
//! # Durability
//!
//! [`Sender::send_durable`] returns when its message is on stable storage, [`Channel::sync`] when everything
//! is that was sent and acknowledged before; [`Options::durability`] does so now and then, or for each send.
//! Callers of one open share a sync: who asks while one runs waits for the next. A sync is one `msync` of the
//! pages, on the thread of a blocking caller or on one of the open's own; no other process, and no send that
//! has begun and not ended, can delay it. On tmpfs there is nothing that survives a power loss.
//!
//! - **Recovery.** Opening a file that was in use when the machine went down recovers it: every message whose
//!   record verifies is kept, what groups have done is as much as was on disk, and new offsets begin above
//!   all that were ever used. [`Channel::recovered`] tells what was done. Its time grows with what is in the
//!   ring; it can be interrupted, by a power loss too, and is then made again. Meanwhile who else opens the
//!   file waits, and gives up after ten seconds with `Busy`; while another process has such a file open it is
//!   [`OpenError::InUse`]. After the deaths of processes nothing has to be recovered. What a power loss takes
//!   apart from messages: how often one was handed out, a close that was not synced, and what `Stats` counts.
//! - **Opening** a file that nobody has open looks at every table in it, which are less than half of it;
//!   closing it as the last user does, too.
//! - **A failed sync poisons the channel.** Then the kernel has taken for written what it could not write,
//!   and what is in memory may be gone tomorrow. Every operation, in every process, is an error called
//!   `Poisoned` from then on, but for those that only look, and nothing is tried again. Once nobody has the file open, opening it writes all
//!   that is in memory again, recovers, and goes on.
//! - **Damage.** A channel that was closed in order carries checksums of its tables and a second copy of its
//!   header and its groups. A bit that flipped costs at most the message that it hit, and is counted.
//!
//! Outside of all this: somebody else writing into the open file or truncating it; a copy of a file in use
//! put in its place within the same boot; a file system that is shut down under the file, and read errors
//! of the device, which are signals; a process killed while a sync of its own was failing, before it could
//! say so, if nobody else had the file open.
//!
//! # How it differs from a channel in memory
//!
//! - Sending with no receiver is fine. A group gets what was sent since it was created, or since the
//!   oldest message in the ring: see [`Start`].
//! - Without any group nothing is given up: under [`Overflow::Block`] the ring fills, and is then
//!   [`Full::NoGroup`]. But what is older than [`Options::max_age`] goes, whoever has read it.
//! - Receivers end with [`RecvError::Disconnected`] when no [`Sender`] or [`Channel`] is alive in any
//!   process, or the channel was [closed](Channel::close); it is not final, somebody may open it
//!   again.
//! - Dropping the last handle closes the file: if nobody else has it open, everything is synced,
//!   which can take as long as the disk takes.
//!
//! # How it works
//!
//! `layout` specifies the file. `page` is reserving, committing and reading in one page; `ring` is
//! the pages in order; `ops` is what running sends say about themselves, `cells` what is said of a
//! message that was handed out; `group`, `lifecycle`, `claim`, `extend` and `several` are the receiving
//! side, `reap` is what the dead left there, `dead` are dead letters, `headers` what goes with a message; `buffer` is
//! where messages are made, `stream` and `sink` are for `futures`, `codec` and `typed` for values; `read` is
//! reading without a group, `raw` reading the bytes of a page; `geometry` is what a channel was made with;
//! `opens` is who has the file open, `fork` what a child does not have; `wait` is sleeping and waking, `watcher`
//! looks for wakes that never came. `durability` is syncing; `create`,
//! `file`, `header` and `inspect` are the life of the file, `clean` what a close leaves, `found` what an
//! open finds, `recovery` what it makes of the rest. `verify`, `tables` and `finding` are what is wrong with a file; `offline` is
//! one that nobody has open, `progress` what its groups are done with, and `rewrite`, `packing` and `writer` make a
//! new one of it. `partitioned` is several channels in a directory, `manifest`
//! says how many; `holder` is who holds which of them, `balance` who should, `holdings` does the one for the other,
//! and `partitioned_receiver` receives from what it holds. `relay` hands what it receives to a sink, as long as it is the
//! one that holds the group. Each begins with its invariants, and they work on
//! references to atomics: the models in `loom-tests` run the same
//! functions. Unsafe code is in `page`, `map` and `sys` alone.
#![cfg_attr(any(disk_chan_loom, fuzzing), allow(dead_code, missing_docs))]

#[cfg(not(disk_chan_loom))]
#[macro_use]
mod event;

#[cfg(not(disk_chan_loom))]
mod balance;
#[cfg(not(disk_chan_loom))]
mod buffer;
#[cfg(not(disk_chan_loom))]
mod channel;
#[cfg(all(feature = "serde", not(disk_chan_loom)))]
mod codec;
#[cfg(not(disk_chan_loom))]
mod create;
#[cfg(not(disk_chan_loom))]
mod dead;
#[cfg(not(disk_chan_loom))]
mod durability;
#[cfg(not(disk_chan_loom))]
mod file;
#[cfg(not(disk_chan_loom))]
mod finding;
#[cfg(not(disk_chan_loom))]
mod fork;
#[cfg(not(disk_chan_loom))]
mod geometry;
#[cfg(not(disk_chan_loom))]
pub mod guide;
#[cfg(not(disk_chan_loom))]
mod header;
#[cfg(not(disk_chan_loom))]
mod holdings;
#[cfg(not(disk_chan_loom))]
mod inspect;
#[cfg(not(disk_chan_loom))]
mod iter;
#[cfg(not(disk_chan_loom))]
mod manifest;
#[cfg(not(disk_chan_loom))]
mod message;
#[cfg(not(disk_chan_loom))]
mod metrics;
#[cfg(not(disk_chan_loom))]
mod off_thread;
#[cfg(not(disk_chan_loom))]
mod offline;
#[cfg(not(disk_chan_loom))]
mod packing;
#[cfg(not(disk_chan_loom))]
mod pages;
#[cfg(not(disk_chan_loom))]
mod park;
#[cfg(not(disk_chan_loom))]
mod partitioned;
#[cfg(not(disk_chan_loom))]
mod partitioned_receiver;
#[cfg(not(disk_chan_loom))]
mod positions;
#[cfg(not(disk_chan_loom))]
mod progress;
#[cfg(not(disk_chan_loom))]
mod raw;
#[cfg(not(disk_chan_loom))]
mod reader;
#[cfg(not(disk_chan_loom))]
mod receiver;
#[cfg(all(feature = "relay", not(disk_chan_loom)))]
pub mod relay;
#[cfg(not(disk_chan_loom))]
mod reservation;
#[cfg(not(disk_chan_loom))]
mod rewrite;
#[cfg(not(disk_chan_loom))]
mod sender;
#[cfg(not(disk_chan_loom))]
mod shared;
#[cfg(not(disk_chan_loom))]
mod sink;
#[cfg(not(disk_chan_loom))]
mod sleeper;
#[cfg(not(disk_chan_loom))]
mod stream;
#[cfg(not(disk_chan_loom))]
mod sys;
#[cfg(not(disk_chan_loom))]
mod tables;
#[cfg(all(feature = "serde", not(disk_chan_loom)))]
mod typed;
#[cfg(all(feature = "serde", not(disk_chan_loom)))]
mod typed_receiver;
#[cfg(all(feature = "serde", not(disk_chan_loom)))]
mod typed_sender;
#[cfg(not(disk_chan_loom))]
mod verify;
#[cfg(not(disk_chan_loom))]
mod watcher;
#[cfg(not(disk_chan_loom))]
mod writer;

macro_rules! protocols {
    ($($vis:vis mod $name:ident;)*) => {$(
        #[cfg(any(disk_chan_loom, fuzzing))]
        pub mod $name;
        #[cfg(not(any(disk_chan_loom, fuzzing)))]
        mod $name;
    )*};
}
// What models and fuzz targets work on: public to them.
protocols! {
    mod cells;
    mod claim;
    mod clean;
    mod extend;
    mod found;
    mod group;
    mod holder;
    mod layout;
    mod lifecycle;
    mod map;
    mod memory;
    mod opens;
    mod ops;
    mod page;
    mod read;
    mod reap;
    mod recovery;
    mod ring;
    mod several;
    mod sync;
    mod wait;
}

mod error;
mod headers;
mod name;
mod options;

#[cfg(all(test, not(disk_chan_loom)))]
#[path = "../tests/power_loss/mod.rs"]
mod power_loss;

pub use error::*;
pub use headers::{Headers, HeadersIter, HeadersRef, Payload, WithHeaders};
pub use name::{GroupName, Offset, ParseOffsetError};
pub use options::{Create, Durability, Options, Overflow, Start};
pub use recovery::{Cause, RecoveryProgress, RecoveryReport};

#[cfg(not(disk_chan_loom))]
pub use {
    channel::{Channel, GroupStats, Stats},
    dead::DeadLetter,
    finding::{FileState, Finding, Part, Remedy, Verification},
    geometry::Geometry,
    iter::{IntoIter, Iter, TryIter},
    message::{Lease, Message, OwnedMessage},
    metrics::{Metric, MetricKind},
    pages::{PageInfo, PageRecords},
    partitioned::{PartitionOffset, Partitioned, PartitionedSender},
    partitioned_receiver::PartitionedReceiver,
    progress::GroupProgress,
    raw::{PageBytes, PageId, RawRecord, Records, Unreadable, records},
    reader::{Reader, Record, Slice, TryRecords},
    receiver::Receiver,
    reservation::{Reservation, Reservations},
    rewrite::{Rewrite, Rewritten},
    sender::Sender,
    sink::MessageSink,
    stream::{IntoLeaseStream, IntoMessageStream, LeaseStream, MessageStream},
    verify::{verify, verify_with},
    writer::{ChannelWriter, GroupMoved, Written},
};

#[cfg(all(feature = "serde", not(disk_chan_loom)))]
pub use {
    codec::{Codec, DecodeError, EncodeError, Json, Postcard, PostcardError},
    typed::{Typed, TypedRecvError, TypedSendError, TypedStream, Undecoded},
    typed_receiver::TypedReceiver,
    typed_sender::TypedSender,
};

/// Opens the channel at `path`, or creates it with `max_pages` pages of `page_size` bytes.
///
/// # Errors
///
/// See [`OpenError`]. [`Options`] has everything else that can be chosen.
///
/// # Cancel safety
///
/// As [`Options::open`].
#[cfg(not(disk_chan_loom))]
pub async fn new(path: impl AsRef<std::path::Path>, page_size: usize, max_pages: usize) -> Result<Sender, OpenError> {
    let options = Options::new().page_size(page_size).max_pages(max_pages);
    Ok(options.open(path).await?.sender())
}
