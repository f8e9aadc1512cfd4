//! A process for each contestant: what one allocates, or does behind its callers, is not in another's way.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write, stdin};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio, exit};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};

/// The first argument of a process that this program starts.
pub const CHILD: &str = "--child";

/// This program, in a process that does as it is told. Dropped, it is killed.
pub struct Process {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    name: String,
}

impl Process {
    /// Starts a process with these arguments and a directory behind them. The name is for messages.
    pub fn start(name: &str, args: &[&str], dir: &Path, environment: &[(&str, &Path)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(CHILD)
            .args(args)
            .arg(dir)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Process { child, orders, answers, name: name.to_owned() }
    }

    /// Gives an order and waits for the answer.
    pub fn ask(&mut self, order: impl Display) -> Vec<f64> {
        let mut line = String::new();
        let sent = writeln!(self.orders.as_ref().unwrap(), "{order}");
        if sent.is_err() || self.answers.read_line(&mut line).unwrap() == 0 {
            panic!("{}: its process ended", self.name);
        }
        line.split_whitespace().map(|number| number.parse().unwrap()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the process that was started: as many files as allowed; and whatever ends the process that reads the answers, or
/// panics in a thread of this one, ends this one.
pub fn prepare() {
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).unwrap();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        exit(101);
    }));
}

/// Answers orders until there are none.
pub fn serve(mut answer: impl FnMut(&str) -> Vec<f64>) {
    for order in stdin().lines().map_while(Result::ok) {
        let numbers: Vec<_> = answer(&order).iter().map(f64::to_string).collect();
        println!("{}", numbers.join(" "));
    }
}
