//! The TAP device: created or attached, configured, asked.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use packet::{HugePages, Pool};
use port::{Accepts, RxQueue, TxQueue};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::ring::Ring;
use crate::rx::{self, TapRx};
use crate::sys::{self, Interface};
use crate::tx::{self, TapTx};
use crate::{TapConfig, TapError};

/// Bytes of a frame beyond its MTU: Ethernet header and up to two VLAN tags.
const LINK_HEADER_MAX: u32 = 14 + 8;

/// An open TAP device whose queues nobody polls yet.
pub struct TapPort {
    shared: Arc<Shared>,
    queues: Vec<(TapRx, TapTx)>,
}

/// The control side of an open TAP device. Clones refer to the same device and keep it open.
#[derive(Clone)]
pub struct TapHandle {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    queues: Vec<Arc<OwnedFd>>,
    /// For questions about the interface, in its namespace.
    socket: OwnedFd,
    /// `/proc/net/dev` of its namespace, where there is a `/proc`.
    counters: Option<File>,
    offloads: Mutex<Accepts>,
    plain_max: Arc<AtomicU32>,
}

impl Shared {
    fn offloads(&self) -> MutexGuard<'_, Accepts> {
        self.offloads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a successor process needs to go on with an open device.
#[derive(Debug)]
pub struct TapFds {
    /// One descriptor per queue pair, in order.
    pub queues: Vec<OwnedFd>,
    /// A socket of the device's network namespace.
    pub socket: OwnedFd,
    /// `/proc/net/dev` of that namespace, if there was one to open.
    pub counters: Option<OwnedFd>,
}

/// A TAP device as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapStatus {
    /// Name of the interface. Its administrator may have renamed it.
    pub name: String,
    /// Its number in its network namespace.
    pub index: u32,
    /// Largest frame without Ethernet header, in bytes.
    pub mtu: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Whether its administrator has it up.
    pub up: bool,
    /// Whether it is up and has a carrier.
    pub running: bool,
    /// Queue pairs this process has.
    pub queues: usize,
    /// Whether it stays when nobody has it open.
    pub persistent: bool,
    /// What the kernel may leave to the switch in frames it sends.
    pub offloads: Accepts,
    /// What the kernel counted, where `/proc` says so.
    pub kernel: Option<KernelCounters>,
}

/// The kernel's own counters of a TAP device, from the switch's point of view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// Frames the host sent to the switch.
    pub to_switch_frames: u64,
    /// Frames the host sent that the switch never saw: the device's queue was full.
    pub to_switch_dropped: u64,
    /// Frames the host took from the switch.
    pub from_switch_frames: u64,
    /// Frames the host took and threw away.
    pub from_switch_dropped: u64,
}

impl TapPort {
    /// Creates the device, or attaches to the one of that name, and configures it.
    ///
    /// May start a thread that enters `config.netns` and ends before this returns; the process' own namespace
    /// is left alone.
    ///
    /// # Errors
    /// Each [`TapError`] names the device, the cause and a remedy. A device that was created is gone again.
    pub fn open(config: TapConfig) -> Result<TapPort, TapError> {
        config.check()?;
        let fds = in_netns(&config, || open_descriptors(&config))??;
        attach_all(&config, &fds)?;
        Self::assemble(&config, fds)
    }

    /// Goes on with the queues of a predecessor process, which must not use them any more. Frames that wait in
    /// the device are not lost.
    ///
    /// # Errors
    /// The descriptors are not queues of the configured device, and as [`open`](Self::open).
    pub fn from_fds(config: TapConfig, fds: TapFds) -> Result<TapPort, TapError> {
        config.check()?;
        let wrong = |what| Err(TapError::HandedOver { device: config.name.clone(), what });
        if fds.queues.len() != usize::from(config.queues) {
            return wrong(format!("{} instead of {}", fds.queues.len(), config.queues));
        }
        for queue in &fds.queues {
            match sys::attached(queue.as_fd()) {
                Err(error) => return wrong(format!("a descriptor is no TAP queue ({error})")),
                Ok(it) if it.name != config.name => return wrong(format!("a queue belongs to {}", it.name)),
                Ok(it) if it.flags & libc::IFF_TAP == 0 || it.flags & libc::IFF_VNET_HDR == 0 => {
                    return wrong(format!("its flags are {:#x}, without TAP or VNET_HDR", it.flags));
                }
                Ok(_) => {}
            }
        }
        Self::assemble(&config, fds)
    }

