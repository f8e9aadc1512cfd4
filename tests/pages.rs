//! Pages as units: listed, read one by one, and sent as bytes.

mod common;

use common::{Rng, body, drain_numbers, number, open_new, seed, send, small, small_channel, within};
use disk_chan::{Channel, Offset, Overflow, PageBytes, PageBytesError, PageId, ReadError, records};
use proptest::prelude::*;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

/// A ring that went round, full of messages of different lengths: where each is, and its number.
fn full() -> (common::Dir, Channel, Vec<(Offset, u64)>) {
    let (dir, channel) = open_new(small().max_pages(4));
    let (mut rx, tx, mut rng) = (channel.blocking_subscribe("g").unwrap(), channel.sender(), Rng::new(seed()));
    let mut sent = vec![];
    while channel.stats().page_turns < 6 {
        let n = sent.len() as u64;
        sent.push((tx.try_send(body(n, 8 + rng.below(2000) as usize)).unwrap(), n));
        drain_numbers(&mut rx);
    }
    sent.retain(|&(offset, _)| offset >= channel.first_offset());
    (dir, channel, sent)
}

/// The bytes of a page, read from the file.
fn bytes(page: &PageBytes) -> Vec<u8> {
    let range = page.range();
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let read = rustix::io::pread(page.as_fd(), &mut bytes[..], range.start).unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

/// Messages, and the bytes that are none.
type Parsed = (Vec<(Offset, u64)>, Vec<(usize, usize)>);

fn parsed(of: PageId, bytes: &[u8]) -> Parsed {
    let (mut good, mut bad) = (vec![], vec![]);
    for record in records(of, bytes) {
        match record {
            Ok(record) => good.push((record.offset(), number(&record))),
            Err(unreadable) => bad.push((unreadable.bytes.start, unreadable.bytes.end)),
        }
    }
    (good, bad)
}

#[test]
fn the_list_of_the_pages_adds_up() {
    let (_dir, channel, sent) = full();
    let pages = channel.pages();
    assert_eq!(pages.len(), channel.stats().pages);
    assert_eq!(pages.iter().map(|page| page.len).sum::<u64>(), channel.len());
    assert_eq!(pages[0].first_offset, channel.first_offset());
    for (i, page) in pages.iter().enumerate() {
        let here: Vec<_> = sent.iter().filter(|(offset, _)| offset.page() == page.number).collect();
        assert_eq!((page.len, page.sealed), (here.len() as u64, i + 1 < pages.len()));
        let payload: u64 = here.iter().map(|&&(offset, _)| channel.get(offset).unwrap().len() as u64).sum();
        assert!(page.bytes >= payload + 32 * page.len, "{page:?} has {payload} bytes of messages");
        let time = |place: Option<&&(Offset, u64)>| place.map(|&&(offset, _)| channel.get(offset).unwrap().sent_at());
        assert_eq!((page.oldest, page.newest), (time(here.first()), time(here.last())));
    }
}

#[test]
fn a_page_is_read_whole_or_in_part() {
    let (_dir, channel, sent) = full();
    for page in channel.pages() {
        let here: Vec<_> = sent.iter().copied().filter(|(offset, _)| offset.page() == page.number).collect();
        let read = |records: disk_chan::PageRecords| -> Vec<(Offset, u64)> {
            records.map(|record| record.unwrap()).map(|record| (record.offset(), number(&record))).collect()
        };
        assert_eq!(read(channel.page(page.number)), here);
        let some: Vec<_> = here.iter().copied().filter(|(offset, _)| (3..9).contains(&offset.index())).collect();
        assert_eq!(read(channel.page(page.number).range(3..9)), some);
        let rest: Vec<_> = here.iter().copied().skip(2).collect();
        assert_eq!(read(channel.page(page.number).range(2..u64::MAX)), rest);
    }
    let (before, after) = (channel.first_offset().page() - 1, channel.end_offset().page() + 1);
    assert_eq!(channel.page(after).count() + channel.page(u64::MAX).count(), 0);
    let gone: Vec<_> = channel.page(before).collect();
    assert_eq!(gone, [Err(ReadError::Overwritten(channel.first_offset()))]);
    assert!(matches!(channel.page_bytes(before), Err(PageBytesError::Overwritten(at)) if at == channel.first_offset()));
    assert!(channel.page_bytes(after).unwrap().is_empty() && channel.page_bytes(u64::MAX).unwrap().is_empty());
}

#[test]
fn a_page_through_sendfile_and_a_socket_is_the_same_messages() {
    within(60, || {
        let (_dir, channel, sent) = full();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let other_side = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut got = vec![];
            let mut id = [0; 24];
            while socket.read_exact(&mut id).is_ok() {
                let mut len = [0; 8];
                socket.read_exact(&mut len).unwrap();
                let mut bytes = vec![0; u64::from_le_bytes(len) as usize];
                socket.read_exact(&mut bytes).unwrap();
                got.extend(
                    records(PageId::from_bytes(id), &bytes).map(|r| r.map(|r| (r.offset(), number(&r))).unwrap()),
                );
            }
            got
        });
        let mut socket = TcpStream::connect(address).unwrap();
        let mut messages = 0;
        for page in channel.pages() {
            let bytes = channel.page_bytes(page.number).unwrap();
            messages += bytes.len();
            let range = bytes.range();
            socket.write_all(&bytes.id().to_bytes()).unwrap();
            socket.write_all(&(range.end - range.start).to_le_bytes()).unwrap();
            let mut at = range.start;
            while at < range.end {
                let left = (range.end - at) as usize;
                assert!(rustix::fs::sendfile(&socket, &bytes, Some(&mut at), left).unwrap() > 0);
            }
        }
        drop(socket);
        assert_eq!((other_side.join().unwrap(), messages), (sent.clone(), sent.len() as u64));
    });
}

