//! What the queues of a port, and control, share.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use dpaa2_mc::{Disabled, Dpni, Enabled, State};
use fslmc_bus::{Bus, Interrupt};

use crate::RxClass;
use crate::counters::DriverCounters;
use crate::hardware::Inner;
use crate::steering::Steering;

/// How long frames on their way out may take when the interface stops.
const TRANSMISSION_TIMEOUT: Duration = Duration::from_millis(500);
/// Between two questions to the firmware.
const INTERVAL: Duration = Duration::from_millis(1);

/// The part of a port that lives as long as any of its queues or handles.
pub(crate) struct Shared<B: Bus> {
    pub interface: Mutex<Interface>,
    pub hardware: Arc<Inner<B>>,
    /// Whether hardware checks and writes checksums.
    pub checksums: bool,
    /// Longest frame without FCS.
    pub frame_max: AtomicU32,
    pub counters: DriverCounters,
    /// Becomes readable when the link changes.
    pub link_event: Option<OwnedFd>,
    /// Keeps the interface open, and its interrupt armed.
    pub device: Mutex<LinkWatch<B>>,
    pub rx_classes: Vec<RxClass>,
    /// Taken after the interface, where both are.
    pub steering: Mutex<Steering<B>>,
}

/// How the link is watched.
pub(crate) enum LinkWatch<B: Bus> {
    Interrupt(Interrupt<B::Device>),
    /// The object has no interrupt.
    No {
        _device: B::Device,
    },
}

/// The interface in its state.
pub(crate) enum Interface {
    Running(Dpni<Enabled>),
    Stopped(Dpni<Disabled>),
    /// Its firmware failed while its state was changed.
    Lost,
}

/// Does something with the interface in whatever state it is.
macro_rules! with_dpni {
    ($shared:expr, $dpni:ident => $do:expr) => {{
        match &*$shared.interface.lock().expect("no holder panics") {
            Interface::Running($dpni) => $do,
            Interface::Stopped($dpni) => $do,
            Interface::Lost => return Err($crate::Dpaa2Error::Lost),
        }
    }};
}
pub(crate) use with_dpni;

impl<B: Bus> Shared<B> {
    /// Stops the interface: no frame is received any more. What is on its way out goes out first. Only the first call
    /// does something.
    pub fn stop(&self) {
        let mut interface = self.interface.lock().expect("no holder panics");
        *interface = match std::mem::replace(&mut *interface, Interface::Lost) {
            Interface::Running(dpni) => {
                wait_for_transmission(&dpni);
                match dpni.disable() {
                    Ok(dpni) => Interface::Stopped(dpni),
                    Err(error) => {
                        tracing::warn!("stopping an interface: {error}");
                        Interface::Lost
                    }
                }
            }
            other => other,
        };
    }

    pub fn steering(&self) -> MutexGuard<'_, Steering<B>> {
        self.steering.lock().expect("no holder panics")
    }

    /// Reads away what the link's interrupt said.
    pub fn clear_link_event(&self) {
        if let LinkWatch::Interrupt(interrupt) = &*self.device.lock().expect("no holder panics") {
            interrupt.take();
        }
    }
}

/// Waits for frames on their way out, for a limited time. Old firmware doesn't say how many there are.
fn wait_for_transmission<S: State>(dpni: &Dpni<S>) {
    let started = Instant::now();
    while matches!(dpni.tx_pending(), Ok(Some(1..))) && started.elapsed() < TRANSMISSION_TIMEOUT {
        std::thread::sleep(INTERVAL);
    }
}

impl<B: Bus> Drop for Shared<B> {
    /// The last queue is gone: the interface goes back to how it was created.
    fn drop(&mut self) {
        self.stop();
        let interface =
            std::mem::replace(&mut *self.interface.lock().expect("no holder panics"), Interface::Lost);
        let Interface::Stopped(dpni) = interface else { return };
        wait_for_transmission(&dpni);
        let reset = dpni.disarm_events().and_then(|()| dpni.reset());
        if let Err(error) = reset {
            tracing::warn!("closing an interface: {error}");
        }
    }
}
