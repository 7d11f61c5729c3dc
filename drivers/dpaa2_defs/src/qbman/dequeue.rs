//! Dequeue commands, results and notifications.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::fd::Fd;

/// A volatile dequeue command: the first 16 bytes of the VDQCR line; the rest is not written.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct VolatileDequeue {
    /// The `VERB_...` bits and [`super::VB`].
    pub verb: u8,
    /// Frames wanted, less one.
    pub frames_less_1: u8,
    /// Copied to every result; not zero.
    pub token: u8,
    /// Reserved.
    pub reserved_03: u8,
    /// FQID, channel or work queue.
    pub source: U32,
    /// IOVA of the results, with [`VERB_RLS`]; 64-byte aligned.
    pub response_address: U64,
}
const _: () = assert!(size_of::<VolatileDequeue>() == 16);

/// Verb: mask of the class.
pub const VERB_CLASS_MASK: u8 = 0x03;
/// Verb: by priority, with credits.
pub const VERB_CLASS_PRIORITY: u8 = 1;
/// Verb: the active queue.
pub const VERB_CLASS_ACTIVE: u8 = 2;
/// Verb: the active queue, without credits.
pub const VERB_CLASS_ACTIVE_NO_ICS: u8 = 3;
/// Verb: mask of the source's type.
pub const VERB_SOURCE_MASK: u8 = 0x0c;
/// Verb: the source is a channel.
pub const VERB_SOURCE_CHANNEL: u8 = 0;
/// Verb: the source is a work queue.
pub const VERB_SOURCE_WORK_QUEUE: u8 = 1 << 2;
/// Verb: the source is a frame queue.
pub const VERB_SOURCE_FQ: u8 = 2 << 2;
/// Verb: results go to memory.
pub const VERB_RLS: u8 = 1 << 4;
/// Verb: results are stashed.
pub const VERB_WAE: u8 = 1 << 5;
/// Verb: reschedule the queue after the dequeue.
pub const VERB_RAD: u8 = 1 << 6;

/// Most frames of one volatile dequeue on QBMan before 5.0.
pub const FRAMES_MAX_DIRECT: u32 = 16;
/// Most frames of one volatile dequeue on QBMan 5.0.
pub const FRAMES_MAX_MEMORY_BACKED: u32 = 32;

impl VolatileDequeue {
    /// Up to `frames` frames of queue `fqid` to memory at `iova`. Without valid bit.
    pub fn from_fq(fqid: u32, frames: u32, token: u8, iova: u64) -> VolatileDequeue {
        VolatileDequeue {
            verb: VERB_CLASS_PRIORITY | VERB_SOURCE_FQ | VERB_RLS | VERB_WAE,
            frames_less_1: (frames - 1) as u8,
            token,
            reserved_03: 0,
            source: fqid.into(),
            response_address: iova.into(),
        }
    }

    /// Up to `frames` frames of one queue of channel `channel` to memory at `iova`. Without valid bit.
    pub fn from_channel(channel: u16, frames: u32, token: u8, iova: u64) -> VolatileDequeue {
        VolatileDequeue {
            verb: VERB_CLASS_ACTIVE | VERB_SOURCE_CHANNEL | VERB_RLS | VERB_WAE,
            source: u32::from(channel).into(),
            ..VolatileDequeue::from_fq(0, frames, token, iova)
        }
    }

    /// Frames wanted.
    pub fn frames(&self) -> u32 {
        u32::from(self.frames_less_1) + 1
    }
}

/// The static dequeue command register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sdqcr(pub u32);

impl Sdqcr {
    /// Token of frames pushed to the DQRR, as DPDK and Linux choose it.
    pub const TOKEN: u8 = 0xbb;
    /// No source.
    pub const OFF: Sdqcr = Sdqcr(0);

