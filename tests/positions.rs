//! Groups as tools: where they stand, moved, copied, written down.

mod common;

use common::{Rng, body, child_argument, drain_numbers, number, open_new, seed, send, small, small_channel, within};
use disk_chan::{AckError, Channel, MoveGroupError, Offset, RecvError, RemoveGroupError, Start, TryRecvError};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, SystemTime};

#[test]
fn a_group_that_seeks_gets_what_the_model_says() {
    let mut rng = Rng::new(seed());
    for _ in 0..8 {
        let (_dir, channel) = open_new(small().max_pages(3).max_groups(2));
        let (tx, mut rx) = (channel.sender(), channel.blocking_subscribe("g").unwrap());
        let mut sent: Vec<Offset> = vec![];
        // The place in `sent` of what the group gets next.
        let mut next = 0;
        for _ in 0..400 {
            match rng.below(10) {
                0 => {
                    let (to, at) = match rng.below(4) {
                        0 => (Start::Oldest, 0),
                        1 => (Start::Newest, sent.len()),
                        _ if sent.is_empty() => continue,
                        _ => {
                            let at =
                                Offset::from_u64(sent[rng.below(sent.len() as u64) as usize].as_u64() + rng.below(2));
                            (Start::At(at.min(channel.end_offset())), sent.partition_point(|&o| o < at))
                        }
                    };
                    channel.seek_group("g", to, false).unwrap();
                    next = at.max(sent.partition_point(|&o| o < channel.first_offset()));
                }
                1..4 => {
                    if let Ok(offset) = tx.try_send(body(sent.len() as u64, 8 + rng.below(1500) as usize)) {
                        sent.push(offset);
                    }
                }
                _ => match rx.try_recv() {
                    Ok(message) => {
                        assert_eq!((message.offset(), number(&message)), (sent[next], next as u64));
                        next += 1;
                    }
                    Err(TryRecvError::Empty) => assert_eq!(next, sent.len()),
                    Err(error) => panic!("{error}"),
                },
            }
            let stats = &channel.groups()[0];
            assert_eq!(stats.lag, (sent.len() - next) as u64);
            let position = channel.group_positions().remove(0).1;
            assert_eq!(sent.partition_point(|&offset| offset < position), next);
        }
    }
}

#[test]
fn a_group_that_is_used_moves_only_by_force() {
    let (_dir, channel) = small_channel();
    send(&channel.sender(), 0..6, 50);
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let (first, second) = (rx.try_lease().unwrap(), rx.try_lease().unwrap());
    let error = channel.seek_group("g", Start::Newest, false).unwrap_err();
    assert!(matches!(error, MoveGroupError::InUse { held: 2 }), "{error:?}");
    channel.seek_group("g", Start::At(second.offset()), true).unwrap();
    assert_eq!(first.ack(), Err(AckError::GroupRemoved));
    assert_eq!(second.give_back(), Err(AckError::GroupRemoved));
    assert_eq!(drain_numbers(&mut rx), [1, 2, 3, 4, 5]);
    assert_eq!(channel.groups().len(), 1);
    let message = rx.clone().try_recv().map(drop);
    assert_eq!(message, Err(TryRecvError::Empty));
}

#[test]
fn where_a_group_cannot_go() {
    let (_dir, channel) = open_new(small().max_groups(1));
    assert!(matches!(channel.seek_group("g", Start::Oldest, false), Err(MoveGroupError::NotFound)));
    let _rx = channel.blocking_subscribe("g").unwrap();
    let full = channel.seek_group("g", Start::Oldest, false);
    assert!(matches!(full, Err(MoveGroupError::TooManyGroups { max: 1 })), "{full:?}");
    let (_dir, channel) = small_channel();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..3, 50);
    let beyond = Offset::from_u64(channel.end_offset().as_u64() + 1);
    let error = channel.seek_group("g", Start::At(beyond), false).unwrap_err();
    assert!(matches!(error, MoveGroupError::StartBeyondEnd { start, .. } if start == beyond), "{error:?}");
    assert_eq!(drain_numbers(&mut rx), [0, 1, 2], "it stays where it was");
    assert_eq!(channel.groups().len(), 1);
}

