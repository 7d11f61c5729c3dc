//! The DPAA2 hardware of the switch, opened with the first port that is on it, and its ports' links.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use control::HardwareRow;
use dpaa2_defs::mc::object::ObjectType;
use dpaa2_model::{AuditReport, Description, Model, ModelBus, SharedModel, WireEnd};
use dpaa2_port::classify::{Extract, Protocol, field};
use dpaa2_port::{
    ClassTable, Classification, Dpaa2, Dpaa2Error, Dpaa2Handle, Dpaa2Port, PoolAccount, PoolConfig, PoolUse,
    PortConfig, RxClass, TxRate, TxShare, class_table,
};
use fslmc_bus::vfio::{Roots, VfioBus};
use port::PortId;
use switch_config::{Fslmc, FslmcBus, HashField, Partition};
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;

use worker::Sorted;

use crate::dataplane::Dataplane;
use crate::show::mac_text;

/// Bytes of a frame beyond its MTU: Ethernet header and two tags.
const LINK_HEADER_MAX: u16 = 14 + 8;
/// The longest frame of the hardware.
const FRAME_MAX: u16 = 10_240;
/// Bytes that a rate-limited interface may send at once: some frames of the longest kind.
const TX_BURST_BYTES: u16 = 40_960;
/// Buffers that workers have of a pool at a time: frames that were dequeued from a queue, and what is on its way back.
const BUFFERS_OF_QUEUE: u32 = 32;
const BUFFERS_OF_PORT: u32 = 64;
/// How often the modelled wires are looked at: workers that sleep don't.
const WIRE_INTERVAL: Duration = Duration::from_millis(1);

/// The hardware; clones are the same.
#[derive(Clone)]
pub(crate) struct Hardware(Rc<Opening>);

struct Opening {
    config: Option<Fslmc>,
    /// The core of each worker.
    cores: Vec<usize>,
    opened: OnceCell<Opened>,
    /// What interfaces of divided ports can classify by.
    known: RefCell<BTreeMap<u32, Classification>>,
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
    /// The hardware that the file describes, for workers on these cores. Nothing is opened yet: a predecessor may still have it.
    pub fn new(config: Option<&Fslmc>, cores: Vec<usize>) -> Hardware {
        Hardware(Rc::new(Opening {
            config: config.cloned(),
            cores,
            opened: OnceCell::new(),
            known: RefCell::default(),
        }))
    }

    /// Opens the interface of a port.
    ///
    /// # Errors
    /// The hardware's, with what to do about it.
    pub fn open_port(
        &self,
        config: &switch_config::Port,
        dpaa2: &switch_config::Dpaa2,
        partitions: &[&Partition],
    ) -> anyhow::Result<(Dpaa2Port, Sorted)> {
        let fslmc = self.0.config.as_ref().context("the file has no section [fslmc]")?;
        if self.0.opened.get().is_none() {
            let opened = open(fslmc, &self.0.cores)?;
            assert!(self.0.opened.set(opened).is_ok(), "one thread opens the hardware");
        }
        let opened = self.0.opened.get().expect("just opened");
        let port = port_config(fslmc, config, dpaa2);
        if partitions.is_empty() {
            return Ok((opened.open_port(&port)?, Sorted::BySoftware));
        }
        let has = opened.classification(dpaa2.dpni.number())?;
        self.0.known.borrow_mut().insert(dpaa2.dpni.number(), has);
        match divided(&port, fslmc, partitions, &has)? {
            Ok(port) => Ok((opened.open_port(&port)?, Sorted::ByHardware)),
            Err(why) => {
                tracing::warn!(port = %config.name, "its partitions are sorted in software: {why}");
                Ok((opened.open_port(&port)?, Sorted::BySoftware))
            }
        }
    }

