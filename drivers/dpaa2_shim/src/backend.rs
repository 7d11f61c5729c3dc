//! Where the model is: in this process, or in one of its own.

use dpaa2_defs::mc::header::Frame;
use dpaa2_defs::mc::object::ObjectId;
use dpaa2_model::{Access, Description, Model, ObjectInfo, SharedModel, lock};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

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
