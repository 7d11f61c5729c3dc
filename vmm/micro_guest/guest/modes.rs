//! What the guest does all day: poll loops without a single exit.

use core::sync::atomic::Ordering::{Acquire, Relaxed};

use crate::arch;
use crate::blk::Disk;
use crate::console::print;
use crate::mailbox::{self, Mailbox};
use crate::memory::Memory;
use crate::net::{PORTS_MAX, Port};
use crate::options::{Mode, Options};
use crate::virtio::Queue;
use crate::virtio_defs::net::HEADER_BYTES;

/// Frames taken from a queue at once.
const BURST: usize = 32;
/// Bytes of a buffer: the virtio header and a frame.
const BUFFER: usize = 2048;
/// Without a frame for so long, what is under way is lost.
const GIVE_UP_MS: u64 = 1000;
/// When told to finish, quiet for so long is the end.
const QUIET_MS: u64 = 200;

/// What was counted.
#[derive(Clone, Copy, Default)]
struct Counts {
    sent: u64,
    received: u64,
    lost: u64,
    disordered: u64,
    foreign: u64,
    turns: u64,
    kicks: u64,
    moved: u64,
}

impl Counts {
    fn store(&self, mailbox: &Mailbox) {
        let Counts { sent, received, lost, disordered, foreign, turns, kicks, moved } = *self;
        mailbox.sent.store(sent, Relaxed);
        mailbox.received.store(received, Relaxed);
        mailbox.lost.store(lost, Relaxed);
        mailbox.disordered.store(disordered, Relaxed);
        mailbox.foreign.store(foreign, Relaxed);
        mailbox.turns.store(turns, Relaxed);
        mailbox.kicks.store(kicks, Relaxed);
        mailbox.moved.store(moved, Relaxed);
    }

    fn print(&self) {
        let Counts { sent, received, lost, disordered, foreign, turns, kicks, .. } = self;
        print!(
            "micro-guest: sent={sent} received={received} lost={lost} disordered={disordered} foreign={foreign} \
             turns={turns} kicks={kicks}\n"
        );
    }
}

/// Runs until told to finish.
pub fn run(options: &Options, ports: &mut [Option<Port>], memory: &mut Memory, mailbox: &Mailbox) {
    let mut guest = Guest::new(options);
    for (home, port) in guest.buffers.iter_mut().zip(ports.iter_mut().flatten()) {
        *home = memory.take(usize::from(port.rx.size) * BUFFER).as_mut_ptr();
        for buffer in 0..u32::from(port.rx.size) {
            port.rx.ring.add(address(*home, buffer), BUFFER as u32, true, buffer);
        }
        port.rx.publish();
    }
    match options.mode {
        Mode::Reflect => guest.relay(ports, mailbox, |port, _| port),
        Mode::Forward => guest.relay(ports, mailbox, opposite),
        Mode::Sink => guest.sink(ports, mailbox),
        Mode::Generate => guest.generate(ports, memory, mailbox),
        Mode::Read => unreachable!("it has no use for ports"),
    }
    guest.counts.print();
}

/// Reads the disk block by block, from its beginning to its end and again, until told to finish. Counts requests, answers,
/// failures as losses, and blocks that don't begin with their number as foreign ones.
pub fn read(options: &Options, disk: &mut Disk, mailbox: &Mailbox) {
    let mut guest = Guest::new(options);
    let mut finishing = false;
    for request in 0..disk.depth() {
        disk.ask(request, guest.counts.sent % disk.blocks);
        guest.counts.sent += 1;
    }
    disk.queue.publish();
    loop {
        let mut moved = false;
        for _ in 0..BURST {
            let Some((request, _)) = disk.queue.take() else { break };
            moved = true;
            let (done, is_its_own) = disk.judge(request);
            guest.counts.received += 1;
            guest.counts.lost += u64::from(!done);
            guest.counts.foreign += u64::from(done && !is_its_own);
            if !finishing {
                disk.ask(request, guest.counts.sent % disk.blocks);
                guest.counts.sent += 1;
            }
        }
        disk.queue.publish();
        guest.counts.kicks = disk.queue.kicks;
        finishing = guest.turn(mailbox, moved);
        if finishing && (disk.queue.ring.outstanding() == 0 || guest.ms_since(guest.moved_at) >= GIVE_UP_MS) {
            break;
        }
    }
    guest.counts.print();
}

