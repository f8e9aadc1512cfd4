//! `disk-chan resize`.

use std::path::PathBuf;

use crate::Outcome;
use crate::face::Face;

/// Copy a channel into a new file of another geometry
#[derive(clap::Args)]
pub struct Args {
    /// The channel
    file: PathBuf,
}

pub fn run(args: &Args, _face: Face) -> Outcome<()> {
    Err(format!("{}: not there yet", args.file.display()).into())
}
