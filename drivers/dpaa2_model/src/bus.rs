//! The model as a bus for drivers in the same process.
//!
//! ```
//! use dpaa2_model::{Description, Model, ModelBus};
//! use fslmc_bus::Bus;
//!
//! let description = Description::from_toml("soc = 'lx2160a'\n[[container]]\nid = 2\ndpio = 1")?;
//! let bus = ModelBus::open(Model::new(&description)?.share(), 2).expect("it is described");
//! assert_eq!(bus.objects()?.len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::{Access, Model, RegionHandle};
use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use fslmc_bus::{Bus, BusError, Device, DeviceInfo, DmaRefusal, RegionInfo, Window, WindowPortal};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A model that several users have in common.
pub type SharedModel = Arc<Mutex<Model>>;

/// The granularity of DMA mappings.
const DMA_PAGE: usize = 4096;

impl Model {
    /// Makes it one that several users can have in common.
    pub fn share(self) -> SharedModel {
        Arc::new(Mutex::new(self))
    }
}

/// Takes the model, whatever became of its last user: each of its operations leaves it whole.
pub fn lock(model: &SharedModel) -> MutexGuard<'_, Model> {
    model.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A container of a model. When the last handle and everything made from it is gone, the container is reset and its memory
/// unmapped, as when a process that used VFIO ends.
#[derive(Clone, Debug)]
pub struct ModelBus(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    model: SharedModel,
    container: u32,
    ranges: Mutex<BTreeMap<u64, usize>>,
    /// Devices by how often they are open.
    open: Mutex<BTreeMap<ObjectId, usize>>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        lock(&self.model).release_container(self.container);
    }
}

impl ModelBus {
    /// Opens a container; `None` if the model has none of that number.
    pub fn open(model: SharedModel, container: u32) -> Option<Self> {
        lock(&model).container_of(ObjectType::DPRC.with_id(container))?;
        let (ranges, open) = Default::default();
        Some(Self(Arc::new(Opened { model, container, ranges, open })))
    }

    /// The model.
    pub fn model(&self) -> &SharedModel {
        &self.0.model
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bus for ModelBus {
    type Device = ModelDevice;

    fn container(&self) -> ObjectId {
        ObjectType::DPRC.with_id(self.0.container)
    }

    fn objects(&self) -> Result<Vec<ObjectId>, BusError> {
        Ok(lock(&self.0.model).objects(self.0.container).into_iter().map(|object| object.id).collect())
    }

    fn open(&self, object: ObjectId) -> Result<ModelDevice, BusError> {
        let container = self.container();
        let model = lock(&self.0.model);
        let known = model.object(object).filter(|_| model.container_of(object) == Some(container.id));
        let info = known.ok_or(BusError::NoObject { object, container })?;
        *held(&self.0.open).entry(object).or_default() += 1;
        let info = DeviceInfo { regions: info.regions as u32, irqs: info.irqs as u32 };
        Ok(ModelDevice(Arc::new(OpenDevice { bus: self.clone(), object, info })))
    }

    unsafe fn map_dma(&self, memory: NonNull<u8>, len: usize, iova: u64) -> Result<(), BusError> {
        let refuse = |why| Err(BusError::Dma { iova, len, why });
        if len == 0 || iova.checked_add(len as u64).is_none() {
            return refuse(DmaRefusal::NotARange);
        }
        if !(memory.as_ptr().addr() | len | iova as usize).is_multiple_of(DMA_PAGE) {
            return refuse(DmaRefusal::Unaligned);
        }
        // SAFETY: the caller keeps the memory until it is unmapped or the container closed, which unmaps it.
        let mapped =
            unsafe { lock(&self.0.model).dma_map(self.0.container, iova, len as u64, memory.as_ptr(), None) };
        if !mapped {
            return refuse(DmaRefusal::Overlap);
        }
        held(&self.0.ranges).insert(iova, len);
        Ok(())
    }

    fn unmap_dma(&self, iova: u64, len: usize) -> Result<(), BusError> {
        let mut ranges = held(&self.0.ranges);
        if ranges.get(&iova) != Some(&len) {
            return Err(BusError::Dma { iova, len, why: DmaRefusal::NotMapped });
        }
        ranges.remove(&iova);
        lock(&self.0.model).dma_unmap(self.0.container, iova, len as u64);
        Ok(())
    }

    fn dma_page_size(&self) -> usize {
        DMA_PAGE
    }
}

/// An open object of a model. The object is reset when it is closed for the last time.
#[derive(Clone, Debug)]
pub struct ModelDevice(Arc<OpenDevice>);

#[derive(Debug)]
struct OpenDevice {
    bus: ModelBus,
    object: ObjectId,
    info: DeviceInfo,
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        let mut open = held(&self.bus.0.open);
        if let Some(count) = open.get_mut(&self.object) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.object);
                let mut model = lock(&self.bus.0.model);
                model.set_irq(self.object, None);
                model.reset(self.object);
            }
        }
    }
}

