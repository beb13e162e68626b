//! Holding a table's path for one attempt, and letting it go again (invariants 3 and 4).
//!
//! The fence is two kinds of nodes: the marker in the path, which every deleting multi checks, and a persistent
//! `is_active` under every replica, on which a server that starts finds that it cannot become active. What is to be done
//! is decided by what was seen (`hold`, `let_go`); between seeing and doing the transaction itself looks for changes.

use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::place::ZkPath;
use rekeeper_shared::domain::step::SetRef;
use zookeeper_client::Error as ClientError;

use super::connection::ZooKeeper;
use super::error::{CleanError, Outcome, ZkError};
use super::foreign::not_whole;
use super::holds::{Hold, Markers, refuse_unless_ours};
use super::marker::Marker;
use super::may_delete::{is_planned_place, no_other_table, nothing_foreign};
use super::request::{MultiError, Operation, RECONNECT, TRIES};

/// What is done next about a path.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nothing is left to do.
    Done,
    /// It changed while it was looked at.
    LookAgain,
    /// These operations, together.
    Apply(Vec<Operation>),
}

impl Next {
    fn of(operations: Vec<Operation>) -> Self {
        if operations.is_empty() {
            Self::Done
        } else {
            Self::Apply(operations)
        }
    }
}

/// What was seen of a path that is to be held.
#[derive(Debug)]
struct Seen<'a> {
    children: &'a [String],
    nested: Option<&'a str>,
    foreign: &'a [String],
    /// The version of `replicas`: ClickHouse writes into it whenever it adds a replica, so it tells of one that was not
    /// seen.
    version: Option<i32>,
    replicas: &'a [(String, Hold)],
}

/// In one multi, older markers of the migration go, the attempt's own is created, and every replica that nobody holds gets
/// a persistent `is_active`.
fn hold(set: &SetRef, mine: &Marker, seen: &Seen<'_>) -> Result<Next, CleanError> {
    let path = &set.path;
    let markers = Markers::among(path, seen.children, mine)?;
    if let Some(missing) = not_whole(seen.children) {
        return Err(CleanError::NotTableShaped {
            path: path.to_string(),
            missing,
        });
    }
    no_other_table(set, seen.nested)?;
    nothing_foreign(set, seen.foreign.iter().cloned())?;
    let Some(version) = seen.version else {
        return Ok(Next::LookAgain);
    };
    let mut operations = markers.take_over(path, mine);
    for (replica, hold) in seen.replicas {
        match hold {
            Hold::Nothing => operations.push(Operation::Create {
                path: format!("{}/is_active", path.replica(replica)),
                data: mine.to_string(),
                ephemeral: false,
            }),
            hold => refuse_unless_ours(path, replica, hold)?,
        }
    }
    if !operations.is_empty() {
        let check = Operation::Check {
            path: path.child("replicas"),
            version: Some(version),
        };
        operations.insert(0, check);
    }
    Ok(Next::of(operations))
}

/// Markers of this migration up to this attempt go, and its holds, as long as nothing is deleted: `missing` is a
/// replica's `metadata` that is not there.
fn let_go(
    path: &ZkPath,
    mine: &Marker,
    children: &[String],
    replicas: &[(String, Hold)],
    missing: Option<String>,
) -> Result<Next, CleanError> {
    let markers = Markers::among(path, children, mine)?;
    let mut operations = markers.deletes(path);
    if markers.mine {
        operations.push(Operation::Delete {
            path: path.child(&mine.to_string()),
        });
    }
    for (replica, _) in replicas.iter().filter(|(_, hold)| *hold == Hold::Ours) {
        operations.push(Operation::Delete {
            path: format!("{}/is_active", path.replica(replica)),
        });
    }
    match not_whole(children).or(missing) {
        Some(missing) if !operations.is_empty() => Err(CleanError::HalfDeleted {
            path: path.to_string(),
            missing,
        }),
        Some(_) | None => Ok(Next::of(operations)),
    }
}