    fn assemble(config: &TapConfig, fds: TapFds) -> Result<TapPort, TapError> {
        let failed = |call| move |source| TapError::System { device: config.name.clone(), call, source };
        for queue in &fds.queues {
            sys::set_nonblocking(queue).map_err(failed("fcntl(O_NONBLOCK)"))?;
            sys::set_header_len(queue.as_fd()).map_err(failed("ioctl(TUNSETVNETHDRSZ)"))?;
        }
        let offloads =
            agree_on_offloads(&fds.queues[0], config.offloads).map_err(failed("ioctl(TUNSETOFFLOAD)"))?;
        let shared = Shared {
            name: config.name.clone(),
            queues: fds.queues.into_iter().map(Arc::new).collect(),
            socket: fds.socket,
            counters: fds.counters.map(File::from),
            offloads: Mutex::new(offloads),
            plain_max: Arc::new(AtomicU32::new(u32::MAX)),
        };
        let queues = shared.queues.iter().map(|q| queue_pair(q, &shared)).collect::<Result<_, _>>()?;
        let handle = TapHandle { shared: Arc::new(shared) };
        if let Some(mac) = config.mac {
            handle.set_mac(mac)?;
        }
        if let Some(mtu) = config.mtu {
            handle.set_mtu(mtu)?;
        }
        handle.set_link(config.link_up)?;
        if config.persistent {
            handle.set_persistent(true)?;
        }
        Ok(TapPort { shared: handle.shared, queues })
    }

    /// The control side; stays valid after [`into_queues`](Self::into_queues).
    pub fn handle(&self) -> TapHandle {
        TapHandle { shared: Arc::clone(&self.shared) }
    }

    /// Gives the queue pairs to whoever polls them. Each end may be driven by another thread.
    pub fn into_queues(self) -> Vec<(Box<dyn RxQueue>, Box<dyn TxQueue>)> {
        self.queues.into_iter().map(|(rx, tx)| (Box::new(rx) as _, Box::new(tx) as _)).collect()
    }
}

impl TapHandle {
    /// The name it was opened by.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Asks the kernel for the state of the device.
    ///
    /// # Errors
    /// The device was removed, or moved to another namespace.
    pub fn status(&self) -> Result<TapStatus, TapError> {
        let gone = |source| TapError::Gone { device: self.shared.name.clone(), source };
        let attached = sys::attached(self.shared.queues[0].as_fd()).map_err(gone)?;
        let interface = Interface { socket: &self.shared.socket, name: &attached.name };
        let flags = interface.flags().map_err(gone)?;
        let kernel = self.shared.counters.as_ref().and_then(|file| kernel_counters(file, &attached.name));
        Ok(TapStatus {
            index: interface.index().map_err(gone)?,
            mtu: interface.mtu().map_err(gone)?,
            mac: interface.mac().map_err(gone)?,
            up: flags & libc::IFF_UP != 0,
            running: flags & libc::IFF_RUNNING != 0,
            queues: self.shared.queues.len(),
            persistent: attached.flags & libc::IFF_PERSIST != 0,
            offloads: *self.shared.offloads(),
            kernel,
            name: attached.name,
        })
    }

    /// Sets the interface up or down. Nothing to do, and no privilege needed, when it is so already.
    ///
    /// # Errors
    /// Not permitted, or the device is gone.
    pub fn set_link(&self, up: bool) -> Result<(), TapError> {
        let state = if up { "up" } else { "down" };
        self.set(format!("the link {state}"), state, |interface| {
            let flags = interface.flags()?;
            let wanted = if up { flags | libc::IFF_UP } else { flags & !libc::IFF_UP };
            if flags == wanted { Ok(()) } else { interface.set_flags(wanted) }
        })
    }

