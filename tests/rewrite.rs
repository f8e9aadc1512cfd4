//! A channel copied into a new file: each group has left there what it had left, and nothing else changes.

mod common;

use common::{Dir, PAGE, body, drain_numbers, number, send, small};
use disk_chan::{
    Cause, Channel, ChannelWriter, Create, GroupProgress, Headers, Lease, Offset, OpenError, Options, Overflow,
    Rewrite, RewriteError, Start, TryRecvError,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A message as it was sent, by its number.
#[derive(Clone, Debug, PartialEq)]
struct Sent {
    number: u64,
    key: Option<Vec<u8>>,
    sent_at: SystemTime,
}

/// What a group has left, and how often each was given to it.
type Left = BTreeMap<u64, u32>;

#[derive(Clone, Debug)]
enum Step {
    Send { len: usize, key: bool },
    Take { group: usize },
    Ack { group: usize, which: usize },
    GiveBack { group: usize, which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (prop_oneof![8..200usize, 2000..6000usize], any::<bool>()).prop_map(|(len, key)| Step::Send { len, key }),
        4 => (0..3usize).prop_map(|group| Step::Take { group }),
        3 => (0..3usize, 0..9usize).prop_map(|(group, which)| Step::Ack { group, which }),
        1 => (0..3usize, 0..9usize).prop_map(|(group, which)| Step::GiveBack { group, which }),
    ]
}

const GROUPS: [&str; 3] = ["a", "b", "c"];

/// Does the steps, and says what each group has left. What is held at the end is given back by its holders' end;
/// in a copy that is made before that, and is recovered, nobody knows how often anything was given.
fn play(path: &Path, page_size: usize, copy: Option<&Path>, steps: &[Step]) -> (Vec<Sent>, Vec<Left>) {
    let options = small().page_size(page_size);
    let channel = options.blocking_open(path).unwrap();
    let mut rxs = GROUPS.map(|name| channel.blocking_subscribe(name).unwrap());
    let tx = channel.sender();
    let mut held: [Vec<(Lease, u64)>; 3] = Default::default();
    let (mut count, mut left) = (0_u64, vec![Left::new(); 3]);
    for step in steps {
        match *step {
            Step::Send { len, key } => {
                let sent = match key {
                    true => {
                        let headers = Headers::new().key(count.to_string()).with("n", count.to_le_bytes());
                        tx.try_send(headers.message(body(count, len)).unwrap())
                    }
                    false => tx.try_send(body(count, len)),
                };
                if sent.is_ok() {
                    for left in &mut left {
                        left.insert(count, 0);
                    }
                    count += 1;
                }
            }
            Step::Take { group } => {
                if let Ok(lease) = rxs[group].try_lease() {
                    let n = number(&lease);
                    held[group].push((lease, n));
                }
            }
            Step::Ack { group, which } if which < held[group].len() => {
                let (lease, n) = held[group].remove(which);
                lease.ack().unwrap();
                left[group].remove(&n);
            }
            Step::GiveBack { group, which } if which < held[group].len() => {
                let (lease, n) = held[group].remove(which);
                lease.give_back().unwrap();
                *left[group].get_mut(&n).unwrap() += 1;
            }
            Step::Ack { .. } | Step::GiveBack { .. } => {}
        }
    }
    if let Some(copy) = copy {
        std::fs::copy(path, copy).unwrap();
        left.iter_mut().flat_map(|left| left.values_mut()).for_each(|attempts| *attempts = 0);
        held = Default::default();
    }
    for (group, held) in held.into_iter().enumerate() {
        held.iter().for_each(|(_, n)| *left[group].get_mut(n).unwrap() += 1);
    }
    let mut reader = channel.reader();
    let sent = reader.try_iter().map(|record| {
        let record = record.unwrap();
        Sent { number: number(&record), key: record.key().map(<[u8]>::to_vec), sent_at: record.sent_at() }
    });
    (sent.collect(), left)
}

/// What is in the new file.
fn check(path: &Path, sent: &[Sent], left: &[Left]) {
    let channel = Options::new().create(Create::OpenExisting).blocking_open(path).unwrap();
    assert_eq!(channel.recovered(), None);
    for (name, left) in GROUPS.iter().zip(left) {
        let mut rx = channel.blocking_subscribe(*name).unwrap();
        let mut got = Vec::new();
        loop {
            match rx.try_recv() {
                Ok(message) => {
                    let n = number(&message);
                    let was = sent.iter().find(|sent| sent.number == n).unwrap();
                    assert_eq!((message.key(), message.sent_at()), (was.key.as_deref(), was.sent_at));
                    let header = message.headers().get("n").map(<[u8]>::to_vec);
                    assert_eq!(header, was.key.as_ref().map(|_| n.to_le_bytes().to_vec()));
                    got.push((n, message.attempts()));
                }
                Err(TryRecvError::Empty) => break,
                Err(error) => panic!("{error}"),
            }
        }
        let expected: Vec<_> = left.iter().map(|(&n, &attempts)| (n, attempts + 1)).collect();
        assert_eq!(got, expected, "group {name}");
    }
    // It goes on.
    channel.sender().try_send(body(1 << 40, 50)).unwrap();
    for name in GROUPS {
        assert_eq!(drain_numbers(&mut channel.blocking_subscribe(name).unwrap()), [1 << 40]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn each_group_has_left_what_it_had_left(
        steps in prop::collection::vec(step(), 0..500),
        pages in 6..9usize,
        sizes in prop_oneof![Just([PAGE, PAGE]), Just([PAGE, 2 * PAGE]), Just([2 * PAGE, PAGE])],
        copied in any::<bool>(),
    ) {
        let dir = Dir::in_memory();
        let (sent, left) = match copied {
            false => play(&dir.file(), sizes[0], None, &steps),
            true => play(&dir.join("in use"), sizes[0], Some(&dir.file()), &steps),
        };
        let before = std::fs::read(dir.file()).unwrap();
        let options = Options::new().max_pages(pages).page_size(sizes[1]);
        let mut told = 0;
        let done = Rewrite::new().options(options).all(true).write(dir.file(), dir.join("new"), |n, _| told = n).unwrap();
        prop_assert_eq!((done.messages, done.damaged, told), (sent.len() as u64, 0, sent.len() as u64));
        prop_assert_eq!(std::fs::read(dir.file()).unwrap(), before, "the old file is as it was");
        let verification = disk_chan::verify(dir.join("new")).unwrap();
        prop_assert!(verification.is_sound(), "{:?}", verification);
        check(&dir.join("new"), &sent, &left);
    }
}

fn options(pages: usize) -> Options {
    Options::new().max_pages(pages)
}

#[test]
fn what_every_group_is_done_with_stays_behind_if_it_must() {
    let dir = Dir::new();
    let channel = small().max_pages(8).blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..300, 1000);
    (0..280).for_each(|n| assert_eq!(number(&rx.try_recv().unwrap()), n));
    drop((channel, rx));
    let error = Rewrite::new().options(options(2)).all(true).write(dir.file(), dir.join("new"), |_, _| {}).unwrap_err();
    let RewriteError::DoesNotFit { needed, pages: 2 } = error else { panic!("{error:?}") };
    assert_eq!(dir.entries(), ["test.chan"]);
    let done = Rewrite::new().options(options(2)).write(dir.file(), dir.join("new"), |_, _| {}).unwrap();
    assert_eq!((done.messages, done.left_out), (20, 280));
    let channel = Options::new().blocking_open(dir.join("new")).unwrap();
    assert_eq!(drain_numbers(&mut channel.blocking_subscribe("g").unwrap()), (280..300).collect::<Vec<_>>());
    // With as many pages as it said, all of them fit; with one less, they do not.
    let all = |pages: u64| {
        let new = dir.join(&format!("{pages}"));
        Rewrite::new().options(options(pages as usize)).all(true).write(dir.file(), &new, |_, _| {})
    };
    assert_eq!(all(needed).unwrap().messages, 300);
    assert!(matches!(all(needed - 1), Err(RewriteError::DoesNotFit { .. })));
}

#[test]
fn what_is_not_delivered_and_does_not_fit_makes_no_file() {
    let dir = Dir::new();
    let channel = small().max_pages(8).blocking_open(dir.file()).unwrap();
    send(&channel.sender(), 0..300, 1000);
    drop(channel);
    let error = Rewrite::new().options(options(2)).write(dir.file(), dir.join("new"), |_, _| {}).unwrap_err();
    assert!(matches!(error, RewriteError::DoesNotFit { needed: 6..=8, pages: 2 }), "{error:?}");
    assert_eq!(dir.entries(), ["test.chan"]);
}

#[test]
fn a_message_that_is_too_long_for_the_new_pages_makes_no_file() {
    let dir = Dir::new();
    let channel = small().page_size(4 * PAGE).blocking_open(dir.file()).unwrap();
    channel.sender().blocking_send_many(&[vec![1; 10], vec![2; PAGE]]).unwrap();
    drop(channel);
    let smaller = Options::new().page_size(PAGE);
    let error = Rewrite::new().options(smaller).write(dir.file(), dir.join("new"), |_, _| {}).unwrap_err();
    let RewriteError::MessageTooLong { offset, len: PAGE, .. } = error else { panic!("{error:?}") };
    assert_eq!(offset.index(), 1);
    assert_eq!(dir.entries(), ["test.chan"]);
}

#[test]
fn a_channel_in_use_is_left_alone() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    let write = || Rewrite::new().write(dir.file(), dir.join("new"), |_, _| {});
    assert!(matches!(write(), Err(RewriteError::InUse { .. })));
    assert!(matches!(Rewrite::new().plan(dir.file()), Err(RewriteError::InUse { .. })));
    drop(channel);
    write().unwrap();
    // What is there already stays.
    assert!(matches!(write(), Err(RewriteError::Open(OpenError::AlreadyExists { .. }))));
}

#[test]
fn nobody_can_open_it_while_it_is_copied() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    send(&channel.sender(), 0..1, 100);
    drop(channel);
    let copied = Rewrite::new().write(dir.file(), dir.join("new"), |_, _| {
        assert!(Rewrite::new().plan(dir.file()).is_ok(), "who only reads does not wait");
        // It waits, and gives up.
        assert!(matches!(Options::new().blocking_open(dir.file()), Err(OpenError::Busy { .. })));
    });
    assert_eq!(copied.unwrap().messages, 1);
    assert_eq!(Options::new().blocking_open(dir.file()).unwrap().len(), 1);
}

