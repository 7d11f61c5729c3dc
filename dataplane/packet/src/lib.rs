//! Frames as a worker sees them.
//!
//! A worker receives a [`Burst`] of up to [`BURST_MAX`] frames. A frame is **borrowed**: its bytes stay in the
//! sender's buffers (guest memory, a pool buffer, a DMA buffer) as a list of [`Segment`]s until the burst is
//! released. What is parsed and rewritten is a private copy of its first bytes, the **head**:
//!
//! ```text
//!            head (worker's scratch)             source (sender's memory, may change under us)
//!   [headroom | head bytes ............]  ++  [skip | rest of the first segment][segment][segment]
//!             ^ head_start   ^ head_len            ^ the head replaces these
//! ```
//!
//! A frame's content is the head followed by the source past `skip` bytes. Without a loaded head it is the
//! source alone, so a frame nobody looks at is copied straight from sender to receiver.
//!
//! Nothing of the source is ever a `&[u8]`: it is copied out by [`copy`].
//!
//! UNSAFETY: this crate reads memory through raw pointers that drivers put into a burst (see [`Burst::push`]), maps
//! the pool's memory and reads the cycle counter.
#![allow(unsafe_code)]

mod burst;
pub mod copy;
pub mod cycles;
mod offload;
mod owned;
mod pool;

pub use burst::{BURST_MAX, Burst, HEAD_FIRST, HEAD_MAX, HEADROOM, Parts, SEGMENTS_MAX, START, Segment};
pub use offload::{Gso, Offload};
pub use owned::OwnedBurst;
pub use pool::{HugePages, Pool};
