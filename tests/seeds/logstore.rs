//! logstore: partitions of an append-only log, chosen by a key, read as bytes.

use crate::common::{Dir, small};
use disk_chan::{Options, Partitioned, records};
use std::collections::BTreeSet;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

/// Its example: 10 partitions, append with a key, read a partition from an offset, unmarshal.
#[test]
fn ten_partitions_append_with_a_key_read_one_from_an_offset_and_unmarshal() {
    let dir = Dir::new();
    let options = Options::new().page_size(1 << 20).max_pages(4);
    let store = Partitioned::blocking_new(dir.join("logs"), 10, options).unwrap();
    let tx = store.sender();
    let mut placed = vec![];
    for n in 0..100 {
        placed.push(tx.blocking_send(format!("user-{}", n % 25), format!("event {n}")).unwrap());
    }
    let partition = placed[0].partition;
    let here: Vec<_> = placed.iter().enumerate().filter(|(_, at)| at.partition == partition).collect();
    // From the second message of that partition on.
    let from = here[1].1.offset;
    let channel = store.partition(partition);
    let slice = channel.read_slice(from, 1000).unwrap();
    let read: Vec<_> = slice.records.iter().map(|record| String::from_utf8_lossy(record).into_owned()).collect();
    assert_eq!(read, here[1..].iter().map(|(n, _)| format!("event {n}")).collect::<Vec<_>>());

    // And as bytes of its file.
    let page = channel.page_bytes(from.page()).unwrap();
    let mut bytes = vec![0; (page.range().end - page.range().start) as usize];
    rustix::io::pread(page.as_fd(), &mut bytes[..], page.range().start).unwrap();
    let raw = records(page.id(), &bytes).map(|record| record.unwrap()).filter(|record| record.offset() >= from);
    let raw: Vec<_> = raw.map(|record| String::from_utf8_lossy(&record).into_owned()).collect();
    assert_eq!(raw, read);
}

/// Also the last partition is used, and one alone, and any number of them; a key stays where it is.
#[test]
fn all_partitions_are_used() {
    for partitions in [1, 2, 7, 10] {
        let dir = Dir::new();
        let store = Partitioned::blocking_new(dir.join("logs"), partitions, small()).unwrap();
        let used: BTreeSet<usize> = (0..500).map(|n| store.partition_of(format!("key {n}"))).collect();
        assert_eq!(used, (0..partitions).collect());
        let at = store.sender().blocking_send("key 1", "x").unwrap();
        assert_eq!(at.partition, store.partition_of("key 1"));
    }
}

/// The number of partitions is known to the directory, so that keys are not mapped anew by mistake.
#[test]
fn opened_with_another_number_of_partitions() {
    let dir = Dir::new();
    drop(Partitioned::blocking_new(dir.join("logs"), 3, small()).unwrap());
    assert!(Partitioned::blocking_new(dir.join("logs"), 4, small()).is_err());
    assert_eq!(Partitioned::blocking_new(dir.join("logs"), 3, small()).unwrap().partitions(), 3);
}

/// A partition goes to another machine without being read here, and is checked there.
#[test]
fn a_descriptor_for_sendfile() {
    let dir = Dir::new();
    let store = Partitioned::blocking_new(dir.join("logs"), 1, small()).unwrap();
    for n in 0..50 {
        store.sender().blocking_send("key", vec![n; 300]).unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut from, _) = listener.accept().unwrap();
    let page = store.partition(0).page_bytes(0).unwrap();
    let (mut at, end) = (page.range().start, page.range().end);
    while at < end {
        let left = (end - at) as usize;
        assert!(rustix::fs::sendfile(&to, &page, Some(&mut at), left).unwrap() > 0);
    }
    drop(to);
    let mut bytes = vec![];
    from.read_to_end(&mut bytes).unwrap();
    let messages: Vec<Vec<u8>> = records(page.id(), &bytes).map(|record| record.unwrap().to_vec()).collect();
    assert_eq!(messages, (0..50).map(|n| vec![n; 300]).collect::<Vec<_>>());
}

/// Each partition is read by a consumer of its own, with a place that it keeps.
#[test]
fn a_reader_for_each_partition() {
    let dir = Dir::new();
    let store = Partitioned::blocking_new(dir.join("logs"), 4, small()).unwrap();
    for n in 0..80u8 {
        store.sender().blocking_send([n], [n]).unwrap();
    }
    let read = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|partition| {
                let mut rx = store.partition(partition).blocking_subscribe("archive").unwrap();
                scope.spawn(move || rx.try_iter().map(|message| message[0]).collect::<Vec<u8>>())
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(read.iter().all(|numbers| numbers.is_sorted()));
    assert_eq!(read.concat().into_iter().collect::<BTreeSet<_>>(), (0..80).collect());
}