    /// Channels by their index at this portal, bit 0 the portal's own; up to 3 frames at a time, by priority.
    pub const fn sources(mask: u16) -> Sdqcr {
        if mask == 0 {
            Sdqcr::OFF
        } else {
            Sdqcr(1 << 29 | 1 << 24 | (Sdqcr::TOKEN as u32) << 16 | mask as u32)
        }
    }

    /// The channels.
    pub const fn source_mask(self) -> u16 {
        self.0 as u16
    }

    /// The token of its results.
    pub const fn token(self) -> u8 {
        (self.0 >> 16) as u8
    }
}

/// One result of a dequeue, in the DQRR or in memory: a frame, or that there is none. 64 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DequeueResult {
    /// [`VERB_DEQUEUE`], in the DQRR with [`super::VB`].
    pub verb: u8,
    /// The `STAT_...` bits.
    pub stat: u8,
    /// Sequence number, with [`STAT_ORDER_VALID`].
    pub sequence: U16,
    /// Order point record, with [`STAT_ORDER_VALID`].
    pub order_id: U16,
    /// Reserved.
    pub reserved_06: u8,
    /// The command's token. **Written last** by hardware: not zero means the result is complete.
    pub token: u8,
    /// FQID, 24 bits.
    pub fqid: U32,
    /// Reserved.
    pub reserved_0c: U32,
    /// Bytes left in the queue.
    pub fq_bytes: U32,
    /// Frames left in the queue, 24 bits.
    pub fq_frames: U32,
    /// User context of the queue.
    pub context: U64,
    /// The frame.
    pub fd: Fd,
}
const _: () = assert!(size_of::<DequeueResult>() == super::LINE_BYTES);
const _: () = assert!(core::mem::offset_of!(DequeueResult, token) == TOKEN_OFFSET);
const _: () = assert!(core::mem::offset_of!(DequeueResult, context) == 24);
const _: () = assert!(core::mem::offset_of!(DequeueResult, fd) == 32);

/// Offset of a result's token.
pub const TOKEN_OFFSET: usize = 7;

/// Verb of a dequeue result.
pub const VERB_DEQUEUE: u8 = 0x60;
/// Mask of a verb without the valid bit.
pub const VERB_MASK: u8 = 0x7f;

/// The queue is empty now.
pub const STAT_FQ_EMPTY: u8 = 0x80;
/// The queue is held active.
pub const STAT_HELD_ACTIVE: u8 = 0x40;
/// Force eligible.
pub const STAT_FORCE_ELIGIBLE: u8 = 0x20;
/// There is a frame.
pub const STAT_VALID_FRAME: u8 = 0x10;
/// Sequence number and order point are valid.
pub const STAT_ORDER_VALID: u8 = 0x04;
/// Of a volatile dequeue.
pub const STAT_VOLATILE: u8 = 0x02;
/// The last result of its volatile dequeue.
pub const STAT_EXPIRED: u8 = 0x01;

impl DequeueResult {
    /// Whether there is a frame.
    pub fn has_frame(&self) -> bool {
        self.stat & STAT_VALID_FRAME != 0
    }

    /// Whether this is the last result of its volatile dequeue.
    pub fn is_expired(&self) -> bool {
        self.stat & STAT_EXPIRED != 0
    }
}

/// A state change notification, in a DQRR entry or in memory. 16 bytes are used of 64.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Notification {
    /// A `VERB_...` of [`notification`], with [`super::VB`] in the DQRR.
    pub verb: u8,
    /// Status.
    pub stat: u8,
    /// State: not zero for congested; bits of [`notification`] for pools.
    pub state: u8,
    /// Reserved.
    pub reserved_03: u8,
    /// The channel, queue, pool or group; 24 bits count.
    pub resource_id: U32,
    /// The context given when the notification was configured.
    pub context: U64,
}
const _: () = assert!(size_of::<Notification>() == 16);

