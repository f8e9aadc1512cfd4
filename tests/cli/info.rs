//! `disk-chan info`.

use crate::common::{Dir, body, child_argument, eventually, run_in_child, small};
use crate::looking::{answer, busy, copied, eight, hostile, json};
use crate::run::{arg, disk_chan, failure, output, text};
use disk_chan::{Options, Overflow, Start};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

fn shown(file: &Path, columns: &str, locale: &str) -> String {
    let mut command = disk_chan(["info", arg(file)]);
    text(&command.env("COLUMNS", columns).env("LC_ALL", locale).output().unwrap())
}

fn all(file: &Path) -> Value {
    json(&answer(&["info", "--json", "--pages", arg(file)])).remove(0)
}

/// The lines from that of the ring on, and the columns of the marker in each after it.
fn picture(said: &str, marker: char) -> (&str, Vec<(&str, Option<usize>)>) {
    let mut lines = said.lines().skip_while(|line| !line.contains("pages  ") || line.starts_with("ring"));
    let ring = lines.next().unwrap();
    let mark = |line: &str| line.chars().position(|c| c == marker);
    (
        ring,
        lines.take_while(|line| !line.is_empty()).map(|line| (line.split(' ').next().unwrap(), mark(line))).collect(),
    )
}

#[test]
fn the_picture_at_80_and_at_200_columns() {
    let dir = Dir::new();
    let _channel = busy(&dir);
    let of = |columns| shown(&dir.file(), columns, "C.UTF-8");
    let (narrow, wide) = (of("80"), of("200"));
    let (ring, marks) = picture(&narrow, '▲');
    assert_eq!(ring, "pages       │███████│███████│███████│███████│▏      │·······│·······│·······│");
    // The middle of the second page is between two columns, or in one of them.
    for ((name, column), (expected, at)) in
        marks.iter().zip([("senders", 45), ("end", 45), ("middle", 24), ("start", 13)])
    {
        assert_eq!(*name, expected);
        assert!(column.unwrap().abs_diff(at) <= usize::from(expected == "middle"), "{name}: {narrow}");
    }
    assert_eq!(marks.len(), 4);
    let (ring, marks) = picture(&wide, '▲');
    let page = "█".repeat(16) + "│";
    let expected = format!("pages       │{}▏{}│{}", page.repeat(4), " ".repeat(15), ("·".repeat(16) + "│").repeat(3));
    assert_eq!(ring, expected);
    assert_eq!((marks[0].1, marks[1].1, marks[3].1), (Some(81), Some(81), Some(13)));
    assert!(marks[2].1.unwrap().abs_diff(38) <= 1, "{wide}");
    for (said, columns) in [(&narrow, 80), (&wide, 200)] {
        assert!(said.lines().all(|line| line.chars().count() <= columns), "{said}");
        assert!(!said.contains('\u{1b}'), "no colours where it is no terminal");
    }
    let ascii = shown(&dir.file(), "80", "C");
    let (ring, marks) = picture(&ascii, '^');
    assert_eq!(ring, "pages       |#######|#######|#######|#######|-      |.......|.......|.......|");
    assert_eq!((marks[0].1, marks[3].1), (Some(45), Some(13)));
    assert!(ascii.is_ascii());
}

#[test]
fn many_pages_share_columns() {
    let dir = Dir::in_memory();
    let channel = small().max_pages(300).blocking_open(dir.file()).unwrap();
    channel.blocking_subscribe("g").unwrap();
    let tx = channel.sender();
    let mut sent = 0;
    while channel.end_offset().page() < 150 {
        tx.blocking_send(body(sent, 1000)).unwrap();
        sent += 1;
    }
    let said = shown(&dir.file(), "80", "C.UTF-8").replace("\n5 pages     ", "\npages       ");
    let (ring, marks) = picture(&said, '▲');
    // 60 columns of 5 pages.
    assert_eq!(ring.chars().skip(12).collect::<String>(), "█".repeat(30) + "▁" + &"·".repeat(29));
    assert_eq!((marks[0].1, marks[1].1), (Some(42), Some(12)));
}