impl OpenDevice {
    fn handle(&self, index: u32) -> Result<RegionHandle, BusError> {
        let handle = lock(&self.bus.0.model).region(self.object, index as usize);
        handle.ok_or(BusError::NoRegion { object: self.object, index })
    }

    fn irq(&self, index: u32) -> Result<(), BusError> {
        if index < self.info.irqs { Ok(()) } else { Err(BusError::NoIrq { object: self.object, index }) }
    }
}

impl ModelDevice {
    fn window(&self, index: u32) -> Result<ModelWindow, BusError> {
        let RegionHandle { memory, access } = self.0.handle(index)?;
        Ok(ModelWindow {
            device: self.clone(),
            index: index as usize,
            memory,
            is_trapped: access == Access::Trapped,
        })
    }
}

impl Device for ModelDevice {
    type Window = ModelWindow;
    type CommandPortal = WindowPortal<ModelWindow>;

    fn object(&self) -> ObjectId {
        self.0.object
    }

    fn info(&self) -> DeviceInfo {
        self.0.info
    }

    fn region(&self, index: u32) -> Result<RegionInfo, BusError> {
        let len = self.0.handle(index)?.memory.len();
        Ok(RegionInfo { len, mappable: self.0.object.object_type != ObjectType::DPRC })
    }

    fn map(&self, index: u32) -> Result<ModelWindow, BusError> {
        if !self.region(index)?.mappable {
            return Err(BusError::NotMappable { object: self.0.object, index });
        }
        self.window(index)
    }

    fn command_portal(&self) -> Result<WindowPortal<ModelWindow>, BusError> {
        let object = self.0.object;
        if ![ObjectType::DPMCP, ObjectType::DPRC].contains(&object.object_type) {
            return Err(BusError::NoCommandPortal { object });
        }
        WindowPortal::new(self.window(0)?)
    }

    fn arm_irq(&self, index: u32, event: BorrowedFd<'_>) -> Result<(), BusError> {
        self.0.irq(index)?;
        let event =
            event.try_clone_to_owned().map_err(|cause| BusError::system("duplicating an eventfd", cause))?;
        lock(&self.0.bus.0.model).set_irq(self.0.object, Some(event));
        Ok(())
    }

    fn disarm_irq(&self, index: u32) -> Result<(), BusError> {
        self.0.irq(index)?;
        lock(&self.0.bus.0.model).set_irq(self.0.object, None);
        Ok(())
    }

    fn reset(&self) -> Result<(), BusError> {
        let object = self.0.object;
        if lock(&self.0.bus.0.model).reset(object) {
            Ok(())
        } else {
            Err(BusError::system(format!("resetting {object}"), io::Error::from(io::ErrorKind::NotFound)))
        }
    }
}

/// A window of a portal of the model: each store is a call, loads read what the model left.
#[derive(Debug)]
pub struct ModelWindow {
    device: ModelDevice,
    index: usize,
    memory: Arc<crate::Region>,
    is_trapped: bool,
}

// Calls by name, so that a profiler can tell the model from the driver.
impl ModelWindow {
    #[inline(never)]
    fn store(&self, offset: usize, bytes: &[u8]) {
        let inside = offset.is_multiple_of(bytes.len()) && offset + bytes.len() <= self.memory.len();
        assert!(inside, "store of {} bytes at {offset:#x}", bytes.len());
        if self.is_trapped {
            lock(&self.device.0.bus.0.model).store(self.device.0.object, self.index, offset, bytes);
        } else {
            self.memory.write(offset, bytes);
        }
    }

    #[inline(never)]
    fn load<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        let inside = offset.is_multiple_of(N) && self.memory.read(offset, &mut bytes);
        assert!(inside, "load of {N} bytes at {offset:#x}");
        bytes
    }
}

impl Window for ModelWindow {
    fn window_len(&self) -> usize {
        self.memory.len()
    }

    fn read32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.load(offset))
    }

    fn write32(&self, offset: usize, value: u32) {
        self.store(offset, &value.to_le_bytes());
    }

    fn read64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.load(offset))
    }

    fn write64(&self, offset: usize, value: u64) {
        self.store(offset, &value.to_le_bytes());
    }

    fn write128(&self, offset: usize, words: [u64; 2]) {
        self.store(offset, words.map(u64::to_le_bytes).as_flattened());
    }
}

