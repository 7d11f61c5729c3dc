//! The benchmark's load: several guests in one polling thread.
//!
//! It connects to the sockets it is given, one port each, and then reads [`Phase`]s from standard input, a JSON line each,
//! and answers each with a line that begins with [`RESULT`]. Between phases it is blocked in that read.

mod frames;
mod phase;
mod port;

use anyhow::{Context as _, Result};
use bench::traffic::{Phase, READY, RESULT};
use clap::Parser;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io::BufRead as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Several guests in one polling thread, told by standard input what to send.
#[derive(Parser)]
struct Arguments {
    /// Core to poll on.
    #[arg(long)]
    core: usize,
    /// Asks for packed rings.
    #[arg(long)]
    packed: bool,
    /// vhost-user sockets to connect to.
    #[arg(required = true)]
    sockets: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(arguments.core);
    sched_setaffinity(None, &set).with_context(|| format!("pinning to core {}", arguments.core))?;
    let connect = |(index, socket): (usize, &PathBuf)| {
        port::Port::connect(socket, index, arguments.packed).with_context(|| socket.display().to_string())
    };
    let mut ports: Vec<port::Port> =
        arguments.sockets.iter().enumerate().map(connect).collect::<Result<_>>()?;
    let hz = packet::cycles::frequency();
    println!("{READY}");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let asked: Phase = serde_json::from_str(&line).with_context(|| line.clone())?;
        let result = phase::run(&mut ports, &asked, hz)?;
        println!("{RESULT}{}", serde_json::to_string(&result)?);
    }
    Ok(())
}
