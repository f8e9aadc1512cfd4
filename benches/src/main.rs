//! How fast: `cargo run --release -p benches -- [PART ...] [OPTIONS]`; see `args.rs`.

mod args;
mod charts;
mod figures;
mod grid;
mod growth;
mod idle;
mod latency;
mod lookup;
mod machine;
mod opening;
mod process;
mod report;
mod typed;

use std::process::ExitCode;

use args::{Args, Part, USAGE};
use report::Report;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|arg| arg == process::CHILD).is_some() {
        process::prepare();
        let args: Vec<_> = args.collect();
        match args[0].as_str() {
            "grid" => grid::child(&args[1..]),
            "latency" => latency::child(&args[1..]),
            "growth" => growth::child(&args[1..]),
            "open" => opening::child(&args[1..]),
            "idle" => idle::child(&args[1..]),
            part => panic!("no part {part}"),
        }
        return ExitCode::SUCCESS;
    }
    let Some(args) = Args::parse(args) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut report = match Report::new(&args) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{}: {error}", args.out.display());
            return ExitCode::FAILURE;
        }
    };
    machine::print(&args.dir);
    if args.runs(Part::Grid) {
        grid::grid(&args, &mut report);
    }
    if args.runs(Part::Latency) {
        latency::latency(&args, &mut report);
    }
    if args.runs(Part::Growth) {
        growth::growth(&args, &mut report);
    }
    if args.runs(Part::Open) {
        opening::open(&args, &mut report);
    }
    if args.runs(Part::Idle) {
        idle::idle(&args, &mut report);
    }
    if args.runs(Part::Lookup) {
        lookup::lookup(&args, &mut report);
    }
    if args.runs(Part::Typed) {
        typed::typed_channels(&args, &mut report);
    }
    println!("\nall figures: {}", report.out().join("bench.json").display());
    ExitCode::SUCCESS
}
