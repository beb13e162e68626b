//! Two settings of the table that are 0 while its parts are attached again.

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::Failure;

use super::work::Work;
use crate::clickhouse::{Statement, TableSetting};
use crate::steps::failed;

/// ATTACH PART takes equal parts for one and says OK; only a setting of the table keeps it from that. Another one keeps a
/// server that is killed meanwhile from merging when it starts: a part that was cut off while it was attached leaves a gap
/// in the blocks, after which a merge could not be accounted for.
pub(super) async fn change_settings(work: &Work<'_>) -> Result<(), Failure> {
    for setting in [TableSetting::MergesInQueue, TableSetting::DeduplicationWindow] {
        work.execute(Statement::Set(&work.table.name, setting, Some(0))).await?;
    }
    Ok(())
}

/// Which settings to give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// The deduplication window alone.
    Deduplication,
    /// Both.
    All,
}

/// Gives the table back the settings that it had when its manifest was written, where they are 0 now: whichever attempt
/// has changed them. What users have set since stays.
pub(super) async fn put_settings_back(work: &Work<'_>, which: Which) -> Result<(), Failure> {
    let (name, former) = (&work.table.name, work.manifest.settings);
    let now = work.context.clickhouse.settings(name).await;
    let now = now.map_err(failed(Code::RestoreFailed))?;
    let both = [
        (TableSetting::DeduplicationWindow, now.window, former.window),
        (TableSetting::MergesInQueue, now.merges, former.merges),
    ];
    for (setting, now, former) in both {
        let is_wanted = which == Which::All || setting == TableSetting::DeduplicationWindow;
        if is_wanted && now == Some(0) && former != now {
            work.execute(Statement::Set(name, setting, former)).await?;
        }
    }
    Ok(())
}
