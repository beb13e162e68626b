//! What each command does.

use std::str::FromStr as _;

use rekeeper_proto::v1;
use rekeeper_shared::domain::ids::MigrationName;
use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::people::view::{State, StatusView};

use crate::cli::{Cli, Command, Format, PlanArgs, Restart, ResumeArgs, StartArgs};
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
    let client = || Client::new(&cli.common);
    match cli.command {
        Command::Hosts { refused: false } => hosts(&mut client()?, format).await,
        Command::Hosts { refused: true } => refused(&mut client()?, format).await,
        Command::Plan(args) => plan(&mut client()?, args, format).await,
        Command::Start(args) if args.dry_run => dry_run(&mut client()?, &args, format).await.map(|()| Exit::Done),
        Command::Start(args) => start(&mut client()?, &args, format).await,
        Command::Status { name, watch } => match (name, watch) {
            (None, false) => list(&mut client()?, format).await,
            (None, true) => watch_all(&mut client()?, format).await,
            (Some(name), false) => status(&mut client()?, &name, format).await,
            (Some(name), true) => watch_one(&mut client()?, &name, format).await,
        },
        Command::Pause(args) => {
            notice(&client()?.pause(&args.name).await?);
            Ok(Exit::Done)
        }
        Command::Resume(args) => resume(&mut client()?, &args).await,
        Command::Retry { name, table, host } => {
            let request = v1::RetryRequest {
                name: name.name.to_string(),
                table: table.unwrap_or_default(),
                host: host.map(String::from).unwrap_or_default(),
            };
            Ok(accepted(&client()?.retry(request).await?, &name.name))
        }
        Command::Skip { name, table, host } => {
            let request = v1::SkipRequest {
                name: name.name.to_string(),
                table: table.unwrap_or_default(),
                host: host.map(String::from).unwrap_or_default(),
            };
            Ok(accepted(&client()?.skip(request).await?, &name.name))
        }
        Command::Abort(args) => Ok(accepted(&client()?.abort(&args.name).await?, &args.name)),
        Command::Problems(args) => problems(&mut client()?, &args.name, format).await,
        Command::Report(args) => report(&mut client()?, &args.name, format).await,
        Command::Events { name, follow } => {
            events::events(&mut client()?, &name.name, follow, format).await?;
            Ok(Exit::Done)
        }
        Command::Export(args) => {
            print(&output::export::file(&client()?.status(&args.name).await?)?)?;
            Ok(Exit::Done)
        }
        Command::Explain { code } => explain(code.as_deref(), format),
        Command::Completions { shell } => generate::completions(shell).map(|()| Exit::Done),
        Command::Man { folder } => generate::man(&folder).map(|()| Exit::Done),
    }
}

/// Tells what the coordinator says to an order, and how to see what comes of it.
fn accepted(answer: &str, name: &MigrationName) -> Exit {
    notice(answer);
    how_to_follow(name);
    Exit::Done
}

async fn list(client: &mut Client, format: Format) -> Result<Exit, Failure> {
    let lines = client.migrations().await?;
    print(&render(format, &lines, |lines| output::status::list(lines))?)?;
    if lines.is_empty() {
        notice("there is no migration yet; make one with: rekeeper plan NAME");
    }
    Ok(Exit::Done)
}

async fn watch_all(client: &mut Client, format: Format) -> Result<Exit, Failure> {
    if watch::all(client, format).await?.is_none() {
        notice("left");
    }
    Ok(Exit::Done)
}

async fn status(client: &mut Client, name: &MigrationName, format: Format) -> Result<Exit, Failure> {
    let view = client.status(name).await?;
    print(&render(format, &view, output::status::table)?)?;
    Ok(standing(&view))
}

async fn watch_one(client: &mut Client, name: &MigrationName, format: Format) -> Result<Exit, Failure> {
    let view = watch::one(client, name, format).await?;
    Ok(view.map_or_else(|| left(name), |view| standing(&view)))
}

async fn problems(client: &mut Client, name: &MigrationName, format: Format) -> Result<Exit, Failure> {
    let view = client.status(name).await?;
    let rows = output::problems::rows(&view);
    print(&render(format, &rows, |rows| {
        output::causes::table(&output::problems::items(rows), Limit::NONE, "", Paint::of_stdout())
    })?)?;
    if rows.is_empty() {
        notice(&format!("migration {name} has no problems"));
    }
    Ok(Exit::Done)
}

async fn report(client: &mut Client, name: &MigrationName, format: Format) -> Result<Exit, Failure> {
    let report = client.report(name).await?;
    print(&render(format, &report, output::report::table)?)?;
    Ok(Exit::Done)
}

async fn refused(client: &mut Client, format: Format) -> Result<Exit, Failure> {
    let refusals = client.refusals().await?;
    print(&render(format, &refusals, |refusals| {
        output::hosts::refusals(refusals)
    })?)?;
    if refusals.is_empty() {
        notice("nobody was refused in the TLS handshake within the last hour");
    }
    Ok(Exit::Done)
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
    Ok(accepted(&client.resume(name).await?, name))
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
