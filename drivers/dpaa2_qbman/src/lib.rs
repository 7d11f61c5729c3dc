//! The software portal of QBMan, DPAA2's queue and buffer manager: how one thread enqueues and dequeues frames, and
//! releases and acquires buffers.
//!
//! ```text
//! Portal::new(cinh, cena)     registers configured, rings empty
//!   enqueue(fqid, &fds)       as many as the ring takes: one doorbell (5.0), one valid bit each (4.1)
//!   pull(source, n, &mut results) ... results.take(..)   frames to memory, at most one command under way
//!   release(bpid, &buffers)   up to 7 buffers to a pool
//!   acquire(bpid, &mut out)   up to 7 buffers from a pool
//!   command(..)               any other management command
//!   next_pushed() / consume() notifications and pushed frames (DQRR)
//! ```
//!
//! A portal is used by one thread at a time: it is `Send` and not `Sync`.
//!
//! ```compile_fail
//! fn shared<T: Sync>() {}
//! fn check<W: fslmc_bus::Window>() {
//!     shared::<dpaa2_qbman::Portal<W>>();
//! }
//! ```
//!
//! # Two generations
//!
//! | | QBMan 4.1 (LS1088A, LS2088A) | QBMan 5.0 (LX2160A) |
//! |---|---|---|
//! | rings are | device memory, lines of 64 bytes | ordinary coherent memory of the portal |
//! | a command is new when | its valid bit is that of the ring's lap | a doorbell register is written |
//! | EQCR | 8 entries | 32 entries, one producer-index store per burst |
//!
//! # Ordering
//!
//! Everything hardware may read because of a store must be visible before that store, and nothing it wrote may be
//! read before the flag that says it is there:
//!
//! - before the store that hands a line over (valid bit or doorbell): [`barrier::before_handover`]. It also covers what the
//!   frame descriptors point to, the cleared tokens of a result array, and what was read of a buffer or an entry that is
//!   given back. On aarch64 the frames are in cacheable, the registers in device memory, and accesses to the two are not
//!   ordered without it;
//! - after a token or valid bit was seen: [`barrier::after_takeover`], then the rest of the line.
//!
//! No cache maintenance: VFIO maps the direct CENA window without caching (`vfio_fsl_mc_mmap_mmio` in Linux'
//! `drivers/vfio/fsl-mc/vfio_fsl_mc.c`: only regions that are cacheable *and* shareable keep a cacheable mapping),
//! memory-backed portals and DMA memory are coherent. Kernel drivers, which map CENA cacheable, must clean and invalidate
//! its lines; we must not need to.
//!
//! # Waiting
//!
//! Only management commands wait, at most [`ANSWER_TIMEOUT`]; then the portal refuses further ones, because an answer
//! that comes late would be taken for another's.
//!
//! UNSAFETY: the results of a volatile dequeue are read from DMA memory through volatile pointers ([`Results`]).
#![allow(unsafe_code)]

mod management;
mod portal;
mod push;
mod results;
#[cfg(test)]
mod tests;

pub use management::ANSWER_TIMEOUT;
pub use portal::{Portal, PortalConfig, PortalError, Source};
pub use push::Pushed;
pub use results::{RESULTS_MAX, Results, Settled};

#[doc(no_inline)]
pub use fslmc_bus::barrier;
