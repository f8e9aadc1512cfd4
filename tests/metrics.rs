//! Figures are read from the file: right in each process and right after reopening, and never negative.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use common::{Dir, Rng, fill, open_new, poll_once, seed, small, small_channel};
use disk_chan::{Channel, Create, Lease, Metric, Options, Overflow, SendTimeoutError};

/// The values of the figures, by name, and group and reason where they have them.
fn values(metrics: &[Metric]) -> BTreeMap<String, f64> {
    let labels =
        |metric: &Metric| metric.labels.iter().skip(1).map(|(_, value)| format!(" {value}")).collect::<String>();
    metrics.iter().map(|metric| (format!("{}{}", metric.name, labels(metric)), metric.value)).collect()
}

fn value(channel: &Channel, name: &str) -> f64 {
    let values = values(&channel.metrics());
    *values.get(&format!("disk_chan_{name}")).unwrap_or_else(|| panic!("no {name} in {values:?}"))
}

fn again(dir: &Dir) -> Channel {
    Options::new().create(Create::OpenExisting).blocking_open(dir.file()).unwrap()
}

/// What does not belong to the file but to who has it open, or the time, is left out.
fn lasting(channel: &Channel) -> BTreeMap<String, f64> {
    let mut values = values(&channel.metrics());
    let passing = ["opens", "handles", "seconds", "held", "returned"];
    values.retain(|name, _| !passing.iter().any(|word| name.contains(word)));
    values
}

#[test]
fn they_are_right_after_any_history_and_the_same_after_reopening() {
    let seed = seed();
    for round in 0..20 {
        let mut rng = Rng::new(seed + round);
        let dir = Dir::new();
        let mut channel = small().max_attempts(4000).blocking_open(dir.file()).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let (mut sent, mut done, mut again_out) = (0_u32, 0_u32, 0_u32);
        let mut held: VecDeque<Lease> = VecDeque::new();
        for _ in 0..200 {
            match rng.below(12) {
                0..=4 if sent < 400 => {
                    channel.sender().blocking_send([b'x'; 50]).unwrap();
                    sent += 1;
                }
                5 | 6 => held.extend(rx.try_lease()),
                7 | 8 => done += u32::from(held.pop_front().is_some_and(|lease| lease.ack().is_ok())),
                9 => {
                    if let Some(lease) = held.pop_back() {
                        lease.give_back().unwrap();
                        held.push_back(rx.try_lease().unwrap()); // that one, as it is the lowest given back
                        again_out += 1;
                    }
                }
                10 => {
                    let values = values(&channel.metrics());
                    assert!(values.values().all(|v| *v >= 0.0 && v.is_finite()), "{values:?}");
                    assert_eq!(values["disk_chan_group_held_messages g"], held.len() as f64);
                    assert_eq!(values["disk_chan_group_redelivered_total g"], f64::from(again_out));
                }
                _ if rng.one_in(5) => {
                    // What is held is given back, and out once more.
                    let (out, before) = (held.len(), lasting(&channel));
                    drop((std::mem::take(&mut held), rx, channel));
                    channel = again(&dir);
                    assert_eq!(lasting(&channel), before);
                    rx = channel.blocking_subscribe("g").unwrap();
                    held.extend((0..out).map(|_| rx.try_lease().unwrap()));
                    again_out += out as u32;
                }
                _ => {}
            }
            assert_eq!(value(&channel, "messages"), f64::from(sent));
            assert_eq!(value(&channel, "group_lag_messages g"), f64::from(sent - done));
            assert_eq!(value(&channel, "group_lag_bytes g"), f64::from((sent - done) * 50));
        }
    }
}

#[test]
fn what_was_lost_is_told_by_reason() {
    let (dir, channel) = open_new(small().overflow(Overflow::DropOldest));
    drop(channel.blocking_subscribe("g").unwrap());
    let tx = channel.sender();
    while channel.stats().page_turns < 5 {
        tx.blocking_send([1; 1000]).unwrap();
    }
    let (lost, there) = (value(&channel, "group_lost_total g lagged"), value(&channel, "messages"));
    assert!(lost > there, "{lost} {there}");
    assert_eq!(value(&channel, "group_lag_messages g"), there);
    assert_eq!(value(&channel, "page_turns_total"), 5.0);
    drop((tx, channel));
    assert_eq!(value(&again(&dir), "group_lost_total g lagged"), lost);
}

#[test]
fn waits_for_room_are_counted_once_they_are_over() {
    let (dir, channel) = small_channel();
    drop(channel.blocking_subscribe("g").unwrap());
    fill(&channel, 0, 1000);
    assert_eq!(value(&channel, "waits_for_room_total"), 0.0);
    let tx = channel.sender();
    let limit = Duration::from_millis(20);
    assert!(matches!(tx.send_timeout([1; 1000], limit), Err(SendTimeoutError::Timeout(_))));
    assert_eq!(value(&channel, "waits_for_room_total"), 1.0);
    assert!(value(&channel, "wait_for_room_seconds_total") >= 0.02);
    assert!(poll_once(tx.send([1; 1000])).is_pending()); // and dropped
    drop((tx, channel));
    assert_eq!(value(&again(&dir), "waits_for_room_total"), 2.0);
}

