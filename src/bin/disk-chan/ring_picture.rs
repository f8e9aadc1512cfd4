//! A picture of the ring in a line of the terminal: its pages from the oldest to the newest, then the free ones, and
//! for each place the column that it lies in. What it looks like depends on the snapshot and the width alone.
//!
//! Few pages are boxes that fill from the left; many are a column each, or share one, and fill from below.

use std::env;

use disk_chan::Offset;

use crate::snapshot::Snapshot;

/// Widest box of a page.
const WIDEST: usize = 16;
/// Narrowest.
const NARROWEST: usize = 3;

/// What is drawn with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbols {
    /// Eighths of a column, from the left.
    right: [char; 8],
    /// Eighths, from below.
    pub up: [char; 8],
    border: char,
    free: char,
    /// Points at a column of the line above.
    pub marker: char,
}

/// For terminals that show Unicode.
pub const BLOCKS: Symbols = Symbols {
    right: ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'],
    up: ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
    border: '│',
    free: '·',
    marker: '▲',
};

/// For others.
pub const ASCII: Symbols = Symbols {
    right: ['-', '-', '-', '=', '=', '=', '#', '#'],
    up: ['_', '_', '-', '-', '=', '=', '#', '#'],
    border: '|',
    free: '.',
    marker: '^',
};

impl Symbols {
    /// Those that the locale can show.
    pub fn of_locale() -> Self {
        let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
        let locale = locale.to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") { BLOCKS } else { ASCII }
    }

    /// Whether they are more than ASCII.
    pub fn are_blocks(&self) -> bool {
        *self == BLOCKS
    }
}

/// What a column shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pages with messages.
    Used,
    /// The page that is written, too.
    Written,
    /// Pages that can be written.
    Free,
    /// Between two pages.
    Border,
}

/// A page in use.
struct Page {
    number: u64,
    len: u64,
    fill: f64,
    is_written: bool,
}

/// The ring, laid out for a width.
pub struct Picture {
    pages: Vec<Page>,
    max_pages: usize,
    scale: Scale,
}

enum Scale {
    /// So many columns a page, and a border around each.
    Boxes(usize),
    /// So many pages a column.
    Columns(usize),
}

impl Picture {
    /// At most `width` columns, which are no fewer than 1.
    pub fn new(snapshot: &Snapshot, width: usize) -> Self {
        let max_pages = snapshot.geometry.max_pages;
        let room = (width.saturating_sub(1) / max_pages).saturating_sub(1).min(WIDEST);
        let scale =
            if room >= NARROWEST { Scale::Boxes(room) } else { Scale::Columns(max_pages.div_ceil(width.max(1))) };
        let pages = snapshot.pages.iter().map(|page| Page {
            number: page.number,
            len: page.len,
            fill: snapshot.page_fill(page),
            is_written: !page.sealed,
        });
        Self { pages: pages.take(max_pages).collect(), max_pages, scale }
    }

    /// Columns of it.
    pub fn width(&self) -> usize {
        match self.scale {
            Scale::Boxes(room) => self.max_pages * (room + 1) + 1,
            Scale::Columns(share) => self.max_pages.div_ceil(share),
        }
    }

    /// What a column or box is.
    pub fn unit(&self) -> String {
        match self.scale {
            Scale::Boxes(_) | Scale::Columns(1) => "pages".into(),
            Scale::Columns(share) => format!("{share} pages"),
        }
    }

    /// The line of the pages.
    pub fn ring(&self, symbols: Symbols) -> Vec<(char, Kind)> {
        match self.scale {
            Scale::Boxes(room) => {
                let mut line = vec![(symbols.border, Kind::Border)];
                for at in 0..self.max_pages {
                    line.extend(self.page_box(at, room, symbols));
                    line.push((symbols.border, Kind::Border));
                }
                line
            }
            Scale::Columns(share) => {
                let columns = (0..self.max_pages).step_by(share);
                columns.map(|first| self.column_of_pages(first, share.min(self.max_pages - first), symbols)).collect()
            }
        }
    }

    fn page_box(&self, at: usize, room: usize, symbols: Symbols) -> impl Iterator<Item = (char, Kind)> {
        let page = self.pages.get(at);
        let kind = page.map_or(Kind::Free, Page::kind);
        let eighths = page.map_or(0, |page| eighths(page.fill, room * 8, page.len));
        (0..room).map(move |column| {
            let level = eighths.saturating_sub(column * 8).min(8);
            let empty = if kind == Kind::Free { symbols.free } else { ' ' };
            (if level == 0 { empty } else { symbols.right[level - 1] }, kind)
        })
    }

    fn column_of_pages(&self, first: usize, share: usize, symbols: Symbols) -> (char, Kind) {
        let pages = &self.pages[first.min(self.pages.len())..(first + share).min(self.pages.len())];
        let Some(last) = pages.last() else { return (symbols.free, Kind::Free) };
        let fill = pages.iter().map(|page| page.fill).sum::<f64>() / share as f64;
        // A page in use is not free, though it be empty.
        (symbols.up[eighths(fill, 8, 1) - 1], last.kind())
    }

    /// The column that a place lies in.
    pub fn column(&self, at: Offset) -> usize {
        let page = self.pages.partition_point(|page| page.number < at.page());
        let Some(found) = self.pages.get(page) else { return self.column_in(self.pages.len().saturating_sub(1), 1.0) };
        let is_there = found.number == at.page();
        let part = if is_there { (at.index() as f64 / found.len.max(1) as f64).min(1.0) } else { 0.0 };
        self.column_in(page, part * found.fill)
    }

    fn column_in(&self, page: usize, part: f64) -> usize {
        match self.scale {
            Scale::Boxes(room) => 1 + page * (room + 1) + ((part * room as f64) as usize).min(room - 1),
            Scale::Columns(share) => page / share,
        }
    }

    /// A line with a marker under the column of a place.
    pub fn marked(&self, at: Offset, symbols: Symbols) -> String {
        let column = self.column(at);
        (0..self.width()).map(|n| if n == column { symbols.marker } else { ' ' }).collect()
    }
}

impl Page {
    fn kind(&self) -> Kind {
        if self.is_written { Kind::Written } else { Kind::Used }
    }
}

/// A part of so many eighths; at least one where there is something.
fn eighths(fill: f64, of: usize, messages: u64) -> usize {
    ((fill * of as f64).round() as usize).clamp(usize::from(messages > 0), of)
}
