//! A process and a directory for each contestant.

use std::fmt::Display;
use std::path::Path;

use tempfile::TempDir;

use crate::contestants::Kind;
use crate::logs::walrus_environment;
use crate::paced;
use crate::process::{self, Process};
use crate::run::Shape;

/// What is asked for in the end.
const COUNT: &str = "count";

/// A contestant in its process and its directory. Dropped, both are gone.
pub struct Contestant {
    process: Process,
    name: &'static str,
    _dir: TempDir,
}

impl Contestant {
    /// Starts a process that is told a name and a number, with a new directory in this one.
    pub fn start(dir: &Path, name: &'static str, number: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("disk_chan-durable-").tempdir_in(dir).unwrap();
        let environment = walrus_environment(dir.path());
        let process = Process::start(name, &[name, &number.to_string()], dir.path(), &environment);
        Contestant { process, name, _dir: dir }
    }

    /// Gives an order and waits for the answer: whole numbers.
    pub fn ask<const N: usize>(&mut self, order: impl Display) -> [u64; N] {
        let numbers: [f64; N] = self.process.ask(order).try_into().unwrap();
        numbers.map(|number| number as u64)
    }

    /// Panics unless all messages are there whose send returned.
    pub fn check(mut self) {
        let [sent, found] = self.ask(COUNT);
        assert_eq!(found, sent, "{}: messages found and messages sent", self.name);
    }
}

/// One of the processes: the name, the number, the directory.
pub fn run(args: &[String]) {
    let [name, number, dir] = args else { panic!("arguments: NAME NUMBER DIR") };
    let (number, dir) = (number.parse().unwrap(), Path::new(dir));
    if let Some(mode) = paced::Mode::named(name) {
        let mut channel = paced::Paced::new(dir, mode);
        return answer(|order| channel.answer(order));
    }
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
    process::serve(|order| to(order).iter().map(|&number| number as f64).collect());
}