#[test]
fn what_is_damaged_or_cut_short_costs_itself() {
    let (_dir, channel, _) = full();
    let page = channel.page_bytes(channel.pages()[1].number).unwrap();
    let bytes = bytes(&page);
    let (good, bad) = parsed(page.id(), &bytes);
    assert_eq!((good.len() as u64, bad.len()), (page.len(), 0));
    let starts: Vec<usize> = {
        let mut at = 0;
        good.iter()
            .map(|&(offset, _)| {
                let start = at;
                at += 32 + channel.get(offset).unwrap().len().next_multiple_of(8);
                start
            })
            .collect()
    };
    let mut rng = Rng::new(seed());
    for _ in 0..200 {
        let n = rng.below(good.len() as u64) as usize;
        let end = starts.get(n + 1).copied().unwrap_or(bytes.len());
        // Anywhere but in the padding, which nobody reads.
        let len = 32 + channel.get(good[n].0).unwrap().len();
        let mut altered = bytes.clone();
        altered[starts[n] + rng.below(len as u64) as usize] ^= 1 << rng.below(8);
        let (rest, unreadable) = parsed(page.id(), &altered);
        let others: Vec<_> = good.iter().copied().filter(|&g| g != good[n]).collect();
        assert_eq!((rest, unreadable), (others, vec![(starts[n], end)]));

        let cut = rng.below(bytes.len() as u64) as usize;
        let (whole, unreadable) = parsed(page.id(), &bytes[..cut]);
        assert!(good.starts_with(&whole) && whole.len() + 1 >= starts.partition_point(|&start| start < cut));
        assert!(unreadable.iter().all(|&(_, end)| end == cut));
    }
}

