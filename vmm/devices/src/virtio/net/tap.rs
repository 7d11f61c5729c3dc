//! Network by a TAP device of the host's kernel: the back-ends of other monitors, for comparison.
//!
//! Both kinds move frames with the same queues, the switch's own: a [`Half`] takes bursts from the guest's transmit
//! ring (or the device) and puts them into the device (or the guest's receive ring). They differ in who does it:
//!
//! - [`Place::Inline`]: the processor's thread, when the guest rings, each time leaving the guest for it, as QEMU's
//!   first virtio-net did. Frames from the device are moved by a thread that waits for them.
//! - [`Place::OwnThread`]: a thread of the device's own. Doorbells reach it without leaving the guest for this
//!   process, and while it is awake it wants none.

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use guest_memory::MemMap;
use packet::Burst;
use port::{Accepts, Armed, PortCounters, QueueFault, Received, RxQueue, Selection, TxQueue};
use rustix::event::{PollFd, PollFlags, poll};
use sandbox::Role;
use tap_port::{TapConfig, TapError, TapHandle, TapPort};
use virtio_defs::net::feature as net;
use virtqueue::{RingConfig, RingError, VirtioRx, VirtioTx};

use super::{Config, RINGS_AND_OFFLOADS, config_bytes, map_of, ring_config};
use crate::EventFd;
use crate::virtio::{Device, Kind, Memory, Notifier, Session, StartError};

/// Number of the queue on which the guest receives, and of that on which it transmits.
const RX: u16 = 0;
const TX: u16 = 1;

/// An open TAP device. It outlives the guest's resets, because opening one takes a privilege.
pub struct TapDevice {
    handle: TapHandle,
    /// While no session has them.
    queues: Mutex<Option<Queues>>,
}

type Queues = (Box<dyn RxQueue>, Box<dyn TxQueue>);

impl TapDevice {
    /// Opens the TAP device of this name, or makes it, and sets it up.
    ///
    /// # Errors
    /// Each says what to do.
    pub fn open(name: &str) -> Result<TapDevice, TapError> {
        let tap = TapPort::open(TapConfig::new(name))?;
        let handle = tap.handle();
        let queues = Mutex::new(tap.into_queues().pop());
        Ok(TapDevice { handle, queues })
    }

    /// The device for the kernel's back-end, which moves its frames itself.
    pub(super) fn open_for_kernel(&self, accepts: Accepts) -> Result<File, TapError> {
        self.handle.set_offloads(accepts)?;
        Ok(self.handle.export()?.queues.swap_remove(0).into())
    }

    fn queues(&self) -> MutexGuard<'_, Option<Queues>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who moves the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The processor's thread that rings.
    Inline,
    /// A thread of the device's.
    OwnThread,
}

/// A network device whose back-end is a TAP device.
pub struct TapNet {
    config: Config,
    queue_sizes: [u16; 2],
    place: Place,
    tap: Arc<TapDevice>,
    notifier: Notifier,
    running: Option<Arc<Halves>>,
    mover: Mover,
}

