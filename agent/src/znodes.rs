//! `rekeeper-agent znodes`: lists an export of a table's nodes, checks it, and puts its nodes somewhere else in ZooKeeper,
//! so that people can look at them. It works without the agent, and beside it.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rekeeper_shared::domain::place::{Place, ZkPath};
use rekeeper_shared::tools::config::load;
use serde::Serialize;

use crate::config::{Config, RawConfig};
use crate::export::{ExportError, Header, Listed, Reader, Sum};
use crate::known::Known;
use crate::words::in_full;
use crate::zookeeper::{Ensembles, PlantError, ZNode, ZooKeeper};

/// Nodes that are put back at a time.
const PAGE: usize = 500;
/// Paths that are named where there may be many.
const NAMED: usize = 10;

/// What to do with an export.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The export, a file that ends with .znodes
    file: PathBuf,

    /// Only check that it is whole, and say of what it is
    #[arg(long, conflicts_with = "put_back_at")]
    verify: bool,

    /// Create its nodes at another path, where nothing is, to look at them there
    ///
    /// The path is below the root that ClickHouse is configured for now. Never the path that the nodes are from, nor
    /// one of another table of this host. All nodes are persistent there, and have the permissions that the agent gives
    /// to nodes of its own.
    #[arg(long, value_name = "PATH", requires = "config")]
    put_back_at: Option<String>,

    /// agent.yaml, which leads to ZooKeeper; only with --put-back-at
    #[arg(long, value_name = "FILE", requires = "put_back_at")]
    config: Option<PathBuf>,

    /// How to print: a table, or JSON (a line for each node; one document with --verify and --put-back-at)
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Why it did not do it.
#[derive(Debug)]
pub enum Refused {
    /// What was asked for cannot be: nothing was done.
    Usage(String),
    /// It failed.
    Failed(String),
    /// Nobody reads standard output any more.
    Unread,
}

impl From<ExportError> for Refused {
    fn from(error: ExportError) -> Self {
        Self::Failed(in_full(&error))
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Failed(format!("cannot print: {error}")),
        }
    }
}

/// Does what the arguments say; data goes to standard output, everything else to standard error.
///
/// # Errors
/// [`Refused`] says why not.
pub async fn run(arguments: &Arguments) -> Result<(), Refused> {
    let put_back = arguments.put_back_at.as_deref().zip(arguments.config.as_ref());
    match put_back {
        Some((path, config)) => {
            let path = ZkPath::parse(path).map_err(|e| Refused::Usage(e.to_string()))?;
            let config = load::<RawConfig>(config).map_err(|e| Refused::Usage(e.to_string()))?;
            put_back_at(arguments, &path, &config).await
        }
        None if arguments.verify => verify(arguments),
        None => list(arguments),
    }
}

fn verify(arguments: &Arguments) -> Result<(), Refused> {
    let (header, sum) = Reader::open(&arguments.file)?.verify()?;
    let mut out = io::stdout().lock();
    match arguments.output {
        Output::Table => writeln!(out, "{}\n{}", of_what(&header), summed(&sum))?,
        Output::Json => print_json(&mut out, &serde_json::json!({"header": header, "sum": sum}))?,
    }
    Ok(())
}

/// What is damaged is listed up to there: better than nothing, and said.
fn list(arguments: &Arguments) -> Result<(), Refused> {
    let mut reader = Reader::open(&arguments.file)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    writeln!(io::stderr(), "{}", of_what(reader.header()))?;
    if arguments.output == Output::Table {
        writeln!(out, "{:>9}  {:>7}  PATH", "SIZE", "VERSION")?;
    }
    loop {
        match reader.node() {
            Ok(Some(node)) if arguments.output == Output::Json => print_json(&mut out, &Listed::from(node))?,
            Ok(Some(node)) => writeln!(
                out,
                "{:>9}  {:>7}  {}",
                node.data.len(),
                node.version,
                printable(&node.path)
            )?,
            Ok(None) => break,
            Err(error) => {
                out.flush()?;
                return Err(error.into());
            }
        }
    }
    out.flush()?;
    if let Some(sum) = reader.sum() {
        writeln!(io::stderr(), "{}", summed(sum))?;
    }
    Ok(())
}

