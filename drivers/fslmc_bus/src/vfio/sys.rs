//! The system calls VFIO is made of.
//!
//! Source: Linux, include/uapi/linux/vfio.h.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

const fn request(number: libc::c_ulong) -> libc::c_ulong {
    // _IO(';', 100 + number)
    0x3b64 + number
}

const GET_API_VERSION: libc::c_ulong = request(0);
const CHECK_EXTENSION: libc::c_ulong = request(1);
const SET_IOMMU: libc::c_ulong = request(2);
const GROUP_GET_STATUS: libc::c_ulong = request(3);
const GROUP_SET_CONTAINER: libc::c_ulong = request(4);
const GROUP_GET_DEVICE_FD: libc::c_ulong = request(6);
const DEVICE_GET_INFO: libc::c_ulong = request(7);
const DEVICE_GET_REGION_INFO: libc::c_ulong = request(8);
const DEVICE_GET_IRQ_INFO: libc::c_ulong = request(9);
const DEVICE_SET_IRQS: libc::c_ulong = request(10);
const DEVICE_RESET: libc::c_ulong = request(11);
const IOMMU_MAP_DMA: libc::c_ulong = request(13);
const IOMMU_UNMAP_DMA: libc::c_ulong = request(14);

/// The one version of the interface there is.
pub const API_VERSION: i32 = 0;
/// The kind of IOMMU interface used here.
pub const TYPE1_IOMMU: libc::c_ulong = 1;

/// In a group's flags: every device in it is bound to VFIO or to nothing.
pub const GROUP_VIABLE: u32 = 1;
/// In a region's flags: it can be mapped.
pub const REGION_MMAP: u32 = 4;
/// In an interrupt's flags: it can signal an eventfd.
pub const IRQ_EVENTFD: u32 = 1;

const DMA_READ: u32 = 1;
const DMA_WRITE: u32 = 2;

const IRQ_DATA_NONE: u32 = 1;
const IRQ_DATA_EVENTFD: u32 = 4;
const IRQ_ACTION_TRIGGER: u32 = 32;

#[repr(C)]
#[derive(Default)]
struct GroupStatus {
    argsz: u32,
    flags: u32,
}

/// What a device has.
#[repr(C)]
#[derive(Default)]
pub struct DeviceInfo {
    argsz: u32,
    pub flags: u32,
    pub num_regions: u32,
    pub num_irqs: u32,
    cap_offset: u32,
}

/// What a region is.
#[repr(C)]
#[derive(Default)]
pub struct RegionInfo {
    argsz: u32,
    pub flags: u32,
    index: u32,
    cap_offset: u32,
    pub size: u64,
    pub offset: u64,
}

/// What an interrupt is.
#[repr(C)]
#[derive(Default)]
pub struct IrqInfo {
    argsz: u32,
    pub flags: u32,
    index: u32,
    pub count: u32,
}

#[repr(C)]
struct IrqSet {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    event: i32,
}

#[repr(C)]
struct DmaMap {
    argsz: u32,
    flags: u32,
    vaddr: u64,
    iova: u64,
    size: u64,
}

#[repr(C)]
struct DmaUnmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

const _: () = assert!(size_of::<GroupStatus>() == 8);
const _: () = assert!(size_of::<DeviceInfo>() == 20);
const _: () = assert!(size_of::<RegionInfo>() == 32);
const _: () = assert!(size_of::<IrqInfo>() == 16);
const _: () = assert!(size_of::<IrqSet>() == 24);
const _: () = assert!(size_of::<DmaMap>() == 32);
const _: () = assert!(size_of::<DmaUnmap>() == 24);

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An ioctl whose argument is a number.
fn with_number(fd: RawFd, request: libc::c_ulong, argument: libc::c_ulong) -> io::Result<libc::c_int> {
    // SAFETY: the requests this is called with take a number, and touch no memory of this process.
    checked(unsafe { libc::ioctl(fd, request as _, argument) })
}

/// An ioctl whose argument is a struct that says its own size in its first field.
fn with_struct<T>(fd: RawFd, request: libc::c_ulong, argument: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `T` is the struct this request takes, asserted in size above; the kernel reads and writes at most `argsz`
    // bytes of it, which is its size. Addresses within it are those of `map_dma`, whose caller answers for them.
    checked(unsafe { libc::ioctl(fd, request as _, argument as *mut T) })
}

