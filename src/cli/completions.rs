//! `hourmark completions`: a script that teaches a shell the command line.

use super::failure::Outcome;
use super::output;
use clap::CommandFactory as _;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  hourmark completions bash > ~/.local/share/bash-completion/completions/hourmark
  hourmark completions zsh > \"${fpath[1]}/_hourmark\"
  hourmark completions fish > ~/.config/fish/completions/hourmark.fish")]
pub struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Prints the script.
pub fn run(arguments: &Arguments) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "hourmark", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
