//! `db`, `db.table` and patterns: `*` and `?` never cross the dot, backticks quote.

use std::str::CharIndices;

use rekeeper_shared::ids::TableName;
use rekeeper_shared::inventory::TableInventory;
use rekeeper_shared::plan::PlanRequest;

/// A text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no pattern: {what}; write db, db.table, or with backticks `my db`.`my table`")]
pub struct BadPattern {
    /// The text.
    pub text: String,
    /// What is wrong with it.
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
    /// [`BadPattern`] for an empty part, more than one dot, or a backtick that is not closed.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let bad = |what| BadPattern {
            text: text.to_owned(),
            what,
        };
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

    fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        // reachable[i]: the tokens so far can match the first i characters.
        let mut reachable = vec![false; text.len() + 1];
        reachable[0] = true;
        for token in &self.0 {
            let mut next = vec![false; text.len() + 1];
            let mut seen = false;
            for at in 0..=text.len() {
                seen |= reachable[at];
                next[at] = match token {
                    Token::Any => seen,
                    Token::One => at > 0 && reachable[at - 1],
                    Token::Char(c) => at > 0 && reachable[at - 1] && text[at - 1] == *c,
                };
            }
            reachable = next;
        }
        reachable[text.len()]
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
    databases: Vec<Pattern>,
    tables: Vec<Pattern>,
    exclude: Vec<Pattern>,
    disk: Option<String>,
}

impl Selection {
    /// Reads the patterns of a request.
    ///
    /// # Errors
    /// The first [`BadPattern`].
    pub fn parse(request: &PlanRequest) -> Result<Self, BadPattern> {
        let parse = |texts: &[String]| texts.iter().map(|t| Pattern::parse(t)).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            databases: parse(&request.databases)?,
            tables: parse(&request.tables)?,
            exclude: parse(&request.exclude)?,
            disk: request.disk.clone(),
        })
    }

    /// Whether the table is taken.
    #[must_use]
    pub fn takes(&self, table: &TableInventory) -> bool {
        let any = |patterns: &[Pattern]| patterns.is_empty() || patterns.iter().any(|p| p.matches(&table.name));
        any(&self.databases)
            && any(&self.tables)
            && !self.exclude.iter().any(|p| p.matches(&table.name))
            && self.disk.as_ref().is_none_or(|disk| table.disks.contains(disk))
    }

    /// The patterns that no table matches, as given; `--exclude` ones as well, since they are a mistake just as likely.
    #[must_use]
    pub fn unmatched<'a>(&'a self, tables: &[&TableInventory]) -> Vec<&'a str> {
        self.databases
            .iter()
            .chain(&self.tables)
            .chain(&self.exclude)
            .filter(|pattern| !tables.iter().any(|table| pattern.matches(&table.name)))
            .map(|pattern| pattern.text.as_str())
            .collect()
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
