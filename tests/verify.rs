//! What `verify` finds in a file: what is wrong, where, and nothing else, whatever is done with the file meanwhile.

mod common;

use common::{Dir, PAGE, Rng, body, drain_numbers, number, seed, send, small, within};
use disk_chan::{
    Cause, Channel, FileState, Finding, OpenError, Options, Overflow, Part, Remedy, Start, Verification, verify,
};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

const LEN: usize = 700;
const LINE: usize = 16;
const BLOCK: usize = 512;
const ENTRY: usize = 64;
const GROUPS: usize = 2;
const HELD: usize = 3;
/// One open, one op cell.
const GROUP: usize = 3 * BLOCK + 2 * LINE;
const ENTRIES: usize = (GROUP + GROUPS * 2 * LINE).next_multiple_of(BLOCK);
const CLAIM_CELL: usize = ENTRIES + GROUPS * 2 * ENTRY;
const WAKE: usize = (CLAIM_CELL + GROUPS * HELD * LINE).next_multiple_of(BLOCK);
const PAGES: usize = WAKE + BLOCK;
const PAGE_WORDS: usize = PAGE / 8;
const SLOTS: usize =
    (PAGE_WORDS - 4 * LINE - GROUPS * 2 * LINE - LINE) * 32 / (32 * (4 + LEN.div_ceil(8) + 1) + GROUPS);
const GROUP_WORDS: usize = LINE + SLOTS.div_ceil(32).next_multiple_of(LINE);
const SLOT: usize = 4 * LINE + GROUPS * GROUP_WORDS;
const RECORDS: usize = SLOT + SLOTS.next_multiple_of(LINE);
const RECORD_WORDS: usize = 4 + LEN.div_ceil(8);

/// Tiny.
fn tiny() -> Options {
    Options::new()
        .page_size(PAGE)
        .max_pages(2)
        .typical_message_len(LEN)
        .max_groups(GROUPS)
        .max_opens(1)
        .max_op_cells(1)
        .max_held(HELD)
}

/// A channel in its first lap with one page that is full and one that is not; group "a" has had three messages, and
/// is not done with the second; "b" has had none.
fn fill(channel: &Channel) -> u64 {
    let mut a = channel.blocking_subscribe("a").unwrap();
    channel.blocking_subscribe("b").unwrap();
    let mut sent = 0;
    while channel.stats().page_turns == 0 {
        channel.sender().try_send(body(sent, LEN)).unwrap();
        sent += 1;
    }
    let [one, two, three] = [0; 3].map(|_| a.try_lease().unwrap());
    one.ack().unwrap();
    drop(two);
    three.ack().unwrap();
    sent
}

fn closed() -> (Dir, u64) {
    let dir = Dir::in_memory();
    let channel = tiny().blocking_open(dir.file()).unwrap();
    let sent = fill(&channel);
    drop(channel);
    (dir, sent)
}

/// As its users left it who were killed.
fn killed(made: Options, fill: impl FnOnce(&Channel)) -> Dir {
    let dir = Dir::in_memory();
    let channel = made.blocking_open(dir.file()).unwrap();
    fill(&channel);
    let bytes = std::fs::read(dir.file()).unwrap();
    drop(channel);
    write(&dir, 0, &bytes);
    dir
}

fn write(dir: &Dir, at: usize, bytes: &[u8]) {
    File::options().write(true).open(dir.file()).unwrap().write_all_at(bytes, at as u64).unwrap();
}

fn word(dir: &Dir, at: usize) -> u64 {
    let mut word = [0; 8];
    File::open(dir.file()).unwrap().read_exact_at(&mut word, at as u64 * 8).unwrap();
    u64::from_le_bytes(word)
}

fn set(dir: &Dir, at: usize, to: u64) {
    write(dir, at * 8, &to.to_le_bytes());
}

fn flip(dir: &Dir, at: usize) {
    set(dir, at, word(dir, at) ^ 1 << 9);
}

fn one(found: &Verification) -> &Finding {
    assert_eq!(found.findings.len(), 1, "{found:#?}");
    &found.findings[0]
}

