//! The ports as the control thread runs them: each a driver with a life of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::Context;
use dpaa2_port::Dpaa2Port;
use pcap_port::{Capture, NullRx, NullTx, PcapRx, PcapTx, RecordOptions, Speed};
use port::{InjectRx, PortCounters, PortId, QueueFault, RxQueue, TxQueue};
use switch_config::{Config, Driver, Feature, Loops, Pace, SocketMode};
use tap_port::{TapConfig, TapFds, TapHandle, TapPort};
use tokio::task::JoinHandle;
use vhost_user_port::limits::Spent;
use vhost_user_port::{
    Direction, PortConfig, PortControl, PortSocket, PortState, QueueHost, Session, Sockets,
};
use virtio_defs::{feature, net};
use worker::Sorted;

use crate::dataplane::Dataplane;
use crate::dpaa2::{self, Hardware, RunningDpaa2};
use crate::privileges;
use crate::take_over::Descriptors;

/// Frames on their way in a loop port.
const LOOP_FRAMES: usize = 1024;
/// The queue number under which frames of the switch's own are sent.
const INJECT_QUEUE: u16 = u16::MAX;

/// A running port.
pub(crate) struct RunningPort {
    /// Its number.
    pub id: PortId,
    /// What the file says of it.
    pub config: switch_config::Port,
    /// What moves its frames.
    pub driver: RunningDriver,
    /// Why it stopped, if a worker reported a fault of a queue that has no connection to lose.
    pub fault: Option<String>,
    /// What its peer made us spend in the last second.
    pub rates: Rates,
    before: Rates,
}

/// What the peer of a port makes us spend.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    /// Messages read.
    pub messages: u64,
    /// Log lines written.
    pub log_lines: u64,
    /// Flows that a cache took in.
    pub cached: u64,
}

/// A running driver.
pub(crate) enum RunningDriver {
    VhostUser { control: PortControl, state: Rc<RefCell<PortState>>, spent: Arc<Spent>, task: JoinHandle<()> },
    Tap(TapHandle),
    Dpaa2(RunningDpaa2),
    Pcap,
    Null,
    Loop,
}

/// A port whose socket, device or file is open, and that moves no frame yet. Dropped, it leaves no trace.
pub(crate) struct OpenPort {
    config: switch_config::Port,
    driver: OpenDriver,
}

enum OpenDriver {
    VhostUser { socket: PortSocket, session: Box<Session>, sockets: Sockets },
    Tap(TapPort),
    Dpaa2(Dpaa2Port, Sorted),
    Queues { rx: Box<dyn RxQueue>, tx: Box<dyn TxQueue>, then: RunningDriver },
}

impl OpenPort {
    /// Opens what the port needs: everything about a port that can fail.
    ///
    /// # Errors
    /// The driver's, naming the port.
    pub fn open(
        config: &switch_config::Port,
        file: &Config,
        hardware: &Hardware,
    ) -> anyhow::Result<OpenPort> {
        let driver = match &config.driver {
            Driver::VhostUser(vhost) => open_vhost_user(config, vhost),
            Driver::Tap(tap) => open_tap(config, tap),
            Driver::Pcap(pcap) => open_pcap(config, pcap, Recording::Begins),
            Driver::Dpaa2(dpaa2) => {
                let partitions: Vec<_> = file.partitions_of(&config.name).collect();
                let opened = hardware.open_port(config, dpaa2, &partitions);
                opened.map(|(port, sorted)| OpenDriver::Dpaa2(port, sorted))
            }
            Driver::Null => NullRx::new().map_err(anyhow::Error::from).map(|rx| OpenDriver::Queues {
                rx: Box::new(rx),
                tx: Box::new(NullTx),
                then: RunningDriver::Null,
            }),
            Driver::Loop => {
                pcap_port::loop_queues(LOOP_FRAMES).map_err(anyhow::Error::from).map(|(rx, tx)| {
                    OpenDriver::Queues { rx: Box::new(rx), tx: Box::new(tx), then: RunningDriver::Loop }
                })
            }
        };
        let driver = driver.with_context(|| format!("port {}", config.name))?;
        Ok(OpenPort { config: config.clone(), driver })
    }

