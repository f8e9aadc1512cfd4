//! The `disk-chan` command: measure a channel, send lines into one, receive lines from one.
#![forbid(unsafe_code)]

mod bench;
mod pipe;
mod plan;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// A channel that lives in a file
#[derive(Parser)]
#[command(name = "disk-chan", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bench(bench::Args),
    Send(pipe::SendArgs),
    Recv(pipe::RecvArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Send(args) => pipe::send(&args),
        Command::Recv(args) => pipe::recv(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("disk-chan: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
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
