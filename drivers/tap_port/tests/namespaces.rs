//! TAP ports between kernels' network stacks, each in a network namespace of its own that the test makes.
//!
//! This needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN), `/dev/net/tun` and `ip` of iproute2. Without the first two a
//! test says so, past the harness' capture, and passes.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use packet::{Burst, Offload};
use port::{Accepts, Armed, DropReason, PortCounters, QueueFault, Received, RxQueue, Selection, TxQueue};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType};
use tap_port::{TapConfig, TapError, TapPort};

type Queues = Vec<(Box<dyn RxQueue>, Box<dyn TxQueue>)>;

const A: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Whether this machine lets us make namespaces and TAP devices. Says aloud when not.
fn permitted(test: &str) -> bool {
    let capabilities = rustix::thread::capabilities(None).expect("a thread can ask for its own capabilities");
    let wanted = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN;
    let lacking = if !capabilities.effective.contains(wanted) {
        "CAP_NET_ADMIN and CAP_SYS_ADMIN (run as root)"
    } else if !Path::new("/dev/net/tun").exists() {
        "/dev/net/tun"
    } else {
        return true;
    };
    // Straight to the descriptor: the harness captures only the print macros.
    let _ = writeln!(std::io::stderr(), "LEFT OUT {test}: this machine doesn't give it {lacking}");
    false
}

fn ip(arguments: &str) {
    let output =
        Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A network namespace, removed with everything in it when dropped.
struct Netns(String);

impl Netns {
    fn new() -> Netns {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let netns = Netns(format!("rwtap-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        ip(&format!("netns add {}", netns.0));
        netns.run(|| {
            for which in ["all", "default"] {
                // Keeps neighbour discovery out of the counters.
                let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
            }
        });
        netns.ip("link set lo up");
        netns
    }

    fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.0));
    }

    fn config(&self, name: &str) -> TapConfig {
        TapConfig { netns: Some(self.0.clone()), ..TapConfig::new(name) }
    }

    fn has(&self, device: &str) -> bool {
        let arguments = ["-n", &self.0, "link", "show", device];
        Command::new("ip").args(arguments).output().expect("iproute2 is installed").status.success()
    }

    /// Runs `work` on a thread inside the namespace.
    fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = File::open(format!("/run/netns/{}", self.0)).unwrap();
        std::thread::spawn(move || {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .unwrap();
            work()
        })
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn udp(address: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Sends one ICMP echo request with `len` bytes of data and returns whether its answer came back.
fn ping(to: Ipv4Addr, len: usize) -> bool {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap();
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(Duration::from_secs(5)),
    )
    .unwrap();
    let mut request = vec![8, 0, 0, 0, 0x52, 0x57, 0, len as u8];
    request.extend((0..len).map(|i| i as u8));
    let sum: u64 = request.chunks(2).map(|c| u64::from(c[0]) << 8 | u64::from(*c.get(1).unwrap_or(&0))).sum();
    let checksum = !(sum % 0xffff) as u16;
    request[2..4].copy_from_slice(&checksum.to_be_bytes());
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &SocketAddr::from((to, 0))).unwrap();
    let mut buffer = vec![0; 65_536];
    while let Ok((n, _)) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()) {
        let answer = &buffer[usize::from(buffer[0] & 15) * 4..n];
        if answer[0] == 0 && answer[4..] == request[4..] {
            return true;
        }
    }
    false
}

/// What a wire saw on one of its ends.
#[derive(Default)]
struct End {
    counters: PortCounters,
    /// The longest frame received from the kernel.
    longest: usize,
    /// Frames received that asked for something.
    with_offload: usize,
    /// Frames received per queue.
    per_queue: Vec<usize>,
}

/// A thread that forwards everything between two TAP ports.
struct Wire {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<[End; 2], QueueFault>>,
}

impl Wire {
    fn between(a: TapPort, b: TapPort) -> Wire {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (a, b) = (a.into_queues(), b.into_queues());
        let thread = std::thread::spawn(move || forward([a, b], &stopped));
        Wire { stop, thread }
    }

    /// Stops forwarding; every frame that was received has been sent or dropped with a reason.
    fn end(self) -> [End; 2] {
        self.stop.store(true, Ordering::Relaxed);
        let ends = self.thread.join().unwrap().unwrap();
        let sum = |f: fn(&PortCounters) -> u64| ends.iter().map(|end| f(&end.counters)).sum::<u64>();
        let dropped = sum(|c| DropReason::ALL.iter().map(|&reason| c.drops(reason)).sum());
        assert_eq!(sum(|c| c.rx_frames.get()), sum(|c| c.tx_frames.get()) + dropped);
        ends
    }
}