#[test]
fn receivers_that_wait_go_on_where_the_group_went() {
    within(60, || {
        let (dir, channel) = small_channel();
        let elsewhere = small().blocking_open(dir.file()).unwrap();
        let tx = channel.sender();
        send(&tx, 0..5, 50);
        let mut rx = channel.blocking_subscribe("g").unwrap();
        assert_eq!(drain_numbers(&mut rx), [0, 1, 2, 3, 4]);
        let waiting = [rx.clone(), elsewhere.blocking_subscribe("g").unwrap()].map(|mut rx| {
            thread::spawn(move || {
                let mut got = vec![];
                while let Ok(message) = rx.blocking_recv() {
                    got.push(number(&message));
                }
                got
            })
        });
        for round in 1..20 {
            channel.seek_group("g", Start::Oldest, true).unwrap();
            // One of the two that wait takes the last of them.
            while channel.groups()[0].lag > 0 {
                thread::sleep(Duration::from_millis(1));
            }
            if round % 3 == 0 {
                thread::sleep(Duration::from_millis(3)); // they sleep, or are about to
            }
        }
        channel.close();
        let got: Vec<u64> = waiting.into_iter().flat_map(|rx| rx.join().unwrap()).collect();
        // A message that was held when the group was moved came once more.
        let times = |n| got.iter().filter(|&&m| m == n).count();
        assert!((0..5).all(|n| times(n) >= 19), "{got:?}");
        assert!(matches!(rx.blocking_recv().map(drop), Err(RecvError::Disconnected)));
    });
}

#[test]
fn who_finds_another_group_of_that_name_does_not_go_on_there() {
    let (_dir, channel) = small_channel();
    send(&channel.sender(), 0..2, 50);
    let mut rx = channel.blocking_subscribe("g").unwrap();
    channel.seek_group("g", Start::Newest, false).unwrap();
    assert_eq!(rx.try_recv().map(drop), Err(TryRecvError::Empty));
    channel.remove_group("g", false).unwrap();
    let mut other = channel.blocking_subscribe("g").unwrap();
    assert_eq!(rx.try_recv().map(drop), Err(TryRecvError::GroupRemoved));
    assert_eq!(drain_numbers(&mut other), [0, 1]);
}

#[test]
fn a_moved_group_is_there_after_the_next_open_and_once() {
    let (dir, channel) = small_channel();
    send(&channel.sender(), 0..4, 50);
    let at = channel.read_slice(channel.first_offset(), 4).unwrap().records[2].offset();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    assert_eq!(drain_numbers(&mut rx).len(), 4);
    for _ in 0..30 {
        channel.seek_group("g", Start::Oldest, false).unwrap();
        channel.seek_group("g", Start::At(at), false).unwrap();
    }
    drop((rx, channel));
    let channel = small().blocking_open(dir.file()).unwrap();
    assert_eq!(channel.groups().len(), 1);
    assert_eq!(drain_numbers(&mut channel.blocking_subscribe("g").unwrap()), [2, 3]);
    channel.remove_group("g", false).unwrap();
    drop(channel);
    assert!(small().blocking_open(dir.file()).unwrap().groups().is_empty());
}

