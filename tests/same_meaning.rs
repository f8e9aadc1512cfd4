//! Several processes on one file: disconnected, full, lagged, the figures, close and removing a group mean the same
//! across processes as in one.

mod common;
#[path = "common/process.rs"]
mod process;

use std::thread;
use std::time::{Duration, Instant};

use common::{Dir, body, drain, drain_numbers, fill, number, small, within};
use disk_chan::{
    AckError, Channel, Full, Options, Overflow, Receiver, RecvError, RemoveGroupError, SendError, TryRecvError,
    TrySendError,
};
use process::{LONG, Process, balanced, figures, long, open, play, prompt, stop_in_send, stream, until_it_comes_off};

/// What a child of these tests does.
#[test]
fn child() {
    let Some((role, file)) = process::role() else { return };
    match role[0].as_str() {
        "puppet" => play(open(&file)),
        "stream" => stream(&open(&file), [1, 2, 3].map(|at| role[at].parse().unwrap())),
        other => panic!("no role {other}"),
    }
}

/// A new channel, with a receiver of its group "g".
fn new(options: Options) -> (Dir, Channel, Receiver) {
    let (dir, channel) = common::open_new(options);
    let rx = channel.blocking_subscribe("g").unwrap();
    (dir, channel, rx)
}

/// Senders and channels of any process keep receivers waiting, those of a stopped one too; not those of a dead one.
#[test]
fn disconnected_means_the_same() {
    within(60, || {
        let mut waits = vec![];
        for how in ["drop", "end", "kill"] {
            let (dir, channel, mut rx) = new(small());
            let mut puppet = Process::puppet(&dir.file());
            assert!(puppet.ask("send 1 40").contains(':'));
            drop(channel);
            assert_eq!(number(&rx.blocking_recv().unwrap()), 1);
            assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
            let waiting = thread::spawn(move || {
                let end = rx.blocking_recv().map(drop);
                (end, Instant::now(), rx)
            });
            puppet.stop();
            thread::sleep(Duration::from_millis(200));
            puppet.go_on();
            assert_eq!(puppet.ask("drop_channel"), "dropped");
            thread::sleep(Duration::from_millis(100));
            assert!(!waiting.is_finished(), "there is a sender");
            let start = Instant::now();
            match how {
                "drop" => assert_eq!(puppet.ask("drop_sender"), "dropped"),
                "end" => puppet.end(),
                _ => drop(puppet.kill()),
            }
            let (end, when, mut rx) = waiting.join().unwrap();
            assert_eq!(end, Err(RecvError::Disconnected));
            waits.push(when - start);
            // It is not final.
            let mut puppet = Process::puppet(&dir.file());
            assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
            puppet.ask("send 2 40");
            assert_eq!(number(&rx.blocking_recv().unwrap()), 2);
            // The other way round.
            assert_eq!((puppet.ask("drop_sender"), puppet.ask("subscribe g")), ("dropped".into(), "subscribed".into()));
            let channel = open(&dir.file());
            assert_eq!((puppet.ask("drop_channel"), puppet.ask("try_recv g")), ("dropped".into(), "Empty".into()));
            puppet.tell("recv g");
            puppet.silent_for(Duration::from_millis(100));
            let start = Instant::now();
            drop(channel);
            let (when, answer) = puppet.hear_when();
            assert_eq!(answer, "Disconnected");
            waits.push(when - start);
        }
        prompt("the end of all senders", &waits);
    });
}

