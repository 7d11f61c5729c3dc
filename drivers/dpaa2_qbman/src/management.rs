//! Management commands, buffer release and acquire.

use std::time::{Duration, Instant};

use dpaa2_defs::qbman::VB;
use dpaa2_defs::qbman::management::{Acquire, Command, RESULT_OFFSET, RESULT_OK};
use dpaa2_defs::qbman::registers::*;
use dpaa2_defs::qbman::release::{BUFFERS_MAX, ReleaseCommand};
use fslmc_bus::{Window, barrier};
use zerocopy::FromBytes;

use crate::portal::{Portal, PortalError, words};

/// How long a management command may take. It takes about a microsecond on hardware.
pub const ANSWER_TIMEOUT: Duration = Duration::from_millis(50);
/// Looks at the answer between two looks at the clock.
const POLLS_PER_LOOK: u32 = 1000;

impl<W: Window> Portal<W> {
    /// Carries out a management command and returns its answer.
    ///
    /// # Errors
    /// No answer within [`ANSWER_TIMEOUT`], or one that isn't [`RESULT_OK`].
    pub fn command<C: Command>(&mut self, command: &C) -> Result<C::Response, PortalError> {
        if self.cr_stuck {
            return Err(PortalError::Stuck);
        }
        let valid_bit = self.cr_valid_bit;
        let mut line = words(command);
        line[0] = line[0] & !0xff | u64::from(C::VERB | valid_bit);
        let cr = self.layout.cr as usize;
        self.cena.write_words(cr + 8, &line[1..C::WORDS]);
        match self.generation {
            Generation::MemoryBacked => {
                self.cena.write64(cr, line[0]);
                barrier::before_handover();
                self.cinh.write32(QBMAN_CINH_SWP_CR_RT as usize, RT_MODE);
            }
            Generation::Direct => {
                barrier::before_handover();
                self.cena.write64(cr, line[0]);
            }
        }
        self.cr_valid_bit ^= VB;
        let rr = self.layout.rr_of(valid_bit) as usize;
        if !self.answered(rr, valid_bit) {
            self.cr_stuck = true;
            return Err(PortalError::Timeout { verb: C::VERB });
        }
        barrier::after_takeover();
        let bytes = self.cena.read_words::<8>(rr).map(u64::to_le_bytes);
        let bytes = bytes.as_flattened();
        let (answer, result) = (bytes[0] & !VB, bytes[RESULT_OFFSET]);
        if answer != C::VERB || result != RESULT_OK {
            return Err(PortalError::Refused { verb: C::VERB, answer, result });
        }
        Ok(C::Response::read_from_bytes(bytes).unwrap_or_else(|_| unreachable!("an answer is a line")))
    }

    /// Waits for an answer, for a limited time. The clock is looked at only when it takes long.
    fn answered(&self, rr: usize, valid_bit: u8) -> bool {
        let is_there = || {
            let verb = self.cena.read32(rr) as u8;
            let new = match self.generation {
                Generation::MemoryBacked => verb & VB == valid_bit,
                // Each valid bit has a line of its own, cleared with the command.
                Generation::Direct => true,
            };
            new && verb & !VB != 0
        };
        let mut started = None;
        loop {
            for _ in 0..POLLS_PER_LOOK {
                if is_there() {
                    return true;
                }
                std::hint::spin_loop();
            }
            let started = *started.get_or_insert_with(Instant::now);
            if started.elapsed() > ANSWER_TIMEOUT {
                return is_there();
            }
        }
    }

    /// Gives 1 to 7 buffers to a pool.
    ///
    /// # Errors
    /// [`PortalError::ReleaseBusy`]: try again later. The buffers are still the caller's.
    ///
    /// # Panics
    /// With no buffer, or more than 7.
    #[inline]
    pub fn release(&mut self, bpid: u16, buffers: &[u64]) -> Result<(), PortalError> {
        assert!((1..=BUFFERS_MAX).contains(&buffers.len()), "{} buffers in a release", buffers.len());
        // Each read allots a slot: read once, use it.
        let rar = Rar(self.cinh.read32(QBMAN_CINH_SWP_RAR as usize));
        let slot = rar.slot().ok_or(PortalError::ReleaseBusy)?;
        let line = words(&ReleaseCommand::new(bpid, buffers, rar.valid_bit()));
        let entry = (self.layout.rcr + slot * 64) as usize;
        self.cena.write_words(entry + 8, &line[1..=buffers.len()]);
        match self.generation {
            Generation::MemoryBacked => {
                self.cena.write64(entry, line[0]);
                barrier::before_handover();
                self.cinh.write32((QBMAN_CINH_SWP_RCR_AM_RT + 4 * slot) as usize, RT_MODE);
            }
            Generation::Direct => {
                barrier::before_handover();
                self.cena.write64(entry, line[0]);
            }
        }
        Ok(())
    }

    /// Takes buffers from a pool: as many as `out` has room for (1 to 7), or fewer, or none when the pool has not
    /// that many. Returns how many.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    ///
    /// # Panics
    /// When `out` has no room, or room for more than 7.
    #[inline]
    pub fn acquire(&mut self, bpid: u16, out: &mut [u64]) -> Result<usize, PortalError> {
        assert!((1..=BUFFERS_MAX).contains(&out.len()), "{} buffers in an acquire", out.len());
        let acquired = self.command(&Acquire::new(bpid, out.len() as u8))?;
        let buffers = acquired.buffers();
        if buffers.len() > out.len() {
            return Err(PortalError::Broken {
                what: "more buffers than asked for",
                value: buffers.len() as u64,
            });
        }
        for (to, from) in out.iter_mut().zip(buffers) {
            *to = from.get();
        }
        Ok(buffers.len())
    }
}