#[test]
fn a_copy_starts_at_the_first_message_that_the_other_is_not_done_with() {
    let (_dir, channel) = small_channel();
    send(&channel.sender(), 0..6, 50);
    let mut rx = channel.blocking_subscribe("g").unwrap();
    assert_eq!(number(&rx.try_recv().unwrap()), 0);
    let held = rx.try_lease().unwrap();
    assert_eq!(number(&rx.try_recv().unwrap()), 2);
    channel.copy_group("g", "copy").unwrap();
    assert_eq!(drain_numbers(&mut channel.blocking_subscribe("copy").unwrap()), [1, 2, 3, 4, 5]);
    held.give_back().unwrap();
    assert_eq!(drain_numbers(&mut rx), [1, 3, 4, 5]);
    channel.copy_group("g", "at the end").unwrap();
    send(&channel.sender(), 6..7, 50);
    assert_eq!(drain_numbers(&mut channel.blocking_subscribe("at the end").unwrap()), [6]);
    assert!(matches!(channel.copy_group("g", "copy"), Err(MoveGroupError::AlreadyExists)));
    assert!(matches!(channel.copy_group("none", "new"), Err(MoveGroupError::NotFound)));
    assert!(matches!(channel.copy_group("g", ""), Err(MoveGroupError::InvalidName { len: 0, .. })));
    assert!(matches!(channel.remove_group("none", false), Err(RemoveGroupError::NotFound)));
}

#[test]
fn the_lag_of_a_group_in_messages_bytes_and_time() {
    let (_dir, channel) = small_channel();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let figures = |channel: &Channel| {
        let g = channel.groups().remove(0);
        (g.lag, g.lag_bytes, g.oldest_unfinished)
    };
    assert_eq!(figures(&channel), (0, 0, None));
    let tx = channel.sender();
    tx.try_send(body(0, 100)).unwrap();
    thread::sleep(Duration::from_millis(20));
    tx.try_send(body(1, 30)).unwrap();
    let slice = channel.read_slice(channel.first_offset(), 2).unwrap();
    let times: Vec<SystemTime> = slice.records.iter().map(|record| record.sent_at()).collect();
    assert!(times[0] < times[1]);
    assert_eq!(figures(&channel), (2, 130, Some(times[0])));
    let held = rx.try_lease().unwrap();
    assert_eq!(figures(&channel), (2, 130, Some(times[0])));
    held.ack().unwrap();
    assert_eq!(figures(&channel), (1, 30, Some(times[1])));
    drain_numbers(&mut rx);
    assert_eq!(figures(&channel), (0, 0, None));
}

#[cfg(feature = "json")]
mod json {
    use super::*;
    use disk_chan::ImportGroupsError;

    #[test]
    fn positions_go_to_json_and_back() {
        let (_dir, channel) = small_channel();
        send(&channel.sender(), 0..9, 50);
        let names = ["billing", "a \"name\" of\n\u{1f980}", "7"];
        let mut groups = names.map(|name| channel.blocking_subscribe(name).unwrap());
        for (n, rx) in groups.iter_mut().enumerate() {
            (0..n * 2).for_each(|_| drop(rx.try_recv().unwrap()));
        }
        let text = channel.export_groups();
        groups.iter_mut().for_each(|rx| drop(drain_numbers(rx)));
        channel.remove_group("7", false).unwrap();
        channel.import_groups(&text, false).unwrap();
        groups[2] = channel.blocking_subscribe("7").unwrap();
        for (n, rx) in groups.iter_mut().enumerate() {
            assert_eq!(drain_numbers(rx), (n as u64 * 2..9).collect::<Vec<_>>());
        }
        assert_eq!(channel.groups().len(), 3);
    }

