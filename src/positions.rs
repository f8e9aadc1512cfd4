//! Where groups stand, and moving them: to another place, to a copy, to JSON and back.
#![forbid(unsafe_code)]

use crate::group::Group;
use crate::layout::{MAX_GROUP_NAME, SlotState};
use crate::lifecycle::NotCreated;
use crate::{Channel, GroupName, MoveGroupError, Offset, Start};
use std::io;

impl Channel {
    /// Moves a group to another place, forward or back: what it was not done with before is not handed out any
    /// more, and what lies behind the new place is, whether it was done with that or not. Its receivers go on
    /// there. What the group lost, and had to have again, is counted anew.
    ///
    /// It needs room for one group more while it moves. Where it is moved back, messages come again that it was
    /// done with.
    ///
    /// # Errors
    ///
    /// [`MoveGroupError::InUse`] if messages of it are handed out, unless `force`; those who hold them then hear
    /// `GroupRemoved` when they finish, and it changes nothing. Else see [`MoveGroupError`].
    ///
    /// # Durability
    ///
    /// Its place is on stable storage when this returns. A death or a power loss on the way leaves it in one of the
    /// two places.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("orders.chan");
    /// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
    /// let mut rx = channel.blocking_subscribe("billing")?;
    /// channel.sender().blocking_send_many(&["a", "b"])?;
    /// assert_eq!(rx.try_iter().count(), 2);
    /// channel.seek_group("billing", disk_chan::Start::Oldest, false)?;
    /// assert_eq!(&*rx.blocking_recv()?, b"a"); // once more
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn seek_group(&self, group: impl Into<GroupName>, to: Start, force: bool) -> Result<(), MoveGroupError> {
        let name = group.into();
        let moved = self.change_groups(|sync| {
            let ring = self.root.ring();
            let group = Group::find(ring.mem, &name).ok_or(MoveGroupError::NotFound)?;
            // Claims that only wait to be extended hold nothing.
            group.settle();
            let [held, ..] = group.held_and_returned();
            if held > 0 && !force {
                return Err(MoveGroupError::InUse { held });
            }
            group.go_on_at(&ring, to, sync).map_err(|why| self.not_moved(why))
        });
        self.root.wake_everybody();
        moved
    }

    /// Makes a new group that starts where another stands: at the first message that that one is not done with.
    /// What lies behind that and is done with comes to the new one, too.
    ///
    /// # Errors
    ///
    /// See [`MoveGroupError`].
    ///
    /// # Durability
    ///
    /// The new group is on stable storage when this returns.
    pub fn copy_group(&self, from: impl Into<GroupName>, to: impl Into<GroupName>) -> Result<(), MoveGroupError> {
        let (from, to) = (from.into(), to.into());
        self.change_groups(|sync| {
            let ring = self.root.ring();
            let group = Group::find(ring.mem, &from).ok_or(MoveGroupError::NotFound)?;
            let start = Start::At(group.position(&ring));
            self.make_group(&to, start, sync)
        })
    }

    /// Puts a group where it is to be, and makes it if it is new. The caller has the open lock.
    fn make_group(
        &self,
        name: &GroupName,
        start: Start,
        sync: impl Fn(std::ops::Range<usize>) -> io::Result<()>,
    ) -> Result<(), MoveGroupError> {
        let len = name.as_str().len();
        if len == 0 || len > MAX_GROUP_NAME {
            return Err(MoveGroupError::InvalidName { len, max: MAX_GROUP_NAME });
        }
        let ring = self.root.ring();
        if Group::find(ring.mem, name).is_some() {
            return Err(MoveGroupError::AlreadyExists);
        }
        Group::create(&ring, name, start, sync).map(drop).map_err(|why| self.not_moved(why))
    }

    /// Does something under the open lock; it is given how to bring bytes to the disk.
    fn change_groups(
        &self,
        change: impl FnOnce(&dyn Fn(std::ops::Range<usize>) -> io::Result<()>) -> Result<(), MoveGroupError>,
    ) -> Result<(), MoveGroupError> {
        self.root.usable()?;
        let file = &self.root.file;
        file.with_open_lock(|_| change(&|range| file.sync_range(range)))?.ok_or(MoveGroupError::Busy)?
    }

    fn not_moved(&self, why: NotCreated<io::Error>) -> MoveGroupError {
        match why {
            NotCreated::NotSynced(error) => MoveGroupError::Io(error),
            NotCreated::TooMany => MoveGroupError::TooManyGroups { max: self.root.memory().layout.geometry.max_groups },
            NotCreated::BeyondEnd { start, end } => MoveGroupError::StartBeyondEnd { start, end },
        }
    }