/// Every reason for which a ring is full is told to each process, whoever is the reason.
#[test]
fn full_means_the_same() {
    within(60, || {
        let (dir, channel) = common::open_new(small());
        let tx = channel.sender();
        let (mut one, mut two) = (Process::puppet(&dir.file()), Process::puppet(&dir.file()));
        let full = |one: &mut Process, reason: Full| {
            let answer = one.ask("try_send 0 1000");
            assert_eq!(answer, format!("{:?}", TrySendError::Full(reason.clone())));
            assert_eq!(tx.try_send(body(0, 1000)).unwrap_err(), TrySendError::Full(reason));
        };
        let sent = fill(&channel, 0, 1000);
        full(&mut one, Full::NoGroup);

        assert_eq!(two.ask("subscribe slow"), "subscribed");
        let mut fast = channel.blocking_subscribe("fast").unwrap();
        assert_eq!(drain_numbers(&mut fast).len() as u64, sent);
        // Of all that was sent, and of the places at the ends of pages where it did not fit.
        let TrySendError::Full(slow) = tx.try_send(body(0, 1000)).unwrap_err() else { panic!() };
        let Full::Group { name, behind } = &slow else { panic!("{slow:?}") };
        assert!(name.as_str() == "slow" && (sent..sent + 5).contains(behind), "{slow:?} of {sent}");
        full(&mut one, slow);

        // A message that lies in the page and is held where it lies.
        assert_eq!(two.ask("hold slow 1"), "0");
        channel.remove_group("slow", true).unwrap();
        full(&mut one, Full::HeldMessage);
        two.tell("done");
        assert_eq!(two.ask("try_recv slow"), "GroupRemoved");
        assert!(one.ask("try_send 0 1000").contains(':'));
        assert_eq!(number(&fast.blocking_recv().unwrap()), 0);
    });
}

#[test]
fn full_of_a_send_that_a_stopped_process_has_not_ended() {
    within(60, || {
        until_it_comes_off(1, |_| {
            let (dir, channel) = common::open_new(long().overflow(Overflow::DropOldest));
            let (mut sleeper, mut other) = (Process::puppet(&dir.file()), Process::puppet(&dir.file()));
            stop_in_send(&mut sleeper, &channel, 0)?;
            let tx = channel.sender();
            let full = loop {
                if let Err(full) = tx.try_send(body(1, LONG)) {
                    break full;
                }
            };
            assert_eq!(full, TrySendError::Full(Full::UnfinishedSend));
            assert_eq!(other.ask(&format!("try_send 1 {LONG}")), format!("{full:?}"));
            sleeper.go_on();
            assert!(sleeper.hear().contains(':'));
            tx.try_send(body(1, LONG)).unwrap();
            std::fs::remove_file(dir.file()).unwrap();
            Some(())
        });
    });
}

/// As many sends run as there are cells, each in another process that stands still.
#[test]
fn full_of_sends_that_stopped_processes_make() {
    within(60, || {
        until_it_comes_off(1, |_| {
            let (dir, channel, mut rx) = new(long().page_size(32 << 20).max_op_cells(4));
            let mut sleepers: Vec<_> = (0..4).map(|_| Process::puppet(&dir.file())).collect();
            let mut other = Process::puppet(&dir.file());
            for (n, sleeper) in sleepers.iter_mut().enumerate() {
                stop_in_send(sleeper, &channel, n as u64)?;
            }
            let full = TrySendError::Full(Full::TooManySending);
            assert_eq!(channel.sender().try_send(body(9, 8)).unwrap_err(), full);
            assert_eq!(other.ask("try_send 9 8"), format!("{full:?}"));
            // One that waits gets the cell of one that dies.
            other.tell("send 9 8");
            other.silent_for(Duration::from_millis(200));
            let death = sleepers[3].kill();
            let (when, answer) = other.hear_when();
            assert!(answer.contains(':'), "{answer}");
            prompt("a dead sender's cell", &[when - death]);
            sleepers[..3].iter().for_each(Process::go_on);
            sleepers[..3].iter().for_each(|sleeper| drop(sleeper.hear()));
            assert_eq!((0..4).map(|_| number(&rx.blocking_recv().unwrap())).collect::<Vec<_>>(), [0, 1, 2, 9]);
            balanced(&channel);
            std::fs::remove_file(dir.file()).unwrap();
            Some(())
        });
    });
}