#[test]
fn nothing_is_wrong_with_a_file_that_was_closed() {
    let (dir, sent) = closed();
    let before = std::fs::read(dir.file()).unwrap();
    let found = verify(dir.file()).unwrap();
    assert!(found.is_sound(), "{found:#?}");
    assert_eq!((found.state, found.messages, found.bytes), (FileState::Clean, sent, sent * LEN as u64));
    assert_eq!((found.pages, found.damaged, found.recovery), (2, 0, None));
    assert_eq!(std::fs::read(dir.file()).unwrap(), before);
    // The layout is as this test thinks.
    assert_eq!((word(&dir, PAGES + PAGE_WORDS), word(&dir, PAGES + RECORDS)), (1, LEN as u64));
    assert_eq!(word(&dir, PAGES + SLOT + 1), 1 << 29 | RECORD_WORDS as u64);
}

#[test]
fn a_file_that_was_never_opened_or_has_no_message() {
    let dir = Dir::new();
    drop(small().blocking_open(dir.file()).unwrap());
    assert!(verify(dir.file()).unwrap().is_sound());
    disk_chan::ChannelWriter::new(small(), dir.join("new")).unwrap().finish().unwrap();
    assert!(verify(dir.join("new")).unwrap().is_sound());
}

#[test]
fn what_the_dead_left_is_not_wrong() {
    let dir = killed(tiny(), |channel| assert!(fill(channel) > 0));
    let found = verify(dir.file()).unwrap();
    assert_eq!((found.state, found.is_sound()), (FileState::Dead, true), "{found:#?}");
}

/// A receiver that went on from message to message and then forgot one: the cursor of its group stands where it began.
fn forget_the_third(channel: &Channel) {
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..5, 100);
    drop(rx.try_recv().unwrap());
    drop(rx.try_recv().unwrap());
    std::mem::forget(rx.try_recv().unwrap());
}

#[test]
fn what_was_given_back_behind_the_cursor_is_not_wrong() {
    let dir = killed(tiny(), forget_the_third);
    let found = verify(dir.file()).unwrap();
    assert_eq!((found.state, found.findings), (FileState::Dead, vec![]));

    let dir = Dir::new();
    forget_the_third(&tiny().blocking_open(dir.file()).unwrap());
    let found = verify(dir.file()).unwrap();
    assert_eq!((found.state, found.findings), (FileState::Clean, vec![]));
}

#[test]
fn a_copy_of_a_file_in_use_has_to_be_recovered() {
    let (dir, channel) = common::small_channel();
    send(&channel.sender(), 0..5, 100);
    std::fs::copy(dir.file(), dir.join("copy")).unwrap();
    let found = verify(dir.join("copy")).unwrap();
    let finding = one(&found);
    assert_eq!((finding.part, finding.remedy, found.state), (Part::File, Remedy::Rebuilt, FileState::Crashed));
    let report = found.recovery.as_ref().unwrap();
    assert_eq!((report.cause, report.kept, found.messages), (Cause::Unclean, 5, 5));
}

