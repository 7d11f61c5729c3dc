//! Buffers on their way back to a pool.

use dpaa2_defs::qbman::release::BUFFERS_MAX;
use dpaa2_qbman::{Portal, PortalError};
use fslmc_bus::Window;

use crate::buffers::SEGMENTS_MAX;
use packet::BURST_MAX;

/// So many buffers wait at most before a receive queue stops taking frames.
const BACKLOG_MAX: usize = 64;
/// What a burst can add: every frame in as many buffers as can be, and their tables.
const CAPACITY: usize = BACKLOG_MAX + BURST_MAX * (SEGMENTS_MAX + 1);

/// Collects buffers, since a release of seven costs as much as a release of one.
pub(crate) struct Returns {
    bpid: u16,
    waiting: Vec<u64>,
}

impl Returns {
    pub fn new(bpid: u16) -> Returns {
        Returns { bpid, waiting: Vec::with_capacity(CAPACITY) }
    }

    /// Buffers that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether there are enough for a full release.
    #[inline(always)]
    pub fn has_group(&self) -> bool {
        self.waiting.len() >= BUFFERS_MAX
    }

    /// Whether the pool is so far behind that no frame should be received.
    #[inline(always)]
    pub fn is_behind(&self) -> bool {
        self.waiting.len() > BACKLOG_MAX
    }

    #[inline(always)]
    pub fn push(&mut self, addr: u64) {
        assert!(self.waiting.len() < CAPACITY, "more buffers come back than a burst has");
        self.waiting.push(addr);
    }

    /// The buffer that came last.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<u64> {
        self.waiting.pop()
    }

    /// Gives full groups of seven back.
    #[inline]
    pub fn flush<W: Window>(&mut self, portal: &mut Portal<W>) -> Result<(), PortalError> {
        self.give(portal, BUFFERS_MAX)
    }

    /// Gives everything back.
    #[inline]
    pub fn flush_all<W: Window>(&mut self, portal: &mut Portal<W>) -> Result<(), PortalError> {
        self.give(portal, 1)
    }

    #[inline(always)]
    fn give<W: Window>(&mut self, portal: &mut Portal<W>, least: usize) -> Result<(), PortalError> {
        while self.waiting.len() >= least {
            // From the end: the last one used is still in cache, and nothing moves.
            let from = self.waiting.len().saturating_sub(BUFFERS_MAX);
            match portal.release(self.bpid, &self.waiting[from..]) {
                Ok(()) => self.waiting.truncate(from),
                Err(PortalError::ReleaseBusy) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
