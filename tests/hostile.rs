//! Files that no user of a channel has left: whatever their words say, nothing panics, nothing hangs, and no
//! message comes that was not sent, or changes while it is read. What a fuzzer found, and what it could not.

mod common;

use common::{Dir, PAGE, body, drain_numbers, number, within};
use disk_chan::{Channel, Options, Overflow, Start, TryRecvError};
use std::fs::File;
use std::os::unix::fs::FileExt;
use xxhash_rust::xxh3::xxh3_64;

const OPENS: usize = 2;
const OP_CELLS: usize = 4;
const GROUPS: usize = 2;
const HELD: usize = 4;
const LEN: usize = 700;

/// Words of a line, a block, and a copy of a group's entry.
const LINE: usize = 16;
const BLOCK: usize = 512;
const ENTRY: usize = 64;

const HEAD: usize = 2 * BLOCK;
const OPEN: usize = 3 * BLOCK;
const OP_CELL: usize = OPEN + OPENS * LINE;
const GROUP: usize = OP_CELL + OP_CELLS * LINE;
const CLAIM_CELL: usize = (GROUP + GROUPS * 2 * LINE).next_multiple_of(BLOCK) + GROUPS * 2 * ENTRY;
const WAKE: usize = (CLAIM_CELL + GROUPS * HELD * LINE).next_multiple_of(BLOCK);
const PAGES: usize = WAKE + BLOCK;
const PAGE_WORDS: usize = PAGE / 8;
const SLOTS: usize =
    (PAGE_WORDS - 4 * LINE - GROUPS * 2 * LINE - LINE) * 32 / (32 * (4 + LEN.div_ceil(8) + 1) + GROUPS);
const GROUP_WORDS: usize = LINE + SLOTS.div_ceil(32).next_multiple_of(LINE);
const SLOT: usize = 4 * LINE + GROUPS * GROUP_WORDS;
const RECORDS: usize = SLOT + SLOTS.next_multiple_of(LINE);

const RETURNED: u64 = 5;

fn options() -> Options {
    Options::new()
        .page_size(PAGE)
        .max_pages(2)
        .typical_message_len(LEN)
        .max_groups(GROUPS)
        .max_opens(OPENS)
        .max_op_cells(OP_CELLS)
        .max_held(HELD)
}

/// A file whose last user was killed, so that nothing says what its words were; they can be changed.
struct Found {
    dir: Dir,
    bytes: Vec<u8>,
}

impl Found {
    /// With one group "a", which has had none of these messages.
    fn new(options: Options, messages: u64) -> Self {
        let dir = Dir::in_memory();
        let channel = options.blocking_open(dir.file()).unwrap();
        channel.blocking_subscribe("a").unwrap();
        common::send(&channel.sender(), 0..messages, LEN);
        Self::killed(dir, channel)
    }

    fn killed(dir: Dir, channel: Channel) -> Self {
        let bytes = std::fs::read(dir.file()).unwrap();
        drop(channel);
        let found = Self { dir, bytes };
        assert_eq!(found.word(PAGES), 0, "the number of the first page");
        found
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at * 8..][..8].try_into().unwrap())
    }

    fn set(&mut self, at: usize, word: u64) {
        self.bytes[at * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }

    /// Writes a record that verifies, and its slot.
    fn forge(&mut self, page: u64, index: usize, at: usize, message: &[u8]) {
        let place = PAGES + page as usize % 2 * PAGE_WORDS;
        let hash = |words: &[u64]| xxh3_64(&words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>());
        let head = [message.len() as u64, page << 20 | index as u64, 1];
        let check = hash(&[self.word(4), self.word(5), head[0], head[1], head[2], xxh3_64(message)]);
        let record = place + RECORDS + at;
        [head[0], head[1], head[2], check].into_iter().enumerate().for_each(|(i, word)| self.set(record + i, word));
        self.bytes[(record + 4) * 8..][..message.len()].copy_from_slice(message);
        self.set(place + SLOT + index, (page / 2) << 32 | 1 << 29 | at as u64);
    }

    /// Opens it as it is now.
    fn open(self) -> (Dir, Channel) {
        let file = File::options().write(true).open(self.dir.file()).unwrap();
        file.write_all_at(&self.bytes, 0).unwrap();
        let looking = Options::new().read_only(true).blocking_open(self.dir.file()).unwrap();
        std::hint::black_box((looking.stats(), looking.groups()));
        let channel = Options::new().blocking_open(self.dir.file()).unwrap();
        (self.dir, channel)
    }

    /// Opens it, and uses it until the ring went round.
    fn open_and_use(self) {
        within(60, move || {
            let (_dir, channel) = self.open();
            use_it(&channel);
        });
    }
}

