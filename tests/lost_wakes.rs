//! The ways in which other designs lose a wake, one test for each: how the interleaving comes about, how the test
//! forces it, and that nobody sleeps on while there is something for him.

mod common;
#[path = "common/process.rs"]
mod process;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::{CountingWaker, Dir, Rng, body, drain_numbers, eventually, fill, number, seed, small, within};
use disk_chan::{Channel, Full, Options, Receiver, TrySendError};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use process::{PROMPT, Process, long, open, play, prompt, say, stop_in_send, told, until_it_comes_off};

/// What a child of these tests does.
#[test]
fn child() {
    let Some((role, file)) = process::role() else { return };
    let words: Vec<&str> = role.iter().map(String::as_str).collect();
    match words[..] {
        ["puppet"] => play(open(&file)),
        ["send_and_pause", first] => send_and_pause(&open(&file), first.parse().unwrap()),
        ["take_and_die"] => take_and_die(&open(&file)),
        ["receivers", count] => receivers(&open(&file), count.parse().unwrap()),
        _ => panic!("no role {words:?}"),
    }
}

/// A new channel, with a receiver of its group "g".
fn new(options: Options) -> (Dir, Channel, Receiver) {
    let (dir, channel) = common::open_new(options);
    let rx = channel.blocking_subscribe("g").unwrap();
    (dir, channel, rx)
}

/// A thread that waits for a message: its number, and when it came.
fn waiting(rx: &Receiver) -> thread::JoinHandle<(u64, Instant)> {
    let mut rx = rx.clone();
    thread::spawn(move || (number(&rx.blocking_recv().unwrap()), Instant::now()))
}

/// Long enough for somebody to have gone to sleep.
fn asleep() {
    thread::sleep(Duration::from_millis(20));
}

/// A puppet that is run from system call to system call. Dropped, it is killed.
struct Traced<'p> {
    puppet: &'p mut Process,
    thread: Pid,
}

impl<'p> Traced<'p> {
    fn new(puppet: &'p mut Process) -> Self {
        let thread = Pid::from_raw(puppet.ask("thread").parse().unwrap());
        ptrace::seize(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Self { puppet, thread }
    }

    /// Runs it to the next call's beginning or end.
    fn step(&self) {
        ptrace::syscall(self.thread, None).unwrap();
        let stopped = waitpid(self.thread, Some(WaitPidFlag::__WALL)).unwrap();
        assert!(matches!(stopped, WaitStatus::PtraceSyscall(_)), "{stopped:?}");
    }

    /// Runs it to where it is about to wake a sleeper of another process. False if it has answered before that.
    fn runs_to_a_wake(&self) -> bool {
        loop {
            self.step();
            let info = ptrace::syscall_info(self.thread).unwrap();
            if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
                continue;
            }
            // SAFETY: `op` says that this is the member that the kernel filled in.
            let call = unsafe { info.u.entry };
            match call.nr as i64 {
                // Shared: the wakes inside a process are private ones.
                libc::SYS_futex if call.args[1] == libc::FUTEX_WAKE as u64 => return true,
                libc::SYS_write => {
                    self.step();
                    return false;
                }
                _ => {}
            }
        }
    }

    /// Has it carry out an order; how often it woke somebody in another process.
    fn wakes(&mut self, order: &str) -> usize {
        self.puppet.tell(order);
        let wakes = std::iter::repeat_with(|| self.runs_to_a_wake()).take_while(|wakes| *wakes).count();
        self.puppet.hear();
        wakes
    }
}

impl Drop for Traced<'_> {
    fn drop(&mut self) {
        // The process is not dead before its tracer has seen the end of the thread.
        let _ = rustix::process::kill_process(self.puppet.pid(), rustix::process::Signal::KILL);
        while waitpid(self.thread, Some(WaitPidFlag::__WALL))
            .is_ok_and(|status| !matches!(status, WaitStatus::Signaled(..)))
        {}
    }
}

