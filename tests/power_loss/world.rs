//! A channel on a simulated disk, what is done with it, and the model of that.

use super::disk::{Disk, Image};
use super::hook;
use super::look::{Look, Seen, content, content_with_headers, look, seen};
use super::model::{GroupModel, Message, Model, Moment, Span};
use super::rng::Rng;
use crate::group::Group;
use crate::layout::{Layout, PageState};
use crate::page::Page;
use crate::{
    AckError, Channel, Durability, Lease, Offset, OpenError, Options, Overflow, Receiver, RecvError, SendError, Sender,
    Start, TryRecvError, WithHeaders,
};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

const SENDERS: usize = 3;
const NAMES: [&str; 6] = ["a", "billing", "c", "d", "e-rather-a-long-name-for-a-group", "f"];

/// Files in memory, used again and again.
#[derive(Debug)]
pub struct Pool {
    dir: tempfile::TempDir,
    free: RefCell<Vec<PathBuf>>,
    made: Cell<usize>,
}

impl Pool {
    pub fn new() -> Rc<Self> {
        let builder = || tempfile::Builder::new().prefix("disk-chan-power-").to_owned();
        let dir = builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir()).unwrap();
        Rc::new(Self { dir, free: RefCell::default(), made: Cell::new(0) })
    }

    /// A file that is not the one with this inode.
    fn take(self: &Rc<Self>, other_than: u64) -> Scratch {
        let mut free = self.free.borrow_mut();
        let is_other = |path: &PathBuf| path.metadata().is_ok_and(|m| m.ino() != other_than);
        let path = match free.iter().position(is_other) {
            Some(at) => free.swap_remove(at),
            None => {
                self.made.set(self.made.get() + 1);
                self.dir.path().join(self.made.get().to_string())
            }
        };
        Scratch { path, pool: Rc::clone(self), retired: false }
    }
}

/// A file of the pool, in use.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
    pool: Rc<Pool>,
    /// Not to be used again: a thread may still have it mapped.
    retired: bool,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.retired {
            let _ = std::fs::remove_file(&self.path);
        } else {
            self.pool.free.borrow_mut().push(self.path.clone());
        }
    }
}

/// A message to be sent.
enum Content {
    Plain(Vec<u8>),
    WithHeaders(WithHeaders),
}

impl Content {
    /// One message in three has headers, if it is long enough: the length is that of both.
    fn new(id: u64, len: usize) -> Self {
        let with = content_with_headers(id, len).filter(|_| id.is_multiple_of(3));
        with.map_or_else(|| Self::Plain(content(id, len)), Self::WithHeaders)
    }

    fn has_headers(&self) -> bool {
        matches!(self, Self::WithHeaders(_))
    }
}

/// Sends a message of either kind.
macro_rules! sending {
    ($content:expr, $message:ident => $send:expr) => {
        match $content {
            Content::Plain($message) => $send,
            Content::WithHeaders($message) => $send,
        }
    };
}

type Sending = Pin<Box<dyn Future<Output = Result<Offset, SendError>>>>;

/// A message that is handed out.
struct Held {
    group: String,
    id: u64,
    lease: Lease,
}

/// Everything that is open. Dropped in the order of its fields.
#[derive(Default)]
struct Handles {
    flying: Vec<(u64, Sending)>,
    held: Vec<Held>,
    receivers: Vec<(String, Receiver)>,
    senders: Vec<Sender>,
    second: Option<Channel>,
    channel: Option<Channel>,
}

/// A channel on a simulated disk.
pub struct World {
    handles: Handles,
    pub disk: Arc<Disk>,
    scratch: Scratch,
    options: Options,
    pub model: Model,
    /// The position at which it was open.
    pub opened: u64,
    /// Operations since.
    pub done: u64,
    next_id: u64,
    /// Tenths of the messages that are short.
    pub short: u64,
}

impl Drop for World {
    fn drop(&mut self) {
        self.disk.kill();
        hook::remove(&self.disk);
        drop(std::mem::take(&mut self.handles));
    }
}