fn use_it(channel: &Channel) {
    let turns = channel.stats().page_turns;
    let mut rxs = ["a", "new"].map(|name| channel.blocking_subscribe(name).unwrap());
    for n in 0..10_000 {
        rxs.iter_mut().for_each(|rx| drop(drain_numbers(rx)));
        channel.sender().try_send(body(n, LEN)).unwrap();
        if channel.stats().page_turns > turns + 6 {
            break;
        }
    }
    assert!(channel.stats().page_turns > turns + 6, "it goes on");
    channel.close();
    std::hint::black_box((channel.stats(), channel.groups()));
}

#[test]
fn the_layout_is_as_this_test_thinks() {
    let found = Found::new(options(), 3);
    assert_eq!(found.bytes.len(), (PAGES + 2 * PAGE_WORDS) * 8);
    assert_eq!(found.word(PAGES + SLOT + 2) >> 29, 1, "committed");
    assert_eq!(found.word(PAGES + RECORDS), LEN as u64);
    found.open_and_use();
}

#[test]
fn numbers_as_large_as_can_be() {
    // Each alone: head, tail, sleepers, page limit, opens and op cells used, era, durable end, and all of a group.
    let channel = (HEAD..HEAD + 6 * LINE).filter(|at| at % LINE < 5);
    for at in channel.chain(OPEN..OPEN + 4).chain(GROUP..GROUP + 2 * LINE).chain(CLAIM_CELL..CLAIM_CELL + 6) {
        for word in [u64::MAX, 1 << 63, u64::MAX >> 1, u64::MAX >> 20, u64::MAX << 20, 1 << 44, u64::MAX << 8 | 1] {
            let mut found = Found::new(options(), 3);
            found.set(at, word);
            within(60, move || {
                let (_dir, channel) = found.open();
                let mut rx = channel.blocking_subscribe("a").unwrap();
                drain_numbers(&mut rx);
                let _ = channel.sender().try_send(body(9, LEN));
                drain_numbers(&mut rx);
                let _ = channel.blocking_subscribe_from("new", Start::Newest);
                std::hint::black_box((channel.stats(), channel.groups(), channel.durable_offset()));
                channel.close();
            });
        }
    }
}

#[test]
fn the_number_of_the_header_is_the_largest() {
    let mut found = Found::new(options(), 3);
    for copy in [0, BLOCK] {
        found.set(copy + 3, u64::MAX);
        let check = xxh3_64(&found.bytes[copy * 8..(copy + BLOCK - 1) * 8]);
        found.set(copy + BLOCK - 1, check);
    }
    found.open_and_use();
}

#[test]
fn a_group_starts_or_stands_where_nothing_is() {
    for (at, word) in [(GROUP + 1, 77 << 20), (GROUP + 1, 1 << 20 | 1), (GROUP + 2, 1 << 44 | 77)] {
        let mut found = Found::new(options(), 3);
        found.set(at, word);
        found.open_and_use();
    }
    let tag = 2 << 32;
    for word in [tag | 1 << 31, tag | 1 << 31 | 3, tag | 77, tag | 0xf_ffff, tag | 2047 << 20 | 2] {
        for overflow in [Overflow::Block, Overflow::DropOldest] {
            let mut found = Found::new(options().overflow(overflow), 3);
            found.set(PAGES + 4 * LINE, word);
            within(60, move || {
                let (_dir, channel) = found.open();
                let mut rx = channel.blocking_subscribe("a").unwrap();
                for n in 10..300 {
                    while !matches!(rx.try_recv(), Err(TryRecvError::Empty)) {}
                    let _ = channel.sender().try_send(body(n, LEN));
                }
            });
        }
    }
}

/// Words of a group that is still to come, and of laps that are.
#[test]
fn words_of_what_is_to_come() {
    for generation in 2..=4 {
        for lap in 0..3 {
            let mut found = Found::new(options(), 3);
            for place in [PAGES, PAGES + PAGE_WORDS] {
                for group in 0..GROUPS {
                    let at = place + 4 * LINE + group * GROUP_WORDS;
                    found.set(at, (lap << 8 | generation) << 32 | 1 << 31);
                    found.set(at + LINE, (lap << 8 | generation) << 32 | u64::from(u32::MAX));
                }
            }
            within(60, move || {
                let (_dir, channel) = found.open();
                channel.remove_group("a", true).unwrap();
                let mut rxs = ["a", "b"].map(|name| channel.blocking_subscribe(name).unwrap());
                for n in 10..500 {
                    channel.sender().try_send(body(n, LEN)).unwrap();
                    for rx in &mut rxs {
                        let got = drain_numbers(rx);
                        assert_eq!(got.last(), Some(&n), "it comes, whatever was said before it was sent");
                    }
                }
            });
        }
    }
}

#[test]
fn a_message_that_nobody_has_sent_yet() {
    for (page, index) in [(0, 3), (0, SLOTS - 1), (1, 0), (2, 0), (2, 1), (3, 0)] {
        let mut found = Found::new(options(), 3);
        found.forge(page, index, (PAGE_WORDS - RECORDS) - 100, b"never sent");
        within(60, move || {
            let (_dir, channel) = found.open();
            use_it(&channel); // it checks every message
        });
    }
}

