//! `disk-chan metrics`.

use crate::common::{Dir, small};
use crate::run::{arg, output, text};

fn two_channels(dir: &Dir) -> [disk_chan::Channel; 2] {
    ["a \"1\".chan", "b.chan"].map(|name| {
        let channel = small().blocking_open(dir.join(name)).unwrap();
        drop(channel.blocking_subscribe("g\nh").unwrap());
        channel.sender().blocking_send("hello").unwrap();
        channel
    })
}

#[test]
fn the_text_is_in_the_format_of_prometheus() {
    let dir = Dir::new();
    let _in_use = two_channels(&dir);
    let text = text(&output(["metrics", arg(&dir.join("a \"1\".chan")), arg(&dir.join("b.chan"))]));
    let mut families = Vec::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            families.push(kind.split(' ').next().unwrap());
        } else if !line.starts_with("# HELP ") {
            let (name, rest) = line.split_once('{').unwrap();
            assert_eq!(Some(&name), families.last(), "a family stands together");
            let (labels, value) = rest.rsplit_once("} ").unwrap();
            assert!(labels.starts_with("channel=\"") && labels.ends_with('"'), "{line}");
            assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
        }
    }
    assert!(text.contains("a \\\"1\\\".chan\",group=\"g\\nh\"} 1\n"), "{text}");
    let mut once = families.clone();
    once.dedup();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), families.len(), "{families:?}");
    assert_eq!(text.matches("\ndisk_chan_group_lag_messages{").count(), 2);
}

#[test]
fn as_json_each_figure_is_a_line() {
    let dir = Dir::new();
    let _in_use = two_channels(&dir);
    let text = text(&output(["metrics", "--json", arg(&dir.join("b.chan"))]));
    let figures: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let messages = figures.iter().find(|figure| figure["name"] == "disk_chan_messages").unwrap();
    assert_eq!((&messages["value"], &messages["kind"]), (&1.0.into(), &"gauge".into()));
    assert!(figures.iter().any(|figure| figure["labels"]["group"] == "g\nh"));
}
