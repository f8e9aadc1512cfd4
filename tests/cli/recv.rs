//! `disk-chan recv`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

use disk_chan::{Channel, Headers, Start};
use rustix::process::Signal;

use crate::common::{Dir, drain_numbers, eventually, open_new, send, small, small_channel, within};
use crate::run::{arg, failure, output, start, text};

fn lag(channel: &Channel, group: &str) -> u64 {
    let group = channel.groups().into_iter().find(|stats| stats.name.as_str() == group);
    let group = group.unwrap();
    assert_eq!(group.held, 0, "{group:?}");
    group.lag
}

/// A closed channel with these messages in it: who receives, ends.
fn with_messages<M: AsRef<[u8]>>(messages: impl IntoIterator<Item = M>) -> (Dir, String) {
    let (dir, channel) = open_new(small().max_pages(16));
    let tx = channel.sender();
    for message in messages {
        tx.blocking_send(message.as_ref()).unwrap();
    }
    let file = arg(&dir.file()).to_owned();
    (dir, file)
}

#[test]
fn each_framing_is_written() {
    let (_dir, file) = with_messages([&b"one"[..], b"", b"\xff\n"]);
    let recv = |args: &[&str]| output(["recv", &file, "--group"].iter().chain(args)).stdout;
    assert_eq!(recv(&["a"]), b"one\n\n\xff\n\n");
    assert_eq!(recv(&["b", "--framing", "nul"]), b"one\0\0\xff\n\0");
    assert_eq!(recv(&["c", "--framing", "length", "--ack"]), b"\x03\0\0\0one\0\0\0\0\x02\0\0\0\xff\n");
    assert_eq!(recv(&["a"]), b"", "they are done");
}

#[test]
fn json_has_all_of_a_message() {
    let (dir, channel) = small_channel();
    let headers = Headers::new().key([0xff]).with("a", "1").with("a", [0xfe]);
    let tx = channel.sender();
    let at = tx.blocking_send(headers.message("text").unwrap()).unwrap();
    tx.blocking_send([0xff]).unwrap();
    drop(channel.blocking_subscribe("g").unwrap().blocking_lease().unwrap());
    drop((tx, channel));
    let said = text(&output(["recv", arg(&dir.file()), "--group", "g", "--json"]));
    let said: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(said[0]["offset"], at.to_string());
    assert_eq!((&said[0]["text"], &said[0]["len"], &said[0]["attempts"]), (&"text".into(), &4.into(), &2.into()));
    assert_eq!(said[0]["key"], serde_json::json!({"base64": "/w=="}));
    let headers = serde_json::json!([{"name": "a", "value": "1"}, {"name": "a", "value": {"base64": "/g=="}}]);
    assert_eq!(said[0]["headers"], headers);
    assert!(said[0]["sent_at"].as_str().unwrap().ends_with('Z'), "{}", said[0]);
    assert_eq!((&said[1]["base64"], said[1].get("text")), (&"/w==".into(), None));
}

#[test]
fn so_many_are_received_and_no_more() {
    let (_dir, file) = with_messages(["a", "b", "c"]);
    assert_eq!(text(&output(["recv", &file, "--group", "g", "-n", "0"])), "");
    assert_eq!(text(&output(["recv", &file, "--group", "g", "-n", "2"])), "a\nb\n");
    assert_eq!(text(&output(["recv", &file, "--group", "g"])), "c\n");
    assert_eq!(text(&output(["recv", &file, "--group", "late", "--from", "newest"])), "");
    assert_eq!(text(&output(["recv", &file, "--group", "late"])), "");
    assert_eq!(text(&output(["recv", &file, "--group", "second", "--from", "0:1"])), "b\nc\n");
}

