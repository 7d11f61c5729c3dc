//! VFIO as the kernel's vfio-fsl-mc does it: containers, groups, devices, as descriptors and ioctls.
//!
//! Source: Linux, include/uapi/linux/vfio.h and drivers/vfio/fsl-mc/vfio_fsl_mc.c.

use crate::backend::Backend;
use crate::real;
use dpaa2_defs::mc::header::Frame;
use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use dpaa2_model::Access;
use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use zerocopy::{FromZeros, IntoBytes};

const GET_API_VERSION: u32 = 0x3b64;
const CHECK_EXTENSION: u32 = 0x3b65;
const SET_IOMMU: u32 = 0x3b66;
const GROUP_GET_STATUS: u32 = 0x3b67;
const GROUP_SET_CONTAINER: u32 = 0x3b68;
const GROUP_UNSET_CONTAINER: u32 = 0x3b69;
const GROUP_GET_DEVICE_FD: u32 = 0x3b6a;
const DEVICE_GET_INFO: u32 = 0x3b6b;
const DEVICE_GET_REGION_INFO: u32 = 0x3b6c;
const DEVICE_GET_IRQ_INFO: u32 = 0x3b6d;
const DEVICE_SET_IRQS: u32 = 0x3b6e;
const DEVICE_RESET: u32 = 0x3b6f;
const IOMMU_GET_INFO: u32 = 0x3b70;
const IOMMU_MAP_DMA: u32 = 0x3b71;
const IOMMU_UNMAP_DMA: u32 = 0x3b72;

const TYPE1: usize = 1;
const GROUP_VIABLE: u32 = 1;
const GROUP_CONTAINER_SET: u32 = 2;
const DEVICE_FLAG_RESET: u32 = 1;
const DEVICE_FLAG_FSL_MC: u32 = 0x40;
const REGION_READ_WRITE: u32 = 3;
const REGION_MMAP: u32 = 4;
const IRQ_EVENTFD: u32 = 1;
const IRQS_ARM: u32 = 0x24;
const IRQS_DISARM: u32 = 0x21;
/// Region `i` begins at offset `i << 40` of a device.
const REGION_SHIFT: u32 = 40;
const PAGE: u64 = 4096;

/// Highest descriptor that can be one of ours.
const DESCRIPTORS: usize = 65_536;

/// What one of our descriptors is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Container,
    Group(u32),
    /// With its group.
    Device(ObjectId, u32),
}

/// A window the program has mapped.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    start: usize,
    len: usize,
    object: ObjectId,
    group: u32,
    region: usize,
    /// Where in the region it starts.
    offset: usize,
}

/// All descriptors and mappings.
pub struct Vfio {
    /// Which descriptors are ours, so that others cost one load.
    ours: Box<[AtomicU8]>,
    kinds: Mutex<HashMap<c_int, Kind>>,
    /// Groups by their VFIO container's descriptor.
    attached: Mutex<HashMap<c_int, u32>>,
    mappings: RwLock<Vec<Mapping>>,
    answers: Mutex<HashMap<c_int, Frame>>,
}