/// How long drivers should wait for a command of the model: its answer is there before the store that sends it returns, so
/// any time is enough.
pub const COMMAND_TIMEOUT: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Description;
    use dpaa2_defs::mc::common::{Created, Openable};
    use dpaa2_defs::mc::header::{Command, Frame, Status};
    use dpaa2_defs::mc::{dpbp, dpmng, dprc};
    use fslmc_bus::{CommandPortal, PortalError};

    fn bus() -> ModelBus {
        let text = "soc = 'lx2160a'\n[[container]]\nid = 2\ndpio = 2\ndpbp = 1\n[[container.dpni]]\nid = 1";
        let model = Model::new(&Description::from_toml(text).unwrap()).unwrap();
        ModelBus::open(model.share(), 2).unwrap()
    }

    fn send<C: Command>(
        portal: &mut impl CommandPortal,
        token: u16,
        command: &C,
    ) -> (Status, u16, C::Response) {
        let request = Frame::request(token, command);
        let response = Frame::from_words(portal.execute(&request.words(), COMMAND_TIMEOUT).unwrap());
        (response.header.status, response.header.token.get(), response.read())
    }

    fn portal(bus: &ModelBus) -> WindowPortal<ModelWindow> {
        bus.open("dpmcp.1".parse().unwrap()).unwrap().command_portal().unwrap()
    }

    #[test]
    fn objects_are_opened_by_token_and_refused_without() {
        let bus = bus();
        let mut portal = portal(&bus);
        let (status, _, version) = send(&mut portal, 0, &dpmng::GetVersion {});
        assert_eq!((status, version.major.get()), (Status::OK, 10));
        let (status, token, ()) = send(&mut portal, 0, &dpbp::Open::with_id(1));
        assert_eq!((status, token != 0), (Status::OK, true));
        let (status, _, attributes) = send(&mut portal, token, &dpbp::GetAttributes {});
        assert_eq!((status, attributes.bpid.get()), (Status::OK, 1));
        let (status, ..) = send(&mut portal, token + 1, &dpbp::GetAttributes {});
        assert_eq!(status, Status::AUTHENTICATION);
        let (status, ..) = send(&mut portal, 0, &dpbp::Open::with_id(9));
        assert_eq!(status, Status::CONFIGURATION);
        assert_eq!(lock(bus.model()).audit().violations_total, 1, "the wrong token");
    }

    #[test]
    fn objects_can_be_created_listed_and_destroyed() {
        let bus = bus();
        let mut portal = portal(&bus);
        let (_, token, ()) = send(&mut portal, 0, &dprc::Open::with_id(2));
        let count = |portal: &mut WindowPortal<ModelWindow>| {
            send(portal, token, &dprc::GetObjectCount {}).2.count.get()
        };
        let before = count(&mut portal);
        let (status, _, Created { id }) = send(&mut portal, token, &dpbp::Create {});
        assert_eq!((status, count(&mut portal)), (Status::OK, before + 1));
        let (status, ..) = send(&mut portal, token, &dpbp::Destroy { id });
        assert_eq!((status, count(&mut portal)), (Status::OK, before));
    }

    #[test]
    fn a_version_newer_than_known_is_refused() {
        let bus = bus();
        let mut portal = portal(&bus);
        let request = Frame::request_with_version(0, &dpmng::GetVersion {}, 2);
        let response = Frame::from_words(portal.execute(&request.words(), COMMAND_TIMEOUT).unwrap());
        assert_eq!(response.header.status, Status::UNSUPPORTED);
    }

    #[test]
    fn a_command_that_is_never_answered_times_out_and_one_that_fails_says_so() {
        let bus = bus();
        let mut first = portal(&bus);
        lock(bus.model()).inject(crate::Fault::CommandError { nth: 2, status: 0x9 });
        assert_eq!(send(&mut first, 0, &dpmng::GetVersion {}).0, Status::OK);
        assert_eq!(send(&mut first, 0, &dpmng::GetVersion {}).0, Status::NO_MEMORY);
        lock(bus.model()).inject(crate::Fault::CommandTimeout { nth: 1 });
        let request = Frame::request(0, &dpmng::GetVersion {}).words();
        assert!(matches!(first.execute(&request, COMMAND_TIMEOUT), Err(PortalError::Timeout(_))));
    }

    #[test]
    fn a_container_is_left_clean() {
        let bus = bus();
        let model = Arc::clone(bus.model());
        let mut portal = portal(&bus);
        send(&mut portal, 0, &dpbp::Open::with_id(1));
        let memory = fslmc_bus::DmaMemory::new(&bus, 4096).unwrap();
        assert_eq!(lock(&model).audit().open_tokens, 1);
        assert_eq!(lock(&model).audit().mapped_bytes, 4096);
        drop((portal, memory, bus));
        let audit = lock(&model).audit();
        assert!(audit.is_clean(), "{audit}");
        assert_eq!((audit.open_tokens, audit.mapped_bytes), (0, 0));
    }
}
