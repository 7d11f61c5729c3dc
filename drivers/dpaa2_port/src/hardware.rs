//! The hardware of a container: command portal, software portals, buffer pools; where ports come from.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use dpaa2_defs::qbman::management::{AboutFq, QueryFqState, QueryPool};
use dpaa2_defs::qbman::release::BUFFERS_MAX;
use dpaa2_mc::{Container, Dpbp, Enabled, Mc, McError};
use dpaa2_qbman::PortalError;
use fslmc_bus::Bus;

use crate::Dpaa2Error;
use crate::buffers::{BUFFER_ALIGN, Buffers};
use crate::io::{ControlPortal, Io, Use};
use crate::worker_portal::WorkerPortal;

/// Most pools that ports of one container use.
const POOLS_MAX: usize = 32;
/// How long a pool may take to take all its first buffers.
const SEED_TIMEOUT: Duration = Duration::from_secs(2);
/// A table of `SEGMENTS_MAX` entries, or a short frame.
const BUFFER_BYTES_MIN: u32 = 1024;
/// "set pools" has 16 bits for a size, and offsets have 12 bits of room to spare.
const BUFFER_BYTES_MAX: u32 = 32 << 10;
/// What bursts of a container's ports are marked with.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// The hardware of a container that this process drives. Clones refer to the same; it is closed with the last of them
/// and the last of its ports.
pub struct Dpaa2<B: Bus>(pub(crate) Arc<Inner<B>>);

impl<B: Bus> Clone for Dpaa2<B> {
    fn clone(&self) -> Self {
        Dpaa2(self.0.clone())
    }
}

pub(crate) struct Inner<B: Bus> {
    pub bus: B,
    /// What marks bursts whose tokens are this hardware's.
    pub number: u64,
    /// One for each worker. (Dropped before the pools, as is control's.)
    pub workers: Vec<Arc<WorkerPortal<B>>>,
    /// Fills pools, empties and asks them.
    control: Mutex<ControlPortal<B>>,
    pub free_dpcons: Mutex<Vec<u32>>,
    pub pools: Pools<B>,
    dpbps: Mutex<Vec<(B::Device, Dpbp<Enabled>)>>,
    container: Mutex<Container<B>>,
}

/// The pools of a container, for whoever has a frame descriptor in hand. Pools are added and never removed.
pub(crate) struct Pools<B: Bus>([OnceLock<Arc<Buffers<B>>>; POOLS_MAX]);

impl<B: Bus> Pools<B> {
    /// The pool of this number.
    #[inline(always)]
    pub fn of(&self, bpid: u16) -> Option<&Arc<Buffers<B>>> {
        self.all().find(|pool| pool.bpid() == bpid)
    }

    #[inline(always)]
    pub fn all(&self) -> impl Iterator<Item = &Arc<Buffers<B>>> {
        self.0.iter().map_while(OnceLock::get)
    }
}

/// How a buffer pool is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Number of the DPBP.
    pub dpbp: u32,
    /// How many buffers.
    pub buffers: u32,
    /// Bytes of a buffer, the 128 in front of a frame included; rounded up to 256.
    pub buffer_bytes: u32,
}

impl PoolConfig {
    /// 4,096 buffers of 2,304 bytes: a frame of 2,176 in each.
    pub const fn new(dpbp: u32) -> PoolConfig {
        PoolConfig { dpbp, buffers: 4096, buffer_bytes: 2304 }
    }
}

/// What became of a pool's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolAccount {
    /// The pool.
    pub dpbp: ObjectId,
    /// Buffers it was filled with.
    pub buffers: u32,
    /// Those that lie in it now. The others are with hardware or with queues; without any port they are lost.
    pub free: u32,
}