/// The port whose device is the other one of a pair, and whose queue pair has the same number; itself if there is none.
fn opposite(port: usize, ports: &[Option<Port>]) -> usize {
    let place = |port: &Option<Port>| port.as_ref().map(|port| port.place);
    let wanted = place(&ports[port]).map(|(device, pair)| (device ^ 1, pair));
    ports.iter().position(|other| place(other) == wanted).unwrap_or(port)
}

/// Takes a burst of buffers back: each with the bytes written, and how many.
fn take_burst(queue: &mut Queue) -> ([(u32, u32); BURST], usize) {
    let mut burst = [(0, 0); BURST];
    let mut count = 0;
    while count < BURST {
        let Some(buffer) = queue.take() else { break };
        burst[count] = buffer;
        count += 1;
    }
    (burst, count)
}

fn address(pool: *mut u8, buffer: u32) -> u64 {
    pool.wrapping_add(buffer as usize * BUFFER) as u64
}

struct Guest {
    counts: Counts,
    /// The receive buffers of each port.
    buffers: [*mut u8; PORTS_MAX],
    /// When the last frame came, or was taken.
    moved_at: u64,
    reported_at: u64,
    /// Bytes of the memory that was added last, as far as is known here.
    added_bytes: u64,
    options: Options,
}

impl Guest {
    fn new(options: &Options) -> Guest {
        Guest {
            counts: Counts::default(),
            buffers: [core::ptr::null_mut(); PORTS_MAX],
            moved_at: arch::ticks(),
            reported_at: arch::ticks(),
            added_bytes: 0,
            options: *options,
        }
    }

    fn ms_since(&self, then: u64) -> u64 {
        arch::ticks().wrapping_sub(then) / self.options.tick_khz
    }

    /// The end of a turn: counters are shown, and whether it is time to end is asked.
    fn turn(&mut self, mailbox: &Mailbox, moved: bool) -> bool {
        self.counts.turns += 1;
        self.counts.store(mailbox);
        if moved {
            self.moved_at = arch::ticks();
        } else {
            arch::relax();
        }
        if self.options.report != 0 && self.ms_since(self.reported_at) >= self.options.report * 1000 {
            self.reported_at = arch::ticks();
            self.counts.print();
        }
        mailbox.request.load(Relaxed) == mailbox::FINISH
    }

    /// Sends what each port receives out of the port that `out` names. A buffer of a port's receive ring is lent
    /// to the other port's transmit ring, and comes back when that is done with it: nothing is copied, nothing lost.
    fn relay(
        &mut self,
        ports: &mut [Option<Port>],
        mailbox: &Mailbox,
        out: impl Fn(usize, &[Option<Port>]) -> usize,
    ) {
        let mut outputs = [0; PORTS_MAX];
        for (from, to) in outputs[..ports.len()].iter_mut().enumerate() {
            *to = out(from, ports);
        }
        loop {
            let mut moved = false;
            for (from, &to) in outputs[..ports.len()].iter().enumerate() {
                let pool = self.buffers[from];
                // First all that `to` has sent: while one of `from`'s buffers waits here, a frame may find none.
                loop {
                    let Some(port) = &mut ports[to] else { break };
                    let (back, done) = take_burst(&mut port.tx);
                    let Some(port) = &mut ports[from] else { break };
                    for &(buffer, _) in &back[..done] {
                        port.rx.ring.add(address(pool, buffer), BUFFER as u32, true, buffer);
                    }
                    if done < BURST {
                        port.rx.publish();
                        break;
                    }
                }
                let Some(port) = &mut ports[from] else { continue };
                let (burst, taken) = take_burst(&mut port.rx);
                self.counts.received += taken as u64;
                moved |= taken > 0;
                let Some(port) = &mut ports[to] else { continue };
                for &(buffer, len) in &burst[..taken] {
                    let at = address(pool, buffer);
                    if from == to {
                        swap_addresses(at);
                    }
                    // The transmit ring has room for every buffer that a port has, if both rings have one size.
                    self.counts.sent += u64::from(port.tx.ring.add(at, len, false, buffer));
                }
                port.tx.publish();
            }
            self.counts.kicks = kicks(ports);
            if self.turn(mailbox, moved) && self.ms_since(self.moved_at) >= QUIET_MS {
                return;
            }
        }
    }

