//! What `top` shows: a function of what is known of the files and of the room there is.

use std::collections::VecDeque;

use disk_chan::relay::RelayStatus;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Sparkline, Widget, Wrap};

use crate::figures::{brief, count, duration, fit, per_second, printable, size};
use crate::rates::Rates;
use crate::relay;
use crate::ring_picture::{Kind, Picture, Symbols};
use crate::snapshot::{GroupNow, Snapshot};

/// Lines of a panel that shows anything: border, figures, sparkline, ring, senders, a group, border.
const LEAST: u16 = 8;
/// The part of a panel that the sparkline takes, where there is room.
const SPARK: u16 = 3;
/// Rates that are kept.
pub const HISTORY: usize = 400;
/// Columns of a group's name.
const NAME: usize = 14;

/// What is known of a file.
pub struct Panel {
    /// Its path, as it was given.
    pub name: String,
    /// Nothing before it was first looked at; an error as long as it cannot be.
    pub now: Option<Result<(Snapshot, Rates), String>>,
    /// Messages a second, the newest last.
    pub history: VecDeque<u64>,
    /// The first group that is shown.
    pub scroll: usize,
}

impl Panel {
    pub fn new(name: String) -> Self {
        Self { name, now: None, history: VecDeque::new(), scroll: 0 }
    }

    /// What was seen now.
    pub fn saw(&mut self, now: Result<(Snapshot, Rates), String>) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(now.as_ref().map_or(0, |(_, rates)| rates.messages as u64));
        self.now = Some(now);
    }

    /// Groups that it can show.
    pub fn groups(&self) -> usize {
        self.now.as_ref().and_then(|now| now.as_ref().ok()).map_or(0, |(now, _)| now.groups.len())
    }
}

/// Draws the panels: all, or as many as there is room for, from the chosen one on.
pub fn draw(panels: &[Panel], chosen: usize, symbols: Symbols, area: Rect, buf: &mut Buffer) {
    let [body, foot] = Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(area);
    let fit = usize::from(body.height / LEAST).clamp(1, panels.len().max(1));
    let first = chosen.min(panels.len().saturating_sub(fit));
    let rooms = Layout::vertical(vec![Constraint::Fill(1); fit]).split(body);
    for (at, room) in rooms.iter().enumerate() {
        if let Some(panel) = panels.get(first + at) {
            draw_panel(panel, panels.len() > 1 && first + at == chosen, symbols, *room, buf);
        }
    }
    let hidden = panels.len() - fit.min(panels.len());
    let more = if hidden > 0 {
        format!(", {hidden} more {}", if hidden == 1 { "file" } else { "files" })
    } else {
        String::new()
    };
    let keys =
        if panels.len() > 1 { "q quit, Tab next file, Up and Down groups" } else { "q quit, Up and Down groups" };
    Line::from(format!(" {keys}{more}")).dim().render(foot, buf);
}

fn draw_panel(panel: &Panel, is_chosen: bool, symbols: Symbols, area: Rect, buf: &mut Buffer) {
    let title = Line::from(format!(" {} ", printable(&panel.name))).bold();
    let mut state = String::new();
    let mut border = if is_chosen { Style::new().bold() } else { Style::new().dim() };
    match &panel.now {
        Some(Ok((now, _))) => state = format!(" {} ", now.state()),
        Some(Err(_)) => border = Style::new().fg(Color::Red),
        None => {}
    }
    let set = if symbols.are_blocks() { symbols::border::PLAIN } else { ASCII_BORDER };
    let block = Block::bordered().border_set(set).border_style(border);
    let block = block.title(Line::from(state).right_aligned()).title(title);
    let inner = block.inner(area);
    block.render(area, buf);
    match &panel.now {
        Some(Ok((now, rates))) => draw_channel(panel, now, rates, symbols, inner, buf),
        Some(Err(error)) => {
            let text = format!("{}\n\ntrying again", printable(error));
            Paragraph::new(text).wrap(Wrap { trim: true }).red().render(inner, buf);
        }
        None => Line::from("looking").dim().render(inner, buf),
    }
}