/// (1) A sender is killed between its commit and its wake. Forced by running it from system call to system call: it is
/// killed, or left standing, when it is about to make the call that wakes; the message is there then, and nobody is
/// told.
#[test]
fn a_sender_killed_between_commit_and_wake() {
    within(60, || {
        let mut waits = vec![];
        until_it_comes_off(8, |round| {
            let (dir, channel, rx) = new(small());
            let mut puppet = Process::puppet(&dir.file());
            let traced = Traced::new(&mut puppet);
            let receiver = waiting(&rx);
            asleep();
            traced.puppet.tell("send 1 40");
            let wakes = traced.runs_to_a_wake();
            assert_eq!(channel.len(), 1, "committed");
            let start = Instant::now();
            // Or killed, here.
            let left_standing = (round % 2 == 0).then_some(traced);
            let (got, when) = receiver.join().unwrap();
            assert_eq!(got, 1);
            waits.push(when.saturating_duration_since(start));
            drop(left_standing);
            // It did not if the receiver was not asleep yet.
            wakes.then_some(())
        });
        prompt("a message of which nobody was told", &waits);
    });
}

/// In the child: sends, and pauses so that the receiver goes to sleep, again and again.
fn send_and_pause(channel: &Channel, seed: u64) {
    let (tx, mut rng) = (channel.sender(), Rng::new(seed));
    say("ready");
    for n in 0.. {
        tx.blocking_send(body(n, 40)).unwrap();
        let end = Instant::now() + Duration::from_micros(rng.below(100));
        while Instant::now() < end {
            std::hint::spin_loop();
        }
    }
}

/// (1) The same at any moment: a sender that wakes a receiver most of the time is killed, forty times, and all that it
/// committed is received by one who only waits.
#[test]
fn a_sender_killed_at_any_moment() {
    within(60, || {
        let mut rng = Rng::new(seed());
        let (dir, channel, mut rx) = new(small());
        let receiver = thread::spawn(move || rx.iter().count());
        let mut waits = vec![];
        for round in 0..40 {
            let sender = Process::start(&format!("send_and_pause {round}"), &dir.file()).ready();
            thread::sleep(Duration::from_micros(rng.below(5000)));
            let death = sender.kill();
            eventually("the receiver has all", || channel.groups()[0].lag == 0);
            waits.push(death.elapsed());
        }
        prompt("all of a killed sender's messages", &waits);
        drop(channel);
        println!("{} messages", receiver.join().unwrap());
    });
}

