//! Text for a terminal: escaping what would steer it, columns, wrapping.

use std::fmt::Write as _;

use console::measure_text_width;
use rekeeper_shared::domain::ids::HostName;
use rekeeper_shared::tools::unseen::is_unseen;

/// Width that is written for where no terminal says another one.
pub(crate) const WIDTH: usize = 80;

/// Whether words that matter are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    Coloured,
}

impl Paint {
    /// Coloured where stdout is a terminal, unless `NO_COLOR`, `CLICOLOR=0` or `TERM=dumb` forbid it.
    pub(crate) fn of_stdout() -> Self {
        if console::colors_enabled() {
            Self::Coloured
        } else {
            Self::Plain
        }
    }

    /// What went wrong.
    pub(crate) fn bad(self, word: &str) -> String {
        self.with(word, console::Style::new().red().bold())
    }

    /// What stands, and waits for a person.
    pub(crate) fn held(self, word: &str) -> String {
        self.with(word, console::Style::new().yellow())
    }

    /// What is done.
    pub(crate) fn good(self, word: &str) -> String {
        self.with(word, console::Style::new().green())
    }

    fn with(self, word: &str, style: console::Style) -> String {
        match self {
            Self::Plain => word.to_owned(),
            Self::Coloured => style.force_styling(true).apply_to(word).to_string(),
        }
    }
}

/// One line of text: control characters, also line ends, and what turns the direction of writing become visible.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) {
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

/// The same for a JSON text, which may go to a terminal as well: it stays the same JSON.
pub(crate) fn escape_json(json: &str) -> String {
    escape_quoted(json, |out, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

/// A JSON text as YAML, which has no pairs of surrogates.
pub(crate) fn escape_yaml(json: &str) -> String {
    escape_quoted(json, |out, c| {
        let _ = write!(out, "\\U{:08x}", u32::from(c));
    })
}

/// Line ends stay: they stand outside of strings, in which serde escapes them.
fn escape_quoted(json: &str, escape: impl Fn(&mut String, char)) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_unseen(c) {
            escape(&mut out, c);
        } else {
            out.push(c);
        }
    }
    out
}

/// Text in lines of at most `width`, broken at spaces, each line after `indent`. A word is never broken.
pub(crate) fn wrap(text: &str, indent: &str, width: usize) -> String {
    broken(text, indent, indent, width)
}

/// The same for what others have told: all lines but the first stand deeper, so that none looks like one of Rekeeper's.
pub(crate) fn hanging(text: &str, indent: &str, width: usize) -> String {
    broken(text, indent, &format!("{indent}  "), width)
}

