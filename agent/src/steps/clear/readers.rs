//! Which statements of others may hold parts of a table, as far as their text tells. When it cannot be told, they may.

use rekeeper_shared::domain::ids::TableName;

/// Functions that read tables which the text does not name, or not as a name; and a parameter that is one.
const ELSEWHERE: [&str; 17] = [
    "cluster",
    "clusterallreplicas",
    "dictionary",
    "executable",
    "identifier",
    "jdbc",
    "loop",
    "merge",
    "mysql",
    "odbc",
    "postgresql",
    "remote",
    "remotesecure",
    "url",
    "urlcluster",
    "view",
    "viewexplain",
];
/// How functions on dictionaries, and on the insides of tables, begin.
const ELSEWHERE_BEGINS: [&str; 3] = ["dict", "joinget", "mergetree"];
/// Statements about whole databases.
const WHOLE: [&str; 4] = ["BACKUP", "CHECK", "EXECUTE", "RESTORE"];

/// Why the statement may have begun to read the table; none when it cannot have. `through` are the names of everything on
/// the server by which tables are read that a statement does not name: views, Merge, Distributed and the like.
pub(crate) fn may_read(query: &str, table: &TableName, through: &[String]) -> Option<String> {
    if is_cut(query) {
        return Some("its text is cut, so it cannot be told".to_owned());
    }
    let words = words(query);
    let Some(first) = words.first() else {
        return Some("its text is not told".to_owned());
    };
    let first = first.to_ascii_uppercase();
    if WHOLE.contains(&first.as_str()) {
        return Some(format!("{first} may be about it"));
    }
    if names(query, &words, &table.table) {
        return Some("it names the table".to_owned());
    }
    if query.contains('\\') {
        return Some("its names are written with \\, so it cannot be told".to_owned());
    }
    let elsewhere = words.iter().find(|word| {
        let word = word.to_ascii_lowercase();
        ELSEWHERE.contains(&word.as_str()) || ELSEWHERE_BEGINS.iter().any(|begin| word.starts_with(begin))
    });
    if let Some(word) = elsewhere {
        return Some(format!("what it reads by {word} cannot be told"));
    }
    let through = through.iter().find(|name| names(query, &words, name))?;
    Some(format!("it may read the table by {through}"))
}

/// Whether the server has left something out of the text: `log_queries_cut_to_length` also holds for `system.processes`
/// (24.8, 25.8 and 26.9: `... (removed N characters)`; others may end it with `...`).
fn is_cut(query: &str) -> bool {
    let query = query.trim_end();
    query.ends_with("...") || (query.ends_with(" characters)") && query.contains("(removed "))
}

/// Whether the name stands in the text, as a word where it is one.
fn names(query: &str, words: &[&str], name: &str) -> bool {
    if name.chars().all(is_of_word) {
        words.contains(&name)
    } else {
        query.contains(name)
    }
}

fn words(query: &str) -> Vec<&str> {
    let words = query.split(|c: char| !is_of_word(c));
    words.filter(|word| !word.is_empty()).collect()
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_statement_that_cannot_have_read_the_table_is_passed_by() {
        let through = ["view_of_it".to_owned(), "a-b".to_owned()];
        let may = |query: &str, table: &str| may_read(query, &TableName::new("d", table), &through).is_some();
        for query in [
            "SELECT * FROM t",
            "SELECT * FROM d.t AS x",
            "with a as (select 1 from `d`.`t`) select * from a",
            "SELECT * FROM \"t\"",
            "INSERT INTO other SELECT * FROM other JOIN d.t USING id",
            "SELECT * FROM view_of_it",
            "SELECT * FROM `a-b`",
            "SELECT * FROM merge('d', '.*')",
            "SELECT * FROM remote('127.0.0.1', d, x)",
            "SELECT dictGet('x', 'y', 1)",
            "SELECT * FROM {name:Identifier}",
            r"SELECT * FROM `\x74`",
            "backup database d to Disk('b', '1')",
            "CHECK ALL TABLES",
            "SELECT 1 FROM numbers(100) WHER... (removed 1234 characters)",
            "SELECT 1 FROM numbers(100) WHER...",
            "",
        ] {
            assert!(may(query, "t"), "{query}");
        }
        for query in [
            "SELECT sleepEachRow(1) FROM numbers(100)",
            "SELECT * FROM d.tt",
            "SELECT * FROM t_2, other",
            "INSERT INTO other VALUES",
            "SELECT * FROM system.parts",
            "SELECT '(removed 3 characters)', 'a...b'",
        ] {
            assert!(!may(query, "t"), "{query}");
        }
        assert!(may("SELECT * FROM `my table`", "my table"));
        assert!(!may("SELECT * FROM `my other table`", "my table"));
    }
}
