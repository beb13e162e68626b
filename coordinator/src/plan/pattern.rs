//! `db`, `db.table` and patterns: `*` and `?` never cross the dot, backticks quote.

use std::collections::BTreeSet;
use std::str::{CharIndices, Chars};

use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::domain::inventory::TableInventory;
use rekeeper_shared::domain::plan::PlanRequest;

/// Bytes of a pattern, and how many one plan takes: of each kind what a list of all tables by name needs, and of those
/// that are compared with every table, fewer.
const LENGTH: usize = 4_096;
const PATTERNS: usize = 100_000;
const GLOBS: usize = 256;
/// Characters of a bad pattern that are told.
const SHOWN: usize = 128;

/// A text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no pattern: {what}; write db, db.table, or with backticks `my db`.`my table`")]
pub struct BadPattern {
    /// The text, as much of it as is told.
    pub text: String,
    /// For people: what the pattern breaks.
    pub what: &'static str,
}

/// What a database, or a database and a table, must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// As given.
    pub text: String,
    database: Glob,
    table: Option<Glob>,
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`BadPattern`] for an empty part, more than one dot, a backtick that is not closed, or more than 4,096 bytes.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let bad = |what| BadPattern {
            text: text.chars().take(SHOWN).collect(),
            what,
        };
        if text.len() > LENGTH {
            return Err(bad("it has more than 4096 bytes"));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let (glob, after) = Glob::parse(rest).map_err(bad)?;
            parts.push(glob);
            match after.strip_prefix('.') {
                Some(next) => rest = next,
                None if after.is_empty() => break,
                None => return Err(bad("a backtick ends within a name")),
            }
        }
        let mut parts = parts.into_iter();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(database), table, None) => Ok(Self {
                text: text.to_owned(),
                database,
                table,
            }),
            _ => Err(bad("it has more than one dot")),
        }
    }

    /// Whether the table is meant.
    #[must_use]
    pub fn matches(&self, name: &TableName) -> bool {
        self.database.matches(&name.database) && self.table.as_ref().is_none_or(|t| t.matches(&name.table))
    }

    /// What it means when it has no wildcard.
    fn exact(&self) -> Option<Exact> {
        let database = self.database.exact()?;
        Some(match &self.table {
            None => Exact::Database(database),
            Some(table) => Exact::Table(TableName::new(database, table.exact()?)),
        })
    }
}

/// What a pattern without a wildcard means.
enum Exact {
    Database(String),
    Table(TableName),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Glob(Vec<Token>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    One,
    Any,
}

impl Glob {
    /// One component, and what follows it.
    fn parse(text: &str) -> Result<(Self, &str), &'static str> {
        let mut tokens = Vec::new();
        if let Some(quoted) = text.strip_prefix('`') {
            let mut chars = quoted.char_indices();
            while let Some((at, c)) = chars.next() {
                match c {
                    '`' if tokens.is_empty() => return Err("a name in it is empty"),
                    '`' => return Ok((Self(tokens), &quoted[at + 1..])),
                    '\\' => tokens.push(Token::Char(escaped(&mut chars)?)),
                    c => tokens.push(Token::Char(c)),
                }
            }
            return Err("a backtick is not closed");
        }
        let end = text.find('.').unwrap_or(text.len());
        if end == 0 {
            return Err("a name in it is empty");
        }
        for c in text[..end].chars() {
            tokens.push(match c {
                '*' => Token::Any,
                '?' => Token::One,
                c => Token::Char(c),
            });
        }
        Ok((Self(tokens), &text[end..]))
    }

    /// The text, when it has no wildcard.
    fn exact(&self) -> Option<String> {
        let chars = self.0.iter().map(|token| match token {
            Token::Char(c) => Some(*c),
            Token::One | Token::Any => None,
        });
        chars.collect()
    }