    #[test]
    fn what_is_no_export_of_this_channel_is_refused_and_changes_nothing() {
        let (_dir, channel) = small_channel();
        let (_other_dir, other) = small_channel();
        send(&channel.sender(), 0..3, 50);
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let text = channel.export_groups();
        assert_eq!(drain_numbers(&mut rx).len(), 3);
        let refused = other.import_groups(&text, false);
        assert!(matches!(refused, Err(ImportGroupsError::OtherChannel { .. })), "{refused:?}");
        for wrong in [
            "",
            "{}",
            "[]",
            "null",
            &text[1..],
            &text.replace("positions 1", "positions 2"),
            &text.replace("groups\"", "grops\""),
            &text.replace("\"offset\"", "\"place\""),
            &text.replace("\"g\"", "3"),
        ] {
            let refused = channel.import_groups(wrong, false);
            assert!(matches!(refused, Err(ImportGroupsError::Invalid { .. })), "{wrong}: {refused:?}");
        }
        let nowhere = text.replace("\"0\"", &format!("\"{}\"", u64::MAX));
        let refused = channel.import_groups(&nowhere, false);
        assert!(matches!(&refused, Err(ImportGroupsError::Group { name, .. }) if name.as_str() == "g"), "{refused:?}");
        assert!(drain_numbers(&mut rx).is_empty());
    }
}

/// Batches that are out when the group is moved are of the group before: nothing of them is forgotten.
#[test]
fn batches_are_received_while_the_group_is_moved() {
    within(60, || {
        let (_dir, channel) = open_new(small().page_size(1 << 20).max_held(1500));
        let tx = channel.sender();
        send(&tx, 0..5000, 8);
        let full = AtomicUsize::new(0);
        let mut rx = channel.blocking_subscribe("g").unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                while let Ok(batch) = rx.blocking_recv_many(1000) {
                    assert!(!batch.is_empty(), "it was asked to wait for some");
                    full.fetch_add(1, SeqCst);
                }
                drop(rx);
            });
            let mut moved = 0;
            while moved < 100 || full.load(SeqCst) < 20 {
                let to = if moved % 2 == 0 { Start::Oldest } else { Start::Newest };
                channel.seek_group("g", to, true).unwrap();
                moved += 1;
            }
            channel.close();
        });
        // Nothing is held any more, and every number of a group is free again.
        channel.remove_group("g", false).unwrap();
        let rest: Vec<_> = (0..8).map(|n| channel.blocking_subscribe(n).unwrap()).collect();
        assert_eq!(channel.groups().iter().map(|group| group.held).sum::<usize>(), 0);
        drop(rest);
    });
}

#[test]
fn a_clone_goes_on_where_the_group_was_moved_to() {
    let (_dir, channel) = small_channel();
    send(&channel.sender(), 0..2, 50);
    let mut rx = channel.blocking_subscribe("g").unwrap();
    for _ in 0..3 {
        channel.seek_group("g", Start::Oldest, false).unwrap();
        let mut clone = rx.clone();
        channel.seek_group("g", Start::Oldest, false).unwrap();
        assert_eq!(number(&clone.clone().try_recv().unwrap()), 0);
        assert_eq!(number(&clone.try_recv().unwrap()), 1);
        channel.seek_group("g", Start::Oldest, false).unwrap();
        assert_eq!(drain_numbers(&mut rx), [0, 1]);
    }
}

/// A child that moves the group again and again.
#[test]
fn child() {
    let Some(path) = child_argument() else { return };
    let channel = small().blocking_open(path).unwrap();
    loop {
        channel.seek_group("g", Start::Oldest, true).unwrap();
    }
}

#[test]
fn a_group_that_was_removed_stays_so_though_somebody_died_who_moved_it() {
    within(120, || {
        for n in 0..20 {
            let (dir, channel) = small_channel();
            send(&channel.sender(), 0..2, 50);
            let mut rx = channel.blocking_subscribe("g").unwrap();
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "child"]).env("DISK_CHAN_TEST_CHILD", dir.file());
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            // Once it is at work, at any point of that.
            while rx.try_recv().map(drop) != Err(TryRecvError::Empty) {}
            while rx.try_recv().map(drop).is_err() {}
            thread::sleep(Duration::from_micros(n * 137));
            child.kill().unwrap();
            child.wait().unwrap();
            channel.remove_group("g", true).unwrap();
            assert!(channel.groups().is_empty());
            drop(small().blocking_open(dir.file()).unwrap());
            assert!(channel.groups().is_empty(), "it came back");
        }
    });
}
