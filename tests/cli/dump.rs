//! `disk-chan dump` and `disk-chan load`.

use crate::common::{Dir, small, small_channel};
use crate::run::{arg, failure, output, output_of, text};
use crate::whole::{closed, fill, is_sound, json, left, to_nobody};
use serde_json::{Value, json as value};
use std::process::Command;

#[test]
fn a_dump_that_is_loaded_is_the_same_channel() {
    let dir = closed();
    let new = dir.join("new");
    let pipe = format!("{0} dump {1} | {0} load {2}", env!("CARGO_BIN_EXE_disk-chan"), arg(&dir.file()), arg(&new));
    let said = text(&Command::new("sh").args(["-c", &pipe]).output().unwrap());
    assert!(said.starts_with("42 messages in 1 page"), "{said}");
    assert!(is_sound(&new));
    let old = left(&dir.file());
    assert_eq!(old.iter().map(Vec::len).collect::<Vec<_>>(), [37, 0, 42]);
    assert_eq!(left(&new), old);
    // And its dump is the same again, but for the number of the channel.
    let lines = |path| json(&["dump", path]).into_iter().skip(1).collect::<Vec<_>>();
    assert_eq!(lines(arg(&dir.file())), lines(arg(&new)));
    let look = |path| disk_chan::Options::new().read_only(true).blocking_open(path).unwrap();
    assert_eq!(look(dir.file()).geometry(), look(new).geometry());
}

#[test]
fn what_the_lines_say() {
    let dir = closed();
    let lines = json(&["dump", arg(&dir.file())]);
    let first = &lines[0];
    assert_eq!(
        (&first["type"], &first["format"], &first["version"]),
        (&"channel".into(), &"disk_chan dump".into(), &1.into())
    );
    assert_eq!((&first["max_pages"], &first["overflow"]), (&2.into(), &"block".into()));
    let message = &lines[41];
    assert_eq!((&message["text"], &message["key"]), (&"with \"headers\"\n".into(), &"a key".into()));
    assert_eq!(
        message["headers"],
        value!([{"name": "name", "value": "value"}, {"name": "bytes", "value": {"base64": "/wA="}}])
    );
    assert_eq!((&lines[42]["key"], &lines[42]["len"]), (&value!({"base64": "/g=="}), &0.into()));
    assert!(lines[3]["base64"].is_string() && lines[3]["offset"] == "0:2");
    let sent_at = message["sent_at"].as_str().unwrap();
    assert!(sent_at.ends_with('Z') && sent_at.len() == "2026-11-23T10:00:00.000Z".len(), "{sent_at}");
    let a: Vec<_> = lines.iter().filter(|line| line["group"] == "a" && line["type"] == "done").collect();
    assert_eq!(a[0], &value!({"type": "done", "group": "a", "first": "0:2", "last": "0:3"}));
    assert!(lines.contains(&value!({"type": "given", "group": "a", "offset": "0:1", "attempts": 1})));
    assert_eq!(lines.last().unwrap(), &value!({"type": "end", "messages": 42, "groups": 3, "damaged": 0}));
}

#[test]
fn parts_of_it() {
    let dir = closed();
    let messages = |lines: &[Value]| lines.iter().filter(|line| line["type"] == "message").count();
    let some = json(&["dump", arg(&dir.file()), "--from", "0:40"]);
    assert_eq!((messages(&some), some.last().unwrap()["messages"].as_u64()), (2, Some(2)));
    assert_eq!(messages(&json(&["dump", arg(&dir.file()), "--from", "1h"])), 42);
    let groups = json(&["dump", arg(&dir.file()), "--groups"]);
    assert_eq!((messages(&groups), groups.iter().filter(|line| line["type"] == "group").count()), (0, 3));
}

#[test]
fn a_channel_in_use_and_one_that_has_to_be_recovered() {
    let (dir, channel) = small_channel();
    fill(&channel);
    assert_eq!(json(&["dump", arg(&dir.file())]).last().unwrap()["messages"], 42);
    std::fs::copy(dir.file(), dir.join("copy")).unwrap();
    assert_eq!(json(&["dump", arg(&dir.join("copy"))]).last().unwrap()["messages"], 42);
    assert_eq!(failure(&output(["dump", arg(&dir.join("none"))])).1, 3);
    std::fs::write(dir.join("text"), "no channel").unwrap();
    assert_eq!(failure(&output(["dump", arg(&dir.join("text"))])).1, 4);
}

