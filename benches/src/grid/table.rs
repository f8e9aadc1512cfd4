//! The tables of the grid.

use serde_json::{Value, json};

use super::cell::Cell;
use super::contestants::Kind;
use crate::charts::Bar;
use crate::figures::{Spread, geometric_mean, ratio};

/// A contestant in a cell.
pub struct Row {
    pub kind: Kind,
    pub name: String,
    pub capacity: Option<usize>,
    pub messages: u64,
    /// Messages a second, round by round.
    pub rates: Vec<f64>,
    /// The same until they were sent and synced, where that comes first.
    pub sending: Vec<f64>,
}

impl Row {
    pub fn new(kind: Kind, cell: &Cell, capacity: Option<usize>, messages: u64) -> Self {
        let singly = cell.batch > 1 && !kind.has_batches(cell.face);
        let name = format!("{}{}", kind.name(), if singly { ", one in a call" } else { "" });
        Row { kind, name, capacity, messages, rates: Vec::new(), sending: Vec::new() }
    }

    pub fn median(&self) -> f64 {
        Spread::of(&self.rates).median
    }

    pub fn bar(&self) -> Bar {
        let ours = matches!(self.kind, Kind::DiskChan | Kind::DiskChanCold);
        Bar { label: self.name.clone(), value: self.median() / 1e6, ours }
    }
}

fn row_of(rows: &[Row], kind: Kind) -> Option<&Row> {
    rows.iter().find(|row| row.kind == kind)
}

/// The channel in memory that is fastest.
fn best_in_memory(rows: &[Row]) -> Option<&Row> {
    let in_memory = rows.iter().filter(|row| row.kind.in_memory());
    in_memory.max_by(|a, b| a.median().total_cmp(&b.median()))
}

/// With about as many digits as are worth reading.
fn short(number: f64) -> String {
    let digits = if number >= 1000.0 {
        0
    } else if number < 0.1 {
        4
    } else {
        2
    };
    format!("{number:.digits$}")
}

fn millions(rate: f64) -> String {
    short(rate / 1e6)
}

fn print_rates(title: &str, rows: &[Row], rates: fn(&Row) -> &[f64]) {
    println!(
        "\n{title:40} {:>7} {:>7} {:>7} {:>6} {:>9} {:>9}",
        "median", "least", "most", "ratio", "bound", "messages"
    );
    let ours = row_of(rows, Kind::DiskChan);
    for row in rows {
        let Spread { median, least, most } = Spread::of(rates(row));
        let [median, least, most] = [median, least, most].map(millions);
        let ratio = ours.map_or("-".into(), |ours| short(ratio(rates(ours), rates(row))));
        let bound = row.capacity.map_or("-".into(), |capacity| capacity.to_string());
        println!("{:40} {median:>7} {least:>7} {most:>7} {ratio:>6} {bound:>9} {:9}", row.name, row.messages);
    }
}

pub fn print(cell: &Cell, rows: &[Row]) {
    print_rates(&cell.to_string(), rows, |row| &row.rates);
}

pub fn print_backlog(cell: &Cell, rows: &[Row]) {
    print_rates(&format!("{cell}, sent and synced"), rows, |row| &row.sending);
    print_rates(&format!("{cell}, then received"), rows, |row| &row.rates);
}

pub fn json(cell: &Cell, rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "contestant": row.name,
            "bound": row.capacity,
            "messages": row.messages,
            "messages_per_second": Spread::json(&row.rates),
            "sent_per_second": (!row.sending.is_empty()).then(|| Spread::json(&row.sending)),
        })
    };
    json!({
        "cell": cell.to_string(),
        "contestants": rows.iter().map(row).collect::<Value>(),
        "summary": Summary::of(cell, rows).map(|summary| summary.json()),
    })
}

/// disk_chan in a cell, by others.
pub struct Summary {
    cell: Cell,
    rate: f64,
    /// Which was the best channel in memory, and the ratio.
    memory: Option<(String, f64)>,
    limit: Option<f64>,
    old: Option<f64>,
}

impl Summary {
    pub fn of(cell: &Cell, rows: &[Row]) -> Option<Self> {
        let ours = row_of(rows, Kind::DiskChan)?;
        let by = |row: &Row| ratio(&ours.rates, &row.rates);
        Some(Summary {
            cell: *cell,
            rate: ours.median(),
            memory: best_in_memory(rows).map(|best| (best.name.clone(), by(best))),
            limit: row_of(rows, Kind::Limit).map(by),
            old: row_of(rows, Kind::Old).map(by),
        })
    }

    fn json(&self) -> Value {
        let (best, memory) = self.memory.clone().unzip();
        json!({ "best_in_memory": best, "by_best_in_memory": memory, "by_limit": self.limit, "by_old": self.old })
    }
}

/// A line for each cell, and the means.
pub fn print_summaries(summaries: &[Summary]) -> Value {
    println!(
        "\n{:32} {:>9} {:>9} {:>7} {:>7}  best in memory",
        "disk_chan", "million/s", "/ memory", "/ limit", "/ 0.3"
    );
    let or_dash = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
    for Summary { cell, rate, memory, limit, old } in summaries {
        let (best, memory) = memory.clone().unzip();
        let [memory, limit, old] = [memory, *limit, *old].map(or_dash);
        let best = best.unwrap_or_default();
        println!("{:32} {:>9} {memory:>9} {limit:>7} {old:>7}  {best}", cell.to_string(), millions(*rate));
    }
    let core = Cell::core();
    let mean = |batches: bool| {
        let counts = |summary: &&Summary| core.contains(&summary.cell) && (batches || summary.cell.batch == 1);
        let ratios: Vec<_> = summaries.iter().filter(counts).filter_map(|s| Some(s.memory.as_ref()?.1)).collect();
        (geometric_mean(&ratios), ratios.len())
    };
    let ((all, cells), (singly, cells_singly)) = (mean(true), mean(false));
    if cells == 0 {
        return Value::Null;
    }
    println!(
        "\ndisk_chan by the best channel in memory of each cell, geometric mean: {all:.3} over {cells} cells of the \
         core,\n{singly:.3} over the {cells_singly} without batches"
    );
    json!({
        "by_best_in_memory": { "core": all, "without_batches": singly },
        "cells": { "core": cells, "without_batches": cells_singly },
    })
}