#[test]
fn json_says_everything() {
    let dir = Dir::new();
    let options = small()
        .max_pages(3)
        .max_age(Duration::from_secs(3600))
        .lease_timeout(Duration::from_secs(30))
        .max_attempts(2)
        .overflow(Overflow::DropOldest);
    let channel = options.blocking_open(dir.file()).unwrap();
    let tx = channel.sender();
    let mut rx = channel.blocking_subscribe("billing").unwrap();
    channel.blocking_subscribe_from("audit", Start::Newest).unwrap();
    for n in 0..6 {
        tx.blocking_send(body(n, 100)).unwrap();
    }
    drop(rx.try_recv().unwrap());
    // Given back twice, and so a dead letter; then one that is held, and one that was given back.
    let dead = |rx: &mut disk_chan::Receiver| drop(rx.try_lease().unwrap());
    dead(&mut rx);
    dead(&mut rx);
    let (held, back) = (rx.try_lease().unwrap(), rx.try_lease().unwrap());
    drop(back);
    channel.blocking_sync().unwrap();
    let said = all(&dir.file());
    let groups = said["groups"].as_array().unwrap();
    assert_eq!(
        (&groups[0]["name"], &groups[0]["lag"], &groups[0]["offset"]),
        (&json!("audit"), &json!(6), &json!("0:0"))
    );
    let billing = &groups[1];
    let stats = channel.groups().into_iter().find(|group| group.name.as_str() == "billing").unwrap();
    assert_eq!((stats.dead_lettered, stats.held, stats.returned), (1, 1, 1));
    for (field, expected) in [
        ("lag", stats.lag),
        ("lag_bytes", stats.lag_bytes),
        ("held", 1),
        ("returned", 1),
        ("redelivered", stats.redelivered),
        ("dead_lettered", 1),
        ("lagged", 0),
        ("expired", 0),
        ("gone", 0),
        ("damaged", 0),
    ] {
        assert_eq!(billing[field], expected, "{field}: {billing}");
    }
    assert!(billing["age"].as_f64().is_some() && billing["oldest_unfinished"].is_string());
    assert_eq!(billing["offset"], "0:2", "the first that it is not done with");
    assert_eq!(said["dead_letters"]["messages"], 1);
    let g = &said["geometry"];
    let expected = json!([65536, 3, "drop-oldest", 3600.0, 30.0, 2]);
    let fields = ["page_size", "max_pages", "overflow", "max_age", "lease_timeout", "max_attempts"];
    assert_eq!(fields.map(|field| g[field].clone()).to_vec(), *expected.as_array().unwrap());
    assert_eq!(g["file_bytes"], std::fs::metadata(dir.file()).unwrap().len());
    assert_eq!(g["max_message_len"], channel.max_message_len());
    assert_eq!(said["ring"]["messages"], 6);
    assert_eq!((&said["ring"]["first_offset"], &said["ring"]["end_offset"]), (&json!("0:0"), &json!("0:6")));
    assert_eq!((&said["state"]["opens"], &said["state"]["closed"]), (&json!(1), &json!(false)));
    assert!(said["state"]["wants_recovery"].is_null());
    assert_eq!((&said["rate"]["messages"], &said["rate"]["seconds"]), (&json!(6), &json!(10.0)));
    assert_eq!(said["durable"]["offset"], "0:6");
    assert!(said["durable"]["syncs"].as_u64().unwrap() > 0 && said["durable"]["mean_sync_seconds"].is_number());
    let pages = said["pages"].as_array().unwrap();
    assert_eq!((pages.len(), &pages[0]["messages"], &pages[0]["sealed"]), (1, &json!(6), &json!(false)));
    let short = json(&output(["info", "--json", arg(&dir.file())])).remove(0);
    assert!(short.get("pages").is_none(), "{short}");
    channel.close();
    drop(held);
    assert_eq!(all(&dir.file())["state"]["closed"], true);
}

/// Nothing is counted that is older, and a ring that goes back less far is not taken for idle.
#[test]
fn the_rate_is_of_what_was_sent_lately() {
    let dir = Dir::new();
    let channel = small().overflow(Overflow::DropOldest).blocking_open(dir.file()).unwrap();
    let tx = channel.sender();
    for n in 0..5000 {
        tx.blocking_send(body(n, 100)).unwrap();
    }
    let rate = &all(&dir.file())["rate"];
    // The ring has some hundred of them, which were sent in some milliseconds.
    assert_eq!(rate["messages"], channel.len());
    let [messages, seconds, rate] = ["messages", "seconds", "per_second"].map(|field| rate[field].as_f64().unwrap());
    assert!(seconds < 10.0 && rate > messages / 10.0, "{messages} in {seconds} s: {rate}");
}

#[test]
fn a_file_that_wants_recovery_is_shown_and_left_as_it_is() {
    let dir = Dir::new();
    let channel = busy(&dir);
    let copy = copied(&dir);
    let before = std::fs::read(&copy).unwrap();
    let said = all(&copy);
    assert_eq!(said["state"]["wants_recovery"]["cause"], "unclean");
    assert_eq!(said["state"]["wants_recovery"]["kept"], channel.len());
    assert_eq!((&said["state"]["opens"], &said["ring"]["messages"]), (&json!(0), &json!(channel.len())));
    let shown = shown(&copy, "80", "C.UTF-8");
    assert!(shown.contains("wants recovery") && shown.contains("not open"), "{shown}");
    assert!(before == std::fs::read(&copy).unwrap(), "it was changed");
}

