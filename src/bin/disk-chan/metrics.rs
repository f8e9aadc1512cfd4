//! `disk-chan metrics`: the figures of a channel in the Prometheus text format.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use disk_chan::{Metric, MetricKind};
use serde_json::json;

use crate::Outcome;
use crate::face::{self, Face};
use crate::messages::{self, json_shown};

/// Print the figures of channels in the Prometheus text format
#[derive(clap::Args)]
#[command(after_help = "Example, for the text file collector of a node exporter:\n  \
    disk-chan metrics /var/spool/orders.chan > orders.prom.new && mv orders.prom.new orders.prom")]
pub struct Args {
    /// The channels
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub fn run(args: &Args, face: Face) -> Outcome<()> {
    let mut metrics = Vec::new();
    for file in &args.files {
        metrics.extend(face::look_at(file)?.metrics());
    }
    // Those of one name stand together, as the format wants it; in the order in which they are listed otherwise.
    let mut names = Vec::new();
    for metric in &metrics {
        if !names.contains(&metric.name) {
            names.push(metric.name);
        }
    }
    metrics.sort_by_key(|metric| names.iter().position(|name| *name == metric.name));
    let mut out = std::io::stdout().lock();
    let to_terminal = out.is_terminal();
    match face.json {
        true => metrics
            .iter()
            .try_for_each(|metric| writeln!(out, "{}", json_shown(as_json(metric).to_string(), to_terminal)))?,
        false if to_terminal => messages::shown(&mut out, as_text(&metrics).as_bytes())?,
        false => out.write_all(as_text(&metrics).as_bytes())?,
    }
    Ok(out.flush()?)
}

fn kind(metric: &Metric) -> &'static str {
    match metric.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
    }
}

fn as_json(metric: &Metric) -> serde_json::Value {
    let labels: serde_json::Map<_, _> =
        metric.labels.iter().map(|(name, value)| ((*name).into(), json!(value))).collect();
    json!({ "name": metric.name, "kind": kind(metric), "labels": labels, "value": metric.value })
}

fn as_text(metrics: &[Metric]) -> String {
    let (mut text, mut name) = (String::new(), "");
    for metric in metrics {
        if metric.name != name {
            name = metric.name;
            let _ = write!(text, "# HELP {name} {}\n# TYPE {name} {}\n", metric.help, kind(metric));
        }
        let labels: Vec<_> =
            metric.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let _ = writeln!(text, "{name}{{{}}} {}", labels.join(","), metric.value);
    }
    text
}

/// The value of a label, as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