fn draw_channel(panel: &Panel, now: &Snapshot, rates: &Rates, symbols: Symbols, area: Rect, buf: &mut Buffer) {
    let lines = now.groups.iter().map(lines).sum::<usize>();
    let groups = lines.clamp(1, usize::from(area.height)) as u16;
    let spark = area.height.saturating_sub(3 + groups).clamp(1, (area.height / SPARK).max(1));
    let rows = [Constraint::Length(1), Constraint::Length(spark), Constraint::Length(2), Constraint::Fill(1)];
    let [figures, sparkline, ring, table] = Layout::vertical(rows).areas(area);
    Line::from(figures_line(now, rates, area.width.into())).render(figures, buf);
    draw_sparkline(panel, symbols, sparkline, buf);

    let columns = Columns::of(area.width.into());
    let picture = Picture::new(now, usize::from(area.width).saturating_sub(columns.width() + 1));
    let mut head: Vec<Span> = vec![Span::from(columns.head() + " ").bold()];
    head.extend(picture.ring(symbols).into_iter().map(|(symbol, kind)| Span::styled(symbol.to_string(), style(kind))));
    let senders = format!("{} {}", fit("senders", columns.width()), picture.marked(now.stats.end_offset, symbols));
    Paragraph::new(vec![Line::from(head), Line::from(senders).green()]).render(ring, buf);

    let room = usize::from(table.height);
    // As far as one can scroll, the last group is seen whole.
    let mut left = room;
    let fits = |group: &&GroupNow| {
        let rest = left.checked_sub(self::lines(group));
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    let last = now.groups.len() - now.groups.iter().rev().take_while(fits).count();
    let first = panel.scroll.min(last).min(now.groups.len().saturating_sub(1));
    let mut lines: Vec<Line> = Vec::new();
    let mut shown = first;
    for group in now.groups.iter().skip(first) {
        if lines.len() + self::lines(group) > room {
            break;
        }
        shown += 1;
        let rate = rates.groups.get(&group.stats.name).copied();
        let marked = picture.marked(group.position, symbols);
        let row = Line::from(format!("{} {marked}", columns.row(now, group, rate)));
        lines.push(if lost(group) > 0 { row.yellow() } else { row });
        if let Some(relay) = &group.relay {
            let row = Line::from(relay_line(relay, now));
            lines.push(if relay.active { row.dim() } else { row.yellow() });
        }
    }
    let hidden = now.groups.len() - shown;
    if hidden > 0 && lines.len() < room {
        lines.push(Line::from(format!("{hidden} more groups")).dim());
    } else if hidden > 0 && shown > first {
        // In place of the last.
        let gone = now.groups.get(shown - 1).map_or(0, self::lines);
        lines.truncate(lines.len() - gone);
        lines.push(Line::from(format!("{} more groups", hidden + 1)).dim());
    }
    if now.groups.is_empty() {
        lines.push(Line::from("no groups").dim());
    }
    Paragraph::new(lines).render(table, buf);
}

/// Lines that a group takes.
fn lines(group: &GroupNow) -> usize {
    1 + usize::from(group.relay.is_some())
}

/// The line under a group that has a relay. What matters most comes first: what does not fit is cut.
fn relay_line(relay: &RelayStatus, now: &Snapshot) -> String {
    let mut facts = vec![format!("  relay {}", relay::state(relay, now.time))];
    facts.extend(relay.active.then(|| format!("{}/s", per_second(relay.rate))));
    facts.extend(relay.confirmed.map(|at| format!("at {at}")));
    facts.extend((relay.refused > 0).then(|| format!("{} refused", brief(relay.refused))));
    facts.extend(relay::last_error(relay, now.time));
    facts.push(format!("to {}", relay.to));
    printable(&facts.join(", ")).into_owned()
}

/// As many figures as there is room for, the first ones first.
fn figures_line(now: &Snapshot, rates: &Rates, columns: usize) -> Vec<Span<'static>> {
    let rate = format!("{} msg/s", per_second(rates.messages));
    let oldest = now.pages.iter().find_map(|page| page.oldest);
    let figures = [
        format!("{}/s", size(rates.bytes as u64)),
        format!("{} messages in {}", brief(now.messages()), size(now.bytes())),
        format!("{:.0}% unread", now.unread() * 100.0),
        format!("{} of {} pages", count(now.stats.pages as u64), count(now.geometry.max_pages as u64)),
        oldest.map_or_else(String::new, |oldest| format!("oldest {}", duration(now.age(oldest)))),
        format!("durable below {}", now.stats.durable_offset),
    ];
    let mut used = rate.len();
    let mut line = vec![Span::from(rate).bold().green()];
    for figure in figures.into_iter().filter(|figure| !figure.is_empty()) {
        used += 2 + figure.len();
        if used > columns {
            break;
        }
        line.push(Span::from(format!("  {figure}")));
    }
    line
}

