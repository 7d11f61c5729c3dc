//! Management commands of a portal and their responses: both 64-byte lines with a verb, a result in byte 1 of the
//! response.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::release::BUFFERS_MAX;

/// A command with its verb and its response.
pub trait Command: IntoBytes + Immutable {
    /// Verb without valid bit.
    const VERB: u8;
    /// Words of 64 bits, from the first on, that hardware looks at: the line's other ones need not be written (DPDK's
    /// `qbman_portal.c` leaves in them what was there).
    const WORDS: usize;
    /// The response's layout.
    type Response: FromBytes + KnownLayout + Immutable;
}

/// Result of a successful command, byte 1 of a response.
pub const RESULT_OK: u8 = 0xf0;
/// Offset of the result in a response.
pub const RESULT_OFFSET: usize = 1;

/// Verb: acquire buffers.
pub const VERB_ACQUIRE: u8 = 0x30;
/// Verb: configure a channel's notification.
pub const VERB_CHANNEL: u8 = 0x46;
/// Verb: schedule a queue.
pub const VERB_FQ_SCHEDULE: u8 = 0x48;
/// Verb: make a queue eligible.
pub const VERB_FQ_FORCE: u8 = 0x49;
/// Verb: let a queue flow.
pub const VERB_FQ_XON: u8 = 0x4d;
/// Verb: stop a queue.
pub const VERB_FQ_XOFF: u8 = 0x4e;
/// Verb: query a pool.
pub const VERB_QUERY_POOL: u8 = 0x32;
/// Verb: query a queue's configuration.
pub const VERB_QUERY_FQ: u8 = 0x44;
/// Verb: query a queue's state.
pub const VERB_QUERY_FQ_STATE: u8 = 0x45;
/// Verb: query a channel.
pub const VERB_QUERY_CHANNEL: u8 = 0x47;
/// Verb: query a congestion group.
pub const VERB_QUERY_CONGESTION: u8 = 0x51;

/// Takes buffers from a pool.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Acquire {
    /// Filled in by the portal.
    pub verb: u8,
    /// Reserved.
    pub reserved_01: u8,
    /// The pool.
    pub bpid: U16,
    /// Buffers wanted, 1 to [`BUFFERS_MAX`].
    pub count: u8,
    /// Reserved.
    pub reserved_05: [u8; 3],
    /// Reserved.
    pub reserved_08: [[u8; 28]; 2],
}

/// What [`Acquire`] gave: all that were wanted, or none.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Acquired {
    /// The command's verb.
    pub verb: u8,
    /// Result.
    pub result: u8,
    /// Reserved.
    pub reserved_02: U16,
    /// Buffers given, in the low 3 bits.
    pub count: u8,
    /// Reserved.
    pub reserved_05: [u8; 3],
    /// The buffers.
    pub buffers: [U64; BUFFERS_MAX],
}

/// Configures a channel's data availability notification (CDAN).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ConfigureChannel {
    /// Filled in by the portal.
    pub verb: u8,
    /// Reserved.
    pub reserved_01: u8,
    /// The channel.
    pub channel: U16,
    /// What is written: [`CHANNEL_WRITE_ENABLE`], [`CHANNEL_WRITE_CONTEXT`].
    pub write: u8,
    /// Bit 0: notify.
    pub control: u8,
    /// Reserved.
    pub reserved_06: U16,
    /// Context of the notifications.
    pub context: U64,
    /// Reserved.
    pub reserved_10: [[u8; 16]; 3],
}

/// [`ConfigureChannel`] writes the enable bit.
pub const CHANNEL_WRITE_ENABLE: u8 = 1;
/// [`ConfigureChannel`] writes the context.
pub const CHANNEL_WRITE_CONTEXT: u8 = 4;

/// Answer to [`ConfigureChannel`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ChannelConfigured {
    /// The command's verb.
    pub verb: u8,
    /// Result.
    pub result: u8,
    /// The channel.
    pub channel: U16,
    /// Reserved.
    pub reserved_04: [[u8; 20]; 3],
}

/// A command about one frame queue (state changes and queries); the verb says which.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct AboutFq {
    /// Filled in by the portal.
    pub verb: u8,
    /// Reserved.
    pub reserved_01: [u8; 3],
    /// FQID, 24 bits.
    pub fqid: U32,
    /// Reserved.
    pub reserved_08: [[u8; 28]; 2],
}

/// Asks for a queue's state.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct QueryFqState(pub AboutFq);

/// Makes a parked queue scheduled.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct ScheduleFq(pub AboutFq);

impl AboutFq {
    /// About queue `fqid`.
    pub fn new(fqid: u32) -> AboutFq {
        AboutFq { fqid: fqid.into(), ..AboutFq::default() }
    }
}

/// Answer with a result only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Done {
    /// The command's verb.
    pub verb: u8,
    /// Result.
    pub result: u8,
    /// Reserved.
    pub reserved_02: [u8; 62],
}

