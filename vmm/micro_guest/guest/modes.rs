//! What the guest does all day: poll loops without a single exit.

use core::sync::atomic::Ordering::Relaxed;

use crate::arch;
use crate::console::print;
use crate::mailbox::{self, Mailbox};
use crate::memory::Memory;
use crate::net::Port;
use crate::options::{Mode, Options};
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
}

impl Counts {
    fn store(&self, mailbox: &Mailbox) {
        let Counts { sent, received, lost, disordered, foreign, turns, kicks } = *self;
        mailbox.sent.store(sent, Relaxed);
        mailbox.received.store(received, Relaxed);
        mailbox.lost.store(lost, Relaxed);
        mailbox.disordered.store(disordered, Relaxed);
        mailbox.foreign.store(foreign, Relaxed);
        mailbox.turns.store(turns, Relaxed);
        mailbox.kicks.store(kicks, Relaxed);
    }

    fn print(&self) {
        let Counts { sent, received, lost, disordered, foreign, turns, kicks } = self;
        print!(
            "micro-guest: sent={sent} received={received} lost={lost} disordered={disordered} foreign={foreign} \
             turns={turns} kicks={kicks}\n"
        );
    }
}

/// Runs until told to finish.
pub fn run(options: &Options, ports: &mut [Option<Port>], memory: &mut Memory, mailbox: &Mailbox) {
    let mut guest = Guest {
        counts: Counts::default(),
        buffers: [core::ptr::null_mut(); 4],
        moved_at: arch::ticks(),
        reported_at: arch::ticks(),
        options: *options,
    };
    for (home, port) in guest.buffers.iter_mut().zip(ports.iter_mut().flatten()) {
        *home = memory.take(usize::from(port.rx.size) * BUFFER).as_mut_ptr();
        for buffer in 0..u32::from(port.rx.size) {
            port.rx.ring.add(address(*home, buffer), BUFFER as u32, true, buffer);
        }
        port.rx.publish();
    }
    match options.mode {
        Mode::Reflect => guest.relay(ports, mailbox, |port, _| port),
        Mode::Forward => {
            guest.relay(ports, mailbox, |port, count| if port ^ 1 < count { port ^ 1 } else { port })
        }
        Mode::Sink => guest.sink(ports, mailbox),
        Mode::Generate => guest.generate(ports, memory, mailbox),
    }
    guest.counts.print();
}

fn address(pool: *mut u8, buffer: u32) -> u64 {
    pool.wrapping_add(buffer as usize * BUFFER) as u64
}

struct Guest {
    counts: Counts,
    /// The receive buffers of each port.
    buffers: [*mut u8; 4],
    /// When the last frame came.
    moved_at: u64,
    reported_at: u64,
    options: Options,
}

impl Guest {
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
    fn relay(&mut self, ports: &mut [Option<Port>], mailbox: &Mailbox, out: impl Fn(usize, usize) -> usize) {
        let count = ports.len();
        loop {
            let mut moved = false;
            for from in 0..count {
                let to = out(from, count);
                let pool = self.buffers[from];
                let mut burst = [(0u32, 0u32); BURST];
                let mut taken = 0;
                let Some(port) = &mut ports[from] else { continue };
                while taken < BURST {
                    let Some(frame) = port.rx.take() else { break };
                    burst[taken] = frame;
                    taken += 1;
                }
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
                // What `to` has sent is `from`'s.
                let mut done = 0;
                let mut back = [0u32; BURST];
                while done < BURST {
                    let Some((buffer, _)) = port.tx.take() else { break };
                    back[done] = buffer;
                    done += 1;
                }
                let Some(port) = &mut ports[from] else { continue };
                for &buffer in &back[..done] {
                    port.rx.ring.add(address(pool, buffer), BUFFER as u32, true, buffer);
                }
                port.rx.publish();
            }
            self.counts.kicks = kicks(ports);
            if self.turn(mailbox, moved) && self.ms_since(self.moved_at) >= QUIET_MS {
                return;
            }
        }
    }

