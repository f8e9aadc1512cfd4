//! `disk-chan send`.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use disk_chan::{Channel, Options};
use rustix::process::Signal;

use crate::common::{Dir, eventually, open_new, small, small_channel, within};
use crate::run::{Running, arg, failure, output, output_of, start, text};

/// All messages of a channel, from the oldest.
fn messages(channel: &Channel) -> Vec<Vec<u8>> {
    channel.reader().try_iter().map(|record| record.unwrap().into_vec()).collect()
}

/// What a `send` with these arguments made of an input, in a channel of its own.
fn sent(args: &[&str], input: &[u8]) -> Vec<Vec<u8>> {
    let (dir, channel) = small_channel();
    let file = dir.file();
    text(&output_of(["send", arg(&file)].iter().chain(args), input));
    messages(&channel)
}

#[test]
fn each_framing_cuts_messages() {
    let lines = sent(&[], b"one\n\n\xff\x00\nlast");
    assert_eq!(lines, [&b"one"[..], b"", b"\xff\x00", b"last"]);
    assert_eq!(sent(&["--framing", "nul"], b"a\nb\0\0c\0"), [&b"a\nb"[..], b"", b"c"]);
    assert_eq!(sent(&["--framing", "length"], b"\x03\0\0\0abc\0\0\0\0\x01\0\0\0\n"), [&b"abc"[..], b"", b"\n"]);
    assert_eq!(sent(&["--framing", "file"], b"a\nb\n"), [b"a\nb\n"]);
    assert_eq!(sent(&["--framing", "file"], b""), [b""]);
    assert_eq!(sent(&[], b""), [b""; 0]);
}

#[test]
fn each_file_is_a_message() {
    let (dir, channel) = small_channel();
    let paths = [dir.join("a"), dir.join("b"), dir.join("c")];
    let contents = [vec![0xff; 40_000], Vec::new(), b"third".to_vec()];
    for (path, content) in paths.iter().zip(&contents) {
        std::fs::write(path, content).unwrap();
    }
    let file = dir.file();
    let (a, b, c) = (arg(&paths[0]), arg(&paths[1]), arg(&paths[2]));
    text(&output(["send", arg(&file), "--framing", "file", a, b, c]));
    assert_eq!(messages(&channel), contents);
    let (said, status) = failure(&output(["send", arg(&file), "--framing", "file", c, arg(&dir.join("none"))]));
    assert!(said.contains("1 messages were sent") && said.contains("none"), "{said}");
    assert_eq!(status, 3);
}

#[test]
fn a_length_that_is_cut_off_or_too_long_is_an_error() {
    let (dir, channel) = small_channel();
    let file = dir.file();
    let send = |input: &[u8]| failure(&output_of(["send", arg(&file), "--framing", "length"], input)).0;
    let said = send(b"\x01\0\0\0a\x05\0\0\0abc");
    assert!(said.contains("message 2") && said.contains("ends in the middle"), "{said}");
    let said = send(b"\x01\0\0\0b\xff\xff\xff\xff");
    assert!(said.contains("message 2") && said.contains("4294967295"), "{said}");
    assert_eq!(messages(&channel), [b"a", b"b"]);
}

#[test]
fn a_line_that_does_not_fit_is_an_error_and_those_before_it_were_sent() {
    let (dir, channel) = small_channel();
    let file = dir.file();
    let longest = vec![b'x'; channel.max_message_len()];
    for more in [1, 3, 300_000] {
        let before = messages(&channel).len();
        let input = [b"first\n".to_vec(), vec![b'y'; longest.len() + more], b"\nlast\n".to_vec()].concat();
        let (said, _) = failure(&output_of(["send", arg(&file)], &input));
        assert!(said.contains("message 2") && said.contains("1 messages were sent"), "{said}");
        assert_eq!(messages(&channel).len(), before + 1, "{more} bytes too many");
    }
    text(&output_of(["send", arg(&file)], &longest));
    assert_eq!(messages(&channel).last(), Some(&longest));
}

#[test]
fn headers_and_key_go_with_each_message_and_json_says_how_many() {
    let (dir, channel) = small_channel();
    let file = dir.file();
    let args = ["send", arg(&file), "--key", "k", "--header", "a=1=2", "--header", "b=", "--json", "--durable"];
    let said: serde_json::Value = serde_json::from_str(&text(&output_of(args, b"x\ny\n"))).unwrap();
    let records: Vec<_> = channel.reader().try_iter().map(Result::unwrap).collect();
    assert_eq!(said, serde_json::json!({"sent": 2, "last": records[1].offset().to_string(), "durable": true}));
    for record in records {
        assert_eq!(record.key(), Some(&b"k"[..]));
        assert_eq!(record.headers().iter().collect::<Vec<_>>(), [("a", &b"1=2"[..]), ("b", b"")]);
    }
    assert!(channel.durable_offset() >= channel.end_offset());
    assert_eq!(failure(&output_of(["send", arg(&file), "--header", "none"], b"")).1, 2);
}