/// In the child: waits for a message, and dies when it has it.
fn take_and_die(channel: &Channel) {
    let mut rx = channel.blocking_subscribe("g").unwrap();
    say("ready");
    let _lease = rx.blocking_lease().unwrap();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

/// (2) A wake is spent on a receiver that is then killed. Forced by a receiver that kills itself as soon as it has the
/// message, while the other process stands still, so that its wake, too, is spent before it can use it; when it goes on
/// there is nobody left to tell it that the message was given back.
#[test]
fn a_wake_spent_on_a_receiver_that_takes_the_message_and_dies() {
    within(60, || {
        let mut waits = vec![];
        for round in 0..4 {
            let (dir, channel, _rx) = new(small());
            let victim = Process::start("take_and_die", &dir.file()).ready();
            let mut other = Process::puppet(&dir.file());
            other.tell(if round % 2 == 0 { "lease g" } else { "lease_task g" });
            asleep();
            other.stop();
            channel.sender().blocking_send(body(0, 40)).unwrap();
            eventually("the victim is dead", || victim.state() == 'Z');
            let start = Instant::now();
            other.go_on();
            let (when, answer) = other.hear_when();
            assert_eq!(answer, "0 2", "it was handed out before");
            waits.push(when - start);
        }
        prompt("a message that somebody took and died", &waits);
    });
}

/// (2) The same while the other runs, looks, finds nothing and sleeps again. That it came so is told by its attempts;
/// rounds in which it was faster do not count.
#[test]
fn a_wake_spent_on_a_receiver_that_is_faster_and_dies() {
    within(60, || {
        let mut waits = vec![];
        until_it_comes_off(4, |_| {
            let (dir, channel, rx) = new(small());
            let victim = Process::start("take_and_die", &dir.file()).ready();
            let mut sender = Process::puppet(&dir.file());
            let receiver = waiting(&rx);
            asleep();
            let start = Instant::now();
            assert!(sender.ask("send 0 40").contains(':'));
            let (got, when) = receiver.join().unwrap();
            assert_eq!(got, 0);
            waits.push(when.saturating_duration_since(start));
            let taken = channel.groups()[0].redelivered > 0;
            if taken {
                eventually("the victim is dead", || victim.state() == 'Z');
            }
            taken.then_some(())
        });
        prompt("a message that a faster one took and died", &waits);
    });
}

/// (2) A receiver is killed that was told and has not looked yet. Forced by stopping its process while it sleeps: the
/// wake ends its sleep in the kernel, and it runs no more.
#[test]
fn a_wake_spent_on_a_receiver_that_is_killed_before_it_looks() {
    within(60, || {
        let mut waits = vec![];
        for round in 0..4 {
            let (dir, channel, rx) = new(small());
            let (mut victim, mut sender) = (Process::puppet(&dir.file()), Process::puppet(&dir.file()));
            victim.tell("lease g");
            asleep();
            victim.stop();
            let receiver = waiting(&rx);
            asleep();
            let start = Instant::now();
            assert!(sender.ask("send 0 40").contains(':'));
            if round % 2 == 0 {
                victim.kill();
            }
            let (got, when) = receiver.join().unwrap();
            assert_eq!((got, channel.groups()[0].redelivered), (0, 0));
            waits.push(when.saturating_duration_since(start));
        }
        prompt("a message of which one who was killed was told first", &waits);
    });
}

/// In the child: threads that wait for one message each, and say which they got.
fn receivers(channel: &Channel, count: usize) {
    let rx = channel.blocking_subscribe("g").unwrap();
    thread::scope(|scope| {
        for _ in 0..count {
            let mut rx = rx.clone();
            scope.spawn(move || {
                // Done with before it is told: the parent may kill this process then.
                let number = number(&rx.blocking_recv().unwrap());
                say(number.to_string());
            });
        }
        say("ready");
        told();
    });
}

/// (3) A wake of one lowers the flag while others sleep, and the next message finds it low. Forced by many who sleep in
/// two processes and take one message each: every message after the first must find the flag up, and a batch, which
/// wakes once, must be passed on.
#[test]
fn a_wake_of_one_while_others_sleep() {
    within(60, || {
        const SLEEPERS: u64 = 32;
        let mut took = [Duration::ZERO; 2];
        for batch in [0, 1, 0, 1] {
            let (dir, channel, _rx) = new(small().max_held(64));
            let processes: Vec<_> = (0..2).map(|_| Process::start("receivers 16", &dir.file()).ready()).collect();
            asleep();
            let tx = channel.sender();
            let start = Instant::now();
            if batch == 1 {
                tx.blocking_send_many(&(0..SLEEPERS).map(|n| body(n, 40)).collect::<Vec<_>>()).unwrap();
            } else {
                for n in 0..SLEEPERS {
                    tx.blocking_send(body(n, 40)).unwrap();
                    eventually("one has it", || channel.groups()[0].lag == 0);
                }
            }
            eventually("all have theirs", || channel.groups()[0].lag == 0);
            took[batch] += start.elapsed();
            // Which process gets how many is open.
            let mut got: Vec<u64> = vec![];
            while got.len() < SLEEPERS as usize {
                got.extend(processes.iter().filter_map(Process::heard).map(|line| line.parse::<u64>().unwrap()));
            }
            got.sort();
            assert_eq!(got, (0..SLEEPERS).collect::<Vec<_>>());
        }
        println!("{SLEEPERS} who slept, twice: {:?} for messages one by one, {:?} for a batch", took[0], took[1]);
        // By a look every 50 ms they would take 1.6 seconds each.
        assert!(took.iter().max() < Some(&Duration::from_millis(800)), "{took:?}");
    });
}

/// (3) A sender finds the flag up and nobody asleep, and lowers it, when one goes to sleep. Forced by leaving the flag
/// up each time, by a wait that ends without a message, and by going to sleep while another process sends.
#[test]
fn the_flag_is_lowered_while_one_goes_to_sleep() {
    within(60, || {
        let mut rng = Rng::new(seed());
        let (dir, _channel, mut rx) = new(small());
        let mut sender = Process::puppet(&dir.file());
        let mut waits = vec![];
        for n in 0..300 {
            assert!(rx.recv_timeout(Duration::from_micros(200)).is_err());
            let start = Instant::now();
            sender.tell(&format!("send {n} 40"));
            let sleep = start + Duration::from_micros(rng.below(80));
            while Instant::now() < sleep {
                std::hint::spin_loop();
            }
            assert_eq!(number(&rx.blocking_recv().unwrap()), n);
            waits.push(start.elapsed());
            sender.hear();
        }
        prompt("a message that came while one went to sleep", &waits);
    });
}

/// (4) A sleeper dies, and the file says for ever that it sleeps, so that every send makes a call for nobody. Forced by
/// killing a process asleep, with nobody else there who sleeps and would notice: senders must, and then make no call.
#[test]
fn a_dead_sleeper_costs_nothing_for_ever() {
    within(60, || {
        for sleeps_for in ["recv g", "send 0 1000"] {
            let (dir, channel, mut rx) = new(small());
            let (mut victim, mut sender) = (Process::puppet(&dir.file()), Process::puppet(&dir.file()));
            if sleeps_for != "recv g" {
                fill(&channel, 1, 1000);
            }
            victim.tell(sleeps_for);
            asleep();
            let mut traced = Traced::new(&mut sender);
            let death = victim.kill();
            // Room for many sends to come; nobody sleeps for long in this process.
            if sleeps_for != "recv g" {
                while rx.try_iter().count() > 0 {}
            }
            let mut wakes = 0;
            while channel.stats().opens > 2 {
                wakes += traced.wakes("try_send 1 8");
                assert!(death.elapsed() < PROMPT, "senders do not notice the dead sleeper: {wakes} wakes");
            }
            println!("{wakes} wakes for one who had died while it waited ({sleeps_for}), in {:?}", death.elapsed());
            // Fewer than it takes to fill the ring, when they would look for other reasons.
            assert!(wakes < 500, "{wakes} wakes for nobody");
            // One look that finds nobody, and then none.
            traced.wakes("try_send 1 8");
            assert_eq!((0..20).map(|_| traced.wakes("try_send 1 8")).sum::<usize>(), 0);
        }
    });
}

/// A receive or a send that is polled by hand, so that the test knows when it was told.
struct ByHand<'f, T> {
    future: Pin<Box<dyn Future<Output = T> + 'f>>,
    woken: Arc<CountingWaker>,
    waker: Waker,
    /// How often it was woken before it was polled last.
    before: usize,
}

