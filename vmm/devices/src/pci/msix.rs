//! MSI-X: a table of messages, one for each vector (PCI 3.0, section 6.8.2).

use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::EventFd;
use crate::pci::Capability;
use crate::platform::{Message, Platform, Vector};

/// Most vectors of a device here.
pub const VECTORS_MAX: usize = 64;
const ENTRY_BYTES: usize = 16;
const ID: u8 = 0x11;
/// Message control: the table's size less one; all masked; enabled.
const CONTROL_MASKED: u16 = 1 << 14;
const CONTROL_ENABLED: u16 = 1 << 15;
/// Vector control: masked.
const MASKED: u32 = 1;

/// A device's vectors.
pub struct Msix {
    vectors: Vec<Box<dyn Vector>>,
    table: Vec<[u32; 4]>,
    control: u16,
    requester: u32,
}

impl Msix {
    /// Vectors for the device that has the number `requester` on its bus.
    ///
    /// # Errors
    /// There are no more.
    pub fn new(count: usize, requester: u32, platform: &dyn Platform) -> io::Result<Msix> {
        assert!((1..=VECTORS_MAX).contains(&count));
        let vectors = (0..count).map(|_| platform.create_vector()).collect::<io::Result<_>>()?;
        Ok(Msix { vectors, table: vec![[0, 0, 0, MASKED]; count], control: count as u16 - 1, requester })
    }

    /// How many vectors there are.
    pub fn count(&self) -> usize {
        self.vectors.len()
    }

    /// The capability's body for table and pending bits in window 0.
    pub fn capability(&self, table: u32, pending: u32) -> [u8; 10] {
        let mut body = [0; 10];
        body[..2].copy_from_slice(&self.control.to_le_bytes());
        body[2..6].copy_from_slice(&table.to_le_bytes());
        body[6..].copy_from_slice(&pending.to_le_bytes());
        body
    }

    /// The capability for [`capability`](Self::capability)'s body.
    pub fn describe(body: &[u8; 10]) -> Capability<'_> {
        Capability { id: ID, body, writable: &[0, 0xc0] }
    }

    /// What to signal for a vector; `None` if there is no such vector.
    pub fn event(&self, vector: u16) -> Option<&EventFd> {
        self.vectors.get(usize::from(vector)).map(|vector| vector.event())
    }

    /// Takes the message control register as the guest has written it.
    pub fn set_control(&mut self, control: u16) {
        let control = self.control & 0x7ff | control & (CONTROL_MASKED | CONTROL_ENABLED);
        if std::mem::replace(&mut self.control, control) != control {
            (0..self.count()).for_each(|vector| self.apply(vector));
        }
    }

    /// Reads the table.
    pub fn read_table(&self, offset: usize, data: &mut [u8]) {
        let bytes = |at: usize| {
            let entry = self.table.get(at / ENTRY_BYTES)?;
            Some(entry[at % ENTRY_BYTES / 4].to_le_bytes()[at % 4])
        };
        for (at, byte) in (offset..).zip(data) {
            *byte = bytes(at).unwrap_or(0);
        }
    }

    /// Writes the table: aligned words of 4 or 8 bytes, others have no effect (section 6.8.2).
    pub fn write_table(&mut self, offset: usize, data: &[u8]) {
        if !offset.is_multiple_of(4) || !matches!(data.len(), 4 | 8) {
            return;
        }
        for (at, word) in (offset..).step_by(4).zip(data.as_chunks::<4>().0) {
            let (vector, field) = (at / ENTRY_BYTES, at % ENTRY_BYTES / 4);
            let Some(entry) = self.table.get_mut(vector) else { return };
            entry[field] = u32::from_le_bytes(*word);
            self.apply(vector);
        }
    }

    /// Reads the pending bits: which masked vectors were signalled.
    pub fn read_pending(&self, offset: usize, data: &mut [u8]) {
        let pending = (0..self.count()).filter(|&vector| self.is_masked(vector) && self.is_signalled(vector));
        let bits = pending.fold(0u64, |bits, vector| bits | 1 << vector).to_le_bytes();
        for (at, byte) in (offset..).zip(data) {
            *byte = bits.get(at).copied().unwrap_or(0);
        }
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.table.fill([0, 0, 0, MASKED]);
        self.set_control(0);
        for vector in &self.vectors {
            // What was signalled before is forgotten.
            vector.event().drain();
        }
    }

    fn is_masked(&self, vector: usize) -> bool {
        self.control & (CONTROL_MASKED | CONTROL_ENABLED) != CONTROL_ENABLED
            || self.table[vector][3] & MASKED != 0
    }

    fn is_signalled(&self, vector: usize) -> bool {
        let mut fds = [PollFd::new(self.vectors[vector].event(), PollFlags::IN)];
        let now = Timespec::try_from(Duration::ZERO).expect("zero is a time");
        poll(&mut fds, Some(&now)) == Ok(1)
    }

    fn apply(&self, vector: usize) {
        let [low, high, data, _] = self.table[vector];
        let result = if self.is_masked(vector) {
            self.vectors[vector].mask()
        } else {
            let address = u64::from(high) << 32 | u64::from(low);
            self.vectors[vector].unmask(Message { address, data, requester: self.requester })
        };
        if let Err(error) = result {
            // The guest can write any address; one that leads nowhere interrupts nobody.
            tracing::debug!(vector, %error, "an interrupt vector is of no use");
        }
    }
}