fn draw_sparkline(panel: &Panel, symbols: Symbols, area: Rect, buf: &mut Buffer) {
    let columns = usize::from(area.width);
    let skipped = panel.history.len().saturating_sub(columns);
    let shown: Vec<u64> = panel.history.iter().copied().skip(skipped).collect();
    let most = shown.iter().copied().max().unwrap_or(0);
    // The newest is at the right edge.
    let padded = vec![0; columns - shown.len()].into_iter().chain(shown);
    let set = if symbols.are_blocks() { symbols::bar::NINE_LEVELS } else { ASCII_BARS };
    Sparkline::default().data(padded.collect::<Vec<u64>>()).bar_set(set).style(Color::Cyan).render(area, buf);
    if most > 0 {
        Line::from(format!("most {}/s", brief(most))).dim().render(area, buf);
    }
}

/// The columns of the table that there is room for, beside the picture.
struct Columns {
    name: usize,
    /// Titles, and the width that each needs.
    shown: &'static [(&'static str, usize)],
}

const COLUMNS: [(&str, usize); 9] = [
    ("lag", 7),
    ("done/s", 7),
    ("oldest", 8),
    ("held", 5),
    ("bytes", 8),
    ("back", 5),
    ("again", 7),
    ("lost", 7),
    ("dead", 7),
];

impl Columns {
    fn of(width: usize) -> Self {
        let (name, shown) = match width {
            ..60 => (NAME - 4, 2),
            60..130 => (NAME, 4),
            130..160 => (NAME + 6, 6),
            _ => (NAME + 10, COLUMNS.len()),
        };
        Self { name, shown: &COLUMNS[..shown] }
    }

    fn width(&self) -> usize {
        self.name + self.shown.iter().map(|(_, width)| width + 1).sum::<usize>()
    }

    fn head(&self) -> String {
        let titles = self.shown.iter().map(|(title, width)| format!(" {title:>width$}"));
        fit("group", self.name) + &titles.collect::<String>()
    }

    fn row(&self, now: &Snapshot, group: &GroupNow, rate: Option<f64>) -> String {
        let stats = &group.stats;
        let cell = |title: &str| match title {
            "lag" => brief(stats.lag),
            "done/s" => rate.map_or_else(|| "-".into(), per_second),
            "oldest" => stats.oldest_unfinished.map_or_else(|| "-".into(), |time| duration(now.age(time))),
            "held" => stats.held.to_string(),
            "bytes" => size(stats.lag_bytes),
            "back" => stats.returned.to_string(),
            "again" => brief(stats.redelivered),
            "lost" => brief(lost(group)),
            _ => brief(stats.dead_lettered),
        };
        let cells = self.shown.iter().map(|&(title, width)| format!(" {:>width$}", cell(title)));
        fit(&printable(stats.name.as_str()), self.name) + &cells.collect::<String>()
    }
}

/// Messages that a group was never done with.
fn lost(group: &GroupNow) -> u64 {
    let stats = &group.stats;
    [stats.expired, stats.gone, stats.damaged].into_iter().fold(stats.lagged, u64::saturating_add)
}

fn style(kind: Kind) -> Style {
    match kind {
        Kind::Used => Style::new().cyan(),
        Kind::Written => Style::new().green(),
        Kind::Free | Kind::Border => Style::new().dim(),
    }
}

const ASCII_BORDER: symbols::border::Set<'static> = symbols::border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