/// Pages that end as they have no slot left.
#[test]
fn many_short_messages() {
    let dir = Dir::new();
    let channel = small().max_pages(4).blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let sent = common::fill(&channel, 0, 8);
    (0..700).for_each(|n| assert_eq!(number(&rx.try_recv().unwrap()), n));
    drop((rx, channel));
    for (name, other) in
        [("same", Options::new()), ("other", Options::new().typical_message_len(8).page_size(2 * PAGE))]
    {
        let done = Rewrite::new().options(other).write(dir.file(), dir.join(name), |_, _| {}).unwrap();
        assert_eq!(done.messages, sent);
        let channel = Options::new().blocking_open(dir.join(name)).unwrap();
        let left = drain_numbers(&mut channel.blocking_subscribe("g").unwrap());
        assert_eq!(left, (700..sent).collect::<Vec<_>>());
    }
}

#[test]
fn other_things_than_the_ring_change_if_they_are_to() {
    let dir = Dir::new();
    let made = small().max_age(Duration::from_secs(3600)).lease_timeout(Duration::from_secs(7)).max_attempts(3);
    let channel = made.blocking_open(dir.file()).unwrap();
    send(&channel.sender(), 0..3, 100);
    channel.close();
    drop(channel);
    Rewrite::new().write(dir.file(), dir.join("same"), |_, _| {}).unwrap();
    let other = Options::new().max_age(Duration::ZERO).overflow(Overflow::DropOldest).max_groups(3).max_attempts(0);
    Rewrite::new().options(other).write(dir.file(), dir.join("other"), |_, _| {}).unwrap();
    let look = |name: &str| Options::new().read_only(true).blocking_open(dir.join(name)).unwrap();
    let (old, same, other) = (look("test.chan"), look("same"), look("other"));
    assert_eq!(same.geometry(), old.geometry());
    assert!(same.is_closed() && !same.same_channel(&old));
    assert_eq!(
        (other.overflow(), other.geometry().max_age, other.geometry().max_groups),
        (Overflow::DropOldest, None, 3)
    );
    assert_eq!((other.geometry().max_attempts, other.geometry().lease_timeout), (None, Some(Duration::from_secs(7))));
}