#[test]
fn peek_takes_nothing() {
    let (dir, channel) = small_channel();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..3, 8);
    drop(rx.blocking_lease().unwrap());
    let held = rx.blocking_lease().unwrap();
    drop(rx.blocking_recv().unwrap()); // the second is done; the first is held
    let file = dir.file();
    let (before, stats) = (channel.groups(), channel.stats());
    let peek =
        |more: &[&str]| output(["recv", arg(&file), "--peek", "--framing", "length", "--group"].iter().chain(more));
    let got = peek(&["g"]).stdout;
    assert_eq!(got.chunks(12).map(|m| m[4]).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(peek(&["g", "-n", "1"]).stdout.len(), 12);
    assert_eq!((channel.groups(), channel.stats()), (before, stats));
    let (said, status) = failure(&peek(&["none"]));
    assert!(said.contains("no group none; there are: g"), "{said}");
    assert_eq!((status, channel.groups().len()), (3, 1));
    held.ack().unwrap();
    assert_eq!(failure(&peek(&["g", "--exec", "true"])).1, 2);
}

#[test]
fn a_missing_file_is_status_3_and_is_not_made() {
    let dir = Dir::new();
    for more in [&[][..], &["--peek"]] {
        assert_eq!(failure(&output(["recv", arg(&dir.file()), "--group", "g"].iter().chain(more))).1, 3);
    }
    assert!(dir.entries().is_empty());
}

/// Who reads goes after one line: what no pipe had taken is there still.
#[test]
fn a_closed_pipe_ends_it_quietly_and_the_rest_is_there() {
    within(60, || {
        let line = |n: usize| format!("{n:0>20000}");
        let (_dir, file) = with_messages((0..30).map(line));
        let mut recv = start(["recv", &file, "--group", "g"]);
        let mut stdout = BufReader::with_capacity(1, recv.0.stdout.take().unwrap());
        let mut first = String::new();
        stdout.read_line(&mut first).unwrap();
        assert_eq!(first.trim_end(), line(0));
        drop(stdout);
        let (status, _, err) = recv.end();
        assert_eq!((status, &*err), (0, ""));
        // All lines are handed out together; the pipe took a few, and none of them was flushed with all others.
        let rest = text(&output(["recv", &file, "--group", "g"]));
        let rest: Vec<_> = rest.lines().collect();
        assert!(rest.len() >= 25, "{} are there", rest.len());
        assert!(rest.iter().rev().zip((0..30).rev()).all(|(got, n)| *got == line(n)));
    });
}

#[test]
fn a_failed_write_gives_back() {
    let (_dir, file) = with_messages(["a", "b"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let failed = crate::run::disk_chan(["recv", &file, "--group", "g"]).stdout(full).output().unwrap();
    let (said, status) = failure(&failed);
    assert!(said.contains("standard output"), "{said}");
    assert_eq!(status, 1);
    assert_eq!(text(&output(["recv", &file, "--group", "g"])), "a\nb\n");
}

/// Waiting, or with an output that nobody reads.
#[test]
fn a_signal_ends_it_and_nothing_is_lost() {
    for (signal, number) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::KILL, 9)] {
        for blocked in [false, true] {
            within(60, move || {
                let (dir, channel) = open_new(small().max_pages(16));
                let tx = channel.sender();
                let len = if blocked { 30_000 } else { 10 };
                send(&tx, 0..12, len);
                let mut recv = start(["recv", arg(&dir.file()), "--group", "g", "--framing", "length"]);
                let mut out = Vec::new();
                if !blocked {
                    let mut stdout = recv.0.stdout.take().unwrap();
                    out.resize(12 * (len + 4), 0);
                    stdout.read_exact(&mut out).unwrap();
                    eventually("all are done", || channel.groups()[0].lag == 0);
                    recv.0.stdout = Some(stdout);
                } else {
                    eventually("it holds some", || channel.groups().first().is_some_and(|group| group.held > 0));
                }
                recv.signal(signal);
                // With nobody to read.
                let status = recv.0.wait().unwrap();
                use std::os::unix::process::ExitStatusExt;
                assert_eq!(status.code().or(status.signal()), Some(number));
                let mut rx = channel.blocking_subscribe("g").unwrap();
                // What a dead one held comes back within a tick, to who polls.
                let (mut rest, left) = (Vec::new(), if blocked { 12 } else { 0 });
                eventually("all came", || {
                    rest.extend(drain_numbers(&mut rx));
                    rest.len() >= left
                });
                assert_eq!(rest, if blocked { (0..12).collect() } else { Vec::<u64>::new() });
            });
        }
    }
}

