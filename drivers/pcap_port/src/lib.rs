//! Ports without a device: captures replayed and recorded, a sink, a source of one frame, a loop.
//!
//! - [`Capture`] holds a pcap or pcapng file; [`PcapRx`] replays it at a [`Pace`].
//! - [`PcapTx`] records what is sent in a pcapng file, in a thread of its own.
//! - [`NullTx`] discards and counts; [`NullRx`] never receives; [`GenerateRx`] receives one frame over and over.
//! - [`loop_queues`] makes a pair in which what is sent comes back.
//!
//! ```no_run
//! use pcap_port::{Capture, Pace, PcapRx, PcapTx, RecordOptions};
//! use std::sync::Arc;
//!
//! let capture = Arc::new(Capture::open("in.pcapng".as_ref())?);
//! println!("{} frames in {} s", capture.frames(), capture.duration_ns() / 1_000_000_000);
//! let rx = PcapRx::new(capture, Pace::Unpaced, Some(10));
//! let tx = PcapTx::create("out.pcapng".as_ref(), RecordOptions::default())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! UNSAFETY: receive queues lend memory of their own to a burst until its release; each says why it stays.
#![allow(unsafe_code)]

mod blocks;
mod capture;
mod loopback;
mod null;
mod pcap;
mod pcapng;
mod record;
mod replay;

pub use capture::{Capture, CaptureError, Malformed, fuzz_capture};
pub use loopback::{LoopRx, LoopTx, loop_queues};
pub use null::{GenerateRx, NullRx, NullTx};
pub use record::{Direction, PcapTx, RecordError, RecordOptions, RecordStatus};
pub use replay::{Pace, PcapRx, Speed};