#[test]
fn too_many_groups() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    GROUPS.iter().for_each(|&name| drop(channel.blocking_subscribe(name).unwrap()));
    drop(channel);
    let error = Rewrite::new().options(Options::new().max_groups(2)).plan(dir.file()).unwrap_err();
    assert!(matches!(error, RewriteError::TooManyGroups { groups: 3, max: 2 }), "{error:?}");
}

#[test]
fn too_few_claim_cells_lose_the_attempts_alone() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..6, 100);
    let leases: Vec<_> = (0..5).map(|_| rx.try_lease().unwrap()).collect();
    drop((leases, rx, channel));
    let done =
        Rewrite::new().options(Options::new().max_held(2)).write(dir.file(), dir.join("new"), |_, _| {}).unwrap();
    assert_eq!(done.groups[0].attempts_lost, 3);
    let channel = Options::new().blocking_open(dir.join("new")).unwrap();
    let got = common::drain(&mut channel.blocking_subscribe("g").unwrap());
    let got: Vec<_> = got.into_iter().map(|(_, n, attempts)| (n, attempts)).collect();
    assert_eq!(got, [(0, 2), (1, 2), (2, 1), (3, 1), (4, 1), (5, 1)]);
}

#[test]
fn dead_letters_go_along() {
    let dir = Dir::new();
    let channel = small().max_attempts(1).blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..4, 100);
    drop(rx.try_lease().unwrap());
    assert_eq!(drain_numbers(&mut rx), [1, 2, 3]);
    common::eventually("the letter is there", || channel.groups()[0].dead_lettered == 1);
    drop((channel, rx));
    let done = Rewrite::new().options(Options::new().page_size(2 * PAGE)).write(dir.file(), dir.join("new"), |_, _| {});
    assert_eq!(done.unwrap().letters.unwrap().messages, 1);
    let channel = Options::new().blocking_open(dir.join("new")).unwrap();
    let mut dead = channel.blocking_dead_letters().unwrap();
    let letter = dead.try_recv().unwrap();
    assert_eq!(number(disk_chan::DeadLetter::parse(&letter).unwrap().message()), 0);
}