/// Interrupted again and again while messages flow, the lines that came are all of them, and none came twice.
#[test]
fn interrupted_in_the_middle_it_goes_on_where_it_was() {
    within(60, || {
        let (dir, channel) = open_new(small().max_pages(16).max_held(256));
        let (tx, total) = (channel.sender(), 20_000);
        let mut got: Vec<u64> = Vec::new();
        let _group = channel.blocking_subscribe_from("g", Start::Oldest).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..total {
                    tx.blocking_send(format!("{n}")).unwrap();
                }
            });
            while (got.len() as u64) < total {
                let mut recv = start(["recv", arg(&dir.file()), "--group", "g", "--follow"]);
                let mut stdout = BufReader::new(recv.0.stdout.take().unwrap());
                let mut line = String::new();
                stdout.read_line(&mut line).unwrap();
                recv.signal(Signal::INT);
                stdout.read_to_string(&mut line).unwrap();
                got.extend(line.lines().map(|line| line.parse::<u64>().unwrap()));
                assert_eq!(recv.end().0, 130);
            }
        });
        assert!(got.into_iter().eq(0..total));
        assert_eq!(lag(&channel, "g"), 0);
    });
}

#[test]
fn killed_in_the_middle_nothing_is_lost() {
    within(60, || {
        let (dir, channel) = open_new(small().max_pages(16));
        send(&channel.sender(), 0..5000, 100);
        let mut seen = BTreeMap::<u64, u32>::new();
        let mut note = |bytes: &[u8]| {
            for message in bytes.chunks_exact(104) {
                *seen.entry(crate::common::number(&message[4..])).or_default() += 1;
            }
        };
        for _ in 0..4 {
            let mut recv = start(["recv", arg(&dir.file()), "--group", "g", "--framing", "length"]);
            let mut some = vec![0; 104 * 50];
            recv.0.stdout.as_mut().unwrap().read_exact(&mut some).unwrap();
            recv.signal(Signal::KILL);
            let (status, rest, _) = recv.end();
            assert_eq!(status, 9);
            note(&[some, rest].concat());
        }
        let mut rx = channel.blocking_subscribe("g").unwrap();
        eventually("all came", || {
            rx.try_iter().for_each(|message| *seen.entry(crate::common::number(&message)).or_default() += 1);
            seen.len() == 5000
        });
        assert!(seen.keys().copied().eq(0..5000), "{} came", seen.len());
    });
}

#[test]
fn two_of_a_group_share_and_other_groups_have_their_own() {
    within(60, || {
        let (dir, channel) = open_new(small().max_held(256));
        let mut own = channel.blocking_subscribe("service").unwrap();
        let file = dir.file();
        let _group = channel.blocking_subscribe("g").unwrap();
        let both = [(); 2].map(|()| start(["recv", arg(&file), "--group", "g"]));
        let tx = channel.sender();
        let sending = std::thread::spawn(move || {
            for n in 0..5000 {
                tx.blocking_send(format!("{n}")).unwrap();
            }
        });
        for n in 0..5000 {
            assert_eq!(&*own.blocking_recv().unwrap(), n.to_string().as_bytes());
        }
        sending.join().unwrap();
        eventually("all are received", || channel.groups().iter().all(|group| group.lag == 0));
        drop((own, channel, _group));
        let got = both.map(|recv| recv.end()).map(|(status, out, err)| {
            assert_eq!(status, 0, "{err}");
            String::from_utf8(out).unwrap().lines().map(|line| line.parse::<u64>().unwrap()).collect::<Vec<_>>()
        });
        assert!(got.iter().all(|one| one.is_sorted()));
        crate::common::assert_each_once(got.concat(), 5000);
    });
}