    /// As [`open`](Self::open), but a capture that is recorded goes on in the file that is there.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_again(
        config: &switch_config::Port,
        file: &Config,
        hardware: &Hardware,
    ) -> anyhow::Result<OpenPort> {
        match &config.driver {
            Driver::Pcap(pcap) => {
                let driver = open_pcap(config, pcap, Recording::GoesOn);
                let driver = driver.with_context(|| format!("port {}", config.name))?;
                Ok(OpenPort { config: config.clone(), driver })
            }
            _ => OpenPort::open(config, file, hardware),
        }
    }

    /// Goes on with a port of another process, which serves it until this one [runs](Self::run).
    ///
    /// # Errors
    /// What it hands over is damaged, or doesn't fit the file; a mapping fails. Names the port.
    pub fn take_over(
        config: &switch_config::Port,
        file: &Config,
        from: &switch_state::Driver,
        fds: &mut Descriptors,
        hardware: &Hardware,
    ) -> anyhow::Result<OpenPort> {
        let driver = match (&config.driver, from) {
            (Driver::VhostUser(vhost), switch_state::Driver::VhostUser { .. }) => {
                take_over_session(config, vhost, from, fds)
            }
            (Driver::Tap(tap), switch_state::Driver::Tap { queues, socket, counters, .. }) => {
                take_over_tap(config, tap, queues, *socket, *counters, fds)
            }
            _ => return OpenPort::open(config, file, hardware),
        };
        let driver = driver.with_context(|| format!("port {}", config.name))?;
        Ok(OpenPort { config: config.clone(), driver })
    }

    /// Takes what has changed since, now that the other process moves no frame.
    ///
    /// # Errors
    /// As [`take_over`](Self::take_over).
    pub fn settle(
        &mut self,
        file: &Config,
        from: &switch_state::Driver,
        fds: &mut Descriptors,
        hardware: &Hardware,
    ) -> anyhow::Result<()> {
        let OpenDriver::VhostUser { session, sockets, .. } = &mut self.driver else { return Ok(()) };
        let switch_state::Driver::VhostUser { saved, .. } = from else { return Ok(()) };
        // Usually nothing has changed but positions: what is mapped stays.
        if !(sockets.has_begun(&saved.begun) && session.import_positions(&saved.session)) {
            *self = OpenPort::take_over(&self.config, file, from, fds, hardware)?;
        }
        Ok(())
    }

    /// Starts the rings of a session that was taken over; the workers are held.
    ///
    /// # Errors
    /// A ring can't be started.
    pub fn attach(&mut self, plane: &Rc<RefCell<Dataplane>>) -> anyhow::Result<()> {
        if let OpenDriver::VhostUser { session, .. } = &mut self.driver {
            let id = PortId(self.config.number.get());
            let mut host = Host { plane: plane.clone(), id, state: Rc::default() };
            session.resume(&mut host).with_context(|| format!("port {}", self.config.name))?;
        }
        Ok(())
    }

    /// Whether it has a session, which must not be served by two processes.
    pub fn is_session(&self) -> bool {
        matches!(self.driver, OpenDriver::VhostUser { .. })
    }

    /// Who sorts its frames, if they belong to several owners.
    pub fn sorted(&self) -> Sorted {
        match &self.driver {
            OpenDriver::Dpaa2(_, sorted) => *sorted,
            _ => Sorted::BySoftware,
        }
    }

    /// What the file says of it.
    pub fn config(&self) -> &switch_config::Port {
        &self.config
    }

    /// Lets it move frames; the data plane knows it already.
    pub fn run(self, plane: &Rc<RefCell<Dataplane>>) -> RunningPort {
        let id = PortId(self.config.number.get());
        let driver = match self.driver {
            OpenDriver::VhostUser { socket, session, sockets } => {
                run_vhost_user(id, &self.config, socket, *session, sockets, plane)
            }
            OpenDriver::Tap(port) => {
                let handle = port.handle();
                for (queue, (rx, tx)) in port.into_queues().into_iter().enumerate() {
                    attach(plane, id, queue as u16, rx, tx);
                }
                RunningDriver::Tap(handle)
            }
            OpenDriver::Dpaa2(port, _) => {
                let handle = port.handle();
                let queues = port.into_queues();
                let mut plane_now = plane.borrow_mut();
                for (queue, tx) in queues.tx.into_iter().enumerate() {
                    plane_now.attach_tx_of_each_worker(id, queue as u16, tx);
                }
                for (queue, rx) in queues.rx.into_iter().enumerate() {
                    plane_now.attach_rx(id, queue as u16, rx);
                }
                drop(plane_now);
                RunningDriver::Dpaa2(RunningDpaa2::new(&self.config.name, id, handle, plane))
            }
            OpenDriver::Queues { rx, tx, then } => {
                attach(plane, id, 0, rx, tx);
                then
            }
        };
        RunningPort {
            id,
            config: self.config,
            driver,
            fault: None,
            rates: Rates::default(),
            before: Rates::default(),
        }
    }
}