/// Somebody is recovering it: it is shown as it would be, and nobody waits.
#[test]
fn a_file_that_is_being_recovered() {
    let dir = Dir::new();
    let channel = busy(&dir);
    let copy = copied(&dir);
    let (reached, here) = std::sync::mpsc::channel();
    let (go_on, told) = std::sync::mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let options = Options::new().on_recovery(move |_| {
        let _ = reached.send(());
        let _ = told.lock().unwrap().recv();
    });
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| options.blocking_open(&copy).unwrap().len());
        here.recv().unwrap();
        let said = all(&copy);
        assert_eq!(said["state"]["wants_recovery"]["kept"], channel.len());
        let last = output(["tail", "-n", "1", "--format", "base64", arg(&copy)]);
        assert!(text(&last).len() > 100);
        drop(go_on);
        assert_eq!(opening.join().unwrap(), channel.len());
    });
    assert!(all(&copy)["state"]["wants_recovery"].is_null());
}

/// As somebody who may only read it, in a directory where nothing can be made.
#[test]
fn a_file_that_may_only_be_read() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let dir = Dir::new();
    let _channel = busy(&dir);
    // The command may lie where only its owner can reach it. Copied by another process: children that other tests
    // start meanwhile do not have it open for writing.
    let exe = dir.join("disk-chan");
    let copied = std::process::Command::new("cp").args([env!("CARGO_BIN_EXE_disk-chan"), arg(&exe)]).status();
    assert!(copied.unwrap().success());
    let allow = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    allow(&dir.file(), 0o444);
    allow(dir.file().parent().unwrap(), 0o555);
    for args in [&["info"][..], &["tail", "-n", "1"]] {
        let mut command = std::process::Command::new(&exe);
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        let output = command.args(args).arg(dir.file()).current_dir("/").output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{args:?}: {output:?}");
    }
    allow(dir.file().parent().unwrap(), 0o755);
}

/// Of a writer that was killed nothing has to be recovered; it is not counted as an open.
#[test]
fn a_writer_that_was_killed_has_it_not_open() {
    if let Some(path) = child_argument() {
        let channel = small().blocking_open(path).unwrap();
        channel.sender().blocking_send("last words").unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGKILL).unwrap();
    }
    let dir = Dir::new();
    let killed = std::panic::catch_unwind(|| {
        run_in_child("info::a_writer_that_was_killed_has_it_not_open", arg(&dir.file()));
    });
    assert!(killed.is_err());
    let before = std::fs::read(dir.file()).unwrap();
    let said = all(&dir.file());
    assert_eq!((&said["state"]["opens"], &said["state"]["handles"]), (&json!(0), &json!(0)));
    assert_eq!(said["ring"]["messages"], 1);
    assert!(before == std::fs::read(dir.file()).unwrap(), "it was changed");
}

/// A service that sends and receives as fast as it can goes on, and every look is an answer.
#[test]
fn a_running_service() {
    let dir = Dir::in_memory();
    let channel = eight().blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    std::thread::scope(|scope| {
        let tx = channel.sender();
        // Until it is closed.
        scope.spawn(move || (0..).take_while(|&n| tx.blocking_send(body(n, 100)).is_ok()).count());
        scope.spawn(move || while rx.blocking_recv().is_ok() {});
        // Also where an assertion fails: else the scope waits for the others for ever.
        let _closed = Closes(&channel);
        let turns = || channel.stats().page_turns;
        eventually("it began", || turns() > 0);
        for _ in 0..10 {
            let before = turns();
            let said = all(&dir.file());
            assert_eq!(said["state"]["opens"], 1);
            assert!(said["ring"]["messages"].as_u64().unwrap() > 0);
            shown(&dir.file(), "80", "C.UTF-8");
            eventually("it goes on", || turns() > before);
        }
    });
}

struct Closes<'a>(&'a disk_chan::Channel);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[test]
fn a_group_name_does_not_drive_the_terminal() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    channel.blocking_subscribe("\u{1b}[2Jx\ny\u{9b}").unwrap();
    let shown = shown(&dir.file(), "200", "C.UTF-8");
    assert!(shown.chars().all(|c| !c.is_control() || c == '\n'), "{shown:?}");
    assert!(shown.contains("\\u{1b}[2Jx\\u{a}y"), "{shown}");
    assert_eq!(all(&dir.file())["groups"][0]["name"], "\u{1b}[2Jx\ny\u{9b}");
}

#[test]
fn a_hostile_file_is_an_error_or_an_answer() {
    hostile(|file| {
        answer(&["info", "--pages", arg(file)]);
        answer(&["info", "--json", "--pages", arg(file)]);
    });
}

#[test]
fn what_is_no_channel_is_status_4() {
    let dir = Dir::new();
    std::fs::write(dir.file(), "something else").unwrap();
    let (said, status) = failure(&output(["info", arg(&dir.file())]));
    assert!(status == 4 && said.contains(arg(&dir.file())), "{status}: {said}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let dir = Dir::new();
    drop(Options::new().page_size(1 << 16).max_pages(2).blocking_open(dir.file()).unwrap());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = disk_chan(["info", arg(&dir.file())]).stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
