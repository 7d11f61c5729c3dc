//! The fsl-mc bus: what a driver of DPAA2 objects needs from the system underneath it, and nothing about what the
//! objects mean.
//!
//! ```text
//! Bus ── objects()            what the container holds
//!  │  └─ map_dma()/unmap_dma() memory the hardware may reach, by I/O virtual address (IOVA)
//!  └─ open(dpio.3) ─> Device ── info(), region(i)
//!                        ├─ map(i) ──────────> Window        registers and rings, 32 and 64 bits at a time
//!                        ├─ command_portal() ─> CommandPortal  one MC command at a time (dpmcp and dprc)
//!                        ├─ arm_irq(i, eventfd), disarm_irq(i)
//!                        └─ reset()
//! ```
//!
//! There are two buses. [`vfio`] is the real one: `/dev/vfio`, `/sys/bus/fsl-mc`. The software model of the hardware
//! (`dpaa2_model`) implements the same traits in process: there each access to a [`Window`] is a call, so the model
//! sees every store at once and in order; with VFIO it is one volatile load or store. Code on the fast path takes
//! `W: Window` as a type parameter and compiles to plain accesses.
//!
//! Which window of a DPIO is which: [`dpio_region`]. [`DmaMemory`] allocates memory and maps it, [`Interrupt`] makes
//! an event descriptor and arms it; both undo that when dropped. [`barrier`] has the ordering that hardware needs.
//!
//! A device must stay open for as long as its object is used: VFIO resets an object when its last descriptor is
//! closed. Windows and command portals keep their device's descriptor alive.

// UNSAFETY: this crate maps device memory and calls ioctls that take addresses; safe code can't. Each block says what
// makes it right, and only `DmaMemory`, the VFIO bus and its windows hold raw pointers.
#![allow(unsafe_code)]

pub mod barrier;
mod dma;
mod error;
mod irq;
pub mod vfio;
mod window_portal;

pub use dma::DmaMemory;
pub use error::{BusError, DmaRefusal};
pub use irq::Interrupt;
pub use window_portal::WindowPortal;

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use dpaa2_defs::mc::object::ObjectId;

/// A container of objects, opened by this process.
///
/// Handles are cheap to clone and refer to the same container. It is closed when the last handle and the last thing
/// made from it is gone.
pub trait Bus: Clone + Send + Sync + 'static {
    /// An opened object.
    type Device: Device;

    /// The container: `dprc.2`.
    fn container(&self) -> ObjectId;

    /// The objects in the container, without the container itself, sorted by type and number. Nested containers are
    /// named, what they hold isn't.
    ///
    /// # Errors
    /// The list can't be read.
    fn objects(&self) -> Result<Vec<ObjectId>, BusError>;

    /// Opens an object of the container, or the container itself.
    ///
    /// # Errors
    /// The object isn't in the container, or can't be opened.
    fn open(&self, object: ObjectId) -> Result<Self::Device, BusError>;

    /// Lets the container's hardware read and write `len` bytes from `memory` on as `iova`, `iova + 1`, …
    ///
    /// All three must be multiples of the page size; the range may not overlap one that is mapped.
    ///
    /// # Safety
    /// The memory must stay mapped in this process, and not be used in a way that concurrent writes make undefined,
    /// until [`Bus::unmap_dma`] has returned for it or the container is closed.
    ///
    /// # Errors
    /// [`BusError::Dma`] with what is wrong: alignment, overlap, a limit.
    unsafe fn map_dma(&self, memory: NonNull<u8>, len: usize, iova: u64) -> Result<(), BusError>;

    /// Takes back what [`Bus::map_dma`] gave, by exactly the same `iova` and `len`.
    ///
    /// # Errors
    /// [`BusError::Dma`] if there is no such range.
    fn unmap_dma(&self, iova: u64, len: usize) -> Result<(), BusError>;

    /// The page size of DMA mappings, in bytes.
    fn dma_page_size(&self) -> usize;
}

/// An object of the container, opened. Closing it (dropping this and every [`Window`] and [`CommandPortal`] made from
/// it) may reset the object.
pub trait Device: Send + 'static {
    /// What [`Device::map`] gives.
    type Window: Window;
    /// What [`Device::command_portal`] gives.
    type CommandPortal: CommandPortal;

    /// Which object it is.
    fn object(&self) -> ObjectId;

    /// How many regions and interrupts it has.
    fn info(&self) -> DeviceInfo;

    /// Size and abilities of a region.
    ///
    /// # Errors
    /// There is no such region.
    fn region(&self, index: u32) -> Result<RegionInfo, BusError>;

    /// Maps a whole region. A DPIO's are in [`dpio_region`].
    ///
    /// # Errors
    /// There is no such region, or it can't be mapped (a container's never can).
    fn map(&self, index: u32) -> Result<Self::Window, BusError>;

    /// The MC command portal that this object is: a `dpmcp` is one, and the container has one of its own.
    ///
    /// # Errors
    /// [`BusError::NoCommandPortal`] for objects of other types.
    fn command_portal(&self) -> Result<Self::CommandPortal, BusError>;

    /// Has an interrupt write to an eventfd. The descriptor says only that the interrupt fired; its cause is read,
    /// and cleared, at the object.
    ///
    /// # Errors
    /// There is no such interrupt, or the system has none left.
    fn arm_irq(&self, index: u32, event: BorrowedFd<'_>) -> Result<(), BusError>;

    /// Ends what [`Device::arm_irq`] began.
    ///
    /// # Errors
    /// There is no such interrupt.
    fn disarm_irq(&self, index: u32) -> Result<(), BusError>;

    /// Puts the object back into the state after its creation. The container's reset resets what it holds.
    ///
    /// # Errors
    /// The MC or the system refuses.
    fn reset(&self) -> Result<(), BusError>;
}