/// The length of all messages, in a channel whose usual length is this. Its records begin at every second word,
/// so that some of their headers lie in two pieces of what can be torn.
const FIXED: usize = 300;

/// What was promised did not hold.
pub type Broken = String;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Send,
    SendMany,
    SendDurable,
    Fly,
    Land,
    Sync,
    Subscribe,
    Remove,
    Move,
    Receive,
    ReceiveMany,
    Lease,
    Ack,
    GiveBack,
    Burst,
    CatchUp,
    Reopen,
    Second,
}

impl World {
    /// A new channel. It is made before the simulation begins.
    pub fn create(pool: &Rc<Pool>, options: Options) -> Self {
        let mut scratch = pool.take(0);
        let _ = std::fs::remove_file(&scratch.path);
        drop(options.clone().blocking_open(&scratch.path).unwrap());
        let bytes = std::fs::read(&scratch.path).unwrap();
        scratch.retired = false;
        let model = Model::new(options.geometry().overflow, None);
        Self::open_on(scratch, bytes, options, model, 1).unwrap()
    }

    /// The channel that the shipped code makes of an image.
    pub fn revive(&self, image: &Image) -> Result<Self, OpenError> {
        self.revive_with(image, |_, _| ())
    }

    /// The same, the image changed for the file that it will be in.
    pub fn revive_with(&self, image: &Image, change: impl FnOnce(&mut [u8], (u64, u64))) -> Result<Self, OpenError> {
        let scratch = self.scratch.pool.take(self.disk.id.1);
        let mut bytes = image.bytes.clone();
        let file = File::options().create(true).truncate(false).write(true).open(&scratch.path).unwrap();
        let meta = file.metadata().unwrap();
        change(&mut bytes, (meta.dev(), meta.ino()));
        file.write_all_at(&bytes, 0).unwrap();
        drop(file);
        Self::open_on(scratch, bytes, self.options.clone(), self.model.clone(), self.next_id)
    }

    fn open_on(
        scratch: Scratch,
        bytes: Vec<u8>,
        options: Options,
        model: Model,
        next_id: u64,
    ) -> Result<Self, OpenError> {
        let meta = scratch.path.metadata().unwrap();
        let layout = Layout::new(options.geometry()).unwrap();
        let wake = layout.control_words * 8..layout.control_words * 8 + layout.wake_halves() * 4;
        let disk = Arc::new(Disk::new((meta.dev(), meta.ino()), bytes, wake));
        hook::add(&disk);
        let handles = Handles::default();
        let mut world = Self { handles, disk, scratch, options, model, opened: 0, done: 0, next_id, short: 3 };
        world.open()?;
        world.opened = world.disk.position();
        Ok(world)
    }

    fn open(&mut self) -> Result<(), OpenError> {
        let channel = self.options.clone().blocking_open(&self.scratch.path)?;
        self.handles.senders = (0..SENDERS).map(|_| channel.sender()).collect();
        self.handles.channel = Some(channel);
        Ok(())
    }

    fn sender(&self) -> &Sender {
        &self.handles.senders[0]
    }

    pub fn channel(&self) -> &Channel {
        self.handles.channel.as_ref().expect("open")
    }

    pub fn layout(&self) -> Layout {
        Layout::new(self.options.geometry()).unwrap()
    }

    /// How the pages and the groups stand, for who has to find out what went wrong.
    pub fn pages(&self) -> String {
        let Some(sender) = self.handles.senders.first() else { return "closed".into() };
        let ring = sender.ring();
        let mut pages = format!("head {}, tail {}", ring.head().page, ring.tail().page);
        for place in 0..ring.mem.layout.geometry.max_pages {
            let page = Page::new(ring.mem, place);
            pages += &format!("; {} {:?}", page.number(), page.cursor());
        }
        for group in Group::all(ring.mem) {
            let name = group.name().map_or_else(String::new, |name| name.to_string());
            pages += &format!("; group {name} {:#x} from {}", group.state(), group.start());
        }
        pages
    }

    /// What is there.
    pub fn look(&self) -> Result<Look, Broken> {
        look(self.sender())
    }