const ASCII_BARS: symbols::bar::Set<'static> = symbols::bar::Set {
    full: "#",
    seven_eighths: "#",
    three_quarters: "=",
    five_eighths: "=",
    half: "-",
    three_eighths: "-",
    one_quarter: "_",
    one_eighth: "_",
    empty: " ",
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring_picture::{ASCII, BLOCKS};
    use disk_chan::{Channel, Options};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn channel(dir: &tempfile::TempDir, groups: usize) -> Channel {
        let options = Options::new().page_size(128 << 10).max_pages(8);
        let channel = options.blocking_open(dir.path().join("c")).unwrap();
        let rxs: Vec<_> = (0..groups).map(|n| channel.blocking_subscribe(format!("group {n}")).unwrap()).collect();
        let tx = channel.sender();
        while channel.end_offset().page() < 3 {
            tx.blocking_send([7; 100]).unwrap();
        }
        for (n, mut rx) in rxs.into_iter().enumerate() {
            assert!(rx.try_iter().take(10 * n).count() == 10 * n);
        }
        channel
    }

    fn panel(channel: &Channel) -> Panel {
        let mut panel = Panel::new("orders.chan".into());
        for rate in [0, 500, 1000, 12_345] {
            let now = Snapshot::take(channel);
            let groups = now.groups.iter().map(|group| (group.stats.name.clone(), 7.0)).collect();
            panel.saw(Ok((now, Rates { messages: f64::from(rate), bytes: 2e6, groups })));
        }
        panel
    }

    fn drawn(panels: &[Panel], chosen: usize, symbols: Symbols, columns: u16, rows: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal.draw(|frame| draw(panels, chosen, symbols, frame.area(), frame.buffer_mut())).unwrap();
        let cells = terminal.backend().buffer().content();
        cells.chunks(usize::from(columns).max(1)).map(|line| line.iter().map(|cell| cell.symbol()).collect()).collect()
    }

    #[test]
    fn a_channel_at_80_and_at_200_columns() {
        let dir = tempfile::tempdir().unwrap();
        let channel = channel(&dir, 3);
        for (columns, symbols, marker, rows) in [(80, BLOCKS, '▲', 24), (200, BLOCKS, '▲', 50), (80, ASCII, '^', 24)]
        {
            let shown = drawn(&[panel(&channel)], 0, symbols, columns, rows);
            let line =
                |text: &str| shown.iter().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{shown:#?}"));
            assert!(line("12,345 msg/s").contains("1.91 MiB/s"), "{shown:#?}");
            assert!(line("% unread").contains("messages in"), "{shown:#?}");
            assert_eq!(line("% unread").contains("durable below 0:0"), columns == 200, "{shown:#?}");
            assert!(line("orders.chan").contains("open once"), "{shown:#?}");
            let at = |text: &str| line(text).chars().position(|c| c == marker).unwrap();
            assert!(at("group 0") <= at("group 1") && at("group 1") <= at("group 2"), "{shown:#?}");
            assert!(at("group 2") < at("senders"), "{shown:#?}");
            let row: Vec<&str> = line("group 2").split_whitespace().skip(2).collect();
            assert_eq!(row[..2], [&*crate::figures::brief(channel.len() - 20), "7.0"], "lag and done a second");
            assert_eq!(line("group  ").contains("lost"), columns == 200, "{shown:#?}");
            let history = shown.iter().filter(|line| line.ends_with(if marker == '^' { "#|" } else { "█│" })).count();
            assert!(history >= usize::from(rows / 3) - 2, "the highest rate fills the sparkline\n{shown:#?}");
            assert!(symbols.are_blocks() || shown.iter().all(|line| line.is_ascii()), "{shown:#?}");
        }
    }

    #[test]
    fn groups_that_do_not_fit_are_counted_and_can_be_scrolled_to() {
        let dir = tempfile::tempdir().unwrap();
        let channel = channel(&dir, 30);
        let mut panel = panel(&channel);
        let shown = |panel: Panel| drawn(&[panel], 0, BLOCKS, 80, 24).concat();
        panel.scroll = 25;
        let end = shown(panel);
        assert!(end.contains("group 9 ") && !end.contains("more groups"), "{end}");
        let begin = shown(self::panel(&channel));
        assert!(begin.contains("group 0 ") && begin.contains("more groups") && !begin.contains("group 9 "), "{begin}");
    }

    #[test]
    fn errors_and_more_files_than_fit() {
        let dir = tempfile::tempdir().unwrap();
        let channel = channel(&dir, 1);
        let mut panels = vec![panel(&channel)];
        for name in ["gone.chan", "third.chan", "fourth.chan"] {
            panels.push(Panel::new(name.into()));
        }
        panels[1].saw(Err("gone.chan: is\u{1b}[2J not there".into()));
        let shown = drawn(&panels, 0, BLOCKS, 80, 24).join("\n");
        assert!(shown.contains("12,345 msg/s") && shown.contains("gone.chan: is\\u{1b}[2J not there"), "{shown}");
        assert!(shown.contains("2 more files") && !shown.contains("fourth"), "{shown}");
        let shown = drawn(&panels, 3, BLOCKS, 80, 24).join("\n");
        assert!(shown.contains("fourth.chan") && shown.contains("looking") && !shown.contains("msg/s"), "{shown}");
        assert!(drawn(&panels, 3, BLOCKS, 80, 50).join("\n").contains("msg/s"), "there is room for all");
    }

    /// Whatever room there is, down to none.
    #[test]
    fn any_size() {
        let dir = tempfile::tempdir().unwrap();
        let channel = channel(&dir, 5);
        let panels = [panel(&channel), Panel::new("b".into())];
        for columns in (0..40).chain([79, 129, 130, 159, 160, 300]) {
            (0..20).for_each(|rows| drop(drawn(&panels, 1, BLOCKS, columns, rows)));
        }
    }
}
