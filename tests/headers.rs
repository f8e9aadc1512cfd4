//! Headers: they go with a message wherever it goes, are damaged with it, and nobody else notices.

mod common;

use common::{Dir, PATIENCE, Rng, body, number, open_new, seed, send, small, within};
use disk_chan::{
    Cause, Channel, DeadLetter, HeaderError, Headers, HeadersRef, Lease, Message, Offset, Options, Overflow,
    OwnedMessage, Receiver, SendError, Sender, TryRecvError, TrySendError, WithHeaders,
};
use futures::StreamExt;
use futures::executor::block_on;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// A message and its headers, as they were received.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Got {
    key: Option<Vec<u8>>,
    pairs: Vec<(String, Vec<u8>)>,
    message: Vec<u8>,
}

impl Got {
    fn new(headers: HeadersRef<'_>, message: &[u8]) -> Self {
        let pairs: Vec<_> = headers.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
        for (name, _) in &pairs {
            let first = pairs.iter().find(|(of, _)| of == name).unwrap();
            assert_eq!(headers.get(name), Some(&first.1[..]));
        }
        assert_eq!(headers.is_empty(), headers.key().is_none() && pairs.is_empty());
        Self { key: headers.key().map(<[u8]>::to_vec), pairs, message: message.to_vec() }
    }

    fn message(m: Message<'_>) -> Self {
        assert_eq!(m.key(), m.headers().key());
        Self::new(m.headers(), &m)
    }

    fn owned(m: OwnedMessage) -> Self {
        let got = Self::new(m.headers(), &m);
        assert_eq!((m.key(), m.as_ref()), (got.key.as_deref(), &got.message[..]));
        assert_eq!(m.into_vec(), got.message);
        got
    }

    fn lease(m: Lease) -> Self {
        assert_eq!(m.key(), m.headers().key());
        let got = Self::new(m.headers(), &m);
        m.ack().unwrap();
        got
    }

    fn sent(sent: &WithHeaders) -> Self {
        Self::new(sent.headers(), sent.message())
    }

    fn plain(message: &[u8]) -> Self {
        Self { key: None, pairs: Vec::new(), message: message.to_vec() }
    }
}

/// Everything there is.
fn all(rx: &mut Receiver) -> Vec<Got> {
    std::iter::from_fn(|| match rx.try_recv() {
        Ok(m) => Some(Got::message(m)),
        Err(TryRecvError::Empty) => None,
        Err(error) => panic!("{error}"),
    })
    .collect()
}

fn headers() -> Headers {
    Headers::new().key("customer 7").with("trace", [0xff; 16]).with("type", "order").with("type", "").with("v", "2")
}

/// The same message, by every send. Nine of them.
macro_rules! every_send {
    ($tx:expr, $message:expr) => {{
        let (tx, message): (&Sender, _) = ($tx, $message);
        block_on(tx.send(message)).unwrap();
        tx.blocking_send(message).unwrap();
        tx.try_send(message).unwrap();
        tx.send_timeout(message, PATIENCE).unwrap();
        block_on(tx.send_durable(message)).unwrap();
        tx.blocking_send_durable(message).unwrap();
        assert_eq!(block_on(tx.send_many(&[message, message])).unwrap().len(), 2);
        assert_eq!(tx.blocking_send_many(&[message]).unwrap().len(), 1);
    }};
}

