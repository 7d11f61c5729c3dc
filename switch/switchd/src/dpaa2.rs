//! The DPAA2 hardware of the switch, opened with the first port that is on it, and its ports' links.

use std::cell::{Cell, OnceCell, RefCell};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use control::HardwareRow;
use dpaa2_defs::mc::object::ObjectType;
use dpaa2_model::{AuditReport, Description, Model, ModelBus, SharedModel, WireEnd};
use dpaa2_port::{
    Dpaa2, Dpaa2Error, Dpaa2Handle, Dpaa2Port, PoolConfig, PoolUse, PortConfig, RxClass, TxShare,
};
use fslmc_bus::vfio::{Roots, VfioBus};
use port::PortId;
use switch_config::{Fslmc, FslmcBus};
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;

use crate::dataplane::Dataplane;
use crate::show::mac_text;

/// Bytes of a frame beyond its MTU: Ethernet header and two tags.
const LINK_HEADER_MAX: u16 = 14 + 8;
/// The longest frame of the hardware.
const FRAME_MAX: u16 = 10_240;
/// How often the modelled wires are looked at: workers that sleep don't.
const WIRE_INTERVAL: Duration = Duration::from_millis(1);

/// The hardware; clones are the same.
#[derive(Clone)]
pub(crate) struct Hardware(Rc<Opening>);

struct Opening {
    config: Option<Fslmc>,
    opened: OnceCell<Opened>,
}

enum Opened {
    Vfio(Dpaa2<VfioBus>),
    Model { hardware: Dpaa2<ModelBus>, model: SharedModel, wires: JoinHandle<()> },
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(Opened::Model { hardware, model, wires }) = self.opened.take() {
            wires.abort();
            drop(hardware);
            report(&dpaa2_model::lock(&model).audit());
        }
    }
}

/// Says what the model has to say of its driver, when that has closed everything.
fn report(audit: &AuditReport) {
    for violation in &audit.violations {
        tracing::error!("audit of the DPAA2 model: {violation}");
    }
    let AuditReport { violations_total, abandoned_tokens, abandoned_bytes, .. } = audit;
    if audit.is_clean() && (*abandoned_tokens, *abandoned_bytes) == (0, 0) {
        tracing::info!("audit of the DPAA2 model: clean");
    } else {
        tracing::error!(
            violations_total,
            abandoned_tokens,
            abandoned_bytes,
            "audit of the DPAA2 model: not clean"
        );
    }
}

impl Hardware {
    /// The hardware that the file describes. Nothing is opened yet: a predecessor may still have it.
    pub fn new(config: Option<&Fslmc>) -> Hardware {
        Hardware(Rc::new(Opening { config: config.cloned(), opened: OnceCell::new() }))
    }

    /// Opens the interface of a port.
    ///
    /// # Errors
    /// The hardware's, with what to do about it.
    pub fn open_port(
        &self,
        config: &switch_config::Port,
        dpaa2: &switch_config::Dpaa2,
    ) -> anyhow::Result<Dpaa2Port> {
        let fslmc = self.0.config.as_ref().context("the file has no section [fslmc]")?;
        if self.0.opened.get().is_none() {
            let opened = open(fslmc)?;
            assert!(self.0.opened.set(opened).is_ok(), "one thread opens the hardware");
        }
        let config = port_config(fslmc, config, dpaa2);
        Ok(match self.0.opened.get().expect("just opened") {
            Opened::Vfio(hardware) => hardware.open_port(&config),
            Opened::Model { hardware, .. } => hardware.open_port(&config),
        }?)
    }
}

fn open(fslmc: &Fslmc) -> anyhow::Result<Opened> {
    let container = fslmc.container;
    match &fslmc.bus {
        FslmcBus::Vfio => {
            let bus = VfioBus::open(&Roots::default(), ObjectType::DPRC.with_id(container.number()))?;
            Ok(Opened::Vfio(Dpaa2::open(bus)?))
        }
        FslmcBus::Model { board } => {
            let model = model(board).with_context(|| format!("the modelled board {}", board.display()))?;
            let bus = ModelBus::open(model.clone(), container.number());
            let bus = bus.with_context(|| format!("{} has no {container}", board.display()))?;
            let hardware = Dpaa2::open(bus)?;
            tracing::info!(%container, board = %board.display(), "the DPAA2 hardware is a model");
            let wires = tokio::task::spawn_local(look_at_wires(model.clone()));
            Ok(Opened::Model { hardware, model, wires })
        }
    }
}

fn description(board: &Path) -> anyhow::Result<Description> {
    Ok(Description::from_toml(&std::fs::read_to_string(board)?)?)
}

fn model(board: &Path) -> anyhow::Result<SharedModel> {
    Ok(Model::new(&description(board)?)?.share())
}

