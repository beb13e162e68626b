//! Logging of the daemons: to stderr, `REKEEPER_LOG` as filter (`info`, `warn,rekeeper_agent=debug`), JSON lines with `REKEEPER_LOG_FORMAT=json`. An event is one
//! line, whatever others have written into its fields, and has an end.

use std::io::{self, Write};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::tools::unseen::is_unseen;

/// Most bytes of a line; what is longer is cut, and says so.
const LINE: usize = 16 << 10;

/// Starts logging. Call once, from `main`.
pub fn init() {
    let wanted = std::env::var("REKEEPER_LOG").unwrap_or_default();
    let filter = wanted.parse::<Targets>();
    let refused = filter.as_ref().err().map(ToString::to_string);
    let filter = match filter {
        Ok(filter) if !wanted.is_empty() => filter,
        _ => Targets::new().with_default(LevelFilter::INFO),
    };
    let builder = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE);
    if std::env::var("REKEEPER_LOG_FORMAT").is_ok_and(|format| format == "json") {
        let json = builder.json().with_writer(Lines { json: true });
        json.finish().with(filter).init();
    } else {
        let text = builder.with_ansi(false).with_writer(Lines { json: false });
        text.finish().with(filter).init();
    }
    if let Some(error) = refused {
        tracing::warn!(%error, "REKEEPER_LOG is not understood; `info` is taken");
    }
}

/// Where events go: each comes in one piece.
#[derive(Debug, Clone, Copy)]
struct Lines {
    json: bool,
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let line = if self.json { json_line(text) } else { plain_line(text) };
        io::stderr().lock().write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A line of text. What a terminal would obey or hide, and what would begin another line, is written as `\\u{HH}`.
fn plain_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if line.len() > LINE {
            line.push_str(&format!("... (cut: it had {} bytes)", text.len()));
            break;
        }
        if is_unseen(c) {
            line.extend(c.escape_unicode());
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

/// A line of JSON, which has such characters in strings only, where it has an escape for them.
fn json_line(text: &str) -> String {
    if text.len() > LINE {
        let begins: String = text.chars().take(LINE / 8).collect();
        let cut = serde_json::json!({
            "level": "WARN",
            "fields": {"message": "a line was cut", "bytes": text.len(), "begins": begins},
            "target": module_path!(),
        });
        return json_line(&cut.to_string());
    }
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if is_unseen(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_that_no_terminal_obeys() {
        let forged = "x\n2026-01-01T00:00:00Z  INFO all is well \u{1b}[2J\u{202e}";
        let line = plain_line(forged);
        assert_eq!(
            line,
            "x\\u{a}2026-01-01T00:00:00Z  INFO all is well \\u{1b}[2J\\u{202e}\n"
        );
        let json = json_line(&serde_json::json!({ "text": "a\u{202e}\u{e0041}\n" }).to_string());
        assert!(json.trim_end().chars().all(|c| !is_unseen(c)), "{json:?}");
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["text"], "a\u{202e}\u{e0041}\n");
    }

    #[test]
    fn a_line_has_an_end() {
        let long = "\u{7}".repeat(10 << 20);
        for line in [
            plain_line(&long),
            json_line(&serde_json::json!({ "text": long }).to_string()),
        ] {
            assert!(line.len() < 2 * LINE, "{}", line.len());
            assert!(line.contains("cut"), "{line}");
        }
        let cut: serde_json::Value = serde_json::from_str(&json_line(&"\"".repeat(LINE + 1))).unwrap();
        assert_eq!(cut["fields"]["bytes"], LINE + 1);
    }
}
