//! A host with an address: smoltcp on the guest's device.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZeroUsize;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpCidr};
use virtio_defs::net::Header;
use virtio_defs::net::feature::HOST_TSO4;
use virtqueue::driver::DriverError;

use crate::clock::{MILLISECOND, SECOND};
use crate::config::{GuestConfig, HostRole, Ping, STREAM_PORT};
use crate::device::Device;
use crate::frame::{FRAME_MAX, Frame, request_offload};
use crate::report::{Latency, PingReport, Report, StreamReport};
use crate::run::{Actor, Turn, rate};
use crate::stats::Histogram;

/// Frames received in a turn.
const TURN_MAX: usize = 64;
/// Streams taken at a time.
const LISTENERS: usize = 4;
/// Bytes of a stream's window for each entry of the ring: a window's frames fit into the receiver's ring, so that none
/// is lost however late the receiver wakes.
const WINDOW_PER_ENTRY: usize = 1024;
/// UDP port that is echoed (RFC 862).
const ECHO_PORT: u16 = 7;
/// First local port of streams sent.
const LOCAL_PORT: u16 = 49152;
/// How long before a broken stream is tried again.
const STREAM_RETRY: u64 = 200 * MILLISECOND;
/// A ping not answered in this time is lost.
const PING_TIMEOUT: u64 = SECOND;
const PING_IDENT: u16 = 0x5257;
const PING_BYTES: usize = 56;
/// Longest frame given to the switch to be segmented. Linux stays as far below the longest IP packet (`MAX_TCP_HEADER` in
/// include/net/tcp.h), and DPDK's vhost has no buffer for longer ones.
const SEGMENTED_MAX: usize = 14 + 65_200;
/// When stopping, how long to wait for acknowledgements and answers.
const QUIET: u64 = 300 * MILLISECOND;

pub struct Host {
    mac: [u8; 6],
    mtu: u16,
    role: HostRole,
    /// Made anew when the switch offers something else; the sockets stay.
    interface: Option<(u64, Interface)>,
    sockets: SocketSet<'static>,
    /// Out during a turn.
    frame: Option<Frame>,
    pingers: Vec<Pinger>,
    echo: SocketHandle,
    takers: Vec<Taker>,
    sender: Option<Sender>,
    pattern: Pattern,
    stopped_at: Option<u64>,
}

impl Host {
    pub fn new(config: &GuestConfig, role: &HostRole, now: u64) -> Host {
        let mut sockets = SocketSet::new(vec![]);
        let mut echo = udp::Socket::new(udp_buffer(), udp_buffer());
        echo.bind(ECHO_PORT).expect("a new socket and a port that isn't 0");
        let echo = sockets.add(echo);
        let window = (usize::from(config.ring_size) * WINDOW_PER_ENTRY).clamp(32 << 10, 1 << 20);
        let takers = (0..LISTENERS).map(|_| Taker::new(window, &mut sockets)).collect();
        let sender = role.stream_to.map(|to| Sender::new(to, window, &mut sockets, now));
        let ping = |(n, ping): (usize, &Ping)| Pinger::new(*ping, PING_IDENT + n as u16, &mut sockets, now);
        let pingers = role.ping.iter().enumerate().map(ping).collect();
        Host {
            mac: config.mac,
            mtu: config.mtu,
            role: role.clone(),
            interface: None,
            sockets,
            frame: Some(Frame::new()),
            pingers,
            echo,
            takers,
            sender,
            pattern: Pattern::new(),
            stopped_at: None,
        }
    }

    fn make_interface(&self, phy: &mut Phy<'_>, now: u64) -> Interface {
        let mut config = Config::new(EthernetAddress(self.mac).into());
        config.random_seed = now;
        let mut interface = Interface::new(config, phy, instant(now));
        interface.update_ip_addrs(|addresses| {
            let address = IpCidr::new(self.role.address.into(), self.role.prefix_len);
            addresses.push(address).expect("room for one address");
        });
        let routes = interface.routes_mut();
        match self.role.gateway {
            Some(IpAddr::V4(gateway)) => drop(routes.add_default_ipv4_route(gateway)),
            Some(IpAddr::V6(gateway)) => drop(routes.add_default_ipv6_route(gateway)),
            None => {}
        }
        interface
    }

