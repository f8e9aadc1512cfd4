//! Figures and names as people read them: each so short that it fits a column.
//!
//! What comes from a file, names too, may be anything: nothing that is printed drives the terminal.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use ratatui::text::Span;

/// A number, with a comma for each thousand.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many pages.
pub fn pages(number: u64) -> String {
    if number == 1 { "1 page".into() } else { format!("{number} pages") }
}

/// A number in at most seven places: `123,456`, then `1.23M`.
pub fn brief(number: u64) -> String {
    const UNITS: [(u64, char); 5] = [
        (1_000_000_000_000_000_000, 'E'),
        (1_000_000_000_000_000, 'P'),
        (1_000_000_000_000, 'T'),
        (1_000_000_000, 'G'),
        (1_000_000, 'M'),
    ];
    match UNITS.iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) => format!("{}{name}", three_digits(number as f64 / *unit as f64)),
        None => count(number),
    }
}

/// What happens so often a second: with digits behind the point only where it is seldom.
pub fn per_second(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { brief(rate as u64) }
}

/// Bytes: `512 B`, `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut name = "B";
    for unit in UNITS {
        if value < 1000.0 {
            break;
        }
        (value, name) = (value / 1024.0, unit);
    }
    if name == "B" { format!("{bytes} B") } else { format!("{} {name}", three_digits(value)) }
}

fn three_digits(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// A time in at most seven places: `0.35 s`, `12.3 s`, `5m 03s`, `3h 20m`, `12d 05h`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time < Duration::from_millis(1) => format!("{} µs", time.as_micros()),
        0 if time < Duration::from_millis(100) => format!("{} ms", three_digits(time.as_secs_f64() * 1e3)),
        0..10 => format!("{:.2} s", time.as_secs_f64()),
        10..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Columns that a text takes on the screen.
pub fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// The text in exactly so many columns: cut, or with spaces behind it.
pub fn fit(text: &str, columns: usize) -> String {
    let mut fitting = String::new();
    let mut used = 0;
    for c in text.chars() {
        let more = width(c.encode_utf8(&mut [0; 4]));
        if used + more > columns {
            break;
        }
        fitting.push(c);
        used += more;
    }
    fitting + &" ".repeat(columns - used)
}

/// Whether a terminal does something else for a character than to show it, or shows it so that what stands around
/// it seems to be something else.
pub fn drives_terminal(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text for the terminal, all in one line.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(drives_terminal) {
        return text.into();
    }
    let mut shown = String::new();
    for c in text.chars() {
        if drives_terminal(c) {
            let _ = write!(shown, "{}", c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([999_999, 1_000_000, 12_345_678, u64::MAX].map(brief), ["999,999", "1.00M", "12.3M", "18.4E"]);
        assert_eq!([0, 999, 1536, 1 << 30, u64::MAX].map(size), ["0 B", "999 B", "1.50 KiB", "1.00 GiB", "16.0 EiB"]);
        assert_eq!([0.0, 0.25, 9.5, 12_345.6].map(per_second), ["0", "0.2", "9.5", "12,345"]);
        let times =
            [0, 35_000_000, 350_000_000, 12_345_000_000, 303_000_000_000, 12_000_000_000_000, 1_054_800_000_000_000];
        let shown = ["0 µs", "35.0 ms", "0.35 s", "12.3 s", "5m 03s", "3h 20m", "12d 05h"];
        assert_eq!(times.map(|t| duration(Duration::from_nanos(t))), shown);
    }

    #[test]
    fn names_fit_their_column_and_do_not_drive_the_terminal() {
        assert_eq!([fit("billing", 4), fit("ab", 4), fit("日本語", 5)], ["bill", "ab  ", "日本 "]);
        assert_eq!(printable("a\u{1b}[2J\u{9b}b\u{202e}"), "a\\u{1b}[2J\\u{9b}b\\u{202e}");
        assert_eq!(printable("Kasse 7"), "Kasse 7");
    }
}
