//! Errors and lists as people read them, and commands that they may give.

use std::path::Path;

/// An error and all its sources, in one line.
#[must_use]
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// The command of a shell that renames a file or a folder.
#[must_use]
pub(crate) fn mv(from: &Path, to: &Path) -> String {
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    format!("mv {} {}", quoted(from), quoted(to))
}

/// The first few of a list that may be long.
pub(crate) fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_does_not_end_a_path() {
        let command = mv(Path::new("/data/it's/a"), Path::new("/data/b"));
        assert_eq!(command, r"mv '/data/it'\''s/a' '/data/b'");
    }
}
