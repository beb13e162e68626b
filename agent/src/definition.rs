//! What a table's definition says of its replica, in ClickHouse's metadata file and in `engine_full`. Pure.

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

use rekeeper_shared::domain::ids::TableName;

/// How deep macros are within macros, at most; as in ClickHouse (`Macros.cpp`).
const DEEPEST: usize = 10;
/// The macro that stands for the server and is in no configuration; 25.8 leaves it in the definition.
pub(crate) const SERVER_UUID: &str = "server_uuid";

/// The arguments of a Replicated*MergeTree engine as they are written, macros unexpanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Engine {
    pub(crate) path: String,
    pub(crate) replica: String,
}

/// The engine of `ATTACH TABLE _ UUID '...' (columns) ENGINE = ReplicatedMergeTree('path', 'replica') ...`; none when it is
/// another one. ClickHouse writes both arguments there, also those that were left to its configuration.
pub(crate) fn replicated(definition: &str) -> Option<Engine> {
    let mut chars = definition.chars().peekable();
    let mut depth = 0_u32;
    loop {
        match chars.next()? {
            quote @ ('\'' | '`' | '"') => {
                quoted(&mut chars, quote)?;
            }
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1)?,
            first if first.is_ascii_alphabetic() || first == '_' => {
                let found = word(first, &mut chars);
                if depth == 0 && found == "ENGINE" {
                    break;
                }
            }
            _ => {}
        }
    }
    skip(&mut chars, '=')?;
    engine(&mut chars)
}

/// The engine of `ReplicatedMergeTree('path', 'replica') ...`, as `system.tables` has it in `engine_full`; none when it is
/// another one.
pub(crate) fn of_engine(engine_full: &str) -> Option<Engine> {
    engine(&mut engine_full.chars().peekable())
}

fn engine(chars: &mut Peekable<Chars<'_>>) -> Option<Engine> {
    let first = chars.next()?;
    let name = word(first, chars);
    if !name.starts_with("Replicated") || !name.ends_with("MergeTree") {
        return None;
    }
    skip(chars, '(')?;
    let path = literal(chars)?;
    skip(chars, ',')?;
    let replica = literal(chars)?;
    Some(Engine { path, replica })
}

/// Name of the ensemble, `default` or an auxiliary one, and the path in it, of a first argument whose macros are replaced.
pub(crate) fn place(argument: &str) -> (&str, String) {
    let (ensemble, path) = match argument.split_once(':') {
        Some((ensemble, path)) if !ensemble.contains('/') => (ensemble, path),
        _ => ("default", argument),
    };
    // Tables of old servers have it without.
    let slash = if path.starts_with('/') { "" } else { "/" };
    (ensemble, format!("{slash}{path}"))
}

/// The text with its macros replaced, as the server does for this table.
///
/// # Errors
/// The name of the macro that is not known, or the text when its braces are not those of macros.
pub(crate) fn expand(
    text: &str,
    macros: &HashMap<String, String>,
    name: &TableName,
    uuid: &str,
) -> Result<String, String> {
    let mut text = text.to_owned();
    for _ in 0..DEEPEST {
        if !text.contains('{') {
            return Ok(text);
        }
        let mut parts = text.split('{');
        let mut expanded = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (key, after) = part.split_once('}').ok_or(part)?;
            expanded.push_str(match key {
                "database" => &name.database,
                "table" => &name.table,
                "uuid" => uuid,
                key => macros.get(key).ok_or(key)?,
            });
            expanded.push_str(after);
        }
        text = expanded;
    }
    Err(text)
}

fn word(first: char, chars: &mut Peekable<Chars<'_>>) -> String {
    let mut word = String::from(first);
    while let Some(next) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        word.push(next);
    }
    word
}

/// Space, then that character, then space.
fn skip(chars: &mut Peekable<Chars<'_>>, wanted: char) -> Option<()> {
    while chars.next_if(|c| c.is_whitespace()).is_some() {}
    chars.next_if_eq(&wanted)?;
    while chars.next_if(|c| c.is_whitespace()).is_some() {}
    Some(())
}

fn literal(chars: &mut Peekable<Chars<'_>>) -> Option<String> {
    chars.next_if_eq(&'\'')?;
    quoted(chars, '\'')
}

/// What is within quotes, of which the first one was read.
fn quoted(chars: &mut Peekable<Chars<'_>>, quote: char) -> Option<String> {
    let mut text = String::new();
    loop {
        match chars.next()? {
            '\\' => text.push(match chars.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                'b' => '\u{8}',
                'f' => '\u{c}',
                other => other,
            }),
            c if c == quote => {
                // Doubled, it stands for itself.
                if chars.next_if_eq(&quote).is_none() {
                    return Some(text);
                }
                text.push(quote);
            }
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_of_a_table_is_read_past_everything_that_looks_like_one() {
        // As 26.9 writes it.
        let text = r"ATTACH TABLE _ UUID 'b3f4107f-3473-4077-bbe1-1c38c6a4ee4a'
(
    `id` UInt64 COMMENT 'a ENGINE = ReplicatedMergeTree(\'/x\', \'y\')',
    `ENGINE` UInt8 DEFAULT if(id > 1, 2, 3),
    `it``s )` String
)
ENGINE = ReplicatedReplacingMergeTree('second:/tables/{shard}/d/it\'s', '{replica}', id)
ORDER BY id
SETTINGS index_granularity = 8192
";
        let found = replicated(text).unwrap();
        let expected = Engine {
            path: "second:/tables/{shard}/d/it's".into(),
            replica: "{replica}".into(),
        };
        assert_eq!(found, expected);
        let plain = |engine: &str| {
            replicated(&format!(
                "ATTACH TABLE _ UUID 'u' (`id` UInt8)\nENGINE = {engine}\nORDER BY id"
            ))
        };
        let engine = of_engine("ReplicatedMergeTree('a/b', 'r') ORDER BY a").unwrap();
        assert_eq!((engine.path.as_str(), engine.replica.as_str()), ("a/b", "r"));
        assert_eq!(of_engine("ReplicatedMergeTree ORDER BY a"), None);
        assert_eq!(plain("MergeTree"), None);
        assert_eq!(plain("ReplicatedMergeTree"), None);
        assert_eq!(plain("ReplicatedMergeTree('a/b"), None);
    }

    #[test]
    fn a_place_has_its_ensemble_and_a_slash() {
        assert_eq!(place("second:/a/b"), ("second", "/a/b".to_owned()));
        assert_eq!(place("/a:b"), ("default", "/a:b".to_owned()));
        assert_eq!(place("a/b"), ("default", "/a/b".to_owned()));
    }

    #[test]
    fn macros_are_expanded_and_an_unknown_one_is_no_guess() {
        let macros = [("shard", "01"), ("replica", "r-{shard}"), ("loop", "{loop}")];
        let macros = macros.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let name = TableName::new("d", "t");
        let expand = |text: &str| expand(text, &macros, &name, "u-1");
        assert_eq!(expand("/{uuid}/{shard}/{database}.{table}/x").unwrap(), "/u-1/01/d.t/x");
        assert_eq!(expand("{replica}").unwrap(), "r-01");
        for (text, unknown) in [("/{cluster}/t", "cluster"), ("{loop}", "{loop}"), ("/{shard", "shard")] {
            assert_eq!(expand(text), Err(unknown.to_owned()), "{text}");
        }
    }
}
