//! What each command does.

use std::str::FromStr as _;

use rekeeper_proto::v1;
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::people::view::{MigrationLine, State, StatusView};

use crate::cli::{Cli, Command, Common, Format, PlanArgs, Restart, ResumeArgs, StartArgs};
use crate::client::Client;
use crate::confirm;
use crate::dry_run::dry_run;
use crate::events;
use crate::failure::{Exit, Failure};
use crate::follow::{Followed, follow};
use crate::generate;
use crate::output::causes::Limit;
use crate::output::text::Paint;
use crate::output::{self, notice, print, render};
use crate::progress::Progress;
use crate::signals::Signals;
use crate::watch;

/// Runs a command to its exit code.
pub(crate) async fn run(cli: Cli) -> Result<Exit, Failure> {
    let format = cli.common.output;
    if let Command::Explain { code } = &cli.command {
        return explain(code.as_deref(), format);
    }
    match &cli.command {
        Command::Completions { shell } => return generate::completions(*shell).map(|()| Exit::Done),
        Command::Man { folder } => return generate::man(folder).map(|()| Exit::Done),
        _ => {}
    }
    let mut client = connect(&cli.common)?;
    let client = &mut client;
    match cli.command {
        Command::Hosts { refused: false } => hosts(client, format).await,
        Command::Hosts { refused: true } => {
            let refusals = client.refusals().await?;
            print(&render(format, &refusals, |refusals| {
                output::hosts::refusals(refusals)
            })?)?;
            if refusals.is_empty() {
                notice("nobody was refused in the TLS handshake within the last hour");
            }
            Ok(Exit::Done)
        }
        Command::Plan(args) => plan(client, args, format).await,
        Command::Start(args) if args.dry_run => dry_run(client, &args, format).await.map(|()| Exit::Done),
        Command::Start(args) => start(client, &args, format).await,
        Command::Status {
            name: None,
            watch: true,
        } => {
            if watch::all(client, format).await?.is_none() {
                notice("left");
            }
            Ok(Exit::Done)
        }
        Command::Status {
            name: None,
            watch: false,
        } => {
            let lines = client.migrations().await?;
            print_lines(&lines, format)
        }
        Command::Status {
            name: Some(name),
            watch: false,
        } => {
            let view = client.status(&name).await?;
            print(&render(format, &view, output::status::table)?)?;
            Ok(standing(&view))
        }
        Command::Status {
            name: Some(name),
            watch: true,
        } => match watch::one(client, &name, format).await? {
            Some(view) => Ok(standing(&view)),
            None => Ok(left(&name)),
        },
        Command::Pause(args) => {
            notice(&client.pause(&args.name).await?);
            Ok(Exit::Done)
        }
        Command::Resume(args) => resume(client, &args).await,
        Command::Retry { name, table, host } => {
            let request = v1::RetryRequest {
                name: name.name.to_string(),
                table: table.unwrap_or_default(),
                host: host.map(String::from).unwrap_or_default(),
            };
            notice(&client.retry(request).await?);
            how_to_follow(&name.name);
            Ok(Exit::Done)
        }
        Command::Skip { name, table, host } => {
            let request = v1::SkipRequest {
                name: name.name.to_string(),
                table: table.unwrap_or_default(),
                host: host.map(String::from).unwrap_or_default(),
            };
            notice(&client.skip(request).await?);
            how_to_follow(&name.name);
            Ok(Exit::Done)
        }
        Command::Abort(args) => {
            notice(&client.abort(&args.name).await?);
            how_to_follow(&args.name);
            Ok(Exit::Done)
        }
        Command::Problems(args) => {
            let view = client.status(&args.name).await?;
            let rows = output::problems::rows(&view);
            print(&render(format, &rows, |rows| {
                output::causes::table(&output::problems::items(rows), Limit::NONE, "", Paint::of_stdout())
            })?)?;
            if rows.is_empty() {
                notice(&format!("migration {} has no problems", args.name));
            }
            Ok(Exit::Done)
        }
        Command::Report(args) => {
            let report = client.report(&args.name).await?;
            print(&render(format, &report, output::report::table)?)?;
            Ok(Exit::Done)
        }
        Command::Events { name, follow } => {
            events::events(client, &name.name, follow, format).await?;
            Ok(Exit::Done)
        }
        Command::Export(args) => {
            print(&output::export::file(&client.status(&args.name).await?)?)?;
            Ok(Exit::Done)
        }
        Command::Explain { code } => explain(code.as_deref(), format),
        // Done above, without a coordinator.
        Command::Completions { .. } | Command::Man { .. } => Ok(Exit::Done),
    }
}

fn connect(common: &Common) -> Result<Client, Failure> {
    Client::new(common)
}

/// Whether a migration stands with problems.
fn standing(view: &StatusView) -> Exit {
    if view.state == State::Failed || view.counts.failed > 0 {
        Exit::Problems
    } else {
        Exit::Done
    }
}

fn left(name: &MigrationName) -> Exit {
    notice(&format!(
        "left; migration {name} is not touched by that, and goes on if it was running"
    ));
    how_to_follow(name);
    Exit::Done
}

