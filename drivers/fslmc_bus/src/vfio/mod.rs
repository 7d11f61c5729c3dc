//! The real bus: objects of a container that is bound to the kernel's `vfio-fsl-mc` driver.
//!
//! ```no_run
//! use fslmc_bus::{Bus, Device, dpio_region};
//! use fslmc_bus::vfio::{Roots, VfioBus};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus = VfioBus::open(&Roots::default(), "dprc.2".parse()?)?;
//! for object in bus.objects()? {
//!     println!("{object}: {:?}", bus.open(object)?.info());
//! }
//! # Ok(()) }
//! ```
//!
//! The kernel scans the container when it is bound and binds its children too, so the list of objects is a directory:
//! `/sys/bus/fsl-mc/devices/dprc.2`. All of them are in one IOMMU group, which one process at a time can open.
//! What keeps a container from being opened is an [`Obstacle`], which knows its remedy.
//!
//! Source: Linux, drivers/vfio/fsl-mc and include/uapi/linux/vfio.h.

mod obstacle;
mod sys;
mod window;

pub use obstacle::{Obstacle, obstacles};
pub use window::MmioWindow;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use dpaa2_defs::mc::object::{ObjectId, ObjectType};

use crate::window_portal::{WindowPortal, status_of};
use crate::{Bus, BusError, CommandPortal, Device, DeviceInfo, DmaRefusal, PortalError, RegionInfo};

/// Where the kernel's file systems are; other places are for tests.
#[derive(Clone, Debug)]
pub struct Roots {
    /// `/dev`.
    pub dev: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { dev: "/dev".into(), sys: "/sys".into(), proc: "/proc".into() }
    }
}

impl Roots {
    /// The directory of an object's device.
    pub fn device(&self, object: ObjectId) -> PathBuf {
        self.sys.join("bus/fsl-mc/devices").join(object.to_string())
    }

    /// The objects that a container's directory names, sorted.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn objects(&self, container: ObjectId) -> io::Result<Vec<ObjectId>> {
        let mut objects = Vec::new();
        for entry in fs::read_dir(self.device(container))? {
            let entry = entry?;
            // Other directories, such as `power`, don't parse. A link is another device's.
            let object = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(object) = object
                && entry.file_type()?.is_dir()
            {
                objects.push(object);
            }
        }
        objects.sort_unstable();
        Ok(objects)
    }

    /// The containers there are, bound or not, sorted.
    pub fn containers(&self) -> Vec<ObjectId> {
        let entries = fs::read_dir(self.sys.join("bus/fsl-mc/devices")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<ObjectId>().ok());
        let mut containers: Vec<_> = names.filter(|object| object.object_type == ObjectType::DPRC).collect();
        containers.sort_unstable();
        containers
    }

    /// The driver an object is bound to.
    pub fn driver(&self, object: ObjectId) -> Option<String> {
        let link = fs::read_link(self.device(object).join("driver")).ok()?;
        Some(link.file_name()?.to_str()?.to_owned())
    }

    /// The number of an object's IOMMU group.
    pub fn iommu_group(&self, object: ObjectId) -> Option<u32> {
        let link = fs::read_link(self.device(object).join("iommu_group")).ok()?;
        link.file_name()?.to_str()?.parse().ok()
    }

    fn vfio(&self) -> PathBuf {
        self.dev.join("vfio/vfio")
    }

    fn group(&self, group: u32) -> PathBuf {
        self.dev.join("vfio").join(group.to_string())
    }
}

/// A container opened through VFIO.
#[derive(Clone, Debug)]
pub struct VfioBus(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    roots: Roots,
    container: ObjectId,
    group: OwnedFd,
    vfio: OwnedFd,
    /// Held for the life of the bus: closing a container's last descriptor resets it.
    _device: OwnedFd,
}

