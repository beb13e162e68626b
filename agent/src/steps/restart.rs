//! Restart: hooks, the restart command, and proof that the server that answers is a new one.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use rekeeper_shared::domain::problem::Code;
use rekeeper_shared::domain::step::{Done, Failure};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use super::{Context, StepResult, state_failed};

/// The command that restarts the server: a program and its arguments, no shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartCommand {
    /// Program and arguments.
    pub command: Vec<String>,
    /// For the command and until a new server answers.
    pub timeout: Duration,
}

/// What is run before the restart, in sequence; may be run more than once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hooks {
    /// Programs and their arguments, no shell.
    pub before_restart: Vec<Vec<String>>,
    /// For each of them.
    pub timeout: Duration,
}

/// How often a server that starts is asked.
const POLL: Duration = Duration::from_millis(300);
/// How long one question may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// `uptime()` counts whole seconds: that much later a start can surely be told from one before.
const RESOLUTION: Duration = Duration::from_millis(1_200);
/// How much of a command's output people see.
const TAIL: u64 = 2_000;

/// Restarts the server once per attempt, and waits for it. A server that was started after the hooks of this attempt
/// had run is not restarted again.
///
/// # Errors
/// HOOK_FAILED, RESTART_FAILED.
pub async fn restart(context: &Context, command: &RestartCommand, hooks: &Hooks) -> StepResult {
    let at = until_restarted(context, command, hooks).await?;
    until_keeper_serves(context, command.timeout).await?;
    let at = humantime::format_rfc3339_seconds(at).to_string();
    Ok(Done::Restarted { at }.into())
}

/// Until the node of ClickHouse Keeper that the server runs, if it runs one, gives sessions: it has found the others, and
/// one of those may be restarted.
async fn until_keeper_serves(context: &Context, limit: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + limit;
    loop {
        let Err(why) = context.zookeeper.own_keeper_serves().await else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            let limit = humantime::format_duration(limit);
            let text =
                format!("the new server answers, but its ClickHouse Keeper gave no session within {limit}: {why}");
            return Err(Failure::lasting(Code::RestartFailed, text));
        }
        context.doing("waits for the ClickHouse Keeper of the new server");
        tokio::time::sleep(POLL).await;
    }
}

/// When the server was started, once it is surely a new one.
async fn until_restarted(context: &Context, command: &RestartCommand, hooks: &Hooks) -> Result<SystemTime, Failure> {
    let state = &context.state;
    let note = state
        .restart_note(&context.migration, context.attempt)
        .map_err(state_failed(Code::RestartFailed))?;
    let ready_at = if let Some(ready_at) = note.ready_at {
        ready_at
    } else {
        for (number, hook) in (1..).zip(&hooks.before_restart) {
            run_hook(context, hook, number, hooks.timeout).await?;
        }
        let note = state
            .note_restart_ready(&context.migration, context.attempt)
            .map_err(state_failed(Code::RestartFailed))?;
        note.ready_at.unwrap_or(note.ordered_at)
    };
    let mut proof = Proof { ready_at, before: None };
    if let Some(at) = proof.started_since(context).await {
        return Ok(at);
    }
    let deadline = Instant::now() + command.timeout;
    let output = own_output(context, "restart", command.timeout, Code::RestartFailed).await?;
    // If the command of an agent that is no more was waited for, it may have done it.
    if let Some(at) = proof.started_since(context).await {
        return Ok(at);
    }
    if !proof.will_tell()
        && let Ok(early) = (ready_at + RESOLUTION).duration_since(SystemTime::now())
    {
        tokio::time::sleep(early.min(RESOLUTION)).await;
    }
    context.doing("restarts the server");
    let ran = run(context, &command.command, output, command.timeout).await;
    let complaint = match ran.map_err(|text| Failure::lasting(Code::RestartFailed, text))? {
        Ran::Ended(status) if status.success() => None,
        Ran::Ended(status) => Some(format!(
            "the restart command ended with {status}: {}",
            tail(context, "restart")
        )),
        Ran::TimedOut => Some("the restart command did not end in time and was killed".to_owned()),
    };
    // A command that failed may have restarted the server all the same; it gets less time to show.
    let deadline = match complaint {
        None => deadline,
        Some(_) => deadline.min(Instant::now() + Duration::from_secs(10)),
    };
    loop {
        if let Some(at) = proof.started_since(context).await {
            return Ok(at);
        }
        if Instant::now() >= deadline {
            let text = complaint.unwrap_or_else(|| {
                let limit = humantime::format_duration(command.timeout);
                format!("the restart command ended well, but no new server answered within {limit}")
            });
            return Err(Failure::lasting(Code::RestartFailed, text));
        }
        context.doing("waits for the new server to answer");
        tokio::time::sleep(POLL).await;
    }
}

/// What tells that the server that answers was started after the hooks of this attempt had run.
struct Proof {
    ready_at: SystemTime,
    /// A server that answered after the hooks had run: by when at least it was, and for how long already.
    before: Option<(Instant, Duration)>,
}

/// A server that has run for that long already is surely told from one that is started next.
const RAN: Duration = Duration::from_secs(2);

impl Proof {
    /// The next start can be told from the server that answered before; otherwise some time has to pass before it.
    fn will_tell(&self) -> bool {
        self.before.is_some_and(|(_, ran)| ran >= RAN)
    }

