//! The arguments that people give: commands, options, and what can be refused before anybody is asked.

use std::str::FromStr as _;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use rekeeper_shared::domain::ids::{HostName, MigrationName};
use rekeeper_shared::domain::problem::Code;

const COMMON: &str = "Common options";
const EXIT_CODES: &str = "\
Exit codes:
  0  done, paused, or left
  1  the migration ended or stands with problems
  2  wrong usage or configuration, unknown or existing NAME, a pattern that matches nothing
  3  blocked by a check
  4  the coordinator cannot be reached or refused the caller";

/// Moves the replicated tables of a ClickHouse cluster onto new ZooKeeper metadata, without losing rows.
#[derive(Debug, Parser)]
#[command(name = "rekeeper", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Where the coordinator listens
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "REKEEPER_COORDINATOR",
        hide_env_values = true
    )]
    #[arg(default_value = "http://127.0.0.1:7443", help_heading = COMMON)]
    pub(crate) coordinator: String,
    /// With https: certificate of the CA that signed the coordinator's
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "REKEEPER_CA",
        hide_env_values = true
    )]
    #[arg(help_heading = COMMON)]
    pub(crate) ca: Option<String>,
    /// With https: own certificate, which says who orders and whether that is allowed
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "REKEEPER_CERT",
        hide_env_values = true
    )]
    #[arg(help_heading = COMMON)]
    pub(crate) cert: Option<String>,
    /// With https: own key
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "REKEEPER_KEY",
        hide_env_values = true
    )]
    #[arg(help_heading = COMMON)]
    pub(crate) key: Option<String>,
    /// Form of what goes to stdout
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORM",
        env = "REKEEPER_OUTPUT",
        hide_env_values = true
    )]
    #[arg(value_enum, default_value_t = Format::Table, help_heading = COMMON)]
    pub(crate) output: Format,
}

