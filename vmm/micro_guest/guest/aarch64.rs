//! 64-bit Arm: from the entry of an Image to unprivileged code, and what little that needs from the machine.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::options::Options;

// The start (Linux, Documentation/arch/arm64/booting.rst): at EL1, without address translation and caches, the device
// tree's address in x0. Until both are on nothing is written: what the monitor has put into the tables is in its
// caches, and the hypervisor sees to it that this is what is read.
//
// Descriptors (Arm ARM, D8.3): 0x401 block or 0x403 page with the access flag, 0x300 inner shareable, 0x40 for the
// unprivileged too, 0x80 read-only; attribute 0 is device memory, 4 (attribute 1) is ordinary memory. 1 << 54 and
// 1 << 53: not executable for the unprivileged and the privileged.
global_asm!(
    r#"
    .section .text.start, "ax"
    .globl _start
_start:
    b 1f
    .long 0
    // Offset from the load address, bytes of memory taken, flags: little endian, pages of 4 KiB.
    .quad 0, __image_bytes, 0x2
    .quad 0, 0, 0
    .ascii "ARMd"
    .long 0
1:
    // Attribute 0: device memory without gathering and reordering (nGnRE); 1: write-back.
    movz x1, #0xff04
    msr mair_el1, x1
    // 39 bits of addresses in pages of 4 KiB, tables cached and inner shareable; no upper half; 40 physical bits.
    ldr x1, =0x200803519
    msr tcr_el1, x1
    adrp x1, table_1
    msr ttbr0_el1, x1
    adr x1, vectors
    msr vbar_el1, x1
    // Floating point, which compiled code uses, and the counter for the unprivileged.
    mov x1, #0x300000
    msr cpacr_el1, x1
    mov x1, #2
    msr cntkctl_el1, x1
    dsb ish
    tlbi vmalle1
    ic iallu
    dsb ish
    isb
    mrs x1, sctlr_el1
    mov x2, #0x1005
    orr x1, x1, x2
    msr sctlr_el1, x1
    isb
    // To EL0, with all interrupts masked.
    adrp x1, stack_top
    msr sp_el0, x1
    mov x1, #0x3c0
    msr spsr_el1, x1
    adr x1, {entered}
    msr elr_el1, x1
    eret

    // Exceptions: what went wrong and where, back to unprivileged code that says so.
    .balign 2048
vectors:
    .rept 16
    .balign 128
    mrs x0, esr_el1
    mrs x1, elr_el1
    mrs x2, far_el1
    adrp x3, stack_top
    msr sp_el0, x3
    mov x3, #0x3c0
    msr spsr_el1, x3
    adr x3, {trapped}
    msr elr_el1, x3
    eret
    .endr

    .section .data
    .balign 4096
    // By GiB: devices, the first of memory in detail, memory.
table_1:
    .quad 0x0060000000000441, table_2 + 3
    .set at, 0x80000000
    .rept 510
    .quad at + 0x0060000000000745
    .set at, at + 0x40000000
    .endr
    // The second GiB by 2 MiB: the second of these is the image's.
table_2:
    .set at, 0x40000000
    .rept 512
    .if at == 0x40200000
    .quad table_3 + 3
    .else
    .quad at + 0x0060000000000745
    .endif
    .set at, at + 0x200000
    .endr
    // The image's first 2 MiB by page: 64 KiB are code and constants.
table_3:
    .set at, 0x40200000
    .rept 512
    .if at < 0x40210000
    .quad at + 0x7c7
    .else
    .quad at + 0x0060000000000747
    .endif
    .set at, at + 0x1000
    .endr

    .section .bss
    .balign 4096
    .fill 65536, 1, 0
stack_top:
    .fill 4096, 1, 0
    .text
"#,
    entered = sym entered,
    trapped = sym trapped,
);

/// First function at EL0.
extern "C" fn entered(device_tree: *const u8) -> ! {
    crate::main(boot_arguments(device_tree))
}

/// The command line in a device tree (Devicetree Specification 0.4, chapter 5): the property `bootargs`, whose name
/// nothing else has.
fn boot_arguments(tree: *const u8) -> &'static [u8] {
    const NODE: u32 = 1;
    const PROPERTY: u32 = 3;
    const NO_OPERATION: u32 = 4;
    // SAFETY: the monitor puts a whole tree there; offsets in it stay inside, words are aligned.
    let word = |at: u32| u32::from_be(unsafe { tree.add(at as usize).cast::<u32>().read() });
    // SAFETY: as above.
    let byte = |at: u32| unsafe { tree.add(at as usize).read() };
    let (mut at, names) = (word(8), word(12));
    loop {
        let kind = word(at);
        at += 4;
        match kind {
            NODE => {
                while byte(at) != 0 {
                    at += 1;
                }
                at = (at + 1).next_multiple_of(4);
            }
            PROPERTY => {
                let (bytes, name) = (word(at), names + word(at + 4));
                let value = at + 8;
                if b"bootargs\0".iter().zip(name..).all(|(&wanted, at)| byte(at) == wanted) {
                    // SAFETY: the value lies in the tree, which nobody changes; its last byte is a zero.
                    return unsafe {
                        core::slice::from_raw_parts(
                            tree.add(value as usize),
                            bytes.saturating_sub(1) as usize,
                        )
                    };
                }
                at = (value + bytes).next_multiple_of(4);
            }
            // The end of a node, or nothing.
            2 | NO_OPERATION => {}
            _ => return &[],
        }
    }
}

