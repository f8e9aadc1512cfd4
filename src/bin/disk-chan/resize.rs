//! `disk-chan resize`.

use std::path::{Path, PathBuf};

use disk_chan::{Options, Rewrite, RewriteError, Rewritten};
use serde_json::{Value, json};

use crate::Outcome;
use crate::face::{self, Face};
use crate::figures;
use crate::geometry::Geometry;
use crate::progress::bar;
use crate::verify::{recovery_json, recovery_said};

/// Copy a channel that nobody has open into a new file of another geometry
///
/// All messages in the ring go along if there is room, else at least those that some group is not done with; each group
/// has left what it had left, also out of order. Offsets are others: where each group stood and stands now is printed.
/// The new file is there when it is complete; the old one stays as it is. Dead letters go along if the new channel has
/// any (max-attempts), into NEW.dead.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  disk-chan resize orders.chan larger.chan --page-size 64M --pages 32")]
pub struct Args {
    /// The channel
    file: PathBuf,
    /// The new file; nothing of that name may be there
    new: PathBuf,
    /// Fail unless all messages in the ring go along, also those that every group is done with
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    geometry: Geometry,
}

pub fn run(args: &Args, face: Face) -> Outcome<()> {
    let rewrite = Rewrite::new().options(args.geometry.over(Options::new())).all(args.all);
    let done = write(&rewrite, &args.file, &args.new)?;
    print(&done, true, face)?;
    if done.letters.is_none() && letters(&args.file).exists() {
        let left = letters(&args.file);
        face::say(format_args!("the dead letters stay in {}: the new channel has none", left.display()));
    }
    Ok(())
}

fn letters(file: &Path) -> PathBuf {
    let mut name = file.to_owned().into_os_string();
    name.push(".dead");
    name.into()
}

/// Writes the new file, with a bar.
pub fn write(rewrite: &Rewrite, from: &Path, to: &Path) -> Result<Rewritten, RewriteError> {
    let bar = bar(0, "messages");
    let done = rewrite.write(from, to, |done, of| {
        if done.is_multiple_of(1024) {
            bar.set_length(of);
            bar.set_position(done);
        }
    });
    bar.finish_and_clear();
    done
}

/// Prints what was copied; or would be, as it is not `written`.
pub fn print(done: &Rewritten, written: bool, face: Face) -> Outcome<()> {
    face.print(|| report_json(done, written), || said(done, written))?;
    Ok(())
}

fn report_json(done: &Rewritten, written: bool) -> Value {
    let groups: Vec<Value> = done
        .groups
        .iter()
        .map(|group| {
            let to = written.then(|| group.to.to_string());
            json!({
                "name": group.name.to_string(),
                "from": group.from.to_string(),
                "to": to,
                "attempts_lost": group.attempts_lost,
            })
        })
        .collect();
    json!({
        "messages": done.messages,
        "bytes": done.bytes,
        "left_out": done.left_out,
        "damaged": done.damaged,
        "pages": done.pages,
        "groups": groups,
        "recovery": done.recovered.as_ref().map(recovery_json),
        "dead_letters": done.letters.as_ref().map(|letters| report_json(letters, written)),
    })
}

fn said(done: &Rewritten, written: bool) -> String {
    let mut lines =
        vec![format!("{} messages of {} bytes in {}", done.messages, done.bytes, figures::pages(done.pages))];
    if done.left_out > 0 {
        lines.push(format!("without {} that every group is done with", done.left_out));
    }
    if done.damaged > 0 {
        lines.push(format!("without {} that do not verify", done.damaged));
    }
    for group in &done.groups {
        lines.push(match written {
            true => format!("group {}: {} -> {}", group.name, group.from, group.to),
            false => format!("group {}: stands at {}", group.name, group.from),
        });
        if group.attempts_lost > 0 {
            let lost = group.attempts_lost;
            lines
                .push(format!("group {}: how often {lost} messages were handed out is not known any more", group.name));
        }
    }
    lines.extend(done.recovered.as_ref().map(recovery_said));
    if let Some(letters) = &done.letters {
        lines.push(format!("dead letters: {}", said(letters, written)));
    }
    lines.join("\n")
}