    /// Sets the MTU, in bytes without Ethernet header, and drops longer frames from now on. Nothing to set, and
    /// no privilege needed, when it is so already.
    ///
    /// # Errors
    /// Not permitted, not a value the device takes (68 to 65,521), or the device is gone.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), TapError> {
        self.set(format!("MTU {mtu}"), &format!("mtu {mtu}"), |interface| {
            if interface.mtu()? == u32::from(mtu) { Ok(()) } else { interface.set_mtu(mtu) }
        })?;
        self.shared.plain_max.store(u32::from(mtu) + LINK_HEADER_MAX, Ordering::Relaxed);
        Ok(())
    }

    /// Says what the kernel may leave to the switch in frames it sends from now on; less if it doesn't agree to all.
    ///
    /// # Errors
    /// The device was removed.
    pub fn set_offloads(&self, wanted: Accepts) -> Result<(), TapError> {
        let agreed = agree_on_offloads(&self.shared.queues[0], wanted)
            .map_err(|source| TapError::Gone { device: self.shared.name.clone(), source })?;
        *self.shared.offloads() = agreed;
        Ok(())
    }

    fn set_mac(&self, mac: [u8; 6]) -> Result<(), TapError> {
        let text = mac.map(|byte| format!("{byte:02x}")).join(":");
        self.set(format!("address {text}"), &format!("address {text}"), |interface| {
            if interface.mac()? == mac { Ok(()) } else { interface.set_mac(mac) }
        })
    }

    fn set(
        &self,
        what: String,
        ip_link: &str,
        change: impl FnOnce(&Interface<'_>) -> io::Result<()>,
    ) -> Result<(), TapError> {
        let device = &self.shared.name;
        change(&Interface { socket: &self.shared.socket, name: device }).map_err(|source| {
            let hint = match source.kind() {
                ErrorKind::PermissionDenied => {
                    format!("; run with CAP_NET_ADMIN, or do it beforehand: `ip link set {device} {ip_link}`")
                }
                _ => String::new(),
            };
            TapError::Set { device: device.clone(), what, source, hint }
        })
    }

    /// Makes the device outlive, or end with, the processes that have it open. To be rid of a persistent device:
    /// `false`, then drop queues and handles.
    ///
    /// # Errors
    /// The device was removed.
    pub fn set_persistent(&self, persistent: bool) -> Result<(), TapError> {
        sys::set_persistent(self.shared.queues[0].as_fd(), persistent)
            .map_err(|source| TapError::Gone { device: self.shared.name.clone(), source })
    }

    /// Copies of the descriptors, for a successor process; see [`TapPort::from_fds`]. Stop polling the queues
    /// before it starts.
    ///
    /// # Errors
    /// No descriptor is left to this process.
    pub fn export(&self) -> Result<TapFds, TapError> {
        let failed = |source| TapError::System { device: self.shared.name.clone(), call: "dup", source };
        Ok(TapFds {
            queues: self
                .shared
                .queues
                .iter()
                .map(|q| q.try_clone())
                .collect::<Result<_, _>>()
                .map_err(failed)?,
            socket: self.shared.socket.try_clone().map_err(failed)?,
            counters: match &self.shared.counters {
                Some(file) => Some(file.try_clone().map_err(failed)?.into()),
                None => None,
            },
        })
    }
}

/// Runs `work` in the configured network namespace, on a thread of its own unless that is this one's.
fn in_netns<T: Send>(config: &TapConfig, work: impl FnOnce() -> T + Send) -> Result<T, TapError> {
    let Some(netns) = &config.netns else { return Ok(work()) };
    let path =
        if netns.contains('/') { PathBuf::from(netns) } else { PathBuf::from("/run/netns").join(netns) };
    let device = config.name.clone();
    let namespace = match File::open(&path) {
        Ok(file) => file,
        Err(source) if source.kind() == ErrorKind::NotFound => {
            return Err(TapError::NoNetns { device, path, source });
        }
        Err(source) => return Err(TapError::EnterNetns { device, path, source }),
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
                |source| TapError::EnterNetns { device: device.clone(), path, source: source.into() },
            )?;
            Ok(work())
        });
        match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(source) => {
                Err(TapError::System { device: config.name.clone(), call: "creating a thread", source })
            }
        }
    })
}

