//! What holds for every subcommand: help, exit statuses, completions.

use crate::common::{Dir, open_new, small, small_channel};
use crate::run::{arg, disk_chan, failure, output, output_of, text};
use crate::terminal::Terminal;

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
        assert!(["tail", "relay", "dead-letters", "verify"].iter().all(|name| script.contains(name)), "{shell}");
    }
}

#[test]
fn lines_that_are_sent_are_received() {
    let dir = Dir::new();
    let (file, lines) = (dir.file(), "one\ntwo\n");
    text(&output_of(["send", arg(&file), "--page-size", "64K", "--pages", "2"], lines.as_bytes()));
    assert_eq!(text(&output(["recv", arg(&file), "--group", "g"])), lines);
}

/// The status says what happened also where nobody can be told.
#[test]
fn standard_error_that_takes_nothing_is_no_panic() {
    let (dir, channel) = small_channel();
    channel.sender().blocking_send("m").unwrap();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let file = dir.file();
    let status = |args: &[&str]| disk_chan(args).stderr(full()).status().unwrap().code();
    assert_eq!(status(&["info", arg(&dir.join("none"))]), Some(3));
    // It fails the first time only, and what is said of that is lost.
    let once = format!("test -e {0} || {{ touch {0}; false; }}", arg(&dir.join("mark")));
    assert_eq!(status(&["recv", arg(&file), "-g", "g", "-n", "1", "--exec", &once]), Some(0));
}

#[test]
fn an_input_that_is_not_there_is_status_3() {
    let (dir, _channel) = small_channel();
    let (file, none, new) = (dir.file(), dir.join("none"), dir.join("new"));
    let (file, none, new) = (arg(&file), arg(&none), arg(&new));
    for args in [["load", new, none].as_slice(), &["send", file, none], &["groups", "import", file, none]] {
        assert_eq!(failure(&output(args)).1, 3, "{args:?}");
    }
}

/// What a channel holds may be anything: on a terminal it is shown, and in a pipe it is what it is.
#[test]
fn nothing_in_a_channel_drives_a_terminal() {
    let (dir, channel) = open_new(small().max_attempts(1));
    let file = dir.file();
    let name = "g\u{1b}[2J\u{9b}m";
    channel.sender().blocking_send("x\u{1b}]0;o\u{7}\u{9b}").unwrap();
    drop(channel);
    let file = arg(&file);
    output(["recv", file, "-g", name, "-n", "1", "--exec", "exit 1"]);
    for _ in 0..2 {
        let mut again = disk_chan(["recv", file, "-g", name]);
        assert!(again.output().unwrap().status.success());
    }
    let new = dir.join("new");
    let new = arg(&new);
    let listed = text(&output(["groups", file]));
    assert!(listed.contains(name), "{listed:?}");
    for args in [
        ["recv", file, "-g", "a"].as_slice(),
        &["recv", file, "-g", "b", "--framing", "length"],
        &["recv", file, "-g", "c", "--json"],
        &["recv", file, "-g", "none", "--peek"],
        &["dump", file],
        &["groups", file],
        &["groups", file, "--json"],
        &["groups", "export", file],
        &["groups", "seek", file, name, "--to", "oldest", "--dry-run"],
        &["groups", "seek", file, "none", "--to", "oldest"],
        &["dead-letters", "list", file, "--payload"],
        &["dead-letters", "list", file, "--payload", "--json"],
        &["dead-letters", "show", file, "0:0"],
        &["info", file],
        &["metrics", file],
        &["metrics", file, "--json"],
        &["tail", file],
        &["verify", file],
        &["repair", file],
        &["resize", file, new],
    ] {
        let terminal = Terminal::start(200, args);
        let (said, status) = terminal.all();
        assert!(said.trim().len() > 2, "{args:?} said nothing: {status}");
        let hostile = ["\u{1b}]", "\u{1b}[2J", "\u{9b}", "\u{7}"].iter().find(|bad| said.contains(**bad));
        assert_eq!(hostile, None, "{args:?}: {said:?}");
    }
}
