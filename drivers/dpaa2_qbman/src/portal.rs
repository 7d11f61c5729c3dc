//! The portal: start-up, enqueue, volatile dequeue.

use std::cell::Cell;
use std::marker::PhantomData;

use dpaa2_defs::fd::Fd;
use dpaa2_defs::qbman::dequeue::{FRAMES_MAX_DIRECT, FRAMES_MAX_MEMORY_BACKED, VolatileDequeue};
use dpaa2_defs::qbman::enqueue::EnqueueCommand;
use dpaa2_defs::qbman::registers::*;
use dpaa2_defs::qbman::{LINE_BYTES, VB, cyclic_difference};
use fslmc_bus::{Bus, Window, barrier};
use zerocopy::IntoBytes;

use crate::results::Results;

/// What a portal is told about itself (attributes of the DPIO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortalConfig {
    /// The QBMan version.
    pub qbman_version: u32,
    /// The portal's number: its token is this plus one.
    pub portal_id: u16,
}

/// Why a portal can't be used, or did not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortalError {
    /// The configuration register reads back as 0.
    #[error("the portal is not enabled: its configuration reads back as 0 (dpio enable missing?)")]
    NotEnabled,
    /// Results of an earlier user are in the dequeue ring.
    #[error("the portal is not clean: dequeue producer index {0} after reset")]
    NotClean(u32),
    /// A window is smaller than its rings and registers.
    #[error("a window of {have} bytes is too small for the portal: {need} are needed")]
    WindowTooSmall {
        /// Bytes it has.
        have: usize,
        /// Bytes there must be.
        need: usize,
    },
    /// A management command had no answer in time.
    #[error("management command {verb:#04x} had no answer within {} ms", crate::ANSWER_TIMEOUT.as_millis())]
    Timeout {
        /// The command.
        verb: u8,
    },
    /// An earlier management command had no answer in time.
    #[error("the portal is still waiting for the answer to an earlier management command")]
    Stuck,
    /// A management command was answered with an error, or with the answer to another.
    #[error("management command {verb:#04x} was answered by {answer:#04x} with result {result:#04x}")]
    Refused {
        /// The command.
        verb: u8,
        /// The answer's verb.
        answer: u8,
        /// The answer's result.
        result: u8,
    },
    /// The release ring has no free slot.
    #[error("the release ring has no free slot")]
    ReleaseBusy,
    /// A volatile dequeue is under way already.
    #[error("a volatile dequeue is under way")]
    PullBusy,
    /// A volatile dequeue had no answer in time.
    #[error("a volatile dequeue had no answer")]
    NoResult,
    /// The portal said something that can't be.
    #[error("{what} ({value:#x})")]
    Broken {
        /// What.
        what: &'static str,
        /// The value.
        value: u64,
    },
}

/// Where a volatile dequeue takes frames from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A parked frame queue.
    Fq(u32),
    /// One of the frame queues of a channel, the most urgent with frames.
    Channel(u16),
}

/// A software portal. See the crate's documentation.
pub struct Portal<W: Window> {
    pub(crate) cinh: W,
    pub(crate) cena: W,
    pub(crate) generation: Generation,
    pub(crate) layout: Layout,
    eqcr: Eqcr,
    pub(crate) cr_valid_bit: u8,
    pub(crate) cr_stuck: bool,
    vdqcr_valid_bit: u8,
    pulling: bool,
    token: u8,
    pub(crate) dqrr: crate::push::Dqrr,
    _one_thread_at_a_time: PhantomData<Cell<()>>,
}

struct Eqcr {
    /// Producer index, with its wrap bit.
    pi: u32,
    /// Consumer index as last seen, with its wrap bit.
    ci: u32,
    /// The valid bit of the next entry.
    valid_bit: u8,
    available: u32,
}