/// Why a container can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something is missing that an operator can provide.
    #[error("{0}; {remedy}", remedy = .0.remedy())]
    Obstacle(#[from] Obstacle),
    /// The system failed otherwise.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl VfioBus {
    /// Opens a container for this process alone.
    ///
    /// # Errors
    /// [`OpenError`] says what is in the way.
    pub fn open(roots: &Roots, container: ObjectId) -> Result<Self, OpenError> {
        let group_number = obstacle::group_of(roots, container)?;
        let vfio_path = roots.vfio();
        let vfio = open(&vfio_path).map_err(|cause| obstacle::opening(roots, &vfio_path, None, cause))?;
        let version =
            sys::api_version(vfio.as_fd()).map_err(|e| failed(&vfio_path, "VFIO_GET_API_VERSION", e))?;
        if version != sys::API_VERSION {
            let cause = io::Error::other(format!("it speaks version {version} of the interface, not 0"));
            return Err(BusError::system(vfio_path.display().to_string(), cause).into());
        }
        let type1 = sys::has_extension(vfio.as_fd(), sys::TYPE1_IOMMU);
        if !type1.map_err(|e| failed(&vfio_path, "VFIO_CHECK_EXTENSION", e))? {
            return Err(Obstacle::NoIommuDriver.into());
        }

        let group_path = roots.group(group_number);
        let group = open(&group_path)
            .map_err(|cause| obstacle::opening(roots, &group_path, Some(group_number), cause))?;
        let flags =
            sys::group_flags(group.as_fd()).map_err(|e| failed(&group_path, "VFIO_GROUP_GET_STATUS", e))?;
        if flags & sys::GROUP_VIABLE == 0 {
            return Err(Obstacle::GroupNotViable { group: group_number }.into());
        }
        sys::set_container(group.as_fd(), vfio.as_fd())
            .map_err(|e| failed(&group_path, "VFIO_GROUP_SET_CONTAINER", e))?;
        sys::set_iommu(vfio.as_fd(), sys::TYPE1_IOMMU).map_err(|cause| match cause.raw_os_error() {
            // Linux gives this when interrupts aren't isolated and it hasn't been told to do without.
            Some(libc::EPERM) => OpenError::from(Obstacle::UnsafeInterrupts),
            _ => failed(&vfio_path, "VFIO_SET_IOMMU", cause).into(),
        })?;
        let device = device_fd(group.as_fd(), container)?;
        let shared = Shared { roots: roots.clone(), container, group, vfio, _device: device };
        Ok(Self(Arc::new(shared)))
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    OpenOptions::new().read(true).write(true).open(path).map(OwnedFd::from)
}

fn failed(path: &Path, call: &str, cause: io::Error) -> BusError {
    BusError::system(format!("{call} of {}", path.display()), cause)
}

fn device_fd(group: BorrowedFd<'_>, object: ObjectId) -> Result<OwnedFd, BusError> {
    let name = CString::new(object.to_string()).expect("names of objects have no NUL");
    sys::device_fd(group, &name)
        .map_err(|cause| BusError::system(format!("VFIO_GROUP_GET_DEVICE_FD of {object}"), cause))
}

fn page_size() -> usize {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("every system has pages")
}

impl Bus for VfioBus {
    type Device = VfioDevice;

    fn container(&self) -> ObjectId {
        self.0.container
    }

    fn objects(&self) -> Result<Vec<ObjectId>, BusError> {
        let Shared { roots, container, .. } = &*self.0;
        roots.objects(*container).map_err(|cause| BusError::system(format!("listing {container}"), cause))
    }

    fn open(&self, object: ObjectId) -> Result<VfioDevice, BusError> {
        let container = self.0.container;
        let is_known =
            object == container || self.0.roots.device(container).join(object.to_string()).is_dir();
        if !is_known {
            return Err(BusError::NoObject { object, container });
        }
        let fd = device_fd(self.0.group.as_fd(), object)?;
        let info = sys::device_info(fd.as_fd())
            .map_err(|cause| BusError::system(format!("VFIO_DEVICE_GET_INFO of {object}"), cause))?;
        let info = DeviceInfo { regions: info.num_regions, irqs: info.num_irqs };
        Ok(VfioDevice { bus: self.clone(), object, info, fd: Arc::new(File::from(fd)) })
    }

    unsafe fn map_dma(&self, memory: NonNull<u8>, len: usize, iova: u64) -> Result<(), BusError> {
        let refuse = |why| BusError::Dma { iova, len, why };
        let address = memory.as_ptr() as u64;
        let size = len as u64;
        if size == 0 || iova.checked_add(size).is_none() || address.checked_add(size).is_none() {
            return Err(refuse(DmaRefusal::NotARange));
        }
        if (address | size | iova) & (self.dma_page_size() as u64 - 1) != 0 {
            return Err(refuse(DmaRefusal::Unaligned));
        }
        // SAFETY: what the memory must be is this function's contract too.
        let mapped = unsafe { sys::map_dma(self.0.vfio.as_fd(), address, iova, size) };
        mapped.map_err(|cause| match cause.raw_os_error() {
            Some(libc::ENOMEM) => refuse(DmaRefusal::MemlockLimit),
            Some(libc::EEXIST) => refuse(DmaRefusal::Overlap),
            Some(libc::EINVAL | libc::ENOSPC) => refuse(DmaRefusal::IommuLimit),
            _ => BusError::system(format!("VFIO_IOMMU_MAP_DMA of {len} bytes"), cause),
        })
    }

    fn unmap_dma(&self, iova: u64, len: usize) -> Result<(), BusError> {
        match sys::unmap_dma(self.0.vfio.as_fd(), iova, len as u64) {
            Ok(unmapped) if unmapped == len as u64 => Ok(()),
            Ok(_) => Err(BusError::Dma { iova, len, why: DmaRefusal::NotMapped }),
            Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => {
                Err(BusError::Dma { iova, len, why: DmaRefusal::NotMapped })
            }
            Err(cause) => Err(BusError::system(format!("VFIO_IOMMU_UNMAP_DMA of {len} bytes"), cause)),
        }
    }

    fn dma_page_size(&self) -> usize {
        page_size()
    }
}

/// An object opened through VFIO.
#[derive(Debug)]
pub struct VfioDevice {
    bus: VfioBus,
    object: ObjectId,
    info: DeviceInfo,
    fd: Arc<File>,
}

impl VfioDevice {
    /// Size, offset and flags of a region, checked.
    fn raw_region(&self, index: u32) -> Result<sys::RegionInfo, BusError> {
        if index >= self.info.regions {
            return Err(BusError::NoRegion { object: self.object, index });
        }
        sys::region_info(self.fd.as_fd(), index).map_err(|cause| self.failed("GET_REGION_INFO", cause))
    }

    fn check_irq(&self, index: u32) -> Result<(), BusError> {
        let none = BusError::NoIrq { object: self.object, index };
        if index >= self.info.irqs {
            return Err(none);
        }
        let info =
            sys::irq_info(self.fd.as_fd(), index).map_err(|cause| self.failed("GET_IRQ_INFO", cause))?;
        if info.flags & sys::IRQ_EVENTFD != 0 && info.count > 0 { Ok(()) } else { Err(none) }
    }

    fn failed(&self, call: &str, cause: io::Error) -> BusError {
        BusError::system(format!("VFIO_DEVICE_{call} of {}", self.object), cause)
    }
}

impl Device for VfioDevice {
    type Window = MmioWindow;
    type CommandPortal = VfioCommandPortal;

    fn object(&self) -> ObjectId {
        self.object
    }

    fn info(&self) -> DeviceInfo {
        self.info
    }

    fn region(&self, index: u32) -> Result<RegionInfo, BusError> {
        let info = self.raw_region(index)?;
        let len = usize::try_from(info.size)
            .map_err(|_| self.failed("GET_REGION_INFO", io::Error::other("a region larger than memory")))?;
        Ok(RegionInfo { len, mappable: info.flags & sys::REGION_MMAP != 0 && len > 0 })
    }

    fn map(&self, index: u32) -> Result<MmioWindow, BusError> {
        let RegionInfo { len, mappable } = self.region(index)?;
        if !mappable {
            return Err(BusError::NotMappable { object: self.object, index });
        }
        let offset = self.raw_region(index)?.offset;
        MmioWindow::map(self.fd.as_fd(), offset, len)
            .map_err(|cause| BusError::system(format!("mapping region {index} of {}", self.object), cause))
    }

    fn command_portal(&self) -> Result<VfioCommandPortal, BusError> {
        let portal = match self.object.object_type {
            ObjectType::DPMCP => AnyPortal::Window(WindowPortal::new(self.map(0)?)?),
            ObjectType::DPRC => {
                let offset = self.raw_region(0)?.offset;
                AnyPortal::File { container: self.object, file: self.fd.clone(), offset }
            }
            _ => return Err(BusError::NoCommandPortal { object: self.object }),
        };
        Ok(VfioCommandPortal { portal, _device: self.fd.clone(), _bus: self.bus.clone() })
    }

    fn arm_irq(&self, index: u32, event: BorrowedFd<'_>) -> Result<(), BusError> {
        self.check_irq(index)?;
        sys::arm_irq(self.fd.as_fd(), index, event).map_err(|cause| self.failed("SET_IRQS", cause))
    }

    fn disarm_irq(&self, index: u32) -> Result<(), BusError> {
        self.check_irq(index)?;
        sys::disarm_irq(self.fd.as_fd(), index).map_err(|cause| self.failed("SET_IRQS", cause))
    }

    fn reset(&self) -> Result<(), BusError> {
        sys::reset(self.fd.as_fd())
            .map_err(|cause| BusError::Reset { object: self.object, cause: cause.to_string() })
    }
}

/// A command portal of a container opened through VFIO.
#[derive(Debug)]
pub struct VfioCommandPortal {
    portal: AnyPortal,
    _device: Arc<File>,
    _bus: VfioBus,
}

#[derive(Debug)]
enum AnyPortal {
    /// A dpmcp is mapped.
    Window(WindowPortal<MmioWindow>),
    /// The container's own portal isn't mappable: the kernel writes and reads the 64 bytes. It waits for the answer
    /// itself, up to 5 seconds, whatever the caller says.
    File { container: ObjectId, file: Arc<File>, offset: u64 },
}

impl CommandPortal for VfioCommandPortal {
    fn execute(&mut self, command: &[u64; 8], timeout: Duration) -> Result<[u64; 8], PortalError> {
        match &mut self.portal {
            AnyPortal::Window(portal) => portal.execute(command, timeout),
            AnyPortal::File { container, file, offset } => {
                execute_through_file(*container, file, *offset, command)
            }
        }
    }
}

/// How long Linux waits for the answer to a command that is written to a container.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(5);

fn execute_through_file(
    container: ObjectId,
    file: &File,
    offset: u64,
    command: &[u64; 8],
) -> Result<[u64; 8], PortalError> {
    use dpaa2_defs::mc::header::Status;
    use zerocopy::IntoBytes;

    let failed = |doing: &str, cause| BusError::system(format!("{doing} the portal of {container}"), cause);
    let mut bytes = command.map(u64::to_le);
    match file.write_at(bytes.as_bytes(), offset) {
        Ok(64) => (),
        Ok(n) => {
            let cause = io::Error::other(format!("{n} of 64 bytes were taken"));
            return Err(failed("writing", cause).into());
        }
        Err(cause) if cause.raw_os_error() == Some(libc::ETIMEDOUT) => {
            return Err(PortalError::Timeout(KERNEL_TIMEOUT));
        }
        Err(cause) => return Err(failed("writing", cause).into()),
    }
    file.read_exact_at(bytes.as_mut_bytes(), offset).map_err(|cause| failed("reading", cause))?;
    let answer = bytes.map(u64::from_le);
    if status_of(answer[0]) == Status::READY { Err(PortalError::Stuck) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_through_a_container_is_64_bytes_at_its_region() {
        let file = tempfile::tempfile().expect("a file");
        let container = "dprc.2".parse().expect("a name");
        let answered = [0x1234_0007_0000_0000, 1, 2, 3, 4, 5, 6, 7];
        let answer = execute_through_file(container, &file, 1 << 20, &answered);
        assert_eq!(answer.expect("what is read is what was written"), answered);
        assert_eq!(file.metadata().expect("it exists").len(), (1 << 20) + 64);

        let unanswered = [0x1234_0007_0001_0000, 1, 2, 3, 4, 5, 6, 7];
        let answer = execute_through_file(container, &file, 0, &unanswered);
        assert!(matches!(answer, Err(PortalError::Stuck)), "READY is no answer");
    }
}
