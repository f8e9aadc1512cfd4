//! The `disk-chan` command: each subcommand in a file of its own.
#![forbid(unsafe_code)]

mod bench;
mod dead_letters;
mod dump;
mod exec;
mod face;
mod figures;
mod geometry;
mod groups;
mod info;
mod input;
mod load;
mod message_json;
mod messages;
mod metrics;
mod output;
mod plan;
mod progress;
mod rates;
mod recv;
mod relay;
mod repair;
mod resize;
mod ring_picture;
mod screen;
mod send;
mod snapshot;
mod stop;
mod tail;
mod top;
mod unfinished;
mod verify;

use std::error::Error;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::face::Face;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// A channel that lives in a file
#[derive(Parser)]
#[command(name = "disk-chan", version, after_help = face::EXIT_STATUS)]
struct Cli {
    /// Print JSON, one value a line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Info(info::Args),
    Tail(tail::Args),
    Send(send::Args),
    Recv(recv::Args),
    Relay(relay::Args),
    Groups(groups::Args),
    DeadLetters(dead_letters::Args),
    Top(top::Args),
    Metrics(metrics::Args),
    Verify(verify::Args),
    Repair(repair::Args),
    Resize(resize::Args),
    Dump(dump::Args),
    Load(load::Args),
    Bench(bench::Args),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  disk-chan completions bash > ~/.local/share/bash-completion/completions/disk-chan"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let face = Face { json: cli.json };
    let outcome = match &cli.command {
        Command::Info(args) => info::run(args, face),
        Command::Tail(args) => tail::run(args, face),
        Command::Send(args) => send::run(args, face),
        Command::Recv(args) => recv::run(args, face),
        Command::Relay(args) => relay::run(args, face),
        Command::Groups(args) => groups::run(args, face),
        Command::DeadLetters(args) => dead_letters::run(args, face),
        Command::Top(args) => top::run(args, face),
        Command::Metrics(args) => metrics::run(args, face),
        Command::Verify(args) => verify::run(args, face),
        Command::Repair(args) => repair::run(args, face),
        Command::Resize(args) => resize::run(args, face),
        Command::Dump(args) => dump::run(args, face),
        Command::Load(args) => load::run(args, face),
        Command::Bench(args) => bench::run(args),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "disk-chan", &mut std::io::stdout());
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has enough.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            face::say(format_args!("{}", with_causes(&*error)));
            face::exit_code(&*error)
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The error and its sources in one line, leaving out a source whose text the line already has.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Parses `16777216`, `16384K`, `16M` or `1G` (also `KiB`, `MiB`, `GiB`); units are powers of 1024.
fn bytes(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        unit => return Err(format!("unknown unit {unit:?}, known are K, M and G")),
    };
    let number: usize = digits.parse().map_err(|e| format!("{digits:?}: {e}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_string())
}