    fn matches(&self, text: &str) -> bool {
        let (mut at, mut rest) = (0, text.chars());
        // What follows the last `*` that was met, and the text that it has not taken yet: one before need take no more.
        let mut any: Option<(usize, Chars<'_>)> = None;
        loop {
            let mut ahead = rest.clone();
            let goes_on = match (self.0.get(at), ahead.next()) {
                (None, None) => return true,
                (Some(Token::Any), _) => {
                    any = Some((at + 1, rest.clone()));
                    at += 1;
                    continue;
                }
                (Some(Token::One), Some(_)) => true,
                (Some(Token::Char(wanted)), Some(c)) => *wanted == c,
                (None, Some(_)) | (Some(Token::One | Token::Char(_)), None) => false,
            };
            if goes_on {
                (at, rest) = (at + 1, ahead);
                continue;
            }
            let Some((after, left)) = &mut any else { return false };
            if left.next().is_none() {
                return false;
            }
            (at, rest) = (*after, left.clone());
        }
    }
}

/// What follows a backslash, as ClickHouse reads it and as names are printed; `\xHH` are the bytes of UTF-8.
fn escaped(chars: &mut CharIndices<'_>) -> Result<char, &'static str> {
    const NOT_CLOSED: &str = "a backtick is not closed";
    const BAD_BYTES: &str = "what follows \\x is no character in UTF-8";
    let (_, c) = chars.next().ok_or(NOT_CLOSED)?;
    Ok(match c {
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        '0' => '\0',
        'x' => {
            let mut bytes = Vec::new();
            loop {
                let digits: String = chars.by_ref().take(2).map(|(_, digit)| digit).collect();
                if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return Err(BAD_BYTES);
                }
                bytes.push(u8::from_str_radix(&digits, 16).map_err(|_| BAD_BYTES)?);
                match std::str::from_utf8(&bytes) {
                    Ok(text) => break text.chars().next().ok_or(BAD_BYTES)?,
                    Err(e) if e.error_len().is_some() => return Err(BAD_BYTES),
                    // More bytes are to come.
                    Err(_) if chars.as_str().starts_with("\\x") => drop((chars.next(), chars.next())),
                    Err(_) => return Err(BAD_BYTES),
                }
            }
        }
        other => other,
    })
}

/// Which tables a plan takes: each option narrows, repeats of one option unite, `--exclude` wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    databases: Patterns,
    tables: Patterns,
    exclude: Patterns,
    disk: Option<String>,
}

/// The patterns of one option. Those without a wildcard are found, and not looked through for each table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Patterns {
    given: Vec<Pattern>,
    databases: BTreeSet<String>,
    tables: BTreeSet<TableName>,
    globs: Vec<Pattern>,
}

impl Patterns {
    fn parse(texts: &[String]) -> Result<Self, BadPattern> {
        let mut patterns = Self::default();
        for text in texts {
            let pattern = Pattern::parse(text)?;
            match pattern.exact() {
                Some(Exact::Database(database)) => drop(patterns.databases.insert(database)),
                Some(Exact::Table(table)) => drop(patterns.tables.insert(table)),
                None => patterns.globs.push(pattern.clone()),
            }
            patterns.given.push(pattern);
        }
        Ok(patterns)
    }

    fn match_any(&self, name: &TableName) -> bool {
        self.tables.contains(name)
            || self.databases.contains(&name.database)
            || self.globs.iter().any(|pattern| pattern.matches(name))
    }
}

impl Selection {
    /// Reads the patterns of a request.
    ///
    /// # Errors
    /// What is wrong with the first bad one, or that there are too many of them; for people.
    pub fn parse(request: &PlanRequest) -> Result<Self, String> {
        let texts = [&request.databases, &request.tables, &request.exclude];
        let given: usize = texts.iter().map(|texts| texts.len()).sum();
        if given > PATTERNS {
            return Err(format!(
                "{given} patterns (--database, --table, --exclude), and a plan takes {PATTERNS}: name databases, or use `*`"
            ));
        }
        let parse = |texts: &[String]| Patterns::parse(texts).map_err(|bad| bad.to_string());
        let selection = Self {
            databases: parse(&request.databases)?,
            tables: parse(&request.tables)?,
            exclude: parse(&request.exclude)?,
            disk: request.disk.clone(),
        };
        let globs: usize = selection.all().map(|patterns| patterns.globs.len()).sum();
        if globs > GLOBS {
            return Err(format!(
                "{globs} patterns with `*` or `?`, and a plan takes {GLOBS} of them: use wider ones, or names"
            ));
        }
        Ok(selection)
    }

    fn all(&self) -> impl Iterator<Item = &Patterns> {
        [&self.databases, &self.tables, &self.exclude].into_iter()
    }

