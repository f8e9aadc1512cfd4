//! `disk-chan relay`, and how relays are shown by the commands that look.

use std::path::PathBuf;
use std::time::Duration;

use disk_chan::relay::{Relay, RelayStatus, Sink, SinkError};
use disk_chan::{Channel, Lease, Offset};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::common::{Dir, eventually, send, small_channel};
#[cfg(any(feature = "relay-nats", feature = "relay-redis"))]
use crate::common::{PATIENCE, within};
use crate::looking::{answer, json};
use crate::run::{arg, failure, output, text};
use crate::terminal::Terminal;

/// Where the sink of these tests says that it puts messages; who shows it takes care of the terminal.
const TO: &str = "test://\u{1b}[2Jhere\u{9b}";

/// Takes a few messages, then is away.
struct Few {
    left: usize,
    last: Option<Offset>,
}

impl Sink for Few {
    fn to(&self) -> String {
        TO.into()
    }

    async fn publish(&mut self, batch: &[Lease]) -> Result<(), SinkError> {
        for message in batch {
            let away = || SinkError::retry(std::io::Error::other("away \u{1b}]0;x\u{7}\n".repeat(100)));
            self.left = self.left.checked_sub(1).ok_or_else(away)?;
            self.last = Some(message.offset());
        }
        Ok(())
    }

    async fn confirmed(&mut self) -> Result<Offset, SinkError> {
        match self.last.take() {
            Some(last) => Ok(last),
            None => std::future::pending().await,
        }
    }
}

/// Relays in this process until the status is as it should be; `look` sees it while the relay is active.
fn relayed<R>(channel: &Channel, group: &str, few: usize, is: fn(&RelayStatus) -> bool, look: impl FnOnce() -> R) -> R {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (stop, mut stopped) = watch::channel(false);
    let pause = Duration::from_millis(10);
    let relay = Relay::new(channel, group).batch(1).window(1).grace(Duration::ZERO).backoff(pause, pause);
    let sink = Few { left: few, last: None };
    let relaying =
        runtime.spawn(async move { relay.run(sink, async move { drop(stopped.wait_for(|told| *told).await) }).await });
    let name = group.into();
    eventually("the relay has come so far", || channel.relays().iter().any(|r| r.group == name && is(r)));
    let seen = look();
    stop.send_replace(true);
    runtime.block_on(relaying).unwrap().unwrap();
    seen
}

/// A channel of ten messages, and a group that is not relayed.
fn ten_messages() -> (Dir, Channel) {
    let (dir, channel) = small_channel();
    channel.blocking_subscribe("other").unwrap();
    send(&channel.sender(), 0..10, 8);
    (dir, channel)
}

fn has_failed(status: &RelayStatus) -> bool {
    status.relayed == 3 && status.last_error.is_some()
}

/// Its status file.
fn status_file(dir: &Dir) -> PathBuf {
    let mut names = dir.entries().into_iter().filter(|name| name.starts_with("test.chan.relay-"));
    dir.join(&names.next().unwrap())
}

#[cfg(any(feature = "relay-nats", feature = "relay-redis"))]
fn lag(channel: &Channel, group: &str) -> u64 {
    channel.groups().into_iter().find(|stats| stats.name.as_str() == group).unwrap().lag
}

#[test]
fn a_wrong_command_line_is_status_2_with_an_example_and_without_the_password() {
    let (dir, _channel) = small_channel();
    let file = dir.file();
    let file = arg(&file);
    for (args, said) in [
        (&["--to", "kafka://me:secret@host/topic", "-g", "g", file][..], "nats://localhost:4222/"),
        (&["--to", "me:secret@host", "-g", "g", file], "redis://localhost:6379/"),
        (&["--to", "nats://me:secret@host", "-g", "g", file], "--to: "),
        (&["--to", "redis://me:secret@host", "-g", "g", file], "--to: "),
        (&["--from", "redis://me:secret@host/key", file], "nats://localhost:4222/"),
        (&["--from", "nats://me:secret@host", file], "--from: "),
        (&["--from", "nats://h/S/s", "--to", "nats://h/S/s", "-g", "g", file], "--"),
        (&["--from", "nats://h/S/s", "-g", "g", file], "--"),
        (&["--to", "nats://h/S/s", file], "--"),
        (&["-g", "g", file], "--to"),
        (&["--to", "nats://h/S/s", "-g", "g", "--batch", "0", file], "--"),
        (&["--to", "nats://h/S/s", "-g", "g", "--grace", "x", file], "--"),
    ] {
        let (error, status) = failure(&output(["relay"].iter().chain(args)));
        assert_eq!(status, 2, "{args:?}: {error}");
        assert!(error.contains(said) && !error.contains("secret"), "{args:?}: {error}");
    }
}