#[test]
fn records_of_another_page_are_not_believed() {
    let (_dir, channel, _) = full();
    let pages: Vec<_> = channel.pages().iter().map(|page| channel.page_bytes(page.number).unwrap()).collect();
    let [one, two] = [bytes(&pages[0]), bytes(&pages[1])];
    assert_eq!(parsed(pages[1].id(), &one), (vec![], vec![(0, one.len())]));
    // As a place that was reserved and never written, in a page that was used before.
    let (first, _) = parsed(pages[1].id(), &two);
    let mixed = [&one[..], &two[..], &two[..]].concat();
    let (good, bad) = parsed(pages[1].id(), &mixed);
    assert_eq!((good, bad), (first, vec![(0, one.len()), (one.len() + two.len(), mixed.len())]));
    let (_other_dir, other) = small_channel();
    send(&other.sender(), 0..3, 50);
    let foreign = other.page_bytes(0).unwrap();
    let (_, unreadable) = parsed(PageId::from_bytes(pages[0].id().to_bytes()), &bytes(&foreign));
    assert_eq!(unreadable.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_can_be_looked_through(
        id in any::<[u8; 24]>(),
        words in proptest::collection::vec(prop_oneof![any::<u64>(), 0u64..200], 0..300),
        cut in 0usize..8,
    ) {
        // Headers that say that they are of this page, one in each word, make it look at most.
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        for word in bytes.chunks_exact_mut(8).skip(1).step_by(3) {
            let offset = PageId::from_bytes(id).page() << 20;
            word.copy_from_slice(&offset.to_le_bytes());
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        for record in records(PageId::from_bytes(id), &bytes) {
            prop_assert_eq!(record.unwrap_err().bytes, 0..bytes.len());
        }
    }
}

#[test]
fn pages_that_are_used_again_meanwhile_give_whole_messages_or_say_so() {
    within(120, || {
        let (_dir, channel) = open_new(small().max_pages(3).overflow(Overflow::DropOldest));
        let (sent, enough) = (Mutex::new(HashMap::new()), AtomicBool::new(false));
        let mut read = vec![];
        thread::scope(|scope| {
            scope.spawn(|| {
                let (tx, mut rng) = (channel.sender(), Rng::new(seed()));
                for n in (0..).take_while(|_| !enough.load(SeqCst)) {
                    let offset = tx.blocking_send(body(n, 8 + rng.below(500) as usize)).unwrap();
                    sent.lock().unwrap().insert(offset, n);
                }
            });
            let (mut overwritten, mut torn) = (0, 0);
            while overwritten < 5 || torn < 5 || read.len() < 5000 {
                let Some(oldest) = channel.pages().first().map(|page| page.number) else { continue };
                for record in channel.page(oldest) {
                    match record {
                        Ok(record) => read.push((record.offset(), number(&record))),
                        Err(ReadError::Overwritten(at)) => {
                            assert!(at.page() > oldest);
                            overwritten += 1;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                if let Ok(page) = channel.page_bytes(oldest) {
                    let (good, bad) = parsed(page.id(), &bytes(&page));
                    assert!(good.iter().all(|(offset, _)| offset.page() == oldest));
                    torn += usize::from(!bad.is_empty());
                    read.extend(good);
                }
            }
            enough.store(true, SeqCst);
        });
        let sent = sent.into_inner().unwrap();
        for (offset, n) in read {
            assert_eq!(sent.get(&offset), Some(&n), "at {offset}");
        }
    });
}

/// Also as one sender fills it while another has not finished.
#[test]
fn what_is_said_of_a_sealed_page_stays_so() {
    within(120, || {
        let (_dir, channel) = open_new(small().max_pages(8).overflow(Overflow::DropOldest));
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for which in 0..3 {
                let (tx, over) = (channel.sender(), &over);
                scope.spawn(move || {
                    for n in (which..).step_by(3) {
                        if over.load(SeqCst) {
                            return;
                        }
                        tx.blocking_send(body(n, 200)).unwrap();
                    }
                });
            }
            let (mut checked, mut next) = (0, 0);
            while checked < 2000 {
                let pages = channel.pages();
                let Some(page) = pages.into_iter().rev().find(|page| page.sealed && page.number >= next) else {
                    continue;
                };
                next = page.number + 1;
                // One that was used again meanwhile says nothing.
                let Ok(read) = channel.page(page.number).collect::<Result<Vec<_>, _>>() else { continue };
                if channel.first_offset() <= page.first_offset {
                    over.fetch_or(read.len() as u64 != page.len, SeqCst);
                    assert_eq!(read.len() as u64, page.len, "page {}", page.number);
                    checked += 1;
                }
            }
            over.store(true, SeqCst);
        });
    });
}
