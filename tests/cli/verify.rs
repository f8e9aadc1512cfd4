//! `disk-chan verify` and `disk-chan repair`.

use crate::common::{Dir, small, small_channel};
use crate::run::{arg, failure, output, text};
use crate::whole::{closed, is_sound, json, left, to_nobody};
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;

/// Changes a byte of the `n`th message.
fn damage(path: &Path, n: usize) {
    let channel = disk_chan::Options::new().read_only(true).blocking_open(path).unwrap();
    let at = channel.page_bytes(0).unwrap().range().start + n as u64 * (32 + 104) + 40;
    drop(channel);
    flip(path, at);
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

fn last(lines: &str) -> Value {
    serde_json::from_str(lines.lines().last().unwrap()).unwrap()
}

#[test]
fn a_whole_file() {
    let dir = closed();
    assert!(text(&output(["verify", arg(&dir.file())])).starts_with("nothing is wrong; 1 pages, 42 messages"));
    let said = &json(&["verify", "--json", arg(&dir.file())])[0];
    assert_eq!((&said["sound"], &said["state"], &said["messages"]), (&true.into(), &"clean".into(), &42.into()));
    assert_eq!(output(["verify", arg(&dir.file())]).stderr, b"", "no bar where there is no terminal");
}

#[test]
fn a_file_in_use_and_one_that_has_to_be_recovered() {
    let (dir, channel) = small_channel();
    crate::whole::fill(&channel);
    let said = &json(&["verify", "--json", arg(&dir.file())])[0];
    assert_eq!((&said["sound"], &said["state"]), (&true.into(), &"in_use".into()));
    std::fs::copy(dir.file(), dir.join("copy")).unwrap();
    let found = output(["verify", "--json", arg(&dir.join("copy"))]);
    assert_eq!(found.status.code(), Some(1));
    let said = last(&String::from_utf8(found.stdout).unwrap());
    assert_eq!((&said["state"], &said["recovery"]["kept"]), (&"crashed".into(), &42.into()));
}

#[test]
fn damage_is_status_1_and_what_cannot_be_opened_4() {
    let dir = closed();
    damage(&dir.file(), 5);
    let found = output(["verify", arg(&dir.file())]);
    let out = String::from_utf8(found.stdout.clone()).unwrap();
    assert!(out.contains("message 0:5: ") && out.contains("1 thing is wrong"), "{out}");
    assert_eq!(failure(&found).1, 1);
    let found = output(["verify", "--json", arg(&dir.file())]);
    let finding: Value = serde_json::from_slice(found.stdout.split(|&b| b == b'\n').next().unwrap()).unwrap();
    assert_eq!(
        (&finding["part"], &finding["offset"], &finding["remedy"]),
        (&"message".into(), &"0:5".into(), &"skipped".into())
    );

    flip(&dir.file(), 50);
    let out = output(["verify", arg(&dir.file())]);
    assert!(String::from_utf8_lossy(&out.stdout).contains("header, copy 0: does not have its checksum"));
    assert_eq!(failure(&out).1, 1);
    flip(&dir.file(), 4096 + 50);
    let out = output(["verify", arg(&dir.file())]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("header, copy 0") && said.contains("header, copy 1"), "{said}");
    assert_eq!(failure(&out).1, 4);
}

#[test]
fn other_files() {
    let dir = Dir::new();
    assert_eq!(failure(&output(["verify", arg(&dir.file())])).1, 3);
    std::fs::write(dir.file(), "no channel").unwrap();
    assert_eq!(failure(&output(["verify", arg(&dir.file())])).1, 4);
    assert_eq!(failure(&output(["repair", arg(&dir.file())])).1, 4);
    std::fs::write(dir.file(), [b"disk_cha".as_slice(), &[0xff; 20_000]].concat()).unwrap();
    assert_eq!(failure(&output(["verify", arg(&dir.file())])).1, 4);
}

#[test]
fn repair_keeps_what_is_whole_and_leaves_the_old_file() {
    let dir = closed();
    damage(&dir.file(), 5);
    damage(&dir.file(), 30);
    flip(&dir.file(), 50); // one copy of the header
    let before = std::fs::read(dir.file()).unwrap();
    let said = text(&output(["repair", arg(&dir.file())]));
    assert!(said.contains("header, copy 0") && said.contains("message 0:30"), "{said}");
    assert!(said.contains("40 messages of") && said.contains("without 2 that do not verify"), "{said}");
    assert_eq!(dir.entries(), ["test.chan"]);

    let new = dir.join("new");
    let done = last(&text(&output(["repair", "--json", arg(&dir.file()), "--apply", arg(&new)])));
    assert_eq!((&done["messages"], &done["damaged"]), (&40.into(), &2.into()));
    assert!(std::fs::read(dir.file()).unwrap() == before, "the old file is as it was");
    assert!(is_sound(&new));
    let (old, new_left) = (left(&dir.file()), left(&new));
    assert_eq!(old, new_left, "what a receiver of the damaged file gets");
    assert_eq!(new_left[2].len(), 40);
    // Not over a file that is there.
    assert_eq!(failure(&output(["repair", arg(&dir.file()), "--apply", arg(&new)])).1, 1);
}

#[test]
fn repair_of_a_file_that_was_cut_short() {
    let dir = Dir::new();
    let channel = small().max_pages(4).blocking_open(dir.file()).unwrap();
    channel.blocking_subscribe("g").unwrap();
    crate::common::send(&channel.sender(), 0..150, 1000);
    let first = channel.pages()[0].len;
    let range = channel.page_bytes(1).unwrap().range();
    drop(channel);
    let file = std::fs::File::options().write(true).open(dir.file()).unwrap();
    file.set_len(range.start + 8).unwrap();
    assert_eq!(failure(&output(["verify", arg(&dir.file())])).1, 4);
    assert_eq!(failure(&output(["resize", arg(&dir.file()), arg(&dir.join("new"))])).1, 4);
    let said = text(&output(["repair", arg(&dir.file()), "--apply", arg(&dir.join("new"))]));
    assert!(said.contains("cut short"), "{said}");
    let channel = disk_chan::Options::new().blocking_open(dir.join("new")).unwrap();
    let left = crate::common::drain_numbers(&mut channel.blocking_subscribe("g").unwrap());
    assert_eq!(left, (0..first).collect::<Vec<_>>());
}

#[test]
fn repair_without_a_header_says_so_and_while_in_use_is_status_5() {
    let (dir, channel) = small_channel();
    assert_eq!(failure(&output(["repair", arg(&dir.file()), "--apply", arg(&dir.join("new"))])).1, 5);
    drop(channel);
    flip(&dir.file(), 50);
    flip(&dir.file(), 4096 + 50);
    let (said, status) = failure(&output(["repair", arg(&dir.file()), "--apply", arg(&dir.join("new"))]));
    assert!(said.contains("neither copy of its header") && status == 4, "{said}");
    assert_eq!(dir.entries(), ["test.chan"]);
}

#[test]
fn a_closed_pipe_is_the_end() {
    let dir = closed();
    damage(&dir.file(), 5);
    assert!(to_nobody(["verify", arg(&dir.file())]).success());
}

/// In a terminal it shows a bar, on standard error alone.
#[test]
fn a_bar_on_a_terminal() {
    let dir = closed();
    let out = dir.join("out");
    let command = format!("{} verify {} > {}", env!("CARGO_BIN_EXE_disk-chan"), arg(&dir.file()), arg(&out));
    let mut script = std::process::Command::new("script");
    let said = match script.args(["-qefc", &command, "/dev/null"]).stdin(Stdio::null()).output() {
        Ok(said) => said,
        Err(error) => panic!("this test needs the program `script`: {error}"),
    };
    assert!(said.status.success());
    let terminal = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(terminal.contains("pages"), "{terminal:?}");
    assert!(std::fs::read_to_string(out).unwrap().starts_with("nothing is wrong"));
}
