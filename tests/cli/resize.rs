//! `disk-chan resize`.

use crate::common::{Dir, PAGE, body, send, small, small_channel};
use crate::run::{arg, disk_chan, failure, output, text};
use crate::whole::{closed, is_sound, json, left};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn each_group_has_left_what_it_had_left() {
    let dir = closed();
    let new = dir.join("new");
    let before = std::fs::read(dir.file()).unwrap();
    let args =
        ["--page-size", "128K", "--pages", "3", "--max-groups", "5", "--max-age", "9days", "--max-attempts", "9"];
    let said = &json(&[&["resize", "--json", arg(&dir.file()), arg(&new)], &args[..]].concat())[0];
    assert_eq!((&said["messages"], &said["damaged"], &said["left_out"]), (&42.into(), &0.into(), &0.into()));
    let groups = said["groups"].as_array().unwrap();
    assert!(groups.iter().any(|g| g["name"] == "a" && g["from"] == "0:1" && g["to"] == "0:1"), "{groups:?}");
    assert!(groups.iter().any(|g| g["name"] == "b" && g["to"] == "0:42"), "{groups:?}");
    assert!(is_sound(&new));
    assert_eq!(std::fs::read(dir.file()).unwrap(), before);
    let old = left(&dir.file());
    assert_eq!(old.iter().map(Vec::len).collect::<Vec<_>>(), [37, 0, 42]);
    assert_eq!(left(&new), old);
    let channel = disk_chan::Options::new().read_only(true).blocking_open(&new).unwrap();
    let g = channel.geometry();
    assert_eq!((g.page_size, g.max_pages, g.max_groups, g.max_attempts), (2 * PAGE, 3, 5, Some(9)));
    assert_eq!(g.max_age, Some(Duration::from_secs(9 * 86_400)));
    text(&output(["resize", arg(&new), arg(&dir.join("again")), "--max-age", "none", "--overflow", "drop-oldest"]));
    let channel = disk_chan::Options::new().read_only(true).blocking_open(dir.join("again")).unwrap();
    assert_eq!((channel.geometry().max_age, channel.overflow()), (None, disk_chan::Overflow::DropOldest));
}

#[test]
fn what_does_not_fit_says_how_many_pages_it_needs() {
    let dir = Dir::new();
    let channel = small().max_pages(8).blocking_open(dir.file()).unwrap();
    send(&channel.sender(), 0..300, 1000);
    drop(channel);
    let (said, status) = failure(&output(["resize", arg(&dir.file()), arg(&dir.join("new")), "--pages", "3"]));
    assert!(said.contains("need 6 pages") && status == 1, "{said}");
    let (said, status) = failure(&output(["resize", arg(&dir.file()), arg(&dir.join("new")), "--page-size", "1K"]));
    assert!(said.contains("page_size") && status == 1, "{said}");
    assert_eq!(dir.entries(), ["test.chan"]);
}

#[test]
fn in_use_missing_and_there_already() {
    let (dir, channel) = small_channel();
    let resize = || output(["resize", arg(&dir.file()), arg(&dir.join("new"))]);
    assert_eq!(failure(&resize()).1, 5);
    drop(channel);
    text(&resize());
    let (said, status) = failure(&resize());
    assert!(said.contains("exists already") && status == 1, "{said}");
    assert_eq!(failure(&output(["resize", arg(&dir.join("none")), arg(&dir.join("other"))])).1, 3);
}

#[test]
fn dead_letters_that_stay_are_told() {
    let dir = Dir::new();
    let channel = small().max_attempts(1).blocking_open(dir.file()).unwrap();
    channel.sender().blocking_send(body(1, 50)).unwrap();
    drop(channel);
    let done = output(["resize", arg(&dir.file()), arg(&dir.join("new")), "--max-attempts", "0"]);
    text(&done);
    assert!(String::from_utf8_lossy(&done.stderr).contains("test.chan.dead"));
    text(&output(["resize", arg(&dir.file()), arg(&dir.join("with"))]));
    let mut entries = dir.entries();
    entries.sort();
    assert_eq!(entries, ["new", "test.chan", "test.chan.dead", "with", "with.dead"]);
    assert_eq!(disk_chan::Options::new().blocking_open(dir.join("with")).unwrap().len(), 1);
}

/// Killed or interrupted at any time: there is no new file, or a whole one.
#[test]
fn killed_in_the_middle_it_leaves_nothing() {
    let dir = Dir::new();
    let channel = small().page_size(16 * PAGE).max_pages(16).blocking_open(dir.file()).unwrap();
    let messages: Vec<_> = (0..1000).map(|n| body(n, 1000)).collect();
    (0..8).for_each(|_| assert_eq!(channel.sender().blocking_send_many(&messages).unwrap().len(), 1000));
    drop(channel);
    let before = std::fs::read(dir.file()).unwrap();
    let (mut none, mut whole) = (0, 0);
    let mut delay = Duration::ZERO;
    while whole == 0 {
        for signal in [Signal::KILL, Signal::INT] {
            let new = dir.join("new");
            let mut child = disk_chan(["resize", arg(&dir.file()), arg(&new)]).stdout(Stdio::null()).spawn().unwrap();
            // Only so that it is killed at different places; how far it comes is of no matter.
            std::thread::sleep(delay);
            let _ = kill_process(Pid::from_child(&child), signal);
            let status = child.wait().unwrap();
            match new.exists() {
                true => {
                    assert!(is_sound(&new));
                    std::fs::remove_file(&new).unwrap();
                    whole += 1;
                }
                false => {
                    assert_eq!(status.signal(), Some(signal.as_raw()));
                    none += 1;
                }
            }
            assert_eq!(dir.entries(), ["test.chan"]);
        }
        delay += Duration::from_millis(5);
    }
    assert!(none > 0 && std::fs::read(dir.file()).unwrap() == before, "{none}, {whole}");
}
