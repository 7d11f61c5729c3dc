//! A software portal with its DPIO: opened, interrupting, closed; and the one that control has.

use std::time::{Duration, Instant};

use dpaa2_defs::fd::Fd;
use dpaa2_defs::mc::dpio::ChannelMode;
use dpaa2_defs::mc::object::ObjectId;
use dpaa2_defs::qbman::registers::Generation;
use dpaa2_mc::{Container, Dpio, Enabled};
use dpaa2_qbman::{Portal, PortalConfig, PortalError, Results, Source};
use fslmc_bus::{Bus, Device, Interrupt, dpio_region};
use packet::BURST_MAX;

use crate::Dpaa2Error;
use crate::counters::{DriverCounters, add};
use crate::returns::Returns;

type WindowOf<B> = <<B as Bus>::Device as Device>::Window;

/// How long buffers are offered to a pool that takes none.
const GIVE_TIMEOUT: Duration = Duration::from_millis(50);

/// How long control waits for frames, and a portal that closes for its last enqueues.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(50);

/// A portal with its DPIO.
pub(crate) struct Io<B: Bus> {
    pub portal: Portal<WindowOf<B>>,
    /// Fires when something was pushed.
    pub interrupt: Option<Interrupt<B::Device>>,
    dpio: Option<Dpio<Enabled>>,
    object: ObjectId,
    /// Keeps the object open where no interrupt does.
    _device: Option<B::Device>,
}

/// What a portal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// It is polled.
    Polled,
    /// It is told of channels' data and interrupts then.
    Interrupting,
}

impl<B: Bus> Io<B> {
    /// Takes a DPIO of the container.
    pub fn open(container: &Container<B>, object: ObjectId, wanted: Use) -> Result<Io<B>, Dpaa2Error> {
        let (device, dpio) = container.take(object, Dpio::open)?;
        let dpio = dpio.reset()?.enable()?;
        let attributes = dpio.attributes()?;
        let qbman_version = attributes.qbman_version.get();
        let cinh = device.map(dpio_region::CINH)?;
        let cena = device.map(Generation::of(qbman_version).cena_region())?;
        let config = PortalConfig { qbman_version, portal_id: attributes.portal_id.get() };
        let mut portal =
            Portal::new(cinh, cena, config).map_err(|cause| Dpaa2Error::Portal { object, cause })?;
        let (interrupt, device) = match wanted {
            Use::Polled => (None, Some(device)),
            Use::Interrupting if attributes.channel_mode != ChannelMode::LOCAL.0 => {
                let what =
                    "it has no channel to be notified on; create it with `--channel-mode=DPIO_LOCAL_CHANNEL`";
                return Err(Dpaa2Error::Config { object, what: what.to_owned() });
            }
            Use::Interrupting => {
                let interrupt = Interrupt::arm(device, 0)?;
                portal.push_from(1);
                portal.interrupt_on_push(0, 0);
                portal.inhibit_interrupt();
                (Some(interrupt), None)
            }
        };
        Ok(Io { portal, interrupt, dpio: Some(dpio), object, _device: device })
    }

    /// The DPIO's number.
    pub fn id(&self) -> u32 {
        self.object.id
    }

    /// What went wrong with the portal, naming it.
    pub fn error(&self, cause: PortalError) -> Dpaa2Error {
        Dpaa2Error::Portal { object: self.object, cause }
    }

    /// Has results stashed near a core.
    pub fn stash_to(&self, destination: u8) -> Result<(), Dpaa2Error> {
        let dpio = self.dpio.as_ref().expect("taken in drop only");
        Ok(dpio.set_stashing_destination(destination)?)
    }

    /// Gives all buffers to their pool, for a limited time; what it doesn't take is counted as lost.
    pub fn give_all(&mut self, returns: &mut Returns, counters: &DriverCounters) {
        let started = Instant::now();
        while returns.len() > 0 && returns.flush_all(&mut self.portal).is_ok() {
            if started.elapsed() > GIVE_TIMEOUT {
                break;
            }
        }
        add(&counters.lost_buffers, returns.len() as u64);
    }
}

impl<B: Bus> Drop for Io<B> {
    fn drop(&mut self) {
        self.portal.push_from(0);
        self.portal.inhibit_interrupt();
        let started = Instant::now();
        while matches!(self.portal.enqueues_under_way(), Ok(1..)) && started.elapsed() < SETTLE_TIMEOUT {
            std::hint::spin_loop();
        }
        let dpio = self.dpio.take().expect("taken here only");
        if let Err(error) = dpio.disable().and_then(Dpio::reset) {
            tracing::warn!("closing a portal: {error}");
        }
    }
}

/// The portal of control: it fills and empties pools, and queues that no worker serves any more.
pub(crate) struct ControlPortal<B: Bus> {
    // Dropped in this order: the portal is reset before the memory it writes to is freed.
    pub io: Io<B>,
    results: Results<B>,
}

impl<B: Bus> ControlPortal<B> {
    pub fn new(bus: &B, io: Io<B>) -> Result<ControlPortal<B>, Dpaa2Error> {
        Ok(ControlPortal { io, results: Results::new(bus)? })
    }

    /// Takes up to a burst of frames. Returns how many there were; `None` when there was no answer in time.
    pub fn fetch(&mut self, source: Source, fds: &mut [Fd; BURST_MAX]) -> Option<usize> {
        let started = Instant::now();
        self.io.portal.pull(source, self.io.portal.pull_max(), &mut self.results).ok()?;
        let mut frames = 0;
        while started.elapsed() < SETTLE_TIMEOUT {
            let answered = self.results.take(|result| {
                if result.has_frame() {
                    fds[frames] = result.fd;
                    frames += 1;
                }
            });
            if answered.ok()? {
                self.io.portal.pull_answered();
                return Some(frames);
            }
            std::hint::spin_loop();
        }
        None
    }
}
