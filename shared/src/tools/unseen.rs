//! Characters that a terminal obeys or hides instead of showing them. ClickHouse takes all of them in names.

/// Whether a terminal would not show the character as a letter of its own: controls, what turns the direction of
/// writing, what takes no room, and line ends of Unicode's own.
///
/// Marks that combine with the letter before them are shown, and letters that are written from right to left too.
#[must_use]
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{115f}'
                | '\u{1160}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_seen_and_what_steers_is_not() {
        for seen in "aZ0 'ü表\u{301}שלום하🦀❤\u{fe0f}\\`".chars() {
            assert!(!is_unseen(seen), "{seen:?}");
        }
        for unseen in "\u{1b}\u{7}\u{9b}\u{7f}\n\t\u{202e}\u{2066}\u{200d}\u{61c}\u{feff}\u{3164}\u{e0041}".chars() {
            assert!(is_unseen(unseen), "{unseen:?}");
        }
    }
}