    /// Has the hardware of a running port sort its frames as these partitions say.
    ///
    /// # Errors
    /// It can't, or the firmware refuses.
    pub fn sort(
        &self,
        running: &RunningDpaa2,
        dpaa2: &switch_config::Dpaa2,
        partitions: &[&Partition],
    ) -> anyhow::Result<()> {
        Ok(running.handle.set_class_table(Some(&self.table(dpaa2, partitions)?))?)
    }

    /// Whether the hardware of a running port can go over to these partitions while it sorts.
    pub fn can_follow(
        &self,
        running: &RunningDpaa2,
        dpaa2: &switch_config::Dpaa2,
        partitions: &[&Partition],
    ) -> bool {
        self.table(dpaa2, partitions).is_ok_and(|table| running.handle.can_follow(&table))
    }

    fn table(&self, dpaa2: &switch_config::Dpaa2, partitions: &[&Partition]) -> anyhow::Result<ClassTable> {
        let has = self.0.known.borrow().get(&dpaa2.dpni.number()).copied();
        let has = has.context("it was opened without partitions")?;
        table(&in_order(partitions), &has).map_err(anyhow::Error::msg)
    }

    /// What is in the pools of the hardware that is open.
    pub fn accounts(&self) -> Vec<PoolAccount> {
        let accounts = self.0.opened.get().map(|opened| match opened {
            Opened::Vfio(hardware) => hardware.accounts(),
            Opened::Model { hardware, .. } => hardware.accounts(),
        });
        // A portal that doesn't answer stops the ports' queues; here there is just nothing to show.
        accounts.and_then(Result::ok).unwrap_or_default()
    }
}

impl Opened {
    fn open_port(&self, config: &PortConfig) -> Result<Dpaa2Port, Dpaa2Error> {
        match self {
            Opened::Vfio(hardware) => hardware.open_port(config),
            Opened::Model { hardware, .. } => hardware.open_port(config),
        }
    }

    fn classification(&self, dpni: u32) -> Result<Classification, Dpaa2Error> {
        match self {
            Opened::Vfio(hardware) => hardware.classification(dpni),
            Opened::Model { hardware, .. } => hardware.classification(dpni),
        }
    }
}

/// The partitions in the order of their queues: each is the traffic class of its place, so that a receive queue's number is
/// the same in the file and in hardware. With each, its place in the file.
fn in_order<'a>(partitions: &[&'a Partition]) -> Vec<(usize, &'a Partition)> {
    let mut classes: Vec<_> = partitions.iter().copied().enumerate().collect();
    classes.sort_by_key(|(_, partition)| partition.queues.first());
    classes
}

/// The traffic class of a partition among those of its port.
pub(crate) fn class_of(partitions: &[&Partition], partition: &Partition) -> Option<usize> {
    in_order(partitions).iter().position(|(_, other)| other.name == partition.name)
}

/// How hardware is to tell the classes of frames, or why it can't.
fn table(classes: &[(usize, &Partition)], has: &Classification) -> Result<ClassTable, String> {
    let mut matches = vec![];
    for (class, (place, partition)) in classes.iter().enumerate() {
        matches.extend(partition.parsed_matches().into_iter().map(|found| (*place, found, class as u8)));
    }
    // The first match in the file counts.
    matches.sort_by_key(|(place, ..)| *place);
    if matches.len() > usize::from(has.entries) {
        return Err(format!("its table holds {} matches, there are {}", has.entries, matches.len()));
    }
    let otherwise = classes.iter().position(|(place, _)| *place == classes.len() - 1).unwrap_or(0);
    let matches = matches.iter().map(|(_, found, class)| (found.key(), found.mask(), *class));
    class_table(matches, otherwise as u8, has.masked).map_err(|why| why.to_string())
}