    /// Takes frames, and looks for gaps in those that a generator numbered. Queue pairs of one device share its numbers.
    fn sink(&mut self, ports: &mut [Option<Port>], mailbox: &Mailbox) {
        let mut expected = [0u64; PORTS_MAX];
        let mut of_device = [Numbers::default(); PORTS_MAX];
        loop {
            let mut moved = false;
            for (index, port) in ports.iter_mut().enumerate() {
                let Some(port) = port else { continue };
                let numbers = &mut of_device[port.place.0];
                for _ in 0..BURST {
                    let Some((buffer, len)) = port.rx.take() else { break };
                    let at = address(self.buffers[index], buffer);
                    self.counts.received += 1;
                    moved = true;
                    match number_of(at, len) {
                        Some(number) => {
                            self.counts.disordered += u64::from(number < expected[index]);
                            expected[index] = expected[index].max(number + 1);
                            numbers.count += 1;
                            numbers.next = numbers.next.max(number + 1);
                        }
                        None => self.counts.foreign += 1,
                    }
                    port.rx.ring.add(at, BUFFER as u32, true, buffer);
                }
                port.rx.publish();
            }
            self.counts.lost = of_device.iter().map(Numbers::missing).sum();
            self.counts.kicks = kicks(ports);
            if self.turn(mailbox, moved) && self.ms_since(self.moved_at) >= QUIET_MS {
                return;
            }
        }
    }

    /// Sends numbered frames out of the first device, from each of its queue pairs in turn, and counts what comes back.
    fn generate(&mut self, ports: &mut [Option<Port>], memory: &mut Memory, mailbox: &Mailbox) {
        let pairs = ports.iter().flatten().filter(|port| port.place.0 == 0).count();
        let ports = &mut ports[..pairs];
        let mut senders = [const { None }; PORTS_MAX];
        for (sender, port) in senders.iter_mut().zip(ports.iter().flatten()) {
            *sender = Some(Sender::new(port, &self.options, memory));
        }
        let window = if self.options.window == 0 { u64::MAX } else { self.options.window };
        let count = if self.options.count == 0 { u64::MAX } else { self.options.count };
        let mut finishing = false;
        loop {
            let mut moved = false;
            for (index, (port, sender)) in
                ports.iter_mut().flatten().zip(senders.iter_mut().flatten()).enumerate()
            {
                moved |= self.take_back(port, sender, self.buffers[index]);
                if !finishing {
                    let room = window.saturating_sub(self.away()).min(count - self.counts.sent.min(count));
                    self.send(port, sender, room);
                }
            }
            if window != u64::MAX && self.away() > 0 && self.ms_since(self.moved_at) >= GIVE_UP_MS {
                self.counts.lost += self.away();
                moved = true;
            }
            self.use_added_memory(ports, &mut senders, mailbox);
            self.counts.kicks = kicks(ports);
            finishing = self.turn(mailbox, moved) || self.counts.sent >= count;
            let quiet = self.ms_since(self.moved_at) >= QUIET_MS;
            if finishing && (self.away() == 0 || quiet) {
                if window != u64::MAX {
                    self.counts.lost += self.away();
                }
                self.counts.store(mailbox);
                return;
            }
        }
    }

    /// Frames on their way.
    fn away(&self) -> u64 {
        self.counts.sent.saturating_sub(self.counts.received + self.counts.lost)
    }

    /// Takes what has come back, and the buffers that were sent. Whether there was any.
    fn take_back(&mut self, port: &mut Port, sender: &mut Sender, pool: *mut u8) -> bool {
        let mut moved = false;
        for _ in 0..BURST {
            let Some((buffer, len)) = port.rx.take() else { break };
            moved = true;
            let at = address(pool, buffer);
            match number_of(at, len) {
                Some(number) if number < self.counts.sent => {
                    self.counts.received += 1;
                    self.counts.disordered += u64::from(number < sender.expected);
                    sender.expected = sender.expected.max(number + 1);
                }
                _ => self.counts.foreign += 1,
            }
            port.rx.ring.add(at, BUFFER as u32, true, buffer);
        }
        port.rx.publish();
        while let Some((buffer, _)) = port.tx.take() {
            sender.free[sender.free_count] = buffer;
            sender.free_count += 1;
            moved = true;
        }
        // What comes after it was given up is no longer lost.
        let returned = self.counts.received + self.counts.lost;
        if returned > self.counts.sent {
            self.counts.lost -= (returned - self.counts.sent).min(self.counts.lost);
        }
        moved
    }

