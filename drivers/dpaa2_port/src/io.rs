//! A software portal with its DPIO: opened, interrupting, closed.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use dpaa2_defs::mc::dpio::ChannelMode;
use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use dpaa2_defs::qbman::registers::Generation;
use dpaa2_mc::{Dpio, Enabled};
use dpaa2_qbman::{Portal, PortalConfig, PortalError};
use fslmc_bus::{Bus, Device, Interrupt, dpio_region};

use crate::Dpaa2Error;
use crate::counters::{DriverCounters, add};
use crate::hardware::Inner;
use crate::returns::Returns;

type WindowOf<B> = <<B as Bus>::Device as Device>::Window;

/// How long buffers are offered to a pool that takes none.
const GIVE_TIMEOUT: Duration = Duration::from_millis(50);

/// A portal that belongs to one queue.
pub(crate) struct Io<B: Bus> {
    pub portal: Portal<WindowOf<B>>,
    /// Fires when something was pushed.
    pub interrupt: Option<Interrupt<B::Device>>,
    dpio: Option<Dpio<Enabled>>,
    object: ObjectId,
    /// Keeps the object open where no interrupt does.
    _device: Option<B::Device>,
    /// Where its number goes back to. The control portal belongs to the hardware itself, hence weak.
    hardware: Weak<Inner<B>>,
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
    /// Takes a free DPIO.
    pub fn open(hardware: &Arc<Inner<B>>, wanted: Use) -> Result<Io<B>, Dpaa2Error> {
        let id =
            hardware.free_dpios.lock().expect("no holder panics").pop().ok_or(Dpaa2Error::NotEnough {
                container: hardware.bus.container(),
                object_type: "dpio",
                need: "each queue needs one, and control",
            })?;
        let opened = Self::open_id(hardware, ObjectType::DPIO.with_id(id), wanted);
        if opened.is_err() {
            hardware.free_dpios.lock().expect("no holder panics").push(id);
        }
        opened
    }

    fn open_id(hardware: &Arc<Inner<B>>, object: ObjectId, wanted: Use) -> Result<Io<B>, Dpaa2Error> {
        let (device, dpio) = hardware.take(object, Dpio::open)?;
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
        let hardware = Arc::downgrade(hardware);
        Ok(Io { portal, interrupt, dpio: Some(dpio), object, _device: device, hardware })
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
        let dpio = self.dpio.take().expect("taken here only");
        if let Err(error) = dpio.disable().and_then(Dpio::reset) {
            tracing::warn!("closing a portal: {error}");
        }
        if let Some(hardware) = self.hardware.upgrade() {
            hardware.free_dpios.lock().expect("no holder panics").push(self.id());
        }
    }
}
