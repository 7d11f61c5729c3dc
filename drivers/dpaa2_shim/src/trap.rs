//! Faults on read-only windows, carried out as stores to the model.

use crate::decode::{self, INSTRUCTION_MAX, Registers};
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// What handled the signal before.
static mut PREVIOUS: MaybeUninit<libc::sigaction> = MaybeUninit::uninit();

/// Takes over the signal of memory faults. Called once, before the program runs.
pub fn install() {
    // SAFETY: a zeroed action is a valid one; only this thread exists yet, so nobody else uses `PREVIOUS`.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        // On the thread's own stack: alternative ones are too small for what the model does.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigaction(libc::SIGSEGV, &action, (&raw mut PREVIOUS).cast());
    }
}

struct Frame<'a>(&'a libc::ucontext_t);

impl Registers for Frame<'_> {
    fn general(&self, number: u8) -> u64 {
        const ORDER: [c_int; 16] = [
            libc::REG_RAX,
            libc::REG_RCX,
            libc::REG_RDX,
            libc::REG_RBX,
            libc::REG_RSP,
            libc::REG_RBP,
            libc::REG_RSI,
            libc::REG_RDI,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_R10,
            libc::REG_R11,
            libc::REG_R12,
            libc::REG_R13,
            libc::REG_R14,
            libc::REG_R15,
        ];
        self.0.uc_mcontext.gregs[ORDER[usize::from(number & 15)] as usize] as u64
    }

    fn vector(&self, number: u8) -> [u8; 32] {
        /// Where the upper halves begin in the extended state, in its standard form (component 2).
        const UPPER_HALVES: usize = 576;
        let number = usize::from(number & 15);
        let state = self.0.uc_mcontext.fpregs;
        let mut bytes = [0; 32];
        // SAFETY: the kernel put the floating-point state there; the upper halves exist if the store that faulted used
        // them, since only then are they looked at.
        unsafe {
            ptr::copy_nonoverlapping((&raw const (*state)._xmm[number]).cast(), bytes.as_mut_ptr(), 16);
            if std::arch::is_x86_feature_detected!("avx") {
                let upper = state.cast::<u8>().add(UPPER_HALVES + 16 * number);
                ptr::copy_nonoverlapping(upper, bytes[16..].as_mut_ptr(), 16);
            }
        }
        bytes
    }
}

extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes valid pointers to a handler with SA_SIGINFO.
    let (address, frame) = unsafe { ((*info).si_addr() as usize, &mut *context.cast::<libc::ucontext_t>()) };
    let Some(shim) = crate::shim() else { return pass_on(signal, info, context) };
    let Some((object, region, offset)) = shim.vfio.window_at(address) else {
        return pass_on(signal, info, context);
    };
    let at = frame.uc_mcontext.gregs[libc::REG_RIP as usize] as usize;
    // SAFETY: the program was executing there; an instruction next to unmapped memory ends before it, and the pages of code
    // are followed by others in every object file.
    let code = unsafe { std::slice::from_raw_parts(ptr::with_exposed_provenance(at), INSTRUCTION_MAX) };
    let Some(store) = decode::decode(code, &Frame(frame)) else {
        crate::stop(&format!(
            "store to {object} at {offset:#x} by an instruction that isn't known: {code:02x?}"
        ));
    };
    let done = catch_unwind(AssertUnwindSafe(|| shim.backend.store(object, region, offset, store.bytes())));
    if done.is_err() {
        crate::stop(&format!("the model failed at a store to {object}, region {region}, offset {offset:#x}"));
    }
    frame.uc_mcontext.gregs[libc::REG_RIP as usize] = (at + store.instruction_len) as i64;
}

/// Not one of ours: what would have happened without this library.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: written once, by `install`, before any fault could be handled.
    let previous = unsafe { PREVIOUS.assume_init() };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: gives the signal its default; the instruction faults again when the handler returns.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: the handler was installed with this signature.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: the handler was installed with this signature.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}