    /// When it was open, if it was not recovered.
    pub fn unrecovered(&self) -> Option<u64> {
        self.channel().recovered().is_none().then_some(self.opened)
    }

    /// Whether every change of the file went through the simulator.
    pub fn nothing_is_hidden(&self) -> Result<(), Broken> {
        self.disk.agrees(&std::fs::read(&self.scratch.path).unwrap())
    }

    /// When the power went.
    pub fn moment(&self, at: u64, image: &Image) -> Moment {
        Moment { at, synced: self.disk.synced_before(at), weak: image.zeroed }
    }

    fn span<R>(&mut self, op: impl FnOnce(&mut Self) -> R) -> (R, Span) {
        let begin = self.disk.position();
        let result = op(self);
        let span = Span { begin, end: self.disk.position() };
        let tail = self.sender().ring().tail().page;
        if self.model.tails.last().is_none_or(|&(_, page)| page != tail) {
            self.model.tails.push((span, tail));
        }
        (result, span)
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn sent(
        &mut self,
        id: u64,
        sender: usize,
        (len, headers): (usize, bool),
        offset: Offset,
        span: Span,
    ) -> Result<(), Broken> {
        let before = self.model.messages.values().map(|m| m.offset).next_back().max(self.model.floor);
        if Some(offset) <= before {
            return Err(format!("message {id} was sent to {offset}, and one before to {before:?}"));
        }
        let durable = if self.always() { span.end } else { u64::MAX };
        let message = Message { len, headers, sender, offset, sent: span, told: span.end, durable };
        self.model.messages.insert(id, message);
        Ok(())
    }

    /// Whether every send waits for the disk.
    fn always(&self) -> bool {
        self.options.durability == Durability::Always
    }

    /// Free pages of the ring.
    fn free_pages(&self) -> u64 {
        let ring = self.sender().ring();
        (ring.mem.layout.geometry.max_pages - ring.pages().count()) as u64
    }

    /// Whether a message can be sent without waiting.
    fn has_room(&self, len: usize) -> bool {
        if self.model.overflow == Overflow::DropOldest || self.free_pages() > 0 {
            return true;
        }
        let ring = self.sender().ring();
        let c = ring.page(ring.head().page).cursor();
        let words = crate::layout::RECORD_HEADER + len.div_ceil(8);
        c.state == PageState::Open && c.count < ring.mem.layout.slots && c.units + words <= ring.mem.layout.data_words
    }

    /// Sends a message if there is room: whether there was.
    pub fn send(&mut self, len: usize, sender: usize) -> Result<bool, Broken> {
        let id = self.new_id();
        let content = Content::new(id, len);
        let len = (len, content.has_headers());
        let (sent, span) = self.span(|w| sending!(&content, bytes => w.handles.senders[sender].try_send(bytes)));
        match sent {
            Ok(offset) => self.sent(id, sender, len, offset, span).map(|()| true),
            Err(crate::TrySendError::Full(_)) => Ok(false),
            Err(crate::TrySendError::NotDurable { offset }) => {
                self.sent(id, sender, len, offset, span)?;
                self.known(id).durable = u64::MAX;
                Err(format!("try_send: message {id} was sent to {offset} and is not durable"))
            }
            Err(e) => Err(format!("try_send: {e}")),
        }
    }

    fn send_many(&mut self, lens: &[usize], sender: usize) -> Result<(), Broken> {
        if self.free_pages() == 0 && self.model.overflow == Overflow::Block {
            return Ok(());
        }
        let ids: Vec<u64> = lens.iter().map(|_| self.new_id()).collect();
        // All with headers, or none.
        let with = ids.iter().zip(lens).map(|(&id, &len)| content_with_headers(id, len)).collect();
        let with: Option<Vec<WithHeaders>> = Some(with).filter(|_| ids[0].is_multiple_of(3)).flatten();
        let headers = with.is_some();
        let plain: Vec<Vec<u8>> = ids.iter().zip(lens).map(|(&id, &len)| content(id, len)).collect();
        let (sent, span) = self.span(|w| match with {
            Some(with) => w.handles.senders[sender].blocking_send_many(&with),
            None => w.handles.senders[sender].blocking_send_many(&plain),
        });
        let (sent, error) = match sent {
            Ok(sent) => (sent, None),
            Err(e) => (e.sent, Some(e.error)),
        };
        for ((id, len), offset) in ids.into_iter().zip(lens).zip(sent) {
            self.sent(id, sender, (*len, headers), offset, span)?;
            if error.is_some() {
                self.known(id).durable = u64::MAX;
            }
        }
        error.map_or(Ok(()), |e| Err(format!("blocking_send_many: {e}")))
    }

    /// Begins a durable send, if there is room and its sync is to be seen begin.
    pub fn fly(&mut self, len: usize, sender: usize) -> Result<Option<u64>, Broken> {
        if !self.has_room(len) || self.always() {
            return Ok(None);
        }
        self.scratch.retired = true;
        self.disk.gate(true);
        let id = self.new_id();
        let (tx, content) = (self.handles.senders[sender].clone(), Content::new(id, len));
        let len = (len, content.has_headers());
        let mut future: Sending = Box::pin(async move { sending!(content, bytes => tx.send_durable(bytes).await) });
        let (polled, span) = self.span(|_| poll(future.as_mut()));
        if let Poll::Ready(sent) = polled {
            let offset = sent.map_err(|e| format!("send_durable: {e}"))?;
            self.sent(id, sender, len, offset, span)?;
            self.durable(id, span.end);
            return Ok(Some(id));
        }
        let end = self.sender().ring().end();
        self.sent(id, sender, len, Offset::new(end.page(), end.index() as usize - 1), span)?;
        self.known(id).told = u64::MAX;
        self.handles.flying.push((id, future));
        self.disk.wait_until("a sync to begin", || self.disk.waiting() > 0);
        Ok(Some(id))
    }

    fn known(&mut self, id: u64) -> &mut Message {
        self.model.messages.get_mut(&id).expect("was sent")
    }

    fn durable(&mut self, id: u64, at: u64) {
        let message = self.known(id);
        message.durable = message.durable.min(at);
        message.told = message.told.min(at);
    }

    /// Lets the syncs that wait succeed, until nothing is on its way.
    pub fn land(&mut self) -> Result<(), Broken> {
        while !self.handles.flying.is_empty() {
            self.land_one()?;
        }
        self.disk.gate(false);
        Ok(())
    }

    /// Lets one sync succeed, and waits until all are ready or another waits. Which have become ready.
    pub fn land_one(&mut self) -> Result<Vec<u64>, Broken> {
        if self.disk.waiting() > 0 {
            self.disk.let_go(Ok(()));
        }
        let mut ready = Vec::new();
        let (disk, flying) = (Arc::clone(&self.disk), &mut self.handles.flying);
        disk.wait_until("a durable send", || {
            flying.retain_mut(|(id, future)| match poll(future.as_mut()) {
                Poll::Pending => true,
                Poll::Ready(sent) => {
                    ready.push((*id, sent));
                    false
                }
            });
            flying.is_empty() || disk.waiting() > 0
        });
        let at = self.disk.position();
        for (id, sent) in &ready {
            let offset = sent.as_ref().map_err(|e| format!("send_durable: {e}"))?;
            if self.known(*id).offset != *offset {
                return Err(format!("message {id} was sent to {}, not to {offset}", self.known(*id).offset));
            }
            self.durable(*id, at);
        }
        Ok(ready.into_iter().map(|(id, _)| id).collect())
    }

    /// Sends durably, if there is room.
    pub fn send_durable(&mut self, len: usize, sender: usize) -> Result<(), Broken> {
        if !self.has_room(len) {
            return Ok(());
        }
        let id = self.new_id();
        let content = Content::new(id, len);
        let len = (len, content.has_headers());
        let send = |w: &mut Self| sending!(&content, bytes => w.handles.senders[sender].blocking_send_durable(bytes));
        let (sent, span) = self.span(send);
        match sent {
            Ok(offset) => {
                self.sent(id, sender, len, offset, span)?;
                self.durable(id, span.end);
                Ok(())
            }
            Err(SendError::NotDurable { offset }) => {
                self.sent(id, sender, len, offset, span)?;
                self.known(id).durable = u64::MAX;
                Err(format!("send_durable: message {id} was sent to {offset} and is not durable"))
            }
            Err(e) => Err(format!("send_durable: {e}")),
        }
    }

    pub fn sync(&mut self) -> Result<(), Broken> {
        let (synced, span) = self.span(|w| w.channel().blocking_sync());
        synced.map_err(|e| format!("sync: {e}"))?;
        self.model.syncs.push(span);
        Ok(())
    }

    /// A receiver of a group, which is made if it is new.
    pub fn subscribe(&mut self, name: &str, start: Start) -> Result<(), Broken> {
        let (made, span) = self.span(|w| w.channel().blocking_subscribe_from(name, start));
        let receiver = match made {
            Ok(receiver) => receiver,
            Err(crate::SubscribeError::TooManyGroups { .. }) => return Ok(()),
            Err(e) => {
                if self.model.group(name).is_none() {
                    let (name, done, made) = (name.into(), HashMap::new(), Span { end: u64::MAX, ..span });
                    let (start, removed) = (Offset::default(), None);
                    self.model.groups.push(GroupModel { name, id: None, made, start, removed, done });
                }
                return Err(format!("subscribe: {e}"));
            }
        };
        self.handles.receivers.push((name.into(), receiver));
        if self.model.group(name).is_none() {
            let (id, start) = self.find(name).ok_or(format!("group {name} was made and is not there"))?;
            let (name, done) = (name.into(), HashMap::new());
            self.model.groups.push(GroupModel { name, id: Some(id), made: span, start, removed: None, done });
        }
        Ok(())
    }

    fn remove(&mut self, name: &str, force: bool) -> Result<(), Broken> {
        let (removed, span) = self.span(|w| w.channel().remove_group(name, force));
        match removed {
            Err(crate::RemoveGroupError::InUse { .. }) => return Ok(()),
            Ok(()) => {}
            Err(e) => {
                self.model.group(name).expect("it was there").removed = Some(Span { end: u64::MAX, ..span });
                return Err(format!("remove_group: {e}"));
            }
        }
        self.model.group(name).expect("it was there").removed = Some(span);
        self.handles.held.retain(|held| held.group != name);
        self.handles.receivers.retain(|(group, _)| group != name);
        Ok(())
    }

    /// Moves a group: another one of its name is made, and then it is removed.
    fn seek(&mut self, name: &str, to: Start, force: bool) -> Result<(), Broken> {
        let before = self.find(name);
        let (moved, span) = self.span(|w| w.channel().seek_group(name, to, force));
        let span = match &moved {
            Err(crate::MoveGroupError::InUse { .. } | crate::MoveGroupError::TooManyGroups { .. }) => return Ok(()),
            Ok(()) => span,
            Err(_) => Span { end: u64::MAX, ..span },
        };
        let other = self.find(name).filter(|there| Some(*there) != before);
        // Where a sync failed there may be none in memory: what was written of it may be on the disk all the same.
        if moved.is_err() || other.is_some() {
            self.model.group(name).expect("it was there").removed = Some(span);
            let (group, done) = (name.into(), HashMap::new());
            let (id, start) = other.map_or((None, Offset::default()), |(id, start)| (Some(id), start));
            self.model.groups.push(GroupModel { name: group, id, made: span, start, removed: None, done });
        }
        if other.is_some() {
            self.handles.held.retain(|held| held.group != name);
        }
        moved.map_err(|e| format!("seek_group: {e}"))
    }

    /// The group of that name, as far as memory knows, and where it started.
    fn find(&self, name: &str) -> Option<((usize, u64), Offset)> {
        let group = Group::find(self.sender().ring().mem, &name.into())?;
        Some(((group.number(), group.state()), group.start()))
    }

    fn receiver(&mut self, group: &str) -> Result<usize, Broken> {
        let found = |w: &Self| w.handles.receivers.iter().position(|(name, _)| name == group);
        if found(self).is_none() {
            self.subscribe(group, Start::Oldest)?;
        }
        Ok(found(self).expect("it was made"))
    }

    fn handed_out(&mut self, group: &str, seen: Result<Seen, String>) -> Result<u64, Broken> {
        let Seen { offset, id, len, headers } = seen.map_err(|e| format!("group {group} was given {e}"))?;
        let held = self.handles.held.iter().any(|h| h.group == group && h.id == id);
        let is_this = |m: &Message| (m.offset, m.len, m.headers) == (offset, len, headers);
        let known = self.model.messages.get(&id).is_some_and(is_this);
        let g = self.model.group(group).ok_or(format!("group {group} is not known"))?;
        let what = format!("message {id} at {offset} was given to group {group}");
        let done = g.done.get(&id).is_some_and(|d| *d != Span::PERHAPS);
        match () {
            () if !known => Err(format!("{what}, and not sent")),
            () if done => Err(format!("{what} again")),
            () if held => Err(format!("{what} twice")),
            () if offset < g.start => Err(format!("{what}, which starts at {}", g.start)),
            () => Ok(id),
        }
    }

    fn finished(&mut self, group: &str, id: u64, span: Span) {
        self.model.group(group).expect("it is there").done.insert(id, span);
    }

    /// Receives a message and is done with it.
    pub fn receive(&mut self, group: &str) -> Result<Option<u64>, Broken> {
        let at = self.receiver(group)?;
        let mut receiver = self.handles.receivers.swap_remove(at);
        let begin = self.disk.position();
        let got = match receiver.1.try_recv() {
            Ok(message) => {
                let seen = seen(message.offset(), message.headers(), &message);
                Ok((seen, self.disk.position()))
            }
            Err(e) => Err(e),
        };
        let end = self.disk.position();
        self.handles.receivers.push(receiver);
        let (seen, begin) = match got {
            Ok(got) => got,
            Err(TryRecvError::Lagged(_)) if self.model.overflow == Overflow::DropOldest => return self.receive(group),
            Err(TryRecvError::Empty) => return Ok(None),
            Err(TryRecvError::TooManyHeld { .. }) => return Ok(None),
            Err(e) => return Err(format!("group {group} at {begin}: try_recv: {e}")),
        };
        let id = self.handed_out(group, seen)?;
        self.finished(group, id, Span { begin, end });
        Ok(Some(id))
    }

    /// Receives what is there, up to `limit` messages; it is done with the first of them, and forgets the others.
    pub fn receive_many(&mut self, group: &str, limit: u64, done: u64) -> Result<(), Broken> {
        let at = self.receiver(group)?;
        let mut receiver = self.handles.receivers.swap_remove(at);
        let mut out = Vec::new();
        let got = {
            let mut future = Box::pin(receiver.1.recv_many(limit as usize));
            match poll(future.as_mut()) {
                Poll::Ready(Ok(many)) => {
                    let mut at = self.disk.position();
                    for (n, message) in many.into_iter().enumerate() {
                        out.push((seen(message.offset(), message.headers(), &message), at));
                        if (n as u64) < done {
                            drop(message);
                        } else {
                            std::mem::forget(message);
                        }
                        at = self.disk.position();
                    }
                    Ok(())
                }
                Poll::Ready(Err(e)) => Err(e),
                Poll::Pending => Ok(()),
            }
        };
        let end = self.disk.position();
        self.handles.receivers.push(receiver);
        match got {
            Ok(()) => {}
            Err(RecvError::Lagged(_)) if self.model.overflow == Overflow::DropOldest => {}
            Err(e) => return Err(format!("group {group} at {end}: recv_many: {e}")),
        }
        for (n, (seen, begin)) in out.into_iter().enumerate() {
            let id = self.handed_out(group, seen)?;
            if (n as u64) < done {
                self.finished(group, id, Span { begin, end });
            }
        }
        Ok(())
    }

    pub fn lease(&mut self, group: &str) -> Result<bool, Broken> {
        let at = self.receiver(group)?;
        let (lease, _) = self.span(|w| w.handles.receivers[at].1.try_lease());
        let lease = match lease {
            Ok(lease) => lease,
            Err(TryRecvError::Lagged(_)) if self.model.overflow == Overflow::DropOldest => return self.lease(group),
            Err(TryRecvError::Empty | TryRecvError::TooManyHeld { .. }) => return Ok(false),
            Err(e) => return Err(format!("group {group}: try_lease: {e}")),
        };
        let id = self.handed_out(group, seen(lease.offset(), lease.headers(), &lease))?;
        self.handles.held.push(Held { group: group.into(), id, lease });
        Ok(true)
    }

    fn ack(&mut self, at: usize) -> Result<(), Broken> {
        let Held { group, id, lease } = self.handles.held.swap_remove(at);
        let (acked, span) = self.span(|_| lease.ack());
        match acked {
            Ok(()) => self.finished(&group, id, span),
            Err(AckError::Gone) if self.model.overflow == Overflow::DropOldest => {}
            Err(e) => return Err(format!("ack of message {id} by group {group}: {e}")),
        }
        Ok(())
    }

    fn give_back(&mut self, at: usize) -> Result<(), Broken> {
        let Held { group, id, lease } = self.handles.held.swap_remove(at);
        match self.span(|_| lease.give_back()).0 {
            Err(AckError::Gone) if self.model.overflow == Overflow::DropOldest => Ok(()),
            other => other.map_err(|e| format!("give back of message {id} by group {group}: {e}")),
        }
    }

    /// Closes everything.
    pub fn close(&mut self) {
        drop(std::mem::take(&mut self.handles));
    }

    /// Closes everything and opens it again.
    pub fn reopen(&mut self) -> Result<(), Broken> {
        self.close();
        self.open().map_err(|e| format!("reopen: {e}"))
    }

    /// After a sync failed, and the channel was recovered where it was: all that is in memory is there, and on
    /// the disk from now on.
    pub fn rebase(&mut self) -> Result<(), Broken> {
        self.opened = self.disk.position();
        let look = self.look()?;
        let moment = Moment { at: self.opened, synced: self.opened, weak: false };
        self.model.check(moment, &look)?;
        self.model = self.model.after(moment, &look, self.unrecovered());
        Ok(())
    }

    /// The groups that are there.
    pub fn groups(&self) -> Vec<String> {
        self.model.groups.iter().filter(|g| g.removed.is_none()).map(|g| g.name.clone()).collect()
    }

    /// In some channels all messages are as long: then the records of two laps lie at the same places, and one
    /// that is half of this and half of that lap is told by its checksum alone.
    pub fn a_length(&self, rng: &mut Rng) -> usize {
        if self.options.typical_message_len == Some(FIXED) {
            return FIXED;
        }
        if rng.below(10) < self.short { rng.between(16, 200) as usize } else { rng.between(100, 3000) as usize }
    }

    /// One operation, or none if it cannot be done now.
    pub fn act(&mut self, op: Op, rng: &mut Rng) -> Result<(), Broken> {
        self.done += 1;
        let waits = !self.handles.flying.is_empty();
        let groups = self.groups();
        let group = (!groups.is_empty()).then(|| groups[rng.index(groups.len().max(1))].clone());
        let (len, sender) = (self.a_length(rng), rng.index(SENDERS));
        match (op, group) {
            (Op::Send, _) => self.send(len, sender).map(drop),
            (Op::SendMany, _) => {
                let n = rng.between(2, 8);
                let lens: Vec<usize> = (0..n).map(|_| self.a_length(rng)).collect();
                self.send_many(&lens, sender)
            }
            (Op::Fly, _) if self.handles.flying.len() < 4 => self.fly(len, sender).map(drop),
            (Op::Land, _) if waits => self.land(),
            (Op::Burst, _) => {
                for _ in 0..rng.between(5, 60) {
                    let len = self.a_length(rng);
                    if !self.send(len, sender)? {
                        break;
                    }
                }
                Ok(())
            }
            (Op::Receive, Some(group)) => self.receive(&group).map(drop),
            (Op::ReceiveMany, Some(group)) => self.receive_many(&group, rng.between(2, 40), rng.between(0, 40)),
            (Op::Lease, Some(group)) => self.lease(&group).map(drop),
            (Op::CatchUp, Some(group)) => {
                let most = rng.between(5, 200);
                for _ in 0..most {
                    if self.receive(&group)?.is_none() {
                        break;
                    }
                }
                Ok(())
            }
            (Op::Ack, _) if !self.handles.held.is_empty() => self.ack(rng.index(self.handles.held.len())),
            (Op::GiveBack, _) if !self.handles.held.is_empty() => self.give_back(rng.index(self.handles.held.len())),
            // What syncs on this thread waits for what is on its way.
            _ if waits => Ok(()),
            (Op::SendDurable, _) => self.send_durable(len, sender),
            (Op::Sync, _) => self.sync(),
            (Op::Subscribe, _) => {
                let start = if rng.percent(60) { Start::Oldest } else { Start::Newest };
                self.subscribe(NAMES[rng.index(NAMES.len())], start)
            }
            (Op::Remove, Some(group)) => self.remove(&group, rng.percent(50)),
            (Op::Move, Some(group)) => {
                let sent: Vec<Offset> = self.model.messages.values().map(|m| m.offset).collect();
                let to = match rng.below(3) {
                    0 => Start::Oldest,
                    1 => Start::Newest,
                    _ => Start::At(if sent.is_empty() { Offset::default() } else { sent[rng.index(sent.len())] }),
                };
                self.seek(&group, to, rng.percent(50))
            }
            (Op::Reopen, _) => self.reopen(),
            (Op::Second, _) => {
                self.handles.second = match self.handles.second.take() {
                    Some(_) => None,
                    None => Some(self.options.clone().blocking_open(&self.scratch.path).map_err(|e| e.to_string())?),
                };
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Receives everything, and compares it with what is there: each message that a group had not finished,
    /// once, in order.
    pub fn drain(&mut self) -> Result<u64, Broken> {
        for at in (0..self.handles.held.len()).rev() {
            self.ack(at)?;
        }
        // What they have forgotten goes back.
        self.handles.receivers.clear();
        let look = self.look()?;
        let mut count = 0;
        for (name, there) in &look.groups {
            let due = look
                .messages
                .iter()
                .enumerate()
                .filter(|&(i, m)| m.offset >= there.start && !there.done[i] && !there.lost[i]);
            let due: Vec<u64> = due.map(|(_, m)| m.id).collect();
            let mut got = Vec::new();
            while let Some(id) = self.receive(name)? {
                got.push(id);
            }
            if got != due {
                let at = got.iter().zip(&due).take_while(|(a, b)| a == b).count();
                let (got, due) = (got.get(at), due.get(at));
                return Err(format!("group {name} was given {got:?} in its turn, not {due:?}"));
            }
            count += due.len() as u64;
        }
        Ok(count)
    }

    /// Whether the channel works, for so many laps of its ring.
    pub fn exercise(&mut self, laps: u64, rng: &mut Rng) -> Result<u64, Broken> {
        let mut count = self.drain()?;
        self.subscribe(NAMES[rng.index(NAMES.len())], Start::Newest)?;
        if self.groups().is_empty() {
            return Err("no group can be made".into());
        }
        let pages = self.layout().geometry.max_pages as u64;
        let turns = |w: &Self| w.sender().ring().mem.page_turns().load(Relaxed);
        let goal = turns(self) + laps * pages;
        self.short = 0;
        let mut rounds = 0;
        while turns(self) < goal {
            rounds += 1;
            if rounds > 10_000 {
                return Err("the ring does not go round".into());
            }
            let len = self.a_length(rng);
            if !self.send(len, rng.index(SENDERS))? {
                count += self.drain()?;
                let len = self.a_length(rng);
                if !self.send(len, 0)? {
                    return Err(format!("full, and every group has everything: {:?}", self.channel().stats()));
                }
            }
            if rng.percent(2) {
                self.send_durable(100, 0)?;
            }
        }
        self.sync()?;
        Ok(count + self.drain()?)
    }
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(futures::task::noop_waker_ref()))
}
