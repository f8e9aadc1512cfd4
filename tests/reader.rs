//! Reading without a group.

mod common;

use common::{
    Rng, body, drain_numbers, fill, number, open_new, seed, send, small, small_channel, within, within_tokio,
};
use disk_chan::{Channel, Headers, Offset, Options, Overflow, ReadError, Reader, Record, Start, TryReadError};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, SystemTime};

/// A ring that went round, with places that nobody filled at the page ends; what is in it still.
fn gone_round(overflow: Overflow, rng: &mut Rng) -> (common::Dir, Channel, Vec<(Offset, u64)>) {
    let (dir, channel) = open_new(small().max_pages(4).overflow(overflow).typical_message_len(300));
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let mut sent = vec![];
    while channel.stats().page_turns < 3 || rng.below(60) > 0 {
        let n = sent.len() as u64;
        sent.push((channel.sender().try_send(body(n, 8 + rng.below(2000) as usize)).unwrap(), n));
        drain_numbers(&mut rx);
    }
    let first = channel.first_offset();
    sent.retain(|&(offset, _)| offset >= first);
    (dir, channel, sent)
}

fn seen(record: Result<Record, TryReadError>) -> Option<(Offset, u64)> {
    match record {
        Ok(record) => Some((record.offset(), number(&record))),
        Err(TryReadError::Empty) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn seek_then_read_is_what_the_model_says() {
    within(60, || {
        let mut rng = Rng::new(seed());
        for overflow in [Overflow::Block, Overflow::DropOldest] {
            for _ in 0..10 {
                let (_dir, channel, sent) = gone_round(overflow, &mut rng);
                let mut reader = channel.reader();
                // The place in the model before which the reader stands.
                let mut at = 0;
                for _ in 0..2000 {
                    let some = sent[rng.below(sent.len() as u64) as usize].0;
                    match rng.below(12) {
                        0 => (reader.seek(Start::Oldest), at = 0).1,
                        1 => (reader.seek(Start::Newest), at = sent.len()).1,
                        2 => {
                            // Also where there is no message.
                            let to = Offset::from_u64(some.as_u64() + rng.below(3) * 60);
                            reader.seek(Start::At(to));
                            at = sent.partition_point(|&(offset, _)| offset < to);
                        }
                        3..8 => {
                            assert_eq!(seen(reader.try_read()), sent.get(at).copied());
                            at = (at + 1).min(sent.len());
                        }
                        _ => {
                            let before = at.checked_sub(1);
                            assert_eq!(seen(reader.try_read_back()), before.map(|at| sent[at]));
                            at = before.unwrap_or(0);
                        }
                    }
                }
                assert_eq!(channel.get(sent[7].0).map(|record| number(&record)), Ok(sent[7].1));
            }
        }
    });
}

#[test]
fn what_was_overwritten_is_told_once() {
    let (_dir, channel) = open_new(small().overflow(Overflow::DropOldest));
    let tx = channel.sender();
    let first = tx.try_send(body(0, 3000)).unwrap();
    let mut reader = channel.reader();
    let mut n = 1;
    while channel.first_offset() == first {
        tx.try_send(body(n, 3000)).unwrap();
        n += 1;
    }
    let oldest = channel.first_offset();
    assert_eq!(reader.try_read(), Err(TryReadError::Overwritten(oldest)));
    let next = reader.try_read().unwrap();
    assert!(next.offset() >= oldest && number(&next) > 0);
    assert_eq!(channel.get(first), Err(TryReadError::Overwritten(oldest)));
    let rest = std::iter::from_fn(|| seen(reader.try_read())).map(|(_, n)| n).collect::<Vec<_>>();
    assert_eq!(rest, (number(&next) + 1..n).collect::<Vec<_>>());
    assert!(reader.try_read_back().is_ok());
}

#[test]
fn seek_to_a_time() {
    let (_dir, channel) = open_new(small().max_pages(4));
    let tx = channel.sender();
    let mut sent: Vec<(Offset, SystemTime)> = vec![];
    for n in 0..60 {
        let offset = tx.try_send(body(n, 3000)).unwrap();
        sent.push((offset, channel.get(offset).unwrap().sent_at()));
        if n % 7 == 0 {
            std::thread::sleep(Duration::from_millis(12));
        }
    }
    let mut reader = channel.reader();
    let at_time = |time: SystemTime, reader: &mut Reader| {
        reader.seek(Start::Time(time));
        seen(reader.try_read()).map(|(offset, _)| offset)
    };
    for &(_, time) in &sent {
        for time in [time - Duration::from_millis(1), time, time + Duration::from_millis(1)] {
            let expected = sent.iter().find(|&&(_, sent_at)| sent_at >= time).map(|&(offset, _)| offset);
            assert_eq!(at_time(time, &mut reader), expected);
        }
    }
    assert_eq!(at_time(SystemTime::UNIX_EPOCH, &mut reader), Some(sent[0].0));
}

#[test]
fn slices_follow_each_other_without_a_gap() {
    let mut rng = Rng::new(seed());
    for _ in 0..10 {
        let (_dir, channel, sent) = gone_round(Overflow::Block, &mut rng);
        let (mut at, mut got) = (channel.first_offset(), vec![]);
        loop {
            let slice = channel.read_slice(at, rng.below(9) as usize).unwrap();
            assert!(slice.next >= at && slice.damaged == 0);
            at = slice.next;
            got.extend(slice.records.iter().map(|record| (record.offset(), number(record))));
            if channel.read_slice(at, 1).unwrap().records.is_empty() {
                break;
            }
        }
        assert_eq!(got, sent);
        // What comes next is not passed over.
        let next = channel.sender().try_send(body(7, 8)).unwrap();
        assert_eq!(channel.read_slice(at, 1).unwrap().records[0].offset(), next);
    }
}

#[test]
fn a_slice_ends_before_what_was_overwritten_and_the_next_one_says_so() {
    let (_dir, channel) = open_new(small().overflow(Overflow::DropOldest));
    send(&channel.sender(), 0..10, 3000);
    let slice = channel.read_slice(channel.first_offset(), 5).unwrap();
    assert_eq!(slice.records.len(), 5);
    send(&channel.sender(), 10..60, 3000);
    assert_eq!(channel.read_slice(slice.next, 5), Err(ReadError::Overwritten(channel.first_offset())));
    let beyond = Offset::from_u64(u64::MAX);
    let empty = channel.read_slice(beyond, 5).unwrap();
    assert_eq!((empty.records.len(), empty.next), (0, beyond));
}

#[test]
fn a_reader_that_waits_gets_what_is_sent() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let mut reader = channel.reader();
                thread::spawn(move || {
                    let mut seen = vec![];
                    loop {
                        match reader.blocking_read() {
                            Ok(record) => seen.push(number(&record)),
                            Err(ReadError::Disconnected) => return seen,
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        let tx = channel.sender();
        let mut rng = Rng::new(seed());
        for n in 0..500 {
            if rng.one_in(20) {
                thread::sleep(Duration::from_millis(2)); // they sleep, or are about to
            }
            tx.blocking_send(body(n, 50)).unwrap();
        }
        drain_numbers(&mut rx);
        drop((tx, rx, channel));
        for reader in readers {
            assert_eq!(reader.join().unwrap(), (0..500).collect::<Vec<_>>());
        }
    });
}

#[test]
fn a_task_that_waits_gets_what_is_sent_and_can_be_cancelled() {
    within_tokio(60, || async {
        let (_dir, channel) = small_channel();
        let mut reader = channel.reader();
        for n in 0..20 {
            let waited = tokio::time::timeout(Duration::from_millis(2), reader.read()).await;
            assert!(waited.is_err(), "{waited:?}");
            let tx = channel.sender();
            let sends = tokio::spawn(async move { tx.send(body(n, 50)).await.unwrap() });
            let record = reader.read().await.unwrap();
            assert_eq!((number(&record), record.offset()), (n, sends.await.unwrap()));
        }
        channel.close();
        assert_eq!(reader.read().await, Err(ReadError::Disconnected));
    });
}

#[test]
fn a_read_only_open_reads_and_follows() {
    within(60, || {
        let (dir, channel) = small_channel();
        let tx = channel.sender();
        send(&tx, 0..5, 50);
        let looking = Options::new().read_only(true).blocking_open(dir.file()).unwrap();
        let mut reader = looking.reader();
        let all: Vec<_> = reader.try_iter().map(|record| number(&record.unwrap())).collect();
        assert_eq!(all, [0, 1, 2, 3, 4]);
        assert_eq!(reader.try_read(), Err(TryReadError::Empty));
        let waiting = thread::spawn(move || (number(&reader.blocking_read().unwrap()), reader.blocking_read()));
        thread::sleep(Duration::from_millis(5)); // most often it sleeps by then
        send(&tx, 5..6, 50);
        drop((tx, channel));
        assert_eq!(waiting.join().unwrap(), (5, Err(ReadError::Disconnected)));
        // Nobody else has the file open now.
        assert_eq!(looking.get(looking.first_offset()).map(|record| number(&record)), Ok(0));
    });
}

#[test]
fn a_damaged_message_is_passed_over_and_counted() {
    let (dir, channel) = small_channel();
    let tx = channel.sender();
    send(&tx, 0..3, 500);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(dir.file()).unwrap();
    let bytes = std::fs::read(dir.file()).unwrap();
    let message = body(1, 500);
    let at = bytes.windows(500).position(|window| window == message).unwrap() as u64;
    file.write_all_at(&[!message[100]], at + 100).unwrap();
    let mut reader = channel.reader();
    let read: Vec<_> = reader.try_iter().map(|record| number(&record.unwrap())).collect();
    assert_eq!((read, reader.damaged()), (vec![0, 2], 1));
    assert_eq!(reader.try_read_back().map(|record| number(&record)), Ok(2));
    assert_eq!(reader.try_read_back().map(|record| number(&record)), Ok(0));
    assert_eq!(channel.read_slice(channel.first_offset(), 9).unwrap().damaged, 1);
}

#[test]
fn a_group_starts_at_a_time() {
    let (_dir, channel) = small_channel();
    send(&channel.sender(), 0..5, 50);
    thread::sleep(Duration::from_millis(30));
    let between = SystemTime::now() - Duration::from_millis(10);
    send(&channel.sender(), 5..9, 50);
    let mut rx = channel.blocking_subscribe_from("late", Start::Time(between)).unwrap();
    assert_eq!(drain_numbers(&mut rx), [5, 6, 7, 8]);
    let mut all = channel.blocking_subscribe_from("early", Start::Time(SystemTime::UNIX_EPOCH)).unwrap();
    assert_eq!(drain_numbers(&mut all).len(), 9);
}

#[test]
fn a_reader_holds_up_nobody_and_is_no_group() {
    let (_dir, channel) = small_channel();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let mut reader = channel.reader();
    for _ in 0..3 {
        fill(&channel, 0, 3000);
        assert!(!drain_numbers(&mut rx).is_empty());
    }
    assert_eq!(channel.groups().len(), 1);
    assert_eq!(reader.try_read(), Err(TryReadError::Overwritten(channel.first_offset())));
}

/// What was sent, in the order of the offsets.
type Sent = Mutex<Vec<(Offset, u64)>>;

/// Where a reader stood, and what it got.
type Seen = (Offset, Result<(Offset, u64), Offset>);

/// Reads, forward for the most part, as long as somebody sends.
fn follow(channel: &Channel, ended: &AtomicBool, lapped: &AtomicUsize, mut rng: Rng) -> Vec<Seen> {
    let (mut reader, mut seen) = (channel.reader(), vec![]);
    loop {
        let last = ended.load(SeqCst);
        let from = reader.offset();
        match reader.try_read() {
            Ok(record) => seen.push((from, Ok((record.offset(), number(&record))))),
            Err(TryReadError::Overwritten(oldest)) => {
                lapped.fetch_add(1, SeqCst);
                seen.push((from, Err(oldest)));
            }
            Err(TryReadError::Empty) if last => return seen,
            Err(TryReadError::Empty) => {}
            Err(error) => panic!("{error}"),
        }
        assert_eq!(reader.damaged(), 0);
        if rng.one_in(400) {
            reader.seek(Start::Time(SystemTime::now() - Duration::from_millis(rng.below(20))));
        } else if rng.one_in(200) {
            reader.seek(Start::Oldest);
        } else if rng.one_in(20)
            && let Ok(record) = reader.try_read_back()
        {
            number(&record);
        }
    }
}

#[test]
fn readers_that_are_lapped_get_whole_messages_and_are_told_exactly() {
    within(120, || {
        let (_dir, channel) = open_new(small().max_pages(3).overflow(Overflow::DropOldest));
        let (sent, ended, lapped) = (Sent::default(), AtomicBool::new(false), AtomicUsize::new(0));
        let seed = seed();
        let seen: Vec<Seen> = thread::scope(|scope| {
            let readers = [1, 2].map(|r| {
                scope.spawn({
                    let (channel, ended, lapped) = (&channel, &ended, &lapped);
                    move || follow(channel, ended, lapped, Rng::new(seed + r))
                })
            });
            let senders = [3, 4].map(|s| {
                scope.spawn({
                    let (channel, sent, lapped) = (&channel, &sent, &lapped);
                    move || {
                        let (tx, mut rng) = (channel.sender(), Rng::new(seed + s));
                        // Until the readers were lapped a few times, however late they come.
                        for n in (0..).take_while(|&n| n < 8000 || lapped.load(SeqCst) < 10) {
                            let n = s << 32 | n;
                            let offset = tx.blocking_send(body(n, 8 + rng.below(300) as usize)).unwrap();
                            sent.lock().unwrap().push((offset, n));
                        }
                    }
                })
            });
            let senders = senders.map(|sender| sender.join());
            ended.store(true, SeqCst);
            senders.into_iter().for_each(|sender| sender.unwrap());
            readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
        });
        let mut sent = sent.into_inner().unwrap();
        sent.sort_unstable();
        let behind = |offset: Offset| sent.partition_point(|&(o, _)| o < offset);
        for (from, got) in seen {
            match got {
                // The next one that was sent, and no other.
                Ok(record) => assert_eq!(sent[behind(from)], record, "read from {from}"),
                Err(oldest) => assert!(oldest > from && oldest.index() == 0),
            }
        }
    });
}

#[test]
fn headers_come_with_what_is_read() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    let headers = Headers::new().key("customer 7").with("content-type", "text/plain");
    let first = tx.try_send(headers.message("hello").unwrap()).unwrap();
    tx.try_send("plain").unwrap();
    let slice = channel.read_slice(first, 2).unwrap();
    let [with, without] = slice.records.try_into().unwrap();
    assert_eq!((with.key(), with.headers().get("content-type")), (Some(&b"customer 7"[..]), Some(&b"text/plain"[..])));
    assert_eq!((&*with, &*without, without.headers().is_empty()), (&b"hello"[..], &b"plain"[..], true));
    assert_eq!(with.into_vec(), b"hello");
    let page = channel.page_bytes(first.page()).unwrap();
    let (range, mut bytes) = (page.range(), vec![]);
    bytes.resize((range.end - range.start) as usize, 0);
    rustix::io::pread(&page, &mut bytes[..], range.start).unwrap();
    let raw: Vec<_> = disk_chan::records(page.id(), &bytes).map(Result::unwrap).collect();
    assert_eq!((raw[0].key(), &*raw[0], &*raw[1]), (Some(&b"customer 7"[..]), &b"hello"[..], &b"plain"[..]));
    assert_eq!(raw[0].headers().iter().count(), 1);
}

#[test]
fn back_and_forth_from_numbers_that_no_page_has() {
    let (dir, channel) = open_new(small().max_pages(4));
    let copy = dir.join("copy.chan");
    send(&channel.sender(), 0..2, 50);
    // As after a loss of power: page numbers go on much higher.
    std::fs::copy(dir.file(), &copy).unwrap();
    let channel = Options::new().blocking_open(&copy).unwrap();
    assert!(channel.recovered().is_some());
    send(&channel.sender(), 2..3, 50);
    for page in 1..9 {
        let mut reader = channel.reader();
        reader.seek(Start::At(Offset::from_u64(page << 20)));
        assert_eq!(reader.try_read_back().map(|record| number(&record)), Ok(1), "back from page {page}");
        reader.seek(Start::At(Offset::from_u64(page << 20)));
        assert_eq!(reader.try_read().map(|record| number(&record)), Ok(2), "on from page {page}");
    }
}

#[test]
fn what_a_crashed_file_was_stays_as_it_was_when_it_was_opened_to_look() {
    let (dir, channel) = open_new(small().max_pages(4).overflow(Overflow::DropOldest));
    let copy = dir.join("copy.chan");
    send(&channel.sender(), 0..150, 1000);
    std::fs::copy(dir.file(), &copy).unwrap();
    let looking = Options::new().read_only(true).blocking_open(&copy).unwrap();
    let read = |channel: &Channel| -> Vec<u64> {
        channel.reader().try_iter().map(|record| number(&record.unwrap())).collect()
    };
    let before = read(&looking);
    let used = Options::new().blocking_open(&copy).unwrap();
    send(&used.sender(), 150..800, 1000);
    assert_eq!((read(&looking), looking.len()), (before, 150));
}