/// Kinds of notification.
pub mod notification {
    /// A queue retired.
    pub const VERB_FQRN: u8 = 0x21;
    /// A queue retired at once.
    pub const VERB_FQRNI: u8 = 0x22;
    /// A queue was parked.
    pub const VERB_FQPN: u8 = 0x24;
    /// A queue has data. One-shot.
    pub const VERB_FQDAN: u8 = 0x25;
    /// A channel has data. One-shot.
    pub const VERB_CDAN: u8 = 0x26;
    /// Congestion changed, written to memory.
    pub const VERB_CSCN_MEMORY: u8 = 0x27;
    /// A congestion group's count.
    pub const VERB_CGCU: u8 = 0x28;
    /// A pool's state changed.
    pub const VERB_BPSCN: u8 = 0x29;
    /// Congestion changed, in a work queue.
    pub const VERB_CSCN: u8 = 0x2a;

    /// Pool state: no free buffers.
    pub const POOL_EMPTY: u8 = 1;
    /// Pool state: depleted.
    pub const POOL_DEPLETED: u8 = 2;
    /// Pool state: surplus.
    pub const POOL_SURPLUS: u8 = 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volatile_dequeue_is_laid_out_as_captured_from_dpdk() {
        let mut command = VolatileDequeue::from_fq(0x4321, 16, 10, 0x8000_0000);
        assert_eq!(command.verb, 0x39);
        command.verb |= super::super::VB;
        let captured = [0xb9, 0x0f, 0x0a, 0, 0x21, 0x43, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0];
        assert_eq!(command.as_bytes(), captured);
        assert_eq!(command.frames(), 16);
    }

    #[test]
    fn the_static_dequeue_command_has_dpdks_value() {
        assert_eq!(Sdqcr::sources(1).0, 0x21bb_0001);
        assert_eq!(Sdqcr::sources(0), Sdqcr::OFF);
        assert_eq!((Sdqcr(0x21bb_8001).source_mask(), Sdqcr(0x21bb_8001).token()), (0x8001, 0xbb));
    }

    #[test]
    fn a_result_with_a_frame_is_read_as_written() {
        let mut bytes = [0; 64];
        bytes[..12].copy_from_slice(&[0x60, 0x13, 0, 0, 0, 0, 0, 10, 101, 0, 0, 0]);
        bytes[32..48].copy_from_slice(&[0, 0x10, 0, 0, 0, 0x7f, 0, 0, 0x3c, 0, 0, 0, 5, 0, 0x80, 0]);
        bytes[48..50].copy_from_slice(&[0, 0xa0]);
        let result = DequeueResult::read_from_bytes(&bytes).unwrap();
        assert!(result.has_frame() && result.is_expired());
        assert_eq!((result.token, result.fqid.get()), (10, 101));
        let fd = result.fd;
        assert_eq!((fd.addr.get(), fd.len(), fd.bpid(), fd.offset()), (0x7f00_0000_1000, 60, 5, 128));
        assert_eq!(fd.frc.get(), crate::fd::FRC_FASV | crate::fd::FRC_FAPRV);
        assert_eq!(result.as_bytes(), bytes);
    }

    #[test]
    fn an_empty_pull_has_a_token_and_no_frame() {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&[0x60, 0x03, 0, 0, 0, 0, 0, 10]);
        let result = DequeueResult::read_from_bytes(&bytes).unwrap();
        assert!(!result.has_frame() && result.is_expired());
    }

    #[test]
    fn a_channel_notification_carries_channel_and_context() {
        let bytes = [0xa6, 0, 0, 0, 0x77, 0, 0, 0, 0xef, 0xcd, 0xab, 0, 0, 0, 0, 0];
        let notification = Notification::read_from_bytes(&bytes).unwrap();
        assert_eq!(notification.verb & VERB_MASK, notification::VERB_CDAN);
        assert_eq!((notification.resource_id.get(), notification.context.get()), (0x77, 0x00ab_cdef));
    }
}