/// Form of what goes to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the hosts: who is connected, versions, what each is doing
    Hosts {
        /// Only who was refused in the TLS handshake within the last hour, agents and people
        #[arg(long)]
        refused: bool,
    },
    /// Checks everything on every host and saves a plan; changes nothing
    ///
    /// A pattern P is `db`, `db.table` or has the wildcards `*` and `?`, which never cross the dot; backticks quote.
    /// Repeated options unite, --exclude wins. With a blocker nothing is saved and the exit code is 3.
    Plan(PlanArgs),
    /// Starts a migration, or goes on with it, and follows it to its end
    ///
    /// On a terminal it asks once before the first node is deleted. Interrupting it ends the following, not the
    /// migration; on a running migration it follows that one.
    Start(StartArgs),
    /// Shows one migration, or one line for each
    Status {
        /// The migration; all of them if left out
        #[arg(value_parser = MigrationName::from_str)]
        name: Option<MigrationName>,
        /// Shows it again and again until nothing runs any more
        #[arg(long)]
        watch: bool,
    },
    /// Sends no new command; what is under way ends
    Pause(NameArgs),
    /// Goes on with a paused migration
    Resume(ResumeArgs),
    /// Tries again what has a problem
    Retry {
        #[command(flatten)]
        name: NameArgs,
        /// Only this table
        #[arg(long, value_name = "DB.TABLE", value_parser = NonEmptyStringValueParser::new())]
        table: Option<String>,
        /// Only on this host
        #[arg(long, value_parser = HostName::from_str)]
        host: Option<HostName>,
    },
    /// Leaves a table out from here on and puts it back into service; or goes on without a host
    ///
    /// A table goes with its whole replica set, and only before the first of its nodes is deleted. A host that never comes
    /// back is left out for good: what is cleaned goes on with the other replicas, what is not goes back into service. With
    /// both, one replica that somebody has dropped or changed since its nodes were deleted: the others go on.
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
    Skip {
        #[command(flatten)]
        name: NameArgs,
        /// The table
        #[arg(long, group = "what", value_name = "DB.TABLE", value_parser = NonEmptyStringValueParser::new())]
        table: Option<String>,
        /// The host
        #[arg(long, group = "what", value_parser = HostName::from_str)]
        host: Option<HostName>,
    },
    /// Puts back into service what is not cleaned, carries forward what is
    ///
    /// The state is then ABORTED: the name is used up.
    Abort(NameArgs),
    /// Lists every problem with its remedy
    Problems(NameArgs),
    /// Accounts for every part of every table
    ///
    /// What became of it, and what is left in detached/ and why. The table names only what is not simply active;
    /// -o json and -o yaml have every part.
    Report(NameArgs),
    /// Lists what was ordered and done
    Events {
        #[command(flatten)]
        name: NameArgs,
        /// Waits for more until the migration ends
        #[arg(long)]
        follow: bool,
    },
    /// Explains a code of a check or a problem, or lists all codes
    Explain {
        /// The code, as it stands before a message
        code: Option<String>,
    },
    /// Prints the status file of ch-tools, for each host
    ///
    /// YAML whatever --output says: a list of {db, table, status, zk_path} with status 1 INIT, 2 DETACHED, 3 ZK_CLEANED,
    /// 4 RESTORED; one document for each host, with the host's name in a comment.
    Export(NameArgs),
    /// Prints the completions of a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Writes man pages, one for each command
    Man {
        /// A folder that exists
        #[arg(value_name = "FOLDER")]
        folder: std::path::PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The migration
    #[arg(value_parser = MigrationName::from_str)]
    pub(crate) name: MigrationName,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Name of the plan and of its migration
    #[arg(value_parser = MigrationName::from_str)]
    pub(crate) name: MigrationName,
    /// Databases to take; all if left out
    #[arg(long, value_name = "P", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) database: Vec<String>,
    /// Tables to take; all if left out
    #[arg(long, value_name = "P", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) table: Vec<String>,
    /// Databases or tables to leave out
    #[arg(long, value_name = "P", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) exclude: Vec<String>,
    /// Only tables whose storage policy contains this disk
    #[arg(long, value_name = "D", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) disk: Option<String>,
    /// Hosts to take; all that are connected if left out
    #[arg(long, value_name = "H", value_parser = HostName::from_str)]
    pub(crate) host: Vec<HostName>,
    /// Whether each server is restarted once its tables are cleaned
    #[arg(long, value_enum, default_value_t = Restart::Once)]
    pub(crate) restart: Restart,
    /// Makes a warning of a blocker, for all tables or for one
    #[arg(long, value_name = "CODE[:DB.TABLE]", value_parser = allowed)]
    pub(crate) allow: Vec<String>,
}

/// Whether the servers are restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Restart {
    Once,
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The migration
    #[arg(value_parser = MigrationName::from_str)]
    pub(crate) name: MigrationName,
    /// Pauses there; the next start, or resume, goes on
    #[arg(long, value_enum, value_name = "BARRIER")]
    pub(crate) until: Option<Barrier>,
    /// Prints for each host every statement and node in order, and changes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Does not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Where a migration may be told to pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Barrier {
    /// All tables are detached and all sets settled, nothing is deleted
    Detached,
    /// All nodes are deleted
    ZkCleaned,
    /// All servers are restarted
    Restarted,
    /// The end
    Restored,
}

impl Barrier {
    /// As it crosses the wire, and as it stands in a status.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Detached => "detached",
            Self::ZkCleaned => "zk-cleaned",
            Self::Restarted => "restarted",
            Self::Restored => "restored",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// The migration
    #[arg(value_parser = MigrationName::from_str)]
    pub(crate) name: MigrationName,
    /// Does not ask; asked is only on a terminal, at the barrier before the first node is deleted
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Refuses a code that is none or may not be allowed; the table behind it is the coordinator's to judge.
fn allowed(text: &str) -> Result<String, String> {
    let code = text.split_once(':').map_or(text, |(code, _)| code);
    let code = Code::from_str(code).map_err(|error| error.to_string())?;
    if !code.may_be_allowed() {
        return Err(format!("{code} cannot be allowed: {}", code.fix()));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_codes_that_may_be_allowed_are() {
        assert_eq!(allowed("LOST_PARTS:d.t"), Ok("LOST_PARTS:d.t".to_owned()));
        assert!(allowed("PATCH_PARTS").is_err());
        assert!(allowed("NO_SUCH").is_err());
    }
}