fn how_to_follow(name: &MigrationName) {
    notice(&format!(
        "follow it with: rekeeper start {name}, or look on with: rekeeper status {name} --watch"
    ));
}

async fn hosts(client: &mut Client, format: Format) -> Result<Exit, Failure> {
    let hosts = client.hosts().await?;
    let refusals = if format == Format::Table {
        client.refusals().await?
    } else {
        Vec::new()
    };
    print(&render(format, &hosts, |hosts| output::hosts::table(hosts, &refusals))?)?;
    if hosts.is_empty() {
        notice("no agent has connected yet");
    }
    Ok(Exit::Done)
}

async fn plan(client: &mut Client, args: PlanArgs, format: Format) -> Result<Exit, Failure> {
    let request = v1::PlanRequest {
        name: args.name.to_string(),
        databases: args.database,
        tables: args.table,
        exclude: args.exclude,
        disk: args.disk.unwrap_or_default(),
        hosts: args.host.into_iter().map(String::from).collect(),
        restart_never: args.restart == Restart::Never,
        allow: args.allow,
    };
    let view = client.plan(request).await?;
    print(&render(format, &view, output::plan::table)?)?;
    if view.blockers.is_empty() {
        notice(&format!(
            "plan {0} is saved; nothing was changed; start it with: rekeeper start {0}",
            view.name
        ));
        return Ok(Exit::Done);
    }
    let blockers = output::text::count(view.blockers.len(), "blocker");
    notice(&format!(
        "blocked: {blockers}; nothing was saved and nothing was changed"
    ));
    Ok(Exit::Blocked)
}

async fn start(client: &mut Client, args: &StartArgs, format: Format) -> Result<Exit, Failure> {
    let name = &args.name;
    let mut signals = Signals::new()?;
    if !args.yes && confirm::can_ask() {
        let view = tokio::select! {
            () = signals.received() => return Ok(nothing_started()),
            view = client.status(name) => view?,
        };
        if confirm::start_needs_yes(&view, args.until) && !confirm::confirmed(&view, args.until, &mut signals).await {
            return Ok(nothing_started());
        }
    }
    let accepted = tokio::select! {
        () = signals.received() => {
            notice("left while the coordinator was being asked to start: it may have done so");
            return Ok(left(name));
        }
        accepted = client.start(name, args.until.map_or("", |until| until.as_str())) => accepted?,
    };
    notice(&accepted);
    let mut progress = Progress::new();
    let followed = follow(client, name, &mut progress, &mut signals).await;
    progress.end();
    match followed {
        Ok(Followed::Stopped(view)) => {
            print(&render(format, view.as_ref(), output::status::summary)?)?;
            conclude(&view);
            Ok(standing(&view))
        }
        Ok(Followed::Left) => Ok(left(name)),
        Err(failure) => {
            if failure.is_lost() {
                notice(&format!(
                    "the coordinator did not come back; migration {name} goes on when it does"
                ));
            }
            Err(failure)
        }
    }
}

fn nothing_started() -> Exit {
    notice("nothing was started");
    Exit::Done
}

/// What people should know at the end: every problem, and what can be done now.
fn conclude(view: &StatusView) {
    let items = output::problems::items(&output::problems::rows(view));
    notice(output::causes::table(&items, Limit::FEW, "", Paint::Plain).trim_end());
    let name = &view.name;
    match view.state {
        State::Failed => {
            notice(&format!(
                "when the causes are mended: rekeeper retry {name}; or leave a table out: rekeeper skip {name} --table \
                 DB.TABLE; or give up: rekeeper abort {name}"
            ));
        }
        State::Paused => notice(&format!("paused; go on with: rekeeper start {name}")),
        State::Planned | State::Running | State::Completed | State::Aborted => {}
    }
}

async fn resume(client: &mut Client, args: &ResumeArgs) -> Result<Exit, Failure> {
    let name = &args.name;
    if !args.yes && confirm::can_ask() {
        let mut signals = Signals::new()?;
        let view = client.status(name).await?;
        if confirm::resume_needs_yes(&view) && !confirm::confirmed(&view, None, &mut signals).await {
            return Ok(nothing_started());
        }
    }
    notice(&client.resume(name).await?);
    how_to_follow(name);
    Ok(Exit::Done)
}

fn print_lines(lines: &[MigrationLine], format: Format) -> Result<Exit, Failure> {
    print(&render(format, &lines, |lines| output::status::list(lines))?)?;
    if lines.is_empty() {
        notice("there is no migration yet; make one with: rekeeper plan NAME");
    }
    Ok(Exit::Done)
}

fn explain(code: Option<&str>, format: Format) -> Result<Exit, Failure> {
    use output::explain::{explain, list, one};
    let text = match code {
        Some(code) => {
            let code = Code::from_str(code).map_err(|error| Failure::Usage(error.to_string()))?;
            render(format, &explain(code), one)?
        }
        None => {
            let all: Vec<_> = Code::ALL.iter().copied().map(explain).collect();
            render(format, &all, |all| list(all))?
        }
    };
    print(&text)?;
    Ok(Exit::Done)
}