impl<B: Bus> Dpaa2<B> {
    /// Takes over a container for workers on these cores: its first DPMCP, a DPIO for each of them and one for control
    /// are used at once, the rest as ports need it. Hardware puts what a worker dequeues near its core.
    ///
    /// # Errors
    /// There are too few DPIOs, or the system, the firmware or a portal is in the way.
    pub fn open(bus: B, cores: &[usize]) -> Result<Dpaa2<B>, Dpaa2Error> {
        let container = Container::open(bus.clone())?;
        let mut free_dpcons: Vec<u32> = container.ids(ObjectType::DPCON).map(|object| object.id).collect();
        // Taken from the end.
        free_dpcons.reverse();
        let mut dpios = container.ids(ObjectType::DPIO);
        let mut portal = |wanted| {
            let object = dpios.next().ok_or(Dpaa2Error::NotEnough {
                container: bus.container(),
                object_type: "dpio",
                need: "each worker needs one, and control",
            })?;
            Io::open(&container, object, wanted)
        };
        let control = ControlPortal::new(&bus, portal(Use::Polled)?)?;
        let soc = container.mc().soc_version()?;
        let wanted = if free_dpcons.is_empty() { Use::Polled } else { Use::Interrupting };
        let mut workers = vec![];
        for &core in cores {
            let io = portal(wanted)?;
            if let Some(destination) = soc.stashing_destination(core) {
                io.stash_to(destination)?;
            }
            workers.push(Arc::new(WorkerPortal::new(io)?));
        }
        drop(dpios);
        Ok(Dpaa2(Arc::new(Inner {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            workers,
            control: Mutex::new(control),
            free_dpcons: Mutex::new(free_dpcons),
            pools: Pools(std::array::from_fn(|_| OnceLock::new())),
            dpbps: Mutex::new(vec![]),
            container: Mutex::new(container),
            bus,
        })))
    }

    /// Fills a buffer pool, unless it is filled in this way already.
    ///
    /// # Errors
    /// There is no such DPBP, no memory, or it was filled in another way.
    pub fn pool(&self, config: PoolConfig) -> Result<(), Dpaa2Error> {
        self.0.pool(config).map(drop)
    }

    /// What became of the buffers of each pool.
    ///
    /// # Errors
    /// The portal doesn't answer.
    pub fn accounts(&self) -> Result<Vec<PoolAccount>, Dpaa2Error> {
        let dpbps = self.0.dpbps.lock().expect("no holder panics");
        let mut control = self.0.control();
        let io = &mut control.io;
        let mut accounts = vec![];
        for (pool, (_, dpbp)) in self.0.pools.all().zip(dpbps.iter()) {
            let state = io.portal.command(&QueryPool::new(pool.bpid())).map_err(|cause| io.error(cause))?;
            accounts.push(PoolAccount { dpbp: dpbp.object(), buffers: pool.count(), free: state.free.get() });
        }
        Ok(accounts)
    }

    /// The container's name.
    pub fn container(&self) -> ObjectId {
        self.0.bus.container()
    }
}

impl<B: Bus> Inner<B> {
    /// Opens an object of the container.
    pub fn take<T>(
        &self,
        object: ObjectId,
        open: impl FnOnce(&Mc, u32) -> Result<T, McError>,
    ) -> Result<(B::Device, T), Dpaa2Error> {
        Ok(self.container.lock().expect("no holder panics").take(object, open)?)
    }

