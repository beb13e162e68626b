//! Steps that failed and are tried again, for people: a line for each cause.

use std::collections::HashMap;

use rekeeper_shared::domain::ids::TableName;
use rekeeper_shared::people::causes::{Cause, Item, grouped};
use rekeeper_shared::people::view::{RetryStatus, StatusView};

use super::text::{self, Paint};

/// A line for each cause, with the first step that it made fail and when that is tried again.
pub(crate) fn lines(status: &StatusView, paint: Paint) -> Vec<String> {
    let names = names(status);
    let item = |retry: &RetryStatus| Item {
        code: retry.code,
        table: Some(format!(
            "{} of {}{}",
            retry.step,
            retry.target,
            text::on(&retry.host, &retry.target)
        )),
        host: None,
        message: retry.reason.clone(),
        fix: String::new(),
        said: None,
        by_hand: Vec::new(),
        own: own_names(&names, retry),
    };
    let items: Vec<Item> = status.retries.iter().map(item).collect();
    let line = |cause: &Cause<'_>| {
        let first = cause.items[0];
        let retry = items
            .iter()
            .zip(&status.retries)
            .find(|(item, _)| std::ptr::eq(*item, first));
        let next = retry.map(|(_, retry)| again(retry)).unwrap_or_default();
        let (_, more) = cause.places(1);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let (code, place) = (paint.bad(first.code.as_str()), text::escape(&first.place()));
        format!("{code}  {place}{more}{next}: {}", text::escape(&first.message))
    };
    grouped(&items)
        .iter()
        .flat_map(|block| &block.causes)
        .map(line)
        .collect()
}

fn again(retry: &RetryStatus) -> String {
    let next = match retry.next_seconds {
        None => "now".to_owned(),
        Some(seconds) => format!("in {}", text::seconds(seconds)),
    };
    format!(", again {next} ({} of {} failed)", retry.failures, retry.most)
}

/// The names of each table by what a step on it, or on its set, has for a target on a host.
type Names<'a> = HashMap<(&'a str, String), Vec<String>>;

fn names(status: &StatusView) -> Names<'_> {
    let mut names = Names::new();
    if status.retries.is_empty() {
        return names;
    }
    for table in &status.tables {
        let name = TableName::new(&table.database, &table.table);
        for target in [name.to_string(), table.zookeeper_path.clone()] {
            let own = [name.to_string(), name.sql(), table.zookeeper_path.clone()];
            names.entry((table.host.as_str(), target)).or_default().extend(own);
        }
    }
    names
}

/// What may be in the reason and says nothing of the cause.
fn own_names(names: &Names<'_>, retry: &RetryStatus) -> Vec<String> {
    let of_tables = names.get(&(retry.host.as_str(), retry.target.clone()));
    let own = of_tables.into_iter().flatten().cloned();
    own.chain([retry.target.clone(), retry.host.to_string()]).collect()
}