/// Damage in a file that was closed.
#[test]
fn every_kind_of_damage_is_named_where_it_is() {
    type Expected = fn(&Finding) -> bool;
    let is_header: [Expected; 2] = [|f| f.copy == Some(0), |f| f.copy == Some(1)];
    let cases: [(&str, usize, Part, Remedy, Expected); 13] = [
        ("a word of the header", 6, Part::Header, Remedy::OtherCopy, is_header[0]),
        ("its other copy", BLOCK + 500, Part::Header, Remedy::OtherCopy, is_header[1]),
        ("the head", 2 * BLOCK, Part::Control, Remedy::Rebuilt, |_| true),
        ("the start of a group", GROUP + 1, Part::Control, Remedy::Rebuilt, |_| true),
        ("the entry of a group", ENTRIES + 4, Part::Entry, Remedy::OtherCopy, |f| {
            f.copy == Some(0) && f.group.as_ref().unwrap().as_str() == "a"
        }),
        ("its other copy", ENTRIES + 3 * ENTRY, Part::Entry, Remedy::OtherCopy, |f| {
            f.copy == Some(1) && f.group.as_ref().unwrap().as_str() == "b"
        }),
        ("a claim cell", CLAIM_CELL + 1, Part::Control, Remedy::Rebuilt, |_| true),
        ("the number of a page", PAGES, Part::Page, Remedy::Rebuilt, |f| f.place == Some(0)),
        ("the cursor of a page", PAGES + PAGE_WORDS + LINE, Part::Page, Remedy::Rebuilt, |f| f.place == Some(1)),
        ("a slot", PAGES + SLOT + 7, Part::Page, Remedy::Rebuilt, |f| f.place == Some(0)),
        ("what a group has acked", PAGES + 5 * LINE, Part::Group, Remedy::Untouched, |f| {
            f.place == Some(0) && f.group.as_ref().unwrap().as_str() == "a"
        }),
        ("a message", PAGES + RECORDS + 3 * RECORD_WORDS + 40, Part::Message, Remedy::Skipped, |f| {
            f.offset.unwrap().to_string() == "0:3" && f.page == Some(0)
        }),
        ("its length", PAGES + RECORDS + 4 * RECORD_WORDS, Part::Message, Remedy::Skipped, |f| {
            f.offset.unwrap().to_string() == "0:4"
        }),
    ];
    for (what, at, part, remedy, is_there) in cases {
        let (dir, sent) = closed();
        flip(&dir, at);
        let found = verify(dir.file()).unwrap();
        assert_eq!(found.state, FileState::Clean);
        let here = found.findings.iter().filter(|f| (f.part, f.remedy) == (part, remedy) && is_there(f)).count();
        assert!(here > 0, "{what}: {found:#?}");
        // What it says of recovery is what comes of it.
        let channel = Options::new().blocking_open(dir.file()).unwrap();
        let kept = |report: &disk_chan::RecoveryReport| (report.cause, report.kept, report.damaged, report.end_offset);
        assert_eq!(found.recovery.as_ref().map(kept), channel.recovered().map(kept), "{what}");
        assert_eq!(found.messages + found.damaged, sent, "{what}");
        let mut reader = channel.reader();
        assert_eq!((reader.try_iter().count() as u64, reader.damaged()), (found.messages, found.damaged), "{what}");
    }
}

/// Damage to a file whose users died, so that no check says how it was.
#[test]
fn what_contradicts_itself_is_named_where_it_is() {
    let of_a = |f: &Finding| f.group.as_ref().is_some_and(|name| name.as_str() == "a");
    let found = |change: &dyn Fn(&Dir)| {
        let dir = killed(tiny(), |channel| assert!(fill(channel) > 0));
        change(&dir);
        let found = verify(dir.file()).unwrap();
        let channel = Options::new().blocking_open(dir.file()).unwrap();
        assert_eq!(found.recovery.is_some(), channel.recovered().is_some());
        found
    };
    let tag = word(&closed().0, PAGES + 5 * LINE) & 0xffff_ffff << 32;
    assert_ne!(tag, 0, "group a has acked there");

    let done = found(&|dir| set(dir, PAGES + PAGE_WORDS + 5 * LINE, tag | 1 << 9));
    assert!(of_a(one(&done)) && done.findings[0].part == Part::Group, "{done:#?}");
    assert_eq!(done.findings[0].offset.unwrap().to_string(), "1:9");

    let beyond = found(&|dir| set(dir, PAGES + 4 * LINE, tag | 500));
    assert!(of_a(one(&beyond)) && beyond.findings[0].part == Part::Group, "{beyond:#?}");

    let number = found(&|dir| set(dir, PAGES, 7));
    let page = number.findings.iter().find(|f| f.part == Part::Page).unwrap();
    assert_eq!((page.place, page.page), (Some(0), Some(7)));

    let claim = found(&|dir| {
        let cell = (0..HELD).map(|n| CLAIM_CELL + n * LINE).find(|&at| word(dir, at) & 7 == 5).unwrap();
        set(dir, cell + 1, 40); // not given
    });
    assert!(of_a(one(&claim)) && claim.findings[0].part == Part::Claim, "{claim:#?}");

    let durable = found(&|dir| set(dir, 2 * BLOCK + 5 * LINE, 99 << 20));
    assert_eq!(one(&durable).part, Part::Control);

    let poison = found(&|dir| set(dir, 2 * BLOCK + 4 * LINE + 4, 6));
    assert_eq!(
        (poison.state, one(&poison).part, one(&poison).remedy),
        (FileState::Poisoned, Part::File, Remedy::Rebuilt)
    );
    assert_eq!(poison.recovery.unwrap().cause, Cause::Poisoned);

    let record = found(&|dir| set(dir, PAGES + SLOT + 6, 1 << 29 | (5 * RECORD_WORDS) as u64));
    assert_eq!(one(&record).offset.unwrap().to_string(), "0:6");
    assert!(record.findings[0].what.contains("a record of 0:5"), "{record:#?}");
}

