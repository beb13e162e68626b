//! What was found, for people: a block for each code and remedy, and in it each cause once with how many tables and hosts it
//! is about and the first few of their names. JSON and YAML have every single one.

use std::fmt::Write as _;

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::people::causes::{Block, Item, grouped};

use super::text::{self, Paint, WIDTH};

/// Names with each cause.
const NAMES: usize = 3;

/// How much is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// Blocks.
    pub(crate) blocks: usize,
    /// Causes in each.
    pub(crate) causes: usize,
}

impl Limit {
    /// Everything.
    pub(crate) const NONE: Self = Self {
        blocks: usize::MAX,
        causes: usize::MAX,
    };
    /// As much as a person reads among other things.
    pub(crate) const FEW: Self = Self { blocks: 20, causes: 5 };
}

/// All blocks, each line after `indent`.
pub(crate) fn table(items: &[Item], limit: Limit, indent: &str, paint: Paint) -> String {
    let blocks = grouped(items);
    let mut out = String::new();
    for one in blocks.iter().take(limit.blocks) {
        block(&mut out, one, limit, indent, paint);
    }
    if blocks.len() > limit.blocks {
        let more = text::count(blocks.len() - limit.blocks, "more problem");
        let _ = writeln!(out, "{indent}... and {more}; `rekeeper problems` lists all");
    }
    out
}

/// One line for each block, without the remedy.
pub(crate) fn lines(items: &[Item], paint: Paint) -> Vec<String> {
    let line = |block: &Block<'_>| {
        let first = block.first();
        let (code, place) = (paint.bad(first.code.as_str()), text::escape(&first.place()));
        let message = text::escape(&first.message);
        let others = others(block, 1)
            .map(|others| format!("; and {others}"))
            .unwrap_or_default();
        match block.count() {
            Some(count) => format!("{code}  {count}: {message}{others} (such as {place})"),
            None => format!("{code}  {place}: {message}"),
        }
    };
    grouped(items).iter().map(line).collect()
}

/// Causes of the block beyond those that are shown.
fn others(block: &Block<'_>, shown: usize) -> Option<String> {
    let more = block.causes.len().checked_sub(shown).filter(|more| *more > 0)?;
    Some(text::count(more, "other cause"))
}

fn block(out: &mut String, block: &Block<'_>, limit: Limit, indent: &str, paint: Paint) {
    let first = block.first();
    let code = paint.bad(first.code.as_str());
    let (head, deep) = match block.count() {
        Some(count) => (format!("  {count}"), format!("{indent}    ")),
        None if first.place().is_empty() => (String::new(), format!("{indent}  ")),
        None => (format!("  {}", text::escape(&first.place())), format!("{indent}  ")),
    };
    let _ = writeln!(out, "{indent}{code}{head}");
    for cause in block.causes.iter().take(limit.causes) {
        let (places, more) = cause.places(NAMES);
        if block.count().is_some() {
            for place in places {
                let _ = writeln!(out, "{indent}  {}", text::escape(&place));
            }
        }
        if more > 0 {
            let _ = writeln!(out, "{indent}  ... and {more} more; -o json lists all");
        }
        let of = if cause.differs() { "of the first: " } else { "" };
        out.push_str(&text::hanging(&format!("{of}{}", cause.items[0].message), &deep, WIDTH));
    }
    if let Some(others) = others(block, limit.causes) {
        let _ = writeln!(out, "{indent}  ... and {others}; `rekeeper problems` lists all");
    }
    let of = if block.differs() { ", of the first" } else { "" };
    out.push_str(&text::wrap(&format!("fix{of}: {}", first.fix), &deep, WIDTH));
    if let Some((host, words)) = &first.said {
        let of = if block.words_differ() { ", of the first" } else { "" };
        out.push_str(&said(&format!("{host} says{of}"), words, &deep));
    }
    by_hand(out, block, &deep);
}

/// An agent's own words, so that nobody takes them for Rekeeper's: a person decides whether to do what they say.
pub(crate) fn said(who: &str, words: &str, indent: &str) -> String {
    let quoted = text::wrap(words, &format!("{indent}  | "), WIDTH);
    format!("{indent}{who}:\n{quoted}")
}

/// Statements of one table: what is right for it may be wrong for another.
fn by_hand(out: &mut String, block: &Block<'_>, indent: &str) {
    let Some((item, differ)) = block.by_hand() else {
        return;
    };
    // Nothing is ordered any more of a host that was left out.
    let then = if item.code == Code::HostLeft {
        ""
    } else {
        ", then retry"
    };
    let head = match differ {
        false => format!("by hand, on the host{then}:"),
        true => format!(
            "by hand, for {}{then} (those of the others: -o json):",
            text::escape(&item.place())
        ),
    };
    let _ = writeln!(out, "{indent}{head}");
    for statement in &item.by_hand {
        let _ = writeln!(out, "{indent}  {};", text::escape(statement));
    }
}