    /// Does what sockets have to do; true when something moved.
    fn serve(&mut self, interface: &mut Interface, now: u64) -> bool {
        let stopping = self.stopped_at.is_some();
        let mut worked = self.echo();
        for taker in &mut self.takers {
            worked |= taker.serve(&mut self.sockets, &self.pattern, now);
        }
        if let Some(sender) = &mut self.sender {
            worked |= sender.serve(&mut self.sockets, interface, &self.pattern, now, stopping);
        }
        for pinger in &mut self.pingers {
            worked |= pinger.serve(&mut self.sockets, interface, now, stopping);
        }
        worked
    }

    fn echo(&mut self) -> bool {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.echo);
        let mut bytes = [0; 2048];
        let mut worked = false;
        while socket.can_send() {
            let Ok((len, from)) = socket.recv_slice(&mut bytes) else { break };
            worked = true;
            // A full buffer is a lost datagram, as anywhere.
            let _ = socket.send_slice(&bytes[..len], from.endpoint);
        }
        worked
    }
}

impl Actor for Host {
    fn turn(&mut self, device: &mut Device, now: u64) -> Result<Turn, DriverError> {
        let kept = self.interface.take().filter(|(features, _)| *features == device.features());
        let mut frame = self.frame.take().expect("put back after each turn");
        let mut phy = Phy::new(device, &mut frame, self.mtu);
        let mut interface =
            kept.map_or_else(|| self.make_interface(&mut phy, now), |(_, interface)| interface);
        interface.poll(instant(now), &mut phy, &mut self.sockets);
        let served = self.serve(&mut interface, now);
        if served {
            // What was just written goes out with this turn, not the next.
            interface.poll(instant(now), &mut phy, &mut self.sockets);
        }
        let Phy { received, sent, is_full, fault, .. } = phy;
        let wake_at =
            interface.poll_delay(instant(now), &self.sockets).map(|d| now + d.total_micros() * 1000);
        let wake_at = self.pingers.iter().map(Pinger::wake_at).chain(wake_at).min();
        self.interface = Some((device.features(), interface));
        self.frame = Some(frame);
        if let Some(fault) = fault {
            return Err(fault);
        }
        let waits = |at: u64| {
            let acknowledged = self.sender.as_ref().is_none_or(|s| s.is_acknowledged(&self.sockets));
            let answered = self.pingers.iter().all(|p| p.waiting.is_empty());
            now < at + QUIET && !(acknowledged && answered)
        };
        Ok(Turn {
            worked: received + sent > 0 || served,
            wake_at,
            wants_room: is_full,
            done: self.stopped_at.is_some_and(|at| !waits(at)),
        })
    }

    fn stop(&mut self, now: u64) {
        self.stopped_at = Some(now);
    }

    fn report(&self, report: &mut Report) {
        report.pings = self.pingers.iter().map(Pinger::report).collect();
        report.stream_sent = self.sender.as_ref().map(|s| s.flow.report());
        let mut taken = StreamFlow::default();
        self.takers.iter().for_each(|taker| taken.add(&taker.flow));
        report.stream_received = (taken.connections > 0).then(|| taken.report());
    }
}

fn instant(now: u64) -> Instant {
    Instant::from_micros((now / 1000) as i64)
}

fn udp_buffer() -> udp::PacketBuffer<'static> {
    udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 32], vec![0; 32 * 1024])
}

fn tcp_socket(window: usize) -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; window]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket
}

/// The device as smoltcp wants it, for one turn.
struct Phy<'a> {
    device: &'a mut Device,
    frame: &'a mut Frame,
    mtu: u16,
    received: usize,
    sent: usize,
    /// Something could not be sent for want of room.
    is_full: bool,
    fault: Option<DriverError>,
}

impl<'a> Phy<'a> {
    fn new(device: &'a mut Device, frame: &'a mut Frame, mtu: u16) -> Phy<'a> {
        Phy { device, frame, mtu, received: 0, sent: 0, is_full: false, fault: None }
    }

    fn has_room(&mut self) -> bool {
        if self.fault.is_some() {
            return false;
        }
        match self.device.room(0) {
            Ok(0) => self.is_full = true,
            Ok(_) => return true,
            Err(fault) => self.fault = Some(fault),
        }
        false
    }
}

