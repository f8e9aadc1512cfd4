//! What holds for every subcommand: help, exit statuses, completions.

use crate::common::Dir;
use crate::run::{arg, failure, output, output_of, text};

#[test]
fn a_file_that_is_not_there_is_said_so_and_is_status_3() {
    let dir = Dir::new();
    let (said, status) = failure(&output(["info", arg(&dir.file())]));
    assert_eq!(status, 3, "{said}");
    assert!(said.contains(arg(&dir.file())), "{said}");
}

#[test]
fn completions_name_the_subcommands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&output(["completions", shell]));
        assert!(["tail", "dead-letters", "verify"].iter().all(|name| script.contains(name)), "{shell}");
    }
}

#[test]
fn lines_that_are_sent_are_received() {
    let dir = Dir::new();
    let (file, lines) = (dir.file(), "one\ntwo\n");
    text(&output_of(["send", arg(&file), "--page-size", "64K", "--pages", "2"], lines.as_bytes()));
    assert_eq!(text(&output(["recv", arg(&file), "--group", "g"])), lines);
}