    /// Whether the table is taken.
    #[must_use]
    pub fn takes(&self, table: &TableInventory) -> bool {
        let any = |patterns: &Patterns| patterns.given.is_empty() || patterns.match_any(&table.name);
        any(&self.databases)
            && any(&self.tables)
            && !self.exclude.match_any(&table.name)
            && self.disk.as_ref().is_none_or(|disk| table.disks.contains(disk))
    }

    /// The patterns that no table matches, as given; `--exclude` ones as well, since they are a mistake just as likely.
    #[must_use]
    pub fn unmatched<'a>(&'a self, tables: &[&TableInventory]) -> Vec<&'a str> {
        let names: BTreeSet<&TableName> = tables.iter().map(|table| &table.name).collect();
        let databases: BTreeSet<&str> = names.iter().map(|name| name.database.as_str()).collect();
        let matches_one = |pattern: &&Pattern| match pattern.exact() {
            Some(Exact::Database(database)) => databases.contains(database.as_str()),
            Some(Exact::Table(table)) => names.contains(&table),
            None => names.iter().any(|name| pattern.matches(name)),
        };
        let given = self.all().flat_map(|patterns| &patterns.given);
        let unmatched = given.filter(|pattern| !matches_one(pattern));
        unmatched.map(|pattern| pattern.text.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, database: &str, table: &str) -> bool {
        Pattern::parse(pattern)
            .unwrap()
            .matches(&TableName::new(database, table))
    }

    #[test]
    fn patterns_match_by_component() {
        assert!(matches("db", "db", "anything"));
        assert!(matches("d*.t?", "db", "t1"));
        assert!(!matches("d*", "xdb", "t"));
        assert!(!matches("*.t", "db", "t1"));
        assert!(matches("*.*", "a.b", "c.d"));
        assert!(matches("`a.b`.`c*`", "a.b", "c*"));
        assert!(!matches("`c*`", "cd", "t"));
        assert!(matches("db.`it\\`s`", "db", "it`s"));
    }

    #[test]
    fn stars_take_as_much_as_leaves_something_for_the_rest() {
        for (pattern, table, is_it) in [
            ("d.*", "", true),
            ("d.a*b*c", "aXbXbYc", true),
            ("d.a*b*c", "aXbXcY", false),
            ("d.**a", "bca", true),
            ("d.*a?", "aaab", true),
            ("d.*a?", "aaa", true),
            ("d.?*?", "a", false),
            ("d.*ab", "aab", true),
            ("d.é*", "és", true),
        ] {
            assert_eq!(matches(pattern, "d", table), is_it, "{pattern} {table}");
        }
    }

    #[test]
    fn patterns_are_short_and_not_too_many() {
        let request = |tables: Vec<String>| PlanRequest {
            tables,
            ..PlanRequest::default()
        };
        let refused = |tables| Selection::parse(&request(tables)).unwrap_err();
        let long = refused(vec!["x".repeat(5_000)]);
        assert!(long.contains("more than 4096 bytes") && long.len() < 400, "{long}");
        assert!(refused(vec!["a".into(); PATTERNS + 1]).contains("100001 patterns"));
        let globs = refused((0..=GLOBS).map(|number| format!("a{number}*")).collect());
        assert!(globs.contains("257 patterns with `*`"), "{globs}");
        let names = (0..PATTERNS).map(|number| format!("d.t{number}")).collect();
        let selection = Selection::parse(&request(names)).unwrap();
        assert!(selection.tables.match_any(&TableName::new("d", "t99999")));
        assert!(!selection.tables.match_any(&TableName::new("d", "t100000")));
    }

    #[test]
    fn a_name_that_is_printed_can_be_given_back() {
        for name in [
            "it's\n\u{1b}[31m`x`\\",
            "表\u{202e}\u{200b}",
            "a\t\r\0\u{9b}",
            "שלום",
            "e\u{301}",
            "x41",
        ] {
            let name = TableName::new("d", name);
            let pattern = Pattern::parse(&name.to_string()).unwrap();
            assert!(pattern.matches(&name), "{name}");
            assert!(!pattern.matches(&TableName::new("d", "other")), "{name}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a.b.c",
            "`a",
            "``",
            "`a`b",
            "a.`b",
            "`\\",
            "`\\x4",
            "`\\xZZ`",
            "`\\xE2`",
            "`\\xE2\\x41`",
        ] {
            assert!(Pattern::parse(bad).is_err(), "{bad:?}");
        }
    }
}