/// A group that lost messages is told once, by whichever process asks first, and exactly.
#[test]
fn lagged_means_the_same() {
    within(60, || {
        let (dir, channel, mut rx) = new(small().overflow(Overflow::DropOldest));
        let mut puppet = Process::puppet(&dir.file());
        common::send(&channel.sender(), 0..1000, 1000);
        let lost = 1000 - channel.len();
        assert_eq!(puppet.ask("try_recv g"), format!("Lagged({lost})"));
        assert_eq!(number(&rx.try_recv().unwrap()), lost, "it is told once");
        assert_eq!(puppet.ask("try_recv g"), format!("{} 1", lost + 1));
        assert_eq!(channel.groups()[0].lagged, lost);
        assert_eq!(puppet.ask("figures"), figures(&channel));
        drain(&mut rx);

        // A third process sends all the time: what two of them were given and told makes up all.
        let mut stream = Process::start("stream 1 8 16", &dir.file()).ready();
        let (mut got, mut lagged, mut sent) = (0, 0, None);
        let (turns, mut told) = (channel.stats().page_turns, false);
        loop {
            let ended = sent.is_some();
            if !told && channel.stats().page_turns > turns + 100 {
                stream.tell("end");
                told = true;
            }
            while let Some(line) = stream.heard() {
                sent = line.strip_prefix("end 0 ").map(|n| n.parse::<u64>().unwrap()).or(sent);
            }
            let here = match rx.try_recv() {
                Ok(m) => format!("{} 1", number(&m)),
                Err(error) => format!("{error:?}"),
            };
            let answers = [here, puppet.ask("try_recv g")];
            for answer in &answers {
                if let Some(n) = answer.strip_prefix("Lagged(") {
                    lagged += n.trim_end_matches(')').parse::<u64>().unwrap();
                } else if answer != "Empty" {
                    got += 1;
                }
            }
            if ended && answers.iter().all(|answer| answer == "Empty") {
                break;
            }
        }
        println!("{got} received, {lagged} lagged");
        assert!(lagged > 0);
        assert_eq!(Some(got + lagged), sent);
        assert_eq!(channel.groups()[0].lagged, lost + lagged);
    });
}

#[test]
fn length_and_figures_are_the_same() {
    within(60, || {
        let (dir, channel, mut rx) = new(small());
        let mut puppet = Process::puppet(&dir.file());
        let same = |puppet: &mut Process, len: u64, of_group: (u64, usize, usize, u64)| {
            assert_eq!(puppet.ask("figures"), figures(&channel));
            let (stats, group) = (channel.stats(), &channel.groups()[0]);
            assert_eq!((channel.len(), stats.len, stats.opens), (len, len, 2));
            assert_eq!((group.lag, group.held, group.returned, group.redelivered), of_group);
        };
        same(&mut puppet, 0, (0, 0, 0, 0));
        for n in 0..5 {
            assert!(puppet.ask(&format!("send {n} 100")).contains(':'));
        }
        same(&mut puppet, 5, (5, 0, 0, 0));
        assert_eq!(channel.stats().handles, 3, "a channel here, and a channel and a sender there");
        assert_eq!((puppet.ask("lease g"), number(&rx.try_recv().unwrap())), ("0 1".into(), 1));
        let lease = rx.try_lease().unwrap();
        same(&mut puppet, 5, (4, 2, 0, 0));
        assert_eq!(puppet.ask("give_back g 0"), "Ok(())");
        same(&mut puppet, 5, (4, 1, 1, 0));
        assert_eq!(puppet.ask("lease g"), "0 2");
        same(&mut puppet, 5, (4, 2, 0, 1));
        assert_eq!((puppet.ask("ack g 0"), lease.ack()), ("Ok(())".into(), Ok(())));
        same(&mut puppet, 5, (2, 0, 0, 1));
        let sent = fill(&channel, 0, 1000);
        assert_eq!(channel.stats().free_pages, 0);
        same(&mut puppet, 5 + sent, (2 + sent, 0, 0, 1));
        assert_eq!((puppet.ask("drop_sender"), puppet.ask("drop_channel")), ("dropped".into(), "dropped".into()));
        assert_eq!(channel.stats().handles, 1);
        puppet.end();
        assert_eq!(channel.stats().opens, 1);
    });
}

