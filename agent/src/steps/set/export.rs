//! What has to be there before the first node of a set is deleted: everything that is in them, in a file of the host.

use std::path::Path;

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Exported, Failure, SetRef};
use rekeeper_shared::tools::reserve::is_full;
use tokio::sync::mpsc;

use super::as_failure;
use crate::export::{ExportError, Header, Reader, VERSION, Writer};
use crate::state::make_room;
use crate::steps::{Context, state_failed};
use crate::zookeeper::{Stage, WalkError, ZNode, ZooKeeper};

/// Pages of nodes that wait for the disk.
const PAGES: usize = 2;

/// The export of a set's nodes, made now unless it is there already; none when deletion had begun and this host has
/// none. What is there is never replaced by that of a tree of which nodes are missing.
///
/// # Errors
/// EXPORT_FAILED, EXPORT_TOO_LARGE, and ACL_DENIED for nodes that could be exported and not deleted; nothing is deleted
/// and no file left then.
pub(super) async fn export(
    context: &Context,
    set: &SetRef,
    zookeeper: &ZooKeeper,
    stage: Stage,
) -> Result<Option<Exported>, Failure> {
    let (held, is_whole) = match stage {
        Stage::Whole { held } => (held, true),
        Stage::Begun { held: Some(held) } => (held, false),
        Stage::Begun { held: None } | Stage::Gone => return Ok(None),
    };
    // Exported since the path is held: nobody has changed anything since.
    let existing = existing_since(context, set, held).await;
    if existing.is_some() || !is_whole {
        return Ok(existing);
    }
    let file = context.state.export_file(&context.migration, set);
    let file = file.map_err(state_failed(Code::ExportFailed))?;
    let header = Header {
        rekeeper_znodes: VERSION,
        path: set.path.clone(),
        place: set.place.clone(),
        migration: context.migration.clone(),
        attempt: context.attempt,
        held,
        host: context.host.clone(),
        time: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
    };
    context.doing(format!("exports the znodes of {}", set.path));
    let (sender, receiver) = mpsc::channel(PAGES);
    let written = tokio::task::spawn_blocking({
        let (limit, report) = (context.export_limit, context.report.clone());
        move || write(&file, &header, limit, receiver, &*report)
    });
    let code = Code::ExportFailed;
    let stage = match zookeeper.walk(&set.path, &sender).await {
        Ok(()) => zookeeper.stage(set).await.map_err(WalkError::from),
        Err(error) => Err(error),
    };
    let is_still_whole = matches!(stage, Ok(Stage::Whole { held: now }) if now == held);
    if is_still_whole {
        // Nobody takes it when the disk has refused.
        let _ = sender.send(Vec::new()).await;
    }
    drop(sender);
    let written = written.await;
    stage.map_err(|error| match error {
        WalkError::NoDelete { .. } => as_failure(Code::AclDenied, false, &error),
        WalkError::ZooKeeper(why) => why.into_failure(code),
    })?;
    if !is_still_whole {
        let text = format!("{} was let go or deleted from while its znodes were exported", set.path);
        return Err(Failure::passing(code, text));
    }
    match written {
        Ok(Ok(exported)) => Ok(exported),
        Ok(Err(error)) => Err(export_failed(&error)),
        Err(error) => Err(Failure::lasting(code, format!("the export broke off: {error}"))),
    }
}

/// Writes what comes, until an empty page says that this was all; what was cut short is no export.
fn write(
    file: &Path,
    header: &Header,
    limit: u64,
    mut pages: mpsc::Receiver<Vec<ZNode>>,
    report: impl Fn(String),
) -> Result<Option<Exported>, ExportError> {
    let mut writer = Writer::create(file, header, limit)?;
    let mut nodes = 0;
    while let Some(page) = pages.blocking_recv() {
        if page.is_empty() {
            return writer.finish().map(Some);
        }
        nodes += page.len();
        for node in page {
            writer.add(node)?;
        }
        report(format!("exports {}: {nodes} znodes so far", header.path));
    }
    Ok(None)
}

fn export_failed(error: &ExportError) -> Failure {
    let code = match error {
        ExportError::Disk { file, source, .. } if is_full(source) => {
            let fix = format!("on this host: {}", make_room(file));
            return as_failure(Code::StateDirFull, false, error).with_fix(fix);
        }
        ExportError::TooLarge { .. } => Code::ExportTooLarge,
        ExportError::Disk { .. } | ExportError::Damaged { .. } => Code::ExportFailed,
    };
    as_failure(code, false, error)
}

/// A whole export that this host has of the set, made since it is held. What is damaged or older counts as none: as long
/// as nothing is deleted it is made anew.
async fn existing_since(context: &Context, set: &SetRef, held: i64) -> Option<Exported> {
    let file = context.state.export_file(&context.migration, set).ok()?;
    let read = tokio::task::spawn_blocking(move || {
        let (header, sum) = Reader::open(&file)?.verify()?;
        let bytes = std::fs::metadata(&file).map(|about| about.len()).unwrap_or_default();
        Ok::<_, ExportError>((
            header,
            Exported {
                file: file.display().to_string(),
                nodes: sum.nodes,
                bytes,
                sha256: sum.sha256,
            },
        ))
    });
    let (header, exported) = read.await.ok()?.ok()?;
    let is_it = header.path == set.path && header.place == set.place && header.held == held;
    is_it.then_some(exported)
}
