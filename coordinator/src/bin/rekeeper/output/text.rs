//! Text for a terminal: escaping what would steer it, columns, wrapping.

use std::fmt::Write as _;

use console::measure_text_width;

/// Width that is written for where no terminal says another one.
pub(crate) const WIDTH: usize = 80;

/// One line of text: control characters, also line ends, and what turns the direction of writing become visible.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The same, but line ends stay.
pub(crate) fn escape_lines(text: &str) -> String {
    text.split('\n').map(escape).collect::<Vec<_>>().join("\n")
}

fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Text in lines of at most `width`, broken at spaces, each line after `indent`. A word is never broken.
pub(crate) fn wrap(text: &str, indent: &str, width: usize) -> String {
    let mut out = String::new();
    for line in escape_lines(text).split('\n') {
        let mut used = 0;
        for word in line.split_whitespace() {
            let length = measure_text_width(word);
            if used > 0 && used + 1 + length > width {
                out.push('\n');
                used = 0;
            }
            if used == 0 {
                out.push_str(indent);
                used = measure_text_width(indent);
            } else {
                out.push(' ');
                used += 1;
            }
            out.push_str(word);
            used += length;
        }
        out.push('\n');
    }
    out
}

/// The text cut to a screen of so many columns and lines.
pub(crate) fn fit(text: &str, columns: usize, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let shown = if all.len() > lines {
        lines.saturating_sub(1)
    } else {
        all.len()
    };
    let mut out: String = all[..shown]
        .iter()
        .map(|line| format!("{}\n", console::truncate_str(line, columns, "…")))
        .collect();
    if shown < all.len() {
        let _ = writeln!(out, "... and {} more lines", all.len() - shown);
    }
    out
}

/// `1 table`, `2 tables`.
pub(crate) fn count(number: usize, what: &str) -> String {
    if number == 1 {
        format!("1 {what}")
    } else {
        format!("{number} {what}s")
    }
}

/// Columns under headings. Nothing is cut: a name that is cut cannot be pasted.
pub(crate) struct Table {
    heads: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A heading that begins with `>` sets its column to the right.
    pub(crate) fn new(heads: &'static [&'static str]) -> Self {
        Self {
            heads,
            rows: Vec::new(),
        }
    }

    /// One row, with as many cells as there are headings.
    pub(crate) fn row<const N: usize>(&mut self, cells: [&str; N]) {
        debug_assert_eq!(N, self.heads.len());
        self.rows.push(cells.iter().map(|cell| escape(cell)).collect());
    }

    /// The lines, each with its end.
    pub(crate) fn render(&self) -> String {
        let names: Vec<String> = self
            .heads
            .iter()
            .map(|head| head.trim_start_matches('>').to_owned())
            .collect();
        let widths: Vec<usize> = (0..names.len())
            .map(|column| {
                let cells = self.rows.iter().chain([&names]);
                cells
                    .filter_map(|row| row.get(column))
                    .map(|cell| measure_text_width(cell))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        for row in [&names].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let padding = " ".repeat(widths[column].saturating_sub(measure_text_width(cell)));
                let separator = if column == 0 { "" } else { "  " };
                let _ = if self.heads[column].starts_with('>') {
                    write!(line, "{separator}{padding}{cell}")
                } else {
                    write!(line, "{separator}{cell}{padding}")
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(escape("a\u{1b}[2Jb\nc\u{202e}"), "a\\u{1b}[2Jb\\nc\\u{202e}");
        assert_eq!(escape_lines("a\nb\r"), "a\nb\\r");
        assert_eq!(escape("Zürich 表 'x'"), "Zürich 表 'x'");
    }

    #[test]
    fn columns_are_aligned_also_where_letters_are_wide() {
        let mut table = Table::new(&["NAME", ">ROWS", "TEXT"]);
        table.row(["表", "7", "x"]);
        table.row(["abcdef", "1234567", ""]);
        assert_eq!(
            table.render(),
            "NAME       ROWS  TEXT\n表            7  x\nabcdef  1234567\n"
        );
    }

    #[test]
    fn a_screen_is_never_overrun() {
        assert_eq!(fit("abcdef\nb\n", 4, 2), "abc…\nb\n");
        assert_eq!(fit("a\nb\nc\n", 80, 2), "a\n... and 2 more lines\n");
    }

    #[test]
    fn lines_are_broken_at_spaces_only() {
        assert_eq!(wrap("one two three", "  ", 9), "  one two\n  three\n");
        assert_eq!(wrap("a-very-long-word b\nc", "", 5), "a-very-long-word\nb\nc\n");
    }
}
