//! Child processes of a test: the same test binary once more, in a role. Parent and child talk line by line.
//!
//! Each file that uses this has a test called `child`, which does nothing unless it was started in a role. No child
//! outlives the thread that started it: it asks the kernel to be killed with it.
#![allow(dead_code, reason = "each test file uses its own part of this module")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver as Queue, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use disk_chan::{Channel, Create, Lease, Offset, Options, Receiver, Sender};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, set_parent_process_death_signal, waitid};

use crate::common::{self, PATIENCE, body, number};

const ROLE: &str = "DISK_CHAN_TEST_ROLE";
const FILE: &str = "DISK_CHAN_TEST_FILE";
/// What a child says begins with this: its output has lines of the test harness, too.
const SAYS: &str = ">> ";

/// In a child: the words of its role, and the channel's file. In the test run itself nothing.
pub fn role() -> Option<(Vec<String>, PathBuf)> {
    let role = std::env::var(ROLE).ok()?;
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    Some((role.split_whitespace().map(str::to_owned).collect(), std::env::var_os(FILE).unwrap().into()))
}

/// In a child: says a line to the parent.
pub fn say(line: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{SAYS}{}", line.as_ref()).and_then(|()| out.flush()).unwrap();
}

/// In a child: the next line that the parent told it. Nothing when there is no more to come.
pub fn told() -> Option<String> {
    let mut line = String::new();
    let more = std::io::stdin().read_line(&mut line).unwrap() > 0;
    more.then(|| line.trim_end().to_owned())
}

/// In a child: the channel, which exists.
pub fn open(file: &Path) -> Channel {
    Options::new().create(Create::OpenExisting).blocking_open(file).unwrap()
}

/// A child process. Dropped, it is killed.
pub struct Process {
    child: Child,
    to: Option<ChildStdin>,
    said: Queue<(Instant, String)>,
    role: String,
}

impl Process {
    /// Starts a child in a role, which begins to run.
    pub fn start(role: &str, file: &Path) -> Self {
        Self::spawn(Command::new(std::env::current_exe().unwrap()), role, file)
    }