/// A way to receive so many messages.
type Way = (&'static str, fn(&mut Receiver, usize) -> Vec<Got>);

fn each(count: usize, mut receive: impl FnMut() -> Got) -> Vec<Got> {
    (0..count).map(|_| receive()).collect()
}

/// As many at once as there are.
fn lots(count: usize, mut receive: impl FnMut() -> Vec<Got>) -> Vec<Got> {
    let mut got = Vec::new();
    while got.len() < count {
        got.extend(receive());
    }
    got
}

const WAYS: [Way; 16] = [
    ("recv", |rx, n| each(n, || Got::message(block_on(rx.recv()).unwrap()))),
    ("blocking_recv", |rx, n| each(n, || Got::message(rx.blocking_recv().unwrap()))),
    ("try_recv", |rx, n| each(n, || Got::message(rx.try_recv().unwrap()))),
    ("recv_timeout", |rx, n| each(n, || Got::message(rx.recv_timeout(PATIENCE).unwrap()))),
    ("recv_deadline", |rx, n| each(n, || Got::message(rx.recv_deadline(Instant::now() + PATIENCE).unwrap()))),
    ("recv_many", |rx, n| lots(n, || block_on(rx.recv_many(20)).unwrap().into_iter().map(Got::message).collect())),
    ("blocking_recv_many", |rx, n| {
        lots(n, || rx.blocking_recv_many(20).unwrap().into_iter().map(Got::message).collect())
    }),
    ("try_iter", |rx, n| rx.try_iter().take(n).map(Got::owned).collect()),
    ("iter", |rx, n| rx.iter().take(n).map(Got::owned).collect()),
    ("stream", |rx, n| block_on(rx.stream().take(n).map(Got::owned).collect())),
    ("lease", |rx, n| each(n, || Got::lease(block_on(rx.lease()).unwrap()))),
    ("blocking_lease", |rx, n| each(n, || Got::lease(rx.blocking_lease().unwrap()))),
    ("try_lease", |rx, n| each(n, || Got::lease(rx.try_lease().unwrap()))),
    ("lease_for", |rx, n| each(n, || Got::lease(rx.lease_for(PATIENCE).unwrap()))),
    ("lease_deadline", |rx, n| each(n, || Got::lease(rx.lease_deadline(Instant::now() + PATIENCE).unwrap()))),
    ("lease_many", |rx, n| lots(n, || block_on(rx.lease_many(20)).unwrap().into_iter().map(Got::lease).collect())),
];

#[test]
fn headers_go_by_every_send_to_every_receive() {
    within(120, || {
        for overflow in [Overflow::Block, Overflow::DropOldest] {
            // Several messages go out together where there are so many cells.
            let (_dir, channel) = open_new(small().overflow(overflow).max_groups(16).max_held(100));
            let mut rxs = WAYS.map(|(way, _)| channel.blocking_subscribe(way).unwrap());
            let tx = channel.sender();
            let (with, empty) = (headers().message(body(1, 100)).unwrap(), headers().message("").unwrap());
            every_send!(&tx, &with);
            every_send!(&tx, &body(2, 60)[..]);
            every_send!(&tx, &empty);
            let expected = [Got::sent(&with), Got::plain(&body(2, 60)), Got::sent(&empty)];
            let expected: Vec<Got> = expected.into_iter().flat_map(|one| vec![one; 9]).collect();
            for ((way, receive), rx) in WAYS.iter().zip(&mut rxs) {
                assert_eq!(receive(rx, 27), expected, "{way}, {overflow:?}");
                assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty, "{way}, {overflow:?}");
            }
        }
    });
}

#[test]
fn what_was_put_in_comes_out() {
    let (_dir, channel) = open_new(small());
    let mut rx = channel.blocking_subscribe("g").unwrap();
    channel.sender().blocking_send(headers().message("two coffees").unwrap()).unwrap();
    let m = rx.try_recv().unwrap();
    assert_eq!(&*m, b"two coffees");
    let headers = m.headers();
    assert_eq!(headers.key(), Some(&b"customer 7"[..]));
    assert_eq!(headers.get("type"), Some(&b"order"[..]), "the first of that name");
    assert_eq!(headers.get("nothing"), None);
    let names: Vec<&str> = headers.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["trace", "type", "type", "v"]);
    let said = format!("{headers:?}");
    assert!(said.contains(r#"key: Some("customer 7")"#) && said.contains(r#""v": "2""#), "{said}");
}

#[test]
fn a_message_without_headers_has_none() {
    let (_dir, channel) = open_new(small());
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let tx = channel.sender();
    tx.blocking_send("plain").unwrap();
    // Bytes that would be a header block, if the record said so.
    let block = [&[16, 0, 0, 0, 2, 0, b'k'][..], &[0; 9]].concat();
    tx.blocking_send(&block).unwrap();
    let mut reserved = tx.reserve(block.len()).unwrap();
    reserved.copy_from_slice(&block);
    reserved.blocking_commit().unwrap();
    // And headers that are empty.
    let empty = Headers::new().message("x").unwrap();
    tx.blocking_send(&empty).unwrap();
    assert_eq!(all(&mut rx), [Got::plain(b"plain"), Got::plain(&block), Got::plain(&block), Got::plain(b"x")]);
}

/// Where it lies in the file a message begins with a word, with headers or without.
#[test]
fn a_message_begins_with_a_word() {
    let (_dir, channel) = open_new(small());
    let mut rx = channel.blocking_subscribe("g").unwrap();
    for n in 0..40 {
        let headers = Headers::new().key(vec![7; n]);
        channel.sender().blocking_send(headers.message(body(n as u64, 50)).unwrap()).unwrap();
        let m = rx.try_recv().unwrap();
        assert_eq!((m.as_ptr() as usize % 8, number(&m)), (0, n as u64));
    }
}

#[test]
fn what_is_given_back_keeps_its_headers() {
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let (_dir, channel) = open_new(small().overflow(overflow));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let sent = headers().message(body(1, 100)).unwrap();
        channel.sender().blocking_send(&sent).unwrap();
        rx.try_lease().unwrap().give_back().unwrap();
        std::mem::forget(rx.try_recv().unwrap());
        drop(rx.blocking_recv_many(5).unwrap().into_iter().map(std::mem::forget).collect::<Vec<_>>());
        let m = rx.try_lease().unwrap();
        assert_eq!((m.attempts(), Got::lease(m)), (4, Got::sent(&sent)));
    }
}