#[test]
fn a_group_whose_entry_is_gone() {
    let (dir, _) = closed();
    flip(&dir, ENTRIES + 4);
    flip(&dir, ENTRIES + ENTRY + 4);
    let found = verify(dir.file()).unwrap();
    let gone = found.findings.iter().filter(|f| f.part == Part::Entry && f.remedy == Remedy::GroupGone);
    assert_eq!(gone.count(), 2, "{found:#?}");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let (dir, _) = closed();
    flip(&dir, 6);
    flip(&dir, BLOCK + 6);
    let found = verify(dir.file()).unwrap();
    assert!(matches!(found.refused, Some(OpenError::Damaged { .. })));
    assert_eq!(
        found.findings.iter().map(|f| (f.part, f.copy, f.remedy)).collect::<Vec<_>>(),
        [(Part::Header, Some(0), Remedy::Refused), (Part::Header, Some(1), Remedy::Refused)]
    );

    let (dir, sent) = closed();
    let file = File::options().write(true).open(dir.file()).unwrap();
    file.set_len(((PAGES + PAGE_WORDS) * 8 + 100) as u64).unwrap();
    let found = verify(dir.file()).unwrap();
    assert!(matches!(found.refused, Some(OpenError::CutShort { .. })));
    assert!(found.findings.iter().any(|f| f.part == Part::File && f.what.contains("cut short")), "{found:#?}");
    assert_eq!(found.messages, sent - 1, "all but the one of the page that was cut off");

    for len in [0, 100, 5000, 8191, 8192, 20_000] {
        file.set_len(len).unwrap();
        let found = verify(dir.file()).unwrap();
        assert!(!found.is_sound() && found.refused.is_some(), "{len}: {found:#?}");
    }
    std::fs::write(dir.join("text"), "no channel").unwrap();
    assert!(matches!(verify(dir.join("text")).unwrap().refused, Some(OpenError::NotAChannel { .. })));
    assert!(matches!(verify("/").unwrap().refused, Some(OpenError::NotAChannel { .. })));
    assert!(matches!(verify(dir.join("none")), Err(OpenError::NotFound { .. })));
}

/// One bit of every so many bytes: it is found, or whoever opens the file finds everything as it was.
#[test]
fn a_bit_that_flipped_is_found_or_is_not_used() {
    const EACH: usize = 61;
    let (dir, sent) = closed();
    let whole = std::fs::read(dir.file()).unwrap();
    let [mut flips, mut found_it] = [0; 2];
    for at in (7..whole.len()).step_by(EACH) {
        write(&dir, 0, &whole);
        write(&dir, at, &[whole[at] ^ 1 << (at % 8)]);
        let found = verify(dir.file()).unwrap();
        flips += 1;
        found_it += u32::from(!found.is_sound());
        let channel = Options::new().blocking_open(dir.file());
        let channel = channel.unwrap_or_else(|error| panic!("byte {at}: {error}"));
        if found.is_sound() {
            assert_eq!(channel.recovered(), None, "byte {at}");
            assert_eq!((channel.len(), channel.reader().try_iter().count() as u64), (sent, sent), "byte {at}");
            let groups = channel.groups();
            assert_eq!(groups.iter().map(|g| g.lag).collect::<Vec<_>>(), [sent - 2, sent], "byte {at}");
            assert!(groups.iter().all(|g| g.damaged + g.gone + g.lagged == 0), "byte {at}: {groups:?}");
            let left = drain_numbers(&mut channel.blocking_subscribe("a").unwrap());
            assert_eq!(left, std::iter::once(1).chain(3..sent).collect::<Vec<_>>(), "byte {at}");
        }
    }
    println!("{found_it} of {flips} flips are found; the others change nothing that is used");
    assert!(found_it > flips / 3, "{found_it} of {flips}");
}