/// The options are those of the file.
#[test]
fn it_creates_the_file_as_told() {
    let dir = Dir::new();
    let file = dir.file();
    let shape = ["--page-size", "64K", "--pages", "2", "--overflow", "drop-oldest", "--max-attempts", "3"];
    let more = ["--max-age", "7d", "--lease-timeout", "30s", "--typical-message-len", "100"];
    text(&output_of(["send", arg(&file)].iter().chain(&shape).chain(&more), b"one\n"));
    let day = std::time::Duration::from_secs(24 * 3600);
    let same = Options::new().page_size(64 << 10).max_pages(2).overflow(disk_chan::Overflow::DropOldest);
    let same = same.max_attempts(3).max_age(7 * day).lease_timeout(day / 2880).typical_message_len(100);
    same.blocking_open(&file).unwrap();
    assert!(dir.entries().contains(&"test.chan.dead".to_owned()), "{:?}", dir.entries());
    let (said, _) = failure(&output_of(["send", arg(&file), "--pages", "3"], b"two\n"));
    assert!(said.contains("max_pages = 2"), "{said}");
}

/// A line that is there does not wait for others.
#[test]
fn a_line_is_sent_as_soon_as_it_is_there() {
    within(60, || {
        let (dir, channel) = small_channel();
        let mut send = start(["send", arg(&dir.file()), "--durable"]);
        let mut reader = channel.reader();
        for n in 0..5 {
            let stdin = send.0.stdin.as_mut().unwrap();
            writeln!(stdin, "line {n}").and_then(|()| stdin.write_all(b"not whole")).unwrap();
            let record = reader.blocking_read().unwrap();
            assert!(record.ends_with(format!("line {n}").as_bytes()), "{:?}", String::from_utf8_lossy(&record));
            eventually("it is on stable storage", || channel.durable_offset() > record.offset());
        }
        let (status, out, err) = send.end();
        assert_eq!((status, out.len(), &*err), (0, 0, ""));
    });
}

#[test]
fn a_full_ring_is_waited_for_and_said_once() {
    within(60, || {
        let (dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("slow").unwrap();
        let lines: Vec<String> = (0..20_000).map(|n| format!("{n:0>20}")).collect();
        let mut send = start(["send", arg(&dir.file())]);
        let (mut stdin, mut stderr) = (send.0.stdin.take().unwrap(), send.0.stderr.take().unwrap());
        let input = lines.join("\n");
        let feeding = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
        let mut said = [0; 28];
        stderr.read_exact(&mut said).unwrap();
        assert!(String::from_utf8_lossy(&said).contains("waiting for room"));
        let got: Vec<_> =
            (0..lines.len()).map(|_| String::from_utf8(rx.blocking_recv().unwrap().to_vec()).unwrap()).collect();
        assert_eq!(got, lines);
        feeding.join().unwrap();
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("group slow") && !rest.contains("waiting"), "{rest}");
        assert_eq!(send.end().0, 0);
    });
}

#[test]
fn without_a_group_a_full_ring_is_an_error_that_says_what_to_do() {
    let (dir, channel) = small_channel();
    let input = "a line of some length\n".repeat(20_000);
    let (said, status) = failure(&output_of(["send", arg(&dir.file())], input.as_bytes()));
    assert!(said.contains("--group G -n 0") && said.contains(&format!("{} messages", channel.len())), "{said}");
    assert_eq!(status, 1);
}

/// Stopped by a signal it says how many it sent, and so many are there.
#[test]
fn a_signal_ends_it_between_messages() {
    for (signal, number) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        for waits_for_room in [false, true] {
            within(60, move || {
                let (dir, channel) = open_new(small());
                let _rx = channel.blocking_subscribe("g").unwrap();
                let mut send = start(["send", arg(&dir.file()), "--json"]);
                let mut stdin = send.0.stdin.take().unwrap();
                let lines = if waits_for_room { 20_000 } else { 100 };
                let feeding = std::thread::spawn(move || {
                    // It ends while this writes, or waits for more after it.
                    let _ = (0..lines)
                        .try_for_each(|n| writeln!(stdin, "{n:0>20}"))
                        .and_then(|()| stdin.write_all(b"half"));
                    stdin
                });
                match waits_for_room {
                    true => eventually("the ring is full", || {
                        channel.len() > 1000 && channel.sender().try_send(vec![0; 50_000]).is_err()
                    }),
                    false => eventually("all are sent", || channel.len() == 100),
                }
                send.signal(signal);
                let (status, out, err) = send.end();
                drop(feeding.join().unwrap());
                assert_eq!(status, number, "{err}");
                let said: serde_json::Value = serde_json::from_slice(&out).unwrap();
                let got: Vec<_> = messages(&channel).into_iter().filter(|m| m.len() == 20).collect();
                assert_eq!(said["sent"], got.len(), "{err}");
                assert!(err.contains("interrupted"), "{err}");
                let expected: Vec<_> = (0..got.len()).map(|n| format!("{n:0>20}").into_bytes()).collect();
                assert_eq!(got, expected);
            });
        }
    }
}