    /// Takes frames, and looks for gaps in those that a generator numbered.
    fn sink(&mut self, ports: &mut [Option<Port>], mailbox: &Mailbox) {
        let mut next = [0u64; 4];
        loop {
            let mut moved = false;
            for (index, port) in ports.iter_mut().enumerate() {
                let Some(port) = port else { continue };
                for _ in 0..BURST {
                    let Some((buffer, len)) = port.rx.take() else { break };
                    let at = address(self.buffers[index], buffer);
                    self.counts.received += 1;
                    moved = true;
                    match number_of(at, len) {
                        Some(number) if number >= next[index] => {
                            self.counts.lost += number - next[index];
                            next[index] = number + 1;
                        }
                        Some(_) => self.counts.disordered += 1,
                        None => self.counts.foreign += 1,
                    }
                    port.rx.ring.add(at, BUFFER as u32, true, buffer);
                }
                port.rx.publish();
            }
            self.counts.kicks = kicks(ports);
            if self.turn(mailbox, moved) && self.ms_since(self.moved_at) >= QUIET_MS {
                return;
            }
        }
    }

    /// Sends numbered frames out of the first port and counts what comes back.
    fn generate(&mut self, ports: &mut [Option<Port>], memory: &mut Memory, mailbox: &Mailbox) {
        let Some(Some(port)) = ports.first_mut() else { return };
        let frame = usize::from(self.options.size);
        let pool = memory.take(usize::from(port.tx.size) * BUFFER).as_mut_ptr();
        for buffer in 0..u32::from(port.tx.size) {
            write_frame(address(pool, buffer), frame, port.mac, self.options.to);
        }
        let free = memory.table::<u32>(port.tx.size.into());
        for (buffer, place) in (0..).zip(free.iter_mut()) {
            *place = buffer;
        }
        let mut free_count = free.len();
        let window = if self.options.window == 0 { u64::MAX } else { self.options.window };
        let count = if self.options.count == 0 { u64::MAX } else { self.options.count };
        let rx_pool = self.buffers[0];
        let mut expected = 0u64;
        let mut finishing = false;
        loop {
            let mut moved = false;
            for _ in 0..BURST {
                let Some((buffer, len)) = port.rx.take() else { break };
                moved = true;
                let at = address(rx_pool, buffer);
                match number_of(at, len) {
                    Some(number) if number < self.counts.sent => {
                        self.counts.received += 1;
                        self.counts.disordered += u64::from(number < expected);
                        expected = expected.max(number + 1);
                    }
                    _ => self.counts.foreign += 1,
                }
                port.rx.ring.add(at, BUFFER as u32, true, buffer);
            }
            port.rx.publish();
            while let Some((buffer, _)) = port.tx.take() {
                free[free_count] = buffer;
                free_count += 1;
            }
            // What comes after it was given up is no longer lost.
            let returned = self.counts.received + self.counts.lost;
            if returned > self.counts.sent {
                self.counts.lost -= (returned - self.counts.sent).min(self.counts.lost);
            }
            let away = self.counts.sent.saturating_sub(self.counts.received + self.counts.lost);
            if !finishing {
                let room = window.saturating_sub(away).min(count - self.counts.sent.min(count));
                for _ in 0..room.min(BURST as u64).min(free_count as u64) {
                    free_count -= 1;
                    let buffer = free[free_count];
                    let at = address(pool, buffer);
                    set_number(at, self.counts.sent);
                    port.tx.ring.add(at, (HEADER_BYTES + frame) as u32, false, buffer);
                    self.counts.sent += 1;
                }
                port.tx.publish();
            }
            if window != u64::MAX && away > 0 && self.ms_since(self.moved_at) >= GIVE_UP_MS {
                self.counts.lost += away;
                moved = true;
            }
            self.counts.kicks = port.tx.kicks + port.rx.kicks;
            finishing = self.turn(mailbox, moved) || self.counts.sent >= count;
            if finishing && (away == 0 || self.ms_since(self.moved_at) >= QUIET_MS) {
                if window != u64::MAX {
                    self.counts.lost += away;
                }
                self.counts.store(mailbox);
                return;
            }
        }
    }
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
