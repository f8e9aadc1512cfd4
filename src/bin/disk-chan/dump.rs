//! `disk-chan dump`.

use std::path::PathBuf;

use crate::Outcome;
use crate::face::Face;

/// Write every message and group position to standard output
#[derive(clap::Args)]
pub struct Args {
    /// The channel
    file: PathBuf,
}

pub fn run(args: &Args, _face: Face) -> Outcome<()> {
    Err(format!("{}: not there yet", args.file.display()).into())
}