impl phy::Device for Phy<'_> {
    type RxToken<'t>
        = RxToken<'t>
    where
        Self: 't;
    type TxToken<'t>
        = TxToken<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        // Only with room for an answer; and bounded, so that a sender that never stops doesn't keep us here.
        while self.received < TURN_MAX && self.has_room() {
            match self.device.next(self.frame, FRAME_MAX) {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => {
                    self.fault = Some(fault);
                    break;
                }
            }
            self.received += 1;
            if self.frame.complete_checksum() {
                let Phy { device, frame, sent, fault, .. } = self;
                return Some((RxToken(frame.bytes()), TxToken::new(device, sent, fault)));
            }
        }
        None
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        self.has_room().then(|| TxToken::new(self.device, &mut self.sent, &mut self.fault))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let features = self.device.features();
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.mtu) + 14;
        if self.device.computes_checksums() {
            let mut checksum = ChecksumCapabilities::default();
            (checksum.tcp, checksum.udp) = (Checksum::Rx, Checksum::Rx);
            capabilities.checksum = checksum;
        }
        // Not for IPv6: smoltcp 0.14 takes what it leaves to be segmented for a packet too long (`dispatch_ip`).
        capabilities.segmentation.tcpv4 =
            NonZeroUsize::new(SEGMENTED_MAX).filter(|_| features & HOST_TSO4 != 0);
        capabilities
    }
}

struct RxToken<'a>(&'a [u8]);

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

struct TxToken<'a> {
    device: &'a mut Device,
    sent: &'a mut usize,
    fault: &'a mut Option<DriverError>,
    segment: Option<u16>,
}

impl<'a> TxToken<'a> {
    fn new(device: &'a mut Device, sent: &'a mut usize, fault: &'a mut Option<DriverError>) -> TxToken<'a> {
        TxToken { device, sent, fault, segment: None }
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        // Most frames are short; those to be segmented pay for an allocation of their size.
        let (mut short, mut long) = ([0; 2048], vec![]);
        let frame = if len <= short.len() {
            &mut short[..len]
        } else {
            long.resize(len, 0);
            &mut long[..]
        };
        let result = f(frame);
        let header = if self.device.computes_checksums() {
            request_offload(frame, self.segment)
        } else {
            Header::default()
        };
        match self.device.send(0, &header, frame) {
            Ok(_) => *self.sent += 1,
            Err(fault) => *self.fault = Some(fault),
        }
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size.map(Into::into);
    }
}

/// Bytes of streams, and when.
#[derive(Clone, Copy, Debug, Default)]
struct StreamFlow {
    connections: u64,
    bytes: u64,
    corrupt: u64,
    first_at: u64,
    last_at: u64,
}

impl StreamFlow {
    fn moved(&mut self, bytes: u64, now: u64) {
        if self.first_at == 0 {
            self.first_at = now;
        }
        self.bytes += bytes;
        self.last_at = now;
    }

    fn add(&mut self, other: &StreamFlow) {
        self.connections += other.connections;
        self.bytes += other.bytes;
        self.corrupt += other.corrupt;
        if other.first_at != 0 {
            self.first_at =
                if self.first_at == 0 { other.first_at } else { self.first_at.min(other.first_at) };
            self.last_at = self.last_at.max(other.last_at);
        }
    }

    fn report(&self) -> StreamReport {
        let span = self.last_at - self.first_at;
        StreamReport {
            connections: self.connections,
            bytes: self.bytes,
            seconds: span as f64 / SECOND as f64,
            bits_per_second: rate(self.bytes * 8, span),
            corrupt: self.corrupt,
        }
    }
}

/// What a stream consists of: each byte follows from its place, so that a misplaced one shows.
struct Pattern(Box<[u8]>);

impl Pattern {
    /// Not a power of two: a piece out of place by a buffer or a page is out of the pattern.
    const PERIOD: usize = 251;
    const LEN: usize = 16 << 10;

    fn new() -> Pattern {
        Pattern((0..Self::LEN + Self::PERIOD).map(|n| (n % Self::PERIOD) as u8).collect())
    }

    /// Some of the bytes from `position` of the stream on.
    fn at(&self, position: u64) -> &[u8] {
        &self.0[(position % Self::PERIOD as u64) as usize..]
    }

    /// How many of these bytes don't belong to `position`.
    fn misplaced(&self, mut bytes: &[u8], mut position: u64) -> u64 {
        let mut wrong = 0;
        while !bytes.is_empty() {
            let expected = self.at(position);
            let (piece, rest) = bytes.split_at(bytes.len().min(expected.len()));
            if *piece != expected[..piece.len()] {
                wrong += piece.iter().zip(expected).filter(|(a, b)| a != b).count() as u64;
            }
            position += piece.len() as u64;
            bytes = rest;
        }
        wrong
    }
}

/// Takes streams, one after the other.
struct Taker {
    handle: SocketHandle,
    position: u64,
    is_open: bool,
    flow: StreamFlow,
}

impl Taker {
    fn new(window: usize, sockets: &mut SocketSet<'static>) -> Taker {
        let handle = sockets.add(tcp_socket(window));
        Taker { handle, position: 0, is_open: false, flow: StreamFlow::default() }
    }