impl<'f, T> ByHand<'f, T> {
    /// Polled once: it waits.
    fn new(future: impl Future<Output = T> + 'f) -> Self {
        let (woken, waker) = CountingWaker::new();
        let mut by_hand = Self { future: Box::pin(future), woken, waker, before: 0 };
        assert!(by_hand.poll().is_pending());
        by_hand
    }

    fn poll(&mut self) -> Poll<T> {
        self.before = self.woken.count();
        self.future.as_mut().poll(&mut Context::from_waker(&self.waker))
    }

    fn is_told(&self) -> bool {
        self.woken.count() > self.before
    }

    /// Waits until it was told, and polls it.
    fn result(&mut self) -> T {
        loop {
            eventually("it is told", || self.is_told());
            if let Poll::Ready(result) = self.poll() {
                return result;
            }
        }
    }
}

/// (5) A task that waits is told and dropped before it looks. Forced by polling by hand: the first is told by another
/// process and dropped; the second, of the same process, must be told by that, and not at the next timed look.
#[test]
fn a_task_that_was_told_and_is_dropped_passes_it_on() {
    within(60, || {
        for given_back in [false, true] {
            let (dir, _channel, mut one) = new(small());
            let mut other = Process::puppet(&dir.file());
            if given_back {
                other.ask("send 0 40");
                assert_eq!(other.ask("lease g"), "0 1");
            }
            let mut two = one.clone();
            let first = ByHand::new(one.recv());
            let mut second = ByHand::new(two.recv());
            if given_back {
                assert_eq!(other.ask("give_back g 0"), "Ok(())");
            } else {
                other.ask("send 0 40");
            }
            eventually("the first is told", || first.is_told());
            drop(first);
            assert!(second.is_told(), "it was not passed on");
            assert_eq!(number(&second.result().unwrap()), 0);
        }
    });
}