#[test]
fn a_command_gets_each_message_and_what_there_is_to_know() {
    let (dir, channel) = small_channel();
    let tx = channel.sender();
    let at = tx.blocking_send(Headers::new().key("k 1").message([b'a', 0xff]).unwrap()).unwrap();
    tx.blocking_send("").unwrap();
    drop((tx, channel));
    let command = "echo $DISK_CHAN_OFFSET $DISK_CHAN_ATTEMPTS $DISK_CHAN_GROUP \"${DISK_CHAN_KEY-none}\"; cat; echo";
    let said = output(["recv", arg(&dir.file()), "--group", "g", "--exec", command]);
    let (first, second) = (format!("{at} 1 g k 1\n"), format!("{}:{} 1 g none\n\n", at.page(), at.index() + 1));
    assert_eq!(said.stdout, [first.as_bytes(), b"a\xff\n", second.as_bytes()].concat());
}

/// A command that does not read its input is as good.
#[test]
fn a_command_that_fails_gives_back_until_it_does_not() {
    let (dir, channel) = open_new(small().max_pages(16).max_attempts(4));
    send(&channel.sender(), 0..3, 50_000);
    drop(channel);
    let file = dir.file();
    let failed = output([
        "recv",
        arg(&file),
        "--group",
        "g",
        "--exec",
        "test $DISK_CHAN_ATTEMPTS -ge 3 && echo $DISK_CHAN_ATTEMPTS",
    ]);
    assert_eq!(text(&failed), "3\n3\n3\n");
    assert!(String::from_utf8_lossy(&failed.stderr).contains("exit status: 1; attempt 2"));
    // Always: it becomes a dead letter, and the command ends.
    let again = output(["recv", arg(&file), "--group", "other", "--exec", "exit 7"]);
    assert_eq!(text(&again), "");
    assert_eq!(String::from_utf8_lossy(&again.stderr).lines().count(), 12);
    let channel = small().max_pages(16).max_attempts(4).blocking_open(&file).unwrap();
    assert_eq!(channel.blocking_dead_letters().unwrap().try_iter().count(), 3);
    assert_eq!((lag(&channel, "g"), lag(&channel, "other")), (0, 0));
}

/// All four run at once: each waits until it sees the others.
#[test]
fn commands_run_in_parallel() {
    within(60, || {
        let (dir, channel) = small_channel();
        send(&channel.sender(), 0..9, 8);
        drop(channel);
        let seen = dir.join("seen");
        std::fs::create_dir(&seen).unwrap();
        let command = format!(
            "cd {} && touch $DISK_CHAN_OFFSET; while [ $(ls | wc -l) -lt 4 ]; do sleep 0.01; done; echo x",
            arg(&seen)
        );
        let file = dir.file();
        let args = ["recv", arg(&file), "--group", "g", "--parallel", "4", "-n", "8", "--exec", &command];
        assert_eq!(text(&output(args)).lines().count(), 8);
        let channel = small().blocking_open(dir.file()).unwrap();
        assert_eq!(lag(&channel, "g"), 1);
    });
}

/// The command that runs ends, and counts; no other begins.
#[test]
fn a_signal_lets_a_command_end() {
    within(60, || {
        let (dir, channel) = small_channel();
        send(&channel.sender(), 0..3, 8);
        let command = "cat > /dev/null; echo begun; read x < \"$0.go\"; echo ended";
        let go = dir.join("go");
        let command = command.replace("$0.go", arg(&go));
        let made = std::process::Command::new("mkfifo").arg(&go).status().unwrap();
        assert!(made.success());
        let mut recv = start(["recv", arg(&dir.file()), "--group", "g", "--exec", &command]);
        let mut begun = [0; 6];
        recv.0.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
        recv.signal(Signal::TERM);
        std::fs::write(&go, "x\n").unwrap();
        let (status, out, _) = recv.end();
        assert_eq!((status, &*out), (143, &b"ended\n"[..]));
        assert_eq!(lag(&channel, "g"), 2);
    });
}
