//! A process for each contestant: what one keeps in memory, or does behind its callers, is not in another's way.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write, stdin};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use tempfile::TempDir;

use crate::contestants::Kind;
use crate::logs::walrus_environment;
use crate::paced;
use crate::run::Shape;

/// The first argument of a process that this program starts.
pub const CHILD: &str = "--child";
/// What is asked for in the end.
const COUNT: &str = "count";

/// A contestant in its process and its directory. Dropped, both are gone.
pub struct Contestant {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    name: &'static str,
    _dir: TempDir,
}

impl Contestant {
    /// Starts a process that is told a name and a number, with a new directory in this one.
    pub fn start(dir: &Path, name: &'static str, number: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("disk_chan-durable-").tempdir_in(dir).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([CHILD, name, &number.to_string()])
            .arg(dir.path())
            .envs(walrus_environment(dir.path()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Contestant { child, orders, answers, name, _dir: dir }
    }

    /// Gives an order and waits for the answer.
    pub fn ask<const N: usize>(&mut self, order: impl Display) -> [u64; N] {
        let mut line = String::new();
        let sent = writeln!(self.orders.as_ref().unwrap(), "{order}");
        if sent.is_err() || self.answers.read_line(&mut line).unwrap() == 0 {
            panic!("{}: its process ended", self.name);
        }
        let numbers: Vec<_> = line.split_whitespace().map(|number| number.parse().unwrap()).collect();
        numbers.try_into().unwrap()
    }

    /// Panics unless all messages are there whose send returned.
    pub fn check(mut self) {
        let [sent, found] = self.ask(COUNT);
        assert_eq!(found, sent, "{}: messages found and messages sent", self.name);
    }
}

impl Drop for Contestant {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}

/// One of the processes: the name, the number, the directory.
pub fn run(args: &[String]) {
    // Whatever ends the process that reads the results, this one does not stay.
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let [name, number, dir] = args else { panic!("arguments: NAME NUMBER DIR") };
    let (number, dir) = (number.parse().unwrap(), Path::new(dir));
    if let Some(mode) = paced::Mode::named(name) {
        let mut channel = paced::Paced::new(dir, mode);
        return answer(|order| channel.answer(order));
    }
    // Many callers with files of their own.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).unwrap();
    let mut contestant = Some(Kind::named(name).unwrap().open(dir, number));
    let mut sent = 0;
    answer(|order| {
        if order == COUNT {
            return vec![sent, contestant.take().unwrap().count()];
        }
        let outcome = contestant.as_mut().unwrap().run(order.parse::<Shape>().unwrap());
        sent += outcome.all;
        vec![outcome.in_time, outcome.time.as_nanos() as u64]
    });
}

fn answer(mut to: impl FnMut(&str) -> Vec<u64>) {
    for order in stdin().lines().map_while(Result::ok) {
        let numbers: Vec<_> = to(&order).iter().map(u64::to_string).collect();
        println!("{}", numbers.join(" "));
    }
}
