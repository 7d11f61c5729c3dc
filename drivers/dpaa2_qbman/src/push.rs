//! What the portal pushes: notifications and frames in the DQRR, and the interrupt that says so.

use dpaa2_defs::qbman::VB;
use dpaa2_defs::qbman::dequeue::{DequeueResult, Notification, Sdqcr, VERB_DEQUEUE, VERB_MASK};
use dpaa2_defs::qbman::registers::*;
use fslmc_bus::{Window, barrier};
use zerocopy::FromBytes;

use crate::Portal;

pub(crate) struct Dqrr {
    next: u32,
    valid_bit: u8,
    entries: u32,
    /// Before QBMan 4.1 valid bits of the first lap can't be trusted after a reset: its entries count as new when
    /// the producer index has passed them.
    first_lap: bool,
}

impl Dqrr {
    pub fn new(qbman_version: u32) -> Dqrr {
        let entries = dqrr_entries(qbman_version);
        Dqrr { next: 0, valid_bit: VB, entries, first_lap: qbman_version < QBMAN_REV_4100 }
    }
}

/// One entry of the DQRR. Not overwritten before it is [consumed](Portal::consume).
#[derive(Clone, Copy, Debug)]
pub enum Pushed {
    /// A frame.
    Frame(DequeueResult),
    /// Something changed.
    Notification(Notification),
}

impl<W: Window> Portal<W> {
    /// Chooses which channels push: bit 0 the portal's own (notifications), others by their index.
    pub fn push_from(&mut self, channels: u16) {
        self.cinh.write32(QBMAN_CINH_SWP_SDQCR as usize, Sdqcr::sources(channels).0);
    }

    /// Takes the next entry of the DQRR and the index to [consume](Self::consume) it by.
    pub fn next_pushed(&mut self) -> Option<(u8, Pushed)> {
        let index = self.dqrr.next;
        if self.dqrr.first_lap && self.cinh.read32(QBMAN_CINH_SWP_DQPI as usize) & 0xf == index {
            return None;
        }
        let line = (self.layout.dqrr + index * 64) as usize;
        if !self.dqrr.first_lap && self.cena.read32(line) as u8 & VB != self.dqrr.valid_bit {
            return None;
        }
        barrier::after_takeover();
        let bytes = self.cena.read_words::<8>(line).map(u64::to_le_bytes);
        let bytes = bytes.as_flattened();
        self.dqrr.next += 1;
        if self.dqrr.next == self.dqrr.entries {
            self.dqrr.next = 0;
            self.dqrr.valid_bit ^= VB;
            self.dqrr.first_lap = false;
        }
        let pushed = if bytes[0] & VERB_MASK == VERB_DEQUEUE {
            Pushed::Frame(DequeueResult::read_from_bytes(bytes).expect("a line is a result"))
        } else {
            Pushed::Notification(Notification::read_from_prefix(bytes).expect("a line has 16 bytes").0)
        };
        Some((index as u8, pushed))
    }

    /// Gives an entry back. An [`enqueue`](dpaa2_defs::qbman::enqueue::EnqueueCommand::consuming) can do it too.
    pub fn consume(&mut self, index: u8) {
        barrier::before_handover();
        self.cinh.write32(QBMAN_CINH_SWP_DCAP as usize, index.into());
    }

    /// Lets the portal interrupt when more than `threshold` entries are in the DQRR, or any for `timeout` units of 256
    /// QBMan clocks.
    pub fn interrupt_on_push(&mut self, threshold: u32, timeout: u32) {
        self.cinh.write32(QBMAN_CINH_SWP_DQRR_ITR as usize, threshold);
        self.cinh.write32(QBMAN_CINH_SWP_ITPR as usize, timeout);
        self.cinh.write32(QBMAN_CINH_SWP_ISR as usize, u32::MAX);
        self.cinh.write32(QBMAN_CINH_SWP_IER as usize, irq::DQRI);
        self.cinh.write32(QBMAN_CINH_SWP_IIR as usize, 0);
    }

    /// Clears what the interrupt status says and lets the portal interrupt again. Consume the DQRR before: a status
    /// whose cause is still there is set again at once.
    pub fn rearm_interrupt(&mut self) {
        let status = self.cinh.read32(QBMAN_CINH_SWP_ISR as usize);
        if status != 0 {
            self.cinh.write32(QBMAN_CINH_SWP_ISR as usize, status);
        }
        self.cinh.write32(QBMAN_CINH_SWP_IIR as usize, 0);
    }

    /// Keeps the portal from interrupting.
    pub fn inhibit_interrupt(&mut self) {
        self.cinh.write32(QBMAN_CINH_SWP_IIR as usize, 1);
    }
}