#[test]
fn headers_are_there_when_the_file_is_opened_again() {
    let dir = Dir::in_memory();
    let channel = small().blocking_open(dir.file()).unwrap();
    drop(channel.blocking_subscribe("g").unwrap());
    let (tx, sent) = (channel.sender(), headers().message(body(1, 100)).unwrap());
    tx.blocking_send("plain").unwrap();
    tx.blocking_send(&sent).unwrap();
    // As after a power loss that took nothing.
    let in_use = dir.join("in use");
    std::fs::copy(dir.file(), &in_use).unwrap();
    drop((tx, channel));
    for (path, cause) in [(dir.file(), None), (in_use, Some(Cause::Unclean))] {
        let channel = Options::new().blocking_open(path).unwrap();
        assert_eq!(channel.recovered().map(|report| report.cause), cause);
        let mut rx = channel.blocking_subscribe("g").unwrap();
        assert_eq!(all(&mut rx), [Got::plain(b"plain"), Got::sent(&sent)]);
    }
}

/// What was received goes on to another channel with the same headers.
#[test]
fn headers_can_be_sent_on() {
    let (_dir, channel) = open_new(small());
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let tx = channel.sender();
    tx.blocking_send(headers().message("first").unwrap()).unwrap();
    let m = rx.try_lease().unwrap();
    assert_eq!(Headers::from(m.headers()), headers());
    let next = Headers::from(m.headers()).key("customer 8").with("hops", "1");
    tx.blocking_send(next.message(&m).unwrap()).unwrap();
    m.ack().unwrap();
    let again = rx.try_recv().unwrap();
    assert_eq!(Headers::from(again.headers()), headers().key("customer 8").with("hops", "1"));
    assert_eq!(&*again, b"first");
}

#[test]
fn what_cannot_be_stored_is_an_error() {
    let (name, value) = ("n".repeat(255), vec![b'v'; 65_534]);
    let (_dir, channel) = open_new(small().page_size(1 << 20));
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let longest = Headers::new().key(&value).with(&name, &value).message("m").unwrap();
    channel.sender().blocking_send(&longest).unwrap();
    let got = Got::message(rx.try_recv().unwrap());
    assert_eq!(got, Got { key: Some(value.clone()), pairs: vec![(name, value)], message: b"m".to_vec() });

    let (name, value, many) = ("n".repeat(256), vec![b'v'; 65_535], vec![b'v'; 1 << 20]);
    let cases = [
        (Headers::new().key(&value), HeaderError::KeyTooLong { len: 65_535, max: 65_534 }),
        (Headers::new().with("", "v"), HeaderError::NoName),
        (Headers::new().with(&name, "v"), HeaderError::NameTooLong { len: 256, max: 255 }),
        (Headers::new().with("a", &value), HeaderError::ValueTooLong { name: "a".into(), len: 65_535, max: 65_534 }),
        (Headers::new().with("a", &many), HeaderError::ValueTooLong { name: "a".into(), len: 1 << 20, max: 65_534 }),
        // The first is what has to be corrected first.
        (Headers::new().with("", "v").with(&name, "v").key("k").with("a", "b"), HeaderError::NoName),
    ];
    for (headers, error) in cases {
        assert_eq!(headers.message("m").unwrap_err(), error);
        assert!(error.to_string().starts_with(|c: char| c.is_lowercase()), "{error}");
        assert!(format!("{headers:?}").contains("TooLong") || error == HeaderError::NoName);
    }
}