/// Killed, what was sent is a beginning of the input, whole.
#[test]
fn killed_it_has_sent_a_beginning() {
    within(60, || {
        let (dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let mut send = start(["send", arg(&dir.file())]);
        let mut stdin = send.0.stdin.take().unwrap();
        let feeding = std::thread::spawn(move || while writeln!(stdin, "0123456789").is_ok() {});
        for _ in 0..1000 {
            assert_eq!(&*rx.blocking_recv().unwrap(), b"0123456789");
        }
        send.signal(Signal::KILL);
        assert_eq!(send.end().0, 9);
        feeding.join().unwrap();
        while let Ok(message) = rx.try_recv() {
            assert_eq!(&*message, b"0123456789");
        }
        // The channel is as good as before.
        channel.sender().try_send("more").unwrap();
        assert_eq!(&*rx.blocking_recv().unwrap(), b"more");
    });
}

#[test]
fn what_is_no_channel_is_status_4() {
    let dir = Dir::new();
    std::fs::write(dir.file(), "garbage".repeat(10_000)).unwrap();
    for args in [&["send"][..], &["recv", "--group", "g"], &["recv", "--peek", "--group", "g"], &["groups", "list"]] {
        let (said, status) = failure(&output_of(args.iter().copied().chain([arg(&dir.file())]), b"x\n"));
        assert_eq!(status, 4, "{args:?}: {said}");
    }
    let (dir, channel) = small_channel();
    drop(channel);
    let mut bytes = std::fs::read(dir.file()).unwrap();
    // Of both copies of the header.
    (bytes[48], bytes[4096 + 48]) = (bytes[48] ^ 1, bytes[4096 + 48] ^ 1);
    std::fs::write(dir.file(), bytes).unwrap();
    for args in [&["send"][..], &["recv", "--group", "g"], &["dead-letters", "list"], &["groups", "export"]] {
        let (said, status) = failure(&output_of(args.iter().copied().chain([arg(&dir.file())]), b"x\n"));
        assert_eq!(status, 4, "{args:?}: {said}");
    }
}

/// As many lines as one likes, through both commands at once: `DISK_CHAN_LINES`.
#[test]
fn lines_pass_through_send_and_recv_unchanged() {
    let lines = std::env::var("DISK_CHAN_LINES").map_or(200_000, |lines| lines.parse().unwrap());
    within(120, move || {
        let dir = Dir::new();
        let file = dir.file();
        text(&output(["send", arg(&file), "--page-size", "1M", "--pages", "4"]));
        text(&output(["recv", arg(&file), "--group", "g", "-n", "0"]));
        let count = lines.to_string();
        let receive = ["recv", arg(&file), "--group", "g", "-n", &count, "--follow"];
        let mut recv = crate::run::disk_chan(receive).stdout(Stdio::piped()).spawn().map(Running).unwrap();
        let mut seq = Command::new("seq").arg(&count).stdout(Stdio::piped()).spawn().unwrap();
        let from = seq.stdout.take().unwrap();
        let send = std::thread::spawn({
            let mut command = crate::run::disk_chan(["send", arg(&file)]);
            command.stdin(from);
            move || command.output().unwrap()
        });
        let mut got = String::new();
        recv.0.stdout.take().unwrap().read_to_string(&mut got).unwrap();
        text(&send.join().unwrap());
        assert!(seq.wait().unwrap().success() && recv.0.wait().unwrap().success());
        assert!(got.lines().map(|line| line.parse::<u64>().unwrap()).eq(1..=lines), "{} bytes", got.len());
    });
}

/// A named pipe that nobody writes to is waited for so that a signal ends it.
#[test]
fn a_signal_ends_it_at_a_named_pipe_and_what_is_written_there_is_sent() {
    let (dir, channel) = small_channel();
    let (file, pipe) = (dir.file(), dir.join("pipe"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let sending = start(["send", arg(&file), arg(&pipe)]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    sending.signal(Signal::TERM);
    assert_eq!(within(20, move || sending.end()).0, 143);
    let sending = start(["send", arg(&file), arg(&pipe)]);
    std::fs::write(&pipe, "a\nb\n").unwrap();
    assert_eq!(within(20, move || sending.end()).0, 0);
    assert_eq!(messages(&channel), [b"a", b"b"]);
}

/// An error is one also where nobody reads how many were sent.
#[test]
fn a_closed_standard_output_hides_no_error() {
    let (dir, _channel) = small_channel();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let file = dir.file();
    let mut command = crate::run::disk_chan(["send", arg(&file), "--json", arg(&dir.join("none"))]);
    assert_eq!(command.stdout(writer).status().unwrap().code(), Some(3));
}