/// Whether a modelled board has a wire that ends in a TAP device. One that can't be read has none: opening it says why.
pub(crate) fn has_tap(board: &Path) -> bool {
    let is_tap = |end: &WireEnd| matches!(end, WireEnd::Tap { .. });
    description(board).is_ok_and(|description| description.dpmac.iter().any(|mac| is_tap(&mac.end)))
}

async fn look_at_wires(model: SharedModel) {
    let mut interval = tokio::time::interval(WIRE_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        dpaa2_model::lock(&model).poll();
    }
}

fn port_config(fslmc: &Fslmc, config: &switch_config::Port, dpaa2: &switch_config::Dpaa2) -> PortConfig {
    let pool = |dpbp: switch_config::Dpbp| {
        let default = PoolConfig::new(dpbp.number());
        let configured = fslmc.pools.iter().find(|pool| pool.dpbp == dpbp);
        configured.map_or(default, |pool| PoolConfig {
            buffers: pool.buffers,
            buffer_bytes: pool.buffer_bytes,
            ..default
        })
    };
    PortConfig {
        rx_classes: vec![RxClass::new(config.queues.get())],
        tx_classes: vec![TxShare::EQUAL; config.queues.get().into()],
        rx_pools: vec![PoolUse { pool: pool(dpaa2.pool), classes: 0 }],
        tx_pool: Some(pool(dpaa2.tx_pool)),
        mac: dpaa2.mac.map(|mac| mac.bytes()),
        frame_max: frame_max(config.mtu.get()),
        checksums: dpaa2.checksums,
        ..PortConfig::new(dpaa2.dpni.number(), dpaa2.pool.number())
    }
}

/// The longest frame of an interface with this MTU.
pub(crate) fn frame_max(mtu: u16) -> u16 {
    mtu.saturating_add(LINK_HEADER_MAX).min(FRAME_MAX)
}

/// A running port's interface: what is asked of it, and whether its link is up.
pub(crate) struct RunningDpaa2 {
    pub handle: Dpaa2Handle,
    link: Rc<Cell<bool>>,
    watch: JoinHandle<()>,
}

impl RunningDpaa2 {
    /// Follows the link of the interface.
    pub fn new(
        name: &switch_config::PortName,
        id: PortId,
        handle: Dpaa2Handle,
        plane: &Rc<RefCell<Dataplane>>,
    ) -> RunningDpaa2 {
        let link = Rc::new(Cell::new(true));
        let watch = watch(name.clone(), id, handle.clone(), link.clone(), plane.clone());
        RunningDpaa2 { handle, link, watch: tokio::task::spawn_local(watch) }
    }

    /// Whether frames pass.
    pub fn has_link(&self) -> bool {
        self.link.get()
    }

    /// What the hardware says of the interface.
    ///
    /// # Errors
    /// It doesn't.
    pub fn row(&self, port: &switch_config::PortName) -> Result<HardwareRow, Dpaa2Error> {
        let status = self.handle.status()?;
        Ok(HardwareRow {
            port: port.as_str().to_owned(),
            object: status.dpni,
            mac: mac_text(status.mac),
            is_up: status.link.is_up,
            rate_mbps: status.link.rate_mbps,
            frame_max: status.frame_max,
            counters: self.handle.statistics()?.into_iter().collect(),
        })
    }
}

impl Drop for RunningDpaa2 {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Follows a link: while it is down nothing is sent there, and what was learned there is forgotten, so that frames find
/// other ways at once.
async fn watch(
    name: switch_config::PortName,
    id: PortId,
    handle: Dpaa2Handle,
    link: Rc<Cell<bool>>,
    plane: Rc<RefCell<Dataplane>>,
) {
    // An event descriptor behaves like a pipe of numbers.
    let event = handle.link_event().and_then(|event| event.as_fd().try_clone_to_owned().ok());
    let Some(Ok(event)) = event.map(Receiver::from_owned_fd_unchecked) else { return };
    loop {
        let status = handle.take_link_event().and_then(|_| handle.link());
        match status {
            Ok(status) if status.is_up != link.get() => {
                link.set(status.is_up);
                if status.is_up {
                    tracing::info!(port = %name, rate_mbps = status.rate_mbps, "link up");
                } else {
                    tracing::warn!(port = %name, "link down");
                    plane.borrow().forget_addresses(id);
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(port = %name, %error, "the link can't be asked for"),
        }
        if let Err(error) = next_event(&event).await {
            tracing::warn!(port = %name, %error, "the link isn't watched any more");
            return;
        }
    }
}

async fn next_event(event: &Receiver) -> std::io::Result<()> {
    loop {
        event.readable().await?;
        match event.try_read(&mut [0; 8]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return result.map(drop),
        }
    }
}