/// Somebody else has the name by the time that all is copied.
#[test]
fn dead_letters_are_not_there_without_their_channel() {
    let dir = Dir::new();
    let channel = small().max_attempts(1).blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..2, 100);
    rx.try_lease().unwrap().reject().unwrap();
    drop((channel, rx));
    let new = dir.join("new");
    let done = Rewrite::new().write(dir.file(), &new, |_, _| std::fs::write(&new, "another").unwrap());
    assert!(matches!(done, Err(RewriteError::Open(OpenError::AlreadyExists { .. }))), "{done:?}");
    assert!(!dir.join("new.dead").exists());
    std::fs::remove_file(&new).unwrap();
    let done = Rewrite::new().write(dir.file(), &new, |_, _| {}).unwrap();
    assert_eq!((done.messages, done.letters.unwrap().messages), (2, 1));
}

/// A copy of a file in use: it has to be recovered, and is, in memory.
#[test]
fn a_file_that_needs_recovery() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..10, 100);
    (0..4).for_each(|n| assert_eq!(number(&rx.try_recv().unwrap()), n));
    rx.try_recv().unwrap_or_else(|error| panic!("{error}")); // ends the claim before
    std::fs::copy(dir.file(), dir.join("copy")).unwrap();
    let before = std::fs::read(dir.join("copy")).unwrap();
    let done = Rewrite::new().write(dir.join("copy"), dir.join("new"), |_, _| {}).unwrap();
    assert_eq!(done.recovered.unwrap().cause, Cause::Unclean);
    assert_eq!((done.messages, std::fs::read(dir.join("copy")).unwrap()), (10, before));
    let channel = Options::new().blocking_open(dir.join("new")).unwrap();
    let left = drain_numbers(&mut channel.blocking_subscribe("g").unwrap());
    assert!(left.ends_with(&[5, 6, 7, 8, 9]), "{left:?}");
}

