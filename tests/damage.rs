//! One bit that flipped, anywhere in a closed channel, costs at most the message that it hit.

mod common;

use common::{Dir, body, drain_numbers, number};
use disk_chan::{Cause, Channel, OpenError, Options, TryRecvError};
use std::fs::File;
use std::os::unix::fs::FileExt;

const LEN: usize = 700;

/// Tiny, and in its third lap.
fn options() -> Options {
    Options::new()
        .page_size(64 << 10)
        .max_pages(2)
        .typical_message_len(LEN)
        .max_groups(2)
        .max_opens(1)
        .max_op_cells(1)
        .max_held(3)
}

/// A channel left in order: two groups at different places, one with messages done out of order and one
/// given back; a page that is full and one that is not. Returns what each group has left.
fn make(dir: &Dir) -> [Vec<u64>; 2] {
    let channel = options().blocking_open(dir.file()).unwrap();
    let (mut a, mut b) = (channel.blocking_subscribe("a").unwrap(), channel.blocking_subscribe("b").unwrap());
    let tx = channel.sender();
    let mut sent = 0;
    while channel.stats().page_turns < 4 {
        tx.try_send(body(sent, LEN)).unwrap();
        assert_eq!((number(&a.try_recv().unwrap()), number(&b.try_recv().unwrap())), (sent, sent));
        sent += 1;
    }
    let first = sent;
    while channel.stats().page_turns < 5 {
        tx.try_send(body(sent, LEN)).unwrap();
        sent += 1;
    }
    tx.blocking_send_many(&[body(sent, LEN), body(sent + 1, LEN), body(sent + 2, LEN)]).unwrap();
    sent += 3;
    let leases: Vec<_> = (0..3).map(|_| a.try_lease().unwrap()).collect();
    let [one, two, three] = leases.try_into().unwrap();
    one.ack().unwrap();
    drop(two);
    three.ack().unwrap();
    assert_eq!(number(&b.try_recv().unwrap()), first);
    let left = |done: &[u64]| (first..sent).filter(|n| !done.contains(&(n - first))).collect();
    [left(&[0, 2]), left(&[0])]
}

/// The messages of a group that come, whatever else is said meanwhile.
fn drain(channel: &Channel, group: &str, what: &str) -> Vec<u64> {
    let mut rx = channel.blocking_subscribe(group).unwrap();
    let mut got = drain_numbers(&mut rx);
    let end = rx.try_recv().map(drop);
    assert!(matches!(end, Err(TryRecvError::Empty)), "{what}: {end:?}");
    got.sort_unstable();
    got
}

#[derive(Default)]
struct Tried {
    flips: usize,
    recovered: usize,
    lost: usize,
}

/// Flips one bit after the other: of the bytes that are `chosen`, one or all.
fn flip(chosen: impl Fn(usize) -> bool, all: bool) -> Tried {
    let dir = Dir::in_memory();
    let left = make(&dir);
    let whole = std::fs::read(dir.file()).unwrap();
    let file = File::options().write(true).open(dir.file()).unwrap();
    let mut tried = Tried::default();
    for at in (0..whole.len()).filter(|&at| chosen(at)) {
        for bit in (0..8).filter(|&bit| all || bit == (at / 8 + at) % 8) {
            file.write_all_at(&whole, 0).unwrap();
            file.write_all_at(&[whole[at] ^ 1 << bit], at as u64).unwrap();
            look(&dir, &left, &mut tried, &format!("byte {at}, bit {bit}"));
        }
    }
    tried
}

fn look(dir: &Dir, left: &[Vec<u64>; 2], tried: &mut Tried, what: &str) {
    tried.flips += 1;
    let channel = Options::new().blocking_open(dir.file());
    let channel = channel.unwrap_or_else(|error| panic!("{what}: {error}"));
    if let Some(report) = channel.recovered() {
        // A bit of the word that says that a sync failed says just that.
        assert!(matches!(report.cause, Cause::Damaged | Cause::Poisoned), "{what}");
        tried.recovered += 1;
    }
    let mut missing = Vec::new();
    for (name, left) in ["a", "b"].into_iter().zip(left) {
        let got = drain(&channel, name, what);
        assert!(got.windows(2).all(|two| two[0] < two[1]), "{what}: {name} got one twice: {got:?}");
        missing.extend(left.iter().copied().filter(|n| !got.contains(n)));
    }
    missing.sort_unstable();
    missing.dedup();
    assert!(missing.len() <= 1, "{what}: {missing:?} are missing");
    tried.lost += missing.len();
    // And it goes on, now and then round the ring.
    let (mut a, mut b) = (channel.blocking_subscribe("a").unwrap(), channel.blocking_subscribe("b").unwrap());
    let tx = channel.sender();
    let until = channel.stats().page_turns + if tried.flips.is_multiple_of(64) { 6 } else { 0 };
    for n in 1_000_000.. {
        tx.try_send(body(n, LEN)).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((number(&a.try_recv().unwrap()), number(&b.try_recv().unwrap())), (n, n), "{what}");
        if channel.stats().page_turns >= until {
            break;
        }
    }
}

/// One bit of each word; with `DISK_CHAN_EVERY_BIT=byte` one of each byte, with `DISK_CHAN_EVERY_BIT=bit` all of them.
#[test]
fn one_flipped_bit_costs_at_most_the_message_that_it_hit() {
    let every = std::env::var("DISK_CHAN_EVERY_BIT").unwrap_or_default();
    let (bytes, bits) = (every == "byte" || every == "bit", every == "bit");
    let chosen = move |half: usize, at: usize| at / 8 % 2 == half && (bytes || at / 16 % 8 == at % 8);
    let halves = [0, 1].map(|half| std::thread::spawn(move || flip(|at| chosen(half, at), bits)));
    for half in halves {
        let Tried { flips, recovered, lost } = half.join().unwrap();
        println!("{flips} bits flipped: {recovered} recovered, {lost} messages lost");
        assert!(recovered > 0 && lost > 0 && lost < flips);
    }
}

/// The first block overwritten, with whatever: the second has a copy of it. Both: an error that says so.
#[test]
fn the_header_overwritten() {
    let dir = Dir::in_memory();
    let left = make(&dir);
    let whole = std::fs::read(dir.file()).unwrap();
    let file = File::options().write(true).open(dir.file()).unwrap();
    for bytes in [[0; 4096], [0xff; 4096], std::array::from_fn(|i| (i * 7) as u8)] {
        for block in 0..2 {
            file.write_all_at(&whole, 0).unwrap();
            file.write_all_at(&bytes, block * 4096).unwrap();
            look(&dir, &left, &mut Tried { flips: 63, ..Tried::default() }, "a header overwritten");
        }
        file.write_all_at(&whole, 0).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file.write_all_at(&bytes, 4096).unwrap();
        let error = Options::new().blocking_open(dir.file()).unwrap_err();
        assert!(matches!(error, OpenError::NotAChannel { .. }), "{error}");
    }
}
