//! Numbers near the place where they come round, or end: laps, tags, generations, page numbers.

mod common;

use common::{Dir, Rng, body, drain_numbers, fill, number, small, within};
use disk_chan::{AckError, Channel, Lease, Offset, Options, Overflow, Start, TryRecvError};

/// First pages shortly before the laps of a ring of `pages` reach a number that somebody may store in too few bits.
fn first_pages(pages: u64) -> Vec<u64> {
    let laps = [8, 9, 10, 12, 16, 20, 22, 23, 24, 30, 31, 32].map(|bits| (1_u64 << bits) - 3);
    let mut firsts: Vec<u64> = laps.into_iter().map(|lap| lap * pages).filter(|page| *page < 1 << 43).collect();
    // The page number itself, at every width that a word may keep of it, and near the end of its 44 bits.
    firsts.extend([20, 24, 28, 32, 40, 43].map(|bits| (1 << bits) - 5));
    firsts.push((1 << 44) - (1 << 29));
    firsts
}

fn start_at(dir: &Dir, options: Options, first: u64) -> Channel {
    let channel = options.first_page(first).blocking_open(dir.file()).unwrap();
    assert_eq!(channel.sender().try_send(body(u64::MAX, 8)).unwrap(), Offset::from_u64(first << 20));
    channel
}

#[test]
fn laps_go_on_over_the_wrap() {
    within(170, || {
        for pages in [2, 3, 5] {
            for first in first_pages(pages) {
                let dir = Dir::in_memory();
                let options = small().max_pages(pages as usize);
                let mut channel = start_at(&dir, options.clone(), first);
                let mut slow = channel.blocking_subscribe_from("slow", Start::Newest).unwrap();
                let mut fast = channel.blocking_subscribe_from("fast", Start::Newest).unwrap();
                let mut rng = Rng::new(first);
                let (mut sent, mut done) = (0, 0);
                let mut held: Option<Lease> = None;
                let mut last = Offset::from_u64(0);
                while channel.stats().end_offset.page() < first + 8 * pages {
                    // Many small messages in one lap and few large ones in the next leave old words behind.
                    let small = (channel.stats().end_offset.page() / pages).is_multiple_of(2);
                    let len = 8 + rng.below(if small { 100 } else { 9000 }) as usize;
                    match channel.sender().try_send(body(sent, len)) {
                        Ok(offset) => {
                            assert!(offset > last, "{offset} after {last}");
                            last = offset;
                            let m = fast.try_recv().unwrap();
                            assert_eq!((number(&m), m.offset(), m.attempts()), (sent, offset, 1));
                            sent += 1;
                        }
                        Err(error) => {
                            assert!(error.is_full(), "first page {first}: {error}");
                            if let Some(lease) = held.take() {
                                lease.ack().unwrap();
                            }
                            // The slow group gives back one message and takes it again with all that wait.
                            if done < sent {
                                let lease = slow.try_lease().unwrap();
                                assert_eq!(number(&lease), done);
                                lease.give_back().unwrap();
                            }
                            while done < sent {
                                let m = slow.try_recv().unwrap();
                                assert_eq!(number(&m), done);
                                done += 1;
                            }
                            assert_eq!(slow.try_recv().unwrap_err(), TryRecvError::Empty);
                            if rng.one_in(3) {
                                drop((slow, fast, channel));
                                channel = options.clone().blocking_open(dir.file()).unwrap();
                                slow = channel.blocking_subscribe("slow").unwrap();
                                fast = channel.blocking_subscribe("fast").unwrap();
                            }
                        }
                    }
                    if rng.one_in(20)
                        && let Some(lease) = held.take()
                    {
                        lease.ack().unwrap();
                    }
                    if rng.one_in(40) && held.is_none() && channel.sender().try_send(body(sent, 8)).is_ok() {
                        held = Some(fast.try_lease().unwrap());
                        assert_eq!(number(held.as_ref().unwrap()), sent);
                        sent += 1;
                    }
                }
                held.map_or(Ok(()), Lease::ack).unwrap();
                assert_eq!(drain_numbers(&mut slow), (done..sent).collect::<Vec<_>>());
            }
        }
    });
}

