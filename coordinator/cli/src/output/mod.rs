//! What people see. One submodule for each document's table form; JSON and YAML are the documents themselves.

pub(crate) mod causes;
pub(crate) mod dry_run;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod hosts;
pub(crate) mod plan;
pub(crate) mod problems;
pub(crate) mod report;
pub(crate) mod retries;
pub(crate) mod status;
pub(crate) mod text;

use std::io::{self, Write as _};

use rekeeper_shared::tools::unseen::is_unseen;
use serde::Serialize;

use crate::cli::Format;
use crate::failure::Failure;

/// Writes data to stdout.
pub(crate) fn print(data: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(data.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(Failure::Stdout)
}

/// Writes a line for people to stderr. That nobody reads it stops nothing.
pub(crate) fn notice(line: &str) {
    if !line.is_empty() {
        let _ = writeln!(io::stderr().lock(), "{}", text::escape_lines(line));
    }
}

/// The document in the form that was asked for; `table` makes the form for people.
pub(crate) fn render<T: Serialize>(
    format: Format,
    document: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<String, Failure> {
    match format {
        Format::Table => Ok(table(document)),
        Format::Json => {
            let json = serde_json::to_string_pretty(document).map_err(|error| Failure::Form {
                form: "JSON",
                reason: error.to_string(),
            })?;
            Ok(text::escape_json(&json) + "\n")
        }
        Format::Yaml => yaml(document),
    }
}

/// The document in YAML.
pub(crate) fn yaml<T: Serialize>(document: &T) -> Result<String, Failure> {
    let failure = |reason: String| Failure::Form { form: "YAML", reason };
    let mut yaml = serde_saphyr::to_string(document).map_err(|error| failure(error.to_string()))?;
    if yaml.chars().any(|c| c != '\n' && is_unseen(c)) {
        // The writer leaves some of them as they are, which a terminal obeys. JSON is YAML too, and quotes every text.
        let json = serde_json::to_string_pretty(document).map_err(|error| failure(error.to_string()))?;
        yaml = text::escape_yaml(&json);
    }
    if !yaml.ends_with('\n') {
        yaml.push('\n');
    }
    Ok(yaml)
}
