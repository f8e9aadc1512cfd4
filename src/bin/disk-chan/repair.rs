//! `disk-chan repair`.

use std::path::PathBuf;

use disk_chan::Rewrite;

use crate::Outcome;
use crate::face::Face;
use crate::resize;
use crate::verify;

/// Write what is whole in a damaged file into a new one
///
/// Says what is wrong, and what would be kept; with --apply it writes that. The damaged file stays as it is. It may be
/// cut short, or have lost one copy of its header; without both copies nothing in it can be read. Messages that do not
/// verify are left out; groups keep what they had done as far as that verifies.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  disk-chan repair broken.chan\n  disk-chan repair broken.chan --apply whole.chan")]
pub struct Args {
    /// The channel
    file: PathBuf,
    /// Only say what would be kept and lost, as without --apply
    #[arg(long, conflicts_with = "apply")]
    dry_run: bool,
    /// Write what is whole into this file, which may not be there
    #[arg(long, value_name = "NEW")]
    apply: Option<PathBuf>,
}

pub fn run(args: &Args, face: Face) -> Outcome<()> {
    let found = verify::look(&args.file)?;
    verify::print_findings(&found, face)?;
    let rewrite = Rewrite::new().salvage(true);
    match &args.apply {
        None => resize::print(&rewrite.plan(&args.file)?, false, face),
        Some(new) => resize::print(&resize::write(&rewrite, &args.file, new)?, true, face),
    }
}