#[test]
fn losses_are_exact_over_the_wrap() {
    within(120, || {
        for pages in [2, 3] {
            for first in first_pages(pages) {
                let dir = Dir::in_memory();
                let options = small().max_pages(pages as usize).overflow(Overflow::DropOldest);
                let channel = start_at(&dir, options, first);
                let mut rx = channel.blocking_subscribe_from("g", Start::Newest).unwrap();
                let mut asleep = channel.blocking_subscribe_from("asleep", Start::Newest).unwrap();
                let mut rng = Rng::new(first);
                let (mut sent, mut next) = (0, 0);
                let mut old: Option<Lease> = None;
                while channel.stats().end_offset.page() < first + 8 * pages {
                    for _ in 0..rng.below(30) {
                        channel.sender().try_send(body(sent, 8 + rng.below(5000) as usize)).unwrap();
                        sent += 1;
                    }
                    for _ in 0..rng.below(30) {
                        match rx.try_lease() {
                            Ok(lease) if lease.attempts() > 1 => lease.ack().unwrap(),
                            Ok(lease) => {
                                assert_eq!(number(&lease), next, "first page {first}");
                                next += 1;
                                if rng.one_in(9) && old.is_none() {
                                    old = Some(lease);
                                } else {
                                    lease.ack().unwrap();
                                }
                            }
                            Err(TryRecvError::Lagged(n)) => next += n,
                            Err(TryRecvError::Empty) => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    if let Some(lease) = old.take_if(|_| rng.one_in(5)) {
                        assert!(matches!(lease.give_back(), Ok(()) | Err(AckError::Gone)));
                    }
                }
                old.map_or(Ok(()), Lease::ack).unwrap();
                let in_ring = channel.len();
                assert_eq!(asleep.try_recv().unwrap_err(), TryRecvError::Lagged(sent - in_ring), "first page {first}");
                assert_eq!(drain_numbers(&mut asleep), (sent - in_ring..sent).collect::<Vec<_>>());
                let lag = channel.groups().into_iter().find(|g| g.name.as_str() == "g").unwrap().lag;
                loop {
                    match rx.try_recv() {
                        Ok(m) if m.attempts() > 1 => {}
                        Ok(m) => {
                            assert_eq!(number(&m), next);
                            next += 1;
                        }
                        Err(TryRecvError::Lagged(n)) => next += n,
                        Err(TryRecvError::Empty) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                assert_eq!(next, sent, "first page {first}; the lag was {lag}");
            }
        }
    });
}

/// The cursor word keeps at least 8 bits of the lap: round them more than twice, from the start.
#[test]
fn six_hundred_laps() {
    within(60, || {
        for overflow in [Overflow::Block, Overflow::DropOldest] {
            let dir = Dir::in_memory();
            let channel = small().overflow(overflow).blocking_open(dir.file()).unwrap();
            let len = channel.max_message_len() * 2 / 3;
            let tx = channel.sender();
            let mut rx = channel.blocking_subscribe("g").unwrap();
            for n in 0..1200 {
                tx.try_send(body(n, len)).unwrap();
                assert_eq!(number(&rx.try_recv().unwrap()), n);
            }
            assert!(channel.stats().page_turns >= 1190, "{}", channel.stats().page_turns);
        }
    });
}

#[test]
fn a_group_that_lags_by_hundreds_of_laps_is_told_the_exact_number() {
    within(60, || {
        for first in [0, 2 * ((1 << 24) - 200), 2 * ((1 << 32) - 200)] {
            let dir = Dir::in_memory();
            let channel = small().overflow(Overflow::DropOldest).first_page(first).blocking_open(dir.file()).unwrap();
            let mut rx = channel.blocking_subscribe("g").unwrap();
            let tx = channel.sender();
            tx.try_send(body(0, 100)).unwrap();
            let lease = rx.try_lease().unwrap();
            let mut sent = 1;
            while channel.stats().end_offset.page() < first + 2 * 600 {
                tx.try_send(body(sent, 20_000)).unwrap();
                sent += 1;
            }
            let in_ring = channel.len();
            assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Lagged(sent - in_ring - 1));
            assert_eq!(lease.give_back(), Err(AckError::Gone));
            assert_eq!(drain_numbers(&mut rx), (sent - in_ring..sent).collect::<Vec<_>>());
        }
    });
}

/// Groups come and go over the wrap; what an earlier one or an earlier lap left is never taken for new.
#[test]
fn groups_are_made_and_removed_over_the_wrap() {
    within(60, || {
        for first in first_pages(2) {
            let dir = Dir::in_memory();
            let channel = start_at(&dir, small().max_groups(2), first);
            let mut pacer = channel.blocking_subscribe_from("pacer", Start::Newest).unwrap();
            let mut sent = 0;
            for round in 0..40 {
                let mut rx = channel.blocking_subscribe_from("g", Start::Newest).unwrap();
                let count = fill(&channel, sent, if round % 2 == 0 { 900 } else { 12_000 });
                for n in sent..sent + count / 2 {
                    assert_eq!(number(&rx.try_recv().unwrap()), n, "first page {first}, round {round}");
                }
                channel.remove_group("g", false).unwrap();
                let mut all = channel.blocking_subscribe_from("g", Start::Oldest).unwrap();
                let got = drain_numbers(&mut all);
                let expected: Vec<_> = (sent..sent + count).collect();
                assert_eq!(got[got.len() - count as usize..], expected, "first page {first}, round {round}");
                channel.remove_group("g", false).unwrap();
                assert_eq!(drain_numbers(&mut pacer), expected);
                sent += count;
            }
        }
    });
}

/// Offsets have 44 bits for the page; a channel that comes to their end says so, and does not start again at 0.
#[test]
fn the_last_page_numbers_are_never_passed() {
    within(60, || {
        let last = (1_u64 << 44) - 1;
        for before in [8, 1 << 10, 1 << 28] {
            let dir = Dir::in_memory();
            let Ok(channel) = small().first_page(last - before).blocking_open(dir.file()) else {
                continue; // Refused: as good.
            };
            let tx = channel.sender();
            let mut rx = channel.blocking_subscribe("g").unwrap();
            let mut end = Offset::from_u64(0);
            let len = channel.max_message_len() * 2 / 3;
            for n in 0..40 {
                match tx.try_send(body(n, len)) {
                    Ok(offset) => {
                        assert!(offset > end && offset.page() <= last, "{offset} after {end}");
                        end = offset;
                        assert_eq!(number(&rx.try_recv().unwrap()), n);
                    }
                    Err(error) => {
                        assert!(before < 40, "{before} pages are left: {error}");
                        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
                        break;
                    }
                }
            }
        }
    });
}

/// Page numbers that are not known to be on disk are not used: the limit is raised off the send path, and sends that
/// came to it go on. A file is patched to stand right below its limit, as 2^27 turns of a page take too long.
#[test]
fn the_limit_of_page_numbers_is_raised() {
    use std::os::unix::fs::FileExt;
    // Words: 17 of the header is the limit, 511 its checksum; the live limit is line 4 of block 2.
    const LIMIT: usize = 17;
    const CHECKSUM: usize = 511;
    const LIVE_LIMIT: u64 = 2 * 4096 + 4 * 128;
    let patch = |dir: &Dir, limit: u64| {
        let file = std::fs::File::options().read(true).write(true).open(dir.file()).unwrap();
        for copy in 0..2 {
            let mut block = [0; 4096];
            file.read_exact_at(&mut block, copy * 4096).unwrap();
            assert_eq!(block[LIMIT * 8..][..8], (1_u64 << 28).to_le_bytes(), "the limit of a new channel");
            block[LIMIT * 8..][..8].copy_from_slice(&limit.to_le_bytes());
            let check = xxhash_rust::xxh3::xxh3_64(&block[..CHECKSUM * 8]);
            block[CHECKSUM * 8..].copy_from_slice(&check.to_le_bytes());
            file.write_all_at(&block, copy * 4096).unwrap();
        }
        file.write_all_at(&limit.to_le_bytes(), LIVE_LIMIT).unwrap();
    };
    within(60, move || {
        let dir = Dir::new();
        drop(small().overflow(Overflow::DropOldest).blocking_open(dir.file()).unwrap());
        patch(&dir, 1);
        let channel = Options::new().blocking_open(dir.file()).unwrap();
        let tx = channel.sender();
        // Page 1 is beyond the limit, so the first page is all there is until the limit is raised.
        while channel.stats().end_offset.page() < 6 {
            tx.blocking_send([7; 9000]).unwrap();
        }
        drop((tx, channel));
        let mut limit = [0; 8];
        let file = std::fs::File::open(dir.file()).unwrap();
        file.read_exact_at(&mut limit, LIMIT as u64 * 8).unwrap();
        assert!(u64::from_le_bytes(limit) >= 1 << 28, "the raised limit is in the header: {limit:?}");
    });
}