/// Opens what belongs to the namespace of whoever opens it.
fn open_descriptors(config: &TapConfig) -> Result<TapFds, TapError> {
    let queues = (0..config.queues)
        .map(|_| sys::open_tun())
        .collect::<io::Result<_>>()
        .map_err(|source| TapError::NoTun { device: config.name.clone(), source })?;
    let socket = sys::open_socket().map_err(|source| TapError::System {
        device: config.name.clone(),
        call: "socket",
        source,
    })?;
    // An open file of this kind stays with the namespace it was opened in.
    let counters = File::open("/proc/thread-self/net/dev").ok().map(OwnedFd::from);
    Ok(TapFds { queues, socket, counters })
}

/// Makes every queue one of the device.
fn attach_all(config: &TapConfig, fds: &TapFds) -> Result<(), TapError> {
    let flags = attach_first(config, fds)?;
    for queue in &fds.queues[1..] {
        sys::attach(queue.as_fd(), &config.name, flags).map_err(|error| refused(config, error))?;
    }
    Ok(())
}

/// Creates the device or attaches to it, and returns with which flags that succeeded.
///
/// The kernel lets any number of processes share a multi-queue device and spreads the frames over them, so
/// whether somebody else has it is found out here: while it is up, it has a carrier only when it is open.
fn attach_first(config: &TapConfig, fds: &TapFds) -> Result<libc::c_int, TapError> {
    let queue = fds.queues[0].as_fd();
    let multi_queue = libc::IFF_MULTI_QUEUE;
    match sys::attach(queue, &config.name, multi_queue | libc::IFF_TUN_EXCL) {
        Ok(()) => return Ok(multi_queue),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        Err(error) => return Err(refused(config, error)),
    }
    let busy = is_open_elsewhere(&Interface { socket: &fds.socket, name: &config.name });
    let flags = match sys::attach(queue, &config.name, multi_queue) {
        Ok(()) => multi_queue,
        // Created by somebody for a single queue.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && config.queues == 1 => {
            sys::attach(queue, &config.name, 0).map_err(|error| refused(config, error))?;
            0
        }
        Err(error) => return Err(refused(config, error)),
    };
    if busy { Err(TapError::Busy { device: config.name.clone() }) } else { Ok(flags) }
}

/// Whether the device has a carrier, and keeps it: the rings of a process that was killed go away in the
/// background.
fn is_open_elsewhere(device: &Interface<'_>) -> bool {
    (0..10).all(|attempt| {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        device.has_carrier().unwrap_or(false)
    })
}

fn refused(config: &TapConfig, error: io::Error) -> TapError {
    let device = config.name.clone();
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TapError::NotPermitted { device },
        Some(libc::EBUSY) => TapError::Busy { device },
        Some(libc::EINVAL) => TapError::Mismatch { device, queues: config.queues },
        Some(libc::E2BIG) => TapError::QueueCount { device, queues: config.queues },
        _ => TapError::System { device, call: "ioctl(TUNSETIFF)", source: error },
    }
}

/// Asks the kernel to leave work to us, as much as is wanted or the most it agrees to.
fn agree_on_offloads(queue: &OwnedFd, wanted: Accepts) -> io::Result<Accepts> {
    // The kernel's rules: segmentation leaves the checksum open, and ECN is a property of segmentation.
    let Accepts { partial_checksum, tso4, tso6, tso_ecn } = wanted;
    let checksum = Accepts { partial_checksum, ..Accepts::default() };
    let segmentation = Accepts { tso4: tso4 && partial_checksum, tso6: tso6 && partial_checksum, ..checksum };
    let all = Accepts { tso_ecn: tso_ecn && (segmentation.tso4 || segmentation.tso6), ..segmentation };
    let mut last = Ok(Accepts::default());
    for offer in [all, segmentation, checksum, Accepts::default()] {
        last = sys::set_offloads(queue.as_fd(), tun_flags(offer)).map(|()| offer);
        if last.is_ok() {
            break;
        }
    }
    last
}

