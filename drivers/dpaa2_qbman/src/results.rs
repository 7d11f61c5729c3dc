//! Memory for the results of volatile dequeues.

use std::ptr::NonNull;

use dpaa2_defs::qbman::LINE_BYTES;
use dpaa2_defs::qbman::dequeue::{
    DequeueResult, FRAMES_MAX_MEMORY_BACKED, STAT_EXPIRED, STAT_VALID_FRAME, VERB_DEQUEUE, VERB_MASK,
};
use fslmc_bus::{Bus, BusError, DmaMemory, barrier};
use zerocopy::FromBytes;

use crate::PortalError;

/// Results that fit: the most a portal gives at once.
pub const RESULTS_MAX: usize = FRAMES_MAX_MEMORY_BACKED as usize;

/// The array that a volatile dequeue writes its results to. It must outlive the command: drop it after the portal's
/// DPIO was reset, or when nothing is [awaited](Self::is_waiting).
///
/// Hardware writes result after result, each with its token last. What has come can be taken before the rest has.
pub struct Results<B: Bus> {
    memory: DmaMemory<B>,
    /// Results of the command under way that were asked for, taken so far.
    wanted: usize,
    taken: usize,
    token: u8,
}

impl<B: Bus> Results<B> {
    /// Allocates the array.
    ///
    /// # Errors
    /// No memory for DMA.
    pub fn new(bus: &B) -> Result<Results<B>, BusError> {
        let memory = DmaMemory::new(bus, RESULTS_MAX * LINE_BYTES)?;
        Ok(Results { memory, wanted: 0, taken: 0, token: 0 })
    }

    /// Whether a command's results haven't been taken to their end.
    #[inline(always)]
    pub fn is_waiting(&self) -> bool {
        self.wanted > 0
    }

    /// Gets ready for a command and returns where its results go. Tokens are clear: `take` leaves them so.
    #[inline(always)]
    pub(crate) fn expect(&mut self, frames: u32, token: u8) -> u64 {
        (self.wanted, self.taken, self.token) = (frames as usize, 0, token);
        self.memory.iova()
    }

    #[inline(always)]
    fn line(&self, i: usize) -> NonNull<u64> {
        debug_assert!(i < RESULTS_MAX);
        // SAFETY: the memory has RESULTS_MAX lines and is page aligned; callers pass i < wanted <= RESULTS_MAX.
        unsafe { self.memory.as_ptr().cast::<u64>().add(i * LINE_BYTES / 8) }
    }

    #[cfg(test)]
    pub(crate) fn iova(&self) -> u64 {
        self.memory.iova()
    }

    /// Hands the results that have come to `each`, in order, and returns whether the command is answered to its end
    /// (then tell the [portal](crate::Portal::pull_answered)). Never waits.
    ///
    /// # Errors
    /// A result of another command, or no last one: the portal is broken. What `each` was given is good.
    #[inline]
    pub fn take(&mut self, mut each: impl FnMut(DequeueResult)) -> Result<bool, PortalError> {
        let first = self.taken;
        let mut come = 0;
        let mut heads = [0u64; RESULTS_MAX];
        while first + come < self.wanted {
            let line = self.line(first + come);
            // SAFETY: the line lies in our memory; hardware writes it, hence volatile.
            let head = unsafe { line.read_volatile() };
            if head.to_le_bytes()[TOKEN] == 0 {
                break;
            }
            heads[come] = head;
            come += 1;
            if head.to_le_bytes()[STAT] & STAT_EXPIRED != 0 {
                break;
            }
        }
        if come == 0 {
            return Ok(false);
        }
        barrier::after_takeover();
        let mut answered = false;
        for (i, &head) in heads[..come].iter().enumerate() {
            let line = self.line(first + i);
            let mut bytes = [0; LINE_BYTES];
            bytes[..8].copy_from_slice(&head.to_le_bytes());
            for word in 1..LINE_BYTES / 8 {
                // SAFETY: as above; the word is the line's.
                let value = unsafe { line.add(word).read_volatile() };
                bytes[8 * word..8 * word + 8].copy_from_slice(&value.to_le_bytes());
            }
            // SAFETY: as above. The token is clear for the next command; hardware doesn't write before that.
            unsafe { line.write_volatile(0) };
            let result = DequeueResult::read_from_bytes(&bytes).expect("a line is a result");
            self.taken += 1;
            if result.token != self.token || result.verb & VERB_MASK != VERB_DEQUEUE {
                return Err(PortalError::Broken { what: "a dequeue result nobody asked for", value: head });
            }
            answered = result.is_expired();
            each(result);
        }
        if !answered && self.taken == self.wanted {
            return Err(PortalError::Broken {
                what: "a dequeue without a last result",
                value: self.taken as u64,
            });
        }
        if answered {
            self.wanted = 0;
        }
        Ok(answered)
    }

    /// How the command under way stands. An answer without frames is taken: tell the
    /// [portal](crate::Portal::pull_answered).
    pub fn settled(&mut self) -> Settled {
        if self.wanted == 0 {
            return Settled::Idle;
        }
        // SAFETY: as in `take`.
        let head = unsafe { self.line(self.taken).read_volatile() };
        let [_, stat, .., token] = head.to_le_bytes();
        match stat & (STAT_EXPIRED | STAT_VALID_FRAME) {
            _ if token == 0 => Settled::Waiting,
            STAT_EXPIRED => {
                // SAFETY: as in `take`.
                unsafe { self.line(self.taken).write_volatile(0) };
                self.wanted = 0;
                Settled::Empty
            }
            _ => Settled::Frames,
        }
    }
}

/// How a volatile dequeue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// None is under way.
    Idle,
    /// There is no answer, or not all of it.
    Waiting,
    /// There are frames to be [taken](Results::take).
    Frames,
    /// There were no more frames.
    Empty,
}

const TOKEN: usize = dpaa2_defs::qbman::dequeue::TOKEN_OFFSET;
const STAT: usize = 1;
