//! x86-64: from the 64-bit entry point to unprivileged code, and what little that needs from the machine.

use core::arch::{asm, global_asm};
use core::ptr::addr_of_mut;

use crate::options::Options;

// The start. Some hypervisors interpret privileged code, so there is as little of it as possible: tables are in the
// image, and what can be filled in later is. Selectors: 0x08 privileged code, 0x10 its data, 0x1b data, 0x23 code of
// the unprivileged, 0x28 task segment.
global_asm!(
    r#"
    .section .text.start, "ax"
    .globl _start
_start:
    cli
    mov esp, offset kernel_stack_top
    mov rdi, rsi
    // SSE, which compiled code uses: no emulation, monitor; FXSAVE and SSE exceptions (Intel SDM, volume 3, 14.1).
    mov rax, cr0
    and eax, 0xfffffff3
    or eax, 0x22
    mov cr0, rax
    mov rax, cr4
    or eax, 0x600
    mov cr4, rax
    mov eax, offset page_map
    mov cr3, rax
    mov eax, offset task
    mov word ptr [gdt + 0x2a], ax
    shr eax, 16
    mov byte ptr [gdt + 0x2c], al
    mov byte ptr [gdt + 0x2f], ah
    lgdt [gdt_pointer]
    lidt [idt_pointer]
    mov eax, 0x28
    ltr ax
    // To ring 3, without interrupts.
    push 0x1b
    mov eax, offset stack_top
    sub eax, 8
    push rax
    push 2
    push 0x23
    mov eax, offset entered
    push rax
    iretq

    // Traps: what went wrong and where, back to unprivileged code that says so.
    .macro trap vector
trap_\vector:
    mov esi, \vector
    jmp trapped_at
    .endm
    .altmacro
    .macro traps from
    .set number, \from
    .rept 32
    trap %number
    .set number, number + 1
    .endr
    .endm
    traps 0
    .noaltmacro
trapped_at:
    mov rdi, rsp
    push 0x1b
    mov eax, offset stack_top
    sub eax, 8
    push rax
    push 2
    push 0x23
    mov eax, offset trapped
    push rax
    iretq

    .section .rodata
    .balign 8
    .globl trap_table
trap_table:
    .altmacro
    .macro entries from
    .set number, \from
    .rept 32
    entry %number
    .set number, number + 1
    .endr
    .endm
    .macro entry vector
    .quad trap_\vector
    .endm
    entries 0
    .noaltmacro
gdt_pointer:
    .word 0x37
    .quad gdt
idt_pointer:
    .word 0x1ff
    .quad {idt}

    .section .data
    .balign 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff
    .quad 0x0000890000002068, 0
task:
    .long 0
    .quad kernel_stack_top
    .fill 90, 1, 0
    .word 104
    // All ports are everybody's: the bitmap, and the byte of ones that ends it. (The privilege level for ports in the
    // flags would do, but a software KVM's `iretq` doesn't load it.)
    .fill 8192, 1, 0
    .byte 0xff

    // The first 8 GiB at their own addresses, in pages of 2 MiB, for everybody.
    .balign 4096
page_map:
    .quad page_pointers + 7
    .fill 511, 8, 0
page_pointers:
    .quad page_directories + 7, page_directories + 0x1007, page_directories + 0x2007, page_directories + 0x3007
    .quad page_directories + 0x4007, page_directories + 0x5007, page_directories + 0x6007, page_directories + 0x7007
    .fill 504, 8, 0
page_directories:
    .set page, 0
    .rept 4096
    .quad page + 0xe7
    .set page, page + 0x200000
    .endr

    .section .bss
    .balign 16
    .fill 4096, 1, 0
kernel_stack_top:
    .fill 65536, 1, 0
stack_top:
    .text
"#,
    idt = sym IDT,
);

#[repr(C, align(16))]
struct Idt([[u64; 2]; 32]);

static mut IDT: Idt = Idt([[0; 2]; 32]);

unsafe extern "C" {
    static trap_table: [u64; 32];
}

const CODE_PRIVILEGED: u64 = 0x08;
/// Present, for privileged callers (exceptions come all the same), interrupt gate (Intel SDM, volume 3, 6.14.1).
const GATE: u64 = 0x8e00;

/// First function in ring 3.
#[unsafe(no_mangle)]
extern "C" fn entered(boot_parameters: *const u8) -> ! {
    // SAFETY: nobody else is there yet, and a trap before this is the end anyway.
    unsafe {
        for (gate, &handler) in (*addr_of_mut!(IDT)).0.iter_mut().zip(&*(&raw const trap_table)) {
            let low = handler & 0xffff | CODE_PRIVILEGED << 16 | GATE << 32 | (handler >> 16 & 0xffff) << 48;
            *gate = [low, handler >> 32];
        }
    }
    // Linux, Documentation/arch/x86/boot.rst: `cmd_line_ptr` at 0x228.
    // SAFETY: the monitor passes boot parameters and a command line that ends with a zero byte.
    let line = unsafe {
        let start = boot_parameters.add(0x228).cast::<u32>().read_unaligned() as usize as *const u8;
        let mut len = 0;
        while len < 2048 && start.add(len).read() != 0 {
            len += 1;
        }
        core::slice::from_raw_parts(start, len)
    };
    crate::main(line)
}

#[unsafe(no_mangle)]
extern "C" fn trapped(frame: *const u64, vector: u64) -> ! {
    // Some vectors push an error code in front of the instruction pointer; both are shown.
    // SAFETY: the privileged stack with what the processor pushed.
    let (first, second) = unsafe { (frame.read(), frame.add(1).read()) };
    panic!("trap {vector} at {first:#x}, {second:#x}");
}

const PORT_SERIAL: u16 = 0x3f8;
/// The monitor ends the machine with the code written here.
const PORT_EXIT: u16 = 0xf4;

/// Serial port and exit register are at fixed ports.
pub fn init(_: &Options) {}

/// Reads a device's register.
///
/// # Safety
/// It is one.
pub unsafe fn read<T: Copy>(from: *const T) -> T {
    // SAFETY: the caller's promise.
    unsafe { from.read_volatile() }
}

/// Writes a device's register.
///
/// # Safety
/// It is one.
pub unsafe fn write<T: Copy>(to: *mut T, value: T) {
    // SAFETY: the caller's promise.
    unsafe { to.write_volatile(value) };
}

/// Writes a byte to the serial port.
pub fn put_byte(byte: u8) {
    out(PORT_SERIAL, byte);
}

fn out(port: u16, byte: u8) {
    // SAFETY: a device's port; no memory is touched.
    unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack)) };
}

/// Ends the machine.
pub fn exit(code: u8) -> ! {
    out(PORT_EXIT, code);
    loop {
        relax();
    }
}

/// The cycle counter.
pub fn ticks() -> u64 {
    // SAFETY: reads a register.
    unsafe { core::arch::x86_64::_rdtsc() }
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
            asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack))
        };
        to
    }

    /// Copies; the ranges may overlap.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= len {
            // SAFETY: copied upwards, nothing is overwritten before it was read.
            return unsafe { memcpy(to, from, len) };
        }
        // SAFETY: the caller's promise; copied downwards, with the direction flag set back.
        unsafe {
            asm!("std", "rep movsb", "cld", inout("rcx") len => _,
                 inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
                 inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _, options(nostack));
        }
        to
    }

    /// Fills.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe {
            asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8, options(nostack))
        };
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