fn forward(mut ports: [Queues; 2], stop: &AtomicBool) -> Result<[End; 2], QueueFault> {
    let mut ends = [0, 1].map(|i| End { per_queue: vec![0; ports[i].len()], ..End::default() });
    let mut burst = Burst::new();
    while !stop.load(Ordering::Relaxed) {
        let mut moved = 0;
        for from in [0, 1] {
            let to = 1 - from;
            for q in 0..ports[from].len() {
                let [first, second] = &mut ports;
                let (sender, receiver) = if from == 0 { (first, second) } else { (second, first) };
                let out = q % receiver.len();
                let mut received = Received::poll(&mut *sender[q].0, &mut burst, &ends[from].counters)?;
                let frames = received.burst().len();
                if frames == 0 {
                    continue;
                }
                let which: Vec<u8> = (0..frames as u8).collect();
                let (mut longest, mut with_offload) = (0, 0);
                for i in 0..frames {
                    longest = longest.max(received.burst().frame_len(i));
                    with_offload += usize::from(!received.burst().offload(i).is_plain());
                }
                let selection = Selection { burst: received.burst(), which: &which };
                receiver[out].1.transmit(selection, &ends[to].counters)?;
                receiver[out].1.flush(&ends[to].counters)?;
                drop(received);
                let end = &mut ends[from];
                end.longest = end.longest.max(longest);
                end.with_offload += with_offload;
                end.per_queue[q] += frames;
                moved += frames;
            }
        }
        if moved == 0 {
            std::thread::yield_now();
        }
    }
    Ok(ends)
}

/// Two namespaces with a TAP device `tap` each, addresses A and B, and a wire between them.
struct Pair {
    a: Netns,
    b: Netns,
    wire: Wire,
}

impl Pair {
    fn new(change: impl Fn(TapConfig) -> TapConfig) -> Pair {
        let (a, b) = (Netns::new(), Netns::new());
        let wire = Wire::between(
            TapPort::open(change(a.config("tap"))).unwrap(),
            TapPort::open(change(b.config("tap"))).unwrap(),
        );
        a.ip(&format!("addr add {A}/24 dev tap"));
        b.ip(&format!("addr add {B}/24 dev tap"));
        Pair { a, b, wire }
    }

    /// Sends `megabytes` over TCP from A to B and compares what arrives.
    fn tcp(&self, megabytes: usize) {
        let pattern = |at: usize| (at * 7 + (at >> 12)) as u8;
        let total = megabytes << 20;
        let (address, listening) = std::sync::mpsc::channel();
        let server = self.b.spawn(move || {
            let listener = TcpListener::bind((B, 0)).unwrap();
            address.send(listener.local_addr().unwrap()).unwrap();
            let mut stream = listener.accept().unwrap().0;
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut buffer = vec![0; 1 << 18];
            let mut at = 0;
            loop {
                let n = stream.read(&mut buffer).unwrap();
                if n == 0 {
                    return at;
                }
                assert!(
                    buffer[..n].iter().enumerate().all(|(i, &x)| x == pattern(at + i)),
                    "damaged near {at}"
                );
                at += n;
            }
        });
        let address = listening.recv().unwrap();
        self.a.run(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            let data: Vec<u8> = (0..total).map(pattern).collect();
            stream.write_all(&data).unwrap();
        });
        assert_eq!(server.join().unwrap(), total);
    }
}

/// An Ethernet frame with a UDP datagram for `to_mac`, checksum left out (as IPv4 allows).
fn udp_frame(to_mac: [u8; 6], to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let SocketAddr::V4(to) = to else { panic!("IPv4 only") };
    let mut frame = vec![];
    frame.extend(to_mac);
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    let mut header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 9, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&(28 + payload.len() as u16).to_be_bytes());
    header[16..].copy_from_slice(&to.ip().octets());
    let sum: u32 = header.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    header[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    frame.extend(header);
    frame.extend([0x30, 0x39]);
    frame.extend(to.port().to_be_bytes());
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// Transmits frames of our own.
fn transmit(
    tx: &mut dyn TxQueue,
    frames: &[(Vec<u8>, Offload)],
    counters: &PortCounters,
) -> Result<(), QueueFault> {
    let mut burst = Burst::new();
    for chunk in frames.chunks(packet::BURST_MAX) {
        burst.clear();
        for (frame, offload) in chunk {
            let mut memory = PushBytes(&mut burst);
            memory.push(frame, *offload);
        }
        let which: Vec<u8> = (0..chunk.len() as u8).collect();
        tx.transmit(Selection { burst: &mut burst, which: &which }, counters)?;
    }
    tx.flush(counters)
}

/// Puts borrowed bytes into a burst.
struct PushBytes<'a>(&'a mut Burst);

