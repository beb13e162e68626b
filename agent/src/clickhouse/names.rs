//! Names of tables, taken out of definitions as the server prints them.

use rekeeper_shared::domain::ids::TableName;

/// The table that a view without TO makes for itself.
pub(crate) fn inner_table(database: &str, name: &str, uuid: &str) -> TableName {
    if crate::clickhouse::is_zero_uuid(uuid) {
        TableName::new(database, format!(".inner.{name}"))
    } else {
        TableName::new(database, format!(".inner_id.{uuid}"))
    }
}

/// The table after TO in the definition of a materialized view, as the server prints it: `CREATE MATERIALIZED VIEW db.v
/// [REFRESH ...] [UUID '...'] TO db.t ...`. Everything else with a word TO comes after the name.
pub(crate) fn target(query: &str, database: &str) -> Option<TableName> {
    let kinds = ["CREATE MATERIALIZED VIEW ", "CREATE WINDOW VIEW "];
    let rest = kinds.iter().find_map(|kind| query.strip_prefix(kind))?;
    let (_, rest) = name(rest, database)?;
    // A definition by SELECT has its own words TO, so only what stands before it counts.
    let end = ["(", " AS SELECT ", " AS WITH "]
        .iter()
        .filter_map(|mark| rest.find(mark))
        .min();
    let head = &rest[..end.unwrap_or(rest.len())];
    let at = head.find(" TO ")? + " TO ".len();
    name(&rest[at..], database).map(|(found, _)| found)
}

/// `db.t`, `t`, either with backquotes, at the beginning of a text; and what follows it.
fn name<'a>(text: &'a str, database: &str) -> Option<(TableName, &'a str)> {
    let (first, rest) = identifier(text)?;
    match rest.strip_prefix('.') {
        None => Some((TableName::new(database, first), rest)),
        Some(rest) => {
            let (second, rest) = identifier(rest)?;
            Some((TableName::new(first, second), rest))
        }
    }
}

fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('`') else {
        let end = text
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut found = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '`' => return Some((found, &quoted[at + 1..])),
            '\\' => found.push(letters.next()?.1),
            other => found.push(other),
        }
    }
    None
}

/// `db.t`, and nothing after it.
pub(crate) fn whole_name(text: &str) -> Option<TableName> {
    let (found, rest) = name(text, "")?;
    (rest.is_empty() && !found.database.is_empty()).then_some(found)
}

/// The arguments of an engine, `Engine(a, b) ...`, as they stand there; none when it has none.
pub(crate) fn arguments(engine_full: &str) -> Vec<String> {
    let Some((_, rest)) = engine_full.split_once('(') else {
        return Vec::new();
    };
    let (mut found, mut current, mut depth) = (Vec::new(), String::new(), 0_usize);
    let mut letters = rest.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ')' if depth == 0 => {
                found.push(current.trim().to_owned());
                return found;
            }
            ',' if depth == 0 => found.push(std::mem::take(&mut current).trim().to_owned()),
            '\'' | '`' => {
                current.push(letter);
                copy_quoted(&mut letters, letter, &mut current);
            }
            other => {
                depth = match other {
                    '(' => depth + 1,
                    ')' => depth - 1,
                    _ => depth,
                };
                current.push(other);
            }
        }
    }
    Vec::new() // It is cut off: nothing can be relied on.
}

/// What is left of a quoted text, its end included.
fn copy_quoted(letters: &mut std::str::Chars<'_>, quote: char, into: &mut String) {
    while let Some(letter) = letters.next() {
        into.push(letter);
        if letter == '\\' {
            into.extend(letters.next());
        } else if letter == quote {
            return;
        }
    }
}

/// The content of a literal `'...'`; none for anything else.
pub(crate) fn literal(text: &str) -> Option<String> {
    let inside = text.strip_prefix('\'')?.strip_suffix('\'')?;
    let mut found = String::new();
    let mut letters = inside.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => found.push(match letters.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'b' => '\u{8}',
                'f' => '\u{c}',
                '0' => '\0',
                other => other,
            }),
            '\'' => return None,
            other => found.push(other),
        }
    }
    Some(found)
}