impl RunningPort {
    /// Ends the driver; when this returns its socket is free and its queues are gone from the workers.
    pub async fn stop(self, plane: &Rc<RefCell<Dataplane>>) {
        if let RunningDriver::VhostUser { control, task, .. } = self.driver {
            control.stop();
            // It ends by returning; a panic in it has been reported.
            let _ = task.await;
        }
        plane.borrow_mut().remove_port(self.id);
    }

    /// Ends the driver without a trace: another process goes on with the port.
    pub async fn release(self) {
        if let RunningDriver::VhostUser { control, task, .. } = self.driver {
            control.release();
            // As in `stop`.
            let _ = task.await;
        }
    }

    /// Notes what was spent since the last call. Called every second.
    pub fn measure(&mut self, counters: &[Arc<PortCounters>]) {
        let (messages, log_lines) = match &self.driver {
            RunningDriver::VhostUser { spent, .. } => {
                (spent.messages.load(Relaxed), spent.log_lines.load(Relaxed))
            }
            _ => (0, 0),
        };
        let now = Rates { messages, log_lines, cached: counters.iter().map(|c| c.cached.get()).sum() };
        self.rates = Rates {
            messages: now.messages - self.before.messages,
            log_lines: now.log_lines - self.before.log_lines,
            cached: now.cached - self.before.cached,
        };
        self.before = now;
    }

    /// Puts into force what can change while the port runs.
    pub fn change(&mut self, config: &switch_config::Port) {
        let (up, mtu) = (config.up, config.mtu.get());
        match &self.driver {
            RunningDriver::VhostUser { control, .. } => {
                if up != self.config.up {
                    control.set_link(up);
                }
                if mtu != self.config.mtu.get() {
                    control.set_mtu(mtu);
                }
            }
            RunningDriver::Tap(handle) => {
                let link = if up != self.config.up { handle.set_link(up) } else { Ok(()) };
                let mtu = if mtu != self.config.mtu.get() { handle.set_mtu(mtu) } else { Ok(()) };
                if let Err(error) = link.and(mtu) {
                    tracing::warn!(port = %config.name, %error, "the device doesn't follow its configuration");
                }
            }
            RunningDriver::Dpaa2(dpaa2) if mtu != self.config.mtu.get() => {
                if let Err(error) = dpaa2.handle.set_frame_max(dpaa2::frame_max(mtu)) {
                    tracing::warn!(port = %config.name, %error, "the interface doesn't follow its configuration");
                }
            }
            RunningDriver::Dpaa2(_) | RunningDriver::Pcap | RunningDriver::Null | RunningDriver::Loop => {}
        }
        self.config = config.clone();
    }

    /// What a worker found broken.
    pub fn queue_fault(
        &mut self,
        queue: u16,
        receiving: bool,
        fault: QueueFault,
        plane: &Rc<RefCell<Dataplane>>,
    ) {
        let direction = if receiving { Direction::Rx } else { Direction::Tx };
        tracing::warn!(port = %self.config.name, queue, %direction, %fault, "queue stopped");
        if let RunningDriver::VhostUser { control, .. } = &self.driver {
            control.queue_fault(queue, direction, fault);
            return;
        }
        self.fault = Some(fault.to_string());
        let mut plane = plane.borrow_mut();
        drop(plane.detach_rx(self.id, queue));
        drop(plane.detach_tx(self.id, queue));
    }
}

fn attach(
    plane: &Rc<RefCell<Dataplane>>,
    id: PortId,
    queue: u16,
    rx: Box<dyn RxQueue>,
    tx: Box<dyn TxQueue>,
) {
    let mut plane = plane.borrow_mut();
    plane.attach_tx(id, queue, tx);
    plane.attach_rx(id, queue, rx);
}

fn open_vhost_user(
    config: &switch_config::Port,
    vhost: &switch_config::VhostUser,
) -> anyhow::Result<OpenDriver> {
    let socket = port_socket(vhost)?;
    let sockets = socket.listen()?;
    let session = Box::new(Session::new(config.name.as_str(), session_config(config, vhost)));
    Ok(OpenDriver::VhostUser { socket, session, sockets })
}

