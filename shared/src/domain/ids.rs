//! Names that are parsed once at the edge: hosts, migrations, tables. And the one way to quote them in SQL.

use std::fmt;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::tools::unseen::is_unseen;

/// A name that a person or another program gave, and that is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not acceptable: {rule}")]
pub struct InvalidName {
    /// What kind of name it was to be.
    pub what: &'static str,
    /// The text as given.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

macro_rules! plain_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(value: String) -> Result<Self, InvalidName> {
                check_plain($what, value).map(Self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;

            fn from_str(value: &str) -> Result<Self, InvalidName> {
                Self::try_from(value.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

plain_name!(
    /// One ClickHouse server and its agent, named as in the plan.
    HostName,
    "host name"
);
plain_name!(
    /// The name of a migration; it becomes part of znode names, file names and query ids.
    MigrationName,
    "migration name"
);

/// What an agent has in its state folder for itself, and before 0.1.0 had beside the folders of migrations.
const FILES_OF_AN_AGENT: [&str; 4] = ["lock", "coordinator.json", "known-tables.json", "migrations"];

impl MigrationName {
    /// Whether a new migration may be called so. One that is there already keeps its name.
    ///
    /// # Errors
    /// When an agent has a file of that name, or puts one of it beside it or away.
    pub fn check_new(&self) -> Result<(), InvalidName> {
        let mut name = self.0.to_ascii_lowercase();
        while let Some((rest, "new" | "damaged")) = name.rsplit_once('.') {
            name = rest.to_owned();
        }
        if !FILES_OF_AN_AGENT.contains(&name.as_str()) {
            return Ok(());
        }
        Err(InvalidName {
            what: "migration name",
            value: self.0.clone(),
            rule: "agents have a file of that name in their state_dir; take another one",
        })
    }
}

fn check_plain(what: &'static str, value: String) -> Result<String, InvalidName> {
    let rule = if value.is_empty() {
        "it is empty"
    } else if value.len() > 128 {
        "it is longer than 128 bytes"
    } else if !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        "only letters, digits, '-', '_' and '.' are allowed"
    } else if !value.as_bytes()[0].is_ascii_alphanumeric() {
        "it must begin with a letter or a digit"
    } else {
        return Ok(value);
    };
    Err(InvalidName { what, value, rule })
}

/// A table within a server: database and table, any Unicode text, as ClickHouse allows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The database, without quotes.
    pub database: String,
    /// The table, without quotes.
    pub table: String,
}

impl TableName {
    /// The table `table` of `database`.
    #[must_use]
    pub fn new(database: impl Into<String>, table: impl Into<String>) -> Self {
        Self {
            database: database.into(),
            table: table.into(),
        }
    }

    /// The name as it stands in a statement, quoted.
    #[must_use]
    pub fn sql(&self) -> String {
        format!("{}.{}", quote_identifier(&self.database), quote_identifier(&self.table))
    }
}

impl fmt::Display for TableName {
    /// `db.table`, with backticks only where a part needs them; what people read and what `--table` accepts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", Readable(&self.database), Readable(&self.table))
    }
}

struct Readable<'a>(&'a str);

impl fmt::Display for Readable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |c: char| (c.is_alphanumeric() && !is_unseen(c)) || c == '_' || c == '-';
        let plain = !self.0.is_empty() && self.0.chars().all(bare);
        if plain {
            f.write_str(self.0)
        } else {
            f.write_str(&quote_identifier(self.0))
        }
    }
}

/// Quotes an identifier for ClickHouse: the only way by which a name gets into a statement.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    quoted(name, '`')
}

/// Quotes a string literal for ClickHouse.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    quoted(text, '\'')
}

fn quoted(text: &str, quote: char) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0' => out.push_str("\\0"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            // So that what is printed can be pasted. ClickHouse reads `\xHH` as a byte, here those of UTF-8.
            c if is_unseen(c) => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "\\x{byte:02X}");
                }
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_place_are_refused() {
        for bad in ["", "../x", "a/b", "a b", "-x", ".x", "ä"] {
            assert!(bad.parse::<MigrationName>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "ch-01-1.example".parse::<HostName>().unwrap().as_str(),
            "ch-01-1.example"
        );
    }

    #[test]
    fn a_new_migration_is_not_called_like_a_file_of_an_agent() {
        let refused = |name: &str| name.parse::<MigrationName>().unwrap().check_new().is_err();
        for bad in [
            "lock",
            "migrations",
            "coordinator.json",
            "coordinator.json.new",
            "known-tables.json",
            "Known-Tables.json.damaged.new",
        ] {
            assert!(refused(bad), "{bad:?}");
        }
        for good in [
            "first",
            "locks",
            "new",
            "x.new",
            "lock.1",
            "coordinator",
            "known-tables.json2",
        ] {
            assert!(!refused(good), "{good:?}");
        }
    }

    #[test]
    fn quoting_leaves_no_way_out() {
        assert_eq!(quote_identifier("a`b\\c"), "`a\\`b\\\\c`");
        assert_eq!(quote_literal("it's\n"), "'it\\'s\\n'");
        assert_eq!(TableName::new("d", "it's").sql(), "`d`.`it's`");
        assert_eq!(TableName::new("d", "a b").to_string(), "d.`a b`");
        assert_eq!(quote_identifier("a\u{1b}[2J\u{202e}"), "`a\\x1B[2J\\xE2\\x80\\xAE`");
        assert_eq!(TableName::new("表", "\u{3164}").to_string(), "表.`\\xE3\\x85\\xA4`");
    }
}