#[test]
fn pages_have_the_times_of_their_messages() {
    let dir = Dir::new();
    let hour = Duration::from_secs(3600);
    let first = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mut writer = ChannelWriter::new(small().max_pages(8), dir.file()).unwrap();
    let mut offsets = Vec::new();
    for n in 0..200 {
        offsets.push(writer.append(Offset::from_u64(n * 3), body(n, 1000), first + hour * n as u32).unwrap());
    }
    writer.group(GroupProgress::new("g", Offset::from_u64(0))).unwrap();
    writer.finish().unwrap();
    let channel = Options::new().blocking_open(dir.file()).unwrap();
    for n in [0, 1, 50, 117, 199] {
        let mut reader = channel.reader();
        reader.seek(Start::Time(first + hour * n as u32 - Duration::from_millis(1)));
        let record = reader.try_read().unwrap();
        assert_eq!((record.offset(), number(&record)), (offsets[n], n as u64));
    }
    let pages = channel.pages();
    assert_eq!(pages[1].oldest.unwrap(), first + hour * channel.pages()[0].len as u32);
}

#[test]
fn old_messages_are_old_in_the_new_file() {
    let dir = Dir::new();
    let minutes = |n: u64| SystemTime::now() - Duration::from_secs(n * 60);
    let mut writer = ChannelWriter::new(small().max_pages(8).max_age(Duration::from_secs(3600)), dir.file()).unwrap();
    for n in 0..200 {
        writer.append(Offset::from_u64(n), body(n, 1000), minutes(if n < 100 { 200 } else { 5 })).unwrap();
    }
    writer.group(GroupProgress::new("g", Offset::from_u64(0))).unwrap();
    writer.finish().unwrap();
    let channel = Options::new().blocking_open(dir.file()).unwrap();
    let expired = channel.groups()[0].expired;
    assert!((1..=100).contains(&expired), "{expired} of the first 100, whole pages");
    let left = drain_numbers(&mut channel.blocking_subscribe("g").unwrap());
    assert_eq!(left, (expired..200).collect::<Vec<_>>());
}

#[test]
fn a_writer_takes_nothing_that_cannot_be() {
    let dir = Dir::new();
    let mut writer = ChannelWriter::new(small().max_groups(1), dir.file()).unwrap();
    let at = Offset::from_u64;
    writer.append(at(5), "a", SystemTime::now()).unwrap();
    let again = writer.append(at(5), "b", SystemTime::now());
    assert!(matches!(again, Err(RewriteError::NotInOrder { .. })));
    let long = writer.append(at(6), vec![0; PAGE], SystemTime::now());
    assert!(matches!(long, Err(RewriteError::MessageTooLong { .. })));
    let mut wrong = GroupProgress::new("g", at(0));
    wrong.done = vec![at(5)..=at(7), at(7)..=at(9)];
    assert!(matches!(writer.group(wrong), Err(RewriteError::NotInOrder { .. })));
    assert!(matches!(writer.group(GroupProgress::new("", at(0))), Err(RewriteError::InvalidName { .. })));
    writer.group(GroupProgress::new("g", at(u64::MAX))).unwrap();
    assert!(matches!(writer.group(GroupProgress::new("g", at(0))), Err(RewriteError::GroupTwice { .. })));
    assert!(matches!(writer.group(GroupProgress::new("h", at(0))), Err(RewriteError::TooManyGroups { .. })));
    drop(writer);
    assert_eq!(dir.entries(), [""; 0]);
}

/// Whoever asks how far groups are has nothing of a channel that was opened before a fork: here only that it is asked
/// while the channel is in use.
#[test]
fn progress_of_a_channel_in_use() {
    let dir = Dir::new();
    let channel: Channel = small().blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..6, 100);
    let mut leases: Vec<_> = (0..5).map(|_| rx.try_lease().unwrap()).collect();
    let at: Vec<_> = leases.iter().map(Lease::offset).collect();
    leases.remove(3).ack().unwrap();
    leases.remove(1).ack().unwrap();
    leases.remove(0).give_back().unwrap();
    let progress = channel.group_progress().remove(0);
    assert_eq!((progress.position, &progress.done), (at[0], &vec![at[1]..=at[1], at[3]..=at[3]]));
    assert_eq!(progress.given, [(at[0], 1), (at[2], 1), (at[4], 1)]);
    // Done, and not written down as that yet: a claim that goes on.
    let mut rx = channel.blocking_subscribe("other").unwrap();
    let first = rx.try_lease().unwrap();
    (1..4).for_each(|n| assert_eq!(number(&rx.try_recv().unwrap()), n));
    let progress = channel.group_progress().into_iter().find(|group| group.name.as_str() == "other").unwrap();
    assert_eq!((progress.position, progress.done), (first.offset(), vec![at[1]..=at[3]]));
}
