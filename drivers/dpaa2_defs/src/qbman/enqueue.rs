//! Enqueue commands and responses.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::fd::Fd;

/// An EQCR entry, 64 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct EnqueueCommand {
    /// The `VERB_...` bits and [`super::VB`].
    pub verb: u8,
    /// Discrete consumption: DQRR index 3:0, park 6, enable 7.
    pub dca: u8,
    /// Order restoration: sequence number 13:0, 14 not last in sequence, 15 this is the next expected number.
    pub sequence: U16,
    /// Order point record.
    pub order_id: U16,
    /// Reserved.
    pub reserved_06: U16,
    /// FQID (24 bits) or QDID (16).
    pub target: U32,
    /// Tag, returned in the response.
    pub tag: U32,
    /// QDID target: queue index within the destination.
    pub qd_bin: U16,
    /// QDID target: traffic class.
    pub qd_priority: u8,
    /// Reserved.
    pub reserved_13: [u8; 3],
    /// Write-allocate for the response.
    pub wae: u8,
    /// Response id: returned in the response, not zero to see it arrive.
    pub response_id: u8,
    /// IOVA the response is written to; 0 for none.
    pub response_address: U64,
    /// The frame.
    pub fd: Fd,
}
const _: () = assert!(size_of::<EnqueueCommand>() == super::LINE_BYTES);
const _: () = assert!(core::mem::offset_of!(EnqueueCommand, target) == 8);
const _: () = assert!(core::mem::offset_of!(EnqueueCommand, response_id) == 23);
const _: () = assert!(core::mem::offset_of!(EnqueueCommand, fd) == 32);

/// Verb: mask of the response policy.
pub const VERB_RESPONSE_MASK: u8 = 0x03;
/// Verb: an empty command or no response.
pub const VERB_RESPONSE_NEVER: u8 = 0;
/// Verb: always respond.
pub const VERB_RESPONSE_ALWAYS: u8 = 1;
/// Verb: respond to rejections only, into the queue's error queue.
pub const VERB_RESPONSE_REJECTS: u8 = 2;
/// Verb: order restoration.
pub const VERB_ORP: u8 = 1 << 2;
/// Verb: interrupt when dispatched.
pub const VERB_IRQ: u8 = 1 << 3;
/// Verb: the target is a queueing destination.
pub const VERB_TARGET_QD: u8 = 1 << 4;

/// DCA: mask of the DQRR index.
pub const DCA_INDEX_MASK: u8 = 0x0f;
/// DCA: leave the queue parked.
pub const DCA_PARK: u8 = 1 << 6;
/// DCA: consume the DQRR entry with this enqueue.
pub const DCA_ENABLE: u8 = 1 << 7;

impl EnqueueCommand {
    /// `fd` to frame queue `fqid`; only rejections are answered. Without valid bit.
    pub fn to_fq(fqid: u32, fd: Fd) -> EnqueueCommand {
        EnqueueCommand { verb: VERB_RESPONSE_REJECTS, target: fqid.into(), fd, ..EnqueueCommand::default() }
    }

    /// `fd` to queue `bin`, traffic class `priority` of queueing destination `qdid`. Without valid bit.
    pub fn to_qd(qdid: u16, bin: u16, priority: u8, fd: Fd) -> EnqueueCommand {
        EnqueueCommand {
            verb: VERB_RESPONSE_REJECTS | VERB_TARGET_QD,
            target: u32::from(qdid).into(),
            qd_bin: bin.into(),
            qd_priority: priority,
            fd,
            ..EnqueueCommand::default()
        }
    }

    /// The same, also consuming DQRR entry `index`: an atomic queue's hold ends when the enqueue is done.
    pub fn consuming(mut self, index: u8) -> EnqueueCommand {
        self.dca = DCA_ENABLE | index & DCA_INDEX_MASK;
        self
    }
}

/// An enqueue response, written to memory or sent to the error queue as it is. 64 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct EnqueueResponse {
    /// The command's verb.
    pub verb: u8,
    /// The command's DCA byte.
    pub dca: u8,
    /// The command's sequence number.
    pub sequence: U16,
    /// The command's order point record.
    pub order_id: U16,
    /// Reserved.
    pub reserved_06: u8,
    /// Result: [`ENQUEUE_OK`], or why it was rejected.
    pub result: u8,
    /// The command's target.
    pub target: U32,
    /// The command's tag.
    pub tag: U32,
    /// The command's queue index.
    pub qd_bin: U16,
    /// The command's traffic class.
    pub qd_priority: u8,
    /// Reserved.
    pub reserved_13: u8,
    /// The frame queue it went to, 24 bits.
    pub fqid: [u8; 3],
    /// The command's response id.
    pub response_id: u8,
    /// The command's response address.
    pub response_address: U64,
    /// The frame.
    pub fd: Fd,
}
const _: () = assert!(size_of::<EnqueueResponse>() == super::LINE_BYTES);
const _: () = assert!(core::mem::offset_of!(EnqueueResponse, response_id) == 23);

/// Result of a successful enqueue.
pub const ENQUEUE_OK: u8 = 0x0e;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enqueue_is_laid_out_as_captured_from_dpdk() {
        let command = EnqueueCommand::to_fq(0x1234, Fd::single(0x1000, 128, 64, 5));
        let mut bytes = [0; 64];
        bytes[..10].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, 0x34, 0x12]);
        bytes[32..48].copy_from_slice(&[0, 0x10, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 5, 0, 0x80, 0]);
        assert_eq!(command.as_bytes(), bytes);
    }

    #[test]
    fn a_queueing_destination_has_its_bin_and_priority_behind_the_tag() {
        let command = EnqueueCommand::to_qd(0x2a, 3, 5, Fd::default()).consuming(6);
        let bytes = command.as_bytes();
        assert_eq!((bytes[0], bytes[1], bytes[8], bytes[16], bytes[18]), (0x12, 0x86, 0x2a, 3, 5));
    }
}
