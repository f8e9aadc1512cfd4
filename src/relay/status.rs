//! How a relay stands, for whoever looks: written beside the channel by the relay that is active.
//!
//! **Invariants.** A status is one small JSON file for each group, put in its place whole. It is news, not truth: nothing
//! depends on it, it may be missing, and the relay works on if it cannot be written. Whether a relay is active is not
//! read from it but from the group's holder.
//! - What is read is input: no more than a bounded part of a plain file of that name is looked at, of another channel or
//!   group it says nothing, and its texts are cut as those that are written.

use super::{Origin, RelayError, SinkError};
use crate::group::Group;
use crate::off_thread::off_thread;
use crate::read::unix_milliseconds;
use crate::{Channel, GroupName, Offset};
use serde_json::{Value, json};
use std::error::Error;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use xxhash_rust::xxh3::xxh3_64;

/// Most bytes of a file that are read.
const LONGEST: u64 = 64 << 10;
/// Most bytes of a text in it.
const LONGEST_TEXT: usize = 500;

/// Who is told how a relay stands.
pub type Told = Arc<dyn Fn(&RelayStatus) + Send + Sync>;

/// How a relay stands: see [`Channel::relays`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RelayStatus {
    /// The group.
    pub group: GroupName,
    /// Where it puts messages, by [`Sink::to`](super::Sink::to).
    pub to: String,
    /// Whether somebody is relaying the group now.
    pub active: bool,
    /// The last message that the engine has confirmed to it.
    pub confirmed: Option<Offset>,
    /// Messages that the engine has confirmed since this relay was run.
    pub relayed: u64,
    /// Of those, how many a second when it looked last; 0 if nobody is relaying.
    pub rate: f64,
    /// Messages that became dead letters since this relay was run, as they were refused.
    pub refused: u64,
    /// Messages that were dropped before the group had them, since this relay was run.
    pub lagged: u64,
    /// The last thing that went wrong, and when.
    pub last_error: Option<(SystemTime, String)>,
    /// When this was written.
    pub updated: SystemTime,
}

impl Channel {
    /// How the relays of the groups stand, for those groups that have had one. It is as they wrote it last, beside the
    /// channel (`<file>.relay-...`); without that file a relay works, and is not seen here.
    pub fn relays(&self) -> Vec<RelayStatus> {
        if self.root.is_inherited() {
            return Vec::new();
        }
        let groups = Group::all(self.root.memory()).filter_map(|group| Some((group.name()?, group)));
        let status = |(name, group): (GroupName, Group<'_>)| {
            let text = read(&beside(self.path(), &name))?;
            let status = parse(&serde_json::from_str(&text).ok()?, self.uuid())?;
            let active = !group.holder().is_free();
            let rate = if active { status.rate } else { 0.0 };
            (status.group == name).then_some(RelayStatus { active, rate, ..status })
        };
        groups.filter_map(status).collect()
    }
}