/// Any bytes, and files of which any bytes were changed.
#[test]
fn any_file_can_be_verified() {
    within(240, || {
        let mut rng = Rng::new(seed());
        let (dir, _) = closed();
        let dead = killed(tiny(), |channel| assert!(fill(channel) > 0));
        for dir in [&dir, &dead] {
            let whole = std::fs::read(dir.file()).unwrap();
            for _ in 0..300 {
                write(dir, 0, &whole);
                for _ in 0..1 + rng.below(20) {
                    let part = [2 * BLOCK..PAGES, PAGES..PAGES + RECORDS + 30][rng.below(2) as usize].clone();
                    let at = part.start + rng.below(part.len() as u64) as usize;
                    let word = [u64::MAX, rng.next(), rng.below(100), word(dir, at) ^ 1 << rng.below(64)];
                    set(dir, at, word[rng.below(4) as usize]);
                }
                let found = verify(dir.file()).unwrap();
                std::hint::black_box(format!("{found:?}"));
                let repaired = dir.join("repaired");
                if disk_chan::Rewrite::new().salvage(true).write(dir.file(), &repaired, |_, _| {}).is_ok() {
                    let again = verify(&repaired).unwrap();
                    assert!(again.is_sound(), "{again:#?}");
                    std::fs::remove_file(&repaired).unwrap();
                }
            }
        }
        // A header that is right and says anything.
        for _ in 0..200 {
            let mut bytes = vec![0; 8192 + rng.below(200_000) as usize];
            let mut words = vec![u64::from_le_bytes(*b"disk_cha"), 1, 0, 1, 1, 2, 64 << 10, 2, 64, 4, 4, 4, 4];
            words.resize(BLOCK, 0);
            words[6 + rng.below(7) as usize] = [u64::MAX, 1 << 16, 4096, 1 << 30, 0, 3][rng.below(6) as usize];
            words[17 + rng.below(10) as usize] = [u64::MAX, rng.next(), 1][rng.below(3) as usize];
            let mut block: Vec<u8> = words[..BLOCK - 1].iter().flat_map(|w| w.to_le_bytes()).collect();
            block.extend(xxhash_rust::xxh3::xxh3_64(&block).to_le_bytes());
            bytes[..4096].copy_from_slice(&block);
            bytes[4096..8192].copy_from_slice(&block);
            std::fs::write(dir.join("any"), &bytes).unwrap();
            std::hint::black_box(verify(dir.join("any")).map(|found| format!("{found:?}")).ok());
            let _ = disk_chan::Rewrite::new().salvage(true).plan(dir.join("any"));
        }
    });
}

#[test]
fn only_so_many_findings_are_kept() {
    let dir = Dir::in_memory();
    let channel = small().typical_message_len(0).blocking_open(dir.file()).unwrap();
    (0..1500).for_each(|n: u64| drop(channel.sender().try_send(n.to_le_bytes())));
    let (start, sent) = (channel.page_bytes(0).unwrap().range().start, channel.len());
    drop(channel);
    assert!(sent > 1100);
    (0..1100).for_each(|n| flip(&dir, start as usize / 8 + n * 5 + 4));
    let found = verify(dir.file()).unwrap();
    assert_eq!((found.findings.len(), found.more, found.damaged), (1000, 100, 1100));
    assert_eq!(found.messages, sent - 1100);
}

