//! The steps that an agent takes with its ClickHouse server and with ZooKeeper: one idempotent attempt each.
//!
//! In the order of a migration:
//!
//! | step | in | what it does |
//! | --- | --- | --- |
//! | Sync | `sync` | the replica fetches what it has to |
//! | Freeze | `set` | nobody adds to the log of a set that does not come to rest |
//! | Detach | `detach` | the table is out of service, over restarts too |
//! | Reattach | `reattach` | the way back, while its metadata is there |
//! | Settle | `set` | are all replicas equal? changes nothing |
//! | Record | `set` | the set is held, what it has is written down and exported |
//! | Attest | `attest` | each replica's own agent compares the record with what it reads itself |
//! | Clean | `set` | the nodes are deleted |
//! | Release | `set` | the way back, as long as none was deleted |
//! | Restart | `restart` | the server is started anew, with hooks before it |
//! | Witness | `set` | a node at the place where the servers are configured for now |
//! | Attach | `attach` | the table is there, read-only, and its manifest is written |
//! | Restore | `restore` | its metadata is made anew, and every part accounted for |
//! | Clear | `clear` | nobody reads by the former names of its parts |
//! | Finish | `finish` | merges run, and it takes ALTERs |
//!
//! Every step begins by looking at what is really there, so that it may be commanded any number of times. Which one is
//! commanded when is the coordinator's business. Beside them: `rehearse` tells in advance what a step would change,
//! `cause` afterwards why one failed, and `shared` is what several need.

mod attach;
mod attest;
mod cause;
mod clear;
mod detach;
mod finish;
mod reattach;
mod rehearse;
mod restart;
mod restore;
pub mod set;
mod shared;
mod sync;

pub use attach::attach;
pub use attest::attest;
pub use cause::by_cause;
pub use clear::clear;
pub(crate) use clear::may_read;
pub use detach::detach;
pub use finish::finish;
pub use reattach::reattach;
pub use rehearse::{Configured, rehearse};
pub use restart::{Hooks, RestartCommand, restart};
pub use restore::{Restore, restore};
use shared::context::failed;
pub(crate) use shared::context::state_failed;
pub use shared::context::{Context, Finished, StepResult};
pub use shared::names::collisions;
pub use shared::place::ServerPlaces;
pub use sync::sync;