async fn put_back_at(arguments: &Arguments, path: &ZkPath, config: &Config) -> Result<(), Refused> {
    // All of it, before anything is changed.
    let (header, sum) = Reader::open(&arguments.file)?.verify()?;
    let ensembles = Ensembles::read(&config.clickhouse_config).map_err(|e| Refused::Usage(in_full(&e)))?;
    let place = ensembles.place(&header.place.ensemble).ok_or_else(|| {
        Refused::Usage(format!(
            "the znodes are from the ensemble {}, which {} does not name",
            header.place.ensemble,
            config.clickhouse_config.display()
        ))
    })?;
    refuse_own(&header, &place, path)?;
    let known = Known::open(&config.state_dir).map_err(|e| Refused::Failed(format!("known tables: {e}")))?;
    if let Some(table) = known.near(path) {
        return Err(Refused::Usage(format!(
            "{path} is the path of the table {table} of this host, or lies above or below it: choose another"
        )));
    }
    let zookeeper = ZooKeeper::connect(&place, &ensembles.access(&place)).await;
    let zookeeper = zookeeper.map_err(|e| Refused::Failed(in_full(&e)))?;
    let ephemeral = plant(arguments, &header, path, &zookeeper).await?;
    let mut out = io::stdout().lock();
    let whole = format!("{}{path}", place.chroot);
    if arguments.output == Output::Json {
        let document = serde_json::json!({
            "path": path, "place": place, "nodes": sum.nodes, "were_ephemeral": ephemeral,
        });
        return print_json(&mut out, &document);
    }
    writeln!(
        out,
        "{} znodes of {} are at {whole} ({})",
        sum.nodes,
        header.path,
        place.nodes.join(",")
    )?;
    if !ephemeral.is_empty() {
        let named: Vec<String> = ephemeral.iter().take(NAMED).map(|path| printable(path)).collect();
        let more = ephemeral.len().saturating_sub(NAMED);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let count = ephemeral.len();
        writeln!(
            out,
            "{count} of them were ephemeral and are persistent now: {}{more}",
            named.join(", ")
        )?;
    }
    writeln!(
        out,
        "they have the permissions of nodes that this agent makes; their own are in the list (-o json)"
    )?;
    writeln!(
        out,
        "nothing needs them there: zkCli.sh deleteall {whole}, when you have seen enough"
    )?;
    Ok(())
}

/// Neither where they are from nor where their table may be now, nor anywhere above or below.
fn refuse_own(header: &Header, place: &Place, path: &ZkPath) -> Result<(), Refused> {
    let below = |chroot: &str, path: &ZkPath| ZkPath::parse(&format!("{chroot}{path}")).map_err(|e| e.to_string());
    let pairs = [
        (below(&header.place.chroot, &header.path), below(&place.chroot, path)),
        (Ok(header.path.clone()), Ok(path.clone())),
    ];
    for (from, to) in pairs {
        let (from, to) = (from.map_err(Refused::Usage)?, to.map_err(Refused::Usage)?);
        if from == to || from.is_parent_of(&to) || to.is_parent_of(&from) {
            return Err(Refused::Usage(format!(
                "{path} is the path that the znodes are from ({from}), or lies above or below it: choose another"
            )));
        }
    }
    Ok(())
}

/// Creates the nodes, and names those that were ephemeral.
async fn plant(
    arguments: &Arguments,
    header: &Header,
    path: &ZkPath,
    zookeeper: &ZooKeeper,
) -> Result<Vec<String>, Refused> {
    let mut reader = Reader::open(&arguments.file)?;
    let mut ephemeral = Vec::new();
    let mut moved = |node: ZNode| {
        let below = node.path.strip_prefix(header.path.as_str()).unwrap_or_default();
        let path = format!("{path}{below}");
        if node.ephemeral_owner != 0 {
            ephemeral.push(path.clone());
        }
        (path, node.data)
    };
    let Some(top) = reader.node()?.map(&mut moved) else {
        return Ok(Vec::new());
    };
    match zookeeper.plant(path, &top.1).await {
        Ok(()) => {}
        Err(error @ PlantError::Exists(_)) => return Err(Refused::Usage(error.to_string())),
        Err(error) => return Err(Refused::Failed(in_full(&error))),
    }
    loop {
        let mut page = Vec::with_capacity(PAGE);
        while page.len() < PAGE
            && let Some(node) = reader.node()?
        {
            page.push(moved(node));
        }
        if page.is_empty() {
            return Ok(ephemeral);
        }
        zookeeper.grow(&page).await.map_err(|error| {
            Refused::Failed(format!(
                "{}; {path} is there with a part of the znodes: delete it before you try again",
                in_full(&error)
            ))
        })?;
    }
}

fn of_what(header: &Header) -> String {
    format!(
        "znodes of {}{} (ensemble {} at {}), exported at {} on {} for migration {} (attempt {})",
        header.place.chroot,
        header.path,
        header.place.ensemble,
        header.place.nodes.join(","),
        header.time,
        header.host,
        header.migration,
        header.attempt
    )
}

fn summed(sum: &Sum) -> String {
    format!(
        "{} znodes with {} bytes; whole, sha256 {}",
        sum.nodes, sum.data_bytes, sum.sha256
    )
}

fn print_json(out: &mut impl Write, document: &impl Serialize) -> Result<(), Refused> {
    serde_json::to_writer(&mut *out, document).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// A name in ZooKeeper may hold anything, and a terminal obeys some of it.
fn printable(path: &str) -> String {
    let escaped = path.chars().map(|c| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    });
    escaped.collect()
}
