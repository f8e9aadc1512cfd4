//! `disk-chan metrics`.

use std::path::PathBuf;

use crate::Outcome;
use crate::face::Face;

/// Print the figures of a channel in the Prometheus text format
#[derive(clap::Args)]
pub struct Args {
    /// The channel
    file: PathBuf,
}

pub fn run(args: &Args, _face: Face) -> Outcome<()> {
    Err(format!("{}: not there yet", args.file.display()).into())
}
