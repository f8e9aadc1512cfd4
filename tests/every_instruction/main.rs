//! Death and standstill at every instruction.
//!
//! A child process does one operation on a channel: it sends, receives, turns a page, makes a group, cleans up after
//! dead ones. It is stepped by ptrace to each instruction of that operation and killed there. A second process, which
//! had the channel open before or opens it then, must at once be able to send, to receive and to go round the ring,
//! and the books must balance: what was acknowledged as sent is not lost, nothing comes that was not sent, nothing
//! comes twice but what the dead one held, and nothing of the dead one is left. The same with a child that is stopped
//! at the instruction while others go round the ring as far as they can, and goes on afterwards.
//!
//! `cargo test` tries the instructions at which the channel's file changes, and those right behind them. With
//! `DISK_CHAN_EVERY_INSTRUCTION=all` every instruction is tried. Arguments choose operations by a part of their name.
//! The table that is printed names the functions of the crate in which the child was killed and stopped.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_imports))]

mod books;
mod child;
#[path = "../common/mod.rs"]
mod common;
#[cfg(target_arch = "x86_64")]
mod sweep;
#[cfg(target_arch = "x86_64")]
mod trace;

use std::path::Path;
use std::process::ExitCode;

/// What libtest would be told: which operations to try.
struct Arguments {
    filters: Vec<String>,
    skip: Vec<String>,
    exact: bool,
    list: bool,
    ignored: bool,
}

impl Arguments {
    fn parse() -> Self {
        let mut parsed = Self { filters: vec![], skip: vec![], exact: false, list: false, ignored: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--exact" => parsed.exact = true,
                "--list" => parsed.list = true,
                "--ignored" => parsed.ignored = true,
                "--skip" => parsed.skip.extend(arguments.next()),
                "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" | "--shuffle-seed" => {
                    arguments.next();
                }
                flag if flag.starts_with('-') => {}
                filter => parsed.filters.push(filter.into()),
            }
        }
        parsed
    }

    fn choose(&self, name: &str) -> bool {
        let matches = |filter: &String| if self.exact { filter == name } else { name.contains(filter.as_str()) };
        !self.ignored && (self.filters.is_empty() || self.filters.iter().any(matches)) && !self.skip.iter().any(matches)
    }
}

#[cfg(target_arch = "x86_64")]
fn main() -> ExitCode {
    if let (Ok(act), Some(file)) = (std::env::var(child::ACT), std::env::var_os(child::FILE)) {
        child::run(&act, Path::new(&file));
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    let chosen: Vec<_> =
        sweep::operations().into_iter().filter(|op| op.is_due() && arguments.choose(&op.test_name())).collect();
    if arguments.list {
        chosen.iter().for_each(|op| println!("{}: test", op.test_name()));
        return ExitCode::SUCCESS;
    }
    sweep::run(&chosen)
}

#[cfg(not(target_arch = "x86_64"))]
fn main() -> ExitCode {
    eprintln!("Nothing was tried: only on x86-64 does this test know how to step a process.");
    ExitCode::FAILURE
}