/// (5) The same, and nobody else waits in this process: the one who gets the message is in another. The wake comes from
/// a third process, or from this one, where the task that was told is the only one to be told.
#[test]
fn a_task_that_was_told_and_is_dropped_leaves_the_message_to_another_process() {
    within(60, || {
        let mut waits = vec![];
        for (who, given_back) in [("there", false), ("here", false), ("there", true), ("here", true)] {
            let (dir, channel, mut rx) = new(small());
            let (mut sender, mut receiver) = (Process::puppet(&dir.file()), Process::puppet(&dir.file()));
            let tx = channel.sender();
            let mut lease = None;
            if given_back {
                tx.blocking_send(body(0, 40)).unwrap();
                match who {
                    "there" => assert_eq!(sender.ask("lease g"), "0 1"),
                    _ => lease = Some(rx.try_lease().unwrap()),
                }
            }
            let first = ByHand::new(rx.recv());
            receiver.tell("recv g");
            asleep();
            let start = Instant::now();
            match (who, given_back) {
                ("there", false) => drop(sender.ask("send 0 40")),
                ("there", true) => assert_eq!(sender.ask("give_back g 0"), "Ok(())"),
                (_, false) => drop(tx.blocking_send(body(0, 40)).unwrap()),
                (_, true) => lease.unwrap().give_back().unwrap(),
            }
            drop(first);
            let (when, answer) = receiver.hear_when();
            assert_eq!(answer, if given_back { "0 2" } else { "0 1" });
            waits.push(when.saturating_duration_since(start));
        }
        prompt("a message that a dropped task was told of", &waits);
    });
}

/// One message fills a page of the smallest ring.
fn page(channel: &Channel) -> usize {
    channel.max_message_len() * 2 / 3
}

/// (6) Senders that wait for room are told by whatever makes it. Here a message is held in place by a receiver whose
/// group was removed, so that nobody will finish it: the death of that process is the event. Forced by killing it when
/// the sender, in this or another process, sleeps.
#[test]
fn room_made_by_the_death_of_a_receiver() {
    within(60, || {
        let mut waits = vec![];
        for round in 0..4 {
            let (dir, channel, mut rx) = new(small());
            let (mut victim, mut there) = (Process::puppet(&dir.file()), Process::puppet(&dir.file()));
            let tx = channel.sender();
            assert_eq!(victim.ask("subscribe held"), "subscribed");
            let sent = fill(&channel, 0, page(&channel));
            assert_eq!(victim.ask("hold held 1"), "0");
            channel.remove_group("held", true).unwrap();
            assert_eq!(drain_numbers(&mut rx), (0..sent).collect::<Vec<_>>());
            let message = body(9, page(&channel));
            assert_eq!(tx.try_send(&message).unwrap_err(), TrySendError::Full(Full::HeldMessage));
            let death;
            if round % 2 == 0 {
                let sender = thread::spawn(move || tx.blocking_send(message).map(|_| Instant::now()).unwrap());
                thread::sleep(Duration::from_millis(100));
                assert!(!sender.is_finished());
                death = victim.kill();
                waits.push(sender.join().unwrap() - death);
            } else {
                there.tell(&format!("send_task 9 {}", page(&channel)));
                there.silent_for(Duration::from_millis(100));
                death = victim.kill();
                waits.push(there.hear_when().0 - death);
            }
            assert_eq!(number(&rx.blocking_recv().unwrap()), 9);
        }
        prompt("room by the death of a receiver", &waits);
    });
}