impl PushBytes<'_> {
    #[allow(unsafe_code)]
    fn push(&mut self, frame: &[u8], offload: Offload) {
        // SAFETY: callers keep the frames until the burst is cleared.
        unsafe { self.0.push(frame.as_ptr(), frame.len() as u32, offload, 0) };
    }
}

/// Receives until `frames` came or a second passed; returns their bytes.
fn receive(rx: &mut dyn RxQueue, frames: usize, counters: &PortCounters) -> Result<Vec<Vec<u8>>, QueueFault> {
    let mut burst = Burst::new();
    let mut out = vec![];
    let start = Instant::now();
    while out.len() < frames && start.elapsed() < Duration::from_secs(1) {
        let mut received = Received::poll(rx, &mut burst, counters)?;
        for i in 0..received.burst().len() {
            let mut bytes = vec![0; received.burst().frame_len(i)];
            received.burst().read(i, 0, &mut bytes);
            out.push(bytes);
        }
    }
    Ok(out)
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(5), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn hosts_behind_two_taps_ping_each_other_and_every_frame_is_counted() {
    if !permitted("hosts_behind_two_taps_ping_each_other_and_every_frame_is_counted") {
        return;
    }
    let pair = Pair::new(|config| config);
    for len in [0, 1, 56, 1472, 1473, 20_000] {
        assert!(pair.a.run(move || ping(B, len)), "no answer to {len} bytes");
        assert!(pair.b.run(move || ping(A, len)), "no answer to {len} bytes");
    }
    let [a, b] = pair.wire.end();
    assert!(a.counters.rx_frames.get() >= 12 && b.counters.rx_frames.get() >= 12);
    assert_eq!(a.counters.rx_frames.get(), b.counters.tx_frames.get());
    assert_eq!(a.counters.rx_bytes.get(), b.counters.tx_bytes.get());
    assert_eq!(b.counters.rx_bytes.get(), a.counters.tx_bytes.get());
}

#[test]
fn tcp_passes_as_super_frames_and_arrives_intact() {
    if !permitted("tcp_passes_as_super_frames_and_arrives_intact") {
        return;
    }
    let pair = Pair::new(|config| config);
    pair.tcp(16);
    let [a, _] = pair.wire.end();
    assert!(a.longest > 20_000, "longest frame: {}", a.longest);
    assert!(a.with_offload > 0);
    assert!(a.counters.rx_bytes.get() > 16 << 20);
}

#[test]
fn without_offloads_frames_are_complete_and_fit_the_mtu() {
    if !permitted("without_offloads_frames_are_complete_and_fit_the_mtu") {
        return;
    }
    let pair = Pair::new(|config| TapConfig { offloads: Accepts::default(), ..config });
    pair.tcp(4);
    for end in pair.wire.end() {
        assert!(end.longest <= 1514, "longest frame: {}", end.longest);
        assert_eq!(end.with_offload, 0);
    }
}

#[test]
fn jumbo_frames_pass_where_the_mtu_allows_them_and_are_dropped_where_not() {
    if !permitted("jumbo_frames_pass_where_the_mtu_allows_them_and_are_dropped_where_not") {
        return;
    }
    let pair = Pair::new(|config| TapConfig { mtu: Some(9000), offloads: Accepts::default(), ..config });
    assert!(pair.a.run(|| ping(B, 8972)));
    pair.tcp(4);
    let [a, _] = pair.wire.end();
    assert_eq!(a.longest, 9014);

    let netns = Netns::new();
    let tap = TapPort::open(TapConfig { mtu: Some(1500), ..netns.config("tap") }).unwrap();
    let handle = tap.handle();
    let mut queues = tap.into_queues();
    let counters = PortCounters::default();
    let frame = |len| (vec![0xff; len], Offload::default());
    transmit(&mut *queues[0].1, &[frame(1514), frame(1600), frame(9014), frame(70_000)], &counters).unwrap();
    assert_eq!((counters.tx_frames.get(), counters.drops(DropReason::TooLong)), (1, 3));
    handle.set_mtu(9000).unwrap();
    assert_eq!(handle.status().unwrap().mtu, 9000);
    transmit(&mut *queues[0].1, &[frame(9014)], &counters).unwrap();
    assert_eq!(counters.tx_frames.get(), 2);
}

#[test]
fn flows_spread_over_the_queues_and_none_is_lost() {
    if !permitted("flows_spread_over_the_queues_and_none_is_lost") {
        return;
    }
    let pair = Pair::new(|config| TapConfig { queues: 4, ..config });
    let server = pair.b.run(|| UdpSocket::bind((B, 4000)).unwrap());
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    pair.a.run(move || {
        for flow in 0..64_u8 {
            let client = udp(A);
            client.send_to(&[flow], (B, 4000)).unwrap();
            let mut got = [0; 2];
            assert_eq!(server.recv(&mut got).unwrap(), 1);
            assert_eq!(got[0], flow);
        }
    });
    let [a, _] = pair.wire.end();
    assert!(a.per_queue.iter().filter(|&&frames| frames > 0).count() > 1, "{:?}", a.per_queue);
}

#[test]
fn frames_keep_their_order_in_both_directions() {
    if !permitted("frames_keep_their_order_in_both_directions") {
        return;
    }
    const FRAMES: u32 = 3000;
    let netns = Netns::new();
    let tap = TapPort::open(netns.config("tap")).unwrap();
    netns.ip(&format!("addr add {A}/24 dev tap"));
    netns.ip(&format!("neigh add {B} lladdr 02:00:00:00:00:09 dev tap"));
    let mac = tap.handle().status().unwrap().mac;
    let mut queues = tap.into_queues();
    let (rx, tx) = &mut queues[0];
    let counters = PortCounters::default();

    let socket = netns.run(|| udp(A));
    let address = socket.local_addr().unwrap();
    for first in (0..FRAMES).step_by(100) {
        let frames: Vec<_> = (first..first + 100)
            .map(|n| (udp_frame(mac, address, &n.to_be_bytes()), Offload::default()))
            .collect();
        transmit(&mut **tx, &frames, &counters).unwrap();
        for n in first..first + 100 {
            let mut got = [0; 4];
            assert_eq!(socket.recv(&mut got).unwrap(), 4);
            assert_eq!(u32::from_be_bytes(got), n);
        }
    }
    assert_eq!(counters.tx_frames.get(), u64::from(FRAMES));

    for first in (0..FRAMES).step_by(300) {
        for n in first..first + 300 {
            socket.send_to(&n.to_be_bytes(), (B, 9)).unwrap();
        }
        let frames = receive(&mut **rx, 300, &counters).unwrap();
        let numbers: Vec<u32> =
            frames.iter().map(|f| u32::from_be_bytes(f[42..46].try_into().unwrap())).collect();
        assert_eq!(numbers, (first..first + 300).collect::<Vec<_>>());
    }
}

#[test]
fn a_sleeper_is_woken_through_the_descriptor() {
    if !permitted("a_sleeper_is_woken_through_the_descriptor") {
        return;
    }
    let netns = Netns::new();
    let tap = TapPort::open(netns.config("tap")).unwrap();
    netns.ip(&format!("addr add {A}/24 dev tap"));
    netns.ip(&format!("neigh add {B} lladdr 02:00:00:00:00:09 dev tap"));
    let mut queues = tap.into_queues();
    let rx = &mut *queues[0].0;
    let counters = PortCounters::default();
    assert_eq!(rx.arm(), Armed::Ready, "not polled yet");
    receive(rx, 1, &counters).unwrap();
    assert_eq!(rx.arm(), Armed::Waiting);

    let sender = netns.spawn(|| {
        std::thread::sleep(Duration::from_millis(50));
        udp(A).send_to(b"wake up", (B, 9)).unwrap();
    });
    let timeout = Timespec { tv_sec: 5, tv_nsec: 0 };
    let ready = loop {
        match poll(&mut [PollFd::from_borrowed_fd(rx.event_fd().unwrap(), PollFlags::IN)], Some(&timeout)) {
            // The ring's own completion interrupts a sleep, too.
            Err(rustix::io::Errno::INTR) => {}
            other => break other.unwrap(),
        }
    };
    assert_eq!(ready, 1);
    rx.disarm();
    assert_eq!(receive(rx, 1, &counters).unwrap().len(), 1);
    sender.join().unwrap();
}

#[test]
fn a_queue_goes_on_in_another_thread_while_the_first_one_is_busy_and_after_it_ended() {
    if !permitted("a_queue_goes_on_in_another_thread_while_the_first_one_is_busy_and_after_it_ended") {
        return;
    }
    let netns = Netns::new();
    let tap = TapPort::open(netns.config("tap")).unwrap();
    netns.ip(&format!("addr add {A}/24 dev tap"));
    netns.ip(&format!("neigh add {B} lladdr 02:00:00:00:00:09 dev tap"));
    let socket = netns.run(|| udp(A));
    let mut rx = tap.into_queues().remove(0).0;
    let busy = Arc::new(AtomicBool::new(true));
    for round in 0..3 {
        // The poll that a thread left armed is that thread's, wherever the queue goes.
        let still_busy = Arc::clone(&busy);
        let (back, moved) = std::sync::mpsc::channel();
        let first = std::thread::spawn(move || {
            let counters = PortCounters::default();
            while rx.arm() == Armed::Ready {
                assert_eq!(receive(&mut *rx, 1, &counters).unwrap().len(), 0);
            }
            back.send(rx).unwrap();
            while round == 0 && still_busy.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        rx = moved.recv().unwrap();
        if round == 1 {
            first.join().unwrap();
            busy.store(false, Ordering::Relaxed);
        }
        socket.send_to(b"hello", (B, 9)).unwrap();
        assert_eq!(receive(&mut *rx, 1, &PortCounters::default()).unwrap().len(), 1, "round {round}");
    }
}

#[test]
fn a_device_removed_under_us_is_a_fault_of_its_queues() {
    if !permitted("a_device_removed_under_us_is_a_fault_of_its_queues") {
        return;
    }
    let netns = Netns::new();
    let tap = TapPort::open(netns.config("tap")).unwrap();
    let handle = tap.handle();
    let mut queues = tap.into_queues();
    let (rx, tx) = &mut queues[0];
    let counters = PortCounters::default();
    assert!(receive(&mut **rx, 1, &counters).unwrap().is_empty());
    netns.ip("link del tap");

    let fault = receive(&mut **rx, 1, &counters).unwrap_err();
    assert!(fault.what.contains("removed"), "{fault}");
    assert!(receive(&mut **rx, 1, &counters).is_err(), "a fault is for good");
    let frames = [(vec![0xff; 60], Offload::default()), (vec![0xff; 60], Offload::default())];
    let fault = transmit(&mut **tx, &frames, &counters).unwrap_err();
    assert!(fault.what.contains("removed"), "{fault}");
    assert!(transmit(&mut **tx, &frames, &counters).is_err());
    assert_eq!((counters.tx_frames.get(), counters.drops(DropReason::Device)), (0, 4));
    let error = handle.status().unwrap_err();
    assert!(error.to_string().starts_with("TAP device tap: not there any more"), "{error}");
}

#[test]
fn what_the_kernel_refuses_is_dropped_with_a_reason() {
    if !permitted("what_the_kernel_refuses_is_dropped_with_a_reason") {
        return;
    }
    let netns = Netns::new();
    let tap = TapPort::open(netns.config("tap")).unwrap();
    let handle = tap.handle();
    let mut queues = tap.into_queues();
    let tx = &mut *queues[0].1;
    let counters = PortCounters::default();
    let nonsense = Offload { flags: 1, csum_start: 5000, csum_offset: 5000, ..Offload::default() };
    let frames = [
        (vec![0xff; 60], Offload::default()),
        (vec![0xff; 13], Offload::default()),
        (vec![0xff; 60], nonsense),
        (vec![0xff; 60], Offload::default()),
    ];
    transmit(tx, &frames, &counters).unwrap();
    assert_eq!((counters.tx_frames.get(), counters.tx_bytes.get()), (2, 120));
    assert_eq!(counters.drops(DropReason::Runt), 1);
    assert_eq!(counters.drops(DropReason::BadOffload), 1);

    handle.set_link(false).unwrap();
    assert!(!handle.status().unwrap().up);
    transmit(tx, &frames[..1], &counters).unwrap();
    assert_eq!(counters.drops(DropReason::PortDown), 1);
    handle.set_link(true).unwrap();
    transmit(tx, &frames[..1], &counters).unwrap();
    assert_eq!(counters.tx_frames.get(), 3);
}

#[test]
fn more_frames_than_fit_between_two_flushes_are_sent_all_the_same() {
    if !permitted("more_frames_than_fit_between_two_flushes_are_sent_all_the_same") {
        return;
    }
    let netns = Netns::new();
    let mut queues = TapPort::open(netns.config("tap")).unwrap().into_queues();
    let counters = PortCounters::default();
    let many = vec![(vec![0xff; 60], Offload::default()); 1000];
    transmit(&mut *queues[0].1, &many, &counters).unwrap();
    assert_eq!(counters.tx_frames.get(), 1000);
    let large = vec![(vec![0xff; 65_000], Offload::default()); 20];
    transmit(&mut *queues[0].1, &large, &counters).unwrap();
    assert_eq!(counters.tx_frames.get(), 1020);
}

#[test]
fn a_device_is_as_configured_and_says_so() {
    if !permitted("a_device_is_as_configured_and_says_so") {
        return;
    }
    let own_namespace = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let before = own_namespace();
    let netns = Netns::new();
    let mac = [0x02, 0x52, 0x57, 0, 0, 7];
    let config = TapConfig { mtu: Some(1400), mac: Some(mac), queues: 2, ..netns.config("tap") };
    let tap = TapPort::open(config).unwrap();
    assert_eq!(own_namespace(), before);
    let handle = tap.handle();
    let status = handle.status().unwrap();
    assert_eq!((status.name.as_str(), status.mtu, status.mac, status.queues), ("tap", 1400, mac, 2));
    assert!(status.up && status.running && !status.persistent && status.index > 0);
    assert!(status.offloads.partial_checksum && status.offloads.tso4 && status.offloads.tso6);

    let counters = PortCounters::default();
    let mut queues = tap.into_queues();
    transmit(&mut *queues[1].1, &[(vec![0xff; 60], Offload::default())], &counters).unwrap();
    assert_eq!(handle.status().unwrap().kernel.unwrap().from_switch_frames, 1);

    netns.ip("link set tap down name renamed");
    let status = handle.status().unwrap();
    assert_eq!((status.name.as_str(), status.up), ("renamed", false));
    assert_eq!(handle.name(), "tap");

    let down = TapPort::open(TapConfig { link_up: false, ..netns.config("tap2") }).unwrap();
    assert!(!down.handle().status().unwrap().up);
}

#[test]
fn nothing_is_left_over_unless_it_was_to_persist() {
    if !permitted("nothing_is_left_over_unless_it_was_to_persist") {
        return;
    }
    let netns = Netns::new();
    let tap = TapPort::open(netns.config("tap")).unwrap();
    let handle = tap.handle();
    let mut queues = tap.into_queues();
    receive(&mut *queues[0].0, 1, &PortCounters::default()).unwrap();
    assert!(netns.has("tap"));
    drop(queues);
    assert!(netns.has("tap"), "control still has it");
    drop(handle);
    wait_until("the device is gone", || !netns.has("tap"));

    let failed = TapPort::open(TapConfig { mtu: Some(10), ..netns.config("tap") });
    let message = failed.err().unwrap().to_string();
    assert!(message.starts_with("TAP device tap: can't set MTU 10"), "{message}");
    wait_until("the device is gone", || !netns.has("tap"));

    drop(TapPort::open(TapConfig { persistent: true, ..netns.config("tap") }).unwrap());
    std::thread::sleep(Duration::from_millis(50));
    assert!(netns.has("tap"));
    let again = TapPort::open(netns.config("tap")).unwrap();
    assert!(again.handle().status().unwrap().persistent, "left as it was found");
    again.handle().set_persistent(false).unwrap();
    drop(again);
    wait_until("the device is gone", || !netns.has("tap"));
}

#[test]
fn a_successor_goes_on_with_the_queues_and_what_waits_in_them() {
    if !permitted("a_successor_goes_on_with_the_queues_and_what_waits_in_them") {
        return;
    }
    let netns = Netns::new();
    let config = TapConfig { queues: 2, ..netns.config("tap") };
    let tap = TapPort::open(config.clone()).unwrap();
    netns.ip(&format!("addr add {A}/24 dev tap"));
    netns.ip(&format!("neigh add {B} lladdr 02:00:00:00:00:09 dev tap"));
    let handle = tap.handle();
    let mut queues = tap.into_queues();
    let counters = PortCounters::default();
    for (rx, _) in &mut queues {
        receive(&mut **rx, 1, &counters).unwrap();
    }
    let fds = handle.export().unwrap();
    netns.run(|| udp(A).send_to(b"meanwhile", (B, 9)).unwrap());
    drop((queues, handle));

    let successor = TapPort::from_fds(config.clone(), fds).unwrap();
    let status = successor.handle().status().unwrap();
    assert_eq!((status.name.as_str(), status.queues, status.running), ("tap", 2, true));
    let fds = successor.handle().export().unwrap();
    let mut queues = successor.into_queues();
    let waiting: usize =
        queues.iter_mut().map(|(rx, _)| receive(&mut **rx, 1, &counters).unwrap().len()).sum();
    assert_eq!(waiting, 1);

    let other = TapPort::from_fds(TapConfig { name: "other".into(), ..config.clone() }, fds);
    let message = other.err().unwrap().to_string();
    assert!(message.contains("a queue belongs to tap"), "{message}");
}

#[test]
fn errors_name_the_device_the_cause_and_a_remedy() {
    if !permitted("errors_name_the_device_the_cause_and_a_remedy") {
        return;
    }
    let netns = Netns::new();
    let message = |config: TapConfig| TapPort::open(config).err().expect("it can't be opened").to_string();
    let absent = TapConfig { netns: Some("rwtap-absent".into()), ..TapConfig::new("tap") };
    let text = message(absent);
    assert!(text.contains("/run/netns/rwtap-absent") && text.contains("ip netns add"), "{text}");
    let no_namespace = TapConfig { netns: Some("/dev/null".into()), ..TapConfig::new("tap") };
    let text = message(no_namespace);
    assert!(text.contains("can't enter network namespace /dev/null"), "{text}");

    let text = message(netns.config("lo"));
    assert!(text.contains("lo: the interface of this name is not a TAP device"), "{text}");
    netns.ip("tuntap add dev single mode tap");
    let text = message(TapConfig { queues: 2, ..netns.config("single") });
    assert!(text.contains("created for one queue while 2 are asked for"), "{text}");
    assert!(text.contains("multi_queue vnet_hdr"), "{text}");
    let single = TapPort::open(netns.config("single")).unwrap();
    assert!(single.handle().status().unwrap().persistent);
    let text = message(netns.config("single"));
    assert!(text.contains("single: in use by another process"), "{text}");

    let _first = TapPort::open(netns.config("tap")).unwrap();
    let text = message(netns.config("tap"));
    assert!(text.contains("tap: in use by another process"), "{text}");
}

#[test]
fn without_privilege_only_a_device_made_beforehand_can_be_opened() {
    if !permitted("without_privilege_only_a_device_made_beforehand_can_be_opened") {
        return;
    }
    let netns = Netns::new();
    netns.ip("tuntap add dev ours mode tap user 0 multi_queue vnet_hdr");
    netns.ip("link set ours up mtu 1400");
    netns.ip("tuntap add dev theirs mode tap user 12345 multi_queue vnet_hdr");
    let results = netns.run(|| {
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, sets).unwrap();
        let open = |config| TapPort::open(config).map(|tap| tap.handle().status().unwrap());
        [
            open(TapConfig { mtu: Some(1400), queues: 2, ..TapConfig::new("ours") }),
            open(TapConfig { mtu: Some(1500), ..TapConfig::new("ours") }),
            open(TapConfig::new("theirs")),
            open(TapConfig::new("new")),
        ]
    });
    let [ours, other_mtu, theirs, new] = results;
    assert_eq!(ours.unwrap().mtu, 1400);
    let text = other_mtu.unwrap_err().to_string();
    assert!(text.contains("ip link set ours mtu 1500"), "{text}");
    for (refused, name) in [(theirs, "theirs"), (new, "new")] {
        let error = refused.unwrap_err();
        assert!(matches!(error, TapError::NotPermitted { .. }));
        let remedy = format!("ip tuntap add dev {name} mode tap user USER multi_queue vnet_hdr");
        assert!(error.to_string().contains(&remedy), "{error}");
    }
}