#[test]
fn close_means_the_same() {
    within(60, || {
        let (dir, channel, mut rx) = new(small());
        let mut puppet = Process::puppet(&dir.file());
        let sent = fill(&channel, 0, 1000);
        let tx = channel.sender();
        let sender = thread::spawn({
            let tx = tx.clone();
            move || (tx.blocking_send(body(0, 1000)), Instant::now())
        });
        let mut other = channel.blocking_subscribe("other").unwrap();
        assert_eq!(drain(&mut other).len() as u64, sent);
        let receiver = thread::spawn(move || (other.blocking_recv().map(drop), Instant::now()));
        let mut there = Process::puppet(&dir.file());
        there.tell("send_task 0 1000");
        there.silent_for(Duration::from_millis(100));
        assert!(!sender.is_finished() && !receiver.is_finished());
        let start = Instant::now();
        assert_eq!(puppet.ask("close"), "closed");
        let ((refused, first), (end, second)) = (sender.join().unwrap(), receiver.join().unwrap());
        let (third, answer) = there.hear_when();
        assert_eq!((refused, end, answer), (Err(SendError::Closed), Err(RecvError::Disconnected), "Closed".into()));
        prompt("a close", &[first - start, second - start, third - start]);
        assert!(channel.is_closed());
        // What was sent before is still to be had, by each process.
        assert_eq!(puppet.ask("recv g"), "0 1");
        assert_eq!(drain_numbers(&mut rx), (1..sent).collect::<Vec<_>>());
        assert_eq!(
            (puppet.ask("recv g"), rx.blocking_recv().map(drop)),
            ("Disconnected".into(), Err(RecvError::Disconnected))
        );
        // Opened for sending in another process; senders from before stay closed.
        assert_eq!(puppet.ask("new_sender"), "made");
        assert!(!channel.is_closed());
        assert!(puppet.ask("send 7 40").contains(':'));
        assert_eq!(tx.try_send(body(8, 40)).unwrap_err(), TrySendError::Closed);
        assert_eq!(there.ask("send 8 40"), "Closed");
        assert_eq!(number(&rx.blocking_recv().unwrap()), 7);
    });
}

#[test]
fn removing_a_group_means_the_same() {
    within(60, || {
        let (dir, channel, mut rx) = new(small());
        let mut puppet = Process::puppet(&dir.file());
        common::send(&channel.sender(), 0..2, 1000);
        let lease = rx.try_lease().unwrap();
        assert_eq!(puppet.ask("remove g gently"), format!("{:?}", Err::<(), _>(RemoveGroupError::InUse { held: 1 })));
        assert_eq!(puppet.ask("lease g"), "1 1");
        assert!(matches!(channel.remove_group("g", false), Err(RemoveGroupError::InUse { held: 2 })));
        // Others wait: for a message of the group, and for the room that it takes.
        let waiting = thread::spawn(move || (rx.blocking_recv().map(drop), Instant::now()));
        let mut there = Process::puppet(&dir.file());
        there.tell("recv_task g");
        let mut keeps = channel.blocking_subscribe("keeps").unwrap();
        there.silent_for(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        let start = Instant::now();
        assert_eq!(puppet.ask("remove g by_force"), "Ok(())");
        let (end, first) = waiting.join().unwrap();
        let (second, answer) = there.hear_when();
        assert_eq!((end, answer), (Err(RecvError::GroupRemoved), "GroupRemoved".into()));
        prompt("the removal of a group", &[first - start, second - start]);
        assert_eq!((lease.ack(), puppet.ask("ack g 1")), (Err(AckError::GroupRemoved), "Err(GroupRemoved)".into()));
        assert!(matches!(channel.remove_group("g", false), Err(RemoveGroupError::NotFound)));
        assert_eq!(drain_numbers(&mut keeps), [0, 1]);

        // A group that fills the ring: its removal in one process makes room in another.
        assert_eq!(puppet.ask("subscribe slow"), "subscribed");
        let sent = fill(&channel, 2, 1000);
        drain(&mut keeps);
        let tx = channel.sender();
        let waiting = thread::spawn(move || tx.blocking_send(body(2 + sent, 1000)).map(|_| Instant::now()));
        thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        let start = Instant::now();
        assert_eq!(there.ask("remove slow gently"), "Ok(())");
        prompt("room by the removal of a group", &[waiting.join().unwrap().unwrap() - start]);
        assert_eq!((puppet.ask("recv slow"), drain_numbers(&mut keeps)), ("GroupRemoved".into(), vec![2 + sent]));
    });
}