impl<W: Window> Portal<W> {
    /// Starts up a portal whose DPIO was reset and enabled. `cinh` and `cena` are its windows; `cena` is region
    /// [`Generation::cena_region`].
    ///
    /// # Errors
    /// The DPIO isn't enabled, isn't clean, or the windows are too small.
    pub fn new(cinh: W, cena: W, config: PortalConfig) -> Result<Portal<W>, PortalError> {
        let generation = Generation::of(config.qbman_version);
        let layout = generation.layout();
        require(cinh.window_len(), 0x1000)?;
        // 1. Memory-backed rings start as zeros, so that no old valid bit is taken for a new one.
        if generation == Generation::MemoryBacked {
            require(cena.window_len(), CENA_MEMORY_BYTES)?;
            let zeros = [0; LINE_BYTES / 8];
            for line in (0..CENA_MEMORY_BYTES).step_by(LINE_BYTES) {
                cena.write_words(line, &zeros);
            }
            barrier::before_handover();
        } else {
            require(cena.window_len(), 0x1000)?;
        }
        // 2. Configure, and see that it took.
        cinh.write32(QBMAN_CINH_SWP_CFG as usize, Cfg::stashing(generation).to_bits());
        if cinh.read32(QBMAN_CINH_SWP_CFG as usize) == 0 {
            return Err(PortalError::NotEnabled);
        }
        // 3. Read-triggered rings.
        if generation == Generation::MemoryBacked {
            cinh.write32(QBMAN_CINH_SWP_EQCR_PI as usize, RT_MODE);
            cinh.write32(QBMAN_CINH_SWP_RCR_PI as usize, RT_MODE);
        }
        // 4. A portal of somebody else's past would hand us results we didn't ask for.
        let dqpi = cinh.read32(QBMAN_CINH_SWP_DQPI as usize) & 0xf;
        if dqpi != 0 {
            return Err(PortalError::NotClean(dqpi));
        }
        cinh.write32(QBMAN_CINH_SWP_SDQCR as usize, 0);
        // 5. Where the enqueue ring stands.
        let eqcr_pi = cinh.read32(QBMAN_CINH_SWP_EQCR_PI as usize);
        let pi = eqcr_pi & layout.eqcr_pi_mask();
        let ci = cinh.read32(QBMAN_CINH_SWP_EQCR_CI as usize) & layout.eqcr_pi_mask();
        let under_way = cyclic_difference(layout.eqcr_entries, ci, pi);
        if under_way > layout.eqcr_entries {
            return Err(PortalError::Broken {
                what: "enqueue ring indices out of step",
                value: eqcr_pi.into(),
            });
        }
        let eqcr = Eqcr { pi, ci, valid_bit: eqcr_pi as u8 & VB, available: layout.eqcr_entries - under_way };
        Ok(Portal {
            cinh,
            cena,
            generation,
            layout,
            eqcr,
            cr_valid_bit: VB,
            cr_stuck: false,
            vdqcr_valid_bit: VB,
            pulling: false,
            // Tokens are bytes and never 0; portals of one SoC have numbers below 64.
            token: (config.portal_id % 255) as u8 + 1,
            dqrr: crate::push::Dqrr::new(config.qbman_version),
            _one_thread_at_a_time: PhantomData,
        })
    }

    /// Which generation it is of.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Enqueues `fds` on a frame queue in order and returns how many the ring took, from the first on. Rejected
    /// frames go to the queue's error queue.
    ///
    /// # Errors
    /// The ring is broken; nothing was enqueued.
    #[inline]
    pub fn enqueue(&mut self, fqid: u32, fds: &[Fd]) -> Result<usize, PortalError> {
        self.enqueue_each(fds.len(), |i| EnqueueCommand::to_fq(fqid, fds[i]))
    }

    /// Enqueues whatever the commands say (their valid bits are set here), as [`enqueue`](Self::enqueue).
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn enqueue_commands(&mut self, commands: &[EnqueueCommand]) -> Result<usize, PortalError> {
        self.enqueue_each(commands.len(), |i| commands[i])
    }

    #[inline(always)]
    fn enqueue_each(
        &mut self,
        wanted: usize,
        command: impl Fn(usize) -> EnqueueCommand,
    ) -> Result<usize, PortalError> {
        // The consumer index is another core's cache line (or a device register): read it when we must.
        if (self.eqcr.available as usize) < wanted {
            self.look_at_consumer()?;
        }
        let n = wanted.min(self.eqcr.available as usize);
        if n == 0 {
            return Ok(0);
        }
        let entries = self.layout.eqcr_entries;
        let first = self.eqcr.pi;
        match self.generation {
            Generation::MemoryBacked => {
                for i in 0..n {
                    let line = words(&self.with_valid_bit(command(i)));
                    self.cena.write_words(self.entry(first + i as u32), &line);
                    self.advance(entries);
                }
                barrier::before_handover();
                let doorbell = RT_MODE | self.eqcr.pi | u32::from(self.eqcr.valid_bit);
                self.cinh.write32(QBMAN_CINH_SWP_EQCR_PI as usize, doorbell);
            }
            Generation::Direct => {
                // All but the words with the valid bits; a barrier for the whole burst; then those.
                let mut verbs = [0; 8];
                for (i, verb) in verbs[..n].iter_mut().enumerate() {
                    let line = words(&self.with_valid_bit(command(i)));
                    self.cena.write_words(self.entry(first + i as u32) + 8, &line[1..]);
                    *verb = line[0];
                    self.advance(entries);
                }
                barrier::before_handover();
                for (i, &verb) in verbs[..n].iter().enumerate() {
                    self.cena.write64(self.entry(first + i as u32), verb);
                }
            }
        }
        self.eqcr.available -= n as u32;
        Ok(n)
    }

