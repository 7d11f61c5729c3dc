//! The driver side of vhost-user as a tool: hosts, generators, reflectors, sinks.
//!
//! What DPDK calls virtio-user: a process without a virtual machine that is, to the switch, a guest like any
//! other. It has memory of its own (a memfd), virtio rings in it, and is the front-end of a vhost-user socket.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use guest_host::{GuestConfig, Role, SocketMode, run};
//!
//! let config = GuestConfig::new("sink", "/run/ringway/vm1.sock", SocketMode::Client, Role::Sink);
//! let stop = AtomicBool::new(false); // set from elsewhere
//! let report = run(&config, &stop, |progress| println!("{} frames", progress.received))?;
//! println!("{} lost", report.lost.unwrap_or(0));
//! # Ok::<(), guest_host::GuestError>(())
//! ```
//!
//! One thread. It polls while there is work and sleeps on its call descriptor when there is none. When the switch
//! goes away it waits for it to come back, with memory and rings as they are: what the switch had taken and not
//! completed, the next one completes.
//!
//! - [`Role::Generate`] sends numbered, time-stamped UDP frames ([`Probe`]), and counts those that come back;
//! - [`Role::Sink`] receives them and finds loss, duplicates, reordering and latency;
//! - [`Role::Reflect`] sends them back;
//! - [`Role::Host`] is a host with an address: answers ARP, ND, ping and UDP echo, takes and sends TCP streams.

mod clock;
mod config;
mod device;
mod frame;
mod generate;
mod host;
mod link;
mod probe;
mod reflect;
mod report;
mod run;
mod sink;
mod stats;

pub use config::{GenerateRole, GuestConfig, HostRole, Ping, Rate, Role, STREAM_PORT, SocketMode};
pub use probe::Probe;
pub use report::{Latency, PingReport, Progress, Report, StreamReport};
pub use run::{GuestError, run};
pub use stats::{Arrival, Histogram, Sequence};