    pub fn control(&self) -> MutexGuard<'_, ControlPortal<B>> {
        self.control.lock().expect("no holder panics")
    }

    /// Frames that wait in a frame queue.
    pub fn frames_in(&self, fqid: u32) -> Result<u32, Dpaa2Error> {
        let mut io = self.control();
        let asked = QueryFqState(AboutFq::new(fqid));
        let state = io.io.portal.command(&asked).map_err(|cause| io.io.error(cause))?;
        // The upper byte isn't part of the number.
        Ok(state.frames.get() & 0xff_ffff)
    }

    /// A pool filled in this way.
    pub fn pool(&self, config: PoolConfig) -> Result<Arc<Buffers<B>>, Dpaa2Error> {
        let id = ObjectType::DPBP.with_id(config.dpbp);
        let wrong = |what: String| Dpaa2Error::Config { object: id, what };
        let buffer_bytes = config.buffer_bytes.next_multiple_of(BUFFER_ALIGN as u32);
        if !(BUFFER_BYTES_MIN..=BUFFER_BYTES_MAX).contains(&buffer_bytes) {
            let range = format!("{BUFFER_BYTES_MIN} to {BUFFER_BYTES_MAX}");
            return Err(wrong(format!("buffers of {} bytes; allowed are {range}", config.buffer_bytes)));
        }
        if config.buffers == 0 || u64::from(config.buffers) * u64::from(buffer_bytes) > u32::MAX.into() {
            return Err(wrong(format!(
                "{} buffers of {buffer_bytes} bytes; at least one, and less than 4 GiB",
                config.buffers
            )));
        }
        let mut dpbps = self.dpbps.lock().expect("no holder panics");
        if let Some(at) = dpbps.iter().position(|(_, dpbp)| dpbp.object() == id) {
            let pool = self.pools.all().nth(at).expect("each DPBP has its pool");
            if (pool.count(), pool.buffer_bytes()) != (config.buffers, buffer_bytes) {
                let (count, bytes) = (pool.count(), pool.buffer_bytes());
                return Err(wrong(format!("the pool has {count} buffers of {bytes} bytes already")));
            }
            return Ok(pool.clone());
        }
        let slot = self.pools.0.iter().find(|slot| slot.get().is_none());
        let slot = slot.ok_or_else(|| wrong(format!("more than {POOLS_MAX} pools are in use")))?;
        let (device, dpbp) = self.take(id, Dpbp::open)?;
        let dpbp = dpbp.reset()?.enable()?;
        let bpid = dpbp.attributes()?.bpid.get();
        let pool = Arc::new(Buffers::new(&self.bus, bpid, config.buffers, buffer_bytes)?);
        self.seed(&pool)?;
        dpbps.push((device, dpbp));
        assert!(slot.set(pool.clone()).is_ok(), "the slot is free, and pools are added one at a time");
        Ok(pool)
    }

    /// Gives a pool its buffers.
    fn seed(&self, pool: &Buffers<B>) -> Result<(), Dpaa2Error> {
        let mut control = self.control();
        let io = &mut control.io;
        let addresses: Vec<u64> = pool.addresses().collect();
        let started = Instant::now();
        for group in addresses.chunks(BUFFERS_MAX) {
            loop {
                match io.portal.release(pool.bpid(), group) {
                    Ok(()) => break,
                    Err(PortalError::ReleaseBusy) if started.elapsed() < SEED_TIMEOUT => {
                        std::hint::spin_loop()
                    }
                    Err(cause) => return Err(io.error(cause)),
                }
            }
        }
        Ok(())
    }

    /// Takes all buffers out of a pool and returns how many there were.
    fn empty(&self, pool: &Buffers<B>) -> Result<u32, PortalError> {
        let mut control = self.control();
        let io = &mut control.io;
        let mut buffers = [0; BUFFERS_MAX];
        let mut count = 0;
        let mut want = BUFFERS_MAX;
        // A pool that gives more than it was given is broken, and must not keep us here.
        while count <= pool.count() {
            match io.portal.acquire(pool.bpid(), &mut buffers[..want])? {
                0 if want == 1 => break,
                // All or nothing: the rest comes one by one.
                0 => want = 1,
                n => count += n as u32,
            }
        }
        Ok(count)
    }
}

impl<B: Bus> Drop for Inner<B> {
    /// Takes the buffers out of the pools before their memory goes, and says which are missing.
    fn drop(&mut self) {
        let dpbps = std::mem::take(&mut *self.dpbps.lock().expect("no holder panics"));
        for ((_device, dpbp), pool) in dpbps.into_iter().zip(self.pools.all()) {
            let (name, count) = (dpbp.object(), pool.count());
            match self.empty(pool) {
                Ok(found) if found == count => {}
                Ok(found) => tracing::warn!("{name}: {found} of {count} buffers came back"),
                Err(error) => tracing::warn!("{name}: its buffers can't be taken out: {error}"),
            }
            if let Err(error) = dpbp.disable().and_then(Dpbp::reset) {
                tracing::warn!("closing a pool: {error}");
            }
        }
    }
}