const fn argsz<T>() -> u32 {
    size_of::<T>() as u32
}

pub fn api_version(container: BorrowedFd<'_>) -> io::Result<i32> {
    with_number(container.as_raw_fd(), GET_API_VERSION, 0)
}

pub fn has_extension(container: BorrowedFd<'_>, extension: libc::c_ulong) -> io::Result<bool> {
    Ok(with_number(container.as_raw_fd(), CHECK_EXTENSION, extension)? > 0)
}

pub fn set_iommu(container: BorrowedFd<'_>, kind: libc::c_ulong) -> io::Result<()> {
    with_number(container.as_raw_fd(), SET_IOMMU, kind).map(drop)
}

pub fn group_flags(group: BorrowedFd<'_>) -> io::Result<u32> {
    let mut status = GroupStatus { argsz: argsz::<GroupStatus>(), ..Default::default() };
    with_struct(group.as_raw_fd(), GROUP_GET_STATUS, &mut status)?;
    Ok(status.flags)
}

pub fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    let mut container: libc::c_int = container.as_raw_fd();
    with_struct(group.as_raw_fd(), GROUP_SET_CONTAINER, &mut container).map(drop)
}

pub fn device_fd(group: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    // SAFETY: the request reads a string that ends with NUL.
    let fd = checked(unsafe { libc::ioctl(group.as_raw_fd(), GROUP_GET_DEVICE_FD as _, name.as_ptr()) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn device_info(device: BorrowedFd<'_>) -> io::Result<DeviceInfo> {
    let mut info = DeviceInfo { argsz: argsz::<DeviceInfo>(), ..Default::default() };
    with_struct(device.as_raw_fd(), DEVICE_GET_INFO, &mut info)?;
    Ok(info)
}

pub fn region_info(device: BorrowedFd<'_>, index: u32) -> io::Result<RegionInfo> {
    let mut info = RegionInfo { argsz: argsz::<RegionInfo>(), index, ..Default::default() };
    with_struct(device.as_raw_fd(), DEVICE_GET_REGION_INFO, &mut info)?;
    Ok(info)
}

pub fn irq_info(device: BorrowedFd<'_>, index: u32) -> io::Result<IrqInfo> {
    let mut info = IrqInfo { argsz: argsz::<IrqInfo>(), index, ..Default::default() };
    with_struct(device.as_raw_fd(), DEVICE_GET_IRQ_INFO, &mut info)?;
    Ok(info)
}

pub fn arm_irq(device: BorrowedFd<'_>, index: u32, event: BorrowedFd<'_>) -> io::Result<()> {
    let mut set = IrqSet {
        argsz: argsz::<IrqSet>(),
        flags: IRQ_DATA_EVENTFD | IRQ_ACTION_TRIGGER,
        index,
        start: 0,
        count: 1,
        event: event.as_raw_fd(),
    };
    with_struct(device.as_raw_fd(), DEVICE_SET_IRQS, &mut set).map(drop)
}

pub fn disarm_irq(device: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    // Without data: the header's 20 bytes only.
    let flags = IRQ_DATA_NONE | IRQ_ACTION_TRIGGER;
    let mut set = IrqSet { argsz: argsz::<IrqSet>() - 4, flags, index, start: 0, count: 0, event: -1 };
    with_struct(device.as_raw_fd(), DEVICE_SET_IRQS, &mut set).map(drop)
}

pub fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    with_number(device.as_raw_fd(), DEVICE_RESET, 0).map(drop)
}

/// # Safety
/// Hardware may write the memory from now on, until [`unmap_dma`].
pub unsafe fn map_dma(container: BorrowedFd<'_>, vaddr: u64, iova: u64, size: u64) -> io::Result<()> {
    let mut map = DmaMap { argsz: argsz::<DmaMap>(), flags: DMA_READ | DMA_WRITE, vaddr, iova, size };
    with_struct(container.as_raw_fd(), IOMMU_MAP_DMA, &mut map).map(drop)
}

/// Returns how many bytes were unmapped.
pub fn unmap_dma(container: BorrowedFd<'_>, iova: u64, size: u64) -> io::Result<u64> {
    let mut unmap = DmaUnmap { argsz: argsz::<DmaUnmap>(), flags: 0, iova, size };
    with_struct(container.as_raw_fd(), IOMMU_UNMAP_DMA, &mut unmap)?;
    Ok(unmap.size)
}