impl Default for Vfio {
    fn default() -> Self {
        let ours = (0..DESCRIPTORS).map(|_| AtomicU8::new(0)).collect();
        Self {
            ours,
            kinds: Mutex::default(),
            attached: Mutex::default(),
            mappings: RwLock::default(),
            answers: Mutex::default(),
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result of a call: a value, or an error number.
pub type Outcome = Result<c_int, c_int>;

/// The structures of the interface, as the program lays them out.
mod layout {
    #[repr(C)]
    pub struct GroupStatus {
        pub argsz: u32,
        pub flags: u32,
    }
    #[repr(C)]
    pub struct DeviceInfo {
        pub argsz: u32,
        pub flags: u32,
        pub num_regions: u32,
        pub num_irqs: u32,
    }
    #[repr(C)]
    pub struct RegionInfo {
        pub argsz: u32,
        pub flags: u32,
        pub index: u32,
        pub cap_offset: u32,
        pub size: u64,
        pub offset: u64,
    }
    #[repr(C)]
    pub struct IrqInfo {
        pub argsz: u32,
        pub flags: u32,
        pub index: u32,
        pub count: u32,
    }
    #[repr(C)]
    pub struct IrqSet {
        pub argsz: u32,
        pub flags: u32,
        pub index: u32,
        pub start: u32,
        pub count: u32,
        pub eventfd: i32,
    }
    #[repr(C)]
    pub struct IommuInfo {
        pub argsz: u32,
        pub flags: u32,
        pub page_sizes: u64,
    }
    #[repr(C)]
    pub struct DmaMap {
        pub argsz: u32,
        pub flags: u32,
        pub vaddr: u64,
        pub iova: u64,
        pub size: u64,
    }
    #[repr(C)]
    pub struct DmaUnmap {
        pub argsz: u32,
        pub flags: u32,
        pub iova: u64,
        pub size: u64,
    }
}

impl Vfio {
    fn kind(&self, fd: c_int) -> Option<Kind> {
        let ours = self.ours.get(usize::try_from(fd).ok()?)?;
        if ours.load(Ordering::Relaxed) == 0 {
            return None;
        }
        held(&self.kinds).get(&fd).copied()
    }

    /// Makes a descriptor: an empty memory file, so that it can be closed, duplicated and polled like any other.
    fn add(&self, kind: Kind) -> Outcome {
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::syscall(libc::SYS_memfd_create, c"dpaa2-vfio".as_ptr(), libc::MFD_CLOEXEC) }
            as c_int;
        let Some(ours) = usize::try_from(fd).ok().and_then(|fd| self.ours.get(fd)) else {
            return Err(libc::EMFILE);
        };
        held(&self.kinds).insert(fd, kind);
        ours.store(1, Ordering::Relaxed);
        Ok(fd)
    }

    /// Opens `/dev/vfio/vfio` or a group; `None` for other paths.
    pub fn open(&self, backend: &dyn Backend, path: &CStr) -> Option<Outcome> {
        let name = path.to_str().ok()?.strip_prefix("/dev/vfio/")?;
        if name == "vfio" {
            return Some(self.add(Kind::Container));
        }
        let group = name.parse().ok()?;
        let known = backend.containers().iter().any(|(container, _)| *container == group);
        if !known {
            return Some(Err(libc::ENOENT));
        }
        let is_busy = self.is_in_use(group) || !backend.claim(group);
        Some(if is_busy { Err(libc::EBUSY) } else { self.add(Kind::Group(group)) })
    }

    /// Forgets a descriptor. The object is reset when its last one is closed and nothing of it is mapped, and the group is
    /// free for others when nothing of it is in use.
    pub fn closed(&self, backend: &dyn Backend, fd: c_int) {
        let Some(kind) = self.kind(fd) else { return };
        self.ours[fd as usize].store(0, Ordering::Relaxed);
        held(&self.kinds).remove(&fd);
        let attached = held(&self.attached).remove(&fd);
        match kind {
            Kind::Device(object, group) => self.leave(backend, object, group),
            Kind::Group(group) => self.leave_group(backend, group),
            // It may be closed without ever having had one.
            Kind::Container => attached.into_iter().for_each(|group| self.leave_group(backend, group)),
        }
    }

    fn leave(&self, backend: &dyn Backend, object: ObjectId, group: u32) {
        let is_open = held(&self.kinds).values().any(|kind| *kind == Kind::Device(object, group));
        if !is_open && !self.mapped().iter().any(|mapping| mapping.object == object) {
            backend.set_irq(object, None);
            backend.reset(object);
        }
        self.leave_group(backend, group);
    }

    fn leave_group(&self, backend: &dyn Backend, group: u32) {
        if !self.is_in_use(group) {
            backend.release(group);
        }
    }

    /// Whether this process has a descriptor or a window of a group.
    fn is_in_use(&self, group: u32) -> bool {
        let of_group = |kind: &Kind| matches!(kind, Kind::Group(own) | Kind::Device(_, own) if *own == group);
        held(&self.kinds).values().any(of_group)
            || held(&self.attached).values().any(|own| *own == group)
            || self.mapped().iter().any(|mapping| mapping.group == group)
    }

    fn mapped(&self) -> std::sync::RwLockReadGuard<'_, Vec<Mapping>> {
        self.mappings.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which window an address is in: object, region, offset.
    #[cfg(target_arch = "x86_64")]
    pub fn window_at(&self, address: usize) -> Option<(ObjectId, usize, usize)> {
        let mappings = self.mapped();
        let found = mappings.iter().find(|mapping| address.wrapping_sub(mapping.start) < mapping.len)?;
        Some((found.object, found.region, found.offset + (address - found.start)))
    }

    /// Maps a region; `None` if the descriptor isn't ours.
    #[expect(clippy::too_many_arguments, reason = "those of mmap")]
    pub fn mmap(
        &self,
        backend: &dyn Backend,
        address: *mut c_void,
        len: usize,
        prot: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> Option<Result<*mut c_void, c_int>> {
        let kind = self.kind(fd)?;
        let Kind::Device(object, group) = kind else { return Some(Err(libc::ENODEV)) };
        Some(self.map_region(backend, address, len, prot, flags, (object, group), offset))
    }

    #[expect(clippy::too_many_arguments, reason = "those of mmap")]
    fn map_region(
        &self,
        backend: &dyn Backend,
        address: *mut c_void,
        len: usize,
        prot: c_int,
        flags: c_int,
        (object, group): (ObjectId, u32),
        offset: i64,
    ) -> Result<*mut c_void, c_int> {
        let (region, inner) = ((offset >> REGION_SHIFT) as usize, offset & ((1 << REGION_SHIFT) - 1));
        let memory = backend.region(object, region).filter(|_| object.object_type != ObjectType::DPRC);
        let memory = memory.ok_or(libc::EINVAL)?;
        let is_shared = flags & libc::MAP_SHARED != 0;
        if !is_shared || (inner as usize).checked_add(len).is_none_or(|end| end > memory.len) {
            return Err(libc::EINVAL);
        }
        let trapped = memory.access == Access::Trapped;
        let prot = if trapped { prot & !libc::PROT_WRITE } else { prot };
        let start = real::mmap(address, len, prot, flags, memory.file.as_raw_fd(), inner);
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
        }
        if trapped {
            let mapping =
                Mapping { start: start as usize, len, object, group, region, offset: inner as usize };
            self.mappings.write().unwrap_or_else(PoisonError::into_inner).push(mapping);
        }
        Ok(start)
    }

    /// Forgets windows in a range that is unmapped.
    pub fn unmapped(&self, backend: &dyn Backend, address: usize, len: usize) {
        let touches = |m: &Mapping| address < m.start + m.len && m.start < address.saturating_add(len);
        if !self.mapped().iter().any(touches) {
            return;
        }
        let mut gone = Vec::new();
        self.mappings.write().unwrap_or_else(PoisonError::into_inner).retain(|mapping| {
            let keep = !touches(mapping);
            if !keep {
                gone.push((mapping.object, mapping.group));
            }
            keep
        });
        for (object, group) in gone {
            self.leave(backend, object, group);
        }
    }

    /// Answers an ioctl; `None` if the descriptor isn't ours.
    ///
    /// # Safety
    /// `argument` is what the request takes: a number, or a pointer to its structure.
    pub unsafe fn ioctl(
        &self,
        backend: &dyn Backend,
        fd: c_int,
        request: u32,
        argument: *mut c_void,
    ) -> Option<Outcome> {
        let kind = self.kind(fd)?;
        // SAFETY: the caller's promise.
        Some(unsafe {
            match kind {
                Kind::Container => self.container_ioctl(backend, fd, request, argument),
                Kind::Group(group) => self.group_ioctl(group, request, argument, backend),
                Kind::Device(object, _) => device_ioctl(backend, object, request, argument),
            }
        })
    }

    /// # Safety
    /// As [`Vfio::ioctl`].
    unsafe fn container_ioctl(
        &self,
        backend: &dyn Backend,
        fd: c_int,
        request: u32,
        argument: *mut c_void,
    ) -> Outcome {
        let group = || held(&self.attached).get(&fd).copied().ok_or(libc::ENODEV);
        match request {
            GET_API_VERSION => Ok(0),
            CHECK_EXTENSION => Ok(c_int::from(argument.addr() == TYPE1)),
            SET_IOMMU if argument.addr() != TYPE1 => Err(libc::EINVAL),
            SET_IOMMU => group().map(|_| 0),
            IOMMU_GET_INFO => {
                // SAFETY: the request's structure.
                let info = unsafe { &mut *argument.cast::<layout::IommuInfo>() };
                (info.flags, info.page_sizes) = (1, !(PAGE - 1));
                Ok(0)
            }
            IOMMU_MAP_DMA => {
                // SAFETY: the request's structure.
                let map = unsafe { &*argument.cast::<layout::DmaMap>() };
                let group = group()?;
                if map.size == 0 || (map.vaddr | map.iova | map.size) & (PAGE - 1) != 0 || map.flags & !3 != 0
                {
                    return Err(libc::EINVAL);
                }
                if backend.dma_map(group, map.iova, map.size, map.vaddr) { Ok(0) } else { Err(libc::EEXIST) }
            }
            IOMMU_UNMAP_DMA => {
                // SAFETY: the request's structure.
                let unmap = unsafe { &mut *argument.cast::<layout::DmaUnmap>() };
                unmap.size = backend.dma_unmap(group()?, unmap.iova, unmap.size);
                Ok(0)
            }
            _ => Err(libc::ENOTTY),
        }
    }

    /// # Safety
    /// As [`Vfio::ioctl`].
    unsafe fn group_ioctl(
        &self,
        group: u32,
        request: u32,
        argument: *mut c_void,
        backend: &dyn Backend,
    ) -> Outcome {
        match request {
            GROUP_GET_STATUS => {
                let set = held(&self.attached).values().any(|attached| *attached == group);
                // SAFETY: the request's structure.
                let status = unsafe { &mut *argument.cast::<layout::GroupStatus>() };
                status.flags = GROUP_VIABLE | if set { GROUP_CONTAINER_SET } else { 0 };
                Ok(0)
            }
            GROUP_SET_CONTAINER => {
                // SAFETY: the request takes a pointer to a descriptor.
                let container = unsafe { *argument.cast::<c_int>() };
                // DPDK tries with a descriptor that isn't one first, and wants to be told.
                if self.kind(container) != Some(Kind::Container) {
                    return Err(libc::EINVAL);
                }
                held(&self.attached).insert(container, group);
                Ok(0)
            }
            GROUP_UNSET_CONTAINER => {
                held(&self.attached).retain(|_, attached| *attached != group);
                Ok(0)
            }
            GROUP_GET_DEVICE_FD => {
                // SAFETY: the request takes a C string.
                let name = unsafe { CStr::from_ptr(argument.cast()) };
                let object: Option<ObjectId> = name.to_str().ok().and_then(|name| name.parse().ok());
                let own = ObjectType::DPRC.with_id(group);
                let known = object.filter(|object| {
                    *object == own
                        || backend.containers().iter().any(|(container, objects)| {
                            *container == group && objects.iter().any(|known| known.id == *object)
                        })
                });
                self.add(Kind::Device(known.ok_or(libc::ENODEV)?, group))
            }
            _ => Err(libc::ENOTTY),
        }
    }

    /// Sends a command written to a container's device; `None` if the descriptor isn't ours.
    pub fn pwrite(
        &self,
        backend: &dyn Backend,
        fd: c_int,
        bytes: &[u8],
        offset: i64,
    ) -> Option<Result<isize, c_int>> {
        let kind = self.kind(fd)?;
        let Kind::Device(ObjectId { object_type: ObjectType::DPRC, id }, _) = kind else {
            return Some(Err(libc::EINVAL));
        };
        if bytes.len() != 64 || offset != 0 {
            return Some(Err(libc::EINVAL));
        }
        let mut request = Frame::new_zeroed();
        request.as_mut_bytes().copy_from_slice(bytes);
        let Some(answer) = backend.container_command(id, &request) else { return Some(Err(libc::ETIMEDOUT)) };
        held(&self.answers).insert(fd, answer);
        Some(Ok(64))
    }

    /// Reads the answer to it; `None` if the descriptor isn't ours.
    pub fn pread(&self, fd: c_int, bytes: &mut [u8], offset: i64) -> Option<Result<isize, c_int>> {
        let kind = self.kind(fd)?;
        if !matches!(kind, Kind::Device(ObjectId { object_type: ObjectType::DPRC, .. }, _))
            || bytes.len() != 64
            || offset != 0
        {
            return Some(Err(libc::EINVAL));
        }
        let answer = held(&self.answers).get(&fd).copied().unwrap_or_else(Frame::new_zeroed);
        bytes.copy_from_slice(answer.as_bytes());
        Some(Ok(64))
    }
}

/// # Safety
/// As [`Vfio::ioctl`].
unsafe fn device_ioctl(
    backend: &dyn Backend,
    object: ObjectId,
    request: u32,
    argument: *mut c_void,
) -> Outcome {
    let is_container = object.object_type == ObjectType::DPRC;
    let regions = || (0..).take_while(|index| backend.region(object, *index).is_some()).count() as u32;
    match request {
        DEVICE_GET_INFO => {
            // SAFETY: the request's structure.
            let info = unsafe { &mut *argument.cast::<layout::DeviceInfo>() };
            info.flags = DEVICE_FLAG_FSL_MC | if is_container { DEVICE_FLAG_RESET } else { 0 };
            (info.num_regions, info.num_irqs) = (regions(), 1);
            Ok(0)
        }
        DEVICE_GET_REGION_INFO => {
            // SAFETY: the request's structure.
            let info = unsafe { &mut *argument.cast::<layout::RegionInfo>() };
            let memory = backend.region(object, info.index as usize).ok_or(libc::EINVAL)?;
            info.flags = REGION_READ_WRITE | if is_container { 0 } else { REGION_MMAP };
            (info.size, info.offset) = (memory.len as u64, u64::from(info.index) << REGION_SHIFT);
            Ok(0)
        }
        DEVICE_GET_IRQ_INFO => {
            // SAFETY: the request's structure.
            let info = unsafe { &mut *argument.cast::<layout::IrqInfo>() };
            if info.index > 0 {
                return Err(libc::EINVAL);
            }
            (info.flags, info.count) = (IRQ_EVENTFD, 1);
            Ok(0)
        }
        DEVICE_SET_IRQS => {
            // SAFETY: the request's structure; its data is there if its flags and count say so.
            let (flags, index, start, count) = unsafe {
                let set = argument.cast::<layout::IrqSet>();
                ((*set).flags, (*set).index, (*set).start, (*set).count)
            };
            if index > 0 || start > 0 {
                return Err(libc::EINVAL);
            }
            match (flags, count) {
                (IRQS_ARM, 1) => {
                    // SAFETY: as above.
                    let fd = unsafe { ptr::read(&raw const (*argument.cast::<layout::IrqSet>()).eventfd) };
                    let event = if fd < 0 { None } else { Some(duplicate(fd)?) };
                    backend.set_irq(object, event);
                    Ok(0)
                }
                (IRQS_DISARM, 0) => {
                    backend.set_irq(object, None);
                    Ok(0)
                }
                _ => Err(libc::EINVAL),
            }
        }
        DEVICE_RESET => {
            backend.reset(object);
            Ok(0)
        }
        _ => Err(libc::ENOTTY),
    }
}

fn duplicate(fd: c_int) -> Result<OwnedFd, c_int> {
    // SAFETY: the program's descriptor, open for the duration of its call.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().map_err(|_| libc::EBADF)
}