/// What stands in a status file; nothing if it cannot be one.
fn read(place: &Path) -> Option<String> {
    // A pipe of that name is not waited for.
    let file = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(place).ok()?;
    let about = file.metadata().ok()?;
    (about.is_file() && about.len() <= LONGEST).then_some(())?;
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Takes the status of a group away that is there no more.
pub fn forget(channel: &Channel, group: &GroupName) {
    let _ = std::fs::remove_file(beside(channel.path(), group));
}

/// No more of a text than is kept.
fn cut(mut text: String) -> String {
    if text.len() > LONGEST_TEXT {
        let end = (0..=LONGEST_TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// The error and its sources in one line, leaving out a source whose text the line already has.
fn with_causes(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause.filter(|_| text.len() < LONGEST_TEXT) {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    cut(text)
}

/// Where the status of a group's relay lies.
fn beside(path: &Path, group: &GroupName) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let readable: String = group.as_str().chars().map(plain).take(64).collect();
    let mut name = OsString::from(path);
    name.push(format!(".relay-{readable}-{:08x}", xxh3_64(group.as_str().as_bytes()) as u32));
    name.into()
}

fn written(status: &RelayStatus, uuid: u128) -> Value {
    json!({
        "uuid": format!("{uuid:032x}"),
        "group": status.group.as_str(),
        "to": status.to,
        "confirmed": status.confirmed.map(Offset::as_u64),
        "relayed": status.relayed,
        "rate": status.rate,
        "refused": status.refused,
        "lagged": status.lagged,
        "last_error": status.last_error.as_ref().map(|(_, error)| error),
        "last_error_at": status.last_error.as_ref().map(|(at, _)| unix_milliseconds(*at)),
        "updated": unix_milliseconds(status.updated),
    })
}

/// Of this channel; a file may say anything.
fn parse(value: &Value, uuid: u128) -> Option<RelayStatus> {
    let time = |name: &str| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(value[name].as_u64()?));
    (value["uuid"] == format!("{uuid:032x}")).then_some(())?;
    Some(RelayStatus {
        group: value["group"].as_str()?.into(),
        to: cut(value["to"].as_str()?.into()),
        active: false,
        confirmed: value["confirmed"].as_u64().map(Offset::from_u64),
        relayed: value["relayed"].as_u64()?,
        rate: value["rate"].as_f64()?.max(0.0),
        refused: value["refused"].as_u64()?,
        lagged: value["lagged"].as_u64()?,
        last_error: time("last_error_at").zip(value["last_error"].as_str().map(|error| cut(error.into()))),
        updated: time("updated")?,
    })
}

/// What the relay says of itself.
pub struct Reporter {
    channel: Channel,
    /// Which channel it relays.
    pub origin: Origin,
    told: Option<Told>,
    said: Mutex<Said>,
}

struct Said {
    status: RelayStatus,
    /// When the rate was looked at, and what was relayed then.
    looked: (Instant, u64),
}

impl Reporter {
    pub fn new(channel: &Channel, group: &GroupName, to: String, told: Option<Told>) -> Self {
        let origin = Origin { uuid: channel.uuid(), created_at: channel.created_at(), group: group.clone() };
        let status = RelayStatus {
            group: group.clone(),
            to: cut(to),
            active: false,
            confirmed: None,
            relayed: 0,
            rate: 0.0,
            refused: 0,
            lagged: 0,
            last_error: None,
            updated: SystemTime::now(),
        };
        Self { channel: channel.clone(), origin, told, said: Mutex::new(Said { status, looked: (Instant::now(), 0) }) }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn status(&self) -> RelayStatus {
        self.said().status.clone()
    }

    /// It is the active one now.
    pub async fn began(&self) {
        {
            let said = &mut *self.said();
            said.status.active = true;
            said.looked = (Instant::now(), said.status.relayed);
        }
        self.write().await;
    }

    /// The engine has so many more, up to this one.
    pub fn confirmed(&self, upto: Offset, more: u64) {
        let status = &mut self.said().status;
        status.confirmed = status.confirmed.max(Some(upto));
        status.relayed += more;
    }

    pub fn lagged(&self, count: u64) {
        self.said().status.lagged += count;
        event!(warn, "messages were dropped before they were relayed", count = count);
    }

    /// A message became a dead letter.
    pub fn refused(&self, offset: Offset) {
        self.said().status.refused += 1;
        event!(warn, "a message was refused, and is a dead letter now", offset = offset);
    }

    /// Something went wrong.
    pub async fn failed(&self, error: &SinkError) {
        event!(warn, "relaying failed", error = error);
        self.said().status.last_error = Some((SystemTime::now(), with_causes(error)));
        self.write().await;
    }

    /// Now and then.
    pub async fn look(&self) {
        {
            let said = &mut *self.said();
            let (at, before) = said.looked;
            let now = Instant::now();
            said.status.rate = (said.status.relayed - before) as f64 / (now - at).as_secs_f64().max(1e-3);
            said.looked = (now, said.status.relayed);
        }
        self.write().await;
    }

    /// It is no longer the active one.
    pub async fn ended(&self, why: Option<&RelayError>) {
        let was_active = {
            let status = &mut self.said().status;
            if let Some(error) = why {
                status.last_error = Some((SystemTime::now(), with_causes(error)));
            }
            status.rate = 0.0;
            std::mem::take(&mut status.active)
        };
        if was_active {
            self.write().await;
        }
    }

    async fn write(&self) {
        let status = {
            let said = &mut *self.said();
            said.status.updated = SystemTime::now();
            said.status.clone()
        };
        if let Some(told) = &self.told {
            told(&status);
        }
        if Group::find(self.channel.root.memory(), &status.group).is_none() {
            return; // removed, and its status with it
        }
        let place = beside(self.channel.path(), &status.group);
        let text = written(&status, self.origin.uuid).to_string();
        let written = off_thread(move || {
            let mut new = OsString::from(&place);
            new.push(format!(".{}", std::process::id()));
            std::fs::write(&new, text + "\n")?;
            std::fs::rename(&new, &place)
        });
        if let Err(error) = written.await {
            event!(debug, "the relay's status cannot be written", error = error);
        }
    }
}
