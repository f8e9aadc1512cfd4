//! Bar charts. Without a background, in colours that can be read on a light and on a dark one.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: i32 = 860;
const LABELS: i32 = 300;
/// Right of the longest bar, for its number.
const NUMBERS: i32 = 90;
const BAR: i32 = 16;
const GAP: i32 = 5;
const TITLE: i32 = 32;

const TEXT: RGBColor = RGBColor(125, 133, 144);
const OURS: RGBColor = RGBColor(31, 136, 61);
const OTHERS: RGBColor = RGBColor(84, 140, 210);

/// Bars under a title.
pub struct Group {
    pub title: String,
    pub bars: Vec<Bar>,
}

pub struct Bar {
    pub label: String,
    pub value: f64,
    /// In another colour.
    pub ours: bool,
}

/// How long a bar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    /// Ten times as much is always as much longer.
    Logarithmic,
}

fn text<'a>(size: i32, at: HPos) -> TextStyle<'a> {
    ("sans-serif", size).into_font().color(&TEXT).pos(Pos::new(at, VPos::Center))
}

/// The bars of all groups, one below the other, to one scale.
pub fn bars(title: &str, scale: Scale, groups: &[Group]) -> String {
    let lines = |group: &Group| TITLE + group.bars.len() as i32 * (BAR + GAP);
    let height = TITLE + groups.iter().map(lines).sum::<i32>() + GAP;
    let values = || groups.iter().flat_map(|group| &group.bars).map(|bar| bar.value).filter(|value| *value > 0.0);
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    let length = |value: f64| {
        let part = match scale {
            Scale::Linear => value / most,
            // The shortest is there, too.
            Scale::Logarithmic => (value / least * 2.0).ln() / (most / least * 2.0).ln(),
        };
        (part * f64::from(WIDTH - LABELS - NUMBERS)).max(1.0) as i32
    };

    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
    let write = |words: &str, style: &TextStyle<'_>, at: (i32, i32)| root.draw_text(words, style, at).unwrap();
    write(title, &text(20, HPos::Left), (GAP, TITLE / 2));
    let mut top = TITLE;
    for group in groups {
        write(&group.title, &text(18, HPos::Left), (GAP, top + TITLE / 2));
        top += TITLE;
        for bar in &group.bars {
            let (middle, end) = (top + BAR / 2, LABELS + length(bar.value));
            write(&bar.label, &text(16, HPos::Right), (LABELS - 2 * GAP, middle));
            let colour = if bar.ours { OURS } else { OTHERS };
            root.draw(&Rectangle::new([(LABELS, top), (end, top + BAR)], colour.filled())).unwrap();
            write(&format!("{:.2}", bar.value), &text(16, HPos::Left), (end + GAP, middle));
            top += BAR + GAP;
        }
    }
    root.present().unwrap();
    drop(root);
    svg
}