    fn serve(&mut self, sockets: &mut SocketSet<'_>, pattern: &Pattern, now: u64) -> bool {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        if !socket.is_open() {
            (self.position, self.is_open) = (0, false);
            socket.listen(STREAM_PORT).expect("a closed socket and a port that isn't 0");
            return false;
        }
        let mut worked = false;
        while socket.can_recv() {
            let (position, flow) = (&mut self.position, &mut self.flow);
            let taken = socket.recv(|bytes| {
                flow.corrupt += pattern.misplaced(bytes, *position);
                *position += bytes.len() as u64;
                (bytes.len(), bytes.len())
            });
            let Ok(bytes @ 1..) = taken else { break };
            if !self.is_open {
                self.is_open = true;
                self.flow.connections += 1;
            }
            self.flow.moved(bytes as u64, now);
            worked = true;
        }
        if socket.state() == tcp::State::CloseWait {
            socket.close();
        }
        worked
    }
}

/// Sends a stream without end, and begins again when it breaks.
struct Sender {
    handle: SocketHandle,
    to: IpAddr,
    local_port: u16,
    /// Bytes written in this connection, and of those acknowledged.
    written: u64,
    acknowledged: u64,
    retry_at: u64,
    flow: StreamFlow,
}

impl Sender {
    fn new(to: IpAddr, window: usize, sockets: &mut SocketSet<'static>, now: u64) -> Sender {
        let handle = sockets.add(tcp_socket(window));
        // Not the port of the last run: the receiver may still remember that one.
        let local_port = LOCAL_PORT + (now >> 20) as u16 % 16_000;
        Sender {
            handle,
            to,
            local_port,
            written: 0,
            acknowledged: 0,
            retry_at: 0,
            flow: StreamFlow::default(),
        }
    }

    fn serve(
        &mut self,
        sockets: &mut SocketSet<'_>,
        interface: &mut Interface,
        pattern: &Pattern,
        now: u64,
        stopping: bool,
    ) -> bool {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        if !socket.is_open() {
            if !stopping && now >= self.retry_at {
                self.retry_at = now + STREAM_RETRY;
                self.local_port = LOCAL_PORT + (self.local_port - LOCAL_PORT + 1) % 16_000;
                (self.written, self.acknowledged) = (0, 0);
                let remote = (IpAddress::from(self.to), STREAM_PORT);
                socket
                    .connect(interface.context(), remote, self.local_port)
                    .expect("a closed socket, proper ports");
                return true;
            }
            return false;
        }
        if !socket.may_send() {
            if socket.state() == tcp::State::CloseWait {
                socket.close();
            }
            return false;
        }
        if self.written == 0 {
            self.flow.connections += 1;
        }
        let acknowledged = self.written - socket.send_queue() as u64;
        let news = acknowledged - self.acknowledged;
        self.acknowledged = acknowledged;
        if news > 0 {
            self.flow.moved(news, now);
        }
        if stopping {
            return news > 0;
        }
        let before = self.written;
        while socket.can_send() {
            let Ok(written @ 1..) = socket.send_slice(pattern.at(self.written)) else { break };
            if self.flow.first_at == 0 {
                self.flow.moved(0, now);
            }
            self.written += written as u64;
        }
        news > 0 || self.written > before
    }

    fn is_acknowledged(&self, sockets: &SocketSet<'_>) -> bool {
        let socket = sockets.get::<tcp::Socket<'_>>(self.handle);
        !socket.may_send() || socket.send_queue() == 0
    }
}

/// Pings one address.
struct Pinger {
    handle: SocketHandle,
    target: IpAddr,
    interval: u64,
    ident: u16,
    next: u16,
    next_at: u64,
    /// Number and time of requests without an answer yet.
    waiting: VecDeque<(u16, u64)>,
    sent: u64,
    received: u64,
    lost: u64,
    rtt: Histogram,
}