/// A record that reaches into words which are still free is not read where it lies.
#[test]
fn a_message_among_what_is_still_to_be_written() {
    let mut found = Found::new(options(), 3);
    let free = 3 * (4 + LEN.div_ceil(8));
    found.forge(0, 1, free, &body(1, 2000));
    let (_dir, channel) = found.open();
    let mut rx = channel.blocking_subscribe("a").unwrap();
    assert_eq!(drain_numbers(&mut rx), [0, 2]);
}

/// Messages that were given back: in two cells, of no page, done already, never handed out.
#[test]
fn what_is_given_back_has_been_handed_out_once() {
    let dir = Dir::in_memory();
    let channel = options().blocking_open(dir.file()).unwrap();
    common::send(&channel.sender(), 0..6, LEN);
    let mut rx = channel.blocking_subscribe("a").unwrap();
    let (first, second) = (rx.try_lease().unwrap(), rx.try_lease().unwrap());
    assert_eq!(number(&rx.try_recv().unwrap()), 2);
    drop((first, second, rx));
    let mut found = Found::killed(dir, channel);
    let cells: Vec<usize> = (0..HELD).map(|cell| CLAIM_CELL + cell * LINE).collect();
    let free: Vec<usize> = cells.iter().copied().filter(|&at| found.word(at) & 7 != RETURNED).collect();
    assert_eq!(free.len(), 2);
    for (index, expected) in [
        (0, vec![0, 1, 3, 4, 5]),
        (2, vec![0, 1, 3, 4, 5]),
        (4, vec![0, 1, 3, 4, 5]),
        (SLOTS as u64 - 1, vec![0, 1, 3, 4, 5]),
        ((1 << 20) - 1, vec![0, 1, 3, 4, 5]),
        (2 << 20, vec![0, 1, 3, 4, 5]),
        (u64::MAX, vec![0, 1, 3, 4, 5]),
    ] {
        let bytes = found.bytes.clone();
        for &at in &free {
            found.set(at, 9 << 32 | 3 << 20 | RETURNED);
            found.set(at + 1, index);
        }
        found.set(GROUP + 5, HELD as u64);
        let (dir, channel) = found.open();
        let mut rx = channel.blocking_subscribe("a").unwrap();
        assert_eq!(drain_numbers(&mut rx), expected, "{index:#x}");
        use_it(&channel);
        drop((rx, channel));
        found = Found { dir, bytes };
    }
}

/// The same where messages become dead letters.
#[test]
fn a_dead_letter_of_nothing() {
    for offset in [7, SLOTS as u64, (1 << 20) - 1, 5 << 20, u64::MAX] {
        let mut found = Found::new(options().max_attempts(2), 3);
        found.set(CLAIM_CELL, 1 << 32 | 2 << 20 | RETURNED);
        found.set(CLAIM_CELL + 1, offset);
        found.set(GROUP + 5, 1);
        found.open_and_use();
    }
}

/// Claim cells, op cells and opens of somebody who never was.
#[test]
fn what_nobody_holds_is_free() {
    let mut found = Found::new(options(), 3);
    for cell in 0..OP_CELLS {
        found.set(OP_CELL + cell * LINE, (cell as u64 + 1) | 0xfff << 19);
        found.set(OP_CELL + cell * LINE + 1, u64::MAX);
    }
    for (cell, state) in [1, 2, 3, 4].into_iter().enumerate() {
        found.set(CLAIM_CELL + cell * LINE, u64::from(u32::MAX) << 32 | 0xffff << 4 | state);
        found.set(CLAIM_CELL + cell * LINE + 1, u64::MAX);
        for counter in 3..6 {
            found.set(CLAIM_CELL + cell * LINE + counter, u64::MAX);
        }
    }
    for open in 0..OPENS {
        (0..4).for_each(|word| found.set(OPEN + open * LINE + word, u64::MAX));
    }
    found.open_and_use();
}

/// The ring is full, and the page that is to come up lies at another place, or has the tags of those that lie there.
#[test]
fn an_era_that_does_not_follow() {
    const ERA: usize = HEAD + 4 * LINE + 3;
    let messages =
        |channel: &Channel| (0..10_000).take_while(|&n| channel.sender().try_send(body(n, LEN)).is_ok()).count();
    for era in [3, 4, 1 << 25, 1 << 26, (1 << 26) + 2, (1 << 27) + 1, 1 << 33, (1 << 33) + 2] {
        let dir = Dir::in_memory();
        let channel = options().blocking_open(dir.file()).unwrap();
        channel.blocking_subscribe("a").unwrap();
        assert!(messages(&channel) > 10);
        let mut found = Found::killed(dir, channel);
        found.set(ERA, era);
        found.open_and_use();
    }
}
