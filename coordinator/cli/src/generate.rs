//! Completions of shells and man pages, made of the definitions of the command line; nobody is asked.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output::print;

/// Prints what a shell needs to complete commands and options.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rekeeper", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Writes a man page for the program and for each command into a folder that exists.
pub(crate) fn man(folder: &Path) -> Result<(), Failure> {
    if !folder.is_dir() {
        return Err(Failure::Usage(format!("{} is no folder", folder.display())));
    }
    clap_mangen::generate_to(Cli::command(), folder).map_err(|source| Failure::System {
        what: "to write the man pages",
        source,
    })
}