    /// The same in a process name space of its own, where it has the number 1.
    pub fn start_as_number_1(role: &str, file: &Path) -> Self {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["--pid", "--fork", "--kill-child"]).arg(std::env::current_exe().unwrap());
        Self::spawn(command, role, file)
    }

    fn spawn(mut command: Command, role: &str, file: &Path) -> Self {
        command.args(["--exact", "child", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role).env(FILE, file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (say, said) = channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some((_, line)) = line.split_once(SAYS)
                    && say.send((Instant::now(), line.to_owned())).is_err()
                {
                    return;
                }
            }
        });
        Self { to: child.stdin.take(), child, said, role: role.to_owned() }
    }

    /// A child that opens the file and does what it is told: see [`play`]. It has the channel open.
    pub fn puppet(file: &Path) -> Self {
        Self::start("puppet", file).ready()
    }

    /// Waits until it says that it is ready.
    pub fn ready(self) -> Self {
        assert_eq!(self.hear(), "ready");
        self
    }

    /// Tells it a line.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.to.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The next line that it says.
    pub fn hear(&self) -> String {
        self.hear_when().1
    }

    /// The next line that it says, and when it came.
    pub fn hear_when(&self) -> (Instant, String) {
        self.said.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("a child that plays {}: {error}", self.role))
    }

    /// The next line that it says, if it has said one.
    pub fn heard(&self) -> Option<String> {
        self.said.try_recv().ok().map(|(_, line)| line)
    }

    /// Tells it a line and waits for its answer.
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear()
    }

    /// Fails if it says anything for so long.
    pub fn silent_for(&self, time: Duration) {
        let said = self.said.recv_timeout(time).map(|(_, line)| line);
        assert_eq!(said, Err(RecvTimeoutError::Timeout), "a child that plays {}", self.role);
    }

    /// What it said and was not heard yet, up to its end; it must have ended.
    pub fn last_words(&self) -> Vec<String> {
        std::iter::from_fn(|| self.said.recv_timeout(PATIENCE).ok()).map(|(_, line)| line).collect()
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn wait_until(&self, what: WaitIdOptions) {
        waitid(WaitId::Pid(self.pid()), what).unwrap();
    }

    /// Stops it; returns when all its threads stand.
    pub fn stop(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
        self.wait_until(WaitIdOptions::STOPPED);
    }

    /// Lets it run on.
    pub fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// Kills it and does not reap it: it stays a zombie. Says when.
    pub fn kill(&self) -> Instant {
        let when = Instant::now();
        kill_process(self.pid(), Signal::KILL).unwrap();
        self.wait_until(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        when
    }

    /// What the kernel says of it: `Z` is a zombie, `T` stopped.
    pub fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid().as_raw_nonzero())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    /// Tells it that there is no more to come, and waits until it has ended well.
    pub fn end(mut self) {
        self.to = None;
        let status = self.child.wait().unwrap();
        assert!(status.success(), "a child that plays {}: {status}", self.role);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a puppet does, one line at a time; each is answered by one line. Messages and leases are given as their
/// number and their attempts, errors by their names.
pub fn play(channel: Channel) {
    let (mut channel, mut sender) = (Some(channel), None::<Sender>);
    let mut receivers = HashMap::<String, Receiver>::new();
    let mut leases = HashMap::<(String, u64), Lease>::new();
    say("ready");
    while let Some(line) = told() {
        let words: Vec<&str> = line.split(' ').collect();
        let all = |names: &[&str]| names.contains(&words[0]);
        if all(&["send", "send_task", "try_send"]) {
            let tx = sender.get_or_insert_with(|| channel.as_ref().unwrap().sender());
            let message = body(words[1].parse().unwrap(), words[2].parse().unwrap());
            say(match words[0] {
                "send" => shown(tx.blocking_send(message)),
                "send_task" => shown(smol::block_on(tx.send(message))),
                _ => shown(tx.try_send(message)),
            });
            continue;
        }
        if all(&["recv", "recv_task", "try_recv", "lease", "lease_task", "hold"]) {
            let rx = receivers
                .entry(words[1].to_owned())
                .or_insert_with(|| channel.as_ref().unwrap().blocking_subscribe(words[1]).unwrap());
            let keep = |lease: Lease| {
                let answer = format!("{} {}", number(&lease), lease.attempts());
                leases.insert((words[1].to_owned(), number(&lease)), lease);
                answer
            };
            let message = |m: disk_chan::Message<'_>| format!("{} {}", number(&m), m.attempts());
            match words[0] {
                "recv" => say(rx.blocking_recv().map_or_else(|e| format!("{e:?}"), message)),
                "recv_task" => say(smol::block_on(rx.recv()).map_or_else(|e| format!("{e:?}"), message)),
                "try_recv" => say(rx.try_recv().map_or_else(|e| format!("{e:?}"), message)),
                "lease" => say(rx.blocking_lease().map_or_else(|e| format!("{e:?}"), keep)),
                "lease_task" => say(smol::block_on(rx.lease()).map_or_else(|e| format!("{e:?}"), keep)),
                // Borrowed from the file until the next line, which is not answered.
                _ => {
                    let held = rx.blocking_recv_many(words[2].parse().unwrap()).unwrap();
                    say(held.iter().map(|m| number(m).to_string()).collect::<Vec<_>>().join(" "));
                    told();
                }
            }
            continue;
        }
        let of = || channel.as_ref().unwrap();
        match words[..] {
            ["subscribe", group] => {
                receivers.insert(group.to_owned(), of().blocking_subscribe(group).unwrap());
                say("subscribed");
            }
            ["ack", group, n] => say(format!("{:?}", leases.remove(&key(group, n)).unwrap().ack())),
            ["give_back", group, n] => say(format!("{:?}", leases.remove(&key(group, n)).unwrap().give_back())),
            ["remove", group, force] => say(format!("{:?}", of().remove_group(group, force == "by_force"))),
            ["close"] => {
                of().close();
                say("closed");
            }
            ["figures"] => say(figures(of())),
            ["new_sender"] => {
                sender = Some(of().sender());
                say("made");
            }
            ["drop_sender"] => {
                drop(sender.take());
                say("dropped");
            }
            ["drop_channel"] => {
                drop(channel.take());
                say("dropped");
            }
            ["thread"] => say(rustix::thread::gettid().as_raw_nonzero().to_string()),
            ["number"] => say(std::process::id().to_string()),
            _ => panic!("a puppet knows no {line}"),
        }
    }
}

fn key(group: &str, n: &str) -> (String, u64) {
    (group.to_owned(), n.parse().unwrap())
}

fn shown(sent: Result<Offset, impl std::fmt::Debug>) -> String {
    sent.map_or_else(|error| format!("{error:?}"), |offset| offset.to_string())
}

/// All that a channel says of itself.
pub fn figures(channel: &Channel) -> String {
    let mut groups = channel.groups();
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    format!("{} {} {:?} {groups:?}", channel.len(), channel.is_empty(), channel.stats())
}

/// In the child: threads that share one `&Sender` send numbered messages until the parent tells the end, and say how
/// far they came after `each` messages.
pub fn stream(channel: &Channel, [threads, len, each]: [u64; 3]) {
    let tx = &channel.sender();
    let ended = &AtomicBool::new(false);
    say("ready");
    thread::scope(|scope| {
        for t in 0..threads {
            scope.spawn(move || {
                for n in 0.. {
                    if ended.load(Ordering::Relaxed) {
                        return say(format!("end {t} {n}"));
                    }
                    tx.blocking_send(stamped(t, n, len as usize)).unwrap();
                    if n % each == each - 1 {
                        say(format!("sent {t} {}", n + 1));
                    }
                }
            });
        }
        told();
        ended.store(true, Ordering::Relaxed);
    });
}

/// A message of a thread: quickly made, so that a sender does little but send.
pub fn stamped(t: u64, n: u64, len: usize) -> Vec<u8> {
    let mut message = vec![t as u8; len];
    message[..8].copy_from_slice(&(t << 32 | n).to_le_bytes());
    message
}

/// Fails unless every message is done and nobody holds one.
pub fn balanced(channel: &Channel) {
    for group in channel.groups() {
        assert_eq!((group.lag, group.held, group.returned), (0, 0, 0), "{group:?}");
    }
}

/// Bytes of a message whose copy into a page takes milliseconds.
pub const LONG: usize = 6 << 20;

/// A ring whose pages have room for two long messages and some short ones.
pub fn long() -> Options {
    common::small().page_size(16 << 20).typical_message_len(1 << 10)
}

/// Has a puppet send a long message, and stops it when it has reserved its place and not committed: the offset of
/// that place. Nothing if it was too fast, or came to lie elsewhere.
pub fn stop_in_send(puppet: &mut Process, channel: &Channel, n: u64) -> Option<Offset> {
    let (before, len) = (channel.stats().end_offset, channel.len());
    puppet.tell(&format!("send {n} {LONG}"));
    let start = Instant::now();
    while channel.stats().end_offset == before {
        assert!(start.elapsed() < PATIENCE, "the puppet sends nothing");
        std::hint::spin_loop();
    }
    puppet.stop();
    let end = channel.stats().end_offset;
    let one_more = end.page() == before.page() && end.index() == before.index() + 1;
    (one_more && channel.len() == len).then_some(before)
}

/// Runs a scene until it came off `times` times. It says whether it did: some depend on stopping a process in time.
pub fn until_it_comes_off(times: usize, mut scene: impl FnMut(usize) -> Option<()>) {
    let (mut done, mut tries) = (0, 0);
    while done < times {
        tries += 1;
        assert!(tries <= 20 * times, "came off {done} times in {tries}");
        done += usize::from(scene(done).is_some());
    }
}

/// How long a wait may take that should take 100 ms at most: this is a machine that does other work, too.
pub const PROMPT: Duration = Duration::from_secs(2);

/// Prints how long waits took, and fails if one was not prompt.
pub fn prompt(what: &str, waits: &[Duration]) {
    let mut sorted = waits.to_vec();
    sorted.sort();
    let worst = *sorted.last().unwrap();
    println!("{what}: {} waits, median {:?}, worst {worst:?}", sorted.len(), sorted[sorted.len() / 2]);
    assert!(worst < PROMPT, "{what}: {sorted:?}");
}
