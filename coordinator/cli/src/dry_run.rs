//! `start --dry-run`: each step with its statements and nodes, host by host, as the coordinator tells them.

use rekeeper_shared::people::rehearsal::{DryRunView, RehearsedHost, RehearsedStep};

use crate::cli::{Format, StartArgs};
use crate::client::{Client, decode};
use crate::failure::Failure;
use crate::output::{self, notice, print, render};

/// Prints what `start` would do from here on. The table form is printed as it comes, since it may be long.
pub(crate) async fn dry_run(client: &mut Client, args: &StartArgs, format: Format) -> Result<(), Failure> {
    let until = args.until.map_or("", |until| until.as_str());
    let mut stream = client.dry_run(&args.name, until).await?;
    let mut view = DryRunView {
        name: args.name.to_string(),
        hosts: Vec::new(),
    };
    let mut steps = 0;
    while let Some(message) = stream.message().await.map_err(|status| client.failed(status))? {
        let step: RehearsedStep = decode("a step of a dry run", &message)?;
        steps += 1;
        let is_new = view.hosts.last().is_none_or(|last| last.host != step.host);
        if is_new {
            view.hosts.push(RehearsedHost {
                host: step.host.clone(),
                steps: Vec::new(),
            });
        }
        match (format, view.hosts.last_mut()) {
            (Format::Table, _) => {
                if is_new {
                    print(&output::dry_run::host(&step, steps == 1))?;
                }
                print(&output::dry_run::step(&step))?;
            }
            (Format::Json | Format::Yaml, Some(last)) => last.steps.push(step),
            (Format::Json | Format::Yaml, None) => {}
        }
    }
    if format != Format::Table {
        print(&render(format, &view, |_| String::new())?)?;
    }
    notice(&match steps {
        0 => format!(
            "nothing would be ordered of migration {0} now; see: rekeeper status {0}",
            args.name
        ),
        _ => format!(
            "nothing was changed; this is the way if nothing fails, with the nodes as they are now; start it with: \
             rekeeper start {}",
            args.name
        ),
    });
    Ok(())
}