/// A device with several users, such as its window's owner and the one who waits for its interrupt.
impl<D: Device + Sync> Device for Arc<D> {
    type Window = D::Window;
    type CommandPortal = D::CommandPortal;

    fn object(&self) -> ObjectId {
        (**self).object()
    }
    fn info(&self) -> DeviceInfo {
        (**self).info()
    }
    fn region(&self, index: u32) -> Result<RegionInfo, BusError> {
        (**self).region(index)
    }
    fn map(&self, index: u32) -> Result<Self::Window, BusError> {
        (**self).map(index)
    }
    fn command_portal(&self) -> Result<Self::CommandPortal, BusError> {
        (**self).command_portal()
    }
    fn arm_irq(&self, index: u32, event: BorrowedFd<'_>) -> Result<(), BusError> {
        (**self).arm_irq(index, event)
    }
    fn disarm_irq(&self, index: u32) -> Result<(), BusError> {
        (**self).disarm_irq(index)
    }
    fn reset(&self) -> Result<(), BusError> {
        (**self).reset()
    }
}

/// Size of an opened object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Number of regions.
    pub regions: u32,
    /// Number of interrupts.
    pub irqs: u32,
}

/// A region of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// Its length in bytes.
    pub len: usize,
    /// Whether [`Device::map`] can map it.
    pub mappable: bool,
}

/// Indices of a DPIO's regions.
///
/// Source: Linux, drivers/bus/fsl-mc and drivers/soc/fsl/dpio/dpio-driver.c; DPDK, drivers/bus/fslmc/portal/dpaa2_hw_pvt.h.
pub mod dpio_region {
    /// The cache-enabled window (CENA): rings and commands as lines of 64 bytes, for QBMan before 5.0. VFIO maps it
    /// without caching, so no cache maintenance is needed.
    pub const CENA: u32 = 0;
    /// The cache-inhibited window (CINH): registers and doorbells of 32 bits.
    pub const CINH: u32 = 1;
    /// The memory-backed CENA window of QBMan 5.0 and later: ordinary coherent memory. Objects on other hardware
    /// don't have it.
    pub const CENA_MEMORY: u32 = 2;
}

/// Mapped registers, or rings.
///
/// Accesses happen one by one in the order of the calls, as volatile accesses do. That is the order in which an
/// in-process model sees them. What order hardware sees is the caller's to say, with [`barrier`].
///
/// Offsets are in bytes, aligned to the access; words are little endian.
///
/// A window belongs to one thread at a time: it is `Send` and not `Sync`.
///
/// # Panics
/// All accesses panic if they aren't aligned or reach past the end: offsets are the driver's own, never a peer's.
pub trait Window: Send + 'static {
    /// Its length in bytes.
    fn window_len(&self) -> usize;
    /// Loads 32 bits.
    fn read32(&self, offset: usize) -> u32;
    /// Stores 32 bits.
    fn write32(&self, offset: usize, value: u32);
    /// Loads 64 bits.
    fn read64(&self, offset: usize) -> u64;
    /// Stores 64 bits.
    fn write64(&self, offset: usize, value: u64);

    /// Loads consecutive words of 64 bits, ascending.
    #[inline(always)]
    fn read_words<const N: usize>(&self, offset: usize) -> [u64; N] {
        std::array::from_fn(|i| self.read64(offset + 8 * i))
    }

    /// Stores 128 bits by one instruction where there is one. Which half arrives first isn't said.
    #[inline(always)]
    fn write128(&self, offset: usize, words: [u64; 2]) {
        self.write64(offset, words[0]);
        self.write64(offset + 8, words[1]);
    }

    /// Stores consecutive words of 64 bits by as few instructions as there can be, so in no particular order.
    #[inline(always)]
    fn write_words(&self, offset: usize, words: &[u64]) {
        let (mut at, mut words) = (offset, words);
        if !at.is_multiple_of(16)
            && let Some((&first, rest)) = words.split_first()
        {
            self.write64(at, first);
            (at, words) = (at + 8, rest);
        }
        let (pairs, last) = words.as_chunks::<2>();
        for (i, &pair) in pairs.iter().enumerate() {
            self.write128(at + 16 * i, pair);
        }
        if let [last] = last {
            self.write64(at + 16 * pairs.len(), *last);
        }
    }
}

/// A portal through which MC commands go, one at a time.
///
/// A command is 8 words of 64 bits, as the portal holds them: the header, then 7 of parameters. Neither is looked at
/// here beyond the status byte of the header.
pub trait CommandPortal: Send + 'static {
    /// Sends a command and waits for its end. What the MC answers may be an error status: that is a success here.
    ///
    /// The command's status byte must be READY (1).
    ///
    /// # Errors
    /// [`PortalError::Timeout`] if the MC hasn't answered after `timeout`. The command may still be carried out later;
    /// the portal refuses further ones with [`PortalError::Stuck`] until the answer has come.
    fn execute(&mut self, command: &[u64; 8], timeout: Duration) -> Result<[u64; 8], PortalError>;
}

impl<P: CommandPortal + ?Sized> CommandPortal for Box<P> {
    fn execute(&mut self, command: &[u64; 8], timeout: Duration) -> Result<[u64; 8], PortalError> {
        (**self).execute(command, timeout)
    }
}

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum PortalError {
    /// The MC didn't answer in time.
    #[error("the MC didn't answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// An earlier command that timed out still occupies the portal.
    #[error("the portal is still waiting for the answer to an earlier command")]
    Stuck,
    /// The system failed.
    #[error(transparent)]
    Bus(#[from] BusError),
}
