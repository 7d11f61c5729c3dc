//! What can go wrong between a driver and the system.

use std::io;

use dpaa2_defs::mc::object::ObjectId;

/// Why the bus couldn't do something.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The container doesn't hold this object.
    #[error("{object} isn't in {container}")]
    NoObject {
        /// What was asked for.
        object: ObjectId,
        /// Where.
        container: ObjectId,
    },
    /// The object hasn't that many regions.
    #[error("{object} has no region {index}")]
    NoRegion {
        /// Of which object.
        object: ObjectId,
        /// Which.
        index: u32,
    },
    /// The region exists and can't be mapped.
    #[error("region {index} of {object} can't be mapped")]
    NotMappable {
        /// Of which object.
        object: ObjectId,
        /// Which.
        index: u32,
    },
    /// The object hasn't that many interrupts.
    #[error("{object} has no interrupt {index}")]
    NoIrq {
        /// Of which object.
        object: ObjectId,
        /// Which.
        index: u32,
    },
    /// The object isn't an MC command portal.
    #[error("{object} is no MC command portal: those are dpmcp objects, and the container's own")]
    NoCommandPortal {
        /// Which.
        object: ObjectId,
    },
    /// Memory can't be mapped for DMA, or isn't.
    #[error("DMA range {iova:#x}, {len} bytes: {why}")]
    Dma {
        /// First I/O virtual address.
        iova: u64,
        /// Length in bytes.
        len: usize,
        /// Why not.
        why: DmaRefusal,
    },
    /// The object refused to be reset.
    #[error("{object} can't be reset: {cause}")]
    Reset {
        /// Which.
        object: ObjectId,
        /// What it said.
        cause: String,
    },
    /// The system refused, or what it said makes no sense.
    #[error("{doing}: {cause}")]
    System {
        /// What was being done, to what.
        doing: String,
        /// What the system said.
        cause: io::Error,
    },
}

impl BusError {
    /// What the system said to something.
    pub fn system(doing: impl Into<String>, cause: io::Error) -> Self {
        BusError::System { doing: doing.into(), cause }
    }
}

/// What is wrong with a range of DMA memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DmaRefusal {
    /// It is empty, or its end is past the last address.
    #[error("it is empty or wraps around")]
    NotARange,
    /// Address, length or IOVA isn't a multiple of the page size.
    #[error("address, length and IOVA must be multiples of the page size")]
    Unaligned,
    /// Some of it is mapped already.
    #[error("some of it is mapped already")]
    Overlap,
    /// There is no range with exactly these bounds.
    #[error("no range with these bounds is mapped")]
    NotMapped,
    /// More memory would be locked than this process may.
    #[error(
        "it is more memory than this process may lock: raise its memlock limit (ulimit -l, LimitMEMLOCK=)"
    )]
    MemlockLimit,
    /// The IOMMU can't have so many ranges, or such addresses.
    #[error("the IOMMU takes no more ranges, or not these addresses")]
    IommuLimit,
}