fn take_over_session(
    config: &switch_config::Port,
    vhost: &switch_config::VhostUser,
    from: &switch_state::Driver,
    fds: &mut Descriptors,
) -> anyhow::Result<OpenDriver> {
    let switch_state::Driver::VhostUser { saved, first_fd, fds: count, .. } = from else {
        anyhow::bail!("the state has no session for it");
    };
    let own = fds.take_range(*first_fd, *count)?;
    let (session, sockets) = saved.import(session_config(config, vhost), own)?;
    Ok(OpenDriver::VhostUser { socket: port_socket(vhost)?, session: Box::new(session), sockets })
}

fn session_config(config: &switch_config::Port, vhost: &switch_config::VhostUser) -> PortConfig {
    let off = vhost.features_off.iter().fold(0, |bits, &f| bits | feature_bit(f));
    PortConfig {
        queue_pairs: config.queues.get(),
        features: vhost_user_port::OFFERED & !off,
        mtu: config.mtu.get(),
        mac: vhost.mac.bytes(),
        ..PortConfig::default()
    }
}

fn port_socket(vhost: &switch_config::VhostUser) -> Result<PortSocket, sandbox::ConfineError> {
    let owner = vhost.owner.as_deref().map(sandbox::User::named).transpose()?;
    Ok(PortSocket {
        path: PathBuf::from(vhost.socket.as_path()),
        mode: match vhost.mode {
            SocketMode::Server => vhost_user_port::SocketMode::Server,
            SocketMode::Client => vhost_user_port::SocketMode::Client,
        },
        permissions: vhost.permissions.map(|mode| mode.bits()),
        owner: owner.map(|user| user.uid()),
    })
}

fn run_vhost_user(
    id: PortId,
    config: &switch_config::Port,
    socket: PortSocket,
    session: Session,
    sockets: Sockets,
    plane: &Rc<RefCell<Dataplane>>,
) -> RunningDriver {
    let state = Rc::new(RefCell::new(session.state()));
    let host = Host { plane: plane.clone(), id, state: state.clone() };
    let spent = session.spent();
    let (control, commands) = vhost_user_port::control();
    let name = config.name.clone();
    let failed = state.clone();
    let task = tokio::task::spawn_local(async move {
        if let Err(error) = vhost_user_port::serve(socket, session, host, commands, sockets).await {
            tracing::error!(port = %name, %error, "port can't be served");
            failed.borrow_mut().last_error = Some(error.to_string());
        }
    });
    control.set_link(config.up);
    RunningDriver::VhostUser { control, state, spent, task }
}

/// The virtio feature behind a name of the file.
fn feature_bit(f: Feature) -> u64 {
    match f {
        Feature::Csum => net::feature::CSUM,
        Feature::GuestCsum => net::feature::GUEST_CSUM,
        Feature::HostTso4 => net::feature::HOST_TSO4,
        Feature::HostTso6 => net::feature::HOST_TSO6,
        Feature::HostEcn => net::feature::HOST_ECN,
        Feature::GuestTso4 => net::feature::GUEST_TSO4,
        Feature::GuestTso6 => net::feature::GUEST_TSO6,
        Feature::GuestEcn => net::feature::GUEST_ECN,
        Feature::MrgRxbuf => net::feature::MRG_RXBUF,
        Feature::Status => net::feature::STATUS,
        Feature::Mq => net::feature::MQ,
        Feature::GuestAnnounce => net::feature::GUEST_ANNOUNCE,
        Feature::HostMtu => net::feature::MTU,
        Feature::IndirectDesc => feature::INDIRECT_DESC,
        Feature::EventIdx => feature::EVENT_IDX,
        Feature::InOrder => feature::IN_ORDER,
        Feature::Packed => feature::RING_PACKED,
    }
}

fn open_tap(config: &switch_config::Port, tap: &switch_config::Tap) -> anyhow::Result<OpenDriver> {
    let port = TapPort::open(tap_config(config, tap)).with_context(|| privileges::tap_hint(tap))?;
    Ok(OpenDriver::Tap(port))
}

fn take_over_tap(
    config: &switch_config::Port,
    tap: &switch_config::Tap,
    queues: &[usize],
    socket: usize,
    counters: Option<usize>,
    fds: &mut Descriptors,
) -> anyhow::Result<OpenDriver> {
    let fds = TapFds {
        queues: queues.iter().map(|&number| fds.take(number)).collect::<Result<_, _>>()?,
        socket: fds.take(socket)?,
        counters: counters.map(|number| fds.take(number)).transpose()?,
    };
    Ok(OpenDriver::Tap(TapPort::from_fds(tap_config(config, tap), fds)?))
}