fn tun_flags(offloads: Accepts) -> libc::c_uint {
    let Accepts { partial_checksum, tso4, tso6, tso_ecn } = offloads;
    [
        (partial_checksum, libc::TUN_F_CSUM),
        (tso4, libc::TUN_F_TSO4),
        (tso6, libc::TUN_F_TSO6),
        (tso_ecn, libc::TUN_F_TSO_ECN),
    ]
    .into_iter()
    .filter_map(|(on, flag)| on.then_some(flag))
    .sum()
}

fn queue_pair(queue: &Arc<OwnedFd>, shared: &Shared) -> Result<(TapRx, TapTx), TapError> {
    let no_ring = |source| TapError::NoIoUring { device: shared.name.clone(), source };
    let no_memory = |source| TapError::System { device: shared.name.clone(), call: "mmap", source };
    // Ordinary pages, resident once used: most of a buffer is only there for super-frames.
    let rx_memory = Pool::new(rx::BUFFERS, rx::BUFFER_BYTES, HugePages::Off).map_err(no_memory)?;
    let tx_memory = Pool::new(1, tx::MEMORY_BYTES, HugePages::Off).map_err(no_memory)?;
    let rx_ring = Ring::new(Arc::clone(queue), rx::ENTRIES).map_err(no_ring)?;
    let tx_ring = Ring::new(Arc::clone(queue), tx::ENTRIES).map_err(no_ring)?;
    let nowait = sys::knows_nowait(queue);
    let tx = TapTx::new(tx_ring, tx_memory, nowait, Arc::clone(&shared.plain_max));
    Ok((TapRx::new(rx_ring, rx_memory, nowait), tx))
}

fn kernel_counters(file: &File, name: &str) -> Option<KernelCounters> {
    let mut text = vec![0; 64 << 10];
    let mut len = 0;
    while len < text.len() {
        match file.read_at(&mut text[len..], len as u64).ok()? {
            0 => break,
            n => len += n,
        }
    }
    parse_counters(&String::from_utf8_lossy(&text[..len]), name)
}

/// Finds the interface's line in `/proc/net/dev` (proc(5)): eight columns received, then eight sent, each
/// beginning with bytes, packets, errors, drops.
fn parse_counters(text: &str, name: &str) -> Option<KernelCounters> {
    let columns = text.lines().find_map(|line| {
        let (interface, columns) = line.split_once(':')?;
        (interface.trim() == name).then_some(columns)
    })?;
    let values: Vec<u64> = columns.split_whitespace().map_while(|value| value.parse().ok()).collect();
    let [_, packets_in, errors_in, dropped_in, _, _, _, _, _, packets_out, errors_out, dropped_out, ..] =
        values[..]
    else {
        return None;
    };
    Some(KernelCounters {
        to_switch_frames: packets_out,
        to_switch_dropped: errors_out + dropped_out,
        from_switch_frames: packets_in,
        from_switch_dropped: errors_in + dropped_in,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_counters_are_read_from_the_line_of_the_device() {
        let text = "Inter-|   Receive                  |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop\n\
                    \x20   lo:       1       2    3    4    0     0          0         0        5       6    7    8    0     0       0          0\n\
                    \x20 tap0:     100      20    1    2    0     0          0         0      300      40    0    9    0     0       0          0\n";
        let counters = parse_counters(text, "tap0").unwrap();
        assert_eq!(counters.to_switch_frames, 40);
        assert_eq!(counters.to_switch_dropped, 9);
        assert_eq!(counters.from_switch_frames, 20);
        assert_eq!(counters.from_switch_dropped, 3);
        assert_eq!(parse_counters(text, "tap"), None);
        assert_eq!(parse_counters("tap: 1 2 3", "tap"), None);
    }
}