    /// Sends a burst, of `room` frames at most.
    fn send(&mut self, port: &mut Port, sender: &mut Sender, room: u64) {
        let frame = usize::from(self.options.size);
        for _ in 0..room.min(BURST as u64).min(sender.free_count as u64) {
            sender.free_count -= 1;
            let buffer = sender.free[sender.free_count];
            let at = address(sender.pool, buffer);
            set_number(at, self.counts.sent);
            port.tx.ring.add(at, (HEADER_BYTES + frame) as u32, false, buffer);
            self.counts.sent += 1;
        }
        port.tx.publish();
    }

    /// Sends from memory that was added to the machine, once there is some: whoever works on the rings must know it.
    fn use_added_memory(
        &mut self,
        ports: &[Option<Port>],
        senders: &mut [Option<Sender>; PORTS_MAX],
        mailbox: &Mailbox,
    ) {
        let bytes = mailbox.added_bytes.load(Acquire);
        if bytes == self.added_bytes {
            return;
        }
        self.added_bytes = bytes;
        let Some(mut memory) = Memory::added(mailbox.added.load(Relaxed), bytes) else { return };
        for (port, sender) in ports.iter().flatten().zip(senders.iter_mut().flatten()) {
            let pool_bytes = usize::from(port.tx.size) * BUFFER;
            if memory.free() < pool_bytes {
                return;
            }
            sender.pool = frames(port, &self.options, &mut memory);
            self.counts.moved += pool_bytes as u64;
        }
    }
}

/// Numbers of the frames that came to a device.
#[derive(Clone, Copy, Default)]
struct Numbers {
    count: u64,
    /// One more than the highest.
    next: u64,
}

impl Numbers {
    fn missing(&self) -> u64 {
        self.next.saturating_sub(self.count)
    }
}

/// What a queue pair sends from.
struct Sender {
    pool: *mut u8,
    /// Buffers that aren't under way, as a stack.
    free: &'static mut [u32],
    free_count: usize,
    /// The lowest number that may come next.
    expected: u64,
}

impl Sender {
    fn new(port: &Port, options: &Options, memory: &mut Memory) -> Sender {
        let free = memory.table::<u32>(port.tx.size.into());
        for (buffer, place) in (0..).zip(free.iter_mut()) {
            *place = buffer;
        }
        let free_count = free.len();
        Sender { pool: frames(port, options, memory), free, free_count, expected: 0 }
    }
}

/// Buffers for a transmit ring, each with a frame that lacks only its number.
fn frames(port: &Port, options: &Options, memory: &mut Memory) -> *mut u8 {
    let pool = memory.take(usize::from(port.tx.size) * BUFFER).as_mut_ptr();
    for buffer in 0..u32::from(port.tx.size) {
        write_frame(address(pool, buffer), options.size.into(), port.mac, options.to);
    }
    pool
}

fn kicks(ports: &[Option<Port>]) -> u64 {
    ports.iter().flatten().map(|port| port.rx.kicks + port.tx.kicks).sum()
}

/// Sends a frame back to where it came from.
fn swap_addresses(buffer: u64) {
    let at = (buffer as usize + HEADER_BYTES) as *mut [u8; 6];
    // SAFETY: a whole buffer of ours, which the device has given back.
    unsafe { core::ptr::swap(at, at.add(1)) };
}

/// EtherType of numbered frames: for local experiments (IEEE 802, section 9.2.2).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// Where a frame's number stands, from the frame's start.
const NUMBER: usize = 16;

fn write_frame(buffer: u64, len: usize, from: [u8; 6], to: [u8; 6]) {
    // SAFETY: a whole buffer of ours; frames are shorter than a buffer.
    let bytes = unsafe { core::slice::from_raw_parts_mut(buffer as *mut u8, HEADER_BYTES + len) };
    bytes.fill(0);
    let frame = &mut bytes[HEADER_BYTES..];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame[12..14].copy_from_slice(&ETHERTYPE);
}

fn set_number(buffer: u64, number: u64) {
    // SAFETY: a whole buffer of ours; frames have 60 bytes at least.
    unsafe { ((buffer as usize + HEADER_BYTES + NUMBER) as *mut u64).write_unaligned(number.to_be()) };
}

fn number_of(buffer: u64, len: u32) -> Option<u64> {
    if (len as usize) < HEADER_BYTES + NUMBER + 8 {
        return None;
    }
    let frame = buffer as usize + HEADER_BYTES;
    // SAFETY: a whole buffer of ours, which the device has given back.
    let (kind, number) = unsafe {
        (((frame + 12) as *const [u8; 2]).read(), ((frame + NUMBER) as *const u64).read_unaligned())
    };
    (kind == ETHERTYPE).then_some(u64::from_be(number))
}