    #[inline(always)]
    fn with_valid_bit(&self, mut command: EnqueueCommand) -> EnqueueCommand {
        command.verb = command.verb & !VB | self.eqcr.valid_bit;
        command
    }

    /// Where entry `index` (wrap bit and more allowed) starts.
    #[inline(always)]
    fn entry(&self, index: u32) -> usize {
        (self.layout.eqcr + index % self.layout.eqcr_entries * LINE_BYTES as u32) as usize
    }

    #[inline(always)]
    fn advance(&mut self, entries: u32) {
        self.eqcr.pi = (self.eqcr.pi + 1) & self.layout.eqcr_pi_mask();
        if self.eqcr.pi.is_multiple_of(entries) {
            self.eqcr.valid_bit ^= VB;
        }
    }

    fn look_at_consumer(&mut self) -> Result<(), PortalError> {
        let entries = self.layout.eqcr_entries;
        let ci = self.cena.read32(self.layout.eqcr_ci as usize) & self.layout.eqcr_pi_mask();
        let done = cyclic_difference(entries, self.eqcr.ci, ci);
        if self.eqcr.available + done > entries {
            return Err(PortalError::Broken {
                what: "enqueue ring consumed past its producer",
                value: ci.into(),
            });
        }
        self.eqcr.ci = ci;
        self.eqcr.available += done;
        Ok(())
    }

    /// Enqueue commands that hardware hasn't taken yet.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn enqueues_under_way(&mut self) -> Result<u32, PortalError> {
        self.look_at_consumer()?;
        Ok(self.layout.eqcr_entries - self.eqcr.available)
    }

    /// Most frames of one [`pull`](Self::pull).
    pub fn pull_max(&self) -> u32 {
        match self.generation {
            Generation::Direct => FRAMES_MAX_DIRECT,
            Generation::MemoryBacked => FRAMES_MAX_MEMORY_BACKED,
        }
    }

    /// Asks for up to `frames` frames (1 to [`pull_max`](Self::pull_max)), to be found in `results`. There is always
    /// an answer; without frames it is one result that says so.
    ///
    /// # Errors
    /// [`PortalError::PullBusy`] when the answer to the last one hasn't been taken to its end.
    #[inline]
    pub fn pull<B: Bus>(
        &mut self,
        source: Source,
        frames: u32,
        results: &mut Results<B>,
    ) -> Result<(), PortalError> {
        if self.pulling || results.is_waiting() {
            return Err(PortalError::PullBusy);
        }
        let frames = frames.clamp(1, self.pull_max());
        let iova = results.expect(frames, self.token);
        let mut command = match source {
            Source::Fq(fqid) => VolatileDequeue::from_fq(fqid, frames, self.token, iova),
            Source::Channel(channel) => VolatileDequeue::from_channel(channel, frames, self.token, iova),
        };
        command.verb |= self.vdqcr_valid_bit;
        self.vdqcr_valid_bit ^= VB;
        let line = self.layout.vdqcr as usize;
        let [first, second] = half_words(&command);
        self.cena.write64(line + 8, second);
        match self.generation {
            Generation::MemoryBacked => {
                self.cena.write64(line, first);
                barrier::before_handover();
                self.cinh.write32(QBMAN_CINH_SWP_VDQCR_RT as usize, RT_MODE);
            }
            Generation::Direct => {
                barrier::before_handover();
                self.cena.write64(line, first);
            }
        }
        self.pulling = true;
        Ok(())
    }

    /// Says that the answer to the pull under way was [taken to its end](Results::take).
    #[inline(always)]
    pub fn pull_answered(&mut self) {
        self.pulling = false;
    }

    /// Whether a pull is under way.
    pub fn is_pulling(&self) -> bool {
        self.pulling
    }
}

fn require(have: usize, need: usize) -> Result<(), PortalError> {
    if have < need { Err(PortalError::WindowTooSmall { have, need }) } else { Ok(()) }
}

/// A line as words, as windows take them.
#[inline(always)]
pub(crate) fn words<T: IntoBytes + zerocopy::Immutable>(line: &T) -> [u64; LINE_BYTES / 8] {
    let bytes: &[u8; LINE_BYTES] = line.as_bytes().try_into().expect("commands are lines");
    std::array::from_fn(|i| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().expect("8 bytes")))
}

#[inline(always)]
fn half_words(command: &VolatileDequeue) -> [u64; 2] {
    let bytes = command.as_bytes();
    std::array::from_fn(|i| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().expect("8 bytes")))
}
