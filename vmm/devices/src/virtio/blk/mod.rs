//! The block device (virtio 1.2, section 5.2), with its back-ends.
//!
//! - [`inline`]: on the processor that asks, which waits for it.
//! - [`dataplane`]: on a thread of its own, by io_uring, with several queues.
//! - [`vhost_user`]: another process does it.

pub mod dataplane;
pub mod inline;
mod request;
pub mod vhost_user;

use disk::Disk;
use virtio_defs::blk::{CONFIG_BYTES, ID_BYTES, SECTOR_BYTES, feature};
use virtio_defs::feature::{EVENT_IDX, INDIRECT_DESC, VERSION_1};

/// Most entries of a queue.
pub const QUEUE_SIZE: u16 = 256;
/// Most queues of a disk.
pub const QUEUES_MAX: u16 = 8;

/// Most buffers of a request: those of a queue, less header and status.
const SEGMENTS_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Most sectors that are discarded or made zero by a request: 16 MiB.
const RANGE_SECTORS_MAX: u32 = (16 << 20) / SECTOR_BYTES as u32;

/// A disk as the guest sees it.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    sectors: u64,
    block_bytes: u32,
    read_only: bool,
    queues: u16,
    id: [u8; ID_BYTES],
}

impl Geometry {
    /// That of `disk`; `id` is cut to what fits.
    fn new(disk: &Disk, queues: u16, id: &str) -> Geometry {
        let mut bytes = [0; ID_BYTES];
        bytes.iter_mut().zip(id.bytes()).for_each(|(to, from)| *to = from);
        Geometry {
            sectors: disk.bytes() / SECTOR_BYTES,
            block_bytes: disk.block_bytes(),
            read_only: disk.is_read_only(),
            queues,
            id: bytes,
        }
    }

    fn features(&self) -> u64 {
        let writes = if self.read_only { feature::RO } else { feature::DISCARD | feature::WRITE_ZEROES };
        let queues = if self.queues > 1 { feature::MQ } else { 0 };
        let common = VERSION_1 | EVENT_IDX | INDIRECT_DESC;
        common | feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH | writes | queues
    }

    /// The device configuration (section 5.2.4).
    fn config(&self) -> [u8; CONFIG_BYTES] {
        let mut bytes = [0; CONFIG_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.sectors.to_le_bytes());
        put(12, &SEGMENTS_MAX.to_le_bytes());
        put(20, &self.block_bytes.to_le_bytes());
        put(34, &self.queues.to_le_bytes());
        // Discard: sectors, ranges of a request, alignment. Zeros: sectors, ranges, may give space back.
        let alignment = self.block_bytes / SECTOR_BYTES as u32;
        for (at, word) in (36..).step_by(4).zip([RANGE_SECTORS_MAX, 1, alignment, RANGE_SECTORS_MAX, 1, 1]) {
            put(at, &word.to_le_bytes());
        }
        bytes
    }
}
