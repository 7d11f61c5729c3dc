//! Runs seeds: `cargo xtask sim`.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use sim::{Failure, Summary};

/// The whole switch in one thread, in virtual time, with seeded faults.
#[derive(Parser)]
#[command(name = "cargo xtask sim", bin_name = "cargo xtask sim")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Goes on after a failure, and at the end only says which seeds failed and how.
    #[arg(long)]
    keep_going: bool,
    /// Runs only this seed and shows what it does.
    #[arg(long, conflicts_with_all = ["seeds", "first", "keep_going"])]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Panics are caught and shown with the seed that made them.
    std::panic::set_hook(Box::new(|_| {}));
    let success = match arguments.seed {
        Some(seed) => one(seed),
        None => many(&arguments),
    };
    if success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64) -> bool {
    let (result, lines) = sim::traced(seed);
    lines.iter().for_each(|line| println!("{line}"));
    match &result {
        Ok(summary) => println!("seed {seed}: {summary:?}"),
        Err(failure) => println!("seed {seed} FAILED: {}", failure.what),
    }
    result.is_ok()
}

/// Runs seeds on all cores, each on one thread.
fn many(arguments: &Arguments) -> bool {
    let &Arguments { first, seeds, keep_going, .. } = arguments;
    let start = Instant::now();
    let (next, done) = (AtomicU64::new(first), AtomicU64::new(0));
    let total = Mutex::new(Summary::default());
    let failures: Mutex<Vec<Failure>> = Mutex::default();
    let over = || !keep_going && !failures.lock().expect("no holder panics").is_empty();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        break;
                    }
                    match sim::run(seed) {
                        Ok(summary) => *total.lock().expect("no holder panics") += summary,
                        Err(found) => failures.lock().expect("no holder panics").push(*found),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut shown = Instant::now();
        while done.load(Ordering::Relaxed) < seeds && !over() {
            std::thread::sleep(Duration::from_millis(50));
            if shown.elapsed() >= Duration::from_secs(10) {
                shown = Instant::now();
                let (done, seconds) = (done.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
                println!("{done} of {seeds} seeds, {:.0} a second", done as f64 / seconds);
            }
        }
    });
    let failures = failures.into_inner().expect("no holder panics");
    for failure in &failures {
        if !keep_going {
            failure.trace.iter().for_each(|line| println!("{line}"));
        }
        println!("seed {} FAILED: {}", failure.seed, failure.what);
        println!("again: cargo xtask sim --seed {}", failure.seed);
    }
    let (seconds, total) = (start.elapsed().as_secs_f64(), total.into_inner().expect("no holder panics"));
    let Summary { frames, arrived, rules_in_force } = total;
    let done = done.into_inner();
    println!(
        "{done} seeds, {} failed, {:.0} a second: {frames} frames received, {arrived} arrived, {rules_in_force} \
         changes of rules",
        failures.len(),
        done as f64 / seconds
    );
    failures.is_empty()
}
