//! Where the model is: in this process, or in one of its own.
//!
//! A model elsewhere reaches a program's memory through a memory file. Ranges a program maps for DMA are moved into that file
//! in place: the same addresses, the same content, from then on shared. So nothing is asked of the program, nor of the kernel.

use dpaa2_defs::mc::header::Frame;
use dpaa2_defs::mc::object::ObjectId;
use dpaa2_model::remote::Client;
use dpaa2_model::{Access, Description, Model, ObjectInfo, SharedModel, lock};
use std::ffi::{OsStr, c_void};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::real;

/// Memory of a region, and how stores into it have to be made.
pub struct Memory {
    pub file: File,
    pub len: usize,
    pub access: Access,
}

/// What the shim asks of a model.
pub trait Backend: Send + Sync {
    /// Containers a program may use, with their objects.
    fn containers(&self) -> Vec<(u32, Vec<ObjectInfo>)>;
    /// Takes a container for this process; false when another one has it.
    fn claim(&self, container: u32) -> bool;
    /// Gives a container back: what is in it is reset, its memory unmapped.
    fn release(&self, container: u32);
    fn region(&self, object: ObjectId, index: usize) -> Option<Memory>;
    /// Has been carried out, with all that follows, when this returns.
    fn store(&self, object: ObjectId, region: usize, offset: usize, bytes: &[u8]);
    fn container_command(&self, container: u32, request: &Frame) -> Option<Frame>;
    fn dma_map(&self, container: u32, iova: u64, len: u64, address: u64) -> bool;
    fn dma_unmap(&self, container: u32, iova: u64, len: u64) -> u64;
    fn set_irq(&self, object: ObjectId, event: Option<OwnedFd>) -> bool;
    fn reset(&self, object: ObjectId) -> bool;
    /// Counters and audit as JSON.
    fn report(&self) -> String;
}

/// Opens what `DPAA2_MODEL` names.
pub fn open(name: &OsStr) -> Result<Box<dyn Backend>, String> {
    if let Some(socket) = name.as_bytes().strip_prefix(b"unix:") {
        return Remote::connect(Path::new(OsStr::from_bytes(socket))).map_err(|error| error.to_string());
    }
    let text = std::fs::read_to_string(Path::new(name)).map_err(|error| error.to_string())?;
    let describe = |error: dpaa2_model::DescriptionError| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("{error}{cause}")
    };
    let model =
        Description::from_toml(&text).and_then(|description| Model::new(&description)).map_err(describe)?;
    let local = Local(model.share());
    if let Some(path) = std::env::var_os("DPAA2_MODEL_CONTROL") {
        dpaa2_model::control::listen(&local.0, Path::new(&path))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(Box::new(local))
}

/// A model in this process.
struct Local(SharedModel);

impl Backend for Local {
    fn containers(&self) -> Vec<(u32, Vec<ObjectInfo>)> {
        let model = lock(&self.0);
        model.containers().into_iter().filter(|id| *id != 1).map(|id| (id, model.objects(id))).collect()
    }

    fn claim(&self, _container: u32) -> bool {
        true
    }

    fn release(&self, container: u32) {
        lock(&self.0).release_container(container);
    }

    fn region(&self, object: ObjectId, index: usize) -> Option<Memory> {
        let handle = lock(&self.0).region(object, index)?;
        let file = handle.memory.file().try_clone().ok()?;
        Some(Memory { file, len: handle.memory.len(), access: handle.access })
    }

    fn store(&self, object: ObjectId, region: usize, offset: usize, bytes: &[u8]) {
        lock(&self.0).store(object, region, offset, bytes);
    }

    fn container_command(&self, container: u32, request: &Frame) -> Option<Frame> {
        lock(&self.0).container_command(container, request)
    }

    fn dma_map(&self, container: u32, iova: u64, len: u64, address: u64) -> bool {
        let host = std::ptr::with_exposed_provenance_mut(address as usize);
        // SAFETY: the program gave its own memory to the hardware and keeps it mapped until it takes it back; that is the
        // contract of VFIO_IOMMU_MAP_DMA.
        unsafe { lock(&self.0).dma_map(container, iova, len, host, None) }
    }