/// The headers count, and nothing is reserved for what is too large.
#[test]
fn a_message_is_too_large_with_its_headers() {
    let (_dir, channel) = open_new(small());
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let (tx, max) = (channel.sender(), channel.max_message_len());
    // 6 bytes and the key.
    let headers = Headers::new().key("0123456789");
    let longest = headers.message(body(7, max - 16)).unwrap();
    let offset = tx.blocking_send(&longest).unwrap();
    assert_eq!(Got::message(rx.try_recv().unwrap()), Got::sent(&longest));

    let too_large = headers.message(body(7, max - 15)).unwrap();
    let error = SendError::MessageTooLarge { len: max + 1, max };
    assert_eq!(tx.blocking_send(&too_large).unwrap_err(), error);
    assert_eq!(tx.try_send(&too_large).unwrap_err(), TrySendError::MessageTooLarge { len: max + 1, max });
    assert_eq!(block_on(tx.send(&too_large)).unwrap_err(), error);
    assert_eq!(tx.blocking_send_many(&[&too_large]).unwrap_err().error, error);
    // Without headers it fits, at the very next place.
    let plain = tx.blocking_send(too_large.message()).unwrap();
    assert_eq!(plain, next_of(offset, &channel));
}

/// The offset behind one: the ring has two pages, and each message is as long as a page can take.
fn next_of(offset: Offset, channel: &Channel) -> Offset {
    assert_eq!(channel.stats().page_turns, 1);
    Offset::from_u64((offset.page() + 1) << 20)
}

#[test]
fn a_letter_has_the_headers_of_its_message() {
    let (_dir, channel) = open_new(small().max_attempts(1));
    let mut rx = channel.blocking_subscribe("billing").unwrap();
    let (tx, max) = (channel.sender(), channel.max_message_len());
    let headers = headers();
    let longest = headers.message(body(9, max - 64)).unwrap();
    tx.blocking_send(headers.message(body(7, 100)).unwrap()).unwrap();
    tx.blocking_send(body(8, 100)).unwrap();
    for _ in 0..2 {
        drop(rx.try_lease().unwrap());
    }
    assert!(tx.blocking_send(headers.message(body(9, max - 63)).unwrap()).is_err());
    tx.blocking_send(longest).unwrap();
    drop(rx.try_lease().unwrap());
    let mut dead = channel.blocking_dead_letters().unwrap();
    for (expected, len, has_headers) in [(7, 100, true), (8, 100, false), (9, max - 64, true)] {
        let message = dead.try_recv().unwrap();
        let found = if has_headers { headers.clone() } else { Headers::new() };
        assert_eq!(Headers::from(message.headers()), found);
        let letter = DeadLetter::parse(&message).unwrap();
        assert_eq!((letter.group(), letter.attempts()), ("billing", 1));
        assert_eq!((number(letter.message()), letter.message().len()), (expected, len));
    }
}

const RETURNED: u64 = 5;