/// (6) Here the receiver that died held the oldest page by leases: they come to another process, and when that is done
/// with them there is room. Two events, of which each must tell.
#[test]
fn room_made_by_who_inherits_from_a_dead_receiver() {
    within(60, || {
        let (dir, channel, mut rx) = new(small());
        let (mut victim, mut sender) = (Process::puppet(&dir.file()), Process::puppet(&dir.file()));
        let sent = fill(&channel, 0, page(&channel));
        assert_eq!(victim.ask("lease g"), "0 1");
        assert_eq!(drain_numbers(&mut rx), (1..sent).collect::<Vec<_>>());
        let receiver = waiting(&rx);
        sender.tell(&format!("send 9 {}", page(&channel)));
        sender.silent_for(Duration::from_millis(100));
        let death = victim.kill();
        let (got, when) = receiver.join().unwrap();
        assert_eq!(got, 0);
        prompt("the lease and then the room", &[when - death, sender.hear_when().0 - death]);
        assert_eq!(drain_numbers(&mut rx), [9]);
    });
}

/// (6) Here a sender died in the middle of its send, in the oldest page, which all groups are else done with. Forced by
/// stopping it in its copy, as the last of its page.
#[test]
fn room_made_by_the_death_of_a_sender() {
    within(60, || {
        let mut waits = vec![];
        until_it_comes_off(3, |_| {
            let (dir, channel, _rx) = new(long());
            let (mut victim, mut other) = (Process::puppet(&dir.file()), Process::puppet(&dir.file()));
            stop_in_send(&mut victim, &channel, 0)?;
            let tx = channel.sender();
            // More than the rest of the page has room for: it goes on to the next.
            let long = channel.max_message_len();
            tx.try_send(vec![0; long]).unwrap();
            let full = tx.try_send(vec![0; long]).unwrap_err();
            assert!(matches!(full, TrySendError::Full(_)), "{full}");
            assert_eq!(other.ask("try_recv g"), "Empty");
            let sender = thread::spawn(move || tx.blocking_send(vec![1; long]).map(|_| Instant::now()).unwrap());
            thread::sleep(Duration::from_millis(100));
            assert!(!sender.is_finished());
            let death = victim.kill();
            waits.push(sender.join().unwrap() - death);
            std::fs::remove_file(dir.file()).unwrap();
            Some(())
        });
        prompt("room by the death of a sender", &waits);
    });
}

/// (7) A send that waits is told of room and takes none, since its task is dropped: others must hear of it. Forced by
/// polling by hand; the room is made by another process, and is enough for one.
#[test]
fn a_dropped_send_leaves_the_room_to_others() {
    within(60, || {
        let (dir, channel, rx) = new(small());
        let (tx, len) = (channel.sender(), page(&channel));
        drop(rx);
        let mut receiver = Process::puppet(&dir.file());
        let sent = fill(&channel, 0, len);
        for n in 0..6 {
            let dropped = ByHand::new(tx.send(body(100, len)));
            // A batch whose first messages are sent already when it is dropped would be seen by others; this sent none.
            let many = [body(100, len), body(100, len)];
            let batch = ByHand::new(tx.send_many(&many));
            let mut kept = ByHand::new(tx.send(body(sent + n, len)));
            assert_eq!(receiver.ask("recv g"), format!("{n} 1"));
            eventually("they are told", || dropped.is_told());
            drop((dropped, batch));
            kept.result().unwrap();
        }
    });
}

/// (7) A batch of which the first messages were placed is dropped: who waits for them was told all the same. And a wait
/// for room that ends without any, or a reservation that is not committed, takes nothing from the next.
#[test]
fn every_way_out_of_a_send_tells() {
    within(60, || {
        let mut waits = vec![];
        for _ in 0..4 {
            let (dir, channel, mut rx) = new(small());
            let (tx, len) = (channel.sender(), page(&channel));
            let mut receiver = Process::puppet(&dir.file());
            receiver.tell("recv g");
            asleep();
            let start = Instant::now();
            let messages: Vec<_> = (0..4).map(|n| body(n, len)).collect();
            drop(ByHand::new(tx.send_many(&messages)));
            let (when, answer) = receiver.hear_when();
            assert_eq!(answer, "0 1");
            waits.push(when.saturating_duration_since(start));
            let placed = 1 + rx.try_iter().count() as u64;
            assert!((2..4).contains(&placed), "{placed} of 4 were placed");

            let sent = fill(&channel, 10, len);
            drop(tx.reserve(len).unwrap());
            std::mem::forget(tx.reserve(len).unwrap());
            assert!(tx.send_timeout(body(0, len), Duration::from_millis(20)).unwrap_err().is_timeout());
            let timed = thread::spawn({
                let tx = tx.clone();
                move || tx.send_timeout(body(0, len), Duration::from_millis(60)).unwrap_err().is_timeout()
            });
            let mut there = Process::puppet(&dir.file());
            there.tell(&format!("send 50 {len}"));
            assert!(timed.join().unwrap());
            there.silent_for(Duration::from_millis(20));
            let start = Instant::now();
            assert_eq!(number(&rx.try_recv().unwrap()), 10);
            waits.push(there.hear_when().0 - start);
            assert_eq!(drain_numbers(&mut rx).len() as u64, sent);
        }
        prompt("what those left who went", &waits);
    });
}