/// The table that the arguments of an engine name; none when they are no plain names.
pub(crate) fn named(engine: &str, engine_full: &str) -> Option<TableName> {
    let arguments = arguments(engine_full);
    // A cluster, or addresses, come first.
    let at = usize::from(engine == "Distributed");
    let (database, table) = (arguments.get(at)?, arguments.get(at + 1)?);
    Some(TableName::new(literal(database)?, literal(table)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_a_view_is_found_whatever_its_name() {
        let of = |query: &str| target(query, "d").map(|t| (t.database, t.table));
        let is = |database: &str, table: &str| Some((database.to_owned(), table.to_owned()));
        assert_eq!(
            of("CREATE MATERIALIZED VIEW d.mv TO d.t (`a` UInt64) AS SELECT a FROM d.s"),
            is("d", "t")
        );
        assert_eq!(
            of("CREATE MATERIALIZED VIEW d.`a TO b` TO `d x`.`it\\`s` (`a` UInt64) AS SELECT 1"),
            is("d x", "it`s")
        );
        assert_eq!(
            of("CREATE MATERIALIZED VIEW d.mv UUID 'u' TO t AS SELECT 1"),
            is("d", "t")
        );
        assert_eq!(
            of(
                "CREATE MATERIALIZED VIEW d.mv (`a` UInt64) ENGINE = MergeTree AS SELECT a AS x FROM s WHERE x = ' TO y'"
            ),
            None
        );
        assert_eq!(of("CREATE MATERIALIZED VIEW d.mv ENGINE = Log AS SELECT ' TO y'"), None);
    }

    #[test]
    fn refreshable_views_and_window_views_have_targets_too() {
        let of = |query: &str| target(query, "d").map(|found| found.to_string());
        let refreshed = "CREATE MATERIALIZED VIEW d.r REFRESH EVERY 1 SECOND DEPENDS ON d.x APPEND TO e.t (`a` UInt64) \
                         DEFINER = default SQL SECURITY DEFINER AS SELECT 1 AS a";
        assert_eq!(of(refreshed).as_deref(), Some("e.t"));
        assert_eq!(
            of("CREATE WINDOW VIEW d.w TO d.t (`n` UInt64) INNER ENGINE = AggregatingMergeTree AS SELECT 1").as_deref(),
            Some("d.t")
        );
    }

    #[test]
    fn arguments_are_told_apart_whatever_is_in_them() {
        assert_eq!(
            arguments("Merge(REGEXP('^(a|b),$'), 'x\\'),(') ORDER BY f(1)"),
            ["REGEXP('^(a|b),$')", "'x\\'),('"]
        );
        assert_eq!(arguments("Null"), [""; 0]);
        assert_eq!(arguments("Buffer('d', 'cut"), [""; 0]);
        assert_eq!(literal("'a\\'b\\n'").as_deref(), Some("a'b\n"));
        assert_eq!(literal("REGEXP('a')"), None);
        assert_eq!(literal("''").as_deref(), Some(""));
        assert_eq!(whole_name("d.`it's`"), Some(TableName::new("d", "it's")));
        assert_eq!(whole_name(""), None);
    }

    #[test]
    fn a_table_is_named_by_the_arguments_of_an_engine() {
        let of = |engine: &str, full: &str| named(engine, full).map(|found| found.to_string());
        assert_eq!(
            of("Buffer", "Buffer('d', 'b', 1, 10, 100, 1, 2, 3, 4)").as_deref(),
            Some("d.b")
        );
        assert_eq!(
            of("Distributed", "Distributed('c', 'd', 'it\\'s', rand())").as_deref(),
            Some("d.`it's`")
        );
        assert_eq!(
            of("Distributed", "Remote('127.0.0.1:1', 'd', 'b')").as_deref(),
            Some("d.b")
        );
        assert_eq!(of("Distributed", "Distributed('c', '', 'b')").as_deref(), Some("``.b"));
        assert_eq!(of("Distributed", "Distributed('c', view(SELECT 1))"), None);
        assert_eq!(of("Alias", "Alias('d', 'b')").as_deref(), Some("d.b"));
    }
}