    fn dma_unmap(&self, container: u32, iova: u64, len: u64) -> u64 {
        lock(&self.0).dma_unmap(container, iova, len)
    }

    fn set_irq(&self, object: ObjectId, event: Option<OwnedFd>) -> bool {
        lock(&self.0).set_irq(object, event)
    }

    fn reset(&self, object: ObjectId) -> bool {
        lock(&self.0).reset(object)
    }

    fn report(&self) -> String {
        dpaa2_model::control::report(&lock(&self.0))
    }
}

/// A model in a process of its own.
struct Remote {
    client: Client,
    memory: OwnedFd,
    /// Bytes of the memory file that are in use.
    used: Mutex<u64>,
}

/// Length of the memory file: address space only, its pages exist when they are written.
const MEMORY_FILE: i64 = 256 << 30;

impl Remote {
    fn connect(socket: &Path) -> std::io::Result<Box<dyn Backend>> {
        let client = Client::connect(socket)?;
        // SAFETY: the name is a C string; a descriptor that was just made belongs to nobody else.
        let memory = unsafe {
            let fd = libc::memfd_create(c"dpaa2-dma".as_ptr(), libc::MFD_CLOEXEC);
            if fd < 0 || libc::ftruncate(fd, MEMORY_FILE) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        client.dma_memory(&memory)?;
        Ok(Box::new(Self { client, memory, used: Mutex::new(0) }))
    }

    /// Moves a range of this process' memory into the memory file; gives where it is there.
    fn share(&self, address: u64, len: u64) -> Option<u64> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = *used;
        let start = std::ptr::with_exposed_provenance_mut::<c_void>(address as usize);
        // SAFETY: the program gives this range of its own memory to the hardware, so it is mapped; nobody else uses it while
        // it is being given.
        let content = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), len as usize) };
        // Untouched memory needs no copy, and no pages.
        let file = File::from(self.memory.try_clone().ok()?);
        for (i, page) in content.chunks(4096).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                file.write_all_at(page, offset + 4096 * i as u64).ok()?;
            }
        }
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
        let mapped = real::mmap(start, len as usize, prot, flags, self.memory.as_raw_fd(), offset as i64);
        if mapped == libc::MAP_FAILED {
            return None;
        }
        *used += len;
        Some(offset)
    }
}

fn alive<T>(answer: std::io::Result<T>) -> T {
    answer.unwrap_or_else(|error| crate::stop(&format!("the model's process: {error}")))
}

impl Backend for Remote {
    fn containers(&self) -> Vec<(u32, Vec<ObjectInfo>)> {
        alive(self.client.containers())
    }

    fn claim(&self, container: u32) -> bool {
        alive(self.client.claim(container))
    }

    fn release(&self, container: u32) {
        alive(self.client.release(container));
    }

    fn region(&self, object: ObjectId, index: usize) -> Option<Memory> {
        let region = self.client.region(object, index).ok()?;
        Some(Memory { file: region.file, len: region.len, access: region.access })
    }

    fn store(&self, object: ObjectId, region: usize, offset: usize, bytes: &[u8]) {
        alive(self.client.store(object, region, offset, bytes));
    }

    fn container_command(&self, container: u32, request: &Frame) -> Option<Frame> {
        alive(self.client.container_command(container, request))
    }

    fn dma_map(&self, container: u32, iova: u64, len: u64, address: u64) -> bool {
        let Some(offset) = self.share(address, len) else { return false };
        alive(self.client.dma_map(container, iova, len, offset))
    }

    fn dma_unmap(&self, container: u32, iova: u64, len: u64) -> u64 {
        alive(self.client.dma_unmap(container, iova, len))
    }

    fn set_irq(&self, object: ObjectId, event: Option<OwnedFd>) -> bool {
        alive(self.client.set_irq(object, event.as_ref()))
    }

    fn reset(&self, object: ObjectId) -> bool {
        alive(self.client.reset(object))
    }

    fn report(&self) -> String {
        alive(self.client.report())
    }
}