/// An address that can be right, of an engine that the command was built with.
#[cfg(any(feature = "relay-nats", feature = "relay-redis"))]
fn address() -> &'static str {
    if cfg!(feature = "relay-nats") { "nats://localhost:1/S/s" } else { "redis://localhost:1/key" }
}

#[cfg(any(feature = "relay-nats", feature = "relay-redis"))]
#[test]
fn the_group_is_asked_for_and_a_file_that_is_not_there_is_status_3() {
    let (dir, _channel) = small_channel();
    let (error, status) = failure(&output(["relay", arg(&dir.file()), "--to", address()]));
    assert!(status == 2 && error.contains("--group"), "{status}: {error}");
    let none = dir.join("none");
    let (error, status) = failure(&output(["relay", arg(&none), "--to", address(), "-g", "g"]));
    assert!(status == 3 && error.contains(arg(&none)), "{status}: {error}");
    assert!(!none.exists());
}

#[cfg(not(feature = "relay-nats"))]
#[test]
fn without_nats_it_says_what_to_build() {
    without("nats://localhost:4222/ORDERS/orders", "relay-nats");
}

#[cfg(not(feature = "relay-redis"))]
#[test]
fn without_redis_it_says_what_to_build() {
    without("redis://localhost:6379/orders", "relay-redis");
}

#[cfg(not(all(feature = "relay-nats", feature = "relay-redis")))]
fn without(to: &str, feature: &str) {
    let (dir, _channel) = small_channel();
    let (error, status) = failure(&output(["relay", arg(&dir.file()), "-g", "g", "--to", to]));
    assert!(status == 2 && error.contains(&format!("--features cli,{feature}")), "{status}: {error}");
}

#[cfg(feature = "relay-nats")]
#[test]
fn nats_that_is_away_is_waited_for() {
    is_waited_for("nats://me:secret@127.0.0.1:1/ORDERS/orders");
}

#[cfg(feature = "relay-redis")]
#[test]
fn redis_that_is_away_is_waited_for() {
    is_waited_for("redis://me:secret@127.0.0.1:1/orders");
}

/// Nobody listens there: it tries again and again, says so once, and ends when it is told to, with nothing lost.
#[cfg(any(feature = "relay-nats", feature = "relay-redis"))]
fn is_waited_for(to: &str) {
    use crate::run::start;
    use rustix::process::Signal;
    for (signal, expected) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let (dir, channel) = ten_messages();
        let running = start(["relay", arg(&dir.file()), "-g", "g", "--to", to, "--json"]);
        let mut errors = std::collections::BTreeSet::new();
        eventually("it has tried three times", || {
            errors.extend(channel.relays().into_iter().filter_map(|r| Some(r.last_error?.0)));
            errors.len() >= 3
        });
        running.signal(signal);
        let (status, out, error) = within(PATIENCE.as_secs(), || running.end());
        assert_eq!(status, expected, "{error}");
        assert!(
            error.ends_with(&format!("nothing was relayed: interrupted by signal {}\n", expected - 128)),
            "{error}"
        );
        let said: Vec<&str> = error.lines().collect();
        let once: std::collections::BTreeSet<&str> = said.iter().copied().collect();
        assert!(said.len() > 1 && said.len() == once.len(), "what went wrong, once: {error}");
        let lines = String::from_utf8(out).unwrap();
        let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        assert_eq!((&last["group"], &last["relayed"], &last["lag"]), (&json!("g"), &json!(0), &json!(10)));
        assert!(last["last_error"].is_string() && last["confirmed"].is_null(), "{last}");
        let status = std::fs::read_to_string(status_file(&dir)).unwrap();
        assert!(!format!("{error}{lines}{status}").contains("secret"), "{error}{lines}{status}");
        assert_eq!(lag(&channel, "g"), 10);
        drop(channel);
        assert_eq!(text(&output(["recv", arg(&dir.file()), "-g", "g", "--json"])).lines().count(), 10);
    }
}