extern "C" fn trapped(syndrome: u64, at: u64, address: u64) -> ! {
    panic!("exception at {at:#x}, syndrome {syndrome:#x}, address {address:#x}");
}

static SERIAL: AtomicU64 = AtomicU64::new(0);
static EXIT: AtomicU64 = AtomicU64::new(0);

/// Remembers where the serial port and the exit register are.
pub fn init(options: &Options) {
    SERIAL.store(options.serial, Relaxed);
    EXIT.store(options.exit, Relaxed);
}

/// Writes a byte to the serial port.
pub fn put_byte(byte: u8) {
    let serial = SERIAL.load(Relaxed);
    if serial != 0 {
        // SAFETY: the register of which the monitor says that it is there.
        unsafe { write(serial as *mut u8, byte) };
    }
}

/// Ends the machine.
pub fn exit(code: u8) -> ! {
    // SAFETY: the register of which the monitor says that it is there.
    unsafe { write(EXIT.load(Relaxed) as *mut u8, code) };
    loop {
        relax();
    }
}

/// Reads a device's register.
///
/// By one instruction of one register without update of its address: no other can be completed by a monitor (Arm ARM,
/// D24.2.40, "ISS encoding for an exception from a Data Abort", ISV).
///
/// # Safety
/// It is one, of 1, 2 or 4 bytes.
pub unsafe fn read<T: Copy>(from: *const T) -> T {
    let value: u32;
    // SAFETY: the caller's promise. The barrier orders what follows behind the read.
    unsafe {
        match size_of::<T>() {
            1 => asm!("ldrb {:w}, [{}]", "dmb oshld", out(reg) value, in(reg) from, options(nostack)),
            2 => asm!("ldrh {:w}, [{}]", "dmb oshld", out(reg) value, in(reg) from, options(nostack)),
            4 => asm!("ldr {:w}, [{}]", "dmb oshld", out(reg) value, in(reg) from, options(nostack)),
            _ => unreachable!(),
        }
        (&raw const value).cast::<T>().read()
    }
}

/// Writes a device's register; see [`read`].
///
/// # Safety
/// It is one, of 1, 2 or 4 bytes.
pub unsafe fn write<T: Copy>(to: *mut T, value: T) {
    let mut word = 0u32;
    // SAFETY: the caller's promise. The barrier orders what was written to memory before it.
    unsafe {
        (&raw mut word).cast::<T>().write(value);
        match size_of::<T>() {
            1 => asm!("dmb oshst", "strb {:w}, [{}]", in(reg) word, in(reg) to, options(nostack)),
            2 => asm!("dmb oshst", "strh {:w}, [{}]", in(reg) word, in(reg) to, options(nostack)),
            4 => asm!("dmb oshst", "str {:w}, [{}]", in(reg) word, in(reg) to, options(nostack)),
            _ => unreachable!(),
        }
    }
}

/// The cycle counter.
pub fn ticks() -> u64 {
    let ticks;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
    ticks
}

/// Lets the other thread of the core run.
pub fn relax() {
    core::hint::spin_loop();
}

/// The image is linked without a C library; compiled code calls these.
mod mem {
    use core::arch::asm;

    /// Copies; the ranges don't overlap.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "cbz {len}, 3f",
                "2: ldrb {byte:w}, [{from}], #1",
                "strb {byte:w}, [{to}], #1",
                "subs {len}, {len}, #1",
                "b.ne 2b",
                "3:",
                len = inout(reg) len => _, from = inout(reg) from => _, to = inout(reg) to => _, byte = out(reg) _,
                options(nostack)
            );
        }
        to
    }

    /// Copies; the ranges may overlap.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= len {
            // SAFETY: copied upwards, nothing is overwritten before it was read.
            return unsafe { memcpy(to, from, len) };
        }
        // SAFETY: the caller's promise; copied downwards.
        unsafe {
            asm!(
                "2: subs {len}, {len}, #1",
                "ldrb {byte:w}, [{from}, {len}]",
                "strb {byte:w}, [{to}, {len}]",
                "b.ne 2b",
                len = inout(reg) len => _, from = in(reg) from, to = in(reg) to, byte = out(reg) _,
                options(nostack)
            );
        }
        to
    }

    /// Fills.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "cbz {len}, 3f",
                "2: strb {byte:w}, [{to}], #1",
                "subs {len}, {len}, #1",
                "b.ne 2b",
                "3:",
                len = inout(reg) len => _, to = inout(reg) to => _, byte = in(reg) byte,
                options(nostack)
            );
        }
        to
    }

    /// Compares.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
        for at in 0..len {
            // SAFETY: the caller's promise.
            let (a, b) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
            if a != b {
                return i32::from(a) - i32::from(b);
            }
        }
        0
    }
}