/// Who died between the letter and being done with its message leaves a cell with one attempt more than there may
/// be: then the letter is looked for, behind its headers, and not sent again.
#[test]
fn a_letter_with_headers_is_sent_once() {
    within(60, || {
        let dir = Dir::in_memory();
        let channel = small().max_attempts(3).blocking_open(dir.file()).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        send(&tx, 0..5, 64);
        assert_eq!(all(&mut rx).len(), 5);
        let offset = tx.blocking_send(headers().message(body(5, 64)).unwrap()).unwrap();
        for _ in 0..2 {
            drop(rx.try_lease().unwrap());
        }
        let before = words(&std::fs::read(dir.file()).unwrap());
        drop(rx.try_lease().unwrap());
        assert_eq!(channel.blocking_dead_letters().unwrap().try_iter().count(), 1);
        drop((rx, tx, channel));
        let is_cell = |at: &usize| {
            before[*at] & 7 == RETURNED && before[*at] >> 20 & 0xfff == 2 && before[at + 1] == offset.as_u64()
        };
        let cells: Vec<usize> = (0..before.len() - 1).filter(is_cell).collect();
        let [cell] = cells[..] else { panic!("cells at {cells:?}") };
        for (attempts, letters) in [(4, 0), (3, 1)] {
            let mut words = before.clone();
            words[cell] = words[cell] & !(0xfff << 20) | attempts << 20;
            write(&dir, &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
            let channel = Options::new().blocking_open(dir.file()).unwrap();
            assert!(channel.recovered().is_none());
            let mut rx = channel.blocking_subscribe("g").unwrap();
            common::eventually("the message is a letter", || {
                assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
                channel.groups()[0].dead_lettered == 1
            });
            let mut dead = channel.blocking_dead_letters().unwrap();
            assert_eq!(dead.try_iter().count(), letters, "{attempts} attempts");
        }
    });
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect()
}

fn write(dir: &Dir, bytes: &[u8]) {
    File::options().write(true).open(dir.file()).unwrap().write_all_at(bytes, 0).unwrap();
}

const KEY: &[u8] = b"a key that is nowhere else in it";
/// Messages in the file; the one in the middle has headers, in a block of 56 bytes.
const MESSAGES: u64 = 5;
const BLOCK: usize = 56;

/// A channel that was left in order, with its bytes, and where the record with headers begins.
fn with_a_record(overflow: Overflow) -> (Dir, Vec<u8>, usize) {
    let dir = Dir::in_memory();
    let channel = small().max_held(100).overflow(overflow).blocking_open(dir.file()).unwrap();
    drop(channel.blocking_subscribe("g").unwrap());
    let tx = channel.sender();
    for n in 0..MESSAGES {
        match n == MESSAGES / 2 {
            true => tx.blocking_send(Headers::new().key(KEY).with("name", "a value").message(body(n, 64)).unwrap()),
            false => tx.blocking_send(body(n, 64)),
        }
        .unwrap();
    }
    drop((tx, channel));
    let bytes = std::fs::read(dir.file()).unwrap();
    let key = bytes.windows(KEY.len()).position(|at| at == KEY).unwrap();
    // A header of four words, the length of the block, and that of the key.
    let record = key - 6 - 32;
    assert_eq!(words(&bytes[record..])[0], 1 << 32 | (BLOCK + 64) as u64);
    let block = [&[BLOCK as u8, 0, 0, 0, 33, 0][..], KEY, b"\x04name", b"\x07\0a value", &[0; 4]].concat();
    assert_eq!(bytes[record + 32..][..BLOCK], block, "it is as layout.rs says");
    (dir, bytes, record)
}

/// Of these bytes the messages that are there come, and the one with headers does not.
fn expect_damaged(dir: &Dir, bytes: &[u8], receive: Way, what: &str) {
    write(dir, bytes);
    let channel = Options::new().blocking_open(dir.file()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(channel.recovered().is_none(), "{what}");
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let got = (receive.1)(&mut rx, MESSAGES as usize - 1);
    let numbers: Vec<u64> = got.iter().map(|got| number(&got.message)).collect();
    assert_eq!(numbers, [0, 1, 3, 4], "{what}, by {}", receive.0);
    assert!(got.iter().all(|got| got.key.is_none()), "{what}");
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty, "{what}");
    // It is counted when its page is used again.
    while channel.stats().page_turns < 3 {
        channel.sender().try_send(body(7, 20_000)).unwrap();
        assert_eq!(number(&rx.try_recv().unwrap()), 7, "{what}");
    }
    assert_eq!(channel.groups()[0].damaged, 1, "{what}");
}

#[test]
fn a_bit_that_flips_in_the_headers_costs_that_message() {
    let (dir, bytes, record) = with_a_record(Overflow::Block);
    for at in record..record + 32 + BLOCK {
        // All of the length and the flags.
        for bit in (0..8).filter(|bit| at < record + 8 || at % 8 == *bit) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            let what = format!("byte {}, bit {bit} of the record", at - record);
            // A message, one that goes out together with others, a copy of one, a lease.
            expect_damaged(&dir, &bytes, WAYS[[2, 6, 7, 12][at % 4]], &what);
        }
    }
}

/// Makes the checksum of a record right.
fn sign(bytes: &mut [u8], record: usize) {
    let head = words(&bytes[record..record + 24]);
    let len = head[0] as u32 as usize;
    let hash = xxh3_64(&bytes[record + 32..][..len]);
    let checked: Vec<u8> = [&bytes[32..48], &bytes[record..record + 24], &hash.to_le_bytes()].concat();
    let check = xxh3_64(&checked);
    bytes[record + 24..][..8].copy_from_slice(&check.to_le_bytes());
}

