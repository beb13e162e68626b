//! An event, for people and as a line of JSON.

use std::fmt::Write as _;

use rekeeper_shared::people::view::EventView;

use super::text;
use crate::cli::Format;
use crate::failure::Failure;

/// One event in the form that was asked for, with its line end.
pub(crate) fn render(format: Format, event: &EventView) -> Result<String, Failure> {
    match format {
        Format::Table => Ok(line(event)),
        Format::Json => {
            let json = serde_json::to_string(event).map_err(|error| Failure::Form {
                form: "JSON",
                reason: error.to_string(),
            })?;
            Ok(text::escape_json(&json) + "\n")
        }
        Format::Yaml => Ok(format!("---\n{}", super::yaml(event)?)),
    }
}

fn line(event: &EventView) -> String {
    let mut out = format!("{:>6}  {}  {:<7}", event.seq, event.time, event.kind);
    if let Some(step) = &event.step {
        let _ = write!(out, "  {step}");
        if let Some(attempt) = event.attempt {
            let _ = write!(out, " #{attempt}");
        }
    }
    if let Some(target) = &event.target {
        let _ = write!(out, " {target}");
    }
    if let Some(host) = &event.host {
        let _ = write!(out, " on {host}");
    }
    if !event.text.is_empty() {
        let separator = if event.step.is_some() || event.target.is_some() || event.host.is_some() {
            ":"
        } else {
            " "
        };
        let _ = write!(out, "{separator} {}", event.text);
    }
    text::escape(&out) + "\n"
}