/// The interface with a traffic class for each partition, or why hardware can't sort.
///
/// # Errors
/// It hasn't got what the partitions name.
fn divided(
    port: &PortConfig,
    fslmc: &Fslmc,
    partitions: &[&Partition],
    has: &Classification,
) -> anyhow::Result<Result<PortConfig, String>> {
    let classes = in_order(partitions);
    if has.classes < 2 {
        return Ok(Err("the interface has one traffic class".to_owned()));
    }
    anyhow::ensure!(
        classes.len() <= has.classes.into(),
        "{} partitions; the interface has {} traffic classes",
        classes.len(),
        has.classes
    );
    for (_, partition) in &classes {
        anyhow::ensure!(
            partition.queues.count() <= has.queues.into(),
            "partition {} has {} queues; a traffic class of the interface has {}",
            partition.name,
            partition.queues.count(),
            has.queues
        );
    }
    let class_table = match table(&classes, has) {
        Ok(table) => table,
        Err(why) => return Ok(Err(why)),
    };
    let (mut rx_pools, mut rx_classes) = (vec![], vec![]);
    for (class, (_, partition)) in classes.iter().enumerate() {
        let hardware = partition.hardware.as_ref();
        let pool = match hardware.and_then(|hardware| hardware.dpbp) {
            Some(dpbp) => {
                let pool = pool_config(fslmc, dpbp);
                let buffers = hardware.and_then(|hardware| hardware.pool).unwrap_or(pool.buffers);
                PoolConfig { buffers, ..pool }
            }
            None => port.rx_pools[0].pool,
        };
        rx_pools.push(PoolUse { pool, classes: 1 << class });
        let queues = partition.queues.count();
        rx_classes.push(RxClass { frames: Some(frames_of(pool, queues)), ..RxClass::new(queues) });
    }
    Ok(Ok(PortConfig {
        rx_classes,
        class_table: Some(class_table),
        tx_classes: tx_order(partitions).into_iter().map(|at| tx_share(partitions[at])).collect(),
        rx_pools,
        ..port.clone()
    }))
}

/// How many frames may wait in a class with a pool of its own. Hardware counts those it drops beyond for the class, while what it
/// drops for want of a buffer is counted for the interface as a whole: so the pool is never quite used up.
fn frames_of(pool: PoolConfig, queues: u16) -> u32 {
    let with_workers = BUFFERS_OF_PORT + BUFFERS_OF_QUEUE * u32::from(queues);
    pool.buffers - with_workers.min(pool.buffers / 2)
}

fn tx_share(partition: &Partition) -> TxShare {
    match partition.hardware.map(|hardware| hardware.tx_share) {
        Some(switch_config::TxShare::Strict) => TxShare::Strict,
        Some(switch_config::TxShare::Weight(weight)) => TxShare::Weight(weight),
        Some(switch_config::TxShare::Limited(mbps)) => TxShare::Limited(tx_rate(mbps)),
        None => TxShare::EQUAL,
    }
}

fn tx_rate(mbps: u32) -> TxRate {
    TxRate { mbps, burst_bytes: TX_BURST_BYTES }
}

/// The partitions by transmit queue: those that go before all others first, as hardware wants them.
pub(crate) fn tx_order(partitions: &[&Partition]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..partitions.len()).collect();
    order.sort_by_key(|&at| tx_share(partitions[at]) != TxShare::Strict);
    order
}