/// A record whose checksum is right, and that no sender has written.
#[test]
fn a_block_of_a_length_that_cannot_be_is_no_message() {
    let whole = BLOCK + 64;
    let cases = [
        (1, whole, 0),
        (1, whole, 4),
        (1, whole, BLOCK as u32 + 4),
        (1, whole, whole as u32 + 8),
        (1, whole, u32::MAX - 7),
        (1, 3, BLOCK as u32),
        (1, 0, BLOCK as u32),
        // Flags that there are not.
        (2, whole, BLOCK as u32),
        (3, whole, BLOCK as u32),
        (1 << 31, whole, BLOCK as u32),
    ];
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let (dir, mut bytes, record) = with_a_record(overflow);
        for (flags, len, block) in cases {
            let what = format!("flags {flags:#x}, {len} bytes, {block} of them headers, {overflow:?}");
            bytes[record..][..8].copy_from_slice(&(flags << 32 | len as u64).to_le_bytes());
            bytes[record + 32..][..4].copy_from_slice(&block.to_le_bytes());
            sign(&mut bytes, record);
            for way in [2, 6, 7, 12] {
                expect_damaged(&dir, &bytes, WAYS[way], &what);
            }
            // A recovery says the same.
            let copy = dir.join("copy");
            write(&dir, &bytes);
            let channel = Options::new().blocking_open(dir.file()).unwrap();
            std::fs::copy(dir.file(), &copy).unwrap();
            drop(channel);
            let channel = Options::new().blocking_open(&copy).unwrap();
            let report = channel.recovered().unwrap();
            assert_eq!((report.kept, report.damaged), (MESSAGES - 1, 1), "{what}");
        }
    }
}

/// Whatever a block says that is as long as it can be: it is read as far as that makes sense, and the message
/// is what it was.
#[test]
fn a_block_of_any_bytes_leaves_its_message_alone() {
    let seed = seed();
    let mut rng = Rng::new(seed);
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let (dir, whole, record) = with_a_record(overflow);
        for round in 0..200 {
            let mut bytes = whole.clone();
            let block = &mut bytes[record + 36..record + 32 + BLOCK];
            match round {
                0 => block.fill(0),
                1 => block.fill(0xff),
                _ => (0..1 + rng.below(8)).for_each(|_| block[rng.below(BLOCK as u64 - 4) as usize] = rng.next() as u8),
            }
            let block = block.to_vec();
            sign(&mut bytes, record);
            write(&dir, &bytes);
            let channel = Options::new().blocking_open(dir.file()).unwrap();
            let got = WAYS[round % 2 * 12].1(&mut channel.blocking_subscribe("g").unwrap(), MESSAGES as usize);
            let numbers: Vec<u64> = got.iter().map(|got| number(&got.message)).collect();
            assert_eq!(numbers, [0, 1, 2, 3, 4], "{block:?}");
            let with = &got[2];
            let len = with.key.as_ref().map_or(0, Vec::len)
                + with.pairs.iter().map(|(name, value)| name.len() + value.len() + 3).sum::<usize>();
            assert!(len <= BLOCK - 6, "{with:?} in {block:?}");
        }
    }
}

/// Any headers, with any message.
fn any_headers() -> impl Strategy<Value = Got> {
    let bytes = |most| prop_oneof![9 => vec(any::<u8>(), 0..=most), 1 => vec(any::<u8>(), 0..=5000)];
    let name = "\\PC{1,60}".prop_filter("at most 255 bytes", |name| name.len() <= 255);
    (proptest::option::of(bytes(40)), vec((name, bytes(40)), 0..6), bytes(200)).prop_map(|(key, pairs, message)| Got {
        key,
        pairs,
        message,
    })
}

#[test]
fn any_headers_come_as_they_were_sent() {
    let (_dir, channel) = open_new(small());
    let (tx, mut rx) = (channel.sender(), channel.blocking_subscribe("g").unwrap());
    let config = Config { cases: 500, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let run = |sent: Got| {
        let headers = sent.pairs.iter().fold(Headers::new(), |all, (name, value)| all.with(name, value));
        let headers = sent.key.iter().fold(headers, |all, key| all.key("another").key(key));
        let message = headers.message(&sent.message).unwrap();
        prop_assert_eq!(&Got::sent(&message), &sent);
        tx.try_send(&message).unwrap();
        tx.try_send(message).unwrap();
        prop_assert_eq!(&Got::message(rx.try_recv().unwrap()), &sent);
        prop_assert_eq!(&Got::lease(rx.try_lease().unwrap()), &sent);
        Ok(())
    };
    let run = std::cell::RefCell::new(run);
    runner.run(&any_headers(), |sent| (run.borrow_mut())(sent)).unwrap();
}
