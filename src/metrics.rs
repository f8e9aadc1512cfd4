//! What a channel says of itself as figures with names: for Prometheus, and for the crate `metrics`.
//!
//! **Invariants.**
//! - Every figure is read from the file, or is the difference of two places or times in it that cannot be negative. None
//!   is added up in memory: it is right in each process, and right after reopening.
//! - Those of a relay, but for whether it is active, are as it wrote them last, in its status beside the file: they are
//!   news, not older than a second or two while it runs, begin again when a relay is run again, and are not there if that
//!   status is not.
#![forbid(unsafe_code)]

use crate::{Channel, GroupStats, Stats};
use std::time::SystemTime;

/// A figure of a channel or of one of its groups: see [`Channel::metrics`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// How it changes.
    pub kind: MetricKind,
    /// The channel, and the group, the reason, or what a relay says where it is of one.
    pub labels: Vec<(&'static str, String)>,
    /// Its value, which is not negative. Times are in seconds.
    pub value: f64,
}

/// How a figure changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only rises, until the group it is of is removed or moved, a power loss takes some of it, or, where it is of a
    /// relay, a relay is run again.
    Counter,
    /// It rises and falls.
    Gauge,
}

/// Names and texts, each once.
type Kind = (&'static str, &'static str, MetricKind);