impl ZooKeeper {
    /// Takes the path for this attempt. Nothing is changed when a server is active, or when a newer attempt or another
    /// migration holds the path. A path that this attempt holds already stays so.
    ///
    /// # Errors
    /// [`CleanError`] says what stands in the way.
    pub async fn fence(&self, set: &SetRef, migration: &MigrationName, attempt: u64) -> Result<(), CleanError> {
        is_planned_place(set, self.place())?;
        let path = &set.path;
        let mine = Marker::new(migration, attempt);
        for _ in 0..TRIES {
            let Some(children) = self.children(path.as_str()).await? else {
                return Err(CleanError::Absent { path: path.to_string() });
            };
            let nested = self.nested(path, &children).await?;
            let foreign = self.foreign_nodes(path, &children).await?;
            let version = self.stat(&path.child("replicas")).await?.map(|stat| stat.version);
            let seen = Seen {
                children: &children,
                nested: nested.as_deref(),
                foreign: &foreign,
                version,
                replicas: &self.holds(path, &mine).await?,
            };
            if self.is_done(hold(set, &mine, &seen)?).await? {
                return Ok(());
            }
        }
        Err(CleanError::Busy { path: path.to_string() })
    }

    /// Lets the path go: markers of this migration up to this attempt, and the holds of this migration. A path that is
    /// not there, or bears none of them, is let go already.
    ///
    /// # Errors
    /// [`CleanError::HalfDeleted`] when deletion has begun, since servers must not be let in then;
    /// [`CleanError::Superseded`] when a newer attempt holds the path.
    pub async fn release(&self, set: &SetRef, migration: &MigrationName, attempt: u64) -> Result<(), CleanError> {
        is_planned_place(set, self.place())?;
        let path = &set.path;
        let mine = Marker::new(migration, attempt);
        for _ in 0..TRIES {
            let Some(children) = self.children(path.as_str()).await? else {
                return Ok(());
            };
            let replicas = self.holds(path, &mine).await?;
            let missing = self.without_metadata(path, &replicas).await?;
            if self
                .is_done(let_go(path, &mine, &children, &replicas, missing)?)
                .await?
            {
                return Ok(());
            }
        }
        Err(CleanError::Busy { path: path.to_string() })
    }

    /// The first `metadata` of these replicas that is not there.
    async fn without_metadata(&self, path: &ZkPath, replicas: &[(String, Hold)]) -> Result<Option<String>, ZkError> {
        for (replica, _) in replicas {
            let metadata = format!("{}/metadata", path.replica(replica));
            if self.stat(&metadata).await?.is_none() {
                return Ok(Some(metadata));
            }
        }
        Ok(None)
    }

    async fn is_done(&self, next: Next) -> Result<bool, CleanError> {
        match next {
            Next::Done => Ok(true),
            Next::LookAgain => Ok(false),
            Next::Apply(operations) => self.applied(&operations).await,
        }
    }

    /// Applies a multi; false when something changed since it was looked at, or when it is not known whether it was
    /// applied: look again.
    pub(super) async fn applied(&self, operations: &[Operation]) -> Result<bool, CleanError> {
        match self.multi(operations).await {
            Ok(()) => Ok(true),
            Err(MultiError::Refused {
                source: ClientError::NoNode | ClientError::NodeExists | ClientError::BadVersion,
                ..
            }) => Ok(false),
            Err(error) => {
                let error = error.into_zk(operations);
                if may_be_repeated(&error) && self.reconnected(RECONNECT).await {
                    Ok(false)
                } else {
                    Err(error.into())
                }
            }
        }
    }
}

/// Whether the same session may look again and go on.
pub(super) fn may_be_repeated(error: &ZkError) -> bool {
    match error.outcome() {
        Outcome::Unknown => true,
        Outcome::NotApplied => matches!(error, ZkError::Disconnected { .. }),
        Outcome::Terminal => false,
    }
}

#[cfg(test)]
mod tests {
    use rekeeper_shared::domain::place::Place;
    use rekeeper_shared::domain::unsettled::Allowed;

    use super::*;

    const WHOLE: [&str; 4] = ["metadata", "columns", "log", "replicas"];

    fn set() -> SetRef {
        SetRef {
            place: Place {
                ensemble: "default".into(),
                nodes: Vec::new(),
                secure: false,
                chroot: String::new(),
            },
            path: ZkPath::parse("/t").unwrap(),
            replicas: vec!["r1".into(), "r2".into()],
            allowed: Allowed::default(),
            recorded: false,
        }
    }

    fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
        WHOLE.iter().chain(more).copied().collect()
    }

    /// What is to be done, in a few words.
    fn told(next: Result<Next, CleanError>) -> String {
        let word = |operation: &Operation| match operation {
            Operation::Check { path, version } => format!("check {path} {version:?}"),
            Operation::Create { path, .. } => format!("create {path}"),
            Operation::Delete { path } => format!("delete {path}"),
            other => format!("{other:?}"),
        };
        match next {
            Ok(Next::Apply(operations)) => operations.iter().map(word).collect::<Vec<_>>().join(", "),
            Ok(next) => format!("{next:?}"),
            Err(why) => format!("{why:?}").split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    #[test]
    fn a_path_is_held_only_as_a_whole_and_by_nobody_else() {
        let held = |children: &[&str], hold_of_r2: Hold, change: fn(&mut Seen<'_>)| {
            let children: Vec<String> = children.iter().map(|name| (*name).to_owned()).collect();
            let mut seen = Seen {
                children: &children,
                nested: None,
                foreign: &[],
                version: Some(3),
                replicas: &[("r1".into(), Hold::Ours), ("r2".into(), hold_of_r2)],
            };
            change(&mut seen);
            told(hold(&set(), &Marker::parse("rekeeper-m-5").unwrap(), &seen))
        };
        let all = |children: &[&str], hold| held(children, hold, |_| {});
        let (mine, make) = ("rekeeper-m-5", "create /t/replicas/r2/is_active");
        assert_eq!(
            all(&WHOLE, Hold::Nothing),
            format!("check /t/replicas Some(3), create /t/{mine}, {make}")
        );
        assert_eq!(
            all(&with(&["rekeeper-m-4"]), Hold::Ours),
            format!("check /t/replicas Some(3), delete /t/rekeeper-m-4, create /t/{mine}")
        );
        assert_eq!(
            all(&with(&[mine]), Hold::Nothing),
            format!("check /t/replicas Some(3), {make}")
        );
        assert_eq!(all(&with(&[mine]), Hold::Ours), "Done");
        assert_eq!(all(&with(&["rekeeper-m-6"]), Hold::Ours), "Superseded");
        assert_eq!(all(&with(&["rekeeper-other-1"]), Hold::Ours), "Foreign");
        assert_eq!(all(&with(&["dropped"]), Hold::Nothing), "NotTableShaped");
        assert_eq!(all(&WHOLE[1..], Hold::Nothing), "NotTableShaped");
        assert_eq!(all(&WHOLE, Hold::Server), "Active");
        assert_eq!(all(&WHOLE, Hold::Foreign("x".into())), "ForeignHold");
        let nothing = Hold::Nothing;
        assert_eq!(held(&WHOLE, nothing.clone(), |seen| seen.version = None), "LookAgain");
        assert_eq!(
            held(&WHOLE, nothing.clone(), |seen| seen.nested = Some("/t/x")),
            "Nested"
        );
        let foreign = &["/t/lock".to_owned()];
        let children = WHOLE.map(str::to_owned);
        let seen = Seen {
            children: &children,
            nested: None,
            foreign,
            version: Some(3),
            replicas: &[],
        };
        assert_eq!(told(hold(&set(), &Marker::parse(mine).unwrap(), &seen)), "ForeignNodes");
    }

    #[test]
    fn a_path_is_let_go_as_long_as_nothing_of_it_is_deleted() {
        let let_go = |children: &[&str], hold: Hold, missing: Option<&str>| {
            let children: Vec<String> = children.iter().map(|name| (*name).to_owned()).collect();
            let (path, mine) = (ZkPath::parse("/t").unwrap(), Marker::parse("rekeeper-m-5").unwrap());
            let replicas = [("r1".to_owned(), hold)];
            told(let_go(&path, &mine, &children, &replicas, missing.map(str::to_owned)))
        };
        let both = with(&["rekeeper-m-4", "rekeeper-m-5"]);
        assert_eq!(
            let_go(&both, Hold::Ours, None),
            "delete /t/rekeeper-m-4, delete /t/rekeeper-m-5, delete /t/replicas/r1/is_active"
        );
        // Somebody else's holds stay, and so does what nobody holds.
        assert_eq!(let_go(&WHOLE, Hold::Foreign("x".into()), None), "Done");
        assert_eq!(let_go(&WHOLE, Hold::Server, Some("/t/replicas/r1/metadata")), "Done");
        assert_eq!(
            let_go(&both, Hold::Ours, Some("/t/replicas/r1/metadata")),
            "HalfDeleted"
        );
        assert_eq!(let_go(&both[1..], Hold::Ours, None), "HalfDeleted");
        assert_eq!(let_go(&with(&["rekeeper-m-6"]), Hold::Ours, None), "Superseded");
    }
}
