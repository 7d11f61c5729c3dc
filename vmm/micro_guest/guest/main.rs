//! The micro-guest: what runs inside the virtual machine. No operating system, no interrupts, no standard library.
//!
//! [`arch`] starts in the privileged mode, leaves it for good within some dozens of instructions and calls [`main`].
//! From there on everything, the search for devices too, is unprivileged code at native speed; all memory and all
//! device registers are mapped at their physical addresses.
#![no_std]
#![no_main]
#![allow(dead_code, reason = "the shared files have more than this side needs")]

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;
mod blk;
mod console;
mod mailbox;
mod memory;
mod modes;
mod net;
mod options;
mod pci;
mod ring;
mod virtio;
#[path = "../../../drivers/virtio_defs/src/lib.rs"]
mod virtio_defs;

use core::panic::PanicInfo;

use console::print;
use mailbox::Mailbox;
use memory::Memory;
use options::{Mode, Options};

/// Exit codes the monitor reports.
const EXIT_DONE: u8 = 0;
const EXIT_PANIC: u8 = 101;
const EXIT_NO_DEVICE: u8 = 102;

/// Runs the guest. `line` is its command line.
fn main(line: &[u8]) -> ! {
    let options = Options::parse(line);
    arch::init(&options);
    print!("micro-guest: {:?}\n", options.mode);
    // SAFETY: the monitor reserves this page and says where it is.
    let mailbox = unsafe { &*(options.mailbox as *const Mailbox) };
    mailbox.magic.store(mailbox::MAGIC, core::sync::atomic::Ordering::Release);
    let mut memory = Memory::behind_image(options.memory);
    if options.mode == Mode::Read {
        match blk::find(&options, &mut memory) {
            Ok(mut disk) => modes::read(&options, &mut disk, mailbox),
            Err(why) => {
                print!("micro-guest: no disk: {why}\n");
                arch::exit(EXIT_NO_DEVICE);
            }
        }
        arch::exit(EXIT_DONE);
    }
    let mut ports = net::find_all(&options, &mut memory);
    if ports.as_slice().is_empty() {
        print!("micro-guest: no network device\n");
        arch::exit(EXIT_NO_DEVICE);
    }
    if let Some(Some(port)) = ports.as_slice().first()
        && options.exits > 0
    {
        measure_exits(&options, &port.rx);
    }
    modes::run(&options, ports.as_mut_slice(), &mut memory, mailbox);
    arch::exit(EXIT_DONE)
}

/// Says what it takes to read a register that the monitor answers for, and to ring a doorbell that the kernel does.
fn measure_exits(options: &Options, queue: &virtio::Queue) {
    let each = |exit: &dyn Fn()| {
        let start = arch::ticks();
        (0..options.exits).for_each(|_| exit());
        arch::ticks().wrapping_sub(start) * 1_000_000 / options.tick_khz / options.exits
    };
    let register = each(&|| {
        pci::read_bridge(options.ecam);
    });
    let doorbell = each(&|| queue.ring_doorbell());
    print!("micro-guest: exits: register {register} ns, doorbell {doorbell} ns\n");
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    print!("micro-guest: {info}\n");
    arch::exit(EXIT_PANIC)
}