/// A queue's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FqState {
    /// The command's verb.
    pub verb: u8,
    /// Result.
    pub result: u8,
    /// Schedule state 2:0, 3 force eligible, 4 stopped, 5 retiring, 6 overflow.
    pub state: u8,
    /// Reserved.
    pub reserved_03: [u8; 21],
    /// Frames, 24 bits.
    pub frames: U32,
    /// Bytes.
    pub bytes: U32,
    /// Reserved.
    pub reserved_20: [u8; 32],
}

/// Asks for a pool's state.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct QueryPool {
    /// Filled in by the portal.
    pub verb: u8,
    /// Reserved.
    pub reserved_01: u8,
    /// The pool.
    pub bpid: U16,
    /// Reserved.
    pub reserved_04: [[u8; 30]; 2],
}

/// A pool's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PoolState {
    /// The command's verb.
    pub verb: u8,
    /// Result.
    pub result: u8,
    /// Reserved.
    pub reserved_02: [u8; 4],
    /// Configuration flags.
    pub flags: u8,
    /// 0 no free buffers, 1 depleted, 2 surplus.
    pub state: u8,
    /// Free buffers.
    pub free: U32,
    /// Reserved and thresholds.
    pub reserved_0c: [u8; 52],
}
const _: () = assert!(core::mem::offset_of!(PoolState, free) == 8);
const _: () = assert!(core::mem::offset_of!(FqState, frames) == 24);
const _: () = assert!(core::mem::offset_of!(Acquired, buffers) == 8);
const _: () = assert!(core::mem::offset_of!(ConfigureChannel, context) == 8);

macro_rules! commands {
    ($($command:ty: $verb:expr, $words:literal => $response:ty,)+) => {$(
        const _: () = assert!(size_of::<$command>() == super::LINE_BYTES);
        const _: () = assert!(size_of::<$response>() == super::LINE_BYTES);
        impl Command for $command {
            const VERB: u8 = $verb;
            const WORDS: usize = $words;
            type Response = $response;
        }
    )+};
}

commands! {
    Acquire: VERB_ACQUIRE, 1 => Acquired,
    ConfigureChannel: VERB_CHANNEL, 2 => ChannelConfigured,
    QueryFqState: VERB_QUERY_FQ_STATE, 1 => FqState,
    ScheduleFq: VERB_FQ_SCHEDULE, 1 => Done,
    QueryPool: VERB_QUERY_POOL, 1 => PoolState,
}

impl Acquire {
    /// `count` buffers of pool `bpid`.
    pub fn new(bpid: u16, count: u8) -> Acquire {
        Acquire { bpid: bpid.into(), count, ..Acquire::default() }
    }
}

impl Acquired {
    /// The buffers given.
    pub fn buffers(&self) -> &[U64] {
        &self.buffers[..usize::from(self.count & 7)]
    }
}

impl ConfigureChannel {
    /// Notifies with `context` once when the channel has, or gets, a frame.
    pub fn notify(channel: u16, context: u64) -> ConfigureChannel {
        ConfigureChannel {
            channel: channel.into(),
            write: CHANNEL_WRITE_ENABLE | CHANNEL_WRITE_CONTEXT,
            control: 1,
            context: context.into(),
            ..ConfigureChannel::default()
        }
    }

    /// Doesn't notify.
    pub fn silence(channel: u16) -> ConfigureChannel {
        ConfigureChannel {
            channel: channel.into(),
            write: CHANNEL_WRITE_ENABLE,
            ..ConfigureChannel::default()
        }
    }
}

impl QueryPool {
    /// About pool `bpid`.
    pub fn new(bpid: u16) -> QueryPool {
        QueryPool { bpid: bpid.into(), ..QueryPool::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acquire_is_laid_out_as_captured_from_dpdk() {
        let mut command = Acquire::new(5, 2);
        command.verb = Acquire::VERB | super::super::VB;
        assert_eq!(command.as_bytes()[..5], [0xb0, 0, 5, 0, 2]);
        assert!(command.as_bytes()[5..].iter().all(|&b| b == 0));
        let mut answer = [0; 64];
        answer[..5].copy_from_slice(&[0xb0, 0xf0, 0, 0, 2]);
        (answer[8], answer[16]) = (0x40, 0x80);
        let answer = Acquired::read_from_bytes(&answer).unwrap();
        assert_eq!(answer.result, RESULT_OK);
        assert_eq!(answer.buffers(), [U64::new(0x40), U64::new(0x80)]);
    }

    #[test]
    fn a_channel_notification_is_configured_as_captured_from_dpdk() {
        let mut command = ConfigureChannel::notify(0x77, 0x00ab_cdef);
        command.verb = ConfigureChannel::VERB;
        let captured = [0x46, 0, 0x77, 0, 5, 1, 0, 0, 0xef, 0xcd, 0xab, 0, 0, 0, 0, 0];
        assert_eq!(command.as_bytes()[..16], captured);
    }

    #[test]
    fn queries_name_their_queue_in_bytes_4_to_7() {
        assert_eq!(QueryFqState(AboutFq::new(0x0012_3456)).as_bytes()[4..8], [0x56, 0x34, 0x12, 0]);
        assert_eq!(QueryPool::new(0x1ff).as_bytes()[2..4], [0xff, 1]);
    }
}