    /// Where each group stands: at the first message that it is not done with.
    pub fn group_positions(&self) -> Vec<(GroupName, Offset)> {
        if self.root.is_inherited() {
            return Vec::new();
        }
        let ring = self.root.ring();
        Group::all(ring.mem).filter_map(|group| Some((group.name()?, group.position(&ring)))).collect()
    }
}

impl Channel {
    /// Where the messages lie that a group is not done with, in their order, from an offset on, up to `limit` of
    /// them. Nothing if there is no such group.
    ///
    /// Those that a receiver holds at the moment are among them; it does not matter how often a message was handed
    /// out. What does not verify is found only when it is read. It moves nothing, and works in a
    /// [read-only](crate::Options::read_only) open.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("orders.chan");
    /// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
    /// let mut rx = channel.blocking_subscribe("billing")?;
    /// channel.sender().blocking_send_many(&["a", "b", "c"])?;
    /// let first = rx.blocking_lease()?;
    /// drop(rx.blocking_recv()?); // b is done
    /// let open = channel.unfinished("billing", channel.first_offset(), 100).expect("a group");
    /// assert_eq!(open.len(), 2);
    /// assert_eq!(open[0], first.offset());
    /// assert_eq!(&*channel.get(open[1])?, b"c");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unfinished(&self, group: impl Into<GroupName>, from: Offset, limit: usize) -> Option<Vec<Offset>> {
        if self.root.is_inherited() {
            return None;
        }
        let ring = self.root.ring();
        let group = Group::find(ring.mem, &group.into())?;
        let is_message = |at: &Offset| {
            let slot = ring.page(at.page()).slot(at.page(), at.index() as usize);
            matches!(slot, SlotState::Committed(_))
        };
        Some(group.places_not_done(&ring, from).filter(is_message).take(limit).collect())
    }
}

#[cfg(feature = "json")]
mod json {
    use crate::{Channel, GroupName, ImportGroupsError, MoveGroupError, Offset, Start};
    use serde_json::{Value, json};

    const FORMAT: &str = "disk_chan group positions 1";

    impl Channel {
        fn id(&self) -> String {
            self.root.memory().uuid.iter().map(|half| format!("{half:016x}")).collect()
        }

        /// Where each group stands, as JSON, for [`import_groups`](Self::import_groups):
        ///
        /// `{"format": "disk_chan group positions 1", "channel": "(its number, 32 hexadecimal digits)", "groups":
        /// [{"name": "billing", "offset": "(a decimal number, as a text)"}]}`
        pub fn export_groups(&self) -> String {
            let groups = self.group_positions().into_iter();
            let groups: Vec<Value> =
                groups.map(|(name, at)| json!({"name": name.as_str(), "offset": at.as_u64().to_string()})).collect();
            format!("{:#}", json!({"format": FORMAT, "channel": self.id(), "groups": groups}))
        }

        /// Puts groups where they stood when they were [exported](Self::export_groups), one after the other, and
        /// makes those that are not there. An offset that has been overwritten since is the oldest message.
        /// Groups that the text does not name stay as they are.
        ///
        /// # Errors
        ///
        /// See [`ImportGroupsError`]. The groups before the one that it names have been moved.
        pub fn import_groups(&self, text: &str, force: bool) -> Result<(), ImportGroupsError> {
            let wrong = |what: &str| ImportGroupsError::Invalid { what: what.into() };
            let said: Value = serde_json::from_str(text).map_err(|e| wrong(&e.to_string()))?;
            if said["format"] != FORMAT {
                return Err(wrong("it does not say that it is of this format"));
            }
            let (found, expected) = (said["channel"].as_str().unwrap_or_default().to_owned(), self.id());
            if found != expected {
                return Err(ImportGroupsError::OtherChannel { found, expected });
            }
            let groups = said["groups"].as_array().ok_or_else(|| wrong("it has no groups"))?;
            let groups: Vec<(GroupName, Offset)> = groups
                .iter()
                .map(|group| {
                    let offset = group["offset"].as_str()?.parse().ok()?;
                    Some((GroupName::from(group["name"].as_str()?), Offset::from_u64(offset)))
                })
                .collect::<Option<_>>()
                .ok_or_else(|| wrong("a group has no name and offset that are texts"))?;
            groups.into_iter().try_for_each(|(name, at)| {
                self.import_group(&name, at, force).map_err(|source| ImportGroupsError::Group { name, source })
            })
        }

        fn import_group(&self, name: &GroupName, at: Offset, force: bool) -> Result<(), MoveGroupError> {
            match self.seek_group(name, Start::At(at), force) {
                Err(MoveGroupError::NotFound) => self.change_groups(|sync| self.make_group(name, Start::At(at), sync)),
                moved => moved,
            }
        }
    }
}
