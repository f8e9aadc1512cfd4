//! selium-log: an ordered log, replayed from any offset.

use crate::common::{Dir, body, drain_numbers, number, open_new, send, small, small_channel, within, within_tokio};
use disk_chan::{Durability, Headers, Offset, Options, Start};
use std::time::{Duration, SystemTime};

/// Its example: open, write, flush, read a slice from the beginning, iterate.
#[test]
fn open_write_flush_read_a_slice_and_iterate() {
    within_tokio(60, || async {
        let dir = Dir::new();
        let log = Options::new().page_size(1 << 20).max_pages(4).open(dir.file()).await.unwrap();
        let tx = log.sender();
        for n in 0..3 {
            tx.send(format!("Hello, world! {n}")).await.unwrap();
        }
        log.sync().await.unwrap();
        let slice = log.read_slice(log.first_offset(), 1000).unwrap();
        let read: Vec<&str> = slice.records.iter().map(|record| std::str::from_utf8(record).unwrap()).collect();
        assert_eq!(read, ["Hello, world! 0", "Hello, world! 1", "Hello, world! 2"]);
        // Tailing: nothing is skipped.
        tx.send("the next").await.unwrap();
        let next = log.read_slice(slice.next, 1000).unwrap();
        assert_eq!(next.records.iter().map(|record| &**record).collect::<Vec<_>>(), [b"the next"]);
    });
}

/// A slice crosses pages, and has no more than its limit.
#[test]
fn slices_with_a_limit_from_any_offset() {
    let (_dir, log) = open_new(small().max_pages(4));
    send(&log.sender(), 0..150, 1000);
    assert!(log.pages().len() > 1);
    let (mut at, mut read) = (log.first_offset(), vec![]);
    for limit in [1, 2, 50, 1000] {
        let slice = log.read_slice(at, limit).unwrap();
        assert!(slice.records.len() <= limit);
        read.extend(slice.records.iter().map(|record| number(record)));
        at = slice.next;
    }
    assert_eq!(read, (0..150).collect::<Vec<_>>());
}

/// Version, timestamp and other headers of a message.
#[test]
fn headers_and_the_time_of_a_message() {
    let (_dir, log) = small_channel();
    let before = SystemTime::now() - Duration::from_secs(1);
    let at = log.sender().try_send(Headers::new().with("version", [3]).message("payload").unwrap()).unwrap();
    let record = log.get(at).unwrap();
    assert_eq!((&*record, record.headers().get("version")), (&b"payload"[..], Some(&[3][..])));
    assert!(record.sent_at() > before && record.sent_at() <= SystemTime::now());
}

/// A batch is sent in one go, and read as the messages that it is of.
#[test]
fn a_batch() {
    let (_dir, log) = small_channel();
    let offsets = log.sender().blocking_send_many(&[body(1, 50), body(2, 60), body(3, 70)]).unwrap();
    let slice = log.read_slice(offsets[1], 9).unwrap();
    assert_eq!(slice.records.iter().map(|record| number(record)).collect::<Vec<_>>(), [2, 3]);
}

/// `every_write`, `number_of_writes` and `interval` are what is durable when; nothing has to be flushed to be read.
#[test]
fn when_it_is_flushed() {
    within(60, || {
        let every_write = open_new(small().durability(Durability::Always)).1;
        every_write.sender().blocking_send("x").unwrap();
        assert_eq!(every_write.durable_offset(), every_write.end_offset());

        let interval = Durability::Interval { every: Duration::from_secs(3600), max_messages: 10 };
        let now_and_then = open_new(small().durability(interval)).1;
        send(&now_and_then.sender(), 0..10, 50);
        while now_and_then.durable_offset() < now_and_then.end_offset() {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

#[test]
fn the_number_of_entries() {
    let (dir, log) = small_channel();
    send(&log.sender(), 0..90, 1000);
    assert_eq!(log.len(), 90);
    drop(log);
    assert_eq!(Options::new().blocking_open(dir.file()).unwrap().len(), 90);
}

/// What its server's subscribers ask for: from the beginning or the end, and so many messages from there.
#[test]
fn subscribers_from_the_beginning_from_the_end_and_from_between() {
    let (_dir, log) = small_channel();
    send(&log.sender(), 0..10, 50);
    let mut reader = log.reader();
    reader.seek(Start::Newest);
    let fourth_last = (0..4).map(|_| reader.try_read_back().unwrap().offset()).last().unwrap();
    let from = |name: &str, start| drain_numbers(&mut log.blocking_subscribe_from(name, start).unwrap());
    assert_eq!(from("from the beginning", Start::Oldest).len(), 10);
    assert!(from("from the end", Start::Newest).is_empty());
    assert_eq!(from("the last four", Start::At(fourth_last)), [6, 7, 8, 9]);
    assert!(fourth_last > Offset::default());
}

/// Its cleaner: what is older than the retention period goes, here without a task that has to run, and counted.
#[test]
fn a_retention_period() {
    let (_dir, log) = open_new(small().max_age(Duration::from_millis(30)));
    let mut rx = log.blocking_subscribe("g").unwrap();
    let tx = log.sender();
    send(&tx, 0..5, 50);
    std::thread::sleep(Duration::from_millis(60));
    assert!(drain_numbers(&mut rx).is_empty());
    let (stats, offsets) = (log.groups().remove(0), log.first_offset());
    assert_eq!((stats.expired, stats.lag), (5, 0));
    // Offsets go on.
    assert!(tx.try_send(body(5, 50)).unwrap() >= offsets);
    assert_eq!(log.groups()[0].expired, 5);
}