/// (7) A send that waits is told of room, and its process is killed before it takes it, or stands still: another
/// process's send has it. Forced by stopping it while it sleeps.
#[test]
fn a_killed_send_leaves_the_room_to_others() {
    within(60, || {
        let mut waits = vec![];
        for kill in [true, false, true, false] {
            let (dir, channel, mut rx) = new(small());
            let (tx, len) = (channel.sender(), page(&channel));
            let sent = fill(&channel, 0, len);
            let (mut victim, mut receiver) = (Process::puppet(&dir.file()), Process::puppet(&dir.file()));
            victim.tell(&format!("send 50 {len}"));
            asleep();
            victim.stop();
            let sender = thread::spawn(move || tx.blocking_send(body(60, len)).map(|_| Instant::now()).unwrap());
            thread::sleep(Duration::from_millis(100));
            assert!(!sender.is_finished());
            let start = Instant::now();
            assert_eq!(receiver.ask("recv g"), "0 1");
            if kill {
                victim.kill();
            }
            waits.push(sender.join().unwrap().saturating_duration_since(start));
            let mut expected: Vec<_> = (1..sent).chain([60]).collect();
            if !kill {
                // It goes on, and waits for the next.
                victim.go_on();
                victim.silent_for(Duration::from_millis(100));
                let start = Instant::now();
                assert_eq!(number(&rx.try_recv().unwrap()), expected.remove(0));
                waits.push(victim.hear_when().0 - start);
                expected.push(50);
            }
            assert_eq!(drain_numbers(&mut rx), expected);
        }
        prompt("room that one did not take", &waits);
    });
}

/// (8) More wakes than anything could hold, one for each message: a wake says "look again" and is no count, so none is
/// lost and none is too many. Forced by stopping the process that sleeps while thousands are sent, and then once more
/// by as many sleepers as there are messages behind what is one wake to their process.
#[test]
fn a_wake_is_a_level_and_not_a_count() {
    within(60, || {
        const MESSAGES: u64 = 3000;
        let (dir, channel, _rx) = new(small().max_pages(16));
        let tx = channel.sender();
        let mut sleeper = Process::puppet(&dir.file());
        sleeper.tell("recv g");
        asleep();
        sleeper.stop();
        common::send(&tx, 0..MESSAGES, 40);
        let start = Instant::now();
        sleeper.go_on();
        let (when, first) = sleeper.hear_when();
        assert_eq!(first, "0 1");
        let mut waits = vec![when - start];
        for n in 1..MESSAGES {
            assert_eq!(sleeper.ask("recv g"), format!("{n} 1"));
        }
        assert_eq!(sleeper.ask("try_recv g"), "Empty");

        for _ in 0..4 {
            let sleepers = Process::start("receivers 4", &dir.file()).ready();
            asleep();
            sleepers.stop();
            common::send(&tx, 0..4, 40);
            let start = Instant::now();
            sleepers.go_on();
            let mut got: Vec<_> = (0..4).map(|_| sleepers.hear_when()).collect();
            waits.extend(got.iter().map(|(when, _)| *when - start));
            got.sort_by(|a, b| a.1.cmp(&b.1));
            assert!(got.iter().map(|(_, line)| line.as_str()).eq(["0", "1", "2", "3"]));
        }
        prompt("what was sent to those who stood still", &waits);
    });
}
