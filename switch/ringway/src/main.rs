//! The `ringway` command: runs the switch, checks its files, asks and changes a running one, plays guests.
//!
//! [`args`] says what it takes; each of the other modules does one of those things. Results go to standard output,
//! everything else to standard error.

mod args;
mod change;
mod check;
mod failure;
mod fslmc;
mod guest;
mod live;
mod logging;
mod output;
mod report;
mod run;
mod show;
mod vm;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command};
use crate::failure::Outcome;

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(&cli.logging);
    failure::exit_code(dispatch(cli.command))
}

fn dispatch(command: Command) -> Outcome {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Show(args) => show::show(&args),
        Command::Flow(args) => change::flow(args),
        Command::Port(args) => change::port(args),
        Command::Partition(args) => change::partition(args),
        Command::Reload(args) => change::reload(&args),
        Command::Guest(args) => guest::guest(&args),
        Command::Vm(args) => vm::vm(&args),
        Command::Fslmc(args) => fslmc::fslmc(&args),
        Command::Schema => output::json(&switch_config::schema()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ringway", &mut script);
            output::bytes(&script)
        }
    }
}