#[test]
fn syncs_are_counted_with_their_time() {
    let (dir, channel) = small_channel();
    channel.sender().blocking_send_durable("x").unwrap();
    let (syncs, time) = (value(&channel, "syncs_total"), value(&channel, "sync_seconds_total"));
    assert!(syncs == 1.0 && time > 0.0, "{syncs} {time}");
    drop(channel);
    assert_eq!(value(&again(&dir), "syncs_total"), syncs);
}

/// Relays what is there, and says the last place.
#[cfg(feature = "relay")]
fn relayed(channel: &Channel, group: &'static str) -> disk_chan::Offset {
    use disk_chan::relay::{Relay, Sink, SinkError};
    struct All(Option<disk_chan::Offset>, bool);
    impl Sink for All {
        fn to(&self) -> String {
            "everywhere".into()
        }
        async fn publish(&mut self, batch: &[Lease]) -> Result<(), SinkError> {
            let was_away = std::mem::replace(&mut self.1, false);
            self.0 = batch.last().map(Lease::offset);
            if was_away { Err(SinkError::retry("away")) } else { Ok(()) }
        }
        async fn confirmed(&mut self) -> Result<disk_chan::Offset, SinkError> {
            match self.0.take() {
                Some(last) => Ok(last),
                None => std::future::pending().await,
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let relay = Relay::new(channel, group).backoff(Duration::from_millis(1), Duration::from_millis(1));
    let relaying =
        runtime.spawn(async move { relay.run(All(None, true), async { drop::<Result<(), _>>(stopped.await) }).await });
    common::eventually("all is relayed", || value(channel, &format!("group_lag_messages {group}")) == 0.0);
    let active = format!("relay_active {group}");
    assert_eq!(value(channel, &active), 1.0);
    stop.send(()).unwrap();
    let status = runtime.block_on(relaying).unwrap().unwrap();
    assert_eq!(value(channel, &active), 0.0);
    status.confirmed.unwrap()
}

#[cfg(feature = "relay")]
#[test]
fn a_relay_has_figures_that_begin_again_when_it_is_run_again() {
    let (dir, channel) = small_channel();
    drop(channel.blocking_subscribe("g").unwrap());
    assert!(!values(&channel.metrics()).keys().any(|name| name.contains("relay")), "nobody has relayed");
    for sent in [5, 2] {
        channel.sender().blocking_send_many(&vec!["x"; sent as usize]).unwrap();
        let last = relayed(&channel, "g");
        assert_eq!(last.as_u64() + 1, channel.end_offset().as_u64());
        let channel = again(&dir);
        assert_eq!(value(&channel, "relay_relayed_total g"), f64::from(sent));
        assert_eq!(value(&channel, "relay_refused_total g"), 0.0);
        let place = (value(&channel, "relay_confirmed_page g"), value(&channel, "relay_confirmed_index g"));
        assert_eq!(place, (last.page() as f64, last.index() as f64));
        assert!(value(&channel, "relay_last_error_timestamp_seconds g") > 1e9);
        assert_eq!(value(&channel, "relay_info g everywhere away"), 1.0);
    }
    channel.remove_group("g", false).unwrap();
    drop(channel.blocking_subscribe("g").unwrap());
    assert!(!values(&channel.metrics()).keys().any(|name| name.contains("relay")), "that was another group");
}

#[test]
fn every_name_is_in_the_documentation() {
    let (_dir, channel) = small_channel();
    drop(channel.blocking_subscribe("g").unwrap());
    #[cfg(feature = "relay")]
    {
        channel.sender().blocking_send("x").unwrap();
        relayed(&channel, "g");
        assert!(values(&channel.metrics()).keys().any(|name| name.contains("relay_info")));
    }
    let source = include_str!("../src/metrics.rs");
    for Metric { name, .. } in channel.metrics() {
        assert!(source.contains(&format!("`{name}`")), "{name}");
    }
}

#[cfg(feature = "metrics")]
#[test]
fn a_recorder_gets_the_same_figures() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    let (_dir, channel) = small_channel();
    drop(channel.blocking_subscribe("g").unwrap());
    channel.sender().blocking_send("hello").unwrap();
    #[cfg(feature = "relay")]
    relayed(&channel, "g");
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || {
        Channel::describe_metrics();
        channel.record_metrics();
    });
    let recorded: BTreeMap<_, _> = (recorder.snapshotter().snapshot().into_vec().into_iter())
        .map(|(key, _, described, value)| {
            let key = key.key();
            assert!(described.is_some(), "{key:?}");
            let labels = key.labels().skip(1).map(|label| format!(" {}", label.value())).collect::<String>();
            let value = match value {
                DebugValue::Counter(n) => n as f64,
                DebugValue::Gauge(v) => v.0,
                DebugValue::Histogram(_) => panic!("a histogram"),
            };
            (format!("{}{labels}", key.name()), value)
        })
        .collect();
    let mut expected = values(&channel.metrics());
    // Two looks at the clock.
    expected.retain(|name, _| !name.contains("age_seconds"));
    for (name, value) in expected {
        assert_eq!(recorded.get(&name), Some(&value), "{name}");
    }
}
