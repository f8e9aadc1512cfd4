//! The two processes of a contestant, as who gives the orders sees them.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::contestants::{Kind, Place};
use crate::work::Order;

/// The first argument of a process that this program starts.
pub const CHILD: &str = "--child";

const SENDER: usize = 0;
const RECEIVER: usize = 1;

/// A sender and a receiver, kept over all rounds. Dropped, they have ended, and their files are gone.
pub struct Pair {
    children: [Child; 2],
    lines: [UnixStream; 2],
    /// Who said what; nothing when it ended.
    said: Receiver<(usize, Option<String>)>,
    dir: TempDir,
}

impl Pair {
    pub fn new(kind: Kind, size: usize) -> Self {
        let dir = tempfile::Builder::new().prefix("disk_chan-processes-").tempdir().unwrap();
        let (sender, receiver) = kind.wire().unzip();
        let (says, said) = channel();
        let start = |role, fd| start(role, fd, kind, size, &dir, says.clone());
        // First the receiver, so that who sends finds it.
        let (second, to_second) = start(RECEIVER, receiver);
        let mut ready = said.iter();
        expect(ready.next(), RECEIVER);
        let (first, to_first) = start(SENDER, sender);
        expect(ready.next(), SENDER);
        Pair { children: [first, second], lines: [to_first, to_second], said, dir }
    }

    fn listen(&self, from: usize) -> String {
        expect(self.said.recv().ok(), from)
    }

    fn order(&mut self, order: Order) -> [Vec<u64>; 2] {
        writeln!(self.lines[RECEIVER], "{order}").unwrap();
        self.listen(RECEIVER);
        writeln!(self.lines[SENDER], "{order}").unwrap();
        let mut answers = [Vec::new(), Vec::new()];
        for _ in 0..2 {
            let (from, answer) = self.said.recv().unwrap();
            let answer = answer.expect("a process ended in the middle of a round");
            answers[from] = answer.split_whitespace().map(|number| number.parse().unwrap()).collect();
        }
        answers
    }

    /// A round as fast as it goes: from the first send to the last receipt. And whether the contestant is warm.
    pub fn flow(&mut self, order: Order) -> (Duration, bool) {
        let [sender, receiver] = self.order(order);
        (Duration::from_nanos(receiver[0] - sender[0]), receiver[1] == 1)
    }

    /// Rounds until the contestant has come to its steady state.
    pub fn warm(&mut self, order: Order) {
        while !self.flow(order).1 {}
    }

    /// A paced round.
    pub fn pace(&mut self, order: Order) -> Vec<u64> {
        let [_, receiver] = self.order(order);
        receiver
    }
}

fn expect(said: Option<(usize, Option<String>)>, from: usize) -> String {
    match said {
        Some((who, Some(text))) if who == from => text,
        _ => panic!("a process ended before it answered"),
    }
}

fn start(
    role: usize,
    fd: Option<OwnedFd>,
    kind: Kind,
    size: usize,
    dir: &TempDir,
    says: Sender<(usize, Option<String>)>,
) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args([CHILD, ["sender", "receiver"][role], kind.name(), &size.to_string()])
        .arg(dir.path())
        .stdin(fd.map_or(Stdio::null(), Stdio::from))
        .stdout(OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    let reader = BufReader::new(ours.try_clone().unwrap());
    thread::spawn(move || {
        for line in reader.lines().map_while(Result::ok) {
            let _ = says.send((role, Some(line)));
        }
        let _ = says.send((role, None));
    });
    (child, ours)
}

impl Drop for Pair {
    fn drop(&mut self) {
        for line in &self.lines {
            let _ = line.shutdown(std::net::Shutdown::Both);
        }
        let patience = Instant::now() + Duration::from_secs(5);
        for child in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < patience {
                thread::sleep(Duration::from_millis(1));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        Place::new(self.dir.path()).clean();
    }
}