/// A second relay waits, and says so; when it is told to, it ends.
#[cfg(any(feature = "relay-nats", feature = "relay-redis"))]
#[test]
fn a_relay_beside_another_waits_and_says_so() {
    use crate::run::start;
    use std::io::{BufRead, BufReader};
    let (dir, channel) = ten_messages();
    let (error, status) = relayed(&channel, "g", 3, has_failed, || {
        let mut running = start(["relay", arg(&dir.file()), "-g", "g", "--to", address()]);
        let mut lines = BufReader::new(running.0.stderr.take().unwrap()).lines();
        let said = within(PATIENCE.as_secs(), move || lines.next().unwrap().unwrap());
        running.signal(rustix::process::Signal::TERM);
        (said, within(PATIENCE.as_secs(), || running.end()).0)
    });
    assert!(error.contains("another relay of this group is active: waiting"), "{error}");
    assert_eq!((status, lag(&channel, "g")), (143, 7));
}

#[test]
fn info_says_how_a_relay_stands_while_it_is_active_and_after() {
    let (dir, channel) = ten_messages();
    let file = dir.file();
    let info = |args: &[&str]| answer(&[&["info", arg(&file)], args].concat());
    let third = channel.first_offset().as_u64() + 2;
    let third = Offset::from_u64(third).to_string();
    let of = |value: &Value, group: &str| {
        let groups = value["groups"].as_array().unwrap();
        groups.iter().find(|of| of["name"] == group).unwrap()["relay"].clone()
    };
    let now = relayed(&channel, "g", 3, has_failed, || json(&info(&["--json"])).remove(0));
    let relay = of(&now, "g");
    assert_eq!((&relay["active"], &relay["relayed"], &relay["refused"]), (&json!(true), &json!(3), &json!(0)));
    assert_eq!((&relay["to"], &relay["confirmed"]), (&json!(TO), &json!(third)));
    assert!(relay["last_error"].as_str().unwrap().starts_with("away"), "{relay}");
    assert!(relay["last_error"].as_str().unwrap().len() < 1000, "cut where it is written: {relay}");
    assert!(relay["last_error_at"].as_str().unwrap().ends_with('Z') && relay["updated"].is_string(), "{relay}");
    assert_eq!(of(&now, "other"), Value::Null);
    let after = json(&info(&["--json"])).remove(0);
    assert_eq!((&of(&after, "g")["active"], &of(&after, "g")["rate"]), (&json!(false), &json!(0.0)));
    let said = text(&info(&[]));
    for part in
        ["group g to test://\\u{1b}[2Jhere\\u{9b}", "not active", "3 relayed", "ago: away \\u{1b}]0;x\\u{7}\\u{a}"]
    {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(said.contains(&format!("confirmed {third}")), "{said}");
    assert_eq!(said.matches("\nrelay ").count(), 1, "{said}");
    for args in [&["info", arg(&file)][..], &["info", "--json", arg(&file)], &["metrics", arg(&file)]] {
        let (said, _) = Terminal::start(80, args).all();
        let hostile = ["\u{1b}]", "\u{1b}[2J", "\u{9b}", "\u{7}"].iter().find(|bad| said.contains(**bad));
        assert!(hostile.is_none() && said.contains("away"), "{args:?}: {said:?}");
    }
}

#[test]
fn top_shows_it_in_a_line_under_the_group() {
    let (dir, channel) = ten_messages();
    relayed(&channel, "g", 3, has_failed, || {
        for columns in [80, 200] {
            let mut terminal = Terminal::start(columns, &["top", arg(&dir.file()), "--every", "100ms"]);
            terminal.shows(&["relay active, ", "/s, at 0:2, error ", " ago: away", "other"]);
            let screen = terminal.screen();
            let lines: Vec<&str> = screen.lines().collect();
            let group = lines.iter().position(|line| line.starts_with("│g ")).unwrap();
            assert!(lines[group + 1].starts_with("│  relay active"), "{screen}");
            assert!(lines[group + 2].starts_with("│other "), "{screen}");
            assert!(!terminal.said().contains("\u{1b}]0;") && !terminal.said().contains('\u{9b}'));
            terminal.press("q");
            assert!(terminal.end().success());
        }
    });
    let mut terminal = Terminal::start(80, &["top", arg(&dir.file()), "--every", "100ms"]);
    terminal.shows(&["relay not active, at 0:2, error "]);
    terminal.press("q");
    assert!(terminal.end().success());
}

#[test]
fn metrics_have_a_figure_for_each() {
    let (dir, channel) = ten_messages();
    let metrics = || text(&output(["metrics", arg(&dir.file())]));
    let said = relayed(&channel, "g", 3, has_failed, metrics);
    let value = |said: &str, name: &str| {
        let mut lines = said.lines().filter(|line| line.starts_with(&format!("disk_chan_relay_{name}{{")));
        let line = lines.next().unwrap_or_else(|| panic!("no {name} in {said}"));
        assert!(line.contains(",group=\"g\"") && lines.next().is_none(), "{line}");
        line.rsplit_once("} ").unwrap().1.parse::<f64>().unwrap()
    };
    let values = ["active", "relayed_total", "refused_total", "confirmed_page", "confirmed_index", "info"];
    assert_eq!(values.map(|name| value(&said, name)), [1.0, 3.0, 0.0, 0.0, 2.0, 1.0]);
    assert!(value(&said, "last_error_timestamp_seconds") > 1e9 && value(&said, "updated_timestamp_seconds") > 1e9);
    let info = said.lines().find(|line| line.starts_with("disk_chan_relay_info")).unwrap();
    assert!(info.contains(",to=\"test://") && info.contains(",last_error=\"away ") && info.contains("\\n"), "{info}");
    assert_eq!(value(&metrics(), "active"), 0.0);
    text(&output(["groups", "remove", arg(&dir.file()), "g"]));
    assert!(!metrics().contains("relay"), "{}", metrics());
    assert!(!dir.entries().iter().any(|name| name.contains(".relay-")), "it went with the group");
}

/// What lies where a status should may be anything: it is shown as none, and holds up nobody.
#[test]
fn what_is_no_status_is_passed_over() {
    let (dir, channel) = ten_messages();
    relayed(&channel, "g", 3, has_failed, || ());
    let place = status_file(&dir);
    let good: Value = serde_json::from_str(&std::fs::read_to_string(&place).unwrap()).unwrap();
    let file = dir.file();
    let relay = || {
        for args in [&["info", arg(&file)][..], &["metrics", arg(&file)], &["metrics", "--json", arg(&file)]] {
            text(&answer(args));
        }
        let now = json(&answer(&["info", "--json", arg(&file)])).remove(0);
        now["groups"].as_array().unwrap().iter().find(|of| of["name"] == "g").unwrap()["relay"].clone()
    };
    let with = |bytes: &[u8]| {
        std::fs::write(&place, bytes).unwrap();
        relay()
    };
    let but = |name: &str, value: Value| {
        let mut other = good.clone();
        other[name] = value;
        with(other.to_string().as_bytes())
    };
    assert!(with(good.to_string().as_bytes()).is_object());
    let huge = good.to_string() + &" ".repeat(64 << 10);
    let deep = "[".repeat(60_000);
    for bytes in [&b""[..], b"{}", b"null", b"[1]", b"{", b"\xff\xfe\0", huge.as_bytes(), deep.as_bytes()] {
        assert_eq!(
            with(bytes),
            Value::Null,
            "{}",
            bytes.escape_ascii().to_string().chars().take(80).collect::<String>()
        );
    }
    for (name, value) in [
        ("uuid", json!("00000000000000000000000000000000")),
        ("uuid", json!(7)),
        ("group", json!("other")),
        ("group", json!("x".repeat(1000))),
        ("group", json!("")),
        ("to", json!(["x"])),
        ("relayed", json!(-1)),
        ("relayed", json!(1e300)),
        ("rate", json!("fast")),
        ("refused", json!({})),
        ("lagged", Value::Null),
        ("updated", json!("now")),
    ] {
        assert_eq!(but(name, value.clone()), Value::Null, "{name} {value}");
    }
    // Values that can be, if they are odd.
    assert_eq!(but("rate", json!(-5.0))["rate"], 0.0);
    assert_eq!(but("relayed", json!(u64::MAX))["relayed"], u64::MAX);
    assert!(but("confirmed", json!(u64::MAX))["confirmed"].is_string());
    assert!(but("updated", json!(u64::MAX))["updated"].is_string());
    assert!(but("last_error_at", json!(u64::MAX))["last_error_at"].is_string());
    assert!(but("last_error", json!("é".repeat(20_000)))["last_error"].as_str().unwrap().len() < 1000);
    assert!(but("to", json!("é".repeat(20_000)))["to"].as_str().unwrap().len() < 1000);
    // What is no file at all; a pipe would be waited for.
    std::fs::remove_file(&place).unwrap();
    assert_eq!(relay(), Value::Null);
    std::fs::create_dir(&place).unwrap();
    assert_eq!(relay(), Value::Null);
    std::fs::remove_dir(&place).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &place, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(relay(), Value::Null);
}