impl Pinger {
    fn new(ping: Ping, ident: u16, sockets: &mut SocketSet<'static>, now: u64) -> Pinger {
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 16], vec![0; 16 * 256]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(ident)).expect("a new socket");
        Pinger {
            handle: sockets.add(socket),
            target: ping.target,
            interval: (ping.interval.as_nanos() as u64).max(MILLISECOND),
            ident,
            next: 0,
            next_at: now,
            waiting: VecDeque::new(),
            sent: 0,
            received: 0,
            lost: 0,
            rtt: Histogram::new(),
        }
    }

    fn wake_at(&self) -> u64 {
        self.next_at
    }

    fn serve(
        &mut self,
        sockets: &mut SocketSet<'_>,
        interface: &Interface,
        now: u64,
        stopping: bool,
    ) -> bool {
        let socket = sockets.get_mut::<icmp::Socket<'_>>(self.handle);
        let mut worked = false;
        while socket.can_recv() {
            let Ok((bytes, from)) = socket.recv() else { break };
            worked = true;
            if from != IpAddress::from(self.target) {
                continue;
            }
            let Some(number) = answered(bytes, self.ident) else { continue };
            if let Some(at) = self.waiting.iter().position(|&(n, _)| n == number) {
                let (_, sent_at) = self.waiting.remove(at).expect("just found");
                self.received += 1;
                self.rtt.record(now.saturating_sub(sent_at));
            }
        }
        while self.waiting.front().is_some_and(|&(_, at)| now > at + PING_TIMEOUT) {
            self.waiting.pop_front();
            self.lost += 1;
        }
        if !stopping && now >= self.next_at && socket.can_send() {
            self.next_at = (self.next_at + self.interval).max(now);
            if ask(socket, interface, self.target, self.ident, self.next) {
                self.waiting.push_back((self.next, now));
                self.next = self.next.wrapping_add(1);
                self.sent += 1;
                worked = true;
            }
        }
        worked
    }

    fn report(&self) -> PingReport {
        PingReport {
            target: self.target.to_string(),
            sent: self.sent,
            received: self.received,
            lost: self.lost,
            rtt: Latency::of(&self.rtt),
        }
    }
}

/// Sends an echo request.
fn ask(
    socket: &mut icmp::Socket<'_>,
    interface: &Interface,
    target: IpAddr,
    ident: u16,
    seq_no: u16,
) -> bool {
    let data = &[0x52; PING_BYTES];
    let checksum = ChecksumCapabilities::default();
    match target {
        IpAddr::V4(_) => {
            let echo = Icmpv4Repr::EchoRequest { ident, seq_no, data };
            let Ok(bytes) = socket.send(echo.buffer_len(), target.into()) else { return false };
            echo.emit(&mut Icmpv4Packet::new_unchecked(bytes), &checksum);
        }
        IpAddr::V6(to) => {
            let echo = Icmpv6Repr::EchoRequest { ident, seq_no, data };
            let from = interface.get_source_address_ipv6(&to);
            let Ok(bytes) = socket.send(echo.buffer_len(), target.into()) else { return false };
            echo.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(bytes), &checksum);
        }
    }
    true
}

/// The number in an echo reply to us.
fn answered(bytes: &[u8], ident: u16) -> Option<u16> {
    const REPLY_V4: u8 = 0;
    const REPLY_V6: u8 = 129;
    let &[REPLY_V4 | REPLY_V6, 0, _, _, id_high, id_low, high, low] = bytes.first_chunk::<8>()? else {
        return None;
    };
    (u16::from_be_bytes([id_high, id_low]) == ident).then_some(u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misplaced_byte_of_a_stream_shows() {
        let pattern = Pattern::new();
        let stream: Vec<u8> = (0..100_000usize).map(|n| (n % Pattern::PERIOD) as u8).collect();
        for position in [0u64, 1, 250, 251, 16_384, 65_536] {
            assert_eq!(pattern.misplaced(&stream[position as usize..], position), 0);
        }
        let mut broken = stream.clone();
        broken[77] ^= 1;
        broken[50_000] ^= 1;
        assert_eq!(pattern.misplaced(&broken, 0), 2);
        assert!(pattern.misplaced(&stream[..4096], 4096) > 4000, "shifted by a page");
    }

    #[test]
    fn only_answers_to_our_own_pings_count() {
        let reply = [0, 0, 9, 9, 0x52, 0x57, 1, 2, 3];
        assert_eq!(answered(&reply, PING_IDENT), Some(0x0102));
        assert_eq!(answered(&reply, PING_IDENT + 1), None);
        assert_eq!(answered(&reply[..7], PING_IDENT), None);
        let request = [8, 0, 9, 9, 0x52, 0x57, 1, 2];
        assert_eq!(answered(&request, PING_IDENT), None);
    }
}
