//! `disk-chan groups`.

use disk_chan::{Channel, Offset, Receiver};
use serde_json::{Value, json};

use crate::common::{Dir, drain_numbers, number, send, small_channel};
use crate::run::{arg, failure, output, output_of, text};

/// A channel with ten messages, of which group `g` is done with four.
fn scene() -> (Dir, Channel, Receiver, String) {
    let (dir, channel) = small_channel();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..10, 8);
    (0..4).for_each(|_| drop(rx.blocking_recv().unwrap()));
    let file = arg(&dir.file()).to_owned();
    (dir, channel, rx, file)
}

fn at(channel: &Channel, group: &str) -> Option<Offset> {
    channel.group_positions().into_iter().find(|(name, _)| name.as_str() == group).map(|(_, at)| at)
}

fn json_lines(said: &str) -> Vec<Value> {
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn they_are_listed() {
    let (_dir, channel, mut rx, file) = scene();
    channel.blocking_subscribe("a").unwrap();
    let held = rx.blocking_lease().unwrap();
    let said = text(&output(["groups", &file]));
    assert_eq!(said, text(&output(["groups", "list", &file])));
    let rows: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..4], ["GROUP", "AT", "LAG", "BYTES"]);
    let place = at(&channel, "g").unwrap().to_string();
    assert_eq!((&rows[1][0], &rows[1][2]), (&"a", &"10"));
    assert_eq!((&rows[2][..4], rows[2][5]), (&["g", &place, "6", "48"][..], "1"));
    let said = json_lines(&text(&output(["groups", "list", &file, "--json"])));
    assert_eq!(
        (&said[1]["group"], &said[1]["at"], &said[1]["lag"], &said[1]["held"]),
        (&"g".into(), &place.into(), &6.into(), &1.into())
    );
    assert!(said[1]["oldest_unfinished"].as_str().unwrap().ends_with('Z'));
    held.ack().unwrap();
}

/// The receivers go on where the group was moved to.
#[test]
fn a_group_is_moved_to_a_place() {
    let (_dir, channel, mut rx, file) = scene();
    let (first, stood) = (channel.first_offset(), at(&channel, "g").unwrap());
    let said = text(&output(["groups", "seek", &file, "g", "--to", "oldest", "--dry-run"]));
    assert_eq!(said, format!("g: {stood} -> {first} (not moved)\n"));
    assert_eq!(at(&channel, "g"), Some(stood));
    let said = text(&output(["groups", "seek", &file, "g", "--to", "oldest"]));
    assert_eq!(said, format!("g: {stood} -> {first}\n"));
    assert_eq!(number(&rx.blocking_recv().unwrap()), 0);
    let seventh = Offset::from_u64(first.as_u64() + 7).to_string();
    let said = json_lines(&text(&output(["groups", "seek", &file, "g", "--to", &seventh, "--json"])));
    assert_eq!((&said[0]["group"], &said[0]["to"], &said[0]["dry_run"]), (&json!("g"), &json!(seventh), &json!(false)));
    assert_eq!(drain_numbers(&mut rx), [7, 8, 9]);
    text(&output(["groups", "seek", &file, "g", "--to", "1h"]));
    assert_eq!(drain_numbers(&mut rx).len(), 10);
    for dry in [&["--dry-run"][..], &[]] {
        let (said, status) = failure(&output(["groups", "seek", &file, "g", "--to", "99:0"].iter().chain(dry)));
        assert!(said.contains("the channel ends at"), "{said}");
        assert_eq!(status, 1);
    }
    assert_eq!(failure(&output(["groups", "seek", &file, "g"])).1, 2);
    assert_eq!(failure(&output(["groups", "seek", &file, "g", "--to", "nowhere"])).1, 2);
}

#[test]
fn a_group_is_moved_to_another_and_copied() {
    let (_dir, channel, _rx, file) = scene();
    let stood = at(&channel, "g").unwrap();
    assert_eq!(text(&output(["groups", "copy", &file, "g", "copy"])), format!("copy: new at {stood}\n"));
    assert_eq!(drain_numbers(&mut channel.blocking_subscribe("copy").unwrap()), [4, 5, 6, 7, 8, 9]);
    text(&output(["groups", "seek", &file, "copy", "--to-group", "g"]));
    assert_eq!(at(&channel, "copy"), Some(stood));
    let (said, status) = failure(&output(["groups", "copy", &file, "g", "copy"]));
    assert!(said.contains("there is a group of that name"), "{said}");
    assert_eq!(status, 1);
}

#[test]
fn what_is_not_there_is_status_3_and_what_is_in_use_5() {
    let (_dir, channel, mut rx, file) = scene();
    let commands = [
        &["seek", &file, "none", "--to", "oldest"][..],
        &["seek", &file, "g", "--to-group", "none"],
        &["copy", &file, "none", "new"],
        &["remove", &file, "none"],
    ];
    for command in commands {
        let (said, status) = failure(&output(["groups"].iter().chain(command)));
        assert_eq!(status, 3, "{said}");
        assert!(said.contains("there is no group none; there are: g"), "{said}");
    }
    for command in [&["seek", &file, "g", "--to", "oldest"][..], &["remove", &file, "g"]] {
        let held = rx.blocking_lease().unwrap();
        let (said, status) = failure(&output(["groups"].iter().chain(command)));
        assert_eq!(status, 5, "{said}");
        assert!(said.contains("1 messages of the group are handed out") && said.contains("--force"), "{said}");
        text(&output(["groups"].iter().chain(command).chain(&["--force"])));
        assert!(held.ack().is_err());
    }
    assert_eq!(at(&channel, "g"), None);
}

#[test]
fn positions_are_exported_and_imported() {
    let (dir, channel, mut rx, file) = scene();
    channel.blocking_subscribe("other").unwrap();
    let (stood, export) = (channel.group_positions(), text(&output(["groups", "export", &file])));
    let path = dir.join("positions.json");
    std::fs::write(&path, &export).unwrap();
    assert_eq!(drain_numbers(&mut rx).len(), 6);
    drop(rx);
    text(&output(["groups", "remove", &file, "other"]));
    let end = at(&channel, "g").unwrap();
    let said = text(&output(["groups", "import", &file, arg(&path)]));
    let of = |name: &str| stood.iter().find(|(group, _)| group.as_str() == name).unwrap().1;
    assert_eq!(said, format!("g: {end} -> {}\nother: new at {}\n", of("g"), of("other")));
    assert_eq!(text(&output_of(["groups", "import", &file], export.as_bytes())), "", "they stand there");
    drain_numbers(&mut channel.blocking_subscribe("g").unwrap());
    drain_numbers(&mut channel.blocking_subscribe("other").unwrap());
    text(&output(["groups", "seek", &file, "g", "--to-file", arg(&path)]));
    assert_eq!((at(&channel, "g"), at(&channel, "other")), (Some(of("g")), Some(end)), "one of them is moved");
    channel.blocking_subscribe("new").unwrap();
    assert_eq!(failure(&output(["groups", "seek", &file, "new", "--to-file", arg(&path)])).1, 3);
    // Another channel's offsets mean nothing here.
    let (_other_dir, _other, _rx, other) = scene();
    for command in [&["seek", &other, "g", "--to-file", arg(&path)][..], &["import", &other, arg(&path)]] {
        let (said, status) = failure(&output(["groups"].iter().chain(command)));
        assert!(said.contains("channel"), "{said}");
        assert_eq!(status, 1);
    }
    assert!(failure(&output_of(["groups", "import", &file], b"garbage")).0.contains("no positions"));
}
