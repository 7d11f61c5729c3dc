//! Log lines: to standard error, around whatever is drawn there.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::args::LoggingArgs;
use crate::live;

/// Starts logging at the level asked for. `RINGWAY_LOG` (as tracing's `EnvFilter` reads it) chooses finer.
pub fn start(args: &LoggingArgs) {
    let level = level(args.verbose, args.quiet);
    let filter = EnvFilter::builder().with_default_directive(level.into()).with_env_var("RINGWAY_LOG");
    tracing_subscriber::fmt()
        .with_env_filter(filter.from_env_lossy())
        .with_ansi(live::is_terminal())
        .with_target(false)
        .with_writer(|| live::LogWriter)
        .init();
}

fn level(verbose: u8, quiet: u8) -> LevelFilter {
    match i16::from(verbose) - i16::from(quiet) {
        2.. => LevelFilter::TRACE,
        1 => LevelFilter::DEBUG,
        0 => LevelFilter::INFO,
        -1 => LevelFilter::WARN,
        -2 => LevelFilter::ERROR,
        _ => LevelFilter::OFF,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbose_and_quiet_move_the_level_from_info() {
        let levels = [(0, 0), (1, 0), (9, 0), (0, 1), (0, 2), (0, 9), (1, 1)].map(|(v, q)| level(v, q));
        let [info, debug, trace, warn, error, off, both] = levels;
        assert_eq!([info, debug, trace], [LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::TRACE]);
        assert_eq!([warn, error, off], [LevelFilter::WARN, LevelFilter::ERROR, LevelFilter::OFF]);
        assert_eq!(both, LevelFilter::INFO);
    }
}