fn open(fslmc: &Fslmc, cores: &[usize]) -> anyhow::Result<Opened> {
    let container = fslmc.container;
    match &fslmc.bus {
        FslmcBus::Vfio => {
            let bus = VfioBus::open(&Roots::default(), ObjectType::DPRC.with_id(container.number()))?;
            Ok(Opened::Vfio(Dpaa2::open(bus, cores)?))
        }
        FslmcBus::Model { board } => {
            let model = model(board).with_context(|| format!("the modelled board {}", board.display()))?;
            let bus = ModelBus::open(model.clone(), container.number());
            let bus = bus.with_context(|| format!("{} has no {container}", board.display()))?;
            let hardware = Dpaa2::open(bus, cores)?;
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

fn pool_config(fslmc: &Fslmc, dpbp: switch_config::Dpbp) -> PoolConfig {
    let default = PoolConfig::new(dpbp.number());
    let configured = fslmc.pools.iter().find(|pool| pool.dpbp == dpbp);
    configured.map_or(default, |pool| PoolConfig {
        buffers: pool.buffers,
        buffer_bytes: pool.buffer_bytes,
        ..default
    })
}

fn port_config(fslmc: &Fslmc, config: &switch_config::Port, dpaa2: &switch_config::Dpaa2) -> PortConfig {
    let pool = |dpbp| pool_config(fslmc, dpbp);
    PortConfig {
        rx_classes: vec![RxClass {
            queues: config.queues.get(),
            spread_by: dpaa2.hash.iter().map(|&field| extract(field)).collect(),
            queue_bytes: dpaa2.rx_queue_bytes,
            frames: None,
        }],
        tx_classes: vec![TxShare::EQUAL; config.queues.get().into()],
        rx_pools: vec![PoolUse { pool: pool(dpaa2.pool), classes: 0 }],
        tx_pool: Some(pool(dpaa2.tx_pool)),
        mac: dpaa2.mac.map(|mac| mac.bytes()),
        frame_max: frame_max(config.mtu.get()),
        promiscuous: dpaa2.promiscuous,
        all_multicast: dpaa2.all_multicast,
        macs: dpaa2.macs.iter().map(|mac| mac.bytes()).collect(),
        vlans: dpaa2.vlan_filter.as_ref().map(|vlans| vlans.iter().map(|vlan| vlan.get()).collect()),
        checksums: dpaa2.checksums,
        tx_rate: dpaa2.tx_mbps.map(tx_rate),
        ..PortConfig::new(dpaa2.dpni.number(), dpaa2.pool.number())
    }
}

/// A field of the hash as hardware takes it from headers.
fn extract(field: HashField) -> Extract {
    let (protocol, number) = match field {
        HashField::EthDst => (Protocol::ETHERNET, field::ETHERNET_DESTINATION),
        HashField::EthSrc => (Protocol::ETHERNET, field::ETHERNET_SOURCE),
        HashField::EthType => (Protocol::ETHERNET, field::ETHERNET_TYPE),
        HashField::Vlan => (Protocol::VLAN, field::VLAN_TCI),
        HashField::IpSrc => (Protocol::IP, field::IP_SOURCE),
        HashField::IpDst => (Protocol::IP, field::IP_DESTINATION),
        HashField::IpProto => (Protocol::IP, field::IP_PROTOCOL),
        HashField::L4Src => (Protocol::TCP, field::L4_SOURCE_PORT),
        HashField::L4Dst => (Protocol::TCP, field::L4_DESTINATION_PORT),
    };
    Extract::full_field(protocol, number)
}

/// The longest frame of an interface with this MTU.
pub(crate) fn frame_max(mtu: u16) -> u16 {
    mtu.saturating_add(LINK_HEADER_MAX).min(FRAME_MAX)
}

/// What waits in hardware.
#[derive(Default)]
pub(crate) struct Waiting {
    /// Frames in each receive queue.
    pub depths: Vec<u32>,
    /// Frames that were dropped because too many waited, by traffic class.
    pub dropped: Vec<u64>,
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

    /// What the hardware says of its receive queues. What doesn't answer has nothing to show; its queues say so themselves.
    pub fn waiting(&self) -> Waiting {
        Waiting {
            depths: self.handle.rx_depths().unwrap_or_default(),
            dropped: self.handle.rx_class_drops().unwrap_or_default(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use dpaa2_port::{Dpaa2Status, classify};

    /// A file with one interface of a modelled board, and these keys for it.
    fn config(dir: &Path, keys: &str) -> switch_config::Config {
        let board = r#"
            soc = "lx2160a"
            [[container]]
            id = 2
            dpio = 3
            dpbp = 1
            [[container.dpni]]
            id = 1
            mac = "02:00:00:00:00:01"
        "#;
        let board_file = dir.join("board.toml");
        std::fs::write(&board_file, board).unwrap();
        let file = format!(
            r#"
            fslmc = {{ bus = "model", container = "dprc.2", board = "{}" }}
            bridge = [{{ name = "br0" }}]
            [[port]]
            name = "wire1"
            bridge = "br0"
            driver = "dpaa2"
            dpni = "dpni.1"
            pool = "dpbp.1"
            {keys}
            "#,
            board_file.display()
        );
        switch_config::parse(&file, &switch_config::Context::default())
            .unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn port_of(config: &switch_config::Config) -> (&switch_config::Port, &switch_config::Dpaa2) {
        let port = &config.ports[0];
        let switch_config::Driver::Dpaa2(dpaa2) = &port.driver else { panic!("a DPAA2 port") };
        (port, dpaa2)
    }

    const EVERYTHING: &str = r#"
        queues = 4
        mtu = 9000
        mac = "02:00:00:00:00:77"
        promiscuous = false
        all_multicast = false
        macs = ["02:00:00:00:00:78", "01:00:5e:00:00:05"]
        vlan_filter = [5, "7-8"]
        hash = ["eth-src", "vlan"]
        rx_queue_kib = 64
        tx_mbps = 1000
        checksums = false
    "#;

    #[test]
    fn every_key_of_a_port_reaches_its_driver() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), EVERYTHING);
        let (port, dpaa2) = port_of(&config);
        let driver = port_config(config.fslmc.as_ref().unwrap(), port, dpaa2);
        let [class] = &driver.rx_classes[..] else { panic!("one class") };
        assert_eq!((class.queues, class.queue_bytes, driver.tx_classes.len()), (4, 65_536, 4));
        let hash: Vec<_> =
            class.spread_by.iter().map(|extract| (extract.protocol, extract.field.get())).collect();
        let expected = [
            (classify::Protocol::ETHERNET, classify::field::ETHERNET_SOURCE),
            (classify::Protocol::VLAN, classify::field::VLAN_TCI),
        ];
        assert_eq!(hash, expected);
        assert_eq!(driver.tx_rate, Some(TxRate { mbps: 1000, burst_bytes: TX_BURST_BYTES }));
        assert_eq!(driver.vlans.as_deref(), Some(&[5, 7, 8][..]));
        assert_eq!(driver.macs, [[2, 0, 0, 0, 0, 0x78], [1, 0, 0x5e, 0, 0, 5]]);
        assert!(!driver.promiscuous && !driver.all_multicast && !driver.checksums);
        assert_eq!((driver.mac, driver.frame_max), (Some([2, 0, 0, 0, 0, 0x77]), 9022));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_interface_is_as_the_file_says() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), EVERYTHING);
        let (port, dpaa2) = port_of(&config);
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let hardware = Hardware::new(config.fslmc.as_ref(), vec![0, 1]);
                let (opened, _) = hardware.open_port(port, dpaa2, &[]).unwrap();
                let status = opened.handle().status().unwrap();
                let Dpaa2Status { mac, frame_max, unicast_promiscuous, multicast_promiscuous, .. } = status;
                assert_eq!((mac, frame_max), ([2, 0, 0, 0, 0, 0x77], 9022));
                assert!(!unicast_promiscuous && !multicast_promiscuous);
                let queues = opened.into_queues();
                assert_eq!((queues.rx.len(), queues.tx.len()), (4, 4));
                assert!(queues.tx.iter().all(|of_each| of_each.len() == 2), "an object for each worker");
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn too_few_portals_for_the_workers_are_said() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "");
        let (port, dpaa2) = port_of(&config);
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let hardware = Hardware::new(config.fslmc.as_ref(), vec![0, 1, 2]);
                let error =
                    hardware.open_port(port, dpaa2, &[]).err().expect("4 portals are needed").to_string();
                assert!(error.contains("no free dpio: each worker needs one"), "{error}");
            })
            .await;
    }
}
