//! How fast messages went between two snapshots of a channel. Nothing counts them in the file: what was sent is what
//! pages have more than before, and what a group is done with is what was sent and does not lie before it.

use std::collections::HashMap;

use disk_chan::{GroupName, GroupStats, PageInfo};

use crate::snapshot::Snapshot;

/// What happened a second.
#[derive(Debug, Default)]
pub struct Rates {
    /// Messages sent.
    pub messages: f64,
    /// Bytes of their records.
    pub bytes: f64,
    /// Messages that each group became done with. One that was not there before has none.
    pub groups: HashMap<GroupName, f64>,
}

impl Rates {
    pub fn between(before: &Snapshot, now: &Snapshot) -> Self {
        let seconds = now.at.duration_since(before.at).as_secs_f64().max(1e-3);
        let (messages, bytes) = sent(before, now);
        let group = |stats: &GroupStats| {
            let old = &before.groups.iter().find(|group| group.stats.name == stats.name)?.stats;
            let lost = |stats: &GroupStats| stats.lagged + stats.expired;
            let done = (messages + old.lag).saturating_sub(stats.lag);
            // What it never had it is not done with, though it is no lag any more.
            let done = done.saturating_sub(lost(stats).saturating_sub(lost(old)));
            Some((stats.name.clone(), done as f64 / seconds))
        };
        Self {
            messages: messages as f64 / seconds,
            bytes: bytes as f64 / seconds,
            groups: now.groups.iter().filter_map(|now| group(&now.stats)).collect(),
        }
    }
}

/// Messages and their bytes that were sent between two snapshots.
fn sent(before: &Snapshot, now: &Snapshot) -> (u64, u64) {
    let Some(head) = before.pages.last() else { return (now.messages(), now.bytes()) };
    let add = |(messages, bytes): (u64, u64), page: &PageInfo| {
        if page.number == head.number {
            (messages + page.len.saturating_sub(head.len), bytes + page.bytes.saturating_sub(head.bytes))
        } else {
            (messages + page.len, bytes + page.bytes)
        }
    };
    let seen = now.pages.iter().filter(|page| page.number >= head.number);
    let (messages, bytes) = seen.clone().fold((0, 0), add);
    // Pages that came and went since were as those that are there.
    let newer = seen.filter(|page| page.number > head.number).count() as u64;
    let missed = now.stats.page_turns.saturating_sub(before.stats.page_turns).saturating_sub(newer);
    let full = now.pages.iter().filter(|page| page.sealed);
    let count = full.clone().count().max(1) as u64;
    let (all, all_bytes) = full.fold((0, 0), |(n, bytes), page| (n + page.len, bytes + page.bytes));
    (messages + missed * (all / count), bytes + missed * (all_bytes / count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk_chan::{Options, Overflow};
    use std::time::Duration;

    /// Snapshots a second apart.
    fn rates(before: &Snapshot, mut now: Snapshot) -> Rates {
        now.at = before.at + Duration::from_secs(1);
        Rates::between(before, &now)
    }

    #[test]
    fn what_was_sent_and_done_is_counted_across_pages() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().page_size(64 << 10).max_pages(8);
        let channel = options.blocking_open(dir.path().join("c")).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        let send = |n: usize| {
            for _ in 0..n {
                tx.blocking_send([7; 100]).unwrap();
            }
        };
        send(100);
        let before = Snapshot::take(&channel);
        send(1000);
        assert_eq!(rx.try_iter().take(300).count(), 300);
        let now = rates(&before, Snapshot::take(&channel));
        assert!(channel.pages().len() > 2, "over pages");
        assert_eq!((now.messages, now.groups[&"g".into()]), (1000.0, 300.0));
        assert!(now.bytes > 100_000.0 && now.bytes < 200_000.0, "{now:?}");
        let before = Snapshot::take(&channel);
        let now = rates(&before, Snapshot::take(&channel));
        assert_eq!((now.messages, now.bytes, now.groups[&"g".into()]), (0.0, 0.0, 0.0));
    }

    /// Between two looks the ring goes round more than once.
    #[test]
    fn pages_that_nobody_saw_are_taken_for_such_as_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().page_size(64 << 10).max_pages(2).overflow(Overflow::DropOldest);
        let channel = options.blocking_open(dir.path().join("c")).unwrap();
        let _rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        let before = Snapshot::take(&channel);
        for _ in 0..10_000 {
            tx.blocking_send([7; 100]).unwrap();
        }
        let now = rates(&before, Snapshot::take(&channel));
        assert!((9_000.0..11_000.0).contains(&now.messages), "{now:?}");
        assert!(now.groups[&"g".into()] < 1000.0, "it had none of them: {now:?}");
    }
}
