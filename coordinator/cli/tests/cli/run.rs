//! Running the real binary: to its end, beside the test, or on a terminal.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::fake::Fake;

const LIMIT: Duration = Duration::from_secs(20);

/// The binary, in an environment that is the same everywhere.
pub(crate) fn rekeeper(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rekeeper"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
        .env("REKEEPER_COORDINATOR", url)
        .env("USER", "ann")
        .env("COLUMNS", "100")
        .env("TERM", "xterm");
    command
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Demands an exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in stderr:\n{}", self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn prints_nothing(self) -> Self {
        assert_eq!(self.stdout, "");
        self
    }
}

pub(crate) fn run(fake: &Fake, arguments: &[&str]) -> Ran {
    run_command(rekeeper(&fake.url(), arguments))
}

pub(crate) fn run_command(command: Command) -> Ran {
    Running::new(command).wait()
}

/// A run beside the test.
pub(crate) struct Running {
    child: Child,
    stdout: Collected,
    stderr: Collected,
}

impl Running {
    pub(crate) fn new(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = Collected::new(child.stdout.take().unwrap());
        let stderr = Collected::new(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// Waits until stderr holds the text.
    #[track_caller]
    pub(crate) fn until_said(&self, text: &str) {
        self.stderr.until(text);
    }

    #[track_caller]
    pub(crate) fn until_printed(&self, text: &str) {
        self.stdout.until(text);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    #[track_caller]
    pub(crate) fn wait(mut self) -> Ran {
        let status = wait(&mut self.child);
        Ran {
            code: status.code(),
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
        }
    }
}

/// A run whose stdin, stdout and stderr are a terminal, of 80 columns and 24 lines unless another size is given.
pub(crate) struct OnTerminal {
    child: Child,
    terminal: File,
    screen: Collected,
}

impl OnTerminal {
    pub(crate) fn new(command: Command) -> Self {
        Self::of_size(command, 80, 24)
    }

    pub(crate) fn of_size(mut command: Command, columns: u16, lines: u16) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let size = Winsize {
            ws_row: lines,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&ours, size).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = || -> OwnedFd {
            rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        let child = command
            .stdin(theirs())
            .stdout(theirs())
            .stderr(theirs())
            .spawn()
            .unwrap();
        // Its copies of the terminal must go, or reading never ends.
        drop(command);
        let terminal = File::from(ours);
        let screen = Collected::new(terminal.try_clone().unwrap());
        Self {
            child,
            terminal,
            screen,
        }
    }

    #[track_caller]
    pub(crate) fn until_shown(&self, text: &str) {
        self.screen.until(text);
    }

    pub(crate) fn types(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Exit code and everything that was drawn.
    #[track_caller]
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let status = wait(&mut self.child);
        (status.code(), self.screen.all())
    }
}

#[track_caller]
fn wait(child: &mut Child) -> ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begin.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("rekeeper did not end within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Output, read as it comes.
struct Collected {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn new(mut from: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal whose other side is closed gives an error instead of an end.
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                into.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self {
            text,
            reader: Some(reader),
        }
    }

    fn now(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.now()
    }

    #[track_caller]
    fn until(&self, text: &str) {
        let begin = Instant::now();
        while !self.now().contains(text) {
            assert!(
                begin.elapsed() < LIMIT,
                "no {text:?} within {LIMIT:?} in:\n{}",
                self.now()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Compares with `tests/snapshots/NAME.txt`; with UPDATE_SNAPSHOTS=1 writes it.
#[track_caller]
pub(crate) fn snapshot(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/snapshots")
        .join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text,
        expected,
        "differs from {}; UPDATE_SNAPSHOTS=1 writes it anew",
        path.display()
    );
}