/// With an indent of its own for the first line.
fn broken(text: &str, first: &str, other: &str, width: usize) -> String {
    let mut out = String::new();
    let mut indent = first;
    for line in escape_lines(text).split('\n') {
        let mut used = 0;
        for word in line.split_whitespace() {
            let length = measure_text_width(word);
            if used > 0 && used + 1 + length > width {
                out.push('\n');
                (used, indent) = (0, other);
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
        if used == 0 {
            out.push_str(indent.trim_end());
        }
        out.push('\n');
        indent = other;
    }
    out
}

/// Some lines under a heading, of which a screen shows as many as it has room for.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// Shown if anything of the section is.
    pub(crate) head: String,
    /// The lines, the most important first.
    pub(crate) lines: Vec<String>,
}

/// Shares the lines of a screen among sections, the most important first: each gets what it needs, but no more than
/// half of what is left as long as others follow that need it. What is left out is counted.
pub(crate) fn share(sections: &[Section], lines: usize) -> String {
    let needs = |section: &Section| {
        if section.lines.is_empty() {
            0
        } else {
            section.lines.len() + 2
        }
    };
    let mut left = lines;
    let mut out = String::new();
    for (ix, section) in sections
        .iter()
        .enumerate()
        .filter(|(_, section)| !section.lines.is_empty())
    {
        let others: usize = sections[ix + 1..].iter().map(needs).sum();
        let room = needs(section).min(left.saturating_sub(others).max(left / 2));
        // An empty line, the heading, and one line at least.
        if room < 3 {
            continue;
        }
        left -= room;
        let shown = if section.lines.len() > room - 2 {
            room - 3
        } else {
            section.lines.len()
        };
        let _ = write!(out, "\n{}\n", section.head);
        for line in &section.lines[..shown] {
            let _ = writeln!(out, "{line}");
        }
        if shown < section.lines.len() {
            let _ = writeln!(out, "... and {} more", section.lines.len() - shown);
        }
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

/// A time as people read it, from whole seconds; hours without the seconds.
pub(crate) fn seconds(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest} s"),
        (0, _) => format!("{minutes} min {rest} s"),
        _ => format!("{hours} h {minutes} min"),
    }
}

/// Bytes as people read them.
pub(crate) fn bytes(number: u64) -> String {
    if number < 1_024 {
        return count(usize::try_from(number).unwrap_or(usize::MAX), "byte");
    }
    indicatif::BinaryBytes(number).to_string()
}

/// Where it is done, unless the target says so.
pub(super) fn on(host: &HostName, target: &str) -> String {
    if target == host.as_str() {
        String::new()
    } else {
        format!(" on {host}")
    }
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
        let json = serde_json::to_string_pretty(&["a\u{9b}1m\u{202e}\u{e0041}\n表"]).unwrap();
        let escaped = escape_json(&json);
        assert_eq!(escaped, "[\n  \"a\\u009b1m\\u202e\\udb40\\udc41\\n表\"\n]");
        assert_eq!(
            serde_json::from_str::<Vec<String>>(&escaped).unwrap(),
            serde_json::from_str::<Vec<String>>(&json).unwrap()
        );
        assert_eq!(
            serde_saphyr::from_str::<Vec<String>>(&escape_yaml(&json)).unwrap(),
            serde_json::from_str::<Vec<String>>(&json).unwrap()
        );
    }

    #[test]
    fn columns_are_aligned_also_where_letters_are_wide() {
        let mut table = Table::new(&["NAME", ">ROWS", "TEXT"]);
        table.row(["表", "7", "x"]);
        table.row(["abcdef", "1234567", ""]);
        table.row(["e\u{301}a\u{308}", "8", "x"]);
        table.row(["שלום", "9", "x"]);
        assert_eq!(
            table.render(),
            "NAME       ROWS  TEXT\n表            7  x\nabcdef  1234567\ne\u{301}a\u{308}            8  x\nשלום          9  x\n"
        );
    }

    #[test]
    fn a_wide_letter_is_not_cut_in_half() {
        assert_eq!(fit("表表表表\n", 5, 2), "表表…\n");
    }

    #[test]
    fn what_matters_most_has_the_most_room() {
        let section = |head: &str, lines: usize| Section {
            head: head.to_owned(),
            lines: (0..lines).map(|n| format!("{head}{n}")).collect(),
        };
        let all = [section("a", 100), section("b", 1), section("c", 100)];
        for lines in 0..300 {
            let shown = share(&all, lines);
            assert!(shown.lines().count() <= lines, "{lines}\n{shown}");
        }
        assert_eq!(
            share(&all, 12),
            "\na\na0\na1\na2\n... and 97 more\n\nb\nb0\n\nc\n... and 100 more\n"
        );
        assert_eq!(
            share(&[section("a", 2), section("b", 0), section("c", 1)], 9),
            "\na\na0\na1\n\nc\nc0\n"
        );
        assert!(!share(&all, 204 + 3).contains("more"));
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
        assert_eq!(wrap("a\n\nb", "| ", 5), "| a\n|\n| b\n");
        assert_eq!(
            hanging("one two six\nfix: x", "  ", 10),
            "  one two\n    six\n    fix: x\n"
        );
    }
}