#[test]
fn into_another_geometry_and_from_a_file() {
    let dir = closed();
    std::fs::write(dir.join("dump"), output(["dump", arg(&dir.file())]).stdout).unwrap();
    let load = |name: &str, options: &[&str]| {
        output([&["load", arg(&dir.join(name)), arg(&dir.join("dump"))], options].concat())
    };
    text(&load("new", &["--page-size", "1M", "--pages", "3"]));
    assert_eq!(left(&dir.join("new")), left(&dir.file()));
    assert_eq!(failure(&load("new", &[])).1, 1, "it is there already");
    let (said, _) = failure(&load("other", &["--max-groups", "2"]));
    assert!(said.contains("3 groups"), "{said}");
    assert_eq!(failure(&output(["load", arg(&dir.join("other")), arg(&dir.join("none"))])).1, 3);
    assert!(!dir.join("other").exists());
}

#[test]
fn a_dump_that_does_not_fit_or_is_not_whole_makes_no_file() {
    let dir = Dir::new();
    let channel = small().max_pages(8).blocking_open(dir.file()).unwrap();
    crate::common::send(&channel.sender(), 0..300, 1000);
    drop(channel);
    let dump = output(["dump", arg(&dir.file())]).stdout;
    let new = dir.join("new");
    let (said, _) = failure(&output_of(["load", arg(&new), "--pages", "2"], &dump));
    assert!(said.contains("need 6 pages"), "{said}");
    let (said, _) = failure(&output_of(["load", arg(&new)], &dump[..dump.len() / 2]));
    assert!(said.contains("line 15"), "{said}");
    let whole_lines = dump.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(99).unwrap().0 + 1;
    let (said, _) = failure(&output_of(["load", arg(&new)], &dump[..whole_lines]));
    assert!(said.contains("line 101") && said.contains("not whole"), "{said}");
    assert_eq!(dir.entries(), ["test.chan"]);
}

#[test]
fn what_is_wrong_in_a_dump_is_an_error_with_its_line() {
    let dir = closed();
    let lines = json(&["dump", arg(&dir.file())]);
    let change = |line: usize, change: &dyn Fn(&mut Value)| {
        let mut lines = lines.clone();
        change(&mut lines[line]);
        lines.iter().map(|line| format!("{line}\n")).collect::<String>()
    };
    let cases: Vec<(usize, String)> = vec![
        (1, String::new()),
        (1, "{}\n".into()),
        (1, "what\n".into()),
        (1, "[".repeat(60_000)),
        (1, " ".repeat(1 << 20)),
        (1, change(0, &|line| line["version"] = 2.into())),
        (1, change(0, &|line| line["overflow"] = 2.into())),
        (1, change(0, &|line| line["max_pages"] = value!(-1))),
        (1, change(0, &|line| line["max_age"] = value!(1e300))),
        (4, change(3, &|line| line["type"] = "what".into())),
        (4, change(3, &|line| line["offset"] = "0:0".into())),
        (4, change(3, &|line| line["offset"] = "0".into())),
        (4, change(3, &|line| line["sent_at"] = "yesterday".into())),
        (4, change(3, &|line| line["base64"] = "?".into())),
        (4, change(3, &|line| line["text"] = "x".repeat(1 << 16).into())),
        (4, change(3, &|line| line["text"] = "x".repeat(1 << 21).into())),
        (42, change(41, &|line| line["headers"] = value!({"a": "b"}))),
        (42, change(41, &|line| line["headers"] = value!([{"name": "", "value": "b"}]))),
        (42, change(41, &|line| line["headers"] = value!([{"name": "a"}]))),
        (42, change(41, &|line| line["key"] = 7.into())),
        (44, change(43, &|line| line["position"] = "what".into())),
        (45, change(44, &|line| line["group"] = "other".into())),
        (lines.len(), change(lines.len() - 1, &|line| line["messages"] = 41.into())),
    ];
    let new = dir.join("new");
    for (line, dump) in cases {
        let (said, status) = failure(&output_of(["load", arg(&new)], dump.as_bytes()));
        assert!(said.contains(&format!("line {line}: ")) && status == 1, "line {line}: {said}");
        assert_eq!(dir.entries(), ["test.chan"]);
    }
    // Groups that contradict themselves.
    let (said, _) =
        failure(&output_of(["load", arg(&new)], change(44, &|line| line["last"] = "0:0".into()).as_bytes()));
    assert!(said.contains("group a: 0:0 does not come behind"), "{said}");
    assert_eq!(dir.entries(), ["test.chan"]);
}

#[test]
fn a_closed_pipe_is_the_end() {
    let dir = closed();
    assert!(to_nobody(["dump", arg(&dir.file())]).success());
}

#[test]
fn a_closed_channel_stays_closed() {
    let (dir, channel) = small_channel();
    channel.close();
    drop(channel);
    let dump = output(["dump", arg(&dir.file())]).stdout;
    text(&output_of(["load", arg(&dir.join("new"))], &dump));
    assert!(disk_chan::Options::new().read_only(true).blocking_open(dir.join("new")).unwrap().is_closed());
}