fn tap_config(config: &switch_config::Port, tap: &switch_config::Tap) -> TapConfig {
    TapConfig {
        netns: tap.netns.as_ref().map(|n| n.as_str().to_owned()),
        queues: config.queues.get(),
        persistent: tap.persistent,
        mtu: Some(config.mtu.get()),
        link_up: config.up,
        ..TapConfig::new(tap.device.as_str())
    }
}

/// The switch's end of a vhost-user session.
struct Host {
    plane: Rc<RefCell<Dataplane>>,
    id: PortId,
    state: Rc<RefCell<PortState>>,
}

impl QueueHost for Host {
    fn attach_rx(&mut self, pair: u16, queue: Box<dyn RxQueue>) {
        self.plane.borrow_mut().attach_rx(self.id, pair, queue);
    }

    fn detach_rx(&mut self, pair: u16) -> Option<Box<dyn RxQueue>> {
        self.plane.borrow_mut().detach_rx(self.id, pair)
    }

    fn attach_tx(&mut self, pair: u16, queue: Box<dyn TxQueue>) {
        self.plane.borrow_mut().attach_tx(self.id, pair, queue);
    }

    fn detach_tx(&mut self, pair: u16) -> Option<Box<dyn TxQueue>> {
        self.plane.borrow_mut().detach_tx(self.id, pair)
    }

    fn state_changed(&mut self, state: PortState) {
        *self.state.borrow_mut() = state;
    }

    /// Sends a reverse ARP request (RFC 903), so that every bridge on the way learns where the address is now.
    fn announce(&mut self, mac: [u8; 6]) {
        let frame = rarp(mac);
        match InjectRx::new(&[&frame]) {
            Ok(queue) => {
                let mut plane = self.plane.borrow_mut();
                plane.attach_rx(self.id, INJECT_QUEUE, Box::new(queue));
                drop(plane.detach_rx(self.id, INJECT_QUEUE));
            }
            Err(error) => tracing::warn!(%error, "no memory to announce a guest"),
        }
    }
}

/// The frame that announces an address: "who am I", asked by itself.
fn rarp(mac: [u8; 6]) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    // Ethernet type RARP; hardware type Ethernet, protocol IPv4, lengths 6 and 4, operation "request reverse".
    frame[12..22].copy_from_slice(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    frame[22..28].copy_from_slice(&mac);
    frame[32..38].copy_from_slice(&mac);
    frame
}

/// Where the file places a port's receive queues: queue number to worker number.
pub(crate) fn placement(config: &switch_config::Port, cores: &[usize]) -> BTreeMap<u16, usize> {
    let switch_config::Placement::Cores(wanted) = &config.placement else { return BTreeMap::new() };
    let worker = |core: &switch_config::CpuId| cores.iter().position(|&c| c == usize::from(core.get()));
    (0..config.queues.get())
        .filter_map(|queue| Some((queue, worker(&wanted[usize::from(queue) % wanted.len()])?)))
        .collect()
}

/// What happens to a capture's file that is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recording {
    /// It is emptied.
    Begins,
    /// It is added to.
    GoesOn,
}

fn open_pcap(
    config: &switch_config::Port,
    pcap: &switch_config::Pcap,
    recording: Recording,
) -> anyhow::Result<OpenDriver> {
    let rx: Box<dyn RxQueue> = match &pcap.replay {
        Some(replay) => {
            let pace = match replay.pace {
                Pace::Timestamps => pcap_port::Pace::Recorded(Speed::RECORDED),
                Pace::Pps(pps) => pcap_port::Pace::FramesPerSecond(pps),
                Pace::Max => pcap_port::Pace::Unpaced,
            };
            let loops = match replay.loops {
                Loops::Times(n) => Some(n.get()),
                Loops::Forever => None,
            };
            Box::new(PcapRx::new(Arc::new(Capture::open(&replay.file)?), pace, loops))
        }
        None => Box::new(NullRx::new()?),
    };
    let tx: Box<dyn TxQueue> = match &pcap.write {
        Some(path) => {
            let interface = config.name.as_str().to_owned();
            let append = recording == Recording::GoesOn;
            Box::new(PcapTx::create(path, RecordOptions { interface, append, ..RecordOptions::default() })?)
        }
        None => Box::new(NullTx),
    };
    Ok(OpenDriver::Queues { rx, tx, then: RunningDriver::Pcap })
}
