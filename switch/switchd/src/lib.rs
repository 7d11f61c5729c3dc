//! The running switch: the control thread and what it owns.
//!
//! [`run`] is its life. It starts the workers (`dataplane`: control's side of them), the bridges and the ports,
//! then serves: vhost-user sessions, the control socket, signals, timers. All on one thread; the workers are the
//! only others, besides a thread for each `[[guest]]` of the file.

mod bridges;
mod dataplane;
mod dpaa2;
mod guests;
mod hurry;
mod machines;
mod partitions;
mod ports;
mod privileges;
mod reconfigure;
mod run;
mod runtime;
mod show;
mod switch;
mod take_over;

pub use guests::guest_config;
pub use run::{OnTick, RunOptions, run};
