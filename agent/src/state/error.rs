//! Why the state folder cannot be relied on, and what a person does about it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use rekeeper_shared::domain::problem::Code;

/// Why the state folder cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another agent has it.
    #[error("another agent uses the state folder {0}")]
    Taken(PathBuf),
    /// A file of `state_dir` cannot be written, read or synced.
    #[error("{0} cannot be read or written")]
    Disk(PathBuf, #[source] io::Error),
    /// There is no room on the disk; [`StateError::remedy`] says where.
    #[error("{0} cannot be written: there is no room on its disk")]
    Full(PathBuf, #[source] io::Error),
    /// A file is not what was written.
    #[error("{0} is damaged ({1}); restore it from a backup: it is not made anew")]
    Damaged(PathBuf, String),
    /// A note is not what was written; [`StateError::remedy`] says what can be done without it.
    #[error("{0} is damaged ({1})")]
    Note(PathBuf, String),
    /// A file that is written once exists with another content.
    #[error("{0} exists already with another content; it is written once only")]
    Differs(PathBuf),
    /// A migration has files where agents of before had them, and where they are now.
    #[error(
        "both {} and {} have files of one migration, so an agent of an earlier release has run since; it wrote into the \
         former: look at both, move the files that are newer into the latter and the former folder away, then start the \
         agent",
        .0.display(),
        .1.display()
    )]
    TwoFolders(PathBuf, PathBuf),
}

impl StateError {
    /// The code of a problem that has a remedy of its own.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Full(..) => Some(Code::StateDirFull),
            Self::Note(..) => Some(Code::StateDamaged),
            Self::Taken(_) | Self::Disk(..) | Self::Damaged(..) | Self::Differs(_) | Self::TwoFolders(..) => None,
        }
    }

    /// What to do about a full disk, or about a note that is damaged: what it said is found out again in other ways, once
    /// a person has taken it away. None for anything else.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        let file = match self {
            Self::Full(file, _) => return Some(make_room(file)),
            Self::Note(file, _) => file,
            Self::Taken(_) | Self::Disk(..) | Self::Damaged(..) | Self::Differs(_) | Self::TwoFolders(..) => {
                return None;
            }
        };
        let away = away(file);
        let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let extension = file.extension().and_then(OsStr::to_str).unwrap_or_default();
        Some(match (name, extension) {
            (super::seen::FILE, _) => format!(
                "put it back from a backup; or, if the coordinator that runs now is the one that ran last (not an older \
                 or a copied data_dir), remove it: {away}; then start the agent, which obeys that coordinator"
            ),
            (_, "json") => format!(
                "put it back from a backup, or remove it: {away}; then start the agent, which asks its server for the \
                 tables anew, also for those that are detached"
            ),
            (_, "restart") => {
                format!("{away}; then rekeeper retry NAME: hooks and restart command run again, with a note of their own")
            }
            _ => format!(
                "{away}; then rekeeper retry NAME: how far the table has come is found out from what is there; only which \
                 parts were attached again the report will not tell"
            ),
        }
        .replace("NAME", &migration_of(file)))
    }
}

/// What to do when there is no room for a file.
pub(crate) fn make_room(file: &Path) -> String {
    let folder = file.parent().unwrap_or(file);
    format!(
        "make room on the disk of {} (folders of migrations that have ended may be moved away), then retry; no file is to be \
         put back, and none is lost",
        folder.display()
    )
}

/// The command that takes a file away.
fn away(file: &Path) -> String {
    let mut damaged = file.as_os_str().to_owned();
    damaged.push(".damaged");
    crate::words::mv(file, Path::new(&damaged))
}

/// A migration's folder has its name.
fn migration_of(file: &Path) -> String {
    let folder = file.parent().and_then(Path::file_name);
    folder.map_or_else(|| "NAME".to_owned(), |name| name.to_string_lossy().into_owned())
}