/// Sends, receives, gives back, makes and moves groups, until it is told to end.
fn work(channel: &Channel, seed: u64, ended: &AtomicBool) {
    let mut rng = Rng::new(seed);
    let tx = channel.sender();
    let mut rxs = ["a", "b"].map(|name| channel.blocking_subscribe(name).unwrap());
    let mut held = Vec::new();
    while !ended.load(Relaxed) {
        for n in 0..rng.below(20) {
            let _ = tx.try_send(body(n, 8 + rng.below(3000) as usize));
        }
        for rx in &mut rxs {
            for _ in 0..rng.below(30) {
                if let Ok(message) = rx.try_recv() {
                    number(&message);
                }
            }
            let _ = common::poll_once(rx.recv_many(5)).map(drop);
            held.extend(rx.try_lease());
        }
        if held.len() > 6 {
            let lease = held.swap_remove(rng.below(6) as usize);
            let _ = if rng.one_in(2) { lease.ack() } else { lease.give_back() };
        }
        if rng.one_in(50) {
            let name = format!("new {}", rng.below(3));
            drop(channel.blocking_subscribe(&*name));
            let _ = channel.seek_group(&*name, if rng.one_in(2) { Start::Oldest } else { Start::Newest }, true);
            let _ = channel.remove_group(&*name, true);
        }
    }
}

/// Another process that works until its standard input ends.
#[test]
fn worker() {
    let Some(argument) = common::child_argument() else { return };
    let channel = Options::new().blocking_open(&argument).unwrap();
    let ended = &AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| work(&channel, std::process::id().into(), ended));
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        ended.store(true, Relaxed);
    });
}

fn start_worker(dir: &Dir) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "worker", "--nocapture"]).env("DISK_CHAN_TEST_CHILD", dir.file());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn nothing_is_wrong_with_a_file_in_use() {
    within(300, || {
        let seed = seed();
        for options in [small(), small().overflow(Overflow::DropOldest), small().max_pages(5).max_attempts(3)] {
            let dir = Dir::in_memory();
            let channel = options.blocking_open(dir.file()).unwrap();
            let ended = &AtomicBool::new(false);
            let [mut child, mut killed] = [start_worker(&dir), start_worker(&dir)];
            thread::scope(|scope| {
                let channel = &channel;
                (0..2).for_each(|n| drop(scope.spawn(move || work(channel, seed + n, ended))));
                let mut messages = 0;
                for n in 0..200 {
                    if n == 100 {
                        killed.kill().unwrap();
                    }
                    let found = verify(dir.file()).unwrap();
                    if !found.is_sound() {
                        ended.store(true, Relaxed);
                        panic!("at {n}: {found:#?}");
                    }
                    assert_eq!(found.state, FileState::InUse);
                    messages += found.messages;
                }
                ended.store(true, Relaxed);
                assert!(messages > 0);
            });
            drop(child.stdin.take());
            assert!(child.wait().unwrap().success());
            killed.wait().unwrap();
            drop(channel);
            let found = verify(dir.file()).unwrap();
            assert!(found.is_sound() && found.state == FileState::Clean, "{found:#?}");
        }
    });
}

/// Opened and closed again and again meanwhile.
#[test]
fn a_file_that_is_opened_and_closed_meanwhile() {
    within(120, || {
        let dir = Dir::in_memory();
        drop(small().blocking_open(dir.file()).unwrap());
        let ended = &AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut n = 0;
                while !ended.load(Relaxed) {
                    let channel = Options::new().blocking_open(dir.file()).unwrap();
                    let mut rx = channel.blocking_subscribe("g").unwrap();
                    send(&channel.sender(), n..n + 10, 300);
                    assert_eq!(drain_numbers(&mut rx).len(), 10);
                    n += 10;
                }
            });
            for n in 0..200 {
                let found = verify(dir.file()).unwrap();
                if !found.is_sound() {
                    ended.store(true, Relaxed);
                    panic!("at {n}: {found:#?}");
                }
            }
            ended.store(true, Relaxed);
        });
    });
}