    /// When the server that answers was started, if it surely was since.
    async fn started_since(&mut self, context: &Context) -> Option<SystemTime> {
        let asked = Instant::now();
        let uptime = timeout(ASK_TIMEOUT, context.clickhouse.uptime()).await.ok()?.ok()?;
        let uptime = Duration::from_secs(uptime);
        let latest = SystemTime::now().checked_sub(uptime)?;
        // It was started up to a second before that.
        let earliest = latest.checked_sub(Duration::from_secs(1))?;
        if earliest > self.ready_at || self.before.is_some_and(|before| is_another(before, asked, uptime)) {
            return Some(latest);
        }
        self.before = Some((Instant::now(), uptime));
        None
    }
}

/// Whether a server that was asked at `asked`, and runs for `uptime`, is another one than that which ran `before`: the
/// same would run for longer. Uptimes are whole seconds, so that up to one is missing.
fn is_another(before: (Instant, Duration), asked: Instant, uptime: Duration) -> bool {
    let (answered, ran) = before;
    let runs_at_least = ran + asked.saturating_duration_since(answered);
    uptime + Duration::from_secs(1) <= runs_at_least
}

async fn run_hook(context: &Context, hook: &[String], number: usize, limit: Duration) -> Result<(), Failure> {
    let name = hook.join(" ");
    context.doing(format!("runs the hook {name}"));
    let what = format!("hook-{number}");
    let output = own_output(context, &what, limit, Code::HookFailed).await?;
    let complaint = match run(context, hook, output, limit).await {
        Ok(Ran::Ended(status)) if status.success() => return Ok(()),
        Ok(Ran::Ended(status)) => format!("{name} ended with {status}: {}", tail(context, &what)),
        Ok(Ran::TimedOut) => {
            let limit = humantime::format_duration(limit);
            format!(
                "{name} did not end within {limit} and was killed: {}",
                tail(context, &what)
            )
        }
        Err(text) => text,
    };
    Err(Failure::lasting(Code::HookFailed, complaint))
}

/// The file that takes the output of a command: a pipe would end with this agent, and the command with it. It is locked
/// as long as the command has it open, so that an agent that starts anew waits for a command of the former one.
async fn own_output(context: &Context, what: &str, limit: Duration, code: Code) -> Result<File, Failure> {
    let path = context
        .state
        .output_file(&context.migration, context.attempt, what)
        .map_err(state_failed(code))?;
    let cannot = |e: std::io::Error| Failure::lasting(code, format!("{} cannot be written: {e}", path.display()));
    let file = File::options().create(true).append(true).open(&path).map_err(cannot)?;
    let deadline = Instant::now() + limit;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(e)) => return Err(cannot(e)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(Failure::lasting(
                    code,
                    format!("the command of an earlier agent ({what}) does not end"),
                ));
            }
            Err(TryLockError::WouldBlock) => {
                context.doing(format!("waits for the command of an earlier agent ({what})"));
                tokio::time::sleep(POLL).await;
            }
        }
    }
    file.set_len(0).map_err(cannot)?;
    context.state.room_for_output(&file);
    Ok(file)
}

enum Ran {
    Ended(ExitStatus),
    TimedOut,
}

/// Runs a program. It is not killed when the agent ends, only when its time is up.
async fn run(context: &Context, words: &[String], output: File, limit: Duration) -> Result<Ran, String> {
    let [program, arguments @ ..] = words else {
        return Err("the command of the configuration is empty".to_owned());
    };
    let cannot = |e: std::io::Error| format!("{program} cannot be run: {e}");
    let errors = output.try_clone().map_err(cannot)?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("REKEEPER_MIGRATION", context.migration.as_str())
        .env("REKEEPER_HOST", context.host.as_str())
        .env("REKEEPER_ATTEMPT", context.attempt.to_string())
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        // A group of its own: a signal to the agent is not for it, and what is killed is killed as a whole.
        .process_group(0)
        .spawn()
        .map_err(cannot)?;
    let group = child.id();
    if let Ok(status) = timeout(limit, child.wait()).await {
        return Ok(Ran::Ended(status.map_err(cannot)?));
    }
    let group = group.and_then(|id| i32::try_from(id).ok());
    if let Some(group) = group.and_then(rustix::process::Pid::from_raw) {
        // It may just have ended.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    child.wait().await.map_err(cannot)?;
    Ok(Ran::TimedOut)
}

/// The end of what a command printed.
fn tail(context: &Context, what: &str) -> String {
    let read = |file: &Path| -> std::io::Result<String> {
        let mut file = File::open(file)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    let file = context.state.output_file(&context.migration, context.attempt, what);
    match file
        .map_err(|e| e.to_string())
        .and_then(|f| read(&f).map_err(|e| e.to_string()))
    {
        Ok(text) if text.is_empty() => "it printed nothing".to_owned(),
        Ok(text) => text,
        Err(error) => format!("its output cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_runs_for_less_than_the_former_one_would_is_another() {
        let seconds = Duration::from_secs_f64;
        let then = Instant::now();
        let is_another = |ran, later, uptime| {
            is_another(
                (then, Duration::from_secs(ran)),
                then + seconds(later),
                Duration::from_secs(uptime),
            )
        };
        assert!(is_another(100, 2.0, 0));
        assert!(is_another(100, 2.0, 101));
        // Both may have run for 99.9 s when the first one answered 99.
        assert!(!is_another(99, 0.5, 99));
        assert!(!is_another(100, 2.0, 102));
        assert!(!is_another(100, 1.9, 101));
        // Started just now, as the first one may have been.
        assert!(!is_another(0, 0.9, 0));
        assert!(is_another(0, 1.0, 0));
    }
}
