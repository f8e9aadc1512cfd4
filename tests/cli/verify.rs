//! `disk-chan verify`.

use crate::common::{Dir, small_channel};
use crate::run::{arg, failure, output, text};
use crate::whole::{closed, damage, flip, json, last, to_nobody};
use serde_json::Value;
use std::process::Stdio;

#[test]
fn a_whole_file() {
    let dir = closed();
    assert!(text(&output(["verify", arg(&dir.file())])).starts_with("nothing is wrong; 1 page, 42 messages"));
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
