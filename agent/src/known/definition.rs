//! What ClickHouse's metadata file of a table says of its replica. Pure.

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

use rekeeper_shared::ids::TableName;

/// How deep macros are within macros, at most; as in ClickHouse.
const DEEPEST: usize = 10;

/// The arguments of a Replicated*MergeTree engine, macros unexpanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Engine {
    /// `default`, or the auxiliary one that is written before the path.
    pub(super) ensemble: String,
    pub(super) path: String,
    pub(super) replica: String,
}

/// The engine of `ATTACH TABLE _ UUID '...' (columns) ENGINE = ReplicatedMergeTree('path', 'replica') ...`; none when it is
/// another one. ClickHouse writes both arguments there, also those that were left to its configuration.
pub(super) fn replicated(definition: &str) -> Option<Engine> {
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
    let first = chars.next()?;
    let name = word(first, &mut chars);
    if !name.starts_with("Replicated") || !name.ends_with("MergeTree") {
        return None;
    }
    skip(&mut chars, '(')?;
    let path = literal(&mut chars)?;
    skip(&mut chars, ',')?;
    let replica = literal(&mut chars)?;
    let (ensemble, path) = match path.split_once(':') {
        Some((ensemble, path)) if !ensemble.contains('/') => (ensemble.to_owned(), path.to_owned()),
        _ => ("default".to_owned(), path),
    };
    let path = if path.starts_with('/') {
        path
    } else {
        format!("/{path}")
    };
    Some(Engine {
        ensemble,
        path,
        replica,
    })
}

/// The text with its macros replaced, as the server does for this table; none when one is not known.
pub(super) fn expand(text: &str, macros: &HashMap<String, String>, name: &TableName, uuid: &str) -> Option<String> {
    let mut text = text.to_owned();
    for _ in 0..DEEPEST {
        if !text.contains('{') {
            return Some(text);
        }
        let mut parts = text.split('{');
        let mut expanded = parts.next()?.to_owned();
        for part in parts {
            let (key, after) = part.split_once('}')?;
            expanded.push_str(match key {
                "database" => &name.database,
                "table" => &name.table,
                "uuid" => uuid,
                key => macros.get(key)?,
            });
            expanded.push_str(after);
        }
        text = expanded;
    }
    None
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
            ensemble: "second".into(),
            path: "/tables/{shard}/d/it's".into(),
            replica: "{replica}".into(),
        };
        assert_eq!(found, expected);
        let plain = |engine: &str| {
            replicated(&format!(
                "ATTACH TABLE _ UUID 'u' (`id` UInt8)\nENGINE = {engine}\nORDER BY id"
            ))
        };
        assert_eq!(plain("ReplicatedMergeTree('a/b', 'r')").unwrap().path, "/a/b");
        assert_eq!(plain("MergeTree"), None);
        assert_eq!(plain("ReplicatedMergeTree"), None);
        assert_eq!(plain("ReplicatedMergeTree('a/b"), None);
    }

    #[test]
    fn macros_are_expanded_and_an_unknown_one_is_no_guess() {
        let macros = [("shard", "01"), ("replica", "r-{shard}"), ("loop", "{loop}")];
        let macros = macros.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let name = TableName::new("d", "t");
        let expand = |text: &str| expand(text, &macros, &name, "u-1");
        assert_eq!(expand("/{uuid}/{shard}/{database}.{table}/x").unwrap(), "/u-1/01/d.t/x");
        assert_eq!(expand("{replica}").unwrap(), "r-01");
        for unknown in ["/{cluster}/t", "{loop}", "/{shard"] {
            assert_eq!(expand(unknown), None, "{unknown}");
        }
    }
}