macro_rules! kinds {
    ($($(#[$meta:meta])* $kind:ident $id:ident $name:literal $help:literal;)*) => {
        $($(#[$meta])* const $id: Kind = ($name, $help, MetricKind::$kind);)*
        #[cfg(feature = "metrics")]
        const ALL: &[Kind] = &[$($(#[$meta])* $id),*];
    };
}
kinds! {
    Gauge MESSAGES "disk_chan_messages" "Messages in the ring.";
    Gauge BYTES "disk_chan_bytes" "Bytes of the ring that records take.";
    Gauge CAPACITY "disk_chan_capacity_bytes" "Bytes of the ring that records can take.";
    Gauge AGE "disk_chan_oldest_message_age_seconds" "Age of the oldest message in the ring.";
    Gauge DAMAGED "disk_chan_damaged_messages" "Messages in the ring that do not verify, as far as somebody found that.";
    Gauge PAGES "disk_chan_pages" "Pages in use.";
    Gauge FREE_PAGES "disk_chan_free_pages" "Pages that can be written before the oldest is needed.";
    Counter TURNS "disk_chan_page_turns_total" "Times that senders went on to another page.";
    Counter SYNCS "disk_chan_syncs_total" "Syncs for somebody who asked, or an interval that was over.";
    Counter SYNC_TIME "disk_chan_sync_seconds_total" "How long those took together.";
    Counter WAITS "disk_chan_waits_for_room_total" "Times that a sender waited for room.";
    Counter WAIT_TIME "disk_chan_wait_for_room_seconds_total" "How long those waits took together.";
    Gauge OPENS "disk_chan_opens" "How often the file is open.";
    Gauge HANDLES "disk_chan_handles" "Senders and channels, in all opens.";
    Gauge CLOSED "disk_chan_closed" "Whether the channel was closed: 0 or 1.";
    Gauge LAG "disk_chan_group_lag_messages" "Messages in the ring that the group is not done with.";
    Gauge LAG_BYTES "disk_chan_group_lag_bytes" "Bytes of those messages.";
    Gauge LAG_AGE "disk_chan_group_oldest_unfinished_age_seconds" "Age of the first of them.";
    Gauge HELD "disk_chan_group_held_messages" "Messages handed out and not done.";
    Gauge RETURNED "disk_chan_group_returned_messages" "Messages given back and not handed out again.";
    Gauge UNDELIVERABLE "disk_chan_group_undeliverable_messages" "Messages that wait for room among the dead letters.";
    Counter REDELIVERED "disk_chan_group_redelivered_total" "Messages handed out again.";
    Counter DEAD_LETTERED "disk_chan_group_dead_lettered_total" "Messages that became dead letters.";
    Counter LOST "disk_chan_group_lost_total" "Messages that the group did not get, by reason: lagged, expired, damaged, gone.";
    #[cfg(feature = "relay")]
    Gauge RELAY_ACTIVE "disk_chan_relay_active" "Whether somebody is relaying the group: 0 or 1.";
    #[cfg(feature = "relay")]
    Gauge RELAY_UPDATED "disk_chan_relay_updated_timestamp_seconds" "When the relay wrote its status last.";
    #[cfg(feature = "relay")]
    Counter RELAYED "disk_chan_relay_relayed_total" "Messages that the engine has confirmed since the relay was run.";
    #[cfg(feature = "relay")]
    Counter RELAY_REFUSED "disk_chan_relay_refused_total" "Messages that the engine refused since the relay was run.";
    #[cfg(feature = "relay")]
    Gauge RELAY_PAGE "disk_chan_relay_confirmed_page" "Page of the last message that the engine has confirmed.";
    #[cfg(feature = "relay")]
    Gauge RELAY_INDEX "disk_chan_relay_confirmed_index" "Index of that message in its page.";
    #[cfg(feature = "relay")]
    Gauge RELAY_ERROR "disk_chan_relay_last_error_timestamp_seconds" "When something went wrong last; 0 if nothing has.";
    #[cfg(feature = "relay")]
    Gauge RELAY_INFO "disk_chan_relay_info" "1; where the relay puts messages, and what went wrong last, are labels.";
}

impl Channel {
    /// What [`stats`](Self::stats) and [`groups`](Self::groups) say, as figures with names, each read from the file; and,
    /// with the feature `relay`, what `relays` says. It looks at every message in the ring.
    ///
    /// Each has the label `channel`, the path that the channel was opened by. Those of a group have the label `group`.
    ///
    /// | name | kind | what it is |
    /// |---|---|---|
    /// | `disk_chan_messages` | gauge | messages in the ring |
    /// | `disk_chan_bytes`, `disk_chan_capacity_bytes` | gauge | bytes that records take, and can take |
    /// | `disk_chan_oldest_message_age_seconds` | gauge | 0 without a message |
    /// | `disk_chan_damaged_messages` | gauge | in the ring, as far as somebody found them |
    /// | `disk_chan_pages`, `disk_chan_free_pages` | gauge | pages in use, and those that can be written before the oldest is needed |
    /// | `disk_chan_page_turns_total` | counter | times that senders went on to another page |
    /// | `disk_chan_syncs_total`, `disk_chan_sync_seconds_total` | counter | syncs, and how long they took together |
    /// | `disk_chan_waits_for_room_total`, `disk_chan_wait_for_room_seconds_total` | counter | waits of senders that are over, and how long they took together |
    /// | `disk_chan_opens`, `disk_chan_handles`, `disk_chan_closed` | gauge | how often the file is open, senders and channels in all opens, 0 or 1 |
    /// | `disk_chan_group_lag_messages`, `disk_chan_group_lag_bytes` | gauge | what the group is not done with |
    /// | `disk_chan_group_oldest_unfinished_age_seconds` | gauge | the age of the first of that; 0 without |
    /// | `disk_chan_group_held_messages`, `disk_chan_group_returned_messages` | gauge | handed out and not done; given back and not handed out again |
    /// | `disk_chan_group_undeliverable_messages` | gauge | waiting for room among the dead letters |
    /// | `disk_chan_group_redelivered_total`, `disk_chan_group_dead_lettered_total` | counter | handed out again; became dead letters |
    /// | `disk_chan_group_lost_total` | counter | by `reason`: `lagged`, `expired`, `damaged`, `gone` |
    /// | `disk_chan_relay_active` | gauge | whether somebody is relaying the group: 0 or 1 |
    /// | `disk_chan_relay_updated_timestamp_seconds` | gauge | when the relay wrote its status last: about once a second while it is active |
    /// | `disk_chan_relay_relayed_total`, `disk_chan_relay_refused_total` | counter | since the relay was run: confirmed by the engine; dead letters, as it refused them |
    /// | `disk_chan_relay_confirmed_page`, `disk_chan_relay_confirmed_index` | gauge | the last message that the engine has confirmed; not there before the first |
    /// | `disk_chan_relay_last_error_timestamp_seconds` | gauge | when something went wrong last; 0 if nothing has |
    /// | `disk_chan_relay_info` | gauge | 1, with the labels `to` (where messages are put) and `last_error` |
    ///
    /// Those of a relay are there for groups that have had one. Its rate is the rate of its counter. An offset is two
    /// figures, as one number for both would not fit a float.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("orders.chan");
    /// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
    /// channel.sender().blocking_send("hello")?;
    /// let metrics = channel.metrics();
    /// let messages = metrics.iter().find(|metric| metric.name == "disk_chan_messages").unwrap();
    /// assert_eq!(messages.value, 1.0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn metrics(&self) -> Vec<Metric> {
        let now = SystemTime::now();
        let mut metrics = self.of_channel(&self.stats(), now);
        for group in self.groups() {
            metrics.extend(self.of_group(&group, now));
        }
        #[cfg(feature = "relay")]
        for relay in self.relays() {
            metrics.extend(self.of_relay(relay));
        }
        metrics
    }

    fn of_channel(&self, stats: &Stats, now: SystemTime) -> Vec<Metric> {
        let figures = [
            (MESSAGES, stats.len as f64),
            (BYTES, stats.bytes as f64),
            (CAPACITY, self.capacity_bytes() as f64),
            (AGE, age(stats.oldest, now)),
            (DAMAGED, stats.damaged as f64),
            (PAGES, stats.pages as f64),
            (FREE_PAGES, stats.free_pages as f64),
            (TURNS, stats.page_turns as f64),
            (SYNCS, stats.syncs as f64),
            (SYNC_TIME, stats.sync_time.as_secs_f64()),
            (WAITS, stats.waits_for_room as f64),
            (WAIT_TIME, stats.wait_time.as_secs_f64()),
            (OPENS, stats.opens as f64),
            (HANDLES, stats.handles as f64),
            (CLOSED, f64::from(u8::from(stats.closed))),
        ];
        let metric = |(kind, value)| metric(kind, value, vec![self.label()]);
        figures.into_iter().map(metric).collect()
    }

    fn of_group(&self, group: &GroupStats, now: SystemTime) -> impl Iterator<Item = Metric> {
        let figures = [
            (LAG, group.lag as f64, None),
            (LAG_BYTES, group.lag_bytes as f64, None),
            (LAG_AGE, age(group.oldest_unfinished, now), None),
            (HELD, group.held as f64, None),
            (RETURNED, group.returned as f64, None),
            (UNDELIVERABLE, group.undeliverable as f64, None),
            (REDELIVERED, group.redelivered as f64, None),
            (DEAD_LETTERED, group.dead_lettered as f64, None),
            (LOST, group.lagged as f64, Some("lagged")),
            (LOST, group.expired as f64, Some("expired")),
            (LOST, group.damaged as f64, Some("damaged")),
            (LOST, group.gone as f64, Some("gone")),
        ];
        let labels = [self.label(), ("group", group.name.to_string())];
        figures.into_iter().map(move |(kind, value, reason)| {
            let reason = reason.map(|reason: &str| ("reason", reason.to_owned()));
            metric(kind, value, labels.iter().cloned().chain(reason).collect())
        })
    }

    #[cfg(feature = "relay")]
    fn of_relay(&self, relay: crate::relay::RelayStatus) -> impl Iterator<Item = Metric> {
        let since_1970 = |time: SystemTime| age(Some(SystemTime::UNIX_EPOCH), time);
        let (error_at, error) = relay.last_error.unwrap_or((SystemTime::UNIX_EPOCH, String::new()));
        let place = relay.confirmed.map(|at| [(RELAY_PAGE, at.page() as f64), (RELAY_INDEX, at.index() as f64)]);
        let figures = [
            (RELAY_ACTIVE, f64::from(u8::from(relay.active))),
            (RELAY_UPDATED, since_1970(relay.updated)),
            (RELAYED, relay.relayed as f64),
            (RELAY_REFUSED, relay.refused as f64),
            (RELAY_ERROR, since_1970(error_at)),
        ];
        let labels = [self.label(), ("group", relay.group.to_string())];
        let info = labels.iter().cloned().chain([("to", relay.to), ("last_error", error)]).collect();
        let figures = figures.into_iter().chain(place.into_iter().flatten());
        figures.map(move |(kind, value)| metric(kind, value, labels.to_vec())).chain([metric(RELAY_INFO, 1.0, info)])
    }

    fn label(&self) -> (&'static str, String) {
        ("channel", self.path().display().to_string())
    }

    /// Hands [`metrics`](Self::metrics) to the recorder of the crate `metrics`: call it now and then, or before the
    /// figures are asked for. Counters of whole numbers are its counters, everything else its gauges; so are those of
    /// relays, which begin again, as its counters cannot.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("orders.chan");
    /// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
    /// disk_chan::Channel::describe_metrics(); // once, after the recorder was installed
    /// channel.record_metrics();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "metrics")]
    pub fn record_metrics(&self) {
        for Metric { name, kind, labels, value, .. } in self.metrics() {
            let labels: Vec<_> = labels.into_iter().map(|(name, value)| metrics::Label::new(name, value)).collect();
            match kind {
                MetricKind::Counter if can_count(name) => metrics::counter!(name, labels).absolute(value as u64),
                _ => metrics::gauge!(name, labels).set(value),
            }
        }
    }

    /// Tells the recorder of the crate `metrics` what the figures are.
    #[cfg(feature = "metrics")]
    pub fn describe_metrics() {
        for &(name, help, kind) in ALL {
            match kind {
                MetricKind::Counter if can_count(name) => metrics::describe_counter!(name, help),
                _ => metrics::describe_gauge!(name, help),
            }
        }
    }
}

#[cfg(feature = "metrics")]
fn can_count(name: &str) -> bool {
    !name.ends_with("_seconds_total") && !name.starts_with("disk_chan_relay_")
}

fn metric((name, help, kind): Kind, value: f64, labels: Vec<(&'static str, String)>) -> Metric {
    Metric { name, help, kind, labels, value }
}

/// In seconds; not negative where a clock was set back.
fn age(since: Option<SystemTime>, now: SystemTime) -> f64 {
    since.and_then(|since| now.duration_since(since).ok()).map_or(0.0, |age| age.as_secs_f64())
}
