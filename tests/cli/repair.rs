//! `disk-chan repair`.

use crate::common::{Dir, small, small_channel};
use crate::run::{arg, failure, output, text};
use crate::whole::{closed, damage, flip, is_sound, last, left};

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