/// The thread that moves frames, one session after the other.
struct Mover {
    sessions: Option<Sender<Arc<Halves>>>,
    /// A word for each session that has ended.
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Mover {
    fn start(place: Place) -> io::Result<Mover> {
        let (sessions, inbox) = channel::<Arc<Halves>>();
        let (tell, ended) = channel();
        let thread = crate::thread::spawn("tap", Role::Device, move || {
            for halves in inbox {
                halves.work(place);
                drop(halves);
                if tell.send(()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Mover { sessions: Some(sessions), ended, thread: Some(thread) })
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.sessions = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

impl TapNet {
    /// Makes the device. Nothing moves before the guest's driver is ready.
    ///
    /// # Errors
    /// No thread is left.
    pub fn new(
        config: Config,
        queue_size: u16,
        place: Place,
        tap: Arc<TapDevice>,
        notifier: Notifier,
    ) -> io::Result<TapNet> {
        let (queue_sizes, mover) = ([queue_size; 2], Mover::start(place)?);
        Ok(TapNet { config, queue_sizes, place, tap, notifier, running: None, mover })
    }

    fn begin(&mut self, session: &Session) -> Result<(), StartError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| StartError(format!("{what}: {error}"));
        let map = Arc::new(map_of(&session.memory)?);
        let ring = |index: u16| -> Result<RingConfig, StartError> {
            let queue = session.queues.iter().find(|queue| queue.index == index);
            let queue = queue.ok_or_else(|| StartError(format!("queue {index} was not set up")))?;
            ring_config(queue, session.features)
        };
        let to_guest =
            VirtioTx::new(ring(RX)?, map.clone()).map_err(|error| failed("receive ring", &error))?;
        let from_guest = VirtioRx::new(ring(TX)?, map).map_err(|error| failed("transmit ring", &error))?;
        let stop = EventFd::create().map_err(|error| failed("descriptors", &error))?;
        self.tap.handle.set_offloads(to_guest.accepts()).map_err(|error| failed("offloads", &error))?;
        let event = |queue: &dyn RxQueue| queue.event_fd().map(|fd| fd.try_clone_to_owned()).transpose();
        let kick =
            event(&from_guest).ok().flatten().ok_or_else(|| StartError("no descriptor is left".into()))?;
        let mut queues = self.tap.queues();
        let (rx, _) = queues.as_ref().expect("a session that ended has given the queues back");
        let arrival =
            event(&**rx).ok().flatten().ok_or_else(|| StartError("no descriptor is left".into()))?;
        let (rx, tx) = queues.take().expect("just seen");
        drop(queues);
        let halves = Arc::new(Halves {
            to_guest: Mutex::new(Half::new(rx, Box::new(to_guest))),
            from_guest: Mutex::new(Half::new(Box::new(from_guest), tx)),
            arrival,
            kick,
            stop,
            stopping: AtomicBool::new(false),
            notifier: self.notifier.clone(),
        });
        let told = self.mover.sessions.as_ref().is_some_and(|sessions| sessions.send(halves.clone()).is_ok());
        if !told {
            give_back(&self.tap, halves);
            return Err(StartError("the device's thread has ended".into()));
        }
        self.running = Some(halves);
        Ok(())
    }
}

impl Device for TapNet {
    fn kind(&self) -> Kind {
        Kind::Net
    }

    fn features(&self) -> u64 {
        let mtu = if self.config.mtu.is_some() { net::MTU } else { 0 };
        RINGS_AND_OFFLOADS | net::MAC | net::STATUS | mtu
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        crate::virtio::read_bytes(&config_bytes(&self.config, true), offset, data);
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        self.begin(&session)?;
        if self.place == Place::Inline {
            // The guest may have put something into the ring before the device was there to be told of it.
            self.rung(TX);
        }
        Ok(())
    }

    fn stop(&mut self) {
        let Some(halves) = self.running.take() else { return };
        halves.stopping.store(true, Ordering::Release);
        halves.stop.signal();
        // Without a word the thread has ended, and its share with it.
        let _ = self.mover.ended.recv();
        give_back(&self.tap, halves);
    }

    fn memory_grown(&mut self, memory: &Memory) {
        let Some(halves) = &self.running else { return };
        let changed = map_of(memory).and_then(|map| halves.set_memory(&Arc::new(map)));
        if let Err(error) = changed {
            tracing::warn!(%error, "a network device doesn't see the memory that was added");
        }
    }

    fn answers_doorbell(&self, _queue: u16) -> bool {
        self.place == Place::Inline
    }

    fn rung(&mut self, queue: u16) {
        // That there is more room to receive into, the thread finds out when a frame comes.
        if let Some(halves) = self.running.as_ref().filter(|_| queue == TX) {
            halves.drain_guest();
        }
    }
}

impl Drop for TapNet {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns the device's queues, for the next session.
fn give_back(tap: &TapDevice, halves: Arc<Halves>) {
    let Ok(halves) = Arc::try_unwrap(halves).map_err(drop) else {
        unreachable!("the thread that shared them has ended");
    };
    let rx = halves.to_guest.into_inner().unwrap_or_else(PoisonError::into_inner).from;
    let tx = halves.from_guest.into_inner().unwrap_or_else(PoisonError::into_inner).to;
    *tap.queues() = Some((rx, tx));
}

/// One direction: what comes from a queue goes into another.
struct Half {
    from: Box<dyn RxQueue>,
    to: Box<dyn TxQueue>,
    burst: Burst,
    counters: PortCounters,
}

/// Every frame of a burst.
const ALL: [u8; packet::BURST_MAX] = {
    let mut all = [0; packet::BURST_MAX];
    let mut i = 0;
    while i < all.len() {
        all[i] = i as u8;
        i += 1;
    }
    all
};

impl Half {
    fn new(from: Box<dyn RxQueue>, to: Box<dyn TxQueue>) -> Half {
        Half { from, to, burst: Burst::new(), counters: PortCounters::default() }
    }

    /// Moves a burst; how many frames it had.
    fn turn(&mut self) -> Result<usize, QueueFault> {
        let mut received = Received::poll(&mut *self.from, &mut self.burst, &self.counters)?;
        let burst = received.burst();
        let count = burst.len();
        if count > 0 {
            self.to.transmit(Selection { burst, which: &ALL[..count] }, &self.counters)?;
        }
        drop(received);
        self.to.flush(&self.counters)?;
        Ok(count)
    }
}

/// Both directions, shared by the threads that move frames.
struct Halves {
    to_guest: Mutex<Half>,
    from_guest: Mutex<Half>,
    /// Readable when the device has a frame, and when the guest has rung.
    arrival: OwnedFd,
    kick: OwnedFd,
    /// Wakes the thread to its end.
    stop: EventFd,
    stopping: AtomicBool,
    notifier: Notifier,
}

fn lock(half: &Mutex<Half>) -> MutexGuard<'_, Half> {
    half.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Halves {
    /// The thread: moves frames until told to stop, or the guest breaks a ring.
    fn work(&self, place: Place) {
        let both = self.halves();
        let halves = match place {
            Place::Inline => &both[..1],
            Place::OwnThread => &both[..],
        };
        while !self.stopping.load(Ordering::Acquire) {
            let mut moved = 0;
            for (half, _) in halves {
                match lock(half).turn() {
                    Ok(count) => moved += count,
                    Err(fault) => return self.broken(fault),
                }
            }
            if moved == 0 {
                self.sleep(halves);
            }
        }
    }

    /// Each direction, with what tells that it has something.
    fn halves(&self) -> [(&Mutex<Half>, &OwnedFd); 2] {
        [(&self.to_guest, &self.arrival), (&self.from_guest, &self.kick)]
    }

    /// Waits until one of the queues has something, or for the end.
    fn sleep(&self, halves: &[(&Mutex<Half>, &OwnedFd)]) {
        if halves.iter().all(|(half, _)| lock(half).from.arm() == Armed::Waiting) {
            let events = halves.iter().map(|(_, event)| PollFd::new(*event, PollFlags::IN));
            let mut fds: Vec<_> = events.chain([PollFd::new(&self.stop, PollFlags::IN)]).collect();
            // Interrupted or not, the next turn sees what there is.
            let _ = poll(&mut fds, None);
        }
        halves.iter().for_each(|(half, _)| lock(half).from.disarm());
    }

    /// Moves all that the guest has to send, on the thread that rang, and asks to be rung again.
    fn drain_guest(&self) {
        let mut half = lock(&self.from_guest);
        loop {
            match half.turn() {
                Ok(0) if half.from.arm() == Armed::Waiting => return,
                Ok(_) => {}
                Err(fault) => return self.broken(fault),
            }
        }
    }

    fn broken(&self, fault: QueueFault) {
        tracing::warn!(%fault, "a network device stops");
        self.notifier.needs_reset();
    }

    fn set_memory(&self, map: &Arc<MemMap>) -> Result<(), StartError> {
        let failed = |error: RingError| StartError(error.to_string());
        let mut half = lock(&self.to_guest);
        let ring = (&mut *half.to as &mut dyn Any).downcast_mut::<VirtioTx>().expect("the guest's end");
        ring.set_memory(map.clone()).map_err(failed)?;
        drop(half);
        let mut half = lock(&self.from_guest);
        let ring = (&mut *half.from as &mut dyn Any).downcast_mut::<VirtioRx>().expect("the guest's end");
        ring.set_memory(map.clone()).map_err(failed)?;
        Ok(())
    }
}
