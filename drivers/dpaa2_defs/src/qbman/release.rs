//! Buffer release commands.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most buffers of one release or acquire.
pub const BUFFERS_MAX: usize = 7;

/// An RCR entry, 64 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ReleaseCommand {
    /// [`VERB_RELEASE`], perhaps [`VERB_IRQ`], the count and [`super::VB`].
    pub verb: u8,
    /// Reserved.
    pub reserved_01: u8,
    /// The pool.
    pub bpid: U16,
    /// Reserved.
    pub reserved_04: U32,
    /// The buffers.
    pub buffers: [U64; BUFFERS_MAX],
}
const _: () = assert!(size_of::<ReleaseCommand>() == super::LINE_BYTES);

/// Verb: a release.
pub const VERB_RELEASE: u8 = 0x20;
/// Verb: interrupt when dispatched.
pub const VERB_IRQ: u8 = 0x40;
/// Verb: mask of the count.
pub const VERB_COUNT_MASK: u8 = 0x07;

impl ReleaseCommand {
    /// Up to [`BUFFERS_MAX`] buffers to pool `bpid`, with the slot's valid bit.
    ///
    /// # Panics
    /// With more buffers.
    pub fn new(bpid: u16, buffers: &[u64], valid_bit: u8) -> ReleaseCommand {
        let mut all = [U64::ZERO; BUFFERS_MAX];
        for (to, &from) in all[..buffers.len()].iter_mut().zip(buffers) {
            *to = from.into();
        }
        ReleaseCommand {
            verb: VERB_RELEASE | valid_bit & super::VB | buffers.len() as u8,
            bpid: bpid.into(),
            buffers: all,
            ..ReleaseCommand::default()
        }
    }

    /// How many buffers there are.
    pub fn count(&self) -> usize {
        usize::from(self.verb & VERB_COUNT_MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_laid_out_as_captured_from_dpdk() {
        let command = ReleaseCommand::new(5, &[0x0111_1000, 0x0222_2000, 0x0333_3000], 0x80);
        let mut captured = [0; 64];
        captured[..4].copy_from_slice(&[0xa3, 0, 5, 0]);
        captured[8..12].copy_from_slice(&[0, 0x10, 0x11, 1]);
        captured[16..20].copy_from_slice(&[0, 0x20, 0x22, 2]);
        captured[24..28].copy_from_slice(&[0, 0x30, 0x33, 3]);
        assert_eq!(command.as_bytes(), captured);
        assert_eq!(command.count(), 3);
    }
}
