//! What becomes of a system call that isn't allowed.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};

use syscalls::Sysno;

use crate::SandboxError;

/// Refused calls that are reported; further ones are refused in silence.
const REPORTED_MAX: u32 = 32;

static REPORTED: AtomicU32 = AtomicU32::new(0);

/// Has refused system calls fail with `EPERM` and their names written to standard error. Without, they end the
/// process.
///
/// # Errors
/// The signal can't be handled.
pub fn report_violations() -> Result<(), SandboxError> {
    let action = libc::sigaction {
        sa_sigaction: refused as *const () as usize,
        sa_mask: empty_set(),
        sa_flags: libc::SA_SIGINFO | libc::SA_NODEFER,
        sa_restorer: None,
    };
    // SAFETY: the handler is of the kind that SA_SIGINFO announces, makes no calls but `write`, and the action lives
    // across the call.
    let result = unsafe { libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()) };
    match result {
        0 => Ok(()),
        _ => Err(SandboxError::System { what: "handling SIGSYS", cause: std::io::Error::last_os_error() }),
    }
}

fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: it writes to the set it is given, which all zeros are a value of.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// What the kernel tells of a refused call: `_sigsys` of `siginfo_t` (include/uapi/asm-generic/siginfo.h), behind
/// three numbers and padding on 64-bit machines.
#[repr(C)]
struct Refused {
    header: [libc::c_int; 4],
    call_address: *const libc::c_void,
    number: libc::c_int,
    arch: libc::c_uint,
}

extern "C" fn refused(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a siginfo_t of this shape to handlers of SIGSYS, 128 bytes long.
    let number = unsafe { (*info.cast::<Refused>()).number };
    if REPORTED.fetch_add(1, Ordering::Relaxed) < REPORTED_MAX {
        let mut line = Line::default();
        line.add(b"sandbox: a thread was refused the system call ");
        match Sysno::new(number as usize) {
            Some(call) => line.add(call.name().as_bytes()),
            None => line.add(b"of unknown name"),
        }
        line.add(b" (number ");
        line.add_number(number.unsigned_abs());
        line.add(b"); it fails with EPERM\n");
        // SAFETY: `write` may be called in a handler, and the bytes are there. Nobody is left to be told of a failure.
        unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len) };
    }
    set_result(context.cast(), -i64::from(libc::EPERM));
}

/// What the interrupted thread gets as the result of its call.
fn set_result(context: *mut libc::ucontext_t, result: i64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel hands a ucontext_t to handlers with SA_SIGINFO, ours to change until we return.
    unsafe {
        (*context).uc_mcontext.gregs[libc::REG_RAX as usize] = result;
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        (*context).uc_mcontext.regs[0] = result as u64;
    }
}

/// A line put together without memory of its own.
struct Line {
    bytes: [u8; 160],
    len: usize,
}

impl Default for Line {
    fn default() -> Line {
        Line { bytes: [0; 160], len: 0 }
    }
}

impl Line {
    fn add(&mut self, text: &[u8]) {
        for (to, &byte) in self.bytes[self.len..].iter_mut().zip(text) {
            *to = byte;
            self.len += 1;
        }
    }

    fn add_number(&mut self, number: u32) {
        let mut divisor = 1_000_000_000;
        while divisor > 1 && number < divisor {
            divisor /= 10;
        }
        while divisor > 0 {
            self.add(&[b'0' + (number / divisor % 10) as u8]);
            divisor /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_decimal_and_a_line_has_an_end() {
        for number in [0, 7, 10, 4_294_967_295] {
            let mut line = Line::default();
            line.add_number(number);
            assert_eq!(&line.bytes[..line.len], number.to_string().as_bytes());
        }
        let mut line = Line::default();
        (0..100).for_each(|_| line.add(b"abc"));
        assert_eq!(line.len, line.bytes.len());
    }
}
